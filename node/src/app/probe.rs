//! Probing a dataset: a session that goes on over broken streams and restarts (protocol §7).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::SessionId;
use sotto_common::probe::{MAX_BATCH, SessionNonce};
use sotto_common::random::os_rng;
use tokio::sync::watch;

use super::epochs::EpochKeys;
use super::jobs::{JobState, Reporter};
use super::session::{AHEAD, Opening, Pairs, ProbeStream, found};
use super::{App, check_targets, is_of_the_caller, off_the_runtime};
use crate::broker::{Backoff, is_passing};
use crate::store::{Batch, ProbeKey, ProbeSession, SelectorRow};

/// The quota is asked about again after this time at the latest: the operator may have raised it.
const LONGEST_QUOTA_WAIT: Duration = Duration::from_mins(5);
/// `MAX_BATCH` as the number of rows that are read for a batch.
#[expect(clippy::cast_possible_truncation, reason = "4096")]
const BATCH_ROWS: u32 = MAX_BATCH as u32;

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

/// A stream, and the batches on it that are not answered.
struct Flight<'a> {
    epoch: &'a EpochKeys,
    stream: ProbeStream,
    /// Sent, in order.
    unanswered: VecDeque<(Batch, Pairs)>,
    /// Planned on an earlier stream and to be sent again as they were.
    again: VecDeque<Batch>,
    /// What the broker said is left of today's quota, less what was planned since.
    left_today: u64,
    max_pairs: u64,
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

    /// Goes on with the sessions that a restart interrupted.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn resume_probes(self: &Arc<Self>) -> Result<()> {
        for session in self.store.sessions().await? {
            self.start_probe(session.key);
        }
        Ok(())
    }

    async fn run_probe(&self, key: &ProbeKey, reporter: &Reporter<ProbeProgress>) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            reporter.update(|p| p.waiting_for.clear());
            let Err(error) = self.try_probe(key, reporter, &mut backoff).await else {
                return Ok(());
            };
            let pause = match error.code {
                code if is_passing(&error) => {
                    tracing::info!(%error, "probe interrupted");
                    reporter.update(|p| p.waiting_for = format!("the broker ({code})"));
                    backoff.pause(&mut os_rng())
                }
                ErrorCode::QuotaExhausted => {
                    tracing::info!("probe waits for its quota");
                    reporter.update(|p| "the quota of the day".clone_into(&mut p.waiting_for));
                    let hint = error.retry_after.unwrap_or(LONGEST_QUOTA_WAIT);
                    hint.clamp(Duration::from_secs(1), LONGEST_QUOTA_WAIT)
                }
                // The session may still go on when the fault is mended.
                code if is_of_the_caller(code) => return Err(error),
                _ => {
                    if let Some(session) = self.session_of(key).await? {
                        self.store.delete_session(session.id).await?;
                        if let Ok(epoch) = self.stored_keys(session.epoch).await {
                            self.abandon_session(&epoch, &opening(&session)).await;
                        }
                        // Closed already, and the restart came before that was noted here.
                        let answered = session.probed >= session.total;
                        if error.code == ErrorCode::SessionUnknown && answered {
                            return Ok(());
                        }
                    }
                    return Err(error);
                }
            };
            tokio::time::sleep(pause).await;
        }
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
            Some(session) => {
                // The epoch before, which is accepted beside the new one for a while.
                let epoch = self.stored_keys(session.epoch).await?;
                (session, epoch)
            }
            None => (self.new_session(key, &active).await?, active),
        };
        show(reporter, &session);
        if session.total == 0 {
            return self.store.delete_session(session.id).await;
        }
        let mut flight = self.take_off(&session, &epoch).await?;
        loop {
            while flight.unanswered.len() < AHEAD {
                let Some((batch, pairs)) = self.next_batch(&mut session, &mut flight).await? else {
                    break;
                };
                flight.stream.ask(batch.number, &pairs).await;
                flight.unanswered.push_back((batch, pairs));
            }
            let Some((batch, pairs)) = flight.unanswered.pop_front() else {
                break;
            };
            self.take_answer(&mut session, &mut flight, batch, &pairs)
                .await?;
            backoff.reset();
            show(reporter, &session);
        }
        let closed = flight.stream.close().await;
        self.store.delete_session(session.id).await?;
        // Every batch is answered and its hits are here: a close that is lost loses nothing.
        if let Err(error) = closed {
            tracing::debug!(%error, "the close of a probe session was not answered");
        }
        Ok(())
    }

    async fn session_of(&self, key: &ProbeKey) -> Result<Option<ProbeSession>> {
        let sessions = self.store.sessions().await?;
        Ok(sessions.into_iter().find(|session| session.key == *key))
    }

    async fn new_session(&self, key: &ProbeKey, epoch: &EpochKeys) -> Result<ProbeSession> {
        let dataset = self.store.dataset(&key.dataset).await?;
        let dataset = dataset.ok_or_else(unknown_dataset)?;
        epoch.manifest.policy(dataset.policy)?;
        check_targets(&self.node, &epoch.manifest, &key.targets)?;
        let session = ProbeSession {
            id: SessionId::generate(self.clock.now(), &mut os_rng()),
            key: key.clone(),
            dataset: dataset.id,
            policy: dataset.policy,
            epoch: epoch.manifest.epoch,
            nonce: SessionNonce::generate(&mut os_rng()),
            last_selector: dataset.last_selector,
            total: dataset.selectors,
            next_batch: 0,
            position: 0,
            probed: 0,
            matches: 0,
        };
        // Durable before the broker hears of it: a restart resumes it with the same nonce.
        self.store.put_session(&session).await?;
        Ok(session)
    }

    async fn take_off<'a>(
        &self,
        session: &ProbeSession,
        epoch: &'a EpochKeys,
    ) -> Result<Flight<'a>> {
        let (stream, opened) = self.open_session(epoch, &opening(session)).await?;
        Ok(Flight {
            epoch,
            stream,
            unanswered: VecDeque::new(),
            again: self.store.batches(session.id).await?.into(),
            left_today: opened.refs_left_today,
            max_pairs: u64::from(opened.max_pairs.clamp(1, BATCH_ROWS)),
        })
    }

    /// The next batch to send: one of an earlier stream, or a new one, which is durable with what
    /// its refs stand for when this returns.
    async fn next_batch(
        &self,
        session: &mut ProbeSession,
        flight: &mut Flight<'_>,
    ) -> Result<Option<(Batch, Pairs)>> {
        if let Some(batch) = flight.again.pop_front() {
            let pairs = self
                .pairs(session, flight.epoch, batch.first, batch.last, BATCH_ROWS)
                .await?;
            if pairs.refs.is_empty() {
                return Err(Error::new(
                    ErrorCode::SessionMismatch,
                    "the stop-list has changed under a probe; put the question again",
                ));
            }
            return Ok(Some((batch, pairs)));
        }
        // With nothing left a whole batch is sent all the same: its refusal says when to come
        // again.
        let size = match flight.left_today {
            0 => flight.max_pairs,
            left => left.min(flight.max_pairs),
        };
        let size = u32::try_from(size).unwrap_or(BATCH_ROWS);
        let (first, last, pairs) = loop {
            let (after, end) = (session.position + 1, session.last_selector);
            let pairs = self.pairs(session, flight.epoch, after, end, size).await?;
            match pairs.span {
                None => return Ok(None),
                // All of them on the stop-list: there is nothing to ask.
                Some((_, last)) if pairs.refs.is_empty() => {
                    session.position = last;
                    session.probed += pairs.rows;
                }
                Some((first, last)) => break (first, last, pairs),
            }
        };
        let batch = Batch {
            number: session.next_batch,
            first,
            last,
        };
        self.store
            .plan_batch(session.id, session.epoch, batch, &pairs.refs)
            .await?;
        session.next_batch += 1;
        session.position = batch.last;
        flight.left_today = flight.left_today.saturating_sub(pairs.refs.len() as u64);
        Ok(Some((batch, pairs)))
    }

    /// Tags and refs of selectors of the session's dataset.
    async fn pairs(
        &self,
        session: &ProbeSession,
        epoch: &EpochKeys,
        first: i64,
        last: i64,
        limit: u32,
    ) -> Result<Pairs> {
        let rows = self
            .store
            .selectors(session.dataset, first, last, limit)
            .await?;
        let (policy, refs) = (session.policy, self.keystore.record_ref().clone());
        let (schedule, manifest) = (Arc::clone(&epoch.schedule), Arc::clone(&epoch.manifest));
        let policies = Arc::clone(&self.policies);
        off_the_runtime(move || {
            let admits = |row: &SelectorRow| policies.still_admits(policy, &row.canonical);
            Pairs::make(rows, policy, &schedule, &manifest, &refs, admits)
        })
        .await
    }

    /// Waits for the answer to a batch; its hits are durable when this returns.
    async fn take_answer(
        &self,
        session: &mut ProbeSession,
        flight: &mut Flight<'_>,
        batch: Batch,
        pairs: &Pairs,
    ) -> Result<()> {
        let answer = match flight.stream.answer(batch.number).await {
            Ok(answer) => answer,
            Err(error) if error.code == ErrorCode::QuotaExhausted => {
                // "One batch is answered before the next is read": this one and all after it
                // were not taken, and may be cut to what is left tomorrow.
                self.store.unplan_batches(session.id, batch).await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let now = self.clock.now();
        let (manifest, asked) = (&flight.epoch.manifest, opening(session));
        let hits = found(&self.node, manifest, &asked, pairs, &answer.matches, now)?;
        let cursor = self
            .store
            .answer_batch(session.id, batch.number, pairs.rows, &hits)
            .await?;
        session.probed += pairs.rows;
        session.matches += hits.len() as u64;
        self.hits_changed(cursor);
        Ok(())
    }
}

fn opening(session: &ProbeSession) -> Opening<'_> {
    Opening {
        id: session.id,
        nonce: &session.nonce,
        policy: session.policy,
        grounds: &session.key.grounds,
        targets: &session.key.targets,
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
