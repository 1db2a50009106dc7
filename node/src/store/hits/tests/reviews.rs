//! Decisions of persons, and what the broker says to them.

use std::slice::from_ref;

use sotto_common::error::ErrorCode;
use sotto_common::hit::{HitDecision, SecondFactor};
use sotto_common::service::at_rest::ColumnCipher;
use sotto_common::service::config::SecretFile;

use super::super::super::testing::store;
use super::*;

#[tokio::test]
async fn what_was_decided_holds_on_in_the_next_epoch_and_a_false_positive_does_not() {
    for (decision, stands) in [
        (HitDecision::Confirm, HitState::Confirmed),
        (HitDecision::NotRelevant, HitState::NotRelevant),
        (HitDecision::FalsePositive, HitState::New),
    ] {
        let (store, _dir) = store().await;
        let refs = with_record(&store).await;
        let (first, second) = (in_epoch(1, refs[0]), in_epoch(2, refs[1]));
        stream(&store, from_ref(&first)).await;
        for decision in [HitDecision::BeginReview, decision] {
            decide(&store, first.id, decision).await.expect("decided");
        }
        stream(&store, from_ref(&second)).await;
        for (state, count) in [(stands, 1), (HitState::Retracted, 0)] {
            let filter = HitFilter {
                state: Some(state),
                ..HitFilter::default()
            };
            let found = listed(&store, &filter).await;
            assert_eq!(found.len(), count, "{decision} {state}");
            assert!(found.iter().all(|found| found.state == state));
        }
    }
}

#[tokio::test]
async fn a_thread_under_review_goes_on_with_its_latest_hit() {
    let (store, _dir) = store().await;
    let refs = with_record(&store).await;
    let (first, second) = (in_epoch(1, refs[0]), in_epoch(2, refs[1]));
    stream(&store, from_ref(&first)).await;
    let begun = decide(&store, first.id, HitDecision::BeginReview).await;
    assert_eq!(begun.expect("begun").0, first.id);
    stream(&store, from_ref(&second)).await;
    // Named by an older hit, decided about the latest.
    let confirmed = decide(&store, first.id, HitDecision::Confirm).await;
    assert_eq!(confirmed.expect("confirmed").0, second.id);

    let whole = whole_story(&store, second.id).await;
    assert_eq!(whole.hit.state, HitState::Confirmed);
    let of_second = whole.events.iter().filter(|event| event.hit == second.id);
    let told: Vec<_> = of_second
        .map(|event| (event.from, event.to, event.reason.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (None, HitState::New, ""),
            (Some(HitState::New), HitState::UnderReview, ""),
            (
                Some(HitState::UnderReview),
                HitState::Confirmed,
                "seen before"
            ),
        ]
    );
    let pending = store.pending_feedback(0, 10).await.expect("read");
    let sent: Vec<_> = pending
        .iter()
        .map(|p| String::from_utf8_lossy(&p.envelope).into_owned())
        .collect();
    assert_eq!(
        sent,
        [
            format!("{} BEGIN_REVIEW", first.id),
            format!("{} BEGIN_REVIEW", second.id),
            format!("{} CONFIRM", second.id),
        ]
    );
}

#[tokio::test]
async fn a_decision_that_the_hit_does_not_take_leaves_nothing() {
    let (store, _dir) = store().await;
    let refs = with_record(&store).await;
    let mut weak = in_epoch(1, refs[0]);
    weak.posterior = 0.4;
    stream(&store, from_ref(&weak)).await;
    let unknown = decide(&store, in_epoch(5, refs[0]).id, HitDecision::Confirm).await;
    assert_eq!(unknown.expect_err("refused").code, ErrorCode::HitUnknown);
    let early = decide(&store, weak.id, HitDecision::Confirm).await;
    let early = early.expect_err("refused");
    assert_eq!(early.code, ErrorCode::IllegalTransition);
    assert!(early.text.contains("begin its review"));

    let begun = decide(&store, weak.id, HitDecision::BeginReview).await;
    begun.expect("begun");
    let alone = decide(&store, weak.id, HitDecision::Confirm).await;
    let alone = alone.expect_err("refused");
    assert_eq!(alone.code, ErrorCode::InvalidField);
    assert_eq!(whole_story(&store, weak.id).await.events.len(), 2);
    assert!(whole_story(&store, weak.id).await.hit.needs_second_factor);

    let decided = Decided {
        person: "p",
        decision: HitDecision::Confirm,
        reason: "met",
        second_factor: Some((SecondFactor::Document, "NL 1234")),
        at: NOW,
    };
    let done = store
        .review_hit(weak.id, &decided, &|_, _| Vec::new(), &noted)
        .await;
    done.expect("confirmed");
    let whole = whole_story(&store, weak.id).await;
    let last = whole.events.last().expect("an event");
    assert_eq!(
        last.second_factor,
        Some((SecondFactor::Document, "NL 1234".to_owned()))
    );
    assert_eq!(last.person.as_deref(), Some("p"));
}

