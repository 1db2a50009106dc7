//! A laboratory for the tests of TLS: an authority, its files, and a server that tells who calls.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;

use super::config::{HumanDuration, SecretFile, TlsConfig};
use super::files::{self, Readers};
use super::identity::{self, Serial};
use super::pki::{Issued, LabCa, Leaf};
use super::tls::{ConnectionLimits, Tls, server_builder};
use crate::ids::SpiffeId;
use crate::random::os_rng;
use crate::time::{Clock, SystemClock};

pub(super) const TRUST_DOMAIN: &str = "sotto.test";
pub(super) const BROKER: &str = "spiffe://sotto.test/broker/main";
pub(super) const NODE: &str = "spiffe://sotto.test/node/nl-fiu";

/// An authority with an empty revocation list.
pub(super) struct Lab {
    dir: TempDir,
    pub(super) ca: LabCa,
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::of(TRUST_DOMAIN)
    }

    pub(super) fn of(trust_domain: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let now = SystemClock.now();
        let ca = LabCa::create(dir.path(), trust_domain, now, &mut os_rng()).expect("made");
        let lab = Self { dir, ca };
        lab.revoke(&[]);
        lab
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces the revocation list.
    pub(super) fn revoke(&self, serials: &[Serial]) {
        let list = self.ca.crl(serials, SystemClock.now(), 7).expect("made");
        self.put("crl.pem", list.as_bytes(), Readers::Everyone);
    }

    pub(super) fn put(&self, name: &str, content: &[u8], readers: Readers) {
        files::write(&self.path(name), content, readers, &mut os_rng()).expect("written");
    }

    pub(super) fn issue(&self, spiffe: &str) -> Issued {
        let leaf = Leaf {
            spiffe: spiffe.parse().expect("a SPIFFE ID"),
            hosts: vec!["localhost".into(), "127.0.0.1".into()],
            from: SystemClock.now(),
            days: 1,
        };
        self.ca.issue(&leaf, &mut os_rng()).expect("issued")
    }

    /// Writes `<name>.pem` and `<name>.key`.
    pub(super) fn install(&self, name: &str, issued: &Issued) {
        let certificate = issued.certificate.as_bytes();
        self.put(&format!("{name}.pem"), certificate, Readers::Everyone);
        self.put(
            &format!("{name}.key"),
            issued.key.as_bytes(),
            Readers::Owner,
        );
    }

    /// The configuration for the files of `name`.
    pub(super) fn config(&self, name: &str) -> TlsConfig {
        TlsConfig {
            certificate: self.path(&format!("{name}.pem")),
            key: SecretFile(self.path(&format!("{name}.key"))),
            ca: self.path("ca.pem"),
            crl: Some(self.path("crl.pem")),
            trust_domain: TRUST_DOMAIN.into(),
            reload_every: HumanDuration(Duration::from_millis(20)),
        }
    }

    /// A new certificate for this identity, loaded.
    pub(super) fn tls(&self, spiffe: &str) -> Arc<Tls> {
        let id: SpiffeId = spiffe.parse().expect("a SPIFFE ID");
        self.install(id.name(), &self.issue(spiffe));
        Tls::load(self.config(id.name())).expect("loaded")
    }
}

/// A server on a port of its own; it ends when this is dropped.
pub(super) struct TestServer {
    pub(super) address: SocketAddr,
    _stop: DropGuard,
}

impl TestServer {
    pub(super) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

/// Answers every call with the caller's SPIFFE ID in the header `peer`, or the code in `refused`.
pub(super) async fn serve(tls: &Arc<Tls>, limits: ConnectionLimits) -> TestServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let stop = CancellationToken::new();
    let revocation = tls.revocation();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let who = identity::peer(request.extensions(), &revocation);
        let (name, value) = match who {
            Ok(peer) => ("peer", peer.spiffe().to_string()),
            Err(error) => ("refused", error.code.to_string()),
        };
        let response = http::Response::builder()
            .header("content-type", "application/grpc")
            .header(name, value)
            .body(Body::empty());
        async move { Ok::<_, Infallible>(response.expect("valid headers")) }
    });
    let serving = server_builder(&limits).serve_with_incoming_shutdown(
        service,
        tls.incoming(listener, limits),
        stop.clone().cancelled_owned(),
    );
    tokio::spawn(serving);
    TestServer {
        address,
        _stop: stop.drop_guard(),
    }
}
