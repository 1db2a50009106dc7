//! The figures of workflow.md "Audit", counted from the entries of a log: requests of follow-ups as
//! art. 18 of Directive (EU) 2023/977 wants them, and probes, hits and what became of them.
//!
//! What is erased is not counted, and is told beside the figures. Counting verifies nothing.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sotto_common::followup::record::FollowUp;
use sotto_common::followup::statistics::{Case, CaseEnd, Line, LineKey, lines};
use sotto_common::hit::HitState;
use sotto_common::ids::{HitId, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::leaf::Leaf;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sotto_proto::convert::log::read_entry;
use sotto_proto::v1;

use super::replay::Replay;

/// What counts: probes, hits and decisions by their own time, requests by that of their submission.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Range {
    /// At or after this time.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

impl Range {
    /// Whether a time lies in it.
    pub fn has(&self, at: Timestamp) -> bool {
        self.from.is_none_or(|from| at >= from) && self.until.is_none_or(|until| at < until)
    }
}

/// Who asked about what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ProbeKey {
    /// The prober.
    pub prober: NodeId,
    /// The policy.
    pub policy: Policy,
}

/// What was asked.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Probes {
    /// Sessions opened.
    pub sessions: u64,
    /// Batches answered.
    pub batches: u64,
    /// Record refs of them.
    pub refs: u64,
    /// (record ref, holder) matches of them.
    pub matches: u64,
}

/// Who asked, whose filter matched, and of what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HitKey {
    /// The prober.
    pub prober: NodeId,
    /// The holder.
    pub holder: NodeId,
    /// The policy.
    pub policy: Policy,
}

/// What became of hits.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Hits {
    /// Found, and shown.
    pub found: u64,
    /// Found, and held back.
    pub quarantined: u64,
    /// A person found them true.
    pub confirmed: u64,
    /// A person, or a NOT_HELD, found them false.
    pub false_positives: u64,
    /// True, but of no use.
    pub not_relevant: u64,
    /// Probed again without a match.
    pub retracted: u64,
    /// Untouched for too long.
    pub expired: u64,
}

/// A UTC day.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Day {
    /// Record refs that were probed.
    pub refs: u64,
    /// Hits that were found.
    pub hits: u64,
    /// Hits that were confirmed.
    pub confirmed: u64,
}

/// What the entries of a log come to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Figures {
    /// Probes by prober and policy.
    pub probes: BTreeMap<ProbeKey, Probes>,
    /// Hits by pair and policy.
    pub hits: BTreeMap<HitKey, Hits>,
    /// Follow-ups by pair and urgency.
    pub requests: BTreeMap<LineKey, Line>,
    /// By UTC day, counted from 1970-01-01.
    pub days: BTreeMap<i64, Day>,
    /// Times from RECEIVED to an answer, shortest first.
    pub answer_times: Vec<Duration>,
    /// Entries that could not be counted: erased, or not known to this version.
    pub unread: u64,
}

/// Counts entry by entry.
#[derive(Debug, Default)]
pub struct Statistics {
    range: Range,
    figures: Figures,
    /// Runs the follow-ups again.
    replay: Replay,
    hits: HashMap<HitId, HitKey>,
    latest: Option<Timestamp>,
}

impl Statistics {
    /// Counts what lies in a range. All entries are needed, those before it too.
    #[must_use]
    pub fn new(range: Range) -> Self {
        Self {
            range,
            ..Self::default()
        }
    }

    /// Counts the next entry.
    pub fn take(&mut self, logged: &v1::LoggedEntry) {
        let Ok(entry) = read_entry(&logged.entry) else {
            self.figures.unread += 1;
            if let Ok(leaf) = Leaf::parse(&logged.leaf) {
                self.replay.skip(leaf.kind(), logged.leaf_index);
            }
            return;
        };
        self.latest = self.latest.max(Some(entry.at));
        // Whether the log holds is for `verify` to say: what does not fit is not counted.
        let fits = self.replay.take(logged.leaf_index, &entry).is_ok();
        self.figures.unread += u64::from(!fits);
        self.count(&entry);
    }

    fn count(&mut self, entry: &Entry) {
        let counts = self.range.has(entry.at);
        match entry.action {
            Action::OpenSession | Action::AnswerBatch if counts => self.count_probe(entry),
            Action::FindHit | Action::QuarantineHit => self.count_hit(entry, counts),
            _ if counts => self.count_change(entry),
            _ => {}
        }
    }

    fn count_probe(&mut self, entry: &Entry) {
        let (Some(prober), Some(policy)) = (entry.actor.node(), entry.object.policy) else {
            self.figures.unread += u64::from(entry.action == Action::AnswerBatch);
            return;
        };
        let key = ProbeKey { prober, policy };
        let asked = self.figures.probes.entry(key).or_default();
        let Some(batch) = &entry.batch else {
            asked.sessions += 1;
            return;
        };
        asked.batches += 1;
        asked.refs = asked.refs.saturating_add(batch.refs);
        asked.matches = asked.matches.saturating_add(batch.matches);
        let day = self.figures.days.entry(entry.at.day()).or_default();
        day.refs = day.refs.saturating_add(batch.refs);
    }

