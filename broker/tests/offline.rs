//! The real binary, for the commands that need no service.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use sotto_common::ids::HitId;
use sotto_common::random::os_rng;
use sotto_common::service::at_rest::{Cell, ColumnCipher};
use sotto_common::service::config::SecretFile;
use sotto_common::time::{Clock as _, SystemClock};

fn new_key() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sotto-broker"))
        .args(["ledger", "new-key"])
        .env_clear()
        .output()
        .expect("ended");
    assert!(output.status.success());
    assert!(output.stderr.is_empty());
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn new_keys_are_lines_of_a_key_file_that_seals_and_opens() {
    let lines = [new_key(), new_key()];
    assert!(lines.iter().all(|line| line.lines().count() == 1));
    let dir = tempfile::tempdir().expect("a folder");
    let file = SecretFile(dir.path().join("ledger.keys"));
    std::fs::write(&file.0, lines.concat()).expect("written");
    let owner_only = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&file.0, owner_only).expect("set");
    let cipher = ColumnCipher::load(&file).expect("a key list");
    let cell = Cell {
        table: "sessions",
        row: &[1],
        column: "case_ref_at_rest",
    };
    let stored = cipher.seal(cell, b"2026-0417", &mut os_rng());
    assert_eq!(*cipher.open(cell, &stored).expect("opens"), b"2026-0417");
    assert!(stored[1..5] == hex::decode(&lines[0][..8]).expect("an id"));
}

/// Runs the binary in a folder, without what its environment may say.
fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sotto-broker"))
        .args(args)
        .current_dir(dir)
        .env_clear()
        .output()
        .expect("ended")
}

const PLANT: &str = "audit plant euro-cyber --seed-file plant.seed --type email --holder de-bka \
                     --prober nl-fiu --count 100 --decoys 50";

/// As [`run`], of `audit plant` and more.
fn plant(dir: &Path, more: &[&str]) -> Output {
    let args: Vec<_> = PLANT
        .split_whitespace()
        .chain(more.iter().copied())
        .collect();
    run(dir, &args)
}

fn lines(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).expect("read");
    text.lines().map(ToOwned::to_owned).collect()
}

/// A row of `sotto-node hits ls --output json`.
fn hit(value: &str, holder: &str) -> serde_json::Value {
    let now = SystemClock.now();
    let hit = HitId::generate(now, &mut os_rng()).to_string();
    serde_json::json!({
        "hit": hit, "policy": "email/1", "holder": holder, "state": "NEW", "dataset": "d",
        "record": "d#1", "value": value, "first_seen": now.to_string(), "verified": false,
        "leaf": null,
    })
}

#[test]
fn what_is_planted_goes_to_its_owners_files_and_the_same_seed_makes_it_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let refused = plant(dir, &["--out-dir", "one"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && text.contains("--new-seed"),
        "{text}"
    );
    assert!(!dir.join("one").exists());
    let made = plant(dir, &["--out-dir", "one", "--new-seed"]);
    assert!(made.status.success(), "{made:?}");
    let said = String::from_utf8(made.stdout).expect("UTF-8");
    assert!(
        said.contains("dataset import NAME --type email holder-de-bka.txt"),
        "{said}"
    );
    assert!(said.contains("suppresses 3 % or more"), "{said}");
    let seed = std::fs::read_to_string(dir.join("plant.seed")).expect("a seed");
    for name in [
        "plant.seed",
        "one/holder-de-bka.txt",
        "one/prober-nl-fiu.txt",
        "one/plan.json",
    ] {
        let permissions = dir.join(name).metadata().expect("there").permissions();
        assert_eq!(permissions.mode() & 0o777, 0o600, "{name}");
        let text = std::fs::read_to_string(dir.join(name)).expect("read");
        assert_eq!(text.contains(seed.trim()), name == "plant.seed", "{name}");
    }
    let holder = lines(&dir.join("one/holder-de-bka.txt"));
    let prober = lines(&dir.join("one/prober-nl-fiu.txt"));
    assert_eq!((holder.len(), prober.len()), (100, 150));
    assert!(holder.is_subset(&prober));
    assert!(holder.iter().all(|line| !said.contains(line.as_str())));

    // Nothing is written over; the same again is the same, and other numbers are others.
    assert!(!plant(dir, &["--out-dir", "one"]).status.success());
    assert!(plant(dir, &["--out-dir", "two"]).status.success());
    assert_eq!(lines(&dir.join("two/holder-de-bka.txt")), holder);
    let next = ["--out-dir", "three", "--first", "100"];
    assert!(plant(dir, &next).status.success());
    assert!(lines(&dir.join("three/prober-nl-fiu.txt")).is_disjoint(&prober));
    let phones = PLANT.replace("email", "phone");
    let args: Vec<_> = phones
        .split_whitespace()
        .chain(["--out-dir", "four"])
        .collect();
    let refused = run(dir, &args);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("plant email or domain"));
}

#[test]
fn a_planted_hit_that_is_missing_is_told_by_its_number_and_ends_with_4() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    assert!(
        plant(dir, &["--out-dir", "out", "--new-seed"])
            .status
            .success()
    );
    let planted = lines(&dir.join("out/holder-de-bka.txt"));
    let mut hits: Vec<_> = planted.iter().map(|value| hit(value, "de-bka")).collect();
    hits.push(hit("somebody@example.com", "de-bka"));
    let compare = |hits: &[serde_json::Value], more: &[&str]| {
        let text = serde_json::to_string(hits).expect("JSON");
        std::fs::write(dir.join("hits.json"), text).expect("written");
        let args = [
            "audit",
            "planted",
            "--plan",
            "out/plan.json",
            "--hits",
            "hits.json",
        ];
        run(dir, &[&args[..], more].concat())
    };
    let whole = compare(&hits, &[]);
    assert!(whole.status.success(), "{whole:?}");
    let said = String::from_utf8(whole.stdout).expect("UTF-8");
    assert!(
        said.contains("100 planted, 100 reported, 0 missing"),
        "{said}"
    );
    let words = "a broker that suppresses 3 % or more of the hits would have been caught with 95 %";
    assert!(said.contains(words), "{said}");

    let gone = hits.remove(17)["value"]
        .as_str()
        .expect("a value")
        .to_owned();
    let lacking = compare(&hits, &[]);
    assert_eq!(lacking.status.code(), Some(4));
    let said = String::from_utf8(lacking.stdout).expect("UTF-8");
    assert!(said.contains("99 reported, 1 missing"), "{said}");
    assert!(!said.contains("planted.invalid"), "{said}");
    let text = String::from_utf8(lacking.stderr).expect("UTF-8");
    assert!(
        text.contains("1 of 100 planted hits were not reported"),
        "{text}"
    );
    let shown = compare(&hits, &["--show-values"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&gone));

    let machine = compare(&hits, &["--output", "json"]);
    assert_eq!(machine.status.code(), Some(4));
    let said: serde_json::Value = serde_json::from_slice(&machine.stdout).expect("JSON");
    assert_eq!(said["reported"], 99);
    assert_eq!(said["missing"], 1);
    assert!(
        said["high_95"]
            .as_f64()
            .is_some_and(|high| (0.05..0.06).contains(&high))
    );
    assert!(said.get("missing_values").is_none());
}
