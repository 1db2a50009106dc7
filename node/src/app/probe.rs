//! Probing a dataset because a person asks: a session that goes on over broken streams and restarts
//! (protocol §7). What the node asks by itself is the [prober](super::prober)'s.

pub(super) mod flight;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::SessionId;
use sotto_common::probe::SessionNonce;
use sotto_common::random::os_rng;
use tokio::sync::watch;

use super::epochs::EpochKeys;
use super::jobs::{JobState, Reporter};
use super::{App, check_targets, is_of_the_caller};
use crate::broker::{Backoff, is_passing};
use crate::store::{ProbeKey, ProbeKind, ProbeSession};
use flight::{Flown, Pilot, is_lost, opening};

/// The quota is asked about again after this time at the latest: the operator may have raised it.
pub(super) const LONGEST_QUOTA_WAIT: Duration = Duration::from_mins(5);
/// The epochs are looked at again after this time at the latest.
const LONGEST_EPOCH_WAIT: Duration = Duration::from_mins(5);
/// How often a session is begun anew before its caller is told that it does not work.
const BEGUN_ANEW: u32 = 5;

/// How far a probe is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ProbeProgress {
    /// Record refs answered.
    pub(crate) probed: u64,
    /// Record refs in all.
    pub(crate) total: u64,
    /// Matches found.
    pub(crate) matches: u64,
    /// What it waits for, if it waits.
    pub(crate) waiting_for: String,
}

/// Goes to the end, and tells the person who asked.
struct Told<'a>(&'a Reporter<ProbeProgress>);

impl Pilot for Told<'_> {
    fn room(&mut self, _: u64) -> u64 {
        u64::MAX
    }

    fn told(&mut self, session: &ProbeSession) {
        show(self.0, session);
    }
}

impl App {
    /// Probes a dataset, or joins the probe of the same dataset, grounds and targets.
    ///
    /// # Errors
    /// `DATASET_UNKNOWN`.
    pub(crate) async fn probe(
        self: &Arc<Self>,
        key: ProbeKey,
    ) -> Result<watch::Receiver<JobState<ProbeProgress>>> {
        if self.store.dataset(&key.dataset).await?.is_none() {
            return Err(unknown_dataset());
        }
        Ok(self.start_probe(key))
    }

    fn start_probe(self: &Arc<Self>, key: ProbeKey) -> watch::Receiver<JobState<ProbeProgress>> {
        let app = Arc::clone(self);
        self.probes.join_or_start(key, |key, reporter| async move {
            app.run_probe(&key, &reporter).await
        })
    }

