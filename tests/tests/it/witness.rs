//! Nodes as witnesses of the audit log (protocol §11): real nodes at a real broker, and one at a
//! broker that lies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sotto_common::error::ErrorCode;
use sotto_common::ids::{HitId, Role};
use sotto_common::log::checkpoint::SignedCheckpoint;
use sotto_common::log::receipt::Receipt;
use sotto_common::random::os_rng;
use sotto_proto::v1;
use sotto_proto::v1::get_receipt_request::Entry;
use sotto_tests::liar::Liar;
use sotto_tests::sandbox::profile;
use sotto_tests::unit::introduce;
use sotto_tests::{Sandbox, Unit, assert_refused};
use tonic::Code;
use v1::node_admin_service_client::NodeAdminServiceClient;

/// Units that follow the log of their broker, with an epoch; the first is its custodian.
pub(super) async fn witnesses<const N: usize>(names: [&str; N]) -> (Sandbox, Vec<Unit>) {
    let sandbox = Sandbox::empty().await;
    let operator = sandbox.operator();
    let created = operator.create_community(profile(), &names[..1]).await;
    created.expect("created");
    let mut units = Vec::new();
    for name in names {
        operator.enrol(name).await.expect("enrolled");
        let (home, lab) = (sandbox.path(name), sandbox.shared_lab());
        let settings = "[service.publisher]\ndebounce = '20ms'\npatience = '200ms'\n";
        let mut unit = Unit::install(&lab, &home, name, &sandbox.url(), settings);
        unit.follow_log(&sandbox.log_key());
        unit.start(Arc::new(sandbox.clock.clone())).await;
        units.push(unit);
    }
    introduce(&units).await;
    (sandbox, units)
}

/// Made-up phone numbers, as a unit imports them.
pub(super) fn numbers(range: std::ops::Range<u32>) -> BTreeSet<String> {
    range.map(|n| format!("+3161234{n:04}")).collect()
}

/// The id of a hit that is not there.
fn no_hit(sandbox: &Sandbox) -> [u8; 16] {
    *HitId::generate(sandbox.clock_now(), &mut os_rng()).as_bytes()
}

/// How a unit stands with the log.
pub(super) async fn log_of(unit: &Unit) -> v1::LogStatus {
    let status = unit.status().await.expect("a status");
    status.log.expect("it follows a log")
}

/// Whether a unit has this many hits, all of them verified. The log is sequenced by the clock.
pub(super) async fn all_verified(sandbox: &Sandbox, unit: &Unit, count: usize) -> bool {
    sandbox.clock.advance(Duration::from_secs(1));
    let threads = unit.threads().await.expect("listed");
    threads.len() == count && threads.iter().all(|hit| hit.leaf_index.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_become_verified_and_a_restart_goes_on_from_the_stored_checkpoint() {
    let (sandbox, mut units) = witnesses(["nl-fiu", "de-bka", "fr-pj"]).await;
    for unit in &units {
        let values = numbers(0..20);
        let done = unit.import("numbers", "phone/1", &values, false).await;
        done.expect("imported");
        unit.publish().await.expect("published");
    }
    units[0].probe_by_itself("numbers").await.expect("set");
    sandbox
        .eventually(async || all_verified(&sandbox, &units[0], 40).await)
        .await;
    // A checkpoint that has only just come is cosigned in a moment.
    let cosigned = async || {
        let log = log_of(&units[0]).await;
        log.tree_size > 0 && log.cosignatures >= log.quorum
    };
    sandbox.eventually(cosigned).await;
    let before = log_of(&units[0]).await;
    assert!(!before.alarm);

    // The receipt of a hit says that its leaf is in the log, to anybody.
    let hit = units[0].threads().await.expect("listed").swap_remove(0);
    let request = v1::GetReceiptRequest {
        entry: Some(Entry::HitId(hit.hit.unwrap_or_default().hit_id)),
        why: String::new(),
    };
    let receipt = units[0].analyst().get_receipt(request).await;
    let bytes = receipt.expect("a receipt").into_inner().receipt;
    let receipt = Receipt::parse(&bytes).expect("a receipt");
    assert_eq!(Some(receipt.index()), hit.leaf_index);

    units[0].stop().await;
    units[0].start(Arc::new(sandbox.clock.clone())).await;
    assert!(log_of(&units[0]).await.tree_size >= before.tree_size);
    let values = numbers(20..25);
    for unit in &units {
        let done = unit.import("numbers", "phone/1", &values, false).await;
        done.expect("imported");
        unit.publish().await.expect("published");
    }
    sandbox
        .eventually(async || all_verified(&sandbox, &units[0], 50).await)
        .await;
    assert!(log_of(&units[0]).await.tree_size > before.tree_size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_tells_two_histories_is_found_out() {
    let sandbox = Sandbox::empty().await;
    let lab = sandbox.shared_lab();
    let liar = Liar::start(&lab).await;
    liar.tell(0, 9);
    let known = liar.note();
    let home = sandbox.path("nl-fiu");
    let mut unit = Unit::install(&lab, &home, "nl-fiu", &liar.url(), "");
    unit.follow_log(liar.log_key());
    unit.start(Arc::new(sandbox.clock.clone())).await;
    sandbox.eventually(async || liar.cosigned() == [9]).await;
    assert_eq!(log_of(&unit).await.tree_size, 9);

    liar.tell(1, 12);
    let offered = liar.note();
    sandbox.eventually(async || log_of(&unit).await.alarm).await;
    let status = unit.status().await.expect("a status");
    assert!(status.next_actions[0].contains("contradicts itself"));
    // The node has not cosigned it, and keeps both notes.
    assert_eq!(
        (liar.cosigned(), status.log.expect("a log").tree_size),
        (vec![9], 9)
    );
    let mut supervisor = unit.supervisor();
    let found = supervisor.list_evidence(v1::ListEvidenceRequest {}).await;
    let found = found.expect("listed").into_inner().message().await;
    let found = found.expect("listed").expect("one");
    assert_eq!(
        (&found.known[..], &found.offered[..]),
        (&known[..], &offered[..])
    );
    for note in [&found.known, &found.offered] {
        assert!(SignedCheckpoint::open(note, liar.log_key()).is_ok());
    }

    // Nothing is done on hits, over a restart too, until a supervisor has looked.
    unit.stop().await;
    unit.start(Arc::new(sandbox.clock.clone())).await;
    let refused = unit.confirm(&no_hit(&sandbox)).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorCode::LogInconsistent,
    );
    let clear = v1::ClearEvidenceRequest {
        reason: "agreed with the auditor".into(),
        begin_anew: true,
    };
    let mut analyst = NodeAdminServiceClient::new(unit.channel(Role::Analyst));
    let refused = analyst.clear_evidence(clear.clone()).await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::RoleForbidden);
    let cleared = unit.supervisor().clear_evidence(clear).await;
    assert_eq!(cleared.expect("cleared").into_inner().cleared, 1);
    let refused = unit.confirm(&no_hit(&sandbox)).await;
    assert_refused(refused, Code::NotFound, ErrorCode::HitUnknown);
    sandbox
        .eventually(async || log_of(&unit).await.tree_size == 12)
        .await;
}
