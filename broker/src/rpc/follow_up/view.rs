//! What is shown of follow-ups.

use prost::Message as _;
use sotto_common::error::{Error, Result};
use sotto_common::ids::CommunityId;
use sotto_common::time::Timestamp;
use sotto_proto::convert::to_timestamp;
use sotto_proto::v1;
use sotto_proto::v1::watch_follow_ups_response::Event;

use crate::app::{EventView, PresenceRate};
use crate::datastore::{AttachmentRecord, FollowUpEvent, FollowUpRecord, StepRecord};

pub(super) fn follow_up_of(record: &FollowUpRecord, now: Timestamp) -> v1::FollowUp {
    let follow_up = &record.follow_up;
    let times = &follow_up.milestones;
    v1::FollowUp {
        follow_up_id: follow_up.id.as_bytes().to_vec().into(),
        community: follow_up.community.to_string(),
        hit_id: follow_up.hit.as_bytes().to_vec().into(),
        epoch: record.key.epoch.get(),
        policy: record.key.policy.name().to_owned(),
        requester: follow_up.requester.to_string(),
        holder: follow_up.holder.to_string(),
        filter_version: record.filter_version,
        matched_at: Some(to_timestamp(record.matched_at)),
        state: v1::FollowUpState::from(follow_up.state).into(),
        next_seq: follow_up.next_seq,
        last_body: follow_up.last_body.to_vec().into(),
        terms: Some((&follow_up.terms).into()),
        clock: follow_up.clock.as_ref().map(Into::into),
        overdue: follow_up.is_overdue(now),
        submitted_at: times.submitted.map(to_timestamp),
        received_at: times.received.map(to_timestamp),
        ended_at: times.ended.map(to_timestamp),
        closed_at: times.closed.map(to_timestamp),
        erased: record.erased,
    }
}

/// A step as it was taken, without its statement once that is erased.
pub(super) fn step_of(step: &StepRecord) -> Result<v1::FollowUpStepRecord> {
    let statement = step.envelope.as_deref();
    let statement = statement.map(|bytes| v1::DsseEnvelope::decode(bytes).map_err(Error::internal));
    Ok(v1::FollowUpStepRecord {
        seq: step.seq,
        statement: statement.transpose()?,
        taken_at: Some(to_timestamp(step.taken_at)),
        body_digest: step.body.to_vec().into(),
    })
}

pub(super) fn event_of(view: &EventView) -> Result<v1::WatchFollowUpsResponse> {
    let event = match view.event {
        FollowUpEvent::Step(_) => {
            let step = view.step.as_ref();
            let step =
                step.ok_or_else(|| Error::internal("an event of a step that is not kept"))?;
            Event::Step(step_of(step)?)
        }
        FollowUpEvent::Reminder(percent) => Event::ReminderPercent(percent.into()),
        FollowUpEvent::Closed(at) => Event::ClosedByTime(to_timestamp(at)),
        FollowUpEvent::Erased(at) => Event::Erased(to_timestamp(at)),
    };
    Ok(v1::WatchFollowUpsResponse {
        cursor: view.cursor,
        follow_up: Some(follow_up_of(&view.record, view.now)),
        event: Some(event),
    })
}

/// What a file was announced with.
pub(super) fn announced_of(
    community: &CommunityId,
    record: &AttachmentRecord,
) -> v1::CreateAttachmentRequest {
    let (kem, kdf, aead) = record.suite;
    v1::CreateAttachmentRequest {
        community: community.to_string(),
        clear: record.clear.clone().into(),
        kem: kem.into(),
        kdf: kdf.into(),
        aead: aead.into(),
        enc: record.enc.clone().into(),
        digest: record.digest.to_vec().into(),
    }
}

pub(super) fn presence_rate_of(rate: &PresenceRate) -> v1::PresenceRate {
    v1::PresenceRate {
        holder: rate.count.holder.to_string(),
        policy: rate.count.policy.name().to_owned(),
        checked: rate.count.checked,
        not_held: rate.count.not_held,
        expected: rate.count.expected,
        probability: rate.probability,
        raised: rate.raised,
    }
}
