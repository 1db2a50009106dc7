//! When to publish: what is new within seconds, a base once a day at a random minute, and at once
//! what must not match any more (protocol §5.4).
//!
//! Nobody who watches the catalogue is to read from the time of a base what happened at the node:
//! bases come by their own schedule unless something was removed or a person asks.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rand::{CryptoRng, RngExt as _};
use sotto_common::error::Result;
use sotto_common::random::os_rng;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::App;
use super::jobs::JobState;
use super::publish::{PublicationJob, PublicationKey};
use crate::broker::is_passing;

/// What failed is tried again after this time, then after twice as long, …
const FIRST_RETRY: Duration = Duration::from_mins(1);
/// … but at the latest after this time.
const LAST_RETRY: Duration = Duration::from_hours(1);

/// What kept a policy from being published.
#[derive(Clone, Debug)]
pub(crate) struct Setback {
    /// What is wrong, in words.
    pub(crate) problem: String,
    retry_at: Timestamp,
    pause: Duration,
}

/// What kept policies from being published.
pub(crate) type Setbacks = BTreeMap<Policy, Setback>;

/// Publishes for as long as the node runs.
pub(crate) fn keep_publishing(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let (mut data, mut online) = (app.data.subscribe(), app.online.subscribe());
        let mut epoch = app.epoch.subscribe();
        // The connection to the broker at which its list was last compared with what is known here.
        let mut compared = None;
        loop {
            // Seen before the store is read: a change meanwhile wakes this at once.
            data.mark_unchanged();
            online.mark_unchanged();
            epoch.mark_unchanged();
            let connection = Some((*online.borrow(), *epoch.borrow()));
            let outcome = async {
                if compared != connection {
                    app.replace_what_is_not_known().await?;
                }
                app.publish_what_is_due().await
            };
            let wake = match outcome.await {
                Ok(wake) => {
                    compared = connection;
                    wake
                }
                Err(error) => {
                    // Without a broker or an epoch: both are told below.
                    tracing::debug!(%error, "not publishing at the moment");
                    Some(app.clock.now().plus(FIRST_RETRY))
                }
            };
            tokio::select! {
                () = app.sleep_until(wake) => {}
                _ = epoch.changed() => {}
                // A broker that was away may have lost something.
                _ = online.changed() => {}
                _ = data.changed() => {
                    let config = &app.settings.publisher;
                    let latest = Instant::now() + config.patience.0;
                    quiet(&mut data, config.debounce.0, latest).await;
                }
            }
        }
    }
    .boxed()
}

/// Removes rows whose time is over for as long as the node runs, with or without a broker.
pub(crate) fn keep_expiring(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let mut data = app.data.subscribe();
        loop {
            data.mark_unchanged();
            let wake = match app.remove_what_is_over().await {
                Ok(wake) => wake,
                Err(error) => {
                    tracing::warn!(%error, "rows whose time is over are removed later");
                    Some(app.clock.now().plus(FIRST_RETRY))
                }
            };
            tokio::select! {
                () = app.sleep_until(wake) => {}
                _ = data.changed() => {}
            }
        }
    }
    .boxed()
}

/// Waits until nothing has changed for a while, or until the latest time.
async fn quiet(changes: &mut watch::Receiver<()>, debounce: Duration, latest: Instant) {
    loop {
        let until = latest.min(Instant::now() + debounce);
        let waited = timeout_at(until, changes.changed()).await;
        if waited.is_err() || Instant::now() >= latest {
            return;
        }
    }
}

