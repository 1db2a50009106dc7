//! `AnalystService`.

mod hits;

use std::sync::Arc;

use futures::StreamExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::grounds::Grounds;
use sotto_common::ids::HitId;
use sotto_common::service::identity::{PeerIdentity, Revocation};
use sotto_proto::convert::{id, text};
use sotto_proto::status::to_status;
use sotto_proto::v1;
use sotto_proto::v1::analyst_service_server::AnalystService;
use tonic::{Request, Response, Status};

use super::{Answers, answer, progress};
use crate::app::probe::ProbeProgress;
use crate::app::{App, node_ids};
use crate::store::ProbeKey;
use hits::{decision, hit_filter, record_hit, second_factor, story_response};

const DEFAULT_PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1000;

/// What analysts ask.
pub(crate) struct Analysts {
    pub(crate) app: Arc<App>,
    pub(crate) revocation: Revocation,
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
            let request = request.into_inner();
            let policy = text("policy", &request.policy)?;
            let grounds = grounds(request.grounds)?;
            let targets = node_ids("targets", &request.targets)?;
            let (canonical, hits) = self
                .app
                .check(policy, &request.value, &request.region, &grounds, &targets)
                .await?;
            Ok(v1::CheckSelectorResponse {
                // The node's own analyst asked for it (protocol §1).
                canonical: canonical.expose().to_owned(),
                hits: hits
                    .into_iter()
                    .map(|hit| record_hit(hit, &self.app.community))
                    .collect(),
            })
        })
        .await
    }

    async fn list_record_hits(
        &self,
        request: Request<v1::ListRecordHitsRequest>,
    ) -> Result<Response<v1::ListRecordHitsResponse>, Status> {
        answer(async {
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
            Ok(v1::ListRecordHitsResponse {
                next_page_token: last.map(|h| h.thread.to_string()).unwrap_or_default(),
                hits: hits
                    .into_iter()
                    .map(|hit| record_hit(hit, &self.app.community))
                    .collect(),
            })
        })
        .await
    }

    async fn get_record_hit(
        &self,
        request: Request<v1::GetRecordHitRequest>,
    ) -> Result<Response<v1::GetRecordHitResponse>, Status> {
        answer(async {
            let request = request.into_inner();
            let hit = id("hit_id", &request.hit_id, HitId::from_slice)?;
            let story = self.app.store.hit_story(hit).await?;
            let story = story
                .ok_or_else(|| Error::new(ErrorCode::HitUnknown, "there is no such hit here"))?;
            Ok(story_response(story, &self.app.community))
        })
        .await
    }

    async fn review_hit(
        &self,
        request: Request<v1::ReviewHitRequest>,
    ) -> Result<Response<v1::ReviewHitResponse>, Status> {
        answer(async {
            let person = person(&request)?;
            let request = request.into_inner();
            let hit = id("hit_id", &request.hit_id, HitId::from_slice)?;
            let decision = decision(&request)?;
            let factor = second_factor(&request)?;
            let hit = self
                .app
                .review(&person, hit, decision, &request.reason, factor)
                .await?;
            Ok(v1::ReviewHitResponse {
                hit: Some(record_hit(hit, &self.app.community)),
            })
        })
        .await
    }

    type WatchRecordHitsStream = Answers<v1::WatchRecordHitsResponse>;

    async fn watch_record_hits(
        &self,
        request: Request<v1::WatchRecordHitsRequest>,
    ) -> Result<Response<Self::WatchRecordHitsStream>, Status> {
        let peer = request.extensions().get::<PeerIdentity>().cloned();
        let community = self.app.community.clone();
        let events = self.app.follow_hits(request.into_inner().cursor);
        let events = events.map(move |event| match event {
            Ok(event) => Ok(v1::WatchRecordHitsResponse {
                cursor: event.cursor,
                hit: Some(record_hit(event, &community)),
            }),
            Err(error) => Err(to_status(error)),
        });
        // The door was passed long ago when an event comes: the stream ends with the certificate.
        let revocation = self.revocation.clone();
        let revoked = async move {
            match peer {
                Some(peer) => revocation.revoked(peer).await,
                None => std::future::pending().await,
            }
        };
        Ok(Response::new(events.take_until(Box::pin(revoked)).boxed()))
    }
}

/// Who calls, as the story of a hit names persons.
fn person<T>(request: &Request<T>) -> Result<String> {
    let peer = request.extensions().get::<PeerIdentity>();
    let peer = peer.ok_or_else(|| Error::new(ErrorCode::IdentityMissing, "nobody calls"))?;
    Ok(peer.spiffe().to_string())
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
