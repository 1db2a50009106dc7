//! Filters (protocol §5): a page-blocked Bloom filter over tags.
//!
//! A holder builds one with [`build`]; the broker accepts it by [`admission`] and tests tags with
//! [`Locator`] over mapped bytes. [`contains`] is the plain matcher that faster ones are held to.

pub mod admission;
mod build;
mod class;
mod distinct;
pub mod layers;
mod padding;
mod positions;

use std::fmt;

use bitvec::order::Lsb0;
use bitvec::slice::BitSlice;
use rand::CryptoRng;
use sha2::{Digest, Sha256};

use crate::random;
use crate::secret::{Secret, Tag};

pub use build::{BuildError, FilterBuilder, build};
pub use class::Class;
pub use distinct::DistinctTags;
pub use positions::{BODY_WORDS_PER_BLOCK, HEAD_POSITIONS, Head, Locator, Positions};

/// Bytes in a page (protocol §5).
pub const PAGE_LEN: usize = 4096;
/// Bits in a page.
pub const PAGE_BITS: u32 = 32_768;
/// Bytes in a line, the unit in which head positions lie (protocol §5.1).
pub const LINE_LEN: usize = 64;
/// `k` where a profile says nothing else.
pub const DEFAULT_K: u8 = 30;

/// Why parameters are none of this protocol's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidParams {
    /// Classes go from 0 to 60 (protocol §5.2).
    #[error("class must be 0 to 60")]
    Class,
    /// The arithmetic is defined, and tested, for these `k`; profiles are narrower.
    #[error("k must be 6 to 64")]
    K,
    /// A profile's `k` (protocol §5.1).
    #[error("the k of a profile must be 20 to 40")]
    ProfileK,
}

/// Checks the `k` of a profile: 20 to 40 (protocol §5.1).
///
/// # Errors
/// [`InvalidParams::ProfileK`] for any other.
pub fn check_profile_k(k: u8) -> Result<(), InvalidParams> {
    if (20..=40).contains(&k) {
        Ok(())
    } else {
        Err(InvalidParams::ProfileK)
    }
}

/// The shape of a filter: class and `k`, and the number of pages that follows from them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FilterParams {
    class: Class,
    k: u8,
    pages: u32,
}

impl FilterParams {
    /// The shape of a class at `k` positions a tag.
    ///
    /// # Errors
    /// [`InvalidParams::K`] for a `k` outside 6 to 64. Tests use small ones; a profile's `k` is
    /// checked by [`check_profile_k`].
    pub fn new(class: Class, k: u8) -> Result<Self, InvalidParams> {
        if !(6..=64).contains(&k) {
            return Err(InvalidParams::K);
        }
        let pages = class.pages(k);
        Ok(Self { class, k, pages })
    }

    /// The capacity class.
    pub const fn class(self) -> Class {
        self.class
    }

    /// Positions a tag.
    pub const fn k(self) -> u8 {
        self.k
    }

    /// `B`, at least 2.
    pub const fn pages(self) -> u32 {
        self.pages
    }

    /// Bytes of the filter: 4096·B.
    pub const fn byte_len(self) -> u64 {
        self.pages as u64 * PAGE_LEN as u64
    }

    /// Set bits that a filter has at least, and is padded to: 16384·B (protocol §5.2).
    pub const fn target_popcount(self) -> u64 {
        self.pages as u64 * (PAGE_BITS / 2) as u64
    }
}

/// The salt of one publication: fresh for each, known to its holder and the broker only.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt(Secret<16>);

impl Salt {
    /// A fresh salt.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(Secret::new(random::bytes(rng)))
    }

    /// Takes the bytes of a salt.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(Secret::new(bytes))
    }

    /// Takes a salt from a slice of exactly 16 bytes, else `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Secret::from_slice(bytes).map(Self)
    }

    /// The bytes, for the signed header and the broker's own store.
    pub const fn expose(&self) -> &[u8; 16] {
        self.0.expose()
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(redacted)")
    }
}

/// A finished filter, ready to be published.
#[derive(Clone)]
pub struct Filter {
    params: FilterParams,
    salt: Salt,
    bits: Vec<u8>,
}

impl Filter {
    /// Class, `k` and pages.
    pub const fn params(&self) -> FilterParams {
        self.params
    }

    /// The salt of its positions.
    pub const fn salt(&self) -> &Salt {
        &self.salt
    }

    /// The pages, 4096·B bytes, as they are uploaded.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// `digest = H(bits)` of the header (protocol §6).
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.bits).into()
    }
}

impl fmt::Debug for Filter {
    /// Without salt and bits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

/// Whether a tag is in a filter: the reference matcher, over borrowed bytes.
///
/// Bits of another length than `params` says hold nothing beyond their end.
pub fn contains(bits: &[u8], params: FilterParams, salt: &Salt, tag: &Tag) -> bool {
    let positions = Locator::new(params, salt).locate(tag);
    all_set(bits, positions.page(), positions.bits())
}

/// Whether all these positions of one page are set. A page beyond the end of `bits` has none.
pub fn all_set(bits: &[u8], page: u32, positions: &[u16]) -> bool {
    page_of(bits, page).is_some_and(|page| positions.iter().all(|&bit| page[usize::from(bit)]))
}

/// One page as bits: bit `p` is bit `p mod 8`, least significant first, of byte `p div 8`
/// (protocol §5.1).
fn page_of(bits: &[u8], page: u32) -> Option<&BitSlice<u8, Lsb0>> {
    let start = page as usize * PAGE_LEN;
    bits.get(start..start + PAGE_LEN).map(BitSlice::from_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_take_k_from_20_to_40_and_arithmetic_from_6_to_64() {
        let class = Class::new(0).unwrap();
        for k in 0..=u8::MAX {
            assert_eq!(check_profile_k(k).is_ok(), (20..=40).contains(&k), "{k}");
            let params = FilterParams::new(class, k);
            assert_eq!(params.is_ok(), (6..=64).contains(&k), "{k}");
        }
    }

    #[test]
    fn bits_are_numbered_from_the_least_significant() {
        let mut bits = vec![0; 2 * PAGE_LEN];
        bits[PAGE_LEN + 1] = 0b100;
        let page = page_of(&bits, 1).unwrap();
        assert_eq!(page.iter_ones().collect::<Vec<_>>(), [10]);
        assert!(page_of(&bits, 2).is_none());
    }

    #[test]
    fn filters_and_salts_do_not_print() {
        let filter = FilterBuilder::new(
            FilterParams::new(Class::new(0).unwrap(), 30).unwrap(),
            Salt::new([0x41; 16]),
        )
        .finish();
        let shown = format!("{filter:?} {:?}", filter.salt());
        assert!(!shown.contains("65") && !shown.contains("bits"), "{shown}");
    }
}
