//! The corpus digest (selectors.md "Corpus digest", protocol §4 "Forms").

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Policy, canonical};

/// Frozen with the policies; new test rows go elsewhere.
const CORPUS: &str = include_str!("../../testdata/v1/corpus.json");

/// A raw input; its outcome is computed, never read.
#[derive(Deserialize)]
struct Row {
    input: String,
    region: Option<String>,
}

static FORMS: LazyLock<BTreeMap<Policy, [u8; 32]>> = LazyLock::new(|| {
    let corpus: BTreeMap<&str, serde_json::Value> =
        // Unwrap safety: the corpus is part of this crate; a test reads it.
        serde_json::from_str(CORPUS).expect("the corpus is JSON");
    Policy::ALL
        .iter()
        .map(|&policy| {
            let rows = &corpus[policy.name()];
            // Unwrap safety: as above.
            let rows: Vec<Row> = Deserialize::deserialize(rows).expect("rows have an input");
            let rows = rows
                .iter()
                .map(|row| (row.input.as_str(), row.region.as_deref()));
            (policy, forms_over(policy, rows))
        })
        .collect()
});

/// `forms(policy)`: what this code makes of the policy's corpus. A node whose normal form
/// drifted has another digest, and is refused instead of silently never matching.
pub fn forms(policy: Policy) -> [u8; 32] {
    FORMS[&policy]
}

/// H of the concatenated LP(outcome) of rows of input and region hint, outcome = the canonical
/// string, or `!` and the rejection.
pub fn forms_over<'r>(
    policy: Policy,
    rows: impl IntoIterator<Item = (&'r str, Option<&'r str>)>,
) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (input, region) in rows {
        let outcome = match canonical(policy, input, region) {
            Ok(value) => value.expose().to_owned(),
            Err(rejection) => format!("!{rejection}"),
        };
        // No outcome comes near 2^16 bytes: inputs have at most 1024, and a URL's characters
        // become at most three times as long.
        let len = u16::try_from(outcome.len()).unwrap_or(u16::MAX);
        hash.update(len.to_be_bytes());
        hash.update(outcome);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::super::{canaries, canonical_canaries, tests::outcome};
    use super::*;
    use crate::secret::Selector;

    /// A row of the vectors with the outcome of the independent implementation.
    #[derive(Deserialize)]
    struct Expected {
        policy: Option<String>,
        input: String,
        region: Option<String>,
        canonical: Option<String>,
        reject: Option<String>,
    }

    impl Expected {
        fn check(&self, policy: Policy) {
            let expected = match (&self.canonical, &self.reject) {
                (Some(canonical), None) => canonical.clone(),
                (None, Some(reject)) => format!("!{reject}"),
                _ => panic!("a row has one outcome"),
            };
            let found = outcome(policy, &self.input, self.region.as_deref());
            assert_eq!(
                found, expected,
                "{policy} {:?} {:?}",
                self.input, self.region
            );
        }
    }

    fn by_policy(text: &str) -> BTreeMap<String, serde_json::Value> {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn every_row_of_the_corpus_has_its_outcome() {
        let corpus = by_policy(CORPUS);
        for &policy in Policy::ALL {
            let rows: Vec<Expected> =
                Deserialize::deserialize(&corpus[policy.name()]).expect("rows");
            assert!(!rows.is_empty());
            for row in &rows {
                row.check(policy);
            }
        }
    }

    #[test]
    fn every_row_of_the_normalisation_vectors_has_its_outcome() {
        let text = include_str!("../../testdata/v1/normalisation.json");
        let rows: Vec<Expected> = serde_json::from_str(text).expect("rows");
        for row in &rows {
            let policy = row
                .policy
                .as_deref()
                .expect("a policy")
                .parse()
                .expect("known");
            row.check(policy);
        }
    }

    #[test]
    fn canaries_are_those_of_the_vectors() {
        let vectors = by_policy(include_str!("../../testdata/v1/canaries.json"));
        for &policy in Policy::ALL {
            let rows: Vec<Expected> =
                Deserialize::deserialize(&vectors[policy.name()]).expect("rows");
            let inputs: Vec<_> = rows.iter().map(|row| row.input.as_str()).collect();
            let values: Vec<_> = rows
                .iter()
                .filter_map(|row| row.canonical.as_deref())
                .collect();
            assert_eq!(canaries(policy), inputs, "{policy}");
            let found: Vec<_> = canonical_canaries(policy)
                .iter()
                .map(Selector::expose)
                .collect();
            assert_eq!(found, values, "{policy}");
        }
    }

    #[test]
    fn forms_are_those_of_the_vectors() {
        let vectors = by_policy(include_str!("../../testdata/v1/forms.json"));
        for &policy in Policy::ALL {
            assert_eq!(
                vectors[policy.name()],
                hex::encode(forms(policy)),
                "{policy}"
            );
        }
    }
}
