//! What the audit log says of a follow-up (protocol §11), as a bundle has it: which files, and what
//! the entries of its steps and of its hit must say.
//!
//! Of each there is a receipt (c2sp.org/tlog-proof), which proves its leaf, and the opening of the
//! leaf, without which the leaf says no more than kind and hour.

use sotto_common::followup::FollowUpStep;
use sotto_common::followup::step::StepClear;
use sotto_common::ids::{CommunityId, Epoch, FollowUpId, HitId, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;
use sotto_common::log::leaf::{Opening, OpeningNonce};
use sotto_common::log::receipt::EXTENSION;

/// The folder of these files in a bundle.
pub(crate) const FOLDER: &str = "log/";

/// The signed checkpoint that all receipts of a bundle are under, with its cosignatures.
pub(crate) const CHECKPOINT: &str = "log/checkpoint.note";

/// What is proved and what is not, and why, for people.
pub(crate) const SUMMARY: &str = "inclusion-proofs.txt";

/// Begins a line of [`SUMMARY`] that says what is not proved.
pub(crate) const MISSING: &str = "Missing: ";

/// The hit of a follow-up, as its files are named.
pub(crate) const HIT: &str = "hit";

/// A step, as its files are named.
pub(crate) fn name_of(seq: u32, step: FollowUpStep) -> String {
    format!("{seq:03}-{step}")
}

/// Where the receipt of a step or hit stands.
pub(crate) fn receipt_path(name: &str) -> String {
    format!("{FOLDER}{name}.{EXTENSION}")
}

/// Where its opening stands.
pub(crate) fn opening_path(name: &str) -> String {
    format!("{FOLDER}{name}.opening.json")
}

/// An opening as it is written: nonce and entry in hex. What the leaf has is a digest of both.
pub(crate) fn write_opening(opening: &Opening) -> Vec<u8> {
    let nonce = hex::encode(opening.nonce().secret().expose());
    let entry = hex::encode(opening.entry());
    format!("{{\n  \"nonce\": \"{nonce}\",\n  \"entry\": \"{entry}\"\n}}\n").into_bytes()
}

/// An opening as it was written; `None` if it is none.
pub(crate) fn read_opening(text: &[u8]) -> Option<Opening> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let bytes = |name: &str| hex::decode(value[name].as_str()?).ok();
    let nonce = OpeningNonce::from_slice(&bytes("nonce")?)?;
    Some(Opening::new(nonce, bytes("entry")?))
}

/// The lines of a [`SUMMARY`] that say what is not proved.
pub(crate) fn missing(summary: &str) -> Vec<String> {
    let lines = summary.lines();
    let missing = lines.filter_map(|line| line.strip_prefix(MISSING));
    missing.map(str::to_owned).collect()
}

/// What is known of a step, without the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StepFacts {
    /// The community.
    pub(crate) community: CommunityId,
    /// The follow-up.
    pub(crate) follow_up: FollowUpId,
    /// Its hit.
    pub(crate) hit: HitId,
    /// The step's number.
    pub(crate) seq: u32,
    /// Which step it is.
    pub(crate) step: FollowUpStep,
    /// Who took it.
    pub(crate) sender: NodeId,
    /// The other party.
    pub(crate) recipient: NodeId,
    /// The clear part as signed; `None` where that is erased.
    pub(crate) clear: Option<Vec<u8>>,
    /// SHA-256 of the signed payload; `None` where nobody says it any more.
    pub(crate) digest: Option<[u8; 32]>,
}

impl StepFacts {
    /// Those of a step that is kept.
    pub(crate) fn new(clear: &StepClear, clear_bytes: &[u8], digest: [u8; 32]) -> Self {
        Self {
            community: clear.community.clone(),
            follow_up: clear.follow_up,
            hit: clear.hit,
            seq: clear.seq,
            step: clear.step(),
            sender: clear.sender.clone(),
            recipient: clear.recipient.clone(),
            clear: Some(clear_bytes.to_vec()),
            digest: Some(digest),
        }
    }

    /// What its files are named.
    pub(crate) fn name(&self) -> String {
        name_of(self.seq, self.step)
    }

    /// Whether an entry says the same.
    ///
    /// # Errors
    /// What it says otherwise.
    pub(crate) fn check(&self, entry: &Entry) -> Result<(), &'static str> {
        let step = entry.step.as_ref();
        let digest = entry.statement.as_ref().map(|statement| statement.digest);
        let clear_agrees = |own: &Vec<u8>| step.is_some_and(|step| step.clear == *own);
        first_that_differs([
            (entry.action == Action::TakeStep, "action"),
            (entry.community == self.community, "community"),
            (entry.object.follow_up == Some(self.follow_up), "follow-up"),
            (entry.object.hit == Some(self.hit), "hit"),
            (step.is_some_and(|step| step.number == self.seq), "number"),
            (entry.detail == self.step.as_str(), "step"),
            (entry.actor.node().as_ref() == Some(&self.sender), "sender"),
            (
                entry.recipient.as_ref() == Some(&self.recipient),
                "recipient",
            ),
            (self.clear.as_ref().is_none_or(clear_agrees), "clear part"),
            (
                self.digest.is_none() || digest == self.digest,
                "digest of the statement",
            ),
        ])
    }
}

/// What is known of the hit of a follow-up, without the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HitFacts {
    /// The community.
    pub(crate) community: CommunityId,
    /// The hit.
    pub(crate) hit: HitId,
    /// The epoch that it was found in.
    pub(crate) epoch: Epoch,
    /// Whose hit it is.
    pub(crate) requester: NodeId,
    /// Whose filter matched.
    pub(crate) holder: NodeId,
}

impl HitFacts {
    /// Whether an entry says the same.
    ///
    /// # Errors
    /// What it says otherwise.
    pub(crate) fn check(&self, entry: &Entry) -> Result<(), &'static str> {
        first_that_differs([
            // A hit that was held back and released has the entry of its quarantine.
            (entry.action.kind() == EntryKind::Hit, "action"),
            (entry.community == self.community, "community"),
            (entry.object.hit == Some(self.hit), "hit"),
            (entry.object.epoch == Some(self.epoch), "epoch"),
            (
                entry.recipient.as_ref() == Some(&self.requester),
                "requester",
            ),
            (entry.object.node.as_ref() == Some(&self.holder), "holder"),
        ])
    }
}

fn first_that_differs<const N: usize>(rows: [(bool, &'static str); N]) -> Result<(), &'static str> {
    match rows.into_iter().find(|(agrees, _)| !agrees) {
        Some((_, field)) => Err(field),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_comes_back_and_nothing_else_is_one() {
        let nonce = OpeningNonce::from_slice(&[7; 32]).expect("a nonce");
        let opening = Opening::new(nonce, vec![1, 2, 0xff]);
        let text = write_opening(&opening);
        assert!(read_opening(&text) == Some(opening));
        for bad in [
            "",
            "{}",
            "{\"nonce\":\"07\",\"entry\":\"\"}",
            "{\"entry\":\"01\"}",
        ] {
            assert!(read_opening(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_is_missing_stands_in_lines_of_its_own() {
        let text = "Proved.\n\nMissing: 005-CLOSE: not yet\nMissing: hit: not shown\n";
        assert_eq!(missing(text), ["005-CLOSE: not yet", "hit: not shown"]);
        assert!(missing("Not Missing: x\n").is_empty());
    }
}
