use sotto_common::followup::codes::{Item, TimeLimit};
use sotto_common::grounds::LegalBasis;
use sotto_proto::v1;

use super::*;

const REQUEST: &str = r#"
case_ref = "2026-17"
time_limit = "urgent-direct"
urgency_ground = "threat to life"
urgency_reason = "a child is missing"
offence_code = "ICCS:0202"
offence_description = "kidnapping"
items = ["IDENTITY", "addresses"]
requesting_unit = "Unit 4"
officer = "A. Jansen, +31 70 000 0000"
purpose = "MISSING_PERSON"
legal_basis = "EU_2023_977"
person_role = "VICTIM"
facts = """
First line.
Second line.
"""
link = "the child's own telephone"
why_there = "the hit"
language = "EN"
"#;

const ANSWER: &str = r#"
[[items]]
item = "IDENTITY"
state = "PROVIDED"
content = "Jane Doe"
handling_code = "H3"
handling_text = "ask before use"
source_evaluation = "B"
information_evaluation = 2
tlp = "AMBER+STRICT"
nature = "FACT"
retain_until = 2027-01-31

[[items]]
item = "ALIASES"
state = "REFUSED"
ground = "national security"

[[items]]
item = "ADDRESSES"
state = "PENDING"
pending_until = "2027-02-01T12:00:00Z"
"#;

const ASKED: &[Item] = &[Item::Identity, Item::Aliases, Item::Addresses];

fn request(text: &str, syntax: Syntax) -> Result<v1::DraftFollowUpRequest> {
    parse::<RequestForm>(text, syntax)
        .map_err(Fault::new)?
        .draft(&[1; 16], None)
}

fn failure<T>(outcome: Result<T>) -> String {
    match outcome {
        Err(Fault::Failed { text, .. }) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("must fail"),
    }
}

/// The same form in JSON.
fn as_json(toml: &str) -> String {
    let value: toml::Value = toml::from_str(toml).expect("TOML");
    serde_json::to_string_pretty(&value).expect("JSON")
}

#[test]
fn a_request_reads_alike_from_toml_and_json() {
    let draft = request(REQUEST, Syntax::Toml).expect("whole");
    assert_eq!(
        request(&as_json(REQUEST), Syntax::Json).expect("whole"),
        draft
    );
    assert_eq!(draft.case_ref, "2026-17");
    let form = draft.draft.expect("a draft");
    let terms = form.terms.expect("terms");
    assert_eq!(terms.time_limit(), v1::TimeLimit::UrgentDirect);
    assert_eq!(terms.urgency_ground(), v1::UrgencyGround::ThreatToLife);
    assert_eq!(terms.items.len(), 2);
    let particulars = form.particulars.expect("particulars");
    assert_eq!(particulars.facts, "First line.\nSecond line.");
    assert_eq!(
        (particulars.selector.as_str(), particulars.language.as_str()),
        ("", "en")
    );
}

#[test]
fn a_key_that_no_form_has_is_refused_by_name_and_line() {
    let text = format!("{REQUEST}\nofficr = \"x\"\n");
    let problem = parse::<RequestForm>(&text, Syntax::Toml).expect_err("unknown");
    assert!(
        problem.starts_with("line 22: ") && problem.contains("officr"),
        "{problem}"
    );
    let problem = parse::<RequestForm>("{\n \"facts\": \"\",\n \"fact\": 1\n}", Syntax::Json)
        .expect_err("unknown");
    assert!(
        problem.starts_with("line 3: ") && problem.contains("`fact`"),
        "{problem}"
    );
    let text = ANSWER.replace("nature =", "natur =");
    let problem = parse::<AnswerForm>(&text, Syntax::Toml).expect_err("unknown");
    assert!(
        problem.starts_with("line 11: ") && problem.contains("natur"),
        "{problem}"
    );
}

#[test]
fn a_code_that_does_not_exist_is_refused_with_those_that_do() {
    let text = REQUEST.replace("\"VICTIM\"", "\"CULPRIT\"");
    let problem = parse::<RequestForm>(&text, Syntax::Toml).expect_err("no code");
    assert!(
        problem.starts_with("line 13: ")
            && problem.contains("CULPRIT")
            && problem.contains("WITNESS"),
        "{problem}"
    );
}

