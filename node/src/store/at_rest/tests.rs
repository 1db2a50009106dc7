use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use sotto_common::grounds::{Grounds, LegalBasis, Purpose};
use sotto_common::ids::{Epoch, RecordRef};
use sotto_common::time::Timestamp;
use sqlx::migrate::Migrator;

use super::convert::{finish, seal_some};
use super::*;
use crate::store::testing::{cipher, key_list, store};
use crate::store::{Batch, MIGRATIONS, ProbeKey, ProbeKind, ProbeSession, SelectorId, Store};
use crate::testing::{answered, grounds, hit, import_emails, staged};

const KEYS: [&str; 2] = [
    "00000001 0101010101010101010101010101010101010101010101010101010101010101",
    "00000002 0202020202020202020202020202020202020202020202020202020202020202",
];

fn epoch() -> Epoch {
    Epoch::new(2).expect("an epoch")
}

async fn session(store: &Store, dataset: &str) -> ProbeSession {
    let dataset = store.dataset(dataset).await.expect("read").expect("there");
    let (purpose, basis) = (Some(Purpose::Detection), Some(LegalBasis::Eu2023977));
    ProbeSession {
        id: SessionId::generate(Timestamp::from_seconds(1), &mut os_rng()),
        kind: ProbeKind::Asked,
        key: ProbeKey {
            dataset: dataset.name,
            grounds: Grounds::new(purpose, basis, "", "case 1").expect("valid"),
            targets: Vec::new(),
        },
        dataset: dataset.id,
        policy: dataset.policy,
        epoch: epoch(),
        nonce: SessionNonce::generate(&mut os_rng()),
        first: 0,
        last_selector: dataset.last_selector,
        total: dataset.selectors,
        layers: BTreeMap::new(),
        padding: 0,
        started_at: Timestamp::from_seconds(1),
        next_batch: 0,
        position: 0,
        decoys: 0,
        probed: 0,
        matches: 0,
    }
}

