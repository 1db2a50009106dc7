//! The end of publications (protocol §5.4, §6).

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::thread::available_parallelism;

use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _};
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, Epoch, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::membership::EpochState;
use sotto_common::publication::PublicationState;
use sotto_common::time::Timestamp;

use super::checks::header_of;
use crate::app::journal::{self, Journal, about};
use crate::app::{Broker, known_epoch};
use crate::cache::Trust;
use crate::datastore::{PublicationRecord, Tx};
use crate::matcher::{Layer, LayerFacts, MappedFilter};
use crate::objects::ObjectKey;

/// What a transaction has moved.
pub(super) struct Moves {
    /// The generation that it began; 0 if nothing moved.
    pub(super) generation: u64,
    /// What is of no use once every broker has caught up with it.
    pub(super) objects: Vec<ObjectKey>,
}

impl Moves {
    /// Nothing moved, but this is of no use any more.
    pub(super) fn of(objects: impl IntoIterator<Item = ObjectKey>) -> Self {
        Self {
            generation: 0,
            objects: objects.into_iter().collect(),
        }
    }
}

/// How publications end, and who ends them.
pub(super) struct Ending<'a> {
    pub(super) journal: &'a Journal,
    /// The holder; `None` = the broker by itself.
    pub(super) by: Option<&'a NodeId>,
    pub(super) action: Action,
    pub(super) state: PublicationState,
    /// Why, if there is something to say.
    pub(super) why: &'static str,
    pub(super) now: Timestamp,
}

impl Ending<'_> {
    /// The entry of the end of a publication.
    fn entry(&self, record: &PublicationRecord) -> Result<Entry> {
        let community = &record.key.community;
        let entry = match self.by {
            Some(node) => self
                .journal
                .by_node(node, self.action, community, self.now)?,
            None => self.journal.by_broker(self.action, community, self.now),
        };
        Ok(Entry {
            change: Some(journal::change(record.state.as_str(), self.state.as_str())),
            detail: self.why.to_owned(),
            ..about::publication(entry, record)
        })
    }
}

