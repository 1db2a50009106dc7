//! A node's service that answers from memory, with an authority and a client of its own.

mod admin;
mod datasets;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, stream};
use sotto_common::error::{Error, ErrorCode};
use sotto_common::ids::HitId;
use sotto_common::random::os_rng;
use sotto_common::service::config::{HumanDuration, SecretFile, TlsConfig};
use sotto_common::service::files::{self, Readers};
use sotto_common::service::pki::{LabCa, Leaf};
use sotto_common::service::tls::{ConnectionLimits, Tls, server_builder};
use sotto_common::time::{Clock, SystemClock, Timestamp};
use sotto_proto::status::to_status;
use sotto_proto::{convert, v1};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use super::follow_ups;

const DOMAIN: &str = "sotto.test";

/// Hits that the fake has.
pub(crate) const HITS: usize = 25;

/// The hit that can be decided about.
pub(crate) const REVIEWED: &str = "019a1b2c-3d4e-7f60-8123-456789abcdef";

/// A dataset that is refused before its rows are read.
pub(crate) const REFUSED: &str = "refused";

/// A dataset of `ip/1`, whose filters wait for the broker.
pub(crate) const CUT_OFF: &str = "cut-off";

/// A record id that would clear the terminal.
pub(crate) const HOSTILE: &str = "case\t7\u{1b}[2J\n";

pub(crate) type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the fake remembers.
#[derive(Default, Clone)]
pub(crate) struct FakeNode {
    imports: Arc<Mutex<Imports>>,
    changes: Arc<Mutex<Vec<String>>>,
    calls: Arc<AtomicU32>,
    /// The last list that was asked for.
    listed: Arc<Mutex<v1::ListRecordHitsRequest>>,
    /// The one hit that can be decided about, and what was decided.
    reviewed: Arc<Mutex<Vec<v1::ReviewHitRequest>>>,
    /// What is there for the answer of the one follow-up.
    files: Arc<Mutex<Vec<v1::NodeFollowUpAttachment>>>,
    /// What broke off on its way there.
    pub(crate) unfinished: Arc<Mutex<Vec<v1::UnfinishedAttachment>>>,
    asked: Arc<Mutex<follow_ups::Asked>>,
}

#[derive(Default)]
struct Imports {
    completed: Option<u64>,
    ended: u32,
}

impl FakeNode {
    /// Rows of the import that was completed, if one was.
    pub(crate) fn imported(&self) -> Option<u64> {
        self.imports.lock().expect("lock").completed
    }

    /// The last list that was asked for.
    pub(crate) fn listed(&self) -> v1::ListRecordHitsRequest {
        self.listed.lock().expect("lock").clone()
    }

    /// What was decided about [`REVIEWED`].
    pub(crate) fn reviewed(&self) -> Vec<v1::ReviewHitRequest> {
        self.reviewed.lock().expect("lock").clone()
    }

    /// [`REVIEWED`] as the last decision left it. It is a weak match.
    fn reviewed_hit(&self) -> v1::RecordHit {
        let reviewed = self.reviewed.lock().expect("lock");
        let state = match reviewed.last().map(v1::ReviewHitRequest::decision) {
            None => v1::HitState::New,
            Some(v1::HitDecision::Confirm) => v1::HitState::Confirmed,
            Some(v1::HitDecision::FalsePositive) => v1::HitState::FalsePositive,
            Some(v1::HitDecision::NotRelevant) => v1::HitState::NotRelevant,
            Some(_) => v1::HitState::UnderReview,
        };
        let mut hit = hit(1);
        hit.state = state.into();
        hit.needs_second_factor = true;
        hit.feedback_pending = !reviewed.is_empty();
        if let Some(wire) = &mut hit.hit {
            let id: HitId = REVIEWED.parse().expect("an id");
            wire.hit_id = id.as_bytes().to_vec().into();
            wire.state = state.into();
        }
        hit
    }

    /// Puts a file with the answer.
    pub(crate) fn put_file(&self, file: v1::NodeFollowUpAttachment) {
        self.files.lock().expect("lock").push(file);
    }

    /// What was removed, deleted or set, in words.
    pub(crate) fn changes(&self) -> Vec<String> {
        self.changes.lock().expect("lock").clone()
    }

    pub(crate) fn note(&self, change: String) {
        self.changes.lock().expect("lock").push(change);
    }

    /// What was asked about follow-ups.
    pub(crate) fn asked(&self) -> follow_ups::Asked {
        self.asked.lock().expect("lock").clone()
    }

