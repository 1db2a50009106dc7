//! Load through the balancer while brokers are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rand::RngExt as _;
use rand::rngs::StdRng;
use sotto_common::filter::Class;
use sotto_common::ids::PublicationId;
use sotto_common::secret::Selector;
use sotto_common::selector::Policy::{Email, Phone};
use sotto_tests::cluster::Objects;
use sotto_tests::ledger::log_key_file;
use sotto_tests::node::canary_tags;
use sotto_tests::probe::Probe;
use sotto_tests::refusal::{outlast, pause};
use sotto_tests::sandbox::{NEVER, profile};
use sotto_tests::{BrokerProcess, Cluster, Draft, TestNode, audit, emails, matched, phones, seed};
use tokio::time::Instant;

use super::is_quota;

/// Sets how many seconds the load lasts.
const SECONDS: &str = "SOTTO_SOAK_SECONDS";
/// Refs in a batch.
const BATCH: u32 = 20;
/// Addresses to ask for; the holder has every tenth.
const ADDRESSES: u32 = 60_000;
/// What the one prober may ask for whose quota is to run out.
const SMALL_QUOTA: u64 = 1010;
/// Between two batches of a prober: the machine has other tests to run.
const THINK: Duration = Duration::from_millis(40);

fn lasts() -> Duration {
    let given = std::env::var(SECONDS).ok();
    Duration::from_secs(given.map_or(120, |text| text.parse().expect("seconds")))
}

/// What was acknowledged to a prober.
#[derive(Default)]
struct Tally {
    refs: u64,
    sessions: u32,
    resumed: u32,
    exhausted: bool,
    /// The hit's id by record ref and holder.
    hits: BTreeMap<(Vec<u8>, String), Vec<u8>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_counted_twice_while_brokers_are_killed_under_load() {
    sotto_tests::day::with_room_for(lasts()).await;
    let mut rng = seed::rng();
    let mut open = profile();
    open.hit_cap = 1_000_000;
    let names = ["nl-fiu", "be-fgp", "at-bk", "it-gdf", "de-bka", "fr-pj"];
    let started = Cluster::with_nodes(3, Objects::Folder, open, names).await;
    let Some((mut cluster, nodes)) = started else {
        return;
    };
    let [nl, be, at, seeker, de, fr] = &nodes;
    let quotas = [
        (nl, 90_000),
        (be, 90_000),
        (at, SMALL_QUOTA),
        (seeker, 90_000),
    ];
    for (node, quota) in quotas {
        let operator = cluster.operator();
        let set = operator.set_limits(node, Some(quota), None).await;
        set.expect("set");
    }
    let held: Vec<_> = emails(0..ADDRESSES).into_iter().step_by(10).collect();
    de.publish(Email, &held).await;

    let (streams, watchers): (Vec<_>, Vec<_>) = [nl, be, at, seeker]
        .map(|node| (cluster.balanced(node), Mutex::new(Seen::default())))
        .into_iter()
        .unzip();
    let over = &AtomicBool::new(false);
    let watching = join_all(
        streams
            .iter()
            .zip(&watchers)
            .map(|(node, seen)| watch(node, seen)),
    );
    let probing = join_all([nl, be, at].map(|node| probe(node, over)));
    let load = async {
        let publishing = publish(fr, seeker, over);
        let killing = kill(&mut cluster.replicas, over, &mut rng);
        tokio::join!(probing, publishing, killing)
    };
    let checked = async {
        let (tallies, published, kills) = load.await;
        println!("{kills} kills; {published}");
        for ((node, tally), seen) in [nl, be, at].into_iter().zip(tallies).zip(&watchers) {
            check(node, &tally, seen).await;
        }
        check_stream(seeker, &watchers[3]).await;
    };
    tokio::select! {
        () = checked => {}
        _ = watching => unreachable!("watches for ever"),
        () = tokio::time::sleep(lasts() + 2 * NEVER) => panic!("the load does not end"),
    }
    let broker = format!("https://{}", cluster.replicas[0].address());
    let key = audit::log_key(&log_key_file(&cluster.site.path("")));
    let summary = audit::assert_holds(&cluster.site.lab, &broker, &key).await;
    println!("{} entries of the audit log hold", summary.head.size);
}

/// Kills brokers until the time is over, and starts them again; returns how many.
async fn kill(replicas: &mut [BrokerProcess], over: &AtomicBool, rng: &mut StdRng) -> u32 {
    let until = Instant::now() + lasts();
    let mut kills = 0;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(rng.random_range(1000..5000))).await;
        let victim = &mut replicas[rng.random_range(0..3)];
        victim.kill().await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..2500))).await;
        victim.restart().await;
        kills += 1;
    }
    over.store(true, Ordering::Relaxed);
    kills
}

