//! What an export begins with: the checkpoint, the manifests, and who stands behind the checkpoint.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use sotto_common::dsse::Fingerprint;
use sotto_common::ids::{Epoch, NodeId, SpiffeId};
use sotto_common::log::checkpoint::{LogKey, SignedCheckpoint};
use sotto_common::log::cosignature::WitnessKey;
use sotto_common::log::note::NoteSignature;
use sotto_common::log::quorum::{Freshness, Quorum, WitnessPolicy};
use sotto_common::membership::Manifest;
use sotto_proto::{convert, v1};

use super::export::Head;
use super::failure::{Check, FailureCode, Flaw};

/// A manifest that its custodian has signed.
#[derive(Clone, Debug)]
pub(super) struct SignedManifest {
    pub(super) manifest: Manifest,
    /// `H` of its signed body.
    pub(super) digest: [u8; 32],
}

/// The head of an export, verified.
#[derive(Debug)]
pub(super) struct OpenHead {
    pub(super) checkpoint: SignedCheckpoint,
    pub(super) manifests: BTreeMap<Epoch, SignedManifest>,
    /// The trust domain of the witnesses, if there is one.
    trust_domain: Option<String>,
}

impl OpenHead {
    /// Verifies checkpoint, manifests and cosignatures.
    pub(super) fn open(head: &Head, key: &LogKey) -> Check<Self> {
        let checkpoint = SignedCheckpoint::open(&head.note, key).map_err(|error| {
            Flaw::new(
                FailureCode::NoteSignature,
                format!("the checkpoint: {error}"),
            )
        })?;
        let mut open = Self {
            checkpoint,
            manifests: BTreeMap::new(),
            trust_domain: None,
        };
        for envelope in &head.manifests {
            open.add_manifest(envelope, key)?;
        }
        for signature in open.checkpoint.note().signatures() {
            if !key.note_key().is_named_by(signature) {
                let domain = open.check_cosignature(signature)?;
                open.trust_domain = Some(domain);
            }
        }
        Ok(open)
    }

    /// protocol §8: "made and signed by the custodian"; §9: its key is that of its own row.
    fn add_manifest(&mut self, envelope: &v1::DsseEnvelope, key: &LogKey) -> Check {
        let flaw = |text: String| Flaw::new(FailureCode::Manifest, text);
        let manifest: Manifest = convert::read_unverified(envelope)
            .map_err(|error| flaw(format!("a manifest cannot be read: {error}")))?;
        let epoch = manifest.epoch;
        let about = |problem: &str| flaw(format!("the manifest of epoch {epoch} {problem}"));
        let custodian = manifest
            .member(&manifest.custodian)
            .map_err(|_| about("does not list its custodian"))?
            .signing;
        convert::verify::<Manifest>(envelope, &custodian)
            .map_err(|_| about("is not signed by its custodian"))?;
        // protocol §9 fixes the hint, too: no byte of an export is left unlooked at.
        if envelope
            .signatures
            .iter()
            .any(|s| s.keyid != custodian.keyid())
        {
            return Err(about("names another key than its custodian's"));
        }
        if manifest.community != *key.origin().community() {
            return Err(about("is of another community"));
        }
        if self
            .manifests
            .last_key_value()
            .is_some_and(|(last, _)| *last >= epoch)
        {
            return Err(about("does not stand in the order of epochs"));
        }
        let digest = Sha256::digest(&envelope.payload).into();
        self.manifests
            .insert(epoch, SignedManifest { manifest, digest });
        Ok(())
    }

    /// A signature that is not the log's is by a witness of a manifest; returns its trust domain.
    fn check_cosignature(&self, signature: &NoteSignature) -> Check<String> {
        let flaw = |problem: &str| {
            let text = format!("the signature of {} {problem}", signature.name);
            Flaw::new(FailureCode::Cosignature, text)
        };
        let identity = format!("spiffe://{}", signature.name).parse::<SpiffeId>();
        let witness = identity.ok().and_then(|id| Some((id.node()?, id)));
        let (node, identity) = witness.ok_or_else(|| flaw("is of no node, and not the log's"))?;
        let domain = identity.trust_domain();
        let key = self.witness_key(&node, domain, signature);
        let key = key.ok_or_else(|| flaw("is by a key of no manifest in the export"))?;
        key.verify(self.checkpoint.checkpoint(), signature)
            .map_err(|error| flaw(&format!("does not hold: {error}")))?;
        Ok(domain.to_owned())
    }

    fn witness_key(
        &self,
        node: &NodeId,
        domain: &str,
        signature: &NoteSignature,
    ) -> Option<WitnessKey> {
        self.manifests.values().find_map(|signed| {
            let row = signed.manifest.member(node).ok()?;
            let key = WitnessKey::new(domain, node.clone(), row.cosigning).ok()?;
            key.note_key().is_named_by(signature).then_some(key)
        })
    }

    /// The custodians of the manifests, and their keys' fingerprints.
    pub(super) fn custodians(&self) -> impl Iterator<Item = (NodeId, Fingerprint)> {
        self.manifests.values().filter_map(|signed| {
            let custodian = &signed.manifest.custodian;
            let row = signed.manifest.member(custodian).ok()?;
            Some((custodian.clone(), row.signing.fingerprint()))
        })
    }

    /// Who stands behind the checkpoint, of the members of an epoch; of the latest without one. None
    /// without a manifest.
    pub(super) fn quorum(&self, epoch: Option<Epoch>) -> Option<Quorum> {
        let of_epoch = epoch.and_then(|epoch| self.manifests.get(&epoch));
        let signed = of_epoch.or_else(|| self.manifests.values().next_back())?;
        // Without a cosignature the domain does not matter: nobody is counted.
        let domain = self.trust_domain.as_deref().unwrap_or("none");
        let policy = WitnessPolicy::of_manifest(&signed.manifest, domain).ok()?;
        // PROTOCOL-NOTES §11: an export is looked at years later.
        policy.evaluate(&self.checkpoint, Freshness::Any).ok()
    }
}
