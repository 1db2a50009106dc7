//! `FollowUpService`.

mod view;

use std::sync::Arc;

use sotto_common::error::{Error, Result};
use sotto_common::followup::{FollowUpState, Party};
use sotto_common::ids::{AttachmentId, CommunityId, FollowUpId, NodeId};
use sotto_common::time::Timestamp;
use sotto_proto::convert::follow_up::{code, read_attachment, suite};
use sotto_proto::convert::{array, id, text, timestamp, to_timestamp};
use sotto_proto::status::{from_inbound, to_status};
use sotto_proto::v1;
use sotto_proto::v1::follow_up_service_server::FollowUpService;
use sotto_proto::v1::upload_attachment_request::Part;
use tonic::{Request, Response, Status, Streaming};

use self::view::{announced_of, event_of, follow_up_of, presence_rate_of, step_of};
use super::membership::{answer, given};
use super::{
    Answers, Api, AsyncAnswers, Sender, node, node_or_reader, peer, reader, spiffe, to_the_end,
};
use crate::app::{Announced, Broker, Download, Place};
use crate::datastore::{FollowUpFilter, FollowUpRange};

const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;

/// Events that a watcher reads from the ledger at a time: each may have a statement of 1 MiB.
const EVENTS_AT_A_TIME: u32 = 8;

#[tonic::async_trait]
impl FollowUpService for Api {
    type WatchFollowUpsStream = Answers<v1::WatchFollowUpsResponse>;
    type DownloadAttachmentStream = Answers<v1::DownloadAttachmentResponse>;

