//! A disk that is full: refused, nothing half stored, and well again once there is room.
//!
//! The kernel's limit on the size of files stands in for the disk: it needs no privilege, and the
//! broker sees what it would see of a full disk, a write that is cut short or fails.

use sotto_common::error::ErrorCode;
use sotto_common::selector::Policy::Phone;
use sotto_proto::v1::PublicationState;
use sotto_tests::ledger::{TestLedger, filter_files, mapped_files};
use sotto_tests::program::{FAIL_BEYOND_LIMIT, limit_files};
use sotto_tests::sandbox::{found, profile};
use sotto_tests::{BrokerProcess, assert_refused, phones, refusal};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_to_a_full_disk_is_refused_and_goes_on_once_there_is_room() {
    let mut process = BrokerProcess::on(&TestLedger::File, "info").await;
    process.kill().await;
    process.restart_under(FAIL_BEYOND_LIMIT).await;
    let [nl, de] = ["nl-fiu", "de-bka"].map(|name| process.node(name));
    found(&process.operator(), &profile(), &[&nl, &de]).await;
    process
        .operator()
        .set_limits(&nl, None, Some(20))
        .await
        .expect("set");
    let values = phones(0..10_000);
    let tags = nl.pairs(Phone, &values).into_iter().map(|(tag, _)| tag);
    let more = (0..10_000u128).map(|n| sotto_common::secret::Tag::new(n.to_be_bytes()));
    let draft = nl.draft_of_tags(Phone, tags.chain(more).collect()).await;
    nl.announce(&draft).await.expect("announced");

    limit_files(process.pid(), "2048");
    let mut acknowledged = 0;
    let refused = nl.upload(&draft, 0, |so_far| acknowledged = so_far).await;
    assert_refused(refused, Code::Unavailable, ErrorCode::Unavailable);
    assert_eq!(
        acknowledged, 0,
        "a chunk that does not fit is wholly absent"
    );
    let offset = nl.announce(&draft).await.expect("reading needs no room");
    assert_eq!(offset, 0);
    assert!(filter_files(&process.data_dir()).is_empty());

    limit_files(process.pid(), "unlimited");
    nl.upload(&draft, 0, |_| ()).await.expect("there is room");
    limit_files(process.pid(), &(draft.bits.len() / 2).to_string());
    let refused = nl.activate(draft.id()).await;
    assert_refused(refused, Code::Unavailable, ErrorCode::Unavailable);
    assert!(mapped_files(&process.data_dir()).is_empty());
    let again = nl.announce(&draft).await.expect("reading needs no room");
    assert_eq!(again, draft.bits.len() as u64, "its upload is still there");

    limit_files(process.pid(), "unlimited");
    nl.activate(draft.id()).await.expect("active");
    let found = de.ask(Phone, &values[..50]).await.expect("answered");
    assert_eq!(found.refs.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_hits_do_not_fit_is_not_answered_and_not_counted() {
    let mut process = BrokerProcess::on(&TestLedger::File, "info").await;
    process.kill().await;
    process.restart_under(FAIL_BEYOND_LIMIT).await;
    let [nl, de] = ["nl-fiu", "de-bka"].map(|name| process.node(name));
    found(&process.operator(), &profile(), &[&nl, &de]).await;
    de.publish(Phone, &phones(0..900)).await;
    let opening = nl.opening(Phone);
    let mut probe = nl.open(opening.clone()).await.expect("opened");
    let pairs = nl.pairs(Phone, &phones(0..900));

    limit_files(process.pid(), "4096");
    let refused = probe.batch(0, &pairs).await.expect_err("no room");
    assert_eq!(
        refused.code(),
        Code::Unavailable,
        "{}",
        refusal::reason(&refused)
    );
    let listed = nl.hits().await;
    assert!(
        listed.is_ok(),
        "{}",
        String::from_utf8_lossy(&process.log())
    );
    assert!(listed.expect("reading needs no room").is_empty());
    limit_files(process.pid(), "unlimited");
    assert_eq!(nl.limits().await.expect("listed")[0].used_today, 0);
    let mut probe = nl.open(opening).await.expect("resumed");
    assert_eq!(probe.opened.last_answered, None);
    let answer = probe.batch(0, &pairs).await.expect("there is room");
    assert_eq!(answer.refs.len(), 900);
    assert_eq!(nl.hits().await.expect("listed").len(), 900);
    let listed = de.list_publications(1).await.expect("listed");
    assert_eq!(listed.publications[0].state(), PublicationState::Active);
}
