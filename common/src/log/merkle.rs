//! The hashes of the tree (protocol §11; RFC 6962 §2.1): leaf `H(00 ‖ leaf)`, node
//! `H(01 ‖ l ‖ r)`, empty root `H("")`.

use std::fmt;

use sha2::{Digest, Sha256};

use super::text::{base64, from_base64};

/// Most leaves of a tree: what a signed 64-bit number of a database holds.
pub const MAX_TREE_SIZE: u64 = u64::MAX / 2;

/// RFC 6962 §2.1: a leaf can never be taken for a node.
const LEAF: [u8; 1] = [0];
const NODE: [u8; 1] = [1];

/// A hash of the tree: of a leaf, of a node, or the root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MerkleHash([u8; MerkleHash::LEN]);

impl MerkleHash {
    /// Length of a hash in bytes.
    pub const LEN: usize = 32;

    /// Takes the bytes of a hash.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Takes a hash from a slice of exactly 32 bytes, else `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From 32 bytes in base64, as checkpoints and receipts write them; else `None`.
    pub fn from_base64(text: &str) -> Option<Self> {
        from_base64(text).and_then(|bytes| Self::from_slice(&bytes))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The hash of a leaf: `H(00 ‖ leaf)`.
    #[must_use]
    pub fn of_leaf(leaf: &[u8]) -> Self {
        Self(
            Sha256::new_with_prefix(LEAF)
                .chain_update(leaf)
                .finalize()
                .into(),
        )
    }

    /// The hash of a node: `H(01 ‖ left ‖ right)`.
    #[must_use]
    pub fn of_children(left: &Self, right: &Self) -> Self {
        let node = Sha256::new_with_prefix(NODE).chain_update(left.0);
        Self(node.chain_update(right.0).finalize().into())
    }

    /// The root of the empty tree: `H("")`.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self(Sha256::digest([]).into())
    }

    /// The root over hashes that stand side by side: MTH of RFC 6962 §2.1 over their leaves, if
    /// the hashes are of leaves or of full subtrees of one height.
    #[must_use]
    pub fn of_row(hashes: &[Self]) -> Self {
        match hashes {
            [] => Self::of_nothing(),
            [only] => *only,
            _ => {
                let (left, right) = hashes.split_at(hashes.len().next_power_of_two() / 2);
                Self::of_children(&Self::of_row(left), &Self::of_row(right))
            }
        }
    }
}

impl fmt::Display for MerkleHash {
    /// Base64, as checkpoints and receipts write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64(&self.0))
    }
}

impl fmt::Debug for MerkleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MerkleHash({})", hex::encode(self.0))
    }
}

/// A tree as far as it is told from every other: its size and its root.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TreeHead {
    /// Number of leaves, at most [`MAX_TREE_SIZE`].
    pub size: u64,
    /// The hash over all of them.
    pub root: MerkleHash,
}

impl TreeHead {
    /// The tree without a leaf.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            size: 0,
            root: MerkleHash::of_nothing(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_root_is_the_hash_of_nothing() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex::encode(TreeHead::empty().root.as_bytes()), empty);
        assert_eq!(MerkleHash::of_row(&[]), MerkleHash::of_nothing());
    }

    #[test]
    fn a_leaf_is_no_node() {
        let (left, right) = (MerkleHash::of_leaf(b"l"), MerkleHash::of_leaf(b"r"));
        let forged = [&left.0[..], &right.0[..]].concat();
        let node = MerkleHash::of_children(&left, &right);
        assert_ne!(MerkleHash::of_leaf(&forged), node);
    }

    #[test]
    fn a_row_is_split_at_the_largest_power_of_two_below_its_length() {
        let row = [0, 1, 2, 3, 4].map(|byte: u8| MerkleHash::of_leaf(&[byte]));
        let node = MerkleHash::of_children;
        let two = node(&row[0], &row[1]);
        assert_eq!(MerkleHash::of_row(&row[..3]), node(&two, &row[2]));
        let four = node(&two, &node(&row[2], &row[3]));
        assert_eq!(MerkleHash::of_row(&row[..4]), four);
        assert_eq!(MerkleHash::of_row(&row), node(&four, &row[4]));
    }

    #[test]
    fn a_hash_is_written_and_read_in_base64() {
        let hash = MerkleHash::of_leaf(b"leaf");
        assert_eq!(MerkleHash::from_base64(&hash.to_string()), Some(hash));
        assert_eq!(MerkleHash::from_base64("AQI="), None);
        assert_eq!(MerkleHash::from_slice(&[0; 31]), None);
    }
}
