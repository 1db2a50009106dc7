//! Files that go with an answer, part by part.

use futures::stream;
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
