//! Several datasets of one policy share its quota and its week.

use std::collections::BTreeMap;
use std::time::Duration;

use sotto_proto::v1;
use sotto_proto::v1::import_dataset_request::Message;
use sotto_tests::unit::grounds;
use sotto_tests::{Sandbox, Unit};

use super::scene::{HOUR, held_by, import, numbers, publication, units};
use super::world::is_settled;

/// Datasets and the numbers in them.
const DATASETS: [(&str, std::ops::Range<u32>); 3] =
    [("alpha", 0..24), ("beta", 24..48), ("gamma", 48..72)];

/// Two units of which the first probes its datasets by itself; the second has all of the numbers.
async fn probing(settings: &str) -> (Sandbox, Unit, Unit) {
    let (sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], settings).await;
    import(&de, &numbers(0..72)).await;
    de.publish().await.expect("published");
    for (dataset, range) in DATASETS {
        let imported = nl.import(dataset, "phone/1", &numbers(range), false).await;
        imported.expect("imported");
        nl.probe_by_itself(dataset).await.expect("set");
    }
    (sandbox, nl, de)
}

/// When each hit was last asked for, by dataset.
async fn last_asked(unit: &Unit) -> BTreeMap<String, Vec<i64>> {
    let mut asked: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for thread in unit.threads().await.expect("listed") {
        let at = thread.hit.and_then(|hit| hit.last_seen);
        let at = at.map(|at| at.seconds).unwrap_or_default();
        asked.entry(thread.dataset).or_default().push(at);
    }
    asked
}

