//! One step of a dossier: when, who, what it says in the clear, and what was sealed with it.

use sha2::{Digest as _, Sha256};
use sotto_proto::v1::node_follow_up_step::Content;
use sotto_proto::{convert, v1};

use super::page::{Page, code, uuid, words};
use super::time;

/// A step that was taken, and where it stands in the audit log, if that is proved.
pub(super) fn section(page: &mut Page, step: &v1::NodeFollowUpStep, leaf: &str) {
    page.begin_section();
    let name = title(step.step());
    page.heading(3, &format!("{}. {name}, by {}", step.seq, step.sender));
    page.begin_fields();
    let step_code = code(step.step().as_str_name(), "FOLLOW_UP_STEP_");
    page.coded("Step", step_code);
    page.field("Made", &time(convert::timestamp("at", step.made_at)));
    let taken = match step.taken_at {
        None => "on its way to the broker".to_owned(),
        at => time(convert::timestamp("at", at)),
    };
    page.field("Taken by the broker", &taken);
    let state = code(step.state().as_str_name(), "FOLLOW_UP_STATE_");
    page.coded("State after it", state);
    page.field("Drafted by", &step.drafted_by);
    page.field("Approved by", &step.approved_by);
    page.field("In the audit log", leaf);
    if let Some(clear) = &step.clear {
        if let Some(wanted) = &clear.terms {
            terms(page, Some(wanted));
        }
        if clear.new_date.is_some() {
            let date = time(convert::timestamp("at", clear.new_date));
            page.field("New date", &date);
        }
        if clear.handling_code != 0 {
            let handling = code(clear.handling_code().as_str_name(), "HANDLING_CODE_");
            page.field("Strictest handling code", handling);
        }
    }
    page.end_fields();
    if let Some(clear) = &step.clear {
        outcomes(page, &clear.outcomes);
    }
    content(page, step);
    attachments(page, step);
    signatures(page, step);
    page.end_section();
}

/// A step in words.
fn title(step: v1::FollowUpStep) -> &'static str {
    use v1::FollowUpStep as S;
    match step {
        S::Unspecified => "A step",
        S::Submit => "Request submitted",
        S::Held => "Presence proved",
        S::NotHeld => "Not held",
        S::Particulars => "Particulars released",
        S::Accept => "Request accepted",
        S::Refuse => "Request refused",
        S::RequestClarification => "Clarification requested",
        S::Reply => "Reply to the clarification",
        S::AwaitJudicialAuthorisation => "Awaiting judicial authorisation",
        S::Answer => "Answer",
        S::Withdraw => "Request withdrawn",
        S::Close => "Closed",
    }
}

/// What is asked for, as fields.
pub(super) fn terms(page: &mut Page, terms: Option<&v1::FollowUpTerms>) {
    let Some(terms) = terms else {
        return;
    };
    let limit = code(terms.time_limit().as_str_name(), "TIME_LIMIT_");
    let limit_words = match terms.time_limit() {
        v1::TimeLimit::UrgentDirect => "8 hours: urgent, directly accessible",
        v1::TimeLimit::UrgentIndirect => "3 days: urgent, indirectly accessible",
        v1::TimeLimit::Ordinary => "7 days",
        v1::TimeLimit::CoreData => "48 hours: core data after a confirmed match",
        v1::TimeLimit::Unspecified => "not given",
    };
    page.field("Time allowed", &format!("{limit_words} ({limit})"));
    if terms.urgency_ground != 0 {
        let ground = code(terms.urgency_ground().as_str_name(), "URGENCY_GROUND_");
        page.coded("Ground of urgency", ground);
    }
    page.field("Offence code", &terms.offence_code);
    let items: Vec<_> = terms.items().map(item).collect();
    page.field("Items asked for", &items.join(", "));
}

fn item(item: v1::FollowUpItem) -> String {
    words(code(item.as_str_name(), "FOLLOW_UP_ITEM_"))
}

fn outcomes(page: &mut Page, outcomes: &[v1::ItemOutcome]) {
    if outcomes.is_empty() {
        return;
    }
    page.begin_table(&["Item", "Outcome", "Ground or date"]);
    for outcome in outcomes {
        let state = words(code(outcome.state().as_str_name(), "ITEM_STATE_"));
        let more = match outcome.state() {
            v1::ItemState::Refused => {
                let ground = code(outcome.ground().as_str_name(), "REFUSAL_GROUND_");
                format!("{} ({ground})", words(ground))
            }
            v1::ItemState::Pending => time(convert::timestamp("at", outcome.pending_until)),
            _ => String::new(),
        };
        page.row(&[&item(outcome.item()), &state, &more]);
    }
    page.end_table();
}

fn content(page: &mut Page, step: &v1::NodeFollowUpStep) {
    match &step.content {
        Some(Content::Particulars(form)) => particulars(page, form),
        Some(Content::Message(message)) => page.text(&message.text),
        Some(Content::Answer(answer)) => answer_items(page, answer),
        None => {}
    }
}