/// Ends publications, and forgets their headers, with them their salts, and their chunks.
pub(super) async fn end(
    tx: &mut (dyn Tx + '_),
    gone: Vec<PublicationRecord>,
    ending: &Ending<'_>,
) -> Result<Moves> {
    let mut moves = Moves::of([]);
    if gone.is_empty() {
        return Ok(moves);
    }
    moves.generation = tx.update_generation().await?;
    for record in gone {
        tx.update_publication(&record.moved(ending.state, moves.generation)?)
            .await?;
        journal::put(tx, &ending.entry(&record)?).await?;
        let chunks = tx.get_chunks(record.id).await?;
        moves.objects.extend(record.object);
        moves
            .objects
            .extend(chunks.into_iter().map(|chunk| chunk.object));
        tx.delete_chunks(record.id).await?;
    }
    Ok(moves)
}

impl Broker {
    /// Ends the publications whose time is over.
    pub(crate) async fn expire_publications(&self) -> Result<()> {
        let now = self.now();
        let action = Action::ExpirePublication;
        self.end_publications("expire_publications", action, |record| {
            record.expires_at <= now
        })
        .await?;
        for (community, epoch) in self.ended_epochs_with_filters().await? {
            self.delete_filters_of(&community, epoch).await?;
        }
        Ok(())
    }

    /// Epochs that have ended and still have filters: the broker stopped between the two.
    async fn ended_epochs_with_filters(&self) -> Result<BTreeSet<(CommunityId, Epoch)>> {
        self.store
            .read_tx("ended_epochs_with_filters", |tx| {
                async move {
                    let standing = standing(tx).await?;
                    let epochs: BTreeSet<_> = standing
                        .into_iter()
                        .map(|record| (record.key.community, record.key.epoch))
                        .collect();
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

    /// Ends all publications of an epoch, which match nothing at any broker once this returns;
    /// their filters are deleted (protocol §8).
    pub(in crate::app) async fn delete_filters_of(
        &self,
        community: &CommunityId,
        epoch: Epoch,
    ) -> Result<()> {
        let action = Action::ExpirePublication;
        self.end_publications("end_publications", action, |record| {
            record.key.community == *community && record.key.epoch == epoch
        })
        .await
    }

    async fn end_publications(
        &self,
        name: &'static str,
        action: Action,
        which: impl Fn(&PublicationRecord) -> bool + Sync,
    ) -> Result<()> {
        let which = &which;
        let any = self
            .store
            .read_tx(name, |tx| {
                async move { Ok(standing(tx).await?.iter().any(which)) }.scope_boxed()
            })
            .await?;
        if !any {
            return Ok(());
        }
        let ending = &Ending {
            journal: &self.journal,
            by: None,
            action,
            state: PublicationState::Expired,
            why: "",
            now: self.now(),
        };
        let moves = self
            .store
            .run_tx(name, |tx| {
                async move {
                    let mut gone = standing(tx).await?;
                    gone.retain(which);
                    end(tx, gone, ending).await
                }
                .scope_boxed()
            })
            .await?;
        self.until_all_match(moves.generation).await?;
        self.delete_objects(moves).await;
        Ok(())
    }

    /// Ends the publications whose filters are missing in the object store, or not what was
    /// published, and of which there is no copy: their holders publish again. For one start after a
    /// backup was restored; nothing else ends what a holder has published.
    pub(in crate::app) async fn end_lost_filters(&self) -> Result<()> {
        let active = self
            .store
            .read_tx("active_publications", |tx| {
                async move { tx.get_publications_in(PublicationState::Active).await }.scope_boxed()
            })
            .await?;
        let compared: Vec<_> = active
            .iter()
            .map(|record| self.bits(record).map(move |bits| (record, bits)).boxed())
            .collect();
        let cores = available_parallelism().map_or(1, usize::from);
        let mut compared = stream::iter(compared).buffer_unordered(cores);
        let mut lost = HashSet::new();
        while let Some((record, bits)) = compared.next().await {
            match bits {
                Err(error) if error.code == ErrorCode::Internal => {
                    tracing::warn!(publication = %record.id, holder = %record.holder,
                        policy = %record.key.policy, "its filter is lost: the publication is ended");
                    lost.insert(record.id);
                }
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        let action = Action::LosePublication;
        self.end_publications("end_lost", action, |record| lost.contains(&record.id))
            .await
    }

    /// The filter of an active publication: compared with its digest, fetched if need be.
    pub(in crate::app) async fn layer(&self, record: &PublicationRecord) -> Result<Arc<Layer>> {
        let bits = self.bits(record).await?;
        Ok(Arc::new(Layer::new(facts_of(record)?, bits)))
    }

    /// As [`Self::layer`], of a start that waits for no digest: the layer of a copy of which nothing
    /// is known is awaited, until [`Self::verify_copies`] has compared it.
    pub(in crate::app) async fn layer_at_once(
        &self,
        record: &PublicationRecord,
    ) -> Result<Arc<Layer>> {
        let length = length_of(record)?;
        let copy = self
            .cache
            .as_it_is(record.id, length, &record.digest)
            .await?;
        let layer = match copy {
            Some((_, Trust::Unknown)) => Layer::awaited(facts_of(record)?),
            Some((bits, Trust::Closed | Trust::Verified)) => Layer::new(facts_of(record)?, bits),
            None => return self.layer(record).await,
        };
        Ok(Arc::new(layer))
    }

    /// The bits of an active publication: compared with their digest, fetched if need be.
    pub(in crate::app) async fn bits(&self, record: &PublicationRecord) -> Result<MappedFilter> {
        let object = record.object.as_ref().ok_or_else(no_object)?;
        let length = length_of(record)?;
        self.cache
            .get(&self.objects, object, length, &record.digest)
            .await
            .map_err(|error| lost(record, error))
    }

    /// Deletes objects that nothing needs any more. A store that is away keeps no caller waiting.
    pub(super) async fn delete_objects(&self, moves: Moves) {
        self.delete_unneeded(moves.objects).await;
    }
}

/// Bytes of the filter of a publication.
pub(in crate::app) fn length_of(record: &PublicationRecord) -> Result<u64> {
    Ok(header_of(record)?.params.byte_len())
}

fn facts_of(record: &PublicationRecord) -> Result<LayerFacts> {
    let header = header_of(record)?;
    Ok(LayerFacts {
        publication: record.id,
        version: record.version,
        audience: header.audience,
        params: header.params,
        salt: header.salt,
        fpr: record.fpr,
        expires_at: record.expires_at,
    })
}

/// Publications that have not ended.
async fn standing(tx: &mut (dyn Tx + '_)) -> Result<Vec<PublicationRecord>> {
    let mut standing = tx.get_publications_in(PublicationState::Active).await?;
    standing.extend(tx.get_publications_in(PublicationState::Uploading).await?);
    Ok(standing)
}

/// Says which filter it is, and what can be done.
fn lost(record: &PublicationRecord, error: Error) -> Error {
    if error.code != ErrorCode::Internal {
        return error;
    }
    let why = error
        .source
        .map_or(error.text, |source| source.to_string().into());
    Error::internal(format!(
        "the filter of publication {} of {} for {}: {why}; restore the object store, or start once \
         with --end-lost-filters: its holder must then publish again",
        record.id, record.holder, record.key.policy
    ))
}

fn no_object() -> Error {
    Error::internal("an active publication without its object")
}
