//! The whole life of a follow-up, and what goes wrong on its way.

use sotto_common::error::ErrorCode;
use sotto_common::followup::Party;
use sotto_proto::v1::watch_follow_ups_response::Event;

use super::*;
use crate::store::FollowUpFilter;

#[tokio::test]
async fn a_request_becomes_an_answer_and_both_nodes_agree_at_every_step() {
    let lab = Lab::start(&["someone@example.test", EMAIL]).await;
    let drafted = lab.draft().await;
    let id = drafted.id;
    assert_eq!(drafted.state().unwrap(), FollowUpState::Draft);
    assert!(lab.broker.steps().is_empty(), "a draft stays here");
    lab.approve(&lab.asks, id).await;
    lab.settle().await;
    assert_eq!(lab.broker.steps(), ["SUBMIT", "HELD", "PARTICULARS"]);
    assert_eq!(lab.states(id).await, [FollowUpState::Received; 2]);

    let story = lab.holds.follow_up_story(id, true).await.unwrap();
    let node = story.follow_up.unwrap();
    assert!(!node.unread && node.alarm.is_empty());
    assert_eq!(node.records[0].dataset, "register");
    assert_eq!(node.records[0].canonical, EMAIL);
    assert!(!node.next_action.is_empty());
    let v1::node_follow_up_step::Content::Particulars(form) =
        story.steps[2].content.clone().unwrap()
    else {
        panic!("particulars come with their step");
    };
    assert_eq!(
        (form.selector.as_str(), form.facts.as_str()),
        (EMAIL, "Facts of the case")
    );

    lab.step(
        &lab.holds,
        id,
        FollowUpStep::RequestClarification,
        message("Which account?"),
    )
    .await;
    assert_eq!(
        lab.states(id).await,
        [FollowUpState::ClarificationRequested; 2]
    );
    lab.step(
        &lab.asks,
        id,
        FollowUpStep::Reply,
        message("The one at the bank."),
    )
    .await;
    lab.step(&lab.holds, id, FollowUpStep::Accept, empty())
        .await;
    lab.step(&lab.holds, id, FollowUpStep::Answer, answer())
        .await;
    assert_eq!(lab.states(id).await, [FollowUpState::Answered; 2]);
    let story = lab.asks.follow_up_story(id, true).await.unwrap();
    let last = story.steps.last().unwrap();
    let Some(v1::node_follow_up_step::Content::Answer(given)) = &last.content else {
        panic!("an answer comes with its step");
    };
    assert_eq!(given.items[0].content, "Anna Kowalska, 1980");
    assert_eq!(last.drafted_by, "", "who drafted it is the other side's");

    lab.asks
        .end_follow_up(person(BOB), id, FollowUpStep::Close)
        .await
        .unwrap();
    lab.settle().await;
    assert_eq!(lab.states(id).await, [FollowUpState::Closed; 2]);
    let figures = lab.asks.follow_up_figures(None, None).await.unwrap();
    assert_eq!((figures.rows[0].sent, figures.rows[0].answered), (1, 1));
}

#[tokio::test]
async fn a_request_that_misses_something_never_leaves_and_names_all_of_it() {
    let lab = Lab::start(&[EMAIL]).await;
    let mut draft = request();
    draft.particulars.as_mut().unwrap().facts.clear();
    draft.particulars.as_mut().unwrap().link = " ".into();
    let terms = draft.terms.as_mut().unwrap();
    terms.items.clear();
    let refused = lab
        .asks
        .draft_follow_up(person(ALICE), lab.hit.id, draft, "case-1");
    let error = refused.await.err().expect("refused");
    assert_eq!(error.code, ErrorCode::FormIncomplete);
    for field in ["items", "facts", "link"] {
        assert!(error.text.contains(field), "{}", error.text);
    }
    let listed = lab
        .asks
        .list_follow_ups(FollowUpFilter::default(), false, 9)
        .await;
    assert!(listed.unwrap().is_empty());
}

