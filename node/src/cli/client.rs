//! The connection of the commands to their node's service (protocol §12).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sotto_common::ids::Role;
use sotto_common::service::config::{self, TlsConfig};
use sotto_common::service::tls::{ExpectedPeer, MAX_MESSAGE, Tls};
use sotto_proto::v1;
use tonic::Request;
use tonic::transport::Channel;

use super::fault::{Fault, Result};

/// Names the file of the client configuration; with two underscores behind it, a setting of it.
pub(crate) const CLIENT_VARIABLE: &str = "SOTTO_NODE_CLIENT";

/// A call that is not a stream is answered within this time or given up.
const DEADLINE: Duration = Duration::from_mins(1);

/// What an analyst's or data manager's machine needs to reach the node.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct ClientConfig {
    /// `https://host:port` of the node's service.
    endpoint: String,
    /// The node id that the service's certificate must be of; without it, any node's of the
    /// trust domain will do.
    #[serde(default)]
    node: Option<String>,
    /// Who calls, and whom to believe.
    tls: TlsConfig,
}

/// The node's services, as one caller.
#[derive(Clone)]
pub(crate) struct Client(Channel);

impl Client {
    /// Reads the configuration; connects at the first call.
    pub(crate) fn new(file: Option<&Path>) -> Result<Self> {
        let file = file.map(Path::to_path_buf).or_else(from_environment);
        let Some(file) = file else {
            return Err(Fault::with_hint(
                "this command asks the node's service, and there is no client configuration",
                "give --client FILE, or set SOTTO_NODE_CLIENT to it; `sotto-node --help` shows \
                 what it holds",
            ));
        };
        let config: ClientConfig = config::load(CLIENT_VARIABLE, Some(&file))?;
        let tls = Tls::load(config.tls)?;
        let expected = ExpectedPeer {
            role: Role::Node,
            name: config.node,
        };
        Ok(Self(tls.channel(&config.endpoint, expected)?))
    }

    /// Hits, probes and one-off questions.
    pub(crate) fn analyst(&self) -> v1::analyst_service_client::AnalystServiceClient<Channel> {
        v1::analyst_service_client::AnalystServiceClient::new(self.0.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Datasets and their publication.
    pub(crate) fn datasets(&self) -> v1::dataset_service_client::DatasetServiceClient<Channel> {
        v1::dataset_service_client::DatasetServiceClient::new(self.0.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Members, epochs and the status.
    pub(crate) fn admin(&self) -> v1::node_admin_service_client::NodeAdminServiceClient<Channel> {
        v1::node_admin_service_client::NodeAdminServiceClient::new(self.0.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }
}

/// A call with a deadline: for everything that is not a stream.
pub(crate) fn unary<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

fn from_environment() -> Option<PathBuf> {
    std::env::var_os(CLIENT_VARIABLE)
        .filter(|value| !value.is_empty())
        .map(Into::into)
}
