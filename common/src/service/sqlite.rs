//! One SQLite file, one writer, transactions by name (style rule 4).
//!
//! All writes go through [`Sqlite::run_tx`]: `BEGIN IMMEDIATE` on the single write connection, the
//! closure, commit; on a busy file all of it again. A closure may run several times: it must have
//! no effect but on its transaction. What only reads uses [`Sqlite::read_tx`] or [`Sqlite::read`] and
//! waits for no writer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use scoped_futures::ScopedBoxFuture;
use sqlx::Connection as _;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};

use super::metrics::{Engine, Transaction};
use super::schema;
use crate::error::{Error, Result};

/// How often a transaction is tried on a busy file before the caller is told to try later.
const ATTEMPTS: u32 = 5;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for its turn before it is told to try later.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
const READERS: u32 = 4;

/// A SQLite database in WAL mode: durable at commit, one writer, a few readers.
#[derive(Clone, Debug)]
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    /// How many transactions are under way, or wait for their turn, that may take minutes.
    long: Arc<AtomicUsize>,
}

impl Sqlite {
    /// Opens or creates the database of mode 0600 and brings its schema up to date.
    ///
    /// # Errors
    /// If the file cannot be opened, or is of a newer version than this program's.
    pub async fn open(path: &Path, migrations: &Migrator) -> Result<Self> {
        Self::open_with(path, migrations, ACQUIRE_TIMEOUT).await
    }

    async fn open_with(path: &Path, migrations: &Migrator, patience: Duration) -> Result<Self> {
        create_private(path).map_err(Error::internal)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // Durable at commit: an acknowledged hit survives a power cut (protocol §7).
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            // What is deleted is overwritten: selectors do not linger in free pages.
            .pragma("secure_delete", "ON")
            // Sorts that spill must not write selectors to files outside the data folder.
            .pragma("temp_store", "MEMORY");
        let pool = |max| {
            // Waiting for the one writer is how writers take turns: no reason for a warning.
            SqlitePoolOptions::new()
                .max_connections(max)
                .min_connections(1)
                // A file does not hang up; a connection that has failed is closed, below.
                .test_before_acquire(false)
                .acquire_slow_threshold(patience)
                .acquire_timeout(patience)
        };
        let writer = pool(1)
            .connect_with(options.clone())
            .await
            .map_err(db_error)?;
        schema::update(&writer, migrations).await?;
        let readers = pool(READERS)
            .connect_with(options.read_only(true))
            .await
            .map_err(db_error)?;
        Ok(Self {
            writer,
            readers,
            long: Arc::default(),
        })
    }

