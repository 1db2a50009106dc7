//! What is PostgreSQL's own: refusals, commits without an answer, what passes and what does not.

use std::sync::atomic::{AtomicU32, Ordering};

use metrics_exporter_prometheus::PrometheusBuilder;
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::ErrorCode;
use sotto_common::ids::ReplicaId;
use sotto_common::random::os_rng;
use sotto_common::testing::kill::killed_after;
use sotto_common::time::Timestamp;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, query};
use std::time::Duration;

use super::engine::Mark;
use super::*;
use crate::datastore::suite::postgres_database;
use crate::datastore::{Datastore, Signal};

async fn open(options: &PgConnectOptions) -> Postgres {
    Postgres::open(options.clone()).await.expect("opened")
}

fn mark(n: u8) -> Mark {
    Mark {
        id: [n; 16],
        replica: None,
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_what_to_do() {
    let Some(url) = postgres_database() else {
        return;
    };
    let options: PgConnectOptions = url.parse().expect("a URL");
    let store = open(&options).await;
    // The same program again finds its own schema.
    open(&options).await.close().await;
    store.close().await;
    let mut connection = options.connect().await.expect("connected");
    query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'of the future', true, '', 0)",
    )
    .execute(&mut connection)
    .await
    .expect("inserted");
    let error = Postgres::open(options).await.expect_err("refused");
    let text = error.source.expect("a text").to_string();
    assert!(
        text.contains("9999") && text.contains("newer program"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_start_at_once_on_an_empty_database_all_open_it() {
    let Some(url) = postgres_database() else {
        return;
    };
    let options: PgConnectOptions = url.parse().expect("a URL");
    let opening = (0..6).map(|_| tokio::spawn(Postgres::open(options.clone())));
    for opened in futures::future::join_all(opening).await {
        let store = opened.expect("no panic").expect("opened");
        store.close().await;
    }
}

#[tokio::test]
async fn a_commit_without_an_answer_is_asked_after() {
    let Some(url) = postgres_database() else {
        return;
    };
    let store = open(&url.parse().expect("a URL")).await;
    let mut other = PgConnection::connect(&url).await.expect("connected");

    let took_place = mark(1);
    took_place.put(&mut other).await.expect("put");
    assert!(store.was_committed(&took_place).await.expect("told"));

    let never_arrived = mark(2);
    assert!(!store.was_committed(&never_arrived).await.expect("told"));
    // And it never will: its own commit would now be refused.
    never_arrived.put(&mut other).await.expect_err("refused");

    for commits in [true, false] {
        let under_way = mark(3 + u8::from(commits));
        let mut tx = other.begin().await.expect("begun");
        under_way.put(&mut tx).await.expect("put");
        let asked = store.was_committed(&under_way);
        let ending = async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            if commits {
                tx.commit().await.expect("committed");
            } else {
                tx.rollback().await.expect("rolled back");
            }
        };
        let (told, ()) = tokio::join!(asked, ending);
        assert_eq!(told.expect("told"), commits);
    }
    store.close().await;
}

#[tokio::test]
async fn a_session_that_the_server_ends_is_unavailable_and_the_next_one_works() {
    let Some(url) = postgres_database() else {
        return;
    };
    let store = open(&url.parse().expect("a URL")).await;
    let ended: Result<()> = store
        .run_tx("ended", None, |connection| {
            async move {
                query("SELECT pg_terminate_backend(pg_backend_pid())")
                    .execute(connection)
                    .await
                    .map_err(db_error)?;
                Ok(())
            }
            .scope_boxed()
        })
        .await;
    let error = ended.expect_err("ended");
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(error.retry_after.is_some());
    let next = store
        .run_tx("next", None, |_| async move { Ok(7) }.scope_boxed())
        .await;
    assert_eq!(next.expect("committed"), 7);
    store.close().await;
}

#[tokio::test]
async fn what_only_reads_cannot_write() {
    let Some(url) = postgres_database() else {
        return;
    };
    let store = open(&url.parse().expect("a URL")).await;
    let refused: Result<()> = store
        .read_tx("writes", |connection| {
            async move { mark(9).put(connection).await }.scope_boxed()
        })
        .await;
    refused.expect_err("refused");
    store.close().await;
}

#[tokio::test]
async fn a_transaction_that_met_another_is_counted_once_and_its_retry_beside_it() {
    let Some(url) = postgres_database() else {
        return;
    };
    let recorder = PrometheusBuilder::new().build_recorder();
    let recording = metrics::set_default_local_recorder(&recorder);
    let store = open(&url.parse().expect("a URL")).await;
    let runs = &AtomicU32::new(0);
    let put = store.run_tx("put_mark", None, |connection| {
        async move {
            mark(9).put(connection).await?;
            if runs.fetch_add(1, Ordering::Relaxed) == 0 {
                // Twice the same: as if another had come between.
                mark(9).put(connection).await?;
            }
            Ok(())
        }
        .scope_boxed()
    });
    put.await.expect("committed");
    let refused = store.read_tx("get_mark", |_| {
        async { Err::<(), _>(Error::new(ErrorCode::HitUnknown, "no")) }.scope_boxed()
    });
    refused.await.expect_err("refused");
    store.close().await;
    drop(recording);
    let text = recorder.handle().render();
    for line in [
        r#"sotto_ledger_transactions_total{tx="put_mark",engine="postgres",outcome="committed"} 1"#,
        r#"sotto_ledger_transactions_total{tx="get_mark",engine="postgres",outcome="refused"} 1"#,
        r#"sotto_ledger_retries_total{tx="put_mark",engine="postgres"} 1"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\nnot in\n{text}");
    }
}

#[test]
fn what_says_nothing_about_the_statement_passes() {
    for code in [
        "08006", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "57P03", "58030",
    ] {
        assert!(passes(code), "{code}");
    }
    for code in ["23505", "42601", "28P01", "3D000", "22021", "XX000", ""] {
        assert!(!passes(code), "{code}");
    }
}

/// A broker's ledger, and another connection to the same database.
async fn joined() -> Option<(Datastore, ReplicaId, PgConnection)> {
    let url = postgres_database()?;
    let options = url.parse().expect("a URL");
    let store = Datastore::open_server(options, ColumnCipher::off()).await;
    let store = store.expect("opened");
    let id = ReplicaId::generate(Timestamp::from_seconds(1), &mut os_rng());
    let put = store.run_tx_as(Some(id), "join", |tx| {
        async move { tx.put_replica(id, 0, Duration::from_mins(1)).await }.scope_boxed()
    });
    put.await.expect("joined");
    store.commit_as(id);
    let other = PgConnection::connect(&url).await.expect("connected");
    Some((store, id, other))
}

async fn put_community(store: &Datastore, name: &str) -> Result<bool> {
    let name: &sotto_common::ids::CommunityId = &name.parse().expect("a community");
    let now = Timestamp::from_seconds(1);
    store
        .run_tx("put", |tx| {
            async move { tx.put_community(name, b"profile", now).await }.scope_boxed()
        })
        .await
}

#[tokio::test]
async fn a_removed_broker_commits_nothing_until_it_has_joined_again() {
    let Some((store, id, mut other)) = joined().await else {
        return;
    };
    assert!(put_community(&store, "before").await.expect("committed"));
    let remove = "DELETE FROM replicas";
    query(remove).execute(&mut other).await.expect("removed");
    let error = put_community(&store, "after").await.expect_err("removed");
    assert_eq!(error.code, ErrorCode::Unavailable);
    // Not even as the same one again: that would bring its old filters back with it.
    let rejoined = ReplicaId::generate(Timestamp::from_seconds(2), &mut os_rng());
    assert_ne!(rejoined, id);
    let put = store.run_tx_as(Some(rejoined), "join", |tx| {
        async move { tx.put_replica(rejoined, 0, Duration::from_mins(1)).await }.scope_boxed()
    });
    put.await.expect("joined");
    put_community(&store, "after").await.expect_err("not yet");
    store.commit_as(rejoined);
    assert!(put_community(&store, "after").await.expect("committed"));
    store.close().await;
}

#[tokio::test]
async fn a_broker_is_removed_only_once_what_it_is_about_to_commit_has_ended() {
    let Some((store, id, mut other)) = joined().await else {
        return;
    };
    // A broker that was stopped between the last statement of a transaction and its COMMIT.
    let mut frozen = other.begin().await.expect("begun");
    let about = Mark {
        id: [1; 16],
        replica: Some(id),
    };
    about.put(&mut frozen).await.expect("put");
    let remove = store.run_tx_as(None, "remove", |tx| {
        async move { tx.delete_replica(id).await }.scope_boxed()
    });
    let mut remove = std::pin::pin!(remove);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut remove).await;
    early.expect_err("it waits");
    frozen.commit().await.expect("committed");
    remove.await.expect("removed");
    store.close().await;
}

#[tokio::test]
async fn a_transaction_begun_before_the_removal_does_not_survive_it() {
    let Some((store, id, mut other)) = joined().await else {
        return;
    };
    let begin = "BEGIN ISOLATION LEVEL SERIALIZABLE";
    query(begin).execute(&mut other).await.expect("begun");
    // Its snapshot is taken: it still sees the broker.
    let seen = query("SELECT 1 FROM replicas").fetch_all(&mut other).await;
    assert_eq!(seen.expect("read").len(), 1);
    let remove = store.run_tx_as(None, "remove", |tx| {
        async move { tx.delete_replica(id).await }.scope_boxed()
    });
    remove.await.expect("removed");
    let late = Mark {
        id: [2; 16],
        replica: Some(id),
    };
    late.put(&mut other).await.expect_err("refused");
    store.close().await;
}

#[tokio::test]
async fn what_one_broker_announces_wakes_those_who_wait_at_another() {
    let Some(url) = postgres_database() else {
        return;
    };
    let open = async || {
        let options = url.parse().expect("a URL");
        let store = Datastore::open_server(options, ColumnCipher::off()).await;
        store.expect("opened")
    };
    let (one, other) = (open().await, open().await);
    let mut waiting = other.wakeups().listen(Signal::Hits);
    // What comes of looking all the same does not count: 20 in a row cannot.
    for _ in 0..20 {
        waiting.mark_unchanged();
        one.wakeups().announce(Signal::Hits);
        let woken = tokio::time::timeout(Duration::from_mins(2), waiting.changed()).await;
        woken.expect("in time").expect("open");
    }
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn what_nobody_told_is_looked_for_all_the_same() {
    let Some((store, _, _)) = joined().await else {
        return;
    };
    let looked_for = Signal::ALL.map(|signal| {
        let mut waiting = store.wakeups().listen(signal);
        async move {
            for _ in 0..2 {
                waiting.mark_unchanged();
                let woken = tokio::time::timeout(Duration::from_mins(2), waiting.changed()).await;
                woken.expect("in time").expect("open");
            }
        }
    });
    futures::future::join_all(looked_for).await;
    store.close().await;
}

#[tokio::test]
async fn a_transaction_that_is_dropped_wherever_it_waits_leaves_nothing_to_the_next() {
    let Some(url) = postgres_database() else {
        return;
    };
    let store = open(&url.parse().expect("a URL")).await;
    for waits in 0..40 {
        let read = store.read_tx("dropped", |_| async { Ok(()) }.scope_boxed());
        killed_after(waits % 8, read).await;
        // On every connection that lies idle.
        let written =
            (0..8).map(|_| store.run_tx("next", None, |_| async { Ok(()) }.scope_boxed()));
        for written in futures::future::join_all(written).await {
            written.unwrap_or_else(|error| panic!("after {waits}: {error} {:?}", error.source));
        }
    }
    store.close().await;
}
