use super::*;

fn at(seconds: i64) -> prost_types::Timestamp {
    convert::to_timestamp(Timestamp::from_seconds(seconds))
}

fn view() -> v1::GetNodeFollowUpResponse {
    use v1::FollowUpStep as S;
    let step = |seq: u32, step: S, sender: &str| v1::NodeFollowUpStep {
        seq,
        step: step.into(),
        sender: sender.into(),
        made_at: Some(at(i64::from(seq) * 60)),
        taken_at: Some(at(i64::from(seq) * 60 + 1)),
        clear: Some(v1::FollowUpClear::default()),
        statement: Some(v1::DsseEnvelope {
            payload: seq.to_be_bytes().to_vec().into(),
            signatures: vec![v1::DsseSignature {
                keyid: format!("key-{seq}"),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut particulars = step(2, S::Particulars, "nl-fiu");
    particulars.content = Some(v1::node_follow_up_step::Content::Particulars(
        v1::FollowUpParticulars {
            selector: "+31612345678".into(),
            facts: "<script>alert('x')</script>\n\u{202e}second & last".into(),
            ..Default::default()
        },
    ));
    let mut answer = step(4, S::Answer, "de-bka");
    answer.content = Some(v1::node_follow_up_step::Content::Answer(
        v1::FollowUpAnswer {
            items: vec![v1::AnswerItem {
                item: v1::FollowUpItem::Identity.into(),
                content: "Jane Roe".into(),
                handling_code: v1::HandlingCode::H3.into(),
                handling_text: "ask \"us\"".into(),
                source_evaluation: v1::SourceEvaluation::B.into(),
                information_evaluation: v1::InformationEvaluation::Two.into(),
                tlp: v1::Tlp::AmberStrict.into(),
                nature: v1::Nature::Assessment.into(),
                retain_until: Some(at(86_400)),
            }],
            ..Default::default()
        },
    ));
    v1::GetNodeFollowUpResponse {
        follow_up: Some(v1::NodeFollowUp {
            follow_up: Some(v1::FollowUp {
                requester: "nl-fiu".into(),
                holder: "de-bka".into(),
                policy: "phone/1".into(),
                ..Default::default()
            }),
            case_ref: "<b>2026-17</b>".into(),
            ..Default::default()
        }),
        steps: vec![
            step(0, S::Submit, "nl-fiu"),
            step(1, S::Held, "de-bka"),
            particulars,
            step(3, S::Accept, "de-bka"),
            answer,
        ],
        related: vec![v1::RelatedFollowUp {
            counterpart: "fr-pj".into(),
            ..Default::default()
        }],
    }
}

#[test]
fn every_step_stands_there_in_the_order_in_which_it_was_taken() {
    let head = TreeHead {
        size: 23,
        ..TreeHead::empty()
    };
    let in_log = InLog {
        checkpoint: Some(("broker.example/sotto/euro-cyber".into(), head)),
        steps: BTreeMap::from([(2, 17)]),
        hit: Some(4),
    };
    let page = html(&view(), &in_log, Timestamp::from_seconds(0));
    let places: Vec<_> = [
        "Dossier of a follow-up",
        "leaf 4, under the checkpoint of 23 leaves",
        "23 leaves of broker.example/sotto/euro-cyber, root ",
        "0. Request submitted, by nl-fiu",
        "1. Presence proved, by de-bka",
        "2. Particulars released, by nl-fiu",
        "leaf 17, under the checkpoint of 23 leaves",
        "+31612345678",
        "signed by key key-2",
        "3. Request accepted, by de-bka",
        "4. Answer, by de-bka",
        "Jane Roe",
        "H3: ask &quot;us&quot;",
        "B2",
        "TLP:AMBER+STRICT",
        "assessment",
        "1970-01-02T00:00:00Z",
        "Other follow-ups on the same selector",
        "fr-pj",
        "</html>",
    ]
    .iter()
    .map(|part| {
        page.find(part)
            .unwrap_or_else(|| panic!("{part} in\n{page}"))
    })
    .collect();
    assert!(places.is_sorted(), "{places:?}");
    // Nothing is said of the log where nothing is proved.
    assert_eq!(page.matches("In the audit log").count(), 1);
}

#[test]
fn nothing_that_somebody_wrote_acts_in_a_browser() {
    let page = html(&view(), &InLog::default(), Timestamp::from_seconds(0));
    assert!(!page.contains("<script") && !page.contains("<b>") && !page.contains('\u{202e}'));
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
    assert!(page.contains("second &amp; last"));
    for active in ["http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(active), "{active}");
    }
}

#[test]
fn a_follow_up_without_steps_has_a_dossier_too() {
    let page = html(
        &v1::GetNodeFollowUpResponse::default(),
        &InLog::default(),
        Timestamp::from_seconds(0),
    );
    assert!(page.contains("No step has been taken yet.") && page.ends_with("</html>\n"));
}
