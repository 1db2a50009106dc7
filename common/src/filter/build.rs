//! Building a filter: tags in, padding, and the node's own check before it uploads.
//!
//! The work goes page by page on all cores: tags lie in the order of their pages, so that a page is
//! in the processor's cache while its bits are set.

use rand::CryptoRng;
use rayon::iter::{IndexedParallelIterator as _, ParallelIterator as _};
use rayon::slice::ParallelSliceMut as _;

use super::admission::{AdmissionError, Measure};
use super::distinct::{DistinctTags, Firsts};
use super::{
    Class, Filter, FilterParams, InvalidParams, Locator, PAGE_BITS, PAGE_LEN, Positions, Salt,
};
use crate::secret::Tag;

/// Salts tried before a filter is given up: an honest one fails with one salt in many thousands.
const SALTS: usize = 32;

/// Pages that one core fills at a time.
const PAGES_AT_ONCE: u32 = 64;

/// With fewer tags in each of many pages, set bits are counted as they are set; with more it is quicker to
/// count those of the pages before and after.
const FEW_AT_A_PAGE: usize = 16;

/// Why no filter could be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `k` is outside the bounds.
    #[error(transparent)]
    Params(#[from] InvalidParams),
    /// There are more distinct tags than the class holds: take a larger allowed class.
    #[error("{tags} tags do not fit into class {class}, which holds {}", class.capacity())]
    TooManyTags {
        /// Distinct tags given, canaries included.
        tags: u64,
        /// The class asked for.
        class: Class,
    },
    /// No salt gave a filter that the broker would accept: report it, it should not happen.
    #[error("no salt gave an acceptable filter; the last one failed: {0}")]
    NoSalt(AdmissionError),
}

/// Builds a padded filter of the tags, the policy's canary tags among them (protocol §5.2).
///
/// Repeats are dropped. Who needs to know first how many are left takes [`DistinctTags`].
///
/// # Errors
/// [`BuildError`] if the tags do not fit into the class, or `k` is out of bounds.
pub fn build(
    tags: impl IntoIterator<Item = Tag>,
    class: Class,
    k: u8,
    rng: &mut impl CryptoRng,
) -> Result<Filter, BuildError> {
    DistinctTags::new(tags.into_iter().collect(), rng).build(class, k, rng)
}

impl DistinctTags {
    /// Builds a padded filter of these tags.
    ///
    /// Rules 2 and 3 of protocol §5.3 are applied here as the broker will, and another salt is
    /// drawn in the rare case that they fail.
    ///
    /// # Errors
    /// [`BuildError`] if the tags do not fit into the class, or `k` is out of bounds.
    pub fn build(
        mut self,
        class: Class,
        k: u8,
        rng: &mut impl CryptoRng,
    ) -> Result<Filter, BuildError> {
        let params = FilterParams::new(class, k)?;
        let tags = self.len();
        if tags > class.capacity() {
            return Err(BuildError::TooManyTags { tags, class });
        }
        let mut outcome = self.attempt(params, rng);
        for _ in 1..SALTS {
            if outcome.is_ok() {
                break;
            }
            self.salt_anew(rng);
            outcome = self.attempt(params, rng);
        }
        outcome.map_err(BuildError::NoSalt)
    }

    fn attempt(
        &self,
        params: FilterParams,
        rng: &mut impl CryptoRng,
    ) -> Result<Filter, AdmissionError> {
        let mut builder = FilterBuilder::new(params, self.salt().clone());
        builder.insert_firsts(self.firsts());
        builder.pad(rng);
        let filter = builder.finish();
        let measure = Measure::of(filter.bits(), params.k());
        measure.check(params).map(|()| filter)
    }
}

/// A filter under construction.
pub struct FilterBuilder {
    params: FilterParams,
    salt: Salt,
    locator: Locator,
    bits: Vec<u8>,
    popcount: u64,
}

impl FilterBuilder {
    /// An empty filter.
    #[must_use]
    pub fn new(params: FilterParams, salt: Salt) -> Self {
        Self {
            params,
            locator: Locator::new(params, &salt),
            salt,
            bits: vec![0; params.pages() as usize * PAGE_LEN],
            popcount: 0,
        }
    }

    /// Class, `k` and pages.
    pub const fn params(&self) -> FilterParams {
        self.params
    }

    /// Set bits so far.
    pub const fn popcount(&self) -> u64 {
        self.popcount
    }

    /// Adds one tag.
    pub fn insert(&mut self, tag: &Tag) {
        let positions = self.locator.locate(tag);
        let start = positions.page() as usize * PAGE_LEN;
        self.popcount += set(&mut self.bits[start..start + PAGE_LEN], &positions);
    }

    /// Adds many tags; they are copied to be put in order.
    pub fn insert_all(&mut self, tags: &[Tag]) {
        let firsts = Firsts::of(tags.to_vec(), &self.salt);
        self.insert_firsts(&firsts);
    }

