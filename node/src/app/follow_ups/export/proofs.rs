//! What the audit log says of a follow-up (protocol §11), for its bundle: fetched at the export, and
//! verified under the newest checkpoint that enough witnesses stand behind and that this node found
//! consistent.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::Party;
use sotto_common::log::checkpoint::SignedCheckpoint;
use sotto_common::log::kind::EntryKind;
use sotto_common::log::leaf::{Leaf, Opening, OpeningNonce};
use sotto_common::log::receipt::Receipt;
use sotto_proto::v1;
use tracing::warn;

use super::Bundle;
use crate::app::App;
use crate::app::verifier::{Doubt, opened};
use crate::app::witness::{hashes, inconsistent};
use crate::broker::ask;
use crate::dossier::InLog;
use crate::follow_up::LocalFollowUp;
use crate::follow_up::logged::{
    CHECKPOINT, HIT, HitFacts, MISSING, SUMMARY, StepFacts, name_of, opening_path, receipt_path,
    write_opening,
};

/// What the log proves of a follow-up.
pub(super) struct Proofs {
    /// Under which checkpoint; `None` if nothing could be asked or believed.
    checkpoint: Option<SignedCheckpoint>,
    /// Its steps, by their numbers.
    steps: BTreeMap<u32, (String, ProvedLeaf)>,
    hit: Option<ProvedLeaf>,
    /// What is not proved, and why.
    missing: Vec<String>,
}

/// A leaf that is in the log, and what it says.
struct ProvedLeaf {
    receipt: Receipt,
    opening: Opening,
}

/// An entry that is not what the broker says it is.
type Doubted<'a> = (Doubt, &'a v1::ProvedEntry);

impl App {
    /// What the log proves of a follow-up. Without it a bundle is written all the same, and says
    /// why.
    pub(super) async fn prove_follow_up(&self, follow_up: &LocalFollowUp) -> Proofs {
        match self.proofs_of(follow_up).await {
            Ok(proofs) => proofs,
            Err(error) => {
                if error.code != ErrorCode::LogUnknown {
                    warn!(%error, "a follow-up is exported without proofs of the audit log");
                }
                Proofs::none(&error.text)
            }
        }
    }

    async fn proofs_of(&self, follow_up: &LocalFollowUp) -> Result<Proofs> {
        let log = self.followed_log()?;
        let signed = self.witnessed(log).await?.ok_or_else(|| {
            let text = "not enough witnesses stand behind a checkpoint of the audit log yet";
            Error::new(ErrorCode::LogUnknown, text)
        })?;
        let request = v1::ProveFollowUpRequest {
            community: self.community.to_string(),
            follow_up_id: follow_up.id.as_bytes().to_vec().into(),
            tree_size: signed.head().size,
        };
        let steps = ask!(self.broker.log(), prove_follow_up, request).await?;
        let hits = match follow_up.side {
            Party::Requester => self.prove_hits(&[follow_up.hit], signed.head()).await?,
            Party::Holder => Vec::new(),
        };
        match Proofs::of(follow_up, &signed, &steps.entries, &hits) {
            Ok(proofs) => Ok(proofs),
            Err((doubt, entry)) => {
                let subject = format!("follow-up {}", follow_up.id);
                self.doubt(log, &signed, &subject, doubt, entry.clone())
                    .await?;
                Err(inconsistent())
            }
        }
    }
}

impl Proofs {
    /// Nothing is proved.
    fn none(why: &str) -> Self {
        let why = why.replace(char::is_control, " ");
        Self {
            checkpoint: None,
            steps: BTreeMap::new(),
            hit: None,
            missing: vec![format!("every step and the hit: {why}")],
        }
    }

