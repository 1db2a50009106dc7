//! The connection of the commands to their node's service (protocol §12).

use std::path::Path;

use sotto_common::ids::Role;
pub(crate) use sotto_common::service::client::unary;
use sotto_common::service::client::{ClientConfig, PersonChannel};
use sotto_common::service::tls::MAX_MESSAGE;
use sotto_proto::v1;

use super::fault::{Fault, Result};

/// Names the file of the client configuration; with two underscores behind it, a setting of it.
pub(crate) const CLIENT_VARIABLE: &str = "SOTTO_NODE_CLIENT";

/// The node's services, as one caller.
#[derive(Clone)]
pub(crate) struct Client(PersonChannel);

impl Client {
    /// Reads the configuration; connects at the first call.
    pub(crate) fn new(file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else {
            return Err(Fault::with_hint(
                "this command asks the node's service, and there is no client configuration",
                "give --client FILE, or set SOTTO_NODE_CLIENT to it; `sotto-node --help` shows \
                 what it holds",
            ));
        };
        let config = ClientConfig::load(CLIENT_VARIABLE, file)?;
        Ok(Self(config.person_channel(Role::Node)?))
    }

    /// Hits, probes and one-off questions.
    pub(crate) fn analyst(
        &self,
    ) -> v1::analyst_service_client::AnalystServiceClient<PersonChannel> {
        v1::analyst_service_client::AnalystServiceClient::new(self.0.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Datasets and their publication.
    pub(crate) fn datasets(
        &self,
    ) -> v1::dataset_service_client::DatasetServiceClient<PersonChannel> {
        v1::dataset_service_client::DatasetServiceClient::new(self.0.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Members, epochs and the status.
    pub(crate) fn admin(
        &self,
    ) -> v1::node_admin_service_client::NodeAdminServiceClient<PersonChannel> {
        v1::node_admin_service_client::NodeAdminServiceClient::new(self.0.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }
}
