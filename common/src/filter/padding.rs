//! Padding (protocol §5.2): whatever a node holds, the published filter is half full.

use rand::CryptoRng;

use super::FilterBuilder;
use crate::secret::Tag;

/// Most padding tags that are held at once.
const AT_ONCE: u64 = 1 << 17;
/// Fewer than so many are added one by one.
const FEW: u64 = 64;

impl FilterBuilder {
    /// Adds uniformly random tags while fewer than 16384·B bits are set; returns how many were
    /// added. A filter that has as many already stays as it is.
    pub fn pad(&mut self, rng: &mut impl CryptoRng) -> u64 {
        let mut drawn = Vec::new();
        self.pad_by(|count| {
            // One call of the system for many tags, the same bytes as one for each.
            drawn.resize(count * Tag::LEN, 0);
            rng.fill_bytes(&mut drawn);
            let (tags, _) = drawn.as_chunks();
            tags.iter().copied().map(Tag::new).collect()
        })
    }

    /// As [`Self::pad`], with tags of the caller's making: for test vectors, whose padding is
    /// written down. Padding that is not random tells padding from tags.
    pub fn pad_with(&mut self, mut next: impl FnMut() -> Tag) -> u64 {
        self.pad_by(|count| (0..count).map(|_| next()).collect())
    }

    /// The same bits as if tags were added one at a time: together go only so many as cannot reach
    /// the target even if none of their bits is set yet.
    fn pad_by(&mut self, mut draw: impl FnMut(usize) -> Vec<Tag>) -> u64 {
        let mut added = 0;
        loop {
            let missing = self
                .params()
                .target_popcount()
                .saturating_sub(self.popcount());
            if missing == 0 {
                return added;
            }
            let together = (missing / u64::from(self.params().k())).min(AT_ONCE);
            if together < FEW {
                self.insert(&draw(1)[0]);
                added += 1;
            } else {
                // Unwrap safety: at most AT_ONCE.
                let count = usize::try_from(together).expect("fits");
                self.insert_all(&draw(count));
                added += together;
            }
        }
    }
}
