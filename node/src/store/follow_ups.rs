//! Follow-ups as this node keeps them: loaded as a whole, changed, and stored again in one
//! transaction, so that a crash leaves all of a change or nothing of it.

mod attachments;
mod read;
mod seals;

use prost::Message as _;
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::step::StepClear;
use sotto_common::followup::{FollowUpStep, Party};
use sotto_common::ids::{CommunityId, Epoch, FollowUpId, HitId, NodeId};
use sotto_common::secret::Selector;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sotto_proto::v1;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use zeroize::Zeroizing;

use super::at_rest::AtRest;
use super::{Store, damaged, signed, time, typed, unsigned};
use crate::follow_up::{LocalFollowUp, News, OwnRecord, Presence, Proposal, ProposalId, Step};

pub(crate) use attachments::{FileChange, StoredAttachment};
pub(crate) use read::{FollowUpFilter, Owned, Refusal};
pub(super) use seals::renew_follow_ups;
use seals::{open, seal};

/// The last event of the broker's stream of follow-ups that was stored.
const FOLLOW_UP_CURSOR: &str = "follow_up_cursor";

/// Which node keeps it, and in which community: the store is of one alone.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    /// The node.
    pub(crate) node: NodeId,
    /// The community.
    pub(crate) community: CommunityId,
}

fn unknown() -> Error {
    Error::new(
        ErrorCode::FollowUpUnknown,
        "there is no such follow-up here",
    )
}

impl Store {
    /// A follow-up, if it is known here.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn follow_up(
        &self,
        keeper: &Keeper,
        id: FollowUpId,
    ) -> Result<Option<LocalFollowUp>> {
        self.db
            .read_tx("follow_up", |tx| {
                load(tx, &self.at_rest, keeper, id).scope_boxed()
            })
            .await
    }

    /// Stores a follow-up that begins here; tells the cursor of the last event.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn put_follow_up(
        &self,
        follow_up: &LocalFollowUp,
        now: Timestamp,
    ) -> Result<u64> {
        self.db
            .run_tx("put_follow_up", |tx| {
                save(tx, &self.at_rest, follow_up, now).scope_boxed()
            })
            .await
    }

    /// Changes a follow-up in one transaction; tells how it is now, and the cursor of its last
    /// event. `work` may run twice.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`, what `work` refuses, or those of the store: nothing is changed then.
    pub(crate) async fn change_follow_up(
        &self,
        keeper: &Keeper,
        id: FollowUpId,
        now: Timestamp,
        work: &(dyn Fn(&mut LocalFollowUp) -> Result<()> + Send + Sync),
    ) -> Result<(LocalFollowUp, u64)> {
        self.db
            .run_tx("change_follow_up", |tx| {
                async move {
                    let loaded = load(tx, &self.at_rest, keeper, id).await?;
                    let mut follow_up = loaded.ok_or_else(unknown)?;
                    work(&mut follow_up)?;
                    let cursor = save(tx, &self.at_rest, &follow_up, now).await?;
                    Ok((follow_up, cursor))
                }
                .scope_boxed()
            })
            .await
    }

    /// Takes an event of the broker's stream and notes that it was read, in one transaction. `work`
    /// gets the follow-up, if it is known here, and tells what is to be stored of it, if anything.
    ///
    /// # Errors
    /// What `work` refuses, or those of the store: the event comes again then.
    pub(crate) async fn take_follow_up_event(
        &self,
        keeper: &Keeper,
        id: FollowUpId,
        read_up_to: u64,
        now: Timestamp,
        work: &(dyn Fn(Option<LocalFollowUp>) -> Result<Option<LocalFollowUp>> + Send + Sync),
    ) -> Result<u64> {
        self.db
            .run_tx("take_follow_up_event", |tx| {
                async move {
                    let loaded = load(tx, &self.at_rest, keeper, id).await?;
                    let cursor = match work(loaded)? {
                        Some(changed) => save(tx, &self.at_rest, &changed, now).await?,
                        None => 0,
                    };
                    super::hits::set_counter(tx, FOLLOW_UP_CURSOR, read_up_to).await?;
                    Ok(cursor)
                }
                .scope_boxed()
            })
            .await
    }

    /// The last event of the broker's stream that was stored; 0 at first.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn follow_up_cursor(&self) -> Result<u64> {
        self.counter(FOLLOW_UP_CURSOR).await
    }

    /// Begins the broker's stream again: it does not know the cursor any more.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn reset_follow_up_cursor(&self) -> Result<()> {
        self.db
            .run_tx("reset_follow_up_cursor", |tx| {
                super::hits::set_counter(tx, FOLLOW_UP_CURSOR, 0).scope_boxed()
            })
            .await
    }
}

