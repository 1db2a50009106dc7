//! Checkpoints (protocol §11; c2sp.org/tlog-checkpoint): what the broker says, and signs, of the
//! tree. Three lines and no more: origin, decimal size, base64 root.

use std::fmt;
use std::str::FromStr;

use super::merkle::{MerkleHash, TreeHead};
use super::note::{Note, NoteError, NoteKey, NoteSignature, SignatureType};
use super::origin::LogOrigin;
use super::text::decimal;
use crate::dsse::{SigningKey, VerifyingKey};
use crate::ids::InvalidId;

/// A checkpoint that does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Not a signed note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Not the three lines of a checkpoint, extension lines among them.
    #[error("a checkpoint is three lines: origin, size and root")]
    Text,
    /// A size of 0 with another root than `H("")`.
    #[error("the empty tree has another root")]
    EmptyRoot,
    /// Of another log than the one whose key is at hand.
    #[error("the checkpoint is of another log")]
    OtherLog,
    /// Without a signature by the log's key.
    #[error("the log's key has not signed the checkpoint")]
    Unsigned,
    /// With a signature that claims to be by the log's key and is not.
    #[error("the signature is not by the log's key")]
    Signature,
}

/// The state of one log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Which log.
    pub origin: LogOrigin,
    /// Size and root of its tree.
    pub head: TreeHead,
}

impl fmt::Display for Checkpoint {
    /// The text that is signed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.head.size, self.head.root)
    }
}

impl FromStr for Checkpoint {
    type Err = CheckpointError;

    /// From the text that is signed.
    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root), Some(""), None) = (
            lines.next(),
            lines.next(),
            lines.next(),
            lines.next(),
            lines.next(),
        ) else {
            return Err(CheckpointError::Text);
        };
        let head = TreeHead {
            size: decimal(size).ok_or(CheckpointError::Text)?,
            root: MerkleHash::from_base64(root).ok_or(CheckpointError::Text)?,
        };
        if head.size == 0 && head != TreeHead::empty() {
            return Err(CheckpointError::EmptyRoot);
        }
        Ok(Self {
            origin: origin.parse().map_err(|_| CheckpointError::Text)?,
            head,
        })
    }
}

/// The key that verifies the checkpoints of one log. As text a verifier key of its origin, as
/// nodes and auditors have it in their own configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogKey {
    origin: LogOrigin,
    note: NoteKey,
}

impl LogKey {
    /// The key of a log; key name = origin (protocol §11).
    #[must_use]
    pub fn new(origin: LogOrigin, key: VerifyingKey) -> Self {
        let note = NoteKey::new(origin.key_name(), SignatureType::Ed25519, key);
        Self { origin, note }
    }

    /// Whose checkpoints it verifies.
    pub const fn origin(&self) -> &LogOrigin {
        &self.origin
    }

    /// The key as a key of notes.
    pub const fn note_key(&self) -> &NoteKey {
        &self.note
    }
}

impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note.fmt(f)
    }
}

impl FromStr for LogKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let note: NoteKey = text.parse()?;
        if note.kind() != SignatureType::Ed25519 {
            return Err(InvalidId {
                kind: "key of a log",
                expected: "a verifier key of type 01",
            });
        }
        let origin = note.name().as_str().parse()?;
        Ok(Self { origin, note })
    }
}

/// The broker's side of a [`LogKey`].
#[derive(Clone, Debug)]
pub struct LogSigner {
    key: LogKey,
    signing: SigningKey,
}

impl LogSigner {
    /// Signs for a log. The key signs nothing but checkpoints; several logs may share it, since
    /// the origin is in what is signed.
    #[must_use]
    pub fn new(origin: LogOrigin, signing: SigningKey) -> Self {
        let key = LogKey::new(origin, signing.verifying_key());
        Self { key, signing }
    }

    /// The key to verify with.
    pub const fn key(&self) -> &LogKey {
        &self.key
    }

    /// Signs the state of the log. A log signs no head that is inconsistent with an earlier one.
    #[expect(clippy::missing_panics_doc, reason = "three lines are a note")]
    pub fn sign(&self, head: TreeHead) -> SignedCheckpoint {
        let checkpoint = Checkpoint {
            origin: self.key.origin.clone(),
            head,
        };
        let text = checkpoint.to_string();
        let signature = NoteSignature {
            name: self.key.note.name().clone(),
            id: self.key.note.id(),
            signature: self.signing.sign_note(text.as_bytes()).to_vec(),
        };
        // Unwrap safety: three lines without control characters, far below the bounds of a note.
        let note = Note::new(text, signature).expect("a checkpoint is a note");
        SignedCheckpoint { checkpoint, note }
    }
}

/// A checkpoint whose signature by the log has been verified, with whatever other signatures came
/// with it: those say nothing before [`quorum`](super::quorum) has looked at them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: Note,
}

impl SignedCheckpoint {
    /// From the bytes of a note.
    ///
    /// # Errors
    /// [`CheckpointError`]: what is wrong first.
    pub fn open(bytes: &[u8], key: &LogKey) -> Result<Self, CheckpointError> {
        Self::verify(Note::parse(bytes)?, key)
    }

