//! Time as an argument: UTC instants, UTC days, and the clocks that give them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

#[cfg(feature = "service")]
use futures::future::{BoxFuture, FutureExt as _};
#[cfg(feature = "service")]
use tokio::sync::watch;

/// Clocks of two parties may differ by this much (protocol, Notation).
pub const CLOCK_SKEW: Duration = Duration::from_mins(5);

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// A UTC instant in microseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From whole seconds since the Unix epoch; saturates at the bounds.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(MICROS_PER_SECOND))
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(MICROS_PER_SECOND)
    }

    /// Milliseconds since the Unix epoch, as a UUIDv7 takes them; 0 before 1970.
    pub fn unix_millis(self) -> u64 {
        u64::try_from(self.0.div_euclid(1000)).unwrap_or(0)
    }

    /// The UTC day: days since 1970-01-01. Quotas and caps count by it (protocol §7).
    pub const fn day(self) -> i64 {
        self.seconds().div_euclid(SECONDS_PER_DAY)
    }

    /// How long until the next UTC day begins.
    pub fn until_next_day(self) -> Duration {
        let next = (self.day() + 1) * SECONDS_PER_DAY * MICROS_PER_SECOND;
        Duration::from_micros(u64::try_from(next - self.0).unwrap_or(0))
    }

    /// This instant moved forward; saturates.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    /// This instant moved back; saturates.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// From an RFC 3339 text.
    ///
    /// # Errors
    /// `None` if the text is not RFC 3339.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
            .ok()?;
        i64::try_from(at.unix_timestamp_nanos().div_euclid(1000))
            .ok()
            .map(Self)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, whole seconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = time::OffsetDateTime::from_unix_timestamp(self.seconds())
            .ok()
            .and_then(|at| {
                at.format(&time::format_description::well_known::Rfc3339)
                    .ok()
            });
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "{}s", self.seconds()),
        }
    }
}

/// Where the time comes from. Production passes [`SystemClock`], tests a [`MockClock`].
pub trait Clock: Send + Sync + 'static {
    /// The present instant.
    fn now(&self) -> Timestamp;

    /// Ends once the clock shows `at` or later; a clock that is set forward ends it early enough.
    #[cfg(feature = "service")]
    fn wait_until(&self, at: Timestamp) -> BoxFuture<'static, ()>;
}

/// A system clock that was set is noticed within this time.
#[cfg(feature = "service")]
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The clock of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that reads the system clock"
        )]
        let now = std::time::SystemTime::now();
        let since = now
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    #[cfg(feature = "service")]
    fn wait_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        async move {
            loop {
                let left = at.since(Self.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
            }
        }
        .boxed()
    }
}

/// A clock that stands until it is told to move; clones share it.
#[derive(Clone, Debug)]
pub struct MockClock {
    micros: Arc<AtomicI64>,
    #[cfg(feature = "service")]
    moved: watch::Sender<()>,
}

impl MockClock {
    /// A clock standing at `at`.
    #[must_use]
    pub fn at(at: Timestamp) -> Self {
        Self {
            micros: Arc::new(AtomicI64::new(at.micros())),
            #[cfg(feature = "service")]
            moved: watch::Sender::new(()),
        }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }

    /// Sets the clock, backwards too.
    pub fn set(&self, at: Timestamp) {
        self.micros.store(at.micros(), Ordering::SeqCst);
        #[cfg(feature = "service")]
        self.moved.send_replace(());
    }
}

impl Clock for MockClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.micros.load(Ordering::SeqCst))
    }

    #[cfg(feature = "service")]
    fn wait_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        let (clock, mut moved) = (self.clone(), self.moved.subscribe());
        async move {
            loop {
                // Marked as seen before the clock is read: a move after that ends the wait below.
                moved.mark_unchanged();
                if clock.now() >= at {
                    return;
                }
                // The clone above keeps the sender: this does not fail.
                let _ = moved.changed().await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_utc_days_before_and_after_1970() {
        assert_eq!(Timestamp::from_seconds(0).day(), 0);
        assert_eq!(Timestamp::from_seconds(-1).day(), -1);
        assert_eq!(Timestamp::from_seconds(86_399).day(), 0);
        assert_eq!(
            Timestamp::from_seconds(86_399).until_next_day(),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn rfc3339_round_trips() {
        let at = Timestamp::from_seconds(1_789_500_000);
        assert_eq!(Timestamp::parse_rfc3339(&at.to_string()), Some(at));
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
    }
}
