//! Follow-ups as rows: columns, codes, and the time that is left.

use sotto_common::ids::{AttachmentId, FollowUpId, HitId};
use sotto_common::time::Timestamp;
use sotto_proto::{convert, v1};

use crate::cli::render::{Cell, Tone};

/// The columns of a follow-up.
pub(super) const FOLLOW_UP: &[&str] = &[
    "follow_up",
    "side",
    "with",
    "state",
    "time_left",
    "due_at",
    "time_limit",
    "policy",
    "hit",
    "case_ref",
    "waits_for_approval",
    "remarks",
    "next_action",
];

/// The cells of a follow-up, in the order of [`FOLLOW_UP`].
pub(super) fn cells(node: &v1::NodeFollowUp, now: Timestamp) -> Vec<Cell> {
    let follow_up = node.follow_up.clone().unwrap_or_default();
    let terms = follow_up.terms.clone().unwrap_or_default();
    let due = follow_up.clock.as_ref().and_then(|clock| clock.due_at);
    let proposed = node.proposal.as_ref().map(|p| step(p.step()));
    vec![
        Cell::new(follow_up_id(&follow_up.follow_up_id)),
        Cell::new(party(node.side())),
        Cell::new(counterpart(node)),
        Cell::new(state(follow_up.state())),
        time_left(&follow_up, now),
        Cell::time(due.and_then(|due| convert::timestamp("at", Some(due)).ok())),
        Cell::new(time_limit(terms.time_limit())),
        Cell::new(follow_up.policy.as_str()),
        Cell::new(hit_id(&follow_up.hit_id)),
        Cell::new(node.case_ref.as_str()),
        Cell::new(proposed.unwrap_or_default()),
        Cell::texts(&remarks(node, &follow_up)),
        Cell::new(node.next_action.as_str()),
    ]
}

/// What a person should know before anything else.
fn remarks(node: &v1::NodeFollowUp, follow_up: &v1::FollowUp) -> Vec<String> {
    let mut remarks: Vec<String> = [
        (!node.alarm.is_empty(), "ALARM"),
        (
            node.presence() == v1::PresenceState::ProofWrong,
            "proof of presence wrong",
        ),
        (follow_up.overdue, "overdue"),
        (node.unread, "unread"),
        (node.step_pending, "on its way to the broker"),
        (follow_up.erased, "erased"),
    ]
    .into_iter()
    .filter(|(holds, _)| *holds)
    .map(|(_, remark)| remark.to_owned())
    .collect();
    if follow_up
        .terms
        .as_ref()
        .is_some_and(|t| t.urgency_ground != 0)
    {
        remarks.insert(0, "urgent".into());
    }
    remarks
}

/// The other node.
pub(super) fn counterpart(node: &v1::NodeFollowUp) -> String {
    let follow_up = node.follow_up.clone().unwrap_or_default();
    match node.side() {
        v1::FollowUpParty::Holder => follow_up.requester,
        _ => follow_up.holder,
    }
}

/// Seconds that are left, less than none if it is overdue; for people in words.
pub(super) fn time_left(follow_up: &v1::FollowUp, now: Timestamp) -> Cell {
    let Some(clock) = &follow_up.clock else {
        return Cell::in_words(None::<i64>, "");
    };
    if follow_up.ended_at.is_some() || follow_up.closed_at.is_some() {
        let words = if follow_up.overdue {
            "limit exceeded"
        } else {
            ""
        };
        return Cell::in_words(None::<i64>, words);
    }
    let Ok(due) = convert::timestamp("due_at", clock.due_at) else {
        let left = clock.left.as_ref().map_or(0, |left| left.seconds.max(0));
        let words = match left {
            0 => "stopped, overdue".to_owned(),
            left => format!("stopped, {} left", words(left)),
        };
        return Cell::in_words(left, words).toned(Tone::Warning);
    };
    let left = due.seconds() - now.seconds();
    let total = clock.total.as_ref().map_or(0, |total| total.seconds);
    let tone = match left {
        ..0 => Tone::Bad,
        _ if left < total / 5 => Tone::Warning,
        _ => Tone::Plain,
    };
    let words = match left {
        ..0 => format!("overdue by {}", words(-left)),
        _ => format!("{} left", words(left)),
    };
    Cell::in_words(left, words).toned(tone)
}

/// A time in its two largest units: `2 days 3 h`.
pub(super) fn words(seconds: i64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let minutes = seconds / 60 % 60;
    let unit = |n: i64, unit: &str| {
        if n == 0 {
            String::new()
        } else {
            format!(" {n} {unit}")
        }
    };
    match (days, hours, minutes) {
        (0, 0, 0) => "less than a minute".into(),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h{}", unit(minutes, "min")),
        (1, hours, _) => format!("1 day{}", unit(hours, "h")),
        (days, hours, _) => format!("{days} days{}", unit(hours, "h")),
    }
}

/// An instant, if there is one.
pub(super) fn time(at: Option<prost_types::Timestamp>) -> Option<String> {
    let at = convert::timestamp("at", at).ok();
    at.map(|at| at.to_string())
}

/// An instant for people; empty if there is none.
pub(super) fn shown_time(at: Option<prost_types::Timestamp>) -> String {
    time(at).unwrap_or_default()
}

