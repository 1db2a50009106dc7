//! `followup` against a service that has one follow-up.

#![expect(
    clippy::unnecessary_wraps,
    clippy::needless_pass_by_value,
    reason = "each has the shape of the call that it answers"
)]

mod reading;
mod steps;
mod watching;

use std::process::Output;

use futures::{StreamExt as _, stream};
use sotto_common::error::{Error, ErrorCode};
use sotto_common::ids::FollowUpId;
use sotto_proto::status::to_status;
use sotto_proto::v1;
use tonic::{Response, Status, Streaming};

use super::service::{FakeNode, Lab, Messages, REVIEWED};
use super::{json, run, stderr, stdout};

/// The follow-up that the fake has.
pub(crate) const ID: &str = "019a1b2c-3d4e-7f60-8123-456789abcde0";

/// A follow-up whose files come cut off, whose bundle leaves its folder, and whose texts are
/// [`ESCAPES`].
const HOSTILE: &str = "019a1b2c-3d4e-7f60-8123-456789abcde1";

/// A text that would clear the terminal, colour it, begin a line of its own, and turn it around.
const ESCAPES: &str = "x\u{1b}[2J\u{9b}31m\r\n\t\u{202e}y";

const PROPOSAL: [u8; 16] = [7; 16];

fn bytes(id: &str) -> prost::bytes::Bytes {
    let id: FollowUpId = id.parse().expect("an id");
    id.as_bytes().to_vec().into()
}

