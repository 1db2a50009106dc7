//! Signed statements (protocol §9): DSSE envelopes with one Ed25519 signature.
//!
//! The body is signed exactly as sent; nobody serialises it again to verify. Which key counts is
//! for the caller to say, from the manifest or the pin: the `keyid` is only a hint.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::Signer;
use rand::CryptoRng;
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorCode};
use crate::ids::InvalidId;
use crate::random;
use crate::secret::Secret;

/// The statements that nodes rely on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StatementKind {
    /// The header of a publication (protocol §6).
    FilterHeader,
    /// The manifest that opens an epoch (protocol §8).
    EpochManifest,
    /// A node's keys (protocol §8).
    KeyStatement,
    /// A node's confirmation of an epoch (protocol §8).
    KeyConfirmation,
    /// One step of a follow-up (protocol §10).
    FollowUp,
    /// A node's verdict on a hit (workflow.md).
    HitFeedback,
    /// The digests of an exported follow-up: a file for a case, never a message of the protocol.
    FollowUpBundle,
}

impl StatementKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::FilterHeader,
        Self::EpochManifest,
        Self::KeyStatement,
        Self::KeyConfirmation,
        Self::FollowUp,
        Self::HitFeedback,
        Self::FollowUpBundle,
    ];

    /// The payload type of the envelope, which is signed with the body.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::FilterHeader => "application/vnd.sotto.filter-header.v1+protobuf",
            Self::EpochManifest => "application/vnd.sotto.epoch-manifest.v1+protobuf",
            Self::KeyStatement => "application/vnd.sotto.key-statement.v1+protobuf",
            Self::KeyConfirmation => "application/vnd.sotto.key-confirmation.v1+protobuf",
            Self::FollowUp => "application/vnd.sotto.follow-up.v1+protobuf",
            Self::HitFeedback => "application/vnd.sotto.hit-feedback.v1+protobuf",
            Self::FollowUpBundle => "application/vnd.sotto.follow-up-bundle.v1+text",
        }
    }

    /// The kind with this payload type, if it is known.
    pub fn from_media_type(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.media_type() == text)
    }
}

/// A DSSE envelope as it came or goes; nothing in it is verified yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The serialised statement, exactly as signed.
    pub payload: Vec<u8>,
    /// Its media type.
    pub payload_type: String,
    /// Signatures; a valid envelope has exactly one.
    pub signatures: Vec<EnvelopeSignature>,
}

/// A signature in an envelope.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvelopeSignature {
    /// A hint at the key: first 8 bytes of its fingerprint in hex. Never relied upon.
    pub keyid: String,
    /// The Ed25519 signature, 64 bytes.
    pub sig: Vec<u8>,
}

/// The bytes that are signed: `"DSSEv1" SP LEN(type) SP type SP LEN(body) SP body`.
pub fn pae(media_type: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("DSSEv1 {} {media_type} {} ", media_type.len(), body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// The body of an envelope, once its type and its one signature have been verified.
///
/// # Errors
/// [`ErrorCode::FormatUnknown`] for a type that this version does not know,
/// [`ErrorCode::SignatureInvalid`] for another kind than `kind`, for no or several signatures, and
/// for a signature that is not strictly valid under `key`.
pub fn verify<'e>(
    kind: StatementKind,
    envelope: &'e Envelope,
    key: &VerifyingKey,
) -> Result<&'e [u8], Error> {
    match StatementKind::from_media_type(&envelope.payload_type) {
        None => {
            let text = "the statement's type is unknown here: a newer version may be needed";
            return Err(Error::new(ErrorCode::FormatUnknown, text));
        }
        Some(actual) if actual != kind => {
            return Err(invalid(
                "the statement is of another type than is wanted here",
            ));
        }
        Some(_) => {}
    }
    let [signature] = envelope.signatures.as_slice() else {
        return Err(invalid("a statement carries exactly one signature"));
    };
    let signature = ed25519_dalek::Signature::from_slice(&signature.sig)
        .map_err(|_| invalid("a signature has 64 bytes"))?;
    let signed = pae(kind.media_type(), &envelope.payload);
    // protocol §9: strictly, i.e. canonical S and no key or commitment of small order.
    key.0
        .verify_strict(&signed, &signature)
        .map_err(|_| invalid("the signature is not by the sender's key"))?;
    Ok(&envelope.payload)
}

