//! Steps at the broker: which it takes, which it refuses and why, and what they do to the hit.

use std::time::Duration;

use prost::Message as _;
use sotto_common::dsse::StatementKind;
use sotto_common::error::ErrorCode;
use sotto_common::followup::step::StepClear;
use sotto_common::followup::{FollowUpState, FollowUpStep, transition};
use sotto_common::ids::{FollowUpId, HitId};
use sotto_common::random::os_rng;
use sotto_common::selector::Policy::Phone;
use sotto_common::time::CLOCK_SKEW;
use sotto_proto::v1::HitState;
use sotto_proto::{convert, v1};
use sotto_tests::follow_up::way_to;
use sotto_tests::{COMMUNITY, Case, TestNode, assert_refused, phones};
use tonic::Code;

use super::{case, with_hits};

use FollowUpState as S;
use FollowUpStep as T;

async fn hit_of(node: &TestNode, hit: HitId) -> v1::Hit {
    let request = v1::GetHitRequest {
        community: COMMUNITY.into(),
        hit_id: hit.as_bytes().to_vec().into(),
    };
    let response = node.hit_service().get_hit(request).await.expect("a hit");
    response.into_inner().hit.expect("a hit")
}

async fn hit_state(node: &TestNode, hit: HitId) -> HitState {
    hit_of(node, hit).await.state()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_up_goes_from_request_to_answer_and_its_hit_with_it() {
    let (_sandbox, nodes, hits) = with_hits(1).await;
    let mut case = case(&nodes, &hits, 0).await;
    for step in way_to(S::Answered) {
        let taken = case.take(*step).await.expect("taken");
        assert_eq!(taken.state().domain(), Some(case.state()), "{step}");
        assert_eq!(
            hit_state(case.requester, case.hit).await,
            HitState::FollowedUp
        );
    }
    case.take(T::Close).await.expect("taken");
    assert_eq!(hit_state(case.requester, case.hit).await, HitState::Closed);
    for node in [case.requester, case.holder] {
        let told = node.follow_up(case.id).await.expect("a party");
        assert_eq!(told.steps.len(), 6);
        assert_eq!(
            told.follow_up.expect("given").state(),
            v1::FollowUpState::Closed
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_that_is_followed_up_and_matches_no_more_is_marked_until_it_matches_again() {
    let (sandbox, nodes, hits) = with_hits(1).await;
    let [nl, de, _] = &nodes;
    let mut case = case(&nodes, &hits, 0).await;
    case.bring_to(S::Received).await;
    let mut stream = nl.watch(0).await.expect("open");
    // Found, under review, confirmed, followed up.
    for _ in 0..4 {
        stream.message().await.expect("open").expect("an event");
    }
    de.publish(Phone, &phones(7..8)).await;
    nl.find(Phone, &phones(0..1)).await;
    let told = stream.message().await.expect("open").expect("an event");
    let since = told.hit.expect("a hit").unmatched_since;
    assert_eq!(since, Some(convert::to_timestamp(nl.now())));
    sandbox.clock.advance(Duration::from_hours(1));
    nl.find(Phone, &phones(0..1)).await;
    let hit = hit_of(nl, case.hit).await;
    assert_eq!(
        (hit.state(), hit.unmatched_since),
        (HitState::FollowedUp, since)
    );

    de.publish(Phone, &phones(0..1)).await;
    nl.find(Phone, &phones(0..1)).await;
    let told = stream.message().await.expect("open").expect("an event");
    assert_eq!(told.cursor, 6, "that it still does not match is no event");
    let hit = told.hit.expect("a hit");
    assert_eq!(
        (hit.state(), hit.unmatched_since),
        (HitState::FollowedUp, None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn not_held_closes_the_follow_up_and_the_hit_is_false() {
    let (_sandbox, nodes, hits) = with_hits(1).await;
    let mut case = case(&nodes, &hits, 0).await;
    case.bring_to(S::Closed).await;
    let state = hit_state(case.requester, case.hit).await;
    assert_eq!(state, HitState::FalsePositive);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_is_taken_exactly_where_the_table_has_it() {
    let all: Vec<_> = S::ALL.iter().copied().filter(|s| *s != S::Draft).collect();
    let many = u32::try_from(all.len()).expect("few");
    let (_sandbox, nodes, hits) = with_hits(many).await;
    for (number, from) in (0..many).zip(all) {
        let mut case = case(&nodes, &hits, number).await;
        case.bring_to(from).await;
        for &step in T::ALL {
            if transition(from, step).is_ok() {
                continue;
            }
            let refused = case.actor(step).submit_step(case.signed(step)).await;
            let status = assert_refused(
                refused,
                Code::FailedPrecondition,
                ErrorCode::IllegalTransition,
            );
            assert!(status.message().contains(from.as_str()), "{status:?}");
        }
        // What is allowed still is: nothing of the refused has left a trace.
        let allowed = T::ALL.iter().find(|step| transition(from, **step).is_ok());
        if let Some(step) = allowed {
            case.take(*step).await.expect("taken");
        }
    }
}

/// A change of a clear part that makes it wrong, and why it is refused.
type Twist = (&'static str, fn(&mut StepClear, &Case<'_>), Code, ErrorCode);

const TWISTS: &[Twist] = &[
    (
        "a later place",
        |c, _| c.seq += 1,
        Code::FailedPrecondition,
        ErrorCode::FollowUpMismatch,
    ),
    (
        "another step before",
        |c, _| c.previous = [7; 32],
        Code::FailedPrecondition,
        ErrorCode::FollowUpMismatch,
    ),
    (
        "another hit",
        |c, case| c.hit = HitId::generate(case.holder.now(), &mut os_rng()),
        Code::FailedPrecondition,
        ErrorCode::FollowUpMismatch,
    ),
    (
        "another follow-up",
        |c, case| c.follow_up = FollowUpId::generate(case.holder.now(), &mut os_rng()),
        Code::NotFound,
        ErrorCode::FollowUpUnknown,
    ),
    (
        "another recipient",
        |c, _| c.recipient = "fr-pj".parse().expect("a node"),
        Code::FailedPrecondition,
        ErrorCode::FollowUpMismatch,
    ),
    (
        "another state after it",
        |c, _| c.state = FollowUpState::Answered,
        Code::FailedPrecondition,
        ErrorCode::FollowUpMismatch,
    ),
    (
        "made in the future",
        |c, case| {
            c.made_at = case.holder.now().plus(CLOCK_SKEW + Duration::from_secs(1));
        },
        Code::InvalidArgument,
        ErrorCode::InvalidField,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_does_not_fit_is_refused_and_leaves_nothing_behind() {
    let (sandbox, nodes, hits) = with_hits(1).await;
    let mut case = case(&nodes, &hits, 0).await;
    case.bring_to(S::Received).await;
    let mut footprint = sandbox.footprint().await;
    for (what, twist, code, why) in TWISTS {
        println!("{what}");
        let mut clear = case.clear(T::Accept);
        twist(&mut clear, &case);
        let refused = case.holder.submit_step(case.sign(&clear)).await;
        assert_refused(refused, *code, *why);
    }
    footprint.assert_unchanged().await;
    case.take(T::Accept).await.expect("taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_party_takes_steps_and_only_its_own() {
    let (sandbox, nodes, hits) = with_hits(1).await;
    let [nl, de, fr] = &nodes;
    let mut case = case(&nodes, &hits, 0).await;
    case.bring_to(S::Received).await;
    let mut footprint = sandbox.footprint().await;
    // By the other party: as itself, and by handing in what the holder has signed.
    let mut own = case.clear(T::Accept);
    (own.sender, own.recipient) = (nl.id().clone(), de.id().clone());
    let by_nl = convert::sign(case.statement(&own), nl.signing_key());
    assert_refused(
        nl.submit_step(by_nl).await,
        Code::FailedPrecondition,
        ErrorCode::FollowUpMismatch,
    );
    let handed_in = nl.submit_step(case.signed(T::Accept)).await;
    assert_refused(handed_in, Code::InvalidArgument, ErrorCode::InvalidField);
    // Signed by another key than the holder's in the manifest.
    let forged = convert::sign(case.statement(&case.clear(T::Accept)), nl.signing_key());
    assert_refused(
        de.submit_step(forged).await,
        Code::InvalidArgument,
        ErrorCode::SignatureInvalid,
    );
    // By somebody else, who does not even learn that there is such a follow-up.
    let mut foreign = case.clear(T::Withdraw);
    foreign.sender = fr.id().clone();
    let by_fr = convert::sign(case.statement(&foreign), fr.signing_key());
    assert_refused(
        fr.submit_step(by_fr).await,
        Code::NotFound,
        ErrorCode::FollowUpUnknown,
    );
    assert_refused(
        fr.follow_up(case.id).await,
        Code::NotFound,
        ErrorCode::FollowUpUnknown,
    );
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_follows_up_its_own_confirmed_hit_on_its_holder() {
    let (sandbox, nodes, hits) = with_hits(3).await;
    let [nl, de, fr] = &nodes;
    let mut open = case(&nodes, &hits, 0).await;
    open.bring_to(S::Submitted).await;
    let mut footprint = sandbox.footprint().await;
    // One open follow-up a hit: the hit is FOLLOWED_UP.
    let mut second = open.clear(T::Submit);
    second.follow_up = FollowUpId::generate(nl.now(), &mut os_rng());
    (second.seq, second.previous) = (0, [0; 32]);
    second.state = S::Submitted;
    let refused = nl.submit_step(open.sign(&second)).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorCode::IllegalTransition,
    );

    let fresh = |hit: &v1::Hit| {
        let mut clear = second.clone();
        clear.hit = HitId::from_slice(&hit.hit_id).expect("a hit");
        clear.follow_up = FollowUpId::generate(nl.now(), &mut os_rng());
        clear
    };
    // A hit that nobody has confirmed.
    let refused = nl.submit_step(open.sign(&fresh(&hits[1]))).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorCode::IllegalTransition,
    );
    // The hit of another, even for its holder.
    for (by, towards) in [(fr, de), (de, nl)] {
        let mut clear = fresh(&hits[1]);
        (clear.sender, clear.recipient) = (by.id().clone(), towards.id().clone());
        let signed = convert::sign(open.statement(&clear), by.signing_key());
        let refused = by.submit_step(signed).await;
        assert_refused(refused, Code::NotFound, ErrorCode::HitUnknown);
    }
    // Towards somebody else than its holder.
    let mut clear = fresh(&hits[1]);
    clear.recipient = fr.id().clone();
    let refused = nl.submit_step(open.sign(&clear)).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorCode::FollowUpMismatch,
    );
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_handed_in_again_is_answered_as_it_was_and_takes_effect_once() {
    let (sandbox, nodes, hits) = with_hits(1).await;
    let mut case = case(&nodes, &hits, 0).await;
    let submit = case.signed(T::Submit);
    let first = case
        .requester
        .submit_step(submit.clone())
        .await
        .expect("taken");
    let mut footprint = sandbox.footprint().await;
    let again = case
        .requester
        .submit_step(submit.clone())
        .await
        .expect("again");
    assert_eq!(first, again);
    footprint.assert_unchanged().await;
    // Later too: the answer shows the follow-up as it stands then, and nothing moves back.
    let record = sotto_common::followup::record::FollowUp::begin(
        &case.clear(T::Submit),
        convert::follow_up::body_digest(&submit),
        case.requester.now(),
    );
    case.record = Some(record.expect("begun"));
    case.take_all(&[T::Held, T::Particulars]).await;
    let replayed = case.requester.submit_step(submit).await.expect("again");
    assert_eq!(replayed.state(), v1::FollowUpState::Received);
    // The holder's own step under the requester's name, or at a later place, is no replay.
    let held = case
        .holder
        .follow_up(case.id)
        .await
        .expect("a party")
        .steps
        .remove(1);
    let statement = held.statement.expect("kept");
    let again = case.holder.submit_step(statement).await.expect("again");
    assert_eq!(again.state(), v1::FollowUpState::Received);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_was_changed_in_any_byte_is_refused() {
    let (sandbox, nodes, hits) = with_hits(1).await;
    let mut case = case(&nodes, &hits, 0).await;
    case.bring_to(S::Received).await;
    let signed = case.signed(T::RequestClarification);
    let mut footprint = sandbox.footprint().await;
    let length = signed.payload.len();
    for at in (0..length).step_by(7) {
        let mut changed = signed.clone();
        let mut payload = changed.payload.to_vec();
        payload[at] ^= 1;
        changed.payload = payload.into();
        case.holder.submit_step(changed).await.expect_err("refused");
    }
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_parts_are_there_as_the_protocol_wants_them_and_have_its_form() {
    type Change = fn(&mut v1::FollowUpStatement);
    let (_sandbox, nodes, hits) = with_hits(1).await;
    let mut case = case(&nodes, &hits, 0).await;
    case.bring_to(S::Received).await;
    let changes: [(Change, ErrorCode); 6] = [
        (|s| s.format = 2, ErrorCode::FormatUnknown),
        (|s| s.kem = 0x647a, ErrorCode::SealInvalid),
        (|s| s.enc = vec![9; 31].into(), ErrorCode::SealInvalid),
        (|s| s.sealed = s.sealed.slice(1..), ErrorCode::SealInvalid),
        (
            |s| {
                (s.kem, s.kdf, s.aead) = (0, 0, 0);
                (s.enc, s.sealed) = Default::default();
            },
            ErrorCode::SealInvalid,
        ),
        (|s| s.clear = vec![0xff].into(), ErrorCode::InvalidField),
    ];
    for (index, (change, why)) in changes.into_iter().enumerate() {
        println!("change {index}");
        let signed = case.signed(T::RequestClarification);
        let mut wire = v1::FollowUpStatement::decode(signed.payload).expect("a statement");
        change(&mut wire);
        let key = case.holder.signing_key();
        let signed = key.sign(StatementKind::FollowUp, wire.encode_to_vec());
        let refused = case.holder.submit_step(signed.into()).await;
        assert_refused(refused, Code::InvalidArgument, why);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_parties_are_told_every_step_in_order_and_again_after_a_restart() {
    let (mut sandbox, nodes, hits) = with_hits(1).await;
    let mut case = case(&nodes, &hits, 0).await;
    case.take_all(way_to(S::Answered)).await;
    sandbox.restart().await;
    case.take(T::Close).await.expect("taken");
    for node in [case.requester, case.holder] {
        let mut stream = node.watch_follow_ups(0).await.expect("open");
        let mut last = 0;
        for seq in 0..6 {
            let event = stream.message().await.expect("open").expect("an event");
            assert!(event.cursor > last, "cursors grow");
            last = event.cursor;
            let Some(v1::watch_follow_ups_response::Event::Step(step)) = event.event else {
                panic!("a step");
            };
            assert_eq!(step.seq, seq);
            assert!(step.statement.is_some() && step.taken_at.is_some());
        }
        let mut rest = node.watch_follow_ups(last - 1).await.expect("open");
        let event = rest.message().await.expect("open").expect("an event");
        assert_eq!(event.cursor, last);
        let beyond = node.watch_follow_ups(last + 1).await;
        assert_refused(
            beyond.map(drop),
            Code::InvalidArgument,
            ErrorCode::CursorInvalid,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_party_lists_its_own() {
    use v1::FollowUpParty::{Holder, Requester, Unspecified};
    let (_sandbox, nodes, hits) = with_hits(3).await;
    let mut open = case(&nodes, &hits, 0).await;
    open.bring_to(S::Received).await;
    let mut refused = case(&nodes, &hits, 1).await;
    refused.bring_to(S::Refused).await;
    let list = async |node: &TestNode, party: v1::FollowUpParty, state: v1::FollowUpState| {
        let request = v1::ListFollowUpsRequest {
            community: COMMUNITY.into(),
            as_party: party.into(),
            state: state.into(),
            page_size: 1,
            ..Default::default()
        };
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let request = v1::ListFollowUpsRequest {
                page_token: token,
                ..request.clone()
            };
            let mut service = node.follow_up_service();
            let page = service.list_follow_ups(request).await.expect("listed");
            let page = page.into_inner();
            found.extend(page.follow_ups);
            if page.next_page_token.is_empty() {
                return found.len();
            }
            token = page.next_page_token;
        }
    };
    let any = v1::FollowUpState::Unspecified;
    let [nl, de, fr] = &nodes;
    assert_eq!(list(nl, Requester, any).await, 2);
    assert_eq!(list(nl, Holder, any).await, 0);
    assert_eq!(list(de, Holder, any).await, 2);
    assert_eq!(list(de, Unspecified, v1::FollowUpState::Refused).await, 1);
    assert_eq!(list(fr, Unspecified, any).await, 0);
}
