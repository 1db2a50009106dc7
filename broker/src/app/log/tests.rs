//! The log of a broker without its network and jobs.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use prost::Message as _;
use sotto_common::epoch::KeyCommitment;
use sotto_common::filter::DEFAULT_K;
use sotto_common::grounds::{Grounds, LegalBasis, Purpose};
use sotto_common::ids::{Epoch, FollowUpId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::merkle::{MerkleHash, TreeHead};
use sotto_common::log::proof::{verify_consistency, verify_inclusion};
use sotto_common::membership::{
    EpochState, KemKey, Manifest, ManifestPolicy, MemberKeys, PolicyProfile, Profile,
};
use sotto_common::random::os_rng;
use sotto_common::sealed::HpkeKeyPair;
use sotto_common::secret::Tag;
use sotto_common::selector::Policy;
use sotto_common::service::at_rest::ColumnCipher;
use sotto_common::time::{MockClock, Timestamp};
use sotto_proto::convert;
use sotto_proto::convert::log::read_entry;
use sotto_proto::v1;

use super::*;
use crate::app::{Journal, Parts, journal};
use crate::cache::Cache;
use crate::config::ObjectsUrl;
use crate::datastore::{Datastore, EntryFilter, EpochRecord, LoggedRecord};
use crate::matcher::Matcher;
use crate::objects::Objects;

const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);

macro_rules! tx {
    ($world:expr, $tx:ident => $work:expr) => {
        $world
            .broker
            .store
            .run_tx("test", |$tx| async move { $work }.scope_boxed())
            .await
            .expect("committed")
    };
}

struct World {
    broker: Broker,
    clock: MockClock,
    _dir: tempfile::TempDir,
}

fn community() -> CommunityId {
    "euro-cyber".parse().expect("a community")
}

fn node(name: &str) -> sotto_common::ids::NodeId {
    name.parse().expect("a node")
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let ledger = dir.path().join("ledger.db");
        let store = Datastore::open_file(&ledger, ColumnCipher::off()).await;
        let clock = MockClock::at(NOW);
        let own = "spiffe://sotto.test/broker/main".parse();
        let parts = Parts {
            store: store.expect("open"),
            objects: Objects::open(&ObjectsUrl::Local, dir.path(), None).expect("a store"),
            cache: Cache::open(dir.path()).expect("a cache"),
            matcher: Matcher::default(),
            replica_file: dir.path().join("replica"),
            journal: Journal::new(own.expect("a SPIFFE ID")),
            log: Log::of_tests(),
            clock: Arc::new(clock.clone()),
        };
        let world = Self {
            broker: Broker::start(parts, false).await.expect("started"),
            clock,
            _dir: dir,
        };
        let row = PolicyProfile {
            policy: Policy::Phone,
            k: DEFAULT_K,
            prior: 0.001,
        };
        let profile = Profile::new(vec![row]).expect("a profile");
        let profile = &v1::Profile::from(profile).encode_to_vec();
        tx!(world, tx => {
            tx.put_community(&community(), profile, NOW).await?;
            tx.put_node(&community(), &node("nl-fiu"), NOW).await?;
            tx.put_node(&community(), &node("de-bka"), NOW).await
        });
        world
    }

    fn entry(&self, by: &str, case_ref: Option<&str>) -> Entry {
        let (journal, now) = (&self.broker.journal, self.broker.now());
        let action = Action::OpenSession;
        let made = journal.by_node(&node(by), action, &community(), now);
        let mut entry = made.expect("an entry");
        entry.grounds = case_ref.map(|case_ref| {
            let (purpose, basis) = (Purpose::Detection, LegalBasis::Eu2023977);
            Grounds::new(Some(purpose), Some(basis), "", case_ref).expect("grounds")
        });
        entry
    }

    async fn put(&self, count: usize) -> Vec<EntryId> {
        let entries: Vec<_> = (0..count).map(|_| self.entry("nl-fiu", None)).collect();
        let entries = &entries;
        tx!(self, tx => {
            for entry in entries {
                journal::put(tx, entry).await?;
            }
            Ok(())
        });
        entries.iter().map(|entry| entry.id).collect()
    }

    async fn sign(&self) -> TreeHead {
        self.broker.sequence().await.expect("sequenced");
        self.broker.sign_checkpoints().await.expect("signed");
        self.head().await
    }

    async fn head(&self) -> TreeHead {
        let latest = tx!(self, tx => latest(tx, &community()).await);
        TreeHead {
            size: latest.size,
            root: latest.root,
        }
    }

    async fn leaves(&self) -> Vec<LoggedRecord> {
        tx!(self, tx => tx.get_leaves(&community(), 0..1 << 20).await)
    }
}

