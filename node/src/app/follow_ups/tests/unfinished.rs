//! Files that break off on their way from a person to the node.

use std::path::PathBuf;

use futures::{Stream, StreamExt as _, future, stream};
use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::attachment::AttachmentHasher;
use sotto_common::ids::AttachmentId;
use sotto_common::sealed::Suite;
use sotto_common::secret::{Confidential, Secret};
use sotto_common::testing::kill::killed_after;
use sotto_proto::convert::follow_up::read_attachment;
use tokio::sync::Notify;

use super::files::{LONG, answer_with_files, content};
use super::*;
use crate::app::follow_ups::attachments::Announcement;
use crate::store::StoredAttachment;

/// How much is sent at a time.
const CHUNK: usize = 50_000;

/// A file with its digest.
fn announced(bytes: &[u8]) -> Announcement {
    Announcement {
        name: Confidential::new("report.pdf"),
        size: bytes.len() as u64,
        content: Some(Secret::new(Sha256::digest(bytes).into())),
    }
}

fn chunks(bytes: &[u8]) -> impl Stream<Item = Result<Bytes>> + Unpin + Send + use<> {
    let chunks = bytes.chunks(CHUNK).map(|c| Ok(Bytes::copy_from_slice(c)));
    stream::iter(chunks.collect::<Vec<_>>())
}

/// What a stream ends with whose sender is gone.
fn gone() -> impl Stream<Item = Result<Bytes>> + Unpin + Send {
    stream::iter([Err(Error::unavailable("the connection is gone"))])
}

fn offset(at: u64) -> usize {
    usize::try_from(at).expect("small")
}

impl Lab {
    /// Sends a file from an offset on.
    async fn send(&self, by: &str, id: FollowUpId, bytes: &[u8], at: u64) -> Result<AttachmentId> {
        let rest = chunks(&bytes[offset(at)..]);
        let file = &announced(bytes);
        self.holds.add_file(person(by), id, file, at, rest).await
    }

    /// Sends as much of a file and breaks off.
    async fn break_off(&self, id: FollowUpId, bytes: &[u8], after: usize) {
        let part = chunks(&bytes[..after]).chain(gone());
        let file = &announced(bytes);
        let broken = self.holds.add_file(person(ALICE), id, file, 0, part);
        let error = broken.await.expect_err("broken off");
        assert_eq!(error.code, ErrorCode::Unavailable);
    }

    /// How much the node has of a person's files that broke off.
    fn acknowledged(&self, by: &str, id: FollowUpId) -> Vec<u64> {
        let unfinished = self.holds.unfinished_files(person(by), id);
        unfinished.iter().map(|file| file.acknowledged).collect()
    }

    fn sealed(&self, file: AttachmentId) -> PathBuf {
        self.holds.attachments_dir.join(format!("{file}.sealed"))
    }

    /// The files of the answer; the sealed bytes of each are those that the answer would name.
    async fn whole(&self, id: FollowUpId) -> Vec<StoredAttachment> {
        let files = self.holds.store.attachments(id).await.expect("read");
        for file in &files {
            let (clear, clear_digest) = read_attachment(&file.clear).expect("a clear part");
            let sealed = std::fs::read(self.sealed(file.id)).expect("on the disk");
            assert_eq!(sealed.len() as u64, clear.sealed_size());
            let suite = Suite::X25519Sha256ChaCha20Poly1305;
            let mut hasher = AttachmentHasher::new(&clear_digest, suite, &file.enc);
            hasher.update(&sealed);
            assert_eq!(hasher.finish(), file.digest);
        }
        files
    }
}

#[tokio::test]
async fn a_file_that_was_cut_goes_on_from_where_it_was_and_comes_whole() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    let bytes = content(LONG);
    lab.break_off(id, &bytes, 2 * CHUNK).await;
    let begun = 2 * CHUNK as u64;
    assert_eq!(lab.acknowledged(ALICE, id), [begun]);
    assert!(lab.acknowledged(BOB, id).is_empty());
    assert!(lab.whole(id).await.is_empty(), "it is none of the answer's");
    assert_eq!(lab.spooled(), 1);
    for (by, at, here) in [
        (ALICE, begun - 1, begun),
        (ALICE, begun + 1, begun),
        (BOB, begun, 0),
    ] {
        let error = lab.send(by, id, &bytes, at).await.expect_err("refused");
        assert_eq!(error.code, ErrorCode::OffsetMismatch);
        assert_eq!(error.subject.as_deref(), Some(&*here.to_string()));
    }
    let file = lab.send(ALICE, id, &bytes, begun).await.expect("whole");
    let files = lab.whole(id).await;
    let digest = Secret::<32>::new(Sha256::digest(&bytes).into());
    assert_eq!((files.len(), files[0].id), (1, file));
    assert_eq!(files[0].content_digest, Some(digest));
    assert!(lab.acknowledged(ALICE, id).is_empty());
    lab.step(&lab.holds, id, FollowUpStep::Answer, answer_with_files())
        .await;
    assert_eq!(lab.read(id, file).await.expect("read"), bytes);
}

