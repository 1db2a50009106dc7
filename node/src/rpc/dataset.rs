//! `DatasetService`.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use sotto_common::error::Error;
use sotto_common::selector::Policy;
use sotto_proto::convert::to_timestamp;
use sotto_proto::status::{from_inbound, to_status};
use sotto_proto::v1;
use sotto_proto::v1::dataset_service_server::DatasetService;
use sotto_proto::v1::import_dataset_request::Message;
use sotto_proto::v1::remove_selectors_request::Message as RemovalMessage;
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, answer};
use crate::app::import::MAX_ROWS;
use crate::app::publish::PublishProgress;
use crate::app::sources::Extent;
use crate::app::{App, node_ids, optional_policy};
use crate::store::Dataset;

/// The node's own selectors, and their publication.
pub(crate) struct Datasets(pub(crate) Arc<App>);

#[tonic::async_trait]
impl DatasetService for Datasets {
    async fn import_dataset(
        &self,
        request: Request<Streaming<v1::ImportDatasetRequest>>,
    ) -> Result<Response<v1::ImportDatasetResponse>, Status> {
        answer(async {
            let mut messages = request.into_inner();
            let Some(Message::Header(header)) = next(&mut messages).await? else {
                return Err(Error::field("header", "comes first"));
            };
            self.0.check_by_hand(&header.dataset)?;
            let mut import = self.0.begin_import(header).await?;
            let mut rows = Vec::new();
            while let Some(message) = next(&mut messages).await? {
                let Message::Rows(next) = message else {
                    return Err(Error::field("rows", "come after the header"));
                };
                // As many messages at a time as one may have rows: each time costs a commit.
                if rows.len() + next.rows.len() > MAX_ROWS {
                    let full = std::mem::take(&mut rows);
                    self.0.import_rows(&mut import, full).await?;
                }
                rows.extend(next.rows);
            }
            self.0.import_rows(&mut import, rows).await?;
            self.0.finish_import(import).await
        })
        .await
    }

    async fn list_datasets(
        &self,
        _: Request<v1::ListDatasetsRequest>,
    ) -> Result<Response<v1::ListDatasetsResponse>, Status> {
        answer(async {
            let datasets = self.0.store.datasets().await?.into_iter();
            Ok(v1::ListDatasetsResponse {
                datasets: datasets.map(to_wire).collect(),
            })
        })
        .await
    }

    async fn remove_selectors(
        &self,
        request: Request<Streaming<v1::RemoveSelectorsRequest>>,
    ) -> Result<Response<v1::RemoveSelectorsResponse>, Status> {
        answer(async {
            let mut messages = request.into_inner();
            let Some(RemovalMessage::Header(header)) = next(&mut messages).await? else {
                return Err(Error::field("header", "comes first"));
            };
            self.0.check_by_hand(&header.dataset)?;
            let mut removal = self.0.begin_removal(header).await?;
            while let Some(message) = next(&mut messages).await? {
                let RemovalMessage::Rows(rows) = message else {
                    return Err(Error::field("rows", "come after the header"));
                };
                self.0.removal_rows(&mut removal, rows.rows).await?;
            }
            self.0.finish_removal(removal).await
        })
        .await
    }

    async fn delete_dataset(
        &self,
        request: Request<v1::DeleteDatasetRequest>,
    ) -> Result<Response<v1::DeleteDatasetResponse>, Status> {
        answer(async {
            let dataset = request.into_inner().dataset;
            self.0.check_by_hand(&dataset)?;
            let (policy, removed) = self.0.delete_dataset(&dataset).await?;
            Ok(v1::DeleteDatasetResponse {
                removed,
                policy: policy.name().to_owned(),
            })
        })
        .await
    }

    async fn update_dataset(
        &self,
        request: Request<v1::UpdateDatasetRequest>,
    ) -> Result<Response<v1::UpdateDatasetResponse>, Status> {
        answer(async {
            let dataset = self.0.update_dataset(request.into_inner()).await?;
            Ok(v1::UpdateDatasetResponse {
                dataset: Some(to_wire(dataset)),
            })
        })
        .await
    }