#[test]
fn every_field_that_is_missing_is_named_at_once() {
    let text = failure(RequestForm::default().draft(&[1; 16], None));
    for field in [
        "case_ref",
        "time_limit",
        "offence_code",
        "items",
        "requesting_unit",
        "officer",
        "purpose",
        "legal_basis",
        "person_role",
        "facts",
        "link",
        "why_there",
        "language",
    ] {
        assert!(text.contains(field), "{field} in {text}");
    }
    assert!(!text.contains("urgency"), "{text}");
    let without = REQUEST.replace("\"threat to life\"", "\"\"");
    assert!(failure(request(&without, Syntax::Toml)).ends_with("missing: urgency_ground"));
    let treaty = REQUEST.replace("EU_2023_977", "BILATERAL_TREATY");
    assert!(failure(request(&treaty, Syntax::Toml)).ends_with("missing: legal_basis_reference"));
}

#[test]
fn what_the_node_would_refuse_is_refused_before_it_is_asked() {
    for (from, to, field) in [
        ("ICCS:0202", "an offence", "offence_code"),
        ("\"EN\"", "\"eng\"", "language"),
        ("urgent-direct", "CORE_DATA", "urgency_ground"),
    ] {
        let text = failure(request(&REQUEST.replace(from, to), Syntax::Toml));
        assert!(text.contains(field), "{text}");
    }
    let twice = REQUEST.replace("\"addresses\"", "\"IDENTITY\"");
    assert!(failure(request(&twice, Syntax::Toml)).contains("IDENTITY"));
}

#[test]
fn a_case_beside_the_form_takes_the_place_of_its_own() {
    let form: RequestForm = parse(REQUEST, Syntax::Toml).expect("read");
    let draft = form.draft(&[1; 16], Some("2026-99")).expect("whole");
    assert_eq!(draft.case_ref, "2026-99");
}

#[test]
fn an_answer_reads_alike_from_toml_and_json() {
    let form: AnswerForm = parse(ANSWER, Syntax::Toml).expect("read");
    let json = ANSWER.replace("= 2027-01-31", "= \"2027-01-31\"");
    let same: AnswerForm = parse(&as_json(&json), Syntax::Json).expect("read");
    assert_eq!(form, same);
    let draft = form.draft(ASKED).expect("whole");
    let states: Vec<_> = draft
        .outcomes
        .iter()
        .map(|o| o.state().as_str_name())
        .collect();
    assert_eq!(
        states,
        [
            "ITEM_STATE_PROVIDED",
            "ITEM_STATE_REFUSED",
            "ITEM_STATE_PENDING"
        ]
    );
    let items = draft.answer.expect("an answer").items;
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].tlp(), v1::Tlp::AmberStrict);
    assert_eq!(
        items[0].information_evaluation(),
        v1::InformationEvaluation::Two
    );
    assert_eq!(
        items[0].retain_until.map(|at| at.seconds),
        Some(1_801_353_600)
    );
}

#[test]
fn an_answer_names_every_item_and_field_that_is_missing() {
    let text = "[[items]]\nitem = \"IDENTITY\"\nstate = \"PROVIDED\"\nhandling_code = \"H3\"\n";
    let form: AnswerForm = parse(text, Syntax::Toml).expect("read");
    let text = failure(form.draft(ASKED));
    for missing in [
        "content of IDENTITY",
        "handling_text of IDENTITY",
        "tlp of IDENTITY",
        "ALIASES",
        "ADDRESSES",
    ] {
        assert!(text.contains(missing), "{missing} in {text}");
    }
}

#[test]
fn an_answer_says_nothing_of_what_was_not_asked_and_refuses_not_everything() {
    let form: AnswerForm = parse(ANSWER, Syntax::Toml).expect("read");
    assert!(failure(form.draft(&[Item::Identity])).contains("ALIASES"));
    let refused = "[[items]]\nitem = \"IDENTITY\"\nstate = \"REFUSED\"\nground = \"NOT_AVAILABLE\"";
    let form: AnswerForm = parse(refused, Syntax::Toml).expect("read");
    assert!(failure(form.draft(&[Item::Identity])).contains("every item"));
    let odd = ANSWER.replace("ground = \"national security\"", "ground = 1");
    assert!(parse::<AnswerForm>(&odd, Syntax::Toml).is_err());
    let odd = ANSWER.replace(
        "state = \"PENDING\"",
        "state = \"PENDING\"\ncontent = \"x\"",
    );
    let form: AnswerForm = parse(&odd, Syntax::Toml).expect("read");
    assert!(failure(form.draft(ASKED)).contains("content of ADDRESSES"));
}

