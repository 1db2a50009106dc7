//! Who belongs to a community and what its epochs fix (protocol §8): key statements, manifests,
//! profiles, confirmations. Signing and wire forms are elsewhere; the rules are here.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::dsse::VerifyingKey;
use crate::epoch::{KeyCommitment, Kid};
use crate::error::{Error, ErrorCode, Result};
use crate::filter::check_profile_k;
use crate::grounds::codes;
use crate::ids::{CommunityId, Epoch, NodeId};
use crate::secret::Tag;
use crate::selector::Policy;
use crate::time::{CLOCK_SKEW, Timestamp};

/// An epoch lasts at most this long (protocol §8).
pub const MAX_EPOCH: Duration = Duration::from_hours(31 * 24);

/// An epoch is accepted beside the next one for at most this long (protocol §8).
pub const MAX_OVERLAP: Duration = Duration::from_hours(24);

/// Hits of one (prober, holder, policy, day) beyond this are quarantined, by default (protocol §7).
pub const DEFAULT_HIT_CAP: u32 = 1000;

/// Record refs per (node, policy, day), by default (protocol §7).
pub const DEFAULT_DAILY_REFS: u64 = 10_000;

/// Most members of an epoch that this implementation takes.
pub const MAX_MEMBERS: usize = 1000;

const DAY: Duration = Duration::from_hours(24);

codes! {
    /// Where an epoch stands at the broker (protocol §8).
    EpochState {
        /// Opened by its custodian; members confirm.
        Open = "OPEN",
        /// Publications and probes are taken, between its times.
        Active = "ACTIVE",
        /// Ended by time, by its custodian, or by a suspension.
        Ended = "ENDED",
    }
}

/// When the holder learns of a hit (protocol §7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NotifyHolder {
    /// When the follow-up arrives.
    #[default]
    OnFollowUp,
    /// At once.
    OnHit,
}

/// What a community has agreed on for one policy.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PolicyProfile {
    /// The policy.
    pub policy: Policy,
    /// Positions per tag in its filters.
    pub k: u8,
    /// Prior probability that a probed selector is held by a given holder, 0 < π < 1.
    pub prior: f64,
}

/// How long a community keeps things.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Hits and log openings.
    pub hits: Duration,
    /// Follow-up payloads, from CLOSED.
    pub follow_ups: Duration,
    /// Until an untouched hit expires.
    pub untouched_hits: Duration,
}

impl Default for Retention {
    /// The defaults of workflow.md.
    fn default() -> Self {
        Self {
            hits: DAY * 1095,
            follow_ups: DAY * 180,
            untouched_hits: DAY * 30,
        }
    }
}

/// What a community has agreed on (protocol §8).
#[derive(Clone, PartialEq, Debug)]
pub struct Profile {
    policies: Vec<PolicyProfile>,
    /// Hits of one (prober, holder, policy, day) beyond this are quarantined.
    pub hit_cap: u32,
    /// When the holder learns of a hit.
    pub notify_holder: NotifyHolder,
    /// How long things are kept.
    pub retention: Retention,
    /// Cosignatures that make a checkpoint count; `None` = more than two thirds of the members.
    pub witness_quorum: Option<u32>,
}

impl Profile {
    /// A profile with the defaults for everything but its policies.
    ///
    /// # Errors
    /// `MANIFEST_INVALID` for no policy, a policy twice, k outside 20–40 (protocol §5.1), or a
    /// prior outside (0, 1).
    pub fn new(policies: Vec<PolicyProfile>) -> Result<Self> {
        let distinct: BTreeSet<_> = policies.iter().map(|p| p.policy).collect();
        if policies.is_empty() || distinct.len() != policies.len() {
            return Err(invalid(
                "a profile has at least one policy, and each at most once",
            ));
        }
        if policies.iter().any(|p| check_profile_k(p.k).is_err()) {
            return Err(invalid("k is 20 to 40"));
        }
        if policies.iter().any(|p| !(p.prior > 0.0 && p.prior < 1.0)) {
            return Err(invalid("a prior is above 0 and below 1"));
        }
        Ok(Self {
            policies,
            hit_cap: DEFAULT_HIT_CAP,
            notify_holder: NotifyHolder::default(),
            retention: Retention::default(),
            witness_quorum: None,
        })
    }

    /// The policies in use.
    pub fn policies(&self) -> &[PolicyProfile] {
        &self.policies
    }

    /// The row of one policy.
    ///
    /// # Errors
    /// `POLICY_UNKNOWN` if the community does not use it.
    pub fn policy(&self, policy: Policy) -> Result<&PolicyProfile> {
        self.policies
            .iter()
            .find(|p| p.policy == policy)
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::PolicyUnknown,
                    "the profile does not have this policy",
                )
                .about(policy.name())
            })
    }
}

/// A public key to seal to, by its KEM id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KemKey {
    /// KEM id of RFC 9180, e.g. 0x0020.
    pub kem: u16,
    /// The serialised key.
    pub key: Vec<u8>,
}

