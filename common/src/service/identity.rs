//! Who the peer of a connection is (protocol §2) and whether it still may speak (protocol §12).

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use http::Extensions;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::watch;
use webpki::EndEntityCert;

use super::tls::Material;
use crate::error::{Error, ErrorCode, Result};
use crate::ids::{InvalidId, SpiffeId};

/// The serial number of a certificate, as its DER has it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Serial(Box<[u8]>);

impl Serial {
    /// The bytes, big-endian.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The serial of the first certificate of a PEM text; `None` if there is none.
    pub fn of_pem(pem: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let certificate = EndEntityCert::try_from(&der).ok()?;
        Some(Self(certificate.serial().into()))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl FromStr for Serial {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        hex::decode(text)
            .ok()
            .filter(|bytes| (1..=21).contains(&bytes.len()))
            .map(|bytes| Self(bytes.into()))
            .ok_or(InvalidId {
                kind: "serial number",
                expected: "1 to 21 bytes in hex",
            })
    }
}

/// The identity of a peer whose certificate was verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerIdentity {
    spiffe: SpiffeId,
    serial: Serial,
    /// DER of the issuer's name: serials are unique within one issuer only.
    issuer: Arc<[u8]>,
}

impl PeerIdentity {
    /// Reads the identity from a certificate that the handshake has verified.
    ///
    /// # Errors
    /// `IDENTITY_MISSING` unless its URI SANs are exactly one SPIFFE ID of the trust domain. The
    /// CN is never read (protocol §2).
    pub fn from_certificate(certificate: &CertificateDer<'_>, trust_domain: &str) -> Result<Self> {
        let missing = |text| Error::new(ErrorCode::IdentityMissing, text);
        let certificate = EndEntityCert::try_from(certificate)
            .map_err(|_| missing("the certificate cannot be read"))?;
        let mut uris = certificate.valid_uri_names();
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(missing(
                "the certificate must carry exactly one URI SAN, a SPIFFE ID; ask for a new one",
            ));
        };
        let spiffe: SpiffeId = uri
            .parse()
            .map_err(|_| missing("the certificate's URI SAN is not a SPIFFE ID of Sotto"))?;
        if spiffe.trust_domain() != trust_domain {
            return Err(missing("the certificate is of another trust domain"));
        }
        Ok(Self {
            spiffe,
            serial: Serial(certificate.serial().into()),
            issuer: certificate.issuer().into(),
        })
    }

    /// The workload identity.
    pub const fn spiffe(&self) -> &SpiffeId {
        &self.spiffe
    }

    /// The serial number of the certificate.
    pub const fn serial(&self) -> &Serial {
        &self.serial
    }
}

/// What a connection of [`super::tls`] tells about its other end; a request has it among its
/// extensions.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `None` if the certificate carries no SPIFFE ID of the trust domain, or there is none: every
    /// request that brings no other proof is then refused, so that the peer reads why.
    pub identity: Option<PeerIdentity>,
    /// Whether a certificate was shown and verified; always, unless the program that listens takes
    /// connections without one ([`super::tls::ClientCertificates`]).
    pub certified: bool,
    /// Where the connection comes from.
    pub address: SocketAddr,
}

/// The revocation lists in force, as they are read again from their file.
#[derive(Clone, Debug)]
pub struct Revocation(watch::Receiver<Arc<Material>>);

impl Revocation {
    pub(super) const fn new(material: watch::Receiver<Arc<Material>>) -> Self {
        Self(material)
    }

    /// Refuses a peer whose certificate is on the revocation list of its issuer.
    ///
    /// # Errors
    /// `CERTIFICATE_REVOKED`.
    pub fn check(&self, peer: &PeerIdentity) -> Result<()> {
        let material = Arc::clone(&self.0.borrow());
        check(&material, peer)
    }

    /// Ends when the peer's certificate is revoked, or when the program stops reading the lists.
    ///
    /// For calls that outlive their check at the door: a stream of hits is to end with its
    /// receiver's certificate and not with the connection, up to an hour later.
    pub async fn revoked(mut self, peer: PeerIdentity) {
        // An error of `wait_for` says that the sender is gone: there is nothing left to wait for.
        let _ = self
            .0
            .wait_for(|material| check(material, &peer).is_err())
            .await;
    }
}

fn check(material: &Material, peer: &PeerIdentity) -> Result<()> {
    for crl in material.crls() {
        if crl.issuer() != &*peer.issuer {
            continue;
        }
        match crl.find_serial(peer.serial.as_bytes()) {
            Ok(None) => {}
            Ok(Some(_)) => {
                return Err(Error::new(
                    ErrorCode::CertificateRevoked,
                    "the certificate has been revoked; ask for a new one",
                ));
            }
            Err(error) => return Err(Error::internal(error)),
        }
    }
    Ok(())
}

/// Who calls: to be asked for every request, with the request's extensions (protocol §12).
///
/// # Errors
/// `IDENTITY_MISSING` if the certificate names nobody, `CERTIFICATE_REVOKED` if it was revoked
/// since the connection was made.
pub fn peer(extensions: &Extensions, revocation: &Revocation) -> Result<PeerIdentity> {
    certified(extensions, revocation)?
        .ok_or_else(|| Error::new(ErrorCode::IdentityMissing, "no certificate was shown"))
}

/// Who the certificate of a connection names; `None` if none was shown.
///
/// # Errors
/// As [`peer`], but for a connection without a certificate.
pub fn certified(extensions: &Extensions, revocation: &Revocation) -> Result<Option<PeerIdentity>> {
    let peer = extensions.get::<Peer>();
    if peer.is_some_and(|peer| !peer.certified) {
        return Ok(None);
    }
    let identity = peer.and_then(|peer| peer.identity.clone()).ok_or_else(|| {
        Error::new(
            ErrorCode::IdentityMissing,
            "the certificate must carry exactly one URI SAN, a SPIFFE ID of this trust domain",
        )
    })?;
    revocation.check(&identity)?;
    Ok(Some(identity))
}
