//! Normal forms and stop-lists against real lists and the figures of an independent
//! implementation. The lists are not part of the repository: `SOTTO_DATA` names their folder,
//! else `../../shared/data` of this crate is tried, else the tests say that they checked nothing;
//! with `SOTTO_REQUIRE_DATA` they fail instead.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use sotto_common::secret::Selector;
use sotto_common::selector::{Policy, StopList, canonical};

fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("SOTTO_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    if folder.join("truth.json").is_file() {
        return Some(folder);
    }
    let text =
        "SKIPPED, NOTHING CHECKED: the real lists are not here; SOTTO_DATA names their folder";
    assert!(std::env::var_os("SOTTO_REQUIRE_DATA").is_none(), "{text}");
    // Past the capture of the test runner: a skip is to be seen.
    let _ = writeln!(std::io::stderr(), "{text}");
    None
}

fn outcome(policy: Policy, input: &str, region: Option<&str>) -> Result<String, String> {
    let stop_list = StopList::default();
    canonical(policy, input, region)
        .and_then(|value| stop_list.admit(policy, &value).map(|()| value))
        .map(|value| value.expose().to_owned())
        .map_err(|rejection| rejection.to_string())
}

fn digest(values: &BTreeSet<String>) -> String {
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    hex::encode(Sha256::digest(values.join("\n")))
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).expect("a list of the folder")
}

#[test]
fn lists_have_the_distinct_values_rejections_and_overlaps_of_the_truth() {
    let Some(folder) = data() else { return };
    let truth: Value = serde_json::from_str(&read(&folder, "truth.json")).expect("JSON");
    for (name, truth) in truth.as_object().expect("policies") {
        let policy: Policy = name.parse().expect("a policy");
        let mut lists = BTreeMap::new();
        for (list, truth) in truth["lists"].as_object().expect("lists") {
            let text = read(&folder, &format!("{}/{list}.txt", policy.selector_type()));
            let mut distinct = BTreeSet::new();
            let mut rejected = BTreeMap::<String, u64>::new();
            for line in text.lines() {
                match outcome(policy, line, None) {
                    Ok(value) => drop(distinct.insert(value)),
                    Err(rejection) => *rejected.entry(rejection).or_default() += 1,
                }
            }
            assert_eq!(truth["rows"], text.lines().count(), "{policy} {list}");
            assert_eq!(
                truth["rejected"],
                serde_json::json!(rejected),
                "{policy} {list}"
            );
            assert_eq!(truth["distinct"], distinct.len(), "{policy} {list}");
            assert_eq!(truth["sha256"], digest(&distinct), "{policy} {list}");
            lists.insert(list.as_str(), distinct);
        }
        for (pair, truth) in truth["overlaps"].as_object().expect("pairs") {
            let (one, other) = pair.split_once('&').expect("two lists");
            let both: BTreeSet<_> = lists[one].intersection(&lists[other]).cloned().collect();
            assert_eq!(truth["count"], both.len(), "{policy} {pair}");
            assert_eq!(truth["sha256"], digest(&both), "{policy} {pair}");
        }
    }
}

#[test]
fn example_phones_are_read_as_their_source_reads_them() {
    let Some(folder) = data() else { return };
    let text = read(&folder, "phone/examples.csv");
    let differing: Vec<_> = text
        .lines()
        .filter(|line| {
            let mut fields = line.rsplitn(3, ',');
            let (e164, region) = (fields.next(), fields.next());
            let written = fields.next().expect("three fields").trim_matches('"');
            canonical(Policy::Phone, written, region)
                .ok()
                .as_ref()
                .map(Selector::expose)
                != e164
        })
        .collect();
    assert!(
        differing.is_empty(),
        "{} differ: {differing:#?}",
        differing.len()
    );
}

#[test]
fn ibans_of_test_suites_are_told_apart_as_far_as_check_digits_go() {
    let Some(folder) = data() else { return };
    for line in read(&folder, "iban/valid.csv").lines() {
        let (written, expected) = line.rsplit_once(',').expect("two fields");
        assert_eq!(
            outcome(Policy::Iban, written, None).as_deref(),
            Ok(expected),
            "{line}"
        );
    }
    // No table of countries and lengths (selectors.md iban/1): of the invalid ones, those pass
    // whose digits fit mod 97 all the same.
    let text = read(&folder, "iban/invalid.csv");
    let accepted: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once(','))
        .filter(|(written, _)| outcome(Policy::Iban, written, None).is_ok())
        .map(|(_, why)| why)
        .collect();
    assert_eq!(accepted.len(), 5, "{accepted:#?}");
}
