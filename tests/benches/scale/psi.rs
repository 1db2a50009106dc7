//! Two lists, and what they have in common: through two nodes and a broker, and through OpenMined PSI,
//! which finds the same by elliptic curves.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::{Deserialize, Serialize};
use sotto_common::selector::{Policy, canonical};
use sotto_proto::v1;
use sotto_tests::unit::{grounds, introduce};
use sotto_tests::{BrokerProcess, Unit};
use tokio::time::Instant;

use crate::lists::List;
use crate::store::{import, profile, publish};

const POLICY: Policy = Policy::Phone;
const SCRIPT: &str = include_str!("psi.py");
/// The package, as PyPI has it.
const PACKAGE: &str = "openmined-psi==2.0.6";
/// One of so many selectors is in both lists.
const RARE: u64 = 1000;

/// The same two lists in both ways.
#[derive(Clone, Serialize, Debug)]
pub(crate) struct Compared {
    /// In each list.
    pub(crate) selectors: u64,
    pub(crate) in_common: u64,
    pub(crate) ours: Ours,
    /// Absent where it could not be measured.
    pub(crate) psi: Option<Psi>,
    /// Why it could not.
    pub(crate) not_measured: Option<String>,
}

/// Through the services of two nodes, each a process of its own, as a broker is: end to end.
#[derive(Clone, Copy, Serialize, Debug)]
pub(crate) struct Ours {
    /// One list into its node's sealed store.
    pub(crate) holder_import_seconds: f64,
    /// That list's filter, until the broker tests against it.
    pub(crate) publish_seconds: f64,
    /// The other list into its node's sealed store.
    pub(crate) prober_import_seconds: f64,
    /// Until all of it is answered, and the hits are durable.
    pub(crate) probe_seconds: f64,
    /// Pairs of record ref and holder.
    pub(crate) found: u64,
}

impl Ours {
    /// All of it, one step after the other.
    pub(crate) fn seconds(&self) -> f64 {
        self.holder_import_seconds
            + self.publish_seconds
            + self.prober_import_seconds
            + self.probe_seconds
    }
}

/// Both parties in one process.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(crate) struct Psi {
    pub(crate) version: String,
    pub(crate) seconds: f64,
    pub(crate) found: u64,
}

/// Makes two lists of so many selectors, and measures both ways. `packages` is a folder for the
/// package where Python does not have it.
pub(crate) async fn measure(selectors: u64, dir: &Path, packages: &Path) -> Compared {
    let in_common = selectors.div_ceil(RARE);
    let held = List::write_range(dir, POLICY, 0..selectors);
    let begin = selectors - in_common;
    let asked = List::write_range(dir, POLICY, begin..begin + selectors);
    eprintln!("two lists of {selectors} through nodes and broker ...");
    let ours = ours(&held, &asked).await;
    assert_eq!(ours.found, in_common);
    eprintln!("the same lists through OpenMined PSI, a minute for 100,000 ...");
    let theirs = tokio::task::block_in_place(|| theirs(&held, &asked, packages));
    let (psi, not_measured) = match theirs {
        Ok(psi) => (Some(psi), None),
        Err(why) => {
            eprintln!("!!! OpenMined PSI: NOT MEASURED: {why}");
            (None, Some(why))
        }
    };
    Compared {
        selectors,
        in_common,
        ours,
        psi,
        not_measured,
    }
}

async fn ours(held: &List, asked: &List) -> Ours {
    let broker = BrokerProcess::start("warn,sotto_broker=info").await;
    let [mut prober, mut holder] = units(&broker).await;
    let begun = Instant::now();
    import(&holder, held).await;
    let holder_import_seconds = seconds(begun);
    let begun = Instant::now();
    publish(&holder, POLICY, begun).await;
    let publish_seconds = seconds(begun);
    let begun = Instant::now();
    import(&prober, asked).await;
    let prober_import_seconds = seconds(begun);
    let begun = Instant::now();
    let found = probe(&prober).await;
    let probe_seconds = seconds(begun);
    prober.kill().await;
    holder.kill().await;
    Ours {
        holder_import_seconds,
        publish_seconds,
        prober_import_seconds,
        probe_seconds,
        found,
    }
}

