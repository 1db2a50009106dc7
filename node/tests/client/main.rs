//! The real binary against a service that answers from memory, over mTLS.

mod follow_ups;
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
async fn hits_are_paged_through_and_sanitised() {
    let lab = Lab::start(FakeNode::default()).await;
    let all = json(&run(&lab, &["hits", "ls", "--all", "--output", "json"]).await);
    assert_eq!(all.as_array().map(Vec::len), Some(service::HITS));
    assert_eq!(all[0]["value"], "+31612345678");
    assert_eq!(all[0]["record"], service::HOSTILE);

    let some = json(&run(&lab, &["hits", "ls", "--limit", "3", "--output", "json"]).await);
    assert_eq!(some.as_array().map(Vec::len), Some(3));

    let table = stdout(&run(&lab, &["hits", "ls", "--all"]).await);
    assert!(table.contains("1 in 800 million by chance"), "{table}");
    let tsv = stdout(&run(&lab, &["hits", "ls", "--all", "--output", "tsv"]).await);
    assert_eq!(tsv.lines().count(), service::HITS);
    assert!(tsv.lines().all(|line| line.split('\t').count() == 14));
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

#[tokio::test(flavor = "multi_thread")]
async fn an_import_joins_what_the_file_and_what_the_node_rejects() {
    let lab = Lab::start(FakeNode::default()).await;
    let file = lab.path("numbers.txt");
    let mut content = Vec::new();
    for number in 0..20_000 {
        content.extend(format!("+3161{number:07}\r\n").into_bytes());
    }
    content.extend(b"\xff\xfe\n");
    std::fs::write(&file, content).expect("written");
    let file = file.to_str().expect("UTF-8");
    let args = [
        "dataset", "import", "suspects", "--type", "phone", file, "--output", "json",
    ];
    let report = json(&run(&lab, &args).await);
    assert_eq!(report["rows"], 20_001);
    assert_eq!(report["accepted"], 20_000);
    assert_eq!(report["rejections"][0]["kind"], "malformed");
    assert_eq!(report["rejections"][0]["first_lines"][0], 20_001);
    assert_eq!(lab.node.imported(), Some(20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_file_breaks_is_broken_off_and_never_completed() {
    let lab = Lab::start(FakeNode::default()).await;
    let file = lab.path("numbers.csv");
    let mut content = b"phone\n".to_vec();
    content.extend(b"+31612345678\n".repeat(50_000));
    content.push(b'"');
    content.extend(b"x".repeat(3 * 1024 * 1024));
    std::fs::write(&file, content).expect("written");
    let file = file.to_str().expect("UTF-8");
    let output = run(
        &lab,
        &["dataset", "import", "suspects", "--type", "phone", file],
    )
    .await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("quote"), "{}", stderr(&output));
    lab.node.import_ended().await;
    assert_eq!(lab.node.imported(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_the_node_refuses_early_tells_its_refusal() {
    let lab = Lab::start(FakeNode::default()).await;
    let file = lab.path("numbers.txt");
    std::fs::write(&file, b"+31612345678\n".repeat(1_000_000)).expect("written");
    let file = file.to_str().expect("UTF-8");
    let args = [
        "dataset",
        "import",
        service::REFUSED,
        "--type",
        "phone",
        file,
    ];
    let output = run(&lab, &args).await;
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("ROLE_FORBIDDEN") && text.contains("hint: "),
        "{text}"
    );
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
async fn what_is_removed_is_followed_until_it_matches_no_more() {
    let lab = Lab::start(FakeNode::default()).await;
    let file = lab.path("cleared.csv");
    std::fs::write(&file, "case,phone\n2026-17,+31612345678\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    let remove = ["dataset", "remove", "suspects", "--column", "phone", file];
    let output = run(&lab, &remove).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("matches no more"),
        "{}",
        stderr(&output)
    );
    let by_record = [
        "dataset",
        "remove",
        "suspects",
        "--by-record",
        "--column",
        "case",
        file,
        "--output",
        "json",
    ];
    let report = json(&run(&lab, &by_record).await);
    assert_eq!(
        (&report["removed"], &report["policy"]),
        (&1.into(), &"phone/1".into())
    );
    assert_eq!(
        lab.node.changes(),
        [
            "suspects false",
            "2|+31612345678|",
            "suspects true",
            "2||2026-17"
        ]
    );

    // The node has removed it, and cannot tell the broker.
    let cut_off = [
        "dataset",
        "remove",
        service::CUT_OFF,
        "--column",
        "phone",
        file,
        "--output",
        "json",
    ];
    let output = run(&lab, &cut_off).await;
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("still matches") && text.contains("UNAVAILABLE"),
        "{text}"
    );
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["removed"], 1);
    let output = run(&lab, &[&cut_off[..], &["--no-wait"]].concat()).await;
    assert!(output.status.success(), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_is_deleted_only_by_who_means_it() {
    let lab = Lab::start(FakeNode::default()).await;
    let output = run(&lab, &["dataset", "delete", "suspects"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--yes") && lab.node.changes().is_empty());
    let yes = ["dataset", "delete", "suspects", "--yes", "--output", "json"];
    assert_eq!(json(&run(&lab, &yes).await)["removed"], 7);
    assert_eq!(lab.node.changes(), ["deleted suspects"]);
    let unknown = ["dataset", "delete", service::REFUSED, "--yes"];
    let output = run(&lab, &unknown).await;
    assert!(stderr(&output).contains("DATASET_UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_is_filled_from_its_database_on_request_and_problems_are_listed() {
    let lab = Lab::start(FakeNode::default()).await;
    let output = run(&lab, &["dataset", "sources", "--output", "json"]).await;
    let sources: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(sources[0]["problem"], "PostgreSQL says 42P01");
    assert_eq!(sources[0]["last_run_at"], Value::Null);
    let sync = ["dataset", "sync", "suspects", "--output", "json"];
    let output = run(&lab, &[&sync[..], &["--allow-shrink"]].concat()).await;
    assert_eq!(output.status.code(), Some(2));
    let full = ["--full", "--allow-shrink", "--no-wait"];
    let report = json(&run(&lab, &[&sync[..], &full].concat()).await);
    assert_eq!(
        (&report["rows"], &report["removed"]),
        (&9.into(), &2.into())
    );
    assert_eq!(report["watermark"], "2026-01-01");
    // What was removed is waited for, and the broker does not take the filters.
    let output = run(&lab, &sync).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("still matches"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        lab.node.changes(),
        ["sync suspects true true", "sync suspects false false"]
    );
    let output = run(&lab, &["dataset", "sync", service::REFUSED]).await;
    assert!(
        stderr(&output).contains("dataset sources"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_dataset_are_checked_before_they_are_sent() {
    let lab = Lab::start(FakeNode::default()).await;
    let set = async |args: &[&str]| {
        let all = [&["dataset", "set", "suspects", "--output", "json"], args].concat();
        run(&lab, &all).await
    };
    for wrong in [
        &[][..],
        &["--probe"],
        &["--probe", "--no-probe"],
        &["--purpose", "DETECTION"],
        &[
            "--probe",
            "--purpose",
            "DETECTION",
            "--legal-basis",
            "NATIONAL_LAW",
            "--case",
            "c",
        ],
    ] {
        assert_eq!(set(wrong).await.status.code(), Some(2), "{wrong:?}");
    }
    assert!(lab.node.changes().is_empty());
    let probe = [
        "--probe",
        "--purpose",
        "DETECTION",
        "--legal-basis",
        "EU_2023_977",
        "--case",
        "c-1",
    ];
    let now = json(&set(&probe).await);
    assert_eq!(
        (&now["probed_for"], &now["case"]),
        (&"DETECTION".into(), &"c-1".into())
    );
    let output = set(&["--publish", "no", "--no-probe"]).await;
    assert!(
        stderr(&output).contains("matches no more"),
        "{}",
        stderr(&output)
    );
    assert_eq!(json(&output)["published"], false);
    assert_eq!(
        lab.node.changes(),
        ["suspects None false", "suspects Some(false) true"]
    );
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
async fn an_import_gives_rows_their_expiry_and_waits_for_what_it_replaces() {
    let lab = Lab::start(FakeNode::default()).await;
    let file = lab.path("numbers.csv");
    std::fs::write(
        &file,
        "phone,until\n+31612345678,1970-01-02\n+31612345679,\n",
    )
    .expect("written");
    let file = file.to_str().expect("UTF-8");
    let import = [
        "dataset",
        "import",
        "suspects",
        "--type",
        "phone",
        "--replace",
        "--expires-column",
        "until",
        "--expires",
        "1970-01-03T00:00:00Z",
        file,
        "--output",
        "json",
    ];
    let output = run(&lab, &import).await;
    assert_eq!(json(&output)["removed"], 1);
    assert!(
        stderr(&output).contains("matches no more"),
        "{}",
        stderr(&output)
    );
    assert_eq!(lab.node.changes(), ["expires 86400", "expires 172800"]);
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
