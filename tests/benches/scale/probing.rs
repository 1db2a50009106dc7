//! Probing through mTLS gRPC: a broker process, holders with filters, and a prober that speaks the
//! protocol as a node does, beside the matcher alone.

use tokio::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use sotto_common::ids::RecordRef;
use sotto_common::secret::Tag;
use sotto_common::selector::Policy;
use sotto_tests::probe::Pair;
use sotto_tests::sandbox::found;
use sotto_tests::{BrokerProcess, Draft, TestNode};

use crate::matching;
use crate::process::{peak_kb, processor_seconds};
use crate::store::profile;

const POLICY: Policy = Policy::Phone;
/// One of so many tags is in the filter of a holder.
const RARE: usize = 10_000;
/// Fixed, so that runs can be compared.
const SEED: u64 = 20_260_302;

/// How much is probed.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) probes: u64,
    pub(crate) holders: usize,
    pub(crate) filter: u64,
    pub(crate) sessions: usize,
}

/// One way of asking all tags.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Round {
    /// Sessions at once, each on a connection of its own.
    pub(crate) sessions: usize,
    pub(crate) seconds: f64,
    /// That the broker's process has worked.
    pub(crate) broker_processor_seconds: f64,
    /// That this process, the prober, has worked.
    pub(crate) prober_processor_seconds: f64,
    /// Refs that matched, at any holder.
    pub(crate) matched: usize,
}

/// All of it.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Probing {
    pub(crate) selectors: u64,
    pub(crate) holders: usize,
    pub(crate) filter_selectors: u64,
    pub(crate) filter_bytes: u64,
    pub(crate) rounds: Vec<Round>,
    pub(crate) matcher_seconds: f64,
    pub(crate) matcher_seconds_on_all_cores: f64,
    pub(crate) broker_peak_kb: u64,
}

/// Sets the scene and measures it.
pub(crate) async fn measure(scene: &Scene) -> Probing {
    eprintln!("probing {} at {} holders ...", scene.probes, scene.holders);
    let mut rng = StdRng::seed_from_u64(SEED);
    let count = usize::try_from(scene.probes).expect("fits");
    // Other tags for each round: a hit that is known already costs less.
    let asked: [Vec<Pair>; 2] = std::array::from_fn(|_| draw(count, &mut rng));
    let broker = BrokerProcess::start("warn,sotto_broker=info").await;
    let names = (0..scene.holders).map(|i| format!("de-holder-{i}"));
    let holders: Vec<_> = names.map(|name| broker.node(&name)).collect();
    let prober = broker.node("nl-fiu");
    let mut nodes: Vec<_> = holders.iter().collect();
    nodes.push(&prober);
    let operator = broker.operator();
    found(&operator, &profile(), &nodes).await;
    for node in nodes {
        // What is measured is speed: no quota and no class stands in its way.
        let limited = operator.set_limits(node, Some(1_000_000_000), Some(60));
        limited.await.expect("set");
    }
    let mut drafts = Vec::new();
    for (i, holder) in holders.iter().enumerate() {
        let planted = asked.iter().flatten().skip(i).step_by(RARE);
        let mut tags: Vec<_> = planted.map(|(tag, _)| *tag).collect();
        tags.extend((0..scene.filter).map(|_| Tag::new(rng.random())));
        let draft = holder.draft_of_tags(POLICY, tags).await;
        holder.publish_draft(&draft).await.expect("published");
        drafts.push(draft);
    }
    let mut rounds = Vec::new();
    for (sessions, pairs) in [1, scene.sessions].into_iter().zip(&asked) {
        rounds.push(round(&broker, &prober, sessions, pairs).await);
    }
    let tags: Vec<_> = asked[0].iter().map(|(tag, _)| *tag).collect();
    let alone = tokio::task::block_in_place(|| matching::measure(&drafts, prober.id(), &tags));
    Probing {
        selectors: scene.probes,
        holders: scene.holders,
        filter_selectors: scene.filter,
        filter_bytes: drafts.first().map_or(0, bytes_of),
        rounds,
        matcher_seconds: alone.one_thread,
        matcher_seconds_on_all_cores: alone.all_cores,
        broker_peak_kb: peak_kb(&broker.pid().to_string()),
    }
}

fn bytes_of(draft: &Draft) -> u64 {
    draft.header.params.byte_len()
}

/// Tags and record refs as no selector has them, and spread as those of selectors are.
fn draw(count: usize, rng: &mut StdRng) -> Vec<Pair> {
    (0..count)
        .map(|_| (Tag::new(rng.random()), RecordRef::new(rng.random())))
        .collect()
}

/// Asks all pairs, split over so many sessions.
async fn round(
    broker: &BrokerProcess,
    prober: &TestNode,
    sessions: usize,
    pairs: &[Pair],
) -> Round {
    let mut nodes = Vec::new();
    for share in pairs.chunks(pairs.len().div_ceil(sessions)) {
        nodes.push((broker.reached_by(prober), share.to_vec()));
    }
    let process = broker.pid().to_string();
    let worked = [processor_seconds(&process), processor_seconds("self")];
    let clock = Instant::now();
    let asking = nodes
        .into_iter()
        .map(|(node, share)| tokio::spawn(session(node, share)));
    let asking: Vec<_> = asking.collect();
    let mut matched = 0;
    for session in asking {
        matched += session.await.expect("no panic");
    }
    Round {
        sessions,
        seconds: clock.elapsed().as_secs_f64(),
        broker_processor_seconds: processor_seconds(&process) - worked[0],
        prober_processor_seconds: processor_seconds("self") - worked[1],
        matched,
    }
}

/// One session: its batches one after the other, as the protocol has them.
async fn session(node: TestNode, pairs: Vec<Pair>) -> usize {
    let opened = node.open(node.opening(POLICY)).await;
    let mut probe = opened.expect("opened");
    let size = usize::try_from(probe.opened.max_pairs).expect("fits");
    let mut matched = 0;
    for (number, batch) in (0..).zip(pairs.chunks(size)) {
        let answer = probe.batch(number, batch).await.expect("answered");
        matched += answer.refs.len();
    }
    probe.close().await.expect("closed");
    matched
}
