//! A broker that is killed between any two of its writes loses no step and repeats none.
//!
//! Each call is dropped where it waits for the first time, the second, and so on until it is
//! answered before it is dropped; each time on a copy of one folder. Whoever was not answered calls
//! again, at the next broker on that folder. The broker's own jobs are dropped alike.

mod jobs;

use std::fs;

use sotto_common::followup::attachment::SEGMENT;
use sotto_common::testing::kill::killed_after;

use super::*;

/// A broker on a folder for as long as some work takes: with its runtime ends whatever it has set
/// off on other threads, as with a process.
fn live<T>(dir: &Path, nodes: &Arc<Nodes>, work: impl AsyncFnOnce(&World) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let world = World::on(dir, nodes).await;
        let done = work(&world).await;
        // What was sent to the ledger before a kill takes place or does not, and is over then.
        world.broker.store.close().await;
        done
    })
}

/// A folder with the same in it.
fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    copy_into(dir, copy.path());
    copy
}

fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        if old.is_dir() {
            fs::create_dir(&new).expect("made");
            copy_into(&old, &new);
            let mode = fs::metadata(&old).expect("there").permissions();
            fs::set_permissions(&new, mode).expect("set");
        } else {
            fs::copy(&old, &new).expect("copied");
        }
    }
}

/// Drops work after ever more waits, each time on the same folder, and does it again at the next
/// broker: then everything must hold.
fn kill_everywhere(
    (dir, nodes): (&Path, &Arc<Nodes>),
    work: &impl AsyncFn(&World),
    holds: &impl AsyncFn(&World),
) {
    let mut waits = 0;
    loop {
        // Shown where the test fails.
        println!("killed after {waits} waits");
        let dir = copy_of(dir);
        let done = live(dir.path(), nodes, async |world| {
            killed_after(waits, work(world)).await.is_some()
        });
        live(dir.path(), nodes, async |world| {
            work(world).await;
            holds(world).await;
        });
        if done {
            break;
        }
        waits += 1;
    }
    // Where the store answers before it is asked again whether it has, there is no place to be
    // killed at: how many there are differs from run to run.
    assert!(waits > 0, "it was never killed");
}

/// What a node asks of a broker, and asks again if it was not answered.
enum Call<'a> {
    /// A step, which was signed once.
    Step(&'a StepClear, &'a v1::DsseEnvelope),
    /// A file, from where the broker has it.
    Upload(&'a File),
}

impl Call<'_> {
    async fn make(&self, world: &World) {
        match self {
            Self::Step(clear, signed) => {
                let broker = &world.broker;
                let taken = broker.submit_step(&clear.sender, &clear.community, signed);
                taken.await.expect("taken");
            }
            Self::Upload(file) => file.upload_rest(world).await,
        }
    }
}

impl File {
    /// Announces it, and sends what the broker does not have yet.
    async fn upload_rest(&self, world: &World) {
        let mut acknowledged = self.announce(world).await.expect("announced");
        while acknowledged < self.sealed.len() as u64 {
            let begin = usize::try_from(acknowledged).expect("small");
            let end = self.sealed.len().min(begin + SEGMENT);
            acknowledged = self.append(world, begin..end).await.expect("taken");
        }
    }

    /// Objects that it is stored in, if it is sent as above.
    fn objects(&self) -> usize {
        self.sealed.len().div_ceil(SEGMENT)
    }
}

/// A broker that stands still: its folder, and what its nodes have made of a follow-up there.
struct Scene {
    dir: tempfile::TempDir,
    nodes: Arc<Nodes>,
    follow: Follow,
    /// The file that the answer names, and one that no answer does.
    files: Option<[File; 2]>,
}

