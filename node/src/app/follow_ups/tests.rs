//! Two nodes and a broker that answers from memory by the same rules as the real one.

mod broker;
mod crash;
mod files;
mod life;
mod lost;
mod people;
mod presence;
mod unfinished;

use std::sync::Arc;
use std::time::Duration;

use sotto_common::epoch::{Gms, KeySchedule};
use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_common::hit::HitState;
use sotto_common::ids::{FollowUpId, RecordRef};
use sotto_common::random::os_rng;
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_common::time::{MockClock, Timestamp};
use sotto_proto::convert::sign;
use sotto_proto::v1;
use tempfile::TempDir;

use super::super::App;
use crate::auth::Caller;
use crate::broker::{Backoff, Broker};
use crate::follow_up::{LocalFollowUp, ProposalId};
use crate::hit::Hit;
use crate::testing;
use broker::FakeBroker;

pub(crate) const EMAIL: &str = "anna.kowalska@example.test";
pub(crate) const ALICE: &str = "spiffe://sotto.test/analyst/alice";
const BOB: &str = "spiffe://sotto.test/approver/bob";

/// The two nodes, and what is between them.
pub(crate) struct Lab {
    /// `nl-fiu`, whose hit it is.
    pub(crate) asks: Arc<App>,
    /// `de-bka`, whose filter matched.
    pub(crate) holds: Arc<App>,
    broker: Arc<FakeBroker>,
    clock: MockClock,
    pub(crate) hit: Hit,
    dirs: [TempDir; 2],
}

/// A caller for the rest of the test.
fn person(id: &str) -> &'static Caller {
    Box::leak(Box::new(Caller::of_test(id)))
}

