//! Tags (protocol §4) and record refs (protocol §2).

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use rand::CryptoRng;
use sha2::Sha256;
use zeroize::Zeroize;

use crate::ids::{CommunityId, Epoch, InvalidId, RecordRef};
use crate::label::{Context, Label, length_prefix};
use crate::random;
use crate::secret::{Secret, Selector, Tag};

/// `K(policy)`: turns the canonical values of one policy into tags.
///
/// It holds the MAC already keyed and past its label, so that a tag costs two compressions.
#[derive(Clone)]
pub struct TagKey {
    secret: Secret<32>,
    labelled: Hmac<Sha256>,
}

impl TagKey {
    /// Takes a key of the key schedule, or one that the keystore kept for open follow-ups.
    #[must_use]
    pub fn new(secret: Secret<32>) -> Self {
        let labelled = keyed(&secret).chain_update(Label::Tag.as_str());
        Self { secret, labelled }
    }

    /// The key itself, for the keystore.
    pub const fn secret(&self) -> &Secret<32> {
        &self.secret
    }

    /// The tag of a canonical value (protocol §4).
    ///
    /// # Panics
    /// For a text above 65,535 bytes, which is no canonical value: inputs end at 1024 bytes.
    pub fn tag(&self, canonical: &Selector) -> Tag {
        let text = canonical.expose().as_bytes();
        // Unwrap safety: see `# Panics`; a cut or wrapped length would be another value's tag.
        let prefix = length_prefix(text.len()).expect("a canonical value of at most 65,535 bytes");
        let mac = self.labelled.clone().chain_update(prefix);
        Tag::new(truncated(mac.chain_update(text)))
    }
}

impl fmt::Debug for TagKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TagKey(redacted)")
    }
}

/// `K_ref`: a secret of one node, never shared, that makes its record refs (protocol §2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordRefKey(Secret<32>);

impl RecordRefKey {
    /// A new key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(Secret::new(random::bytes(rng)))
    }

    /// A key that was read from the keystore.
    #[must_use]
    pub const fn from_secret(secret: Secret<32>) -> Self {
        Self(secret)
    }

    /// The key itself, for the keystore.
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }

    /// The opaque reference of one local record and one canonical value, or of one group of tags.
    ///
    /// # Errors
    /// [`InvalidId`] for a record key above 65,535 bytes.
    pub fn record_ref(
        &self,
        community: &CommunityId,
        epoch: Epoch,
        policy: impl AsRef<str>,
        record_key: &str,
    ) -> Result<RecordRef, InvalidId> {
        length_prefix(record_key.len()).ok_or(InvalidId {
            kind: "record key",
            expected: "at most 65,535 bytes",
        })?;
        let context = Context::unlabelled()
            .text(community.as_str())
            .number(epoch.get())
            .text(policy.as_ref())
            .text(record_key);
        let mac = keyed(&self.0).chain_update(context.as_bytes());
        Ok(RecordRef::new(truncated(mac)))
    }
}

/// HMAC-SHA-256 under a key.
pub(crate) fn keyed(secret: &Secret<32>) -> Hmac<Sha256> {
    // Unwrap safety: HMAC takes keys of any length.
    Hmac::new_from_slice(secret.expose()).expect("HMAC takes any key")
}

/// The first 16 bytes; the whole MAC is not kept (protocol §4).
pub(crate) fn truncated(mac: Hmac<Sha256>) -> [u8; 16] {
    let mut whole = mac.finalize().into_bytes();
    let mut kept = [0; 16];
    kept.copy_from_slice(&whole[..16]);
    whole.as_mut_slice().zeroize();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_the_mac_of_the_whole_context_string() {
        let secret = Secret::new([7; 32]);
        let value = "+31612345678";
        let context = Context::new(Label::Tag).text(value);
        let whole = keyed(&secret).chain_update(context.as_bytes());
        let tag = TagKey::new(secret).tag(&Selector::new(value));
        assert_eq!(tag, Tag::new(truncated(whole)));
    }

    #[test]
    fn record_refs_depend_on_every_input() {
        let key = RecordRefKey::from_secret(Secret::new([7; 32]));
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (one, two) = (Epoch::new(1).unwrap(), Epoch::new(2).unwrap());
        let refs = [
            key.record_ref(&a, one, "phone/1", "r#0"),
            key.record_ref(&b, one, "phone/1", "r#0"),
            key.record_ref(&a, two, "phone/1", "r#0"),
            key.record_ref(&a, one, "email/1", "r#0"),
            key.record_ref(&a, one, "phone/1", "r#1"),
            RecordRefKey::from_secret(Secret::new([8; 32])).record_ref(&a, one, "phone/1", "r#0"),
        ];
        let distinct: std::collections::HashSet<_> = refs.iter().flatten().collect();
        assert_eq!(distinct.len(), refs.len());
    }

    #[test]
    fn refuses_a_record_key_whose_length_has_no_prefix() {
        let key = RecordRefKey::generate(&mut random::os_rng());
        let (community, epoch) = ("a".parse().unwrap(), Epoch::new(1).unwrap());
        let long = "x".repeat(65_536);
        assert!(key.record_ref(&community, epoch, "p/1", &long).is_err());
        assert!(key.record_ref(&community, epoch, "p/1", &long[1..]).is_ok());
    }

    #[test]
    fn keys_do_not_print() {
        let shown = format!("{:?}", TagKey::new(Secret::new([0x41; 32])));
        assert_eq!(shown, "TagKey(redacted)");
    }
}
