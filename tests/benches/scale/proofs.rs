//! Proofs from a tree whose tiles are in the ledger: how long they take, how many tiles they read, and
//! that memory does not grow with the tree.
//!
//! Each tree is built in a process of its own, in parts as the broker's job does it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use sotto_broker::bench::StoredTree;
use sotto_common::log::merkle::MerkleHash;
use sotto_common::log::proof::{ProofPlan, verify_consistency, verify_inclusion};

use crate::process::peak_kb;
use crate::times::Times;

/// Leaves that are appended at a time.
const PART: u64 = 65_536;

/// Proofs of each sort.
const INCLUSIONS: usize = 10_000;
const CONSISTENCIES: usize = 1_000;

/// Fixed, so that runs can be compared.
const SEED: u64 = 20_260_303;

/// One tree.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(crate) struct Proofs {
    pub(crate) leaves: u64,
    /// Until all tiles are stored.
    pub(crate) build_seconds: f64,
    pub(crate) ledger_bytes: u64,
    pub(crate) inclusion: Proving,
    pub(crate) consistency: Proving,
    /// Memory of the process at most, in kilobytes.
    pub(crate) peak_kb: u64,
}

/// Proofs of one sort; each was verified.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(crate) struct Proving {
    pub(crate) count: usize,
    /// To read the tiles and make the proof.
    pub(crate) times: Times,
    /// Tiles that all of them have read.
    pub(crate) tiles: usize,
    /// Tiles that one of them has read at most.
    pub(crate) most_tiles: usize,
}

/// Measures a tree of a tenth of the leaves, and one of all.
pub(crate) fn measure(leaves: u64, dir: &Path) -> Vec<Proofs> {
    let sizes = [leaves / 10, leaves].into_iter().filter(|size| *size > 0);
    sizes.map(|size| apart(size, dir)).collect()
}

fn apart(leaves: u64, dir: &Path) -> Proofs {
    eprintln!("proofs in a tree of {leaves} leaves ...");
    let home = tempfile::tempdir_in(dir).expect("a folder");
    let output = Command::new(std::env::current_exe().expect("a path"))
        .args(["--tree", &leaves.to_string(), "--dir"])
        .arg(home.path())
        .output()
        .expect("a process");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("what was measured")
}

/// Builds a tree in a folder and proves in it; what was measured, as JSON.
pub(crate) fn run(leaves: u64, dir: &Path) -> String {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let proofs = runtime.block_on(prove(leaves, dir));
    serde_json::to_string(&proofs).expect("JSON")
}

async fn prove(leaves: u64, dir: &Path) -> Proofs {
    let clock = Instant::now();
    let tree = build(leaves, dir).await;
    let build_seconds = clock.elapsed().as_secs_f64();
    let rng = &mut StdRng::seed_from_u64(SEED);
    let inclusion = inclusion(&tree, rng).await;
    let consistency = consistency(&tree, rng).await;
    let files = ["ledger.db", "ledger.db-wal"].map(|name| dir.join(name));
    let lengths = files.iter().filter_map(|file| file.metadata().ok());
    Proofs {
        leaves,
        build_seconds,
        ledger_bytes: lengths.map(|file| file.len()).sum(),
        inclusion,
        consistency,
        peak_kb: peak_kb("self"),
    }
}

fn leaf(index: u64) -> MerkleHash {
    MerkleHash::of_leaf(&index.to_be_bytes())
}

async fn build(leaves: u64, dir: &Path) -> StoredTree {
    let mut tree = StoredTree::open(dir).await.expect("a ledger");
    let mut next = 0;
    while next < leaves {
        let end = leaves.min(next + PART);
        let part = (next..end).map(leaf).collect();
        tree.append(part).await.expect("stored");
        next = end;
    }
    tree
}

async fn inclusion(tree: &StoredTree, rng: &mut StdRng) -> Proving {
    let head = tree.head();
    let mut proved = Proved::default();
    for _ in 0..INCLUSIONS {
        let index = rng.random_range(0..head.size);
        let plan = ProofPlan::inclusion(index, head.size).expect("in the tree");
        let proof = proved.prove(tree, &plan).await;
        verify_inclusion(&leaf(index), index, &head, &proof).expect("it holds");
    }
    proved.proving()
}

async fn consistency(tree: &StoredTree, rng: &mut StdRng) -> Proving {
    let head = tree.head();
    let mut proved = Proved::default();
    for _ in 0..CONSISTENCIES {
        let size = rng.random_range(0..head.size) + 1;
        let plan = ProofPlan::consistency(size, head.size).expect("not larger");
        let proof = proved.prove(tree, &plan).await;
        let old = tree.head_at(size).await.expect("stored");
        verify_consistency(&old, &head, &proof).expect("it holds");
    }
    proved.proving()
}

/// The proofs that were made so far.
#[derive(Default)]
struct Proved {
    times: Vec<Duration>,
    tiles: usize,
    most_tiles: usize,
}

impl Proved {
    async fn prove(&mut self, tree: &StoredTree, plan: &ProofPlan) -> Vec<MerkleHash> {
        let clock = Instant::now();
        let proof = tree.prove(plan).await.expect("proved");
        self.times.push(clock.elapsed());
        let tiles = plan.tiles().len();
        self.tiles += tiles;
        self.most_tiles = self.most_tiles.max(tiles);
        proof
    }

    fn proving(self) -> Proving {
        Proving {
            count: self.times.len(),
            times: Times::of(self.times),
            tiles: self.tiles,
            most_tiles: self.most_tiles,
        }
    }
}
