use super::*;
use crate::followup::codes::{RefusalGround, UrgencyGround};
use crate::followup::step::{AttachmentDigest, ItemOutcome};
use crate::random::os_rng;

fn terms(limit: TimeLimit, items: &[Item]) -> Terms {
    let urgency = limit.is_urgent().then_some(UrgencyGround::ThreatToLife);
    Terms::new(limit, urgency, "A.1", items.to_vec()).unwrap()
}

fn text() -> Confidential {
    Confidential::new("a text")
}

fn particulars() -> Particulars {
    Particulars {
        selector: Selector::new("+31612345678"),
        requesting_unit: text(),
        officer: text(),
        facts: text(),
        offence_description: text(),
        purpose: Some(Purpose::Investigation),
        legal_basis: Some(LegalBasis::Eu2023977),
        legal_basis_reference: Confidential::default(),
        link: text(),
        person_role: Some(PersonRole::Suspect),
        why_there: text(),
        use_restrictions: Confidential::default(),
        urgency_reason: Confidential::default(),
        language: "en".into(),
    }
}

/// The name of a field, and what empties it.
type Field = (&'static str, fn(&mut Particulars));

const FIELDS: &[Field] = &[
    ("selector", |p| p.selector = Selector::new("")),
    ("requesting_unit", |p| {
        p.requesting_unit = Confidential::new(" ");
    }),
    ("officer", |p| p.officer = Confidential::default()),
    ("facts", |p| p.facts = Confidential::new("\n")),
    ("offence_description", |p| {
        p.offence_description = Confidential::default();
    }),
    ("purpose", |p| p.purpose = None),
    ("legal_basis", |p| p.legal_basis = None),
    ("legal_basis_reference", |p| {
        p.legal_basis = Some(LegalBasis::NationalLaw);
    }),
    ("link", |p| p.link = Confidential::default()),
    ("person_role", |p| p.person_role = None),
    ("why_there", |p| p.why_there = Confidential::default()),
    ("language", |p| p.language = "".into()),
];

#[test]
fn each_missing_field_is_named() {
    let terms = terms(TimeLimit::Ordinary, &[Item::Identity]);
    assert!(particulars().check(&terms).is_ok());
    for (field, empty) in FIELDS {
        let mut form = particulars();
        empty(&mut form);
        let error = form.check(&terms).unwrap_err();
        assert_eq!(error.code, ErrorCode::FormIncomplete, "{field}");
        assert_eq!(error.subject.as_deref(), Some(*field));
    }
    let mut form = particulars();
    for (_, empty) in FIELDS {
        empty(&mut form);
    }
    assert!(form.missing(&terms).len() >= FIELDS.len() - 1);
}

#[test]
fn urgency_says_why_and_core_data_have_their_own_basis() {
    let urgent = terms(TimeLimit::UrgentDirect, &[Item::Identity]);
    assert_eq!(particulars().missing(&urgent), ["urgency_reason"]);
    let core = terms(TimeLimit::CoreData, &[Item::Identity]);
    let error = particulars().check(&core).unwrap_err();
    assert_eq!(error.subject.as_deref(), Some("legal_basis"));
    let mut form = particulars();
    form.legal_basis = Some(LegalBasis::Eu2024982);
    assert!(form.check(&core).is_ok());
}

#[test]
fn texts_have_bounds_and_no_control_characters() {
    let terms = terms(TimeLimit::Ordinary, &[Item::Identity]);
    let mut form = particulars();
    form.facts = Confidential::new("x".repeat(MAX_LONG_TEXT + 1));
    assert_eq!(
        form.check(&terms).unwrap_err().code,
        ErrorCode::InvalidField
    );
    form.facts = Confidential::new("bell \u{7}");
    assert_eq!(
        form.check(&terms).unwrap_err().code,
        ErrorCode::InvalidField
    );
    form.facts = Confidential::new("two\n\tlines");
    assert!(form.check(&terms).is_ok());
    form.language = "EN".into();
    assert!(form.check(&terms).is_err());
}

fn item(item: Item) -> AnswerItem {
    AnswerItem {
        item,
        content: text(),
        handling: HandlingCode::H1,
        handling_text: Confidential::default(),
        source: SourceEvaluation::A,
        information: InformationEvaluation::One,
        tlp: Tlp::Amber,
        nature: Nature::Fact,
        retain_until: Timestamp::from_seconds(1),
    }
}

fn answered(outcomes: &[(Item, ItemOutcome)]) -> AnswerClear {
    AnswerClear {
        outcomes: Outcomes::new(outcomes.to_vec()).unwrap(),
        handling: HandlingCode::H1,
        attachments: Vec::new(),
    }
}

#[test]
fn an_answer_deals_with_every_item_and_says_how_it_may_be_handled() {
    let terms = terms(TimeLimit::Ordinary, &[Item::Identity, Item::Vehicles]);
    let refused = ItemOutcome::Refused(RefusalGround::NotAvailable);
    let clear = answered(&[
        (Item::Identity, ItemOutcome::Provided),
        (Item::Vehicles, refused),
    ]);
    let mut answer = Answer {
        items: vec![item(Item::Identity)],
        file_names: Vec::new(),
    };
    assert!(answer.check(&terms, &clear).is_ok());
    answer.items[0].handling = HandlingCode::H3;
    let error = answer.check(&terms, &clear).unwrap_err();
    assert_eq!(error.subject.as_deref(), Some("handling_text of IDENTITY"));
    answer.items[0].handling = HandlingCode::H2;
    assert!(
        answer.check(&terms, &clear).is_err(),
        "the clear part says H1"
    );
    answer.items[0] = item(Item::Vehicles);
    let error = answer.check(&terms, &clear).unwrap_err();
    assert_eq!(error.subject.as_deref(), Some("IDENTITY"));
    answer.items = vec![item(Item::Identity), item(Item::Vehicles)];
    assert!(
        answer.check(&terms, &clear).is_err(),
        "a refused item has content"
    );
    answer.items = vec![item(Item::Identity)];
    let short = answered(&[(Item::Identity, ItemOutcome::Provided)]);
    let error = answer.check(&terms, &short).unwrap_err();
    assert_eq!(error.subject.as_deref(), Some("VEHICLES"));
}

#[test]
fn files_have_names_and_an_attached_item_has_files() {
    let terms = terms(TimeLimit::Ordinary, &[Item::Attachments]);
    let mut clear = answered(&[(Item::Attachments, ItemOutcome::Provided)]);
    let mut answer = Answer {
        items: vec![item(Item::Attachments)],
        file_names: Vec::new(),
    };
    let error = answer.check(&terms, &clear).unwrap_err();
    assert_eq!(error.subject.as_deref(), Some("attachments"));
    let id = AttachmentId::generate(Timestamp::from_seconds(1), &mut os_rng());
    clear.attachments.push(AttachmentDigest {
        id,
        digest: [1; 32],
    });
    assert!(
        answer.check(&terms, &clear).is_err(),
        "a file without a name"
    );
    answer.file_names.push((id, text()));
    assert!(answer.check(&terms, &clear).is_ok());
}

#[test]
fn nothing_of_it_prints() {
    let answer = Answer {
        items: vec![item(Item::Identity)],
        file_names: Vec::new(),
    };
    let shown = format!("{:?} {answer:?}", particulars());
    assert!(!shown.contains("a text") && !shown.contains("316"));
}
