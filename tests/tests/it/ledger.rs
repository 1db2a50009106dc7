//! The hit ledger, its stream and the flood guard (protocol §7).

use std::collections::BTreeSet;
use std::time::Duration;

use sotto_common::error::ErrorCode;
use sotto_common::hit::HitDecision;
use sotto_common::selector::Policy::{Email, Phone};
use sotto_common::time::Timestamp;
use sotto_proto::v1;
use sotto_proto::v1::HitState;
use sotto_tests::sandbox::profile;
use sotto_tests::{COMMUNITY, Sandbox, TestNode, assert_refused, emails, matched, phones};
use tonic::{Code, Status};

const DAY: Duration = Duration::from_hours(24);

fn seconds(at: Option<prost_types::Timestamp>) -> i64 {
    at.expect("a time").seconds
}

/// The next `n` events of a stream of hits.
async fn take(
    stream: &mut tonic::Streaming<v1::WatchHitsResponse>,
    n: usize,
) -> Vec<v1::WatchHitsResponse> {
    let mut events = Vec::new();
    while events.len() < n {
        events.push(stream.message().await.expect("open").expect("an event"));
    }
    events
}

async fn list(
    node: &TestNode,
    request: v1::ListHitsRequest,
) -> Result<v1::ListHitsResponse, Status> {
    let response = node.hit_service().list_hits(request).await?;
    Ok(response.into_inner())
}

