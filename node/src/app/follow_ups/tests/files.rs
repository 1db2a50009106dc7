//! Files that go with an answer.

use futures::{StreamExt as _, stream};
use prost::bytes::Bytes;
use sotto_common::error::{ErrorCode, Result};
use sotto_common::ids::AttachmentId;
use sotto_common::secret::Confidential;

use super::*;
use crate::app::follow_ups::attachments::Announcement;

pub(super) const LONG: usize = 200_000;

pub(super) fn content(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect()
}

/// A file whose digest is not told.
fn announced(name: &str, size: u64) -> Announcement {
    Announcement {
        name: Confidential::new(name),
        size,
        content: None,
    }
}

pub(super) fn answer_with_files() -> v1::FollowUpDraft {
    let mut draft = answer();
    let outcome = &mut draft.outcomes[1];
    (outcome.state, outcome.ground) = (v1::ItemState::Provided.into(), 0);
    let items = &mut draft.answer.as_mut().unwrap().items;
    let mut item = items[0].clone();
    item.item = v1::FollowUpItem::Attachments.into();
    items.push(item);
    draft
}

impl Lab {
    pub(super) async fn accepted(&self) -> FollowUpId {
        let id = self.received().await;
        self.step(&self.holds, id, FollowUpStep::Accept, empty())
            .await;
        id
    }

    pub(super) async fn add(
        &self,
        by: &str,
        id: FollowUpId,
        bytes: &[u8],
        size: u64,
    ) -> Result<AttachmentId> {
        let chunks = bytes.chunks(50_000).map(|c| Ok(Bytes::copy_from_slice(c)));
        let chunks = stream::iter(chunks.collect::<Vec<_>>());
        let file = &announced("report.pdf", size);
        self.holds.add_file(person(by), id, file, 0, chunks).await
    }

    pub(super) async fn read(&self, id: FollowUpId, file: AttachmentId) -> Result<Vec<u8>> {
        let opened = self.asks.open_file(id, file).await?;
        let mut segments = opened.segments().boxed();
        let mut read = Vec::new();
        while let Some(segment) = segments.next().await {
            read.extend_from_slice(&segment?);
        }
        Ok(read)
    }

    /// Names of files below the folders of sealed files.
    pub(super) fn spooled(&self) -> usize {
        let count = |dir: &TempDir| {
            std::fs::read_dir(dir.path().join("attachments"))
                .unwrap()
                .count()
        };
        self.dirs.iter().map(count).sum()
    }
}

#[tokio::test]
async fn files_come_whole_and_nothing_of_them_stays_on_either_disk() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    lab.broker.kept.lock().unwrap().break_after = Some(100_000);
    let mut files = Vec::new();
    for size in [0, 1, 65_536, LONG] {
        let added = lab.add(ALICE, id, &content(size), size as u64).await;
        files.push((added.expect("added"), size));
    }
    lab.step(&lab.holds, id, FollowUpStep::Answer, answer_with_files())
        .await;
    assert_eq!(lab.states(id).await, [FollowUpState::Answered; 2]);
    for (file, size) in files {
        assert_eq!(lab.read(id, file).await.expect("read"), content(size));
    }
    assert_eq!(lab.spooled(), 0);
}

#[tokio::test]
async fn a_file_that_was_swapped_or_cut_is_refused_before_its_first_byte() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    let file = lab
        .add(ALICE, id, &content(LONG), LONG as u64)
        .await
        .unwrap();
    let other = lab
        .add(ALICE, id, &content(LONG), LONG as u64)
        .await
        .unwrap();
    lab.step(&lab.holds, id, FollowUpStep::Answer, answer_with_files())
        .await;
    let key = file.as_bytes().to_vec();
    let whole = lab.broker.kept.lock().unwrap().files[&key].clone();
    let swapped = lab.broker.kept.lock().unwrap().files[&other.as_bytes().to_vec()].clone();
    let mut altered = whole.clone();
    altered.1[150_000] ^= 1;
    for twisted in [altered, swapped] {
        lab.broker
            .kept
            .lock()
            .unwrap()
            .files
            .insert(key.clone(), twisted);
        let error = lab.asks.open_file(id, file).await.err().expect("refused");
        assert_eq!(error.code, ErrorCode::SealInvalid);
    }
    lab.broker.kept.lock().unwrap().files.insert(key, whole);
    assert_eq!(lab.read(id, file).await.expect("read"), content(LONG));
    let unknown = AttachmentId::generate(lab.asks.clock.now(), &mut os_rng());
    let error = lab
        .asks
        .open_file(id, unknown)
        .await
        .err()
        .expect("refused");
    assert_eq!(error.code, ErrorCode::AttachmentUnknown);
}

