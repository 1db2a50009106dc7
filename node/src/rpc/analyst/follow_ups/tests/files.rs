//! Files that go with an answer, part by part.

use futures::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use sotto_common::followup::FollowUpStep;

use super::super::{MAX_CHUNK, Part};
use super::*;
use crate::app::follow_ups::tests::empty;

fn part(part: Part) -> v1::AddFollowUpAttachmentRequest {
    v1::AddFollowUpAttachmentRequest { part: Some(part) }
}

fn chunk(length: usize) -> v1::AddFollowUpAttachmentRequest {
    part(Part::Chunk(vec![1; length].into()))
}

fn begin(follow_up_id: &Bytes, name: &str, size: u64) -> v1::AddFollowUpAttachmentRequest {
    part(Part::Begin(v1::AttachmentDescription {
        follow_up_id: follow_up_id.clone(),
        name: name.into(),
        size,
        ..Default::default()
    }))
}

#[tokio::test]
async fn a_file_begins_with_what_it_is() {
    let lab = Lab::start(&[EMAIL]).await;
    let mut node = node(&lab.holds);
    for parts in [
        vec![],
        vec![v1::AddFollowUpAttachmentRequest::default()],
        vec![chunk(8)],
    ] {
        let told = node.add_follow_up_attachment(stream::iter(parts)).await;
        assert_eq!(refusal(told), field("begin"));
    }
    for id in no_ids() {
        let parts = vec![begin(&id, "a.pdf", 8), chunk(8)];
        let told = node.add_follow_up_attachment(stream::iter(parts)).await;
        assert_eq!(refusal(told), field("follow_up_id"));
    }
    for name in [String::new(), longer_than(255), acting()] {
        let parts = vec![begin(&nobodys(), &name, 8), chunk(8)];
        let told = node.add_follow_up_attachment(stream::iter(parts)).await;
        assert_eq!(refusal(told), field("name"));
    }
    let short = part(Part::Begin(v1::AttachmentDescription {
        follow_up_id: nobodys(),
        name: "a.pdf".into(),
        sha256: Bytes::from_static(SENT.as_bytes()),
        ..Default::default()
    }));
    let told = node.add_follow_up_attachment(stream::iter([short])).await;
    assert_eq!(refusal(told), field("sha256"));
}

#[tokio::test]
async fn a_file_that_does_not_come_as_announced_leaves_nothing() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.received().await;
    lab.step(&lab.holds, id, FollowUpStep::Accept, empty())
        .await;
    let mut node = node(&lab.holds);
    let begins = |size| begin(&wire(id), SENT, size);
    let large = 5 * MAX_CHUNK;
    for (parts, name) in [
        (vec![begins(u64::MAX)], "size"),
        (vec![begins(8)], "size"),
        (vec![begins(8), chunk(7)], "size"),
        (vec![begins(8), chunk(8), chunk(1)], "size"),
        (vec![begins(8), chunk(0)], "chunk"),
        (vec![begins(large as u64), chunk(MAX_CHUNK + 1)], "chunk"),
        (vec![begins(8), begins(8)], "chunk"),
        // More than a message may have.
        (vec![begins(large as u64), chunk(large)], "message"),
    ] {
        let told = node.add_follow_up_attachment(stream::iter(parts)).await;
        assert_eq!(refusal(told), field(name));
    }
    let kept = lab.holds.store.attachments(id).await.expect("read");
    assert!(kept.is_empty());
    let spooled = std::fs::read_dir(&lab.holds.attachments_dir).expect("read");
    assert_eq!(spooled.count(), 0);
}

#[tokio::test]
async fn a_file_whose_call_is_cut_is_told_as_far_as_it_came_and_gone_on_with_from_there() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.received().await;
    lab.step(&lab.holds, id, FollowUpStep::Accept, empty())
        .await;
    let mut node = node(&lab.holds);
    let content = [1_u8; 10];
    let sends = |offset: u64, bytes: &[u8]| {
        let begin = Part::Begin(v1::AttachmentDescription {
            follow_up_id: wire(id),
            name: "a.pdf".into(),
            size: content.len() as u64,
            sha256: Sha256::digest(content).to_vec().into(),
            offset,
        });
        let chunk = Part::Chunk(bytes.to_vec().into());
        stream::iter([begin, chunk].map(part))
    };
    let hanging = sends(0, &content[..4]).chain(stream::pending());
    let alice = Caller::of_test(ALICE);
    let taken = async {
        while lab.holds.unfinished_files(&alice, id).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = node.add_follow_up_attachment(hanging) => panic!("it does not end"),
        () = taken => {}
    }
    let list = v1::ListFollowUpAttachmentsRequest {
        follow_up_id: wire(id),
        ..Default::default()
    };
    let told = node.list_follow_up_attachments(list.clone()).await;
    let told = told.expect("listed").into_inner();
    assert!(told.attachments.is_empty());
    let [unfinished] = &told.unfinished[..] else {
        panic!("one: {told:?}");
    };
    assert_eq!((unfinished.name.as_str(), unfinished.size), ("a.pdf", 10));
    let digest = Sha256::digest(content).to_vec();
    assert_eq!(unfinished.sha256.to_vec(), digest);
    assert_eq!(unfinished.acknowledged, 4);

    let told = node.add_follow_up_attachment(sends(5, &content[5..])).await;
    let elsewhere = (ErrorCode::OffsetMismatch, "4".to_owned());
    assert_eq!(refusal(told), elsewhere);
    let added = node.add_follow_up_attachment(sends(4, &content[4..])).await;
    added.expect("whole");
    let told = node.list_follow_up_attachments(list).await;
    let told = told.expect("listed").into_inner();
    assert_eq!((told.attachments.len(), told.unfinished.len()), (1, 0));
    assert!(!told.attachments[0].bytes_missing);
}
