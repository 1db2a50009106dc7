//! The same with real processes and `kill -9`, by the real clock.

use std::time::Duration;

use rand::RngExt as _;
use sotto_tests::ledger::{TestLedger, log_key_file};
use sotto_tests::process::{Site, Stores};
use sotto_tests::sandbox::{NEVER, profile};
use sotto_tests::unit::introduce;
use sotto_tests::{BrokerProcess, Unit, audit, seed};
use tokio::time::Instant;

use super::world::{Change, DATASETS, difference, is_settled, lists, overlaps};

const NAMES: [&str; 3] = ["nl-fiu", "de-bka", "fr-pj"];
/// How long units may take to find everything once nobody is killed any more.
const CATCH_UP: Duration = NEVER;

fn lasts() -> Duration {
    let given = std::env::var("SOTTO_SOAK_SECONDS").ok();
    Duration::from_secs(given.map_or(60, |text| text.parse().expect("seconds")))
}

#[tokio::test(flavor = "multi_thread")]
async fn units_and_brokers_that_are_killed_lose_no_hit_and_show_none_twice() {
    sotto_tests::day::with_room_for(lasts() + CATCH_UP).await;
    let mut rng = seed::rng();
    let site = Site::create();
    let stores = Stores::local(TestLedger::chosen());
    let mut broker = BrokerProcess::at(&site, "main", &stores, "info").await;
    let operator = broker.operator();
    let created = operator.create_community(profile(), &NAMES[..1]).await;
    created.expect("created");
    let url = format!("https://{}", broker.address());
    let settings = "[service.publisher]\ndebounce = '100ms'\npatience = '1s'\n";
    let mut units = Vec::new();
    for name in NAMES {
        operator.enrol(name).await.expect("enrolled");
        operator.set_quota(name, 10_000_000).await.expect("set");
        let mut unit = Unit::install(&site.lab, &site.path(name), name, &url, settings);
        unit.start_process().await;
        units.push(unit);
    }
    introduce(&units).await;
    let mut lists = lists(units.len(), &mut rng);
    for (unit, lists) in units.iter().zip(&lists) {
        for (dataset, policy) in DATASETS {
            let imported = unit.import(dataset, policy, &lists[dataset], false).await;
            imported.expect("imported");
            unit.probe_by_itself(dataset).await.expect("set");
        }
    }

    let end = Instant::now() + lasts();
    let (mut kills, mut changes) = ([0; 2], 0);
    while Instant::now() < end {
        for _ in 0..rng.random_range(1..8) {
            let own = rng.random_range(0..units.len());
            let change = Change::draw(&lists[own], &mut rng);
            let made = change.make(&units[own], &mut lists[own]).await;
            made.expect("the unit's own service is up");
            changes += 1;
            // At any moment of what follows from it.
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
        }
        if rng.random_ratio(1, 3) {
            broker.kill().await;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
            broker.restart().await;
            kills[0] += 1;
        } else {
            let unit = rng.random_range(0..units.len());
            units[unit].kill().await;
            units[unit].start_process().await;
            kills[1] += 1;
        }
    }
    println!(
        "{changes} changes, {} kills of the broker, {} of units",
        kills[0], kills[1]
    );
    assert!(changes > 10 && kills[0] + kills[1] > 3);

    for own in 0..units.len() {
        let expected = overlaps(&units, &lists, own);
        assert!(
            expected.len() > 10,
            "lists that hardly overlap show nothing"
        );
        let unit = &units[own];
        let mut last = None;
        let waited = tokio::time::timeout(CATCH_UP, async {
            loop {
                last = difference(unit, &expected).await;
                if last.is_none() && is_settled(unit).await {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        let in_time = waited.await.is_ok();
        let log = unit.log_text();
        assert!(in_time, "{last:?}\n{:#?}\n{log}", unit.status().await);
    }
    let key = audit::log_key(&log_key_file(&site.path("")));
    audit::assert_holds(&site.lab, &url, &key).await;
}
