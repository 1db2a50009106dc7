//! Rows of follow-ups, both ways.

use sotto_common::error::Result;
use sotto_common::followup::FollowUpState;
use sotto_common::followup::record::{FollowUp, Milestones};
use sotto_common::ids::{FollowUpId, HitId};
use sotto_common::time::Timestamp;

use super::EngineRow;
use super::columns::{blob, bytes, get, number, text, time};
use super::publications::stack_key;
use crate::datastore::model::{ClockColumns, corrupt, outcomes, terms};
use crate::datastore::{
    FollowUpEvent, FollowUpEventRecord, FollowUpRecord, Presence, PresenceCount, StateColumn as _,
    StepRecord,
};

/// Columns that are no field by themselves.
pub(super) struct Written {
    pub(super) clock: ClockColumns,
    pub(super) presence: Option<&'static str>,
    pub(super) reminder: Option<i64>,
    pub(super) reminder_at: Option<i64>,
}

impl Written {
    pub(super) fn of(record: &FollowUpRecord) -> Self {
        Self {
            clock: ClockColumns::of(&record.follow_up),
            presence: record.presence.map(|presence| match presence {
                Presence::Held => "HELD",
                Presence::NotHeld => "NOT_HELD",
            }),
            reminder: record.reminder.map(|(percent, _)| percent.into()),
            reminder_at: record.reminder.map(|(_, at)| at.micros()),
        }
    }
}

pub(super) fn follow_up_records(rows: &[EngineRow]) -> Result<Vec<FollowUpRecord>> {
    rows.iter().map(follow_up_record).collect()
}

pub(super) fn follow_up_record(row: &EngineRow) -> Result<FollowUpRecord> {
    let key = stack_key(row)?;
    let clock = ClockColumns {
        total: get(row, "clock_total")?,
        due: get(row, "clock_due")?,
        left: get(row, "clock_left")?,
    };
    let written: Option<&str> = get(row, "outcomes")?;
    let follow_up = FollowUp {
        id: blob(row, "id", FollowUpId::from_slice)?,
        community: key.community.clone(),
        hit: blob(row, "hit", HitId::from_slice)?,
        requester: text(row, "requester")?,
        holder: text(row, "holder")?,
        terms: terms(
            get(row, "time_limit")?,
            get(row, "urgency")?,
            get(row, "offence_code")?,
            get(row, "items")?,
        )?,
        state: FollowUpState::from_column(get(row, "state")?)?,
        next_seq: number(row, "next_seq")?,
        last_body: bytes(row, "last_body")?,
        clock: clock.clock()?,
        outcomes: written.map(outcomes).transpose()?,
        milestones: Milestones {
            submitted: Some(time(row, "submitted_at")?),
            received: optional_time(row, "received_at")?,
            delayed: optional_time(row, "delayed_at")?,
            ended: optional_time(row, "ended_at")?,
            closed: optional_time(row, "closed_at")?,
            overdue: flag(row, "overdue")?,
        },
    };
    let percent: Option<i64> = get(row, "reminder")?;
    let percent = percent.map(|percent| u8::try_from(percent).map_err(|_| corrupt("reminder")));
    Ok(FollowUpRecord {
        follow_up,
        key,
        filter_version: number(row, "filter_version")?,
        matched_at: time(row, "matched_at")?,
        posterior: get(row, "posterior")?,
        presence: presence(row)?,
        statement_bytes: number(row, "statement_bytes")?,
        reminder: percent.transpose()?.zip(optional_time(row, "reminder_at")?),
        erased: flag(row, "erased")?,
    })
}

fn presence(row: &EngineRow) -> Result<Option<Presence>> {
    match get::<Option<&str>>(row, "presence")? {
        None => Ok(None),
        Some("HELD") => Ok(Some(Presence::Held)),
        Some("NOT_HELD") => Ok(Some(Presence::NotHeld)),
        Some(_) => Err(corrupt("presence")),
    }
}

fn optional_time(row: &EngineRow, column: &'static str) -> Result<Option<Timestamp>> {
    let micros: Option<i64> = get(row, column)?;
    Ok(micros.map(Timestamp::from_micros))
}

/// Reads 0 or 1.
pub(super) fn flag(row: &EngineRow, column: &'static str) -> Result<bool> {
    match get::<i64>(row, column)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(corrupt(column)),
    }
}

pub(super) fn step_record(row: &EngineRow) -> Result<StepRecord> {
    Ok(StepRecord {
        follow_up: blob(row, "follow_up", FollowUpId::from_slice)?,
        seq: number(row, "seq")?,
        body: bytes(row, "body")?,
        clear: get(row, "clear")?,
        envelope: get(row, "envelope")?,
        taken_at: time(row, "taken_at")?,
    })
}

pub(super) fn presence_count(row: &EngineRow) -> Result<PresenceCount> {
    Ok(PresenceCount {
        holder: text(row, "holder")?,
        policy: text(row, "policy")?,
        checked: number(row, "checked")?,
        not_held: number(row, "not_held")?,
        expected: get(row, "expected")?,
    })
}

/// The columns `kind` and `value`.
pub(super) fn written_event(event: FollowUpEvent) -> (&'static str, i64) {
    match event {
        FollowUpEvent::Step(seq) => ("STEP", seq.into()),
        FollowUpEvent::Reminder(percent) => ("REMINDER", percent.into()),
        FollowUpEvent::Closed(at) => ("CLOSED", at.micros()),
        FollowUpEvent::Erased(at) => ("ERASED", at.micros()),
    }
}

pub(super) fn event_record(row: &EngineRow) -> Result<FollowUpEventRecord> {
    let event = match get::<&str>(row, "kind")? {
        "STEP" => FollowUpEvent::Step(number(row, "value")?),
        "REMINDER" => FollowUpEvent::Reminder(number(row, "value")?),
        "CLOSED" => FollowUpEvent::Closed(time(row, "value")?),
        "ERASED" => FollowUpEvent::Erased(time(row, "value")?),
        _ => return Err(corrupt("kind")),
    };
    Ok(FollowUpEventRecord {
        cursor: number(row, "cursor")?,
        follow_up: blob(row, "follow_up", FollowUpId::from_slice)?,
        event,
    })
}
