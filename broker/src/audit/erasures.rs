//! Openings that are missing (workflow.md "Audit"): erased after the community's retention time, and then
//! an entry tells how many were, or withheld.
//!
//! The time is that of the manifests, which custodians have signed: a broker erases nothing sooner
//! (PROTOCOL-NOTES §11). Entries that tell of erasures are erased in their turn. What they told of is then
//! not counted any more; it is at least twice as old.

use std::collections::BTreeMap;
use std::time::Duration;

use sotto_common::ids::Epoch;
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;
use sotto_common::log::leaf::Leaf;
use sotto_common::membership::Manifest;
use sotto_common::time::{CLOCK_SKEW, Timestamp};
use sotto_proto::convert::log::read_entry;
use sotto_proto::v1;

use super::failure::{Check, Failure, FailureCode, Flaw};

const SECONDS_PER_HOUR: i64 = 3600;
const MICROS_PER_HOUR: u64 = 3_600_000_000;

/// What is missing of a log, and what its entries say of that.
#[derive(Debug, Default)]
pub(crate) struct Erasures {
    /// How long openings are kept, by the manifests of the epochs.
    kept: BTreeMap<Epoch, Duration>,
    /// When epochs were opened, in the order of the log, and how long openings are kept from then on.
    opened: Vec<(Timestamp, Duration)>,
    /// Whether an epoch may have been opened since by an entry that is erased.
    opened_unseen: bool,
    /// Missing openings by hour.
    missing: BTreeMap<u64, Missing>,
    /// The hours of `missing` at which no entry was old enough to be erased so far: the first place of each.
    unexplained: BTreeMap<u64, u64>,
    /// All that are missing.
    count: u64,
    /// How many were erased, by the entries that tell of it.
    told: u64,
    /// The latest hour of a missing opening that may have told of erasures.
    untold: Option<u64>,
}

/// Missing openings of one hour.
#[derive(Debug)]
struct Missing {
    count: u64,
    /// The first place.
    first: u64,
}

impl Erasures {
    /// Of a log whose epochs have these manifests.
    pub(crate) fn new<'m>(manifests: impl IntoIterator<Item = &'m Manifest>) -> Self {
        let kept = manifests.into_iter();
        let kept = kept.map(|manifest| (manifest.epoch, manifest.profile.retention.hits));
        Self {
            kept: kept.collect(),
            ..Self::default()
        }
    }

    /// Looks at the next entry for no more than its opening: whether it holds, `verify` says.
    pub(crate) fn look(&mut self, logged: &v1::LoggedEntry) {
        let index = logged.leaf_index;
        let kind = Leaf::parse(&logged.leaf).ok().map(|leaf| leaf.kind());
        if logged.entry.is_empty() && logged.nonce.is_empty() {
            self.miss(index, kind, Leaf::hour_of(&logged.leaf).unwrap_or(0));
        } else if matches!(kind, Some(EntryKind::Deletion | EntryKind::Epoch))
            && let Ok(entry) = read_entry(&logged.entry)
        {
            // A count that does not fit fails there.
            let _ = self.take(&entry);
        }
    }

    /// Whether entries tell of every opening that is missing.
    pub(crate) fn are_told(&self) -> bool {
        self.check().is_ok()
    }

    /// An opening is missing, of a leaf of this hour; the kind, if it is known.
    pub(super) fn miss(&mut self, index: u64, kind: Option<EntryKind>, hour: u64) {
        self.count += 1;
        let missing = self.missing.entry(hour);
        let missing = missing.or_insert(Missing {
            count: 0,
            first: index,
        });
        missing.count += 1;
        self.unexplained.entry(hour).or_insert(index);
        self.opened_unseen |= kind == Some(EntryKind::Epoch);
        if kind == Some(EntryKind::Deletion) {
            self.untold = self.untold.max(Some(hour));
        }
    }

    /// The next entry that can be read.
    pub(super) fn take(&mut self, entry: &Entry) -> Check {
        match entry.action {
            Action::OpenEpoch => {
                let epoch = entry.object.epoch;
                if let Some(kept) = epoch.and_then(|epoch| self.kept.get(&epoch)) {
                    self.opened.push((entry.at, *kept));
                    self.opened_unseen = false;
                }
                Ok(())
            }
            Action::EraseOpenings => self.tell(entry),
            _ => Ok(()),
        }
    }

    /// Openings were erased: of what stands before, and was old enough then.
    fn tell(&mut self, entry: &Entry) -> Check {
        let told = entry.detail.parse::<u64>();
        let told = told.map_err(|_| Flaw::lacks("how many openings were erased"))?;
        self.told = self.told.saturating_add(told);
        if self.told > self.count {
            let text = format!(
                "{} openings are erased up to here by the entries that tell of it, and {} are missing",
                self.told, self.count
            );
            return Err(Flaw::new(FailureCode::ErasureMiscounted, text));
        }
        let before = entry.at.minus(self.kept_at(entry.at)).plus(CLOCK_SKEW);
        self.unexplained = self.unexplained.split_off(&first_hour_from(before));
        Ok(())
    }

    /// The shortest time that openings can have been kept before an erasure. An epoch that is opened in that
    /// moment may stand before it or behind.
    fn kept_at(&self, at: Timestamp) -> Duration {
        if self.opened_unseen {
            return self.shortest();
        }
        let begun = self.opened.first();
        let Some((_, latest)) = self.opened.last() else {
            return Duration::ZERO;
        };
        if begun.is_some_and(|(opened, _)| at <= opened.plus(CLOCK_SKEW)) {
            return Duration::ZERO;
        }
        let pairs = self.opened.windows(2);
        let before = pairs.filter_map(|pair| match pair {
            [(_, kept), (replaced, _)] if at <= replaced.plus(CLOCK_SKEW) => Some(*kept),
            _ => None,
        });
        before.fold(*latest, Duration::min)
    }

    /// The shortest time of any manifest; none without one.
    fn shortest(&self) -> Duration {
        self.kept.values().min().copied().unwrap_or_default()
    }

    /// Compares, at the end, what is missing with what the entries tell.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let flaw = |text: String| Flaw::new(FailureCode::OpeningWithheld, text);
        if let Some(first) = self.unexplained.values().min() {
            let text = "its opening is missing, and no entry behind it tells of an erasure for which it was old \
                        enough";
            return Err(flaw(text.to_owned()).at(*first));
        }
        // What is erased is the oldest: the youngest are those that the counts do not reach.
        let mut count = 0_u64;
        for missing in self.missing.range(self.counted_from()..).map(|(_, m)| m) {
            count += missing.count;
            if count > self.told {
                let text = format!(
                    "{count} openings are missing up to this hour, and the entries that tell of erasures have {}",
                    self.told
                );
                return Err(flaw(text).at(missing.first));
            }
        }
        Ok(())
    }

    /// The first hour of which whatever was erased must be told: by entries behind all of those that may have
    /// told of erasures and are erased.
    fn counted_from(&self) -> u64 {
        self.untold.map_or(0, |untold| {
            let end = start_of(untold.saturating_add(1)).plus(CLOCK_SKEW);
            first_hour_from(end.minus(self.shortest()))
        })
    }
}

