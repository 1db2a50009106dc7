//! What people see of a follow-up: as messages of the local services.

use prost::Message as _;
use sotto_common::error::{Error, Result};
use sotto_common::followup::{FollowUpState, FollowUpStep, Party, SealedPart};
use sotto_common::time::Timestamp;
use sotto_proto::convert::to_timestamp;
use sotto_proto::v1;

use super::{LocalFollowUp, News, OwnRecord, Presence, Step};

impl From<Presence> for v1::PresenceState {
    fn from(presence: Presence) -> Self {
        match presence {
            Presence::Open => Self::Unspecified,
            Presence::Proved => Self::Proved,
            Presence::ProofWrong => Self::ProofWrong,
            Presence::NotHeld => Self::NotHeld,
        }
    }
}

impl News {
    /// The code of a stored event.
    pub(crate) fn wire(code: &str) -> v1::FollowUpNews {
        v1::FollowUpNews::from_str_name(&format!("FOLLOW_UP_NEWS_{code}")).unwrap_or_default()
    }
}

impl LocalFollowUp {
    /// As everybody who lists follow-ups sees it.
    ///
    /// # Errors
    /// If what was stored does not hold together any more.
    pub(crate) fn node_view(&self, now: Timestamp) -> Result<v1::NodeFollowUp> {
        Ok(v1::NodeFollowUp {
            follow_up: Some(self.shared_view(now)?),
            side: v1::FollowUpParty::from(self.side).into(),
            records: self.records_view(),
            proposal: self.proposal_view(),
            presence: v1::PresenceState::from(self.presence).into(),
            unread: self.unread,
            step_pending: self.is_pending(),
            alarm: self.alarm.clone(),
            next_action: self.next_action()?,
            case_ref: self.case_ref.clone(),
        })
    }

    /// As broker and nodes agree on it; of a draft what is known.
    fn shared_view(&self, now: Timestamp) -> Result<v1::FollowUp> {
        let agreed = self.agreed()?;
        let mut view = v1::FollowUp {
            follow_up_id: self.id.as_bytes().to_vec().into(),
            community: self.community.to_string(),
            hit_id: self.hit.as_bytes().to_vec().into(),
            epoch: self.epoch.get(),
            policy: self.policy.name().to_owned(),
            requester: self.party(Party::Requester).to_string(),
            holder: self.party(Party::Holder).to_string(),
            filter_version: self.filter_version,
            matched_at: Some(to_timestamp(self.matched_at)),
            state: v1::FollowUpState::from(self.state()?).into(),
            erased: self.erased_at.is_some(),
            ..Default::default()
        };
        let Some(agreed) = agreed else {
            // What is drafted, or approved and on its way, is what would be asked for.
            let draft = self.proposal.as_ref().and_then(|p| p.draft.terms.clone());
            let sent = self.ahead()?.map(|f| (&f.terms).into());
            view.terms = draft.or(sent);
            view.closed_at = self.withdrawn_at.map(to_timestamp);
            return Ok(view);
        };
        let times = &agreed.milestones;
        view.next_seq = agreed.next_seq;
        view.last_body = agreed.last_body.to_vec().into();
        view.terms = Some((&agreed.terms).into());
        view.clock = agreed.clock.as_ref().map(Into::into);
        view.overdue = agreed.is_overdue(now);
        view.submitted_at = times.submitted.map(to_timestamp);
        view.received_at = times.received.map(to_timestamp);
        view.ended_at = times.ended.map(to_timestamp);
        view.closed_at = times.closed.map(to_timestamp);
        Ok(view)
    }

    fn records_view(&self) -> Vec<v1::OwnRecord> {
        // The unit's own people see the unit's own records (protocol §1).
        let canonical = self.canonical.as_ref();
        let canonical = canonical.map(|c| c.expose().to_owned()).unwrap_or_default();
        let record = |record: &OwnRecord| v1::OwnRecord {
            dataset: record.dataset.clone(),
            record_id: record.record_id.clone(),
            canonical: canonical.clone(),
        };
        self.records.iter().map(record).collect()
    }

    fn proposal_view(&self) -> Option<v1::FollowUpProposal> {
        let proposal = self.proposal.as_ref()?;
        Some(v1::FollowUpProposal {
            proposal_id: proposal.id.as_bytes().to_vec().into(),
            step: v1::FollowUpStep::from(proposal.step).into(),
            drafted_by: proposal.drafted_by.clone(),
            drafted_at: Some(to_timestamp(proposal.drafted_at)),
            draft: Some(proposal.draft.clone()),
        })
    }

