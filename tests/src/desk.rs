//! Follow-ups as a unit's people work on them, over the node's own API.

use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_common::ids::Role;
use sotto_proto::v1;
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::analyst_service_client::AnalystServiceClient;

use crate::Unit;
use crate::refusal::{is_passing, reason};

/// What the answers of tests say of a person: it must be nowhere but at the two nodes.
pub const SECRET_ANSWER: &str = "Zebulon Quatermain, born 1970-01-01 in Nowhere";
/// What the requests of tests say.
pub const SECRET_FACTS: &str = "The Vermeer was carried out of the Mauritshuis in a cello case";

/// The drafter and the approver of every unit.
pub const PEOPLE: [&str; 2] = ["anna", "bert"];

/// What is asked in tests, with nothing missing.
pub fn request() -> v1::FollowUpDraft {
    v1::FollowUpDraft {
        terms: Some(v1::FollowUpTerms {
            time_limit: v1::TimeLimit::Ordinary.into(),
            offence_code: "NL-SR-310".into(),
            items: vec![
                v1::FollowUpItem::Identity.into(),
                v1::FollowUpItem::Vehicles.into(),
            ],
            ..Default::default()
        }),
        particulars: Some(v1::FollowUpParticulars {
            requesting_unit: "Team art crime".into(),
            officer: "Insp. De Vries, +31 88 000 0000".into(),
            facts: SECRET_FACTS.into(),
            offence_description: "Theft of a painting".into(),
            purpose: v1::Purpose::Investigation.into(),
            legal_basis: v1::LegalBasis::Eu2023977.into(),
            link: "The number was called from the scene".into(),
            person_role: v1::PersonRole::Suspect.into(),
            why_there: "The filter of the holder matched".into(),
            language: "en".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What is answered in tests: one item given, the other refused.
pub fn answer() -> v1::FollowUpDraft {
    let outcome =
        |item: v1::FollowUpItem, state: v1::ItemState, ground: v1::RefusalGround| v1::ItemOutcome {
            item: item.into(),
            state: state.into(),
            ground: ground.into(),
            pending_until: None,
        };
    let none = v1::RefusalGround::Unspecified;
    let refused = v1::RefusalGround::NotAvailable;
    v1::FollowUpDraft {
        outcomes: vec![
            outcome(v1::FollowUpItem::Identity, v1::ItemState::Provided, none),
            outcome(v1::FollowUpItem::Vehicles, v1::ItemState::Refused, refused),
        ],
        answer: Some(v1::FollowUpAnswer {
            items: vec![v1::AnswerItem {
                item: v1::FollowUpItem::Identity.into(),
                content: SECRET_ANSWER.into(),
                handling_code: v1::HandlingCode::H1.into(),
                source_evaluation: v1::SourceEvaluation::B.into(),
                information_evaluation: v1::InformationEvaluation::Two.into(),
                tlp: v1::Tlp::Amber.into(),
                nature: v1::Nature::Fact.into(),
                retain_until: Some(prost_types::Timestamp {
                    seconds: 4_000_000_000,
                    nanos: 0,
                }),
                ..Default::default()
            }],
            file_names: Vec::new(),
        }),
        ..Default::default()
    }
}

impl Unit {
    /// The person who drafts, as analyst.
    pub fn drafter(&self) -> AnalystServiceClient<Channel> {
        self.person(Role::Analyst, PEOPLE[0])
    }

    /// The person who approves.
    pub fn approver(&self) -> AnalystServiceClient<Channel> {
        self.person(Role::Approver, PEOPLE[1])
    }

    /// Finds its one hit true; returns the hit's id.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn confirm(&self, hit: &[u8]) -> Result<(), Status> {
        for decision in [v1::HitDecision::BeginReview, v1::HitDecision::Confirm] {
            let request = v1::ReviewHitRequest {
                hit_id: hit.to_vec().into(),
                decision: decision.into(),
                reason: "the number is in the case file".into(),
                second_factor: v1::SecondFactor::Document.into(),
                second_factor_value: "passport".into(),
            };
            self.drafter().review_hit(request).await?;
        }
        Ok(())
    }

    /// Drafts a follow-up of a hit.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn draft(
        &self,
        hit: &[u8],
        draft: v1::FollowUpDraft,
    ) -> Result<v1::NodeFollowUp, Status> {
        let request = v1::DraftFollowUpRequest {
            hit_id: hit.to_vec().into(),
            draft: Some(draft),
            case_ref: "2026-17".into(),
        };
        let drafted = self.drafter().draft_follow_up(request).await?;
        Ok(drafted.into_inner().follow_up.expect("a follow-up"))
    }

    /// Proposes a step.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn propose(
        &self,
        id: &[u8],
        step: FollowUpStep,
        draft: v1::FollowUpDraft,
    ) -> Result<v1::NodeFollowUp, Status> {
        let request = v1::ProposeFollowUpStepRequest {
            follow_up_id: id.to_vec().into(),
            step: v1::FollowUpStep::from(step).into(),
            draft: Some(draft),
        };
        let proposed = self.drafter().propose_follow_up_step(request).await?;
        Ok(proposed.into_inner().follow_up.expect("a follow-up"))
    }

    /// Approves what is proposed, as a person.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn approve_as(
        &self,
        mut person: AnalystServiceClient<Channel>,
        view: &v1::NodeFollowUp,
    ) -> Result<v1::NodeFollowUp, Status> {
        let proposal = view.proposal.clone().unwrap_or_default();
        let request = v1::ApproveFollowUpStepRequest {
            follow_up_id: id_of(view),
            proposal_id: proposal.proposal_id,
        };
        let approved = person.approve_follow_up_step(request).await?;
        Ok(approved.into_inner().follow_up.expect("a follow-up"))
    }

    /// Approves what is proposed, by the second person.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn approve(&self, view: &v1::NodeFollowUp) -> Result<v1::NodeFollowUp, Status> {
        self.approve_as(self.approver(), view).await
    }

    /// Withdraws or closes.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn end(&self, id: &[u8], step: FollowUpStep) -> Result<v1::NodeFollowUp, Status> {
        let request = v1::EndFollowUpRequest {
            follow_up_id: id.to_vec().into(),
            step: v1::FollowUpStep::from(step).into(),
        };
        let ended = self.approver().end_follow_up(request).await?;
        Ok(ended.into_inner().follow_up.expect("a follow-up"))
    }

    /// One follow-up with everything; `None` if it is not here (yet).
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn case(&self, id: &[u8]) -> Result<Option<v1::GetNodeFollowUpResponse>, Status> {
        let request = v1::GetNodeFollowUpRequest {
            follow_up_id: id.to_vec().into(),
            why: String::new(),
            with_contents: true,
        };
        match self.drafter().get_node_follow_up(request).await {
            Ok(case) => Ok(Some(case.into_inner())),
            Err(status) if status.code() == Code::NotFound => {
                assert_eq!(reason(&status), "FOLLOW_UP_UNKNOWN");
                Ok(None)
            }
            Err(status) => Err(status),
        }
    }

    /// Adds a file to the answer that is being drafted; returns its id.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn attach(&self, id: &[u8], name: &str, content: &[u8]) -> Result<Vec<u8>, Status> {
        use v1::add_follow_up_attachment_request::Part;
        let begin = Part::Begin(v1::AttachmentDescription {
            follow_up_id: id.to_vec().into(),
            name: name.into(),
            size: content.len() as u64,
            ..Default::default()
        });
        let chunks = content.chunks(100_000);
        let chunks = chunks.map(|chunk| Part::Chunk(chunk.to_vec().into()));
        let parts: Vec<_> = std::iter::once(begin)
            .chain(chunks)
            .map(|part| v1::AddFollowUpAttachmentRequest { part: Some(part) })
            .collect();
        let stream = tokio_stream::iter(parts);
        let added = self.drafter().add_follow_up_attachment(stream).await?;
        Ok(added.into_inner().attachment_id.to_vec())
    }

    /// A file of an answer, in clear.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn read_file(&self, id: &[u8], attachment: &[u8]) -> Result<Vec<u8>, Status> {
        let request = v1::ReadFollowUpAttachmentRequest {
            follow_up_id: id.to_vec().into(),
            attachment_id: attachment.to_vec().into(),
            why: String::new(),
        };
        let answer = self.drafter().read_follow_up_attachment(request).await?;
        let (mut stream, mut bytes) = (answer.into_inner(), Vec::new());
        while let Some(part) = stream.message().await? {
            bytes.extend_from_slice(&part.chunk);
        }
        Ok(bytes)
    }
}

