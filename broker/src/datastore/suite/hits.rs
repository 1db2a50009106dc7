//! Hits, their events and counts.

use super::publications::{active, publication, put_publications};
use super::*;

pub(super) fn hit(
    record_ref: u8,
    holder: &str,
    state: HitState,
    first_seen: Timestamp,
) -> HitRecord {
    HitRecord {
        id: HitId::generate(first_seen, &mut os_rng()),
        key: key(),
        prober: node("nl-fiu"),
        record_ref: RecordRef::new([record_ref; 16]),
        holder: node(holder),
        state,
        filter_version: 4,
        fpr: 1e-9,
        posterior: 0.999,
        first_seen,
        last_seen: first_seen,
        unmatched_since: None,
        touched_at: first_seen,
    }
}

async fn put_hits(store: &Datastore, hits: &[HitRecord]) {
    tx!(store, tx => tx.put_hits(hits).await);
}

/// Two holders, two refs, three times.
fn some_hits() -> [HitRecord; 3] {
    let later = NOW.plus(Duration::from_secs(9));
    [
        hit(1, "de-bka", HitState::New, NOW),
        hit(1, "fr-pj", HitState::Confirmed, later),
        hit(
            2,
            "de-bka",
            HitState::New,
            later.plus(Duration::from_secs(1)),
        ),
    ]
}

pub(super) async fn hits_are_found_by_ref_and_id_and_change(store: &Datastore) {
    let hits = some_hits();
    put_hits(store, &hits).await;
    let (community, nl, key) = (&community(), &node("nl-fiu"), &key());
    let on = async |refs: &[u8]| {
        let refs: Vec<_> = refs.iter().map(|r| RecordRef::new([*r; 16])).collect();
        let refs = &refs;
        tx!(store, tx => tx.get_hits_on(key, nl, refs).await).len()
    };
    assert_eq!(on(&[]).await, 0);
    assert_eq!(on(&[1]).await, 2);
    assert_eq!(on(&[3, 2]).await, 1);

    let id = hits[0].id;
    let get = async |prober: &NodeId| {
        let known = tx!(store, tx => tx.get_hit(community, prober, id).await);
        known.map(|known| known.hit)
    };
    assert_eq!(get(nl).await.as_ref(), Some(&hits[0]));
    assert_eq!(get(&node("de-bka")).await, None);
    let changed = &HitRecord {
        state: HitState::Retracted,
        filter_version: 5,
        fpr: 2e-9,
        posterior: 0.5,
        last_seen: NOW.plus(Duration::from_secs(9)),
        unmatched_since: Some(NOW.plus(Duration::from_secs(10))),
        touched_at: NOW.plus(Duration::from_secs(9)),
        ..hits[0].clone()
    };
    // The other two become alike, and not as this one.
    let becomes = |hit: &HitRecord| HitRecord {
        state: HitState::Retracted,
        filter_version: 6,
        fpr: 3e-9,
        posterior: 0.25,
        last_seen: changed.last_seen,
        touched_at: changed.touched_at,
        ..hit.clone()
    };
    let all_three = &[changed.clone(), becomes(&hits[1]), becomes(&hits[2])];
    tx!(store, tx => tx.update_hits(all_three).await);
    assert_eq!(get(nl).await.as_ref(), Some(changed));
    let all = &HitFilter::default();
    let listed = tx!(store, tx => tx.get_hits(community, nl, all, None, 9).await);
    let listed: Vec<_> = listed.into_iter().map(|listed| listed.hit).collect();
    assert_eq!(listed, all_three);
}

