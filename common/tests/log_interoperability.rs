//! What verifiers of others say of our log: `tlog_tiles` (after Go's checksum database), `ct-merkle`
//! (after RFC 6962) and `signed_note`.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use proptest::prelude::*;
use sotto_common::dsse::SigningKey;
use sotto_common::log::checkpoint::{LogSigner, SignedCheckpoint};
use sotto_common::log::cosignature::Cosigner;
use sotto_common::log::edge::RightEdge;
use sotto_common::log::merkle::{MerkleHash, TreeHead};
use sotto_common::log::proof::{ProofPlan, verify_consistency, verify_inclusion};
use sotto_common::log::reader::{TileReader as _, TileSet};
use sotto_common::log::tile::{Tile, new_tiles};
use sotto_common::secret::Secret;
use sotto_common::time::Timestamp;

/// Levels of a tile in the terms of `tlog_tiles`, which knows other heights too.
const HEIGHT: u8 = 8;

/// A tree as we store it.
struct Tree {
    leaves: Vec<Vec<u8>>,
    tiles: TileSet,
    head: TreeHead,
}

impl Tree {
    fn of(size: u64) -> Self {
        let leaves: Vec<_> = (0..size).map(|n| n.to_be_bytes().to_vec()).collect();
        let (mut edge, mut tiles) = (RightEdge::new(), TileSet::new());
        for new in edge.append(leaves.iter().map(|leaf| MerkleHash::of_leaf(leaf))) {
            tiles.insert(new.tile, new.bytes);
        }
        let head = edge.head();
        Self {
            leaves,
            tiles,
            head,
        }
    }

    fn head_at(&self, size: u64) -> TreeHead {
        RightEdge::load(size, &self.tiles).unwrap().head()
    }

    fn leaf_hash(&self, index: u64) -> MerkleHash {
        MerkleHash::of_leaf(&self.leaves[usize::try_from(index).unwrap()])
    }

    fn prove(&self, plan: Option<ProofPlan>) -> Vec<MerkleHash> {
        plan.unwrap().prove(&self.tiles).unwrap()
    }
}

