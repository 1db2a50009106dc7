//! What to ask next of a dataset that is probed by itself, as a function of what was asked and of
//! what the holders have active.

use std::collections::BTreeMap;
use std::time::Duration;

use sotto_common::ids::{Epoch, NodeId};
use sotto_common::time::{CLOCK_SKEW, Timestamp};

use crate::app::catalogue::{Holders, Layers};
use crate::store::{Cover, ProbeKind, SelectorId};

/// What is asked, and of whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Question {
    /// Why; the first are asked first.
    pub(crate) kind: ProbeKind,
    /// The selector after which it begins.
    pub(crate) after: SelectorId,
    /// Whom, in the order of their ids.
    pub(crate) targets: Vec<NodeId>,
    /// For a sweep or a refresh: what they have active now.
    pub(crate) layers: BTreeMap<NodeId, Layers>,
}

/// What is to be asked of a dataset now, first things first.
pub(crate) fn questions(
    last_selector: SelectorId,
    covers: &[Cover],
    holders: &Holders,
    epoch: Epoch,
    now: Timestamp,
    refresh_after: Duration,
) -> Vec<Question> {
    let covered: Vec<_> = covers
        .iter()
        .filter(|cover| cover.epoch == epoch && holders.contains_key(&cover.holder))
        .collect();
    let is_new = |cover: &&&Cover| cover.last_selector < last_selector;
    let behind: Vec<_> = covered.iter().filter(is_new).collect();
    let mut questions = Vec::new();
    if let Some(after) = behind.iter().map(|cover| cover.last_selector).min() {
        questions.push(Question {
            kind: ProbeKind::New,
            after,
            targets: behind.iter().map(|cover| cover.holder.clone()).collect(),
            layers: BTreeMap::new(),
        });
    }
    let as_asked = |holder: &NodeId, layers: &Layers| {
        let cover = covered.iter().find(|cover| cover.holder == *holder);
        cover.filter(|cover| cover.layers == *layers).copied()
    };
    let changed = |(holder, layers): &(&NodeId, &Layers)| as_asked(holder, layers).is_none();
    let is_old = |(holder, layers): &(&NodeId, &Layers)| {
        as_asked(holder, layers).is_some_and(|cover| {
            // In the future: noted by a clock that was ahead, and set back since.
            cover.swept_at.plus(refresh_after) <= now || cover.swept_at > now.plus(CLOCK_SKEW)
        })
    };
    let of = |kind, layers: BTreeMap<NodeId, Layers>| Question {
        kind,
        after: 0,
        targets: layers.keys().cloned().collect(),
        layers,
    };
    let copied = |(holder, layers): (&NodeId, &Layers)| (holder.clone(), *layers);
    let changed: BTreeMap<_, _> = holders.iter().filter(changed).map(copied).collect();
    let old: BTreeMap<_, _> = holders.iter().filter(is_old).map(copied).collect();
    if !changed.is_empty() {
        questions.push(of(ProbeKind::Sweep, changed));
    }
    if !old.is_empty() {
        questions.push(of(ProbeKind::Refresh, old));
    }
    questions
}

/// When the next holder is due that was not asked for long.
pub(crate) fn next_refresh(
    covers: &[Cover],
    holders: &Holders,
    epoch: Epoch,
    refresh_after: Duration,
) -> Option<Timestamp> {
    covers
        .iter()
        .filter(|cover| cover.epoch == epoch && holders.contains_key(&cover.holder))
        .map(|cover| cover.swept_at.plus(refresh_after))
        .min()
}

