//! Follow-ups as the protocol has them (protocol §10): steps made, signed and sealed by hand.

use sha2::{Digest as _, Sha256};
use sotto_common::followup::attachment::{
    AttachmentClear, AttachmentHasher, SEGMENT, SegmentSealer,
};
use sotto_common::followup::codes::{HandlingCode, Item, RefusalGround, TimeLimit};
use sotto_common::followup::presence::PresenceProof;
use sotto_common::followup::record::{FollowUp, NO_PREVIOUS};
use sotto_common::followup::step::{
    AnswerClear, AttachmentDigest, ItemOutcome, Outcomes, StepClear, StepDetail, StepStatement,
    Terms,
};
use sotto_common::followup::{FollowUpState, FollowUpStep, Party, transition};
use sotto_common::hit::HitDecision;
use sotto_common::ids::{AttachmentId, FollowUpId, HitId};
use sotto_common::random::os_rng;
use sotto_common::sealed::Suite;
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_proto::convert::follow_up::{body_digest, make_step, write_attachment};
use sotto_proto::{convert, v1};
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use v1::follow_up_service_client::FollowUpServiceClient;

use crate::node::community;
use crate::{COMMUNITY, TestNode};

impl TestNode {
    /// Its client of the follow-up service.
    pub fn follow_up_service(&self) -> FollowUpServiceClient<Channel> {
        FollowUpServiceClient::new(self.channel()).max_encoding_message_size(usize::MAX)
    }

    /// Hands in a step.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn submit_step(&self, step: v1::DsseEnvelope) -> Result<v1::FollowUp, Status> {
        let request = v1::SubmitFollowUpStepRequest {
            community: COMMUNITY.into(),
            statement: Some(step),
        };
        let mut service = self.follow_up_service();
        let response = service.submit_follow_up_step(request).await?;
        Ok(response.into_inner().follow_up.expect("a follow-up"))
    }

    /// One follow-up with its steps.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn follow_up(&self, id: FollowUpId) -> Result<v1::GetFollowUpResponse, Status> {
        let request = v1::GetFollowUpRequest {
            community: COMMUNITY.into(),
            follow_up_id: id.as_bytes().to_vec().into(),
        };
        let response = self.follow_up_service().get_follow_up(request).await?;
        Ok(response.into_inner())
    }

    /// Its stream of follow-ups after a cursor.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn watch_follow_ups(
        &self,
        cursor: u64,
    ) -> Result<Streaming<v1::WatchFollowUpsResponse>, Status> {
        let request = v1::WatchFollowUpsRequest {
            community: COMMUNITY.into(),
            cursor,
        };
        let response = self.follow_up_service().watch_follow_ups(request).await?;
        Ok(response.into_inner())
    }
}

/// A follow-up between two nodes, as both would replay it.
#[derive(Debug)]
pub struct Case<'n> {
    /// Who asks.
    pub requester: &'n TestNode,
    /// Who is asked.
    pub holder: &'n TestNode,
    /// The hit.
    pub hit: HitId,
    /// The id.
    pub id: FollowUpId,
    /// Where it stands after the steps that the broker took; `None` before the first.
    pub record: Option<FollowUp>,
    /// The selector.
    pub selector: Selector,
    policy: Policy,
    limit: TimeLimit,
}

impl std::fmt::Debug for TestNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TestNode({})", self.id())
    }
}

/// What every case asks for.
pub const ITEMS: [Item; 2] = [Item::Identity, Item::Vehicles];

/// An answer that provides the first item and refuses the second.
pub fn outcomes() -> Outcomes {
    let refused = ItemOutcome::Refused(RefusalGround::NotAvailable);
    let outcomes = vec![(ITEMS[0], ItemOutcome::Provided), (ITEMS[1], refused)];
    Outcomes::new(outcomes).expect("once each")
}

