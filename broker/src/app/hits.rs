//! The hit ledger: what a batch's matches do to it, and how it is read (protocol §7).

mod known;

use std::collections::{BTreeMap, HashMap, HashSet};

use scoped_futures::ScopedFutureExt as _;
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::filter::layers::posterior;
use sotto_common::hit::{HitEvent, HitState, transition};
use sotto_common::ids::{CommunityId, HitId, NodeId, RecordRef};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::publication::FilterLabels;
use sotto_common::random::os_rng;
use sotto_common::time::Timestamp;
use sotto_proto::convert::answer::{AnsweredHit, AtHolder};
use tokio::sync::watch;

pub(super) use known::KnownRefs;

use super::feedback::move_hit;
use super::journal::{self, Journal, about};
use super::{Broker, enrolled};
use crate::datastore::{
    Act, GuardKey, HitEventRecord, HitFilter, HitRecord, LabelledHit, Signal, StackKey, Tx,
};
use crate::matcher::HolderMatches;

/// Days that a holder can look back at the hits on its filters.
const HOLDER_COUNT_DAYS: i64 = 90;

/// Hits released from quarantine in one transaction.
const RELEASE_STEP: u32 = 1000;

/// What the matcher found for one batch.
pub(super) struct Outcome<'a> {
    pub(super) refs: &'a [RecordRef],
    pub(super) matches: Vec<HolderMatches>,
}

/// Whose hits are recorded, under which rules.
pub(super) struct Guard<'a> {
    pub(super) journal: &'a Journal,
    pub(super) key: &'a StackKey,
    pub(super) prober: &'a NodeId,
    pub(super) hit_cap: u64,
    pub(super) prior: f64,
    pub(super) now: Timestamp,
    pub(super) known: &'a KnownRefs,
    /// The last cursor of the prober's stream.
    pub(super) hit_cursor: u64,
}

/// What is kept in mind while a batch is recorded.
#[derive(Default)]
struct Notes {
    /// Whether the prober's stream moved.
    events: bool,
    /// What holders say of versions of their filters; each is asked of the ledger once.
    labels: HashMap<(NodeId, u64), FilterLabels>,
}

