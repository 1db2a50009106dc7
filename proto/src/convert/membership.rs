//! Key statements, manifests, profiles, confirmations, envelopes (protocol §8).

use sotto_common::dsse::{StatementKind, VerifyingKey};
use sotto_common::epoch::{KeyCommitment, Kid};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::NodeId;
use sotto_common::membership::{
    EpochState, KemKey, KeyConfirmation, KeyStatement, Manifest, ManifestPolicy, MemberKeys,
    NotifyHolder, PolicyProfile, Profile, Retention,
};
use sotto_common::sealed::{self, Sealed, Suite};

use super::grounds::enum_both_ways;
use super::{
    FORMAT, Statement, array, check_format, duration, epoch, id, policy, tags, text, timestamp,
    to_duration, to_timestamp,
};
use crate::v1;

/// DHKEM(X25519, HKDF-SHA256): every node has such a key in version 1 (protocol §8).
const X25519_KEM: u16 = Suite::X25519Sha256ChaCha20Poly1305.ids().0;

enum_both_ways!(EpochState {
    Open,
    Active,
    Ended,
});

impl Statement for KeyStatement {
    type Wire = v1::KeyStatement;
    const KIND: StatementKind = StatementKind::KeyStatement;
}

impl Statement for Manifest {
    type Wire = v1::EpochManifest;
    const KIND: StatementKind = StatementKind::EpochManifest;
}

impl Statement for KeyConfirmation {
    type Wire = v1::KeyConfirmation;
    const KIND: StatementKind = StatementKind::KeyConfirmation;
}

impl TryFrom<v1::KeyStatement> for KeyStatement {
    type Error = Error;
    fn try_from(wire: v1::KeyStatement) -> Result<Self> {
        check_format(wire.format)?;
        let keys = v1::ManifestMember {
            node_id: wire.node_id,
            signing_key: wire.signing_key,
            cosigning_key: wire.cosigning_key,
            hpke_keys: wire.hpke_keys,
        };
        Ok(Self {
            keys: keys.try_into()?,
            community: text("community", &wire.community)?,
            valid_from: epoch(wire.valid_from_epoch)?,
        })
    }
}

impl From<KeyStatement> for v1::KeyStatement {
    fn from(statement: KeyStatement) -> Self {
        let keys = v1::ManifestMember::from(statement.keys);
        Self {
            format: FORMAT,
            node_id: keys.node_id,
            community: statement.community.to_string(),
            signing_key: keys.signing_key,
            cosigning_key: keys.cosigning_key,
            hpke_keys: keys.hpke_keys,
            valid_from_epoch: statement.valid_from.get(),
        }
    }
}

impl TryFrom<v1::ManifestMember> for MemberKeys {
    type Error = Error;
    fn try_from(wire: v1::ManifestMember) -> Result<Self> {
        let signing = verifying_key("signing_key", &wire.signing_key)?;
        let cosigning = verifying_key("cosigning_key", &wire.cosigning_key)?;
        // protocol §9: "Cosigning (§11) uses a key of its own."
        if signing == cosigning {
            return Err(Error::field("cosigning_key", "must not be the signing key"));
        }
        let hpke = wire
            .hpke_keys
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<Vec<_>>>()?;
        let x25519 = hpke.iter().filter(|key: &&KemKey| key.kem == X25519_KEM);
        if x25519.count() != 1 || hpke.len() > 4 {
            return Err(Error::field(
                "hpke_keys",
                "one key of KEM 0x0020, and at most 4 in all",
            ));
        }
        Ok(Self {
            node: text("node_id", &wire.node_id)?,
            signing,
            cosigning,
            hpke,
        })
    }
}

impl From<MemberKeys> for v1::ManifestMember {
    fn from(keys: MemberKeys) -> Self {
        let hpke_keys = keys
            .hpke
            .into_iter()
            .map(|key| v1::HpkePublicKey {
                kem: key.kem.into(),
                public_key: key.key.into(),
            })
            .collect();
        Self {
            node_id: keys.node.to_string(),
            signing_key: keys.signing.as_bytes().to_vec().into(),
            cosigning_key: keys.cosigning.as_bytes().to_vec().into(),
            hpke_keys,
        }
    }
}

