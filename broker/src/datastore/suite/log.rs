//! The audit log: entries and their places, tiles, checkpoints.

use sotto_common::ids::{EntryId, FollowUpId};
use sotto_common::log::action::Action;
use sotto_common::log::kind::{EntryKind, Verb};
use sotto_common::log::leaf::{Leaf, Opening, OpeningNonce};
use sotto_common::log::merkle::MerkleHash;
use sotto_common::log::tile::Tile;

use super::*;

const HOUR: Duration = Duration::from_hours(1);

/// An entry of `nl-fiu`.
pub(super) fn entry(action: Action, at: Timestamp) -> NewEntry {
    let nonce = OpeningNonce::generate(&mut os_rng());
    let opening = Opening::new(nonce, action.as_str().as_bytes().to_vec());
    NewEntry {
        id: EntryId::generate(at, &mut os_rng()),
        community: community(),
        action,
        at,
        leaf: Leaf::new(action.kind(), at, &opening),
        opening,
        nodes: vec![node("nl-fiu")],
        hit: None,
        follow_up: None,
    }
}

/// Puts entries, and gives them places.
async fn put_entries(store: &Datastore, entries: &[NewEntry]) {
    tx!(store, tx => tx.put_entries(entries).await);
    let count = u32::try_from(entries.len()).expect("few");
    let placed = tx!(store, tx => tx.update_places(&community(), count).await);
    assert_eq!(placed.len(), entries.len());
}

/// The whole log.
async fn leaves(store: &Datastore) -> Vec<LoggedRecord> {
    tx!(store, tx => tx.get_leaves(&community(), 0..u64::MAX).await)
}

/// The places of the entries that a filter lets through.
async fn listed(store: &Datastore, filter: &EntryFilter) -> Vec<u64> {
    places(&tx!(store, tx => tx.get_entries(&community(), filter, 0..9, 9).await))
}

fn places(records: &[LoggedRecord]) -> Vec<u64> {
    records.iter().map(|record| record.index).collect()
}

/// Whether the records are those of the entries, in their order, from this place on.
fn assert_are(records: &[LoggedRecord], entries: &[NewEntry], from: u64) {
    assert_eq!(records.len(), entries.len());
    for (index, (record, entry)) in (from..).zip(records.iter().zip(entries)) {
        assert_eq!(record.index, index);
        assert_eq!(record.leaf, entry.leaf.to_bytes());
        assert_eq!(record.opening.as_ref(), Some(&entry.opening));
    }
}

pub(super) async fn entries_get_places_in_the_order_in_which_they_were_put(store: &Datastore) {
    let elsewhere: &CommunityId = &"euro-fraud".parse().expect("a community");
    let community = &community();
    // Not the order of their times.
    let mut entries = [3, 1, 2].map(|n| entry(Action::OpenSession, NOW.plus(HOUR * n)));
    let other = &NewEntry {
        community: elsewhere.clone(),
        ..entry(Action::Read, NOW)
    };
    let waiting = async || tx!(store, tx => tx.get_communities_to_sequence().await);
    let size = async |community| tx!(store, tx => tx.get_log_size(community).await);
    let place = async |id| tx!(store, tx => tx.get_place(id).await);
    let give = async |limit| {
        let mut given = tx!(store, tx => tx.update_places(community, limit).await);
        given.sort_by_key(|(_, place)| *place);
        given
    };
    assert_eq!(waiting().await, []);
    let put = &[&entries[0], other, &entries[1], &entries[2]].map(NewEntry::clone);
    tx!(store, tx => tx.put_entries(put).await);
    assert_eq!(waiting().await, [community.clone(), elsewhere.clone()]);
    assert_eq!(
        (place(entries[0].id).await, size(community).await),
        (None, 0)
    );
    assert_are(&leaves(store).await, &[], 0);

    assert_eq!(give(2).await, [(entries[0].id, 0), (entries[1].id, 1)]);
    assert_eq!(size(community).await, 2);
    assert_eq!(place(entries[1].id).await, Some(1));
    assert_eq!(place(entries[2].id).await, None);
    assert_eq!(give(2).await, [(entries[2].id, 2)]);
    assert_eq!(give(2).await, []);
    assert_eq!((size(community).await, size(elsewhere).await), (3, 0));
    assert_eq!(place(entries[2].id).await, Some(2));
    assert_eq!(waiting().await, std::slice::from_ref(elsewhere));
    assert_are(&leaves(store).await, &entries, 0);
    let part = tx!(store, tx => tx.get_leaves(community, 1..2).await);
    assert_are(&part, &entries[1..2], 1);
    let bytes = tx!(store, tx => tx.get_leaf_bytes(community, 1..9).await);
    let leaf = |place: u64, entry: &NewEntry| (place, entry.leaf.to_bytes());
    assert_eq!(bytes, [leaf(1, &entries[1]), leaf(2, &entries[2])]);

    let next = &entry(Action::CloseSession, NOW);
    tx!(store, tx => tx.put_entries(from_ref(next)).await);
    assert_eq!(give(9).await, [(next.id, 3)]);
    assert_eq!(place(next.id).await, Some(3));
    // A transaction that fails leaves no gap.
    entries[0].id = EntryId::generate(NOW, &mut os_rng());
    let late = &entries[0];
    let failed = store.run_tx("case", |tx| {
        async move {
            tx.put_entries(from_ref(late)).await?;
            tx.update_places(community, 9).await?;
            Err::<(), _>(Error::new(ErrorCode::LimitReached, "no"))
        }
        .scope_boxed()
    });
    failed.await.expect_err("refused");
    tx!(store, tx => tx.put_entries(from_ref(late)).await);
    assert_eq!(give(9).await, [(late.id, 4)]);
    assert_eq!(place(late.id).await, Some(4));
}

