//! Progress bars: on a terminal only, without colours, on standard error.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over bytes; without a length it only counts.
pub(crate) fn bytes(length: Option<u64>) -> ProgressBar {
    let template = match length {
        Some(_) => "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left {msg}",
        None => "{spinner} {bytes}, {bytes_per_sec} {msg}",
    };
    styled(ProgressBar::with_draw_target(length, target()), template)
}

/// A bar over record refs.
pub(crate) fn records() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), target());
    styled(bar, "{bar:30} {human_pos} of {human_len} records, {msg}")
}

fn target() -> indicatif::ProgressDrawTarget {
    // Hides itself where standard error is no terminal.
    indicatif::ProgressDrawTarget::stderr()
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        // A malformed template would be a fault of this file; the plain bar does as well.
        Err(_) => bar,
    }
}
