//! The figures of art. 18 of Directive (EU) 2023/977 and the rates of NOT_HELD: who sees which.

use std::time::Duration;

use serde_json::Value;
use sotto_common::error::ErrorCode;
use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_common::ids::Role;
use sotto_proto::v1;
use sotto_proto::v1::follow_up_service_client::FollowUpServiceClient;
use sotto_tests::operator::command;
use sotto_tests::{COMMUNITY, assert_refused};
use tonic::Code;

use super::{case, with_hits};

fn all() -> v1::ListFollowUpStatisticsRequest {
    v1::ListFollowUpStatisticsRequest {
        community: COMMUNITY.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_for_operator_auditor_and_of_its_own_for_a_node() {
    let (sandbox, nodes, hits) = with_hits(4).await;
    let [nl, _, fr] = &nodes;
    let ends = [
        FollowUpState::Answered,
        FollowUpState::Refused,
        FollowUpState::Closed,
    ];
    for (number, end) in (0..).zip(ends) {
        let mut case = case(&nodes, &hits, number).await;
        case.bring_to(end).await;
    }
    // One that is answered late.
    let mut late = case(&nodes, &hits, 3).await;
    late.bring_to(FollowUpState::Received).await;
    sandbox.clock.advance(Duration::from_hours(9 * 24));
    late.take_all(&[FollowUpStep::Accept, FollowUpStep::Answer])
        .await;

    let url = sandbox.url();
    let auditor = sandbox.lab().channel(Role::Auditor, "authority", &url);
    let mut auditor = FollowUpServiceClient::new(auditor);
    let rows = auditor.list_follow_up_statistics(all()).await;
    let rows = rows.expect("for auditors").into_inner().rows;
    let [row] = &rows[..] else {
        panic!("one line, not {rows:?}");
    };
    assert_eq!((row.sent, row.received, row.answered), (4, 3, 2));
    assert_eq!((row.refused, row.not_held, row.overdue), (1, 1, 1));
    let days = |d: &Option<prost_types::Duration>| d.map(|d| d.seconds / 86_400);
    assert_eq!(days(&row.median_time_to_answer), Some(0));
    assert_eq!(days(&row.percentile_90_time_to_answer), Some(9));
    let own = nl
        .follow_up_service()
        .list_follow_up_statistics(all())
        .await;
    assert_eq!(own.expect("its own").into_inner().rows, rows);
    let none = fr
        .follow_up_service()
        .list_follow_up_statistics(all())
        .await;
    assert!(none.expect("its own").into_inner().rows.is_empty());

    // A hit of a posterior near 1 that is not held is more than chance explains.
    let request = || v1::ListPresenceRatesRequest {
        community: COMMUNITY.into(),
        since: None,
    };
    let rates = auditor.list_presence_rates(request()).await;
    let rates = rates.expect("for auditors").into_inner().rows;
    assert_eq!((rates[0].checked, rates[0].not_held), (4, 1));
    assert!(rates[0].raised && rates[0].expected < 0.01, "{rates:?}");
    let by_node = nl.follow_up_service().list_presence_rates(request()).await;
    assert_refused(by_node, Code::PermissionDenied, ErrorCode::RoleForbidden);

    // The same by the operator's commands.
    let stats = ["--output", "json", "followups", "stats", COMMUNITY];
    let printed = command(sandbox.lab(), &url, &stats).await;
    let printed: Vec<Value> = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(
        (&printed[0]["sent"], &printed[0]["overdue"]),
        (&4.into(), &1.into())
    );
    let csv = ["--output", "csv", "followups", "presence", COMMUNITY];
    let printed = command(sandbox.lab(), &url, &csv).await;
    assert!(
        printed
            .lines()
            .nth(1)
            .is_some_and(|line| line.starts_with("de-bka,phone/1,4,1,"))
    );
}
