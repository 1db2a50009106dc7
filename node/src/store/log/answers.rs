//! What the answers that are kept here say of hits. The entry of a hit in the log names no record ref:
//! what binds a hit to its record is the answer to a batch, whose digest is in the log (protocol §11).

use serde_json::{Value, json};
use sotto_common::error::Result;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::SqliteConnection;

use super::AnsweredBatch;
use crate::hit::Hit;
use crate::store::{Store, damaged, time, unsigned};

/// What the kept answers say of a hit. Only [`Named::Verified`] binds it to its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    /// One names it for another record, holder, policy or epoch than the hit is stored with.
    Otherwise,
    /// None names it: it came by the stream alone.
    Nowhere,
    /// Those that name it came without a place in the log, or that place was of a log that is not gone
    /// on with.
    Unplaced,
    /// Those that name it are not verified.
    Unverified,
    /// One that is verified names it, and none names it otherwise.
    Verified,
}

impl Named {
    /// As `named_hit!` gives it.
    ///
    /// # Errors
    /// `INTERNAL` for another number.
    pub(in crate::store) fn from_column(rank: Option<i64>) -> Result<Self> {
        Ok(match rank {
            None => Self::Nowhere,
            Some(0) => Self::Otherwise,
            Some(1) => Self::Unplaced,
            Some(2) => Self::Unverified,
            Some(3) => Self::Verified,
            Some(_) => return Err(damaged("word of an answer")),
        })
    }
}

/// What the kept answers say of the hit `h`, for `Named::from_column`.
macro_rules! named_hit {
    () => {
        "(SELECT CASE
              WHEN sum(a.record_ref <> h.record_ref OR a.holder <> h.holder
                  OR a.policy <> h.policy OR a.epoch <> h.epoch) > 0 THEN 0
              ELSE max(CASE WHEN b.verified_at IS NOT NULL THEN 3
                  WHEN b.leaf_index IS NOT NULL THEN 2 ELSE 1 END)
              END
          FROM answered_hits a JOIN probed_batches b ON b.batch_id = a.batch_id
          WHERE a.hit_id = h.hit_id)"
    };
}
pub(in crate::store) use named_hit;

/// What waits for its proof in the audit log.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Unproved {
    /// Hits that are NEW, `UNDER_REVIEW`, CONFIRMED or `FOLLOWED_UP` and not verified.
    pub open_hits: u64,
    /// When the first of them was seen.
    pub open_hits_since: Option<Timestamp>,
    /// Hits, of whatever state, that are not verified, as a kept answer names them otherwise than they
    /// are stored.
    pub named_otherwise: u64,
    /// Batches with a place in the log that are not verified.
    pub batches: u64,
    /// When the first of them was answered.
    pub batches_since: Option<Timestamp>,
    /// Batches, answered at or after the time that was asked for, without a place in the log.
    pub unplaced: u64,
    /// When the first of those was answered.
    pub unplaced_since: Option<Timestamp>,
}

/// Stores what the answer to a batch, which is stored, says of hits. Another answer to a batch than the
/// one that is kept says nothing: its digest is not what is compared with the log.
pub(super) async fn put_answers(
    tx: &mut SqliteConnection,
    batch: &AnsweredBatch,
    found: &[Hit],
) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let row = |hit: &Hit| {
        json!([
            hex::encode(hit.id.as_bytes()),
            hit.epoch.get(),
            hit.policy.name(),
            hit.record_ref.to_string(),
            hit.holder.as_str(),
        ])
    };
    sqlx::query(
        "INSERT OR IGNORE INTO answered_hits (hit_id, batch_id, epoch, policy, record_ref, holder)
         SELECT unhex(value ->> 0), b.batch_id, value ->> 1, value ->> 2, unhex(value ->> 3),
             value ->> 4
         FROM json_each($1), probed_batches b
         WHERE b.session_id = $2 AND b.number = $3 AND b.answer_digest = $4",
    )
    .bind(found.iter().map(row).collect::<Value>().to_string())
    .bind(&batch.session.as_bytes()[..])
    .bind(batch.number)
    .bind(&batch.answer_digest[..])
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

impl Store {
    /// What waits for its proof; of the batches without a place in the log those that were answered at
    /// or after a time.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn unproved(&self, unplaced_after: Timestamp) -> Result<Unproved> {
        let (open_hits, open_hits_since, named_otherwise): (i64, Option<i64>, i64) =
            sqlx::query_as(concat!(
                "SELECT coalesce(sum(is_open), 0), min(CASE WHEN is_open THEN first_seen END),
                     coalesce(sum(named IS 0), 0)
                 FROM (SELECT h.first_seen,
                     h.state IN ('NEW', 'UNDER_REVIEW', 'CONFIRMED', 'FOLLOWED_UP') AS is_open, ",
                named_hit!(),
                " AS named FROM hits h WHERE h.verified_at IS NULL)"
            ))
            .fetch_one(self.db.read())
            .await
            .map_err(db_error)?;
        let (batches, batches_since): (i64, Option<i64>) = sqlx::query_as(
            "SELECT count(*), min(answered_at) FROM probed_batches
             WHERE verified_at IS NULL AND leaf_index IS NOT NULL",
        )
        .fetch_one(self.db.read())
        .await
        .map_err(db_error)?;
        let (unplaced, unplaced_since): (i64, Option<i64>) = sqlx::query_as(
            "SELECT count(*), min(answered_at) FROM probed_batches
             WHERE leaf_index IS NULL AND answered_at >= $1",
        )
        .bind(unplaced_after.micros())
        .fetch_one(self.db.read())
        .await
        .map_err(db_error)?;
        Ok(Unproved {
            open_hits: unsigned(open_hits),
            open_hits_since: open_hits_since.map(time),
            named_otherwise: unsigned(named_otherwise),
            batches: unsigned(batches),
            batches_since: batches_since.map(time),
            unplaced: unsigned(unplaced),
            unplaced_since: unplaced_since.map(time),
        })
    }
}
