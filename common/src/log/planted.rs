//! Planted selectors: what an auditor can say of a broker that keeps hits to itself (protocol §7,
//! §11).
//!
//! That a hit is in the log can be proved; that one was left out cannot. So a holder and a prober
//! take in selectors that an auditor has made up and that nobody can have, and the auditor compares
//! what the prober was told with what was planted. The broker sees tags alone, and cannot tell these
//! from others. [`Seed`] makes the selectors, [`Planting`] says what for, [`caught`] and [`rates`]
//! what the outcome says.

use hmac::Mac as _;
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::ids::{CommunityId, NodeId};
use crate::label::{Context, Label};
use crate::random;
use crate::secret::{Secret, Selector};
use crate::selector::Policy;
use crate::tag::{keyed, truncated};

/// Below a name that no registry ever gives away (RFC 2606 §2), hence nobody's.
const RESERVED: &str = "planted.invalid";

/// Halvings of an interval, after which an `f64` in it is known.
const HALVINGS: u32 = 60;

/// An auditor's secret, from which test selectors are made. Whoever has it can tell them from real
/// ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seed(Secret<32>);

impl Seed {
    /// A new seed.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(Secret::new(random::bytes(rng)))
    }

    /// A seed that was kept.
    #[must_use]
    pub const fn from_secret(secret: Secret<32>) -> Self {
        Self(secret)
    }

    /// From the content of its file: a line of 64 hex digits, else `None`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim_ascii(), &mut *bytes).ok()?;
        Some(Self(Secret::new(*bytes)))
    }

    /// The content of its file, which is its owner's alone.
    pub fn line(&self) -> Zeroizing<String> {
        let digits = Zeroizing::new(hex::encode(self.0.expose()));
        // Sized first: growing would leave an unwiped copy.
        let mut line = Zeroizing::new(String::with_capacity(digits.len() + 1));
        line.push_str(&digits);
        line.push('\n');
        line
    }
}

/// Who has a test selector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Holder and prober: a hit.
    Planted,
    /// The prober alone: no hit, so that not everything that it asks is one.
    Decoy,
}

impl Part {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Planted => "planted",
            Self::Decoy => "decoy",
        }
    }
}

/// Between whom selectors are planted, and of what type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planting {
    /// The community.
    pub community: CommunityId,
    /// Their policy.
    pub policy: Policy,
    /// The node that asks.
    pub prober: NodeId,
    /// The node that holds.
    pub holder: NodeId,
}

/// Why nothing can be planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlantError {
    /// There are no values of this policy that are sure to be nobody's.
    #[error("no made-up value of {0} is sure to be nobody's: plant email or domain")]
    Unsupported(Policy),
    /// A node does not find its own selectors.
    #[error("prober and holder are two nodes")]
    SameNode,
    /// The counter is used up.
    #[error("there are not so many numbers: begin with a smaller one, or with another seed")]
    NumbersUsedUp,
}

impl Planting {
    /// `count` test selectors in canonical form, from the number `first` on. The same seed makes the
    /// same ones again.
    ///
    /// # Errors
    /// [`PlantError`].
    pub fn selectors(
        &self,
        seed: &Seed,
        part: Part,
        first: u32,
        count: u32,
    ) -> Result<Vec<Selector>, PlantError> {
        if self.prober == self.holder {
            return Err(PlantError::SameNode);
        }
        let end = first.checked_add(count).ok_or(PlantError::NumbersUsedUp)?;
        (first..end)
            .map(|number| self.selector(seed, part, number))
            .collect()
    }

    fn selector(&self, seed: &Seed, part: Part, number: u32) -> Result<Selector, PlantError> {
        let context = Context::new(Label::Planted)
            .text(self.community.as_str())
            .text(self.policy.name())
            .text(self.prober.as_str())
            .text(self.holder.as_str())
            .text(part.as_str())
            .number(number);
        let mac = keyed(&seed.0).chain_update(context.as_bytes());
        let name = hex::encode(truncated(mac));
        match self.policy {
            Policy::Email => Ok(Selector::new(format!("{name}@{RESERVED}"))),
            Policy::Domain => Ok(Selector::new(format!("{name}.{RESERVED}"))),
            other => Err(PlantError::Unsupported(other)),
        }
    }
}

