//! The real binary, for the commands that need no service.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use sotto_common::random::os_rng;
use sotto_common::service::at_rest::{Cell, ColumnCipher};
use sotto_common::service::config::SecretFile;

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
