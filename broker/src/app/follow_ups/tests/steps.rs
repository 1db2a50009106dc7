//! Steps: how many, how long, and that one which is refused leaves nothing.

use super::*;

#[tokio::test]
async fn clarifications_end_before_the_steps_do_and_all_of_it_ends() {
    let world = World::new().await;
    let mut follow = world.received().await;
    let refused = loop {
        match follow.take(&world, StepDetail::RequestClarification).await {
            Ok(_) => follow.take(&world, StepDetail::Reply).await.expect("taken"),
            Err(error) => break error.code,
        };
    };
    assert_eq!(refused, ErrorCode::LimitReached);
    for detail in [StepDetail::Accept, answer(&[]), StepDetail::Close] {
        follow.take(&world, detail).await.expect("taken");
    }
    let steps = follow.record.expect("there").next_seq;
    assert!(
        (MAX_STEPS - 2 * LAST_STEPS..MAX_STEPS).contains(&steps),
        "{steps}"
    );
}

#[tokio::test]
async fn nobody_is_kept_from_answering_by_much_talk() {
    let world = World::new().await;
    let mut follow = world.received().await;
    let much = 900 * 1024;
    for detail in [StepDetail::RequestClarification, StepDetail::Reply] {
        follow.say(&world, detail, much).await.expect("taken");
    }
    let more = follow
        .refused(&world, StepDetail::RequestClarification, much)
        .await;
    assert_eq!(more, ErrorCode::LimitReached);
    follow
        .take(&world, StepDetail::Accept)
        .await
        .expect("taken");
    let answered = follow.say(&world, answer(&[]), 1_000_000).await;
    assert!(answered.expect("taken").record.statement_bytes < 3 << 20);
}

#[tokio::test]
async fn a_step_that_is_refused_late_leaves_nothing_behind() {
    let world = World::new().await;
    let mut follow = world.received().await;
    follow
        .take(&world, StepDetail::Accept)
        .await
        .expect("taken");
    let file = File::new(&follow, 10);
    // A reminder is due: it is not told by a step that fails.
    world.nodes.clock.advance(DAY * 4);
    let before = world.told("nl-fiu").await;
    let refused = follow.refused(&world, answer(&[&file]), 10).await;
    assert_eq!(refused, ErrorCode::AttachmentState);
    assert_eq!(world.told("nl-fiu").await, before);
    let (de, community) = (&node("de-bka"), &community());
    let read = world.broker.follow_up(de, community, follow.id);
    let (record, steps, _) = read.await.expect("there");
    assert_eq!(
        (record.follow_up, steps.len()),
        (follow.record.expect("there"), 4)
    );
}

#[tokio::test]
async fn an_id_that_another_uses_is_refused_and_the_hit_stays() {
    let world = World::new().await;
    let others = world.received().await;
    let hit = world.hit("fr-pj", "de-bka").await;
    let mut clear = StepClear {
        community: community(),
        follow_up: others.id,
        hit,
        seq: 0,
        previous: NO_PREVIOUS,
        sender: node("fr-pj"),
        recipient: node("de-bka"),
        made_at: NOW,
        state: FollowUpState::Submitted,
        detail: request(),
    };
    let (fr, community) = (&node("fr-pj"), &community());
    let submit = async |clear: &StepClear| {
        let key = world.nodes.hpke.public();
        let statement = make_step(clear.clone(), Some(b"tags"), key, &mut os_rng());
        let signed = convert::sign(statement.expect("a step"), &world.nodes.keys[2]);
        let taken = world.broker.submit_step(fr, community, &signed);
        taken.await.map(drop).map_err(|error| error.code)
    };
    assert_eq!(submit(&clear).await, Err(ErrorCode::FollowUpMismatch));
    assert_eq!(world.hit_state("fr-pj", hit).await, HitState::Confirmed);
    clear.follow_up = FollowUpId::generate(NOW, &mut os_rng());
    assert_eq!(submit(&clear).await, Ok(()));
    assert_eq!(world.hit_state("fr-pj", hit).await, HitState::FollowedUp);
}
