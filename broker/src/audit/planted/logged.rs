//! What the log says of planted hits: entry by entry of an export.
//!
//! Whether the log holds is for `verify` to say.

use std::collections::{HashMap, HashSet};

use sotto_common::ids::{HitId, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::time::{CLOCK_SKEW, Timestamp};
use sotto_proto::convert::log::read_entry;
use sotto_proto::v1;

use super::{Comparison, Plan, Reported};

/// What a log says of planted hits.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Logged {
    /// Reported hits whose entries are in the log.
    pub logged: usize,
    /// Numbers of those whose entries are not there, or elsewhere than the prober's node was proved.
    pub unlogged: Vec<u32>,
    /// Numbers of those that were found when the export ended: a later one must have them.
    pub later: Vec<u32>,
    /// Hits of this pair and policy that the flood guard holds back: no suppression.
    pub held_back: usize,
    /// The prober's sessions of the policy since the plan was made.
    pub sessions: u64,
    /// Batches of them.
    pub batches: u64,
    /// Record refs of them.
    pub refs: u64,
    /// Entries that are erased or not known to this version.
    pub unread: u64,
}

/// Goes through the entries of a log.
#[derive(Debug)]
pub struct LogCheck<'a> {
    plan: &'a Plan,
    /// The leaf of each hit of the pair and policy.
    found: HashMap<HitId, u64>,
    held_back: HashSet<HitId>,
    latest: Option<Timestamp>,
    size: u64,
    logged: Logged,
}

impl<'a> LogCheck<'a> {
    /// For the hits of a plan.
    pub fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            found: HashMap::new(),
            held_back: HashSet::new(),
            latest: None,
            size: 0,
            logged: Logged::default(),
        }
    }

    /// Takes the next entry. All are needed, from the first on.
    pub fn take(&mut self, logged: &v1::LoggedEntry) {
        self.size += 1;
        let Ok(entry) = read_entry(&logged.entry) else {
            self.logged.unread += 1;
            return;
        };
        self.latest = self.latest.max(Some(entry.at));
        match entry.action {
            Action::FindHit | Action::QuarantineHit => self.take_hit(logged.leaf_index, &entry),
            Action::ReleaseHit => {
                if let Some(hit) = entry.object.hit {
                    self.held_back.remove(&hit);
                }
            }
            Action::OpenSession | Action::AnswerBatch => self.take_probe(&entry),
            _ => {}
        }
    }

    fn take_hit(&mut self, leaf_index: u64, entry: &Entry) {
        let planting = &self.plan.planting;
        let prober = entry.recipient.clone().or_else(|| entry.actor.node());
        let object = &entry.object;
        let is_ours = is(prober.as_ref(), &planting.prober)
            && is(object.node.as_ref(), &planting.holder)
            && object.policy == Some(planting.policy);
        let Some(hit) = object.hit.filter(|_| is_ours) else {
            return;
        };
        self.found.insert(hit, leaf_index);
        if entry.action == Action::QuarantineHit {
            self.held_back.insert(hit);
        }
    }

    /// Counts what the prober asked since the plan was made, by two clocks.
    fn take_probe(&mut self, entry: &Entry) {
        let planting = &self.plan.planting;
        let is_ours = is(entry.actor.node().as_ref(), &planting.prober)
            && entry.object.policy == Some(planting.policy)
            && entry.at >= self.plan.made_at.minus(CLOCK_SKEW);
        if !is_ours {
            return;
        }
        match &entry.batch {
            Some(batch) => {
                self.logged.batches += 1;
                self.logged.refs = self.logged.refs.saturating_add(batch.refs);
            }
            None => self.logged.sessions += 1,
        }
    }

    /// What the entries say of the hits that were reported.
    #[must_use]
    pub fn finish(mut self, comparison: &Comparison) -> Logged {
        for hit in &comparison.reported {
            let leaf = self.found.get(&hit.hit).copied();
            let is_there = leaf.is_some_and(|leaf| hit.leaf.is_none_or(|proved| proved == leaf));
            if is_there {
                self.logged.logged += 1;
            } else if leaf.is_none() && self.is_later(hit) {
                self.logged.later.push(hit.number);
            } else {
                self.logged.unlogged.push(hit.number);
            }
        }
        self.logged.held_back = self.held_back.len();
        self.logged
    }

    /// Whether the entry of a hit may stand behind the end of the export: entries stand as they were
    /// put, a few out of turn, never by more than clocks may differ.
    fn is_later(&self, hit: &Reported) -> bool {
        match (hit.leaf, hit.first_seen, self.latest) {
            (Some(leaf), _, _) => leaf >= self.size,
            (None, Some(found), Some(latest)) => found > latest.minus(CLOCK_SKEW),
            (None, _, None) => true,
            (None, None, Some(_)) => false,
        }
    }
}

impl Logged {
    /// Whether hits were reported of more record refs than the log has batches for.
    pub fn lacks_batches(&self) -> bool {
        let hits = self.logged + self.unlogged.len();
        self.unread == 0 && self.refs < u64::try_from(hits).unwrap_or(u64::MAX)
    }
}

fn is(node: Option<&NodeId>, expected: &NodeId) -> bool {
    node == Some(expected)
}
