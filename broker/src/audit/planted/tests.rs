use serde_json::json;
use sotto_common::log::action::Action;
use sotto_common::log::planted::{Part, Seed};
use sotto_common::random::os_rng;
use sotto_common::selector::Policy;
use sotto_common::time::CLOCK_SKEW;

use super::super::testing::{HOLDER, History, NOW, PROBER, community, erase, node};
use super::*;

fn plan(policy: Policy, planted: &[&str], decoys: &[&str]) -> Plan {
    let selectors = |texts: &[&str]| texts.iter().copied().map(Selector::new).collect();
    Plan {
        planting: Planting {
            community: community(),
            policy,
            prober: node(PROBER),
            holder: node(HOLDER),
        },
        made_at: NOW,
        first: 7,
        planted: selectors(planted),
        decoys: selectors(decoys),
    }
}

fn told(value: &str, hit: HitId, leaf: Option<u64>) -> ToldHit {
    ToldHit {
        hit,
        policy: "phone/1".into(),
        holder: HOLDER.into(),
        state: Some(HitState::New),
        value: Selector::new(value),
        first_seen: Some(NOW),
        leaf,
    }
}

fn some_hit() -> HitId {
    HitId::generate(NOW, &mut os_rng())
}

/// A history in which the two hits of a plan were found, and the hits as the prober was told of them.
fn planted_and_found() -> (History, Plan, Vec<ToldHit>) {
    let history = History::whole();
    let plan = plan(Policy::Phone, &["a", "b"], &[]);
    let hits = [("a", history.hits[0]), ("b", history.hits[1])];
    let hits = hits.map(|(value, hit)| told(value, hit, None));
    (history, plan, hits.to_vec())
}

fn check(plan: &Plan, hits: &[ToldHit], entries: &[sotto_proto::v1::LoggedEntry]) -> Logged {
    let mut check = LogCheck::new(plan);
    for entry in entries {
        check.take(entry);
    }
    check.finish(&plan.compare(hits))
}

#[test]
fn a_plan_is_read_as_it_was_written_and_has_the_selectors_but_no_seed() {
    let mut written = plan(Policy::Email, &[], &[]);
    let seed = Seed::generate(&mut os_rng());
    let made = written.planting.selectors(&seed, Part::Planted, 7, 3);
    written.planted = made.unwrap();
    let text = written.write().unwrap();
    assert_eq!(Plan::parse(text.as_bytes()), Ok(written.clone()));
    assert!(text.contains(written.planted[2].expose()));
    assert!(!text.contains(seed.line().trim()));
    let shown = format!("{written:?}");
    assert!(!shown.contains("planted.invalid"), "{shown}");
    let later = text.replace("\"version\": 1", "\"version\": 2");
    let refused = Plan::parse(later.as_bytes());
    assert_eq!(refused, Err(Unreadable::Version(2)));
    for bad in ["", "[]", "{}", &text.replace(PROBER, "nobody")] {
        assert_eq!(Plan::parse(bad.as_bytes()), Err(Unreadable::Plan));
    }
}

#[test]
fn hits_are_read_as_the_node_prints_them() {
    let hit = some_hit();
    let row = json!({
        "hit": hit.to_string(), "policy": "phone/1", "holder": HOLDER, "state": "RETRACTED",
        "dataset": "d", "record": "d#1", "value": "a", "first_seen": NOW.to_string(),
        "last_seen": null, "filter_version": 1, "cases": ["c"], "verified": true, "leaf": 12,
    });
    let read = parse_hits(json!([row]).to_string().as_bytes()).unwrap();
    let expected = ToldHit {
        state: Some(HitState::Retracted),
        ..told("a", hit, Some(12))
    };
    assert_eq!(read, [expected]);
    let refused = parse_hits(b"[{\"hit\": \"a@planted.invalid\"}]").unwrap_err();
    assert!(!refused.to_string().contains("planted.invalid"));
    assert_eq!(parse_hits(b"[]\n"), Ok(Vec::new()));
}

#[test]
fn what_was_told_of_everything_planted_leaves_nothing_missing() {
    let plan = plan(Policy::Phone, &["a", "b"], &["x"]);
    let hits = [
        told("b", some_hit(), None),
        told("a", some_hit(), Some(3)),
        // The same record in another dataset, and what is verified comes first.
        told("b", some_hit(), Some(4)),
    ];
    let comparison = plan.compare(&hits);
    assert_eq!((comparison.counts(), comparison.verified()), ((2, 2), 2));
    let numbers: Vec<_> = comparison.reported.iter().map(|hit| hit.number).collect();
    assert_eq!(
        (numbers, comparison.reported[1].hit),
        (vec![7, 8], hits[2].hit)
    );
    assert_eq!((comparison.missing.len(), comparison.unplanned), (0, 0));
}

