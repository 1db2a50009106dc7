//! A follow-up as this node keeps it on its own (protocol §10): every step that the broker took,
//! those of its own that are on their way, and what people here have drafted.
//!
//! Pure: the store keeps it, `app` moves it. Where it stands is never stored as such, but made of
//! its steps by the one function that the broker uses as well.

pub(crate) mod logged;
pub(crate) mod view;

use rand::CryptoRng;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::record::{FollowUp, NO_PREVIOUS};
use sotto_common::followup::step::{StepClear, StepDetail};
use sotto_common::followup::{FollowUpState, FollowUpStep, Party, transition};
use sotto_common::ids::{CommunityId, Epoch, FollowUpId, HitId, NodeId};
use sotto_common::random;
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sotto_proto::v1;
use zeroize::Zeroizing;

/// Where the proof of presence stands (protocol §10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    /// Not answered yet.
    Open,
    /// The holder's node has proved that it holds the selector.
    Proved,
    /// Its proof does not hold: nothing is released.
    ProofWrong,
    /// It does not hold the selector.
    NotHeld,
}

impl Presence {
    const ALL: [Self; 4] = [Self::Open, Self::Proved, Self::ProofWrong, Self::NotHeld];

    /// As it is stored.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "OPEN",
            Self::Proved => "PROVED",
            Self::ProofWrong => "PROOF_WRONG",
            Self::NotHeld => "NOT_HELD",
        }
    }

    /// From how it is stored.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == text)
    }
}

/// Names a proposal, so that what is approved is what was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ProposalId([u8; 16]);

impl ProposalId {
    /// A new one: a UUIDv7.
    pub(crate) fn generate(now: Timestamp, rng: &mut impl CryptoRng) -> Self {
        let random = random::bytes(rng);
        let uuid = uuid::Builder::from_unix_timestamp_millis(now.unix_millis(), &random);
        Self(uuid.into_uuid().into_bytes())
    }

    /// From exactly 16 bytes.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 16 bytes.
    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Something that those who watch are told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// Somebody drafted a step that waits for approval.
    Proposed(FollowUpStep),
    /// A proposal was taken back: by whom, and why.
    Discarded(FollowUpStep, String, String),
    /// A step was taken, by either side.
    Step(FollowUpStep),
    /// This share of the time limit has passed, in percent.
    Reminder(u32),
    /// Closed by time.
    ClosedByTime,
    /// Something is wrong.
    Alarm,
    /// What was sealed is erased here.
    Erased,
}

/// A record of the node's own.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct OwnRecord {
    /// The dataset.
    pub(crate) dataset: String,
    /// The record's id.
    pub(crate) record_id: String,
}

/// A step that is kept.
#[derive(Clone)]
pub(crate) struct Step {
    /// The clear part exactly as signed.
    pub(crate) clear_bytes: Vec<u8>,
    /// The same, read.
    pub(crate) clear: StepClear,
    /// `H` of the body.
    pub(crate) digest: [u8; 32],
    /// The signed statement, until it is erased.
    pub(crate) envelope: Option<v1::DsseEnvelope>,
    /// The message that was sealed with it, in clear, until it is erased.
    pub(crate) content: Option<Zeroizing<Vec<u8>>>,
    /// When the broker took it; `None` while it is on its way.
    pub(crate) taken_at: Option<Timestamp>,
    /// Who drafted it; empty if it was the node or the other side.
    pub(crate) drafted_by: String,
    /// Who approved it; empty likewise.
    pub(crate) approved_by: String,
}

/// What one person drafted and another has to approve.
#[derive(Clone)]
pub(crate) struct Proposal {
    /// Names what is approved.
    pub(crate) id: ProposalId,
    /// Which step.
    pub(crate) step: FollowUpStep,
    /// What it says.
    pub(crate) draft: v1::FollowUpDraft,
    /// Every identity of those who had a part in it.
    pub(crate) drafters: Vec<String>,
    /// Who drafted it.
    pub(crate) drafted_by: String,
    /// When.
    pub(crate) drafted_at: Timestamp,
}

