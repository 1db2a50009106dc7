//! Reading a stored tree, tile by tile: so that no tree is ever whole in memory.

use std::collections::BTreeMap;
use std::error::Error;

use super::merkle::MerkleHash;
use super::tile::Tile;

/// Where tiles are read from.
pub trait TileReader {
    /// Why a tile could not be read.
    type Error: Error + Send + Sync + 'static;

    /// The bytes of a tile, or of a wider version of it: partial tiles may be gone once the full
    /// one is there (c2sp.org/tlog-tiles).
    ///
    /// # Errors
    /// If it could not be read.
    fn read_tile(&self, tile: Tile) -> Result<Vec<u8>, Self::Error>;
}

impl<R: TileReader + ?Sized> TileReader for &R {
    type Error = R::Error;

    fn read_tile(&self, tile: Tile) -> Result<Vec<u8>, Self::Error> {
        (**self).read_tile(tile)
    }
}

/// Why nothing could be computed from a stored tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError<E: Error + 'static> {
    /// An index or a size that the tree does not have.
    #[error("the index or the size is outside the tree")]
    Outside,
    /// Bytes that are no tile, or have too few hashes.
    #[error("what is stored as {0} is no such tile")]
    Malformed(Tile),
    /// A tile could not be read.
    #[error("a tile could not be read")]
    Read(#[source] E),
}

/// The hashes of one tile.
pub(super) fn read<R: TileReader>(
    tiles: &R,
    tile: Tile,
) -> Result<Vec<MerkleHash>, TreeError<R::Error>> {
    let bytes = tiles.read_tile(tile).map_err(TreeError::Read)?;
    tile.hashes(&bytes).ok_or(TreeError::Malformed(tile))
}

/// Tiles that were read beforehand: for those who cannot wait for one at a time.
#[derive(Clone, Default, Debug)]
pub struct TileSet(BTreeMap<(u8, u64), Vec<u8>>);

/// A tile that is not in a [`TileSet`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} was not read beforehand")]
pub struct MissingTile(pub Tile);

impl TileSet {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the bytes of a tile; of two versions of one tile the wider stays.
    pub fn insert(&mut self, tile: Tile, bytes: Vec<u8>) {
        let held = self.0.entry((tile.level(), tile.index())).or_default();
        if bytes.len() >= held.len() {
            *held = bytes;
        }
    }
}

impl TileReader for TileSet {
    type Error = MissingTile;

    fn read_tile(&self, tile: Tile) -> Result<Vec<u8>, MissingTile> {
        let held = self.0.get(&(tile.level(), tile.index()));
        held.cloned().ok_or(MissingTile(tile))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_keeps_the_widest_version_of_a_tile() {
        let [one, two] = [1, 2].map(|width| Tile::new(0, 7, width).unwrap());
        let mut tiles = TileSet::new();
        assert_eq!(tiles.read_tile(one), Err(MissingTile(one)));
        tiles.insert(two, vec![2; 64]);
        tiles.insert(one, vec![1; 32]);
        assert_eq!(tiles.read_tile(one).unwrap(), vec![2; 64]);
        assert_eq!(read(&tiles, one).unwrap(), [MerkleHash::new([2; 32])]);
    }

    #[test]
    fn bytes_that_are_no_tile_are_refused() {
        let tile = Tile::new(0, 0, 3).unwrap();
        let mut tiles = TileSet::new();
        tiles.insert(tile, vec![0; 95]);
        assert!(matches!(read(&tiles, tile), Err(TreeError::Malformed(bad)) if bad == tile));
    }
}
