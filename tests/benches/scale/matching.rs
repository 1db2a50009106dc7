//! The broker's matcher in this process: beside the limit of the memory, and beside `fastbloom`, over
//! one core and two, and where the bits can be.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rayon::iter::ParallelIterator as _;
use rayon::slice::ParallelSlice as _;
use serde::Serialize;
use sotto_broker::bench::{FilterMemory, Matching, Requests};
use sotto_common::ids::NodeId;
use sotto_common::secret::Tag;
use sotto_tests::Draft;
use tokio::time::Instant;

use crate::alternate::{Cost, Round, alternate, ns_each, ns_on_two, two_cores};
use crate::fastbloom::PlainFilters;
use crate::filters::Filters;

/// Tags that the matcher takes at a time: a batch of the protocol.
pub(crate) const BATCH: usize = 4096;
/// Tests of a round, about.
const TESTS: usize = 16_000_000;
/// What is slow is measured on so small a part of the tags.
const PART: usize = 4;
/// Fixed, so that runs can be compared.
const SEED: u64 = 20_260_304;

/// Holders, and selectors in each one's filter.
const SCENES: [(usize, u64); 5] = [
    (64, 1_000_000),
    (8, 10_000_000),
    (8, 1_000_000),
    (8, 100_000),
    (8, 10_000),
];

/// So many holders with a filter each.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Matched {
    pub(crate) holders: usize,
    /// That each filter has room for.
    pub(crate) selectors: u64,
    /// Of one filter.
    pub(crate) filter_bytes: u64,
    /// (a) Lines read at random from the same memory, each asked for once; of one line.
    pub(crate) limit_once: Cost,
    /// (a) As `limit_once`, each line asked for twice.
    pub(crate) limit_twice: Cost,
    /// (a) As `limit_once`, by two threads.
    pub(crate) limit_on_two_cores: Option<Cost>,
    /// (b) One core, huge pages, by how many of the holders are asked; of one test.
    pub(crate) by_holders: Vec<AtHolders>,
    /// (b) All holders, by two threads.
    pub(crate) on_two_cores: Option<Cost>,
    /// (b) All holders, small pages.
    pub(crate) in_small_pages: Cost,
    /// (b) All holders, mapped files.
    pub(crate) in_files: Cost,
    /// (c) All holders, a loop over `fastbloom`.
    pub(crate) fastbloom: Cost,
    /// Of one filter of `fastbloom`.
    pub(crate) fastbloom_bytes: u64,
}

impl Matched {
    /// A test at all holders: one core, huge pages.
    pub(crate) fn at_all(&self) -> Cost {
        self.by_holders.last().expect("all holders").cost
    }
}

/// A test where so many holders are asked.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct AtHolders {
    pub(crate) holders: usize,
    pub(crate) cost: Cost,
}

/// Measures every scene that has no more selectors, all its filters together.
pub(crate) fn measure(dir: &Path, most_selectors: u64, rounds: usize) -> Vec<Matched> {
    let fit = |(holders, selectors): &(usize, u64)| *holders as u64 * selectors <= most_selectors;
    let scenes = SCENES.into_iter().filter(fit);
    scenes
        .map(|(holders, selectors)| scene(dir, holders, selectors, rounds))
        .collect()
}

fn scene(dir: &Path, holders: usize, selectors: u64, rounds: usize) -> Matched {
    eprint!("the matcher at {holders} holders of {selectors} selectors ");
    let mut rng = StdRng::seed_from_u64(SEED);
    let filters = Filters::write(dir, holders, selectors, &mut rng);
    let rate = filters.false_positive_rate;
    let batches = (TESTS / (BATCH * holders)).clamp(PART, 64);
    Scene {
        selectors,
        plain: PlainFilters::draw(holders, selectors, rate, &mut rng),
        tags: (0..BATCH * batches)
            .map(|_| Tag::new(rng.random()))
            .collect(),
        huge: filters.activate(FilterMemory::HugePages),
        small: filters.activate(FilterMemory::SmallPages),
        files: filters.activate(FilterMemory::File),
        filters,
    }
    .measure(rounds)
}

/// Everything that is measured beside each other.
struct Scene {
    selectors: u64,
    filters: Filters,
    plain: PlainFilters,
    tags: Vec<Tag>,
    huge: Matching,
    small: Matching,
    files: Matching,
}

