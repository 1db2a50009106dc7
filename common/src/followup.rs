//! The formal follow-up (protocol §10, workflow.md "Follow-up"): states, steps, and the one
//! function that moves between them. Broker and both nodes share all of it.
//!
//! [`codes`] has the codes that travel, [`step`] what a step says in the clear, [`record`] a
//! follow-up as its steps have made it, [`clock`] its time limit, [`content`] what is sealed,
//! [`presence`] the proof that comes before any particulars, [`attachment`] files in segments.

pub mod attachment;
pub mod clock;
pub mod codes;
pub mod content;
pub mod padding;
pub mod presence;
pub mod record;
pub mod statistics;
pub mod step;

use crate::error::{Error, ErrorCode, Result};
use crate::grounds::codes;

codes! {
    /// Where a follow-up stands.
    FollowUpState {
        /// At the requester's node only: not approved yet.
        Draft = "DRAFT",
        /// Approved by a second person; the holder's node has not answered for its tags yet.
        Submitted = "SUBMITTED",
        /// The holder's node has proved that it holds the selector; the particulars are due.
        Held = "HELD",
        /// The particulars are with the holder: the time limit runs.
        Received = "RECEIVED",
        /// The holder will answer.
        Accepted = "ACCEPTED",
        /// The holder needs to know more; the time limit stands still.
        ClarificationRequested = "CLARIFICATION_REQUESTED",
        /// The holder waits for a court, until a date that it gave.
        AwaitingJudicialAuthorisation = "AWAITING_JUDICIAL_AUTHORISATION",
        /// The holder has answered.
        Answered = "ANSWERED",
        /// The holder will not answer.
        Refused = "REFUSED",
        /// The requester takes the request back.
        Withdrawn = "WITHDRAWN",
        /// Over.
        Closed = "CLOSED",
    }
}

codes! {
    /// What a party does; each is one signed statement (protocol §10).
    FollowUpStep {
        /// The requester asks, naming the tag alone.
        Submit = "SUBMIT",
        /// The holder's node proves that it holds the selector.
        Held = "HELD",
        /// The holder's node does not hold it.
        NotHeld = "NOT_HELD",
        /// The requester's node releases the approved particulars.
        Particulars = "PARTICULARS",
        /// The holder accepts.
        Accept = "ACCEPT",
        /// The holder refuses, with a ground per item.
        Refuse = "REFUSE",
        /// The holder asks for more.
        RequestClarification = "REQUEST_CLARIFICATION",
        /// The requester says more.
        Reply = "REPLY",
        /// The holder waits for a court, until a new date.
        AwaitJudicialAuthorisation = "AWAIT_JUDICIAL_AUTHORISATION",
        /// The holder answers.
        Answer = "ANSWER",
        /// The requester takes the request back.
        Withdraw = "WITHDRAW",
        /// The requester closes.
        Close = "CLOSE",
    }
}

codes! {
    /// A side of a follow-up.
    Party {
        /// The node whose hit it is.
        Requester = "REQUESTER",
        /// The node whose filter matched.
        Holder = "HOLDER",
    }
}

impl Party {
    /// The other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Requester => Self::Holder,
            Self::Holder => Self::Requester,
        }
    }
}

codes! {
    /// What is sealed with a step: the word in its HPKE label (protocol §10).
    SealedPart {
        /// The tags of the hit's record ref.
        Request = "request",
        /// The proof of presence.
        Held = "held",
        /// The selector in clear, facts, person.
        Particulars = "particulars",
        /// A text.
        Message = "message",
        /// The answer.
        Answer = "answer",
        /// A file, segment by segment.
        Attachment = "attachment",
    }
}

/// Whether a step carries a sealed part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sealing {
    /// Never: `enc` and `sealed` are empty.
    None,
    /// It may.
    Optional(SealedPart),
    /// Always.
    Required(SealedPart),
}

impl Sealing {
    /// The part, if the step can have one.
    pub const fn part(self) -> Option<SealedPart> {
        match self {
            Self::None => None,
            Self::Optional(part) | Self::Required(part) => Some(part),
        }
    }
}