impl<'n> Case<'n> {
    /// A case on a hit that its prober confirms first.
    pub async fn on(
        requester: &'n TestNode,
        holder: &'n TestNode,
        hit: &v1::Hit,
        policy: Policy,
        selector: Selector,
    ) -> Self {
        for decision in [HitDecision::BeginReview, HitDecision::Confirm] {
            requester.decide(hit, decision).await.expect("taken");
        }
        Self {
            requester,
            holder,
            hit: HitId::from_slice(&hit.hit_id).expect("a hit id"),
            id: FollowUpId::generate(requester.now(), &mut os_rng()),
            record: None,
            selector,
            policy,
            limit: TimeLimit::Ordinary,
        }
    }

    /// The same under another time limit than the ordinary one.
    #[must_use]
    pub const fn within(mut self, limit: TimeLimit) -> Self {
        self.limit = limit;
        self
    }

    /// The node that takes a step.
    pub const fn actor(&self, step: FollowUpStep) -> &'n TestNode {
        match step.by() {
            Party::Requester => self.requester,
            Party::Holder => self.holder,
        }
    }

    /// Where it stands.
    pub fn state(&self) -> FollowUpState {
        let record = self.record.as_ref();
        record.map_or(FollowUpState::Draft, |record| record.state)
    }

    /// What a step says in the clear if it is made now.
    pub fn detail(&self, step: FollowUpStep) -> StepDetail {
        let terms = Terms::new(self.limit, None, "A.1", ITEMS.to_vec()).expect("terms");
        match step {
            FollowUpStep::Submit => StepDetail::Submit(terms),
            FollowUpStep::Held => StepDetail::Held,
            FollowUpStep::NotHeld => StepDetail::NotHeld,
            FollowUpStep::Particulars => StepDetail::Particulars,
            FollowUpStep::Accept => StepDetail::Accept,
            FollowUpStep::Refuse => {
                StepDetail::Refuse(Outcomes::refuse_all(&terms, RefusalGround::MinorOffence))
            }
            FollowUpStep::RequestClarification => StepDetail::RequestClarification,
            FollowUpStep::Reply => StepDetail::Reply,
            FollowUpStep::AwaitJudicialAuthorisation => StepDetail::AwaitJudicialAuthorisation {
                new_date: self
                    .holder
                    .now()
                    .plus(std::time::Duration::from_hours(20 * 24)),
            },
            FollowUpStep::Answer => StepDetail::Answer(AnswerClear {
                outcomes: outcomes(),
                handling: HandlingCode::H0,
                attachments: Vec::new(),
            }),
            FollowUpStep::Withdraw => StepDetail::Withdraw,
            FollowUpStep::Close => StepDetail::Close,
        }
    }

    /// The clear part of the step that would be next.
    pub fn clear(&self, step: FollowUpStep) -> StepClear {
        let record = self.record.as_ref();
        let (sender, recipient) = match step.by() {
            Party::Requester => (self.requester, self.holder),
            Party::Holder => (self.holder, self.requester),
        };
        StepClear {
            community: community(),
            follow_up: self.id,
            hit: self.hit,
            seq: record.map_or(0, |record| record.next_seq),
            previous: record.map_or(NO_PREVIOUS, |record| record.last_body),
            sender: sender.id().clone(),
            recipient: recipient.id().clone(),
            made_at: sender.now(),
            state: transition(self.state(), step).unwrap_or(FollowUpState::Closed),
            detail: self.detail(step),
        }
    }

    /// What is sealed with a step.
    pub fn content(&self, step: FollowUpStep) -> Option<Vec<u8>> {
        use prost::Message as _;
        let message = || v1::FollowUpMessage {
            text: "a text under seal".into(),
        };
        Some(match step {
            FollowUpStep::Submit => {
                let epoch = self.requester.latest_epoch();
                let tag = self.requester.tag(epoch, self.policy, &self.selector);
                let tags = vec![tag.expose().to_vec().into()];
                v1::FollowUpRequest { tags }.encode_to_vec()
            }
            FollowUpStep::Held => {
                let (holder, requester) = (self.holder.id(), self.requester.id());
                let proof = PresenceProof::new(&self.selector, self.id, holder, requester);
                let proof = proof.secret().expose().to_vec().into();
                v1::FollowUpPresence { proof }.encode_to_vec()
            }
            FollowUpStep::Particulars => v1::FollowUpParticulars {
                selector: self.selector.expose().into(),
                facts: "facts under seal".into(),
                ..Default::default()
            }
            .encode_to_vec(),
            FollowUpStep::RequestClarification
            | FollowUpStep::Reply
            | FollowUpStep::AwaitJudicialAuthorisation => message().encode_to_vec(),
            FollowUpStep::Answer => v1::FollowUpAnswer::default().encode_to_vec(),
            _ => return None,
        })
    }

    /// A step of this clear part, sealed to its recipient.
    pub fn statement(&self, clear: &StepClear) -> StepStatement {
        let recipient = [self.requester, self.holder]
            .into_iter()
            .find(|node| *node.id() == clear.recipient);
        let key = recipient.unwrap_or(self.holder).hpke().public();
        let content = self.content(clear.step());
        make_step(clear.clone(), content.as_deref(), key, &mut os_rng()).expect("a step")
    }

    /// The step that is next, signed by whose turn it is.
    pub fn signed(&self, step: FollowUpStep) -> v1::DsseEnvelope {
        self.sign(&self.clear(step))
    }

    /// Signs a clear part, by whoever takes such a step.
    pub fn sign(&self, clear: &StepClear) -> v1::DsseEnvelope {
        let actor = self.actor(clear.step());
        convert::sign(self.statement(clear), actor.signing_key())
    }

    /// Takes a step, and keeps what the broker took.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn take(&mut self, step: FollowUpStep) -> Result<v1::FollowUp, Status> {
        self.take_detail(self.detail(step)).await
    }

    /// As [`Self::take`], with a detail of its own.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn take_detail(&mut self, detail: StepDetail) -> Result<v1::FollowUp, Status> {
        let clear = StepClear {
            detail: detail.clone(),
            ..self.clear(detail.step())
        };
        let envelope = self.sign(&clear);
        let body = body_digest(&envelope);
        let taken = self.actor(clear.step()).submit_step(envelope).await?;
        let now = self.requester.now();
        let record = match &self.record {
            None => FollowUp::begin(&clear, body, now),
            Some(record) => record.apply(&clear, body, now),
        };
        self.record = Some(record.expect("the broker took it"));
        Ok(taken)
    }

    /// Takes these steps one after another.
    pub async fn take_all(&mut self, steps: &[FollowUpStep]) {
        for step in steps {
            if let Err(refused) = self.take(*step).await {
                panic!("{step} is refused: {refused:?}");
            }
        }
    }

    /// Brings it to a state by the shortest way.
    pub async fn bring_to(&mut self, state: FollowUpState) {
        self.take_all(way_to(state)).await;
        assert_eq!(self.state(), state);
    }
}

