//! The audit log as this node follows it (protocol §11): the last checkpoint that it found
//! consistent, what it keeps against the log, and which hits and batches are proved to be in it.

mod answers;
mod batches;
mod evidence;

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::ids::{Epoch, HitId, NodeId};
use sotto_common::log::checkpoint::{Checkpoint, SignedCheckpoint};
use sotto_common::log::merkle::{MerkleHash, TreeHead};
use sotto_common::log::origin::LogOrigin;
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::SqliteConnection;

use super::hits::LOCAL_CURSOR;
use super::{Store, advance, damaged, signed, time, typed, unsigned};

pub(super) use answers::named_hit;
pub use answers::{Named, Unproved};
pub(super) use batches::put_batch;
pub use batches::{AnsweredBatch, BatchToVerify};
pub(super) use evidence::renew_evidence;
pub use evidence::{Evidence, StoredEvidence};

/// The last checkpoint of a log that this node found consistent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredCheckpoint {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// The signed note as it came.
    pub note: Vec<u8>,
    /// When it was stored.
    pub at: Timestamp,
    /// Since when too few witnesses stand behind what the log shows; `None` while enough do.
    pub few_since: Option<Timestamp>,
}

/// A hit that is not verified, as far as its entry must agree with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnverifiedHit {
    /// The hit.
    pub id: HitId,
    /// The epoch that it was found in.
    pub epoch: Epoch,
    /// The policy.
    pub policy: Policy,
    /// Who holds it.
    pub holder: NodeId,
    /// What the answers that are kept here say of it.
    pub named: Named,
}

/// Size, root, note, when it was stored, since when too few stand behind it.
type CheckpointRow = (i64, Vec<u8>, Vec<u8>, i64, Option<i64>);

/// Id, epoch, policy, holder, what the answers say.
type HitRow = (Vec<u8>, u32, String, String, Option<i64>);