/// Asks for new addresses session by session, until it is over or the quota is used up.
async fn probe(node: &TestNode, over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut next = 0;
    while !over.load(Ordering::Relaxed) && !tally.exhausted && next + 30 * BATCH < ADDRESSES {
        let opening = node.opening(Email);
        let open = async || outlast(async || node.open(opening.clone()).await).await;
        let mut probe = open().await;
        let mut batches = 0;
        while batches < 30 && !over.load(Ordering::Relaxed) && !tally.exhausted {
            let pairs = node.pairs(Email, &emails(next..next + BATCH));
            match probe.batch(batches, &pairs).await {
                Ok(answer) => {
                    for (at, hit) in matched(&answer) {
                        let key = (at.to_vec(), hit.holder.clone());
                        let known = tally.hits.insert(key, hit.hit_id.to_vec());
                        assert_eq!(known, None, "every address is asked for once");
                    }
                    tally.refs += u64::from(BATCH);
                    (batches, next) = (batches + 1, next + BATCH);
                    tokio::time::sleep(THINK).await;
                }
                Err(status) if is_quota(&status) => {
                    tally.exhausted = true;
                    probe = open().await;
                }
                Err(status) => {
                    pause(&status).await;
                    probe = open().await;
                    tally.resumed += 1;
                    let known = probe.opened.last_answered.map_or(0, |last| last + 1);
                    assert!(
                        known == batches || known == batches + 1,
                        "{known} of {batches}"
                    );
                }
            }
        }
        close(probe, open, batches).await;
        tally.sessions += 1;
    }
    tally
}

/// Closes a session, which must have counted each batch once.
async fn close(mut probe: Probe, open: impl AsyncFn() -> Probe, batches: u32) {
    let closed = loop {
        match probe.close().await {
            Ok(closed) => break closed,
            Err(status) => {
                pause(&status).await;
                probe = open().await;
            }
        }
    };
    let expected = (u64::from(batches), u64::from(batches * BATCH));
    assert_eq!((u64::from(closed.batches), closed.refs), expected);
}

/// What a hit stream has told so far: events 1 to `cursor`.
#[derive(Default)]
struct Seen {
    cursor: u64,
    hits: BTreeSet<Vec<u8>>,
    resumed: u32,
}

/// Follows a node's hits for ever, from the last cursor on whenever the stream breaks.
async fn watch(node: &TestNode, seen: &Mutex<Seen>) {
    loop {
        let after = seen.lock().expect("not poisoned").cursor;
        let mut stream = outlast(async || node.watch(after).await).await;
        let status = loop {
            match stream.message().await {
                Ok(Some(event)) => {
                    let mut seen = seen.lock().expect("not poisoned");
                    assert_eq!(event.cursor, seen.cursor + 1, "no gap, and none twice");
                    seen.cursor = event.cursor;
                    seen.hits.insert(event.hit.expect("a hit").hit_id.to_vec());
                }
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        };
        if let Some(status) = status {
            pause(&status).await;
        }
        seen.lock().expect("not poisoned").resumed += 1;
    }
}

/// Publishes, supplements, withdraws: whatever is acknowledged holds at once, wherever it is asked.
async fn publish(fr: &TestNode, seeker: &TestNode, over: &AtomicBool) -> String {
    let mut version = 0;
    let mut slowest = Duration::ZERO;
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) && rounds < 1000 {
        let (first, last) = (rounds * 10, rounds * 10 + 10);
        let begun = Instant::now();
        let base = layer(fr, &phones(first..first + 5), &mut version, false).await;
        slowest = slowest.max(begun.elapsed());
        expect(seeker, first..last, 5).await;
        let supplement = layer(fr, &phones(first + 5..last), &mut version, true).await;
        expect(seeker, first..last, 10).await;
        outlast(async || fr.withdraw(supplement).await).await;
        expect(seeker, first..last, 5).await;
        // Else the next base replaces it.
        if rounds % 2 == 0 {
            outlast(async || fr.withdraw(base).await).await;
            expect(seeker, first..last, 0).await;
        }
        rounds += 1;
    }
    format!("{rounds} rounds of publications, the slowest base {slowest:?}")
}