/// When an hour of a leaf begins.
pub(super) fn start_of(hour: u64) -> Timestamp {
    let hour = i64::try_from(hour).unwrap_or(i64::MAX);
    Timestamp::from_seconds(hour.saturating_mul(SECONDS_PER_HOUR))
}

/// The first hour that begins at this time or later.
fn first_hour_from(at: Timestamp) -> u64 {
    let micros = u64::try_from(at.micros()).unwrap_or(0);
    micros.div_ceil(MICROS_PER_HOUR)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn an_hour_begins_at_its_own_time() {
        for hour in [0, 1, 497_083] {
            let start = start_of(hour);
            assert_eq!(first_hour_from(start), hour);
            assert_eq!(
                first_hour_from(start.plus(Duration::from_micros(1))),
                hour + 1
            );
        }
        assert_eq!(first_hour_from(Timestamp::from_seconds(-1)), 0);
        assert!(start_of(u64::MAX) > start_of(1 << 30));
    }

    #[test]
    fn what_counts_is_the_latest_epoch_and_in_the_moment_of_its_opening_the_one_before_too() {
        let at = |hours: u32| Timestamp::from_seconds(0).plus(HOUR * hours);
        let mut erasures = Erasures::default();
        assert_eq!(erasures.kept_at(at(9)), Duration::ZERO);
        erasures.opened = vec![(at(1), HOUR * 3), (at(5), HOUR * 7)];
        for (time, kept) in [
            (at(1).plus(CLOCK_SKEW), Duration::ZERO),
            (at(5), HOUR * 3),
            (at(5).plus(CLOCK_SKEW), HOUR * 3),
            (at(6), HOUR * 7),
        ] {
            assert_eq!(erasures.kept_at(time), kept, "{time}");
        }
        erasures.kept = BTreeMap::from([(Epoch::new(1).unwrap(), HOUR * 2)]);
        erasures.miss(0, Some(EntryKind::Epoch), 0);
        assert_eq!(erasures.kept_at(at(9)), HOUR * 2);
    }
}
