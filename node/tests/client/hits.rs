//! `hits` against a service that has a few.

use std::process::Command;

use serde_json::Value;

use super::service::{self, FakeNode, Lab};
use super::{json, run, stderr, stdout};

#[tokio::test(flavor = "multi_thread")]
async fn hits_are_paged_through_and_sanitised() {
    let lab = Lab::start(FakeNode::default()).await;
    let all = json(&run(&lab, &["hits", "ls", "--all", "--output", "json"]).await);
    assert_eq!(all.as_array().map(Vec::len), Some(service::HITS));
    assert_eq!(all[0]["value"], "+31612345678");
    assert_eq!(all[0]["record"], service::HOSTILE);
    assert_eq!(all[0]["contact_unit"], service::HOSTILE);
    assert_eq!(all[0]["handling_code"], "H3");
    assert_eq!(all[0]["match_class"], "EXACT");

    let some = json(&run(&lab, &["hits", "ls", "--limit", "3", "--output", "json"]).await);
    assert_eq!(some.as_array().map(Vec::len), Some(3));

    let table = stdout(&run(&lab, &["hits", "ls", "--all"]).await);
    assert!(table.contains("1 in 800 million by chance"), "{table}");
    let tsv = stdout(&run(&lab, &["hits", "ls", "--all", "--output", "tsv"]).await);
    assert_eq!(tsv.lines().count(), service::HITS);
    assert!(tsv.lines().all(|line| line.split('\t').count() == 20));
    for printed in [table, tsv] {
        assert!(!printed.contains('\u{1b}'), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filters_of_a_list_reach_the_service() {
    let lab = Lab::start(FakeNode::default()).await;
    let args = [
        "hits",
        "ls",
        "--holder",
        "de-bka",
        "--type",
        "phone",
        "--dataset",
        "suspects",
        "--state",
        "under-review",
        "--since",
        "1970-01-02",
        "--case",
        "2026-17",
        "--why",
        "inspection",
        "--with-removed",
    ];
    let output = run(&lab, &args).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let asked = lab.node.listed();
    assert_eq!(
        (asked.holder.as_str(), asked.policy.as_str()),
        ("de-bka", "phone/1")
    );
    assert_eq!(
        (asked.dataset.as_str(), asked.why.as_str()),
        ("suspects", "inspection")
    );
    assert_eq!(
        (asked.case_ref.as_str(), asked.with_removed),
        ("2026-17", true)
    );
    assert_eq!(asked.since.map(|since| since.seconds), Some(86_400));
    assert_eq!(asked.state, 2);
    for bad in [["--since", "soon"], ["--state", "OPEN"]] {
        let output = run(&lab, &["hits", "ls", bad[0], bad[1]]).await;
        assert_eq!(output.status.code(), Some(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn confirming_a_hit_that_nobody_looks_at_begins_its_review_and_says_so() {
    let lab = Lab::start(FakeNode::default()).await;
    let review = async |more: &[&str]| {
        let args = [&["hits", "review", service::REVIEWED], more].concat();
        run(&lab, &args).await
    };
    // What makes no sense is refused before anything is recorded.
    for wrong in [
        &["--confirm"][..],
        &["--reason", "seen"],
        &["--confirm", "--begin", "--reason", "seen"],
        &[
            "--confirm",
            "--reason",
            "seen",
            "--second-factor",
            "shoe=44",
        ],
    ] {
        assert_eq!(review(wrong).await.status.code(), Some(2), "{wrong:?}");
    }
    let weak = review(&["--confirm", "--reason", "seen"]).await;
    assert_eq!(weak.status.code(), Some(1));
    assert!(
        stderr(&weak).contains("hint: give --second-factor"),
        "{}",
        stderr(&weak)
    );
    assert!(lab.node.reviewed().is_empty());

    let done = review(&[
        "--confirm",
        "--reason",
        "same handset",
        "--second-factor",
        "document=NL 1234567",
        "--output",
        "json",
    ])
    .await;
    let hit = json(&done);
    assert_eq!(hit["state"], "CONFIRMED");
    assert_eq!(
        hit["remarks"],
        serde_json::json!(["needs second factor", "feedback pending"])
    );
    let said = stderr(&done);
    assert!(said.contains("its review is begun first"), "{said}");
    assert!(said.contains("on its way to the broker"), "{said}");
    let reviewed = lab.node.reviewed();
    let decided: Vec<_> = reviewed
        .iter()
        .map(|r| {
            (
                r.decision,
                r.reason.as_str(),
                r.second_factor_value.as_str(),
            )
        })
        .collect();
    assert_eq!(decided, [(1, "", ""), (2, "same handset", "NL 1234567")]);
    assert_eq!(reviewed[1].second_factor, 4);

    let again = review(&["--begin"]).await;
    assert_eq!(again.status.code(), Some(1));
    let text = stderr(&again);
    assert!(text.contains("ILLEGAL_TRANSITION") && text.contains("hint: `sotto-node hits show"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_comes_from_standard_input_and_the_story_shows_it() {
    use std::io::Write as _;
    use std::process::Stdio;

    let lab = Lab::start(FakeNode::default()).await;
    let args = [
        "hits",
        "review",
        service::REVIEWED,
        "--not-relevant",
        "--reason",
        "-",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_sotto-node"));
    command
        .args(args)
        .env("SOTTO_NODE_CLIENT", lab.client_file())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().expect("piped");
        input.write_all(b"an old case\r\nclosed in 2019\n")?;
        drop(input);
        child.wait_with_output()
    });
    let output = output.await.expect("run").expect("started");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let reason = &lab.node.reviewed()[1].reason;
    assert_eq!(reason, "an old case\nclosed in 2019");

    let shown = run(&lab, &["hits", "show", service::REVIEWED]).await;
    let text = stdout(&shown);
    for part in [
        "NOT_RELEVANT",
        "1 in 800 million by chance",
        "spiffe://sotto.test/analyst/anna",
        "      an old case\n      closed in 2019\n",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains('\u{1b}'));
    let shown = run(
        &lab,
        &["hits", "show", service::REVIEWED, "--output", "json"],
    )
    .await;
    assert_eq!(json(&shown)["events"][1]["reason"], reason.as_str());
    let unknown = "019a1b2c-3d4e-7f60-8123-000000000000";
    let output = run(&lab, &["hits", "show", unknown]).await;
    assert!(stderr(&output).contains("HIT_UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_goes_on_from_the_last_cursor_when_the_stream_ends() {
    let lab = Lab::start(FakeNode::default()).await;
    let output = run(&lab, &["hits", "watch", "--from", "4", "--output", "json"]).await;
    let lines: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    // The fake gives two events a stream, and refuses after the second stream.
    let cursors: Vec<_> = lines.iter().map(|event| event["cursor"].clone()).collect();
    assert_eq!(cursors, [5, 6, 7, 8]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("CURSOR_INVALID"));
}
