//! What is refused of a publication, and that nothing of it stays (protocol §5.3, §5.4, §6).

use sotto_common::error::ErrorCode;
use sotto_common::filter::{Class, FilterParams, LINE_LEN, PAGE_LEN, contains};
use sotto_common::ids::PublicationId;
use sotto_common::publication::{FilterHeader, MAX_CHUNK};
use sotto_common::random::os_rng;
use sotto_common::secret::Tag;
use sotto_common::selector::Policy::{Email, Phone, Vin};
use sotto_proto::v1::PublicationState;
use sotto_proto::{convert, v1};
use sotto_tests::node::canary_tags;
use sotto_tests::{Draft, Sandbox, TestNode, assert_refused, phones, refusal};
use tonic::Code;

const MEMBERS: [&str; 2] = ["nl-fiu", "de-bka"];

/// A header that breaks a rule is refused when it is announced, and leaves nothing behind.
async fn refuses_header(change: impl FnOnce(&mut FilterHeader), code: Code, why: ErrorCode) {
    let (sandbox, [nl, _de]) = Sandbox::with_nodes(MEMBERS).await;
    let mut draft = nl.draft(Phone, &phones(0..10)).await;
    change(&mut draft.header);
    let mut footprint = sandbox.footprint().await;
    assert_refused(nl.announce(&draft).await, code, why);
    footprint.assert_unchanged().await;
}