    /// Runs `work` in one write transaction: all of it or nothing. It may run more than once.
    ///
    /// # Errors
    /// What `work` returns (nothing is stored then), or `UNAVAILABLE` when the file stays busy or
    /// the disk is full.
    pub async fn run_tx<'env, T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        T: Send + 'env,
        F: for<'t> Fn(&'t mut SqliteConnection) -> ScopedBoxFuture<'env, 't, Result<T>>
            + Send
            + Sync,
    {
        let metered = Transaction::begin(name, Engine::Sqlite);
        let mut attempt = 1;
        loop {
            match transact(&self.writer, &self.long, "BEGIN IMMEDIATE", &work).await {
                Err(error) if attempt < ATTEMPTS && is_busy(&error) => {
                    tracing::debug!(tx = name, attempt, "busy, again");
                    metered.retry();
                    tokio::time::sleep(Duration::from_millis(20 << attempt)).await;
                    attempt += 1;
                }
                outcome => {
                    if let Err(error) = &outcome {
                        tracing::debug!(tx = name, code = %error.code, "rolled back");
                    }
                    return metered.end(outcome);
                }
            }
        }
    }

    /// As [`Self::run_tx`], for work that may take minutes: the others wait until it is done, for as
    /// long as that takes, and are not told to try later.
    ///
    /// # Errors
    /// As [`Self::run_tx`].
    pub async fn run_long_tx<'env, T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        T: Send + 'env,
        F: for<'t> Fn(&'t mut SqliteConnection) -> ScopedBoxFuture<'env, 't, Result<T>>
            + Send
            + Sync,
    {
        let _long = Long::begin(&self.long);
        self.run_tx(name, work).await
    }

    /// Runs `work` on one consistent state of the database, beside the writer. It cannot write.
    ///
    /// # Errors
    /// What `work` returns, or `UNAVAILABLE`.
    pub async fn read_tx<'env, T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        T: Send + 'env,
        F: for<'t> Fn(&'t mut SqliteConnection) -> ScopedBoxFuture<'env, 't, Result<T>>
            + Send
            + Sync,
    {
        let metered = Transaction::begin(name, Engine::Sqlite);
        let outcome = transact(&self.readers, &self.long, "BEGIN", &work).await;
        if let Err(error) = &outcome {
            tracing::debug!(tx = name, code = %error.code, "reading refused");
        }
        metered.end(outcome)
    }

    /// A pool of read-only connections.
    pub const fn read(&self) -> &SqlitePool {
        &self.readers
    }

    /// Writes the file anew without what is no longer in use, and empties the log beside it.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the disk has no room for a second copy; the database is as it was then.
    pub async fn compact(&self) -> Result<()> {
        let mut writer = self.writer.acquire().await.map_err(db_error)?;
        let mut run = async |statement| {
            let done = sqlx::query(statement).execute(&mut *writer).await;
            done.map(drop).map_err(db_error)
        };
        // The copy may be larger than memory: it goes through a file, not as sorts do.
        run("PRAGMA temp_store = FILE").await?;
        let outcome = run("VACUUM").await;
        run("PRAGMA temp_store = MEMORY").await?;
        outcome?;
        run("PRAGMA wal_checkpoint(TRUNCATE)").await
    }

    /// Closes all connections; what was committed is in the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Counts one that is long until it is dropped.
struct Long<'a>(&'a AtomicUsize);

impl<'a> Long<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Long<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One transaction on one connection of a pool.
///
/// Where the disk fails or is full, SQLite ends the transaction by itself and sqlx does not notice:
/// the connection would refuse every transaction after it, for as long as the program runs. One
/// whose transaction did not begin or end as it should is therefore closed; the pool opens another.
async fn transact<'env, T, F>(
    pool: &SqlitePool,
    long: &AtomicUsize,
    begin: &'static str,
    work: &F,
) -> Result<T>
where
    T: Send + 'env,
    F: for<'t> Fn(&'t mut SqliteConnection) -> ScopedBoxFuture<'env, 't, Result<T>> + Send + Sync,
{
    let mut connection = loop {
        match pool.acquire().await {
            // Its turn comes when the long work is done.
            Err(sqlx::Error::PoolTimedOut) if long.load(Ordering::SeqCst) > 0 => {}
            acquired => break acquired.map_err(db_error)?,
        }
    };
    let (outcome, orderly) = match connection.begin_with(begin).await {
        Err(error) => (Err(db_error(error)), false),
        Ok(mut tx) => match work(&mut tx).await {
            Err(error) => (Err(error), tx.rollback().await.is_ok()),
            Ok(value) => match tx.commit().await {
                Err(error) => (Err(db_error(error)), false),
                Ok(()) => (Ok(value), true),
            },
        },
    };
    if !orderly {
        connection.close_on_drop();
    }
    outcome
}

/// Creates the file with mode 0600 before SQLite does it with the umask's; its WAL follows it.
fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

/// What a failed statement means to the caller: full, busy and I/O trouble pass, the rest is a
/// fault.
pub fn db_error(error: sqlx::Error) -> Error {
    match primary_code(&error) {
        // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_IOERR, SQLITE_FULL.
        Some(5 | 6 | 10 | 13) => Error::unavailable(error),
        _ if matches!(error, sqlx::Error::PoolTimedOut) => Error::unavailable(error),
        _ => Error::internal(error),
    }
}

