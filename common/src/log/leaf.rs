//! A leaf and its opening (protocol §11): the leaf is public for ever, what it says can be erased.
//!
//! A leaf has the kind, the hour and a digest. The opening, a nonce and the entry, is kept beside
//! the tree; without the nonce nobody can tell from the digest what the entry said.

use std::fmt;

use rand::CryptoRng;
use sha2::Digest;

use super::kind::EntryKind;
use super::merkle::MerkleHash;
use crate::label::{Context, Label};
use crate::random;
use crate::secret::Secret;
use crate::time::Timestamp;

const SECONDS_PER_HOUR: i64 = 3600;

/// Bytes that are no leaf of protocol §11.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LeafError {
    /// Not of the form of a leaf of this version.
    #[error("not a leaf of this version")]
    Malformed,
    /// A kind that this version does not know: kinds are added, and never guessed (protocol §13).
    #[error("a leaf of a kind that is unknown here: a newer version may be needed")]
    UnknownKind,
}

/// What hides an entry behind its leaf: random, and erased with the entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpeningNonce(Secret<32>);

impl OpeningNonce {
    /// A new nonce.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(Secret::new(random::bytes(rng)))
    }

    /// Takes a nonce from a slice of exactly 32 bytes, else `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Secret::from_slice(bytes).map(Self)
    }

    /// The nonce, to be kept beside the tree, or for an auditor.
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }
}

/// What a leaf hides: to be kept until its retention time is over.
#[derive(Clone, PartialEq, Eq)]
pub struct Opening {
    nonce: OpeningNonce,
    entry: Vec<u8>,
}

impl Opening {
    /// The opening of a serialised entry. No entry holds a selector, a tag, a salt or a filter's
    /// bits; how long it may be is for its form to say.
    #[must_use]
    pub const fn new(nonce: OpeningNonce, entry: Vec<u8>) -> Self {
        Self { nonce, entry }
    }

    /// The nonce.
    pub const fn nonce(&self) -> &OpeningNonce {
        &self.nonce
    }

    /// The serialised entry.
    pub fn entry(&self) -> &[u8] {
        &self.entry
    }

    /// `H("sotto/v1 opening" ‖ nonce ‖ entry)`.
    pub fn digest(&self) -> [u8; 32] {
        let context = Context::new(Label::Opening).raw(self.nonce.0.expose());
        context.hasher().chain_update(&self.entry).finalize().into()
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opening({} bytes, redacted)", self.entry.len())
    }
}

/// A leaf of the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Leaf {
    kind: EntryKind,
    hour: u64,
    opening: [u8; 32],
}

impl Leaf {
    /// The leaf of what happened at `at`; a time before 1970 counts as the hour 0.
    #[must_use]
    pub fn new(kind: EntryKind, at: Timestamp, opening: &Opening) -> Self {
        let hour = at.seconds().div_euclid(SECONDS_PER_HOUR);
        Self {
            kind,
            hour: u64::try_from(hour).unwrap_or(0),
            opening: opening.digest(),
        }
    }

    /// From the bytes of a leaf.
    ///
    /// # Errors
    /// [`LeafError`] for anything but the bytes that [`Leaf::to_bytes`] writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let (name, hour, opening) = fields(bytes).ok_or(LeafError::Malformed)?;
        Ok(Self {
            kind: EntryKind::from_leaf(name).ok_or(LeafError::UnknownKind)?,
            hour,
            opening,
        })
    }

    /// The hour that the bytes of a leaf show, of a kind that is not known here too; `None` for bytes that
    /// are no leaf.
    pub fn hour_of(bytes: &[u8]) -> Option<u64> {
        fields(bytes).map(|(_, hour, _)| hour)
    }

    /// The bytes: `"sotto/v1 leaf" ‖ LP(kind) ‖ u64(hour) ‖ digest of the opening`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let leaf = Context::new(Label::Leaf).text(self.kind.as_str());
        let leaf = leaf.raw(&self.hour.to_be_bytes()).raw(&self.opening);
        leaf.as_bytes().to_vec()
    }

    /// Its hash in the tree.
    pub fn hash(&self) -> MerkleHash {
        MerkleHash::of_leaf(&self.to_bytes())
    }

    /// What the entry is about.
    pub const fn kind(&self) -> EntryKind {
        self.kind
    }

    /// Whole hours since the Unix epoch.
    pub const fn hour(&self) -> u64 {
        self.hour
    }

    /// Whether this is what the leaf hides.
    pub fn is_opened_by(&self, opening: &Opening) -> bool {
        self.opening == opening.digest()
    }
}

/// Name of the kind, hour, digest of the opening.
fn fields(bytes: &[u8]) -> Option<(&[u8], u64, [u8; 32])> {
    let rest = bytes.strip_prefix(Label::Leaf.as_str().as_bytes())?;
    let (length, rest) = rest.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let (hour, opening) = rest.split_first_chunk()?;
    Some((name, u64::from_be_bytes(*hour), opening.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(entry: &[u8]) -> Opening {
        Opening::new(OpeningNonce::from_slice(&[7; 32]).unwrap(), entry.to_vec())
    }

    fn leaf() -> Leaf {
        Leaf::new(
            EntryKind::Hit,
            Timestamp::from_seconds(7199),
            &opening(b"entry"),
        )
    }

    #[test]
    fn every_kind_comes_back_and_nothing_else_does() {
        for &kind in EntryKind::ALL {
            let leaf = Leaf { kind, ..leaf() };
            assert_eq!(Leaf::parse(&leaf.to_bytes()), Ok(leaf));
        }
        let bytes = leaf().to_bytes();
        for cut in 0..bytes.len() {
            assert_eq!(
                Leaf::parse(&bytes[..cut]),
                Err(LeafError::Malformed),
                "{cut}"
            );
        }
        assert_eq!(
            Leaf::parse(&[&bytes[..], &[0]].concat()),
            Err(LeafError::Malformed)
        );
    }

    #[test]
    fn an_unknown_kind_is_told_from_a_malformed_leaf() {
        let mut bytes = leaf().to_bytes();
        let kind = bytes
            .windows(3)
            .position(|window| window == b"HIT")
            .unwrap();
        bytes[kind] = b'h';
        assert_eq!(Leaf::parse(&bytes), Err(LeafError::UnknownKind));
        assert_eq!(Leaf::hour_of(&bytes), Some(leaf().hour()));
        bytes[0] = b'S';
        assert_eq!(Leaf::parse(&bytes), Err(LeafError::Malformed));
        assert_eq!(Leaf::hour_of(&bytes), None);
    }

    #[test]
    fn hours_are_rounded_down() {
        assert_eq!(leaf().hour(), 1);
        let at = |seconds| {
            Leaf::new(
                EntryKind::Read,
                Timestamp::from_seconds(seconds),
                &opening(b""),
            )
        };
        assert_eq!(at(7200).hour(), 2);
        assert_eq!(at(-1).hour(), 0);
    }

    #[test]
    fn a_leaf_is_opened_by_its_own_opening_only() {
        assert!(leaf().is_opened_by(&opening(b"entry")));
        assert!(!leaf().is_opened_by(&opening(b"Entry")));
        let other = OpeningNonce::generate(&mut random::os_rng());
        assert!(!leaf().is_opened_by(&Opening::new(other, b"entry".to_vec())));
    }

    #[test]
    fn an_opening_does_not_print() {
        let shown = format!("{:?}", opening(b"AAAA"));
        assert_eq!(shown, "Opening(4 bytes, redacted)");
        assert!(OpeningNonce::from_slice(&[0; 31]).is_none());
    }
}
