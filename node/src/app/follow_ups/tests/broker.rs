//! A broker's follow-ups in memory.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt as _, stream};
use sotto_common::dsse::VerifyingKey;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::record::FollowUp;
use sotto_common::followup::step::StepStatement;
use sotto_common::ids::{FollowUpId, NodeId};
use sotto_common::time::{Clock as _, MockClock};
use sotto_proto::convert::follow_up::{body_digest, read_attachment};
use sotto_proto::convert::{read_unverified, to_timestamp, verify};
use sotto_proto::status::to_status;
use sotto_proto::v1;
use sotto_proto::v1::follow_up_service_server::{FollowUpService, FollowUpServiceServer};
use sotto_proto::v1::upload_attachment_request::Part;
use sotto_proto::v1::watch_follow_ups_response::Event;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::App;
use crate::hit::Hit;

/// What it keeps.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) follow_ups: HashMap<FollowUpId, FollowUp>,
    pub(super) steps: Vec<v1::FollowUpStepRecord>,
    pub(super) events: Vec<v1::WatchFollowUpsResponse>,
    /// Files by their ids: as announced, and the bytes.
    pub(super) files: HashMap<Vec<u8>, (v1::CreateAttachmentRequest, Vec<u8>)>,
    /// Answers that are lost after the step was taken.
    pub(super) lose: u32,
    /// Bytes after which an upload breaks off.
    pub(super) break_after: Option<usize>,
}

/// A broker that verifies, keeps the order, and can open nothing.
pub(super) struct FakeBroker {
    keys: HashMap<NodeId, VerifyingKey>,
    clock: MockClock,
    hit: Hit,
    pub(super) kept: Mutex<Kept>,
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl FakeBroker {
    pub(super) async fn start(
        apps: [&App; 2],
        clock: MockClock,
        hit: &Hit,
    ) -> (Arc<Self>, SocketAddr) {
        let key = |app: &App| (app.node.clone(), app.keystore.signing().verifying_key());
        let broker = Arc::new(Self {
            keys: apps.into_iter().map(key).collect(),
            clock,
            hit: hit.clone(),
            kept: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let service =
            FollowUpServiceServer::from_arc(Arc::clone(&broker)).max_decoding_message_size(4 << 20);
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        (broker, address)
    }

    pub(super) fn wire(&self, follow_up: &FollowUp) -> v1::FollowUp {
        v1::FollowUp {
            follow_up_id: follow_up.id.as_bytes().to_vec().into(),
            community: follow_up.community.to_string(),
            hit_id: follow_up.hit.as_bytes().to_vec().into(),
            epoch: self.hit.epoch.get(),
            policy: self.hit.policy.name().into(),
            requester: follow_up.requester.to_string(),
            holder: follow_up.holder.to_string(),
            filter_version: self.hit.filter_version,
            matched_at: Some(to_timestamp(self.hit.last_seen)),
            ..Default::default()
        }
    }

    /// Tells both nodes something of a follow-up.
    pub(super) fn tell(&self, id: FollowUpId, event: Event) {
        let mut kept = self.kept.lock().expect("lock");
        let follow_up = Some(self.wire(&kept.follow_ups[&id]));
        let cursor = kept.events.len() as u64 + 1;
        kept.events.push(v1::WatchFollowUpsResponse {
            cursor,
            follow_up,
            event: Some(event),
        });
    }

    pub(super) fn events_after(
        &self,
        _node: &NodeId,
        cursor: u64,
    ) -> Vec<v1::WatchFollowUpsResponse> {
        let kept = self.kept.lock().expect("lock");
        let later = kept.events.iter().filter(|event| event.cursor > cursor);
        later.cloned().collect()
    }

    /// The steps that were taken, in order.
    pub(super) fn steps(&self) -> Vec<String> {
        let kept = self.kept.lock().expect("lock");
        let step = |record: &v1::FollowUpStepRecord| {
            let envelope = record.statement.as_ref().expect("kept");
            let statement: StepStatement = read_unverified(envelope).expect("a step");
            statement.clear.step().to_string()
        };
        kept.steps.iter().map(step).collect()
    }

    fn take(&self, envelope: &v1::DsseEnvelope) -> Result<v1::SubmitFollowUpStepResponse> {
        let claimed: StepStatement = read_unverified(envelope)?;
        let key = &self.keys[&claimed.clear.sender];
        let statement: StepStatement = verify(envelope, key)?;
        let (clear, digest) = (statement.clear, body_digest(envelope));
        let now = self.clock.now();
        let mut kept = self.kept.lock().expect("lock");
        let same = kept
            .steps
            .iter()
            .find(|step| step.body_digest == digest[..])
            .cloned();
        let record = if let Some(record) = same {
            record
        } else {
            let next = match kept.follow_ups.get(&clear.follow_up) {
                None => FollowUp::begin(&clear, digest, now)?,
                Some(before) => before.apply(&clear, digest, now)?,
            };
            let record = v1::FollowUpStepRecord {
                seq: clear.seq,
                statement: Some(envelope.clone()),
                taken_at: Some(to_timestamp(now)),
                body_digest: digest.to_vec().into(),
            };
            let cursor = kept.events.len() as u64 + 1;
            kept.events.push(v1::WatchFollowUpsResponse {
                cursor,
                follow_up: Some(self.wire(&next)),
                event: Some(Event::Step(record.clone())),
            });
            kept.steps.push(record.clone());
            kept.follow_ups.insert(clear.follow_up, next);
            record
        };
        if kept.lose > 0 {
            kept.lose -= 1;
            return Err(Error::unavailable("the answer is lost"));
        }
        let follow_up = Some(self.wire(&kept.follow_ups[&clear.follow_up]));
        Ok(v1::SubmitFollowUpStepResponse {
            follow_up,
            taken_at: record.taken_at,
        })
    }
}

fn not_asked<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not asked here"))
}

#[async_trait]
impl FollowUpService for FakeBroker {
    async fn submit_follow_up_step(
        &self,
        request: Request<v1::SubmitFollowUpStepRequest>,
    ) -> Result<Response<v1::SubmitFollowUpStepResponse>, Status> {
        let envelope = request.into_inner().statement.expect("signed");
        self.take(&envelope).map(Response::new).map_err(to_status)
    }

    async fn get_follow_up(
        &self,
        _: Request<v1::GetFollowUpRequest>,
    ) -> Result<Response<v1::GetFollowUpResponse>, Status> {
        not_asked()
    }

    async fn list_follow_ups(
        &self,
        _: Request<v1::ListFollowUpsRequest>,
    ) -> Result<Response<v1::ListFollowUpsResponse>, Status> {
        not_asked()
    }

    type WatchFollowUpsStream = Answer<v1::WatchFollowUpsResponse>;

    async fn watch_follow_ups(
        &self,
        _: Request<v1::WatchFollowUpsRequest>,
    ) -> Result<Response<Self::WatchFollowUpsStream>, Status> {
        not_asked()
    }

    async fn create_attachment(
        &self,
        request: Request<v1::CreateAttachmentRequest>,
    ) -> Result<Response<v1::CreateAttachmentResponse>, Status> {
        let announced = request.into_inner();
        let (clear, _) = read_attachment(&announced.clear).map_err(to_status)?;
        let mut kept = self.kept.lock().expect("lock");
        let id = clear.id.as_bytes().to_vec();
        let file = kept.files.entry(id).or_insert((announced, Vec::new()));
        Ok(Response::new(v1::CreateAttachmentResponse {
            acknowledged: file.1.len() as u64,
            sealed_size: clear.sealed_size(),
        }))
    }

    async fn upload_attachment(
        &self,
        request: Request<Streaming<v1::UploadAttachmentRequest>>,
    ) -> Result<Response<v1::UploadAttachmentResponse>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|first| first.part);
        let Some(Part::Begin(place)) = first else {
            return Err(Status::invalid_argument("begin"));
        };
        let id = place.attachment_id.to_vec();
        let mut acknowledged = place.offset;
        while let Some(part) = parts.message().await? {
            let Some(Part::Chunk(chunk)) = part.part else {
                return Err(Status::invalid_argument("chunk"));
            };
            let mut kept = self.kept.lock().expect("lock");
            let breaks = kept.break_after;
            let file = &mut kept.files.get_mut(&id).expect("announced").1;
            assert_eq!(file.len() as u64, acknowledged, "goes on where it was");
            file.extend_from_slice(&chunk);
            acknowledged += chunk.len() as u64;
            if breaks.is_some_and(|most| file.len() >= most) {
                kept.break_after = None;
                return Err(Status::unavailable("broken off"));
            }
        }
        Ok(Response::new(v1::UploadAttachmentResponse { acknowledged }))
    }

