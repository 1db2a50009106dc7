//! Datasets of the fake: what is done with them is noted in words.

use futures::{StreamExt as _, stream};
use sotto_common::error::ErrorCode;
use sotto_proto::v1;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{CUT_OFF, FakeNode, Messages, REFUSED, refused};

#[async_trait]
impl v1::dataset_service_server::DatasetService for FakeNode {
    type PublishFiltersStream = Messages<v1::PublishFiltersResponse>;

    async fn remove_selectors(
        &self,
        request: Request<Streaming<v1::RemoveSelectorsRequest>>,
    ) -> Result<Response<v1::RemoveSelectorsResponse>, Status> {
        use v1::remove_selectors_request::Message;

        let mut messages = request.into_inner();
        let (mut rows, mut policy) = (0, "phone/1");
        while let Some(message) = messages.message().await? {
            match message.message {
                Some(Message::Header(header)) => {
                    if header.dataset == CUT_OFF {
                        policy = "ip/1";
                    }
                    self.note(format!("{} {}", header.dataset, header.by_record));
                }
                Some(Message::Rows(batch)) => {
                    for row in batch.rows {
                        self.note(format!("{}|{}|{}", row.line, row.value, row.record_id));
                        rows += 1;
                    }
                }
                None => return refused(ErrorCode::InvalidField),
            }
        }
        Ok(Response::new(v1::RemoveSelectorsResponse {
            rows,
            removed: rows,
            policy: policy.into(),
            ..Default::default()
        }))
    }

    async fn delete_dataset(
        &self,
        request: Request<v1::DeleteDatasetRequest>,
    ) -> Result<Response<v1::DeleteDatasetResponse>, Status> {
        let dataset = request.into_inner().dataset;
        if dataset == REFUSED {
            return refused(ErrorCode::DatasetUnknown);
        }
        self.note(format!("deleted {dataset}"));
        Ok(Response::new(v1::DeleteDatasetResponse {
            removed: 7,
            policy: "phone/1".into(),
        }))
    }

    async fn list_sources(
        &self,
        _: Request<v1::ListSourcesRequest>,
    ) -> Result<Response<v1::ListSourcesResponse>, Status> {
        let source = v1::DatasetSource {
            dataset: "suspects".into(),
            policy: "phone/1".into(),
            engine: "postgresql".into(),
            next_full: true,
            problem: "PostgreSQL says 42P01".into(),
            ..Default::default()
        };
        Ok(Response::new(v1::ListSourcesResponse {
            sources: vec![source],
        }))
    }

    async fn run_source(
        &self,
        request: Request<v1::RunSourceRequest>,
    ) -> Result<Response<v1::RunSourceResponse>, Status> {
        let request = request.into_inner();
        if request.dataset == REFUSED {
            return refused(ErrorCode::SourceFailed);
        }
        self.note(format!(
            "sync {} {} {}",
            request.dataset, request.full, request.allow_shrink
        ));
        Ok(Response::new(v1::RunSourceResponse {
            report: Some(v1::ImportDatasetResponse {
                rows: 9,
                removed: 2,
                ..Default::default()
            }),
            full: request.full,
            watermark: "2026-01-01".into(),
            // Its filters wait for the broker.
            policy: "ip/1".into(),
        }))
    }

    async fn update_dataset(
        &self,
        request: Request<v1::UpdateDatasetRequest>,
    ) -> Result<Response<v1::UpdateDatasetResponse>, Status> {
        let request = request.into_inner();
        self.note(format!(
            "{} {:?} {}",
            request.dataset, request.publish, request.stop_probing
        ));
        Ok(Response::new(v1::UpdateDatasetResponse {
            dataset: Some(v1::Dataset {
                name: request.dataset,
                policy: "phone/1".into(),
                publish: request.publish.unwrap_or(true),
                probe: request.probe,
                ..Default::default()
            }),
        }))
    }

    async fn import_dataset(
        &self,
        request: Request<Streaming<v1::ImportDatasetRequest>>,
    ) -> Result<Response<v1::ImportDatasetResponse>, Status> {
        use v1::import_dataset_request::Message;

        let mut messages = request.into_inner();
        let (mut rows, mut replace) = (0, false);
        let outcome = loop {
            match messages.message().await {
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
                Ok(Some(message)) => {
                    if let Some(Message::Header(header)) = &message.message {
                        if header.dataset == REFUSED {
                            return refused(ErrorCode::RoleForbidden);
                        }
                        replace = header.replace;
                    }
                    if let Some(Message::Rows(batch)) = message.message {
                        for at in batch.rows.iter().filter_map(|row| row.expires_at) {
                            self.note(format!("expires {}", at.seconds));
                        }
                        rows += batch.rows.len() as u64;
                    }
                }
            }
        };
        let mut imports = self.imports.lock().expect("lock");
        imports.ended += 1;
        outcome?;
        imports.completed = Some(rows);
        Ok(Response::new(v1::ImportDatasetResponse {
            rows,
            accepted: rows,
            removed: u64::from(replace),
            ..Default::default()
        }))
    }

    async fn list_datasets(
        &self,
        _: Request<v1::ListDatasetsRequest>,
    ) -> Result<Response<v1::ListDatasetsResponse>, Status> {
        Ok(Response::new(v1::ListDatasetsResponse::default()))
    }

    async fn publish_filters(
        &self,
        request: Request<v1::PublishFiltersRequest>,
    ) -> Result<Response<Self::PublishFiltersStream>, Status> {
        let state = |policy: &str, active| {
            Ok(v1::PublishFiltersResponse {
                policy: policy.into(),
                active,
                ..Default::default()
            })
        };
        let policy = request.into_inner().policy;
        if policy == "ip/1" {
            let waits = Ok(v1::PublishFiltersResponse {
                policy,
                waiting_for: "the broker (UNAVAILABLE)".into(),
                ..Default::default()
            });
            let stream = stream::once(async { waits }).chain(stream::pending());
            return Ok(Response::new(Box::pin(stream)));
        }
        let mut states = vec![state("phone/1", false), state("phone/1", true)];
        if policy.is_empty() {
            states.push(state("ip/1", false));
        }
        Ok(Response::new(Box::pin(stream::iter(states))))
    }
}
