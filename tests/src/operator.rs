//! The operator of a broker.

use std::process::Output;

use sotto_common::ids::Role;
use sotto_common::membership::Profile;
use sotto_common::time::Timestamp;
use sotto_proto::convert;
use sotto_proto::v1;
use sotto_proto::v1::hit_service_client::HitServiceClient;
use sotto_proto::v1::membership_service_client::MembershipServiceClient;
use tonic::Status;
use tonic::transport::Channel;

use crate::program;
use crate::{COMMUNITY, Lab, TRUST_DOMAIN, TestNode};

/// Speaks to the broker with an operator's certificate, about [`COMMUNITY`].
#[derive(Clone, Debug)]
pub struct Operator {
    channel: Channel,
}

impl Operator {
    /// The operator `ops` of the laboratory.
    pub fn new(lab: &Lab, url: &str) -> Self {
        Self {
            channel: lab.channel(Role::Operator, "ops", url),
        }
    }

    /// Its client of the membership service.
    pub fn membership(&self) -> MembershipServiceClient<Channel> {
        MembershipServiceClient::new(self.channel.clone())
    }

    /// Its client of the hit service.
    pub fn hit_service(&self) -> HitServiceClient<Channel> {
        HitServiceClient::new(self.channel.clone())
    }

    /// Creates the community with its custodians.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn create_community(
        &self,
        profile: Profile,
        custodians: &[&str],
    ) -> Result<(), Status> {
        let request = v1::CreateCommunityRequest {
            community: COMMUNITY.into(),
            profile: Some(profile.into()),
            custodians: custodians.iter().map(ToString::to_string).collect(),
        };
        self.membership().create_community(request).await.map(drop)
    }

    /// Enrols a node.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn enrol(&self, node: &str) -> Result<(), Status> {
        let request = v1::EnrolNodeRequest {
            community: COMMUNITY.into(),
            node_id: node.into(),
        };
        self.membership().enrol_node(request).await.map(drop)
    }

    /// Suspends a node; returns the epochs that ended by it.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn suspend(&self, node: &str, reason: &str) -> Result<Vec<u32>, Status> {
        let request = v1::SuspendNodeRequest {
            community: COMMUNITY.into(),
            node_id: node.into(),
            reason: reason.into(),
        };
        let response = self.membership().suspend_node(request).await?;
        Ok(response.into_inner().ended_epochs)
    }

    /// Sets what a node may do in every policy; what is `None` stays.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn set_limits(
        &self,
        node: &TestNode,
        daily_refs: Option<u64>,
        max_class: Option<u32>,
    ) -> Result<(), Status> {
        let request = v1::SetLimitsRequest {
            community: COMMUNITY.into(),
            node_id: node.id().to_string(),
            policy: String::new(),
            daily_refs,
            max_class,
        };
        self.membership().set_limits(request).await.map(drop)
    }

    /// Sets how many record refs a node may ask in a day, in every policy.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn set_quota(&self, node: &str, daily_refs: u64) -> Result<(), Status> {
        let request = v1::SetLimitsRequest {
            community: COMMUNITY.into(),
            node_id: node.into(),
            policy: String::new(),
            daily_refs: Some(daily_refs),
            max_class: None,
        };
        self.membership().set_limits(request).await.map(drop)
    }

    /// How the hits fared that were first seen since then.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn hit_statistics(
        &self,
        since: Option<Timestamp>,
    ) -> Result<Vec<v1::HitStatistic>, Status> {
        let request = v1::ListHitStatisticsRequest {
            community: COMMUNITY.into(),
            since: since.map(convert::to_timestamp),
        };
        let response = self.hit_service().list_hit_statistics(request).await?;
        Ok(response.into_inner().rows)
    }

    /// What the flood guard holds back.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn quarantine(&self) -> Result<Vec<v1::QuarantineGroup>, Status> {
        let community = COMMUNITY.into();
        let request = v1::ListQuarantineRequest { community };
        let response = self.hit_service().list_quarantine(request).await?;
        Ok(response.into_inner().groups)
    }

    /// Releases what the flood guard holds back of one group; returns how many hits.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn release(&self, group: &v1::QuarantineGroup, reason: &str) -> Result<u64, Status> {
        let request = v1::ReleaseQuarantineRequest {
            community: COMMUNITY.into(),
            prober: group.prober.clone(),
            holder: group.holder.clone(),
            policy: group.policy.clone(),
            day: group.day,
            reason: reason.into(),
        };
        let response = self.hit_service().release_quarantine(request).await?;
        Ok(response.into_inner().released)
    }
}

/// Runs a command of the operator's, which must be done; returns what it prints.
pub async fn command(lab: &Lab, url: &str, arguments: &[&str]) -> String {
    let output = run_as(lab, Role::Operator, "ops", url, arguments).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs a command with the certificate of this role and name; tells how it ended and what it printed.
pub async fn run_as(lab: &Lab, role: Role, name: &str, url: &str, arguments: &[&str]) -> Output {
    let tls = lab.install(role, name);
    let file = tls.certificate.with_extension("toml");
    let config = format!(
        "endpoint = '{url}'\n[tls]\ncertificate = '{}'\nkey = '{}'\nca = '{}'\n\
         trust_domain = '{TRUST_DOMAIN}'\n",
        tls.certificate.display(),
        tls.key.0.display(),
        tls.ca.display(),
    );
    std::fs::write(&file, config).expect("written");
    let output = tokio::process::Command::new(program::broker())
        .arg("--client")
        .arg(file)
        .args(arguments)
        .env_clear()
        .output();
    output.await.expect("it runs")
}
