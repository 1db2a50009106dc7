//! Callers that hang up in the middle of a call: what was begun is done whole, or not at all. And those
//! that do not read what they are answered.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt as _;
use sotto_common::selector::Policy::Phone;
use sotto_proto::v1::probe_response::Message as Answer;
use sotto_tests::probe::{all_at, batch_of, request};
use sotto_tests::sandbox::NEVER;
use sotto_tests::{Sandbox, phones, seed};
use tokio::time::timeout;

/// A time in which a call on loopback may have come to any of its steps.
fn moment(rng: &mut impl rand::Rng) -> Duration {
    Duration::from_micros(rng.random_range(500..12_000))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_the_ledger_calls_active_matches_and_a_withdrawn_one_does_not() {
    let rng = &mut seed::rng();
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let values = phones(0..5);
    for round in 0..25 {
        let draft = nl.draft(Phone, &values).await;
        nl.announce(&draft).await.expect("announced");
        nl.upload(&draft, 0, |_| ()).await.expect("uploaded");
        let waited = moment(rng);
        let cut = timeout(waited, nl.activate(draft.id())).await.is_err();
        nl.activate(draft.id())
            .await
            .expect("active, by this call or the one before");
        let found = de.find(Phone, &values).await;
        assert_eq!(
            found,
            all_at("nl-fiu", &values),
            "round {round}, {waited:?}, cut: {cut}"
        );

        let waited = moment(rng);
        let cut = timeout(waited, nl.withdraw(draft.id())).await.is_err();
        nl.withdraw(draft.id())
            .await
            .expect("withdrawn, by this call or the one before");
        let found = de.find(Phone, &values).await;
        assert_eq!(
            found,
            BTreeSet::new(),
            "round {round}, {waited:?}, cut: {cut}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_of_a_batch_whose_prober_hangs_up_still_reach_its_stream() {
    let rng = &mut seed::rng();
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    de.publish(Phone, &phones(0..900)).await;
    let mut stream = nl.watch(0).await.expect("open");
    let opening = nl.opening(Phone);
    let mut cursor = 0;
    for round in 0..25u32 {
        let from = round * 20;
        let pairs = nl.pairs(Phone, &phones(from..from + 20));
        let mut probe = nl.open(opening.clone()).await.expect("resumed");
        let batch = batch_message(round, &pairs);
        let _ = timeout(moment(rng), probe.ask(batch)).await;
        drop(probe);
        // The batch was recorded, or is asked now; either way its events are there.
        let mut probe = nl.open(opening.clone()).await.expect("resumed");
        if probe.opened.last_answered != Some(round) {
            probe.batch(round, &pairs).await.expect("answered");
        }
        for _ in 0..20 {
            let next = timeout(NEVER, stream.message()).await;
            let event = next
                .expect("an event in time")
                .expect("open")
                .expect("an event");
            cursor += 1;
            assert_eq!(event.cursor, cursor, "round {round}");
        }
    }
}

/// Answers of 14 KiB, so many that no buffer on their way has room for all.
const UNREAD: usize = 250;

#[tokio::test(flavor = "multi_thread")]
async fn a_prober_that_stops_reading_gets_every_answer_later_and_its_other_streams_go_on() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(["nl-fiu", "de-bka"]).await;
    let values = phones(0..900);
    de.publish(Phone, &values).await;
    let batch = batch_message(0, &nl.pairs(Phone, &values));
    let mut probe = nl.open(nl.opening(Phone)).await.expect("opened");
    let Answer::Answer(first) = probe.ask(batch.clone()).await.expect("answered") else {
        panic!("no answer to a batch");
    };
    assert!(first.matches.len() > 900 * 16);

    // The same again and again, which is neither counted nor recorded anew.
    let requests = probe.requests();
    let asking = tokio::spawn(async move {
        for _ in 0..UNREAD {
            let sent = requests.send(request(batch.clone())).await;
            sent.expect("the stream is open");
        }
    });
    for _ in 0..20 {
        let found = nl.find(Phone, &values[..1]).await;
        assert_eq!(found, all_at("de-bka", &values[..1]));
    }
    for i in 0..UNREAD {
        match probe.next().await.expect("answered") {
            Answer::Answer(answer) => assert_eq!(answer.matches, first.matches, "{i}"),
            other => panic!("no answer to a batch: {other:?}"),
        }
    }
    asking.await.expect("all were sent");
}

fn batch_message(
    number: u32,
    pairs: &[sotto_tests::probe::Pair],
) -> sotto_proto::v1::probe_request::Message {
    sotto_proto::v1::probe_request::Message::Batch(batch_of(number, pairs))
}
