//! The keys of an identity provider (RFC 7517), from a file or from its address.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use sotto_common::service::config::ConfigError;
use sotto_common::service::https::Document;
use sotto_common::time::{Clock, Timestamp};
use tokio::sync::Mutex;

use super::watched::{Look, Watched};

/// The largest set of keys that is read, in bytes.
const MAX_SET: usize = 1024 * 1024;
/// The most keys in a set.
const MAX_KEYS: usize = 256;
/// RSA keys below 2048 bits are not believed.
const MIN_RSA: usize = 2048 / 8;

/// How often the keys are fetched from their address.
const REFRESH: Duration = Duration::from_hours(1);
/// How soon they are fetched again, for a key that is not among them or after a failure.
const PAUSE: Duration = Duration::from_mins(1);

/// A key, and the algorithms that it may be used with.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) key: DecodingKey,
    pub(crate) algorithms: Vec<Algorithm>,
}

/// Keys by their ids.
#[derive(Debug, Default)]
pub(crate) struct KeySet(BTreeMap<String, Key>);

impl KeySet {
    /// Reads a set. Keys that are not for one of the allowed algorithms are passed over: a set may
    /// serve others too.
    ///
    /// # Errors
    /// What is wrong with it; the content is never quoted.
    pub(crate) fn parse(content: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Keys {
            keys: Vec<serde_json::Value>,
        }
        let malformed = |_| "is not a set of keys (RFC 7517): expected {\"keys\": […]}".to_owned();
        let set: Keys = serde_json::from_slice(content).map_err(malformed)?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("holds more than {MAX_KEYS} keys"));
        }
        let mut keys = BTreeMap::new();
        for value in set.keys {
            if value.get("d").is_some() {
                return Err(
                    "holds a private key: give public keys alone, and change that one".into(),
                );
            }
            let Some((id, key)) = serde_json::from_value(value)
                .ok()
                .and_then(|jwk| usable(&jwk, allowed))
            else {
                continue;
            };
            if keys.insert(id, key).is_some() {
                return Err("holds two keys with the same `kid`".into());
            }
        }
        if keys.is_empty() {
            return Err(
                "holds no key with a `kid` for one of the algorithms of oidc.algorithms".into(),
            );
        }
        Ok(Self(keys))
    }

    fn get(&self, id: &str) -> Option<Key> {
        self.0.get(id).cloned()
    }
}

/// The id of a key and what it is good for; `None` if that is nothing here.
fn usable(jwk: &Jwk, allowed: &[Algorithm]) -> Option<(String, Key)> {
    use Algorithm as A;

    let id = jwk.common.key_id.clone().filter(|id| !id.is_empty())?;
    if !matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    ) {
        return None;
    }
    // What the kind of the key allows, never what a token asks for.
    let fitting: &[A] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => {
            &[A::RS256, A::RS384, A::RS512, A::PS256, A::PS384, A::PS512]
        }
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[A::ES256],
            EllipticCurve::P384 => &[A::ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            &[A::EdDSA]
        }
        // Symmetric keys above all: whoever checks with them could sign.
        _ => &[],
    };
    let stated = match jwk.common.key_algorithm {
        None => None,
        Some(algorithm) => Some(A::try_from(algorithm).ok()?),
    };
    let algorithms: Vec<A> = fitting
        .iter()
        .copied()
        .filter(|algorithm| allowed.contains(algorithm))
        .filter(|algorithm| stated.is_none_or(|stated| stated == *algorithm))
        .collect();
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let long_enough = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len() >= MIN_RSA,
        DecodingKeyKind::SecretOrDer(_) => true,
    };
    (long_enough && !algorithms.is_empty()).then_some((id, Key { key, algorithms }))
}

/// Where keys come from.
pub(crate) enum KeySource {
    File(Arc<Watched<KeySet>>),
    Address(Box<Fetched>),
}

impl KeySource {
    /// Keys of a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file.
    pub(crate) fn file(path: &Path, allowed: Vec<Algorithm>) -> Result<Self, ConfigError> {
        let read = move |content: &[u8]| KeySet::parse(content, &allowed);
        Ok(Self::File(Arc::new(Watched::load(path, "key set", read)?)))
    }

