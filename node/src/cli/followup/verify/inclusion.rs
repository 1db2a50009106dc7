//! What a bundle has of the audit log (protocol §11), against its steps and its hit: offline, by the
//! receipts and the openings of their leaves.

use std::collections::BTreeSet;

use sotto_common::log::checkpoint::{Checkpoint, LogKey, SignedCheckpoint};
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;
use sotto_common::log::leaf::Leaf;
use sotto_common::log::note::Note;
use sotto_common::log::quorum::{Freshness, WitnessPolicy};
use sotto_common::log::receipt::Receipt;
use sotto_common::membership::Manifest;
use sotto_proto::convert::log::read_entry;

use super::bundle::Bundle;
use crate::cli::fault::{Fault, Result};
use crate::follow_up::logged::{
    CHECKPOINT, FOLDER, HIT, HitFacts, SUMMARY, StepFacts, missing, opening_path, read_opening,
    receipt_path,
};

/// What the log says of a follow-up.
#[derive(Default, Debug)]
pub(super) struct Inclusion {
    /// How many steps the follow-up has.
    all: usize,
    /// Of how many the log says the same.
    pub(super) steps: usize,
    /// Whether it does of the hit.
    pub(super) hit: bool,
    /// Under which checkpoint; `None` if the bundle has no proofs.
    pub(super) tree: Option<Tree>,
    /// What the exporter could not have proved, and why.
    pub(super) missing: Vec<String>,
}

/// The checkpoint of a bundle.
#[derive(Debug)]
pub(super) struct Tree {
    /// How many leaves it has.
    pub(super) size: u64,
    /// Whether its signature was checked by the key of the log.
    pub(super) is_signed: bool,
    /// The members of the hit's epoch that stand behind it.
    pub(super) cosigned: Vec<String>,
}

impl Inclusion {
    /// What was found, in words.
    pub(super) fn verdict(&self) -> String {
        match &self.tree {
            None => "none".into(),
            Some(tree) if !tree.is_signed => "not checked, no --log-key".into(),
            Some(_) if self.steps == self.all => "verified".into(),
            Some(_) => format!("verified for {} of {} steps", self.steps, self.all),
        }
    }
}

/// Compares what the log says with the steps of the bundle, of which there are `all`, and the hit.
///
/// # Errors
/// The first file that is not of its form, proves nothing, or says something else.
pub(super) fn check(
    bundle: &Bundle,
    all: usize,
    steps: &[StepFacts],
    hit: Option<&HitFacts>,
    manifest: &Manifest,
    key: Option<&LogKey>,
) -> Result<Inclusion> {
    let mut found = Inclusion {
        all,
        ..Inclusion::default()
    };
    if bundle.has(SUMMARY) {
        let summary = bundle.bytes(SUMMARY)?;
        found.missing = missing(&String::from_utf8_lossy(&summary));
    }
    let mut files: BTreeSet<_> = bundle.below(FOLDER).into_iter().collect();
    if files.is_empty() {
        return Ok(found);
    }
    let note = Note::parse(&bundle.bytes(CHECKPOINT)?);
    let note = note.map_err(|error| wrong(CHECKPOINT, &error))?;
    files.remove(CHECKPOINT);
    found.tree = Some(tree(&note, manifest, key)?);
    for step in steps {
        let name = step.name();
        if let Some(entry) = entry(bundle, &mut files, &note, &name, EntryKind::FollowUp)? {
            agrees(&name, step.check(&entry))?;
            found.steps += 1;
        }
    }
    if let Some(hit) = hit
        && let Some(entry) = entry(bundle, &mut files, &note, HIT, EntryKind::Hit)?
    {
        agrees(HIT, hit.check(&entry))?;
        found.hit = true;
    }
    match files.first() {
        Some(name) => Err(wrong(name, &"it is of no step of this follow-up")),
        None => Ok(found),
    }
}

