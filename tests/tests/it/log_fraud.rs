//! What a broker could do to its log, and who finds it out (workflow.md "Audit"): an export that
//! `verify` reads, or a witness. And what an honest broker writes, which holds whole.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use sotto_broker::audit::export::ExportError;
use sotto_broker::audit::failure::{Failure, FailureCode};
use sotto_broker::audit::verify::{Summary, verify_export};
use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_common::hit::HitDecision;
use sotto_common::ids::Role;
use sotto_common::log::checkpoint::SignedCheckpoint;
use sotto_common::log::kind::EntryKind;
use sotto_common::selector::Policy::Phone;
use sotto_proto::v1;
use sotto_tests::operator::run_as;
use sotto_tests::probe::batch_of;
use sotto_tests::sandbox::{open_epoch, profile};
use sotto_tests::{COMMUNITY, Case, Sandbox, TestNode, phones};

use super::witness::{all_verified, log_of, numbers, witnesses};

const MEMBERS: [&str; 3] = ["nl-fiu", "de-bka", "fr-pj"];

/// Leaves that every log of these tests has: the community, and the enrolment and keys of two nodes.
/// The enrolments stand at 1 and 3.
const BEGINNING: u64 = 5;

/// How many leaves the latest checkpoint has, as a node sees it: no reading of a node is logged.
async fn signed_size(sandbox: &Sandbox, node: &TestNode) -> u64 {
    let request = v1::GetCheckpointRequest {
        community: COMMUNITY.into(),
        cosignatures: 0,
    };
    let Ok(answer) = node.log().get_checkpoint(request).await else {
        return 0;
    };
    let signed = SignedCheckpoint::open(&answer.into_inner().note, &sandbox.log_key());
    signed.expect("signed").head().size
}

/// Waits until everything that was done before is under a checkpoint: asks a batch, and waits for
/// its place.
async fn all_signed(sandbox: &Sandbox, node: &TestNode) {
    let mut probe = node.open(node.opening(Phone)).await.expect("opened");
    let pairs = node.pairs(Phone, &phones(900..901));
    let batch = v1::probe_request::Message::Batch(batch_of(0, &pairs));
    let place = match probe.ask(batch).await.expect("answered") {
        v1::probe_response::Message::Answer(answer) => answer.leaf_index.expect("a place"),
        other => panic!("no answer to a batch: {other:?}"),
    };
    probe.close().await.expect("closed");
    sandbox
        .eventually(async || signed_size(sandbox, node).await > place)
        .await;
}

/// The export that the broker gives an auditor.
async fn export(sandbox: &Sandbox) -> Result<Vec<u8>, ExportError> {
    sotto_tests::audit::export(sandbox.lab(), &sandbox.url()).await
}

/// What an auditor finds who exports the log and verifies it.
async fn verified(sandbox: &Sandbox, require_quorum: bool) -> Result<Summary, Failure> {
    let file = export(sandbox).await?;
    verify_export(&file[..], &sandbox.log_key(), require_quorum)
}

