//! Probing through mTLS gRPC: a broker process, holders with filters, and a prober that speaks the
//! protocol as a node does, beside the matcher alone and beside an echo.

use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::Serialize;
use sotto_common::filter::Class;
use sotto_common::ids::RecordRef;
use sotto_common::secret::Tag;
use sotto_common::selector::Policy;
use sotto_proto::v1;
use sotto_tests::node::canary_tags;
use sotto_tests::probe::Pair;
use sotto_tests::sandbox::found;
use sotto_tests::{BrokerProcess, Draft, TestNode};
use tokio::task::block_in_place;
use tokio::time::Instant;

use crate::echo::{EchoServer, Echoed};
use crate::latency::{self, Checks};
use crate::matching;
use crate::process::{peak_kb, processor_seconds};
use crate::restart::{self, Restarts};
use crate::store::profile;
use crate::stream::{Asked, session};

pub(crate) const POLICY: Policy = Policy::Phone;
/// One of so many tags is in the filter of a holder.
const RARE: usize = 100_000;
/// Fixed, so that runs can be compared.
const SEED: u64 = 20_260_302;

/// How much is probed.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) probes: u64,
    pub(crate) holders: usize,
    pub(crate) filter: u64,
    pub(crate) sessions: usize,
    /// Single questions; 0 leaves them out.
    pub(crate) checks: usize,
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
    /// Hits: refs that matched, once for each holder.
    pub(crate) matched: usize,
}

/// All of it.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Probing {
    pub(crate) selectors: u64,
    pub(crate) holders: usize,
    pub(crate) filter_selectors: u64,
    /// Of one filter.
    pub(crate) filter_bytes: u64,
    /// Pairs in a batch at most, as the broker has it for so many holders.
    pub(crate) batch_pairs: usize,
    pub(crate) rounds: Vec<Round>,
    pub(crate) echoes: Vec<Echoed>,
    pub(crate) matcher_seconds: f64,
    pub(crate) matcher_seconds_on_all_cores: f64,
    pub(crate) checks: Option<Checks>,
    /// Of the broker that took the filters in and was probed.
    pub(crate) broker_peak_kb: u64,
    pub(crate) restarts: Restarts,
}

/// A broker with filters, and one who asks.
struct Field {
    broker: BrokerProcess,
    prober: TestNode,
    drafts: Vec<Draft>,
}

/// Sets the scene and measures it.
pub(crate) async fn measure(scene: &Scene) -> Probing {
    let mut rng = StdRng::seed_from_u64(SEED);
    let count = usize::try_from(scene.probes).expect("fits");
    // Other tags for each round: a hit that is known already costs less.
    let pairs: [Vec<Pair>; 2] = std::array::from_fn(|_| draw(count, &mut rng));
    let mut field = Field::set(scene, &pairs, &mut rng).await;
    let Field { broker, prober, .. } = &field;
    let most = batch_pairs(prober).await;
    let asked = pairs.each_ref().map(|pairs| Asked { pairs, most });
    let mut rounds = Vec::new();
    for (sessions, asked) in [1, scene.sessions].into_iter().zip(asked) {
        eprintln!("{count} tags by mTLS gRPC, {sessions} session(s) ...");
        rounds.push(round(broker, prober, asked.pack_for(sessions)).await);
    }
    let mut checks = None;
    if scene.checks > 0 {
        let measured = latency::measure(broker, prober, asked[0], scene.sessions, scene.checks);
        checks = Some(measured.await);
    }
    let broker_peak_kb = peak_kb(&broker.pid().to_string());
    let echoes = echoes(broker, prober, asked[0], scene.sessions).await;
    let tags: Vec<_> = pairs[0].iter().map(|(tag, _)| *tag).collect();
    eprintln!("the same tags by the matcher alone ...");
    let alone = block_in_place(|| matching::in_process(&field.drafts, prober.id(), &tags));
    let restarts = restart::measure(&mut field.broker, &field.prober, asked[0]).await;
    Probing {
        selectors: scene.probes,
        holders: scene.holders,
        filter_selectors: scene.filter,
        filter_bytes: field.drafts[0].header.params.byte_len(),
        batch_pairs: most,
        rounds,
        echoes,
        matcher_seconds: alone.one_thread,
        matcher_seconds_on_all_cores: alone.all_cores,
        checks,
        broker_peak_kb,
        restarts,
    }
}