    type DownloadAttachmentStream = Answer<v1::DownloadAttachmentResponse>;

    async fn download_attachment(
        &self,
        request: Request<v1::DownloadAttachmentRequest>,
    ) -> Result<Response<Self::DownloadAttachmentStream>, Status> {
        let place = request.into_inner().place.expect("a place");
        let kept = self.kept.lock().expect("lock");
        let Some((announced, bytes)) = kept.files.get(&place.attachment_id[..]) else {
            let error = Error::new(ErrorCode::AttachmentUnknown, "none");
            return Err(to_status(error));
        };
        let offset = usize::try_from(place.offset).expect("small");
        let mut parts = vec![Ok(v1::DownloadAttachmentResponse {
            announced: Some(announced.clone()),
            chunk: prost::bytes::Bytes::new(),
        })];
        for chunk in bytes[offset..].chunks(100_000) {
            parts.push(Ok(v1::DownloadAttachmentResponse {
                announced: None,
                chunk: chunk.to_vec().into(),
            }));
        }
        Ok(Response::new(stream::iter(parts).boxed()))
    }

    async fn list_follow_up_statistics(
        &self,
        _: Request<v1::ListFollowUpStatisticsRequest>,
    ) -> Result<Response<v1::ListFollowUpStatisticsResponse>, Status> {
        not_asked()
    }

    async fn list_presence_rates(
        &self,
        _: Request<v1::ListPresenceRatesRequest>,
    ) -> Result<Response<v1::ListPresenceRatesResponse>, Status> {
        not_asked()
    }
}
