//! An authority, and the files of everyone whom it knows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use sotto_common::ids::{Role, SpiffeId};
use sotto_common::random::os_rng;
use sotto_common::service::config::{HumanDuration, SecretFile, TlsConfig};
use sotto_common::service::files::{self, Readers};
use sotto_common::service::identity::Serial;
use sotto_common::service::pki::{CA_CERTIFICATE, CA_KEY, Issued, LabCa, Leaf};
use sotto_common::service::tls::{ExpectedPeer, Tls};
use sotto_common::time::{Clock as _, SystemClock};
use tonic::transport::Channel;

const CRL: &str = "crl.pem";

/// A laboratory's authority with an empty revocation list, in a folder.
///
/// Certificates are judged by the system's clock, so theirs is the only time that is not mocked.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    ca: LabCa,
}

impl Lab {
    /// Makes an authority for `trust_domain` in `dir`, which it makes too.
    pub fn create(dir: &Path, trust_domain: &str) -> Self {
        std::fs::create_dir_all(dir).expect("the laboratory's folder");
        let ca = LabCa::create(dir, trust_domain, SystemClock.now(), &mut os_rng());
        let lab = Self {
            dir: dir.into(),
            ca: ca.expect("an authority"),
        };
        lab.revoke(&[]);
        lab
    }

    /// The authority's certificate, PEM.
    pub fn authority(&self) -> &str {
        self.ca.certificate()
    }

    /// A certificate for this identity, good for a day on this machine.
    pub fn issue(&self, role: Role, name: &str) -> Issued {
        let spiffe = SpiffeId::new(self.ca.trust_domain(), role, name).expect("a SPIFFE ID");
        let leaf = Leaf {
            spiffe,
            hosts: vec!["127.0.0.1".into()],
            from: SystemClock.now(),
            days: 1,
        };
        self.ca.issue(&leaf, &mut os_rng()).expect("a certificate")
    }

    /// A certificate of this authority that has no SPIFFE ID: [`LabCa`] would not sign one.
    pub fn issue_without_identity(&self) -> (String, String) {
        let read = |name| std::fs::read_to_string(self.dir.join(name)).expect("a file of the CA");
        let ca_key = KeyPair::from_pem(&read(CA_KEY)).expect("the CA's key");
        let issuer = Issuer::from_ca_cert_pem(&read(CA_CERTIFICATE), ca_key).expect("the CA");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// Issues a certificate and writes its files; returns where they are.
    pub fn install(&self, role: Role, name: &str) -> TlsConfig {
        let issued = self.issue(role, name);
        let stem = format!("{}-{name}", role.as_str());
        let path = |extension: &str| self.dir.join(format!("{stem}.{extension}"));
        write(&path("pem"), &issued.certificate, Readers::Everyone);
        write(&path("key"), &issued.key, Readers::Owner);
        TlsConfig {
            certificate: path("pem"),
            key: SecretFile(path("key")),
            ca: self.dir.join(CA_CERTIFICATE),
            crl: Some(self.dir.join(CRL)),
            trust_domain: self.ca.trust_domain().into(),
            reload_every: HumanDuration(Duration::from_millis(20)),
        }
    }

    /// A channel of this identity to the broker at `https://127.0.0.1:port`.
    pub fn channel(&self, role: Role, name: &str, url: &str) -> Channel {
        self.channel_to(Role::Broker, role, name, url)
    }

    /// As [`Self::channel`], to a service of another role.
    pub fn channel_to(&self, peer: Role, role: Role, name: &str, url: &str) -> Channel {
        let tls = Tls::load(self.install(role, name)).expect("usable TLS files");
        tls.channel(url, ExpectedPeer::of_role(peer))
            .expect("an address")
    }

    /// The serial number of an installed certificate.
    pub fn serial(&self, role: Role, name: &str) -> Serial {
        let path = self.dir.join(format!("{}-{name}.pem", role.as_str()));
        let pem = std::fs::read_to_string(path).expect("an installed certificate");
        Serial::of_pem(&pem).expect("a certificate")
    }

    /// Replaces the revocation list.
    pub fn revoke(&self, serials: &[Serial]) {
        let list = self.ca.crl(serials, SystemClock.now(), 7).expect("a list");
        write(&self.dir.join(CRL), &list, Readers::Everyone);
    }
}

fn write(path: &Path, content: &str, readers: Readers) {
    files::write(path, content.as_bytes(), readers, &mut os_rng()).expect("a file of the lab");
}
