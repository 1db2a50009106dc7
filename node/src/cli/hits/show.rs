//! `hits show`: one hit with its whole story.

use std::io::{self, Write};

use serde_json::{Value, json};
use sotto_common::error::Result;
use sotto_common::time::Timestamp;
use sotto_proto::{convert, v1};

use super::super::members::code;
use super::super::render::{Cell, Output, printable, record};
use super::{HIT, cells, handling_code, hit_id, latest, odds};

/// What is printed but for people: the columns of a hit, and its story.
const STORY: &[&str] = &[
    HIT[0],
    HIT[1],
    HIT[2],
    HIT[3],
    HIT[4],
    HIT[5],
    HIT[6],
    HIT[7],
    HIT[8],
    HIT[9],
    HIT[10],
    HIT[11],
    HIT[12],
    HIT[13],
    HIT[14],
    HIT[15],
    HIT[16],
    HIT[17],
    HIT[18],
    HIT[19],
    "verified_at",
    "thread",
    "record_removed",
    "needs_second_factor",
    "feedback_pending",
    "events",
    "hits",
    "unverified_reason",
];

/// Prints the story of a hit.
pub(super) fn print(
    output: Output,
    story: v1::GetRecordHitResponse,
    out: &mut impl Write,
) -> io::Result<()> {
    if output == Output::Table {
        for line in lines(&story) {
            writeln!(out, "{line}")?;
        }
        return out.flush();
    }
    record(output, STORY, &story_cells(story), out)
}

fn story_cells(story: v1::GetRecordHitResponse) -> Vec<Cell> {
    let hits = in_order(&story).into_iter().map(hit_json).collect();
    let events = story.events.iter().map(event_json).collect();
    let hit = story.hit.unwrap_or_default();
    let last = [
        Cell::time(convert::timestamp("at", hit.verified_at).ok()),
        Cell::new(hit_id(&hit.thread_id)),
        Cell::new(hit.record_removed),
        Cell::new(hit.needs_second_factor),
        Cell::new(hit.feedback_pending),
        Cell::new(Value::Array(events)),
        Cell::new(Value::Array(hits)),
        Cell::new(reason_code(&hit)),
    ];
    let mut row = cells(hit);
    row.extend(last);
    row
}

/// The hits of the thread by epoch.
fn in_order(story: &v1::GetRecordHitResponse) -> Vec<&v1::Hit> {
    let own = story.hit.as_ref().and_then(|hit| hit.hit.as_ref());
    let mut hits: Vec<_> = story.others.iter().chain(own).collect();
    hits.sort_by_key(|hit| (hit.epoch, hit.hit_id.clone()));
    hits
}

fn hit_json(hit: &v1::Hit) -> Value {
    json!({
        "hit": hit_id(&hit.hit_id),
        "epoch": hit.epoch,
        "state": code(hit.state().as_str_name(), "HIT_STATE_"),
        "first_seen": time(convert::timestamp("at", hit.first_seen)),
        "last_seen": time(convert::timestamp("at", hit.last_seen)),
        "unmatched_since": time(convert::timestamp("at", hit.unmatched_since)),
        "filter_version": hit.filter_version,
        "false_positive_probability": hit.false_positive_probability,
        "posterior": hit.posterior,
        "contact_unit": given(&hit.contact_unit),
        "handling_code": handling_code(hit),
        "handling_text": given(&hit.handling_text),
    })
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn event_json(event: &v1::HitEvent) -> Value {
    let named = |code: String| (code != "UNSPECIFIED").then_some(code);
    json!({
        "at": time(convert::timestamp("at", event.at)),
        "hit": hit_id(&event.hit_id),
        "from": named(code(event.from().as_str_name(), "HIT_STATE_").into()),
        "to": code(event.to().as_str_name(), "HIT_STATE_"),
        "person": given(&event.person),
        "reason": given(&event.reason),
        "second_factor": named(code(event.second_factor().as_str_name(), "SECOND_FACTOR_").into()),
        "second_factor_value": given(&event.second_factor_value),
        "feedback": named(code(event.feedback().as_str_name(), "FEEDBACK_STATE_").into()),
    })
}

fn time(at: Result<Timestamp>) -> Option<String> {
    at.ok().map(|at| at.to_string())
}

/// The story as people read it.
fn lines(story: &v1::GetRecordHitResponse) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(hit) = &story.hit {
        lines.extend(summary(hit));
    }
    lines.extend([String::new(), "Hits of the thread".into()]);
    let shown = latest(story).map(|hit| hit.hit_id.clone());
    for hit in in_order(story) {
        let is_latest = shown.as_ref() == Some(&hit.hit_id) && !story.others.is_empty();
        lines.push(format!(
            "  {}  epoch {}  {}  first seen {}, last seen {}{}{}",
            hit_id(&hit.hit_id),
            hit.epoch,
            code(hit.state().as_str_name(), "HIT_STATE_"),
            shown_time(convert::timestamp("at", hit.first_seen)),
            shown_time(convert::timestamp("at", hit.last_seen)),
            unmatched(hit),
            if is_latest { "  (latest)" } else { "" },
        ));
    }
    lines.extend([String::new(), "Story".into()]);
    for event in &story.events {
        // With one hit alone it is plain which one is meant.
        let several = (!story.others.is_empty()).then(|| hit_id(&event.hit_id));
        lines.extend(event_lines(event, several));
    }
    lines
}