fn is_busy(error: &Error) -> bool {
    let source = error
        .source
        .as_deref()
        .and_then(|e| e.downcast_ref::<sqlx::Error>());
    source.is_some_and(|e| matches!(primary_code(e), Some(5 | 6)))
}

fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

#[cfg(test)]
mod tests {
    use scoped_futures::ScopedFutureExt as _;
    use tokio::sync::Notify;

    use super::*;
    use crate::error::ErrorCode;

    #[tokio::test]
    async fn a_transaction_is_all_or_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let db = Sqlite::open(&dir.path().join("t.db"), &sqlx::migrate::Migrator::DEFAULT)
            .await
            .expect("open");
        db.run_tx("schema", |tx| {
            async move {
                sqlx::query("CREATE TABLE t (n INTEGER)")
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                Ok(())
            }
            .scope_boxed()
        })
        .await
        .expect("schema");
        let n = 7_i64;
        let refused: Result<()> = db
            .run_tx("refused", |tx| {
                async move {
                    sqlx::query("INSERT INTO t VALUES ($1)")
                        .bind(n)
                        .execute(tx)
                        .await
                        .map_err(db_error)?;
                    Err(Error::new(ErrorCode::HitUnknown, "no"))
                }
                .scope_boxed()
            })
            .await;
        assert_eq!(refused.expect_err("refused").code, ErrorCode::HitUnknown);
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM t")
            .fetch_one(db.read())
            .await
            .expect("count");
        assert_eq!(count, 0);
    }

    /// A transaction that lasts until it is told to end.
    async fn hold(db: Sqlite, begun: Arc<Notify>, end: Arc<Notify>, is_long: bool) -> Result<()> {
        let (begun, end) = (&begun, &end);
        if is_long {
            db.run_long_tx("held", |_| wait(begun, end).scope_boxed())
                .await
        } else {
            db.run_tx("held", |_| wait(begun, end).scope_boxed()).await
        }
    }

    async fn wait(begun: &Notify, end: &Notify) -> Result<()> {
        begun.notify_one();
        end.notified().await;
        Ok(())
    }

    #[tokio::test]
    async fn writers_wait_for_long_work_and_are_told_to_try_later_behind_other_work() {
        let dir = tempfile::tempdir().expect("tempdir");
        let patience = Duration::from_millis(50);
        let path = dir.path().join("t.db");
        let db = Sqlite::open_with(&path, &Migrator::DEFAULT, patience).await;
        let db = db.expect("open");
        let (begun, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        for is_long in [false, true] {
            let held = tokio::spawn(hold(db.clone(), begun.clone(), end.clone(), is_long));
            begun.notified().await;
            let other = db.run_tx("other", |_| async { Ok(()) }.scope_boxed());
            let mut other = std::pin::pin!(other);
            if is_long {
                let early = tokio::time::timeout(patience * 6, &mut other).await;
                early.expect_err("it waits");
                end.notify_one();
                other.await.expect("its turn");
            } else {
                let told = other.await.expect_err("busy");
                assert_eq!(told.code, ErrorCode::Unavailable);
                end.notify_one();
            }
            held.await.expect("ended").expect("committed");
        }
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("t.db");
        let db = Sqlite::open(&path, &Migrator::DEFAULT).await.expect("open");
        sqlx::query(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'of the future', true, '', 0)",
        )
        .execute(&db.writer)
        .await
        .expect("inserted");
        db.close().await;
        let refused = Sqlite::open(&path, &Migrator::DEFAULT).await;
        let text = refused.expect_err("refused").source.expect("a text");
        let text = text.to_string();
        assert!(
            text.contains("9999") && text.contains("newer program"),
            "{text}"
        );
    }
}
