//! Follow-ups at a broker without its network and jobs.

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

mod crash;
mod figures;
mod files;
mod limits;
mod reminders;
mod steps;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use sotto_common::dsse::SigningKey;
use sotto_common::epoch::KeyCommitment;
use sotto_common::followup::attachment::{AttachmentClear, AttachmentHasher};
use sotto_common::followup::codes::{HandlingCode, Item, RefusalGround, TimeLimit};
use sotto_common::followup::record::NO_PREVIOUS;
use sotto_common::followup::step::{AttachmentDigest, ItemOutcome, Outcomes, Terms};
use sotto_common::followup::{FollowUpState, transition};
use sotto_common::ids::{AttachmentId, Epoch, FollowUpId, HitId, RecordRef};
use sotto_common::membership::{
    EpochState, KemKey, Manifest, ManifestPolicy, MemberKeys, PolicyProfile, Profile,
};
use sotto_common::random::os_rng;
use sotto_common::sealed::{HpkeKeyPair, Suite};
use sotto_common::secret::Tag;
use sotto_common::selector::Policy;
use sotto_common::service::at_rest::ColumnCipher;
use sotto_common::time::MockClock;
use sotto_proto::convert::follow_up::{make_step, write_attachment};

use super::*;
use crate::app::{Journal, Log, Parts};
use crate::cache::Cache;
use crate::config::ObjectsUrl;
use crate::datastore::{Datastore, EpochRecord};
use crate::matcher::Matcher;
use crate::objects::Objects;

const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);
const DAY: Duration = Duration::from_hours(24);
const NAMES: [&str; 3] = ["nl-fiu", "de-bka", "fr-pj"];

fn community() -> CommunityId {
    "euro-cyber".parse().expect("a community")
}

fn node(name: &str) -> NodeId {
    name.parse().expect("a node")
}

/// Three nodes in one epoch, which outlive their broker.
struct Nodes {
    clock: MockClock,
    keys: [SigningKey; 3],
    /// One for all of them: no broker can tell.
    hpke: HpkeKeyPair,
}

/// A broker with its nodes, and the folder that is its own, if nobody else keeps it.
struct World {
    broker: Broker,
    nodes: Arc<Nodes>,
    _dir: Option<tempfile::TempDir>,
}

impl Nodes {
    fn new() -> Self {
        Self {
            clock: MockClock::at(NOW),
            keys: std::array::from_fn(|_| SigningKey::generate(&mut os_rng())),
            hpke: HpkeKeyPair::generate(&mut os_rng()),
        }
    }