/// The mark of a hit that is followed up and matches no more, with its comma.
fn unmatched(hit: &v1::Hit) -> String {
    time(convert::timestamp("at", hit.unmatched_since))
        .map(|since| format!(", without a match since {since}"))
        .unwrap_or_default()
}

fn summary(hit: &v1::RecordHit) -> Vec<String> {
    let row = cells(hit.clone());
    let column = |name: &str| {
        let at = HIT.iter().position(|column| *column == name);
        at.map(|at| row[at].shown()).unwrap_or_default()
    };
    let wire = hit.hit.clone().unwrap_or_default();
    let record = if hit.record_removed {
        "the record was removed here".to_owned()
    } else if hit.dataset.is_empty() {
        "of a one-off question".to_owned()
    } else {
        format!(
            "record {} of dataset {}",
            column("record"),
            column("dataset")
        )
    };
    let rows = [
        (
            "asked for",
            format!("{} {} ({record})", column("policy"), column("value")),
        ),
        ("match class", column("match_class")),
        ("held by", column("holder")),
        ("contact unit", printable(&wire.contact_unit)),
        ("handling", handling(&wire)),
        (
            "chances",
            format!(
                "{}; {} that {} holds it",
                odds::by_chance(wire.false_positive_probability),
                odds::posterior(wire.posterior),
                column("holder"),
            ),
        ),
        (
            "seen",
            format!(
                "first {}, last {}, in filter version {}",
                column("first_seen"),
                column("last_seen"),
                column("filter_version"),
            ),
        ),
        ("verified", verified(hit)),
        ("thread", hit_id(&hit.thread_id)),
        ("cases", column("cases")),
        ("remarks", column("remarks")),
    ];
    let said = rows.into_iter().filter(|(_, text)| !text.is_empty());
    let mut lines = vec![format!("Hit {} – {}", column("hit"), column("state"))];
    lines.extend(said.map(|(name, text)| format!("  {name:<12} {text}")));
    lines
}

/// How the hit may be handled, in a line; empty if its holder does not say.
fn handling(hit: &v1::Hit) -> String {
    let code = handling_code(hit).unwrap_or_default();
    match hit.handling_text.as_str() {
        "" => code.to_owned(),
        text => printable(&format!("{code}: {text}")),
    }
}

/// Where and since when a hit is proved to be in the audit log, or why it is not (protocol §11).
fn verified(hit: &v1::RecordHit) -> String {
    let since = shown_time(convert::timestamp("at", hit.verified_at));
    hit.leaf_index.map_or_else(
        || why_not(hit.unverified_reason()).into(),
        |leaf| format!("yes, leaf {leaf}, since {since}"),
    )
}

/// Why a hit is not verified, as its code; `None` if it is.
fn reason_code(hit: &v1::RecordHit) -> Option<String> {
    let reason = hit.unverified_reason();
    (reason != v1::UnverifiedReason::Unspecified)
        .then(|| code(reason.as_str_name(), "UNVERIFIED_REASON_").to_owned())
}

