//! The largest file there is, through real processes: none of them ever has it whole in memory.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sotto_common::error::ErrorCode;
use sotto_common::followup::attachment::MAX_SIZE;
use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_proto::v1;
use sotto_tests::desk::{answer, state_of};
use sotto_tests::program::peak_kb;
use sotto_tests::{Unit, assert_refused};
use tonic::{Code, Status};
use v1::add_follow_up_attachment_request::Part;

use super::life::{accepted, confirmed, processes};

/// Bytes of a message.
const CHUNK: u64 = 256 * 1024;

/// What a process may need beyond its peak before, whatever the length of the file.
const MOST_KB: u64 = 64 * 1024;

/// How long the file may take to the other side: only a test that hangs takes so long.
const PATIENCE: Duration = Duration::from_mins(30);

/// The chunk of this number, generated: nobody holds the file here either. Each block of it begins with a
/// number of its own, so that no two can be swapped.
fn chunk(number: u64) -> Vec<u8> {
    const BLOCK: usize = 4096;
    let blocks = CHUNK / BLOCK as u64;
    let mut bytes = vec![0xa5; usize::try_from(CHUNK).expect("small")];
    for (block, own) in bytes.chunks_exact_mut(BLOCK).zip(number * blocks..) {
        block[..8].copy_from_slice(&own.to_le_bytes());
    }
    bytes
}

/// Adds a file of a size to the answer, of which so many chunks are sent; returns its id.
async fn attach(unit: &Unit, id: &[u8], size: u64, chunks: u64) -> Result<Vec<u8>, Status> {
    let begin = Part::Begin(v1::AttachmentDescription {
        follow_up_id: id.to_vec().into(),
        name: "image.raw".into(),
        size,
        ..Default::default()
    });
    let chunks = (0..chunks).map(|number| Part::Chunk(chunk(number).into()));
    let parts = std::iter::once(begin).chain(chunks);
    let parts = parts.map(|part| v1::AddFollowUpAttachmentRequest { part: Some(part) });
    let stream = tokio_stream::iter(parts);
    let added = unit.drafter().add_follow_up_attachment(stream).await?;
    Ok(added.into_inner().attachment_id.to_vec())
}

/// Bytes and SHA-256 of a file of the answer.
async fn read(unit: &Unit, id: &[u8], attachment: &[u8]) -> (u64, [u8; 32]) {
    let request = v1::ReadFollowUpAttachmentRequest {
        follow_up_id: id.to_vec().into(),
        attachment_id: attachment.to_vec().into(),
        why: String::new(),
    };
    let mut drafter = unit.drafter();
    let answer = drafter.read_follow_up_attachment(request).await;
    let mut stream = answer.expect("answered").into_inner();
    let (mut bytes, mut hasher) = (0, Sha256::new());
    while let Some(part) = stream.message().await.expect("read") {
        bytes += part.chunk.len() as u64;
        hasher.update(&part.chunk);
    }
    (bytes, hasher.finalize().into())
}

/// Waits until the answer is with its requester.
async fn answered(unit: &Unit, id: &[u8]) {
    let come = async {
        loop {
            let case = unit.case(id).await.expect("answered");
            let view = case.and_then(|case| case.follow_up);
            if view.is_some_and(|view| state_of(&view) == FollowUpState::Answered) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, come).await;
    in_time.expect("the answer never came");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "moves 1 GiB through three processes: minutes, and 3 GiB below the temporary folder"]
async fn a_file_of_1_gib_goes_through_three_processes_and_none_of_them_holds_it() {
    let (broker, units) = processes("exec \"$@\"").await;
    let hits = confirmed(&units, 1).await;
    let [nl, de] = &units;
    let id = accepted(nl, de, &hits[0]).await;
    let peaks = || [broker.pid(), nl.pid(), de.pid()].map(peak_kb);
    let before = peaks();

    let larger = attach(de, &id, MAX_SIZE + 1, 0).await;
    assert_refused(larger, Code::InvalidArgument, ErrorCode::InvalidField);
    let chunks = MAX_SIZE / CHUNK;
    let attached = attach(de, &id, MAX_SIZE, chunks).await.expect("taken");
    let proposed = de.propose(&id, FollowUpStep::Answer, answer()).await;
    let proposed = proposed.expect("proposed");
    de.approve(&proposed).await.expect("approved");
    answered(nl, &id).await;
    let mut sent = Sha256::new();
    for number in 0..chunks {
        sent.update(chunk(number));
    }
    let expected: (u64, [u8; 32]) = (MAX_SIZE, sent.finalize().into());
    assert!(read(nl, &id, &attached).await == expected, "it is whole");

    let after = peaks();
    for (number, name) in ["broker", "requester's node", "holder's node"]
        .into_iter()
        .enumerate()
    {
        let (before, after) = (before[number], after[number]);
        println!("peak of memory of the {name}: {before} kB before the file, {after} kB with it");
    }
    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before <= MOST_KB, "{before} kB, then {after} kB");
    }
}
