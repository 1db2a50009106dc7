//! `followup show` and `followup read`: one follow-up with its whole story.

use std::io::{self, Write};

use serde_json::{Value, json};
use sotto_common::time::Timestamp;
use sotto_proto::v1;

use super::contents::{
    content_json, content_lines, draft_json, draft_lines, outcome_lines, outcomes_json, terms_json,
    terms_lines,
};
use super::shown::{self, FOLLOW_UP};
use crate::cli::render::{Cell, Output, printable, record};

/// What is printed but for people.
const STORY: &[&str] = &[
    FOLLOW_UP[0],
    FOLLOW_UP[1],
    FOLLOW_UP[2],
    FOLLOW_UP[3],
    FOLLOW_UP[4],
    FOLLOW_UP[5],
    FOLLOW_UP[6],
    FOLLOW_UP[7],
    FOLLOW_UP[8],
    FOLLOW_UP[9],
    FOLLOW_UP[10],
    FOLLOW_UP[11],
    FOLLOW_UP[12],
    "requester",
    "holder",
    "presence",
    "alarm",
    "terms",
    "proposal",
    "records",
    "related",
    "steps",
];

/// Prints the story of a follow-up.
pub(super) fn print(
    output: Output,
    view: &v1::GetNodeFollowUpResponse,
    now: Timestamp,
    out: &mut impl Write,
) -> io::Result<()> {
    if output == Output::Table {
        for line in lines(view, now) {
            writeln!(out, "{line}")?;
        }
        return out.flush();
    }
    record(output, STORY, &story_cells(view, now), out)
}

fn story_cells(view: &v1::GetNodeFollowUpResponse, now: Timestamp) -> Vec<Cell> {
    let node = view.follow_up.clone().unwrap_or_default();
    let follow_up = node.follow_up.clone().unwrap_or_default();
    let records = node.records.iter().map(|record| {
        json!({
            "dataset": record.dataset,
            "record": record.record_id,
            "value": record.canonical,
        })
    });
    let related = view.related.iter().map(related_json);
    let steps = view.steps.iter().map(step_json);
    let mut row = shown::cells(&node, now);
    row.extend([
        Cell::new(follow_up.requester.as_str()),
        Cell::new(follow_up.holder.as_str()),
        Cell::new(shown::presence(node.presence())),
        Cell::new(node.alarm.as_str()),
        Cell::new(follow_up.terms.as_ref().map_or(Value::Null, terms_json)),
        Cell::new(node.proposal.as_ref().map_or(Value::Null, proposal_json)),
        Cell::new(Value::Array(records.collect())),
        Cell::new(Value::Array(related.collect())),
        Cell::new(Value::Array(steps.collect())),
    ]);
    row
}

fn proposal_json(proposal: &v1::FollowUpProposal) -> Value {
    json!({
        "proposal": shown::proposal_id(&proposal.proposal_id),
        "step": shown::step(proposal.step()),
        "drafted_by": proposal.drafted_by,
        "drafted_at": shown::time(proposal.drafted_at),
        "draft": proposal.draft.as_ref().map(draft_json),
    })
}

fn related_json(related: &v1::RelatedFollowUp) -> Value {
    json!({
        "follow_up": shown::follow_up_id(&related.follow_up_id),
        "side": shown::party(related.side()),
        "with": related.counterpart,
        "state": shown::state(related.state()),
        "begun_at": shown::time(related.begun_at),
    })
}

fn step_json(step: &v1::NodeFollowUpStep) -> Value {
    let clear = step.clear.clone().unwrap_or_default();
    let by = |who: &str| (!who.is_empty()).then(|| who.to_owned());
    json!({
        "seq": step.seq,
        "step": shown::step(step.step()),
        "by": step.sender,
        "made_at": shown::time(step.made_at),
        "taken_at": shown::time(step.taken_at),
        "state": shown::state(step.state()),
        "drafted_by": by(&step.drafted_by),
        "approved_by": by(&step.approved_by),
        "outcomes": outcomes_json(&clear.outcomes),
        "new_date": shown::time(clear.new_date),
        "handling_code": by(shown::handling(clear.handling_code())),
        "content": content_json(step.content.as_ref()),
    })
}