impl Scene {
    /// A hit that is confirmed.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let nodes = Arc::new(Nodes::new());
        let hit = live(dir.path(), &nodes, async |world| {
            world.open_epoch().await;
            world.hit("nl-fiu", "de-bka").await
        });
        Self {
            dir,
            follow: Follow::on(hit, nodes.now()),
            nodes,
            files: None,
        }
    }

    /// Takes a step after it was killed at each of its places.
    fn step(&mut self, detail: StepDetail) {
        let (clear, signed) = self.follow.sign(&self.nodes, detail, 100);
        let (body, now) = (body_digest(&signed), self.nodes.now());
        let after = match &self.follow.record {
            None => FollowUp::begin(&clear, body, now),
            Some(record) => record.apply(&clear, body, now),
        };
        self.follow.record = Some(after.expect("allowed"));
        let call = Call::Step(&clear, &signed);
        kill_everywhere(
            (self.dir.path(), &self.nodes),
            &async |world| call.make(world).await,
            &async |world| self.check(world).await,
        );
        live(self.dir.path(), &self.nodes, async |world| {
            call.make(world).await;
            self.check(world).await;
        });
    }

    /// Uploads both files, the one that the answer will name after it was killed at each of its
    /// places.
    fn upload(&mut self) {
        let [given, idle] = [2 * SEGMENT, 10].map(|size| File::new(&self.follow, size));
        live(self.dir.path(), &self.nodes, async |world| {
            idle.upload_rest(world).await;
        });
        let stored = given.objects() + idle.objects();
        let call = Call::Upload(&given);
        kill_everywhere(
            (self.dir.path(), &self.nodes),
            &async |world| call.make(world).await,
            &async |world| {
                let mut follow = self.follow.clone();
                let named = follow.take(world, answer(&[&given])).await;
                named.expect("every byte is there");
                read(world, &given).await;
                world.broker.sweep_objects().await.expect("swept");
                assert_eq!(world.objects().await, stored, "nothing else is left");
            },
        );
        live(self.dir.path(), &self.nodes, async |world| {
            given.upload_rest(world).await;
        });
        self.files = Some([given, idle]);
    }

    /// The follow-up stands where its steps lead, each of which is there and told once; its hit and
    /// its files stand there too.
    async fn check(&self, world: &World) {
        let expected = self.follow.record.as_ref().expect("a step");
        let community = &community();
        for party in [&expected.requester, &expected.holder] {
            let read = world.broker.follow_up(party, community, expected.id);
            let (record, steps, _) = read.await.expect("there");
            assert_eq!(record.follow_up, *expected);
            let seqs = steps.iter().map(|step| step.seq);
            assert!(seqs.eq(0..expected.next_seq), "each once");
            assert!(steps.iter().all(|step| step.envelope.is_some()));
            let last = steps.last().map(|step| step.body);
            assert_eq!(last, Some(expected.last_body));
            let told = world.broker.follow_up_events(party, community, 0, 1000);
            let told = told.await.expect("read").into_iter();
            let told: Vec<_> = told.map(|view| (view.cursor, view.event)).collect();
            let due = (0..expected.next_seq).map(FollowUpEvent::Step);
            let due: Vec<_> = (1..).zip(due).collect();
            assert_eq!(told, due, "to {party}: without a gap, and once");
        }
        self.check_hit(world, expected).await;
        self.check_files(world, expected.state).await;
    }

    async fn check_hit(&self, world: &World, expected: &FollowUp) {
        let (state, moves) = match (expected.state, expected.milestones.received) {
            (FollowUpState::Closed, None) => (HitState::FalsePositive, 2),
            (FollowUpState::Closed, Some(_)) => (HitState::Closed, 2),
            _ => (HitState::FollowedUp, 1),
        };
        assert_eq!(world.hit_state("nl-fiu", self.follow.hit).await, state);
        let (community, prober) = (&expected.community, &expected.requester);
        let told = tx!(world, tx => tx.get_last_cursor(community, prober).await);
        assert_eq!(told, moves, "each move of the hit is told once");
    }

    async fn check_files(&self, world: &World, state: FollowUpState) {
        let Some([given, idle]) = &self.files else {
            return;
        };
        read(world, given).await;
        let needed = match state {
            FollowUpState::Closed => given.objects(),
            _ => given.objects() + idle.objects(),
        };
        world.broker.sweep_objects().await.expect("swept");
        assert_eq!(world.objects().await, needed, "in {state}");
    }
}

/// The requester reads a file: it is whole.
async fn read(world: &World, file: &File) {
    let requester = node("nl-fiu");
    let place = file.place(0);
    let begun = world.broker.begin_download(&requester, &place);
    let (mut download, mut bytes) = (begun.await.expect("there"), Vec::new());
    while let Some(piece) = world.broker.next_piece(&mut download).await.expect("read") {
        bytes.extend_from_slice(&piece);
    }
    assert!(bytes == file.sealed, "the file is as it was sent");
}

#[test]
fn a_kill_between_any_two_writes_loses_no_step_and_no_byte_and_repeats_none() {
    let mut scene = Scene::new();
    for detail in [
        request(),
        StepDetail::Held,
        StepDetail::Particulars,
        StepDetail::RequestClarification,
        StepDetail::Reply,
        StepDetail::Accept,
    ] {
        scene.step(detail);
    }
    scene.upload();
    let answer = scene.files.as_ref().map(|[given, _]| answer(&[given]));
    scene.step(answer.expect("files"));
    scene.step(StepDetail::Close);
}

#[test]
fn a_kill_while_a_not_held_is_taken_leaves_a_hit_that_is_false_once() {
    let mut scene = Scene::new();
    scene.step(request());
    scene.step(StepDetail::NotHeld);
}
