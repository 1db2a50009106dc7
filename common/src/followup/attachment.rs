//! Files that go with an answer: one HPKE context each, sealed in segments of 64 KiB (protocol
//! §10), so that neither side ever has one whole in memory.
//!
//! The number of segments follows from the size in the clear part, and the last one says that it is
//! the last: a file that was cut, grown or reordered does not open.

use rand::CryptoRng;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::SealedPart;
use crate::error::{Error, Result};
use crate::ids::{AttachmentId, FollowUpId, NodeId};
use crate::label::length_prefix;
use crate::sealed::{
    HpkeKeyPair, HpkePublicKey, OpeningContext, SealError, SealInfo, SealingContext, Suite,
};

/// Plaintext bytes in every segment but the last.
pub const SEGMENT: usize = 65_536;

/// What sealing adds to each segment.
pub const OVERHEAD: usize = 16;

/// Largest file.
pub const MAX_SIZE: u64 = 1024 * 1024 * 1024;

/// Most characters in a name.
pub const MAX_NAME: usize = 255;

/// The clear part of an attachment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachmentClear {
    /// The follow-up that it goes with.
    pub follow_up: FollowUpId,
    /// Its id.
    pub id: AttachmentId,
    /// The name that the broker sees, which says nothing of the case: PROTOCOL-NOTES §10.
    pub name: Box<str>,
    /// Plaintext bytes.
    pub size: u64,
}

impl AttachmentClear {
    /// Checks the clear part of an attachment.
    ///
    /// # Errors
    /// `INVALID_FIELD`: a name that is empty, too long, or could name a place on a disk; a size
    /// above 1 GiB.
    pub fn new(follow_up: FollowUpId, id: AttachmentId, name: &str, size: u64) -> Result<Self> {
        let fits = (1..=MAX_NAME).contains(&name.chars().count())
            && !name.chars().any(|c| c.is_control() || "/\\".contains(c))
            && name != "."
            && name != "..";
        if !fits {
            let text = "1 to 255 characters, no control characters, no / and no \\";
            return Err(Error::field("name", text));
        }
        if size > MAX_SIZE {
            return Err(Error::field("size", "at most 1 GiB"));
        }
        Ok(Self {
            follow_up,
            id,
            name: name.into(),
            size,
        })
    }

    /// Bytes of all sealed segments.
    pub const fn sealed_size(&self) -> u64 {
        self.size + segments(self.size) * OVERHEAD as u64
    }
}

/// Segments of a file of this size: an empty one has one, of no bytes.
pub const fn segments(size: u64) -> u64 {
    let whole = size.div_ceil(SEGMENT as u64);
    if whole == 0 { 1 } else { whole }
}

/// `aad = H(clear) ‖ u64(number) ‖ u8(last)` (protocol §10).
fn aad(clear_digest: &[u8; 32], number: u64, last: bool) -> [u8; 41] {
    let mut aad = [0; 41];
    aad[..32].copy_from_slice(clear_digest);
    aad[32..40].copy_from_slice(&number.to_be_bytes());
    aad[40] = u8::from(last);
    aad
}

/// Which segment is due, and how long it is.
#[derive(Clone, Debug)]
struct Place {
    clear_digest: [u8; 32],
    size: u64,
    number: u64,
}

impl Place {
    const fn is_complete(&self) -> bool {
        self.number == segments(self.size)
    }

    const fn is_last(&self) -> bool {
        self.number + 1 == segments(self.size)
    }

    /// Plaintext bytes of the segment that is due.
    fn due(&self) -> u64 {
        (self.size - self.number * SEGMENT as u64).min(SEGMENT as u64)
    }

    /// The `aad` of the next segment, if it has the length that is due.
    fn next(&mut self, plaintext: usize) -> Result<[u8; 41], SealError> {
        if self.is_complete() || self.due() != plaintext as u64 {
            return Err(SealError::CannotOpen);
        }
        let aad = aad(&self.clear_digest, self.number, self.is_last());
        self.number += 1;
        Ok(aad)
    }
}

/// Seals a file segment by segment.
#[derive(Debug)]
pub struct SegmentSealer {
    context: SealingContext,
    place: Place,
}

