//! What people draft.

use sotto_common::followup::FollowUpStep;

use super::*;
use crate::app::follow_ups::tests::{answer, empty, message, request};

fn incomplete(names: &str) -> (ErrorCode, String) {
    (ErrorCode::FormIncomplete, names.to_owned())
}

/// A draft of a request on the hit of the laboratory.
fn drafted(lab: &Lab, draft: v1::FollowUpDraft) -> v1::DraftFollowUpRequest {
    v1::DraftFollowUpRequest {
        hit_id: Bytes::copy_from_slice(lab.hit.id.as_bytes()),
        draft: Some(draft),
        case_ref: "case-1".into(),
    }
}

#[tokio::test]
async fn a_draft_is_of_a_hit_and_a_case() {
    let lab = Lab::start(&[EMAIL]).await;
    let mut node = node(&lab.asks);
    for hit_id in no_ids() {
        let draft = v1::DraftFollowUpRequest {
            hit_id,
            ..drafted(&lab, request())
        };
        let told = refusal(node.draft_follow_up(draft).await);
        assert_eq!(told, field("hit_id"));
    }
    for case_ref in [String::new(), " ".into(), longer_than(128), acting()] {
        let draft = v1::DraftFollowUpRequest {
            case_ref,
            ..drafted(&lab, request())
        };
        let told = refusal(node.draft_follow_up(draft).await);
        assert_eq!(told, field("case_ref"));
    }
    let draft = v1::DraftFollowUpRequest {
        hit_id: nobodys(),
        ..drafted(&lab, request())
    };
    let (code, _) = refusal(node.draft_follow_up(draft).await);
    assert_eq!(code, ErrorCode::HitUnknown);
}

#[tokio::test]
async fn a_request_that_is_not_of_its_form_is_refused_and_nothing_is_kept() {
    type Spoil = fn(&mut v1::FollowUpTerms, &mut v1::FollowUpParticulars);
    let lab = Lab::start(&[EMAIL]).await;
    let mut node = node(&lab.asks);
    let cases: [(&str, Spoil); 14] = [
        ("time_limit", |terms, _| terms.time_limit = UNKNOWN),
        ("urgency_ground", |terms, _| terms.urgency_ground = UNKNOWN),
        // A ground without urgency.
        ("urgency_ground", |terms, _| terms.urgency_ground = 1),
        ("items", |terms, _| terms.items.push(UNKNOWN)),
        ("items", |terms, _| terms.items = vec![1; 1000]),
        ("offence_code", |terms, _| {
            terms.offence_code = longer_than(64);
        }),
        ("offence_code", |terms, _| terms.offence_code = acting()),
        ("requesting_unit", |_, form| {
            form.requesting_unit = longer_than(256);
        }),
        ("officer", |_, form| form.officer = longer_than(256)),
        ("facts", |_, form| form.facts = longer_than(20_000)),
        ("why_there", |_, form| form.why_there = longer_than(20_000)),
        ("use_restrictions", |_, form| {
            form.use_restrictions = acting();
        }),
        ("link", |_, form| form.link = acting()),
        ("language", |_, form| form.language = SENT.into()),
    ];
    for (name, spoil) in cases {
        let mut draft = request();
        let terms = draft.terms.get_or_insert_default();
        spoil(terms, draft.particulars.get_or_insert_default());
        let told = refusal(node.draft_follow_up(drafted(&lab, draft)).await);
        assert_eq!(told, field(name));
    }
    let all = v1::ListNodeFollowUpsRequest::default();
    let kept = node.list_node_follow_ups(all).await.expect("listed");
    assert!(kept.into_inner().follow_ups.is_empty());
}

#[tokio::test]
async fn everything_that_a_request_misses_is_named_at_once() {
    type Spoil = fn(&mut v1::FollowUpParticulars);
    let lab = Lab::start(&[EMAIL]).await;
    let mut node = node(&lab.asks);
    let cases: [(&str, Spoil); 5] = [
        // A code that is not known is none.
        ("purpose", |form| form.purpose = UNKNOWN),
        ("legal_basis", |form| form.legal_basis = UNKNOWN),
        ("person_role", |form| form.person_role = 0),
        ("legal_basis_reference", |form| {
            form.legal_basis_reference.clear();
        }),
        ("officer, facts", |form| {
            form.officer = " ".into();
            form.facts = "\n".into();
        }),
    ];
    for (names, spoil) in cases {
        let mut draft = request();
        spoil(draft.particulars.get_or_insert_default());
        let told = refusal(node.draft_follow_up(drafted(&lab, draft)).await);
        assert_eq!(told, incomplete(names));
    }
    let (code, missing) = refusal(node.draft_follow_up(drafted(&lab, empty())).await);
    assert_eq!(code, ErrorCode::FormIncomplete);
    for name in ["time_limit", "offence_code", "items", "facts", "language"] {
        assert!(missing.contains(name), "{name} in {missing}");
    }
}

