//! What a tag costs by itself, by criterion: the steps that matching and tagging are made of, where
//! nothing has to be fetched from memory.
//!
//! criterion writes what it finds to its own folder and says it as it goes; so it is a process of its
//! own, whose words are progress, and the medians are read from that folder.

use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use criterion::{Criterion, Throughput};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use sotto_broker::bench::FilterMemory;
use sotto_common::filter::{Locator, Salt};
use sotto_common::secret::{Secret, Selector, Tag};
use sotto_common::selector::{Policy, canonical};
use sotto_common::tag::TagKey;

use crate::filters::Filters;
use crate::matching::BATCH;

/// What is measured, by its name in criterion's folder.
const NORMALISE: &str = "normalise a phone number";
const TAG: &str = "HMAC of a canonical selector";
const LOCATE: &str = "positions of a tag";
const PROBE: &str = "a batch at a filter in the cache";
/// Selectors of the filter that stays in the cache.
const SMALL: u64 = 1000;
/// Fixed, so that runs can be compared.
const SEED: u64 = 20_260_305;

/// A step.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// Selectors or tags that one turn of it takes.
    pub(crate) each: usize,
    /// The median of one turn, in nanoseconds.
    pub(crate) ns: f64,
    /// The bounds between which criterion has it with a confidence of 95 %.
    pub(crate) ns_from: f64,
    pub(crate) ns_to: f64,
}

/// Measures all steps in a process of its own, which writes to `dir`.
pub(crate) fn measure(dir: &Path) -> Vec<Step> {
    eprintln!("the steps, by criterion ...");
    let status = Command::new(std::env::current_exe().expect("a path"))
        .arg("--steps")
        .arg(dir)
        .stdout(Stdio::from(std::io::stderr()))
        .status();
    assert!(status.expect("a process").success(), "criterion failed");
    let steps = [(NORMALISE, 1), (TAG, 1), (LOCATE, 1), (PROBE, BATCH)];
    steps.map(|(name, each)| read(dir, name, each)).into()
}

/// Runs criterion in this process.
pub(crate) fn run(dir: &Path) {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .output_directory(dir);
    let mut rng = StdRng::seed_from_u64(SEED);
    let canonical_form = canonical(Policy::Phone, "+31 6 1234 5678", None).expect("a number");
    tagging(&mut criterion, &canonical_form);
    testing(&mut criterion, dir, &mut rng);
}

fn tagging(criterion: &mut Criterion, value: &Selector) {
    let key = TagKey::new(Secret::new([7; 32]));
    criterion.bench_function(NORMALISE, |bench| {
        bench.iter(|| canonical(Policy::Phone, black_box("+31 6 1234 5678"), None));
    });
    criterion.bench_function(TAG, |bench| bench.iter(|| key.tag(black_box(value))));
}

fn testing(criterion: &mut Criterion, dir: &Path, rng: &mut StdRng) {
    std::fs::create_dir_all(dir).expect("a folder");
    let filters = Filters::write(dir, 1, SMALL, rng);
    let matching = filters.activate(FilterMemory::HugePages);
    let tags: Vec<_> = (0..BATCH).map(|_| Tag::new(rng.random())).collect();
    let locator = Locator::new(filters.params, &Salt::new(rng.random()));
    criterion.bench_function(LOCATE, |bench| {
        bench.iter(|| locator.locate(black_box(&tags[0])));
    });
    let mut group = criterion.benchmark_group(PROBE);
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("all", |bench| {
        bench.iter(|| matching.probe(black_box(&tags)));
    });
    group.finish();
}

/// What criterion has written about a step.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

fn read(dir: &Path, name: &'static str, each: usize) -> Step {
    let mut path = dir.join(name);
    if each > 1 {
        path.push("all");
    }
    let json = std::fs::read(path.join("new/estimates.json")).expect("estimates");
    let Estimates { median } = serde_json::from_slice(&json).expect("estimates");
    Step {
        name,
        each,
        ns: median.point_estimate,
        ns_from: median.confidence_interval.lower_bound,
        ns_to: median.confidence_interval.upper_bound,
    }
}
