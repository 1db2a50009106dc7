//! Metrics, as text of Prometheus: `sotto_<component>_<noun>_<unit>`.
//!
//! Labels come from closed sets in the code alone. What anybody sends, selectors, tags, names and
//! ids of any kind, is never one.

use std::io;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use ::metrics::{
    counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    set_global_recorder,
};
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::ConfigError;
use crate::error::{ErrorCode, Result};

const TRANSACTIONS: &str = "sotto_ledger_transactions_total";
const RETRIES: &str = "sotto_ledger_retries_total";
const SECONDS: &str = "sotto_ledger_transaction_seconds";
const AWAITED: &str = "sotto_broker_awaited_filters";

/// Upper bounds of the histogram's buckets, in seconds.
const BUCKETS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// How often observations are sorted into buckets; until then each takes memory of its own.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The section `metrics`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Where `GET /metrics` answers; port 0 takes a free one. Without it nothing is counted.
    ///
    /// It speaks plain HTTP and asks nobody who they are: it belongs on the loopback interface or
    /// on a network for management.
    pub listen: Option<SocketAddr>,
}

/// Answers `GET /metrics` until `stop` is tripped, if that is configured; tells where.
///
/// All metrics are the process's: whoever serves them, the text is the same.
///
/// # Errors
/// [`ConfigError`] if the address cannot be had, or another library counts in this process.
pub async fn serve(
    config: &MetricsConfig,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Option<SocketAddr>, ConfigError> {
    let Some(listen) = config.listen else {
        return Ok(None);
    };
    let unusable = |error: io::Error| ConfigError::Setting(format!("metrics.listen: {error}"));
    let handle = installed()?;
    let listener = TcpListener::bind(listen).await.map_err(unusable)?;
    let address = listener.local_addr().map_err(unusable)?;
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = keep_up(handle) => {}
            ended = axum::serve(listener, page(handle)) => {
                if let Err(error) = ended {
                    tracing::error!(%error, "metrics can no longer be read");
                }
            }
        }
    });
    tracing::info!(%address, "metrics can be read");
    Ok(Some(address))
}

/// What was counted since the first service of this process that is configured to.
fn installed() -> Result<&'static PrometheusHandle, ConfigError> {
    static RECORDED: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    RECORDED
        .get_or_init(|| {
            let recorder = recorder().ok()?;
            let handle = recorder.handle();
            set_global_recorder(recorder).ok()?;
            describe();
            Some(handle)
        })
        .as_ref()
        .ok_or_else(|| ConfigError::Setting("metrics.listen: something else counts here".into()))
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    Ok(PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(SECONDS.into()), &BUCKETS)?
        .build_recorder())
}

fn describe() {
    describe_counter!(TRANSACTIONS, "Transactions of the ledger or the store.");
    describe_counter!(RETRIES, "Times that a transaction was run again.");
    describe_histogram!(SECONDS, "Time of a transaction, with its retries.");
    describe_gauge!(AWAITED, "Active filters that cannot be tested yet.");
}

/// Says how many active filters the broker cannot test yet.
pub fn filters_awaited(count: usize) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    gauge!(AWAITED).set(f64::from(count));
}

async fn keep_up(handle: &'static PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP_EVERY).await;
        handle.run_upkeep();
    }
}

fn page(handle: &'static PrometheusHandle) -> Router {
    let text = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Router::new().route("/metrics", get(async move || (text, handle.render())))
}

/// What keeps the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// A file of SQLite.
    Sqlite,
    /// A server of PostgreSQL.
    Postgres,
}

impl Engine {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// One transaction being metered; one that is dropped before its end is not counted.
#[derive(Debug)]
pub struct Transaction {
    name: &'static str,
    engine: Engine,
    began: Instant,
}

impl Transaction {
    /// Begins the time of a transaction, waiting for its turn included.
    #[must_use]
    pub fn begin(name: &'static str, engine: Engine) -> Self {
        let began = Instant::now();
        Self {
            name,
            engine,
            began,
        }
    }

    /// Counts that it is run again.
    pub fn retry(&self) {
        counter!(RETRIES, "tx" => self.name, "engine" => self.engine.as_str()).increment(1);
    }

