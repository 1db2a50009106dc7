//! What holds when transactions meet.

use std::collections::BTreeSet;

use futures::future::join_all;
use sotto_common::log::action::Action;

use super::*;

/// How many work at once, and how often each of them.
const WRITERS: u64 = 8;
const TURNS: u64 = 12;

pub(super) async fn concurrent_writers_leave_no_gap_in_a_cursor(store: &Datastore) {
    let hit = &hits::hit(1, "de-bka", HitState::New, NOW);
    tx!(store, tx => tx.put_hits(from_ref(hit)).await);
    let (community, nl) = (&community(), &node("nl-fiu"));
    let seen = join_all((0..WRITERS).map(async |_| {
        let mut seen = vec![];
        for _ in 0..TURNS {
            seen.push(tx!(store, tx => tx.put_hit_events(community, nl, &[hit.id]).await));
            // In the order of commit: whatever can be read has all that came before it.
            let events = tx!(store, tx => tx.get_hit_events(community, nl, 0, 1000).await);
            let cursors: Vec<_> = events.iter().map(|event| event.cursor).collect();
            assert_eq!(cursors, (1..=cursors.len() as u64).collect::<Vec<_>>());
        }
        assert!(seen.is_sorted());
        seen
    }))
    .await;
    let given: BTreeSet<_> = seen.into_iter().flatten().collect();
    assert_eq!(given, (1..=WRITERS * TURNS).collect());
}

pub(super) async fn concurrent_readers_that_write_lose_no_update(store: &Datastore) {
    let (key, nl) = (&key(), &node("nl-fiu"));
    join_all((0..WRITERS).map(async |_| {
        for _ in 0..TURNS {
            tx!(store, tx => {
                let version = tx.get_version(key, nl).await?;
                tx.put_version(key, nl, version + 1).await
            });
        }
    }))
    .await;
    let version = tx!(store, tx => tx.get_version(key, nl).await);
    assert_eq!(version, WRITERS * TURNS);
}

pub(super) async fn places_given_out_at_once_leave_no_gap_and_none_is_given_twice(
    store: &Datastore,
) {
    let community = &community();
    let placed = join_all((0..WRITERS).map(async |_| {
        let mut placed = 0;
        for _ in 0..TURNS {
            let entry = &log::entry(Action::Read, NOW);
            tx!(store, tx => tx.put_entries(from_ref(entry)).await);
            placed += tx!(store, tx => tx.update_places(community, 3).await).len() as u64;
            // What can be read is the log up to its size.
            let (size, leaves) = tx!(store, tx => {
                let size = tx.get_log_size(community).await?;
                Ok((size, tx.get_leaves(community, 0..u64::MAX).await?))
            });
            let indices: Vec<_> = leaves.iter().map(|leaf| leaf.index).collect();
            assert_eq!(indices, (0..size).collect::<Vec<_>>());
        }
        placed
    }))
    .await;
    let rest = tx!(store, tx => tx.update_places(community, 1000).await).len() as u64;
    assert_eq!(placed.into_iter().sum::<u64>() + rest, WRITERS * TURNS);
    let size = tx!(store, tx => tx.get_log_size(community).await);
    assert_eq!(size, WRITERS * TURNS);
}

pub(super) async fn a_bound_holds_for_writers_that_each_see_room(store: &Datastore) {
    let (community, nl) = (&community(), &node("nl-fiu"));
    let opened = join_all((0..WRITERS).map(async |_| {
        let session = &probes::session();
        tx!(store, tx => {
            if tx.count_open_sessions(community, nl).await? >= 3 {
                return Ok(0);
            }
            tx.put_session(session).await?;
            Ok(1)
        })
    }))
    .await;
    assert_eq!(opened.into_iter().sum::<u64>(), 3);
    assert_eq!(
        tx!(store, tx => tx.count_open_sessions(community, nl).await),
        3
    );
}

pub(super) async fn what_two_writers_put_is_there_once(store: &Datastore) {
    let key = &key();
    for record_ref in 0..10 {
        let put = join_all((0..WRITERS).map(async |_| {
            let hit = &hits::hit(record_ref, "de-bka", HitState::New, NOW);
            tx!(store, tx => {
                let known = tx.get_hits_on(key, &hit.prober, &[hit.record_ref]).await?;
                if known.is_empty() {
                    tx.put_hits(from_ref(hit)).await?;
                }
                Ok(known.is_empty())
            })
        }))
        .await;
        assert_eq!(put.into_iter().filter(|&put| put).count(), 1);
    }
    let made = join_all(
        (0..WRITERS)
            .map(async |_| tx!(store, tx => tx.put_community(&community(), b"profile", NOW).await)),
    )
    .await;
    assert_eq!(made.into_iter().filter(|&made| made).count(), 1);
}
