//! Sealing to a node's HPKE key (protocol §8; RFC 9180 base mode).
//!
//! What is sealed is bound to its purpose and its roles by [`SealInfo`], and to the statement
//! around it by `aad`.

use hpke::aead::{AeadCtxR, AeadCtxS, ChaCha20Poly1305};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand::rngs::StdRng;
use rand::{CryptoRng, SeedableRng as _};
use std::fmt;
use zeroize::Zeroizing;

use crate::followup::SealedPart;
use crate::ids::{CommunityId, Epoch, FollowUpId, NodeId};
use crate::label::{Context, Label};
use crate::secret::Secret;

/// Why something could not be sealed or opened. None of the texts says what was inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// A suite that this version does not have (protocol §13: refused, never guessed).
    #[error("HPKE suite {kem:#06x}, {kdf:#06x}, {aead:#06x} is not supported here")]
    UnknownSuite {
        /// KEM id.
        kem: u16,
        /// KDF id.
        kdf: u16,
        /// AEAD id.
        aead: u16,
    },
    /// A public or encapsulated key of the wrong length or of small order.
    #[error("not a key of the HPKE suite")]
    InvalidKey,
    /// Not sealed to this key, for this purpose and beside this statement, or changed since.
    #[error("cannot be opened: another key, another purpose, or changed on the way")]
    CannotOpen,
}

/// An HPKE suite (protocol §8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Suite {
    /// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305.
    X25519Sha256ChaCha20Poly1305,
}

impl Suite {
    /// The suite with these ids of the IANA registries.
    ///
    /// # Errors
    /// [`SealError::UnknownSuite`] for any other; X-Wing (0x647a) is not supported yet.
    pub const fn from_ids(kem: u16, kdf: u16, aead: u16) -> Result<Self, SealError> {
        match (kem, kdf, aead) {
            (0x0020, 0x0001, 0x0003) => Ok(Self::X25519Sha256ChaCha20Poly1305),
            _ => Err(SealError::UnknownSuite { kem, kdf, aead }),
        }
    }

    /// Bytes of the encapsulated key.
    pub const ENC_LEN: usize = 32;

    /// KEM, KDF and AEAD id.
    pub const fn ids(self) -> (u16, u16, u16) {
        match self {
            Self::X25519Sha256ChaCha20Poly1305 => (0x0020, 0x0001, 0x0003),
        }
    }
}

/// The `info` of a sealing: version, label and roles (style rule 9).
#[derive(Clone)]
pub struct SealInfo(Context);

impl SealInfo {
    /// For the epoch's secret, sealed to one member (protocol §8).
    pub fn epoch_key(community: &CommunityId, epoch: Epoch, recipient: &NodeId) -> Self {
        Self(
            Context::new(Label::EpochKey)
                .text(community.as_str())
                .number(epoch.get())
                .text(recipient.as_str()),
        )
    }

    /// For one part of a follow-up (protocol §10):
    /// `"sotto/v1 follow-up" ‖ LP(step) ‖ follow-up id[16] ‖ LP(sender) ‖ LP(recipient)`.
    pub fn follow_up(
        part: SealedPart,
        follow_up: FollowUpId,
        sender: &NodeId,
        recipient: &NodeId,
    ) -> Self {
        Self(
            Context::new(Label::FollowUp)
                .text(part.as_str())
                .raw(follow_up.as_bytes())
                .text(sender.as_str())
                .text(recipient.as_str()),
        )
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Something sealed to one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// The suite; its three ids travel with it.
    pub suite: Suite,
    /// The encapsulated key.
    pub enc: Vec<u8>,
    /// Ciphertext and authentication tag.
    pub ciphertext: Vec<u8>,
}

/// A node's public HPKE key.
#[derive(Clone, PartialEq, Eq)]
pub struct HpkePublicKey(<X25519HkdfSha256 as Kem>::PublicKey);

impl HpkePublicKey {
    /// From the bytes of a key of `suite`: 32 for X25519.
    ///
    /// # Errors
    /// [`SealError::InvalidKey`] for another length, and for a point of small order, to which
    /// nobody can seal (RFC 9180 §7.1.4).
    pub fn from_slice(suite: Suite, bytes: &[u8]) -> Result<Self, SealError> {
        let key = match suite {
            Suite::X25519Sha256ChaCha20Poly1305 => Deserializable::from_bytes(bytes)
                .map(Self)
                .map_err(|_| SealError::InvalidKey)?,
        };
        // Tried once at the door: found only when sealing, one such key would stop an epoch for
        // all. Nothing is sent, so any randomness does.
        let nothing = SealInfo(Context::unlabelled());
        key.seal(&nothing, &[], &[], &mut StdRng::from_seed([0; 32]))?;
        Ok(key)
    }