    /// Adds tags that lie in the order of their pages: each core fills pages of its own.
    fn insert_firsts(&mut self, firsts: &Firsts) {
        let (locator, firsts) = (&self.locator, firsts.in_order());
        let before = |page: u32| firsts.partition_point(|first| locator.page_of(first) < page);
        let fresh = |(part, bits): (u32, &mut [u8])| {
            let first = part * PAGES_AT_ONCE;
            let own = &firsts[before(first)..before(first.saturating_add(PAGES_AT_ONCE))];
            fill(locator, bits, first, own)
        };
        // Unwrap safety: a filter has fewer than 2^22 pages.
        let number = |part: usize| u32::try_from(part).expect("a number of pages");
        let parts = self
            .bits
            .par_chunks_mut(PAGES_AT_ONCE as usize * PAGE_LEN)
            .enumerate();
        self.popcount += parts
            .map(|(part, bits)| fresh((number(part), bits)))
            .sum::<u64>();
    }

    /// The filter as it stands; see [`Self::pad`].
    #[must_use]
    pub fn finish(self) -> Filter {
        Filter {
            params: self.params,
            salt: self.salt,
            bits: self.bits,
        }
    }
}

/// Sets the bits of tags in their pages, the first of which is given; returns how many were clear
/// before.
fn fill(locator: &Locator, bits: &mut [u8], first: u32, own: &[Tag]) -> u64 {
    let few = own.len() < FEW_AT_A_PAGE * bits.len() / PAGE_LEN;
    let set_before = if few { 0 } else { ones(bits) };
    let pages = bits.as_chunks_mut::<PAGE_LEN>().0;
    let mut fresh = 0;
    locator.locate_firsts(own, |head, body| {
        let page = &mut pages[(head.page() - first) as usize];
        if few {
            let mut count = |bit| fresh += u64::from(set_bit(page, bit));
            head.bits().iter().copied().for_each(&mut count);
            body.for_each(count);
        } else {
            for &bit in head.bits() {
                set_bit(page, bit);
            }
            body.for_each(|bit| {
                set_bit(page, bit);
            });
        }
    });
    if few { fresh } else { ones(bits) - set_before }
}

/// Sets a bit of a page; tells whether it was clear.
#[inline]
fn set_bit(page: &mut [u8; PAGE_LEN], bit: u16) -> bool {
    // protocol §5.1: the least significant bit of a byte is its first. A position is below the bound,
    // and this spares a check of it.
    let bit = usize::from(bit) % PAGE_BITS as usize;
    let (byte, mask) = (&mut page[bit / 8], 1 << (bit % 8));
    let clear = *byte & mask == 0;
    *byte |= mask;
    clear
}

/// How many bits of whole pages are set.
fn ones(pages: &[u8]) -> u64 {
    let words = pages.as_chunks().0.iter();
    let ones = words.map(|&word| u64::from(u64::from_ne_bytes(word).count_ones()));
    ones.sum()
}

/// Sets the bits of one tag in its page; returns how many were clear before.
fn set(page: &mut [u8], positions: &Positions) -> u64 {
    let mut fresh = 0;
    for &bit in positions.bits() {
        // protocol §5.1: the least significant bit of a byte is its first.
        let (byte, mask) = (&mut page[usize::from(bit / 8)], 1 << (bit % 8));
        fresh += u64::from(*byte & mask == 0);
        *byte |= mask;
    }
    fresh
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn rng() -> StdRng {
        StdRng::seed_from_u64(5)
    }

    fn tags(count: u128) -> impl Iterator<Item = Tag> {
        (0..count).map(|i| Tag::new(i.to_be_bytes()))
    }

    #[test]
    fn counts_bits_as_they_are_set() {
        let params = FilterParams::new(Class::new(3).unwrap(), 30).unwrap();
        let mut builder = FilterBuilder::new(params, Salt::new([1; 16]));
        builder.insert_all(&tags(500).collect::<Vec<_>>());
        builder.insert(&Tag::new([9; 16]));
        builder.insert(&Tag::new([9; 16]));
        let counted = builder.popcount();
        assert_eq!(counted, Measure::of(builder.finish().bits(), 30).popcount);
    }

    #[test]
    fn repeated_tags_do_not_count_against_the_class() {
        let class = Class::new(0).unwrap();
        assert!(build(tags(1000).chain(tags(1000)), class, 30, &mut rng()).is_ok());
        let refused = build(tags(1001), class, 30, &mut rng());
        assert!(matches!(
            refused,
            Err(BuildError::TooManyTags { tags: 1001, .. })
        ));
    }

    #[test]
    fn an_empty_filter_is_all_padding() {
        let filter = build([], Class::new(0).unwrap(), 30, &mut rng()).unwrap();
        let target = filter.params().target_popcount();
        let popcount = Measure::of(filter.bits(), 30).popcount;
        assert!((target..target + 30).contains(&popcount));
    }

    #[test]
    fn two_filters_of_the_same_tags_have_nothing_in_common() {
        let class = Class::new(0).unwrap();
        let mut rng = rng();
        let one = build(tags(900), class, 30, &mut rng).unwrap();
        let other = build(tags(900), class, 30, &mut rng).unwrap();
        let shared: u32 = std::iter::zip(one.bits(), other.bits())
            .map(|(a, b)| (a & b).count_ones())
            .sum();
        // Half of a half of 65,536 bits; the standard deviation is below 150.
        assert!((15_400..17_400).contains(&shared), "{shared}");
    }
}
