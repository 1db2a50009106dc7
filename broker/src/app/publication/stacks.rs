//! The active filters: mapped after a start, switched, ended by time, deleted (protocol §5.4, §6).

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use scoped_futures::ScopedFutureExt as _;
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, Result};
use sotto_common::ids::{CommunityId, Epoch, NodeId};
use sotto_common::membership::EpochState;
use sotto_common::publication::PublicationState;

use super::checks::header_of;
use crate::app::{Broker, blocking, known_epoch};
use crate::datastore::{PublicationRecord, StackKey};
use crate::matcher::{Layer, LayerFacts, MappedFilter};

impl Broker {
    /// Brings the files in line with the ledger after a stop of any kind, and maps what is active.
    pub(in crate::app) async fn recover_filters(&self) -> Result<()> {
        let (active, uploading) = self
            .store
            .read_tx("recover_filters", |tx| {
                async move {
                    let active = tx.get_publications_in(PublicationState::Active).await?;
                    let uploading = tx.get_publications_in(PublicationState::Uploading).await?;
                    Ok((active, uploading))
                }
                .scope_boxed()
            })
            .await?;
        for record in &uploading {
            // Sealed, but the stop came before its activation: its bits are an upload again.
            if self.files.exists(record.id, &record.digest) {
                self.files.unseal(record.id, &record.digest)?;
            }
        }
        let uploads = uploading.iter().map(|record| record.id).collect();
        let filters = active.iter().map(|record| (record.id, record.digest));
        let filters: HashSet<_> = filters.collect();
        let swept = self
            .files
            .sweep(&uploads, &filters)
            .map_err(Error::internal)?;
        let mapped = active.len();
        for record in active {
            let layer = self.layer(&record, true).await?;
            self.map(&record, layer);
        }
        tracing::info!(
            mapped,
            uploads = uploading.len(),
            swept,
            "filters recovered"
        );
        Ok(())
    }

    /// Ends the publications whose time is over.
    pub(in crate::app) async fn expire_publications(&self) -> Result<()> {
        let now = self.now();
        for state in [PublicationState::Active, PublicationState::Uploading] {
            self.end_publications("expire_publications", state, |record| {
                record.expires_at <= now
            })
            .await?;
        }
        for (community, epoch) in self.ended_epochs_with_filters().await? {
            self.delete_filters_of(&community, epoch).await?;
        }
        Ok(())
    }

    /// Epochs that have ended and still have filters: the broker stopped between the two.
    async fn ended_epochs_with_filters(&self) -> Result<BTreeSet<(CommunityId, Epoch)>> {
        self.store
            .run_tx("ended_epochs_with_filters", |tx| {
                async move {
                    let mut epochs = BTreeSet::new();
                    for state in [PublicationState::Active, PublicationState::Uploading] {
                        let records = tx.get_publications_in(state).await?;
                        epochs.extend(records.into_iter().map(|r| (r.key.community, r.key.epoch)));
                    }
                    let mut ended = BTreeSet::new();
                    for (community, epoch) in epochs {
                        let record = known_epoch(tx, &community, epoch).await?;
                        if record.state == EpochState::Ended {
                            ended.insert((community, epoch));
                        }
                    }
                    Ok(ended)
                }
                .scope_boxed()
            })
            .await
    }

    /// Ends all publications of an epoch; its filters are deleted (protocol §8).
    pub(in crate::app) async fn delete_filters_of(
        &self,
        community: &CommunityId,
        epoch: Epoch,
    ) -> Result<()> {
        for state in [PublicationState::Active, PublicationState::Uploading] {
            self.end_publications("end_publications", state, |record| {
                record.key.community == *community && record.key.epoch == epoch
            })
            .await?;
        }
        Ok(())
    }

    async fn end_publications(
        &self,
        name: &'static str,
        state: PublicationState,
        which: impl Fn(&PublicationRecord) -> bool + Sync,
    ) -> Result<()> {
        let exclusive = self.matching.write().await;
        let which = &which;
        let gone = self
            .store
            .run_tx(name, |tx| {
                async move {
                    let mut gone = tx.get_publications_in(state).await?;
                    gone.retain(which);
                    for record in &gone {
                        let expired = record.state.transition(PublicationState::Expired)?;
                        tx.update_publication(record.id, expired, record.fpr)
                            .await?;
                    }
                    Ok(gone)
                }
                .scope_boxed()
            })
            .await?;
        for record in &gone {
            self.unmap(&record.key, &record.holder, std::slice::from_ref(record));
        }
        drop(exclusive);
        self.delete_files(gone).await
    }

    /// Opens a sealed filter; `verify` reads it whole and compares its digest.
    pub(super) async fn layer(
        &self,
        record: &PublicationRecord,
        verify: bool,
    ) -> Result<Arc<Layer>> {
        let header = header_of(record)?;
        let (path, digest) = (self.files.path(record.id, &record.digest), record.digest);
        let length = header.params.byte_len();
        let bits = blocking(move || {
            let bits = MappedFilter::open(&path, length).map_err(Error::internal)?;
            if verify && Sha256::digest(bits.bytes())[..] != digest {
                return Err(Error::internal("a filter file is not what was published"));
            }
            Ok(bits)
        })
        .await?;
        let facts = LayerFacts {
            publication: record.id,
            version: record.version,
            audience: header.audience,
            params: header.params,
            salt: header.salt,
            fpr: record.fpr,
            expires_at: record.expires_at,
        };
        Ok(Arc::new(Layer::new(facts, bits)))
    }

    pub(super) fn map(&self, record: &PublicationRecord, layer: Arc<Layer>) {
        let mut layers = self.matcher.stack(&record.key, &record.holder);
        layers.push(layer);
        self.matcher.set_stack(&record.key, &record.holder, layers);
    }

    pub(super) fn unmap(&self, key: &StackKey, holder: &NodeId, gone: &[PublicationRecord]) {
        let mut layers = self.matcher.stack(key, holder);
        layers.retain(|layer| !gone.iter().any(|record| record.id == layer.publication));
        self.matcher.set_stack(key, holder, layers);
    }

    pub(super) async fn delete_files(&self, gone: Vec<PublicationRecord>) -> Result<()> {
        let files = self.files.clone();
        blocking(move || {
            for record in gone {
                files.delete_upload(record.id);
                files.delete(record.id, &record.digest);
                tracing::info!(publication = %record.id, holder = %record.holder, "filter deleted");
            }
            Ok(())
        })
        .await
    }
}
