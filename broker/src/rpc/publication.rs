//! `PublicationService`.

use std::sync::Arc;

use sotto_common::error::{Error, Result};
use sotto_common::ids::{CommunityId, NodeId, PublicationId};
use sotto_proto::convert::{epoch, id, text, to_timestamp};
use sotto_proto::status::{from_inbound, to_status};
use sotto_proto::v1;
use sotto_proto::v1::publication_service_server::PublicationService;
use tonic::{Request, Response, Status, Streaming};

use super::membership::{answer, given};
use super::{Answers, Api, AsyncAnswers, Sender, node, optional_policy, peer, to_the_end};
use crate::app::{Broker, CatalogueChange, CatalogueWatch};
use crate::datastore::PublicationRecord;

/// Most entries of the catalogue in one message.
const MAX_ENTRIES: usize = 1000;

#[tonic::async_trait]
impl PublicationService for Api {
    type UploadPublicationStream = Answers<v1::UploadPublicationResponse>;

    async fn create_publication(
        &self,
        request: Request<v1::CreatePublicationRequest>,
    ) -> Result<Response<v1::CreatePublicationResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let header = given("header", message.header)?;
            let (acknowledged, state) = self
                .broker
                .create_publication(&caller, &community, &header)
                .await?;
            let state = v1::PublicationState::from(state).into();
            Ok(v1::CreatePublicationResponse {
                acknowledged,
                state,
            })
        })
    }

    async fn upload_publication(
        &self,
        request: Request<Streaming<v1::UploadPublicationRequest>>,
    ) -> Result<Response<Self::UploadPublicationStream>, Status> {
        answer!({
            let (caller, peer) = (node(&request)?, peer(&request)?);
            let broker = Arc::clone(&self.broker);
            let chunks = request.into_inner();
            Ok(self.stream(
                peer,
                Upload {
                    broker,
                    caller,
                    chunks,
                },
            ))
        })
    }

    async fn activate_publication(
        &self,
        request: Request<v1::ActivatePublicationRequest>,
    ) -> Result<Response<v1::ActivatePublicationResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let publication = publication_id(&message.publication_id)?;
            let broker = Arc::clone(&self.broker);
            let activated = async move { broker.activate(&caller, &community, publication).await };
            let record = to_the_end(activated).await?;
            Ok(v1::ActivatePublicationResponse {
                publication: Some(publication_of(&record)),
            })
        })
    }

    async fn withdraw_publication(
        &self,
        request: Request<v1::WithdrawPublicationRequest>,
    ) -> Result<Response<v1::WithdrawPublicationResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let publication = publication_id(&message.publication_id)?;
            let broker = Arc::clone(&self.broker);
            let withdrawn = async move { broker.withdraw(&caller, &community, publication).await };
            to_the_end(withdrawn).await?;
            Ok(v1::WithdrawPublicationResponse {})
        })
    }

    type WatchCatalogueStream = Answers<v1::WatchCatalogueResponse>;

    async fn watch_catalogue(
        &self,
        request: Request<v1::WatchCatalogueRequest>,
    ) -> Result<Response<Self::WatchCatalogueStream>, Status> {
        answer!({
            let (caller, peer) = (node(&request)?, peer(&request)?);
            let community = text("community", &request.get_ref().community)?;
            let broker = Arc::clone(&self.broker);
            // Refusals come before the stream begins.
            let watch = broker.watch_catalogue(caller, community).await?;
            Ok(self.stream(peer, Catalogue { broker, watch }))
        })
    }

    async fn list_publications(
        &self,
        request: Request<v1::ListPublicationsRequest>,
    ) -> Result<Response<v1::ListPublicationsResponse>, Status> {
        answer!({
            let caller = node(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let policy = optional_policy(&message.policy)?;
            let number = epoch(message.epoch)?;
            let (records, versions) = self
                .broker
                .publications(&caller, &community, number, policy)
                .await?;
            let version =
                |(policy, version): (sotto_common::selector::Policy, u64)| v1::PolicyVersion {
                    policy: policy.name().to_owned(),
                    version,
                };
            Ok(v1::ListPublicationsResponse {
                publications: records.iter().map(publication_of).collect(),
                last_versions: versions.into_iter().map(version).collect(),
            })
        })
    }
}

/// One upload stream: chunk in, acknowledgement out.
struct Upload {
    broker: Arc<Broker>,
    caller: NodeId,
    chunks: Streaming<v1::UploadPublicationRequest>,
}

