//! Decisions on their way to a broker that answers from memory.

use std::collections::HashSet;
use std::pin::Pin;
use std::slice::from_ref;
use std::sync::Mutex;

use futures::Stream;
use sotto_common::dsse::VerifyingKey;
use sotto_common::hit::{HitState, transition};
use sotto_common::ids::{Epoch, RecordRef};
use sotto_common::time::Timestamp;
use sotto_proto::convert::verify;
use sotto_proto::status::to_status;
use sotto_proto::v1::hit_service_server::{HitService, HitServiceServer};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, async_trait};

use super::*;
use crate::broker::Broker;
use crate::store::{Feedback, Story};
use crate::testing;

const ANNA: &str = "spiffe://sotto.test/analyst/anna";

/// A broker's hits, and what it was told of them.
struct FakeBroker {
    key: VerifyingKey,
    hits: Mutex<HashMap<HitId, Hit>>,
    /// Hits on which it fails, as a broker does that has a fault of its own.
    faulty: HashSet<HitId>,
    /// What it says to everything, if it does.
    refuses: Option<ErrorCode>,
    calls: watch::Sender<u32>,
    /// Times that it cannot be reached at first.
    away: Mutex<u32>,
    taken: watch::Sender<Vec<(HitId, HitDecision)>>,
}

#[async_trait]
impl HitService for FakeBroker {
    type WatchHitsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchHitsResponse, Status>> + Send>>;

    async fn submit_hit_feedback(
        &self,
        request: Request<v1::SubmitHitFeedbackRequest>,
    ) -> Result<Response<v1::SubmitHitFeedbackResponse>, Status> {
        self.calls.send_modify(|calls| *calls += 1);
        if let Some(code) = self.refuses {
            return Err(to_status(Error::new(code, "refused")));
        }
        {
            let mut away = self.away.lock().expect("lock");
            if *away > 0 {
                *away -= 1;
                return Err(Status::unavailable("away"));
            }
        }
        let envelope = request.into_inner().feedback.expect("signed feedback");
        let feedback: HitFeedback = verify(&envelope, &self.key).map_err(to_status)?;
        if self.faulty.contains(&feedback.hit) {
            return Err(to_status(Error::internal("a fault")));
        }
        let mut hits = self.hits.lock().expect("lock");
        let hit = hits.get_mut(&feedback.hit);
        let hit = hit.ok_or_else(|| to_status(Error::new(ErrorCode::HitUnknown, "none")))?;
        hit.state = transition(hit.state, feedback.decision.event()).map_err(to_status)?;
        self.taken
            .send_modify(|taken| taken.push((feedback.hit, feedback.decision)));
        Ok(Response::new(v1::SubmitHitFeedbackResponse {
            hit: Some(hit.clone().into_wire("euro-cyber".into())),
        }))
    }

    async fn list_hits(
        &self,
        _: Request<v1::ListHitsRequest>,
    ) -> Result<Response<v1::ListHitsResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn get_hit(
        &self,
        _: Request<v1::GetHitRequest>,
    ) -> Result<Response<v1::GetHitResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn watch_hits(
        &self,
        _: Request<v1::WatchHitsRequest>,
    ) -> Result<Response<Self::WatchHitsStream>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn list_hit_statistics(
        &self,
        _: Request<v1::ListHitStatisticsRequest>,
    ) -> Result<Response<v1::ListHitStatisticsResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn list_holder_counts(
        &self,
        _: Request<v1::ListHolderCountsRequest>,
    ) -> Result<Response<v1::ListHolderCountsResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn list_quarantine(
        &self,
        _: Request<v1::ListQuarantineRequest>,
    ) -> Result<Response<v1::ListQuarantineResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn release_quarantine(
        &self,
        _: Request<v1::ReleaseQuarantineRequest>,
    ) -> Result<Response<v1::ReleaseQuarantineResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
}

/// A node with two hits, and its broker, which has them as well unless told otherwise.
struct Lab {
    app: App,
    broker: Arc<FakeBroker>,
    hits: [Hit; 2],
    _dir: TempDir,
}

