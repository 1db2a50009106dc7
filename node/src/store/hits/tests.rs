//! Threads, decisions and the stream, as the store has them.

mod property;

use std::slice::from_ref;

use sotto_common::error::ErrorCode;
use sotto_common::grounds::{LegalBasis, Purpose};
use sotto_common::hit::{HitDecision, SecondFactor};
use sotto_common::random::os_rng;

use super::super::testing::store;
use super::*;
use crate::testing::{hit, import_emails};

const NOW: Timestamp = Timestamp::from_seconds(1_000);

fn grounds(case: &str) -> Grounds {
    Grounds::new(
        Some(Purpose::Detection),
        Some(LegalBasis::NationalLaw),
        "Art. 3",
        case,
    )
    .expect("valid")
}

fn epoch() -> Epoch {
    Epoch::new(1).expect("an epoch")
}

#[tokio::test]
async fn a_hit_of_an_unknown_ref_is_kept_without_a_record() {
    let (store, _dir) = store().await;
    let found = hit(1, epoch(), RecordRef::new([9; 16]));
    store
        .put_streamed_hits(from_ref(&found), 7, NOW)
        .await
        .expect("stored");
    assert_eq!(store.inbox_cursor().await.expect("read"), 7);
    let read = store
        .record_hit(found.id)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(read.hit, found);
    assert_eq!((read.record_id.as_str(), read.canonical), ("", None));
    store.reset_inbox_cursor().await.expect("reset");
    assert_eq!(store.inbox_cursor().await.expect("read"), 0);
}

#[tokio::test]
async fn an_answer_does_not_undo_what_the_stream_told() {
    let (store, _dir) = store().await;
    let mut told = hit(1, epoch(), RecordRef::new([9; 16]));
    told.state = HitState::Confirmed;
    store
        .put_streamed_hits(from_ref(&told), 1, NOW)
        .await
        .expect("stored");
    let mut answered = hit(1, epoch(), told.record_ref);
    answered.filter_version = 5;
    let cursor = answer(&store, &[answered], "case 1").await;
    assert_eq!(cursor, 2);
    assert_eq!(store.hit_cursor().await.expect("read"), 2);
    let read = store
        .record_hit(told.id)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(
        (read.hit.state, read.hit.filter_version),
        (HitState::Confirmed, 5)
    );
}

#[tokio::test]
async fn hits_are_filtered_and_paged_and_followed() {
    let (store, _dir) = store().await;
    import_emails(&store, "d", &["a@x.org"]).await;
    let known = RecordRef::new([1; 16]);
    store
        .put_record_ref(epoch(), known, 1)
        .await
        .expect("stored");
    let first = hit(1, epoch(), known);
    let mut second = hit(2, epoch(), RecordRef::new([2; 16]));
    second.holder = "fr-pj".parse().expect("a node");
    let told = [second.clone(), first.clone()];
    store
        .put_streamed_hits(&told, 2, NOW)
        .await
        .expect("stored");
    assert_eq!(store.inbox_cursor().await.expect("read"), 2);
    let ids = |found: Vec<RecordHit>| found.iter().map(|h| h.hit.id).collect::<Vec<_>>();
    let all = HitFilter::default();
    let of_d = HitFilter {
        dataset: Some("d".into()),
        ..all.clone()
    };
    let of_fr = HitFilter {
        holder: Some(second.holder.clone()),
        policy: Some(second.policy),
        state: Some(second.state),
        ..all.clone()
    };
    let after = HitFilter {
        after: Some(first.id),
        ..all.clone()
    };
    for (filter, limit, expected) in [
        (&all, 10, vec![first.id, second.id]),
        (&all, 1, vec![first.id]),
        (&after, 10, vec![second.id]),
        (&of_d, 10, vec![first.id]),
        (&of_fr, 10, vec![second.id]),
    ] {
        let found = store.record_hits(filter, limit).await.expect("read");
        assert_eq!(ids(found), expected);
    }
    let since = store.record_hits_since(0, 10).await.expect("read");
    assert_eq!(ids(since), [second.id, first.id]);
    let since = store.record_hits_since(1, 10).await.expect("read");
    assert_eq!(ids(since), [first.id]);
}

