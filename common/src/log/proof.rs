//! Inclusion and consistency (RFC 6962 §2.1.1, §2.1.2; verified as RFC 9162 §2.1.3.2, §2.1.4.2).
//!
//! A [`ProofPlan`] says which tiles a proof is made from, and makes it from them; a proof of any
//! tree needs two dozen tiles at most. Verifying needs the proof and the heads alone.

use std::ops::Range;

use super::merkle::{MAX_TREE_SIZE, MerkleHash, TreeHead};
use super::reader::{TileReader, TreeError};
use super::subtree::{hashes, split, tiles};
use super::tile::Tile;

/// Most hashes of a proof in a tree of at most [`MAX_TREE_SIZE`] leaves.
pub const MAX_PROOF: usize = 64;

/// A proof that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProofError {
    /// A leaf that the tree does not have, or a tree above [`MAX_TREE_SIZE`].
    #[error("leaf {index} is not in a tree of {size} leaves")]
    Outside {
        /// Index of the leaf.
        index: u64,
        /// Size of the tree.
        size: u64,
    },
    /// The older tree is the larger one, or the newer is above [`MAX_TREE_SIZE`].
    #[error("a tree of {old} leaves is no earlier state of one of {new}")]
    Shrunk {
        /// Size of the older tree.
        old: u64,
        /// Size of the newer tree.
        new: u64,
    },
    /// Another number of hashes than such a proof has.
    #[error("the proof has {actual} hashes where {expected} are needed")]
    Length {
        /// As many as the sizes call for.
        expected: usize,
        /// As many as there are.
        actual: usize,
    },
    /// The hashes do not lead to the root, or to one of the two.
    #[error("the proof does not lead to the root")]
    Root,
}

/// Which hashes make a proof, and which tiles they are computed from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProofPlan {
    size: u64,
    ranges: Vec<Range<u64>>,
}

impl ProofPlan {
    /// That leaf `index` is in the tree of `size` leaves: PATH(m, D\[n\]) of RFC 6962 §2.1.1.
    /// `None` if the tree does not have it.
    pub fn inclusion(index: u64, size: u64) -> Option<Self> {
        if index >= size || size > MAX_TREE_SIZE {
            return None;
        }
        let mut ranges = Vec::new();
        let (mut start, mut end) = (0, size);
        while end - start > 1 {
            let middle = start + split(end - start);
            if index < middle {
                ranges.push(middle..end);
                end = middle;
            } else {
                ranges.push(start..middle);
                start = middle;
            }
        }
        ranges.reverse();
        Some(Self { size, ranges })
    }

    /// That the tree of `new` leaves begins with the tree of `old` leaves: PROOF(m, D\[n\]) of
    /// RFC 6962 §2.1.2. Empty if they are one, or the old one is empty; `None` if it is larger.
    pub fn consistency(old: u64, new: u64) -> Option<Self> {
        if old > new || new > MAX_TREE_SIZE {
            return None;
        }
        let mut ranges = Vec::new();
        let (mut start, mut end) = (0, new);
        while old > 0 && old != end {
            let middle = start + split(end - start);
            if old <= middle {
                ranges.push(middle..end);
                end = middle;
            } else {
                ranges.push(start..middle);
                start = middle;
            }
        }
        // "b" of SUBPROOF: the verifier knows the old root, but no other subtree.
        if start > 0 {
            ranges.push(start..end);
        }
        ranges.reverse();
        Some(Self { size: new, ranges })
    }

    /// Number of hashes of the proof.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether the proof is empty: for a tree of one leaf, or two trees that are one.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The tiles that [`ProofPlan::prove`] reads, each once.
    pub fn tiles(&self) -> Vec<Tile> {
        tiles(&self.ranges, self.size)
    }

    /// The proof.
    ///
    /// # Errors
    /// [`TreeError`] for a tile that cannot be read or is none. Tiles that are not those of the
    /// tree make a proof that does not verify.
    pub fn prove<R: TileReader>(&self, tiles: &R) -> Result<Vec<MerkleHash>, TreeError<R::Error>> {
        hashes(&self.ranges, self.size, tiles)
    }
}