    /// From a note.
    ///
    /// # Errors
    /// [`CheckpointError`]: what is wrong first. Every signature that claims to be by the log's
    /// key must be (c2sp.org/signed-note).
    pub fn verify(note: Note, key: &LogKey) -> Result<Self, CheckpointError> {
        let checkpoint: Checkpoint = note.text().parse()?;
        if checkpoint.origin != key.origin {
            return Err(CheckpointError::OtherLog);
        }
        if note.signatures_by(&key.note).next().is_none() {
            return Err(CheckpointError::Unsigned);
        }
        let (text, key) = (note.text().as_bytes(), &key.note);
        let is_good = |by_log: &NoteSignature| key.key().verifies(text, &by_log.signature);
        if !note.signatures_by(key).all(is_good) {
            return Err(CheckpointError::Signature);
        }
        Ok(Self { checkpoint, note })
    }

    /// The state of the log.
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Size and root of the tree.
    pub const fn head(&self) -> &TreeHead {
        &self.checkpoint.head
    }

    /// The note with all its signatures.
    pub const fn note(&self) -> &Note {
        &self.note
    }

    /// Adds a cosignature, in place of an earlier one by the same witness. Whoever adds one has
    /// verified it: a note with a bad one by a known witness is refused as a whole.
    ///
    /// # Errors
    /// [`NoteError::TooLong`].
    pub fn put_cosignature(&mut self, cosignature: NoteSignature) -> Result<(), NoteError> {
        self.note.put(cosignature)
    }
}

impl fmt::Display for SignedCheckpoint {
    /// The note.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn signer(log: &str) -> LogSigner {
        let origin = format!("{log}/sotto/euro-cyber").parse().unwrap();
        LogSigner::new(origin, SigningKey::from_seed(&Secret::new([7; 32])))
    }

    fn head(size: u64) -> TreeHead {
        TreeHead {
            size,
            root: MerkleHash::of_leaf(b"root"),
        }
    }

    #[test]
    fn a_checkpoint_opens_under_the_key_of_its_log_only() {
        let (log, other) = (signer("a.example"), signer("b.example"));
        let signed = log.sign(head(23));
        let bytes = signed.to_string();
        assert_eq!(
            SignedCheckpoint::open(bytes.as_bytes(), log.key()),
            Ok(signed)
        );
        let refused = SignedCheckpoint::open(bytes.as_bytes(), other.key());
        assert_eq!(refused, Err(CheckpointError::OtherLog));
        let another_key = SigningKey::from_seed(&Secret::new([8; 32]));
        let stranger = LogSigner::new(log.key().origin().clone(), another_key);
        let refused = SignedCheckpoint::open(bytes.as_bytes(), stranger.key());
        assert_eq!(refused, Err(CheckpointError::Unsigned));
    }

    #[test]
    fn a_changed_checkpoint_is_refused() {
        let log = signer("a.example");
        let bytes = log
            .sign(head(23))
            .to_string()
            .replacen("\n23\n", "\n24\n", 1);
        let refused = SignedCheckpoint::open(bytes.as_bytes(), log.key());
        assert_eq!(refused, Err(CheckpointError::Signature));
        // A good signature beside a bad one by the same key does not save it.
        let good = log.sign(head(24)).note().signatures()[0].to_string();
        let bytes = format!("{bytes}{good}\n");
        let refused = SignedCheckpoint::open(bytes.as_bytes(), log.key());
        assert_eq!(refused, Err(CheckpointError::Signature));
    }

    #[test]
    fn a_text_has_one_form() {
        let text = signer("a.example").sign(head(23)).checkpoint().to_string();
        let root = head(23).root.to_string();
        assert!(text.parse::<Checkpoint>().is_ok());
        for bad in [
            text.replacen("23", "023", 1),
            text.replacen("23", "+23", 1),
            text.replacen("23", "9223372036854775808", 1),
            text.replacen("a.example/sotto/", "a.example/", 1),
            text.replacen(&root, &root[1..], 1),
            text.replacen('=', "", 1),
            text.replacen('\n', "\r\n", 1),
            format!("{text}extension\n"),
            format!("{text}\n"),
            text.trim_end().to_owned(),
            String::new(),
        ] {
            assert_eq!(
                bad.parse::<Checkpoint>(),
                Err(CheckpointError::Text),
                "{bad:?}"
            );
        }
        let empty = text.replacen("23", "0", 1);
        assert_eq!(empty.parse::<Checkpoint>(), Err(CheckpointError::EmptyRoot));
    }

    #[test]
    fn keys_of_logs_are_verifier_keys_of_type_01() {
        let key = signer("a.example").key().clone();
        assert_eq!(key.to_string().parse(), Ok(key.clone()));
        let cosigning = NoteKey::new(
            key.note_key().name().clone(),
            SignatureType::CosignatureV1,
            *key.note_key().key(),
        );
        assert!(cosigning.to_string().parse::<LogKey>().is_err());
        let name = "elsewhere.example".parse().unwrap();
        let elsewhere = NoteKey::new(name, SignatureType::Ed25519, *key.note_key().key());
        assert!(elsewhere.to_string().parse::<LogKey>().is_err());
    }
}
