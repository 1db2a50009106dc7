//! Where the bits of a tag lie (protocol §5.1).
//!
//! The head comes from the first AES block alone: a probe that misses is mostly settled there, by
//! one cache line. The body needs the blocks after it.

use aes::Aes128;
use aes::cipher::{Array, Block, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

use super::{FilterParams, LINE_LEN, Salt};
use crate::secret::Tag;

/// Head positions of every tag; the other k − 5 are body positions.
pub const HEAD_POSITIONS: usize = 5;
/// Body positions that one AES block gives.
pub const BODY_WORDS_PER_BLOCK: usize = 8;

/// Most positions a tag can have, from the largest `k`.
const MAX_K: usize = 64;
/// Blocks of a tag at the largest `k`: one for the head, the others for the body.
const MAX_BLOCKS: usize = 1 + (MAX_K - HEAD_POSITIONS).div_ceil(BODY_WORDS_PER_BLOCK);
/// Tags whose blocks are enciphered together: crate `aes` takes up to 30 blocks at a time, and the rest of a
/// call one by one.
pub(super) const LANES: usize = 30;

/// A page and the five bits in one line of it that are tested first.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    page: u32,
    bits: [u16; HEAD_POSITIONS],
}

impl Head {
    /// The page of the tag.
    pub const fn page(&self) -> u32 {
        self.page
    }

    /// The head positions, as bits of the page.
    pub const fn bits(&self) -> &[u16; HEAD_POSITIONS] {
        &self.bits
    }

    /// Where in the page, in bytes, the line of all head positions begins: a multiple of 64.
    pub const fn line_offset(&self) -> usize {
        self.bits[0] as usize / 8 / LINE_LEN * LINE_LEN
    }
}

/// All positions of one tag.
#[derive(Clone, PartialEq, Eq)]
pub struct Positions {
    page: u32,
    bits: [u16; MAX_K],
    k: u8,
}

impl Positions {
    /// The page of the tag.
    pub const fn page(&self) -> u32 {
        self.page
    }

    /// The `k` positions as bits of the page, head first, repeats kept.
    pub fn bits(&self) -> &[u16] {
        &self.bits[..usize::from(self.k)]
    }

    /// The k − 5 body positions.
    pub fn body(&self) -> &[u16] {
        &self.bits()[HEAD_POSITIONS..]
    }
}

/// The body positions of one tag, still in their blocks.
pub(super) struct Body<'a> {
    blocks: &'a [Block<Aes128>],
    count: usize,
}

impl Body<'_> {
    /// Hands the positions on, in their order: the low 15 bits of successive words (protocol §5.1).
    #[inline]
    pub(super) fn for_each(&self, mut each: impl FnMut(u16)) {
        let mut left = self.count;
        for block in self.blocks {
            let taken = left.min(BODY_WORDS_PER_BLOCK);
            for word in block.chunks_exact(2).take(taken) {
                each(u16::from_be_bytes([word[0], word[1]]) & 0x7fff);
            }
            left -= taken;
        }
    }
}

/// The positions of one filter: its salt as an AES key, its pages and its `k`.
pub struct Locator {
    cipher: Aes128,
    pages: u32,
    k: u8,
}

impl Locator {
    /// The positions of a filter of this shape and salt.
    pub fn new(params: FilterParams, salt: &Salt) -> Self {
        Self {
            cipher: Aes128::new(&Array::from(*salt.expose())),
            pages: params.pages(),
            k: params.k(),
        }
    }

    /// The heads of up to any number of tags, handed to `each` with the tag's index, in order.
    pub fn heads(&self, tags: &[Tag], mut each: impl FnMut(usize, Head)) {
        let mut blocks = [Block::<Aes128>::default(); LANES];
        for (chunk, tags) in tags.chunks(LANES).enumerate() {
            let blocks = &mut blocks[..tags.len()];
            for (block, tag) in blocks.iter_mut().zip(tags) {
                *block = counter_block(tag, 0);
            }
            self.cipher.encrypt_blocks(blocks);
            for (lane, block) in blocks.iter().enumerate() {
                each(chunk * LANES + lane, self.head_of(block));
            }
        }
    }

