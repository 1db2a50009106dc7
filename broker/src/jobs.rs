//! What the broker does by itself: every job under a lease, so that one broker of several does it.
//!
//! Requests check times by themselves; jobs only clear away, and each of them may be cut off
//! anywhere: the next pass does what was left.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join, join_all};
use sotto_common::error::Result;
use tokio_util::sync::CancellationToken;

use crate::app::Broker;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Job {
    /// Removes silent brokers, and with them their leases on jobs.
    Replicas,
    /// Ends the epochs whose time is over (protocol §8).
    Epochs,
    /// Ends the publications whose time is over (protocol §6).
    Publications,
    /// Closes probe sessions that nobody uses, and forgets old counts (protocol §7).
    Sessions,
    /// Lets hits expire that nobody touches (workflow.md "Hit").
    Hits,
    /// Reminds of follow-ups, closes and erases them (workflow.md "Follow-up", "Audit").
    FollowUps,
    /// Deletes objects that the ledger does not need.
    Objects,
    /// Seals what is sealed at rest under the first key of the list.
    Seals,
    /// Gives entries of the log their places, and signs checkpoints (protocol §11).
    Log,
    /// Erases openings of the log after the retention time (workflow.md "Audit").
    Openings,
}

impl Job {
    const ALL: [Self; 10] = [
        Self::Replicas,
        Self::Epochs,
        Self::Publications,
        Self::Sessions,
        Self::Hits,
        Self::FollowUps,
        Self::Objects,
        Self::Seals,
        Self::Log,
        Self::Openings,
    ];

    /// Its lease's name.
    const fn name(self) -> &'static str {
        match self {
            Self::Replicas => "replicas",
            Self::Epochs => "epochs",
            Self::Publications => "publications",
            Self::Sessions => "sessions",
            Self::Hits => "hits",
            Self::FollowUps => "follow_ups",
            Self::Objects => "objects",
            Self::Seals => "seals",
            Self::Log => "log",
            Self::Openings => "openings",
        }
    }

    /// From the end of a pass to the next; the first comes at the start.
    const fn every(self) -> Duration {
        match self {
            Self::Replicas
            | Self::Epochs
            | Self::Publications
            | Self::Sessions
            | Self::Hits
            | Self::FollowUps => Duration::from_secs(10),
            // protocol §11: a checkpoint at most 10 s after the last append.
            Self::Log => Duration::from_secs(2),
            Self::Objects | Self::Openings => Duration::from_hours(1),
            // The list is read at the start.
            Self::Seals => Duration::from_hours(24),
        }
    }

    /// How long the broker that has done a pass keeps the job from others. It outlives the time to the next
    /// pass, so that a job stays where it is as long as that broker is there.
    const fn lease(self) -> Duration {
        let beyond = match self {
            // Of a broker that was killed the next one takes it over in time for its checkpoint. That two
            // sign at once, where a pass takes longer, does no harm: one of them finds the work done.
            Self::Log => Duration::from_secs(3),
            _ => Duration::from_secs(20),
        };
        self.every().saturating_add(beyond)
    }

    /// One pass, if no other broker has the lease.
    async fn run_once(self, broker: &Broker) -> Result<()> {
        if !broker.has_job(self.name(), self.lease()).await? {
            return Ok(());
        }
        match self {
            Self::Replicas => broker.remove_dead().await,
            Self::Epochs => broker.expire_epochs().await,
            Self::Publications => broker.expire_publications().await,
            Self::Sessions => broker.expire_sessions().await,
            Self::Hits => broker.expire_hits().await,
            Self::FollowUps => broker.keep_follow_up_times().await,
            Self::Objects => {
                let deleted = broker.sweep_objects().await?;
                if deleted > 0 {
                    tracing::info!(deleted, "objects that nothing needs were deleted");
                }
                Ok(())
            }
            Self::Seals => {
                let sealed = broker.seal_anew().await?;
                tracing::info!(
                    sealed,
                    "everything that is sealed at rest is under the first key"
                );
                Ok(())
            }
            Self::Log => {
                // A fault in one community's log must not keep the others' from going on.
                let sequenced = broker.sequence().await;
                sequenced.and(broker.sign_checkpoints().await)
            }
            Self::Openings => {
                let erased = broker.erase_openings().await?;
                if erased > 0 {
                    tracing::info!(erased, "openings of the log were erased after their time");
                }
                Ok(())
            }
        }
    }
}

/// How long after a pass that failed copies of filters are looked at again.
const COPIES_AGAIN: Duration = Duration::from_secs(10);

/// Runs every job by its time until `shutdown`.
pub(crate) async fn run(broker: Arc<Broker>, shutdown: CancellationToken) {
    let jobs = Job::ALL.map(|job| repeat(job, &broker));
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = join(join_all(jobs), verify_copies(&broker)) => {}
    }
}

/// Once a start, and again until every copy is right: each broker its own, under no lease.
async fn verify_copies(broker: &Broker) {
    let mut ticks = tokio::time::interval(COPIES_AGAIN);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match broker.verify_copies().await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "not every filter can be used; trying again"),
        }
    }
}

async fn repeat(job: Job, broker: &Broker) {
    let mut ticks = tokio::time::interval(job.every());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = job.run_once(broker).await {
            tracing::warn!(job = job.name(), %error, "a job was not done; trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_stays_where_it_is_and_the_log_goes_on_in_time_when_its_broker_was_killed() {
        for job in Job::ALL {
            assert!(job.lease() > job.every(), "{}", job.name());
        }
        // protocol §11: "A new one at most 10 s after the last append."
        let taken_over = Job::Log.lease() + Job::Log.every();
        assert!(taken_over < Duration::from_secs(8), "{taken_over:?}");
    }
}
