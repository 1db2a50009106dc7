//! The ledger on PostgreSQL, and on what speaks its protocol and keeps its isolation.

/// Microseconds since 1970 by the clock of the database.
macro_rules! now {
    () => {
        "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"
    };
}

/// An order by bytes, whatever the collation of the database.
macro_rules! bytewise {
    ($column:literal) => {
        concat!("convert_to(", $column, ", 'UTF8')")
    };
}

/// The values of a JSON array, as rows `element (value, place)`, with their places from 0.
macro_rules! elements {
    ($array:literal) => {
        concat!(
            "(SELECT value, number - 1 AS place FROM json_array_elements_text(CAST(",
            $array,
            " AS JSON)) WITH ORDINALITY AS numbered (value, number)) AS element"
        )
    };
}

/// A value, as text, of an element that is an array itself, by its place from 0.
macro_rules! field {
    ($place:literal) => {
        concat!("(CAST(element.value AS JSON) ->> ", $place, ")")
    };
}

/// Statements that use the same parameters, at once; none sees what another does.
macro_rules! at_once {
    ($($name:ident: $before:expr,)* => $last:expr) => {
        concat!("WITH ", $(stringify!($name), " AS (", $before, "), ",)* "nothing AS (SELECT 1) ", $last)
    };
}

/// Bytes from their hex.
macro_rules! from_hex {
    ($text:expr) => {
        concat!("decode(", $text, ", 'hex')")
    };
}

#[path = "sql/at_rest.rs"]
mod at_rest;
#[path = "sql/attachments.rs"]
mod attachments;
#[path = "sql/columns.rs"]
mod columns;
mod engine;
#[path = "sql/follow_up_rows.rs"]
mod follow_up_rows;
#[path = "sql/follow_ups.rs"]
mod follow_ups;
#[path = "sql/hit_runs.rs"]
mod hit_runs;
#[path = "sql/hits.rs"]
mod hits;
#[path = "sql/log.rs"]
mod log;
#[path = "sql/log_rows.rs"]
mod log_rows;
#[path = "sql/membership.rs"]
mod membership;
#[path = "sql/probes.rs"]
mod probes;
#[path = "sql/publications.rs"]
mod publications;
#[path = "sql/replicas.rs"]
mod replicas;
#[cfg(test)]
mod tests;
mod wakeups;

use sotto_common::error::{Error, Result};
use sotto_common::ids::{NodeId, RecordRef};
use sotto_common::service::at_rest::ColumnCipher;
use sqlx::postgres::{PgConnection, PgRow as EngineRow};
use sqlx::query;

use super::StackKey;

pub(super) use engine::Postgres;

/// The engine, as `sql/` knows it.
use sqlx::Postgres as Engine;

/// A transaction on PostgreSQL.
pub(super) struct EngineTx<'c> {
    pub(super) connection: &'c mut PgConnection,
    pub(super) cipher: &'c ColumnCipher,
}

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

/// The rows of the hits of a prober that stand on one of `refs`, in one statement.
async fn probed(
    connection: &mut PgConnection,
    key: &StackKey,
    prober: &NodeId,
    refs: &[RecordRef],
) -> Result<Vec<EngineRow>> {
    let refs: Vec<&[u8]> = refs.iter().map(|r| &r.as_bytes()[..]).collect();
    query(
        "SELECT * FROM hits
         WHERE community = $1 AND epoch = $2 AND policy = $3 AND prober = $4
           AND record_ref = ANY($5)",
    )
    .bind(key.community.as_str())
    .bind(i64::from(key.epoch.get()))
    .bind(key.policy.name())
    .bind(prober.as_str())
    .bind(refs)
    .fetch_all(connection)
    .await
    .map_err(db_error)
}
