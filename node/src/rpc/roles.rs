//! Who may call what: one table, asked at the door for every request.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::bytes::Bytes;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::Role;
use sotto_proto::status::to_status;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::auth::{Caller, Gate};

use Role::{Analyst, Approver, DataManager, Supervisor};

/// The people at a node (workflow.md "Follow-up", roles).
const EVERYONE: &[Role] = &[Analyst, Approver, Supervisor, DataManager];

/// Every method of the node's three services, and the roles that may call it.
pub(crate) const ROLES: &[(&str, &[Role])] = &[
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
    (
        "/sotto.v1.AnalystService/DraftFollowUp",
        &[Analyst, Approver],
    ),
    (
        "/sotto.v1.AnalystService/ProposeFollowUpStep",
        &[Analyst, Approver],
    ),
    ("/sotto.v1.AnalystService/ApproveFollowUpStep", &[Approver]),
    (
        "/sotto.v1.AnalystService/DiscardFollowUpStep",
        &[Analyst, Approver],
    ),
    ("/sotto.v1.AnalystService/EndFollowUp", &[Approver]),
    ("/sotto.v1.AnalystService/ListNodeFollowUps", READERS),
    ("/sotto.v1.AnalystService/GetNodeFollowUp", READERS),
    ("/sotto.v1.AnalystService/WatchNodeFollowUps", READERS),
    (
        "/sotto.v1.AnalystService/AddFollowUpAttachment",
        &[Analyst, Approver],
    ),
    (
        "/sotto.v1.AnalystService/ListFollowUpAttachments",
        &[Analyst, Approver],
    ),
    (
        "/sotto.v1.AnalystService/RemoveFollowUpAttachment",
        &[Analyst, Approver],
    ),
    (
        "/sotto.v1.AnalystService/ReadFollowUpAttachment",
        &[Analyst, Approver],
    ),
    (
        "/sotto.v1.AnalystService/ExportFollowUp",
        &[Analyst, Approver],
    ),
    (
        "/sotto.v1.AnalystService/GetFollowUpFigures",
        &[Approver, Supervisor],
    ),
    ("/sotto.v1.AnalystService/GetReceipt", READERS),
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
    ("/sotto.v1.NodeAdminService/ListEvidence", &[Supervisor]),
    ("/sotto.v1.NodeAdminService/ClearEvidence", &[Supervisor]),
];

/// Those who read hits.
const READERS: &[Role] = &[Analyst, Approver, Supervisor];

/// Services that tell nothing of the node's own, for everyone who is known.
const OPEN: &[&str] = &["/grpc.health.v1.", "/grpc.reflection."];

fn check_role(path: &str, own: &BTreeSet<Role>) -> Result<()> {
    let allowed = ROLES.iter().find(|(method, _)| *method == path);
    let may = match allowed {
        Some((_, roles)) => roles.iter().any(|role| own.contains(role)),
        None => OPEN.iter().any(|prefix| path.starts_with(prefix)),
    };
    if may {
        return Ok(());
    }
    let text = match allowed {
        Some(_) if own.is_empty() => {
            "this node gives you no role: its administrator or data manager adds people".into()
        }
        Some((_, roles)) => {
            let roles: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
            format!("this call is for the roles {}", roles.join(", "))
        }
        None => "there is no such call here".into(),
    };
    Err(Error::new(ErrorCode::RoleForbidden, text))
}

/// The door of the local services: identity, revocation, role. It leaves the [`Caller`] among the
/// extensions of the request.
#[derive(Clone)]
pub(crate) struct Door(pub(crate) Gate);

impl<S> Layer<S> for Door {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            gate: self.0.clone(),
        }
    }
}

/// A service behind the [`Door`].
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    inner: S,
    gate: Gate,
}

async fn enter(gate: &Gate, request: &mut Parts) -> Result<Caller> {
    let caller = gate.admit(request).await?;
    check_role(request.uri.path(), &caller.roles)?;
    Ok(caller)
}

/// An answer that ends when its caller may not go on ([`Gate::ended`]): a stream of hits would
/// else live as long as its connection, up to an hour after the door was passed.
///
/// The end is an orderly one: a client that still may calls again.
struct Ending {
    inner: Body,
    ended: BoxFuture<'static, ()>,
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.inner.is_end_stream() && self.ended.as_mut().poll(cx).is_ready() {
            // What comes after the trailers is nothing.
            self.inner = Body::empty();
            let mut trailers = HeaderMap::new();
            trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<S, B> Service<http::Request<B>> for Guarded<S>
where
    B: Send + 'static,
    S: Service<http::Request<B>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let gate = self.gate.clone();
        // The one that said that it is ready is the one to be called.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let (mut parts, body) = request.into_parts();
        Box::pin(async move {
            match enter(&gate, &mut parts).await {
                Ok(caller) => {
                    let request = http::Request::from_parts(parts, body);
                    let ended = gate.ended(&caller);
                    let ending = |inner| Body::new(Ending { inner, ended });
                    Ok(inner.call(request).await?.map(ending))
                }
                Err(error) => Ok(to_status(error).into_http()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::methods;

    fn check(path: &str, roles: &[Role]) -> Result<()> {
        check_role(path, &roles.iter().copied().collect())
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
                    check(path, &[role]).is_ok(),
                    roles.contains(&role),
                    "{path}"
                );
                // Any role of several is enough.
                let several = check(path, &[role, Role::Supervisor]);
                let may = roles.contains(&role) || roles.contains(&Role::Supervisor);
                assert_eq!(several.is_ok(), may, "{path}");
            }
            for machine in [Role::Node, Role::Broker, Role::Operator, Role::Auditor] {
                assert!(check(path, &[machine]).is_err(), "{path}");
            }
            let nobody = check(path, &[]).expect_err("refused");
            assert!(nobody.to_string().contains("gives you no role"), "{path}");
        }
    }

    /// The evidence has entries that name cases: who reads it is the one who ends the alarm by it.
    #[test]
    fn the_evidence_is_read_and_cleared_by_supervisors_alone() {
        for call in ["ListEvidence", "ClearEvidence"] {
            let path = format!("/sotto.v1.NodeAdminService/{call}");
            for role in Role::ALL {
                let may = check(&path, &[role]).is_ok();
                assert_eq!(may, role == Role::Supervisor, "{path} by {}", role.as_str());
            }
        }
    }

    #[test]
    fn health_is_for_everyone_and_unknown_calls_for_nobody() {
        assert!(check("/grpc.health.v1.Health/Check", &[Role::Node]).is_ok());
        assert!(check("/grpc.health.v1.Health/Check", &[]).is_ok());
        for path in ["/sotto.v1.AnalystService/Other", "/x", "/"] {
            let error = check(path, &[Role::Analyst]).expect_err("refused");
            assert_eq!(error.code, ErrorCode::RoleForbidden);
        }
    }
}
