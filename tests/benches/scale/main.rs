//! What ten million selectors, a million probes, and the audit log cost on this machine (`just bench`).
//!
//! Nothing here asserts a time: machines differ. Each figure stands beside one of the same run on
//! the same machine that it is a ratio of. What is measured is a process of its own, so that its
//! peak of memory (`VmHWM`) is its alone.

mod lists;
mod logging;
mod matching;
mod probing;
mod process;
mod proofs;
mod report;
mod stages;
mod store;
mod times;

use std::path::{Path, PathBuf};

use clap::Parser;
use sotto_common::selector::Policy;
use tokio::runtime::Runtime;

use lists::List;
use report::Report;
use stages::{Stage, Work};

/// Ratios of one run on one machine: lists to filters, the node's store, probing, the audit log.
#[derive(Parser, Debug)]
#[command(name = "just bench")]
struct Arguments {
    /// Selectors in each list that becomes a filter; 0 leaves the part out.
    #[arg(long, default_value_t = 10_000_000)]
    selectors: u64,
    /// Selectors that go through the sealed store of a real node; 0 leaves the part out.
    #[arg(long, default_value_t = 1_000_000)]
    store: u64,
    /// Selectors that are probed through mTLS gRPC; 0 leaves the part out.
    #[arg(long, default_value_t = 1_000_000)]
    probes: u64,
    /// Holders that are probed.
    #[arg(long, default_value_t = 10)]
    holders: usize,
    /// Selectors in each holder's filter.
    #[arg(long, default_value_t = 100_000)]
    filter: u64,
    /// Sessions that probe at once, beside one alone.
    #[arg(long, default_value_t = 4)]
    sessions: usize,
    /// Entries of the audit log, beside as many plain rows; 0 leaves the part out.
    #[arg(long, default_value_t = 20_000)]
    entries: u64,
    /// Leaves of the tree in which proofs are made; 0 leaves the part out.
    #[arg(long, default_value_t = 10_000_000)]
    leaves: u64,
    /// Where lists and ledgers are written; they are removed again.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// By `cargo bench`; without it, as by `cargo test --benches`, nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    /// What a process of its own measures, for the one that started it.
    #[arg(long, hide = true, requires_all = ["list", "policy", "count"])]
    stage: Option<Stage>,
    #[arg(long, hide = true)]
    list: Option<PathBuf>,
    #[arg(long, hide = true)]
    policy: Option<Policy>,
    #[arg(long, hide = true)]
    count: Option<u64>,
    /// Leaves of the tree that a process of its own builds, for the one that started it.
    #[arg(long, hide = true, requires = "dir")]
    tree: Option<u64>,
}

fn main() {
    let arguments = Arguments::parse();
    if let (Some(stage), Some(list), Some(policy), Some(count)) = (
        arguments.stage,
        &arguments.list,
        arguments.policy,
        arguments.count,
    ) {
        let work = Work {
            policy,
            list,
            count,
        };
        println!("{}", stages::run(stage, &work));
    } else if let (Some(leaves), Some(dir)) = (arguments.tree, &arguments.dir) {
        println!("{}", proofs::run(leaves, dir));
    } else if arguments.bench {
        let report = measure(&arguments);
        if arguments.json {
            println!("{}", report.json());
        } else {
            print!("{}", report.table());
        }
    } else {
        println!("measures nothing unless it is run by `just bench`");
    }
}

/// All parts, one after the other: what runs beside a measurement is not measured by it.
fn measure(arguments: &Arguments) -> Report {
    let dir = arguments.dir.as_ref().map_or_else(
        || tempfile::tempdir().expect("a folder"),
        |dir| tempfile::tempdir_in(dir).expect("a folder"),
    );
    let mut report = Report::default();
    if arguments.selectors > 0 {
        for policy in [Policy::Phone, Policy::Domain] {
            let list = List::write(dir.path(), policy, arguments.selectors);
            report.filters.push(stages::measure(&list));
        }
    }
    let runtime = Runtime::new().expect("a runtime");
    if arguments.store > 0 {
        for policy in [Policy::Phone, Policy::Domain] {
            let list = List::write(dir.path(), policy, arguments.store);
            report.stores.push(runtime.block_on(store::measure(&list)));
        }
    }
    if arguments.probes > 0 {
        let scene = probing::Scene {
            probes: arguments.probes,
            holders: arguments.holders,
            filter: arguments.filter,
            sessions: arguments.sessions,
        };
        report.probing = Some(runtime.block_on(probing::measure(&scene)));
    }
    measure_log(arguments, dir.path(), &runtime, &mut report);
    report
}

fn measure_log(arguments: &Arguments, dir: &Path, runtime: &Runtime, report: &mut Report) {
    if arguments.entries > 0 {
        report.logged = runtime.block_on(logging::measure(arguments.entries, dir));
    }
    if arguments.leaves > 0 {
        report.proofs = proofs::measure(arguments.leaves, dir);
    }
}
