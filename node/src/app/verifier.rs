//! Whether the entries of hits and batches are in the audit log (protocol §11): proved under a
//! checkpoint that this node found consistent and that enough witnesses stand behind.

use std::collections::BTreeMap;

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, Epoch, HitId, NodeId};
use sotto_common::log::checkpoint::SignedCheckpoint;
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;
use sotto_common::log::leaf::{Leaf, Opening, OpeningNonce};
use sotto_common::log::merkle::{MerkleHash, TreeHead};
use sotto_common::log::proof::{ProofError, verify_inclusion};
use sotto_common::log::quorum::WitnessPolicy;
use sotto_common::membership::Manifest;
use sotto_proto::convert::log::read_entry;
use sotto_proto::v1;
use tracing::warn;

use super::App;
use super::witness::{Contradiction, FollowedLog, hashes};
use crate::broker::{ask, is_passing};
use crate::store::{BatchToVerify, Named, UnverifiedHit};

/// Hits whose proofs are asked for at a time (audit.proto).
const HITS: u32 = 256;
/// Batches that are read from the store at a time.
const BATCHES: u32 = 64;

/// Why an entry is not what the broker says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Doubt {
    /// It is not proved to be in the tree.
    #[error("the entry is not proved to be in the log: {0}")]
    Proof(#[from] ProofError),
    /// An answer without an entry, or with a hash that is none.
    #[error("the proof is not of its form")]
    Malformed,
    /// Another leaf than was asked for.
    #[error("the leaf is of another place or kind")]
    Leaf,
    /// The leaf hides something else.
    #[error("the leaf hides another entry")]
    Opening,
    /// The entry says something else than is known here.
    #[error("the entry says another {0} than this node knows")]
    Entry(&'static str),
}

/// Whose log it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own<'a> {
    /// This node.
    pub(crate) node: &'a NodeId,
    /// Its community.
    pub(crate) community: &'a CommunityId,
}

impl App {
    /// Verifies what is not verified yet, as far as the log shows it.
    ///
    /// # Errors
    /// Those of the broker and of the store.
    pub(super) async fn verify_all(&self, log: &FollowedLog) -> Result<()> {
        let epochs = self.store.epochs_unverified().await?;
        let batches = self.store.unverified_batches(0, u64::MAX, 1).await?;
        if epochs.is_empty() && batches.is_empty() {
            return Ok(());
        }
        let accepted = self.accepted_manifests().await?;
        let Some(active) = accepted.last() else {
            return Ok(());
        };
        let mut groups = by_manifest(&accepted, &epochs);
        // The batches go with the active epoch, and come first: they bind the hits of every epoch to their
        // records.
        groups.entry(active.epoch).or_default();
        for (epoch, epochs) in groups.into_iter().rev() {
            let manifest = accepted.iter().find(|manifest| manifest.epoch == epoch);
            let Some(manifest) = manifest else { continue };
            let witnesses = WitnessPolicy::of_manifest(manifest, &log.trust_domain);
            let witnesses = witnesses.map_err(Error::internal)?;
            let Some(signed) = self.cosigned(log, &witnesses).await? else {
                continue;
            };
            if epoch == active.epoch {
                let origin = log.key.origin();
                let now = self.clock.now();
                self.store.set_witnessed(origin, true, now).await?;
                self.verify_batches(log, &signed).await?;
            }
            if !self.store.has_alarm().await? {
                self.verify_hits(log, &signed, epoch, &epochs).await?;
            }
            if self.store.has_alarm().await? {
                break;
            }
        }
        Ok(())
    }

