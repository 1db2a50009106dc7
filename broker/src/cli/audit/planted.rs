//! `audit planted`: what the prober was told of what was planted, and what that says of the broker.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};
use sotto_common::log::checkpoint::{Checkpoint, LogKey};
use sotto_common::log::note::Note;
use sotto_common::log::planted::{Confidence, Rates, caught, rates};
use sotto_common::service::files;

use super::super::print::say;
use super::super::{Output, Result};
use super::{about, does_not_hold};
use crate::audit::export::ExportReader;
use crate::audit::planted::{Comparison, LogCheck, Logged, Plan, parse_hits};
use crate::audit::verify::{Demands, verify_export};

/// Rates of suppression for which it is said with what probability they would have shown.
const RATES: [f64; 4] = [0.01, 0.02, 0.05, 0.1];

/// How sure the statements are.
const CONFIDENCES: [Confidence; 2] = [Confidence::Percent95, Confidence::Percent99];

/// The columns of CSV, and some of the fields of JSON.
const COLUMNS: [&str; 17] = [
    "policy",
    "prober",
    "holder",
    "planted",
    "reported",
    "missing",
    "verified",
    "retracted",
    "unplanned",
    "low_95",
    "high_95",
    "low_99",
    "high_99",
    "logged",
    "unlogged",
    "later",
    "held_back",
];

/// What to compare.
#[derive(Debug, Args)]
pub(in crate::cli) struct PlantedArgs {
    /// The plan that `audit plant` has written.
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// What `sotto-node hits ls --all --output json` has printed at the prober.
    #[arg(long, value_name = "FILE")]
    hits: PathBuf,
    /// An export of the log, at least 5 minutes younger than the hits.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Verify the export first, by this verifier key of the log.
    #[arg(long, value_name = "VKEY", requires = "export")]
    log_key: Option<LogKey>,
    /// Show the selectors of missing hits, not their numbers alone.
    #[arg(long)]
    show_values: bool,
}

/// What was found.
struct Finding<'a> {
    plan: &'a Plan,
    comparison: Comparison,
    logged: Option<Logged>,
    is_verified: bool,
    show_values: bool,
}

/// Compares, and prints what comes of it.
pub(super) fn run(args: &PlantedArgs, output: Output) -> Result<()> {
    let plan = read(&args.plan)?;
    let plan = Plan::parse(&plan).map_err(|error| about(&args.plan, &error))?;
    let hits = parse_hits(&read(&args.hits)?).map_err(|error| about(&args.hits, &error))?;
    let comparison = plan.compare(&hits);
    let export = args.export.as_deref();
    let logged = match export {
        Some(file) => Some(of_export(file, args.log_key.as_ref(), &plan, &comparison)?),
        None => None,
    };
    let finding = Finding {
        plan: &plan,
        comparison,
        logged,
        is_verified: args.log_key.is_some(),
        show_values: args.show_values,
    };
    match output {
        Output::Json => say(&finding.to_json())?,
        Output::Csv => output.print(&COLUMNS, vec![finding.to_json_row()])?,
        Output::Table => finding.tell()?,
    }
    finding.outcome()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    files::read_small(path).map_err(|error| about(path, &error))
}

/// What an export says of the hits that were reported.
fn of_export(
    file: &Path,
    key: Option<&LogKey>,
    plan: &Plan,
    comparison: &Comparison,
) -> Result<Logged> {
    let open = || -> Result<BufReader<File>> {
        let opened = File::open(file).map_err(|error| about(file, &error))?;
        Ok(BufReader::new(opened))
    };
    if let Some(key) = key {
        let verified = verify_export(open()?, key, &Demands::default());
        verified.map_err(|failure| does_not_hold(format!("the log does not hold: {failure}")))?;
    }
    let (head, entries) = ExportReader::open(open()?).map_err(|error| about(file, &error))?;
    let checkpoint: Checkpoint = Note::parse(&head.note)?.text().parse()?;
    if *checkpoint.origin.community() != plan.planting.community {
        return Err(about(file, &"the log of another community than the plan's"));
    }
    let mut check = LogCheck::new(plan);
    for entry in entries {
        check.take(&entry.map_err(|error| about(file, &error))?);
    }
    Ok(check.finish(comparison))
}

