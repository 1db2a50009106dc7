//! Verifying a log offline (workflow.md "Audit"): "tree, checkpoints, cosignatures, openings,
//! signatures of nodes; it names the first entry that fails".

use std::collections::BTreeMap;
use std::io::Read;

use sotto_common::error::ErrorCode;
use sotto_common::ids::NodeId;
use sotto_common::log::action::Action;
use sotto_common::log::checkpoint::LogKey;
use sotto_common::log::edge::RightEdge;
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;
use sotto_common::log::leaf::{Leaf, LeafError, Opening, OpeningNonce};
use sotto_common::log::merkle::{MerkleHash, TreeHead};
use sotto_common::log::quorum::Quorum;
use sotto_common::time::{CLOCK_SKEW, Timestamp};
use sotto_proto::convert::log::read_entry;
use sotto_proto::v1;

use super::erasures::{Erasures, start_of};
use super::export::{ExportReader, Head};
use super::failure::{Check, Failure, FailureCode, Flaw};
use super::head::OpenHead;
use super::replay::Replay;
use super::standing::Standing;
use super::statements::Statements;

/// Leaves that are appended to the tree at once.
const APPENDED_AT_ONCE: usize = 256;

/// Bytes of the digest that a leaf ends with, of whatever kind it is.
const DIGEST: usize = 32;

/// What a log that holds consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Size and root of the tree.
    pub head: TreeHead,
    /// Entries that were read, by kind.
    pub kinds: BTreeMap<EntryKind, u64>,
    /// Entries whose openings are erased, by kind. Of them only kind and hour are left, and the
    /// checks that need more were not made.
    pub erased: BTreeMap<EntryKind, u64>,
    /// Entries by which openings were erased.
    pub erasures: u64,
    /// Entries of kinds or actions that this version does not know; they are in the tree.
    pub unknown: u64,
    /// Manifests in the export, each signed by its custodian.
    pub manifests: usize,
    /// Time of the earliest entry that was read.
    pub from: Option<Timestamp>,
    /// Time of the latest.
    pub until: Option<Timestamp>,
    /// Who stands behind the checkpoint; `None` without a manifest.
    pub witnesses: Option<Witnesses>,
}

/// The witnesses of a checkpoint, of the members of the latest epoch that became active.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Witnesses {
    /// How many are required.
    pub required: usize,
    /// How many there are, by their keys.
    pub count: usize,
    /// The nodes, and when each cosigned last.
    pub nodes: BTreeMap<NodeId, Timestamp>,
}

impl Witnesses {
    /// Whether they are enough.
    pub const fn is_quorum(&self) -> bool {
        self.count >= self.required
    }
}

impl From<Quorum> for Witnesses {
    fn from(quorum: Quorum) -> Self {
        Self {
            required: quorum.required(),
            count: quorum.count(),
            nodes: quorum.cosigned().clone(),
        }
    }
}

/// Verifies a whole export.
///
/// # Errors
/// [`Failure`]: the first entry that fails.
pub fn verify_export<R: Read>(
    from: R,
    key: &LogKey,
    require_quorum: bool,
) -> Result<Summary, Failure> {
    let (head, entries) = ExportReader::open(from)?;
    let mut verifier = Verifier::begin(&head, key)?;
    for entry in entries {
        verifier.take(&entry?)?;
    }
    verifier.finish(require_quorum)
}

/// Verifies a log entry by entry.
#[derive(Debug)]
pub struct Verifier {
    key: LogKey,
    head: OpenHead,
    edge: RightEdge,
    pending: Vec<MerkleHash>,
    next: u64,
    erasures: Erasures,
    statements: Statements,
    standing: Standing,
    replay: Replay,
    summary: Summary,
}

