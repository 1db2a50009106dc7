//! What the TLS files hold, checked and made into the configurations of both ends.

use std::path::Path;
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{
    ClientCertVerifierBuilder, NoServerSessionStorage, WantsServerCert, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::{ClientCertificates, marks};
use crate::service::config::{ConfigError, TlsConfig};
use crate::service::files::{self, FileMarks};
use crate::service::identity::PeerIdentity;

/// The application protocol of all that is Sotto's: gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";
/// … and of what others serve or read.
const PLAIN_ALPN: &[u8] = b"http/1.1";

/// One reading of the TLS files.
#[derive(Debug)]
pub(in crate::service) struct Material {
    files: FileMarks,
    identity: PeerIdentity,
    crls: Vec<CertRevocationList<'static>>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Material {
    pub(super) fn load(
        config: &TlsConfig,
        clients: ClientCertificates,
    ) -> Result<Self, ConfigError> {
        // Before the reading: a change in between is then seen as one that came later.
        let files = marks(config);
        let provider = Arc::new(provider());
        let own = Arc::new(own_key(config, &provider)?);
        let identity = own
            .end_entity_cert()
            .map_err(|error| ConfigError::content(&config.certificate, error.to_string()))
            .and_then(|certificate| {
                PeerIdentity::from_certificate(certificate, &config.trust_domain)
                    .map_err(|error| ConfigError::content(&config.certificate, error.to_string()))
            })?;
        let roots = Arc::new(roots(&config.ca)?);
        let (crl_ders, crls) = match &config.crl {
            Some(path) => revocation_lists(path)?,
            None => (Vec::new(), Vec::new()),
        };
        Ok(Self {
            files,
            identity,
            crls,
            server: server(config, clients, &provider, &roots, &crl_ders, &own)?,
            client: client(&config.ca, &provider, &roots, &crl_ders, Some(&own))?,
        })
    }

    pub(super) fn files(&self) -> FileMarks {
        self.files.clone()
    }

    pub(super) const fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    pub(in crate::service) fn crls(&self) -> &[CertRevocationList<'static>] {
        &self.crls
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }
}

/// aws-lc-rs, named: a provider found by crate features panics when a dependency adds another.
fn provider() -> CryptoProvider {
    CryptoProvider {
        // Protocol §12, in this order and nothing else.
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn own_key(config: &TlsConfig, provider: &CryptoProvider) -> Result<CertifiedKey, ConfigError> {
    let chain = certificates(&config.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&config.key.read()?)
        .map_err(|_| ConfigError::content(&config.key.0, "holds no PEM private key"))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        ConfigError::content(
            &config.key.0,
            format!(
                "is not the key of {}: {error}",
                config.certificate.display()
            ),
        )
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = files::read_small(path).map_err(ConfigError::unreadable(path))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| ConfigError::content(path, "holds no PEM certificate"))
}

fn roots(path: &Path) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| ConfigError::content(path, error.to_string()))?;
    }
    Ok(roots)
}

type RevocationLists = (
    Vec<CertificateRevocationListDer<'static>>,
    Vec<CertRevocationList<'static>>,
);

fn revocation_lists(path: &Path) -> Result<RevocationLists, ConfigError> {
    let pem = files::read_small(path).map_err(ConfigError::unreadable(path))?;
    let ders = CertificateRevocationListDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|lists| !lists.is_empty())
        .ok_or_else(|| ConfigError::content(path, "holds no PEM revocation list"))?;
    let parsed = ders
        .iter()
        .map(|der| OwnedCertRevocationList::from_der(der).map(CertRevocationList::from))
        .collect::<Result<_, _>>()
        .map_err(|error| ConfigError::content(path, format!("revocation list: {error}")))?;
    Ok((ders, parsed))
}

fn server(
    config: &TlsConfig,
    clients: ClientCertificates,
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    crls: &[CertificateRevocationListDer<'static>],
    own: &Arc<CertifiedKey>,
) -> Result<Arc<ServerConfig>, ConfigError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| ConfigError::Setting(error.to_string()))?;
    // Every certificate needs a list that says that it is good, and a list that has not run out.
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
            .with_crls(crls.iter().cloned())
            .enforce_revocation_expiration();
    let (builder, protocol) = match clients {
        ClientCertificates::Required => (verified(config, builder, verifier)?, ALPN),
        ClientCertificates::Optional => {
            let verifier = verifier.allow_unauthenticated();
            (verified(config, builder, verifier)?, ALPN)
        }
        ClientCertificates::Unasked => (builder.with_no_client_auth(), PLAIN_ALPN),
    };
    let mut server = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(own))));
    // Protocol §12: a resumed session would skip the verifier, and with it revocation.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(server))
}

fn verified(
    config: &TlsConfig,
    builder: ConfigBuilder<ServerConfig, WantsVerifier>,
    verifier: ClientCertVerifierBuilder,
) -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, ConfigError> {
    let verifier = verifier.build();
    let verifier = verifier.map_err(|error| ConfigError::content(&config.ca, error.to_string()))?;
    Ok(builder.with_client_cert_verifier(verifier))
}

/// The client's end of somebody who has no certificate.
pub(super) fn client_without_certificate(
    ca: &Path,
    crl: Option<&Path>,
) -> Result<Arc<ClientConfig>, ConfigError> {
    let roots = Arc::new(roots(ca)?);
    let (lists, _) = match crl {
        Some(path) => revocation_lists(path)?,
        None => (Vec::new(), Vec::new()),
    };
    client(ca, &Arc::new(provider()), &roots, &lists, None)
}

/// The end of a client of services that are not Sotto's: HTTP/1.1, and no certificate of its own.
pub(in crate::service) fn plain_client(ca: &Path) -> Result<Arc<ClientConfig>, ConfigError> {
    let mut config = (*client_without_certificate(ca, None)?).clone();
    config.alpn_protocols = vec![PLAIN_ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn client(
    ca: &Path,
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    crls: &[CertificateRevocationListDer<'static>],
    own: Option<&Arc<CertifiedKey>>,
) -> Result<Arc<ClientConfig>, ConfigError> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
            .with_crls(crls.iter().cloned())
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| ConfigError::content(ca, error.to_string()))?;
    let client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| ConfigError::Setting(error.to_string()))?
        .with_webpki_verifier(verifier);
    let mut client = match own {
        Some(own) => {
            client.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(own))))
        }
        None => client.with_no_client_auth(),
    };
    client.resumption = Resumption::disabled();
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(client))
}