    /// Counts how it ended, and hands that back.
    ///
    /// # Errors
    /// What it was given.
    pub fn end<T>(self, outcome: Result<T>) -> Result<T> {
        let Self {
            name,
            engine,
            began,
        } = self;
        let engine = engine.as_str();
        let label = match outcome.as_ref().map_err(|error| error.code) {
            Ok(_) => "committed",
            Err(ErrorCode::Unavailable) => "unavailable",
            Err(ErrorCode::Internal) => "failed",
            Err(_) => "refused",
        };
        counter!(TRANSACTIONS, "tx" => name, "engine" => engine, "outcome" => label).increment(1);
        histogram!(SECONDS, "tx" => name, "engine" => engine).record(began.elapsed());
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use scoped_futures::ScopedFutureExt as _;
    use sqlx::Connection as _;
    use sqlx::migrate::Migrator;
    use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::error::Error;
    use crate::service::sqlite::{Sqlite, db_error};

    /// Runs work with a recorder of its own; tells what was recorded.
    fn recorded(work: impl Future<Output = ()>) -> String {
        let recorder = recorder().expect("buckets");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        ::metrics::with_local_recorder(&recorder, || runtime.block_on(work));
        recorder.handle().render()
    }

    fn assert_line(text: &str, line: &str) {
        assert!(text.lines().any(|l| l == line), "{line}\nnot in\n{text}");
    }

    #[test]
    fn transactions_are_counted_by_name_and_outcome() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = recorded(async {
            let path = dir.path().join("t.db");
            let db = Sqlite::open(&path, &Migrator::DEFAULT).await.expect("open");
            db.run_tx("put_thing", |_| async { Ok(()) }.scope_boxed())
                .await
                .expect("committed");
            db.read_tx("get_thing", |_| async { Ok(()) }.scope_boxed())
                .await
                .expect("read");
            for code in [
                ErrorCode::HitUnknown,
                ErrorCode::Unavailable,
                ErrorCode::Internal,
            ] {
                db.run_tx("put_thing", move |_| {
                    async move { Err::<(), _>(Error::new(code, "no")) }.scope_boxed()
                })
                .await
                .expect_err("given back");
            }
            db.close().await;
        });
        let total = |tx: &str, outcome: &str| {
            format!(
                "sotto_ledger_transactions_total{{tx=\"{tx}\",engine=\"sqlite\",outcome=\"{outcome}\"}} 1"
            )
        };
        for outcome in ["committed", "refused", "unavailable", "failed"] {
            assert_line(&text, &total("put_thing", outcome));
        }
        assert_line(&text, &total("get_thing", "committed"));
        let seconds = "sotto_ledger_transaction_seconds_bucket{tx=\"put_thing\",engine=\"sqlite\"";
        assert_line(&text, &format!("{seconds},le=\"+Inf\"}} 4"));
        assert!(
            text.contains(&format!("{seconds},le=\"0.001\"}}")),
            "{text}"
        );
        assert!(text.contains(&format!("{seconds},le=\"10\"}}")), "{text}");
        assert!(!text.contains(RETRIES), "{text}");
    }

    #[test]
    fn a_transaction_that_met_another_is_counted_once_and_its_retry_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = &dir.path().join("t.db");
        let text = recorded(async {
            let db = Sqlite::open(path, &Migrator::DEFAULT).await.expect("open");
            let runs = &AtomicU32::new(0);
            db.run_tx("put_thing", |_| {
                async move {
                    if runs.fetch_add(1, Ordering::Relaxed) > 0 {
                        return Ok(());
                    }
                    // Busy for real: this transaction holds the file.
                    let options = SqliteConnectOptions::new()
                        .filename(path)
                        .busy_timeout(Duration::ZERO);
                    let mut other = SqliteConnection::connect_with(&options)
                        .await
                        .expect("connected");
                    let busy = other.begin_with("BEGIN IMMEDIATE").await;
                    busy.map(drop).map_err(db_error)
                }
                .scope_boxed()
            })
            .await
            .expect("committed");
            db.close().await;
        });
        let labels = "tx=\"put_thing\",engine=\"sqlite\"";
        assert_line(&text, &format!("{RETRIES}{{{labels}}} 1"));
        assert_line(
            &text,
            &format!("{TRANSACTIONS}{{{labels},outcome=\"committed\"}} 1"),
        );
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn every_service_of_a_process_shows_its_metrics_until_it_is_stopped() {
        let config = MetricsConfig {
            listen: Some("127.0.0.1:0".parse().expect("an address")),
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut addresses = Vec::new();
        for _ in 0..2 {
            let address = serve(&config, &tasks, &stop).await.expect("served");
            addresses.push(address.expect("an address"));
        }
        Transaction::begin("shown", Engine::Postgres)
            .end(Ok(()))
            .expect("given back");
        for address in &addresses {
            let text = get(*address, "/metrics").await;
            assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
            assert!(text.contains("text/plain; version=0.0.4"), "{text}");
            assert!(text.contains("# TYPE sotto_ledger_transactions_total counter"));
            assert!(text.contains("{tx=\"shown\",engine=\"postgres\",outcome=\"committed\"} 1"));
            let text = get(*address, "/").await;
            assert!(text.starts_with("HTTP/1.1 404"), "{text}");
        }
        let taken = MetricsConfig {
            listen: Some(addresses[0]),
        };
        let refused = serve(&taken, &tasks, &stop).await.expect_err("taken");
        assert!(refused.to_string().starts_with("metrics.listen:"));
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        TcpStream::connect(addresses[0]).await.expect_err("closed");
    }

    #[tokio::test]
    async fn nothing_is_served_unless_it_is_configured() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let served = serve(&MetricsConfig::default(), &tasks, &stop).await;
        assert!(served.expect("nothing to do").is_none() && tasks.is_empty());
    }
}
