//! Blank forms: what is needed, which codes there are, and what fits where the law says so.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use sotto_common::followup::codes::{
    HandlingCode, InformationEvaluation, Item, ItemState, Nature, PersonRole, RefusalGround,
    SourceEvaluation, TimeLimit, Tlp, UrgencyGround,
};
use sotto_common::grounds::{LegalBasis, Purpose};

use super::FormCode;

/// What fits a legal basis, where it leaves no choice.
struct Fitting {
    limit: TimeLimit,
    purpose: Option<Purpose>,
    items: &'static [Item],
}

const fn fitting(basis: LegalBasis) -> Fitting {
    match basis {
        LegalBasis::Eu2024982 => Fitting {
            limit: TimeLimit::CoreData,
            purpose: None,
            items: &[
                Item::Identity,
                Item::Aliases,
                Item::DateAndPlaceOfBirth,
                Item::Nationality,
                Item::CaseNumber,
                Item::ResponsibleAuthority,
            ],
        },
        LegalBasis::Eu20241640Fiu => Fitting {
            limit: TimeLimit::Ordinary,
            purpose: Some(Purpose::FinancialIntelligence),
            items: &[Item::Identity, Item::FinancialAccounts],
        },
        _ => Fitting {
            limit: TimeLimit::Ordinary,
            purpose: None,
            items: &[Item::Identity],
        },
    }
}

/// The time limits that a legal basis allows.
fn limits(basis: LegalBasis) -> Vec<TimeLimit> {
    let core = basis == LegalBasis::Eu2024982;
    let limits = TimeLimit::ALL.iter().copied();
    limits
        .filter(|limit| core || *limit != TimeLimit::CoreData)
        .collect()
}

/// A field of a form: its name, what stands there, and what is said of it.
struct Field {
    name: &'static str,
    value: Value,
    comment: String,
}

fn field(name: &'static str, value: impl Into<Value>, comment: impl Into<String>) -> Field {
    Field {
        name,
        value: value.into(),
        comment: comment.into(),
    }
}

/// A blank request on a legal basis.
pub(in crate::cli::followup) fn blank_request(basis: LegalBasis, as_json: bool) -> String {
    let fields = request_fields(basis);
    if as_json {
        return as_json_text(fields);
    }
    let mut text = format!(
        "# A request on the legal basis {basis}. Fill in every field that is needed, then:\n\
         #   sotto-node followup new HIT --form THIS-FILE\n\
         # Texts may have several lines between three quotes. What is sealed leaves this node only\n\
         # once the holder has proved that it has the selector.\n"
    );
    for part in fields {
        entry(&mut text, &part);
    }
    text
}

fn request_fields(basis: LegalBasis) -> Vec<Field> {
    let mut fields = clear_fields(basis);
    fields.extend(sealed_fields(basis));
    fields
}

const SEALED: &str = "Sealed to the holder";

/// What stays here, and what the broker sees; the urgency's reason stands beside its ground.
fn clear_fields(basis: LegalBasis) -> Vec<Field> {
    let fit = fitting(basis);
    let limits: Vec<_> = limits(basis).into_iter().map(FormCode::code).collect();
    let items: Vec<_> = fit.items.iter().map(|item| item.code()).collect();
    let urgent = "With an urgent time limit only";
    let sealed = SEALED;
    vec![
        field(
            "case_ref",
            "",
            "Needed: the case at this node; it stays here.",
        ),
        field(
            "time_limit",
            fit.limit.code(),
            format!(
                "Needed: one of {}. In the clear.\nURGENT_DIRECT 8 hours, URGENT_INDIRECT 3 days, \
                 ORDINARY 7 days, CORE_DATA 48 hours (EU_2024_982 only).",
                limits.join(", ")
            ),
        ),
        field(
            "urgency_ground",
            "",
            format!("{urgent}: one of {}. In the clear.", UrgencyGround::all()),
        ),
        field(
            "urgency_reason",
            "",
            format!("{urgent}: why, in words. {sealed}."),
        ),
        field(
            "offence_code",
            "",
            "Needed: a code of your list of offences, A-Z a-z 0-9 - _ . : /. In the clear.",
        ),
        field(
            "items",
            items,
            format!(
                "Needed: what is asked for, of {}. In the clear.",
                Item::all()
            ),
        ),
    ]
}

