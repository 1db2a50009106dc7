//! A node whose store was set back to a backup, with filters at the broker that it does not know.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sotto_common::ids::Role;
use sotto_proto::v1;
use sotto_proto::v1::publication_service_client::PublicationServiceClient;
use sotto_tests::{COMMUNITY, Sandbox, Unit};

use super::scene::{held_by, import, numbers, publication, units};

/// Copies of the files of a store.
struct Backup(Vec<(PathBuf, Vec<u8>)>);

impl Backup {
    /// Of a unit that is stopped: then everything is in the files.
    fn of(unit: &Unit) -> Self {
        let files = std::fs::read_dir(unit.data_dir()).expect("a folder");
        let paths = files.map(|file| file.expect("a file").path());
        let of_store = paths.filter(|path| is_of_the_store(path));
        Self(
            of_store
                .map(|path| (path.clone(), std::fs::read(&path).expect("read")))
                .collect(),
        )
    }

    fn restore(&self, unit: &Unit) {
        for (path, _) in Self::of(unit).0 {
            std::fs::remove_file(path).expect("removed");
        }
        for (path, content) in &self.0 {
            std::fs::write(path, content).expect("written");
        }
    }
}

fn is_of_the_store(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("node.db"))
}

/// The states of a unit's publications at the broker.
async fn active(sandbox: &Sandbox, unit: &str) -> Vec<u64> {
    let channel = sandbox.lab().channel(Role::Node, unit, &sandbox.url());
    let request = v1::ListPublicationsRequest {
        community: COMMUNITY.into(),
        epoch: 1,
        policy: String::new(),
    };
    let mut broker = PublicationServiceClient::new(channel);
    let listed = broker.list_publications(request).await.expect("listed");
    let all = listed.into_inner().publications.into_iter();
    all.filter(|p| p.state() == v1::PublicationState::Active)
        .map(|p| p.version)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_node_withdraws_what_it_does_not_know_though_it_has_nothing_to_publish() {
    let (sandbox, [nl, mut de]) = units(["nl-fiu", "de-bka"], "").await;
    de.stop().await;
    let empty = Backup::of(&de);
    de.start(Arc::new(sandbox.clock.clone())).await;
    import(&de, &numbers(0..10)).await;
    de.publish().await.expect("published");
    import(&nl, &numbers(0..10)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    let found = async || held_by(&nl, "de-bka").await == numbers(0..10);
    sandbox.eventually(found).await;
    de.stop().await;
    empty.restore(&de);
    assert_eq!(active(&sandbox, "de-bka").await, [1]);
    de.start(Arc::new(sandbox.clock.clone())).await;
    let withdrawn = async || active(&sandbox, "de-bka").await.is_empty();
    sandbox.eventually(withdrawn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_node_replaces_what_it_does_not_know_though_nothing_is_new() {
    let (sandbox, [nl, mut de]) = units(["nl-fiu", "de-bka"], "").await;
    import(&de, &numbers(0..10)).await;
    de.publish().await.expect("published");
    de.stop().await;
    let before = Backup::of(&de);
    de.start(Arc::new(sandbox.clock.clone())).await;
    // A supplement on the base that the backup knows.
    import(&de, &numbers(10..20)).await;
    de.publish().await.expect("published");
    assert_eq!(publication(&de).await.supplements, 1);
    import(&nl, &numbers(0..20)).await;
    nl.probe_by_itself("numbers").await.expect("set");
    let found = async || held_by(&nl, "de-bka").await == numbers(0..20);
    sandbox.eventually(found).await;
    de.stop().await;
    before.restore(&de);
    de.start(Arc::new(sandbox.clock.clone())).await;
    let replaced = async || active(&sandbox, "de-bka").await == [3];
    sandbox.eventually(replaced).await;
    let gone = async || held_by(&nl, "de-bka").await == numbers(0..10);
    sandbox.eventually(gone).await;
    // The broker shows it before the unit has written it down.
    let known = async || publication(&de).await.version == 3;
    sandbox.eventually(known).await;
    // It is done once: another start finds everything known.
    de.stop().await;
    de.start(Arc::new(sandbox.clock.clone())).await;
    let settled = async || super::world::is_settled(&de).await;
    sandbox.eventually(settled).await;
    assert_eq!(active(&sandbox, "de-bka").await, [3]);
}