/// A follow-up at this node.
#[derive(Clone)]
pub(crate) struct LocalFollowUp {
    /// Its id.
    pub(crate) id: FollowUpId,
    /// Which side this node is.
    pub(crate) side: Party,
    /// The hit.
    pub(crate) hit: HitId,
    /// The community.
    pub(crate) community: CommunityId,
    /// This node.
    pub(crate) own: NodeId,
    /// The other one.
    pub(crate) counterpart: NodeId,
    /// The hit's epoch, whose keys sign and seal.
    pub(crate) epoch: Epoch,
    /// The hit's policy.
    pub(crate) policy: Policy,
    /// Version of the holder's filter that matched last.
    pub(crate) filter_version: u64,
    /// When it matched last.
    pub(crate) matched_at: Timestamp,
    /// The case at this node; empty as holder.
    pub(crate) case_ref: String,
    /// The selector: the hit's as requester, the one that was found as holder.
    pub(crate) canonical: Option<Selector>,
    /// The node's own records on it.
    pub(crate) records: Vec<OwnRecord>,
    /// Particulars that are approved and not released yet: a serialised message.
    pub(crate) particulars: Option<Zeroizing<Vec<u8>>>,
    /// Where the proof of presence stands.
    pub(crate) presence: Presence,
    /// What is wrong, for people; empty if nothing is.
    pub(crate) alarm: String,
    /// Whether the other side's last step was not read here.
    pub(crate) unread: bool,
    /// When it was drafted or came in.
    pub(crate) begun_at: Timestamp,
    /// When a draft that never left was taken back.
    pub(crate) withdrawn_at: Option<Timestamp>,
    /// When it was closed by time.
    pub(crate) closed_by_time: Option<Timestamp>,
    /// When what was sealed was erased here.
    pub(crate) erased_at: Option<Timestamp>,
    /// Its steps, in order; those on their way are the last.
    pub(crate) steps: Vec<Step>,
    /// What waits for another person.
    pub(crate) proposal: Option<Proposal>,
    /// What is to be told once this is stored.
    pub(crate) news: Vec<News>,
    /// Own steps that the broker did not take, and why: to be kept beside it.
    pub(crate) refused: Vec<(FollowUpStep, [u8; 32], String)>,
}

/// What a step from the broker was to this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Took {
    /// It was not known to be at the broker.
    New,
    /// It was.
    Known,
}

fn misfit(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorCode::FollowUpMismatch, text)
}

/// What steps make, one after another; `None` without any.
fn replay<'a>(steps: impl Iterator<Item = (&'a Step, Timestamp)>) -> Result<Option<FollowUp>> {
    let mut follow_up: Option<FollowUp> = None;
    for (step, at) in steps {
        follow_up = Some(match follow_up {
            None => FollowUp::begin(&step.clear, step.digest, at)?,
            Some(before) => before.apply(&step.clear, step.digest, at)?,
        });
    }
    Ok(follow_up)
}

impl LocalFollowUp {
    /// The node of a side.
    pub(crate) fn party(&self, party: Party) -> &NodeId {
        if party == self.side {
            &self.own
        } else {
            &self.counterpart
        }
    }

    /// The follow-up as broker and nodes agree on it; `None` for a draft.
    ///
    /// # Errors
    /// If the steps that were stored do not follow each other any more.
    pub(crate) fn agreed(&self) -> Result<Option<FollowUp>> {
        let taken = self.steps.iter();
        let taken = taken.filter_map(|step| step.taken_at.map(|at| (step, at)));
        let Some(follow_up) = replay(taken)? else {
            return Ok(None);
        };
        let closed = self
            .closed_by_time
            .and_then(|at| follow_up.closed_by_time(at));
        Ok(Some(closed.unwrap_or(follow_up)))
    }

    /// The follow-up as it stands once the broker has what is on its way.
    ///
    /// # Errors
    /// As [`LocalFollowUp::agreed`].
    pub(crate) fn ahead(&self) -> Result<Option<FollowUp>> {
        if !self.is_pending() {
            return self.agreed();
        }
        let steps = self.steps.iter();
        replay(steps.map(|step| (step, step.taken_at.unwrap_or(step.clear.made_at))))
    }

    /// Where it stands, as broker and nodes agree; a draft that was taken back is WITHDRAWN.
    ///
    /// # Errors
    /// As [`LocalFollowUp::agreed`].
    pub(crate) fn state(&self) -> Result<FollowUpState> {
        Ok(match self.agreed()? {
            Some(follow_up) => follow_up.state,
            None if self.withdrawn_at.is_some() => FollowUpState::Withdrawn,
            None => FollowUpState::Draft,
        })
    }

    /// When nothing can happen to it any more.
    ///
    /// # Errors
    /// As [`LocalFollowUp::agreed`].
    pub(crate) fn closed_at(&self) -> Result<Option<Timestamp>> {
        let closed = self.agreed()?.and_then(|f| f.milestones.closed);
        Ok(closed.or(self.withdrawn_at))
    }

