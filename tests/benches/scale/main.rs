//! What ten million selectors, and a million probes, cost on this machine (`just bench`).
//!
//! Nothing here asserts a time: machines differ. Each figure stands beside one of the same run on
//! the same machine that it is a ratio of. What is measured is a process of its own, so that its
//! peak of memory (`VmHWM`) is its alone.

mod lists;
mod matching;
mod probing;
mod process;
mod report;
mod stages;
mod store;

use std::path::PathBuf;

use clap::Parser;
use sotto_common::selector::Policy;

use lists::List;
use report::Report;
use stages::{Stage, Work};

/// Ratios of one run on one machine: lists to filters, the node's store, probing.
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
    /// Where the lists are written; they are removed again.
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
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
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
    report
}
