use sotto_common::dsse::SigningKey;
use sotto_common::hit::HitState;
use sotto_common::ids::{RecordRef, SessionId};
use sotto_common::log::checkpoint::LogSigner;
use sotto_common::random::os_rng;

use super::super::testing::store;
use super::*;
use crate::access::Access;
use crate::hit::Hit;
use crate::store::{AccessFilter, HitFilter};
use crate::testing::{answered, answered_at, grounds, hit};

const NOW: Timestamp = Timestamp::from_seconds(50);

fn signer() -> LogSigner {
    let origin = "broker.example/sotto/euro-cyber";
    let key = SigningKey::generate(&mut os_rng());
    LogSigner::new(origin.parse().expect("an origin"), key)
}

fn head(size: u64) -> TreeHead {
    TreeHead {
        size,
        root: MerkleHash::of_leaf(&size.to_be_bytes()),
    }
}

fn epoch() -> Epoch {
    Epoch::new(1).expect("an epoch")
}

fn evidence() -> Evidence {
    Evidence {
        at: NOW,
        what: "two trees of one size".into(),
        log_key: "key".into(),
        known: b"one".to_vec(),
        offered: b"other".to_vec(),
        proof: vec![MerkleHash::new([1; 32]), MerkleHash::new([2; 32])],
        subject: "a hit".into(),
        entry: Some(b"case 17".to_vec()),
    }
}

#[tokio::test]
async fn the_largest_checkpoint_stays_stored() {
    let (store, _dir) = store().await;
    let log = signer();
    let origin = log.key().origin();
    assert_eq!(store.log_checkpoint(origin).await.expect("read"), None);
    for size in [7, 23, 11] {
        let put = store.put_log_checkpoint(&log.sign(head(size)), NOW).await;
        put.expect("stored");
    }
    let read = store.log_checkpoint(origin).await.expect("read");
    let read = read.expect("there");
    assert_eq!((read.checkpoint.head, read.at), (head(23), NOW));
    let opened = SignedCheckpoint::open(&read.note, log.key()).expect("a note");
    assert_eq!(*opened.head(), head(23));
}

#[tokio::test]
async fn evidence_raises_the_alarm_until_it_is_cleared_and_stays() {
    let (store, _dir) = store().await;
    assert!(!store.has_alarm().await.expect("read"));
    store.put_evidence(&evidence()).await.expect("stored");
    assert!(store.has_alarm().await.expect("read"));
    let note = Access {
        at: NOW,
        person: "spiffe://sotto.test/supervisor/sue".into(),
        action: "NodeAdminService/ClearEvidence".into(),
        objects: Vec::new(),
        why: "explained".into(),
    };
    let log = signer();
    let put = store.put_log_checkpoint(&log.sign(head(7)), NOW).await;
    put.expect("stored");
    assert_eq!(store.clear_evidence(&note, false).await.expect("done"), 1);
    assert!(!store.has_alarm().await.expect("read"));
    let kept = store.evidence(0, 9).await.expect("read");
    assert_eq!((kept.len(), &kept[0].evidence), (1, &evidence()));
    assert_eq!(kept[0].cleared_at, Some(NOW));
    let filter = AccessFilter {
        up_to: u64::MAX,
        ..AccessFilter::default()
    };
    let noted = store.access_log(&filter, 9).await.expect("read");
    assert_eq!(noted[0].access, note);
    // The checkpoint is forgotten on request alone.
    let origin = log.key().origin();
    assert!(store.log_checkpoint(origin).await.expect("read").is_some());
    assert_eq!(store.clear_evidence(&note, true).await.expect("done"), 0);
    assert!(store.log_checkpoint(origin).await.expect("read").is_none());
}

