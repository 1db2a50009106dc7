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
