//! The keys of an epoch (protocol §3).
//!
//! One secret of the custodian, the [`Gms`], gives the commitment and id that everybody may see
//! and one [`TagKey`] a policy. Community, epoch and policy are inside each key, so values of
//! different types, versions or epochs can never match each other.

use std::fmt;

use hkdf::Hkdf;
use rand::CryptoRng;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::ids::{CommunityId, Epoch};
use crate::label::{Context, Label};
use crate::random;
use crate::secret::Secret;
use crate::selector::Policy;
use crate::tag::TagKey;

/// A policy enters keys by its name with its version (protocol §3).
impl AsRef<str> for Policy {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

/// The group master secret of one community and epoch: 32 random bytes of the custodian.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gms(Secret<32>);

impl Gms {
    /// A new secret.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(Secret::new(random::bytes(rng)))
    }

    /// A secret that was opened from an envelope or read from the keystore.
    #[must_use]
    pub const fn from_secret(secret: Secret<32>) -> Self {
        Self(secret)
    }

    /// The secret, to seal it to members or to keep it in the keystore.
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }
}

/// `KC`: the public commitment to an epoch's key, carried by the manifest. Compared in constant
/// time.
#[derive(Clone, Copy)]
pub struct KeyCommitment([u8; 32]);

impl KeyCommitment {
    /// Takes the bytes of a commitment.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// `KID = H("sotto/v1 kid" ‖ KC)[0..8]` (protocol §3).
    pub fn kid(&self) -> Kid {
        let digest = Context::new(Label::Kid).raw(&self.0).digest();
        let mut kid = [0; Kid::LEN];
        kid.copy_from_slice(&digest[..Kid::LEN]);
        Kid(kid)
    }
}

impl PartialEq for KeyCommitment {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyCommitment {}

impl fmt::Debug for KeyCommitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyCommitment({})", hex::encode(self.0))
    }
}

/// `KID`: the public id of an epoch's key, in headers and openings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kid([u8; Kid::LEN]);

impl Kid {
    /// Length of a key id in bytes.
    pub const LEN: usize = 8;

    /// Takes the bytes of a key id.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Takes a key id from a slice of exactly 8 bytes, else `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 8 bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kid({self})")
    }
}

/// Everything that follows from one [`Gms`] in one community and epoch.
#[derive(Debug)]
pub struct KeySchedule {
    prk: Secret<32>,
    community: CommunityId,
    epoch: Epoch,
}

impl KeySchedule {
    /// Derives the schedule of `community` in `epoch`.
    pub fn derive(gms: &Gms, community: &CommunityId, epoch: Epoch) -> Self {
        // protocol §3: PRK
        let salt = Label::Epoch.as_str().as_bytes();
        let (mut prk, _) = Hkdf::<Sha256>::extract(Some(salt), gms.0.expose());
        let schedule = Self {
            prk: Secret::new(prk.into()),
            community: community.clone(),
            epoch,
        };
        prk.as_mut_slice().zeroize();
        schedule
    }

    /// `KC` (protocol §3).
    pub fn key_commitment(&self) -> KeyCommitment {
        KeyCommitment(*self.expand(&self.context(Label::KeyCommit)).expose())
    }

    /// Whether the key is the one that a manifest commits to. A node refuses an epoch where it is
    /// not (protocol §3). Takes constant time.
    pub fn matches(&self, commitment: &KeyCommitment) -> bool {
        self.key_commitment() == *commitment
    }

    /// `KID` (protocol §3).
    pub fn kid(&self) -> Kid {
        self.key_commitment().kid()
    }

    /// `K(p)`: the key of one policy, by the policy or by its full name.
    pub fn tag_key(&self, policy: impl AsRef<str>) -> TagKey {
        TagKey::new(self.expand(&self.context(Label::TagKey).text(policy.as_ref())))
    }

    /// The pseudorandom key from which all others follow: to compare it with the test vectors.
    pub const fn expose_prk_for_vectors(&self) -> &Secret<32> {
        &self.prk
    }

    fn context(&self, label: Label) -> Context {
        Context::new(label)
            .text(self.community.as_str())
            .number(self.epoch.get())
    }

    fn expand(&self, info: &Context) -> Secret<32> {
        // Unwrap safety: HKDF refuses only a PRK shorter than the hash and an output longer than
        // 255 hashes; both are exactly one hash here.
        let hkdf = Hkdf::<Sha256>::from_prk(self.prk.expose()).expect("a PRK of 32 bytes");
        let mut okm = [0; 32];
        hkdf.expand(info.as_bytes(), &mut okm)
            .expect("an output of 32 bytes");
        let secret = Secret::new(okm);
        okm.zeroize();
        secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(gms: u8, community: &str, epoch: u32) -> KeySchedule {
        KeySchedule::derive(
            &Gms::from_secret(Secret::new([gms; 32])),
            &community.parse().unwrap(),
            Epoch::new(epoch).unwrap(),
        )
    }

    #[test]
    fn every_input_changes_the_commitment() {
        let base = schedule(1, "euro-cyber", 7);
        assert!(base.matches(&schedule(1, "euro-cyber", 7).key_commitment()));
        for other in [
            schedule(2, "euro-cyber", 7),
            schedule(1, "euro-fraud", 7),
            schedule(1, "euro-cyber", 8),
        ] {
            assert!(!base.matches(&other.key_commitment()));
            assert_ne!(base.kid(), other.kid());
        }
    }

    #[test]
    fn each_policy_has_its_own_key() {
        let schedule = schedule(1, "euro-cyber", 7);
        let phone = schedule.tag_key(Policy::Phone);
        assert_eq!(phone.secret(), schedule.tag_key("phone/1").secret());
        assert_ne!(phone.secret(), schedule.tag_key("phone/2").secret());
        assert_ne!(phone.secret(), schedule.tag_key(Policy::Email).secret());
    }

    #[test]
    fn secrets_do_not_print() {
        let gms = Gms::generate(&mut random::os_rng());
        let shown = format!("{gms:?} {:?}", schedule(0x41, "c", 1));
        assert!(!shown.contains("65, 65") && shown.contains("redacted"));
    }
}
