//! A week in which everything changes: at its end each unit's open hits are the true overlaps.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use sotto_tests::sandbox::{NEVER, profile};
use sotto_tests::unit::introduce;
use sotto_tests::{Sandbox, Unit, seed};

use super::world::{Change, DATASETS, Lists, difference, is_settled, lists, overlaps};

const NAMES: [&str; 4] = ["nl-fiu", "de-bka", "fr-pj", "it-gdf"];
const HOUR: Duration = Duration::from_hours(1);

/// What happened in a week.
#[derive(Clone, Copy, Default, Debug)]
struct Week {
    changes: u32,
    units_stopped: u32,
    broker_restarts: u32,
    hours_without_broker: u32,
    quotas_cut: u32,
}

struct Simulation {
    sandbox: Sandbox,
    units: Vec<Unit>,
    lists: Vec<Lists>,
    broker_runs: bool,
    rng: StdRng,
    week: Week,
}

impl Simulation {
    async fn begin() -> Self {
        let mut rng = seed::rng();
        let sandbox = Sandbox::empty().await;
        let operator = sandbox.operator();
        let created = operator.create_community(profile(), &NAMES[..1]).await;
        created.expect("created");
        let mut units = Vec::new();
        let settings = "[service.publisher]\ndebounce = '20ms'\npatience = '200ms'\n";
        for name in NAMES {
            operator.enrol(name).await.expect("enrolled");
            let home = sandbox.path(name);
            let lab = sandbox.shared_lab();
            let mut unit = Unit::install(&lab, &home, name, &sandbox.url(), settings);
            unit.start(Arc::new(sandbox.clock.clone())).await;
            units.push(unit);
        }
        introduce(&units).await;
        let lists = lists(units.len(), &mut rng);
        for (unit, lists) in units.iter().zip(&lists) {
            for (dataset, policy) in DATASETS {
                let imported = unit.import(dataset, policy, &lists[dataset], false).await;
                imported.expect("imported");
                unit.probe_by_itself(dataset).await.expect("set");
            }
        }
        Self {
            sandbox,
            units,
            lists,
            broker_runs: true,
            rng,
            week: Week::default(),
        }
    }

    async fn hour(&mut self) {
        for _ in 0..self.rng.random_range(0..5) {
            let own = self.rng.random_range(0..self.units.len());
            if self.units[own].runs() {
                let change = Change::draw(&self.lists[own], &mut self.rng);
                let made = change.make(&self.units[own], &mut self.lists[own]).await;
                made.expect("the unit's own service takes it, with or without a broker");
                self.week.changes += 1;
            }
        }
        if !self.broker_runs && self.rng.random_ratio(1, 3) {
            self.stop_or_start_the_broker().await;
        }
        for which in 0..self.units.len() {
            if !self.units[which].runs() && self.rng.random_ratio(1, 4) {
                self.stop_or_start(which).await;
            }
        }
        match self.rng.random_range(0..20) {
            0..=2 => {
                let which = self.rng.random_range(0..self.units.len());
                self.stop_or_start(which).await;
            }
            3 | 4 if self.broker_runs => self.stop_or_start_the_broker().await,
            5 if self.broker_runs => self.change_a_quota().await,
            // Many changes meet nodes that are still at work on the ones before.
            6..=9 if self.broker_runs => self.settle().await,
            _ => {}
        }
        self.week.hours_without_broker += u32::from(!self.broker_runs);
        for _ in 0..4 {
            self.sandbox.clock.advance(HOUR / 4);
        }
    }

    async fn stop_or_start(&mut self, which: usize) {
        let unit = &mut self.units[which];
        if unit.runs() {
            unit.stop().await;
            self.week.units_stopped += 1;
        } else {
            unit.start(Arc::new(self.sandbox.clock.clone())).await;
        }
    }

    async fn stop_or_start_the_broker(&mut self) {
        if self.broker_runs {
            self.sandbox.stop().await;
        } else {
            self.sandbox.start().await;
            self.week.broker_restarts += 1;
        }
        self.broker_runs = !self.broker_runs;
    }

    async fn change_a_quota(&mut self) {
        let name = NAMES[self.rng.random_range(0..NAMES.len())];
        let refs = [40, 400, 10_000][self.rng.random_range(0..3)];
        self.week.quotas_cut += u32::from(refs < 1_000);
        self.set_quota(name, refs).await;
    }

    async fn set_quota(&self, name: &str, refs: u64) {
        let set = self.sandbox.operator().set_quota(name, refs).await;
        set.expect("set");
    }

    /// Waits until the units that run have done what they know of, or wait for their quota.
    async fn settle(&self) {
        for unit in self.units.iter().filter(|unit| unit.runs()) {
            let settled = async {
                while !is_settled(unit).await && !waits_for_quota(unit).await {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let in_time = tokio::time::timeout(NEVER, settled).await;
            let so_far = self.week;
            assert!(
                in_time.is_ok(),
                "after {so_far:?}: {:#?}",
                unit.status().await
            );
        }
    }

    /// Everybody is back, and may ask as much as needed.
    async fn end(&mut self) {
        if !self.broker_runs {
            self.stop_or_start_the_broker().await;
        }
        for name in NAMES {
            self.set_quota(name, 1_000_000).await;
        }
        for unit in &mut self.units {
            if !unit.runs() {
                unit.start(Arc::new(self.sandbox.clock.clone())).await;
            }
        }
    }

    async fn assert_true(&self) {
        for own in 0..self.units.len() {
            let expected = overlaps(&self.units, &self.lists, own);
            assert!(
                expected.len() > 10,
                "lists that hardly overlap show nothing"
            );
            let unit = &self.units[own];
            let mut last = None;
            let waited = tokio::time::timeout(NEVER, async {
                loop {
                    // What waits for its quota looks again after a while.
                    self.sandbox.clock.advance(Duration::from_mins(1));
                    last = difference(unit, &expected).await;
                    if last.is_none() && is_settled(unit).await {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            let in_time = waited.await.is_ok();
            assert!(in_time, "{last:?}\n{:#?}", unit.status().await);
        }
    }
}

async fn waits_for_quota(unit: &Unit) -> bool {
    let status = unit.status().await;
    status.is_ok_and(|status| {
        let quota = |row: &sotto_proto::v1::ProbeBacklog| row.waiting_for.contains("quota");
        status.backlog.iter().any(quota)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_week_of_changes_every_unit_has_its_true_overlaps_and_no_others() {
    let mut simulation = Simulation::begin().await;
    for _ in 0..7 * 24 {
        simulation.hour().await;
    }
    simulation.end().await;
    simulation.assert_true().await;
    let week = &simulation.week;
    println!("{week:?}");
    assert!(week.changes > 50 && week.units_stopped > 2 && week.broker_restarts > 1);
}
