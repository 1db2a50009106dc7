//! What a unit says with its filters, and what others' hits say of it (workflow.md "Hit").

use std::sync::Arc;

use sotto_proto::v1;
use sotto_tests::unit::grounds;
use sotto_tests::{Sandbox, Unit};

use super::scene::{import, numbers, units_with};
use super::world::is_settled;

/// The configuration of the holder.
const LABELS: &str = "[service.publisher.labels]\ncontact_unit = 'Team 7'\nhandling_code = 'H3'\n\
    handling_text = 'ask before use'\n[service.publisher.labels.types.email]\n\
    contact_unit = 'Nobody'\n";

/// Whether a hit names this unit, and says how it may be handled.
fn says(hit: &v1::RecordHit, unit: &str) -> bool {
    let exact = hit.match_class() == v1::MatchClass::Exact;
    let hit = hit.hit.as_ref().expect("a hit");
    exact
        && hit.contact_unit == unit
        && hit.handling_code() == v1::HandlingCode::H3
        && hit.handling_text == "ask before use"
}

/// Whether the only hit of a unit names this one.
async fn shows(unit: &Unit, named: &str) -> bool {
    let threads = unit.threads().await.expect("listed");
    threads.len() == 1 && says(&threads[0], named)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_says_whom_to_turn_to_and_how_it_may_be_handled_as_its_holder_is_configured() {
    let settings = |_: &Sandbox, name: &str| match name {
        "de-bka" => LABELS.to_owned(),
        _ => String::new(),
    };
    let (sandbox, [nl, mut de]) = units_with(["nl-fiu", "de-bka"], settings).await;
    import(&de, &numbers(0..1)).await;
    import(&nl, &numbers(0..1)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    sandbox
        .eventually(async || shows(&nl, "Team 7").await)
        .await;

    de.stop().await;
    de.reconfigure("'Team 7'", "'Night desk'");
    de.start(Arc::new(sandbox.clock.clone())).await;
    sandbox.eventually(async || is_settled(&de).await).await;
    let request = v1::PublishFiltersRequest {
        now: true,
        ..Default::default()
    };
    let answer = de.datasets().publish_filters(request).await;
    let mut stream = answer.expect("taken").into_inner();
    while stream.message().await.expect("told").is_some() {}
    sandbox
        .eventually(async || shows(&nl, "Night desk").await)
        .await;

    // Who asks of the moment is told at once.
    let question = v1::CheckSelectorRequest {
        policy: "phone/1".into(),
        value: "+31612340000".into(),
        grounds: Some(grounds()),
        ..Default::default()
    };
    let answer = nl.analyst().check_selector(question).await.expect("asked");
    let hits = answer.into_inner().hits;
    assert!(hits.len() == 1 && says(&hits[0], "Night desk"), "{hits:?}");
}
