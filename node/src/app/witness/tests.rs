use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Mutex;

use futures::Stream;
use sotto_common::dsse::SigningKey;
use sotto_common::hit::HitDecision;
use sotto_common::ids::{RecordRef, SessionId};
use sotto_common::log::checkpoint::LogSigner;
use sotto_common::log::edge::RightEdge;
use sotto_common::log::proof::ProofPlan;
use sotto_common::log::reader::TileSet;
use sotto_proto::convert::sign;
use sotto_proto::status::to_status;
use sotto_proto::v1::log_service_server::{LogService, LogServiceServer};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, async_trait};

use super::*;
use crate::auth::Caller;
use crate::broker::Broker;
use crate::follow_up::logged::HitFacts;
use crate::hit::Hit;
use crate::testing;

/// A log in memory, which can be made to tell another history.
struct FakeLog {
    signer: LogSigner,
    leaves: Mutex<Vec<MerkleHash>>,
    taken: Mutex<Vec<v1::SubmitCosignatureRequest>>,
    /// The hits whose entries it proves.
    proved: Mutex<Vec<(HitId, v1::ProvedEntry)>>,
    /// What hits were asked for, a call each.
    asked: Mutex<Vec<Vec<HitId>>>,
}

impl FakeLog {
    async fn start() -> (Arc<Self>, SocketAddr) {
        let origin = "broker.example/sotto/euro-cyber";
        let origin = origin.parse().expect("an origin");
        let log = Arc::new(Self {
            signer: LogSigner::new(origin, SigningKey::generate(&mut os_rng())),
            leaves: Mutex::default(),
            taken: Mutex::default(),
            proved: Mutex::default(),
            asked: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let serving = tonic::transport::Server::builder()
            .add_service(LogServiceServer::from_arc(Arc::clone(&log)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        (log, address)
    }

    /// The tree has these many leaves of a history from now on.
    fn tell(&self, history: u8, size: u8) {
        let leaves = (0..size).map(|n| MerkleHash::of_leaf(&[history, n]));
        *self.leaves.lock().expect("lock") = leaves.collect();
    }

    fn tree(&self) -> (TileSet, RightEdge) {
        let (mut tiles, mut edge) = (TileSet::new(), RightEdge::new());
        let leaves = self.leaves.lock().expect("lock").clone();
        for new in edge.append(leaves) {
            tiles.insert(new.tile, new.bytes);
        }
        (tiles, edge)
    }

    fn note(&self) -> Vec<u8> {
        let signed = self.signer.sign(self.tree().1.head());
        signed.to_string().into_bytes()
    }

    /// A log with the entry of a hit of `nl-fiu`, which it proves from now on.
    fn log_hit(&self, hit: &Hit) -> SignedCheckpoint {
        let facts = HitFacts {
            community: "euro-cyber".parse().expect("a community"),
            hit: hit.id,
            epoch: hit.epoch,
            requester: "nl-fiu".parse().expect("a node"),
            holder: hit.holder.clone(),
        };
        let (signed, proved) = testing::logged(&self.signer, &[testing::hit_entry(&facts)]);
        let proved = proved.into_iter().map(|entry| (hit.id, entry));
        *self.proved.lock().expect("lock") = proved.collect();
        signed
    }

    fn taken(&self) -> Vec<u64> {
        let taken = self.taken.lock().expect("lock");
        taken.iter().map(|request| request.tree_size).collect()
    }
}

fn none<T>() -> Result<Response<T>, Status> {
    Err(to_status(Error::new(ErrorCode::LogUnknown, "none")))
}

#[async_trait]
impl LogService for FakeLog {
    type WatchCheckpointsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchCheckpointsResponse, Status>> + Send>>;

    async fn watch_checkpoints(
        &self,
        _: Request<v1::WatchCheckpointsRequest>,
    ) -> Result<Response<Self::WatchCheckpointsStream>, Status> {
        let note = self.note().into();
        let told = Ok(v1::WatchCheckpointsResponse { note });
        Ok(Response::new(Box::pin(tokio_stream::once(told))))
    }

    async fn get_checkpoint(
        &self,
        _: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        none()
    }

    async fn prove_consistency(
        &self,
        request: Request<v1::ProveConsistencyRequest>,
    ) -> Result<Response<v1::ProveConsistencyResponse>, Status> {
        let request = request.into_inner();
        let size = self.leaves.lock().expect("lock").len() as u64;
        if request.to_size > size {
            let error = Error::new(ErrorCode::LeafUnknown, "beyond the latest checkpoint");
            return Err(to_status(error));
        }
        let plan = ProofPlan::consistency(request.from_size, request.to_size).expect("sizes");
        let proof = plan.prove(&self.tree().0).expect("proved");
        let hash = |hash: &MerkleHash| hash.as_bytes().to_vec().into();
        Ok(Response::new(v1::ProveConsistencyResponse {
            hashes: proof.iter().map(hash).collect(),
        }))
    }

    async fn submit_cosignature(
        &self,
        request: Request<v1::SubmitCosignatureRequest>,
    ) -> Result<Response<v1::SubmitCosignatureResponse>, Status> {
        let request = request.into_inner();
        self.taken.lock().expect("lock").push(request);
        Ok(Response::new(v1::SubmitCosignatureResponse {}))
    }

    async fn prove_inclusion(
        &self,
        _: Request<v1::ProveInclusionRequest>,
    ) -> Result<Response<v1::ProveInclusionResponse>, Status> {
        none()
    }

    async fn prove_hits(
        &self,
        request: Request<v1::ProveHitsRequest>,
    ) -> Result<Response<v1::ProveHitsResponse>, Status> {
        let ids = request.into_inner().hit_ids;
        let ids = ids
            .iter()
            .map(|id| HitId::from_slice(id).expect("a hit id"));
        let asked: Vec<_> = ids.collect();
        let proved = self.proved.lock().expect("lock");
        let entries = proved.iter().filter(|(hit, _)| asked.contains(hit));
        let entries = entries.map(|(_, entry)| entry.clone()).collect();
        self.asked.lock().expect("lock").push(asked);
        Ok(Response::new(v1::ProveHitsResponse { entries }))
    }

    async fn prove_follow_up(
        &self,
        _: Request<v1::ProveFollowUpRequest>,
    ) -> Result<Response<v1::ProveFollowUpResponse>, Status> {
        none()
    }

    async fn get_entry(
        &self,
        _: Request<v1::GetEntryRequest>,
    ) -> Result<Response<v1::GetEntryResponse>, Status> {
        none()
    }
}

/// A node that follows a log of its own.
async fn witness() -> (App, Arc<FakeLog>, TempDir) {
    let (mut app, dir) = testing::app().await;
    let (fake, address) = FakeLog::start().await;
    let domain = "sotto.test";
    let cosigning = app.keystore.cosigning().clone();
    let cosigner = Cosigner::new(domain, app.node.clone(), cosigning).expect("a witness");
    let key = fake.signer.key().clone();
    app.log = Some(FollowedLog::new(key, cosigner, domain.into()));
    app.broker = Broker::at(address);
    (app, fake, dir)
}

async fn take(app: &App, note: &[u8]) -> Result<()> {
    let log = app.log.as_ref().expect("followed");
    app.hear_of(log, note).await
}

async fn stored(app: &App) -> u64 {
    let status = app.log_status().await.expect("a status");
    status.expect("followed").tree_size
}

#[tokio::test]
async fn a_log_that_grows_is_stored_and_cosigned() {
    let (app, fake, _dir) = witness().await;
    for (size, cosigned) in [(3, vec![3]), (9, vec![3, 9]), (40, vec![3, 9, 40])] {
        fake.tell(0, size);
        take(&app, &fake.note()).await.expect("taken");
        assert_eq!(stored(&app).await, u64::from(size));
        assert_eq!(fake.taken(), cosigned);
    }
    // A late one is neither stored nor cosigned, and accuses nobody.
    fake.tell(0, 5);
    let late = fake.note();
    fake.tell(0, 40);
    take(&app, &late).await.expect("taken");
    assert_eq!((stored(&app).await, fake.taken().len()), (40, 3));
    assert!(app.check_log().await.is_ok());
    let problem = async || app.log_status().await.expect("read").expect("it").problem;
    assert_eq!(problem().await, "");
    // One that cannot be proved, as after a restore of the broker: told, and no accusation.
    fake.tell(0, 5);
    take(&app, &late).await.expect("taken");
    assert_eq!((stored(&app).await, fake.taken().len()), (40, 3));
    assert!(app.check_log().await.is_ok());
    assert!(problem().await.contains("5 leaves, 40 were known"));
}

#[tokio::test]
async fn a_checkpoint_is_cosigned_again_after_half_a_day_alone() {
    let (app, fake, _dir) = witness().await;
    fake.tell(0, 3);
    let log = app.log.as_ref().expect("followed");
    let mut signed = log.open(&fake.note()).expect("a checkpoint");
    let now = app.clock.now();
    assert!(is_due(&log.cosigner, &signed, now));
    let cosignature = log.cosigner.cosign(signed.checkpoint(), now);
    signed.put_cosignature(cosignature).expect("put");
    assert!(!is_due(&log.cosigner, &signed, now));
    assert!(is_due(&log.cosigner, &signed, now.plus(COSIGNED_AGAIN)));
}

#[tokio::test]
async fn a_log_with_another_history_stops_whatever_acts_on_hits() {
    for size in [5, 9, 20] {
        let (app, fake, _dir) = witness().await;
        fake.tell(0, 9);
        let known = fake.note();
        take(&app, &known).await.expect("taken");
        fake.tell(1, size);
        let offered = fake.note();
        if size < 9 {
            // It proves what it can.
            fake.tell(0, 9);
        }
        take(&app, &offered).await.expect("taken");
        assert_eq!((stored(&app).await, fake.taken()), (9, vec![9]));
        let kept = app.store.evidence(0, 9).await.expect("read");
        assert_eq!(kept.len(), 1);
        assert_eq!(
            (&kept[0].evidence.known, &kept[0].evidence.offered),
            (&known, &offered)
        );
        assert_eq!(kept[0].evidence.proof.is_empty(), size == 9);

        let hit = testing::hit(1, Epoch::new(1).expect("one"), RecordRef::new([1; 16]));
        let review = async || {
            let decision = HitDecision::BeginReview;
            app.review("anna", hit.id, decision, "", None).await
        };
        let refused = review().await.expect_err("refused");
        assert_eq!(refused.code, ErrorCode::LogInconsistent);
        assert!(refused.text.contains("evidence clear"));
        // While the alarm stands nothing more is kept or cosigned.
        take(&app, &offered).await.expect("taken");
        assert_eq!(app.store.evidence(0, 9).await.expect("read").len(), 1);

        let sue = Caller::of_test("spiffe://sotto.test/supervisor/sue");
        let no_reason = app.clear_evidence(&sue, " ", false).await;
        assert!(no_reason.is_err());
        let cleared = app.clear_evidence(&sue, "explained", true).await;
        assert_eq!(cleared.expect("cleared"), 1);
        assert_eq!(
            review().await.expect_err("none").code,
            ErrorCode::HitUnknown
        );
        // The node goes on from what the log shows next.
        take(&app, &offered).await.expect("taken");
        assert_eq!(stored(&app).await, u64::from(size));
    }
}

#[tokio::test]
async fn what_the_log_has_not_signed_accuses_nobody() {
    let (app, fake, _dir) = witness().await;
    fake.tell(0, 9);
    let (other, _) = FakeLog::start().await;
    other.tell(1, 9);
    let refused = take(&app, &other.note()).await.expect_err("refused");
    assert_eq!(refused.code, ErrorCode::SignatureInvalid);
    assert!(app.check_log().await.is_ok());
    assert!(app.store.evidence(0, 9).await.expect("read").is_empty());
}

fn epoch() -> Epoch {
    Epoch::new(1).expect("an epoch")
}

/// The answer to a batch that finds a hit; it is verified, if so.
async fn answer(app: &App, hit: &Hit, verified: bool) {
    let session = SessionId::generate(app.clock.now(), &mut os_rng());
    let batch = testing::answered(session, hit.epoch);
    let (found, grounds) = (std::slice::from_ref(hit), testing::grounds("case 1"));
    let put = app.store.put_answered_hits(found, &grounds, &batch).await;
    put.expect("stored");
    if verified {
        let waiting = app.store.unverified_batches(0, u64::MAX, 9).await;
        let place = waiting.expect("read").last().expect("one").place;
        let marked = app.store.mark_batch_verified(place, app.clock.now());
        marked.await.expect("marked");
    }
}

/// A round over the hits that are not verified; tells the leaf of one after it.
async fn round(app: &App, signed: &SignedCheckpoint, hit: &Hit) -> Option<u64> {
    let log = app.log.as_ref().expect("followed");
    let done = app.verify_hits(log, signed, epoch(), &[epoch()]).await;
    done.expect("verified");
    let joined = app.store.record_hit(hit.id).await.expect("read");
    joined.expect("there").verified.map(|(leaf, _)| leaf)
}

#[tokio::test]
async fn every_hit_gets_its_turn_behind_those_that_are_never_proved() {
    let (app, fake, _dir) = witness().await;
    let hits: Vec<_> = (0..1000_u16)
        .map(|n| {
            let mut id = [0; 16];
            [id[4], id[5]] = n.to_be_bytes();
            (id[6], id[8]) = (0x70, 0x80);
            Hit {
                id: HitId::from_slice(&id).expect("a UUIDv7"),
                ..testing::hit(1, epoch(), RecordRef::new(id))
            }
        })
        .collect();
    let now = app.clock.now();
    let streamed = app.store.put_streamed_hits(&hits, 1, now).await;
    streamed.expect("stored");
    let oldest = &hits[0];
    answer(&app, oldest, true).await;
    let signed = fake.log_hit(oldest);
    // The newest page each time, and the next one of those behind it.
    for verified in [None, None, Some(3)] {
        assert_eq!(round(&app, &signed, oldest).await, verified);
    }
    let asked = std::mem::take(&mut *fake.asked.lock().expect("lock"));
    let pages: Vec<_> = asked.iter().map(|ids| (ids[0], ids.len())).collect();
    let (first, second, third, fourth) = (
        (hits[999].id, 256),
        (hits[743].id, 256),
        (hits[487].id, 256),
        (hits[231].id, 232),
    );
    assert_eq!(pages, [first, second, first, third, first, fourth]);
    // After the last one it begins behind the newest again.
    round(&app, &signed, oldest).await;
    assert_eq!(fake.asked.lock().expect("lock")[1][0], second.0);
}

#[tokio::test]
async fn an_entry_verifies_a_hit_only_with_a_verified_answer_that_names_its_record() {
    for (named, verified) in [(1, Some(3)), (2, None)] {
        let (app, fake, _dir) = witness().await;
        let hit = testing::hit(1, epoch(), RecordRef::new([1; 16]));
        let (told, now) = (std::slice::from_ref(&hit), app.clock.now());
        let streamed = app.store.put_streamed_hits(told, 1, now).await;
        streamed.expect("stored");
        let signed = fake.log_hit(&hit);
        assert_eq!(round(&app, &signed, &hit).await, None);
        let found = Hit {
            record_ref: RecordRef::new([named; 16]),
            ..hit.clone()
        };
        answer(&app, &found, false).await;
        assert_eq!(round(&app, &signed, &hit).await, None);
        answer(&app, &found, true).await;
        assert_eq!(round(&app, &signed, &hit).await, verified);
        assert!(app.check_log().await.is_ok());
    }
}

#[tokio::test]
async fn a_checkpoint_with_too_few_cosignatures_is_told_since_when() {
    let (app, fake, _dir) = witness().await;
    let (key, mut manifest) = testing::manifest(1);
    manifest.members[0].cosigning = app.keystore.cosigning().verifying_key();
    let now = app.clock.now();
    let stored = app
        .store
        .put_epoch(epoch(), &sign(manifest, &key), false, now)
        .await;
    stored.expect("stored");
    app.epoch.send_replace(Some(epoch()));
    let few_since = async || {
        let status = app.log_status().await.expect("read").expect("followed");
        status.few_cosignatures_since
    };
    fake.tell(0, 3);
    take(&app, &fake.note()).await.expect("taken");
    assert_eq!(few_since().await, Some(to_timestamp(now)));
    let log = app.log.as_ref().expect("followed");
    let mut signed = log.open(&fake.note()).expect("a checkpoint");
    let cosignature = log.cosigner.cosign(signed.checkpoint(), now);
    signed.put_cosignature(cosignature).expect("put");
    let note = signed.to_string().into_bytes();
    take(&app, &note).await.expect("taken");
    assert_eq!(few_since().await, None);
}
