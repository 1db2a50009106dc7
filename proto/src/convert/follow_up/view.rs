//! What broker and nodes show of a follow-up: its clock and its statistics.

use std::time::Duration;

use sotto_common::followup::clock::LimitClock;
use sotto_common::followup::statistics::{Line, LineKey};

use super::super::{to_duration, to_timestamp};
use crate::v1;

impl From<&LimitClock> for v1::FollowUpClock {
    fn from(clock: &LimitClock) -> Self {
        let due = clock.due();
        Self {
            total: to_duration(clock.total()),
            due_at: due.map(to_timestamp),
            // A clock that stands still has the same left at any time.
            left: if due.is_none() {
                to_duration(clock.left(sotto_common::time::Timestamp::from_seconds(0)))
            } else {
                None
            },
        }
    }
}

impl From<(&LineKey, &Line)> for v1::FollowUpStatistic {
    fn from((key, line): (&LineKey, &Line)) -> Self {
        let time = |time: Option<Duration>| time.and_then(to_duration);
        let refusals = line
            .grounds
            .iter()
            .map(|(ground, requests)| v1::RefusalCount {
                ground: v1::RefusalGround::from(*ground).into(),
                requests: *requests,
            });
        Self {
            requester: key.requester.to_string(),
            holder: key.holder.to_string(),
            time_limit: v1::TimeLimit::from(key.limit).into(),
            sent: line.sent,
            received: line.received,
            answered: line.answered,
            refused: line.refused,
            withdrawn: line.withdrawn,
            not_held: line.not_held,
            open: line.open,
            refusals: refusals.collect(),
            overdue: line.overdue,
            overdue_judicial: line.overdue_judicial,
            median_time_to_answer: time(line.median),
            percentile_90_time_to_answer: time(line.percentile_90),
        }
    }
}