/// Reads a follow-up with everything of it.
async fn load(
    tx: &mut SqliteConnection,
    at_rest: &AtRest,
    keeper: &Keeper,
    id: FollowUpId,
) -> Result<Option<LocalFollowUp>> {
    let row = sqlx::query("SELECT * FROM follow_ups WHERE follow_up_id = $1")
        .bind(&id.as_bytes()[..])
        .fetch_optional(&mut *tx)
        .await
        .map_err(db_error)?;
    let Some(row) = row else { return Ok(None) };
    let mut follow_up = follow_up(at_rest, keeper, id, &row)?;
    let steps = sqlx::query("SELECT * FROM follow_up_steps WHERE follow_up_id = $1 ORDER BY seq")
        .bind(&id.as_bytes()[..])
        .fetch_all(&mut *tx)
        .await
        .map_err(db_error)?;
    let steps = steps.iter().map(|row| step(at_rest, id, row));
    follow_up.steps = steps.collect::<Result<_>>()?;
    let row = sqlx::query("SELECT * FROM follow_up_proposals WHERE follow_up_id = $1")
        .bind(&id.as_bytes()[..])
        .fetch_optional(&mut *tx)
        .await
        .map_err(db_error)?;
    let proposal = row.as_ref().map(|row| proposal(at_rest, id, row));
    follow_up.proposal = proposal.transpose()?;
    Ok(Some(follow_up))
}

fn follow_up(
    at_rest: &AtRest,
    keeper: &Keeper,
    id: FollowUpId,
    row: &SqliteRow,
) -> Result<LocalFollowUp> {
    let text = |column: &str| row.try_get::<String, _>(column).map_err(db_error);
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(db_error);
    let maybe = |column: &str| {
        let at: Option<i64> = row.try_get(column).map_err(db_error)?;
        Ok::<_, Error>(at.map(time))
    };
    let sealed = |column: &'static str| -> Result<Option<Zeroizing<Vec<u8>>>> {
        let stored: Option<Vec<u8>> = row.try_get(column).map_err(db_error)?;
        stored
            .map(|stored| open(at_rest, "follow_ups", id.as_bytes(), column, &stored))
            .transpose()
    };
    let canonical = sealed("canonical")?.map(|bytes| {
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged("selector"));
        text.map(Selector::new)
    });
    let records = sealed("records")?.map(|bytes| serde_json::from_slice::<Vec<OwnRecord>>(&bytes));
    let hit: Vec<u8> = row.try_get("hit_id").map_err(db_error)?;
    let epoch = u32::try_from(number("epoch")?).map_err(|_| damaged("epoch"))?;
    Ok(LocalFollowUp {
        id,
        side: Party::parse(&text("side")?).ok_or_else(|| damaged("side"))?,
        hit: HitId::from_slice(&hit).map_err(Error::internal)?,
        community: keeper.community.clone(),
        own: keeper.node.clone(),
        counterpart: typed(&text("counterpart")?)?,
        epoch: Epoch::new(epoch).map_err(Error::internal)?,
        policy: typed(&text("policy")?)?,
        filter_version: unsigned(number("filter_version")?),
        matched_at: time(number("matched_at")?),
        case_ref: text("case_ref")?,
        canonical: canonical.transpose()?,
        records: records
            .transpose()
            .map_err(Error::internal)?
            .unwrap_or_default(),
        particulars: sealed("particulars")?,
        presence: Presence::parse(&text("presence")?).ok_or_else(|| damaged("presence"))?,
        alarm: text("alarm")?,
        unread: row.try_get("unread").map_err(db_error)?,
        begun_at: time(number("begun_at")?),
        withdrawn_at: maybe("withdrawn_at")?,
        closed_by_time: maybe("closed_by_time")?,
        erased_at: maybe("erased_at")?,
        steps: Vec::new(),
        proposal: None,
        news: Vec::new(),
        refused: Vec::new(),
    })
}