/// A record of dataset `d`, known under a ref in each of three epochs.
async fn with_record(store: &Store) -> [RecordRef; 3] {
    import_emails(store, "d", &["a@x.org"]).await;
    let refs = [1, 2, 3].map(|n| RecordRef::new([n; 16]));
    for (record_ref, n) in refs.into_iter().zip(1..) {
        let epoch = Epoch::new(n).expect("an epoch");
        let stored = store.put_record_ref(epoch, record_ref, 1).await;
        stored.expect("stored");
    }
    refs
}

fn in_epoch(n: u8, record_ref: RecordRef) -> Hit {
    hit(n, Epoch::new(n.into()).expect("an epoch"), record_ref)
}

/// The cursor of the broker's stream is of no interest where this is called.
async fn stream(store: &Store, hits: &[Hit]) -> u64 {
    let stored = store.put_streamed_hits(hits, 1, NOW).await;
    stored.expect("stored")
}

/// The answer to a one-off question for a case.
async fn answer(store: &Store, hits: &[Hit], case: &str) -> u64 {
    let stored = store.put_answered_hits(hits, &grounds(case)).await;
    stored.expect("stored")
}

async fn decide(store: &Store, hit: HitId, decision: HitDecision) -> Result<(HitId, u64)> {
    let decided = Decided {
        person: "spiffe://sotto.test/analyst/anna",
        decision,
        reason: "seen before",
        second_factor: None,
        at: NOW,
    };
    let sign = |hit: HitId, decision| format!("{hit} {decision}").into_bytes();
    store.review_hit(hit, &decided, &sign).await
}

async fn listed(store: &Store, filter: &HitFilter) -> Vec<RecordHit> {
    store.record_hits(filter, 100).await.expect("read")
}

async fn story(store: &Store, hit: HitId) -> Story {
    let story = store.hit_story(hit).await.expect("read");
    story.expect("there")
}

/// The states that a story goes through, and where the feedback of each stands.
fn moves(story: &Story) -> Vec<(HitState, Option<Feedback>)> {
    let events = story.events.iter();
    events.map(|event| (event.to, event.feedback)).collect()
}

async fn settle(store: &Store, outcome: &Outcome) -> u64 {
    let pending = store.pending_feedback(0, 1).await.expect("read");
    let settled = store.settle_feedback(&pending[0], outcome, NOW).await;
    settled.expect("settled")
}

fn taken(hit: &Hit, state: HitState) -> Outcome {
    let hit = hit.clone();
    Outcome::Taken(Box::new(Hit { state, ..hit }))
}