impl Field {
    /// Every holder's filter has some of the pairs, and as many tags besides as the scene says.
    async fn set(scene: &Scene, pairs: &[Vec<Pair>], rng: &mut StdRng) -> Self {
        let (count, filter) = (scene.holders, scene.filter);
        eprintln!("filters of {filter} selectors of {count} holders, published ...");
        let broker = BrokerProcess::start("warn,sotto_broker=info").await;
        let names = (0..count).map(|i| format!("de-holder-{i}"));
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
        let seeded: Vec<_> = (0_usize..)
            .zip(&holders)
            .map(|(i, holder)| (i, rng.random::<u64>(), holder))
            .collect();
        let make = |(i, seed, holder): &(usize, u64, &TestNode)| {
            let planted = pairs.iter().flatten().skip(*i).step_by(RARE);
            let planted = planted.map(|(tag, _)| *tag).collect();
            draft(holder, planted, filter, *seed)
        };
        let drafts: Vec<Draft> = block_in_place(|| seeded.par_iter().map(make).collect());
        for (holder, draft) in holders.iter().zip(&drafts) {
            holder.publish_large(draft).await.expect("published");
        }
        Self {
            broker,
            prober,
            drafts,
        }
    }
}

/// A filter of these tags, the canaries, and as many others as make `count`.
fn draft(holder: &TestNode, planted: Vec<Tag>, count: u64, seed: u64) -> Draft {
    let mut rng = StdRng::seed_from_u64(seed);
    let epoch = holder.latest_epoch();
    let mut tags = planted;
    tags.extend(canary_tags(&holder.keys(epoch).schedule, POLICY));
    let others = count.saturating_sub(tags.len() as u64);
    tags.extend((0..others).map(|_| Tag::new(rng.random())));
    let class = Class::smallest_for(tags.len() as u64).expect("a class");
    holder.draft_in(epoch, POLICY, tags, class, 1)
}

/// Tags and record refs as no selector has them, and spread as those of selectors are.
fn draw(count: usize, rng: &mut StdRng) -> Vec<Pair> {
    (0..count)
        .map(|_| (Tag::new(rng.random()), RecordRef::new(rng.random())))
        .collect()
}

/// How many pairs a batch may have that asks everybody.
async fn batch_pairs(prober: &TestNode) -> usize {
    let opened = prober.open(prober.opening(POLICY)).await;
    let probe = opened.expect("opened");
    let most = probe.opened.max_pairs;
    probe.close().await.expect("closed");
    usize::try_from(most).expect("fits")
}

/// Asks the batches of each session, all at once.
async fn round(
    broker: &BrokerProcess,
    prober: &TestNode,
    batches: Vec<Vec<v1::ProbeBatch>>,
) -> Round {
    let sessions = batches.len();
    let nodes = (0..sessions).map(|_| broker.reached_by(prober));
    let nodes: Vec<_> = nodes.collect();
    let process = broker.pid().to_string();
    let worked = [processor_seconds(&process), processor_seconds("self")];
    let clock = Instant::now();
    let asking = nodes.into_iter().zip(batches).map(|(node, batches)| {
        tokio::spawn(async move {
            let mut matched = 0;
            let count = |answer: v1::ProbeAnswer| {
                let found = v1::ProbeMatches::decode(answer.matches).expect("an answer");
                let hits = found.holders.iter().map(|at| at.hit_ids.len() / 16);
                matched += hits.sum::<usize>();
            };
            session(node.channel(), node.opening(POLICY), batches, count).await;
            matched
        })
    });
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

/// The same batches through a server that echoes them.
async fn echoes(
    broker: &BrokerProcess,
    prober: &TestNode,
    asked: Asked<'_>,
    sessions: usize,
) -> Vec<Echoed> {
    eprintln!("the same batches by a gRPC echo ...");
    let lab = &broker.site().lab;
    let server = EchoServer::start(lab).await;
    let mut echoes = Vec::new();
    for sessions in [1, sessions] {
        let batches = asked.pack_for(sessions);
        echoes.push(server.measure(lab, prober, batches).await);
    }
    echoes
}
