//! What an opening says (workflow.md "Audit"): who did what, when, why, and to what.

use super::action::Action;
use crate::grounds::Grounds;
use crate::ids::{
    AttachmentId, CommunityId, EntryId, Epoch, FollowUpId, HitId, NodeId, PublicationId, SessionId,
    SpiffeId,
};
use crate::selector::Policy;
use crate::time::Timestamp;

/// Longest signed statement that goes into an entry.
pub const MAX_STATEMENT: usize = 16 * 1024;

/// Longest free text in an entry, in bytes: an operator's reason, the name of a call.
pub const MAX_DETAIL: usize = 512;

/// An entry of the log. What an action does not have is `None` or empty.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// What was done; gives kind and verb.
    pub action: Action,
    /// Who did it; the broker itself where nobody asked.
    pub actor: SpiffeId,
    /// The community whose log it is in.
    pub community: CommunityId,
    /// When, by the broker's clock.
    pub at: Timestamp,
    /// Name and version of the software that wrote it.
    pub software: String,
    /// What it was done to.
    pub object: Object,
    /// The node that received something by it.
    pub recipient: Option<NodeId>,
    /// Why a probe is made.
    pub grounds: Option<Grounds>,
    /// States before and after, by their names.
    pub change: Option<Change>,
    /// A batch's numbers and digests.
    pub batch: Option<Batch>,
    /// Quota and class, as set.
    pub limits: Option<(u64, u8)>,
    /// The call of a READ, an operator's reason, why a publication was rejected, the step of a
    /// follow-up, whether a file was kept.
    pub detail: String,
    /// The signed statement that it rests on.
    pub statement: Option<Statement>,
    /// The clear part of a step, as it was signed, and its number.
    pub step: Option<Step>,
}

/// What an entry is about.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Object {
    /// A node, if it is not the actor.
    pub node: Option<NodeId>,
    /// The epoch.
    pub epoch: Option<Epoch>,
    /// The policy.
    pub policy: Option<Policy>,
    /// A publication.
    pub publication: Option<PublicationId>,
    /// A probe session.
    pub session: Option<SessionId>,
    /// A hit.
    pub hit: Option<HitId>,
    /// A follow-up.
    pub follow_up: Option<FollowUpId>,
    /// A file of a follow-up.
    pub attachment: Option<AttachmentId>,
    /// Version of the publication, or of the filter that matched.
    pub version: Option<u64>,
}

/// A change of state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The state before; empty where something began.
    pub from: String,
    /// The state after.
    pub to: String,
}

/// What is logged of a batch (protocol §11).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Its number in the session.
    pub number: u32,
    /// Record refs.
    pub refs: u64,
    /// (record ref, holder) matches as answered; those in quarantine have entries of their own.
    pub matches: u64,
    /// `H("sotto/v1 batch-tags" ‖ …)`.
    pub tags_digest: [u8; 32],
    /// `H("sotto/v1 batch-answer" ‖ …)`.
    pub answer_digest: [u8; 32],
}

/// A signed statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// SHA-256 of the payload.
    pub digest: [u8; 32],
    /// The serialised envelope, where it may be in the log and is not above [`MAX_STATEMENT`].
    pub envelope: Option<Vec<u8>>,
}

/// A step of a follow-up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Its number, from 0.
    pub number: u32,
    /// The clear part as it was signed.
    pub clear: Vec<u8>,
}

impl Entry {
    /// An entry that says no more than who did what and when.
    #[must_use]
    pub fn new(
        id: EntryId,
        action: Action,
        actor: SpiffeId,
        community: CommunityId,
        at: Timestamp,
        software: &str,
    ) -> Self {
        Self {
            id,
            action,
            actor,
            community,
            at,
            software: software.to_owned(),
            object: Object::default(),
            recipient: None,
            grounds: None,
            change: None,
            batch: None,
            limits: None,
            detail: String::new(),
            statement: None,
            step: None,
        }
    }

    /// Whether `node` did it, received something by it, or is what it is about.
    pub fn concerns(&self, node: &NodeId) -> bool {
        self.is_for(node) || self.object.node.as_ref() == Some(node)
    }

    /// Whether `node` may read it: it did it, or received something by it.
    pub fn is_for(&self, node: &NodeId) -> bool {
        self.actor.node().as_ref() == Some(node) || self.recipient.as_ref() == Some(node)
    }
}