impl FollowUpStep {
    /// Who takes it.
    pub const fn by(self) -> Party {
        match self {
            Self::Submit | Self::Particulars | Self::Reply | Self::Withdraw | Self::Close => {
                Party::Requester
            }
            Self::Held
            | Self::NotHeld
            | Self::Accept
            | Self::Refuse
            | Self::RequestClarification
            | Self::AwaitJudicialAuthorisation
            | Self::Answer => Party::Holder,
        }
    }

    /// What is sealed with it (protocol §10).
    pub const fn sealing(self) -> Sealing {
        match self {
            Self::Submit => Sealing::Required(SealedPart::Request),
            Self::Held => Sealing::Required(SealedPart::Held),
            Self::Particulars => Sealing::Required(SealedPart::Particulars),
            Self::RequestClarification | Self::Reply | Self::AwaitJudicialAuthorisation => {
                Sealing::Required(SealedPart::Message)
            }
            Self::Refuse => Sealing::Optional(SealedPart::Message),
            Self::Answer => Sealing::Required(SealedPart::Answer),
            Self::NotHeld | Self::Accept | Self::Withdraw | Self::Close => Sealing::None,
        }
    }

    /// Whether the node takes it by itself, without a person (workflow.md "Follow-up").
    pub const fn is_by_node(self) -> bool {
        matches!(self, Self::Held | Self::NotHeld | Self::Particulars)
    }

    /// Whether one person drafts it and another approves it. Taking back and closing let nothing
    /// out, and need one person.
    pub const fn needs_four_eyes(self) -> bool {
        !self.is_by_node() && !matches!(self, Self::Withdraw | Self::Close)
    }
}

/// The state after `step` (workflow.md "Follow-up"); every pair that is not here is refused.
///
/// # Errors
/// `ILLEGAL_TRANSITION`, naming the state and the step.
pub fn transition(from: FollowUpState, step: FollowUpStep) -> Result<FollowUpState> {
    use FollowUpState as S;
    use FollowUpStep as T;
    let to = match (from, step) {
        (S::Draft, T::Submit) => S::Submitted,
        (S::Submitted, T::Held) => S::Held,
        (S::Held, T::Particulars) | (S::ClarificationRequested, T::Reply) => S::Received,
        (S::Received | S::AwaitingJudicialAuthorisation, T::Accept) => S::Accepted,
        (S::Received | S::AwaitingJudicialAuthorisation, T::Refuse) => S::Refused,
        (S::Received, T::RequestClarification) => S::ClarificationRequested,
        (S::Received, T::AwaitJudicialAuthorisation) => S::AwaitingJudicialAuthorisation,
        (S::Accepted, T::Answer) => S::Answered,
        // "any state before ANSWERED": a refusal is an end, not a state before an answer.
        (
            S::Draft
            | S::Submitted
            | S::Held
            | S::Received
            | S::Accepted
            | S::ClarificationRequested
            | S::AwaitingJudicialAuthorisation,
            T::Withdraw,
        ) => S::Withdrawn,
        (S::Submitted, T::NotHeld) | (S::Answered | S::Refused | S::Withdrawn, T::Close) => {
            S::Closed
        }
        _ => {
            let to = target(step);
            let text = format!("a follow-up does not go from {from} to {to} by {step}");
            return Err(Error::new(ErrorCode::IllegalTransition, text));
        }
    };
    Ok(to)
}

/// The state that a step leads to wherever it is allowed.
const fn target(step: FollowUpStep) -> FollowUpState {
    use FollowUpState as S;
    use FollowUpStep as T;
    match step {
        T::Submit => S::Submitted,
        T::Held => S::Held,
        T::NotHeld | T::Close => S::Closed,
        T::Particulars | T::Reply => S::Received,
        T::Accept => S::Accepted,
        T::Refuse => S::Refused,
        T::RequestClarification => S::ClarificationRequested,
        T::AwaitJudicialAuthorisation => S::AwaitingJudicialAuthorisation,
        T::Answer => S::Answered,
        T::Withdraw => S::Withdrawn,
    }
}

