//! The life of a hit: states, and the one function that moves between them (workflow.md "Hit").

use crate::error::{Error, ErrorCode, Result};
use crate::grounds::codes;
use crate::ids::{CommunityId, HitId, NodeId};
use crate::time::Timestamp;

codes! {
    /// Where a hit stands.
    HitState {
        /// Nobody has looked yet.
        New = "NEW",
        /// A person looks at it.
        UnderReview = "UNDER_REVIEW",
        /// A person found it true.
        Confirmed = "CONFIRMED",
        /// A person, or a signed `NOT_HELD`, found it false.
        FalsePositive = "FALSE_POSITIVE",
        /// True, but of no use.
        NotRelevant = "NOT_RELEVANT",
        /// A follow-up is under way.
        FollowedUp = "FOLLOWED_UP",
        /// The follow-up is closed.
        Closed = "CLOSED",
        /// Probed again, and the holder no longer matches.
        Retracted = "RETRACTED",
        /// Untouched for too long.
        Expired = "EXPIRED",
        /// Held back by the flood guard.
        Quarantined = "QUARANTINED",
    }
}

/// What happens to a hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HitEvent {
    /// A person begins to look at it.
    BeginReview,
    /// A person finds it true.
    Confirm,
    /// A person finds it false.
    RejectAsFalse,
    /// A person finds it of no use.
    RejectAsIrrelevant,
    /// A follow-up is submitted.
    FollowUp,
    /// The follow-up is closed.
    CloseFollowUp,
    /// The holder's node answers `NOT_HELD` (protocol §10).
    NotHeld,
    /// Its ref was probed again and the holder did not match (protocol §7).
    NoLongerMatches,
    /// Its ref was probed again and the holder matched.
    MatchesAgain,
    /// It was left untouched for the community's time.
    Expire,
    /// An operator releases it from quarantine, with a reason.
    Release,
}

impl HitEvent {
    /// Every event.
    pub const ALL: [Self; 11] = [
        Self::BeginReview,
        Self::Confirm,
        Self::RejectAsFalse,
        Self::RejectAsIrrelevant,
        Self::FollowUp,
        Self::CloseFollowUp,
        Self::NotHeld,
        Self::NoLongerMatches,
        Self::MatchesAgain,
        Self::Expire,
        Self::Release,
    ];
}

codes! {
    /// What a person decides about a hit. "Only a person at the prober's node moves a hit to
    /// CONFIRMED, FALSE_POSITIVE or NOT_RELEVANT" (workflow.md "Hit").
    HitDecision {
        /// Looks at it.
        BeginReview = "BEGIN_REVIEW",
        /// Finds it true.
        Confirm = "CONFIRM",
        /// Finds it false.
        FalsePositive = "FALSE_POSITIVE",
        /// Finds it true and of no use.
        NotRelevant = "NOT_RELEVANT",
    }
}

impl HitDecision {
    /// What it does to the hit.
    pub const fn event(self) -> HitEvent {
        match self {
            Self::BeginReview => HitEvent::BeginReview,
            Self::Confirm => HitEvent::Confirm,
            Self::FalsePositive => HitEvent::RejectAsFalse,
            Self::NotRelevant => HitEvent::RejectAsIrrelevant,
        }
    }

    /// The state that it leads to.
    pub const fn state(self) -> HitState {
        match self {
            Self::BeginReview => HitState::UnderReview,
            Self::Confirm => HitState::Confirmed,
            Self::FalsePositive => HitState::FalsePositive,
            Self::NotRelevant => HitState::NotRelevant,
        }
    }
}

codes! {
    /// What corroborates a weak match before it is confirmed (selectors.md "Persons").
    SecondFactor {
        /// Sex.
        Sex = "SEX",
        /// Place of birth.
        PlaceOfBirth = "PLACE_OF_BIRTH",
        /// Nationality.
        Nationality = "NATIONALITY",
        /// A document.
        Document = "DOCUMENT",
    }
}

/// A decision as the prober signs it for the broker (workflow.md "Hit"). The person and the reason
/// stay at the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HitFeedback {
    /// The prober.
    pub node: NodeId,
    /// The community.
    pub community: CommunityId,
    /// The hit.
    pub hit: HitId,
    /// What was decided.
    pub decision: HitDecision,
    /// When.
    pub decided_at: Timestamp,
}

