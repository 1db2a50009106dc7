//! A broker that has nothing but a log, and can be made to tell another history of it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt as _};
use sotto_common::dsse::SigningKey;
use sotto_common::error::{Error, ErrorCode};
use sotto_common::ids::Role;
use sotto_common::log::checkpoint::{LogKey, LogSigner};
use sotto_common::log::edge::RightEdge;
use sotto_common::log::merkle::MerkleHash;
use sotto_common::log::proof::ProofPlan;
use sotto_common::log::reader::TileSet;
use sotto_common::random::os_rng;
use sotto_common::service::tls::{ConnectionLimits, Tls, server_builder};
use sotto_proto::status::to_status;
use sotto_proto::v1;
use sotto_proto::v1::log_service_server::{LogService, LogServiceServer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, async_trait};

use crate::{COMMUNITY, Lab};

/// The log of a broker that may lie.
pub struct Liar {
    signer: LogSigner,
    leaves: watch::Sender<Vec<MerkleHash>>,
    taken: Mutex<Vec<u64>>,
    address: SocketAddr,
}

impl Liar {
    /// A broker on a free port, with a certificate of the laboratory; its log is empty.
    pub async fn start(lab: &Lab) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let origin = format!("liar.example/sotto/{COMMUNITY}");
        let origin = origin.parse().expect("an origin");
        let liar = Arc::new(Self {
            signer: LogSigner::new(origin, SigningKey::generate(&mut os_rng())),
            leaves: watch::Sender::default(),
            taken: Mutex::default(),
            address,
        });
        let tls = Tls::load(lab.install(Role::Broker, "liar")).expect("usable TLS files");
        let limits = ConnectionLimits::default();
        let serving = server_builder(&limits)
            .add_service(LogServiceServer::from_arc(Arc::clone(&liar)))
            .serve_with_incoming(tls.incoming(listener, limits));
        tokio::spawn(serving);
        liar
    }

    /// Where it listens, as clients write it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The key of its log.
    pub fn log_key(&self) -> &LogKey {
        self.signer.key()
    }

    /// The tree has these many leaves of a history from now on, and whoever watches is told.
    pub fn tell(&self, history: u8, size: u8) {
        let leaves = (0..size).map(|n| MerkleHash::of_leaf(&[history, n]));
        self.leaves.send_replace(leaves.collect());
    }

    /// The sizes of the checkpoints that were cosigned, in their order.
    pub fn cosigned(&self) -> Vec<u64> {
        self.taken.lock().expect("lock").clone()
    }

    /// The signed note of the tree as it is told now.
    pub fn note(&self) -> Vec<u8> {
        note(&self.signer, &self.leaves.borrow())
    }
}

fn tree(leaves: &[MerkleHash]) -> (TileSet, RightEdge) {
    let (mut tiles, mut edge) = (TileSet::new(), RightEdge::new());
    for new in edge.append(leaves.iter().copied()) {
        tiles.insert(new.tile, new.bytes);
    }
    (tiles, edge)
}

fn note(signer: &LogSigner, leaves: &[MerkleHash]) -> Vec<u8> {
    signer.sign(tree(leaves).1.head()).to_string().into_bytes()
}

fn none<T>() -> Result<Response<T>, Status> {
    Err(to_status(Error::new(ErrorCode::LogUnknown, "none")))
}

#[async_trait]
impl LogService for Liar {
    type WatchCheckpointsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchCheckpointsResponse, Status>> + Send>>;

    async fn watch_checkpoints(
        &self,
        _: Request<v1::WatchCheckpointsRequest>,
    ) -> Result<Response<Self::WatchCheckpointsStream>, Status> {
        let signer = self.signer.clone();
        let told = WatchStream::new(self.leaves.subscribe()).map(move |leaves| {
            let note = note(&signer, &leaves).into();
            Ok(v1::WatchCheckpointsResponse { note })
        });
        Ok(Response::new(told.boxed()))
    }

    async fn get_checkpoint(
        &self,
        _: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        none()
    }

    async fn prove_consistency(
        &self,
        request: Request<v1::ProveConsistencyRequest>,
    ) -> Result<Response<v1::ProveConsistencyResponse>, Status> {
        let request = request.into_inner();
        let plan = ProofPlan::consistency(request.from_size, request.to_size).expect("sizes");
        let leaves = self.leaves.borrow().clone();
        let proof = plan.prove(&tree(&leaves).0).expect("proved");
        let hash = |hash: &MerkleHash| hash.as_bytes().to_vec().into();
        Ok(Response::new(v1::ProveConsistencyResponse {
            hashes: proof.iter().map(hash).collect(),
        }))
    }

    async fn submit_cosignature(
        &self,
        request: Request<v1::SubmitCosignatureRequest>,
    ) -> Result<Response<v1::SubmitCosignatureResponse>, Status> {
        let size = request.into_inner().tree_size;
        self.taken.lock().expect("lock").push(size);
        Ok(Response::new(v1::SubmitCosignatureResponse {}))
    }

    async fn prove_inclusion(
        &self,
        _: Request<v1::ProveInclusionRequest>,
    ) -> Result<Response<v1::ProveInclusionResponse>, Status> {
        none()
    }

    async fn prove_hits(
        &self,
        _: Request<v1::ProveHitsRequest>,
    ) -> Result<Response<v1::ProveHitsResponse>, Status> {
        none()
    }

    async fn prove_follow_up(
        &self,
        _: Request<v1::ProveFollowUpRequest>,
    ) -> Result<Response<v1::ProveFollowUpResponse>, Status> {
        none()
    }

    async fn get_entry(
        &self,
        _: Request<v1::GetEntryRequest>,
    ) -> Result<Response<v1::GetEntryResponse>, Status> {
        none()
    }
}