#[tokio::test]
async fn a_request_has_no_field_of_another_step() {
    type Spoil = fn(&mut v1::FollowUpDraft);
    let lab = Lab::start(&[EMAIL]).await;
    let mut node = node(&lab.asks);
    let cases: [(&str, Spoil); 3] = [
        ("outcomes", |draft| draft.outcomes = answer().outcomes),
        ("new_date", |draft| draft.new_date = Some(before_1970())),
        ("message", |draft| draft.message = SENT.into()),
    ];
    for (name, spoil) in cases {
        let mut draft = request();
        spoil(&mut draft);
        let told = refusal(node.draft_follow_up(drafted(&lab, draft)).await);
        assert_eq!(told, field(name));
    }
}

/// What becomes of items: item, state and ground of each.
fn outcomes(of: &[[i32; 3]]) -> v1::FollowUpDraft {
    let outcome = |[item, state, ground]: &[i32; 3]| v1::ItemOutcome {
        item: *item,
        state: *state,
        ground: *ground,
        pending_until: None,
    };
    v1::FollowUpDraft {
        outcomes: of.iter().map(outcome).collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_holder_refuses_every_item_once_and_on_a_ground() {
    let lab = Lab::start(&[EMAIL]).await;
    let follow_up_id = wire(lab.received().await);
    let mut node = node(&lab.holds);
    for (draft, told) in [
        (outcomes(&[]), incomplete("outcomes")),
        (outcomes(&[[UNKNOWN, 2, 1]]), field("item")),
        (outcomes(&[[1, UNKNOWN, 1]]), field("state")),
        (outcomes(&[[1, 2, UNKNOWN]]), field("ground")),
        // Refused without a ground, and provided with one.
        (outcomes(&[[1, 2, 0]]), field("outcomes")),
        (outcomes(&[[1, 1, 1]]), field("outcomes")),
        (outcomes(&[[1, 2, 1]; 1000]), field("outcomes")),
        (outcomes(&[[1, 2, 1]]), incomplete("ATTACHMENTS")),
    ] {
        let propose = v1::ProposeFollowUpStepRequest {
            follow_up_id: follow_up_id.clone(),
            step: v1::FollowUpStep::Refuse.into(),
            draft: Some(draft),
        };
        assert_eq!(refusal(node.propose_follow_up_step(propose).await), told);
    }
}

#[tokio::test]
async fn a_text_is_there_short_and_tame_and_a_delay_has_a_date() {
    use v1::FollowUpStep as S;

    let lab = Lab::start(&[EMAIL]).await;
    let follow_up_id = wire(lab.received().await);
    let mut node = node(&lab.holds);
    let never = v1::FollowUpDraft {
        new_date: Some(before_1970()),
        ..message(SENT)
    };
    let long = message(&longer_than(20_000));
    for (step, draft, told) in [
        (S::RequestClarification, empty(), incomplete("message")),
        (
            S::RequestClarification,
            message(" \n"),
            incomplete("message"),
        ),
        (S::RequestClarification, long, field("message")),
        (
            S::RequestClarification,
            message(&acting()),
            field("message"),
        ),
        (S::Refuse, message(&acting()), field("message")),
        (
            S::AwaitJudicialAuthorisation,
            message(SENT),
            incomplete("new_date"),
        ),
        (S::AwaitJudicialAuthorisation, never, field("new_date")),
        (S::Accept, message(SENT), field("message")),
    ] {
        let propose = v1::ProposeFollowUpStepRequest {
            follow_up_id: follow_up_id.clone(),
            step: step.into(),
            draft: Some(draft),
        };
        assert_eq!(refusal(node.propose_follow_up_step(propose).await), told);
    }
    let get = v1::GetNodeFollowUpRequest {
        follow_up_id,
        ..Default::default()
    };
    let kept = node.get_node_follow_up(get).await.expect("there");
    let follow_up = kept.into_inner().follow_up.expect("there");
    assert!(follow_up.proposal.is_none());
}

#[tokio::test]
async fn an_item_of_an_answer_has_all_of_its_codes() {
    type Spoil = fn(&mut v1::AnswerItem);
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.received().await;
    lab.step(&lab.holds, id, FollowUpStep::Accept, empty())
        .await;
    let mut node = node(&lab.holds);
    let cases: [((ErrorCode, String), Spoil); 9] = [
        (field("item"), |item| item.item = UNKNOWN),
        (field("tlp"), |item| item.tlp = UNKNOWN),
        (field("retain_until"), |item| {
            item.retain_until = Some(before_1970());
        }),
        (field("content"), |item| item.content = longer_than(20_000)),
        (field("content"), |item| item.content = acting()),
        // It goes with H3 only.
        (field("handling_text"), |item| {
            item.handling_text = SENT.into();
        }),
        (incomplete("content of IDENTITY"), |item| {
            item.content.clear();
        }),
        (incomplete("nature of IDENTITY"), |item| item.nature = 0),
        (incomplete("retain_until of IDENTITY"), |item| {
            item.retain_until = None;
        }),
    ];
    for (told, spoil) in cases {
        let mut draft = answer();
        for item in &mut draft.answer.get_or_insert_default().items {
            spoil(item);
        }
        let propose = v1::ProposeFollowUpStepRequest {
            follow_up_id: wire(id),
            step: v1::FollowUpStep::Answer.into(),
            draft: Some(draft),
        };
        assert_eq!(refusal(node.propose_follow_up_step(propose).await), told);
    }
}
