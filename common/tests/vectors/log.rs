//! The audit log (protocol §11).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use sotto_common::dsse::SigningKey;
use sotto_common::log::checkpoint::{Checkpoint, LogKey, LogSigner, SignedCheckpoint};
use sotto_common::log::cosignature::Cosigner;
use sotto_common::log::edge::RightEdge;
use sotto_common::log::kind::EntryKind;
use sotto_common::log::leaf::{Leaf, Opening, OpeningNonce};
use sotto_common::log::merkle::{MerkleHash, TreeHead};
use sotto_common::log::note::NoteSignature;
use sotto_common::log::proof::{ProofPlan, verify_consistency, verify_inclusion};
use sotto_common::log::reader::TileSet;
use sotto_common::secret::Secret;
use sotto_common::time::Timestamp;

use crate::report::{Hex, HexBytes, Outcome, Rows, same};

const SECONDS_PER_HOUR: i64 = 3600;

/// `merkle.json`: roots at every size, and proofs, which are made again and verified.
pub(crate) fn merkle(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Inclusion {
        index: u64,
        size: u64,
        proof: Vec<Hex<32>>,
    }
    #[derive(Deserialize)]
    struct Consistency {
        old: u64,
        new: u64,
        proof: Vec<Hex<32>>,
    }
    let Some(tree) = Tree::of(file) else {
        return rows.row("leaves", file, |_: Value| Err("not a list of hex".into()));
    };
    let part = |name: &str| file.get(name).cloned().unwrap_or_default();
    let roots = BTreeMap::<String, Value>::deserialize(part("roots")).unwrap_or_default();
    for (size, root) in &roots {
        rows.row(format_args!("root {size}"), root, |theirs: Hex<32>| {
            let size = size.parse().map_err(|_| "not a size")?;
            same("root", Hex(*tree.head(size)?.root.as_bytes()), theirs)
        });
    }
    for row in part("inclusion").as_array().into_iter().flatten() {
        let name = format!("leaf {} of {}", row["index"], row["size"]);
        rows.row(name, row, |row: Inclusion| {
            let plan = ProofPlan::inclusion(row.index, row.size).ok_or("outside")?;
            let theirs = hashes(&row.proof);
            same("proof", tree.prove(&plan)?, theirs.clone())?;
            let index = usize::try_from(row.index).map_err(|_| "not an index")?;
            verify_inclusion(
                &tree.leaves[index],
                row.index,
                &tree.head(row.size)?,
                &theirs,
            )
            .map_err(|error| error.to_string())
        });
    }
    for row in part("consistency").as_array().into_iter().flatten() {
        rows.row(
            format!("{} in {}", row["old"], row["new"]),
            row,
            |row: Consistency| {
                let plan = ProofPlan::consistency(row.old, row.new).ok_or("outside")?;
                let theirs = hashes(&row.proof);
                same("proof", tree.prove(&plan)?, theirs.clone())?;
                verify_consistency(&tree.head(row.old)?, &tree.head(row.new)?, &theirs)
                    .map_err(|error| error.to_string())
            },
        );
    }
}

struct Tree {
    leaves: Vec<MerkleHash>,
    tiles: TileSet,
}

impl Tree {
    fn of(file: &Value) -> Option<Self> {
        let leaves = Vec::<HexBytes>::deserialize(file.get("leaves")?).ok()?;
        let leaves: Vec<_> = leaves
            .iter()
            .map(|leaf| MerkleHash::of_leaf(&leaf.0))
            .collect();
        let mut tiles = TileSet::new();
        for new in RightEdge::new().append(leaves.iter().copied()) {
            tiles.insert(new.tile, new.bytes);
        }
        Some(Self { leaves, tiles })
    }

    fn head(&self, size: u64) -> Result<TreeHead, String> {
        let edge = RightEdge::load(size, &self.tiles);
        edge.map(|edge| edge.head())
            .map_err(|error| error.to_string())
    }

