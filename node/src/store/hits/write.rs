//! What the broker tells of hits, and what follows from it for their threads and their story.

use std::collections::HashMap;

use serde_json::json;
use sotto_common::error::Result;
use sotto_common::followup::codes::HandlingCode;
use sotto_common::grounds::Grounds;
use sotto_common::hit::HitState;
use sotto_common::ids::{HitId, SessionId};
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::super::probes::decoys_among;
use super::super::{advance, damaged, signed, time, unsigned};
use super::history::{self, Change};
use super::{LOCAL_CURSOR, ids_json, state};
use crate::hit::Hit;
use crate::hit::standing::{Standing, Told};
use crate::hit::thread;

/// Rows of hits with the state of the last decision that the broker has not answered; the
/// statements below add which.
macro_rules! kept {
    ($rest:literal) => {
        concat!(
            "SELECT h.*, (SELECT e.to_state FROM hit_history e
                 WHERE e.hit_id = h.hit_id AND e.feedback = 'PENDING'
                 ORDER BY e.event_id DESC LIMIT 1) AS pending
             FROM hits h ",
            $rest
        )
    };
}
pub(super) use kept;

/// A hit as the store has it or is to have it.
pub(super) struct Kept {
    /// The hit; its state is what is shown.
    pub(super) hit: Hit,
    /// Where it stands.
    pub(super) standing: Standing,
    cursor: i64,
    /// Empty for one that is new.
    thread: Vec<u8>,
    /// Place among the changes that are told; `None` if there is nothing to tell.
    told_as: Option<usize>,
}

impl Kept {
    pub(super) fn from_columns(row: &SqliteRow) -> Result<Self> {
        let maybe = |column: &str| row.try_get::<Option<String>, _>(column).map_err(db_error);
        let seen = |column: &str| row.try_get::<Option<i64>, _>(column).map_err(db_error);
        let told = |state_column: &str, seen_column: &str| -> Result<Option<Told>> {
            let (Some(text), Some(seen)) = (maybe(state_column)?, seen(seen_column)?) else {
                return Ok(None);
            };
            Ok(Some(Told {
                state: state(&text)?,
                seen: time(seen),
            }))
        };
        let pending = maybe("pending")?.map(|text| state(&text)).transpose()?;
        Ok(Self {
            hit: super::hit(row)?,
            standing: Standing {
                told: told("told", "told_seen")?.ok_or_else(|| damaged("state of the broker"))?,
                awaited: told("awaited", "awaited_seen")?,
                pending,
            },
            cursor: row.try_get("cursor").map_err(db_error)?,
            thread: row.try_get("thread_id").map_err(db_error)?,
            told_as: None,
        })
    }

    fn new(hit: &Hit, told: Told) -> Self {
        Self {
            hit: hit.clone(),
            standing: Standing::new(told),
            cursor: 0,
            thread: Vec::new(),
            told_as: None,
        }
    }
}

/// How the broker's stream tells a hit.
const fn told(hit: &Hit) -> Told {
    Told {
        state: hit.state,
        seen: hit.last_seen,
    }
}

/// Hits that change together.
#[derive(Default)]
pub(super) struct Changes {
    kept: HashMap<HitId, Kept>,
    /// What is to stand in the story.
    history: Vec<Change>,
    told: usize,
}

impl Changes {
    /// The hits of these ids that the store has.
    pub(super) async fn load(
        tx: &mut SqliteConnection,
        ids: impl IntoIterator<Item = HitId>,
    ) -> Result<Self> {
        let rows = sqlx::query(kept!(
            "WHERE h.hit_id IN (SELECT unhex(value) FROM json_each($1))"
        ))
        .bind(ids_json(ids))
        .fetch_all(tx)
        .await
        .map_err(db_error)?;
        let kept = rows.iter().map(Kept::from_columns);
        Ok(Self::of(kept.collect::<Result<Vec<_>>>()?))
    }

    /// These hits, as the store has them.
    pub(super) fn of(kept: impl IntoIterator<Item = Kept>) -> Self {
        Self {
            kept: kept.into_iter().map(|kept| (kept.hit.id, kept)).collect(),
            ..Self::default()
        }
    }

