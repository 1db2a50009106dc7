//! `LogService`.

use std::sync::Arc;
use std::time::Duration;

use prost::bytes::Bytes;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, FollowUpId, HitId, NodeId};
use sotto_common::log::merkle::{MerkleHash, TreeHead};
use sotto_proto::convert::{array, id, text};
use sotto_proto::status::to_status;
use sotto_proto::v1;
use sotto_proto::v1::log_service_server::LogService;
use tonic::{Request, Response, Status};

use super::membership::answer;
use super::{
    Answers, Api, AsyncAnswers, Sender, node, node_or_auditor, node_or_reader, peer, to_the_end,
};
use crate::app::{Broker, Proved};
use crate::datastore::LoggedRecord;

/// Hits of one question.
const MAX_HITS: usize = 256;

/// A watcher is told at most so often: the cosignatures of one checkpoint come one after the other.
const BETWEEN_NOTES: Duration = Duration::from_millis(250);

#[tonic::async_trait]
impl LogService for Api {
    type WatchCheckpointsStream = Answers<v1::WatchCheckpointsResponse>;

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        answer!({
            let (member, peer) = (node_or_reader(&request)?, peer(&request)?);
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let member = member.as_ref();
            self.log_read(peer.spiffe(), &community, "LogService/GetCheckpoint")
                .await?;
            let note = self
                .broker
                .checkpoint(member, &community, message.cosignatures)
                .await?;
            Ok(v1::GetCheckpointResponse { note: note.into() })
        })
    }

    async fn watch_checkpoints(
        &self,
        request: Request<v1::WatchCheckpointsRequest>,
    ) -> Result<Response<Self::WatchCheckpointsStream>, Status> {
        answer!({
            let (member, peer) = (node_or_reader(&request)?, peer(&request)?);
            let community = text("community", &request.get_ref().community)?;
            let call = "LogService/WatchCheckpoints";
            self.log_read(peer.spiffe(), &community, call).await?;
            let broker = Arc::clone(&self.broker);
            let watch = Watch {
                broker,
                member,
                community,
            };
            // Refusals come before the stream begins.
            watch.note().await?;
            Ok(self.stream(peer, watch))
        })
    }

    async fn prove_inclusion(
        &self,
        request: Request<v1::ProveInclusionRequest>,
    ) -> Result<Response<v1::ProveInclusionResponse>, Status> {
        answer!({
            let (member, peer) = (node_or_reader(&request)?, peer(&request)?);
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let member = member.as_ref();
            self.log_read(peer.spiffe(), &community, "LogService/ProveInclusion")
                .await?;
            let (index, size) = (message.leaf_index, message.tree_size);
            let proved = self
                .broker
                .prove_inclusion(member, &community, index, size)
                .await?;
            Ok(v1::ProveInclusionResponse {
                leaf: proved.record.leaf.into(),
                hashes: hashes_of(&proved.hashes),
            })
        })
    }

    async fn prove_consistency(
        &self,
        request: Request<v1::ProveConsistencyRequest>,
    ) -> Result<Response<v1::ProveConsistencyResponse>, Status> {
        answer!({
            let (member, peer) = (node_or_reader(&request)?, peer(&request)?);
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let member = member.as_ref();
            self.log_read(peer.spiffe(), &community, "LogService/ProveConsistency")
                .await?;
            let (from, to) = (message.from_size, message.to_size);
            let hashes = self
                .broker
                .prove_consistency(member, &community, from, to)
                .await?;
            Ok(v1::ProveConsistencyResponse {
                hashes: hashes_of(&hashes),
            })
        })
    }

    async fn submit_cosignature(
        &self,
        request: Request<v1::SubmitCosignatureRequest>,
    ) -> Result<Response<v1::SubmitCosignatureResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community: CommunityId = text("community", &message.community)?;
            let head = TreeHead {
                size: message.tree_size,
                root: MerkleHash::new(array("root", &message.root)?),
            };
            let broker = Arc::clone(&self.broker);
            to_the_end(async move {
                let line = &message.cosignature;
                broker
                    .submit_cosignature(&caller, &community, head, line)
                    .await
            })
            .await?;
            Ok(v1::SubmitCosignatureResponse {})
        })
    }

    async fn prove_hits(
        &self,
        request: Request<v1::ProveHitsRequest>,
    ) -> Result<Response<v1::ProveHitsResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            if message.hit_ids.len() > MAX_HITS {
                return Err(Error::field("hit_ids", format!("at most {MAX_HITS}")));
            }
            let hits = message.hit_ids.iter();
            let hits = hits
                .map(|hit| id("hit_ids", hit, HitId::from_slice))
                .collect::<Result<Vec<_>>>()?;
            let size = message.tree_size;
            let proved = self
                .broker
                .prove_hits(&caller, &community, &hits, size)
                .await?;
            let entries = proved.into_iter().map(proved_of).collect();
            Ok(v1::ProveHitsResponse { entries })
        })
    }

    async fn prove_follow_up(
        &self,
        request: Request<v1::ProveFollowUpRequest>,
    ) -> Result<Response<v1::ProveFollowUpResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let follow_up = id(
                "follow_up_id",
                &message.follow_up_id,
                FollowUpId::from_slice,
            )?;
            let size = message.tree_size;
            let proved = self
                .broker
                .prove_follow_up(&caller, &community, follow_up, size)
                .await?;
            let entries = proved.into_iter().map(proved_of).collect();
            Ok(v1::ProveFollowUpResponse { entries })
        })
    }

    async fn get_entry(
        &self,
        request: Request<v1::GetEntryRequest>,
    ) -> Result<Response<v1::GetEntryResponse>, Status> {
        answer!({
            let (caller, peer) = (node_or_auditor(&request)?, peer(&request)?);
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let caller = caller.as_ref();
            self.log_read(peer.spiffe(), &community, "LogService/GetEntry")
                .await?;
            let index = message.leaf_index;
            let record = self.broker.logged(caller, &community, index).await?;
            Ok(v1::GetEntryResponse {
                entry: Some(entry_of(record)),
            })
        })
    }
}

