//! What a transaction can do with the audit log (protocol §11).
//!
//! An entry is put by the transaction of its action, and gets its place in the tree afterwards: a
//! place given out in the action's own transaction would have all actions of a community wait for
//! each other.

use std::ops::Range;

use async_trait::async_trait;
use sotto_common::error::Result;
use sotto_common::ids::{CommunityId, EntryId, FollowUpId, HitId, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::kind::{EntryKind, Verb};
use sotto_common::log::leaf::{Leaf, Opening};
use sotto_common::log::merkle::MerkleHash;
use sotto_common::log::tile::Tile;
use sotto_common::time::Timestamp;

/// An entry to be put, with what it is found by.
#[derive(Clone, Debug)]
pub(crate) struct NewEntry {
    pub(crate) id: EntryId,
    pub(crate) community: CommunityId,
    pub(crate) action: Action,
    pub(crate) at: Timestamp,
    pub(crate) leaf: Leaf,
    pub(crate) opening: Opening,
    /// The nodes that did it, received by it, or that it is about.
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) hit: Option<HitId>,
    pub(crate) follow_up: Option<FollowUpId>,
}

/// A leaf in its place.
#[derive(Clone, Debug)]
pub(crate) struct LoggedRecord {
    pub(crate) index: u64,
    /// The leaf's bytes.
    pub(crate) leaf: Vec<u8>,
    /// None once it was erased.
    pub(crate) opening: Option<Opening>,
}

/// What entries to look for; every one that is given must hold.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct EntryFilter {
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) node: Option<NodeId>,
    pub(crate) kind: Option<EntryKind>,
    pub(crate) verb: Option<Verb>,
    pub(crate) follow_up: Option<FollowUpId>,
}

/// A checkpoint that the broker has signed, with the cosignatures that it got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CheckpointRecord {
    pub(crate) size: u64,
    pub(crate) root: MerkleHash,
    pub(crate) signed_at: Timestamp,
    /// The signed note, without cosignatures.
    pub(crate) note: String,
    /// Signature lines of witnesses, in the order of their nodes.
    pub(crate) cosignatures: Vec<String>,
}

/// The audit log.
#[async_trait]
pub(crate) trait LogTx: Send {
    /// Puts entries, in their order; they have no places yet.
    async fn put_entries(&mut self, entries: &[NewEntry]) -> Result<()>;
    /// Communities with entries that have no place yet.
    async fn get_communities_to_sequence(&mut self) -> Result<Vec<CommunityId>>;
    /// Gives the entries without a place the next ones, in the order in which they were put, at most
    /// `limit`; returns which got one.
    async fn update_places(
        &mut self,
        community: &CommunityId,
        limit: u32,
    ) -> Result<Vec<(EntryId, u64)>>;
    /// The place of an entry, once it has one and until it is erased.
    async fn get_place(&mut self, id: EntryId) -> Result<Option<u64>>;
    /// How many entries have a place.
    async fn get_log_size(&mut self, community: &CommunityId) -> Result<u64>;
    /// The leaves of a range of places, in order; fewer if there are fewer.
    async fn get_leaves(
        &mut self,
        community: &CommunityId,
        range: Range<u64>,
    ) -> Result<Vec<LoggedRecord>>;
    /// As [`LogTx::get_leaves`], place and bytes alone: what is public of them.
    async fn get_leaf_bytes(
        &mut self,
        community: &CommunityId,
        range: Range<u64>,
    ) -> Result<Vec<(u64, Vec<u8>)>>;
    /// Leaves in the range of places that the filter lets through, in order, at most `limit`.
    async fn get_entries(
        &mut self,
        community: &CommunityId,
        filter: &EntryFilter,
        range: Range<u64>,
        limit: u32,
    ) -> Result<Vec<LoggedRecord>>;
    /// The entries (of kind HIT) by which these hits were found, those that have a place.
    async fn get_hit_entries(
        &mut self,
        community: &CommunityId,
        hits: &[HitId],
    ) -> Result<Vec<(HitId, LoggedRecord)>>;
    /// Erases the openings of the next `limit` entries, at most, in the order of their places, up to the
    /// first that is not of before a time, and what they are found by; returns how many.
    async fn delete_openings(
        &mut self,
        community: &CommunityId,
        before: Timestamp,
        limit: u32,
    ) -> Result<u64>;

    /// Puts a tile, or replaces a narrower version of it.
    async fn put_tile(&mut self, community: &CommunityId, tile: Tile, bytes: &[u8]) -> Result<()>;
    /// The widest version of a tile.
    async fn get_tile(
        &mut self,
        community: &CommunityId,
        level: u8,
        index: u64,
    ) -> Result<Option<Vec<u8>>>;

    /// Communities of which the latest checkpoint, if there is one, is not of the whole log.
    async fn get_communities_to_sign(&mut self) -> Result<Vec<CommunityId>>;
    /// Adds a checkpoint, larger than any before; its cosignatures are put one by one.
    async fn put_checkpoint(
        &mut self,
        community: &CommunityId,
        checkpoint: &CheckpointRecord,
    ) -> Result<()>;
    /// The latest checkpoint with at least so many cosignatures.
    async fn get_checkpoint(
        &mut self,
        community: &CommunityId,
        cosignatures: u32,
    ) -> Result<Option<CheckpointRecord>>;
    /// The checkpoint of a size.
    async fn get_checkpoint_of(
        &mut self,
        community: &CommunityId,
        size: u64,
    ) -> Result<Option<CheckpointRecord>>;
    /// Keeps a witness's cosignature of a checkpoint; a later one replaces its earlier one.
    async fn put_cosignature(
        &mut self,
        community: &CommunityId,
        size: u64,
        node: &NodeId,
        line: &str,
    ) -> Result<()>;

    /// The name and public key of the log, in the form of its verifier key, as first used on this ledger.
    async fn get_log_identity(&mut self) -> Result<Option<String>>;
    /// Keeps them; the first ones stand.
    async fn put_log_identity(&mut self, identity: &str) -> Result<()>;
}