#[tokio::test]
async fn hits_of_several_epochs_on_one_record_and_holder_are_one_thread() {
    let (store, _dir) = store().await;
    let refs = with_record(&store).await;
    let hits: Vec<_> = (1..).zip(refs).map(|(n, r)| in_epoch(n, r)).collect();
    let mut elsewhere = in_epoch(9, refs[0]);
    elsewhere.holder = "fr-pj".parse().expect("a node");
    elsewhere.epoch = epoch();
    // Two of them in one transaction, the later one first.
    let together = [hits[1].clone(), elsewhere.clone(), hits[0].clone()];
    stream(&store, &together).await;
    stream(&store, &hits[2..]).await;

    let found = listed(&store, &HitFilter::default()).await;
    let shown: Vec<_> = found.iter().map(|h| (h.thread, h.hit.id)).collect();
    assert_eq!(
        shown,
        [(hits[0].id, hits[2].id), (elsewhere.id, elsewhere.id)]
    );
    let story = story(&store, hits[1].id).await;
    assert_eq!(story.hit.hit, hits[1]);
    assert_eq!(story.others, [hits[0].clone(), hits[2].clone()]);
    assert_eq!(story.events.len(), 3);
}

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

    let story = story(&store, second.id).await;
    assert_eq!(story.hit.state, HitState::Confirmed);
    let of_second = story.events.iter().filter(|event| event.hit == second.id);
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
    assert_eq!(story(&store, weak.id).await.events.len(), 2);
    assert!(story(&store, weak.id).await.hit.needs_second_factor);

    let decided = Decided {
        person: "p",
        decision: HitDecision::Confirm,
        reason: "met",
        second_factor: Some((SecondFactor::Document, "NL 1234")),
        at: NOW,
    };
    let done = store
        .review_hit(weak.id, &decided, &|_, _| Vec::new())
        .await;
    done.expect("confirmed");
    let story = story(&store, weak.id).await;
    let last = story.events.last().expect("an event");
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
    let store = Store::open(&dir.path().join("node.db")).await;
    let store = store.expect("opened");
    // The stream has not heard of the decisions yet.
    let cursor = stream(&store, from_ref(&found)).await;
    let story_now = story(&store, found.id).await;
    assert_eq!(story_now.hit.state, HitState::Confirmed);
    assert!(story_now.hit.feedback_pending);
    let pending = Some(Feedback::Pending);
    let begun = (HitState::UnderReview, pending);
    let confirmed = (HitState::Confirmed, pending);
    assert_eq!(moves(&story_now), [(HitState::New, None), begun, confirmed]);

    // Both are taken; the stream tells of the first after the second was taken.
    settle(&store, &taken(&found, HitState::UnderReview)).await;
    settle(&store, &taken(&found, HitState::Confirmed)).await;
    let mut told = found.clone();
    told.state = HitState::UnderReview;
    assert_eq!(stream(&store, from_ref(&told)).await, cursor);
    told.state = HitState::Confirmed;
    assert_eq!(stream(&store, from_ref(&told)).await, cursor);
    let story_now = story(&store, found.id).await;
    assert_eq!(story_now.hit.state, HitState::Confirmed);
    assert!(!story_now.hit.feedback_pending);
    assert_eq!(story_now.events.len(), 3);
    // From now on, the broker's state rules.
    told.state = HitState::Retracted;
    assert_eq!(stream(&store, from_ref(&told)).await, cursor + 1);
    let story_now = story(&store, found.id).await;
    let last = story_now.events.last().expect("an event");
    assert_eq!((last.to, &last.person), (HitState::Retracted, &None));
    assert_eq!(story_now.hit.state, HitState::Retracted);
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
    let shown = story(&store, found.id).await.hit.state;
    assert_eq!(shown, HitState::UnderReview);
    let event = store.pending_feedback(0, 1).await.expect("read");
    let cursor = settle(&store, &Outcome::Refused).await;
    // Settled again after a restart at the wrong moment: of no effect.
    let late = taken(&found, HitState::UnderReview);
    let again = store.settle_feedback(&event[0], &late, NOW);
    assert_eq!(again.await.expect("settled"), cursor);
    assert_eq!(
        moves(&story(&store, found.id).await),
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
    let shown = story(&store, found.id).await.hit.state;
    assert_eq!(shown, HitState::UnderReview);
}

#[tokio::test]
async fn repeated_events_are_neither_told_again_nor_in_the_story_again() {
    let (store, _dir) = store().await;
    let refs = with_record(&store).await;
    let mut found = in_epoch(1, refs[0]);
    (found.false_positive, found.posterior) = (3.3e-7 / 7.0, 0.1 + 0.2);
    let cursor = stream(&store, &[found.clone(), found.clone()]).await;
    let seen_again = Hit {
        last_seen: Timestamp::from_seconds(30),
        ..found.clone()
    };
    for told in [&found, &seen_again] {
        assert_eq!(stream(&store, from_ref(told)).await, cursor);
    }
    let story_now = story(&store, found.id).await;
    assert_eq!(story_now.events.len(), 1);
    assert_eq!(story_now.hit.hit.last_seen, seen_again.last_seen);
    let since = store.record_hits_since(0, 10).await.expect("read");
    assert_eq!(since.len(), 1);
    // Both changes of one chunk are in the story; the hit is told once, as it stands.
    let gone = Hit {
        state: HitState::Retracted,
        ..seen_again.clone()
    };
    stream(&store, &[gone, seen_again]).await;
    assert_eq!(story(&store, found.id).await.events.len(), 3);
    let since = store.record_hits_since(cursor, 10).await.expect("read");
    assert_eq!(since.len(), 1);
}

