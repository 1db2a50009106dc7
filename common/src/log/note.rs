//! Signed notes (c2sp.org/signed-note): a text, an empty line, and lines of signatures.
//!
//! Nothing in a [`Note`] is verified. Signatures by keys that are not known are carried along and
//! ignored, so that keys can change and witnesses be added.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::text::{base64, from_base64};
use crate::dsse::VerifyingKey;
use crate::ids::InvalidId;

/// Most bytes of a note: a checkpoint with the cosignatures of 1000 members has fewer.
pub const MAX_NOTE: usize = 1 << 19;

/// Most signatures of a note: the log's, and those of the 1000 members that an epoch may have.
pub const MAX_SIGNATURES: usize = 1024;

/// Most bytes of a key's name.
pub const MAX_KEY_NAME: usize = 512;

const SIGNATURE_MARK: &str = "\u{2014} ";

/// Bytes that are no signed note, or a part of one that is not of its form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoteError {
    /// Above [`MAX_NOTE`] bytes or [`MAX_SIGNATURES`] signatures.
    #[error("a note has at most {MAX_NOTE} bytes and {MAX_SIGNATURES} signatures")]
    TooLong,
    /// A text that is not UTF-8, has control characters, or does not end its last line.
    #[error("a note is whole lines of UTF-8 without control characters")]
    Text,
    /// No empty line, or no signature after it.
    #[error("a note ends in an empty line and at least one signature")]
    Unsigned,
    /// A signature that is not of its form.
    #[error("signature line {line} of the note is not of its form")]
    Signature {
        /// Which one, from 1.
        line: usize,
    },
}

/// The name of a key: not empty, without Unicode spaces, plus signs and control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyName(Box<str>);

impl KeyName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        let valid = (1..=MAX_KEY_NAME).contains(&text.len()) && !text.contains(is_bad);
        valid.then(|| Self(text.into())).ok_or(InvalidId {
            kind: "key name",
            expected: "1 to 512 bytes without spaces, '+' and control characters",
        })
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a signature says beside the text: the byte that stands for it in key ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum SignatureType {
    /// Ed25519 over the text (c2sp.org/signed-note).
    Ed25519 = 0x01,
    /// Ed25519 over the text and a time (c2sp.org/tlog-cosignature, v1).
    CosignatureV1 = 0x04,
}

impl SignatureType {
    /// The byte.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Ed25519, Self::CosignatureV1]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }
}

/// The short id of a key: with the name it tells which key a signature is by, and no more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyId([u8; KeyId::LEN]);

impl KeyId {
    /// Length of a key id in bytes.
    pub const LEN: usize = 4;

    /// The 4 bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// First 4 bytes of `H(name ‖ 0A ‖ type ‖ key)`.
    fn of(name: &KeyName, kind: SignatureType, key: &VerifyingKey) -> Self {
        let whole = Sha256::new_with_prefix(name.as_str())
            .chain_update([b'\n', kind.byte()])
            .chain_update(key.as_bytes())
            .finalize();
        let mut id = [0; Self::LEN];
        id.copy_from_slice(&whole[..Self::LEN]);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A key that verifies signatures of one type under one name. As text a verifier key ("vkey"):
/// `<name>+<key id in hex>+<base64 of type and key>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoteKey {
    name: KeyName,
    kind: SignatureType,
    key: VerifyingKey,
    id: KeyId,
}

impl NoteKey {
    /// A key under a name.
    #[must_use]
    pub fn new(name: KeyName, kind: SignatureType, key: VerifyingKey) -> Self {
        let id = KeyId::of(&name, kind, &key);
        Self {
            name,
            kind,
            key,
            id,
        }
    }

    /// The name.
    pub const fn name(&self) -> &KeyName {
        &self.name
    }

    /// The type of its signatures.
    pub const fn kind(&self) -> SignatureType {
        self.kind
    }

