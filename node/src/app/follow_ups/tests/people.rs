//! Four eyes, by identity.

use sotto_common::error::ErrorCode;

use super::*;

#[tokio::test]
async fn whoever_drafted_a_step_approves_it_in_no_role() {
    let lab = Lab::start(&[EMAIL]).await;
    let drafted = lab.draft().await;
    let waits = proposal(&drafted);
    for id in [ALICE, "spiffe://sotto.test/approver/alice"] {
        let approved = lab.asks.approve_step(person(id), drafted.id, waits).await;
        assert_eq!(approved.err().expect("refused").code, ErrorCode::SamePerson);
    }
    assert!(lab.at(&lab.asks, drafted.id).await.steps.is_empty());
    let approved = lab.asks.approve_step(person(BOB), drafted.id, waits).await;
    let step = approved.expect("another person").steps.remove(0);
    assert_eq!(
        (step.drafted_by.as_str(), step.approved_by.as_str()),
        (ALICE, BOB)
    );
}

#[tokio::test]
async fn what_is_approved_is_what_was_read() {
    let lab = Lab::start(&[EMAIL]).await;
    let drafted = lab.draft().await;
    let read = proposal(&drafted);
    lab.propose(&lab.asks, drafted.id, FollowUpStep::Submit, request())
        .await;
    let approved = lab.asks.approve_step(person(BOB), drafted.id, read).await;
    assert_eq!(
        approved.err().expect("refused").code,
        ErrorCode::FollowUpMismatch
    );
}

#[tokio::test]
async fn a_proposal_that_is_discarded_can_be_proposed_anew_and_its_reason_is_kept() {
    let lab = Lab::start(&[EMAIL]).await;
    let drafted = lab.draft().await;
    let (id, waits) = (drafted.id, proposal(&drafted));
    let without = lab.asks.discard_step(person(BOB), id, waits, " ").await;
    assert_eq!(
        without.err().expect("refused").code,
        ErrorCode::InvalidField
    );
    lab.asks
        .discard_step(person(BOB), id, waits, "the facts are thin")
        .await
        .unwrap();
    let discards = lab.asks.store.follow_up_discards(id).await.unwrap();
    assert_eq!(
        (discards[0].0.as_str(), discards[0].1.as_str()),
        (BOB, "the facts are thin")
    );
    let again = lab.asks.approve_step(person(BOB), id, waits).await;
    assert_eq!(
        again.err().expect("refused").code,
        ErrorCode::FollowUpMismatch
    );
    lab.propose(&lab.asks, id, FollowUpStep::Submit, request())
        .await;
    lab.approve(&lab.asks, id).await;
}

#[tokio::test]
async fn a_side_takes_its_own_steps_alone_and_only_when_they_are_due() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.received().await;
    for (app, step, code) in [
        (&lab.asks, FollowUpStep::Accept, ErrorCode::FollowUpMismatch),
        (&lab.holds, FollowUpStep::Reply, ErrorCode::FollowUpMismatch),
        (&lab.asks, FollowUpStep::Reply, ErrorCode::IllegalTransition),
        (
            &lab.holds,
            FollowUpStep::Answer,
            ErrorCode::IllegalTransition,
        ),
        (&lab.holds, FollowUpStep::Held, ErrorCode::InvalidField),
        (
            &lab.asks,
            FollowUpStep::Particulars,
            ErrorCode::InvalidField,
        ),
    ] {
        let proposed = app.propose_step(person(ALICE), id, step, empty()).await;
        assert_eq!(proposed.err().expect("refused").code, code, "{step}");
    }
}
