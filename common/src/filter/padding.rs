//! Padding (protocol §5.2): whatever a node holds, the published filter is half full.

use rand::CryptoRng;

use super::FilterBuilder;
use crate::random;
use crate::secret::Tag;

impl FilterBuilder {
    /// Adds uniformly random tags one at a time while fewer than 16384·B bits are set; returns how
    /// many were added. A filter that has as many already stays as it is.
    pub fn pad(&mut self, rng: &mut impl CryptoRng) -> u64 {
        self.pad_with(|| Tag::new(random::bytes(rng)))
    }

    /// As [`Self::pad`], with tags of the caller's making: for test vectors, whose padding is
    /// written down. Padding that is not random tells padding from tags.
    pub fn pad_with(&mut self, mut next: impl FnMut() -> Tag) -> u64 {
        let mut added = 0;
        while self.popcount() < self.params().target_popcount() {
            self.insert(&next());
            added += 1;
        }
        added
    }
}
