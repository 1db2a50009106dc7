//! What the store seals, and the keyed hashes by which it finds again what is sealed.
//!
//! | value | table, row, column |
//! |---|---|
//! | canonical value and record id | `selectors`, `LP(dataset) ‖ canonical index`, `record` |
//! | texts of follow-ups | `follow_ups` and its kin (`store/follow_ups/seals.rs`) |
//! | nonce, pairs and answer of a batch | `probed_batches`, session id ‖ `u32(number)`, `opening` |
//! | entry in the evidence | `log_evidence`, its number, `entry` |
//! | nonce of a probe session | `probe_sessions`, session id, `nonce` |
//! | key of the hashes | `store_keys`, its name, `sealed` |
//!
//! The dataset of a one-off question is the empty text. The hashes are the first 16 bytes of
//! HMAC-SHA256 under a key that is made with the store: whoever has the file without its keys sees
//! which rows of a policy are alike, and nothing else.

mod convert;
mod renew;

use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use scoped_futures::ScopedFutureExt as _;
use sha2::Sha256;
use sotto_common::error::{Error, Result};
use sotto_common::ids::SessionId;
use sotto_common::label::{Context, Label};
use sotto_common::probe::SessionNonce;
use sotto_common::random::{self, os_rng};
use sotto_common::secret::{Secret, Selector};
use sotto_common::selector::Policy;
use sotto_common::service::at_rest::{Cell, ColumnCipher};
use sotto_common::service::sqlite::{Sqlite, db_error};
use sqlx::SqliteConnection;

use super::damaged;

pub(super) use convert::convert;
pub use renew::Renewed;

/// Name of the key of the hashes.
const INDEX_KEY: &str = "index";

/// Length of a keyed hash in bytes.
pub(super) const INDEX_LEN: usize = 16;

/// A keyed hash by which a row is found.
pub(super) type Index = [u8; INDEX_LEN];

/// What is behind a selector's row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// The canonical value.
    pub(super) canonical: Selector,
    /// The node's own id of the record.
    pub(super) record_id: String,
}

/// A record as it is stored.
pub(super) struct SealedRecord {
    /// Of policy and canonical value.
    pub(super) canonical_index: Index,
    /// Of policy and record id.
    pub(super) record_index: Index,
    /// The two, sealed.
    pub(super) record: Vec<u8>,
}

/// The cipher and the hashes of a store. Clones share the keys.
#[derive(Clone)]
pub(super) struct AtRest {
    cipher: ColumnCipher,
    canonical: Hmac<Sha256>,
    record: Hmac<Sha256>,
}

impl std::fmt::Debug for AtRest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AtRest(redacted)")
    }
}

const fn key_cell(name: &str) -> Cell<'_> {
    Cell {
        table: "store_keys",
        row: name.as_bytes(),
        column: "sealed",
    }
}

const fn nonce_cell(session: &SessionId) -> Cell<'_> {
    Cell {
        table: "probe_sessions",
        row: session.as_bytes(),
        column: "nonce",
    }
}

const fn record_cell(row: &[u8]) -> Cell<'_> {
    Cell {
        table: "selectors",
        row,
        column: "record",
    }
}

/// What identifies a selector among all, for as long as it lives.
fn record_row(dataset: &str, canonical_index: &[u8]) -> Vec<u8> {
    Context::unlabelled()
        .text(dataset)
        .raw(canonical_index)
        .as_bytes()
        .to_vec()
}

impl AtRest {
    /// What seals and opens.
    pub(super) const fn cipher(&self) -> &ColumnCipher {
        &self.cipher
    }

    /// Reads the key of the hashes, which is made if the store has none.
    ///
    /// # Errors
    /// `INTERNAL` if the key list is not the one that the store was sealed under.
    pub(super) async fn open(db: &Sqlite, cipher: ColumnCipher) -> Result<Self> {
        let key = random::bytes::<32>(&mut os_rng());
        let new = &cipher.seal(key_cell(INDEX_KEY), &key, &mut os_rng());
        let sealed = db
            .run_tx("open_index_key", |tx| index_key(tx, new).scope_boxed())
            .await?;
        let key = cipher.open(key_cell(INDEX_KEY), &sealed)?;
        let key = Secret::<32>::from_slice(&key).ok_or_else(|| damaged("key"))?;
        let hash = |label: Label| {
            // Unwrap safety: HMAC takes keys of any length.
            let keyed = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes any key");
            keyed.chain_update(label.as_str())
        };
        Ok(Self {
            cipher,
            canonical: hash(Label::CanonicalIndex),
            record: hash(Label::RecordIndex),
        })
    }

