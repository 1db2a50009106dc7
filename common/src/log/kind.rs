//! What an entry of the log is about, and what was done (workflow.md "Audit").

use crate::grounds::codes;

codes! {
    /// What an entry is about. Kinds are only ever added: a leaf carries the name.
    EntryKind {
        /// A filter was announced and uploaded.
        Publication = "PUBLICATION",
        /// A filter became active.
        Activation = "ACTIVATION",
        /// A filter was withdrawn.
        Withdrawal = "WITHDRAWAL",
        /// A filter was deleted from disk.
        Deletion = "DELETION",
        /// A probe session was opened or closed.
        ProbeSession = "PROBE_SESSION",
        /// A batch was answered, with or without hits.
        ProbeBatch = "PROBE_BATCH",
        /// A hit was found.
        Hit = "HIT",
        /// A hit changed its state.
        HitState = "HIT_STATE",
        /// A step of a follow-up was taken.
        FollowUp = "FOLLOW_UP",
        /// A node or an operator changed who belongs to the community.
        Membership = "MEMBERSHIP",
        /// An epoch was opened, confirmed, activated or ended.
        Epoch = "EPOCH",
        /// A quota or an allowed class was set.
        Quota = "QUOTA",
        /// An auditor or an operator has read.
        Read = "READ",
    }
}

codes! {
    /// What was done: the logging duties of Directive (EU) 2016/680 art. 25.
    Verb {
        /// Data came in.
        Collection = "COLLECTION",
        /// Data were changed.
        Alteration = "ALTERATION",
        /// Data were read: a hit, an answer.
        Consultation = "CONSULTATION",
        /// Data were made available: a publication.
        Disclosure = "DISCLOSURE",
        /// Data were matched with other data: a probe.
        Combination = "COMBINATION",
        /// Data were erased: a withdrawal, a deletion.
        Erasure = "ERASURE",
    }
}

impl EntryKind {
    /// From the name exactly as a leaf carries it; else `None`.
    pub fn from_leaf(name: &[u8]) -> Option<Self> {
        let mut kinds = Self::ALL.iter().copied();
        kinds.find(|kind| kind.as_str().as_bytes() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_verbs_are_those_of_the_workflow_in_its_order() {
        let kinds: Vec<_> = EntryKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(
            kinds.join(" "),
            "PUBLICATION ACTIVATION WITHDRAWAL DELETION PROBE_SESSION PROBE_BATCH HIT HIT_STATE \
             FOLLOW_UP MEMBERSHIP EPOCH QUOTA READ"
        );
        let verbs: Vec<_> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
        assert_eq!(
            verbs.join(" "),
            "COLLECTION ALTERATION CONSULTATION DISCLOSURE COMBINATION ERASURE"
        );
    }

    #[test]
    fn a_leaf_names_its_kind_in_one_way() {
        assert_eq!(EntryKind::from_leaf(b"HIT"), Some(EntryKind::Hit));
        for bad in [&b"hit"[..], b"HIT ", b"", b"HITS"] {
            assert_eq!(EntryKind::from_leaf(bad), None);
        }
    }
}