#[tokio::test]
async fn a_file_that_is_dropped_anywhere_goes_on_or_is_whole() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    let bytes = content(LONG);
    for waits in 0.. {
        // Shown where the test fails.
        println!("dropped after {waits} waits");
        let sent = killed_after(waits, lab.send(ALICE, id, &bytes, 0)).await;
        if lab.whole(id).await.is_empty() {
            let at = lab.acknowledged(ALICE, id).pop().unwrap_or(0);
            let goes_on = lab.send(ALICE, id, &bytes, at).await;
            goes_on.expect("whole");
        }
        for file in lab.whole(id).await {
            let digest = Secret::<32>::new(Sha256::digest(&bytes).into());
            assert_eq!(file.content_digest, Some(digest));
            let out = lab.holds.take_file_out(person(ALICE), id, file.id);
            out.await.expect("taken out");
        }
        if sent.is_some() {
            assert!(waits > 0, "it was never dropped");
            break;
        }
    }
}

#[tokio::test]
async fn another_file_of_a_name_begins_anew() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    let (first, mut second) = (content(LONG), content(LONG));
    second[LONG - 1] ^= 1;
    lab.break_off(id, &first, CHUNK).await;
    let at = CHUNK as u64;
    let error = lab.send(ALICE, id, &second, at).await;
    assert_eq!(error.expect_err("refused").code, ErrorCode::OffsetMismatch);
    assert_eq!((lab.acknowledged(ALICE, id), lab.spooled()), (vec![], 0));
    lab.break_off(id, &second, 2 * CHUNK).await;
    assert_eq!(lab.acknowledged(ALICE, id), [2 * at]);
    // Sent from its beginning although it need not be.
    let file = lab.send(ALICE, id, &second, 0).await.expect("whole");
    assert_eq!((lab.whole(id).await.len(), lab.spooled()), (1, 1));
    lab.step(&lab.holds, id, FollowUpStep::Answer, answer_with_files())
        .await;
    assert_eq!(lab.read(id, file).await.expect("read"), second);
}

#[tokio::test]
async fn a_file_that_changed_while_it_was_sent_leaves_nothing() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    let mut bytes = content(LONG);
    let file = &announced(&bytes);
    lab.break_off(id, &bytes, CHUNK).await;
    bytes[LONG - 1] ^= 1;
    let rest = chunks(&bytes[CHUNK..]);
    let sent = lab
        .holds
        .add_file(person(ALICE), id, file, CHUNK as u64, rest);
    let error = sent.await.expect_err("refused");
    assert_eq!(error.code, ErrorCode::InvalidField);
    assert_eq!(error.subject.as_deref(), Some("sha256"));
    assert_eq!((lab.acknowledged(ALICE, id), lab.spooled()), (vec![], 0));
}

#[tokio::test]
async fn a_second_call_goes_on_where_the_first_one_hangs() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    let bytes = content(LONG);
    let reached = &Notify::new();
    let hangs = stream::once(async move {
        reached.notify_one();
        future::pending::<Result<Bytes>>().await
    });
    let part = chunks(&bytes[..CHUNK]).chain(hangs.boxed());
    let file = &announced(&bytes);
    let first = lab.holds.add_file(person(ALICE), id, file, 0, part);
    let second = async {
        reached.notified().await;
        let [at] = lab.acknowledged(ALICE, id)[..] else {
            panic!("one has broken off");
        };
        assert_eq!(at, CHUNK as u64);
        lab.send(ALICE, id, &bytes, at).await
    };
    let (first, second) = future::join(first, second).await;
    assert_eq!(first.expect_err("stopped").code, ErrorCode::Unavailable);
    let second = second.expect("whole");
    let files = lab.whole(id).await;
    assert_eq!((files.len(), files[0].id), (1, second));
}

#[tokio::test]
async fn what_broke_off_goes_after_a_day_and_with_the_answer() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    let bytes = content(LONG);
    let left = || (lab.acknowledged(ALICE, id).len(), lab.spooled());
    lab.break_off(id, &bytes, CHUNK).await;
    lab.clock.advance(HOUR * 23);
    lab.holds.erase_follow_ups().await.expect("done");
    assert_eq!(left(), (1, 1));
    lab.clock.advance(HOUR);
    lab.holds.erase_follow_ups().await.expect("done");
    assert_eq!(left(), (0, 0));

    lab.break_off(id, &bytes, CHUNK).await;
    lab.propose(&lab.holds, id, FollowUpStep::Answer, answer())
        .await;
    assert_eq!(left(), (1, 1));
    let waits = proposal(&lab.at(&lab.holds, id).await);
    let discarded = lab
        .holds
        .discard_step(person(ALICE), id, waits, "another answer");
    discarded.await.expect("taken back");
    assert_eq!(left(), (0, 0));

    lab.break_off(id, &bytes, CHUNK).await;
    lab.step(&lab.holds, id, FollowUpStep::Answer, answer())
        .await;
    assert_eq!(left(), (0, 0));
}

#[tokio::test]
async fn at_most_8_files_of_each_person_that_broke_off_are_kept() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    // What one has begun stays whatever another begins.
    for (by, count) in [(BOB, 2), (ALICE, 10)] {
        for number in 0..count {
            let file = &Announcement {
                name: Confidential::new(format!("{number}.pdf")),
                ..announced(&content(100))
            };
            let part = chunks(&[0; 10]).chain(gone());
            let broken = lab.holds.add_file(person(by), id, file, 0, part);
            broken.await.expect_err("broken off");
        }
    }
    let kept = lab.holds.unfinished_files(person(ALICE), id);
    assert_eq!((kept.len(), lab.spooled()), (8, 10));
    assert_eq!(kept[0].file.name.expose(), "2.pdf");
    assert_eq!(lab.acknowledged(BOB, id).len(), 2);
}