#[tokio::test]
async fn a_hit_knows_the_cases_it_was_found_for() {
    let (store, _dir) = store().await;
    let refs = with_record(&store).await;
    let (first, second) = (in_epoch(1, refs[0]), in_epoch(2, refs[1]));
    for case in ["2026-17", "2026-17", "2026-09"] {
        answer(&store, from_ref(&first), case).await;
    }
    // A batch of a session, for the grounds of the session.
    let session = SessionId::generate(NOW, &mut os_rng());
    let found = &second;
    let stored = store.db.run_tx("test", |tx| {
        async move {
            sqlx::query(
                "INSERT INTO probe_sessions (session_id, dataset_id, kind, epoch, nonce, purpose,
                     legal_basis, reference, case_ref, targets, first, last_selector, total,
                     layers, padding, started_at)
                 VALUES ($1, 1, 'ASKED', 2, x'', 'DETECTION', 'UNTOC', '', 'of a session', '', 0,
                     1, 1, '{}', 0, 0)",
            )
            .bind(&session.as_bytes()[..])
            .execute(&mut *tx)
            .await
            .map_err(db_error)?;
            put_found(tx, session, from_ref(found)).await
        }
        .scope_boxed()
    });
    stored.await.expect("stored");
    for (case, count) in [("2026-09", 1), ("of a session", 1), ("2026", 0)] {
        let filter = HitFilter {
            case_ref: Some(case.into()),
            ..HitFilter::default()
        };
        let found = listed(&store, &filter).await;
        assert_eq!(found.len(), count, "{case}");
        for hit in found {
            assert_eq!(hit.hit.id, second.id);
            assert_eq!(hit.case_refs, ["2026-09", "2026-17", "of a session"]);
        }
    }
}

#[tokio::test]
async fn threads_are_listed_since_a_time_and_page_by_page_in_a_stable_order() {
    let (store, _dir) = store().await;
    let refs = with_record(&store).await;
    let mut hits: Vec<_> = (4..8)
        .map(|n| hit(n, epoch(), RecordRef::new([n; 16])))
        .collect();
    hits[3].first_seen = Timestamp::from_seconds(11);
    let first = in_epoch(1, refs[0]);
    stream(&store, &hits).await;
    stream(&store, from_ref(&first)).await;
    let mut filter = HitFilter::default();
    let mut seen = Vec::new();
    loop {
        let page = store.record_hits(&filter, 2).await.expect("read");
        let Some(last) = page.last() else { break };
        filter.after = Some(last.thread);
        seen.extend(page.iter().map(|hit| hit.thread));
        // The thread of the first page has a new latest hit meanwhile: it is not listed again.
        stream(&store, &[in_epoch(3, refs[2])]).await;
    }
    let expected = [first.id].into_iter().chain(hits.iter().map(|h| h.id));
    assert_eq!(seen, expected.collect::<Vec<_>>());
    let filter = HitFilter {
        since: Some(Timestamp::from_seconds(11)),
        ..HitFilter::default()
    };
    let since = listed(&store, &filter).await;
    assert_eq!(since.len(), 1);
    assert_eq!(since[0].hit.id, hits[3].id);
}

#[tokio::test]
async fn a_hit_whose_record_was_removed_is_left_out_unless_it_is_asked_for() {
    let (store, dir) = store().await;
    let refs = with_record(&store).await;
    let found = in_epoch(1, refs[0]);
    stream(&store, from_ref(&found)).await;
    // MERGE: by the store's own way to remove a record, once there is one.
    let file = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(dir.path().join("node.db"))
        .foreign_keys(false);
    let mut connection = sqlx::ConnectOptions::connect(&file).await.expect("opened");
    sqlx::query("DELETE FROM selectors WHERE selector_id = 1")
        .execute(&mut connection)
        .await
        .expect("removed");
    assert!(listed(&store, &HitFilter::default()).await.is_empty());
    let filter = HitFilter {
        with_removed: true,
        ..HitFilter::default()
    };
    let with_removed = listed(&store, &filter).await;
    assert_eq!(with_removed.len(), 1);
    assert!(with_removed[0].record_removed && with_removed[0].canonical.is_none());
    // A hit of a later epoch on what is no record any more is of the same thread.
    stream(&store, &[in_epoch(2, refs[1])]).await;
    assert_eq!(listed(&store, &filter).await[0].thread, found.id);
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
    assert_eq!(story(&store, found.id).await.hit.state, HitState::New);
}
