//! The node's own store: one SQLite file of mode 0600, by entity.

mod access;
mod at_rest;
mod coverage;
mod datasets;
mod epochs;
mod follow_ups;
mod hits;
mod imports;
mod layers;
mod log;
mod members;
mod probes;
mod publications;
mod removals;
mod sources;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use sotto_common::error::{Error, Result};
use sotto_common::service::at_rest::ColumnCipher;
use sotto_common::service::sqlite::{Sqlite, db_error};
use sotto_common::time::Timestamp;
use sqlx::SqliteConnection;
use sqlx::migrate::Migrator;

use at_rest::AtRest;

pub use access::AccessFilter;
pub use at_rest::Renewed;
pub use coverage::{Cover, ProbedDataset};
pub use datasets::{Dataset, SelectorId, SelectorRow};
pub use epochs::StoredEpoch;
pub(crate) use follow_ups::{FileChange, FollowUpFilter, Keeper, Owned, Refusal, StoredAttachment};
pub use hits::{
    Decided, Feedback, HistoryEvent, HitFilter, NoteReview, Outcome, PendingFeedback, RecordHit,
    SignFeedback, Story, ThreadCounts,
};
pub(crate) use imports::other_policy;
pub use imports::{Committed, ImportId, StagedRow};
pub use layers::{Layer, Publishing};
pub use log::{
    AnsweredBatch, BatchToVerify, Evidence, Named, StoredCheckpoint, StoredEvidence, Unproved,
    UnverifiedHit,
};
pub use members::Pinned;
pub use probes::{Batch, ProbeKey, ProbeKind, ProbeSession};
pub use publications::OutboxItem;
pub use removals::{Removed, Wanted};
pub use sources::{SourceCounts, SourceState, Watermark};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The node's store. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    db: Sqlite,
    at_rest: Arc<AtRest>,
}

impl Store {
    /// Opens or creates the store, whose selectors, record ids and nonces are sealed by `cipher`. A
    /// store of the time before that is sealed first, which may take minutes.
    ///
    /// # Errors
    /// If the file cannot be opened, is of a newer version than this program's, or was sealed
    /// under a key that is not in the list; the source says what to do.
    pub async fn open(file: &Path, cipher: ColumnCipher) -> Result<Self> {
        let db = Sqlite::open(file, &MIGRATIONS).await?;
        let at_rest = Arc::new(AtRest::open(&db, cipher).await?);
        at_rest::convert(&db, &at_rest).await?;
        Ok(Self { db, at_rest })
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
    use std::path::Path;

    use sotto_common::random::os_rng;
    use sotto_common::service::at_rest::ColumnCipher;
    use sotto_common::service::config::SecretFile;
    use sotto_common::service::files::{self, Readers};
    use tempfile::TempDir;

    use super::Store;

    /// An empty store in a directory of its own.
    pub(crate) async fn store() -> (Store, TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("node.db"), cipher(dir.path()))
            .await
            .expect("opened");
        (store, dir)
    }

    /// A cipher with one new key, whose list is `store.keys` in a directory.
    pub(crate) fn cipher(dir: &Path) -> ColumnCipher {
        key_list(dir, &[&ColumnCipher::generate_line(&mut os_rng())])
    }

    /// A cipher with these keys, whose list is `store.keys` in a directory.
    pub(crate) fn key_list(dir: &Path, lines: &[&str]) -> ColumnCipher {
        let file = dir.join("store.keys");
        let text = lines.join("\n");
        files::write(&file, text.as_bytes(), Readers::Owner, &mut os_rng()).expect("written");
        ColumnCipher::load(&SecretFile(file)).expect("a key list")
    }
}
