//! What units have, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use sotto_tests::Unit;

/// A dataset and its policy; two of one policy.
pub(super) const DATASETS: [(&str, &str); 3] = [
    ("numbers", "phone/1"),
    ("contacts", "phone/1"),
    ("addresses", "email/1"),
];

/// Values that there are of each policy: few enough that lists overlap.
const UNIVERSE: u32 = 150;

/// What one unit has in each of [`DATASETS`].
pub(super) type Lists = BTreeMap<&'static str, BTreeSet<String>>;

/// Dataset and value of an own record, and who holds it too.
pub(super) type Overlap = (String, String, String);

pub(super) fn value(policy: &str, number: u32) -> String {
    match policy {
        "phone/1" => format!("+3161234{number:04}"),
        _ => format!("suspect{number}@example.org"),
    }
}

/// Some values of a policy.
pub(super) fn some(policy: &str, count: usize, rng: &mut StdRng) -> BTreeSet<String> {
    let numbers = (0..UNIVERSE).sample(rng, count).into_iter();
    numbers.map(|number| value(policy, number)).collect()
}

/// What every unit begins with.
pub(super) fn lists(units: usize, rng: &mut StdRng) -> Vec<Lists> {
    (0..units)
        .map(|_| {
            let list = DATASETS.iter();
            list.map(|&(dataset, policy)| (dataset, some(policy, 25, rng)))
                .collect()
        })
        .collect()
}

/// The hits that a unit should have open, by what everybody has now.
pub(super) fn overlaps(units: &[Unit], lists: &[Lists], own: usize) -> BTreeSet<Overlap> {
    let mut overlaps = BTreeSet::new();
    for (dataset, policy) in DATASETS {
        for value in &lists[own][dataset] {
            let holds = |other: usize| {
                DATASETS
                    .iter()
                    .any(|(theirs, p)| *p == policy && lists[other][theirs].contains(value))
            };
            let holders = (0..units.len()).filter(|&other| other != own && holds(other));
            overlaps.extend(holders.map(|holder| {
                let holder = units[holder].name().to_owned();
                (dataset.to_owned(), value.clone(), holder)
            }));
        }
    }
    overlaps
}

/// A change of a unit's lists, by chance.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Add(&'static str, &'static str, BTreeSet<String>),
    Remove(&'static str, BTreeSet<String>),
    Replace(&'static str, &'static str, BTreeSet<String>),
}

impl Change {
    pub(super) fn draw(lists: &Lists, rng: &mut StdRng) -> Self {
        let (dataset, policy) = DATASETS[rng.random_range(0..DATASETS.len())];
        match rng.random_range(0..10) {
            0 => {
                let count = rng.random_range(1..40);
                Self::Replace(dataset, policy, some(policy, count, rng))
            }
            1..=4 => {
                let count = rng.random_range(1..6);
                let gone = lists[dataset].iter().sample(rng, count).into_iter();
                Self::Remove(dataset, gone.cloned().collect())
            }
            _ => {
                let count = rng.random_range(1..10);
                Self::Add(dataset, policy, some(policy, count, rng))
            }
        }
    }

    /// Makes the change at the unit, and then in what it should have. A unit that cannot be reached
    /// while it is made makes it again: all of it or nothing took place.
    pub(super) async fn make(&self, unit: &Unit, lists: &mut Lists) -> Result<(), tonic::Status> {
        match self {
            Self::Add(dataset, policy, values) => {
                unit.import(dataset, policy, values, false).await?;
                let list = lists.get_mut(dataset).expect("a dataset");
                list.extend(values.iter().cloned());
            }
            Self::Remove(dataset, values) => {
                unit.remove(dataset, values).await?;
                let list = lists.get_mut(dataset).expect("a dataset");
                list.retain(|value| !values.contains(value));
            }
            Self::Replace(dataset, policy, values) => {
                unit.import(dataset, policy, values, true).await?;
                lists.insert(dataset, values.clone());
            }
        }
        Ok(())
    }
}

/// Whether a unit has nothing left to publish or to ask, as far as it knows.
pub(super) async fn is_settled(unit: &Unit) -> bool {
    let Ok(status) = unit.status().await else {
        return false;
    };
    let published = status.publications.iter().all(|row| {
        row.waiting == 0 && !row.removal_waits && row.waiting_for.is_empty() && row.version > 0
    });
    let asked = status
        .backlog
        .iter()
        .all(|row| row.refs == 0 && row.waiting_for.is_empty());
    status.broker_reachable && published && asked && status.pending_feedback == 0
}

/// What is different between what a unit shows and what it should; `None` if nothing is.
pub(super) async fn difference(unit: &Unit, expected: &BTreeSet<Overlap>) -> Option<String> {
    let shown = match unit.overlaps().await {
        Ok(shown) => shown,
        Err(status) => return Some(format!("{}: {status}", unit.name())),
    };
    let missing = expected.difference(&shown).count();
    let stale = shown.difference(expected).count();
    (missing + stale > 0).then(|| {
        let first = expected.symmetric_difference(&shown).next();
        format!(
            "{}: {missing} missing, {stale} stale of {}, e.g. {first:?}",
            unit.name(),
            expected.len()
        )
    })
}
