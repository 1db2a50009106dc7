//! Cosignatures (protocol §11; c2sp.org/tlog-cosignature v1, type 0x04): a node says that at a
//! time this was the largest tree of the log that it had found consistent.

use super::checkpoint::Checkpoint;
use super::note::{KeyName, NoteKey, NoteSignature, SignatureType};
use crate::dsse::{SigningKey, VerifyingKey};
use crate::ids::{InvalidId, NodeId, Role, SpiffeId};
use crate::time::Timestamp;

/// A cosignature that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CosignatureError {
    /// It claims to be by another key.
    #[error("the cosignature is by another key")]
    OtherKey,
    /// Not a time and an Ed25519 signature, or a time above 2^63 − 1.
    #[error("a cosignature is 8 bytes of time and 64 of signature")]
    Malformed,
    /// Not by the witness, or over another checkpoint or time.
    #[error("the cosignature is not by the witness over this checkpoint")]
    Invalid,
}

/// The key that verifies the cosignatures of one node. As text a verifier key of type 04.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WitnessKey {
    node: NodeId,
    note: NoteKey,
}

impl WitnessKey {
    /// The cosigning key of a node's row in the manifest; key name `<trust domain>/node/<node id>`.
    ///
    /// # Errors
    /// [`InvalidId`] for a text that is no trust domain.
    pub fn new(trust_domain: &str, node: NodeId, key: VerifyingKey) -> Result<Self, InvalidId> {
        let name = key_name(trust_domain, &node)?;
        Ok(Self {
            node,
            note: NoteKey::new(name, SignatureType::CosignatureV1, key),
        })
    }

    /// The node.
    pub const fn node(&self) -> &NodeId {
        &self.node
    }

    /// The key as a key of notes.
    pub const fn note_key(&self) -> &NoteKey {
        &self.note
    }

    /// The time at which the node cosigned a checkpoint. Whether it is too old, or lies ahead, is
    /// for the caller to say.
    ///
    /// # Errors
    /// [`CosignatureError`].
    pub fn verify(
        &self,
        checkpoint: &Checkpoint,
        cosignature: &NoteSignature,
    ) -> Result<Timestamp, CosignatureError> {
        if !self.note.is_named_by(cosignature) {
            return Err(CosignatureError::OtherKey);
        }
        let malformed = CosignatureError::Malformed;
        let (time, signature) = cosignature.signature.split_first_chunk().ok_or(malformed)?;
        let seconds = u64::from_be_bytes(*time);
        let at = i64::try_from(seconds).map_err(|_| malformed)?;
        if signature.len() != SIGNATURE_LEN {
            return Err(malformed);
        }
        if self
            .note
            .key()
            .verifies(&message(checkpoint, seconds), signature)
        {
            Ok(Timestamp::from_seconds(at))
        } else {
            Err(CosignatureError::Invalid)
        }
    }
}

/// A node's side of a [`WitnessKey`].
#[derive(Clone, Debug)]
pub struct Cosigner {
    key: WitnessKey,
    signing: SigningKey,
}

impl Cosigner {
    /// Cosigns for a node. The key is of its own (protocol §9): what is signed does not name the
    /// cosigner, so no two nodes may share one.
    ///
    /// # Errors
    /// [`InvalidId`] for a text that is no trust domain.
    pub fn new(trust_domain: &str, node: NodeId, signing: SigningKey) -> Result<Self, InvalidId> {
        let key = WitnessKey::new(trust_domain, node, signing.verifying_key())?;
        Ok(Self { key, signing })
    }

    /// The key to verify with.
    pub const fn key(&self) -> &WitnessKey {
        &self.key
    }

    /// Cosigns a checkpoint that this node found consistent and has stored
    /// ([`witness`](super::witness)); a time before 1970 counts as 1970.
    pub fn cosign(&self, checkpoint: &Checkpoint, at: Timestamp) -> NoteSignature {
        let seconds = u64::try_from(at.seconds()).unwrap_or(0);
        let signature = self.signing.sign_note(&message(checkpoint, seconds));
        NoteSignature {
            name: self.key.note.name().clone(),
            id: self.key.note.id(),
            signature: [&seconds.to_be_bytes()[..], &signature].concat(),
        }
    }
}