#[tokio::test]
async fn an_answer_without_its_codes_or_for_another_item_is_refused_before_anybody_reads_it() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.received().await;
    lab.step(&lab.holds, id, FollowUpStep::Accept, empty())
        .await;
    let twists: [fn(&mut v1::FollowUpDraft); 4] = [
        |d| d.answer.as_mut().unwrap().items[0].tlp = 0,
        |d| d.answer.as_mut().unwrap().items[0].content.clear(),
        |d| d.outcomes.truncate(1),
        |d| d.outcomes.clear(),
    ];
    for (index, twist) in twists.into_iter().enumerate() {
        let mut draft = answer();
        twist(&mut draft);
        let proposed = lab
            .holds
            .propose_step(person(ALICE), id, FollowUpStep::Answer, draft);
        let error = proposed.await.err().expect("refused");
        assert_eq!(
            error.code,
            ErrorCode::FormIncomplete,
            "twist {index}: {error}"
        );
    }
    let mut draft = answer();
    draft.message = "beside it".into();
    let proposed = lab
        .holds
        .propose_step(person(ALICE), id, FollowUpStep::Answer, draft);
    assert_eq!(
        proposed.await.err().expect("refused").code,
        ErrorCode::InvalidField
    );
}

#[tokio::test]
async fn a_step_that_the_other_side_has_overtaken_is_kept_as_refused_and_people_are_told() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.received().await;
    lab.propose(&lab.holds, id, FollowUpStep::Accept, empty())
        .await;
    lab.approve(&lab.holds, id).await;
    // Before the holder's accept is at the broker, the requester withdraws.
    lab.asks
        .end_follow_up(person(BOB), id, FollowUpStep::Withdraw)
        .await
        .unwrap();
    lab.asks.work_on(id).await.unwrap();
    lab.settle().await;
    assert_eq!(lab.states(id).await, [FollowUpState::Withdrawn; 2]);
    let holder = lab.at(&lab.holds, id).await;
    assert!(holder.alarm.contains("ACCEPT"), "{}", holder.alarm);
    assert!(!holder.is_pending());
    let refused = lab.holds.store.follow_up_refusals(id).await.unwrap();
    assert_eq!(refused[0].step, "ACCEPT");
    assert!(!lab.broker.steps().contains(&"ACCEPT".into()));
}

#[tokio::test]
async fn a_proposal_that_is_overtaken_goes_and_its_author_is_told() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.received().await;
    lab.propose(&lab.holds, id, FollowUpStep::Accept, empty())
        .await;
    lab.asks
        .end_follow_up(person(BOB), id, FollowUpStep::Withdraw)
        .await
        .unwrap();
    lab.settle().await;
    assert!(lab.at(&lab.holds, id).await.proposal.is_none());
    let events = lab.holds.store.follow_up_events(0, 99).await.unwrap();
    assert!(events.iter().any(|event| event.news == "DISCARDED"));
}

#[tokio::test]
async fn a_draft_that_is_withdrawn_stays_local() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.draft().await.id;
    let closed = lab
        .asks
        .end_follow_up(person(BOB), id, FollowUpStep::Close)
        .await;
    assert_eq!(
        closed.err().expect("refused").code,
        ErrorCode::IllegalTransition
    );
    lab.asks
        .end_follow_up(person(BOB), id, FollowUpStep::Withdraw)
        .await
        .unwrap();
    lab.settle().await;
    assert!(lab.broker.steps().is_empty());
    let draft = lab.at(&lab.asks, id).await;
    assert_eq!(draft.state().unwrap(), FollowUpState::Withdrawn);
    let again = lab
        .asks
        .propose_step(person(ALICE), id, FollowUpStep::Submit, request());
    assert_eq!(
        again.await.err().expect("refused").code,
        ErrorCode::IllegalTransition
    );
}

#[tokio::test]
async fn a_hit_that_is_not_confirmed_is_not_followed_up() {
    let lab = Lab::start(&[EMAIL]).await;
    let mut hit = lab.hit.clone();
    hit.state = HitState::UnderReview;
    let now = lab.asks.clock.now();
    lab.asks
        .store
        .put_streamed_hits(&[hit], 2, now)
        .await
        .unwrap();
    let drafted = lab
        .asks
        .draft_follow_up(person(ALICE), lab.hit.id, request(), "case-1");
    assert_eq!(
        drafted.await.err().expect("refused").code,
        ErrorCode::IllegalTransition
    );
}

