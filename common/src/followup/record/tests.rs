use proptest::prelude::*;

use super::*;
use crate::error::ErrorCode;
use crate::followup::codes::{HandlingCode, Item, RefusalGround, TimeLimit};
use crate::followup::step::{AnswerClear, ItemOutcome};
use crate::random::os_rng;

const HOUR: Duration = Duration::from_hours(1);

fn at(hours: i64) -> Timestamp {
    Timestamp::from_seconds(hours * 3600)
}

fn terms() -> Terms {
    let items = vec![Item::Identity, Item::Vehicles];
    Terms::new(TimeLimit::Ordinary, None, "A.1", items).unwrap()
}

fn first() -> StepClear {
    let mut rng = os_rng();
    StepClear {
        community: "euro-cyber".parse().unwrap(),
        follow_up: FollowUpId::generate(at(0), &mut rng),
        hit: HitId::generate(at(0), &mut rng),
        seq: 0,
        previous: NO_PREVIOUS,
        sender: "nl-fiu".parse().unwrap(),
        recipient: "de-bka".parse().unwrap(),
        made_at: at(0),
        state: FollowUpState::Submitted,
        detail: StepDetail::Submit(terms()),
    }
}

fn detail(step: FollowUpStep, now: Timestamp) -> StepDetail {
    let refused = Outcomes::refuse_all(&terms(), RefusalGround::NotAvailable);
    match step {
        FollowUpStep::Submit => StepDetail::Submit(terms()),
        FollowUpStep::Held => StepDetail::Held,
        FollowUpStep::NotHeld => StepDetail::NotHeld,
        FollowUpStep::Particulars => StepDetail::Particulars,
        FollowUpStep::Accept => StepDetail::Accept,
        FollowUpStep::Refuse => StepDetail::Refuse(refused),
        FollowUpStep::RequestClarification => StepDetail::RequestClarification,
        FollowUpStep::Reply => StepDetail::Reply,
        FollowUpStep::AwaitJudicialAuthorisation => StepDetail::AwaitJudicialAuthorisation {
            new_date: now.plus(HOUR * 240),
        },
        FollowUpStep::Answer => StepDetail::Answer(AnswerClear {
            outcomes: Outcomes::new(vec![
                (Item::Identity, ItemOutcome::Provided),
                (
                    Item::Vehicles,
                    ItemOutcome::Refused(RefusalGround::NotAvailable),
                ),
            ])
            .unwrap(),
            handling: HandlingCode::H0,
            attachments: Vec::new(),
        }),
        FollowUpStep::Withdraw => StepDetail::Withdraw,
        FollowUpStep::Close => StepDetail::Close,
    }
}

/// The step that is due next on `follow_up`, by the right side at the right place.
fn next(follow_up: &FollowUp, step: FollowUpStep, now: Timestamp) -> StepClear {
    StepClear {
        community: follow_up.community.clone(),
        follow_up: follow_up.id,
        hit: follow_up.hit,
        seq: follow_up.next_seq,
        previous: follow_up.last_body,
        sender: follow_up.party(step.by()).clone(),
        recipient: follow_up.party(step.by().other()).clone(),
        made_at: now,
        state: transition(follow_up.state, step).unwrap_or(FollowUpState::Closed),
        detail: detail(step, now),
    }
}

fn take(follow_up: &FollowUp, step: FollowUpStep, hours: i64) -> FollowUp {
    let clear = next(follow_up, step, at(hours));
    follow_up.apply(&clear, [9; 32], at(hours)).expect("a step")
}

fn received() -> FollowUp {
    let submitted = FollowUp::begin(&first(), [1; 32], at(0)).unwrap();
    let held = take(&submitted, FollowUpStep::Held, 0);
    take(&held, FollowUpStep::Particulars, 1)
}

#[test]
fn the_limit_runs_from_received_and_stands_still_in_clarification() {
    let received = received();
    let week = HOUR * 168;
    assert_eq!(received.clock.unwrap().due(), Some(at(1).plus(week)));
    let asked = take(&received, FollowUpStep::RequestClarification, 11);
    assert!(!asked.limit_runs() && !asked.is_overdue(at(1000)));
    let replied = take(&asked, FollowUpStep::Reply, 111);
    assert_eq!(replied.clock.unwrap().due(), Some(at(101).plus(week)));
    assert!(replied.is_overdue(at(300)));
    let answered = take(
        &take(&replied, FollowUpStep::Accept, 300),
        FollowUpStep::Answer,
        301,
    );
    assert!(answered.milestones.overdue && !answered.limit_runs());
}

#[test]
fn a_judicial_delay_has_a_date_ahead() {
    let received = received();
    let step = FollowUpStep::AwaitJudicialAuthorisation;
    let delayed = take(&received, step, 2);
    assert_eq!(delayed.clock.unwrap().due(), Some(at(242)));
    for new_date in [at(2), at(1), at(2 + 24 * 367)] {
        let clear = StepClear {
            detail: StepDetail::AwaitJudicialAuthorisation { new_date },
            ..next(&received, step, at(2))
        };
        let error = received.apply(&clear, [9; 32], at(2)).unwrap_err();
        assert_eq!(error.subject.as_deref(), Some("new_date"));
    }
}

/// A change that makes a step wrong.
type Twist = (ErrorCode, fn(&mut StepClear));

