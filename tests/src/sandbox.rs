//! A broker in this process, with everything that it needs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sotto_broker::config::{Config, MatcherConfig, ObjectsUrl, TilesConfig, default_log_name};
use sotto_broker::serve::BoundBroker;
use sotto_common::error::Result;
use sotto_common::filter::DEFAULT_K;
use sotto_common::ids::Role;
use sotto_common::log::checkpoint::LogKey;
use sotto_common::membership::{PolicyProfile, Profile};
use sotto_common::selector::Policy;
use sotto_common::service::config::{SecretFile, TlsConfig};
use sotto_common::service::metrics::MetricsConfig;
use sotto_common::service::telemetry::LogConfig;
use sotto_common::service::tls::ConnectionLimits;
use sotto_common::testing::port::Port;
use sotto_common::time::{Clock as _, MockClock, SystemClock, Timestamp};
use sotto_proto::v1;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Footprint, TestLedger, log_key_file};
use crate::{Lab, Operator, TRUST_DOMAIN, TestNode, audit};

/// The prior of every policy in tests.
pub const PRIOR: f64 = 0.001;

/// What has not come by then does not come: it matters to a test that fails alone.
pub const NEVER: Duration = Duration::from_mins(5);

/// A broker on a free port, under a clock that stands until a test moves it.
pub struct Sandbox {
    dir: TempDir,
    lab: Arc<Lab>,
    /// The broker's clock, and every node's.
    pub clock: MockClock,
    tls: TlsConfig,
    port: Port,
    ledger: TestLedger,
    /// Whether the next start ends the publications whose filters are lost.
    pub end_lost_filters: bool,
    /// The key list of the next start.
    pub ledger_keys_file: Option<SecretFile>,
    /// What testing may take of this machine from the next start on.
    pub matcher: MatcherConfig,
    /// Where the next start serves the audit log as tiles, if anywhere.
    pub tiles: TilesConfig,
    tiles_address: Option<SocketAddr>,
    running: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Sandbox {
    /// A broker that knows nobody yet.
    pub async fn empty() -> Self {
        Self::on(TestLedger::chosen()).await
    }

    /// As [`Self::empty`], on this ledger.
    pub async fn on(ledger: TestLedger) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let lab = Arc::new(Lab::create(&dir.path().join("pki"), TRUST_DOMAIN));
        let mut sandbox = Self {
            tls: lab.install(Role::Broker, "main"),
            dir,
            lab,
            clock: MockClock::at(SystemClock.now()),
            port: Port::reserve(),
            ledger,
            end_lost_filters: false,
            ledger_keys_file: None,
            matcher: MatcherConfig::default(),
            tiles: TilesConfig::default(),
            tiles_address: None,
            running: None,
        };
        sandbox.start().await;
        sandbox
    }

    /// A community of these nodes, the first its custodian, with epoch 1 active.
    pub async fn with_nodes<const N: usize>(names: [&str; N]) -> (Self, [TestNode; N]) {
        Self::with_profile(profile(), names).await
    }

    /// As [`Self::with_nodes`], under another profile.
    pub async fn with_profile<const N: usize>(
        profile: Profile,
        names: [&str; N],
    ) -> (Self, [TestNode; N]) {
        let sandbox = Self::empty().await;
        let nodes = names.map(|name| sandbox.node(name));
        found(&sandbox.operator(), &profile, &nodes.each_ref()).await;
        (sandbox, nodes)
    }

    /// A node with a certificate; nobody has enrolled it yet.
    pub fn node(&self, name: &str) -> TestNode {
        let clock = Arc::new(self.clock.clone());
        TestNode::new(&self.lab, name, &self.url(), clock)
    }

    /// The operator.
    pub fn operator(&self) -> Operator {
        Operator::new(&self.lab, &self.url())
    }

    /// The authority.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The authority, to be kept.
    pub fn shared_lab(&self) -> Arc<Lab> {
        Arc::clone(&self.lab)
    }

    /// What the clock shows.
    pub fn clock_now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A path below the sandbox's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the broker listens.
    pub const fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Where the broker serves the audit log as tiles.
    pub const fn tiles_address(&self) -> Option<SocketAddr> {
        self.tiles_address
    }

    /// Where the broker listens, as clients write it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// Where the broker keeps its ledger and filters.
    pub fn data_dir(&self) -> PathBuf {
        self.path("broker")
    }

