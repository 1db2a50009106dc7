//! The log as files below a path: c2sp.org/tlog-tiles.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::ids::CommunityId;
use sotto_common::log::bundle;
use sotto_common::log::tile::{Tile, TilePath};

use super::checkpoints::note_of;
use super::signed_size;
use crate::app::Broker;
use crate::datastore::Tx;

impl Broker {
    /// The latest checkpoint as anybody may read it; `None` if there is none.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub(crate) async fn public_checkpoint(
        &self,
        community: &CommunityId,
    ) -> Result<Option<String>> {
        let checkpoint = self
            .store
            .read_tx("public_checkpoint", |tx| {
                async move { tx.get_checkpoint(community, 0).await }.scope_boxed()
            })
            .await?;
        Ok(checkpoint.as_ref().map(note_of))
    }

    /// A tile, or the leaves under one; `None` if the latest checkpoint does not have it.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub(crate) async fn public_tile(
        &self,
        community: &CommunityId,
        path: TilePath,
    ) -> Result<Option<Vec<u8>>> {
        self.store
            .read_tx("public_tile", |tx| {
                async move {
                    let (TilePath::Hashes(tile) | TilePath::Entries(tile)) = path;
                    let size = signed_size(tx, community).await?;
                    let signed = Tile::of_tree(tile.level(), tile.index(), size);
                    if signed.is_none_or(|signed| signed.width() < tile.width()) {
                        return Ok(None);
                    }
                    let bytes = match path {
                        TilePath::Hashes(_) => hashes(tx, community, tile).await,
                        TilePath::Entries(_) => leaves(tx, community, tile).await,
                    };
                    bytes.map(Some)
                }
                .scope_boxed()
            })
            .await
    }
}

/// The tile, cut from the wider one that is stored.
async fn hashes(tx: &mut (dyn Tx + '_), community: &CommunityId, tile: Tile) -> Result<Vec<u8>> {
    let stored = tx.get_tile(community, tile.level(), tile.index()).await?;
    let hashes = stored.and_then(|bytes| tile.hashes(&bytes));
    let hashes =
        hashes.ok_or_else(|| Error::internal(format!("{tile} is not as it was signed")))?;
    Ok(hashes.iter().flat_map(|hash| *hash.as_bytes()).collect())
}

async fn leaves(tx: &mut (dyn Tx + '_), community: &CommunityId, tile: Tile) -> Result<Vec<u8>> {
    let first = tile.index() * u64::from(Tile::FULL);
    let range = first..first + u64::from(tile.width());
    let leaves = tx.get_leaf_bytes(community, range).await?;
    let leaves: Vec<_> = leaves.into_iter().map(|(_, leaf)| leaf).collect();
    bundle::encode(tile, &leaves).map_err(Error::internal)
}
