//! What must hold for every log (protocol §11), over random ones.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;
use sotto_common::dsse::SigningKey;
use sotto_common::log::bundle;
use sotto_common::log::checkpoint::{LogSigner, SignedCheckpoint};
use sotto_common::log::cosignature::Cosigner;
use sotto_common::log::edge::{NewTile, RightEdge};
use sotto_common::log::leaf::Leaf;
use sotto_common::log::merkle::{MAX_TREE_SIZE, MerkleHash, TreeHead};
use sotto_common::log::note::Note;
use sotto_common::log::proof::{ProofPlan, verify_consistency, verify_inclusion};
use sotto_common::log::quorum::{Freshness, WitnessPolicy};
use sotto_common::log::reader::TileSet;
use sotto_common::log::receipt::Receipt;
use sotto_common::log::tile::{Tile, TilePath, new_tiles};
use sotto_common::secret::Secret;
use sotto_common::time::Timestamp;

fn leaf(history: u8, n: u64) -> MerkleHash {
    MerkleHash::of_leaf(&[&[history], &n.to_be_bytes()[..]].concat())
}

fn leaves(range: std::ops::Range<u64>) -> impl Iterator<Item = MerkleHash> {
    range.map(|n| leaf(0, n))
}

struct Tree {
    edge: RightEdge,
    tiles: TileSet,
}

impl Tree {
    fn of(size: u64) -> Self {
        let mut tree = Self {
            edge: RightEdge::new(),
            tiles: TileSet::new(),
        };
        tree.grow(leaves(0..size));
        tree
    }

    fn grow(&mut self, leaves: impl Iterator<Item = MerkleHash>) {
        for new in self.edge.append(leaves) {
            self.tiles.insert(new.tile, new.bytes);
        }
    }

    fn head(&self, size: u64) -> TreeHead {
        RightEdge::load(size, &self.tiles).unwrap().head()
    }

    fn inclusion(&self, index: u64, size: u64) -> Vec<MerkleHash> {
        ProofPlan::inclusion(index, size)
            .unwrap()
            .prove(&self.tiles)
            .unwrap()
    }

    fn consistency(&self, old: u64, new: u64) -> Vec<MerkleHash> {
        ProofPlan::consistency(old, new)
            .unwrap()
            .prove(&self.tiles)
            .unwrap()
    }
}

fn flipped(hash: MerkleHash, bit: Index) -> MerkleHash {
    let (mut bytes, bit) = (*hash.as_bytes(), bit.index(256));
    bytes[bit / 8] ^= 1 << (bit % 8);
    MerkleHash::new(bytes)
}

