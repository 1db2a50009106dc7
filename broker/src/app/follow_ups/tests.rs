//! Follow-ups at a broker without its network and jobs: bounds, time, files, figures.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use sotto_common::dsse::SigningKey;
use sotto_common::epoch::KeyCommitment;
use sotto_common::followup::attachment::{AttachmentClear, AttachmentHasher, SEGMENT};
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
use crate::cache::Cache;
use crate::config::ObjectsUrl;
use crate::datastore::{AttachmentChunk, Datastore, EpochRecord};
use crate::objects::{ObjectOwner, Objects};

const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);
const DAY: Duration = Duration::from_hours(24);
const NAMES: [&str; 3] = ["nl-fiu", "de-bka", "fr-pj"];

fn community() -> CommunityId {
    "euro-cyber".parse().expect("a community")
}

fn node(name: &str) -> NodeId {
    name.parse().expect("a node")
}

/// A broker with three nodes in one epoch.
struct World {
    broker: Broker,
    clock: MockClock,
    keys: [SigningKey; 3],
    hpke: HpkeKeyPair,
    _dir: tempfile::TempDir,
}

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

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let ledger = dir.path().join("ledger.db");
        let store = Datastore::open_file(&ledger, ColumnCipher::off()).await;
        let objects = Objects::open(&ObjectsUrl::Local, dir.path(), None).expect("a store");
        let cache = Cache::open(dir.path()).expect("a cache");
        let (clock, replica) = (MockClock::at(NOW), dir.path().join("replica"));
        let shared = Arc::new(clock.clone());
        let started = Broker::start(store.expect("open"), objects, cache, replica, shared, false);
        let world = Self {
            broker: started.await.expect("started"),
            clock,
            keys: std::array::from_fn(|_| SigningKey::generate(&mut os_rng())),
            hpke: HpkeKeyPair::generate(&mut os_rng()),
            _dir: dir,
        };
        world.open_epoch().await;
        world
    }

    async fn open_epoch(&self) {
        let member = |(name, key): (&&str, &SigningKey)| MemberKeys {
            node: node(name),
            signing: key.verifying_key(),
            cosigning: SigningKey::generate(&mut os_rng()).verifying_key(),
            hpke: vec![KemKey {
                kem: 0x20,
                key: self.hpke.public().to_bytes(),
            }],
        };
        let policy = Policy::Phone;
        let (k, prior) = (30, 0.001);
        let profile = Profile::new(vec![PolicyProfile { policy, k, prior }]).expect("a profile");
        let manifest = Manifest {
            community: community(),
            epoch: Epoch::new(1).expect("from 1"),
            custodian: node(NAMES[0]),
            members: NAMES.iter().zip(&self.keys).map(member).collect(),
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
            manifest: convert::sign(manifest, &self.keys[0]).encode_to_vec(),
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
        tx!(self, tx => tx.put_hit(hit).await);
        id
    }

    async fn hit_state(&self, prober: &str, id: HitId) -> HitState {
        let (community, prober) = (&community(), &node(prober));
        let hit = tx!(self, tx => tx.get_hit(community, prober, id).await);
        hit.expect("there").state
    }

    fn clock_now(&self) -> Timestamp {
        sotto_common::time::Clock::now(&self.clock)
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

    async fn take(&mut self, world: &World, detail: StepDetail) -> Result<StepTaken> {
        self.say(world, detail, 100).await
    }

    /// Takes a step whose sealed part, if it has one, holds so many bytes.
    async fn say(&mut self, world: &World, detail: StepDetail, length: usize) -> Result<StepTaken> {
        let record = self.record.as_ref();
        let step = detail.step();
        let state = record.map_or(FollowUpState::Draft, |record| record.state);
        let (sender, key) = match step.by() {
            Party::Requester => ("nl-fiu", &world.keys[0]),
            Party::Holder => ("de-bka", &world.keys[1]),
        };
        let recipient = if sender == "nl-fiu" {
            "de-bka"
        } else {
            "nl-fiu"
        };
        let clear = StepClear {
            community: community(),
            follow_up: self.id,
            hit: self.hit,
            seq: record.map_or(0, |record| record.next_seq),
            previous: record.map_or(NO_PREVIOUS, |record| record.last_body),
            sender: node(sender),
            recipient: node(recipient),
            made_at: world.clock_now(),
            state: transition(state, step).expect("allowed"),
            detail,
        };
        let content = vec![7; length];
        let content = step.sealing().part().map(|_| &content[..]);
        let statement = make_step(clear, content, world.hpke.public(), &mut os_rng());
        let signed = convert::sign(statement.expect("a step"), key);
        let caller = node(sender);
        let community = community();
        let taken = world.broker.submit_step(&caller, &community, &signed);
        let taken = taken.await?;
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

/// Sealed bytes, as far as a broker can tell.
struct File {
    announced: Announced,
    sealed: Vec<u8>,
}

impl File {
    fn new(follow: &Follow, size: usize) -> Self {
        let id = AttachmentId::generate(NOW, &mut os_rng());
        let clear = AttachmentClear::new(follow.id, id, "attachment-1", size as u64);
        let clear = clear.expect("a clear part");
        let sealed = vec![0xa5; usize::try_from(clear.sealed_size()).expect("small")];
        let (clear_bytes, clear_digest) = write_attachment(&clear);
        let (suite, enc) = (Suite::X25519Sha256ChaCha20Poly1305, vec![3; 32]);
        let mut hasher = AttachmentHasher::new(&clear_digest, suite, &enc);
        hasher.update(&sealed);
        let announced = Announced {
            community: community(),
            clear,
            clear_bytes,
            suite,
            enc,
            digest: hasher.finish(),
        };
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
        let holder = node("de-bka");
        let announced = world.broker.create_attachment(&holder, &self.announced);
        announced.await.map(|(acknowledged, _)| acknowledged)
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

#[tokio::test]
async fn clarifications_end_before_the_steps_do_and_all_of_it_ends() {
    let world = World::new().await;
    let mut follow = world.received().await;
    let refused = loop {
        match follow.take(&world, StepDetail::RequestClarification).await {
            Ok(_) => follow.take(&world, StepDetail::Reply).await.expect("taken"),
            Err(error) => break error.code,
        };
    };
    assert_eq!(refused, ErrorCode::LimitReached);
    for detail in [StepDetail::Accept, answer(&[]), StepDetail::Close] {
        follow.take(&world, detail).await.expect("taken");
    }
    let steps = follow.record.expect("there").next_seq;
    assert!(
        (MAX_STEPS - 2 * LAST_STEPS..MAX_STEPS).contains(&steps),
        "{steps}"
    );
}

#[tokio::test]
async fn nobody_is_kept_from_answering_by_much_talk() {
    let world = World::new().await;
    let mut follow = world.received().await;
    let much = 900 * 1024;
    for detail in [StepDetail::RequestClarification, StepDetail::Reply] {
        follow.say(&world, detail, much).await.expect("taken");
    }
    let more = follow
        .refused(&world, StepDetail::RequestClarification, much)
        .await;
    assert_eq!(more, ErrorCode::LimitReached);
    follow
        .take(&world, StepDetail::Accept)
        .await
        .expect("taken");
    let answered = follow.say(&world, answer(&[]), 1_000_000).await;
    assert!(answered.expect("taken").record.statement_bytes < 3 << 20);
}

#[tokio::test]
async fn reminders_come_once_for_each_run_of_the_clock_and_before_what_comes_later() {
    use FollowUpEvent::Reminder;
    let world = World::new().await;
    let mut follow = world.received().await;
    // Half of seven days has passed, and no job has run.
    world.clock.advance(DAY * 4);
    let asked = follow.take(&world, StepDetail::RequestClarification).await;
    asked.expect("taken");
    let told = world.told("nl-fiu").await;
    assert_eq!(told[3..], [Reminder(50), FollowUpEvent::Step(3)]);
    world.clock.advance(DAY * 30);
    assert_eq!(world.news().await, [Reminder(50)], "the clock stands still");
    follow.take(&world, StepDetail::Reply).await.expect("taken");
    assert_eq!(world.news().await, [Reminder(50)], "not again");
    world.clock.advance(DAY * 2);
    assert_eq!(world.news().await, [50, 80].map(Reminder));
    let new_date = world.clock_now().plus(DAY * 20);
    let delay = StepDetail::AwaitJudicialAuthorisation { new_date };
    follow.take(&world, delay).await.expect("taken");
    world.clock.advance(DAY * 21);
    assert_eq!(world.news().await, [50, 80, 50, 80, 100].map(Reminder));
    let accepted = follow
        .take(&world, StepDetail::Accept)
        .await
        .expect("taken");
    assert!(accepted.record.follow_up.is_overdue(world.clock_now()));
    world.clock.advance(DAY * 21);
    assert_eq!(world.news().await.len(), 5, "there is no more");
}

#[tokio::test]
async fn a_step_that_is_refused_late_leaves_nothing_behind() {
    let world = World::new().await;
    let mut follow = world.received().await;
    follow
        .take(&world, StepDetail::Accept)
        .await
        .expect("taken");
    let file = File::new(&follow, 10);
    // A reminder is due: it is not told by a step that fails.
    world.clock.advance(DAY * 4);
    let before = world.told("nl-fiu").await;
    let refused = follow.refused(&world, answer(&[&file]), 10).await;
    assert_eq!(refused, ErrorCode::AttachmentState);
    assert_eq!(world.told("nl-fiu").await, before);
    let (de, community) = (&node("de-bka"), &community());
    let read = world.broker.follow_up(de, community, follow.id);
    let (record, steps, _) = read.await.expect("there");
    assert_eq!(
        (record.follow_up, steps.len()),
        (follow.record.expect("there"), 4)
    );
}

#[tokio::test]
async fn an_id_that_another_uses_is_refused_and_the_hit_stays() {
    let world = World::new().await;
    let others = world.received().await;
    let hit = world.hit("fr-pj", "de-bka").await;
    let mut clear = StepClear {
        community: community(),
        follow_up: others.id,
        hit,
        seq: 0,
        previous: NO_PREVIOUS,
        sender: node("fr-pj"),
        recipient: node("de-bka"),
        made_at: NOW,
        state: FollowUpState::Submitted,
        detail: request(),
    };
    let (fr, community) = (&node("fr-pj"), &community());
    let submit = async |clear: &StepClear| {
        let key = world.hpke.public();
        let statement = make_step(clear.clone(), Some(b"tags"), key, &mut os_rng());
        let signed = convert::sign(statement.expect("a step"), &world.keys[2]);
        let taken = world.broker.submit_step(fr, community, &signed);
        taken.await.map(drop).map_err(|error| error.code)
    };
    assert_eq!(submit(&clear).await, Err(ErrorCode::FollowUpMismatch));
    assert_eq!(world.hit_state("fr-pj", hit).await, HitState::Confirmed);
    clear.follow_up = FollowUpId::generate(NOW, &mut os_rng());
    assert_eq!(submit(&clear).await, Ok(()));
    assert_eq!(world.hit_state("fr-pj", hit).await, HitState::FollowedUp);
}

#[tokio::test]
async fn a_file_whose_upload_was_cut_off_at_its_end_is_whole_at_the_next_call() {
    let world = World::new().await;
    let mut follow = world.received().await;
    follow
        .take(&world, StepDetail::Accept)
        .await
        .expect("taken");
    let file = File::new(&follow, SEGMENT);
    file.announce(&world).await.expect("announced");
    // As after a crash between the last acknowledgement and the comparison.
    let chunk = &AttachmentChunk {
        start: 0,
        length: file.sealed.len() as u64,
        object: ObjectKey::of(ObjectOwner::FollowUp(follow.id), &mut os_rng()),
    };
    let stored = world
        .broker
        .objects
        .put(&chunk.object, file.sealed.clone().into());
    stored.await.expect("stored");
    let id = file.announced.clear.id;
    tx!(world, tx => tx.put_attachment_chunk(follow.id, id, chunk).await);
    let refused = follow.refused(&world, answer(&[&file]), 10).await;
    assert_eq!(refused, ErrorCode::AttachmentState);
    let again = file.announce(&world).await.expect("whole");
    assert_eq!(again, file.sealed.len() as u64);
    follow.take(&world, answer(&[&file])).await.expect("taken");
}

#[tokio::test]
async fn chunks_are_of_their_lengths_and_what_is_not_right_is_thrown_away() {
    let world = World::new().await;
    let mut follow = world.received().await;
    follow
        .take(&world, StepDetail::Accept)
        .await
        .expect("taken");
    let mut file = File::new(&follow, 2 * SEGMENT);
    file.announce(&world).await.expect("announced");
    let code = |done: Result<u64>| done.expect_err("refused").code;
    assert_eq!(
        code(file.append(&world, 0..0).await),
        ErrorCode::InvalidField
    );
    assert_eq!(
        code(file.append(&world, 0..SEGMENT - 1).await),
        ErrorCode::InvalidField
    );
    assert_eq!(
        code(file.append(&world, 1..SEGMENT + 1).await),
        ErrorCode::OffsetMismatch
    );
    assert_eq!(
        file.append(&world, 0..SEGMENT).await.expect("taken"),
        SEGMENT as u64
    );
    file.sealed[SEGMENT + 1] ^= 1;
    let rest = SEGMENT..file.sealed.len();
    assert_eq!(
        code(file.append(&world, rest.clone()).await),
        ErrorCode::AttachmentState
    );
    assert_eq!(
        (
            world.objects().await,
            file.announce(&world).await.expect("again")
        ),
        (0, 0)
    );
    file.sealed[SEGMENT + 1] ^= 1;
    for bytes in [0..SEGMENT, rest] {
        file.append(&world, bytes).await.expect("taken");
    }
    let otherwise = Announced {
        digest: [1; 32],
        ..File::new(&follow, 2 * SEGMENT).announced
    };
    let otherwise = Announced {
        clear: file.announced.clear.clone(),
        ..otherwise
    };
    let holder = &node("de-bka");
    let again = world.broker.create_attachment(holder, &otherwise);
    assert_eq!(
        again.await.expect_err("refused").code,
        ErrorCode::AttachmentState
    );
}

#[tokio::test]
async fn files_go_with_what_needs_them() {
    let world = World::new().await;
    let mut follow = world.received().await;
    follow
        .take(&world, StepDetail::Accept)
        .await
        .expect("taken");
    let (given, idle) = (File::new(&follow, 10), File::new(&follow, 20));
    for file in [&given, &idle] {
        file.upload(&world).await;
    }
    // What a call left behind that was cut off.
    let stray = ObjectKey::of(ObjectOwner::FollowUp(follow.id), &mut os_rng());
    world
        .broker
        .objects
        .put(&stray, vec![1].into())
        .await
        .expect("stored");
    assert_eq!(
        world.broker.sweep_objects().await.expect("swept"),
        0,
        "still uploading"
    );
    follow.take(&world, answer(&[&given])).await.expect("taken");
    assert_eq!(world.broker.sweep_objects().await.expect("swept"), 1);
    assert_eq!(world.objects().await, 2);
    follow.take(&world, StepDetail::Close).await.expect("taken");
    assert_eq!(world.objects().await, 1);

    let requester = node("nl-fiu");
    let read = world
        .broker
        .begin_download(&requester, &given.place(3))
        .await;
    let mut read = read.expect("there");
    let piece = world.broker.next_piece(&mut read).await.expect("read");
    assert_eq!(piece.expect("some"), given.sealed[3..]);
    assert_eq!(
        world.broker.next_piece(&mut read).await.expect("read"),
        None
    );

    world.clock.advance(DAY * 179);
    assert_eq!(world.news().await, []);
    world.clock.advance(DAY * 2);
    assert_eq!(
        world.news().await,
        [FollowUpEvent::Erased(world.clock_now())]
    );
    assert_eq!(world.objects().await, 0);
    let gone = world
        .broker
        .begin_download(&requester, &given.place(0))
        .await;
    assert_eq!(gone.err().expect("gone").code, ErrorCode::AttachmentUnknown);
    let read = world
        .broker
        .follow_up(&requester, &community(), follow.id)
        .await;
    let (record, steps, _) = read.expect("there");
    assert!(record.erased);
    assert!(
        steps
            .iter()
            .all(|step| step.envelope.is_none() && !step.clear.is_empty())
    );
}

#[tokio::test]
async fn what_chance_does_not_explain_is_raised_once() {
    let world = World::new().await;
    let mut raised = Vec::new();
    for _ in 0..3 {
        let mut follow = Follow::on(world.hit("nl-fiu", "de-bka").await, NOW);
        follow.take(&world, request()).await.expect("taken");
        let taken = follow
            .take(&world, StepDetail::NotHeld)
            .await
            .expect("taken");
        let state = world.hit_state("nl-fiu", follow.hit).await;
        assert_eq!(state, HitState::FalsePositive);
        let record = &taken.record;
        let newly = world.broker.newly_raised(record).await.expect("read");
        raised.push(newly.is_some());
    }
    assert_eq!(raised, [true, false, false]);
    let rates = world.broker.presence_rates(&community(), None).await;
    let rates = rates.expect("read");
    assert_eq!(
        (rates.len(), rates[0].count.not_held, rates[0].raised),
        (1, 3, true)
    );
}

#[tokio::test]
async fn figures_are_of_the_callers_own_follow_ups_within_a_range() {
    use crate::datastore::FollowUpRange;
    let world = World::new().await;
    world.received().await;
    world.clock.advance(DAY * 40);
    world.received().await;
    let sent = async |party: Option<&NodeId>, from, to| {
        let range = FollowUpRange { party, from, to };
        let lines = world.broker.follow_up_statistics(&community(), range).await;
        lines
            .expect("counted")
            .values()
            .map(|line| line.sent)
            .sum::<u64>()
    };
    let (nl, fr) = (&node("nl-fiu"), &node("fr-pj"));
    let later = Some(NOW.plus(DAY));
    assert_eq!(sent(None, None, None).await, 2);
    assert_eq!(sent(Some(nl), later, None).await, 1);
    assert_eq!(sent(Some(nl), None, later).await, 1);
    assert_eq!(sent(Some(fr), None, None).await, 0);
}