/// Our tiles, for a reader that checks each of them against the root before it uses it.
impl tlog_tiles::TileReader for Tree {
    fn height(&self) -> u8 {
        HEIGHT
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &tlog_tiles::Tile| {
            let width = u16::try_from(tile.width()).unwrap();
            let own = Tile::new(tile.level(), tile.level_index(), width).unwrap();
            let mut bytes = self.tiles.read_tile(own).unwrap();
            bytes.truncate(32 * usize::from(width));
            bytes
        };
        Ok(tiles.iter().map(read).collect())
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

fn go(hash: &MerkleHash) -> tlog_tiles::Hash {
    tlog_tiles::Hash(*hash.as_bytes())
}

fn go_proof(proof: &[MerkleHash]) -> Vec<tlog_tiles::Hash> {
    proof.iter().map(go).collect()
}

fn ours(proof: &[tlog_tiles::Hash]) -> Vec<MerkleHash> {
    proof.iter().map(|hash| MerkleHash::new(hash.0)).collect()
}

type Digest = ct_merkle::digest::Output<sha2::Sha256>;
type Root = ct_merkle::RootHash<sha2::Sha256>;

fn ct_root(head: &TreeHead) -> Root {
    Root::new(Digest::from(*head.root.as_bytes()), head.size)
}

fn ct_bytes(proof: &[MerkleHash]) -> Vec<u8> {
    proof.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn others_find_our_tiles_and_proofs_right(
        size in 1..2500_u64, index in any::<prop::sample::Index>(), old in any::<prop::sample::Index>(),
    ) {
        let tree = Tree::of(size);
        let leaves = usize::try_from(size).unwrap();
        let (index, old) = (index.index(leaves) as u64, 1 + old.index(leaves) as u64);
        let (before, leaf) = (tree.head_at(old), tree.leaf_hash(index));
        let inclusion = tree.prove(ProofPlan::inclusion(index, size));
        let consistency = tree.prove(ProofPlan::consistency(old, size));

        // Go's: our tiles are authenticated against our root, and its proofs are ours.
        let reader = tlog_tiles::TileHashReader::new(size, go(&tree.head.root), &tree);
        let theirs = tlog_tiles::prove_record(size, index, &reader).unwrap();
        prop_assert_eq!(ours(&theirs), inclusion.clone());
        prop_assert_eq!(verify_inclusion(&leaf, index, &tree.head, &ours(&theirs)), Ok(()));
        let theirs = tlog_tiles::prove_tree(size, old, &reader).unwrap();
        prop_assert_eq!(ours(&theirs), consistency.clone());
        prop_assert_eq!(verify_consistency(&before, &tree.head, &ours(&theirs)), Ok(()));
        let (root, old_root) = (go(&tree.head.root), go(&before.root));
        let proof = go_proof(&inclusion);
        prop_assert!(tlog_tiles::check_record(&proof, size, root, index, go(&leaf)).is_ok());
        let proof = go_proof(&consistency);
        prop_assert!(tlog_tiles::check_tree(&proof, size, root, old, old_root).is_ok());

        // ct-merkle's, which has no tiles.
        let (root, old_root) = (ct_root(&tree.head), ct_root(&before));
        let proof = ct_merkle::InclusionProof::try_from_bytes(ct_bytes(&inclusion)).unwrap();
        let leaf = &tree.leaves[usize::try_from(index).unwrap()];
        prop_assert!(root.verify_inclusion(leaf, index, &proof).is_ok());
        let proof = ct_merkle::ConsistencyProof::try_from_bytes(ct_bytes(&consistency)).unwrap();
        prop_assert!(root.verify_consistency(&old_root, &proof).is_ok());
    }

    #[test]
    fn others_store_the_same_tiles(old in 0..1_u64 << 40, grown in 0..70_000_u64) {
        let theirs = tlog_tiles::Tile::new_tiles(HEIGHT, old, old + grown);
        let theirs = theirs.iter().map(|tile| (tile.level(), tile.level_index(), tile.width()));
        let ours = new_tiles(old, old + grown);
        let ours = ours.map(|tile| (tile.level(), tile.index(), u32::from(tile.width())));
        prop_assert_eq!(ours.collect::<Vec<_>>(), theirs.collect::<Vec<_>>());
    }
}

const ORIGIN: &str = "broker.example/sotto/euro-cyber";
const SEED: [u8; 32] = [7; 32];

fn signer() -> LogSigner {
    let signing = SigningKey::from_seed(&Secret::new(SEED));
    LogSigner::new(ORIGIN.parse().unwrap(), signing)
}

#[test]
fn others_verify_our_checkpoints_and_ignore_our_cosignatures() {
    let head = Tree::of(300).head;
    let mut signed = signer().sign(head);
    let signing = SigningKey::from_seed(&Secret::new([8; 32]));
    let witness = Cosigner::new("sotto.example", "nl-fiu".parse().unwrap(), signing).unwrap();
    let cosignature = witness.cosign(signed.checkpoint(), Timestamp::from_seconds(1_789_500_000));
    signed.put_cosignature(cosignature).unwrap();

    let note = signed_note::Note::from_bytes(signed.to_string().as_bytes()).unwrap();
    let key = signed_note::StandardVerifier::new(&signer().key().to_string()).unwrap();
    let known = signed_note::VerifierList::new(vec![Box::new(key)]);
    let (verified, unverified) = note.verify(&known).unwrap();
    assert_eq!(verified.len(), 1);
    assert_eq!(verified[0].name(), ORIGIN);
    assert_eq!(unverified.len(), 1);
    assert_eq!(unverified[0].name(), "sotto.example/node/nl-fiu");

    let checkpoint = tlog_tiles::Checkpoint::from_bytes(note.text()).unwrap();
    assert_eq!(checkpoint.origin(), ORIGIN);
    assert_eq!(checkpoint.size(), head.size);
    assert_eq!(checkpoint.hash(), &go(&head.root));
    assert_eq!(checkpoint.extension(), "");

    let changed = signed.to_string().replacen("\n300\n", "\n301\n", 1);
    let changed = signed_note::Note::from_bytes(changed.as_bytes()).unwrap();
    assert!(changed.verify(&known).is_err());
}

#[test]
fn we_open_the_checkpoints_of_others() {
    use base64::Engine as _;
    let head = Tree::of(300).head;
    let text = tlog_tiles::Checkpoint::new(ORIGIN, head.size, go(&head.root), "").unwrap();
    let key = base64::engine::general_purpose::STANDARD.encode([&[1], &SEED[..]].concat());
    let key = format!(
        "PRIVATE+KEY+{ORIGIN}+{}+{key}",
        signer().key().note_key().id()
    );
    let theirs = signed_note::StandardSigner::new(&key).unwrap();
    let mut note = signed_note::Note::new(&text.to_bytes(), &[]).unwrap();
    note.add_sigs(&[&theirs]).unwrap();
    let opened = SignedCheckpoint::open(&note.to_bytes(), signer().key()).unwrap();
    assert_eq!(opened, signer().sign(head));
}
