//! Every batch that was answered, for the community's retention time: with nonce, pairs and answer
//! the prober can open the digests in the log to an auditor (protocol §11).

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::ids::{Epoch, RecordRef, SessionId};
use sotto_common::probe::{SessionNonce, answer_digest, tags_digest};
use sotto_common::random::os_rng;
use sotto_common::secret::Tag;
use sotto_common::service::at_rest::{Cell, ColumnCipher};
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::SqliteConnection;
use zeroize::Zeroizing;

use super::answers::put_answers;
use crate::hit::Hit;
use crate::store::at_rest::AtRest;
use crate::store::{Store, damaged, signed, unsigned};

/// A batch with its answer.
pub struct AnsweredBatch {
    /// Its session.
    pub session: SessionId,
    /// Its number there.
    pub number: u32,
    /// The epoch of the session: its profile says for how long the batch is kept.
    pub epoch: Epoch,
    /// Its leaf in the log, as the broker said; `None` if it did not.
    pub leaf_index: Option<u64>,
    /// Digest of the pairs as they were sent.
    pub tags_digest: [u8; 32],
    /// Digest of the answer as it came.
    pub answer_digest: [u8; 32],
    /// When it was answered.
    pub at: Timestamp,
    /// `nonce ‖ u32(n) ‖ (tag ‖ ref)… ‖ matches`.
    opening: Zeroizing<Vec<u8>>,
}

/// A batch whose entry is to be looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchToVerify {
    /// Its place among the batches of this node.
    pub place: u64,
    /// Its session.
    pub session: SessionId,
    /// Its number there.
    pub number: u32,
    /// Its leaf, as the broker said.
    pub leaf_index: u64,
    /// Digest of the pairs as they were sent.
    pub tags_digest: [u8; 32],
    /// Digest of the answer as it came.
    pub answer_digest: [u8; 32],
}

impl AnsweredBatch {
    /// What is kept of a batch.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "all of one batch")]
    pub fn new(
        session: SessionId,
        number: u32,
        epoch: Epoch,
        nonce: &SessionNonce,
        pairs: &[(Tag, RecordRef)],
        matches: &[u8],
        leaf_index: Option<u64>,
        at: Timestamp,
    ) -> Self {
        let count = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
        let mut opening = Zeroizing::new(Vec::with_capacity(36 + 32 * pairs.len() + matches.len()));
        opening.extend_from_slice(nonce.secret().expose());
        opening.extend_from_slice(&count.to_be_bytes());
        for (tag, record_ref) in pairs {
            // Sealed at rest, for an auditor alone.
            opening.extend_from_slice(tag.expose());
            opening.extend_from_slice(record_ref.as_bytes());
        }
        opening.extend_from_slice(matches);
        Self {
            session,
            number,
            epoch,
            leaf_index,
            tags_digest: tags_digest(nonce, number, pairs),
            answer_digest: answer_digest(nonce, number, matches),
            at,
            opening,
        }
    }

    /// Nonce, pairs and answer as they are stored.
    pub(in crate::store) fn sealed(&self, at_rest: &AtRest) -> Vec<u8> {
        let row = row(&self.session, self.number);
        at_rest
            .cipher()
            .seal(cell(&row), &self.opening, &mut os_rng())
    }
}

const fn cell(row: &[u8]) -> Cell<'_> {
    Cell {
        table: "probed_batches",
        row,
        column: "opening",
    }
}

/// What identifies a batch.
fn row(session: &SessionId, number: u32) -> Vec<u8> {
    [&session.as_bytes()[..], &number.to_be_bytes()].concat()
}

/// Stores a batch that was answered, with its sealed opening and the hits that were found in the answer. A
/// batch that is answered again, which is the same, stays as it was.
pub(in crate::store) async fn put_batch(
    tx: &mut SqliteConnection,
    batch: &AnsweredBatch,
    opening: &[u8],
    found: &[Hit],
) -> Result<()> {
    sqlx::query(
        "INSERT INTO probed_batches (session_id, number, epoch, leaf_index, tags_digest,
             answer_digest, opening, answered_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (session_id, number) DO NOTHING",
    )
    .bind(&batch.session.as_bytes()[..])
    .bind(batch.number)
    .bind(batch.epoch.get())
    .bind(batch.leaf_index.map(signed))
    .bind(&batch.tags_digest[..])
    .bind(&batch.answer_digest[..])
    .bind(opening)
    .bind(batch.at.micros())
    .execute(&mut *tx)
    .await
    .map_err(db_error)?;
    put_answers(tx, batch, found).await
}

/// Place, session, number, leaf, digest of the pairs, digest of the answer.
type Row = (i64, Vec<u8>, u32, i64, Vec<u8>, Vec<u8>);

fn to_verify((place, session, number, leaf, tags, answer): Row) -> Result<BatchToVerify> {
    let digest = |bytes: Vec<u8>| <[u8; 32]>::try_from(bytes).map_err(|_| damaged("digest"));
    Ok(BatchToVerify {
        place: unsigned(place),
        session: SessionId::from_slice(&session).map_err(Error::internal)?,
        number,
        leaf_index: unsigned(leaf),
        tags_digest: digest(tags)?,
        answer_digest: digest(answer)?,
    })
}

