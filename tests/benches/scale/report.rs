//! What was measured, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::aims::{self, Ratio};
use crate::logging::Logged;
use crate::machine::Machine;
use crate::matching::Matched;
use crate::micro::Step;
use crate::plots;
use crate::probing::Probing;
use crate::proofs::Proofs;
use crate::psi::Compared;
use crate::stages::{Cost, Filters};
use crate::store::Through;
use crate::times::float;

/// Writing to a string cannot fail.
macro_rules! line {
    ($out:expr, $($text:tt)*) => {{
        let _ = writeln!($out, $($text)*);
    }};
}

mod log;
mod matcher;
mod probing;

/// Everything of one run; README.md beside this says what each field means.
#[derive(Serialize, Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Of what follows; the last to be filled in.
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) steps: Vec<Step>,
    pub(crate) matched: Vec<Matched>,
    pub(crate) filters: Vec<Filters>,
    pub(crate) stores: Vec<Through>,
    pub(crate) probing: Option<Probing>,
    pub(crate) psi: Option<Compared>,
    pub(crate) logged: Vec<Logged>,
    pub(crate) proofs: Vec<Proofs>,
}

impl Report {
    /// Nothing was measured yet, on this machine.
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            ratios: Vec::new(),
            steps: Vec::new(),
            matched: Vec::new(),
            filters: Vec::new(),
            stores: Vec::new(),
            probing: None,
            psi: None,
            logged: Vec::new(),
            proofs: Vec::new(),
        }
    }

    /// Once everything was measured.
    pub(crate) fn finish(&mut self) {
        self.ratios = aims::ratios(self);
    }

    /// As JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("JSON")
    }

    /// Writes JSON, and the plots of what there is, to a folder.
    pub(crate) fn write(&self, dir: &Path) {
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("written");
            eprintln!("{} is written", path.display());
        };
        write("summary.json", self.json() + "\n");
        if !self.matched.is_empty() {
            write("holders.svg", plots::by_holders(&self.matched).svg());
            write("selectors.svg", plots::by_selectors(&self.matched).svg());
        }
    }

    /// As a table.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let machine = &self.machine;
        line!(
            out,
            "{}, {} cores, huge pages: {}\n",
            machine.processor,
            machine.cores,
            machine.huge_pages
        );
        if !self.steps.is_empty() {
            matcher::steps_table(&mut out, &self.steps);
        }
        for matched in &self.matched {
            matcher::matched_table(&mut out, matched);
        }
        for filters in &self.filters {
            filters_table(&mut out, filters);
        }
        for through in &self.stores {
            store_table(&mut out, through);
        }
        if let Some(probing) = &self.probing {
            probing::probing_table(&mut out, probing);
        }
        if let Some(compared) = &self.psi {
            probing::psi_table(&mut out, compared);
        }
        for logged in &self.logged {
            log::log_table(&mut out, logged);
        }
        if !self.proofs.is_empty() {
            log::proofs_table(&mut out, &self.proofs);
        }
        ratios_table(&mut out, &self.ratios);
        out
    }
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

fn ratios_table(out: &mut String, ratios: &[Ratio]) {
    line!(out, "Ratios of this run");
    for ratio in ratios {
        let value = ratio.value;
        let said = match (&ratio.aim, ratio.met) {
            (Some(aim), Some(true)) => format!("aim {aim}: {value:.2} met"),
            (Some(aim), _) => format!("aim {aim}: {value:.2} NOT MET"),
            (None, _) => format!("{value:.2}"),
        };
        line!(out, "  {:<64}{said}", ratio.name);
    }
}