    /// Keys of an address. If it cannot be reached now there are none yet.
    ///
    /// # Errors
    /// [`ConfigError`] if the address or the file of its authorities cannot be used.
    pub(crate) async fn address(
        url: &str,
        ca: &Path,
        allowed: Vec<Algorithm>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let fetched = Fetched {
            document: Document::new(url, ca, MAX_SET)?,
            allowed,
            keys: RwLock::default(),
            last: Mutex::new(None),
            clock,
        };
        fetched.fetch(&mut *fetched.last.lock().await).await;
        Ok(Self::Address(Box::new(fetched)))
    }

    /// The key of this id. One that is not known is looked for at the address, once a minute.
    pub(crate) async fn key(&self, id: &str) -> Option<Key> {
        match self {
            Self::File(file) => file.current().get(id),
            Self::Address(fetched) => fetched.key(id).await,
        }
    }

    /// The file, to be looked at.
    pub(crate) fn watched(&self) -> Option<Arc<dyn Look>> {
        match self {
            Self::File(file) => Some(Arc::clone(file) as _),
            Self::Address(_) => None,
        }
    }

    /// Fetches the keys of an address every hour; does not end. Nothing for a file.
    pub(crate) async fn keep_fetching(&self) {
        let Self::Address(fetched) = self else {
            return;
        };
        let mut pause = fetched.pause();
        loop {
            let next = fetched.clock.now().plus(pause);
            fetched.clock.wait_until(next).await;
            fetched.fetch(&mut *fetched.last.lock().await).await;
            pause = fetched.pause();
        }
    }
}

/// The keys that an address gave last; they stay while it does not answer.
pub(crate) struct Fetched {
    document: Document,
    allowed: Vec<Algorithm>,
    keys: RwLock<Arc<KeySet>>,
    /// When they were fetched last, with success or without; whoever fetches holds it.
    last: Mutex<Option<Timestamp>>,
    clock: Arc<dyn Clock>,
}

impl Fetched {
    fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn pause(&self) -> Duration {
        if self.current().0.is_empty() {
            PAUSE
        } else {
            REFRESH
        }
    }

    async fn key(&self, id: &str) -> Option<Key> {
        if let Some(key) = self.current().get(id) {
            return Some(key);
        }
        let mut last = self.last.lock().await;
        // Whoever waited for the lock may find what another has fetched.
        if let Some(key) = self.current().get(id) {
            return Some(key);
        }
        let now = self.clock.now();
        if last.is_some_and(|last| now >= last && now.since(last) < PAUSE) {
            return None;
        }
        self.fetch(&mut last).await;
        self.current().get(id)
    }