/// Bits that break a rule are refused when they are to be activated, and deleted.
async fn refuses_bits(change: impl FnOnce(&TestNode, Draft) -> Draft, code: Code, why: ErrorCode) {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    nl.publish(Phone, &phones(0..3)).await;
    let draft = nl.draft(Phone, &phones(0..10)).await;
    let draft = change(&nl, draft);
    assert_refused(nl.publish_draft(&draft).await, code, why);

    let listed = nl.list_publications(1).await.expect("listed");
    assert_eq!(listed.publications[0].state(), PublicationState::Refused);
    assert_eq!(nl.last_version(1, Phone).await.expect("listed"), 1);
    let files = sotto_tests::ledger::filter_files(&sandbox.data_dir());
    assert_eq!(
        files.len(),
        2,
        "only the active filter and its copy: {files:?}"
    );
    assert_eq!(de.find(Phone, &phones(0..10)).await.len(), 3);
    // Refused for good: the same header cannot be used again.
    let state = nl.activate(draft.id()).await;
    assert_refused(state, Code::FailedPrecondition, ErrorCode::PublicationState);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_another_key_id() {
    let change = |header: &mut FilterHeader| {
        header.kid = sotto_common::epoch::Kid::new([7; 8]);
    };
    refuses_header(change, Code::FailedPrecondition, ErrorCode::KeyMismatch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_drifted_forms() {
    let change = |header: &mut FilterHeader| header.forms[0] ^= 1;
    refuses_header(change, Code::FailedPrecondition, ErrorCode::FormsMismatch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_class_above_the_allowed_one() {
    let change = |header: &mut FilterHeader| {
        header.params = FilterParams::new(Class::new(13).expect("a class"), 30).expect("params");
    };
    refuses_header(change, Code::InvalidArgument, ErrorCode::FilterClass).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_another_k_than_the_profiles() {
    let change = |header: &mut FilterHeader| {
        header.params = FilterParams::new(header.params.class(), 31).expect("params");
    };
    refuses_header(change, Code::InvalidArgument, ErrorCode::FilterClass).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_version_that_is_not_next() {
    for version in [0, 2, u64::MAX] {
        let change = |header: &mut FilterHeader| header.version = version;
        refuses_header(change, Code::InvalidArgument, ErrorCode::VersionNotNext).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_an_audience_that_names_a_stranger() {
    let change = |header: &mut FilterHeader| {
        header.audience = ["de-bka", "be-fgp"]
            .map(|n| n.parse().expect("a node"))
            .into();
    };
    refuses_header(change, Code::InvalidArgument, ErrorCode::AudienceUnknown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_an_unknown_epoch_and_a_policy_that_the_epoch_does_not_have() {
    let change = |header: &mut FilterHeader| header.epoch = sotto_tests::node::epoch(2);
    refuses_header(change, Code::NotFound, ErrorCode::EpochUnknown).await;
    let change = |header: &mut FilterHeader| header.policy = Vin;
    refuses_header(change, Code::InvalidArgument, ErrorCode::PolicyUnknown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_times_that_the_epoch_does_not_cover() {
    let change = |header: &mut FilterHeader| {
        header.expires_at = header.expires_at.plus(std::time::Duration::from_secs(1));
    };
    refuses_header(change, Code::InvalidArgument, ErrorCode::InvalidField).await;
    let change = |header: &mut FilterHeader| header.expires_at = header.created_at;
    refuses_header(change, Code::InvalidArgument, ErrorCode::InvalidField).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_the_name_and_the_signature_of_another_node() {
    let change = |header: &mut FilterHeader| header.holder = "de-bka".parse().expect("a node");
    refuses_header(change, Code::InvalidArgument, ErrorCode::InvalidField).await;

    let (sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    let draft = nl.draft(Phone, &phones(0..3)).await;
    let mut footprint = sandbox.footprint().await;
    let forged = convert::sign(draft.header, de.signing_key());
    let refused = nl.announce_signed(forged).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::SignatureInvalid);
    footprint.assert_unchanged().await;
}

type Case = (fn(&mut v1::FilterHeader), ErrorCode);

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_wire_header_with_other_pages_format_or_epoch() {
    let (sandbox, [nl, _de]) = Sandbox::with_nodes(MEMBERS).await;
    let draft = nl.draft(Phone, &phones(0..3)).await;
    let header = v1::FilterHeader::from(draft.header);
    let mut footprint = sandbox.footprint().await;
    let cases: [Case; 6] = [
        (|h| h.pages += 1, ErrorCode::FilterLength),
        (|h| h.format = 2, ErrorCode::FormatUnknown),
        (|h| h.class = 61, ErrorCode::FilterClass),
        (|h| h.k = 300, ErrorCode::FilterClass),
        (|h| h.salt = vec![1; 15].into(), ErrorCode::InvalidField),
        (
            |h| h.publication_id = vec![1; 16].into(),
            ErrorCode::InvalidField,
        ),
    ];
    for (change, why) in cases {
        let mut header = header.clone();
        change(&mut header);
        assert_refused(nl.announce_wire(&header).await, Code::InvalidArgument, why);
    }
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_contact_unit_that_is_no_line_and_a_handling_text_without_its_code() {
    let (sandbox, [nl, _de]) = Sandbox::with_nodes(MEMBERS).await;
    let draft = nl.draft(Phone, &phones(0..3)).await;
    let header = v1::FilterHeader::from(draft.header);
    let mut footprint = sandbox.footprint().await;
    let cases: [fn(&mut v1::FilterHeader); 7] = [
        |h| h.contact_unit = "u".repeat(201),
        |h| h.contact_unit = "one\ntwo".into(),
        |h| h.handling_code = 99,
        |h| h.handling_code = v1::HandlingCode::H3.into(),
        |h| h.handling_text = "ask before use".into(),
        |h| {
            h.handling_code = v1::HandlingCode::H1.into();
            h.handling_text = "ask before use".into();
        },
        |h| {
            h.handling_code = v1::HandlingCode::H3.into();
            h.handling_text = "a".repeat(257);
        },
    ];
    for change in cases {
        let mut header = header.clone();
        change(&mut header);
        let refused = nl.announce_wire(&header).await;
        assert_refused(refused, Code::InvalidArgument, ErrorCode::InvalidField);
    }
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_another_contact_unit_under_the_same_id() {
    let (_sandbox, [nl, _de]) = Sandbox::with_nodes(MEMBERS).await;
    let draft = nl.draft(Phone, &phones(0..3)).await;
    let draft = draft.labelled("Team 7", "ask before use");
    nl.announce(&draft).await.expect("announced");
    nl.announce(&draft).await.expect("announced again");
    let refused = nl
        .announce(&draft.labelled("Team 8", "ask before use"))
        .await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorCode::PublicationState,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_salt_that_was_ever_used_in_the_community() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    let first = nl.draft(Phone, &phones(0..3)).await;
    nl.publish_draft(&first).await.expect("published");
    nl.withdraw(first.id()).await.expect("withdrawn");
    let mut footprint = sandbox.footprint().await;
    for node in [&nl, &de] {
        let mut second = node.draft(Email, &phones(0..3)).await;
        second.header.salt = first.header.salt.clone();
        let refused = node.announce(&second).await;
        assert_refused(refused, Code::InvalidArgument, ErrorCode::SaltReused);
    }
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_filter_with_all_bits_set() {
    let change = |_: &TestNode, draft: Draft| {
        let ones = vec![0xff; draft.bits.len()];
        draft.with_bits(ones)
    };
    refuses_bits(change, Code::InvalidArgument, ErrorCode::FilterPopcount).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_filter_that_is_too_sparse() {
    let change = |_: &TestNode, draft: Draft| {
        let mut bits = draft.bits.clone();
        bits[..64].fill(0);
        draft.with_bits(bits)
    };
    refuses_bits(change, Code::InvalidArgument, ErrorCode::FilterPopcount).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_full_lines_and_full_pages() {
    // Half of the lines full: at the bound of rule 3, but the canaries' bits are not all there.
    let lines = |_: &TestNode, draft: Draft| {
        let mut bits = vec![0; draft.bits.len()];
        bits.chunks_mut(2 * LINE_LEN)
            .for_each(|two| two[..LINE_LEN].fill(0xff));
        draft.with_bits(bits)
    };
    refuses_bits(lines, Code::FailedPrecondition, ErrorCode::CanaryMissing).await;
    // Half of the pages full: every tag that lies there would match.
    let pages = |_: &TestNode, draft: Draft| {
        let mut bits = vec![0; draft.bits.len()];
        bits[..PAGE_LEN].fill(0xff);
        draft.with_bits(bits)
    };
    refuses_bits(pages, Code::InvalidArgument, ErrorCode::FilterRate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_bits_of_another_digest() {
    let change = |_: &TestNode, mut draft: Draft| {
        draft.bits[17] ^= 1;
        draft
    };
    refuses_bits(change, Code::InvalidArgument, ErrorCode::FilterDigest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_filter_without_its_canary_tags() {
    let change = |nl: &TestNode, draft: Draft| {
        let header = &draft.header;
        let tags = vec![Tag::new([9; 16])];
        let mut other = nl.draft_in(1, Phone, tags, header.params.class(), header.version);
        other.header.publication = PublicationId::generate(nl.now(), &mut os_rng());
        other
    };
    refuses_bits(change, Code::FailedPrecondition, ErrorCode::CanaryMissing).await;
    // With another policy's canaries, as with another epoch's, it is the same.
    let change = |nl: &TestNode, draft: Draft| {
        let header = &draft.header;
        let tags = canary_tags(&nl.keys(1).schedule, Email);
        nl.draft_in(1, Phone, tags, header.params.class(), header.version)
    };
    refuses_bits(change, Code::FailedPrecondition, ErrorCode::CanaryMissing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_an_upload_of_another_length() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    let draft = nl.draft(Phone, &phones(0..3)).await;
    nl.announce(&draft).await.expect("announced");
    let short = draft.bits.len() - 1;
    nl.upload_chunk(&draft, 0, &draft.bits[..short])
        .await
        .expect("stored");
    let refused = nl.activate(draft.id()).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::FilterLength);
    let refused = nl.upload_chunk(&draft, short as u64, &[1, 2]).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::FilterLength);
    assert!(de.find(Phone, &phones(0..3)).await.is_empty());
    // It is still an upload, and can be completed.
    nl.upload_chunk(&draft, short as u64, &draft.bits[short..])
        .await
        .expect("stored");
    nl.activate(draft.id()).await.expect("active");
    assert_eq!(de.find(Phone, &phones(0..3)).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_at_the_offset_that_the_refusal_names() {
    let (_sandbox, [nl, _de]) = Sandbox::with_nodes(MEMBERS).await;
    let draft = nl.draft(Phone, &phones(0..3)).await;
    nl.announce(&draft).await.expect("announced");
    nl.upload_chunk(&draft, 0, &draft.bits[..100])
        .await
        .expect("stored");
    for offset in [0, 99, 101, u64::MAX] {
        let refused = nl.upload_chunk(&draft, offset, &draft.bits[..10]).await;
        let status = assert_refused(refused, Code::OutOfRange, ErrorCode::OffsetMismatch);
        assert_eq!(refusal::subject(&status).as_deref(), Some("100"));
    }
    assert_eq!(nl.announce(&draft).await.expect("announced again"), 100);
    nl.upload(&draft, 100, |_| ()).await.expect("uploaded");
    nl.activate(draft.id()).await.expect("active");
    // Both calls are idempotent.
    nl.activate(draft.id()).await.expect("active still");
    assert_eq!(
        nl.announce(&draft).await.expect("known"),
        draft.bits.len() as u64
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_chunks_that_are_empty_or_above_1_mib() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    let draft = nl.draft(Phone, &phones(0..3)).await;
    nl.announce(&draft).await.expect("announced");
    let mut footprint = sandbox.footprint().await;
    for data in [vec![], vec![0; MAX_CHUNK + 1]] {
        let refused = nl.upload_chunk(&draft, 0, &data).await;
        assert_refused(refused, Code::InvalidArgument, ErrorCode::InvalidField);
    }
    // Another node's publication is as good as unknown.
    let refused = de.upload_chunk(&draft, 0, &[1]).await;
    assert_refused(refused, Code::NotFound, ErrorCode::PublicationUnknown);
    assert_refused(
        de.activate(draft.id()).await,
        Code::NotFound,
        ErrorCode::PublicationUnknown,
    );
    assert_refused(
        de.withdraw(draft.id()).await,
        Code::NotFound,
        ErrorCode::PublicationUnknown,
    );
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_stands_for_one_header_only() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    let draft = nl.draft(Phone, &phones(0..3)).await;
    nl.announce(&draft).await.expect("announced");
    let mut footprint = sandbox.footprint().await;
    for node in [&nl, &de] {
        let mut other = node.draft(Phone, &phones(0..3)).await;
        other.header.publication = draft.id();
        let refused = node.announce(&other).await;
        assert_refused(
            refused,
            Code::FailedPrecondition,
            ErrorCode::PublicationState,
        );
    }
    footprint.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_uploads_of_one_version_only_the_first_becomes_active() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    let one = nl.draft(Phone, &phones(0..3)).await;
    let two = nl.draft(Phone, &phones(3..9)).await;
    for draft in [&one, &two] {
        nl.announce(draft).await.expect("announced");
        nl.upload(draft, 0, |_| ()).await.expect("uploaded");
    }
    nl.activate(one.id()).await.expect("active");
    let refused = nl.activate(two.id()).await;
    assert_refused(refused, Code::InvalidArgument, ErrorCode::VersionNotNext);
    assert_eq!(de.find(Phone, &phones(0..9)).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_supplements_without_their_base_or_beyond_eight() {
    let (sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    let orphan = nl.draft(Phone, &phones(0..3)).await.supplementing(1);
    let refused = nl.announce(&orphan).await;
    assert_refused(refused, Code::FailedPrecondition, ErrorCode::LayerInvalid);

    nl.publish(Phone, &phones(0..1)).await;
    for n in 1..=8 {
        nl.supplement(Phone, 1, &phones(n..n + 1)).await;
    }
    let mut footprint = sandbox.footprint().await;
    for base in [1, 2, 9] {
        let draft = nl.draft(Phone, &phones(9..10)).await.supplementing(base);
        let refused = nl.announce(&draft).await;
        assert_refused(refused, Code::FailedPrecondition, ErrorCode::LayerInvalid);
    }
    footprint.assert_unchanged().await;
    assert_eq!(de.find(Phone, &phones(0..20)).await.len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_supplement_that_outlives_its_base_or_whose_base_was_replaced_meanwhile() {
    let (_sandbox, [nl, _de]) = Sandbox::with_nodes(MEMBERS).await;
    let mut base = nl.draft(Phone, &phones(0..1)).await;
    let hour = std::time::Duration::from_hours(1);
    base.header.expires_at = nl.now().plus(hour);
    nl.publish_draft(&base).await.expect("published");
    let mut supplement = nl.draft(Phone, &phones(1..2)).await.supplementing(1);
    let refused = nl.announce(&supplement).await;
    assert_refused(refused, Code::FailedPrecondition, ErrorCode::LayerInvalid);

    supplement.header.expires_at = nl.now().plus(hour);
    nl.announce(&supplement).await.expect("announced");
    nl.upload(&supplement, 0, |_| ()).await.expect("uploaded");
    nl.publish(Phone, &phones(5..6)).await;
    let refused = nl
        .activate(supplement.id())
        .await
        .expect_err("its base is gone");
    assert!(matches!(
        refused.code(),
        Code::FailedPrecondition | Code::InvalidArgument
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_holds_its_canaries_and_nothing_that_was_not_put_in() {
    let (_sandbox, [nl, _de]) = Sandbox::with_nodes(MEMBERS).await;
    let draft = nl.draft(Phone, &phones(0..500)).await;
    let has = |tag: &Tag| contains(&draft.bits, draft.header.params, &draft.header.salt, tag);
    assert!(nl.keys(1).manifest.policies[0].canary_tags.iter().all(has));
    assert!(
        nl.pairs(Phone, &phones(0..500))
            .iter()
            .all(|(tag, _)| has(tag))
    );
    assert!(
        !nl.pairs(Phone, &phones(500..900))
            .iter()
            .any(|(tag, _)| has(tag))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn withdrawing_an_upload_takes_no_supplement_of_the_active_base_with_it() {
    let (_sandbox, [nl, de]) = Sandbox::with_nodes(MEMBERS).await;
    // Both are of version 1: it is the first that becomes active that has it.
    let upload = de.draft(Phone, &phones(0..1)).await;
    de.announce(&upload).await.expect("announced");
    de.publish(Phone, &phones(0..5)).await;
    de.supplement(Phone, 1, &phones(5..8)).await;
    for _ in 0..2 {
        de.withdraw(upload.id()).await.expect("withdrawn");
        assert_eq!(nl.find(Phone, &phones(0..9)).await.len(), 8);
    }
}
