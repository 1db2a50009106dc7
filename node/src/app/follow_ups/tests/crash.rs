//! A node that is killed between any two of its writes loses no step and repeats none.

use sotto_common::testing::kill::killed_after;

use super::*;

impl Lab {
    /// As [`Lab::settle`], by nodes that are killed after so many waits, and let live longer with
    /// each time, so that they get somewhere.
    async fn settle_killed(&self, waits: usize) {
        for round in 0..60 {
            let waits = waits + round / 6;
            for app in [&self.asks, &self.holds] {
                let cursor = app.store.follow_up_cursor().await.expect("read");
                for event in self.broker.events_after(&app.node, cursor) {
                    if killed_after(waits, app.take_event(event)).await.is_none() {
                        break;
                    }
                }
                let mut backoff = Backoff::default();
                let _ = killed_after(waits, app.work_follow_ups(&mut backoff)).await;
            }
        }
        self.settle().await;
    }
}

#[tokio::test]
async fn a_kill_between_any_two_writes_loses_no_step_and_repeats_none() {
    for waits in 0..8 {
        let lab = Lab::start(&[EMAIL]).await;
        lab.broker.kept.lock().unwrap().lose = 2;
        let id = lab.draft().await.id;
        lab.approve(&lab.asks, id).await;
        lab.settle_killed(waits).await;
        for (step, draft) in [
            (FollowUpStep::Accept, empty()),
            (FollowUpStep::Answer, answer()),
        ] {
            lab.broker.kept.lock().unwrap().lose = 1;
            lab.propose(&lab.holds, id, step, draft).await;
            lab.approve(&lab.holds, id).await;
            lab.settle_killed(waits).await;
        }
        let expected = ["SUBMIT", "HELD", "PARTICULARS", "ACCEPT", "ANSWER"];
        assert_eq!(lab.broker.steps(), expected, "killed after {waits} waits");
        assert_eq!(lab.states(id).await, [FollowUpState::Answered; 2]);
        let [asks, holds] = [lab.at(&lab.asks, id).await, lab.at(&lab.holds, id).await];
        let chain = |f: &LocalFollowUp| f.steps.iter().map(|s| s.digest).collect::<Vec<_>>();
        assert_eq!(chain(&asks), chain(&holds));
        assert!(asks.alarm.is_empty() && holds.alarm.is_empty());
        for app in [&lab.asks, &lab.holds] {
            let events = app.store.follow_up_events(0, 99).await.unwrap();
            let steps = events.iter().filter(|event| event.news == "STEP");
            assert_eq!(steps.count(), 5, "each step is told once");
        }
    }
}

#[tokio::test]
async fn a_broker_that_was_set_back_is_read_again_and_nothing_changes() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.received().await;
    let before = lab.at(&lab.holds, id).await.steps.len();
    lab.holds.store.reset_follow_up_cursor().await.unwrap();
    lab.settle().await;
    let after = lab.at(&lab.holds, id).await;
    assert_eq!(after.steps.len(), before);
    assert!(after.alarm.is_empty());
}
