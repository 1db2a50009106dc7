//! Connections, transactions and what becomes of them when the server goes away.
//!
//! Writers are SERIALIZABLE and run again on a conflict. A transaction whose COMMIT is not answered
//! may have been committed or not: the mark that it wrote tells, so that an error of
//! [`Postgres::run_tx`] always means that nothing was stored.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng as _;
use scoped_futures::ScopedBoxFuture;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::ReplicaId;
use sotto_common::random::{bytes, os_rng};
use sotto_common::service::metrics::{Engine, Transaction};
use sotto_common::service::schema;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::query;
use tokio::sync::RwLock;

use super::{db_error, wakeups};
use crate::datastore::Wakeups;

/// One of them listens to the other brokers.
const CONNECTIONS: u32 = 17;
/// How long a caller waits for a connection: a server that restarts is waited for.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a transaction is tried before the caller is told to try later.
const ATTEMPTS: u32 = 10;
/// How often it is tried beside others; after that it runs alone.
const ATTEMPTS_BESIDE_OTHERS: u32 = 4;
/// How long the outcome of a commit is asked for.
const PATIENCE: Duration = Duration::from_mins(1);
/// Marks are of use for `PATIENCE` only; they are cleared away after every so many commits.
const COMMITS_PER_CLEARING: u64 = 1024;

/// A PostgreSQL database: durable at commit, serialisable.
#[derive(Clone, Debug)]
pub(crate) struct Postgres {
    pool: PgPool,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// First attempts hold it shared, the last ones alone: so each transaction gets through.
    turns: RwLock<()>,
    commits: AtomicU64,
    wakeups: Wakeups,
}

impl Postgres {
    /// Connects and brings the schema up to date.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses, or the schema is of a newer version.
    pub(crate) async fn open(options: PgConnectOptions) -> Result<Self> {
        // Bounds for what the broker cannot bound itself: a statement, a connection left behind.
        let options = options.application_name("sotto-broker").options([
            ("statement_timeout", "30s"),
            ("idle_in_transaction_session_timeout", "20s"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .min_connections(1)
            .acquire_slow_threshold(ACQUIRE_TIMEOUT)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await
            .map_err(|error| {
                Error::internal(format!("the ledger's database cannot be used: {error}"))
            })?;
        update_schema(&pool).await?;
        let store = Self {
            pool,
            shared: Arc::default(),
        };
        wakeups::connect(&store.pool, &store.shared.wakeups);
        store.clear_marks().await;
        Ok(store)
    }

    /// Runs `work` in one write transaction of a broker: all of it or nothing. It may run more than
    /// once.
    ///
    /// # Errors
    /// What `work` returns (nothing is stored then), or `UNAVAILABLE` when the server is away or
    /// the transaction keeps meeting others.
    pub(crate) async fn run_tx<'env, T, F>(
        &self,
        name: &'static str,
        replica: Option<ReplicaId>,
        work: F,
    ) -> Result<T>
    where
        T: Send + 'env,
        F: for<'t> Fn(&'t mut PgConnection) -> ScopedBoxFuture<'env, 't, Result<T>> + Send + Sync,
    {
        let metered = Transaction::begin(name, Engine::Postgres);
        let mut attempt = 1;
        loop {
            let outcome = if attempt <= ATTEMPTS_BESIDE_OTHERS {
                let _turn = self.shared.turns.read().await;
                self.try_tx(replica, &work).await
            } else {
                let _turn = self.shared.turns.write().await;
                self.try_tx(replica, &work).await
            };
            match outcome {
                Err(error) if attempt < ATTEMPTS && is_conflict(&error) => {
                    tracing::debug!(tx = name, attempt, "met another transaction, again");
                    metered.retry();
                    tokio::time::sleep(pause(attempt)).await;
                    attempt += 1;
                }
                outcome => {
                    let outcome = metered.end(outcome);
                    match &outcome {
                        Ok(_) => self.count_commit().await,
                        Err(error) => {
                            tracing::debug!(tx = name, attempt, code = %error.code, "rolled back");
                        }
                    }
                    return outcome;
                }
            }
        }
    }

    async fn try_tx<'env, T, F>(&self, replica: Option<ReplicaId>, work: &F) -> Result<T>
    where
        T: Send + 'env,
        F: for<'t> Fn(&'t mut PgConnection) -> ScopedBoxFuture<'env, 't, Result<T>> + Send + Sync,
    {
        let mut tx = self.begin("BEGIN ISOLATION LEVEL SERIALIZABLE").await?;
        let value = work(&mut tx).await?;
        let mark = Mark::new(replica);
        mark.put(&mut tx).await?;
        match tx.commit().await {
            Ok(()) => Ok(value),
            Err(error) if is_rolled_back(&error) => Err(db_error(error)),
            Err(error) if self.was_committed(&mark).await? => {
                tracing::info!(%error, "a commit was not answered, and had taken place");
                Ok(value)
            }
            Err(error) => Err(Error::unavailable(error)),
        }
    }