/// Puts something into every field that is still empty.
fn filled(blank: &str) -> String {
    let lines = blank.lines().map(|line| match line.split_once(" = \"\"") {
        Some((name @ ("urgency_ground" | "urgency_reason"), "")) => format!("{name} = \"\""),
        Some(("purpose", "")) => "purpose = \"INVESTIGATION\"".into(),
        Some(("person_role", "")) => "person_role = \"SUSPECT\"".into(),
        Some((name, "")) => format!("{name} = \"x\""),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_blank_form_of_every_legal_basis_is_a_request_once_it_is_filled_in() {
    for &basis in LegalBasis::ALL {
        let blank = blank_request(basis, false);
        assert!(
            blank.lines().all(|line| line.chars().count() <= 100),
            "{blank}"
        );
        let missing = failure(request(&blank, Syntax::Toml));
        assert_eq!(
            missing.contains("legal_basis_reference"),
            basis.needs_reference()
        );
        let draft = request(&filled(&blank), Syntax::Toml).expect("whole");
        let form = draft.draft.expect("a draft");
        let particulars = form.particulars.expect("particulars");
        assert_eq!(particulars.legal_basis(), v1::LegalBasis::from(basis));
        let core = form.terms.expect("terms").time_limit() == TimeLimit::CoreData.into();
        assert_eq!(core, basis == LegalBasis::Eu2024982);
        let json = blank_request(basis, true);
        let from_json: RequestForm = parse(&json, Syntax::Json).expect("JSON");
        assert_eq!(from_json, parse(&blank, Syntax::Toml).expect("TOML"));
    }
}

#[test]
fn a_blank_answer_has_an_entry_for_every_item_that_was_asked_for() {
    let blank = blank_answer(Item::ALL, false);
    let form: AnswerForm = parse(&blank, Syntax::Toml).expect("read");
    assert_eq!(form.items.len(), Item::ALL.len());
    let json: AnswerForm = parse(&blank_answer(Item::ALL, true), Syntax::Json).expect("read");
    assert_eq!(json, form);
    let filled = blank
        .replace("state = \"\"", "state = \"REFUSED\"")
        .replace("ground = \"\"", "ground = \"NOT_AVAILABLE\"")
        .replacen("state = \"REFUSED\"", "state = \"PENDING\"", 1)
        .replacen("ground = \"NOT_AVAILABLE\"", "ground = \"\"", 1)
        .replacen("pending_until = \"\"", "pending_until = \"2027-01-31\"", 1);
    let form: AnswerForm = parse(&filled, Syntax::Toml).expect("read");
    assert_eq!(
        form.draft(Item::ALL).expect("whole").outcomes.len(),
        Item::ALL.len()
    );
}

#[test]
fn the_sample_forms_are_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/follow-ups");
    let form: RequestForm = read(&folder.join("request.toml")).expect("read");
    let asked = form
        .draft(&[1; 16], None)
        .expect("whole")
        .draft
        .expect("a draft");
    let asked = asked.terms.expect("terms");
    let items: Vec<_> = asked
        .items()
        .filter_map(|item| Item::read(item.as_str_name().trim_start_matches("FOLLOW_UP_ITEM_")))
        .collect();
    let answer: AnswerForm = read(&folder.join("answer.toml")).expect("read");
    answer
        .draft(&items)
        .expect("an answer to the sample request");
}

#[test]
fn the_syntax_of_a_form_is_told_by_its_name_or_else_by_its_first_character() {
    assert_eq!(Syntax::of(Path::new("a.JSON"), ""), Syntax::Json);
    assert_eq!(Syntax::of(Path::new("a.toml"), "{"), Syntax::Toml);
    assert_eq!(Syntax::of(Path::new("-"), " \n{"), Syntax::Json);
    assert_eq!(Syntax::of(Path::new("form"), "facts = ''"), Syntax::Toml);
}
