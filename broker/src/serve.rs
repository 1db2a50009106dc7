//! Building and running the broker: everything that `main` and the tests need.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sotto_common::error::{Error, Result};
use sotto_common::random::os_rng;
use sotto_common::service::files::{self, DirLock, Readers};
use sotto_common::service::tls::{MAX_MESSAGE, Tls, server_builder};
use sotto_common::service::{metrics, shutdown};
use sotto_common::time::Clock;
use sotto_proto::FILE_DESCRIPTOR_SET;
use sotto_proto::status::mend_response;
use sotto_proto::v1::audit_service_server::AuditServiceServer;
use sotto_proto::v1::follow_up_service_server::FollowUpServiceServer;
use sotto_proto::v1::hit_service_server::HitServiceServer;
use sotto_proto::v1::log_service_server::LogServiceServer;
use sotto_proto::v1::membership_service_server::MembershipServiceServer;
use sotto_proto::v1::probe_service_server::ProbeServiceServer;
use sotto_proto::v1::publication_service_server::PublicationServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::InterceptorLayer;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tower::util::MapResponseLayer;

use crate::app::{Broker, Journal, Log, Parts};
use crate::cache::Cache;
use crate::config::{Config, LogKeyFile};
use crate::datastore::Datastore;
use crate::jobs;
use crate::matcher::Matcher;
use crate::objects::Objects;
use crate::rpc::{Api, UnderWay, in_pieces};
use crate::tiles::TileServer;

