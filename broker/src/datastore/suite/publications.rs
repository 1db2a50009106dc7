//! Publications, versions, salts.

use super::*;
use crate::objects::ObjectKey;

pub(super) fn publication(version: u64, supplement_of: Option<u64>) -> PublicationRecord {
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
        labels: FilterLabels::default(),
        generation: 0,
        object: None,
    }
}

/// The publication after its activation in a generation.
pub(super) fn active(publication: &PublicationRecord, generation: u64) -> PublicationRecord {
    let checked = PublicationRecord {
        fpr: 1e-9,
        object: Some(ObjectKey::generate(publication.id, &mut os_rng())),
        ..publication.clone()
    };
    checked
        .moved(PublicationState::Active, generation)
        .expect("a move")
}

pub(super) async fn put_publications(store: &Datastore, publications: &[PublicationRecord]) {
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

    for row in &rows[..2] {
        tx!(store, tx => tx.update_publication(&active(row, 1)).await);
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

pub(super) async fn an_ended_publication_loses_its_header_and_its_object(store: &Datastore) {
    use PublicationState::{Expired, Replaced, Withdrawn};
    let labels = FilterLabels::new("Team 7", Some(HandlingCode::H3), "ask first");
    let labels = &labels.expect("labels");
    let rows = [1, 2, 3].map(|version| PublicationRecord {
        labels: labels.clone(),
        ..publication(version, None)
    });
    put_publications(store, &rows).await;
    let get = async |id| tx!(store, tx => tx.get_publication(id).await);
    for (row, state) in rows.iter().zip([Replaced, Withdrawn, Expired]) {
        let active = &active(row, 1);
        tx!(store, tx => tx.update_publication(active).await);
        let known = get(row.id).await.expect("there");
        assert_eq!((&known.object, known.generation), (&active.object, 1));
        let ended = &known.moved(state, 2).expect("a move");
        tx!(store, tx => tx.update_publication(ended).await);
        let known = get(row.id).await.expect("there");
        assert_eq!((known.state, known.generation), (state, 2));
        assert!(known.header.is_empty() && known.object.is_none(), "{state}");
        assert_eq!((known.digest, known.class), (row.digest, row.class));
        assert_eq!(known.labels, *labels, "its hits still say them");
    }
    let other = PublicationId::generate(NOW, &mut os_rng());
    assert!(get(other).await.is_none());
}

pub(super) async fn what_has_moved_is_told_by_generation(store: &Datastore) {
    let rows = [1, 2, 3].map(|version| publication(version, None));
    put_publications(store, &rows).await;
    let moved = async |after| {
        let moved = tx!(store, tx => tx.get_moved_publications(after).await);
        moved.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert!(moved(0).await.is_empty(), "uploads have not moved");
    for (row, generation) in rows.iter().zip([7, 5]) {
        tx!(store, tx => tx.update_publication(&active(row, generation)).await);
    }
    assert_eq!(moved(0).await, [rows[1].id, rows[0].id]);
    assert_eq!(moved(5).await, [rows[0].id]);
    assert!(moved(7).await.is_empty());
}

pub(super) async fn an_upload_is_its_chunks_in_order(store: &Datastore) {
    let [upload, other] = [1, 2].map(|version| publication(version, None));
    put_publications(store, &[upload.clone(), other.clone()]).await;
    let acknowledged = async |id| tx!(store, tx => tx.get_acknowledged(id).await);
    assert_eq!(acknowledged(upload.id).await, (0, 0));
    let chunk = |row: &PublicationRecord, start, length| ChunkRecord {
        publication: row.id,
        start,
        length,
        object: ObjectKey::generate(row.id, &mut os_rng()),
    };
    let chunks = [chunk(&upload, 0, 10), chunk(&upload, 10, 300)];
    for (number, chunk) in [(1, &chunks[1]), (0, &chunks[0]), (0, &chunk(&other, 0, 7))] {
        tx!(store, tx => tx.put_chunk(chunk, number).await);
    }
    assert_eq!(acknowledged(upload.id).await, (310, 2));
    let known = tx!(store, tx => tx.get_chunks(upload.id).await);
    let shape: Vec<_> = known
        .iter()
        .map(|c| (c.start, c.length, &c.object))
        .collect();
    assert_eq!(
        shape,
        [(0, 10, &chunks[0].object), (10, 300, &chunks[1].object)]
    );
    tx!(store, tx => tx.delete_chunks(upload.id).await);
    assert_eq!(acknowledged(upload.id).await, (0, 0));
    assert_eq!(acknowledged(other.id).await, (7, 1));
}

pub(super) async fn what_is_sealed_opens_under_a_later_key_too(store: &Datastore) {
    let [filter, upload] = [1, 2].map(|version| publication(version, None));
    put_publications(store, &[filter.clone(), upload.clone()]).await;
    let filter = &active(&filter, 1);
    tx!(store, tx => tx.update_publication(filter).await);
    let chunk = &ChunkRecord {
        publication: upload.id,
        start: 0,
        length: 1,
        object: ObjectKey::generate(upload.id, &mut os_rng()),
    };
    tx!(store, tx => tx.put_chunk(chunk, 0).await);
    let sessions = [(); 3].map(|()| super::probes::session());
    for session in &sessions {
        tx!(store, tx => tx.put_session(session).await);
    }
    let check = async |store: &Datastore| {
        let known = tx!(store, tx => tx.get_publication(filter.id).await);
        assert_eq!(known.expect("there").object, filter.object);
        let known = tx!(store, tx => tx.get_chunks(upload.id).await);
        assert_eq!(known[0].object, chunk.object);
        for session in &sessions {
            let known = tx!(store, tx => tx.get_session(session.id).await);
            assert_eq!(known.expect("there").grounds, session.grounds);
        }
    };
    let reads = async |store: &Datastore| {
        let session = sessions[0].id;
        let read = store.read_tx("case", |tx| {
            async move { tx.get_session(session).await }.scope_boxed()
        });
        read.await.is_ok()
    };
    let under = |keys: &[&str]| Datastore {
        cipher: super::cipher(keys),
        ..store.clone()
    };
    let (first, second) = (super::KEYS[0], super::KEYS[1]);
    check(store).await;
    assert!(!reads(&under(&[])).await && !reads(&under(&[second])).await);

    // Rotated: the new key seals, both open.
    let both = &under(&[second, first]);
    check(both).await;
    let objects = async || tx!(both, tx => tx.update_object_seals(1).await);
    assert_eq!((objects().await, objects().await), (2, 0));
    let case_refs = async || tx!(both, tx => tx.update_case_ref_seals(2).await);
    assert_eq!(
        (case_refs().await, case_refs().await, case_refs().await),
        (2, 1, 0)
    );
    check(&under(&[second])).await;
    assert!(!reads(store).await, "the first key may go");
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
