//! Reminders.

use super::*;

#[tokio::test]
async fn reminders_come_once_for_each_run_of_the_clock_and_before_what_comes_later() {
    use FollowUpEvent::Reminder;
    let world = World::new().await;
    let mut follow = world.received().await;
    // Half of seven days has passed, and no job has run.
    world.nodes.clock.advance(DAY * 4);
    let asked = follow.take(&world, StepDetail::RequestClarification).await;
    asked.expect("taken");
    let told = world.told("nl-fiu").await;
    assert_eq!(told[3..], [Reminder(50), FollowUpEvent::Step(3)]);
    world.nodes.clock.advance(DAY * 30);
    assert_eq!(world.news().await, [Reminder(50)], "the clock stands still");
    follow.take(&world, StepDetail::Reply).await.expect("taken");
    assert_eq!(world.news().await, [Reminder(50)], "not again");
    world.nodes.clock.advance(DAY * 2);
    assert_eq!(world.news().await, [50, 80].map(Reminder));
    let new_date = world.clock_now().plus(DAY * 20);
    let delay = StepDetail::AwaitJudicialAuthorisation { new_date };
    follow.take(&world, delay).await.expect("taken");
    world.nodes.clock.advance(DAY * 21);
    assert_eq!(world.news().await, [50, 80, 50, 80, 100].map(Reminder));
    let accepted = follow
        .take(&world, StepDetail::Accept)
        .await
        .expect("taken");
    assert!(accepted.record.follow_up.is_overdue(world.clock_now()));
    world.nodes.clock.advance(DAY * 21);
    assert_eq!(world.news().await.len(), 5, "there is no more");
}