#[cfg(test)]
mod tests {
    use super::FollowUpState as S;
    use super::FollowUpStep as T;
    use super::*;

    /// The diagram of workflow.md, an arrow a row.
    const MOVES: &[(S, T, S)] = &[
        (S::Draft, T::Submit, S::Submitted),
        (S::Submitted, T::NotHeld, S::Closed),
        (S::Submitted, T::Held, S::Held),
        (S::Held, T::Particulars, S::Received),
        (S::Received, T::Accept, S::Accepted),
        (S::Received, T::Refuse, S::Refused),
        (
            S::Received,
            T::RequestClarification,
            S::ClarificationRequested,
        ),
        (S::ClarificationRequested, T::Reply, S::Received),
        (
            S::Received,
            T::AwaitJudicialAuthorisation,
            S::AwaitingJudicialAuthorisation,
        ),
        (S::AwaitingJudicialAuthorisation, T::Accept, S::Accepted),
        (S::AwaitingJudicialAuthorisation, T::Refuse, S::Refused),
        (S::Accepted, T::Answer, S::Answered),
        (S::Answered, T::Close, S::Closed),
        (S::Refused, T::Close, S::Closed),
        (S::Withdrawn, T::Close, S::Closed),
        (S::Draft, T::Withdraw, S::Withdrawn),
        (S::Submitted, T::Withdraw, S::Withdrawn),
        (S::Held, T::Withdraw, S::Withdrawn),
        (S::Received, T::Withdraw, S::Withdrawn),
        (S::Accepted, T::Withdraw, S::Withdrawn),
        (S::ClarificationRequested, T::Withdraw, S::Withdrawn),
        (S::AwaitingJudicialAuthorisation, T::Withdraw, S::Withdrawn),
    ];

    #[test]
    fn every_pair_of_state_and_step_does_what_the_table_says() {
        for &from in S::ALL {
            for &step in T::ALL {
                let listed = MOVES.iter().find(|(f, s, _)| *f == from && *s == step);
                match (transition(from, step), listed) {
                    (Ok(to), Some((_, _, expected))) => {
                        assert_eq!(to, *expected, "{from} {step}");
                        assert_eq!(to, target(step), "{from} {step}");
                    }
                    (Err(error), None) => {
                        assert_eq!(error.code, ErrorCode::IllegalTransition);
                        let text = error.text;
                        assert!(text.contains(from.as_str()), "names the state before");
                        assert!(
                            text.contains(target(step).as_str()),
                            "names the state after"
                        );
                    }
                    (outcome, _) => panic!("{from} {step}: {outcome:?}"),
                }
            }
        }
    }

    #[test]
    fn an_answer_is_reached_through_the_holders_accept_alone() {
        for &from in S::ALL {
            for &step in T::ALL {
                let Ok(to) = transition(from, step) else {
                    continue;
                };
                if to == S::Answered {
                    assert_eq!((from, step.by()), (S::Accepted, Party::Holder));
                }
                if to == S::Accepted {
                    assert_eq!((step, step.by()), (T::Accept, Party::Holder));
                }
                if to == S::Received && from != S::ClarificationRequested {
                    assert_eq!(from, S::Held, "particulars leave on HELD only");
                }
            }
        }
    }

    #[test]
    fn what_lets_something_out_needs_two_people_or_none() {
        for &step in T::ALL {
            let sealed = step.sealing().part().is_some();
            assert!(
                !sealed || step.needs_four_eyes() || step.is_by_node(),
                "{step}"
            );
        }
        assert!(T::Accept.needs_four_eyes());
    }

    #[test]
    fn codes_come_back_from_their_text() {
        for &state in S::ALL {
            assert_eq!(S::parse(state.as_str()), Some(state));
        }
        for &step in T::ALL {
            assert_eq!(T::parse(step.as_str()), Some(step));
        }
    }
}
