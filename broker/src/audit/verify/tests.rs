mod erasures;
mod standing;

use std::time::Duration;

use sotto_common::hit::{HitDecision, HitState};
use sotto_common::ids::PublicationId;
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::leaf::OpeningNonce;
use sotto_common::random::{self, os_rng};
use sotto_common::time::CLOCK_SKEW;

use super::super::testing::{
    HOLDER, History, NOW, PROBER, epoch, erase, file_of, head, log_key, logged, node, note,
    signing, statement,
};
use super::*;

use FailureCode as F;

/// When everything of a history is older than the retention time, which is 1095 days.
const LATER: Duration = Duration::from_hours(24 * 1096);

fn verify(file: &[u8]) -> Result<Summary, Failure> {
    verify_export(file, &log_key(), true)
}

/// Where and how a history fails that its broker has logged and signed.
fn fails(history: &History) -> (Option<u64>, FailureCode) {
    let failure = verify(&history.file(&history.logged())).expect_err("a lie");
    assert!(
        failure.text.len() > 10 && !failure.text.ends_with('.'),
        "{failure}"
    );
    (failure.index, failure.code)
}

#[expect(clippy::unnecessary_wraps, reason = "as a failure has it")]
fn place(index: usize) -> Option<u64> {
    Some(index.try_into().unwrap())
}

/// A history in which one entry says something else.
fn lie(action: Action, n: usize, change: impl FnOnce(&mut Entry)) -> (History, Option<u64>) {
    let mut history = History::whole();
    let index = history.nth(action, n);
    change(&mut history.entries[index]);
    (history, place(index))
}

/// A history without one entry; returns where the gap is.
fn without(action: Action, n: usize) -> (History, usize) {
    let mut history = History::whole();
    let index = history.nth(action, n);
    history.entries.remove(index);
    (history, index)
}

#[test]
fn a_log_as_it_should_be_holds() {
    let history = History::whole();
    let summary = verify(&history.file(&history.logged())).unwrap();
    assert_eq!(summary.head.size, history.entries.len() as u64);
    assert_eq!(summary.kinds.values().sum::<u64>(), summary.head.size);
    assert_eq!(summary.kinds[&EntryKind::FollowUp], 6);
    assert_eq!((summary.unknown, summary.erased.len()), (0, 0));
    assert_eq!((summary.from, summary.manifests), (Some(NOW), 1));
    let witnesses = summary.witnesses.unwrap();
    assert_eq!((witnesses.count, witnesses.required), (2, 2));
    assert_eq!(witnesses.nodes[&node(HOLDER)], NOW);
}

#[test]
fn an_empty_log_holds() {
    let history = History::whole();
    let summary = verify(&history.file(&[])).unwrap();
    assert_eq!(summary.head, TreeHead::empty());
}

#[test]
fn a_file_that_is_not_whole_names_the_entry_that_is_missing() {
    let history = History::whole();
    let all = history.logged();
    let few = history.file_under(head(&all), &all[..7]);
    let failure = verify(&few).unwrap_err();
    assert_eq!((failure.index, failure.code), (Some(7), F::FileMalformed));
    let many = history.file_under(head(&all[..7]), &all);
    let failure = verify(&many).unwrap_err();
    assert_eq!((failure.index, failure.code), (Some(7), F::FileMalformed));
    let whole = history.file(&all);
    let failure = verify(&whole[..whole.len() - 1]).unwrap_err();
    assert_eq!(failure.code, F::FileMalformed);
}

#[test]
fn a_checkpoint_that_the_log_has_not_signed_is_refused() {
    let history = History::whole();
    let file = history.file(&history.logged());
    let origin = "broker.example/sotto/euro-cyber".parse().unwrap();
    let other = LogKey::new(origin, signing(PROBER).verifying_key());
    let failure = verify_export(file.as_slice(), &other, false).unwrap_err();
    assert_eq!((failure.index, failure.code), (None, F::NoteSignature));
}

