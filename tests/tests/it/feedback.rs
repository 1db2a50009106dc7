//! What people decide about hits, hits that nobody touches, and how hits fared (workflow.md "Hit").

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use sotto_common::error::ErrorCode;
use sotto_common::hit::HitDecision::{self, BeginReview, Confirm, FalsePositive, NotRelevant};
use sotto_common::ids::Role;
use sotto_common::membership::Profile;
use sotto_common::selector::Policy::{Email, Phone};
use sotto_common::time::CLOCK_SKEW;
use sotto_proto::v1::HitState;
use sotto_proto::v1::hit_service_client::HitServiceClient;
use sotto_proto::{convert, v1};
use sotto_tests::operator::command;
use sotto_tests::probe::Pair;
use sotto_tests::sandbox::{NEVER, open_epoch, profile};
use sotto_tests::{COMMUNITY, Sandbox, TestNode, assert_refused, emails, phones};
use tonic::{Code, Status, Streaming};

const MEMBERS: [&str; 2] = ["nl-fiu", "de-bka"];
const HOUR: Duration = Duration::from_hours(1);

/// Hits of `nl-fiu` on `de-bka`, one for each of so many phones, in their order.
async fn with_hits(profile: Profile, hits: u32) -> (Sandbox, [TestNode; 2], Vec<v1::Hit>) {
    let (sandbox, [nl, de]) = Sandbox::with_profile(profile, MEMBERS).await;
    de.publish(Phone, &phones(0..hits)).await;
    nl.find(Phone, &phones(0..hits)).await;
    let mut listed = nl.hits().await.expect("listed");
    let refs: Vec<_> = nl.pairs(Phone, &phones(0..hits));
    listed.sort_by_key(|hit| {
        let of_hit = |(_, record_ref): &Pair| record_ref.as_bytes()[..] == hit.record_ref;
        refs.iter().position(of_hit)
    });
    assert_eq!(listed.len(), hits as usize);
    (sandbox, [nl, de], listed)
}

/// The next event of a stream of hits.
async fn next(stream: &mut Streaming<v1::WatchHitsResponse>) -> (u64, v1::Hit) {
    let event = tokio::time::timeout(NEVER, stream.message()).await;
    let event = event.expect("in time").expect("open").expect("an event");
    (event.cursor, event.hit.expect("a hit"))
}

async fn state(node: &TestNode, hit: &v1::Hit) -> HitState {
    let request = v1::GetHitRequest {
        community: COMMUNITY.into(),
        hit_id: hit.hit_id.clone(),
    };
    let response = node.hit_service().get_hit(request).await.expect("a hit");
    response.into_inner().hit.expect("a hit").state()
}

