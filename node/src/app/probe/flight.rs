//! A probe session on one stream: batches out, answers in, each durable before the next step
//! (protocol §7).

use std::collections::VecDeque;
use std::sync::Arc;

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::SessionId;
use sotto_common::probe::{MAX_BATCH, SessionNonce};
use sotto_common::random::os_rng;

use crate::app::epochs::EpochKeys;
use crate::app::session::{AHEAD, Decoys, Opening, Pairs, ProbeStream, found};
use crate::app::{App, check_targets, off_the_runtime};
use crate::broker::Backoff;
use crate::store::{AnsweredBatch, Batch, ProbeSession, SelectorRow};

/// `MAX_BATCH` as the number of rows that are read for a batch.
#[expect(clippy::cast_possible_truncation, reason = "4096")]
const BATCH_ROWS: u32 = MAX_BATCH as u32;

/// How a flight ended that was not broken off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flown {
    /// Everything is answered, and the session is closed.
    ToTheEnd,
    /// Its pilot wanted it to pause; the session stays open.
    SoFar,
}

/// Who watches over a flight.
pub(crate) trait Pilot: Send {
    /// How many more selectors may be asked now, with so many of the session answered or asked; with
    /// 0 the flight pauses.
    fn room(&mut self, asked: u64) -> u64;
    /// An answer is durable.
    fn told(&mut self, session: &ProbeSession);
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
    /// Selectors that were sent and not answered.
    asked: u64,
}

impl App {
    /// Opens or resumes the session, and brings it to its end, or as far as its pilot wants. The
    /// session itself stays in the store: whoever began it ends it there.
    ///
    /// # Errors
    /// The refusals of an opening or a batch, or `UNAVAILABLE`; what was answered before is durable.
    pub(crate) async fn fly(
        &self,
        session: &mut ProbeSession,
        epoch: &EpochKeys,
        pilot: &mut dyn Pilot,
        backoff: &mut Backoff,
    ) -> Result<Flown> {
        if session.total == 0 {
            return Ok(Flown::ToTheEnd);
        }
        let mut flight = self.take_off(session, epoch).await?;
        let mut flown = Flown::ToTheEnd;
        loop {
            while flight.unanswered.len() < AHEAD {
                let room = pilot.room(session.probed + flight.asked);
                // What was planned is sent again whatever the pilot wants.
                if room == 0 && flight.again.is_empty() {
                    flown = Flown::SoFar;
                    break;
                }
                let next = self.next_batch(session, &mut flight, room).await?;
                let Some((batch, pairs)) = next else {
                    flown = Flown::ToTheEnd;
                    break;
                };
                flight.stream.ask(batch.number, &pairs).await;
                flight.asked += pairs.rows;
                flight.unanswered.push_back((batch, pairs));
            }
            let Some((batch, pairs)) = flight.unanswered.pop_front() else {
                break;
            };
            self.take_answer(session, &mut flight, batch, &pairs)
                .await?;
            backoff.reset();
            pilot.told(session);
        }
        if flown == Flown::ToTheEnd {
            // Every batch is answered and its hits are here: a close that is lost loses nothing.
            if let Err(error) = flight.stream.close().await {
                tracing::debug!(%error, "the close of a probe session was not answered");
            }
        }
        Ok(flown)
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
            asked: 0,
        })
    }

    /// The next batch to send: one of an earlier stream, or a new one, which is durable with what
    /// its refs stand for when this returns.
    async fn next_batch(
        &self,
        session: &mut ProbeSession,
        flight: &mut Flight<'_>,
        room: u64,
    ) -> Result<Option<(Batch, Pairs)>> {
        if let Some(batch) = flight.again.pop_front() {
            let pairs = self
                .pairs(session, flight.epoch, batch.first, batch.last, BATCH_ROWS)
                .await?;
            if pairs.refs.is_empty() {
                return Err(Error::new(
                    ErrorCode::BatchMismatch,
                    "the selectors of a batch that was sent were removed meanwhile",
                ));
            }
            let pairs = self.filled_up(pairs, session, flight.epoch, batch)?;
            return Ok(Some((batch, pairs)));
        }
        let (size, pairs_in_all) = sizes(flight.left_today, flight.max_pairs, session.padding);
        let size = size.min(u32::try_from(room).unwrap_or(BATCH_ROWS));
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
            pairs: pairs_in_all,
            decoy: session.decoys,
        };
        let pairs = self.filled_up(pairs, session, flight.epoch, batch)?;
        self.store
            .plan_batch(session.id, session.epoch, batch, &pairs.refs, &pairs.decoys)
            .await?;
        session.next_batch += 1;
        session.position = batch.last;
        session.decoys += pairs.decoys.len() as u64;
        flight.left_today = flight.left_today.saturating_sub(pairs.len());
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

    /// The pairs of a batch with its decoys, if it has any: the same whenever it is sent.
    fn filled_up(
        &self,
        pairs: Pairs,
        session: &ProbeSession,
        epoch: &EpochKeys,
        batch: Batch,
    ) -> Result<Pairs> {
        let decoys = Decoys {
            refs: self.keystore.record_ref(),
            manifest: &epoch.manifest,
            policy: session.policy,
            dataset: session.dataset,
        };
        pairs.filled_up(&decoys, batch.decoy, batch.pairs)
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
        let answered = AnsweredBatch::new(
            session.id,
            batch.number,
            session.epoch,
            &session.nonce,
            pairs.sent(),
            &answer.matches,
            answer.leaf_index,
            now,
        );
        let cursor = self
            .store
            .answer_batch(&answered, pairs.rows, &hits)
            .await?;
        flight.asked = flight.asked.saturating_sub(pairs.rows);
        session.probed += pairs.rows;
        session.matches += hits.len() as u64;
        self.hits_changed(cursor);
        Ok(())
    }

    /// Begins a session anew from the first batch that is not answered: its batches cannot be sent
    /// again as they were, or the broker has closed it.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn begin_anew(
        &self,
        session: &ProbeSession,
        epoch: &EpochKeys,
    ) -> Result<ProbeSession> {
        let anew = self.anew(session).await?;
        self.store.replace_session(session.id, &anew).await?;
        self.abandon_session(epoch, &opening(session)).await;
        Ok(anew)
    }

    /// Goes on in another epoch, the session's own being over, from the first batch that is not
    /// answered. What was answered stands: hits stay when their epoch ends.
    ///
    /// # Errors
    /// `POLICY_UNKNOWN` or `AUDIENCE_UNKNOWN` if the other epoch lacks the policy or a target; those
    /// of the store.
    pub(crate) async fn begin_in(
        &self,
        session: &ProbeSession,
        epoch: &EpochKeys,
    ) -> Result<ProbeSession> {
        epoch.manifest.policy(session.policy)?;
        check_targets(&self.node, &epoch.manifest, &session.key.targets)?;
        let anew = ProbeSession {
            epoch: epoch.manifest.epoch,
            decoys: 0,
            ..self.anew(session).await?
        };
        self.store.replace_session(session.id, &anew).await?;
        Ok(anew)
    }

    /// A session under a new id, from the first batch that is not answered.
    async fn anew(&self, session: &ProbeSession) -> Result<ProbeSession> {
        let open = self.store.batches(session.id).await?;
        let now_at = (session.position, session.decoys);
        let (position, decoys) = open
            .first()
            .map_or(now_at, |batch| (batch.first - 1, batch.decoy));
        Ok(ProbeSession {
            id: SessionId::generate(self.clock.now(), &mut os_rng()),
            nonce: SessionNonce::generate(&mut os_rng()),
            next_batch: 0,
            position,
            decoys,
            ..session.clone()
        })
    }
}