/// Verifies that a leaf stands at `index` in the tree (RFC 9162 §2.1.3.2).
///
/// # Errors
/// [`ProofError`]; the proof has as many hashes as index and size call for, at most [`MAX_PROOF`].
pub fn verify_inclusion(
    leaf: &MerkleHash,
    index: u64,
    head: &TreeHead,
    proof: &[MerkleHash],
) -> Result<(), ProofError> {
    let size = head.size;
    let plan = ProofPlan::inclusion(index, size).ok_or(ProofError::Outside { index, size })?;
    check_length(&plan, proof)?;
    // `fn` and `sn` of the RFC.
    let (mut node, mut last) = (index, size - 1);
    let mut root = *leaf;
    for sibling in proof {
        if node & 1 == 1 || node == last {
            root = MerkleHash::of_children(sibling, &root);
            skip_levels_without_sibling(&mut node, &mut last);
        } else {
            root = MerkleHash::of_children(&root, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last == 0 && root == head.root {
        Ok(())
    } else {
        Err(ProofError::Root)
    }
}

/// Verifies that the tree `new` begins with the tree `old` (RFC 9162 §2.1.4.2).
///
/// The empty tree is the beginning of every tree, and a tree of itself; both by an empty proof.
///
/// # Errors
/// [`ProofError`]; the proof has as many hashes as the sizes call for, at most [`MAX_PROOF`].
pub fn verify_consistency(
    old: &TreeHead,
    new: &TreeHead,
    proof: &[MerkleHash],
) -> Result<(), ProofError> {
    let shrunk = ProofError::Shrunk {
        old: old.size,
        new: new.size,
    };
    let plan = ProofPlan::consistency(old.size, new.size).ok_or(shrunk)?;
    check_length(&plan, proof)?;
    if old.size == 0 || old.size == new.size {
        let expected = if old.size == 0 {
            TreeHead::empty()
        } else {
            *new
        };
        return if *old == expected {
            Ok(())
        } else {
            Err(ProofError::Root)
        };
    }
    // An old tree that is one full subtree is the first hash itself, and is not sent.
    let known = old.size.is_power_of_two().then_some(&old.root);
    let mut path = known.into_iter().chain(proof);
    let Some(first) = path.next() else {
        return Err(ProofError::Root);
    };
    // `fn`, `sn`, `fr` and `sr` of the RFC.
    let shift = (old.size - 1).trailing_ones();
    let (mut node, mut last) = ((old.size - 1) >> shift, (new.size - 1) >> shift);
    let (mut old_root, mut new_root) = (*first, *first);
    for sibling in path {
        if node & 1 == 1 || node == last {
            old_root = MerkleHash::of_children(sibling, &old_root);
            new_root = MerkleHash::of_children(sibling, &new_root);
            skip_levels_without_sibling(&mut node, &mut last);
        } else {
            new_root = MerkleHash::of_children(&new_root, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    let holds = last == 0 && old_root == old.root && new_root == new.root;
    if holds { Ok(()) } else { Err(ProofError::Root) }
}

/// The last node of a tree has no sibling where its number is even: it moves up as it is.
fn skip_levels_without_sibling(node: &mut u64, last: &mut u64) {
    if *node & 1 == 0 {
        let levels = if *node == 0 { 0 } else { node.trailing_zeros() };
        (*node, *last) = (*node >> levels, *last >> levels);
    }
}

fn check_length(plan: &ProofPlan, proof: &[MerkleHash]) -> Result<(), ProofError> {
    let (expected, actual) = (plan.len(), proof.len());
    if expected == actual {
        Ok(())
    } else {
        Err(ProofError::Length { expected, actual })
    }
}

#[cfg(test)]
mod tests {
    use super::super::edge::RightEdge;
    use super::super::reader::TileSet;
    use super::*;

    struct Tree {
        leaves: Vec<MerkleHash>,
        tiles: TileSet,
    }

    impl Tree {
        fn of(size: u64) -> Self {
            let leaves: Vec<_> = (0..size)
                .map(|n| MerkleHash::of_leaf(&n.to_be_bytes()))
                .collect();
            let mut tiles = TileSet::new();
            for new in RightEdge::new().append(leaves.iter().copied()) {
                tiles.insert(new.tile, new.bytes);
            }
            Self { leaves, tiles }
        }

        fn head(&self, size: u64) -> TreeHead {
            RightEdge::load(size, &self.tiles).unwrap().head()
        }
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_proved() {
        let tree = Tree::of(70);
        for size in 1..=70 {
            let head = tree.head(size);
            for (index, leaf) in (0..size).zip(&tree.leaves) {
                let proof = ProofPlan::inclusion(index, size)
                    .unwrap()
                    .prove(&tree.tiles)
                    .unwrap();
                assert_eq!(
                    verify_inclusion(leaf, index, &head, &proof),
                    Ok(()),
                    "{index}/{size}"
                );
                let other = (index + 1) % size;
                let moved = verify_inclusion(leaf, other, &head, &proof);
                assert_eq!(moved.is_err(), size > 1, "{index} as {other} of {size}");
            }
        }
    }

    #[test]
    fn every_pair_of_sizes_is_consistent_and_no_other_pair_of_roots() {
        let tree = Tree::of(300);
        let heads: Vec<_> = (0..=300).map(|size| tree.head(size)).collect();
        let wrong = MerkleHash::of_leaf(b"another");
        for new in &heads {
            for old in &heads[..=usize::try_from(new.size).unwrap()] {
                let plan = ProofPlan::consistency(old.size, new.size).unwrap();
                let proof = plan.prove(&tree.tiles).unwrap();
                assert_eq!(
                    verify_consistency(old, new, &proof),
                    Ok(()),
                    "{old:?} {new:?}"
                );
                let forged = TreeHead {
                    root: wrong,
                    ..*old
                };
                assert_eq!(
                    verify_consistency(&forged, new, &proof),
                    Err(ProofError::Root)
                );
                if old.size > 0 {
                    let forged = TreeHead {
                        root: wrong,
                        ..*new
                    };
                    assert_eq!(
                        verify_consistency(old, &forged, &proof),
                        Err(ProofError::Root)
                    );
                }
            }
        }
    }

    #[test]
    fn proofs_of_another_length_are_refused_before_any_hashing() {
        let tree = Tree::of(11);
        let (old, new) = (tree.head(6), tree.head(11));
        let mut proof = ProofPlan::consistency(6, 11)
            .unwrap()
            .prove(&tree.tiles)
            .unwrap();
        let expected = proof.len();
        proof.push(new.root);
        let actual = expected + 1;
        let error = ProofError::Length { expected, actual };
        assert_eq!(verify_consistency(&old, &new, &proof), Err(error));
        assert_eq!(
            verify_inclusion(&tree.leaves[3], 3, &new, &[]),
            Err(ProofError::Length {
                expected: 4,
                actual: 0
            })
        );
        let shrunk = ProofError::Shrunk { old: 11, new: 6 };
        assert_eq!(verify_consistency(&new, &old, &[]), Err(shrunk));
        let outside = ProofError::Outside {
            index: 11,
            size: 11,
        };
        assert_eq!(
            verify_inclusion(&tree.leaves[3], 11, &new, &[]),
            Err(outside)
        );
        let of_nothing = verify_inclusion(&new.root, 0, &TreeHead::empty(), &[]);
        assert_eq!(of_nothing, Err(ProofError::Outside { index: 0, size: 0 }));
    }

    #[test]
    fn the_longest_proofs_have_the_bound() {
        let longest = [
            ProofPlan::inclusion(0, MAX_TREE_SIZE),
            ProofPlan::inclusion(MAX_TREE_SIZE - 1, MAX_TREE_SIZE),
            ProofPlan::consistency(1, MAX_TREE_SIZE),
            ProofPlan::consistency((1 << 62) + 1, MAX_TREE_SIZE),
            ProofPlan::consistency(MAX_TREE_SIZE - 1, MAX_TREE_SIZE),
        ];
        let lengths = longest.map(|plan| plan.unwrap().len());
        assert_eq!(lengths.into_iter().max(), Some(MAX_PROOF));
        assert_eq!(ProofPlan::inclusion(0, MAX_TREE_SIZE + 1), None);
        assert_eq!(ProofPlan::consistency(0, MAX_TREE_SIZE + 1), None);
    }

    #[test]
    fn a_proof_of_a_hundred_million_leaves_reads_few_tiles() {
        let size = 100_000_000;
        for index in [0, 1, 77_777_777, 99_999_999] {
            let tiles = ProofPlan::inclusion(index, size).unwrap().tiles();
            assert!(tiles.len() <= 8, "{} tiles", tiles.len());
        }
        let tiles = ProofPlan::consistency(66_666_667, size).unwrap().tiles();
        assert!(tiles.len() <= 8, "{} tiles", tiles.len());
    }

    #[test]
    fn a_tile_that_is_missing_or_cut_is_an_error() {
        let plan = ProofPlan::inclusion(3, 8).unwrap();
        assert!(matches!(
            plan.prove(&TileSet::new()),
            Err(TreeError::Read(_))
        ));
        let mut tiles = TileSet::new();
        tiles.insert(Tile::new(0, 0, 8).unwrap(), vec![0; 7 * 32]);
        assert!(matches!(plan.prove(&tiles), Err(TreeError::Malformed(_))));
    }
}