/// Entries of several nodes an hour apart, one of them of a follow-up.
fn entries_of_several(follow_up: FollowUpId) -> [NewEntry; 4] {
    let at = |hours: u32| NOW.plus(HOUR * hours);
    [
        entry(Action::OpenSession, NOW),
        NewEntry {
            nodes: vec![node("de-bka"), node("nl-fiu")],
            follow_up: Some(follow_up),
            ..entry(Action::TakeStep, at(1))
        },
        NewEntry {
            nodes: vec![],
            ..entry(Action::EndEpoch, at(2))
        },
        NewEntry {
            nodes: vec![node("de-bka-2")],
            ..entry(Action::CloseSession, at(3))
        },
    ]
}

pub(super) async fn entries_are_listed_by_filter_and_range(store: &Datastore) {
    let follow_up = FollowUpId::generate(NOW, &mut os_rng());
    let at = |hours: u32| NOW.plus(HOUR * hours);
    let entries = &entries_of_several(follow_up);
    put_entries(store, entries).await;
    let community = &community();
    let found = async |filter: EntryFilter, range: std::ops::Range<u64>, limit| {
        let filter = &filter;
        let (start, end) = (range.start, range.end);
        let found = tx!(store, tx => tx.get_entries(community, filter, start..end, limit).await);
        for record in &found {
            let entry = &entries[usize::try_from(record.index).expect("small")];
            assert_are(
                std::slice::from_ref(record),
                std::slice::from_ref(entry),
                record.index,
            );
        }
        places(&found)
    };
    let all = EntryFilter::default;
    assert_eq!(found(all(), 0..u64::MAX, 9).await, [0, 1, 2, 3]);
    assert_eq!(found(all(), 1..3, 9).await, [1, 2]);
    assert_eq!(found(all(), 1..4, 2).await, [1, 2]);
    let by = async |filter: EntryFilter| listed(store, &filter).await;
    let of = |name| EntryFilter {
        node: Some(node(name)),
        ..all()
    };
    assert_eq!(by(of("nl-fiu")).await, [0, 1]);
    assert_eq!(by(of("de-bka")).await, [1]);
    assert!(by(of("de-b")).await.is_empty());
    let kind = Some(EntryKind::ProbeSession);
    assert_eq!(by(EntryFilter { kind, ..all() }).await, [0, 3]);
    let verb = Some(Verb::Alteration);
    assert_eq!(by(EntryFilter { verb, ..all() }).await, [2, 3]);
    assert_eq!(
        by(EntryFilter {
            kind,
            verb,
            ..all()
        })
        .await,
        [3]
    );
    let (since, until) = (Some(at(1)), Some(at(3)));
    assert_eq!(by(EntryFilter { since, ..all() }).await, [1, 2, 3]);
    assert_eq!(by(EntryFilter { until, ..all() }).await, [0, 1, 2]);
    let of_follow_up = |id| EntryFilter {
        follow_up: Some(id),
        ..all()
    };
    assert_eq!(by(of_follow_up(follow_up)).await, [1]);
    assert!(found(of_follow_up(follow_up), 2..4, 9).await.is_empty());
    let other = FollowUpId::generate(NOW, &mut os_rng());
    assert!(by(of_follow_up(other)).await.is_empty());
}

