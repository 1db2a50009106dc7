//! Checkpoints: leaves become a tree, which the broker signs and the nodes cosign (protocol §11).

use std::ops::Range;

use scoped_futures::ScopedFutureExt as _;
use sotto_common::dsse::VerifyingKey;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, NodeId};
use sotto_common::log::checkpoint::Checkpoint;
use sotto_common::log::cosignature::WitnessKey;
use sotto_common::log::edge::{NewTile, RightEdge};
use sotto_common::log::merkle::{MerkleHash, TreeHead};
use sotto_common::log::note::{MAX_SIGNATURES, NoteSignature};
use sotto_common::log::tile::Tile;
use sotto_common::time::CLOCK_SKEW;
use tokio::sync::watch;

use super::{log_unknown, tile_set};
use crate::app::membership::{may_read, statement_of};
use crate::app::{Broker, enrolled, manifest_of};
use crate::datastore::{CheckpointRecord, Signal, Tx};

/// Leaves that are integrated at a time: their tiles are in memory together.
const PART: u64 = 65_536;

/// Leaves that are read at a time.
const LEAVES_AT_A_TIME: u64 = 1024;

impl Broker {
    /// Signs a checkpoint of every log that has grown since its last one.
    ///
    /// # Errors
    /// The first fault; the logs of other communities are signed all the same.
    pub(crate) async fn sign_checkpoints(&self) -> Result<()> {
        let communities = self
            .store
            .read_tx("communities_to_sign", |tx| {
                async move { tx.get_communities_to_sign().await }.scope_boxed()
            })
            .await?;
        let mut outcome = Ok(());
        for community in &communities {
            let signed = self.sign_checkpoint(community).await;
            outcome = outcome.and(signed);
        }
        outcome
    }

    /// What is signed last is the whole log; a crash before that leaves tiles that are wider than
    /// the last checkpoint needs, and no harm.
    async fn sign_checkpoint(&self, community: &CommunityId) -> Result<()> {
        let (mut edge, size) = self.edge(community).await?;
        let signed = edge.size();
        while edge.size() < size {
            let part = edge.size()..size.min(edge.size() + PART);
            let leaves = self.leaf_hashes(community, &part).await?;
            let tiles = edge.append(leaves);
            let checkpoint = (edge.size() == size).then(|| CheckpointRecord {
                size,
                root: edge.head().root,
                signed_at: self.now(),
                note: self.log.signer(community).sign(edge.head()).to_string(),
                cosignatures: Vec::new(),
            });
            let put = self.put_part(community, signed, &tiles, checkpoint.as_ref());
            if !put.await? {
                tracing::info!(%community, "another broker has signed a checkpoint meanwhile");
                return Ok(());
            }
        }
        if signed < size {
            self.store.wakeups().announce(Signal::Checkpoints);
        }
        Ok(())
    }

    /// The right edge of the tree of the last checkpoint, and the size that the log has now.
    pub(super) async fn edge(&self, community: &CommunityId) -> Result<(RightEdge, u64)> {
        self.store
            .read_tx("log_edge", |tx| {
                async move {
                    let last = tx.get_checkpoint(community, 0).await?;
                    let head = last.map_or_else(TreeHead::empty, |last| TreeHead {
                        size: last.size,
                        root: last.root,
                    });
                    let size = tx.get_log_size(community).await?;
                    let tiles: Vec<Tile> = RightEdge::tiles(head.size).collect();
                    let tiles = tile_set(tx, community, &tiles).await?;
                    let edge = RightEdge::load(head.size, &tiles).ok();
                    let edge = edge.filter(|edge| edge.head() == head && size >= head.size);
                    let edge = edge.ok_or_else(|| changed(community, head.size))?;
                    Ok((edge, size))
                }
                .scope_boxed()
            })
            .await
    }

    pub(super) async fn leaf_hashes(
        &self,
        community: &CommunityId,
        part: &Range<u64>,
    ) -> Result<Vec<MerkleHash>> {
        let mut hashes = Vec::new();
        let mut next = part.start;
        while next < part.end {
            let step = &(next..part.end.min(next + LEAVES_AT_A_TIME));
            let leaves = self
                .store
                .read_tx("leaves_to_sign", |tx| {
                    async move { tx.get_leaf_bytes(community, step.clone()).await }.scope_boxed()
                })
                .await?;
            if !leaves.iter().map(|(index, _)| *index).eq(step.clone()) {
                return Err(changed(community, next));
            }
            hashes.extend(leaves.iter().map(|(_, leaf)| MerkleHash::of_leaf(leaf)));
            next = step.end;
        }
        Ok(hashes)
    }

