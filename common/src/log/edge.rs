//! The right edge of a tree: all that is needed to append to it and to know its root.

use super::merkle::{MAX_TREE_SIZE, MerkleHash, TreeHead};
use super::reader::{TileReader, TreeError, read};
use super::subtree::{cover, join};
use super::tile::{Tile, hashes_at};

/// A tile that a tree has gained, with its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTile {
    /// Where it stands.
    pub tile: Tile,
    /// Its hashes one after the other.
    pub bytes: Vec<u8>,
}

/// The partial tiles of a tree, one a level: at most 8 times 255 hashes, however large the tree.
///
/// A log keeps one to append to; an auditor keeps one to follow the leaves and compare the root at
/// the size of each checkpoint.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RightEdge {
    size: u64,
    /// By level, from 0; each below 256 hashes.
    rows: Vec<Vec<MerkleHash>>,
}

impl RightEdge {
    /// The edge of the empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The tiles that [`RightEdge::load`] reads, at most 8.
    pub fn tiles(size: u64) -> impl Iterator<Item = Tile> {
        (0..=Tile::MAX_LEVEL).filter_map(move |level| {
            let index = hashes_at(level, size) / u64::from(Tile::FULL);
            Tile::of_tree(level, index, size)
        })
    }

    /// The edge of a stored tree.
    ///
    /// # Errors
    /// [`TreeError`]: a size above [`MAX_TREE_SIZE`], or a tile that cannot be read or is none.
    pub fn load<R: TileReader>(size: u64, tiles: &R) -> Result<Self, TreeError<R::Error>> {
        if size > MAX_TREE_SIZE {
            return Err(TreeError::Outside);
        }
        let mut edge = Self {
            size,
            rows: Vec::new(),
        };
        for tile in Self::tiles(size) {
            *edge.row(tile.level()) = read(tiles, tile)?;
        }
        Ok(edge)
    }

    /// Number of leaves.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Size and root of the tree.
    pub fn head(&self) -> TreeHead {
        // protocol §11: the empty root is H("").
        let mut peaks = Vec::new();
        for row in self.rows.iter().rev() {
            // A row is a tree of its own hashes: its peaks stand where it has full subtrees.
            for subtree in cover(&(0..row.len() as u64)) {
                let first = usize::try_from(subtree.index << subtree.level).unwrap_or(0);
                peaks.push(MerkleHash::of_row(
                    &row[first..first + (1 << subtree.level)],
                ));
            }
        }
        TreeHead {
            size: self.size,
            root: join(peaks.into_iter()).unwrap_or_else(MerkleHash::of_nothing),
        }
    }

    /// Appends leaves by their hashes, and gives the tiles that are to be stored for them: those
    /// of [`new_tiles`](super::tile::new_tiles), in their order. Whoever has many appends them in
    /// parts, since the tiles of one call are in memory together.
    ///
    /// # Panics
    /// For a tree above [`MAX_TREE_SIZE`] leaves: at a billion leaves a second, in 292 years.
    pub fn append(&mut self, leaves: impl IntoIterator<Item = MerkleHash>) -> Vec<NewTile> {
        let before = self.size;
        let mut grown = Vec::new();
        for leaf in leaves {
            assert!(self.size < MAX_TREE_SIZE, "a log is full");
            self.size += 1;
            self.push(0, leaf, &mut grown);
        }
        for (level, row) in (0..).zip(&self.rows) {
            let index = hashes_at(level, self.size) / u64::from(Tile::FULL);
            let has_grown = hashes_at(level, before) < hashes_at(level, self.size);
            let tile = Tile::of_tree(level, index, self.size).filter(|_| has_grown);
            grown.extend(tile.map(|tile| new_tile(tile, row)));
        }
        grown.sort_by_key(|new| new.tile);
        grown
    }

    /// Puts one hash at the end of a level; a tile that becomes full moves up as one hash.
    fn push(&mut self, level: u8, hash: MerkleHash, grown: &mut Vec<NewTile>) {
        let row = self.row(level);
        row.push(hash);
        if row.len() < usize::from(Tile::FULL) {
            return;
        }
        let full = std::mem::take(row);
        let index = hashes_at(level, self.size) / u64::from(Tile::FULL) - 1;
        let tile = Tile::new(level, index, Tile::FULL);
        grown.extend(tile.map(|tile| new_tile(tile, &full)));
        self.push(level + 1, MerkleHash::of_row(&full), grown);
    }

    fn row(&mut self, level: u8) -> &mut Vec<MerkleHash> {
        let level = usize::from(level);
        if self.rows.len() <= level {
            self.rows.resize(level + 1, Vec::new());
        }
        &mut self.rows[level]
    }
}

fn new_tile(tile: Tile, row: &[MerkleHash]) -> NewTile {
    let bytes = row.iter().flat_map(|hash| *hash.as_bytes()).collect();
    NewTile { tile, bytes }
}

#[cfg(test)]
mod tests {
    use super::super::reader::TileSet;
    use super::super::tile::new_tiles;
    use super::*;

    fn leaves(range: std::ops::Range<u64>) -> impl Iterator<Item = MerkleHash> {
        range.map(|n| MerkleHash::of_leaf(&n.to_be_bytes()))
    }

    #[test]
    fn the_root_is_that_of_all_leaves_at_every_size() {
        let mut edge = RightEdge::new();
        assert_eq!(edge.head(), TreeHead::empty());
        let all: Vec<_> = leaves(0..600).collect();
        for size in 1..=600_u16 {
            edge.append([all[usize::from(size) - 1]]);
            let root = MerkleHash::of_row(&all[..usize::from(size)]);
            assert_eq!(edge.head().root, root, "{size}");
            assert_eq!(edge.head().size, u64::from(size));
        }
    }

    #[test]
    fn gives_exactly_the_new_tiles() {
        for (before, after) in [
            (0, 0),
            (0, 1),
            (0, 255),
            (0, 256),
            (255, 256),
            (256, 70_000),
        ] {
            let mut edge = RightEdge::new();
            edge.append(leaves(0..before));
            let grown = edge.append(leaves(before..after));
            let places: Vec<_> = grown.iter().map(|new| new.tile).collect();
            let expected: Vec<_> = new_tiles(before, after).collect();
            assert_eq!(places, expected, "{before} to {after}");
            for new in grown {
                assert_eq!(new.bytes.len(), 32 * usize::from(new.tile.width()));
            }
        }
    }

    #[test]
    fn an_edge_is_loaded_from_at_most_a_tile_a_level() {
        let (mut stored, mut edge) = (TileSet::new(), RightEdge::new());
        for new in edge.append(leaves(0..65_536 + 300)) {
            stored.insert(new.tile, new.bytes);
        }
        let loaded = RightEdge::load(edge.size(), &stored).unwrap();
        assert_eq!(loaded.head(), edge.head());
        // An edge of long ago too, from what is stored now.
        let earlier = RightEdge::load(70, &stored).unwrap();
        let root = MerkleHash::of_row(&leaves(0..70).collect::<Vec<_>>());
        assert_eq!(earlier.head(), TreeHead { size: 70, root });
        assert_eq!(RightEdge::tiles(MAX_TREE_SIZE).count(), 8);
        assert!(RightEdge::load(MAX_TREE_SIZE + 1, &stored).is_err());
        assert!(RightEdge::load(70_000, &stored).is_err());
        assert_eq!(RightEdge::load(0, &stored).unwrap(), RightEdge::new());
    }
}
