//! From a list to a filter, without a store, beside the HMAC alone.
//!
//! Each stage is a process of its own. Both keep every core busy; the list is read in blocks, each
//! by the thread that works on it, and of it only the tags are held.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use tokio::time::Instant;

use clap::ValueEnum;
use rayon::iter::{
    IndexedParallelIterator as _, IntoParallelRefIterator as _, ParallelIterator as _,
};
use serde::{Deserialize, Serialize};
use sotto_common::filter::{Class, DEFAULT_K, DistinctTags};
use sotto_common::random::os_rng;
use sotto_common::secret::{Secret, Selector, Tag};
use sotto_common::selector::{Policy, StopList, canonical};
use sotto_common::tag::TagKey;

use crate::lists::List;
use crate::process::{peak_kb, processor_seconds};

/// Bytes of the list that a thread takes at a time.
const BLOCK: usize = 256 * 1024;
/// Canonical values that are held to measure the HMAC alone; they are tagged again and again.
const HELD: usize = 500_000;

/// What a process measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Stage {
    /// The HMAC alone, over values that are canonical already.
    Hmac,
    /// Read, normalise, tag.
    Tag,
    /// Read, normalise, tag, build the filter.
    Filter,
}

impl Stage {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("none is skipped");
        value.get_name().to_owned()
    }
}

/// What a stage works on.
pub(crate) struct Work<'a> {
    pub(crate) policy: Policy,
    pub(crate) list: &'a Path,
    pub(crate) count: u64,
}

/// What a stage has cost.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(crate) struct Cost {
    /// By the clock.
    pub(crate) seconds: f64,
    /// Of all cores.
    pub(crate) processor_seconds: f64,
    /// Memory at most, in kilobytes.
    pub(crate) peak_kb: u64,
    /// Bytes of the filter, if one was built.
    pub(crate) filter_bytes: u64,
    /// Lines that were refused.
    pub(crate) refused: u64,
}

/// The stages of one list.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Filters {
    pub(crate) policy: &'static str,
    pub(crate) selectors: u64,
    pub(crate) hmac: Cost,
    pub(crate) tag: Cost,
    pub(crate) filter: Cost,
}

/// Measures all stages of a list, each in a process of its own.
pub(crate) fn measure(list: &List) -> Filters {
    Filters {
        policy: list.policy.name(),
        selectors: list.count,
        hmac: apart(Stage::Hmac, list),
        tag: apart(Stage::Tag, list),
        filter: apart(Stage::Filter, list),
    }
}

fn apart(stage: Stage, list: &List) -> Cost {
    eprintln!(
        "{} of {} {} ...",
        stage.name(),
        list.count,
        list.policy.name()
    );
    let output = Command::new(std::env::current_exe().expect("a path"))
        .args(["--stage", &stage.name(), "--policy", list.policy.name()])
        .args(["--count", &list.count.to_string(), "--list"])
        .arg(&list.path)
        .output()
        .expect("a process");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("a cost")
}

/// Runs a stage in this process; its cost as JSON.
pub(crate) fn run(stage: Stage, work: &Work<'_>) -> String {
    let cost = match stage {
        Stage::Hmac => hmac_alone(work),
        Stage::Tag => whole(work, false),
        Stage::Filter => whole(work, true),
    };
    serde_json::to_string(&cost).expect("JSON")
}

fn key() -> TagKey {
    TagKey::new(Secret::new([7; 32]))
}

fn hmac_alone(work: &Work<'_>) -> Cost {
    let values: Vec<Selector> = BufReader::new(File::open(work.list).expect("a list"))
        .lines()
        .map(|line| line.expect("UTF-8"))
        .filter_map(|line| canonical(work.policy, &line, List::region(work.policy)).ok())
        .take(HELD)
        .collect();
    let key = key();
    let mut tags = Vec::with_capacity(values.len());
    let (clock, processors) = (Instant::now(), processor_seconds("self"));
    let mut left = usize::try_from(work.count).expect("fits");
    while left > 0 {
        let values = &values[..left.min(values.len())];
        values
            .par_iter()
            .with_min_len(4096)
            .map(|value| key.tag(value))
            .collect_into_vec(&mut tags);
        left -= std::hint::black_box(&tags).len();
    }
    Cost {
        seconds: clock.elapsed().as_secs_f64(),
        processor_seconds: processor_seconds("self") - processors,
        peak_kb: peak_kb("self"),
        filter_bytes: 0,
        refused: 0,
    }
}

fn whole(work: &Work<'_>, builds: bool) -> Cost {
    let (clock, processors) = (Instant::now(), processor_seconds("self"));
    let tags = tags_of(work);
    let refused = work.count - tags.len() as u64;
    let filter_bytes = if builds { filter_of(tags) } else { 0 };
    Cost {
        seconds: clock.elapsed().as_secs_f64(),
        processor_seconds: processor_seconds("self") - processors,
        peak_kb: peak_kb("self"),
        filter_bytes,
        refused,
    }
}

/// Builds the filter as a node does, and drops it; its length.
fn filter_of(tags: Vec<Tag>) -> u64 {
    let rng = &mut os_rng();
    let tags = DistinctTags::new(tags, rng);
    let class = Class::smallest_for(tags.len()).expect("a class");
    let filter = tags.build(class, DEFAULT_K, rng).expect("a filter");
    std::hint::black_box(filter.bits()).len() as u64
}

/// The tags of a list: each thread reads a block, makes it tags, and appends them.
fn tags_of(work: &Work<'_>) -> Vec<Tag> {
    let count = usize::try_from(work.count).expect("fits");
    let list = Mutex::new(BufReader::new(File::open(work.list).expect("a list")));
    let tags = Mutex::new(Vec::with_capacity(count));
    rayon::broadcast(|_| {
        let (key, stop_list) = (key(), StopList::default());
        let (mut block, mut of_block) = (Vec::with_capacity(2 * BLOCK), Vec::new());
        loop {
            read_block(&mut list.lock().expect("not poisoned"), &mut block);
            if block.is_empty() {
                break;
            }
            let text = std::str::from_utf8(&block).expect("UTF-8");
            for line in text.lines() {
                let value = canonical(work.policy, line, List::region(work.policy));
                let Ok(value) = value else { continue };
                if stop_list.admit(work.policy, &value).is_ok() {
                    of_block.push(key.tag(&value));
                }
            }
            tags.lock().expect("not poisoned").append(&mut of_block);
        }
    });
    tags.into_inner().expect("not poisoned")
}

/// The next whole lines, about [`BLOCK`] bytes; nothing at the end.
fn read_block(list: &mut BufReader<File>, block: &mut Vec<u8>) {
    block.clear();
    let read = list.by_ref().take(BLOCK as u64).read_to_end(block);
    if read.expect("readable") > 0 {
        list.read_until(b'\n', block).expect("readable");
    }
}