/// The state after `event`; what leaves the state as it is, is a move to the same state.
///
/// # Errors
/// `ILLEGAL_TRANSITION`, naming the state and the event.
pub fn transition(from: HitState, event: HitEvent) -> Result<HitState> {
    use HitEvent as E;
    use HitState as S;
    let to = match (from, event) {
        (S::New, E::BeginReview) => S::UnderReview,
        (S::UnderReview, E::Confirm) => S::Confirmed,
        (S::UnderReview, E::RejectAsFalse) | (S::FollowedUp, E::NotHeld) => S::FalsePositive,
        (S::UnderReview, E::RejectAsIrrelevant) => S::NotRelevant,
        (S::Confirmed, E::FollowUp) => S::FollowedUp,
        (S::FollowedUp, E::CloseFollowUp) => S::Closed,
        (S::New | S::UnderReview | S::Confirmed, E::NoLongerMatches) => S::Retracted,
        // A holder that matches again is a hit again: PROTOCOL-NOTES §7.
        (S::Retracted, E::MatchesAgain) | (S::Quarantined, E::Release) => S::New,
        (S::New | S::UnderReview, E::Expire) => S::Expired,
        // Quarantined hits are "neither repeated nor retracted by re-probing" (protocol §7), and
        // what a person has decided, a probe does not undo.
        (_, E::MatchesAgain | E::NoLongerMatches) => from,
        _ => {
            return Err(Error::new(
                ErrorCode::IllegalTransition,
                format!("a hit in state {from} does not take {event:?}"),
            ));
        }
    };
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_leads_to_the_state_that_its_event_leads_to() {
        for &decision in HitDecision::ALL {
            let from = match decision {
                HitDecision::BeginReview => HitState::New,
                _ => HitState::UnderReview,
            };
            let to = transition(from, decision.event()).expect("allowed");
            assert_eq!(to, decision.state());
        }
    }

    /// workflow.md "Hit" as a table of every move that changes the state.
    const MOVES: &[(HitState, HitEvent, HitState)] = &[
        (HitState::New, HitEvent::BeginReview, HitState::UnderReview),
        (
            HitState::UnderReview,
            HitEvent::Confirm,
            HitState::Confirmed,
        ),
        (
            HitState::UnderReview,
            HitEvent::RejectAsFalse,
            HitState::FalsePositive,
        ),
        (
            HitState::UnderReview,
            HitEvent::RejectAsIrrelevant,
            HitState::NotRelevant,
        ),
        (
            HitState::Confirmed,
            HitEvent::FollowUp,
            HitState::FollowedUp,
        ),
        (
            HitState::FollowedUp,
            HitEvent::CloseFollowUp,
            HitState::Closed,
        ),
        (
            HitState::FollowedUp,
            HitEvent::NotHeld,
            HitState::FalsePositive,
        ),
        (
            HitState::New,
            HitEvent::NoLongerMatches,
            HitState::Retracted,
        ),
        (
            HitState::UnderReview,
            HitEvent::NoLongerMatches,
            HitState::Retracted,
        ),
        (
            HitState::Confirmed,
            HitEvent::NoLongerMatches,
            HitState::Retracted,
        ),
        (HitState::Retracted, HitEvent::MatchesAgain, HitState::New),
        (HitState::New, HitEvent::Expire, HitState::Expired),
        (HitState::UnderReview, HitEvent::Expire, HitState::Expired),
        (HitState::Quarantined, HitEvent::Release, HitState::New),
    ];

    #[test]
    fn every_pair_of_state_and_event_does_what_the_table_says() {
        for &from in HitState::ALL {
            for event in HitEvent::ALL {
                let listed = MOVES.iter().find(|(f, e, _)| *f == from && *e == event);
                let probe = matches!(event, HitEvent::MatchesAgain | HitEvent::NoLongerMatches);
                match (transition(from, event), listed) {
                    (Ok(to), Some((_, _, expected))) => assert_eq!(to, *expected),
                    (Ok(to), None) => assert!(probe && to == from, "{from} {event:?} → {to}"),
                    (Err(error), None) => {
                        assert_eq!(error.code, ErrorCode::IllegalTransition);
                        assert!(error.text.contains(from.as_str()));
                    }
                    (Err(_), Some(_)) => panic!("{from} {event:?} must be allowed"),
                }
            }
        }
    }
}
