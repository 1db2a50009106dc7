//! What batches are made of, and which answers are taken.

use prost::Message as _;
use sotto_common::epoch::Gms;
use sotto_common::grounds::{LegalBasis, Purpose};
use sotto_common::ids::HitId;
use sotto_common::random::os_rng;
use sotto_common::secret::Selector;

use super::*;
use crate::testing::manifest;

fn row(id: SelectorId, canonical: &str) -> SelectorRow {
    SelectorRow {
        id,
        canonical: Selector::new(canonical),
        record_key: format!("d/{id}#0"),
    }
}

#[test]
fn the_same_selectors_give_the_same_batch_without_what_is_too_common() {
    let (_, manifest) = manifest(1);
    let gms = Gms::generate(&mut os_rng());
    let schedule = KeySchedule::derive(&gms, &manifest.community, manifest.epoch);
    let refs = RecordRefKey::generate(&mut os_rng());
    let make = || {
        let rows = vec![row(1, "a@x.org"), row(2, "b@x.org"), row(3, "c@x.org")];
        let admits = |row: &SelectorRow| row.id != 3;
        Pairs::make(rows, Policy::Email, &schedule, &manifest, &refs, admits).expect("made")
    };
    let (one, two) = (make(), make());
    assert_eq!((&one.sent, &one.refs), (&two.sent, &two.refs));
    assert_eq!((one.len(), one.refs.len()), (2, 2));
    assert_eq!((one.rows, one.span), (3, Some((1, 3))));
    assert_ne!(one.refs[0].0, one.refs[1].0);
}

#[test]
fn decoys_come_again_in_every_session_as_refs_of_records_do() {
    let (_, manifest) = manifest(1);
    let refs = RecordRefKey::generate(&mut os_rng());
    let of = |dataset, first, size| {
        let decoys = Decoys {
            refs: &refs,
            manifest: &manifest,
            policy: Policy::Email,
            dataset,
        };
        Pairs::default()
            .filled_up(&decoys, first, size)
            .expect("filled up")
    };
    let set = |pairs: &Pairs| pairs.decoys.iter().copied().collect::<HashSet<_>>();
    let (small, large) = (of(1, 0, 20), of(1, 0, 44));
    assert_eq!((small.len(), set(&large).len()), (20, 44));
    assert!(set(&small).is_subset(&set(&large)));
    // Their tags too: a ref whose tag changes would be none of a record.
    assert!(small.sent.iter().all(|pair| large.sent.contains(pair)));
    // The next batch of the session has others, and so has another dataset.
    assert!(set(&of(1, 44, 10)).is_disjoint(&set(&large)));
    assert!(set(&of(2, 0, 44)).is_disjoint(&set(&large)));
    // What is full already has none.
    assert!(
        large
            .filled_up(
                &Decoys {
                    refs: &refs,
                    manifest: &manifest,
                    policy: Policy::Email,
                    dataset: 1
                },
                44,
                44,
            )
            .is_ok_and(|pairs| pairs.len() == 44)
    );
}

fn holder(node: &str) -> v1::HolderMatch {
    let hit_id = HitId::generate(Timestamp::from_seconds(1), &mut os_rng());
    v1::HolderMatch {
        holder: node.into(),
        filter_version: 3,
        false_positive_probability: 1e-9,
        hit_id: hit_id.as_bytes().to_vec().into(),
    }
}

/// Reads an answer by ref to `de-bka`, which asked ref 1 of members `nl-fiu` and `fr-pj`.
fn read(
    record_ref: u8,
    holders: Vec<v1::HolderMatch>,
    targets: &[&str],
) -> Result<Vec<Hit>, Error> {
    let at_ref = v1::RefMatches {
        record_ref: vec![record_ref; 16].into(),
        holders,
    };
    let (refs, holders) = (vec![at_ref], Vec::new());
    read_all(&v1::ProbeMatches { refs, holders }, targets)
}

/// Reads an answer to `de-bka`, which asked ref 1 and, as a decoy, ref 8.
fn read_all(matches: &v1::ProbeMatches, targets: &[&str]) -> Result<Vec<Hit>, Error> {
    let (_, mut manifest) = manifest(1);
    let node = |text: &str| -> NodeId { text.parse().expect("a node") };
    for other in ["de-bka", "fr-pj"] {
        let mut member = manifest.members[0].clone();
        member.node = node(other);
        manifest.members.push(member);
    }
    let pairs = Pairs {
        sent: vec![
            (Tag::new([0; 16]), RecordRef::new([1; 16])),
            (Tag::new([7; 16]), RecordRef::new([8; 16])),
        ],
        refs: vec![(RecordRef::new([1; 16]), 1)],
        ..Pairs::default()
    };
    let matches = matches.encode_to_vec().into();
    let grounds = Grounds::new(
        Some(Purpose::Investigation),
        Some(LegalBasis::Eu2023977),
        "",
        "2026-17",
    );
    let now = Timestamp::from_seconds(5);
    let opening = Opening {
        id: SessionId::generate(now, &mut os_rng()),
        nonce: &SessionNonce::generate(&mut os_rng()),
        policy: Policy::Email,
        grounds: &grounds.expect("grounds"),
        targets: &targets
            .iter()
            .map(|target| node(target))
            .collect::<Vec<_>>(),
    };
    found(&node("de-bka"), &manifest, &opening, &pairs, &matches, now)
}