impl Verifier {
    /// Verifies checkpoint, manifests and cosignatures.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn begin(head: &Head, key: &LogKey) -> Result<Self, Failure> {
        let head = OpenHead::open(head, key).map_err(Flaw::of_head)?;
        let summary = Summary {
            head: *head.checkpoint.head(),
            kinds: BTreeMap::new(),
            erased: BTreeMap::new(),
            erasures: 0,
            unknown: 0,
            manifests: head.manifests.len(),
            from: None,
            until: None,
            witnesses: None,
        };
        let manifests = head.manifests.values().map(|signed| &signed.manifest);
        Ok(Self {
            key: key.clone(),
            erasures: Erasures::new(manifests),
            head,
            edge: RightEdge::new(),
            pending: Vec::new(),
            next: 0,
            statements: Statements::default(),
            standing: Standing::default(),
            replay: Replay::default(),
            summary,
        })
    }

    /// Verifies the next entry.
    ///
    /// # Errors
    /// [`Failure`]: what fails first.
    pub fn take(&mut self, logged: &v1::LoggedEntry) -> Result<(), Failure> {
        let index = self.next;
        self.check(index, logged).map_err(|flaw| flaw.at(index))?;
        self.next += 1;
        Ok(())
    }

    fn check(&mut self, index: u64, logged: &v1::LoggedEntry) -> Check {
        if logged.leaf_index != index {
            let text = "entries stand in order, without gaps";
            return Err(Flaw::new(FailureCode::FileMalformed, text));
        }
        if index >= self.summary.head.size {
            let text = format!("the checkpoint has {} leaves", self.summary.head.size);
            return Err(Flaw::new(FailureCode::FileMalformed, text));
        }
        self.append(&logged.leaf);
        let leaf = match Leaf::parse(&logged.leaf) {
            Ok(leaf) => Some(leaf),
            // PROTOCOL-NOTES §11: "a kind which an auditor's program does not know does not stop it".
            Err(LeafError::UnknownKind) => None,
            Err(error) => return Err(Flaw::new(FailureCode::LeafMismatch, error.to_string())),
        };
        let opening = opening(logged)?;
        match (leaf, opening) {
            (Some(leaf), Some(opening)) => return self.check_opened(index, leaf, &opening),
            (None, Some(_)) => self.summary.unknown += 1,
            (leaf, None) => {
                let kind = leaf.map(|leaf| leaf.kind());
                let hour = Leaf::hour_of(&logged.leaf).unwrap_or(0);
                self.check_hour(hour)?;
                self.erasures.miss(index, kind, hour);
                match kind {
                    None => self.summary.unknown += 1,
                    Some(kind) => {
                        *self.summary.erased.entry(kind).or_default() += 1;
                        self.skip(kind, index);
                    }
                }
            }
        }
        Ok(())
    }

    /// An entry that cannot be looked into: what it began or moved is not known.
    fn skip(&mut self, kind: EntryKind, index: u64) {
        self.statements.skip(kind, index);
        self.standing.skip(kind, index);
        self.replay.skip(kind, index);
    }

    fn check_opened(&mut self, index: u64, leaf: Leaf, opening: &Opening) -> Check {
        let entry = match read_entry(opening.entry()) {
            Ok(entry) => entry,
            // An action that was added later: protocol §13 has nothing guessed about it.
            Err(error) if error.code == ErrorCode::FormatUnknown => {
                self.summary.unknown += 1;
                self.skip(leaf.kind(), index);
                return Ok(());
            }
            Err(error) => {
                let text = format!("the opening does not read as an entry: {error}");
                return Err(Flaw::new(FailureCode::EntryMalformed, text));
            }
        };
        check_leaf(leaf, opening, &entry)?;
        if entry.community != *self.key.origin().community() {
            let text = format!("the entry is of community {}", entry.community);
            return Err(Flaw::new(FailureCode::CommunityMismatch, text));
        }
        self.check_time(entry.at)?;
        self.erasures.take(&entry)?;
        let (epoch, manifests) = (self.replay.epoch_of(&entry), &self.head.manifests);
        self.statements.check(index, &entry, epoch, manifests)?;
        self.standing.take(index, &entry, epoch, manifests)?;
        self.replay.take(index, &entry)?;
        *self.summary.kinds.entry(leaf.kind()).or_default() += 1;
        self.summary.erasures += u64::from(entry.action == Action::EraseOpenings);
        Ok(())
    }

    /// Entries stand as they were put, a few out of turn: never by more than clocks may differ.
    fn check_time(&mut self, at: Timestamp) -> Check {
        let latest = self.summary.until.unwrap_or(at);
        if at < latest.minus(CLOCK_SKEW) {
            let text = format!("the entry is of {at}, behind one of {latest}");
            return Err(Flaw::new(FailureCode::TimeReversed, text));
        }
        self.summary.until = Some(at.max(latest));
        self.summary.from = Some(self.summary.from.map_or(at, |from| from.min(at)));
        Ok(())
    }

    /// The same of an entry that is erased, of which the hour is left: none is dated back to look old enough.
    fn check_hour(&self, hour: u64) -> Check {
        let end = start_of(hour.saturating_add(1));
        match self.summary.until {
            Some(latest) if end <= latest.minus(CLOCK_SKEW) => {
                let text = format!("the leaf is of the hour before {end}, behind one of {latest}");
                Err(Flaw::new(FailureCode::TimeReversed, text))
            }
            _ => Ok(()),
        }
    }

    /// In parts: the tiles of one call of `append` are in memory together, and each has its cost.
    fn append(&mut self, leaf: &[u8]) {
        self.pending.push(MerkleHash::of_leaf(leaf));
        if self.pending.len() >= APPENDED_AT_ONCE {
            self.edge.append(self.pending.drain(..));
        }
    }

    /// Compares the tree with the checkpoint, and the openings that are missing with what the entries tell of
    /// erasures, at the end.
    ///
    /// # Errors
    /// [`Failure`]: `ROOT_MISMATCH`, `OPENING_WITHHELD`, `QUORUM_MISSED` if a quorum is required.
    pub fn finish(mut self, require_quorum: bool) -> Result<Summary, Failure> {
        self.edge.append(self.pending.drain(..));
        let (tree, signed) = (self.edge.head(), self.summary.head);
        if tree.size < signed.size {
            let text = format!(
                "the checkpoint has {} leaves, and the export ends after {}",
                signed.size, tree.size
            );
            return Err(Flaw::new(FailureCode::FileMalformed, text).at(tree.size));
        }
        if tree != signed {
            // Which leaf it is, only the leaves that were signed could tell: each of these is one.
            let text = format!(
                "these {} leaves have the root {}, and the checkpoint says {}: a leaf was changed, \
                 or the log has signed another history",
                tree.size, tree.root, signed.root
            );
            return Err(Flaw::new(FailureCode::RootMismatch, text).of_head());
        }
        self.erasures.check()?;
        let quorum = self.head.quorum(self.replay.active_epoch());
        self.summary.witnesses = quorum.map(Witnesses::from);
        let is_quorum = |witnesses: &Witnesses| witnesses.is_quorum();
        if require_quorum && !self.summary.witnesses.as_ref().is_some_and(is_quorum) {
            let text = match &self.summary.witnesses {
                Some(few) => format!("{} of {} witnesses", few.count, few.required),
                None => "without a manifest nobody is a witness".to_owned(),
            };
            return Err(Flaw::new(FailureCode::QuorumMissed, text).of_head());
        }
        Ok(self.summary)
    }
}