async fn expect(seeker: &TestNode, asked: std::ops::Range<u32>, found: usize) {
    let ask = async || seeker.ask(Phone, &phones(asked.clone())).await;
    let answer = outlast(ask).await;
    assert_eq!(matched(&answer).count(), found, "of {asked:?}");
}

/// Publishes the next version, as a base or to the base before.
async fn layer(
    fr: &TestNode,
    values: &[Selector],
    version: &mut u64,
    supplement: bool,
) -> PublicationId {
    let schedule = &fr.keys(1).schedule;
    let key = schedule.tag_key(Phone);
    let mut tags: Vec<_> = values.iter().map(|value| key.tag(value)).collect();
    tags.extend(canary_tags(schedule, Phone));
    let class = Class::smallest_for(tags.len() as u64).expect("a class");
    let mut draft: Draft = fr.draft_in(1, Phone, tags, class, *version + 1);
    if supplement {
        draft = draft.supplementing(*version);
    }
    fr.publish_through(&draft).await;
    *version += 1;
    draft.id()
}

/// The ledger has exactly what was acknowledged to a prober.
async fn check(node: &TestNode, tally: &Tally, seen: &Mutex<Seen>) {
    let listed = outlast(async || node.hits().await).await;
    let count = listed.len();
    let unique: BTreeMap<_, _> = listed
        .into_iter()
        .map(|hit| ((hit.record_ref.to_vec(), hit.holder), hit.hit_id.to_vec()))
        .collect();
    assert_eq!(unique.len(), count, "no hit is there twice");
    assert_eq!(unique, tally.hits, "each acknowledged hit is there");
    let limits = outlast(async || node.limits().await).await;
    let row = limits.iter().find(|row| row.policy == Email.name());
    let used = row.expect("a row").used_today;
    assert_eq!(used, tally.refs, "each batch is counted once");
    if tally.exhausted {
        let whole = SMALL_QUOTA - SMALL_QUOTA % u64::from(BATCH);
        assert_eq!(used, whole, "the quota is used up, and not exceeded");
    }
    println!(
        "{}: {} refs in {} sessions, resumed {} times; {count} hits",
        node.id(),
        tally.refs,
        tally.sessions,
        tally.resumed
    );
    check_stream(node, seen).await;
    let told = seen.lock().expect("not poisoned").cursor;
    assert_eq!(told, count as u64, "each hit was told once");
}

/// The stream has told, or will soon have told, of every hit.
async fn check_stream(node: &TestNode, seen: &Mutex<Seen>) {
    let listed = outlast(async || node.hits().await).await;
    let listed: BTreeSet<_> = listed.into_iter().map(|hit| hit.hit_id.to_vec()).collect();
    let told = async {
        while seen.lock().expect("not poisoned").hits != listed {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(NEVER, told).await;
    let seen = seen.lock().expect("not poisoned");
    assert!(
        in_time.is_ok(),
        "{}: {} of {} hits were told",
        node.id(),
        seen.hits.len(),
        listed.len()
    );
    println!(
        "{}: {} events, resumed {} times",
        node.id(),
        seen.cursor,
        seen.resumed
    );
}