    /// Runs `work`, which only reads, on one consistent state of the database.
    ///
    /// # Errors
    /// What `work` returns, or `UNAVAILABLE`.
    pub(crate) async fn read_tx<'env, T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        T: Send + 'env,
        F: for<'t> Fn(&'t mut PgConnection) -> ScopedBoxFuture<'env, 't, Result<T>> + Send + Sync,
    {
        let metered = Transaction::begin(name, Engine::Postgres);
        let mut attempt = 1;
        let outcome = loop {
            match self.try_read(&work).await {
                // Of distributed engines: their clocks leave open which came first.
                Err(error) if attempt < ATTEMPTS && is_conflict(&error) => {
                    metered.retry();
                    tokio::time::sleep(pause(attempt)).await;
                    attempt += 1;
                }
                outcome => break outcome,
            }
        };
        if let Err(error) = &outcome {
            tracing::debug!(tx = name, code = %error.code, "reading refused");
        }
        metered.end(outcome)
    }

    async fn try_read<'env, T, F>(&self, work: &F) -> Result<T>
    where
        T: Send + 'env,
        F: for<'t> Fn(&'t mut PgConnection) -> ScopedBoxFuture<'env, 't, Result<T>> + Send + Sync,
    {
        // One snapshot, which on PostgreSQL itself no writer can make fail.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let mut tx = self.begin(begin).await?;
        let value = work(&mut tx).await?;
        tx.commit().await.map_err(db_error)?;
        Ok(value)
    }

    /// Begins a transaction; it is begun to the end, also when its caller is dropped meanwhile. SQLx
    /// would put a connection whose BEGIN nobody has waited for back as one without a transaction,
    /// and the next caller would find itself in the one that was dropped.
    async fn begin(
        &self,
        statement: &'static str,
    ) -> Result<sqlx::Transaction<'static, sqlx::Postgres>> {
        let pool = self.pool.clone();
        let begun = tokio::spawn(async move { pool.begin_with(statement).await });
        begun.await.map_err(Error::internal)?.map_err(db_error)
    }

    /// The wake-ups of this process and of the others on this ledger.
    pub(crate) fn wakeups(&self) -> Wakeups {
        self.shared.wakeups.clone()
    }

    /// Closes all connections.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    /// Whether the transaction with this mark took place; waits until the server can tell.
    pub(super) async fn was_committed(&self, mark: &Mark) -> Result<bool> {
        let asked = async {
            loop {
                match mark.claim(&self.pool).await {
                    Ok(claimed) => return Ok(!claimed),
                    // The marks of a broker that was removed are gone, and tell nothing.
                    Err(error) if is_removed(&error) => return Err(removed()),
                    Err(error) => {
                        tracing::warn!(%error, "a commit was not answered; asking after it");
                        tokio::time::sleep(Duration::from_millis(250)).await;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .map_err(|late| {
                tracing::error!("it cannot be learnt whether a transaction was committed");
                Error::unavailable(late)
            })?
    }

    async fn count_commit(&self) {
        let before = self.shared.commits.fetch_add(1, Ordering::Relaxed);
        if before % COMMITS_PER_CLEARING == COMMITS_PER_CLEARING - 1 {
            self.clear_marks().await;
        }
    }

    /// Forgets the marks that nobody asks after any more.
    async fn clear_marks(&self) {
        let done = query("DELETE FROM commit_marks WHERE made_at < now() - INTERVAL '10 minutes'")
            .execute(&self.pool)
            .await;
        if let Err(error) = done {
            tracing::warn!(%error, "old marks stay for the next time");
        }
    }
}

/// Brings the schema up to date. Of brokers that start at once all but one fail, as that one's
/// tables come up beside theirs; they find them when they look again.
async fn update_schema(pool: &PgPool) -> Result<()> {
    let mut attempt = 1;
    loop {
        match schema::update(pool, &migrations()).await {
            Err(error) if error.code == ErrorCode::Unavailable && attempt < ATTEMPTS => {
                tracing::info!(attempt, "the schema was not brought up to date; again");
                tokio::time::sleep(pause(attempt)).await;
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

/// The schema, migrations that only add.
fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("./migrations/postgres");
    // Advisory locks are PostgreSQL's alone.
    migrations.set_locking(false);
    migrations
}

/// What a transaction leaves behind, so that another connection can tell whether it took place.
///
/// It refers to the broker that made it. So the database itself sees to it that a broker which the
/// others have removed commits nothing, however late its packets are (ledger: `replicas`).
#[derive(Clone, Copy)]
pub(super) struct Mark {
    pub(super) id: [u8; 16],
    pub(super) replica: Option<ReplicaId>,
}

impl Mark {
    fn new(replica: Option<ReplicaId>) -> Self {
        let id = bytes(&mut os_rng());
        Self { id, replica }
    }

    fn replica(&self) -> Option<&[u8]> {
        self.replica.as_ref().map(|replica| &replica.as_bytes()[..])
    }

    pub(super) async fn put(&self, tx: &mut PgConnection) -> Result<()> {
        let put = query("INSERT INTO commit_marks (id, replica) VALUES ($1, $2)")
            .bind(&self.id[..])
            .bind(self.replica())
            .execute(tx)
            .await;
        match put {
            Ok(_) => Ok(()),
            Err(error) if is_removed(&error) => Err(removed()),
            Err(error) => Err(db_error(error)),
        }
    }

    /// Puts the mark from outside its transaction: true = that one is not, and never will be,
    /// committed. The server lets this wait for a transaction that is still under way.
    async fn claim(&self, pool: &PgPool) -> Result<bool, sqlx::Error> {
        let claim = "INSERT INTO commit_marks (id, replica) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let done = query(claim)
            .bind(&self.id[..])
            .bind(self.replica())
            .execute(pool)
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

/// Foreign key violation: the broker's row is gone.
fn is_removed(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| code == "23503")
}

fn removed() -> Error {
    let text = "this broker is joining the others again; try again in a moment";
    Error::new(ErrorCode::Unavailable, text).retry_after(Duration::from_secs(1))
}

/// Grows with each attempt, up to twice over by chance, so that those who met do not meet again.
fn pause(attempt: u32) -> Duration {
    let base = 5_u64 << attempt.min(6);
    Duration::from_millis(base + os_rng().next_u64() % base)
}

/// Another transaction came between; the same work may succeed the next time. A unique violation
/// counts as one: two writers that each saw no row may both have inserted it.
fn is_conflict(error: &Error) -> bool {
    let source = error
        .source
        .as_deref()
        .and_then(|source| source.downcast_ref::<sqlx::Error>());
    let code = source.and_then(sqlstate);
    code.is_some_and(|code| ["40001", "40P01", "23505"].contains(&code.as_ref()))
}

/// The server has answered the commit, by a refusal. 40003 is the one of its class that says that
/// the outcome is not known.
fn is_rolled_back(error: &sqlx::Error) -> bool {
    sqlstate(error)
        .is_some_and(|code| code != "40003" && (code.starts_with("40") || code.starts_with("23")))
}

pub(super) fn sqlstate(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}
