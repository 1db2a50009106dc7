//! `AnalystService`.

mod follow_ups;
mod hits;

use std::sync::Arc;

use futures::StreamExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::grounds::Grounds;
use sotto_common::ids::HitId;
use sotto_proto::convert::{id, text};
use sotto_proto::status::to_status;
use sotto_proto::v1;
use sotto_proto::v1::analyst_service_server::AnalystService;
use tonic::{Request, Response, Status};

use super::access::{note_hits, watched};
use super::{Answers, answer, progress};
use crate::access::Why;
use crate::app::probe::ProbeProgress;
use crate::app::{App, node_ids};
use crate::auth::Caller;
use crate::store::ProbeKey;
use hits::{decision, hit_filter, record_hit, second_factor, story_response};

const DEFAULT_PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1000;

/// What analysts ask.
pub(crate) struct Analysts {
    pub(crate) app: Arc<App>,
}

#[tonic::async_trait]
impl AnalystService for Analysts {
    type ProbeDatasetStream = Answers<v1::ProbeDatasetResponse>;

    async fn probe_dataset(
        &self,
        request: Request<v1::ProbeDatasetRequest>,
    ) -> Result<Response<Self::ProbeDatasetStream>, Status> {
        answer(async {
            let request = request.into_inner();
            let key = ProbeKey {
                grounds: grounds(request.grounds)?,
                targets: node_ids("targets", &request.targets)?,
                dataset: request.dataset,
            };
            let state = self.app.probe(key).await?;
            let told = progress(state).map(|item| {
                item.map(|(progress, done)| probe_response(progress, done))
                    .map_err(to_status)
            });
            let told: Self::ProbeDatasetStream = told.boxed();
            Ok(told)
        })
        .await
    }

