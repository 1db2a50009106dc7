use sotto_common::ids::SpiffeId;
use sotto_common::membership::{KeyStatement, MemberKeys};
use sotto_proto::convert;

use super::super::super::testing::{OPERATOR, community};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn identity(path: &str) -> SpiffeId {
    format!("spiffe://sotto.example/{path}").parse().unwrap()
}

/// Dates the last entry so long after the one at a place.
fn date(history: &mut History, after: usize, by: Duration) -> usize {
    let last = history.entries.len() - 1;
    history.entries[last].at = history.entries[after].at.plus(by);
    last
}

/// The holder announces a publication that it has not announced before.
fn announce(history: &mut History) {
    history.publication = PublicationId::generate(NOW, &mut os_rng());
    history.publication(Action::AnnouncePublication);
}

/// A history that goes on with an announcement of the holder's, a second later than clocks may differ after
/// something has come to an end; at once it still holds.
fn fails_after(mut history: History) -> FailureCode {
    let ended = history.entries.len() - 1;
    announce(&mut history);
    let last = date(&mut history, ended, CLOCK_SKEW);
    assert!(verify(&history.file(&history.logged())).is_ok());
    date(&mut history, ended, CLOCK_SKEW + SECOND);
    let (index, code) = fails(&history);
    assert_eq!(index, place(last));
    code
}

#[test]
fn a_node_acts_while_it_is_enrolled() {
    let (history, _) = without(Action::EnrolNode, 1);
    let keys = history.nth(Action::SubmitKeys, 1);
    assert_eq!(fails(&history), (place(keys), F::NotAMember));
    let mut history = History::whole();
    let suspended = history.add(Action::SuspendNode, OPERATOR);
    suspended.object.node = Some(node(HOLDER));
    assert_eq!(fails_after(history), F::NotAMember);
}

#[test]
fn a_node_that_is_enrolled_again_acts_again() {
    for again in [false, true] {
        let mut history = History::whole();
        announce(&mut history);
        let suspended = history.add(Action::SuspendNode, OPERATOR);
        suspended.object.node = Some(node(HOLDER));
        let at = history.entries.len() - 1;
        if again {
            history.add(Action::EnrolNode, OPERATOR).object.node = Some(node(HOLDER));
        }
        history.publication(Action::WithdrawPublication);
        let last = date(&mut history, at, CLOCK_SKEW + SECOND);
        if again {
            assert!(verify(&history.file(&history.logged())).is_ok());
        } else {
            assert_eq!(fails(&history), (place(last), F::NotAMember));
        }
    }
}

#[test]
fn nothing_is_published_or_probed_in_an_epoch_that_is_not_active() {
    let (history, _) = without(Action::ActivateEpoch, 0);
    let announced = history.nth(Action::AnnouncePublication, 0);
    assert_eq!(fails(&history), (place(announced), F::EpochNotActive));
    let mut history = History::whole();
    history.add(Action::EndEpoch, PROBER).object.epoch = Some(epoch());
    assert_eq!(fails_after(history), F::EpochNotActive);
    // The suspension of a member ends it, with an entry of its own or without.
    let mut history = History::whole();
    let suspended = history.add(Action::SuspendNode, OPERATOR);
    suspended.object.node = Some(node(PROBER));
    assert_eq!(fails_after(history), F::EpochNotActive);
    // Outside its times.
    for (at, holds) in [(24 * 3600 - 1, true), (24 * 3600, false)] {
        let mut history = History::whole();
        announce(&mut history);
        let last = date(&mut history, 0, SECOND * at);
        let verified = verify(&history.file(&history.logged()));
        assert_eq!(verified.is_ok(), holds);
        if !holds {
            assert_eq!(fails(&history), (place(last), F::EpochNotActive));
        }
    }
    for action in [Action::OpenSession, Action::AnswerBatch] {
        let (history, at) = lie(action, 0, |entry| entry.object.epoch = None);
        assert_eq!(fails(&history), (at, F::EntryMalformed), "{action}");
    }
}

#[test]
fn an_epoch_may_be_active_whose_activation_is_erased() {
    // Its custodian has closed the list, and a member confirms later.
    let mut history = History::whole();
    let (confirmed, active) = (
        history.nth(Action::ConfirmEpoch, 1),
        history.nth(Action::ActivateEpoch, 0),
    );
    history.entries[active].actor = identity("node/nl-fiu");
    history.entries.swap(confirmed, active);
    history.erased(0, LATER);
    let last = history.entries.len() - 1;
    for from in [0, confirmed] {
        history.entries[last].detail = (confirmed + 1 - from).to_string();
        let mut all = history.logged();
        all[from..=confirmed].iter_mut().for_each(erase);
        let verified = verify(&history.file(&all));
        assert!(verified.is_ok(), "{from}: {:?}", verified.unwrap_err());
    }
}

#[test]
fn only_members_of_an_epoch_take_part_in_it() {
    let mut history = History::whole();
    history.add(Action::EnrolNode, OPERATOR).object.node = Some(node("fr-pj"));
    announce(&mut history);
    let last = history.entries.len() - 1;
    history.entries[last].actor = identity("node/fr-pj");
    assert_eq!(fails(&history), (place(last), F::NotAMember));
}

