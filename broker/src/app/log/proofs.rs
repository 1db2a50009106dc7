//! Proofs: that a leaf is in a tree, and that a tree is the beginning of another (protocol §11).

use std::collections::BTreeSet;

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::ids::{CommunityId, FollowUpId, HitId, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::merkle::MerkleHash;
use sotto_common::log::proof::ProofPlan;
use sotto_proto::convert::log::read_entry;

use super::reading::{is_shown, length_of};
use super::{leaf_unknown, signed_size, tile_set};
use crate::app::membership::may_read;
use crate::app::{Broker, enrolled};
use crate::datastore::{EntryFilter, LoggedRecord, Tx};

/// Steps of a follow-up that are proved in one answer; a follow-up has fewer.
const MAX_STEPS: usize = 256;

/// Bytes of their entries, beside which their proofs have room: messages have a bound (protocol
/// §12). Steps of people are far below it.
const MAX_ANSWER: usize = 3 * 1024 * 1024;

/// Entries that are looked at in one query.
const AT_A_TIME: u32 = 500;

/// A leaf, and that it is in the tree.
#[derive(Clone, Debug)]
pub(crate) struct Proved {
    pub(crate) record: LoggedRecord,
    pub(crate) hashes: Vec<MerkleHash>,
}

impl Broker {
    /// That a leaf is in the tree of `size` leaves; `member` must be enrolled, if one asks.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`; `LEAF_UNKNOWN` for an index or a size beyond the latest checkpoint.
    pub(crate) async fn prove_inclusion(
        &self,
        member: Option<&NodeId>,
        community: &CommunityId,
        index: u64,
        size: u64,
    ) -> Result<Proved> {
        self.store
            .read_tx("prove_inclusion", |tx| {
                async move {
                    may_read(tx, community, member).await?;
                    check_size(tx, community, size).await?;
                    let plan = ProofPlan::inclusion(index, size).ok_or_else(leaf_unknown)?;
                    let hashes = prove(tx, community, &plan).await?;
                    let mut leaves = tx.get_leaves(community, index..index + 1).await?;
                    let record = leaves.pop().ok_or_else(leaf_unknown)?;
                    Ok(Proved { record, hashes })
                }
                .scope_boxed()
            })
            .await
    }

    /// That the tree of `from` leaves is the beginning of the one of `to` leaves.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`; `LEAF_UNKNOWN` for sizes beyond the latest checkpoint, or the larger first.
    pub(crate) async fn prove_consistency(
        &self,
        member: Option<&NodeId>,
        community: &CommunityId,
        from: u64,
        to: u64,
    ) -> Result<Vec<MerkleHash>> {
        self.store
            .read_tx("prove_consistency", |tx| {
                async move {
                    may_read(tx, community, member).await?;
                    check_size(tx, community, to).await?;
                    let plan = ProofPlan::consistency(from, to).ok_or_else(leaf_unknown)?;
                    prove(tx, community, &plan).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Prober: the entries of its own hits that the tree of `size` leaves has, in the order of the
    /// question, each with its proof.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`; `LEAF_UNKNOWN` for a size beyond the latest checkpoint.
    pub(crate) async fn prove_hits(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        hits: &[HitId],
        size: u64,
    ) -> Result<Vec<Proved>> {
        self.store
            .read_tx("prove_hits", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    check_size(tx, community, size).await?;
                    let found = tx.get_hit_entries(community, hits).await?;
                    let mut own = Vec::new();
                    for hit in hits {
                        let entry = found.iter().find(|(id, _)| id == hit);
                        let Some((_, record)) = entry else { continue };
                        let Some(plan) = ProofPlan::inclusion(record.index, size) else {
                            continue;
                        };
                        if is_shown(tx, community, caller, record).await? {
                            own.push((record.clone(), plan));
                        }
                    }
                    prove_all(tx, community, own).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Party: the entries of the steps of its follow-up that the tree of `size` leaves has, in the
    /// order of the log, each with its proof. None for a follow-up of others.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`; `LEAF_UNKNOWN` for a size beyond the latest checkpoint.
    pub(crate) async fn prove_follow_up(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        follow_up: FollowUpId,
        size: u64,
    ) -> Result<Vec<Proved>> {
        self.store
            .read_tx("prove_follow_up", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    check_size(tx, community, size).await?;
                    let steps = steps_of(tx, community, caller, follow_up, size).await?;
                    prove_all(tx, community, steps).await
                }
                .scope_boxed()
            })
            .await
    }
}

/// The steps of a follow-up that stand below `size` and that the caller may read. A file that is
/// kept has an entry of the same kind and verb, and is passed over.
async fn steps_of(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
    caller: &NodeId,
    follow_up: FollowUpId,
    size: u64,
) -> Result<Vec<(LoggedRecord, ProofPlan)>> {
    let filter = &EntryFilter {
        kind: Some(Action::TakeStep.kind()),
        verb: Some(Action::TakeStep.verb()),
        follow_up: Some(follow_up),
        ..EntryFilter::default()
    };
    let (mut steps, mut bytes, mut next) = (Vec::new(), 0, 0);
    loop {
        let range = next..size;
        let found = tx.get_entries(community, filter, range, AT_A_TIME).await?;
        let is_last = found.len() < AT_A_TIME as usize;
        for record in found {
            next = record.index + 1;
            let Some(plan) = ProofPlan::inclusion(record.index, size) else {
                continue;
            };
            let length = length_of(&record);
            let fits = steps.len() < MAX_STEPS && bytes + length <= MAX_ANSWER;
            if fits && is_step(&record)? && is_shown(tx, community, caller, &record).await? {
                bytes += length;
                steps.push((record, plan));
            }
        }
        if is_last {
            return Ok(steps);
        }
    }
}

/// Whether it is the entry of a step; one whose opening was erased does not say.
fn is_step(record: &LoggedRecord) -> Result<bool> {
    let Some(opening) = &record.opening else {
        return Ok(false);
    };
    let entry = read_entry(opening.entry()).map_err(Error::internal)?;
    Ok(entry.action == Action::TakeStep)
}

async fn check_size(tx: &mut (dyn Tx + '_), community: &CommunityId, size: u64) -> Result<()> {
    if size > signed_size(tx, community).await? {
        return Err(leaf_unknown());
    }
    Ok(())
}

/// Reads the tiles of a proof, and makes it.
///
/// # Errors
/// If the ledger cannot be read, or its tiles are none of the tree.
pub(crate) async fn prove(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
    plan: &ProofPlan,
) -> Result<Vec<MerkleHash>> {
    let tiles = tile_set(tx, community, &plan.tiles()).await?;
    plan.prove(&tiles).map_err(Error::internal)
}

/// Reads each tile once: the upper ones are in every proof.
async fn prove_all(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
    plans: Vec<(LoggedRecord, ProofPlan)>,
) -> Result<Vec<Proved>> {
    let tiles: BTreeSet<_> = plans.iter().flat_map(|(_, plan)| plan.tiles()).collect();
    let tiles: Vec<_> = tiles.into_iter().collect();
    let tiles = &tile_set(tx, community, &tiles).await?;
    let proved = plans.into_iter().map(|(record, plan)| {
        let hashes = plan.prove(tiles).map_err(Error::internal)?;
        Ok(Proved { record, hashes })
    });
    proved.collect()
}
