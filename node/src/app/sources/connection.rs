//! A connection to a database of the unit, which is only read: one for each run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::service::config::SecretFile;
use sotto_common::service::postgres::PostgresUrl;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{
    AssertSqlSafe, Column as _, ColumnIndex, ConnectOptions as _, Connection as _, Decode,
    Executor as _, Row, SqlSafeStr as _, Statement as _, Type, TypeInfo as _,
};

use super::row::RawRow;
use super::statement::{self, Engine};
use crate::config::SourceDatabase;

/// How long a server may take to let the node in.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a writer of a SQLite file is waited for.
const BUSY: Duration = Duration::from_secs(5);
/// Steps of SQLite between two looks at whether the run has been given up.
const STEPS: i32 = 10_000;

/// A connection within a transaction that only reads.
pub(super) enum Connection {
    Postgres(PgConnection),
    Sqlite(GivenUp, SqliteConnection),
}

/// Interrupts what SQLite is at, in its own thread, once the connection is dropped.
pub(super) struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A bound watermark.
#[derive(Clone, Debug)]
pub(super) enum Since {
    Text(String),
    Number(i64),
}

impl Connection {
    /// Connects, and begins to read.
    ///
    /// # Errors
    /// `SOURCE_FAILED`, saying what to mend.
    pub(super) async fn open(database: &SourceDatabase, timeout: Duration) -> Result<Self> {
        match database {
            SourceDatabase::Postgres { url, password } => {
                let opening = open_postgres(url, password.as_ref(), timeout);
                let opened = tokio::time::timeout(CONNECT, opening).await;
                opened.unwrap_or_else(|_| {
                    Err(failed(
                        "the server does not answer within 10 s: is it up, and the way to it?",
                    ))
                })
            }
            SourceDatabase::Sqlite(path) => open_sqlite(path).await,
        }
    }

    pub(super) const fn engine(&self) -> Engine {
        match self {
            Self::Postgres(_) => Engine::Postgres,
            Self::Sqlite(..) => Engine::Sqlite,
        }
    }

    /// The columns of a query's result: their names and types.
    ///
    /// # Errors
    /// `SOURCE_FAILED` if the engine does not take the query.
    pub(super) async fn shape(&mut self, query: &str) -> Result<Vec<(String, String)>> {
        let sql = AssertSqlSafe(statement::shape(query)).into_sql_str();
        macro_rules! columns {
            ($connection:expr) => {{
                let prepared = $connection.prepare(sql).await.map_err(database_error)?;
                let columns = prepared.columns().iter();
                let named = columns.map(|c| (c.name().to_owned(), c.type_info().name().to_owned()));
                named.collect()
            }};
        }
        Ok(match self {
            Self::Postgres(connection) => columns!(connection),
            Self::Sqlite(_, connection) => columns!(connection),
        })
    }

    /// The rows of [`statement::rows`], one after the other: they are never held all at once.
    pub(super) fn rows(
        &mut self,
        sql: String,
        since: Option<Since>,
    ) -> BoxStream<'_, Result<RawRow>> {
        macro_rules! rows {
            ($connection:expr) => {{
                let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
                query = match since {
                    None => query,
                    Some(Since::Text(text)) => query.bind(text),
                    Some(Since::Number(number)) => query.bind(number),
                };
                let rows = query.fetch($connection);
                rows.map_err(database_error).map(|row| raw(&row?)).boxed()
            }};
        }
        match self {
            Self::Postgres(connection) => rows!(connection),
            Self::Sqlite(_, connection) => rows!(connection),
        }
    }

    /// Says goodbye. A server that does not hear it any more is no fault of the run.
    pub(super) async fn close(self) {
        let closed = match self {
            Self::Postgres(connection) => connection.close().await,
            Self::Sqlite(_given_up, connection) => connection.close().await,
        };
        if let Err(error) = closed {
            tracing::debug!(error = %database_error(error), "a source was not closed in good order");
        }
    }
}

async fn open_postgres(
    url: &PostgresUrl,
    password: Option<&SecretFile>,
    timeout: Duration,
) -> Result<Connection> {
    // The texts name files, never what is in them.
    let options = url
        .options(password)
        .map_err(|error| failed(error.to_string()))?
        .application_name("sotto-node")
        .statement_cache_capacity(0)
        .disable_statement_logging();
    let mut connection = PgConnection::connect_with(&options)
        .await
        .map_err(database_error)?;
    // One state of the database for all of the run, and nothing is changed in it.
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
         SET LOCAL statement_timeout = {};
         SET LOCAL TimeZone = 'UTC';
         SET LOCAL DateStyle = 'ISO'",
        timeout.as_millis().min(2_000_000_000)
    );
    sqlx::raw_sql(AssertSqlSafe(begin))
        .execute(&mut connection)
        .await
        .map_err(database_error)?;
    Ok(Connection::Postgres(connection))
}

