//! Wake-ups between brokers by LISTEN and NOTIFY; by looking often where an engine has neither.
//!
//! NOTIFY is sent after the commit that it tells of, and outside of it: inside, PostgreSQL would
//! make all commits that notify take turns.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use sqlx::query;

use super::engine::sqlstate;
use crate::datastore::{Signal, Wakeups};

/// How often to look where nobody tells.
const POLL: Duration = Duration::from_millis(250);
/// How often to look all the same: who told may have been killed between commit and NOTIFY.
const LOOK_ALL_THE_SAME: Duration = Duration::from_secs(2);

const fn channel(signal: Signal) -> &'static str {
    match signal {
        Signal::Hits => "sotto_hits",
        Signal::Filters => "sotto_filters",
        Signal::FollowUps => "sotto_follow_ups",
        Signal::Checkpoints => "sotto_checkpoints",
    }
}

/// Starts the tasks that connect these wake-ups with those of other brokers; they end with the pool.
pub(super) fn connect(pool: &PgPool, wakeups: &Wakeups) {
    for signal in Signal::ALL {
        spawn(pool, tell(pool.clone(), wakeups.clone(), signal));
    }
    spawn(pool, hear_others(pool.clone(), wakeups.clone()));
    spawn(pool, look(wakeups.clone(), LOOK_ALL_THE_SAME));
}

fn spawn(pool: &PgPool, work: impl Future<Output = ()> + Send + 'static) {
    let mut closed = pool.close_event();
    tokio::spawn(async move {
        let _ = closed.do_until(work).await;
    });
}

async fn tell(pool: PgPool, wakeups: Wakeups, signal: Signal) {
    loop {
        wakeups.announced(signal).await;
        let told = query("SELECT pg_notify($1, '')").bind(channel(signal));
        if let Err(error) = told.execute(&pool).await {
            tracing::debug!(%error, "other brokers were not told; they look by themselves");
        }
    }
}

async fn hear_others(pool: PgPool, wakeups: Wakeups) {
    loop {
        match listen(&pool, &wakeups).await {
            Err(error) if sqlstate(&error).is_some_and(|code| is_missing(&code)) => {
                tracing::info!("this database has no LISTEN: looking every 250 ms");
                look(wakeups.clone(), POLL).await;
            }
            Err(error) => tracing::debug!(%error, "not listening to other brokers; again"),
            Ok(()) => {}
        }
        hear_all(&wakeups);
        tokio::time::sleep(POLL).await;
    }
}

/// 0A000 feature not supported, 42601 syntax error.
fn is_missing(code: &str) -> bool {
    ["0A000", "42601"].contains(&code)
}

async fn listen(pool: &PgPool, wakeups: &Wakeups) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen_all(Signal::ALL.map(channel)).await?;
    // Whatever was told before now was not heard.
    hear_all(wakeups);
    while let Some(notification) = listener.try_recv().await? {
        for signal in Signal::ALL {
            if notification.channel() == channel(signal) {
                wakeups.hear(signal);
            }
        }
    }
    Ok(())
}

async fn look(wakeups: Wakeups, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        hear_all(&wakeups);
    }
}

fn hear_all(wakeups: &Wakeups) {
    for signal in Signal::ALL {
        wakeups.hear(signal);
    }
}