/// What is released on HELD.
fn sealed_fields(basis: LegalBasis) -> Vec<Field> {
    let fit = fitting(basis);
    let reference = if basis.needs_reference() {
        "Needed: the reference text of the legal basis, e.g. treaty and article; 256 characters."
    } else {
        "May be empty: the article that is relied on."
    };
    let sealed = SEALED;
    vec![
        field(
            "requesting_unit",
            "",
            format!("Needed: the unit that asks. {sealed}."),
        ),
        field(
            "officer",
            "",
            format!("Needed: the officer who asks, and how to reach them. {sealed}."),
        ),
        field(
            "purpose",
            fit.purpose.map_or("", FormCode::code),
            format!("Needed: one of {}. {sealed}.", Purpose::all()),
        ),
        field(
            "legal_basis",
            basis.code(),
            format!("Needed: one of {}. {sealed}.", LegalBasis::all()),
        ),
        field("legal_basis_reference", "", reference),
        field(
            "person_role",
            "",
            format!(
                "Needed: the part of the person, one of {}. {sealed}.",
                PersonRole::all()
            ),
        ),
        field("facts", "", format!("Needed: the facts. {sealed}.")),
        field(
            "offence_description",
            "",
            format!("Needed: the offence in words. {sealed}."),
        ),
        field(
            "link",
            "",
            format!("Needed: what links the purpose and the person. {sealed}."),
        ),
        field(
            "why_there",
            "",
            format!("Needed: why the data are believed to be with the holder. {sealed}."),
        ),
        field(
            "use_restrictions",
            "",
            format!("May be empty: how this request itself may be used. {sealed}."),
        ),
        field(
            "language",
            "en",
            "Needed: the language of the texts, ISO 639-1.",
        ),
    ]
}

/// A blank answer for exactly the items that were asked for.
pub(in crate::cli::followup) fn blank_answer(items: &[Item], as_json: bool) -> String {
    if as_json {
        let items: Vec<_> = items.iter().map(|i| object(answer_fields(*i))).collect();
        return pretty(&json!({ "items": items }));
    }
    let mut text = format!(
        "# An answer. Say of every item what becomes of it, then:\n\
         #   sotto-node followup answer ID --form THIS-FILE --attach FILE …\n\
         # state: {}.\n\
         # PROVIDED needs content, handling_code, both evaluations, tlp, nature and retain_until;\n\
         # REFUSED needs ground; PENDING needs pending_until. Leave the other fields empty.\n",
        ItemState::all()
    );
    for item in items {
        text.push_str("\n[[items]]\n");
        for part in answer_fields(*item) {
            if part.name == "item" {
                let _ = writeln!(text, "item = {}", part.value);
            } else {
                entry(&mut text, &part);
            }
        }
    }
    text
}

fn answer_fields(item: Item) -> Vec<Field> {
    let content = if item == Item::Attachments {
        "PROVIDED: what the files are; they themselves go with --attach."
    } else {
        "PROVIDED: what you know."
    };
    vec![
        field("item", item.code(), ""),
        field("state", "", format!("One of {}.", ItemState::all())),
        field("content", "", content),
        field(
            "handling_code",
            "",
            format!("One of {}.", HandlingCode::all()),
        ),
        field("handling_text", "", "With H3 only: how it may be handled."),
        field(
            "source_evaluation",
            "",
            format!("One of {}.", SourceEvaluation::all()),
        ),
        field(
            "information_evaluation",
            "",
            format!("One of {}.", InformationEvaluation::all()),
        ),
        field("tlp", "", format!("One of {}.", Tlp::all())),
        field("nature", "", format!("One of {}.", Nature::all())),
        field("retain_until", "", "A date: it is to be deleted by then."),
        field(
            "ground",
            "",
            format!("REFUSED: one of {}.", RefusalGround::all()),
        ),
        field(
            "pending_until",
            "",
            "PENDING: the date when it will be known.",
        ),
    ]
}

/// A field of a TOML form, below what is said of it.
fn entry(text: &mut String, field: &Field) {
    text.push('\n');
    for line in wrapped(&field.comment) {
        let _ = writeln!(text, "# {line}");
    }
    // JSON's strings and lists of strings are TOML's.
    let value = match &field.value {
        Value::Array(items) => {
            let mut list = String::from("[");
            for item in items {
                let _ = write!(list, "\n    {item},");
            }
            list + "\n]"
        }
        other => other.to_string(),
    };
    let _ = writeln!(text, "{} = {value}", field.name);
}

/// Lines of at most 98 characters.
fn wrapped(comment: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in comment.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.len() + word.len() > 96 {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

fn object(fields: Vec<Field>) -> Value {
    let fields = fields
        .into_iter()
        .map(|field| (field.name.to_owned(), field.value));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn as_json_text(fields: Vec<Field>) -> String {
    pretty(&object(fields))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