struct Watch {
    broker: Arc<Broker>,
    member: Option<NodeId>,
    community: CommunityId,
}

impl Watch {
    /// The newest checkpoint, if there is one yet.
    async fn note(&self) -> Result<Option<String>> {
        let member = self.member.as_ref();
        match self.broker.checkpoint(member, &self.community, 0).await {
            Err(error) if error.code == ErrorCode::LogUnknown => Ok(None),
            note => note.map(Some),
        }
    }
}

impl AsyncAnswers<v1::WatchCheckpointsResponse> for Watch {
    async fn run(self, answers: Sender<v1::WatchCheckpointsResponse>) -> Result<()> {
        let mut signal = self.broker.checkpoint_signal();
        let mut told = None;
        loop {
            // Marked as seen before the ledger is read: what is committed later wakes us again.
            signal.mark_unchanged();
            let note = self.note().await?;
            if let Some(note) = note.filter(|note| told.as_ref() != Some(note)) {
                told = Some(note.clone());
                let answer = v1::WatchCheckpointsResponse { note: note.into() };
                if !answers.send(answer).await {
                    return Ok(());
                }
                tokio::time::sleep(BETWEEN_NOTES).await;
            }
            if signal.changed().await.is_err() {
                return Ok(());
            }
        }
    }
}

fn proved_of(proved: Proved) -> v1::ProvedEntry {
    v1::ProvedEntry {
        hashes: hashes_of(&proved.hashes),
        entry: Some(entry_of(proved.record)),
    }
}

fn hashes_of(hashes: &[MerkleHash]) -> Vec<Bytes> {
    let hashes = hashes.iter();
    hashes.map(|hash| hash.as_bytes().to_vec().into()).collect()
}

/// An entry with its opening, if that was not erased.
pub(super) fn entry_of(record: LoggedRecord) -> v1::LoggedEntry {
    let opening = record.opening.as_ref();
    let nonce = opening.map(|opening| opening.nonce().secret().expose().to_vec());
    let entry = opening.map(|opening| opening.entry().to_vec());
    v1::LoggedEntry {
        leaf_index: record.index,
        leaf: record.leaf.into(),
        nonce: nonce.unwrap_or_default().into(),
        entry: entry.unwrap_or_default().into(),
    }
}