const SIGNATURE_LEN: usize = 64;

/// c2sp.org/tlog-cosignature "Ed25519 signed message".
fn message(checkpoint: &Checkpoint, seconds: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {seconds}\n{checkpoint}").into_bytes()
}

/// The SPIFFE ID of the node without its scheme.
fn key_name(trust_domain: &str, node: &NodeId) -> Result<KeyName, InvalidId> {
    let id = SpiffeId::new(trust_domain, Role::Node, node.as_str())?;
    format!("{}/{}/{}", id.trust_domain(), id.role().as_str(), id.name()).parse()
}

#[cfg(test)]
mod tests {
    use super::super::merkle::{MerkleHash, TreeHead};
    use super::*;
    use crate::secret::Secret;

    fn cosigner(node: &str, seed: u8) -> Cosigner {
        let signing = SigningKey::from_seed(&Secret::new([seed; 32]));
        Cosigner::new("sotto.example", node.parse().unwrap(), signing).unwrap()
    }

    fn checkpoint(size: u64) -> Checkpoint {
        Checkpoint {
            origin: "broker.example/sotto/euro-cyber".parse().unwrap(),
            head: TreeHead {
                size,
                root: MerkleHash::of_leaf(b"root"),
            },
        }
    }

    #[test]
    fn a_cosignature_tells_its_time_under_its_key_over_its_checkpoint_only() {
        let witness = cosigner("nl-fiu", 1);
        let at = Timestamp::from_seconds(1_789_500_000);
        let cosignature = witness.cosign(&checkpoint(23), at);
        assert_eq!(witness.key().verify(&checkpoint(23), &cosignature), Ok(at));
        let other = witness.key().verify(&checkpoint(24), &cosignature);
        assert_eq!(other, Err(CosignatureError::Invalid));
        for stranger in [cosigner("nl-fiu", 2), cosigner("de-bka", 1)] {
            let refused = stranger.key().verify(&checkpoint(23), &cosignature);
            assert_eq!(refused, Err(CosignatureError::OtherKey));
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let witness = cosigner("nl-fiu", 1);
        let cosignature = witness.cosign(&checkpoint(23), Timestamp::from_seconds(7));
        for at in 0..cosignature.signature.len() {
            let mut changed = cosignature.clone();
            changed.signature[at] ^= 1;
            assert!(
                witness.key().verify(&checkpoint(23), &changed).is_err(),
                "{at}"
            );
        }
        for length in [0, 7, 8, 71] {
            let mut cut = cosignature.clone();
            cut.signature.truncate(length);
            let refused = witness.key().verify(&checkpoint(23), &cut);
            assert_eq!(refused, Err(CosignatureError::Malformed), "{length}");
        }
        let mut long = cosignature.clone();
        long.signature.push(0);
        let refused = witness.key().verify(&checkpoint(23), &long);
        assert_eq!(refused, Err(CosignatureError::Malformed));
        let mut beyond = cosignature;
        beyond.signature[0] = 0x80;
        let refused = witness.key().verify(&checkpoint(23), &beyond);
        assert_eq!(refused, Err(CosignatureError::Malformed));
    }

    #[test]
    fn the_key_name_is_the_spiffe_id_without_its_scheme() {
        let witness = cosigner("nl-fiu", 1);
        assert_eq!(
            witness.key().note_key().name().as_str(),
            "sotto.example/node/nl-fiu"
        );
        let key = *witness.key().note_key().key();
        assert!(WitnessKey::new("Sotto.example", "nl-fiu".parse().unwrap(), key).is_err());
        assert!(WitnessKey::new("a b", "nl-fiu".parse().unwrap(), key).is_err());
    }
}
