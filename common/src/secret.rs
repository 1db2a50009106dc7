//! Types for what must not be printed, logged or serialised by accident (style rule 8).
//!
//! None of them implements `Display` or `Serialize`; `Debug` is redacted; reading the content
//! needs a call whose name says so.

use std::fmt;

use subtle::ConstantTimeEq;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret of `N` bytes: redacted, wiped when dropped, compared in constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> Secret<N> {
    /// Takes the bytes of a secret.
    #[must_use]
    pub const fn new(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// Takes the bytes of a secret from a slice of exactly `N` bytes, else `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes, for a computation or for a file of mode 0600.
    pub const fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

/// A selector in clear, as a person wrote it or in its canonical form: redacted and wiped.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Zeroize, ZeroizeOnDrop)]
pub struct Selector(String);

impl Selector {
    /// Takes a selector in clear.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The selector in clear: for tagging, for the unit's own store, for its own analysts.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Selector(redacted)")
    }
}

/// A text about people or cases, as a follow-up carries it: redacted and wiped.
#[derive(Clone, PartialEq, Eq, Default, Zeroize, ZeroizeOnDrop)]
pub struct Confidential(String);

impl Confidential {
    /// Takes a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text in clear: to be sealed, or for the unit's own people.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it says nothing.
    pub fn is_blank(&self) -> bool {
        self.0.trim().is_empty()
    }
}

impl fmt::Debug for Confidential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Confidential(redacted)")
    }
}

/// The pseudonym of one canonical value under one epoch key (protocol §4): redacted.
///
/// Without the key it cannot be traced back, but for types that can be enumerated a holder of
/// the key can: it is handled like the selector itself.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Zeroize,
    FromBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct Tag([u8; Tag::LEN]);

impl Tag {
    /// Length of a tag in bytes.
    pub const LEN: usize = 16;

    /// Takes the bytes of a tag.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Takes a tag from a slice of exactly 16 bytes, else `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Reads tags that stand one after the other where they stand, without a copy; `None` if the
    /// last one is cut.
    pub fn packed(bytes: &[u8]) -> Option<&[Self]> {
        <[Self]>::ref_from_bytes(bytes).ok()
    }

    /// The bytes, for a filter, for the probe's wire, or for the manifest's canaries.
    pub const fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tag(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_selectors_and_tags_do_not_print() {
        let shown = format!(
            "{:?} {:?} {:?} {:?}",
            Secret::new([0x41; 4]),
            Selector::new("AAAA"),
            Confidential::new("AAAA"),
            Tag::new([0x41; 16])
        );
        assert!(!shown.contains("41") && !shown.contains("65") && !shown.contains("AAAA"));
    }

    #[test]
    fn packed_tags_are_read_where_they_stand() {
        let bytes: Vec<u8> = (0..64).collect();
        // From an odd place: tags need no alignment.
        let tags = Tag::packed(&bytes[1..49]).expect("three tags");
        let firsts: Vec<_> = tags.iter().map(|tag| tag.expose()[0]).collect();
        assert_eq!(firsts, [1, 17, 33]);
        assert_eq!(tags[0].expose().as_ptr(), bytes[1..].as_ptr());
        assert!(Tag::packed(&[]).is_some_and(<[Tag]>::is_empty));
        assert!(Tag::packed(&bytes[..15]).is_none() && Tag::packed(&bytes[..33]).is_none());
    }

    #[test]
    fn secrets_compare_by_content() {
        assert_eq!(Secret::new([1, 2]), Secret::new([1, 2]));
        assert_ne!(Secret::new([1, 2]), Secret::new([1, 3]));
        assert_eq!(Secret::<2>::from_slice(&[1]), None);
    }
}
