//! Key statements, manifests, epochs and their ends (protocol §8).

use std::time::Duration;

use sotto_common::dsse::SigningKey;
use sotto_common::epoch::Kid;
use sotto_common::error::ErrorCode;
use sotto_common::membership::Manifest;
use sotto_common::random::os_rng;
use sotto_common::selector::Policy::Phone;
use sotto_proto::v1::EpochState;
use sotto_proto::{convert, v1};
use sotto_tests::ledger::filter_files;
use sotto_tests::sandbox::{open_epoch, profile};
use sotto_tests::{COMMUNITY, Sandbox, TestNode, assert_refused, phones};
use tonic::Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied};

const MEMBERS: [&str; 3] = ["nl-fiu", "de-bka", "fr-pj"];

/// A community whose nodes have handed in their keys, and no epoch yet.
async fn before_the_first_epoch() -> (Sandbox, [TestNode; 3]) {
    let sandbox = Sandbox::empty().await;
    let nodes = MEMBERS.map(|name| sandbox.node(name));
    let operator = sandbox.operator();
    let created = operator
        .create_community(profile(), &["nl-fiu", "de-bka"])
        .await;
    created.expect("created");
    for node in &nodes {
        operator.enrol(node.id().as_str()).await.expect("enrolled");
        node.submit_keys().await.expect("taken");
    }
    (sandbox, nodes)
}