    /// Whether this node has something to do.
    ///
    /// # Errors
    /// As [`LocalFollowUp::state`].
    pub(crate) fn is_to_do(&self) -> Result<bool> {
        Ok(!self.alarm.is_empty() || !self.next_action()?.is_empty())
    }

    /// What to do next, for people; empty if it is not this node's turn.
    ///
    /// # Errors
    /// As [`LocalFollowUp::state`].
    pub(crate) fn next_action(&self) -> Result<String> {
        use FollowUpState as S;
        if let Some(proposal) = &self.proposal {
            let step = proposal.step;
            return Ok(format!(
                "{step} waits for another person than who drafted it: read it, then approve or \
                 discard it"
            ));
        }
        if self.is_pending() {
            return Ok(String::new());
        }
        let text = match (self.side, self.state()?) {
            (Party::Requester, S::Draft) => "propose the request anew, or withdraw it",
            (Party::Requester, S::ClarificationRequested) => {
                "the holder asks for more: read its question and propose a reply; the time limit \
                 stands still until then"
            }
            (Party::Requester, S::Answered) => "read the answer, then close the follow-up",
            (Party::Requester, S::Refused) => "read the refusal, then close the follow-up",
            (Party::Requester, S::Withdrawn) if self.withdrawn_at.is_none() => {
                "close the follow-up; it is closed by itself after 30 days"
            }
            (Party::Holder, S::Received) => {
                "read the request and propose to accept it, refuse it, ask for more, or wait for a \
                 court"
            }
            (Party::Holder, S::AwaitingJudicialAuthorisation) => {
                "once the court has decided, propose to accept or to refuse"
            }
            (Party::Holder, S::Accepted) => "propose the answer",
            _ => "",
        };
        Ok(text.to_owned())
    }

    /// As another follow-up on the same selector.
    ///
    /// # Errors
    /// As [`LocalFollowUp::state`].
    pub(crate) fn related_view(&self) -> Result<v1::RelatedFollowUp> {
        Ok(v1::RelatedFollowUp {
            follow_up_id: self.id.as_bytes().to_vec().into(),
            side: v1::FollowUpParty::from(self.side).into(),
            counterpart: self.counterpart.to_string(),
            state: v1::FollowUpState::from(self.state()?).into(),
            begun_at: Some(to_timestamp(self.begun_at)),
        })
    }

    /// Its steps, in order; what was sealed only with `contents`.
    ///
    /// # Errors
    /// If what was stored is no message of its step any more.
    pub(crate) fn steps_view(&self, contents: bool) -> Result<Vec<v1::NodeFollowUpStep>> {
        self.steps.iter().map(|s| s.view(contents)).collect()
    }
}

impl Step {
    fn view(&self, contents: bool) -> Result<v1::NodeFollowUpStep> {
        let clear = &self.clear;
        let wire = v1::FollowUpClear::decode(&self.clear_bytes[..]).map_err(Error::internal)?;
        Ok(v1::NodeFollowUpStep {
            seq: clear.seq,
            step: v1::FollowUpStep::from(clear.step()).into(),
            sender: clear.sender.to_string(),
            made_at: Some(to_timestamp(clear.made_at)),
            taken_at: self.taken_at.map(to_timestamp),
            state: v1::FollowUpState::from(clear.state).into(),
            drafted_by: self.drafted_by.clone(),
            approved_by: self.approved_by.clone(),
            clear: Some(wire),
            content: if contents { self.content_view()? } else { None },
            statement: self.envelope.clone(),
        })
    }

    fn content_view(&self) -> Result<Option<v1::node_follow_up_step::Content>> {
        use v1::node_follow_up_step::Content;
        let Some(bytes) = &self.content else {
            return Ok(None);
        };
        let step: FollowUpStep = self.clear.step();
        let bytes = &bytes[..];
        Ok(match step.sealing().part() {
            Some(SealedPart::Particulars) => {
                let form = v1::FollowUpParticulars::decode(bytes).map_err(Error::internal)?;
                Some(Content::Particulars(form))
            }
            Some(SealedPart::Message) => {
                let text = v1::FollowUpMessage::decode(bytes).map_err(Error::internal)?;
                Some(Content::Message(text))
            }
            Some(SealedPart::Answer) => {
                let answer = v1::FollowUpAnswer::decode(bytes).map_err(Error::internal)?;
                Some(Content::Answer(answer))
            }
            // Tags and proofs are for the nodes alone.
            _ => None,
        })
    }
}