/// A log that was exported and holds, and then is changed by these statements while the broker is
/// down.
async fn tampered_with(statements: &[&'static str]) -> Sandbox {
    let (mut sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    de.publish(Phone, &phones(0..3)).await;
    nl.find(Phone, &phones(0..3)).await;
    all_signed(&sandbox, &nl).await;
    let summary = verified(&sandbox, false).await.expect("as it was written");
    assert!(summary.head.size > BEGINNING);
    sandbox.stop().await;
    for &statement in statements {
        sandbox.change_ledger(statement).await;
    }
    sandbox.start().await;
    sandbox
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_that_was_rewritten_is_named() {
    let other = "UPDATE log_entries
                 SET opening = (SELECT other.opening FROM log_entries AS other WHERE other.place = 3)
                 WHERE place = 1";
    let sandbox = tampered_with(&[other]).await;
    let failure = verified(&sandbox, false).await.expect_err("rewritten");
    assert_eq!(
        (failure.index, failure.code),
        (Some(1), FailureCode::OpeningMismatch)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_was_rewritten_makes_another_tree() {
    // With its opening, so that the entry by itself is in order, and with one on which nothing rests that
    // stands behind it: an enrolment in place of the community's beginning.
    let other = "UPDATE log_entries
                 SET leaf = (SELECT other.leaf FROM log_entries AS other WHERE other.place = 1),
                     opening = (SELECT other.opening FROM log_entries AS other
                                WHERE other.place = 1)
                 WHERE place = 0";
    let sandbox = tampered_with(&[other]).await;
    let failure = verified(&sandbox, false).await.expect_err("rewritten");
    assert_eq!(
        (failure.index, failure.code),
        (None, FailureCode::RootMismatch)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_was_dropped_leaves_a_gap() {
    let sandbox = tampered_with(&["DELETE FROM log_entries WHERE place = 1"]).await;
    let error = export(&sandbox).await.expect_err("dropped");
    assert!(
        matches!(error, ExportError::Malformed { before: 1, .. }),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_are_dated_back_are_named() {
    let (sandbox, [nl, _de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let now = sandbox.clock_now();
    sandbox.clock.set(now.minus(Duration::from_mins(30)));
    let set = sandbox.operator().set_quota("de-bka", 70_000).await;
    set.expect("set");
    sandbox.clock.set(now);
    all_signed(&sandbox, &nl).await;
    let failure = verified(&sandbox, false).await.expect_err("dated back");
    assert_eq!(failure.code, FailureCode::TimeReversed);
    assert!(failure.index.is_some_and(|index| index >= BEGINNING));
}

/// What a broker does that has entries forgotten: all but the first four, with everything that was
/// signed of them.
const ROLLED_BACK: [&str; 6] = [
    "DELETE FROM log_cosignatures",
    "DELETE FROM log_cosigned",
    "DELETE FROM log_checkpoints",
    "DELETE FROM log_tiles",
    "DELETE FROM log_entries WHERE place IS NULL OR place >= 4",
    "UPDATE log_sizes SET size = 4",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_rolled_back_and_goes_on_is_found_out_by_a_witness() {
    let (mut sandbox, units) = witnesses(["nl-fiu"]).await;
    let unit = &units[0];
    let values = numbers(0..3);
    let done = unit.import("numbers", "phone/1", &values, false).await;
    done.expect("imported");
    unit.publish().await.expect("published");
    sandbox
        .eventually(async || {
            let log = log_of(unit).await;
            log.tree_size > BEGINNING && log.cosignatures > 0
        })
        .await;
    let seen = log_of(unit).await.tree_size;
    sandbox.stop().await;
    for statement in ROLLED_BACK {
        sandbox.change_ledger(statement).await;
    }
    sandbox.start().await;
    let (operator, mut refs) = (sandbox.operator(), 50_000);
    sandbox
        .eventually(async || {
            refs += 1;
            let set = operator.set_quota("nl-fiu", refs).await;
            set.expect("set");
            log_of(unit).await.alarm
        })
        .await;

    let mut supervisor = unit.supervisor();
    let found = supervisor.list_evidence(v1::ListEvidenceRequest {}).await;
    let found = found.expect("listed").into_inner().message().await;
    let found = found.expect("listed").expect("one");
    let heads = [&found.known, &found.offered].map(|note| {
        let signed = SignedCheckpoint::open(note, &sandbox.log_key());
        *signed.expect("both by the log's own key").head()
    });
    // What was offered may be smaller: by the time of its proof the log has outgrown what is known.
    assert!(heads[0].size >= seen);
    assert_ne!(heads[0], heads[1]);
}

/// Something of everything that nodes and operators do, in two epochs.
async fn do_everything(sandbox: &Sandbox, [nl, de, fr]: &[TestNode; 3]) {
    let operator = sandbox.operator();
    operator.set_quota("nl-fiu", 60_000).await.expect("set");
    de.publish(Phone, &phones(0..7)).await;
    let withdrawn = fr.publish(Phone, &phones(0..2)).await;
    nl.find(Phone, &phones(0..9)).await;
    fr.withdraw(withdrawn).await.expect("withdrawn");
    let mut hits = nl.hits().await.expect("listed");
    hits.retain(|hit| hit.holder == de.id().as_str());
    assert_eq!(hits.len(), 7);
    follow_up(nl, de, &hits).await;
    for decision in [HitDecision::BeginReview, HitDecision::FalsePositive] {
        nl.decide(&hits[4], decision).await.expect("taken");
    }
    // Of hits that nobody has looked at some match no more, and then again.
    for held in [0..1, 0..7] {
        de.publish(Phone, &phones(held)).await;
        nl.find(Phone, &phones(0..9)).await;
    }
    open_epoch(2, &profile(), &[nl, de, fr]).await;
    de.publish(Phone, &phones(0..2)).await;
    nl.find(Phone, &phones(0..3)).await;
    nl.end_epoch(1).await.expect("ended");
}

/// Four requests: one is answered with a file, the others are refused, withdrawn, and not held.
async fn follow_up(nl: &TestNode, de: &TestNode, hits: &[v1::Hit]) {
    // No broker can tell which selector a request is about.
    let selector = || phones(0..1).remove(0);
    let mut answered = Case::on(nl, de, &hits[0], Phone, selector()).await;
    answered.bring_to(FollowUpState::Accepted).await;
    let file = answered.seal_file(b"a file");
    answered.announce_file(&file).await.expect("announced");
    let uploaded = answered.upload_file(&file, 0, &file.sealed).await;
    uploaded.expect("whole");
    let answer = answered.answer_with(&[&file]);
    answered.take_detail(answer).await.expect("taken");
    let bytes = answered.download_file(nl, &file, 0).await;
    assert_eq!(bytes.expect("read"), file.sealed);
    answered.take(FollowUpStep::Close).await.expect("taken");
    let ends = [
        FollowUpState::Refused,
        FollowUpState::Withdrawn,
        FollowUpState::Closed,
    ];
    for (hit, end) in hits[1..].iter().zip(ends) {
        let mut case = Case::on(nl, de, hit, Phone, selector()).await;
        case.bring_to(end).await;
    }
}

/// An honest log with all that, which an auditor has read too, under one checkpoint.
async fn honest() -> Sandbox {
    let (sandbox, nodes) = Sandbox::with_nodes(MEMBERS).await;
    do_everything(&sandbox, &nodes).await;
    all_signed(&sandbox, &nodes[0]).await;
    export(&sandbox).await.expect("whole");
    all_signed(&sandbox, &nodes[0]).await;
    sandbox
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_honest_broker_writes_holds_whole() {
    let sandbox = honest().await;
    let summary = verified(&sandbox, false).await.expect("it holds");
    let kinds: Vec<_> = summary.kinds.keys().copied().collect();
    assert_eq!(kinds, EntryKind::ALL);
    assert_eq!(summary.kinds.values().sum::<u64>(), summary.head.size);
    assert!(summary.erased.is_empty());
    assert_eq!((summary.unknown, summary.manifests), (0, 2));
    let failure = verified(&sandbox, true).await.expect_err("no witness");
    assert_eq!(failure.code, FailureCode::QuorumMissed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_real_nodes_did_holds_with_a_quorum_of_them() {
    let (sandbox, units) = witnesses(["nl-fiu", "de-bka"]).await;
    let values = numbers(0..5);
    for unit in &units {
        let done = unit.import("numbers", "phone/1", &values, false).await;
        done.expect("imported");
        unit.publish().await.expect("published");
    }
    units[0].probe_by_itself("numbers").await.expect("set");
    sandbox
        .eventually(async || all_verified(&sandbox, &units[0], 5).await)
        .await;
    // The latest checkpoint has its cosignatures a moment after it was signed.
    let mut held = None;
    sandbox
        .eventually(async || {
            held = match verified(&sandbox, true).await {
                Err(few) if few.code == FailureCode::QuorumMissed => None,
                outcome => Some(outcome.expect("it holds")),
            };
            held.is_some()
        })
        .await;
    let summary = held.expect("it holds");
    let witnesses = summary.witnesses.expect("a manifest");
    assert!(witnesses.is_quorum() && witnesses.nodes.len() == 2);
    assert!(summary.kinds[&EntryKind::Hit] >= 5);
}

/// Runs `sotto-broker audit` as an auditor's process.
async fn audit(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    let arguments = [&["audit"][..], arguments].concat();
    let url = sandbox.url();
    run_as(sandbox.lab(), Role::Auditor, "court", &url, &arguments).await
}

/// Verifies a file by the program; its exit code and what it says as JSON.
async fn verify(sandbox: &Sandbox, file: &Path) -> (Option<i32>, Value) {
    let (file, key) = (file.display().to_string(), sandbox.log_key().to_string());
    let arguments = ["verify", &file, "--log-key", &key, "--json"];
    let output = audit(sandbox, &arguments).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = serde_json::from_slice(&output.stdout);
    (output.status.code(), said.expect(&errors))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_exports_and_verifies_it_and_finds_one_flipped_bit() {
    let sandbox = honest().await;
    let file = sandbox.path("euro-cyber.log");
    let path = file.display().to_string();
    let output = audit(&sandbox, &["export", COMMUNITY, "--out", &path]).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let (code, said) = verify(&sandbox, &file).await;
    assert_eq!((code, &said["holds"]), (Some(0), &Value::Bool(true)));
    assert_eq!(said["manifests"], 2);

    let mut bytes = std::fs::read(&file).expect("written");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).expect("altered");
    let (code, said) = verify(&sandbox, &file).await;
    assert_eq!((code, &said["holds"]), (Some(4), &Value::Bool(false)));
}
