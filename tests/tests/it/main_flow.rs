//! Publish, probe, hit (protocol §5–§7).

use std::collections::BTreeSet;

use sotto_common::filter::admission::Measure;
use sotto_common::filter::layers::{f_total, posterior};
use sotto_common::secret::Selector;
use sotto_common::selector::Policy::{Email, Phone};
use sotto_tests::probe::all_at;
use sotto_tests::sandbox::PRIOR;
use sotto_tests::{Sandbox, emails, matched, phones};

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_find_their_true_overlaps_and_no_others() {
    let (_sandbox, [nl, de, fr]) = Sandbox::with_nodes(["nl-fiu", "de-bka", "fr-pj"]).await;
    let (at_nl, at_de, at_fr) = (phones(0..300), phones(200..500), phones(450..900));
    nl.publish(Phone, &at_nl).await;
    de.publish(Phone, &at_de).await;
    fr.publish(Phone, &at_fr).await;
    nl.publish(Email, &emails(0..10)).await;

    let found = nl.find(Phone, &at_nl).await;
    assert_eq!(found, all_at("de-bka", &phones(200..300)));

    let mut overlaps = all_at("nl-fiu", &phones(200..300));
    overlaps.extend(all_at("fr-pj", &phones(450..500)));
    assert_eq!(de.find(Phone, &at_de).await, overlaps);

    let found = fr.find(Phone, &at_fr).await;
    assert_eq!(found, all_at("de-bka", &phones(450..500)));
    let found = fr.find(Email, &emails(5..15)).await;
    assert_eq!(found, all_at("nl-fiu", &emails(5..10)));

    assert_eq!(nl.hits().await.expect("listed").len(), 100);
    assert_eq!(de.hits().await.expect("listed").len(), 150);
    assert_eq!(fr.hits().await.expect("listed").len(), 55);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_never_tested_against_its_own_filters() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    nl.publish(Phone, &phones(0..10)).await;
    assert_eq!(nl.find(Phone, &phones(0..10)).await, BTreeSet::new());
    let targeted = nl.ask_only(&["nl-fiu"], Phone, &phones(0..10)).await;
    assert!(targeted.expect("answered").refs.is_empty());
    assert_eq!(de.find(Phone, &phones(0..10)).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_targets_are_tested_and_unknown_ones_are_simply_absent() {
    let (_sandbox, [nl, de, fr]) = Sandbox::with_nodes(["nl-fiu", "de-bka", "fr-pj"]).await;
    let values = phones(0..5);
    de.publish(Phone, &values).await;
    fr.publish(Phone, &values).await;
    for (targets, expected) in [
        (vec!["de-bka"], all_at("de-bka", &values)),
        (vec!["fr-pj", "zz-nobody"], all_at("fr-pj", &values)),
        (vec!["zz-nobody"], BTreeSet::new()),
    ] {
        let matches = nl.ask_only(&targets, Phone, &values).await;
        let found = nl.named(Phone, &values, &matches.expect("answered"));
        assert_eq!(found, expected, "{targets:?}");
    }
    assert_eq!(nl.find(Phone, &values).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_audience_matches_layer_by_layer() {
    let (_sandbox, [nl, de, fr]) = Sandbox::with_nodes(["nl-fiu", "de-bka", "fr-pj"]).await;
    let (base, more) = (phones(0..5), phones(5..9));
    let all: Vec<Selector> = phones(0..9);
    let draft = de.draft(Phone, &base).await.only_for(&["nl-fiu"]);
    de.publish_draft(&draft).await.expect("published");
    assert_eq!(nl.find(Phone, &all).await, all_at("de-bka", &base));
    assert_eq!(fr.find(Phone, &all).await, BTreeSet::new());

    let draft = de.draft(Phone, &more).await.only_for(&["fr-pj"]);
    let draft = draft.supplementing(1);
    de.publish_draft(&draft).await.expect("published");
    assert_eq!(nl.find(Phone, &all).await, all_at("de-bka", &base));
    assert_eq!(fr.find(Phone, &all).await, all_at("de-bka", &more));
}

#[tokio::test(flavor = "multi_thread")]
async fn supplements_add_and_a_new_base_replaces_the_stack() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    de.publish(Phone, &phones(0..5)).await;
    de.supplement(Phone, 1, &phones(5..8)).await;
    de.supplement(Phone, 1, &phones(8..9)).await;
    let asked = phones(0..20);
    let found = nl.find(Phone, &asked).await;
    assert_eq!(found, all_at("de-bka", &phones(0..9)));

    de.publish(Phone, &phones(8..12)).await;
    let found = nl.find(Phone, &asked).await;
    assert_eq!(found, all_at("de-bka", &phones(8..12)));
    let files = sotto_tests::ledger::filter_files(&sandbox.data_dir());
    // The object, and the copy that is mapped.
    assert_eq!(files.len(), 2, "replaced filters are deleted: {files:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_names_the_highest_version_that_matched() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    de.publish(Phone, &phones(0..3)).await;
    de.supplement(Phone, 1, &phones(1..3)).await;
    de.supplement(Phone, 1, &phones(2..3)).await;
    let matches = nl.ask(Phone, &phones(0..4)).await.expect("answered");
    let versions: Vec<_> = matched(&matches).map(|(_, at)| at.filter_version).collect();
    assert_eq!(versions, [1, 2, 3]);
    let hits = nl.hits().await.expect("listed");
    let mut stored: Vec<_> = hits.iter().map(|hit| hit.filter_version).collect();
    stored.sort_unstable();
    assert_eq!(stored, versions);
}

#[tokio::test(flavor = "multi_thread")]
async fn f_total_and_posterior_are_those_of_the_layers_tested() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let base = de.draft(Phone, &phones(0..900)).await;
    let published = de.publish_draft(&base).await.expect("published");
    let added = de.draft(Phone, &phones(900..950)).await.supplementing(1);
    de.publish_draft(&added).await.expect("published");

    let rates = [&base, &added].map(|draft| Measure::of(&draft.bits, 30).rate);
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b;
    assert!(close(published.false_positive_probability, rates[0]));

    let matches = nl.ask(Phone, &phones(7..8)).await.expect("answered");
    let (_, at) = matched(&matches).next().expect("a match");
    assert!(close(at.false_positive_probability, f_total(rates, 1)));
    let hits = nl.hits().await.expect("listed");
    assert!(close(hits[0].false_positive_probability, f_total(rates, 1)));
    assert!(close(
        hits[0].posterior,
        posterior(PRIOR, f_total(rates, 1))
    ));
    assert_eq!(hits[0].hit_id, at.hit_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_filter_matches_no_more_when_the_call_returns() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let base = de.publish(Phone, &phones(0..5)).await;
    let supplement = de.supplement(Phone, 1, &phones(5..8)).await;
    let second = de.supplement(Phone, 1, &phones(8..9)).await;
    let mut probe = nl.open(nl.opening(Phone)).await.expect("opened");
    let pairs = nl.pairs(Phone, &phones(0..20));

    for (number, (gone, left)) in (0u32..).zip([(supplement, 6), (base, 0)]) {
        de.withdraw(gone).await.expect("withdrawn");
        let matches = probe.batch(number, &pairs).await.expect("answered");
        assert_eq!(matches.refs.len(), left);
    }
    // A base takes its supplements with it, and withdrawing again changes nothing.
    de.withdraw(second).await.expect("withdrawn");
    let files = sotto_tests::ledger::filter_files(&sandbox.data_dir());
    assert!(files.is_empty(), "{files:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_matches_no_more_once_it_has_expired() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let hour = std::time::Duration::from_hours(1);
    let mut draft = de.draft(Phone, &phones(0..5)).await;
    draft.header.expires_at = sandbox.clock_now().plus(hour);
    de.publish_draft(&draft).await.expect("published");
    assert_eq!(nl.find(Phone, &phones(0..5)).await.len(), 5);
    sandbox.clock.advance(hour);
    assert_eq!(nl.find(Phone, &phones(0..5)).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn active_filters_survive_a_restart_and_still_match() {
    let (mut sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    de.publish(Phone, &phones(0..5)).await;
    de.supplement(Phone, 1, &phones(5..8)).await;
    sandbox.restart().await;
    assert_eq!(nl.find(Phone, &phones(0..20)).await.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_upload_does_not_take_an_active_filter_of_the_same_bits_with_it() {
    let (mut sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let draft = de.draft(Phone, &phones(0..5)).await;
    de.publish_draft(&draft).await.expect("published");
    let other = de.draft(Phone, &phones(0..5)).await.with_bits(draft.bits);
    de.announce(&other).await.expect("announced");
    de.withdraw(other.id()).await.expect("withdrawn");
    sandbox.restart().await;
    assert_eq!(nl.find(Phone, &phones(0..5)).await.len(), 5);
}