impl SegmentSealer {
    /// Begins; returns the encapsulated key too. `clear_digest` is `H` of the serialised clear part.
    ///
    /// # Errors
    /// [`SealError::InvalidKey`].
    pub fn begin(
        key: &HpkePublicKey,
        clear: &AttachmentClear,
        clear_digest: [u8; 32],
        (sender, recipient): (&NodeId, &NodeId),
        rng: &mut impl CryptoRng,
    ) -> Result<(Vec<u8>, Self), SealError> {
        let info = SealInfo::follow_up(SealedPart::Attachment, clear.follow_up, sender, recipient);
        let (enc, context) = key.begin(&info, rng)?;
        let place = Place {
            clear_digest,
            size: clear.size,
            number: 0,
        };
        Ok((enc, Self { context, place }))
    }

    /// Seals the next segment: 65,536 bytes, the last one what is left.
    ///
    /// # Errors
    /// [`SealError::CannotOpen`] for another length than is due.
    pub fn seal(&mut self, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let aad = self.place.next(plaintext.len())?;
        self.context.seal(plaintext, &aad)
    }

    /// Whether all segments are sealed.
    pub const fn is_complete(&self) -> bool {
        self.place.is_complete()
    }
}

/// Opens a file segment by segment.
#[derive(Debug)]
pub struct SegmentOpener {
    context: OpeningContext,
    place: Place,
}

impl SegmentOpener {
    /// Begins. `clear_digest` is `H` of the clear part as it came.
    ///
    /// # Errors
    /// [`SealError::InvalidKey`].
    pub fn begin(
        pair: &HpkeKeyPair,
        (suite, enc): (Suite, &[u8]),
        clear: &AttachmentClear,
        clear_digest: [u8; 32],
        (sender, recipient): (&NodeId, &NodeId),
    ) -> Result<Self, SealError> {
        let info = SealInfo::follow_up(SealedPart::Attachment, clear.follow_up, sender, recipient);
        let place = Place {
            clear_digest,
            size: clear.size,
            number: 0,
        };
        let context = pair.begin(suite, enc, &info)?;
        Ok(Self { context, place })
    }

    /// Sealed bytes of the segment that is due; `None` once all are open.
    pub fn due(&self) -> Option<usize> {
        let due = (!self.place.is_complete()).then(|| self.place.due())?;
        usize::try_from(due).ok()?.checked_add(OVERHEAD)
    }

    /// Opens the next segment.
    ///
    /// # Errors
    /// [`SealError::CannotOpen`] for anything but the segment that is due, as it was sealed.
    pub fn open(&mut self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let plaintext = sealed.len().checked_sub(OVERHEAD);
        let aad = self.place.next(plaintext.ok_or(SealError::CannotOpen)?)?;
        self.context.open(sealed, &aad)
    }

    /// Whether all segments are open: before that, the file is not whole.
    pub const fn is_complete(&self) -> bool {
        self.place.is_complete()
    }
}

/// The digest that an answer names for an attachment:
/// `H(H(clear) ‖ u16(kem) ‖ u16(kdf) ‖ u16(aead) ‖ LP(enc) ‖ all sealed segments)`.
#[derive(Clone, Debug)]
pub struct AttachmentHasher(Sha256);

impl AttachmentHasher {
    /// Begins with what goes before the segments.
    ///
    /// # Panics
    /// For an encapsulated key above 65,535 bytes; the suites' are far shorter.
    #[must_use]
    pub fn new(clear_digest: &[u8; 32], suite: Suite, enc: &[u8]) -> Self {
        let (kem, kdf, aead) = suite.ids();
        // Unwrap safety: see `# Panics`.
        let prefix = length_prefix(enc.len()).expect("an encapsulated key of at most 65,535 bytes");
        let hasher = Sha256::new_with_prefix(clear_digest)
            .chain_update(kem.to_be_bytes())
            .chain_update(kdf.to_be_bytes())
            .chain_update(aead.to_be_bytes())
            .chain_update(prefix)
            .chain_update(enc);
        Self(hasher)
    }

    /// Takes sealed bytes, in order.
    pub fn update(&mut self, sealed: &[u8]) {
        self.0.update(sealed);
    }

    /// The digest.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::os_rng;
    use crate::time::Timestamp;

    struct Sealed {
        pair: HpkeKeyPair,
        clear: AttachmentClear,
        enc: Vec<u8>,
        segments: Vec<Vec<u8>>,
        nodes: (NodeId, NodeId),
    }

    const DIGEST: [u8; 32] = [7; 32];

