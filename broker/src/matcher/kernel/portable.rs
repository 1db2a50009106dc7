//! The kernel of machines without vector AES, in plain Rust.

use sotto_common::filter::{Head, LINE_LEN};
use sotto_common::secret::Tag;

use super::bodies::Bodies;
use super::{AHEAD, GROUP, KEPT, LINES, Line, View, of_tags, request};

/// A head on its way: which line of all, and the head positions.
#[derive(Clone, Copy, Default)]
struct Waiting {
    line: usize,
    head: Head,
}

pub(super) fn test(view: &View<'_>, tags: &[Tag], mut hit: impl FnMut(usize)) {
    let lines = view.lines();
    let mut bodies = Bodies::new(view, tags);
    let mut kept = [[Waiting::default(); GROUP]; KEPT];
    let groups = tags.len().div_ceil(GROUP);
    for group in 0..groups + AHEAD {
        if let Some(tags) = tags.chunks(GROUP).nth(group) {
            let fresh = &mut kept[group % KEPT];
            view.locator.heads(tags, |i, head| {
                let in_page = head.line_offset() / LINE_LEN;
                let line = head.page() as usize * LINES + in_page;
                fresh[i] = Waiting { line, head };
            });
        }
        let fresh = &kept[group % KEPT];
        let again = &kept[(group + KEPT - AHEAD / 2) % KEPT];
        let ready = &kept[(group + KEPT - AHEAD) % KEPT];
        let mut passed = 0;
        for i in 0..GROUP {
            request(&lines[fresh[i].line]);
            request(&lines[again[i].line]);
            passed |= u32::from(passes(&lines[ready[i].line], &ready[i].head)) << i;
        }
        let Some(from) = group.checked_sub(AHEAD).map(|ready| ready * GROUP) else {
            continue;
        };
        passed = of_tags(passed, tags.len() - from);
        while passed != 0 {
            let i = passed.trailing_zeros() as usize;
            passed &= passed - 1;
            bodies.push(from + i, ready[i].line, &mut hit);
        }
    }
    bodies.finish(&mut hit);
}

/// Whether all head positions are set; without a branch, as half of all tests go either way at
/// each position.
fn passes(line: &Line, head: &Head) -> bool {
    let all = head.bits().iter().fold(1, |all, &bit| {
        let bit = usize::from(bit) % (8 * LINE_LEN);
        all & (line[bit / 8] >> (bit % 8))
    });
    all & 1 == 1
}