/// How long calls may take to end once the broker is asked to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// A service with the message bound of protocol §12.
macro_rules! bounded {
    ($server:ident, $api:expr) => {
        $server::new($api.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    };
}

/// Most bytes of a message of a probe (protocol §7): 4096 pairs of 32 bytes, or 1000 targets of at most 35,
/// and what is around them.
const MAX_QUESTION: usize = 256 * 1024;

/// A broker that is bound and recovered, and does not answer yet.
pub struct BoundBroker {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<Tls>,
    tiles: Option<TileServer>,
    broker: Arc<Broker>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Held as long as this runs: the folder is this broker's alone.
    lock: DirLock,
}

impl BoundBroker {
    /// Opens the ledger, recovers the filters, and binds.
    ///
    /// # Errors
    /// If a file, the ledger or the address cannot be had; the text says which.
    pub async fn bind(
        config: Config,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
    ) -> Result<Self> {
        make_private(&config.data_dir)?;
        let lock = DirLock::acquire(&config.data_dir).map_err(Error::internal)?;
        let tls = Tls::load(config.tls.clone()).map_err(Error::internal)?;
        let tasks = TaskTracker::new();
        metrics::serve(&config.metrics, &tasks, &shutdown)
            .await
            .map_err(Error::internal)?;
        let log_key = LogKeyFile::of(&config).map_err(Error::internal)?;
        let tiles = TileServer::bind(&config).await?;
        let store = Datastore::open(&config).await?;
        let (dir, credentials) = (&config.data_dir, config.objects_credentials_file.as_ref());
        let objects = Objects::open(&config.objects, dir, credentials).map_err(Error::internal)?;
        let cache = Cache::open(dir).map_err(Error::internal)?;
        delete_former_filters(dir).map_err(Error::internal)?;
        let own = tls.identity();
        let log_name = config.log_name.clone();
        let parts = Parts {
            log: Log::open(&store, log_name, own.trust_domain(), &log_key).await?,
            store,
            objects,
            cache,
            matcher: Matcher::start(&config.matcher)?,
            replica_file: dir.join("replica"),
            journal: Journal::new(own),
            clock,
        };
        let broker = Arc::new(Broker::start(parts, config.end_lost_filters).await?);
        let listener = match TcpListener::bind(config.listen).await {
            Ok(listener) => listener,
            Err(error) => {
                broker.close().await;
                return Err(Error::internal(error));
            }
        };
        let address = listener.local_addr().map_err(Error::internal)?;
        Ok(Self {
            config,
            listener,
            address,
            tls,
            tiles,
            broker,
            tasks,
            shutdown,
            lock,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the audit logs can be read as tiles, if anywhere.
    pub fn tiles_address(&self) -> Option<SocketAddr> {
        self.tiles.as_ref().map(TileServer::address)
    }

    /// Answers until `shutdown` is tripped, then lets calls end and closes the ledger.
    ///
    /// # Errors
    /// If the server cannot go on.
    pub async fn run(self) -> Result<()> {
        let Self {
            config,
            listener,
            address,
            tls,
            tiles,
            broker,
            tasks,
            shutdown,
            lock,
        } = self;
        let drained = work(&broker, &tls, &tasks, &shutdown);
        if let Some(tiles) = tiles {
            tiles.start(&broker, &tasks, &shutdown);
        }
        tasks.close();

        let api = Api {
            broker: Arc::clone(&broker),
            revocation: tls.revocation(),
            shutdown: shutdown.clone(),
            under_way: UnderWay::default(),
        };
        let checked = api.clone();
        let serving = server_builder(&config.connections)
            .layer(MapResponseLayer::new(in_pieces))
            .layer(MapResponseLayer::new(mend_response))
            .layer(InterceptorLayer::new(move |request| checked.check(request)))
            .add_service(health(&broker, &tasks, &shutdown).await)
            .add_service(reflection()?)
            .add_service(bounded!(MembershipServiceServer, api))
            .add_service(bounded!(PublicationServiceServer, api))
            .add_service(bounded!(ProbeServiceServer, api).max_decoding_message_size(MAX_QUESTION))
            .add_service(bounded!(HitServiceServer, api))
            .add_service(bounded!(FollowUpServiceServer, api))
            .add_service(bounded!(LogServiceServer, api))
            .add_service(bounded!(AuditServiceServer, api))
            .serve_with_incoming_shutdown(
                tls.incoming(listener, config.connections),
                shutdown.clone().cancelled_owned(),
            );
        if let Some(file) = &config.address_file {
            write_address(file, address)?;
        }
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "broker answers");
        let served = match shutdown::drain(&shutdown, DRAIN, serving).await {
            Ok(served) => served.map_err(Error::internal),
            Err(overrun) => {
                tracing::warn!(%overrun, "calls were cut off");
                Ok(())
            }
        };
        shutdown.cancel();
        drained.cancel();
        tasks.wait().await;
        broker.close().await;
        tracing::info!("broker stopped");
        drop(lock);
        served
    }
}

/// Starts what the broker does by itself until `shutdown`. What keeps its place among the others
/// goes on until the token that is returned: calls that are let end still need it.
fn work(
    broker: &Arc<Broker>,
    tls: &Arc<Tls>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> CancellationToken {
    tasks.spawn(jobs::run(Arc::clone(broker), shutdown.clone()));
    let drained = CancellationToken::new();
    let (follower, end) = (Arc::clone(broker), drained.clone());
    tasks.spawn(async move { follower.keep_up(end).await });
    tasks.spawn(Arc::clone(tls).keep_fresh(shutdown.clone()));
    drained
}

async fn health(
    broker: &Arc<Broker>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> HealthServer<impl Health> {
    let (health, service) = tonic_health::server::health_reporter();
    let (broker, told) = (Arc::clone(broker), health.clone());
    tasks.spawn(shutdown.clone().run_until_cancelled_owned(async move {
        tell_whether_probes_are_served(&broker, &told).await;
    }));
    health.set_serving::<MembershipServiceServer<Api>>().await;
    health.set_serving::<PublicationServiceServer<Api>>().await;
    health.set_serving::<HitServiceServer<Api>>().await;
    health.set_serving::<FollowUpServiceServer<Api>>().await;
    health.set_serving::<LogServiceServer<Api>>().await;
    health.set_serving::<AuditServiceServer<Api>>().await;
    service
}

/// Says that probes are not served while any filter is awaited, for as long as that may be.
async fn tell_whether_probes_are_served(broker: &Broker, health: &HealthReporter) {
    loop {
        let (awaited, mut again) = broker.awaited_filters();
        metrics::filters_awaited(awaited);
        if awaited == 0 {
            health.set_serving::<ProbeServiceServer<Api>>().await;
        } else {
            health.set_not_serving::<ProbeServiceServer<Api>>().await;
        }
        // The matcher lives as long as the broker.
        let _ = again.changed().await;
    }
}

fn reflection() -> Result<ServerReflectionServer<impl ServerReflection>> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(Error::internal)
}

/// Deletes the folders that held filters before the object store did; migration 0002 has ended
/// what was in them.
fn delete_former_filters(data_dir: &Path) -> std::io::Result<()> {
    for name in ["filters", "uploads"] {
        let folder = data_dir.join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
            tracing::info!(folder = %folder.display(), "filters of an earlier version deleted");
        }
    }
    Ok(())
}

fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(dir);
    // A folder that was there already may be open to others.
    made.and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)))
        .map_err(Error::internal)
}

fn write_address(file: &Path, address: SocketAddr) -> Result<()> {
    let line = format!("{address}\n");
    files::write(file, line.as_bytes(), Readers::Everyone, &mut os_rng()).map_err(Error::internal)
}
