//! How leaves are stored (c2sp.org/tlog-tiles "Log entries"): up to 256 of them one after the
//! other, each behind its `u16` length.
//!
//! A bundle goes with the tile of level 0 that has the same place and width.

use crate::label::length_prefix;

use super::tile::Tile;

/// Most bytes of a leaf in a bundle. Leaves of protocol §11 have at most 68; a kind that is added
/// may have a longer name.
pub const MAX_LEAF: usize = 255;

/// A bundle that is not of its form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BundleError {
    /// Fewer or more leaves than the tile has hashes.
    #[error("a bundle of {expected} leaves has another number of them")]
    Count {
        /// Width of the tile.
        expected: u16,
    },
    /// A leaf that is cut off, or longer than [`MAX_LEAF`].
    #[error("leaf {place} of a bundle is cut off, or has more than {MAX_LEAF} bytes")]
    Leaf {
        /// Its place in the bundle.
        place: u16,
    },
}

/// The bytes of a bundle.
///
/// # Errors
/// [`BundleError::Leaf`] for a leaf above [`MAX_LEAF`] bytes, [`BundleError::Count`] for other than
/// `tile.width()` leaves.
pub fn encode<L: AsRef<[u8]>>(tile: Tile, leaves: &[L]) -> Result<Vec<u8>, BundleError> {
    let expected = tile.width();
    if leaves.len() != usize::from(expected) {
        return Err(BundleError::Count { expected });
    }
    let mut bytes = Vec::new();
    for (place, leaf) in (0..expected).zip(leaves) {
        let leaf = leaf.as_ref();
        let prefix = length_prefix(leaf.len()).filter(|_| leaf.len() <= MAX_LEAF);
        bytes.extend_from_slice(&prefix.ok_or(BundleError::Leaf { place })?);
        bytes.extend_from_slice(leaf);
    }
    Ok(bytes)
}

/// The leaves under a tile of level 0, from the bytes of its bundle or of a wider version of it.
///
/// # Errors
/// [`BundleError`] for bytes that are no bundle, hold fewer leaves, or more than 256.
pub fn decode(tile: Tile, bytes: &[u8]) -> Result<Vec<&[u8]>, BundleError> {
    let expected = tile.width();
    let mut leaves = Vec::with_capacity(usize::from(expected));
    let mut rest = bytes;
    for place in 0..Tile::FULL {
        if rest.is_empty() {
            break;
        }
        let (leaf, behind) = first(rest).ok_or(BundleError::Leaf { place })?;
        rest = behind;
        if place < expected {
            leaves.push(leaf);
        }
    }
    if leaves.len() == usize::from(expected) && rest.is_empty() {
        Ok(leaves)
    } else {
        Err(BundleError::Count { expected })
    }
}

fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes(*length));
    (length <= MAX_LEAF).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(width: u16) -> Tile {
        Tile::new(0, 0, width).unwrap()
    }

    #[test]
    fn leaves_come_back_as_they_went_in() {
        let leaves = [&b"one"[..], b"", &[7; MAX_LEAF]];
        let bytes = encode(tile(3), &leaves).unwrap();
        assert_eq!(bytes[..7], *b"\x00\x03one\x00\x00");
        assert_eq!(decode(tile(3), &bytes).unwrap(), leaves);
        assert_eq!(decode(tile(2), &bytes).unwrap(), leaves[..2]);
    }

    #[test]
    fn refuses_what_is_no_bundle() {
        let bytes = encode(tile(2), &[b"one", b"two"]).unwrap();
        let count = |expected| BundleError::Count { expected };
        assert_eq!(decode(tile(3), &bytes), Err(count(3)));
        assert_eq!(decode(tile(1), &[]), Err(count(1)));
        for cut in 1..bytes.len() {
            assert!(decode(tile(2), &bytes[..cut]).is_err(), "{cut}");
        }
        assert_eq!(decode(tile(256), &[0; 512]).unwrap().len(), 256);
        assert_eq!(decode(tile(256), &[0; 514]), Err(count(256)));
        let (long, leaf) = (
            [&[1, 0][..], &[7; 256]].concat(),
            BundleError::Leaf { place: 0 },
        );
        assert_eq!(decode(tile(1), &long), Err(leaf));
        assert_eq!(encode(tile(1), &[[7; 256]]), Err(leaf));
        assert_eq!(encode(tile(1), &[b"one", b"two"]), Err(count(1)));
    }
}