/// The tree of a note; without the key nothing shows who has signed it.
fn tree(note: &Note, manifest: &Manifest, key: Option<&LogKey>) -> Result<Tree> {
    let checkpoint = note.text().parse::<Checkpoint>();
    let checkpoint = checkpoint.map_err(|error| wrong(CHECKPOINT, &error))?;
    if *checkpoint.origin.community() != manifest.community {
        return Err(wrong(CHECKPOINT, &"it is of the log of another community"));
    }
    let cosigned = match key {
        None => Vec::new(),
        Some(key) => {
            let signed = SignedCheckpoint::verify(note.clone(), key);
            cosigned(
                &signed.map_err(|error| wrong(CHECKPOINT, &error))?,
                manifest,
            )?
        }
    };
    Ok(Tree {
        size: checkpoint.head.size,
        is_signed: key.is_some(),
        cosigned,
    })
}

/// Which members of the hit's epoch stand behind a checkpoint, at whatever time they have cosigned
/// it. A later epoch may have had others.
fn cosigned(signed: &SignedCheckpoint, manifest: &Manifest) -> Result<Vec<String>> {
    let log = signed.checkpoint().origin.key_name();
    let lines = signed.note().signatures().iter();
    let mut domains = lines.filter(|line| line.name != log).filter_map(|line| {
        let named = line.name.as_str().split_once("/node/");
        named.map(|(domain, _)| domain)
    });
    // All nodes are of one trust domain, which no manifest names.
    let witnesses = domains
        .next()
        .map(|domain| WitnessPolicy::of_manifest(manifest, domain));
    let Some(Ok(witnesses)) = witnesses else {
        return Ok(Vec::new());
    };
    let quorum = witnesses.evaluate(signed, Freshness::Any);
    let quorum = quorum.map_err(|error| wrong(CHECKPOINT, &error))?;
    Ok(quorum.cosigned().keys().map(ToString::to_string).collect())
}

/// What the log says under a name, if the bundle has it: the receipt proves the leaf under the
/// bundle's checkpoint, and the opening opens it.
fn entry(
    bundle: &Bundle,
    files: &mut BTreeSet<String>,
    note: &Note,
    name: &str,
    kind: EntryKind,
) -> Result<Option<Entry>> {
    let (receipt_name, opening_name) = (receipt_path(name), opening_path(name));
    match [&receipt_name, &opening_name].map(|path| files.remove(path)) {
        [false, false] => return Ok(None),
        [true, true] => {}
        [true, false] => return Err(wrong(&opening_name, &"it is missing beside its receipt")),
        [false, true] => return Err(wrong(&receipt_name, &"it is missing beside its opening")),
    }
    let receipt = Receipt::parse(&bundle.bytes(&receipt_name)?);
    let receipt = receipt.map_err(|error| wrong(&receipt_name, &error))?;
    if receipt.note() != note {
        let text = format!("it is under another checkpoint than {CHECKPOINT}");
        return Err(wrong(&receipt_name, &text));
    }
    let leaf = receipt
        .leaf()
        .map_err(|error| wrong(&receipt_name, &error))?;
    let proved = receipt.check_inclusion(&leaf.hash());
    proved.map_err(|error| wrong(&receipt_name, &error))?;
    let opening = read_opening(&bundle.bytes(&opening_name)?);
    let opening = opening
        .filter(|opening| leaf.is_opened_by(opening))
        .ok_or_else(|| wrong(&opening_name, &"it does not open the leaf of its receipt"))?;
    let entry = read_entry(opening.entry()).map_err(|error| wrong(&opening_name, &error))?;
    let is_its_leaf = Leaf::new(entry.action.kind(), entry.at, &opening) == leaf;
    if leaf.kind() != kind || !is_its_leaf {
        let text = "its leaf is of another kind or hour than what stands here";
        return Err(wrong(&receipt_name, &text));
    }
    Ok(Some(entry))
}

fn agrees(name: &str, outcome: Result<(), &'static str>) -> Result<()> {
    outcome.map_err(|field| {
        let text = format!("the audit log says another {field} than this bundle");
        wrong(&receipt_path(name), &text)
    })
}

fn wrong(name: &str, text: &dyn std::fmt::Display) -> Fault {
    Fault::new(format!("{name}: {text}"))
}