    /// Whether a step of this node is not at the broker yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.steps.iter().any(|step| step.taken_at.is_none())
    }

    /// Refuses a step that is not this node's to take now.
    ///
    /// # Errors
    /// `FOLLOW_UP_MISMATCH` for a step of the other side, `ILLEGAL_TRANSITION`.
    pub(crate) fn check_turn(&self, step: FollowUpStep) -> Result<FollowUpState> {
        if step.by() != self.side {
            return Err(misfit(format!("{step} is taken by the {}", step.by())));
        }
        let state = match self.ahead()? {
            Some(follow_up) => follow_up.state,
            None => self.state()?,
        };
        transition(state, step)
    }

    /// The clear part of this node's next step.
    ///
    /// # Errors
    /// As [`LocalFollowUp::check_turn`].
    pub(crate) fn next_clear(&self, detail: StepDetail, now: Timestamp) -> Result<StepClear> {
        let state = self.check_turn(detail.step())?;
        let ahead = self.ahead()?;
        Ok(StepClear {
            community: self.community.clone(),
            follow_up: self.id,
            hit: self.hit,
            seq: ahead.as_ref().map_or(0, |f| f.next_seq),
            previous: ahead.as_ref().map_or(NO_PREVIOUS, |f| f.last_body),
            sender: self.own.clone(),
            recipient: self.counterpart.clone(),
            made_at: now,
            state,
            detail,
        })
    }

    /// Adds a step of this node, which goes to the broker in its turn.
    ///
    /// # Errors
    /// Those of `FollowUp::apply`: what the broker would refuse never leaves.
    pub(crate) fn push_own(&mut self, step: Step) -> Result<()> {
        match self.ahead()? {
            None => FollowUp::begin(&step.clear, step.digest, step.clear.made_at)?,
            Some(before) => before.apply(&step.clear, step.digest, step.clear.made_at)?,
        };
        self.steps.push(step);
        Ok(())
    }

    /// Takes a step that the broker has taken. Its signature was verified.
    ///
    /// # Errors
    /// `FOLLOW_UP_MISMATCH`, `ILLEGAL_TRANSITION` or `INVALID_FIELD` for one that does not follow
    /// what is known here: it is then not applied.
    pub(crate) fn take(&mut self, step: Step) -> Result<Took> {
        let Some(at) = step.taken_at else {
            return Err(misfit("the step has no time"));
        };
        let place = step.clear.seq as usize;
        if let Some(known) = self.steps.get_mut(place) {
            let same = known.digest == step.digest;
            match known.taken_at {
                Some(_) if same => return Ok(Took::Known),
                Some(_) => return Err(misfit("another step stands at this place already")),
                None if same => known.taken_at = Some(at),
                // The other side was quicker: the broker refuses ours.
                None => {}
            }
            if same {
                // As it was signed, it must hold at the broker's time as well.
                if let Err(error) = self.agreed() {
                    self.steps[place].taken_at = None;
                    return Err(error);
                }
                self.news.push(News::Step(step.clear.step()));
                return Ok(Took::New);
            }
        }
        match self.agreed()? {
            None => FollowUp::begin(&step.clear, step.digest, at)?,
            Some(before) => before.apply(&step.clear, step.digest, at)?,
        };
        self.drop_pending("the other side took a step before it");
        self.unread |= step.clear.sender != self.own;
        self.news.push(News::Step(step.clear.step()));
        self.steps.push(step);
        Ok(Took::New)
    }

    /// Drops this node's steps that are on their way, with the reason; nothing is lost silently.
    pub(crate) fn drop_pending(&mut self, reason: &str) {
        let first = self.steps.iter().position(|step| step.taken_at.is_none());
        let Some(first) = first else { return };
        let dropped: Vec<_> = self.steps.drain(first..).collect();
        let by_people = dropped.iter().map(|step| step.clear.step());
        let by_people = by_people.filter(|step| !step.is_by_node());
        let named: Vec<_> = by_people.map(FollowUpStep::as_str).collect();
        // What the node does by itself it does again, if it is still due.
        if !named.is_empty() {
            self.raise(format!(
                "{} was approved here and not taken: {reason}; look at where the follow-up stands, \
                 and propose it again if it is still wanted",
                named.join(", ")
            ));
        }
        for step in dropped {
            let refused = (step.clear.step(), step.digest, reason.to_owned());
            self.refused.push(refused);
        }
    }

    /// Says that something is wrong.
    pub(crate) fn raise(&mut self, alarm: String) {
        if self.alarm != alarm {
            self.alarm = alarm;
            self.news.push(News::Alarm);
        }
    }

    /// The opened content of a step, if it is kept.
    pub(crate) fn content_of(&self, step: FollowUpStep) -> Option<&Zeroizing<Vec<u8>>> {
        let of = |s: &&Step| s.clear.step() == step;
        self.steps.iter().rfind(of)?.content.as_ref()
    }

    /// Erases what was sealed; the clear parts stay.
    pub(crate) fn erase(&mut self, now: Timestamp) {
        for step in &mut self.steps {
            (step.envelope, step.content) = (None, None);
        }
        (self.canonical, self.particulars, self.proposal) = (None, None, None);
        self.records.clear();
        self.erased_at = Some(now);
        self.news.push(News::Erased);
    }
}

#[cfg(test)]
mod tests;
