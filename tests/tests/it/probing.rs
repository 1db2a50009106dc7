//! What is refused of a probe, sessions, and the quota (protocol §7).

use std::time::Duration;

use prost::Message as _;
use sotto_common::error::ErrorCode;
use sotto_common::selector::Policy::{Email, Phone};
use sotto_proto::v1;
use sotto_tests::probe::{Pair, batch_of, by_ref};
use sotto_tests::{Sandbox, assert_refused, matched, phones};
use tonic::Code;
use tonic_types::StatusExt as _;

const MEMBERS: [&str; 2] = ["nl-fiu", "de-bka"];

type Case = (fn(&mut v1::ProbeOpening), Code, ErrorCode);

/// Openings that are refused, each for its reason, and leave nothing behind.
async fn refuses_openings(cases: &[Case]) {
    let (sandbox, [nl, _de]) = Sandbox::with_nodes(MEMBERS).await;
    let mut footprint = sandbox.footprint().await;
    for (i, (change, code, why)) in cases.iter().enumerate() {
        println!("case {i}: {why}");
        let mut opening = nl.opening(Phone);
        change(&mut opening);
        assert_refused(nl.open(opening).await, *code, *why);
    }
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_openings_without_purpose_legal_basis_its_reference_or_case() {
    use Code::InvalidArgument;
    refuses_openings(&[
        (
            |o| o.purpose = 0,
            InvalidArgument,
            ErrorCode::PurposeMissing,
        ),
        (
            |o| o.purpose = 99,
            InvalidArgument,
            ErrorCode::PurposeMissing,
        ),
        (
            |o| o.legal_basis = 0,
            InvalidArgument,
            ErrorCode::LegalBasisMissing,
        ),
        (
            |o| o.legal_basis = v1::LegalBasis::NationalLaw.into(),
            InvalidArgument,
            ErrorCode::LegalBasisMissing,
        ),
        (
            |o| o.legal_basis_reference = "x".repeat(257),
            InvalidArgument,
            ErrorCode::InvalidField,
        ),
        (
            |o| o.case_ref = String::new(),
            InvalidArgument,
            ErrorCode::CaseRefMissing,
        ),
        (
            |o| o.case_ref = "  ".into(),
            InvalidArgument,
            ErrorCode::CaseRefMissing,
        ),
        (
            |o| o.case_ref = "x".repeat(129),
            InvalidArgument,
            ErrorCode::InvalidField,
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_openings_of_another_epoch_key_normal_form_or_shape() {
    use Code::{FailedPrecondition, InvalidArgument, NotFound, PermissionDenied};
    refuses_openings(&[
        (|o| o.epoch = 2, NotFound, ErrorCode::EpochUnknown),
        (|o| o.epoch = 0, InvalidArgument, ErrorCode::InvalidField),
        (
            |o| o.policy = "vin/1".into(),
            InvalidArgument,
            ErrorCode::PolicyUnknown,
        ),
        (
            |o| o.policy = "phone/2".into(),
            InvalidArgument,
            ErrorCode::PolicyUnknown,
        ),
        (
            |o| o.kid = vec![7; 8].into(),
            FailedPrecondition,
            ErrorCode::KeyMismatch,
        ),
        (
            |o| o.kid = vec![7; 7].into(),
            InvalidArgument,
            ErrorCode::InvalidField,
        ),
        (
            |o| o.forms = vec![7; 32].into(),
            FailedPrecondition,
            ErrorCode::FormsMismatch,
        ),
        (
            |o| o.canary_tags.clear(),
            FailedPrecondition,
            ErrorCode::CanaryMissing,
        ),
        (
            |o| o.canary_tags[0] = vec![7; 16].into(),
            FailedPrecondition,
            ErrorCode::CanaryMissing,
        ),
        (
            |o| o.canary_tags.push(vec![7; 16].into()),
            FailedPrecondition,
            ErrorCode::CanaryMissing,
        ),
        (
            |o| o.canary_tags[0] = vec![7; 15].into(),
            InvalidArgument,
            ErrorCode::InvalidField,
        ),
        (
            |o| o.nonce = vec![7; 31].into(),
            InvalidArgument,
            ErrorCode::InvalidField,
        ),
        (
            |o| o.session_id = vec![7; 16].into(),
            InvalidArgument,
            ErrorCode::InvalidField,
        ),
        (
            |o| o.targets = vec!["zz-x".into(); 1001],
            InvalidArgument,
            ErrorCode::InvalidField,
        ),
        (
            |o| o.community = "no-such".into(),
            PermissionDenied,
            ErrorCode::NotAMember,
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn canary_tags_come_in_any_order_and_are_never_hits() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    de.publish(Phone, &phones(0..3)).await;
    let mut opening = nl.opening(Phone);
    opening.canary_tags.reverse();
    let probe = nl.open(opening).await.expect("opened");
    probe.close().await.expect("closed");
    assert!(nl.hits().await.expect("listed").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_comes_only_after_the_opening_and_an_opening_only_once() {
    let (_sandbox, [nl, _de]) = Sandbox::with_nodes(MEMBERS).await;
    let batch = v1::ProbeRequest {
        message: Some(v1::probe_request::Message::Batch(batch_of(0, &[]))),
    };
    for first in [batch, v1::ProbeRequest { message: None }] {
        let stream = tokio_stream::iter([first]);
        let mut answers = nl
            .probes()
            .probe(stream)
            .await
            .expect("a stream")
            .into_inner();
        let refused = answers.message().await;
        assert_refused(refused, Code::InvalidArgument, ErrorCode::InvalidField);
    }
    let mut probe = nl.open(nl.opening(Phone)).await.expect("opened");
    let again = v1::probe_request::Message::Opening(nl.opening(Phone));
    let refused = probe.ask(again).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::InvalidField);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_malformed_batches_and_counts_nothing_of_them() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    de.publish(Phone, &phones(0..3)).await;
    let opening = nl.opening(Phone);
    nl.open(opening.clone()).await.expect("opened");
    let pairs = nl.pairs(Phone, &phones(0..4097));
    let ragged = |tags: usize, refs: usize| v1::ProbeBatch {
        number: 0,
        tags: vec![1; tags].into(),
        refs: vec![2; refs].into(),
    };
    let same_ref: Vec<Pair> = vec![pairs[0], (pairs[1].0, pairs[0].1)];
    let mut footprint = sandbox.footprint().await;
    for batch in [
        batch_of(0, &[]),
        batch_of(0, &pairs),
        batch_of(0, &same_ref),
        ragged(16, 32),
        ragged(17, 16),
        ragged(16, 15),
        ragged(8, 8),
    ] {
        let mut probe = nl.open(opening.clone()).await.expect("resumed");
        let refused = probe.raw_batch(batch).await;
        assert_refused(refused, Code::InvalidArgument, ErrorCode::BatchMalformed);
    }
    footprint.assert_unchanged().await;
    let mut probe = nl.open(opening).await.expect("resumed");
    let answer = probe
        .batch(0, &pairs[..4096])
        .await
        .expect("4096 are allowed");
    assert_eq!(answer.refs.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_counts_a_batch_whole_or_not_at_all_and_begins_anew_each_day() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    let limited = sandbox.operator().set_limits(&nl, Some(10), None).await;
    limited.expect("set");
    de.publish(Phone, &phones(0..20)).await;
    let used = async || nl.limits().await.expect("listed")[0].used_today;

    let mut probe = nl.open(nl.opening(Phone)).await.expect("opened");
    assert_eq!(probe.opened.refs_left_today, 10);
    assert_eq!(probe.opened.max_pairs, 4096);
    let pairs = nl.pairs(Phone, &phones(0..20));
    probe.batch(0, &pairs[..7]).await.expect("answered");
    assert_eq!(used().await, 7);
    let mut footprint = sandbox.footprint().await;
    let refused = probe.batch(1, &pairs[7..11]).await;
    let status = assert_refused(refused, Code::ResourceExhausted, ErrorCode::QuotaExhausted);
    let details = status.get_error_details();
    assert_eq!(
        details
            .quota_failure()
            .expect("QuotaFailure")
            .violations
            .len(),
        1
    );
    let wait = details
        .retry_info()
        .expect("RetryInfo")
        .retry_delay
        .expect("a time");
    assert_eq!(wait, sandbox.clock_now().until_next_day());
    footprint.assert_unchanged().await;
    assert_eq!(nl.hits().await.expect("listed").len(), 7);

    // What still fits is taken, by a new stream and in another session.
    nl.ask(Phone, &phones(10..13)).await.expect("answered");
    assert_eq!(used().await, 10);
    let refused = nl.ask(Phone, &phones(13..14)).await;
    assert_refused(refused, Code::ResourceExhausted, ErrorCode::QuotaExhausted);
    // Other policies and other nodes have a count of their own.
    nl.ask(Email, &phones(0..10)).await.expect("answered");
    de.ask(Phone, &phones(0..20)).await.expect("answered");

    sandbox.clock.advance(wait);
    assert_eq!(used().await, 0);
    nl.ask(Phone, &phones(10..20)).await.expect("answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_batch_gets_its_recorded_answer_and_is_not_counted_again() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    de.publish(Phone, &phones(0..5)).await;
    let opening = nl.opening(Phone);
    let pairs = nl.pairs(Phone, &phones(0..9));
    let mut probe = nl.open(opening.clone()).await.expect("opened");
    assert_eq!(probe.opened.last_answered, None);
    let answer = probe.batch(3, &pairs).await.expect("answered");
    de.publish(Phone, &phones(8..9)).await;
    assert_eq!(probe.batch(3, &pairs).await.expect("answered"), answer);
    drop(probe);

    let mut probe = nl.open(opening.clone()).await.expect("resumed");
    assert_eq!(probe.opened.last_answered, Some(3));
    assert_eq!(probe.batch(3, &pairs).await.expect("answered"), answer);
    assert_eq!(nl.limits().await.expect("listed")[0].used_today, 9);
    // Other pairs, and the same ones in another order, are another batch.
    let mut turned = pairs.clone();
    turned.reverse();
    for other in [&pairs[1..], &turned[..]] {
        let mut probe = nl.open(opening.clone()).await.expect("resumed");
        let refused = probe.batch(3, other).await;
        assert_refused(refused, Code::InvalidArgument, ErrorCode::BatchMismatch);
    }
    assert_eq!(nl.limits().await.expect("listed")[0].used_today, 9);
    let closed = probe.close().await.expect("closed");
    assert_eq!((closed.batches, closed.refs), (1, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_before_are_answered_by_ref_with_the_same_hits() {
    use v1::probe_request::Message::Batch;
    use v1::probe_response::Message::Answer;
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    de.publish(Phone, &phones(0..5)).await;
    let batch = batch_of(0, &nl.pairs(Phone, &phones(0..9)));
    let ask = async |opening: &v1::ProbeOpening| {
        let mut probe = nl.open(opening.clone()).await.expect("opened");
        match probe.ask(Batch(batch.clone())).await? {
            Answer(answer) => Ok::<_, tonic::Status>(answer.matches),
            other => panic!("no answer to a batch: {other:?}"),
        }
    };
    let now = nl.opening(Phone);
    let before = v1::ProbeOpening {
        answers_by_holder: false,
        ..nl.opening(Phone)
    };
    let (told_now, told_before) = (ask(&now).await, ask(&before).await);
    let (told_now, told_before) = (told_now.expect("answered"), told_before.expect("answered"));
    let wire = |bytes: &[u8]| v1::ProbeMatches::decode(bytes).expect("matches");
    assert_eq!(wire(&told_now).holders.len(), 1);
    assert_eq!(wire(&told_before).refs.len(), 5);
    assert_eq!(by_ref(&told_now, &batch.refs), wire(&told_before));

    // A recorded answer is repeated as it is: each reads its own again, and a node of before, which
    // would find nothing in one by holder, is told so.
    assert_eq!(ask(&now).await.expect("answered"), told_now);
    let resumed = v1::ProbeOpening {
        answers_by_holder: true,
        ..before
    };
    assert_eq!(ask(&resumed).await.expect("answered"), told_before);
    let resumed = v1::ProbeOpening {
        answers_by_holder: false,
        ..now
    };
    let refused = ask(&resumed).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::SessionMismatch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_resumes_only_for_its_prober_under_the_same_nonce_and_opening() {
    type Change = fn(&mut v1::ProbeOpening);
    let (mut sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    let opening = nl.opening(Phone);
    let mut probe = nl.open(opening.clone()).await.expect("opened");
    let pairs = nl.pairs(Phone, &phones(0..3));
    probe.batch(0, &pairs).await.expect("answered");
    sandbox.restart().await;
    let mut footprint = sandbox.footprint().await;
    let changes: [Change; 7] = [
        |o| o.nonce = vec![7; 32].into(),
        |o| o.purpose = v1::Purpose::Border.into(),
        |o| o.legal_basis = v1::LegalBasis::Untoc.into(),
        |o| o.legal_basis_reference = "Art. 3".into(),
        |o| o.case_ref = "case-8".into(),
        |o| o.targets = vec!["de-bka".into()],
        |_| (),
    ];
    for change in &changes[..6] {
        let mut bent = opening.clone();
        change(&mut bent);
        let refused = nl.open(bent).await;
        assert_refused(refused, Code::InvalidArgument, ErrorCode::SessionMismatch);
    }
    let mut other_policy = nl.opening(Email);
    other_policy.session_id = opening.session_id.clone();
    other_policy.nonce = opening.nonce.clone();
    let refused = nl.open(other_policy).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::SessionMismatch);
    let refused = de.open(opening.clone()).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::SessionMismatch);
    footprint.assert_unchanged().await;

    let probe = nl
        .open(opening.clone())
        .await
        .expect("resumed after a restart");
    probe.close().await.expect("closed");
    let refused = nl.open(opening).await;
    assert_refused(refused, Code::NotFound, ErrorCode::SessionUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_uses_for_a_week_is_closed() {
    let (mut sandbox, [nl, _de]) = Sandbox::with_nodes(MEMBERS).await;
    let opening = nl.opening(Phone);
    let mut probe = nl.open(opening.clone()).await.expect("opened");
    let pairs = nl.pairs(Phone, &phones(0..3));
    probe.batch(0, &pairs).await.expect("answered");
    sandbox.clock.advance(Duration::from_hours(8 * 24));
    sandbox.restart().await;
    sandbox
        .eventually(async || {
            let answer = nl.open(opening.clone()).await;
            answer.is_err_and(|status| status.code() == Code::NotFound)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_sent_ahead_are_answered_in_order() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    de.publish(Phone, &phones(0..900)).await;
    let opening = v1::probe_request::Message::Opening(nl.opening(Phone));
    let pairs = nl.pairs(Phone, &phones(0..900));
    let batches = (0u32..).zip(pairs.chunks(50));
    let batches = batches.map(|(n, pairs)| v1::probe_request::Message::Batch(batch_of(n, pairs)));
    let messages: Vec<_> = [opening].into_iter().chain(batches).collect();
    let requests = messages.into_iter().map(|message| v1::ProbeRequest {
        message: Some(message),
    });
    let stream = tokio_stream::iter(requests.collect::<Vec<_>>());
    let mut answers = nl
        .probes()
        .probe(stream)
        .await
        .expect("a stream")
        .into_inner();
    let mut numbers = vec![];
    while let Some(answer) = answers.message().await.expect("no refusal") {
        if let Some(v1::probe_response::Message::Answer(answer)) = answer.message {
            numbers.push(answer.number);
        }
    }
    assert_eq!(numbers, (0..18).collect::<Vec<_>>());
    assert_eq!(nl.hits().await.expect("listed").len(), 900);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_streams_of_one_session_count_a_batch_once() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    de.publish(Phone, &phones(0..50)).await;
    let opening = nl.opening(Phone);
    let mut one = nl.open(opening.clone()).await.expect("opened");
    let mut two = nl.open(opening).await.expect("resumed");
    let pairs = nl.pairs(Phone, &phones(0..50));
    let (a, b) = tokio::join!(one.batch(0, &pairs), two.batch(0, &pairs));
    let (a, b) = (a.expect("answered"), b.expect("answered"));
    assert_eq!(a, b);
    assert_eq!(matched(&a).count(), 50);
    assert_eq!(nl.limits().await.expect("listed")[0].used_today, 50);
}
