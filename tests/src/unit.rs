//! A national unit: the real node's service, in this process or as one of its own, and its people.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sotto_common::ids::Role;
use sotto_common::log::checkpoint::LogKey;
use sotto_common::random::os_rng;
use sotto_common::service::at_rest::ColumnCipher;
use sotto_common::service::config::SecretFile;
use sotto_common::service::files::{self, Readers};
use sotto_common::testing::port::Port;
use sotto_common::time::Clock;
use sotto_node::config::NodeConfig;
use sotto_node::keystore::Keystore;
use sotto_node::serve::{self, RunningNode};
use sotto_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;
use v1::analyst_service_client::AnalystServiceClient;
use v1::dataset_service_client::DatasetServiceClient;
use v1::import_dataset_request::Message as ImportMessage;
use v1::node_admin_service_client::NodeAdminServiceClient;
use v1::remove_selectors_request::Message as RemoveMessage;

use crate::program::{self, Program};
use crate::{COMMUNITY, Lab, TRUST_DOMAIN};

/// What the node logs once it answers.
const IS_UP: &str = "node is up";

/// A unit with its folder, keys and certificates.
pub struct Unit {
    name: String,
    lab: Arc<Lab>,
    home: PathBuf,
    port: Port,
    here: Option<(CancellationToken, RunningNode)>,
    program: Program,
}

/// Why everything is asked in tests.
pub fn grounds() -> v1::ProbeGrounds {
    v1::ProbeGrounds {
        purpose: v1::Purpose::Investigation.into(),
        legal_basis: v1::LegalBasis::Eu2023977.into(),
        legal_basis_reference: String::new(),
        case_ref: "2026-17".into(),
    }
}

/// Dataset and canonical value of an own record, and who holds it too.
pub type Overlap = (String, String, String);

impl Unit {
    /// A unit of this name at `home`, with new keys, whose broker is at `broker`. `settings` are
    /// lines of its configuration.
    pub fn install(lab: &Arc<Lab>, home: &Path, name: &str, broker: &str, settings: &str) -> Self {
        let tls = lab.install(Role::Node, name);
        std::fs::create_dir_all(home).expect("a folder");
        let unit = Self {
            name: name.into(),
            lab: Arc::clone(lab),
            home: home.into(),
            port: Port::reserve(),
            here: None,
            program: Program::default(),
        };
        let config = format!(
            "node_id = '{name}'\ncommunity = '{COMMUNITY}'\nlisten = '127.0.0.1:0'\n\
             data_dir = '{}'\naddress_file = '{}'\ncustodians = ['nl-fiu']\n\
             [broker]\nendpoint = '{broker}'\n[tls]\ncertificate = '{}'\nkey = '{}'\nca = '{}'\n\
             crl = '{}'\ntrust_domain = '{TRUST_DOMAIN}'\n{settings}\n",
            unit.data_dir().display(),
            unit.path("address").display(),
            tls.certificate.display(),
            tls.key.0.display(),
            tls.ca.display(),
            tls.crl.expect("a list").display(),
        );
        std::fs::write(unit.path("node.toml"), config).expect("written");
        unit.make_keys();
        unit
    }

    /// Lets it follow the audit log with this key from its next start on.
    pub fn follow_log(&self, key: &LogKey) {
        let path = self.path("node.toml");
        let mut config = std::fs::read_to_string(&path).expect("a configuration");
        config += "[audit_log]\nverifier_key = '";
        config += &key.to_string();
        config += "'\n";
        std::fs::write(&path, config).expect("written");
    }

    /// As `sotto-node init`.
    fn make_keys(&self) {
        let keys = self.data_dir().join("keys");
        std::fs::create_dir_all(&keys).expect("a folder");
        let list = keys.join("store.keys");
        let line = ColumnCipher::generate_line(&mut os_rng());
        let written = files::write(&list, line.as_bytes(), Readers::Owner, &mut os_rng());
        written.expect("a key list");
        let cipher = ColumnCipher::load(&SecretFile(list)).expect("a key list");
        Keystore::create(&keys, cipher, &mut os_rng()).expect("keys");
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// Where its store and keys are.
    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// Changes its configuration, for the next start.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let file = self.path("node.toml");
        let config = std::fs::read_to_string(&file).expect("a configuration");
        assert!(config.contains(from), "{from} is not in it");
        std::fs::write(&file, config.replace(from, to)).expect("written");
    }