#[tokio::test]
async fn hits_are_verified_once_and_those_who_watch_are_told() {
    let (store, _dir) = store().await;
    let hits = [1, 2].map(|n| hit(n, epoch(), RecordRef::new([n; 16])));
    let stored = store.put_streamed_hits(&hits, 1, NOW).await;
    let before = stored.expect("stored");
    let waiting = store.unverified_hits(&[epoch()], None, 9).await;
    let waiting = waiting.expect("read");
    assert_eq!(waiting.len(), 2);
    assert_eq!(
        (waiting[0].id, &waiting[0].holder),
        (hits[1].id, &hits[1].holder)
    );
    let marks = [(hits[0].id, 7)];
    let cursor = store.mark_verified(&marks, NOW).await.expect("marked");
    assert_eq!(cursor, before + 1);
    let again = store.mark_verified(&[(hits[0].id, 8)], NOW).await;
    assert_eq!(again.expect("marked"), cursor);
    let told = store.record_hits_since(before, 9).await.expect("read");
    assert_eq!((told.len(), told[0].verified), (1, Some((7, NOW))));
    assert_eq!(store.count_unverified().await.expect("read"), 1);
    // What the broker tells later of the hit leaves the mark.
    let later = store.put_streamed_hits(&hits, 2, NOW).await;
    later.expect("stored");
    for (verified, expected) in [(true, hits[0].id), (false, hits[1].id)] {
        let filter = HitFilter {
            verified: Some(verified),
            ..HitFilter::default()
        };
        let listed = store.record_hits(&filter, 9).await.expect("read");
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].hit.id, expected);
    }
}

/// The answer to a batch with this place in the log, which finds these hits.
async fn answer(store: &Store, found: &[Hit], leaf: Option<u64>) {
    let session = SessionId::generate(NOW, &mut os_rng());
    let batch = answered_at(session, epoch(), leaf);
    let grounds = grounds("case 1");
    let put = store.put_answered_hits(found, &grounds, &batch);
    put.await.expect("stored");
}

async fn named(store: &Store, hit: HitId) -> Named {
    let joined = store.record_hit(hit).await.expect("read");
    let named = joined.expect("there").named;
    let waiting = store.unverified_hits(&[epoch()], None, 9).await;
    let waiting = waiting.expect("read");
    let row = waiting.iter().find(|row| row.id == hit);
    assert_eq!(row.map(|row| row.named), Some(named));
    named
}

/// Every batch that has a place is verified.
async fn verify_batches(store: &Store) {
    let waiting = store.unverified_batches(0, u64::MAX, 9).await;
    for batch in waiting.expect("read") {
        let marked = store.mark_batch_verified(batch.place, NOW).await;
        marked.expect("marked");
    }
}

#[tokio::test]
async fn an_answer_of_a_verified_batch_binds_a_hit_to_its_record_and_the_stream_alone_does_not() {
    let (store, _dir) = store().await;
    let found = hit(1, epoch(), RecordRef::new([1; 16]));
    let streamed = store.put_streamed_hits(std::slice::from_ref(&found), 1, NOW);
    streamed.await.expect("stored");
    assert_eq!(named(&store, found.id).await, Named::Nowhere);
    answer(&store, std::slice::from_ref(&found), None).await;
    assert_eq!(named(&store, found.id).await, Named::Unplaced);
    answer(&store, std::slice::from_ref(&found), Some(4)).await;
    assert_eq!(named(&store, found.id).await, Named::Unverified);
    verify_batches(&store).await;
    assert_eq!(named(&store, found.id).await, Named::Verified);
    // Begun anew, a log has no places any more.
    let note = Access {
        at: NOW,
        person: "spiffe://sotto.test/supervisor/sue".into(),
        action: "NodeAdminService/ClearEvidence".into(),
        objects: Vec::new(),
        why: "explained".into(),
    };
    store.clear_evidence(&note, true).await.expect("done");
    assert_eq!(named(&store, found.id).await, Named::Unplaced);
    // What is erased after its time says nothing.
    store.erase_batches(epoch(), NOW).await.expect("done");
    assert_eq!(named(&store, found.id).await, Named::Nowhere);
}

#[tokio::test]
async fn a_hit_that_any_answer_names_otherwise_is_bound_to_nothing() {
    type Change = fn(&mut Hit);
    let changes: [Change; 4] = [
        |hit| hit.record_ref = RecordRef::new([2; 16]),
        |hit| hit.holder = "fr-pj".parse().expect("a node"),
        |hit| hit.policy = Policy::Phone,
        |hit| hit.epoch = Epoch::new(9).expect("an epoch"),
    ];
    for change in changes {
        let (store, _dir) = store().await;
        let found = hit(1, epoch(), RecordRef::new([1; 16]));
        let mut told = found.clone();
        change(&mut told);
        answer(&store, std::slice::from_ref(&found), Some(4)).await;
        answer(&store, &[told], Some(5)).await;
        verify_batches(&store).await;
        assert_eq!(named(&store, found.id).await, Named::Otherwise);
        let waits = store.unproved(NOW).await.expect("read");
        assert_eq!(waits.named_otherwise, 1);
    }
}

