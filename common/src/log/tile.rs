//! How a tree is stored (c2sp.org/tlog-tiles): rows of 256 hashes, which never change once full.
//!
//! Tile `index` of level `level` holds the hashes of 256 subtrees of 256^level leaves side by side.
//! The last tile of a level may be partial; a partial tile is a prefix of the full one.

use std::fmt;
use std::str::FromStr;

use super::merkle::{MAX_TREE_SIZE, MerkleHash};
use super::text::decimal;
use crate::ids::InvalidId;

/// Number of tree levels in a tile.
pub(super) const HEIGHT: u8 = 8;

/// A tile of hashes as a tree of some size has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

impl Tile {
    /// Hashes in a full tile.
    pub const FULL: u16 = 256;

    /// The highest level of any tree that can be.
    pub const MAX_LEVEL: u8 = 7;

    /// A tile by its place.
    ///
    /// # Errors
    /// [`InvalidId`] for a width outside 1–256, or a place that no tree of at most
    /// [`MAX_TREE_SIZE`] leaves has.
    pub fn new(level: u8, index: u64, width: u16) -> Result<Self, InvalidId> {
        let tile = Self {
            level,
            index,
            width,
        };
        let is_in_a_tree = (1..=Self::FULL).contains(&width)
            && level <= Self::MAX_LEVEL
            && index
                .checked_mul(u64::from(Self::FULL))
                .and_then(|before| before.checked_add(u64::from(width)))
                .is_some_and(|hashes| hashes <= hashes_at(level, MAX_TREE_SIZE));
        is_in_a_tree.then_some(tile).ok_or(INVALID)
    }

    /// The tile as a tree of `size` leaves has it; `None` if it has none there.
    pub fn of_tree(level: u8, index: u64, size: u64) -> Option<Self> {
        let full = u64::from(Self::FULL);
        let hashes = hashes_at(level, size).checked_sub(index.checked_mul(full)?)?;
        // Lossless: at most 256.
        let width = u16::try_from(hashes.min(full)).ok()?;
        Self::new(level, index, width).ok()
    }

    /// The level: 0 for hashes of leaves.
    pub const fn level(self) -> u8 {
        self.level
    }

    /// The place within the level.
    pub const fn index(self) -> u64 {
        self.index
    }

    /// Number of hashes, 1–256.
    pub const fn width(self) -> u16 {
        self.width
    }

    /// Whether it can change no more.
    pub const fn is_full(self) -> bool {
        self.width == Self::FULL
    }

    /// The same place in a tree that has grown past it: what to read if a partial tile is gone.
    #[must_use]
    pub const fn full(self) -> Self {
        Self {
            width: Self::FULL,
            ..self
        }
    }

    /// The hashes of this tile in bytes that hold it or a wider version of it; `None` if they are
    /// no whole hashes, too few or more than 256.
    pub fn hashes(self, bytes: &[u8]) -> Option<Vec<MerkleHash>> {
        let (hashes, rest) = bytes.as_chunks::<{ MerkleHash::LEN }>();
        let is_a_tile = rest.is_empty() && hashes.len() <= usize::from(Self::FULL);
        let own = hashes
            .get(..usize::from(self.width))
            .filter(|_| is_a_tile)?;
        Some(own.iter().copied().map(MerkleHash::new).collect())
    }
}

/// Number of hashes that a tree of `size` leaves has in its tiles of one level.
pub(super) const fn hashes_at(level: u8, size: u64) -> u64 {
    if level > Tile::MAX_LEVEL {
        0
    } else {
        size >> (HEIGHT * level)
    }
}

/// The tiles that a tree of `new` leaves has and one of `old` leaves had not, or had narrower:
/// what a log stores when it grows. By level, then by index; none if it has not grown.
pub fn new_tiles(old: u64, new: u64) -> impl Iterator<Item = Tile> {
    (0..=Tile::MAX_LEVEL).flat_map(move |level| new_tiles_at(level, old, new))
}