async fn open_sqlite(path: &Path) -> Result<Connection> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .create_if_missing(false)
        .busy_timeout(BUSY)
        .statement_cache_capacity(1)
        .disable_statement_logging();
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .map_err(database_error)?;
    let given_up = GivenUp(Arc::default());
    let flag = Arc::clone(&given_up.0);
    connection
        .lock_handle()
        .await
        .map_err(database_error)?
        .set_progress_handler(STEPS, move || !flag.load(Ordering::Relaxed));
    sqlx::raw_sql("BEGIN")
        .execute(&mut connection)
        .await
        .map_err(database_error)?;
    Ok(Connection::Sqlite(given_up, connection))
}

/// The bytes of every column: all are texts, or NULL.
fn raw<R: Row>(row: &R) -> Result<RawRow>
where
    usize: ColumnIndex<R>,
    for<'r> Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    let mut cells = RawRow(Default::default());
    for (place, cell) in cells.0.iter_mut().enumerate() {
        *cell = row.try_get_unchecked(place).map_err(database_error)?;
    }
    Ok(cells)
}

/// A failure of a source, whose text may be shown and logged.
pub(super) fn failed(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorCode::SourceFailed, text)
}

/// What went wrong, without the words of the database: they may repeat rows. Its own log has them.
fn database_error(error: sqlx::Error) -> Error {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default().into_owned();
            let is_postgres = error
                .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                .is_some();
            if is_postgres {
                failed(format!("PostgreSQL says {code}: {}", of_sqlstate(&code)))
            } else {
                let number: u32 = code.parse().unwrap_or_default();
                // The lowest byte is the kind.
                failed(format!(
                    "SQLite says {number}: {}",
                    of_sqlite(number & 0xff)
                ))
            }
        }
        sqlx::Error::Io(error) => failed(format!("the connection failed: {}", error.kind())),
        sqlx::Error::Tls(error) => failed(format!(
            "the server is not trusted, or speaks no TLS ({error}): look at sslmode and \
             sslrootcert in `database`"
        )),
        sqlx::Error::WorkerCrashed => failed("the database was cut off"),
        sqlx::Error::Protocol(_) => failed("the connection broke, or it is no such database"),
        sqlx::Error::Configuration(_) => failed("`database` cannot be used as it is written"),
        _ => failed("the rows cannot be read"),
    }
}

fn of_sqlstate(code: &str) -> &'static str {
    match code {
        "57014" => "the query took longer than `timeout`, or was cancelled",
        "28P01" | "28000" => "the user is not let in: look at `database` and `password_file`",
        "3D000" => "there is no such database",
        "42501" => "the user may not read this: GRANT SELECT to it",
        "42P01" => "the query names a table that is not there",
        "42703" => "the query names a column that is not there",
        "42702" => "a column name is ambiguous: name the columns with AS",
        "42883" => "the query uses a function or operator that is not there for these types",
        "42601" => "the query is not well formed",
        "25006" => "the query would change something: only reading is allowed",
        _ => match code.get(..2).unwrap_or_default() {
            "08" => "the connection broke",
            "22" => "a value does not fit what the query does with it",
            "28" => "the user is not let in",
            "40" => "the server gave up the transaction; it is tried again",
            "42" => "the query does not fit the database",
            "53" => "the server is short of connections, memory or disk",
            "57" => "the server is stopping or starting",
            _ => "the log of the server says more",
        },
    }
}

const fn of_sqlite(kind: u32) -> &'static str {
    match kind {
        1 => "the query does not fit the database: look at its tables, columns and form",
        5 | 6 => "another program is writing to the file",
        8 | 14 => {
            "the file cannot be opened: is it there, and may the node read it and its folder?"
        }
        9 => "the query took longer than `timeout`",
        10 => "the file cannot be read",
        11 => "the file is damaged",
        26 => "the file is no database of SQLite",
        _ => "the rows cannot be read",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_database_says_of_rows_is_not_repeated() {
        let error = database_error(sqlx::Error::Protocol("DETAIL: Key (number)=(0612)".into()));
        assert_eq!(error.code, ErrorCode::SourceFailed);
        assert!(!format!("{error:?}").contains("0612"));
        for code in ["57014", "42P01", "57P01", "XX000", ""] {
            assert!(!of_sqlstate(code).is_empty());
        }
    }
}