impl Lab {
    async fn start(set_up: impl FnOnce(&mut FakeBroker, &[Hit; 2])) -> Self {
        let (mut app, dir) = testing::app().await;
        let epoch = Epoch::new(1).expect("an epoch");
        let hits = [1, 2].map(|n| testing::hit(n, epoch, RecordRef::new([n; 16])));
        let now = Timestamp::from_seconds(1_000);
        let stored = app.store.put_streamed_hits(&hits, 1, now).await;
        stored.expect("stored");
        let mut broker = FakeBroker {
            key: app.keystore.signing().verifying_key(),
            hits: Mutex::new(hits.iter().map(|hit| (hit.id, hit.clone())).collect()),
            faulty: HashSet::new(),
            refuses: None,
            calls: watch::Sender::new(0),
            away: Mutex::new(0),
            taken: watch::Sender::new(Vec::new()),
        };
        set_up(&mut broker, &hits);
        let broker = Arc::new(broker);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        app.broker = Broker::at(listener.local_addr().expect("bound"));
        let service = HitServiceServer::from_arc(Arc::clone(&broker));
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        Self {
            app,
            broker,
            hits,
            _dir: dir,
        }
    }

    async fn decide(&self, hit: &Hit, decision: HitDecision) {
        let decided = self.app.review(ANNA, hit.id, decision, "seen", None).await;
        decided.expect("decided");
    }

    async fn story(&self, hit: &Hit) -> Story {
        let story = self.app.store.hit_story(hit.id).await.expect("read");
        story.expect("there")
    }

    async fn send(&self) -> Result<()> {
        self.app.send_feedback(&mut Backoff::default()).await
    }

    fn taken(&self) -> Vec<(HitId, HitDecision)> {
        self.broker.taken.borrow().clone()
    }
}

#[tokio::test]
async fn decisions_reach_the_broker_signed_and_in_their_order() {
    let lab = Lab::start(|_, _| ()).await;
    let hit = &lab.hits[0];
    let decisions = [HitDecision::BeginReview, HitDecision::NotRelevant];
    for decision in decisions {
        lab.decide(hit, decision).await;
    }
    assert!(lab.story(hit).await.hit.feedback_pending);
    lab.send().await.expect("sent");
    assert_eq!(lab.taken(), decisions.map(|decision| (hit.id, decision)));
    let story = lab.story(hit).await;
    assert!(!story.hit.feedback_pending);
    assert_eq!(story.hit.state, HitState::NotRelevant);
    let feedback: Vec<_> = story.events.iter().map(|event| event.feedback).collect();
    assert_eq!(
        feedback,
        [None, Some(Feedback::Taken), Some(Feedback::Taken)]
    );
    assert_eq!(story.events[2].person.as_deref(), Some(ANNA));
    // Nothing is left to send.
    lab.send().await.expect("nothing to do");
    assert_eq!(lab.taken().len(), 2);
}

#[tokio::test]
async fn the_sender_is_woken_by_a_decision_and_outlasts_a_broker_that_is_away() {
    let lab = Lab::start(|broker, _| broker.away = Mutex::new(2)).await;
    let mut taken = lab.broker.taken.subscribe();
    let (hit, app) = (lab.hits[0].id, Arc::new(lab.app));
    let sending = tokio::spawn(keep_sending(Arc::clone(&app)));
    for decision in [HitDecision::BeginReview, HitDecision::Confirm] {
        let decided = app.review(ANNA, hit, decision, "seen", None).await;
        decided.expect("decided");
        let last = taken.wait_for(|taken| taken.last() == Some(&(hit, decision)));
        assert!(last.await.is_ok());
    }
    sending.abort();
}

#[tokio::test]
async fn a_hit_that_has_changed_meanwhile_stands_as_the_stream_says() {
    let lab = Lab::start(|broker, hits| {
        let mut known = broker.hits.lock().expect("lock");
        known.remove(&hits[0].id);
        known.get_mut(&hits[1].id).expect("there").state = HitState::Retracted;
    })
    .await;
    for hit in &lab.hits {
        lab.decide(hit, HitDecision::BeginReview).await;
    }
    lab.send().await.expect("answered");
    for hit in &lab.hits {
        let story = lab.story(hit).await;
        assert_eq!(story.events[1].feedback, Some(Feedback::Refused));
        assert_eq!(story.hit.state, HitState::New);
    }
    let mut told = lab.hits[1].clone();
    told.state = HitState::Retracted;
    let now = Timestamp::from_seconds(2_000);
    let stored = lab.app.store.put_streamed_hits(from_ref(&told), 2, now);
    stored.await.expect("stored");
    assert_eq!(lab.story(&told).await.hit.state, HitState::Retracted);
}

