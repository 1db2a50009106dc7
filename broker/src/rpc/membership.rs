//! `MembershipService`.

use std::sync::Arc;

use prost::Message as _;
use sotto_common::error::{Error, Result};
use sotto_common::ids::{Epoch, NodeId};
use sotto_common::membership::{MAX_MEMBERS, Profile};
use sotto_proto::convert::{epoch, text, to_timestamp};
use sotto_proto::status::to_status;
use sotto_proto::v1;
use sotto_proto::v1::membership_service_server::MembershipService;
use tonic::{Request, Response, Status};

use super::{Api, node, node_or_operator, operator, optional_policy, spiffe, to_the_end};
use crate::app::{EpochView, LimitsChange};
use crate::datastore::NodeRecord;

type Answer<T> = Result<Response<T>, Status>;

/// Runs a handler's steps and maps their error.
macro_rules! answer {
    ($work:expr) => {
        async { $work }.await.map(Response::new).map_err(to_status)
    };
}
pub(super) use answer;

#[tonic::async_trait]
impl MembershipService for Api {
    async fn create_community(
        &self,
        request: Request<v1::CreateCommunityRequest>,
    ) -> Answer<v1::CreateCommunityResponse> {
        answer!({
            let operator = operator(&request)?;
            let message = request.into_inner();
            let name = text("community", &message.community)?;
            let profile = profile(message.profile)?;
            let custodians = nodes("custodians", &message.custodians)?;
            self.broker
                .create_community(&operator, &name, profile, &custodians)
                .await?;
            Ok(v1::CreateCommunityResponse {})
        })
    }

    async fn propose_profile(
        &self,
        request: Request<v1::ProposeProfileRequest>,
    ) -> Answer<v1::ProposeProfileResponse> {
        answer!({
            let operator = operator(&request)?;
            let message = request.into_inner();
            let name = text("community", &message.community)?;
            let profile = profile(message.profile)?;
            let custodians = nodes("custodians", &message.custodians)?;
            self.broker
                .propose_profile(&operator, &name, profile, &custodians)
                .await?;
            Ok(v1::ProposeProfileResponse {})
        })
    }

    async fn get_community(
        &self,
        request: Request<v1::GetCommunityRequest>,
    ) -> Answer<v1::GetCommunityResponse> {
        answer!({
            let member = node_or_operator(&request)?;
            let name = text("community", &request.get_ref().community)?;
            let (profile, custodians) = self.broker.community(&name, member.as_ref()).await?;
            let call = "MembershipService/GetCommunity";
            self.log_read(&spiffe(&request)?, &name, call).await?;
            Ok(v1::GetCommunityResponse {
                community: name.to_string(),
                proposed_profile: Some(profile.into()),
                custodians: custodians.iter().map(ToString::to_string).collect(),
            })
        })
    }

