//! Whether enough witnesses stand behind a checkpoint (protocol §11): at least the profile's
//! quorum, none of them older than 24 hours.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::checkpoint::SignedCheckpoint;
use super::cosignature::{CosignatureError, WitnessKey};
use super::note::{KeyId, KeyName};
use crate::ids::{InvalidId, NodeId};
use crate::membership::Manifest;
use crate::time::{CLOCK_SKEW, Timestamp};

/// A cosignature counts for this long (protocol §11).
pub const MAX_COSIGNATURE_AGE: Duration = Duration::from_hours(24);

/// A cosignature by a known witness that does not hold: the whole note is refused, since whoever
/// made it put together what does not belong together (c2sp.org/signed-note).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the cosignature of {node} does not hold: {error}")]
pub struct BadCosignature {
    /// Whose it claims to be.
    pub node: NodeId,
    /// What is wrong with it.
    pub error: CosignatureError,
}

/// Which cosignatures count (PROTOCOL-NOTES §11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// At most 24 hours old at this instant, and not ahead of it by more than clocks differ.
    AtMostADay(Timestamp),
    /// Of whatever time: for a receipt that is looked at years later.
    Any,
}

impl Freshness {
    fn admits(self, cosigned: Timestamp) -> bool {
        match self {
            Self::Any => true,
            Self::AtMostADay(now) => {
                cosigned <= now.plus(CLOCK_SKEW) && now.since(cosigned) <= MAX_COSIGNATURE_AGE
            }
        }
    }
}

/// The witnesses of an epoch, and how many of them must stand behind a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WitnessPolicy {
    witnesses: BTreeMap<(KeyName, KeyId), WitnessKey>,
    required: usize,
}

impl WitnessPolicy {
    /// Every member of the manifest, and the quorum of its profile.
    ///
    /// # Errors
    /// [`InvalidId`] for a text that is no trust domain.
    pub fn of_manifest(manifest: &Manifest, trust_domain: &str) -> Result<Self, InvalidId> {
        let keys = manifest
            .members
            .iter()
            .map(|row| WitnessKey::new(trust_domain, row.node.clone(), row.cosigning))
            .collect::<Result<Vec<_>, _>>()?;
        let chosen = manifest.profile.witness_quorum;
        let required = chosen.map_or_else(
            || default_quorum(keys.len()),
            |quorum| usize::try_from(quorum).unwrap_or(usize::MAX),
        );
        Ok(Self::new(keys, required))
    }

    /// Some witnesses and a number; at least one is always required.
    #[must_use]
    pub fn new(witnesses: Vec<WitnessKey>, required: usize) -> Self {
        let by_key = |witness: WitnessKey| {
            let key = witness.note_key();
            ((key.name().clone(), key.id()), witness)
        };
        Self {
            witnesses: witnesses.into_iter().map(by_key).collect(),
            required: required.max(1),
        }
    }

    /// How many witnesses must stand behind a checkpoint.
    pub const fn required(&self) -> usize {
        self.required
    }

    /// Who stands behind a checkpoint. Signatures by others than these witnesses are ignored.
    ///
    /// # Errors
    /// [`BadCosignature`].
    pub fn evaluate(
        &self,
        signed: &SignedCheckpoint,
        freshness: Freshness,
    ) -> Result<Quorum, BadCosignature> {
        let mut cosigned = BTreeMap::new();
        let mut keys = BTreeSet::new();
        for signature in signed.note().signatures() {
            // A clone a line, of at most 1024: the map is keyed by both.
            let key = (signature.name.clone(), signature.id);
            let Some(witness) = self.witnesses.get(&key) else {
                continue;
            };
            let node = witness.node();
            let at = witness.verify(signed.checkpoint(), signature);
            let at = at.map_err(|error| BadCosignature {
                node: node.clone(),
                error,
            })?;
            if freshness.admits(at) {
                keys.insert(witness.note_key().key().as_bytes());
                let newest = cosigned.entry(node.clone()).or_insert(at);
                *newest = at.max(*newest);
            }
        }
        Ok(Quorum {
            required: self.required,
            keys: keys.len(),
            cosigned,
        })
    }
}

/// More than two thirds of the members (protocol §11, the default).
pub const fn default_quorum(members: usize) -> usize {
    members * 2 / 3 + 1
}

/// Who stands behind a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quorum {
    required: usize,
    keys: usize,
    cosigned: BTreeMap<NodeId, Timestamp>,
}

impl Quorum {
    /// How many are required.
    pub const fn required(&self) -> usize {
        self.required
    }

