//! The hit ledger: how it is read, and what an operator releases (protocol §7). What batches do to it is
//! in [`guard`].

mod guard;
mod known;

use scoped_futures::ScopedFutureExt as _;
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::hit::{HitEvent, HitState};
use sotto_common::ids::{CommunityId, HitId, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use tokio::sync::watch;

pub(super) use guard::{Findings, Guard, Outcome};
pub(super) use known::{Known, KnownRefs};

use super::feedback::move_hit;
use super::journal;
use super::{Broker, enrolled};
use crate::datastore::{Act, GuardKey, HitEventRecord, HitFilter, LabelledHit, Signal, Tx};

/// Days that a holder can look back at the hits on its filters.
const HOLDER_COUNT_DAYS: i64 = 90;

/// Hits released from quarantine in one transaction.
const RELEASE_STEP: u32 = 1000;

/// A page of hits.
pub(crate) struct HitPage {
    pub(crate) hits: Vec<LabelledHit>,
    pub(crate) next: Option<String>,
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
