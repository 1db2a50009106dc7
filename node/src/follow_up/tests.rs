use sotto_common::followup::codes::{Item, TimeLimit};
use sotto_common::followup::step::Terms;
use sotto_common::random::os_rng;
use sotto_common::secret::Selector;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn local(side: Party) -> LocalFollowUp {
    let id = FollowUpId::generate(at(1), &mut os_rng());
    let (own, counterpart) = match side {
        Party::Requester => ("nl-fiu", "de-bka"),
        Party::Holder => ("de-bka", "nl-fiu"),
    };
    LocalFollowUp {
        id,
        side,
        hit: HitId::generate(at(1), &mut os_rng()),
        community: "euro-cyber".parse().unwrap(),
        own: own.parse().unwrap(),
        counterpart: counterpart.parse().unwrap(),
        epoch: Epoch::new(1).unwrap(),
        policy: Policy::Email,
        filter_version: 1,
        matched_at: at(1),
        case_ref: "case-1".into(),
        canonical: Some(Selector::new("a@example.test")),
        records: Vec::new(),
        particulars: None,
        presence: Presence::Open,
        alarm: String::new(),
        unread: false,
        begun_at: at(1),
        withdrawn_at: None,
        closed_by_time: None,
        erased_at: None,
        steps: Vec::new(),
        proposal: None,
        news: Vec::new(),
        refused: Vec::new(),
    }
}

fn submit() -> StepDetail {
    let terms = Terms::new(TimeLimit::Ordinary, None, "A.1", vec![Item::Identity]);
    StepDetail::Submit(terms.unwrap())
}

fn step(clear: StepClear, body: u8, taken_at: Option<Timestamp>) -> Step {
    Step {
        clear_bytes: Vec::new(),
        clear,
        digest: [body; 32],
        envelope: None,
        content: None,
        taken_at,
        drafted_by: String::new(),
        approved_by: String::new(),
    }
}

/// The next step of the other side, as it would make it.
fn theirs(follow_up: &LocalFollowUp, detail: StepDetail, now: Timestamp) -> StepClear {
    let mut other = follow_up.clone();
    other.steps.retain(|step| step.taken_at.is_some());
    other.side = other.side.other();
    std::mem::swap(&mut other.own, &mut other.counterpart);
    other.next_clear(detail, now).unwrap()
}

#[test]
fn a_step_on_its_way_is_ahead_of_what_is_agreed_and_the_next_follows_it() {
    let mut follow_up = local(Party::Requester);
    assert_eq!(follow_up.state().unwrap(), FollowUpState::Draft);
    let clear = follow_up.next_clear(submit(), at(10)).unwrap();
    follow_up.push_own(step(clear, 1, None)).unwrap();
    assert!(follow_up.is_pending() && follow_up.agreed().unwrap().is_none());
    assert_eq!(follow_up.state().unwrap(), FollowUpState::Draft);
    let ahead = follow_up.ahead().unwrap().unwrap();
    assert_eq!(ahead.state, FollowUpState::Submitted);
    let withdraw = follow_up.next_clear(StepDetail::Withdraw, at(11)).unwrap();
    assert_eq!((withdraw.seq, withdraw.previous), (1, [1; 32]));
    follow_up.push_own(step(withdraw, 2, None)).unwrap();
    assert_eq!(
        follow_up.ahead().unwrap().unwrap().state,
        FollowUpState::Withdrawn
    );
}

#[test]
fn an_own_step_is_taken_once_with_the_brokers_time() {
    let mut follow_up = local(Party::Requester);
    let clear = follow_up.next_clear(submit(), at(10)).unwrap();
    follow_up.push_own(step(clear.clone(), 1, None)).unwrap();
    let taken = step(clear.clone(), 1, Some(at(12)));
    assert_eq!(follow_up.take(taken.clone()).unwrap(), Took::New);
    assert_eq!(follow_up.take(taken).unwrap(), Took::Known);
    assert_eq!(follow_up.news, [News::Step(FollowUpStep::Submit)]);
    let agreed = follow_up.agreed().unwrap().unwrap();
    assert_eq!(agreed.milestones.submitted, Some(at(12)));
    // Another in its place is refused, and changes nothing.
    let error = follow_up.take(step(clear, 9, Some(at(13)))).err().unwrap();
    assert_eq!(error.code, ErrorCode::FollowUpMismatch);
    assert_eq!(follow_up.steps.len(), 1);
}

#[test]
fn what_the_other_side_took_first_drops_what_is_on_its_way_and_keeps_a_note_of_it() {
    let mut follow_up = local(Party::Requester);
    let clear = follow_up.next_clear(submit(), at(10)).unwrap();
    follow_up.take(step(clear, 1, Some(at(10)))).unwrap();
    let withdraw = follow_up.next_clear(StepDetail::Withdraw, at(11)).unwrap();
    follow_up.push_own(step(withdraw, 2, None)).unwrap();
    let held = theirs(&follow_up, StepDetail::Held, at(11));
    follow_up.take(step(held, 3, Some(at(11)))).unwrap();
    assert_eq!(follow_up.state().unwrap(), FollowUpState::Held);
    assert!(!follow_up.is_pending() && follow_up.unread);
    assert!(follow_up.alarm.contains("WITHDRAW"));
    assert_eq!(follow_up.refused[0].0, FollowUpStep::Withdraw);
}

#[test]
fn a_step_of_the_wrong_party_place_or_chain_is_not_applied() {
    let mut follow_up = local(Party::Requester);
    let clear = follow_up.next_clear(submit(), at(10)).unwrap();
    follow_up.take(step(clear, 1, Some(at(10)))).unwrap();
    let held = theirs(&follow_up, StepDetail::Held, at(11));
    let twists: [fn(&mut StepClear); 5] = [
        |c| c.seq = 2,
        |c| c.previous = [7; 32],
        |c| std::mem::swap(&mut c.sender, &mut c.recipient),
        |c| c.state = FollowUpState::Closed,
        |c| {
            c.detail = StepDetail::Answer(sotto_common::followup::step::AnswerClear {
                outcomes: sotto_common::followup::step::Outcomes::new(vec![(
                    Item::Identity,
                    sotto_common::followup::step::ItemOutcome::Provided,
                )])
                .unwrap(),
                handling: sotto_common::followup::codes::HandlingCode::H0,
                attachments: Vec::new(),
            });
        },
    ];
    for (index, twist) in twists.into_iter().enumerate() {
        let mut clear = held.clone();
        twist(&mut clear);
        let taken = follow_up.take(step(clear, 3, Some(at(11))));
        assert!(taken.is_err(), "twist {index}");
        assert_eq!(follow_up.steps.len(), 1, "twist {index}");
    }
    follow_up.take(step(held, 3, Some(at(11)))).unwrap();
}