impl AsyncAnswers<v1::UploadPublicationResponse> for Upload {
    async fn run(mut self, answers: Sender<v1::UploadPublicationResponse>) -> Result<()> {
        let mut target: Option<(CommunityId, PublicationId)> = None;
        while let Some(chunk) = self.chunks.message().await.map_err(|s| from_inbound(&s))? {
            let (community, id) = match &target {
                Some(target) => target,
                None => target.insert((
                    text("community", &chunk.community)?,
                    publication_id(&chunk.publication_id)?,
                )),
            };
            if !chunk.publication_id.is_empty() && chunk.publication_id != id.as_bytes()[..] {
                return Err(Error::field("publication_id", "one publication a stream"));
            }
            let (broker, caller) = (Arc::clone(&self.broker), self.caller.clone());
            let (community, id) = (community.clone(), *id);
            let appended = async move {
                let v1::UploadPublicationRequest { offset, data, .. } = chunk;
                broker.append(&caller, &community, id, offset, data).await
            };
            let acknowledged = to_the_end(appended).await?;
            if !answers
                .send(v1::UploadPublicationResponse { acknowledged })
                .await
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// One node's catalogue stream.
struct Catalogue {
    broker: Arc<Broker>,
    watch: CatalogueWatch,
}

impl AsyncAnswers<v1::WatchCatalogueResponse> for Catalogue {
    async fn run(mut self, answers: Sender<v1::WatchCatalogueResponse>) -> Result<()> {
        loop {
            let first = !self.watch.has_begun();
            let changes = self.broker.catalogue_changes(&mut self.watch).await?;
            for message in messages(changes, first) {
                if !answers.send(message).await {
                    return Ok(());
                }
            }
        }
    }
}

/// Changes in messages of bounded length, one at least. `first`: they are the catalogue as it stood
/// at the beginning.
fn messages(changes: Vec<CatalogueChange>, first: bool) -> Vec<v1::WatchCatalogueResponse> {
    let mut entries = changes.into_iter().map(entry_of).peekable();
    let mut messages = Vec::new();
    loop {
        let part = entries.by_ref().take(MAX_ENTRIES).collect();
        let last = entries.peek().is_none();
        messages.push(v1::WatchCatalogueResponse {
            entries: part,
            complete: last || !first,
        });
        if last {
            return messages;
        }
    }
}

fn entry_of(change: CatalogueChange) -> v1::CatalogueEntry {
    let (epoch, policy, holder) = change.stack;
    let layers = change.layers.map(|layers| layers.as_bytes().to_vec());
    v1::CatalogueEntry {
        epoch: epoch.get(),
        policy: policy.name().to_owned(),
        holder: holder.to_string(),
        layers: layers.unwrap_or_default().into(),
    }
}

fn publication_id(bytes: &[u8]) -> Result<PublicationId> {
    id("publication_id", bytes, PublicationId::from_slice)
}

fn publication_of(record: &PublicationRecord) -> v1::Publication {
    v1::Publication {
        publication_id: record.id.as_bytes().to_vec().into(),
        epoch: record.key.epoch.get(),
        policy: record.key.policy.name().to_owned(),
        version: record.version,
        supplement_of: record.supplement_of,
        state: v1::PublicationState::from(record.state).into(),
        class: record.class.into(),
        false_positive_probability: record.fpr,
        expires_at: Some(to_timestamp(record.expires_at)),
    }
}

#[cfg(test)]
mod tests {
    use sotto_common::ids::Epoch;
    use sotto_common::selector::Policy;

    use super::*;

    fn gone(n: usize) -> CatalogueChange {
        let epoch = Epoch::new(1).expect("from 1");
        let holder = format!("nl-{n}").parse().expect("a node id");
        CatalogueChange {
            stack: (epoch, Policy::Phone, holder),
            layers: None,
        }
    }

    #[test]
    fn a_catalogue_is_told_in_bounded_messages_of_which_the_last_completes_it() {
        for (changes, lengths) in [
            (0, &[0][..]),
            (1000, &[1000]),
            (1001, &[1000, 1]),
            (2500, &[1000, 1000, 500]),
        ] {
            for first in [true, false] {
                let told = messages((0..changes).map(gone).collect(), first);
                let told_lengths: Vec<_> = told.iter().map(|m| m.entries.len()).collect();
                assert_eq!(told_lengths, lengths);
                for (i, message) in told.iter().enumerate() {
                    assert_eq!(message.complete, !first || i + 1 == told.len());
                }
                let mut entries = told.iter().flat_map(|message| &message.entries);
                assert!(entries.all(|entry| entry.layers.is_empty()));
            }
        }
    }
}
