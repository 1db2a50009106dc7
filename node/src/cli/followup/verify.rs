//! `followup verify`: an exported bundle, checked without any network.

mod bundle;
mod erased;
mod inclusion;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use sotto_common::dsse::{self, Envelope, Fingerprint, StatementKind, VerifyingKey};
use sotto_common::followup::FollowUpState;
use sotto_common::followup::record::{FollowUp, MAX_DELAY};
use sotto_common::followup::step::{StepDetail, StepStatement};
use sotto_common::ids::{FollowUpId, NodeId};
use sotto_common::log::checkpoint::LogKey;
use sotto_common::membership::Manifest;
use sotto_proto::convert::follow_up::body_digest;
use sotto_proto::{convert, v1};

use super::ERASED;
use crate::cli::Context;
use crate::cli::fault::{Fault, Result};
use crate::cli::init::log_key;
use crate::cli::render::Cell;
use crate::cli::witnesses::{NOT_CHECKED, WitnessArgs};
use crate::follow_up::logged::{CHECKPOINT, HitFacts, StepFacts};

use bundle::{Bundle, MANIFEST, SUMS, SUMS_SIGNED};
use inclusion::{Inclusion, Trust};

/// Which bundle.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The folder that `followup export` wrote
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The fingerprint that a node must have, as it was compared with it; may be given several times
    #[arg(long = "fingerprint", value_name = "NODE=FINGERPRINT", value_parser = fingerprint)]
    fingerprints: Vec<(NodeId, Fingerprint)>,
    /// The key of the audit log, as the operator gave it out of band: what the log proves of the
    /// steps is checked by it
    #[arg(long, value_name = "VKEY", value_parser = log_key)]
    log_key: Option<LogKey>,
    #[command(flatten)]
    witnesses: WitnessArgs,
}

fn fingerprint(text: &str) -> Result<(NodeId, Fingerprint), String> {
    let (node, fingerprint) = text.split_once('=').ok_or("expected NODE=FINGERPRINT")?;
    let node = node.parse().map_err(|error| format!("{error}"))?;
    let fingerprint = fingerprint.parse().map_err(|error| format!("{error}"))?;
    Ok((node, fingerprint))
}

const VERIFIED: &[&str] = &[
    "follow_up",
    "requester",
    "requester_fingerprint",
    "holder",
    "holder_fingerprint",
    "steps",
    "state",
    "signatures",
    "files",
    "exported_by",
    "inclusion",
    "logged_steps",
    "logged_hit",
    "tree_size",
    "cosigned_by",
    "cosignatures",
];

/// A follow-up, as a bundle has it.
struct Story {
    id: FollowUpId,
    requester: NodeId,
    holder: NodeId,
    steps: usize,
    state: FollowUpState,
}

/// What a bundle proves.
struct Verified {
    story: Story,
    /// Whether the statements are erased: then its exporter alone says what the story is.
    is_erased: bool,
    keys: BTreeMap<NodeId, VerifyingKey>,
    files: usize,
    exported_by: NodeId,
    inclusion: Inclusion,
}

impl Verified {
    /// What the bundle does not prove, if it does not prove everything.
    fn caveat(&self) -> Option<String> {
        let exporter = &self.exported_by;
        self.is_erased.then(|| {
            format!(
                "after the retention time {exporter} has erased what was sealed, and the signed \
                 statements with it: request, particulars, texts, answer and files are gone, and \
                 the signatures of the steps cannot be checked any more. What is left of the steps \
                 is what {exporter} says, whose signature over the bundle verifies, and the audit \
                 log, as far as `inclusion` tells"
            )
        })
    }
}

