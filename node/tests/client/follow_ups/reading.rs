//! What is listed, shown and counted: as it was asked for, and without acting on the terminal.

use serde_json::Value;
use sotto_proto::v1;

use super::{ESCAPES, HOSTILE, ID, assert_tame, bytes};
use crate::service::{FakeNode, Lab, REVIEWED};
use crate::{json, run, stderr, stdout};

#[tokio::test(flavor = "multi_thread")]
async fn the_filters_of_a_list_of_follow_ups_reach_the_service() {
    let lab = Lab::start(FakeNode::default()).await;
    let state = "awaiting-judicial-authorisation";
    let who = ["followup", "ls", "--as", "holder", "--with", "de-bka"];
    let what = ["--state", state, "--hit", REVIEWED, "--todo"];
    let args = [&who[..], &what, &["--why", "night duty"]].concat();
    let output = run(&lab, &args).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let asked = lab.node.asked().listed;
    let first = v1::ListNodeFollowUpsRequest {
        side: v1::FollowUpParty::Holder.into(),
        state: v1::FollowUpState::AwaitingJudicialAuthorisation.into(),
        counterpart: "de-bka".into(),
        to_do: true,
        hit_id: bytes(REVIEWED),
        page_size: 1000,
        page_token: String::new(),
        why: "night duty".into(),
    };
    // The next page is asked for as the first was.
    let second = v1::ListNodeFollowUpsRequest {
        page_token: "more".into(),
        ..first.clone()
    };
    assert_eq!(asked, [first, second]);
    let long = "w".repeat(257);
    for bad in [
        ["--as", "witness"],
        ["--state", "OPEN"],
        ["--with", "No Node"],
        ["--hit", "1"],
        ["--why", &long],
    ] {
        let output = run(&lab, &["followup", "ls", bad[0], bad[1]]).await;
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
    }
    assert_eq!(lab.node.asked().listed.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_says_why_it_is_read_and_is_a_list_in_every_form() {
    let lab = Lab::start(FakeNode::default()).await;
    let inbox = async |form: &str| {
        let args = ["followup", "inbox", "--why", "night duty", "--output", form];
        let output = run(&lab, &args).await;
        assert!(output.status.success(), "{}", stderr(&output));
        output
    };
    let list = json(&inbox("json").await);
    let ids = [&list[0]["follow_up"], &list[1]["follow_up"]];
    assert_eq!(ids, [ID, HOSTILE]);
    assert_eq!(list[1]["case_ref"], ESCAPES);
    let csv = stdout(&inbox("csv").await);
    assert!(
        csv.starts_with("follow_up,side,with,state,time_left,"),
        "{csv}"
    );
    assert_eq!(csv.lines().count(), 3);
    let tsv = stdout(&inbox("tsv").await);
    assert!(
        tsv.lines().all(|line| line.split('\t').count() == 13),
        "{tsv}"
    );
    let table = stdout(&inbox("table").await);
    assert!(table.contains("time left"), "{table}");
    let asked = &lab.node.asked().listed[0];
    assert_eq!(asked.side(), v1::FollowUpParty::Holder);
    assert_eq!(asked.why, "night duty");
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_are_shown_to_who_reads_and_not_to_who_looks() {
    let lab = Lab::start(FakeNode::default()).await;
    let story = async |command: &str, form: &str| {
        let how = ["--why", "hearing", "--output", form];
        run(&lab, &[&["followup", command, ID], &how[..]].concat()).await
    };
    let shown = json(&story("show", "json").await);
    assert_eq!(shown["state"], "RECEIVED");
    assert_eq!(shown["proposal"]["step"], "REQUEST_CLARIFICATION");
    assert_eq!(shown["related"][0]["with"], "fr-pj");
    assert_eq!(shown["steps"][0]["content"], Value::Null);
    let read = json(&story("read", "json").await);
    let content = &read["steps"][0]["content"];
    assert_eq!(content["items"][0]["content"], "Anna Kowalska");
    assert_eq!(content["files"][0]["name"], "../report.pdf");

    let table = stdout(&story("read", "table").await);
    let head = format!("Follow-up {ID} \u{2013} RECEIVED");
    for part in [
        head.as_str(),
        "nl-fiu asks de-bka; this node is the holder",
        "drafted by anna  approved by bob",
        "      Anna Kowalska\n",
        "handling H3: ask first",
        "Waits for approval: REQUEST_CLARIFICATION",
    ] {
        assert!(table.contains(part), "{part} in\n{table}");
    }
    assert_eq!(stdout(&story("show", "csv").await).lines().count(), 2);
    assert_eq!(stdout(&story("show", "tsv").await).lines().count(), 22);
    let asked = lab.node.asked().got;
    let contents: Vec<_> = asked.iter().map(|asked| asked.with_contents).collect();
    assert_eq!(contents, [false, true, true, false, false]);
    assert!(asked.iter().all(|asked| asked.why == "hearing"));

    let unknown = "019a1b2c-3d4e-7f60-8123-000000000000";
    let output = run(&lab, &["followup", "show", unknown]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("FOLLOW_UP_UNKNOWN") && said.contains("followup ls"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_the_service_acts_on_the_terminal() {
    let lab = Lab::start(FakeNode::default()).await;
    let proposal = "07070707-0707-0707-0707-070707070707";
    for args in [
        &["show", HOSTILE][..],
        &["read", HOSTILE],
        &["ls"],
        &["inbox"],
        &["stats"],
        &["stats", "--probes"],
        &["accept", HOSTILE],
        &["discard", HOSTILE, "--reason", "thin"],
        &["approve", HOSTILE, "--yes", "--proposal", proposal],
    ] {
        for (form, replaced) in [
            ("table", "x\u{fffd}[2J"),
            ("csv", "x\u{fffd}[2J"),
            ("json", "x\\u001b[2J"),
            ("tsv", "x\\u{1b}[2J"),
        ] {
            let args = [&["followup", "--output", form], args].concat();
            let output = run(&lab, &args).await;
            assert!(output.status.success(), "{}", stderr(&output));
            assert_tame(&output);
            let printed = stdout(&output);
            assert!(printed.contains(replaced), "{args:?}: {printed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_of_the_time_that_was_asked_for() {
    let lab = Lab::start(FakeNode::default()).await;
    let stats = async |more: &[&str]| run(&lab, &[&["followup", "stats"], more].concat()).await;
    let year = [1_767_225_600_i64, 1_798_761_600].map(Some);
    let month = [1_772_323_200_i64, 1_775_001_600].map(Some);
    for (args, expected) in [
        (&[][..], [None, None]),
        (&["--year", "2026"], year),
        (&["--month", "2026-03"], month),
        (&["--from", "2026-03-01", "--to", "2026-04-01"], month),
        (&["--from", "2026-01-01"], [year[0], None]),
    ] {
        let output = stats(args).await;
        assert!(output.status.success(), "{}", stderr(&output));
        let asked = lab.node.asked().figured.pop().expect("asked");
        let seconds = [asked.from, asked.to].map(|at| at.map(|at| at.seconds));
        assert_eq!(seconds, expected, "{args:?}");
    }
    let asked = lab.node.asked().figured.len();
    for bad in [
        &["--year", "26"][..],
        &["--month", "2026-13"],
        &["--from", "soon"],
        &["--year", "2026", "--month", "2026-03"],
        &["--year", "2026", "--from", "2026-01-01"],
    ] {
        assert_eq!(stats(bad).await.status.code(), Some(2), "{bad:?}");
    }
    assert_eq!(lab.node.asked().figured.len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_numbers_for_programs() {
    let lab = Lab::start(FakeNode::default()).await;
    let rows = json(&run(&lab, &["followup", "stats", "--output", "json"]).await);
    let row = &rows[0];
    assert_eq!(
        (&row["sent"], &row["overdue_judicial"]),
        (&7.into(), &1.into())
    );
    assert_eq!(row["median_seconds_to_answer"], 7_200);
    assert_eq!(row["percentile_90_seconds_to_answer"], Value::Null);
    assert_eq!(row["refusals"][0], "MINOR_OFFENCE=3");
    let probes = ["followup", "stats", "--probes", "--output", "csv"];
    let csv = stdout(&run(&lab, &probes).await);
    let mut lines = csv.lines();
    let columns = "holder,policy,hits,confirmed,false_positives";
    assert_eq!(lines.next(), Some(columns));
    let row = lines.next().unwrap_or_default();
    assert!(
        row.starts_with("de-bka,") && row.ends_with(",9,4,2"),
        "{csv}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_answer_has_its_exit_code_whatever_is_asked() {
    let lab = Lab::start(FakeNode::default()).await;
    lab.stop().await;
    for args in [
        &["show", ID][..],
        &["ls", "--output", "csv"],
        &["inbox"],
        &["watch"],
        &["stats", "--output", "json"],
        &["accept", ID],
        &["refuse", ID, "--ground", "NOT_AVAILABLE"],
        &["discard", ID, "--reason", "thin"],
        &["withdraw", ID, "--yes"],
        &["close", ID],
    ] {
        let output = run(&lab, &[&["followup"], args].concat()).await;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {said}");
        assert!(said.contains("hint: is `sotto-node serve` running"));
        assert_eq!(stdout(&output), "");
    }
}