    /// By which a canonical value of a policy is found.
    pub(super) fn canonical_index(&self, policy: Policy, canonical: &Selector) -> Index {
        index(&self.canonical, policy, canonical.expose())
    }

    /// By which a record of a policy is found.
    pub(super) fn record_index(&self, policy: Policy, record_id: &str) -> Index {
        index(&self.record, policy, record_id)
    }

    /// Seals a record of a dataset; that of one-off questions is empty.
    pub(super) fn seal_record(
        &self,
        dataset: &str,
        policy: Policy,
        canonical: &Selector,
        record_id: &str,
    ) -> SealedRecord {
        let canonical_index = self.canonical_index(policy, canonical);
        let clear = Context::unlabelled()
            .text(canonical.expose())
            .raw(record_id.as_bytes());
        let row = record_row(dataset, &canonical_index);
        let record = self
            .cipher
            .seal(record_cell(&row), clear.as_bytes(), &mut os_rng());
        SealedRecord {
            canonical_index,
            record_index: self.record_index(policy, record_id),
            record,
        }
    }

    /// Opens a record of a dataset; that of one-off questions is empty.
    ///
    /// # Errors
    /// `INTERNAL` if it was altered, is of another row, or of a key that is not in the list.
    pub(super) fn open_record(
        &self,
        dataset: &str,
        canonical_index: &[u8],
        sealed: &[u8],
    ) -> Result<Record> {
        let row = record_row(dataset, canonical_index);
        let clear = self.cipher.open(record_cell(&row), sealed)?;
        let parts = clear.split_first_chunk::<2>().and_then(|(length, rest)| {
            let length = usize::from(u16::from_be_bytes(*length));
            let (canonical, record_id) = rest.split_at_checked(length)?;
            let canonical = std::str::from_utf8(canonical).ok()?;
            Some((canonical, std::str::from_utf8(record_id).ok()?))
        });
        let (canonical, record_id) = parts.ok_or_else(|| damaged("record"))?;
        Ok(Record {
            canonical: Selector::new(canonical),
            record_id: record_id.into(),
        })
    }

    /// The value of a cell under the first key.
    fn renewed(&self, cell: Cell<'_>, sealed: &[u8]) -> Result<Vec<u8>> {
        let clear = self.cipher.open(cell, sealed)?;
        Ok(self.cipher.seal(cell, &clear, &mut os_rng()))
    }

    /// Seals the nonce of a session.
    pub(super) fn seal_nonce(&self, session: SessionId, nonce: &SessionNonce) -> Vec<u8> {
        let clear = nonce.secret().expose();
        self.cipher.seal(nonce_cell(&session), clear, &mut os_rng())
    }

    /// Opens the nonce of a session.
    ///
    /// # Errors
    /// As [`AtRest::open_record`].
    pub(super) fn open_nonce(&self, session: SessionId, sealed: &[u8]) -> Result<SessionNonce> {
        let clear = self.cipher.open(nonce_cell(&session), sealed)?;
        SessionNonce::from_slice(&clear).ok_or_else(|| damaged("nonce"))
    }
}

fn index(keyed: &Hmac<Sha256>, policy: Policy, text: &str) -> Index {
    let context = Context::unlabelled()
        .text(policy.name())
        .raw(text.as_bytes());
    let whole = keyed
        .clone()
        .chain_update(context.as_bytes())
        .finalize()
        .into_bytes();
    let mut kept = [0; INDEX_LEN];
    kept.copy_from_slice(&whole[..INDEX_LEN]);
    kept
}

/// The key of the hashes as it is stored, `new` if there was none.
async fn index_key(tx: &mut SqliteConnection, new: &[u8]) -> Result<Vec<u8>> {
    sqlx::query_scalar(
        "INSERT INTO store_keys (name, sealed) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET sealed = sealed RETURNING sealed",
    )
    .bind(INDEX_KEY)
    .bind(new)
    .fetch_one(tx)
    .await
    .map_err(db_error)
}

/// Seals or opens many rows on all processors, where it holds up nobody.
///
/// # Errors
/// The first that `work` returns, or `INTERNAL` if it panicked.
pub(super) async fn for_each<T, R>(
    at_rest: &Arc<AtRest>,
    rows: Vec<T>,
    work: impl Fn(&AtRest, T) -> Result<R> + Send + Sync + 'static,
) -> Result<Vec<R>>
where
    T: Send + 'static,
    R: Send + 'static,
{
    let at_rest = Arc::clone(at_rest);
    let work = move || {
        rows.into_par_iter()
            .map(|row| work(&at_rest, row))
            .collect()
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::internal)?
}

#[cfg(test)]
mod tests;
