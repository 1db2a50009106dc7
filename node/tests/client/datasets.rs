//! `dataset` against a service that notes what is done.

use serde_json::Value;

use super::service::{self, FakeNode, Lab};
use super::{json, run, stderr};

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
