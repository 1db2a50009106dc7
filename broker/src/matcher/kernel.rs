//! Testing the tags of a batch against one filter, close to the rate at which memory can be read at
//! random.
//!
//! A tag that is not in a filter costs one AES block and, in 31 of 32 cases, one line that is not in
//! any cache (protocol §5.1). So the loop never waits for a line: it asks for the lines of tags to
//! come while it tests those that it asked for before. Of each tag the head alone is tested, without
//! a branch; the few that pass go on to [`bodies`], whose lines are asked for in the same way.
//!
//! A processor drops a request for a line when too many are under way, and then the test has to
//! wait. Requests are therefore spread over the tests instead of coming in bursts, and each is made
//! once more half way, which costs nothing where the first was heard.
//!
//! There are two kernels with the same answers: [`vaes`], by vector instructions that are looked for
//! when a filter is taken in, and [`portable`]. Both are held to `sotto_common::filter::contains`.

mod bodies;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vaes;

use sotto_common::filter::{FilterParams, LINE_LEN, Locator, PAGE_LEN, Salt};
use sotto_common::secret::Tag;

/// Tags whose heads are found together.
const GROUP: usize = 16;
/// Groups between the request for a line and its test.
const AHEAD: usize = 2;
/// Groups that are kept: those under way, and the one that is tested.
const KEPT: usize = 4;
/// Lines of a page.
const LINES: usize = PAGE_LEN / LINE_LEN;

type Page = [u8; PAGE_LEN];
type Line = [u8; LINE_LEN];

/// How one filter is tested.
pub(super) struct Kernel {
    params: FilterParams,
    locator: Locator,
    #[cfg(target_arch = "x86_64")]
    schedule: Option<vaes::Schedule>,
}

/// One filter as a kernel sees it.
struct View<'a> {
    params: FilterParams,
    locator: &'a Locator,
    /// As many as `params` says.
    pages: &'a [Page],
}

impl View<'_> {
    /// Every line, those of a page one after the other.
    const fn lines(&self) -> &[Line] {
        self.pages.as_flattened().as_chunks().0
    }
}

impl Kernel {
    /// The best kernel that this machine has.
    pub(super) fn new(params: FilterParams, salt: &Salt) -> Self {
        Self {
            params,
            locator: Locator::new(params, salt),
            #[cfg(target_arch = "x86_64")]
            schedule: vaes::Schedule::new(salt),
        }
    }

    /// The portable kernel, whatever the machine has.
    #[cfg(test)]
    fn portable(params: FilterParams, salt: &Salt) -> Self {
        Self {
            params,
            locator: Locator::new(params, salt),
            #[cfg(target_arch = "x86_64")]
            schedule: None,
        }
    }

    /// Hands the index of each tag that is in the filter to `hit`, in no order. Bits of another
    /// length than the parameters say hold nothing.
    pub(super) fn test(&self, bits: &[u8], tags: &[Tag], hit: impl FnMut(usize)) {
        let (pages, rest) = bits.as_chunks();
        if pages.len() != self.params.pages() as usize || !rest.is_empty() || tags.is_empty() {
            return;
        }
        let view = View {
            params: self.params,
            locator: &self.locator,
            pages,
        };
        #[cfg(target_arch = "x86_64")]
        if let Some(schedule) = &self.schedule {
            return vaes::test(schedule, &view, tags, hit);
        }
        portable::test(&view, tags, hit);
    }
}

/// Asks for a line, so that it is near when it is read.
#[inline]
pub(crate) fn request(line: &Line) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a request reads nothing and never faults, and the instruction is part of every
        // x86-64 processor.
        #[expect(unsafe_code, reason = "a prefetch")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    // Elsewhere the processor looks ahead by itself: there is no stable way to ask.
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = line;
}

/// Those of a group's tests that are of a tag: the last group may be short.
fn of_tags(mask: u32, tags: usize) -> u32 {
    if tags < GROUP {
        mask & ((1 << tags) - 1)
    } else {
        mask
    }
}

#[cfg(test)]
mod tests;