/// The public keys of one node: of its key statement, and of its row in a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberKeys {
    /// The node.
    pub node: NodeId,
    /// Verifies its statements; its fingerprint is what members pin.
    pub signing: VerifyingKey,
    /// Verifies its cosignatures (protocol §11).
    pub cosigning: VerifyingKey,
    /// Keys to seal to, one per KEM.
    pub hpke: Vec<KemKey>,
}

/// What a node says of its own keys (protocol §8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyStatement {
    /// The keys.
    pub keys: MemberKeys,
    /// The community that they are for.
    pub community: CommunityId,
    /// First epoch in which they are to be used.
    pub valid_from: Epoch,
}

/// What a manifest fixes for one policy (protocol §4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestPolicy {
    /// The policy.
    pub policy: Policy,
    /// The canary tags under the epoch key.
    pub canary_tags: Vec<Tag>,
    /// The corpus digest.
    pub forms: [u8; 32],
}

/// One epoch as its custodian opens it (protocol §8).
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    /// The community.
    pub community: CommunityId,
    /// The epoch.
    pub epoch: Epoch,
    /// Who made it.
    pub custodian: NodeId,
    /// Every member, the custodian included.
    pub members: Vec<MemberKeys>,
    /// KC.
    pub key_commitment: KeyCommitment,
    /// Canary tags and forms, a row per policy of the profile.
    pub policies: Vec<ManifestPolicy>,
    /// The values that hold in this epoch.
    pub profile: Profile,
    /// Not active before.
    pub not_before: Timestamp,
    /// Ends at the latest.
    pub not_after: Timestamp,
}

impl Manifest {
    /// Checks what a manifest must hold by itself, whoever receives it.
    ///
    /// # Errors
    /// `MANIFEST_INVALID`, saying which rule is broken.
    pub fn validate(&self) -> Result<()> {
        let nodes: BTreeSet<_> = self.members.iter().map(|m| &m.node).collect();
        if nodes.len() != self.members.len() || nodes.len() > MAX_MEMBERS {
            return Err(invalid(
                "a member stands once in a manifest, and there are at most 1000",
            ));
        }
        if !nodes.contains(&self.custodian) {
            return Err(invalid("the custodian is a member"));
        }
        if self.not_after <= self.not_before || self.not_after > self.not_before.plus(MAX_EPOCH) {
            return Err(invalid("an epoch lasts more than 0 and at most 31 days"));
        }
        // PROTOCOL-NOTES §11: no hit of such an epoch could ever be verified.
        let members = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let quorum = self.profile.witness_quorum;
        if quorum.is_some_and(|quorum| !(1..=members).contains(&quorum)) {
            return Err(invalid(
                "a witness quorum is at least 1 and at most the number of members",
            ));
        }
        let profile: Vec<_> = self.profile.policies().iter().map(|p| p.policy).collect();
        let rows: Vec<_> = self.policies.iter().map(|p| p.policy).collect();
        if profile != rows {
            return Err(invalid(
                "the manifest has a row for each policy of its profile, in order",
            ));
        }
        if self
            .policies
            .iter()
            .any(|p| p.canary_tags.is_empty() || p.canary_tags.len() > 64)
        {
            return Err(invalid("a policy has 1 to 64 canary tags"));
        }
        Ok(())
    }

    /// The row of a member.
    ///
    /// # Errors
    /// `NOT_A_MEMBER` if the node is not in this epoch.
    pub fn member(&self, node: &NodeId) -> Result<&MemberKeys> {
        self.members
            .iter()
            .find(|m| m.node == *node)
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::NotAMember,
                    "this node is not a member of the epoch",
                )
            })
    }

    /// Canary tags and forms of a policy.
    ///
    /// # Errors
    /// `POLICY_UNKNOWN` if the epoch does not have it.
    pub fn policy(&self, policy: Policy) -> Result<&ManifestPolicy> {
        self.policies
            .iter()
            .find(|p| p.policy == policy)
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::PolicyUnknown,
                    "the epoch does not have this policy",
                )
                .about(policy.name())
            })
    }

    /// The public id of the epoch key (protocol §3).
    pub fn kid(&self) -> Kid {
        self.key_commitment.kid()
    }

    /// Whether `now` lies within the epoch's times, allowing for the skew of clocks at its start.
    pub fn covers(&self, now: Timestamp) -> bool {
        now.plus(CLOCK_SKEW) >= self.not_before && now < self.not_after
    }
}

/// A member confirms the key of a manifest (protocol §8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyConfirmation {
    /// The community.
    pub community: CommunityId,
    /// The epoch.
    pub epoch: Epoch,
    /// The member.
    pub node: NodeId,
    /// KID as the member computed it.
    pub kid: Kid,
    /// H of the manifest's signed body.
    pub manifest_digest: [u8; 32],
}

fn invalid(text: &'static str) -> Error {
    Error::new(ErrorCode::ManifestInvalid, text)
}
