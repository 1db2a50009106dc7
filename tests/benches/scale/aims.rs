//! The ratios of a run, and what they are to be.

use std::fmt;

use serde::Serialize;

use crate::matching::Matched;
use crate::probing::Probing;
use crate::report::Report;
use crate::times::float;

/// A ratio of two figures of one run.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Ratio {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// Absent where nothing is aimed at.
    pub(crate) aim: Option<Aim>,
    /// Whether the value is what it is to be.
    pub(crate) met: Option<bool>,
}

/// What a ratio is to be.
#[derive(Clone, Copy, Serialize, Debug)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

impl Ratio {
    fn new(name: impl Into<String>, value: f64, aim: Aim) -> Self {
        Self {
            name: name.into(),
            value,
            aim: Some(aim),
            met: Some(aim.is_met_by(value)),
        }
    }

    fn without_aim(name: impl Into<String>, value: f64) -> Self {
        Self {
            name: name.into(),
            value,
            aim: None,
            met: None,
        }
    }
}

/// Those of everything that was measured.
pub(crate) fn ratios(report: &Report) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    of_matcher(&mut ratios, &report.matched);
    if let Some(probing) = &report.probing {
        of_probing(&mut ratios, probing);
    }
    for filters in &report.filters {
        let ratio = filters.filter.processor_seconds / filters.hmac.processor_seconds;
        let name = format!("(e) {}: list to filter / HMAC, cpu", filters.policy);
        ratios.push(Ratio::without_aim(name, ratio));
    }
    if let Some(compared) = &report.psi
        && let Some(psi) = &compared.psi
    {
        let ratio = psi.seconds / compared.ours.seconds();
        ratios.push(Ratio::new(
            "(i) OpenMined PSI / ours, time",
            ratio,
            Aim::AtLeast(100.0),
        ));
    }
    ratios
}

fn of_matcher(ratios: &mut Vec<Ratio>, matched: &[Matched]) {
    for of in matched.iter().filter(|of| of.holders == 64) {
        let (all, rate) = (of.at_all(), of.at_all().per_second());
        let mut add = |name: &str, value, aim| ratios.push(Ratio::new(name, value, aim));
        add(
            "(b) / (a) asked once, 64 holders",
            rate / of.limit_once.per_second(),
            Aim::AtLeast(0.85),
        );
        add(
            "(b) / (a) asked twice, 64 holders",
            rate / of.limit_twice.per_second(),
            Aim::AtLeast(0.85),
        );
        add(
            "(b) / (c) fastbloom, 64 holders",
            rate / of.fastbloom.per_second(),
            Aim::AtLeast(4.0),
        );
        if let Some(two) = of.on_two_cores {
            add(
                "(b) two cores / one, 64 holders",
                two.per_second() / rate,
                Aim::AtLeast(1.8),
            );
        }
        if let Some(at_8) = of.by_holders.iter().find(|at| at.holders == 8) {
            add(
                "(b) time a test, 64 holders / 8",
                all.ns / at_8.cost.ns,
                Aim::AtMost(1.1),
            );
        }
    }
    let at = |selectors| {
        let mut of_8 = matched.iter().filter(|of| of.holders == 8);
        of_8.find(|of| of.selectors == selectors)
    };
    if let (Some(large), Some(small)) = (at(10_000_000), at(1_000_000)) {
        let ratio = large.at_all().ns / small.at_all().ns;
        let name = "(b) time a test, 8 holders, 10 million / 1 million selectors";
        ratios.push(Ratio::new(name, ratio, Aim::AtMost(1.1)));
        // More memory is slower memory: less of it is in the caches.
        let ratio = large.limit_once.ns / small.limit_once.ns;
        let name = "(a) time a line, the same";
        ratios.push(Ratio::without_aim(name, ratio));
    }
    let of_64 = matched.iter().find(|of| of.holders == 64);
    if let (Some(of_64), Some(of_8)) = (of_64, at(1_000_000)) {
        let ratio = of_64.limit_once.ns / of_8.limit_once.ns;
        let name = "(a) time a line, 64 filters / 8";
        ratios.push(Ratio::without_aim(name, ratio));
    }
}

fn of_probing(ratios: &mut Vec<Ratio>, probing: &Probing) {
    let holders = probing.holders;
    let fastest = |seconds: &mut dyn Iterator<Item = f64>| seconds.fold(f64::INFINITY, f64::min);
    let grpc = fastest(&mut probing.rounds.iter().map(|round| round.seconds));
    let echo = fastest(&mut probing.echoes.iter().map(|echoed| echoed.seconds));
    let name = format!("(d) gRPC / the matcher on all cores, {holders} holders");
    let ratio = probing.matcher_seconds_on_all_cores / grpc;
    ratios.push(Ratio::new(name, ratio, Aim::AtLeast(0.8)));
    ratios.push(Ratio::without_aim("(d) gRPC / echo", echo / grpc));
    if let Some(checks) = &probing.checks {
        let ratio = checks.loaded.p99_ms / checks.idle.p99_ms;
        ratios.push(Ratio::new(
            "(f) check, p99 under load / idle",
            ratio,
            Aim::AtMost(20.0),
        ));
    }
    let filters = float(probing.filter_bytes * holders as u64);
    let restarts = &probing.restarts;
    for (name, peak_kb) in [
        (
            "(g) peak memory / filters, taken in and probed",
            probing.broker_peak_kb,
        ),
        (
            "(g) peak memory / filters, stopped and restarted",
            restarts.after_stop.peak_kb,
        ),
        (
            "(g) peak memory / filters, killed and restarted",
            restarts.after_kill.peak_kb,
        ),
    ] {
        let ratio = float(peak_kb * 1024) / filters;
        ratios.push(Ratio::new(name, ratio, Aim::AtMost(1.1)));
    }
}
