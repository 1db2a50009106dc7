//! The life of hits (workflow.md "Hit").

use std::collections::HashMap;

use sotto_common::hit::{HitEvent, HitState, transition};
use sotto_common::ids::{Epoch, HitId, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;

use super::Erased;
use crate::audit::failure::{Check, FailureCode, Flaw};

/// The hits of the log.
#[derive(Debug, Default)]
pub(super) struct Hits(HashMap<HitId, Hit>);

/// A hit as the log has it.
#[derive(Debug)]
pub(super) struct Hit {
    state: HitState,
    /// Its last entry.
    index: u64,
    epoch: Option<Epoch>,
    prober: Option<NodeId>,
    holder: Option<NodeId>,
}

impl Hits {
    pub(super) fn epoch(&self, id: HitId) -> Option<Epoch> {
        self.0.get(&id)?.epoch
    }

    /// A hit was found, or found and held back.
    pub(super) fn find(&mut self, index: u64, entry: &Entry) -> Check {
        let id = entry.object.hit.ok_or_else(|| Flaw::lacks("its hit"))?;
        let state = if entry.action == Action::QuarantineHit {
            HitState::Quarantined
        } else {
            HitState::New
        };
        let change = entry.change.as_ref();
        if change.is_some_and(|change| change.to != state.as_str()) {
            return Err(illegal(id, &format!("is found as {state}")));
        }
        let hit = Hit {
            state,
            index,
            epoch: entry.object.epoch,
            prober: entry.recipient.clone().or_else(|| entry.actor.node()),
            holder: entry.object.node.clone(),
        };
        match self.0.insert(id, hit) {
            None => Ok(()),
            Some(_) => Err(illegal(id, "was found before")),
        }
    }

    /// A hit changed its state.
    pub(super) fn change(&mut self, index: u64, entry: &Entry, erased: &Erased) -> Check {
        let id = entry.object.hit.ok_or_else(|| Flaw::lacks("its hit"))?;
        let Some(change) = &entry.change else {
            return Err(Flaw::lacks("the states before and after"));
        };
        let (Some(from), Some(to)) = (state(&change.from), state(&change.to)) else {
            let text = "a state that hits do not have";
            return Err(Flaw::new(FailureCode::EntryMalformed, text));
        };
        let leads = |event: &HitEvent| transition(from, *event).is_ok_and(|state| state == to);
        if !events(entry.action).iter().any(leads) {
            let text = format!("does not go from {from} to {to} by {}", entry.action);
            return Err(illegal(id, &text));
        }
        let Some(hit) = self.0.get_mut(&id) else {
            if !erased.any(EntryKind::Hit) {
                return Err(illegal(id, "was never found"));
            }
            self.0.insert(id, Hit::of_a_change(index, entry, to));
            return Ok(());
        };
        if hit.state != from && !erased.since(EntryKind::HitState, hit.index) {
            let text = format!("is in state {}, not in {from}", hit.state);
            return Err(illegal(id, &text));
        }
        let decides = entry.action == Action::DecideHit;
        if decides && hit.prober.is_some() && hit.prober != entry.actor.node() {
            return Err(illegal(id, "is decided on by another node than its prober"));
        }
        (hit.state, hit.index) = (to, index);
        Ok(())
    }

    /// Whether a request about a hit may be submitted, by its prober to its holder. The hit moves in
    /// the same transaction, before or behind the step.
    pub(super) fn check_request(
        &self,
        id: HitId,
        (requester, holder): (&NodeId, &NodeId),
        erased: &Erased,
    ) -> Check {
        let illegal = |text: String| Flaw::new(FailureCode::IllegalFollowUp, text);
        let Some(hit) = self.0.get(&id) else {
            if erased.any(EntryKind::Hit) {
                return Ok(());
            }
            return Err(illegal(format!(
                "a request about hit {id}, which was never found"
            )));
        };
        let stands = matches!(hit.state, HitState::Confirmed | HitState::FollowedUp);
        if !stands && !erased.since(EntryKind::HitState, hit.index) {
            let text = format!("a request about hit {id}, which is {}", hit.state);
            return Err(illegal(text));
        }
        let other = |known: Option<&NodeId>, party| known.is_some_and(|known| known != party);
        if other(hit.prober.as_ref(), requester) || other(hit.holder.as_ref(), holder) {
            return Err(illegal(format!("hit {id} does not join these two nodes")));
        }
        Ok(())
    }
}

impl Hit {
    /// One whose beginning is erased.
    fn of_a_change(index: u64, entry: &Entry, state: HitState) -> Self {
        Self {
            state,
            index,
            epoch: entry.object.epoch,
            prober: None,
            holder: None,
        }
    }
}

/// What may have happened to a hit by an action.
const fn events(action: Action) -> &'static [HitEvent] {
    match action {
        Action::ReleaseHit => &[HitEvent::Release],
        Action::RetractHit => &[HitEvent::NoLongerMatches],
        Action::ReviveHit => &[HitEvent::MatchesAgain],
        Action::DecideHit => &[
            HitEvent::BeginReview,
            HitEvent::Confirm,
            HitEvent::RejectAsFalse,
            HitEvent::RejectAsIrrelevant,
        ],
        Action::ExpireHit => &[HitEvent::Expire],
        Action::FollowUpHit => &[
            HitEvent::FollowUp,
            HitEvent::CloseFollowUp,
            HitEvent::NotHeld,
        ],
        _ => &[],
    }
}

/// Exactly as it is written.
fn state(name: &str) -> Option<HitState> {
    HitState::parse(name).filter(|state| state.as_str() == name)
}

fn illegal(id: HitId, problem: &str) -> Flaw {
    Flaw::new(FailureCode::IllegalHitState, format!("hit {id} {problem}"))
}