    /// The suite in which the key is used.
    pub const fn suite(&self) -> Suite {
        Suite::X25519Sha256ChaCha20Poly1305
    }

    /// The bytes, as in key statements and manifests.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes().to_vec()
    }

    /// Seals `plaintext` to this key.
    ///
    /// # Errors
    /// [`SealError::InvalidKey`] if the key is of small order, so that anybody could open.
    pub fn seal(
        &self,
        info: &SealInfo,
        aad: &[u8],
        plaintext: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<Sealed, SealError> {
        // Encapsulation is all that can fail in one message: plaintexts are far below 2^38 bytes.
        let (enc, ciphertext) =
            hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &self.0,
                info.as_bytes(),
                plaintext,
                aad,
                rng,
            )
            .map_err(|_| SealError::InvalidKey)?;
        Ok(Sealed {
            suite: self.suite(),
            enc: enc.to_bytes().to_vec(),
            ciphertext,
        })
    }
}

impl HpkePublicKey {
    /// Begins a context that seals several texts in order (RFC 9180 §5.2).
    ///
    /// # Errors
    /// As [`HpkePublicKey::seal`].
    pub fn begin(
        &self,
        info: &SealInfo,
        rng: &mut impl CryptoRng,
    ) -> Result<(Vec<u8>, SealingContext), SealError> {
        let begun = hpke::setup_sender_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &self.0,
            info.as_bytes(),
            rng,
        );
        let (enc, context) = begun.map_err(|_| SealError::InvalidKey)?;
        Ok((enc.to_bytes().to_vec(), SealingContext(context)))
    }
}

/// Seals texts one after another to one key.
pub struct SealingContext(AeadCtxS<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>);

impl SealingContext {
    /// Seals the next text.
    ///
    /// # Errors
    /// [`SealError::CannotOpen`] after 2^64 − 1 texts, which nobody lives to see.
    pub fn seal(&mut self, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
        self.0
            .seal(plaintext, aad)
            .map_err(|_| SealError::CannotOpen)
    }
}

/// Opens, in the same order, what a [`SealingContext`] has sealed.
pub struct OpeningContext(AeadCtxR<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>);

impl OpeningContext {
    /// Opens the next text.
    ///
    /// # Errors
    /// [`SealError::CannotOpen`] if it is not the next one, or anything else differs.
    pub fn open(&mut self, ciphertext: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.0
            .open(ciphertext, aad)
            .map(Zeroizing::new)
            .map_err(|_| SealError::CannotOpen)
    }
}

impl fmt::Debug for SealingContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingContext(redacted)")
    }
}

impl fmt::Debug for OpeningContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpeningContext(redacted)")
    }
}

impl fmt::Debug for HpkePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HpkePublicKey({})", hex::encode(self.0.to_bytes()))
    }
}

/// A node's HPKE key pair, new in each epoch: redacted, and wiped when dropped.
#[derive(Clone)]
pub struct HpkeKeyPair {
    private: <X25519HkdfSha256 as Kem>::PrivateKey,
    public: HpkePublicKey,
}

impl HpkeKeyPair {
    /// A new X25519 key pair.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let (private, public) = X25519HkdfSha256::gen_keypair_with_rng(rng);
        Self {
            private,
            public: HpkePublicKey(public),
        }
    }

    /// The key pair of a private key from the keystore.
    ///
    /// # Errors
    /// [`SealError::InvalidKey`] if the bytes are no private key of the suite.
    pub fn from_private(suite: Suite, private: &Secret<32>) -> Result<Self, SealError> {
        let private = match suite {
            Suite::X25519Sha256ChaCha20Poly1305 => Deserializable::from_bytes(private.expose()),
        };
        let private = private.map_err(|_| SealError::InvalidKey)?;
        let public = HpkePublicKey(X25519HkdfSha256::sk_to_pk(&private));
        Ok(Self { private, public })
    }

    /// The private key, for the keystore.
    pub fn private(&self) -> Secret<32> {
        Secret::new(self.private.to_bytes().into())
    }

    /// The public key.
    pub const fn public(&self) -> &HpkePublicKey {
        &self.public
    }

    /// Opens what was sealed to this key for the same purpose, beside the same `aad`.
    ///
    /// # Errors
    /// [`SealError::InvalidKey`] if `enc` is not of the suite, [`SealError::CannotOpen`] if
    /// anything differs from what was sealed.
    pub fn open(
        &self,
        sealed: &Sealed,
        info: &SealInfo,
        aad: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let enc = match sealed.suite {
            Suite::X25519Sha256ChaCha20Poly1305 => Deserializable::from_bytes(&sealed.enc),
        };
        let enc = enc.map_err(|_| SealError::InvalidKey)?;
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.private,
            &enc,
            info.as_bytes(),
            &sealed.ciphertext,
            aad,
        )
        .map(Zeroizing::new)
        .map_err(|_| SealError::CannotOpen)
    }
}

