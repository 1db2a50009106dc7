//! Why a log does not hold: the first entry that fails, a code, and a sentence.

use std::fmt;

macro_rules! failures {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What is wrong with a log, or with an export of one.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum FailureCode {
            $($(#[$doc])* $name,)*
        }

        impl FailureCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it is printed.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

failures! {
    /// The file is not of its form, or not whole.
    FileMalformed = "FILE_MALFORMED",
    /// The checkpoint is none, of another log, or not signed by the log's key.
    NoteSignature = "NOTE_SIGNATURE",
    /// A cosignature is by nobody of a manifest, or does not verify.
    Cosignature = "COSIGNATURE",
    /// Fewer witnesses than the quorum, where it was asked for.
    QuorumMissed = "QUORUM_MISSED",
    /// A manifest is none, is not signed by its custodian, is missing, is not the one logged, or has other
    /// keys for a member than the member has stated.
    Manifest = "MANIFEST",
    /// The bytes of a leaf are no leaf.
    LeafMismatch = "LEAF_MISMATCH",
    /// The leaves do not make the tree that was signed.
    RootMismatch = "ROOT_MISMATCH",
    /// The opening is not the one that the leaf hides.
    OpeningMismatch = "OPENING_MISMATCH",
    /// The opening does not read as an entry, or the entry lacks what its action must have.
    EntryMalformed = "ENTRY_MALFORMED",
    /// The leaf has another kind or hour than the entry.
    KindMismatch = "KIND_MISMATCH",
    /// An entry of another community.
    CommunityMismatch = "COMMUNITY_MISMATCH",
    /// An entry more than 5 minutes before one that stands before it.
    TimeReversed = "TIME_REVERSED",
    /// An opening is missing of which no entry tells that it was erased: it was too young for that, or more
    /// are missing than were counted.
    OpeningWithheld = "OPENING_WITHHELD",
    /// Entries tell of more erasures than there are.
    ErasureMiscounted = "ERASURE_MISCOUNTED",
    /// Something was done in a role that does not do it.
    ActorRole = "ACTOR_ROLE",
    /// Something was done by a node that was not enrolled, had been suspended, or is no member of the
    /// epoch.
    NotAMember = "NOT_A_MEMBER",
    /// A publication, a session, a batch or a hit in an epoch that was not active, had ended, or is outside
    /// its times.
    EpochNotActive = "EPOCH_NOT_ACTIVE",
    /// A move that an epoch does not have.
    IllegalEpoch = "ILLEGAL_EPOCH",
    /// A statement that must be there is not, or its node has not signed it.
    Signature = "SIGNATURE",
    /// A signed statement says something else than the entry.
    StatementMismatch = "STATEMENT_MISMATCH",
    /// A move that a hit does not have, or from a state in which it was not.
    IllegalHitState = "ILLEGAL_HIT_STATE",
    /// A step that a follow-up does not have, out of order, or by the wrong party.
    IllegalFollowUp = "ILLEGAL_FOLLOW_UP",
    /// A move that a publication does not have.
    IllegalPublication = "ILLEGAL_PUBLICATION",
    /// A hit on a filter that was not active.
    FilterNotActive = "FILTER_NOT_ACTIVE",
    /// A batch without an open session.
    NoSession = "NO_SESSION",
    /// A batch number that stood there before.
    BatchRepeated = "BATCH_REPEATED",
    /// More record refs in a day than the log allows the node.
    QuotaExceeded = "QUOTA_EXCEEDED",
}

impl fmt::Display for FailureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The first thing that fails.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Failure {
    /// The entry; `None` if it is the file, the checkpoint or a manifest.
    pub index: Option<u64>,
    /// What is wrong.
    pub code: FailureCode,
    /// The same as a sentence.
    pub text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.index {
            write!(f, "entry {index}: ")?;
        }
        write!(f, "{}: {}", self.code, self.text)
    }
}

/// What is wrong, before it is known with which entry.
#[derive(Debug)]
pub(super) struct Flaw {
    code: FailureCode,
    text: String,
}

impl Flaw {
    pub(super) fn new(code: FailureCode, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }

    /// An entry lacks what its action must have.
    pub(super) fn lacks(what: &str) -> Self {
        let text = format!("the entry does not name {what}");
        Self::new(FailureCode::EntryMalformed, text)
    }

    pub(super) fn at(self, index: u64) -> Failure {
        Failure {
            index: Some(index),
            code: self.code,
            text: self.text,
        }
    }

    /// Of no entry.
    pub(super) fn of_head(self) -> Failure {
        Failure {
            index: None,
            code: self.code,
            text: self.text,
        }
    }
}

/// A check that says what is wrong.
pub(super) type Check<T = ()> = Result<T, Flaw>;