pub(super) async fn the_entry_that_found_a_hit_is_found_once_it_has_a_place(store: &Datastore) {
    let [first, second, unknown] = [(); 3].map(|()| HitId::generate(NOW, &mut os_rng()));
    let of = |action, hit| NewEntry {
        hit: Some(hit),
        ..entry(action, NOW)
    };
    let entries = &[
        of(Action::FindHit, first),
        of(Action::DecideHit, first),
        of(Action::QuarantineHit, second),
    ];
    put_entries(store, &entries[..2]).await;
    let late = &entries[2];
    tx!(store, tx => tx.put_entries(from_ref(late)).await);
    let community = &community();
    let found = async |hits: &[HitId]| {
        let mut found = tx!(store, tx => tx.get_hit_entries(community, hits).await);
        found.sort_by_key(|(_, record)| record.index);
        found
    };
    let one = found(&[first, second, unknown]).await;
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].0, first);
    assert_are(std::slice::from_ref(&one[0].1), &entries[..1], 0);
    tx!(store, tx => tx.update_places(community, 9).await);
    let both = found(&[second, first]).await;
    let both: Vec<_> = both
        .iter()
        .map(|(hit, record)| (*hit, record.index))
        .collect();
    assert_eq!(both, [(first, 0), (second, 2)]);
    assert!(found(&[]).await.is_empty());
}

pub(super) async fn what_is_erased_leaves_its_leaf_kind_and_hour(store: &Datastore) {
    let hit = HitId::generate(NOW, &mut os_rng());
    let follow_up = FollowUpId::generate(NOW, &mut os_rng());
    let minute = Duration::from_mins(1);
    let hour = Timestamp::from_seconds(NOW.seconds() - NOW.seconds().rem_euclid(3600));
    let at = |minutes: u32| hour.plus(minute * minutes);
    let entries = &[
        NewEntry {
            hit: Some(hit),
            follow_up: Some(follow_up),
            ..entry(Action::FindHit, at(10))
        },
        entry(Action::OpenSession, at(20)),
        entry(Action::CloseSession, at(30)),
    ];
    put_entries(store, entries).await;
    let without_place = &entry(Action::Read, at(5));
    tx!(store, tx => tx.put_entries(from_ref(without_place)).await);
    let community = &community();
    let erase =
        async |before, limit| tx!(store, tx => tx.delete_openings(community, before, limit).await);
    assert_eq!(erase(at(10), 9).await, 0);
    assert_eq!((erase(at(30), 1).await, erase(at(30), 9).await), (1, 1));
    assert_eq!(erase(at(30), 9).await, 0);

    let kept = leaves(store).await;
    assert_eq!(places(&kept), [0, 1, 2]);
    for (record, entry) in kept.iter().zip(entries) {
        assert_eq!(record.leaf, entry.leaf.to_bytes());
    }
    let open: Vec<_> = kept.iter().map(|record| record.opening.is_some()).collect();
    assert_eq!(open, [false, false, true]);
    let by = async |filter: EntryFilter| listed(store, &filter).await;
    let all = EntryFilter::default;
    let node = Some(node("nl-fiu"));
    assert_eq!(by(EntryFilter { node, ..all() }).await, [2]);
    let verb = Some(Verb::Combination);
    assert!(by(EntryFilter { verb, ..all() }).await.is_empty());
    let follow_up = Some(follow_up);
    assert!(by(EntryFilter { follow_up, ..all() }).await.is_empty());
    let kind = Some(EntryKind::Hit);
    assert_eq!(by(EntryFilter { kind, ..all() }).await, [0]);
    // Of the hour, and of no minute of it.
    let until = Some(at(1));
    assert_eq!(by(EntryFilter { until, ..all() }).await, [0, 1]);
    let found = tx!(store, tx => tx.get_hit_entries(community, &[hit]).await);
    assert!(found.is_empty());
    let id = entries[0].id;
    assert_eq!(tx!(store, tx => tx.get_place(id).await), None);
    // It had to have a place first.
    tx!(store, tx => tx.update_places(community, 9).await);
    assert_are(
        &leaves(store).await[3..],
        std::slice::from_ref(without_place),
        3,
    );
    // In their order: what stands behind a later one goes with that.
    assert_eq!(erase(at(30), 9).await, 0);
    assert_eq!(erase(at(31), 9).await, 2);
}

