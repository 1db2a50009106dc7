//! Publications, versions, salts.

use super::*;

fn publication(version: u64, supplement_of: Option<u64>) -> PublicationRecord {
    PublicationRecord {
        id: PublicationId::generate(NOW, &mut os_rng()),
        key: key(),
        holder: node("nl-fiu"),
        version,
        supplement_of,
        state: PublicationState::Uploading,
        header: vec![5],
        digest: [6; 32],
        class: 3,
        fpr: 0.0,
        created_at: NOW,
        expires_at: NOW.plus(Duration::from_hours(1)),
    }
}

async fn put_publications(store: &Datastore, publications: &[PublicationRecord]) {
    put_community(store).await;
    put_epoch(store, &epoch_record(1)).await;
    for publication in publications {
        tx!(store, tx => tx.put_publication(publication).await);
    }
}

pub(super) async fn publications_are_listed_latest_first_and_counted_by_state(store: &Datastore) {
    let rows = [
        publication(1, None),
        publication(2, Some(1)),
        publication(3, Some(1)),
    ];
    put_publications(store, &rows).await;
    let (community, nl, key) = (&community(), &node("nl-fiu"), &key());
    let list = async |policy, limit| {
        let listed = tx!(store, tx =>
            tx.get_publications(community, number(1), nl, policy, limit).await);
        listed.iter().map(|row| row.version).collect::<Vec<_>>()
    };
    assert_eq!(list(None, 9).await, [3, 2, 1]);
    assert_eq!(list(Some(Policy::Phone), 2).await, [3, 2]);
    assert!(list(Some(Policy::Email), 9).await.is_empty());
    assert_eq!(tx!(store, tx => tx.count_uploads(community, nl).await), 3);
    assert!(tx!(store, tx => tx.get_stack(key, nl).await).is_empty());

    let active = PublicationState::Active;
    for row in &rows[..2] {
        tx!(store, tx => tx.update_publication(row.id, active, 1e-9).await);
    }
    let stack = tx!(store, tx => tx.get_stack(key, nl).await);
    let layers: Vec<_> = stack
        .iter()
        .map(|row| (row.version, row.supplement_of))
        .collect();
    assert_eq!(layers, [(1, None), (2, Some(1))]);
    assert!(
        stack
            .iter()
            .all(|row| row.header == [5] && (row.fpr - 1e-9).abs() < 1e-20)
    );
    assert_eq!(tx!(store, tx => tx.count_uploads(community, nl).await), 1);
    let uploading = PublicationState::Uploading;
    let left = tx!(store, tx => tx.get_publications_in(uploading).await);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].id, rows[2].id);
    assert!(tx!(store, tx => tx.get_stack(key, &node("de-bka")).await).is_empty());
}

pub(super) async fn an_ended_publication_loses_its_header(store: &Datastore) {
    use PublicationState::{Expired, Refused, Replaced, Withdrawn};
    let row = publication(1, None);
    put_publications(store, std::slice::from_ref(&row)).await;
    for state in [Replaced, Withdrawn, Expired, Refused] {
        tx!(store, tx => tx.update_publication(row.id, state, 0.5).await);
        let known = tx!(store, tx => tx.get_publication(row.id).await).expect("there");
        assert_eq!(known.state, state);
        assert!(known.header.is_empty(), "{state}");
        assert_eq!((known.digest, known.class), (row.digest, row.class));
    }
    let other = PublicationId::generate(NOW, &mut os_rng());
    assert!(tx!(store, tx => tx.get_publication(other).await).is_none());
}

pub(super) async fn versions_and_salts_are_remembered(store: &Datastore) {
    let (community, nl, key) = (&community(), &node("nl-fiu"), &key());
    let version = async || tx!(store, tx => tx.get_version(key, nl).await);
    assert_eq!(version().await, 0);
    for next in [1, 2] {
        tx!(store, tx => tx.put_version(key, nl, next).await);
        assert_eq!(version().await, next);
    }
    let (first, second) = (publication(1, None).id, publication(2, None).id);
    for id in [first, second] {
        tx!(store, tx => tx.put_salt(community, &[1; 32], id).await);
        let known = tx!(store, tx => tx.get_salt(community, &[1; 32]).await);
        assert_eq!(known, Some(first), "the first use stands");
    }
    let elsewhere = &"euro-fraud".parse().expect("a community");
    assert_eq!(
        tx!(store, tx => tx.get_salt(elsewhere, &[1; 32]).await),
        None
    );
}
