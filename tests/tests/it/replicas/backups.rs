//! Backups taken while brokers run, restored for a new broker (deploy: backups).

use std::path::{Path, PathBuf};

use sotto_common::selector::Policy::{Email, Phone};
use sotto_proto::v1;
use sotto_tests::cluster::{Objects, folder};
use sotto_tests::ledger::TestLedger;
use sotto_tests::probe::all_at;
use sotto_tests::process::{Site, Stores};
use sotto_tests::sandbox::{found, profile};
use sotto_tests::{BrokerProcess, Cluster, TestNode, emails, phones};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

/// Publishes a stack, makes hits, and leaves an upload unfinished; returns the hits.
async fn fill(nl: &TestNode, de: &TestNode) -> Vec<v1::Hit> {
    de.publish(Phone, &phones(0..50)).await;
    de.supplement(Phone, 1, &phones(50..60)).await;
    nl.find(Phone, &phones(40..55)).await;
    let begun = nl.draft(Phone, &phones(0..10)).await;
    nl.announce(&begun).await.expect("announced");
    nl.upload_chunk(&begun, 0, &begun.bits[..4096])
        .await
        .expect("acknowledged");
    nl.hits().await.expect("listed")
}

/// What is lost with everything since the backup: a filter, and hits of it.
async fn go_on(nl: &TestNode, de: &TestNode) {
    de.publish(Email, &emails(0..10)).await;
    nl.find(Email, &emails(0..10)).await;
}

/// The restored broker is the one of the backup, and works.
async fn check(broker: &BrokerProcess, nl: &TestNode, de: &TestNode, hits: Vec<v1::Hit>) {
    let (nl, de) = (broker.reached_by(nl), broker.reached_by(de));
    assert_eq!(hits.len(), 15);
    assert_eq!(nl.hits().await.expect("listed"), hits);
    let found = nl.find(Phone, &phones(0..100)).await;
    assert_eq!(found, all_at("de-bka", &phones(0..60)));
    assert_eq!(nl.hits().await.expect("listed").len(), 60);
    assert!(nl.find(Email, &emails(0..10)).await.is_empty());
    let mut stream = nl.watch(0).await.expect("open");
    for cursor in 1..=60 {
        let event = stream.message().await.expect("open").expect("an event");
        assert_eq!(event.cursor, cursor);
    }
    let listed = nl.list_publications(1).await.expect("listed").publications;
    assert_eq!(listed.len(), 1, "its upload is still there");
    de.publish(Email, &emails(0..10)).await;
    assert_eq!(
        nl.find(Email, &emails(0..20)).await,
        all_at("de-bka", &emails(0..10))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_postgresql_with_a_copy_of_the_objects_restores_a_broker() {
    let names = ["nl-fiu", "de-bka"];
    let cluster = Cluster::with_nodes(2, Objects::Folder, profile(), names).await;
    let Some((cluster, [nl, de])) = cluster else {
        return;
    };
    let hits = fill(&nl, &de).await;
    let TestLedger::Server(url) = &cluster.stores.ledger else {
        panic!("a cluster is on a server");
    };
    // The ledger first: what it needs is then in the copy.
    let dump = cluster.server.dump(url);
    let objects = folder(&cluster.site, "restored-objects");
    copy(
        &cluster.site.path("objects"),
        &cluster.site.path("restored-objects"),
    );
    go_on(&nl, &de).await;

    let stores = Stores {
        ledger: TestLedger::Server(cluster.server.restore(&dump)),
        objects,
        credentials: None,
    };
    let restored = BrokerProcess::at(&cluster.site, "restored", &stores, "info").await;
    check(&restored, &nl, &de, hits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_online_copy_of_sqlite_with_a_copy_of_the_objects_restores_a_broker() {
    let site = Site::create();
    let stores = Stores::local(TestLedger::File);
    let broker = BrokerProcess::at(&site, "main", &stores, "info").await;
    let [nl, de] = ["nl-fiu", "de-bka"].map(|name| broker.node(name));
    found(&broker.operator(), &profile(), &[&nl, &de]).await;
    let hits = fill(&nl, &de).await;

    let data: PathBuf = site.path("restored").join("broker");
    folder(&site, "restored");
    folder(&site, "restored/broker");
    vacuum_into(&broker.data_dir(), &data.join("ledger.db")).await;
    folder(&site, "restored/broker/objects");
    copy(&broker.data_dir().join("objects"), &data.join("objects"));
    go_on(&nl, &de).await;

    let restored = BrokerProcess::at(&site, "restored", &stores, "info").await;
    check(&restored, &nl, &de, hits).await;
}

/// A copy of the ledger of a running broker.
async fn vacuum_into(data_dir: &Path, file: &Path) {
    let options = SqliteConnectOptions::new().filename(data_dir.join("ledger.db"));
    let opened = SqliteConnection::connect_with(&options).await;
    let mut ledger = opened.expect("opened");
    let copied = sqlx::query("VACUUM INTO ?")
        .bind(file.display().to_string())
        .execute(&mut ledger)
        .await;
    copied.expect("copied");
    ledger.close().await.expect("closed");
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            std::fs::create_dir(&to).expect("a folder");
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).expect("copied");
        }
    }
}
