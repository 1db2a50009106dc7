//! States of hits, decisions about them, and how much they say (workflow.md "Hit").

use sotto_common::dsse::StatementKind;
use sotto_common::error::{Error, Result};
use sotto_common::hit::{HitDecision, HitFeedback, HitState, SecondFactor};
use sotto_common::ids::HitId;
use sotto_common::selector::MatchClass;

use super::grounds::enum_both_ways;
use super::{FORMAT, Statement, check_format, id, text, timestamp, to_timestamp};
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

enum_both_ways!(HitDecision {
    BeginReview,
    Confirm,
    FalsePositive,
    NotRelevant,
});

enum_both_ways!(MatchClass {
    Exact,
    Strong,
    Weak,
});

enum_both_ways!(SecondFactor {
    Sex,
    PlaceOfBirth,
    Nationality,
    Document,
});

impl Statement for HitFeedback {
    type Wire = v1::HitFeedback;
    const KIND: StatementKind = StatementKind::HitFeedback;
}

impl TryFrom<v1::HitFeedback> for HitFeedback {
    type Error = Error;
    fn try_from(wire: v1::HitFeedback) -> Result<Self> {
        check_format(wire.format)?;
        let decision = v1::HitDecision::try_from(wire.decision)
            .ok()
            .and_then(v1::HitDecision::domain);
        Ok(Self {
            node: text("node_id", &wire.node_id)?,
            community: text("community", &wire.community)?,
            hit: id("hit_id", &wire.hit_id, HitId::from_slice)?,
            decision: decision.ok_or_else(|| Error::field("decision", "a decision"))?,
            decided_at: timestamp("decided_at", wire.decided_at)?,
        })
    }
}

impl From<HitFeedback> for v1::HitFeedback {
    fn from(feedback: HitFeedback) -> Self {
        Self {
            format: FORMAT,
            node_id: feedback.node.to_string(),
            community: feedback.community.to_string(),
            hit_id: feedback.hit.as_bytes().to_vec().into(),
            decision: v1::HitDecision::from(feedback.decision).into(),
            decided_at: Some(to_timestamp(feedback.decided_at)),
        }
    }
}
