//! Receipts (c2sp.org/tlog-proof): one file that proves an entry to anybody who has the log's key
//! and the witnesses', without a connection and without believing whoever hands it over.

use std::fmt;

use super::checkpoint::{Checkpoint, CheckpointError, LogKey, SignedCheckpoint};
use super::leaf::{Leaf, LeafError};
use super::merkle::MerkleHash;
use super::note::{MAX_NOTE, Note, NoteError};
use super::proof::{MAX_PROOF, ProofError, verify_inclusion};
use super::quorum::{BadCosignature, Freshness, Quorum, WitnessPolicy};
use super::text::{base64, decimal, from_base64};

/// The usual ending of a receipt's file name.
pub const EXTENSION: &str = "tlog-proof";

/// Most bytes that may go with a receipt.
pub const MAX_EXTRA: usize = 1 << 16;

/// Most bytes of a receipt: its note, its hashes, and twice what goes with it.
pub const MAX_RECEIPT: usize = MAX_NOTE + 2 * MAX_EXTRA + 64 * (MAX_PROOF + 2);

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// A file that is no receipt, or proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReceiptError {
    /// Above [`MAX_RECEIPT`] bytes.
    #[error("a receipt has at most {MAX_RECEIPT} bytes")]
    TooLong,
    /// Not the lines of a receipt; which is the first that is not of its form.
    #[error("line {line} of the receipt is not of its form")]
    Line {
        /// Which one, from 1.
        line: usize,
    },
    /// The note after the empty line is none.
    #[error("the receipt has no checkpoint: {0}")]
    Note(#[from] NoteError),
    /// The checkpoint does not count.
    #[error("the checkpoint does not count: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The entry is not proved to be in the tree.
    #[error("the entry is not proved to be in the log: {0}")]
    Proof(#[from] ProofError),
    /// A cosignature does not hold.
    #[error(transparent)]
    Cosignature(#[from] BadCosignature),
    /// Too few witnesses stand behind the checkpoint.
    #[error("{} of {} witnesses stand behind the checkpoint", .0.count(), .0.required())]
    Quorum(Quorum),
}

/// The proof of one entry. Nothing in it is verified before [`Receipt::verify`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    extra: Vec<u8>,
    index: u64,
    proof: Vec<MerkleHash>,
    note: Note,
}

/// What a receipt has proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proved {
    /// Under which checkpoint.
    pub checkpoint: SignedCheckpoint,
    /// Who stands behind it.
    pub quorum: Quorum,
}

impl Receipt {
    /// The receipt of the leaf at `index`, which goes with it as its extra data.
    #[must_use]
    pub fn new(
        leaf: &Leaf,
        index: u64,
        proof: Vec<MerkleHash>,
        checkpoint: &SignedCheckpoint,
    ) -> Self {
        Self {
            extra: leaf.to_bytes(),
            index,
            proof,
            note: checkpoint.note().clone(),
        }
    }

    /// From the bytes of a file.
    ///
    /// # Errors
    /// [`ReceiptError::TooLong`], [`ReceiptError::Line`] or [`ReceiptError::Note`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        if bytes.len() > MAX_RECEIPT {
            return Err(ReceiptError::TooLong);
        }
        // The first empty line ends the proof; the checkpoint follows as it is.
        let end = bytes.windows(2).position(|pair| pair == b"\n\n");
        let (lines, note) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
        let lines = std::str::from_utf8(lines).map_err(|_| ReceiptError::Line { line: 1 })?;
        let mut lines = Lines {
            lines: lines.split_terminator('\n').peekable(),
            line: 0,
        };
        if lines.next() != Some(HEADER) {
            return lines.malformed();
        }
        let extra = match lines.next_after("extra ") {
            None => Vec::new(),
            Some(text) => match from_base64(text).filter(|extra| is_extra(extra)) {
                Some(extra) => extra,
                None => return lines.malformed(),
            },
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let Some(index) = index.and_then(decimal) else {
            return lines.malformed();
        };
        let mut proof = Vec::new();
        while let Some(line) = lines.next() {
            match MerkleHash::from_base64(line).filter(|_| proof.len() < MAX_PROOF) {
                Some(hash) => proof.push(hash),
                None => return lines.malformed(),
            }
        }
        Ok(Self {
            extra,
            index,
            proof,
            note: Note::parse(note.strip_prefix(b"\n").unwrap_or(note))?,
        })
    }

    /// Index of the entry in the log.
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The leaf that goes with the receipt. It says nothing before it has been verified.
    ///
    /// # Errors
    /// [`LeafError`] if what goes with it is no leaf, as in a receipt that others wrote.
    pub fn leaf(&self) -> Result<Leaf, LeafError> {
        Leaf::parse(&self.extra)
    }

    /// The checkpoint that goes with the receipt, with its signatures. None of them is verified.
    pub const fn note(&self) -> &Note {
        &self.note
    }

    /// Whether a leaf is in the tree of the receipt's checkpoint, whoever has signed that.
    ///
    /// # Errors
    /// [`ReceiptError::Checkpoint`] or [`ReceiptError::Proof`].
    pub fn check_inclusion(&self, leaf: &MerkleHash) -> Result<Checkpoint, ReceiptError> {
        let checkpoint: Checkpoint = self.note.text().parse()?;
        verify_inclusion(leaf, self.index, &checkpoint.head, &self.proof)?;
        Ok(checkpoint)
    }

    /// Whether a leaf is in the log, under a checkpoint that enough witnesses stand behind.
    ///
    /// # Errors
    /// [`ReceiptError`]: what fails first of checkpoint, inclusion, cosignatures, quorum.
    pub fn verify(
        &self,
        leaf: &MerkleHash,
        log: &LogKey,
        witnesses: &WitnessPolicy,
        freshness: Freshness,
    ) -> Result<Proved, ReceiptError> {
        let checkpoint = SignedCheckpoint::verify(self.note.clone(), log)?;
        verify_inclusion(leaf, self.index, checkpoint.head(), &self.proof)?;
        let quorum = witnesses.evaluate(&checkpoint, freshness)?;
        if quorum.is_reached() {
            Ok(Proved { checkpoint, quorum })
        } else {
            Err(ReceiptError::Quorum(quorum))
        }
    }
}