/// A request with everything that it needs.
pub(crate) fn request() -> v1::FollowUpDraft {
    let text = |text: &str| text.to_owned();
    v1::FollowUpDraft {
        terms: Some(v1::FollowUpTerms {
            time_limit: v1::TimeLimit::Ordinary.into(),
            offence_code: text("A.1"),
            items: vec![
                v1::FollowUpItem::Identity.into(),
                v1::FollowUpItem::Attachments.into(),
            ],
            ..Default::default()
        }),
        particulars: Some(v1::FollowUpParticulars {
            requesting_unit: text("Unit 7"),
            officer: text("J. Jansen"),
            facts: text("Facts of the case"),
            offence_description: text("Fraud"),
            purpose: v1::Purpose::Detection.into(),
            legal_basis: v1::LegalBasis::NationalLaw.into(),
            legal_basis_reference: text("Art. 3"),
            link: text("The account was used"),
            person_role: v1::PersonRole::Suspect.into(),
            why_there: text("It matched"),
            language: text("en"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// An answer that provides the identity and refuses files.
pub(crate) fn answer() -> v1::FollowUpDraft {
    let outcome =
        |item: v1::FollowUpItem, state: v1::ItemState, ground: v1::RefusalGround| v1::ItemOutcome {
            item: item.into(),
            state: state.into(),
            ground: ground.into(),
            pending_until: None,
        };
    v1::FollowUpDraft {
        outcomes: vec![
            outcome(
                v1::FollowUpItem::Identity,
                v1::ItemState::Provided,
                v1::RefusalGround::Unspecified,
            ),
            outcome(
                v1::FollowUpItem::Attachments,
                v1::ItemState::Refused,
                v1::RefusalGround::NotAvailable,
            ),
        ],
        answer: Some(v1::FollowUpAnswer {
            items: vec![v1::AnswerItem {
                item: v1::FollowUpItem::Identity.into(),
                content: "Anna Kowalska, 1980".into(),
                handling_code: v1::HandlingCode::H1.into(),
                source_evaluation: v1::SourceEvaluation::B.into(),
                information_evaluation: v1::InformationEvaluation::Two.into(),
                tlp: v1::Tlp::Amber.into(),
                nature: v1::Nature::Fact.into(),
                retain_until: Some(prost_types::Timestamp {
                    seconds: 2_000_000_000,
                    nanos: 0,
                }),
                ..Default::default()
            }],
            file_names: Vec::new(),
        }),
        ..Default::default()
    }
}

impl Lab {
    /// Both nodes in one epoch, a confirmed hit of `nl-fiu`, and what `de-bka` has published.
    pub(crate) async fn start(held: &[&str]) -> Self {
        let (mut asks, asks_dir) = testing::app_of("nl-fiu").await;
        let (mut holds, holds_dir) = testing::app_of("de-bka").await;
        let clock = MockClock::at(Timestamp::from_seconds(50_000));
        (asks.clock, holds.clock) = (Arc::new(clock.clone()), Arc::new(clock.clone()));
        let (_, mut manifest) = testing::manifest(1);
        let gms = Gms::generate(&mut os_rng());
        let schedule = KeySchedule::derive(&gms, &asks.community, manifest.epoch);
        manifest.key_commitment = schedule.key_commitment();
        manifest.members = [&asks, &holds]
            .map(|app| app.keystore.public(&app.node))
            .to_vec();
        let epoch = manifest.epoch;
        let envelope = sign(manifest, asks.keystore.signing());
        for app in [&asks, &holds] {
            let kept = app.keystore.put_gms(epoch, &gms, &mut os_rng());
            kept.expect("kept");
            let now = Timestamp::from_seconds(1_000);
            let stored = app.store.put_epoch(epoch, &envelope, false, now).await;
            stored.expect("stored");
        }
        testing::import_emails(&asks.store, "wanted", &[EMAIL]).await;
        testing::import_emails(&holds.store, "register", held).await;
        let active_at = Timestamp::from_seconds(15_000);
        holds
            .store
            .remember_layer(Policy::Email, epoch, 1, active_at)
            .await;
        let mut hit = testing::hit(1, epoch, RecordRef::new([1; 16]));
        (hit.state, hit.last_seen) = (HitState::Confirmed, Timestamp::from_seconds(20_000));
        let joined = asks.store.put_record_ref(epoch, hit.record_ref, 1).await;
        joined.expect("stored");
        let now = Timestamp::from_seconds(20_000);
        let stored = asks
            .store
            .put_streamed_hits(std::slice::from_ref(&hit), 1, now);
        stored.await.expect("stored");
        let (broker, address) = FakeBroker::start([&asks, &holds], clock.clone(), &hit).await;
        (asks.broker, holds.broker) = (Broker::at(address), Broker::at(address));
        Self {
            asks: Arc::new(asks),
            holds: Arc::new(holds),
            broker,
            clock,
            hit,
            dirs: [asks_dir, holds_dir],
        }
    }

    /// Lets both nodes hear and do what is due until nothing is.
    async fn settle(&self) {
        for _ in 0..8 {
            for app in [&self.asks, &self.holds] {
                self.deliver(app).await;
                // What the broker did not take is for the test to look at.
                let _ = app.work_follow_ups(&mut Backoff::default()).await;
            }
        }
    }

    /// Everything that the broker has to tell a node.
    async fn deliver(&self, app: &App) {
        let cursor = app.store.follow_up_cursor().await.expect("read");
        for event in self.broker.events_after(&app.node, cursor) {
            app.take_event(event).await.expect("taken");
        }
    }

    async fn draft(&self) -> LocalFollowUp {
        let drafted = self
            .asks
            .draft_follow_up(person(ALICE), self.hit.id, request(), "case-1");
        drafted.await.expect("drafted").0
    }

    async fn propose(
        &self,
        app: &App,
        id: FollowUpId,
        step: FollowUpStep,
        draft: v1::FollowUpDraft,
    ) {
        let proposed = app.propose_step(person(ALICE), id, step, draft).await;
        proposed.expect("proposed");
    }

    async fn approve(&self, app: &App, id: FollowUpId) {
        let proposal = proposal(&self.at(app, id).await);
        let approved = app.approve_step(person(BOB), id, proposal).await;
        approved.expect("approved");
    }

    /// Two people take a step, and everything that follows happens.
    pub(crate) async fn step(
        &self,
        app: &App,
        id: FollowUpId,
        step: FollowUpStep,
        draft: v1::FollowUpDraft,
    ) {
        self.propose(app, id, step, draft).await;
        self.approve(app, id).await;
        self.settle().await;
    }

    /// A request that the holder has received.
    pub(crate) async fn received(&self) -> FollowUpId {
        let id = self.draft().await.id;
        self.approve(&self.asks, id).await;
        self.settle().await;
        id
    }

    async fn at(&self, app: &App, id: FollowUpId) -> LocalFollowUp {
        app.follow_up(id).await.expect("there")
    }

    async fn states(&self, id: FollowUpId) -> [FollowUpState; 2] {
        let mut states = [FollowUpState::Draft; 2];
        for (state, app) in states.iter_mut().zip([&self.asks, &self.holds]) {
            *state = self.at(app, id).await.state().expect("whole");
        }
        states
    }
}

fn proposal(follow_up: &LocalFollowUp) -> ProposalId {
    follow_up.proposal.as_ref().expect("something waits").id
}

pub(crate) fn empty() -> v1::FollowUpDraft {
    v1::FollowUpDraft::default()
}

pub(crate) fn message(text: &str) -> v1::FollowUpDraft {
    v1::FollowUpDraft {
        message: text.into(),
        ..Default::default()
    }
}

fn selector(text: &str) -> Selector {
    Selector::new(text)
}

const HOUR: Duration = Duration::from_hours(1);
