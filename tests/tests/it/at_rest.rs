//! What the ledger and the object store hold when nobody looks: sealed values, lost filters.

use std::path::Path;

use sotto_common::error::ErrorCode;
use sotto_common::selector::Policy::Phone;
use sotto_common::service::config::SecretFile;
use sotto_proto::v1::PublicationState;
use sotto_tests::ledger::{TestLedger, case_refs_under, filter_files, mapped_files};
use sotto_tests::probe::all_at;
use sotto_tests::sandbox::{found, profile};
use sotto_tests::{Sandbox, TestNode, phones};

/// The case reference that [`TestNode::opening`] gives.
const CASE_REF: &[u8] = b"case-7";

const KEYS: [&str; 2] = [
    "00000001 0101010101010101010101010101010101010101010101010101010101010101",
    "00000002 0202020202020202020202020202020202020202020202020202020202020202",
];

fn key_list(sandbox: &Sandbox, lines: &[&str]) -> SecretFile {
    use std::os::unix::fs::PermissionsExt as _;
    let path = sandbox.path("ledger.keys");
    std::fs::write(&path, lines.join("\n")).expect("written");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, private).expect("set");
    SecretFile(path)
}

async fn sandbox(keys: &[&str]) -> (Sandbox, TestNode) {
    let mut sandbox = Sandbox::on(TestLedger::File).await;
    sandbox.stop().await;
    sandbox.ledger_keys_file = (!keys.is_empty()).then(|| key_list(&sandbox, keys));
    sandbox.start().await;
    let nl = sandbox.node("nl-fiu");
    found(&sandbox.operator(), &profile(), &[&nl]).await;
    (sandbox, nl)
}

