//! The broker as a process of its own, to be killed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use sotto_common::ids::Role;
use sotto_common::testing::port::Port;
use sotto_common::time::SystemClock;
use tempfile::TempDir;

use crate::ledger::{TestLedger, log_key_file};
use crate::program::{self, Program};
use crate::{Lab, Operator, TRUST_DOMAIN, TestNode};

/// What the broker logs once it answers.
const ANSWERS: &str = "broker answers";

/// The folder of a test with its laboratory; brokers, and restored ones, share it.
#[derive(Clone, Debug)]
pub struct Site {
    dir: Arc<TempDir>,
    /// The authority of everyone at this site.
    pub lab: Arc<Lab>,
}

impl Site {
    /// A new folder with a new authority.
    pub fn create() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let lab = Lab::create(&dir.path().join("pki"), TRUST_DOMAIN);
        Self {
            dir: Arc::new(dir),
            lab: Arc::new(lab),
        }
    }

    /// A path below the folder, which goes once nothing of the site is left.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Where a broker keeps what is not in its own folder.
#[derive(Clone, Debug)]
pub struct Stores {
    /// The ledger.
    pub ledger: TestLedger,
    /// The broker's setting `objects`.
    pub objects: String,
    /// The file of its setting `objects_credentials_file`.
    pub credentials: Option<PathBuf>,
}

impl Stores {
    /// This ledger, and objects in the broker's own folder.
    pub fn local(ledger: TestLedger) -> Self {
        Self {
            ledger,
            objects: "local:".into(),
            credentials: None,
        }
    }

    /// These settings as lines of a configuration.
    fn settings(&self) -> String {
        let (ledger, objects) = (self.ledger.setting(), &self.objects);
        let credentials = self.credentials.iter();
        let credentials = credentials.map(|file| {
            let file = file.display();
            format!("objects_credentials_file = '{file}'\n")
        });
        let credentials: String = credentials.collect();
        format!("ledger = '{ledger}'\nobjects = '{objects}'\n{credentials}")
    }
}

/// A broker process at its site; killed when dropped.
pub struct BrokerProcess {
    site: Site,
    home: PathBuf,
    port: Port,
    program: Program,
    filter: &'static str,
}

impl BrokerProcess {
    /// Starts a broker that logs by this filter.
    pub async fn start(filter: &'static str) -> Self {
        Self::on(&TestLedger::chosen(), filter).await
    }

    /// As [`Self::start`], on this ledger.
    pub async fn on(ledger: &TestLedger, filter: &'static str) -> Self {
        let stores = Stores::local(ledger.clone());
        Self::at(&Site::create(), "main", &stores, filter).await
    }

    /// As [`Self::start`], as the broker of this name at a site, on these stores.
    pub async fn at(site: &Site, name: &str, stores: &Stores, filter: &'static str) -> Self {
        let tls = site.lab.install(Role::Broker, name);
        let mut process = Self {
            home: site.path(name),
            site: site.clone(),
            port: Port::reserve(),
            program: Program::default(),
            filter,
        };
        std::fs::create_dir_all(&process.home).expect("a folder");
        let config = format!(
            "{}log_key_file = '{}'\ndata_dir = '{}'\naddress_file = '{}'\n[tls]\ncertificate = '{}'\nkey = '{}'\n\
             ca = '{}'\ncrl = '{}'\ntrust_domain = '{TRUST_DOMAIN}'\n",
            stores.settings(),
            log_key_file(&site.path("")).0.display(),
            process.data_dir().display(),
            process.path("address").display(),
            tls.certificate.display(),
            tls.key.0.display(),
            tls.ca.display(),
            tls.crl.expect("a list").display(),
        );
        std::fs::write(process.path("broker.toml"), config).expect("written");
        process.restart().await;
        process
    }

    /// Starts the broker again on the same data and address.
    pub async fn restart(&mut self) {
        self.restart_under("exec \"$@\"").await;
    }

    /// As [`Self::restart`], by a shell's script that ends in `exec "$@"`: e.g. after `ulimit`.
    pub async fn restart_under(&mut self, script: &str) {
        let config = self.path("broker.toml");
        let broker = program::broker();
        let command = [
            broker.as_os_str(),
            "serve".as_ref(),
            "--config".as_ref(),
            config.as_os_str(),
        ];
        let environment = [
            ("SOTTO_LOG", self.filter.to_owned()),
            ("SOTTO_BROKER__LISTEN", self.address().to_string()),
        ];
        self.program
            .start(script, &command, &environment, ANSWERS)
            .await;
        let told = std::fs::read_to_string(self.path("address")).expect("an address");
        assert_eq!(told.trim(), self.address().to_string());
    }

    /// `kill -9`, and waits until the process is gone.
    pub async fn kill(&mut self) {
        self.program.kill().await;
    }

    /// Asks the broker to end (`SIGTERM`), and waits until it has, in good order.
    pub async fn stop(&mut self) {
        self.program.stop().await;
    }

    /// Stops the process where it stands (`SIGSTOP`); its connections stay.
    pub fn freeze(&self) {
        self.program.signal("-STOP");
    }

    /// Lets a frozen process go on (`SIGCONT`).
    pub fn thaw(&self) {
        self.program.signal("-CONT");
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// All that the broker has logged.
    pub fn log(&self) -> Vec<u8> {
        self.program.log()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// Where the broker keeps its ledger and filters.
    pub fn data_dir(&self) -> PathBuf {
        self.path("broker")
    }

    /// Its site.
    pub const fn site(&self) -> &Site {
        &self.site
    }

    /// Where it listens, before and after a restart.
    pub const fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// A node under the system's clock; nobody has enrolled it yet.
    pub fn node(&self, name: &str) -> TestNode {
        TestNode::new(&self.site.lab, name, &self.url(), Arc::new(SystemClock))
    }

    /// The same node on a connection of its own to this broker.
    pub fn reached_by(&self, node: &TestNode) -> TestNode {
        node.towards(&self.site.lab, &self.url())
    }

    /// The operator.
    pub fn operator(&self) -> Operator {
        Operator::new(&self.site.lab, &self.url())
    }
}