    async fn fetch(&self, last: &mut Option<Timestamp>) {
        *last = Some(self.clock.now());
        let read = self
            .document
            .read()
            .await
            .map_err(|error| error.to_string());
        match read.and_then(|content| KeySet::parse(&content, &self.allowed)) {
            Ok(keys) => {
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
            }
            Err(error) => {
                tracing::error!(%error, "keys of the identity provider not fetched; the old ones stay in force");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::crypto::aws_lc_rs;
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use sotto_common::random::os_rng;
    use sotto_common::service::pki::{LabCa, Leaf};
    use sotto_common::time::{MockClock, SystemClock};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::watch;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::auth::testing::{IssuerKey, key_set};

    /// The address of an identity provider.
    struct Provider {
        dir: TempDir,
        url: String,
        /// What it answers; without it, it hangs up.
        content: watch::Sender<Option<String>>,
        /// How often it was asked.
        asked: watch::Sender<usize>,
    }

    impl Provider {
        async fn start() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let (now, mut rng) = (SystemClock.now(), os_rng());
            let ca = LabCa::create(dir.path(), "sotto.test", now, &mut rng).expect("made");
            let leaf = Leaf {
                spiffe: "spiffe://sotto.test/broker/login".parse().expect("valid"),
                hosts: vec!["localhost".into()],
                from: now,
                days: 1,
            };
            let issued = ca.issue(&leaf, &mut rng).expect("issued");
            let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
            let provider = Arc::new(aws_lc_rs::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("TLS 1.3")
                .with_no_client_auth()
                .with_single_cert(vec![certificate.expect("PEM")], key)
                .expect("a pair");
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let port = listener.local_addr().expect("bound").port();
            let (content, asked) = (watch::Sender::new(None), watch::Sender::new(0));
            let (answers, counts) = (content.subscribe(), asked.clone());
            tokio::spawn(async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    let answer = answers.borrow().clone();
                    let _ = answer_one(&acceptor, tcp, answer, &counts).await;
                }
            });
            Self {
                dir,
                url: format!("https://localhost:{port}/jwks"),
                content,
                asked,
            }
        }

        fn asked(&self) -> usize {
            *self.asked.borrow()
        }
    }

    async fn answer_one(
        acceptor: &TlsAcceptor,
        tcp: TcpStream,
        answer: Option<String>,
        asked: &watch::Sender<usize>,
    ) -> std::io::Result<()> {
        let mut stream = acceptor.accept(tcp).await?;
        let length = stream.read(&mut [0; 1024]).await?;
        assert!(length > 0);
        asked.send_modify(|count| *count += 1);
        if let Some(text) = answer {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
            stream.write_all((head + &text).as_bytes()).await?;
        }
        stream.shutdown().await
    }

    #[tokio::test]
    async fn keys_of_an_address_are_looked_for_once_a_minute_and_fetched_every_hour() {
        let provider = Provider::start().await;
        let clock = MockClock::at(Timestamp::from_seconds(1_800_000_000));
        let (a, b) = (
            IssuerKey::new("a", Algorithm::ES256),
            IssuerKey::new("b", Algorithm::EdDSA),
        );
        let ca = provider.dir.path().join("ca.pem");
        let source = KeySource::address(
            &provider.url,
            &ca,
            vec![Algorithm::ES256, Algorithm::EdDSA],
            Arc::new(clock.clone()),
        );
        // The node starts while its provider is away.
        let source = Arc::new(source.await.expect("an address"));
        assert!(source.key("a").await.is_none());
        assert_eq!(provider.asked(), 1);

        provider.content.send_replace(Some(key_set(&[&a])));
        assert!(source.key("a").await.is_none());
        clock.advance(PAUSE);
        let found = futures::future::join_all((0..8).map(|_| source.key("a"))).await;
        assert!(found.iter().all(Option::is_some));
        assert_eq!(provider.asked(), 2);

        provider.content.send_replace(Some(key_set(&[&a, &b])));
        for _ in 0..3 {
            assert!(source.key("b").await.is_none());
        }
        assert_eq!(provider.asked(), 2);
        clock.advance(PAUSE);
        assert!(source.key("b").await.is_some());
        assert_eq!(provider.asked(), 3);

        // By the hour, and what was there stays if the provider answers nothing of use.
        let mut asked = provider.asked.subscribe();
        let fetching = Arc::clone(&source);
        let fetching = tokio::spawn(async move { fetching.keep_fetching().await });
        for (count, content) in [(4, None), (5, Some("{}".into())), (6, Some(key_set(&[&b])))] {
            provider.content.send_replace(content);
            tokio::task::yield_now().await;
            clock.advance(REFRESH);
            asked
                .wait_for(|asked| *asked == count)
                .await
                .expect("asked");
            // Waits for whoever fetches.
            source.key("unknown").await;
            assert_eq!(source.key("a").await.is_some(), count < 6, "{count}");
            assert!(source.key("b").await.is_some(), "{count}");
        }
        fetching.abort();
    }

    #[test]
    fn a_set_of_too_many_keys_is_refused() {
        let key = serde_json::json!({ "kty": "oct" });
        let keys = serde_json::json!({ "keys": vec![key; MAX_KEYS + 1] });
        let error = KeySet::parse(keys.to_string().as_bytes(), &[]).expect_err("refused");
        assert!(error.contains("256"), "{error}");
    }
}