    /// A hit that is there.
    pub(super) fn get_mut(&mut self, hit: HitId) -> Option<&mut Kept> {
        self.kept.get_mut(&hit)
    }

    /// A change for the story; the hit is told to those who watch.
    pub(super) fn tell(&mut self, change: Change) {
        if let Some(kept) = self.kept.get_mut(&change.hit) {
            kept.hit.state = change.to;
            kept.told_as = Some(self.told);
        }
        self.told += 1;
        self.history.push(change);
    }

    /// Shows what follows from where a hit stands; a change of the state is the broker's doing.
    pub(super) fn settle(&mut self, hit: HitId, now: Timestamp) {
        let Some(kept) = self.kept.get(&hit) else {
            return;
        };
        let (from, to) = (kept.hit.state, kept.standing.shown());
        if from != to {
            self.tell(Change::by_broker(hit, now, Some(from), to));
        }
    }

    /// A hit that may not be there yet; says whether it was not.
    fn add(&mut self, hit: &Hit, told: Told) -> bool {
        let new = !self.kept.contains_key(&hit.id);
        if new {
            self.kept.insert(hit.id, Kept::new(hit, told));
            self.tell(Change::by_broker(hit.id, hit.first_seen, None, hit.state));
        }
        new
    }

    /// The broker's stream tells a hit as it stands.
    fn stream(&mut self, hit: &Hit, now: Timestamp) {
        if self.add(hit, told(hit)) {
            return;
        }
        if let Some(kept) = self.kept.get_mut(&hit.id) {
            kept.standing.hear(told(hit));
            kept.hit.first_seen = hit.first_seen;
            kept.hit.last_seen = hit.last_seen;
        }
        self.mark(hit);
        self.label(hit);
        self.measure(hit);
        self.settle(hit.id, now);
    }

    /// An answer tells less: state and first time of a hit that is known come by the stream, and
    /// what its holder says of the filter.
    fn answer(&mut self, hit: &Hit) {
        // Its times are this node's: the broker's are later than none of its own.
        let told = Told {
            state: hit.state,
            seen: Timestamp::from_micros(0),
        };
        if self.add(hit, told) {
            return;
        }
        if let Some(kept) = self.kept.get_mut(&hit.id) {
            kept.hit.last_seen = kept.hit.last_seen.max(hit.last_seen);
        }
        self.measure(hit);
    }

    /// Whether a hit that is followed up matches no more (workflow.md "Hit").
    fn mark(&mut self, hit: &Hit) {
        let Some(kept) = self.kept.get_mut(&hit.id) else {
            return;
        };
        if kept.hit.unmatched_since != hit.unmatched_since {
            kept.hit.unmatched_since = hit.unmatched_since;
            kept.told_as = Some(self.told);
            self.told += 1;
        }
    }

    /// What the holder says of the version that matched last.
    fn label(&mut self, hit: &Hit) {
        let Some(kept) = self.kept.get_mut(&hit.id) else {
            return;
        };
        if kept.hit.labels != hit.labels {
            kept.hit.labels.clone_from(&hit.labels);
            kept.told_as = Some(self.told);
            self.told += 1;
        }
    }

    /// How probable the match is. That it was seen again, and nothing else, is not told.
    fn measure(&mut self, hit: &Hit) {
        let Some(kept) = self.kept.get_mut(&hit.id) else {
            return;
        };
        let known = &mut kept.hit;
        if known.filter_version == hit.filter_version
            && same(known.false_positive, hit.false_positive)
            && same(known.posterior, hit.posterior)
        {
            return;
        }
        known.filter_version = hit.filter_version;
        known.false_positive = hit.false_positive;
        known.posterior = hit.posterior;
        kept.told_as = Some(self.told);
        self.told += 1;
    }

