//! What a batch's matches do to the hit ledger (protocol §7). It is thought through first, and written
//! with few statements then, however many hits there are.

use std::collections::{BTreeMap, HashMap, HashSet};

use sotto_common::error::{Error, Result};
use sotto_common::filter::layers::posterior;
use sotto_common::hit::{HitEvent, HitState, transition};
use sotto_common::ids::{HitId, NodeId, RecordRef};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::publication::FilterLabels;
use sotto_common::random::os_rng;
use sotto_common::time::Timestamp;
use sotto_proto::convert::answer::{AnsweredHit, AtHolder};

use super::known::KnownRefs;
use crate::app::journal::{self, Journal, about};
use crate::datastore::{HitRecord, StackKey, Tx};
use crate::matcher::HolderMatches;

/// So many changes are written before more come together, each of some kilobytes: an answer of 4 MiB is
/// of 150,000 hits.
const WRITTEN_AT_ONCE: usize = 1000;

/// What the matcher found for one batch.
pub(in crate::app) struct Outcome<'a> {
    pub(in crate::app) refs: &'a [RecordRef],
    pub(in crate::app) matches: Vec<HolderMatches>,
}

/// Whose hits are recorded, under which rules.
pub(in crate::app) struct Guard<'a> {
    pub(in crate::app) journal: &'a Journal,
    pub(in crate::app) key: &'a StackKey,
    pub(in crate::app) prober: &'a NodeId,
    pub(in crate::app) hit_cap: u64,
    pub(in crate::app) prior: f64,
    pub(in crate::app) now: Timestamp,
    pub(in crate::app) known: &'a KnownRefs,
    /// The last cursor of the prober's stream.
    pub(in crate::app) hit_cursor: u64,
}

/// What a batch has found.
pub(in crate::app) struct Findings {
    /// What is answered.
    pub(in crate::app) answer: Vec<AtHolder>,
    /// What the audit log is to say of it.
    pub(in crate::app) entries: Vec<Entry>,
    /// Whether the prober's stream moved.
    pub(in crate::app) hits_moved: bool,
}

/// What a batch changes.
#[derive(Default)]
struct Changes {
    /// Hits that are new.
    found: Vec<HitRecord>,
    /// Hits that were there before, as they are now.
    changed: Vec<HitRecord>,
    /// Hits of which the prober's stream tells, in this order.
    events: Vec<HitId>,
    entries: Vec<Entry>,
    /// What holders say of versions of their filters; each is asked of the ledger once.
    labels: HashMap<(NodeId, u64), FilterLabels>,
}