fn is_extra(extra: &[u8]) -> bool {
    (1..=MAX_EXTRA).contains(&extra.len())
}

impl fmt::Display for Receipt {
    /// The file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if !self.extra.is_empty() {
            writeln!(f, "extra {}", base64(&self.extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.proof
            .iter()
            .try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.note)
    }
}

/// Lines, and the number of the last one that was taken.
struct Lines<'t> {
    lines: std::iter::Peekable<std::str::SplitTerminator<'t, char>>,
    line: usize,
}

impl<'t> Lines<'t> {
    fn next(&mut self) -> Option<&'t str> {
        self.line += 1;
        self.lines.next()
    }

    /// What stands after a word, if the next line begins with it.
    fn next_after(&mut self, word: &str) -> Option<&'t str> {
        let rest = self.lines.peek()?.strip_prefix(word)?;
        self.next();
        Some(rest)
    }

    fn malformed<T>(&self) -> Result<T, ReceiptError> {
        Err(ReceiptError::Line { line: self.line })
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::LogSigner;
    use super::super::cosignature::Cosigner;
    use super::super::edge::RightEdge;
    use super::super::kind::EntryKind;
    use super::super::leaf::{Opening, OpeningNonce};
    use super::super::proof::ProofPlan;
    use super::super::reader::TileSet;
    use super::*;
    use crate::dsse::SigningKey;
    use crate::secret::Secret;
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);

    fn leaf(n: u8) -> Leaf {
        let nonce = OpeningNonce::from_slice(&[n; 32]).unwrap();
        Leaf::new(EntryKind::Hit, NOW, &Opening::new(nonce, vec![n]))
    }

    struct Log {
        signer: LogSigner,
        witness: Cosigner,
        policy: WitnessPolicy,
    }

    impl Log {
        fn new() -> Self {
            let [log, witness] = [7, 8].map(|seed| SigningKey::from_seed(&Secret::new([seed; 32])));
            let origin = "broker.example/sotto/euro-cyber".parse().unwrap();
            let witness =
                Cosigner::new("sotto.example", "nl-fiu".parse().unwrap(), witness).unwrap();
            Self {
                signer: LogSigner::new(origin, log),
                policy: WitnessPolicy::new(vec![witness.key().clone()], 1),
                witness,
            }
        }

        /// The receipt of leaf 5 of 23.
        fn receipt(&self) -> Receipt {
            let (mut tiles, mut edge) = (TileSet::new(), RightEdge::new());
            for new in edge.append((0..23).map(|n| leaf(n).hash())) {
                tiles.insert(new.tile, new.bytes);
            }
            let mut signed = self.signer.sign(edge.head());
            let cosignature = self.witness.cosign(signed.checkpoint(), NOW);
            signed.put_cosignature(cosignature).unwrap();
            let proof = ProofPlan::inclusion(5, 23).unwrap().prove(&tiles).unwrap();
            Receipt::new(&leaf(5), 5, proof, &signed)
        }

        fn verify(&self, text: &str) -> Result<Proved, ReceiptError> {
            let receipt = Receipt::parse(text.as_bytes())?;
            let fresh = Freshness::AtMostADay(NOW);
            receipt.verify(&leaf(5).hash(), self.signer.key(), &self.policy, fresh)
        }
    }

    #[test]
    fn a_receipt_is_read_back_and_proves_its_leaf() {
        let log = Log::new();
        let text = log.receipt().to_string();
        let read = Receipt::parse(text.as_bytes()).unwrap();
        assert_eq!(read, log.receipt());
        assert_eq!(read.to_string(), text);
        assert_eq!((read.index(), read.leaf()), (5, Ok(leaf(5))));
        let proved = log.verify(&text).unwrap();
        assert_eq!(proved.checkpoint.head().size, 23);
        assert!(
            proved
                .quorum
                .cosigned()
                .contains_key(log.witness.key().node())
        );
    }

    #[test]
    fn a_receipt_proves_nothing_else() {
        let log = Log::new();
        let receipt = log.receipt();
        let fresh = Freshness::AtMostADay(NOW);
        let key = log.signer.key();
        let other = receipt.verify(&leaf(6).hash(), key, &log.policy, fresh);
        assert_eq!(other, Err(ReceiptError::Proof(ProofError::Root)));
        let two = WitnessPolicy::new(vec![log.witness.key().clone()], 2);
        let few = receipt.verify(&leaf(5).hash(), key, &two, fresh);
        assert!(matches!(few, Err(ReceiptError::Quorum(quorum)) if quorum.count() == 1));
        let late = Freshness::AtMostADay(NOW.plus(std::time::Duration::from_hours(25)));
        let late = receipt.verify(&leaf(5).hash(), key, &log.policy, late);
        assert!(matches!(late, Err(ReceiptError::Quorum(quorum)) if quorum.count() == 0));
        let years_later = receipt.verify(&leaf(5).hash(), key, &log.policy, Freshness::Any);
        assert!(years_later.is_ok());
        let text = receipt.to_string();
        let moved = log.verify(&text.replacen("index 5", "index 4", 1));
        assert_eq!(moved, Err(ReceiptError::Proof(ProofError::Root)));
        let grown = log.verify(&text.replacen("\n23\n", "\n24\n", 1));
        assert_eq!(
            grown,
            Err(ReceiptError::Checkpoint(CheckpointError::Signature))
        );
    }

    #[test]
    fn inclusion_is_checked_without_the_key_as_well() {
        let log = Log::new();
        let receipt = log.receipt();
        let checkpoint = receipt.check_inclusion(&leaf(5).hash()).unwrap();
        assert_eq!(checkpoint.head.size, 23);
        assert_eq!(receipt.note().text(), checkpoint.to_string());
        let other = receipt.check_inclusion(&leaf(6).hash());
        assert_eq!(other, Err(ReceiptError::Proof(ProofError::Root)));
    }

    #[test]
    fn a_receipt_without_extra_data_is_one_too() {
        let text = Log::new().receipt().to_string();
        let (_, rest) = text.split_once("index ").unwrap();
        let text = format!("{HEADER}\nindex {rest}");
        let read = Receipt::parse(text.as_bytes()).unwrap();
        assert_eq!(read.leaf(), Err(LeafError::Malformed));
        assert_eq!(read.to_string(), text);
        assert!(Log::new().verify(&text).is_ok());
    }

    #[test]
    fn refuses_what_is_no_receipt() {
        let log = Log::new();
        let text = log.receipt().to_string();
        let hash = log.receipt().proof[0].to_string();
        let hashes = format!("{hash}\n").repeat(MAX_PROOF + 1);
        for (bad, line) in [
            (text.replacen("@v1", "@v2", 1), 1),
            (text.replacen("extra ", "extra  ", 1), 2),
            (text.replacen("extra ", "Extra ", 1), 2),
            (text.replacen("index 5", "extra AQI=\nindex 5", 1), 3),
            (text.replacen("index 5", "index 05", 1), 3),
            (text.replacen("index 5", "index -5", 1), 3),
            (text.replacen("index 5", "index 5 ", 1), 3),
            (text.replacen(&hash, &hash[1..], 1), 4),
            (
                text.replacen(&format!("{hash}\n"), &hashes, 1),
                3 + MAX_PROOF + 1,
            ),
            (text.replacen('\n', "\r\n", 1), 1),
            (String::new(), 1),
        ] {
            assert_eq!(
                Receipt::parse(bad.as_bytes()),
                Err(ReceiptError::Line { line }),
                "{bad}"
            );
        }
        let cut = text.split_once("\n\n").unwrap().0;
        let note = Err(ReceiptError::Note(NoteError::Text));
        assert_eq!(Receipt::parse(cut.as_bytes()), note);
        let beyond = vec![b'x'; MAX_RECEIPT + 1];
        assert_eq!(Receipt::parse(&beyond), Err(ReceiptError::TooLong));
    }
}