    /// The key itself.
    pub const fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The id.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Whether a signature claims to be by this key.
    pub fn is_named_by(&self, signature: &NoteSignature) -> bool {
        self.id == signature.id && self.name == signature.name
    }
}

impl fmt::Display for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.kind.byte()], &self.key.as_bytes()[..]].concat();
        write!(f, "{}+{}+{}", self.name, self.id, base64(&key))
    }
}

impl FromStr for NoteKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId {
            kind: "verifier key",
            expected: "<name>+<key id in hex>+<base64 of type 01 or 04 and an Ed25519 key>",
        };
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(invalid);
        };
        let bytes = from_base64(key).ok_or(invalid)?;
        let (kind, key) = bytes.split_first().ok_or(invalid)?;
        let kind = SignatureType::from_byte(*kind).ok_or(invalid)?;
        let key = Self::new(name.parse()?, kind, VerifyingKey::from_slice(key)?);
        if key.id.to_string() == id {
            Ok(key)
        } else {
            Err(invalid)
        }
    }
}

/// One signature of a note, by whatever key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NoteSignature {
    /// Name of the key.
    pub name: KeyName,
    /// Id of the key.
    pub id: KeyId,
    /// What follows the id: for some types more than the signature alone.
    pub signature: Vec<u8>,
}

impl NoteSignature {
    /// Length of its line with the line's end: what base64 makes of every three bytes begun.
    fn line_len(&self) -> usize {
        let bytes = KeyId::LEN + self.signature.len();
        SIGNATURE_MARK.len() + self.name.0.len() + " \n".len() + bytes.div_ceil(3) * 4
    }
}

impl fmt::Display for NoteSignature {
    /// Its line, without the line's end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id.0[..], &self.signature].concat();
        write!(f, "{SIGNATURE_MARK}{} {}", self.name, base64(&bytes))
    }
}

impl FromStr for NoteSignature {
    type Err = InvalidId;

    /// From its line, without the line's end.
    fn from_str(line: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId {
            kind: "signature line",
            expected: "an em dash, a key name, and base64 of key id and signature",
        };
        let named = line.strip_prefix(SIGNATURE_MARK).ok_or(invalid)?;
        let (name, bytes) = named.split_once(' ').ok_or(invalid)?;
        let bytes = from_base64(bytes).ok_or(invalid)?;
        let (id, signature) = bytes.split_first_chunk().ok_or(invalid)?;
        if signature.is_empty() {
            return Err(invalid);
        }
        Ok(Self {
            name: name.parse()?,
            id: KeyId(*id),
            signature: signature.to_vec(),
        })
    }
}

/// A text with signatures, none of them verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl Note {
    /// A text with its first signature.
    ///
    /// # Errors
    /// [`NoteError`] for a text that a note cannot have.
    pub fn new(text: String, signature: NoteSignature) -> Result<Self, NoteError> {
        if !is_text(&text) {
            return Err(NoteError::Text);
        }
        let mut note = Self {
            text,
            signatures: Vec::new(),
        };
        note.put(signature)?;
        Ok(note)
    }

    /// From the bytes of a note.
    ///
    /// # Errors
    /// [`NoteError`], the first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE {
            return Err(NoteError::TooLong);
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| NoteError::Text)?;
        if !is_text(whole) {
            return Err(NoteError::Text);
        }
        // The last empty line is the one between text and signatures.
        let end = whole.rfind("\n\n").ok_or(NoteError::Unsigned)? + 1;
        let (text, lines) = (&whole[..end], &whole[end + 1..]);
        if lines.is_empty() {
            return Err(NoteError::Unsigned);
        }
        let mut signatures = Vec::new();
        for (line, text) in (1..).zip(lines.lines()) {
            if line > MAX_SIGNATURES {
                return Err(NoteError::TooLong);
            }
            signatures.push(text.parse().map_err(|_| NoteError::Signature { line })?);
        }
        Ok(Self {
            text: text.to_owned(),
            signatures,
        })
    }

    /// What is signed; it ends with the end of a line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Every signature, in the order of the note.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The signatures that claim to be by a key.
    pub fn signatures_by<'n>(
        &'n self,
        key: &'n NoteKey,
    ) -> impl Iterator<Item = &'n NoteSignature> {
        self.signatures
            .iter()
            .filter(|signature| key.is_named_by(signature))
    }

    /// Adds a signature, in place of those by the same key.
    ///
    /// # Errors
    /// [`NoteError::TooLong`] if the note would be above its bounds; it is as it was then.
    pub fn put(&mut self, signature: NoteSignature) -> Result<(), NoteError> {
        let is_other =
            |held: &NoteSignature| held.id != signature.id || held.name != signature.name;
        let others = self.signatures.iter().filter(|held| is_other(held));
        let (count, length) = others.fold((1, signature.line_len()), |(count, length), held| {
            (count + 1, length + held.line_len())
        });
        if count > MAX_SIGNATURES || self.text.len() + "\n".len() + length > MAX_NOTE {
            return Err(NoteError::TooLong);
        }
        self.signatures.retain(is_other);
        self.signatures.push(signature);
        Ok(())
    }
}

