//! Several brokers on one ledger and one object store: processes of their own, each with a folder
//! and a port of its own.

mod backups;
mod soak;
mod uploads;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use sotto_common::ids::PublicationId;
use sotto_common::membership::Profile;
use sotto_common::secret::Selector;
use sotto_common::selector::Policy::{self, Email, Phone};
use sotto_proto::v1;
use sotto_tests::cluster::Objects;
use sotto_tests::probe::{Pair, Probe, all_at};
use sotto_tests::refusal::{is_passing, outlast, pause};
use sotto_tests::sandbox::{NEVER, profile};
use sotto_tests::{BrokerProcess, Cluster, TestNode, emails, matched, phones};
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

const ROUNDS: u32 = 12;

/// Three brokers, and two nodes that go through the balancer.
async fn three(profile: Profile) -> Option<(Cluster, [TestNode; 2])> {
    Cluster::with_nodes(3, Objects::Folder, profile, ["nl-fiu", "de-bka"]).await
}

/// Publishes a base of these values; a broker may lose its place meanwhile on a busy machine.
async fn publish(de: &TestNode, values: &[Selector]) -> PublicationId {
    let draft = de.draft(Phone, values).await;
    de.publish_through(&draft).await;
    draft.id()
}

/// As [`publish`], a supplement to the base of this version.
async fn supplement(de: &TestNode, base: u64, values: &[Selector]) -> PublicationId {
    let draft = de.draft(Phone, values).await.supplementing(base);
    de.publish_through(&draft).await;
    draft.id()
}

