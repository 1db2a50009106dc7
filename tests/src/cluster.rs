//! Several broker processes on one ledger and one object store, behind a balancer.

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use futures::future::join_all;
use sotto_common::membership::Profile;
use sotto_common::testing::postgres::Server;
use sotto_common::testing::s3::S3Server;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::balancer::Balancer;
use crate::ledger::TestLedger;
use crate::process::{Site, Stores};
use crate::sandbox::found;
use crate::{BrokerProcess, Operator, TestNode};

/// Where the brokers of a cluster keep their objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Objects {
    /// In a folder that they share.
    Folder,
    /// In a bucket of a server in this process.
    S3,
}

/// Brokers in a row, each with a folder and a port of its own; killed when dropped.
pub struct Cluster {
    /// The brokers.
    pub replicas: Vec<BrokerProcess>,
    /// Leads to any of them.
    pub balancer: Balancer,
    /// Where all of them keep what they share.
    pub stores: Stores,
    /// The server of their ledger.
    pub server: Server,
    /// Where they are.
    pub site: Site,
    /// The server of their bucket, if they have one.
    pub bucket: Option<S3Server>,
}

impl Cluster {
    /// Starts so many brokers; `None`, and a line on standard error, where PostgreSQL is missing.
    pub async fn start(brokers: usize, objects: Objects) -> Option<Self> {
        let server = tokio::task::spawn_blocking(Server::start)
            .await
            .expect("no panic")?;
        let site = Site::create();
        let bucket = (objects == Objects::S3).then(S3Server::start);
        let stores = match &bucket {
            Some(s3) => Stores {
                ledger: TestLedger::Server(server.database()),
                objects: s3.url(&s3.bucket()),
                credentials: Some(s3.credentials_file()),
            },
            None => Stores {
                ledger: TestLedger::Server(server.database()),
                objects: folder(&site, "objects"),
                credentials: None,
            },
        };
        let starting = (0..brokers).map(|number| {
            let (site, stores) = (&site, &stores);
            async move {
                let name = format!("broker-{number}");
                BrokerProcess::at(site, &name, stores, "info").await
            }
        });
        let replicas = join_all(starting).await;
        let addresses = replicas.iter().map(BrokerProcess::address).collect();
        Some(Self {
            balancer: Balancer::start(addresses).await,
            replicas,
            stores,
            server,
            site,
            bucket,
        })
    }

    /// As [`Self::start`], with a community of these nodes, which go through the balancer; the
    /// first is its custodian, and epoch 1 is active.
    pub async fn with_nodes<const N: usize>(
        brokers: usize,
        objects: Objects,
        profile: Profile,
        names: [&str; N],
    ) -> Option<(Self, [TestNode; N])> {
        let cluster = Self::start(brokers, objects).await?;
        let nodes = names.map(|name| cluster.replicas[0].node(name));
        found(&cluster.operator(), &profile, &nodes.each_ref()).await;
        let nodes = nodes.map(|node| cluster.balanced(&node));
        Some((cluster, nodes))
    }

    /// The same node on a new connection through the balancer.
    #[must_use]
    pub fn balanced(&self, node: &TestNode) -> TestNode {
        node.towards(&self.site.lab, &self.balancer.url())
    }

    /// The same node on a connection to each broker.
    #[must_use]
    pub fn direct(&self, node: &TestNode) -> Vec<Arc<TestNode>> {
        let brokers = self.replicas.iter();
        brokers
            .map(|broker| Arc::new(broker.reached_by(node)))
            .collect()
    }

    /// How many brokers have a place among those on the ledger: one that is silent for longer than
    /// its lease loses it.
    pub async fn places(&self) -> i64 {
        let TestLedger::Server(url) = &self.stores.ledger else {
            panic!("a cluster is on a server");
        };
        let mut server = PgConnection::connect(url).await.expect("connected");
        let count = "SELECT count(*) FROM replica_leases";
        let count = sqlx::query_scalar(count).fetch_one(&mut server).await;
        count.expect("counted")
    }

    /// The operator, through the balancer.
    pub fn operator(&self) -> Operator {
        Operator::new(&self.site.lab, &self.balancer.url())
    }
}

/// Makes a folder for objects at a site; returns the setting that names it.
pub fn folder(site: &Site, name: &str) -> String {
    let folder = site.path(name);
    let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    made.expect("a folder");
    format!("file://{}", folder.display())
}
