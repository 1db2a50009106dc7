//! Follow-ups (protocol §10, workflow.md "Follow-up"), by the function that broker and nodes use.
//!
//! The clear part of a step names nodes and no people: that two people had a hand in it is what the
//! signed statement claims, at its node, and nothing that the log can show.

use std::collections::HashMap;

use prost::Message as _;
use sotto_common::followup::record::FollowUp;
use sotto_common::followup::step::StepClear;
use sotto_common::followup::{FollowUpState, FollowUpStep, transition};
use sotto_common::ids::{FollowUpId, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;
use sotto_common::time::Timestamp;
use sotto_proto::v1;

use super::Erased;
use super::hits::Hits;
use crate::audit::failure::{Check, FailureCode, Flaw};

/// The follow-ups of the log.
#[derive(Debug, Default)]
pub(super) struct FollowUps(HashMap<FollowUpId, Known>);

#[derive(Debug)]
struct Known {
    course: Course,
    /// Its last entry.
    index: u64,
}

/// How much of a follow-up the log still has.
#[derive(Debug)]
enum Course {
    /// All steps.
    Whole(Box<FollowUp>),
    /// The beginning, or something between, is erased: what the last step says.
    Part(Part),
}

#[derive(Debug)]
struct Part {
    state: FollowUpState,
    next_seq: u32,
    last_body: [u8; 32],
    parties: (NodeId, NodeId),
}

/// A step as its entry has it.
struct Taken<'a> {
    entry: &'a Entry,
    clear: StepClear,
    body: [u8; 32],
}

impl FollowUps {
    pub(super) fn whole(&self) -> impl Iterator<Item = (FollowUpId, &FollowUp)> {
        self.0.iter().filter_map(|(id, known)| match &known.course {
            Course::Whole(follow_up) => Some((*id, follow_up.as_ref())),
            Course::Part(_) => None,
        })
    }

    /// Something happened to a follow-up.
    pub(super) fn take(
        &mut self,
        index: u64,
        entry: &Entry,
        hits: &Hits,
        erased: &Erased,
    ) -> Check {
        let id = entry.object.follow_up;
        let id = id.ok_or_else(|| Flaw::lacks("its follow-up"))?;
        let known = self.0.get(&id);
        // Something of it may have been erased since.
        let known = known.filter(|known| !erased.since(EntryKind::FollowUp, known.index));
        let course = if entry.action == Action::TakeStep {
            let taken = Taken::read(entry)?;
            taken.check_entry()?;
            match known {
                Some(known) => known.course.after(&taken)?,
                None => begin(&taken, hits, erased)?,
            }
        } else {
            let Some(known) = known else {
                if erased.any(EntryKind::FollowUp) {
                    return Ok(());
                }
                return Err(illegal("was never submitted"));
            };
            known.course.after_event(entry)?
        };
        self.0.insert(id, Known { course, index });
        Ok(())
    }
}

/// A first step, or the first that is left.
fn begin(taken: &Taken<'_>, hits: &Hits, erased: &Erased) -> Check<Course> {
    let clear = &taken.clear;
    if clear.step() == FollowUpStep::Submit {
        let parties = (&clear.sender, &clear.recipient);
        hits.check_request(clear.hit, parties, erased)?;
        let follow_up = FollowUp::begin(clear, taken.body, taken.entry.at);
        let follow_up = follow_up.map_err(|error| illegal(&error.to_string()))?;
        taken.check_state(follow_up.state)?;
        return Ok(Course::Whole(Box::new(follow_up)));
    }
    if !erased.any(EntryKind::FollowUp) {
        return Err(illegal("has a step before it was submitted"));
    }
    taken.check_state(clear.state)?;
    Ok(Course::Part(Part::of(taken)))
}

impl Course {
    fn after(&self, taken: &Taken<'_>) -> Check<Self> {
        let (clear, now) = (&taken.clear, taken.entry.at);
        let course = match self {
            Self::Whole(follow_up) => {
                let next = follow_up.apply(clear, taken.body, now);
                let next = next.map_err(|error| illegal(&error.to_string()))?;
                Self::Whole(Box::new(next))
            }
            Self::Part(part) => Self::Part(part.after(taken)?),
        };
        taken.check_state(course.state())?;
        Ok(course)
    }

    /// What is no step: closing and erasing by time, limits, files.
    fn after_event(&self, entry: &Entry) -> Check<Self> {
        match entry.action {
            Action::CloseFollowUp => self.closed(entry),
            Action::EraseFollowUp if self.state() != FollowUpState::Closed => {
                Err(illegal("was erased before it was closed"))
            }
            Action::MissLimit => self.late(entry.at),
            Action::AnnounceAttachment if self.state() != FollowUpState::Accepted => {
                Err(illegal("takes files in ACCEPTED only"))
            }
            Action::FetchAttachment => {
                self.check_reader(entry)?;
                Ok(self.same())
            }
            _ => Ok(self.same()),
        }
    }

    fn state(&self) -> FollowUpState {
        match self {
            Self::Whole(follow_up) => follow_up.state,
            Self::Part(part) => part.state,
        }
    }

    fn same(&self) -> Self {
        match self {
            Self::Whole(follow_up) => Self::Whole(follow_up.clone()),
            Self::Part(part) => Self::Part(part.same(part.state)),
        }
    }

