//! The tables of probing, and of the comparison with private set intersection.

use std::fmt::Write as _;

use super::{megabytes, thousands};
use crate::latency::Checks;
use crate::probing::{Probing, Round};
use crate::psi::Compared;
use crate::restart::Restarted;
use crate::times::float;

pub(super) fn probing_table(out: &mut String, probing: &Probing) {
    let count = probing.selectors;
    let holders = probing.holders as u64;
    line!(
        out,
        "Probing {count} selectors at {holders} holders, each with a filter of {} selectors \
         ({:.1} MB)",
        probing.filter_selectors,
        float(probing.filter_bytes) / 1e6
    );
    line!(
        out,
        "  {:<32}{:>12}{:>16}{:>9}{:>12}{:>9}{:>9}",
        "",
        "thousand/s",
        "tag-tests M/s",
        "s",
        "x matcher",
        "broker",
        "prober"
    );
    let mut row = |name: &str, seconds: f64, base: f64, round: Option<&Round>| {
        line!(
            out,
            "  {name:<32}{:>12.0}{:>16.2}{seconds:>9.2}{:>12.1}{:>9.2}{:>9.2}",
            thousands(count, seconds),
            thousands(count * holders, seconds) / 1000.0,
            seconds / base,
            round.map_or(0.0, |round| round.broker_processor_seconds),
            round.map_or(0.0, |round| round.prober_processor_seconds)
        );
    };
    let (one, all) = (
        probing.matcher_seconds,
        probing.matcher_seconds_on_all_cores,
    );
    row("the matcher, one thread", one, one, None);
    row("the matcher, all cores", all, one, None);
    for round in &probing.rounds {
        let name = format!("mTLS gRPC, {} session(s)", round.sessions);
        row(&name, round.seconds, one, Some(round));
    }
    for echoed in &probing.echoes {
        let name = format!("gRPC echo, {} session(s)", echoed.sessions);
        row(&name, echoed.seconds, one, None);
    }
    line!(
        out,
        "  broker and prober: cpu s of their processes; broker's peak {:.0} MB, filters {:.0} MB",
        megabytes(probing.broker_peak_kb),
        float(probing.filter_bytes * holders) / 1e6
    );
    if let Some(checks) = &probing.checks {
        checks_row(out, checks);
    }
    restart_row(out, "an orderly end", &probing.restarts.after_stop);
    restart_row(out, "a kill", &probing.restarts.after_kill);
    line!(out, "");
}

fn checks_row(out: &mut String, checks: &Checks) {
    line!(
        out,
        "  a single check, p50 and p99 of {}: {:.1}, {:.1} ms; beside {} sessions {:.1}, {:.1} ms",
        checks.count,
        checks.idle.p50_ms,
        checks.idle.p99_ms,
        checks.sessions,
        checks.loaded.p50_ms,
        checks.loaded.p99_ms
    );
}

fn restart_row(out: &mut String, end: &str, restarted: &Restarted) {
    line!(
        out,
        "  after {end}: answers in {:.2} s, a batch in {:.2} s more; peak {:.0} MB",
        restarted.answers_seconds,
        restarted.batch_seconds,
        megabytes(restarted.peak_kb)
    );
}

pub(super) fn psi_table(out: &mut String, compared: &Compared) {
    let ours = &compared.ours;
    line!(
        out,
        "Two lists of {}, {} in both, through two nodes and a broker: {:.2} s",
        compared.selectors,
        compared.in_common,
        ours.seconds()
    );
    line!(
        out,
        "  import {:.2} s and {:.2} s, publish {:.2} s, probe {:.2} s",
        ours.holder_import_seconds,
        ours.prober_import_seconds,
        ours.publish_seconds,
        ours.probe_seconds
    );
    match (&compared.psi, &compared.not_measured) {
        (Some(psi), _) => line!(
            out,
            "  OpenMined PSI {}: {:.2} s\n",
            psi.version,
            psi.seconds
        ),
        (None, Some(why)) => line!(out, "  !!! OpenMined PSI: NOT MEASURED: {why}\n"),
        (None, None) => {}
    }
}