pub(super) async fn hits_are_listed_by_filter_and_page(store: &Datastore) {
    let hits = some_hits();
    put_hits(store, &hits).await;
    let (community, nl) = (&community(), &node("nl-fiu"));
    let list = async |filter: HitFilter, after, limit| {
        let filter = &filter;
        let listed = tx!(store, tx => tx.get_hits(community, nl, filter, after, limit).await);
        listed
            .into_iter()
            .map(|listed| listed.hit.id)
            .collect::<Vec<_>>()
    };
    let ids = hits.each_ref().map(|hit| hit.id);
    let all = HitFilter::default();
    assert_eq!(list(all.clone(), None, 9).await, ids);
    assert_eq!(list(all.clone(), Some(ids[0]), 1).await, [ids[1]]);
    let filters = [
        (
            HitFilter {
                holder: Some(node("de-bka")),
                ..all.clone()
            },
            vec![ids[0], ids[2]],
        ),
        (
            HitFilter {
                state: Some(HitState::Confirmed),
                ..all.clone()
            },
            vec![ids[1]],
        ),
        (
            HitFilter {
                since: Some(hits[1].first_seen),
                ..all.clone()
            },
            ids[1..].to_vec(),
        ),
        (
            HitFilter {
                epoch: Some(number(2)),
                ..all.clone()
            },
            vec![],
        ),
        (
            HitFilter {
                policy: Some(Policy::Email),
                ..all
            },
            vec![],
        ),
    ];
    for (filter, expected) in filters {
        assert_eq!(list(filter.clone(), None, 9).await, expected, "{filter:?}");
    }
}

/// Labels that name this unit.
fn of_unit(unit: &str) -> FilterLabels {
    FilterLabels::new(unit, Some(HandlingCode::H3), "ask first").expect("labels")
}

pub(super) async fn a_hit_says_what_its_holder_says_of_the_version_that_matched_last(
    store: &Datastore,
) {
    let of_holder = |holder: &str, version, unit: &str| PublicationRecord {
        holder: node(holder),
        labels: of_unit(unit),
        ..publication(version, None)
    };
    // Announced with the same version: the first two never became active.
    let rows = [
        of_holder("de-bka", 4, "never active"),
        of_holder("de-bka", 4, "refused"),
        of_holder("de-bka", 4, "Team 4"),
        of_holder("de-bka", 5, "Team 5"),
        of_holder("fr-pj", 4, "Team of fr-pj"),
    ];
    put_publications(store, &rows).await;
    let refused = &rows[1].moved(PublicationState::Refused, 1).expect("a move");
    tx!(store, tx => tx.update_publication(refused).await);
    for (row, generation) in rows[2..].iter().zip(2..) {
        tx!(store, tx => tx.update_publication(&active(row, generation)).await);
    }
    let hits = [
        hit(1, "de-bka", HitState::New, NOW),
        hit(1, "fr-pj", HitState::New, NOW),
        hit(1, "se-noa", HitState::New, NOW),
    ];
    put_hits(store, &hits).await;
    let (community, nl, key) = (&community(), &node("nl-fiu"), &key());
    for hit in &hits {
        tx!(store, tx => tx.put_hit_events(community, nl, &[hit.id]).await);
    }
    // In every way in which hits are read, by holder: ids of one instant are in no order.
    let units = async || {
        let all = &HitFilter::default();
        let listed = tx!(store, tx => tx.get_hits(community, nl, all, None, 9).await);
        let events = tx!(store, tx => tx.get_hit_events(community, nl, 0, 9).await);
        let told: Vec<_> = events.into_iter().map(|event| event.hit).collect();
        let mut units = vec![];
        for hit in &hits {
            let got = tx!(store, tx => tx.get_hit(community, nl, hit.id).await);
            let got = got.expect("there");
            assert_eq!((listed.len(), told.len()), (hits.len(), hits.len()));
            assert!(listed.contains(&got) && told.contains(&got));
            units.push(got.labels.contact_unit().to_owned());
        }
        units
    };
    assert_eq!(units().await, ["Team 4", "Team of fr-pj", ""]);
    let again = &HitRecord {
        filter_version: 5,
        ..hits[0].clone()
    };
    tx!(store, tx => tx.update_hits(from_ref(again)).await);
    assert_eq!(units().await, ["Team 5", "Team of fr-pj", ""]);

    let of_version = async |holder: &str, version| {
        let holder = &node(holder);
        tx!(store, tx => tx.get_labels(key, holder, version).await)
    };
    assert_eq!(of_version("de-bka", 4).await, of_unit("Team 4"));
    assert_eq!(of_version("de-bka", 5).await, of_unit("Team 5"));
    assert_eq!(of_version("de-bka", 6).await, FilterLabels::default());
    assert_eq!(of_version("se-noa", 4).await, FilterLabels::default());
}

