//! The broker's own jobs, killed amid what they do: reminders and the end of the limit, closing by
//! time, erasure, and the deletion of what nothing needs.

use std::collections::HashSet;

use sotto_common::log::entry::{Change, Object};
use sotto_proto::convert::log::read_entry;

use super::*;
use crate::datastore::{
    AttachmentChunk, AttachmentRecord, FollowUpEventRecord, LabelledHit, StepRecord,
};
use crate::objects::ObjectOwner;

/// Everything that the jobs may change of a follow-up.
#[derive(PartialEq, Debug)]
struct Kept {
    record: FollowUpRecord,
    steps: Vec<StepRecord>,
    files: Vec<(AttachmentRecord, Vec<AttachmentChunk>)>,
    hit: LabelledHit,
}

/// What an entry of the log says, but for what is new with every entry.
type Logged = (Action, Timestamp, Object, Option<Change>, String);

/// How a broker stands.
#[derive(PartialEq, Debug)]
struct State {
    follow_ups: Vec<Kept>,
    /// What either party was told.
    told: [Vec<FollowUpEventRecord>; 2],
    /// The cursor of the last move of a hit that the requester was told.
    hit_moves: u64,
    logged: Vec<Logged>,
    objects: HashSet<ObjectKey>,
}

impl State {
    async fn of(world: &World, follows: &[Follow]) -> Self {
        let mut follow_ups = Vec::new();
        for follow in follows {
            follow_ups.push(Kept::of(world, follow).await);
        }
        let (community, nl, de) = (&community(), &node("nl-fiu"), &node("de-bka"));
        let told = async |party| tx!(world, tx => tx.get_follow_up_events(community, party, 0, 1000).await);
        let leaves = tx!(world, tx => {
            while !tx.update_places(community, 100).await?.is_empty() {}
            tx.get_leaves(community, 0..u64::MAX).await
        });
        let logged = leaves.into_iter().map(|leaf| {
            let opening = leaf.opening.expect("nothing is old enough to be erased");
            let entry = read_entry(opening.entry()).expect("an entry");
            let (action, at) = (entry.action, entry.at);
            (action, at, entry.object, entry.change, entry.detail)
        });
        let objects = world.broker.objects.list().try_collect::<Vec<_>>().await;
        Self {
            follow_ups,
            told: [told(nl).await, told(de).await],
            hit_moves: tx!(world, tx => tx.get_last_cursor(community, nl).await),
            logged: logged.collect(),
            objects: objects.expect("listed").into_iter().collect(),
        }
    }

    /// What both parties were told of a follow-up, without its steps.
    fn news(&self, follow: &Follow) -> Vec<FollowUpEvent> {
        let [requester, holder] = self.told.each_ref().map(|told| {
            let of = told.iter().filter(|told| told.follow_up == follow.id);
            let events = of.map(|told| told.event);
            let news = events.filter(|event| !matches!(event, FollowUpEvent::Step(_)));
            news.collect::<Vec<_>>()
        });
        assert_eq!(requester, holder, "both are told the same");
        requester
    }

    /// How often something was logged.
    fn count(&self, action: Action) -> usize {
        let of = self.logged.iter().filter(|(logged, ..)| *logged == action);
        of.count()
    }
}

impl Kept {
    async fn of(world: &World, follow: &Follow) -> Self {
        let (community, nl) = (&community(), &node("nl-fiu"));
        let (id, hit) = (follow.id, follow.hit);
        let record = tx!(world, tx => tx.get_follow_up(id).await);
        let hit = tx!(world, tx => tx.get_hit(community, nl, hit).await);
        let mut files = Vec::new();
        for file in tx!(world, tx => tx.get_attachments(id).await) {
            let named = file.id;
            let chunks = tx!(world, tx => tx.get_attachment_chunks(id, named).await);
            files.push((file, chunks));
        }
        Self {
            record: record.expect("there"),
            steps: tx!(world, tx => tx.get_steps(id).await),
            files,
            hit: hit.expect("there"),
        }
    }
}

