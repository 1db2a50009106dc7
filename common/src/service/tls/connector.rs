//! The client's end: a channel that knows whom it speaks to.

use std::fmt;
use std::io;
use std::sync::Arc;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

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
        let tls = Arc::clone(self);
        let connector = tower::service_fn(move |uri: Uri| {
            let (tls, expected) = (Arc::clone(&tls), expected.clone());
            async move { tls.connect(&uri, &expected).await.map(TokioIo::new) }
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

    pub(super) async fn connect(
        &self,
        uri: &Uri,
        expected: &ExpectedPeer,
    ) -> io::Result<TlsStream<TcpStream>> {
        let (Some((host, name)), Some(port)) = (server_name(uri), uri.port_u16()) else {
            return Err(io::Error::other("the address is not https://host:port"));
        };
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(self.current().client());
        let stream = connector.connect(name, tcp).await?;
        self.check_server(&stream, expected)?;
        Ok(stream)
    }

    /// A certificate for the host is not enough: a node could have one for the broker's host.
    fn check_server(
        &self,
        stream: &TlsStream<TcpStream>,
        expected: &ExpectedPeer,
    ) -> io::Result<()> {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let identity = certificates
            .first()
            .ok_or_else(|| io::Error::other("the server has shown no certificate"))
            .and_then(|certificate| {
                PeerIdentity::from_certificate(certificate, &self.config.trust_domain)
                    .map_err(io::Error::other)
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
}

/// The host of an address, to look up and to verify.
fn server_name(uri: &Uri) -> Option<(&str, ServerName<'static>)> {
    let host = uri.host()?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let name = ServerName::try_from(host).ok()?.to_owned();
    Some((host, name))
}
