//! Hits, joined to the node's own records by their refs, and to each other as threads.

mod history;
mod write;

use scoped_futures::ScopedFutureExt as _;
use serde_json::Value;
use sotto_common::error::{Error, Result};
use sotto_common::followup::codes::HandlingCode;
use sotto_common::grounds::Grounds;
use sotto_common::hit::HitState;
use sotto_common::ids::{Epoch, HitId, NodeId, RecordRef, SessionId};
use sotto_common::publication::FilterLabels;
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::at_rest::{AtRest, Record as OwnRecord};
use super::log::{self, AnsweredBatch, Named, named_hit};
use super::{Store, damaged, signed, time, typed, unsigned};
use crate::hit::Hit;
pub(super) use history::renew_texts;
pub use history::{
    Decided, Feedback, HistoryEvent, NoteReview, Outcome, PendingFeedback, SignFeedback,
};

/// A hit with the node's own record behind it, and the thread that it is of.
#[derive(Clone, PartialEq, Debug)]
pub struct RecordHit {
    /// The hit; its state is what is shown of it.
    pub hit: Hit,
    /// Cursor of its last change.
    pub cursor: u64,
    /// The node's own dataset; empty for a one-off question, or if the ref is not known here.
    pub dataset: String,
    /// The node's own record id; empty if the ref is not known here.
    pub record_id: String,
    /// The canonical value that was asked for, if the ref is known here.
    pub canonical: Option<Selector>,
    /// The thread: the id of its first hit.
    pub thread: HitId,
    /// Where the thread stands.
    pub state: HitState,
    /// The cases that the hits of the thread were found for, sorted.
    pub case_refs: Vec<String>,
    /// True if the record was removed here since.
    pub record_removed: bool,
    /// True if the latest hit of the thread cannot be confirmed without a second factor.
    pub needs_second_factor: bool,
    /// True if a decision on the thread is not at the broker yet.
    pub feedback_pending: bool,
    /// Leaf of its entry in the audit log, and when that was seen proved (protocol §11).
    pub verified: Option<(u64, Timestamp)>,
    /// What the answers that are kept here say of it.
    pub named: Named,
}

/// A hit with its whole story.
#[derive(Clone, PartialEq, Debug)]
pub struct Story {
    /// The hit.
    pub hit: RecordHit,
    /// The other hits of its thread, oldest first.
    pub others: Vec<Hit>,
    /// What happened to the hits of the thread, oldest first.
    pub events: Vec<HistoryEvent>,
}

/// Threads in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThreadCounts {
    /// Those that nobody has looked at.
    pub new: u64,
    /// Those that are NEW, `UNDER_REVIEW`, CONFIRMED or `FOLLOWED_UP`.
    pub open: u64,
    /// Decisions that wait for the broker.
    pub pending: u64,
}

/// Which threads are asked for; everything that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct HitFilter {
    /// Only of this policy.
    pub policy: Option<Policy>,
    /// Only of this holder.
    pub holder: Option<NodeId>,
    /// Only of this dataset.
    pub dataset: Option<String>,
    /// Only those that stand in this state.
    pub state: Option<HitState>,
    /// Only those first seen at or after this time.
    pub since: Option<Timestamp>,
    /// Only those found for this case.
    pub case_ref: Option<String>,
    /// Those whose record was removed, too.
    pub with_removed: bool,
    /// Only those whose latest hit is verified in the audit log, or only those whose is not.
    pub verified: Option<bool>,
    /// Only after this thread, in the order of ids.
    pub after: Option<HitId>,
}

/// Counter of the changes of hits, which `WatchRecordHits` follows.
pub(super) const LOCAL_CURSOR: &str = "hit_cursor";
/// The last event of the broker's stream that was stored.
const INBOX_CURSOR: &str = "inbox_cursor";

/// The hit in a row of the table.
fn hit(row: &SqliteRow) -> Result<Hit> {
    let text = |column: &str| row.try_get::<String, _>(column).map_err(db_error);
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(db_error);
    let real = |column: &str| row.try_get::<f64, _>(column).map_err(db_error);
    let bytes = |column: &str| row.try_get::<Vec<u8>, _>(column).map_err(db_error);
    let epoch = u32::try_from(number("epoch")?).map_err(|_| damaged("epoch"))?;
    Ok(Hit {
        id: hit_id(&bytes("hit_id")?)?,
        epoch: Epoch::new(epoch).map_err(Error::internal)?,
        policy: typed(&text("policy")?)?,
        record_ref: RecordRef::from_slice(&bytes("record_ref")?).map_err(Error::internal)?,
        holder: typed(&text("holder")?)?,
        state: state(&text("state")?)?,
        filter_version: unsigned(number("filter_version")?),
        false_positive: real("false_positive")?,
        posterior: real("posterior")?,
        first_seen: time(number("first_seen")?),
        last_seen: time(number("last_seen")?),
        unmatched_since: row
            .try_get::<Option<i64>, _>("unmatched_since")
            .map_err(db_error)?
            .map(time),
        labels: labels(row)?,
    })
}

