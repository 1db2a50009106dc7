//! Steps of this node on their way to the broker, in order and as often as it takes.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::{FollowUpStep, Party};
use sotto_common::ids::FollowUpId;
use sotto_common::random::os_rng;
use sotto_proto::convert::timestamp;
use sotto_proto::v1;
use tracing::{info, warn};

use super::super::{App, is_of_the_caller};
use super::PAGE;
use crate::broker::{Backoff, CALL_TIMEOUT, call_once, is_passing};
use crate::follow_up::{LocalFollowUp, Step};
use crate::store::FollowUpFilter;

/// Does what is due by this node itself, and sends its steps, for as long as it runs.
pub(crate) fn keep_sending(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let mut backoff = Backoff::default();
        let mut told = None;
        loop {
            match app.work_follow_ups(&mut backoff).await {
                Ok(()) => {
                    told = None;
                    backoff.reset();
                    app.follow_ups_moved.notified().await;
                }
                Err(error) => {
                    // Said once for each reason, not at each attempt.
                    if told != Some(error.code) {
                        warn!(%error, "steps of follow-ups wait; trying again");
                    }
                    told = Some(error.code);
                    let pause = backoff.pause(&mut os_rng());
                    let moved = app.follow_ups_moved.notified();
                    let _ = tokio::time::timeout(pause, moved).await;
                }
            }
        }
    }
    .boxed()
}

impl App {
    /// Does everything that is due once, follow-up by follow-up.
    ///
    /// # Errors
    /// Why not all of it was done; one follow-up holds up no other unless it is this node's fault.
    pub(super) async fn work_follow_ups(&self, backoff: &mut Backoff) -> Result<()> {
        let mut filter = FollowUpFilter {
            with_duties: true,
            ..FollowUpFilter::default()
        };
        let mut held_up = None;
        loop {
            let ids = self.store.follow_up_ids(&filter, PAGE).await?;
            let Some(last) = ids.last().copied() else {
                return held_up.map_or(Ok(()), Err);
            };
            for id in ids {
                match self.work_on(id).await {
                    Ok(()) => backoff.reset(),
                    Err(error) if is_of_all(&error) => return Err(error),
                    Err(error) => held_up = Some(error),
                }
            }
            filter.after = Some(last);
        }
    }

    /// Does what is due on one follow-up, and sends what is on its way.
    pub(super) async fn work_on(&self, id: FollowUpId) -> Result<()> {
        let follow_up = self.follow_up(id).await?;
        self.do_duty(&follow_up).await?;
        let follow_up = self.follow_up(id).await?;
        if follow_up.side == Party::Holder {
            self.upload_files(&follow_up).await?;
        }
        loop {
            let follow_up = self.follow_up(id).await?;
            let pending = follow_up.steps.iter().find(|step| step.taken_at.is_none());
            let Some(step) = pending else { return Ok(()) };
            self.send_step(&follow_up, step).await?;
        }
    }

    async fn send_step(&self, follow_up: &LocalFollowUp, step: &Step) -> Result<()> {
        let kind = step.clear.step();
        if !matches!(kind, FollowUpStep::Withdraw | FollowUpStep::Close) {
            self.check_log().await?;
        }
        if kind == FollowUpStep::Submit {
            self.check_feedback(follow_up).await?;
        }
        let request = v1::SubmitFollowUpStepRequest {
            community: self.community.to_string(),
            statement: step.envelope.clone(),
        };
        let mut client = self.broker.follow_ups();
        let send = |request| async move { client.submit_follow_up_step(request).await };
        match call_once(request, CALL_TIMEOUT, send).await {
            Ok(answer) => {
                let taken_at = timestamp("taken_at", answer.taken_at)?;
                let take = |f: &mut LocalFollowUp| {
                    let mut taken = step.clone();
                    taken.taken_at = Some(taken_at);
                    f.take(taken).map(drop)
                };
                self.change(follow_up.id, &take).await?;
                Ok(())
            }
            Err(error) if is_final(error.code) => {
                info!(%error, follow_up = %follow_up.id, %kind, "a step was not taken");
                let reason = format!("{}: {}", error.code, error.text);
                let digest = step.digest;
                let drop_it = |f: &mut LocalFollowUp| {
                    let mut pending = f.steps.iter().filter(|step| step.taken_at.is_none());
                    // The stream may have been quicker, with what stands in its place.
                    if pending.next().is_some_and(|first| first.digest == digest) {
                        f.drop_pending(&reason);
                    }
                    Ok(())
                };
                self.change(follow_up.id, &drop_it).await?;
                // A pause: what this node does by itself would else be tried again at once.
                Err(Error::unavailable("the broker did not take a step"))
            }
            Err(error) => Err(error),
        }
    }

    /// The broker hears that the hit is confirmed before it is followed up (workflow.md "Hit").
    async fn check_feedback(&self, follow_up: &LocalFollowUp) -> Result<()> {
        let hit = self.store.record_hit(follow_up.hit).await?;
        if hit.is_some_and(|hit| hit.feedback_pending) {
            return Err(Error::unavailable(
                "the decision about the hit is not at the broker yet",
            ));
        }
        Ok(())
    }
}

/// Whether the broker never takes this step.
const fn is_final(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::IllegalTransition
            | ErrorCode::FollowUpMismatch
            | ErrorCode::FollowUpUnknown
            | ErrorCode::HitUnknown
            | ErrorCode::InvalidField
            | ErrorCode::SealInvalid
            | ErrorCode::SignatureInvalid
            | ErrorCode::FormatUnknown
            | ErrorCode::EpochUnknown
    )
}

/// Whether the broker would answer any other step in the same way.
fn is_of_all(error: &Error) -> bool {
    let own_fault = error.code == ErrorCode::Internal || error.code == ErrorCode::LimitReached;
    is_of_the_caller(error.code) && !own_fault && !is_passing(error)
}
