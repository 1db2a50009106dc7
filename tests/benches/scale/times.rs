//! How long each of many took.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Half of them took no longer than `p50_ms`, all but one of a hundred no longer than `p99_ms`.
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
pub(crate) struct Times {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Times {
    /// Of at least one.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let place = (times.len() * percent / 100).min(times.len() - 1);
            times[place].as_secs_f64() * 1000.0
        };
        Self {
            p50_ms: at(50),
            p99_ms: at(99),
        }
    }
}

/// A count, for ratios.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}
