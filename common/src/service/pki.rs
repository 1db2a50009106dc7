//! A certificate authority for laboratories, tests and the quickstart, and requests to a real one.
//!
//! In production a member's own authority signs; a node then only needs [`request`]. Here too a
//! certificate says what its signer was told to say: nothing but the public key is taken from a
//! request.

use std::path::Path;

use rand::CryptoRng;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use webpki::EndEntityCert;
use zeroize::Zeroizing;

use super::config::{ConfigError, SecretFile};
use super::files::{self, Readers};
use super::identity::Serial;
use crate::ids::{Role, SpiffeId};
use crate::random;
use crate::time::{CLOCK_SKEW, Timestamp};

/// The authority's certificate, in its directory.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The authority's private key, in its directory, of mode 0600.
pub const CA_KEY: &str = "ca.key";

const CA_DAYS: u32 = 3650;
const SECONDS_PER_DAY: i64 = 86_400;

/// Why the authority did not sign.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the authority cannot be read or written.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// The directory holds an authority already; it is never overwritten.
    #[error("{0} exists already; choose another directory")]
    Exists(String),
    /// The request or what was asked for is refused; the text says why.
    #[error("{0}")]
    Refused(String),
    /// Keys, certificates or requests that cannot be made or read.
    #[error("certificate library: {0}")]
    Library(#[from] rcgen::Error),
}

/// What a certificate shall say.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The identity of its holder (protocol §2).
    pub spiffe: SpiffeId,
    /// DNS names and IP addresses under which it serves; empty for people.
    pub hosts: Vec<String>,
    /// From when it is valid; five minutes are added for clocks that are behind.
    pub from: Timestamp,
    /// For how many days it is valid.
    pub days: u32,
}

/// A certificate and its private key, both PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS#8).
    pub key: Zeroizing<String>,
}

/// A request for a certificate and the private key that stays at home, both PEM.
pub struct Request {
    /// The signing request (PKCS#10).
    pub csr: String,
    /// The private key (PKCS#8).
    pub key: Zeroizing<String>,
}

/// A key and a request for a certificate of this identity.
///
/// # Errors
/// [`PkiError::Library`].
pub fn request(spiffe: &SpiffeId) -> Result<Request, PkiError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&spiffe.to_string());
    params.subject_alt_names = vec![uri(&spiffe.to_string())?];
    Ok(Request {
        csr: params.serialize_request(&key)?.pem()?,
        key: Zeroizing::new(key.serialize_pem()),
    })
}

/// The laboratory's certificate authority, for one trust domain.
#[derive(Debug)]
pub struct LabCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    trust_domain: String,
}

impl LabCa {
    /// Makes an authority in `dir`: `ca.pem`, and `ca.key` of mode 0600.
    ///
    /// # Errors
    /// [`PkiError::Exists`] if there is one already; [`PkiError::Refused`] for a trust domain
    /// that no SPIFFE ID can have.
    pub fn create(
        dir: &Path,
        trust_domain: &str,
        now: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, PkiError> {
        SpiffeId::new(trust_domain, Role::Operator, "ca")
            .map_err(|error| PkiError::Refused(error.to_string()))?;
        let (certificate_path, key_path) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY));
        for path in [&certificate_path, &key_path] {
            if path.exists() {
                return Err(PkiError::Exists(path.display().to_string()));
            }
        }

        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // Revocation lists name their authority: two of one trust domain must not share a name.
        let number = hex::encode(random::bytes::<4>(rng));
        params.distinguished_name =
            common_name(&format!("Sotto lab CA {number} of {trust_domain}"));
        // The SPIFFE X.509-SVID standard §3.1: a signer's own ID is the trust domain.
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        // No certificate below this one may sign.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(now, CA_DAYS)?;
        params.serial_number = Some(new_serial(rng));
        let certificate = params.self_signed(&key)?.pem();