    fn now(&self) -> Timestamp {
        sotto_common::time::Clock::now(&self.clock)
    }
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let on = Self::on(dir.path(), &Arc::new(Nodes::new())).await;
        let world = Self {
            _dir: Some(dir),
            ..on
        };
        world.open_epoch().await;
        world
    }

    /// A broker on what lies in a folder.
    async fn on(dir: &Path, nodes: &Arc<Nodes>) -> Self {
        let ledger = dir.join("ledger.db");
        let store = Datastore::open_file(&ledger, ColumnCipher::off()).await;
        let objects = Objects::open(&ObjectsUrl::Local, dir, None).expect("a store");
        let cache = Cache::open(dir).expect("a cache");
        let own = "spiffe://sotto.test/broker/main"
            .parse()
            .expect("a SPIFFE ID");
        let parts = Parts {
            store: store.expect("open"),
            objects,
            cache,
            matcher: Matcher::default(),
            replica_file: dir.join("replica"),
            journal: Journal::new(own),
            log: Log::of_tests(),
            clock: Arc::new(nodes.clock.clone()),
        };
        Self {
            broker: Broker::start(parts, false).await.expect("started"),
            nodes: Arc::clone(nodes),
            _dir: None,
        }
    }

    async fn open_epoch(&self) {
        let member = |(name, key): (&&str, &SigningKey)| MemberKeys {
            node: node(name),
            signing: key.verifying_key(),
            cosigning: SigningKey::generate(&mut os_rng()).verifying_key(),
            hpke: vec![KemKey {
                kem: 0x20,
                key: self.nodes.hpke.public().to_bytes(),
            }],
        };
        let policy = Policy::Phone;
        let (k, prior) = (30, 0.001);
        let profile = Profile::new(vec![PolicyProfile { policy, k, prior }]).expect("a profile");
        let manifest = Manifest {
            community: community(),
            epoch: Epoch::new(1).expect("from 1"),
            custodian: node(NAMES[0]),
            members: NAMES.iter().zip(&self.nodes.keys).map(member).collect(),
            key_commitment: KeyCommitment::new([5; 32]),
            policies: vec![ManifestPolicy {
                policy,
                canary_tags: vec![Tag::new([1; 16])],
                forms: [2; 32],
            }],
            profile,
            not_before: NOW,
            not_after: NOW.plus(DAY * 30),
        };
        let epoch = &EpochRecord {
            epoch: manifest.epoch,
            // Follow-ups outlive their epoch.
            state: EpochState::Ended,
            custodian: manifest.custodian.clone(),
            kid: manifest.kid(),
            not_before: manifest.not_before,
            not_after: manifest.not_after,
            manifest: convert::sign(manifest, &self.nodes.keys[0]).encode_to_vec(),
        };
        tx!(self, tx => {
            tx.put_community(&community(), b"", NOW).await?;
            for name in NAMES {
                tx.put_node(&community(), &node(name), NOW).await?;
            }
            tx.put_epoch(&community(), epoch, &[]).await
        });
    }

    /// A confirmed hit of one node on another.
    async fn hit(&self, prober: &str, holder: &str) -> HitId {
        let id = HitId::generate(self.clock_now(), &mut os_rng());
        let hit = &HitRecord {
            id,
            key: StackKey {
                community: community(),
                epoch: Epoch::new(1).expect("from 1"),
                policy: Policy::Phone,
            },
            prober: node(prober),
            record_ref: RecordRef::new(*id.as_bytes()),
            holder: node(holder),
            state: HitState::Confirmed,
            filter_version: 4,
            fpr: 1e-9,
            posterior: 0.999_999,
            first_seen: NOW,
            last_seen: NOW,
            unmatched_since: None,
            touched_at: NOW,
        };
        tx!(self, tx => tx.put_hits(std::slice::from_ref(hit)).await);
        id
    }

    async fn hit_state(&self, prober: &str, id: HitId) -> HitState {
        let (community, prober) = (&community(), &node(prober));
        let hit = tx!(self, tx => tx.get_hit(community, prober, id).await);
        hit.expect("there").hit.state
    }

    fn clock_now(&self) -> Timestamp {
        self.nodes.now()
    }

    /// A follow-up of `nl-fiu` at `de-bka`, brought to RECEIVED.
    async fn received(&self) -> Follow {
        let mut follow = Follow::on(self.hit("nl-fiu", "de-bka").await, self.clock_now());
        for detail in [request(), StepDetail::Held, StepDetail::Particulars] {
            follow.take(self, detail).await.expect("taken");
        }
        follow
    }

    /// What a node was told, as events.
    async fn told(&self, name: &str) -> Vec<FollowUpEvent> {
        let (node, community) = (&node(name), &community());
        let told = self.broker.follow_up_events(node, community, 0, 1000);
        told.await
            .expect("read")
            .into_iter()
            .map(|view| view.event)
            .collect()
    }

    /// As [`Self::told`], without the steps, after a pass of the job.
    async fn news(&self) -> Vec<FollowUpEvent> {
        self.broker.keep_follow_up_times().await.expect("done");
        let mut told = self.told("nl-fiu").await;
        assert_eq!(told, self.told("de-bka").await, "both are told the same");
        told.retain(|event| !matches!(event, FollowUpEvent::Step(_)));
        told
    }

    /// The holder announces a file; gives how much of it the broker has.
    async fn announce(&self, file: &Announced) -> Result<u64> {
        let holder = node("de-bka");
        let announced = self.broker.create_attachment(&holder, file);
        announced.await.map(|(acknowledged, _)| acknowledged)
    }

    async fn objects(&self) -> usize {
        let listed: Vec<_> = self
            .broker
            .objects
            .list()
            .try_collect()
            .await
            .expect("listed");
        listed.len()
    }
}

/// A follow-up as its parties replay it.
#[derive(Clone)]
struct Follow {
    id: FollowUpId,
    hit: HitId,
    record: Option<FollowUp>,
}

fn items() -> Vec<Item> {
    vec![Item::Identity, Item::Vehicles]
}

fn request() -> StepDetail {
    StepDetail::Submit(Terms::new(TimeLimit::Ordinary, None, "A.1", items()).expect("terms"))
}

fn answer(files: &[&File]) -> StepDetail {
    let refused = ItemOutcome::Refused(RefusalGround::NotAvailable);
    let outcomes = vec![
        (Item::Identity, ItemOutcome::Provided),
        (Item::Vehicles, refused),
    ];
    StepDetail::Answer(AnswerClear {
        outcomes: Outcomes::new(outcomes).expect("outcomes"),
        handling: HandlingCode::H0,
        attachments: files.iter().map(|file| file.named()).collect(),
    })
}