    /// What the broker's entries prove under a checkpoint.
    ///
    /// # Errors
    /// The first entry that is not in the tree, or says something else than this node knows.
    fn of<'a>(
        follow_up: &LocalFollowUp,
        signed: &SignedCheckpoint,
        steps: &'a [v1::ProvedEntry],
        hits: &'a [v1::ProvedEntry],
    ) -> Result<Self, Doubted<'a>> {
        let mut proofs = Self {
            checkpoint: Some(signed.clone()),
            steps: BTreeMap::new(),
            hit: None,
            missing: Vec::new(),
        };
        for entry in steps {
            let step = step_of(follow_up, signed, entry).map_err(|doubt| (doubt, entry))?;
            if let Some((number, name, leaf)) = step {
                proofs.steps.insert(number, (name, leaf));
            }
        }
        for entry in hits {
            let hit = hit_of(follow_up, signed, entry).map_err(|doubt| (doubt, entry))?;
            proofs.hit = hit.or(proofs.hit);
        }
        proofs.missing = proofs.not_proved(follow_up, signed.head().size);
        Ok(proofs)
    }

    /// What is not among the proofs, and why.
    fn not_proved(&self, follow_up: &LocalFollowUp, size: u64) -> Vec<String> {
        let not_yet =
            format!("not under the checkpoint of {size} leaves yet, or its opening is erased");
        let mut missing = Vec::new();
        for step in &follow_up.steps {
            let why = match step.taken_at {
                None => "the broker has not taken it yet",
                Some(_) => not_yet.as_str(),
            };
            if !self.steps.contains_key(&step.clear.seq) {
                let name = name_of(step.clear.seq, step.clear.step());
                missing.push(format!("{name}: {why}"));
            }
        }
        if self.hit.is_none() {
            let why = match follow_up.side {
                Party::Requester => not_yet.as_str(),
                Party::Holder => "the log shows the entry of a hit to its requester alone",
            };
            missing.push(format!("{HIT}: {why}"));
        }
        missing
    }

    /// Every leaf with the name of its files.
    fn leaves(&self) -> impl Iterator<Item = (&str, &ProvedLeaf)> {
        let steps = self
            .steps
            .values()
            .map(|(name, leaf)| (name.as_str(), leaf));
        steps.chain(self.hit.iter().map(|leaf| (HIT, leaf)))
    }

    /// As the dossier tells it.
    pub(super) fn in_log(&self) -> InLog {
        let head = self.checkpoint.as_ref().map(SignedCheckpoint::checkpoint);
        let steps = self.steps.iter();
        InLog {
            checkpoint: head.map(|head| (head.origin.to_string(), head.head)),
            steps: steps
                .map(|(seq, (_, leaf))| (*seq, leaf.receipt.index()))
                .collect(),
            hit: self.hit.as_ref().map(|leaf| leaf.receipt.index()),
        }
    }

    /// Writes what is proved, and a summary of it that ends with `proved_otherwise`.
    ///
    /// # Errors
    /// If nobody reads the bundle any more.
    pub(super) async fn write(&self, bundle: &mut Bundle, proved_otherwise: &str) -> Result<()> {
        for (path, content) in self.files() {
            bundle.file(&path, content).await?;
        }
        let summary = self.summary() + proved_otherwise;
        bundle.file(SUMMARY, summary.into_bytes()).await
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        for (name, leaf) in self.leaves() {
            let receipt = leaf.receipt.to_string().into_bytes();
            files.push((receipt_path(name), receipt));
            files.push((opening_path(name), write_opening(&leaf.opening)));
        }
        if let Some(checkpoint) = self.checkpoint.as_ref().filter(|_| !files.is_empty()) {
            let note = checkpoint.to_string().into_bytes();
            files.push((CHECKPOINT.to_owned(), note));
        }
        files
    }

    /// For people: what is proved, and what is not and why.
    fn summary(&self) -> String {
        let mut text = String::new();
        // Writing to a text does not fail.
        match self.checkpoint.as_ref().map(SignedCheckpoint::checkpoint) {
            Some(checkpoint) if self.leaves().next().is_some() => {
                let _ = write!(
                    text,
                    "What is listed here stands in the audit log {}, under its checkpoint of {}\n\
                     leaves ({CHECKPOINT}). Of each there is a receipt (c2sp.org/tlog-proof) and the \
                     opening of its leaf:\n`sotto-node followup verify --log-key` compares them with \
                     the steps.\n\n",
                    checkpoint.origin, checkpoint.head.size,
                );
                for (name, leaf) in self.leaves() {
                    let _ = writeln!(text, "{name}: leaf {}", leaf.receipt.index());
                }
            }
            _ => {
                text += "Proofs that the steps stand in the community's audit log are not in this \
                         bundle.\n\n";
            }
        }
        for missing in &self.missing {
            let _ = writeln!(text, "{MISSING}{missing}");
        }
        text.push('\n');
        text
    }
}

/// The step that an entry is of, and its leaf; `None` if its opening was erased, or the step has
/// not come here yet: then there is nothing to compare it with.
fn step_of(
    follow_up: &LocalFollowUp,
    signed: &SignedCheckpoint,
    entry: &v1::ProvedEntry,
) -> Result<Option<(u32, String, ProvedLeaf)>, Doubt> {
    let Some((_, said)) = opened(entry, signed.head(), EntryKind::FollowUp)? else {
        return Ok(None);
    };
    let number = said.step.as_ref().ok_or(Doubt::Entry("step"))?.number;
    let step = follow_up.steps.get(number as usize);
    let Some(step) = step.filter(|step| step.taken_at.is_some()) else {
        return Ok(None);
    };
    let facts = StepFacts::new(&step.clear, &step.clear_bytes, step.digest);
    facts.check(&said).map_err(Doubt::Entry)?;
    Ok(Some((number, facts.name(), ProvedLeaf::of(entry, signed)?)))
}

/// The leaf of the hit; `None` as for steps.
fn hit_of(
    follow_up: &LocalFollowUp,
    signed: &SignedCheckpoint,
    entry: &v1::ProvedEntry,
) -> Result<Option<ProvedLeaf>, Doubt> {
    let Some((_, said)) = opened(entry, signed.head(), EntryKind::Hit)? else {
        return Ok(None);
    };
    let facts = HitFacts {
        community: follow_up.community.clone(),
        hit: follow_up.hit,
        epoch: follow_up.epoch,
        requester: follow_up.party(Party::Requester).clone(),
        holder: follow_up.party(Party::Holder).clone(),
    };
    facts.check(&said).map_err(Doubt::Entry)?;
    if said.object.policy != Some(follow_up.policy) {
        return Err(Doubt::Entry("policy"));
    }
    ProvedLeaf::of(entry, signed).map(Some)
}

impl ProvedLeaf {
    /// Of an entry that was found in the tree.
    fn of(entry: &v1::ProvedEntry, signed: &SignedCheckpoint) -> Result<Self, Doubt> {
        let logged = entry.entry.as_ref().ok_or(Doubt::Malformed)?;
        let proof = hashes(&entry.hashes).ok_or(Doubt::Malformed)?;
        let leaf = Leaf::parse(&logged.leaf).map_err(|_| Doubt::Leaf)?;
        let nonce = OpeningNonce::from_slice(&logged.nonce).ok_or(Doubt::Opening)?;
        Ok(Self {
            receipt: Receipt::new(&leaf, logged.leaf_index, proof, signed),
            opening: Opening::new(nonce, logged.entry.to_vec()),
        })
    }
}

#[cfg(test)]
mod tests;