/// A broker that stands still, and the follow-ups that its jobs have something to do with.
struct Stage {
    dir: tempfile::TempDir,
    nodes: Arc<Nodes>,
    follows: Vec<Follow>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let nodes = Arc::new(Nodes::new());
        live(dir.path(), &nodes, async |world| world.open_epoch().await);
        Self {
            dir,
            nodes,
            follows: Vec::new(),
        }
    }

    /// One follow-up more.
    fn add(&mut self, make: impl AsyncFnOnce(&World) -> Follow) {
        let follow = live(self.dir.path(), &self.nodes, make);
        self.follows.push(follow);
    }

    /// Lets the jobs run, after they were killed at each of their places: whatever was done by
    /// then, the next pass ends where one does that nobody disturbs. Gives how it stands there.
    fn run_jobs(&self) -> State {
        let undisturbed = copy_of(self.dir.path());
        let expected = live(undisturbed.path(), &self.nodes, async |world| {
            jobs(world).await;
            State::of(world, &self.follows).await
        });
        kill_everywhere((self.dir.path(), &self.nodes), &jobs, &async |world| {
            assert_eq!(State::of(world, &self.follows).await, expected);
        });
        live(self.dir.path(), &self.nodes, jobs);
        expected
    }
}

/// One pass of the jobs that have to do with follow-ups.
async fn jobs(world: &World) {
    world.broker.keep_follow_up_times().await.expect("done");
    world.broker.sweep_objects().await.expect("swept");
}

/// A follow-up with an answer, with a file that this names and one that it does not.
async fn answered(world: &World) -> Follow {
    let mut follow = world.received().await;
    follow.take(world, StepDetail::Accept).await.expect("taken");
    let [given, idle] = [20, 10].map(|size| File::new(&follow, size));
    for file in [&given, &idle] {
        file.upload_rest(world).await;
    }
    let answer = answer(&[&given]);
    follow.take(world, answer).await.expect("taken");
    follow
}

/// Leaves objects of a follow-up that its ledger does not know, as a call does that was cut off.
async fn litter(world: &World, follow: &Follow) {
    for _ in 0..2 {
        let stray = ObjectKey::of(ObjectOwner::FollowUp(follow.id), &mut os_rng());
        let stored = world.broker.objects.put(&stray, vec![1].into());
        stored.await.expect("stored");
    }
}

#[test]
fn a_kill_amid_the_reminders_tells_each_once_and_logs_one_end_of_the_limit() {
    use FollowUpEvent::Reminder;
    let mut stage = Stage::new();
    stage.add(async |world| world.received().await);
    // Of seven days.
    for (days, told) in [(4, &[50][..]), (2, &[50, 80][..]), (2, &[50, 80, 100][..])] {
        stage.nodes.clock.advance(DAY * days);
        let seen = stage.run_jobs();
        let told: Vec<_> = told.iter().copied().map(Reminder).collect();
        assert_eq!(seen.news(&stage.follows[0]), told);
        let ends = usize::from(told.contains(&Reminder(100)));
        assert_eq!(seen.count(Action::MissLimit), ends);
    }
}

#[test]
fn a_kill_amid_a_pass_reminds_closes_erases_and_deletes_each_once() {
    let mut stage = Stage::new();
    let clock = stage.nodes.clock.clone();
    // To be erased after 180 days, to be closed after 30, to be reminded after seven.
    stage.add(async |world| {
        let mut follow = answered(world).await;
        follow.take(world, StepDetail::Close).await.expect("taken");
        litter(world, &follow).await;
        follow
    });
    clock.advance(DAY * 140);
    stage.add(answered);
    clock.advance(DAY * 33);
    stage.add(async |world| world.received().await);
    clock.advance(DAY * 8);

    let (seen, now) = (stage.run_jobs(), stage.nodes.now());
    let [erased, closed, reminded] = &stage.follows[..] else {
        panic!("three of them");
    };
    assert_eq!(seen.news(erased), [FollowUpEvent::Erased(now)]);
    assert_eq!(seen.news(closed), [FollowUpEvent::Closed(now)]);
    let percents = [50, 80, 100].map(FollowUpEvent::Reminder);
    assert_eq!(seen.news(reminded), percents);
    for (action, count) in [
        (Action::EraseFollowUp, 1),
        (Action::CloseFollowUp, 1),
        (Action::MissLimit, 1),
        // Each once when it was followed up, and two when they were closed.
        (Action::FollowUpHit, 5),
    ] {
        assert_eq!(seen.count(action), count, "{action:?}");
    }
    let files = seen.follow_ups.iter().map(|kept| kept.files.len());
    assert_eq!(files.collect::<Vec<_>>(), [0, 1, 0]);
    let files = seen.follow_ups.iter().flat_map(|kept| &kept.files);
    let chunks = files.flat_map(|(_, chunks)| chunks);
    let needed: HashSet<_> = chunks.map(|chunk| chunk.object.clone()).collect();
    assert_eq!(seen.objects, needed, "what nothing needs is gone");
}
