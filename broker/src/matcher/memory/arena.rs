//! Memory in huge pages, in which one filter begins where another ends: in huge pages of its own each
//! would leave a part of one unused, which is a tenth of a filter of a million selectors.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::{Advice, MmapMut, MmapRaw, UncheckedAdvice};
use rustix::param::page_size;

/// A huge page of x86-64 and AArch64.
const HUGE: usize = 2 << 20;
/// What is asked of the system at a time; what of it is not touched takes no memory.
const REGION: usize = 256 << 20;

/// Memory for filters. It takes no more than they do, but for a huge page where a gap between them begins
/// to be filled.
pub(super) struct Arena {
    /// Unmapped with the last place in them.
    regions: Mutex<Vec<Weak<Region>>>,
    /// Whether memory is asked for in huge pages.
    huge_pages: bool,
}

/// Memory of one mapping.
struct Region {
    memory: MmapRaw,
    /// Ends of the free ranges by their starts; no two of them touch.
    free: Mutex<BTreeMap<usize, usize>>,
}

/// A part of the arena, that is given back when this is dropped.
pub(super) struct Place {
    region: Arc<Region>,
    /// In the region's memory; no other place has any of it.
    start: usize,
    length: usize,
    /// Length with what is left of the last page.
    room: usize,
}

impl Arena {
    pub(super) const fn new(huge_pages: bool) -> Self {
        Self {
            regions: Mutex::new(Vec::new()),
            huge_pages,
        }
    }

    /// Takes so many bytes, which begin at a page of the system; what is in them is anybody's guess.
    ///
    /// # Errors
    /// If the system gives no more memory.
    pub(super) fn take(&self, length: usize) -> io::Result<Place> {
        // What is given back is whole pages, of which a neighbour must not have a part.
        let room = length
            .checked_next_multiple_of(page_size())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // A region is there or it is not.
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        regions.retain(|region| region.strong_count() > 0);
        let found = regions.iter().find_map(|region| {
            let region = region.upgrade()?;
            let start = region.take(room)?;
            Some((region, start))
        });
        let (region, start) = if let Some(found) = found {
            found
        } else {
            // A system that counts what is not touched may have room for this one.
            let region = Region::new(room.max(REGION), self.huge_pages)
                .or_else(|_| Region::new(room, self.huge_pages))?;
            let start = region.take(room).ok_or(io::ErrorKind::OutOfMemory)?;
            let region = Arc::new(region);
            regions.push(Arc::downgrade(&region));
            (region, start)
        };
        Ok(Place {
            region,
            start,
            length,
            room,
        })
    }
}

impl Region {
    fn new(room: usize, huge_pages: bool) -> io::Result<Self> {
        // It begins at a huge page.
        let length = room
            .checked_next_multiple_of(HUGE)
            .and_then(|length| length.checked_add(HUGE))
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = MmapRaw::from(MmapMut::map_anon(length)?);
        let start = memory.as_ptr().align_offset(HUGE);
        expect_pages(&memory, huge_pages);
        let free = BTreeMap::from([(start, length - HUGE + start)]);
        let free = Mutex::new(free);
        Ok(Self { memory, free })
    }

    /// The start of a range that nobody has.
    fn take(&self, room: usize) -> Option<usize> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (&start, &end) = free.iter().find(|&(start, end)| end - start >= room)?;
        free.remove(&start);
        if end - start > room {
            free.insert(start + room, end);
        }
        Some(start)
    }

    fn give_back(&self, range: Range<usize>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let Range { mut start, mut end } = range;
        if let Some((&before, _)) = free
            .range(..start)
            .next_back()
            .filter(|(_, e)| **e == start)
        {
            start = before;
        }
        if let Some(after) = free.remove(&end) {
            end = after;
        }
        free.insert(start, end);
        self.release(range);
    }

    /// Gives memory back to the system until it is touched again; of a huge page that others have a part of
    /// too, the rest goes on in small ones.
    fn release(&self, unused: Range<usize>) {
        // SAFETY: the range is free and of whole pages, so no place has any of it, and while the list of what is free is
        // locked none is made: nobody reads or writes there, and the zeros that it will hold are as
        // good as what it holds.
        #[expect(unsafe_code, reason = "memory given back")]
        let released = unsafe {
            self.memory.unchecked_advise_range(
                UncheckedAdvice::DontNeed,
                unused.start,
                unused.len(),
            )
        };
        if let Err(error) = released {
            tracing::warn!(%error, "memory of a filter that has ended is kept");
        }
    }
}

