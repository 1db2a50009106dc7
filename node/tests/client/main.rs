//! The real binary against a service that answers from memory, over mTLS.

mod datasets;
mod follow_up_files;
mod follow_ups;
mod hits;
mod service;
mod terminal;

use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::Value;
use service::{FakeNode, Lab};

/// Runs the binary with the laboratory's client configuration; an argument is never quoted.
async fn run(lab: &Arc<Lab>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sotto-node"));
    command
        .args(args)
        .env("SOTTO_NODE_CLIENT", lab.client_file());
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    output.expect("run").expect("started")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_to_do_and_has_its_exit_code() {
    let lab = Lab::start(FakeNode::default()).await;
    let output = run(&lab, &["epoch", "open"]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("MEMBER_NOT_PINNED") && text.contains("member pin"),
        "{text}"
    );
    assert_eq!(stdout(&output), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custodian_closes_the_confirmations_of_an_epoch_and_another_node_does_not_end_it() {
    let lab = Lab::start(FakeNode::default()).await;
    let output = run(&lab, &["epoch", "close", "3", "--output", "json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let closed = stdout(&output);
    assert!(closed.contains("\"epoch\":3"), "{closed}");
    let output = run(&lab, &["epoch", "end", "3"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("ROLE_FORBIDDEN"));
    let output = run(&lab, &["epoch", "end", "0"]).await;
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_answer_has_its_exit_code() {
    let lab = Lab::start(FakeNode::default()).await;
    lab.stop().await;
    for args in [
        &["status"][..],
        &["hits", "watch"],
        &["publish"],
        &["hits", "ls", "--output", "csv"],
    ] {
        let output = run(&lab, args).await;
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        let text = stderr(&output);
        assert!(text.contains("refused"), "{text}");
        assert!(text.contains("hint: is `sotto-node serve` running"));
        assert_eq!(stdout(&output), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_is_followed_to_its_end_over_a_broken_stream() {
    let lab = Lab::start(FakeNode::default()).await;
    let args = [
        "probe",
        "suspects",
        "--purpose",
        "INVESTIGATION",
        "--legal-basis",
        "EU_2023_977",
        "--case",
        "c-1",
        "--output",
        "json",
    ];
    let output = run(&lab, &args).await;
    let result = json(&output);
    assert_eq!(result["probed"], 10);
    assert_eq!(result["matches"], 2);
    assert!(
        stderr(&output).contains("waiting for the broker"),
        "{}",
        stderr(&output)
    );

    // What the broker would refuse is refused before anything is asked.
    let args = [
        "probe",
        "suspects",
        "--purpose",
        "INVESTIGATION",
        "--legal-basis",
        "NATIONAL_LAW",
        "--case",
        "c-1",
    ];
    assert_eq!(run(&lab, &args).await.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_does_not_become_active_is_a_failure() {
    let lab = Lab::start(FakeNode::default()).await;
    let output = run(&lab, &["publish", "--type", "phone", "--output", "json"]).await;
    assert_eq!(json(&output)[0]["active"], true);
    let output = run(&lab, &["publish", "--output", "json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(printed.as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_access_log_is_verified_and_a_changed_one_is_not() {
    let lab = Lab::start(FakeNode::default()).await;
    let export = ["access-log", "export", "--why", "audit \u{e4}", "--output"];
    let args = |form| export.iter().copied().chain([form]).collect::<Vec<_>>();
    let output = run(&lab, &args("json")).await;
    let log = json(&output);
    assert_eq!(log[0]["at"], "2023-11-14T22:13:20.000002Z");
    assert_eq!(log[2]["why"], "audit \u{e4}");
    let table = stdout(&run(&lab, &args("csv")).await);
    assert_eq!(table.lines().count(), 4, "{table}");

    let file = lab.path("access.json");
    let verify = async |log: &Value| {
        std::fs::write(&file, log.to_string()).expect("written");
        let name = file.to_str().expect("UTF-8");
        run(&lab, &["access-log", "verify", name, "--output", "json"]).await
    };
    let verified = json(&verify(&log).await);
    assert_eq!(verified["entries"], 3);
    assert_eq!(verified["last_digest"], log[2]["digest"]);
    let mut changed = log.clone();
    changed[1]["why"] = "holiday".into();
    let mut cut = log.clone();
    cut.as_array_mut().expect("a list").remove(0);
    let mut odd = log.clone();
    odd[1]["at"] = "yesterday".into();
    for (log, expected) in [
        (changed, "entry 2 was changed"),
        (cut, "entry 1 is missing"),
        (odd, "entry 2 is not one"),
        (Value::Null, "not an export"),
    ] {
        let output = verify(&log).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    assert_eq!(
        run(&lab, &["access-log", "export"]).await.status.code(),
        Some(2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_certificate_and_token_is_told_what_to_set() {
    let lab = Lab::start(FakeNode::default()).await;
    let whole = std::fs::read_to_string(lab.client_file()).expect("read");
    let bare: Vec<_> = whole
        .lines()
        .filter(|line| !line.starts_with("key"))
        .collect();
    std::fs::write(lab.client_file(), bare.join("\n")).expect("written");
    let output = run(&lab, &["status"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("token_file"),
        "{}",
        stderr(&output)
    );

    let token = lab.path("token");
    std::fs::write(&token, "a.b.c").expect("written");
    let text = format!("token_file = {token:?}\n{whole}");
    std::fs::write(lab.client_file(), text).expect("written");
    let output = run(&lab, &["status"]).await;
    assert!(stderr(&output).contains("chmod 600"), "{}", stderr(&output));
}
