//! What the ledger holds, as domain types.

mod follow_up_columns;
mod follow_ups;

use sotto_common::epoch::Kid;
use sotto_common::error::{Error, Result};
use sotto_common::grounds::Grounds;
use sotto_common::hit::{HitDecision, HitState};
use sotto_common::ids::{
    CommunityId, EntryId, Epoch, HitId, NodeId, PublicationId, RecordRef, ReplicaId, SessionId,
};
use sotto_common::membership::{DEFAULT_DAILY_REFS, EpochState};
use sotto_common::publication::{FilterLabels, PublicationState};
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;

use crate::objects::ObjectKey;
pub(super) use follow_up_columns::{ClockColumns, items_text, outcomes, outcomes_text, terms};
pub(crate) use follow_ups::{
    AttachmentChunk, AttachmentRecord, FollowUpEvent, FollowUpEventRecord, FollowUpFilter,
    FollowUpRange, FollowUpRecord, Presence, PresenceCount, StepRecord,
};

/// The largest class that a node may publish before the operator says otherwise: 14,552 tags.
/// protocol §5.2 leaves it to the operator (PROTOCOL-NOTES §5.2).
const DEFAULT_MAX_CLASS: u8 = 12;

/// An enrolled node.
#[derive(Clone, Debug)]
pub(crate) struct NodeRecord {
    pub(crate) node: NodeId,
    pub(crate) enrolled_at: Timestamp,
    /// The operator's reason, if the node is suspended.
    pub(crate) suspended: Option<String>,
    /// Its latest key statement: a serialised DSSE envelope.
    pub(crate) statement: Option<Vec<u8>>,
    /// The signing key that it is bound to.
    pub(crate) signing_key: Option<[u8; 32]>,
}

/// What the operator allows a node in one policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Record refs per UTC day.
    pub(crate) daily_refs: u64,
    /// Largest capacity class.
    pub(crate) max_class: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            daily_refs: DEFAULT_DAILY_REFS,
            max_class: DEFAULT_MAX_CLASS,
        }
    }
}

/// An epoch.
#[derive(Clone, Debug)]
pub(crate) struct EpochRecord {
    pub(crate) epoch: Epoch,
    pub(crate) state: EpochState,
    /// The manifest: a serialised DSSE envelope.
    pub(crate) manifest: Vec<u8>,
    pub(crate) custodian: NodeId,
    pub(crate) kid: Kid,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl EpochRecord {
    pub(crate) const fn times(&self) -> EpochTimes {
        EpochTimes {
            epoch: self.epoch,
            state: self.state,
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }
}

/// When an epoch takes publications and probes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EpochTimes {
    pub(crate) epoch: Epoch,
    pub(crate) state: EpochState,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// A member's part in an epoch.
#[derive(Clone, Debug)]
pub(crate) struct MemberRecord {
    pub(crate) node: NodeId,
    /// A serialised `SealedEpochKey`.
    pub(crate) envelope: Vec<u8>,
    /// Whether the member has confirmed.
    pub(crate) confirmed: bool,
}

/// What a filter stack, a probe session and a hit are about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct StackKey {
    pub(crate) community: CommunityId,
    pub(crate) epoch: Epoch,
    pub(crate) policy: Policy,
}

/// A publication.
#[derive(Clone, Debug)]
pub(crate) struct PublicationRecord {
    pub(crate) id: PublicationId,
    pub(crate) key: StackKey,
    pub(crate) holder: NodeId,
    pub(crate) version: u64,
    pub(crate) supplement_of: Option<u64>,
    pub(crate) state: PublicationState,
    /// The header: a serialised DSSE envelope; empty once the filter is gone.
    pub(crate) header: Vec<u8>,
    pub(crate) digest: [u8; 32],
    pub(crate) class: u8,
    /// f of protocol §5.3; 0 until activated.
    pub(crate) fpr: f64,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    /// What it says to those who match it; stays when the filter is gone.
    pub(crate) labels: FilterLabels,
    /// The generation of the filters that its last move began; 0 while it is uploading.
    pub(crate) generation: u64,
    /// Where its bits are, while it is active.
    pub(crate) object: Option<ObjectKey>,
}

impl PublicationRecord {
    /// This publication moved on in a generation; where it ends, its header, and with it the salt,
    /// is erased, and so is the name of its object.
    ///
    /// # Errors
    /// `PUBLICATION_STATE` for a move that does not exist.
    pub(crate) fn moved(&self, to: PublicationState, generation: u64) -> Result<Self> {
        let ends = to != PublicationState::Active;
        Ok(Self {
            state: self.state.transition(to)?,
            generation,
            header: if ends { vec![] } else { self.header.clone() },
            object: if ends { None } else { self.object.clone() },
            ..self.clone()
        })
    }
}

/// A chunk of an upload that is acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct ChunkRecord {
    pub(crate) publication: PublicationId,
    /// Offset of its first byte.
    pub(crate) start: u64,
    /// In bytes.
    pub(crate) length: u64,
    pub(crate) object: ObjectKey,
}

/// A broker among those on the ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ReplicaRecord {
    pub(crate) id: ReplicaId,
    /// The generation of the filters that it matches with.
    pub(crate) generation: u64,
    /// Whether its lease runs.
    pub(crate) live: bool,
}

