//! Planted selectors: the commands of an auditor, around real nodes at a real broker.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use sotto_broker::audit::export::{ExportWriter, Head};
use sotto_common::ids::{HitId, Role};
use sotto_proto::v1::audit_service_client::AuditServiceClient;
use sotto_proto::{convert, v1};
use sotto_tests::{COMMUNITY, Sandbox, Unit, program};

use super::witness::{all_verified, witnesses};

const PLANTED: usize = 12;

fn audit(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program::broker());
    let command = command.arg("audit").args(args).current_dir(dir);
    command.output().expect("ended")
}

fn plant(dir: &Path) {
    let text = format!(
        "plant {COMMUNITY} --seed-file seed --new-seed --type email --holder de-bka \
         --prober nl-fiu --count {PLANTED} --decoys 24 --out-dir out"
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

/// The log up to its latest checkpoint, as `audit export` writes it.
async fn export(sandbox: &Sandbox) -> Vec<u8> {
    let channel = sandbox
        .lab()
        .channel(Role::Auditor, "court", &sandbox.url());
    let request = v1::ExportEntriesRequest {
        community: COMMUNITY.into(),
        from_index: 0,
    };
    let mut auditor = AuditServiceClient::new(channel);
    let parts = auditor.export_entries(request).await;
    let mut parts = parts.expect("exported").into_inner();
    let first = parts.message().await.expect("no end").expect("a head");
    let head = Head {
        note: first.note,
        manifests: first.manifests,
    };
    let mut writer = ExportWriter::begin(Vec::new(), head).expect("begun");
    while let Some(part) = parts.message().await.expect("whole") {
        for entry in part.entries {
            writer.put(entry).expect("the next");
        }
    }
    writer.into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_planted_is_reported_and_logged_and_a_hit_that_is_left_out_shows() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    plant(dir);
    let (sandbox, units) = witnesses(["nl-fiu", "de-bka", "fr-pj"]).await;
    let lists = ["out/prober-nl-fiu.txt", "out/holder-de-bka.txt"];
    for (unit, file) in units.iter().zip(lists) {
        let values = list(&dir.join(file));
        let done = unit.import("accounts", "email/1", &values, false).await;
        assert_eq!(done.expect("imported").accepted, values.len() as u64);
    }
    units[1].publish().await.expect("published");
    units[0].probe_by_itself("accounts").await.expect("set");
    sandbox
        .eventually(async || all_verified(&sandbox, &units[0], PLANTED).await)
        .await;

    std::fs::write(dir.join("log"), export(&sandbox).await).expect("written");
    let key = sandbox.log_key().to_string();
    let compare = |hits: &[Value]| {
        let text = serde_json::to_string(hits).expect("JSON");
        std::fs::write(dir.join("hits.json"), text).expect("written");
        let text = "planted --plan out/plan.json --hits hits.json --export log --output json";
        let args = text.split_whitespace().chain(["--log-key", key.as_str()]);
        audit(dir, &args.collect::<Vec<_>>())
    };
    let mut hits = hits_of(&units[0]).await;
    let whole = compare(&hits);
    assert!(whole.status.success(), "{whole:?}");
    let said: Value = serde_json::from_slice(&whole.stdout).expect("JSON");
    for field in ["planted", "reported", "verified", "logged"] {
        assert_eq!(said[field], PLANTED, "{field}");
    }
    assert!(said["log"]["refs"].as_u64() >= Some(36), "{said}");

    // As the prober lists them at a broker that keeps one of them to itself.
    hits.pop();
    let lacking = compare(&hits);
    assert_eq!(lacking.status.code(), Some(4), "{lacking:?}");
    let said: Value = serde_json::from_slice(&lacking.stdout).expect("JSON");
    assert_eq!(said["missing"], 1);
}
