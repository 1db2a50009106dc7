//! What must never be on the broker's disk or in its log (protocol §7): selectors, tags, nonces.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use prost::bytes::Bytes;
use sotto_common::selector::Policy::{Email, Phone};
use sotto_tests::ledger::TestLedger;
use sotto_tests::sandbox::{found, profile};
use sotto_tests::{BrokerProcess, emails, phones};

/// Bytes in every form in which they could have been written.
fn forms_of(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![
        secret.to_vec(),
        hex::encode(secret).into_bytes(),
        hex::encode_upper(secret).into_bytes(),
        // As Rust prints a slice, and as it prints `Bytes`.
        format!("{secret:?}").trim_matches(['[', ']']).into(),
        format!("{:?}", Bytes::copy_from_slice(secret))
            .trim_start_matches('b')
            .trim_matches('"')
            .into(),
    ];
    // Base64 of a longer text has it at one of three alignments.
    for shift in 0..3 {
        let shifted = [&[0; 3][..shift], secret].concat();
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let text = engine.encode(&shifted);
            let whole = shifted.len() / 3 * 4;
            forms.push(text.as_bytes()[if shift == 0 { 0 } else { 4 }..whole].to_vec());
        }
    }
    forms
}

/// Fails if `haystack` holds one of `needles`.
fn assert_absent(what: &str, haystack: &[u8], needles: &HashSet<Vec<u8>>) {
    // What a needle can begin with, and how long it is then: few places need a closer look.
    let mut lengths: HashMap<[u8; 2], HashSet<usize>> = HashMap::new();
    for needle in needles {
        let start = [needle[0], needle[1]];
        lengths.entry(start).or_default().insert(needle.len());
    }
    let mut begins = vec![false; 1 << 16];
    for start in lengths.keys() {
        begins[usize::from(u16::from_be_bytes(*start))] = true;
    }
    for (at, pair) in haystack.array_windows().enumerate() {
        if !begins[usize::from(u16::from_be_bytes(*pair))] {
            continue;
        }
        for &length in &lengths[pair] {
            let candidate = haystack.get(at..at + length);
            let found = candidate.is_some_and(|candidate| needles.contains(candidate));
            assert!(!found, "a leak of {length} bytes in {what} at {at}");
        }
    }
}

fn every_file(dir: &Path, see: &mut impl FnMut(&Path, &[u8])) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            every_file(&path, see);
        } else {
            see(&path, &std::fs::read(&path).expect("a file"));
        }
    }
}

#[test]
fn the_search_finds_what_is_there_in_every_form() {
    let secret = [
        7, 0xfe, b'a', 0, 250, 13, 77, 8, 9, 10, 11, 12, 13, 14, 15, 200,
    ];
    let needles: HashSet<_> = forms_of(&secret).into_iter().collect();
    let shifted = [&[1, 2][..], &secret, &[3]].concat();
    for text in [
        format!("{secret:?}"),
        format!("{:?}", Bytes::copy_from_slice(&secret)),
        hex::encode(secret),
        STANDARD_NO_PAD.encode(&shifted),
        URL_SAFE_NO_PAD.encode(&shifted),
    ] {
        let found = std::panic::catch_unwind(|| assert_absent("a test", text.as_bytes(), &needles));
        assert!(found.is_err(), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_selector_tag_or_nonce_is_on_disk_or_in_the_log_at_trace_level() {
    let ledger = TestLedger::chosen();
    let mut process = BrokerProcess::on(&ledger, "trace").await;
    let [nl, de] = ["nl-fiu", "de-bka"].map(|name| process.node(name));
    found(&process.operator(), &profile(), &[&nl, &de]).await;
    let (values, addresses) = (phones(0..60), emails(0..20));
    let base = de.draft(Phone, &values[..40]).await;
    de.publish_draft(&base).await.expect("published");
    de.supplement(Phone, 1, &values[40..50]).await;
    de.publish(Email, &addresses).await;
    // An upload that stays one.
    let draft = nl.draft(Phone, &values).await;
    nl.announce(&draft).await.expect("announced");
    nl.upload(&draft, 0, |_| ()).await.expect("uploaded");

    let mut nonces = vec![];
    for (policy, asked) in [(Phone, &values), (Email, &addresses)] {
        let opening = nl.opening(policy);
        nonces.push(opening.nonce.to_vec());
        let pairs = nl.pairs(policy, asked);
        let mut probe = nl.open(opening.clone()).await.expect("opened");
        probe.batch(0, &pairs).await.expect("answered");
        probe.batch(0, &pairs).await.expect("answered again");
        probe.batch(0, &pairs[1..]).await.expect_err("a mismatch");
        let mut probe = nl.open(opening.clone()).await.expect("resumed");
        let twice = [pairs[0], pairs[0]];
        probe.batch(1, &twice).await.expect_err("malformed");
        let mut wrong_key = opening.clone();
        wrong_key.canary_tags[0] = pairs[0].0.expose().to_vec().into();
        nl.open(wrong_key).await.expect_err("refused");
        if policy == Phone {
            nl.open(opening)
                .await
                .expect("resumed")
                .close()
                .await
                .expect("closed");
        }
    }
    assert_eq!(nl.hits().await.expect("listed").len(), 70);

    let mut needles: HashSet<Vec<u8>> = HashSet::new();
    for (policy, list) in [(Phone, &values), (Email, &addresses)] {
        for value in list {
            needles.insert(value.expose().as_bytes().to_vec());
            needles.extend(forms_of(value.expose().as_bytes()));
            needles.extend(forms_of(nl.tag(1, policy, value).expose()));
        }
    }
    needles.extend(nonces.iter().flat_map(|nonce| forms_of(nonce)));
    let mut files = 0;
    let mut see = |path: &Path, content: &[u8]| {
        files += 1;
        assert_absent(&path.display().to_string(), content, &needles);
    };
    every_file(&process.data_dir(), &mut see);
    // Once with the ledger open and its WAL beside it, and once as a killed broker leaves it.
    process.kill().await;
    every_file(&process.data_dir(), &mut see);
    let expected = match ledger {
        TestLedger::File => 10,
        TestLedger::Server(_) => 8,
    };
    assert!(
        files >= expected,
        "ledger, WAL, filters and upload, twice: {files}"
    );
    let log = process.log();
    let captured = String::from_utf8_lossy(&log).contains("broker answers");
    assert!(captured, "the log was captured");
    // The ledger holds the salt of an active filter, and nothing else does (protocol §5).
    for published in [&base, &draft] {
        needles.extend(forms_of(published.header.salt.expose()));
    }
    assert_absent("the log", &log, &needles);
}
