//! Presence before particulars (protocol §10).

use prost::Message as _;
use sotto_common::followup::presence::PresenceProof;
use sotto_common::followup::step::StepDetail;
use sotto_common::ids::Epoch;

use super::super::{Prepared, encoded};
use super::*;
use crate::follow_up::Presence;

#[tokio::test]
async fn a_holder_without_the_selector_says_so_by_itself_and_nothing_more_leaves() {
    let lab = Lab::start(&["someone@example.test"]).await;
    let id = lab.received().await;
    assert_eq!(lab.broker.steps(), ["SUBMIT", "NOT_HELD"]);
    assert_eq!(lab.states(id).await, [FollowUpState::Closed; 2]);
    let asks = lab.at(&lab.asks, id).await;
    assert_eq!(asks.presence, Presence::NotHeld);
    assert!(asks.particulars.is_none() && asks.alarm.is_empty());
}

#[tokio::test]
async fn a_filter_that_was_not_the_holders_at_that_time_is_answered_with_not_held() {
    let lab = Lab::start(&[EMAIL]).await;
    let (epoch, at) = (lab.hit.epoch, Timestamp::from_seconds);
    // A base of a day before the hit took the place of the one that it names.
    let replaced = lab
        .holds
        .store
        .remember_layer(Policy::Email, epoch, 2, at(16_000));
    replaced.await;
    lab.received().await;
    assert_eq!(lab.broker.steps(), ["SUBMIT", "NOT_HELD"]);
}

#[tokio::test]
async fn a_version_counts_for_the_time_in_which_it_was_active() {
    let lab = Lab::start(&[EMAIL]).await;
    let store = &lab.holds.store;
    let (epoch, at) = (lab.hit.epoch, Timestamp::from_seconds);
    store
        .remember_layer(Policy::Email, epoch, 4, at(30_000))
        .await;
    let other = Epoch::new(2).unwrap();
    for (epoch, version, seconds, owned) in [
        (epoch, 1, 20_000, true),
        (epoch, 1, 30_100, true),
        (epoch, 1, 40_000, false),
        (epoch, 1, 10_000, false),
        (epoch, 4, 40_000, true),
        (epoch, 5, 40_000, false),
        (epoch, 0, 14_000, false),
        (other, 1, 20_000, false),
    ] {
        let found = store
            .was_active(Policy::Email, epoch, version, at(seconds))
            .await;
        let active = found.unwrap() == crate::store::Owned::Active;
        assert_eq!(active, owned, "{epoch} {version} {seconds}");
    }
}

#[tokio::test]
async fn a_wrong_proof_releases_nothing_and_is_an_alarm() {
    let lab = Lab::start(&["someone@example.test"]).await;
    let id = lab.draft().await.id;
    lab.approve(&lab.asks, id).await;
    lab.asks.work_on(id).await.unwrap();
    lab.deliver(&lab.holds).await;
    // A holder that keeps to no rule claims to hold what it does not.
    let peer = lab.holds.peer(lab.hit.epoch, &lab.asks.node).await.unwrap();
    let proof = PresenceProof::new(
        &selector("someone@example.test"),
        id,
        &lab.holds.node,
        &lab.asks.node,
    );
    let presence = v1::FollowUpPresence {
        proof: proof.secret().expose().to_vec().into(),
    };
    let now = lab.holds.clock.now();
    let lie = |f: &mut LocalFollowUp| {
        let prepared = Prepared {
            detail: StepDetail::Held,
            content: Some(encoded(&presence)),
        };
        let signed = lab.holds.sign_step(f, &peer, prepared, ("", ""), now)?;
        f.push_own(signed)
    };
    lab.holds.change(id, &lie).await.unwrap();
    lab.holds.work_on(id).await.unwrap();
    lab.settle().await;
    assert_eq!(lab.broker.steps(), ["SUBMIT", "HELD"], "no particulars");
    let asks = lab.at(&lab.asks, id).await;
    assert_eq!(asks.presence, Presence::ProofWrong);
    assert!(!asks.alarm.is_empty());
    assert!(asks.particulars.is_some(), "still here");
}

#[tokio::test]
async fn a_submission_names_the_tag_alone_and_no_word_of_the_particulars() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.draft().await.id;
    lab.approve(&lab.asks, id).await;
    lab.asks.work_on(id).await.unwrap();
    lab.deliver(&lab.holds).await;
    let holds = lab.at(&lab.holds, id).await;
    let content = holds.content_of(FollowUpStep::Submit).expect("opened");
    let request = v1::FollowUpRequest::decode(&content[..]).unwrap();
    assert_eq!(request.tags.len(), 1);
    assert_eq!(
        request.encode_to_vec().len(),
        content.len(),
        "and nothing else"
    );
}

#[tokio::test]
async fn a_step_by_another_key_or_out_of_its_place_is_an_alarm_and_is_not_applied() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.received().await;
    let before = lab.at(&lab.asks, id).await.steps.len();
    let event = |twist: &dyn Fn(&mut v1::DsseEnvelope)| {
        let kept = lab.broker.kept.lock().unwrap();
        let mut event = kept.events[1].clone();
        event.cursor = 100 + before as u64;
        let Some(v1::watch_follow_ups_response::Event::Step(record)) = &mut event.event else {
            panic!("a step");
        };
        twist(record.statement.as_mut().unwrap());
        event
    };
    let forged = event(&|envelope| {
        let mut sig = envelope.signatures[0].sig.to_vec();
        sig[7] ^= 1;
        envelope.signatures[0].sig = sig.into();
    });
    lab.asks.take_event(forged).await.unwrap();
    let asks = lab.at(&lab.asks, id).await;
    assert!(asks.alarm.contains("SIGNATURE_INVALID"), "{}", asks.alarm);
    assert_eq!(asks.steps.len(), before);
    // The same step once more is nothing new.
    lab.holds.take_event(event(&|_| ())).await.unwrap();
    assert!(lab.at(&lab.holds, id).await.alarm.is_empty());
}
