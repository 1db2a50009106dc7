//! Threads: the hits of several epochs on one record and one holder (protocol §8: "the node joins
//! them to the threads of e + 1 by its own records").

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::hit::{HitDecision, HitState, transition};

/// Where a thread stands, by the states of its hits from the first epoch to the last; `None`
/// without hits.
pub fn stands(states: impl IntoIterator<Item = HitState>) -> Option<HitState> {
    states.into_iter().reduce(carry)
}

/// Where a thread stands with one more hit, that of a later epoch.
///
/// What a person decided holds on while nobody has looked at the later hit. `FALSE_POSITIVE` does
/// not: filters of two epochs err independently of each other. Nor do `RETRACTED` and `EXPIRED`,
/// which nobody decided. A later hit that expired was left untouched because the thread had been
/// decided: the decision holds on then, too.
const fn carry(before: HitState, later: HitState) -> HitState {
    use HitState as S;
    match (before, later) {
        (S::UnderReview, S::New)
        | (S::Confirmed | S::FollowedUp | S::Closed | S::NotRelevant, S::New | S::Expired) => {
            before
        }
        _ => later,
    }
}

/// What is recorded for the latest hit of a thread when a person decides, in this order.
///
/// A thread that is under review by an earlier hit is so with its latest one: the review of that
/// hit is begun first, so that the broker takes the decision.
///
/// # Errors
/// `ILLEGAL_TRANSITION` if the latest hit does not take the decision.
pub fn steps(
    thread: HitState,
    latest: HitState,
    decision: HitDecision,
) -> Result<Vec<HitDecision>> {
    let reviewed = thread == HitState::UnderReview && latest == HitState::New;
    let steps = if reviewed && decision != HitDecision::BeginReview {
        vec![HitDecision::BeginReview, decision]
    } else {
        vec![decision]
    };
    let mut state = latest;
    for step in &steps {
        state = transition(state, step.event()).map_err(|_| refused(state, decision))?;
    }
    Ok(steps)
}

fn refused(state: HitState, decision: HitDecision) -> Error {
    let next = match state {
        HitState::New => "; begin its review first",
        _ => "",
    };
    Error::new(
        ErrorCode::IllegalTransition,
        format!("a hit in state {state} does not take {decision}{next}"),
    )
}

#[cfg(test)]
mod tests {
    use HitState as S;

    use super::*;

    #[test]
    fn a_thread_stands_where_its_hits_by_epoch_say() {
        for (states, expected) in [
            (&[][..], None),
            (&[S::New], Some(S::New)),
            (&[S::Quarantined], Some(S::Quarantined)),
            (&[S::New, S::New], Some(S::New)),
            (&[S::UnderReview, S::New], Some(S::UnderReview)),
            (&[S::Confirmed, S::New], Some(S::Confirmed)),
            (&[S::FollowedUp, S::New], Some(S::FollowedUp)),
            (&[S::Closed, S::New], Some(S::Closed)),
            (&[S::NotRelevant, S::New], Some(S::NotRelevant)),
            (&[S::FalsePositive, S::New], Some(S::New)),
            (&[S::Retracted, S::New], Some(S::New)),
            (&[S::Expired, S::New], Some(S::New)),
            (&[S::Quarantined, S::New], Some(S::New)),
            // The decision holds on over more than one epoch …
            (&[S::Confirmed, S::New, S::New], Some(S::Confirmed)),
            (&[S::Confirmed, S::Expired, S::New], Some(S::Confirmed)),
            (&[S::NotRelevant, S::Expired], Some(S::NotRelevant)),
            // … until something happens to a later hit.
            (&[S::UnderReview, S::Expired], Some(S::Expired)),
            (&[S::Confirmed, S::Retracted], Some(S::Retracted)),
            (&[S::Confirmed, S::Retracted, S::New], Some(S::New)),
            (&[S::Confirmed, S::Quarantined], Some(S::Quarantined)),
            (&[S::Confirmed, S::UnderReview], Some(S::UnderReview)),
            (&[S::Confirmed, S::FalsePositive], Some(S::FalsePositive)),
            (&[S::NotRelevant, S::Confirmed], Some(S::Confirmed)),
        ] {
            assert_eq!(stands(states.iter().copied()), expected, "{states:?}");
        }
    }

    #[test]
    fn only_a_hit_that_nobody_has_looked_at_leaves_a_thread_where_it_was() {
        for &before in S::ALL {
            for &later in S::ALL {
                if !matches!(later, S::New | S::Expired) {
                    assert_eq!(stands([before, later]), Some(later), "{before} {later}");
                }
            }
        }
    }

    #[test]
    fn every_decision_on_every_thread_is_taken_step_by_step_or_refused() {
        use HitDecision as D;
        for &thread in S::ALL {
            for &latest in S::ALL {
                for &decision in D::ALL {
                    let done = steps(thread, latest, decision);
                    let expected = match (thread, latest, decision) {
                        (_, S::New, D::BeginReview) => Some(vec![decision]),
                        (S::UnderReview, S::New, _) => Some(vec![D::BeginReview, decision]),
                        (_, S::UnderReview, D::Confirm | D::FalsePositive | D::NotRelevant) => {
                            Some(vec![decision])
                        }
                        _ => None,
                    };
                    match (done, expected) {
                        (Ok(done), Some(expected)) => assert_eq!(done, expected),
                        (Err(error), None) => {
                            assert_eq!(error.code, ErrorCode::IllegalTransition);
                            assert!(error.text.contains(latest.as_str()));
                            assert_eq!(error.text.contains("begin"), latest == S::New);
                        }
                        (done, expected) => {
                            panic!("{thread} {latest} {decision}: {done:?}, not {expected:?}")
                        }
                    }
                }
            }
        }
    }
}
