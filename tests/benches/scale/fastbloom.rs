//! The same test by crate `fastbloom`, a filter for each holder: what one would write without a
//! matcher.

use ::fastbloom::{BloomFilter, optimal_size};
use rand::RngExt as _;
use rand::rngs::StdRng;
use sotto_common::filter::DEFAULT_K;
use sotto_common::secret::Tag;

/// A filter of each of several holders.
pub(crate) struct PlainFilters {
    filters: Vec<BloomFilter>,
}

impl PlainFilters {
    /// Filters for so many selectors, of this rate of false positives: half of their bits are set, at
    /// random, as insertion would have left them.
    pub(crate) fn draw(holders: usize, selectors: u64, rate: f64, rng: &mut StdRng) -> Self {
        let selectors = usize::try_from(selectors).expect("fits");
        let words = optimal_size(selectors, rate).div_ceil(64);
        let filter = |_| {
            let bits: Vec<u64> = (0..words).map(|_| rng.random()).collect();
            let seeded = BloomFilter::from_vec(bits).seed(&rng.random());
            seeded.hashes(u32::from(DEFAULT_K))
        };
        Self {
            filters: (0..holders).map(filter).collect(),
        }
    }

    /// Bytes of one.
    pub(crate) fn bytes(&self) -> u64 {
        self.filters.first().map_or(0, BloomFilter::num_bits) as u64 / 8
    }

    /// Tests every tag against every filter; tells how many matches there are.
    pub(crate) fn probe(&self, tags: &[Tag]) -> usize {
        let of_filter = |filter: &BloomFilter| {
            tags.iter()
                .filter(|tag| filter.contains(tag.expose()))
                .count()
        };
        self.filters.iter().map(of_filter).sum()
    }
}