const TWISTS: &[Twist] = &[
    (ErrorCode::FollowUpMismatch, |c| c.seq += 1),
    (ErrorCode::FollowUpMismatch, |c| c.seq -= 1),
    (ErrorCode::FollowUpMismatch, |c| c.previous = [0; 32]),
    (ErrorCode::FollowUpMismatch, |c| {
        std::mem::swap(&mut c.sender, &mut c.recipient);
    }),
    (ErrorCode::FollowUpMismatch, |c| {
        c.sender = "fr-pj".parse().unwrap();
    }),
    (ErrorCode::FollowUpMismatch, |c| {
        c.recipient = "fr-pj".parse().unwrap();
    }),
    (ErrorCode::FollowUpMismatch, |c| {
        c.hit = HitId::generate(at(5), &mut os_rng());
    }),
    (ErrorCode::FollowUpMismatch, |c| {
        c.follow_up = FollowUpId::generate(at(5), &mut os_rng());
    }),
    (ErrorCode::FollowUpMismatch, |c| {
        c.community = "other".parse().unwrap();
    }),
    (ErrorCode::FollowUpMismatch, |c| {
        c.state = FollowUpState::Answered;
    }),
    (ErrorCode::InvalidField, |c| c.made_at = at(50)),
    (ErrorCode::IllegalTransition, |c| {
        c.detail = StepDetail::Answer(AnswerClear {
            outcomes: Outcomes::new(vec![(Item::Identity, ItemOutcome::Provided)]).unwrap(),
            handling: HandlingCode::H0,
            attachments: Vec::new(),
        });
    }),
];

#[test]
fn a_step_at_another_place_or_by_another_side_is_refused() {
    let received = received();
    let right = next(&received, FollowUpStep::Accept, at(2));
    assert!(received.apply(&right, [9; 32], at(2)).is_ok());
    for (index, (code, twist)) in TWISTS.iter().enumerate() {
        let mut clear = right.clone();
        twist(&mut clear);
        let error = received.apply(&clear, [9; 32], at(2)).unwrap_err();
        assert_eq!(error.code, *code, "twist {index}");
    }
}

#[test]
fn only_a_request_begins_a_follow_up() {
    for &step in FollowUpStep::ALL {
        let clear = StepClear {
            detail: detail(step, at(0)),
            ..first()
        };
        let begun = FollowUp::begin(&clear, [1; 32], at(0));
        assert_eq!(begun.is_ok(), step == FollowUpStep::Submit, "{step}");
    }
    let mut to_itself = first();
    to_itself.recipient = to_itself.sender.clone();
    assert!(FollowUp::begin(&to_itself, [1; 32], at(0)).is_err());
}

#[test]
fn refusals_and_answers_deal_with_every_item() {
    let received = received();
    let part = Outcomes::new(vec![(
        Item::Identity,
        ItemOutcome::Refused(RefusalGround::NotAvailable),
    )])
    .unwrap();
    let clear = StepClear {
        detail: StepDetail::Refuse(part.clone()),
        ..next(&received, FollowUpStep::Refuse, at(2))
    };
    assert!(received.apply(&clear, [9; 32], at(2)).is_err());
    let accepted = take(&received, FollowUpStep::Accept, 2);
    for outcomes in [
        part,
        Outcomes::refuse_all(&terms(), RefusalGround::NotAvailable),
    ] {
        let clear = StepClear {
            detail: StepDetail::Answer(AnswerClear {
                outcomes,
                handling: HandlingCode::H0,
                attachments: Vec::new(),
            }),
            ..next(&accepted, FollowUpStep::Answer, at(3))
        };
        assert!(accepted.apply(&clear, [9; 32], at(3)).is_err());
    }
}

#[test]
fn what_is_over_is_closed_after_thirty_days() {
    let refused = take(&received(), FollowUpStep::Refuse, 2);
    let due = at(2).plus(CLOSED_AFTER);
    assert_eq!(refused.closed_by_time(due.minus(HOUR)), None);
    let closed = refused.closed_by_time(due).unwrap();
    assert_eq!(closed.state, FollowUpState::Closed);
    assert_eq!(closed.closed_by_time(due.plus(HOUR)), None);
    assert_eq!(received().closed_by_time(at(10_000)), None);
}

proptest! {
    /// Whatever is tried in whatever order: order and parties hold, an answer comes after an
    /// accept, particulars after a proof, and nothing follows the end.
    #[test]
    fn no_order_of_steps_leads_around_the_table(
        tries in prop::collection::vec(0..FollowUpStep::ALL.len(), 0..60)
    ) {
        let mut follow_up = FollowUp::begin(&first(), [1; 32], at(0)).unwrap();
        let mut taken = vec![FollowUpStep::Submit];
        for (hour, index) in tries.into_iter().enumerate() {
            let step = FollowUpStep::ALL[index];
            let now = at(i64::try_from(hour).unwrap());
            let clear = next(&follow_up, step, now);
            let Ok(moved) = follow_up.apply(&clear, [u8::try_from(hour).unwrap(); 32], now) else {
                continue;
            };
            prop_assert!(follow_up.state != FollowUpState::Closed);
            follow_up = moved;
            taken.push(step);
        }
        prop_assert_eq!(follow_up.next_seq as usize, taken.len());
        let place = |step| taken.iter().position(|t| *t == step);
        if let Some(answer) = place(FollowUpStep::Answer) {
            prop_assert!(place(FollowUpStep::Accept).is_some_and(|accept| accept < answer));
        }
        if let Some(particulars) = place(FollowUpStep::Particulars) {
            prop_assert!(place(FollowUpStep::Held).is_some_and(|held| held < particulars));
        }
    }
}
