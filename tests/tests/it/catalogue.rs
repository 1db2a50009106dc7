//! Whom a node is told that it can probe (protocol §5.4).

use std::time::Duration;

use sotto_common::error::ErrorCode;
use sotto_common::ids::Role;
use sotto_common::selector::Policy::{Email, Phone};
use sotto_proto::v1;
use sotto_proto::v1::publication_service_client::PublicationServiceClient;
use sotto_tests::cluster::Objects;
use sotto_tests::probe::all_at;
use sotto_tests::refusal::{outlast, pause};
use sotto_tests::sandbox::{open_epoch, profile};
use sotto_tests::{COMMUNITY, Cluster, Sandbox, assert_refused, phones};
use tonic::Code;

const MEMBERS: [&str; 3] = ["nl-fiu", "de-bka", "fr-pj"];
const PHONE: &str = "phone/1";
const EMAIL: &str = "email/1";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_told_of_what_it_may_be_tested_against_and_of_nothing_else() {
    let (sandbox, [nl, de, fr]) = Sandbox::with_nodes(MEMBERS).await;
    assert!(nl.catalogue().await.stacks.is_empty(), "complete and empty");
    de.publish(Phone, &phones(0..3)).await;
    nl.publish(Phone, &phones(0..3)).await;
    let draft = de.draft(Email, &phones(0..3)).await.only_for(&["fr-pj"]);
    de.publish_draft(&draft).await.expect("published");
    // Announced and uploaded is not active.
    let upload = fr.draft(Phone, &phones(0..3)).await;
    fr.announce(&upload).await.expect("announced");
    fr.upload(&upload, 0, |_| ()).await.expect("uploaded");

    assert_eq!(nl.catalogue().await.holders(1), [("de-bka", PHONE)]);
    assert_eq!(de.catalogue().await.holders(1), [("nl-fiu", PHONE)]);
    assert_eq!(
        fr.catalogue().await.holders(1),
        [("de-bka", EMAIL), ("de-bka", PHONE), ("nl-fiu", PHONE)]
    );
    // "All members" are those of the epoch: one that came later cannot probe in it.
    let be = sandbox.node("be-fgp");
    sandbox.operator().enrol("be-fgp").await.expect("enrolled");
    assert!(be.catalogue().await.stacks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_the_layers_for_a_node_is_told_and_none_of_the_others() {
    let (_sandbox, [nl, de, _fr]) = Sandbox::with_nodes(MEMBERS).await;
    let mut catalogue = nl.catalogue().await;
    let stack = (1, PHONE.to_owned(), "de-bka".to_owned());
    let base = de.publish(Phone, &phones(0..3)).await;
    catalogue.next().await.expect("told");
    let alone = catalogue.stacks[&stack].clone();

    let supplement = de.supplement(Phone, 1, &phones(3..5)).await;
    catalogue.next().await.expect("told");
    assert_ne!(catalogue.stacks[&stack], alone);
    de.withdraw(supplement).await.expect("withdrawn");
    catalogue.next().await.expect("told");
    assert_eq!(catalogue.stacks[&stack], alone, "the same layers again");

    // For another: the next that is told is of what comes after it.
    let draft = de.draft(Phone, &phones(5..6)).await.supplementing(1);
    let draft = draft.only_for(&["fr-pj"]);
    de.publish_draft(&draft).await.expect("published");
    let second = de.publish(Phone, &phones(0..3)).await;
    let told = catalogue.next().await.expect("told");
    assert_eq!(told.entries.len(), 1);
    assert!(told.complete);
    assert_ne!(
        catalogue.stacks[&stack], alone,
        "the same bits, published anew"
    );
    // What it replaced is withdrawn to no effect.
    de.withdraw(base).await.expect("withdrawn");
    de.withdraw(second).await.expect("withdrawn");
    catalogue.next().await.expect("told");
    assert!(catalogue.stacks.is_empty());

    // A base that leaves the node out takes it away too.
    de.publish(Phone, &phones(0..3)).await;
    catalogue.next().await.expect("told");
    assert_eq!(catalogue.stacks.len(), 1);
    let draft = de.draft(Phone, &phones(0..3)).await.only_for(&["fr-pj"]);
    de.publish_draft(&draft).await.expect("published");
    catalogue.next().await.expect("told");
    assert!(catalogue.stacks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_expires_is_told_as_gone_when_its_time_is_over() {
    let (sandbox, [nl, de, _fr]) = Sandbox::with_nodes(MEMBERS).await;
    let stack = (1, PHONE.to_owned(), "de-bka".to_owned());
    let hour = Duration::from_hours(1);
    let mut base = de.draft(Phone, &phones(0..3)).await;
    base.header.expires_at = sandbox.clock_now().plus(2 * hour);
    de.publish_draft(&base).await.expect("published");
    let mut catalogue = nl.catalogue().await;
    let alone = catalogue.stacks[&stack].clone();
    let mut added = de.draft(Phone, &phones(3..5)).await.supplementing(1);
    added.header.expires_at = sandbox.clock_now().plus(hour);
    de.publish_draft(&added).await.expect("published");
    catalogue.next().await.expect("told");
    assert_ne!(catalogue.stacks[&stack], alone);

    sandbox.clock.advance(hour);
    catalogue.next().await.expect("told");
    assert_eq!(catalogue.stacks[&stack], alone);
    sandbox.clock.advance(hour);
    catalogue.next().await.expect("told");
    assert!(catalogue.stacks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_epochs_are_told_beside_each_other_and_the_end_of_one() {
    let (_sandbox, [nl, de, fr]) = Sandbox::with_nodes(MEMBERS).await;
    de.publish(Phone, &phones(0..3)).await;
    let mut catalogue = nl.catalogue().await;
    open_epoch(2, &profile(), &[&nl, &de, &fr]).await;
    fr.publish(Email, &phones(0..3)).await;
    catalogue.next().await.expect("told");
    assert_eq!(catalogue.holders(1), [("de-bka", PHONE)]);
    assert_eq!(catalogue.holders(2), [("fr-pj", EMAIL)]);
    nl.end_epoch(1).await.expect("ended");
    catalogue.next().await.expect("told");
    assert!(catalogue.holders(1).is_empty());
    assert_eq!(catalogue.holders(2), [("fr-pj", EMAIL)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_ends_the_stream_and_a_new_one_names_the_same_layers_alike() {
    let (mut sandbox, [nl, de, fr]) = Sandbox::with_nodes(MEMBERS).await;
    de.publish(Phone, &phones(0..3)).await;
    de.supplement(Phone, 1, &phones(3..5)).await;
    fr.publish(Email, &phones(0..3)).await;
    let mut before = nl.catalogue().await;
    sandbox.restart().await;
    let ended = before.next().await.expect_err("ended");
    assert_eq!(ended.code(), Code::Unavailable);
    let after = nl.catalogue().await;
    assert_eq!(after.stacks, before.stacks);
    assert_eq!(after.stacks.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_is_for_nodes_of_the_community_as_long_as_they_are() {
    let (sandbox, [nl, de, fr]) = Sandbox::with_nodes(MEMBERS).await;
    de.publish(Phone, &phones(0..3)).await;
    let mut footprint = sandbox.footprint().await;
    let request = |community: &str| v1::WatchCatalogueRequest {
        community: community.into(),
    };
    for role in [Role::Analyst, Role::Auditor, Role::Operator, Role::Broker] {
        let channel = sandbox.lab().channel(role, "nl-fiu", &sandbox.url());
        let mut service = PublicationServiceClient::new(channel);
        let refused = service.watch_catalogue(request(COMMUNITY)).await;
        assert_refused(refused, Code::PermissionDenied, ErrorCode::RoleForbidden);
    }
    let refused = sandbox.node("be-fgp").watch_catalogue().await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::NotAMember);
    let refused = nl.publications().watch_catalogue(request("no-such")).await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::NotAMember);
    let refused = nl.publications().watch_catalogue(request("NO SUCH")).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::InvalidField);
    footprint.assert_unchanged().await;

    let (mut of_fr, mut of_nl) = (fr.catalogue().await, nl.catalogue().await);
    let suspended = sandbox.operator().suspend("fr-pj", "its key is lost").await;
    suspended.expect("suspended");
    let ended = of_fr.next().await;
    assert_refused(ended, Code::PermissionDenied, ErrorCode::NotAMember);
    let refused = fr.watch_catalogue().await;
    assert_refused(refused, Code::PermissionDenied, ErrorCode::NotAMember);
    of_nl.next().await.expect("its epoch ended with it");
    assert!(of_nl.stacks.is_empty());

    // One that has nothing to be told any more is told that it is suspended all the same.
    let mut of_de = de.catalogue().await;
    sandbox
        .operator()
        .suspend("de-bka", "left")
        .await
        .expect("suspended");
    assert_refused(
        of_de.next().await,
        Code::PermissionDenied,
        ErrorCode::NotAMember,
    );
    let serial = sandbox.lab().serial(Role::Node, "nl-fiu");
    sandbox.lab().revoke(&[serial]);
    let ended = of_nl.next().await;
    assert_refused(ended, Code::Unauthenticated, ErrorCode::CertificateRevoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_broker_tells_matches_at_every_other() {
    const ROUNDS: u32 = 6;
    let names = ["nl-fiu", "de-bka"];
    let started = Cluster::with_nodes(3, Objects::Folder, profile(), names).await;
    let Some((cluster, [nl, de])) = started else {
        return;
    };
    let (nl, de) = (cluster.direct(&nl), cluster.direct(&de));
    let mut catalogues = vec![];
    for nl in &nl {
        catalogues.push(nl.catalogue().await);
    }
    for round in 0..ROUNDS {
        let at = round as usize % 3;
        let values = phones(round * 10..round * 10 + 10);
        let holder = std::sync::Arc::clone(&de[at]);
        let publishing = values.clone();
        let published = tokio::spawn(async move {
            let draft = holder.draft(Phone, &publishing).await;
            holder.publish_through(&draft).await;
        });
        let told_by = (at + 1) % 3;
        catalogues[told_by].next().await.expect("told");
        // Told, whether or not the holder has its answer yet.
        for nl in &nl {
            let found = nl.find_through(Phone, &values).await;
            assert_eq!(found, all_at("de-bka", &values), "round {round}");
        }
        published.await.expect("published");
        for other in [at, (at + 2) % 3] {
            catalogues[other].next().await.expect("told");
        }
    }
    let names: Vec<_> = catalogues.iter().map(|c| &c.stacks).collect();
    assert!(names.iter().all(|stacks| **stacks == *names[0]), "one name");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_while_a_broker_does_not_match_it_yet() {
    let names = ["nl-fiu", "de-bka"];
    let started = Cluster::with_nodes(3, Objects::Folder, profile(), names).await;
    let Some((cluster, [nl, de])) = started else {
        return;
    };
    let (nl, de) = (cluster.direct(&nl), cluster.direct(&de));
    let mut catalogue = nl[0].catalogue().await;
    let frozen = &cluster.replicas[2];
    let values = phones(0..10);
    let draft = de[1].draft(Phone, &values).await;
    de[1].announce(&draft).await.expect("announced");
    de[1].upload(&draft, 0, |_| ()).await.expect("uploaded");
    frozen.freeze();
    let holder = std::sync::Arc::clone(&de[1]);
    let id = draft.id();
    let activating = tokio::spawn(async move {
        while let Err(status) = holder.activate(id).await {
            pause(&status).await;
        }
    });
    // The broker that tells matches already, and knows of the third that it may not.
    while nl[0].find_through(Phone, &values).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Time enough to be told: without waiting for the third, this takes some milliseconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let told = catalogue.has_next().expect("open");
    if told || activating.is_finished() {
        // On a machine that takes so long the third has lost its place, and holds up nobody.
        assert!(cluster.places().await < 3, "the third may not match yet");
    }
    frozen.thaw();
    if !told {
        catalogue.next().await.expect("told");
    }
    assert_eq!(catalogue.holders(1), [("de-bka", PHONE)]);
    for nl in &nl {
        let answer = outlast(async || nl.ask(Phone, &values).await).await;
        assert_eq!(nl.named(Phone, &values, &answer), all_at("de-bka", &values));
    }
    activating.await.expect("activated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_outlasts_the_crash_of_the_database() {
    let names = ["nl-fiu", "de-bka"];
    let started = Cluster::with_nodes(1, Objects::Folder, profile(), names).await;
    let Some((cluster, [nl, de])) = started else {
        return;
    };
    let mut catalogue = nl.catalogue().await;
    cluster.server.crash();
    nl.hits().await.expect_err("away");
    cluster.server.launch();
    outlast(async || nl.hits().await).await;
    let draft = de.draft(Phone, &phones(0..3)).await;
    let acknowledged = outlast(async || de.announce(&draft).await).await;
    outlast(async || de.upload(&draft, acknowledged, |_| ()).await).await;
    outlast(async || de.activate(draft.id()).await).await;
    catalogue.next().await.expect("the same stream goes on");
    assert_eq!(catalogue.holders(1), [("de-bka", PHONE)]);
}
