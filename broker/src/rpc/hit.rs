//! `HitService`.

use std::sync::Arc;

use sotto_common::error::{Error, Result};
use sotto_common::ids::{CommunityId, HitId, NodeId};
use sotto_common::time::Timestamp;
use sotto_proto::convert::{epoch, handling_code, id, policy, text, timestamp, to_timestamp};
use sotto_proto::status::to_status;
use sotto_proto::v1;
use sotto_proto::v1::hit_service_server::HitService;
use tonic::{Request, Response, Status};

use super::membership::{answer, given};
use super::{
    Answers, Api, AsyncAnswers, Sender, node, operator, optional_policy, peer, spiffe, to_the_end,
};
use crate::app::Broker;
use crate::datastore::{GuardKey, HitFilter, HitStatistic, LabelledHit};

const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;

/// Events that a watcher reads from the ledger at a time.
const EVENTS_AT_A_TIME: u32 = 500;

#[tonic::async_trait]
impl HitService for Api {
    type WatchHitsStream = Answers<v1::WatchHitsResponse>;

    async fn list_hits(
        &self,
        request: Request<v1::ListHitsRequest>,
    ) -> Result<Response<v1::ListHitsResponse>, Status> {
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
                .hits(&caller, &community, &filter, &message.page_token, size)
                .await?;
            Ok(v1::ListHitsResponse {
                hits: page.hits.iter().map(hit_of).collect(),
                next_page_token: page.next.unwrap_or_default(),
            })
        })
    }

    async fn get_hit(
        &self,
        request: Request<v1::GetHitRequest>,
    ) -> Result<Response<v1::GetHitResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let hit = id("hit_id", &message.hit_id, HitId::from_slice)?;
            let hit = self.broker.hit(&caller, &community, hit).await?;
            Ok(v1::GetHitResponse {
                hit: Some(hit_of(&hit)),
            })
        })
    }

    async fn watch_hits(
        &self,
        request: Request<v1::WatchHitsRequest>,
    ) -> Result<Response<Self::WatchHitsStream>, Status> {
        answer!({
            let (caller, peer) = (node(&request)?, peer(&request)?);
            let community = text("community", &request.get_ref().community)?;
            let cursor = request.get_ref().cursor;
            // Refusals come before the stream begins.
            self.broker
                .hit_events(&caller, &community, cursor, 1)
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

    async fn submit_hit_feedback(
        &self,
        request: Request<v1::SubmitHitFeedbackRequest>,
    ) -> Result<Response<v1::SubmitHitFeedbackResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community: CommunityId = text("community", &message.community)?;
            let feedback = given("feedback", message.feedback)?;
            let broker = Arc::clone(&self.broker);
            let work = async move { broker.submit_feedback(&caller, &community, &feedback).await };
            let hit = to_the_end(work).await?;
            Ok(v1::SubmitHitFeedbackResponse {
                hit: Some(hit_of(&hit)),
            })
        })
    }

    async fn list_hit_statistics(
        &self,
        request: Request<v1::ListHitStatisticsRequest>,
    ) -> Result<Response<v1::ListHitStatisticsResponse>, Status> {
        answer!({
            operator(&request)?;
            let reader = spiffe(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let since = message.since.map(|since| timestamp("since", Some(since)));
            let rows = self
                .broker
                .hit_statistics(&community, since.transpose()?)
                .await?;
            let call = "HitService/ListHitStatistics";
            self.log_read(&reader, &community, call).await?;
            let rows = rows.iter().map(statistic_of).collect();
            Ok(v1::ListHitStatisticsResponse { rows })
        })
    }

    async fn list_holder_counts(
        &self,
        request: Request<v1::ListHolderCountsRequest>,
    ) -> Result<Response<v1::ListHolderCountsResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let community = text("community", &request.get_ref().community)?;
            let counts = self.broker.holder_counts(&caller, &community).await?;
            let counts = counts
                .into_iter()
                .map(|(key, hits)| v1::HolderCount {
                    prober: key.prober.to_string(),
                    policy: key.policy.name().to_owned(),
                    day: Some(first_instant(key.day)),
                    hits,
                })
                .collect();
            Ok(v1::ListHolderCountsResponse { counts })
        })
    }

    async fn list_quarantine(
        &self,
        request: Request<v1::ListQuarantineRequest>,
    ) -> Result<Response<v1::ListQuarantineResponse>, Status> {
        answer!({
            operator(&request)?;
            let community = text("community", &request.get_ref().community)?;
            let groups = self.broker.quarantine(&community).await?;
            let call = "HitService/ListQuarantine";
            self.log_read(&spiffe(&request)?, &community, call).await?;
            let groups = groups
                .into_iter()
                .map(|(key, hits)| v1::QuarantineGroup {
                    prober: key.prober.to_string(),
                    holder: key.holder.to_string(),
                    policy: key.policy.name().to_owned(),
                    day: Some(first_instant(key.day)),
                    hits,
                })
                .collect();
            Ok(v1::ListQuarantineResponse { groups })
        })
    }

    async fn release_quarantine(
        &self,
        request: Request<v1::ReleaseQuarantineRequest>,
    ) -> Result<Response<v1::ReleaseQuarantineResponse>, Status> {
        answer!({
            let operator = operator(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let group = GuardKey {
                prober: text("prober", &message.prober)?,
                holder: text("holder", &message.holder)?,
                policy: policy(&message.policy)?,
                day: timestamp("day", message.day)?.day(),
            };
            let broker = Arc::clone(&self.broker);
            let work = async move {
                let reason = &message.reason;
                broker.release(&operator, &community, &group, reason).await
            };
            let released = to_the_end(work).await?;
            Ok(v1::ReleaseQuarantineResponse { released })
        })
    }
}

