//! `audit plant`: test selectors for a pair of nodes, and the plan of them.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use sotto_common::ids::{CommunityId, NodeId};
use sotto_common::log::planted::{Confidence, Part, PlantError, Planting, Seed};
use sotto_common::random::os_rng;
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_common::service::files::{self, Readers};
use sotto_common::time::{Clock as _, SystemClock};

use super::super::Result;
use super::super::print::say;
use super::planted::would_be_caught;
use super::{about, wrong_use};
use crate::audit::planted::Plan;

/// Decoys for each planted selector, unless it is said how many.
const DECOYS_EACH: u32 = 4;

/// Most test selectors of a kind: the most that a probe could ask on a day is far below.
const MAX_COUNT: i64 = 100_000;

/// What to plant.
#[derive(Debug, Args)]
pub(in crate::cli) struct PlantArgs {
    community: CommunityId,
    /// The auditor's secret, from which the selectors are made: a line of 64 hex digits, mode 0600.
    #[arg(long, value_name = "FILE")]
    seed_file: PathBuf,
    /// Make the seed file, if it is not there.
    #[arg(long)]
    new_seed: bool,
    /// The node that is to hold the selectors.
    #[arg(long, value_name = "NODE")]
    holder: NodeId,
    /// The node that is to ask for them.
    #[arg(long, value_name = "NODE")]
    prober: NodeId,
    /// The selectors' type: email or domain.
    #[arg(long = "type", value_name = "TYPE", value_parser = policy)]
    policy: Policy,
    /// How many to plant.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT))]
    count: u32,
    /// How many more the prober asks for that the holder does not have; four times as many as are
    /// planted, if left out.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(0..=MAX_COUNT))]
    decoys: Option<u32>,
    /// Number of the first. The same seed, pair and number make the same selector again: begin behind
    /// those that were planted before.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    first: u32,
    /// Folder for the lists and the plan; made if it is not there.
    #[arg(long, value_name = "DIR")]
    out_dir: PathBuf,
}

/// Writes the lists and the plan, and says what to do with them.
pub(super) fn run(args: PlantArgs) -> Result<()> {
    let planting = Planting {
        community: args.community,
        policy: args.policy,
        prober: args.prober,
        holder: args.holder,
    };
    let decoys = args
        .decoys
        .unwrap_or(args.count.saturating_mul(DECOYS_EACH));
    // What cannot be planted makes no seed and no folder.
    let probe = Seed::generate(&mut os_rng());
    made(planting.selectors(&probe, Part::Planted, args.first, 1))?;
    let seed = seed(&args.seed_file, args.new_seed)?;
    let make = |part, count| made(planting.selectors(&seed, part, args.first, count));
    let plan = Plan {
        planted: make(Part::Planted, args.count)?,
        decoys: make(Part::Decoy, decoys)?,
        planting: planting.clone(),
        made_at: SystemClock.now(),
        first: args.first,
    };
    let files = Files::new(&args.out_dir, &planting)?;
    files.write(&plan)?;
    tell(&plan, &files)
}

fn made(selectors: Result<Vec<Selector>, PlantError>) -> Result<Vec<Selector>> {
    selectors.map_err(|error| wrong_use(&error.to_string()))
}

/// The seed of the file, which is made if it may be.
fn seed(path: &Path, may_be_made: bool) -> Result<Seed> {
    match files::read_private(path) {
        Ok(Some(text)) => Seed::parse(&text)
            .ok_or_else(|| about(path, &"expected one line of 64 hex digits: a seed")),
        Ok(None) => Err(about(
            path,
            &"others than its owner can read it: make a new seed, for this one is no secret",
        )),
        Err(error) if error.kind() == ErrorKind::NotFound && may_be_made => {
            let seed = Seed::generate(&mut os_rng());
            write(path, &seed.line())?;
            Ok(seed)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(about(path, &"there is no such file; --new-seed makes it"))
        }
        Err(error) => Err(about(path, &error)),
    }
}

/// Where everything is written.
struct Files {
    holder: PathBuf,
    prober: PathBuf,
    plan: PathBuf,
}

impl Files {
    /// In a folder in which none of them is yet.
    fn new(dir: &Path, planting: &Planting) -> Result<Self> {
        let files = Self {
            holder: dir.join(format!("holder-{}.txt", planting.holder)),
            prober: dir.join(format!("prober-{}.txt", planting.prober)),
            plan: dir.join("plan.json"),
        };
        for path in [&files.holder, &files.prober, &files.plan] {
            if path.exists() {
                return Err(about(path, &"the file exists: give another folder"));
            }
        }
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(dir);
        made.map_err(|error| about(dir, &error))?;
        Ok(files)
    }

    fn write(&self, plan: &Plan) -> Result<()> {
        let (planted, decoys) = (plan.planted.as_slice(), plan.decoys.as_slice());
        write(&self.holder, &list(&[planted]))?;
        write(&self.prober, &list(&[planted, decoys]))?;
        write(&self.plan, &plan.write()?)
    }
}

/// Test selectors are a secret of auditor, holder and prober.
fn write(path: &Path, text: &str) -> Result<()> {
    files::write(path, text.as_bytes(), Readers::Owner, &mut os_rng())
        .map_err(|error| about(path, &error))
}

/// A selector a line. They are sorted: the place of one says nothing of its kind.
fn list(parts: &[&[Selector]]) -> String {
    let mut selectors = parts.concat();
    selectors.sort_unstable();
    let mut lines = String::new();
    for selector in &selectors {
        lines.push_str(selector.expose());
        lines.push('\n');
    }
    lines
}

fn tell(plan: &Plan, files: &Files) -> Result<()> {
    let Planting {
        policy,
        prober,
        holder,
        ..
    } = &plan.planting;
    let (planted, decoys) = (plan.planted.len(), plan.decoys.len());
    let kind = policy.selector_type();
    let name = |path: &Path| path.file_name().map_or_else(String::new, in_text);
    let (for_holder, for_prober) = (name(&files.holder), name(&files.prober));
    let plan_file = files.plan.display();
    say(&format!(
        "{planted} of {policy} are planted, {decoys} more are asked for; the plan is {plan_file}.

Both lists are secret, and whoever runs the broker must see neither: hand {for_holder} to {holder}
and {for_prober} to {prober} by the way that fingerprints go. The broker must not be able to tell this
dataset from others. Give it an ordinary NAME, grounds and case reference, and have it published and
probed as the others are.

  {holder}:  sotto-node dataset import NAME --type {kind} {for_holder}
  {holder}:  sotto-node publish --type {kind}
  and then, at another time:
  {prober}:  sotto-node dataset import NAME --type {kind} {for_prober}
  {prober}:  sotto-node dataset set NAME --probe --purpose … --legal-basis … --case …
  and once everything of it was asked, before anything of it is removed:
  {prober}:  sotto-node hits ls --dataset NAME --all --output json > hits.json

`sotto-broker audit planted --plan {plan_file} --hits hits.json` compares. Afterwards both delete the
dataset: sotto-node dataset delete NAME. If all hits are reported:"
    ))?;
    let count = u32::try_from(planted).unwrap_or(u32::MAX);
    for confidence in [Confidence::Percent95, Confidence::Percent99] {
        say(&would_be_caught(count, confidence))?;
    }
    Ok(())
}

fn in_text(name: &std::ffi::OsStr) -> String {
    name.to_string_lossy().into_owned()
}

/// A policy by its full name, or by its type at the present version.
fn policy(text: &str) -> Result<Policy, String> {
    let named = text.parse().ok().or_else(|| Policy::from_type(text));
    named.ok_or_else(|| "expected email or domain".to_owned())
}