    fn sealed(size: usize) -> Sealed {
        let mut rng = os_rng();
        let now = Timestamp::from_seconds(1);
        let pair = HpkeKeyPair::generate(&mut rng);
        let (follow_up, id) = (
            FollowUpId::generate(now, &mut rng),
            AttachmentId::generate(now, &mut rng),
        );
        let clear = AttachmentClear::new(follow_up, id, "attachment-1", size as u64).unwrap();
        let nodes: (NodeId, NodeId) = ("de-bka".parse().unwrap(), "nl-fiu".parse().unwrap());
        let roles = (&nodes.0, &nodes.1);
        let (enc, mut sealer) =
            SegmentSealer::begin(pair.public(), &clear, DIGEST, roles, &mut rng).unwrap();
        let file = vec![0x41; size];
        let mut segments: Vec<_> = file
            .chunks(SEGMENT)
            .map(|segment| sealer.seal(segment).unwrap())
            .collect();
        if size == 0 {
            segments.push(sealer.seal(&[]).unwrap());
        }
        assert!(sealer.is_complete() && sealer.seal(&[]).is_err());
        let bytes: usize = segments.iter().map(Vec::len).sum();
        assert_eq!(bytes as u64, clear.sealed_size());
        Sealed {
            pair,
            clear,
            enc,
            segments,
            nodes,
        }
    }

    fn opener(sealed: &Sealed, digest: [u8; 32]) -> SegmentOpener {
        let suite = (Suite::X25519Sha256ChaCha20Poly1305, &sealed.enc[..]);
        let roles = (&sealed.nodes.0, &sealed.nodes.1);
        SegmentOpener::begin(&sealed.pair, suite, &sealed.clear, digest, roles).unwrap()
    }

    #[test]
    fn files_of_every_length_around_a_segment_come_back() {
        for size in [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT] {
            let file = sealed(size);
            let mut opener = opener(&file, DIGEST);
            let mut whole = 0;
            for segment in &file.segments {
                assert_eq!(opener.due(), Some(segment.len()));
                whole += opener.open(segment).unwrap().len();
            }
            assert!(opener.is_complete() && opener.due().is_none());
            assert_eq!(whole, size);
        }
    }

    #[test]
    fn a_file_that_was_cut_reordered_or_belongs_elsewhere_does_not_open() {
        let file = sealed(2 * SEGMENT + 5);
        // The last segment in place of an earlier one, and one left out.
        assert!(opener(&file, DIGEST).open(&file.segments[2]).is_err());
        assert!(opener(&file, DIGEST).open(&file.segments[1]).is_err());
        // Cut within a segment, and at its end: never complete.
        assert!(
            opener(&file, DIGEST)
                .open(&file.segments[0][..100])
                .is_err()
        );
        let mut cut = opener(&file, DIGEST);
        cut.open(&file.segments[0]).unwrap();
        assert!(!cut.is_complete());
        // Another clear part, and another size in it.
        assert!(opener(&file, [8; 32]).open(&file.segments[0]).is_err());
        let mut shorter = sealed(2 * SEGMENT);
        shorter.enc.clone_from(&file.enc);
        shorter.pair = file.pair.clone();
        let mut opener = opener(&shorter, DIGEST);
        assert!(opener.open(&file.segments[0]).is_err());
    }

    #[test]
    fn names_are_no_paths_and_sizes_have_a_bound() {
        let file = sealed(1).clear;
        for bad in ["", ".", "..", "a/b", "a\\b", "a\nb", &"x".repeat(256)] {
            assert!(
                AttachmentClear::new(file.follow_up, file.id, bad, 1).is_err(),
                "{bad}"
            );
        }
        assert!(AttachmentClear::new(file.follow_up, file.id, "a", MAX_SIZE + 1).is_err());
        assert!(AttachmentClear::new(file.follow_up, file.id, "a", MAX_SIZE).is_ok());
    }

    #[test]
    fn the_digest_takes_in_everything() {
        let suite = Suite::X25519Sha256ChaCha20Poly1305;
        let digest = |clear: [u8; 32], enc: &[u8], sealed: &[u8]| {
            let mut hasher = AttachmentHasher::new(&clear, suite, enc);
            hasher.update(sealed);
            hasher.finish()
        };
        let one = digest([1; 32], b"ab", b"c");
        assert_eq!(one, digest([1; 32], b"ab", b"c"));
        assert_ne!(one, digest([2; 32], b"ab", b"c"));
        assert_ne!(one, digest([1; 32], b"a", b"bc"));
    }
}
