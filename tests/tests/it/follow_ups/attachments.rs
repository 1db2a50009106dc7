//! Files that go with an answer: resumable, bound to the answer, never opened by the broker.

use sotto_common::error::ErrorCode;
use sotto_common::followup::attachment::SEGMENT;
use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_tests::assert_refused;
use tonic::Code;

use super::{case, with_hits};

use FollowUpState as S;
use FollowUpStep as T;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_carried_on_where_it_broke_off_and_read_from_anywhere() {
    let (mut sandbox, nodes, hits) = with_hits(1).await;
    let mut case = case(&nodes, &hits, 0).await;
    case.bring_to(S::Accepted).await;
    let file = case.seal_file(&vec![0x5a; 5 * SEGMENT + 17]);
    assert_eq!(case.announce_file(&file).await.expect("announced"), 0);
    let half = 2 * SEGMENT;
    let at = case.upload_file(&file, 0, &file.sealed[..half]).await;
    assert_eq!(at.expect("taken"), half as u64);
    sandbox.restart().await;
    assert_eq!(case.announce_file(&file).await.expect("again"), half as u64);
    // Elsewhere than where it broke off is refused.
    let wrong = case.upload_file(&file, 0, &file.sealed).await;
    assert_refused(wrong, Code::OutOfRange, ErrorCode::OffsetMismatch);
    // An answer that names what is not whole is refused.
    let answer = case.answer_with(&[&file]);
    let early = case.take_detail(answer.clone()).await;
    assert_refused(early, Code::FailedPrecondition, ErrorCode::AttachmentState);
    let rest = case
        .upload_file(&file, half as u64, &file.sealed[half..])
        .await;
    assert_eq!(rest.expect("whole"), file.clear.sealed_size());
    // Not before the answer is there.
    let early = case.download_file(case.requester, &file, 0).await;
    assert_refused(early, Code::NotFound, ErrorCode::AttachmentUnknown);
    case.take_detail(answer).await.expect("taken");
    for offset in [0, 1, SEGMENT + 5, file.sealed.len() - 1] {
        let bytes = case
            .download_file(case.requester, &file, offset as u64)
            .await;
        assert!(
            bytes.expect("read") == file.sealed[offset..],
            "from {offset}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_than_were_announced_are_thrown_away() {
    let (_sandbox, nodes, hits) = with_hits(1).await;
    let mut case = case(&nodes, &hits, 0).await;
    case.bring_to(S::Accepted).await;
    let file = case.seal_file(&vec![1; SEGMENT + 9]);
    case.announce_file(&file).await.expect("announced");
    let mut changed = file.sealed.clone();
    changed[SEGMENT + 3] ^= 1;
    let refused = case.upload_file(&file, 0, &changed).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorCode::AttachmentState,
    );
    assert_eq!(case.announce_file(&file).await.expect("again"), 0);
    let right = case.upload_file(&file, 0, &file.sealed).await;
    right.expect("whole");
    // More than was announced.
    let beyond = case
        .upload_file(&file, file.sealed.len() as u64, &[0; 16])
        .await;
    beyond.expect_err("refused");
    let answer = case.answer_with(&[&file]);
    case.take_detail(answer).await.expect("taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_names_its_own_files_by_their_own_digests() {
    let (_sandbox, nodes, hits) = with_hits(2).await;
    let mut one = case(&nodes, &hits, 0).await;
    let mut two = case(&nodes, &hits, 1).await;
    one.bring_to(S::Accepted).await;
    two.bring_to(S::Accepted).await;
    let mut files = Vec::new();
    for case in [&one, &one, &two] {
        let file = case.seal_file(b"a file");
        case.announce_file(&file).await.expect("announced");
        case.upload_file(&file, 0, &file.sealed)
            .await
            .expect("whole");
        files.push(file);
    }
    // A file of another follow-up.
    let foreign = one.answer_with(&[&files[2]]);
    let refused = one.take_detail(foreign).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorCode::AttachmentState,
    );
    // Two files swapped.
    let mut swapped = files[0].clone();
    swapped.digest.digest = files[1].digest.digest;
    let answer = one.answer_with(&[&swapped]);
    let refused = one.take_detail(answer).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorCode::AttachmentState,
    );
    let answer = one.answer_with(&[&files[0], &files[1]]);
    one.take_detail(answer).await.expect("taken");
    // Nobody else reads them.
    let [_, _, fr] = &nodes;
    let refused = one.download_file(fr, &files[0], 0).await;
    assert_refused(refused, Code::NotFound, ErrorCode::FollowUpUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_announced_by_the_holder_of_an_accepted_request() {
    let (sandbox, nodes, hits) = with_hits(1).await;
    let mut case = case(&nodes, &hits, 0).await;
    case.bring_to(S::Received).await;
    let file = case.seal_file(b"a file");
    let mut footprint = sandbox.footprint().await;
    let early = case.announce_file(&file).await;
    assert_refused(early, Code::FailedPrecondition, ErrorCode::AttachmentState);
    footprint.assert_unchanged().await;
    case.take(T::Accept).await.expect("taken");
    let mut service = case.requester.follow_up_service();
    let by_requester = service.create_attachment(file.announced.clone()).await;
    by_requester.expect_err("refused");
    let mut large = file.clone();
    let mut clear = large.clear.clone();
    clear.size = 1 << 40;
    large.announced.clear = sotto_proto::convert::follow_up::write_attachment(&clear)
        .0
        .into();
    let refused = case.announce_file(&large).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::InvalidField);
    case.announce_file(&file).await.expect("announced");
}
