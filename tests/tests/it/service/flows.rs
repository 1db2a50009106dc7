//! What the service does by itself, one thing at a time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sotto_common::ids::Role;
use sotto_proto::v1;
use sotto_proto::v1::import_dataset_request::Message;
use sotto_proto::v1::publication_service_client::PublicationServiceClient;
use sotto_tests::unit::grounds;
use sotto_tests::{COMMUNITY, Sandbox, Unit};

use super::scene::{HOUR, held_by, import, numbers, publication, units};
use super::world::is_settled;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_imported_is_published_and_asked_without_a_command() {
    let (sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], "").await;
    import(&nl, &numbers(0..40)).await;
    import(&de, &numbers(30..60)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    let found = async || held_by(&nl, "de-bka").await == numbers(30..40);
    sandbox.eventually(found).await;
    // What is new at either side is found too: by a supplement, and by asking at once.
    import(&de, &numbers(20..30)).await;
    let found = async || held_by(&nl, "de-bka").await == numbers(20..40);
    sandbox.eventually(found).await;
    // The other unit may see it before this one has written down that it is published.
    let supplemented = async || publication(&de).await.supplements == 1;
    sandbox.eventually(supplemented).await;
    import(&nl, &numbers(40..50)).await;
    let found = async || held_by(&nl, "de-bka").await == numbers(20..50);
    sandbox.eventually(found).await;
    // Nobody asks for de-bka: its dataset is not marked.
    assert!(de.overlaps().await.expect("listed").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_matches_no_more_when_publishing_has_ended() {
    let (sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], "").await;
    import(&nl, &numbers(0..40)).await;
    import(&de, &numbers(0..40)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    let found = async || held_by(&nl, "de-bka").await == numbers(0..40);
    sandbox.eventually(found).await;
    let report = de
        .remove("numbers", &numbers(0..10))
        .await
        .expect("removed");
    assert_eq!((report.removed, report.absent), (10, 0));
    de.publish().await.expect("published");
    let hits = v1::CheckSelectorRequest {
        policy: "phone/1".into(),
        value: "+31612340003".into(),
        grounds: Some(grounds()),
        ..Default::default()
    };
    let hits = nl.analyst().check_selector(hits).await.expect("asked");
    assert!(hits.into_inner().hits.is_empty());
    let retracted = async || held_by(&nl, "de-bka").await == numbers(10..40);
    sandbox.eventually(retracted).await;
    // And what the prober removes is not shown any more.
    nl.remove("numbers", &numbers(10..20))
        .await
        .expect("removed");
    assert_eq!(held_by(&nl, "de-bka").await, numbers(20..40));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ninth_supplement_is_a_base() {
    let (_sandbox, [nl]) = units(["nl-fiu"], "").await;
    for n in 0..11 {
        import(&nl, &numbers(n..n + 1)).await;
        nl.publish().await.expect("published");
        let now = publication(&nl).await;
        assert_eq!(now.version, u64::from(n) + 1);
        assert_eq!(now.supplements, n % 9, "after {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_comes_once_a_day_and_at_no_restart_and_at_once_when_asked() {
    let (sandbox, [mut nl]) = units(["nl-fiu"], "").await;
    import(&nl, &numbers(0..5)).await;
    nl.publish().await.expect("published");
    let mut hours = BTreeSet::new();
    // The first day ends at the first midnight: from then on whole days are counted.
    sandbox.clock.advance(sandbox.clock_now().until_next_day());
    for day in 0..4 {
        let before = publication(&nl).await.version;
        for hour in 0..24 {
            sandbox.clock.advance(HOUR);
            let due = async || {
                let now = publication(&nl).await;
                let at = now.next_base_at.map_or(i64::MAX, |at| at.seconds);
                at > sandbox.clock_now().seconds()
            };
            sandbox.eventually(due).await;
            if publication(&nl).await.version > before {
                hours.insert((day, hour));
            }
            if hour == 12 {
                nl.stop().await;
                nl.start(Arc::new(sandbox.clock.clone())).await;
                let up = async || is_settled(&nl).await;
                sandbox.eventually(up).await;
            }
        }
        assert_eq!(publication(&nl).await.version, before + 1, "day {day}");
    }
    println!("{hours:?}");
    let before = publication(&nl).await.version;
    let request = v1::PublishFiltersRequest {
        now: true,
        ..Default::default()
    };
    let answer = nl.datasets().publish_filters(request).await;
    let mut stream = answer.expect("taken").into_inner();
    while stream.message().await.expect("told").is_some() {}
    assert_eq!(publication(&nl).await.version, before + 1);
    // Asked without `now`, there is nothing to do.
    nl.publish().await.expect("published");
    assert_eq!(publication(&nl).await.version, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_slows_the_prober_down_and_loses_nothing() {
    let (sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], "").await;
    let quota = sandbox.operator().set_quota("nl-fiu", 25).await;
    quota.expect("set");
    import(&de, &numbers(0..100)).await;
    de.publish().await.expect("published");
    import(&nl, &numbers(0..60)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    for asked in [25, 50] {
        let waits = async || {
            let status = nl.status().await.expect("a status");
            let row = &status.backlog[0];
            let waits = row.waiting_for.contains("quota");
            let early = sandbox.clock_now().until_next_day() > HOUR * 12;
            if waits && early && row.refs > 60 - asked {
                // It began to wait only after the clock was moved, and looks again after five
                // minutes.
                sandbox.clock.advance(Duration::from_mins(6));
            }
            waits
                && row.refs == 60 - asked
                && status
                    .next_actions
                    .iter()
                    .any(|text| text.contains("quota"))
        };
        sandbox.eventually(waits).await;
        let expected = usize::try_from(asked).expect("small");
        let found = async || held_by(&nl, "de-bka").await.len() == expected;
        sandbox.eventually(found).await;
        sandbox.clock.advance(sandbox.clock_now().until_next_day());
        // Woken by its own look at the quota, at the latest after five minutes.
        sandbox.clock.advance(Duration::from_mins(6));
    }
    let found = async || {
        sandbox.clock.advance(Duration::from_mins(6));
        held_by(&nl, "de-bka").await == numbers(0..60)
    };
    sandbox.eventually(found).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_asked_again_before_a_week_is_over_and_not_all_at_once() {
    let settings = "[service.prober]\nrefresh_every = '10d'\n";
    let (sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], settings).await;
    import(&de, &numbers(0..48)).await;
    import(&nl, &numbers(0..48)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    let found = async || held_by(&nl, "de-bka").await == numbers(0..48);
    sandbox.eventually(found).await;
    // So that no base of de-bka is a reason to ask.
    de_stays_quiet(&sandbox, de).await;
    let start = sandbox.clock_now();
    let mut most_in_an_hour = 0;
    let mut asked_last = last_seen(&nl).await;
    while sandbox.clock_now() < start.plus(HOUR * 24 * 10) {
        sandbox.clock.advance(HOUR);
        let up = async || is_settled_or_paced(&nl).await;
        sandbox.eventually(up).await;
        let asked = last_seen(&nl).await;
        let moved = asked
            .iter()
            .zip(&asked_last)
            .filter(|(a, b)| a != b)
            .count();
        most_in_an_hour = most_in_an_hour.max(moved);
        asked_last = asked;
    }
    let asked_again = async || {
        let asked = last_seen(&nl).await;
        asked.iter().all(|&at| at > start.seconds())
    };
    sandbox.eventually(asked_again).await;
    assert!(
        (1..=8).contains(&most_in_an_hour),
        "{most_in_an_hour} in an hour"
    );
}

/// Stops a holder for good: what it has active stays.
async fn de_stays_quiet(sandbox: &Sandbox, mut de: Unit) {
    sandbox.eventually(async || is_settled(&de).await).await;
    de.stop().await;
}

/// A refresh that waits for its next part is no backlog that could be worked off now.
async fn is_settled_or_paced(unit: &Unit) -> bool {
    let status = unit.status().await.expect("a status");
    status.broker_reachable && status.backlog.iter().all(|row| row.waiting_for.is_empty())
}

async fn last_seen(unit: &Unit) -> Vec<i64> {
    let threads = unit.threads().await.expect("listed");
    let hits = threads.into_iter().filter_map(|thread| thread.hit);
    hits.filter_map(|hit| hit.last_seen)
        .map(|at| at.seconds)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_is_taken_by_itself_and_its_hits_join_the_threads() {
    let (sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], "").await;
    import(&nl, &numbers(0..20)).await;
    import(&de, &numbers(10..30)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    let found = async || held_by(&nl, "de-bka").await == numbers(10..20);
    sandbox.eventually(found).await;
    let threads: BTreeSet<_> = nl
        .threads()
        .await
        .expect("listed")
        .into_iter()
        .map(|t| t.thread_id)
        .collect();
    let request = v1::StartEpochRequest { days: 30 };
    nl.admin().start_epoch(request).await.expect("opened");
    let found_again = async || {
        // The other looks at the epochs once a minute.
        sandbox.clock.advance(Duration::from_mins(1));
        let now = nl.threads().await.expect("listed");
        now.len() == 10
            && now
                .iter()
                .all(|t| t.hit.as_ref().is_some_and(|hit| hit.epoch == 2))
    };
    sandbox.eventually(found_again).await;
    let now: BTreeSet<_> = nl
        .threads()
        .await
        .expect("listed")
        .into_iter()
        .map(|t| t.thread_id)
        .collect();
    assert_eq!(now, threads, "no thread is new, and none is shown twice");
    // The epoch before is accepted for a while longer: what is removed matches under neither.
    de.remove("numbers", &numbers(10..30))
        .await
        .expect("removed");
    de.publish().await.expect("published");
    let channel = sandbox.lab().channel(Role::Node, "de-bka", &sandbox.url());
    let request = v1::ListPublicationsRequest {
        community: COMMUNITY.into(),
        epoch: 1,
        policy: String::new(),
    };
    let mut broker = PublicationServiceClient::new(channel);
    let listed = broker.list_publications(request).await.expect("listed");
    let earlier = listed.into_inner().publications;
    assert!(!earlier.is_empty());
    let active = |p: &v1::Publication| p.state() == v1::PublicationState::Active;
    assert!(!earlier.iter().any(active), "{earlier:?}");
    let status = de.status().await.expect("a status");
    assert!(status.publications.iter().all(|row| !row.removal_waits));
    let gone = async || held_by(&nl, "de-bka").await.is_empty();
    sandbox.eventually(gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custodian_that_is_told_to_opens_the_next_epoch_in_time() {
    let settings = "[service.epochs]\nopen_before_end = '5d'\n";
    let (sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], settings).await;
    let epochs = async || {
        let mut both = Vec::new();
        for unit in [&nl, &de] {
            both.push(unit.status().await.expect("a status").epochs);
        }
        both
    };
    sandbox
        .eventually(async || epochs().await == [[1], [1]])
        .await;
    sandbox.clock.advance(HOUR * 24 * 24);
    sandbox.clock.advance(Duration::from_mins(1));
    assert_eq!(epochs().await, [[1], [1]]);
    sandbox.clock.advance(HOUR * 24 * 2);
    let both_have_it = async || {
        sandbox.clock.advance(Duration::from_mins(1));
        epochs().await == [[2, 1], [2, 1]]
    };
    sandbox.eventually(both_have_it).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_filled_up_to_their_size_and_counted_so() {
    let settings = "[service.prober]\npad_batches_to = 64\n";
    let (sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], settings).await;
    import(&de, &numbers(0..100)).await;
    de.publish().await.expect("published");
    import(&nl, &numbers(90..110)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    let found = async || held_by(&nl, "de-bka").await == numbers(90..100);
    sandbox.eventually(found).await;
    let status = nl.status().await.expect("a status");
    let used = status.limits.iter().find(|l| l.policy == "phone/1");
    assert_eq!(used.map(|l| l.used_today % 64), Some(0));
    assert!(used.is_some_and(|l| l.used_today > 0));
    assert_eq!(nl.threads().await.expect("listed").len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_waits_for_the_broker_and_is_counted_there() {
    let (mut sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], "").await;
    import(&nl, &numbers(0..3)).await;
    import(&de, &numbers(0..3)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    let found = async || held_by(&nl, "de-bka").await == numbers(0..3);
    sandbox.eventually(found).await;
    let threads = nl.threads().await.expect("listed");
    sandbox.stop().await;
    let decide = async |thread: &v1::RecordHit, decision: v1::HitDecision| {
        let request = v1::ReviewHitRequest {
            hit_id: thread.thread_id.clone(),
            decision: decision.into(),
            reason: "compared with the file".into(),
            ..Default::default()
        };
        let decided = nl.analyst().review_hit(request).await;
        decided.map(|answer| answer.into_inner().hit.unwrap_or_default())
    };
    for (thread, decision) in threads.iter().zip([
        v1::HitDecision::Confirm,
        v1::HitDecision::FalsePositive,
        v1::HitDecision::NotRelevant,
    ]) {
        let straight = decide(thread, decision).await.expect_err("not looked at");
        assert_eq!(straight.code(), tonic::Code::FailedPrecondition);
        let begin = decide(thread, v1::HitDecision::BeginReview).await;
        assert_eq!(begin.expect("begun").state(), v1::HitState::UnderReview);
        // Two decisions of one hit at one instant could be one statement.
        sandbox.clock.advance(Duration::from_secs(1));
        let decided = decide(thread, decision).await.expect("decided");
        assert!(decided.feedback_pending);
    }
    assert_eq!(nl.status().await.expect("a status").pending_feedback, 6);
    sandbox.start().await;
    let sent = async || nl.status().await.expect("a status").pending_feedback == 0;
    sandbox.eventually(sent).await;
    let rows = sandbox.operator().hit_statistics(None).await;
    let rows = rows.expect("counted");
    let counts: Vec<_> = rows
        .iter()
        .map(|row| (row.hits, row.confirmed, row.false_positives))
        .collect();
    assert_eq!(counts, [(3, 2, 1)]);
    // The story names person and reason, and the list what is open.
    let open = nl.overlaps().await.expect("listed");
    assert_eq!(open.len(), 1, "the confirmed one");
    let request = v1::GetRecordHitRequest {
        hit_id: threads[0].thread_id.clone(),
        why: String::new(),
    };
    let story = nl.analyst().get_record_hit(request).await.expect("told");
    let story = story.into_inner();
    let last = story.events.last().expect("an event");
    assert!(
        last.person.ends_with("/analyst/nl-fiu-person"),
        "{}",
        last.person
    );
    assert_eq!(last.reason, "compared with the file");
    assert_eq!(last.feedback(), v1::FeedbackState::Taken);
    assert_eq!(story.hit.unwrap_or_default().case_refs, ["2026-17"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_time_is_over_matches_no_more() {
    let (sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], "").await;
    let end = sandbox.clock_now().plus(HOUR);
    let row = |value: &str, ends: bool| v1::ImportRow {
        value: value.into(),
        record_id: value.into(),
        expires_at: ends.then(|| sotto_proto::convert::to_timestamp(end)),
        ..Default::default()
    };
    let header = v1::ImportHeader {
        dataset: "numbers".into(),
        policy: "phone/1".into(),
        ..Default::default()
    };
    let rows = v1::ImportRows {
        rows: vec![row("+31612340001", true), row("+31612340002", false)],
    };
    let messages = [Message::Header(header), Message::Rows(rows)];
    let messages = messages.map(|message| v1::ImportDatasetRequest {
        message: Some(message),
    });
    let stream = tokio_stream::iter(messages);
    let imported = de.datasets().import_dataset(stream).await;
    imported.expect("imported");
    import(&nl, &numbers(0..4)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    let found = async || held_by(&nl, "de-bka").await == numbers(1..3);
    sandbox.eventually(found).await;
    sandbox.clock.advance(HOUR * 2);
    let gone = async || held_by(&nl, "de-bka").await == numbers(2..3);
    sandbox.eventually(gone).await;
}
