//! A bundle of a follow-up whose statements are erased: what its exporter says of the steps, and
//! nobody else has signed.

use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_common::ids::{CommunityId, FollowUpId, HitId, NodeId};

use super::Story;
use super::bundle::Bundle;
use crate::cli::fault::{Fault, Result};
use crate::cli::followup::ERASED;
use crate::follow_up::logged::StepFacts;

/// The follow-up as its exporter's node had it.
const STORY: &str = "follow-up.json";

/// Reads what is said.
///
/// # Errors
/// If a statement is there after all, or the files contradict one another.
pub(super) fn story(bundle: &Bundle) -> Result<Story> {
    if let Some(name) = bundle.statements().first() {
        let text = format!("{name}: it is here, and {ERASED} says that it is erased");
        return Err(Fault::new(text));
    }
    let told = bundle.json(STORY)?;
    let shared = &told["follow_up"]["shared"];
    if shared["erased"].as_bool() != Some(true) {
        let text = format!("{STORY}: it does not say that anything is erased, as {ERASED} does");
        return Err(Fault::new(text));
    }
    let unread = |name: &str| Fault::new(format!("{STORY}: {name} cannot be read"));
    let text = |name: &str| shared[name].as_str().ok_or_else(|| unread(name));
    let node = |name: &str| text(name)?.parse::<NodeId>().map_err(|_| unread(name));
    let steps = told["steps"].as_array().map(Vec::len);
    let id = text("follow_up_id")?.parse::<FollowUpId>();
    Ok(Story {
        id: id.map_err(|_| unread("follow_up_id"))?,
        requester: node("requester")?,
        holder: node("holder")?,
        steps: steps.ok_or_else(|| unread("steps"))?,
        state: FollowUpState::parse(text("state")?).ok_or_else(|| unread("state"))?,
    })
}

/// What is said of each step, to compare the audit log with: a step's digest is in the one after it.
///
/// # Errors
/// If it cannot be read.
pub(super) fn steps(bundle: &Bundle, story: &Story) -> Result<Vec<StepFacts>> {
    let told = bundle.json(STORY)?;
    let shared = &told["follow_up"]["shared"];
    let unread = |name: &str| Fault::new(format!("{STORY}: {name} cannot be read"));
    let community = shared["community"].as_str();
    let community = community.and_then(|text| text.parse::<CommunityId>().ok());
    let community = community.ok_or_else(|| unread("community"))?;
    let hit = shared["hit_id"].as_str();
    let hit = hit.and_then(|text| text.parse::<HitId>().ok());
    let hit = hit.ok_or_else(|| unread("hit_id"))?;
    let rows = told["steps"].as_array().ok_or_else(|| unread("steps"))?;
    let nexts = rows.iter().skip(1).map(Some).chain([None]);
    let steps = (0..).zip(rows).zip(nexts).map(|((seq, row), next)| {
        let step = row["step"].as_str().and_then(FollowUpStep::parse);
        let sender = row["sender"].as_str();
        let sender = sender.and_then(|text| text.parse::<NodeId>().ok());
        let sender = sender.ok_or_else(|| unread("sender"))?;
        let recipient = if sender == story.requester {
            &story.holder
        } else {
            &story.requester
        };
        Ok(StepFacts {
            community: community.clone(),
            follow_up: story.id,
            hit,
            seq,
            step: step.ok_or_else(|| unread("step"))?,
            recipient: recipient.clone(),
            sender,
            clear: None,
            digest: next.and_then(|next| digest(&next["previous"])),
        })
    });
    steps.collect()
}

fn digest(text: &serde_json::Value) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text.as_str()?, &mut digest).ok()?;
    Some(digest)
}
