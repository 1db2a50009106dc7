//! Formal follow-ups (protocol §10, workflow.md "Follow-up"): the broker checks hit, parties, order,
//! state and time of every step, and keeps what the parties seal as it came. It can open nothing.
//!
//! Everything that a step does is one transaction: the step, the follow-up, its hit, the events of
//! both streams, and the entries of the log.

mod attachments;
mod figures;
mod reading;
#[cfg(test)]
mod tests;
mod time;

use prost::Message as _;
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::record::FollowUp;
use sotto_common::followup::step::{AnswerClear, StepClear, StepDetail, StepStatement};
use sotto_common::followup::{FollowUpStep, Party};
use sotto_common::hit::{HitEvent, HitState};
use sotto_common::ids::{CommunityId, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::{Entry, Step};
use sotto_common::time::Timestamp;
use sotto_proto::convert::{self, follow_up::body_digest};
use sotto_proto::v1;

use super::feedback::move_hit;
use super::hits::own_hit;
use super::journal::{self, Journal, about};
use super::{Broker, enrolled, known_epoch, manifest_of};
use crate::datastore::{
    FollowUpEvent, FollowUpRecord, HitRecord, Presence, Signal, StackKey, StepRecord, Tx,
};
use crate::objects::ObjectKey;

pub(crate) use attachments::{Announced, Download, Place};
pub(crate) use figures::PresenceRate;
pub(crate) use reading::EventView;

/// Most steps of a follow-up; only clarifications repeat.
const MAX_STEPS: u32 = 200;

/// Steps that are left for what ends a follow-up when clarifications are refused.
const LAST_STEPS: u32 = 10;

/// Most bytes of the statements of a follow-up, its answer or refusal left out, which has at most
/// 1 MiB: all of them go in one message of at most 4 MiB (protocol §12).
const MAX_STATEMENTS: u64 = 2 * 1024 * 1024;

/// Most bytes of an envelope beyond its payload: one signature, and a hint at its key.
const MAX_ENVELOPE: usize = 512;

/// Most follow-ups that one node has open at another.
const MAX_OPEN: u64 = 1000;

/// A step that was taken, now or before.
pub(crate) struct StepTaken {
    /// The follow-up as it stands now.
    pub(crate) record: FollowUpRecord,
    /// When the broker took the step.
    pub(crate) taken_at: Timestamp,
    /// What time it is now.
    pub(crate) now: Timestamp,
}

/// A statement on its way in.
struct Incoming<'a> {
    journal: &'a Journal,
    signed: &'a v1::DsseEnvelope,
    statement: &'a StepStatement,
    body: [u8; 32],
    now: Timestamp,
}

/// What a transaction has done.
struct Outcome {
    record: FollowUpRecord,
    taken_at: Timestamp,
    /// Whether the step was new.
    is_new: bool,
    /// Whether the hit's stream moved.
    hit_moved: bool,
    /// What nothing needs any more.
    objects: Vec<ObjectKey>,
}

impl Broker {
    /// Node: takes a step. Idempotent: a step whose body is that of the step at its `seq` is
    /// answered as it was.
    ///
    /// # Errors
    /// `HIT_UNKNOWN`, `FOLLOW_UP_UNKNOWN`; `ILLEGAL_TRANSITION`, `FOLLOW_UP_MISMATCH`,
    /// `ATTACHMENT_STATE`; `SIGNATURE_INVALID`, `FORMAT_UNKNOWN`, `INVALID_FIELD`, `SEAL_INVALID`;
    /// `LIMIT_REACHED`.
    pub(crate) async fn submit_step(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        signed: &v1::DsseEnvelope,
    ) -> Result<StepTaken> {
        let statement: StepStatement = convert::read_unverified(signed)?;
        if statement.clear.sender != *caller {
            return Err(Error::field("sender", "must be the caller"));
        }
        if statement.clear.community != *community {
            return Err(Error::field("community", "must be the statement's"));
        }
        if signed.encoded_len() > signed.payload.len() + MAX_ENVELOPE {
            return Err(Error::field("statement", "more than one signature around"));
        }
        let now = self.now();
        let incoming = &Incoming {
            journal: &self.journal,
            signed,
            statement: &statement,
            body: body_digest(signed),
            now,
        };
        let outcome = self
            .store
            .run_tx("follow_up_step", |tx| {
                async move { take(tx, incoming).await }.scope_boxed()
            })
            .await?;
        if outcome.is_new {
            self.announce_follow_ups();
        }
        if outcome.hit_moved {
            self.announce_hits();
        }
        if outcome.is_new && statement.clear.step() == FollowUpStep::NotHeld {
            self.watch_presence(&outcome.record).await;
        }
        self.delete_unneeded(outcome.objects).await;
        Ok(StepTaken {
            record: outcome.record,
            taken_at: outcome.taken_at,
            now,
        })
    }

    fn announce_follow_ups(&self) {
        self.store.wakeups().announce(Signal::FollowUps);
    }
}