/// An id as people write it.
pub(super) fn follow_up_id(bytes: &[u8]) -> String {
    FollowUpId::from_slice(bytes).map_or_else(|_| hex::encode(bytes), |id| id.to_string())
}

/// The same of a hit.
pub(super) fn hit_id(bytes: &[u8]) -> String {
    HitId::from_slice(bytes).map_or_else(|_| hex::encode(bytes), |id| id.to_string())
}

/// The same of an attachment.
pub(super) fn attachment_id(bytes: &[u8]) -> String {
    AttachmentId::from_slice(bytes).map_or_else(|_| hex::encode(bytes), |id| id.to_string())
}

/// The same of a proposal.
pub(super) fn proposal_id(bytes: &[u8]) -> String {
    uuid::Uuid::from_slice(bytes).map_or_else(|_| hex::encode(bytes), |id| id.to_string())
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident: $wire:ident, $prefix:literal;)*) => {
        $($(#[$doc])*
        pub(super) fn $name(code: v1::$wire) -> &'static str {
            without(code.as_str_name(), $prefix)
        })*
    };
}

/// A code without the prefix of its enum; empty if it is not given.
fn without(name: &'static str, prefix: &str) -> &'static str {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => "",
        code => code,
    }
}

codes! {
    /// A state.
    state: FollowUpState, "FOLLOW_UP_STATE_";
    /// A step.
    step: FollowUpStep, "FOLLOW_UP_STEP_";
    /// A side.
    party: FollowUpParty, "FOLLOW_UP_PARTY_";
    /// News.
    news: FollowUpNews, "FOLLOW_UP_NEWS_";
    /// A time limit.
    time_limit: TimeLimit, "TIME_LIMIT_";
    /// A ground of urgency.
    urgency: UrgencyGround, "URGENCY_GROUND_";
    /// An item.
    item: FollowUpItem, "FOLLOW_UP_ITEM_";
    /// What becomes of an item.
    item_state: ItemState, "ITEM_STATE_";
    /// A ground of refusal.
    refusal: RefusalGround, "REFUSAL_GROUND_";
    /// The part of a person.
    role: PersonRole, "PERSON_ROLE_";
    /// A purpose.
    purpose: Purpose, "PURPOSE_";
    /// A legal basis.
    basis: LegalBasis, "LEGAL_BASIS_";
    /// A handling code.
    handling: HandlingCode, "HANDLING_CODE_";
    /// Fact or assessment.
    nature: Nature, "NATURE_";
    /// Where the proof of presence stands.
    presence: PresenceState, "PRESENCE_STATE_";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_its_two_largest_units() {
        for (seconds, expected) in [
            (0, "less than a minute"),
            (59, "less than a minute"),
            (60, "1 min"),
            (3_600, "1 h"),
            (5 * 3_600 + 20 * 60 + 59, "5 h 20 min"),
            (86_400, "1 day"),
            (86_400 + 3_600, "1 day 1 h"),
            (2 * 86_400 + 3 * 3_600 + 1_800, "2 days 3 h"),
            (7 * 86_400, "7 days"),
        ] {
            assert_eq!(words(seconds), expected);
        }
    }

    #[test]
    fn the_time_that_is_left_runs_stands_or_is_over() {
        let now = Timestamp::from_seconds(1_000_000);
        let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
        let with = |due: Option<i64>, left: Option<i64>| v1::FollowUp {
            clock: Some(v1::FollowUpClock {
                total: Some(seconds(28_800)),
                due_at: due.map(|at| convert::to_timestamp(Timestamp::from_seconds(at))),
                left: left.map(seconds),
            }),
            ..Default::default()
        };
        let shown = |follow_up: &v1::FollowUp| time_left(follow_up, now).shown();
        assert_eq!(shown(&v1::FollowUp::default()), "");
        assert_eq!(shown(&with(Some(1_018_000), None)), "5 h left");
        assert_eq!(
            shown(&with(Some(1_000_000 - 18_000), None)),
            "overdue by 5 h"
        );
        assert_eq!(shown(&with(None, Some(3_600))), "stopped, 1 h left");
        assert_eq!(shown(&with(None, Some(0))), "stopped, overdue");
        let mut ended = with(None, Some(0));
        ended.ended_at = Some(convert::to_timestamp(now));
        assert_eq!(shown(&ended), "");
        ended.overdue = true;
        assert_eq!(shown(&ended), "limit exceeded");
    }

    #[test]
    fn a_follow_up_has_a_cell_for_every_column() {
        let node = v1::NodeFollowUp {
            follow_up: Some(v1::FollowUp {
                requester: "nl-fiu".into(),
                holder: "de-bka".into(),
                overdue: true,
                ..Default::default()
            }),
            side: v1::FollowUpParty::Holder.into(),
            unread: true,
            alarm: "the proof is wrong".into(),
            ..Default::default()
        };
        let row = cells(&node, Timestamp::from_seconds(0));
        assert_eq!(row.len(), FOLLOW_UP.len());
        assert_eq!(row[2].shown(), "nl-fiu");
        assert_eq!(row[11].shown(), "ALARM, overdue, unread");
    }
}