pub(super) async fn openings_open_under_a_later_key_too(store: &Datastore) {
    let entries = &[1, 2, 3].map(|n| entry(Action::Read, NOW.plus(HOUR * n)));
    put_entries(store, entries).await;
    let reads = async |store: &Datastore| {
        let read = store.read_tx("case", |tx| {
            async move { tx.get_leaves(&community(), 0..9).await }.scope_boxed()
        });
        read.await.is_ok()
    };
    let under = |keys: &[&str]| Datastore {
        cipher: cipher(keys),
        ..store.clone()
    };
    let (first, second) = (KEYS[0], KEYS[1]);
    assert!(!reads(&under(&[])).await && !reads(&under(&[second])).await);
    // What is public needs no key.
    let public = tx!(under(&[]), tx => tx.get_leaf_bytes(&community(), 0..9).await);
    assert_eq!(public.len(), leaves(store).await.len());
    // Back and forth: the other key is the smaller one, then the larger one.
    for [new, old] in [[second, first], [first, second]] {
        let both = &under(&[new, old]);
        let seals = async || tx!(both, tx => tx.update_opening_seals(2).await);
        let sealed = [seals().await, seals().await, seals().await];
        assert_eq!(sealed, [Some(2), Some(1), None]);
        assert_are(&leaves(&under(&[new])).await, entries, 0);
        assert!(!reads(&under(&[old])).await, "the other key may go");
    }
    // One that is erased has nothing to seal.
    let after = NOW.plus(HOUR * 9);
    tx!(store, tx => tx.delete_openings(&community(), after, 9).await);
    let both = &under(&[second, first]);
    assert_eq!(tx!(both, tx => tx.update_opening_seals(9).await), None);
    // What comes later is looked at later.
    put_entries(both, std::slice::from_ref(&entry(Action::Read, after))).await;
    let seals = async || tx!(both, tx => tx.update_opening_seals(9).await);
    assert_eq!((seals().await, seals().await), (Some(0), None));
}

pub(super) async fn a_tile_gives_way_to_a_wider_one_only(store: &Datastore) {
    let community = &community();
    let put = async |level, index, width: u16, byte: u8| {
        let tile = Tile::new(level, index, width).expect("a tile");
        let bytes = &vec![byte; 32 * usize::from(width)];
        tx!(store, tx => tx.put_tile(community, tile, bytes).await);
    };
    let get = async |level, index| tx!(store, tx => tx.get_tile(community, level, index).await);
    assert_eq!(get(0, 0).await, None);
    put(0, 0, 2, 1).await;
    put(0, 1, 1, 2).await;
    put(1, 0, 1, 3).await;
    put(0, 0, 1, 4).await;
    put(0, 0, 2, 5).await;
    assert_eq!(get(0, 0).await, Some(vec![1; 64]));
    put(0, 0, 256, 6).await;
    assert_eq!(get(0, 0).await, Some(vec![6; 256 * 32]));
    assert_eq!(get(0, 1).await, Some(vec![2; 32]));
    assert_eq!(get(1, 0).await, Some(vec![3; 32]));
    assert_eq!(get(1, 1).await, None);
    let elsewhere = &"euro-fraud".parse().expect("a community");
    assert_eq!(tx!(store, tx => tx.get_tile(elsewhere, 0, 0).await), None);
}

fn checkpoint(size: u64) -> CheckpointRecord {
    CheckpointRecord {
        size,
        root: MerkleHash::of_leaf(&size.to_be_bytes()),
        signed_at: NOW.plus(HOUR),
        note: format!("sotto.example/sotto/euro-cyber\n{size}\n"),
        cosignatures: vec![],
    }
}