#[test]
fn a_cosignature_by_a_stranger_is_refused_and_a_missing_one_is_shown() {
    let history = History::whole();
    let all = history.logged();
    let under = |by: &[(&str, u8)]| {
        let note = note(head(&all), by);
        let manifests = vec![history.manifest.clone()];
        file_of(Head { note, manifests }, &all)
    };
    let strangers: [&[(&str, u8)]; 2] = [&[(PROBER, 1), ("fr-pj", 3)], &[(PROBER, 2)]];
    for by in strangers {
        let failure = verify(&under(by)).unwrap_err();
        assert_eq!((failure.index, failure.code), (None, F::Cosignature));
    }
    let one = under(&[(PROBER, 1)]);
    assert_eq!(verify(&one).unwrap_err().code, F::QuorumMissed);
    let summary = verify_export(one.as_slice(), &log_key(), false).unwrap();
    assert!(!summary.witnesses.unwrap().is_quorum());
}

#[test]
fn a_manifest_is_signed_by_its_custodian_and_is_the_one_that_was_opened() {
    let mut history = History::whole();
    history.manifest.signatures[0].keyid = "0000000000000000".into();
    assert_eq!(fails(&history), (None, F::Manifest));
    // Another one, signed alike.
    let mut history = History::whole();
    let opened = history.nth(Action::OpenEpoch, 0);
    history.manifest = History::whole().manifest;
    assert_eq!(fails(&history), (place(opened), F::Manifest));
    let all = history.logged();
    let head = Head {
        note: note(head(&all), &[]),
        manifests: Vec::new(),
    };
    let failure = verify(&file_of(head, &all)).unwrap_err();
    assert_eq!((failure.index, failure.code), (place(opened), F::Manifest));
}

#[test]
fn a_changed_leaf_is_another_tree_and_no_leaf_is_no_leaf() {
    let history = History::whole();
    let signed = history.logged();
    let mut changed = signed.clone();
    changed[5] = logged(5, &history.entries[5]);
    let failure = verify(&history.file_under(head(&signed), &changed)).unwrap_err();
    assert_eq!((failure.index, failure.code), (None, F::RootMismatch));
    let mut none = signed;
    none[5].leaf = b"no leaf".to_vec().into();
    erase(&mut none[5]);
    let failure = verify(&history.file(&none)).unwrap_err();
    assert_eq!((failure.index, failure.code), (Some(5), F::LeafMismatch));
}

#[test]
fn an_opening_is_the_one_that_the_leaf_hides() {
    let history = History::whole();
    let nonce = OpeningNonce::generate(&mut os_rng());
    let nonce = nonce.secret().expose().to_vec();
    let changes: [&dyn Fn(&mut v1::LoggedEntry); 4] = [
        &|entry| entry.nonce = nonce.clone().into(),
        &|entry| entry.nonce.truncate(31),
        &|entry| entry.nonce.clear(),
        &|entry| entry.entry.clear(),
    ];
    for change in changes {
        let mut all = history.logged();
        change(&mut all[9]);
        let failure = verify(&history.file(&all)).unwrap_err();
        assert_eq!((failure.index, failure.code), (Some(9), F::OpeningMismatch));
    }
}

#[test]
fn an_opening_reads_as_an_entry_of_the_kind_and_hour_of_its_leaf() {
    let history = History::whole();
    let with = |kind, at, bytes: Vec<u8>| {
        let mut all = history.logged();
        let nonce = OpeningNonce::generate(&mut os_rng());
        let opening = Opening::new(nonce, bytes);
        all[4].nonce = opening.nonce().secret().expose().to_vec().into();
        all[4].leaf = Leaf::new(kind, at, &opening).to_bytes().into();
        all[4].entry = opening.entry().to_vec().into();
        let failure = verify(&history.file(&all)).unwrap_err();
        assert_eq!(failure.index, Some(4));
        failure.code
    };
    let entry = &history.entries[4];
    let (kind, at) = (entry.action.kind(), entry.at);
    let bytes = sotto_proto::convert::log::write_entry(entry);
    assert_eq!(with(kind, at, b"\xff".to_vec()), F::EntryMalformed);
    assert_eq!(with(EntryKind::Hit, at, bytes.clone()), F::KindMismatch);
    let later = at.plus(std::time::Duration::from_hours(1));
    assert_eq!(with(kind, later, bytes), F::KindMismatch);
}