#[tokio::test]
async fn a_file_of_another_size_than_was_said_leaves_nothing() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    for said in [9, 11] {
        let error = lab
            .add(ALICE, id, &content(10), said)
            .await
            .expect_err("refused");
        assert_eq!(error.code, ErrorCode::InvalidField);
    }
    assert_eq!(lab.spooled(), 0);
    assert!(lab.holds.store.attachments(id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_file_added_to_a_proposal_makes_another_one_of_both_its_authors() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    lab.propose(&lab.holds, id, FollowUpStep::Answer, answer())
        .await;
    let read = proposal(&lab.at(&lab.holds, id).await);
    lab.add(BOB, id, &content(10), 10).await.expect("added");
    let approved = lab.holds.approve_step(person(BOB), id, read).await;
    assert_eq!(
        approved.err().expect("refused").code,
        ErrorCode::FollowUpMismatch
    );
    let waits = lab.at(&lab.holds, id).await;
    let names = waits
        .proposal
        .clone()
        .unwrap()
        .draft
        .answer
        .unwrap()
        .file_names;
    assert_eq!(names[0].name, "report.pdf");
    let approved = lab
        .holds
        .approve_step(person(BOB), id, proposal(&waits))
        .await;
    assert_eq!(approved.err().expect("refused").code, ErrorCode::SamePerson);
}

#[tokio::test]
async fn whoever_gave_a_file_ahead_of_the_proposal_does_not_approve_it() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    lab.add(BOB, id, &content(10), 10).await.expect("added");
    lab.propose(&lab.holds, id, FollowUpStep::Answer, answer_with_files())
        .await;
    let waits = proposal(&lab.at(&lab.holds, id).await);
    let approved = lab.holds.approve_step(person(BOB), id, waits).await;
    assert_eq!(approved.err().expect("refused").code, ErrorCode::SamePerson);
}

#[tokio::test]
async fn what_was_given_is_listed_with_the_digest_of_its_plaintext_at_the_holder_alone() {
    use sha2::{Digest as _, Sha256};
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    for size in [0, 65_536, LONG] {
        let added = lab.add(ALICE, id, &content(size), size as u64).await;
        added.expect("added");
    }
    let given = lab.holds.given_files(&lab.at(&lab.holds, id).await).await;
    let given = given.expect("listed");
    assert_eq!(given.len(), 3);
    for file in given {
        assert_eq!(file.name.expose(), "report.pdf");
        let size = usize::try_from(file.size).expect("small");
        let digest: [u8; 32] = Sha256::digest(content(size)).into();
        let kept = file.content_digest.as_ref().expect("kept");
        assert_eq!(kept.expose(), &digest);
    }
    let elsewhere = lab.asks.given_files(&lab.at(&lab.asks, id).await).await;
    assert_eq!(
        elsewhere.expect_err("refused").code,
        ErrorCode::FollowUpMismatch
    );
}

#[tokio::test]
async fn a_file_is_removed_from_a_proposal_and_no_more_once_it_is_approved() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    let wrong = lab.add(ALICE, id, &content(10), 10).await.expect("added");
    let right = lab.add(ALICE, id, &content(11), 11).await.expect("added");
    lab.propose(&lab.holds, id, FollowUpStep::Answer, answer_with_files())
        .await;
    let read = proposal(&lab.at(&lab.holds, id).await);
    let remove = |file| lab.holds.take_file_out(person(ALICE), id, file);
    remove(wrong).await.expect("removed");
    assert_eq!(lab.spooled(), 1);
    let again = remove(wrong).await.expect_err("refused");
    assert_eq!(again.code, ErrorCode::AttachmentUnknown);
    // What was read named the file.
    let approved = lab.holds.approve_step(person(BOB), id, read).await;
    assert_eq!(
        approved.err().expect("refused").code,
        ErrorCode::FollowUpMismatch
    );
    lab.approve(&lab.holds, id).await;
    let late = remove(right).await.expect_err("refused");
    assert_eq!(late.code, ErrorCode::FollowUpMismatch);
    lab.settle().await;
    let late = remove(right).await.expect_err("refused");
    assert_eq!(late.code, ErrorCode::FollowUpMismatch);
    assert_eq!(lab.states(id).await, [FollowUpState::Answered; 2]);
    assert_eq!(lab.read(id, right).await.expect("read"), content(11));
    let gone = lab.read(id, wrong).await.expect_err("refused");
    assert_eq!(gone.code, ErrorCode::AttachmentUnknown);
}

