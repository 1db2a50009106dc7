//! The ledger on PostgreSQL, and on what speaks its protocol and keeps its isolation.

mod engine;
mod hits;
mod membership;
mod probes;
mod publications;
#[cfg(test)]
mod tests;

use sotto_common::error::{Error, Result};
use sotto_common::ids::InvalidId;
use sotto_common::time::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::model::corrupt;

pub(super) use engine::Postgres;

/// A transaction on PostgreSQL.
pub(super) struct PostgresTx<'c>(pub(super) &'c mut PgConnection);

/// What a failed statement means to the caller: a conflict, a lost connection and a server that is
/// stopping, starting, full or busy pass; the rest is a fault.
fn db_error(error: sqlx::Error) -> Error {
    let passes = match &error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| passes(&code)),
        _ => false,
    };
    if passes {
        Error::unavailable(error)
    } else {
        Error::internal(error)
    }
}

/// SQLSTATEs that say nothing about the statement, by class: 08 connection, 40 rolled back, 53
/// resources, 57 operator (stopping, starting, timed out), 58 system; and a lock that was waited
/// for too long.
fn passes(code: &str) -> bool {
    ["08", "40", "53", "57", "58"].contains(&code.get(..2).unwrap_or_default()) || code == "55P03"
}

/// Reads a column that is its own domain type.
fn get<'r, T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>>(
    row: &'r PgRow,
    column: &'static str,
) -> Result<T> {
    row.try_get(column).map_err(Error::internal)
}

/// Reads a text column that parses to a domain type.
fn text<T: std::str::FromStr<Err = InvalidId>>(row: &PgRow, column: &'static str) -> Result<T> {
    get::<&str>(row, column)?
        .parse()
        .map_err(|_| corrupt(column))
}

/// Reads a bytes column that parses to a domain type.
fn blob<T>(
    row: &PgRow,
    column: &'static str,
    parse: impl FnOnce(&[u8]) -> Result<T, InvalidId>,
) -> Result<T> {
    parse(get::<&[u8]>(row, column)?).map_err(|_| corrupt(column))
}

/// Reads a bytes column of exactly `N` bytes.
fn bytes<const N: usize>(row: &PgRow, column: &'static str) -> Result<[u8; N]> {
    get::<&[u8]>(row, column)?
        .try_into()
        .map_err(|_| corrupt(column))
}

/// Reads a number column that fits its domain type.
fn number<T: TryFrom<i64>>(row: &PgRow, column: &'static str) -> Result<T> {
    T::try_from(get::<i64>(row, column)?).map_err(|_| corrupt(column))
}

/// Reads a time column.
fn time(row: &PgRow, column: &'static str) -> Result<Timestamp> {
    get(row, column).map(Timestamp::from_micros)
}

/// A count as a BIGINT; saturates.
fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
