//! `followup files`, and an answer that is given again after a break.

use std::path::Path;

use sha2::{Digest as _, Sha256};
use sotto_common::ids::AttachmentId;
use sotto_proto::v1;

use super::service::{FakeNode, Lab};
use super::{json, run, stderr, stdout};

const ID: &str = "019a1b2c-3d4e-7f60-8123-456789abcde0";
const FILE: &str = "019a1b2e-3d4e-7f60-8123-456789abcde0";
const OTHER: &str = "019a1b2e-3d4e-7f60-8123-456789abcde1";

/// An answer with files.
const FORM: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../deploy/config/follow-ups/answer.toml"
);

/// A file that is at the node.
fn known(id: &str, name: &str, content: &[u8]) -> v1::NodeFollowUpAttachment {
    let id: AttachmentId = id.parse().expect("an id");
    v1::NodeFollowUpAttachment {
        attachment_id: id.as_bytes().to_vec().into(),
        name: name.into(),
        size: content.len() as u64,
        sha256: Sha256::digest(content).to_vec().into(),
        ..Default::default()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_broke_off_goes_on_with_the_file_that_is_missing() {
    let lab = Lab::start(FakeNode::default()).await;
    let (first, second) = (lab.path("first.pdf"), lab.path("second.pdf"));
    std::fs::write(&first, "the first").expect("written");
    std::fs::write(&second, "the second").expect("written");
    lab.node.put_file(known(FILE, "first.pdf", b"the first"));
    lab.node.put_file(known(OTHER, "zeroth.pdf", b"the zeroth"));
    let answer = [
        "followup",
        "answer",
        ID,
        "--form",
        FORM,
        "--attach",
        text(&first),
        text(&second),
    ];
    let output = run(&lab, &answer).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains(&format!("first.pdf is at the node already, as {FILE}")),
        "{said}"
    );
    assert!(said.contains("zeroth.pdf was given before"), "{said}");
    let changes = lab.node.changes();
    assert_eq!(changes[0], "file second.pdf of 10");
    assert!(
        changes[1].starts_with("FOLLOW_UP_STEP_ANSWER"),
        "{changes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_broke_off_goes_on_if_it_is_the_same_and_begins_anew_if_not() {
    let lab = Lab::start(FakeNode::default()).await;
    let (same, other) = (lab.path("same.pdf"), lab.path("other.pdf"));
    std::fs::write(&same, "the same").expect("written");
    std::fs::write(&other, "another").expect("written");
    for (name, content) in [("same.pdf", "the same"), ("other.pdf", "the old")] {
        let broke_off = v1::UnfinishedAttachment {
            name: name.into(),
            size: content.len() as u64,
            sha256: Sha256::digest(content).to_vec().into(),
            acknowledged: 4,
        };
        lab.node.unfinished.lock().expect("lock").push(broke_off);
    }
    let listed = run(&lab, &["followup", "files", ID]).await;
    let said = stderr(&listed);
    assert!(
        said.contains("same.pdf broke off after 4 of 8 bytes"),
        "{said}"
    );
    let (same, other) = (text(&same), text(&other));
    let args = [
        "followup", "answer", ID, "--form", FORM, "--attach", same, other,
    ];
    let output = run(&lab, &args).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("same.pdf goes on after 4 of 8 bytes"),
        "{said}"
    );
    let changes = lab.node.changes();
    assert_eq!(changes[0], "file same.pdf of 8 from 4 on");
    assert_eq!(changes[1], "file other.pdf of 7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_bytes_the_node_has_lost_is_told_and_sent_again() {
    let lab = Lab::start(FakeNode::default()).await;
    let path = lab.path("report.pdf");
    std::fs::write(&path, "a report").expect("written");
    lab.node.put_file(v1::NodeFollowUpAttachment {
        bytes_missing: true,
        ..known(FILE, "report.pdf", b"a report")
    });
    let files = ["followup", "files", ID, "--output", "json"];
    let listed = json(&run(&lab, &files).await);
    assert_eq!(listed[0]["state"], "bytes missing: attach again");
    let path = text(&path);
    let args = ["followup", "answer", ID, "--form", FORM, "--attach", path];
    let output = run(&lab, &args).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(lab.node.changes()[0], "file report.pdf of 8");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_of_a_name_is_refused_before_the_first_one_goes() {
    let lab = Lab::start(FakeNode::default()).await;
    let (new, report) = (lab.path("new.pdf"), lab.path("report.pdf"));
    std::fs::write(&new, "new").expect("written");
    std::fs::write(&report, "content").expect("written");
    lab.node.put_file(known(FILE, "report.pdf", b"context"));
    let answer = async |files: &[&str]| {
        let args = ["followup", "answer", ID, "--form", FORM, "--attach"];
        run(&lab, &[&args[..], files].concat()).await
    };
    let output = answer(&[text(&new), text(&report)]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("another file named report.pdf"), "{said}");
    let advice = format!("followup files {ID} --remove {FILE}");
    assert!(said.contains(&advice), "{said}");
    let output = answer(&[text(&new), text(&new)]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(lab.node.changes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_answer_are_listed_and_removed() {
    let lab = Lab::start(FakeNode::default()).await;
    let files = async |more: &[&str]| run(&lab, &[&["followup", "files", ID], more].concat()).await;
    assert_eq!(stdout(&files(&[]).await), "none\n");
    lab.node.put_file(known(FILE, "report.pdf", b""));
    lab.node.put_file(known(OTHER, "a\u{1b}[2J.pdf", b"x"));
    let listed = json(&files(&["--output", "json"]).await);
    assert_eq!(listed[0]["attachment"], FILE);
    assert_eq!(listed[0]["name"], "report.pdf");
    assert_eq!(listed[1]["size"], 1);
    assert_eq!(listed[0]["sha256"], hex::encode(Sha256::digest(b"")));
    assert_eq!(listed[0]["at_broker"], false);
    assert_eq!(listed[0]["state"], "at the node");
    let csv = stdout(&files(&["--output", "csv"]).await);
    assert!(csv.starts_with("attachment,name,size,sha256,at_broker,state\n"));
    assert!(!csv.contains('\u{1b}'), "{csv}");

    let output = files(&["--remove", FILE, "--output", "tsv"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("is removed"));
    let left = stdout(&output);
    assert!(left.starts_with(OTHER) && left.lines().count() == 1);
    let output = files(&["--remove", FILE]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("ATTACHMENT_UNKNOWN"), "{said}");
    let output = files(&["--remove", "report.pdf"]).await;
    assert_eq!(output.status.code(), Some(2));
}
