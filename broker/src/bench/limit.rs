//! Lines of filters, read at random: what a test of one line each cannot be faster than.
//!
//! Each line is asked for ahead of its reading, as the matcher does it, since no other way reads them
//! as fast. There is neither AES nor anything else to do for a line.

use sotto_common::filter::LINE_LEN;

use crate::matcher::request_line;

pub(super) type Line = [u8; LINE_LEN];

/// How lines are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Requests {
    /// 64 lines ahead.
    Once,
    /// 32 lines ahead, and once more half way: a processor drops requests when too many are under
    /// way, and then a reading has to wait.
    Twice,
}

/// Reads so many lines, each anywhere in any of the filters; the sum of their first bytes, so that no
/// compiler leaves them out.
pub(super) fn read(filters: &[&[Line]], reads: usize, requests: Requests, seed: u64) -> u64 {
    match requests {
        Requests::Once => read_ahead::<64, false>(filters, reads, seed),
        Requests::Twice => read_ahead::<32, true>(filters, reads, seed),
    }
}

fn read_ahead<const AHEAD: usize, const AGAIN: bool>(
    filters: &[&[Line]],
    reads: usize,
    seed: u64,
) -> u64 {
    let mut draws = Draws(seed);
    let Some(first) = draws.line(filters) else {
        return 0;
    };
    let mut under_way = [first; AHEAD];
    let mut sum = 0;
    for i in 0..reads {
        let line = draws.line(filters).unwrap_or(first);
        request_line(line);
        if AGAIN {
            request_line(under_way[(i + AHEAD / 2) % AHEAD]);
        }
        let due = std::mem::replace(&mut under_way[i % AHEAD], line);
        sum += u64::from(due[0]);
    }
    sum
}

/// Numbers that are spread well enough, and cost next to nothing.
struct Draws(u64);

impl Draws {
    const fn draw(&mut self) -> u64 {
        const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(FACTOR);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(FACTOR);
        mixed ^ (mixed >> 32)
    }

    fn line<'a>(&mut self, filters: &[&'a [Line]]) -> Option<&'a Line> {
        let draw = self.draw();
        let lines = *filters.get(below(draw >> 32, filters.len()))?;
        lines.get(below(draw & u64::from(u32::MAX), lines.len()))
    }
}

/// A number below `bound`, of a draw of 32 bits.
fn below(draw: u64, bound: usize) -> usize {
    usize::try_from((draw * bound as u64) >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_as_likely_as_any_other() {
        let filters = [[[1; LINE_LEN]; 8], [[1; LINE_LEN]; 8]];
        let filters = filters.each_ref().map(|lines| &lines[..]);
        assert_eq!(read(&filters, 1000, Requests::Once, 7), 1000);
        assert_eq!(read(&filters, 1000, Requests::Twice, 7), 1000);
        assert_eq!(read(&[], 1000, Requests::Once, 7), 0);

        let (mut draws, mut counts) = (Draws(7), [0; 16]);
        for _ in 0..16_000 {
            let draw = draws.draw();
            let filter = below(draw >> 32, 2);
            counts[filter * 8 + below(draw & u64::from(u32::MAX), 8)] += 1;
        }
        assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
    }
}
