//! The whole life of follow-ups between real units, by their people.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use sotto_common::error::ErrorCode;
use sotto_common::followup::{FollowUpState, FollowUpStep};
use sotto_common::ids::Role;
use sotto_proto::v1;
use sotto_tests::desk::{
    self, PEOPLE, SECRET_ANSWER, SECRET_FACTS, answer, drive, id_of, request, state_of,
};
use sotto_tests::ledger::TestLedger;
use sotto_tests::refusal::outlast;
use sotto_tests::sandbox::{NEVER, profile};
use sotto_tests::unit::introduce;
use sotto_tests::{BrokerProcess, Sandbox, Unit, assert_refused};
use tonic::Code;

use FollowUpState as S;
use FollowUpStep as T;

const SETTINGS: &str = "[service.publisher]\ndebounce = '20ms'\npatience = '200ms'\n";

fn number(n: u32) -> String {
    format!("+3161234{n:04}")
}

fn numbers(range: std::ops::Range<u32>) -> BTreeSet<String> {
    range.map(number).collect()
}

/// Two units; the first has so many confirmed hits on the second, whose ids come in the order of
/// the numbers.
pub(super) async fn units(hits: u32) -> (Sandbox, [Unit; 2], Vec<Vec<u8>>) {
    let sandbox = Sandbox::empty().await;
    let operator = sandbox.operator();
    let names = ["nl-fiu", "de-bka"];
    let created = operator.create_community(profile(), &names[..1]).await;
    created.expect("created");
    let mut units = Vec::new();
    for name in names {
        operator.enrol(name).await.expect("enrolled");
        let (home, lab) = (sandbox.path(name), sandbox.shared_lab());
        let mut unit = Unit::install(&lab, &home, name, &sandbox.url(), SETTINGS);
        unit.start(Arc::new(sandbox.clock.clone())).await;
        units.push(unit);
    }
    introduce(&units).await;
    let units: [Unit; 2] = units.try_into().unwrap_or_else(|_| unreachable!());
    let found = confirmed(&units, hits).await;
    (sandbox, units, found)
}

/// A broker and two units as processes of their own; the units started by a shell's script.
pub(super) async fn processes(script: &str) -> (BrokerProcess, [Unit; 2]) {
    let broker = BrokerProcess::on(&TestLedger::chosen(), "info").await;
    let names = ["nl-fiu", "de-bka"];
    let operator = broker.operator();
    let created = operator.create_community(profile(), &names[..1]).await;
    created.expect("created");
    let mut units = Vec::new();
    for name in names {
        operator.enrol(name).await.expect("enrolled");
        let (home, lab) = (broker.site().path(name), Arc::clone(&broker.site().lab));
        let url = format!("https://{}", broker.address());
        let mut unit = Unit::install(&lab, &home, name, &url, SETTINGS);
        unit.start_process_under(script).await;
        units.push(unit);
    }
    introduce(&units).await;
    (broker, units.try_into().unwrap_or_else(|_| unreachable!()))
}

/// Gives both the same numbers, has the first find them, and confirms its hits.
pub(super) async fn confirmed([nl, de]: &[Unit; 2], hits: u32) -> Vec<Vec<u8>> {
    let values = numbers(0..hits);
    for unit in [de, nl] {
        let done = unit.import("numbers", "phone/1", &values, false);
        done.await.expect("imported");
    }
    de.publish().await.expect("published");
    nl.probe_by_itself("numbers").await.expect("set");
    let threads = async || nl.threads().await.unwrap_or_default();
    let found = async || threads().await.len() == hits as usize;
    until(found).await;
    let mut found: Vec<_> = threads()
        .await
        .into_iter()
        .map(|thread| (thread.canonical, thread.hit.expect("a hit").hit_id.to_vec()))
        .collect();
    found.sort();
    for (_, hit) in &found {
        nl.confirm(hit).await.expect("confirmed");
    }
    found.into_iter().map(|(_, hit)| hit).collect()
}

/// Waits until something holds that comes about by itself.
pub(super) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(NEVER, waited).await;
    in_time.expect("it never came to hold");
}

/// The follow-up once it stands in a state at a unit, with nothing on its way.
pub(super) async fn at(unit: &Unit, id: &[u8], state: S) -> v1::NodeFollowUp {
    let mut found = None;
    until(async || {
        let case = unit.case(id).await.expect("answered");
        found = case.and_then(|case| case.follow_up);
        found
            .as_ref()
            .is_some_and(|view| state_of(view) == state && !view.step_pending)
    })
    .await;
    found.expect("found")
}