fn guard(prober: &str, day: i64) -> GuardKey {
    GuardKey {
        prober: node(prober),
        holder: node("de-bka"),
        policy: Policy::Phone,
        day,
    }
}

pub(super) async fn quarantined_hits_are_counted_and_never_listed(store: &Datastore) {
    let hits = [
        hit(1, "de-bka", HitState::New, NOW),
        hit(2, "de-bka", HitState::Quarantined, NOW),
        hit(
            3,
            "de-bka",
            HitState::Quarantined,
            NOW.plus(Duration::from_millis(2)),
        ),
    ];
    put_hits(store, &hits).await;
    let (community, nl, group) = (&community(), &node("nl-fiu"), &guard("nl-fiu", NOW.day()));
    let groups = tx!(store, tx => tx.count_quarantine(community).await);
    assert_eq!(groups, [(group.clone(), 2)]);
    let held = tx!(store, tx => tx.get_quarantined(community, group, 1).await);
    assert_eq!(held, hits[1..2]);
    let other_day = &guard("nl-fiu", NOW.day() + 1);
    assert_eq!(
        tx!(store, tx => tx.get_quarantined(community, other_day, 9).await),
        []
    );
    let all = &HitFilter::default();
    let listed = tx!(store, tx => tx.get_hits(community, nl, all, None, 9).await);
    let listed: Vec<_> = listed.into_iter().map(|listed| listed.hit).collect();
    assert_eq!(listed, hits[..1]);
}

pub(super) async fn hit_counts_are_those_of_the_holder(store: &Datastore) {
    let (community, de) = (&community(), &node("de-bka"));
    let on_day = |prober: &str, day: i64, record_ref, holder, state| HitRecord {
        prober: node(prober),
        ..hit(
            record_ref,
            holder,
            state,
            Timestamp::from_seconds(86_400 * day + 5),
        )
    };
    let known = async |prober: &str, day| {
        let prober = &node(prober);
        tx!(store, tx => tx.get_hit_counts(community, prober, Policy::Phone, day).await)
    };
    assert!(known("nl-fiu", 7).await.is_empty());
    let before = on_day("nl-fiu", 7, 1, "de-bka", HitState::New);
    put_hits(store, &[before]).await;
    put_hits(
        store,
        &[
            on_day("nl-fiu", 7, 2, "de-bka", HitState::New),
            on_day("nl-fiu", 7, 3, "de-bka", HitState::Quarantined),
            on_day("fr-pj", 8, 1, "de-bka", HitState::New),
            on_day("fr-pj", 8, 2, "de-bka", HitState::New),
            on_day("fr-pj", 8, 2, "nl-fiu", HitState::New),
        ],
    )
    .await;
    assert_eq!(known("nl-fiu", 7).await, [(de.clone(), 3)].into());
    let both = [(de.clone(), 2), (node("nl-fiu"), 1)];
    assert_eq!(known("fr-pj", 8).await, both.into());
    assert!(known("fr-pj", 7).await.is_empty());
    let counts = async |holder: &NodeId, from, before| tx!(store, tx => tx.get_holder_counts(community, holder, from, before).await);
    let (first, second) = ((guard("nl-fiu", 7), 3), (guard("fr-pj", 8), 2));
    assert_eq!(counts(de, 0, 9).await, [first.clone(), second.clone()]);
    assert_eq!(counts(de, 0, 8).await, [first]);
    assert_eq!(counts(de, 8, 9).await, [second]);
    assert_eq!(counts(&node("fr-pj"), 0, 9).await, []);
}