#[test]
fn entries_are_of_the_log_s_community_and_do_not_go_back_in_time() {
    let other = "other".parse().unwrap();
    let (history, at) = lie(Action::Read, 0, |entry| entry.community = other);
    assert_eq!(fails(&history), (at, F::CommunityMismatch));
    let back = |by| {
        let (mut history, at) = lie(Action::Read, 0, |_| ());
        let last = history.entries.len() - 1;
        history.entries[last].at = history.entries[last - 1].at.minus(by);
        (history, at)
    };
    let (history, at) = back(CLOCK_SKEW + std::time::Duration::from_secs(1));
    assert_eq!(fails(&history), (at, F::TimeReversed));
    let (history, _) = back(CLOCK_SKEW);
    assert!(verify(&history.file(&history.logged())).is_ok());
}

#[test]
fn what_nodes_do_is_signed_by_them() {
    for (action, n) in [
        (Action::SubmitKeys, 1),
        (Action::ConfirmEpoch, 0),
        (Action::DecideHit, 1),
    ] {
        let (history, at) = lie(action, n, |entry| entry.statement = None);
        assert_eq!(fails(&history), (at, F::Signature), "{action}");
    }
    let signed_by = |name: &str, decision| {
        let history = History::whole();
        sotto_proto::convert::sign(history.feedback(decision), &signing(name))
    };
    // The holder cannot decide for the prober.
    let forged = signed_by(HOLDER, HitDecision::Confirm);
    let (history, at) = lie(Action::DecideHit, 1, |e| e.statement = statement(&forged));
    assert_eq!(fails(&history), (at, F::Signature));
    // The node's own statement, about another hit.
    let other = signed_by(PROBER, HitDecision::Confirm);
    let (history, at) = lie(Action::DecideHit, 1, |e| e.statement = statement(&other));
    assert_eq!(fails(&history), (at, F::StatementMismatch));
}

#[test]
fn a_signed_statement_says_what_its_entry_says() {
    let mut history = History::whole();
    let index = history.nth(Action::DecideHit, 1);
    let other = history.feedback(HitDecision::FalsePositive);
    let other = sotto_proto::convert::sign(other, &signing(PROBER));
    history.entries[index].statement = statement(&other);
    assert_eq!(fails(&history), (place(index), F::StatementMismatch));
    let (history, at) = lie(Action::DecideHit, 0, |entry| {
        entry.statement.as_mut().unwrap().digest = [0; 32];
    });
    assert_eq!(fails(&history), (at, F::StatementMismatch));
    // Another node's keys, or a step of another number than its clear part has.
    let (history, at) = lie(Action::SubmitKeys, 1, |entry| {
        entry.actor = "spiffe://sotto.example/node/fr-pj".parse().unwrap();
    });
    assert_eq!(fails(&history), (at, F::StatementMismatch));
    let (history, at) = lie(Action::TakeStep, 2, |entry| {
        entry.step.as_mut().unwrap().number = 7;
    });
    assert_eq!(fails(&history), (at, F::StatementMismatch));
}

#[test]
fn hits_make_the_moves_of_the_workflow_and_no_others() {
    let (history, at) = lie(Action::ExpireHit, 0, |entry| {
        entry.change.as_mut().unwrap().from = "CONFIRMED".into();
    });
    assert_eq!(fails(&history), (at, F::IllegalHitState));
    // A legal move, from a state in which it was not.
    let mut history = History::whole();
    let (hit, states) = (history.hits[1], (HitState::New, HitState::Retracted));
    let retracted = history.moved(Action::RetractHit, PROBER, hit, states);
    retracted.object.epoch = Some(epoch());
    let last = history.entries.len() - 1;
    assert_eq!(fails(&history), (place(last), F::IllegalHitState));
    // Found twice, or never.
    let mut history = History::whole();
    let index = history.nth(Action::FindHit, 1);
    let again = history.entries[index].clone();
    history.entries.insert(index + 1, again);
    assert_eq!(fails(&history), (place(index + 1), F::IllegalHitState));
    let (history, _) = without(Action::FindHit, 1);
    let expires = history.nth(Action::ExpireHit, 0);
    assert_eq!(fails(&history), (place(expires), F::IllegalHitState));
    let (history, at) = lie(Action::ExpireHit, 0, |entry| {
        entry.change.as_mut().unwrap().to = "GONE".into();
    });
    assert_eq!(fails(&history), (at, F::EntryMalformed));
}