async fn states(node: &TestNode, hits: &[v1::Hit]) -> Vec<HitState> {
    join_all(hits.iter().map(|hit| state(node, hit))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_moves_the_hit_and_is_told_on_the_stream() {
    let (_sandbox, [nl, _de], hits) = with_hits(profile(), 3).await;
    let mut stream = nl.watch(3).await.expect("open");
    let mut cursor = 3;
    let ends = [
        (Confirm, HitState::Confirmed),
        (FalsePositive, HitState::FalsePositive),
        (NotRelevant, HitState::NotRelevant),
    ];
    for (hit, (decision, end)) in hits.iter().zip(ends) {
        for (decision, expected) in [(BeginReview, HitState::UnderReview), (decision, end)] {
            let moved = nl.decide(hit, decision).await.expect("taken");
            assert_eq!(moved.state(), expected);
            assert_eq!(moved.hit_id, hit.hit_id);
            cursor += 1;
            assert_eq!(next(&mut stream).await, (cursor, moved));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn feedback_for_where_the_hit_is_already_is_taken_and_changes_nothing() {
    let (sandbox, [nl, _de], hits) = with_hits(profile(), 1).await;
    let begun = nl.sign_feedback(nl.feedback(&hits[0], BeginReview));
    let first = nl.submit_feedback(begun.clone()).await.expect("taken");
    nl.decide(&hits[0], Confirm).await.expect("taken");

    let mut footprint = sandbox.footprint().await;
    for feedback in [
        // The answer to the first was lost; said again later; and what came before what it is.
        begun,
        nl.sign_feedback(nl.feedback(&hits[0], BeginReview)),
        nl.sign_feedback(nl.feedback(&hits[0], Confirm)),
    ] {
        let again = nl.submit_feedback(feedback).await.expect("taken");
        assert_eq!(again.state(), HitState::Confirmed);
        assert_eq!(again.first_seen, first.first_seen);
    }
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_decisions_that_the_hit_does_not_take() {
    let (sandbox, [nl, _de], hits) = with_hits(profile(), 2).await;
    let refuses = async |hit: &v1::Hit, decisions: &[HitDecision]| {
        let before = state(&nl, hit).await;
        let mut footprint = sandbox.footprint().await;
        for &decision in decisions {
            let refused = nl.decide(hit, decision).await;
            let why = ErrorCode::IllegalTransition;
            let status = assert_refused(refused, Code::FailedPrecondition, why);
            let name = before.domain().expect("a state").as_str();
            assert!(status.message().contains(name), "{status:?}");
        }
        footprint.assert_unchanged().await;
    };
    refuses(&hits[0], &[Confirm, FalsePositive, NotRelevant]).await;
    nl.decide(&hits[0], BeginReview).await.expect("taken");
    nl.decide(&hits[0], FalsePositive).await.expect("taken");
    refuses(&hits[0], &[Confirm, NotRelevant]).await;
    nl.decide(&hits[1], BeginReview).await.expect("taken");
    nl.decide(&hits[1], Confirm).await.expect("taken");
    refuses(&hits[1], &[FalsePositive, NotRelevant]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_about_a_retracted_hit_is_refused_and_none_counts_for_a_later_match() {
    let (sandbox, [nl, de], hits) = with_hits(profile(), 1).await;
    let begun = nl.sign_feedback(nl.feedback(&hits[0], BeginReview));
    nl.submit_feedback(begun.clone()).await.expect("taken");
    let confirmed = nl.sign_feedback(nl.feedback(&hits[0], Confirm));
    nl.submit_feedback(confirmed.clone()).await.expect("taken");

    sandbox.clock.advance(HOUR);
    de.publish(Phone, &phones(5..6)).await;
    nl.find(Phone, &phones(0..1)).await;
    assert_eq!(state(&nl, &hits[0]).await, HitState::Retracted);
    for &decision in HitDecision::ALL {
        let refused = nl.decide(&hits[0], decision).await;
        let why = ErrorCode::IllegalTransition;
        assert_refused(refused, Code::FailedPrecondition, why);
    }
    de.publish(Phone, &phones(0..1)).await;
    nl.find(Phone, &phones(0..1)).await;
    // The statements of before, handed in again, decide nothing about it.
    for replayed in [begun, confirmed] {
        let hit = nl.submit_feedback(replayed).await.expect("taken before");
        assert_eq!(hit.state(), HitState::New);
    }
    let begun = nl.decide(&hits[0], BeginReview).await.expect("taken");
    assert_eq!(begun.state(), HitState::UnderReview);
}

/// Feedback that is refused for its reason and leaves nothing behind.
async fn refuses(by: &TestNode, signed: v1::DsseEnvelope, code: Code, why: ErrorCode) {
    assert_refused(by.submit_feedback(signed).await, code, why);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_feedback_that_is_not_the_probers_own_about_its_own_hit() {
    use Code::{InvalidArgument, NotFound};
    let (sandbox, [nl, de], hits) = with_hits(profile(), 1).await;
    let own = nl.feedback(&hits[0], BeginReview);
    let mut footprint = sandbox.footprint().await;
    let by_another = convert::sign(own.clone(), de.signing_key());
    refuses(
        &nl,
        by_another,
        InvalidArgument,
        ErrorCode::SignatureInvalid,
    )
    .await;
    let not_its_own = de.sign_feedback(de.feedback(&hits[0], BeginReview));
    refuses(&de, not_its_own, NotFound, ErrorCode::HitUnknown).await;
    let of_another = nl.sign_feedback(de.feedback(&hits[0], BeginReview));
    refuses(&nl, of_another, InvalidArgument, ErrorCode::InvalidField).await;
    // It is for the community that the call is for, whichever that is.
    let mut elsewhere = own.clone();
    elsewhere.community = "other".parse().expect("a community");
    let elsewhere = nl.sign_feedback(elsewhere);
    refuses(
        &nl,
        elsewhere.clone(),
        InvalidArgument,
        ErrorCode::InvalidField,
    )
    .await;
    let request = v1::SubmitHitFeedbackRequest {
        community: "other".into(),
        feedback: Some(elsewhere),
    };
    let refused = nl.hit_service().submit_hit_feedback(request).await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::NotAMember);
    let mut unknown: v1::HitFeedback = own.into();
    let mut id = unknown.hit_id.to_vec();
    id[15] ^= 1;
    unknown.hit_id = id.into();
    let unknown = nl.sign_feedback_wire(&unknown);
    refuses(&nl, unknown, NotFound, ErrorCode::HitUnknown).await;
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_feedback_that_is_malformed_from_the_future_or_changed() {
    use Code::InvalidArgument;
    use ErrorCode::{FormatUnknown, InvalidField, SignatureInvalid};
    type Change = fn(&mut v1::HitFeedback);
    let changes: [(Change, ErrorCode); 5] = [
        (|f| f.format = 2, FormatUnknown),
        (|f| f.decision = 0, InvalidField),
        (|f| f.decision = 99, InvalidField),
        (|f| f.decided_at = None, InvalidField),
        (|f| f.hit_id.truncate(15), InvalidField),
    ];
    let (sandbox, [nl, _de], hits) = with_hits(profile(), 2).await;
    let own = nl.feedback(&hits[0], BeginReview);
    let mut footprint = sandbox.footprint().await;
    for (i, (change, why)) in changes.into_iter().enumerate() {
        println!("change {i}");
        let mut wire: v1::HitFeedback = own.clone().into();
        change(&mut wire);
        refuses(&nl, nl.sign_feedback_wire(&wire), InvalidArgument, why).await;
    }
    let mut early = own.clone();
    early.decided_at = nl.now().plus(CLOCK_SKEW + Duration::from_secs(1));
    let early = nl.sign_feedback(early);
    refuses(&nl, early, InvalidArgument, InvalidField).await;
    let confirmation = convert::sign(nl.confirmation(1), nl.signing_key());
    refuses(&nl, confirmation, InvalidArgument, SignatureInvalid).await;
    let mut altered = nl.sign_feedback(own.clone());
    altered.payload = nl.sign_feedback(nl.feedback(&hits[1], BeginReview)).payload;
    refuses(&nl, altered, InvalidArgument, SignatureInvalid).await;
    let mut twice = nl.sign_feedback(own.clone());
    twice.signatures.push(twice.signatures[0].clone());
    refuses(&nl, twice, InvalidArgument, SignatureInvalid).await;
    // The key id is a hint, and takes no room in the ledger.
    let mut long = nl.sign_feedback(own);
    long.signatures[0].keyid = "x".repeat(4096);
    refuses(&nl, long, InvalidArgument, InvalidField).await;
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_that_is_held_back_takes_no_feedback_and_looks_like_none() {
    let (mut sandbox, [nl, _de], hits) = with_hits(profile(), 1).await;
    sandbox.stop().await;
    let hold = "UPDATE hits SET state = 'QUARANTINED'";
    sandbox.change_ledger(hold).await;
    sandbox.start().await;
    let held_back = nl.decide(&hits[0], BeginReview).await;
    let held_back = assert_refused(held_back, Code::NotFound, ErrorCode::HitUnknown);
    let mut unknown = hits[0].clone();
    let mut id = unknown.hit_id.to_vec();
    id[15] ^= 1;
    unknown.hit_id = id.into();
    let unknown = nl.decide(&unknown, BeginReview).await;
    let unknown = assert_refused(unknown, Code::NotFound, ErrorCode::HitUnknown);
    assert_eq!(held_back.message(), unknown.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn feedback_counts_by_the_key_of_the_hits_epoch_after_its_end_too() {
    let (sandbox, [nl, de], hits) = with_hits(profile(), 1).await;
    let mut early = nl.feedback(&hits[0], BeginReview);
    early.decided_at = nl.now().plus(CLOCK_SKEW);
    open_epoch(2, &profile(), &[&nl, &de]).await;
    nl.end_epoch(1).await.expect("ended");
    let taken = nl.submit_feedback(nl.sign_feedback(early)).await;
    assert_eq!(taken.expect("taken").state(), HitState::UnderReview);
    sandbox
        .operator()
        .suspend("nl-fiu", "its key is lost")
        .await
        .expect("suspended");
    let refused = nl.decide(&hits[0], Confirm).await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::NotAMember);
    // Enrolled again with other keys, it decides about no hit of before.
    sandbox.operator().enrol("nl-fiu").await.expect("enrolled");
    let new = sandbox.node("nl-fiu");
    new.submit_keys().await.expect("taken");
    let refused = new.decide(&hits[0], Confirm).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::SignatureInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_that_nobody_touches_expire_after_the_time_of_their_epoch() {
    use HitState::{Confirmed, Expired, New, UnderReview};
    let mut short = profile();
    short.retention.untouched_hits = 10 * HOUR;
    let (mut sandbox, [nl, de], hits) = with_hits(short, 4).await;
    let mut stream = nl.watch(4).await.expect("open");
    sandbox.clock.advance(2 * HOUR);
    nl.decide(&hits[1], BeginReview).await.expect("taken");
    nl.decide(&hits[2], BeginReview).await.expect("taken");
    nl.decide(&hits[2], Confirm).await.expect("taken");
    sandbox.clock.advance(6 * HOUR);
    // Matched again, and retracted and matched again: only the latter is another hit.
    nl.find(Phone, &phones(0..1)).await;
    de.publish(Phone, &phones(0..3)).await;
    nl.find(Phone, &phones(3..4)).await;
    de.publish(Phone, &phones(0..4)).await;
    nl.find(Phone, &phones(3..4)).await;
    // Another time holds in the next epoch; the end of this one stops nothing.
    open_epoch(2, &profile(), &[&nl, &de]).await;
    nl.end_epoch(1).await.expect("ended");
    de.publish(Phone, &phones(0..1)).await;
    nl.find(Phone, &phones(0..1)).await;
    let mut later = vec![];
    for cursor in 5..=10 {
        let event = next(&mut stream).await;
        assert_eq!(event.0, cursor);
        later.push(event.1);
    }
    assert_eq!(later[5].epoch, 2);
    let all = [&hits[..], &later[5..]].concat();

    sandbox.clock.advance(2 * HOUR + Duration::from_secs(1));
    sandbox.restart().await;
    let mut stream = nl.watch(10).await.expect("open");
    let (cursor, hit) = next(&mut stream).await;
    assert_eq!((cursor, hit.state()), (11, Expired));
    assert_eq!(hit.hit_id, hits[0].hit_id);
    let expected = [Expired, UnderReview, Confirmed, New, New];
    assert_eq!(states(&nl, &all).await, expected);

    sandbox.clock.advance(8 * HOUR);
    sandbox.restart().await;
    let mut stream = nl.watch(11).await.expect("open");
    for (cursor, hit) in [(12, &hits[1]), (13, &hits[3])] {
        let event = next(&mut stream).await;
        assert_eq!((event.0, &event.1.hit_id), (cursor, &hit.hit_id));
    }
    let expected = [Expired, Expired, Confirmed, Expired, New];
    assert_eq!(states(&nl, &all).await, expected);
    let refused = nl.decide(&hits[1], Confirm).await;
    let why = ErrorCode::IllegalTransition;
    assert_refused(refused, Code::FailedPrecondition, why);
    // 30 days in the second epoch.
    sandbox.clock.advance(Duration::from_hours(30 * 24));
    sandbox.restart().await;
    let mut stream = nl.watch(13).await.expect("open");
    assert_eq!(next(&mut stream).await.1.hit_id, all[4].hit_id);
    let expected = [Expired, Expired, Confirmed, Expired, Expired];
    assert_eq!(states(&nl, &all).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_held_back_do_not_expire_and_have_their_time_from_their_release_on() {
    let mut short = profile();
    short.hit_cap = 1;
    short.retention.untouched_hits = 10 * HOUR;
    let (mut sandbox, [nl, de]) = Sandbox::with_profile(short, MEMBERS).await;
    de.publish(Phone, &phones(0..2)).await;
    nl.find(Phone, &phones(0..1)).await;
    nl.find(Phone, &phones(1..2)).await;
    sandbox.clock.advance(11 * HOUR);
    sandbox.restart().await;
    let mut stream = nl.watch(1).await.expect("open");
    assert_eq!(next(&mut stream).await.1.state(), HitState::Expired);
    let operator = sandbox.operator();
    let groups = operator.quarantine().await.expect("listed");
    assert_eq!(groups[0].hits, 1);
    let released = operator.release(&groups[0], "checked").await;
    assert_eq!(released.expect("released"), 1);
    assert_eq!(next(&mut stream).await.1.state(), HitState::New);
    sandbox.clock.advance(11 * HOUR);
    sandbox.restart().await;
    let mut stream = nl.watch(3).await.expect("open");
    assert_eq!(next(&mut stream).await.1.state(), HitState::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_of_an_earlier_version_have_their_time_from_when_they_were_first_seen() {
    let mut short = profile();
    short.retention.untouched_hits = 10 * HOUR;
    let (mut sandbox, [nl, _de], hits) = with_hits(short, 2).await;
    sandbox.clock.advance(9 * HOUR);
    sandbox.stop().await;
    let earlier = "UPDATE hits SET touched_at = NULL";
    sandbox.change_ledger(earlier).await;
    sandbox.start().await;
    nl.decide(&hits[1], BeginReview).await.expect("taken");
    sandbox.clock.advance(2 * HOUR);
    sandbox.restart().await;
    let mut stream = nl.watch(3).await.expect("open");
    let (_, hit) = next(&mut stream).await;
    assert_eq!(
        (&hit.hit_id, hit.state()),
        (&hits[0].hit_id, HitState::Expired)
    );
    assert_eq!(state(&nl, &hits[1]).await, HitState::UnderReview);
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_show_how_hits_fared_without_those_held_back() {
    let mut capped = profile();
    capped.hit_cap = 5;
    let (sandbox, [nl, de], hits) = with_hits(capped, 5).await;
    let operator = sandbox.operator();
    nl.find(Phone, &phones(5..6)).await;
    for (hit, decision) in hits.iter().zip([Confirm, NotRelevant, FalsePositive]) {
        nl.decide(hit, BeginReview).await.expect("taken");
        nl.decide(hit, decision).await.expect("taken");
    }
    sandbox.clock.advance(HOUR);
    let later = sandbox.clock_now();
    nl.publish(Email, &emails(0..2)).await;
    de.find(Email, &emails(0..2)).await;
    de.publish(Phone, &phones(0..6)).await;
    // Seen again under another version: the row of that version counts it.
    nl.find(Phone, &phones(4..5)).await;

    let rows = operator.hit_statistics(None).await.expect("listed");
    let shown: Vec<_> = rows
        .iter()
        .map(|row| {
            let pair = (row.prober.as_str(), row.holder.as_str());
            let filter = (row.policy.as_str(), row.epoch, row.filter_version);
            let ends = (row.confirmed, row.false_positives, row.retracted);
            (pair, filter, row.hits, ends, row.expired)
        })
        .collect();
    let (nl_de, de_nl) = (("nl-fiu", "de-bka"), ("de-bka", "nl-fiu"));
    assert_eq!(
        shown,
        [
            (de_nl, ("email/1", 1, 1), 2, (0, 0, 0), 0),
            (nl_de, ("phone/1", 1, 1), 4, (2, 1, 0), 0),
            (nl_de, ("phone/1", 1, 2), 1, (0, 0, 0), 0),
        ]
    );
    let f = hits[0].false_positive_probability;
    let mean = rows[1].mean_false_positive_probability;
    assert!((mean - f).abs() < 1e-9 * f, "{mean} {f}");
    let since = operator.hit_statistics(Some(later)).await.expect("listed");
    assert_eq!(since, rows[..1]);

    // The same by the operator's command.
    let tomorrow = sandbox.clock_now().plus(24 * HOUR).to_string();
    let tomorrow = tomorrow.split('T').next().expect("a date");
    let stats = ["--output", "json", "hits", "stats", COMMUNITY];
    for (more, expected) in [(&[][..], 3), (&["--since", tomorrow], 0)] {
        let arguments = [&stats[..], more].concat();
        let printed = command(sandbox.lab(), &sandbox.url(), &arguments).await;
        let printed: Vec<Value> = serde_json::from_str(&printed).expect("JSON");
        assert_eq!(printed.len(), expected);
        for (printed, row) in printed.iter().zip(&rows) {
            assert_eq!(printed["holder"], row.holder);
            assert_eq!(printed["version"], row.filter_version);
            assert_eq!(printed["confirmed"], row.confirmed);
            assert_eq!(printed["false"], row.false_positives);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_proposes_for_how_long_a_hit_may_be_untouched() {
    let (sandbox, _nodes) = Sandbox::with_nodes(MEMBERS).await;
    let run = async |arguments: &[&str]| {
        let arguments = [&["--output", "json", "community"], arguments].concat();
        command(sandbox.lab(), &sandbox.url(), &arguments).await
    };
    let shown = async || {
        let shown: Value = serde_json::from_str(&run(&["show", COMMUNITY]).await).expect("JSON");
        shown[0]["untouched_days"].clone()
    };
    assert_eq!(shown().await, 30);
    run(&["propose", COMMUNITY, "--untouched-days", "9"]).await;
    assert_eq!(shown().await, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn feedback_is_for_nodes_and_statistics_are_for_operators() {
    let (sandbox, [nl, _de], hits) = with_hits(profile(), 1).await;
    let mut footprint = sandbox.footprint().await;
    let feedback = nl.sign_feedback(nl.feedback(&hits[0], BeginReview));
    let give = async |role| -> Result<(), Status> {
        let channel = sandbox.lab().channel(role, "nl-fiu", &sandbox.url());
        let request = v1::SubmitHitFeedbackRequest {
            community: COMMUNITY.into(),
            feedback: Some(feedback.clone()),
        };
        let mut service = HitServiceClient::new(channel);
        service.submit_hit_feedback(request).await.map(drop)
    };
    let count = async |role| -> Result<(), Status> {
        let channel = sandbox.lab().channel(role, "nl-fiu", &sandbox.url());
        let request = v1::ListHitStatisticsRequest {
            community: COMMUNITY.into(),
            since: None,
        };
        let mut service = HitServiceClient::new(channel);
        service.list_hit_statistics(request).await.map(drop)
    };
    for role in [Role::Analyst, Role::Auditor, Role::Operator, Role::Broker] {
        let refused = give(role).await;
        assert_refused(refused, Code::PermissionDenied, ErrorCode::RoleForbidden);
    }
    for role in [Role::Analyst, Role::Auditor, Role::Node, Role::Broker] {
        let refused = count(role).await;
        assert_refused(refused, Code::PermissionDenied, ErrorCode::RoleForbidden);
    }
    let stranger = sandbox.node("be-fgp");
    let refused = stranger.decide(&hits[0], BeginReview).await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::NotAMember);
    let request = v1::SubmitHitFeedbackRequest {
        community: COMMUNITY.into(),
        feedback: None,
    };
    let refused = nl.hit_service().submit_hit_feedback(request).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::InvalidField);
    footprint.assert_unchanged().await;
}