/// A step within its transaction.
async fn take(tx: &mut (dyn Tx + '_), incoming: &Incoming<'_>) -> Result<Outcome> {
    let clear = &incoming.statement.clear;
    enrolled(tx, &clear.community, &clear.sender).await?;
    let known = tx.get_follow_up(clear.follow_up).await?;
    let is_party = |record: &FollowUpRecord| {
        record.key.community == clear.community && record.follow_up.side_of(&clear.sender).is_some()
    };
    match known {
        Some(record) if is_party(&record) => go_on(tx, record, incoming).await,
        known if clear.step() == FollowUpStep::Submit => begin(tx, known.is_some(), incoming).await,
        _ => Err(unknown()),
    }
}

/// The step that makes a follow-up.
async fn begin(tx: &mut (dyn Tx + '_), id_taken: bool, incoming: &Incoming<'_>) -> Result<Outcome> {
    let clear = &incoming.statement.clear;
    let hit = own_hit(tx, &clear.community, &clear.sender, clear.hit)
        .await?
        .hit;
    check_signature(tx, &hit.key, incoming).await?;
    if hit.holder != clear.recipient {
        return Err(mismatch("the hit is not on a filter of the recipient"));
    }
    if id_taken {
        return Err(mismatch("this follow-up id is taken: make another"));
    }
    let follow_up = FollowUp::begin(clear, incoming.body, incoming.now)?;
    let open = tx
        .count_open_follow_ups(&clear.community, &clear.sender, &clear.recipient)
        .await?;
    if open >= MAX_OPEN {
        let text = format!("{MAX_OPEN} follow-ups are open at this holder");
        return Err(Error::new(ErrorCode::LimitReached, text));
    }
    let record = FollowUpRecord {
        follow_up,
        key: hit.key.clone(),
        filter_version: hit.filter_version,
        matched_at: hit.last_seen,
        posterior: hit.posterior,
        presence: None,
        statement_bytes: incoming.signed.encoded_len() as u64,
        reminder: None,
        erased: false,
    };
    let entry = incoming.hit_entry(&record)?;
    move_hit(tx, &hit, HitEvent::FollowUp, entry).await?;
    tx.put_follow_up(&record).await?;
    keep_step(tx, &record, incoming, "").await?;
    Ok(Outcome {
        hit_moved: true,
        ..Outcome::new(record, incoming.now)
    })
}

/// Any other step of a follow-up that the sender is a party to.
async fn go_on(
    tx: &mut (dyn Tx + '_),
    mut record: FollowUpRecord,
    incoming: &Incoming<'_>,
) -> Result<Outcome> {
    let (clear, now) = (&incoming.statement.clear, incoming.now);
    check_signature(tx, &record.key, incoming).await?;
    let stored = tx.get_step(record.follow_up.id, clear.seq).await?;
    if let Some(step) = stored.filter(|step| step.body == incoming.body) {
        return Ok(Outcome {
            is_new: false,
            ..Outcome::new(record, step.taken_at)
        });
    }
    let before = record.follow_up.state.as_str();
    let next = record.follow_up.apply(clear, incoming.body, now)?;
    // What was due before this step stands before it in both streams.
    time::remind(tx, incoming.journal, &mut record, now).await?;
    record.follow_up = next;
    check_bounds(&record, incoming)?;
    record.statement_bytes += incoming.signed.encoded_len() as u64;
    record.reminder = time::next_reminder(&record.follow_up, now);
    let mut outcome = Outcome::new(record, now);
    match &clear.detail {
        StepDetail::Held => outcome.record.presence = Some(Presence::Held),
        StepDetail::NotHeld => outcome.record.presence = Some(Presence::NotHeld),
        StepDetail::Answer(answer) => check_files(tx, clear, answer).await?,
        StepDetail::Close => outcome.objects = time::drop_unanswered(tx, clear.follow_up).await?,
        _ => {}
    }
    tx.update_follow_up(&outcome.record).await?;
    keep_step(tx, &outcome.record, incoming, before).await?;
    let ends_hit = match &clear.detail {
        StepDetail::NotHeld => Some(HitEvent::NotHeld),
        StepDetail::Close => Some(HitEvent::CloseFollowUp),
        _ => None,
    };
    if let Some(event) = ends_hit {
        let entry = incoming.hit_entry(&outcome.record)?;
        outcome.hit_moved = end_hit(tx, &outcome.record, event, entry).await?;
    }
    Ok(outcome)
}

impl Incoming<'_> {
    /// An entry of what the sender does by its step.
    fn entry(&self, action: Action) -> Result<Entry> {
        let clear = &self.statement.clear;
        self.journal
            .by_node(&clear.sender, action, &clear.community, self.now)
    }

    /// The entry of the step itself: what is sealed in it stays out of the log.
    fn step_entry(&self, record: &FollowUpRecord, before: &str) -> Result<Entry> {
        let clear = &self.statement.clear;
        let entry = about::follow_up(self.entry(Action::TakeStep)?, record);
        Ok(Entry {
            change: Some(journal::change(before, record.follow_up.state.as_str())),
            detail: clear.step().as_str().to_owned(),
            statement: Some(journal::digest_of(self.signed)),
            step: Some(Step {
                number: clear.seq,
                clear: self.statement.clear_bytes.clone(),
            }),
            ..entry
        })
    }

    /// The entry of what the step does to the hit.
    fn hit_entry(&self, record: &FollowUpRecord) -> Result<Entry> {
        let mut entry = self.entry(Action::FollowUpHit)?;
        entry.object.follow_up = Some(record.follow_up.id);
        Ok(entry)
    }
}

impl Outcome {
    /// A new step.
    const fn new(record: FollowUpRecord, taken_at: Timestamp) -> Self {
        Self {
            record,
            taken_at,
            is_new: true,
            hit_moved: false,
            objects: Vec::new(),
        }
    }
}

/// The sender's key is the one in the manifest of the hit's epoch, ended or not (protocol §8, §9).
async fn check_signature(
    tx: &mut (dyn Tx + '_),
    key: &StackKey,
    incoming: &Incoming<'_>,
) -> Result<()> {
    let manifest = manifest_of(&known_epoch(tx, &key.community, key.epoch).await?)?;
    let sender = &incoming.statement.clear.sender;
    let member = manifest.member(sender)?;
    convert::verify::<StepStatement>(incoming.signed, &member.signing).map(drop)
}

/// What a follow-up may take up. Steps that end it are always taken: a party cannot keep the other
/// from ending it by talking much.
fn check_bounds(record: &FollowUpRecord, incoming: &Incoming<'_>) -> Result<()> {
    use FollowUpStep as T;
    let clear = &incoming.statement.clear;
    let step = clear.step();
    if step == T::RequestClarification && clear.seq + LAST_STEPS >= MAX_STEPS {
        let text = "too many clarifications: accept, refuse or withdraw";
        return Err(Error::new(ErrorCode::LimitReached, text));
    }
    let bytes = record.statement_bytes + incoming.signed.encoded_len() as u64;
    let ends = matches!(step, T::Answer | T::Refuse);
    let is_sealed = incoming.statement.sealed.is_some();
    if is_sealed && !ends && bytes > MAX_STATEMENTS {
        let text = format!("the statements of a follow-up have at most {MAX_STATEMENTS} bytes");
        return Err(Error::new(ErrorCode::LimitReached, text));
    }
    Ok(())
}

/// Every file that the answer names is here, whole, and the one that it means.
async fn check_files(
    tx: &mut (dyn Tx + '_),
    clear: &StepClear,
    answer: &AnswerClear,
) -> Result<()> {
    for named in &answer.attachments {
        let file = tx.get_attachment(clear.follow_up, named.id).await?;
        let file = file.filter(|file| file.whole && file.digest == named.digest);
        let mut file = file.ok_or_else(|| {
            let text = "a file that the answer names is not here, not whole, or another one";
            Error::new(ErrorCode::AttachmentState, text)
        })?;
        file.answered = true;
        tx.update_attachment(&file).await?;
    }
    Ok(())
}

/// Keeps the step as it came, logs it, and tells both parties.
async fn keep_step(
    tx: &mut (dyn Tx + '_),
    record: &FollowUpRecord,
    incoming: &Incoming<'_>,
    before: &str,
) -> Result<()> {
    let clear = &incoming.statement.clear;
    tx.put_step(&StepRecord {
        follow_up: clear.follow_up,
        seq: clear.seq,
        body: incoming.body,
        clear: incoming.statement.clear_bytes.clone(),
        envelope: Some(incoming.signed.encode_to_vec()),
        taken_at: incoming.now,
    })
    .await?;
    journal::put(tx, &incoming.step_entry(record, before)?).await?;
    tell(tx, &record.follow_up, FollowUpEvent::Step(clear.seq)).await
}

/// Appends an event to the streams of both parties.
async fn tell(tx: &mut (dyn Tx + '_), follow_up: &FollowUp, event: FollowUpEvent) -> Result<()> {
    let mut parties = [Party::Requester, Party::Holder].map(|party| follow_up.party(party));
    // In one order everywhere: two transactions do not wait for each other's cursors.
    parties.sort_unstable();
    for party in parties {
        tx.put_follow_up_event(&follow_up.community, party, follow_up.id, event)
            .await?;
    }
    Ok(())
}

/// Moves the hit of a follow-up that is over; returns whether it did. Nothing else moves a hit that
/// is followed up.
async fn end_hit(
    tx: &mut (dyn Tx + '_),
    record: &FollowUpRecord,
    event: HitEvent,
    entry: Entry,
) -> Result<bool> {
    let follow_up = &record.follow_up;
    let hit = tx
        .get_hit(&follow_up.community, &follow_up.requester, follow_up.hit)
        .await?;
    let followed_up = |hit: &HitRecord| hit.state == HitState::FollowedUp;
    let Some(hit) = hit.map(|known| known.hit).filter(followed_up) else {
        return Ok(false);
    };
    move_hit(tx, &hit, event, entry).await?;
    Ok(true)
}

fn unknown() -> Error {
    let text = "no follow-up of the caller has this id";
    Error::new(ErrorCode::FollowUpUnknown, text)
}

fn mismatch(text: &'static str) -> Error {
    Error::new(ErrorCode::FollowUpMismatch, text)
}