    async fn check_selector(
        &self,
        request: Request<v1::CheckSelectorRequest>,
    ) -> Result<Response<v1::CheckSelectorResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            let request = request.into_inner();
            let policy = text("policy", &request.policy)?;
            let grounds = grounds(request.grounds)?;
            let targets = node_ids("targets", &request.targets)?;
            let (canonical, hits) = self
                .app
                .check(policy, &request.value, &request.region, &grounds, &targets)
                .await?;
            let hits = hits.into_iter();
            let hits: Vec<_> = hits
                .map(|hit| record_hit(hit, &self.app.community))
                .collect();
            let why = Why::of_case(grounds.case_ref());
            note_hits(
                &self.app,
                &caller,
                "AnalystService/CheckSelector",
                &hits,
                &why,
            )
            .await?;
            Ok(v1::CheckSelectorResponse {
                // The node's own analyst asked for it (protocol §1).
                canonical: canonical.expose().to_owned(),
                hits,
            })
        })
        .await
    }

    async fn list_record_hits(
        &self,
        request: Request<v1::ListRecordHitsRequest>,
    ) -> Result<Response<v1::ListRecordHitsResponse>, Status> {
        answer(async {
            let (caller, why) = (
                Caller::of(request.extensions())?,
                Why::parse(&request.get_ref().why)?,
            );
            let request = request.into_inner();
            let size = match request.page_size {
                0 => DEFAULT_PAGE,
                size => size.min(LARGEST_PAGE),
            };
            let filter = hit_filter(&request)?;
            // One more than asked for shows whether there is another page.
            let mut hits = self.app.store.record_hits(&filter, size + 1).await?;
            let more = hits.len() > size as usize;
            hits.truncate(size as usize);
            let last = hits.last().filter(|_| more);
            let next_page_token = last.map(|h| h.thread.to_string()).unwrap_or_default();
            let hits = hits.into_iter();
            let hits: Vec<_> = hits
                .map(|hit| record_hit(hit, &self.app.community))
                .collect();
            note_hits(
                &self.app,
                &caller,
                "AnalystService/ListRecordHits",
                &hits,
                &why,
            )
            .await?;
            Ok(v1::ListRecordHitsResponse {
                next_page_token,
                hits,
            })
        })
        .await
    }

    async fn get_record_hit(
        &self,
        request: Request<v1::GetRecordHitRequest>,
    ) -> Result<Response<v1::GetRecordHitResponse>, Status> {
        answer(async {
            let (caller, why) = (
                Caller::of(request.extensions())?,
                Why::parse(&request.get_ref().why)?,
            );
            let request = request.into_inner();
            let hit = id("hit_id", &request.hit_id, HitId::from_slice)?;
            let story = self.app.store.hit_story(hit).await?;
            let story = story
                .ok_or_else(|| Error::new(ErrorCode::HitUnknown, "there is no such hit here"))?;
            let response = story_response(story, &self.app.community);
            let read = response.hit.as_slice();
            let action = "AnalystService/GetRecordHit";
            note_hits(&self.app, &caller, action, read, &why).await?;
            Ok(response)
        })
        .await
    }

    async fn review_hit(
        &self,
        request: Request<v1::ReviewHitRequest>,
    ) -> Result<Response<v1::ReviewHitResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            let request = request.into_inner();
            let hit = id("hit_id", &request.hit_id, HitId::from_slice)?;
            let decision = decision(&request)?;
            let factor = second_factor(&request)?;
            let hit = self
                .app
                .review(&caller.person, hit, decision, &request.reason, factor)
                .await?;
            let hit = record_hit(hit, &self.app.community);
            Ok(v1::ReviewHitResponse { hit: Some(hit) })
        })
        .await
    }

    async fn get_receipt(
        &self,
        request: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            hits::receipt(&self.app, &caller, request.into_inner()).await
        })
        .await
    }

    type WatchRecordHitsStream = Answers<v1::WatchRecordHitsResponse>;

    async fn watch_record_hits(
        &self,
        request: Request<v1::WatchRecordHitsRequest>,
    ) -> Result<Response<Self::WatchRecordHitsStream>, Status> {
        answer(async {
            let (caller, why) = (
                Caller::of(request.extensions())?,
                Why::parse(&request.get_ref().why)?,
            );
            let community = self.app.community.clone();
            let events = self.app.follow_hits(request.into_inner().cursor);
            let events = events.map(move |event| {
                event.map(|event| v1::WatchRecordHitsResponse {
                    cursor: event.cursor,
                    hit: Some(record_hit(event, &community)),
                })
            });
            let events = watched(Arc::clone(&self.app), caller, why, events);
            let events: Self::WatchRecordHitsStream =
                events.map(|event| event.map_err(to_status)).boxed();
            Ok(events)
        })
        .await
    }

    async fn draft_follow_up(
        &self,
        request: Request<v1::DraftFollowUpRequest>,
    ) -> Result<Response<v1::DraftFollowUpResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            follow_ups::draft(&self.app, &caller, request.into_inner()).await
        })
        .await
    }

    async fn propose_follow_up_step(
        &self,
        request: Request<v1::ProposeFollowUpStepRequest>,
    ) -> Result<Response<v1::ProposeFollowUpStepResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            follow_ups::propose(&self.app, &caller, request.into_inner()).await
        })
        .await
    }

    async fn approve_follow_up_step(
        &self,
        request: Request<v1::ApproveFollowUpStepRequest>,
    ) -> Result<Response<v1::ApproveFollowUpStepResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            follow_ups::approve(&self.app, &caller, request.into_inner()).await
        })
        .await
    }

    async fn discard_follow_up_step(
        &self,
        request: Request<v1::DiscardFollowUpStepRequest>,
    ) -> Result<Response<v1::DiscardFollowUpStepResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            follow_ups::discard(&self.app, &caller, request.into_inner()).await
        })
        .await
    }

    async fn end_follow_up(
        &self,
        request: Request<v1::EndFollowUpRequest>,
    ) -> Result<Response<v1::EndFollowUpResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            follow_ups::end(&self.app, &caller, request.into_inner()).await
        })
        .await
    }

    async fn list_node_follow_ups(
        &self,
        request: Request<v1::ListNodeFollowUpsRequest>,
    ) -> Result<Response<v1::ListNodeFollowUpsResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            follow_ups::list(&self.app, &caller, request.into_inner()).await
        })
        .await
    }

    async fn get_node_follow_up(
        &self,
        request: Request<v1::GetNodeFollowUpRequest>,
    ) -> Result<Response<v1::GetNodeFollowUpResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            follow_ups::get(&self.app, &caller, request.into_inner()).await
        })
        .await
    }

    async fn get_follow_up_figures(
        &self,
        request: Request<v1::GetFollowUpFiguresRequest>,
    ) -> Result<Response<v1::GetFollowUpFiguresResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            follow_ups::figures(&self.app, &caller, request.into_inner()).await
        })
        .await
    }

    type WatchNodeFollowUpsStream = Answers<v1::WatchNodeFollowUpsResponse>;

    async fn watch_node_follow_ups(
        &self,
        request: Request<v1::WatchNodeFollowUpsRequest>,
    ) -> Result<Response<Self::WatchNodeFollowUpsStream>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            let told = follow_ups::watch(&self.app, caller, request.get_ref())?;
            let told: Self::WatchNodeFollowUpsStream =
                told.map(|item| item.map_err(to_status)).boxed();
            Ok(told)
        })
        .await
    }

    type ReadFollowUpAttachmentStream = Answers<v1::ReadFollowUpAttachmentResponse>;

    async fn read_follow_up_attachment(
        &self,
        request: Request<v1::ReadFollowUpAttachmentRequest>,
    ) -> Result<Response<Self::ReadFollowUpAttachmentStream>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            let told =
                follow_ups::read_attachment(&self.app, &caller, request.into_inner()).await?;
            let told: Self::ReadFollowUpAttachmentStream =
                told.map(|item| item.map_err(to_status)).boxed();
            Ok(told)
        })
        .await
    }

    type ExportFollowUpStream = Answers<v1::ExportFollowUpResponse>;

    async fn export_follow_up(
        &self,
        request: Request<v1::ExportFollowUpRequest>,
    ) -> Result<Response<Self::ExportFollowUpStream>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            let told = follow_ups::export(&self.app, &caller, request.into_inner()).await?;
            let told: Self::ExportFollowUpStream = told.map(|item| item.map_err(to_status)).boxed();
            Ok(told)
        })
        .await
    }

    async fn add_follow_up_attachment(
        &self,
        request: Request<tonic::Streaming<v1::AddFollowUpAttachmentRequest>>,
    ) -> Result<Response<v1::AddFollowUpAttachmentResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            follow_ups::add_attachment(&self.app, &caller, request.into_inner()).await
        })
        .await
    }

    async fn list_follow_up_attachments(
        &self,
        request: Request<v1::ListFollowUpAttachmentsRequest>,
    ) -> Result<Response<v1::ListFollowUpAttachmentsResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            follow_ups::list_attachments(&self.app, &caller, request.into_inner()).await
        })
        .await
    }

    async fn remove_follow_up_attachment(
        &self,
        request: Request<v1::RemoveFollowUpAttachmentRequest>,
    ) -> Result<Response<v1::RemoveFollowUpAttachmentResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            follow_ups::remove_attachment(&self.app, &caller, request.into_inner()).await
        })
        .await
    }
}

fn grounds(wire: Option<v1::ProbeGrounds>) -> Result<Grounds> {
    Grounds::try_from(&wire.unwrap_or_default())
}

fn probe_response(progress: ProbeProgress, done: bool) -> v1::ProbeDatasetResponse {
    v1::ProbeDatasetResponse {
        probed: progress.probed,
        total: progress.total,
        matches: progress.matches,
        done,
        waiting_for: progress.waiting_for,
    }
}
