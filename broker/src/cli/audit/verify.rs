//! `audit verify`: offline.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde_json::{Value, json};
use sotto_common::log::checkpoint::LogKey;
use sotto_common::log::kind::EntryKind;
use sotto_common::time::Timestamp;

use super::super::Result;
use super::super::print::say;
use super::{about, does_not_hold};
use crate::audit::failure::Failure;
use crate::audit::verify::{Demands, Summary, verify_export};

pub(super) fn run(file: &Path, key: &LogKey, demands: &Demands, is_json: bool) -> Result<()> {
    let opened = File::open(file).map_err(|error| about(file, &error))?;
    match verify_export(BufReader::new(opened), key, demands) {
        Ok(summary) if is_json => say(&of_summary(&summary)),
        Ok(summary) => tell(key, &summary),
        Err(failure) => {
            if is_json {
                say(&of_failure(&failure))?;
            }
            Err(does_not_hold(format!("the log does not hold: {failure}")))
        }
    }
}

fn of_failure(failure: &Failure) -> Value {
    json!({"holds": false, "index": failure.index, "code": failure.code.as_str(),
           "text": failure.text})
}

fn of_summary(summary: &Summary) -> Value {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let kinds = |kinds: &BTreeMap<EntryKind, u64>| {
        let kinds = kinds.iter().map(|(kind, n)| (kind.to_string(), json!(n)));
        Value::Object(kinds.collect())
    };
    let custodians = summary.custodians.iter();
    let custodians: Vec<_> = custodians
        .map(|(node, key)| json!({"node": node.as_str(), "fingerprint": key.to_string()}))
        .collect();
    let witnesses = summary.witnesses.as_ref().map(|witnesses| {
        let nodes = witnesses.nodes.iter();
        let nodes = nodes.map(|(node, at)| (node.to_string(), json!(at.to_string())));
        json!({"count": witnesses.count, "required": witnesses.required,
               "quorum": witnesses.is_quorum(), "nodes": Value::Object(nodes.collect())})
    });
    json!({"holds": true, "size": summary.head.size, "root": summary.head.root.to_string(),
           "kinds": kinds(&summary.kinds), "erased": kinds(&summary.erased),
           "erasures": summary.erasures, "unknown": summary.unknown,
           "manifests": summary.manifests, "custodians": custodians, "from": time(summary.from),
           "until": time(summary.until), "witnesses": witnesses})
}

fn tell(key: &LogKey, summary: &Summary) -> Result<()> {
    let head = &summary.head;
    say(&format!("{}: the log holds", key.origin()))?;
    say(&format!("  {} leaves, root {}", head.size, head.root))?;
    if let (Some(from), Some(until)) = (summary.from, summary.until) {
        say(&format!("  from {from} to {until}"))?;
    }
    for (kind, number) in &summary.kinds {
        say(&format!("  {number:>8} {kind}"))?;
    }
    for (kind, number) in &summary.erased {
        say(&format!(
            "  {number:>8} {kind} erased: kind and hour alone were verified"
        ))?;
    }
    if summary.erasures > 0 {
        say(&format!(
            "  {:>8} entries tell of erasures",
            summary.erasures
        ))?;
    }
    if summary.unknown > 0 {
        let text = "of a kind that this version does not know: in the tree, not looked into";
        say(&format!("  {:>8} {text}", summary.unknown))?;
    }
    for (node, key) in &summary.custodians {
        say(&format!("  custodian {node}, {key}"))?;
    }
    match &summary.witnesses {
        None => say(&"  no manifest, hence no witness"),
        Some(witnesses) => {
            let word = if witnesses.is_quorum() {
                "a quorum"
            } else {
                "NO QUORUM"
            };
            let (count, required) = (witnesses.count, witnesses.required);
            say(&format!(
                "  {count} witnesses of {required} required: {word}"
            ))?;
            for (node, at) in &witnesses.nodes {
                say(&format!("    {node} at {at}"))?;
            }
            Ok(())
        }
    }
}
