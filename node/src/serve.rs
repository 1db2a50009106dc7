//! Puts the node together and runs it.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use sotto_common::log::cosignature::Cosigner;
use sotto_common::random::os_rng;
use sotto_common::selector::StopList;
use sotto_common::service::config::ConfigError;
use sotto_common::service::files::{self, Readers};
use sotto_common::service::metrics;
use sotto_common::service::shutdown::drain;
use sotto_common::service::tls::{ConnectionLimits, MAX_MESSAGE, Tls, server_builder};
use sotto_common::time::Clock;
use sotto_proto::FILE_DESCRIPTOR_SET;
use sotto_proto::status::mend_response;
use sotto_proto::v1::analyst_service_server::AnalystServiceServer;
use sotto_proto::v1::dataset_service_server::DatasetServiceServer;
use sotto_proto::v1::node_admin_service_server::NodeAdminServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower::util::MapResponseLayer;

use crate::app::App;
use crate::app::follow_ups::attachments::Unfinished;
use crate::app::jobs::Jobs;
use crate::app::policies::Policies;
use crate::app::sources::Sources;
use crate::app::witness::FollowedLog;
use crate::auth::Gate;
use crate::broker::Broker;
use crate::config::NodeConfig;
use crate::keystore::{Keystore, private_dir};
use crate::rpc::admin::Admin;
use crate::rpc::analyst::Analysts;
use crate::rpc::dataset::Datasets;
use crate::rpc::roles::Door;
use crate::store::Store;

/// How long calls may go on after the node was told to end.
const DRAIN: Duration = Duration::from_secs(10);

/// What keeps a node from starting or ends it: a configuration, a port, a store.
pub type ServeError = Box<dyn StdError + Send + Sync>;

/// A node that runs. It ends by the token it was started with.
#[derive(Debug)]
pub struct RunningNode {
    address: SocketAddr,
    end: JoinHandle<Result<(), ServeError>>,
}

impl RunningNode {
    /// Where its services are, with the port that it was given.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// What ended it, if that was not the token.
    pub async fn ended(self) -> Result<(), ServeError> {
        self.end.await?
    }
}

/// Runs a node until `shutdown` is tripped, then drains it.
///
/// # Errors
/// What keeps it from starting, or ends it.
pub async fn serve(
    config: NodeConfig,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    start(config, clock, shutdown).await?.ended().await
}

/// Starts a node; its services take calls when this returns.
///
/// # Errors
/// What keeps it from starting.
pub async fn start(
    config: NodeConfig,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) -> Result<RunningNode, ServeError> {
    let tls = Tls::load_for(config.tls.clone(), config.client_certificates())?;
    let identity = tls.identity();
    if identity.node().as_ref() != Some(&config.node_id) {
        let problem = format!(
            "is of {identity}, and the configuration of {}",
            config.node_id
        );
        let path = config.tls.certificate.clone();
        return Err(ConfigError::Content { path, problem }.into());
    }
    let tasks = TaskTracker::new();
    metrics::serve(&config.metrics, &tasks, &shutdown).await?;
    let gate = Gate::load(&config, &tls, Arc::clone(&clock)).await?;
    let app = Arc::new(build(&config, &tls, clock, &tasks, &shutdown).await?);
    let listener = TcpListener::bind(config.listen).await?;
    let address = listener.local_addr()?;
    app.start(&tasks, &shutdown).await?;
    let routes = routes(&app).await?;
    gate.keep_fresh(&tasks, &shutdown);
    if let Some(file) = &config.address_file {
        let text = format!("{address}\n");
        files::write(file, text.as_bytes(), Readers::Everyone, &mut os_rng()).map_err(
            |source| ConfigError::Unwritable {
                path: file.clone(),
                source,
            },
        )?;
    }
    tracing::info!(%address, node = %app.node, community = %app.community, "node is up");
    let end = tokio::spawn(run(Parts {
        app,
        tls,
        gate,
        routes,
        listener,
        limits: config.connections,
        tasks,
        shutdown,
    }));
    Ok(RunningNode { address, end })
}