/// As [`new_tiles`] for the bundles of leaves: those of level 0.
pub fn new_bundles(old: u64, new: u64) -> impl Iterator<Item = Tile> {
    new_tiles_at(0, old, new)
}

fn new_tiles_at(level: u8, old: u64, new: u64) -> impl Iterator<Item = Tile> {
    let (before, after) = (hashes_at(level, old), hashes_at(level, new));
    let full = u64::from(Tile::FULL);
    let grown = before < after;
    let indices = if grown {
        before / full..after.div_ceil(full)
    } else {
        0..0
    };
    indices.filter_map(move |index| Tile::of_tree(level, index, new))
}

impl fmt::Display for Tile {
    /// Its path below the log: `tile/<level>/<index>[.p/<width>]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TilePath::Hashes(*self).fmt(f)
    }
}

/// What is stored below a log beside its checkpoint, by its path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TilePath {
    /// `tile/<level>/<index>[.p/<width>]`: a tile of hashes.
    Hashes(Tile),
    /// `tile/entries/<index>[.p/<width>]`: the leaves under a tile of level 0.
    Entries(Tile),
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tile = match self {
            Self::Hashes(tile) => {
                write!(f, "tile/{}", tile.level)?;
                tile
            }
            Self::Entries(tile) => {
                f.write_str("tile/entries")?;
                tile
            }
        };
        // Groups of three digits, so that no folder grows without end.
        let mut groups = vec![tile.index % 1000];
        let mut rest = tile.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for (place, group) in groups.iter().enumerate().rev() {
            let mark = if place > 0 { "x" } else { "" };
            write!(f, "/{mark}{group:03}")?;
        }
        if tile.is_full() {
            Ok(())
        } else {
            write!(f, ".p/{}", tile.width)
        }
    }
}

impl FromStr for TilePath {
    type Err = InvalidId;

    /// From the one form that a path has.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let path = parse(text).ok_or(INVALID)?;
        // Groups with leading zeros too many, a full width written out: the same tile otherwise.
        (path.to_string() == text).then_some(path).ok_or(INVALID)
    }
}

fn parse(text: &str) -> Option<TilePath> {
    let (level, place) = text.strip_prefix("tile/")?.split_once('/')?;
    let (index, width) = match place.split_once(".p/") {
        Some((index, width)) => (index, u16::try_from(decimal(width)?).ok()?),
        None => (place, Tile::FULL),
    };
    let mut number = 0_u64;
    for group in index.split('/') {
        let digits = group.strip_prefix('x').unwrap_or(group);
        let is_digits = digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit());
        let value = digits.parse::<u64>().ok().filter(|_| is_digits)?;
        number = number.checked_mul(1000)?.checked_add(value)?;
    }
    if level == "entries" {
        return Tile::new(0, number, width).ok().map(TilePath::Entries);
    }
    let level = u8::try_from(decimal(level)?).ok()?;
    Tile::new(level, number, width).ok().map(TilePath::Hashes)
}

