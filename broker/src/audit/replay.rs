//! Whether what the log says may have happened: its state machines, run again entry by entry.
//!
//! Of an opening that was erased only kind and hour are left. What it began or moved is then not
//! known, and what needs it is not checked: an object whose beginning may have been erased starts
//! where it is first seen, and one that may have been moved since goes on from there.

mod follow_ups;
mod hits;
mod publications;
mod quotas;
mod sessions;

use std::collections::BTreeMap;

use sotto_common::followup::record::FollowUp;
use sotto_common::ids::{Epoch, FollowUpId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;

use super::failure::Check;
use follow_ups::FollowUps;
use hits::Hits;
use publications::Publications;
use quotas::Quotas;
use sessions::Sessions;

/// Everything that has states, as far as the log has come.
#[derive(Debug, Default)]
pub(super) struct Replay {
    erased: Erased,
    hits: Hits,
    follow_ups: FollowUps,
    publications: Publications,
    sessions: Sessions,
    quotas: Quotas,
    /// The latest epoch that became active.
    active: Option<Epoch>,
}

/// Where entries were erased, by kind: the last place of each.
#[derive(Debug, Default)]
pub(super) struct Erased(BTreeMap<EntryKind, u64>);

impl Erased {
    /// An entry whose opening is gone.
    pub(super) fn put(&mut self, kind: EntryKind, index: u64) {
        self.0.insert(kind, index);
    }

    /// Whether an entry of the kind was erased anywhere.
    pub(super) fn any(&self, kind: EntryKind) -> bool {
        self.0.contains_key(&kind)
    }

    /// Whether an entry of the kind was erased behind a place.
    pub(super) fn since(&self, kind: EntryKind, index: u64) -> bool {
        self.0.get(&kind).is_some_and(|last| *last > index)
    }
}

impl Replay {
    /// An entry whose opening is gone.
    pub(super) fn skip(&mut self, kind: EntryKind, index: u64) {
        self.erased.put(kind, index);
    }

    /// The epoch of a hit.
    pub(super) fn epoch_of(&self, entry: &Entry) -> Option<Epoch> {
        self.hits.epoch(entry.object.hit?)
    }

    /// The latest epoch that became active.
    pub(super) const fn active_epoch(&self) -> Option<Epoch> {
        self.active
    }

    /// The follow-ups whose beginning is in the log.
    pub(super) fn follow_ups(&self) -> impl Iterator<Item = (FollowUpId, &FollowUp)> {
        self.follow_ups.whole()
    }

    /// Takes the next entry.
    pub(super) fn take(&mut self, index: u64, entry: &Entry) -> Check {
        use Action as A;
        match entry.action {
            A::AnnouncePublication
            | A::RejectPublication
            | A::ActivatePublication
            | A::WithdrawPublication
            | A::ReplacePublication
            | A::ExpirePublication
            | A::LosePublication => self.publications.take(index, entry, &self.erased),
            A::OpenSession | A::CloseSession => self.sessions.take(entry, &self.erased),
            A::AnswerBatch => {
                let policy = self.sessions.answer(entry, &self.erased)?;
                self.quotas.count(entry, policy, &self.erased)
            }
            A::FindHit | A::QuarantineHit => {
                self.publications.check_match(entry, &self.erased)?;
                self.hits.find(index, entry)
            }
            A::ReleaseHit
            | A::RetractHit
            | A::ReviveHit
            | A::DecideHit
            | A::ExpireHit
            | A::FollowUpHit => self.hits.change(index, entry, &self.erased),
            A::TakeStep
            | A::CloseFollowUp
            | A::EraseFollowUp
            | A::MissLimit
            | A::AnnounceAttachment
            | A::CompleteAttachment
            | A::FetchAttachment => self.follow_ups.take(index, entry, &self.hits, &self.erased),
            A::SetLimits => self.quotas.set(entry),
            A::ActivateEpoch => {
                self.active = self.active.max(entry.object.epoch);
                Ok(())
            }
            A::CreateCommunity
            | A::ProposeProfile
            | A::EnrolNode
            | A::SuspendNode
            | A::SubmitKeys
            | A::OpenEpoch
            | A::ConfirmEpoch
            | A::EndEpoch
            | A::EraseOpenings
            | A::Read => Ok(()),
        }
    }
}