fn lines(view: &v1::GetNodeFollowUpResponse, now: Timestamp) -> Vec<String> {
    let node = view.follow_up.clone().unwrap_or_default();
    let mut lines = head_lines(&node, now);
    if !view.related.is_empty() {
        lines.push("Other follow-ups on the same selector".into());
        lines.extend(view.related.iter().map(related_line));
    }
    if !view.steps.is_empty() {
        lines.push("Steps".into());
    }
    for step in &view.steps {
        lines.extend(step_lines(step));
    }
    if let Some(proposal) = &node.proposal {
        lines.extend(proposal_lines(proposal));
    }
    if !node.next_action.is_empty() {
        lines.push(format!("Next: {}", printable(&node.next_action)));
    }
    lines
}

fn head_lines(node: &v1::NodeFollowUp, now: Timestamp) -> Vec<String> {
    let follow_up = node.follow_up.clone().unwrap_or_default();
    let row = shown::cells(node, now);
    let column = |name: &str| {
        let at = FOLLOW_UP.iter().position(|column| *column == name);
        at.map(|at| row[at].shown()).unwrap_or_default()
    };
    let mut lines = vec![
        format!("Follow-up {} – {}", column("follow_up"), column("state")),
        format!(
            "  {:<22} {} asks {}; this node is the {}",
            "parties",
            printable(&follow_up.requester),
            printable(&follow_up.holder),
            column("side").to_lowercase(),
        ),
        format!("  {:<22} {} ({})", "hit", column("hit"), column("policy")),
    ];
    if let Some(terms) = &follow_up.terms {
        lines.extend(terms_lines(terms));
    }
    let due = match column("due_at").as_str() {
        "" => String::new(),
        due => format!(" (until {due})"),
    };
    for (name, value) in [
        ("time left", column("time_left") + &due),
        ("case", column("case_ref")),
        ("presence", shown::presence(node.presence()).to_owned()),
        ("remarks", column("remarks")),
        ("ALARM", printable(&node.alarm)),
    ] {
        if !value.is_empty() {
            lines.push(format!("  {name:<22} {value}"));
        }
    }
    for record in &node.records {
        lines.push(format!(
            "  {:<22} {} of dataset {}: {}",
            "own record",
            printable(&record.record_id),
            printable(&record.dataset),
            printable(&record.canonical),
        ));
    }
    lines
}

/// Another follow-up, on a line.
pub(super) fn related_line(related: &v1::RelatedFollowUp) -> String {
    printable(&format!(
        "  {}  {} with {}  {}  since {}",
        shown::follow_up_id(&related.follow_up_id),
        shown::party(related.side()),
        related.counterpart,
        shown::state(related.state()),
        shown::shown_time(related.begun_at),
    ))
}

fn step_lines(step: &v1::NodeFollowUpStep) -> Vec<String> {
    let taken = if step.taken_at.is_none() {
        "  (on its way to the broker)"
    } else {
        ""
    };
    let who = |verb: &str, who: &str| match who {
        "" => String::new(),
        who => format!("  {verb} {}", printable(who)),
    };
    let mut lines = vec![format!(
        "  {}  {}  {} by {} → {}{}{}{taken}",
        step.seq,
        shown::shown_time(step.taken_at.or(step.made_at)),
        shown::step(step.step()),
        printable(&step.sender),
        shown::state(step.state()),
        who("drafted by", &step.drafted_by),
        who("approved by", &step.approved_by),
    )];
    let clear = step.clear.clone().unwrap_or_default();
    let mut more = outcome_lines(&clear.outcomes);
    if let Some(date) = shown::time(clear.new_date) {
        more.push(format!("  {:<22} {date}", "new date"));
    }
    if let Some(content) = &step.content {
        more.extend(content_lines(content));
    }
    lines.extend(more.into_iter().map(|line| format!("   {line}")));
    lines
}

/// What waits for another person, in full: they have to read what they approve.
pub(super) fn proposal_lines(proposal: &v1::FollowUpProposal) -> Vec<String> {
    let mut lines = vec![
        format!("Waits for approval: {}", shown::step(proposal.step())),
        format!(
            "  {:<22} {}",
            "proposal",
            shown::proposal_id(&proposal.proposal_id)
        ),
        format!(
            "  {:<22} {}, {}",
            "drafted by",
            printable(&proposal.drafted_by),
            shown::shown_time(proposal.drafted_at),
        ),
    ];
    if let Some(draft) = &proposal.draft {
        lines.extend(draft_lines(draft));
    }
    lines
}

#[cfg(test)]
mod tests;