#[test]
fn follow_ups_take_their_steps_in_order() {
    // No answer without an accepted request.
    let (history, _) = without(Action::TakeStep, 3);
    let answer = history.nth(Action::TakeStep, 3);
    assert_eq!(fails(&history), (place(answer), F::IllegalFollowUp));
    // Two steps that changed places.
    let mut history = History::whole();
    let (held, particulars) = (
        history.nth(Action::TakeStep, 1),
        history.nth(Action::TakeStep, 2),
    );
    history.entries.swap(held, particulars);
    assert_eq!(fails(&history), (place(held), F::IllegalFollowUp));
    let (history, at) = lie(Action::TakeStep, 1, |entry| {
        entry.change.as_mut().unwrap().to = "ACCEPTED".into();
    });
    assert_eq!(fails(&history), (at, F::IllegalFollowUp));
    // Another statement between them: the chain of digests ends.
    let (history, at) = lie(Action::TakeStep, 2, |entry| {
        entry.statement.as_mut().unwrap().digest = [0; 32];
    });
    let next = history.nth(Action::TakeStep, 3);
    assert!(place(next) > at);
    assert_eq!(fails(&history), (place(next), F::IllegalFollowUp));
}

#[test]
fn a_request_is_about_a_confirmed_hit() {
    let (history, _) = without(Action::DecideHit, 1);
    let asked = history.nth(Action::TakeStep, 0);
    assert_eq!(fails(&history), (place(asked), F::IllegalFollowUp));
}

#[test]
fn nothing_matches_in_a_filter_that_is_not_active() {
    let (history, gap) = without(Action::AnnouncePublication, 0);
    assert_eq!(fails(&history), (place(gap), F::IllegalPublication));
    let (history, _) = without(Action::ActivatePublication, 0);
    let found = history.nth(Action::FindHit, 0);
    assert_eq!(fails(&history), (place(found), F::FilterNotActive));
    let (history, at) = lie(Action::FindHit, 1, |entry| entry.object.version = Some(2));
    assert_eq!(fails(&history), (at, F::FilterNotActive));
    let (history, at) = lie(Action::FindHit, 1, |entry| entry.object.version = None);
    assert_eq!(fails(&history), (at, F::EntryMalformed));
    // Longer after its end than a batch can have been under way.
    let mut history = History::whole();
    let hit = sotto_common::ids::HitId::generate(NOW, &mut os_rng());
    history.found(Action::FindHit, hit);
    assert!(verify(&history.file(&history.logged())).is_ok());
    let last = history.entries.len() - 1;
    history.entries[last].at = history.entries[last].at.plus(CLOCK_SKEW);
    assert_eq!(fails(&history), (place(last), F::FilterNotActive));
    // It does not become active again.
    let mut history = History::whole();
    history.publication(Action::ActivatePublication);
    let last = history.entries.len() - 1;
    assert_eq!(fails(&history), (place(last), F::IllegalPublication));
}

#[test]
fn an_upload_that_comes_to_nothing_does_not_end_the_active_filter_of_its_version() {
    let mut history = History::whole();
    let found = history.nth(Action::FindHit, 0);
    let other = PublicationId::generate(NOW, &mut os_rng());
    let actions = [Action::AnnouncePublication, Action::WithdrawPublication];
    for (at, action) in (found..).zip(actions) {
        let mut entry = history.entries[history.nth(action, 0)].clone();
        entry.object.publication = Some(other);
        entry.at = history.entries[at].at.minus(CLOCK_SKEW);
        history.entries.insert(at, entry);
    }
    let hit = &mut history.entries[found + 2];
    assert_eq!(hit.action, Action::FindHit);
    hit.at = hit.at.plus(Duration::from_secs(1));
    assert!(verify(&history.file(&history.logged())).is_ok());
}

#[test]
fn a_batch_is_answered_once_in_an_open_session() {
    let (history, _) = without(Action::OpenSession, 0);
    let batch = history.nth(Action::AnswerBatch, 0);
    assert_eq!(fails(&history), (place(batch), F::NoSession));
    let mut history = History::whole();
    history.batch(1, 1);
    let last = history.entries.len() - 1;
    assert_eq!(fails(&history), (place(last), F::NoSession));
    let mut history = History::whole();
    let batch = history.nth(Action::AnswerBatch, 0);
    let again = history.entries[batch].clone();
    history.entries.insert(batch + 1, again);
    assert_eq!(fails(&history), (place(batch + 1), F::BatchRepeated));
}

