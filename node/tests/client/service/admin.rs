//! What a custodian and a supervisor ask of the fake.

use futures::stream;
use sotto_common::error::ErrorCode;
use sotto_common::time::Timestamp;
use sotto_node::access::{Access, FIRST};
use sotto_proto::{convert, v1};
use tonic::{Request, Response, Status, async_trait};

use super::{FakeNode, HOSTILE, Messages, refused};

#[async_trait]
impl v1::node_admin_service_server::NodeAdminService for FakeNode {
    type ExportAccessLogStream = Messages<v1::ExportAccessLogResponse>;

    async fn export_access_log(
        &self,
        request: Request<v1::ExportAccessLogRequest>,
    ) -> Result<Response<Self::ExportAccessLogStream>, Status> {
        let mut previous = FIRST;
        let why = request.into_inner().why;
        let entries = (1..=3_u32).map(move |number| {
            let access = Access {
                at: Timestamp::from_micros(1_700_000_000_000_001 + i64::from(number)),
                person: "spiffe://sotto.test/analyst/anna".into(),
                action: "AnalystService/GetRecordHit".into(),
                objects: vec![HOSTILE.into(), "b".into()],
                why: why.clone(),
            };
            previous = access.digest(&previous, number.into()).expect("short");
            Ok(v1::ExportAccessLogResponse {
                number: number.into(),
                at: Some(convert::to_timestamp(access.at)),
                person: access.person,
                action: access.action,
                objects: access.objects,
                why: access.why,
                digest: previous.to_vec().into(),
            })
        });
        Ok(Response::new(Box::pin(stream::iter(entries))))
    }

    type ListEvidenceStream = Messages<v1::ListEvidenceResponse>;

    async fn list_evidence(
        &self,
        _: Request<v1::ListEvidenceRequest>,
    ) -> Result<Response<Self::ListEvidenceStream>, Status> {
        let found = v1::ListEvidenceResponse {
            number: 1,
            at: Some(convert::to_timestamp(Timestamp::from_seconds(60))),
            what: HOSTILE.into(),
            log_key: "the key".into(),
            known: b"one note".to_vec().into(),
            offered: b"another note".to_vec().into(),
            hashes: vec![vec![7; 32].into()],
            ..Default::default()
        };
        Ok(Response::new(Box::pin(stream::iter([Ok(found)]))))
    }

    async fn clear_evidence(
        &self,
        request: Request<v1::ClearEvidenceRequest>,
    ) -> Result<Response<v1::ClearEvidenceResponse>, Status> {
        let cleared = u64::from(!request.into_inner().reason.is_empty());
        Ok(Response::new(v1::ClearEvidenceResponse { cleared }))
    }

    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(v1::GetStatusResponse::default()))
    }

    async fn list_members(
        &self,
        _: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        Ok(Response::new(v1::ListMembersResponse::default()))
    }

    async fn pin_member(
        &self,
        _: Request<v1::PinMemberRequest>,
    ) -> Result<Response<v1::PinMemberResponse>, Status> {
        refused(ErrorCode::IdentityChanged)
    }

    async fn start_epoch(
        &self,
        _: Request<v1::StartEpochRequest>,
    ) -> Result<Response<v1::StartEpochResponse>, Status> {
        refused(ErrorCode::MemberNotPinned)
    }

    async fn fetch_epoch(
        &self,
        _: Request<v1::FetchEpochRequest>,
    ) -> Result<Response<v1::FetchEpochResponse>, Status> {
        refused(ErrorCode::EpochUnknown)
    }

    async fn close_epoch_confirmations(
        &self,
        _: Request<v1::CloseEpochConfirmationsRequest>,
    ) -> Result<Response<v1::CloseEpochConfirmationsResponse>, Status> {
        Ok(Response::new(v1::CloseEpochConfirmationsResponse {}))
    }

    async fn finish_epoch(
        &self,
        _: Request<v1::FinishEpochRequest>,
    ) -> Result<Response<v1::FinishEpochResponse>, Status> {
        refused(ErrorCode::RoleForbidden)
    }

    async fn list_node_epochs(
        &self,
        _: Request<v1::ListNodeEpochsRequest>,
    ) -> Result<Response<v1::ListNodeEpochsResponse>, Status> {
        Ok(Response::new(v1::ListNodeEpochsResponse::default()))
    }
}