/// A follow-up that was asked by `nl` and is with `de`.
async fn received(nl: &Unit, de: &Unit, hit: &[u8]) -> Vec<u8> {
    let drafted = nl.draft(hit, request()).await.expect("drafted");
    nl.approve(&drafted).await.expect("approved");
    let id = id_of(&drafted).to_vec();
    at(de, &id, S::Received).await;
    at(nl, &id, S::Received).await;
    id
}

/// As [`received`], and accepted by two people.
pub(super) async fn accepted(nl: &Unit, de: &Unit, hit: &[u8]) -> Vec<u8> {
    let id = received(nl, de, hit).await;
    let nothing = v1::FollowUpDraft::default();
    let proposed = de.propose(&id, T::Accept, nothing).await.expect("proposed");
    de.approve(&proposed).await.expect("approved");
    at(de, &id, S::Accepted).await;
    at(nl, &id, S::Accepted).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_hit_to_an_answer_with_a_file_by_four_people() {
    let (sandbox, [nl, de], hits) = units(1).await;
    let id = accepted(&nl, &de, &hits[0]).await;
    let shown = de.case(&id).await.expect("answered").expect("here");
    let view = shown.follow_up.as_ref().expect("a view");
    assert_eq!(
        view.records[0].canonical,
        number(0),
        "its own record is shown"
    );
    let facts = shown.steps.iter().any(|step| {
        matches!(&step.content, Some(v1::node_follow_up_step::Content::Particulars(p))
            if p.facts == SECRET_FACTS && p.selector == number(0))
    });
    assert!(facts, "the particulars are there");

    let file: Vec<u8> = (0..200_003_u32).map(|n| n.to_le_bytes()[0]).collect();
    let attached = de.attach(&id, "photo of the cello.jpg", &file).await;
    let attached = attached.expect("taken");
    let proposed = de
        .propose(&id, T::Answer, answer())
        .await
        .expect("proposed");
    de.approve(&proposed).await.expect("approved");
    at(&nl, &id, S::Answered).await;
    let shown = nl.case(&id).await.expect("answered").expect("here");
    let Some(v1::node_follow_up_step::Content::Answer(given)) =
        shown.steps.last().and_then(|step| step.content.clone())
    else {
        panic!("an answer");
    };
    assert_eq!(given.items[0].content, SECRET_ANSWER);
    assert_eq!(given.file_names[0].name, "photo of the cello.jpg");
    let bytes = nl.read_file(&id, &attached).await.expect("read");
    assert!(bytes == file, "the file comes as it was");

    nl.end(&id, T::Close).await.expect("closed");
    at(&de, &id, S::Closed).await;
    at(&nl, &id, S::Closed).await;
    until(async || {
        let threads = nl.threads().await.expect("listed");
        threads[0].state() == v1::HitState::Closed
    })
    .await;
    assert_nothing_in_clear(&sandbox.data_dir());
}

/// Neither facts nor answer, nor the selector, in any file of a folder.
fn assert_nothing_in_clear(dir: &std::path::Path) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            assert_nothing_in_clear(&path);
            continue;
        }
        // What the broker has deleted meanwhile tells nobody anything.
        let bytes = match std::fs::read(&path) {
            Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.expect("a file"),
        };
        for secret in [
            SECRET_FACTS,
            SECRET_ANSWER,
            &number(0),
            "photo of the cello",
        ] {
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{} holds a secret in clear", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_drafts_never_approves_under_any_role_on_either_side() {
    let (_sandbox, [nl, de], hits) = units(1).await;
    let drafted = nl.draft(&hits[0], request()).await.expect("drafted");
    let id = id_of(&drafted).to_vec();
    let same = nl.person(Role::Approver, PEOPLE[0]);
    let refused = nl.approve_as(same, &drafted).await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::SamePerson);
    let no_role = nl.person(Role::Analyst, PEOPLE[1]);
    let refused = nl.approve_as(no_role, &drafted).await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::RoleForbidden);
    assert!(de.case(&id).await.expect("answered").is_none());
    // What is approved is what was read.
    let mut other = drafted.clone();
    if let Some(proposal) = &mut other.proposal {
        let mut bytes = proposal.proposal_id.to_vec();
        bytes[15] ^= 1;
        proposal.proposal_id = bytes.into();
    }
    let refused = nl.approve(&other).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorCode::FollowUpMismatch,
    );
    nl.approve(&drafted).await.expect("approved");
    at(&de, &id, S::Received).await;

    let nothing = v1::FollowUpDraft::default();
    let proposed = de.propose(&id, T::Accept, nothing).await.expect("proposed");
    let same = de.person(Role::Approver, PEOPLE[0]);
    let refused = de.approve_as(same, &proposed).await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::SamePerson);
    assert_eq!(state_of(&at(&nl, &id, S::Received).await), S::Received);
    de.approve(&proposed).await.expect("approved");
    at(&nl, &id, S::Accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_or_answer_that_misses_something_does_not_leave() {
    let (_sandbox, [nl, de], hits) = units(1).await;
    let mut lacking = request();
    if let Some(particulars) = &mut lacking.particulars {
        particulars.facts.clear();
        particulars.person_role = 0;
    }
    let refused = nl.draft(&hits[0], lacking).await;
    let status = assert_refused(refused, Code::InvalidArgument, ErrorCode::FormIncomplete);
    assert!(
        status.message().contains("facts, person_role"),
        "{status:?}"
    );
    let id = accepted(&nl, &de, &hits[0]).await;
    let mut lacking = answer();
    lacking.outcomes.pop();
    let refused = de.propose(&id, T::Answer, lacking).await;
    let status = assert_refused(refused, Code::InvalidArgument, ErrorCode::FormIncomplete);
    assert!(status.message().contains("VEHICLES"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_clarification_and_delay_reach_the_other_side_with_their_texts() {
    let (_sandbox, [nl, de], hits) = units(3).await;
    let text = |text: &str| v1::FollowUpDraft {
        message: text.into(),
        ..Default::default()
    };
    // Clarified.
    let id = received(&nl, &de, &hits[0]).await;
    let asked = de.propose(&id, T::RequestClarification, text("Which painting?"));
    de.approve(&asked.await.expect("proposed"))
        .await
        .expect("approved");
    let view = at(&nl, &id, S::ClarificationRequested).await;
    assert!(!view.next_action.is_empty());
    let replied = nl.propose(&id, T::Reply, text("The one with the pearl."));
    nl.approve(&replied.await.expect("proposed"))
        .await
        .expect("approved");
    at(&de, &id, S::Received).await;
    let steps = de.case(&id).await.expect("answered").expect("here").steps;
    let said = steps.last().and_then(|step| step.content.clone());
    let Some(v1::node_follow_up_step::Content::Message(message)) = said else {
        panic!("a message");
    };
    assert_eq!(message.text, "The one with the pearl.");
    // Delayed by a court, then refused.
    let id = received(&nl, &de, &hits[1]).await;
    let delay = v1::FollowUpDraft {
        new_date: Some(prost_types::Timestamp {
            seconds: nl_now(&nl).await + 20 * 86_400,
            nanos: 0,
        }),
        ..text("The court sits on Tuesdays.")
    };
    let delayed = de.propose(&id, T::AwaitJudicialAuthorisation, delay);
    de.approve(&delayed.await.expect("proposed"))
        .await
        .expect("approved");
    for unit in [&nl, &de] {
        at(unit, &id, S::AwaitingJudicialAuthorisation).await;
    }
    let refusal = v1::FollowUpDraft {
        outcomes: [v1::FollowUpItem::Identity, v1::FollowUpItem::Vehicles]
            .map(|item| v1::ItemOutcome {
                item: item.into(),
                state: v1::ItemState::Refused.into(),
                ground: v1::RefusalGround::JudicialAuthorisationRefused.into(),
                pending_until: None,
            })
            .to_vec(),
        ..Default::default()
    };
    let refused = de.propose(&id, T::Refuse, refusal).await.expect("proposed");
    de.approve(&refused).await.expect("approved");
    at(&nl, &id, S::Refused).await;
    // Taken back before it was answered.
    let id = received(&nl, &de, &hits[2]).await;
    nl.end(&id, T::Withdraw).await.expect("withdrawn");
    at(&de, &id, S::Withdrawn).await;
    let late = de
        .propose(&id, T::Accept, v1::FollowUpDraft::default())
        .await;
    assert_refused(late, Code::FailedPrecondition, ErrorCode::IllegalTransition);
}

/// Seconds of a unit's clock, as far as its hits tell.
async fn nl_now(nl: &Unit) -> i64 {
    let threads = nl.threads().await.expect("listed");
    let hit = threads.into_iter().find_map(|thread| thread.hit);
    hit.and_then(|hit| hit.last_seen).expect("seen").seconds
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_holder_does_not_hold_any_more_ends_without_particulars() {
    let (_sandbox, [nl, de], hits) = units(2).await;
    let removed = de.remove("numbers", &numbers(0..1)).await;
    removed.expect("removed");
    let drafted = nl.draft(&hits[0], request()).await;
    // The hit may be retracted already; then there is nothing to follow up.
    let Ok(drafted) = drafted else { return };
    if nl.approve(&drafted).await.is_err() {
        return;
    }
    let id = id_of(&drafted).to_vec();
    // The hit may be retracted before the broker has the request, too: it is a draft again then.
    let mut ended = None;
    until(async || {
        let case = nl.case(&id).await.expect("answered");
        ended = case.and_then(|case| case.follow_up).filter(|view| {
            let ends = matches!(state_of(view), S::Draft | S::Closed);
            ends && !view.step_pending && view.proposal.is_none()
        });
        ended.is_some()
    })
    .await;
    let view = ended.expect("ended");
    if state_of(&view) == S::Draft {
        return;
    }
    assert_eq!(view.presence(), v1::PresenceState::NotHeld);
    let shown = de.case(&id).await.expect("answered").expect("here");
    let wire: usize = shown
        .steps
        .iter()
        .map(|step| {
            let statement = step.statement.clone().unwrap_or_default();
            statement.encoded_len()
        })
        .sum();
    assert!(wire > 0);
    assert!(shown.steps.iter().all(|step| {
        !matches!(
            step.content,
            Some(v1::node_follow_up_step::Content::Particulars(_))
        )
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn real_processes_that_are_killed_between_their_writes_lose_no_step_and_repeat_none() {
    let seconds = std::env::var("SOTTO_SOAK_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(45);
    let (mut broker, mut units) = processes("exec \"$@\"").await;
    let hits = confirmed(&units, 12).await;
    let mut open = Vec::new();
    for hit in &hits {
        let drafted = outlast(async || units[0].draft(hit, request()).await).await;
        open.push(id_of(&drafted).to_vec());
    }
    let all = open.clone();
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let (mut kills, mut round) = (0_u32, 0_usize);
    while !open.is_empty() {
        let mut left = Vec::new();
        for id in open {
            if !drive(&units[0], &units[1], &id)
                .await
                .expect("nothing final")
            {
                left.push(id);
            }
            round += 1;
            // One of the three in turn, at ever other places of what goes on.
            if round % 5 == 4 && tokio::time::Instant::now() < end {
                kills += 1;
                match kills % 3 {
                    0 => {
                        broker.kill().await;
                        broker.restart().await;
                    }
                    which => {
                        let unit = &mut units[which as usize - 1];
                        unit.kill().await;
                        unit.start_process().await;
                    }
                }
            }
        }
        open = left;
        let now = tokio::time::Instant::now();
        assert!(now < end + 2 * NEVER, "it does not come to an end");
    }
    println!(
        "{kills} kills while {} follow-ups went through their lives",
        all.len()
    );
    let expected = [
        T::Submit,
        T::Held,
        T::Particulars,
        T::Accept,
        T::Answer,
        T::Close,
    ];
    for id in &all {
        for unit in &units {
            let shown = unit.case(id).await.expect("answered").expect("here");
            let steps = shown.steps.iter().map(|step| step.step().domain());
            let steps: Vec<_> = steps.collect::<Option<_>>().expect("known");
            assert_eq!(steps, expected);
            let bodies: BTreeSet<_> = shown.steps.iter().map(desk_digest).collect();
            assert_eq!(bodies.len(), expected.len());
        }
    }
    let copies = async |unit: &Unit, id: &[u8]| {
        let shown = unit.case(id).await.expect("answered").expect("here");
        shown.steps.iter().map(desk_digest).collect::<Vec<_>>()
    };
    for id in &all {
        let (ours, theirs) = (copies(&units[0], id).await, copies(&units[1], id).await);
        assert_eq!(ours, theirs, "both keep the same statements");
    }
    assert_nothing_in_clear(&broker.data_dir());
}

fn desk_digest(step: &v1::NodeFollowUpStep) -> [u8; 32] {
    let statement = step.statement.clone().unwrap_or_default();
    sotto_tests::follow_up::digest(&statement.payload)
}

#[test]
fn the_sample_request_misses_nothing() {
    let draft = desk::request();
    let terms = draft.terms.as_ref().expect("terms");
    let terms = sotto_common::followup::step::Terms::try_from(terms).expect("terms");
    let particulars = draft.particulars.expect("particulars");
    let mut particulars = sotto_common::followup::content::Particulars::from(particulars);
    particulars.selector = sotto_common::secret::Selector::new(number(0));
    particulars.check(&terms).expect("nothing is missing");
}