async fn is_paced(unit: &Unit) -> bool {
    let status = unit.status().await.expect("a status");
    status.broker_reachable && status.backlog.iter().all(|row| row.waiting_for.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_datasets_of_a_policy_are_asked_again_within_the_week_and_side_by_side() {
    let (sandbox, nl, mut de) = probing("").await;
    let found = async || held_by(&nl, "de-bka").await == numbers(0..72);
    sandbox.eventually(found).await;
    sandbox.eventually(async || is_settled(&de).await).await;
    // So that no base of de-bka is a reason to ask.
    de.stop().await;
    let start = sandbox.clock_now();
    let mut side_by_side = false;
    while sandbox.clock_now() < start.plus(HOUR * 24 * 7) {
        sandbox.clock.advance(HOUR);
        sandbox.eventually(async || is_paced(&nl).await).await;
        // Each has begun, and none has ended.
        let again = |asked: &Vec<i64>| asked.iter().filter(|&&at| at > start.seconds()).count();
        let asked = last_asked(&nl).await;
        side_by_side |= asked.len() == 3 && asked.values().all(|a| (1..24).contains(&again(a)));
    }
    let all_again = async || {
        let asked = last_asked(&nl).await;
        asked.values().flatten().all(|&at| at > start.seconds())
    };
    sandbox.eventually(all_again).await;
    let late = start.plus(HOUR * 24 * 7).seconds();
    let asked = last_asked(&nl).await;
    assert!(asked.values().flatten().all(|&at| at <= late), "{asked:?}");
    assert!(side_by_side, "one dataset was asked after the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_small_quota_no_dataset_starves_behind_one_of_a_lower_name() {
    let (sandbox, nl, de) = probing("").await;
    let found = async || held_by(&nl, "de-bka").await == numbers(0..72);
    sandbox.eventually(found).await;
    // A third of what a sweep of all takes; de-bka publishes every day, so that each day begins anew.
    let quota = sandbox.operator().set_quota("nl-fiu", 24).await;
    quota.expect("set");
    let start = sandbox.clock_now();
    let mut bases = publication(&de).await.version;
    for _ in 0..7 {
        sandbox.clock.advance(sandbox.clock_now().until_next_day());
        let request = v1::PublishFiltersRequest {
            now: true,
            ..Default::default()
        };
        let answer = de.datasets().publish_filters(request).await;
        let mut stream = answer.expect("taken").into_inner();
        while stream.message().await.expect("told").is_some() {}
        bases += 1;
        assert!(publication(&de).await.version >= bases);
        let used_up = async || {
            // The quota is looked at every five minutes.
            sandbox.clock.advance(Duration::from_mins(6));
            let status = nl.status().await.expect("a status");
            let mut of_policy = status.limits.iter().filter(|l| l.policy == "phone/1");
            of_policy.all(|l| l.used_today >= l.daily_refs)
        };
        sandbox.eventually(used_up).await;
    }
    let asked = last_asked(&nl).await;
    for (dataset, times) in asked {
        let again = times.iter().filter(|&&at| at > start.seconds()).count();
        assert_eq!(again, 24, "{dataset}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_filled_up_get_on_though_the_quota_is_smaller_than_they_are() {
    let settings = "[service.prober]\npad_batches_to = 64\n";
    let (sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], settings).await;
    let quota = sandbox.operator().set_quota("nl-fiu", 25).await;
    quota.expect("set");
    import(&de, &numbers(0..60)).await;
    de.publish().await.expect("published");
    import(&nl, &numbers(0..60)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    let found = async || {
        sandbox.clock.advance(HOUR);
        held_by(&nl, "de-bka").await == numbers(0..60)
    };
    sandbox.eventually(found).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_waits_while_its_epoch_ends_goes_on_in_the_next() {
    let (sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], "").await;
    let quota = sandbox.operator().set_quota("nl-fiu", 25).await;
    quota.expect("set");
    import(&de, &numbers(0..60)).await;
    de.publish().await.expect("published");
    import(&nl, &numbers(0..60)).await;
    let request = v1::ProbeDatasetRequest {
        dataset: "numbers".into(),
        grounds: Some(grounds()),
        ..Default::default()
    };
    let answer = nl.analyst().probe_dataset(request).await;
    let mut told = answer.expect("begun").into_inner();
    loop {
        let progress = told.message().await.expect("told").expect("goes on");
        if progress.probed == 25 && progress.waiting_for.contains("quota") {
            break;
        }
    }
    let request = v1::StartEpochRequest { days: 30 };
    nl.admin().start_epoch(request).await.expect("opened");
    let taken = async || {
        // The other looks at the epochs once a minute.
        sandbox.clock.advance(Duration::from_mins(1));
        let status = de.status().await.expect("a status");
        status.publications.iter().any(|row| row.epoch == 2)
    };
    sandbox.eventually(taken).await;
    // The first one is over, and the quota is another day's.
    sandbox.clock.advance(HOUR * 30);
    let ended = tokio::spawn(async move {
        while let Some(progress) = told.message().await.expect("it was not lost") {
            if progress.done {
                return progress.probed;
            }
        }
        0
    });
    let done = async || {
        // In steps that leave a busy machine its time before this epoch is over, too.
        sandbox.clock.advance(HOUR / 3);
        ended.is_finished()
    };
    sandbox.eventually(done).await;
    let probed = ended.await.expect("ended");
    assert_eq!(probed, 60);
    assert_eq!(held_by(&nl, "de-bka").await, numbers(0..60));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_many_times_of_expiry_make_one_base_an_hour_and_none_matches_too_long() {
    let (sandbox, [nl, de]) = units(["nl-fiu", "de-bka"], "").await;
    let start = sandbox.clock_now();
    let row = |n: u32, value: &String| {
        let end = start.plus(HOUR * 2 + Duration::from_mins(4) * n);
        v1::ImportRow {
            value: value.clone(),
            record_id: value.clone(),
            expires_at: Some(sotto_proto::convert::to_timestamp(end)),
            ..Default::default()
        }
    };
    let header = v1::ImportHeader {
        dataset: "numbers".into(),
        policy: "phone/1".into(),
        ..Default::default()
    };
    // 60 rows, four minutes apart: four hours.
    let rows = (0..)
        .zip(&numbers(0..60))
        .map(|(n, value)| row(n, value))
        .collect();
    let messages = [
        Message::Header(header),
        Message::Rows(v1::ImportRows { rows }),
    ];
    let messages = messages.map(|message| v1::ImportDatasetRequest {
        message: Some(message),
    });
    let stream = tokio_stream::iter(messages);
    let imported = de.datasets().import_dataset(stream).await;
    imported.expect("imported");
    de.publish().await.expect("published");
    import(&nl, &numbers(0..60)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    let found = async || held_by(&nl, "de-bka").await == numbers(0..60);
    sandbox.eventually(found).await;
    let first = publication(&de).await.version;
    for minutes in (0..7 * 60).step_by(10) {
        sandbox.clock.advance(Duration::from_mins(10));
        let over = (minutes + 10_u32).saturating_sub(120) / 4;
        let in_time = async || {
            let status = de.status().await.expect("a status");
            let published = status.publications.iter().all(|row| !row.removal_waits);
            let held = held_by(&nl, "de-bka").await;
            published && held.is_disjoint(&numbers(0..over.min(60)))
        };
        sandbox.eventually(in_time).await;
    }
    let bases = publication(&de).await.version - first;
    // A base of the day may be among them.
    assert!((4..=6).contains(&bases), "{bases} bases");
}
