//! Sessions, recorded answers, quota.

use sotto_common::ids::EntryId;

use super::*;

pub(super) fn session() -> SessionRecord {
    let (purpose, basis) = (Purpose::Detection, LegalBasis::NationalLaw);
    SessionRecord {
        id: SessionId::generate(NOW, &mut os_rng()),
        key: key(),
        prober: node("nl-fiu"),
        commitment: Some([1; 32]),
        opening: [2; 32],
        grounds: Grounds::new(Some(purpose), Some(basis), "Art. 3", "case-7").expect("grounds"),
        batches: 0,
        refs: 0,
        opened_at: NOW,
        closed: false,
    }
}

/// A session of another policy.
fn by_mail() -> SessionRecord {
    SessionRecord {
        key: StackKey {
            policy: Policy::Email,
            ..key()
        },
        ..session()
    }
}

const fn day(day: i64) -> Timestamp {
    Timestamp::from_seconds(86_400 * day + 5)
}

fn batch(session: &SessionRecord, number: u32) -> BatchRecord {
    BatchRecord {
        session: session.id,
        number,
        tags_digest: [3; 32],
        matches: vec![8, 9],
        entry: None,
    }
}

pub(super) async fn sessions_count_their_batches_and_forget_when_closed(store: &Datastore) {
    let (community, nl, session) = (&community(), &node("nl-fiu"), &session());
    let get = async || tx!(store, tx => tx.get_session(session.id).await);
    let standing = async |n| tx!(store, tx => tx.get_batch_standing(session.id, n, 0).await);
    let recorded = async |n| standing(n).await.expect("a session").recorded;
    assert!(get().await.is_none() && standing(4).await.is_none());
    put_community(store).await;
    put_epoch(store, &epoch_record(1)).await;
    tx!(store, tx => tx.put_session(session).await);
    assert_eq!(get().await.expect("there").grounds, session.grounds);
    assert_eq!(
        tx!(store, tx => tx.count_open_sessions(community, nl).await),
        1
    );
    assert_eq!(tx!(store, tx => tx.get_last_batch(session.id).await), None);

    let later = NOW.plus(Duration::from_hours(1));
    let entry = EntryId::generate(NOW, &mut os_rng());
    for (number, entry) in [(4, Some(entry)), (2, None)] {
        let batch = &BatchRecord {
            entry,
            ..batch(session, number)
        };
        tx!(store, tx => tx.put_batch(batch, 10, later).await);
    }
    let batch = recorded(4).await.expect("there");
    assert_eq!(
        (batch.number, batch.tags_digest, batch.matches),
        (4, [3; 32], vec![8, 9])
    );
    assert_eq!(batch.entry, Some(entry));
    assert_eq!(recorded(2).await.expect("there").entry, None);
    assert!(recorded(3).await.is_none());
    assert_eq!(
        tx!(store, tx => tx.get_last_batch(session.id).await),
        Some(4)
    );
    let record = get().await.expect("there");
    assert_eq!((record.batches, record.refs), (2, 20));
    assert_eq!(
        (record.commitment, record.opening),
        (Some([1; 32]), [2; 32])
    );

    assert_eq!(tx!(store, tx => tx.get_idle_sessions(later).await), []);
    let after = later.plus(Duration::from_secs(1));
    assert_eq!(
        tx!(store, tx => tx.get_idle_sessions(after).await),
        [session.id]
    );
    tx!(store, tx => tx.update_session_closed(session.id, after).await);
    let record = get().await.expect("there");
    assert!(record.closed && record.commitment.is_none());
    assert!(recorded(4).await.is_none());
    assert_eq!(
        tx!(store, tx => tx.count_open_sessions(community, nl).await),
        0
    );
    assert_eq!(tx!(store, tx => tx.get_idle_sessions(after).await), []);
}