pub(super) async fn cursors_grow_by_one_for_each_prober(store: &Datastore) {
    let own = hit(1, "de-bka", HitState::New, NOW);
    let others = HitRecord {
        prober: node("fr-pj"),
        ..hit(1, "de-bka", HitState::New, NOW)
    };
    put_hits(store, &[own.clone(), others.clone()]).await;
    let (community, nl, fr) = (&community(), &node("nl-fiu"), &node("fr-pj"));
    assert_eq!(tx!(store, tx => tx.get_last_cursor(community, nl).await), 0);
    let again = hit(2, "de-bka", HitState::New, NOW);
    put_hits(store, from_ref(&again)).await;
    let put = async |prober: &NodeId, hits: &[HitId]| tx!(store, tx => tx.put_hit_events(community, prober, hits).await);
    assert_eq!(put(nl, &[own.id]).await, 1);
    assert_eq!(put(fr, &[others.id]).await, 1);
    assert_eq!(put(nl, &[again.id, own.id]).await, 3);
    assert_eq!(tx!(store, tx => tx.get_last_cursor(community, nl).await), 3);
    let after = async |cursor, limit| {
        let events = tx!(store, tx => tx.get_hit_events(community, nl, cursor, limit).await);
        events
            .into_iter()
            .map(|e| (e.cursor, e.hit.hit))
            .collect::<Vec<_>>()
    };
    let all = [(1, own.clone()), (2, again), (3, own.clone())];
    assert_eq!(after(0, 9).await, all);
    assert_eq!(after(1, 9).await, all[1..]);
    assert_eq!(after(0, 1).await, [(1, own)]);
    assert_eq!(after(3, 9).await, []);
}

pub(super) async fn refs_with_hits_are_listed_by_page_and_told_by_event(store: &Datastore) {
    let own = some_hits();
    let others = HitRecord {
        prober: node("fr-pj"),
        ..hit(7, "de-bka", HitState::New, NOW)
    };
    let held_back = hit(9, "de-bka", HitState::Quarantined, NOW);
    let elsewhere = HitRecord {
        key: StackKey {
            policy: Policy::Email,
            ..key()
        },
        ..hit(8, "de-bka", HitState::New, NOW)
    };
    put_hits(store, &own).await;
    put_hits(store, &[others.clone(), held_back, elsewhere.clone()]).await;
    let (community, nl, key) = (&community(), &node("nl-fiu"), &key());
    let of = |n: u8| RecordRef::new([n; 16]);
    let page =
        async |after, limit| tx!(store, tx => tx.get_refs_with_hits(key, nl, after, limit).await);
    assert_eq!(page(None, 9).await, [of(1), of(1), of(2), of(9)]);
    assert_eq!(page(None, 1).await, [of(1)]);
    assert_eq!(page(Some(of(1)), 1).await, [of(2)]);
    assert_eq!(page(Some(of(9)), 9).await, []);

    for hit in [&own[0], &others, &elsewhere, &own[2]] {
        tx!(store, tx => tx.put_hit_events(community, &hit.prober, &[hit.id]).await);
    }
    let told = async |cursor, last| {
        let mut refs = tx!(store, tx => tx.get_event_refs(community, nl, cursor, last).await);
        refs.sort();
        refs
    };
    assert_eq!(told(0, 3).await, [of(1), of(2), of(8)]);
    assert_eq!(told(1, 2).await, [of(8)]);
    assert_eq!(told(3, 3).await, []);
}

