//! Probe sessions (protocol §7): a batch is answered in an open one, and once.

use std::collections::{BTreeSet, HashMap};

use sotto_common::ids::{NodeId, SessionId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;
use sotto_common::selector::Policy;

use super::Erased;
use crate::audit::failure::{Check, FailureCode, Flaw};

/// The open sessions of the log.
#[derive(Debug, Default)]
pub(super) struct Sessions(HashMap<SessionId, Session>);

#[derive(Debug)]
struct Session {
    prober: Option<NodeId>,
    policy: Option<Policy>,
    batches: BTreeSet<u32>,
}

impl Sessions {
    /// A session was opened or closed.
    pub(super) fn take(&mut self, entry: &Entry, erased: &Erased) -> Check {
        let id = session_of(entry)?;
        if entry.action == Action::OpenSession {
            // One that is resumed is open already.
            self.0.entry(id).or_insert_with(|| Session::of(entry));
            return Ok(());
        }
        match self.0.remove(&id) {
            None if !erased.any(EntryKind::ProbeSession) => Err(not_open(id)),
            _ => Ok(()),
        }
    }

    /// A batch was answered; returns its policy.
    pub(super) fn answer(&mut self, entry: &Entry, erased: &Erased) -> Check<Policy> {
        let id = session_of(entry)?;
        let batch = entry.batch.as_ref();
        let batch = batch.ok_or_else(|| Flaw::lacks("the batch"))?;
        if erased.any(EntryKind::ProbeSession) {
            self.0.entry(id).or_insert_with(|| Session::of(entry));
        }
        let session = self.0.get_mut(&id).ok_or_else(|| not_open(id))?;
        if session.prober.is_some() && session.prober != entry.actor.node() {
            let text = format!("session {id} is another node's");
            return Err(Flaw::new(FailureCode::NoSession, text));
        }
        if !session.batches.insert(batch.number) {
            let text = format!("batch {} of session {id} was answered before", batch.number);
            return Err(Flaw::new(FailureCode::BatchRepeated, text));
        }
        let policy = entry.object.policy.or(session.policy);
        policy.ok_or_else(|| Flaw::lacks("its policy"))
    }
}

impl Session {
    fn of(entry: &Entry) -> Self {
        Self {
            prober: entry.actor.node(),
            policy: entry.object.policy,
            batches: BTreeSet::new(),
        }
    }
}

fn session_of(entry: &Entry) -> Check<SessionId> {
    entry
        .object
        .session
        .ok_or_else(|| Flaw::lacks("its session"))
}

fn not_open(id: SessionId) -> Flaw {
    Flaw::new(FailureCode::NoSession, format!("session {id} is not open"))
}