impl Place {
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies in the region's memory, which is mapped for as long as the region
        // lives, and is initialised, as anonymous memory is. No other place has any of it until
        // this one is dropped, and this one is written only through `&mut self`.
        #[expect(unsafe_code, reason = "a part of a mapping")]
        unsafe {
            std::slice::from_raw_parts(self.region.memory.as_ptr().add(self.start), self.length)
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; this place is borrowed by nobody else.
        #[expect(unsafe_code, reason = "a part of a mapping")]
        unsafe {
            let start = self.region.memory.as_mut_ptr().add(self.start);
            std::slice::from_raw_parts_mut(start, self.length)
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.region.give_back(self.start..self.start + self.room);
    }
}

/// A kernel that has no huge pages to give gives small ones; one that gives them unasked is told where
/// none are wanted.
#[cfg(target_os = "linux")]
fn expect_pages(memory: &MmapRaw, huge: bool) {
    let advice = if huge {
        Advice::HugePage
    } else {
        Advice::NoHugePage
    };
    if let Err(error) = memory.advise(advice) {
        tracing::debug!(%error, "pages of any size");
    }
}

#[cfg(not(target_os = "linux"))]
fn expect_pages(_: &MmapRaw, _: bool) {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is free in the region of a place.
    fn free(place: &Place) -> Vec<usize> {
        let free = place.region.free.lock().expect("no panic");
        free.iter().map(|(start, end)| end - start).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_in_a_place_stays_whatever_others_take_and_give_back(
            steps in prop::collection::vec(any::<(prop::sample::Index, u8, bool)>(), 0..40),
        ) {
            let arena = Arena::new(true);
            let mut places: Vec<(Place, u8)> = Vec::new();
            for (at, filling, gives_back) in steps {
                if gives_back && !places.is_empty() {
                    drop(places.swap_remove(at.index(places.len())));
                } else {
                    let mut place = arena.take(1 + at.index(2 * HUGE)).expect("memory");
                    place.bytes_mut().fill(filling);
                    places.push((place, filling));
                }
                for (place, filling) in &places {
                    prop_assert!(place.bytes().iter().step_by(page_size()).all(|byte| byte == filling));
                }
            }
            let last = arena.take(page_size()).expect("memory");
            drop(places);
            // All around it is one piece again.
            let around: Vec<_> = free(&last);
            prop_assert!(around.len() <= 2);
            prop_assert_eq!(around.iter().sum::<usize>(), REGION - page_size());
            let region = Arc::downgrade(&last.region);
            drop(last);
            prop_assert_eq!(region.strong_count(), 0);
        }
    }

    #[test]
    fn a_place_begins_where_another_ends_and_fills_the_first_gap() {
        let arena = Arena::new(true);
        let take = |length| arena.take(length).expect("memory");
        let (first, second, third) = (take(5 * HUGE + 1), take(2 * page_size()), take(page_size()));
        assert_eq!(second.start, first.start + 5 * HUGE + page_size());
        assert_eq!(third.start, second.start + 2 * page_size());
        let gap = second.start;
        drop(second);
        assert_eq!(take(page_size()).start, gap);
        assert_eq!(first.bytes().as_ptr().align_offset(HUGE), 0);
    }

    #[test]
    fn memory_that_is_given_back_is_the_systems_again_and_that_of_neighbours_is_not() {
        let arena = Arena::new(true);
        let fill = |length| {
            let mut place = arena.take(length).expect("memory");
            place.bytes_mut().fill(7);
            place
        };
        let (before, given_back, after) = (fill(page_size()), fill(3 * HUGE), fill(page_size()));
        drop(given_back);
        let again = arena.take(3 * HUGE).expect("memory");
        assert!(again.bytes().iter().all(|byte| *byte == 0));
        let whole = |place: &Place| place.bytes().iter().all(|byte| *byte == 7);
        assert!(whole(&before) && whole(&after));
    }

    #[test]
    fn what_is_larger_than_a_region_has_one_of_its_own() {
        let arena = Arena::new(false);
        let small = arena.take(page_size()).expect("memory");
        let mut large = arena.take(REGION + 1).expect("memory");
        large.bytes_mut()[REGION] = 7;
        assert_eq!((large.bytes()[REGION], small.bytes()[0]), (7, 0));
    }
}