impl Scene {
    fn measure(&self, rounds: usize) -> Matched {
        let holders = self.filters.len();
        let doubled = std::iter::successors(Some(1), |count| Some(count * 2));
        let counts: Vec<usize> = doubled.take_while(|count| *count <= holders).collect();
        let mut contenders: Vec<Round<'_>> = vec![
            Box::new(|| self.limit(Requests::Once, 1)),
            Box::new(|| self.limit(Requests::Twice, 1)),
            Box::new(|| self.all(&self.small)),
            Box::new(|| self.all(&self.files)),
            Box::new(|| self.fastbloom()),
        ];
        for &count in &counts {
            contenders.push(Box::new(move || self.at_first(count)));
        }
        if two_cores() {
            let limit = || ns_on_two(|number| self.limit(Requests::Once, number + 1));
            contenders.push(Box::new(limit));
            contenders.push(Box::new(|| ns_on_two(|_| self.all(&self.huge))));
        }
        let mut costs = alternate(rounds, &mut contenders).into_iter();
        let mut next = || costs.next().expect("as many as contenders");
        // In the order of the contenders.
        Matched {
            holders,
            selectors: self.selectors,
            filter_bytes: self.filters.params.byte_len(),
            fastbloom_bytes: self.plain.bytes(),
            limit_once: next(),
            limit_twice: next(),
            in_small_pages: next(),
            in_files: next(),
            fastbloom: next(),
            by_holders: counts
                .into_iter()
                .map(|holders| AtHolders {
                    holders,
                    cost: next(),
                })
                .collect(),
            limit_on_two_cores: costs.next(),
            on_two_cores: costs.next(),
        }
    }

    /// Nanoseconds of a line.
    fn limit(&self, requests: Requests, seed: u64) -> f64 {
        let lines = self.tags.len() * self.filters.len();
        ns_each(lines, || self.huge.read_lines(lines, requests, seed))
    }

    /// Nanoseconds of a test at all holders, as each of those below.
    fn all(&self, matching: &Matching) -> f64 {
        let tests = self.tags.len() * self.filters.len();
        ns_each(tests, || probe(matching, &self.tags))
    }

    fn fastbloom(&self) -> f64 {
        let tags = &self.tags[..self.tags.len() / PART];
        ns_each(tags.len() * self.filters.len(), || {
            by_batch(tags, |batch| self.plain.probe(batch))
        })
    }

    /// At the first so many holders, by as many tests as at all of them.
    fn at_first(&self, count: usize) -> f64 {
        let (targets, times) = (self.filters.first(count), self.filters.len() / count);
        let once = |_| by_batch(&self.tags, |batch| self.huge.probe_at(&targets, batch));
        ns_each(self.tags.len() * count * times, || -> usize {
            (0..times).map(once).sum()
        })
    }
}

fn probe(matching: &Matching, tags: &[Tag]) -> usize {
    by_batch(tags, |batch| matching.probe(batch))
}

fn by_batch(tags: &[Tag], probe: impl Fn(&[Tag]) -> usize) -> usize {
    tags.chunks(BATCH).map(probe).sum()
}

/// Seconds that all tags take against all filters.
pub(crate) struct InProcess {
    pub(crate) one_thread: f64,
    pub(crate) all_cores: f64,
}

/// Tests the tags that gRPC is measured with, against the same filters, by one thread and by all.
pub(crate) fn in_process(drafts: &[Draft], prober: &NodeId, tags: &[Tag]) -> InProcess {
    let dir = tempfile::tempdir().expect("a folder");
    let matching = Matching::new(&drafts[0].header, prober.clone());
    for draft in drafts {
        let file = dir.path().join(draft.id().to_string());
        std::fs::write(&file, &draft.bits).expect("written");
        matching.activate(&draft.header, &file).expect("mapped");
    }
    let clock = Instant::now();
    let found = probe(&matching, tags);
    let one_thread = clock.elapsed().as_secs_f64();
    let clock = Instant::now();
    let batches = tags.par_chunks(BATCH);
    let again: usize = batches.map(|tags| matching.probe(tags)).sum();
    let all_cores = clock.elapsed().as_secs_f64();
    assert!(found == again && found > 0, "the filters hold some of them");
    InProcess {
        one_thread,
        all_cores,
    }
}