#[test]
fn epochs_are_opened_and_ended_by_their_custodians_and_become_active_once() {
    for (action, path) in [
        (Action::OpenEpoch, "node/de-bka"),
        (Action::EndEpoch, "node/de-bka"),
    ] {
        let mut history = History::whole();
        history.add(Action::EndEpoch, PROBER).object.epoch = Some(epoch());
        let at = history.nth(action, 0);
        assert!(verify(&history.file(&history.logged())).is_ok());
        history.entries[at].actor = identity(path);
        assert_eq!(fails(&history), (place(at), F::IllegalEpoch), "{action}");
    }
    for action in [Action::OpenEpoch, Action::ActivateEpoch] {
        let mut history = History::whole();
        let at = history.nth(action, 0);
        let again = history.entries[at].clone();
        history.entries.insert(at + 1, again);
        assert_eq!(
            fails(&history),
            (place(at + 1), F::IllegalEpoch),
            "{action}"
        );
    }
    let (history, _) = without(Action::OpenEpoch, 0);
    let confirmed = history.nth(Action::ConfirmEpoch, 0);
    assert_eq!(fails(&history), (place(confirmed), F::IllegalEpoch));
}

#[test]
fn each_action_is_of_the_roles_that_do_it() {
    for (action, path) in [
        (Action::CreateCommunity, "broker/b-1"),
        (Action::EnrolNode, "auditor/bob"),
        (Action::SetLimits, "node/nl-fiu"),
        (Action::AnswerBatch, "operator/alice"),
        (Action::FindHit, "broker/b-1"),
        (Action::ExpireHit, "node/nl-fiu"),
        (Action::Read, "node/nl-fiu"),
    ] {
        let (history, at) = lie(action, 0, |entry| entry.actor = identity(path));
        assert_eq!(fails(&history), (at, F::ActorRole), "{action}");
    }
    let (history, _) = lie(Action::Read, 0, |entry| {
        entry.actor = identity("operator/eve");
    });
    assert!(verify(&history.file(&history.logged())).is_ok());
    // Only an operator lets a hit out of quarantine.
    for (path, holds) in [("operator/alice", true), ("node/nl-fiu", false)] {
        let mut history = History::whole();
        let hit = sotto_common::ids::HitId::generate(NOW, &mut os_rng());
        history.found(Action::QuarantineHit, hit);
        let states = (HitState::Quarantined, HitState::New);
        let released = history.moved(Action::ReleaseHit, PROBER, hit, states);
        released.actor = identity(path);
        let last = history.entries.len() - 1;
        if holds {
            assert!(verify(&history.file(&history.logged())).is_ok());
        } else {
            assert_eq!(fails(&history), (place(last), F::ActorRole));
        }
    }
}

/// What the holder states, with other keys than the manifest has.
fn stated(history: &History, change: impl FnOnce(&mut MemberKeys)) -> Entry {
    let mut keys = history.members[1].clone();
    change(&mut keys);
    let stated = KeyStatement {
        keys,
        community: community(),
        valid_from: epoch(),
    };
    let signed = convert::sign(stated, &signing(HOLDER));
    let mut entry = history.entries[history.nth(Action::SubmitKeys, 1)].clone();
    entry.statement = statement(&signed);
    entry
}

#[test]
fn a_manifest_has_all_keys_of_its_members_as_they_have_stated_them() {
    type Change = fn(&mut MemberKeys, &MemberKeys);
    let changes: [Change; 2] = [
        |keys, other| keys.cosigning = other.cosigning,
        |keys, other| keys.hpke.clone_from(&other.hpke),
    ];
    for change in changes {
        let mut history = History::whole();
        let other = history.members[0].clone();
        let at = history.nth(Action::SubmitKeys, 1);
        history.entries[at] = stated(&history, |keys| change(keys, &other));
        let opened = history.nth(Action::OpenEpoch, 0);
        assert_eq!(fails(&history), (place(opened), F::Manifest));
    }
    // Or has not stated any.
    let (history, _) = without(Action::SubmitKeys, 1);
    let opened = history.nth(Action::OpenEpoch, 0);
    assert_eq!(fails(&history), (place(opened), F::Manifest));
}

#[test]
fn keys_that_are_stated_in_the_moment_in_which_an_epoch_is_opened_are_for_the_next() {
    for (before, holds) in [(CLOCK_SKEW, true), (CLOCK_SKEW + SECOND, false)] {
        let mut history = History::whole();
        let other = history.members[0].clone();
        let opened = history.nth(Action::OpenEpoch, 0);
        let mut entry = stated(&history, |keys| keys.cosigning = other.cosigning);
        entry.at = history.entries[opened].at.minus(before);
        history.entries.insert(opened, entry);
        if holds {
            assert!(verify(&history.file(&history.logged())).is_ok());
        } else {
            assert_eq!(fails(&history), (place(opened + 1), F::Manifest));
        }
    }
}