/// Checks a bundle, and says what it proves.
pub(super) fn run(context: &Context, args: &VerifyArgs) -> Result<()> {
    if args.log_key.is_none() && !args.witnesses.is_empty() {
        let text = "--witness needs --log-key: cosignatures are of what the log has signed";
        return Err(Fault::Usage(text.into()));
    }
    let bundle = Bundle::open(&args.folder)?;
    let verified = check(&bundle, args.log_key.as_ref(), &args.witnesses)?;
    for (node, wanted) in &args.fingerprints {
        let found = verified.keys.get(node).map(VerifyingKey::fingerprint);
        if found != Some(*wanted) {
            return Err(Fault::with_hint(
                format!("the key of {node} in this bundle has not this fingerprint"),
                "ask the node which key it had in that epoch, over another channel",
            ));
        }
    }
    if let Some(caveat) = verified.caveat() {
        context.note(&caveat);
    }
    if args.fingerprints.is_empty() {
        context.note(
            "whole and signed; compare the fingerprints with those of `sotto-node member ls`",
        );
    }
    let inclusion = &verified.inclusion;
    if inclusion.tree.as_ref().is_some_and(|tree| !tree.is_signed) {
        context.note("inclusion: not checked, no --log-key: the operator gives it out of band");
    }
    if inclusion.tree.is_some() && args.witnesses.is_empty() {
        context.note(NOT_CHECKED);
    }
    for missing in &inclusion.missing {
        context.note(&format!("not proved by the audit log: {missing}"));
    }
    context.done(VERIFIED, &cells(&verified))
}

/// The values of [`VERIFIED`].
fn cells(verified: &Verified) -> [Cell; 16] {
    let fingerprint = |node| {
        let key = verified.keys.get(node).map(VerifyingKey::fingerprint);
        Cell::new(key.map(|key| key.to_string()))
    };
    let (story, inclusion) = (&verified.story, &verified.inclusion);
    let tree = inclusion.tree.as_ref();
    let signatures = if verified.is_erased {
        "erased"
    } else {
        "verified"
    };
    [
        Cell::new(story.id.to_string()),
        Cell::new(story.requester.as_str()),
        fingerprint(&story.requester),
        Cell::new(story.holder.as_str()),
        fingerprint(&story.holder),
        Cell::new(story.steps),
        Cell::new(story.state.as_str()),
        Cell::new(signatures),
        Cell::new(verified.files),
        Cell::new(verified.exported_by.as_str()),
        Cell::new(inclusion.verdict()),
        Cell::new(inclusion.steps),
        Cell::new(inclusion.hit),
        Cell::new(tree.map(|tree| tree.size)),
        Cell::texts(tree.map_or(&[][..], |tree| &tree.cosigned[..])),
        Cell::new(inclusion.cosignatures()),
    ]
}

/// Names the first thing that does not hold.
fn check(bundle: &Bundle, log_key: Option<&LogKey>, witnesses: &WitnessArgs) -> Result<Verified> {
    let files = bundle.check_digests()?;
    let manifest = manifest(bundle)?;
    let is_erased = bundle.has(ERASED);
    let (story, steps) = if is_erased {
        let story = erased::story(bundle)?;
        let steps = if bundle.has(CHECKPOINT) {
            erased::steps(bundle, &story)?
        } else {
            Vec::new()
        };
        (story, steps)
    } else {
        let (follow_up, steps) = chain(bundle, &manifest)?;
        (Story::from(follow_up), steps)
    };
    let mut keys = BTreeMap::new();
    for node in [&story.requester, &story.holder] {
        keys.insert(node.clone(), key_of(&manifest, node)?);
    }
    bundle.check_named_keys(&keys)?;
    let exported_by = exporter(bundle, &keys)?;
    let hit = steps.first().map(|first| HitFacts {
        community: first.community.clone(),
        hit: first.hit,
        epoch: manifest.epoch,
        requester: story.requester.clone(),
        holder: story.holder.clone(),
    });
    let all = story.steps;
    let trust = Trust {
        manifest: &manifest,
        log_key,
        witnesses,
    };
    let inclusion = inclusion::check(bundle, all, &steps, hit.as_ref(), trust)?;
    Ok(Verified {
        story,
        is_erased,
        keys,
        files,
        exported_by,
        inclusion,
    })
}

impl From<FollowUp> for Story {
    fn from(follow_up: FollowUp) -> Self {
        Self {
            id: follow_up.id,
            requester: follow_up.requester,
            holder: follow_up.holder,
            steps: follow_up.next_seq as usize,
            state: follow_up.state,
        }
    }
}

