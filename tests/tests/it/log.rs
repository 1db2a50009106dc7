//! The audit log of a broker, as everybody can verify it (protocol §11).

use std::time::Duration;

use sotto_common::error::ErrorCode;
use sotto_common::ids::Role;
use sotto_common::log::bundle;
use sotto_common::log::checkpoint::{Checkpoint, LogKey, SignedCheckpoint};
use sotto_common::log::cosignature::Cosigner;
use sotto_common::log::edge::RightEdge;
use sotto_common::log::leaf::{Leaf, Opening, OpeningNonce};
use sotto_common::log::merkle::{MerkleHash, TreeHead};
use sotto_common::log::proof::{verify_consistency, verify_inclusion};
use sotto_common::log::tile::{TilePath, new_bundles, new_tiles};
use sotto_common::selector::Policy::Phone;
use sotto_common::service::https::Document;
use sotto_common::service::key_file;
use sotto_proto::convert::log::read_entry;
use sotto_proto::v1;
use sotto_proto::v1::audit_service_client::AuditServiceClient;
use sotto_tests::ledger::TestLedger;
use sotto_tests::{COMMUNITY, Sandbox, TRUST_DOMAIN, TestNode, assert_refused, phones};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

struct Follower {
    key: LogKey,
    notes: Streaming<v1::WatchCheckpointsResponse>,
}

impl Follower {
    async fn new(sandbox: &Sandbox, node: &TestNode) -> Self {
        let community = COMMUNITY.into();
        let request = v1::WatchCheckpointsRequest { community };
        let notes = node.log().watch_checkpoints(request).await.expect("open");
        Self {
            key: sandbox.log_key(),
            notes: notes.into_inner(),
        }
    }

    /// The next checkpoint of more leaves.
    async fn beyond(&mut self, size: u64) -> SignedCheckpoint {
        loop {
            let next = self.notes.message().await.expect("no end");
            let note = next.expect("no end").note;
            let checkpoint = SignedCheckpoint::open(&note, &self.key).expect("signed");
            if checkpoint.head().size > size {
                return checkpoint;
            }
        }
    }
}

fn hashes<B: AsRef<[u8]>>(hashes: &[B]) -> Vec<MerkleHash> {
    let hashes = hashes.iter();
    hashes
        .map(|hash| MerkleHash::from_slice(hash.as_ref()).expect("32 bytes"))
        .collect()
}

async fn inclusion(
    node: &TestNode,
    leaf_index: u64,
    tree_size: u64,
) -> Result<v1::ProveInclusionResponse, Status> {
    let request = v1::ProveInclusionRequest {
        community: COMMUNITY.into(),
        leaf_index,
        tree_size,
    };
    Ok(node.log().prove_inclusion(request).await?.into_inner())
}