impl HpkeKeyPair {
    /// Begins to open what was sealed text by text to this key.
    ///
    /// # Errors
    /// [`SealError::InvalidKey`] if `enc` is not of the suite.
    pub fn begin(
        &self,
        suite: Suite,
        enc: &[u8],
        info: &SealInfo,
    ) -> Result<OpeningContext, SealError> {
        let enc = match suite {
            Suite::X25519Sha256ChaCha20Poly1305 => Deserializable::from_bytes(enc),
        };
        let enc = enc.map_err(|_| SealError::InvalidKey)?;
        hpke::setup_receiver(&OpModeR::Base, &self.private, &enc, info.as_bytes())
            .map(OpeningContext)
            .map_err(|_| SealError::InvalidKey)
    }
}

impl fmt::Debug for HpkeKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HpkeKeyPair(redacted, {:?})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::os_rng;

    fn info(epoch: u32, recipient: &str) -> SealInfo {
        SealInfo::epoch_key(
            &"euro-cyber".parse().unwrap(),
            Epoch::new(epoch).unwrap(),
            &recipient.parse().unwrap(),
        )
    }

    #[test]
    fn opens_for_its_recipient_purpose_and_statement_only() {
        let (pair, other) = (
            HpkeKeyPair::generate(&mut os_rng()),
            HpkeKeyPair::generate(&mut os_rng()),
        );
        let sealed = pair
            .public()
            .seal(&info(7, "nl-fiu"), b"aad", b"text", &mut os_rng())
            .unwrap();
        let opened = pair.open(&sealed, &info(7, "nl-fiu"), b"aad").unwrap();
        assert_eq!(opened.as_slice(), b"text");

        let mut changed = sealed.clone();
        changed.ciphertext[0] ^= 1;
        let mut cut = sealed.clone();
        cut.ciphertext.truncate(3);
        for refused in [
            other.open(&sealed, &info(7, "nl-fiu"), b"aad"),
            pair.open(&sealed, &info(8, "nl-fiu"), b"aad"),
            pair.open(&sealed, &info(7, "de-bka"), b"aad"),
            pair.open(&sealed, &info(7, "nl-fiu"), b"other"),
            pair.open(&changed, &info(7, "nl-fiu"), b"aad"),
            pair.open(&cut, &info(7, "nl-fiu"), b"aad"),
        ] {
            assert_eq!(refused, Err(SealError::CannotOpen));
        }
    }

    #[test]
    fn refuses_suites_that_it_does_not_have() {
        let suite = Suite::from_ids(0x0020, 0x0001, 0x0003).unwrap();
        assert_eq!(suite.ids(), (0x0020, 0x0001, 0x0003));
        for (kem, kdf, aead) in [(0x647a, 1, 3), (0x20, 2, 3), (0x20, 1, 2), (0, 0, 0)] {
            let refused = Suite::from_ids(kem, kdf, aead);
            assert_eq!(refused, Err(SealError::UnknownSuite { kem, kdf, aead }));
        }
    }

    #[test]
    fn refuses_keys_of_small_order_or_of_another_length() {
        let suite = Suite::X25519Sha256ChaCha20Poly1305;
        // The points of order 1, 4 (u = 0, u = 1) and 8, and the non-canonical spelling of 0.
        let order_8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
        let zero_again = "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f";
        let mut one = [0; 32];
        one[0] = 1;
        let mut small = vec![[0; 32].to_vec(), one.to_vec()];
        small.extend([order_8, zero_again].map(|point| hex::decode(point).unwrap()));
        for point in small {
            let refused = HpkePublicKey::from_slice(suite, &point);
            assert_eq!(
                refused,
                Err(SealError::InvalidKey),
                "{}",
                hex::encode(point)
            );
        }
        for length in [0, 31, 33] {
            let refused = HpkePublicKey::from_slice(suite, &vec![9; length]);
            assert_eq!(refused, Err(SealError::InvalidKey));
        }
        let pair = HpkeKeyPair::generate(&mut os_rng());
        let sealed = Sealed {
            suite,
            enc: vec![9; 31],
            ciphertext: vec![0; 20],
        };
        let refused = pair.open(&sealed, &info(7, "nl-fiu"), b"");
        assert_eq!(refused, Err(SealError::InvalidKey));
    }

    #[test]
    fn key_pairs_come_back_from_the_keystore_and_do_not_print() {
        let pair = HpkeKeyPair::generate(&mut os_rng());
        let again = HpkeKeyPair::from_private(pair.public().suite(), &pair.private()).unwrap();
        assert_eq!(again.public(), pair.public());
        let private = hex::encode(pair.private().expose());
        assert!(!format!("{pair:?}").contains(&private));
    }
}