/// What the holder says of its filter, in a row of the table.
fn labels(row: &SqliteRow) -> Result<FilterLabels> {
    let text = |column: &str| row.try_get::<&str, _>(column).map_err(db_error);
    let code = match text("handling_code")? {
        "" => None,
        code => Some(HandlingCode::parse(code).ok_or_else(|| damaged("handling code"))?),
    };
    FilterLabels::new(text("contact_unit")?, code, text("handling_text")?)
        .map_err(|_| damaged("label of a filter"))
}

fn hit_id(bytes: &[u8]) -> Result<HitId> {
    HitId::from_slice(bytes).map_err(Error::internal)
}

fn state(text: &str) -> Result<HitState> {
    HitState::parse(text).ok_or_else(|| damaged("state"))
}

/// The ids as the JSON array that statements take.
fn ids_json(ids: impl IntoIterator<Item = HitId>) -> String {
    let ids = ids.into_iter().map(|id| hex::encode(id.as_bytes()).into());
    Value::Array(ids.collect()).to_string()
}

/// The node's own record behind a hit: its dataset, and its id and canonical value unless it was
/// removed; all empty if the ref is not known here.
fn own_record(at_rest: &AtRest, row: &SqliteRow) -> Result<(String, Option<OwnRecord>)> {
    let dataset: Option<String> = row.try_get("dataset").map_err(db_error)?;
    let dataset = dataset.unwrap_or_default();
    let sealed: Option<Vec<u8>> = row.try_get("record").map_err(db_error)?;
    let Some(sealed) = sealed else {
        return Ok((dataset, None));
    };
    let index: Vec<u8> = row.try_get("canonical_index").map_err(db_error)?;
    let record = at_rest.open_record(&dataset, &index, &sealed)?;
    Ok((dataset, Some(record)))
}

fn record_hit(at_rest: &AtRest, row: &SqliteRow) -> Result<RecordHit> {
    let flag = |column: &str| row.try_get::<bool, _>(column).map_err(db_error);
    let (dataset, record) = own_record(at_rest, row)?;
    let (record_id, canonical) = record
        .map(|record| (record.record_id, record.canonical))
        .unzip();
    let text = |column: &str| row.try_get::<String, _>(column).map_err(db_error);
    let mut case_refs: Vec<String> =
        serde_json::from_str(&text("case_refs")?).map_err(Error::internal)?;
    case_refs.sort_unstable();
    let hit = hit(row)?;
    let thread: Vec<u8> = row.try_get("thread_id").map_err(db_error)?;
    let latest = Hit {
        posterior: row.try_get("latest_posterior").map_err(db_error)?,
        ..hit.clone()
    };
    Ok(RecordHit {
        cursor: unsigned(row.try_get("cursor").map_err(db_error)?),
        dataset,
        record_id: record_id.unwrap_or_default(),
        canonical,
        thread: hit_id(&thread)?,
        state: state(&text("thread_state")?)?,
        case_refs,
        record_removed: flag("record_removed")?,
        needs_second_factor: latest.needs_second_factor(),
        feedback_pending: flag("feedback_pending")?,
        verified: verified(row)?,
        named: Named::from_column(row.try_get("named").map_err(db_error)?)?,
        hit,
    })
}

/// Where and since when a hit is proved to be in the audit log.
fn verified(row: &SqliteRow) -> Result<Option<(u64, Timestamp)>> {
    let number = |column: &str| row.try_get::<Option<i64>, _>(column).map_err(db_error);
    let (leaf, at) = (number("leaf_index")?, number("verified_at")?);
    Ok(leaf.zip(at).map(|(leaf, at)| (unsigned(leaf), time(at))))
}

/// Whether the record behind a hit was removed here.
macro_rules! removed {
    () => {
        "(r.selector_id IS NOT NULL AND (s.selector_id IS NULL OR s.removed_at IS NOT NULL))"
    };
}

