//! The vectors of an independent implementation (style rule 11): one check a file.
//!
//! Reads the folder named by `SOTTO_VECTORS`, or `testdata/v1`. Every failure names file and row;
//! all are collected before the test fails. Files that are unknown here, or that the folder does
//! not have, are listed and do not fail. Run with `--nocapture` to see the summary.

#[path = "vectors/filters.rs"]
mod filters;
#[path = "vectors/keys.rs"]
mod keys;
#[path = "vectors/log.rs"]
mod log;
#[path = "vectors/normal_forms.rs"]
mod normal_forms;
#[path = "vectors/probes.rs"]
mod probes;
#[path = "vectors/report.rs"]
mod report;
#[path = "vectors/statements.rs"]
mod statements;

use std::path::{Path, PathBuf};

use report::{Check, Report, run};

/// The files that are checked, each by one function.
const CHECKS: &[(&str, Check)] = &[
    ("key_schedule.json", keys::key_schedule),
    ("canaries.json", normal_forms::canaries),
    ("normalisation.json", normal_forms::normalisation),
    ("corpus.json", normal_forms::corpus),
    ("forms.json", normal_forms::forms),
    ("record_ref.json", keys::record_ref),
    ("classes.json", filters::classes),
    ("filters.json", filters::filters),
    ("batch.json", probes::batch),
    ("dsse.json", statements::dsse),
    ("hpke.json", statements::hpke),
    ("follow_up_info.json", statements::follow_up_info),
    ("held.json", statements::held),
    ("merkle.json", log::merkle),
    ("leaf.json", log::leaf),
    ("checkpoint.json", log::checkpoint),
    ("cosignature.json", log::cosignature),
];

/// The files whose part of the protocol has no check here yet.
const NOT_YET_COVERED: &[&str] = &["persons.json"];

fn default_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1")
}

#[test]
fn agrees_with_the_vectors_of_an_independent_implementation() {
    let chosen = std::env::var_os("SOTTO_VECTORS").map(PathBuf::from);
    let is_default = chosen.is_none();
    let folder = chosen.unwrap_or_else(default_folder);
    let report = run(&folder, CHECKS, NOT_YET_COVERED);
    println!("{report}");
    assert!(
        report.failures().is_empty(),
        "{}",
        report.failures().join("\n")
    );
    assert!(
        report.rows() > 0,
        "no row was checked in {}",
        folder.display()
    );
    if is_default {
        for (file, _) in CHECKS {
            assert!(report.rows_of(file) > 0, "no row of {file} was checked");
        }
    }
}

/// The runner itself: a test that cannot fail proves nothing.
mod runner {
    use super::*;

    /// The report on the default vectors with one text replaced in one file.
    fn with(file: &str, from: &str, to: &str) -> Report {
        let folder = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(default_folder()).expect("the vectors") {
            let entry = entry.expect("an entry");
            let mut text = std::fs::read_to_string(entry.path()).expect("a text");
            if entry.file_name() == file {
                assert!(text.contains(from), "{file} holds {from}");
                text = text.replacen(from, to, 1);
            }
            std::fs::write(folder.path().join(entry.file_name()), text).expect("a copy");
        }
        run(folder.path(), CHECKS, NOT_YET_COVERED)
    }

    #[test]
    fn names_file_and_row_of_every_kind_of_difference() {
        for (file, from, to, row) in [
            (
                "key_schedule.json",
                "20b8013a4f50a64e",
                "20b8013a4f50a64f",
                "kid",
            ),
            ("key_schedule.json", "0bed28d5", "1bed28d5", "phone/1"),
            ("canaries.json", "6d3a6d71", "7d3a6d71", "phone/1"),
            ("record_ref.json", "a3322a4d", "b3322a4d", "row 0"),
            ("classes.json", "14552", "14553", "row 2"),
            ("filters.json", "7430", "7431", "row 0"),
            (
                "filters.json",
                "f699d0791a82cefe2e3e3fd57be25d62",
                "bd0621effd61eece80269f1bf7c946a1",
                "row 0",
            ),
            ("filters.json", "15749", "15750", "row 1"),
            ("filters.json", "32783", "32784", "row 4"),
            ("batch.json", "5a447764", "6a447764", "row 0"),
            ("batch.json", "a5a007bc", "b5a007bc", "row 0"),
            ("dsse.json", "53edcd77", "63edcd77", "row 0"),
            ("dsse.json", "7f410305", "8f410305", "row 0"),
            ("hpke.json", "8569a8a4", "9569a8a4", "row 0"),
            ("follow_up_info.json", "736f7474", "836f7474", "row 0"),
            ("held.json", "c90521d7", "d90521d7", "row 0"),
            ("merkle.json", "385d8b66", "485d8b66", "root 1"),
            ("merkle.json", "3e840f4f", "4e840f4f", "leaf 3 of 8"),
            ("merkle.json", "04443d6a", "14443d6a", "1 in 2"),
            ("leaf.json", "497000", "497001", "row 0"),
            ("leaf.json", "f643b043", "0643b043", "row 0"),
            ("checkpoint.json", "0e6bdf13", "1e6bdf13", "row 0"),
            ("checkpoint.json", "11917d1d", "21917d1d", "row 0"),
            ("checkpoint.json", "EZF9HcB7", "EZF9HcB8", "row 0"),
            ("cosignature.json", "1789500000", "1789500001", "row 0"),
            ("cosignature.json", "FhZMCAAA", "FhZMCQAA", "row 0"),
        ] {
            let report = with(file, from, to);
            let [failure] = report.failures() else {
                panic!("one failure for {from}, not {:?}", report.failures());
            };
            assert!(failure.contains(file) && failure.contains(row), "{failure}");
        }
    }

    #[test]
    fn a_file_that_is_not_json_or_misses_a_field_fails_by_name() {
        for (file, from, to) in [
            ("hpke.json", "{", "["),
            ("record_ref.json", "record_key", "recordkey"),
            ("dsse.json", "\"seed\": \"5569", "\"seed\": \"69"),
        ] {
            let report = with(file, from, to);
            assert!(!report.failures().is_empty(), "{file}");
            assert!(report.failures().iter().all(|text| text.contains(file)));
        }
    }

    #[test]
    fn lists_unknown_absent_and_uncovered_files_without_failing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("novel.json"), "[]").unwrap();
        std::fs::write(folder.path().join("persons.json"), "not even json").unwrap();
        std::fs::write(folder.path().join("record_ref.json"), "[]").unwrap();
        let report = run(folder.path(), CHECKS, NOT_YET_COVERED);
        assert!(report.failures().is_empty() && report.rows() == 0);
        let text = report.to_string();
        for line in [
            "novel.json: unknown",
            "persons.json: not yet covered",
            "key_schedule.json: absent",
            "record_ref.json: needs key_schedule.json",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
