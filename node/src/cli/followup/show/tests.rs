use sotto_proto::convert;

use super::*;

fn view() -> v1::GetNodeFollowUpResponse {
    let at = |seconds| Some(convert::to_timestamp(Timestamp::from_seconds(seconds)));
    let terms = v1::FollowUpTerms {
        time_limit: v1::TimeLimit::Ordinary.into(),
        offence_code: "ICCS:0701".into(),
        items: vec![v1::FollowUpItem::Identity.into()],
        ..Default::default()
    };
    v1::GetNodeFollowUpResponse {
        follow_up: Some(v1::NodeFollowUp {
            follow_up: Some(v1::FollowUp {
                requester: "nl-fiu".into(),
                holder: "de-bka".into(),
                state: v1::FollowUpState::Received.into(),
                terms: Some(terms.clone()),
                clock: Some(v1::FollowUpClock {
                    due_at: at(2 * 86_400 + 3 * 3_600),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            side: v1::FollowUpParty::Holder.into(),
            alarm: "look\u{1b}[2J".into(),
            next_action: "accept or refuse it".into(),
            proposal: Some(v1::FollowUpProposal {
                proposal_id: vec![7; 16].into(),
                step: v1::FollowUpStep::RequestClarification.into(),
                drafted_by: "spiffe://sotto.test/analyst/anna".into(),
                draft: Some(v1::FollowUpDraft {
                    message: "Which\nof the two?".into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        steps: vec![v1::NodeFollowUpStep {
            step: v1::FollowUpStep::Particulars.into(),
            sender: "nl-fiu".into(),
            state: v1::FollowUpState::Received.into(),
            taken_at: at(0),
            content: Some(v1::node_follow_up_step::Content::Particulars(
                v1::FollowUpParticulars {
                    facts: "one\ntwo\u{9b}".into(),
                    ..Default::default()
                },
            )),
            ..Default::default()
        }],
        related: Vec::new(),
    }
}

#[test]
fn people_read_the_story_the_proposal_in_full_and_what_to_do() {
    let mut out = Vec::new();
    print(Output::Table, &view(), Timestamp::from_seconds(0), &mut out).expect("written");
    let text = String::from_utf8(out).expect("UTF-8");
    for part in [
        "– RECEIVED",
        "nl-fiu asks de-bka; this node is the holder",
        "ICCS:0701",
        "2 days 3 h left (until 1970-01-03T03:00:00Z)",
        "look\u{fffd}[2J",
        "PARTICULARS by nl-fiu → RECEIVED",
        "one\n",
        "two\u{fffd}\n",
        "Waits for approval: REQUEST_CLARIFICATION",
        "spiffe://sotto.test/analyst/anna",
        "of the two?",
        "Next: accept or refuse it",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains('\u{1b}') && !text.contains('\u{9b}'));
}

#[test]
fn machines_read_all_of_it_as_one_object() {
    let mut out = Vec::new();
    print(Output::Json, &view(), Timestamp::from_seconds(0), &mut out).expect("written");
    let read: Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(read["time_left"], 2 * 86_400 + 3 * 3_600);
    assert_eq!(read["proposal"]["draft"]["message"], "Which\nof the two?");
    assert_eq!(read["steps"][0]["content"]["facts"], "one\ntwo\u{9b}");
    assert_eq!(read["terms"]["items"][0], "IDENTITY");
    assert_eq!(
        story_cells(&view(), Timestamp::from_seconds(0)).len(),
        STORY.len()
    );
}