/// A hit with its record and thread; the statements below add what they ask for.
macro_rules! select_hits {
    ($($rest:expr),+) => {
        concat!(
            "SELECT h.*, d.name AS dataset, s.record, s.canonical_index, t.state AS thread_state, ",
            removed!(), " AS record_removed, ", named_hit!(), " AS named,
             l.posterior AS latest_posterior,
             (SELECT json_group_array(DISTINCT c.case_ref) FROM hits o JOIN hit_cases c
                  ON c.hit_id = o.hit_id WHERE o.thread_id = h.thread_id) AS case_refs,
             EXISTS (SELECT 1 FROM hits o JOIN hit_history e ON e.hit_id = o.hit_id
                 WHERE o.thread_id = h.thread_id AND e.feedback = 'PENDING') AS feedback_pending
             FROM hits h
             JOIN threads t ON t.thread_id = h.thread_id
             JOIN hits l ON l.hit_id = t.latest
             LEFT JOIN record_refs r ON r.record_ref = h.record_ref
             LEFT JOIN selectors s ON s.selector_id = r.selector_id
             LEFT JOIN datasets d ON d.dataset_id = s.dataset_id ",
            $($rest),+
        )
    };
}

impl Store {
    /// Stores hits as the broker's stream told them, and that the stream was read up to a cursor,
    /// in one transaction; tells the local cursor.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_streamed_hits(
        &self,
        hits: &[Hit],
        inbox_cursor: u64,
        now: Timestamp,
    ) -> Result<u64> {
        self.db
            .run_tx("put_streamed_hits", |tx| {
                async move {
                    let local = write::streamed(tx, hits, now).await?;
                    set_counter(tx, INBOX_CURSOR, inbox_cursor).await?;
                    Ok(local)
                }
                .scope_boxed()
            })
            .await
    }

    /// Stores the hits of the answer to a one-off question, why it was put, and what it was in the
    /// audit log; tells the local cursor.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_answered_hits(
        &self,
        found: &[Hit],
        grounds: &Grounds,
        batch: &AnsweredBatch,
    ) -> Result<u64> {
        let opening = &batch.sealed(&self.at_rest);
        self.db
            .run_tx("put_answered_hits", |tx| {
                async move {
                    log::put_batch(tx, batch, opening, found).await?;
                    let local = write::answered(tx, found).await?;
                    write::put_cases(tx, found, grounds).await?;
                    Ok(local)
                }
                .scope_boxed()
            })
            .await
    }

    /// The last event of the broker's stream that was stored; 0 at first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn inbox_cursor(&self) -> Result<u64> {
        self.counter(INBOX_CURSOR).await
    }

    /// Begins the broker's stream again: it does not know the cursor any more. Nor may it know
    /// what it answered to decisions: what it tells now holds.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn reset_inbox_cursor(&self) -> Result<()> {
        self.db
            .run_tx("reset_inbox_cursor", |tx| {
                async move {
                    sqlx::query("UPDATE hits SET awaited = NULL, awaited_seen = NULL")
                        .execute(&mut *tx)
                        .await
                        .map_err(db_error)?;
                    set_counter(tx, INBOX_CURSOR, 0).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Cursor of the last change of a hit; 0 at first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn hit_cursor(&self) -> Result<u64> {
        self.counter(LOCAL_CURSOR).await
    }

    pub(super) async fn counter(&self, name: &'static str) -> Result<u64> {
        let value: Option<i64> = sqlx::query_scalar("SELECT value FROM counters WHERE name = $1")
            .bind(name)
            .fetch_optional(self.db.read())
            .await
            .map_err(db_error)?;
        Ok(value.map_or(0, unsigned))
    }

    /// One hit.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn record_hit(&self, hit: HitId) -> Result<Option<RecordHit>> {
        sqlx::query(select_hits!("WHERE h.hit_id = $1"))
            .bind(&hit.as_bytes()[..])
            .fetch_optional(self.db.read())
            .await
            .map_err(db_error)?
            .as_ref()
            .map(|row| record_hit(&self.at_rest, row))
            .transpose()
    }

    /// One hit, the others of its thread, and what happened to them.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn hit_story(&self, hit: HitId) -> Result<Option<Story>> {
        let rows = self
            .db
            .read_tx("hit_story", |tx| {
                async move {
                    let rows = sqlx::query(select_hits!(
                        "WHERE h.thread_id = (SELECT thread_id FROM hits WHERE hit_id = $1)
                         ORDER BY h.epoch, h.hit_id"
                    ))
                    .bind(&hit.as_bytes()[..])
                    .fetch_all(&mut *tx)
                    .await
                    .map_err(db_error)?;
                    let hits: Vec<_> = rows
                        .iter()
                        .map(|row| record_hit(&self.at_rest, row))
                        .collect::<Result<_>>()?;
                    let events = history::of_thread(tx, hit).await?;
                    Ok((hits, events))
                }
                .scope_boxed()
            })
            .await?;
        let (mut hits, events) = rows;
        let Some(asked) = hits.iter().position(|other| other.hit.id == hit) else {
            return Ok(None);
        };
        let hit = hits.remove(asked);
        let events = events
            .into_iter()
            .map(|event| self.open_event(event))
            .collect::<Result<_>>()?;
        Ok(Some(Story {
            hit,
            others: hits.into_iter().map(|other| other.hit).collect(),
            events,
        }))
    }

    /// The latest hit of each thread, in the order of the threads' ids, oldest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn record_hits(&self, filter: &HitFilter, limit: u32) -> Result<Vec<RecordHit>> {
        let after = filter.after.map(|id| id.as_bytes().to_vec());
        sqlx::query(select_hits!(
            "WHERE h.hit_id = t.latest AND t.thread_id > $1
               AND ($2 IS NULL OR h.policy = $2) AND ($3 IS NULL OR h.holder = $3)
               AND ($4 IS NULL OR d.name = $4) AND ($5 IS NULL OR t.state = $5)
               AND ($6 IS NULL OR t.first_seen >= $6)
               AND ($7 IS NULL OR EXISTS (SELECT 1 FROM hits o JOIN hit_cases c
                   ON c.hit_id = o.hit_id WHERE o.thread_id = h.thread_id AND c.case_ref = $7))
               AND ($8 OR NOT ",
            removed!(),
            ") AND ($9 IS NULL OR (h.verified_at IS NOT NULL) = $9) ORDER BY t.thread_id LIMIT $10"
        ))
        .bind(after.unwrap_or_default())
        .bind(filter.policy.map(Policy::name))
        .bind(filter.holder.as_ref().map(NodeId::as_str))
        .bind(filter.dataset.as_deref())
        .bind(filter.state.map(HitState::as_str))
        .bind(filter.since.map(Timestamp::micros))
        .bind(filter.case_ref.as_deref())
        .bind(filter.with_removed)
        .bind(filter.verified)
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| record_hit(&self.at_rest, row))
        .collect()
    }

    /// How many threads nobody has looked at, how many are open, and how many decisions wait for
    /// the broker. Threads whose record was removed are left out.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn count_threads(&self) -> Result<ThreadCounts> {
        let (new, open, pending): (i64, i64, i64) = sqlx::query_as(concat!(
            "SELECT coalesce(sum(t.state = 'NEW'), 0), count(*),
                 (SELECT count(*) FROM hit_history WHERE feedback = 'PENDING')
             FROM threads t
             JOIN hits h ON h.hit_id = t.latest
             LEFT JOIN record_refs r ON r.record_ref = h.record_ref
             LEFT JOIN selectors s ON s.selector_id = r.selector_id
             WHERE t.state IN ('NEW', 'UNDER_REVIEW', 'CONFIRMED', 'FOLLOWED_UP') AND NOT ",
            removed!()
        ))
        .fetch_one(self.db.read())
        .await
        .map_err(db_error)?;
        Ok(ThreadCounts {
            new: unsigned(new),
            open: unsigned(open),
            pending: unsigned(pending),
        })
    }

    /// Hits that are new or have changed since a cursor, in the order of their last change.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn record_hits_since(&self, cursor: u64, limit: u32) -> Result<Vec<RecordHit>> {
        sqlx::query(select_hits!(
            "WHERE h.cursor > $1 ORDER BY h.cursor LIMIT $2"
        ))
        .bind(signed(cursor))
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| record_hit(&self.at_rest, row))
        .collect()
    }
}

/// The hits that a batch of a session found, for the grounds of the session; tells the local
/// cursor.
pub(super) async fn put_found(
    tx: &mut SqliteConnection,
    session: SessionId,
    found: &[Hit],
) -> Result<u64> {
    let local = write::answered(tx, found).await?;
    write::put_session_cases(tx, found, session).await?;
    Ok(local)
}

pub(super) async fn set_counter(tx: &mut SqliteConnection, name: &str, value: u64) -> Result<()> {
    sqlx::query(
        "INSERT INTO counters (name, value) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )
    .bind(name)
    .bind(signed(value))
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

#[cfg(test)]
mod tests;
