//! The time limit of a follow-up (workflow.md "Time limits"): computed once, stopped during
//! clarification, set anew by a judicial delay.

use std::time::Duration;

use crate::time::Timestamp;

/// Shares of the limit at which both nodes are reminded, in percent.
pub const REMINDERS: [u8; 3] = [50, 80, 100];

/// A time limit that runs, or stands still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitClock {
    total: Duration,
    face: Face,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Face {
    Running { due: Timestamp },
    Stopped { left: Duration, late: Duration },
}

impl LimitClock {
    /// Starts at `now`.
    #[must_use]
    pub fn start(limit: Duration, now: Timestamp) -> Self {
        Self {
            total: limit,
            face: Face::Running {
                due: now.plus(limit),
            },
        }
    }

    /// Starts anew at `now`, until a date that the holder gave.
    #[must_use]
    pub fn until(date: Timestamp, now: Timestamp) -> Self {
        Self::start(date.since(now), now)
    }

    /// The clock as it was kept.
    #[must_use]
    pub const fn running(total: Duration, due: Timestamp) -> Self {
        Self {
            total,
            face: Face::Running { due },
        }
    }

    /// Stands still from `now` on; a clock that stands already is left as it is.
    #[must_use]
    pub fn stop(self, now: Timestamp) -> Self {
        match self.face {
            Face::Stopped { .. } => self,
            Face::Running { due } => Self {
                face: Face::Stopped {
                    left: due.since(now),
                    late: now.since(due),
                },
                ..self
            },
        }
    }

    /// Runs again from `now` on, with what was left.
    #[must_use]
    pub fn resume(self, now: Timestamp) -> Self {
        match self.face {
            Face::Running { .. } => self,
            Face::Stopped { left, late } => Self {
                face: Face::Running {
                    due: now.plus(left).minus(late),
                },
                ..self
            },
        }
    }

    /// The whole limit.
    pub const fn total(&self) -> Duration {
        self.total
    }

    /// When it is over; `None` while it stands still.
    pub const fn due(&self) -> Option<Timestamp> {
        match self.face {
            Face::Running { due } => Some(due),
            Face::Stopped { .. } => None,
        }
    }

    /// What is left; zero once it is over.
    pub fn left(&self, now: Timestamp) -> Duration {
        match self.face {
            Face::Running { due } => due.since(now),
            Face::Stopped { left, .. } => left,
        }
    }

    /// OVERDUE: a flag, not a state.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        match self.face {
            Face::Running { due } => now > due,
            Face::Stopped { late, .. } => !late.is_zero(),
        }
    }

    /// When `percent` of the limit have passed; `None` while it stands still.
    pub fn reminder_at(&self, percent: u8) -> Option<Timestamp> {
        let after = self.total * (100 - u32::from(percent.min(100))) / 100;
        Some(self.due()?.minus(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_seconds(hours * HOUR)
    }

    fn hours(n: u64) -> Duration {
        Duration::from_hours(n)
    }

    #[test]
    fn a_stopped_clock_keeps_what_is_left() {
        let clock = LimitClock::start(hours(8), at(0)).stop(at(3));
        assert_eq!((clock.due(), clock.left(at(100))), (None, hours(5)));
        assert_eq!(clock.reminder_at(50), None);
        let clock = clock.stop(at(50)).resume(at(100));
        assert_eq!(clock.due(), Some(at(105)));
        assert!(!clock.is_overdue(at(105)) && clock.is_overdue(at(106)));
    }

    #[test]
    fn what_was_overdue_stays_so_through_a_clarification() {
        let clock = LimitClock::start(hours(8), at(0)).stop(at(9));
        assert!(clock.is_overdue(at(9)));
        let clock = clock.resume(at(20));
        assert!(clock.is_overdue(at(20)));
        assert_eq!(clock.left(at(20)), Duration::ZERO);
    }

    #[test]
    fn reminders_come_at_their_share_of_the_limit() {
        let clock = LimitClock::start(hours(10), at(0));
        let reminders: Vec<_> = REMINDERS
            .iter()
            .filter_map(|percent| clock.reminder_at(*percent))
            .collect();
        assert_eq!(reminders, [at(5), at(8), at(10)]);
        let late = clock.stop(at(4)).resume(at(14));
        assert_eq!(late.reminder_at(50), Some(at(15)));
    }

    #[test]
    fn a_judicial_delay_sets_a_new_date() {
        let clock = LimitClock::until(at(30), at(10));
        assert_eq!((clock.due(), clock.total()), (Some(at(30)), hours(20)));
    }
}
