//! What a transaction can do with the hit ledger (protocol §7).

use std::collections::HashMap;

use async_trait::async_trait;
use sotto_common::error::Result;
use sotto_common::ids::{CommunityId, Epoch, HitId, NodeId, RecordRef};
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;

use super::{
    EpochRecord, FeedbackRecord, GuardKey, HitEventRecord, HitFilter, HitRecord, HitStatistic,
    LabelledHit, StackKey,
};

/// The hit ledger (protocol §7).
#[async_trait]
pub(crate) trait HitTx: Send {
    /// Adds hits, and counts them for the flood guard on the day on which they were first seen. One
    /// statement for each run of them that differ in nothing but id, ref and version.
    async fn put_hits(&mut self, hits: &[HitRecord]) -> Result<()>;
    /// The hits of a prober under one policy and epoch that stand on one of `refs`.
    async fn get_hits_on(
        &mut self,
        key: &StackKey,
        prober: &NodeId,
        refs: &[RecordRef],
    ) -> Result<Vec<HitRecord>>;
    /// The refs of a prober under one policy and epoch on which hits stand, each at least once, in
    /// their order after `after`, at most `limit`.
    async fn get_refs_with_hits(
        &mut self,
        key: &StackKey,
        prober: &NodeId,
        after: Option<RecordRef>,
        limit: u32,
    ) -> Result<Vec<RecordRef>>;
    /// A hit of `prober`.
    async fn get_hit(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
        id: HitId,
    ) -> Result<Option<LabelledHit>>;
    /// Hits of `prober` after `after`, in the order of their ids, quarantined ones left out.
    async fn get_hits(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
        filter: &HitFilter,
        after: Option<HitId>,
        limit: u32,
    ) -> Result<Vec<LabelledHit>>;
    /// Hits were seen again, or changed state. One statement for each run of them that have become
    /// alike in all that can change.
    async fn update_hits(&mut self, hits: &[HitRecord]) -> Result<()>;
    /// Epochs with hits that can expire, ended ones too.
    async fn get_epochs_with_open_hits(&mut self) -> Result<Vec<(CommunityId, EpochRecord)>>;
    /// Hits of an epoch that can expire and were last touched before `before`, at most `limit`.
    async fn get_untouched_hits(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<HitRecord>>;
    /// Keeps a decision that was taken.
    async fn put_feedback(&mut self, feedback: &FeedbackRecord) -> Result<()>;
    /// The decisions about a hit that were taken, in order.
    async fn get_feedback(&mut self, hit: HitId) -> Result<Vec<FeedbackRecord>>;
    /// How hits fared that were first seen since then, quarantined ones left out, at most `limit`
    /// rows; by prober, holder, policy, epoch and version.
    async fn get_hit_statistics(
        &mut self,
        community: &CommunityId,
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<HitStatistic>>;
    /// Hits in quarantine, by group.
    async fn count_quarantine(&mut self, community: &CommunityId) -> Result<Vec<(GuardKey, u64)>>;
    /// The hits in quarantine of one group, at most `limit`.
    async fn get_quarantined(
        &mut self,
        community: &CommunityId,
        group: &GuardKey,
        limit: u32,
    ) -> Result<Vec<HitRecord>>;
    /// New hits of a prober in one policy on one day, by holder.
    async fn get_hit_counts(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
        policy: Policy,
        day: i64,
    ) -> Result<HashMap<NodeId, u64>>;
    /// New hits on a holder's filters on the days `from..before`.
    async fn get_holder_counts(
        &mut self,
        community: &CommunityId,
        holder: &NodeId,
        from: i64,
        before: i64,
    ) -> Result<Vec<(GuardKey, u64)>>;
    /// Appends an event for each of these hits to the prober's stream; returns the cursor of the last.
    async fn put_hit_events(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
        hits: &[HitId],
    ) -> Result<u64>;
    /// Events after `cursor`, in order, at most `limit`, each with the hit as it stands now.
    async fn get_hit_events(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
        cursor: u64,
        limit: u32,
    ) -> Result<Vec<HitEventRecord>>;
    /// The refs of the hits that events after `cursor` are about, up to and with `last`.
    async fn get_event_refs(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
        cursor: u64,
        last: u64,
    ) -> Result<Vec<RecordRef>>;
    /// The last cursor given out to a prober; 0 = none.
    async fn get_last_cursor(&mut self, community: &CommunityId, prober: &NodeId) -> Result<u64>;
}