    /// Stores a part of what comes after the checkpoint of `signed` leaves; false if that is the
    /// last one no more.
    pub(super) async fn put_part(
        &self,
        community: &CommunityId,
        signed: u64,
        tiles: &[NewTile],
        checkpoint: Option<&CheckpointRecord>,
    ) -> Result<bool> {
        self.store
            .run_tx("integrate", |tx| {
                async move {
                    if super::signed_size(tx, community).await? != signed {
                        return Ok(false);
                    }
                    for new in tiles {
                        tx.put_tile(community, new.tile, &new.bytes).await?;
                    }
                    if let Some(checkpoint) = checkpoint {
                        tx.put_checkpoint(community, checkpoint).await?;
                    }
                    Ok(true)
                }
                .scope_boxed()
            })
            .await
    }

    /// The latest checkpoint with at least so many cosignatures, as a signed note; `member` must be
    /// enrolled, if one asks.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`; `LOG_UNKNOWN` if there is none.
    pub(crate) async fn checkpoint(
        &self,
        member: Option<&NodeId>,
        community: &CommunityId,
        cosignatures: u32,
    ) -> Result<String> {
        let checkpoint = self
            .store
            .read_tx("get_checkpoint", |tx| {
                async move {
                    may_read(tx, community, member).await?;
                    tx.get_checkpoint(community, cosignatures).await
                }
                .scope_boxed()
            })
            .await?;
        let checkpoint = checkpoint.ok_or_else(|| {
            log_unknown("there is no checkpoint with as many cosignatures yet; ask again later")
        })?;
        Ok(note_of(&checkpoint))
    }

    /// Changes whenever a checkpoint or a cosignature was stored, of whatever community.
    pub(crate) fn checkpoint_signal(&self) -> watch::Receiver<()> {
        self.store.wakeups().listen(Signal::Checkpoints)
    }

    /// Node: hands in its cosignature of a checkpoint.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`; `MANIFEST_INVALID` if it has not handed in its keys; `LOG_UNKNOWN` for what is
    /// no checkpoint of this log; `SIGNATURE_INVALID`.
    pub(crate) async fn submit_cosignature(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        head: TreeHead,
        line: &str,
    ) -> Result<()> {
        let cosignature = &line
            .parse::<NoteSignature>()
            .map_err(|_| invalid("not a signature line of a note"))?;
        let checkpoint = &Checkpoint {
            origin: self.log.origin(community),
            head,
        };
        let latest = self.now().plus(CLOCK_SKEW);
        self.store
            .run_tx("put_cosignature", |tx| {
                async move {
                    let node = enrolled(tx, community, caller).await?;
                    let cosigning = statement_of(&node)?.keys.cosigning;
                    check_witness(tx, community, caller, &cosigning).await?;
                    let known = tx.get_checkpoint_of(community, head.size).await?;
                    if known.is_none_or(|known| known.root != head.root) {
                        return Err(log_unknown("the log has no such checkpoint"));
                    }
                    let key = WitnessKey::new(&self.log.trust_domain, caller.clone(), cosigning)
                        .map_err(Error::internal)?;
                    let at = key
                        .verify(checkpoint, cosignature)
                        .map_err(|error| invalid(error.to_string()))?;
                    if at > latest {
                        return Err(invalid("the cosignature's time lies ahead"));
                    }
                    let line = cosignature.to_string();
                    tx.put_cosignature(community, head.size, caller, &line)
                        .await
                }
                .scope_boxed()
            })
            .await?;
        self.store.wakeups().announce(Signal::Checkpoints);
        Ok(())
    }
}

/// Witnesses are known by the manifests alone: what is signed by a key of none counts nowhere, and no
/// auditor could tell whose it is.
async fn check_witness(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
    node: &NodeId,
    key: &VerifyingKey,
) -> Result<()> {
    for epoch in tx.get_epochs(community).await? {
        let manifest = manifest_of(&epoch)?;
        if manifest.member(node).is_ok_and(|row| row.cosigning == *key) {
            return Ok(());
        }
    }
    Err(invalid(
        "the cosigning key stands in no manifest yet: it counts from the next epoch on",
    ))
}

/// The note with its cosignatures, as many as a note may have.
pub(super) fn note_of(checkpoint: &CheckpointRecord) -> String {
    let mut note = checkpoint.note.clone();
    for line in checkpoint.cosignatures.iter().take(MAX_SIGNATURES - 1) {
        note.push_str(line);
        note.push('\n');
    }
    note
}

fn invalid(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorCode::SignatureInvalid, text).about("cosignature")
}

/// What must never be: no checkpoint is signed that does not go on from the last one.
fn changed(community: &CommunityId, at: u64) -> Error {
    Error::internal(format!(
        "the audit log of {community} is not what was signed: leaves or tiles at {at} are missing \
         or altered. The ledger was changed, or restored without all of its log; no checkpoint is \
         signed until it is put right"
    ))
}