impl TryFrom<v1::HpkePublicKey> for KemKey {
    type Error = Error;
    fn try_from(wire: v1::HpkePublicKey) -> Result<Self> {
        let kem = u16::try_from(wire.kem).map_err(|_| Error::field("kem", "a 16-bit id"))?;
        let usable = if kem == X25519_KEM {
            let suite = Suite::X25519Sha256ChaCha20Poly1305;
            sealed::HpkePublicKey::from_slice(suite, &wire.public_key).is_ok()
        } else {
            (1..=4096).contains(&wire.public_key.len())
        };
        if !usable {
            return Err(Error::field(
                "public_key",
                "not a key of its KEM, or of small order",
            ));
        }
        Ok(Self {
            kem,
            key: wire.public_key.to_vec(),
        })
    }
}

fn verifying_key(field: &'static str, bytes: &[u8]) -> Result<VerifyingKey> {
    id(field, bytes, VerifyingKey::from_slice)
}

impl TryFrom<v1::EpochManifest> for Manifest {
    type Error = Error;
    fn try_from(wire: v1::EpochManifest) -> Result<Self> {
        check_format(wire.format)?;
        let profile = wire
            .profile
            .ok_or_else(|| Error::field("profile", "must be given"))?;
        let commitment = array("key_commitment", &wire.key_commitment)?;
        let manifest = Self {
            community: text("community", &wire.community)?,
            epoch: epoch(wire.epoch)?,
            custodian: text("custodian", &wire.custodian)?,
            members: wire
                .members
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_>>()?,
            key_commitment: KeyCommitment::new(commitment),
            policies: wire
                .policies
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_>>()?,
            profile: profile.try_into()?,
            not_before: timestamp("not_before", wire.not_before)?,
            not_after: timestamp("not_after", wire.not_after)?,
        };
        manifest.validate()?;
        Ok(manifest)
    }
}

impl From<Manifest> for v1::EpochManifest {
    fn from(manifest: Manifest) -> Self {
        Self {
            format: FORMAT,
            community: manifest.community.to_string(),
            epoch: manifest.epoch.get(),
            custodian: manifest.custodian.to_string(),
            members: manifest.members.into_iter().map(Into::into).collect(),
            key_commitment: manifest.key_commitment.as_bytes().to_vec().into(),
            policies: manifest.policies.into_iter().map(Into::into).collect(),
            profile: Some(manifest.profile.into()),
            not_before: Some(to_timestamp(manifest.not_before)),
            not_after: Some(to_timestamp(manifest.not_after)),
        }
    }
}

impl TryFrom<v1::ManifestPolicy> for ManifestPolicy {
    type Error = Error;
    fn try_from(wire: v1::ManifestPolicy) -> Result<Self> {
        Ok(Self {
            policy: policy(&wire.policy)?,
            canary_tags: tags("canary_tags", &wire.canary_tags)?,
            forms: array("forms", &wire.forms)?,
        })
    }
}

impl From<ManifestPolicy> for v1::ManifestPolicy {
    fn from(row: ManifestPolicy) -> Self {
        Self {
            policy: row.policy.name().to_owned(),
            // Canary tags are public in the community: protocol §4 puts them in the manifest.
            canary_tags: row
                .canary_tags
                .iter()
                .map(|t| t.expose().to_vec().into())
                .collect(),
            forms: row.forms.to_vec().into(),
        }
    }
}

impl TryFrom<v1::PolicyProfile> for PolicyProfile {
    type Error = Error;
    fn try_from(wire: v1::PolicyProfile) -> Result<Self> {
        Ok(Self {
            policy: policy(&wire.policy)?,
            k: u8::try_from(wire.k).map_err(|_| Error::field("k", "20 to 40"))?,
            prior: wire.prior,
        })
    }
}

impl TryFrom<v1::Profile> for Profile {
    type Error = Error;
    fn try_from(wire: v1::Profile) -> Result<Self> {
        let policies = wire
            .policies
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<_>>()?;
        let mut profile = Self::new(policies)?;
        if wire.hit_cap == 0 {
            return Err(Error::field("hit_cap", "at least 1"));
        }
        profile.hit_cap = wire.hit_cap;
        profile.notify_holder = match v1::NotifyHolder::try_from(wire.notify_holder) {
            Ok(v1::NotifyHolder::Unspecified | v1::NotifyHolder::OnFollowUp) => {
                NotifyHolder::OnFollowUp
            }
            Ok(v1::NotifyHolder::OnHit) => NotifyHolder::OnHit,
            Err(_) => {
                return Err(Error::new(
                    ErrorCode::ManifestInvalid,
                    "unknown notify_holder",
                ));
            }
        };
        if let Some(retention) = wire.retention {
            profile.retention = retention.try_into()?;
        }
        profile.witness_quorum = (wire.witness_quorum > 0).then_some(wire.witness_quorum);
        Ok(profile)
    }
}

