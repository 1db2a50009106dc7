//! What people at the prober's node decide about hits, and what becomes of hits that nobody looks
//! at (workflow.md "Hit").

use prost::Message as _;
use scoped_futures::ScopedFutureExt as _;
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::hit::{HitDecision, HitEvent, HitFeedback, HitState, transition};
use sotto_common::ids::{CommunityId, Epoch, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::time::{CLOCK_SKEW, Timestamp};
use sotto_proto::convert;
use sotto_proto::v1;

use super::hits::own_hit;
use super::journal::{self, Journal, about};
use super::{Broker, enrolled, known_epoch, manifest_of};
use crate::datastore::{FeedbackRecord, HitRecord, HitStatistic, LabelledHit, Tx};

/// Most bytes of a signed feedback; an honest one has about 300. It is kept with the hit.
const MAX_FEEDBACK: usize = 2048;

/// Hits that one transaction lets expire.
const EXPIRY_STEP: u32 = 500;

/// Most rows of statistics in one answer, which is at most 4 MiB (protocol §12).
const MAX_STATISTICS: u32 = 20_000;

impl Broker {
    /// Prober: takes what a person has decided about a hit, and keeps the statement; returns the hit
    /// as it stands now. A statement takes effect once, however often it is handed in.
    ///
    /// # Errors
    /// `HIT_UNKNOWN`; `SIGNATURE_INVALID`, `FORMAT_UNKNOWN`, `INVALID_FIELD`; `ILLEGAL_TRANSITION`
    /// if the hit does not take the decision.
    pub(crate) async fn submit_feedback(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        signed: &v1::DsseEnvelope,
    ) -> Result<LabelledHit> {
        if signed.encoded_len() > MAX_FEEDBACK {
            let text = format!("a signed feedback has at most {MAX_FEEDBACK} bytes");
            return Err(Error::field("feedback", text));
        }
        let claimed: HitFeedback = convert::read_unverified(signed)?;
        if claimed.node != *caller || claimed.community != *community {
            let text = "must be the caller's, for this community";
            return Err(Error::field("feedback", text));
        }
        let now = self.now();
        if claimed.decided_at > now.plus(CLOCK_SKEW) {
            let text = "more than 5 minutes ahead of the broker";
            return Err(Error::field("decided_at", text));
        }
        let (claimed, journal) = (&claimed, &self.journal);
        let (hit, moved) = self
            .store
            .run_tx("hit_feedback", |tx| {
                async move { take(tx, journal, claimed, signed, now).await }.scope_boxed()
            })
            .await?;
        if moved {
            self.announce_hits();
        }
        Ok(hit)
    }

    /// Lets the hits expire that nobody has touched for the time that the manifest of their epoch
    /// gives them. The end of an epoch does not stop that.
    pub(crate) async fn expire_hits(&self) -> Result<()> {
        let now = self.now();
        let epochs = self
            .store
            .read_tx("epochs_with_open_hits", |tx| {
                async move { tx.get_epochs_with_open_hits().await }.scope_boxed()
            })
            .await?;
        for (community, epoch) in epochs {
            let kept = manifest_of(&epoch)?.profile.retention.untouched_hits;
            self.expire_hits_of(&community, epoch.epoch, now.minus(kept))
                .await?;
        }
        Ok(())
    }

    async fn expire_hits_of(
        &self,
        community: &CommunityId,
        epoch: Epoch,
        before: Timestamp,
    ) -> Result<()> {
        let journal = &self.journal;
        loop {
            // Anew in each step: entries do not go back in time, however long it takes.
            let now = self.now();
            let expired = self
                .store
                .run_tx("expire_hits", |tx| {
                    async move {
                        let hits = tx
                            .get_untouched_hits(community, epoch, before, EXPIRY_STEP)
                            .await?;
                        for hit in &hits {
                            let entry = journal.by_broker(Action::ExpireHit, community, now);
                            move_hit(tx, hit, HitEvent::Expire, entry).await?;
                        }
                        Ok(hits.len())
                    }
                    .scope_boxed()
                })
                .await?;
            if expired > 0 {
                tracing::info!(%community, %epoch, expired, "untouched hits have expired");
                self.announce_hits();
            }
            if expired < EXPIRY_STEP as usize {
                return Ok(());
            }
        }
    }

    /// Operator: how the hits fared that were first seen since then, quarantined ones left out.
    ///
    /// # Errors
    /// `LIMIT_REACHED` if the answer would be too large.
    pub(crate) async fn hit_statistics(
        &self,
        community: &CommunityId,
        since: Option<Timestamp>,
    ) -> Result<Vec<HitStatistic>> {
        let rows = self
            .store
            .read_tx("hit_statistics", |tx| {
                async move {
                    tx.get_hit_statistics(community, since, MAX_STATISTICS + 1)
                        .await
                }
                .scope_boxed()
            })
            .await?;
        if rows.len() > MAX_STATISTICS as usize {
            let text =
                format!("more than {MAX_STATISTICS} rows: ask for the hits since a later time");
            return Err(Error::new(ErrorCode::LimitReached, text).about("since"));
        }
        Ok(rows)
    }
}

/// The feedback within its transaction; returns the hit, and whether the prober's stream moved.
async fn take(
    tx: &mut (dyn Tx + '_),
    journal: &Journal,
    claimed: &HitFeedback,
    signed: &v1::DsseEnvelope,
    now: Timestamp,
) -> Result<(LabelledHit, bool)> {
    let (prober, community) = (&claimed.node, &claimed.community);
    enrolled(tx, community, prober).await?;
    let LabelledHit { hit, labels } = own_hit(tx, community, prober, claimed.hit).await?;
    let manifest = manifest_of(&known_epoch(tx, community, hit.key.epoch).await?)?;
    convert::verify::<HitFeedback>(signed, &manifest.member(prober)?.signing)?;

    let statement: [u8; 32] = Sha256::digest(&signed.payload).into();
    let known = tx.get_feedback(hit.id).await?;
    // What was taken once must not be taken for a decision about a later match of the hit.
    let again = known.iter().any(|known| known.statement == statement);
    if again || is_done(claimed.decision, hit.state) {
        return Ok((LabelledHit { hit, labels }, false));
    }
    let entry = Entry {
        statement: Some(journal::statement(signed)?),
        ..journal.by_node(prober, Action::DecideHit, community, now)?
    };
    let hit = move_hit(tx, &hit, claimed.decision.event(), entry).await?;
    let record = FeedbackRecord {
        hit: hit.id,
        statement,
        decision: claimed.decision,
        envelope: signed.encode_to_vec(),
        taken_at: now,
    };
    tx.put_feedback(&record).await?;
    Ok((LabelledHit { hit, labels }, true))
}

/// Whether a hit in this state has had the decision already.
fn is_done(decision: HitDecision, state: HitState) -> bool {
    use HitState as S;
    match decision {
        HitDecision::BeginReview => matches!(
            state,
            S::UnderReview
                | S::Confirmed
                | S::FalsePositive
                | S::NotRelevant
                | S::FollowedUp
                | S::Closed
        ),
        HitDecision::Confirm => matches!(state, S::Confirmed | S::FollowedUp | S::Closed),
        HitDecision::FalsePositive => state == S::FalsePositive,
        HitDecision::NotRelevant => state == S::NotRelevant,
    }
}

/// Moves a hit at the time of the entry, tells its prober's stream, and logs it.
///
/// # Errors
/// `ILLEGAL_TRANSITION`.
pub(super) async fn move_hit(
    tx: &mut (dyn Tx + '_),
    hit: &HitRecord,
    event: HitEvent,
    entry: Entry,
) -> Result<HitRecord> {
    let moved = HitRecord {
        state: transition(hit.state, event)?,
        touched_at: entry.at,
        ..hit.clone()
    };
    tx.update_hits(std::slice::from_ref(&moved)).await?;
    tx.put_hit_events(&moved.key.community, &moved.prober, &[moved.id])
        .await?;
    let entry = Entry {
        change: Some(journal::change(hit.state.as_str(), moved.state.as_str())),
        ..about::hit(entry, &moved)
    };
    journal::put(tx, &entry).await?;
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_done_in_its_state_and_in_those_that_only_it_leads_to() {
        for &decision in HitDecision::ALL {
            assert!(is_done(decision, decision.state()));
            for &state in HitState::ALL {
                let taken = transition(state, decision.event()).is_ok();
                assert!(!(taken && is_done(decision, state)), "{decision} {state}");
            }
        }
        let undecided = [
            HitState::New,
            HitState::Retracted,
            HitState::Expired,
            HitState::Quarantined,
        ];
        for &decision in HitDecision::ALL {
            assert!(!undecided.iter().any(|&state| is_done(decision, state)));
        }
    }
}