    async fn submit_follow_up_step(
        &self,
        request: Request<v1::SubmitFollowUpStepRequest>,
    ) -> Result<Response<v1::SubmitFollowUpStepResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community: CommunityId = text("community", &message.community)?;
            let statement = given("statement", message.statement)?;
            let broker = Arc::clone(&self.broker);
            let work = async move { broker.submit_step(&caller, &community, &statement).await };
            let taken = to_the_end(work).await?;
            Ok(v1::SubmitFollowUpStepResponse {
                follow_up: Some(follow_up_of(&taken.record, taken.now)),
                taken_at: Some(to_timestamp(taken.taken_at)),
            })
        })
    }

    async fn get_follow_up(
        &self,
        request: Request<v1::GetFollowUpRequest>,
    ) -> Result<Response<v1::GetFollowUpResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let follow_up = follow_up_id(&message.follow_up_id)?;
            let (record, steps, now) = self
                .broker
                .follow_up(&caller, &community, follow_up)
                .await?;
            Ok(v1::GetFollowUpResponse {
                follow_up: Some(follow_up_of(&record, now)),
                steps: steps.iter().map(step_of).collect::<Result<_>>()?,
            })
        })
    }

    async fn list_follow_ups(
        &self,
        request: Request<v1::ListFollowUpsRequest>,
    ) -> Result<Response<v1::ListFollowUpsResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let filter = filter_of(&message)?;
            let size = match message.page_size {
                0 => DEFAULT_PAGE,
                n => n.min(MAX_PAGE),
            };
            let page = self
                .broker
                .follow_ups(&caller, &community, &filter, &message.page_token, size)
                .await?;
            let records = page.records.iter();
            Ok(v1::ListFollowUpsResponse {
                follow_ups: records
                    .map(|record| follow_up_of(record, page.now))
                    .collect(),
                next_page_token: page.next.unwrap_or_default(),
            })
        })
    }

    async fn watch_follow_ups(
        &self,
        request: Request<v1::WatchFollowUpsRequest>,
    ) -> Result<Response<Self::WatchFollowUpsStream>, Status> {
        answer!({
            let (caller, peer) = (node(&request)?, peer(&request)?);
            let community = text("community", &request.get_ref().community)?;
            let cursor = request.get_ref().cursor;
            // Refusals come before the stream begins.
            self.broker
                .follow_up_events(&caller, &community, cursor, 1)
                .await?;
            let broker = Arc::clone(&self.broker);
            Ok(self.stream(
                peer,
                Watch {
                    broker,
                    caller,
                    community,
                    cursor,
                },
            ))
        })
    }

    async fn create_attachment(
        &self,
        request: Request<v1::CreateAttachmentRequest>,
    ) -> Result<Response<v1::CreateAttachmentResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let announced = announced(&request.into_inner())?;
            let broker = Arc::clone(&self.broker);
            let work = async move { broker.create_attachment(&caller, &announced).await };
            let (acknowledged, sealed_size) = to_the_end(work).await?;
            Ok(v1::CreateAttachmentResponse {
                acknowledged,
                sealed_size,
            })
        })
    }

    async fn upload_attachment(
        &self,
        request: Request<Streaming<v1::UploadAttachmentRequest>>,
    ) -> Result<Response<v1::UploadAttachmentResponse>, Status> {
        answer!({
            let (caller, peer) = (node(&request)?, peer(&request)?);
            let upload = upload(Arc::clone(&self.broker), caller, request.into_inner());
            let acknowledged = self.guarded(peer, upload).await?;
            Ok(v1::UploadAttachmentResponse { acknowledged })
        })
    }

    async fn download_attachment(
        &self,
        request: Request<v1::DownloadAttachmentRequest>,
    ) -> Result<Response<Self::DownloadAttachmentStream>, Status> {
        answer!({
            let (caller, peer) = (node(&request)?, peer(&request)?);
            let place = place_of(&given("place", request.into_inner().place)?)?;
            let broker = Arc::clone(&self.broker);
            let download = broker.begin_download(&caller, &place).await?;
            let announced = announced_of(&place.community, &download.record);
            Ok(self.stream(
                peer,
                Reading {
                    broker,
                    announced,
                    download,
                },
            ))
        })
    }

    async fn list_follow_up_statistics(
        &self,
        request: Request<v1::ListFollowUpStatisticsRequest>,
    ) -> Result<Response<v1::ListFollowUpStatisticsResponse>, Status> {
        answer!({
            let (party, caller) = (node_or_reader(&request)?, spiffe(&request)?);
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let range = FollowUpRange {
                party: party.as_ref(),
                from: optional_time("from", message.from)?,
                to: optional_time("to", message.to)?,
            };
            let lines = self.broker.follow_up_statistics(&community, range).await?;
            let call = "FollowUpService/ListFollowUpStatistics";
            self.log_read(&caller, &community, call).await?;
            let rows = lines.iter().map(Into::into).collect();
            Ok(v1::ListFollowUpStatisticsResponse { rows })
        })
    }

    async fn list_presence_rates(
        &self,
        request: Request<v1::ListPresenceRatesRequest>,
    ) -> Result<Response<v1::ListPresenceRatesResponse>, Status> {
        answer!({
            reader(&request)?;
            let caller = spiffe(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let since = optional_time("since", message.since)?;
            let rates = self.broker.presence_rates(&community, since).await?;
            let call = "FollowUpService/ListPresenceRates";
            self.log_read(&caller, &community, call).await?;
            let rows = rates.iter().map(presence_rate_of).collect();
            Ok(v1::ListPresenceRatesResponse { rows })
        })
    }
}

struct Watch {
    broker: Arc<Broker>,
    caller: NodeId,
    community: CommunityId,
    cursor: u64,
}

impl AsyncAnswers<v1::WatchFollowUpsResponse> for Watch {
    async fn run(mut self, answers: Sender<v1::WatchFollowUpsResponse>) -> Result<()> {
        let mut signal = self.broker.follow_up_signal();
        loop {
            // Marked as seen before the ledger is read: what is committed later wakes us again.
            signal.mark_unchanged();
            let events = self
                .broker
                .follow_up_events(&self.caller, &self.community, self.cursor, EVENTS_AT_A_TIME)
                .await?;
            if events.is_empty() && signal.changed().await.is_err() {
                return Ok(());
            }
            for event in events {
                self.cursor = event.cursor;
                if !answers.send(event_of(&event)?).await {
                    return Ok(());
                }
            }
        }
    }
}

