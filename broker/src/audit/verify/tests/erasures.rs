use super::super::super::testing::OPERATOR;
use super::*;

const DAY: Duration = Duration::from_hours(24);

/// Where and how a history fails of which these openings are missing.
fn fails_without(history: &History, missing: &[usize]) -> (Option<u64>, FailureCode) {
    let failure = verify_without(history, missing).expect_err("a lie");
    (failure.index, failure.code)
}

fn verify_without(history: &History, missing: &[usize]) -> Result<Summary, Failure> {
    let mut all = history.logged();
    for index in missing {
        erase(&mut all[*index]);
    }
    verify(&history.file(&all))
}

#[test]
fn a_withheld_opening_is_named_if_nothing_tells_of_an_erasure() {
    let history = History::whole();
    assert_eq!(
        fails_without(&history, &[9, 5]),
        (Some(5), F::OpeningWithheld)
    );
}

#[test]
fn a_withheld_opening_of_a_recent_entry_is_named_whatever_the_broker_tells() {
    // A day before the retention time is over.
    let mut history = History::whole();
    history.erased(1, DAY * 1094);
    assert_eq!(fails_without(&history, &[5]), (Some(5), F::OpeningWithheld));
    // Older ones were erased, and it is counted among them.
    let mut history = History::whole();
    let recent = history.entries.len();
    let read = history.add(Action::Read, OPERATOR);
    read.at = NOW.plus(LATER).minus(DAY);
    history.erased(4, LATER);
    let missing = [0, 1, 2, recent];
    assert_eq!(
        fails_without(&history, &missing),
        (place(recent), F::OpeningWithheld)
    );
    // An entry before it tells of no erasure of it.
    let mut history = History::whole();
    history.erased(1, LATER);
    let read = history.add(Action::Read, OPERATOR);
    read.at = NOW.plus(LATER);
    let last = history.entries.len() - 1;
    assert_eq!(
        fails_without(&history, &[3, last]),
        (place(last), F::OpeningWithheld)
    );
}

#[test]
fn no_more_openings_are_missing_than_were_counted_and_no_fewer() {
    let mut history = History::whole();
    history.erased(2, LATER);
    history.erased(1, LATER);
    assert!(verify_without(&history, &[0, 1, 2]).is_ok());
    assert_eq!(
        fails_without(&history, &[4, 5, 6, 7]),
        (Some(4), F::OpeningWithheld)
    );
    let told = history.nth(Action::EraseOpenings, 1);
    assert_eq!(
        fails_without(&history, &[0, 1]),
        (place(told), F::ErasureMiscounted)
    );
    history.entries[told].detail = "one".to_owned();
    assert_eq!(
        fails_without(&history, &[0, 1, 2]),
        (place(told), F::EntryMalformed)
    );
}

#[test]
fn what_erased_entries_told_is_not_counted_and_all_that_is_younger_still_is() {
    let mut history = History::whole();
    history.erased(3, LATER);
    let first = history.nth(Action::EraseOpenings, 0);
    for days in [1, 2] {
        let read = history.add(Action::Read, OPERATOR);
        read.at = NOW.plus(LATER + DAY * days);
    }
    history.erased(1, LATER * 2);
    assert!(verify_without(&history, &[0, 1, 2, first]).is_ok());
    let missing = [0, 1, 2, first, first + 1];
    assert_eq!(
        fails_without(&history, &missing),
        (place(first + 1), F::OpeningWithheld)
    );
    history.entries.last_mut().unwrap().detail = "2".to_owned();
    assert!(verify_without(&history, &missing).is_ok());
}

#[test]
fn a_leaf_is_not_dated_back_to_look_old_enough() {
    let mut history = History::whole();
    let last = history.entries.len();
    let read = history.add(Action::Read, OPERATOR);
    read.at = NOW.minus(DAY);
    history.erased(1, LATER);
    assert_eq!(
        fails_without(&history, &[last]),
        (place(last), F::TimeReversed)
    );
}

#[test]
fn an_opening_of_a_kind_of_a_later_version_is_not_withheld_either() {
    let mut history = History::whole();
    let read = history.nth(Action::Read, 0);
    let later = |history: &History| {
        let mut all = history.logged();
        let mut leaf = all[read].leaf.to_vec();
        let kind = leaf.windows(4).position(|bytes| bytes == b"READ").unwrap();
        leaf[kind..kind + 4].copy_from_slice(b"HEAR");
        all[read].leaf = leaf.into();
        erase(&mut all[read]);
        verify(&history.file(&all))
    };
    assert_eq!(later(&history).unwrap_err().code, F::OpeningWithheld);
    history.erased(1, LATER);
    assert_eq!(later(&history).unwrap().unknown, 1);
}
