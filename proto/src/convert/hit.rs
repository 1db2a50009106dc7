//! States of hits (workflow.md "Hit").

use sotto_common::hit::HitState;

use super::grounds::enum_both_ways;
use crate::v1;

enum_both_ways!(HitState {
    New,
    UnderReview,
    Confirmed,
    FalsePositive,
    NotRelevant,
    FollowedUp,
    Closed,
    Retracted,
    Expired,
    Quarantined,
});