    async fn list_sources(
        &self,
        _: Request<v1::ListSourcesRequest>,
    ) -> Result<Response<v1::ListSourcesResponse>, Status> {
        answer(async {
            let sources = self.0.sources_status().await?;
            Ok(v1::ListSourcesResponse { sources })
        })
        .await
    }

    async fn run_source(
        &self,
        request: Request<v1::RunSourceRequest>,
    ) -> Result<Response<v1::RunSourceResponse>, Status> {
        answer(async {
            let request = request.into_inner();
            let (full, allow_shrink) = (request.full, request.allow_shrink);
            let filled = self
                .0
                .run_source(&request.dataset, full, allow_shrink)
                .await?;
            Ok(v1::RunSourceResponse {
                report: Some(filled.report),
                full: filled.extent == Extent::Whole,
                watermark: filled.watermark.map(|mark| mark.text).unwrap_or_default(),
                policy: filled.policy.name().to_owned(),
            })
        })
        .await
    }

    type PublishFiltersStream = Answers<v1::PublishFiltersResponse>;

    async fn publish_filters(
        &self,
        request: Request<v1::PublishFiltersRequest>,
    ) -> Result<Response<Self::PublishFiltersStream>, Status> {
        answer(async {
            let request = request.into_inner();
            let policy = optional_policy(&request.policy)?;
            let audience = node_ids("audience", &request.audience)?;
            let audience: BTreeSet<_> = audience.into_iter().collect();
            let policies = self.0.policies_to_publish(policy).await?;
            self.0
                .narrow(&policies, &audience, request.everyone)
                .await?;
            // Begun at once, told one after another; each goes on if this caller hangs up.
            let follow = |policy| {
                let told = self.0.follow_publication(policy, request.now);
                told.map(move |item| {
                    item.map(|progress| response(policy, progress))
                        .map_err(to_status)
                })
            };
            let told: Vec<_> = policies.into_iter().map(follow).collect();
            let told: Self::PublishFiltersStream = futures::stream::iter(told).flatten().boxed();
            Ok(told)
        })
        .await
    }
}

/// A stream's message, which has a header or rows.
trait Parts {
    /// The two.
    type Message;
    /// What the message has.
    fn part(self) -> Option<Self::Message>;
}

impl Parts for v1::ImportDatasetRequest {
    type Message = Message;
    fn part(self) -> Option<Message> {
        self.message
    }
}

impl Parts for v1::RemoveSelectorsRequest {
    type Message = RemovalMessage;
    fn part(self) -> Option<RemovalMessage> {
        self.message
    }
}

async fn next<M: Parts>(messages: &mut Streaming<M>) -> Result<Option<M::Message>, Error> {
    match messages.message().await {
        Ok(None) => Ok(None),
        Ok(Some(message)) => match message.part() {
            Some(part) => Ok(Some(part)),
            None => Err(Error::field("message", "a header or rows")),
        },
        Err(status) => Err(from_inbound(&status)),
    }
}

fn to_wire(dataset: Dataset) -> v1::Dataset {
    v1::Dataset {
        name: dataset.name,
        policy: dataset.policy.name().to_owned(),
        selectors: dataset.selectors,
        imported_at: Some(to_timestamp(dataset.imported_at)),
        publish: dataset.publish,
        probe: dataset.probe.as_ref().map(Into::into),
    }
}

fn response(policy: Policy, progress: PublishProgress) -> v1::PublishFiltersResponse {
    v1::PublishFiltersResponse {
        policy: policy.name().to_owned(),
        selectors: progress.selectors,
        acknowledged: progress.acknowledged,
        total: progress.total,
        active: progress.active,
        version: progress.version,
        class: progress.class.into(),
        waiting_for: progress.waiting_for,
        supplement: progress.supplement,
    }
}
