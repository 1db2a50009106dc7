//! What the broker accepts (protocol §5.3): four rules over a header, the bits, and what the
//! broker knows.
//!
//! [`check_offer`] needs the header only, so that a hopeless upload never starts; [`check_bits`]
//! reads the bits once for digest and counts, then once more at the canaries' pages.

use sha2::{Digest, Sha256};

use super::{Class, FilterParams, LINE_LEN, PAGE_BITS, PAGE_LEN, Salt, contains};
use crate::error::{Error, ErrorCode};
use crate::secret::Tag;

/// Head positions as an exponent.
const HEAD: i32 = 5;

/// What a filter header claims (protocol §6), as far as the rules ask for it.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Capacity class as sent.
    pub class: u8,
    /// Positions a tag as sent.
    pub k: u8,
    /// Number of pages as sent.
    pub pages: u32,
    /// The salt of the positions.
    pub salt: Salt,
    /// Version of (holder, policy) in the epoch, counted over bases and supplements.
    pub version: u64,
    /// Digest of the bits.
    pub digest: [u8; 32],
    /// The holder's own `forms(policy)`.
    pub forms: [u8; 32],
}

/// What the broker knows of (holder, epoch, policy) when a filter is offered.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The largest class that the operator allows this node for the policy.
    pub max_class: Class,
    /// The `k` of the epoch's profile for the policy.
    pub k: u8,
    /// Whether the salt was used in this community by any other publication.
    pub salt_seen: bool,
    /// The last accepted version, 0 before the first.
    pub last_version: u64,
    /// The canary tags that the manifest gives for the policy.
    pub canaries: &'a [Tag],
    /// The `forms` that the manifest gives for the policy.
    pub forms: [u8; 32],
}

/// Which rule of protocol §5.3 refuses a filter.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum AdmissionError {
    /// Rule 1.
    #[error("rule 1: class {class} is not allowed: use one from 0 to {max}, or ask the operator")]
    ClassNotAllowed {
        /// The class as sent.
        class: u8,
        /// The largest allowed class.
        max: Class,
    },
    /// Rule 1.
    #[error("rule 1: k = {k} is not the profile's {expected}")]
    KNotAllowed {
        /// The `k` as sent.
        k: u8,
        /// The profile's `k`.
        expected: u8,
    },
    /// Rule 1.
    #[error("rule 1: {actual} bytes where the class has {expected}")]
    Length {
        /// Bytes claimed or sent.
        actual: u64,
        /// 4096·B of the class.
        expected: u64,
    },
    /// Rule 1.
    #[error("rule 1: the digest is not that of the bits: build and announce the filter again")]
    Digest,
    /// Rule 1.
    #[error("rule 1: this salt was used before: build the filter again")]
    SaltReused,
    /// Rule 1.
    #[error("rule 1: version {actual} where {expected} is next")]
    Version {
        /// The version as sent.
        actual: u64,
        /// Last accepted version + 1.
        expected: u64,
    },
    /// Rule 2.
    #[error("rule 2: {actual} bits are set, not {min} to {max}: build the filter again")]
    Popcount {
        /// Set bits.
        actual: u64,
        /// 16384·B.
        min: u64,
        /// 16384·B + k − 1.
        max: u64,
    },
    /// Rule 3.
    #[error("rule 3: false-positive rate {actual:.3e} is above {max:.3e}: build the filter again")]
    Rate {
        /// `f` of the bits.
        actual: f64,
        /// 2^(−0.8·k).
        max: f64,
    },
    /// Rule 4.
    #[error("rule 4: a canary tag is missing: the epoch key or the policy is not the right one")]
    CanaryMissing,
    /// Rule 4.
    #[error("rule 4: forms is not the manifest's: this node's normal form differs")]
    FormsMismatch,
}

impl AdmissionError {
    /// The code on the wire.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::ClassNotAllowed { .. } | Self::KNotAllowed { .. } => ErrorCode::FilterClass,
            Self::Length { .. } => ErrorCode::FilterLength,
            Self::Digest => ErrorCode::FilterDigest,
            Self::SaltReused => ErrorCode::SaltReused,
            Self::Version { .. } => ErrorCode::VersionNotNext,
            Self::Popcount { .. } => ErrorCode::FilterPopcount,
            Self::Rate { .. } => ErrorCode::FilterRate,
            Self::CanaryMissing => ErrorCode::CanaryMissing,
            Self::FormsMismatch => ErrorCode::FormsMismatch,
        }
    }
}

impl From<AdmissionError> for Error {
    fn from(refusal: AdmissionError) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

/// What the bits of a filter say about themselves.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Measure {
    /// Set bits.
    pub popcount: u64,
    /// `f`: the probability that a random tag is in the filter.
    pub rate: f64,
}

impl Measure {
    /// Measures bits of whole pages at `k` (at least 6).
    pub fn of(bits: &[u8], k: u8) -> Self {
        let mut meter = Meter::new(k);
        bits.chunks_exact(PAGE_LEN)
            .for_each(|page| meter.page(page));
        meter.finish()
    }

    /// Rules 2 and 3, which a node applies too before it uploads.
    ///
    /// # Errors
    /// [`AdmissionError::Popcount`] or [`AdmissionError::Rate`].
    pub fn check(&self, params: FilterParams) -> Result<(), AdmissionError> {
        let min = params.target_popcount();
        let max = min + u64::from(params.k()) - 1;
        if !(min..=max).contains(&self.popcount) {
            return Err(AdmissionError::Popcount {
                actual: self.popcount,
                min,
                max,
            });
        }
        let max = (-0.8 * f64::from(params.k())).exp2();
        if self.rate > max {
            return Err(AdmissionError::Rate {
                actual: self.rate,
                max,
            });
        }
        Ok(())
    }
}