/// How sure a statement is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Confidence {
    /// Wrong once in 20 times.
    Percent95,
    /// Wrong once in 100 times.
    Percent99,
}

impl Confidence {
    /// How sure, in percent.
    pub const fn percent(self) -> u8 {
        match self {
            Self::Percent95 => 95,
            Self::Percent99 => 99,
        }
    }

    /// How often it is wrong.
    const fn alpha(self) -> f64 {
        match self {
            Self::Percent95 => 0.05,
            Self::Percent99 => 0.01,
        }
    }
}

/// With what probability at least one of `planted` hits is missing, if each is suppressed at this
/// rate independently of the others: `1 − (1 − r)^n`.
pub fn caught(planted: u32, rate: f64) -> f64 {
    1.0 - (1.0 - rate).powf(f64::from(planted))
}

/// The rates of suppression that an outcome does not exclude.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// The least; 0 if nothing is missing.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

/// The rates of suppression that `missing` of `planted` hits do not exclude.
///
/// If none is missing: from 0 to `1 − α^(1/n)`, the one-sided interval, whose short form is the "rule
/// of three" (3/n at 95 %). Otherwise the two-sided one. Both are exact: C. J. Clopper and E. S.
/// Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
/// Biometrika 26 (1934).
pub fn rates(planted: u32, missing: u32, confidence: Confidence) -> Rates {
    let alpha = confidence.alpha();
    let missing = missing.min(planted);
    if missing == 0 {
        let high = 1.0 - alpha.powf(1.0 / f64::from(planted));
        return Rates { low: 0.0, high };
    }
    let low = bisect(|rate| 1.0 - at_most(planted, missing - 1, rate) < alpha / 2.0);
    let high = if missing == planted {
        1.0
    } else {
        bisect(|rate| at_most(planted, missing, rate) > alpha / 2.0)
    };
    Rates { low, high }
}