fn particulars(page: &mut Page, form: &v1::FollowUpParticulars) {
    page.begin_fields();
    page.field("Selector", &form.selector);
    page.field("Requesting unit", &form.requesting_unit);
    page.field("Officer", &form.officer);
    page.coded("Purpose", code(form.purpose().as_str_name(), "PURPOSE_"));
    let basis = code(form.legal_basis().as_str_name(), "LEGAL_BASIS_");
    page.field("Legal basis", basis);
    page.field("Its reference", &form.legal_basis_reference);
    let role = code(form.person_role().as_str_name(), "PERSON_ROLE_");
    page.coded("Part of the person", role);
    page.field("Language", &form.language);
    page.end_fields();
    for (name, text) in [
        ("Facts", &form.facts),
        ("Offence", &form.offence_description),
        ("Link between purpose and person", &form.link),
        ("Why the data are believed to be there", &form.why_there),
        ("What makes it urgent", &form.urgency_reason),
        (
            "Restrictions on the use of this request",
            &form.use_restrictions,
        ),
    ] {
        if !text.is_empty() {
            page.heading(4, name);
            page.text(text);
        }
    }
}

fn answer_items(page: &mut Page, answer: &v1::FollowUpAnswer) {
    for part in &answer.items {
        page.heading(4, &capitalised(&item(part.item())));
        page.text(&part.content);
        page.begin_fields();
        let handling = code(part.handling_code().as_str_name(), "HANDLING_CODE_");
        let handling = match part.handling_text.as_str() {
            "" => handling.to_owned(),
            text => format!("{handling}: {text}"),
        };
        page.field("Handling code", &handling);
        page.field("Evaluation", &evaluation(part));
        page.field("Label", tlp(part.tlp()));
        let nature = match part.nature() {
            v1::Nature::Fact => "fact",
            v1::Nature::Assessment => "assessment",
            v1::Nature::Unspecified => "",
        };
        page.field("Nature", nature);
        let until = time(convert::timestamp("at", part.retain_until));
        page.field("Delete by", &until);
        page.end_fields();
    }
}

/// Source and information, e.g. `B2`.
pub(crate) fn evaluation(item: &v1::AnswerItem) -> String {
    let source = code(item.source_evaluation().as_str_name(), "SOURCE_EVALUATION_");
    let information = match item.information_evaluation() {
        v1::InformationEvaluation::One => "1",
        v1::InformationEvaluation::Two => "2",
        v1::InformationEvaluation::Three => "3",
        v1::InformationEvaluation::Four => "4",
        v1::InformationEvaluation::Unspecified => "?",
    };
    format!("{source}{information}")
}

/// The label of TLP 2.0, as that writes it.
pub(crate) fn tlp(label: v1::Tlp) -> &'static str {
    match label {
        v1::Tlp::Red => "TLP:RED",
        v1::Tlp::AmberStrict => "TLP:AMBER+STRICT",
        v1::Tlp::Amber => "TLP:AMBER",
        v1::Tlp::Green => "TLP:GREEN",
        v1::Tlp::Clear => "TLP:CLEAR",
        v1::Tlp::Unspecified => "",
    }
}

fn attachments(page: &mut Page, step: &v1::NodeFollowUpStep) {
    let Some(clear) = step.clear.as_ref().filter(|c| !c.attachments.is_empty()) else {
        return;
    };
    let names = match &step.content {
        Some(Content::Answer(answer)) => answer.file_names.as_slice(),
        _ => &[],
    };
    page.heading(4, "Files");
    page.begin_table(&["File", "Attachment", "Digest of the sealed bytes"]);
    for file in &clear.attachments {
        let name = names.iter().find(|n| n.attachment_id == file.attachment_id);
        let name = name.map_or("", |n| n.name.as_str());
        page.row(&[name, &uuid(&file.attachment_id), &hex::encode(&file.digest)]);
    }
    page.end_table();
}

/// Who signed, and the digest that the next step names.
fn signatures(page: &mut Page, step: &v1::NodeFollowUpStep) {
    let Some(statement) = &step.statement else {
        return;
    };
    let keys: Vec<_> = statement
        .signatures
        .iter()
        .map(|s| s.keyid.as_str())
        .collect();
    let digest = hex::encode(Sha256::digest(&statement.payload));
    let previous = step
        .clear
        .as_ref()
        .map(|clear| hex::encode(&clear.previous));
    page.small(&format!(
        "signed by key {}; digest {digest}; digest of the step before {}",
        keys.join(", "),
        previous.unwrap_or_default(),
    ));
}

/// What waits for a second person.
pub(super) fn proposal(page: &mut Page, proposal: &v1::FollowUpProposal) {
    page.heading(2, "Waits for approval");
    page.begin_fields();
    let step = code(proposal.step().as_str_name(), "FOLLOW_UP_STEP_");
    page.coded("Step", step);
    page.field("Drafted by", &proposal.drafted_by);
    page.field(
        "Drafted",
        &time(convert::timestamp("at", proposal.drafted_at)),
    );
    page.end_fields();
    page.paragraph("It has not been approved, and nothing of it has left this node.");
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}
