//! Planted selectors: the commands of an auditor, around real nodes at a real broker.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use sotto_common::ids::HitId;
use sotto_common::service::config::ByteSize;
use sotto_proto::{convert, v1};
use sotto_tests::audit::export;
use sotto_tests::{COMMUNITY, Sandbox, Unit, program};

use super::witness::{all_verified, witnesses};

/// So many that of a half of the bits neither all nor none are left (2^-24).
const PLANTED: usize = 24;
const DECOYS: usize = 24;
/// Record refs of the prober's list.
const REFS: u64 = (PLANTED + DECOYS) as u64;

fn audit(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program::broker());
    let command = command.arg("audit").args(args).current_dir(dir);
    command.output().expect("ended")
}

fn plant(dir: &Path) {
    let text = format!(
        "plant {COMMUNITY} --seed-file seed --new-seed --type email --holder de-bka \
         --prober nl-fiu --count {PLANTED} --decoys {DECOYS} --out-dir out"
    );
    let planted = audit(dir, &text.split_whitespace().collect::<Vec<_>>());
    assert!(planted.status.success(), "{planted:?}");
}

fn list(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).expect("read");
    text.lines().map(ToOwned::to_owned).collect()
}

/// What `sotto-node hits ls --output json` prints of a hit, as far as it is of use here.
fn row(thread: v1::RecordHit) -> Value {
    let hit = thread.hit.unwrap_or_default();
    let first_seen = convert::timestamp("first_seen", hit.first_seen).expect("a time");
    json!({
        "hit": HitId::from_slice(&hit.hit_id).expect("an id").to_string(),
        "policy": hit.policy, "holder": hit.holder, "state": "NEW", "value": thread.canonical,
        "first_seen": first_seen.to_string(), "verified": thread.leaf_index.is_some(),
        "leaf": thread.leaf_index,
    })
}

async fn hits_of(unit: &Unit) -> Vec<Value> {
    let threads = unit.threads().await.expect("listed");
    threads.into_iter().map(row).collect()
}

/// The units with their lists imported, the holder's published. The broker tests filters in their
/// files, where a test can get at them.
async fn with_lists(dir: &Path) -> (Sandbox, Vec<Unit>) {
    plant(dir);
    let (mut sandbox, units) = witnesses(["nl-fiu", "de-bka", "fr-pj"]).await;
    sandbox.matcher.memory = ByteSize(0);
    sandbox.restart().await;
    let lists = ["out/prober-nl-fiu.txt", "out/holder-de-bka.txt"];
    for (unit, file) in units.iter().zip(lists) {
        let values = list(&dir.join(file));
        let done = unit.import("accounts", "email/1", &values, false).await;
        assert_eq!(done.expect("imported").accepted, values.len() as u64);
    }
    units[1].publish().await.expect("published");
    (sandbox, units)
}

/// What the auditor's command says of these hits and the log as it is now, and with which code.
async fn compare(sandbox: &Sandbox, dir: &Path, hits: &[Value]) -> (Option<i32>, Value) {
    let log = export(sandbox.lab(), &sandbox.url()).await;
    std::fs::write(dir.join("log"), log.expect("exported")).expect("written");
    let text = serde_json::to_string(hits).expect("JSON");
    std::fs::write(dir.join("hits.json"), text).expect("written");
    let key = sandbox.log_key().to_string();
    let text = "planted --plan out/plan.json --hits hits.json --export log --output json";
    let args = text.split_whitespace().chain(["--log-key", key.as_str()]);
    let compared = audit(dir, &args.collect::<Vec<_>>());
    let said = serde_json::from_slice(&compared.stdout);
    let said = said.unwrap_or_else(|_| panic!("{compared:?}"));
    (compared.status.code(), said)
}

/// Patches the broker behind its own back: half of the bits that it tests holders by are zeros from
/// now on, so that it has no hit of some selectors, in its answers and in its log alike.
fn leave_hits_out(sandbox: &Sandbox) {
    let copies = std::fs::read_dir(sandbox.data_dir().join("cache")).expect("a folder");
    for copy in copies {
        let path = copy.expect("an entry").path();
        let writable = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, writable).expect("the own file");
        let file = File::options().write(true).open(&path).expect("opened");
        let half = file.metadata().expect("a file").len().div_ceil(2);
        let zeros = vec![0; usize::try_from(half).expect("small")];
        // The broker has it mapped: what is written here it reads at once.
        file.write_all_at(&zeros, 0).expect("written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_planted_is_reported_and_logged() {
    let dir = tempfile::tempdir().expect("a folder");
    let (sandbox, units) = with_lists(dir.path()).await;
    units[0].probe_by_itself("accounts").await.expect("set");
    sandbox
        .eventually(async || all_verified(&sandbox, &units[0], PLANTED).await)
        .await;
    let mut hits = hits_of(&units[0]).await;
    let (code, said) = compare(&sandbox, dir.path(), &hits).await;
    assert_eq!(code, Some(0), "{said}");
    for field in ["planted", "reported", "verified", "logged"] {
        assert_eq!(said[field], PLANTED, "{field}");
    }
    assert!(said["log"]["refs"].as_u64() >= Some(REFS), "{said}");

    // As the prober lists them at a broker that keeps one of them to itself.
    hits.pop();
    let (code, said) = compare(&sandbox, dir.path(), &hits).await;
    assert_eq!(code, Some(4), "{said}");
    assert_eq!(said["missing"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_patched_to_leave_hits_out_is_found_out_by_what_was_planted() {
    let dir = tempfile::tempdir().expect("a folder");
    let (sandbox, units) = with_lists(dir.path()).await;
    leave_hits_out(&sandbox);
    units[0].probe_by_itself("accounts").await.expect("set");
    // None of its proofs fails: what there is of hits becomes verified.
    let all_asked = async || {
        sandbox.clock.advance(Duration::from_secs(1));
        let hits = hits_of(&units[0]).await;
        if hits.is_empty() || hits.iter().any(|hit| hit["verified"] != true) {
            return false;
        }
        let (_, said) = compare(&sandbox, dir.path(), &hits).await;
        said["log"]["refs"].as_u64() >= Some(REFS)
    };
    sandbox.eventually(all_asked).await;
    let hits = hits_of(&units[0]).await;
    let (code, said) = compare(&sandbox, dir.path(), &hits).await;
    assert_eq!(code, Some(4), "{said}");
    let missing = said["missing"].as_u64().expect("a number");
    assert_eq!(missing, (PLANTED - hits.len()) as u64, "{said}");
    assert!(missing > 0, "{said}");
}