/// How many of `total` selectors of a refresh may have been asked by now, and when it may go on:
/// its parts are spread evenly over `spread`.
pub(crate) fn allowance(
    total: u64,
    started_at: Timestamp,
    now: Timestamp,
    spread: Duration,
) -> (u64, Timestamp) {
    /// Parts of a refresh.
    const PARTS: u32 = 24;
    let part = (spread / PARTS).max(Duration::from_secs(1));
    let begun = now.since(started_at).as_micros() / part.as_micros() + 1;
    let begun = u32::try_from(begun).unwrap_or(PARTS).min(PARTS);
    let allowed = total.saturating_mul(begun.into()).div_ceil(PARTS.into());
    (allowed, started_at.plus(part * begun))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const NOW: Timestamp = Timestamp::from_seconds(100 * 86_400);

    fn epoch(number: u32) -> Epoch {
        Epoch::new(number).expect("an epoch")
    }

    fn node(name: &str) -> NodeId {
        name.parse().expect("a node")
    }

    fn cover(holder: &str, layers: u8, last_selector: SelectorId, days_ago: u32) -> Cover {
        Cover {
            holder: node(holder),
            epoch: epoch(2),
            layers: [layers; 16],
            last_selector,
            swept_at: NOW.minus(DAY * days_ago),
        }
    }

    fn holders(holders: &[(&str, u8)]) -> Holders {
        let row = |&(name, layers): &(&str, u8)| (node(name), [layers; 16]);
        holders.iter().map(row).collect()
    }

    fn ask(
        covers: &[Cover],
        now_active: &[(&str, u8)],
    ) -> Vec<(ProbeKind, SelectorId, Vec<String>)> {
        let asked = questions(10, covers, &holders(now_active), epoch(2), NOW, DAY * 7);
        asked
            .into_iter()
            .map(|q| {
                let targets = q.targets.iter().map(ToString::to_string).collect();
                (q.kind, q.after, targets)
            })
            .collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_is_asked_where_nothing_has_changed() {
        let covers = [cover("de-bka", 1, 10, 1), cover("fr-pj", 2, 10, 6)];
        assert!(ask(&covers, &[("de-bka", 1), ("fr-pj", 2)]).is_empty());
        assert!(ask(&covers, &[]).is_empty());
        assert!(ask(&[], &[]).is_empty());
    }

    #[test]
    fn a_holder_is_asked_for_everything_at_first_and_when_its_filters_have_changed() {
        let covers = [cover("de-bka", 1, 10, 1)];
        let asked = ask(&covers, &[("de-bka", 9), ("fr-pj", 2)]);
        let expected = (ProbeKind::Sweep, 0, names(&["de-bka", "fr-pj"]));
        assert_eq!(asked, [expected]);
        let asked = ask(&covers, &[("de-bka", 1), ("fr-pj", 2)]);
        assert_eq!(asked, [(ProbeKind::Sweep, 0, names(&["fr-pj"]))]);
    }

    #[test]
    fn new_selectors_come_first_and_go_to_those_who_know_the_rest() {
        let covers = [cover("de-bka", 1, 8, 1), cover("fr-pj", 2, 10, 1)];
        let asked = ask(&covers, &[("de-bka", 9), ("fr-pj", 2), ("it-gdf", 3)]);
        assert_eq!(
            asked,
            [
                (ProbeKind::New, 8, names(&["de-bka"])),
                (ProbeKind::Sweep, 0, names(&["de-bka", "it-gdf"])),
            ]
        );
    }

    #[test]
    fn another_epoch_begins_from_nothing() {
        let earlier = Cover {
            epoch: epoch(1),
            ..cover("de-bka", 1, 10, 1)
        };
        let asked = ask(&[earlier], &[("de-bka", 1)]);
        assert_eq!(asked, [(ProbeKind::Sweep, 0, names(&["de-bka"]))]);
    }

    #[test]
    fn who_was_not_asked_for_a_week_is_asked_again() {
        let covers = [cover("de-bka", 1, 10, 8), cover("fr-pj", 2, 10, 6)];
        let active = [("de-bka", 1), ("fr-pj", 2)];
        let asked = ask(&covers, &active);
        assert_eq!(asked, [(ProbeKind::Refresh, 0, names(&["de-bka"]))]);
        let ahead = [Cover {
            swept_at: NOW.plus(DAY * 300),
            ..cover("de-bka", 1, 10, 0)
        }];
        let asked = ask(&ahead, &[("de-bka", 1)]);
        assert_eq!(asked, [(ProbeKind::Refresh, 0, names(&["de-bka"]))]);
        let due = next_refresh(&covers, &holders(&active), epoch(2), DAY * 7);
        assert_eq!(due, Some(NOW.minus(DAY)));
    }

    #[test]
    fn a_refresh_is_spread_evenly_and_ends_in_time() {
        let hour = Duration::from_hours(1);
        let at = |hours: u32| allowance(2_400, NOW, NOW.plus(hour * hours), DAY);
        assert_eq!(at(0), (100, NOW.plus(hour)));
        assert_eq!(at(1), (200, NOW.plus(hour * 2)));
        assert_eq!(at(23), (2_400, NOW.plus(DAY)));
        assert_eq!(at(500), (2_400, NOW.plus(DAY)));
        // A clock that was set back does not stop it.
        let (allowed, _) = allowance(5, NOW.plus(DAY), NOW, DAY);
        assert_eq!(allowed, 1);
    }
}
