//! Which subtrees make up a range of leaves, and in which tiles their hashes are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::merkle::MerkleHash;
use super::reader::{TileReader, TreeError, read};
use super::tile::{HEIGHT, Tile};

/// A full subtree: 2^level leaves from 2^level · index on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Subtree {
    pub(super) level: u8,
    pub(super) index: u64,
}

impl Subtree {
    /// Its tile in a tree of `size` leaves, and the row of hashes there that it is the root of.
    fn place(self, size: u64) -> Option<(Tile, Range<usize>)> {
        let (level, above) = (self.level / HEIGHT, self.level % HEIGHT);
        let first = self.index.checked_shl(above.into())?;
        let tile = Tile::of_tree(level, first / u64::from(Tile::FULL), size)?;
        let start = usize::try_from(first % u64::from(Tile::FULL)).ok()?;
        // A subtree of at most 2^7 hashes at a multiple of its length never crosses a tile.
        let row = start..start + (1 << above);
        (row.end <= tile.width().into()).then_some((tile, row))
    }
}

/// The full subtrees whose leaves are those of a range, from left to right. The range is one of
/// the splits of RFC 6962 §2.1: it begins at a multiple of a power of two that is not shorter.
pub(super) fn cover(range: &Range<u64>) -> Vec<Subtree> {
    let mut subtrees = Vec::new();
    let mut start = range.start;
    while let Some(level) = range.end.saturating_sub(start).checked_ilog2() {
        // Lossless: at most 63. A start of 0 has 64 trailing zeros.
        let level = u8::try_from(level.min(start.trailing_zeros())).unwrap_or(0);
        subtrees.push(Subtree {
            level,
            index: start >> level,
        });
        start += 1 << level;
    }
    subtrees
}

/// The root over subtrees of falling heights, from left to right (RFC 6962 §2.1).
pub(super) fn join(roots: impl DoubleEndedIterator<Item = MerkleHash>) -> Option<MerkleHash> {
    roots
        .rev()
        .reduce(|right, left| MerkleHash::of_children(&left, &right))
}

/// The largest power of two below `n`, where RFC 6962 §2.1 splits; `n` is at least 2.
pub(super) const fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// The tiles that the hashes of some ranges are computed from, each once.
pub(super) fn tiles(ranges: &[Range<u64>], size: u64) -> Vec<Tile> {
    let places = ranges
        .iter()
        .flat_map(cover)
        .filter_map(|subtree| subtree.place(size));
    let tiles: BTreeSet<_> = places.map(|(tile, _)| tile).collect();
    tiles.into_iter().collect()
}

/// The hashes of some ranges of a tree of `size` leaves. Each tile is read once.
pub(super) fn hashes<R: TileReader>(
    ranges: &[Range<u64>],
    size: u64,
    reader: &R,
) -> Result<Vec<MerkleHash>, TreeError<R::Error>> {
    let mut rows = BTreeMap::new();
    for tile in tiles(ranges, size) {
        rows.insert(tile, read(reader, tile)?);
    }
    let root = |subtree: Subtree| {
        let (tile, row) = subtree.place(size)?;
        rows.get(&tile)?.get(row).map(MerkleHash::of_row)
    };
    let hash = |range: &Range<u64>| {
        let roots: Option<Vec<_>> = cover(range).into_iter().map(root).collect();
        join(roots?.into_iter())
    };
    let hashes: Option<Vec<_>> = ranges.iter().map(hash).collect();
    hashes.ok_or(TreeError::Outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(range: Range<u64>) -> Vec<u8> {
        cover(&range).iter().map(|subtree| subtree.level).collect()
    }

    #[test]
    fn a_range_is_covered_by_subtrees_of_falling_heights() {
        assert!(levels(0..0).is_empty());
        assert_eq!(levels(0..1), [0]);
        assert_eq!(levels(0..7), [2, 1, 0]);
        assert_eq!(levels(8..15), [2, 1, 0]);
        assert_eq!(levels(4..8), [2]);
        assert_eq!(levels(0..1 << 62), [62]);
        assert_eq!(levels(0..u64::MAX / 2).len(), 63);
    }

    #[test]
    fn splits_are_those_of_rfc_6962() {
        let splits = [2, 3, 4, 5, 8, 9, 70_000].map(split);
        assert_eq!(splits, [1, 2, 2, 4, 4, 8, 65_536]);
    }

    #[test]
    fn a_subtree_lies_in_one_tile() {
        let place = |level, index| Subtree { level, index }.place(70_000).unwrap();
        assert_eq!(place(0, 300), (Tile::new(0, 1, 256).unwrap(), 44..45));
        assert_eq!(place(7, 3), (Tile::new(0, 1, 256).unwrap(), 128..256));
        assert_eq!(place(8, 272), (Tile::new(1, 1, 17).unwrap(), 16..17));
        assert_eq!(place(16, 0), (Tile::new(2, 0, 1).unwrap(), 0..1));
        assert_eq!(
            Subtree {
                level: 16,
                index: 1
            }
            .place(70_000),
            None
        );
    }
}
