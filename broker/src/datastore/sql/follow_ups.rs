//! Follow-ups, their steps and their events.

use async_trait::async_trait;
use sotto_common::error::Result;
use sotto_common::followup::codes::UrgencyGround;
use sotto_common::followup::{FollowUpState, Party};
use sotto_common::ids::{CommunityId, Epoch, FollowUpId, NodeId};
use sotto_common::time::Timestamp;
use sqlx::query;

use super::columns::{get, int, number, text};
use super::follow_up_rows::{
    Written, event_record, follow_up_record, follow_up_records, presence_count, step_record,
    written_event,
};
use super::membership::epoch_record;
use super::{EngineTx, db_error};
use crate::datastore::model::{items_text, outcomes_text};
use crate::datastore::{
    EpochRecord, FollowUpEvent, FollowUpEventRecord, FollowUpFilter, FollowUpRange, FollowUpRecord,
    FollowUpTx, PresenceCount, StepRecord,
};

#[async_trait]
impl FollowUpTx for EngineTx<'_> {
    async fn put_follow_up(&mut self, record: &FollowUpRecord) -> Result<()> {
        let follow_up = &record.follow_up;
        let terms = &follow_up.terms;
        query(
            "INSERT INTO follow_ups
                 (id, community, epoch, policy, hit, requester, holder, filter_version, matched_at,
                  posterior, time_limit, urgency, offence_code, items, submitted_at,
                  state, next_seq, last_body, overdue, statement_bytes, erased)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
                     'DRAFT', 0, $16, 0, 0, 0)",
        )
        .bind(&follow_up.id.as_bytes()[..])
        .bind(follow_up.community.as_str())
        .bind(i64::from(record.key.epoch.get()))
        .bind(record.key.policy.name())
        .bind(&follow_up.hit.as_bytes()[..])
        .bind(follow_up.requester.as_str())
        .bind(follow_up.holder.as_str())
        .bind(int(record.filter_version))
        .bind(record.matched_at.micros())
        .bind(record.posterior)
        .bind(terms.limit().as_str())
        .bind(terms.urgency().map(UrgencyGround::as_str))
        .bind(terms.offence_code())
        .bind(items_text(terms.items()))
        .bind(follow_up.milestones.submitted.map(Timestamp::micros))
        .bind(&follow_up.last_body[..])
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        self.update_follow_up(record).await
    }

    async fn get_follow_up(&mut self, id: FollowUpId) -> Result<Option<FollowUpRecord>> {
        query("SELECT * FROM follow_ups WHERE id = $1")
            .bind(&id.as_bytes()[..])
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map(|row| follow_up_record(&row))
            .transpose()
    }

    async fn update_follow_up(&mut self, record: &FollowUpRecord) -> Result<()> {
        let (follow_up, written) = (&record.follow_up, Written::of(record));
        query(
            "UPDATE follow_ups SET state = $2, next_seq = $3, last_body = $4, outcomes = $5,
                 clock_total = $6, clock_due = $7, clock_left = $8, overdue = $9, received_at = $10,
                 delayed_at = $11, ended_at = $12, closed_at = $13, presence = $14,
                 statement_bytes = $15, reminder = $16, reminder_at = $17, erased = $18
             WHERE id = $1",
        )
        .bind(&follow_up.id.as_bytes()[..])
        .bind(follow_up.state.as_str())
        .bind(i64::from(follow_up.next_seq))
        .bind(&follow_up.last_body[..])
        .bind(follow_up.outcomes.as_ref().map(outcomes_text))
        .bind(written.clock.total)
        .bind(written.clock.due)
        .bind(written.clock.left)
        .bind(i64::from(follow_up.milestones.overdue))
        .bind(follow_up.milestones.received.map(Timestamp::micros))
        .bind(follow_up.milestones.delayed.map(Timestamp::micros))
        .bind(follow_up.milestones.ended.map(Timestamp::micros))
        .bind(follow_up.milestones.closed.map(Timestamp::micros))
        .bind(written.presence)
        .bind(int(record.statement_bytes))
        .bind(written.reminder)
        .bind(written.reminder_at)
        .bind(i64::from(record.erased))
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_follow_ups(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        filter: &FollowUpFilter,
        after: Option<(Timestamp, FollowUpId)>,
        limit: u32,
    ) -> Result<Vec<FollowUpRecord>> {
        let as_party = |party| (filter.party != Some(party)).then(|| node.as_str());
        let rows = query(
            "SELECT * FROM follow_ups
             WHERE community = $1 AND (requester = $2 OR holder = $3)
               AND ($4 IS NULL OR state = $4)
               AND (submitted_at, id) > ($5, $6)
             ORDER BY submitted_at, id LIMIT $7",
        )
        .bind(community.as_str())
        .bind(as_party(Party::Holder))
        .bind(as_party(Party::Requester))
        .bind(filter.state.map(FollowUpState::as_str))
        .bind(after.map_or(i64::MIN, |(at, _)| at.micros()))
        .bind(after.map_or(vec![], |(_, id)| id.as_bytes().to_vec()))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        follow_up_records(&rows)
    }

    async fn count_open_follow_ups(
        &mut self,
        community: &CommunityId,
        requester: &NodeId,
        holder: &NodeId,
    ) -> Result<u64> {
        let row = query(
            "SELECT count(*) AS open FROM follow_ups
             WHERE community = $1 AND requester = $2 AND holder = $3
               AND state NOT IN ('ANSWERED', 'REFUSED', 'WITHDRAWN', 'CLOSED')",
        )
        .bind(community.as_str())
        .bind(requester.as_str())
        .bind(holder.as_str())
        .fetch_one(&mut *self.connection)
        .await
        .map_err(db_error)?;
        number(&row, "open")
    }

    async fn get_submitted_follow_ups(
        &mut self,
        community: &CommunityId,
        range: FollowUpRange<'_>,
        limit: u32,
    ) -> Result<Vec<FollowUpRecord>> {
        let rows = query(
            "SELECT * FROM follow_ups
             WHERE community = $1 AND ($2 IS NULL OR requester = $2 OR holder = $2)
               AND submitted_at >= $3 AND submitted_at < $4
             ORDER BY submitted_at, id LIMIT $5",
        )
        .bind(community.as_str())
        .bind(range.party.map(NodeId::as_str))
        .bind(range.from.map_or(i64::MIN, Timestamp::micros))
        .bind(range.to.map_or(i64::MAX, Timestamp::micros))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        follow_up_records(&rows)
    }

    async fn get_presence_counts(
        &mut self,
        community: &CommunityId,
        since: Option<Timestamp>,
    ) -> Result<Vec<PresenceCount>> {
        query(concat!(
            "SELECT holder, policy, count(*) AS checked,
                 count(*) FILTER (WHERE presence = 'NOT_HELD') AS not_held,
                 sum(1 - posterior) AS expected
             FROM follow_ups
             WHERE community = $1 AND submitted_at >= $2 AND presence IS NOT NULL
             GROUP BY holder, policy
             ORDER BY ",
            bytewise!("holder"),
            ", ",
            bytewise!("policy")
        ))
        .bind(community.as_str())
        .bind(since.map_or(i64::MIN, Timestamp::micros))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(presence_count)
        .collect()
    }

    async fn get_due_reminders(
        &mut self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<FollowUpRecord>> {
        let rows = query(
            "SELECT * FROM follow_ups WHERE reminder_at IS NOT NULL AND reminder_at <= $1
             ORDER BY reminder_at LIMIT $2",
        )
        .bind(now.micros())
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        follow_up_records(&rows)
    }

    async fn get_ended_follow_ups(
        &mut self,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<FollowUpRecord>> {
        let rows = query(
            "SELECT * FROM follow_ups
             WHERE state IN ('ANSWERED', 'REFUSED', 'WITHDRAWN') AND ended_at <= $1
             ORDER BY ended_at LIMIT $2",
        )
        .bind(until.micros())
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        follow_up_records(&rows)
    }

    async fn get_epochs_with_payloads(&mut self) -> Result<Vec<(CommunityId, EpochRecord)>> {
        query(
            "SELECT * FROM epochs
             WHERE EXISTS (SELECT 1 FROM follow_ups
                           WHERE follow_ups.community = epochs.community
                             AND follow_ups.epoch = epochs.epoch
                             AND follow_ups.state = 'CLOSED' AND follow_ups.erased = 0)",
        )
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| Ok((text(row, "community")?, epoch_record(row)?)))
        .collect()
    }

    async fn get_closed_follow_ups(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<FollowUpRecord>> {
        let rows = query(
            "SELECT * FROM follow_ups
             WHERE community = $1 AND epoch = $2 AND state = 'CLOSED' AND erased = 0
               AND closed_at <= $3
             ORDER BY closed_at LIMIT $4",
        )
        .bind(community.as_str())
        .bind(i64::from(epoch.get()))
        .bind(until.micros())
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        follow_up_records(&rows)
    }

    async fn put_step(&mut self, step: &StepRecord) -> Result<()> {
        query(
            "INSERT INTO follow_up_steps (follow_up, seq, body, clear, envelope, taken_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&step.follow_up.as_bytes()[..])
        .bind(i64::from(step.seq))
        .bind(&step.body[..])
        .bind(&step.clear)
        .bind(step.envelope.as_deref())
        .bind(step.taken_at.micros())
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_step(&mut self, follow_up: FollowUpId, seq: u32) -> Result<Option<StepRecord>> {
        query("SELECT * FROM follow_up_steps WHERE follow_up = $1 AND seq = $2")
            .bind(&follow_up.as_bytes()[..])
            .bind(i64::from(seq))
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map(|row| step_record(&row))
            .transpose()
    }

    async fn get_steps(&mut self, follow_up: FollowUpId) -> Result<Vec<StepRecord>> {
        query("SELECT * FROM follow_up_steps WHERE follow_up = $1 ORDER BY seq")
            .bind(&follow_up.as_bytes()[..])
            .fetch_all(&mut *self.connection)
            .await
            .map_err(db_error)?
            .iter()
            .map(step_record)
            .collect()
    }

    async fn delete_statements(&mut self, follow_up: FollowUpId) -> Result<()> {
        query("UPDATE follow_up_steps SET envelope = NULL WHERE follow_up = $1")
            .bind(&follow_up.as_bytes()[..])
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        Ok(())
    }

    async fn put_follow_up_event(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        follow_up: FollowUpId,
        event: FollowUpEvent,
    ) -> Result<u64> {
        // As with hits: without gaps, and in the order of commit.
        let row = query(
            "INSERT INTO follow_up_cursors (community, node, last) VALUES ($1, $2, 1)
             ON CONFLICT (community, node) DO UPDATE SET last = follow_up_cursors.last + 1
             RETURNING last",
        )
        .bind(community.as_str())
        .bind(node.as_str())
        .fetch_one(&mut *self.connection)
        .await
        .map_err(db_error)?;
        let cursor = number(&row, "last")?;
        let (kind, value) = written_event(event);
        query(
            "INSERT INTO follow_up_events (community, node, cursor, follow_up, kind, value)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(community.as_str())
        .bind(node.as_str())
        .bind(int(cursor))
        .bind(&follow_up.as_bytes()[..])
        .bind(kind)
        .bind(value)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(cursor)
    }

    async fn get_follow_up_events(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        cursor: u64,
        limit: u32,
    ) -> Result<Vec<FollowUpEventRecord>> {
        query(
            "SELECT * FROM follow_up_events
             WHERE community = $1 AND node = $2 AND cursor > $3
             ORDER BY cursor LIMIT $4",
        )
        .bind(community.as_str())
        .bind(node.as_str())
        .bind(int(cursor))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(event_record)
        .collect()
    }

    async fn get_last_follow_up_cursor(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
    ) -> Result<u64> {
        let row = query("SELECT last FROM follow_up_cursors WHERE community = $1 AND node = $2")
            .bind(community.as_str())
            .bind(node.as_str())
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?;
        row.map_or(Ok(0), |row| get(&row, "last").map(i64::cast_unsigned))
    }
}
