//! What matching, ten million selectors, a million probes, and the audit log cost on this machine
//! (`just bench`).
//!
//! Nothing here asserts a time: machines differ. Each figure stands beside one of the same run on
//! the same machine that it is a ratio of. What takes memory is a process of its own, so that its peak
//! (`VmHWM`) is its alone; what is compared by nanoseconds is measured in turns ([`alternate`]).

mod aims;
mod alternate;
mod arguments;
mod echo;
mod fastbloom;
mod filters;
mod latency;
mod lists;
mod logging;
mod machine;
mod matching;
mod micro;
mod plots;
mod probing;
mod process;
mod proofs;
mod psi;
mod report;
mod restart;
mod stages;
mod store;
mod stream;
mod times;

use std::path::{Path, PathBuf};

use clap::Parser as _;
use sotto_common::selector::Policy;
use tokio::runtime::Runtime;

use arguments::{Arguments, Part};
use lists::List;
use machine::Machine;
use report::Report;
use stages::Work;

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
    } else if let Some(dir) = &arguments.steps {
        micro::run(dir);
    } else if arguments.bench {
        let out = arguments.out.clone().unwrap_or_else(default_out);
        std::fs::create_dir_all(&out).expect("a folder");
        let report = measure(&arguments, &out);
        report.write(&out);
        if arguments.json {
            println!("{}", report.json());
        } else {
            print!("{}", report.table());
        }
    } else {
        println!("measures nothing unless it is run by `just bench`");
    }
}

/// `target/bench`: this program is `target/<profile>/deps/scale-<hash>`.
fn default_out() -> PathBuf {
    let program = std::env::current_exe().expect("a path");
    let target = program.ancestors().nth(3).expect("Cargo's target folder");
    target.join("bench")
}

/// All parts, one after the other: what runs beside a measurement is not measured by it.
fn measure(arguments: &Arguments, out: &Path) -> Report {
    let dir = arguments.dir.as_ref().map_or_else(
        || tempfile::tempdir().expect("a folder"),
        |dir| tempfile::tempdir_in(dir).expect("a folder"),
    );
    let dir = dir.path();
    let runtime = Runtime::new().expect("a runtime");
    let mut report = Report::new(Machine::this());
    if arguments.has(Part::Steps) {
        report.steps = micro::measure(&out.join("criterion"));
    }
    if arguments.has(Part::Matcher) {
        let rounds = usize::from(arguments.rounds);
        report.matched = matching::measure(dir, arguments.matcher, rounds);
    }
    if arguments.has(Part::Lists) {
        for policy in [Policy::Phone, Policy::Domain] {
            let list = List::write(dir, policy, arguments.selectors);
            report.filters.push(stages::measure(&list));
        }
    }
    if arguments.has(Part::Store) {
        for policy in [Policy::Phone, Policy::Domain] {
            let list = List::write(dir, policy, arguments.store);
            report.stores.push(runtime.block_on(store::measure(&list)));
        }
    }
    measure_probing(arguments, (dir, out), &runtime, &mut report);
    if arguments.has(Part::Entries) {
        report.logged = runtime.block_on(logging::measure(arguments.entries, dir));
    }
    if arguments.has(Part::Proofs) {
        report.proofs = proofs::measure(arguments.leaves, dir);
    }
    report.finish();
    report
}

fn measure_probing(
    arguments: &Arguments,
    (dir, out): (&Path, &Path),
    runtime: &Runtime,
    report: &mut Report,
) {
    if arguments.has(Part::Probing) {
        let scene = probing::Scene {
            probes: arguments.probes,
            holders: arguments.holders,
            filter: arguments.filter,
            sessions: arguments.sessions,
            checks: arguments.checks,
        };
        report.probing = Some(runtime.block_on(probing::measure(&scene)));
    }
    if arguments.has(Part::Psi) {
        let packages = out.join("python");
        let compared = psi::measure(arguments.psi, dir, &packages);
        report.psi = Some(runtime.block_on(compared));
    }
}