    /// Keeps what is asked about follow-ups.
    pub(crate) fn keep(&self, keep: impl FnOnce(&mut follow_ups::Asked)) {
        keep(&mut self.asked.lock().expect("lock"));
    }

    /// Waits until an import has ended in one way or another.
    pub(crate) async fn import_ended(&self) {
        while self.imports.lock().expect("lock").ended == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The running fake.
pub(crate) struct Lab {
    dir: TempDir,
    /// The service's memory.
    pub(crate) node: FakeNode,
    stop: CancellationToken,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Lab {
    /// Serves on a port of its own and writes the client configuration.
    pub(crate) async fn start(node: FakeNode) -> Arc<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = LabCa::create(dir.path(), DOMAIN, SystemClock.now(), &mut os_rng()).expect("made");
        let server = issue(&dir, &ca, "node/nl-fiu");
        issue(&dir, &ca, "analyst/anna");
        let tls = Tls::load(server).expect("loaded");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let text = format!(
            "endpoint = \"https://localhost:{port}\"\npeer = \"nl-fiu\"\n[tls]\n\
             certificate = \"{dir}/anna.pem\"\nkey = \"{dir}/anna.key\"\nca = \"{dir}/ca.pem\"\n\
             trust_domain = \"{DOMAIN}\"\n",
            dir = dir.path().display()
        );
        std::fs::write(dir.path().join("client.toml"), text).expect("written");
        let stop = CancellationToken::new();
        let limits = ConnectionLimits::default();
        let serving = server_builder(&limits)
            .add_service(v1::analyst_service_server::AnalystServiceServer::new(
                node.clone(),
            ))
            .add_service(v1::dataset_service_server::DatasetServiceServer::new(
                node.clone(),
            ))
            .add_service(v1::node_admin_service_server::NodeAdminServiceServer::new(
                node.clone(),
            ))
            .serve_with_incoming_shutdown(
                tls.incoming(listener, limits),
                stop.clone().cancelled_owned(),
            );
        let serving = tokio::spawn(async move { serving.await.expect("served") });
        Arc::new(Self {
            dir,
            node,
            stop,
            serving: Mutex::new(Some(serving)),
        })
    }

    /// A file in the laboratory's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The client configuration.
    pub(crate) fn client_file(&self) -> PathBuf {
        self.path("client.toml")
    }

    /// Ends the service.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        let serving = self.serving.lock().expect("lock").take();
        serving.expect("stopped once").await.expect("ended");
    }
}

fn issue(dir: &TempDir, ca: &LabCa, path: &str) -> TlsConfig {
    let leaf = Leaf {
        spiffe: format!("spiffe://{DOMAIN}/{path}").parse().expect("valid"),
        hosts: vec!["localhost".into()],
        from: SystemClock.now(),
        days: 1,
    };
    let issued = ca.issue(&leaf, &mut os_rng()).expect("issued");
    let name = leaf.spiffe.name();
    let certificate = dir.path().join(format!("{name}.pem"));
    let key = dir.path().join(format!("{name}.key"));
    let mut rng = os_rng();
    let (public, secret) = (issued.certificate.as_bytes(), issued.key.as_bytes());
    files::write(&certificate, public, Readers::Everyone, &mut rng).expect("written");
    files::write(&key, secret, Readers::Owner, &mut rng).expect("written");
    TlsConfig {
        certificate,
        key: SecretFile(key),
        ca: dir.path().join("ca.pem"),
        crl: None,
        trust_domain: DOMAIN.into(),
        reload_every: HumanDuration(Duration::from_mins(1)),
    }
}

fn hit(number: usize) -> v1::RecordHit {
    let seconds = i64::try_from(number).expect("small");
    let seen = Timestamp::from_seconds(1_700_000_000 + seconds);
    v1::RecordHit {
        hit: Some(v1::Hit {
            hit_id: HitId::generate(seen, &mut os_rng())
                .as_bytes()
                .to_vec()
                .into(),
            policy: "phone/1".into(),
            holder: "de-bka".into(),
            state: v1::HitState::New.into(),
            filter_version: 1,
            false_positive_probability: 1.25e-9,
            posterior: 0.999_999,
            first_seen: Some(convert::to_timestamp(seen)),
            last_seen: Some(convert::to_timestamp(seen)),
            contact_unit: HOSTILE.into(),
            handling_code: v1::HandlingCode::H3.into(),
            handling_text: HOSTILE.into(),
            ..Default::default()
        }),
        match_class: v1::MatchClass::Exact.into(),
        dataset: "suspects".into(),
        record_id: HOSTILE.into(),
        canonical: "+31612345678".into(),
        state: v1::HitState::New.into(),
        ..Default::default()
    }
}

fn refused<T>(code: ErrorCode) -> Result<Response<T>, Status> {
    Err(to_status(Error::new(code, "refused by the fake")))
}

#[async_trait]
impl v1::analyst_service_server::AnalystService for FakeNode {
    type ProbeDatasetStream = Messages<v1::ProbeDatasetResponse>;
    type WatchRecordHitsStream = Messages<v1::WatchRecordHitsResponse>;
    type WatchNodeFollowUpsStream = Messages<v1::WatchNodeFollowUpsResponse>;
    type ReadFollowUpAttachmentStream = Messages<v1::ReadFollowUpAttachmentResponse>;
    type ExportFollowUpStream = Messages<v1::ExportFollowUpResponse>;