async fn withdraw(de: &TestNode, id: PublicationId) {
    outlast(async || de.withdraw(id).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_broker_acknowledges_holds_at_each_other_one_at_once() {
    let Some((cluster, [nl, de])) = three(profile()).await else {
        return;
    };
    let (nl, de) = (cluster.direct(&nl), cluster.direct(&de));
    let mut version = 0;
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let at = round as usize % 3;
        let (base, added) = (round * 20, round * 20 + 10);
        let asked = phones(base..base + 20);
        let everywhere = async |expected| {
            let finds = nl.iter().map(|nl| nl.find_through(Phone, &asked));
            for found in join_all(finds).await {
                assert_eq!(found, expected, "round {round}");
            }
        };
        let begun = Instant::now();
        // Replaces the stack of the round before, where that was not withdrawn.
        let first = publish(&de[at], &phones(base..added)).await;
        slowest = slowest.max(begun.elapsed());
        everywhere(all_at("de-bka", &phones(base..added))).await;
        version += 1;
        let other = &de[(at + 1) % 3];
        let values = phones(added..base + 20);
        let second = supplement(other, version, &values).await;
        version += 1;
        everywhere(all_at("de-bka", &asked)).await;
        withdraw(&de[(at + 2) % 3], second).await;
        everywhere(all_at("de-bka", &phones(base..added))).await;
        if round % 2 == 0 {
            withdraw(other, first).await;
            everywhere(BTreeSet::new()).await;
        }
    }
    println!("{ROUNDS} rounds; slowest publication {slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prober_gains_nothing_by_probing_through_all_brokers_at_once() {
    let mut capped = profile();
    capped.hit_cap = 50;
    let Some((cluster, [nl, de])) = three(capped).await else {
        return;
    };
    let operator = cluster.operator();
    operator
        .set_limits(&nl, Some(1000), None)
        .await
        .expect("set");
    publish(&de, &phones(0..300)).await;
    let nls = cluster.direct(&nl);

    // The same refs through all of them: unique hits, and those of one holder up to the cap.
    let pairs = nl.pairs(Phone, &phones(0..300));
    let answers = join_all(nls.iter().map(|nl| probe_all(nl, Phone, &pairs))).await;
    let mut ids = BTreeMap::new();
    for (refused, hits) in answers {
        assert_eq!(refused, 0);
        for (record_ref, id) in hits {
            assert_eq!(*ids.entry(record_ref).or_insert_with(|| id.clone()), id);
        }
    }
    let listed = nl.hits().await.expect("listed");
    let refs: BTreeSet<_> = listed.iter().map(|hit| hit.record_ref.to_vec()).collect();
    assert_eq!((listed.len(), refs.len()), (50, 50));
    assert_eq!(refs, ids.into_keys().collect());
    let groups = operator.quarantine().await.expect("listed");
    let held_back: Vec<_> = groups.iter().map(|group| group.hits).collect();
    assert_eq!(held_back, [250]);

    // Other refs through each: 1000 of 1200 are answered.
    let parts = [0..400, 400..800, 800..1200].map(|part| nl.pairs(Email, &emails(part)));
    let probing = nls.iter().zip(&parts);
    let answers = join_all(probing.map(|(nl, pairs)| probe_all(nl, Email, pairs))).await;
    let refused: usize = answers.iter().map(|(refused, _)| refused).sum();
    assert_eq!(refused, 20);
    for row in nl.limits().await.expect("listed") {
        let expected = if row.policy == Phone.name() {
            900
        } else {
            1000
        };
        assert_eq!(row.used_today, expected, "{}", row.policy);
    }
}

/// Probes all pairs, ten a batch; returns how many batches the quota refused, and each matching
/// ref with the id of its hit.
async fn probe_all(
    nl: &TestNode,
    policy: Policy,
    pairs: &[Pair],
) -> (usize, Vec<(Vec<u8>, Vec<u8>)>) {
    let opening = nl.opening(policy);
    let open = async || outlast(async || nl.open(opening.clone()).await).await;
    let mut probe = open().await;
    let (mut refused, mut hits) = (0, vec![]);
    for (number, batch) in (0..).zip(pairs.chunks(10)) {
        // A batch that is refused leaves no gap.
        let number = number - u32::try_from(refused).expect("few");
        loop {
            match probe.batch(number, batch).await {
                Ok(answer) => {
                    let found = matched(&answer);
                    hits.extend(found.map(|(at, hit)| (at.to_vec(), hit.hit_id.to_vec())));
                    break;
                }
                Err(status) if is_quota(&status) => {
                    refused += 1;
                    probe = open().await;
                    break;
                }
                Err(status) => {
                    pause(&status).await;
                    probe = open().await;
                }
            }
        }
    }
    (refused, hits)
}

fn is_quota(status: &Status) -> bool {
    let details = status.get_error_details();
    status.code() == Code::ResourceExhausted && details.quota_failure().is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_stream_hears_of_hits_made_at_other_brokers_and_resumes_at_any() {
    let Some((cluster, [nl, de])) = three(profile()).await else {
        return;
    };
    publish(&de, &phones(0..200)).await;
    let nl = cluster.direct(&nl);
    let mut stream = nl[0].watch(0).await.expect("open");
    let mut took = vec![];
    for round in 0..8u32 {
        let nl = &nl[1 + round as usize % 2];
        let values = phones(round * 10..round * 10 + 10);
        nl.find_through(Phone, &values).await;
        let answered = Instant::now();
        for event in 1..=10 {
            assert_eq!(
                next_cursor(&mut stream).await,
                u64::from(round) * 10 + event
            );
        }
        took.push(answered.elapsed());
    }
    println!("from the answer at one broker to the stream of another: {took:?}");

    drop(stream);
    let mut stream = nl[2].watch(35).await.expect("open");
    for cursor in 36..=80 {
        assert_eq!(next_cursor(&mut stream).await, cursor);
    }
    nl[1].find_through(Phone, &phones(80..90)).await;
    for cursor in 81..=90 {
        assert_eq!(next_cursor(&mut stream).await, cursor);
    }
}

async fn next_cursor(stream: &mut Streaming<v1::WatchHitsResponse>) -> u64 {
    let event = tokio::time::timeout(NEVER, stream.message()).await;
    let event = event.expect("in time").expect("open").expect("an event");
    event.cursor
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stood_still_past_its_lease_reports_nothing_withdrawn_and_joins_again() {
    let Some((cluster, [nl, de])) = three(profile()).await else {
        return;
    };
    let published = publish(&de, &phones(0..100)).await;
    let (nls, des) = (cluster.direct(&nl), cluster.direct(&de));
    let frozen = &cluster.replicas[2];
    let sessions = join_all([0, 10, 20, 30].map(|first| session_at(frozen, &nl, first))).await;
    frozen.freeze();
    let begun = Instant::now();
    // Under way through the withdrawal: on sessions that are open, and on a connection to be made.
    let old = sessions
        .into_iter()
        .map(|(mut probe, batch)| tokio::spawn(async move { probe.batch(1, &batch).await }));
    let nl = frozen.reached_by(&nl);
    let new = tokio::spawn(async move { nl.ask(Phone, &phones(40..50)).await });
    let asking: Vec<_> = old.chain([new]).collect();
    let withdrawn = tokio::time::timeout(NEVER, withdraw(&des[1], published)).await;
    withdrawn.expect("in time");
    let took = begun.elapsed();
    println!("withdrawn past a broker that stands still: {took:?}");
    let found = nls[0].find_through(Phone, &phones(0..100)).await;
    assert_eq!(found, BTreeSet::new());

    frozen.thaw();
    for answer in join_all(asking).await {
        match answer.expect("no panic") {
            Ok(answer) => assert_eq!(matched(&answer).count(), 0),
            Err(status) => {
                println!("what was under way: {}", status.message());
                pause(&status).await;
            }
        }
    }
    // It joins by itself: then it answers, and is waited for again.
    let ask = async || nls[2].ask(Phone, &phones(50..60)).await;
    let begun = Instant::now();
    let answer = outlast(ask).await;
    println!("answers again {:?} after it went on", begun.elapsed());
    assert_eq!(matched(&answer).count(), 0);
    assert_eq!(nls[0].hits().await.expect("listed").len(), 4);
    publish(&des[0], &phones(0..100)).await;
    let found = nls[2].find_through(Phone, &phones(90..100)).await;
    assert_eq!(found, all_at("de-bka", &phones(90..100)));
    // What it says comes through a pipe.
    let said = async {
        while joined(frozen) < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(NEVER, said).await;
    let log = String::from_utf8_lossy(&frozen.log()).into_owned();
    assert!(in_time.is_ok(), "{log}");
}

/// How often a broker has said that it has joined the others.
fn joined(broker: &BrokerProcess) -> usize {
    let log = broker.log();
    String::from_utf8_lossy(&log)
        .matches("joined the brokers")
        .count()
}

/// A session on a connection of its own, with a hit at the first of ten pairs; it goes on with all.
async fn session_at(broker: &BrokerProcess, nl: &TestNode, first: u32) -> (Probe, Vec<Pair>) {
    let nl = broker.reached_by(nl);
    let pairs = nl.pairs(Phone, &phones(first..first + 10));
    let mut probe = nl.open(nl.opening(Phone)).await.expect("open");
    let answer = probe.batch(0, &pairs[..1]).await.expect("answered");
    assert_eq!(matched(&answer).count(), 1);
    (probe, pairs)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_database_is_unavailable_at_every_broker_and_all_go_on_after_it() {
    let names = ["nl-fiu", "de-bka"];
    let started = Cluster::with_nodes(2, Objects::Folder, profile(), names).await;
    let Some((cluster, [nl, de])) = started else {
        return;
    };
    let (nl, de) = (cluster.direct(&nl), cluster.direct(&de));
    let withdrawn = publish(&de[0], &phones(0..5)).await;
    let crashed = Instant::now();
    cluster.server.crash();
    // Longer than a lease: nobody could renew one meanwhile.
    while crashed.elapsed() < Duration::from_secs(12) {
        for nl in &nl {
            let refused = nl.ask(Phone, &phones(0..5)).await.expect_err("away");
            assert!(is_passing(&refused), "{refused:?}");
        }
        // The machine has other tests to run.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.server.launch();

    withdraw(&de[1], withdrawn).await;
    for nl in &nl {
        let found = nl.find_through(Phone, &phones(0..9)).await;
        assert!(found.is_empty());
    }
    publish(&de[1], &phones(0..9)).await;
    for nl in &nl {
        let found = nl.find_through(Phone, &phones(0..9)).await;
        assert_eq!(found, all_at("de-bka", &phones(0..9)));
    }
}
