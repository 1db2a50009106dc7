//! Statistics of follow-ups, and the rates of NOT_HELD (workflow.md "Audit", protocol §10).

use std::collections::BTreeMap;

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::statistics::{Case, Line, LineKey, lines};
use sotto_common::ids::CommunityId;
use sotto_common::time::Timestamp;

use crate::app::{Broker, enrolled};
use crate::datastore::{FollowUpRange, FollowUpRecord, PresenceCount};

/// Most follow-ups that one answer counts.
const MAX_CASES: u32 = 50_000;

/// NOT_HELD is raised if so many or more come by chance less often than this.
const RAISED_BELOW: f64 = 0.001;

/// How often a holder did not hold, beside what chance explains.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct PresenceRate {
    pub(crate) count: PresenceCount,
    /// Of so many NOT_HELD or more by chance.
    pub(crate) probability: f64,
    /// Whether that is more than chance explains.
    pub(crate) raised: bool,
}

impl PresenceRate {
    fn of(count: PresenceCount) -> Self {
        let probability = poisson_tail(count.not_held, count.expected);
        Self {
            count,
            probability,
            raised: probability < RAISED_BELOW,
        }
    }
}

impl Broker {
    /// The figures of art. 18 of Directive (EU) 2023/977, of follow-ups submitted within a range. A
    /// node, given in the range, sees its own.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`; `LIMIT_REACHED` if there are too many.
    pub(crate) async fn follow_up_statistics(
        &self,
        community: &CommunityId,
        range: FollowUpRange<'_>,
    ) -> Result<BTreeMap<LineKey, Line>> {
        let now = self.now();
        let records = self
            .store
            .read_tx("follow_up_statistics", |tx| {
                async move {
                    if let Some(node) = range.party {
                        enrolled(tx, community, node).await?;
                    }
                    tx.get_submitted_follow_ups(community, range, MAX_CASES + 1)
                        .await
                }
                .scope_boxed()
            })
            .await?;
        if records.len() > MAX_CASES as usize {
            let text = format!("more than {MAX_CASES} follow-ups: ask for a shorter time");
            return Err(Error::new(ErrorCode::LimitReached, text).about("from"));
        }
        let cases = records
            .iter()
            .map(|record| Case::of(&record.follow_up, now));
        Ok(lines(cases))
    }

    /// Operator, auditor: how often holders did not hold what was submitted since then.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub(crate) async fn presence_rates(
        &self,
        community: &CommunityId,
        since: Option<Timestamp>,
    ) -> Result<Vec<PresenceRate>> {
        let counts = self
            .store
            .read_tx("presence_rates", |tx| {
                async move { tx.get_presence_counts(community, since).await }.scope_boxed()
            })
            .await?;
        Ok(counts.into_iter().map(PresenceRate::of).collect())
    }

    /// Says once, when a NOT_HELD that is committed has raised its holder's rate.
    pub(super) async fn watch_presence(&self, record: &FollowUpRecord) {
        match self.newly_raised(record).await {
            Ok(Some(PresenceRate { count, .. })) => {
                tracing::warn!(holder = %count.holder, policy = %count.policy,
                    checked = count.checked, not_held = count.not_held, expected = count.expected,
                    "a holder does not hold what its filters match, more often than chance explains");
            }
            Ok(None) => {}
            // The rates stand in the ledger: whoever asks sees them.
            Err(error) => tracing::warn!(%error, "the rates of NOT_HELD could not be read"),
        }
    }

    /// The rate that a NOT_HELD has raised, which is counted already; `None` if it was raised
    /// before, or is not.
    pub(super) async fn newly_raised(
        &self,
        record: &FollowUpRecord,
    ) -> Result<Option<PresenceRate>> {
        let rates = self.presence_rates(&record.key.community, None).await?;
        let now = rates.into_iter().find(|rate| {
            rate.count.holder == record.follow_up.holder && rate.count.policy == record.key.policy
        });
        let Some(now) = now.filter(|rate| rate.raised) else {
            return Ok(None);
        };
        let before = PresenceRate::of(PresenceCount {
            checked: now.count.checked.saturating_sub(1),
            not_held: now.count.not_held.saturating_sub(1),
            expected: now.count.expected - (1.0 - record.posterior),
            ..now.count.clone()
        });
        Ok((!before.raised).then_some(now))
    }
}

/// The probability that a Poisson variable of this mean is `n` or more.
#[expect(
    clippy::cast_precision_loss,
    reason = "a count of follow-ups, far below 2^52"
)]
fn poisson_tail(n: u64, mean: f64) -> f64 {
    if n == 0 {
        return 1.0;
    }
    if mean <= 0.0 {
        return 0.0;
    }
    // The term of n, by logarithms: neither the power nor the factorial fits by itself.
    let log_factorial: f64 = (2..=n).map(|k| (k as f64).ln()).sum();
    let first = (n as f64).mul_add(mean.ln(), -mean) - log_factorial;
    let first = first.exp();
    if (n as f64) > mean {
        // Upwards the terms fall at once.
        let (mut term, mut sum, mut k) = (first, 0.0, n as f64);
        while term > sum * f64::EPSILON {
            sum += term;
            k += 1.0;
            term *= mean / k;
        }
        sum.min(1.0)
    } else {
        // Downwards from n − 1.
        let (mut term, mut sum, mut k) = (first * n as f64 / mean, 0.0, n as f64 - 1.0);
        while term > sum * f64::EPSILON {
            sum += term;
            if k < 1.0 {
                break;
            }
            term *= k / mean;
            k -= 1.0;
        }
        (1.0 - sum).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_poisson_variable_is_that_of_the_tables() {
        for (n, mean, expected) in [
            (0, 2.0, 1.0),
            (1, 0.1, 0.095_162_582),
            (3, 1.0, 0.080_301_397),
            (5, 2.5, 0.108_821_981),
            (10, 10.0, 0.542_070_286),
            (120, 100.0, 0.028_230_394),
            (3, 0.0, 0.0),
            (1, 1e-9, 1e-9),
        ] {
            let tail = poisson_tail(n, mean);
            assert!(
                (tail - expected).abs() < 1e-6_f64.min(expected * 1e-3 + 1e-9),
                "{n} {mean}: {tail}"
            );
        }
        assert!(poisson_tail(2_000, 1_000_000.0) > 0.999);
        assert!(poisson_tail(2_000, 100.0) < 1e-300);
    }

    #[test]
    fn a_rate_is_raised_by_what_chance_does_not_explain() {
        let rate = |not_held, expected| {
            PresenceRate::of(PresenceCount {
                holder: "de-bka".parse().expect("a node"),
                policy: sotto_common::selector::Policy::Phone,
                checked: 100,
                not_held,
                expected,
            })
        };
        assert!(!rate(0, 1e-9).raised);
        assert!(rate(1, 1e-6).raised);
        assert!(!rate(3, 1.0).raised && rate(8, 1.0).raised);
    }
}
