//! Bundles of real units that follow the audit log, and their check by the program alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use sotto_common::dsse::SigningKey;
use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_common::log::checkpoint::LogKey;
use sotto_common::random::os_rng;
use sotto_proto::v1;
use sotto_tests::desk::answer;
use sotto_tests::{Sandbox, Unit, program};

use super::super::witness::witnesses;
use super::life::{accepted, at, confirmed};

/// Two units that follow the log; the first has a confirmed hit on the second.
async fn followers() -> (Sandbox, [Unit; 2], Vec<u8>) {
    let (sandbox, units) = witnesses(["nl-fiu", "de-bka"]).await;
    let units: [Unit; 2] = units.try_into().unwrap_or_else(|_| unreachable!());
    let hit = confirmed(&units, 1).await.remove(0);
    (sandbox, units, hit)
}

/// The files of a bundle.
async fn export(unit: &Unit, id: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let request = v1::ExportFollowUpRequest {
        follow_up_id: id.to_vec().into(),
        why: "case file".into(),
        with_attachments: false,
    };
    let parts = unit.drafter().export_follow_up(request).await;
    let mut parts = parts.expect("exported").into_inner();
    let (mut files, mut last) = (BTreeMap::<String, Vec<u8>>::new(), String::new());
    while let Some(part) = parts.message().await.expect("whole") {
        if !part.path.is_empty() {
            last = part.path;
        }
        files
            .entry(last.clone())
            .or_default()
            .extend_from_slice(&part.chunk);
    }
    files
}

/// What a bundle says that the log does not prove.
fn missing(files: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let summary = String::from_utf8_lossy(&files["inclusion-proofs.txt"]).into_owned();
    let lines = summary.lines();
    let missing = lines.filter_map(|line| line.strip_prefix("Missing: "));
    missing.map(str::to_owned).collect()
}

/// How many entries the log proves to be in it.
fn receipts(files: &BTreeMap<String, Vec<u8>>) -> usize {
    let receipts = files.keys().filter(|path| path.ends_with(".tlog-proof"));
    receipts.count()
}

fn write(files: &BTreeMap<String, Vec<u8>>, folder: &Path) {
    for (path, content) in files {
        let place = folder.join(path);
        std::fs::create_dir_all(place.parent().expect("a folder")).expect("made");
        std::fs::write(place, content).expect("written");
    }
}

/// `followup verify`, without anything but the bundle and the key.
async fn verify(folder: &Path, key: Option<&LogKey>) -> Result<Value, String> {
    let mut command = tokio::process::Command::new(program::node());
    command.args(["followup", "verify", "--output", "json"]);
    command.arg(folder);
    if let Some(key) = key {
        command.arg("--log-key").arg(key.to_string());
    }
    let output = command.output().await.expect("it runs");
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).expect("JSON"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_has_the_proof_of_every_step_and_is_verified_offline() {
    let (sandbox, [nl, de], hit) = followers().await;
    let id = accepted(&nl, &de, &hit).await;
    let proposed = de.propose(&id, FollowUpStep::Answer, answer()).await;
    de.approve(&proposed.expect("proposed"))
        .await
        .expect("approved");
    at(&nl, &id, FollowUpState::Answered).await;
    nl.end(&id, FollowUpStep::Close).await.expect("closed");
    for unit in [&nl, &de] {
        at(unit, &id, FollowUpState::Closed).await;
    }
    let key = sandbox.log_key();
    for (unit, has_hit) in [(&nl, true), (&de, false)] {
        let mut files = BTreeMap::new();
        // The log is sequenced and cosigned by the clock.
        sandbox
            .eventually(async || {
                sandbox.clock.advance(Duration::from_secs(1));
                files = export(unit, &id).await;
                // One that could ask nothing of the log says so in one line, too.
                receipts(&files) > 0 && missing(&files).len() == usize::from(!has_hit)
            })
            .await;
        assert_eq!(receipts(&files), 6 + usize::from(has_hit));
        let dossier = String::from_utf8_lossy(&files["dossier.html"]);
        assert_eq!(dossier.matches("In the audit log").count(), 6);
        let folder = sandbox.path(&format!("{}-bundle", unit.name()));
        write(&files, &folder);

        let verified = verify(&folder, Some(&key)).await.expect("verified");
        assert_eq!(verified["inclusion"], "verified");
        assert_eq!(verified["logged_steps"], 6);
        assert_eq!(verified["logged_hit"], has_hit);
        // All members stand behind it: the quorum of two is two.
        let cosigned = serde_json::json!(["de-bka", "nl-fiu"]);
        assert_eq!(verified["cosigned_by"], cosigned);
        let unchecked = verify(&folder, None).await.expect("whole");
        assert_eq!(unchecked["inclusion"], "not checked, no --log-key");
        let signing = SigningKey::generate(&mut os_rng());
        let other = LogKey::new(key.origin().clone(), signing.verifying_key());
        let refused = verify(&folder, Some(&other)).await.expect_err("refused");
        assert!(refused.contains("log/checkpoint.note"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_of_a_unit_that_follows_no_log_says_so() {
    let (_sandbox, [nl, de], hits) = super::life::units(1).await;
    let id = accepted(&nl, &de, &hits[0]).await;
    let files = export(&nl, &id).await;
    assert!(!files.keys().any(|path| path.starts_with("log/")));
    let missing = missing(&files);
    assert_eq!(missing.len(), 1);
    assert!(missing[0].contains("audit_log.verifier_key"), "{missing:?}");
}
