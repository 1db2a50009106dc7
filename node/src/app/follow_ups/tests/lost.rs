//! Files whose sealed bytes are gone, as after a restore of the node's store alone.

use sotto_common::error::ErrorCode;

use super::files::{LONG, answer_with_files, content};
use super::*;

impl Lab {
    /// Loses everything in the holder's folder of sealed files.
    fn lose_files(&self) {
        for entry in std::fs::read_dir(&self.holds.attachments_dir).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    /// How many of the answer's files are there, and of how many the bytes are missing.
    async fn files(&self, id: FollowUpId) -> (usize, usize) {
        let follow_up = self.at(&self.holds, id).await;
        let given = self.holds.given_files(&follow_up).await.unwrap();
        let lost = self.holds.lost_files(&given).await.unwrap();
        (given.len(), lost.len())
    }
}

#[tokio::test]
async fn an_answer_with_a_file_whose_bytes_are_missing_is_refused_until_it_is_there_again() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    let bytes = content(LONG);
    lab.add(ALICE, id, &bytes, LONG as u64).await.unwrap();
    assert_eq!(lab.files(id).await, (1, 0));
    lab.lose_files();
    assert_eq!(lab.files(id).await, (1, 1));
    let propose = async || {
        let (step, draft) = (FollowUpStep::Answer, answer_with_files());
        lab.holds.propose_step(person(ALICE), id, step, draft).await
    };
    let error = propose().await.err().expect("refused");
    assert_eq!(error.code, ErrorCode::AttachmentState);
    assert!(error.text.contains("report.pdf"), "{error}");
    // What is not approved is nobody's alarm, and holds nothing up.
    lab.settle().await;
    let view = lab.at(&lab.holds, id).await;
    assert!(view.alarm.is_empty(), "{}", view.alarm);
    assert_eq!(lab.files(id).await, (1, 1));

    // Another one of its name takes its place.
    let again = lab.add(ALICE, id, &bytes, LONG as u64).await.unwrap();
    assert_eq!(lab.files(id).await, (1, 0));
    propose().await.expect("proposed");
    lab.approve(&lab.holds, id).await;
    lab.settle().await;
    assert_eq!(lab.states(id).await, [FollowUpState::Answered; 2]);
    assert_eq!(lab.read(id, again).await.expect("read"), bytes);
}

#[tokio::test]
async fn a_file_whose_bytes_are_missing_is_removed_like_any_other() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    let lost = lab.add(ALICE, id, &content(10), 10).await.unwrap();
    lab.lose_files();
    let out = lab.holds.take_file_out(person(ALICE), id, lost);
    out.await.expect("removed");
    lab.propose(&lab.holds, id, FollowUpStep::Answer, answer())
        .await;
}

#[tokio::test]
async fn what_the_broker_has_is_not_missed() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    lab.add(ALICE, id, &content(10), 10).await.unwrap();
    lab.settle().await;
    assert_eq!((lab.files(id).await, lab.spooled()), ((1, 0), 0));
    lab.step(&lab.holds, id, FollowUpStep::Answer, answer_with_files())
        .await;
    assert_eq!(lab.states(id).await, [FollowUpState::Answered; 2]);
}

#[tokio::test]
async fn an_answer_is_not_approved_without_its_bytes_and_taken_back_if_they_go_later() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.accepted().await;
    let bytes = content(LONG);
    lab.add(ALICE, id, &bytes, LONG as u64).await.unwrap();
    let answer = answer_with_files;
    lab.propose(&lab.holds, id, FollowUpStep::Answer, answer())
        .await;
    lab.lose_files();
    let waits = proposal(&lab.at(&lab.holds, id).await);
    let approved = lab.holds.approve_step(person(BOB), id, waits).await;
    let error = approved.err().expect("refused");
    assert_eq!(error.code, ErrorCode::AttachmentState);

    // Added again, it is in the proposal, which is another one then.
    lab.add(ALICE, id, &bytes, LONG as u64).await.unwrap();
    lab.approve(&lab.holds, id).await;
    lab.lose_files();
    lab.settle().await;
    let view = lab.at(&lab.holds, id).await;
    assert!(view.alarm.contains("attach it again"), "{}", view.alarm);
    assert!(!view.is_pending());
    assert_eq!(lab.states(id).await, [FollowUpState::Accepted; 2]);

    let last = lab.add(ALICE, id, &bytes, LONG as u64).await.unwrap();
    lab.step(&lab.holds, id, FollowUpStep::Answer, answer())
        .await;
    assert_eq!(lab.states(id).await, [FollowUpState::Answered; 2]);
    assert_eq!(lab.read(id, last).await.expect("read"), bytes);
}