#[tokio::test]
async fn what_waits_for_its_proof_is_counted_with_the_time_of_the_first() {
    let (store, _dir) = store().await;
    let before = Timestamp::from_seconds(0);
    let waits = async || store.unproved(before).await.expect("read");
    assert_eq!(waits().await, Unproved::default());
    let mut hits = [1, 2, 3].map(|n| hit(n, epoch(), RecordRef::new([n; 16])));
    hits[1].first_seen = Timestamp::from_seconds(7);
    (hits[2].first_seen, hits[2].state) = (Timestamp::from_seconds(3), HitState::Expired);
    let streamed = store.put_streamed_hits(&hits, 1, NOW).await;
    streamed.expect("stored");
    answer(&store, &hits[..1], Some(4)).await;
    answer(&store, &hits[..1], None).await;
    let answered_at = Some(Timestamp::from_seconds(5));
    let expected = Unproved {
        open_hits: 2,
        open_hits_since: Some(Timestamp::from_seconds(7)),
        named_otherwise: 0,
        batches: 1,
        batches_since: answered_at,
        unplaced: 1,
        unplaced_since: answered_at,
    };
    assert_eq!(waits().await, expected);
    // Of those without a place only the later ones are told of.
    let later = store.unproved(NOW).await.expect("read");
    assert_eq!((later.unplaced, later.unplaced_since), (0, None));
    let marks = [(hits[0].id, 7), (hits[1].id, 8)];
    let marked = store.mark_verified(&marks, NOW).await;
    marked.expect("marked");
    verify_batches(&store).await;
    let left = waits().await;
    assert_eq!((left.open_hits, left.open_hits_since), (0, None));
    assert_eq!((left.batches, left.batches_since), (0, None));
}

#[tokio::test]
async fn too_few_witnesses_are_noted_since_the_first_time_until_there_are_enough() {
    let (store, _dir) = store().await;
    let log = signer();
    let origin = log.key().origin();
    let at = Timestamp::from_seconds;
    let note = async |enough, now| {
        let noted = store.set_witnessed(origin, enough, at(now)).await;
        noted.expect("noted");
        let read = store.log_checkpoint(origin).await.expect("read");
        read.and_then(|read| read.few_since)
    };
    assert_eq!(note(false, 1).await, None);
    let put = store.put_log_checkpoint(&log.sign(head(7)), NOW).await;
    put.expect("stored");
    for (enough, now, since) in [
        (true, 2, None),
        (false, 3, Some(at(3))),
        (false, 4, Some(at(3))),
        (true, 5, None),
        (false, 6, Some(at(6))),
    ] {
        assert_eq!(note(enough, now).await, since);
    }
    let put = store.put_log_checkpoint(&log.sign(head(9)), NOW).await;
    put.expect("stored");
    assert_eq!(note(false, 8).await, Some(at(6)));
}

#[tokio::test]
async fn batches_are_kept_with_their_openings_for_the_retention_time() {
    let (store, _dir) = store().await;
    let session = SessionId::generate(NOW, &mut os_rng());
    let batch = answered(session, epoch());
    for _ in 0..2 {
        let stored = store.answer_batch(&batch, 1, &[]).await;
        stored.expect("stored");
    }
    let opening = store.batch_opening(session, 0).await.expect("kept");
    assert_eq!(opening[..32], [7; 32]);
    assert_eq!(
        opening[32..],
        [&[0, 0, 0, 1][..], &[1; 16], &[2; 16]].concat()
    );
    assert!(
        store
            .unverified_batches(0, 3, 9)
            .await
            .expect("read")
            .is_empty()
    );
    let waiting = store.unverified_batches(0, 4, 9).await.expect("read");
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].tags_digest, batch.tags_digest);
    let marked = store.mark_batch_verified(waiting[0].place, NOW).await;
    marked.expect("marked");
    assert!(
        store
            .unverified_batches(0, 4, 9)
            .await
            .expect("read")
            .is_empty()
    );
    assert!(
        store
            .probed_batch(session, 0)
            .await
            .expect("read")
            .is_some()
    );
    let erase = async |before| store.erase_batches(epoch(), before).await.expect("done");
    assert_eq!(erase(batch.at).await, 0);
    assert_eq!(erase(NOW).await, 1);
    assert!(
        store
            .probed_batch(session, 0)
            .await
            .expect("read")
            .is_none()
    );
}
