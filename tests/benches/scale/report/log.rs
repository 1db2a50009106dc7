//! The audit log's tables.

use std::fmt::Write as _;

use super::megabytes;
use crate::logging::{Comparison, Logged, Written};
use crate::proofs::{Proofs, Proving};
use crate::times::float;

pub(super) fn log_table(out: &mut String, logged: &Logged) {
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

pub(super) fn proofs_table(out: &mut String, proofs: &[Proofs]) {
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