#[tokio::test]
async fn a_fault_about_one_hit_holds_up_its_decisions_and_no_others() {
    let lab = Lab::start(|broker, hits| {
        broker.faulty.insert(hits[0].id);
    })
    .await;
    let [faulty, other] = &lab.hits;
    for hit in [faulty, faulty, other] {
        let decision = match lab.story(hit).await.hit.state {
            HitState::New => HitDecision::BeginReview,
            _ => HitDecision::Confirm,
        };
        lab.decide(hit, decision).await;
    }
    let error = lab.send().await.expect_err("held up");
    assert_eq!(error.code, ErrorCode::Internal);
    assert_eq!(lab.taken(), [(other.id, HitDecision::BeginReview)]);
    let story = lab.story(faulty).await;
    assert!(story.hit.feedback_pending);
    assert_eq!(story.hit.state, HitState::Confirmed);
}

#[tokio::test]
async fn a_refusal_of_this_node_holds_up_everything_at_the_first_call() {
    let lab = Lab::start(|broker, _| broker.refuses = Some(ErrorCode::NotAMember)).await;
    for hit in &lab.hits {
        lab.decide(hit, HitDecision::BeginReview).await;
    }
    let error = lab.send().await.expect_err("refused");
    assert_eq!(error.code, ErrorCode::NotAMember);
    assert_eq!(*lab.broker.calls.borrow(), 1);
    for hit in &lab.hits {
        assert!(lab.story(hit).await.hit.feedback_pending);
    }
}

#[tokio::test]
async fn a_decision_without_its_reason_or_with_unfit_texts_is_refused() {
    let lab = Lab::start(|_, _| ()).await;
    let hit = lab.hits[0].id;
    let factor = |value| Some((SecondFactor::Document, value));
    let (long, longer) = ("é".repeat(MAX_REASON), "é".repeat(MAX_REASON + 1));
    let long_value = "x".repeat(MAX_SECOND_FACTOR + 1);
    for (decision, reason, second_factor, field) in [
        (HitDecision::Confirm, "", None, "reason"),
        (HitDecision::NotRelevant, " \n", None, "reason"),
        (HitDecision::BeginReview, "a\u{7}b", None, "reason"),
        (HitDecision::BeginReview, &longer, None, "reason"),
        (
            HitDecision::Confirm,
            "seen",
            factor(" "),
            "second_factor_value",
        ),
        (
            HitDecision::Confirm,
            "seen",
            factor("a\tb"),
            "second_factor_value",
        ),
        (
            HitDecision::Confirm,
            "seen",
            factor(&long_value),
            "second_factor_value",
        ),
    ] {
        let refused = lab.app.review(ANNA, hit, decision, reason, second_factor);
        let error = refused.await.expect_err("refused");
        assert_eq!(error.code, ErrorCode::InvalidField, "{reason}");
        assert_eq!(error.subject.as_deref(), Some(field));
    }
    assert_eq!(lab.story(&lab.hits[0]).await.events.len(), 1);
    lab.app
        .review(ANNA, hit, HitDecision::BeginReview, "", None)
        .await
        .expect("begun without a reason");
    let two_lines = "seen\nand known";
    let done = lab
        .app
        .review(ANNA, hit, HitDecision::Confirm, two_lines, None);
    assert_eq!(done.await.expect("confirmed").state, HitState::Confirmed);
    let story = lab.story(&lab.hits[0]).await;
    let reason = story.events.last().map(|event| event.reason.as_str());
    assert_eq!(reason, Some(two_lines));
    let other = lab.hits[1].id;
    let done = lab
        .app
        .review(ANNA, other, HitDecision::BeginReview, &long, None);
    done.await.expect("1000 characters are no bytes");
}
