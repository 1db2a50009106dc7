use std::fs;
use std::path::Path;

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use sotto_common::dsse::SigningKey;
use sotto_common::followup::codes::{Item, TimeLimit};
use sotto_common::followup::record::NO_PREVIOUS;
use sotto_common::followup::step::{StepClear, Terms};
use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_common::ids::{FollowUpId, HitId};
use sotto_common::membership::MemberKeys;
use sotto_common::random::os_rng;
use sotto_common::sealed::HpkeKeyPair;
use sotto_common::time::Timestamp;
use sotto_proto::convert::follow_up::make_step;
use tempfile::TempDir;

use super::*;

mod logged;

/// What signs the list of digests.
fn sign_list(key: &SigningKey, list: &[u8]) -> v1::DsseEnvelope {
    key.sign(StatementKind::FollowUpBundle, list.to_vec())
        .into()
}

/// A bundle of a request that was submitted and taken back, and the key that exported it.
fn bundle() -> (TempDir, SigningKey) {
    let (requester, mut manifest) = crate::testing::manifest(3);
    let holder = SigningKey::generate(&mut os_rng());
    let mut row: MemberKeys = manifest.members[0].clone();
    row.node = "de-bka".parse().expect("a node");
    row.signing = holder.verifying_key();
    manifest.members.push(row);
    let now = Timestamp::from_seconds(2_000);
    let step = |seq, previous, state, detail| StepClear {
        community: manifest.community.clone(),
        follow_up: FollowUpId::of_vector([7; 16]),
        hit: HitId::generate(now, &mut os_rng()),
        seq,
        previous,
        sender: "nl-fiu".parse().expect("a node"),
        recipient: "de-bka".parse().expect("a node"),
        made_at: now,
        state,
        detail,
    };
    let terms = Terms::new(TimeLimit::Ordinary, None, "A", vec![Item::Identity]).expect("terms");
    let pair = HpkeKeyPair::generate(&mut os_rng());
    let mut submit = step(
        0,
        NO_PREVIOUS,
        FollowUpState::Submitted,
        StepDetail::Submit(terms),
    );
    submit.follow_up = FollowUpId::generate(now, &mut os_rng());
    let (follow_up, hit) = (submit.follow_up, submit.hit);
    let made = make_step(submit, Some(b"tags"), pair.public(), &mut os_rng()).expect("made");
    let submit = convert::sign(made, &requester);
    let mut withdraw = step(
        1,
        body_digest(&submit),
        FollowUpState::Withdrawn,
        StepDetail::Withdraw,
    );
    (withdraw.follow_up, withdraw.hit) = (follow_up, hit);
    let made = make_step(withdraw, None, pair.public(), &mut os_rng()).expect("made");
    let withdraw = convert::sign(made, &requester);
    let keys = serde_json::json!({
        "nl-fiu": { "signing_key": hex::encode(requester.verifying_key().as_bytes()) },
        "de-bka": { "fingerprint": holder.verifying_key().fingerprint().to_string() },
    });
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in [
        ("attachments/report.pdf", b"a report".to_vec()),
        ("dossier.html", b"<html>".to_vec()),
        ("follow-up.json", b"{}".to_vec()),
        ("keys.json", keys.to_string().into_bytes()),
        (
            "manifest.pb",
            convert::sign(manifest.clone(), &requester).encode_to_vec(),
        ),
        ("statements/000-SUBMIT.pb", submit.encode_to_vec()),
        ("statements/001-WITHDRAW.pb", withdraw.encode_to_vec()),
    ] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, content).expect("written");
    }
    seal(folder.path(), &requester);
    (folder, requester)
}

/// Lists the digests of what stands there, and signs the list.
fn seal(folder: &Path, key: &SigningKey) {
    let mut list = String::new();
    for name in files(folder) {
        if !name.starts_with(SUMS) {
            let digest = Sha256::digest(fs::read(folder.join(&name)).expect("read"));
            list.extend([&hex::encode(digest), "  ", &name, "\n"]);
        }
    }
    fs::write(folder.join(SUMS), &list).expect("written");
    let signed = sign_list(key, list.as_bytes()).encode_to_vec();
    fs::write(folder.join(SUMS_SIGNED), signed).expect("written");
}

fn files(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for below in ["", "attachments", "log", "statements"] {
        let Ok(entries) = fs::read_dir(folder.join(below)) else {
            continue;
        };
        for entry in entries {
            let entry = entry.expect("an entry");
            if entry.path().is_file() {
                let path = entry.path();
                let name = path.strip_prefix(folder).expect("below it");
                names.push(name.to_str().expect("UTF-8").to_owned());
            }
        }
    }
    names.sort();
    names
}

fn outcome(folder: &Path) -> Result<Verified> {
    check(&Bundle::open(folder)?, None, &WitnessArgs::default())
}

fn failure(folder: &Path) -> String {
    match outcome(folder) {
        Err(Fault::Failed { text, .. }) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("must fail"),
    }
}