/// The id of a follow-up.
pub fn id_of(view: &v1::NodeFollowUp) -> prost::bytes::Bytes {
    let follow_up = view.follow_up.as_ref().expect("a follow-up");
    follow_up.follow_up_id.clone()
}

/// Where a follow-up stands.
pub fn state_of(view: &v1::NodeFollowUp) -> FollowUpState {
    let follow_up = view.follow_up.as_ref().expect("a follow-up");
    follow_up.state().domain().expect("a state")
}

/// Does what is to be done next on a follow-up at either unit, whatever was interrupted; true once
/// it is closed at both. People look before they act, so that it may be called again and again.
///
/// # Errors
/// What does not pass.
pub async fn drive(nl: &Unit, de: &Unit, id: &[u8]) -> Result<bool, Status> {
    match act(nl, de, id).await {
        // Somebody was away, or what was seen has moved meanwhile: look again.
        Err(status) if is_passing(&status) || has_moved(&status) => Ok(false),
        outcome => outcome,
    }
}

fn has_moved(status: &Status) -> bool {
    matches!(
        reason(status).as_str(),
        "FOLLOW_UP_MISMATCH" | "ILLEGAL_TRANSITION"
    )
}

async fn act(nl: &Unit, de: &Unit, id: &[u8]) -> Result<bool, Status> {
    let Some(asked) = nl.case(id).await?.and_then(|case| case.follow_up) else {
        return Ok(false);
    };
    if asked.proposal.is_some() {
        nl.approve(&asked).await?;
        return Ok(false);
    }
    let Some(held) = de.case(id).await?.and_then(|case| case.follow_up) else {
        return Ok(false);
    };
    if asked.step_pending || held.step_pending {
        return Ok(false);
    }
    if held.proposal.is_some() {
        de.approve(&held).await?;
        return Ok(false);
    }
    match (state_of(&asked), state_of(&held)) {
        (FollowUpState::Received, FollowUpState::Received) => {
            de.propose(id, FollowUpStep::Accept, v1::FollowUpDraft::default())
                .await?;
        }
        (FollowUpState::Accepted, FollowUpState::Accepted) => {
            de.propose(id, FollowUpStep::Answer, answer()).await?;
        }
        (FollowUpState::Answered, FollowUpState::Answered) => {
            nl.end(id, FollowUpStep::Close).await?;
        }
        (FollowUpState::Closed, FollowUpState::Closed) => return Ok(true),
        _ => {}
    }
    Ok(false)
}
