//! The ledger on SQLite.

/// Microseconds since 1970 by the clock of the machine.
macro_rules! now {
    () => {
        "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    };
}

/// An order by bytes: SQLite's own.
macro_rules! bytewise {
    ($column:literal) => {
        $column
    };
}

/// The values of a JSON array, as rows `element (value, place)`, with their places from 0.
macro_rules! elements {
    ($array:literal) => {
        concat!(
            "(SELECT value, key AS place FROM json_each(",
            $array,
            ")) AS element"
        )
    };
}

/// A value, as text, of an element that is an array itself, by its place from 0.
macro_rules! field {
    ($place:literal) => {
        concat!("(element.value ->> ", $place, ")")
    };
}

/// Statements that use the same parameters, at once; none sees what another does.
macro_rules! at_once {
    ($($name:ident: $before:expr,)* => $last:expr) => {
        concat!($($before, "; ",)* $last)
    };
}

/// Bytes from their hex.
macro_rules! from_hex {
    ($text:expr) => {
        concat!("unhex(", $text, ")")
    };
}

#[path = "sql/at_rest.rs"]
mod at_rest;
#[path = "sql/attachments.rs"]
mod attachments;
#[path = "sql/columns.rs"]
mod columns;
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

use sotto_common::error::{Error, Result};
use sotto_common::ids::{NodeId, RecordRef};
use sotto_common::service::at_rest::ColumnCipher;
use sotto_common::service::sqlite::db_error;
use sqlx::migrate::Migrator;
use sqlx::query;
use sqlx::sqlite::{SqliteConnection, SqliteRow as EngineRow};

use super::StackKey;

/// The engine, as `sql/` knows it.
use sqlx::Sqlite as Engine;

/// The schema, migrations that only add.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/sqlite");

/// A transaction on SQLite.
pub(super) struct EngineTx<'c> {
    pub(super) connection: &'c mut SqliteConnection,
    pub(super) cipher: &'c ColumnCipher,
}

/// The rows of the hits of a prober that stand on one of `refs`, in one statement: the refs go in
/// as one JSON array of hex.
async fn probed(
    connection: &mut SqliteConnection,
    key: &StackKey,
    prober: &NodeId,
    refs: &[RecordRef],
) -> Result<Vec<EngineRow>> {
    let refs: Vec<String> = refs.iter().map(ToString::to_string).collect();
    let refs = serde_json::to_string(&refs).map_err(Error::internal)?;
    query(
        "SELECT hits.* FROM json_each($5) AS probed CROSS JOIN hits
         WHERE hits.community = $1 AND hits.epoch = $2 AND hits.policy = $3
           AND hits.prober = $4 AND hits.record_ref = unhex(probed.value)",
    )
    .bind(key.community.as_str())
    .bind(key.epoch.get())
    .bind(key.policy.name())
    .bind(prober.as_str())
    .bind(refs)
    .fetch_all(connection)
    .await
    .map_err(db_error)
}