#[test]
fn an_answer_to_the_question_gives_a_hit_for_each_holder() {
    let hits = read(1, vec![holder("nl-fiu"), holder("fr-pj")], &[]).expect("read");
    assert_eq!(hits.len(), 2);
    assert_eq!(hits[0].first_seen, Timestamp::from_seconds(5));
    assert!(hits[0].posterior > 0.999);
    assert!(read(1, vec![holder("nl-fiu")], &["nl-fiu"]).is_ok());
}

/// Says that the pairs of these bits match a holder.
fn at_holder(node: &str, bits: u8) -> v1::HolderMatches {
    let ids = (0..bits.count_ones()).flat_map(|_| holder(node).hit_id);
    v1::HolderMatches {
        holder: node.into(),
        false_positive_probability: 1e-9,
        pairs: Some(v1::holder_matches::Pairs::Bitmap(vec![bits].into())),
        filter_versions: vec![3],
        hit_ids: ids.collect::<Vec<_>>().into(),
    }
}

fn by_holder(holders: Vec<v1::HolderMatches>, targets: &[&str]) -> Result<Vec<Hit>, Error> {
    let refs = Vec::new();
    read_all(&v1::ProbeMatches { refs, holders }, targets)
}

#[test]
fn an_answer_by_holder_gives_a_hit_for_each_ref_that_is_of_a_record() {
    let told = vec![at_holder("fr-pj", 0b11), at_holder("nl-fiu", 0b01)];
    let hits = by_holder(told, &[]).expect("read");
    let of: Vec<_> = hits.iter().map(|hit| hit.holder.as_str()).collect();
    assert_eq!(of, ["fr-pj", "nl-fiu"]);
    let asked = |hit: &Hit| hit.record_ref == RecordRef::new([1; 16]);
    assert!(hits.iter().all(|hit| asked(hit) && hit.filter_version == 3));
    assert!(by_holder(vec![at_holder("nl-fiu", 0b10)], &[]).is_ok_and(|hits| hits.is_empty()));
}

#[test]
fn an_answer_by_holder_that_does_not_fit_the_batch_is_refused() {
    let one_hit_less = v1::HolderMatches {
        hit_ids: holder("nl-fiu").hit_id,
        ..at_holder("nl-fiu", 0b11)
    };
    for (told, targets) in [
        // The batch has two pairs.
        (vec![at_holder("nl-fiu", 0b101)], &[][..]),
        (vec![at_holder("nl-fiu", 0)], &[]),
        (vec![one_hit_less], &[]),
        (vec![at_holder("nl-fiu", 1), at_holder("fr-pj", 1)], &[]),
        (vec![at_holder("de-bka", 1)], &[]),
        (vec![at_holder("se-noa", 1)], &[]),
        (vec![at_holder("nl-fiu", 1)], &["fr-pj"]),
        // Of a decoy alone, too.
        (vec![at_holder("se-noa", 0b10)], &[]),
    ] {
        let error = by_holder(told, targets).expect_err("refused");
        assert_eq!(error.code, ErrorCode::Internal);
        assert!(error.text.contains("does not fit"), "{error}");
    }
}

#[test]
fn an_answer_that_no_honest_broker_gives_is_refused_and_not_asked_for_again() {
    let with = |probability| v1::HolderMatch {
        false_positive_probability: probability,
        ..holder("nl-fiu")
    };
    let no_hit_id = v1::HolderMatch {
        hit_id: vec![1].into(),
        ..holder("nl-fiu")
    };
    for (record_ref, holders, targets) in [
        (2, vec![holder("nl-fiu")], &[][..]),
        (1, vec![holder("de-bka")], &[]),
        (1, vec![holder("se-noa")], &[]),
        (1, vec![holder("NL FIU")], &[]),
        (1, vec![holder("nl-fiu")], &["fr-pj"]),
        (1, vec![holder("nl-fiu"), holder("nl-fiu")], &[]),
        (1, vec![with(f64::NAN)], &[]),
        (1, vec![with(f64::INFINITY)], &[]),
        (1, vec![with(-0.1)], &[]),
        (1, vec![with(1.1)], &[]),
        (1, vec![no_hit_id], &[]),
    ] {
        let error = read(record_ref, holders, targets).expect_err("refused");
        assert_eq!(error.code, ErrorCode::Internal);
        assert!(error.text.contains("does not fit"), "{error}");
        assert!(!crate::broker::is_passing(&error));
    }
}
