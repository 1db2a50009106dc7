//! TLS as protocol §12 has it, on both ends: 1.3 only, mutual, X25519MLKEM768 then X25519, never
//! resumed, with files that are read again while the program runs.
//!
//! tonic's own TLS knows neither revocation lists nor reloading, hence the acceptor and the
//! connector of this module; both speak through one [`Tls`].

mod acceptor;
mod connector;
mod material;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{info, warn};

pub use acceptor::{Connection, ConnectionLimits};
pub(super) use connector::server_name;
pub use connector::{ExpectedPeer, channel_without_certificate};
pub(super) use material::{Material, plain_client};

use super::config::{ConfigError, TlsConfig};
use super::files::FileMarks;
use super::identity::Revocation;
use crate::ids::SpiffeId;

/// Protocol §12: a message, in either direction, is at most 4 MiB.
///
/// tonic takes the limit per service: set `max_decoding_message_size` and
/// `max_encoding_message_size` to this on every generated server *and* client.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Protocol §12: a connection lives at most an hour.
pub const MAX_CONNECTION_AGE: Duration = Duration::from_hours(1);

/// The deadline of a call that states none, and the longest that one may state.
///
/// It bounds the time until the answer *begins*: long enough for the upload of the largest
/// filter, which is answered when it is whole. Clients set a nearer one on each unary call with
/// `Request::set_timeout`; streams end with their connection.
pub const MAX_DEADLINE: Duration = Duration::from_mins(10);

/// How long making a connection may take, the handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is asked for a sign of life this often.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A connection that gives no sign of life for this long is closed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls in progress on one connection, streams included.
const MAX_STREAMS: u32 = 128;
/// What a peer may send ahead on one call, in bytes, before it is read; on all calls of a connection eight
/// times as much, so that a few that stand still do not hold up the others.
const STREAM_WINDOW: u32 = 512 * 1024;
/// Metadata of one call, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;

/// Whether those who connect to this program must show a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientCertificates {
    /// The handshake fails without one (protocol §12).
    #[default]
    Required,
    /// A connection may come without one: whoever answers then asks each request for other proof
    /// of who calls. One that is shown is verified as ever.
    Optional,
    /// Nobody is asked for one: for what anybody may read ([`super::pages`]), by HTTP/1.1.
    Unasked,
}

/// This program's end of every TLS connection: its certificate and key, the authorities and the
/// revocation lists, as they were when their files were last read.
#[derive(Debug)]
pub struct Tls {
    config: TlsConfig,
    clients: ClientCertificates,
    material: watch::Sender<Arc<Material>>,
}

impl Tls {
    /// Reads certificate, key, authorities and revocation lists.
    ///
    /// # Errors
    /// [`ConfigError`] if a file cannot be read or used, if others may read the key, if the key
    /// is not the certificate's, or if the certificate has no SPIFFE ID of the trust domain.
    pub fn load(config: TlsConfig) -> Result<Arc<Self>, ConfigError> {
        Self::load_for(config, ClientCertificates::Required)
    }

    /// As [`Tls::load`]; says what clients must show.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn load_for(
        config: TlsConfig,
        clients: ClientCertificates,
    ) -> Result<Arc<Self>, ConfigError> {
        let material = watch::Sender::new(Arc::new(Material::load(&config, clients)?));
        Ok(Arc::new(Self {
            config,
            clients,
            material,
        }))
    }

    /// Who this program is.
    pub fn identity(&self) -> SpiffeId {
        self.current().identity().spiffe().clone()
    }

    /// The revocation lists in force, for [`super::identity::peer`].
    pub fn revocation(&self) -> Revocation {
        Revocation::new(self.material.subscribe())
    }

    /// Reads the files again, for the next handshakes; revocation is at once.
    ///
    /// # Errors
    /// As [`Tls::load`], or if the certificate is of another identity; what was loaded before
    /// then stays in force.
    pub fn reload(&self) -> Result<(), ConfigError> {
        let material = Material::load(&self.config, self.clients)?;
        if material.identity().spiffe() != self.current().identity().spiffe() {
            return Err(ConfigError::content(
                &self.config.certificate,
                "is of another identity than this program started with; restart it to change that",
            ));
        }
        self.material.send_replace(Arc::new(material));
        Ok(())
    }

    /// Reads the files again when one of them changes, or at SIGHUP, until `stop` is tripped.
    ///
    /// A failure is logged, and what was loaded before stays in force.
    ///
    /// # Errors
    /// If the handler of SIGHUP cannot be installed.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) -> std::io::Result<()> {
        let mut hangups = signal(SignalKind::hangup())?;
        // An interval of zero would panic.
        let period = self.config.reload_every.0.max(Duration::from_millis(1));
        let mut looks = tokio::time::interval(period);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.current().files();
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(()) = hangups.recv() => true,
                _ = looks.tick() => false,
            };
            let now = marks(&self.config);
            if !asked && now == seen {
                continue;
            }
            // Remembered even if it fails: a half-written pair is tried again when the other
            // half changes, and one failure is logged once.
            seen = now;
            let tls = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || tls.reload()).await {
                Ok(Ok(())) => info!("certificate, key and revocation lists read again"),
                Ok(Err(error)) => warn!(%error, "TLS files not taken; the old ones stay in force"),
                Err(error) => warn!(%error, "reading the TLS files again was cut off"),
            }
        }
    }

    fn current(&self) -> Arc<Material> {
        Arc::clone(&self.material.borrow())
    }
}

/// A tonic server with the bounds of protocol §12 set; [`MAX_MESSAGE`] is left to each service.
///
/// At 11/12 of the connection's age peers are asked to open another connection and calls go on;
/// at its end [`Connection`] closes whatever is left.
pub fn server_builder(limits: &ConnectionLimits) -> Server {
    Server::builder()
        // tonic's own grace period would skip the asking, see [`Connection`] for the hard end.
        .max_connection_age(limits.age() / 12 * 11)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(8 * STREAM_WINDOW)
        .http2_max_header_list_size(MAX_HEADERS)
        .timeout(MAX_DEADLINE)
}

/// The marks of the files of a configuration.
fn marks(config: &TlsConfig) -> FileMarks {
    let paths = [&config.certificate, &config.key.0, &config.ca].into_iter();
    FileMarks::of(paths.chain(&config.crl).map(PathBuf::as_path))
}