/// What a step's sealed content is bound to.
fn step_row(id: FollowUpId, seq: u32) -> [u8; 20] {
    let mut row = [0; 20];
    row[..16].copy_from_slice(id.as_bytes());
    row[16..].copy_from_slice(&seq.to_be_bytes());
    row
}

fn step(at_rest: &AtRest, id: FollowUpId, row: &SqliteRow) -> Result<Step> {
    let text = |column: &str| row.try_get::<String, _>(column).map_err(db_error);
    let maybe = |column: &str| row.try_get::<Option<Vec<u8>>, _>(column).map_err(db_error);
    let clear_bytes: Vec<u8> = row.try_get("clear").map_err(db_error)?;
    let clear = v1::FollowUpClear::decode(&clear_bytes[..]).map_err(Error::internal)?;
    let clear = StepClear::try_from(clear)?;
    let digest: Vec<u8> = row.try_get("body_digest").map_err(db_error)?;
    let envelope = maybe("envelope")?
        .map(|bytes| v1::DsseEnvelope::decode(&bytes[..]))
        .transpose()
        .map_err(Error::internal)?;
    let place = step_row(id, clear.seq);
    let content = maybe("content")?
        .map(|stored| open(at_rest, "follow_up_steps", &place, "content", &stored))
        .transpose()?;
    let taken_at: Option<i64> = row.try_get("taken_at").map_err(db_error)?;
    Ok(Step {
        clear_bytes,
        clear,
        digest: digest.try_into().map_err(|_| damaged("digest"))?,
        envelope,
        content,
        taken_at: taken_at.map(time),
        drafted_by: text("drafted_by")?,
        approved_by: text("approved_by")?,
    })
}

fn proposal(at_rest: &AtRest, id: FollowUpId, row: &SqliteRow) -> Result<Proposal> {
    let sealed = |column: &'static str| {
        let stored: Vec<u8> = row.try_get(column).map_err(db_error)?;
        open(
            at_rest,
            "follow_up_proposals",
            id.as_bytes(),
            column,
            &stored,
        )
    };
    let named: Vec<u8> = row.try_get("proposal_id").map_err(db_error)?;
    let step: String = row.try_get("step").map_err(db_error)?;
    Ok(Proposal {
        id: ProposalId::from_slice(&named).ok_or_else(|| damaged("proposal id"))?,
        step: FollowUpStep::parse(&step).ok_or_else(|| damaged("step"))?,
        draft: v1::FollowUpDraft::decode(&sealed("draft")?[..]).map_err(Error::internal)?,
        drafters: serde_json::from_slice(&sealed("drafters")?).map_err(Error::internal)?,
        drafted_by: row.try_get("drafted_by").map_err(db_error)?,
        drafted_at: time(row.try_get("drafted_at").map_err(db_error)?),
    })
}