/// The opening of an entry, if it is not erased; it is the one that the leaf ends with the digest of.
fn opening(logged: &v1::LoggedEntry) -> Check<Option<Opening>> {
    let flaw = |text: &str| Flaw::new(FailureCode::OpeningMismatch, text);
    if logged.nonce.is_empty() && logged.entry.is_empty() {
        return Ok(None);
    }
    let nonce = OpeningNonce::from_slice(&logged.nonce);
    let nonce = nonce.ok_or_else(|| flaw("an opening has a nonce of 32 bytes"))?;
    let opening = Opening::new(nonce, logged.entry.to_vec());
    let digest = logged.leaf.last_chunk::<DIGEST>();
    if digest.is_some_and(|digest| *digest == opening.digest()) {
        return Ok(Some(opening));
    }
    Err(flaw("the opening is not the one that the leaf hides"))
}

/// The leaf shows kind and hour of its entry.
fn check_leaf(leaf: Leaf, opening: &Opening, entry: &Entry) -> Check {
    let flaw = |text: String| Flaw::new(FailureCode::KindMismatch, text);
    let kind = entry.action.kind();
    if leaf.kind() != kind {
        let text = format!("the leaf is of kind {}, the entry of {kind}", leaf.kind());
        return Err(flaw(text));
    }
    if leaf.hour() != Leaf::new(kind, entry.at, opening).hour() {
        let text = format!(
            "the leaf is of hour {}, the entry of {}",
            leaf.hour(),
            entry.at
        );
        return Err(flaw(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