    async fn draft_follow_up(
        &self,
        request: Request<v1::DraftFollowUpRequest>,
    ) -> Result<Response<v1::DraftFollowUpResponse>, Status> {
        follow_ups::draft_follow_up(self, request.into_inner())
    }

    async fn propose_follow_up_step(
        &self,
        request: Request<v1::ProposeFollowUpStepRequest>,
    ) -> Result<Response<v1::ProposeFollowUpStepResponse>, Status> {
        follow_ups::propose_follow_up_step(self, request.into_inner())
    }

    async fn approve_follow_up_step(
        &self,
        request: Request<v1::ApproveFollowUpStepRequest>,
    ) -> Result<Response<v1::ApproveFollowUpStepResponse>, Status> {
        follow_ups::approve_follow_up_step(self, request.into_inner())
    }

    async fn discard_follow_up_step(
        &self,
        request: Request<v1::DiscardFollowUpStepRequest>,
    ) -> Result<Response<v1::DiscardFollowUpStepResponse>, Status> {
        follow_ups::discard_follow_up_step(self, request.into_inner())
    }

    async fn end_follow_up(
        &self,
        request: Request<v1::EndFollowUpRequest>,
    ) -> Result<Response<v1::EndFollowUpResponse>, Status> {
        follow_ups::end_follow_up(self, request.into_inner())
    }

    async fn list_node_follow_ups(
        &self,
        request: Request<v1::ListNodeFollowUpsRequest>,
    ) -> Result<Response<v1::ListNodeFollowUpsResponse>, Status> {
        follow_ups::list_node_follow_ups(self, request.into_inner())
    }

    async fn get_node_follow_up(
        &self,
        request: Request<v1::GetNodeFollowUpRequest>,
    ) -> Result<Response<v1::GetNodeFollowUpResponse>, Status> {
        follow_ups::get_node_follow_up(self, request.into_inner())
    }

    async fn get_follow_up_figures(
        &self,
        request: Request<v1::GetFollowUpFiguresRequest>,
    ) -> Result<Response<v1::GetFollowUpFiguresResponse>, Status> {
        follow_ups::get_follow_up_figures(self, request.into_inner())
    }

    async fn watch_node_follow_ups(
        &self,
        request: Request<v1::WatchNodeFollowUpsRequest>,
    ) -> Result<Response<Self::WatchNodeFollowUpsStream>, Status> {
        follow_ups::watch_node_follow_ups(self, request.into_inner())
    }

    async fn read_follow_up_attachment(
        &self,
        request: Request<v1::ReadFollowUpAttachmentRequest>,
    ) -> Result<Response<Self::ReadFollowUpAttachmentStream>, Status> {
        follow_ups::read_follow_up_attachment(self, request.into_inner())
    }

    async fn export_follow_up(
        &self,
        request: Request<v1::ExportFollowUpRequest>,
    ) -> Result<Response<Self::ExportFollowUpStream>, Status> {
        follow_ups::export_follow_up(self, request.into_inner())
    }

    async fn add_follow_up_attachment(
        &self,
        request: Request<tonic::Streaming<v1::AddFollowUpAttachmentRequest>>,
    ) -> Result<Response<v1::AddFollowUpAttachmentResponse>, Status> {
        follow_ups::add_follow_up_attachment(self, request.into_inner()).await
    }

    async fn list_follow_up_attachments(
        &self,
        _: Request<v1::ListFollowUpAttachmentsRequest>,
    ) -> Result<Response<v1::ListFollowUpAttachmentsResponse>, Status> {
        Ok(Response::new(v1::ListFollowUpAttachmentsResponse {
            attachments: self.files.lock().expect("lock").clone(),
            unfinished: self.unfinished.lock().expect("lock").clone(),
        }))
    }

