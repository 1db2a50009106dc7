//! Limits, reminders, closing by time and erasure, under the tests' own clock.

use std::time::Duration;

use sotto_common::followup::codes::TimeLimit;
use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_common::time::Timestamp;
use sotto_proto::convert::timestamp;
use sotto_proto::v1;
use sotto_proto::v1::watch_follow_ups_response::Event;
use sotto_tests::sandbox::NEVER;
use sotto_tests::{Case, Sandbox, TestNode};

use super::{case, with_hits};

use FollowUpState as S;
use FollowUpStep as T;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

async fn shown(case: &Case<'_>) -> v1::FollowUp {
    let told = case.holder.follow_up(case.id).await.expect("a party");
    told.follow_up.expect("given")
}

async fn due(case: &Case<'_>) -> Option<Timestamp> {
    let clock = shown(case).await.clock.expect("a clock");
    clock
        .due_at
        .map(|at| timestamp("due_at", Some(at)).expect("a time"))
}

/// Lets time pass. A broker does what is due at its start, and else every ten seconds.
async fn pass(sandbox: &mut Sandbox, time: Duration) {
    sandbox.clock.advance(time);
    sandbox.restart().await;
}

/// What a node was told so far that was no step.
async fn news(node: &TestNode, until: usize) -> Vec<Event> {
    let mut stream = node.watch_follow_ups(0).await.expect("open");
    let mut told = Vec::new();
    let read = async {
        while told.len() < until {
            let event = stream.message().await.expect("open").expect("an event");
            match event.event.expect("something") {
                Event::Step(_) => {}
                other => told.push(other),
            }
        }
    };
    let in_time = tokio::time::timeout(NEVER, read).await;
    in_time.unwrap_or_else(|_| panic!("no {until} events in time"));
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_run_from_received_and_stand_still_in_clarification() {
    let limits = [TimeLimit::Ordinary, TimeLimit::CoreData];
    let (sandbox, nodes, hits) = with_hits(2).await;
    for (number, limit) in (0..).zip(limits) {
        let mut case = case(&nodes, &hits, number).await.within(limit);
        case.bring_to(S::Held).await;
        sandbox.clock.advance(HOUR);
        case.take(T::Particulars).await.expect("taken");
        let end = sandbox.clock_now().plus(limit.duration());
        assert_eq!(due(&case).await, Some(end));
        sandbox.clock.advance(HOUR);
        case.take(T::RequestClarification).await.expect("taken");
        assert_eq!(due(&case).await, None);
        sandbox.clock.advance(DAY * 30);
        assert!(!shown(&case).await.overdue);
        case.take(T::Reply).await.expect("taken");
        assert_eq!(due(&case).await, Some(end.plus(DAY * 30)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_are_reminded_at_half_four_fifths_and_the_end_and_it_is_overdue_then() {
    let (mut sandbox, nodes, hits) = with_hits(1).await;
    let mut case = case(&nodes, &hits, 0).await;
    case.bring_to(S::Received).await;
    for (days, expected) in [(4, vec![50]), (2, vec![50, 80]), (2, vec![50, 80, 100])] {
        if days == 4 {
            // By a broker that goes on running.
            sandbox.clock.advance(DAY * days);
        } else {
            pass(&mut sandbox, DAY * days).await;
        }
        for node in [case.requester, case.holder] {
            let told = news(node, expected.len()).await;
            let percents: Vec<_> = told
                .iter()
                .map(|event| match event {
                    Event::ReminderPercent(percent) => *percent,
                    other => panic!("a reminder, not {other:?}"),
                })
                .collect();
            assert_eq!(percents, expected);
        }
    }
    assert!(shown(&case).await.overdue);
    case.take_all(&[T::Accept, T::Answer]).await;
    assert!(
        shown(&case).await.overdue,
        "it stays so once it is answered"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_closed_after_thirty_days_and_erased_after_the_retention_time() {
    let (mut sandbox, nodes, hits) = with_hits(1).await;
    let mut case = case(&nodes, &hits, 0).await;
    case.bring_to(S::Accepted).await;
    let file = case.seal_file(&vec![7; 100_000]);
    case.announce_file(&file).await.expect("announced");
    case.upload_file(&file, 0, &file.sealed)
        .await
        .expect("uploaded");
    let answer = case.answer_with(&[&file]);
    case.take_detail(answer).await.expect("taken");
    pass(&mut sandbox, DAY * 31).await;
    let told = news(case.requester, 1).await;
    assert!(matches!(told[..], [Event::ClosedByTime(_)]), "{told:?}");
    assert_eq!(shown(&case).await.state(), v1::FollowUpState::Closed);
    let bytes = case.download_file(case.requester, &file, 0).await;
    assert_eq!(bytes.expect("kept"), file.sealed);

    pass(&mut sandbox, DAY * 181).await;
    let told = news(case.holder, 2).await;
    assert!(matches!(told[1], Event::Erased(_)), "{told:?}");
    let told = case.holder.follow_up(case.id).await.expect("a party");
    assert!(told.follow_up.expect("given").erased);
    for step in &told.steps {
        assert!(step.statement.is_none() && step.body_digest.len() == 32);
    }
    let gone = case.download_file(case.requester, &file, 0).await;
    gone.expect_err("erased");
}
