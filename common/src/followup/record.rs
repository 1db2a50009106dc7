//! A follow-up as its steps have made it: the same function at the broker and at both nodes, so
//! that all three agree on state, order, items and time (protocol §10).

use std::time::Duration;

use super::clock::LimitClock;
use super::step::{Outcomes, StepClear, StepDetail, Terms, misfit};
use super::{FollowUpState, FollowUpStep, Party, transition};
use crate::error::{Error, Result};
use crate::ids::{CommunityId, FollowUpId, HitId, NodeId};
use crate::time::{CLOCK_SKEW, Timestamp};

/// A follow-up that is over is closed after this long, if its requester does not close it.
pub const CLOSED_AFTER: Duration = Duration::from_hours(30 * 24);

/// A judicial delay ends at most this long after it is announced.
pub const MAX_DELAY: Duration = Duration::from_hours(366 * 24);

/// `previous` of the first step (protocol §10).
pub const NO_PREVIOUS: [u8; 32] = [0; 32];

/// A follow-up after some of its steps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FollowUp {
    /// Its id.
    pub id: FollowUpId,
    /// The community.
    pub community: CommunityId,
    /// The hit.
    pub hit: HitId,
    /// The node whose hit it is.
    pub requester: NodeId,
    /// The node whose filter matched.
    pub holder: NodeId,
    /// What is asked for.
    pub terms: Terms,
    /// Where it stands.
    pub state: FollowUpState,
    /// `seq` of the next step.
    pub next_seq: u32,
    /// `H` of the body of the last step.
    pub last_body: [u8; 32],
    /// The time limit, from RECEIVED on.
    pub clock: Option<LimitClock>,
    /// What became of each item, once refused or answered.
    pub outcomes: Option<Outcomes>,
    /// When the broker took each milestone.
    pub milestones: Milestones,
}

/// When the broker took the steps that statistics and limits count from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Milestones {
    /// SUBMITTED.
    pub submitted: Option<Timestamp>,
    /// RECEIVED, the first time.
    pub received: Option<Timestamp>,
    /// A judicial delay was announced.
    pub delayed: Option<Timestamp>,
    /// ANSWERED, REFUSED or WITHDRAWN.
    pub ended: Option<Timestamp>,
    /// CLOSED.
    pub closed: Option<Timestamp>,
    /// The limit was over before the holder answered or refused.
    pub overdue: bool,
}

impl FollowUp {
    /// The follow-up that its first step makes, taken at `now`.
    ///
    /// # Errors
    /// `FOLLOW_UP_MISMATCH` if it is no first step, `ILLEGAL_TRANSITION`, `INVALID_FIELD`.
    pub fn begin(clear: &StepClear, body: [u8; 32], now: Timestamp) -> Result<Self> {
        let StepDetail::Submit(terms) = &clear.detail else {
            // Nothing stands before the first step but the draft at the requester's node.
            let refused = transition(FollowUpState::Draft, clear.step()).err();
            return Err(refused.unwrap_or_else(|| misfit("a draft is withdrawn at its own node")));
        };
        if clear.sender == clear.recipient {
            return Err(Error::field("recipient", "the other side"));
        }
        let draft = Self {
            id: clear.follow_up,
            community: clear.community.clone(),
            hit: clear.hit,
            requester: clear.sender.clone(),
            holder: clear.recipient.clone(),
            terms: terms.clone(),
            state: FollowUpState::Draft,
            next_seq: 0,
            last_body: NO_PREVIOUS,
            clock: None,
            outcomes: None,
            milestones: Milestones::default(),
        };
        draft.apply(clear, body, now)
    }

    /// The follow-up after one more step, whose body has the digest `body`, taken at `now`.
    ///
    /// # Errors
    /// `FOLLOW_UP_MISMATCH` for another follow-up, order, party or state than is due;
    /// `ILLEGAL_TRANSITION`; `INVALID_FIELD` for what the step itself says wrongly.
    pub fn apply(&self, clear: &StepClear, body: [u8; 32], now: Timestamp) -> Result<Self> {
        self.check_place(clear)?;
        let step = clear.step();
        let state = transition(self.state, step)?;
        if clear.state != state {
            return Err(misfit(format!("{step} leads to {state} here")));
        }
        if clear.made_at > now.plus(CLOCK_SKEW) {
            return Err(Error::field("made_at", "more than 5 minutes ahead"));
        }
        self.check_detail(&clear.detail, now)?;
        let mut next = Self {
            state,
            next_seq: self.next_seq + 1,
            last_body: body,
            ..self.clone()
        };
        next.keep_time(&clear.detail, now);
        match &clear.detail {
            StepDetail::Refuse(outcomes) => next.outcomes = Some(outcomes.clone()),
            StepDetail::Answer(answer) => next.outcomes = Some(answer.outcomes.clone()),
            _ => {}
        }
        Ok(next)
    }