#[tokio::test]
async fn entries_that_come_together_have_places_without_a_gap() {
    let world = &World::new().await;
    let ids = world.put(50).await;
    let community = &community();
    let places = ids.iter().map(|id| world.broker.place(community, *id));
    let mut places: Vec<_> = join_all(places)
        .await
        .into_iter()
        .map(|place| place.expect("a place"))
        .collect();
    // Given once, and never again.
    for (id, place) in ids.iter().zip(&places) {
        assert_eq!(
            world.broker.place(community, *id).await.expect("known"),
            *place
        );
    }
    places.sort_unstable();
    assert_eq!(places, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_leaf_is_proved_under_each_checkpoint_and_they_are_consistent() {
    let world = World::new().await;
    world
        .broker
        .sign_checkpoints()
        .await
        .expect("nothing to do");
    let none = world.broker.checkpoint(None, &community(), 0).await;
    assert_eq!(none.expect_err("empty").code, ErrorCode::LogUnknown);
    let mut heads = Vec::new();
    for count in [1, 2, 260, 256, 700] {
        world.put(count).await;
        heads.push(world.sign().await);
    }
    let (broker, community) = (&world.broker, &community());
    let leaves = world.leaves().await;
    for head in &heads {
        for index in (0..head.size).step_by(37).chain([head.size - 1]) {
            let proved = broker
                .prove_inclusion(None, community, index, head.size)
                .await;
            let proved = proved.expect("proved");
            let place = usize::try_from(index).expect("small");
            assert_eq!(proved.record.leaf, leaves[place].leaf);
            let leaf = MerkleHash::of_leaf(&proved.record.leaf);
            verify_inclusion(&leaf, index, head, &proved.hashes).expect("in the tree");
        }
    }
    for pair in heads.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let proof = broker.prove_consistency(None, community, from.size, to.size);
        verify_consistency(&from, &to, &proof.await.expect("proved")).expect("only grown");
    }
    let beyond = heads[4].size + 1;
    let refused = broker.prove_inclusion(None, community, 0, beyond).await;
    assert_eq!(refused.expect_err("beyond").code, ErrorCode::LeafUnknown);
    let refused = broker.prove_consistency(None, community, 2, 1).await;
    assert_eq!(refused.expect_err("shrunk").code, ErrorCode::LeafUnknown);
}

#[tokio::test]
async fn tiles_of_a_part_that_was_never_signed_do_no_harm() {
    let world = World::new().await;
    world.put(300).await;
    let before = world.sign().await;
    // As a crash after the first of two parts leaves it.
    world.put(300).await;
    world.broker.sequence().await.expect("sequenced");
    let (mut edge, size) = world.broker.edge(&community()).await.expect("an edge");
    assert_eq!(size, 600);
    let part = edge.size()..590;
    let leaves = world.broker.leaf_hashes(&community(), &part).await;
    let tiles = edge.append(leaves.expect("leaves"));
    let put = world
        .broker
        .put_part(&community(), before.size, &tiles, None)
        .await;
    assert!(put.expect("put"));
    let proof = world
        .broker
        .prove_consistency(None, &community(), 7, before.size)
        .await;
    assert!(!proof.expect("proved").is_empty());
    let after = world.sign().await;
    let proof = world
        .broker
        .prove_consistency(None, &community(), before.size, after.size)
        .await;
    verify_consistency(&before, &after, &proof.expect("proved")).expect("only grown");
    // Whoever began before that checkpoint puts nothing more.
    let put = world
        .broker
        .put_part(&community(), before.size, &tiles, None)
        .await;
    assert!(!put.expect("looked"));
}

#[tokio::test]
async fn a_tree_that_was_changed_is_not_signed() {
    let world = World::new().await;
    world.put(3).await;
    world.sign().await;
    let tile = Tile::new(0, 0, 4).expect("a tile");
    tx!(world, tx => tx.put_tile(&community(), tile, &[7; 4 * 32]).await);
    world.put(1).await;
    world.broker.sequence().await.expect("sequenced");
    let error = world.broker.sign_checkpoints().await.expect_err("changed");
    let cause = error.source.expect("said").to_string();
    assert!(cause.contains("The ledger was changed"), "{cause}");
}

#[tokio::test]
async fn a_list_goes_on_by_its_token_and_finds_cases_in_the_openings() {
    let world = World::new().await;
    let community = &community();
    let entries: Vec<_> = (0..40)
        .map(|n| {
            let by = if n % 2 == 0 { "nl-fiu" } else { "de-bka" };
            world.entry(by, Some(if n % 4 == 0 { "case-a" } else { "case-b" }))
        })
        .collect();
    let entries = &entries;
    tx!(world, tx => {
        for entry in entries {
            journal::put(tx, entry).await?;
        }
        Ok(())
    });
    let filter = &EntryFilter {
        node: Some(node("nl-fiu")),
        ..EntryFilter::default()
    };
    let broker = &world.broker;
    let unsigned = broker.list_entries(community, filter, None, "", 3).await;
    assert!(unsigned.expect("listed").entries.is_empty());
    world.sign().await;
    for (case_ref, expected) in [(None, 20), (Some("case-a"), 10), (Some("case-c"), 0)] {
        let (mut token, mut found) = (String::new(), Vec::new());
        loop {
            let page = broker
                .list_entries(community, filter, case_ref, &token, 3)
                .await;
            let page = page.expect("listed");
            assert!(page.entries.len() <= 3);
            found.extend(page.entries.iter().map(|entry| entry.index));
            match page.next {
                Some(next) => token = next,
                None => break,
            }
        }
        assert_eq!(found.len(), expected);
        assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
    }
    let page = broker.list_entries(community, filter, None, "", 3).await;
    let token = page.expect("listed").next.expect("more");
    let other = broker
        .list_entries(community, filter, Some("case-a"), &token, 3)
        .await;
    assert_eq!(
        other.expect_err("of another list").code,
        ErrorCode::CursorInvalid
    );
}

#[tokio::test]
async fn a_node_reads_its_own_entries_alone() {
    let world = World::new().await;
    world.put(1).await;
    world.sign().await;
    let (broker, community) = (&world.broker, &community());
    let own = broker.logged(Some(&node("nl-fiu")), community, 0).await;
    let entry = own.expect("its own").opening.expect("open");
    let entry = read_entry(entry.entry()).expect("an entry");
    assert_eq!(entry.action, Action::OpenSession);
    for (caller, index) in [
        (Some(node("de-bka")), 0),
        (Some(node("nl-fiu")), 1),
        (None, 1),
    ] {
        let refused = broker.logged(caller.as_ref(), community, index).await;
        assert_eq!(
            refused.expect_err("not its own").code,
            ErrorCode::LeafUnknown
        );
    }
    broker
        .logged(None, community, 0)
        .await
        .expect("an auditor's");
}

#[tokio::test]
async fn the_steps_of_a_follow_up_are_proved_to_its_parties_alone() {
    let world = World::new().await;
    let community = &community();
    tx!(world, tx => tx.put_node(community, &node("fr-pj"), NOW).await);
    let ids = [(); 2].map(|()| FollowUpId::generate(NOW, &mut os_rng()));
    let made = |(by, to, action, id): (&str, &str, Action, FollowUpId)| {
        let (journal, now) = (&world.broker.journal, world.broker.now());
        let entry = journal.by_node(&node(by), action, community, now);
        let mut entry = entry.expect("an entry");
        entry.object.follow_up = Some(id);
        entry.recipient = Some(node(to));
        entry
    };
    let entries = &[
        ("nl-fiu", "de-bka", Action::TakeStep, ids[0]),
        ("nl-fiu", "de-bka", Action::TakeStep, ids[1]),
        ("de-bka", "nl-fiu", Action::CompleteAttachment, ids[0]),
        ("nl-fiu", "de-bka", Action::FetchAttachment, ids[0]),
        ("de-bka", "nl-fiu", Action::TakeStep, ids[0]),
    ]
    .map(made);
    tx!(world, tx => {
        for entry in entries {
            journal::put(tx, entry).await?;
        }
        Ok(())
    });
    let head = world.sign().await;
    let broker = &world.broker;
    let prove = async |caller: &str, size| {
        let caller = node(caller);
        broker
            .prove_follow_up(&caller, community, ids[0], size)
            .await
    };
    for party in ["nl-fiu", "de-bka"] {
        let proved = prove(party, head.size).await.expect("proved");
        let places: Vec<_> = proved.iter().map(|proved| proved.record.index).collect();
        assert_eq!(places, [0, 4]);
        for proved in proved {
            let leaf = MerkleHash::of_leaf(&proved.record.leaf);
            verify_inclusion(&leaf, proved.record.index, &head, &proved.hashes)
                .expect("in the tree");
        }
        assert!(prove(party, 0).await.expect("looked").is_empty());
    }
    assert!(prove("fr-pj", head.size).await.expect("looked").is_empty());
    let refused = prove("nl-fiu", head.size + 1).await;
    assert_eq!(refused.expect_err("beyond").code, ErrorCode::LeafUnknown);
}

#[tokio::test]
async fn openings_are_erased_after_their_time_and_the_tree_stays() {
    let world = World::new().await;
    world.put(510).await;
    let before = world.sign().await;
    let erase = async || world.broker.erase_openings().await.expect("erased");
    assert_eq!(erase().await, 0);
    world.clock.advance(Duration::from_hours(24 * 1096));
    assert_eq!(erase().await, 510);
    let after = world.sign().await;
    // One entry for each step.
    assert_eq!(after.size, before.size + 2);
    let leaves = world.leaves().await;
    assert!(leaves[..510].iter().all(|leaf| leaf.opening.is_none()));
    let counts = leaves[510..].iter().map(|leaf| {
        let opening = leaf.opening.as_ref().expect("new");
        read_entry(opening.entry()).expect("an entry").detail
    });
    assert_eq!(counts.collect::<Vec<_>>(), ["500", "10"]);
    let proof = world
        .broker
        .prove_consistency(None, &community(), before.size, after.size)
        .await;
    verify_consistency(&before, &after, &proof.expect("proved")).expect("only grown");
    let proved = world
        .broker
        .prove_inclusion(None, &community(), 0, after.size)
        .await;
    let proved = proved.expect("proved");
    let leaf = MerkleHash::of_leaf(&proved.record.leaf);
    verify_inclusion(&leaf, 0, &after, &proved.hashes).expect("in the tree");
}

/// An epoch whose custodian has signed that openings are kept for this time.
fn epoch_that_keeps(number: u32, openings: Duration) -> EpochRecord {
    let (signing, policy) = (SigningKey::generate(&mut os_rng()), Policy::Phone);
    let member = MemberKeys {
        node: node("nl-fiu"),
        signing: signing.verifying_key(),
        cosigning: SigningKey::generate(&mut os_rng()).verifying_key(),
        hpke: vec![KemKey {
            kem: 0x20,
            key: HpkeKeyPair::generate(&mut os_rng()).public().to_bytes(),
        }],
    };
    let (k, prior) = (DEFAULT_K, 0.001);
    let mut profile = Profile::new(vec![PolicyProfile { policy, k, prior }]).expect("a profile");
    profile.retention.hits = openings;
    let manifest = Manifest {
        community: community(),
        epoch: Epoch::new(number).expect("from 1"),
        custodian: member.node.clone(),
        members: vec![member],
        key_commitment: KeyCommitment::new([5; 32]),
        policies: vec![ManifestPolicy {
            policy,
            canary_tags: vec![Tag::new([1; 16])],
            forms: [2; 32],
        }],
        profile,
        not_before: NOW,
        not_after: NOW.plus(Duration::from_hours(24)),
    };
    EpochRecord {
        epoch: manifest.epoch,
        state: EpochState::Ended,
        custodian: manifest.custodian.clone(),
        kid: manifest.kid(),
        not_before: manifest.not_before,
        not_after: manifest.not_after,
        manifest: convert::sign(manifest, &signing).encode_to_vec(),
    }
}

#[tokio::test]
async fn openings_are_kept_no_shorter_than_the_custodian_of_the_latest_epoch_has_signed() {
    const DAY: Duration = Duration::from_hours(24);
    let world = World::new().await;
    world.put(3).await;
    world.sign().await;
    let erase = async || world.broker.erase_openings().await.expect("erased");
    let put = async |epoch: EpochRecord| {
        let epoch = &epoch;
        tx!(world, tx => tx.put_epoch(&community(), epoch, &[]).await);
    };
    put(epoch_that_keeps(1, DAY * 9000)).await;
    put(epoch_that_keeps(2, DAY * 1100)).await;
    // The operator proposes 1095.
    world.clock.advance(DAY * 1096);
    assert_eq!(erase().await, 0);
    world.clock.advance(DAY * 5);
    assert_eq!(erase().await, 3);
    // And no shorter than is proposed.
    put(epoch_that_keeps(3, DAY)).await;
    world.put(2).await;
    world.sign().await;
    world.clock.advance(DAY * 2);
    assert_eq!(erase().await, 0);
}
