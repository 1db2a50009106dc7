//! Canonical values to publish and to ask for; all of them invented.

use std::ops::Range;

use sotto_common::secret::Selector;

/// Telephone numbers in canonical form, one for each number of the range (below 10,000).
pub fn phones(range: Range<u32>) -> Vec<Selector> {
    range
        .map(|n| Selector::new(format!("+3161234{n:04}")))
        .collect()
}

/// E-mail addresses in canonical form, one for each number of the range.
pub fn emails(range: Range<u32>) -> Vec<Selector> {
    range
        .map(|n| Selector::new(format!("suspect{n}@example.org")))
        .collect()
}
