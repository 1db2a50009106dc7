//! Threads, decisions and the stream, as the store has them.

mod property;
mod reviews;

use std::slice::from_ref;

use sotto_common::hit::HitDecision;
use sotto_common::random::os_rng;

use super::super::testing::{cipher, store};
use super::*;
use crate::access::Access;
use crate::testing::{answered, grounds, hit, import_emails};

const NOW: Timestamp = Timestamp::from_seconds(1_000);

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
async fn that_a_hit_which_is_followed_up_matches_no_more_is_told_to_those_who_watch() {
    let (store, _dir) = store().await;
    let mut told = hit(1, epoch(), RecordRef::new([9; 16]));
    told.state = HitState::FollowedUp;
    for (inbox, since) in [None, Some(NOW), Some(NOW), None].into_iter().enumerate() {
        told.unmatched_since = since;
        let stored = store.put_streamed_hits(from_ref(&told), inbox as u64 + 1, NOW);
        stored.await.expect("stored");
        let read = store.record_hit(told.id).await.expect("read");
        assert_eq!(read.expect("there").hit, told);
    }
    assert_eq!(store.hit_cursor().await.expect("read"), 3);
}

#[tokio::test]
async fn what_a_holder_says_of_its_filter_comes_by_the_stream_and_is_told_to_those_who_watch() {
    let (store, _dir) = store().await;
    let mut found = hit(1, epoch(), RecordRef::new([9; 16]));
    assert_eq!(answer(&store, from_ref(&found), "case 1").await, 1);
    let says = |unit: &str| {
        let labels = FilterLabels::new(unit, Some(HandlingCode::H3), "ask\nbefore use");
        labels.expect("labels")
    };
    let shown = async || {
        let read = store.record_hit(found.id).await.expect("read");
        read.expect("there").hit.labels
    };
    assert_eq!(shown().await, FilterLabels::default());
    let told = |unit: &str| Hit {
        labels: says(unit),
        ..found.clone()
    };
    assert_eq!(stream(&store, &[told("Team 7")]).await, 2);
    assert_eq!(shown().await, says("Team 7"));
    // An answer does not take it back, and the same again is no news.
    assert_eq!(answer(&store, from_ref(&found), "case 1").await, 2);
    assert_eq!(stream(&store, &[told("Team 7")]).await, 2);
    assert_eq!(shown().await, says("Team 7"));
    assert_eq!(stream(&store, &[told("Night desk")]).await, 3);
    assert_eq!(shown().await, says("Night desk"));
    // Another holder filter may say nothing.
    assert_eq!(stream(&store, from_ref(&found)).await, 4);
    assert_eq!(shown().await, FilterLabels::default());
    found.last_seen = NOW;
    assert_eq!(stream(&store, from_ref(&found)).await, 4);
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
    let batch = answered(SessionId::generate(NOW, &mut os_rng()), hits[0].epoch);
    let stored = store.put_answered_hits(hits, &grounds(case), &batch).await;
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
    store.review_hit(hit, &decided, &sign, &noted).await
}

fn noted(hit: HitId) -> Access {
    Access {
        at: NOW,
        person: "spiffe://sotto.test/analyst/anna".into(),
        action: "AnalystService/ReviewHit".into(),
        objects: vec![hit.to_string()],
        why: "case 1".into(),
    }
}

async fn listed(store: &Store, filter: &HitFilter) -> Vec<RecordHit> {
    store.record_hits(filter, 100).await.expect("read")
}

async fn whole_story(store: &Store, hit: HitId) -> Story {
    let whole = store.hit_story(hit).await.expect("read");
    whole.expect("there")
}

