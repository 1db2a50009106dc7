//! Any interleaving of what the broker does, what its stream tells, and what persons decide.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use sotto_common::hit::{HitDecision, HitEvent, transition};

use super::super::super::testing::store;
use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The record is probed in an epoch, and matches or not.
    Probe(u8, bool),
    /// The broker finds that nobody has touched the hit of an epoch.
    Expire(u8),
    /// The broker puts the next event of its stream on the wire.
    Tell,
    /// The node stores the next event on the wire.
    Store,
    /// The stream breaks: what is on the wire is lost, and events are told again.
    Break(u8),
    /// A person decides about the thread.
    Decide(u8),
    /// The first decision that waits is handed in; its answer may get lost.
    Send(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..=2_u8, any::<bool>()).prop_map(|(n, matches)| Step::Probe(n, matches)),
        1 => (1..=2_u8).prop_map(Step::Expire),
        4 => Just(Step::Tell),
        4 => Just(Step::Store),
        1 => (0..4_u8).prop_map(Step::Break),
        4 => (0..4_u8).prop_map(Step::Decide),
        3 => any::<bool>().prop_map(Step::Send),
    ]
}

/// The broker, in so far as hits of one record are concerned.
#[derive(Default)]
struct Broker {
    hits: BTreeMap<HitId, Hit>,
    /// Hits that were new or changed, in order.
    events: Vec<HitId>,
    clock: i64,
    /// Hits that were retracted and matched again.
    came_back: u32,
}

impl Broker {
    fn probe(&mut self, hit: Hit, matches: bool) {
        self.clock += 1;
        let now = Timestamp::from_seconds(100 + self.clock);
        let Some(known) = self.hits.get_mut(&hit.id) else {
            if matches {
                self.events.push(hit.id);
                self.hits.insert(
                    hit.id,
                    Hit {
                        last_seen: now,
                        ..hit
                    },
                );
            }
            return;
        };
        let event = if matches {
            known.last_seen = now;
            HitEvent::MatchesAgain
        } else {
            HitEvent::NoLongerMatches
        };
        let to = transition(known.state, event).expect("probes are always taken");
        self.came_back += u32::from(matches && to != known.state);
        if to != known.state {
            self.events.push(hit.id);
        }
        known.state = to;
    }

    fn expire(&mut self, hit: HitId) {
        let Some(known) = self.hits.get_mut(&hit) else {
            return;
        };
        if let Ok(to) = transition(known.state, HitEvent::Expire) {
            known.state = to;
            self.events.push(hit);
        }
    }

    fn take(&mut self, hit: HitId, decision: HitDecision) -> Outcome {
        let known = self.hits.get_mut(&hit).expect("only its hits are decided");
        if known.state != decision.state() {
            match transition(known.state, decision.event()) {
                Err(_) => return Outcome::Refused,
                Ok(to) => known.state = to,
            }
            self.events.push(hit);
        }
        Outcome::Taken(Box::new(known.clone()))
    }
}

/// The broker, the wire and the node.
struct World {
    store: Store,
    broker: Broker,
    refs: [RecordRef; 3],
    /// Cursor and hit as it stood when the broker told it.
    wire: VecDeque<(u64, Hit)>,
    told: usize,
    /// Decisions that the node has taken from persons.
    decided: Vec<(HitId, HitDecision)>,
}

impl World {
    fn tell(&mut self) -> bool {
        let Some(id) = self.broker.events.get(self.told) else {
            return false;
        };
        self.told += 1;
        self.wire
            .push_back((self.told as u64, self.broker.hits[id].clone()));
        true
    }

    async fn store_next(&mut self) -> bool {
        let Some((cursor, hit)) = self.wire.pop_front() else {
            return false;
        };
        let stored = self.store.put_streamed_hits(&[hit], cursor, NOW).await;
        stored.expect("stored");
        true
    }

    async fn decide(&mut self, decision: HitDecision) {
        let Some(thread) = listed(&self.store, &HitFilter::default()).await.pop() else {
            return;
        };
        let before = whole_story(&self.store, thread.hit.id).await.events.len();
        if let Ok((hit, _)) = decide(&self.store, thread.hit.id, decision).await {
            let added = whole_story(&self.store, thread.hit.id).await.events.len() - before;
            if added == 2 {
                self.decided.push((hit, HitDecision::BeginReview));
            }
            self.decided.push((hit, decision));
        }
    }

