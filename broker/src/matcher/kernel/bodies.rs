//! Tags that have passed the head, one in 32: the k − 5 body positions (protocol §5.1).

use sotto_common::filter::{BODY_WORDS_PER_BLOCK, HEAD_POSITIONS, LINE_LEN, PAGE_LEN};
use sotto_common::secret::Tag;

use super::{LINES, Page, View, request};

/// Tags that wait for their lines at a time: one comes in 32 tests, so each waits for 256.
const WAITING: usize = 8;
/// Lines that are asked for ahead: a body that misses does so within them in seven of eight cases.
const REQUESTED: usize = 3;

/// A tag on its way.
#[derive(Clone, Copy)]
struct Body {
    tag: usize,
    page: usize,
    /// `A_1` of the tag.
    first: [u8; 16],
}

/// The tags of one batch on their way, the oldest of which is tested as a new one comes.
pub(super) struct Bodies<'a> {
    view: &'a View<'a>,
    tags: &'a [Tag],
    waiting: [Option<Body>; WAITING],
    next: usize,
}

impl<'a> Bodies<'a> {
    pub(super) const fn new(view: &'a View<'a>, tags: &'a [Tag]) -> Self {
        Self {
            view,
            tags,
            waiting: [None; WAITING],
            next: 0,
        }
    }

    /// Takes the tag of this index, whose head is set in this line of all.
    #[inline]
    pub(super) fn push(&mut self, tag: usize, line: usize, hit: &mut impl FnMut(usize)) {
        let page = line / LINES;
        let first = self.view.locator.block(&self.tags[tag], 1);
        let lines = self.view.pages[page].as_chunks::<LINE_LEN>().0;
        for &word in first.as_chunks().0.iter().take(REQUESTED) {
            request(&lines[position(word) / 8 / LINE_LEN]);
        }
        let body = Body { tag, page, first };
        if let Some(oldest) = self.waiting[self.next].replace(body) {
            self.settle(&oldest, hit);
        }
        self.next = (self.next + 1) % WAITING;
    }

    /// Tests those that still wait.
    pub(super) fn finish(mut self, hit: &mut impl FnMut(usize)) {
        for slot in 0..WAITING {
            if let Some(body) = self.waiting[slot].take() {
                self.settle(&body, hit);
            }
        }
    }

    fn settle(&self, body: &Body, hit: &mut impl FnMut(usize)) {
        let page = &self.view.pages[body.page];
        let mut left = usize::from(self.view.params.k()) - HEAD_POSITIONS;
        let mut block = body.first;
        let mut counter = 1;
        loop {
            let words = left.min(BODY_WORDS_PER_BLOCK);
            if !all_set(page, &block, words) {
                return;
            }
            left -= words;
            if left == 0 {
                return hit(body.tag);
            }
            counter += 1;
            block = self.view.locator.block(&self.tags[body.tag], counter);
        }
    }
}

/// Whether the positions of the first words of a block are set.
fn all_set(page: &Page, block: &[u8; 16], words: usize) -> bool {
    block.as_chunks().0.iter().take(words).all(|&word| {
        let bit = position(word);
        page[bit / 8] >> (bit % 8) & 1 == 1
    })
}

/// The low 15 bits: a bit of a page.
fn position(word: [u8; 2]) -> usize {
    usize::from(u16::from_be_bytes(word)) % (8 * PAGE_LEN)
}
