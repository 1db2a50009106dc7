//! What the log gets of every call that the broker answers (protocol §11, workflow.md "Audit"): a
//! call without a row here, or an action without a call or a job, fails the tests.

use std::collections::BTreeSet;

use prost::Message as _;
use sotto_common::log::action::Action;
use sotto_proto::FILE_DESCRIPTOR_SET;

use Logged::{Actions, ByNodesOnly, ReadByReaders};

/// What of a call is logged.
#[derive(Clone, Copy, Debug)]
enum Logged {
    /// Entries of these actions, as far as they took place.
    Actions(&'static [Action]),
    /// A READ, if an operator or an auditor calls.
    ReadByReaders,
    /// Nothing: nodes alone call it, and read what is their own, send parts of what is logged when
    /// it is whole, or sign what the log has.
    ByNodesOnly,
}

/// Services of the node, which keeps a log of its own.
const OF_THE_NODE: &[&str] = &["AnalystService", "DatasetService", "NodeAdminService"];

/// Every call of the broker.
const CALLS: &[(&str, Logged)] = &[
    (
        "MembershipService/CreateCommunity",
        Actions(&[Action::CreateCommunity]),
    ),
    (
        "MembershipService/ProposeProfile",
        Actions(&[Action::ProposeProfile]),
    ),
    ("MembershipService/GetCommunity", ReadByReaders),
    ("MembershipService/EnrolNode", Actions(&[Action::EnrolNode])),
    (
        "MembershipService/SuspendNode",
        Actions(&[
            Action::SuspendNode,
            Action::EndEpoch,
            Action::ExpirePublication,
        ]),
    ),
    ("MembershipService/ListNodes", ReadByReaders),
    ("MembershipService/SetLimits", Actions(&[Action::SetLimits])),
    ("MembershipService/GetLimits", ReadByReaders),
    (
        "MembershipService/SubmitKeyStatement",
        Actions(&[Action::SubmitKeys]),
    ),
    ("MembershipService/OpenEpoch", Actions(&[Action::OpenEpoch])),
    ("MembershipService/GetEpoch", ByNodesOnly),
    ("MembershipService/ListEpochs", ReadByReaders),
    (
        "MembershipService/ConfirmEpoch",
        Actions(&[Action::ConfirmEpoch, Action::ActivateEpoch]),
    ),
    (
        "MembershipService/CloseConfirmations",
        Actions(&[Action::ActivateEpoch]),
    ),
    (
        "MembershipService/EndEpoch",
        Actions(&[Action::EndEpoch, Action::ExpirePublication]),
    ),
    (
        "PublicationService/CreatePublication",
        Actions(&[Action::AnnouncePublication]),
    ),
    ("PublicationService/UploadPublication", ByNodesOnly),
    (
        "PublicationService/ActivatePublication",
        Actions(&[
            Action::ActivatePublication,
            Action::ReplacePublication,
            Action::RejectPublication,
        ]),
    ),
    (
        "PublicationService/WithdrawPublication",
        Actions(&[Action::WithdrawPublication]),
    ),
    ("PublicationService/ListPublications", ByNodesOnly),
    ("PublicationService/WatchCatalogue", ByNodesOnly),
    (
        "ProbeService/Probe",
        Actions(&[
            Action::OpenSession,
            Action::AnswerBatch,
            Action::FindHit,
            Action::QuarantineHit,
            Action::RetractHit,
            Action::ReviveHit,
            Action::CloseSession,
        ]),
    ),
    ("HitService/ListHits", ByNodesOnly),
    ("HitService/GetHit", ByNodesOnly),
    ("HitService/WatchHits", ByNodesOnly),
    (
        "HitService/SubmitHitFeedback",
        Actions(&[Action::DecideHit]),
    ),
    ("HitService/ListHitStatistics", ReadByReaders),
    ("HitService/ListHolderCounts", ByNodesOnly),
    ("HitService/ListQuarantine", ReadByReaders),
    (
        "HitService/ReleaseQuarantine",
        Actions(&[Action::ReleaseHit]),
    ),
    (
        "FollowUpService/SubmitFollowUpStep",
        Actions(&[Action::TakeStep, Action::FollowUpHit, Action::MissLimit]),
    ),
    ("FollowUpService/GetFollowUp", ByNodesOnly),
    ("FollowUpService/ListFollowUps", ByNodesOnly),
    ("FollowUpService/WatchFollowUps", ByNodesOnly),
    (
        "FollowUpService/CreateAttachment",
        Actions(&[Action::AnnounceAttachment, Action::CompleteAttachment]),
    ),
    (
        "FollowUpService/UploadAttachment",
        Actions(&[Action::CompleteAttachment]),
    ),
    (
        "FollowUpService/DownloadAttachment",
        Actions(&[Action::FetchAttachment]),
    ),
    ("FollowUpService/ListFollowUpStatistics", ReadByReaders),
    ("FollowUpService/ListPresenceRates", ReadByReaders),
    ("LogService/GetCheckpoint", ReadByReaders),
    ("LogService/WatchCheckpoints", ReadByReaders),
    ("LogService/ProveInclusion", ReadByReaders),
    ("LogService/ProveConsistency", ReadByReaders),
    ("LogService/SubmitCosignature", ByNodesOnly),
    ("LogService/ProveHits", ByNodesOnly),
    ("LogService/ProveFollowUp", ByNodesOnly),
    ("LogService/GetEntry", ReadByReaders),
    ("AuditService/ListEntries", ReadByReaders),
    ("AuditService/ExportEntries", ReadByReaders),
];

/// What the broker does without being asked: at its start, and by its jobs.
const BY_ITSELF: &[Action] = &[
    Action::CloseSession,
    Action::CloseFollowUp,
    Action::EndEpoch,
    Action::EraseFollowUp,
    Action::EraseOpenings,
    Action::ExpireHit,
    Action::ExpirePublication,
    Action::FollowUpHit,
    Action::LosePublication,
    Action::MissLimit,
];

/// The calls of every service, as `Service/Call`.
fn described() -> BTreeSet<String> {
    let files = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let services = files
        .file
        .iter()
        .filter(|file| file.package() == "sotto.v1");
    let mut calls = BTreeSet::new();
    for service in services.flat_map(|file| &file.service) {
        for method in &service.method {
            calls.insert(format!("{}/{}", service.name(), method.name()));
        }
    }
    calls
}

fn is_of_the_node(call: &str) -> bool {
    let service = call.split('/').next();
    service.is_some_and(|service| OF_THE_NODE.contains(&service))
}

#[test]
fn it_is_settled_of_every_call_what_is_logged() {
    let served: BTreeSet<_> = described()
        .into_iter()
        .filter(|call| !is_of_the_node(call))
        .collect();
    let rows: BTreeSet<_> = CALLS.iter().map(|(call, _)| (*call).to_owned()).collect();
    assert_eq!(rows.len(), CALLS.len(), "a call has one row");
    let without_row: Vec<_> = served.difference(&rows).collect();
    assert!(without_row.is_empty(), "without a row: {without_row:?}");
    let without_call: Vec<_> = rows.difference(&served).collect();
    assert!(without_call.is_empty(), "without a call: {without_call:?}");
}

#[test]
fn every_service_that_is_left_out_is_there() {
    let described = described();
    for service in OF_THE_NODE {
        let prefix = format!("{service}/");
        let mut calls = described.iter();
        assert!(calls.any(|call| call.starts_with(&prefix)), "{service}");
    }
}

#[test]
fn every_action_is_of_some_call_or_of_the_broker_by_itself() {
    let mut logged: BTreeSet<_> = BY_ITSELF.iter().copied().collect();
    for (call, row) in CALLS {
        match row {
            Actions(actions) => {
                assert!(!actions.is_empty(), "{call}");
                logged.extend(actions.iter().copied());
            }
            ReadByReaders => {
                logged.insert(Action::Read);
            }
            ByNodesOnly => {}
        }
    }
    let all: BTreeSet<_> = Action::ALL.iter().copied().collect();
    assert_eq!(logged, all);
}