    /// Stores all of it; tells the local cursor.
    pub(super) async fn store(mut self, tx: &mut SqliteConnection) -> Result<u64> {
        let mut told: Vec<_> = self.kept.values_mut().collect();
        told.retain(|kept| kept.told_as.is_some());
        told.sort_unstable_by_key(|kept| kept.told_as);
        let count = told.len() as u64;
        let last = advance(tx, LOCAL_CURSOR, count).await?;
        for (kept, cursor) in told.into_iter().zip(last - signed(count) + 1..) {
            kept.cursor = cursor;
        }
        let ids = ids_json(self.kept.keys().copied());
        put_hits(tx, self.kept.values()).await?;
        history::put(tx, &self.history).await?;
        assign_threads(tx, &ids).await?;
        refresh_threads(tx, &ids).await?;
        Ok(unsigned(last))
    }
}

/// Whether two probabilities are the same one; the store rounds the last digits.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

pub(super) async fn streamed(
    tx: &mut SqliteConnection,
    hits: &[Hit],
    now: Timestamp,
) -> Result<u64> {
    let refs: Vec<_> = hits.iter().map(|hit| hit.record_ref).collect();
    // What a batch was filled up with matches by chance: it is a hit of nothing.
    let decoys = decoys_among(tx, &refs).await?;
    let mut changes = Changes::load(tx, hits.iter().map(|hit| hit.id)).await?;
    for hit in hits.iter().filter(|hit| !decoys.contains(&hit.record_ref)) {
        changes.stream(hit, now);
    }
    changes.store(tx).await
}

pub(super) async fn answered(tx: &mut SqliteConnection, found: &[Hit]) -> Result<u64> {
    let mut changes = Changes::load(tx, found.iter().map(|hit| hit.id)).await?;
    for hit in found {
        changes.answer(hit);
    }
    changes.store(tx).await
}