        let key_pem = Zeroizing::new(key.serialize_pem());
        files::write(&key_path, key_pem.as_bytes(), Readers::Owner, rng)
            .map_err(ConfigError::unwritable(&key_path))?;
        files::write(
            &certificate_path,
            certificate.as_bytes(),
            Readers::Everyone,
            rng,
        )
        .map_err(ConfigError::unwritable(&certificate_path))?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
            trust_domain: trust_domain.into(),
        })
    }

    /// Loads the authority of `dir`.
    ///
    /// # Errors
    /// [`PkiError::File`] if a file is absent, unreadable, or the key is readable by others.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let path = dir.join(CA_CERTIFICATE);
        let unusable = |problem: &str| PkiError::File(ConfigError::content(&path, problem));
        let certificate = std::fs::read_to_string(&path).map_err(ConfigError::unreadable(&path))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| unusable("holds no PEM certificate"))?;
        let trust_domain = EndEntityCert::try_from(&der)
            .map_err(|_| unusable("holds a certificate that cannot be read"))?
            .valid_uri_names()
            .find_map(|uri| uri.strip_prefix("spiffe://"))
            .ok_or_else(|| unusable("is not of a lab CA: it names no trust domain"))?
            .to_owned();

        let key_path = dir.join(CA_KEY);
        let key = SecretFile(key_path.clone()).read()?;
        let key = std::str::from_utf8(&key)
            .ok()
            .and_then(|pem| KeyPair::from_pem(pem).ok())
            .ok_or_else(|| ConfigError::content(&key_path, "holds no PEM private key"))?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&der, key)?,
            certificate,
            trust_domain,
        })
    }

    /// The authority's certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The trust domain that it signs for.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    /// [`PkiError::Refused`] for an identity of another trust domain or a malformed host.
    pub fn issue(&self, leaf: &Leaf, rng: &mut impl CryptoRng) -> Result<Issued, PkiError> {
        let params = self.leaf_params(leaf, rng)?;
        let key = KeyPair::generate()?;
        Ok(Issued {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: Zeroizing::new(key.serialize_pem()),
        })
    }

    /// Signs a request. Its key is taken, and nothing else: what the certificate says is `leaf`.
    ///
    /// # Errors
    /// [`PkiError::Refused`] if the request's signature is wrong or it asks for another identity.
    pub fn sign_csr(
        &self,
        csr: &str,
        leaf: &Leaf,
        rng: &mut impl CryptoRng,
    ) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(csr).map_err(|error| {
            PkiError::Refused(format!("the signing request cannot be used: {error}"))
        })?;
        let signed = uri(&leaf.spiffe.to_string())?;
        let asked = &request.params.subject_alt_names;
        if asked
            .iter()
            .any(|san| matches!(san, SanType::URI(_)) && *san != signed)
        {
            return Err(PkiError::Refused(format!(
                "the signing request asks for another identity than {}",
                leaf.spiffe
            )));
        }
        let params = self.leaf_params(leaf, rng)?;
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }

    /// The revocation list of these serial numbers, PEM; it replaces the one before.
    ///
    /// `days` bounds how long it may be used: peers refuse every certificate of this authority
    /// once its list has run out.
    ///
    /// # Errors
    /// [`PkiError::Refused`] for times out of range.
    pub fn crl(&self, revoked: &[Serial], now: Timestamp, days: u32) -> Result<String, PkiError> {
        let (this_update, next_update) = validity(now, days)?;
        let revoked_certs = revoked
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial.as_bytes()),
                revocation_time: this_update,
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            })
            .collect();
        let list = CertificateRevocationListParams {
            this_update,
            next_update,
            // Grows with every list, as RFC 5280 §5.2.3 asks, without a counter to keep.
            crl_number: SerialNumber::from(now.unix_millis()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }

    fn leaf_params(
        &self,
        leaf: &Leaf,
        rng: &mut impl CryptoRng,
    ) -> Result<CertificateParams, PkiError> {
        if leaf.spiffe.trust_domain() != self.trust_domain {
            return Err(PkiError::Refused(format!(
                "this authority signs for {} only",
                self.trust_domain
            )));
        }
        let spiffe = leaf.spiffe.to_string();
        let mut params = CertificateParams::new(leaf.hosts.clone())?;
        params.subject_alt_names.push(uri(&spiffe)?);
        params.distinguished_name = common_name(&spiffe);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match leaf.spiffe.role() {
            Role::Broker | Role::Node => vec![
                ExtendedKeyUsagePurpose::ClientAuth,
                ExtendedKeyUsagePurpose::ServerAuth,
            ],
            // People call; nobody calls them.
            Role::Operator
            | Role::Auditor
            | Role::Analyst
            | Role::Approver
            | Role::Supervisor
            | Role::DataManager => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(leaf.from, leaf.days)?;
        params.serial_number = Some(new_serial(rng));
        Ok(params)
    }
}

fn uri(text: &str) -> Result<SanType, PkiError> {
    Ok(SanType::URI(text.try_into()?))
}

/// For people who look at a certificate; no program reads it (protocol §2).
fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn validity(from: Timestamp, days: u32) -> Result<(OffsetDateTime, OffsetDateTime), PkiError> {
    let at = |seconds| {
        OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|_| PkiError::Refused("a time of validity is out of range".into()))
    };
    let begin = from.minus(CLOCK_SKEW).seconds();
    let end = from.seconds() + i64::from(days) * SECONDS_PER_DAY;
    Ok((at(begin)?, at(end)?))
}