    /// PROTOCOL-NOTES §10: 30 days after it ended.
    fn closed(&self, entry: &Entry) -> Check<Self> {
        let course = match self {
            Self::Whole(follow_up) => {
                let closed = follow_up.closed_by_time(entry.at);
                closed.map(|closed| Self::Whole(Box::new(closed)))
            }
            Self::Part(part) => {
                let state = transition(part.state, FollowUpStep::Close).ok();
                state.map(|state| Self::Part(part.same(state)))
            }
        };
        course.ok_or_else(|| illegal("was closed by time before that was due"))
    }

    /// workflow.md "Time limits": OVERDUE is a flag, not a state.
    fn late(&self, at: Timestamp) -> Check<Self> {
        let Self::Whole(follow_up) = self else {
            return Ok(self.same());
        };
        let is_over = follow_up
            .clock
            .is_some_and(|clock| clock.left(at).is_zero());
        if !is_over && !follow_up.is_overdue(at) {
            return Err(illegal("missed a limit that was not over"));
        }
        let mut late = follow_up.clone();
        late.milestones.overdue = true;
        Ok(Self::Whole(late))
    }

    /// A file is read by a party, once the answer is there.
    fn check_reader(&self, entry: &Entry) -> Check {
        let reader = entry.actor.node();
        let is_party = |node: &NodeId| match self {
            Self::Whole(follow_up) => follow_up.side_of(node).is_some(),
            Self::Part(part) => part.parties.0 == *node || part.parties.1 == *node,
        };
        if !reader.as_ref().is_some_and(is_party) {
            return Err(illegal("had a file read by a node that is no party"));
        }
        match self.state() {
            FollowUpState::Answered | FollowUpState::Closed => Ok(()),
            state => Err(illegal(&format!("had a file read in {state}"))),
        }
    }
}

impl Part {
    fn of(taken: &Taken<'_>) -> Self {
        let clear = &taken.clear;
        Self {
            state: clear.state,
            next_seq: clear.seq.saturating_add(1),
            last_body: taken.body,
            parties: (clear.sender.clone(), clear.recipient.clone()),
        }
    }

    fn same(&self, state: FollowUpState) -> Self {
        Self {
            state,
            next_seq: self.next_seq,
            last_body: self.last_body,
            parties: self.parties.clone(),
        }
    }

    fn after(&self, taken: &Taken<'_>) -> Check<Self> {
        let clear = &taken.clear;
        let state = transition(self.state, clear.step());
        let state = state.map_err(|error| illegal(&error.to_string()))?;
        let parties = (&clear.sender, &clear.recipient);
        let (one, other) = (&self.parties.0, &self.parties.1);
        if parties != (one, other) && parties != (other, one) {
            return Err(illegal("has a step of a node that is no party"));
        }
        if clear.seq != self.next_seq || clear.previous != self.last_body {
            return Err(illegal("has a step out of order"));
        }
        if clear.state != state {
            return Err(illegal(&format!(
                "comes to {state} here, not to {}",
                clear.state
            )));
        }
        Ok(Self::of(taken))
    }
}

impl<'a> Taken<'a> {
    fn read(entry: &'a Entry) -> Check<Self> {
        let step = entry.step.as_ref().ok_or_else(|| Flaw::lacks("the step"))?;
        let statement = entry.statement.as_ref();
        let statement = statement.ok_or_else(|| Flaw::lacks("the digest of the step"))?;
        let malformed = |error: String| {
            let text = format!("the clear part of the step cannot be read: {error}");
            Flaw::new(FailureCode::EntryMalformed, text)
        };
        let wire = v1::FollowUpClear::decode(step.clear.as_slice());
        let wire = wire.map_err(|error| malformed(error.to_string()))?;
        let clear = StepClear::try_from(wire).map_err(|error| malformed(error.to_string()))?;
        Ok(Self {
            entry,
            clear,
            body: statement.digest,
        })
    }

    /// The entry says what the clear part says.
    fn check_entry(&self) -> Check {
        let (entry, clear) = (self.entry, &self.clear);
        let step = entry.step.as_ref().map(|step| step.number);
        for (what, same) in [
            ("the community", clear.community == entry.community),
            (
                "the follow-up",
                Some(clear.follow_up) == entry.object.follow_up,
            ),
            ("the hit", Some(clear.hit) == entry.object.hit),
            ("its number", Some(clear.seq) == step),
            (
                "the sender",
                entry.actor.node().as_ref() == Some(&clear.sender),
            ),
            (
                "the recipient",
                entry.recipient.as_ref() == Some(&clear.recipient),
            ),
            ("the step", entry.detail == clear.step().as_str()),
        ] {
            if !same {
                let text = format!("the signed step and the entry differ in {what}");
                return Err(Flaw::new(FailureCode::StatementMismatch, text));
            }
        }
        Ok(())
    }

    /// The entry names the state that the step leads to.
    fn check_state(&self, state: FollowUpState) -> Check {
        let named = self.entry.change.as_ref();
        if named.is_some_and(|change| change.to == state.as_str()) {
            return Ok(());
        }
        Err(illegal(&format!(
            "comes to {state} here, and the entry says otherwise"
        )))
    }
}

fn illegal(problem: &str) -> Flaw {
    Flaw::new(
        FailureCode::IllegalFollowUp,
        format!("the follow-up {problem}"),
    )
}