fn invalid(text: &'static str) -> Error {
    Error::new(ErrorCode::SignatureInvalid, text)
}

/// A node's Ed25519 key for statements: redacted, and wiped when dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A new key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self::from_seed(&Secret::new(random::bytes(rng)))
    }

    /// The key of a seed (RFC 8032), from the keystore.
    #[must_use]
    pub fn from_seed(seed: &Secret<32>) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed.expose()))
    }

    /// The seed, for the keystore.
    pub fn seed(&self) -> Secret<32> {
        Secret::new(*self.0.as_bytes())
    }

    /// The public key.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    /// Signs bytes that say themselves what they are: notes of the log (protocol §11), whose first
    /// line can be no `DSSEv1 …`.
    pub(crate) fn sign_note(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// Signs a serialised statement.
    pub fn sign(&self, kind: StatementKind, body: Vec<u8>) -> Envelope {
        let signature = self.0.sign(&pae(kind.media_type(), &body));
        Envelope {
            payload: body,
            payload_type: kind.media_type().to_owned(),
            signatures: vec![EnvelopeSignature {
                keyid: self.verifying_key().keyid(),
                sig: signature.to_bytes().to_vec(),
            }],
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

/// A node's public Ed25519 key: canonical and not of small order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// Length of a public key in bytes.
    pub const LEN: usize = 32;

    /// From exactly 32 bytes.
    ///
    /// # Errors
    /// [`InvalidId`] for bytes that are no point, a point written in another than its one
    /// canonical way, or a point of small order (protocol §9).
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
        bytes
            .try_into()
            .ok()
            .and_then(|bytes| ed25519_dalek::VerifyingKey::from_bytes(bytes).ok())
            .filter(|key| !key.is_weak() && key.to_edwards().compress().as_bytes() == bytes)
            .map(Self)
            .ok_or(InvalidId {
                kind: "Ed25519 public key",
                expected: "32 bytes of a canonical point of large order",
            })
    }

    /// Whether a signature of 64 bytes over these very bytes is by this key, strictly
    /// (protocol §9). Statements are verified by [`verify`], which looks at their kind too.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        ed25519_dalek::Signature::from_slice(signature)
            .is_ok_and(|signature| self.0.verify_strict(message, &signature).is_ok())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        self.0.as_bytes()
    }

    /// What people compare (protocol §8).
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(self.as_bytes()).into())
    }

    /// First 8 bytes of the fingerprint in hex (protocol §9).
    pub fn keyid(&self) -> String {
        hex::encode(&self.fingerprint().0[..8])
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", hex::encode(self.as_bytes()))
    }
}

