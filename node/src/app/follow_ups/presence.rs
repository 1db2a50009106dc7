//! Presence before particulars (protocol §10): what the two nodes do by themselves, without a
//! person.

use std::sync::Arc;

use sotto_common::error::Result;
use sotto_common::followup::content::Particulars;
use sotto_common::followup::presence::PresenceProof;
use sotto_common::followup::step::StepDetail;
use sotto_common::followup::{FollowUpState, FollowUpStep, Party};
use sotto_common::secret::{Selector, Tag};
use sotto_proto::convert::tags;
use sotto_proto::v1;

use super::super::{App, off_the_runtime};
use super::{Prepared, decoded, encoded, mismatch};
use crate::follow_up::{LocalFollowUp, OwnRecord, Presence};
use crate::store::Owned;

/// Selectors that are tagged at a time: memory does not grow with the dataset.
const PAGE: u32 = 20_000;
/// Most tags in a request (protocol §10: those of a group).
const MAX_TAGS: usize = 64;

impl App {
    /// Does what is due by this node itself, if anything is: answers for its tags as holder,
    /// releases the approved particulars as requester.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn do_duty(&self, follow_up: &LocalFollowUp) -> Result<()> {
        if follow_up.is_pending() || follow_up.erased_at.is_some() {
            return Ok(());
        }
        // protocol §11: "stops acting on hits when consistency fails"; it is done once that is cleared.
        if self.store.has_alarm().await? {
            return Ok(());
        }
        match (follow_up.side, follow_up.state()?) {
            (Party::Holder, FollowUpState::Submitted) => self.answer_for_tags(follow_up).await,
            (Party::Requester, FollowUpState::Held) => self.release(follow_up).await,
            _ => Ok(()),
        }
    }

    async fn answer_for_tags(&self, follow_up: &LocalFollowUp) -> Result<()> {
        // What does not open was raised when it came: nothing can be said about it.
        let request = follow_up
            .content_of(FollowUpStep::Submit)
            .and_then(|content| decoded::<v1::FollowUpRequest>(content));
        let Some(request) = request else {
            return Ok(());
        };
        let asked = tags("tags", &request.tags)?;
        let found = self.find(follow_up, &asked).await?;
        let records = match &found {
            Some(canonical) => {
                let records = self.store.published_records(follow_up.policy, canonical);
                records.await?
            }
            None => Vec::new(),
        };
        let peer = self.peer(follow_up.epoch, &follow_up.counterpart).await?;
        let now = self.clock.now();
        let answer = |f: &mut LocalFollowUp| {
            if f.is_pending() || f.state()? != FollowUpState::Submitted {
                return Ok(());
            }
            let prepared = match &found {
                Some(canonical) => held(f, canonical),
                None => Prepared {
                    detail: StepDetail::NotHeld,
                    content: None,
                },
            };
            f.presence = match &found {
                Some(_) => Presence::Proved,
                None => Presence::NotHeld,
            };
            f.canonical.clone_from(&found);
            let record = |(dataset, record_id): &(String, String)| OwnRecord {
                dataset: dataset.clone(),
                record_id: record_id.clone(),
            };
            f.records = records.iter().map(record).collect();
            let signed = self.sign_step(f, &peer, prepared, ("", ""), now)?;
            f.push_own(signed)
        };
        self.change(follow_up.id, &answer).await.map(drop)
    }

    /// The selector behind the tags, if this node has it, published it, and published it in the
    /// filter that matched.
    async fn find(&self, follow_up: &LocalFollowUp, asked: &[Tag]) -> Result<Option<Selector>> {
        let (policy, epoch) = (follow_up.policy, follow_up.epoch);
        let own = self
            .store
            .was_active(
                policy,
                epoch,
                follow_up.filter_version,
                follow_up.matched_at,
            )
            .await?;
        if own != Owned::Active || asked.is_empty() || asked.len() > MAX_TAGS {
            return Ok(None);
        }
        let keys = self.stored_keys(epoch).await?;
        // A canary or padding is nobody's record (protocol §4).
        let canaries = &keys.manifest.policy(policy)?.canary_tags;
        let asked: Arc<[Tag]> = asked
            .iter()
            .filter(|tag| !canaries.contains(tag))
            .copied()
            .collect();
        if asked.is_empty() {
            return Ok(None);
        }
        let key = Arc::new(keys.schedule.tag_key(policy));
        let mut after = 0;
        loop {
            let rows = self
                .store
                .published_values(policy, after, i64::MAX, PAGE)
                .await?;
            let Some(last) = rows.last().map(|row| row.id) else {
                return Ok(None);
            };
            after = last;
            let (key, asked) = (Arc::clone(&key), Arc::clone(&asked));
            let found = off_the_runtime(move || {
                let mut rows = rows.into_iter();
                let found = rows.find(|row| asked.contains(&key.tag(&row.canonical)));
                Ok(found.map(|row| row.canonical))
            });
            if let Some(canonical) = found.await? {
                return Ok(Some(canonical));
            }
        }
    }

    /// Releases the approved particulars: on a proof that holds, and never otherwise.
    async fn release(&self, follow_up: &LocalFollowUp) -> Result<()> {
        if follow_up.presence != Presence::Proved {
            return Ok(());
        }
        let peer = self.peer(follow_up.epoch, &follow_up.counterpart).await?;
        let now = self.clock.now();
        let release = |f: &mut LocalFollowUp| {
            let due = f.presence == Presence::Proved && f.state()? == FollowUpState::Held;
            if f.is_pending() || !due {
                return Ok(());
            }
            let Some(particulars) = f.particulars.clone() else {
                f.raise(
                    "the approved particulars are not here any more: withdraw the request, and \
                     ask anew"
                        .into(),
                );
                return Ok(());
            };
            let prepared = Prepared {
                detail: StepDetail::Particulars,
                content: Some(particulars),
            };
            let signed = self.sign_step(f, &peer, prepared, ("", ""), now)?;
            f.push_own(signed)?;
            f.particulars = None;
            Ok(())
        };
        self.change(follow_up.id, &release).await.map(drop)
    }
}