/// The rate up to which `is_below` holds.
fn bisect(is_below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if is_below(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// With what probability at most `most` of `trials` happen, each at a rate between 0 and 1: the lower
/// tail of the binomial distribution. By logarithms: the coefficients would not fit.
fn at_most(trials: u32, most: u32, rate: f64) -> f64 {
    let (happens, does_not) = (rate.ln(), (-rate).ln_1p());
    let mut coefficient = 0.0;
    let mut sum = 0.0;
    for number in 0..=most.min(trials) {
        let rest = f64::from(trials - number);
        sum += (coefficient + f64::from(number) * happens + rest * does_not).exp();
        // C(n, i + 1) = C(n, i) · (n − i) / (i + 1)
        coefficient += (rest / (f64::from(number) + 1.0)).ln();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::selector::{StopList, canonical};

    fn planting(policy: Policy) -> Planting {
        Planting {
            community: "euro-cyber".parse().unwrap(),
            policy,
            prober: "nl-fiu".parse().unwrap(),
            holder: "de-bka".parse().unwrap(),
        }
    }

    fn seed() -> Seed {
        Seed::from_secret(Secret::new([7; 32]))
    }

    fn is_close(value: f64, expected: f64) -> bool {
        (value - expected).abs() < 1e-6
    }

    #[test]
    fn test_selectors_are_canonical_and_pass_the_stop_list() {
        for policy in [Policy::Email, Policy::Domain] {
            let made = planting(policy).selectors(&seed(), Part::Planted, 0, 50);
            for selector in made.unwrap() {
                let again = canonical(policy, selector.expose(), None);
                assert_eq!(again.as_ref(), Ok(&selector));
                assert_eq!(StopList::default().admit(policy, &selector), Ok(()));
            }
        }
        let first = planting(Policy::Email).selectors(&seed(), Part::Planted, 0, 1);
        let expected = "2672e069d227946bf723c919bd150da3@planted.invalid";
        assert_eq!(first.unwrap()[0].expose(), expected);
    }

    #[test]
    fn a_test_selector_depends_on_everything_it_is_made_for() {
        let all = planting(Policy::Email);
        let turned = Planting {
            prober: all.holder.clone(),
            holder: all.prober.clone(),
            ..all.clone()
        };
        let elsewhere = Planting {
            community: "other".parse().unwrap(),
            ..all.clone()
        };
        let another = Seed::from_secret(Secret::new([8; 32]));
        let made = [
            all.selectors(&seed(), Part::Planted, 0, 3),
            all.selectors(&seed(), Part::Decoy, 0, 3),
            all.selectors(&seed(), Part::Planted, 3, 3),
            all.selectors(&another, Part::Planted, 0, 3),
            turned.selectors(&seed(), Part::Planted, 0, 3),
            elsewhere.selectors(&seed(), Part::Planted, 0, 3),
        ];
        let distinct: HashSet<_> = made.iter().flatten().flatten().collect();
        assert_eq!(distinct.len(), 18);
        let later = all.selectors(&seed(), Part::Planted, 2, 1).unwrap();
        assert_eq!(later[0], made[0].as_ref().unwrap()[2]);
    }

    #[test]
    fn refuses_types_whose_values_may_be_somebodys_and_what_cannot_be_planted() {
        for &policy in Policy::ALL {
            let made = planting(policy).selectors(&seed(), Part::Planted, 0, 1);
            let planted = matches!(policy, Policy::Email | Policy::Domain);
            assert_eq!(made.is_ok(), planted, "{policy}");
        }
        let mut alone = planting(Policy::Email);
        let beyond = alone.selectors(&seed(), Part::Planted, u32::MAX, 1);
        assert_eq!(beyond, Err(PlantError::NumbersUsedUp));
        alone.holder = alone.prober.clone();
        let refused = alone.selectors(&seed(), Part::Planted, 0, 1);
        assert_eq!(refused, Err(PlantError::SameNode));
    }

    #[test]
    fn a_seed_is_read_as_it_was_written_and_is_not_shown() {
        let seed = Seed::generate(&mut random::os_rng());
        assert_eq!(Seed::parse(seed.line().as_bytes()), Some(seed.clone()));
        for bad in ["", "c0ffee", &"g".repeat(64), &"c0".repeat(33)] {
            assert_eq!(Seed::parse(bad.as_bytes()), None);
        }
        assert_eq!(format!("{seed:?}"), "Seed(Secret(redacted))");
    }

    #[test]
    fn suppression_shows_the_likelier_the_more_is_planted() {
        for (planted, rate, expected) in [
            (100, 0.01, 0.633_967_7),
            (100, 0.03, 0.952_447_5),
            (100, 0.0, 0.0),
            (100, 1.0, 1.0),
            (1, 0.25, 0.25),
            (0, 1.0, 0.0),
        ] {
            let shown = caught(planted, rate);
            assert!(is_close(shown, expected), "{planted} {rate}: {shown}");
        }
    }

    #[test]
    fn what_an_outcome_does_not_exclude_is_the_exact_interval() {
        use Confidence::{Percent95, Percent99};
        for (planted, missing, confidence, low, high) in [
            (100, 0, Percent95, 0.0, 0.029_513_0),
            (100, 0, Percent99, 0.0, 0.045_007_4),
            (1, 0, Percent95, 0.0, 0.95),
            (1000, 0, Percent95, 0.0, 0.002_991_2),
            (0, 0, Percent95, 0.0, 1.0),
            (10, 1, Percent95, 0.002_529, 0.445_016),
            (20, 5, Percent95, 0.086_571, 0.491_046),
            (100, 5, Percent95, 0.016_432, 0.112_835),
            (100, 5, Percent99, 0.010_940, 0.135_145),
            (1000, 30, Percent99, 0.017_868, 0.046_802),
            (10, 10, Percent95, 0.691_503, 1.0),
        ] {
            let found = rates(planted, missing, confidence);
            let is_it = is_close(found.low, low) && is_close(found.high, high);
            assert!(is_it, "{missing} of {planted}: {found:?}");
        }
    }

    #[test]
    fn the_largest_rate_not_excluded_would_have_shown_with_that_confidence() {
        for planted in [1, 10, 100, 10_000] {
            let high = rates(planted, 0, Confidence::Percent95).high;
            assert!(is_close(caught(planted, high), 0.95), "{planted}");
        }
    }
}
