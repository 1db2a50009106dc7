//! The connection of a person's commands to a service (protocol §12).

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tonic::Request;
use tonic::transport::Channel;

use super::config::{self, ConfigError, TlsConfig};
use super::tls::{ExpectedPeer, Tls};
use crate::ids::Role;

/// A call that is not a stream is answered within this time or given up.
const DEADLINE: Duration = Duration::from_mins(1);

/// What a person's machine needs to reach a service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// `https://host:port` of the service; its certificate must be good for the host.
    pub endpoint: String,
    /// The name in the SPIFFE ID of the service, e.g. a node id; without it, any of the role that
    /// the command speaks to will do.
    #[serde(default)]
    pub peer: Option<String>,
    /// Who calls, and whom to believe.
    pub tls: TlsConfig,
}

impl ClientConfig {
    /// Reads the file, and what variables beginning with `program` set over it.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file or the key.
    pub fn load(program: &str, file: &Path) -> Result<Self, ConfigError> {
        config::load(program, Some(file))
    }

    /// A channel to the service, which must be of `role`; it connects at the first call.
    ///
    /// # Errors
    /// [`ConfigError`] if a file or the endpoint cannot be used.
    pub fn channel(self, role: Role) -> Result<Channel, ConfigError> {
        let tls = Tls::load(self.tls)?;
        tls.channel(
            &self.endpoint,
            ExpectedPeer {
                role,
                name: self.peer,
            },
        )
    }
}

/// A call with a deadline: for everything that is not a stream.
pub fn unary<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}