    /// `A_counter` of one tag: for those who take a tag's positions block by block.
    pub fn block(&self, tag: &Tag, counter: u8) -> [u8; 16] {
        let mut block = counter_block(tag, counter);
        self.cipher.encrypt_block(&mut block);
        block.into()
    }

    /// All positions of one tag.
    pub fn locate(&self, tag: &Tag) -> Positions {
        let mut blocks = [Block::<Aes128>::default(); MAX_BLOCKS];
        let blocks = &mut blocks[..=self.body_blocks()];
        for (counter, block) in (0..).zip(&mut *blocks) {
            *block = counter_block(tag, counter);
        }
        self.cipher.encrypt_blocks(blocks);
        self.positions_of(&blocks[0], &blocks[1..])
    }

    /// All positions of each tag, in order; the blocks of several tags are in flight at once.
    pub fn locate_all(&self, tags: &[Tag], mut each: impl FnMut(&Positions)) {
        let per_tag = 1 + self.body_blocks();
        let mut blocks = [Block::<Aes128>::default(); LANES * MAX_BLOCKS];
        for tags in tags.chunks(LANES) {
            let blocks = &mut blocks[..tags.len() * per_tag];
            for (blocks, tag) in blocks.chunks_mut(per_tag).zip(tags) {
                for (counter, block) in (0..).zip(blocks) {
                    *block = counter_block(tag, counter);
                }
            }
            self.cipher.encrypt_blocks(blocks);
            for blocks in blocks.chunks(per_tag) {
                each(&self.positions_of(&blocks[0], &blocks[1..]));
            }
        }
    }

    /// As [`Self::locate_all`], of tags that are given by their blocks 0, in order. The positions are not
    /// put together: whoever sets millions of bits takes them from where they are.
    pub(super) fn locate_firsts(&self, firsts: &[Tag], mut each: impl FnMut(&Head, &Body<'_>)) {
        let per_tag = self.body_blocks();
        let mut tags = [Block::<Aes128>::default(); LANES];
        let mut blocks = [Block::<Aes128>::default(); LANES * MAX_BLOCKS];
        for firsts in firsts.chunks(LANES) {
            let tags = &mut tags[..firsts.len()];
            for (tag, first) in tags.iter_mut().zip(firsts) {
                *tag = (*first.expose()).into();
            }
            self.cipher.decrypt_blocks(tags);
            let blocks = &mut blocks[..firsts.len() * per_tag];
            for (blocks, tag) in blocks.chunks_mut(per_tag).zip(&*tags) {
                let tag = Tag::new((*tag).into());
                for (counter, block) in (1..).zip(blocks) {
                    *block = counter_block(&tag, counter);
                }
            }
            self.cipher.encrypt_blocks(blocks);
            for (body, first) in blocks.chunks(per_tag).zip(firsts) {
                let body = Body {
                    blocks: body,
                    count: usize::from(self.k) - HEAD_POSITIONS,
                };
                each(&self.head_of(&(*first.expose()).into()), &body);
            }
        }
    }

    /// Blocks that a tag's body positions take.
    fn body_blocks(&self) -> usize {
        (usize::from(self.k) - HEAD_POSITIONS).div_ceil(BODY_WORDS_PER_BLOCK)
    }

    /// The page of a tag that is given by its block 0.
    pub(super) fn page_of(&self, first: &Tag) -> u32 {
        self.head_of(&(*first.expose()).into()).page
    }

    /// protocol §5.1, first two points.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the product divided by 2^64 is below `pages`"
    )]
    fn head_of(&self, block: &Block<Aes128>) -> Head {
        let [high, low] = halves(block);
        let product = u128::from(high) * u128::from(self.pages);
        let line = masked(low >> 58, 63);
        Head {
            page: (product >> 64) as u32,
            bits: [49, 40, 31, 22, 13].map(|shift| 512 * line + masked(low >> shift, 511)),
        }
    }

    /// protocol §5.1, all points: the head, then the low 15 bits of successive words.
    fn positions_of(&self, first: &Block<Aes128>, body: &[Block<Aes128>]) -> Positions {
        let head = self.head_of(first);
        let mut bits = [0; MAX_K];
        bits[..HEAD_POSITIONS].copy_from_slice(&head.bits);
        let words = body.iter().flat_map(|block| block.chunks_exact(2));
        let rest = &mut bits[HEAD_POSITIONS..usize::from(self.k)];
        for (bit, word) in rest.iter_mut().zip(words) {
            *bit = u16::from_be_bytes([word[0], word[1]]) & 0x7fff;
        }
        Positions {
            page: head.page,
            bits,
            k: self.k,
        }
    }
}

