//! A bundle of a follow-up whose statements are erased: what its exporter says of the steps, and
//! nobody else has signed.

use sotto_common::followup::FollowUpState;
use sotto_common::ids::{FollowUpId, NodeId};

use super::Story;
use super::bundle::Bundle;
use crate::cli::fault::{Fault, Result};
use crate::cli::followup::ERASED;

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