    async fn remove_follow_up_attachment(
        &self,
        request: Request<v1::RemoveFollowUpAttachmentRequest>,
    ) -> Result<Response<v1::RemoveFollowUpAttachmentResponse>, Status> {
        let asked = request.into_inner().attachment_id;
        let mut files = self.files.lock().expect("lock");
        let place = files.iter().position(|file| file.attachment_id == asked);
        let Some(place) = place else {
            return refused(ErrorCode::AttachmentUnknown);
        };
        files.remove(place);
        Ok(Response::new(v1::RemoveFollowUpAttachmentResponse {}))
    }

    async fn get_receipt(
        &self,
        _: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        refused(ErrorCode::LogUnknown)
    }

    async fn review_hit(
        &self,
        request: Request<v1::ReviewHitRequest>,
    ) -> Result<Response<v1::ReviewHitResponse>, Status> {
        let request = request.into_inner();
        let is_first = self.reviewed().is_empty();
        if is_first == (request.decision() != v1::HitDecision::BeginReview) {
            return refused(ErrorCode::IllegalTransition);
        }
        self.reviewed.lock().expect("lock").push(request);
        Ok(Response::new(v1::ReviewHitResponse {
            hit: Some(self.reviewed_hit()),
        }))
    }

    async fn probe_dataset(
        &self,
        _: Request<v1::ProbeDatasetRequest>,
    ) -> Result<Response<Self::ProbeDatasetStream>, Status> {
        let progress = |probed, done, waiting_for: &str| {
            Ok(v1::ProbeDatasetResponse {
                probed,
                total: 10,
                matches: probed / 5,
                done,
                waiting_for: waiting_for.into(),
            })
        };
        // The first stream breaks, the second goes to the end.
        let messages = if self.calls.fetch_add(1, Ordering::SeqCst) == 0 {
            let broken = Err(Status::unavailable("connection closed"));
            vec![
                progress(0, false, ""),
                progress(5, false, "the broker"),
                broken,
            ]
        } else {
            vec![progress(10, true, "")]
        };
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }

    async fn check_selector(
        &self,
        _: Request<v1::CheckSelectorRequest>,
    ) -> Result<Response<v1::CheckSelectorResponse>, Status> {
        refused(ErrorCode::SelectorRejected)
    }

    async fn list_record_hits(
        &self,
        request: Request<v1::ListRecordHitsRequest>,
    ) -> Result<Response<v1::ListRecordHitsResponse>, Status> {
        let request = request.into_inner();
        *self.listed.lock().expect("lock") = request.clone();
        let first: usize = request.page_token.parse().unwrap_or(0);
        // Smaller pages than asked for are allowed, and make the client page.
        let size = usize::try_from(request.page_size).expect("small").min(10);
        let end = (first + size).min(HITS);
        Ok(Response::new(v1::ListRecordHitsResponse {
            hits: (first..end).map(hit).collect(),
            next_page_token: if end < HITS {
                end.to_string()
            } else {
                String::new()
            },
        }))
    }

    async fn get_record_hit(
        &self,
        request: Request<v1::GetRecordHitRequest>,
    ) -> Result<Response<v1::GetRecordHitResponse>, Status> {
        let hit = self.reviewed_hit();
        let asked = request.into_inner().hit_id;
        if hit.hit.as_ref().is_none_or(|hit| hit.hit_id != asked) {
            return refused(ErrorCode::HitUnknown);
        }
        let reviewed = self.reviewed();
        let events = reviewed.into_iter().map(|request| v1::HitEvent {
            hit_id: request.hit_id,
            person: "spiffe://sotto.test/analyst/anna".into(),
            reason: request.reason,
            second_factor: request.second_factor,
            second_factor_value: request.second_factor_value,
            feedback: v1::FeedbackState::Pending.into(),
            ..Default::default()
        });
        Ok(Response::new(v1::GetRecordHitResponse {
            hit: Some(hit),
            events: events.collect(),
            others: Vec::new(),
        }))
    }

    async fn watch_record_hits(
        &self,
        request: Request<v1::WatchRecordHitsRequest>,
    ) -> Result<Response<Self::WatchRecordHitsStream>, Status> {
        if self.calls.fetch_add(1, Ordering::SeqCst) == 2 {
            return refused(ErrorCode::CursorInvalid);
        }
        let cursor = request.into_inner().cursor;
        let events = (cursor + 1..=cursor + 2).map(|cursor| {
            Ok(v1::WatchRecordHitsResponse {
                cursor,
                hit: Some(hit(1)),
            })
        });
        Ok(Response::new(Box::pin(stream::iter(events))))
    }
}