impl Store {
    /// Batches after a place that are in a tree of this size, and not verified.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn unverified_batches(
        &self,
        after: u64,
        tree_size: u64,
        limit: u32,
    ) -> Result<Vec<BatchToVerify>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT batch_id, session_id, number, leaf_index, tags_digest, answer_digest
             FROM probed_batches
             WHERE batch_id > $1 AND verified_at IS NULL AND leaf_index IS NOT NULL
               AND leaf_index < $2
             ORDER BY batch_id LIMIT $3",
        )
        .bind(signed(after))
        .bind(signed(tree_size))
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        rows.into_iter().map(to_verify).collect()
    }

    /// One batch that is verified; `None` if it is not kept, or not verified.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn probed_batch(
        &self,
        session: SessionId,
        number: u32,
    ) -> Result<Option<BatchToVerify>> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT batch_id, session_id, number, leaf_index, tags_digest, answer_digest
             FROM probed_batches
             WHERE session_id = $1 AND number = $2 AND leaf_index IS NOT NULL
               AND verified_at IS NOT NULL",
        )
        .bind(&session.as_bytes()[..])
        .bind(number)
        .fetch_optional(self.db.read())
        .await
        .map_err(db_error)?;
        row.map(to_verify).transpose()
    }

    /// Marks a batch as verified.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn mark_batch_verified(&self, place: u64, now: Timestamp) -> Result<()> {
        self.db
            .run_tx("mark_batch_verified", |tx| {
                async move {
                    sqlx::query("UPDATE probed_batches SET verified_at = $2 WHERE batch_id = $1")
                        .bind(signed(place))
                        .bind(now.micros())
                        .execute(tx)
                        .await
                        .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// Erases the batches of an epoch that were answered before a time; tells how many.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn erase_batches(&self, epoch: Epoch, before: Timestamp) -> Result<u64> {
        self.db
            .run_tx("erase_batches", |tx| {
                async move {
                    let done = sqlx::query(
                        "DELETE FROM probed_batches WHERE epoch = $1 AND answered_at < $2",
                    )
                    .bind(epoch.get())
                    .bind(before.micros())
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(done.rows_affected())
                }
                .scope_boxed()
            })
            .await
    }

    /// Looks at no more than `limit` batches after one, and brings their openings under the first
    /// key of the key list; `None` after the last.
    ///
    /// # Errors
    /// Those of the store; `INTERNAL` if a key is not in the list.
    pub async fn renew_batches(&self, after: u64, limit: u32) -> Result<Option<u64>> {
        let rows: Vec<(i64, Vec<u8>, u32, Vec<u8>)> = sqlx::query_as(
            "SELECT batch_id, session_id, number, opening FROM probed_batches
             WHERE batch_id > $1 ORDER BY batch_id LIMIT $2",
        )
        .bind(signed(after))
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        let Some(last) = rows.last().map(|row| unsigned(row.0)) else {
            return Ok(None);
        };
        let mut renewed = Vec::new();
        for (place, session, number, sealed) in rows {
            let session = SessionId::from_slice(&session).map_err(Error::internal)?;
            let anew = renew(self.at_rest.cipher(), &row(&session, number), &sealed)?;
            renewed.extend(anew.map(|anew| (place, anew)));
        }
        let renewed = &renewed;
        self.db
            .run_tx("renew_batches", |tx| {
                async move {
                    for (place, opening) in renewed {
                        sqlx::query("UPDATE probed_batches SET opening = $2 WHERE batch_id = $1")
                            .bind(place)
                            .bind(opening)
                            .execute(&mut *tx)
                            .await
                            .map_err(db_error)?;
                    }
                    Ok(())
                }
                .scope_boxed()
            })
            .await?;
        Ok(Some(last))
    }
}

/// An opening under the first key, if it is under another.
fn renew(cipher: &ColumnCipher, row: &[u8], sealed: &[u8]) -> Result<Option<Vec<u8>>> {
    if cipher.is_current(sealed) {
        return Ok(None);
    }
    let clear = cipher.open(cell(row), sealed)?;
    Ok(Some(cipher.seal(cell(row), &clear, &mut os_rng())))
}

#[cfg(test)]
impl Store {
    /// Nonce, pairs and answer of a batch as they were kept.
    pub(crate) async fn batch_opening(&self, session: SessionId, number: u32) -> Option<Vec<u8>> {
        let sealed: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT opening FROM probed_batches WHERE session_id = $1 AND number = $2",
        )
        .bind(&session.as_bytes()[..])
        .bind(number)
        .fetch_optional(self.db.read())
        .await
        .expect("read");
        let cipher = self.at_rest.cipher();
        let open = |sealed: Vec<u8>| cipher.open(cell(&row(&session, number)), &sealed);
        sealed.map(|sealed| open(sealed).expect("opens").to_vec())
    }
}