#[tokio::test]
async fn reminders_and_closing_by_time_are_told_and_closing_early_is_an_alarm() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.received().await;
    lab.broker.tell(id, Event::ReminderPercent(50));
    lab.asks
        .end_follow_up(person(BOB), id, FollowUpStep::Withdraw)
        .await
        .unwrap();
    lab.settle().await;
    let early = sotto_proto::convert::to_timestamp(lab.clock_now());
    lab.broker.tell(id, Event::ClosedByTime(early));
    lab.settle().await;
    assert!(!lab.at(&lab.asks, id).await.alarm.is_empty());
    lab.clock.advance(HOUR * 24 * 31);
    let due = sotto_proto::convert::to_timestamp(lab.clock_now());
    lab.broker.tell(id, Event::ClosedByTime(due));
    lab.settle().await;
    assert_eq!(lab.states(id).await, [FollowUpState::Closed; 2]);
    let events = lab.holds.store.follow_up_events(0, 99).await.unwrap();
    let news: Vec<_> = events.iter().map(|event| event.news.as_str()).collect();
    assert!(news.contains(&"REMINDER") && news.contains(&"CLOSED_BY_TIME"));
}

#[tokio::test]
async fn what_was_sealed_is_erased_in_time_at_both_nodes_and_the_clear_parts_stay() {
    let lab = Lab::start(&[EMAIL]).await;
    let id = lab.received().await;
    lab.asks
        .end_follow_up(person(BOB), id, FollowUpStep::Withdraw)
        .await
        .unwrap();
    lab.asks
        .end_follow_up(person(BOB), id, FollowUpStep::Close)
        .await
        .unwrap();
    lab.settle().await;
    assert_eq!(lab.states(id).await, [FollowUpState::Closed; 2]);
    for (days, erased) in [(179, false), (2, true)] {
        lab.clock.advance(HOUR * 24 * days);
        for app in [&lab.asks, &lab.holds] {
            app.erase_follow_ups().await.unwrap();
            let follow_up = lab.at(app, id).await;
            assert_eq!(follow_up.erased_at.is_some(), erased);
            assert_eq!(follow_up.canonical.is_none(), erased);
            assert_eq!(follow_up.state().unwrap(), FollowUpState::Closed);
            let gone = |step: &crate::follow_up::Step| step.envelope.is_none() == erased;
            assert!(follow_up.steps.iter().all(gone));
        }
    }
    let story = lab.holds.follow_up_story(id, true).await.unwrap();
    assert!(
        story
            .steps
            .iter()
            .all(|step| step.content.is_none() && step.clear.is_some())
    );
}

#[tokio::test]
async fn the_approver_is_shown_other_open_requests_on_the_same_selector() {
    let lab = Lab::start(&[EMAIL]).await;
    let first = lab.draft().await;
    let drafted = lab
        .asks
        .draft_follow_up(person(ALICE), lab.hit.id, request(), "case-2");
    let (second, related) = drafted.await.unwrap();
    assert_eq!(related.len(), 1);
    assert_eq!(related[0].follow_up_id, first.id.as_bytes()[..]);
    lab.asks
        .end_follow_up(person(BOB), first.id, FollowUpStep::Withdraw)
        .await
        .unwrap();
    let related = lab.asks.related(&second).await.unwrap();
    assert!(related.is_empty());
    let filter = FollowUpFilter {
        side: Some(Party::Requester),
        state: Some(FollowUpState::Draft),
        ..FollowUpFilter::default()
    };
    let listed = lab.asks.list_follow_ups(filter, true, 9).await.unwrap();
    assert_eq!(listed.len(), 1);
}

impl Lab {
    fn clock_now(&self) -> Timestamp {
        sotto_common::time::Clock::now(&self.clock)
    }
}