fn any_file_holds(folder: &Path, needle: &[u8]) -> bool {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| entry.expect("an entry").path())
        .any(|path| {
            if path.is_dir() {
                any_file_holds(&path, needle)
            } else {
                let content = std::fs::read(&path).expect("read");
                content.windows(needle.len()).any(|window| window == needle)
            }
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn case_references_and_object_keys_are_in_clear_only_without_keys() {
    for (keys, in_clear) in [(&KEYS[..0], true), (&KEYS[..1], false)] {
        let (mut sandbox, nl) = sandbox(keys).await;
        nl.publish(Phone, &phones(0..3)).await;
        let mut probe = nl.open(nl.opening(Phone)).await.expect("opened");
        let answered = probe.batch(0, &nl.pairs(Phone, &phones(0..3))).await;
        answered.expect("answered");
        let object = filter_files(&sandbox.data_dir())
            .into_keys()
            .find(|path| path.starts_with(sandbox.data_dir().join("objects")))
            .expect("an object");
        sandbox.stop().await;
        let object = object.file_name().expect("a name").as_encoded_bytes();
        for needle in [CASE_REF, object] {
            assert_eq!(any_file_holds(&sandbox.data_dir(), needle), in_clear);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_and_what_an_older_one_sealed_is_sealed_anew() {
    let (mut sandbox, nl) = sandbox(&KEYS[..1]).await;
    let opening = nl.opening(Phone);
    let mut probe = nl.open(opening.clone()).await.expect("opened");
    let pairs = nl.pairs(Phone, &phones(0..3));
    let answer = probe.batch(0, &pairs).await.expect("answered");
    let published = nl.publish(Phone, &phones(0..3)).await;
    let under = async |id| case_refs_under(&sandbox.data_dir(), [0, 0, 0, id]).await;
    assert_eq!((under(1).await, under(2).await), (1, 0));

    sandbox.ledger_keys_file = Some(key_list(&sandbox, &[KEYS[1], KEYS[0]]));
    sandbox.restart().await;
    let sealed_anew = async || case_refs_under(&sandbox.data_dir(), [0, 0, 0, 2]).await == 1;
    sandbox.eventually(sealed_anew).await;
    sandbox.ledger_keys_file = Some(key_list(&sandbox, &KEYS[1..]));
    sandbox.restart().await;
    let mut probe = nl.open(opening).await.expect("resumed");
    assert_eq!(probe.batch(0, &pairs).await.expect("answered"), answer);
    nl.withdraw(published).await.expect("withdrawn");
    assert!(filter_files(&sandbox.data_dir()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_filter_keeps_the_broker_from_starting_until_it_is_ended_on_purpose() {
    let (mut sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    de.publish(Phone, &phones(0..3)).await;
    nl.publish(Phone, &phones(0..3)).await;
    sandbox.stop().await;
    // An altered object, whose copy is gone, and a copy that was altered, whose object is good.
    let files = filter_files(&sandbox.data_dir());
    let (copies, objects): (Vec<_>, Vec<_>) = files
        .into_keys()
        .partition(|path| path.starts_with(sandbox.data_dir().join("cache")));
    let publication = |path: &Path| {
        let folder = path.parent().expect("a folder").file_name();
        folder.expect("a name").to_string_lossy().into_owned()
    };
    let lost = publication(&objects[0]);
    std::fs::write(&objects[0], vec![0; 8192]).expect("altered");
    for copy in &copies {
        std::fs::remove_file(copy).expect("removed");
        if !copy.to_string_lossy().ends_with(&lost) {
            std::fs::write(copy, vec![0; 8192]).expect("altered");
        }
    }

    let error = sandbox.try_start().await.expect_err("a filter is lost");
    let text = error.source.expect("a text").to_string();
    assert_eq!(error.code, ErrorCode::Internal);
    assert!(
        text.contains(&lost) && text.contains("--end-lost-filters"),
        "{text}"
    );
    sandbox.end_lost_filters = true;
    sandbox.start().await;
    sandbox.end_lost_filters = false;
    let state = async |node: &TestNode| {
        let listed = node.list_publications(1).await.expect("listed");
        listed.publications[0].state()
    };
    let states = [state(&nl).await, state(&de).await];
    assert!(
        states.contains(&PublicationState::Active) && states.contains(&PublicationState::Expired)
    );
    de.publish(Phone, &phones(0..3)).await;
    let found = nl.find(Phone, &phones(0..9)).await;
    assert_eq!(found, all_at("de-bka", &phones(0..3)));
}

/// Puts zeros in the place of every copy; as `closed` the last run says then that it has left them so.
fn alter_copies(data_dir: &Path, closed: Option<&Path>) {
    use std::os::unix::fs::MetadataExt as _;
    let mut list = String::from("sotto cache 1\n");
    for copy in mapped_files(data_dir) {
        std::fs::remove_file(&copy).expect("removed");
        std::fs::write(&copy, vec![0; 8192]).expect("altered");
        let file = copy.metadata().expect("there");
        let name = copy.file_name().expect("a name").to_string_lossy();
        let (modified, nanos) = (file.mtime(), file.mtime_nsec());
        let (changed, its_nanos) = (file.ctime(), file.ctime_nsec());
        let inode = file.ino();
        let line = format!("{name} 8192 {inode} {modified} {nanos} {changed} {its_nanos}\n");
        list.push_str(&line);
    }
    if let Some(closed) = closed {
        std::fs::write(closed, list).expect("written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_given_from_an_altered_copy_after_an_orderly_end_or_a_kill() {
    let (mut sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    de.publish(Phone, &phones(0..3)).await;
    let held = all_at("de-bka", &phones(0..3));
    let data_dir = sandbox.data_dir();
    let closed = data_dir.join("cache.closed");
    for (killed, altered) in [(false, false), (false, true), (true, false), (true, true)] {
        assert!(!closed.exists(), "it holds for one start");
        sandbox.stop().await;
        assert!(closed.exists());
        if killed {
            std::fs::remove_file(&closed).expect("removed");
        }
        if altered {
            alter_copies(&data_dir, None);
        }
        sandbox.start().await;
        let found = nl.find(Phone, &phones(0..9)).await;
        assert_eq!(found, held, "killed: {killed}, altered: {altered}");
    }

    // One that the disk altered by itself is found in the background.
    sandbox.stop().await;
    alter_copies(&data_dir, Some(&closed));
    sandbox.start().await;
    sandbox
        .eventually(async || nl.find(Phone, &phones(0..9)).await == held)
        .await;
}

/// What the health service says of probes.
async fn probes_are_served(node: &TestNode) -> bool {
    use tonic_health::pb::health_check_response::ServingStatus;
    let mut health = tonic_health::pb::health_client::HealthClient::new(node.channel());
    let request = tonic_health::pb::HealthCheckRequest {
        service: "sotto.v1.ProbeService".into(),
    };
    let said = health.check(request).await.expect("answered").into_inner();
    said.status() == ServingStatus::Serving
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_cannot_be_had_is_never_left_out_and_probes_go_on_once_it_is_back() {
    let (mut sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let values = phones(0..3);
    de.publish(Phone, &values).await;
    let opening = nl.opening(Phone);
    let mut probe = nl.open(opening.clone()).await.expect("opened");
    let pairs = nl.pairs(Phone, &values);
    let answer = probe.batch(0, &pairs).await.expect("answered");
    drop(probe);
    sandbox.stop().await;

    // As after a kill; neither copy nor object is as it was.
    let data_dir = sandbox.data_dir();
    std::fs::remove_file(data_dir.join("cache.closed")).expect("removed");
    alter_copies(&data_dir, None);
    let mut files = filter_files(&data_dir).into_keys();
    let object = files.find(|path| !path.starts_with(data_dir.join("cache")));
    let (object, aside) = (object.expect("an object"), sandbox.path("aside"));
    std::fs::rename(&object, &aside).expect("moved");
    sandbox.start().await;

    let refused = nl.ask(Phone, &values).await.expect_err("awaited");
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(!probes_are_served(&nl).await);
    // What was answered before needs no filter.
    let mut probe = nl.open(opening).await.expect("resumed");
    assert_eq!(probe.batch(0, &pairs).await.expect("repeated"), answer);

    std::fs::rename(&aside, &object).expect("moved back");
    sandbox
        .eventually(async || nl.ask(Phone, &values).await.is_ok())
        .await;
    assert_eq!(nl.find(Phone, &values).await, all_at("de-bka", &values));
    assert!(probes_are_served(&nl).await);
}