#[test]
fn a_bundle_proves_every_step_and_who_exported_it() {
    let (folder, key) = bundle();
    let verified = outcome(folder.path()).expect("whole");
    assert_eq!(verified.story.state, FollowUpState::Withdrawn);
    assert_eq!(verified.story.steps, 2);
    assert_eq!(verified.caveat(), None);
    assert_eq!(verified.inclusion.verdict(), "none");
    assert_eq!(verified.files, 7);
    assert_eq!(verified.exported_by.as_str(), "nl-fiu");
    assert_eq!(verified.keys[&verified.exported_by], key.verifying_key());
}

#[test]
fn any_byte_that_is_changed_is_detected_and_the_file_named() {
    let (folder, _) = bundle();
    for name in files(folder.path()) {
        let path = folder.path().join(&name);
        let whole = fs::read(&path).expect("read");
        // Every byte of the short files, and a sample of the long ones.
        for at in (0..whole.len()).step_by(1 + whole.len() / 97) {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(&path, changed).expect("written");
            let text = failure(folder.path());
            let named = name.starts_with(SUMS) || text.contains(&name);
            assert!(named, "byte {at} of {name}: {text}");
        }
        fs::write(&path, whole).expect("written");
    }
    assert!(outcome(folder.path()).is_ok());
}

#[test]
fn a_file_more_or_less_is_detected() {
    let (folder, _) = bundle();
    fs::write(folder.path().join("attachments/more"), "x").expect("written");
    assert!(failure(folder.path()).starts_with("attachments/more: "));
    fs::remove_file(folder.path().join("attachments/more")).expect("removed");
    fs::remove_file(folder.path().join("dossier.html")).expect("removed");
    assert!(failure(folder.path()).starts_with("dossier.html: "));
}

#[test]
fn a_list_that_was_signed_anew_does_not_hide_a_step_that_is_gone() {
    let (folder, key) = bundle();
    fs::remove_file(folder.path().join("statements/000-SUBMIT.pb")).expect("removed");
    seal(folder.path(), &key);
    assert!(failure(folder.path()).starts_with("statements/001-WITHDRAW.pb: "));

    let (folder, _) = bundle();
    seal(folder.path(), &SigningKey::generate(&mut os_rng()));
    assert!(failure(folder.path()).contains("not signed by either node"));
    assert_eq!(FollowUpStep::Withdraw.as_str(), "WITHDRAW");
}

/// What the erased one is called.
const ID: &str = "019a1b2c-0000-7000-8000-000000000001";

/// The bundle of the same follow-up after its statements were erased at its exporter.
fn erased_bundle(erased: bool) -> (TempDir, SigningKey) {
    let (folder, key) = bundle();
    for gone in ["statements/000-SUBMIT.pb", "statements/001-WITHDRAW.pb"] {
        fs::remove_file(folder.path().join(gone)).expect("removed");
    }
    let story = serde_json::json!({
        "follow_up": { "shared": {
            "follow_up_id": ID,
            "requester": "nl-fiu",
            "holder": "de-bka",
            "state": "CLOSED",
            "erased": erased,
        } },
        "steps": [{ "seq": 0 }, { "seq": 1 }, { "seq": 2 }],
    });
    fs::write(folder.path().join("follow-up.json"), story.to_string()).expect("written");
    fs::write(folder.path().join(ERASED), "It was erased.").expect("written");
    seal(folder.path(), &key);
    (folder, key)
}

#[test]
fn an_erased_follow_up_is_what_its_exporter_says_and_that_is_said_plainly() {
    let (folder, _) = erased_bundle(true);
    let verified = outcome(folder.path()).expect("whole");
    let story = &verified.story;
    assert_eq!(story.id.to_string(), ID);
    assert_eq!((story.steps, story.state), (3, FollowUpState::Closed));
    let caveat = verified.caveat().expect("a caveat");
    for word in ["erased", "cannot be checked any more", "what nl-fiu says"] {
        assert!(caveat.contains(word), "{caveat}");
    }
    // Whoever signs the bundle is still one of its parties.
    seal(folder.path(), &SigningKey::generate(&mut os_rng()));
    assert!(failure(folder.path()).contains("not signed by either node"));
}

#[test]
fn what_is_called_erased_must_be_so_everywhere() {
    let (folder, _) = erased_bundle(false);
    assert!(failure(folder.path()).starts_with("follow-up.json: "));
    let (folder, key) = bundle();
    fs::write(folder.path().join(ERASED), "It was erased.").expect("written");
    seal(folder.path(), &key);
    assert!(failure(folder.path()).starts_with("statements/000-SUBMIT.pb: "));
    // Without the word of its exporter, statements that are missing are a fault.
    let (folder, key) = erased_bundle(true);
    fs::remove_file(folder.path().join(ERASED)).expect("removed");
    seal(folder.path(), &key);
    assert!(failure(folder.path()).starts_with("statements: "));
}

#[test]
fn a_fingerprint_is_given_with_its_node() {
    let (folder, key) = bundle();
    let wanted = key.verifying_key().fingerprint();
    assert!(fingerprint(&format!("nl-fiu={wanted}")).is_ok_and(|(_, f)| f == wanted));
    assert!(fingerprint("nl-fiu").is_err() && fingerprint("nl-fiu=12").is_err());
    drop(folder);
}
