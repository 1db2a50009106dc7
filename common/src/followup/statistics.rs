//! The figures of art. 18 of Directive (EU) 2023/977 (workflow.md "Audit"): requests sent and
//! answered by urgency and counterpart, refusals by ground, limits exceeded, times to answer.

use std::collections::BTreeMap;
use std::time::Duration;

use super::FollowUpState;
use super::codes::{RefusalGround, TimeLimit};
use super::record::{FollowUp, Milestones};
use super::step::ItemOutcome;
use crate::ids::NodeId;
use crate::time::Timestamp;

/// One follow-up, as far as it counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// Who asked.
    pub requester: NodeId,
    /// Who was asked.
    pub holder: NodeId,
    /// How urgent.
    pub limit: TimeLimit,
    /// Where it stands, or how it ended.
    pub end: CaseEnd,
    /// Whether its limit was exceeded.
    pub overdue: bool,
    /// Its times.
    pub milestones: Milestones,
    /// The grounds of refusal, whole or of single items; each once.
    pub grounds: Vec<RefusalGround>,
}

/// How a follow-up ended, as far as it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CaseEnd {
    /// It has not.
    Open,
    /// The holder's node did not have the selector.
    NotHeld,
    /// Answered, in whole or in part.
    Answered,
    /// Refused as a whole.
    Refused,
    /// Taken back.
    Withdrawn,
}

impl Case {
    /// What counts of a follow-up at `now`.
    pub fn of(follow_up: &FollowUp, now: Timestamp) -> Self {
        let refused = |outcome| match outcome {
            ItemOutcome::Refused(ground) => Some(ground),
            ItemOutcome::Provided | ItemOutcome::Pending(_) => None,
        };
        let outcomes = follow_up.outcomes.iter();
        let grounds: std::collections::BTreeSet<_> = outcomes
            .flat_map(|outcomes| outcomes.iter().filter_map(|(_, outcome)| refused(outcome)))
            .collect();
        Self {
            requester: follow_up.requester.clone(),
            holder: follow_up.holder.clone(),
            limit: follow_up.terms.limit(),
            end: CaseEnd::of(follow_up),
            overdue: follow_up.is_overdue(now),
            milestones: follow_up.milestones,
            grounds: grounds.into_iter().collect(),
        }
    }
}

impl CaseEnd {
    fn of(follow_up: &FollowUp) -> Self {
        let everything_refused = |f: &FollowUp| {
            let outcomes = f.outcomes.as_ref();
            outcomes.map(super::step::Outcomes::refuse_everything)
        };
        match follow_up.state {
            FollowUpState::Answered => Self::Answered,
            FollowUpState::Refused => Self::Refused,
            FollowUpState::Withdrawn => Self::Withdrawn,
            FollowUpState::Closed => match everything_refused(follow_up) {
                Some(true) => Self::Refused,
                Some(false) => Self::Answered,
                None if follow_up.milestones.ended.is_some() => Self::Withdrawn,
                None => Self::NotHeld,
            },
            _ => Self::Open,
        }
    }
}

/// What counts as one line: who asked whom, how urgently.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LineKey {
    /// Who asked.
    pub requester: NodeId,
    /// Who was asked.
    pub holder: NodeId,
    /// How urgently.
    pub limit: TimeLimit,
}

/// The figures of one line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Line {
    /// Requests submitted.
    pub sent: u64,
    /// Of these, the particulars reached the holder.
    pub received: u64,
    /// Of these, answered in whole or in part.
    pub answered: u64,
    /// Of these, refused as a whole.
    pub refused: u64,
    /// Taken back.
    pub withdrawn: u64,
    /// The holder's node did not have the selector.
    pub not_held: u64,
    /// Not over yet.
    pub open: u64,
    /// Requests with this ground of refusal, of the whole or of an item.
    pub grounds: BTreeMap<RefusalGround, u64>,
    /// The time limit was exceeded.
    pub overdue: u64,
    /// Of these, a court had to decide.
    pub overdue_judicial: u64,
    /// Half were answered within this time, from RECEIVED on.
    pub median: Option<Duration>,
    /// Nine of ten were answered within this time.
    pub percentile_90: Option<Duration>,
}

