//! What the log and the broker keep of a probe in place of the probe itself (protocol §7, §11).
//!
//! The prober chose the nonce, keeps it with tags and answers, and can open these digests to an
//! auditor; the broker keeps neither nonce nor tags.

use rand::CryptoRng;
use sha2::Digest;

use crate::ids::RecordRef;
use crate::label::{Context, Label};
use crate::random;
use crate::secret::{Secret, Tag};

/// Most (tag, record ref) pairs in one batch (protocol §7).
pub const MAX_BATCH: usize = 4096;

/// The nonce of one probe session, chosen by the prober; the broker never stores it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionNonce(Secret<32>);

impl SessionNonce {
    /// A new nonce.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(Secret::new(random::bytes(rng)))
    }

    /// Takes a nonce from a slice of exactly 32 bytes, else `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Secret::from_slice(bytes).map(Self)
    }

    /// The nonce, for the opening of the session or the prober's own store.
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }
}

/// What the broker keeps to recognise the nonce of a resumed session (protocol §7).
pub fn session_commitment(nonce: &SessionNonce) -> [u8; 32] {
    Context::new(Label::Session).raw(nonce.0.expose()).digest()
}

/// The logged digest of the pairs of one batch, in the order sent (protocol §11).
///
/// # Panics
/// For more than 2^32 − 1 pairs; the door refuses more than [`MAX_BATCH`].
pub fn tags_digest(nonce: &SessionNonce, batch: u32, pairs: &[(Tag, RecordRef)]) -> [u8; 32] {
    digest_of(nonce, batch, pairs.iter().map(|(tag, r)| (tag, r)))
}

/// As [`tags_digest`], of the pairs of a tag and the record ref in the same place.
///
/// # Panics
/// As [`tags_digest`].
pub fn packed_tags_digest(
    nonce: &SessionNonce,
    batch: u32,
    tags: &[Tag],
    refs: &[RecordRef],
) -> [u8; 32] {
    digest_of(nonce, batch, tags.iter().zip(refs))
}

fn digest_of<'a>(
    nonce: &SessionNonce,
    batch: u32,
    pairs: impl ExactSizeIterator<Item = (&'a Tag, &'a RecordRef)>,
) -> [u8; 32] {
    // Unwrap safety: see `# Panics`.
    let count = u32::try_from(pairs.len()).expect("a batch of at most 2^32 - 1 pairs");
    let mut hasher = Context::new(Label::BatchTags)
        .raw(nonce.0.expose())
        .number(batch)
        .number(count)
        .hasher();
    for (tag, record_ref) in pairs {
        hasher.update(tag.expose());
        hasher.update(record_ref.as_bytes());
    }
    hasher.finalize().into()
}

/// The logged digest of the answer to one batch: the bytes field `matches` as sent (protocol §11).
pub fn answer_digest(nonce: &SessionNonce, batch: u32, matches: &[u8]) -> [u8; 32] {
    let context = Context::new(Label::BatchAnswer)
        .raw(nonce.0.expose())
        .number(batch);
    context.hasher().chain_update(matches).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_depend_on_nonce_number_order_and_kind() {
        let nonce = SessionNonce::from_slice(&[1; 32]).unwrap();
        let other = SessionNonce::from_slice(&[2; 32]).unwrap();
        let (a, b) = (
            (Tag::new([1; 16]), RecordRef::new([2; 16])),
            (Tag::new([3; 16]), RecordRef::new([4; 16])),
        );
        let digests = [
            tags_digest(&nonce, 1, &[a, b]),
            tags_digest(&nonce, 1, &[b, a]),
            tags_digest(&nonce, 2, &[a, b]),
            tags_digest(&other, 1, &[a, b]),
            tags_digest(&nonce, 1, &[]),
            answer_digest(&nonce, 1, &[]),
            answer_digest(&other, 1, &[]),
            session_commitment(&nonce),
        ];
        let packed = packed_tags_digest(&nonce, 1, &[a.0, b.0], &[a.1, b.1]);
        assert_eq!(packed, digests[0]);
        let distinct: std::collections::HashSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len());
    }

    #[test]
    fn a_nonce_is_32_bytes_and_does_not_print() {
        assert!(SessionNonce::from_slice(&[0x41; 31]).is_none());
        let shown = format!("{:?}", SessionNonce::generate(&mut random::os_rng()));
        assert_eq!(shown, "SessionNonce(Secret(redacted))");
    }
}
