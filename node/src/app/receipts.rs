//! Receipts (c2sp.org/tlog-proof): files that prove an entry of a hit or a batch to anybody who has
//! the key of the log.

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{HitId, SessionId};
use sotto_common::log::checkpoint::SignedCheckpoint;
use sotto_common::log::leaf::Leaf;
use sotto_common::log::merkle::MerkleHash;
use sotto_common::log::proof::verify_inclusion;
use sotto_common::log::quorum::WitnessPolicy;
use sotto_common::log::receipt::Receipt;
use sotto_proto::v1;

use super::App;
use super::witness::{Contradiction, FollowedLog, hashes, inconsistent};
use crate::broker::ask;

impl App {
    /// The receipt of a hit that is verified, and the cases of its thread.
    ///
    /// # Errors
    /// `HIT_UNKNOWN`; `LOG_UNKNOWN` if the node follows no log, the hit is not verified yet, or not
    /// enough witnesses stand behind a checkpoint; those of the broker.
    pub(crate) async fn hit_receipt(&self, hit: HitId) -> Result<(Vec<u8>, Vec<String>)> {
        let known = self.store.record_hit(hit).await?;
        let known =
            known.ok_or_else(|| Error::new(ErrorCode::HitUnknown, "there is no such hit here"))?;
        let Some((leaf, _)) = known.verified else {
            return Err(none("the hit is not verified in the audit log yet"));
        };
        Ok((self.receipt(leaf).await?, known.case_refs))
    }

    /// The receipt of a batch that this node has asked.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`; as [`App::hit_receipt`].
    pub(crate) async fn batch_receipt(&self, session: SessionId, number: u32) -> Result<Vec<u8>> {
        let batch = self.store.probed_batch(session, number).await?;
        let batch = batch.ok_or_else(|| {
            let text = "no such batch is kept here that is verified in the audit log";
            Error::new(ErrorCode::SessionUnknown, text)
        })?;
        self.receipt(batch.leaf_index).await
    }

    /// The log that this node follows.
    ///
    /// # Errors
    /// `LOG_UNKNOWN` if it follows none.
    pub(super) fn followed_log(&self) -> Result<&FollowedLog> {
        self.log
            .as_ref()
            .ok_or_else(|| none("this node follows no audit log: set `audit_log.verifier_key`"))
    }

    /// The newest checkpoint that enough witnesses of the active epoch stand behind, if this node
    /// itself found it consistent.
    ///
    /// # Errors
    /// `LOG_INCONSISTENT` while an alarm stands; those of the broker and of the store.
    pub(super) async fn witnessed(&self, log: &FollowedLog) -> Result<Option<SignedCheckpoint>> {
        self.check_log().await?;
        let manifest = self.active_epoch().await?.manifest;
        let witnesses = WitnessPolicy::of_manifest(&manifest, &log.trust_domain);
        let witnesses = witnesses.map_err(Error::internal)?;
        self.cosigned(log, &witnesses).await
    }

    async fn receipt(&self, leaf_index: u64) -> Result<Vec<u8>> {
        let log = self.followed_log()?;
        let signed = self.witnessed(log).await?;
        let signed = signed.filter(|signed| leaf_index < signed.head().size);
        let signed = signed.ok_or_else(|| {
            none("not enough witnesses stand behind a checkpoint with this entry yet")
        })?;
        let request = v1::ProveInclusionRequest {
            community: self.community.to_string(),
            leaf_index,
            tree_size: signed.head().size,
        };
        let answer = ask!(self.broker.log(), prove_inclusion, request).await?;
        let proof = hashes(&answer.hashes).unwrap_or_default();
        let hash = MerkleHash::of_leaf(&answer.leaf);
        if let Err(error) = verify_inclusion(&hash, leaf_index, signed.head(), &proof) {
            let contradiction = Contradiction {
                what: error.to_string(),
                known: self.known_note(log).await?,
                offered: &signed,
                proof,
                about: Some((
                    format!("leaf {leaf_index}"),
                    v1::LoggedEntry {
                        leaf_index,
                        leaf: answer.leaf,
                        ..Default::default()
                    },
                )),
            };
            self.raise(log, contradiction).await?;
            return Err(inconsistent());
        }
        let leaf = Leaf::parse(&answer.leaf)
            .map_err(|error| Error::new(ErrorCode::FormatUnknown, error.to_string()))?;
        let receipt = Receipt::new(&leaf, leaf_index, proof, &signed);
        Ok(receipt.to_string().into_bytes())
    }

    /// The note of the last checkpoint that was found consistent.
    async fn known_note(&self, log: &FollowedLog) -> Result<Option<Vec<u8>>> {
        let known = self.store.log_checkpoint(log.key.origin()).await?;
        Ok(known.map(|known| known.note))
    }
}

/// There is no receipt, and why.
fn none(text: &'static str) -> Error {
    Error::new(ErrorCode::LogUnknown, text)
}