fn follow_up(id: prost::bytes::Bytes) -> v1::NodeFollowUp {
    let is_hostile = id == bytes(HOSTILE);
    let node = v1::NodeFollowUp {
        follow_up: Some(v1::FollowUp {
            follow_up_id: id,
            requester: "nl-fiu".into(),
            holder: "de-bka".into(),
            state: v1::FollowUpState::Received.into(),
            terms: Some(v1::FollowUpTerms {
                time_limit: v1::TimeLimit::Ordinary.into(),
                offence_code: "ICCS:0701".into(),
                items: vec![
                    v1::FollowUpItem::Identity.into(),
                    v1::FollowUpItem::Addresses.into(),
                    v1::FollowUpItem::CaseNumber.into(),
                    v1::FollowUpItem::Attachments.into(),
                ],
                ..Default::default()
            }),
            ..Default::default()
        }),
        side: v1::FollowUpParty::Holder.into(),
        proposal: Some(v1::FollowUpProposal {
            proposal_id: PROPOSAL.to_vec().into(),
            step: v1::FollowUpStep::RequestClarification.into(),
            draft: Some(v1::FollowUpDraft {
                message: "which of them?\u{1b}[2J".into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    if is_hostile { hostile(node) } else { node }
}

/// The same with [`ESCAPES`] wherever the service writes a text.
fn hostile(node: v1::NodeFollowUp) -> v1::NodeFollowUp {
    let mut shared = node.follow_up.unwrap_or_default();
    (shared.requester, shared.policy) = (ESCAPES.into(), ESCAPES.into());
    if let Some(terms) = &mut shared.terms {
        terms.offence_code = ESCAPES.into();
    }
    v1::NodeFollowUp {
        follow_up: Some(shared),
        records: vec![v1::OwnRecord {
            dataset: ESCAPES.into(),
            record_id: ESCAPES.into(),
            canonical: ESCAPES.into(),
        }],
        proposal: node.proposal.map(|proposal| v1::FollowUpProposal {
            drafted_by: ESCAPES.into(),
            ..proposal
        }),
        alarm: ESCAPES.into(),
        next_action: ESCAPES.into(),
        case_ref: ESCAPES.into(),
        ..node
    }
}

/// What was asked about follow-ups, as it came over the wire.
#[derive(Default, Clone)]
pub(crate) struct Asked {
    pub(crate) drafted: Vec<v1::DraftFollowUpRequest>,
    proposed: Vec<v1::ProposeFollowUpStepRequest>,
    discarded: Vec<v1::DiscardFollowUpStepRequest>,
    pub(crate) ended: Vec<v1::EndFollowUpRequest>,
    listed: Vec<v1::ListNodeFollowUpsRequest>,
    got: Vec<v1::GetNodeFollowUpRequest>,
    figured: Vec<v1::GetFollowUpFiguresRequest>,
    watched: Vec<v1::WatchNodeFollowUpsRequest>,
}

type Answer<T> = Result<Response<T>, Status>;

pub(crate) fn draft_follow_up(
    node: &FakeNode,
    request: v1::DraftFollowUpRequest,
) -> Answer<v1::DraftFollowUpResponse> {
    node.note(format!("draft for {}", request.case_ref));
    node.keep(|asked| asked.drafted.push(request));
    Ok(Response::new(v1::DraftFollowUpResponse {
        follow_up: Some(follow_up(bytes(ID))),
        related: vec![v1::RelatedFollowUp {
            follow_up_id: bytes(HOSTILE),
            counterpart: "fr-pj".into(),
            ..Default::default()
        }],
        unverified: true,
    }))
}

pub(crate) fn propose_follow_up_step(
    node: &FakeNode,
    request: v1::ProposeFollowUpStepRequest,
) -> Answer<v1::ProposeFollowUpStepResponse> {
    let draft = request.draft.clone().unwrap_or_default();
    let grounds: Vec<_> = draft.outcomes.iter().map(|o| o.ground).collect();
    let step = request.step().as_str_name();
    node.note(format!("{step} {grounds:?} {}", draft.message));
    node.keep(|asked| asked.proposed.push(request.clone()));
    Ok(Response::new(v1::ProposeFollowUpStepResponse {
        follow_up: Some(follow_up(request.follow_up_id)),
    }))
}

pub(crate) fn approve_follow_up_step(
    node: &FakeNode,
    request: v1::ApproveFollowUpStepRequest,
) -> Answer<v1::ApproveFollowUpStepResponse> {
    assert_eq!(request.proposal_id[..], PROPOSAL);
    node.note("approved".into());
    Ok(Response::new(v1::ApproveFollowUpStepResponse {
        follow_up: Some(follow_up(request.follow_up_id)),
    }))
}

pub(crate) fn discard_follow_up_step(
    node: &FakeNode,
    request: v1::DiscardFollowUpStepRequest,
) -> Answer<v1::DiscardFollowUpStepResponse> {
    let id = request.follow_up_id.clone();
    node.keep(|asked| asked.discarded.push(request));
    Ok(Response::new(v1::DiscardFollowUpStepResponse {
        follow_up: Some(follow_up(id)),
    }))
}

/// [`HOSTILE`] is never over, and refuses with a text of its kind.
pub(crate) fn end_follow_up(
    node: &FakeNode,
    request: v1::EndFollowUpRequest,
) -> Answer<v1::EndFollowUpResponse> {
    let id = request.follow_up_id.clone();
    node.keep(|asked| asked.ended.push(request));
    if id == bytes(HOSTILE) {
        let error = Error::new(ErrorCode::IllegalTransition, ESCAPES);
        return Err(to_status(error.about(ESCAPES)));
    }
    Ok(Response::new(v1::EndFollowUpResponse {
        follow_up: Some(follow_up(id)),
    }))
}

pub(crate) fn get_node_follow_up(
    node: &FakeNode,
    request: v1::GetNodeFollowUpRequest,
) -> Answer<v1::GetNodeFollowUpResponse> {
    node.keep(|asked| asked.got.push(request.clone()));
    let id = request.follow_up_id;
    if ![ID, HOSTILE].map(bytes).contains(&id) {
        let error = Error::new(ErrorCode::FollowUpUnknown, "refused by the fake");
        return Err(to_status(error));
    }
    let is_hostile = id == bytes(HOSTILE);
    let text = |tame: &str| String::from(if is_hostile { ESCAPES } else { tame });
    let answer = v1::FollowUpAnswer {
        items: vec![v1::AnswerItem {
            item: v1::FollowUpItem::Identity.into(),
            content: text("Anna Kowalska"),
            handling_code: v1::HandlingCode::H3.into(),
            handling_text: text("ask first"),
            ..Default::default()
        }],
        file_names: vec![v1::AttachmentName {
            attachment_id: bytes(ID),
            name: text("../report.pdf"),
        }],
    };
    let content = v1::node_follow_up_step::Content::Answer(answer);
    Ok(Response::new(v1::GetNodeFollowUpResponse {
        follow_up: Some(follow_up(id)),
        steps: vec![v1::NodeFollowUpStep {
            step: v1::FollowUpStep::Answer.into(),
            sender: text("de-bka"),
            drafted_by: text("anna"),
            approved_by: text("bob"),
            content: request.with_contents.then_some(content),
            ..Default::default()
        }],
        related: vec![v1::RelatedFollowUp {
            follow_up_id: bytes(HOSTILE),
            counterpart: text("fr-pj"),
            ..Default::default()
        }],
    }))
}

pub(crate) fn get_follow_up_figures(
    node: &FakeNode,
    request: v1::GetFollowUpFiguresRequest,
) -> Answer<v1::GetFollowUpFiguresResponse> {
    node.keep(|asked| asked.figured.push(request));
    Ok(Response::new(v1::GetFollowUpFiguresResponse {
        rows: vec![v1::FollowUpStatistic {
            requester: "nl-fiu".into(),
            holder: ESCAPES.into(),
            time_limit: v1::TimeLimit::Ordinary.into(),
            sent: 7,
            overdue_judicial: 1,
            refusals: vec![v1::RefusalCount {
                ground: v1::RefusalGround::MinorOffence.into(),
                requests: 3,
            }],
            median_time_to_answer: Some(prost_types::Duration {
                seconds: 7_200,
                nanos: 0,
            }),
            ..Default::default()
        }],
        probes: vec![v1::ProbeFigure {
            holder: "de-bka".into(),
            policy: ESCAPES.into(),
            hits: 9,
            confirmed: 4,
            false_positives: 2,
        }],
    }))
}

/// Two events, and then silence.
pub(crate) fn watch_node_follow_ups(
    node: &FakeNode,
    request: v1::WatchNodeFollowUpsRequest,
) -> Answer<Messages<v1::WatchNodeFollowUpsResponse>> {
    let cursor = request.cursor;
    node.keep(|asked| asked.watched.push(request));
    let step = v1::WatchNodeFollowUpsResponse {
        cursor: cursor + 1,
        follow_up: Some(follow_up(bytes(ID))),
        news: v1::FollowUpNews::Step.into(),
        step: v1::FollowUpStep::Accept.into(),
        reminder_percent: 0,
    };
    let reminder = v1::WatchNodeFollowUpsResponse {
        cursor: cursor + 2,
        follow_up: Some(follow_up(bytes(HOSTILE))),
        news: v1::FollowUpNews::Reminder.into(),
        step: 0,
        reminder_percent: 80,
    };
    let events = stream::iter([Ok(step), Ok(reminder)]);
    Ok(Response::new(events.chain(stream::pending()).boxed()))
}

pub(crate) fn list_node_follow_ups(
    node: &FakeNode,
    request: v1::ListNodeFollowUpsRequest,
) -> Answer<v1::ListNodeFollowUpsResponse> {
    node.note(format!("list {} {}", request.side, request.counterpart));
    let last = !request.page_token.is_empty();
    node.keep(|asked| asked.listed.push(request));
    Ok(Response::new(v1::ListNodeFollowUpsResponse {
        follow_ups: vec![follow_up(bytes(if last { HOSTILE } else { ID }))],
        next_page_token: if last { "" } else { "more" }.into(),
    }))
}

pub(crate) fn read_follow_up_attachment(
    _: &FakeNode,
    request: v1::ReadFollowUpAttachmentRequest,
) -> Answer<Messages<v1::ReadFollowUpAttachmentResponse>> {
    let begin = v1::ReadFollowUpAttachmentResponse {
        description: Some(v1::AttachmentDescription {
            size: 8,
            ..Default::default()
        }),
        chunk: b"a re".to_vec().into(),
    };
    let rest = v1::ReadFollowUpAttachmentResponse {
        description: None,
        chunk: b"port".to_vec().into(),
    };
    let mut parts = vec![Ok(begin), Ok(rest)];
    if request.follow_up_id == bytes(HOSTILE) {
        parts.truncate(1);
    }
    Ok(Response::new(stream::iter(parts).boxed()))
}

pub(crate) fn export_follow_up(
    _: &FakeNode,
    request: v1::ExportFollowUpRequest,
) -> Answer<Messages<v1::ExportFollowUpResponse>> {
    let part = |path: &str, chunk: &[u8]| {
        Ok(v1::ExportFollowUpResponse {
            path: path.into(),
            chunk: chunk.to_vec().into(),
        })
    };
    let mut parts = vec![
        part("follow-up.json", b"{"),
        part("", b"}"),
        part("statements/000-SUBMIT.pb", b"x"),
    ];
    if request.follow_up_id == bytes(HOSTILE) {
        parts.push(part("../outside", b"x"));
    }
    Ok(Response::new(stream::iter(parts).boxed()))
}

pub(crate) async fn add_follow_up_attachment(
    node: &FakeNode,
    mut parts: Streaming<v1::AddFollowUpAttachmentRequest>,
) -> Answer<v1::AddFollowUpAttachmentResponse> {
    use v1::add_follow_up_attachment_request::Part;
    let mut begun = v1::AttachmentDescription::default();
    let mut sent = 0;
    while let Some(part) = parts.message().await? {
        match part.part {
            Some(Part::Begin(description)) => begun = description,
            Some(Part::Chunk(chunk)) => sent += chunk.len() as u64,
            None => {}
        }
    }
    let size = begun.offset + sent;
    if size != begun.size || begun.sha256.len() != 32 {
        let error = Error::new(ErrorCode::AttachmentState, "another size than announced");
        return Err(to_status(error));
    }
    let from = match begun.offset {
        0 => String::new(),
        offset => format!(" from {offset} on"),
    };
    node.note(format!("file {} of {size}{from}", begun.name));
    Ok(Response::new(v1::AddFollowUpAttachmentResponse {
        attachment_id: bytes(ID),
    }))
}

/// Nothing that was printed acts on a terminal.
fn assert_tame(output: &Output) {
    for text in [stdout(output), stderr(output)] {
        let acts = |c: char| {
            c.is_control() && !matches!(c, '\n' | '\t') || ('\u{202a}'..='\u{202e}').contains(&c)
        };
        assert!(!text.contains(acts), "{text:?}");
    }
}

fn sample(name: &str) -> String {
    format!(
        "{}/../deploy/config/follow-ups/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_becomes_a_draft_and_duplicates_are_shown() {
    let lab = Lab::start(FakeNode::default()).await;
    let form = sample("request.toml");
    let args = [
        "followup", "new", REVIEWED, "--form", &form, "--output", "json",
    ];
    let output = run(&lab, &args).await;
    assert_eq!(json(&output)["follow_up"], ID);
    let said = stderr(&output);
    assert!(
        said.contains("fr-pj") && said.contains("followup approve"),
        "{said}"
    );
    assert_eq!(lab.node.changes(), ["draft for 2026-17"]);

    let bad = lab.path("bad.toml");
    let text = std::fs::read_to_string(&form).expect("read");
    std::fs::write(&bad, format!("ofence = 1\n{text}")).expect("written");
    let bad = bad.to_str().expect("UTF-8");
    let output = run(&lab, &["followup", "new", REVIEWED, "--form", bad]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("line 1: ") && stderr(&output).contains("ofence"));

    let output = run(&lab, &["followup", "new", REVIEWED]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("no terminal"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_approved_that_was_not_named_where_nobody_can_be_asked() {
    let lab = Lab::start(FakeNode::default()).await;
    let approve =
        async |more: &[&str]| run(&lab, &[&["followup", "approve", ID], more].concat()).await;
    assert_eq!(approve(&["--yes"]).await.status.code(), Some(2));
    let other = ["--yes", "--proposal", ID];
    let output = approve(&other).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another proposal"));
    assert!(lab.node.changes().is_empty());
    let right = [
        "--yes",
        "--proposal",
        "07070707-0707-0707-0707-070707070707",
    ];
    let output = approve(&right).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = stderr(&output);
    assert!(shown.contains("which of them?\u{fffd}[2J"), "{shown}");
    assert_eq!(lab.node.changes(), ["approved"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_a_ground_for_every_item() {
    let lab = Lab::start(FakeNode::default()).await;
    let args = [
        "followup",
        "refuse",
        ID,
        "--ground",
        "NOT_AVAILABLE",
        "--item",
        "ADDRESSES=MINOR_OFFENCE",
        "--message",
        "see our letter",
    ];
    let output = run(&lab, &args).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let expected = "FOLLOW_UP_STEP_REFUSE [1, 9, 1, 1] see our letter";
    assert_eq!(lab.node.changes(), [expected]);
    let output = run(&lab, &["followup", "clarify", ID]).await;
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_before_the_answer_and_a_form_that_is_not_whole_sends_none() {
    let lab = Lab::start(FakeNode::default()).await;
    let file = lab.path("report.pdf");
    std::fs::write(&file, vec![1; 600_000]).expect("written");
    let file = file.to_str().expect("UTF-8");
    let form = lab.path("answer.toml");
    let form = form.to_str().expect("UTF-8");
    let blank = run(&lab, &["followup", "answer", ID, "--blank"]).await;
    std::fs::write(form, &blank.stdout).expect("written");
    let answer = ["followup", "answer", ID, "--attach", file, "--form", form];
    let output = run(&lab, &answer).await;
    assert!(
        stderr(&output).contains("state of CASE_NUMBER"),
        "{}",
        stderr(&output)
    );
    assert!(lab.node.changes().is_empty());
    std::fs::copy(sample("answer.toml"), form).expect("copied");
    let output = run(&lab, &answer).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let changes = lab.node.changes();
    assert_eq!(changes[0], "file report.pdf of 600000");
    assert!(
        changes[1].starts_with("FOLLOW_UP_STEP_ANSWER"),
        "{changes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_files_are_whole_stay_in_their_folder_and_overwrite_none() {
    let lab = Lab::start(FakeNode::default()).await;
    let folder = lab.path("saved");
    let folder = folder.to_str().expect("UTF-8");
    for _ in 0..2 {
        let output = run(&lab, &["followup", "read", ID, "--save", folder]).await;
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let output = run(&lab, &["followup", "read", HOSTILE, "--save", folder]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("did not come whole"));
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["_report-2.pdf", "_report.pdf"]);
    let saved = std::fs::read(lab.path("saved/_report.pdf")).expect("read");
    assert_eq!(saved, b"a report");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_appears_whole_in_a_new_folder_or_not_at_all() {
    let lab = Lab::start(FakeNode::default()).await;
    let folder = lab.path("case");
    let name = folder.to_str().expect("UTF-8");
    let export = async |id: &str| {
        let args = [
            "followup", "export", id, name, "--why", "file", "--output", "json",
        ];
        run(&lab, &args).await
    };
    let output = export(HOSTILE).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("outside"), "{}", stderr(&output));
    assert!(!folder.exists() && !lab.path("outside").exists());
    let written = json(&export(ID).await);
    assert_eq!(written[0]["file"], "follow-up.json");
    assert_eq!(written[1]["bytes"], 1);
    assert_eq!(
        std::fs::read(folder.join("follow-up.json")).expect("read"),
        b"{}"
    );
    let output = export(ID).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no empty folder"));
    let output = run(&lab, &["followup", "verify", name]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("SHA256SUMS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_through_and_the_inbox_is_the_holders() {
    let lab = Lab::start(FakeNode::default()).await;
    let list = [
        "followup",
        "ls",
        "--as",
        "requester",
        "--with",
        "de-bka",
        "--output",
        "json",
    ];
    let all = json(&run(&lab, &list).await);
    assert_eq!(all.as_array().map(Vec::len), Some(2));
    let inbox = stdout(&run(&lab, &["followup", "inbox", "--output", "tsv"]).await);
    assert_eq!(inbox.lines().count(), 2);
    let changes = lab.node.changes();
    assert_eq!(
        (changes[0].as_str(), changes[2].as_str()),
        ("list 1 de-bka", "list 2 ")
    );
}
