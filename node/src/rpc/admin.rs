//! `NodeAdminService`.

use std::sync::Arc;

use futures::StreamExt as _;
use sotto_common::dsse::Fingerprint;
use sotto_common::error::Error;
use sotto_proto::convert::{epoch, text, to_timestamp};
use sotto_proto::status::to_status;
use sotto_proto::v1;
use sotto_proto::v1::node_admin_service_server::NodeAdminService;
use tonic::{Request, Response, Status};

use super::access::{export, list_evidence};
use super::answer;
use crate::app::App;
use crate::app::members::Member;
use crate::auth::Caller;

/// Keys, members and epochs of this node.
pub(crate) struct Admin(pub(crate) Arc<App>);

#[tonic::async_trait]
impl NodeAdminService for Admin {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        answer(self.0.status()).await
    }

    type ExportAccessLogStream = super::Answers<v1::ExportAccessLogResponse>;

    async fn export_access_log(
        &self,
        request: Request<v1::ExportAccessLogRequest>,
    ) -> Result<Response<Self::ExportAccessLogStream>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            let entries = export(&self.0, &caller, request.into_inner()).await?;
            let entries: Self::ExportAccessLogStream =
                entries.map(|entry| entry.map_err(to_status)).boxed();
            Ok(entries)
        })
        .await
    }

    type ListEvidenceStream = super::Answers<v1::ListEvidenceResponse>;

    async fn list_evidence(
        &self,
        request: Request<v1::ListEvidenceRequest>,
    ) -> Result<Response<Self::ListEvidenceStream>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            let evidence = list_evidence(&self.0, &caller).await?;
            let evidence: Self::ListEvidenceStream =
                evidence.map(|found| found.map_err(to_status)).boxed();
            Ok(evidence)
        })
        .await
    }

    async fn clear_evidence(
        &self,
        request: Request<v1::ClearEvidenceRequest>,
    ) -> Result<Response<v1::ClearEvidenceResponse>, Status> {
        answer(async {
            let caller = Caller::of(request.extensions())?;
            let request = request.into_inner();
            let cleared = self
                .0
                .clear_evidence(&caller, &request.reason, request.begin_anew)
                .await?;
            Ok(v1::ClearEvidenceResponse { cleared })
        })
        .await
    }

    async fn list_members(
        &self,
        _: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        answer(async {
            let members = self.0.members().await?;
            Ok(v1::ListMembersResponse {
                members: members.iter().map(|row| member(&self.0, row)).collect(),
            })
        })
        .await
    }

    async fn pin_member(
        &self,
        request: Request<v1::PinMemberRequest>,
    ) -> Result<Response<v1::PinMemberResponse>, Status> {
        answer(async {
            let request = request.into_inner();
            let node = text("node_id", &request.node_id)?;
            let fingerprint: Fingerprint = text("fingerprint", &request.fingerprint)?;
            self.0
                .pin_member(&node, &fingerprint, request.replace)
                .await?;
            Ok(v1::PinMemberResponse {})
        })
        .await
    }

    async fn start_epoch(
        &self,
        request: Request<v1::StartEpochRequest>,
    ) -> Result<Response<v1::StartEpochResponse>, Status> {
        answer(async {
            let (manifest, left_out) = self.0.start_epoch(request.into_inner().days).await?;
            self.0.epochs_moved.notify_one();
            let members = manifest.members.iter().map(|m| m.node.to_string());
            Ok(v1::StartEpochResponse {
                epoch: manifest.epoch.get(),
                kid: manifest.kid().as_bytes().to_vec().into(),
                members: members.collect(),
                left_out: left_out.iter().map(ToString::to_string).collect(),
            })
        })
        .await
    }

    async fn close_epoch_confirmations(
        &self,
        request: Request<v1::CloseEpochConfirmationsRequest>,
    ) -> Result<Response<v1::CloseEpochConfirmationsResponse>, Status> {
        answer(async {
            let epoch = epoch(request.into_inner().epoch)?;
            self.0.close_confirmations(epoch).await?;
            self.0.epochs_moved.notify_one();
            Ok(v1::CloseEpochConfirmationsResponse {})
        })
        .await
    }

    async fn finish_epoch(
        &self,
        request: Request<v1::FinishEpochRequest>,
    ) -> Result<Response<v1::FinishEpochResponse>, Status> {
        answer(async {
            let epoch = epoch(request.into_inner().epoch)?;
            self.0.end_epoch(epoch).await?;
            self.0.epochs_moved.notify_one();
            Ok(v1::FinishEpochResponse {})
        })
        .await
    }

    async fn fetch_epoch(
        &self,
        request: Request<v1::FetchEpochRequest>,
    ) -> Result<Response<v1::FetchEpochResponse>, Status> {
        answer(async {
            let asked = match request.into_inner().epoch {
                0 => None,
                number => Some(epoch(number)?),
            };
            let (manifest, state) = self.0.fetch_epoch(asked).await?;
            self.0.epochs_moved.notify_one();
            Ok(v1::FetchEpochResponse {
                epoch: manifest.epoch.get(),
                state: state.into(),
                kid: manifest.kid().as_bytes().to_vec().into(),
            })
        })
        .await
    }

    async fn list_node_epochs(
        &self,
        _: Request<v1::ListNodeEpochsRequest>,
    ) -> Result<Response<v1::ListNodeEpochsResponse>, Status> {
        answer(async {
            let epochs = self.0.node_epochs().await?;
            let row = |(summary, fetched_at): (v1::EpochSummary, Option<_>)| v1::NodeEpoch {
                summary: Some(summary),
                has_key: fetched_at.is_some(),
                fetched_at: fetched_at.map(to_timestamp),
            };
            Ok::<_, Error>(v1::ListNodeEpochsResponse {
                epochs: epochs.into_iter().map(row).collect(),
            })
        })
        .await
    }
}

fn member(app: &App, member: &Member) -> v1::Member {
    let keys = member.listed.keys();
    v1::Member {
        node_id: member.listed.node.to_string(),
        fingerprint: keys
            .map(|keys| keys.signing.fingerprint().to_string())
            .unwrap_or_default(),
        pin: member.pin.into(),
        suspended: member.listed.suspended,
        witness: app
            .witness_key(member)
            .map(|key| key.note_key().to_string())
            .unwrap_or_default(),
    }
}
