//! `followup watch`, and how it is stopped.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sotto_proto::v1;

use super::{HOSTILE, ID, assert_tame};
use crate::service::{FakeNode, Lab};
use crate::{stderr, stdout};

/// Events that the fake tells.
const EVENTS: usize = 2;

/// Begins to watch behind cursor 4.
fn watch(lab: &Lab, form: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sotto-node"))
        .args(["followup", "watch", "--from", "4", "--why", "night duty"])
        .args(["--output", form])
        .env("SOTTO_NODE_CLIENT", lab.client_file())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let out = child.stdout.take().expect("piped");
    (child, BufReader::new(out))
}

/// Watches until all events are there, and interrupts.
fn interrupted(lab: &Lab, form: &str) -> Output {
    let (child, mut out) = watch(lab, form);
    let mut text = String::new();
    for _ in 0..EVENTS {
        out.read_line(&mut text).expect("a line");
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("interrupted");
    out.read_to_string(&mut text).expect("read");
    Output {
        stdout: text.into_bytes(),
        ..child.wait_with_output().expect("ended")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_ends_at_an_interrupt_with_whole_lines_and_without_a_complaint() {
    let lab = Lab::start(FakeNode::default()).await;
    for form in ["table", "json", "csv", "tsv"] {
        let output = interrupted(&lab, form);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stderr(&output), "");
        let text = stdout(&output);
        assert_eq!(text.lines().count(), EVENTS, "{text}");
        assert!(text.ends_with('\n') && text.contains("REMINDER"), "{text}");
        assert_tame(&output);
    }
    let asked = v1::WatchNodeFollowUpsRequest {
        cursor: 4,
        why: "night duty".into(),
    };
    assert_eq!(lab.node.asked().watched, vec![asked; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_an_object_on_a_line_with_the_follow_up_as_it_stands() {
    let lab = Lab::start(FakeNode::default()).await;
    let text = stdout(&interrupted(&lab, "json"));
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(events.len(), EVENTS);
    for (event, expected) in events.iter().zip([
        serde_json::json!([5, "STEP", "ACCEPT", null, ID, "RECEIVED"]),
        serde_json::json!([6, "REMINDER", "", 80, HOSTILE, "RECEIVED"]),
    ]) {
        let names = [
            "cursor",
            "news",
            "step",
            "reminder_percent",
            "follow_up",
            "state",
        ];
        let told = names.map(|name| event[name].clone());
        assert_eq!(Value::from(told.to_vec()), expected);
    }
}