/// The proof of presence, to be sealed to the requester.
fn held(follow_up: &LocalFollowUp, canonical: &Selector) -> Prepared {
    let proof = proof(follow_up, canonical);
    let presence = v1::FollowUpPresence {
        proof: proof.secret().expose().to_vec().into(),
    };
    Prepared {
        detail: StepDetail::Held,
        content: Some(encoded(&presence)),
    }
}

fn proof(follow_up: &LocalFollowUp, canonical: &Selector) -> PresenceProof {
    let (holder, requester) = (
        follow_up.party(Party::Holder),
        follow_up.party(Party::Requester),
    );
    PresenceProof::new(canonical, follow_up.id, holder, requester)
}

/// Compares the proof in a `HELD` with this node's own selector, in constant time (protocol §10).
pub(super) fn check_proof(follow_up: &LocalFollowUp, content: Option<&[u8]>) -> Presence {
    let theirs = content
        .and_then(decoded::<v1::FollowUpPresence>)
        .and_then(|presence| PresenceProof::from_slice(&presence.proof));
    let own = follow_up.canonical.as_ref();
    match (theirs, own.map(|canonical| proof(follow_up, canonical))) {
        (Some(theirs), Some(own)) if theirs == own => Presence::Proved,
        _ => Presence::ProofWrong,
    }
}

/// Whether particulars that came name the selector that this node has found, and are whole.
pub(super) fn check_particulars(follow_up: &LocalFollowUp, content: Option<&[u8]>) -> Result<()> {
    let form = content.and_then(decoded::<v1::FollowUpParticulars>);
    let form = form.ok_or_else(|| mismatch("the particulars are no form"))?;
    let form = Particulars::from(form);
    if follow_up.canonical.as_ref() != Some(&form.selector) {
        return Err(mismatch(
            "the selector of the particulars is not the one that was found by its tag",
        ));
    }
    let terms = follow_up.agreed()?.map(|f| f.terms);
    terms.map_or(Ok(()), |terms| form.check(&terms))
}