fn in_community() -> v1::ListHitsRequest {
    v1::ListHitsRequest {
        community: COMMUNITY.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probing_again_gives_the_same_hit_seen_later() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    de.publish(Phone, &phones(0..3)).await;
    let first = nl.ask(Phone, &phones(0..3)).await.expect("answered");
    sandbox.clock.advance(Duration::from_mins(1));
    let again = nl.ask(Phone, &phones(0..3)).await.expect("answered");
    assert_eq!(first, again);
    let hits = nl.hits().await.expect("listed");
    assert_eq!(hits.len(), 3);
    for hit in hits {
        assert_eq!(seconds(hit.last_seen) - seconds(hit.first_seen), 60);
        assert_eq!(hit.state(), HitState::New);
    }
    let mut stream = nl.watch(0).await.expect("open");
    let cursors: Vec<_> = take(&mut stream, 3)
        .await
        .iter()
        .map(|e| e.cursor)
        .collect();
    assert_eq!(cursors, [1, 2, 3], "seen again is no event");
}

/// Asserts whom a hit tells to turn to, and how it may be handled.
fn assert_says(hit: &v1::Hit, unit: &str) {
    assert_eq!(hit.contact_unit, unit);
    assert_eq!(hit.handling_code(), v1::HandlingCode::H3);
    assert_eq!(hit.handling_text, "ask before use");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_says_what_its_holder_said_with_the_version_that_matched_last() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let value = phones(0..1);
    let publish = async |unit: &str| {
        let draft = de.draft(Phone, &value).await;
        let draft = draft.labelled(unit, "ask before use");
        de.publish_draft(&draft).await.expect("published");
        draft.id()
    };
    let hit = async || nl.hits().await.expect("listed").remove(0);
    // Announced with the version of the next one, and never active: nobody matched it.
    let never = de.draft(Phone, &value).await.labelled("Nobody", "never");
    de.announce(&never).await.expect("announced");
    publish("Team 7").await;
    nl.find(Phone, &value).await;
    assert_says(&hit().await, "Team 7");
    publish("Night desk").await;
    assert_says(&hit().await, "Team 7");
    nl.find(Phone, &value).await;
    assert_says(&hit().await, "Night desk");
    // The same said again is no event.
    let last = publish("Night desk").await;
    nl.find(Phone, &value).await;
    de.withdraw(last).await.expect("withdrawn");
    assert_says(&hit().await, "Night desk");
    let reviewed = nl.decide(&hit().await, HitDecision::BeginReview).await;
    assert_says(&reviewed.expect("taken"), "Night desk");

    let mut stream = nl.watch(0).await.expect("open");
    for event in take(&mut stream, 3).await {
        assert_says(&event.hit.expect("a hit"), "Night desk");
    }
    publish("Team 7").await;
    nl.find(Phone, &value).await;
    let told = take(&mut stream, 1).await.remove(0);
    assert_eq!(told.cursor, 4, "found, told of the night desk, reviewed");
    let told = told.hit.expect("a hit");
    assert_says(&told, "Team 7");
    let request = v1::GetHitRequest {
        community: COMMUNITY.into(),
        hit_id: told.hit_id.clone(),
    };
    let got = nl.hit_service().get_hit(request).await.expect("there");
    assert_eq!(got.into_inner().hit, Some(told));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_is_retracted_only_by_a_holder_that_could_match_and_does_not() {
    let (_sandbox, [nl, de, fr]) = Sandbox::with_nodes(["nl-fiu", "de-bka", "fr-pj"]).await;
    let value = phones(0..1);
    de.publish(Phone, &value).await;
    nl.find(Phone, &value).await;
    let state = async || nl.hits().await.expect("listed")[0].state();

    // The audience leaves the prober out.
    let draft = de.draft(Phone, &phones(1..2)).await.only_for(&["fr-pj"]);
    de.publish_draft(&draft).await.expect("published");
    nl.find(Phone, &value).await;
    assert_eq!(state().await, HitState::New);
    // The holder is not targeted.
    let without = de.publish(Phone, &phones(1..2)).await;
    let asked = nl.ask_only(&[fr.id().as_str()], Phone, &value).await;
    asked.expect("answered");
    assert_eq!(state().await, HitState::New);
    // The ref is not probed.
    nl.find(Phone, &phones(5..6)).await;
    assert_eq!(state().await, HitState::New);
    // The holder has no active filter.
    de.withdraw(without).await.expect("withdrawn");
    nl.find(Phone, &value).await;
    assert_eq!(state().await, HitState::New);
    // All of it, and no match.
    de.publish(Phone, &phones(1..2)).await;
    nl.find(Phone, &value).await;
    assert_eq!(state().await, HitState::Retracted);
    // A holder that matches again is a hit again, and the same one.
    de.publish(Phone, &value).await;
    nl.find(Phone, &value).await;
    assert_eq!(state().await, HitState::New);

    let mut stream = nl.watch(0).await.expect("open");
    let events = take(&mut stream, 3).await;
    let ids: BTreeSet<_> = events
        .iter()
        .map(|e| &e.hit.as_ref().expect("a hit").hit_id)
        .collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(nl.hits().await.expect("listed").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_retract_what_they_and_others_have_found_before() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let values = phones(0..200);
    let pairs = nl.pairs(Phone, &values);
    let are = async |state, count| {
        let hits = nl.hits().await.expect("listed");
        assert_eq!(hits.len(), count);
        assert!(hits.iter().all(|hit| hit.state() == state));
    };
    de.publish(Phone, &phones(0..40)).await;
    let mut probe = nl.open(nl.opening(Phone)).await.expect("opened");
    let found = probe.batch(0, &pairs).await.expect("answered");
    assert_eq!(matched(&found).count(), 40);
    // Beside the session, by a small batch and by a large one.
    de.publish(Phone, &phones(0..90)).await;
    assert_eq!(nl.find(Phone, &phones(40..50)).await.len(), 10);
    assert_eq!(nl.find(Phone, &phones(50..150)).await.len(), 40);
    are(HitState::New, 90).await;

    de.publish(Phone, &phones(500..501)).await;
    let found = probe.batch(1, &pairs).await.expect("answered");
    assert_eq!(matched(&found).count(), 0);
    are(HitState::Retracted, 90).await;
    de.publish(Phone, &phones(0..90)).await;
    let found = probe.batch(2, &pairs).await.expect("answered");
    assert_eq!(matched(&found).count(), 90);
    are(HitState::New, 90).await;

    // A session that begins later knows them too.
    de.publish(Phone, &phones(500..501)).await;
    assert!(nl.find(Phone, &values).await.is_empty());
    are(HitState::Retracted, 90).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_beyond_the_cap_are_held_back_until_an_operator_releases_them() {
    let mut capped = profile();
    capped.hit_cap = 4;
    let (sandbox, [nl, de, fr]) =
        Sandbox::with_profile(capped, ["nl-fiu", "de-bka", "fr-pj"]).await;
    de.publish(Phone, &phones(0..10)).await;
    de.publish(Email, &emails(0..2)).await;
    fr.publish(Phone, &phones(0..2)).await;
    let mut stream = nl.watch(0).await.expect("open");

    let answer = nl.ask(Phone, &phones(0..10)).await.expect("answered");
    let of_de = |m: &v1::ProbeMatches| matched(m).filter(|(_, at)| at.holder == "de-bka").count();
    assert_eq!(of_de(&answer), 4);
    assert_eq!(matched(&answer).count(), 6, "each holder has its own count");
    assert_eq!(
        nl.find(Email, &emails(0..2)).await.len(),
        2,
        "and each policy"
    );
    take(&mut stream, 8).await;
    assert_eq!(nl.hits().await.expect("listed").len(), 8);

    // Neither repeated nor retracted by probing again, and not counted twice.
    let again = nl.ask(Phone, &phones(0..10)).await.expect("answered");
    assert_eq!(again, answer);
    let groups = sandbox.operator().quarantine().await.expect("listed");
    assert_eq!(groups.len(), 1);
    assert_eq!((groups[0].hits, groups[0].holder.as_str()), (6, "de-bka"));
    // The next day has a count of its own.
    sandbox.clock.advance(DAY);
    de.publish(Phone, &phones(0..12)).await;
    assert_eq!(
        of_de(&nl.ask(Phone, &phones(0..12)).await.expect("answered")),
        6
    );

    let without_reason = sandbox.operator().release(&groups[0], " ").await;
    assert_refused(
        without_reason,
        Code::InvalidArgument,
        ErrorCode::InvalidField,
    );
    let released = sandbox
        .operator()
        .release(&groups[0], "checked with de-bka")
        .await;
    assert_eq!(released.expect("released"), 6);
    let events = take(&mut stream, 8).await;
    assert_eq!(events.last().expect("events").cursor, 16);
    assert!(
        events
            .iter()
            .all(|e| e.hit.as_ref().expect("a hit").state() == HitState::New)
    );
    assert_eq!(nl.hits().await.expect("listed").len(), 16);
    assert!(
        sandbox
            .operator()
            .quarantine()
            .await
            .expect("listed")
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_held_back_are_not_retracted_and_not_shown_by_their_id_either() {
    let mut capped = profile();
    capped.hit_cap = 1;
    let (sandbox, [nl, de]) = Sandbox::with_profile(capped, ["nl-fiu", "de-bka"]).await;
    de.publish(Phone, &phones(0..2)).await;
    assert_eq!(nl.find(Phone, &phones(0..1)).await.len(), 1);
    assert!(nl.find(Phone, &phones(1..2)).await.is_empty());
    de.publish(Phone, &phones(0..1)).await;
    nl.find(Phone, &phones(1..2)).await;
    let quarantined = v1::ListHitsRequest {
        state: HitState::Quarantined.into(),
        ..in_community()
    };
    assert!(
        list(&nl, quarantined)
            .await
            .expect("listed")
            .hits
            .is_empty()
    );
    let groups = sandbox.operator().quarantine().await.expect("listed");
    assert_eq!(groups[0].hits, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_are_listed_by_filters_and_page_by_page() {
    let (sandbox, [nl, de, fr]) = Sandbox::with_nodes(["nl-fiu", "de-bka", "fr-pj"]).await;
    de.publish(Phone, &phones(0..7)).await;
    fr.publish(Phone, &phones(0..2)).await;
    fr.publish(Email, &emails(0..3)).await;
    nl.find(Phone, &phones(0..7)).await;
    sandbox.clock.advance(Duration::from_secs(10));
    let later = sandbox.clock_now();
    nl.find(Email, &emails(0..3)).await;

    let count = async |request| list(&nl, request).await.expect("listed").hits.len();
    let all = in_community();
    assert_eq!(count(all.clone()).await, 12);
    assert_eq!(
        count(v1::ListHitsRequest {
            policy: "email/1".into(),
            ..all.clone()
        })
        .await,
        3
    );
    assert_eq!(
        count(v1::ListHitsRequest {
            holder: "fr-pj".into(),
            ..all.clone()
        })
        .await,
        5
    );
    assert_eq!(
        count(v1::ListHitsRequest {
            epoch: 1,
            ..all.clone()
        })
        .await,
        12
    );
    assert_eq!(
        count(v1::ListHitsRequest {
            epoch: 2,
            ..all.clone()
        })
        .await,
        0
    );
    let state = HitState::Retracted.into();
    assert_eq!(
        count(v1::ListHitsRequest {
            state,
            ..all.clone()
        })
        .await,
        0
    );
    let since = Some(sotto_proto::convert::to_timestamp(later));
    assert_eq!(
        count(v1::ListHitsRequest {
            since,
            ..all.clone()
        })
        .await,
        3
    );

    let mut page = v1::ListHitsRequest {
        page_size: 5,
        ..all.clone()
    };
    let mut sizes = vec![];
    let mut ids = BTreeSet::new();
    loop {
        let answer = list(&nl, page.clone()).await.expect("listed");
        sizes.push(answer.hits.len());
        ids.extend(answer.hits.into_iter().map(|hit| hit.hit_id));
        if answer.next_page_token.is_empty() {
            break;
        }
        page.page_token = answer.next_page_token;
    }
    assert_eq!((sizes, ids.len()), (vec![5, 5, 2], 12));

    let other = v1::ListHitsRequest {
        holder: "de-bka".into(),
        ..page.clone()
    };
    let refused = list(&nl, other).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::CursorInvalid);
    for token in ["00", "zz", &"ab".repeat(24)] {
        let page_token = token.into();
        let refused = list(
            &nl,
            v1::ListHitsRequest {
                page_token,
                ..all.clone()
            },
        )
        .await;
        assert_refused(refused, Code::InvalidArgument, ErrorCode::CursorInvalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_is_shown_to_its_prober_only() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    de.publish(Phone, &phones(0..1)).await;
    nl.find(Phone, &phones(0..1)).await;
    let hit_id = nl.hits().await.expect("listed")[0].hit_id.clone();
    let request = v1::GetHitRequest {
        community: COMMUNITY.into(),
        hit_id,
    };
    let shown = nl.hit_service().get_hit(request.clone()).await;
    assert_eq!(
        shown
            .expect("shown")
            .into_inner()
            .hit
            .expect("a hit")
            .holder,
        "de-bka"
    );
    let refused = de.hit_service().get_hit(request).await;
    assert_refused(refused, Code::NotFound, ErrorCode::HitUnknown);
    assert!(de.hits().await.expect("listed").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_from_its_cursor_over_a_restart_in_order_and_without_gaps() {
    let (mut sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    de.publish(Phone, &phones(0..900)).await;
    let mut stream = nl.watch(0).await.expect("open");
    nl.find(Phone, &phones(0..700)).await;
    let mut seen: Vec<u64> = take(&mut stream, 400)
        .await
        .iter()
        .map(|e| e.cursor)
        .collect();
    sandbox.restart().await;
    // The old stream ends with a status that says to come again, after what was under way.
    let ended = loop {
        match stream.message().await {
            Ok(Some(event)) => seen.push(event.cursor),
            Ok(None) => panic!("an end without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");

    let mut stream = nl.watch(*seen.last().expect("some")).await.expect("open");
    let left = 700 - seen.len();
    seen.extend(take(&mut stream, left).await.iter().map(|e| e.cursor));
    nl.find(Phone, &phones(700..705)).await;
    seen.extend(take(&mut stream, 5).await.iter().map(|e| e.cursor));
    assert_eq!(seen, (1..=705).collect::<Vec<_>>());

    let refused = nl.watch(706).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::CursorInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_see_counts_a_day_late_and_in_tens() {
    let (sandbox, [nl, de, fr]) = Sandbox::with_nodes(["nl-fiu", "de-bka", "fr-pj"]).await;
    de.publish(Phone, &phones(0..40)).await;
    nl.find(Phone, &phones(0..11)).await;
    fr.find(Phone, &phones(0..10)).await;
    let day = sandbox.clock_now().day();
    assert!(de.holder_counts().await.expect("listed").is_empty());
    sandbox.clock.advance(DAY);
    let counts = de.holder_counts().await.expect("listed");
    let rows: Vec<_> = counts
        .iter()
        .map(|c| (c.prober.as_str(), c.policy.as_str(), c.hits))
        .collect();
    assert_eq!(rows, [("fr-pj", "phone/1", 10), ("nl-fiu", "phone/1", 20)]);
    let first_instant = Timestamp::from_seconds(day * 86_400).seconds();
    assert!(counts.into_iter().all(|c| seconds(c.day) == first_instant));
    assert!(nl.holder_counts().await.expect("listed").is_empty());
}