    fn prove(&self, plan: &ProofPlan) -> Result<Vec<MerkleHash>, String> {
        plan.prove(&self.tiles).map_err(|error| error.to_string())
    }
}

fn hashes(proof: &[Hex<32>]) -> Vec<MerkleHash> {
    proof.iter().map(|hash| MerkleHash::new(hash.0)).collect()
}

/// `leaf.json`: a leaf from what it hides.
pub(crate) fn leaf(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Row {
        kind: String,
        unix_hour: i64,
        nonce: Hex<32>,
        entry: HexBytes,
        leaf: HexBytes,
        leaf_hash: Hex<32>,
    }
    rows.each(file, |row: Row| {
        let kind = EntryKind::from_leaf(row.kind.as_bytes()).ok_or("kind: unknown")?;
        let nonce = OpeningNonce::from_slice(&row.nonce.0).ok_or("no nonce")?;
        let opening = Opening::new(nonce, row.entry.0);
        // The last second of the hour.
        let at = Timestamp::from_seconds((row.unix_hour + 1) * SECONDS_PER_HOUR - 1);
        let leaf = Leaf::new(kind, at, &opening);
        same("leaf", HexBytes(leaf.to_bytes()), row.leaf)?;
        same("leaf_hash", Hex(*leaf.hash().as_bytes()), row.leaf_hash)?;
        same("parsed", Leaf::parse(&leaf.to_bytes()), Ok(leaf))
    });
}

/// `checkpoint.json`: the note is signed again, byte for byte, and opened.
pub(crate) fn checkpoint(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Row {
        origin: String,
        seed: Hex<32>,
        public_key: Hex<32>,
        vkey: String,
        note: String,
    }
    rows.each(file, |row: Row| {
        let signer = LogSigner::new(
            row.origin.parse().map_err(|_| "origin: not of its form")?,
            SigningKey::from_seed(&Secret::new(row.seed.0)),
        );
        let key = signer.key();
        same(
            "public_key",
            Hex(*key.note_key().key().as_bytes()),
            row.public_key,
        )?;
        same("vkey", key.to_string(), row.vkey.clone())?;
        let read = row
            .vkey
            .parse::<LogKey>()
            .map_err(|error| error.to_string())?;
        let opened = SignedCheckpoint::open(row.note.as_bytes(), &read);
        let opened = opened.map_err(|error| error.to_string())?;
        same("note", signer.sign(*opened.head()).to_string(), row.note)
    });
}

/// `cosignature.json`: over the checkpoint of `checkpoint.json`.
pub(crate) fn cosignature(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Row {
        name: String,
        seed: Hex<32>,
        public_key: Hex<32>,
        time: i64,
        line: String,
    }
    let checkpoint = rows.sibling("checkpoint.json").and_then(|file| {
        let note = file.get("note")?.as_str()?;
        let (text, _) = note.split_once("\n\n")?;
        format!("{text}\n").parse::<Checkpoint>().ok()
    });
    rows.each(file, |row: Row| -> Outcome {
        let checkpoint = checkpoint.as_ref().ok_or("needs checkpoint.json")?;
        let (trust_domain, node) = row.name.split_once("/node/").ok_or("name: no node's")?;
        let node = node.parse().map_err(|_| "name: no node id")?;
        let signing = SigningKey::from_seed(&Secret::new(row.seed.0));
        let cosigner = Cosigner::new(trust_domain, node, signing);
        let cosigner = cosigner.map_err(|error| error.to_string())?;
        let note_key = cosigner.key().note_key();
        same(
            "public_key",
            Hex(*note_key.key().as_bytes()),
            row.public_key,
        )?;
        same("name", note_key.name().as_str(), row.name.as_str())?;
        let at = Timestamp::from_seconds(row.time);
        let ours = cosigner.cosign(checkpoint, at).to_string();
        same("line", ours.as_str(), row.line.as_str())?;
        let line: NoteSignature = row.line.parse().map_err(|_| "line: not of its form")?;
        let verified = cosigner.key().verify(checkpoint, &line);
        same("verified", verified, Ok(at))
    });
}