    /// Whether its service runs.
    pub const fn runs(&self) -> bool {
        self.here.is_some() || self.program.runs()
    }

    /// Starts its service in this process, at the same address each time.
    pub async fn start(&mut self, clock: Arc<dyn Clock>) {
        let mut config = NodeConfig::load(Some(&self.path("node.toml"))).expect("valid");
        config.listen = self.port.address();
        let stop = CancellationToken::new();
        let node = serve::start(config, clock, stop.clone()).await;
        let node = node.expect("the node starts");
        self.here = Some((stop, node));
    }

    /// Stops the service that runs in this process, in good order.
    pub async fn stop(&mut self) {
        let (stop, node) = self.here.take().expect("it runs here");
        stop.cancel();
        node.ended().await.expect("an orderly end");
    }

    /// Starts its service as a process, at the same address each time.
    pub async fn start_process(&mut self) {
        self.start_process_under("exec \"$@\"").await;
    }

    /// As [`Self::start_process`], by a shell's script that ends in `exec "$@"`.
    pub async fn start_process_under(&mut self, script: &str) {
        let config = self.path("node.toml");
        let node = program::node();
        let command = [
            node.as_os_str(),
            "serve".as_ref(),
            "--config".as_ref(),
            config.as_os_str(),
        ];
        let environment = [
            ("SOTTO_LOG", "info".to_owned()),
            ("SOTTO_NODE__LISTEN", self.port.address().to_string()),
        ];
        self.program
            .start(script, &command, &environment, IS_UP)
            .await;
        let told = std::fs::read_to_string(self.path("address")).expect("an address");
        assert_eq!(told.trim(), self.port.address().to_string());
    }

    /// `kill -9` of the process.
    pub async fn kill(&mut self) {
        self.program.kill().await;
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// What its process has logged.
    pub fn log_text(&self) -> String {
        self.program.log_text()
    }

    /// As its supervisor, about evidence.
    pub fn supervisor(&self) -> NodeAdminServiceClient<Channel> {
        NodeAdminServiceClient::new(self.channel(Role::Supervisor))
    }

    fn url(&self) -> String {
        format!("https://{}", self.port.address())
    }

    /// A channel to its service as one of its people.
    pub fn channel(&self, role: Role) -> Channel {
        let url = self.url();
        let person = format!("{}-person", self.name);
        self.lab.channel_to(Role::Node, role, &person, &url)
    }

    /// As one of its people, by name and role.
    pub fn person(&self, role: Role, name: &str) -> AnalystServiceClient<Channel> {
        let url = self.url();
        let person = format!("{}-{name}", self.name);
        let channel = self.lab.channel_to(Role::Node, role, &person, &url);
        AnalystServiceClient::new(channel)
    }

    /// As its analyst.
    pub fn analyst(&self) -> AnalystServiceClient<Channel> {
        AnalystServiceClient::new(self.channel(Role::Analyst))
    }

    /// As its data manager, about datasets.
    pub fn datasets(&self) -> DatasetServiceClient<Channel> {
        DatasetServiceClient::new(self.channel(Role::DataManager))
    }

    /// As its data manager, about members and epochs.
    pub fn admin(&self) -> NodeAdminServiceClient<Channel> {
        NodeAdminServiceClient::new(self.channel(Role::DataManager))
    }

    /// How it stands.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, Status> {
        let status = self.admin().get_status(v1::GetStatusRequest {}).await?;
        Ok(status.into_inner())
    }