    /// The manifests of the epochs that are accepted now, by number: the last is of the active one.
    async fn accepted_manifests(&self) -> Result<Vec<Manifest>> {
        let listed = self.broker_epochs().await?;
        let now = self.clock.now();
        let is_accepted = |manifest: &Manifest| {
            manifest.covers(now)
                && listed.iter().any(|summary| {
                    summary.epoch == manifest.epoch.get()
                        && summary.state() == v1::EpochState::Active
                        && summary.kid == manifest.kid().as_bytes()[..]
                })
        };
        let stored = self.store.epochs().await?.into_iter();
        let stored = stored.filter(|stored| !stored.draft);
        let mut accepted: Vec<_> = stored
            .map(|stored| stored.manifest)
            .filter(is_accepted)
            .collect();
        accepted.sort_by_key(|manifest| manifest.epoch);
        Ok(accepted)
    }

    /// Verifies the hits of these epochs that go with the witnesses of one: the newest first, as long as
    /// whole pages of them bring any; then as many of the older ones, from where the last round ended.
    /// Those that cannot be proved, which may be of a time before there was a log, hold up no others.
    ///
    /// # Errors
    /// Those of the broker and of the store.
    pub(super) async fn verify_hits(
        &self,
        log: &FollowedLog,
        signed: &SignedCheckpoint,
        counts: Epoch,
        epochs: &[Epoch],
    ) -> Result<()> {
        let newest = self.verify_from(log, signed, epochs, None).await?;
        let next = match newest {
            None => None,
            Some(newest) => {
                let turn = log.turns().get(&counts).copied();
                let from = turn.filter(|turn| *turn < newest).unwrap_or(newest);
                self.verify_from(log, signed, epochs, Some(from)).await?
            }
        };
        let mut turns = log.turns();
        match next {
            Some(next) => turns.insert(counts, next),
            // The round has come to the end: the next one begins behind the newest.
            None => turns.remove(&counts),
        };
        Ok(())
    }

    /// Verifies hits older than one, page by page, until a whole page brings none; tells its last one,
    /// `None` after the last of all or with an alarm.
    async fn verify_from(
        &self,
        log: &FollowedLog,
        signed: &SignedCheckpoint,
        epochs: &[Epoch],
        mut before: Option<HitId>,
    ) -> Result<Option<HitId>> {
        loop {
            let page = self.store.unverified_hits(epochs, before, HITS).await?;
            let Some(last) = page.last() else {
                return Ok(None);
            };
            let is_last = page.len() < HITS as usize;
            let verified = self.verify_page(log, signed, &page).await?;
            match verified {
                None => return Ok(None),
                Some(_) if is_last => return Ok(None),
                Some(0) => return Ok(Some(last.id)),
                Some(_) => before = Some(last.id),
            }
        }
    }

    /// Verifies some hits; tells how many are now, `None` with an alarm.
    async fn verify_page(
        &self,
        log: &FollowedLog,
        signed: &SignedCheckpoint,
        page: &[UnverifiedHit],
    ) -> Result<Option<usize>> {
        let own = Own {
            node: &self.node,
            community: &self.community,
        };
        let ids: Vec<_> = page.iter().map(|hit| hit.id).collect();
        let mut verified = Vec::new();
        let mut doubted = None;
        for entry in self.prove_hits(&ids, signed.head()).await? {
            match check_hit(&entry, signed.head(), page, own) {
                Ok(found) => verified.extend(found),
                Err(doubt) => {
                    doubted = Some((doubt, entry));
                    break;
                }
            }
        }
        // An entry does not say which record it is about: only a verified answer does.
        verified.retain(|(id, _)| {
            let of = page.iter().find(|hit| hit.id == *id);
            of.is_some_and(|hit| hit.named == Named::Verified)
        });
        let now = self.clock.now();
        let cursor = self.store.mark_verified(&verified, now).await?;
        self.hits_changed(cursor);
        if let Some((doubt, entry)) = doubted {
            self.doubt(log, signed, "a hit", doubt, entry).await?;
            return Ok(None);
        }
        Ok(Some(verified.len()))
    }