impl Follow {
    fn on(hit: HitId, now: Timestamp) -> Self {
        Self {
            id: FollowUpId::generate(now, &mut os_rng()),
            hit,
            record: None,
        }
    }

    /// The next step, signed by whose turn it is; its sealed part, if it has one, holds so many
    /// bytes.
    fn sign(
        &self,
        nodes: &Nodes,
        detail: StepDetail,
        length: usize,
    ) -> (StepClear, v1::DsseEnvelope) {
        let record = self.record.as_ref();
        let step = detail.step();
        let state = record.map_or(FollowUpState::Draft, |record| record.state);
        let (sender, recipient, key) = match step.by() {
            Party::Requester => ("nl-fiu", "de-bka", &nodes.keys[0]),
            Party::Holder => ("de-bka", "nl-fiu", &nodes.keys[1]),
        };
        let clear = StepClear {
            community: community(),
            follow_up: self.id,
            hit: self.hit,
            seq: record.map_or(0, |record| record.next_seq),
            previous: record.map_or(NO_PREVIOUS, |record| record.last_body),
            sender: node(sender),
            recipient: node(recipient),
            made_at: nodes.now(),
            state: transition(state, step).expect("allowed"),
            detail,
        };
        let content = vec![7; length];
        let content = step.sealing().part().map(|_| &content[..]);
        let statement = make_step(clear.clone(), content, nodes.hpke.public(), &mut os_rng());
        (clear, convert::sign(statement.expect("a step"), key))
    }

    async fn take(&mut self, world: &World, detail: StepDetail) -> Result<StepTaken> {
        self.say(world, detail, 100).await
    }

    /// Takes a step whose sealed part, if it has one, holds so many bytes.
    async fn say(&mut self, world: &World, detail: StepDetail, length: usize) -> Result<StepTaken> {
        let (clear, signed) = self.sign(&world.nodes, detail, length);
        let broker = &world.broker;
        let taken = broker
            .submit_step(&clear.sender, &clear.community, &signed)
            .await?;
        self.record = Some(taken.record.follow_up.clone());
        Ok(taken)
    }

    async fn refused(&mut self, world: &World, detail: StepDetail, length: usize) -> ErrorCode {
        match self.say(world, detail, length).await {
            Ok(_) => panic!("taken"),
            Err(error) => error.code,
        }
    }
}

/// What announces a file of so many bytes; the digest is that of none.
fn announced(follow: &Follow, size: u64) -> Announced {
    let id = AttachmentId::generate(NOW, &mut os_rng());
    let clear = AttachmentClear::new(follow.id, id, "attachment-1", size);
    let clear = clear.expect("a clear part");
    Announced {
        community: community(),
        clear_bytes: write_attachment(&clear).0,
        clear,
        suite: Suite::X25519Sha256ChaCha20Poly1305,
        enc: vec![3; 32],
        digest: [0; 32],
    }
}

/// Sealed bytes, as far as a broker can tell.
struct File {
    announced: Announced,
    sealed: Vec<u8>,
}

impl File {
    fn new(follow: &Follow, size: usize) -> Self {
        let mut announced = announced(follow, size as u64);
        let sealed_size = announced.clear.sealed_size();
        let sealed = vec![0xa5; usize::try_from(sealed_size).expect("small")];
        let (_, clear_digest) = write_attachment(&announced.clear);
        let mut hasher = AttachmentHasher::new(&clear_digest, announced.suite, &announced.enc);
        hasher.update(&sealed);
        announced.digest = hasher.finish();
        Self { announced, sealed }
    }

    fn named(&self) -> AttachmentDigest {
        AttachmentDigest {
            id: self.announced.clear.id,
            digest: self.announced.digest,
        }
    }

    fn place(&self, offset: usize) -> Place {
        Place {
            community: community(),
            follow_up: self.announced.clear.follow_up,
            attachment: self.announced.clear.id,
            offset: offset as u64,
        }
    }

    async fn announce(&self, world: &World) -> Result<u64> {
        world.announce(&self.announced).await
    }

    async fn append(&self, world: &World, bytes: std::ops::Range<usize>) -> Result<u64> {
        let (place, data) = (self.place(bytes.start), self.sealed[bytes].to_vec());
        let holder = node("de-bka");
        world
            .broker
            .append_attachment(&holder, &place, data.into())
            .await
    }

    async fn upload(&self, world: &World) {
        self.announce(world).await.expect("announced");
        let done = self.append(world, 0..self.sealed.len()).await;
        assert_eq!(done.expect("whole"), self.sealed.len() as u64);
    }
}