/// The shortest way from a draft to a state.
pub const fn way_to(state: FollowUpState) -> &'static [FollowUpStep] {
    use FollowUpState as S;
    use FollowUpStep as T;
    match state {
        S::Draft => &[],
        S::Submitted => &[T::Submit],
        S::Held => &[T::Submit, T::Held],
        S::Received => &[T::Submit, T::Held, T::Particulars],
        S::Accepted => &[T::Submit, T::Held, T::Particulars, T::Accept],
        S::ClarificationRequested => &[T::Submit, T::Held, T::Particulars, T::RequestClarification],
        S::AwaitingJudicialAuthorisation => &[
            T::Submit,
            T::Held,
            T::Particulars,
            T::AwaitJudicialAuthorisation,
        ],
        S::Answered => &[T::Submit, T::Held, T::Particulars, T::Accept, T::Answer],
        S::Refused => &[T::Submit, T::Held, T::Particulars, T::Refuse],
        S::Withdrawn => &[T::Submit, T::Withdraw],
        S::Closed => &[T::Submit, T::NotHeld],
    }
}

/// A file as its sender seals it: what it is announced with, and its sealed bytes.
#[derive(Clone, Debug)]
pub struct SealedFile {
    /// What announces it.
    pub announced: v1::CreateAttachmentRequest,
    /// All sealed segments.
    pub sealed: Vec<u8>,
    /// What an answer says of it.
    pub digest: AttachmentDigest,
    /// Its clear part.
    pub clear: AttachmentClear,
}