pub(super) async fn untouched_hits_are_those_that_can_expire_longest_untouched_first(
    store: &Datastore,
) {
    let after = |seconds| NOW.plus(Duration::from_secs(seconds));
    let touched = |record_ref, state, seconds| HitRecord {
        touched_at: after(seconds),
        ..hit(record_ref, "de-bka", state, NOW)
    };
    let open = [
        touched(1, HitState::New, 2),
        touched(2, HitState::UnderReview, 1),
        touched(3, HitState::New, 3),
    ];
    put_community(store).await;
    put_epoch(store, &epoch_record(1)).await;
    put_epoch(store, &epoch_record(2)).await;
    let (community, epoch) = (&community(), number(1));
    let open_epochs = async || {
        let epochs = tx!(store, tx => tx.get_epochs_with_open_hits().await);
        let named = epochs.into_iter().map(|(name, epoch)| (name, epoch.epoch));
        named.collect::<Vec<_>>()
    };
    let closed = HitState::ALL.iter().filter(|state| {
        let open = [HitState::New, HitState::UnderReview];
        !open.contains(state)
    });
    for (record_ref, &state) in (10..).zip(closed) {
        put_hits(store, &[touched(record_ref, state, 0)]).await;
    }
    assert_eq!(open_epochs().await, []);
    put_hits(store, &open).await;
    assert_eq!(open_epochs().await, [(community.clone(), epoch)]);
    let ended = (EpochState::Ended, NOW);
    tx!(store, tx => tx.update_epoch_state(community, epoch, ended.0, ended.1).await);
    assert_eq!(open_epochs().await, [(community.clone(), epoch)]);

    let untouched = async |epoch, before, limit| {
        let found = tx!(store, tx => tx.get_untouched_hits(community, epoch, before, limit).await);
        let refs = found.into_iter().map(|hit| hit.record_ref.as_bytes()[0]);
        refs.collect::<Vec<_>>()
    };
    assert_eq!(untouched(epoch, after(4), 9).await, [2, 1, 3]);
    assert_eq!(untouched(epoch, after(3), 9).await, [2, 1]);
    assert_eq!(untouched(epoch, after(4), 1).await, [2]);
    assert!(untouched(epoch, after(1), 9).await.is_empty());
    assert!(untouched(number(2), after(4), 9).await.is_empty());
}

pub(super) async fn feedback_is_kept_with_its_hit_in_order(store: &Datastore) {
    let hits = some_hits();
    put_hits(store, &hits).await;
    let feedback = |statement: u8, decision, seconds| FeedbackRecord {
        hit: hits[0].id,
        statement: [statement; 32],
        decision,
        envelope: vec![statement, 7],
        taken_at: NOW.plus(Duration::from_secs(seconds)),
    };
    let given = [
        feedback(9, HitDecision::BeginReview, 1),
        feedback(3, HitDecision::NotRelevant, 2),
    ];
    for feedback in given.iter().rev() {
        tx!(store, tx => tx.put_feedback(feedback).await);
    }
    let kept = async |hit| tx!(store, tx => tx.get_feedback(hit).await);
    assert_eq!(kept(hits[0].id).await, given);
    assert_eq!(kept(hits[1].id).await, []);
}

pub(super) async fn statistics_count_hits_by_pair_policy_epoch_and_version(store: &Datastore) {
    let later = NOW.plus(Duration::from_secs(9));
    for (record_ref, &state) in (0..).zip(HitState::ALL) {
        let fpr = if state == HitState::New { 1e-9 } else { 2e-9 };
        let counted = HitRecord {
            fpr,
            ..hit(record_ref, "de-bka", state, NOW)
        };
        let other = HitRecord {
            filter_version: 5,
            ..hit(record_ref, "fr-pj", state, later)
        };
        put_hits(store, &[other, counted]).await;
    }
    let community = &community();
    let rows =
        async |since, limit| tx!(store, tx => tx.get_hit_statistics(community, since, limit).await);
    let of = |holder: &str, filter_version, mean_fpr| HitStatistic {
        prober: node("nl-fiu"),
        holder: node(holder),
        policy: Policy::Phone,
        epoch: number(1),
        filter_version,
        hits: 9,
        confirmed: 4,
        false_positives: 1,
        retracted: 1,
        expired: 1,
        mean_fpr,
    };
    let all = rows(None, 9).await;
    let mean = all[0].mean_fpr;
    assert!((mean - 17e-9 / 9.0).abs() < 1e-20, "{mean}");
    let other = of("fr-pj", 5, all[1].mean_fpr);
    assert_eq!(all, [of("de-bka", 4, mean), other.clone()]);
    assert_eq!(rows(None, 1).await, [of("de-bka", 4, mean)]);
    assert_eq!(rows(Some(later), 9).await, [other]);
    let too_late = later.plus(Duration::from_micros(1));
    assert_eq!(rows(Some(too_late), 9).await, []);
}