    /// How many there are, by their keys. What is signed does not name the cosigner: a member that
    /// calls another's key its own can sign nothing with it, but would be counted beside it. A
    /// key counts once (PROTOCOL-NOTES §11).
    pub const fn count(&self) -> usize {
        self.keys
    }

    /// Whether they are enough.
    pub const fn is_reached(&self) -> bool {
        self.keys >= self.required
    }

    /// The nodes, and the newest cosignature of each.
    pub const fn cosigned(&self) -> &BTreeMap<NodeId, Timestamp> {
        &self.cosigned
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::{LogKey, LogSigner};
    use super::super::cosignature::Cosigner;
    use super::super::merkle::TreeHead;
    use super::*;
    use crate::dsse::SigningKey;
    use crate::epoch::{Gms, KeySchedule};
    use crate::error::ErrorCode;
    use crate::ids::Epoch;
    use crate::membership::{ManifestPolicy, MemberKeys, PolicyProfile, Profile};
    use crate::secret::{Secret, Tag};
    use crate::selector::Policy;

    const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);
    const HOUR: Duration = Duration::from_hours(1);

    fn cosigner(node: &str, seed: u8) -> Cosigner {
        let signing = SigningKey::from_seed(&Secret::new([seed; 32]));
        Cosigner::new("sotto.example", node.parse().unwrap(), signing).unwrap()
    }

    fn cosigners() -> [Cosigner; 4] {
        [("at-bk", 1), ("be-fiu", 2), ("de-bka", 3), ("nl-fiu", 4)]
            .map(|(node, seed)| cosigner(node, seed))
    }

    fn policy(required: usize) -> WitnessPolicy {
        let keys = cosigners().map(|cosigner| cosigner.key().clone());
        WitnessPolicy::new(keys.to_vec(), required)
    }

    fn signed() -> SignedCheckpoint {
        let origin = "broker.example/sotto/euro-cyber".parse().unwrap();
        let signing = SigningKey::from_seed(&Secret::new([9; 32]));
        LogSigner::new(origin, signing).sign(TreeHead::empty())
    }

    fn cosigned(by: &[(Cosigner, Timestamp)]) -> SignedCheckpoint {
        let mut signed = signed();
        for (cosigner, at) in by {
            let cosignature = cosigner.cosign(signed.checkpoint(), *at);
            signed.put_cosignature(cosignature).unwrap();
        }
        signed
    }

    #[test]
    fn the_default_is_more_than_two_thirds() {
        for (members, quorum) in [
            (1, 1),
            (2, 2),
            (3, 3),
            (4, 3),
            (5, 4),
            (6, 5),
            (7, 5),
            (9, 7),
        ] {
            assert_eq!(default_quorum(members), quorum, "{members}");
            assert!(3 * quorum > 2 * members && 3 * (quorum - 1) <= 2 * members);
        }
        assert_eq!(policy(0).required(), 1);
    }

    fn manifest(quorum: Option<u32>) -> Manifest {
        let (custodian, epoch) = ("at-bk".parse().unwrap(), Epoch::new(1).unwrap());
        let community = "euro-cyber".parse().unwrap();
        let gms = Gms::from_secret(Secret::new([1; 32]));
        let key_commitment = KeySchedule::derive(&gms, &community, epoch).key_commitment();
        let member = |cosigner: Cosigner| MemberKeys {
            node: cosigner.key().node().clone(),
            signing: SigningKey::from_seed(&Secret::new([9; 32])).verifying_key(),
            cosigning: *cosigner.key().note_key().key(),
            hpke: Vec::new(),
        };
        let policy = Policy::Phone;
        let (k, prior) = (30, 0.01);
        let mut profile = Profile::new(vec![PolicyProfile { policy, k, prior }]).unwrap();
        profile.witness_quorum = quorum;
        Manifest {
            community,
            epoch,
            custodian,
            members: cosigners().map(member).to_vec(),
            key_commitment,
            policies: vec![ManifestPolicy {
                policy,
                canary_tags: vec![Tag::new([1; 16])],
                forms: [2; 32],
            }],
            profile,
            not_before: NOW,
            not_after: NOW.plus(HOUR),
        }
    }

    #[test]
    fn the_witnesses_are_the_members_of_the_manifest() {
        for (chosen, required) in [(None, 3), (Some(2), 2), (Some(4), 4)] {
            let manifest = manifest(chosen);
            assert!(manifest.validate().is_ok());
            let members = WitnessPolicy::of_manifest(&manifest, "sotto.example").unwrap();
            assert_eq!(members, policy(required));
        }
        assert!(WitnessPolicy::of_manifest(&manifest(None), "Sotto").is_err());
    }

