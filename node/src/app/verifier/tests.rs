use sotto_common::ids::{EntryId, RecordRef, SessionId};
use sotto_common::log::action::Action;
use sotto_common::log::edge::RightEdge;
use sotto_common::log::entry::Batch;
use sotto_common::log::proof::ProofPlan;
use sotto_common::log::reader::TileSet;
use sotto_common::random::os_rng;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sotto_proto::convert::log::write_entry;

use super::*;
use crate::testing;

const NOW: Timestamp = Timestamp::from_seconds(50_000);

fn node() -> NodeId {
    "nl-fiu".parse().expect("a node")
}

fn community() -> CommunityId {
    "euro-cyber".parse().expect("a community")
}

fn epoch(number: u32) -> Epoch {
    Epoch::new(number).expect("an epoch")
}

fn entry(action: Action) -> Entry {
    let id = EntryId::generate(NOW, &mut os_rng());
    let actor = "spiffe://sotto.test/node/nl-fiu".parse().expect("an id");
    Entry::new(id, action, actor, community(), NOW, "sotto-broker/0.0.0")
}

/// The entry at leaf 3 of 7, with its proof.
fn logged(entry: &Entry) -> (v1::ProvedEntry, TreeHead) {
    let nonce = OpeningNonce::generate(&mut os_rng());
    let opening = Opening::new(nonce.clone(), write_entry(entry));
    let leaf = Leaf::new(entry.action.kind(), NOW, &opening);
    let (mut tiles, mut edge) = (TileSet::new(), RightEdge::new());
    let others = (0..7).map(|n| match n {
        3 => leaf.hash(),
        n => MerkleHash::of_leaf(&[n]),
    });
    for new in edge.append(others) {
        tiles.insert(new.tile, new.bytes);
    }
    let plan = ProofPlan::inclusion(3, 7).expect("in the tree");
    let proof = plan.prove(&tiles).expect("proved");
    let hash = |hash: &MerkleHash| hash.as_bytes().to_vec().into();
    let proved = v1::ProvedEntry {
        entry: Some(v1::LoggedEntry {
            leaf_index: 3,
            leaf: leaf.to_bytes().into(),
            nonce: nonce.secret().expose().to_vec().into(),
            entry: opening.entry().to_vec().into(),
        }),
        hashes: proof.iter().map(hash).collect(),
    };
    (proved, edge.head())
}

fn hit() -> UnverifiedHit {
    let hit = testing::hit(1, epoch(2), RecordRef::new([1; 16]));
    UnverifiedHit {
        id: hit.id,
        epoch: hit.epoch,
        policy: hit.policy,
        holder: hit.holder,
        named: Named::Verified,
    }
}

fn hit_entry() -> Entry {
    let mut entry = entry(Action::FindHit);
    entry.recipient = Some(node());
    entry.object.hit = Some(hit().id);
    entry.object.node = Some(hit().holder);
    entry.object.policy = Some(hit().policy);
    entry.object.epoch = Some(hit().epoch);
    entry
}

fn check(proved: &v1::ProvedEntry, head: &TreeHead) -> Result<Option<(HitId, u64)>, Doubt> {
    let (node, community) = (&node(), &community());
    check_hit(proved, head, &[hit()], Own { node, community })
}

#[test]
fn a_hit_is_verified_by_the_entry_that_says_the_same() {
    let (proved, head) = logged(&hit_entry());
    assert_eq!(check(&proved, &head), Ok(Some((hit().id, 3))));
    // A hit that was held back and released has the entry of its quarantine.
    let mut quarantined = hit_entry();
    quarantined.action = Action::QuarantineHit;
    let (proved, head) = logged(&quarantined);
    assert!(matches!(check(&proved, &head), Ok(Some(_))));
}

#[test]
fn an_entry_that_says_something_else_is_doubted() {
    type Change = fn(&mut Entry);
    let changes: [(&str, Change); 6] = [
        ("hit", |e| e.object.hit = None),
        ("community", |e| {
            e.community = "euro-fraud".parse().expect("one");
        }),
        ("recipient", |e| {
            e.recipient = Some("fr-pj".parse().expect("a node"));
        }),
        ("holder", |e| e.object.node = None),
        ("policy", |e| e.object.policy = Some(Policy::Phone)),
        ("epoch", |e| e.object.epoch = Some(epoch(3))),
    ];
    for (field, change) in changes {
        let mut entry = hit_entry();
        change(&mut entry);
        let (proved, head) = logged(&entry);
        assert_eq!(check(&proved, &head), Err(Doubt::Entry(field)));
    }
    let (proved, head) = logged(&entry(Action::Read));
    assert_eq!(check(&proved, &head), Err(Doubt::Leaf));
}

#[test]
fn a_proof_that_fails_is_doubted_and_an_erased_opening_is_not() {
    let (mut proved, head) = logged(&hit_entry());
    let mut moved = proved.clone();
    moved.entry.as_mut().expect("there").leaf_index = 2;
    assert_eq!(check(&moved, &head), Err(Doubt::Proof(ProofError::Root)));
    let mut swapped = proved.clone();
    swapped.entry.as_mut().expect("there").nonce = vec![0; 32].into();
    assert_eq!(check(&swapped, &head), Err(Doubt::Opening));
    let mut cut = proved.clone();
    cut.hashes[0] = vec![0; 31].into();
    assert_eq!(check(&cut, &head), Err(Doubt::Malformed));
    let logged = proved.entry.as_mut().expect("there");
    logged.nonce = prost::bytes::Bytes::new();
    logged.entry = prost::bytes::Bytes::new();
    assert_eq!(check(&proved, &head), Ok(None));
}

#[test]
fn a_batch_is_what_was_sent_and_answered() {
    let session = SessionId::generate(NOW, &mut os_rng());
    let batch = BatchToVerify {
        place: 1,
        session,
        number: 4,
        leaf_index: 3,
        tags_digest: [1; 32],
        answer_digest: [2; 32],
    };
    let mut logged_batch = entry(Action::AnswerBatch);
    logged_batch.object.session = Some(session);
    logged_batch.batch = Some(Batch {
        number: 4,
        refs: 1,
        matches: 0,
        tags_digest: [1; 32],
        answer_digest: [2; 32],
    });
    let (proved, head) = logged(&logged_batch);
    let (node, community) = (&node(), &community());
    let own = Own { node, community };
    assert_eq!(check_batch(&proved, &head, &batch, own), Ok(true));
    let other = BatchToVerify {
        tags_digest: [9; 32],
        ..batch.clone()
    };
    let doubt = check_batch(&proved, &head, &other, own);
    assert_eq!(doubt, Err(Doubt::Entry("digest of tags")));
    let elsewhere = BatchToVerify {
        leaf_index: 2,
        ..batch
    };
    let doubt = check_batch(&proved, &head, &elsewhere, own);
    assert_eq!(doubt, Err(Doubt::Leaf));
}

#[test]
fn the_witnesses_of_a_hit_are_those_of_its_epoch_while_that_is_accepted() {
    let accepted = [4, 5].map(|number| testing::manifest(number).1);
    let groups = by_manifest(&accepted, &[epoch(2), epoch(4), epoch(5)]);
    let expected = BTreeMap::from([
        (epoch(4), vec![epoch(4)]),
        (epoch(5), vec![epoch(2), epoch(5)]),
    ]);
    assert_eq!(groups, expected);
    assert!(by_manifest(&[], &[epoch(2)]).is_empty());
}