fn seconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64()
}

/// Two units with an epoch, which publish when they are told to.
async fn units(broker: &BrokerProcess) -> [Unit; 2] {
    let names = ["nl-fiu", "de-bka"];
    let operator = broker.operator();
    let created = operator.create_community(profile(), &names[..1]).await;
    created.expect("created");
    let (site, url) = (broker.site(), format!("https://{}", broker.address()));
    let settings = "[service.publisher]\ndebounce = '1h'\npatience = '2h'\n";
    let install = |name: &str| Unit::install(&site.lab, &site.path(name), name, &url, settings);
    let mut units = names.map(install);
    for (unit, name) in units.iter_mut().zip(names) {
        operator.enrol(name).await.expect("enrolled");
        let of_that_name = broker.node(name);
        let limited = operator.set_limits(&of_that_name, Some(1_000_000_000), Some(60));
        limited.await.expect("set");
        // Its certificate was made anew for that; the unit reads it when it starts.
        unit.start_process().await;
    }
    introduce(&units).await;
    units
}

/// Probes the whole list; how many matches there are.
async fn probe(unit: &Unit) -> u64 {
    let request = v1::ProbeDatasetRequest {
        dataset: "list".into(),
        grounds: Some(grounds()),
        ..Default::default()
    };
    let answer = unit.analyst().probe_dataset(request).await;
    let mut progress = answer.expect("begun").into_inner();
    let mut matches = None;
    while let Some(told) = progress.message().await.expect("it goes on") {
        if told.done {
            matches = Some(told.matches);
        }
    }
    matches.expect("all of it was asked")
}

/// By the first Python that there is.
///
/// # Errors
/// Why it cannot be measured.
fn theirs(held: &List, asked: &List, packages: &Path) -> Result<Psi, String> {
    let script = held.path.with_extension("py");
    std::fs::write(&script, SCRIPT).expect("written");
    let lists = [held, asked].map(canonical_values);
    let run = || python(packages).arg(&script).args(&lists).output();
    let mut output = run().map_err(|error| format!("there is no python3: {error}"))?;
    if output.status.code() == Some(3) {
        install(packages)?;
        output = run().map_err(|error| error.to_string())?;
    }
    if !output.status.success() {
        return Err(last_line(&output));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

fn python(packages: &Path) -> Command {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", packages);
    python
}

fn install(packages: &Path) -> Result<(), String> {
    eprintln!(
        "{PACKAGE} is taken from PyPI into {} ...",
        packages.display()
    );
    let installed = python(packages)
        .args(["-m", "pip", "install", "--quiet", "--target"])
        .arg(packages)
        .arg(PACKAGE)
        .output()
        .map_err(|error| error.to_string())?;
    if installed.status.success() {
        Ok(())
    } else {
        Err(last_line(&installed))
    }
}

/// What a program that failed said last.
fn last_line(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let mut lines = said.lines().rev().map(str::trim);
    let last = lines.find(|line| !line.is_empty());
    last.unwrap_or("it failed without a word").to_owned()
}

/// The list in canonical form, in a file beside it: PSI compares bytes.
fn canonical_values(list: &List) -> PathBuf {
    let lines = BufReader::new(File::open(&list.path).expect("a list")).lines();
    let mut values = String::new();
    for line in lines {
        let line = line.expect("UTF-8");
        let value = canonical(list.policy, &line, List::region(list.policy)).expect("admitted");
        values += value.expose();
        values += "\n";
    }
    let path = list.path.with_extension("canonical");
    std::fs::write(&path, values).expect("written");
    path
}