/// Measures a filter page by page, as a file is read.
#[derive(Clone, Debug)]
pub struct Meter {
    body: i32,
    pages: f64,
    popcount: u64,
    sum: f64,
}

impl Meter {
    /// Begins at `k` (at least 6) positions a tag.
    #[must_use]
    pub fn new(k: u8) -> Self {
        Self {
            body: i32::from(k) - HEAD,
            pages: 0.0,
            popcount: 0,
            sum: 0.0,
        }
    }

    /// Takes the next page, 4096 bytes.
    pub fn page(&mut self, page: &[u8]) {
        let mut set = 0;
        let mut heads = 0.0;
        for line in page.chunks_exact(LINE_LEN) {
            let in_line = count_ones(line);
            set += in_line;
            heads += (f64::from(in_line) / 512.0).powi(HEAD);
        }
        // protocol §5.3: the summand of one page.
        self.sum += heads / 64.0 * (f64::from(set) / f64::from(PAGE_BITS)).powi(self.body);
        self.popcount += u64::from(set);
        self.pages += 1.0;
    }

    /// What was measured; a rate of 0 where there was no page.
    pub fn finish(&self) -> Measure {
        Measure {
            popcount: self.popcount,
            rate: self.sum / self.pages.max(1.0),
        }
    }
}

/// `f` of protocol §5.3: the probability that a random tag is in these bits.
pub fn false_positive_rate(bits: &[u8], k: u8) -> f64 {
    Measure::of(bits, k).rate
}

/// The part of rules 1 and 4 that the header alone decides; gives the shape to expect.
///
/// # Errors
/// The first rule that refuses.
pub fn check_offer(offer: &Offer, facts: &Facts<'_>) -> Result<FilterParams, AdmissionError> {
    let not_allowed = AdmissionError::ClassNotAllowed {
        class: offer.class,
        max: facts.max_class,
    };
    let class = Class::new(offer.class).map_err(|_| not_allowed)?;
    if class > facts.max_class {
        return Err(not_allowed);
    }
    let wrong_k = AdmissionError::KNotAllowed {
        k: offer.k,
        expected: facts.k,
    };
    if offer.k != facts.k {
        return Err(wrong_k);
    }
    let params = FilterParams::new(class, offer.k).map_err(|_| wrong_k)?;
    check_length(u64::from(offer.pages) * PAGE_LEN as u64, params)?;
    if facts.salt_seen {
        return Err(AdmissionError::SaltReused);
    }
    let expected = facts.last_version.saturating_add(1);
    if offer.version != expected {
        return Err(AdmissionError::Version {
            actual: offer.version,
            expected,
        });
    }
    if offer.forms != facts.forms {
        return Err(AdmissionError::FormsMismatch);
    }
    Ok(params)
}

/// Everything that needs the bits: length and digest, rules 2 and 3, the canaries of rule 4.
///
/// # Errors
/// The first rule that refuses.
pub fn check_bits(
    offer: &Offer,
    params: FilterParams,
    canaries: &[Tag],
    bits: &[u8],
) -> Result<Measure, AdmissionError> {
    check_length(bits.len() as u64, params)?;
    // One pass: a filter of 4 GB comes from the disk once.
    let mut hasher = Sha256::new();
    let mut meter = Meter::new(params.k());
    for page in bits.chunks_exact(PAGE_LEN) {
        hasher.update(page);
        meter.page(page);
    }
    if hasher.finalize()[..] != offer.digest {
        return Err(AdmissionError::Digest);
    }
    let measure = meter.finish();
    measure.check(params)?;
    let all_present = canaries
        .iter()
        .all(|canary| contains(bits, params, &offer.salt, canary));
    if !all_present {
        return Err(AdmissionError::CanaryMissing);
    }
    Ok(measure)
}

/// All four rules; gives what is stored with the publication. The signature is checked where the
/// header comes in (protocol §9).
///
/// # Errors
/// The first rule that refuses.
pub fn admit(offer: &Offer, facts: &Facts<'_>, bits: &[u8]) -> Result<Measure, AdmissionError> {
    let params = check_offer(offer, facts)?;
    check_bits(offer, params, facts.canaries, bits)
}

fn check_length(actual: u64, params: FilterParams) -> Result<(), AdmissionError> {
    let expected = params.byte_len();
    if actual == expected {
        Ok(())
    } else {
        Err(AdmissionError::Length { actual, expected })
    }
}

/// Set bits of a line, by words: eight popcounts instead of sixty-four.
fn count_ones(line: &[u8]) -> u32 {
    let (words, _) = line.as_chunks::<8>();
    words
        .iter()
        .map(|word| u64::from_ne_bytes(*word).count_ones())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_full_pages_have_the_rate_of_independent_bits() {
        let rate = false_positive_rate(&[0x55; 2 * PAGE_LEN], 30);
        assert!((rate / 0.5_f64.powi(30) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn full_and_empty_bits_have_the_rates_one_and_zero() {
        assert!((false_positive_rate(&[0xff; PAGE_LEN], 30) - 1.0).abs() < 1e-12);
        assert!(false_positive_rate(&[0; PAGE_LEN], 30) == 0.0);
        assert!(false_positive_rate(&[], 30) == 0.0);
    }

    #[test]
    fn a_full_page_among_empty_ones_counts_by_its_share() {
        let mut bits = vec![0; 4 * PAGE_LEN];
        bits[PAGE_LEN..2 * PAGE_LEN].fill(0xff);
        assert!((false_positive_rate(&bits, 30) - 0.25).abs() < 1e-12);
        assert_eq!(Measure::of(&bits, 30).popcount, u64::from(PAGE_BITS));
    }
}
