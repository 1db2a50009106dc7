//! Tags without repeats, in the order in which a filter is filled.
//!
//! Under one salt a tag and its first block (protocol §5.1, block 0) determine each other, and the
//! page grows with the block. So the blocks stand in the place of the tags, and one sort both
//! drops repeats and puts tags of a page side by side: of ten million nothing is held twice.

use aes::Aes128;
use aes::cipher::{Array, Block, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use rand::CryptoRng;
use rayon::iter::ParallelIterator as _;
use rayon::slice::ParallelSliceMut as _;
use zeroize::Zeroize;

use super::Salt;
use super::positions::LANES;
use crate::secret::Tag;

/// Tags that one core enciphers at a time.
const AT_ONCE: usize = 64 * LANES;

/// The tags of a filter to be, no two of them the same, under the salt of their filter.
pub struct DistinctTags {
    salt: Salt,
    firsts: Firsts,
}

impl DistinctTags {
    /// Drops repeats, in place, on all cores.
    #[must_use]
    pub fn new(tags: Vec<Tag>, rng: &mut impl CryptoRng) -> Self {
        let salt = Salt::generate(rng);
        let mut firsts = Firsts::of(tags, &salt);
        firsts.0.dedup();
        Self { salt, firsts }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.firsts.0.len() as u64
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.firsts.0.is_empty()
    }

    pub(super) const fn salt(&self) -> &Salt {
        &self.salt
    }

    pub(super) const fn firsts(&self) -> &Firsts {
        &self.firsts
    }

    /// Another salt in the place of one that gave no filter.
    pub(super) fn salt_anew(&mut self, rng: &mut impl CryptoRng) {
        let cipher = cipher(&self.salt);
        each_block(&mut self.firsts.0, |blocks| cipher.decrypt_blocks(blocks));
        self.salt = Salt::generate(rng);
        self.firsts.encipher(&self.salt);
    }
}

impl std::fmt::Debug for DistinctTags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DistinctTags(redacted)")
    }
}

/// First blocks of tags in the order of their pages; wiped when dropped.
pub(super) struct Firsts(Vec<Tag>);

impl Firsts {
    /// The first blocks of tags, repeats kept.
    pub(super) fn of(tags: Vec<Tag>, salt: &Salt) -> Self {
        let mut firsts = Self(tags);
        firsts.encipher(salt);
        firsts
    }

    fn encipher(&mut self, salt: &Salt) {
        let cipher = cipher(salt);
        // Block 0 is that of the tag itself: its counter is 0.
        each_block(&mut self.0, |blocks| cipher.encrypt_blocks(blocks));
        let order = |first: &Tag| u128::from_be_bytes(*first.expose());
        self.0.par_sort_unstable_by_key(order);
    }

    /// The blocks.
    pub(super) fn in_order(&self) -> &[Tag] {
        &self.0
    }
}

impl Drop for Firsts {
    fn drop(&mut self) {
        self.0
            .par_chunks_mut(AT_ONCE)
            .for_each(|tags| tags.iter_mut().for_each(Zeroize::zeroize));
    }
}

fn cipher(salt: &Salt) -> Aes128 {
    Aes128::new(&Array::from(*salt.expose()))
}

/// Puts other blocks in the place of tags, some at a time.
fn each_block(tags: &mut [Tag], change: impl Fn(&mut [Block<Aes128>]) + Sync) {
    tags.par_chunks_mut(AT_ONCE).for_each(|tags| {
        let mut blocks = [Block::<Aes128>::default(); LANES];
        for tags in tags.chunks_mut(blocks.len()) {
            let blocks = &mut blocks[..tags.len()];
            for (block, tag) in blocks.iter_mut().zip(&*tags) {
                *block = (*tag.expose()).into();
            }
            change(blocks);
            for (tag, block) in tags.iter_mut().zip(blocks) {
                *tag = Tag::new((*block).into());
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::filter::{Class, DEFAULT_K, FilterBuilder, FilterParams, Locator};

    fn tags(count: u128) -> Vec<Tag> {
        (0..count).map(|i| Tag::new(i.to_be_bytes())).collect()
    }

    #[test]
    fn tags_are_counted_once_and_told_apart_by_any_bit() {
        let mut repeated = tags(20_000);
        repeated.extend(tags(20_000));
        let distinct = DistinctTags::new(repeated, &mut StdRng::seed_from_u64(6));
        assert_eq!(distinct.len(), 20_000);
        assert!(!distinct.is_empty());
        assert_eq!(format!("{distinct:?}"), "DistinctTags(redacted)");
    }

    #[test]
    fn a_first_block_stands_for_its_tag_at_all_its_positions() {
        let params = FilterParams::new(Class::new(9).unwrap(), DEFAULT_K).unwrap();
        let salt = Salt::new([4; 16]);
        let locator = Locator::new(params, &salt);
        let firsts = Firsts::of(tags(1003), &salt);
        let mut of_firsts = Vec::new();
        locator.locate_firsts(firsts.in_order(), |head, body| {
            let mut bits = head.bits().to_vec();
            body.for_each(|bit| bits.push(bit));
            of_firsts.push((head.page(), bits));
        });
        assert!(of_firsts.is_sorted_by_key(|(page, _)| *page));
        let mut of_tags = Vec::new();
        locator.locate_all(&tags(1003), |positions| {
            of_tags.push((positions.page(), positions.bits().to_vec()));
        });
        of_firsts.sort_unstable();
        of_tags.sort_unstable();
        assert!(of_firsts == of_tags);
    }

    #[test]
    fn another_salt_keeps_the_tags() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut distinct = DistinctTags::new(tags(900), &mut rng);
        let before = distinct.salt().clone();
        distinct.salt_anew(&mut rng);
        assert!(*distinct.salt() != before);
        let class = Class::new(0).unwrap();
        let filter = distinct.build(class, DEFAULT_K, &mut rng).unwrap();
        let mut plain = FilterBuilder::new(filter.params(), filter.salt().clone());
        for tag in &tags(900) {
            plain.insert(tag);
        }
        let plain = plain.finish();
        let held = std::iter::zip(plain.bits(), filter.bits()).all(|(a, b)| a & b == *a);
        assert!(held, "every bit of every tag is set");
    }
}