#[test]
fn a_node_probes_within_its_quota() {
    let over = |refs| {
        lie(Action::AnswerBatch, 0, |e| {
            e.batch.as_mut().unwrap().refs = refs;
        })
    };
    let (history, _) = over(100);
    assert!(verify(&history.file(&history.logged())).is_ok());
    let (history, at) = over(101);
    assert_eq!(fails(&history), (at, F::QuotaExceeded));
    // Without a limit in the log, that of the protocol.
    for (refs, holds) in [(10_000, true), (10_001, false)] {
        let (mut history, _) = without(Action::SetLimits, 0);
        let batch = history.nth(Action::AnswerBatch, 0);
        history.entries[batch].batch.as_mut().unwrap().refs = refs;
        let verified = verify(&history.file(&history.logged()));
        assert_eq!(verified.is_ok(), holds, "{refs}");
    }
}

#[test]
fn a_batch_that_was_counted_while_a_limit_was_lowered_may_stand_behind_the_change() {
    for (minutes, holds) in [(4, true), (5, false)] {
        let mut history = History::whole();
        let batch = history.nth(Action::AnswerBatch, 0);
        let mut lowered = history.entries[history.nth(Action::SetLimits, 0)].clone();
        lowered.limits.as_mut().unwrap().0 = 10;
        lowered.at = history.entries[batch]
            .at
            .minus(Duration::from_mins(minutes));
        history.entries.insert(batch, lowered);
        let verified = verify(&history.file(&history.logged()));
        assert_eq!(verified.is_ok(), holds, "{minutes} minutes");
    }
}

#[test]
fn what_is_erased_is_counted_and_the_rest_still_holds() {
    let mut history = History::whole();
    history.erased(0, LATER);
    let last = history.entries.len() - 1;
    for count in 0..=last {
        history.entries[last].detail = count.to_string();
        let mut all = history.logged();
        all[..count].iter_mut().for_each(erase);
        let summary =
            verify(&history.file(&all)).unwrap_or_else(|error| panic!("{count}: {error}"));
        assert_eq!(summary.erased.values().sum::<u64>(), count as u64);
        let read: u64 = summary.kinds.values().sum();
        assert_eq!(read + count as u64, summary.head.size);
    }
    // One at a time, too: what it began or moved is not known.
    history.entries[last].detail = "1".to_owned();
    for index in 0..last {
        let mut all = history.logged();
        erase(&mut all[index]);
        let verified = verify(&history.file(&all));
        assert!(verified.is_ok(), "{index}: {:?}", verified.unwrap_err());
    }
}

#[test]
fn a_kind_of_a_later_version_is_in_the_tree_and_not_looked_into() {
    let history = History::whole();
    let mut all = history.logged();
    let last = all.len() - 1;
    let leaf = all[last].leaf.to_vec();
    let kind = leaf.windows(4).position(|bytes| bytes == b"READ").unwrap();
    let mut later = leaf;
    later[kind..kind + 4].copy_from_slice(b"HEAR");
    all[last].leaf = later.into();
    assert_eq!(verify(&history.file(&all)).unwrap().unknown, 1);
    all[last].nonce = vec![0; 32].into();
    assert_eq!(
        verify(&history.file(&all)).unwrap_err().code,
        F::OpeningMismatch
    );
}

#[test]
fn every_bit_of_a_file_counts() {
    const FLIPS: u64 = 10_000;
    let mut history = History::whole();
    history.erased(1, LATER);
    let mut all = history.logged();
    erase(&mut all[1]);
    let mut file = history.file(&all);
    assert!(verify(&file).is_ok());
    let mut state = u64::from_be_bytes(random::bytes(&mut os_rng()));
    eprintln!("seed {state}");
    for _ in 0..FLIPS {
        // SplitMix64: numbers that a seed gives again.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = state;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^= number >> 31;
        let bit = usize::try_from(number % (file.len() as u64 * 8)).unwrap();
        file[bit / 8] ^= 1 << (bit % 8);
        let verified = verify_export(file.as_slice(), &log_key(), false);
        assert!(verified.is_err(), "bit {bit} of {}", file.len());
        file[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(verify(&file).is_ok());
}