const INVALID: InvalidId = InvalidId {
    kind: "tile",
    expected: "tile/<level or entries>/<index in groups of three digits>[.p/<width>]",
};

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(level: u8, index: u64, width: u16) -> Tile {
        Tile::new(level, index, width).unwrap()
    }

    #[test]
    fn paths_are_those_of_c2sp() {
        for (tile, path) in [
            (tile(0, 0, 256), "tile/0/000"),
            (tile(0, 1067, 256), "tile/0/x001/067"),
            (tile(4, 1_234_067, 256), "tile/4/x001/x234/067"),
            (tile(1, 1_000_000, 8), "tile/1/x001/x000/000.p/8"),
            (tile(2, 5, 255), "tile/2/005.p/255"),
        ] {
            assert_eq!(tile.to_string(), path);
            assert_eq!(path.parse(), Ok(TilePath::Hashes(tile)));
        }
        let entries = TilePath::Entries(tile(0, 273, 112));
        assert_eq!(entries.to_string(), "tile/entries/273.p/112");
        assert_eq!("tile/entries/273.p/112".parse(), Ok(entries));
    }

    #[test]
    fn a_path_has_one_form() {
        for bad in [
            "",
            "tile",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/0000",
            "tile/0/x000/001",
            "tile/0/001/067",
            "tile/0/x001",
            "tile/0/x001/x067",
            "tile/0/001.p/0",
            "tile/0/001.p/256",
            "tile/0/001.p/257",
            "tile/0/001.p/01",
            "tile/0/001.p/",
            "tile/0/001.p/8/9",
            "tile/8/001",
            "tile/00/001",
            "tile/+1/001",
            "tile/-1/001",
            "/tile/0/001",
            "tile/0/001/",
            "tile/entries/x1/067",
            "tile/data/001",
            "tile/0/٠٠١",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
            "tile/7/128",
            "tile/0/+01",
        ] {
            assert!(bad.parse::<TilePath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tree_of_70_000_leaves_has_the_tiles_of_the_example() {
        // c2sp.org/tlog-tiles "Partial Tiles".
        let tiles: Vec<_> = new_tiles(0, 70_000).collect();
        assert_eq!(tiles.len(), 273 + 1 + 1 + 1 + 1);
        let partial: Vec<_> = tiles.iter().filter(|tile| !tile.is_full()).collect();
        assert_eq!(
            partial,
            [&tile(0, 273, 112), &tile(1, 1, 17), &tile(2, 0, 1)]
        );
        let of_256: Vec<_> = new_tiles(0, 256).collect();
        assert_eq!(of_256, [tile(0, 0, 256), tile(1, 0, 1)]);
    }

    #[test]
    fn a_tree_that_has_not_grown_has_no_new_tiles() {
        assert_eq!(new_tiles(0, 0).count(), 0);
        assert_eq!(new_tiles(7, 7).count(), 0);
        assert_eq!(new_tiles(8, 7).count(), 0);
        let grown: Vec<_> = new_tiles(255, 257).collect();
        assert_eq!(grown, [tile(0, 0, 256), tile(0, 1, 1), tile(1, 0, 1)]);
        let bundles: Vec<_> = new_bundles(255, 257).collect();
        assert_eq!(bundles, [tile(0, 0, 256), tile(0, 1, 1)]);
    }

    #[test]
    fn no_tile_lies_beyond_the_largest_tree() {
        let top: Vec<_> = (0..=7)
            .map(|level| hashes_at(level, MAX_TREE_SIZE) - 1)
            .map(|last| (last / 256, u16::try_from(last % 256 + 1).unwrap()))
            .collect();
        for (level, (index, width)) in (0..).zip(top) {
            assert!(Tile::new(level, index, width).is_ok(), "{level}");
            assert!(Tile::new(level, index, width + 1).is_err(), "{level}");
            assert!(Tile::new(level, index + 1, 1).is_err(), "{level}");
        }
        assert!(Tile::new(8, 0, 1).is_err());
        assert!(Tile::new(0, 0, 0).is_err());
        assert!(Tile::new(0, u64::MAX, 1).is_err());
        assert_eq!(Tile::of_tree(0, u64::MAX, 5), None);
        assert_eq!(Tile::of_tree(0, 0, 0), None);
    }

    #[test]
    fn a_wider_tile_holds_a_narrower_one() {
        let bytes: Vec<u8> = (0..96).collect();
        let two = tile(0, 0, 2).hashes(&bytes).unwrap();
        assert_eq!(two.len(), 2);
        assert_eq!(two[1].as_bytes()[..], bytes[32..64]);
        assert_eq!(tile(0, 0, 4).hashes(&bytes), None);
        assert_eq!(tile(0, 0, 2).hashes(&bytes[1..]), None);
        assert_eq!(tile(0, 0, 2).hashes(&vec![0; 257 * 32]), None);
    }
}