/// The lines of all cases.
pub fn lines(cases: impl IntoIterator<Item = Case>) -> BTreeMap<LineKey, Line> {
    let mut lines: BTreeMap<LineKey, (Line, Vec<Duration>)> = BTreeMap::new();
    for case in cases {
        let key = LineKey {
            requester: case.requester.clone(),
            holder: case.holder.clone(),
            limit: case.limit,
        };
        let (line, times) = lines.entry(key).or_default();
        line.count(&case);
        if let (CaseEnd::Answered, Some(received), Some(ended)) =
            (case.end, case.milestones.received, case.milestones.ended)
        {
            times.push(ended.since(received));
        }
    }
    lines
        .into_iter()
        .map(|(key, (line, mut times))| {
            times.sort_unstable();
            let line = Line {
                median: nearest_rank(&times, 50),
                percentile_90: nearest_rank(&times, 90),
                ..line
            };
            (key, line)
        })
        .collect()
}

impl Line {
    fn count(&mut self, case: &Case) {
        self.sent += 1;
        self.received += u64::from(case.milestones.received.is_some());
        *match case.end {
            CaseEnd::Open => &mut self.open,
            CaseEnd::NotHeld => &mut self.not_held,
            CaseEnd::Answered => &mut self.answered,
            CaseEnd::Refused => &mut self.refused,
            CaseEnd::Withdrawn => &mut self.withdrawn,
        } += 1;
        for ground in &case.grounds {
            *self.grounds.entry(*ground).or_default() += 1;
        }
        self.overdue += u64::from(case.overdue);
        let judicial = case.milestones.delayed.is_some();
        self.overdue_judicial += u64::from(case.overdue && judicial);
    }
}

/// The smallest value that at least `percent` of the sorted values do not exceed.
fn nearest_rank(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(end: CaseEnd, hours: u64) -> Case {
        let received = Timestamp::from_seconds(0);
        Case {
            requester: "nl-fiu".parse().unwrap(),
            holder: "de-bka".parse().unwrap(),
            limit: TimeLimit::Ordinary,
            end,
            overdue: hours > 168,
            milestones: Milestones {
                received: Some(received),
                ended: Some(received.plus(Duration::from_hours(hours))),
                ..Milestones::default()
            },
            grounds: Vec::new(),
        }
    }

    #[test]
    fn times_are_those_of_answers_by_nearest_rank() {
        let mut cases: Vec<_> = (1..=10).map(|h| case(CaseEnd::Answered, h)).collect();
        cases.push(case(CaseEnd::Refused, 200));
        let lines = lines(cases);
        let line = lines.values().next().unwrap();
        assert_eq!((line.sent, line.answered, line.refused), (11, 10, 1));
        assert_eq!(line.median, Some(Duration::from_hours(5)));
        assert_eq!(line.percentile_90, Some(Duration::from_hours(9)));
        assert_eq!((line.overdue, line.overdue_judicial), (1, 0));
    }

    #[test]
    fn lines_are_apart_by_counterpart_and_urgency() {
        let other = Case {
            limit: TimeLimit::UrgentDirect,
            grounds: vec![RefusalGround::NationalSecurity],
            ..case(CaseEnd::Refused, 1)
        };
        let lines = lines([case(CaseEnd::Open, 1), other]);
        assert_eq!(lines.len(), 2);
        let urgent = lines.iter().find(|(key, _)| key.limit.is_urgent()).unwrap();
        assert_eq!(urgent.1.grounds[&RefusalGround::NationalSecurity], 1);
        assert_eq!(urgent.1.median, None);
    }
}
