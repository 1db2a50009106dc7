//! What a transaction can do with follow-ups and the files that go with them (protocol §10).

use async_trait::async_trait;
use sotto_common::error::Result;
use sotto_common::ids::{AttachmentId, CommunityId, Epoch, FollowUpId, NodeId};
use sotto_common::time::Timestamp;

use super::{
    AttachmentChunk, AttachmentRecord, EpochRecord, FollowUpEvent, FollowUpEventRecord,
    FollowUpFilter, FollowUpRange, FollowUpRecord, PresenceCount, StepRecord,
};

/// Follow-ups, their steps and their events.
#[async_trait]
pub(crate) trait FollowUpTx: Send {
    async fn put_follow_up(&mut self, record: &FollowUpRecord) -> Result<()>;
    async fn get_follow_up(&mut self, id: FollowUpId) -> Result<Option<FollowUpRecord>>;
    /// Writes what steps, time and erasure change.
    async fn update_follow_up(&mut self, record: &FollowUpRecord) -> Result<()>;
    /// Follow-ups of which `node` is a party, those submitted first first, after the one that was
    /// submitted at this time and has this id.
    async fn get_follow_ups(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        filter: &FollowUpFilter,
        after: Option<(Timestamp, FollowUpId)>,
        limit: u32,
    ) -> Result<Vec<FollowUpRecord>>;
    /// Follow-ups of a requester with a holder that have not ended.
    async fn count_open_follow_ups(
        &mut self,
        community: &CommunityId,
        requester: &NodeId,
        holder: &NodeId,
    ) -> Result<u64>;
    /// Follow-ups submitted within a range, at most `limit`.
    async fn get_submitted_follow_ups(
        &mut self,
        community: &CommunityId,
        range: FollowUpRange<'_>,
        limit: u32,
    ) -> Result<Vec<FollowUpRecord>>;
    /// What holders' nodes have said of what was submitted since then, by holder and policy.
    async fn get_presence_counts(
        &mut self,
        community: &CommunityId,
        since: Option<Timestamp>,
    ) -> Result<Vec<PresenceCount>>;
    /// Follow-ups with a reminder that is due, longest due first.
    async fn get_due_reminders(
        &mut self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<FollowUpRecord>>;
    /// Follow-ups that ended at or before a time, and are not closed.
    async fn get_ended_follow_ups(
        &mut self,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<FollowUpRecord>>;
    /// Epochs with closed follow-ups whose payload is not erased.
    async fn get_epochs_with_payloads(&mut self) -> Result<Vec<(CommunityId, EpochRecord)>>;
    /// Follow-ups of an epoch that were closed at or before a time, and are not erased.
    async fn get_closed_follow_ups(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<FollowUpRecord>>;

    async fn put_step(&mut self, step: &StepRecord) -> Result<()>;
    async fn get_step(&mut self, follow_up: FollowUpId, seq: u32) -> Result<Option<StepRecord>>;
    /// The steps of a follow-up, in order.
    async fn get_steps(&mut self, follow_up: FollowUpId) -> Result<Vec<StepRecord>>;
    /// Erases the statements of a follow-up; clear parts and digests stay.
    async fn delete_statements(&mut self, follow_up: FollowUpId) -> Result<()>;

    /// Appends an event to a node's stream; returns its cursor.
    async fn put_follow_up_event(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        follow_up: FollowUpId,
        event: FollowUpEvent,
    ) -> Result<u64>;
    /// Events after `cursor`, in order, at most `limit`.
    async fn get_follow_up_events(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        cursor: u64,
        limit: u32,
    ) -> Result<Vec<FollowUpEventRecord>>;
    /// The last cursor given out to a node; 0 = none.
    async fn get_last_follow_up_cursor(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
    ) -> Result<u64>;
}

/// Files that go with an answer.
#[async_trait]
pub(crate) trait AttachmentTx: Send {
    async fn put_attachment(&mut self, attachment: &AttachmentRecord) -> Result<()>;
    async fn get_attachment(
        &mut self,
        follow_up: FollowUpId,
        id: AttachmentId,
    ) -> Result<Option<AttachmentRecord>>;
    /// The files of a follow-up, by id.
    async fn get_attachments(&mut self, follow_up: FollowUpId) -> Result<Vec<AttachmentRecord>>;
    /// Writes whether it is whole, and in the answer.
    async fn update_attachment(&mut self, attachment: &AttachmentRecord) -> Result<()>;
    /// Forgets a file that has no chunks.
    async fn delete_attachment(&mut self, follow_up: FollowUpId, id: AttachmentId) -> Result<()>;
    async fn put_attachment_chunk(
        &mut self,
        follow_up: FollowUpId,
        id: AttachmentId,
        chunk: &AttachmentChunk,
    ) -> Result<()>;
    /// The acknowledged chunks of a file, in order.
    async fn get_attachment_chunks(
        &mut self,
        follow_up: FollowUpId,
        id: AttachmentId,
    ) -> Result<Vec<AttachmentChunk>>;
    /// How many bytes of a file are acknowledged.
    async fn get_attachment_length(
        &mut self,
        follow_up: FollowUpId,
        id: AttachmentId,
    ) -> Result<u64>;
    async fn delete_attachment_chunks(
        &mut self,
        follow_up: FollowUpId,
        id: AttachmentId,
    ) -> Result<()>;
}
