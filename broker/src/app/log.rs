//! The audit log (protocol §11): its places, its checkpoints, its proofs, and who may read what.
//!
//! The transaction of an action puts its entry ([`super::journal`]); everything here comes after it,
//! in transactions of its own, and keeps no action waiting.

mod checkpoints;
mod identity;
mod proofs;
mod reading;
mod retention;
#[cfg(test)]
mod tests;
mod tiles;

use std::collections::HashMap;

use scoped_futures::ScopedFutureExt as _;
use sotto_common::dsse::SigningKey;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, EntryId};
use sotto_common::log::checkpoint::LogSigner;
use sotto_common::log::origin::{LogName, LogOrigin};
use sotto_common::log::reader::TileSet;
use sotto_common::log::tile::Tile;
use tokio::sync::Mutex;

use super::Broker;
use crate::datastore::{CheckpointRecord, Tx};

pub(crate) use proofs::{Proved, prove};

/// Entries that get their places in one transaction.
const PLACES_AT_A_TIME: u32 = 1000;

/// Places that were given last and are kept in mind: more than calls wait for theirs.
const PLACES_KEPT: usize = 4000;

/// The logs of this broker's communities: one name and one key for all of them.
pub(crate) struct Log {
    name: LogName,
    /// Of the nodes that cosign.
    trust_domain: Box<str>,
    signing: SigningKey,
    /// Held while places are given out: who waits for it finds its place given, among those that
    /// were given last.
    sequencing: Mutex<HashMap<EntryId, u64>>,
}

impl Log {
    /// The logs under this name, with this key, cosigned by the nodes of this trust domain.
    pub(crate) fn new(name: LogName, trust_domain: &str, signing: SigningKey) -> Self {
        Self {
            name,
            trust_domain: trust_domain.into(),
            signing,
            sequencing: Mutex::default(),
        }
    }

    /// A log with a key of its own.
    #[cfg(test)]
    pub(super) fn of_tests() -> Self {
        let signing = SigningKey::generate(&mut sotto_common::random::os_rng());
        let name = "log.test".parse().expect("a name");
        Self::new(name, "sotto.test", signing)
    }

    fn origin(&self, community: &CommunityId) -> LogOrigin {
        LogOrigin::new(self.name.clone(), community.clone())
    }

    fn signer(&self, community: &CommunityId) -> LogSigner {
        LogSigner::new(self.origin(community), self.signing.clone())
    }
}

impl Broker {
    /// The place in the tree of an entry that was committed; it gets one if it has none yet.
    ///
    /// # Errors
    /// If the ledger cannot be written. The entry stays, and gets its place later.
    pub(super) async fn place(&self, community: &CommunityId, id: EntryId) -> Result<u64> {
        let mut given = self.log.sequencing.lock().await;
        if !given.contains_key(&id) {
            self.give_places(community, &mut given).await?;
        }
        let place = match given.get(&id) {
            Some(&place) => Some(place),
            // Another broker gave it, or this one long ago.
            None => self.known_place(id).await?,
        };
        place.ok_or_else(|| Error::internal("an entry of the log that was put has no place"))
    }

    /// Gives every entry its place that has none yet.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    pub(crate) async fn sequence(&self) -> Result<()> {
        let communities = self
            .store
            .read_tx("communities_to_sequence", |tx| {
                async move { tx.get_communities_to_sequence().await }.scope_boxed()
            })
            .await?;
        for community in &communities {
            let mut given = self.log.sequencing.lock().await;
            self.give_places(community, &mut given).await?;
        }
        Ok(())
    }

    async fn known_place(&self, id: EntryId) -> Result<Option<u64>> {
        self.store
            .read_tx("get_place", |tx| {
                async move { tx.get_place(id).await }.scope_boxed()
            })
            .await
    }

    async fn give_places(
        &self,
        community: &CommunityId,
        given: &mut HashMap<EntryId, u64>,
    ) -> Result<()> {
        if given.len() > PLACES_KEPT {
            given.clear();
        }
        loop {
            let placed = self
                .store
                .run_tx("sequence", |tx| {
                    async move { tx.update_places(community, PLACES_AT_A_TIME).await }.scope_boxed()
                })
                .await?;
            let is_last = placed.len() < PLACES_AT_A_TIME as usize;
            given.extend(placed);
            if is_last {
                return Ok(());
            }
        }
    }
}

/// The latest checkpoint, cosigned or not.
///
/// # Errors
/// `LOG_UNKNOWN` if there is none yet.
async fn latest(tx: &mut (dyn Tx + '_), community: &CommunityId) -> Result<CheckpointRecord> {
    let latest = tx.get_checkpoint(community, 0).await?;
    latest.ok_or_else(|| log_unknown("the log has no checkpoint yet"))
}

/// How many leaves the latest checkpoint has; 0 without one.
async fn signed_size(tx: &mut (dyn Tx + '_), community: &CommunityId) -> Result<u64> {
    let latest = tx.get_checkpoint(community, 0).await?;
    Ok(latest.map_or(0, |latest| latest.size))
}

/// These tiles as they are stored, or wider; one that is not there is missing in the set.
///
/// # Errors
/// If the ledger cannot be read.
pub(crate) async fn tile_set(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
    tiles: &[Tile],
) -> Result<TileSet> {
    let mut set = TileSet::new();
    for tile in tiles {
        let stored = tx.get_tile(community, tile.level(), tile.index()).await?;
        if let Some(bytes) = stored {
            set.insert(*tile, bytes);
        }
    }
    Ok(set)
}

fn log_unknown(text: &'static str) -> Error {
    Error::new(ErrorCode::LogUnknown, text)
}

/// The same for what is not there and for what is not the caller's.
fn leaf_unknown() -> Error {
    let text = "beyond the latest checkpoint of the log, or an entry of others";
    Error::new(ErrorCode::LeafUnknown, text)
}
