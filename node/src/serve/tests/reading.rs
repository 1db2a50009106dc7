//! What is read is noted, by every method that reads.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use sotto_common::hit::HitState;
use sotto_proto::v1::analyst_service_client::AnalystServiceClient;
use sotto_proto::v1::node_admin_service_client::NodeAdminServiceClient;

use super::*;
use crate::access::{Access, Chain};

/// Methods that tell hits, follow-ups or the log itself, and note it.
const READING: &[&str] = &[
    LIST,
    "/sotto.v1.AnalystService/GetRecordHit",
    "/sotto.v1.AnalystService/WatchRecordHits",
    "/sotto.v1.AnalystService/CheckSelector",
    "/sotto.v1.AnalystService/ReviewHit",
    "/sotto.v1.AnalystService/DraftFollowUp",
    "/sotto.v1.AnalystService/ProposeFollowUpStep",
    "/sotto.v1.AnalystService/ApproveFollowUpStep",
    "/sotto.v1.AnalystService/DiscardFollowUpStep",
    "/sotto.v1.AnalystService/EndFollowUp",
    "/sotto.v1.AnalystService/ListNodeFollowUps",
    "/sotto.v1.AnalystService/GetNodeFollowUp",
    "/sotto.v1.AnalystService/WatchNodeFollowUps",
    "/sotto.v1.AnalystService/ListFollowUpAttachments",
    "/sotto.v1.AnalystService/RemoveFollowUpAttachment",
    "/sotto.v1.AnalystService/ReadFollowUpAttachment",
    "/sotto.v1.AnalystService/ExportFollowUp",
    "/sotto.v1.AnalystService/GetFollowUpFigures",
    "/sotto.v1.AnalystService/GetReceipt",
    "/sotto.v1.NodeAdminService/ExportAccessLog",
    "/sotto.v1.NodeAdminService/ListEvidence",
    "/sotto.v1.NodeAdminService/ClearEvidence",
];

/// Methods that note nothing, and why.
const NOT_READING: &[(&str, &str)] = &[
    ("/sotto.v1.AnalystService/ProbeDataset", "tells numbers"),
    (
        "/sotto.v1.AnalystService/AddFollowUpAttachment",
        "takes a file",
    ),
    (
        "/sotto.v1.DatasetService/ImportDataset",
        "tells numbers of lines",
    ),
    (
        "/sotto.v1.DatasetService/ListDatasets",
        "tells names of datasets and numbers",
    ),
    (
        "/sotto.v1.DatasetService/RemoveSelectors",
        "takes, and tells numbers",
    ),
    ("/sotto.v1.DatasetService/DeleteDataset", "tells numbers"),
    ("/sotto.v1.DatasetService/UpdateDataset", "tells settings"),
    ("/sotto.v1.DatasetService/PublishFilters", "tells progress"),
    (
        "/sotto.v1.DatasetService/ListSources",
        "tells settings and numbers",
    ),
    ("/sotto.v1.DatasetService/RunSource", "tells numbers"),
    ("/sotto.v1.NodeAdminService/GetStatus", "tells numbers"),
    (
        "/sotto.v1.NodeAdminService/ListMembers",
        "tells nodes and keys",
    ),
    (
        "/sotto.v1.NodeAdminService/PinMember",
        "takes a fingerprint",
    ),
    ("/sotto.v1.NodeAdminService/StartEpoch", "tells of an epoch"),
    (
        "/sotto.v1.NodeAdminService/CloseEpochConfirmations",
        "tells nothing",
    ),
    ("/sotto.v1.NodeAdminService/FinishEpoch", "tells nothing"),
    ("/sotto.v1.NodeAdminService/FetchEpoch", "tells of an epoch"),
    (
        "/sotto.v1.NodeAdminService/ListNodeEpochs",
        "tells of epochs",
    ),
];

/// A node, its laboratory, and the channel of one person with all roles.
async fn everything() -> (Lab, Node, PersonChannel) {
    let lab = Lab::new();
    let all = "\"analyst\", \"approver\", \"supervisor\", \"data_manager\"";
    lab.put_roles(&[(&jane(), all)]);
    let setting = format!("roles_file = \"{}/roles.toml\"", lab.path().display());
    let node = lab.start(&setting, "").await;
    let channel = lab.client(&node, Some("analyst/jane"), None);
    (lab, node, channel)
}

fn jane() -> String {
    format!("spiffe://{DOMAIN}/analyst/jane")
}

