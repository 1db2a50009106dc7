//! What to publish next of one policy (protocol §5.4), as a function of what is and what should be.

use sotto_common::filter::layers::MAX_SUPPLEMENTS;
use sotto_common::ids::{Epoch, PublicationId};
use sotto_common::publication::LayerRole;
use sotto_common::time::Timestamp;

use crate::store::{Layer, Publishing, SelectorId};

/// What is done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// A base of the epoch before, which is accepted for a while longer, is withdrawn: it holds what
    /// was removed since, or is for others.
    Withdraw(PublicationId),
    /// A base of everything.
    Base(Why),
    /// A supplement on the base of this version, of what came after a selector.
    Supplement {
        /// The version of the base.
        base: u64,
        /// The last selector that is published.
        after: SelectorId,
    },
}

/// Why a base is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// There is none in this epoch.
    First,
    /// A person wants one now.
    Asked,
    /// Something was taken out.
    Removal,
    /// It is for others.
    Audience,
    /// Its time has come.
    Scheduled,
    /// No supplement fits on the base any more.
    UsedUp,
}

/// The next layer of a policy; none if probes are tested against everything that should match, and
/// nothing else.
pub(crate) fn next_step(
    epoch: Epoch,
    layers: &[Layer],
    wanted: &Publishing,
    asked: bool,
    now: Timestamp,
) -> Option<Step> {
    let outdated = |layer: &&Layer| {
        let is_base = layer.epoch != epoch && layer.role == LayerRole::Base;
        is_base && (layer.removals != wanted.removals || layer.audience != wanted.audience)
    };
    if let Some(layer) = layers.iter().find(outdated) {
        return Some(Step::Withdraw(layer.publication));
    }
    let mut present = layers.iter().filter(|layer| layer.epoch == epoch);
    let Some(base) = present.clone().find(|layer| layer.role == LayerRole::Base) else {
        return (wanted.selectors > 0).then_some(Step::Base(Why::First));
    };
    if asked {
        return Some(Step::Base(Why::Asked));
    }
    // Removal needs a new base, and so does another audience (protocol §5.4).
    if base.removals != wanted.removals {
        return Some(Step::Base(Why::Removal));
    }
    if base.audience != wanted.audience {
        return Some(Step::Base(Why::Audience));
    }
    if wanted.next_base.is_some_and(|at| at <= now) {
        return Some(Step::Base(Why::Scheduled));
    }
    let of_base = |layer: &&Layer| layer.role == LayerRole::SupplementOf(base.version);
    let supplements: Vec<_> = present.by_ref().filter(of_base).collect();
    let after = supplements
        .iter()
        .map(|layer| layer.last_selector)
        .max()
        .map_or(base.last_selector, |last| last.max(base.last_selector));
    if wanted.last_selector <= after {
        None
    } else if supplements.len() < MAX_SUPPLEMENTS {
        Some(Step::Supplement {
            base: base.version,
            after,
        })
    } else {
        Some(Step::Base(Why::UsedUp))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sotto_common::random::os_rng;
    use sotto_common::selector::Policy;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_000);

    fn epoch(number: u32) -> Epoch {
        Epoch::new(number).expect("an epoch")
    }

    fn layer(version: u64, role: LayerRole, last_selector: SelectorId) -> Layer {
        Layer {
            publication: PublicationId::generate(NOW, &mut os_rng()),
            policy: Policy::Phone,
            epoch: epoch(2),
            version,
            role,
            last_selector,
            removals: 3,
            selectors: 1,
            class: 0,
            bytes: 8192,
            audience: BTreeSet::new(),
            active_at: NOW,
        }
    }

    fn wanted(last_selector: SelectorId) -> Publishing {
        Publishing {
            last_selector,
            selectors: 10,
            removals: 3,
            next_base: Some(Timestamp::from_seconds(2_000)),
            audience: BTreeSet::new(),
        }
    }

    fn step(layers: &[Layer], wanted: &Publishing) -> Option<Step> {
        next_step(epoch(2), layers, wanted, false, NOW)
    }

    #[test]
    fn what_matches_everything_needs_nothing_and_what_is_new_a_supplement() {
        let layers = [layer(4, LayerRole::Base, 10)];
        assert_eq!(step(&layers, &wanted(10)), None);
        let added = Some(Step::Supplement { base: 4, after: 10 });
        assert_eq!(step(&layers, &wanted(12)), added);
        let layers = [
            layer(4, LayerRole::Base, 10),
            layer(5, LayerRole::SupplementOf(4), 12),
        ];
        assert_eq!(step(&layers, &wanted(12)), None);
        let added = Some(Step::Supplement { base: 4, after: 12 });
        assert_eq!(step(&layers, &wanted(13)), added);
    }

    #[test]
    fn the_ninth_supplement_is_a_base() {
        let mut layers = vec![layer(1, LayerRole::Base, 1)];
        for version in 2..=9 {
            let last = i64::try_from(version).expect("small");
            assert!(matches!(
                step(&layers, &wanted(last)),
                Some(Step::Supplement { base: 1, .. })
            ));
            layers.push(layer(version, LayerRole::SupplementOf(1), last));
        }
        assert_eq!(step(&layers, &wanted(9)), None);
        assert_eq!(step(&layers, &wanted(10)), Some(Step::Base(Why::UsedUp)));
    }

    #[test]
    fn removal_audience_schedule_and_a_person_ask_for_a_base() {
        let layers = [layer(4, LayerRole::Base, 10)];
        let removed = Publishing {
            removals: 4,
            ..wanted(10)
        };
        assert_eq!(step(&layers, &removed), Some(Step::Base(Why::Removal)));
        // Also when nothing is left: what was published must not match any more.
        let emptied = Publishing {
            removals: 4,
            selectors: 0,
            ..wanted(0)
        };
        assert_eq!(step(&layers, &emptied), Some(Step::Base(Why::Removal)));
        let narrowed = Publishing {
            audience: BTreeSet::from(["de-bka".parse().expect("a node")]),
            ..wanted(10)
        };
        assert_eq!(step(&layers, &narrowed), Some(Step::Base(Why::Audience)));
        let due = Publishing {
            next_base: Some(NOW),
            ..wanted(10)
        };
        assert_eq!(step(&layers, &due), Some(Step::Base(Why::Scheduled)));
        let asked = next_step(epoch(2), &layers, &wanted(10), true, NOW);
        assert_eq!(asked, Some(Step::Base(Why::Asked)));
    }

    #[test]
    fn a_filter_of_the_epoch_before_stays_until_something_of_it_is_removed() {
        let earlier = Layer {
            epoch: epoch(1),
            ..layer(9, LayerRole::Base, 10)
        };
        let layers = [earlier, layer(1, LayerRole::Base, 10)];
        assert_eq!(step(&layers, &wanted(10)), None);
        let removed = Publishing {
            removals: 4,
            ..wanted(10)
        };
        let expected = Some(Step::Withdraw(layers[0].publication));
        assert_eq!(step(&layers, &removed), expected);
        let removal = Some(Step::Base(Why::Removal));
        assert_eq!(step(&layers[1..], &removed), removal);
    }

    #[test]
    fn another_epoch_begins_with_a_base_if_there_is_anything_to_publish() {
        let layers = [layer(4, LayerRole::Base, 10)];
        let first = next_step(epoch(3), &layers, &wanted(10), false, NOW);
        assert_eq!(first, Some(Step::Base(Why::First)));
        let empty = Publishing {
            selectors: 0,
            ..wanted(0)
        };
        assert_eq!(next_step(epoch(3), &layers, &empty, true, NOW), None);
    }
}
