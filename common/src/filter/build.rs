//! Building a filter: tags in, padding, and the node's own check before it uploads.

use bitvec::order::Lsb0;
use bitvec::slice::BitSlice;
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::admission::{AdmissionError, Measure};
use super::{Class, Filter, FilterParams, InvalidParams, Locator, PAGE_LEN, Positions, Salt};
use crate::secret::Tag;

/// Salts tried before a filter is given up: an honest one fails with one salt in many thousands.
const SALTS: usize = 32;

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
/// Repeats are dropped. Rules 2 and 3 of protocol §5.3 are applied here as the broker will, and
/// another salt is drawn in the rare case that they fail.
///
/// # Errors
/// [`BuildError`] if the tags do not fit into the class, or `k` is out of bounds.
pub fn build(
    tags: impl IntoIterator<Item = Tag>,
    class: Class,
    k: u8,
    rng: &mut impl CryptoRng,
) -> Result<Filter, BuildError> {
    let params = FilterParams::new(class, k)?;
    let mut tags = Zeroizing::new(tags.into_iter().collect::<Vec<_>>());
    tags.sort_unstable();
    tags.dedup();
    let count = tags.len() as u64;
    if count > class.capacity() {
        return Err(BuildError::TooManyTags { tags: count, class });
    }

    let mut attempt = || {
        let mut builder = FilterBuilder::new(params, Salt::generate(rng));
        builder.insert_all(&tags);
        builder.pad(rng);
        let filter = builder.finish();
        Measure::of(filter.bits(), k).check(params).map(|()| filter)
    };
    let mut outcome = attempt();
    for _ in 1..SALTS {
        if outcome.is_ok() {
            break;
        }
        outcome = attempt();
    }
    outcome.map_err(BuildError::NoSalt)
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
        self.insert_all(std::slice::from_ref(tag));
    }

    /// Adds many tags, the positions of several computed at once.
    pub fn insert_all(&mut self, tags: &[Tag]) {
        let Self {
            locator,
            bits,
            popcount,
            ..
        } = self;
        locator.locate_all(tags, |positions| *popcount += set(bits, positions));
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

/// Sets the bits of one tag; returns how many were clear before.
fn set(bits: &mut [u8], positions: &Positions) -> u64 {
    let start = positions.page() as usize * PAGE_LEN;
    let page = BitSlice::<u8, Lsb0>::from_slice_mut(&mut bits[start..start + PAGE_LEN]);
    let mut fresh = 0;
    for &bit in positions.bits() {
        fresh += u64::from(!page.replace(usize::from(bit), true));
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