    /// Imports values, each a record of its own that is named by it; `replace`: in the place of all.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn import(
        &self,
        dataset: &str,
        policy: &str,
        values: &BTreeSet<String>,
        replace: bool,
    ) -> Result<v1::ImportDatasetResponse, Status> {
        let header = v1::ImportHeader {
            dataset: dataset.into(),
            policy: policy.into(),
            region: String::new(),
            replace,
        };
        let messages = [
            ImportMessage::Header(header),
            ImportMessage::Rows(rows(values)),
        ];
        let messages = messages.map(|message| v1::ImportDatasetRequest {
            message: Some(message),
        });
        let stream = tokio_stream::iter(messages);
        let report = self.datasets().import_dataset(stream).await?;
        Ok(report.into_inner())
    }

    /// Removes values, and waits until they match no more.
    ///
    /// # Errors
    /// The node's refusal, also if it cannot reach the broker.
    pub async fn remove(
        &self,
        dataset: &str,
        values: &BTreeSet<String>,
    ) -> Result<v1::RemoveSelectorsResponse, Status> {
        let header = v1::RemovalHeader {
            dataset: dataset.into(),
            ..Default::default()
        };
        let messages = [
            RemoveMessage::Header(header),
            RemoveMessage::Rows(rows(values)),
        ];
        let messages = messages.map(|message| v1::RemoveSelectorsRequest {
            message: Some(message),
        });
        let stream = tokio_stream::iter(messages);
        let report = self.datasets().remove_selectors(stream).await?;
        Ok(report.into_inner())
    }

    /// Has a dataset probed by itself.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn probe_by_itself(&self, dataset: &str) -> Result<(), Status> {
        let request = v1::UpdateDatasetRequest {
            dataset: dataset.into(),
            probe: Some(grounds()),
            ..Default::default()
        };
        self.datasets().update_dataset(request).await.map(drop)
    }

    /// Waits until everything that it has is what probes are tested against.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn publish(&self) -> Result<Vec<v1::PublishFiltersResponse>, Status> {
        let request = v1::PublishFiltersRequest::default();
        let answer = self.datasets().publish_filters(request).await?;
        let mut stream = answer.into_inner();
        let mut told = Vec::new();
        while let Some(progress) = stream.message().await? {
            told.push(progress);
        }
        Ok(told)
    }

    /// Its threads, page by page.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn threads(&self) -> Result<Vec<v1::RecordHit>, Status> {
        let mut request = v1::ListRecordHitsRequest {
            page_size: 1000,
            ..Default::default()
        };
        let mut analyst = self.analyst();
        let mut threads = Vec::new();
        loop {
            let page = analyst
                .list_record_hits(request.clone())
                .await?
                .into_inner();
            threads.extend(page.hits);
            if page.next_page_token.is_empty() {
                return Ok(threads);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// What its open hits say: dataset, own canonical value, and holder. None may come twice.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn overlaps(&self) -> Result<BTreeSet<Overlap>, Status> {
        let mut overlaps = BTreeSet::new();
        for thread in self.threads().await? {
            let open = matches!(
                thread.state(),
                v1::HitState::New
                    | v1::HitState::UnderReview
                    | v1::HitState::Confirmed
                    | v1::HitState::FollowedUp
            );
            if open && !thread.record_removed {
                let holder = thread.hit.unwrap_or_default().holder;
                let fresh = overlaps.insert((thread.dataset, thread.canonical, holder));
                assert!(fresh, "a hit is shown twice at {}", self.name);
            }
        }
        Ok(overlaps)
    }
}

fn rows(values: &BTreeSet<String>) -> v1::ImportRows {
    let row = |(value, line): (&String, u64)| v1::ImportRow {
        line,
        value: value.clone(),
        record_id: value.clone(),
        ..Default::default()
    };
    v1::ImportRows {
        rows: values.iter().zip(1..).map(row).collect(),
    }
}

/// Pins everybody at everybody, and opens the first epoch at the first; the others take it.
pub async fn introduce(units: &[Unit]) {
    let mut fingerprints = Vec::new();
    for unit in units {
        let status = unit.status().await.expect("a status");
        fingerprints.push((unit.name().to_owned(), status.fingerprint));
    }
    for unit in units {
        for (node, fingerprint) in &fingerprints {
            if node != unit.name() {
                let request = v1::PinMemberRequest {
                    node_id: node.clone(),
                    fingerprint: fingerprint.clone(),
                    replace: false,
                };
                unit.admin().pin_member(request).await.expect("pinned");
            }
        }
    }
    let request = v1::StartEpochRequest { days: 30 };
    let opened = units[0].admin().start_epoch(request).await;
    opened.expect("opened");
    for unit in &units[1..] {
        let request = v1::FetchEpochRequest { epoch: 1 };
        unit.admin().fetch_epoch(request).await.expect("taken");
    }
}
