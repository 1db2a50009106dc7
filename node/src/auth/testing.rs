//! An identity provider for tests, with real keys.

use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use sotto_common::random::os_rng;
use sotto_common::service::files::{self, Readers};
use sotto_common::time::Timestamp;

pub(crate) const ISSUER: &str = "https://login.test";
pub(crate) const AUDIENCE: &str = "sotto-node";
/// Where a PKCS#8 key of 2048 bits holds its PKCS#1 key, which is what the library takes.
const PKCS1_AT: usize = 26;

/// A key of the provider.
pub(crate) struct IssuerKey {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    secret: EncodingKey,
}

impl IssuerKey {
    pub(crate) fn new(id: &str, algorithm: Algorithm) -> Self {
        let secret = match algorithm {
            Algorithm::RS256 | Algorithm::PS256 => {
                let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048);
                EncodingKey::from_rsa_der(&pair.expect("made").serialize_der()[PKCS1_AT..])
            }
            Algorithm::ES256 => {
                let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("made");
                EncodingKey::from_ec_der(&pair.serialize_der())
            }
            Algorithm::EdDSA => {
                // The library takes version 1 of PKCS#8, without the public key.
                let pair = KeyPair::generate_for(&PKCS_ED25519).expect("made");
                let seed = &pair.serialize_der()[16..48];
                let prefix = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
                EncodingKey::from_ed_der(&[&prefix[..], seed].concat())
            }
            other => panic!("no test signs with {other:?}"),
        };
        Self {
            id: id.into(),
            algorithm,
            secret,
        }
    }

    /// Its public half (RFC 7517).
    pub(crate) fn public(&self) -> Value {
        let mut key = Jwk::from_encoding_key(&self.secret, self.algorithm).expect("a key");
        key.common.key_id = Some(self.id.clone());
        serde_json::to_value(key).expect("JSON")
    }

    /// The header that its tokens have.
    pub(crate) fn header(&self) -> Header {
        let mut header = Header::new(self.algorithm);
        header.typ = Some("at+jwt".into());
        header.kid = Some(self.id.clone());
        header
    }

    pub(crate) fn sign(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.secret).expect("signed")
    }

    /// A token of `subject` that is good for five minutes.
    pub(crate) fn token(&self, subject: &str, now: Timestamp) -> String {
        self.sign(&self.header(), &claims(subject, now))
    }
}

/// What a good token says.
pub(crate) fn claims(subject: &str, now: Timestamp) -> Value {
    json!({
        "iss": ISSUER,
        "sub": subject,
        "aud": ["other", AUDIENCE],
        "exp": now.seconds() + 300,
        "nbf": now.seconds(),
        "iat": now.seconds(),
        "scope": "sotto",
    })
}

/// The set of these keys.
pub(crate) fn key_set(keys: &[&IssuerKey]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| key.public()).collect();
    json!({ "keys": keys }).to_string()
}

/// Writes a file in one step.
pub(crate) fn put(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    let content = content.as_bytes();
    files::write(&path, content, Readers::Owner, &mut os_rng()).expect("written");
    path
}