#[tokio::test]
async fn a_decision_survives_a_restart_and_the_streams_older_states() {
    let (store, dir) = store().await;
    let refs = with_record(&store).await;
    let found = in_epoch(1, refs[0]);
    stream(&store, from_ref(&found)).await;
    for decision in [HitDecision::BeginReview, HitDecision::Confirm] {
        decide(&store, found.id, decision).await.expect("decided");
    }
    store.close().await;
    let key_list = SecretFile(dir.path().join("store.keys"));
    let cipher = ColumnCipher::load(&key_list).expect("a key list");
    let store = Store::open(&dir.path().join("node.db"), cipher).await;
    let store = store.expect("opened");
    // The stream has not heard of the decisions yet.
    let cursor = stream(&store, from_ref(&found)).await;
    let whole = whole_story(&store, found.id).await;
    assert_eq!(whole.hit.state, HitState::Confirmed);
    assert!(whole.hit.feedback_pending);
    let pending = Some(Feedback::Pending);
    let begun = (HitState::UnderReview, pending);
    let confirmed = (HitState::Confirmed, pending);
    assert_eq!(moves(&whole), [(HitState::New, None), begun, confirmed]);

    // Both are taken; the stream tells of the first after the second was taken.
    settle(&store, &taken(&found, HitState::UnderReview)).await;
    settle(&store, &taken(&found, HitState::Confirmed)).await;
    let mut told = found.clone();
    told.state = HitState::UnderReview;
    assert_eq!(stream(&store, from_ref(&told)).await, cursor);
    told.state = HitState::Confirmed;
    assert_eq!(stream(&store, from_ref(&told)).await, cursor);
    let whole = whole_story(&store, found.id).await;
    assert_eq!(whole.hit.state, HitState::Confirmed);
    assert!(!whole.hit.feedback_pending);
    assert_eq!(whole.events.len(), 3);
    // From now on, the broker's state rules.
    told.state = HitState::Retracted;
    assert_eq!(stream(&store, from_ref(&told)).await, cursor + 1);
    let whole = whole_story(&store, found.id).await;
    let last = whole.events.last().expect("an event");
    assert_eq!((last.to, &last.person), (HitState::Retracted, &None));
    assert_eq!(whole.hit.state, HitState::Retracted);
}

#[tokio::test]
async fn a_refused_decision_gives_way_to_what_the_broker_told() {
    let (store, _dir) = store().await;
    let refs = with_record(&store).await;
    let mut found = in_epoch(1, refs[0]);
    stream(&store, from_ref(&found)).await;
    let begun = decide(&store, found.id, HitDecision::BeginReview).await;
    begun.expect("begun");
    found.state = HitState::Retracted;
    stream(&store, from_ref(&found)).await;
    let shown = whole_story(&store, found.id).await.hit.state;
    assert_eq!(shown, HitState::UnderReview);
    let event = store.pending_feedback(0, 1).await.expect("read");
    let cursor = settle(&store, &Outcome::Refused).await;
    // Settled again after a restart at the wrong moment: of no effect.
    let late = taken(&found, HitState::UnderReview);
    let again = store.settle_feedback(&event[0], &late, NOW);
    assert_eq!(again.await.expect("settled"), cursor);
    assert_eq!(
        moves(&whole_story(&store, found.id).await),
        [
            (HitState::New, None),
            (HitState::UnderReview, Some(Feedback::Refused)),
            (HitState::Retracted, None),
        ]
    );
}

#[tokio::test]
async fn a_decision_about_a_hit_known_by_its_answer_holds_whatever_the_nodes_clock() {
    let (store, _dir) = store().await;
    let refs = with_record(&store).await;
    let mut found = in_epoch(1, refs[0]);
    found.last_seen = Timestamp::from_seconds(5_000);
    answer(&store, from_ref(&found), "c").await;
    let begun = decide(&store, found.id, HitDecision::BeginReview).await;
    begun.expect("begun");
    // The broker's clock is behind.
    found.last_seen = Timestamp::from_seconds(4_000);
    settle(&store, &taken(&found, HitState::UnderReview)).await;
    let shown = whole_story(&store, found.id).await.hit.state;
    assert_eq!(shown, HitState::UnderReview);
}

#[tokio::test]
async fn a_stream_that_begins_anew_undoes_what_the_broker_has_lost() {
    let (store, _dir) = store().await;
    let refs = with_record(&store).await;
    let found = in_epoch(1, refs[0]);
    stream(&store, from_ref(&found)).await;
    let begun = decide(&store, found.id, HitDecision::BeginReview).await;
    begun.expect("begun");
    settle(&store, &taken(&found, HitState::UnderReview)).await;
    store.reset_inbox_cursor().await.expect("reset");
    stream(&store, from_ref(&found)).await;
    assert_eq!(whole_story(&store, found.id).await.hit.state, HitState::New);
}