impl Store {
    /// The last checkpoint of a log that was found consistent.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn log_checkpoint(&self, log: &LogOrigin) -> Result<Option<StoredCheckpoint>> {
        let row: Option<CheckpointRow> = sqlx::query_as(
            "SELECT tree_size, root, note, stored_at, few_since FROM log_checkpoints
             WHERE origin = $1",
        )
        .bind(log.to_string())
        .fetch_optional(self.db.read())
        .await
        .map_err(db_error)?;
        let Some((size, root, note, at, few_since)) = row else {
            return Ok(None);
        };
        let head = TreeHead {
            size: unsigned(size),
            root: MerkleHash::from_slice(&root).ok_or_else(|| damaged("root"))?,
        };
        Ok(Some(StoredCheckpoint {
            checkpoint: Checkpoint {
                origin: log.clone(),
                head,
            },
            note,
            at: time(at),
            few_since: few_since.map(time),
        }))
    }

    /// Stores a checkpoint that was found consistent, in place of the one before; of no effect if
    /// a larger one was stored meanwhile. Durable when this returns: only then may it be cosigned.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_log_checkpoint(
        &self,
        checkpoint: &SignedCheckpoint,
        now: Timestamp,
    ) -> Result<()> {
        let (origin, note) = (
            &checkpoint.checkpoint().origin.to_string(),
            &checkpoint.to_string(),
        );
        let head = *checkpoint.head();
        self.db
            .run_tx("put_log_checkpoint", |tx| {
                async move {
                    sqlx::query(
                        "INSERT INTO log_checkpoints (origin, tree_size, root, note, stored_at)
                         VALUES ($1, $2, $3, $4, $5)
                         ON CONFLICT (origin) DO UPDATE SET tree_size = excluded.tree_size,
                             root = excluded.root, note = excluded.note,
                             stored_at = excluded.stored_at
                         WHERE excluded.tree_size >= log_checkpoints.tree_size",
                    )
                    .bind(origin)
                    .bind(signed(head.size))
                    .bind(&head.root.as_bytes()[..])
                    .bind(note.as_bytes())
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

    /// Notes whether enough witnesses stand behind what a log shows. Of effect once a checkpoint of it is
    /// stored; the time since when there are too few is the first one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn set_witnessed(&self, log: &LogOrigin, enough: bool, now: Timestamp) -> Result<()> {
        let (origin, since) = (&log.to_string(), (!enough).then_some(now.micros()));
        self.db
            .run_tx("set_witnessed", |tx| {
                async move {
                    sqlx::query(
                        "UPDATE log_checkpoints SET few_since = $2
                         WHERE origin = $1 AND (few_since IS NULL) <> ($2 IS NULL)",
                    )
                    .bind(origin)
                    .bind(since)
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// How many hits are not verified.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn count_unverified(&self) -> Result<u64> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM hits WHERE verified_at IS NULL")
            .fetch_one(self.db.read())
            .await
            .map_err(db_error)?;
        Ok(unsigned(count))
    }

    /// The epochs of hits that are not verified.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn epochs_unverified(&self) -> Result<Vec<Epoch>> {
        let epochs: Vec<u32> =
            sqlx::query_scalar("SELECT DISTINCT epoch FROM hits WHERE verified_at IS NULL")
                .fetch_all(self.db.read())
                .await
                .map_err(db_error)?;
        epochs.into_iter().map(read_epoch).collect()
    }

    /// Hits of these epochs that are not verified and are older than one, `None` = the newest,
    /// newest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn unverified_hits(
        &self,
        epochs: &[Epoch],
        before: Option<HitId>,
        limit: u32,
    ) -> Result<Vec<UnverifiedHit>> {
        let epochs: Vec<u32> = epochs.iter().map(|epoch| epoch.get()).collect();
        let rows: Vec<HitRow> = sqlx::query_as(concat!(
            "SELECT hit_id, epoch, policy, holder, ",
            named_hit!(),
            " FROM hits h
             WHERE verified_at IS NULL AND ($1 IS NULL OR hit_id < $1)
               AND epoch IN (SELECT value FROM json_each($2))
             ORDER BY hit_id DESC LIMIT $3"
        ))
        .bind(before.map(|hit| hit.as_bytes().to_vec()))
        .bind(serde_json::to_string(&epochs).map_err(Error::internal)?)
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        let hit = |(id, epoch, policy, holder, named): HitRow| {
            Ok(UnverifiedHit {
                id: HitId::from_slice(&id).map_err(Error::internal)?,
                epoch: read_epoch(epoch)?,
                policy: typed(&policy)?,
                holder: typed(&holder)?,
                named: Named::from_column(named)?,
            })
        };
        rows.into_iter().map(hit).collect()
    }

    /// Marks hits as verified, each with the leaf of its entry; tells the local cursor.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn mark_verified(&self, hits: &[(HitId, u64)], now: Timestamp) -> Result<u64> {
        self.db
            .run_tx("mark_verified", |tx| {
                async move {
                    let mut cursor = advance(tx, LOCAL_CURSOR, 0).await?;
                    for (hit, leaf) in hits {
                        cursor = mark(tx, *hit, *leaf, now).await?.unwrap_or(cursor);
                    }
                    Ok(unsigned(cursor))
                }
                .scope_boxed()
            })
            .await
    }
}

/// Marks one hit, unless it is marked already or gone; tells the cursor of the change.
async fn mark(
    tx: &mut SqliteConnection,
    hit: HitId,
    leaf: u64,
    now: Timestamp,
) -> Result<Option<i64>> {
    let waits: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM hits WHERE hit_id = $1 AND verified_at IS NULL)",
    )
    .bind(&hit.as_bytes()[..])
    .fetch_one(&mut *tx)
    .await
    .map_err(db_error)?;
    if !waits {
        return Ok(None);
    }
    let cursor = advance(tx, LOCAL_CURSOR, 1).await?;
    sqlx::query("UPDATE hits SET leaf_index = $2, verified_at = $3, cursor = $4 WHERE hit_id = $1")
        .bind(&hit.as_bytes()[..])
        .bind(signed(leaf))
        .bind(now.micros())
        .bind(cursor)
        .execute(tx)
        .await
        .map_err(db_error)?;
    Ok(Some(cursor))
}

fn read_epoch(number: u32) -> Result<Epoch> {
    Epoch::new(number).map_err(Error::internal)
}

#[cfg(test)]
mod tests;
