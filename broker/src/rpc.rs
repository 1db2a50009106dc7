//! The door: who calls, what is asked in domain types, and the use case that answers. No logic.

mod audit;
mod flow;
mod follow_up;
mod hit;
mod log;
#[cfg(test)]
mod logged;
mod membership;
mod pieces;
mod probe;
mod publication;

use std::sync::Arc;

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, NodeId, Role, SpiffeId};
use sotto_common::selector::Policy;
use sotto_common::service::identity::{self, PeerIdentity, Revocation};
use sotto_proto::convert::policy;
use sotto_proto::status::to_status;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use self::flow::{Answers, Sender};
use crate::app::Broker;

pub(crate) use flow::UnderWay;
pub(crate) use pieces::in_pieces;

/// What every service needs.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) broker: Arc<Broker>,
    pub(crate) revocation: Revocation,
    pub(crate) shutdown: CancellationToken,
    /// Answers to probes that their readers have not taken.
    pub(crate) under_way: UnderWay,
}

impl Api {
    /// Looks at every request before any service does: whose is it, and is its certificate still
    /// good (protocol §12).
    pub(crate) fn check(&self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let peer = identity::peer(request.extensions(), &self.revocation).map_err(to_status)?;
        request.extensions_mut().insert(peer);
        Ok(request)
    }

    /// Logs what an operator or an auditor has read, before it is answered; what cannot be logged is
    /// not answered (protocol §11: "one entry for each read request by an auditor or operator").
    async fn log_read(
        &self,
        caller: &SpiffeId,
        community: &CommunityId,
        call: &'static str,
    ) -> Result<()> {
        match caller.role() {
            Role::Operator | Role::Auditor => self.broker.log_read(caller, community, call).await,
            _ => Ok(()),
        }
    }

    /// Runs `work` as the source of an answer stream. It ends with the broker's shutdown, with the
    /// peer's certificate, and with the stream's reader.
    fn stream<T: Send + 'static>(
        &self,
        peer: PeerIdentity,
        work: impl AsyncAnswers<T> + 'static,
    ) -> Answers<T> {
        let (sender, reader) = flow::channel(work.ahead());
        let (shutdown, revocation) = (self.shutdown.clone(), self.revocation.clone());
        tokio::spawn(async move {
            let answers = sender.clone();
            let ended = tokio::select! {
                ended = work.run(answers) => ended,
                () = shutdown.cancelled() => Err(stopping()),
                () = revocation.revoked(peer) => Err(revoked()),
                () = sender.closed() => Ok(()),
            };
            if let Err(error) = ended {
                sender.end(to_status(error)).await;
            }
        });
        Box::pin(reader)
    }

    /// Runs `work`, which reads a stream of the peer's. It ends with the broker's shutdown, and with
    /// the peer's certificate.
    async fn guarded<T>(
        &self,
        peer: PeerIdentity,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            ended = work => ended,
            () = self.shutdown.cancelled() => Err(stopping()),
            () = self.revocation.clone().revoked(peer) => Err(revoked()),
        }
    }
}

/// Work that answers a stream.
trait AsyncAnswers<T>: Send {
    /// Answers that may wait for a slow reader before its next question is read.
    fn ahead(&self) -> usize {
        4
    }

    /// Runs until everything is answered, or the reader is gone.
    fn run(self, answers: Sender<T>) -> impl Future<Output = Result<()>> + Send;
}

/// Runs a use case to its end, whether or not its caller still waits.
///
/// A call is dropped wherever it stands when its caller hangs up. Between the commit of a
/// withdrawal and the unmapping of its filter, or of hits and the waking of their watchers, that
/// must not happen.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.map_err(Error::internal)?
}

fn stopping() -> Error {
    Error::new(
        ErrorCode::Unavailable,
        "the broker is stopping; connect again in a moment",
    )
    .retry_after(std::time::Duration::from_secs(1))
}

fn revoked() -> Error {
    Error::new(
        ErrorCode::CertificateRevoked,
        "the certificate has been revoked",
    )
}

/// The identity that [`Api::check`] found.
fn peer<T>(request: &Request<T>) -> Result<PeerIdentity> {
    request
        .extensions()
        .get::<PeerIdentity>()
        .cloned()
        .ok_or_else(|| Error::new(ErrorCode::IdentityMissing, "who calls is not known"))
}

/// Who calls.
fn spiffe<T>(request: &Request<T>) -> Result<SpiffeId> {
    peer(request).map(|peer| peer.spiffe().clone())
}

/// A calling node.
fn node<T>(request: &Request<T>) -> Result<NodeId> {
    peer(request)?
        .spiffe()
        .node()
        .ok_or_else(|| forbidden("a node"))
}

/// A calling operator, by name.
fn operator<T>(request: &Request<T>) -> Result<String> {
    let peer = peer(request)?;
    match peer.spiffe().role() {
        Role::Operator => Ok(peer.spiffe().name().to_owned()),
        _ => Err(forbidden("an operator")),
    }
}

/// A calling node, or `None` for an operator.
fn node_or_operator<T>(request: &Request<T>) -> Result<Option<NodeId>> {
    let peer = peer(request)?;
    match peer.spiffe().role() {
        Role::Operator => Ok(None),
        _ => peer
            .spiffe()
            .node()
            .map(Some)
            .ok_or_else(|| forbidden("a node or an operator")),
    }
}

/// A calling node, or `None` for one who reads what all nodes do: an operator or auditor.
fn node_or_reader<T>(request: &Request<T>) -> Result<Option<NodeId>> {
    let peer = peer(request)?;
    match peer.spiffe().role() {
        Role::Operator | Role::Auditor => Ok(None),
        _ => peer
            .spiffe()
            .node()
            .map(Some)
            .ok_or_else(|| forbidden("a node, an operator or an auditor")),
    }
}

/// A calling operator or auditor.
fn reader<T>(request: &Request<T>) -> Result<()> {
    match peer(request)?.spiffe().role() {
        Role::Operator | Role::Auditor => Ok(()),
        _ => Err(forbidden("an operator or an auditor")),
    }
}

/// A calling auditor.
fn auditor<T>(request: &Request<T>) -> Result<PeerIdentity> {
    let peer = peer(request)?;
    match peer.spiffe().role() {
        Role::Auditor => Ok(peer),
        _ => Err(forbidden("an auditor")),
    }
}

/// A calling node, or `None` for an auditor.
fn node_or_auditor<T>(request: &Request<T>) -> Result<Option<NodeId>> {
    let peer = peer(request)?;
    match peer.spiffe().role() {
        Role::Auditor => Ok(None),
        _ => peer
            .spiffe()
            .node()
            .map(Some)
            .ok_or_else(|| forbidden("a node or an auditor")),
    }
}

fn forbidden(who: &str) -> Error {
    Error::new(ErrorCode::RoleForbidden, format!("this call is for {who}"))
}

/// An optional policy: empty = none.
fn optional_policy(name: &str) -> Result<Option<Policy>> {
    if name.is_empty() {
        Ok(None)
    } else {
        policy(name).map(Some)
    }
}
