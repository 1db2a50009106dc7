//! Presence before particulars (protocol §10): the holder proves that it has the selector before
//! it learns anything else.

use crate::ids::{FollowUpId, NodeId};
use crate::label::{Context, Label};
use crate::secret::{Secret, Selector};

/// The proof of presence: only who has the selector in clear can make it. It is a digest of the
/// selector, so that it is as secret as the selector is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresenceProof(Secret<32>);

impl PresenceProof {
    /// `H("sotto/v1 held" ‖ LP(canonical) ‖ follow-up id[16] ‖ LP(holder) ‖ LP(requester))`.
    ///
    /// # Panics
    /// For a canonical value above 65,535 bytes, which there is none of.
    #[must_use]
    pub fn new(
        canonical: &Selector,
        follow_up: FollowUpId,
        holder: &NodeId,
        requester: &NodeId,
    ) -> Self {
        let context = Context::new(Label::Held)
            .text(canonical.expose())
            .raw(follow_up.as_bytes())
            .text(holder.as_str())
            .text(requester.as_str());
        Self(Secret::new(context.digest()))
    }

    /// From a slice of exactly 32 bytes, else `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Secret::from_slice(bytes).map(Self)
    }

    /// The digest, to be sealed to the requester.
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::os_rng;
    use crate::time::Timestamp;

    #[test]
    fn a_proof_holds_for_one_selector_one_follow_up_and_these_roles() {
        let id = |seconds| FollowUpId::generate(Timestamp::from_seconds(seconds), &mut os_rng());
        let (one, two) = (id(1), id(2));
        let (nl, de): (NodeId, NodeId) = ("nl-fiu".parse().unwrap(), "de-bka".parse().unwrap());
        let selector = Selector::new("+31612345678");
        let proof = PresenceProof::new(&selector, one, &de, &nl);
        assert_eq!(proof, PresenceProof::new(&selector, one, &de, &nl));
        for other in [
            PresenceProof::new(&Selector::new("+31612345679"), one, &de, &nl),
            PresenceProof::new(&selector, two, &de, &nl),
            PresenceProof::new(&selector, one, &nl, &de),
        ] {
            assert_ne!(proof, other);
        }
        assert!(!format!("{proof:?}").contains(&hex::encode(proof.secret().expose())));
    }
}
