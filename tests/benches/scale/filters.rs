//! Filters as full ones are, in files, without the tags that would have made them.
//!
//! Of a full filter half of the bits are set, at random to anyone who lacks the tags; so are those of
//! these. What a tag costs that is in none of them does not differ.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};
use sotto_broker::bench::{FilterMemory, Matching};
use sotto_common::filter::admission::false_positive_rate;
use sotto_common::filter::{Class, DEFAULT_K, FilterParams, Salt};
use sotto_common::ids::NodeId;
use sotto_tests::node;
use tempfile::TempDir;

/// A filter of each of several holders, all for as many selectors.
pub(crate) struct Filters {
    pub(crate) params: FilterParams,
    /// Of the first of them.
    pub(crate) false_positive_rate: f64,
    holders: Vec<Holder>,
    /// Goes with this.
    _dir: TempDir,
}

struct Holder {
    id: NodeId,
    salt: Salt,
    bits: PathBuf,
}

impl Filters {
    /// Writes them to a folder below `dir`.
    pub(crate) fn write(dir: &Path, holders: usize, selectors: u64, rng: &mut StdRng) -> Self {
        let class = Class::smallest_for(selectors).expect("a class");
        let params = FilterParams::new(class, DEFAULT_K).expect("parameters");
        let dir = tempfile::tempdir_in(dir).expect("a folder");
        let mut bits = vec![0; usize::try_from(params.byte_len()).expect("fits")];
        let mut rate = 0.0;
        let holder = |number: usize| {
            rng.fill_bytes(&mut bits);
            if number == 0 {
                rate = false_positive_rate(&bits, DEFAULT_K);
            }
            let file = dir.path().join(number.to_string());
            std::fs::write(&file, &bits).expect("written");
            Holder {
                id: format!("de-holder-{number}").parse().expect("a node"),
                salt: Salt::new(rng.random()),
                bits: file,
            }
        };
        let holders = (0..holders).map(holder).collect();
        Self {
            params,
            false_positive_rate: rate,
            holders,
            _dir: dir,
        }
    }

    /// How many holders there are.
    pub(crate) fn len(&self) -> usize {
        self.holders.len()
    }

    /// Active in a matcher, their bits where `memory` says.
    pub(crate) fn activate(&self, memory: FilterMemory) -> Matching {
        let prober = "nl-prober".parse().expect("a node");
        let matching = Matching::in_memory(memory, node::community(), node::epoch(1), prober);
        for holder in &self.holders {
            let taken = matching.activate_bits(&holder.id, self.params, &holder.salt, &holder.bits);
            taken.expect("mapped");
        }
        matching
    }

    /// The first so many holders.
    pub(crate) fn first(&self, count: usize) -> BTreeSet<NodeId> {
        let first = self.holders.iter().take(count);
        first.map(|holder| holder.id.clone()).collect()
    }
}
