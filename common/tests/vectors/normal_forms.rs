//! Normal forms, their corpus and digests, and the way from canary inputs to their canonical
//! strings (selectors.md); [`crate::keys`] has the way from there to the tags.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use sotto_common::selector::{self, Policy};

use crate::report::{Hex, Outcome, Rows, same};

/// A raw input and its outcome: exactly one of `canonical` and `reject`.
#[derive(Deserialize)]
struct Case {
    input: String,
    region: Option<String>,
    canonical: Option<String>,
    reject: Option<String>,
}

impl Case {
    fn check(&self, policy: Policy) -> Outcome {
        let ours = match selector::canonical(policy, &self.input, self.region.as_deref()) {
            Ok(canonical) => canonical.expose().to_owned(),
            Err(rejection) => format!("!{}", rejection.as_str()),
        };
        let theirs = match (&self.canonical, &self.reject) {
            (Some(canonical), None) => canonical.clone(),
            (None, Some(rejection)) => format!("!{rejection}"),
            _ => return Err("neither canonical nor reject, or both".into()),
        };
        same(&format!("{policy} of {:?}", self.input), ours, theirs)
    }
}

/// `normalisation.json`: rows of any policy that takes one input.
pub(crate) fn normalisation(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Row {
        policy: String,
        #[serde(flatten)]
        case: Case,
    }
    rows.each(file, |row: Row| {
        let policy = row.policy.parse().map_err(|_| "unknown policy")?;
        row.case.check(policy)
    });
}

/// `corpus.json`: the rows from which the digests are made; the person policies are not strings.
pub(crate) fn corpus(file: &Value, rows: &mut Rows<'_>) {
    for (policy, cases) in of_known_policies(file, rows) {
        for (index, case) in cases.as_array().into_iter().flatten().enumerate() {
            rows.row(format_args!("{policy} row {index}"), case, |case: Case| {
                case.check(policy)
            });
        }
    }
}

/// `forms.json`: the digest of each policy.
pub(crate) fn forms(file: &Value, rows: &mut Rows<'_>) {
    // A folder with a corpus of its own has the digests of that corpus.
    let corpus = rows.sibling("corpus.json").unwrap_or_default();
    for (policy, digest) in of_known_policies(file, rows) {
        let cases: Vec<Case> =
            serde_json::from_value(corpus[policy.name()].clone()).unwrap_or_default();
        let inputs = cases
            .iter()
            .map(|case| (case.input.as_str(), case.region.as_deref()));
        let ours = if cases.is_empty() {
            selector::forms(policy)
        } else {
            selector::forms_over(policy, inputs)
        };
        rows.row(policy, digest, |theirs: Hex<32>| {
            same("forms", Hex(ours), theirs)
        });
    }
}

/// `canaries.json`: raw input to canonical string to tag, and that the policy's own canaries are
/// these.
pub(crate) fn canaries(file: &Value, rows: &mut Rows<'_>) {
    crate::keys::canaries(file, rows);
    for (policy, cases) in of_known_policies(file, rows) {
        for (index, case) in cases.as_array().into_iter().flatten().enumerate() {
            rows.row(
                format_args!("{policy} input {index}"),
                case,
                |case: Case| case.check(policy),
            );
        }
        rows.row(
            format_args!("{policy} as a whole"),
            cases,
            |cases: Vec<Case>| {
                let theirs: Vec<_> = cases
                    .into_iter()
                    .filter_map(|case| case.canonical)
                    .collect();
                let ours: Vec<_> = selector::canonical_canaries(policy)
                    .iter()
                    .map(|canary| canary.expose().to_owned())
                    .collect();
                same("canaries", ours, theirs)
            },
        );
    }
}

/// The entries of a file by policy; policies that are not built yet are listed.
fn of_known_policies<'v>(file: &'v Value, rows: &mut Rows<'_>) -> BTreeMap<Policy, &'v Value> {
    let mut known = BTreeMap::new();
    for (name, value) in file.as_object().into_iter().flatten() {
        match name.parse() {
            Ok(policy) => drop(known.insert(policy, value)),
            Err(_) => rows.skip(name),
        }
    }
    known
}