pub(super) async fn a_batch_stands_as_its_session_node_epoch_and_quota_do(store: &Datastore) {
    let (community, nl, session) = (&community(), &node("nl-fiu"), &session());
    put_community(store).await;
    put_epoch(store, &epoch_record(1)).await;
    tx!(store, tx => tx.put_session(session).await);
    let standing = async |day| {
        let standing = tx!(store, tx => tx.get_batch_standing(session.id, 1, day).await);
        standing.expect("a session")
    };
    let stands = standing(7).await;
    assert_eq!(stands.session.grounds, session.grounds);
    assert!(!stands.is_enrolled && stands.recorded.is_none());
    assert_eq!(stands.epoch.state, EpochState::Open);
    let times = (stands.epoch.not_before, stands.epoch.not_after);
    assert_eq!(
        times,
        (epoch_record(1).not_before, epoch_record(1).not_after)
    );
    let defaults = Limits::default().daily_refs;
    assert_eq!((stands.used_refs, stands.daily_refs), (0, defaults));
    assert_eq!(stands.hit_cursor, 0);

    let limits = Limits {
        daily_refs: 20,
        max_class: 1,
    };
    let hit = &hits::hit(1, "de-bka", HitState::New, NOW);
    let by_mail = &by_mail();
    tx!(store, tx => {
        tx.put_node(community, nl, NOW).await?;
        tx.update_epoch_state(community, number(1), EpochState::Active, NOW).await?;
        tx.put_limits(community, nl, Policy::Phone, limits).await?;
        tx.put_limits(community, nl, Policy::Email, Limits::default()).await?;
        tx.put_session(by_mail).await?;
        tx.put_batch(&batch(session, 9), 5, day(7)).await?;
        tx.put_batch(&batch(by_mail, 1), 6, day(7)).await?;
        tx.put_hits(from_ref(hit)).await?;
        tx.put_hit_events(community, nl, &[hit.id]).await
    });
    let stands = standing(7).await;
    assert!(stands.is_enrolled);
    assert_eq!(stands.epoch.state, EpochState::Active);
    assert_eq!((stands.used_refs, stands.daily_refs), (5, 20));
    assert_eq!(stands.hit_cursor, 1);
    assert_eq!(standing(8).await.used_refs, 0);
    tx!(store, tx => tx.update_suspension(community, nl, "why").await);
    assert!(!standing(7).await.is_enrolled);
}

pub(super) async fn the_session_unused_for_longest_is_the_probers_own_and_open(store: &Datastore) {
    let (community, nl) = (&community(), &node("nl-fiu"));
    let longest = async || tx!(store, tx => tx.get_longest_unused_session(community, nl).await);
    assert_eq!(longest().await, None);
    let hour = |n| NOW.plus(Duration::from_hours(n));
    let [first, second] = [1, 2].map(|n| SessionRecord {
        opened_at: hour(n),
        ..session()
    });
    let others = SessionRecord {
        prober: node("de-bka"),
        ..session()
    };
    for session in [&second, &first, &others] {
        tx!(store, tx => tx.put_session(session).await);
    }
    assert_eq!(longest().await, Some(first.id));
    let used = &batch(&first, 0);
    tx!(store, tx => tx.put_batch(used, 1, hour(3)).await);
    assert_eq!(longest().await, Some(second.id));
    tx!(store, tx => tx.update_session_closed(second.id, hour(3)).await);
    assert_eq!(longest().await, Some(first.id));
    // The second never had a batch, and is forgotten; the first is kept closed.
    let get = async |id| tx!(store, tx => tx.get_session(id).await);
    assert!(get(second.id).await.is_none());
    tx!(store, tx => tx.update_session_closed(first.id, hour(4)).await);
    assert!(get(first.id).await.expect("kept").closed);
}

pub(super) async fn quota_use_is_kept_by_day(store: &Datastore) {
    let (community, nl) = (&community(), &node("nl-fiu"));
    let used =
        async |policy, day| tx!(store, tx => tx.get_quota_use(community, nl, policy, day).await);
    assert_eq!(used(Policy::Phone, 7).await, 0);
    let (session, by_mail) = (&session(), &by_mail());
    tx!(store, tx => {
        tx.put_session(session).await?;
        tx.put_session(by_mail).await?;
        for (number, on, refs) in [(0, 7, 5), (1, 7, 4), (2, 8, 1)] {
            tx.put_batch(&batch(session, number), refs, day(on)).await?;
        }
        tx.put_batch(&batch(by_mail, 0), 2, day(7)).await
    });
    assert_eq!(
        (used(Policy::Phone, 7).await, used(Policy::Phone, 8).await),
        (9, 1)
    );
    assert_eq!(used(Policy::Email, 7).await, 2);
    tx!(store, tx => tx.delete_quota_use(8).await);
    assert_eq!(
        (used(Policy::Phone, 7).await, used(Policy::Phone, 8).await),
        (0, 1)
    );
}
