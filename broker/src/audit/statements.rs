//! What nodes have signed (protocol §9): statements in entries are verified by the key of the
//! manifest, and must say what the entry says.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::mem;

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use sotto_common::hit::HitFeedback;
use sotto_common::ids::{Epoch, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;
use sotto_common::membership::{KeyConfirmation, KeyStatement, MemberKeys};
use sotto_common::time::{CLOCK_SKEW, Timestamp};
use sotto_proto::{convert, v1};

use super::failure::{Check, FailureCode, Flaw};
use super::head::SignedManifest;
use super::replay::Erased;

/// The keys that count, as far as the log has come.
#[derive(Debug, Default)]
pub(super) struct Statements {
    nodes: BTreeMap<NodeId, Stated>,
    erased: Erased,
}

/// What a node has stated of its keys.
#[derive(Debug, Default)]
struct Stated {
    /// The last entry that changed it.
    index: u64,
    /// Its last statement; none since it was enrolled anew.
    latest: Option<MemberKeys>,
    /// Those before, and when each was replaced.
    former: Vec<(Timestamp, MemberKeys)>,
}

impl Statements {
    /// An entry whose opening is gone.
    pub(super) fn skip(&mut self, kind: EntryKind, index: u64) {
        self.erased.put(kind, index);
    }

    /// Checks the statement of an entry; `epoch` is that of its hit, if it has one.
    pub(super) fn check(
        &mut self,
        index: u64,
        entry: &Entry,
        epoch: Option<Epoch>,
        manifests: &BTreeMap<Epoch, SignedManifest>,
    ) -> Check {
        check_digest(entry)?;
        match entry.action {
            Action::DecideHit => check_feedback(entry, entry.object.epoch.or(epoch), manifests),
            Action::EnrolNode => {
                // PROTOCOL-NOTES §8: it begins anew.
                if let Some(node) = entry.object.node.clone() {
                    self.replace(index, entry.at, node, None);
                }
                Ok(())
            }
            Action::SubmitKeys => self.take_keys(index, entry),
            Action::ConfirmEpoch => {
                let signed = manifest_of(entry.object.epoch, manifests)?;
                check_confirmation(entry, signed)
            }
            Action::OpenEpoch => {
                let signed = manifest_of(entry.object.epoch, manifests)?;
                self.check_opening(entry, signed)
            }
            _ => Ok(()),
        }
    }

    /// protocol §8: a key statement is signed by the key that it names.
    fn take_keys(&mut self, index: u64, entry: &Entry) -> Check {
        let envelope = envelope(entry)?;
        let claimed: KeyStatement =
            convert::read_unverified(&envelope).map_err(|error| unreadable(&error))?;
        convert::verify::<KeyStatement>(&envelope, &claimed.keys.signing)
            .map_err(|error| unsigned(&error))?;
        let node = node_of(entry)?;
        if claimed.keys.node != node || claimed.community != entry.community {
            return Err(differs("node and community"));
        }
        self.replace(index, entry.at, node, Some(claimed.keys));
        Ok(())
    }

    fn replace(&mut self, index: u64, at: Timestamp, node: NodeId, keys: Option<MemberKeys>) {
        let stated = self.nodes.entry(node).or_default();
        stated.index = index;
        if let Some(before) = mem::replace(&mut stated.latest, keys) {
            stated.former.push((at, before));
        }
    }

    /// protocol §8: the manifest is the one in the export, and each row is what the member has stated: all
    /// of its keys, for whoever listed another cosigning key would be its witness, and whoever listed
    /// another HPKE key would read what is sealed to it.
    fn check_opening(&self, entry: &Entry, signed: &SignedManifest) -> Check {
        let flaw = |text: String| Flaw::new(FailureCode::Manifest, text);
        let epoch = signed.manifest.epoch;
        let statement = entry.statement.as_ref();
        let statement = statement.ok_or_else(|| Flaw::lacks("the manifest"))?;
        if statement.digest != signed.digest {
            return Err(flaw(format!(
                "the manifest of epoch {epoch} in the export is not the one that was opened"
            )));
        }
        let is_other = |row: &&MemberKeys| !self.has_stated(row, entry.at);
        match signed.manifest.members.iter().find(is_other) {
            None => Ok(()),
            Some(row) => Err(flaw(format!(
                "the manifest of epoch {epoch} has other keys for {} than the node handed in",
                row.node
            ))),
        }
    }

    /// Whether a node had stated these keys last. A statement that came in the moment in which the epoch was
    /// opened may stand before that.
    fn has_stated(&self, row: &MemberKeys, at: Timestamp) -> bool {
        let Some(stated) = self.nodes.get(&row.node) else {
            return self.erased.any(EntryKind::Membership);
        };
        if stated.latest.as_ref() == Some(row) {
            return true;
        }
        let mut former = stated.former.iter();
        former.any(|(until, keys)| keys == row && at <= until.plus(CLOCK_SKEW))
            || self.erased.since(EntryKind::Membership, stated.index)
    }
}

/// Whatever statement is there is the one whose digest stands beside it.
fn check_digest(entry: &Entry) -> Check {
    let Some(statement) = &entry.statement else {
        return Ok(());
    };
    if statement.envelope.is_none() {
        return Ok(());
    }
    let digest: [u8; 32] = Sha256::digest(&envelope(entry)?.payload).into();
    if digest == statement.digest {
        return Ok(());
    }
    let text = "the statement is not the one whose digest stands in the entry";
    Err(Flaw::new(FailureCode::StatementMismatch, text))
}

/// workflow.md "Hit": "only a person at the prober's node", and the feedback is signed. The key is that
/// of the hit's epoch; of any in which the node signed so, where the finding of the hit is erased.
fn check_feedback(
    entry: &Entry,
    epoch: Option<Epoch>,
    manifests: &BTreeMap<Epoch, SignedManifest>,
) -> Check {
    let node = node_of(entry)?;
    let feedback: HitFeedback = if epoch.is_some() {
        verified(entry, &node, manifest_of(epoch, manifests)?)?
    } else {
        let envelope = envelope(entry)?;
        let by_member = |signed: &SignedManifest| {
            let member = signed.manifest.member(&node).ok()?;
            convert::verify(&envelope, &member.signing).ok()
        };
        let found = manifests.values().find_map(by_member);
        found.ok_or_else(|| unsigned(&"by its key of no epoch"))?
    };
    if feedback.node != node || feedback.community != entry.community {
        return Err(differs("node and community"));
    }
    if Some(feedback.hit) != entry.object.hit {
        return Err(differs("the hit"));
    }
    let to = entry.change.as_ref().map(|change| change.to.as_str());
    if to != Some(feedback.decision.state().as_str()) {
        return Err(differs("the state that was decided on"));
    }
    Ok(())
}

/// protocol §8: `{ community, epoch, node id, KID, H(manifest body) }`.
fn check_confirmation(entry: &Entry, signed: &SignedManifest) -> Check {
    let node = node_of(entry)?;
    let confirmation: KeyConfirmation = verified(entry, &node, signed)?;
    let (manifest, digest) = (&signed.manifest, signed.digest);
    if confirmation.node != node || confirmation.community != entry.community {
        return Err(differs("node and community"));
    }
    if confirmation.epoch != manifest.epoch
        || confirmation.kid != manifest.kid()
        || confirmation.manifest_digest != digest
    {
        return Err(differs("the manifest"));
    }
    Ok(())
}

/// A statement that the member of a manifest has signed.
fn verified<S: convert::Statement>(
    entry: &Entry,
    node: &NodeId,
    signed: &SignedManifest,
) -> Check<S> {
    let member = signed.manifest.member(node).map_err(|_| {
        let text = format!("{node} is no member of epoch {}", signed.manifest.epoch);
        Flaw::new(FailureCode::Signature, text)
    })?;
    convert::verify(&envelope(entry)?, &member.signing).map_err(|error| unsigned(&error))
}

/// The manifest of an entry's epoch.
pub(super) fn manifest_of(
    epoch: Option<Epoch>,
    manifests: &BTreeMap<Epoch, SignedManifest>,
) -> Check<&SignedManifest> {
    let epoch = epoch.ok_or_else(|| Flaw::lacks("its epoch"))?;
    manifests.get(&epoch).ok_or_else(|| {
        let text = format!("the manifest of epoch {epoch} is not in the export");
        Flaw::new(FailureCode::Manifest, text)
    })
}

fn envelope(entry: &Entry) -> Check<v1::DsseEnvelope> {
    let bytes = entry.statement.as_ref();
    let bytes = bytes.and_then(|statement| statement.envelope.as_deref());
    let bytes = bytes.ok_or_else(|| {
        let text = format!("{} without the statement that it rests on", entry.action);
        Flaw::new(FailureCode::Signature, text)
    })?;
    v1::DsseEnvelope::decode(bytes).map_err(|error| unreadable(&error))
}

fn node_of(entry: &Entry) -> Check<NodeId> {
    entry.actor.node().ok_or_else(|| {
        let text = format!("{} is done by a node", entry.action);
        Flaw::new(FailureCode::EntryMalformed, text)
    })
}

fn unreadable(error: &dyn Display) -> Flaw {
    let text = format!("the signed statement cannot be read: {error}");
    Flaw::new(FailureCode::Signature, text)
}

fn unsigned(error: &dyn Display) -> Flaw {
    let text = format!("the statement is not signed by its node: {error}");
    Flaw::new(FailureCode::Signature, text)
}

fn differs(what: &str) -> Flaw {
    let text = format!("the signed statement and the entry differ in {what}");
    Flaw::new(FailureCode::StatementMismatch, text)
}
