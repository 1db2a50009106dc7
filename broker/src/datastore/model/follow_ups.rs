//! Follow-ups in the ledger.

use sotto_common::followup::record::FollowUp;
use sotto_common::followup::{FollowUpState, Party};
use sotto_common::ids::{AttachmentId, FollowUpId, NodeId};
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;

use super::StackKey;
use crate::objects::ObjectKey;

/// What the holder's node has said of its own tags (protocol §10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    /// It has the selector.
    Held,
    /// It has not.
    NotHeld,
}

/// A follow-up.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct FollowUpRecord {
    /// As its steps have made it.
    pub(crate) follow_up: FollowUp,
    /// Where its hit was.
    pub(crate) key: StackKey,
    /// Version of the holder's filter that matched last, when it was submitted.
    pub(crate) filter_version: u64,
    /// When that was.
    pub(crate) matched_at: Timestamp,
    /// The hit's posterior then.
    pub(crate) posterior: f64,
    /// Whether the selector is there, once the holder's node has said so.
    pub(crate) presence: Option<Presence>,
    /// Bytes of all statements.
    pub(crate) statement_bytes: u64,
    /// The reminder that is due next: after so many percent of the limit, at a time.
    pub(crate) reminder: Option<(u8, Timestamp)>,
    /// Whether statements and attachments are erased.
    pub(crate) erased: bool,
}

/// A step that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StepRecord {
    pub(crate) follow_up: FollowUpId,
    pub(crate) seq: u32,
    /// H of the body.
    pub(crate) body: [u8; 32],
    /// The clear part as it was signed.
    pub(crate) clear: Vec<u8>,
    /// A serialised DSSE envelope; `None` once it is erased.
    pub(crate) envelope: Option<Vec<u8>>,
    pub(crate) taken_at: Timestamp,
}

/// Something that happened to a follow-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FollowUpEvent {
    /// A step of this place was taken.
    Step(u32),
    /// So many percent of the limit have passed.
    Reminder(u8),
    /// It was closed by time.
    Closed(Timestamp),
    /// Its payload was erased.
    Erased(Timestamp),
}

/// An event of a node's stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FollowUpEventRecord {
    pub(crate) cursor: u64,
    pub(crate) follow_up: FollowUpId,
    pub(crate) event: FollowUpEvent,
}

/// Which follow-ups to list; every filter that is given must hold.
#[derive(Clone, Default, Debug)]
pub(crate) struct FollowUpFilter {
    pub(crate) party: Option<Party>,
    pub(crate) state: Option<FollowUpState>,
}

/// Whose follow-ups, submitted when, count.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FollowUpRange<'a> {
    /// Only those of which the node is a party.
    pub(crate) party: Option<&'a NodeId>,
    /// Not before.
    pub(crate) from: Option<Timestamp>,
    /// Before.
    pub(crate) to: Option<Timestamp>,
}

/// How often one holder's node held what its filter of a policy had matched.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct PresenceCount {
    pub(crate) holder: NodeId,
    pub(crate) policy: Policy,
    pub(crate) checked: u64,
    pub(crate) not_held: u64,
    /// The sum of 1 − posterior.
    pub(crate) expected: f64,
}

/// A file that goes with an answer, as it was announced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AttachmentRecord {
    pub(crate) follow_up: FollowUpId,
    pub(crate) id: AttachmentId,
    /// The clear part as it was sealed with.
    pub(crate) clear: Vec<u8>,
    /// KEM, KDF and AEAD id.
    pub(crate) suite: (u16, u16, u16),
    /// The encapsulated key.
    pub(crate) enc: Vec<u8>,
    /// Of clear part, suite, key and segments.
    pub(crate) digest: [u8; 32],
    /// Bytes of all sealed segments.
    pub(crate) sealed_size: u64,
    /// Whether all of them are here, and have the digest.
    pub(crate) whole: bool,
    /// Whether the answer names it.
    pub(crate) answered: bool,
}

/// A chunk of an attachment that is acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AttachmentChunk {
    /// Offset of its first byte.
    pub(crate) start: u64,
    /// In bytes.
    pub(crate) length: u64,
    pub(crate) object: ObjectKey,
}
