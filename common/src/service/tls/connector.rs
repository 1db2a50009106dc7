//! The client's end: a channel that knows whom it speaks to.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::material::client_without_certificate;
use super::{CONNECT_TIMEOUT, KEEP_ALIVE, KEEP_ALIVE_TIMEOUT, MAX_DEADLINE, MAX_HEADERS, Tls};
use crate::ids::{Role, SpiffeId};
use crate::service::config::ConfigError;
use crate::service::identity::PeerIdentity;

/// Whom a client expects at the other end, beside the host name of its address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExpectedPeer {
    /// The role in its SPIFFE ID.
    pub role: Role,
    /// The name in its SPIFFE ID, if only one will do.
    pub name: Option<String>,
}

impl ExpectedPeer {
    /// Anyone of a role.
    #[must_use]
    pub const fn of_role(role: Role) -> Self {
        Self { role, name: None }
    }

    fn is(&self, peer: &SpiffeId) -> bool {
        self.role == peer.role() && self.name.as_deref().is_none_or(|name| name == peer.name())
    }
}

impl fmt::Display for ExpectedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("<any>");
        write!(f, "/{}/{name}", self.role.as_str())
    }
}

impl Tls {
    /// A channel to `https://host:port`: connects at the first call, and again after every end.
    ///
    /// Each connection is made with the certificate, authorities and lists then in force. The
    /// server's certificate must be good for the host *and* carry the SPIFFE ID expected; else
    /// calls fail with `UNAVAILABLE`. [`super::MAX_MESSAGE`] is left to each client.
    ///
    /// # Errors
    /// [`ConfigError::Setting`] if the address is not of that form.
    pub fn channel(
        self: &Arc<Self>,
        address: &str,
        expected: ExpectedPeer,
    ) -> Result<Channel, ConfigError> {
        let tls = Arc::clone(self);
        channel(
            address,
            expected,
            self.config.trust_domain.clone(),
            move || tls.current().client(),
        )
    }

    #[cfg(test)]
    pub(super) async fn connect(
        &self,
        uri: &Uri,
        expected: &ExpectedPeer,
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = self.current().client();
        connect(config, &self.config.trust_domain, uri, expected).await
    }
}

/// A channel as [`Tls::channel`] makes it, of somebody who shows no certificate: what proves who
/// calls is for each call to bring. The files are read once.
///
/// # Errors
/// [`ConfigError`] if a file or the address cannot be used.
pub fn channel_without_certificate(
    ca: &Path,
    crl: Option<&Path>,
    trust_domain: String,
    address: &str,
    expected: ExpectedPeer,
) -> Result<Channel, ConfigError> {
    let config = client_without_certificate(ca, crl)?;
    channel(address, expected, trust_domain, move || Arc::clone(&config))
}

fn channel(
    address: &str,
    expected: ExpectedPeer,
    trust_domain: String,
    config: impl Fn() -> Arc<ClientConfig> + Send + 'static,
) -> Result<Channel, ConfigError> {
    let malformed = || ConfigError::Setting(format!("{address}: expected https://host:port"));
    let uri: Uri = address.parse().map_err(|_| malformed())?;
    let well_formed = uri.scheme_str() == Some("https")
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none()
        && uri.port_u16().is_some()
        && server_name(&uri).is_some();
    if !well_formed {
        return Err(malformed());
    }
    let connector = tower::service_fn(move |uri: Uri| {
        let (config, domain, expected) = (config(), trust_domain.clone(), expected.clone());
        async move {
            let stream = connect(config, &domain, &uri, &expected).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    Ok(Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(MAX_DEADLINE)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(MAX_HEADERS)
        .connect_with_connector_lazy(connector))
}

async fn connect(
    config: Arc<ClientConfig>,
    trust_domain: &str,
    uri: &Uri,
    expected: &ExpectedPeer,
) -> io::Result<TlsStream<TcpStream>> {
    let (Some((host, name)), Some(port)) = (server_name(uri), uri.port_u16()) else {
        return Err(io::Error::other("the address is not https://host:port"));
    };
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let stream = TlsConnector::from(config).connect(name, tcp).await?;
    check_server(&stream, trust_domain, expected)?;
    Ok(stream)
}

/// A certificate for the host is not enough: a node could have one for the broker's host.
fn check_server(
    stream: &TlsStream<TcpStream>,
    trust_domain: &str,
    expected: &ExpectedPeer,
) -> io::Result<()> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let identity = certificates
        .first()
        .ok_or_else(|| io::Error::other("the server has shown no certificate"))
        .and_then(|certificate| {
            PeerIdentity::from_certificate(certificate, trust_domain).map_err(io::Error::other)
        })?;
    if expected.is(identity.spiffe()) {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "the server is {}, expected {expected}",
            identity.spiffe()
        )))
    }
}

/// The host of an address, to look up and to verify.
pub(in crate::service) fn server_name(uri: &Uri) -> Option<(&str, ServerName<'static>)> {
    let host = uri.host()?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let name = ServerName::try_from(host).ok()?.to_owned();
    Some((host, name))
}