/// What a running node is made of.
struct Parts {
    app: Arc<App>,
    tls: Arc<Tls>,
    gate: Gate,
    routes: Routes,
    listener: TcpListener,
    limits: ConnectionLimits,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

async fn build(
    config: &NodeConfig,
    tls: &Arc<Tls>,
    clock: Arc<dyn Clock>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<App, ServeError> {
    private_dir(&config.data_dir)?;
    private_dir(&config.outbox_dir())?;
    private_dir(&config.attachments_dir())?;
    let stop_list = match &config.stop_list {
        None => StopList::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
                path: path.clone(),
                source,
            })?;
            StopList::parse(&text).map_err(|error| ConfigError::Content {
                path: path.clone(),
                problem: error.to_string(),
            })?
        }
    };
    let cipher = config.store_cipher()?;
    let store = Store::open(&config.store_file(), cipher.clone()).await?;
    let keystore = Keystore::open(&config.keys_dir(), cipher, &mut os_rng())?;
    Ok(App {
        node: config.node_id.clone(),
        community: config.community.clone(),
        custodians: config.custodians.clone(),
        outbox_dir: config.outbox_dir(),
        attachments_dir: config.attachments_dir(),
        unfinished: Unfinished::default(),
        log: followed_log(config, &keystore)?,
        store,
        keystore,
        broker: Broker::new(tls, &config.broker)?,
        policies: Arc::new(Policies::new(stop_list)),
        clock,
        epoch_turn: Mutex::new(()),
        reconnected: Notify::new(),
        hit_cursor: watch::Sender::new(0),
        decided: Notify::new(),
        follow_up_cursor: watch::Sender::new(0),
        follow_ups_moved: Notify::new(),
        data: watch::Sender::new(()),
        settings: config.service.clone(),
        sources: Sources::new(&config.sources),
        catalogue: watch::Sender::default(),
        online: watch::Sender::default(),
        epoch: watch::Sender::default(),
        epochs_moved: Notify::new(),
        epoch_problem: StdMutex::default(),
        setbacks: StdMutex::default(),
        probing: StdMutex::default(),
        quotas: StdMutex::default(),
        publications: Jobs::new(tasks.clone(), stop.clone()),
        publishing: Semaphore::new(1),
        probes: Jobs::new(tasks.clone(), stop.clone()),
    })
}

/// What the node follows of the audit log, if it was given its key.
fn followed_log(
    config: &NodeConfig,
    keystore: &Keystore,
) -> Result<Option<FollowedLog>, ServeError> {
    let Some(log) = &config.audit_log else {
        return Ok(None);
    };
    let domain = &config.tls.trust_domain;
    let cosigning = keystore.cosigning().clone();
    let cosigner = Cosigner::new(domain, config.node_id.clone(), cosigning)?;
    let key = log.verifier_key.clone();
    Ok(Some(FollowedLog::new(key, cosigner, domain.clone())))
}

async fn routes(app: &Arc<App>) -> Result<Routes, ServeError> {
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE)
        };
    }
    let analysts = Analysts {
        app: Arc::clone(app),
    };
    let analysts = limited!(AnalystServiceServer, analysts);
    let datasets = limited!(DatasetServiceServer, Datasets(Arc::clone(app)));
    let admin = limited!(NodeAdminServiceServer, Admin(Arc::clone(app)));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<AnalystServiceServer<Analysts>>()
        .await;
    reporter
        .set_serving::<DatasetServiceServer<Datasets>>()
        .await;
    reporter
        .set_serving::<NodeAdminServiceServer<Admin>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Ok(Routes::new(analysts)
        .add_service(datasets)
        .add_service(admin)
        .add_service(health)
        .add_service(reflection))
}

async fn run(parts: Parts) -> Result<(), ServeError> {
    let Parts {
        app,
        tls,
        gate,
        routes,
        listener,
        limits,
        tasks,
        shutdown,
    } = parts;
    let fresh = Arc::clone(&tls).keep_fresh(shutdown.clone());
    tasks.spawn(async move {
        if let Err(error) = fresh.await {
            tracing::error!(%error, "TLS files are not read again when they change");
        }
    });
    let serving = server_builder(&limits)
        .layer(MapResponseLayer::new(mend_response))
        .layer(Door(gate))
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            tls.incoming(listener, limits),
            shutdown.clone().cancelled_owned(),
        );
    let served = drain(&shutdown, DRAIN, serving).await;
    // Also if serving has failed: what goes on by itself ends with it.
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    app.store.close().await;
    match served {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(overrun) => {
            // Streams of callers who stay: cut off, and no fault.
            tracing::info!(%overrun, "calls were cut off");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
