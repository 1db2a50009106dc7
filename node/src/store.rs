//! The node's own store: one SQLite file of mode 0600, by entity.

mod coverage;
mod datasets;
mod epochs;
mod hits;
mod layers;
mod members;
mod probes;
mod publications;
mod sources;

use std::path::Path;
use std::str::FromStr;

use sotto_common::error::{Error, Result};
use sotto_common::service::sqlite::{Sqlite, db_error};
use sotto_common::time::Timestamp;
use sqlx::SqliteConnection;
use sqlx::migrate::Migrator;

pub use coverage::{Cover, ProbedDataset};
pub(crate) use datasets::other_policy;
pub use datasets::{Dataset, ImportId, SelectorId, SelectorRow, StagedRow};
pub use epochs::StoredEpoch;
pub use hits::{HitFilter, RecordHit};
pub use layers::{Layer, Publishing};
pub use members::Pinned;
pub use probes::{Batch, ProbeKey, ProbeKind, ProbeSession};
pub use publications::OutboxItem;
pub use sources::{SourceCounts, SourceState, Watermark};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The node's store. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    db: Sqlite,
}

impl Store {
    /// Opens or creates the store.
    ///
    /// # Errors
    /// If the file cannot be opened, or is of a newer version than this program's.
    pub async fn open(file: &Path) -> Result<Self> {
        let db = Sqlite::open(file, &MIGRATIONS).await?;
        Ok(Self { db })
    }

    /// Closes the store; what was committed is in the file.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

/// Moves a counter, which begins at 0, forward; tells its new value.
async fn advance(tx: &mut SqliteConnection, counter: &str, by: u64) -> Result<i64> {
    sqlx::query_scalar(
        "INSERT INTO counters (name, value) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET value = value + excluded.value RETURNING value",
    )
    .bind(counter)
    .bind(signed(by))
    .fetch_one(tx)
    .await
    .map_err(db_error)
}

/// SQLite's integers are signed; what the node counts stays below 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

/// A text of the store as its type; the store holds only what was valid when it was written.
fn typed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> Result<T> {
    text.parse().map_err(Error::internal)
}

/// A value of the store that does not fit its type any more.
fn damaged(what: &'static str) -> Error {
    Error::internal(format!("the store holds a {what} that is not one"))
}

#[cfg(test)]
pub(crate) mod testing {
    use tempfile::TempDir;

    use super::Store;

    /// An empty store in a directory of its own.
    pub(crate) async fn store() -> (Store, TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("node.db"))
            .await
            .expect("opened");
        (store, dir)
    }
}
