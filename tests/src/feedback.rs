//! Deciding about hits as a node's people do (workflow.md "Hit").

use prost::Message as _;
use sotto_common::dsse::StatementKind;
use sotto_common::hit::{HitDecision, HitFeedback};
use sotto_common::ids::HitId;
use sotto_proto::{convert, v1};
use tonic::Status;

use crate::node::community;
use crate::{COMMUNITY, TestNode};

impl TestNode {
    /// What its people would say about a hit now.
    pub fn feedback(&self, hit: &v1::Hit, decision: HitDecision) -> HitFeedback {
        HitFeedback {
            node: self.id().clone(),
            community: community(),
            hit: HitId::from_slice(&hit.hit_id).expect("a hit id"),
            decision,
            decided_at: self.now(),
        }
    }

    /// Signs feedback.
    pub fn sign_feedback(&self, feedback: HitFeedback) -> v1::DsseEnvelope {
        convert::sign(feedback, self.signing_key())
    }

    /// Signs feedback that the domain's types would not let through.
    pub fn sign_feedback_wire(&self, feedback: &v1::HitFeedback) -> v1::DsseEnvelope {
        let kind = StatementKind::HitFeedback;
        let signed = self.signing_key().sign(kind, feedback.encode_to_vec());
        signed.into()
    }

    /// Hands in signed feedback; returns the hit as it stands then.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn submit_feedback(&self, feedback: v1::DsseEnvelope) -> Result<v1::Hit, Status> {
        let request = v1::SubmitHitFeedbackRequest {
            community: COMMUNITY.into(),
            feedback: Some(feedback),
        };
        let response = self.hit_service().submit_hit_feedback(request).await?;
        Ok(response.into_inner().hit.expect("a hit"))
    }

    /// Decides about a hit; returns it as it stands then.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn decide(&self, hit: &v1::Hit, decision: HitDecision) -> Result<v1::Hit, Status> {
        let feedback = self.sign_feedback(self.feedback(hit, decision));
        self.submit_feedback(feedback).await
    }
}
