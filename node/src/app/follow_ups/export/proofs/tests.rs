use sotto_common::log::entry::Entry;

use super::*;
use crate::app::follow_ups::tests::{EMAIL, Lab};
use crate::follow_up::logged::{missing, read_opening};
use crate::testing;

/// A follow-up with three steps at its requester, and what a broker logs of it.
struct Case {
    follow_up: LocalFollowUp,
    steps: Vec<Entry>,
    hit: Entry,
}

impl Case {
    async fn new() -> Self {
        let lab = Lab::start(&[EMAIL]).await;
        let id = lab.received().await;
        let follow_up = lab.asks.follow_up(id).await.expect("there");
        assert_eq!(follow_up.steps.len(), 3);
        let facts = |step: &crate::follow_up::Step| {
            StepFacts::new(&step.clear, &step.clear_bytes, step.digest)
        };
        let steps = follow_up.steps.iter().map(facts);
        let hit = HitFacts {
            community: follow_up.community.clone(),
            hit: follow_up.hit,
            epoch: follow_up.epoch,
            requester: follow_up.own.clone(),
            holder: follow_up.counterpart.clone(),
        };
        Self {
            steps: steps.map(|step| testing::step_entry(&step)).collect(),
            hit: testing::hit_entry(&hit),
            follow_up,
        }
    }

    /// What the log of these steps and the hit proves.
    fn proofs(&self) -> Result<Proofs, Doubt> {
        let entries = [&self.steps[..], std::slice::from_ref(&self.hit)].concat();
        let (signed, proved) = testing::logged(&testing::log_signer(), &entries);
        let (steps, hits) = proved.split_at(self.steps.len());
        Proofs::of(&self.follow_up, &signed, steps, hits).map_err(|(doubt, _)| doubt)
    }

    fn doubt(&self) -> Doubt {
        self.proofs().err().expect("doubted")
    }
}

#[tokio::test]
async fn every_step_and_the_hit_have_a_receipt_and_an_opening() {
    let case = Case::new().await;
    let proofs = case.proofs().expect("proved");
    assert!(proofs.missing.is_empty());
    let in_log = proofs.in_log();
    assert_eq!(in_log.steps, BTreeMap::from([(0, 3), (1, 4), (2, 5)]));
    assert_eq!(in_log.hit, Some(6));
    let files: BTreeMap<_, _> = proofs.files().into_iter().collect();
    assert_eq!(files.len(), 9);
    let note = proofs.checkpoint.as_ref().expect("one").to_string();
    assert_eq!(files[CHECKPOINT], note.as_bytes());
    for name in ["000-SUBMIT", "001-HELD", "002-PARTICULARS", HIT] {
        let receipt = Receipt::parse(&files[&receipt_path(name)]).expect("a receipt");
        let leaf = receipt.leaf().expect("a leaf");
        assert!(receipt.check_inclusion(&leaf.hash()).is_ok());
        let opening = read_opening(&files[&opening_path(name)]).expect("an opening");
        assert!(leaf.is_opened_by(&opening));
    }
    let summary = proofs.summary();
    assert!(summary.contains("its checkpoint of 7\nleaves") && summary.contains("hit: leaf 6\n"));
    assert!(missing(&summary).is_empty());
}

#[tokio::test]
async fn what_is_not_proved_is_named_with_its_reason() {
    let mut case = Case::new().await;
    // The last is not under the checkpoint yet, the one before on its way.
    case.steps.truncate(1);
    case.follow_up.steps[1].taken_at = None;
    let proofs = case.proofs().expect("proved");
    let names = missing(&proofs.summary());
    assert_eq!(names.len(), 2);
    assert!(names[0].starts_with("001-HELD: the broker has not taken it"));
    assert!(names[1].starts_with("002-PARTICULARS: not under the checkpoint of 5 leaves yet"));
    assert_eq!(proofs.in_log().steps.len(), 1);

    let none = Proofs::none("the broker\nis away");
    assert!(none.files().is_empty() && none.in_log().checkpoint.is_none());
    let expected = "every step and the hit: the broker is away";
    assert_eq!(missing(&none.summary()), [expected]);
}

#[tokio::test]
async fn the_entry_of_a_step_that_has_not_come_here_is_passed_over() {
    let mut case = Case::new().await;
    case.follow_up.steps.truncate(2);
    let proofs = case.proofs().expect("proved");
    assert_eq!(proofs.in_log().steps.len(), 2);
    assert!(proofs.missing.is_empty());
}

#[tokio::test]
async fn an_entry_that_says_something_else_is_doubted() {
    type Change = fn(&mut Case);
    let changes: [(&str, Change); 8] = [
        ("clear part", |c| {
            c.steps[1].step.as_mut().expect("one").clear.push(0);
        }),
        ("digest of the statement", |c| {
            c.steps[1].statement.as_mut().expect("one").digest = [9; 32];
        }),
        ("hit", |c| c.steps[1].object.hit = None),
        ("follow-up", |c| c.steps[1].object.follow_up = None),
        ("sender", |c| {
            c.steps[1].actor = "spiffe://sotto.test/node/fr-pj".parse().expect("an id");
        }),
        ("step", |c| c.steps[1].detail = "NOT_HELD".into()),
        ("holder", |c| c.hit.object.node = None),
        ("policy", |c| c.hit.object.policy = None),
    ];
    for (field, change) in changes {
        let mut case = Case::new().await;
        change(&mut case);
        assert_eq!(case.doubt(), Doubt::Entry(field));
    }
}

#[tokio::test]
async fn a_proof_that_fails_is_doubted_and_an_erased_opening_is_missing() {
    let case = Case::new().await;
    let (signed, mut proved) = testing::logged(&testing::log_signer(), &case.steps);
    let of = |proved: &[v1::ProvedEntry]| {
        let proofs = Proofs::of(&case.follow_up, &signed, proved, &[]);
        proofs.map_err(|(doubt, _)| doubt)
    };
    let mut swapped = proved.clone();
    swapped[0].hashes.clone_from(&proved[1].hashes);
    assert!(matches!(of(&swapped).err(), Some(Doubt::Proof(_))));
    let mut other = proved.clone();
    let nonce = other[1].entry.clone().expect("one").nonce;
    other[0].entry.as_mut().expect("one").nonce = nonce;
    assert_eq!(of(&other).err(), Some(Doubt::Opening));
    let logged = proved[0].entry.as_mut().expect("one");
    logged.nonce = prost::bytes::Bytes::new();
    logged.entry = prost::bytes::Bytes::new();
    let proofs = of(&proved).expect("proved");
    assert!(proofs.missing[0].starts_with("000-SUBMIT: "));
    assert!(proofs.missing[1].starts_with("hit: "));
}