#[test]
fn every_method_reads_personal_data_or_says_why_it_does_not() {
    let listed = NOT_READING
        .iter()
        .map(|(path, _)| *path)
        .chain(READING.iter().copied());
    let listed: BTreeSet<_> = listed.map(str::to_owned).collect();
    assert_eq!(listed.len(), READING.len() + NOT_READING.len());
    assert_eq!(listed, methods());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reads_nothing_and_what_is_refused_is_not_noted() {
    let (_lab, node, channel) = everything().await;
    for (path, _) in NOT_READING {
        call(&channel, path).await;
        assert_eq!(node.log().await.len(), 0, "{path}");
    }
    let mut analyst = AnalystServiceClient::new(channel.clone());
    let mut admin = NodeAdminServiceClient::new(channel);
    // Without a broker nothing is told, and nothing noted; `note_hits` is the one of the others.
    let check = unary(v1::CheckSelectorRequest {
        policy: "email/1".into(),
        value: "a@x.org".into(),
        ..Default::default()
    });
    analyst.check_selector(check).await.expect_err("refused");
    // Refused readings tell nothing.
    let bad = v1::GetRecordHitRequest {
        hit_id: node.hits[1].as_bytes().to_vec().into(),
        why: "a\nb".into(),
    };
    analyst
        .get_record_hit(unary(bad))
        .await
        .expect_err("refused");
    let unsaid = v1::ExportAccessLogRequest::default();
    admin.export_access_log(unsaid).await.expect_err("refused");
    assert_eq!(node.log().await.len(), 0);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_is_noted_before_it_is_answered() {
    let (lab, node, channel) = everything().await;
    let mut analyst = AnalystServiceClient::new(channel.clone());
    let mut admin = NodeAdminServiceClient::new(channel);
    let ids: Vec<_> = node.hits.iter().map(ToString::to_string).collect();
    let list = v1::ListRecordHitsRequest {
        why: "shift handover".into(),
        ..Default::default()
    };
    analyst.list_record_hits(unary(list)).await.expect("listed");
    let get = v1::GetRecordHitRequest {
        hit_id: node.hits[1].as_bytes().to_vec().into(),
        ..Default::default()
    };
    analyst.get_record_hit(unary(get)).await.expect("read");
    let watch = v1::WatchRecordHitsRequest {
        cursor: 1,
        why: "watch".into(),
    };
    let mut events = analyst
        .watch_record_hits(watch)
        .await
        .expect("opened")
        .into_inner();
    events.message().await.expect("told").expect("a hit");
    drop(events);
    let review = v1::ReviewHitRequest {
        hit_id: node.hits[2].as_bytes().to_vec().into(),
        decision: v1::HitDecision::BeginReview.into(),
        ..Default::default()
    };
    analyst.review_hit(unary(review)).await.expect("begun");
    let noted = node.log().await;
    let expected = [
        ("AnalystService/ListRecordHits", &ids[..], "shift handover"),
        ("AnalystService/GetRecordHit", &ids[1..2], "not given"),
        ("AnalystService/WatchRecordHits", &ids[1..], "watch"),
        ("AnalystService/ReviewHit", &ids[2..], "not given"),
    ];
    let expected = expected.map(|(action, objects, why)| Access {
        at: lab.now(),
        person: jane(),
        action: action.into(),
        objects: objects.to_vec(),
        why: why.into(),
    });
    assert_eq!(
        noted.into_iter().map(|e| e.access).collect::<Vec<_>>(),
        expected
    );

    let export = v1::ExportAccessLogRequest {
        why: "audit".into(),
        ..Default::default()
    };
    let entries = admin
        .export_access_log(export)
        .await
        .expect("opened")
        .into_inner();
    let entries: Vec<_> = entries.map(|entry| entry.expect("told")).collect().await;
    let actions: Vec<_> = entries
        .iter()
        .map(|e| e.action.rsplit('/').next().unwrap_or(""))
        .collect();
    assert_eq!(
        actions,
        [
            "ListRecordHits",
            "GetRecordHit",
            "WatchRecordHits",
            "ReviewHit",
            "ExportAccessLog"
        ]
    );
    let log = node.log().await;
    let mut chain = Chain::default();
    log.iter()
        .try_for_each(|entry| chain.take(entry))
        .expect("whole");
    assert_eq!(chain.end(), (5, log[4].digest));
    assert_eq!(entries[4].digest, log[4].digest.to_vec());

    // What cannot be noted is not told.
    node.store.break_access_log().await;
    analyst
        .list_record_hits(unary(v1::ListRecordHitsRequest::default()))
        .await
        .expect_err("refused");
    // And what cannot be noted is not decided either.
    let review = v1::ReviewHitRequest {
        hit_id: node.hits[1].as_bytes().to_vec().into(),
        decision: v1::HitDecision::BeginReview.into(),
        ..Default::default()
    };
    let refused = analyst.review_hit(unary(review)).await;
    refused.expect_err("refused");
    let story = node.store.hit_story(node.hits[1]).await.expect("read");
    assert_eq!(story.expect("there").hit.state, HitState::New);
    node.end().await;
}