/// Why a hit is not verified, in words.
const fn why_not(reason: v1::UnverifiedReason) -> &'static str {
    use v1::UnverifiedReason as R;
    match reason {
        R::Unspecified => "not yet",
        R::NotProved => {
            "not yet: its entry waits for a proof under a checkpoint that enough nodes have cosigned"
        }
        R::BatchUnverified => {
            "not yet: the batch that found it waits for its proof in the audit log"
        }
        R::BatchUnplaced => {
            "no: the answer that names it has no place in the audit log, or had it in a log that was \
             begun anew; the next probe of its record brings another answer"
        }
        R::NotAnswered => {
            "no: no answer that this node keeps names it, so nothing in the audit log binds it to this \
             record: it was held back and released, or this node's store is of another time; the next \
             probe of its record does"
        }
        R::NamedOtherwise => {
            "NO: an answer of the broker names it for another record or holder than the broker tells \
             now; do not act on it"
        }
    }
}

fn event_lines(event: &v1::HitEvent, hit: Option<String>) -> Vec<String> {
    let state = |state: v1::HitState| code(state.as_str_name(), "HIT_STATE_");
    let what = match event.from() {
        v1::HitState::Unspecified => format!("found, {}", state(event.to())),
        from => format!("{} → {}", state(from), state(event.to())),
    };
    let who = match event.person.as_str() {
        "" => String::new(),
        person => format!("  by {}", printable(person)),
    };
    let feedback = match event.feedback() {
        v1::FeedbackState::Unspecified => "",
        v1::FeedbackState::Pending => "  (on its way to the broker)",
        v1::FeedbackState::Taken => "  (at the broker)",
        v1::FeedbackState::Refused => "  (not taken: the hit had changed)",
    };
    let hit = hit.map(|hit| format!("  {hit}")).unwrap_or_default();
    let at = shown_time(convert::timestamp("at", event.at));
    let mut lines = vec![format!("  {at}{hit}  {what}{who}{feedback}")];
    // A reason may have several lines; what else acts on a terminal is replaced.
    lines.extend(
        event
            .reason
            .lines()
            .map(|line| format!("      {}", printable(line))),
    );
    if event.second_factor() != v1::SecondFactor::Unspecified {
        let factor = code(event.second_factor().as_str_name(), "SECOND_FACTOR_");
        let value = printable(&event.second_factor_value);
        lines.push(format!("      second factor {factor}: {value}"));
    }
    lines
}

