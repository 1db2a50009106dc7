//! Steps that are proposed, taken back and taken: what was typed is what is asked for.

use std::io::Write as _;
use std::process::{Command, Stdio};

use sotto_proto::v1;

use super::{HOSTILE, ID, PROPOSAL, assert_tame, bytes};
use crate::service::{FakeNode, Lab};
use crate::{json, run, stderr, stdout};

/// A draft that is nothing but a text.
fn message(text: &str) -> v1::FollowUpDraft {
    v1::FollowUpDraft {
        message: text.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_proposed_as_it_was_typed_and_says_who_approves_it() {
    use v1::FollowUpStep as S;

    let lab = Lab::start(FakeNode::default()).await;
    let file = lab.path("reply.txt");
    std::fs::write(&file, "\u{feff}both\r\nof them\r\n\r\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    let court = "the court decides";
    let delay = v1::FollowUpDraft {
        // 2027-01-31, 00:00 in UTC.
        new_date: Some(prost_types::Timestamp {
            seconds: 1_801_353_600,
            nanos: 0,
        }),
        ..message(court)
    };
    for (args, step, draft) in [
        (&["accept", ID][..], S::Accept, message("")),
        (
            &["clarify", ID, "--message", " which\u{2026}? "],
            S::RequestClarification,
            message("which\u{2026}?"),
        ),
        (
            &["reply", ID, "--message-file", file],
            S::Reply,
            message("both\nof them"),
        ),
        (
            &["await", ID, "--until", "2027-01-31", "--message", court],
            S::AwaitJudicialAuthorisation,
            delay,
        ),
    ] {
        let args = [&["followup", "--output", "json"], args].concat();
        let output = run(&lab, &args).await;
        let row = json(&output);
        assert_eq!(
            (&row["follow_up"], &row["with"]),
            (&ID.into(), &"nl-fiu".into())
        );
        let approve = format!("another person has to approve it: sotto-node followup approve {ID}");
        assert!(stderr(&output).contains(&approve), "{}", stderr(&output));
        let proposed = lab.node.asked().proposed.pop().expect("proposed");
        assert_eq!(proposed.follow_up_id, bytes(ID));
        assert_eq!((proposed.step(), proposed.draft), (step, Some(draft)));
    }
    assert_eq!(lab.node.asked().proposed.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_read_from_standard_input() {
    let lab = Lab::start(FakeNode::default()).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_sotto-node"));
    command
        .args(["followup", "clarify", ID, "--message-file", "-"])
        .env("SOTTO_NODE_CLIENT", lab.client_file())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().expect("piped");
        input.write_all(b"which of them?\r\nand when?\n")?;
        drop(input);
        child.wait_with_output()
    });
    let output = output.await.expect("run").expect("started");
    assert!(output.status.success(), "{}", stderr(&output));
    let proposed = lab.node.asked().proposed.pop().expect("proposed");
    let draft = message("which of them?\nand when?");
    assert_eq!(proposed.draft, Some(draft));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_before_anything_is_proposed() {
    let lab = Lab::start(FakeNode::default()).await;
    let long = "x".repeat(20_001);
    let refuse = ["refuse", ID, "--ground", "NOT_AVAILABLE"];
    let refuse = |item| [&refuse[..], &["--item", item]].concat();
    for (args, code) in [
        (&["accept", "the-last-one"][..], 2),
        (&["await", ID, "--message", "soon"], 2),
        (&["await", ID, "--until", "soon", "--message", "a"], 2),
        (&["await", ID, "--until", "2027-01-31"], 2),
        (&["reply", ID], 2),
        (&["reply", ID, "--message", "a", "--message-file", "b"], 2),
        (&["reply", ID, "--message", " \n"], 1),
        (&["reply", ID, "--message", &long], 1),
        (&["reply", ID, "--message", "a\u{1b}[2J"], 1),
        (&["reply", ID, "--message-file", "/nowhere"], 1),
        (&["refuse", ID], 2),
        (&["refuse", ID, "--ground", "BORED"], 2),
        (&refuse("SHOES"), 2),
        (&refuse("SHOES=NOT_AVAILABLE"), 2),
        // Not among what was asked for.
        (&refuse("VEHICLES=NOT_AVAILABLE"), 1),
    ] {
        let output = run(&lab, &[&["followup"], args].concat()).await;
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert_eq!(stdout(&output), "");
        assert_tame(&output);
    }
    assert!(lab.node.asked().proposed.is_empty() && lab.node.changes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_ended_by_one_person_who_means_it() {
    let lab = Lab::start(FakeNode::default()).await;
    let end = async |args: &[&str]| {
        let args = [&["followup", "--output", "json"], args].concat();
        run(&lab, &args).await
    };
    let output = end(&["withdraw", ID]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--yes"), "{}", stderr(&output));
    assert!(lab.node.asked().ended.is_empty());
    for args in [&["withdraw", ID, "--yes"][..], &["close", ID]] {
        assert_eq!(json(&end(args).await)["follow_up"], ID);
    }
    let ended = lab.node.asked().ended;
    let steps = [v1::FollowUpStep::Withdraw, v1::FollowUpStep::Close];
    assert_eq!(ended.len(), steps.len());
    for (request, step) in ended.iter().zip(steps) {
        assert_eq!((request.step(), &request.follow_up_id), (step, &bytes(ID)));
    }

    let refused = end(&["close", HOSTILE]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert_tame(&refused);
    let said = stderr(&refused);
    assert!(said.contains("ILLEGAL_TRANSITION"), "{said}");
    assert_eq!(stdout(&refused), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_is_taken_back_with_a_reason_and_only_the_one_that_was_named() {
    let lab = Lab::start(FakeNode::default()).await;
    let discard = async |more: &[&str]| {
        let args = [&["followup", "discard", ID, "--output", "csv"], more].concat();
        run(&lab, &args).await
    };
    assert_eq!(discard(&[]).await.status.code(), Some(2));
    let other = discard(&["--reason", "thin", "--proposal", ID]).await;
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("another proposal"));
    assert!(lab.node.asked().discarded.is_empty());
    let output = discard(&["--reason", "wrong \"officer\""]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = stdout(&output);
    assert!(
        printed.starts_with("follow_up,side,with,state,"),
        "{printed}"
    );
    assert_eq!(printed.lines().count(), 2);
    let discarded = v1::DiscardFollowUpStepRequest {
        follow_up_id: bytes(ID),
        proposal_id: PROPOSAL.to_vec().into(),
        reason: "wrong \"officer\"".into(),
    };
    assert_eq!(lab.node.asked().discarded, [discarded]);
}