/// `H` of a raw public key: what members compare out of band and pin (protocol §8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Takes the bytes of a fingerprint.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    /// Sixteen groups of four hex digits, to be read over the telephone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for group in self.0.chunks(2) {
            write!(f, "{separator}{}", hex::encode(group))?;
            separator = " ";
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidId;

    /// From 64 hex digits of any case, with any blanks, `:`, `-`, `.` or `_` between them.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && !":-._".contains(*c))
            .collect();
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes)
            .map(|()| Self(bytes))
            .map_err(|_| InvalidId {
                kind: "fingerprint",
                expected: "64 hex digits",
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&Secret::new([seed; 32]))
    }

    fn signed() -> Envelope {
        key(1).sign(StatementKind::FollowUp, b"body".to_vec())
    }

    fn refusal(envelope: &Envelope, by: u8) -> Option<ErrorCode> {
        let outcome = verify(StatementKind::FollowUp, envelope, &key(by).verifying_key());
        outcome.err().map(|error| error.code)
    }

    #[test]
    fn a_statement_verifies_under_its_key_only() {
        let envelope = signed();
        let body = verify(StatementKind::FollowUp, &envelope, &key(1).verifying_key());
        assert_eq!(body.unwrap(), b"body");
        assert_eq!(refusal(&envelope, 2), Some(ErrorCode::SignatureInvalid));
    }

    #[test]
    fn the_keyid_is_only_a_hint() {
        let mut envelope = signed();
        envelope.signatures[0].keyid = "0000000000000000".into();
        assert_eq!(refusal(&envelope, 1), None);
    }

    #[test]
    fn rejects_a_changed_body_or_signature() {
        for at in 0..4 {
            let mut envelope = signed();
            envelope.payload[at] ^= 1;
            assert_eq!(refusal(&envelope, 1), Some(ErrorCode::SignatureInvalid));
        }
        for at in 0..64 {
            let mut envelope = signed();
            envelope.signatures[0].sig[at] ^= 0x10;
            assert_eq!(refusal(&envelope, 1), Some(ErrorCode::SignatureInvalid));
        }
    }

    #[test]
    fn rejects_any_number_of_signatures_but_one() {
        let mut none = signed();
        none.signatures.clear();
        let mut two = signed();
        two.signatures.push(two.signatures[0].clone());
        let mut short = signed();
        short.signatures[0].sig.pop();
        for envelope in [none, two, short] {
            assert_eq!(refusal(&envelope, 1), Some(ErrorCode::SignatureInvalid));
        }
    }

    #[test]
    fn rejects_a_statement_of_another_or_an_unknown_kind() {
        let other = key(1).sign(StatementKind::HitFeedback, b"body".to_vec());
        assert_eq!(refusal(&other, 1), Some(ErrorCode::SignatureInvalid));
        let mut relabelled = other;
        relabelled.payload_type = StatementKind::FollowUp.media_type().into();
        assert_eq!(refusal(&relabelled, 1), Some(ErrorCode::SignatureInvalid));
        let mut newer = signed();
        newer.payload_type = "application/vnd.sotto.follow-up.v2+protobuf".into();
        assert_eq!(refusal(&newer, 1), Some(ErrorCode::FormatUnknown));
    }

    #[test]
    fn rejects_a_signature_whose_s_is_not_canonical() {
        // The order of the group, little-endian (RFC 8032 §5.1): S + L verifies where S is not
        // checked against it.
        let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
            .unwrap();
        let mut envelope = signed();
        let mut carry = 0;
        for (byte, order) in envelope.signatures[0].sig[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            *byte = (sum & 0xff) as u8;
            carry = sum >> 8;
        }
        assert_eq!(refusal(&envelope, 1), Some(ErrorCode::SignatureInvalid));
    }

    #[test]
    fn rejects_keys_of_small_order_or_not_canonical() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut order_two = [0xff; 32];
        (order_two[0], order_two[31]) = (0xec, 0x7f);
        // y = p + 3, another way to write the point with y = 3.
        let mut not_canonical = [0xff; 32];
        (not_canonical[0], not_canonical[31]) = (0xf0, 0x7f);
        let mut canonical = [0; 32];
        canonical[0] = 3;
        assert!(VerifyingKey::from_slice(&canonical).is_ok());
        for bad in [[0; 32], identity, order_two, not_canonical] {
            assert!(VerifyingKey::from_slice(&bad).is_err(), "{bad:?}");
        }
        assert!(VerifyingKey::from_slice(&[9; 31]).is_err());
    }

    #[test]
    fn fingerprints_are_read_back_however_they_are_grouped() {
        let fingerprint = key(1).verifying_key().fingerprint();
        let shown = fingerprint.to_string();
        assert_eq!(shown.split(' ').count(), 16);
        for text in [
            shown.clone(),
            shown.to_uppercase(),
            shown.replace(' ', ":"),
            shown.replace(' ', ""),
            format!("  {}\n", shown.replace(' ', " - ")),
        ] {
            assert_eq!(text.parse(), Ok(fingerprint), "{text}");
        }
        assert!(shown[1..].parse::<Fingerprint>().is_err());
        assert!(format!("{shown} 00").parse::<Fingerprint>().is_err());
        assert!("z".repeat(64).parse::<Fingerprint>().is_err());
    }

    #[test]
    fn signing_keys_do_not_print() {
        assert_eq!(format!("{:?}", key(0x41)), "SigningKey(redacted)");
    }

    #[test]
    fn media_types_are_those_of_the_protocol() {
        for kind in StatementKind::ALL {
            assert_eq!(
                StatementKind::from_media_type(kind.media_type()),
                Some(kind)
            );
        }
        assert_eq!(StatementKind::from_media_type("text/plain"), None);
    }
}
