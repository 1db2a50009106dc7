//! The ledger on PostgreSQL. `SOTTO_TEST_LEDGER=postgres` runs all the other tests on it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use sotto_common::secret::Selector;
use sotto_common::selector::Policy::{Email, Phone};
use sotto_common::testing::postgres::Server;
use sotto_proto::v1;
use sotto_tests::ledger::TestLedger;
use sotto_tests::probe::{Pair, all_at};
use sotto_tests::refusal::reason;
use sotto_tests::sandbox::{NEVER, found, profile};
use sotto_tests::{Draft, Sandbox, TestNode, emails, matched, phones};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A sandbox on a server of its own; none where PostgreSQL is missing.
async fn sandbox() -> Option<(Arc<Server>, Sandbox, [TestNode; 2])> {
    let server = tokio::task::spawn_blocking(Server::start)
        .await
        .expect("no panic")?;
    let sandbox = Sandbox::on(TestLedger::Server(server.database())).await;
    let nodes = ["nl-fiu", "de-bka"].map(|name| sandbox.node(name));
    found(&sandbox.operator(), &profile(), &nodes.each_ref()).await;
    Some((Arc::new(server), sandbox, nodes))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_flow_runs_and_survives_a_restart_of_the_broker() {
    let Some((_server, mut sandbox, [nl, de])) = sandbox().await else {
        return;
    };
    de.publish(Phone, &phones(0..50)).await;
    let found = nl.find(Phone, &phones(40..90)).await;
    assert_eq!(found, all_at("de-bka", &phones(40..50)));
    assert!(
        !sandbox.data_dir().join("ledger.db").exists(),
        "no other ledger"
    );
    sandbox.restart().await;
    assert_eq!(nl.hits().await.expect("listed").len(), 10);
    let found = nl.find(Phone, &phones(0..90)).await;
    assert_eq!(found, all_at("de-bka", &phones(0..50)));
}

/// What the load met while the server went away and came back.
#[derive(Default)]
struct Trouble {
    seen: AtomicU32,
    over: AtomicBool,
}

impl Trouble {
    /// Calls until it is answered; fails on any error but `UNAVAILABLE` with a time to wait.
    async fn outlast<T>(&self, mut call: impl AsyncFnMut() -> Result<T, Status>) -> T {
        loop {
            match call().await {
                Ok(value) => return value,
                Err(status) => self.pass(&status).await,
            }
        }
    }

    async fn pass(&self, status: &Status) {
        assert_eq!(
            (status.code(), reason(status).as_str()),
            (Code::Unavailable, "UNAVAILABLE"),
            "{status:?}"
        );
        let details = status.get_error_details();
        assert!(details.retry_info().is_some(), "{status:?}");
        self.seen.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_under_load_shows_as_unavailable_and_loses_nothing() {
    let Some((server, _sandbox, [nl, de])) = sandbox().await else {
        return;
    };
    de.publish(Phone, &phones(0..800)).await;
    let drafts = drafts(&nl).await;
    let trouble = &Trouble::default();
    let pairs = nl.pairs(Phone, &phones(0..4000));
    let probing = join_all(pairs.chunks(1000).map(|part| probe(&nl, part, trouble)));
    let publishing = publish(&nl, &de, &drafts, trouble);
    let restarting = restart(&server, trouble);
    let load = async { tokio::join!(probing, publishing, restarting) };
    let ended = tokio::time::timeout(NEVER, load).await;
    let (acknowledged, published, ()) = ended.expect("the load ends once the server is back");
    let acknowledged: BTreeSet<_> = acknowledged.into_iter().flatten().collect();
    println!(
        "{} times unavailable, {published} publications",
        trouble.seen.load(Ordering::Relaxed)
    );

    let limits = nl.limits().await.expect("listed");
    assert_eq!(limits[0].used_today, 4000, "each batch is counted once");
    let hits = nl.hits().await.expect("listed");
    let listed: BTreeSet<_> = hits.into_iter().map(|hit| hit.hit_id.to_vec()).collect();
    assert_eq!(listed.len(), 800);
    assert_eq!(listed, acknowledged);
    let mut stream = nl.watch(0).await.expect("open");
    for cursor in 1..=800 {
        let event = stream.message().await.expect("open").expect("an event");
        assert_eq!(event.cursor, cursor);
        assert!(listed.contains(&event.hit.expect("a hit").hit_id[..]));
    }
}

/// Probes all pairs batch by batch in one session; returns the hits that were acknowledged.
async fn probe(nl: &TestNode, pairs: &[Pair], trouble: &Trouble) -> BTreeSet<Vec<u8>> {
    let opening = nl.opening(Phone);
    let mut acknowledged = BTreeSet::new();
    let mut probe = trouble
        .outlast(async || nl.open(opening.clone()).await)
        .await;
    for (number, batch) in (0u32..).zip(pairs.chunks(10)) {
        let answer = loop {
            match probe.batch(number, batch).await {
                Ok(answer) => break answer,
                Err(status) => {
                    trouble.pass(&status).await;
                    probe = trouble
                        .outlast(async || nl.open(opening.clone()).await)
                        .await;
                }
            }
        };
        acknowledged.extend(matched(&answer).map(|(_, at)| at.hit_id.to_vec()));
    }
    let closed: v1::ProbeClosed = loop {
        match probe.close().await {
            Ok(closed) => break closed,
            Err(status) => {
                trouble.pass(&status).await;
                probe = trouble
                    .outlast(async || nl.open(opening.clone()).await)
                    .await;
            }
        }
    };
    assert_eq!((closed.batches, closed.refs), (100, 1000));
    acknowledged
}

/// Filters of five addresses each, in the order of their versions.
async fn drafts(nl: &TestNode) -> Vec<(Vec<Selector>, Draft)> {
    let mut drafts = vec![];
    for round in 0..100 {
        let values = emails(round * 10..round * 10 + 5);
        let mut draft = nl.draft(Email, &values).await;
        draft.header.version = u64::from(round) + 1;
        drafts.push((values, draft));
    }
    drafts
}

/// Publishes and withdraws until the trouble is over: whatever is acknowledged holds at once.
/// Returns how often it did.
async fn publish(
    nl: &TestNode,
    de: &TestNode,
    drafts: &[(Vec<Selector>, Draft)],
    trouble: &Trouble,
) -> usize {
    for (round, (values, draft)) in drafts.iter().enumerate() {
        if trouble.over.load(Ordering::Relaxed) {
            return round;
        }
        let mut offset = trouble.outlast(async || nl.announce(draft).await).await;
        while let Err(status) = nl.upload(draft, offset, |_| ()).await {
            trouble.pass(&status).await;
            offset = trouble.outlast(async || nl.announce(draft).await).await;
        }
        let activate = async || nl.activate(draft.id()).await;
        trouble.outlast(activate).await;
        let ask = async || de.ask(Email, values).await;
        assert_eq!(trouble.outlast(ask).await.refs.len(), 5, "round {round}");
        let withdraw = async || nl.withdraw(draft.id()).await;
        trouble.outlast(withdraw).await;
        assert_eq!(trouble.outlast(ask).await.refs.len(), 0, "round {round}");
    }
    drafts.len()
}

/// Restarts the server again and again, in good order and not.
async fn restart(server: &Arc<Server>, trouble: &Trouble) {
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let server = Arc::clone(server);
        let restarted = tokio::task::spawn_blocking(move || {
            if round % 2 == 0 {
                server.crash();
            } else {
                server.stop();
            }
            server.launch();
        });
        restarted.await.expect("restarted");
    }
    trouble.over.store(true, Ordering::Relaxed);
}