/// `tag XOR (0^15 ‖ u8(j))`.
fn counter_block(tag: &Tag, counter: u8) -> Block<Aes128> {
    let mut block = *tag.expose();
    block[15] ^= counter;
    block.into()
}

#[expect(clippy::cast_possible_truncation, reason = "to take the halves apart")]
fn halves(block: &Block<Aes128>) -> [u64; 2] {
    // A u128 is exactly the two u64 of the block, the first one high.
    let whole = u128::from_be_bytes((*block).into());
    [(whole >> 64) as u64, whole as u64]
}

/// The low bits of `value` under a mask of at most 16 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the mask takes low bits only"
)]
fn masked(value: u64, mask: u16) -> u16 {
    value as u16 & mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Class, PAGE_BITS};

    fn locator(class: u8, k: u8) -> Locator {
        let params = FilterParams::new(Class::new(class).unwrap(), k).unwrap();
        Locator::new(params, &Salt::new([class ^ k; 16]))
    }

    #[test]
    fn positions_are_in_range_and_heads_in_one_line() {
        for (class, k) in [(0, 6), (5, 20), (9, 30), (20, 40), (60, 64)] {
            let locator = locator(class, k);
            for i in 0..2000_u128 {
                let positions = locator.locate(&Tag::new(i.to_be_bytes()));
                assert!(positions.page() < locator.pages);
                assert_eq!(positions.bits().len(), usize::from(k));
                assert!(positions.bits().iter().all(|&b| u32::from(b) < PAGE_BITS));
                let line = positions.bits()[0] / 512;
                assert!(
                    positions.bits()[..HEAD_POSITIONS]
                        .iter()
                        .all(|b| b / 512 == line)
                );
            }
        }
    }

    #[test]
    fn batches_give_what_single_tags_give() {
        let locator = locator(12, 33);
        let tags: Vec<_> = (0..37_u128).map(|i| Tag::new(i.to_be_bytes())).collect();
        let mut located = Vec::new();
        locator.locate_all(&tags, |positions| located.push(positions.clone()));
        let mut heads = Vec::new();
        locator.heads(&tags, |index, head| heads.push((index, head)));
        for (index, tag) in tags.iter().enumerate() {
            let single = locator.locate(tag);
            assert!(located[index] == single);
            assert_eq!(heads[index].0, index);
            assert_eq!(heads[index].1.page(), single.page());
            assert_eq!(heads[index].1.bits(), &single.bits()[..HEAD_POSITIONS]);
            let line = heads[index].1.line_offset();
            assert!(
                heads[index]
                    .1
                    .bits()
                    .iter()
                    .all(|&bit| { (line..line + LINE_LEN).contains(&(usize::from(bit) / 8)) })
            );
            assert_eq!(single.body().len(), 28);
        }
    }

    #[test]
    fn every_page_is_used() {
        let locator = locator(6, 30);
        let mut seen = vec![0; locator.pages as usize];
        for i in 0..6000_u128 {
            seen[locator.locate(&Tag::new(i.to_be_bytes())).page() as usize] += 1;
        }
        // 1000 expected on each of 6 pages, standard deviation 29.
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
    }
}