impl Finding<'_> {
    /// What is in both JSON and CSV.
    fn fields(&self) -> Map<String, Value> {
        let planting = &self.plan.planting;
        let (reported, planted) = self.comparison.counts();
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("policy", planting.policy.name().into());
        put("prober", planting.prober.as_str().into());
        put("holder", planting.holder.as_str().into());
        put("planted", planted.into());
        put("reported", reported.into());
        put("missing", (planted - reported).into());
        put("verified", self.comparison.verified().into());
        put("retracted", self.comparison.retracted().into());
        put("unplanned", self.comparison.unplanned.into());
        for confidence in CONFIDENCES {
            let percent = confidence.percent();
            let found = self.rates(confidence);
            put(&format!("low_{percent}"), found.low.into());
            put(&format!("high_{percent}"), found.high.into());
        }
        if let Some(logged) = &self.logged {
            put("logged", logged.logged.into());
            put("unlogged", logged.unlogged.len().into());
            put("later", logged.later.len().into());
            put("held_back", logged.held_back.into());
        }
        fields
    }

    fn to_json_row(&self) -> Value {
        Value::Object(self.fields())
    }

    fn to_json(&self) -> Value {
        let mut fields = self.fields();
        let (_, planted) = self.comparison.counts();
        let shown = RATES.map(|rate| json!({"rate": rate, "probability": caught(planted, rate)}));
        fields.insert(
            "community".into(),
            self.plan.planting.community.as_str().into(),
        );
        fields.insert("caught".into(), shown.to_vec().into());
        let numbers = self.comparison.missing.clone();
        fields.insert("missing_numbers".into(), numbers.into());
        if self.show_values {
            let values: Vec<_> = self.missing_values().map(|(_, value)| value).collect();
            fields.insert("missing_values".into(), values.into());
        }
        if let Some(logged) = &self.logged {
            let of_log = json!({
                "verified": self.is_verified, "unlogged_numbers": logged.unlogged,
                "later_numbers": logged.later, "sessions": logged.sessions,
                "batches": logged.batches, "refs": logged.refs, "unread": logged.unread,
                "lacks_batches": logged.lacks_batches(),
            });
            fields.insert("log".into(), of_log);
        }
        Value::Object(fields)
    }

    fn rates(&self, confidence: Confidence) -> Rates {
        let (reported, planted) = self.comparison.counts();
        rates(planted, planted - reported, confidence)
    }

    fn missing_values(&self) -> impl Iterator<Item = (u32, &str)> {
        let numbers = self.comparison.missing.iter().copied();
        numbers.filter_map(move |number| Some((number, self.plan.selector(number)?.expose())))
    }

    /// For people.
    fn tell(&self) -> Result<()> {
        let planting = &self.plan.planting;
        let comparison = &self.comparison;
        let (reported, planted) = comparison.counts();
        let (policy, prober, holder) = (planting.policy, &planting.prober, &planting.holder);
        say(&format!(
            "{policy}, asked by {prober}, held by {holder}: {planted} planted, {reported} reported, \
             {} missing",
            planted - reported
        ))?;
        let (verified, retracted) = (comparison.verified(), comparison.retracted());
        say(&format!(
            "  {verified} were proved to the prober's node to be in the log, {retracted} were \
             retracted since"
        ))?;
        if comparison.unplanned > 0 {
            let number = comparison.unplanned;
            say(&format!(
                "  {number} more hits on test selectors: a filter gives some by chance"
            ))?;
        }
        if self.show_values {
            for (number, value) in self.missing_values() {
                say(&format!("  missing: {number} {value}"))?;
            }
        } else if !comparison.missing.is_empty() {
            say(&format!("  missing: {}", listed(&comparison.missing)))?;
        }
        if let Some(logged) = &self.logged {
            self.tell_logged(logged)?;
        }
        self.tell_rates(planted)
    }

    fn tell_logged(&self, logged: &Logged) -> Result<()> {
        let word = if self.is_verified {
            "which holds"
        } else {
            "NOT VERIFIED, without --log-key"
        };
        say(&format!("in the export, {word}:"))?;
        say(&format!("  {} reported hits are entries", logged.logged))?;
        if !logged.unlogged.is_empty() {
            let numbers = listed(&logged.unlogged);
            say(&format!("  NOT IN THE LOG, or elsewhere: {numbers}"))?;
        }
        if !logged.later.is_empty() {
            let numbers = listed(&logged.later);
            say(&format!(
                "  found as it ended, see a later export: {numbers}"
            ))?;
        }
        if logged.held_back > 0 {
            let number = logged.held_back;
            say(&format!(
                "  {number} hits of this pair and type are held back by the flood guard: ask the \
                 operator"
            ))?;
        }
        let (sessions, batches, refs) = (logged.sessions, logged.batches, logged.refs);
        say(&format!(
            "  since the plan was made the prober asked about {refs} record refs of this type, in \
             {batches} batches, {sessions} sessions"
        ))?;
        let asked = self.plan.asked();
        if refs < asked as u64 {
            say(&format!(
                "  THESE ARE FEWER THAN THE {asked} of its list: not everything was asked, or batches \
                 are not in the log"
            ))?;
        }
        if logged.unread > 0 {
            let number = logged.unread;
            say(&format!("  {number} entries are erased or not known here"))?;
        }
        Ok(())
    }

    /// What the outcome says of suppression.
    fn tell_rates(&self, planted: u32) -> Result<()> {
        for confidence in CONFIDENCES {
            if self.comparison.missing.is_empty() {
                say(&would_be_caught(planted, confidence))?;
            } else {
                let found = self.rates(confidence);
                let (low, high) = (percent_below(found.low), percent_above(found.high));
                let percent = confidence.percent();
                say(&format!(
                    "between {low} % and {high} % of the hits are suppressed, with {percent} % \
                     confidence"
                ))?;
            }
        }
        for rate in RATES {
            let shown = percent_below(caught(planted, rate));
            let rate = rate * 100.0;
            say(&format!(
                "a broker that suppresses {rate:.0} % of the hits is caught with {shown} % probability"
            ))?;
        }
        Ok(())
    }

    /// Exit code 4 for what must not be.
    fn outcome(&self) -> Result<()> {
        let (reported, planted) = self.comparison.counts();
        if reported < planted {
            return Err(does_not_hold(format!(
                "{} of {planted} planted hits were not reported",
                planted - reported
            )));
        }
        let Some(logged) = &self.logged else {
            return Ok(());
        };
        if !logged.unlogged.is_empty() {
            let number = logged.unlogged.len();
            let text =
                format!("{number} hits that were reported are not in the log as they must be");
            return Err(does_not_hold(text));
        }
        if logged.lacks_batches() {
            let text = "the log has fewer record refs in batches than hits were reported of";
            return Err(does_not_hold(text.to_owned()));
        }
        Ok(())
    }
}

/// What it says that all of so many were reported.
pub(super) fn would_be_caught(planted: u32, confidence: Confidence) -> String {
    let rate = percent_above(rates(planted, 0, confidence).high);
    let percent = confidence.percent();
    format!(
        "a broker that suppresses {rate} % or more of the hits would have been caught with {percent} % \
         probability"
    )
}

/// In percent with a decimal, rounded up.
fn percent_above(rate: f64) -> f64 {
    (rate * 1000.0).ceil() / 10.0
}

/// In percent with a decimal, rounded down.
fn percent_below(rate: f64) -> f64 {
    (rate * 1000.0).floor() / 10.0
}

fn listed(numbers: &[u32]) -> String {
    let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_reported_says_is_said_in_words_and_never_too_much() {
        assert_eq!(
            would_be_caught(100, Confidence::Percent95),
            "a broker that suppresses 3 % or more of the hits would have been caught with 95 % \
             probability"
        );
        let words = would_be_caught(100, Confidence::Percent99);
        assert!(words.contains("suppresses 4.6 % or more"), "{words}");
        assert!(would_be_caught(1, Confidence::Percent95).contains(" 95 % or more"));
    }
}
