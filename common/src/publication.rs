//! Publications: the header of a filter, and its states (protocol §5.4, §6).

mod labels;

use std::collections::BTreeSet;

use crate::epoch::Kid;
use crate::error::{Error, ErrorCode, Result};
use crate::filter::{FilterParams, Salt};
use crate::grounds::codes;
use crate::ids::{CommunityId, Epoch, NodeId, PublicationId};
use crate::selector::Policy;
use crate::time::{CLOCK_SKEW, Timestamp};

pub use labels::{FilterLabels, MAX_CONTACT_UNIT};

/// Most bytes in one chunk of an upload (protocol §6).
pub const MAX_CHUNK: usize = 1024 * 1024;

codes! {
    /// Where a publication stands.
    PublicationState {
        /// Announced; bits are missing.
        Uploading = "UPLOADING",
        /// Probes are tested against it.
        Active = "ACTIVE",
        /// A newer base took its place.
        Replaced = "REPLACED",
        /// Its holder withdrew it.
        Withdrawn = "WITHDRAWN",
        /// Its time, or its epoch's, is over.
        Expired = "EXPIRED",
        /// Its bits broke a rule of protocol §5.3.
        Refused = "REFUSED",
    }
}

impl PublicationState {
    /// Whether the state machine has this move.
    pub const fn may_become(self, to: Self) -> bool {
        matches!(
            (self, to),
            (
                Self::Uploading,
                Self::Active | Self::Refused | Self::Withdrawn | Self::Expired
            ) | (
                Self::Active,
                Self::Replaced | Self::Withdrawn | Self::Expired
            )
        )
    }

    /// Moves on.
    ///
    /// # Errors
    /// `PUBLICATION_STATE`, naming both states.
    pub fn transition(self, to: Self) -> Result<Self> {
        if self.may_become(to) {
            Ok(to)
        } else {
            Err(Error::new(
                ErrorCode::PublicationState,
                format!("a publication in state {self} cannot become {to}"),
            ))
        }
    }
}

/// The place of a publication in its holder's stack (protocol §5.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayerRole {
    /// Replaces the stack.
    Base,
    /// Adds to the base of this version.
    SupplementOf(u64),
}

/// What describes one published filter (protocol §6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilterHeader {
    /// Who publishes.
    pub holder: NodeId,
    /// Which publication.
    pub publication: PublicationId,
    /// The community.
    pub community: CommunityId,
    /// The epoch.
    pub epoch: Epoch,
    /// The policy.
    pub policy: Policy,
    /// The holder's corpus digest.
    pub forms: [u8; 32],
    /// The epoch key that the tags were made with.
    pub kid: Kid,
    /// Class, k and pages.
    pub params: FilterParams,
    /// The salt; known to holder and broker only.
    pub salt: Salt,
    /// Base or supplement.
    pub role: LayerRole,
    /// Version, counted per (holder, policy, epoch) from 1.
    pub version: u64,
    /// H(bits).
    pub digest: [u8; 32],
    /// Members that may match; empty = all.
    pub audience: BTreeSet<NodeId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops matching.
    pub expires_at: Timestamp,
    /// What it says to those who match it.
    pub labels: FilterLabels,
}

impl FilterHeader {
    /// Whether `prober` may match this filter.
    pub fn admits(&self, prober: &NodeId) -> bool {
        self.audience.is_empty() || self.audience.contains(prober)
    }

    /// Checks the times of a header against the clock and the end of its epoch.
    ///
    /// # Errors
    /// `INVALID_FIELD`, naming the field.
    pub fn check_times(&self, now: Timestamp, epoch_ends: Timestamp) -> Result<()> {
        if self.created_at > now.plus(CLOCK_SKEW) {
            return Err(Error::field(
                "created_at",
                "more than 5 minutes ahead of the broker",
            ));
        }
        if self.expires_at <= now || self.expires_at > epoch_ends {
            return Err(Error::field(
                "expires_at",
                "after now, and at most the end of the epoch",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uploading_and_active_publications_move() {
        use PublicationState as S;
        for &from in S::ALL {
            for &to in S::ALL {
                let allowed = match from {
                    S::Uploading => {
                        matches!(to, S::Active | S::Refused | S::Withdrawn | S::Expired)
                    }
                    S::Active => matches!(to, S::Replaced | S::Withdrawn | S::Expired),
                    S::Replaced | S::Withdrawn | S::Expired | S::Refused => false,
                };
                match from.transition(to) {
                    Ok(_) => assert!(allowed, "{from} → {to}"),
                    Err(error) => {
                        assert!(
                            !allowed && error.text.contains(from.as_str()),
                            "{from} → {to}"
                        );
                    }
                }
            }
        }
    }
}