/// Stores everything of a follow-up, and what is to be told of it; tells the cursor of the last
/// event, 0 without one.
async fn save(
    tx: &mut SqliteConnection,
    at_rest: &AtRest,
    follow_up: &LocalFollowUp,
    now: Timestamp,
) -> Result<u64> {
    save_row(tx, at_rest, follow_up).await?;
    save_steps(tx, at_rest, follow_up).await?;
    save_proposal(tx, at_rest, follow_up).await?;
    for (step, digest, reason) in &follow_up.refused {
        sqlx::query(
            "INSERT INTO follow_up_refusals (follow_up_id, step, body_digest, reason, at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&follow_up.id.as_bytes()[..])
        .bind(step.as_str())
        .bind(&digest[..])
        .bind(reason)
        .bind(now.micros())
        .execute(&mut *tx)
        .await
        .map_err(db_error)?;
    }
    let mut cursor = 0;
    for news in &follow_up.news {
        cursor = save_event(tx, at_rest, follow_up.id, news, now).await?;
    }
    Ok(cursor)
}

async fn save_row(
    tx: &mut SqliteConnection,
    at_rest: &AtRest,
    follow_up: &LocalFollowUp,
) -> Result<()> {
    let id = follow_up.id.as_bytes();
    let sealed = |column, clear: Option<&[u8]>| {
        clear.map(|clear| seal(at_rest, "follow_ups", id, column, clear))
    };
    let canonical = follow_up.canonical.as_ref();
    let index = canonical.map(|canonical| at_rest.canonical_index(follow_up.policy, canonical));
    let records = serde_json::to_vec(&follow_up.records).map_err(Error::internal)?;
    let records = (!follow_up.records.is_empty()).then_some(&records[..]);
    sqlx::query(
        "INSERT OR REPLACE INTO follow_ups (follow_up_id, side, hit_id, epoch, policy, counterpart,
             filter_version, matched_at, case_ref, state, canonical_index, canonical, records,
             particulars, presence, alarm, unread, begun_at, withdrawn_at, closed_by_time,
             closed_at, erased_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
             $19, $20, $21, $22)",
    )
    .bind(&id[..])
    .bind(follow_up.side.as_str())
    .bind(&follow_up.hit.as_bytes()[..])
    .bind(follow_up.epoch.get())
    .bind(follow_up.policy.name())
    .bind(follow_up.counterpart.as_str())
    .bind(signed(follow_up.filter_version))
    .bind(follow_up.matched_at.micros())
    .bind(&follow_up.case_ref)
    .bind(follow_up.state()?.as_str())
    .bind(index.map(|index| index.to_vec()))
    // The store's own column, sealed.
    .bind(sealed(
        "canonical",
        canonical.map(|c| c.expose().as_bytes()),
    ))
    .bind(sealed("records", records))
    .bind(sealed(
        "particulars",
        follow_up.particulars.as_ref().map(|p| &p[..]),
    ))
    .bind(follow_up.presence.as_str())
    .bind(&follow_up.alarm)
    .bind(follow_up.unread)
    .bind(follow_up.begun_at.micros())
    .bind(follow_up.withdrawn_at.map(Timestamp::micros))
    .bind(follow_up.closed_by_time.map(Timestamp::micros))
    .bind(follow_up.closed_at()?.map(Timestamp::micros))
    .bind(follow_up.erased_at.map(Timestamp::micros))
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

async fn save_steps(
    tx: &mut SqliteConnection,
    at_rest: &AtRest,
    follow_up: &LocalFollowUp,
) -> Result<()> {
    sqlx::query("DELETE FROM follow_up_steps WHERE follow_up_id = $1 AND seq >= $2")
        .bind(&follow_up.id.as_bytes()[..])
        .bind(signed(follow_up.steps.len() as u64))
        .execute(&mut *tx)
        .await
        .map_err(db_error)?;
    for step in &follow_up.steps {
        let row = step_row(follow_up.id, step.clear.seq);
        let content = step.content.as_ref();
        let content = content.map(|c| seal(at_rest, "follow_up_steps", &row, "content", c));
        sqlx::query(
            "INSERT INTO follow_up_steps (follow_up_id, seq, clear, body_digest, envelope, content,
                 taken_at, drafted_by, approved_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (follow_up_id, seq) DO UPDATE SET clear = excluded.clear,
                 body_digest = excluded.body_digest, envelope = excluded.envelope,
                 content = excluded.content, taken_at = excluded.taken_at,
                 drafted_by = excluded.drafted_by, approved_by = excluded.approved_by
             WHERE body_digest <> excluded.body_digest OR taken_at IS NOT excluded.taken_at
                OR (excluded.envelope IS NULL AND envelope IS NOT NULL)
                OR ((content IS NULL) <> (excluded.content IS NULL))",
        )
        .bind(&follow_up.id.as_bytes()[..])
        .bind(step.clear.seq)
        .bind(&step.clear_bytes)
        .bind(&step.digest[..])
        .bind(step.envelope.as_ref().map(prost::Message::encode_to_vec))
        .bind(content)
        .bind(step.taken_at.map(Timestamp::micros))
        .bind(&step.drafted_by)
        .bind(&step.approved_by)
        .execute(&mut *tx)
        .await
        .map_err(db_error)?;
    }
    Ok(())
}

async fn save_proposal(
    tx: &mut SqliteConnection,
    at_rest: &AtRest,
    follow_up: &LocalFollowUp,
) -> Result<()> {
    let id = follow_up.id.as_bytes();
    let Some(proposal) = &follow_up.proposal else {
        sqlx::query("DELETE FROM follow_up_proposals WHERE follow_up_id = $1")
            .bind(&id[..])
            .execute(tx)
            .await
            .map_err(db_error)?;
        return Ok(());
    };
    let draft = Zeroizing::new(proposal.draft.encode_to_vec());
    let drafters = serde_json::to_vec(&proposal.drafters).map_err(Error::internal)?;
    let sealed = |column, clear: &[u8]| seal(at_rest, "follow_up_proposals", id, column, clear);
    sqlx::query(
        "INSERT OR REPLACE INTO follow_up_proposals
             (follow_up_id, proposal_id, step, draft, drafters, drafted_by, drafted_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&id[..])
    .bind(&proposal.id.as_bytes()[..])
    .bind(proposal.step.as_str())
    .bind(sealed("draft", &draft))
    .bind(sealed("drafters", &drafters))
    .bind(&proposal.drafted_by)
    .bind(proposal.drafted_at.micros())
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

async fn save_event(
    tx: &mut SqliteConnection,
    at_rest: &AtRest,
    id: FollowUpId,
    news: &News,
    now: Timestamp,
) -> Result<u64> {
    let (code, step, percent) = match news {
        News::Proposed(step) => ("PROPOSED", Some(*step), 0),
        News::Discarded(step, ..) => ("DISCARDED", Some(*step), 0),
        News::Step(step) => ("STEP", Some(*step), 0),
        News::Reminder(percent) => ("REMINDER", None, *percent),
        News::ClosedByTime => ("CLOSED_BY_TIME", None, 0),
        News::Alarm => ("ALARM", None, 0),
        News::Erased => ("ERASED", None, 0),
    };
    let (person, reason) = match news {
        News::Discarded(_, person, reason) => (person.as_str(), Some(reason)),
        _ => ("", None),
    };
    let texts = reason.map(|text| {
        seal(
            at_rest,
            "follow_up_events",
            id.as_bytes(),
            "texts",
            text.as_bytes(),
        )
    });
    let done = sqlx::query(
        "INSERT INTO follow_up_events (follow_up_id, news, step, percent, at, person, texts)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&id.as_bytes()[..])
    .bind(code)
    .bind(step.map(FollowUpStep::as_str))
    .bind(percent)
    .bind(now.micros())
    .bind(person)
    .bind(texts)
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(unsigned(done.last_insert_rowid()))
}

#[cfg(test)]
mod tests;
