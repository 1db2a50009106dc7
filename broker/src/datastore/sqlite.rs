//! The ledger on SQLite.

mod hits;
mod membership;
mod probes;
mod publications;

use sotto_common::error::Result;
use sotto_common::ids::InvalidId;
use sotto_common::time::Timestamp;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row as _, Sqlite};

use super::model::corrupt;

/// The schema, migrations that only add.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/sqlite");

/// A transaction on SQLite.
pub(super) struct SqliteTx<'c>(pub(super) &'c mut SqliteConnection);

/// Reads a column that is its own domain type.
fn get<'r, T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>>(
    row: &'r SqliteRow,
    column: &'static str,
) -> Result<T> {
    row.try_get(column)
        .map_err(sotto_common::error::Error::internal)
}

/// Reads a text column that parses to a domain type.
fn text<T: std::str::FromStr<Err = InvalidId>>(row: &SqliteRow, column: &'static str) -> Result<T> {
    get::<&str>(row, column)?
        .parse()
        .map_err(|_| corrupt(column))
}

/// Reads a blob column that parses to a domain type.
fn blob<T>(
    row: &SqliteRow,
    column: &'static str,
    parse: impl FnOnce(&[u8]) -> Result<T, InvalidId>,
) -> Result<T> {
    parse(get::<&[u8]>(row, column)?).map_err(|_| corrupt(column))
}

/// Reads a blob column of exactly `N` bytes.
fn bytes<const N: usize>(row: &SqliteRow, column: &'static str) -> Result<[u8; N]> {
    get::<&[u8]>(row, column)?
        .try_into()
        .map_err(|_| corrupt(column))
}

/// Reads a number column that fits its domain type.
fn number<T: TryFrom<i64>>(row: &SqliteRow, column: &'static str) -> Result<T> {
    T::try_from(get::<i64>(row, column)?).map_err(|_| corrupt(column))
}

/// Reads a time column.
fn time(row: &SqliteRow, column: &'static str) -> Result<Timestamp> {
    get(row, column).map(Timestamp::from_micros)
}

/// A count as SQLite's integer; saturates.
fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
