//! Threads, decisions and the stream, as the store has them.

use std::slice::from_ref;

use sotto_common::grounds::{LegalBasis, Purpose};

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
    let cursor = store
        .put_answered_hits(&[answered], &grounds("case 1"))
        .await
        .expect("stored");
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