    /// The file of the audit log's key.
    pub fn log_key_file(&self) -> SecretFile {
        SecretFile(match &self.ledger {
            TestLedger::File => self.data_dir().join("log.key"),
            TestLedger::Server(_) => self.path("log.key"),
        })
    }

    /// The key by which the log of [`COMMUNITY`](crate::COMMUNITY) is verified.
    pub fn log_key(&self) -> LogKey {
        audit::log_key(&self.log_key_file())
    }

    /// Changes the ledger of the stopped broker, to what a kill at a bad moment would have left.
    pub async fn change_ledger(&self, statement: &'static str) {
        self.ledger.change(&self.data_dir(), statement).await;
    }

    /// What the broker has stored so far.
    pub async fn footprint(&self) -> Footprint {
        Footprint::of(&self.data_dir(), &self.ledger).await
    }

    /// Starts the broker, at the same address each time.
    pub async fn start(&mut self) {
        self.try_start().await.expect("the broker starts");
    }

    /// As [`Self::start`]; the error is why it does not.
    pub async fn try_start(&mut self) -> Result<()> {
        // A broker that is alone makes the log's key by itself.
        let log_key_file = match &self.ledger {
            TestLedger::File => None,
            TestLedger::Server(_) => Some(log_key_file(self.dir.path())),
        };
        let config = Config {
            listen: self.address(),
            address_file: None,
            data_dir: self.data_dir(),
            ledger: self.ledger.setting().parse().expect("a ledger"),
            ledger_password_file: None,
            ledger_keys_file: self.ledger_keys_file.clone(),
            objects: ObjectsUrl::Local,
            objects_credentials_file: None,
            log_name: default_log_name(),
            log_key_file,
            end_lost_filters: self.end_lost_filters,
            matcher: self.matcher,
            tls: self.tls.clone(),
            connections: ConnectionLimits::default(),
            log: LogConfig::default(),
            metrics: MetricsConfig::default(),
            tiles: self.tiles,
        };
        let stop = CancellationToken::new();
        let bound = BoundBroker::bind(config, Arc::new(self.clock.clone()), stop.clone());
        let bound = bound.await?;
        self.tiles_address = bound.tiles_address();
        let task = tokio::spawn(bound.run());
        self.running = Some(Running { stop, task });
        Ok(())
    }

    /// Stops the broker in good order.
    pub async fn stop(&mut self) {
        let running = self.running.take().expect("it runs");
        running.stop.cancel();
        let ended = running.task.await.expect("no panic");
        ended.expect("an orderly end");
    }

    /// Waits until something holds that others bring about by themselves, e.g. a job of the broker,
    /// or what a unit writes down after another one has seen it.
    pub async fn eventually(&self, mut holds: impl AsyncFnMut() -> bool) {
        let waited = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(NEVER, waited).await;
        in_time.expect("it never came to hold");
    }

    /// Stops the broker in good order and starts it again on the same data.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }
}

/// Creates the community, enrols the nodes, and activates epoch 1, the first node its custodian.
pub async fn found(operator: &Operator, profile: &Profile, nodes: &[&TestNode]) {
    let custodian = nodes[0];
    let custodians = &[custodian.id().as_str()];
    let created = operator.create_community(profile.clone(), custodians).await;
    created.expect("created");
    for node in nodes {
        operator.enrol(node.id().as_str()).await.expect("enrolled");
        node.submit_keys().await.expect("taken");
    }
    open_epoch(1, profile, nodes).await;
}

/// Opens an epoch and confirms it by every node; the first is its custodian.
pub async fn open_epoch(number: u32, profile: &Profile, nodes: &[&TestNode]) {
    let opened = nodes[0].open_epoch(number, profile, nodes).await;
    opened.expect("opened");
    let mut state = v1::EpochState::Unspecified;
    for node in nodes {
        state = node.join_epoch(number).await.expect("confirmed");
    }
    assert_eq!(state, v1::EpochState::Active);
}

/// Phones and e-mail addresses with the defaults of the protocol.
pub fn profile() -> Profile {
    let row = |policy| PolicyProfile {
        policy,
        k: DEFAULT_K,
        prior: PRIOR,
    };
    Profile::new(vec![row(Policy::Phone), row(Policy::Email)]).expect("a profile")
}
