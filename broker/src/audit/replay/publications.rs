//! Publications (protocol §6): announced before they are active, and nothing matches in one that is
//! not.

use std::collections::HashMap;

use sotto_common::ids::{Epoch, NodeId, PublicationId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;
use sotto_common::publication::PublicationState;
use sotto_common::selector::Policy;
use sotto_common::time::{CLOCK_SKEW, Timestamp};

use super::Erased;
use crate::audit::failure::{Check, FailureCode, Flaw};

/// The publications of the log.
#[derive(Debug, Default)]
pub(super) struct Publications {
    known: HashMap<PublicationId, Publication>,
    /// Every version that became active, and when it ended.
    active: HashMap<VersionKey, Option<Timestamp>>,
}

/// What a hit names.
type VersionKey = (NodeId, Policy, Epoch, u64);

#[derive(Debug)]
struct Publication {
    state: PublicationState,
    /// Its last entry.
    index: u64,
    version: Option<VersionKey>,
}

impl Publications {
    /// A publication was announced, or changed its state.
    pub(super) fn take(&mut self, index: u64, entry: &Entry, erased: &Erased) -> Check {
        let id = entry.object.publication;
        let id = id.ok_or_else(|| Flaw::lacks("its publication"))?;
        let to = state_after(entry.action);
        let known = self.known.get(&id);
        match known {
            None if to == PublicationState::Uploading => {}
            None if erased.any(EntryKind::Publication) => {}
            None => return Err(illegal(id, "was never announced")),
            Some(_) if to == PublicationState::Uploading => {
                return Err(illegal(id, "was announced before"));
            }
            Some(known) if known.state.may_become(to) => {}
            Some(known) if moved_unseen(erased, known.index) => {}
            Some(known) => {
                let text = format!("is {} and does not become {to}", known.state);
                return Err(illegal(id, &text));
            }
        }
        let version = version_of(entry).or_else(|| known.and_then(|known| known.version.clone()));
        // Uploads that came to nothing may have been announced under the version of the active one.
        let before = entry.change.as_ref().map(|change| change.from.as_str());
        let was_active = known.map_or(before == Some(PublicationState::Active.as_str()), |known| {
            known.state == PublicationState::Active
        });
        if to == PublicationState::Active {
            let version = version.clone();
            let version =
                version.ok_or_else(|| Flaw::lacks("holder, policy, epoch and version"))?;
            self.active.insert(version, None);
        } else if was_active
            && let Some(ended) = version.as_ref().and_then(|key| self.active.get_mut(key))
        {
            ended.get_or_insert(entry.at);
        }
        self.known.insert(
            id,
            Publication {
                state: to,
                index,
                version,
            },
        );
        Ok(())
    }

    /// A hit names a version that was active. A batch that was being matched when the version ended
    /// may still be recorded: brokers wait for each other, never longer than clocks may differ.
    pub(super) fn check_match(&self, entry: &Entry, erased: &Erased) -> Check {
        let key = version_of(entry);
        let key = key.ok_or_else(|| Flaw::lacks("holder, policy, epoch and version"))?;
        let flaw = |problem: &str| {
            let (holder, policy, epoch, version) = &key;
            let text =
                format!("version {version} of {holder} for {policy} in epoch {epoch} {problem}");
            Flaw::new(FailureCode::FilterNotActive, text)
        };
        match self.active.get(&key) {
            Some(None) => Ok(()),
            Some(Some(ended)) if entry.at <= ended.plus(CLOCK_SKEW) => Ok(()),
            Some(Some(ended)) => Err(flaw(&format!("matched after it had ended at {ended}"))),
            None if erased.any(EntryKind::Activation) => Ok(()),
            None => Err(flaw("matched and was never active")),
        }
    }
}

/// Its entries are of four kinds.
fn moved_unseen(erased: &Erased, index: u64) -> bool {
    [
        EntryKind::Publication,
        EntryKind::Activation,
        EntryKind::Withdrawal,
        EntryKind::Deletion,
    ]
    .into_iter()
    .any(|kind| erased.since(kind, index))
}

/// The holder is the actor, or the broker acts on its filter.
fn version_of(entry: &Entry) -> Option<VersionKey> {
    let object = &entry.object;
    let holder = object.node.clone().or_else(|| entry.actor.node())?;
    Some((holder, object.policy?, object.epoch?, object.version?))
}

const fn state_after(action: Action) -> PublicationState {
    match action {
        Action::RejectPublication => PublicationState::Refused,
        Action::ActivatePublication => PublicationState::Active,
        Action::WithdrawPublication => PublicationState::Withdrawn,
        Action::ReplacePublication => PublicationState::Replaced,
        Action::ExpirePublication | Action::LosePublication => PublicationState::Expired,
        _ => PublicationState::Uploading,
    }
}

fn illegal(id: PublicationId, problem: &str) -> Flaw {
    let text = format!("publication {id} {problem}");
    Flaw::new(FailureCode::IllegalPublication, text)
}