pub(super) async fn a_log_that_has_grown_is_to_be_signed(store: &Datastore) {
    let community = &community();
    let to_sign = async || tx!(store, tx => tx.get_communities_to_sign().await);
    let put = async |size| {
        let checkpoint = &checkpoint(size);
        let put = store.run_tx("case", |tx| {
            async move { tx.put_checkpoint(community, checkpoint).await }.scope_boxed()
        });
        put.await
    };
    let latest = async || tx!(store, tx => tx.get_checkpoint(community, 0).await);
    // Without entries there is nothing to sign.
    tx!(store, tx => tx.update_places(community, 9).await);
    assert_eq!(to_sign().await, []);
    assert_eq!(latest().await, None);
    put_entries(store, &[(); 3].map(|()| entry(Action::Read, NOW))).await;
    assert_eq!(to_sign().await, std::slice::from_ref(community));
    put(2).await.expect("put");
    assert_eq!(to_sign().await, std::slice::from_ref(community));
    for refused in [2, 1] {
        let error = put(refused).await.expect_err("refused");
        assert_eq!(error.code, ErrorCode::Internal);
    }
    put(3).await.expect("put");
    assert_eq!(to_sign().await, []);
    assert_eq!(latest().await, Some(checkpoint(3)));
    let of = async |size| tx!(store, tx => tx.get_checkpoint_of(community, size).await);
    assert_eq!(of(2).await, Some(checkpoint(2)));
    assert_eq!(of(1).await, None);
    put_entries(store, &[entry(Action::Read, NOW)]).await;
    assert_eq!(to_sign().await, std::slice::from_ref(community));
}

pub(super) async fn the_latest_checkpoint_with_enough_cosignatures_is_found(store: &Datastore) {
    let community = &community();
    for size in [1, 4, 9] {
        let checkpoint = &checkpoint(size);
        tx!(store, tx => tx.put_checkpoint(community, checkpoint).await);
    }
    let cosign = async |size, name: &str, line: &str| {
        let node = &node(name);
        tx!(store, tx => tx.put_cosignature(community, size, node, line).await);
    };
    let with = async |count| {
        let found = tx!(store, tx => tx.get_checkpoint(community, count).await);
        found.map(|checkpoint| checkpoint.size)
    };
    assert_eq!((with(0).await, with(1).await), (Some(9), None));
    cosign(4, "nl-fiu", "nl").await;
    cosign(4, "de-bka", "de").await;
    // Again counts once.
    cosign(4, "nl-fiu", "nl, later").await;
    assert_eq!((with(0).await, with(1).await), (Some(9), Some(4)));
    assert_eq!((with(2).await, with(3).await), (Some(4), None));
    // Of an earlier one, later.
    cosign(1, "nl-fiu", "nl").await;
    assert_eq!(with(1).await, Some(4));
    cosign(9, "fr-pj", "fr").await;
    assert_eq!((with(1).await, with(2).await), (Some(9), Some(4)));

    let kept = tx!(store, tx => tx.get_checkpoint_of(community, 4).await);
    let expected = CheckpointRecord {
        cosignatures: vec!["de".into(), "nl, later".into()],
        ..checkpoint(4)
    };
    assert_eq!(kept.as_ref(), Some(&expected));
    let found = tx!(store, tx => tx.get_checkpoint(community, 2).await);
    assert_eq!(found, kept);
    let elsewhere = &"euro-fraud".parse().expect("a community");
    assert_eq!(
        tx!(store, tx => tx.get_checkpoint(elsewhere, 0).await),
        None
    );
    let nowhere = store.run_tx("case", |tx| {
        async move {
            tx.put_cosignature(community, 5, &node("nl-fiu"), "nl")
                .await
        }
        .scope_boxed()
    });
    nowhere.await.expect_err("no such checkpoint");
}

pub(super) async fn the_log_keeps_the_name_and_key_of_its_first_use(store: &Datastore) {
    let get = async || tx!(store, tx => tx.get_log_identity().await);
    assert_eq!(get().await, None);
    for identity in ["first", "second"] {
        tx!(store, tx => tx.put_log_identity(identity).await);
        assert_eq!(get().await.as_deref(), Some("first"));
    }
}
