//! A node whose disk is full while a file comes to it: refused with what to do, nothing kept, and
//! whole once there is room. The limit on the size of files stands in for the disk.

use sotto_common::error::ErrorCode;
use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_tests::desk::answer;
use sotto_tests::program::{FAIL_BEYOND_LIMIT, limit_files};
use sotto_tests::{Unit, assert_refused};
use tonic::{Code, Status};

use super::life::{accepted, at, confirmed, processes, until};

/// Room for the node's own database, and not for the file.
const LIMIT: &str = "16777216";

/// Bytes of the file.
const SIZE: u32 = 24 << 20;

/// Files that wait on a node's disk.
fn spooled(unit: &Unit) -> usize {
    let folder = unit.data_dir().join("attachments");
    std::fs::read_dir(folder).expect("a folder").count()
}

/// Waits until no file waits on a node's disk any more: it may clear away once it has answered.
async fn none_spooled(unit: &Unit) {
    until(async || spooled(unit) == 0).await;
}

fn assert_says_what_to_do<T: std::fmt::Debug>(refused: Result<T, Status>) {
    let status = assert_refused(refused, Code::Unavailable, ErrorCode::Unavailable);
    assert!(status.message().contains("have room made"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_fit_on_either_nodes_disk_goes_through_once_there_is_room() {
    let (_broker, units) = processes(FAIL_BEYOND_LIMIT).await;
    let hits = confirmed(&units, 1).await;
    let [nl, de] = &units;
    let id = accepted(nl, de, &hits[0]).await;
    let file: Vec<u8> = (0..SIZE).map(|n| (n % 251).to_le_bytes()[0]).collect();

    limit_files(de.pid(), LIMIT);
    let refused = de.attach(&id, "report.pdf", &file).await;
    assert_says_what_to_do(refused);
    none_spooled(de).await;
    limit_files(de.pid(), "unlimited");
    let attached = de.attach(&id, "report.pdf", &file).await;
    let attached = attached.expect("there is room");
    assert_eq!(spooled(de), 1, "the first try has left nothing");
    let proposed = de.propose(&id, FollowUpStep::Answer, answer()).await;
    let proposed = proposed.expect("proposed");
    de.approve(&proposed).await.expect("approved");
    let view = at(nl, &id, FollowUpState::Answered).await;
    assert!(view.alarm.is_empty(), "{}", view.alarm);

    limit_files(nl.pid(), LIMIT);
    let refused = nl.read_file(&id, &attached).await;
    assert_says_what_to_do(refused.map(|bytes| bytes.len()));
    none_spooled(nl).await;
    limit_files(nl.pid(), "unlimited");
    let bytes = nl.read_file(&id, &attached).await.expect("there is room");
    assert!(bytes == file, "the file is whole");
    for unit in [nl, de] {
        none_spooled(unit).await;
    }
}
