//! The connection of a person's commands to a service (protocol §12).

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::config::{self, ClientTls, ConfigError, SecretFile, TlsConfig};
use super::tls::{ExpectedPeer, Tls, channel_without_certificate};
use crate::ids::Role;

/// A call that is not a stream is answered within this time or given up.
const DEADLINE: Duration = Duration::from_mins(1);

/// The longest access token that is sent or taken, in bytes.
pub const MAX_TOKEN: usize = 8 * 1024;

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
    /// File of mode 0600 with an access token of the person's unit, read again at each call; it
    /// stands instead of a certificate, or beside one. Only a node takes it.
    #[serde(default)]
    pub token_file: Option<SecretFile>,
    /// Who calls, and whom to believe.
    pub tls: ClientTls,
}

/// A channel whose calls carry the person's access token, if the person has one.
pub type PersonChannel = InterceptedService<Channel, Bearer>;

impl ClientConfig {
    /// Reads the file, and what variables beginning with `program` set over it.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file or the key.
    pub fn load(program: &str, file: &Path) -> Result<Self, ConfigError> {
        config::load(program, Some(file))
    }

    /// A channel to a service of `role` that knows people by their certificates alone; it connects
    /// at the first call.
    ///
    /// # Errors
    /// [`ConfigError`] if a file or the endpoint cannot be used, or there is no certificate.
    pub fn channel(self, role: Role) -> Result<Channel, ConfigError> {
        if self.token_file.is_some() {
            return Err(ConfigError::Setting(
                "token_file: this service takes certificates alone; remove it".into(),
            ));
        }
        self.connect(role)
    }

    /// A channel to a service of `role` that takes access tokens as well.
    ///
    /// # Errors
    /// [`ConfigError`] if a file or the endpoint cannot be used, or there is neither a certificate
    /// nor a token.
    pub fn person_channel(self, role: Role) -> Result<PersonChannel, ConfigError> {
        let bearer = Bearer(self.token_file.clone());
        // Now, so that a missing file is told as what it is, and not at the first call.
        bearer.header()?;
        Ok(InterceptedService::new(self.connect(role)?, bearer))
    }

    fn connect(self, role: Role) -> Result<Channel, ConfigError> {
        let expected = ExpectedPeer {
            role,
            name: self.peer,
        };
        let tls = self.tls;
        match (tls.certificate, tls.key) {
            (Some(certificate), Some(key)) => Tls::load(TlsConfig {
                certificate,
                key,
                ca: tls.ca,
                crl: tls.crl,
                trust_domain: tls.trust_domain,
                reload_every: tls.reload_every,
            })?
            .channel(&self.endpoint, expected),
            (None, None) if self.token_file.is_some() => channel_without_certificate(
                &tls.ca,
                tls.crl.as_deref(),
                tls.trust_domain,
                &self.endpoint,
                expected,
            ),
            _ => Err(ConfigError::Setting(
                "tls.certificate and tls.key: give both; or, to a node that takes access tokens, \
                 token_file"
                    .into(),
            )),
        }
    }
}

/// Puts the access token of a file, as it is at that moment, into each call.
#[derive(Clone, Debug)]
pub struct Bearer(Option<SecretFile>);

impl Bearer {
    fn header(&self) -> Result<Option<MetadataValue<Ascii>>, ConfigError> {
        let Some(file) = &self.0 else {
            return Ok(None);
        };
        let content = file.read()?;
        let token = std::str::from_utf8(content.trim_ascii()).ok();
        let value = token
            .filter(|token| (1..=MAX_TOKEN).contains(&token.len()))
            .and_then(|token| {
                format!("Bearer {token}")
                    .parse::<MetadataValue<Ascii>>()
                    .ok()
            });
        let mut value = value.ok_or_else(|| {
            ConfigError::content(&file.0, "holds no access token of at most 8 KiB")
        })?;
        // Neither logged nor kept in the tables of HTTP/2.
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = self
            .header()
            .map_err(|error| Status::unauthenticated(error.to_string()))?;
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }
}

/// A call with a deadline: for everything that is not a stream.
pub fn unary<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}
