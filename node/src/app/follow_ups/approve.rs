//! Approval by another person than who drafted (workflow.md "Follow-up", four eyes).

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::FollowUpStep;
use sotto_common::ids::FollowUpId;
use sotto_common::secret::Tag;
use sotto_common::tag::TagKey;
use sotto_proto::v1;

use super::super::App;
use super::draft::{fill_in, prepare, record_gone, request};
use super::{encoded, mismatch};
use crate::auth::Caller;
use crate::follow_up::{LocalFollowUp, ProposalId};
use crate::store::StoredAttachment;

impl App {
    /// Approves a proposal: in one transaction it becomes a signed and sealed step that waits for
    /// the broker.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`; `FOLLOW_UP_MISMATCH` if it is not the proposal that was read;
    /// `SAME_PERSON`; `LOG_INCONSISTENT`; and all those of proposing: what has changed meanwhile is checked again.
    pub(crate) async fn approve_step(
        &self,
        caller: &Caller,
        id: FollowUpId,
        proposal: ProposalId,
    ) -> Result<LocalFollowUp> {
        self.check_log().await?;
        let before = self.follow_up(id).await?;
        let step = check_proposal(&before, proposal, caller)?;
        if step == FollowUpStep::Answer {
            self.check_files(id).await?;
        }
        let peer = self.peer(before.epoch, &before.counterpart).await?;
        let mut key = None;
        if step == FollowUpStep::Submit {
            self.confirmed_hit(before.hit).await?;
            let epoch = self.stored_keys(before.epoch).await?;
            key = Some(epoch.schedule.tag_key(before.policy));
        }
        let now = self.clock.now();
        let approve = |f: &mut LocalFollowUp, files: &[StoredAttachment]| {
            check_proposal(f, proposal, caller)?;
            let waits = f.proposal.take();
            let waits = waits.ok_or_else(|| mismatch("nothing waits for approval here"))?;
            let tag = tag(f, key.as_ref())?;
            let mut draft = waits.draft;
            fill_in(f, waits.step, &mut draft, files);
            let prepared = prepare(f, waits.step, &draft, files, tag)?;
            if waits.step == FollowUpStep::Submit {
                let (_, particulars) = request(&draft)?;
                f.particulars = Some(encoded(&v1::FollowUpParticulars::from(&particulars)));
            }
            let by = (waits.drafted_by.as_str(), caller.person.as_str());
            let signed = self.sign_step(f, &peer, prepared, by, now)?;
            f.push_own(signed)?;
            f.alarm.clear();
            Ok(())
        };
        let approved = self.change_with_files(id, None, &approve).await?;
        if step == FollowUpStep::Answer {
            // No further file goes with it.
            self.unfinished.forget_of(id);
        }
        Ok(approved)
    }
}

/// The tag of the hit's canonical value under the hit's epoch (protocol §10); nothing for steps
/// that name none.
fn tag(follow_up: &LocalFollowUp, key: Option<&TagKey>) -> Result<Tag> {
    match (key, &follow_up.canonical) {
        (Some(key), Some(canonical)) => Ok(key.tag(canonical)),
        (Some(_), None) => Err(record_gone()),
        (None, _) => Ok(Tag::new([0; 16])),
    }
}

/// That it is the proposal that was read, and another person who approves it.
fn check_proposal(
    follow_up: &LocalFollowUp,
    proposal: ProposalId,
    caller: &Caller,
) -> Result<FollowUpStep> {
    let waits = follow_up
        .proposal
        .as_ref()
        .filter(|waits| waits.id == proposal);
    let Some(waits) = waits else {
        return Err(mismatch(
            "what waits for approval is not the proposal that was read: read it again",
        ));
    };
    if waits
        .drafters
        .iter()
        .any(|one| caller.identities.contains(one))
    {
        return Err(Error::new(
            ErrorCode::SamePerson,
            "whoever drafted a step does not approve it, in any role",
        ));
    }
    Ok(waits.step)
}