/// The files below a folder in which a text stands.
fn files_with(folder: &Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else {
            let content = std::fs::read(&path).expect("read");
            if content.windows(needle.len()).any(|window| window == needle) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[tokio::test]
async fn nothing_that_is_secret_can_be_read_in_any_file() {
    let (store, dir) = store().await;
    import_emails(&store, "d", &["anna@x.org", "bert@x.org"]).await;
    let import = store.begin_import().await.expect("begun");
    let rows = vec![staged(0, "carl@x.org", "record-carl")];
    let done = store.stage_rows(import, "d", Policy::Email, rows).await;
    done.expect("staged");
    let asked = Selector::new("dora@x.org");
    let row = store.put_check(Policy::Email, &asked, "check-dora").await;
    row.expect("stored");
    let session = session(&store, "d").await;
    store.put_session(&session).await.expect("stored");
    let refs = [(RecordRef::new([1; 16]), 1), (RecordRef::new([2; 16]), 2)];
    let (number, first, last) = (0, 1, 2);
    let batch = Batch {
        number,
        first,
        last,
        pairs: 0,
        decoy: 0,
    };
    let planned = store
        .plan_batch(session.id, epoch(), batch, &refs, &[])
        .await;
    planned.expect("planned");
    let found = hit(1, epoch(), refs[0].0);
    let batch = answered(session.id, epoch());
    let put = store
        .put_answered_hits(&[found], &grounds("case 1"), &batch)
        .await;
    put.expect("stored");

    let read = store.selectors(1, 0, 9, 9).await.expect("read");
    assert_eq!(read[0].canonical.expose(), "anna@x.org");
    assert_eq!(read[0].record_key, "d/r0#0");
    // Once with its log, once without.
    for _ in 0..2 {
        for secret in [
            "anna@x",
            "bert@x",
            "carl@x",
            "dora@x",
            "record-carl",
            "check-dora",
        ] {
            assert_eq!(
                files_with(dir.path(), secret.as_bytes()),
                [""; 0],
                "{secret}"
            );
        }
        let nonce = session.nonce.secret().expose();
        assert_eq!(files_with(dir.path(), nonce), [""; 0]);
        // What is looked for would be found.
        assert!(!files_with(dir.path(), session.id.as_bytes()).is_empty());
        store.close().await;
    }
}

#[tokio::test]
async fn a_store_does_not_open_with_other_keys() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("node.db");
    let store = Store::open(&file, cipher(dir.path()))
        .await
        .expect("opened");
    store.close().await;
    let error = Store::open(&file, cipher(dir.path())).await;
    let cause = error.expect_err("other keys").source.expect("a cause");
    assert!(
        cause.to_string().contains("is not in the key list"),
        "{cause}"
    );
}

#[tokio::test]
async fn a_record_of_another_row_or_dataset_does_not_open() {
    let (store, _dir) = store().await;
    let at_rest = &store.at_rest;
    let seal = |text: &str| at_rest.seal_record("d", Policy::Email, &Selector::new(text), "r");
    let (a, b) = (seal("a@x.org"), seal("b@x.org"));
    let open = |dataset, index: &Index, sealed: &SealedRecord| {
        at_rest.open_record(dataset, index, &sealed.record)
    };
    let opened = open("d", &a.canonical_index, &a).expect("opens");
    assert_eq!(
        (opened.canonical.expose(), &*opened.record_id),
        ("a@x.org", "r")
    );
    assert!(open("d", &b.canonical_index, &a).is_err());
    assert!(open("e", &a.canonical_index, &a).is_err());
    assert_eq!(a.record_index, b.record_index);
    assert_ne!(a.canonical_index, b.canonical_index);
    let phone = at_rest.canonical_index(Policy::Phone, &Selector::new("a@x.org"));
    assert_ne!(phone, a.canonical_index);
    let as_record = at_rest.record_index(Policy::Email, "a@x.org");
    assert_ne!(as_record, a.canonical_index);
}

/// Everything that is stored, as its use cases read it.
async fn content(store: &Store) -> Vec<(SelectorId, String, String)> {
    let mut all = Vec::new();
    for dataset in store.datasets().await.expect("read") {
        let rows = store.selectors(dataset.id, 0, i64::MAX, 10_000).await;
        for row in rows.expect("read") {
            all.push((row.id, row.canonical.expose().to_owned(), row.record_key));
        }
    }
    all
}

/// First bytes of what is sealed in a store.
async fn keys_used(store: &Store) -> BTreeSet<Vec<u8>> {
    let prefixes: Vec<(Vec<u8>,)> = sqlx::query_as(
        "SELECT substr(record, 1, 5) FROM selectors WHERE record IS NOT NULL
         UNION SELECT substr(nonce, 1, 5) FROM probe_sessions
         UNION SELECT substr(sealed, 1, 5) FROM store_keys",
    )
    .fetch_all(store.db.read())
    .await
    .expect("read");
    prefixes.into_iter().map(|(prefix,)| prefix).collect()
}

#[tokio::test]
async fn after_a_rotation_everything_comes_under_the_first_key_step_by_step() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("node.db");
    let open = async |keys: &[&str]| {
        let store = Store::open(&file, key_list(dir.path(), keys)).await;
        store.expect("opened")
    };
    let renew_all = async |store: &Store| {
        assert!(store.begin_renewal().await.expect("begun"));
        let (mut after, mut rows) = (0, 0);
        while let Some(step) = store.renew_seals(after, 2).await.expect("renewed") {
            assert!(step.rows <= 2 && step.last > after);
            (after, rows) = (step.last, rows + step.rows);
        }
        store.finish_renewal().await.expect("finished");
        assert!(!store.begin_renewal().await.expect("looked"));
        rows
    };
    let store = open(&KEYS[..1]).await;
    import_emails(&store, "d", &["a@x.org", "b@x.org", "c@x.org"]).await;
    let asked = Selector::new("z@x.org");
    let check = store.put_check(Policy::Email, &asked, "check").await;
    let check = check.expect("stored");
    let session = session(&store, "d").await;
    store.put_session(&session).await.expect("stored");
    assert_eq!(renew_all(&store).await, 0);
    let before = content(&store).await;
    store.close().await;

    // Interrupted, and the old key first again: nothing is forgotten.
    let store = open(&[KEYS[1], KEYS[0]]).await;
    assert!(store.begin_renewal().await.expect("begun"));
    store.renew_seals(0, 2).await.expect("renewed");
    store.close().await;
    let store = open(&KEYS).await;
    assert_eq!(renew_all(&store).await, 2);
    store.close().await;

    let store = open(&[KEYS[1], KEYS[0]]).await;
    assert_eq!(renew_all(&store).await, 4);
    assert_eq!(keys_used(&store).await, [vec![3, 0, 0, 0, 2]].into());
    store.close().await;
    let store = open(&KEYS[1..]).await;
    assert_eq!(content(&store).await, before);
    let again = store.put_check(Policy::Email, &asked, "later").await;
    assert_eq!(again.expect("stored"), check);
    let read = store.sessions().await.expect("read");
    assert_eq!(read[0].nonce, session.nonce);
}

