//! Communities, nodes, limits, epochs.

use super::*;

pub(super) async fn communities_keep_their_profile_and_custodians(store: &Datastore) {
    put_community(store).await;
    let again = tx!(store, tx => tx.put_community(&community(), b"other", NOW).await);
    assert!(!again);
    let all = tx!(store, tx => tx.get_communities().await);
    assert_eq!(all, [community()]);
    let profile = async || tx!(store, tx => tx.get_profile(&community()).await);
    assert_eq!(profile().await.expect("there"), b"profile");
    tx!(store, tx => tx.update_profile(&community(), b"newer").await);
    assert_eq!(profile().await.expect("there"), b"newer");

    for custodians in [&[node("nl-fiu"), node("de-bka")][..], &[node("fr-pj")]] {
        tx!(store, tx => tx.put_custodians(&community(), custodians).await);
        let mut sorted = custodians.to_vec();
        sorted.sort();
        let listed = tx!(store, tx => tx.get_custodians(&community()).await);
        assert_eq!(listed, sorted);
    }
}

pub(super) async fn nodes_keep_their_statement_until_they_are_enrolled_anew(store: &Datastore) {
    put_community(store).await;
    let (community, nl) = (&community(), &node("nl-fiu"));
    let get = async || tx!(store, tx => tx.get_node(community, nl).await);
    assert!(get().await.is_none());
    for name in ["nl-fiu", "de-bka"] {
        tx!(store, tx => tx.put_node(community, &node(name), NOW).await);
    }
    tx!(store, tx => tx.update_statement(community, nl, b"signed", &[9; 32]).await);
    tx!(store, tx => tx.update_suspension(community, nl, "left").await);
    let record = get().await.expect("there");
    assert_eq!(record.enrolled_at, NOW);
    assert_eq!(record.suspended.as_deref(), Some("left"));
    assert_eq!(record.statement.as_deref(), Some(&b"signed"[..]));
    assert_eq!(record.signing_key, Some([9; 32]));
    let all = tx!(store, tx => tx.get_nodes(community).await);
    let names: Vec<_> = all.iter().map(|record| record.node.as_str()).collect();
    assert_eq!(names, ["de-bka", "nl-fiu"]);

    tx!(store, tx => tx.put_node(community, nl, NOW).await);
    let record = get().await.expect("there");
    assert!(record.suspended.is_none() && record.statement.is_none());
    assert_eq!(record.signing_key, None);
}

pub(super) async fn limits_have_defaults_and_are_kept_per_policy(store: &Datastore) {
    let (community, nl) = (&community(), &node("nl-fiu"));
    let get = async |policy| tx!(store, tx => tx.get_limits(community, nl, policy).await);
    assert_eq!(get(Policy::Phone).await, Limits::default());
    for daily_refs in [0, 50_000] {
        let limits = Limits {
            daily_refs,
            max_class: 60,
        };
        tx!(store, tx => tx.put_limits(community, nl, Policy::Phone, limits).await);
        assert_eq!(get(Policy::Phone).await, limits);
    }
    assert_eq!(get(Policy::Email).await, Limits::default());
}

pub(super) async fn epochs_keep_their_members_confirmations_and_state(store: &Datastore) {
    put_community(store).await;
    let community = &community();
    for epoch in [1, 2] {
        put_epoch(store, &epoch_record(epoch)).await;
    }
    let epochs = tx!(store, tx => tx.get_epochs(community).await);
    let numbers: Vec<_> = epochs.iter().map(|record| record.epoch.get()).collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(epochs[1].manifest, [1, 2]);
    assert_eq!(
        (epochs[0].kid, epochs[0].not_before),
        (Kid::new([7; 8]), NOW)
    );

    let nl = &node("nl-fiu");
    tx!(store, tx => tx.update_confirmation(community, number(1), nl, b"signed").await);
    let members = tx!(store, tx => tx.get_members(community, number(1)).await);
    let confirmed: Vec<_> = members
        .iter()
        .map(|m| (m.node.as_str(), m.confirmed))
        .collect();
    assert_eq!(confirmed, [("de-bka", false), ("nl-fiu", true)]);
    let ended = EpochState::Ended;
    tx!(store, tx => tx.update_epoch_state(community, number(1), ended, NOW).await);
    let record = tx!(store, tx => tx.get_epoch(community, number(1)).await);
    assert_eq!(record.expect("there").state, ended);
    assert!(tx!(store, tx => tx.get_epoch(community, number(3)).await).is_none());
}

pub(super) async fn epochs_are_overdue_at_their_end_or_a_day_beside_the_next(store: &Datastore) {
    put_community(store).await;
    let hours = |h| NOW.plus(Duration::from_hours(h));
    let overdue = async |at| {
        let epochs = tx!(store, tx => tx.get_overdue_epochs(at).await);
        epochs
            .iter()
            .map(|(_, epoch)| epoch.get())
            .collect::<Vec<_>>()
    };
    put_epoch(store, &epoch_record(1)).await;
    assert!(overdue(hours(719)).await.is_empty());
    assert_eq!(overdue(hours(720)).await, [1]);
    // The next one is activated at hour 10, ahead of its time, which comes at hour 100.
    let next = EpochRecord {
        not_before: hours(100),
        not_after: hours(800),
        ..epoch_record(2)
    };
    put_epoch(store, &next).await;
    assert!(overdue(hours(300)).await.is_empty(), "it is not active");
    let active = EpochState::Active;
    tx!(store, tx => tx.update_epoch_state(&community(), number(2), active, hours(10)).await);
    assert!(overdue(hours(123)).await.is_empty());
    assert_eq!(overdue(hours(124)).await, [1]);
    let ended = EpochState::Ended;
    tx!(store, tx => tx.update_epoch_state(&community(), number(1), ended, hours(124)).await);
    assert!(overdue(hours(124)).await.is_empty());
}

pub(super) async fn acts_of_operators_are_recorded(store: &Datastore) {
    let act = &Act {
        at: NOW,
        operator: "ops",
        community: &community(),
        what: "suspend",
        subject: "nl-fiu",
        reason: "left",
    };
    tx!(store, tx => tx.put_act(act).await);
}
