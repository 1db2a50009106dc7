//! Everything that is logged, with its kind and verb (protocol §11, workflow.md "Audit").

use super::kind::{EntryKind, Verb};
use crate::grounds::codes;

codes! {
    /// What was done. Actions are only ever added.
    Action {
        /// A holder announced a publication.
        AnnouncePublication = "ANNOUNCE_PUBLICATION",
        /// A publication was refused when its upload was whole.
        RejectPublication = "REJECT_PUBLICATION",
        /// A filter became active.
        ActivatePublication = "ACTIVATE_PUBLICATION",
        /// A holder withdrew a publication.
        WithdrawPublication = "WITHDRAW_PUBLICATION",
        /// A filter was replaced by another base.
        ReplacePublication = "REPLACE_PUBLICATION",
        /// A publication reached its end, or its epoch did.
        ExpirePublication = "EXPIRE_PUBLICATION",
        /// A filter was lost from the object store, and its publication ended.
        LosePublication = "LOSE_PUBLICATION",
        /// A probe session was opened.
        OpenSession = "OPEN_SESSION",
        /// A probe session was closed.
        CloseSession = "CLOSE_SESSION",
        /// A batch was answered.
        AnswerBatch = "ANSWER_BATCH",
        /// A hit was found.
        FindHit = "FIND_HIT",
        /// A hit was found and held back by the flood guard.
        QuarantineHit = "QUARANTINE_HIT",
        /// An operator released a hit from quarantine.
        ReleaseHit = "RELEASE_HIT",
        /// A hit was probed again and did not match.
        RetractHit = "RETRACT_HIT",
        /// A retracted hit matched again.
        ReviveHit = "REVIVE_HIT",
        /// A person at the prober's node decided on a hit.
        DecideHit = "DECIDE_HIT",
        /// Nobody touched a hit in time.
        ExpireHit = "EXPIRE_HIT",
        /// A follow-up moved its hit.
        FollowUpHit = "FOLLOW_UP_HIT",
        /// A party took a step of a follow-up.
        TakeStep = "TAKE_STEP",
        /// A follow-up was closed by time.
        CloseFollowUp = "CLOSE_FOLLOW_UP",
        /// The sealed parts of a follow-up were erased.
        EraseFollowUp = "ERASE_FOLLOW_UP",
        /// A follow-up passed its time limit.
        MissLimit = "MISS_LIMIT",
        /// A holder announced a file.
        AnnounceAttachment = "ANNOUNCE_ATTACHMENT",
        /// A file was whole, and kept or thrown away.
        CompleteAttachment = "COMPLETE_ATTACHMENT",
        /// A requester fetched a file.
        FetchAttachment = "FETCH_ATTACHMENT",
        /// An operator created the community.
        CreateCommunity = "CREATE_COMMUNITY",
        /// An operator proposed a profile.
        ProposeProfile = "PROPOSE_PROFILE",
        /// An operator enrolled a node.
        EnrolNode = "ENROL_NODE",
        /// An operator suspended a node.
        SuspendNode = "SUSPEND_NODE",
        /// A node handed in its keys.
        SubmitKeys = "SUBMIT_KEYS",
        /// An operator set a node's limits.
        SetLimits = "SET_LIMITS",
        /// A custodian opened an epoch.
        OpenEpoch = "OPEN_EPOCH",
        /// A node confirmed the key of an epoch.
        ConfirmEpoch = "CONFIRM_EPOCH",
        /// An epoch became active.
        ActivateEpoch = "ACTIVATE_EPOCH",
        /// An epoch ended.
        EndEpoch = "END_EPOCH",
        /// Openings were erased after the retention time.
        EraseOpenings = "ERASE_OPENINGS",
        /// An auditor or an operator has read.
        Read = "READ",
    }
}

impl Action {
    /// What an entry of it is about.
    pub const fn kind(self) -> EntryKind {
        match self {
            Self::AnnouncePublication | Self::RejectPublication => EntryKind::Publication,
            Self::ActivatePublication => EntryKind::Activation,
            Self::WithdrawPublication => EntryKind::Withdrawal,
            Self::ReplacePublication
            | Self::ExpirePublication
            | Self::LosePublication
            | Self::EraseOpenings => EntryKind::Deletion,
            Self::OpenSession | Self::CloseSession => EntryKind::ProbeSession,
            Self::AnswerBatch => EntryKind::ProbeBatch,
            Self::FindHit | Self::QuarantineHit => EntryKind::Hit,
            Self::ReleaseHit
            | Self::RetractHit
            | Self::ReviveHit
            | Self::DecideHit
            | Self::ExpireHit
            | Self::FollowUpHit => EntryKind::HitState,
            Self::TakeStep
            | Self::CloseFollowUp
            | Self::EraseFollowUp
            | Self::MissLimit
            | Self::AnnounceAttachment
            | Self::CompleteAttachment
            | Self::FetchAttachment => EntryKind::FollowUp,
            Self::CreateCommunity
            | Self::ProposeProfile
            | Self::EnrolNode
            | Self::SuspendNode
            | Self::SubmitKeys => EntryKind::Membership,
            Self::OpenEpoch | Self::ConfirmEpoch | Self::ActivateEpoch | Self::EndEpoch => {
                EntryKind::Epoch
            }
            Self::SetLimits => EntryKind::Quota,
            Self::Read => EntryKind::Read,
        }
    }

    /// What was done to data by it. "Publishing = DISCLOSURE, matching = COMBINATION, withdrawing =
    /// ERASURE, reading a hit or an answer = CONSULTATION" (workflow.md).
    pub const fn verb(self) -> Verb {
        match self {
            Self::AnnouncePublication
            | Self::ActivatePublication
            | Self::ReleaseHit
            | Self::TakeStep
            | Self::CompleteAttachment => Verb::Disclosure,
            Self::WithdrawPublication
            | Self::ReplacePublication
            | Self::ExpirePublication
            | Self::LosePublication
            | Self::RejectPublication
            | Self::EraseFollowUp
            | Self::EraseOpenings => Verb::Erasure,
            Self::AnswerBatch
            | Self::FindHit
            | Self::QuarantineHit
            | Self::RetractHit
            | Self::ReviveHit => Verb::Combination,
            Self::OpenSession | Self::SubmitKeys | Self::AnnounceAttachment => Verb::Collection,
            Self::FetchAttachment | Self::Read => Verb::Consultation,
            Self::CloseSession
            | Self::DecideHit
            | Self::ExpireHit
            | Self::FollowUpHit
            | Self::CloseFollowUp
            | Self::MissLimit
            | Self::CreateCommunity
            | Self::ProposeProfile
            | Self::EnrolNode
            | Self::SuspendNode
            | Self::SetLimits
            | Self::OpenEpoch
            | Self::ConfirmEpoch
            | Self::ActivateEpoch
            | Self::EndEpoch => Verb::Alteration,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_every_verb_has_an_action() {
        for kind in EntryKind::ALL {
            assert!(
                Action::ALL.iter().any(|action| action.kind() == *kind),
                "{kind}"
            );
        }
        for verb in Verb::ALL {
            assert!(
                Action::ALL.iter().any(|action| action.verb() == *verb),
                "{verb}"
            );
        }
    }

    #[test]
    fn no_two_actions_have_one_code() {
        let codes: std::collections::BTreeSet<_> =
            Action::ALL.iter().map(|action| action.as_str()).collect();
        assert_eq!(codes.len(), Action::ALL.len());
    }
}