/// The manifest of the hit's epoch, signed by its custodian.
fn manifest(bundle: &Bundle) -> Result<Manifest> {
    let envelope = bundle.envelope(MANIFEST)?;
    let claimed: Manifest =
        convert::read_unverified(&envelope).map_err(|error| wrong(MANIFEST, &error))?;
    let key = key_of(&claimed, &claimed.custodian)?;
    convert::verify(&envelope, &key).map_err(|error| wrong(MANIFEST, &error))
}

fn key_of(manifest: &Manifest, node: &NodeId) -> Result<VerifyingKey> {
    let keys = manifest.member(node);
    keys.map(|keys| keys.signing)
        .map_err(|error| wrong(MANIFEST, &error))
}

/// Every statement by its sender's key, at its place, leading to the state that it names; and what
/// each says.
fn chain(bundle: &Bundle, manifest: &Manifest) -> Result<(FollowUp, Vec<StepFacts>)> {
    let mut follow_up: Option<FollowUp> = None;
    let mut steps = Vec::new();
    for (seq, name) in bundle.statements().into_iter().enumerate() {
        let envelope = bundle.envelope(&name)?;
        let wrong = |error| wrong(&name, &error);
        let claimed: StepStatement = convert::read_unverified(&envelope).map_err(wrong)?;
        let key = key_of(manifest, &claimed.clear.sender)?;
        let statement: StepStatement = convert::verify(&envelope, &key).map_err(wrong)?;
        check_keyid(&name, &envelope, &key)?;
        let clear = &statement.clear;
        if name != format!("statements/{seq:03}-{}.pb", clear.step()) {
            return Err(Fault::new(format!(
                "{name}: it is step {} ({}), and does not stand at its place",
                clear.seq,
                clear.step()
            )));
        }
        // When the broker took a step is not signed: the sender's own time stands for it. That a
        // judicial delay is within a year of it was the broker's to check.
        let now = match &clear.detail {
            StepDetail::AwaitJudicialAuthorisation { new_date } => {
                clear.made_at.max(new_date.minus(MAX_DELAY))
            }
            _ => clear.made_at,
        };
        let body = body_digest(&envelope);
        let next = match &follow_up {
            None => FollowUp::begin(clear, body, now),
            Some(before) => before.apply(clear, body, now),
        };
        follow_up = Some(next.map_err(wrong)?);
        steps.push(StepFacts::new(clear, &statement.clear_bytes, body));
    }
    let follow_up = follow_up.ok_or_else(|| Fault::new("statements: the bundle has none"))?;
    Ok((follow_up, steps))
}

/// The party whose node has signed the list of digests.
fn exporter(bundle: &Bundle, keys: &BTreeMap<NodeId, VerifyingKey>) -> Result<NodeId> {
    let envelope = bundle.envelope(SUMS_SIGNED)?;
    if envelope.payload[..] != bundle.sums()[..] {
        return Err(Fault::new(format!(
            "{SUMS}: it is not the list that was signed in {SUMS_SIGNED}"
        )));
    }
    let signed = Envelope::from(envelope.clone());
    let is_by = |key| dsse::verify(StatementKind::FollowUpBundle, &signed, key).is_ok();
    let exporter = keys.iter().find(|(_, key)| is_by(key));
    let (node, key) = exporter.ok_or_else(|| {
        Fault::new(format!(
            "{SUMS_SIGNED}: not signed by either node of the follow-up"
        ))
    })?;
    check_keyid(SUMS_SIGNED, &envelope, key)?;
    Ok(node.clone())
}

/// The key's id is not signed, and would be the one place of a bundle where a change does not show.
fn check_keyid(name: &str, envelope: &v1::DsseEnvelope, key: &VerifyingKey) -> Result<()> {
    if envelope.signatures.iter().all(|s| s.keyid == key.keyid()) {
        Ok(())
    } else {
        Err(Fault::new(format!(
            "{name}: it names another key than it is signed by"
        )))
    }
}

fn wrong(name: &str, error: &sotto_common::error::Error) -> Fault {
    Fault::new(format!("{name}: {} [{}]", error.text, error.code))
}

#[cfg(test)]
mod tests;