/// A probe session.
#[derive(Clone, Debug)]
pub(crate) struct SessionRecord {
    pub(crate) id: SessionId,
    pub(crate) key: StackKey,
    pub(crate) prober: NodeId,
    /// H("sotto/v1 session" ‖ nonce); erased when closed.
    pub(crate) commitment: Option<[u8; 32]>,
    /// Digest of the opening's other fields.
    pub(crate) opening: [u8; 32],
    pub(crate) grounds: Grounds,
    pub(crate) batches: u32,
    pub(crate) refs: u64,
    pub(crate) opened_at: Timestamp,
    pub(crate) closed: bool,
}

/// A recorded answer.
#[derive(Clone, Debug)]
pub(crate) struct BatchRecord {
    pub(crate) session: SessionId,
    pub(crate) number: u32,
    pub(crate) tags_digest: [u8; 32],
    /// A serialised `ProbeMatches`, as it was answered.
    pub(crate) matches: Vec<u8>,
    /// The entry of the log that the batch has; none of batches before there was a log.
    pub(crate) entry: Option<EntryId>,
}

/// What decides on a batch, all of it read at once.
#[derive(Clone, Debug)]
pub(crate) struct BatchStanding {
    pub(crate) session: SessionRecord,
    /// Whether the session's prober may speak in its community.
    pub(crate) is_enrolled: bool,
    pub(crate) epoch: EpochTimes,
    /// Record refs of the prober in the policy on the day, and how many it may have.
    pub(crate) used_refs: u64,
    pub(crate) daily_refs: u64,
    /// The last cursor of the prober's hit stream; 0 = none.
    pub(crate) hit_cursor: u64,
    /// What was answered, if this batch was answered before.
    pub(crate) recorded: Option<BatchRecord>,
}

/// A hit.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct HitRecord {
    pub(crate) id: HitId,
    pub(crate) key: StackKey,
    pub(crate) prober: NodeId,
    pub(crate) record_ref: RecordRef,
    pub(crate) holder: NodeId,
    pub(crate) state: HitState,
    pub(crate) filter_version: u64,
    pub(crate) fpr: f64,
    pub(crate) posterior: f64,
    pub(crate) first_seen: Timestamp,
    pub(crate) last_seen: Timestamp,
    /// Of a `FOLLOWED_UP` hit: when it was first probed without a match since it matched last.
    pub(crate) unmatched_since: Option<Timestamp>,
    /// When its state changed last.
    pub(crate) touched_at: Timestamp,
}

impl HitRecord {
    /// Whether two hits differ in nothing but id, ref and version.
    pub(crate) fn was_found_with(&self, other: &Self) -> bool {
        let like_other = Self {
            id: other.id,
            record_ref: other.record_ref,
            filter_version: other.filter_version,
            ..self.clone()
        };
        like_other == *other
    }

    /// Whether two hits are alike in all that can change.
    pub(crate) fn has_become_as(&self, other: &Self) -> bool {
        let changing = |hit: &Self| {
            let times = (hit.last_seen, hit.touched_at, hit.unmatched_since);
            (hit.state, hit.filter_version, times, hit.fpr, hit.posterior)
        };
        changing(self) == changing(other)
    }
}

/// A hit as its prober reads it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct LabelledHit {
    pub(crate) hit: HitRecord,
    /// What the holder says of the version that matched last.
    pub(crate) labels: FilterLabels,
}

/// A decision about a hit that was taken, as the prober signed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FeedbackRecord {
    pub(crate) hit: HitId,
    /// H of the signed body.
    pub(crate) statement: [u8; 32],
    pub(crate) decision: HitDecision,
    /// A serialised DSSE envelope.
    pub(crate) envelope: Vec<u8>,
    pub(crate) taken_at: Timestamp,
}

/// How the hits of one prober on one version of a holder's filter fared.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct HitStatistic {
    pub(crate) prober: NodeId,
    pub(crate) holder: NodeId,
    pub(crate) policy: Policy,
    pub(crate) epoch: Epoch,
    pub(crate) filter_version: u64,
    pub(crate) hits: u64,
    pub(crate) confirmed: u64,
    pub(crate) false_positives: u64,
    pub(crate) retracted: u64,
    pub(crate) expired: u64,
    pub(crate) mean_fpr: f64,
}

/// Which hits to list; every filter that is given must hold.
#[derive(Clone, Default, Debug)]
pub(crate) struct HitFilter {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) policy: Option<Policy>,
    pub(crate) holder: Option<NodeId>,
    pub(crate) state: Option<HitState>,
    pub(crate) since: Option<Timestamp>,
}

/// What the flood guard counts by (protocol §7).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct GuardKey {
    pub(crate) prober: NodeId,
    pub(crate) holder: NodeId,
    pub(crate) policy: Policy,
    pub(crate) day: i64,
}

/// An event of a prober's hit stream.
#[derive(Clone, Debug)]
pub(crate) struct HitEventRecord {
    pub(crate) cursor: u64,
    pub(crate) hit: LabelledHit,
}

/// What an operator did, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Act<'a> {
    pub(crate) at: Timestamp,
    pub(crate) operator: &'a str,
    pub(crate) community: &'a CommunityId,
    pub(crate) what: &'static str,
    pub(crate) subject: &'a str,
    pub(crate) reason: &'a str,
}

/// A row that this program cannot have written.
pub(crate) fn corrupt(column: &'static str) -> Error {
    Error::internal(format!("the ledger holds a {column} that cannot be read"))
}
