//! How long a single question takes, on a broker that has nothing else to do, and on one that tests
//! batches as fast as it can.

use std::time::Duration;

use serde::Serialize;
use sotto_tests::probe::Pair;
use sotto_tests::{BrokerProcess, TestNode};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::probing::POLICY;
use crate::stream::{Asked, session};
use crate::times::Times;

/// Batches of a session that makes load: it asks whether to go on after each session.
const BATCHES: usize = 16;

/// Single questions, one after the other: a session is opened, one pair is asked, and it is closed, as a
/// node does it when an analyst checks a selector.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Checks {
    /// Of each sort.
    pub(crate) count: usize,
    pub(crate) idle: Times,
    /// Sessions that probe meanwhile, each on a connection of its own.
    pub(crate) sessions: usize,
    pub(crate) loaded: Times,
}

/// Asks `count` of the pairs one by one, first alone, then while so many sessions probe.
pub(crate) async fn measure(
    broker: &BrokerProcess,
    prober: &TestNode,
    asked: Asked<'_>,
    sessions: usize,
    count: usize,
) -> Checks {
    eprintln!("{count} single questions, alone and beside {sessions} sessions ...");
    let questioner = broker.reached_by(prober);
    // The first one connects.
    check(&questioner, asked.pairs[0]).await;
    let idle = ask(&questioner, asked.pairs, count).await;
    let (started, mut at_work) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let load = (0..sessions).map(|_| {
        let node = broker.reached_by(prober);
        let batches = asked.first(BATCHES).pack();
        let (started, stop) = (started.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                let told = |_| {
                    // Once the questions are asked, nobody listens.
                    let _ = started.send(());
                };
                let opening = node.opening(POLICY);
                session(node.channel(), opening, batches.clone(), told).await;
            }
        })
    });
    let load: Vec<_> = load.collect();
    for _ in 0..sessions * BATCHES {
        at_work.recv().await.expect("they go on");
    }
    let loaded = ask(&questioner, asked.pairs, count).await;
    stop.cancel();
    for session in load {
        session.await.expect("no panic");
    }
    Checks {
        count,
        idle: Times::of(idle),
        sessions,
        loaded: Times::of(loaded),
    }
}

async fn ask(node: &TestNode, pairs: &[Pair], count: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for pair in pairs.iter().cycle().take(count) {
        times.push(check(node, *pair).await);
    }
    times
}

async fn check(node: &TestNode, pair: Pair) -> Duration {
    let clock = Instant::now();
    let mut probe = node.open(node.opening(POLICY)).await.expect("opened");
    probe.batch(0, &[pair]).await.expect("answered");
    probe.close().await.expect("closed");
    clock.elapsed()
}