    /// Whether the step stands at the place that is due, and comes from the side whose turn it is.
    fn check_place(&self, clear: &StepClear) -> Result<()> {
        if (clear.follow_up, clear.hit) != (self.id, self.hit) || clear.community != self.community
        {
            return Err(misfit("the step is of another follow-up, hit or community"));
        }
        let by = clear.step().by();
        if clear.sender != *self.party(by) || clear.recipient != *self.party(by.other()) {
            return Err(misfit(format!("{} is taken by the {by}", clear.step())));
        }
        if clear.seq != self.next_seq {
            return Err(misfit(format!("the next step has seq {}", self.next_seq)));
        }
        if clear.previous != self.last_body {
            return Err(misfit("`previous` is not the digest of the step before"));
        }
        Ok(())
    }

    fn check_detail(&self, detail: &StepDetail, now: Timestamp) -> Result<()> {
        match detail {
            StepDetail::Refuse(outcomes)
                if !outcomes.cover(&self.terms) || !outcomes.refuse_everything() =>
            {
                let text = "a refusal names a ground for every item that was asked for";
                Err(Error::field("outcomes", text))
            }
            StepDetail::Answer(answer)
                if !answer.outcomes.cover(&self.terms) || answer.outcomes.refuse_everything() =>
            {
                let text = "an answer says of every item that was asked for what becomes of it, \
                            and does not refuse all of them";
                Err(Error::field("outcomes", text))
            }
            StepDetail::AwaitJudicialAuthorisation { new_date }
                if *new_date <= now || *new_date > now.plus(MAX_DELAY) =>
            {
                let text = "a date after now, and within a year";
                Err(Error::field("new_date", text))
            }
            _ => Ok(()),
        }
    }

    /// Limits are computed once, from RECEIVED, and stopped in clarification (workflow.md).
    fn keep_time(&mut self, detail: &StepDetail, now: Timestamp) {
        let times = &mut self.milestones;
        if times.ended.is_none() {
            times.overdue |= self.clock.is_some_and(|clock| clock.is_overdue(now));
        }
        match detail.step() {
            FollowUpStep::Submit => times.submitted = Some(now),
            FollowUpStep::Particulars => {
                times.received = Some(now);
                self.clock = Some(LimitClock::start(self.terms.limit().duration(), now));
            }
            FollowUpStep::RequestClarification => self.clock = self.clock.map(|c| c.stop(now)),
            FollowUpStep::Reply => self.clock = self.clock.map(|c| c.resume(now)),
            FollowUpStep::AwaitJudicialAuthorisation => times.delayed = Some(now),
            FollowUpStep::Refuse | FollowUpStep::Answer | FollowUpStep::Withdraw => {
                times.ended = Some(now);
                self.clock = self.clock.map(|clock| clock.stop(now));
            }
            FollowUpStep::NotHeld | FollowUpStep::Close => times.closed = Some(now),
            FollowUpStep::Held | FollowUpStep::Accept => {}
        }
        if let StepDetail::AwaitJudicialAuthorisation { new_date } = detail {
            self.clock = Some(LimitClock::until(*new_date, now));
        }
    }

    /// The follow-up closed by time, if that is due: 30 days after it ended.
    #[must_use]
    pub fn closed_by_time(&self, now: Timestamp) -> Option<Self> {
        let due = self.milestones.ended?.plus(CLOSED_AFTER);
        if now < due || transition(self.state, FollowUpStep::Close).is_err() {
            return None;
        }
        let mut closed = self.clone();
        closed.state = FollowUpState::Closed;
        closed.milestones.closed = Some(now);
        Some(closed)
    }

    /// The node of a side.
    pub const fn party(&self, party: Party) -> &NodeId {
        match party {
            Party::Requester => &self.requester,
            Party::Holder => &self.holder,
        }
    }

    /// The side of a node; `None` for any other.
    pub fn side_of(&self, node: &NodeId) -> Option<Party> {
        Party::ALL
            .iter()
            .copied()
            .find(|party| self.party(*party) == node)
    }

    /// OVERDUE: the limit is over and the holder has neither answered nor refused.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.milestones.overdue || self.clock.is_some_and(|clock| clock.is_overdue(now))
    }

    /// Whether the time limit counts on.
    pub fn limit_runs(&self) -> bool {
        self.clock.is_some_and(|clock| clock.due().is_some())
    }

    /// Whether anything can still happen to it but being closed.
    pub const fn is_open(&self) -> bool {
        !matches!(
            self.state,
            FollowUpState::Answered
                | FollowUpState::Refused
                | FollowUpState::Withdrawn
                | FollowUpState::Closed
        )
    }
}

#[cfg(test)]
mod tests;
