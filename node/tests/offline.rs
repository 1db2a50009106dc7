//! The real binary, for the commands that need no service.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn sotto_node(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sotto-node"));
    command.args(args).env_remove("SOTTO_NODE_CLIENT");
    command
}

fn run(args: &[&str], input: &[u8]) -> Output {
    let mut child = sotto_node(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // Beside the reading, so that neither pipe fills up. The program may well not read it all.
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("ended");
    writing.join().expect("written");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn normalised(args: &[&str], input: &[u8]) -> String {
    let args: Vec<_> = ["normalise"].iter().chain(args).copied().collect();
    let output = run(&args, input);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn normalise_gives_one_line_for_each_line() {
    let input = b"\xef\xbb\xbf06 12345678\r\n\r\n+31\xff6\ncall me\ntel:+44-20-7946-0958";
    assert_eq!(
        normalised(&["--type", "phone", "--region", "nl"], input),
        "+31612345678\n!empty\n!malformed\n!malformed\n+442079460958\n"
    );
    assert_eq!(
        normalised(&["--type", "phone/1"], b"06 12345678\n"),
        "!needs_region\n"
    );
    assert_eq!(normalised(&["--type", "ip"], b""), "");
}

#[test]
fn normalise_bounds_the_length_of_lines() {
    let mut input = b" ".repeat(2000);
    input.extend(b"192.31.196.1\n");
    input.extend(b"1".repeat(1025));
    input.push(b'\n');
    input.extend(b"1".repeat(20_000_000));
    assert_eq!(
        normalised(&["--type", "ip"], &input),
        "192.31.196.1\n!too_long\n!too_long\n"
    );
}

#[test]
fn normalise_applies_the_stop_list_only_if_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let own = dir.path().join("stop.txt");
    std::fs::write(&own, "ip/1 192.31.196.1\n").expect("written");
    let own = own.to_str().expect("UTF-8");
    let input = b"10.0.0.1\n192.31.196.1\n";
    let kept = "10.0.0.1\n192.31.196.1\n";
    assert_eq!(normalised(&["--type", "ip"], input), kept);
    assert_eq!(
        normalised(&["--type", "ip", "--stop-list"], input),
        "!too_common\n192.31.196.1\n"
    );
    assert_eq!(
        normalised(&["--stop-list", own, "--type", "ip"], input),
        "!too_common\n!too_common\n"
    );
}

#[test]
fn normalise_ends_quietly_when_its_reader_does() {
    let mut child = sotto_node(&["normalise", "--type", "ip"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().expect("piped");
    let lines = b"192.31.196.1\n".repeat(100_000);
    let _ = stdin.write_all(&lines);
    drop(stdin);
    let output = child.wait_with_output().expect("ended");
    assert!(output.status.success());
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn policies_are_listed_in_every_form() {
    let output = run(&["policies", "--output", "json"], b"");
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(list.as_array().map(Vec::len), Some(14));
    assert_eq!(list[0]["policy"], "phone/1");
    for form in ["tsv", "csv", "table"] {
        let printed = text(&run(&["--output", form, "policies"], b"").stdout);
        assert!(printed.contains("vessel_imo/1"), "{form}");
        assert!(!printed.contains('\u{1b}'), "{form} has colours");
    }
    let tsv = text(&run(&["policies", "--output", "tsv"], b"").stdout);
    assert!(tsv.lines().all(|line| line.split('\t').count() == 6));
    assert_eq!(tsv.lines().count(), 14);
}

#[test]
fn usage_errors_and_missing_configurations_have_their_exit_codes() {
    assert_eq!(
        run(&["normalise", "--type", "fax"], b"").status.code(),
        Some(2)
    );
    assert_eq!(run(&[], b"").status.code(), Some(2));
    assert_eq!(run(&["--help"], b"").status.code(), Some(0));
    let mut unset = sotto_node(&["hits", "ls"]);
    let output = unset.env("SOTTO_NODE_CLIENT", "").output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.starts_with("error: ") && stderr.contains("\nhint: "),
        "{stderr}"
    );
    assert!(text(&run(&["--help"], b"").stdout).contains("Exit codes"));
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("there").permissions().mode() & 0o777
}

#[test]
fn init_makes_private_keys_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("node.toml");
    let data = dir.path().join("data \"quoted\"");
    let (config_arg, data_arg) = (
        config.to_str().expect("UTF-8"),
        data.to_str().expect("UTF-8"),
    );
    let first = [
        "init",
        "--config",
        config_arg,
        "--node",
        "nl-fiu",
        "--community",
        "euro-cyber",
        "--data-dir",
        data_arg,
        "--trust-domain",
        "sotto.test",
        "--output",
        "json",
    ];
    let output = run(&first, b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(made["spiffe_id"], "spiffe://sotto.test/node/nl-fiu");
    let fingerprint = made["fingerprint"].as_str().expect("a text");
    assert!(text(&output.stderr).contains("member pin"));

    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("keys")), 0o700);
    let mut secrets = 0;
    for entry in std::fs::read_dir(data.join("keys")).expect("there") {
        let path = entry.expect("there").path();
        if path.is_file() {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            secrets += 1;
        }
    }
    assert_eq!(secrets, 5);
    assert_eq!(mode(&data.join("tls/node.key")), 0o600);
    let csr = std::fs::read_to_string(data.join("tls/node.csr")).expect("there");
    assert!(csr.contains("CERTIFICATE REQUEST"));

    let key = data.join("tls/node.key");
    let before = std::fs::read(&key).expect("there");
    let again = run(&["init", "--config", config_arg], b"");
    assert_eq!(again.status.code(), Some(1));
    assert!(!text(&again.stdout).contains(fingerprint));
    assert_eq!(std::fs::read(&key).expect("there"), before);
    assert_eq!(run(&first, b"").status.code(), Some(2));
}

#[test]
fn init_gives_a_node_of_an_older_version_the_key_list_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("node.toml");
    let data = dir.path().join("data");
    let arg = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (config, data_arg) = (arg(&config), arg(&data));
    let new = [
        "init",
        "--config",
        &config,
        "--node",
        "nl-fiu",
        "--community",
        "euro-cyber",
        "--data-dir",
        &data_arg,
    ];
    assert!(run(&new, b"").status.success());
    let list = data.join("keys/store.keys");
    let again = ["init", "--config", &config, "--output", "json"];

    // A list that was lost is not replaced by one that opens nothing.
    std::fs::remove_file(&list).expect("removed");
    let refused = run(&again, b"");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("store.keys"));
    assert!(!list.exists());

    // As the version before wrote it.
    for (name, byte) in [
        ("signing", 1),
        ("cosigning", 2),
        ("hpke-x25519", 3),
        ("record-ref", 4),
    ] {
        let file = data.join(format!("keys/{name}.key"));
        std::fs::write(file, [byte; 32]).expect("written");
    }
    let added = run(&again, b"");
    assert!(added.status.success(), "{}", text(&added.stderr));
    assert_eq!(mode(&list), 0o600);
    let sealed = std::fs::read(data.join("keys/signing.key")).expect("there");
    assert_eq!(sealed.len(), 77);
    let before = std::fs::read(&list).expect("there");
    assert_eq!(run(&again, b"").status.code(), Some(1));
    assert_eq!(std::fs::read(&list).expect("there"), before);
}

#[test]
fn a_new_key_is_a_line_of_a_key_list() {
    let line = text(&run(&["store", "new-key"], b"").stdout);
    let words: Vec<_> = line.trim_end().split(' ').collect();
    assert_eq!(
        words.iter().map(|word| word.len()).collect::<Vec<_>>(),
        [8, 64]
    );
}