/// A store as the version before left it: `rows` selectors of `d`, two of `e`, a one-off question,
/// a session and a record ref. Gives what is in it, by datasets, and the nonce.
async fn old_store(file: &Path, rows: i64) -> (Vec<(SelectorId, String, String)>, SessionNonce) {
    let old = MIGRATIONS.iter().filter(|migration| migration.version <= 2);
    let old = Migrator {
        migrations: Cow::Owned(old.cloned().collect()),
        ..Migrator::DEFAULT
    };
    let db = Sqlite::open(file, &old).await.expect("made");
    let nonce = SessionNonce::generate(&mut os_rng());
    let bytes = &nonce.secret().expose()[..];
    let mut expected: Vec<_> = (1..=rows)
        .map(|n| (n + 10, format!("old-{n}@x.org"), format!("d/rec-{n}#0")))
        .collect();
    let insert = &serde_json::to_string(
        &expected
            .iter()
            .map(|(id, canonical, key)| (id, canonical, &key[2..key.len() - 2]))
            .collect::<Vec<_>>(),
    )
    .expect("JSON");
    db.run_tx("fill", |tx| {
        async move {
            sqlx::raw_sql(
                "INSERT INTO datasets (dataset_id, name, policy, selectors, last_selector,
                     imported_at)
                 VALUES (1, 'd', 'email/1', 1, 1, 5), (2, 'e', 'email/1', 2, 3, 5);
                 INSERT INTO selectors (selector_id, dataset_id, policy, canonical, record_id,
                     ordinal)
                 VALUES (2, 2, 'email/1', 'old-1@x.org', 'rec-e', 0),
                     (3, 2, 'email/1', 'other@x.org', 'rec-e', 1),
                     (4, NULL, 'email/1', 'asked@x.org', 'check', 0);
                 INSERT INTO record_refs VALUES (unhex('0101010101010101'), 3, 2);",
            )
            .execute(&mut *tx)
            .await
            .map_err(db_error)?;
            sqlx::query(
                "INSERT INTO selectors (selector_id, dataset_id, policy, canonical, record_id,
                     ordinal)
                 SELECT value ->> 0, 1, 'email/1', value ->> 1, value ->> 2, 0 FROM json_each($1)",
            )
            .bind(insert)
            .execute(&mut *tx)
            .await
            .map_err(db_error)?;
            sqlx::query(
                "INSERT INTO probe_sessions (session_id, dataset_id, kind, epoch, nonce, purpose,
                     legal_basis, reference, case_ref, targets, first, last_selector, total,
                     layers, padding, started_at)
                 VALUES (unhex('00000000000070008000000000000001'), 1, 'ASKED', 2, $1, 'DETECTION',
                     'EU_2023_977', '', 'c', '', 0, 9, 9, '{}', 0, 0)",
            )
            .bind(bytes)
            .execute(tx)
            .await
            .map_err(db_error)?;
            Ok(())
        }
        .scope_boxed()
    })
    .await
    .expect("filled");
    db.close().await;
    expected.push((2, "old-1@x.org".into(), "e/rec-e#0".into()));
    expected.push((3, "other@x.org".into(), "e/rec-e#1".into()));
    (expected, nonce)
}

async fn check_converted(
    store: &Store,
    dir: &Path,
    expected: &[(SelectorId, String, String)],
    nonce: &SessionNonce,
) {
    assert_eq!(content(store).await, expected);
    let sessions = store.sessions().await.expect("read");
    assert_eq!(&sessions[0].nonce, nonce);
    let of_ref: i64 = sqlx::query_scalar("SELECT selector_id FROM record_refs")
        .fetch_one(store.db.read())
        .await
        .expect("read");
    assert_eq!(of_ref, 3);
    let asked = Selector::new("asked@x.org");
    let check = store.put_check(Policy::Email, &asked, "later").await;
    let check = check.expect("stored");
    assert_eq!((check.id, &*check.record_key), (4, "/check#0"));
    for secret in [&b"@x.org"[..], b"rec-", nonce.secret().expose()] {
        assert_eq!(files_with(dir, secret), [""; 0]);
    }
    // Ids go on, and what the dataset has is known again.
    let last = expected.iter().map(|row| row.0).max().expect("some");
    let import = store.begin_import().await.expect("begun");
    let rows = vec![
        staged(0, "old-1@x.org", "x"),
        staged(1, "new@x.org", "rec-e"),
    ];
    let policy = Policy::Email;
    let done = store.stage_rows(import, "e", policy, rows).await;
    done.expect("staged");
    let now = Timestamp::from_seconds(9);
    let done = store.commit_import(import, "e", policy, false, now).await;
    assert_eq!(done.expect("stored").accepted, 1);
    let (id, _, key) = content(store).await.pop().expect("some");
    assert!(id > last && key == "e/rec-e#2", "{id} {key}");
}

#[tokio::test]
async fn a_store_of_the_version_before_is_sealed_and_nothing_of_it_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("node.db");
    let (expected, nonce) = old_store(&file, 6_000).await;
    assert!(!files_with(dir.path(), b"old-77@x.org").is_empty());
    let store = Store::open(&file, cipher(dir.path()))
        .await
        .expect("opened");
    check_converted(&store, dir.path(), &expected, &nonce).await;
}

#[tokio::test]
async fn sealing_an_old_store_goes_on_where_it_was_interrupted() {
    // Eight rows, two a batch; at last the file alone is to be written anew.
    for batches in 0..=4 {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("node.db");
        let (expected, nonce) = old_store(&file, 5).await;
        let key_list = cipher(dir.path());
        let db = Sqlite::open(&file, &MIGRATIONS).await.expect("opened");
        let at_rest = AtRest::open(&db, key_list.clone()).await.expect("opened");
        let at_rest = Arc::new(at_rest);
        let mut after = 0;
        for _ in 0..batches {
            let sealed = seal_some(&db, &at_rest, after, 2).await.expect("sealed");
            after = sealed.expect("some are left").0;
        }
        if batches == 4 {
            finish(&db, &at_rest).await.expect("finished");
        }
        db.close().await;
        let store = Store::open(&file, key_list).await.expect("opened");
        check_converted(&store, dir.path(), &expected, &nonce).await;
    }
}