/// RFC 5280 §4.1.2.2: positive and unique. Random, so that the authority needs no counter.
fn new_serial(rng: &mut impl CryptoRng) -> SerialNumber {
    let mut bytes = random::bytes::<16>(rng);
    // The top bits 01: positive, and always 16 bytes long.
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::os_rng;
    use crate::service::identity::PeerIdentity;

    const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);

    fn leaf(spiffe: &str) -> Leaf {
        Leaf {
            spiffe: spiffe.parse().expect("a SPIFFE ID"),
            hosts: vec!["localhost".into(), "127.0.0.1".into()],
            from: NOW,
            days: 30,
        }
    }

    fn authority() -> (tempfile::TempDir, LabCa) {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = LabCa::create(dir.path(), "sotto.test", NOW, &mut os_rng()).expect("made");
        (dir, ca)
    }

    fn identity(certificate: &str) -> PeerIdentity {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
        PeerIdentity::from_certificate(&der, "sotto.test").expect("an identity")
    }

    #[test]
    fn an_authority_can_be_loaded_again_and_never_overwritten() {
        let (dir, made) = authority();
        let loaded = LabCa::load(dir.path()).expect("loaded");
        assert_eq!(loaded.certificate(), made.certificate());
        assert_eq!(loaded.trust_domain(), "sotto.test");
        let issued = loaded.issue(&leaf("spiffe://sotto.test/node/nl-fiu"), &mut os_rng());
        identity(&issued.expect("issued").certificate);
        let again = LabCa::create(dir.path(), "sotto.test", NOW, &mut os_rng());
        assert!(matches!(again, Err(PkiError::Exists(_))));
    }

    #[test]
    fn a_request_gets_the_identity_that_the_signer_says() {
        let (_dir, ca) = authority();
        let node = leaf("spiffe://sotto.test/node/nl-fiu");
        let request = request(&node.spiffe).expect("made");
        let signed = ca
            .sign_csr(&request.csr, &node, &mut os_rng())
            .expect("signed");
        assert_eq!(*identity(&signed).spiffe(), node.spiffe);
        assert!(request.key.contains("PRIVATE KEY") && !request.csr.contains("PRIVATE KEY"));

        let broker = leaf("spiffe://sotto.test/broker/main");
        let refused = ca.sign_csr(&request.csr, &broker, &mut os_rng());
        assert!(matches!(refused, Err(PkiError::Refused(_))));
    }

    #[test]
    fn signs_for_its_own_trust_domain_only() {
        let (_dir, ca) = authority();
        let refused = ca.issue(&leaf("spiffe://other.test/node/nl-fiu"), &mut os_rng());
        assert!(matches!(refused, Err(PkiError::Refused(_))));
    }

    #[test]
    fn two_certificates_of_one_key_have_two_serials() {
        let (_dir, ca) = authority();
        let node = leaf("spiffe://sotto.test/node/nl-fiu");
        let csr = request(&node.spiffe).expect("made").csr;
        let sign = || ca.sign_csr(&csr, &node, &mut os_rng()).expect("signed");
        let (first, second) = (Serial::of_pem(&sign()), Serial::of_pem(&sign()));
        assert!(first.is_some() && first != second);
        let serial = first.expect("a serial");
        assert_eq!(serial.to_string().parse(), Ok(serial));
    }
}