    async fn send(&mut self, answer_arrives: bool) -> bool {
        let pending = self.store.pending_feedback(0, 1).await.expect("read");
        let Some(pending) = pending.first() else {
            return false;
        };
        let text = String::from_utf8(pending.envelope.clone()).expect("signed by the test");
        let (_, decision) = text.split_once(' ').expect("hit and decision");
        let decision = HitDecision::parse(decision).expect("a decision");
        let outcome = self.broker.take(pending.hit, decision);
        if answer_arrives {
            let settled = self.store.settle_feedback(pending, &outcome, NOW).await;
            settled.expect("settled");
        }
        true
    }

    async fn go(&mut self, step: Step) {
        match step {
            Step::Probe(n, matches) => {
                let hit = in_epoch(n, self.refs[usize::from(n) - 1]);
                self.broker.probe(hit, matches);
            }
            Step::Expire(n) => self.broker.expire(in_epoch(n, self.refs[0]).id),
            Step::Tell => drop(self.tell()),
            Step::Store => drop(self.store_next().await),
            Step::Break(again) => {
                self.wire.clear();
                let cursor = self.store.inbox_cursor().await.expect("read");
                let cursor = cursor.saturating_sub(again.into());
                self.told = usize::try_from(cursor).expect("small");
            }
            Step::Decide(n) => self.decide(HitDecision::ALL[usize::from(n)]).await,
            Step::Send(answer_arrives) => drop(self.send(answer_arrives).await),
        }
    }

    /// What holds after every step.
    async fn check(&self) -> Result<(), TestCaseError> {
        let threads = listed(&self.store, &HitFilter::default()).await;
        prop_assert!(threads.len() <= 1, "a thread is listed once");
        let Some(thread) = threads.first() else {
            return Ok(());
        };
        let whole = whole_story(&self.store, thread.hit.id).await;
        let decisions: Vec<_> = whole.events.iter().filter(|e| e.person.is_some()).collect();
        let kept: Vec<_> = decisions.iter().map(|e| (e.hit, e.to)).collect();
        let decided = self.decided.iter().map(|(hit, d)| (*hit, d.state()));
        prop_assert_eq!(kept, decided.collect::<Vec<_>>(), "no decision is lost");
        let hits = whole.others.iter().chain([&whole.hit.hit]);
        for hit in hits {
            let events: Vec<_> = whole.events.iter().filter(|e| e.hit == hit.id).collect();
            prop_assert_eq!(events[0].from, None);
            for pair in events.windows(2) {
                prop_assert_eq!(pair[1].from, Some(pair[0].to), "the story has no gaps");
                prop_assert_ne!(pair[1].from, Some(pair[1].to), "nothing happens twice");
            }
            let last = events.last().expect("found at least");
            prop_assert_eq!(last.to, hit.state, "the story ends where the hit stands");
            let pending = events
                .iter()
                .rfind(|e| e.feedback == Some(Feedback::Pending));
            if let Some(pending) = pending {
                prop_assert_eq!(hit.state, pending.to, "a pending decision is shown");
            }
        }
        let refused = decisions
            .iter()
            .any(|e| e.feedback == Some(Feedback::Refused));
        if !refused && self.broker.came_back == 0 {
            let undone = |e: &&HistoryEvent| e.person.is_none() && is_undone(e.from, e.to);
            prop_assert_eq!(whole.events.iter().find(undone), None, "nothing is undone");
        }
        let since = self.store.record_hits_since(0, 10).await.expect("read");
        prop_assert_eq!(since.len(), whole.others.len() + 1, "a hit is told once");
        Ok(())
    }
}

/// Whether a change takes back what a person did.
fn is_undone(from: Option<HitState>, to: HitState) -> bool {
    matches!(
        (from, to),
        (
            Some(HitState::Confirmed | HitState::FalsePositive | HitState::NotRelevant),
            HitState::New | HitState::UnderReview
        ) | (Some(HitState::UnderReview), HitState::New)
    )
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (store, _dir) = store().await;
    let refs = with_record(&store).await;
    let mut world = World {
        store,
        broker: Broker::default(),
        refs,
        wire: VecDeque::new(),
        told: 0,
        decided: Vec::new(),
    };
    for step in steps {
        world.go(step).await;
        world.check().await?;
    }
    // Everything comes through in the end: the node shows what the broker has.
    while world.send(true).await {}
    while world.tell() {}
    while world.store_next().await {}
    world.check().await?;
    for (id, hit) in &world.broker.hits {
        let kept = world.store.record_hit(*id).await.expect("read");
        let kept = kept.expect("every hit has come");
        prop_assert_eq!(kept.hit.state, hit.state);
        prop_assert!(!kept.feedback_pending);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_interleaving_loses_a_decision_or_shows_a_hit_twice(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(run(steps))?;
    }
}
