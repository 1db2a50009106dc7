//! What persons decide about hits (workflow.md "Hit"), and the way of it to the broker.

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use prost::Message as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::hit::{HitDecision, HitFeedback, SecondFactor};
use sotto_common::ids::HitId;
use sotto_common::random::os_rng;
use sotto_proto::convert::sign;
use sotto_proto::v1;
use tracing::{info, warn};

use super::{App, is_of_the_caller};
use crate::access::{Access, Why};
use crate::broker::{Backoff, CALL_TIMEOUT, call_once, is_passing};
use crate::hit::Hit;
use crate::store::{Decided, Outcome, PendingFeedback, RecordHit};

/// Most characters in a reason.
const MAX_REASON: usize = 1000;
/// Most characters in what a second factor says.
const MAX_SECOND_FACTOR: usize = 256;
/// What a decision is called in the access log: the call that it came by.
const REVIEW: &str = "AnalystService/ReviewHit";
/// Decisions that are read from the store at a time.
const PAGE: u32 = 256;

impl App {
    /// Records what a person decides about a hit, for the latest hit of its thread; gives that
    /// one. Durable when this returns, and noted in the access log, both or neither; the signed feedback goes to the broker by itself.
    ///
    /// # Errors
    /// `HIT_UNKNOWN`; `ILLEGAL_TRANSITION` if the hit does not take the decision; `INVALID_FIELD`
    /// without a reason, which only `BEGIN_REVIEW` may lack, or without a second factor where one
    /// is needed; `LOG_INCONSISTENT` while an alarm stands.
    pub(crate) async fn review(
        &self,
        person: &str,
        hit: HitId,
        decision: HitDecision,
        reason: &str,
        second_factor: Option<(SecondFactor, &str)>,
    ) -> Result<RecordHit> {
        self.check_log().await?;
        let reason = reason.trim();
        if reason.is_empty() && decision != HitDecision::BeginReview {
            return Err(Error::field("reason", "a decision needs its reason"));
        }
        written("reason", reason, MAX_REASON)?;
        if let Some((_, value)) = second_factor {
            if value.trim().is_empty() {
                return Err(Error::field(
                    "second_factor_value",
                    "a second factor needs what it says",
                ));
            }
            written("second_factor_value", value, MAX_SECOND_FACTOR)?;
        }
        let decided = Decided {
            person,
            decision,
            reason,
            second_factor,
            at: self.clock.now(),
        };
        let sign = |hit, decision| {
            let feedback = HitFeedback {
                node: self.node.clone(),
                community: self.community.clone(),
                hit,
                decision,
                decided_at: decided.at,
            };
            // The key of the node is that of every manifest that lists it (protocol §9).
            sign(feedback, self.keystore.signing()).encode_to_vec()
        };
        let why = self.why_reviewed(hit).await?;
        let note = |latest: HitId| Access {
            at: decided.at,
            person: person.to_owned(),
            action: REVIEW.to_owned(),
            objects: vec![latest.to_string()],
            why: why.clone(),
        };
        let (latest, cursor) = self.store.review_hit(hit, &decided, &sign, &note).await?;
        self.hits_changed(cursor);
        self.decided.notify_one();
        self.store.record_hit(latest).await?.ok_or_else(|| {
            Error::new(
                ErrorCode::HitUnknown,
                "the hit was erased while it was decided about",
            )
        })
    }

    /// What the access log says of a decision, which is answered with the hit: its cases.
    async fn why_reviewed(&self, hit: HitId) -> Result<String> {
        let known = self.store.record_hit(hit).await?;
        let cases = known.iter().flat_map(|hit| &hit.case_refs);
        Ok(Why::default().or_cases(cases.map(String::as_str)))
    }

    /// Hands in every decision that the broker has not answered, those on one hit in their order.
    ///
    /// # Errors
    /// Why not all of them were answered. What the broker refuses for another reason than the
    /// hit's state waits: that may be mended, and holds up no other hit unless it is of this node.
    async fn send_feedback(&self, backoff: &mut Backoff) -> Result<()> {
        let mut held_up: HashMap<HitId, Error> = HashMap::new();
        let mut after = 0;
        loop {
            let page = self.store.pending_feedback(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.event;
            for feedback in page {
                if held_up.contains_key(&feedback.hit) {
                    continue;
                }
                match self.hand_in(&feedback).await {
                    Ok(()) => backoff.reset(),
                    Err(error) if is_of_all(&error) => return Err(error),
                    Err(error) => drop(held_up.insert(feedback.hit, error)),
                }
            }
        }
        held_up.into_values().next().map_or(Ok(()), Err)
    }

    async fn hand_in(&self, feedback: &PendingFeedback) -> Result<()> {
        let envelope = v1::DsseEnvelope::decode(&feedback.envelope[..]).map_err(Error::internal)?;
        let request = v1::SubmitHitFeedbackRequest {
            community: self.community.to_string(),
            feedback: Some(envelope),
        };
        let mut client = self.broker.hits();
        let send = |request| async move { client.submit_hit_feedback(request).await };
        let outcome = match call_once(request, CALL_TIMEOUT, send).await {
            Ok(answer) => {
                let hit = answer.hit.ok_or_else(|| Error::field("hit", "missing"))?;
                let hit = Hit::try_from(hit)?;
                if hit.id != feedback.hit {
                    return Err(Error::field("hit_id", "not that of the feedback"));
                }
                Outcome::Taken(Box::new(hit))
            }
            Err(error) if is_of_the_hit(error.code) => {
                info!(%error, hit = %feedback.hit, "a decision was not taken: the hit has changed");
                Outcome::Refused
            }
            Err(error) => return Err(error),
        };
        let now = self.clock.now();
        let cursor = self.store.settle_feedback(feedback, &outcome, now).await?;
        self.hits_changed(cursor);
        Ok(())
    }
}

/// Whether the broker refuses a decision because of how the hit stands: it never takes it then.
const fn is_of_the_hit(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::IllegalTransition | ErrorCode::HitUnknown)
}

/// Whether the broker would answer any other feedback in the same way. A fault of its own may be
/// one with a single hit.
fn is_of_all(error: &Error) -> bool {
    let own_fault = error.code == ErrorCode::Internal;
    is_passing(error) || (is_of_the_caller(error.code) && !own_fault)
}

/// Sends decisions to the broker for as long as the node runs.
pub(crate) fn keep_sending(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let mut backoff = Backoff::default();
        let mut told = None;
        loop {
            match app.send_feedback(&mut backoff).await {
                Ok(()) => {
                    told = None;
                    backoff.reset();
                    app.decided.notified().await;
                }
                Err(error) => {
                    // Said once for each reason, not at each attempt.
                    if told != Some(error.code) {
                        warn!(%error, "decisions about hits wait for the broker; trying again");
                    }
                    told = Some(error.code);
                    tokio::time::sleep(backoff.pause(&mut os_rng())).await;
                }
            }
        }
    }
    .boxed()
}

/// What a person wrote, within its bounds.
fn written(field: &'static str, text: &str, most: usize) -> Result<()> {
    if text.chars().count() > most {
        return Err(Error::field(field, format!("at most {most} characters")));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(Error::field(field, "no control characters but line breaks"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