/// One download: first what the file was announced with, then its bytes.
struct Reading {
    broker: Arc<Broker>,
    announced: v1::CreateAttachmentRequest,
    download: Download,
}

impl AsyncAnswers<v1::DownloadAttachmentResponse> for Reading {
    async fn run(mut self, answers: Sender<v1::DownloadAttachmentResponse>) -> Result<()> {
        let mut answer = v1::DownloadAttachmentResponse {
            announced: Some(self.announced),
            ..Default::default()
        };
        while answers.send(answer).await {
            let Some(chunk) = self.broker.next_piece(&mut self.download).await? else {
                return Ok(());
            };
            answer = v1::DownloadAttachmentResponse {
                announced: None,
                chunk,
            };
        }
        Ok(())
    }
}

/// One upload stream: a place, then chunks; returns how many bytes are acknowledged.
async fn upload(
    broker: Arc<Broker>,
    caller: NodeId,
    mut parts: Streaming<v1::UploadAttachmentRequest>,
) -> Result<u64> {
    let Some(Part::Begin(place)) = next_part(&mut parts).await? else {
        return Err(Error::field(
            "part",
            "the first message says where it begins",
        ));
    };
    let mut place = place_of(&place)?;
    let (begun, who, at) = (Arc::clone(&broker), caller.clone(), place.clone());
    place.offset = to_the_end(async move { begun.begin_upload(&who, &at).await }).await?;
    while let Some(part) = next_part(&mut parts).await? {
        let Part::Chunk(chunk) = part else {
            return Err(Error::field("part", "the upload has begun already"));
        };
        let (broker, caller, at) = (Arc::clone(&broker), caller.clone(), place.clone());
        let appended = async move { broker.append_attachment(&caller, &at, chunk).await };
        place.offset = to_the_end(appended).await?;
    }
    Ok(place.offset)
}

async fn next_part(parts: &mut Streaming<v1::UploadAttachmentRequest>) -> Result<Option<Part>> {
    let message = parts.message().await.map_err(|s| from_inbound(&s))?;
    let empty = || Error::field("part", "a place or a chunk");
    message
        .map(|message| message.part.ok_or_else(empty))
        .transpose()
}

fn follow_up_id(bytes: &[u8]) -> Result<FollowUpId> {
    id("follow_up_id", bytes, FollowUpId::from_slice)
}

fn place_of(wire: &v1::AttachmentPlace) -> Result<Place> {
    Ok(Place {
        community: text("community", &wire.community)?,
        follow_up: follow_up_id(&wire.follow_up_id)?,
        attachment: id(
            "attachment_id",
            &wire.attachment_id,
            AttachmentId::from_slice,
        )?,
        offset: wire.offset,
    })
}

fn announced(wire: &v1::CreateAttachmentRequest) -> Result<Announced> {
    let suite = suite((wire.kem, wire.kdf, wire.aead))?;
    if wire.enc.len() != sotto_common::sealed::Suite::ENC_LEN {
        let text = "the encapsulated key is not of its suite";
        return Err(Error::new(
            sotto_common::error::ErrorCode::SealInvalid,
            text,
        ));
    }
    let (clear, _) = read_attachment(&wire.clear)?;
    Ok(Announced {
        community: text("community", &wire.community)?,
        clear,
        clear_bytes: wire.clear.to_vec(),
        suite,
        enc: wire.enc.to_vec(),
        digest: array("digest", &wire.digest)?,
    })
}

fn filter_of(message: &v1::ListFollowUpsRequest) -> Result<FollowUpFilter> {
    let party = message.as_party;
    let state = message.state;
    Ok(FollowUpFilter {
        party: (party != 0)
            .then(|| code::<Party>("as_party", party))
            .transpose()?,
        state: (state != 0)
            .then(|| code::<FollowUpState>("state", state))
            .transpose()?,
    })
}

fn optional_time(
    field: &'static str,
    at: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>> {
    at.map(|at| timestamp(field, Some(at))).transpose()
}