    /// The entries of hits, each with its proof.
    ///
    /// # Errors
    /// Those of the broker.
    pub(super) async fn prove_hits(
        &self,
        hits: &[HitId],
        head: &TreeHead,
    ) -> Result<Vec<v1::ProvedEntry>> {
        let ids = hits.iter().map(|hit| hit.as_bytes().to_vec().into());
        let request = v1::ProveHitsRequest {
            community: self.community.to_string(),
            hit_ids: ids.collect(),
            tree_size: head.size,
        };
        let answer = ask!(self.broker.log(), prove_hits, request).await?;
        Ok(answer.entries)
    }

    /// "The prober checks the index of every batch" (protocol §11).
    async fn verify_batches(&self, log: &FollowedLog, signed: &SignedCheckpoint) -> Result<()> {
        let own = Own {
            node: &self.node,
            community: &self.community,
        };
        let size = signed.head().size;
        let mut after = 0;
        loop {
            let page = self.store.unverified_batches(after, size, BATCHES).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.place;
            for batch in &page {
                let proved = match self.prove_entry(batch.leaf_index, size).await {
                    Ok(proved) => proved,
                    Err(error) if is_passing(&error) => return Err(error),
                    Err(error) => {
                        // One that the broker does not show holds up no other.
                        let text = format!("batch {} of {}", batch.number, batch.session);
                        log.view().problem = format!("{text} is not proved: {error}");
                        continue;
                    }
                };
                match check_batch(&proved, signed.head(), batch, own) {
                    Ok(true) => {
                        let now = self.clock.now();
                        self.store.mark_batch_verified(batch.place, now).await?;
                    }
                    Ok(false) => {}
                    Err(doubt) => {
                        let subject = format!("batch {} of {}", batch.number, batch.session);
                        return self.doubt(log, signed, &subject, doubt, proved).await;
                    }
                }
            }
        }
    }

    /// One entry of this node with its proof.
    async fn prove_entry(&self, leaf_index: u64, tree_size: u64) -> Result<v1::ProvedEntry> {
        let community = self.community.to_string();
        let request = v1::GetEntryRequest {
            community: community.clone(),
            leaf_index,
        };
        let entry = ask!(self.broker.log(), get_entry, request).await?.entry;
        let request = v1::ProveInclusionRequest {
            community,
            leaf_index,
            tree_size,
        };
        let proof = ask!(self.broker.log(), prove_inclusion, request).await?;
        Ok(v1::ProvedEntry {
            entry,
            hashes: proof.hashes,
        })
    }

    /// An entry that does not fit raises the alarm as well.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn doubt(
        &self,
        log: &FollowedLog,
        signed: &SignedCheckpoint,
        subject: &str,
        doubt: Doubt,
        entry: v1::ProvedEntry,
    ) -> Result<()> {
        let known = self.store.log_checkpoint(log.key.origin()).await?;
        let contradiction = Contradiction {
            what: doubt.to_string(),
            known: known.map(|known| known.note),
            offered: signed,
            proof: hashes(&entry.hashes).unwrap_or_default(),
            about: Some((subject.to_owned(), entry.entry.unwrap_or_default())),
        };
        self.raise(log, contradiction).await
    }
}

/// Which manifest's witnesses count for the hits of an epoch: those of its own while that is
/// accepted, later those of the active one (PROTOCOL-NOTES §11).
fn by_manifest(accepted: &[Manifest], epochs: &[Epoch]) -> BTreeMap<Epoch, Vec<Epoch>> {
    let mut groups: BTreeMap<Epoch, Vec<Epoch>> = BTreeMap::new();
    let Some(active) = accepted.iter().map(|manifest| manifest.epoch).max() else {
        return groups;
    };
    for &epoch in epochs {
        let own = accepted.iter().any(|manifest| manifest.epoch == epoch);
        let counts = if own { epoch } else { active };
        groups.entry(counts).or_default().push(epoch);
    }
    groups
}