async fn assert_consistent(node: &TestNode, from: &TreeHead, to: &TreeHead) {
    let request = v1::ProveConsistencyRequest {
        community: COMMUNITY.into(),
        from_size: from.size,
        to_size: to.size,
    };
    let proof = node.log().prove_consistency(request).await.expect("proved");
    let proof = hashes(&proof.into_inner().hashes);
    verify_consistency(from, to, &proof).expect("it has only grown");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_leaf_is_proved_and_each_checkpoint_goes_on_from_the_one_before() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let mut follower = Follower::new(&sandbox, &nl).await;
    let first = *follower.beyond(0).await.head();
    de.publish(Phone, &phones(0..3)).await;
    nl.find(Phone, &phones(0..3)).await;
    let last = *follower.beyond(first.size).await.head();
    for index in 0..last.size {
        let proved = inclusion(&de, index, last.size).await.expect("proved");
        let leaf = MerkleHash::of_leaf(&proved.leaf);
        verify_inclusion(&leaf, index, &last, &hashes(&proved.hashes)).expect("in the tree");
    }
    assert_consistent(&de, &first, &last).await;

    // There may be a later checkpoint by now, but not one of so many leaves.
    for (index, size) in [(last.size, last.size), (0, 1 << 40), (1 << 40, 1 << 40)] {
        let refused = inclusion(&de, index, size).await;
        assert_refused(refused, Code::OutOfRange, ErrorCode::LeafUnknown);
    }
    let refused = inclusion(&sandbox.node("be-fgp"), 0, last.size).await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::NotAMember);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_log_and_its_key() {
    let (mut sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let before = *Follower::new(&sandbox, &nl).await.beyond(0).await.head();
    let key = sandbox.log_key();
    sandbox.restart().await;
    assert_eq!(sandbox.log_key(), key);
    let (nl, de) = (nl.towards(sandbox.lab(), &sandbox.url()), de);
    de.publish(Phone, &phones(0..3)).await;
    let mut follower = Follower::new(&sandbox, &nl).await;
    let after = *follower.beyond(before.size).await.head();
    assert_consistent(&nl, &before, &after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_another_key_for_its_log_does_not_start() {
    let mut sandbox = Sandbox::on(TestLedger::File).await;
    sandbox.stop().await;
    let file = sandbox.log_key_file();
    let own = std::fs::read(&file.0).expect("made at the first start");
    let why = async |sandbox: &mut Sandbox| {
        let error = sandbox.try_start().await.expect_err("another key");
        error.source.expect("said").to_string()
    };
    std::fs::remove_file(&file.0).expect("there");
    let text = why(&mut sandbox).await;
    assert!(text.contains("is missing: put it back"), "{text}");
    key_file::make(&file, &mut sotto_common::random::os_rng()).expect("made");
    let text = why(&mut sandbox).await;
    assert!(text.contains("another name or key"), "{text}");
    assert!(text.contains("sotto.local"), "{text}");
    // As it was, mode included.
    std::fs::write(&file.0, own).expect("put back");
    sandbox.start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_that_know_nothing_of_sotto_read_the_same_tree_over_https() {
    let (mut sandbox, [nl]) = Sandbox::with_nodes(["nl-fiu"]).await;
    Follower::new(&sandbox, &nl).await.beyond(0).await;
    sandbox.tiles.listen = Some(([127, 0, 0, 1], 0).into());
    sandbox.restart().await;
    let address = sandbox.tiles_address().expect("served");
    let ca = sandbox.lab().install(Role::Auditor, "court").ca;
    let read = async |path: &str| {
        let address = format!("https://{address}/{COMMUNITY}/{path}");
        let document = Document::new(&address, &ca, 1 << 20).expect("an address");
        document.read().await
    };
    let note = read("checkpoint").await.expect("read");
    let head = *SignedCheckpoint::open(&note, &sandbox.log_key())
        .expect("signed")
        .head();

    let mut edge = RightEdge::new();
    for tile in new_bundles(0, head.size) {
        let path = TilePath::Entries(tile).to_string();
        let bytes = read(&path).await.expect("read");
        let leaves = bundle::decode(tile, &bytes).expect("leaves");
        edge.append(leaves.iter().map(|leaf| MerkleHash::of_leaf(leaf)));
    }
    assert_eq!(edge.head(), head);
    for tile in new_tiles(0, head.size) {
        let bytes = read(&tile.to_string()).await.expect("read");
        assert_eq!(bytes.len(), usize::from(tile.width()) * MerkleHash::LEN);
    }
    // Cut from the wider one.
    let first = read("tile/0/000.p/1").await.expect("read");
    let leaf = read("tile/entries/000.p/1").await.expect("read");
    assert_eq!(first, MerkleHash::of_leaf(&leaf[2..]).as_bytes());
    for none in [
        "",
        "checkpoint/",
        "tile/0/001",
        "tile/0/x001/000",
        "tile/7/000",
        "entries",
    ] {
        let error = read(none).await.expect_err(none).to_string();
        assert!(error.contains("404"), "{none}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cosignature_is_taken_from_the_nodes_own_key_over_a_signed_head_alone() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let signed = Follower::new(&sandbox, &nl).await.beyond(0).await;
    let checkpoint = signed.checkpoint().clone();
    let submit = async |node: &TestNode, head: TreeHead, line: String| {
        let request = v1::SubmitCosignatureRequest {
            community: COMMUNITY.into(),
            tree_size: head.size,
            root: head.root.as_bytes().to_vec().into(),
            cosignature: line,
        };
        node.log().submit_cosignature(request).await.map(drop)
    };
    let cosigner = |node: &TestNode, key| {
        Cosigner::new(TRUST_DOMAIN, node.id().clone(), key).expect("a cosigner")
    };
    let own = cosigner(&nl, nl.cosigning_key().clone());
    let line = own.cosign(&checkpoint, nl.now()).to_string();

    let head = checkpoint.head;
    let by_another_key = cosigner(&nl, nl.signing_key().clone());
    let late = nl.now().plus(Duration::from_mins(6));
    for (node, bad) in [
        (
            &nl,
            by_another_key.cosign(&checkpoint, nl.now()).to_string(),
        ),
        (&nl, own.cosign(&checkpoint, late).to_string()),
        (&nl, "no line".to_owned()),
        (&de, line.clone()),
    ] {
        let refused = submit(node, head, bad).await;
        assert_refused(refused, Code::InvalidArgument, ErrorCode::SignatureInvalid);
    }
    let forked = TreeHead {
        root: MerkleHash::new([7; 32]),
        ..head
    };
    let origin = checkpoint.origin.clone();
    let other = own.cosign(
        &Checkpoint {
            origin,
            head: forked,
        },
        nl.now(),
    );
    let refused = submit(&nl, forked, other.to_string()).await;
    assert_refused(refused, Code::NotFound, ErrorCode::LogUnknown);

    let asked = |cosignatures| v1::GetCheckpointRequest {
        community: COMMUNITY.into(),
        cosignatures,
    };
    let refused = de.log().get_checkpoint(asked(1)).await;
    assert_refused(refused, Code::NotFound, ErrorCode::LogUnknown);
    for _ in 0..2 {
        submit(&nl, head, line.clone()).await.expect("taken");
    }
    let note = de.log().get_checkpoint(asked(1)).await.expect("cosigned");
    let shown = SignedCheckpoint::open(&note.into_inner().note, &sandbox.log_key());
    let shown = shown.expect("signed");
    assert_eq!(*shown.head(), head);
    let key = own.key().note_key();
    assert_eq!(shown.note().signatures_by(key).count(), 1);
    let refused = de.log().get_checkpoint(asked(2)).await;
    assert_refused(refused, Code::NotFound, ErrorCode::LogUnknown);
}

fn auditor(sandbox: &Sandbox, role: Role) -> AuditServiceClient<Channel> {
    AuditServiceClient::new(sandbox.lab().channel(role, "court", &sandbox.url()))
}

fn entries_of(node: &str) -> v1::ListEntriesRequest {
    v1::ListEntriesRequest {
        community: COMMUNITY.into(),
        node: node.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_reads_everything_and_a_node_its_own_entries() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let mut auditor = auditor(&sandbox, Role::Auditor);
    let mut follower = Follower::new(&sandbox, &nl).await;
    let mut size = 0;
    let own = loop {
        size = follower.beyond(size).await.head().size;
        // Each reading is itself logged, so that another checkpoint follows.
        let listed = auditor.list_entries(entries_of("nl-fiu")).await;
        let entries = listed.expect("listed").into_inner().entries;
        let own = entries.into_iter().find(|logged| {
            let entry = read_entry(&logged.entry).expect("an entry");
            entry.is_for(nl.id()) && !entry.is_for(de.id())
        });
        if let Some(own) = own {
            break own;
        }
    };
    let leaf = Leaf::parse(&own.leaf).expect("a leaf");
    let nonce = OpeningNonce::from_slice(&own.nonce).expect("a nonce");
    assert!(leaf.is_opened_by(&Opening::new(nonce, own.entry.to_vec())));

    let request = v1::GetEntryRequest {
        community: COMMUNITY.into(),
        leaf_index: own.leaf_index,
    };
    let shown = nl.log().get_entry(request.clone()).await.expect("its own");
    assert_eq!(shown.into_inner().entry.expect("an entry"), own);
    let refused = de.log().get_entry(request.clone()).await;
    assert_refused(refused, Code::OutOfRange, ErrorCode::LeafUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_every_leaf_of_its_checkpoint() {
    let (sandbox, [nl]) = Sandbox::with_nodes(["nl-fiu"]).await;
    Follower::new(&sandbox, &nl).await.beyond(0).await;
    let mut auditor = auditor(&sandbox, Role::Auditor);
    let request = |from_index| v1::ExportEntriesRequest {
        community: COMMUNITY.into(),
        from_index,
    };
    let parts = auditor.export_entries(request(0)).await.expect("exported");
    let mut parts = parts.into_inner();
    let first = parts.message().await.expect("no end").expect("a head");
    let signed = SignedCheckpoint::open(&first.note, &sandbox.log_key()).expect("signed");
    assert!(first.entries.is_empty());
    let mut edge = RightEdge::new();
    while let Some(part) = parts.message().await.expect("whole") {
        assert!(part.note.is_empty() && part.manifests.is_empty());
        for logged in part.entries {
            assert_eq!(logged.leaf_index, edge.size());
            edge.append([MerkleHash::of_leaf(&logged.leaf)]);
        }
    }
    assert_eq!(edge.head(), *signed.head());
    let refused = auditor.export_entries(request(1 << 40)).await.map(drop);
    assert_refused(refused, Code::OutOfRange, ErrorCode::LeafUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_listed_and_exported_for_auditors_alone() {
    let (sandbox, [nl]) = Sandbox::with_nodes(["nl-fiu"]).await;
    Follower::new(&sandbox, &nl).await.beyond(0).await;
    for role in [Role::Operator, Role::Broker, Role::Analyst] {
        let mut stranger = auditor(&sandbox, role);
        let refused = stranger.list_entries(entries_of("")).await;
        assert_refused(refused, Code::PermissionDenied, ErrorCode::RoleForbidden);
        let request = v1::ExportEntriesRequest {
            community: COMMUNITY.into(),
            from_index: 0,
        };
        let refused = stranger.export_entries(request).await.map(drop);
        assert_refused(refused, Code::PermissionDenied, ErrorCode::RoleForbidden);
    }
    let mut by_node = AuditServiceClient::new(nl.channel());
    let refused = by_node.list_entries(entries_of("nl-fiu")).await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::RoleForbidden);
}
