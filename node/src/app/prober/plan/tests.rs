use proptest::prelude::*;

use super::*;

const DAY: Duration = Duration::from_hours(24);
const WEEK: Duration = Duration::from_hours(7 * 24);
const NOW: Timestamp = Timestamp::from_seconds(100 * 86_400);
const PACE: Pace = Pace {
    begins_after: WEEK,
    spread: DAY,
};

fn epoch(number: u32) -> Epoch {
    Epoch::new(number).expect("an epoch")
}

fn node(name: &str) -> NodeId {
    name.parse().expect("a node")
}

fn cover(holder: &str, layers: u8, last_selector: SelectorId, days_ago: u32) -> Cover {
    Cover {
        holder: node(holder),
        epoch: epoch(2),
        layers: [layers; 16],
        last_selector,
        swept_at: NOW.minus(DAY * days_ago),
    }
}

fn holders(holders: &[(&str, u8)]) -> Holders {
    let row = |&(name, layers): &(&str, u8)| (node(name), [layers; 16]);
    holders.iter().map(row).collect()
}

fn subject(dataset: i64, covers: &[Cover]) -> Subject {
    Subject {
        dataset,
        selectors: 10,
        last_selector: 10,
        covers: covers.to_vec(),
    }
}

fn scene<'a>(
    subjects: &'a [Subject],
    under_way: &'a [UnderWay],
    holders: &'a Holders,
) -> Scene<'a> {
    Scene {
        subjects,
        under_way,
        holders,
        epoch: epoch(2),
        pace: PACE,
        now: NOW,
    }
}