    async fn enrol_node(
        &self,
        request: Request<v1::EnrolNodeRequest>,
    ) -> Answer<v1::EnrolNodeResponse> {
        answer!({
            let operator = operator(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let node = text("node_id", &message.node_id)?;
            self.broker.enrol(&operator, &community, &node).await?;
            Ok(v1::EnrolNodeResponse {})
        })
    }

    async fn suspend_node(
        &self,
        request: Request<v1::SuspendNodeRequest>,
    ) -> Answer<v1::SuspendNodeResponse> {
        answer!({
            let operator = operator(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let node = text("node_id", &message.node_id)?;
            let broker = Arc::clone(&self.broker);
            let suspended = async move {
                let reason = &message.reason;
                broker.suspend(&operator, &community, &node, reason).await
            };
            let ended = to_the_end(suspended).await?;
            let ended_epochs = ended.into_iter().map(Epoch::get).collect();
            Ok(v1::SuspendNodeResponse { ended_epochs })
        })
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Answer<v1::ListNodesResponse> {
        answer!({
            let member = node_or_operator(&request)?;
            let community = text("community", &request.get_ref().community)?;
            let nodes = self.broker.nodes(&community, member.as_ref()).await?;
            let call = "MembershipService/ListNodes";
            self.log_read(&spiffe(&request)?, &community, call).await?;
            let nodes = nodes
                .into_iter()
                .map(enrolled_node)
                .collect::<Result<_>>()?;
            Ok(v1::ListNodesResponse { nodes })
        })
    }

    async fn set_limits(
        &self,
        request: Request<v1::SetLimitsRequest>,
    ) -> Answer<v1::SetLimitsResponse> {
        answer!({
            let operator = operator(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let node = text("node_id", &message.node_id)?;
            let policy = optional_policy(&message.policy)?;
            let max_class = message.max_class.map(class).transpose()?;
            let change = LimitsChange {
                daily_refs: message.daily_refs,
                max_class,
            };
            self.broker
                .set_limits(&operator, &community, &node, policy, change)
                .await?;
            Ok(v1::SetLimitsResponse {})
        })
    }

    async fn get_limits(
        &self,
        request: Request<v1::GetLimitsRequest>,
    ) -> Answer<v1::GetLimitsResponse> {
        answer!({
            let (caller, reader) = (node_or_operator(&request)?, spiffe(&request)?);
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let node = match caller {
                Some(node) if message.node_id.is_empty() || message.node_id == node.as_str() => {
                    node
                }
                Some(_) => return Err(Error::field("node_id", "a node reads its own limits")),
                None => text("node_id", &message.node_id)?,
            };
            let rows = self.broker.limits(&community, &node).await?;
            let call = "MembershipService/GetLimits";
            self.log_read(&reader, &community, call).await?;
            let limits = rows
                .into_iter()
                .map(|row| v1::PolicyLimits {
                    policy: row.policy.name().to_owned(),
                    daily_refs: row.limits.daily_refs,
                    used_today: row.used_today,
                    max_class: row.limits.max_class.into(),
                })
                .collect();
            Ok(v1::GetLimitsResponse { limits })
        })
    }

    async fn submit_key_statement(
        &self,
        request: Request<v1::SubmitKeyStatementRequest>,
    ) -> Answer<v1::SubmitKeyStatementResponse> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let statement = given("statement", message.statement)?;
            self.broker
                .submit_key_statement(&caller, &community, &statement)
                .await?;
            Ok(v1::SubmitKeyStatementResponse {})
        })
    }

    async fn open_epoch(
        &self,
        request: Request<v1::OpenEpochRequest>,
    ) -> Answer<v1::OpenEpochResponse> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let manifest = given("manifest", message.manifest)?;
            self.broker
                .open_epoch(&caller, &community, &manifest, &message.envelopes)
                .await?;
            Ok(v1::OpenEpochResponse {})
        })
    }

    async fn get_epoch(
        &self,
        request: Request<v1::GetEpochRequest>,
    ) -> Answer<v1::GetEpochResponse> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let number = (message.epoch != 0)
                .then(|| epoch(message.epoch))
                .transpose()?;
            let view = self.broker.epoch(&caller, &community, number).await?;
            let own = view.members.iter().find(|member| member.node == caller);
            let envelope = own.map(|member| decode(&member.envelope)).transpose()?;
            Ok(v1::GetEpochResponse {
                state: v1::EpochState::from(view.record.state).into(),
                manifest: Some(decode(&view.record.manifest)?),
                envelope,
                confirmed: confirmed(&view),
            })
        })
    }

    async fn list_epochs(
        &self,
        request: Request<v1::ListEpochsRequest>,
    ) -> Answer<v1::ListEpochsResponse> {
        answer!({
            let member = node_or_operator(&request)?;
            let community = text("community", &request.get_ref().community)?;
            let views = self.broker.epochs(&community, member.as_ref()).await?;
            let call = "MembershipService/ListEpochs";
            self.log_read(&spiffe(&request)?, &community, call).await?;
            Ok(v1::ListEpochsResponse {
                epochs: views.iter().map(summary).collect(),
            })
        })
    }

    async fn confirm_epoch(
        &self,
        request: Request<v1::ConfirmEpochRequest>,
    ) -> Answer<v1::ConfirmEpochResponse> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let confirmation = given("confirmation", message.confirmation)?;
            let state = self
                .broker
                .confirm_epoch(&caller, &community, &confirmation)
                .await?;
            Ok(v1::ConfirmEpochResponse {
                state: v1::EpochState::from(state).into(),
            })
        })
    }

    async fn close_confirmations(
        &self,
        request: Request<v1::CloseConfirmationsRequest>,
    ) -> Answer<v1::CloseConfirmationsResponse> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let number = epoch(message.epoch)?;
            self.broker
                .close_confirmations(&caller, &community, number)
                .await?;
            Ok(v1::CloseConfirmationsResponse {})
        })
    }

    async fn end_epoch(
        &self,
        request: Request<v1::EndEpochRequest>,
    ) -> Answer<v1::EndEpochResponse> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let number = epoch(message.epoch)?;
            let broker = Arc::clone(&self.broker);
            to_the_end(async move { broker.end_epoch(&caller, &community, number).await }).await?;
            Ok(v1::EndEpochResponse {})
        })
    }
}

/// A message that must be given.
pub(super) fn given<T>(field: &'static str, message: Option<T>) -> Result<T> {
    message.ok_or_else(|| Error::field(field, "must be given"))
}

fn profile(wire: Option<v1::Profile>) -> Result<Profile> {
    given("profile", wire)?.try_into()
}

fn nodes(field: &'static str, names: &[String]) -> Result<Vec<NodeId>> {
    if names.len() > MAX_MEMBERS {
        return Err(Error::field(field, "at most 1000 nodes"));
    }
    names.iter().map(|name| text(field, name)).collect()
}

fn class(number: u32) -> Result<u8> {
    u8::try_from(number)
        .ok()
        .filter(|class| *class <= 60)
        .ok_or_else(|| Error::field("max_class", "0 to 60"))
}

/// Reads a message that the ledger holds.
fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M> {
    M::decode(bytes).map_err(Error::internal)
}

fn enrolled_node(record: NodeRecord) -> Result<v1::EnrolledNode> {
    Ok(v1::EnrolledNode {
        node_id: record.node.to_string(),
        suspended: record.suspended.is_some(),
        enrolled_at: Some(to_timestamp(record.enrolled_at)),
        key_statement: record
            .statement
            .map(|bytes| v1::DsseEnvelope::decode(&bytes[..]).map_err(Error::internal))
            .transpose()?,
    })
}

fn confirmed(view: &EpochView) -> Vec<String> {
    let confirmed = view.members.iter().filter(|member| member.confirmed);
    confirmed.map(|member| member.node.to_string()).collect()
}

fn summary(view: &EpochView) -> v1::EpochSummary {
    v1::EpochSummary {
        epoch: view.record.epoch.get(),
        state: v1::EpochState::from(view.record.state).into(),
        custodian: view.record.custodian.to_string(),
        kid: view.record.kid.as_bytes().to_vec().into(),
        not_before: Some(to_timestamp(view.record.not_before)),
        not_after: Some(to_timestamp(view.record.not_after)),
        members: view
            .members
            .iter()
            .map(|member| member.node.to_string())
            .collect(),
        confirmed: confirmed(view),
    }
}