fn shown_time(at: Result<Timestamp>) -> String {
    time(at).unwrap_or_else(|| "?".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story() -> v1::GetRecordHitResponse {
        let hit = |n: u8, epoch, state: v1::HitState| v1::Hit {
            hit_id: vec![n; 16].into(),
            epoch,
            policy: "phone/1".into(),
            holder: "de-bka".into(),
            state: state.into(),
            false_positive_probability: 1.25e-9,
            posterior: 0.9921,
            contact_unit: "Team\u{1b}[2J 7, which has a name that is long".into(),
            handling_code: v1::HandlingCode::H3.into(),
            handling_text: "ask before use".into(),
            first_seen: Some(convert::to_timestamp(Timestamp::from_seconds(60))),
            last_seen: Some(convert::to_timestamp(Timestamp::from_seconds(120))),
            ..Default::default()
        };
        v1::GetRecordHitResponse {
            hit: Some(v1::RecordHit {
                hit: Some(hit(2, 5, v1::HitState::New)),
                dataset: "suspects".into(),
                record_id: "r\u{1b}[2J7".into(),
                canonical: "+31612345678".into(),
                thread_id: vec![1; 16].into(),
                state: v1::HitState::Confirmed.into(),
                case_refs: vec!["2026-17".into()],
                feedback_pending: true,
                match_class: v1::MatchClass::Exact.into(),
                leaf_index: Some(123),
                verified_at: Some(convert::to_timestamp(Timestamp::from_seconds(240))),
                ..Default::default()
            }),
            events: vec![
                v1::HitEvent {
                    hit_id: vec![1; 16].into(),
                    to: v1::HitState::New.into(),
                    ..Default::default()
                },
                v1::HitEvent {
                    at: Some(convert::to_timestamp(Timestamp::from_seconds(90))),
                    hit_id: vec![1; 16].into(),
                    from: v1::HitState::UnderReview.into(),
                    to: v1::HitState::Confirmed.into(),
                    person: "spiffe://sotto.test/analyst/anna".into(),
                    reason: "seen\nand \u{1b}[31mknown".into(),
                    second_factor: v1::SecondFactor::Document.into(),
                    second_factor_value: "NL 1".into(),
                    feedback: v1::FeedbackState::Pending.into(),
                },
            ],
            others: vec![v1::Hit {
                unmatched_since: Some(convert::to_timestamp(Timestamp::from_seconds(180))),
                ..hit(1, 4, v1::HitState::FollowedUp)
            }],
        }
    }

    #[test]
    fn people_read_the_story_from_the_first_hit_to_the_last_decision() {
        let mut out = Vec::new();
        print(Output::Table, story(), &mut out).expect("written");
        let text = String::from_utf8(out).expect("UTF-8");
        for part in [
            "– CONFIRMED",
            "1 in 800 million by chance; 99.21 % that de-bka holds it",
            "+31612345678 (record r\u{fffd}[2J7 of dataset suspects)",
            "match class  EXACT\n",
            "contact unit Team\u{fffd}[2J 7, which has a name that is long\n",
            "handling     H3: ask before use\n",
            "cases        2026-17",
            "verified     yes, leaf 123, since 1970-01-01T00:04:00Z",
            "found, NEW",
            "1970-01-01T00:01:30Z",
            "UNDER_REVIEW → CONFIRMED  by spiffe://sotto.test/analyst/anna  (on its way",
            "\n      seen\n      and \u{fffd}[31mknown\n",
            "second factor DOCUMENT: NL 1",
            "epoch 4  FOLLOWED_UP  first seen 1970-01-01T00:01:00Z, last seen 1970-01-01T00:02:00Z, \
             without a match since 1970-01-01T00:03:00Z\n",
            "epoch 5  NEW  first seen 1970-01-01T00:01:00Z, last seen 1970-01-01T00:02:00Z  (latest)",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
        assert!(text.find("epoch 4") < text.find("epoch 5"));
    }

    #[test]
    fn a_hit_that_is_not_verified_says_why() {
        use v1::UnverifiedReason as R;
        for (reason, words, told) in [
            (R::NotProved, "not yet: its entry", "NOT_PROVED"),
            (R::BatchUnverified, "not yet: the batch", "BATCH_UNVERIFIED"),
            (R::BatchUnplaced, "no place", "BATCH_UNPLACED"),
            (
                R::NotAnswered,
                "no answer that this node keeps",
                "NOT_ANSWERED",
            ),
            (R::NamedOtherwise, "do not act on it", "NAMED_OTHERWISE"),
        ] {
            let mut story = story();
            let hit = story.hit.as_mut().expect("there");
            (hit.leaf_index, hit.verified_at) = (None, None);
            hit.set_unverified_reason(reason);
            let mut out = Vec::new();
            print(Output::Table, story.clone(), &mut out).expect("written");
            let text = String::from_utf8(out).expect("UTF-8");
            assert!(text.contains(words), "{words} in\n{text}");
            let mut out = Vec::new();
            print(Output::Json, story, &mut out).expect("written");
            let read: Value = serde_json::from_slice(&out).expect("JSON");
            assert_eq!(read["unverified_reason"], told);
        }
    }

    #[test]
    fn machines_read_all_of_it_as_one_object() {
        let mut out = Vec::new();
        print(Output::Json, story(), &mut out).expect("written");
        let read: Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(read["state"], "CONFIRMED");
        assert_eq!(read["cases"][0], "2026-17");
        assert_eq!(read["feedback_pending"], true);
        assert_eq!(read["verified"], true);
        assert_eq!(read["leaf"], 123);
        assert_eq!(read["verified_at"], "1970-01-01T00:04:00Z");
        assert_eq!(read["unverified_reason"], Value::Null);
        assert_eq!(read["events"][0]["from"], Value::Null);
        assert_eq!(read["events"][0]["person"], Value::Null);
        assert_eq!(read["events"][1]["second_factor"], "DOCUMENT");
        assert_eq!(read["events"][1]["feedback"], "PENDING");
        assert_eq!(read["match_class"], "EXACT");
        assert_eq!(read["handling_code"], "H3");
        assert_eq!(read["hits"][0]["handling_text"], "ask before use");
        assert_eq!(read["hits"][0]["epoch"], 4);
        assert_eq!(read["hits"][1]["state"], "NEW");
        assert_eq!(story_cells(story()).len(), STORY.len());
    }
}
