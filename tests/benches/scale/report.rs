//! What was measured, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::logging::{Comparison, Logged, Written};
use crate::probing::{Probing, Round};
use crate::proofs::{Proofs, Proving};
use crate::stages::{Cost, Filters};
use crate::store::Through;

/// Everything of one run.
#[derive(Serialize, Debug, Default)]
pub(crate) struct Report {
    pub(crate) filters: Vec<Filters>,
    pub(crate) stores: Vec<Through>,
    pub(crate) probing: Option<Probing>,
    pub(crate) logged: Vec<Logged>,
    pub(crate) proofs: Vec<Proofs>,
}

impl Report {
    /// As JSON: what was measured; ratios are the reader's to make.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("JSON")
    }

    /// As a table.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        for filters in &self.filters {
            filters_table(&mut out, filters);
        }
        for through in &self.stores {
            store_table(&mut out, through);
        }
        if let Some(probing) = &self.probing {
            probing_table(&mut out, probing);
        }
        for logged in &self.logged {
            log_table(&mut out, logged);
        }
        if !self.proofs.is_empty() {
            proofs_table(&mut out, &self.proofs);
        }
        out
    }
}

/// Writing to a string cannot fail.
macro_rules! line {
    ($out:expr, $($text:tt)*) => {{
        let _ = writeln!($out, $($text)*);
    }};
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Thousands a second.
fn thousands(count: u64, seconds: f64) -> f64 {
    float(count) / seconds / 1000.0
}

/// Kilobytes as megabytes of 10^6 bytes.
fn megabytes(kilobytes: u64) -> f64 {
    float(kilobytes) * 1024.0 / 1e6
}

fn filters_table(out: &mut String, filters: &Filters) {
    let (policy, count) = (filters.policy, filters.selectors);
    line!(
        out,
        "List to filter, {policy}, {count} selectors, all cores"
    );
    line!(
        out,
        "  {:<32}{:>12}{:>9}{:>9}{:>10}{:>9}{:>9}",
        "",
        "thousand/s",
        "s",
        "ratio",
        "cpu s",
        "ratio",
        "peak MB"
    );
    let mut row = |name: &str, cost: &Cost| {
        line!(
            out,
            "  {name:<32}{:>12.0}{:>9.2}{:>9.2}{:>10.2}{:>9.2}{:>9.0}",
            thousands(count, cost.seconds),
            cost.seconds,
            cost.seconds / filters.hmac.seconds,
            cost.processor_seconds,
            cost.processor_seconds / filters.hmac.processor_seconds,
            megabytes(cost.peak_kb)
        );
    };
    row("the HMAC alone", &filters.hmac);
    row("read, normalise, tag", &filters.tag);
    row("read, normalise, tag, build", &filters.filter);
    let bytes = float(filters.filter.filter_bytes) / 1e6;
    line!(
        out,
        "  filter {bytes:.0} MB; peak above it {:.0} MB; {} lines refused\n",
        megabytes(filters.filter.peak_kb) - bytes,
        filters.filter.refused
    );
}

fn store_table(out: &mut String, through: &Through) {
    let (policy, count) = (through.policy, through.selectors);
    line!(
        out,
        "Through a node and its sealed store, {policy}, {count} selectors"
    );
    for (name, seconds) in [
        ("import", through.import_seconds),
        ("read, tag, build", through.build_seconds),
        ("upload and activate", through.upload_seconds),
    ] {
        let rate = thousands(count, seconds);
        line!(out, "  {name:<32}{rate:>12.0} thousand/s{seconds:>9.2} s");
    }
    line!(
        out,
        "  filter {:.1} MB; node's peak {:.0} MB after the import, {:.0} MB in the end\n",
        float(through.filter_bytes) / 1e6,
        megabytes(through.import_peak_kb),
        megabytes(through.peak_kb)
    );
}

fn probing_table(out: &mut String, probing: &Probing) {
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
    line!(
        out,
        "  broker and prober: cpu s of their processes; broker's peak {:.0} MB\n",
        megabytes(probing.broker_peak_kb)
    );
}

fn log_table(out: &mut String, logged: &Logged) {
    line!(
        out,
        "Audit log on {}, beside plain rows of the same bytes; entries until they are under a \
         checkpoint",
        logged.engine
    );
    line!(
        out,
        "  {:<32}{:>10}{:>11}{:>7}{:>17}{:>17}",
        "",
        "rows/s",
        "entries/s",
        "ratio",
        "p50, p99 ms: row",
        "entry"
    );
    for compared in &logged.comparisons {
        log_row(out, compared);
    }
    line!(out, "");
}

fn log_row(out: &mut String, compared: &Comparison) {
    let name = format!(
        "{} writer(s), {} a transaction",
        compared.writers, compared.per_transaction
    );
    let a_second = |written: &Written| float(written.count) / written.seconds;
    let times = |written: &Written| {
        let times = written.transactions;
        format!("{:.2}, {:.2}", times.p50_ms, times.p99_ms)
    };
    let (rows, entries) = (&compared.rows, &compared.entries);
    line!(
        out,
        "  {name:<32}{:>10.0}{:>11.0}{:>7.2}{:>17}{:>17}",
        a_second(rows),
        a_second(entries),
        a_second(entries) / a_second(rows),
        times(rows),
        times(entries)
    );
    if rows.refused + entries.refused > 0 {
        line!(
            out,
            "    refused for the moment, and tried again: {} of rows, {} of entries",
            rows.refused,
            entries.refused
        );
    }
}

fn proofs_table(out: &mut String, proofs: &[Proofs]) {
    line!(out, "Proofs from stored tiles, on SQLite");
    line!(
        out,
        "  {:<32}{:>9}{:>9}{:>9}{:>13}{:>12}",
        "",
        "proofs",
        "p50 ms",
        "p99 ms",
        "tiles each",
        "at most"
    );
    for tree in proofs {
        proofs_row(out, "inclusion", tree.leaves, &tree.inclusion);
        proofs_row(out, "consistency", tree.leaves, &tree.consistency);
        line!(
            out,
            "    built in {:.1} s; ledger {:.0} MB; peak {:.0} MB",
            tree.build_seconds,
            float(tree.ledger_bytes) / 1e6,
            megabytes(tree.peak_kb)
        );
    }
    line!(out, "");
}

fn proofs_row(out: &mut String, sort: &str, leaves: u64, proving: &Proving) {
    let name = format!("{sort}, {leaves} leaves");
    let each = float(proving.tiles as u64) / float(proving.count as u64);
    line!(
        out,
        "  {name:<32}{:>9}{:>9.2}{:>9.2}{each:>13.1}{:>12}",
        proving.count,
        proving.times.p50_ms,
        proving.times.p99_ms,
        proving.most_tiles
    );
}