impl Case<'_> {
    /// Seals a file to the requester.
    pub fn seal_file(&self, content: &[u8]) -> SealedFile {
        let rng = &mut os_rng();
        let id = AttachmentId::generate(self.holder.now(), rng);
        let size = content.len() as u64;
        let clear = AttachmentClear::new(self.id, id, "attachment-1", size).expect("a name");
        let (bytes, digest) = write_attachment(&clear);
        let roles = (self.holder.id(), self.requester.id());
        let key = self.requester.hpke().public();
        let begun = SegmentSealer::begin(key, &clear, digest, roles, rng);
        let (enc, mut segmented) = begun.expect("a key");
        let suite = Suite::X25519Sha256ChaCha20Poly1305;
        let mut hasher = AttachmentHasher::new(&digest, suite, &enc);
        let mut sealed = Vec::new();
        let segments: Vec<&[u8]> = if content.is_empty() {
            vec![&[]]
        } else {
            content.chunks(SEGMENT).collect()
        };
        for segment in segments {
            sealed.extend(segmented.seal(segment).expect("the next segment"));
        }
        hasher.update(&sealed);
        let whole = hasher.finish();
        let (kem, kdf, aead) = suite.ids();
        SealedFile {
            announced: v1::CreateAttachmentRequest {
                community: COMMUNITY.into(),
                clear: bytes.into(),
                kem: kem.into(),
                kdf: kdf.into(),
                aead: aead.into(),
                enc: enc.into(),
                digest: whole.to_vec().into(),
            },
            sealed,
            digest: AttachmentDigest { id, digest: whole },
            clear,
        }
    }

    /// Announces a file.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn announce_file(&self, file: &SealedFile) -> Result<u64, Status> {
        let request = file.announced.clone();
        let mut service = self.holder.follow_up_service();
        let answer = service.create_attachment(request).await?;
        Ok(answer.into_inner().acknowledged)
    }

    /// Uploads sealed bytes of a file from an offset on, in chunks of 64 KiB.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn upload_file(
        &self,
        file: &SealedFile,
        offset: u64,
        bytes: &[u8],
    ) -> Result<u64, Status> {
        use v1::upload_attachment_request::Part;
        let place = self.place(file, offset);
        let chunks = bytes.chunks(SEGMENT);
        let chunks = chunks.map(|chunk| Part::Chunk(chunk.to_vec().into()));
        let parts: Vec<_> = std::iter::once(Part::Begin(place)).chain(chunks).collect();
        let parts = parts.into_iter();
        let parts = parts.map(|part| v1::UploadAttachmentRequest { part: Some(part) });
        let stream = tokio_stream::iter(parts.collect::<Vec<_>>());
        let mut service = self.holder.follow_up_service();
        let answer = service.upload_attachment(stream).await?;
        Ok(answer.into_inner().acknowledged)
    }

    /// A place in a file.
    pub fn place(&self, file: &SealedFile, offset: u64) -> v1::AttachmentPlace {
        v1::AttachmentPlace {
            community: COMMUNITY.into(),
            follow_up_id: self.id.as_bytes().to_vec().into(),
            attachment_id: file.digest.id.as_bytes().to_vec().into(),
            offset,
        }
    }

    /// Downloads a file from an offset on, as this node.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn download_file(
        &self,
        by: &TestNode,
        file: &SealedFile,
        offset: u64,
    ) -> Result<Vec<u8>, Status> {
        let request = v1::DownloadAttachmentRequest {
            place: Some(self.place(file, offset)),
        };
        let mut service = by.follow_up_service();
        let mut stream = service.download_attachment(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(part) = stream.message().await? {
            bytes.extend_from_slice(&part.chunk);
        }
        Ok(bytes)
    }

    /// An answer that names these files.
    pub fn answer_with(&self, files: &[&SealedFile]) -> StepDetail {
        StepDetail::Answer(AnswerClear {
            outcomes: outcomes(),
            handling: HandlingCode::H0,
            attachments: files.iter().map(|file| file.digest.clone()).collect(),
        })
    }
}

/// `H` of bytes.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