impl From<Profile> for v1::Profile {
    fn from(profile: Profile) -> Self {
        let policy = |row: &PolicyProfile| v1::PolicyProfile {
            policy: row.policy.name().to_owned(),
            k: row.k.into(),
            prior: row.prior,
        };
        let notify_holder = match profile.notify_holder {
            NotifyHolder::OnFollowUp => v1::NotifyHolder::OnFollowUp,
            NotifyHolder::OnHit => v1::NotifyHolder::OnHit,
        };
        Self {
            policies: profile.policies().iter().map(policy).collect(),
            hit_cap: profile.hit_cap,
            notify_holder: notify_holder.into(),
            retention: Some(v1::Retention {
                hits: to_duration(profile.retention.hits),
                follow_ups: to_duration(profile.retention.follow_ups),
                untouched_hits: to_duration(profile.retention.untouched_hits),
            }),
            witness_quorum: profile.witness_quorum.unwrap_or(0),
        }
    }
}

impl TryFrom<v1::Retention> for Retention {
    type Error = Error;
    fn try_from(wire: v1::Retention) -> Result<Self> {
        let default = Self::default();
        Ok(Self {
            hits: duration("hits", wire.hits)?.unwrap_or(default.hits),
            follow_ups: duration("follow_ups", wire.follow_ups)?.unwrap_or(default.follow_ups),
            untouched_hits: duration("untouched_hits", wire.untouched_hits)?
                .unwrap_or(default.untouched_hits),
        })
    }
}

impl TryFrom<v1::KeyConfirmation> for KeyConfirmation {
    type Error = Error;
    fn try_from(wire: v1::KeyConfirmation) -> Result<Self> {
        check_format(wire.format)?;
        Ok(Self {
            community: text("community", &wire.community)?,
            epoch: epoch(wire.epoch)?,
            node: text("node_id", &wire.node_id)?,
            kid: Kid::new(array("kid", &wire.kid)?),
            manifest_digest: array("manifest_digest", &wire.manifest_digest)?,
        })
    }
}

impl From<KeyConfirmation> for v1::KeyConfirmation {
    fn from(confirmation: KeyConfirmation) -> Self {
        Self {
            format: FORMAT,
            community: confirmation.community.to_string(),
            epoch: confirmation.epoch.get(),
            node_id: confirmation.node.to_string(),
            kid: confirmation.kid.as_bytes().to_vec().into(),
            manifest_digest: confirmation.manifest_digest.to_vec().into(),
        }
    }
}

impl TryFrom<&v1::SealedEpochKey> for Sealed {
    type Error = Error;
    fn try_from(wire: &v1::SealedEpochKey) -> Result<Self> {
        let id = |id: u32| u16::try_from(id).map_err(|_| Error::field("kem", "16-bit ids"));
        let suite = Suite::from_ids(id(wire.kem)?, id(wire.kdf)?, id(wire.aead)?)
            .map_err(|error| Error::field("kem", error.to_string()))?;
        // X25519's enc has 32 bytes; the plaintext is a GMS of 32 (protocol §8), its tag adds 16.
        if wire.enc.len() != 32 || wire.ciphertext.len() != 48 {
            return Err(Error::field(
                "envelopes",
                "enc or ciphertext is not of its suite's length",
            ));
        }
        Ok(Self {
            suite,
            enc: wire.enc.to_vec(),
            ciphertext: wire.ciphertext.to_vec(),
        })
    }
}

impl v1::SealedEpochKey {
    /// The envelope for one recipient.
    pub fn new(recipient: &NodeId, sealed: Sealed) -> Self {
        let (kem, kdf, aead) = sealed.suite.ids();
        Self {
            recipient: recipient.to_string(),
            kem: kem.into(),
            kdf: kdf.into(),
            aead: aead.into(),
            enc: sealed.enc.into(),
            ciphertext: sealed.ciphertext.into(),
        }
    }
}
