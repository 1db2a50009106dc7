//! `kill -9` of the broker while nodes upload and probe, again and again.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use sotto_common::secret::{Selector, Tag};
use sotto_common::selector::Policy::Phone;
use sotto_proto::v1;
use sotto_proto::v1::PublicationState;
use sotto_tests::ledger::mapped_files;
use sotto_tests::probe::{Pair, all_at};
use sotto_tests::refusal::{is_passing, outlast};
use sotto_tests::sandbox::{found, profile};
use sotto_tests::{BrokerProcess, Draft, TestNode, matched, phones, seed};
use tokio::sync::oneshot;

async fn broker_with_nodes() -> (BrokerProcess, [TestNode; 2]) {
    let process = BrokerProcess::start("info").await;
    let nodes = ["nl-fiu", "de-bka"].map(|name| process.node(name));
    found(&process.operator(), &profile(), &nodes.each_ref()).await;
    (process, nodes)
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_go_on_at_the_acknowledged_offset_after_a_kill() {
    let mut rng = seed::rng();
    let (mut process, [nl, de]) = broker_with_nodes().await;
    let mut kills = 0;
    for round in 0..5 {
        // 15 pages, and as many chunks.
        let values = phones(round * 900..round * 900 + 100);
        let filler = (0..9000u128).map(|n| Tag::new(n.to_be_bytes()));
        let tags = nl.pairs(Phone, &values).into_iter().map(|(tag, _)| tag);
        let draft = nl.draft_of_tags(Phone, tags.chain(filler).collect()).await;
        kills += upload_amid_kills(&mut process, &nl, &draft, &mut rng).await;
        outlast(async || nl.activate(draft.id()).await).await;
        assert_eq!(
            de.find(Phone, &phones(round * 900..round * 900 + 900))
                .await,
            all_at("nl-fiu", &values)
        );
    }
    println!("{kills} kills");
    assert!(kills > 0);
}

/// Uploads to the end, whatever happens to the broker; returns how often it was killed.
async fn upload_amid_kills(
    process: &mut BrokerProcess,
    nl: &TestNode,
    draft: &Draft,
    rng: &mut StdRng,
) -> u32 {
    let (mut acknowledged, mut kills) = (0, 0);
    while acknowledged < draft.bits.len() as u64 {
        let offset = outlast(async || nl.announce(draft).await).await;
        assert!(
            offset >= acknowledged,
            "{offset} after {acknowledged} were acknowledged"
        );
        acknowledged = offset;
        let stop_at = offset + 4096 * rng.random_range(1..6);
        let (tell, told) = oneshot::channel();
        let mut tell = Some(tell);
        let uploading = nl.upload(draft, offset, |so_far| {
            acknowledged = so_far;
            if so_far >= stop_at {
                let _ = tell.take().map(|tell| tell.send(()));
            }
        });
        tokio::pin!(uploading);
        tokio::select! {
            biased;
            _ = told => {
                process.kill().await;
                // What was acknowledged on the way counts too.
                let _ = uploading.await;
                kills += 1;
                process.restart().await;
            }
            done = &mut uploading => done.expect("uploaded"),
        }
    }
    kills
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_wholly_active_or_not_at_all_when_the_broker_is_killed_at_its_activation() {
    let mut rng = seed::rng();
    let (mut process, [nl, de]) = broker_with_nodes().await;
    let mut active: Vec<Selector> = vec![];
    for round in 0..8u32 {
        // Each round replaces the stack by one of other values.
        let values = phones(round * 100..round * 100 + 50);
        let draft: Draft = nl.draft(Phone, &values).await;
        nl.announce(&draft).await.expect("announced");
        nl.upload(&draft, 0, |_| ()).await.expect("uploaded");
        let wait = Duration::from_micros(rng.random_range(0..25_000));
        let activating = async { nl.activate(draft.id()).await };
        let killing = async {
            tokio::time::sleep(wait).await;
            process.kill().await;
        };
        let (answered, ()) = tokio::join!(activating, killing);
        process.restart().await;

        let listed = outlast(async || nl.list_publications(1).await).await;
        let state = listed.publications[0].state();
        println!(
            "round {round}: {wait:?}, answered {}, {state:?}",
            answered.is_ok()
        );
        let took = state == PublicationState::Active;
        assert!(took || state == PublicationState::Uploading);
        assert!(took || answered.is_err(), "what was answered is durable");
        if took {
            active = values;
        }
        let asked = phones(0..900);
        assert_eq!(de.find(Phone, &asked).await, all_at("nl-fiu", &active));
        let actives = listed.publications.iter();
        let actives = actives
            .filter(|p| p.state() == PublicationState::Active)
            .count();
        let mapped = mapped_files(&process.data_dir());
        assert_eq!(mapped.len(), actives, "no file is left over");
        if !took {
            nl.activate(draft.id())
                .await
                .expect("its upload is still there");
            active = phones(round * 100..round * 100 + 50);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_hit_is_there_after_kills_amid_probe_sessions() {
    sotto_tests::day::with_room_for(Duration::from_mins(1)).await;
    let mut rng = seed::rng();
    let (mut process, [nl, de]) = broker_with_nodes().await;
    let values = phones(0..2000);
    de.publish(Phone, &values).await;
    let pairs = nl.pairs(Phone, &phones(0..4000));
    let batches: Vec<Vec<Pair>> = pairs.chunks(40).map(<[Pair]>::to_vec).collect();
    let opening = nl.opening(Phone);

    let mut acknowledged = BTreeSet::new();
    let mut next = 0;
    let mut kills = 0;
    while next < batches.len() {
        let opened = outlast(async || nl.open(opening.clone()).await);
        let mut probe = opened.await;
        if let Some(last) = probe.opened.last_answered {
            assert!(next == 0 || last as usize + 1 >= next);
        }
        let wait = Duration::from_micros(rng.random_range(20_000..400_000));
        let probing = async {
            while next < batches.len() {
                let number = u32::try_from(next).expect("small");
                match probe.batch(number, &batches[next]).await {
                    Ok(answer) => {
                        let ids = matched(&answer).map(|(_, at)| at.hit_id.clone());
                        acknowledged.extend(ids);
                        next += 1;
                    }
                    Err(status) if is_passing(&status) => return,
                    Err(status) => panic!("batch {next}: {status:?}"),
                }
            }
        };
        let killing = async {
            tokio::time::sleep(wait).await;
            process.kill().await;
        };
        tokio::join!(probing, killing);
        kills += 1;
        process.restart().await;
    }
    println!("{kills} kills");

    let probe = outlast(async || nl.open(opening.clone()).await).await;
    let closed = probe.close().await.expect("closed");
    assert_eq!(
        (closed.batches, closed.refs),
        (100, 4000),
        "each batch counted once"
    );
    let limits = nl.limits().await.expect("listed");
    assert_eq!(limits[0].used_today, 4000);
    check_stream(&nl, &acknowledged).await;
}

/// Every acknowledged hit is listed, and the stream has them in order, without gaps, up to the cap.
async fn check_stream(nl: &TestNode, acknowledged: &BTreeSet<prost::bytes::Bytes>) {
    let listed: BTreeSet<_> = nl
        .hits()
        .await
        .expect("listed")
        .into_iter()
        .map(|h| h.hit_id)
        .collect();
    assert_eq!(listed, *acknowledged);
    // Beyond the hit cap of the day they are held back.
    assert_eq!(listed.len(), 1000);
    let mut stream = nl.watch(0).await.expect("open");
    let mut streamed = BTreeSet::new();
    for cursor in 1..=1000 {
        let event = stream.message().await.expect("open").expect("an event");
        assert_eq!(event.cursor, cursor);
        streamed.insert(event.hit.map(|hit: v1::Hit| hit.hit_id).expect("a hit"));
    }
    assert_eq!(streamed, listed);
}