/// The states that a story goes through, and where the feedback of each stands.
fn moves(whole: &Story) -> Vec<(HitState, Option<Feedback>)> {
    let events = whole.events.iter();
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
    let whole = whole_story(&store, hits[1].id).await;
    assert_eq!(whole.hit.hit, hits[1]);
    assert_eq!(whole.others, [hits[0].clone(), hits[2].clone()]);
    assert_eq!(whole.events.len(), 3);
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
    let whole = whole_story(&store, found.id).await;
    assert_eq!(whole.events.len(), 1);
    assert_eq!(whole.hit.hit.last_seen, seen_again.last_seen);
    let since = store.record_hits_since(0, 10).await.expect("read");
    assert_eq!(since.len(), 1);
    // Both changes of one chunk are in the story; the hit is told once, as it stands.
    let gone = Hit {
        state: HitState::Retracted,
        ..seen_again.clone()
    };
    stream(&store, &[gone, seen_again]).await;
    assert_eq!(whole_story(&store, found.id).await.events.len(), 3);
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
    let (store, _dir) = store().await;
    let refs = with_record(&store).await;
    let found = in_epoch(1, refs[0]);
    stream(&store, from_ref(&found)).await;
    let removed = store.delete_dataset("d", NOW).await.expect("removed");
    assert_eq!(removed, Some((Policy::Email, 1)));
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
async fn of_unverified_hits_the_latest_of_each_thread_waits_while_its_record_is_there() {
    let (store, _dir) = store().await;
    let refs = with_record(&store).await;
    let open = async || store.unproved(NOW).await.expect("read").open_hits;
    stream(&store, &[in_epoch(1, refs[0])]).await;
    stream(&store, &[in_epoch(2, refs[1])]).await;
    assert_eq!(open().await, 1);
    let removed = store.delete_dataset("d", NOW).await.expect("removed");
    assert_eq!(removed, Some((Policy::Email, 1)));
    assert_eq!(open().await, 0);
}

#[tokio::test]
async fn hits_of_an_older_store_become_threads_with_a_story() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("node.db");
    let older = super::super::MIGRATIONS.iter().filter(|m| m.version <= 2);
    let older = sqlx::migrate::Migrator {
        migrations: older.cloned().collect(),
        ..sqlx::migrate::Migrator::DEFAULT
    };
    let db = sotto_common::service::sqlite::Sqlite::open(&file, &older).await;
    let db = db.expect("opened");
    let stored = db.run_tx("test", |tx| {
        async move {
            for statement in [
                "INSERT INTO selectors (policy, canonical, record_id, ordinal)
                 VALUES ('email/1', 'a@x.org', 'check/1', 0)",
                "INSERT INTO record_refs VALUES
                     (unhex('01010101010101010101010101010101'), 1, 1),
                     (unhex('02020202020202020202020202020202'), 1, 2)",
                "INSERT INTO counters (name, value) VALUES ('hit_cursor', 3)",
                // Two epochs of one record, and a ref that is not known here.
                "INSERT INTO hits
                 SELECT unhex('00000000000' || n || '70008000000000000000'), n, n, 'email/1',
                     unhex(replace('0x0x0x0x0x0x0x0x0x0x0x0x0x0x0x0x', 'x', n)), 'de-bka',
                     CASE n WHEN 1 THEN 'RETRACTED' ELSE 'NEW' END, 1, 1e-9, 0.9, 10 * n, 20
                 FROM (SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3)",
            ] {
                sqlx::query(statement)
                    .execute(&mut *tx)
                    .await
                    .map_err(db_error)?;
            }
            Ok(())
        }
        .scope_boxed()
    });
    stored.await.expect("stored");
    db.close().await;

    let store = Store::open(&file, cipher(dir.path()))
        .await
        .expect("opened");
    let found = listed(&store, &HitFilter::default()).await;
    let epochs: Vec<_> = found.iter().map(|hit| hit.hit.epoch.get()).collect();
    assert_eq!(epochs, [2, 3]);
    assert_eq!(found[0].state, HitState::New);
    let whole = whole_story(&store, found[0].hit.id).await;
    assert_eq!(whole.others.len(), 1);
    assert_eq!(
        moves(&whole),
        [(HitState::Retracted, None), (HitState::New, None)]
    );
    // The story goes on.
    let begun = decide(&store, found[0].thread, HitDecision::BeginReview).await;
    assert_eq!(begun.expect("begun").0, found[0].hit.id);
    assert_eq!(whole_story(&store, found[0].thread).await.events.len(), 3);
}