fn ask(covers: &[Cover], now_active: &[(&str, u8)]) -> Vec<(ProbeKind, SelectorId, Vec<String>)> {
    let holders = holders(now_active);
    let asked = scene(&[], &[], &holders).questions(&subject(1, covers));
    asked
        .into_iter()
        .map(|q| {
            let targets = q.targets.iter().map(ToString::to_string).collect();
            (q.kind, q.after, targets)
        })
        .collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_asked_where_nothing_has_changed() {
    let covers = [cover("de-bka", 1, 10, 1), cover("fr-pj", 2, 10, 6)];
    assert!(ask(&covers, &[("de-bka", 1), ("fr-pj", 2)]).is_empty());
    assert!(ask(&covers, &[]).is_empty());
    assert!(ask(&[], &[]).is_empty());
}

#[test]
fn a_holder_is_asked_for_everything_at_first_and_when_its_filters_have_changed() {
    let covers = [cover("de-bka", 1, 10, 1)];
    let asked = ask(&covers, &[("de-bka", 9), ("fr-pj", 2)]);
    let expected = (ProbeKind::Sweep, 0, names(&["de-bka", "fr-pj"]));
    assert_eq!(asked, [expected]);
    let asked = ask(&covers, &[("de-bka", 1), ("fr-pj", 2)]);
    assert_eq!(asked, [(ProbeKind::Sweep, 0, names(&["fr-pj"]))]);
}

#[test]
fn new_selectors_come_first_and_go_to_those_who_know_the_rest() {
    let covers = [cover("de-bka", 1, 8, 1), cover("fr-pj", 2, 10, 1)];
    let asked = ask(&covers, &[("de-bka", 9), ("fr-pj", 2), ("it-gdf", 3)]);
    assert_eq!(
        asked,
        [
            (ProbeKind::New, 8, names(&["de-bka"])),
            (ProbeKind::Sweep, 0, names(&["de-bka", "it-gdf"])),
        ]
    );
}

#[test]
fn new_selectors_do_not_wait_for_the_first_sweep_of_a_holder() {
    let covers = [cover("de-bka", 0, 8, 1)];
    let asked = ask(&covers, &[("de-bka", 9)]);
    assert_eq!(
        asked,
        [
            (ProbeKind::New, 8, names(&["de-bka"])),
            (ProbeKind::Sweep, 0, names(&["de-bka"])),
        ]
    );
}

#[test]
fn another_epoch_begins_from_nothing() {
    let earlier = Cover {
        epoch: epoch(1),
        ..cover("de-bka", 1, 10, 1)
    };
    let asked = ask(&[earlier], &[("de-bka", 1)]);
    assert_eq!(asked, [(ProbeKind::Sweep, 0, names(&["de-bka"]))]);
}

#[test]
fn who_was_not_asked_for_a_week_is_asked_again() {
    let covers = [cover("de-bka", 1, 10, 8), cover("fr-pj", 2, 10, 6)];
    let active = [("de-bka", 1), ("fr-pj", 2)];
    let asked = ask(&covers, &active);
    assert_eq!(asked, [(ProbeKind::Refresh, 0, names(&["de-bka"]))]);
    let ahead = [Cover {
        swept_at: NOW.plus(DAY * 300),
        ..cover("de-bka", 1, 10, 0)
    }];
    let asked = ask(&ahead, &[("de-bka", 1)]);
    assert_eq!(asked, [(ProbeKind::Refresh, 0, names(&["de-bka"]))]);
    let holders = holders(&active);
    let due = scene(&[], &[], &holders).next_refresh(&subject(1, &covers));
    assert_eq!(due, Some(NOW.minus(DAY)));
}

#[test]
fn a_sweep_takes_along_who_is_due_to_be_asked_again() {
    let covers = [cover("de-bka", 1, 10, 1), cover("fr-pj", 2, 10, 8)];
    let asked = ask(&covers, &[("de-bka", 9), ("fr-pj", 2)]);
    let both = names(&["de-bka", "fr-pj"]);
    assert_eq!(asked, [(ProbeKind::Sweep, 0, both)]);
}

#[test]
fn a_refresh_is_spread_evenly_and_ends_in_time() {
    let hour = Duration::from_hours(1);
    let at = |hours: u32| allowance(2_400, NOW, NOW.plus(hour * hours), DAY);
    assert_eq!(at(0), (100, NOW.plus(hour)));
    assert_eq!(at(1), (200, NOW.plus(hour * 2)));
    assert_eq!(at(23), (u64::MAX, NOW.plus(DAY)));
    assert_eq!(at(500), (u64::MAX, NOW.plus(DAY)));
    // A clock that was set back does not stop it.
    let (allowed, _) = allowance(5, NOW.plus(DAY), NOW, DAY);
    assert_eq!(allowed, 1);
    // Nothing to ask is asked at once.
    assert_eq!(allowance(0, NOW, NOW, DAY).0, u64::MAX);
}

#[test]
fn the_pace_leaves_time_to_spare_and_begins_earlier_under_a_small_quota() {
    let hours = |hours| Duration::from_hours(hours);
    let every = hours(1000);
    for (refs, quota, begins_after, spread) in [
        (1_000, None, 750, 200),
        (1_000, Some(10_000), 750, 200),
        (1_000, Some(100), 950 - 13 * 24, 13 * 24),
        (1_000, Some(1), 50, 900),
        (u64::MAX, Some(0), 50, 900),
        (0, Some(0), 750, 200),
    ] {
        let pace = Pace::new(every, refs, quota);
        let expected = Pace {
            begins_after: hours(begins_after),
            spread: hours(spread),
        };
        assert_eq!(pace, expected, "{refs} refs, {quota:?} a day");
    }
}

#[test]
fn of_what_is_equally_urgent_the_dataset_goes_first_that_waited_longest() {
    let now_active = holders(&[("de-bka", 9)]);
    let begun = |subjects: &[Subject], under_way: &[UnderWay]| match next(&scene(
        subjects,
        under_way,
        &now_active,
    ))
    .0
    {
        Some(Next::Begin(which, ..)) => subjects[which].dataset,
        Some(Next::GoOn(which, _)) => -under_way[which].dataset,
        None => 0,
    };
    let sweeps = [
        subject(1, &[cover("de-bka", 1, 10, 2)]),
        subject(2, &[cover("de-bka", 1, 10, 3)]),
        subject(3, &[cover("de-bka", 1, 10, 1)]),
    ];
    assert_eq!(begun(&sweeps, &[]), 2);
    let never = [sweeps[1].clone(), subject(4, &[])];
    assert_eq!(begun(&never, &[]), 4);
    // What is under way goes on first.
    let third = UnderWay {
        kind: ProbeKind::Sweep,
        dataset: 3,
        targets: vec![node("de-bka")],
        started_at: NOW,
        total: 10,
        probed: 3,
    };
    assert_eq!(begun(&sweeps, std::slice::from_ref(&third)), -3);
    // New selectors come before it, those that wait longest first.
    let news = [
        subject(1, &[cover("de-bka", 9, 8, 1)]),
        subject(2, &[cover("de-bka", 9, 6, 1)]),
    ];
    assert_eq!(begun(&news, &[third]), 2);
    // The first part of each refresh is asked before the second of any.
    let old = [
        subject(1, &[cover("de-bka", 9, 10, 7)]),
        subject(2, &[cover("de-bka", 9, 10, 7)]),
    ];
    let refresh = UnderWay {
        kind: ProbeKind::Refresh,
        dataset: 1,
        targets: vec![node("de-bka")],
        started_at: NOW,
        total: 10,
        probed: 1,
    };
    assert_eq!(begun(&old, &[]), 1);
    assert_eq!(begun(&old, &[refresh]), 2);
}

#[test]
fn a_refresh_whose_holders_were_swept_meanwhile_is_given_up() {
    let refresh = UnderWay {
        kind: ProbeKind::Refresh,
        dataset: 1,
        targets: vec![node("de-bka"), node("fr-pj")],
        started_at: NOW.minus(DAY * 2),
        total: 10,
        probed: 1,
    };
    let swept = [cover("de-bka", 1, 10, 1), cover("fr-pj", 2, 10, 1)];
    assert!(refresh.is_overtaken(&swept));
    let one = [cover("de-bka", 1, 10, 1), cover("fr-pj", 2, 10, 9)];
    assert!(!refresh.is_overtaken(&one));
    assert!(!refresh.is_overtaken(&[]));
}

/// A policy hour by hour: a quota, datasets, and holders of which some publish once a day.
struct Weeks {
    sizes: Vec<u64>,
    /// The hour of the day at which a holder publishes, if it does.
    bases: Vec<Option<u32>>,
    quota: u64,
    subjects: Vec<Subject>,
    under_way: Vec<UnderWay>,
    layers: Vec<BTreeMap<NodeId, Layers>>,
    /// By dataset and holder, the hour at which each selector was asked last.
    asked: Vec<Vec<Vec<u32>>>,
    longest: u32,
    most_in_an_hour: u64,
}

impl Weeks {
    fn new(sizes: &[u64], bases: &[Option<u32>], quota: u64) -> Self {
        let never = |&size: &u64| vec![vec![0; usize::try_from(size).expect("small")]; bases.len()];
        let row = |(dataset, &size): (i64, &u64)| Subject {
            dataset,
            selectors: size,
            last_selector: i64::try_from(size).expect("small"),
            covers: Vec::new(),
        };
        Self {
            sizes: sizes.to_vec(),
            bases: bases.to_vec(),
            quota,
            subjects: (0..).zip(sizes).map(row).collect(),
            under_way: Vec::new(),
            layers: Vec::new(),
            asked: sizes.iter().map(never).collect(),
            longest: 0,
            most_in_an_hour: 0,
        }
    }

    fn holder(which: usize) -> NodeId {
        node(["de-bka", "fr-pj", "it-gdf", "se-noa"][which])
    }

    fn run(&mut self, hours: u32) {
        let mut left = self.quota;
        for hour in 0..hours {
            if hour % 24 == 0 {
                left = self.quota;
            }
            let before = left;
            while left > 0 {
                let Some(used) = self.step(hour, left) else {
                    break;
                };
                left -= used;
            }
            // The first sweep is at once.
            if hour > 24 {
                self.most_in_an_hour = self.most_in_an_hour.max(before - left);
            }
        }
        let of_all = self.asked.iter().flatten().flatten();
        let unasked = of_all.map(|at| hours - at).max().unwrap_or_default();
        self.longest = self.longest.max(unasked);
    }

    /// Asks what is next, as far as the quota goes; tells how many refs.
    fn step(&mut self, hour: u32, left: u64) -> Option<u64> {
        let now = NOW.plus(Duration::from_hours(hour.into()));
        let bases = self.bases.iter().enumerate();
        let holders: Holders = bases
            .map(|(which, base)| {
                let version = base.map_or(0, |base| (hour + 24 - base) / 24);
                let version = u8::try_from(version % 250).expect("small");
                (Self::holder(which), [version + 1; 16])
            })
            .collect();
        let refs = self.sizes.iter().sum();
        let (next, wake) = next(&Scene {
            subjects: &self.subjects,
            under_way: &self.under_way,
            holders: &holders,
            epoch: epoch(2),
            pace: Pace::new(WEEK, refs, Some(self.quota)),
            now,
        });
        let (which, allowed) = match next {
            None => {
                assert!(
                    wake.is_none_or(|at| at > now),
                    "it would turn without a pause"
                );
                return None;
            }
            Some(Next::GoOn(which, allowed)) => (which, allowed),
            Some(Next::Begin(which, question, allowed)) => {
                self.under_way.push(UnderWay {
                    kind: question.kind,
                    dataset: self.subjects[which].dataset,
                    targets: question.targets,
                    started_at: now,
                    total: self.sizes[which],
                    probed: 0,
                });
                self.layers.push(question.layers);
                (self.under_way.len() - 1, allowed)
            }
        };
        Some(self.ask(which, allowed, hour, left))
    }

    fn ask(&mut self, which: usize, allowed: u64, hour: u32, left: u64) -> u64 {
        let session = &mut self.under_way[which];
        let until = session.total.min(allowed).min(session.probed + left);
        assert!(until > session.probed, "it would turn without a pause");
        let dataset = usize::try_from(session.dataset).expect("small");
        for holder in 0..self.bases.len() {
            if session.targets.contains(&Self::holder(holder)) {
                for selector in session.probed..until {
                    let at = usize::try_from(selector).expect("small");
                    let last = &mut self.asked[dataset][holder][at];
                    self.longest = self.longest.max(hour - *last);
                    *last = hour;
                }
            }
        }
        let used = until - session.probed;
        session.probed = until;
        if until == session.total {
            self.finish(which, dataset);
        }
        used
    }

    fn finish(&mut self, which: usize, dataset: usize) {
        let (session, layers) = (self.under_way.remove(which), self.layers.remove(which));
        let subject = &mut self.subjects[dataset];
        for (holder, layers) in layers {
            subject.covers.retain(|cover| cover.holder != holder);
            subject.covers.push(Cover {
                holder,
                epoch: epoch(2),
                layers,
                last_selector: subject.last_selector,
                swept_at: session.started_at,
            });
        }
        let subjects = &self.subjects;
        let mut overtaken = self.under_way.iter().map(|session| {
            let dataset = usize::try_from(session.dataset).expect("small");
            session.is_overtaken(&subjects[dataset].covers)
        });
        let overtaken: Vec<_> = overtaken.by_ref().collect();
        let mut keep = overtaken.iter();
        self.under_way.retain(|_| !keep.next().expect("one each"));
        let mut keep = overtaken.iter();
        self.layers.retain(|_| !keep.next().expect("one each"));
    }
}

#[test]
fn several_datasets_are_all_asked_again_within_the_week_side_by_side() {
    let mut weeks = Weeks::new(&[240, 240, 240, 240], &[None], 100_000);
    weeks.run(6 * 7 * 24);
    assert!(weeks.longest <= 7 * 24, "{} hours", weeks.longest);
    // 960 in 33.6 hours, by parts of 1.4 hours.
    assert!(
        weeks.most_in_an_hour <= 80,
        "{} refs",
        weeks.most_in_an_hour
    );
}

#[test]
fn a_holder_that_publishes_every_day_starves_neither_datasets_nor_quiet_holders() {
    // 300 refs, 150 a day, and three sweeps wanted each day.
    let bases = [Some(3), Some(9), Some(17), None];
    let mut weeks = Weeks::new(&[100, 100, 100], &bases, 150);
    weeks.run(6 * 7 * 24);
    assert!(weeks.longest <= 7 * 24, "{} hours", weeks.longest);
}

proptest! {
    /// With a quota that lets everything be asked twice in four days, whoever publishes when.
    #[test]
    fn nothing_is_left_unasked_for_a_week(
        sizes in prop::collection::vec(1_u64..60, 1..6),
        bases in prop::collection::vec(prop::option::of(0_u32..24), 1..5),
        more in 0_u64..200,
    ) {
        let quota = sizes.iter().sum::<u64>().div_ceil(2) + more;
        let mut weeks = Weeks::new(&sizes, &bases, quota);
        weeks.run(5 * 7 * 24);
        prop_assert!(weeks.longest <= 7 * 24, "{} hours", weeks.longest);
    }
}