impl Notes {
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

/// A page of hits.
pub(crate) struct HitPage {
    pub(crate) hits: Vec<LabelledHit>,
    pub(crate) next: Option<String>,
}

impl Guard<'_> {
    /// Records the outcome of a batch; returns what is answered, and whether the prober's stream moved.
    pub(super) async fn record(
        &self,
        tx: &mut (dyn Tx + '_),
        outcome: &Outcome<'_>,
    ) -> Result<(Vec<AtHolder>, bool)> {
        let refs = outcome.refs;
        let mut known = by_holder(self.known_hits(tx, outcome).await?, refs);
        let mut answer = Vec::new();
        let mut notes = Notes::default();
        for at_holder in &outcome.matches {
            let known = known.remove(&at_holder.holder).unwrap_or_default();
            let hits = self
                .record_at(tx, at_holder, refs, known, &mut notes)
                .await?;
            if !hits.is_empty() {
                answer.push(AtHolder {
                    holder: at_holder.holder.clone(),
                    f_total: at_holder.f_total,
                    hits,
                });
            }
        }
        Ok((answer, notes.events))
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

    /// Records what matches at one holder, and what of the hits known there no longer does.
    async fn record_at(
        &self,
        tx: &mut (dyn Tx + '_),
        at_holder: &HolderMatches,
        refs: &[RecordRef],
        mut known: HashMap<usize, HitRecord>,
        notes: &mut Notes,
    ) -> Result<Vec<AnsweredHit>> {
        // Pairs with a match or a known hit alone, in the order of the batch; 0 = no match.
        let mut versions: BTreeMap<usize, u64> = known.keys().map(|&pair| (pair, 0)).collect();
        versions.extend(at_holder.hits.iter().map(|hit| (hit.tag, hit.version)));
        if versions.is_empty() {
            return Ok(Vec::new());
        }
        let guard_key = self.guard_key(&at_holder.holder);
        let counted = tx.get_hit_count(&self.key.community, &guard_key).await?;
        let mut count = counted;
        let mut answered = Vec::new();
        for (pair, version) in versions {
            let hit = if let Some(hit) = known.remove(&pair) {
                self.seen_again(tx, hit, at_holder, version, notes).await?
            } else {
                let held_back = count >= self.hit_cap;
                count += 1;
                self.first_seen(tx, refs[pair], at_holder, version, held_back, notes)
                    .await?
            };
            // Quarantined hits are "left out of answers and streams" (protocol §7).
            if version > 0 && hit.state != HitState::Quarantined {
                answered.push(AnsweredHit {
                    pair: u16::try_from(pair).map_err(Error::internal)?,
                    version,
                    id: hit.id,
                });
            }
        }
        if count != counted {
            tx.put_hit_count(&self.key.community, &guard_key, count)
                .await?;
        }
        Ok(answered)
    }

    fn guard_key(&self, holder: &NodeId) -> GuardKey {
        GuardKey {
            prober: self.prober.clone(),
            holder: holder.clone(),
            policy: self.key.policy,
            day: self.now.day(),
        }
    }

    async fn first_seen(
        &self,
        tx: &mut (dyn Tx + '_),
        record_ref: RecordRef,
        at_holder: &HolderMatches,
        version: u64,
        held_back: bool,
        notes: &mut Notes,
    ) -> Result<HitRecord> {
        let hit = HitRecord {
            id: HitId::generate(self.now, &mut os_rng()),
            key: self.key.clone(),
            prober: self.prober.clone(),
            record_ref,
            holder: at_holder.holder.clone(),
            state: if held_back {
                HitState::Quarantined
            } else {
                HitState::New
            },
            filter_version: version,
            fpr: at_holder.f_total,
            posterior: posterior(self.prior, at_holder.f_total),
            first_seen: self.now,
            last_seen: self.now,
            unmatched_since: None,
            touched_at: self.now,
        };
        tx.put_hit(&hit).await?;
        let action = if held_back {
            Action::QuarantineHit
        } else {
            Action::FindHit
        };
        self.log(tx, action, &hit, "").await?;
        if !held_back {
            tx.put_hit_event(&self.key.community, self.prober, hit.id)
                .await?;
            notes.events = true;
        }
        Ok(hit)
    }

    /// The ref of a known hit was probed while its holder could match: it did, or did not.
    async fn seen_again(
        &self,
        tx: &mut (dyn Tx + '_),
        mut hit: HitRecord,
        at_holder: &HolderMatches,
        version: u64,
        notes: &mut Notes,
    ) -> Result<HitRecord> {
        if hit.state == HitState::Quarantined {
            return Ok(hit);
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
        let relabelled = matched && notes.relabelled(tx, &hit, version).await?;
        if matched {
            hit.last_seen = self.now;
            hit.filter_version = version;
            hit.fpr = at_holder.f_total;
            hit.posterior = posterior(self.prior, at_holder.f_total);
        }
        if matched || moved || marked {
            tx.update_hit(&hit).await?;
        }
        if moved {
            let action = if matched {
                Action::ReviveHit
            } else {
                Action::RetractHit
            };
            self.log(tx, action, &hit, before.as_str()).await?;
        }
        if moved || marked || relabelled {
            tx.put_hit_event(&self.key.community, self.prober, hit.id)
                .await?;
            notes.events = true;
        }
        Ok(hit)
    }

    /// Logs what the prober's batch has made of a hit.
    async fn log(
        &self,
        tx: &mut (dyn Tx + '_),
        action: Action,
        hit: &HitRecord,
        before: &str,
    ) -> Result<()> {
        let community = &self.key.community;
        let entry = self
            .journal
            .by_node(self.prober, action, community, self.now)?;
        let entry = Entry {
            change: Some(journal::change(before, hit.state.as_str())),
            ..about::hit(entry, hit)
        };
        journal::put(tx, &entry).await
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

impl Broker {
    /// Prober: its hits, oldest first, quarantined ones left out.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`, `CURSOR_INVALID` for a token of another list.
    pub(crate) async fn hits(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        filter: &HitFilter,
        token: &str,
        size: u32,
    ) -> Result<HitPage> {
        let after = read_token(caller, filter, token)?;
        let mut hits = self
            .store
            .read_tx("list_hits", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    tx.get_hits(community, caller, filter, after, size + 1)
                        .await
                }
                .scope_boxed()
            })
            .await?;
        let more = hits.len() > size as usize;
        hits.truncate(size as usize);
        let next = hits
            .last()
            .filter(|_| more)
            .map(|last| write_token(caller, filter, last.hit.id));
        Ok(HitPage { hits, next })
    }

    /// Prober: one of its hits.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`, `HIT_UNKNOWN`.
    pub(crate) async fn hit(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        id: HitId,
    ) -> Result<LabelledHit> {
        self.store
            .read_tx("get_hit", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    own_hit(tx, community, caller, id).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Prober: the events of its stream after `cursor`, at most `limit`.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`, `CURSOR_INVALID` for a cursor that was never given out.
    pub(crate) async fn hit_events(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        cursor: u64,
        limit: u32,
    ) -> Result<Vec<HitEventRecord>> {
        self.store
            .read_tx("hit_events", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    let events = tx.get_hit_events(community, caller, cursor, limit).await?;
                    if events.is_empty() && tx.get_last_cursor(community, caller).await? < cursor {
                        let text = "this cursor was never given out: begin again at 0";
                        return Err(Error::new(ErrorCode::CursorInvalid, text));
                    }
                    Ok(events)
                }
                .scope_boxed()
            })
            .await
    }

    /// Changes whenever a hit event has been committed.
    pub(crate) fn hit_event_signal(&self) -> watch::Receiver<()> {
        self.store.wakeups().listen(Signal::Hits)
    }

    pub(super) fn announce_hits(&self) {
        self.store.wakeups().announce(Signal::Hits);
    }

    /// Holder: the hits on its filters per prober, policy and day, a day late, in tens.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`.
    pub(crate) async fn holder_counts(
        &self,
        caller: &NodeId,
        community: &CommunityId,
    ) -> Result<Vec<(GuardKey, u64)>> {
        let today = self.now().day();
        let mut counts = self
            .store
            .read_tx("holder_counts", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    let from = today - HOLDER_COUNT_DAYS;
                    tx.get_holder_counts(community, caller, from, today).await
                }
                .scope_boxed()
            })
            .await?;
        // protocol §7: "rounded up to tens, so that silent probing shows".
        for (_, hits) in &mut counts {
            *hits = hits.div_ceil(10) * 10;
        }
        Ok(counts)
    }

    /// Operator: what the flood guard holds back, in numbers.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub(crate) async fn quarantine(&self, community: &CommunityId) -> Result<Vec<(GuardKey, u64)>> {
        self.store
            .read_tx("count_quarantine", |tx| {
                async move { tx.count_quarantine(community).await }.scope_boxed()
            })
            .await
    }

    /// Operator: releases the hits of one group; they reach the prober's stream as new.
    ///
    /// # Errors
    /// `INVALID_FIELD` without a reason.
    pub(crate) async fn release(
        &self,
        operator: &str,
        community: &CommunityId,
        group: &GuardKey,
        reason: &str,
    ) -> Result<u64> {
        if reason.trim().is_empty() {
            return Err(Error::field("reason", "say why"));
        }
        let mut released = 0;
        loop {
            let step = self
                .release_some(operator, community, group, reason)
                .await?;
            self.announce_hits();
            released += step;
            if step < RELEASE_STEP.into() {
                return Ok(released);
            }
        }
    }

    async fn release_some(
        &self,
        operator: &str,
        community: &CommunityId,
        group: &GuardKey,
        reason: &str,
    ) -> Result<u64> {
        let (at, journal) = (self.now(), &self.journal);
        let subject = &format!("{} {} {}", group.prober, group.holder, group.policy);
        self.store
            .run_tx("release_quarantine", |tx| {
                async move {
                    let hits = tx.get_quarantined(community, group, RELEASE_STEP).await?;
                    for hit in &hits {
                        let action = Action::ReleaseHit;
                        let entry = Entry {
                            detail: journal::detail(reason),
                            ..journal.by_operator(operator, action, community, at)?
                        };
                        move_hit(tx, hit, HitEvent::Release, entry).await?;
                    }
                    if !hits.is_empty() {
                        let what = "release";
                        tx.put_act(&Act {
                            at,
                            operator,
                            community,
                            what,
                            subject,
                            reason,
                        })
                        .await?;
                    }
                    Ok(hits.len() as u64)
                }
                .scope_boxed()
            })
            .await
    }
}

/// A hit of the caller, as far as the flood guard shows it.
///
/// # Errors
/// `HIT_UNKNOWN`.
pub(super) async fn own_hit(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
    caller: &NodeId,
    id: HitId,
) -> Result<LabelledHit> {
    let hit = tx.get_hit(community, caller, id).await?;
    hit.filter(|known| known.hit.state != HitState::Quarantined)
        .ok_or_else(|| Error::new(ErrorCode::HitUnknown, "no hit of the caller has this id"))
}

/// A token is the digest of the caller and the filters that it belongs to and the last id of its page, in hex.
fn write_token(caller: &NodeId, filter: &HitFilter, last: HitId) -> String {
    format!(
        "{}{}",
        hex::encode(list_digest(caller, filter)),
        hex::encode(last.as_bytes())
    )
}

fn read_token(caller: &NodeId, filter: &HitFilter, token: &str) -> Result<Option<HitId>> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = hex::decode(token)
        .ok()
        .filter(|bytes| bytes.starts_with(&list_digest(caller, filter)));
    let id = bytes.and_then(|bytes| HitId::from_slice(&bytes[8..]).ok());
    id.map(Some).ok_or_else(|| {
        let text = "the token is not of a page of this list: begin again without one";
        Error::new(ErrorCode::CursorInvalid, text).about("page_token")
    })
}

fn list_digest(caller: &NodeId, filter: &HitFilter) -> [u8; 8] {
    let digest = Sha256::digest(format!("{caller} {filter:?}"));
    let mut short = [0; 8];
    short.copy_from_slice(&digest[..8]);
    short
}
