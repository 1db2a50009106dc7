//! Canaries (selectors.md "Canaries", protocol §4): values that no real record can have.

use std::sync::LazyLock;

use super::{Policy, canonical};
use crate::secret::Selector;

/// The canonical canaries, in the order of [`Policy::ALL`].
static CANONICAL: LazyLock<Vec<(Policy, Vec<Selector>)>> = LazyLock::new(|| {
    let canonical_of = |policy| {
        let values = canaries(policy)
            .iter()
            // A canary that this code rejects would be left out here; the filter then lacks its
            // tag and is refused with CANARY_MISSING, which is what protocol §4 wants.
            .filter_map(|input| canonical(policy, input, None).ok())
            .collect();
        (policy, values)
    };
    Policy::ALL.iter().copied().map(canonical_of).collect()
});

/// The fixed raw inputs of a policy's canaries, written so that the normal form is exercised.
pub const fn canaries(policy: Policy) -> &'static [&'static str] {
    policy.form().canaries
}

/// The canonical values of a policy's canaries, in the order of [`canaries`].
pub fn canonical_canaries(policy: Policy) -> &'static [Selector] {
    CANONICAL
        .iter()
        .find(|(of, _)| *of == policy)
        .map_or(&[], |(_, values)| values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_canary_of_every_policy_has_a_canonical_form() {
        for &policy in Policy::ALL {
            assert!(!canaries(policy).is_empty());
            assert_eq!(canonical_canaries(policy).len(), canaries(policy).len());
        }
    }
}
