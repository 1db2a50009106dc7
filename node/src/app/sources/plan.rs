//! When a source runs next, and how.

use std::time::Duration;

use sotto_common::time::Timestamp;

use crate::config::SourceConfig;
use crate::store::SourceState;

/// After the first failure a run is tried again after this time, then after twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_mins(1);
/// But after this at the latest.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// What a run takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    /// Rows from the watermark on.
    Changes,
    /// The whole result; what is not in it is removed.
    Whole,
}

/// Runs of one extent that failed one after the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Setback {
    failures: u32,
    until: Option<Timestamp>,
    /// What is wrong; empty = nothing.
    pub(crate) problem: String,
}

/// What has gone wrong since each extent went well.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Setbacks {
    changes: Setback,
    whole: Setback,
}

impl Setbacks {
    /// A run has failed.
    pub(crate) fn failed(&mut self, extent: Extent, now: Timestamp, problem: String) {
        let setback = self.of_mut(extent);
        let pause = FIRST_PAUSE.saturating_mul(1 << setback.failures.min(6));
        setback.failures = setback.failures.saturating_add(1);
        setback.until = Some(now.plus(pause.min(LONGEST_PAUSE)));
        setback.problem = problem;
    }

    /// A run has gone well; a whole one has taken what has changed, too.
    pub(crate) fn went_well(&mut self, extent: Extent) {
        self.changes = Setback::default();
        if extent == Extent::Whole {
            self.whole = Setback::default();
        }
    }

    /// What is wrong, once; empty = nothing.
    pub(crate) fn problem(&self) -> String {
        let (whole, changes) = (&self.whole.problem, &self.changes.problem);
        if whole.is_empty() || changes.is_empty() || whole == changes {
            return if whole.is_empty() { changes } else { whole }.clone();
        }
        format!("{whole}; and of what has changed: {changes}")
    }

    const fn of_mut(&mut self, extent: Extent) -> &mut Setback {
        match extent {
            Extent::Changes => &mut self.changes,
            Extent::Whole => &mut self.whole,
        }
    }
}

/// The next run and when it is due; at once if the source never ran as it is configured now.
pub(crate) fn next_run(
    config: &SourceConfig,
    state: Option<&SourceState>,
    setbacks: &Setbacks,
    now: Timestamp,
) -> (Extent, Timestamp) {
    let after = |setback: &Setback, due: Timestamp| setback.until.map_or(due, |at| at.max(due));
    let whole = state.map_or(now, |state| state.full_at.plus(config.full_every));
    let whole = after(&setbacks.whole, whole);
    let changes = state.zip(config.every);
    let changes = changes.map(|(state, every)| after(&setbacks.changes, state.run_at.plus(every)));
    match changes {
        Some(changes) if changes < whole && whole > now => (Extent::Changes, changes),
        _ => (Extent::Whole, whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::sources::testing::config;
    use crate::store::SourceCounts;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn state(run_at: i64, full_at: i64) -> SourceState {
        SourceState {
            definition: [0; 32],
            watermark: None,
            run_at: at(run_at),
            full_at: at(full_at),
            rows_read: 0,
            counts: SourceCounts::default(),
        }
    }

    #[test]
    fn changes_are_taken_between_whole_comparisons() {
        let mut config = config("sqlite:/x.db", "SELECT 1");
        config.every = Some(Duration::from_secs(10));
        config.full_every = Duration::from_secs(100);
        let none = Setbacks::default();
        let next = |state: &SourceState, now| next_run(&config, Some(state), &none, at(now));
        assert_eq!(
            next_run(&config, None, &none, at(7)),
            (Extent::Whole, at(7))
        );
        assert_eq!(next(&state(0, 0), 0), (Extent::Changes, at(10)));
        assert_eq!(next(&state(95, 0), 96), (Extent::Whole, at(100)));
        // Both are overdue after a long stop: the whole comparison takes what has changed, too.
        assert_eq!(next(&state(50, 0), 500), (Extent::Whole, at(100)));
        config.every = None;
        let whole = next_run(&config, Some(&state(0, 0)), &none, at(0));
        assert_eq!(whole, (Extent::Whole, at(100)));
    }

    #[test]
    fn pauses_grow_to_an_hour_and_one_extent_does_not_hold_up_the_other() {
        let mut config = config("sqlite:/x.db", "SELECT 1");
        config.every = Some(Duration::from_secs(10));
        config.full_every = Duration::from_secs(100);
        let (state, mut setbacks) = (state(0, 0), Setbacks::default());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            setbacks.failed(Extent::Whole, at(100), "a view is broken".into());
            let whole = next_run(&config, None, &setbacks, at(100));
            assert_eq!(whole.0, Extent::Whole);
            pauses.push(whole.1.since(at(100)).as_secs() / 60);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        let changes = next_run(&config, Some(&state), &setbacks, at(100));
        assert_eq!(changes, (Extent::Changes, at(10)));
        setbacks.went_well(Extent::Changes);
        assert_eq!(setbacks.problem(), "a view is broken");
        setbacks.failed(Extent::Changes, at(100), "no server".into());
        assert!(setbacks.problem().contains("a view is broken; and"));
        setbacks.went_well(Extent::Whole);
        assert_eq!(setbacks, Setbacks::default());
    }
}
