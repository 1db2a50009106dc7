//! What a step says, in lines for people and as JSON for programs.

use serde_json::{Value, json};
use sotto_proto::v1;
use sotto_proto::v1::node_follow_up_step::Content;

use super::shown;
use crate::cli::render::printable;
use crate::dossier::{evaluation, tlp};

/// A name and a value on a line; several lines of a value below it. What acts on a terminal is
/// replaced.
fn named(lines: &mut Vec<String>, name: &str, value: &str) {
    let mut parts = value.lines();
    match (parts.next(), value.lines().count()) {
        (None, _) => {}
        (Some(first), 1) => lines.push(format!("  {name:<22} {}", printable(first))),
        (Some(first), _) => {
            lines.push(format!("  {name}"));
            lines.extend(
                std::iter::once(first)
                    .chain(parts)
                    .map(|line| format!("      {}", printable(line))),
            );
        }
    }
}

/// What is asked for.
pub(super) fn terms_lines(terms: &v1::FollowUpTerms) -> Vec<String> {
    let mut lines = Vec::new();
    let items: Vec<_> = terms.items().map(shown::item).collect();
    named(
        &mut lines,
        "time limit",
        shown::time_limit(terms.time_limit()),
    );
    named(
        &mut lines,
        "urgent because of",
        shown::urgency(terms.urgency_ground()),
    );
    named(&mut lines, "offence", &terms.offence_code);
    named(&mut lines, "items", &items.join(", "));
    lines
}

/// The particulars of a request.
pub(super) fn particulars_lines(form: &v1::FollowUpParticulars) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, value) in [
        ("selector", form.selector.as_str()),
        ("requesting unit", &form.requesting_unit),
        ("officer", &form.officer),
        ("purpose", shown::purpose(form.purpose())),
        ("legal basis", shown::basis(form.legal_basis())),
        ("its reference", &form.legal_basis_reference),
        ("part of the person", shown::role(form.person_role())),
        ("language", &form.language),
        ("facts", &form.facts),
        ("offence in words", &form.offence_description),
        ("link", &form.link),
        ("why there", &form.why_there),
        ("why urgent", &form.urgency_reason),
        ("use restrictions", &form.use_restrictions),
    ] {
        named(&mut lines, name, value);
    }
    lines
}

/// What becomes of each item.
pub(super) fn outcome_lines(outcomes: &[v1::ItemOutcome]) -> Vec<String> {
    let mut lines = Vec::new();
    for outcome in outcomes {
        let more = match outcome.state() {
            v1::ItemState::Refused => shown::refusal(outcome.ground()).to_owned(),
            v1::ItemState::Pending => format!("until {}", shown::shown_time(outcome.pending_until)),
            _ => String::new(),
        };
        let what = format!("{} {more}", shown::item_state(outcome.state()));
        named(&mut lines, shown::item(outcome.item()), what.trim_end());
    }
    lines
}

/// The items of an answer, each with its codes, and the files.
pub(super) fn answer_lines(answer: &v1::FollowUpAnswer) -> Vec<String> {
    let mut lines = Vec::new();
    for item in &answer.items {
        lines.push(format!("  {}", shown::item(item.item())));
        lines.extend(
            item.content
                .lines()
                .map(|line| format!("      {}", printable(line))),
        );
        let handling = match item.handling_text.as_str() {
            "" => shown::handling(item.handling_code()).to_owned(),
            text => format!("{}: {text}", shown::handling(item.handling_code())),
        };
        lines.push(printable(&format!(
            "    handling {handling}; evaluation {}; {}; {}; delete by {}",
            evaluation(item),
            tlp(item.tlp()),
            shown::nature(item.nature()),
            shown::shown_time(item.retain_until),
        )));
    }
    for file in &answer.file_names {
        let id = shown::attachment_id(&file.attachment_id);
        named(
            &mut lines,
            "file",
            &format!("{} ({id})", printable(&file.name)),
        );
    }
    lines
}

