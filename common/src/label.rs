//! Context strings (style rule 9): version and label first, then the fields, each with its width.
//!
//! No other file writes the letters `sotto/v1`. `LP(x) = u16(len(x)) ‖ x`, integers big-endian
//! (protocol, Notation).

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What a context string is for: the quoted texts of protocol.md.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Label {
    /// Salt of the extraction that begins an epoch's key schedule (protocol §3).
    Epoch,
    /// The public commitment to an epoch's key (protocol §3).
    KeyCommit,
    /// The short id of an epoch's key (protocol §3).
    Kid,
    /// The key of one policy (protocol §3).
    TagKey,
    /// A tag (protocol §4).
    Tag,
    /// The commitment to a session nonce that the broker keeps (protocol §7).
    Session,
    /// Sealing the epoch's secret to one member (protocol §8).
    EpochKey,
    /// Sealing one step of a follow-up (protocol §10).
    FollowUp,
    /// The proof of presence in a follow-up (protocol §10).
    Held,
    /// A leaf of the audit log (protocol §11).
    Leaf,
    /// The opening of a leaf (protocol §11).
    Opening,
    /// The tags of one batch, as logged (protocol §11).
    BatchTags,
    /// The answer to one batch, as logged (protocol §11).
    BatchAnswer,
    /// The name of a set of layers in the catalogue (protocol §5.4, `CatalogueEntry`).
    Layers,
    /// Where a sealed value stands in a service's own database; never on the wire.
    AtRest,
    /// The keyed hash of a canonical value in a node's own store; never on the wire.
    CanonicalIndex,
    /// The keyed hash of a record id in a node's own store; never on the wire.
    RecordIndex,
    /// The digest of an entry of a node's access log; never on the wire.
    AccessLog,
    /// The name in a test selector that an auditor has planted; never on the wire.
    Planted,
}

impl Label {
    /// The text, with its version.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Epoch => "sotto/v1 epoch",
            Self::KeyCommit => "sotto/v1 key-commit",
            Self::Kid => "sotto/v1 kid",
            Self::TagKey => "sotto/v1 tag-key",
            Self::Tag => "sotto/v1 tag",
            Self::Session => "sotto/v1 session",
            Self::EpochKey => "sotto/v1 epoch-key",
            Self::FollowUp => "sotto/v1 follow-up",
            Self::Held => "sotto/v1 held",
            Self::Leaf => "sotto/v1 leaf",
            Self::Opening => "sotto/v1 opening",
            Self::BatchTags => "sotto/v1 batch-tags",
            Self::BatchAnswer => "sotto/v1 batch-answer",
            Self::Layers => "sotto/v1 layers",
            Self::AtRest => "sotto/v1 at rest",
            Self::CanonicalIndex => "sotto/v1 canonical index",
            Self::RecordIndex => "sotto/v1 record index",
            Self::AccessLog => "sotto/v1 access log",
            Self::Planted => "sotto/v1 planted",
        }
    }
}

/// The `u16` length that stands before a field of `len` bytes, or `None` above 65,535.
pub(crate) fn length_prefix(len: usize) -> Option<[u8; 2]> {
    u16::try_from(len).ok().map(u16::to_be_bytes)
}

/// A context string being written. It may hold secrets, so its bytes are wiped when it is dropped.
#[derive(Clone)]
pub struct Context(Zeroizing<Vec<u8>>);

impl Context {
    /// Room for every context string of bounded length, a canonical value of 1024 bytes among its
    /// fields: growing would leave unwiped copies.
    const ROOM: usize = 1536;

    /// Begins with a label.
    #[must_use]
    pub fn new(label: Label) -> Self {
        Self::unlabelled().raw(label.as_str().as_bytes())
    }

    /// Begins empty, for a key that serves one purpose only (record refs, protocol §2).
    #[must_use]
    pub fn unlabelled() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(Self::ROOM)))
    }

    /// Appends `LP(text)`.
    ///
    /// # Panics
    /// For a text above 65,535 bytes. Ids, policies, steps and canonical values are far shorter;
    /// a caller with unbounded text checks its length first.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Appends `LP(bytes)`.
    ///
    /// # Panics
    /// As [`Context::text`].
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        // Unwrap safety: see `# Panics`; a cut or wrapped length would be another text's bytes.
        let prefix = length_prefix(bytes.len()).expect("a context field of at most 65,535 bytes");
        self.0.extend_from_slice(&prefix);
        self.raw(bytes)
    }

    /// Appends `u32(number)`.
    #[must_use]
    pub fn number(self, number: u32) -> Self {
        self.raw(&number.to_be_bytes())
    }

    /// Appends bytes as they are: fields of fixed width, or the last field.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The bytes written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `H` of the bytes written so far, ready to take more.
    #[must_use]
    pub fn hasher(&self) -> Sha256 {
        Sha256::new_with_prefix(self.as_bytes())
    }

    /// `H` of the bytes written so far.
    pub fn digest(&self) -> [u8; 32] {
        self.hasher().finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_carry_their_length_before_them() {
        let context = Context::new(Label::Tag).text("ab").number(7).raw(&[9]);
        assert_eq!(
            context.as_bytes(),
            b"sotto/v1 tag\x00\x02ab\x00\x00\x00\x07\x09"
        );
    }

    #[test]
    fn two_splits_of_one_text_differ() {
        let one = Context::unlabelled().text("ab").text("c");
        let other = Context::unlabelled().text("a").text("bc");
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn lengths_beyond_a_u16_have_no_prefix() {
        assert_eq!(length_prefix(65_535), Some([0xff, 0xff]));
        assert_eq!(length_prefix(65_536), None);
    }
}
