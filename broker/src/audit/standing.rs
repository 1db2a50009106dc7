//! Who may act, and when (protocol §8): in what role, while enrolled, and in an epoch that is active.
//!
//! Of two actions that took place at once the log may have either first. What came to an end may therefore
//! be acted on a moment later, no longer than clocks may differ. What begins is there before it is used.

use std::collections::BTreeMap;

use sotto_common::ids::{Epoch, NodeId, Role};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::EntryKind;
use sotto_common::time::{CLOCK_SKEW, Timestamp};

use super::failure::{Check, FailureCode, Flaw};
use super::head::SignedManifest;
use super::replay::Erased;
use super::statements::manifest_of;

/// Nodes and epochs, as far as the log has come.
#[derive(Debug, Default)]
pub(super) struct Standing {
    nodes: BTreeMap<NodeId, Enrolment>,
    epochs: BTreeMap<Epoch, Course>,
    erased: Erased,
}

#[derive(Debug)]
struct Enrolment {
    /// Its last entry.
    index: u64,
    suspended: Option<Timestamp>,
}

#[derive(Debug)]
struct Course {
    /// Its last entry.
    index: u64,
    active: bool,
    /// Whether it may have become active by an entry that is erased.
    unseen: bool,
    /// The first end: by its own entry, or by the suspension of a member.
    ended: Option<Timestamp>,
}

impl Standing {
    /// An entry whose opening is gone.
    pub(super) fn skip(&mut self, kind: EntryKind, index: u64) {
        self.erased.put(kind, index);
    }