impl App {
    /// Ends at an instant; without one, never.
    pub(crate) async fn sleep_until(&self, at: Option<Timestamp>) {
        match at {
            Some(at) => self.clock.wait_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Removes the rows whose time is over; tells when the next one's is. Those whose time is over
    /// soon go with them: each removal is a base, and none may come late.
    async fn remove_what_is_over(&self) -> Result<Option<Timestamp>> {
        let now = self.clock.now();
        if self.store.next_expiry().await?.is_some_and(|at| at <= now) {
            let until = now.plus(self.settings.publisher.gather_expiries.0);
            if !self.store.remove_expired(until).await?.is_empty() {
                self.data_changed();
            }
        }
        self.store.next_expiry().await
    }

    /// Brings every policy up to date that is not; tells when to look again.
    async fn publish_what_is_due(self: &Arc<Self>) -> Result<Option<Timestamp>> {
        let now = self.clock.now();
        let mut wake = None;
        let epoch = self.active_epoch().await?;
        let policies = self.store.published_policies().await?.into_iter();
        let mut jobs: Vec<(Policy, PublicationJob)> = Vec::new();
        for policy in policies.filter(|&policy| epoch.manifest.policy(policy).is_ok()) {
            if let Some(retry) = self.retry_at(policy).filter(|&at| at > now) {
                wake = earlier(wake, Some(retry));
            } else if self.step(policy, false).await?.is_some() {
                let key = PublicationKey {
                    policy,
                    asked: false,
                };
                jobs.push((policy, self.start_publication(key)));
            }
        }
        for (policy, job) in jobs {
            self.note_outcome(policy, job).await;
            wake = earlier(wake, self.retry_at(policy));
        }
        for policy in self.store.published_policies().await? {
            let (layers, wanted) = self.published(policy).await?;
            if layers.is_empty() {
                continue;
            }
            // One that is due and was not made waits for its setback, or for a change.
            wake = earlier(wake, wanted.next_base.filter(|&at| at > now));
            // Drawn by a clock that was ahead, and set back since.
            let latest = now.plus(self.settings.publisher.base_every.0 * 2);
            if wanted.next_base.is_some_and(|at| at > latest) {
                let anew = self.draw_next_base(None);
                self.store.set_next_base(policy, anew).await?;
                wake = earlier(wake, Some(now));
            }
        }
        Ok(wake)
    }

    /// Waits for the end of a job, and keeps in mind how it ended.
    async fn note_outcome(&self, policy: Policy, mut job: PublicationJob) {
        let ended = job.wait_for(|state| !matches!(state, JobState::Running(_)));
        let problem = match ended.await.as_deref() {
            Ok(JobState::Failed(error)) if !is_passing(error) => error.to_string(),
            Ok(_) => {
                self.setbacks().remove(&policy);
                return;
            }
            // The node ends.
            Err(_) => return,
        };
        let now = self.clock.now();
        let mut setbacks = self.setbacks();
        let before = setbacks.get(&policy).map(|setback| setback.pause);
        let pause = before.map_or(FIRST_RETRY, |pause| (pause * 2).min(LAST_RETRY));
        setbacks.insert(
            policy,
            Setback {
                problem,
                retry_at: now.plus(pause),
                pause,
            },
        );
    }

    fn retry_at(&self, policy: Policy) -> Option<Timestamp> {
        self.setbacks().get(&policy).map(|setback| setback.retry_at)
    }

    /// What kept policies from being published.
    pub(crate) fn setbacks(&self) -> std::sync::MutexGuard<'_, Setbacks> {
        self.setbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws when the next base is due after one that was due at `due`, or after one that comes now.
    pub(super) fn draw_next_base(&self, due: Option<Timestamp>) -> Timestamp {
        let every = self.settings.publisher.base_every.0;
        next_base(due, self.clock.now(), every, &mut os_rng())
    }
}

/// The earlier of two instants, none being never.
pub(crate) fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// An instant of the next period by chance; periods are counted from 1970, so that those of a day
/// are UTC days. The period is the one after that of the base which was due: one that was due in the
/// last minutes of a day, and is active after midnight, leaves the new day its own. Of a period that
/// has begun, an instant of what is left of it.
fn next_base(
    due: Option<Timestamp>,
    now: Timestamp,
    every: Duration,
    rng: &mut impl CryptoRng,
) -> Timestamp {
    let every = i64::try_from(every.as_micros()).unwrap_or(i64::MAX).max(1);
    let period = |at: Timestamp| at.micros().div_euclid(every);
    let next = period(due.unwrap_or(now)).saturating_add(1);
    // Of periods that went by meanwhile none is made up for.
    let next = next.clamp(period(now), period(now).saturating_add(1));
    let begin = next.saturating_mul(every);
    let end = begin.saturating_add(every);
    let from = begin.max(now.micros()).min(end - 1);
    Timestamp::from_micros(rng.random_range(from..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_base_comes_at_any_minute_of_the_next_day_and_of_no_other() {
        let now = Timestamp::from_seconds(10 * 86_400 + 50_000);
        let day = Duration::from_hours(24);
        let drawn: Vec<_> = (0..500)
            .map(|_| next_base(None, now, day, &mut os_rng()))
            .collect();
        assert!(drawn.iter().all(|at| at.day() == 11));
        let hours: std::collections::BTreeSet<_> = drawn
            .iter()
            .map(|at| at.seconds().rem_euclid(86_400) / 3_600)
            .collect();
        // Each is missed by chance with 6e-10.
        assert_eq!(hours.len(), 24);
    }

    #[test]
    fn a_base_that_is_active_after_midnight_leaves_the_new_day_its_own() {
        let at = |day: i64, second: i64| Timestamp::from_seconds(day * 86_400 + second);
        let now = at(10, 50_000);
        let day = Duration::from_hours(24);
        for (due, expected) in [
            (None, 11),
            (Some(at(10, 40_000)), 11),
            (Some(at(9, 86_399)), 10),
            // After days without a broker one base is enough.
            (Some(at(3, 0)), 10),
            // By a clock that was ahead.
            (Some(at(300, 0)), 11),
        ] {
            for _ in 0..200 {
                let next = next_base(due, now, day, &mut os_rng());
                assert_eq!(next.day(), expected, "{due:?}");
                assert!(next >= now);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_waited_for_until_they_pause_and_not_for_ever() {
        let (debounce, patience) = (Duration::from_secs(2), Duration::from_secs(10));
        for (changes, expected) in [(1, 2..4), (100, 10..12)] {
            let (sender, mut receiver) = watch::channel(());
            let busy = tokio::spawn(async move {
                for _ in 1..changes {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    sender.send_replace(());
                }
                std::future::pending::<()>().await;
            });
            let start = Instant::now();
            quiet(&mut receiver, debounce, start + patience).await;
            let took = start.elapsed().as_secs();
            assert!(expected.contains(&took), "{changes} changes: {took} s");
            busy.abort();
        }
    }
}