#[tokio::test]
async fn a_file_that_comes_too_late_leaves_those_of_the_approved_answer() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    let named = lab.add(ALICE, id, &content(10), 10).await.expect("added");
    lab.propose(&lab.holds, id, FollowUpStep::Answer, answer_with_files())
        .await;
    let waits = proposal(&lab.at(&lab.holds, id).await);
    // The answer is approved while the file is still coming.
    let holds = &lab.holds;
    let chunks = stream::once(async move {
        let approved = holds.approve_step(person(BOB), id, waits).await;
        approved.map(|_| Bytes::from_static(b"late"))
    });
    let file = &announced("late.pdf", 4);
    let late = holds.add_file(person(ALICE), id, file, 0, chunks.boxed());
    assert_eq!(
        late.await.expect_err("refused").code,
        ErrorCode::FollowUpMismatch
    );
    assert_eq!(lab.spooled(), 1);
    lab.settle().await;
    assert_eq!(lab.states(id).await, [FollowUpState::Answered; 2]);
    assert_eq!(lab.read(id, named).await.expect("read"), content(10));
}

/// The files of a bundle, in their order.
async fn exported(app: &Arc<App>, id: FollowUpId) -> Vec<(String, Vec<u8>)> {
    let parts = app.export_follow_up(id, true).await.expect("there");
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for part in parts.collect::<Vec<_>>().await {
        let part = part.expect("whole");
        if !part.path.is_empty() {
            files.push((part.path, Vec::new()));
        }
        files.last_mut().unwrap().1.extend_from_slice(&part.chunk);
    }
    files
}

#[tokio::test]
async fn a_bundle_has_every_file_in_its_signed_list() {
    use sha2::{Digest as _, Sha256};
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    lab.add(ALICE, id, &content(10), 10).await.expect("added");
    lab.step(&lab.holds, id, FollowUpStep::Answer, answer_with_files())
        .await;
    let mut files = exported(&lab.asks, id).await;
    let (last, signed) = files.pop().unwrap();
    assert_eq!(last, "SHA256SUMS.dsse");
    let (_, sums) = files.pop().unwrap();
    let envelope: v1::DsseEnvelope = prost::Message::decode(&signed[..]).unwrap();
    let key = lab.asks.keystore.signing().verifying_key();
    let kind = sotto_common::dsse::StatementKind::FollowUpBundle;
    let envelope = envelope.into();
    assert_eq!(
        sotto_common::dsse::verify(kind, &envelope, &key).unwrap(),
        sums
    );
    let line = |(path, bytes): &(String, Vec<u8>)| {
        let digest = hex::encode(Sha256::digest(bytes));
        format!("{digest}  {path}")
    };
    let listed: Vec<_> = files.iter().map(line).collect();
    let sums = String::from_utf8(sums).unwrap();
    assert_eq!(sums.lines().collect::<Vec<_>>(), listed);
    let paths: Vec<_> = files.iter().map(|(path, _)| path.as_str()).collect();
    assert!(paths.contains(&"attachments/report.pdf") && paths.contains(&"dossier.html"));
    assert!(paths.contains(&"statements/000-SUBMIT.pb"));
}

#[tokio::test]
async fn a_bundle_of_an_erased_follow_up_says_what_is_gone_and_proves_nothing_else() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    lab.add(ALICE, id, &content(10), 10).await.expect("added");
    lab.step(&lab.holds, id, FollowUpStep::Answer, answer_with_files())
        .await;
    let close = lab
        .asks
        .end_follow_up(person(BOB), id, FollowUpStep::Close)
        .await;
    close.expect("closed");
    lab.settle().await;
    lab.clock.advance(HOUR * 24 * 181);
    for app in [&lab.asks, &lab.holds] {
        app.erase_follow_ups().await.expect("erased");
        let files = exported(app, id).await;
        let text = |path: &str| {
            let file = files.iter().find(|(other, _)| other == path);
            String::from_utf8(file.expect(path).1.clone()).expect("UTF-8")
        };
        let mut paths = files.iter().map(|(path, _)| path.as_str());
        assert!(!paths.any(|path| path.starts_with("statements/") || path.contains("attach")));
        assert!(text("erased.txt").contains("no signature of a step can be checked any more"));
        assert!(text("inclusion-proofs.txt").contains("see erased.txt"));
        let story: serde_json::Value = serde_json::from_str(&text("follow-up.json")).unwrap();
        // What `followup verify` reads where there are no statements.
        let shared = &story["follow_up"]["shared"];
        assert_eq!(shared["follow_up_id"], id.to_string());
        assert_eq!(shared["erased"], true);
        assert_eq!(shared["state"], "CLOSED");
        assert_eq!(shared["requester"], "nl-fiu");
        assert_eq!(shared["holder"], "de-bka");
        assert_eq!(story["steps"].as_array().map(Vec::len), Some(6));
    }
}
