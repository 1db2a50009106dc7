//! Filters of this node that are active at the broker and that the node knows nothing of: its store
//! was set back to a backup. They may match what the node does not hold any more.

use std::collections::BTreeSet;

use sotto_common::error::{Error, Result};
use sotto_common::ids::{Epoch, PublicationId};
use sotto_common::selector::Policy;
use sotto_proto::v1;

use crate::app::App;
use crate::broker::ask;

impl App {
    /// Compares what the broker has of this node, in every epoch that goes on, with what is known
    /// here. What is not known is withdrawn, or, where the node has something to publish, left to
    /// the base that takes its place: the stack is forgotten here, so that one is due.
    ///
    /// # Errors
    /// Those of the broker and of the store; what was done before stands.
    pub(crate) async fn replace_what_is_not_known(&self) -> Result<()> {
        let active = self.active_epoch().await?.manifest.epoch;
        let now = self.clock.now();
        // No layer becomes active meanwhile.
        let _turn = self.publishing.acquire().await.map_err(Error::internal)?;
        for stored in self.store.epochs().await? {
            if stored.draft || !stored.manifest.covers(now) {
                continue;
            }
            let epoch = stored.manifest.epoch;
            for policy in stored
                .manifest
                .profile
                .policies()
                .iter()
                .map(|row| row.policy)
            {
                let unknown = self.unknown_publications(epoch, policy).await?;
                if unknown.is_empty() {
                    continue;
                }
                let count = unknown.len();
                tracing::warn!(%policy, %epoch, count, "active filters that are not known here");
                if epoch == active && self.store.publishing(policy).await?.selectors > 0 {
                    self.store.forget_layers(policy, epoch).await?;
                } else {
                    for publication in unknown {
                        self.withdraw_layer(publication).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn unknown_publications(
        &self,
        epoch: Epoch,
        policy: Policy,
    ) -> Result<Vec<PublicationId>> {
        let request = v1::ListPublicationsRequest {
            community: self.community.to_string(),
            epoch: epoch.get(),
            policy: policy.name().to_owned(),
        };
        let answer = ask!(self.broker.publications(), list_publications, request).await?;
        // One that was activated, and the answer was lost, waits in the outbox.
        let waiting = self.store.outbox_item(policy).await?;
        let layers = self.store.layers(policy).await?;
        let known: BTreeSet<PublicationId> = layers
            .into_iter()
            .map(|layer| layer.publication)
            .chain(waiting.map(|item| item.header.publication))
            .collect();
        let active = answer.publications.into_iter();
        let active = active.filter(|p| p.state() == v1::PublicationState::Active);
        let ids = active.map(|p| PublicationId::from_slice(&p.publication_id));
        let ids = ids
            .collect::<Result<Vec<_>, _>>()
            .map_err(Error::internal)?;
        Ok(ids.into_iter().filter(|id| !known.contains(id)).collect())
    }
}
