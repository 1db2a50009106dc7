//! Who may call what: one table, asked at the door for every request.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::Role;
use sotto_common::service::identity::{self, PeerIdentity, Revocation};
use sotto_proto::status::to_status;
use tonic::body::Body;
use tower::{Layer, Service};

use Role::{Analyst, Approver, DataManager, Supervisor};

/// The people at a node (workflow.md "Follow-up", roles).
const EVERYONE: &[Role] = &[Analyst, Approver, Supervisor, DataManager];

/// Every method of the node's three services, and the roles that may call it.
const ROLES: &[(&str, &[Role])] = &[
    (
        "/sotto.v1.AnalystService/ProbeDataset",
        &[Analyst, Approver],
    ),
    (
        "/sotto.v1.AnalystService/CheckSelector",
        &[Analyst, Approver],
    ),
    ("/sotto.v1.AnalystService/ListRecordHits", READERS),
    ("/sotto.v1.AnalystService/GetRecordHit", READERS),
    ("/sotto.v1.AnalystService/WatchRecordHits", READERS),
    ("/sotto.v1.AnalystService/ReviewHit", &[Analyst, Approver]),
    ("/sotto.v1.DatasetService/ImportDataset", &[DataManager]),
    ("/sotto.v1.DatasetService/ListDatasets", EVERYONE),
    ("/sotto.v1.DatasetService/RemoveSelectors", &[DataManager]),
    ("/sotto.v1.DatasetService/DeleteDataset", &[DataManager]),
    ("/sotto.v1.DatasetService/UpdateDataset", &[DataManager]),
    ("/sotto.v1.DatasetService/ListSources", &[DataManager]),
    ("/sotto.v1.DatasetService/RunSource", &[DataManager]),
    ("/sotto.v1.DatasetService/PublishFilters", &[DataManager]),
    ("/sotto.v1.NodeAdminService/GetStatus", EVERYONE),
    ("/sotto.v1.NodeAdminService/ListMembers", &[DataManager]),
    ("/sotto.v1.NodeAdminService/PinMember", &[DataManager]),
    ("/sotto.v1.NodeAdminService/StartEpoch", &[DataManager]),
    (
        "/sotto.v1.NodeAdminService/CloseEpochConfirmations",
        &[DataManager],
    ),
    ("/sotto.v1.NodeAdminService/FinishEpoch", &[DataManager]),
    ("/sotto.v1.NodeAdminService/FetchEpoch", &[DataManager]),
    ("/sotto.v1.NodeAdminService/ListNodeEpochs", &[DataManager]),
    ("/sotto.v1.NodeAdminService/ExportAccessLog", &[Supervisor]),
];

/// Those who read hits.
const READERS: &[Role] = &[Analyst, Approver, Supervisor];

/// Services that tell nothing of the node's own, for everyone with a certificate.
const OPEN: &[&str] = &["/grpc.health.v1.", "/grpc.reflection."];

fn check_role(path: &str, role: Role) -> Result<()> {
    let allowed = ROLES.iter().find(|(method, _)| *method == path);
    let may = match allowed {
        Some((_, roles)) => roles.contains(&role),
        None => OPEN.iter().any(|prefix| path.starts_with(prefix)),
    };
    if may {
        return Ok(());
    }
    let text = match allowed {
        Some((_, roles)) => {
            let roles: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
            format!("this call is for the roles {}", roles.join(", "))
        }
        None => "there is no such call here".into(),
    };
    Err(Error::new(ErrorCode::RoleForbidden, text))
}

/// The door of the local services: identity, revocation, role. It leaves the caller's identity
/// among the extensions of the request.
#[derive(Clone, Debug)]
pub(crate) struct Door(pub(crate) Revocation);

impl<S> Layer<S> for Door {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            revocation: self.0.clone(),
        }
    }
}

/// A service behind the [`Door`].
#[derive(Clone, Debug)]
pub(crate) struct Guarded<S> {
    inner: S,
    revocation: Revocation,
}

impl<S> Guarded<S> {
    fn enter<B>(&self, request: &http::Request<B>) -> Result<PeerIdentity> {
        let peer = identity::peer(request.extensions(), &self.revocation)?;
        check_role(request.uri().path(), peer.spiffe().role())?;
        Ok(peer)
    }
}

impl<S, B> Service<http::Request<B>> for Guarded<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        match self.enter(&request) {
            Ok(peer) => {
                request.extensions_mut().insert(peer);
                Box::pin(self.inner.call(request))
            }
            Err(error) => {
                let response = to_status(error).into_http();
                Box::pin(std::future::ready(Ok(response)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    const SERVICES: [&str; 3] = ["AnalystService", "DatasetService", "NodeAdminService"];

    fn methods() -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(sotto_proto::FILE_DESCRIPTOR_SET).expect("decoded");
        set.file
            .iter()
            .flat_map(|file| file.service.iter().map(move |s| (file.package(), s)))
            .filter(|(_, service)| SERVICES.contains(&service.name()))
            .flat_map(|(package, service)| {
                let path = move |method: &str| format!("/{package}.{}/{method}", service.name());
                service.method.iter().map(move |m| path(m.name()))
            })
            .collect()
    }

    #[test]
    fn the_table_has_every_method_of_the_three_services_and_no_other() {
        let listed: BTreeSet<_> = ROLES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(listed.len(), ROLES.len());
        assert_eq!(listed, methods());
    }

    #[test]
    fn only_the_roles_of_the_table_may_call_and_machines_never() {
        for &(path, roles) in ROLES {
            assert!(!roles.is_empty());
            for role in Role::ALL {
                assert_eq!(
                    check_role(path, role).is_ok(),
                    roles.contains(&role),
                    "{path}"
                );
            }
            for machine in [Role::Node, Role::Broker, Role::Operator, Role::Auditor] {
                assert!(check_role(path, machine).is_err(), "{path}");
            }
        }
    }

    #[test]
    fn health_is_for_everyone_and_unknown_calls_for_nobody() {
        assert!(check_role("/grpc.health.v1.Health/Check", Role::Node).is_ok());
        for path in ["/sotto.v1.AnalystService/Other", "/x", "/"] {
            let error = check_role(path, Role::Analyst).expect_err("refused");
            assert_eq!(error.code, ErrorCode::RoleForbidden);
        }
    }
}
