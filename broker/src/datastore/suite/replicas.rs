//! Brokers on one ledger, generations, leases.

use super::*;

const LEASE: Duration = Duration::from_mins(1);

pub(super) fn replica() -> ReplicaId {
    ReplicaId::generate(NOW, &mut os_rng())
}

async fn replicas(store: &Datastore) -> Vec<ReplicaRecord> {
    tx!(store, tx => tx.get_replicas(LEASE).await)
}

pub(super) async fn a_lease_runs_out_by_the_clock_of_the_ledger(store: &Datastore) {
    let (kept, lost) = (replica(), replica());
    assert!(replicas(store).await.is_empty());
    tx!(store, tx => tx.put_replica(kept, 3, LEASE).await);
    tx!(store, tx => tx.put_replica(lost, 4, Duration::ZERO).await);
    let of = |replicas: &[ReplicaRecord], id| {
        let found = replicas.iter().find(|replica| replica.id == id);
        found.map(|replica| (replica.generation, replica.live))
    };
    let known = replicas(store).await;
    assert_eq!(
        (of(&known, kept), of(&known, lost)),
        (Some((3, true)), Some((4, false)))
    );

    assert!(tx!(store, tx => tx.update_lease(lost, 5, LEASE).await));
    // Longer than any that is given: the clock was set back since.
    assert!(tx!(store, tx => tx.update_lease(kept, 6, 2 * LEASE).await));
    let known = replicas(store).await;
    assert_eq!(
        (of(&known, kept), of(&known, lost)),
        (Some((6, false)), Some((5, true)))
    );

    tx!(store, tx => tx.delete_replica(lost).await);
    assert!(!tx!(store, tx => tx.update_lease(lost, 7, LEASE).await));
    assert_eq!(of(&replicas(store).await, lost), None);
    tx!(store, tx => tx.delete_replica(lost).await);
}

pub(super) async fn generations_count_up(store: &Datastore) {
    let generation = async || tx!(store, tx => tx.get_generation().await);
    assert_eq!(generation().await, 0);
    for next in [1, 2] {
        assert_eq!(tx!(store, tx => tx.update_generation().await), next);
        assert_eq!(generation().await, next);
    }
}

pub(super) async fn a_job_is_one_brokers_until_its_lease_runs_out_or_it_is_removed(
    store: &Datastore,
) {
    let (one, other) = (replica(), replica());
    for id in [one, other] {
        tx!(store, tx => tx.put_replica(id, 0, LEASE).await);
    }
    let take = async |name, id, lease| tx!(store, tx => tx.update_job(name, id, lease).await);
    assert!(take("epochs", one, LEASE).await);
    assert!(!take("epochs", other, LEASE).await);
    assert!(take("sessions", other, LEASE).await, "each job has its own");
    assert!(take("epochs", one, Duration::ZERO).await, "renewed");
    assert!(take("epochs", other, LEASE).await, "run out");
    assert!(!take("epochs", one, LEASE).await);
    tx!(store, tx => tx.delete_replica(other).await);
    assert!(take("epochs", one, LEASE).await, "removed");
    // A lease of a clock that was set back holds nobody up.
    assert!(take("epochs", one, 9 * LEASE).await);
    let third = replica();
    tx!(store, tx => tx.put_replica(third, 0, LEASE).await);
    assert!(take("epochs", third, LEASE).await);
}
