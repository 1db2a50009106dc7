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
use crate::cli::witnesses::WitnessArgs;
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
    /// Who stands behind it: of the witnesses that were given, else of the members of the hit's epoch.
    pub(super) cosigned: Vec<String>,
    /// How many witnesses do, and how many must, where the caller gave any.
    quorum: Option<(usize, usize)>,
}

/// What the caller, and the bundle's custodian, say of whose signatures count.
#[derive(Clone, Copy)]
pub(super) struct Trust<'a> {
    /// The members of the hit's epoch, as the bundle has them: no more than its own word.
    pub(super) manifest: &'a Manifest,
    /// The key of the log.
    pub(super) log_key: Option<&'a LogKey>,
    /// The witnesses, and how many of them must stand behind the checkpoint.
    pub(super) witnesses: &'a WitnessArgs,
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

    /// Whether enough witnesses stand behind the checkpoint, in words.
    pub(super) fn cosignatures(&self) -> String {
        match &self.tree {
            None => "none".into(),
            Some(tree) if !tree.is_signed => "not checked, no --log-key".into(),
            Some(Tree {
                quorum: Some((count, required)),
                ..
            }) => format!("verified, {count} where {required} must"),
            Some(tree) => format!(
                "not checked, no --witness: {} by keys that the bundle itself names",
                tree.cosigned.len()
            ),
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
    trust: Trust<'_>,
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
    found.tree = Some(tree(&note, trust)?);
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
fn tree(note: &Note, trust: Trust<'_>) -> Result<Tree> {
    let checkpoint = note.text().parse::<Checkpoint>();
    let checkpoint = checkpoint.map_err(|error| wrong(CHECKPOINT, &error))?;
    if *checkpoint.origin.community() != trust.manifest.community {
        return Err(wrong(CHECKPOINT, &"it is of the log of another community"));
    }
    let mut tree = Tree {
        size: checkpoint.head.size,
        is_signed: trust.log_key.is_some(),
        cosigned: Vec::new(),
        quorum: None,
    };
    let Some(key) = trust.log_key else {
        return Ok(tree);
    };
    let signed = SignedCheckpoint::verify(note.clone(), key);
    let signed = signed.map_err(|error| wrong(CHECKPOINT, &error))?;
    let is_given = !trust.witnesses.is_empty();
    let witnesses = if is_given {
        Some(trust.witnesses.policy())
    } else {
        of_bundle(&signed, trust.manifest)
    };
    let Some(witnesses) = witnesses else {
        return Ok(tree);
    };
    // At whatever time they have cosigned it: a bundle is looked at years later.
    let quorum = witnesses.evaluate(&signed, Freshness::Any);
    let quorum = quorum.map_err(|error| wrong(CHECKPOINT, &error))?;
    if is_given && !quorum.is_reached() {
        let (count, required) = (quorum.count(), quorum.required());
        let text = format!("{count} of the witnesses stand behind it, {required} must");
        return Err(wrong(CHECKPOINT, &text));
    }
    tree.quorum = is_given.then(|| (quorum.count(), quorum.required()));
    tree.cosigned = quorum.cosigned().keys().map(ToString::to_string).collect();
    Ok(tree)
}

/// The members of the hit's epoch as the bundle has them; `None` if no witness has signed. A later epoch
/// may have had others.
fn of_bundle(signed: &SignedCheckpoint, manifest: &Manifest) -> Option<WitnessPolicy> {
    let log = signed.checkpoint().origin.key_name();
    let lines = signed.note().signatures().iter();
    let mut domains = lines.filter(|line| line.name != log).filter_map(|line| {
        let named = line.name.as_str().split_once("/node/");
        named.map(|(domain, _)| domain)
    });
    // All nodes are of one trust domain, which no manifest names.
    WitnessPolicy::of_manifest(manifest, domains.next()?).ok()
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