impl fmt::Display for Note {
    /// The note itself, byte for byte as it was read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures
            .iter()
            .try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

fn is_text(text: &str) -> bool {
    text.ends_with('\n') && text.bytes().all(|byte| byte >= b' ' || byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The note and key of golang.org/x/mod/sumdb/note's documentation.
    const VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn reads_a_note_and_a_key_of_others() {
        let key: NoteKey = VKEY.parse().unwrap();
        assert_eq!(key.to_string(), VKEY);
        let note = Note::parse(NOTE.as_bytes()).unwrap();
        assert_eq!(note.to_string(), NOTE);
        let [signature] = note.signatures() else {
            panic!("one signature")
        };
        assert!(key.is_named_by(signature));
        assert!(
            key.key()
                .verifies(note.text().as_bytes(), &signature.signature)
        );
        assert!(!key.key().verifies(b"another text\n", &signature.signature));
    }

    #[test]
    fn reads_a_cosigning_key_of_others() {
        // A public witness, as github.com/transparency-dev/formats names it in its tests.
        let vkey = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2";
        let key: NoteKey = vkey.parse().unwrap();
        assert_eq!(key.kind(), SignatureType::CosignatureV1);
        assert_eq!(key.to_string(), vkey);
    }

    #[test]
    fn a_text_may_have_empty_lines_and_unknown_signatures_are_kept() {
        let note = "one\n\n\ntwo\n\n\u{2014} a AAAAAAE=\n\u{2014} b/c AAAAAAECAwQ=\n";
        let read = Note::parse(note.as_bytes()).unwrap();
        assert_eq!(read.text(), "one\n\n\ntwo\n");
        assert_eq!(read.signatures().len(), 2);
        assert_eq!(read.to_string(), note);
    }

    #[test]
    fn refuses_what_is_no_note() {
        let signature = "\u{2014} a AAAAAAE=\n";
        for (bad, error) in [
            ("", NoteError::Text),
            ("text\n", NoteError::Unsigned),
            ("text\n\n", NoteError::Unsigned),
            ("text\n\u{2014} a AAAAAAE=\n", NoteError::Unsigned),
            ("text\n\n\u{2014} a AAAAAAE=", NoteError::Text),
            ("te\rxt\n\n\u{2014} a AAAAAAE=\n", NoteError::Text),
            ("te\0xt\n\n\u{2014} a AAAAAAE=\n", NoteError::Text),
            (
                "text\n\n\u{2014} a AAAAAAE=\nx\n",
                NoteError::Signature { line: 2 },
            ),
            ("text\n\n- a AAAAAAE=\n", NoteError::Signature { line: 1 }),
            (
                "text\n\n\u{2014}  AAAAAAE=\n",
                NoteError::Signature { line: 1 },
            ),
            (
                "text\n\n\u{2014} a+b AAAAAAE=\n",
                NoteError::Signature { line: 1 },
            ),
            (
                "text\n\n\u{2014} a  AAAAAAE=\n",
                NoteError::Signature { line: 1 },
            ),
            (
                "text\n\n\u{2014} a AAAAAA==\n",
                NoteError::Signature { line: 1 },
            ),
            (
                "text\n\n\u{2014} a AAAAAAE\n",
                NoteError::Signature { line: 1 },
            ),
            (
                "text\n\n\u{2014} a AAAAAAF=\n",
                NoteError::Signature { line: 1 },
            ),
            (
                "text\n\n\u{2014} a\u{a0}b AAAAAAE=\n",
                NoteError::Signature { line: 1 },
            ),
        ] {
            assert_eq!(Note::parse(bad.as_bytes()), Err(error), "{bad:?}");
        }
        assert_eq!(Note::parse(b"\xff\n\n"), Err(NoteError::Text));
        let many = format!("text\n\n{}", signature.repeat(MAX_SIGNATURES));
        assert!(Note::parse(many.as_bytes()).is_ok());
        let many = format!("text\n\n{}", signature.repeat(MAX_SIGNATURES + 1));
        assert_eq!(Note::parse(many.as_bytes()), Err(NoteError::TooLong));
        let long = format!("{}\n\n{signature}", "x".repeat(MAX_NOTE));
        assert_eq!(Note::parse(long.as_bytes()), Err(NoteError::TooLong));
    }

    #[test]
    fn a_key_signs_a_note_once() {
        let mut note = Note::parse(NOTE.as_bytes()).unwrap();
        let mut again = note.signatures()[0].clone();
        again.signature[0] ^= 1;
        note.put(again.clone()).unwrap();
        assert_eq!(note.signatures(), [again.clone()]);
        again.name = "another".parse().unwrap();
        note.put(again.clone()).unwrap();
        assert_eq!(note.signatures().len(), 2);
        again.signature = vec![0; MAX_NOTE];
        let before = note.clone();
        assert_eq!(note.put(again.clone()), Err(NoteError::TooLong));
        assert_eq!(note, before);
        assert_eq!(
            Note::new("no end of line".into(), again),
            Err(NoteError::Text)
        );
    }

    #[test]
    fn a_note_of_the_longest_epoch_has_room_and_is_bounded_to_the_byte() {
        let signature = |n: usize, length| NoteSignature {
            name: format!("{}/node/nl-{n:032}", "t".repeat(255))
                .parse()
                .unwrap(),
            id: KeyId([0; 4]),
            signature: vec![0; length],
        };
        let mut note = Note::new("text\n".into(), signature(0, 72)).unwrap();
        for n in 1..=1000 {
            note.put(signature(n, 72)).unwrap();
        }
        let (length, line) = (
            note.to_string().len(),
            signature(0, 72).to_string().len() + 1,
        );
        assert_eq!(length, "text\n\n".len() + 1001 * line);
        // 72 + 4 bytes begin 26 groups of three, and 74 + 4 fill them.
        let room = (MAX_NOTE - length) / 4 * 3;
        note.put(signature(1000, 74 + room)).unwrap();
        assert!((MAX_NOTE - 3..=MAX_NOTE).contains(&note.to_string().len()));
        assert!(Note::parse(note.to_string().as_bytes()).is_ok());
        assert_eq!(
            note.put(signature(1000, 75 + room)),
            Err(NoteError::TooLong)
        );
    }

    #[test]
    fn refuses_keys_of_other_types_ids_and_forms() {
        for bad in [
            "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a3+AhpC2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeuman+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a3",
            "",
        ] {
            assert!(bad.parse::<NoteKey>().is_err(), "{bad}");
        }
        for bad in [
            "",
            "a b",
            "a+b",
            "a\u{2003}b",
            "a\tb",
            &"a".repeat(MAX_KEY_NAME + 1),
        ] {
            assert!(bad.parse::<KeyName>().is_err(), "{bad:?}");
        }
    }
}