impl Changes {
    /// Whether the holder says something else of the version that matches now than of the one that
    /// matched last.
    async fn relabelled(
        &mut self,
        tx: &mut (dyn Tx + '_),
        hit: &HitRecord,
        version: u64,
    ) -> Result<bool> {
        if version == hit.filter_version {
            return Ok(false);
        }
        let before = self.labels(tx, hit, hit.filter_version).await?;
        Ok(before != self.labels(tx, hit, version).await?)
    }

    async fn labels(
        &mut self,
        tx: &mut (dyn Tx + '_),
        hit: &HitRecord,
        version: u64,
    ) -> Result<FilterLabels> {
        let of = (hit.holder.clone(), version);
        if let Some(known) = self.labels.get(&of) {
            return Ok(known.clone());
        }
        let labels = tx.get_labels(&hit.key, &hit.holder, version).await?;
        self.labels.insert(of, labels.clone());
        Ok(labels)
    }
}

impl Guard<'_> {
    /// Records the outcome of a batch.
    ///
    /// # Errors
    /// If the ledger cannot be read or written.
    pub(in crate::app) async fn record(
        &self,
        tx: &mut (dyn Tx + '_),
        outcome: &Outcome<'_>,
    ) -> Result<Findings> {
        let refs = outcome.refs;
        let mut known = by_holder(self.known_hits(tx, outcome).await?, refs);
        let counts = self.hit_counts(tx, outcome).await?;
        let mut answer = Vec::new();
        let mut changes = Changes::default();
        let mut hits_moved = false;
        for at_holder in &outcome.matches {
            let holder = &at_holder.holder;
            let (known, count) = (known.remove(holder), counts.get(holder));
            let known = known.unwrap_or_default();
            let count = count.copied().unwrap_or(0);
            let hits = self
                .record_at(tx, at_holder, refs, (known, count), &mut changes)
                .await?;
            if !hits.is_empty() {
                answer.push(AtHolder {
                    holder: at_holder.holder.clone(),
                    f_total: at_holder.f_total,
                    hits,
                });
            }
            hits_moved |= !changes.events.is_empty();
            if changes.entries.len() + changes.changed.len() >= WRITTEN_AT_ONCE {
                let entries = self.write(tx, &mut changes).await?;
                journal::put_all(tx, &entries).await?;
            }
        }
        let entries = self.write(tx, &mut changes).await?;
        Ok(Findings {
            answer,
            entries,
            hits_moved,
        })
    }

    /// Writes what has come together, and returns what the audit log is to say of it.
    async fn write(&self, tx: &mut (dyn Tx + '_), changes: &mut Changes) -> Result<Vec<Entry>> {
        tx.put_hits(&std::mem::take(&mut changes.found)).await?;
        // Those that have become alike go together.
        let mut seen = std::mem::take(&mut changes.changed);
        seen.sort_by(|one, other| {
            let key = |hit: &HitRecord| (hit.touched_at, hit.filter_version);
            (&one.holder, key(one)).cmp(&(&other.holder, key(other)))
        });
        tx.update_hits(&seen).await?;
        let events = std::mem::take(&mut changes.events);
        if !events.is_empty() {
            tx.put_hit_events(&self.key.community, self.prober, &events)
                .await?;
        }
        Ok(std::mem::take(&mut changes.entries))
    }

    /// What the flood guard has counted today, by holder.
    async fn hit_counts(
        &self,
        tx: &mut (dyn Tx + '_),
        outcome: &Outcome<'_>,
    ) -> Result<HashMap<NodeId, u64>> {
        if outcome.matches.iter().all(|at| at.hits.is_empty()) {
            return Ok(HashMap::new());
        }
        let (community, policy) = (&self.key.community, self.key.policy);
        tx.get_hit_counts(community, self.prober, policy, self.now.day())
            .await
    }

    /// The hits that stand on refs of the batch. Those in quarantine alone may be missing where their
    /// ref does not match now, which changes nothing of them.
    async fn known_hits(
        &self,
        tx: &mut (dyn Tx + '_),
        outcome: &Outcome<'_>,
    ) -> Result<Vec<HitRecord>> {
        let refs = outcome.refs;
        let mut asked = self.known.narrow(tx, self.hit_cursor, refs).await?;
        let matching = outcome.matches.iter().flat_map(|at| &at.hits);
        asked.extend(matching.map(|hit| refs[hit.tag]));
        // Every hit of a ref comes once for each time that it is asked for.
        let asked: HashSet<_> = asked.into_iter().collect();
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<_> = asked.into_iter().collect();
        tx.get_hits_on(self.key, self.prober, &asked).await
    }

    /// Notes what matches at one holder, of whose hits so many count today, and what of those known
    /// there no longer does.
    async fn record_at(
        &self,
        tx: &mut (dyn Tx + '_),
        at_holder: &HolderMatches,
        refs: &[RecordRef],
        (mut known, mut count): (HashMap<usize, HitRecord>, u64),
        changes: &mut Changes,
    ) -> Result<Vec<AnsweredHit>> {
        // Pairs with a match or a known hit alone, in the order of the batch; 0 = no match.
        let mut versions: BTreeMap<usize, u64> = known.keys().map(|&pair| (pair, 0)).collect();
        versions.extend(at_holder.hits.iter().map(|hit| (hit.tag, hit.version)));
        let mut answered = Vec::new();
        for (pair, version) in versions {
            let (id, state) = if let Some(hit) = known.remove(&pair) {
                self.seen_again(tx, hit, at_holder, version, changes)
                    .await?
            } else {
                let held_back = count >= self.hit_cap;
                count += 1;
                self.first_seen(refs[pair], at_holder, version, held_back, changes)?
            };
            // Quarantined hits are "left out of answers and streams" (protocol §7).
            if version > 0 && state != HitState::Quarantined {
                answered.push(AnsweredHit {
                    pair: u16::try_from(pair).map_err(Error::internal)?,
                    version,
                    id,
                });
            }
        }
        Ok(answered)
    }

    fn first_seen(
        &self,
        record_ref: RecordRef,
        at_holder: &HolderMatches,
        version: u64,
        held_back: bool,
        changes: &mut Changes,
    ) -> Result<(HitId, HitState)> {
        let (action, state) = if held_back {
            (Action::QuarantineHit, HitState::Quarantined)
        } else {
            (Action::FindHit, HitState::New)
        };
        let hit = HitRecord {
            id: HitId::generate(self.now, &mut os_rng()),
            key: self.key.clone(),
            prober: self.prober.clone(),
            record_ref,
            holder: at_holder.holder.clone(),
            state,
            filter_version: version,
            fpr: at_holder.f_total,
            posterior: posterior(self.prior, at_holder.f_total),
            first_seen: self.now,
            last_seen: self.now,
            unmatched_since: None,
            touched_at: self.now,
        };
        let id = hit.id;
        changes.entries.push(self.entry(action, &hit, "")?);
        changes.found.push(hit);
        if !held_back {
            changes.events.push(id);
        }
        Ok((id, state))
    }

    /// The ref of a known hit was probed while its holder could match: it did, or did not.
    async fn seen_again(
        &self,
        tx: &mut (dyn Tx + '_),
        mut hit: HitRecord,
        at_holder: &HolderMatches,
        version: u64,
        changes: &mut Changes,
    ) -> Result<(HitId, HitState)> {
        if hit.state == HitState::Quarantined {
            return Ok((hit.id, hit.state));
        }
        let matched = version > 0;
        let event = if matched {
            HitEvent::MatchesAgain
        } else {
            HitEvent::NoLongerMatches
        };
        let before = hit.state;
        hit.state = transition(before, event)?;
        let moved = hit.state != before;
        if moved {
            hit.touched_at = self.now;
        }
        let unmatched_since = unmatched_since(&hit, matched, self.now);
        let marked = unmatched_since != hit.unmatched_since;
        hit.unmatched_since = unmatched_since;
        let relabelled = matched && changes.relabelled(tx, &hit, version).await?;
        if matched {
            hit.last_seen = self.now;
            hit.filter_version = version;
            hit.fpr = at_holder.f_total;
            hit.posterior = posterior(self.prior, at_holder.f_total);
        }
        if moved {
            let action = if matched {
                Action::ReviveHit
            } else {
                Action::RetractHit
            };
            let entry = self.entry(action, &hit, before.as_str())?;
            changes.entries.push(entry);
        }
        if moved || marked || relabelled {
            changes.events.push(hit.id);
        }
        let now = (hit.id, hit.state);
        if matched || moved || marked {
            changes.changed.push(hit);
        }
        Ok(now)
    }

    /// What the prober's batch has made of a hit.
    fn entry(&self, action: Action, hit: &HitRecord, before: &str) -> Result<Entry> {
        let community = &self.key.community;
        let entry = self
            .journal
            .by_node(self.prober, action, community, self.now)?;
        Ok(Entry {
            change: Some(journal::change(before, hit.state.as_str())),
            ..about::hit(entry, hit)
        })
    }
}

/// The known hits of each holder, by the place of their ref in the batch.
fn by_holder(
    known: Vec<HitRecord>,
    refs: &[RecordRef],
) -> HashMap<NodeId, HashMap<usize, HitRecord>> {
    let mut at_holders: HashMap<_, HashMap<_, _>> = HashMap::new();
    if known.is_empty() {
        return at_holders;
    }
    let pairs: HashMap<_, _> = refs.iter().enumerate().map(|(i, r)| (r, i)).collect();
    for hit in known {
        if let Some(&pair) = pairs.get(&hit.record_ref) {
            let at_holder = at_holders.entry(hit.holder.clone()).or_default();
            at_holder.insert(pair, hit);
        }
    }
    at_holders
}

/// workflow.md "Hit": one that is followed up is not retracted, "only marked so". What has ended
/// keeps the mark that it had.
fn unmatched_since(hit: &HitRecord, matched: bool, now: Timestamp) -> Option<Timestamp> {
    match hit.state {
        HitState::FollowedUp if matched => None,
        HitState::FollowedUp => hit.unmatched_since.or(Some(now)),
        _ => hit.unmatched_since,
    }
}