/// Why the hits were found, for a one-off question.
pub(super) async fn put_cases(
    tx: &mut SqliteConnection,
    found: &[Hit],
    grounds: &Grounds,
) -> Result<()> {
    sqlx::query(
        "INSERT OR IGNORE INTO hit_cases
             (hit_id, case_ref, purpose, legal_basis, reference, found_at)
         SELECT unhex(value ->> 0), $2, $3, $4, $5, value ->> 1 FROM json_each($1)",
    )
    .bind(found_json(found))
    .bind(grounds.case_ref())
    .bind(grounds.purpose().as_str())
    .bind(grounds.legal_basis().as_str())
    .bind(grounds.reference())
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

/// Why the hits were found: the grounds of their session.
pub(super) async fn put_session_cases(
    tx: &mut SqliteConnection,
    found: &[Hit],
    session: SessionId,
) -> Result<()> {
    sqlx::query(
        "INSERT OR IGNORE INTO hit_cases
             (hit_id, case_ref, purpose, legal_basis, reference, found_at)
         SELECT unhex(value ->> 0), p.case_ref, p.purpose, p.legal_basis, p.reference, value ->> 1
         FROM json_each($1), probe_sessions p WHERE p.session_id = $2",
    )
    .bind(found_json(found))
    .bind(&session.as_bytes()[..])
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

fn found_json(found: &[Hit]) -> String {
    let row = |hit: &Hit| json!([hex::encode(hit.id.as_bytes()), hit.last_seen.micros()]);
    found
        .iter()
        .map(row)
        .collect::<serde_json::Value>()
        .to_string()
}

/// One statement for all: an answer may bring thousands.
async fn put_hits(tx: &mut SqliteConnection, kept: impl Iterator<Item = &Kept>) -> Result<()> {
    let row = |kept: &Kept| {
        let (hit, standing) = (&kept.hit, &kept.standing);
        json!([
            hex::encode(hit.id.as_bytes()),
            kept.cursor,
            hit.epoch.get(),
            hit.policy.name(),
            hit.record_ref.to_string(),
            hit.holder.as_str(),
            hit.state.as_str(),
            signed(hit.filter_version),
            hit.false_positive,
            hit.posterior,
            hit.first_seen.micros(),
            hit.last_seen.micros(),
            hex::encode(&kept.thread),
            standing.told.state.as_str(),
            standing.told.seen.micros(),
            standing.awaited.map(|told| told.state.as_str()),
            standing.awaited.map(|told| told.seen.micros()),
            hit.unmatched_since.map(Timestamp::micros),
            hit.labels.contact_unit(),
            hit.labels.handling_code().map_or("", HandlingCode::as_str),
            hit.labels.handling_text(),
        ])
    };
    sqlx::query(
        "INSERT INTO hits (hit_id, cursor, epoch, policy, record_ref, holder, state,
             filter_version, false_positive, posterior, first_seen, last_seen, thread_id,
             told, told_seen, awaited, awaited_seen, unmatched_since, contact_unit, handling_code,
             handling_text)
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, unhex(value ->> 4),
             value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10,
             value ->> 11, unhex(value ->> 12), value ->> 13, value ->> 14, value ->> 15,
             value ->> 16, value ->> 17, value ->> 18, value ->> 19, value ->> 20
         FROM json_each($1) WHERE true
         ON CONFLICT (hit_id) DO UPDATE SET cursor = excluded.cursor, state = excluded.state,
             filter_version = excluded.filter_version, false_positive = excluded.false_positive,
             posterior = excluded.posterior, first_seen = excluded.first_seen,
             last_seen = excluded.last_seen, told = excluded.told,
             told_seen = excluded.told_seen, awaited = excluded.awaited,
             awaited_seen = excluded.awaited_seen, unmatched_since = excluded.unmatched_since,
             contact_unit = excluded.contact_unit, handling_code = excluded.handling_code,
             handling_text = excluded.handling_text",
    )
    .bind(kept.map(row).collect::<serde_json::Value>().to_string())
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

/// Hits that are of no thread yet join that of the record behind their ref and of their holder, or
/// begin one.
async fn assign_threads(tx: &mut SqliteConnection, ids: &str) -> Result<()> {
    sqlx::query(
        "UPDATE hits SET thread_id = coalesce(
             (SELECT o.thread_id FROM record_refs r
                  JOIN record_refs p ON p.selector_id = r.selector_id
                  JOIN hits o ON o.record_ref = p.record_ref AND o.holder = hits.holder
              WHERE r.record_ref = hits.record_ref AND o.thread_id <> x''
              ORDER BY o.epoch DESC LIMIT 1),
             (SELECT min(o.hit_id) FROM record_refs r
                  JOIN record_refs p ON p.selector_id = r.selector_id
                  JOIN hits o ON o.record_ref = p.record_ref AND o.holder = hits.holder
              WHERE r.record_ref = hits.record_ref),
             hit_id)
         WHERE thread_id = x'' AND hit_id IN (SELECT unhex(value) FROM json_each($1))",
    )
    .bind(ids)
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

/// Where the threads of these hits stand now.
async fn refresh_threads(tx: &mut SqliteConnection, ids: &str) -> Result<()> {
    let rows: Vec<(Vec<u8>, Vec<u8>, String, i64)> = sqlx::query_as(
        "SELECT thread_id, hit_id, state, first_seen FROM hits
         WHERE thread_id IN (SELECT thread_id FROM hits
             WHERE hit_id IN (SELECT unhex(value) FROM json_each($1)))
         ORDER BY thread_id, epoch, hit_id",
    )
    .bind(ids)
    .fetch_all(&mut *tx)
    .await
    .map_err(db_error)?;
    let mut threads = Vec::new();
    for hits in rows.chunk_by(|a, b| a.0 == b.0) {
        let states = hits.iter().map(|hit| state(&hit.2));
        let states: Vec<HitState> = states.collect::<Result<_>>()?;
        let first_seen = hits.iter().map(|hit| hit.3).min();
        if let (Some(latest), Some(stands)) = (hits.last(), thread::stands(states)) {
            threads.push(json!([
                hex::encode(&latest.0),
                hex::encode(&latest.1),
                stands.as_str(),
                first_seen,
            ]));
        }
    }
    sqlx::query(
        "INSERT INTO threads (thread_id, latest, state, first_seen)
         SELECT unhex(value ->> 0), unhex(value ->> 1), value ->> 2, value ->> 3
         FROM json_each($1) WHERE true
         ON CONFLICT (thread_id) DO UPDATE SET latest = excluded.latest, state = excluded.state,
             first_seen = excluded.first_seen",
    )
    .bind(serde_json::Value::Array(threads).to_string())
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}