struct Watch {
    broker: Arc<Broker>,
    caller: NodeId,
    community: CommunityId,
    cursor: u64,
}

impl AsyncAnswers<v1::WatchHitsResponse> for Watch {
    async fn run(mut self, answers: Sender<v1::WatchHitsResponse>) -> Result<()> {
        let mut signal = self.broker.hit_event_signal();
        loop {
            // Marked as seen before the ledger is read: what is committed later wakes us again.
            signal.mark_unchanged();
            let events = self
                .broker
                .hit_events(&self.caller, &self.community, self.cursor, EVENTS_AT_A_TIME)
                .await?;
            if events.is_empty() && signal.changed().await.is_err() {
                return Ok(());
            }
            for event in events {
                self.cursor = event.cursor;
                let answer = v1::WatchHitsResponse {
                    cursor: event.cursor,
                    hit: Some(hit_of(&event.hit)),
                };
                if !answers.send(answer).await {
                    return Ok(());
                }
            }
        }
    }
}

fn filter_of(message: &v1::ListHitsRequest) -> Result<HitFilter> {
    let state = v1::HitState::try_from(message.state)
        .map_err(|_| Error::field("state", "not a state of hits"))?;
    let holder = (!message.holder.is_empty()).then(|| text("holder", &message.holder));
    Ok(HitFilter {
        epoch: (message.epoch != 0)
            .then(|| epoch(message.epoch))
            .transpose()?,
        policy: optional_policy(&message.policy)?,
        holder: holder.transpose()?,
        state: state.domain(),
        since: message
            .since
            .map(|since| timestamp("since", Some(since)))
            .transpose()?,
    })
}

fn statistic_of(row: &HitStatistic) -> v1::HitStatistic {
    v1::HitStatistic {
        prober: row.prober.to_string(),
        holder: row.holder.to_string(),
        policy: row.policy.name().to_owned(),
        epoch: row.epoch.get(),
        filter_version: row.filter_version,
        hits: row.hits,
        confirmed: row.confirmed,
        false_positives: row.false_positives,
        retracted: row.retracted,
        expired: row.expired,
        mean_false_positive_probability: row.mean_fpr,
    }
}

fn first_instant(day: i64) -> prost_types::Timestamp {
    to_timestamp(Timestamp::from_seconds(day * 86_400))
}

fn hit_of(LabelledHit { hit, labels }: &LabelledHit) -> v1::Hit {
    v1::Hit {
        hit_id: hit.id.as_bytes().to_vec().into(),
        community: hit.key.community.to_string(),
        epoch: hit.key.epoch.get(),
        policy: hit.key.policy.name().to_owned(),
        record_ref: hit.record_ref.as_bytes().to_vec().into(),
        holder: hit.holder.to_string(),
        state: v1::HitState::from(hit.state).into(),
        filter_version: hit.filter_version,
        false_positive_probability: hit.fpr,
        posterior: hit.posterior,
        first_seen: Some(to_timestamp(hit.first_seen)),
        last_seen: Some(to_timestamp(hit.last_seen)),
        unmatched_since: hit.unmatched_since.map(to_timestamp),
        contact_unit: labels.contact_unit().to_owned(),
        handling_code: handling_code(labels).into(),
        handling_text: labels.handling_text().to_owned(),
    }
}