    /// Every hit is remembered: what becomes of it names no more than the hit.
    fn count_hit(&mut self, entry: &Entry, counts: bool) {
        let prober = entry.recipient.clone().or_else(|| entry.actor.node());
        let object = &entry.object;
        let (Some(hit), Some(prober), Some(holder), Some(policy)) =
            (object.hit, prober, object.node.clone(), object.policy)
        else {
            self.figures.unread += 1;
            return;
        };
        let key = HitKey {
            prober,
            holder,
            policy,
        };
        if counts {
            let hits = self.figures.hits.entry(key.clone()).or_default();
            if entry.action == Action::FindHit {
                hits.found += 1;
                self.figures.days.entry(entry.at.day()).or_default().hits += 1;
            } else {
                hits.quarantined += 1;
            }
        }
        self.hits.insert(hit, key);
    }

    fn count_change(&mut self, entry: &Entry) {
        let key = entry.object.hit.and_then(|hit| self.hits.get(&hit));
        let change = entry.change.as_ref().filter(|_| is_of_a_hit(entry.action));
        let state = change.and_then(|change| HitState::parse(&change.to));
        let (Some(key), Some(state)) = (key, state) else {
            return;
        };
        let hits = self.figures.hits.entry(key.clone()).or_default();
        match state {
            HitState::Confirmed => {
                hits.confirmed += 1;
                self.figures
                    .days
                    .entry(entry.at.day())
                    .or_default()
                    .confirmed += 1;
            }
            HitState::FalsePositive => hits.false_positives += 1,
            HitState::NotRelevant => hits.not_relevant += 1,
            HitState::Retracted => hits.retracted += 1,
            HitState::Expired => hits.expired += 1,
            // A hit that was released is shown from then on.
            HitState::New if entry.action == Action::ReleaseHit => {
                hits.found += 1;
                self.figures.days.entry(entry.at.day()).or_default().hits += 1;
            }
            HitState::New
            | HitState::UnderReview
            | HitState::FollowedUp
            | HitState::Closed
            | HitState::Quarantined => {}
        }
    }

    /// The figures, once all entries have been counted.
    #[must_use]
    pub fn finish(mut self) -> Figures {
        let now = self.latest.unwrap_or(Timestamp::from_seconds(0));
        let range = self.range;
        let in_range = |follow_up: &&FollowUp| {
            let submitted = follow_up.milestones.submitted;
            submitted.is_some_and(|at| range.has(at))
        };
        let follow_ups = self.replay.follow_ups().map(|(_, follow_up)| follow_up);
        let cases: Vec<_> = follow_ups
            .filter(in_range)
            .map(|follow_up| Case::of(follow_up, now))
            .collect();
        let time = |case: &Case| {
            let times = case.milestones;
            let answered = case.end == CaseEnd::Answered;
            let received = times.received.filter(|_| answered)?;
            Some(times.ended?.since(received))
        };
        let mut answer_times: Vec<_> = cases.iter().filter_map(time).collect();
        answer_times.sort_unstable();
        self.figures.answer_times = answer_times;
        self.figures.requests = lines(cases);
        self.figures
    }
}

const fn is_of_a_hit(action: Action) -> bool {
    matches!(
        action,
        Action::ReleaseHit
            | Action::RetractHit
            | Action::ReviveHit
            | Action::DecideHit
            | Action::ExpireHit
            | Action::FollowUpHit
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{HOLDER, History, NOW, PROBER, erase, node};
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn count(range: Range, logged: &[v1::LoggedEntry]) -> Figures {
        let mut statistics = Statistics::new(range);
        for entry in logged {
            statistics.take(entry);
        }
        statistics.finish()
    }

    #[test]
    fn a_history_comes_to_its_figures() {
        let figures = count(Range::default(), &History::whole().logged());
        let (prober, holder, policy) = (node(PROBER), node(HOLDER), Policy::Phone);
        let asked = &figures.probes[&ProbeKey {
            prober: prober.clone(),
            policy,
        }];
        assert_eq!((asked.sessions, asked.batches), (1, 1));
        assert_eq!((asked.refs, asked.matches), (60, 2));
        let hits = &figures.hits[&HitKey {
            prober,
            holder,
            policy,
        }];
        assert_eq!((hits.found, hits.confirmed, hits.expired), (2, 1, 1));
        assert_eq!((hits.false_positives, hits.quarantined), (0, 0));
        let (key, line) = figures.requests.first_key_value().unwrap();
        assert_eq!(
            (key.requester.as_str(), key.holder.as_str()),
            (PROBER, HOLDER)
        );
        assert_eq!((line.sent, line.received, line.answered), (1, 1, 1));
        // PARTICULARS, ACCEPT, ANSWER: an entry a minute.
        assert_eq!(line.median, Some(MINUTE * 2));
        assert_eq!(figures.answer_times, [MINUTE * 2]);
        let day = figures.days[&NOW.day()];
        assert_eq!((day.refs, day.hits, day.confirmed), (60, 2, 1));
        assert_eq!(figures.unread, 0);
    }

    #[test]
    fn what_lies_outside_the_range_is_not_counted_and_what_is_erased_is_told() {
        let history = History::whole();
        let found = history.entries[history.nth(Action::FindHit, 1)].at;
        let after = Range {
            from: Some(found.plus(MINUTE)),
            until: None,
        };
        let figures = count(after, &history.logged());
        assert!(figures.probes.is_empty());
        let hits = figures.hits.values().next().unwrap();
        assert_eq!((hits.found, hits.confirmed), (0, 1));
        assert_eq!(figures.requests.len(), 1);
        let before = Range {
            from: None,
            until: Some(found),
        };
        assert!(count(before, &history.logged()).requests.is_empty());
        let mut all = history.logged();
        all.iter_mut().for_each(erase);
        let figures = count(Range::default(), &all);
        assert_eq!(figures.unread, all.len() as u64);
        assert!(figures.hits.is_empty() && figures.days.is_empty());
    }
}