/// The hit that an entry proves, and its leaf; `None` if its opening was erased, or is of a version
/// that is unknown here.
///
/// # Errors
/// [`Doubt`].
pub(crate) fn check_hit(
    proved: &v1::ProvedEntry,
    head: &TreeHead,
    page: &[UnverifiedHit],
    own: Own<'_>,
) -> Result<Option<(HitId, u64)>, Doubt> {
    let Some((leaf_index, entry)) = opened(proved, head, EntryKind::Hit)? else {
        return Ok(None);
    };
    let asked = page.iter().find(|hit| Some(hit.id) == entry.object.hit);
    let hit = asked.ok_or(Doubt::Entry("hit"))?;
    for (agrees, field) in [
        (entry.community == *own.community, "community"),
        (entry.recipient.as_ref() == Some(own.node), "recipient"),
        (entry.object.node.as_ref() == Some(&hit.holder), "holder"),
        (entry.object.policy == Some(hit.policy), "policy"),
        (entry.object.epoch == Some(hit.epoch), "epoch"),
    ] {
        if !agrees {
            return Err(Doubt::Entry(field));
        }
    }
    Ok(Some((hit.id, leaf_index)))
}

/// Whether an entry says of a batch what this node has sent and received; false as for hits.
///
/// # Errors
/// [`Doubt`].
pub(crate) fn check_batch(
    proved: &v1::ProvedEntry,
    head: &TreeHead,
    batch: &BatchToVerify,
    own: Own<'_>,
) -> Result<bool, Doubt> {
    let Some((leaf_index, entry)) = opened(proved, head, EntryKind::ProbeBatch)? else {
        return Ok(false);
    };
    if leaf_index != batch.leaf_index {
        return Err(Doubt::Leaf);
    }
    let logged = entry.batch.as_ref().ok_or(Doubt::Entry("batch"))?;
    for (agrees, field) in [
        (entry.community == *own.community, "community"),
        (entry.actor.node().as_ref() == Some(own.node), "prober"),
        (entry.object.session == Some(batch.session), "session"),
        (logged.number == batch.number, "number"),
        (logged.tags_digest == batch.tags_digest, "digest of tags"),
        (
            logged.answer_digest == batch.answer_digest,
            "digest of the answer",
        ),
    ] {
        if !agrees {
            return Err(Doubt::Entry(field));
        }
    }
    Ok(true)
}

/// An entry that is in the tree, and what it says; `None` as for hits.
///
/// # Errors
/// [`Doubt`].
pub(super) fn opened(
    proved: &v1::ProvedEntry,
    head: &TreeHead,
    kind: EntryKind,
) -> Result<Option<(u64, Entry)>, Doubt> {
    let logged = proved.entry.as_ref().ok_or(Doubt::Malformed)?;
    let proof = hashes(&proved.hashes).ok_or(Doubt::Malformed)?;
    let hash = MerkleHash::of_leaf(&logged.leaf);
    verify_inclusion(&hash, logged.leaf_index, head, &proof)?;
    let leaf = Leaf::parse(&logged.leaf).map_err(|_| Doubt::Leaf)?;
    if leaf.kind() != kind {
        return Err(Doubt::Leaf);
    }
    if logged.nonce.is_empty() && logged.entry.is_empty() {
        return Ok(None);
    }
    let nonce = OpeningNonce::from_slice(&logged.nonce).ok_or(Doubt::Opening)?;
    if !leaf.is_opened_by(&Opening::new(nonce, logged.entry.to_vec())) {
        return Err(Doubt::Opening);
    }
    match read_entry(&logged.entry) {
        Ok(entry) if entry.action.kind() == kind => Ok(Some((logged.leaf_index, entry))),
        Ok(_) => Err(Doubt::Entry("kind")),
        Err(error) if error.code == ErrorCode::FormatUnknown => {
            warn!(%error, "an entry of the audit log cannot be read");
            Ok(None)
        }
        Err(_) => Err(Doubt::Entry("form")),
    }
}

#[cfg(test)]
mod tests;