async fn states(node: &TestNode) -> Vec<(u32, EpochState)> {
    let request = v1::ListEpochsRequest {
        community: COMMUNITY.into(),
    };
    let response = node
        .membership()
        .list_epochs(request)
        .await
        .expect("listed");
    let epochs = response.into_inner().epochs;
    epochs.iter().map(|e| (e.epoch, e.state())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_community_and_a_node_are_made_only_once() {
    let (sandbox, _nodes) = before_the_first_epoch().await;
    let operator = sandbox.operator();
    let again = operator.create_community(profile(), &["nl-fiu"]).await;
    assert_refused(again, AlreadyExists, ErrorCode::AlreadyExists);
    let again = operator.enrol("nl-fiu").await;
    assert_refused(again, AlreadyExists, ErrorCode::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_statement_is_of_the_caller_signed_by_itself_and_of_one_identity() {
    let (sandbox, [nl, de, _fr]) = before_the_first_epoch().await;
    let mut footprint = sandbox.footprint().await;
    let statement = |keys, signer: &SigningKey| v1::SubmitKeyStatementRequest {
        community: COMMUNITY.into(),
        statement: Some(convert::sign(
            sotto_common::membership::KeyStatement {
                keys,
                community: sotto_tests::node::community(),
                valid_from: sotto_tests::node::epoch(1),
            },
            signer,
        )),
    };
    let submit = async |request| nl.membership().submit_key_statement(request).await;

    let refused = submit(statement(de.member_keys(), de.signing_key())).await;
    assert_refused(refused, InvalidArgument, ErrorCode::InvalidField);
    let refused = submit(statement(nl.member_keys(), de.signing_key())).await;
    assert_refused(refused, InvalidArgument, ErrorCode::SignatureInvalid);
    let other = SigningKey::generate(&mut os_rng());
    let mut keys = nl.member_keys();
    keys.signing = other.verifying_key();
    let refused = submit(statement(keys, &other)).await;
    assert_refused(refused, FailedPrecondition, ErrorCode::IdentityChanged);
    footprint.assert_unchanged().await;
    nl.submit_keys().await.expect("the same again is taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_manifests_that_break_a_rule() {
    type Change = fn(&mut Manifest);
    let (sandbox, [nl, de, fr]) = before_the_first_epoch().await;
    let rows: Vec<_> = [&nl, &de, &fr].iter().map(|n| n.member_keys()).collect();
    let (gms, manifest) = nl.plan_epoch(1, &profile(), &rows);
    let mut footprint = sandbox.footprint().await;
    let open = async |request| nl.membership().open_epoch(request).await;

    let rules: [Change; 10] = [
        |m| m.not_after = m.not_before.plus(Duration::from_hours(31 * 24 + 1)),
        |m| m.not_after = m.not_before,
        |m| drop(m.members.remove(0)),
        |m| m.members.push(m.members[1].clone()),
        |m| m.policies.truncate(1),
        |m| m.policies[0].canary_tags.clear(),
        |m| m.members[1].signing = m.members[2].signing,
        |m| m.members[1].cosigning = m.members[2].cosigning,
        |m| m.members[1].hpke = m.members[2].hpke.clone(),
        |m| m.members[2].node = "be-fgp".parse().expect("a node"),
    ];
    for (i, change) in rules.into_iter().enumerate() {
        println!("rule {i}");
        let mut broken = manifest.clone();
        change(&mut broken);
        let refused = open(nl.seal_epoch(&gms, &broken)).await;
        assert_refused(refused, InvalidArgument, ErrorCode::ManifestInvalid);
    }
    let mut late = manifest.clone();
    late.not_before = late.not_before.minus(Duration::from_hours(31 * 24));
    late.not_after = nl.now();
    let refused = open(nl.seal_epoch(&gms, &late)).await;
    assert_refused(refused, InvalidArgument, ErrorCode::ManifestInvalid);

    // An envelope for each member, no more and no less.
    for change in [
        (|r| drop(r.envelopes.pop())) as fn(&mut v1::OpenEpochRequest),
        |r| r.envelopes.push(r.envelopes[0].clone()),
        |r| r.envelopes[1].recipient = "be-fgp".into(),
        |r| r.envelopes[1].kem = 0x647a,
        |r| r.envelopes[1].ciphertext = vec![1; 47].into(),
    ] {
        let mut request = nl.seal_epoch(&gms, &manifest);
        change(&mut request);
        assert_refused(
            open(request).await,
            InvalidArgument,
            ErrorCode::InvalidField,
        );
    }
    // Signed by another key than the accepted one; by a node that is on no list; for another.
    let mut request = nl.seal_epoch(&gms, &manifest);
    request.manifest = Some(convert::sign(manifest.clone(), de.signing_key()));
    assert_refused(
        open(request).await,
        InvalidArgument,
        ErrorCode::SignatureInvalid,
    );
    let refused = fr.open_epoch(1, &profile(), &[&nl, &de, &fr]).await;
    assert_refused(refused, InvalidArgument, ErrorCode::ManifestInvalid);
    let request = nl.seal_epoch(&gms, &manifest);
    let refused = de.membership().open_epoch(request).await;
    assert_refused(refused, InvalidArgument, ErrorCode::ManifestInvalid);
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_keys_or_suspended_is_in_no_manifest() {
    let (sandbox, [nl, de, fr]) = before_the_first_epoch().await;
    let operator = sandbox.operator();
    operator.enrol("be-fgp").await.expect("enrolled");
    let be = sandbox.node("be-fgp");
    let refused = nl.open_epoch(1, &profile(), &[&nl, &be]).await;
    assert_refused(refused, InvalidArgument, ErrorCode::ManifestInvalid);
    operator.suspend("fr-pj", "left").await.expect("suspended");
    let refused = nl.open_epoch(1, &profile(), &[&nl, &de, &fr]).await;
    assert_refused(refused, InvalidArgument, ErrorCode::ManifestInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_is_idempotent_for_the_same_manifest_and_numbers_only_grow() {
    let (_sandbox, [nl, de, fr]) = before_the_first_epoch().await;
    let rows: Vec<_> = [&nl, &de, &fr].iter().map(|n| n.member_keys()).collect();
    let (gms, manifest) = nl.plan_epoch(5, &profile(), &rows);
    let request = nl.seal_epoch(&gms, &manifest);
    for _ in 0..2 {
        let opened = nl.membership().open_epoch(request.clone()).await;
        opened.expect("opened");
    }
    nl.join_epoch(5).await.expect("the first envelope opens");
    for number in [1, 4, 5] {
        let refused = nl.open_epoch(number, &profile(), &[&nl, &de, &fr]).await;
        assert_refused(refused, InvalidArgument, ErrorCode::ManifestInvalid);
    }
    nl.open_epoch(6, &profile(), &[&nl, &de, &fr])
        .await
        .expect("opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_is_active_once_every_member_has_confirmed_its_own_key() {
    let (_sandbox, [nl, de, fr]) = before_the_first_epoch().await;
    nl.open_epoch(1, &profile(), &[&nl, &de, &fr])
        .await
        .expect("opened");
    assert_eq!(nl.join_epoch(1).await.expect("confirmed"), EpochState::Open);
    // Not yet: neither publications nor probes.
    let draft = nl.draft(Phone, &phones(0..3)).await;
    let refused = nl.announce(&draft).await;
    assert_refused(refused, FailedPrecondition, ErrorCode::EpochNotActive);
    let refused = nl.open(nl.opening(Phone)).await;
    assert_refused(refused, FailedPrecondition, ErrorCode::EpochNotActive);

    de.fetch(1).await.expect("fetched");
    let mut wrong = de.confirmation(1);
    wrong.kid = Kid::new([7; 8]);
    assert_refused(
        de.confirm(wrong).await,
        FailedPrecondition,
        ErrorCode::KeyMismatch,
    );
    let mut wrong = de.confirmation(1);
    wrong.manifest_digest = [7; 32];
    assert_refused(
        de.confirm(wrong).await,
        FailedPrecondition,
        ErrorCode::KeyMismatch,
    );
    let of_another = nl.confirmation(1);
    assert_refused(
        de.confirm(of_another).await,
        InvalidArgument,
        ErrorCode::InvalidField,
    );
    let request = v1::ConfirmEpochRequest {
        community: COMMUNITY.into(),
        confirmation: Some(convert::sign(de.confirmation(1), nl.signing_key())),
    };
    let refused = de.membership().confirm_epoch(request).await;
    assert_refused(refused, InvalidArgument, ErrorCode::SignatureInvalid);

    assert_eq!(de.join_epoch(1).await.expect("confirmed"), EpochState::Open);
    assert_eq!(de.join_epoch(1).await.expect("again"), EpochState::Open);
    assert_eq!(
        fr.join_epoch(1).await.expect("confirmed"),
        EpochState::Active
    );
    nl.publish_draft(&draft).await.expect("published");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_custodian_closes_the_list_and_ends_the_epoch() {
    let (sandbox, [nl, de, fr]) = before_the_first_epoch().await;
    nl.open_epoch(1, &profile(), &[&nl, &de, &fr])
        .await
        .expect("opened");
    nl.join_epoch(1).await.expect("confirmed");
    let refused = de.close_confirmations(1).await;
    assert_refused(refused, PermissionDenied, ErrorCode::RoleForbidden);
    let refused = de.end_epoch(1).await;
    assert_refused(refused, PermissionDenied, ErrorCode::RoleForbidden);
    let refused = nl.close_confirmations(2).await;
    assert_refused(refused, NotFound, ErrorCode::EpochUnknown);
    for _ in 0..2 {
        nl.close_confirmations(1).await.expect("closed");
        assert_eq!(states(&nl).await, [(1, EpochState::Active)]);
    }
    nl.publish(Phone, &phones(0..3)).await;
    let probed = de.fetch(1).await.expect("late, and a member");
    assert_eq!(probed.manifest.members.len(), 3);
    let mut probe = de.open(de.opening(Phone)).await.expect("opened");

    for _ in 0..2 {
        nl.end_epoch(1).await.expect("ended");
    }
    assert_eq!(states(&nl).await, [(1, EpochState::Ended)]);
    let refused = probe.batch(0, &de.pairs(Phone, &phones(0..3))).await;
    assert_refused(refused, FailedPrecondition, ErrorCode::EpochNotActive);
    let refused = de.open(de.opening(Phone)).await;
    assert_refused(refused, FailedPrecondition, ErrorCode::EpochNotActive);
    let refused = nl.close_confirmations(1).await;
    assert_refused(refused, FailedPrecondition, ErrorCode::EpochNotActive);
    assert_refused(
        de.join_epoch(1).await,
        FailedPrecondition,
        ErrorCode::EpochNotActive,
    );
    let files = filter_files(&sandbox.data_dir());
    assert!(
        files.is_empty(),
        "filters of an ended epoch are deleted: {files:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_ends_the_epochs_that_list_the_node_and_it_comes_back_anew() {
    let (sandbox, [nl, de, fr]) = Sandbox::with_nodes(MEMBERS).await;
    let operator = sandbox.operator();
    de.publish(Phone, &phones(0..3)).await;
    let upload = nl.draft(Phone, &phones(0..3)).await;
    nl.announce(&upload).await.expect("announced");
    nl.upload(&upload, 0, |_| ()).await.expect("uploaded");
    nl.open_epoch(2, &profile(), &[&nl, &de])
        .await
        .expect("opened");
    let mut probe = fr.open(fr.opening(Phone)).await.expect("opened");

    let refused = operator.suspend("fr-pj", "").await;
    assert_refused(refused, InvalidArgument, ErrorCode::InvalidField);
    let ended = operator.suspend("fr-pj", "its key is lost").await;
    assert_eq!(ended.expect("suspended"), [1]);
    assert_eq!(
        states(&nl).await,
        [(2, EpochState::Open), (1, EpochState::Ended)]
    );
    let refused = probe.batch(0, &fr.pairs(Phone, &phones(0..3))).await;
    assert_refused(refused, PermissionDenied, ErrorCode::NotAMember);
    let refused = fr.hits().await;
    assert_refused(refused, PermissionDenied, ErrorCode::NotAMember);
    let refused = nl
        .activate(upload.id())
        .await
        .expect_err("its epoch has ended");
    assert_eq!(refused.code(), FailedPrecondition);
    let files = filter_files(&sandbox.data_dir());
    assert!(files.is_empty(), "{files:?}");

    // Enrolled again, it begins with new keys; any custodian opens the next epoch.
    operator.enrol("fr-pj").await.expect("enrolled again");
    let fr = sandbox.node("fr-pj");
    fr.submit_keys().await.expect("new keys are taken");
    nl.end_epoch(2).await.expect("ended");
    open_epoch(3, &profile(), &[&nl, &de, &fr]).await;
    de.publish(Phone, &phones(0..3)).await;
    assert_eq!(fr.find(Phone, &phones(0..9)).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_takes_nothing_outside_its_times() {
    let (sandbox, [nl, de, _fr]) = Sandbox::with_nodes(MEMBERS).await;
    de.publish(Phone, &phones(0..3)).await;
    let ends = nl.keys(1).manifest.not_after;
    let mut probe = nl.open(nl.opening(Phone)).await.expect("opened");
    sandbox.clock.set(ends.minus(Duration::from_secs(1)));
    let pairs = nl.pairs(Phone, &phones(0..3));
    let answer = probe.batch(0, &pairs).await.expect("just in time");
    assert_eq!(answer.refs.len(), 3);
    sandbox.clock.set(ends);
    let refused = probe.batch(1, &pairs).await;
    assert_refused(refused, FailedPrecondition, ErrorCode::EpochNotActive);
    let refused = nl.open(nl.opening(Phone)).await;
    assert_refused(refused, FailedPrecondition, ErrorCode::EpochNotActive);
    let mut draft = nl.draft(Phone, &phones(0..3)).await;
    draft.header.expires_at = ends.plus(Duration::from_secs(9));
    let refused = nl.announce(&draft).await;
    assert_refused(refused, FailedPrecondition, ErrorCode::EpochNotActive);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_epoch_is_active_beside_this_one_for_24_hours_at_most() {
    let (mut sandbox, [nl, de, fr]) = Sandbox::with_nodes(MEMBERS).await;
    de.publish(Phone, &phones(0..3)).await;
    let opening = nl.opening(Phone);
    let mut probe = nl.open(opening).await.expect("opened");
    let pairs = nl.pairs(Phone, &phones(0..3));
    open_epoch(2, &profile(), &[&nl, &de, &fr]).await;
    de.publish(Phone, &phones(0..5)).await;
    // Both take probes; a record has another ref, and so another hit, in each.
    assert_eq!(
        probe.batch(0, &pairs).await.expect("answered").refs.len(),
        3
    );
    assert_eq!(nl.find(Phone, &phones(0..9)).await.len(), 5);
    assert_eq!(nl.hits().await.expect("listed").len(), 8);

    sandbox.clock.advance(Duration::from_hours(23));
    sandbox.restart().await;
    assert_eq!(nl.find(Phone, &phones(0..9)).await.len(), 5);
    assert_eq!(states(&nl).await[1], (1, EpochState::Active));
    sandbox.clock.advance(Duration::from_hours(1));
    sandbox.restart().await;
    sandbox
        .eventually(async || states(&nl).await[1].1 == EpochState::Ended)
        .await;
    assert_eq!(nl.find(Phone, &phones(0..9)).await.len(), 5);
    assert_eq!(nl.hits().await.expect("listed").len(), 8, "hits live on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_is_confirmed_ahead_of_its_time_does_not_end_this_one_early() {
    let (mut sandbox, [nl, de, fr]) = Sandbox::with_nodes(MEMBERS).await;
    let nodes = [&nl, &de, &fr];
    let rows: Vec<_> = nodes.iter().map(|n| n.member_keys()).collect();
    let (gms, mut manifest) = nl.plan_epoch(2, &profile(), &rows);
    manifest.not_before = nl.now().plus(Duration::from_hours(72));
    let request = nl.seal_epoch(&gms, &manifest);
    nl.membership().open_epoch(request).await.expect("opened");
    for node in nodes {
        node.fetch(2).await.expect("fetched");
        node.confirm(node.confirmation(2)).await.expect("confirmed");
    }
    let early = nl.open(nl.opening(Phone)).await;
    assert_refused(early, FailedPrecondition, ErrorCode::EpochNotActive);

    sandbox.clock.advance(Duration::from_hours(48));
    sandbox.restart().await;
    let opened = nl.open(nl.opening_in(1, Phone)).await;
    opened.expect("epoch 1 is all there is until epoch 2 begins");
    sandbox.clock.advance(Duration::from_hours(48));
    sandbox.restart().await;
    sandbox
        .eventually(async || states(&nl).await[1].1 == EpochState::Ended)
        .await;
    nl.open(nl.opening(Phone)).await.expect("epoch 2 has begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_of_an_epoch_that_ended_just_before_a_kill_are_deleted_after_it() {
    let (mut sandbox, [nl, _de, _fr]) = Sandbox::with_nodes(MEMBERS).await;
    nl.publish(Phone, &phones(0..3)).await;
    let upload = nl.draft(Phone, &phones(0..3)).await;
    nl.announce(&upload).await.expect("announced");
    nl.upload(&upload, 0, |_| ()).await.expect("uploaded");
    sandbox.stop().await;
    // The filter, its copy, and two chunks.
    assert_eq!(filter_files(&sandbox.data_dir()).len(), 4);
    // The end of the epoch was durable, the end of its filters was not.
    sandbox
        .change_ledger("UPDATE epochs SET state = 'ENDED'")
        .await;
    sandbox.start().await;
    sandbox
        .eventually(async || filter_files(&sandbox.data_dir()).is_empty())
        .await;
    let listed = nl.list_publications(1).await.expect("listed");
    let expired = v1::PublicationState::Expired;
    assert!(listed.publications.iter().all(|p| p.state() == expired));
}