    #[test]
    fn a_manifest_with_a_quorum_that_cannot_be_reached_is_refused() {
        for impossible in [0, 5, u32::MAX] {
            let error = manifest(Some(impossible)).validate().unwrap_err();
            assert_eq!(error.code, ErrorCode::ManifestInvalid, "{impossible}");
        }
    }

    #[test]
    fn a_quorum_is_reached_by_enough_witnesses_and_no_fewer() {
        let [at, be, de, nl] = cosigners();
        let two = cosigned(&[(at.clone(), NOW), (be.clone(), NOW)]);
        let fresh = Freshness::AtMostADay(NOW);
        assert!(!policy(3).evaluate(&two, fresh).unwrap().is_reached());
        assert!(!policy(1).evaluate(&signed(), fresh).unwrap().is_reached());
        let three = cosigned(&[(at, NOW), (be, NOW), (de.clone(), NOW)]);
        let quorum = policy(3).evaluate(&three, fresh).unwrap();
        assert!(quorum.is_reached());
        assert!(quorum.cosigned().contains_key(de.key().node()));
        assert!(!quorum.cosigned().contains_key(nl.key().node()));
    }

    #[test]
    fn old_and_future_cosignatures_do_not_count() {
        let [at, ..] = cosigners();
        let day = MAX_COSIGNATURE_AGE;
        let second = Duration::from_secs(1);
        for (when, counts) in [
            (NOW, true),
            (NOW.minus(day), true),
            (NOW.minus(day + second), false),
            (NOW.plus(CLOCK_SKEW), true),
            (NOW.plus(CLOCK_SKEW + second), false),
            (Timestamp::from_seconds(i64::MAX), false),
        ] {
            let note = cosigned(&[(at.clone(), when)]);
            let quorum = policy(1)
                .evaluate(&note, Freshness::AtMostADay(NOW))
                .unwrap();
            assert_eq!(quorum.is_reached(), counts, "{when}");
            assert!(
                policy(1)
                    .evaluate(&note, Freshness::Any)
                    .unwrap()
                    .is_reached()
            );
        }
    }

    #[test]
    fn the_newest_cosignature_of_a_witness_counts_and_counts_once() {
        let [at, ..] = cosigners();
        let bytes = signed().to_string();
        let lines = [NOW.minus(HOUR * 30), NOW, NOW.minus(HOUR)]
            .map(|when| at.cosign(signed().checkpoint(), when).to_string());
        let note = format!("{bytes}{}\n", lines.join("\n"));
        let log = SigningKey::from_seed(&Secret::new([9; 32])).verifying_key();
        let key = LogKey::new(signed().checkpoint().origin.clone(), log);
        let note = SignedCheckpoint::open(note.as_bytes(), &key).unwrap();
        let quorum = policy(2)
            .evaluate(&note, Freshness::AtMostADay(NOW))
            .unwrap();
        let witness = at.key().node().clone();
        assert_eq!(quorum.cosigned(), &BTreeMap::from([(witness, NOW)]));
        assert_eq!(quorum.count(), 1);
    }

    #[test]
    fn strangers_are_ignored_and_bad_cosignatures_refuse_the_note() {
        let [at, be, ..] = cosigners();
        let stranger = cosigner("fr-dcpj", 8);
        let note = cosigned(&[(at.clone(), NOW), (stranger, NOW)]);
        let quorum = policy(2).evaluate(&note, Freshness::Any).unwrap();
        assert_eq!(quorum.count(), 1);
        let mut bad = be.cosign(signed().checkpoint(), NOW);
        bad.signature[20] ^= 1;
        let mut note = cosigned(&[(at, NOW)]);
        note.put_cosignature(bad).unwrap();
        let error = policy(1).evaluate(&note, Freshness::Any).unwrap_err();
        assert_eq!(
            (&error.node, error.error),
            (be.key().node(), CosignatureError::Invalid)
        );
    }

    #[test]
    fn a_key_that_two_members_call_their_own_counts_once() {
        let [at, ..] = cosigners();
        let thief = cosigner("be-fiu", 1);
        let keys = vec![at.key().clone(), thief.key().clone()];
        let note = cosigned(&[(at, NOW), (thief, NOW)]);
        let quorum = WitnessPolicy::new(keys, 2)
            .evaluate(&note, Freshness::Any)
            .unwrap();
        assert!(!quorum.is_reached());
        assert_eq!(quorum.count(), 1);
    }
}