    /// Goes on with the probes of persons that a restart interrupted.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn resume_probes(self: &Arc<Self>) -> Result<()> {
        let sessions = self.store.sessions().await?.into_iter();
        for session in sessions.filter(|session| session.kind == ProbeKind::Asked) {
            self.start_probe(session.key);
        }
        Ok(())
    }

    async fn run_probe(&self, key: &ProbeKey, reporter: &Reporter<ProbeProgress>) -> Result<()> {
        let mut backoff = Backoff::default();
        let mut anew = 0;
        loop {
            reporter.update(|p| p.waiting_for.clear());
            let Err(error) = self.try_probe(key, reporter, &mut backoff).await else {
                return Ok(());
            };
            match error.code {
                code if is_passing(&error) => {
                    tracing::info!(%error, "probe interrupted");
                    reporter.update(|p| p.waiting_for = format!("the broker ({code})"));
                    tokio::time::sleep(backoff.pause(&mut os_rng())).await;
                }
                ErrorCode::QuotaExhausted => {
                    tracing::info!("probe waits for its quota");
                    reporter.update(|p| "the quota of the day".clone_into(&mut p.waiting_for));
                    self.wait_for_quota(&error).await;
                }
                ErrorCode::EpochNotActive => self.follow_epoch(key, error, reporter).await?,
                // The session may still go on when the fault is mended.
                code if is_of_the_caller(code) => return Err(error),
                code => {
                    if self.give_up(key, &error, anew < BEGUN_ANEW).await? {
                        return Ok(());
                    }
                    if !is_lost(code) || anew == BEGUN_ANEW {
                        return Err(error);
                    }
                    anew += 1;
                }
            }
        }
    }

    /// The epoch of a probe is over, perhaps while it waited for its quota: it goes on from where it
    /// was in the one that is active, or waits for one.
    ///
    /// # Errors
    /// The refusal, if there is no session that could go on; those of the store.
    async fn follow_epoch(
        &self,
        key: &ProbeKey,
        refusal: Error,
        reporter: &Reporter<ProbeProgress>,
    ) -> Result<()> {
        let Some(session) = self.session_of(key).await? else {
            return Err(refusal);
        };
        let mut epoch = self.epoch.subscribe();
        if let Ok(active) = self.active_epoch().await
            && active.manifest.epoch != session.epoch
        {
            return self.begin_in(&session, &active).await.map(drop);
        }
        tracing::info!("probe waits for an active epoch");
        reporter.update(|p| "an active epoch".clone_into(&mut p.waiting_for));
        let look_again = self.clock.now().plus(LONGEST_EPOCH_WAIT);
        tokio::select! {
            () = self.clock.wait_until(look_again) => {}
            _ = epoch.changed() => {}
        }
        Ok(())
    }

    /// Waits until the quota may be there again.
    pub(super) async fn wait_for_quota(&self, error: &Error) {
        let hint = error.retry_after.unwrap_or(LONGEST_QUOTA_WAIT);
        let pause = hint.clamp(Duration::from_secs(1), LONGEST_QUOTA_WAIT);
        self.clock.wait_until(self.clock.now().plus(pause)).await;
    }

    /// Gives a session up that was refused, or begins it anew from where it was; tells whether it
    /// had been answered to its end.
    async fn give_up(&self, key: &ProbeKey, error: &Error, anew: bool) -> Result<bool> {
        let Some(session) = self.session_of(key).await? else {
            return Ok(false);
        };
        let epoch = self.stored_keys(session.epoch).await;
        if session.probed >= session.total && error.code == ErrorCode::SessionUnknown {
            // Closed already, and the restart came before that was noted here.
            self.store.delete_session(session.id).await?;
            return Ok(true);
        }
        match epoch {
            Ok(epoch) if anew && is_lost(error.code) => {
                self.begin_anew(&session, &epoch).await?;
            }
            Ok(epoch) => {
                self.store.delete_session(session.id).await?;
                self.abandon_session(&epoch, &opening(&session)).await;
            }
            Err(_) => self.store.delete_session(session.id).await?,
        }
        Ok(false)
    }

    /// Goes on with the session of this probe, or opens one, and brings it to its end.
    async fn try_probe(
        &self,
        key: &ProbeKey,
        reporter: &Reporter<ProbeProgress>,
        backoff: &mut Backoff,
    ) -> Result<()> {
        let active = self.active_epoch().await?;
        let (mut session, epoch) = match self.session_of(key).await? {
            Some(session) if session.epoch == active.manifest.epoch => (session, active),
            Some(session) => match self.stored_keys(session.epoch).await {
                // The epoch before, which is accepted beside the new one for a while.
                Ok(epoch) if epoch.manifest.covers(self.clock.now()) => (session, epoch),
                _ => (self.begin_in(&session, &active).await?, active),
            },
            None => (self.new_session(key, &active).await?, active),
        };
        show(reporter, &session);
        let mut pilot = Told(reporter);
        let flown = self.fly(&mut session, &epoch, &mut pilot, backoff).await?;
        debug_assert_eq!(flown, Flown::ToTheEnd, "nothing pauses what a person asks");
        self.store.delete_session(session.id).await
    }

    async fn session_of(&self, key: &ProbeKey) -> Result<Option<ProbeSession>> {
        let sessions = self.store.sessions().await?;
        Ok(sessions
            .into_iter()
            .find(|session| session.kind == ProbeKind::Asked && session.key == *key))
    }

    async fn new_session(&self, key: &ProbeKey, epoch: &EpochKeys) -> Result<ProbeSession> {
        let dataset = self.store.dataset(&key.dataset).await?;
        let dataset = dataset.ok_or_else(unknown_dataset)?;
        epoch.manifest.policy(dataset.policy)?;
        check_targets(&self.node, &epoch.manifest, &key.targets)?;
        let now = self.clock.now();
        let session = ProbeSession {
            id: SessionId::generate(now, &mut os_rng()),
            kind: ProbeKind::Asked,
            key: key.clone(),
            dataset: dataset.id,
            policy: dataset.policy,
            epoch: epoch.manifest.epoch,
            nonce: SessionNonce::generate(&mut os_rng()),
            first: 0,
            last_selector: dataset.last_selector,
            total: dataset.selectors,
            layers: BTreeMap::new(),
            padding: self.settings.prober.pad_batches_to,
            started_at: now,
            next_batch: 0,
            position: 0,
            decoys: 0,
            probed: 0,
            matches: 0,
        };
        // Durable before the broker hears of it: a restart resumes it with the same nonce.
        self.store.put_session(&session).await?;
        Ok(session)
    }
}

fn show(reporter: &Reporter<ProbeProgress>, session: &ProbeSession) {
    reporter.update(|p| {
        p.probed = session.probed;
        p.total = session.total;
        p.matches = session.matches;
    });
}

fn unknown_dataset() -> Error {
    Error::new(ErrorCode::DatasetUnknown, "there is no such dataset here")
}