/// How many rows a batch may have, and how many pairs in all, 0 if it is not filled up.
///
/// What is filled up counts against the quota: where less is left than the size of batches, they
/// are of what is left, since a batch that is over it would be refused whole, day after day. With
/// nothing left a whole batch is sent all the same: its refusal says when to come again.
fn sizes(left_today: u64, max_pairs: u64, padding: u32) -> (u32, u32) {
    let most = match left_today {
        0 => max_pairs,
        left => left.min(max_pairs),
    };
    let most = u32::try_from(most).unwrap_or(BATCH_ROWS).min(BATCH_ROWS);
    match padding {
        0 => (most, 0),
        padding => (most.min(padding), most.min(padding)),
    }
}

/// What the session is opened, and resumed, with.
pub(crate) fn opening(session: &ProbeSession) -> Opening<'_> {
    Opening {
        id: session.id,
        nonce: &session.nonce,
        policy: session.policy,
        grounds: &session.key.grounds,
        targets: &session.key.targets,
    }
}

/// Refusals after which a session is begun anew from where it was.
pub(crate) const fn is_lost(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::BatchMismatch | ErrorCode::SessionMismatch | ErrorCode::SessionUnknown
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_of_their_size_unless_the_quota_of_a_day_is_smaller() {
        for (left_today, max_pairs, padding, expected) in [
            (10_000, 4096, 0, (4096, 0)),
            (100, 4096, 0, (100, 0)),
            (10_000, 4096, 64, (64, 64)),
            (10_000, 32, 64, (32, 32)),
            (25, 4096, 64, (25, 25)),
            (0, 4096, 64, (64, 64)),
            (0, 4096, 0, (4096, 0)),
        ] {
            assert_eq!(sizes(left_today, max_pairs, padding), expected);
        }
    }
}