#[test]
fn what_is_missing_is_named_by_its_number() {
    let plan = plan(Policy::Phone, &["a", "b", "c"], &[]);
    let mut retracted = told("b", some_hit(), None);
    retracted.state = Some(HitState::Retracted);
    let comparison = plan.compare(&[retracted]);
    assert_eq!(comparison.missing, [7, 9]);
    assert_eq!((comparison.counts(), comparison.retracted()), ((1, 3), 1));
    assert_eq!(plan.selector(9), Some(&Selector::new("c")));
    assert_eq!((plan.selector(6), plan.selector(10)), (None, None));
}

#[test]
fn hits_of_others_are_passed_over_and_hits_that_nobody_planted_are_counted() {
    let plan = plan(Policy::Phone, &["a", "b"], &["x"]);
    let elsewhere = ToldHit {
        holder: "fr-pj".into(),
        ..told("b", some_hit(), None)
    };
    let of_another_policy = ToldHit {
        policy: "email/1".into(),
        ..told("b", some_hit(), None)
    };
    let hits = [
        told("a", some_hit(), None),
        told("+31612345678", some_hit(), None),
        told("", some_hit(), None),
        told("x", some_hit(), None),
        elsewhere,
        of_another_policy,
    ];
    let comparison = plan.compare(&hits);
    assert_eq!((comparison.counts(), comparison.missing), ((1, 2), vec![8]));
    assert_eq!(comparison.unplanned, 2);
}

#[test]
fn reported_hits_and_the_batches_they_came_of_are_in_the_log() {
    let (history, plan, mut hits) = planted_and_found();
    let logged = check(&plan, &hits, &history.logged());
    assert_eq!((logged.logged, logged.unread), (2, 0));
    assert!(logged.unlogged.is_empty() && logged.later.is_empty());
    let asked = (logged.sessions, logged.batches, logged.refs);
    assert_eq!((asked, logged.lacks_batches()), ((1, 1, 60), false));
    // Where the node was proved the entry, it is.
    let leaf = history.nth(Action::FindHit, 1);
    hits[1].leaf = Some(leaf.try_into().unwrap());
    assert_eq!(check(&plan, &hits, &history.logged()).logged, 2);
    hits[1].leaf = Some(0);
    assert_eq!(check(&plan, &hits, &history.logged()).unlogged, [8]);
}

#[test]
fn a_hit_that_was_told_and_not_logged_is_found_out_unless_the_export_is_too_old() {
    let (mut history, plan, mut hits) = planted_and_found();
    history.entries.remove(history.nth(Action::FindHit, 1));
    let entries = history.logged();
    assert_eq!(check(&plan, &hits, &entries).unlogged, [8]);
    hits[1].first_seen = Some(history.entries.last().unwrap().at);
    let logged = check(&plan, &hits, &entries);
    assert_eq!((logged.later, logged.unlogged), (vec![8], vec![]));
    hits[1].leaf = Some(entries.len() as u64);
    assert_eq!(check(&plan, &hits, &entries).later, [8]);
    hits[1].leaf = Some(3);
    assert_eq!(check(&plan, &hits, &entries).unlogged, [8]);
}

#[test]
fn a_hit_of_another_pair_is_not_the_hit_that_was_planted() {
    let (mut history, plan, hits) = planted_and_found();
    let found = history.nth(Action::FindHit, 0);
    history.entries[found].object.node = Some(node("fr-pj"));
    assert_eq!(check(&plan, &hits, &history.logged()).unlogged, [7]);
}

#[test]
fn what_the_flood_guard_holds_back_is_counted_until_it_is_released() {
    let (mut history, plan, _) = planted_and_found();
    let held_back = some_hit();
    history.found(Action::QuarantineHit, held_back);
    assert_eq!(check(&plan, &[], &history.logged()).held_back, 1);
    let states = (HitState::Quarantined, HitState::New);
    history.moved(Action::ReleaseHit, PROBER, held_back, states);
    assert_eq!(check(&plan, &[], &history.logged()).held_back, 0);
}

#[test]
fn hits_without_a_batch_that_they_came_of_are_found_out() {
    let (mut history, mut plan, hits) = planted_and_found();
    let batch = history.nth(Action::AnswerBatch, 0);
    let asked = history.entries[batch].at;
    history.entries.remove(batch);
    assert!(check(&plan, &hits, &history.logged()).lacks_batches());
    // What was asked before the plan was made asked for none of it.
    let (history, ..) = planted_and_found();
    plan.made_at = asked.plus(CLOCK_SKEW);
    assert!(!check(&plan, &hits, &history.logged()).lacks_batches());
    plan.made_at = asked.plus(CLOCK_SKEW * 2);
    assert!(check(&plan, &hits, &history.logged()).lacks_batches());
    // Nor can it be said of a log that is erased.
    let mut erased = history.logged();
    erased.iter_mut().for_each(erase);
    let logged = check(&plan, &hits, &erased);
    assert!(!logged.lacks_batches() && logged.unread > 0);
}
