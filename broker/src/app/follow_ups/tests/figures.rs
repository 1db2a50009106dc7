//! What is counted.

use super::*;
use crate::datastore::FollowUpRange;

#[tokio::test]
async fn what_chance_does_not_explain_is_raised_once() {
    let world = World::new().await;
    let mut raised = Vec::new();
    for _ in 0..3 {
        let mut follow = Follow::on(world.hit("nl-fiu", "de-bka").await, NOW);
        follow.take(&world, request()).await.expect("taken");
        let taken = follow
            .take(&world, StepDetail::NotHeld)
            .await
            .expect("taken");
        let state = world.hit_state("nl-fiu", follow.hit).await;
        assert_eq!(state, HitState::FalsePositive);
        let record = &taken.record;
        let newly = world.broker.newly_raised(record).await.expect("read");
        raised.push(newly.is_some());
    }
    assert_eq!(raised, [true, false, false]);
    let rates = world.broker.presence_rates(&community(), None).await;
    let rates = rates.expect("read");
    assert_eq!(
        (rates.len(), rates[0].count.not_held, rates[0].raised),
        (1, 3, true)
    );
}

#[tokio::test]
async fn figures_are_of_the_callers_own_follow_ups_within_a_range() {
    let world = World::new().await;
    world.received().await;
    world.nodes.clock.advance(DAY * 40);
    world.received().await;
    let sent = async |party: Option<&NodeId>, from, to| {
        let range = FollowUpRange { party, from, to };
        let lines = world.broker.follow_up_statistics(&community(), range).await;
        lines
            .expect("counted")
            .values()
            .map(|line| line.sent)
            .sum::<u64>()
    };
    let (nl, fr) = (&node("nl-fiu"), &node("fr-pj"));
    let later = Some(NOW.plus(DAY));
    assert_eq!(sent(None, None, None).await, 2);
    assert_eq!(sent(Some(nl), later, None).await, 1);
    assert_eq!(sent(Some(nl), None, later).await, 1);
    assert_eq!(sent(Some(fr), None, None).await, 0);
}
