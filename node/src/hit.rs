//! A hit as this node knows it (protocol §7, workflow.md "Hit").

pub mod standing;
pub mod thread;

use sotto_common::error::{Error, Result};
use sotto_common::hit::HitState;
use sotto_common::ids::{Epoch, HitId, NodeId, RecordRef};
use sotto_common::publication::FilterLabels;
use sotto_common::selector::{MatchClass, Policy};
use sotto_common::time::Timestamp;
use sotto_proto::convert::{epoch, handling_code, id, labels, text, timestamp, to_timestamp};
use sotto_proto::v1;

/// A hit of this node; it never holds a selector or a tag.
#[derive(Clone, PartialEq, Debug)]
pub struct Hit {
    /// Its id.
    pub id: HitId,
    /// The epoch it was found in.
    pub epoch: Epoch,
    /// The policy.
    pub policy: Policy,
    /// What was asked for, as this node named it.
    pub record_ref: RecordRef,
    /// Who holds it.
    pub holder: NodeId,
    /// Where it stands.
    pub state: HitState,
    /// Version of the holder's filter that matched last.
    pub filter_version: u64,
    /// `f_total` of protocol §7.
    pub false_positive: f64,
    /// The posterior of protocol §7.
    pub posterior: f64,
    /// When it matched first.
    pub first_seen: Timestamp,
    /// When it matched last.
    pub last_seen: Timestamp,
    /// Of a `FOLLOWED_UP` hit: when it was first probed without a match since it matched last.
    pub unmatched_since: Option<Timestamp>,
    /// What the holder says of the version that matched last. Answers do not tell it, the broker's
    /// stream does.
    pub labels: FilterLabels,
}

impl TryFrom<v1::Hit> for Hit {
    type Error = Error;

    fn try_from(wire: v1::Hit) -> Result<Self> {
        let state = v1::HitState::try_from(wire.state)
            .ok()
            .and_then(v1::HitState::domain)
            .ok_or_else(|| Error::field("state", "a state of workflow.md"))?;
        let probability = |field: &'static str, value: f64| {
            // Not so for what is no number either.
            if (0.0..=1.0).contains(&value) {
                return Ok(value);
            }
            Err(Error::field(field, "a probability, from 0 to 1"))
        };
        Ok(Self {
            id: id("hit_id", &wire.hit_id, HitId::from_slice)?,
            epoch: epoch(wire.epoch)?,
            policy: text("policy", &wire.policy)?,
            record_ref: id("record_ref", &wire.record_ref, RecordRef::from_slice)?,
            holder: text("holder", &wire.holder)?,
            state,
            filter_version: wire.filter_version,
            false_positive: probability(
                "false_positive_probability",
                wire.false_positive_probability,
            )?,
            posterior: probability("posterior", wire.posterior)?,
            first_seen: timestamp("first_seen", wire.first_seen)?,
            last_seen: timestamp("last_seen", wire.last_seen)?,
            unmatched_since: wire
                .unmatched_since
                .map(|at| timestamp("unmatched_since", Some(at)))
                .transpose()?,
            labels: labels(&wire.contact_unit, wire.handling_code, &wire.handling_text)?,
        })
    }
}

/// Below this posterior a match is weak: it is more probably by chance than true.
const WEAK_POSTERIOR: f64 = 0.5;

impl Hit {
    /// Whether it cannot be confirmed without a second factor: its policy says little, or it is
    /// more probably by chance than true.
    pub fn needs_second_factor(&self) -> bool {
        self.policy.match_class() == MatchClass::Weak || self.posterior < WEAK_POSTERIOR
    }

    /// The hit on the wire; the community is the node's own.
    pub fn into_wire(self, community: String) -> v1::Hit {
        v1::Hit {
            hit_id: self.id.as_bytes().to_vec().into(),
            community,
            epoch: self.epoch.get(),
            policy: self.policy.name().to_owned(),
            record_ref: self.record_ref.as_bytes().to_vec().into(),
            holder: self.holder.to_string(),
            state: v1::HitState::from(self.state).into(),
            filter_version: self.filter_version,
            false_positive_probability: self.false_positive,
            posterior: self.posterior,
            first_seen: Some(to_timestamp(self.first_seen)),
            last_seen: Some(to_timestamp(self.last_seen)),
            unmatched_since: self.unmatched_since.map(to_timestamp),
            contact_unit: self.labels.contact_unit().to_owned(),
            handling_code: handling_code(&self.labels).into(),
            handling_text: self.labels.handling_text().to_owned(),
        }
    }
}
