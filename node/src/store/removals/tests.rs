use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use sotto_common::grounds::{LegalBasis, Purpose};
use sotto_common::ids::{Epoch, RecordRef, SessionId};
use sotto_common::random::os_rng;

use super::*;
use crate::store::testing::store;
use crate::store::{Committed, SelectorId, SelectorRow};
use crate::testing::{answered, grounds, hit, staged};

const POLICY: Policy = Policy::Email;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

/// Canonical value, record, and when it expires.
type Row<'a> = (&'a str, &'a str, Option<i64>);

async fn import(store: &Store, name: &str, replace: bool, rows: &[Row<'_>], now: i64) -> Committed {
    let import = store.begin_import().await.expect("begun");
    let rows = rows
        .iter()
        .zip(0..)
        .map(|(&(canonical, record_id, expires), position)| {
            let mut row = staged(position, canonical, record_id);
            row.expires_at = expires.map(at);
            row
        })
        .collect();
    let done = store.stage_rows(import, name, POLICY, rows).await;
    done.expect("staged");
    store
        .commit_import(import, name, POLICY, replace, at(now))
        .await
        .expect("stored")
}

async fn take_out(store: &Store, name: &str, wanted: Vec<Wanted>, now: i64) -> Option<Removed> {
    let by_record = matches!(wanted[0], Wanted::Record(_));
    let removal = store.begin_import().await.expect("begun");
    let done = store.stage_removals(removal, POLICY, wanted).await;
    done.expect("staged");
    let done = store.commit_removal(removal, name, by_record, at(now));
    done.await.expect("removed")
}

fn values(wanted: &[&str]) -> Vec<Wanted> {
    let value = |text: &&str| Wanted::Value(Selector::new(*text));
    wanted.iter().map(value).collect()
}

async fn rows(store: &Store, name: &str) -> Vec<SelectorRow> {
    let Some(dataset) = store.dataset(name).await.expect("read") else {
        return Vec::new();
    };
    let rows = store.selectors(dataset.id, 0, i64::MAX, 1_000).await;
    let rows = rows.expect("read");
    let last = rows.last().map_or(0, |row| row.id);
    assert_eq!(
        (dataset.selectors, dataset.last_selector),
        (rows.len() as u64, last)
    );
    rows
}

/// Canonical values and record keys, with blanks between.
async fn shown(store: &Store, name: &str) -> Vec<String> {
    let rows = rows(store, name).await;
    let shown = |row: &SelectorRow| format!("{} {}", row.canonical.expose(), row.record_key);
    rows.iter().map(shown).collect()
}

async fn probe(store: &Store, record_ref: u8, selector: SelectorId) -> RecordRef {
    let record_ref = RecordRef::new([record_ref; 16]);
    let epoch = Epoch::new(1).expect("an epoch");
    let put = store.put_record_ref(epoch, record_ref, selector).await;
    put.expect("stored");
    record_ref
}

async fn removals(store: &Store) -> i64 {
    sqlx::query_scalar("SELECT coalesce(sum(removals), 0) FROM publishing")
        .fetch_one(store.db.read())
        .await
        .expect("read")
}

#[tokio::test]
async fn rows_that_take_the_place_of_everything_keep_what_stays_and_move_named_records() {
    let (store, _dir) = store().await;
    let first = [
        ("a@x.org", "r", None),
        ("b@x.org", "r", None),
        ("c@x.org", "s", None),
    ];
    import(&store, "d", false, &first, 1).await;
    let next = [
        ("b@x.org", "r", None),
        ("c@x.org", "t", None),
        ("e@x.org", "r", None),
    ];
    let done = import(&store, "d", true, &next, 2).await;
    assert_eq!((done.accepted, done.removed), (2, 2));
    let expected = ["b@x.org d/r#1", "c@x.org d/t#0", "e@x.org d/r#2"];
    assert_eq!(shown(&store, "d").await, expected);
    assert_eq!(removals(&store).await, 1);

    // A file without records, whose lines have moved: nothing changes.
    let import = store.begin_import().await.expect("begun");
    let unnamed = |(position, value)| {
        let mut row = staged(position, value, &format!("d/{position}"));
        row.named = false;
        row
    };
    let lines = [(0, "e@x.org"), (1, "c@x.org"), (2, "b@x.org")];
    let lines = lines.map(unnamed).to_vec();
    let done = store.stage_rows(import, "d", POLICY, lines).await;
    done.expect("staged");
    let done = store.commit_import(import, "d", POLICY, true, at(3)).await;
    assert_eq!(done.expect("stored"), Committed::default());
    assert_eq!(shown(&store, "d").await, expected);
}

#[tokio::test]
async fn a_removal_tells_what_was_not_there_and_takes_whole_records() {
    let (store, _dir) = store().await;
    let first = [
        ("a@x.org", "r", None),
        ("b@x.org", "r", None),
        ("c@x.org", "s", None),
    ];
    import(&store, "d", false, &first, 1).await;
    let wanted = values(&["c@x.org", "no@x.org", "no@x.org", "c@x.org"]);
    let done = take_out(&store, "d", wanted, 2).await.expect("there");
    assert_eq!((done.removed, done.absent), (1, 2));
    let wanted = vec![Wanted::Record("r".into()), Wanted::Record("s".into())];
    let done = take_out(&store, "d", wanted, 3).await.expect("there");
    assert_eq!((done.removed, done.absent), (2, 1));
    assert!(shown(&store, "d").await.is_empty());
    assert_eq!(removals(&store).await, 2);
    assert_eq!(take_out(&store, "e", values(&["c@x.org"]), 4).await, None);
}

#[tokio::test]
async fn a_removed_row_leaves_its_hit_without_a_value_and_has_it_again_when_it_returns() {
    let (store, _dir) = store().await;
    let first = [("a@x.org", "r", None), ("b@x.org", "r", None)];
    import(&store, "d", false, &first, 1).await;
    let probed = rows(&store, "d").await[0].id;
    let record_ref = probe(&store, 1, probed).await;
    let found = hit(1, Epoch::new(1).expect("an epoch"), record_ref);
    let session = SessionId::generate(at(5), &mut os_rng());
    let batch = answered(session, found.epoch);
    let put = store
        .put_answered_hits(std::slice::from_ref(&found), &grounds("1"), &batch)
        .await;
    put.expect("stored");
    take_out(&store, "d", values(&["a@x.org"]), 2).await;
    let joined = async || {
        let joined = store
            .record_hit(found.id)
            .await
            .expect("read")
            .expect("there");
        let value = joined.canonical.map(|value| value.expose().to_owned());
        (joined.dataset, joined.record_id, value)
    };
    assert_eq!(joined().await, ("d".into(), String::new(), None));
    // Another value of the record does not take its ordinal.
    import(&store, "d", false, &[("c@x.org", "r", None)], 3).await;
    assert_eq!(shown(&store, "d").await, ["b@x.org d/r#1", "c@x.org d/r#2"]);
    let last = rows(&store, "d").await[1].id;

    let back = [("d@x.org", "r", None), ("a@x.org", "r", None)];
    import(&store, "d", false, &back, 4).await;
    let after = &rows(&store, "d").await[2..];
    assert!(after.iter().all(|row| row.id > last));
    let keys: BTreeSet<_> = after.iter().map(|row| &*row.record_key).collect();
    assert_eq!(keys, BTreeSet::from(["d/r#0", "d/r#3"]));
    let expected = ("d".into(), "r".into(), Some("a@x.org".into()));
    assert_eq!(joined().await, expected);
}

#[tokio::test]
async fn rows_expire_and_take_new_times() {
    let (store, _dir) = store().await;
    let first = [
        ("a@x.org", "r", Some(10)),
        ("b@x.org", "r", Some(20)),
        ("c@x.org", "r", None),
    ];
    import(&store, "d", false, &first, 1).await;
    assert_eq!(store.next_expiry().await.expect("read"), Some(at(10)));
    assert_eq!(store.remove_expired(at(9)).await.expect("done"), []);
    assert_eq!(store.remove_expired(at(10)).await.expect("done"), [POLICY]);
    assert_eq!(shown(&store, "d").await, ["b@x.org d/r#1", "c@x.org d/r#2"]);
    // One for ever, one with a time that has passed already, one new and past.
    let next = [
        ("b@x.org", "r", None),
        ("c@x.org", "r", Some(11)),
        ("d@x.org", "r", Some(11)),
    ];
    let done = import(&store, "d", false, &next, 12).await;
    assert_eq!((done.accepted, done.removed), (0, 1));
    assert_eq!(shown(&store, "d").await, ["b@x.org d/r#1"]);
    assert_eq!(store.next_expiry().await.expect("read"), None);
}

#[tokio::test]
async fn a_deleted_dataset_is_gone_and_comes_back_with_its_ordinals_alone() {
    let (store, _dir) = store().await;
    import(&store, "d", false, &[("a@x.org", "r", None)], 1).await;
    import(&store, "e", false, &[("a@x.org", "r", None)], 1).await;
    probe(&store, 1, rows(&store, "d").await[0].id).await;
    let (purpose, basis) = (Some(Purpose::Detection), Some(LegalBasis::Eu2023977));
    let grounds = Grounds::new(purpose, basis, "", "c-1").expect("valid");
    let set = store
        .update_dataset("d", Some(false), Some(Some(grounds.clone())))
        .await
        .expect("set")
        .expect("there");
    assert_eq!((set.publish, set.probe), (false, Some(grounds)));
    for name in ["d", "e"] {
        let deleted = store.delete_dataset(name, at(2)).await.expect("deleted");
        assert_eq!(deleted, Some((POLICY, 1)));
        assert_eq!(store.delete_dataset(name, at(2)).await.expect("done"), None);
        assert_eq!(store.dataset(name).await.expect("read"), None);
    }
    assert!(store.datasets().await.expect("read").is_empty());
    assert!(store.policies_in_use().await.expect("read").is_empty());
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM datasets")
        .fetch_one(store.db.read())
        .await
        .expect("read");
    assert_eq!(left, 1);

    import(&store, "d", false, &[("b@x.org", "r", None)], 3).await;
    assert_eq!(shown(&store, "d").await, ["b@x.org d/r#1"]);
    let back = store.dataset("d").await.expect("read").expect("there");
    assert_eq!((back.publish, back.probe), (true, None));
    // Deleted, a name is free for another policy.
    store.delete_dataset("d", at(4)).await.expect("deleted");
    let import = store.begin_import().await.expect("begun");
    let rows = vec![staged(0, "+31612345678", "r")];
    let done = store.stage_rows(import, "d", Policy::Phone, rows).await;
    done.expect("staged");
    let done = store
        .commit_import(import, "d", Policy::Phone, false, at(5))
        .await;
    assert_eq!(done.expect("stored").accepted, 1);
    assert_eq!(shown(&store, "d").await, ["+31612345678 d/r#0"]);
}

#[tokio::test]
async fn a_change_of_what_is_published_asks_for_a_new_base() {
    let (store, _dir) = store().await;
    import(&store, "d", false, &[("a@x.org", "r", None)], 1).await;
    let set = async |publish| {
        let set = store.update_dataset("d", Some(publish), None).await;
        set.expect("set").expect("there").publish
    };
    let published = async || {
        let rows = store.published_values(POLICY, 0, 99, 99).await;
        rows.expect("read").len()
    };
    for (publish, bases, count) in [(true, 0, 1), (false, 1, 0), (false, 1, 0), (true, 2, 1)] {
        assert_eq!(set(publish).await, publish);
        assert_eq!((removals(&store).await, published().await), (bases, count));
    }
    // What is not published matches nowhere: its removal asks for nothing.
    set(false).await;
    take_out(&store, "d", values(&["a@x.org"]), 2).await;
    assert_eq!(removals(&store).await, 3);
    let unknown = store.update_dataset("x", Some(true), None).await;
    assert_eq!(unknown.expect("read"), None);
}

/// One thing that happens to a dataset, 0 or 1.
#[derive(Clone, Debug)]
enum Event {
    Import(usize, bool, Vec<(u8, u8, Option<i64>)>),
    RemoveValues(usize, Vec<u8>),
    RemoveRecords(usize, Vec<u8>),
    Probe(usize, usize),
    Expire,
    Delete(usize),
    Publish(usize, bool),
}

fn event() -> impl Strategy<Value = Event> {
    let rows = vec((0..7_u8, 0..3_u8, prop::option::of(0..40_i64)), 0..8);
    let some = || vec(0..7_u8, 1..4);
    prop_oneof![
        5 => (0..2_usize, any::<bool>(), rows).prop_map(|(d, r, rows)| Event::Import(d, r, rows)),
        2 => (0..2_usize, some()).prop_map(|(d, values)| Event::RemoveValues(d, values)),
        1 => (0..2_usize, some()).prop_map(|(d, records)| Event::RemoveRecords(d, records)),
        4 => (0..2_usize, 0..7_usize).prop_map(|(d, n)| Event::Probe(d, n)),
        1 => Just(Event::Expire),
        1 => (0..2_usize).prop_map(Event::Delete),
        1 => (0..2_usize, any::<bool>()).prop_map(|(d, publish)| Event::Publish(d, publish)),
    ]
}

const NAMES: [&str; 2] = ["d", "e"];

/// What two datasets should hold: record and time by value; and what was probed: dataset, record
/// and value by ref, value by record key.
#[derive(Default)]
struct Model {
    live: [BTreeMap<u8, (u8, Option<i64>)>; 2],
    unpublished: [bool; 2],
    refs: Vec<(usize, u8, u8)>,
    keys: BTreeMap<String, u8>,
    highest: SelectorId,
    removals: i64,
}

fn value(n: u8) -> String {
    format!("v{n}@x.org")
}

impl Model {
    /// Does the same to the store and to this; tells of which datasets something was removed.
    async fn happen(&mut self, store: &Store, event: &Event, now: i64) -> [bool; 2] {
        let before = self.live.clone();
        match event {
            Event::Import(d, replace, rows) => self.import(store, *d, *replace, rows, now).await,
            Event::RemoveValues(d, gone) => {
                let wanted = gone.iter().map(|n| Wanted::Value(Selector::new(value(*n))));
                take_out(store, NAMES[*d], wanted.collect(), now).await;
                self.live[*d].retain(|n, _| !gone.contains(n));
            }
            Event::RemoveRecords(d, gone) => {
                let wanted = gone.iter().map(|r| Wanted::Record(format!("r{r}")));
                take_out(store, NAMES[*d], wanted.collect(), now).await;
                self.live[*d].retain(|_, (record, _)| !gone.contains(record));
            }
            Event::Probe(d, n) => {
                let rows = rows(store, NAMES[*d]).await;
                if let Some(row) = rows.get(*n) {
                    let number = u8::try_from(self.refs.len()).expect("few");
                    probe(store, number, row.id).await;
                    let n = row.canonical.expose().as_bytes()[1] - b'0';
                    self.refs.push((*d, self.live[*d][&n].0, n));
                    self.keys.insert(row.record_key.clone(), n);
                }
            }
            Event::Expire => {
                store.remove_expired(at(now)).await.expect("done");
                for live in &mut self.live {
                    live.retain(|_, (_, expires)| expires.is_none_or(|at| at > now));
                }
            }
            Event::Delete(d) => {
                let deleted = store.delete_dataset(NAMES[*d], at(now)).await;
                let count = deleted.expect("done").map_or(0, |(_, count)| count);
                assert_eq!(count, self.live[*d].len() as u64);
                self.live[*d].clear();
            }
            Event::Publish(d, publish) => {
                let set = store.update_dataset(NAMES[*d], Some(*publish), None).await;
                if set.expect("set").is_some() {
                    self.unpublished[*d] = !publish;
                }
                // Counted by a test of its own.
                self.removals = removals(store).await;
            }
        }
        let went = |d: usize| {
            let (before, after) = (&before[d], &self.live[d]);
            before
                .iter()
                .any(|(n, (r, _))| after.get(n).is_none_or(|(now, _)| now != r))
        };
        [went(0), went(1)]
    }

    async fn import(
        &mut self,
        store: &Store,
        d: usize,
        replace: bool,
        rows: &[(u8, u8, Option<i64>)],
        now: i64,
    ) {
        let texts: Vec<_> = rows
            .iter()
            .map(|(n, r, expires)| (value(*n), format!("r{r}"), *expires))
            .collect();
        let given: Vec<_> = texts.iter().map(|(v, r, e)| (&**v, &**r, *e)).collect();
        let done = import(store, NAMES[d], replace, &given, now).await;
        // The first row of a value stands.
        let mut wanted: BTreeMap<u8, (u8, Option<i64>)> = BTreeMap::new();
        for (n, r, expires) in rows {
            wanted.entry(*n).or_insert((*r, *expires));
        }
        let live = &mut self.live[d];
        let count = live.len() as u64;
        if replace {
            live.retain(|n, (r, _)| wanted.get(n).is_some_and(|(record, _)| record == r));
        }
        for (n, (_, expires)) in &wanted {
            if let Some(row) = live.get_mut(n) {
                row.1 = *expires;
            }
        }
        live.retain(|_, (_, expires)| expires.is_none_or(|at| at > now));
        assert_eq!(done.removed, count - live.len() as u64);
        let stays = live.len() as u64;
        for (n, row) in wanted {
            if row.1.is_none_or(|at| at > now) {
                live.entry(n).or_insert(row);
            }
        }
        assert_eq!(done.accepted, live.len() as u64 - stays);
    }

    async fn check(&mut self, store: &Store, went: [bool; 2], known: &BTreeSet<SelectorId>) {
        let mut published = Vec::new();
        for (d, name) in NAMES.iter().enumerate() {
            let rows = rows(store, name).await;
            let mut found = BTreeMap::new();
            for row in &rows {
                let n = row.canonical.expose().as_bytes()[1] - b'0';
                let (record, _) = row.record_key.split_once('#').expect("an ordinal");
                found.insert(n, record.to_owned());
                // A record ref stands for one record and one value, for ever.
                assert!(self.keys.get(&row.record_key).is_none_or(|of| *of == n));
                assert!(
                    known.contains(&row.id) || row.id > self.highest,
                    "ids go up"
                );
            }
            let expected = self.live[d]
                .iter()
                .map(|(n, (r, _))| (*n, format!("{name}/r{r}")));
            assert_eq!(found, expected.collect());
            if !self.unpublished[d] {
                published.extend(rows);
            }
        }
        published.sort_unstable_by_key(|row| row.id);
        assert_eq!(pages(store).await, published);
        let times = self
            .live
            .iter()
            .flat_map(BTreeMap::values)
            .filter_map(|row| row.1);
        assert_eq!(
            store.next_expiry().await.expect("read"),
            times.min().map(at)
        );
        self.check_refs(store).await;
        let went = (0..2).any(|d| went[d] && !self.unpublished[d]);
        let now = removals(store).await;
        assert_eq!(now > self.removals, went, "{now} {}", self.removals);
        self.removals = now;
    }

    /// What was found stays with its record, and shows its value while that is there.
    async fn check_refs(&self, store: &Store) {
        for (number, (d, record, n)) in self.refs.iter().enumerate() {
            let number = u8::try_from(number).expect("few");
            let is_there: bool = sqlx::query_scalar(
                "SELECT record IS NOT NULL FROM record_refs JOIN selectors USING (selector_id)
                 WHERE record_ref = $1",
            )
            .bind(vec![number; 16])
            .fetch_one(store.db.read())
            .await
            .expect("read");
            let expected = self.live[*d].get(n).is_some_and(|(r, _)| r == record);
            assert_eq!(is_there, expected);
        }
    }
}

async fn pages(store: &Store) -> Vec<SelectorRow> {
    let mut all: Vec<SelectorRow> = Vec::new();
    loop {
        let after = all.last().map_or(0, |row| row.id);
        let page = store.published_values(POLICY, after, i64::MAX, 3).await;
        let page = page.expect("read");
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

async fn ids(store: &Store) -> BTreeSet<SelectorId> {
    let ids: Vec<(SelectorId,)> = sqlx::query_as("SELECT selector_id FROM selectors")
        .fetch_all(store.db.read())
        .await
        .expect("read");
    ids.into_iter().map(|(id,)| id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_refs_keep_their_values_and_ids_go_up(events in vec(event(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (store, _dir) = store().await;
            let mut model = Model::default();
            for (event, now) in events.iter().zip(1..) {
                let known = ids(&store).await;
                let went = model.happen(&store, event, now).await;
                model.check(&store, went, &known).await;
                if let Event::Delete(d) = event {
                    // As a new one.
                    model.unpublished[*d] = false;
                }
                model.highest = model.highest.max(ids(&store).await.last().copied().unwrap_or(0));
            }
            store.close().await;
        });
    }
}
