//! Where one hit stands, between what persons here have decided and what the broker tells of it.

use sotto_common::hit::HitState;
use sotto_common::time::Timestamp;

/// A state as the broker told it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// The state.
    pub state: HitState,
    /// When the ref had matched last, by the broker's clock.
    pub seen: Timestamp,
}

/// What is known of where a hit stands.
///
/// The broker decides (workflow.md "Hit"), but hears of decisions late, and its stream tells of
/// them later still: until then the stream's older states undo nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// What the broker told last.
    pub told: Told,
    /// What the broker answered to the last decision, if its stream has not told that yet.
    pub awaited: Option<Told>,
    /// The state that the last decision leads to which the broker has not answered yet.
    pub pending: Option<HitState>,
}

impl Standing {
    /// A hit that nobody has decided about.
    pub const fn new(told: Told) -> Self {
        Self {
            told,
            awaited: None,
            pending: None,
        }
    }

    /// The state to show.
    pub fn shown(&self) -> HitState {
        self.pending
            .or(self.awaited.map(|awaited| awaited.state))
            .unwrap_or(self.told.state)
    }

    /// The broker's stream tells a state.
    pub fn hear(&mut self, told: Told) {
        self.told = told;
        self.awaited = self.awaited.filter(|awaited| is_before(told, *awaited));
    }

    /// The broker took a decision, and answered how the hit stands with it.
    pub fn take(&mut self, answer: Told) {
        // Else the stream was quicker than the answer.
        if is_before(self.told, answer) {
            self.awaited = Some(answer);
        }
    }
}

/// Whether the broker told `earlier` of a hit before `later`: decisions lead from the one to the
/// other. The way back to NEW is by a match alone, which moves the time of the last match.
fn is_before(earlier: Told, later: Told) -> bool {
    use HitState as S;
    let leads = match later.state {
        S::UnderReview => earlier.state == S::New,
        S::Confirmed | S::FalsePositive | S::NotRelevant => {
            matches!(earlier.state, S::New | S::UnderReview)
        }
        S::FollowedUp | S::Closed | S::New | S::Retracted | S::Expired | S::Quarantined => false,
    };
    leads && earlier.seen <= later.seen
}

#[cfg(test)]
mod tests {
    use HitState as S;

    use super::*;

    fn told(state: HitState, seen: i64) -> Told {
        Told {
            state,
            seen: Timestamp::from_seconds(seen),
        }
    }

    #[test]
    fn older_states_of_the_stream_do_not_undo_a_decision_and_newer_ones_do() {
        // What the stream told before, what the broker answered to the decision, what the stream
        // tells then, and what is shown.
        for (before, answer, after, shown) in [
            (
                told(S::New, 1),
                told(S::UnderReview, 1),
                None,
                S::UnderReview,
            ),
            (
                told(S::New, 1),
                told(S::Confirmed, 1),
                Some(told(S::UnderReview, 1)),
                S::Confirmed,
            ),
            (
                told(S::New, 1),
                told(S::Confirmed, 1),
                Some(told(S::New, 1)),
                S::Confirmed,
            ),
            (
                told(S::UnderReview, 1),
                told(S::Confirmed, 1),
                Some(told(S::Confirmed, 1)),
                S::Confirmed,
            ),
            (
                told(S::UnderReview, 1),
                told(S::Confirmed, 1),
                Some(told(S::Retracted, 1)),
                S::Retracted,
            ),
            (
                told(S::UnderReview, 1),
                told(S::Confirmed, 1),
                Some(told(S::FollowedUp, 1)),
                S::FollowedUp,
            ),
            // Retracted and matched again meanwhile; only the latter was told.
            (
                told(S::UnderReview, 1),
                told(S::Confirmed, 1),
                Some(told(S::New, 2)),
                S::New,
            ),
            // The stream was quicker than the answer.
            (
                told(S::Confirmed, 1),
                told(S::Confirmed, 1),
                None,
                S::Confirmed,
            ),
            (
                told(S::Retracted, 1),
                told(S::Confirmed, 1),
                None,
                S::Retracted,
            ),
            (
                told(S::Expired, 1),
                told(S::UnderReview, 1),
                None,
                S::Expired,
            ),
            (told(S::New, 2), told(S::Confirmed, 1), None, S::New),
        ] {
            let mut standing = Standing::new(before);
            standing.take(answer);
            if let Some(after) = after {
                standing.hear(after);
            }
            assert_eq!(standing.shown(), shown, "{before:?} {answer:?} {after:?}");
        }
    }

    #[test]
    fn a_decision_that_the_broker_has_not_answered_is_shown_whatever_the_stream_tells() {
        for &state in S::ALL {
            let mut standing = Standing::new(told(S::UnderReview, 1));
            standing.pending = Some(S::Confirmed);
            standing.hear(told(state, 2));
            assert_eq!(standing.shown(), S::Confirmed);
            // Refused: the stream's state rules.
            standing.pending = None;
            assert_eq!(standing.shown(), state);
        }
    }
}