    /// Takes the next entry; `epoch` is that of its hit, if it has one.
    pub(super) fn take(
        &mut self,
        index: u64,
        entry: &Entry,
        epoch: Option<Epoch>,
        manifests: &BTreeMap<Epoch, SignedManifest>,
    ) -> Check {
        use Action as A;
        check_role(entry)?;
        if needs_enrolment(entry.action)
            && let Some(node) = entry.actor.node()
        {
            self.check_enrolled(&node, entry.at)?;
        }
        match entry.action {
            A::EnrolNode => self.set_enrolment(index, entry, None),
            A::SuspendNode => {
                self.set_enrolment(index, entry, Some(entry.at))?;
                self.end_epochs_of(entry, manifests);
                Ok(())
            }
            A::OpenEpoch => self.open(index, entry, manifests),
            A::ConfirmEpoch | A::ActivateEpoch | A::EndEpoch => self.go_on(index, entry, manifests),
            A::AnnouncePublication
            | A::ActivatePublication
            | A::OpenSession
            | A::AnswerBatch
            | A::FindHit
            | A::QuarantineHit
            | A::RetractHit
            | A::ReviveHit => self.check_active(entry, manifests),
            A::TakeStep => match entry.object.epoch.or(epoch) {
                // The epoch may have ended (protocol §8); its manifest still says whose key counts.
                Some(epoch) => check_member(entry, manifest_of(Some(epoch), manifests)?),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn set_enrolment(&mut self, index: u64, entry: &Entry, suspended: Option<Timestamp>) -> Check {
        let node = entry.object.node.clone();
        let node = node.ok_or_else(|| Flaw::lacks("the node"))?;
        self.nodes.insert(node, Enrolment { index, suspended });
        Ok(())
    }

    /// protocol §8: a member that is suspended "ends the epoch at once".
    fn end_epochs_of(&mut self, entry: &Entry, manifests: &BTreeMap<Epoch, SignedManifest>) {
        for (epoch, course) in &mut self.epochs {
            let signed = manifests.get(epoch);
            let node = entry.object.node.as_ref();
            let lists =
                |node: &NodeId| signed.is_some_and(|signed| signed.manifest.member(node).is_ok());
            if node.is_some_and(lists) {
                course.ended.get_or_insert(entry.at);
            }
        }
    }

    fn check_enrolled(&self, node: &NodeId, at: Timestamp) -> Check {
        let flaw = |problem: String| {
            let text = format!("{node} {problem}");
            Err(Flaw::new(FailureCode::NotAMember, text))
        };
        match self.nodes.get(node) {
            None if self.erased.any(EntryKind::Membership) => Ok(()),
            None => flaw("was never enrolled".to_owned()),
            Some(known) => match known.suspended {
                Some(suspended) if at > suspended.plus(CLOCK_SKEW) => {
                    // It may have been enrolled again.
                    if self.erased.since(EntryKind::Membership, known.index) {
                        return Ok(());
                    }
                    flaw(format!("was suspended at {suspended}"))
                }
                _ => Ok(()),
            },
        }
    }

    /// Publications and probes are taken between activation and end, within the times of the manifest, from
    /// its members. The broker looks at the manifest at the time that the entry has.
    fn check_active(&self, entry: &Entry, manifests: &BTreeMap<Epoch, SignedManifest>) -> Check {
        let signed = manifest_of(entry.object.epoch, manifests)?;
        let (manifest, at) = (&signed.manifest, entry.at);
        let flaw = |problem: String| {
            let text = format!(
                "{} in epoch {}, which {problem}",
                entry.action, manifest.epoch
            );
            Err(Flaw::new(FailureCode::EpochNotActive, text))
        };
        check_member(entry, signed)?;
        if !manifest.covers(at) {
            let (from, until) = (manifest.not_before, manifest.not_after);
            return flaw(format!("lasts from {from} to {until}"));
        }
        match self.epochs.get(&manifest.epoch) {
            None if self.erased.any(EntryKind::Epoch) => Ok(()),
            None => flaw("was never opened".to_owned()),
            Some(course) => {
                if let Some(ended) = course.ended
                    && at > ended.plus(CLOCK_SKEW)
                {
                    return flaw(format!("had ended at {ended}"));
                }
                let unseen = course.unseen || self.erased.since(EntryKind::Epoch, course.index);
                if !course.active && !unseen {
                    return flaw("was not active yet".to_owned());
                }
                Ok(())
            }
        }
    }

    /// Epochs are numbered upwards, and opened by their custodians.
    fn open(
        &mut self,
        index: u64,
        entry: &Entry,
        manifests: &BTreeMap<Epoch, SignedManifest>,
    ) -> Check {
        let signed = manifest_of(entry.object.epoch, manifests)?;
        check_custodian(entry, signed)?;
        let epoch = signed.manifest.epoch;
        if let Some((latest, _)) = self.epochs.last_key_value()
            && *latest >= epoch
        {
            return Err(illegal(epoch, &format!("is opened behind epoch {latest}")));
        }
        let course = Course {
            index,
            active: false,
            unseen: false,
            ended: None,
        };
        self.epochs.insert(epoch, course);
        Ok(())
    }

    /// An epoch is confirmed, becomes active, or ends.
    fn go_on(
        &mut self,
        index: u64,
        entry: &Entry,
        manifests: &BTreeMap<Epoch, SignedManifest>,
    ) -> Check {
        let signed = manifest_of(entry.object.epoch, manifests)?;
        let epoch = signed.manifest.epoch;
        let ends = entry.action == Action::EndEpoch;
        if ends && entry.actor.role() == Role::Node {
            check_custodian(entry, signed)?;
        } else if !ends {
            check_member(entry, signed)?;
        }
        let unseen = self.erased.any(EntryKind::Epoch);
        if !unseen && !self.epochs.contains_key(&epoch) {
            return Err(illegal(epoch, "was never opened"));
        }
        let course = self.epochs.entry(epoch).or_insert(Course {
            index,
            active: false,
            unseen,
            ended: None,
        });
        course.unseen |= self.erased.since(EntryKind::Epoch, course.index);
        if ends {
            course.ended.get_or_insert(entry.at);
        } else if let Some(ended) = course.ended
            && entry.at > ended.plus(CLOCK_SKEW)
        {
            return Err(illegal(epoch, &format!("had ended at {ended}")));
        }
        if entry.action == Action::ActivateEpoch {
            if course.active {
                return Err(illegal(epoch, "was active before"));
            }
            course.active = true;
        }
        course.index = index;
        Ok(())
    }
}

/// Who does it at an honest broker: the role of whoever's call has brought it about (PROTOCOL-NOTES §11).
const fn roles(action: Action) -> &'static [Role] {
    use Action as A;
    match action {
        A::CreateCommunity
        | A::ProposeProfile
        | A::EnrolNode
        | A::SuspendNode
        | A::SetLimits
        | A::ReleaseHit => &[Role::Operator],
        A::Read => &[Role::Operator, Role::Auditor],
        A::ExpirePublication
        | A::LosePublication
        | A::ExpireHit
        | A::CloseFollowUp
        | A::EraseFollowUp
        | A::MissLimit
        | A::EraseOpenings => &[Role::Broker],
        // By its prober, or because nobody used it; by a step, or by time.
        A::CloseSession | A::FollowUpHit => &[Role::Node, Role::Broker],
        // By its custodian, by a suspension, or by time.
        A::EndEpoch => &[Role::Node, Role::Operator, Role::Broker],
        A::AnnouncePublication
        | A::RejectPublication
        | A::ActivatePublication
        | A::WithdrawPublication
        | A::ReplacePublication
        | A::OpenSession
        | A::AnswerBatch
        | A::FindHit
        | A::QuarantineHit
        | A::RetractHit
        | A::ReviveHit
        | A::DecideHit
        | A::TakeStep
        | A::AnnounceAttachment
        | A::CompleteAttachment
        | A::FetchAttachment
        | A::SubmitKeys
        | A::OpenEpoch
        | A::ConfirmEpoch
        | A::ActivateEpoch => &[Role::Node],
    }
}

fn check_role(entry: &Entry) -> Check {
    let role = entry.actor.role();
    if roles(entry.action).contains(&role) {
        return Ok(());
    }
    let text = format!(
        "{} by {}, in the role {}",
        entry.action,
        entry.actor,
        role.as_str()
    );
    Err(Flaw::new(FailureCode::ActorRole, text))
}

/// Whether a node does it only while it is enrolled. The rest brings to an end what it began before.
const fn needs_enrolment(action: Action) -> bool {
    !matches!(
        action,
        Action::RejectPublication | Action::CloseSession | Action::CompleteAttachment
    )
}

/// The node that acts is a member of the epoch.
fn check_member(entry: &Entry, signed: &SignedManifest) -> Check {
    let node = entry.actor.node();
    let node = node.ok_or_else(|| Flaw::lacks("a node as its actor"))?;
    if signed.manifest.member(&node).is_ok() {
        return Ok(());
    }
    let text = format!("{node} is no member of epoch {}", signed.manifest.epoch);
    Err(Flaw::new(FailureCode::NotAMember, text))
}

/// protocol §8: a manifest is "made and signed by the custodian", who opens and may end the epoch.
fn check_custodian(entry: &Entry, signed: &SignedManifest) -> Check {
    let manifest = &signed.manifest;
    if entry.actor.node().as_ref() == Some(&manifest.custodian) {
        return Ok(());
    }
    let text = format!("is {}'s, and this is not it", manifest.custodian);
    Err(illegal(manifest.epoch, &text))
}

fn illegal(epoch: Epoch, problem: &str) -> Flaw {
    let text = format!("epoch {epoch} {problem}");
    Flaw::new(FailureCode::IllegalEpoch, text)
}
