//! Quotas (protocol §7): record refs per (node, policy, UTC day).

use std::collections::BTreeMap;

use sotto_common::ids::NodeId;
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;
use sotto_common::membership::DEFAULT_DAILY_REFS;
use sotto_common::selector::Policy;
use sotto_common::time::{CLOCK_SKEW, Timestamp};

use super::Erased;
use crate::audit::failure::{Check, FailureCode, Flaw};

/// Days whose counts are kept: entries stand a few minutes out of order at most.
const DAYS: i64 = 2;

/// What the log allows, and what was used of it.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    limits: BTreeMap<NodeId, Limits>,
    used: BTreeMap<i64, BTreeMap<(NodeId, Policy), u64>>,
}

/// Record refs a day; without a policy: in all of them.
type Refs = BTreeMap<Option<Policy>, u64>;

/// A node's limits. What is counted while they are changed may stand behind the change.
#[derive(Debug)]
struct Limits {
    refs: Refs,
    before: Refs,
    changed_at: Timestamp,
}

impl Quotas {
    /// An operator set a node's limits.
    pub(super) fn set(&mut self, entry: &Entry) -> Check {
        let node = entry.object.node.clone();
        let node = node.ok_or_else(|| Flaw::lacks("the node"))?;
        let (refs, _) = entry.limits.ok_or_else(|| Flaw::lacks("the limits"))?;
        let before = self.limits.remove(&node).map(|limits| limits.refs);
        let before = before.unwrap_or_default();
        let mut changed = match entry.object.policy {
            Some(_) => before.clone(),
            None => Refs::new(),
        };
        changed.insert(entry.object.policy, refs);
        let limits = Limits {
            refs: changed,
            before,
            changed_at: entry.at,
        };
        self.limits.insert(node, limits);
        Ok(())
    }

    /// A batch is counted whole, against the limit of its time.
    pub(super) fn count(&mut self, entry: &Entry, policy: Policy, erased: &Erased) -> Check {
        let node = entry.actor.node();
        let node = node.ok_or_else(|| Flaw::lacks("the prober as its actor"))?;
        let refs = entry.batch.as_ref().map_or(0, |batch| batch.refs);
        let day = entry.at.day();
        self.used.retain(|other, _| *other + DAYS >= day);
        let used = self.used.entry(day).or_default();
        let used = used.entry((node.clone(), policy)).or_default();
        *used = used.saturating_add(refs);
        let used = *used;
        let Some(limit) = self.limit(&node, policy, entry.at, erased) else {
            return Ok(());
        };
        if used <= limit {
            return Ok(());
        }
        let text = format!(
            "{node} has probed {used} record refs of {policy} on the day of {}, and {limit} are allowed",
            entry.at
        );
        Err(Flaw::new(FailureCode::QuotaExceeded, text))
    }

    /// None if what was set may have been erased.
    fn limit(&self, node: &NodeId, policy: Policy, at: Timestamp, erased: &Erased) -> Option<u64> {
        let default = (!erased.any(EntryKind::Quota)).then_some(DEFAULT_DAILY_REFS);
        let of = |refs: &Refs| {
            let set = refs.get(&Some(policy)).or_else(|| refs.get(&None));
            set.copied().or(default)
        };
        let Some(limits) = self.limits.get(node) else {
            return default;
        };
        let now = of(&limits.refs)?;
        if at < limits.changed_at.plus(CLOCK_SKEW) {
            return Some(now.max(of(&limits.before)?));
        }
        Some(now)
    }
}