/// A draft in full: what the approver approves.
pub(super) fn draft_lines(draft: &v1::FollowUpDraft) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(terms) = &draft.terms {
        lines.extend(terms_lines(terms));
    }
    if let Some(particulars) = &draft.particulars {
        lines.extend(particulars_lines(particulars));
    }
    lines.extend(outcome_lines(&draft.outcomes));
    named(&mut lines, "new date", &shown::shown_time(draft.new_date));
    named(&mut lines, "message", &draft.message);
    if let Some(answer) = &draft.answer {
        lines.extend(answer_lines(answer));
    }
    lines
}

/// What was sealed with a step.
pub(super) fn content_lines(content: &Content) -> Vec<String> {
    match content {
        Content::Particulars(form) => particulars_lines(form),
        Content::Message(message) => {
            let mut lines = Vec::new();
            named(&mut lines, "message", &message.text);
            lines
        }
        Content::Answer(answer) => answer_lines(answer),
    }
}

/// A text, or null.
fn given(text: &str) -> Value {
    if text.is_empty() {
        Value::Null
    } else {
        text.into()
    }
}

pub(super) fn terms_json(terms: &v1::FollowUpTerms) -> Value {
    let items: Vec<_> = terms.items().map(shown::item).collect();
    json!({
        "time_limit": shown::time_limit(terms.time_limit()),
        "urgency_ground": given(shown::urgency(terms.urgency_ground())),
        "offence_code": terms.offence_code,
        "items": items,
    })
}

fn particulars_json(form: &v1::FollowUpParticulars) -> Value {
    json!({
        "selector": given(&form.selector),
        "requesting_unit": form.requesting_unit,
        "officer": form.officer,
        "facts": form.facts,
        "offence_description": form.offence_description,
        "purpose": shown::purpose(form.purpose()),
        "legal_basis": shown::basis(form.legal_basis()),
        "legal_basis_reference": given(&form.legal_basis_reference),
        "link": form.link,
        "person_role": shown::role(form.person_role()),
        "why_there": form.why_there,
        "use_restrictions": given(&form.use_restrictions),
        "urgency_reason": given(&form.urgency_reason),
        "language": form.language,
    })
}

pub(super) fn outcomes_json(outcomes: &[v1::ItemOutcome]) -> Value {
    let outcomes = outcomes.iter().map(|outcome| {
        json!({
            "item": shown::item(outcome.item()),
            "state": shown::item_state(outcome.state()),
            "ground": given(shown::refusal(outcome.ground())),
            "pending_until": shown::time(outcome.pending_until),
        })
    });
    Value::Array(outcomes.collect())
}

fn answer_json(answer: &v1::FollowUpAnswer) -> Value {
    let items = answer.items.iter().map(|item| {
        json!({
            "item": shown::item(item.item()),
            "content": item.content,
            "handling_code": shown::handling(item.handling_code()),
            "handling_text": given(&item.handling_text),
            "evaluation": evaluation(item),
            "tlp": tlp(item.tlp()),
            "nature": shown::nature(item.nature()),
            "retain_until": shown::time(item.retain_until),
        })
    });
    let files = answer.file_names.iter().map(|file| {
        json!({
            "attachment": shown::attachment_id(&file.attachment_id),
            "name": file.name,
        })
    });
    json!({
        "items": items.collect::<Vec<_>>(),
        "files": files.collect::<Vec<_>>(),
    })
}

pub(super) fn draft_json(draft: &v1::FollowUpDraft) -> Value {
    json!({
        "terms": draft.terms.as_ref().map(terms_json),
        "particulars": draft.particulars.as_ref().map(particulars_json),
        "outcomes": outcomes_json(&draft.outcomes),
        "new_date": shown::time(draft.new_date),
        "message": given(&draft.message),
        "answer": draft.answer.as_ref().map(answer_json),
    })
}

pub(super) fn content_json(content: Option<&Content>) -> Value {
    match content {
        None => Value::Null,
        Some(Content::Particulars(form)) => particulars_json(form),
        Some(Content::Message(message)) => json!({ "text": message.text }),
        Some(Content::Answer(answer)) => answer_json(answer),
    }
}