fn stored(tiles: impl IntoIterator<Item = NewTile>) -> BTreeMap<String, Vec<u8>> {
    tiles
        .into_iter()
        .map(|new| (new.tile.to_string(), new.bytes))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn an_inclusion_proof_holds_and_no_changed_bit_of_it_does(
        size in 1..3000_u64, index: Index, place: Index, bit: Index,
    ) {
        let tree = Tree::of(size);
        let index = index.index(usize::try_from(size).unwrap()) as u64;
        let (head, proof) = (tree.head(size), tree.inclusion(index, size));
        let own = leaf(0, index);
        prop_assert_eq!(verify_inclusion(&own, index, &head, &proof), Ok(()));
        prop_assert!(verify_inclusion(&flipped(own, bit), index, &head, &proof).is_err());
        let root = flipped(head.root, bit);
        let forged = TreeHead { root, ..head };
        prop_assert!(verify_inclusion(&own, index, &forged, &proof).is_err());
        for other in [index ^ 1, index + 1, index.wrapping_sub(1), size] {
            prop_assert!(verify_inclusion(&own, other, &head, &proof).is_err());
        }
        if !proof.is_empty() {
            let mut changed = proof.clone();
            let place = place.index(proof.len());
            changed[place] = flipped(changed[place], bit);
            prop_assert!(verify_inclusion(&own, index, &head, &changed).is_err());
            changed.remove(place);
            prop_assert!(verify_inclusion(&own, index, &head, &changed).is_err());
        }
    }

    #[test]
    fn a_consistency_proof_holds_and_no_changed_bit_of_it_does(
        new in 1..3000_u64, old: Index, place: Index, bit: Index,
    ) {
        let tree = Tree::of(new);
        let old = 1 + old.index(usize::try_from(new).unwrap()) as u64;
        let (before, after) = (tree.head(old), tree.head(new));
        let proof = tree.consistency(old, new);
        prop_assert_eq!(verify_consistency(&before, &after, &proof), Ok(()));
        let root = flipped(before.root, bit);
        let forged = TreeHead { root, ..before };
        prop_assert!(verify_consistency(&forged, &after, &proof).is_err());
        let root = flipped(after.root, bit);
        let forged = TreeHead { root, ..after };
        prop_assert!(verify_consistency(&before, &forged, &proof).is_err());
        if !proof.is_empty() {
            let mut changed = proof.clone();
            let place = place.index(proof.len());
            changed[place] = flipped(changed[place], bit);
            prop_assert!(verify_consistency(&before, &after, &changed).is_err());
            changed.remove(place);
            prop_assert!(verify_consistency(&before, &after, &changed).is_err());
        }
    }

    #[test]
    fn another_history_is_never_consistent(
        shared in 0..500_u64, told in 1..500_u64, more in 0..500_u64,
    ) {
        // Both begin with the same leaves; then one goes on in another way.
        let told_tree = Tree::of(shared + told);
        let mut other = Tree::of(shared);
        other.grow((shared..shared + told + more).map(|n| leaf(1, n)));
        let (old, new) = (told_tree.edge.head(), other.edge.head());
        let proof = other.consistency(old.size, new.size);
        prop_assert!(verify_consistency(&old, &new, &proof).is_err());
    }

    #[test]
    fn tiles_that_grew_in_parts_are_those_of_one_time(
        parts in prop::collection::vec(0..1500_u64, 1..6),
    ) {
        let (mut edge, mut kept) = (RightEdge::new(), TileSet::new());
        let mut incremental = BTreeMap::new();
        for part in &parts {
            let (before, after) = (edge.size(), edge.size() + part);
            let grown = edge.append(leaves(before..after));
            let places: Vec<_> = grown.iter().map(|new| new.tile).collect();
            prop_assert_eq!(places, new_tiles(before, after).collect::<Vec<_>>());
            for new in &grown {
                kept.insert(new.tile, new.bytes.clone());
            }
            // Another replica goes on from what is stored.
            edge = RightEdge::load(after, &kept).unwrap();
            incremental.append(&mut stored(grown));
        }
        let size = parts.iter().sum();
        let at_once = stored(RightEdge::new().append(leaves(0..size)));
        for (path, bytes) in &at_once {
            prop_assert_eq!(incremental.get(path), Some(bytes), "{}", path);
        }
        // What else is there are partial tiles of earlier sizes: prefixes of those of now.
        for (path, bytes) in incremental {
            let Ok(TilePath::Hashes(tile)) = path.parse() else { panic!("{path}") };
            let now = Tile::of_tree(tile.level(), tile.index(), size).unwrap();
            prop_assert!(at_once[&now.to_string()].starts_with(&bytes), "{}", path);
        }
    }

    #[test]
    fn a_path_comes_back(level in 0..8_u8, index in any::<u64>(), width in 1..=256_u16) {
        if let Ok(tile) = Tile::new(level, index.checked_shr((9 + 8 * level).into()).unwrap_or(0), width) {
            let path = tile.to_string();
            prop_assert_eq!(path.parse(), Ok(TilePath::Hashes(tile)));
        }
    }

    #[test]
    fn no_bytes_stop_a_parser(bytes in prop::collection::vec(any::<u8>(), 0..300), text: String) {
        let tile = Tile::new(0, 0, 3).unwrap();
        let _ = (bundle::decode(tile, &bytes), Leaf::parse(&bytes), Note::parse(&bytes));
        let _ = (Receipt::parse(&bytes), Receipt::parse(text.as_bytes()), tile.hashes(&bytes));
        let _ = (text.parse::<TilePath>(), Note::parse(text.as_bytes()));
    }

    #[test]
    fn what_is_read_as_a_note_or_a_receipt_is_written_as_it_was(
        at in any::<Index>(), byte in any::<u8>(), cosigned in any::<bool>(),
    ) {
        for text in [checkpoint(cosigned).to_string(), receipt(cosigned).to_string()] {
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(note) = Note::parse(&bytes) {
                prop_assert_eq!(note.to_string().into_bytes(), bytes.clone());
            }
            if let Ok(receipt) = Receipt::parse(&bytes) {
                prop_assert_eq!(receipt.to_string().into_bytes(), bytes);
            }
        }
    }

    #[test]
    fn no_changed_byte_of_a_receipt_proves_anything(at in any::<Index>(), change in 1..=255_u8) {
        let text = receipt(true).to_string();
        // What goes with a receipt is not authenticated: it is compared with what it proves.
        let start = text.find("index ").unwrap();
        let mut bytes = text.into_bytes();
        let at = start + at.index(bytes.len() - start);
        bytes[at] ^= change;
        if let Ok(receipt) = Receipt::parse(&bytes) {
            let policy = WitnessPolicy::new(vec![cosigner().key().clone()], 1);
            let proved = receipt.verify(&leaf(0, 5), signer().key(), &policy, Freshness::Any);
            prop_assert!(proved.is_err(), "byte {}", at);
        }
    }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::new([seed; 32]))
}

fn signer() -> LogSigner {
    LogSigner::new("broker.example/sotto/euro-cyber".parse().unwrap(), key(7))
}

fn cosigner() -> Cosigner {
    Cosigner::new("sotto.example", "nl-fiu".parse().unwrap(), key(8)).unwrap()
}

fn checkpoint(cosigned: bool) -> SignedCheckpoint {
    let mut signed = signer().sign(Tree::of(23).edge.head());
    if cosigned {
        let at = Timestamp::from_seconds(1_789_500_000);
        let cosignature = cosigner().cosign(signed.checkpoint(), at);
        signed.put_cosignature(cosignature).unwrap();
    }
    signed
}

/// The receipt of leaf 5 of 23, with a leaf that is not its own: nothing relies on it.
fn receipt(cosigned: bool) -> Receipt {
    let bytes = [&b"sotto/v1 leaf\x00\x03HIT"[..], &[0; 40]].concat();
    let leaf = Leaf::parse(&bytes).unwrap();
    Receipt::new(
        &leaf,
        5,
        Tree::of(23).inclusion(5, 23),
        &checkpoint(cosigned),
    )
}

#[test]
fn the_largest_tree_has_proofs_within_their_bounds() {
    for index in [0, 1, MAX_TREE_SIZE / 3, MAX_TREE_SIZE - 1] {
        let plan = ProofPlan::inclusion(index, MAX_TREE_SIZE).unwrap();
        assert!(plan.len() <= 63 && plan.tiles().len() <= 16, "{index}");
        let plan = ProofPlan::consistency(index + 1, MAX_TREE_SIZE).unwrap();
        assert!(plan.len() <= 64 && plan.tiles().len() <= 16, "{index}");
    }
}
