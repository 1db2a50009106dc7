//! The access log (Directive (EU) 2016/680 art. 25). Entries are only ever added.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::random::os_rng;
use sotto_common::service::at_rest::{Cell, ColumnCipher};
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{Store, damaged, signed, time, unsigned};
use crate::access::{Access, AccessEntry, FIRST};

/// Which entries are asked for; everything that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct AccessFilter {
    /// Only after this number.
    pub after: u64,
    /// Only up to this number.
    pub up_to: u64,
    /// Only at or after this time.
    pub since: Option<Timestamp>,
    /// Only before this time.
    pub until: Option<Timestamp>,
    /// Only of this person.
    pub person: Option<String>,
}

impl Store {
    /// Adds entries to the log, all of them or none; tells the number of the last.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_access(&self, entries: &[Access]) -> Result<u64> {
        let cipher = self.at_rest.cipher();
        self.db
            .run_tx("put_access", |tx| add(tx, cipher, entries).scope_boxed())
            .await
    }

    /// Entries in their order, oldest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn access_log(&self, filter: &AccessFilter, limit: u32) -> Result<Vec<AccessEntry>> {
        sqlx::query(
            "SELECT * FROM access_log
             WHERE number > $1 AND number <= $2 AND ($3 IS NULL OR at >= $3)
               AND ($4 IS NULL OR at < $4) AND ($5 IS NULL OR person = $5)
             ORDER BY number LIMIT $6",
        )
        .bind(signed(filter.after))
        .bind(signed(filter.up_to))
        .bind(filter.since.map(Timestamp::micros))
        .bind(filter.until.map(Timestamp::micros))
        .bind(filter.person.as_deref())
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| entry(self.at_rest.cipher(), row))
        .collect()
    }
}

/// Adds entries behind those that are there; tells the number of the last.
pub(super) async fn add(
    tx: &mut SqliteConnection,
    cipher: &ColumnCipher,
    entries: &[Access],
) -> Result<u64> {
    let last: Option<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT number, digest FROM access_log ORDER BY number DESC LIMIT 1")
            .fetch_optional(&mut *tx)
            .await
            .map_err(db_error)?;
    let (mut number, mut previous) = match last {
        None => (0, FIRST),
        Some((number, digest)) => {
            let digest = digest.try_into().map_err(|_| damaged("digest"))?;
            (unsigned(number), digest)
        }
    };
    for entry in entries {
        number += 1;
        previous = entry
            .digest(&previous, number)
            .ok_or_else(|| Error::internal("an access with a field too long"))?;
        let objects = serde_json::to_string(&entry.objects).map_err(Error::internal)?;
        sqlx::query(
            "INSERT INTO access_log (number, at, person, action, objects, why, digest)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(signed(number))
        .bind(entry.at.micros())
        .bind(&entry.person)
        .bind(&entry.action)
        .bind(objects)
        .bind(seal_why(cipher, number, &entry.why))
        .bind(&previous[..])
        .execute(&mut *tx)
        .await
        .map_err(db_error)?;
    }
    Ok(number)
}

fn entry(cipher: &ColumnCipher, row: &SqliteRow) -> Result<AccessEntry> {
    let text = |column: &str| row.try_get::<String, _>(column).map_err(db_error);
    let bytes = |column: &str| row.try_get::<Vec<u8>, _>(column).map_err(db_error);
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(db_error);
    let place = unsigned(number("number")?);
    Ok(AccessEntry {
        number: place,
        access: Access {
            at: time(number("at")?),
            person: text("person")?,
            action: text("action")?,
            objects: serde_json::from_str(&text("objects")?).map_err(Error::internal)?,
            why: open_why(cipher, place, &bytes("why")?)?,
        },
        digest: bytes("digest")?.try_into().map_err(|_| damaged("digest"))?,
    })
}

// A reason may name a case or a person: it is sealed, bound to the number of its entry.

const fn cell(number: &[u8; 8]) -> Cell<'_> {
    Cell {
        table: "access_log",
        row: number,
        column: "why",
    }
}

fn seal_why(cipher: &ColumnCipher, number: u64, why: &str) -> Vec<u8> {
    cipher.seal(cell(&number.to_be_bytes()), why.as_bytes(), &mut os_rng())
}

fn open_why(cipher: &ColumnCipher, number: u64, stored: &[u8]) -> Result<String> {
    let why = cipher.open(cell(&number.to_be_bytes()), stored)?;
    String::from_utf8(why.to_vec()).map_err(|_| damaged("reason"))
}

impl Store {
    /// Looks at no more than `limit` entries after one, and brings their reasons under the first
    /// key of the key list; `None` after the last.
    ///
    /// # Errors
    /// Those of the store; `INTERNAL` if a key is not in the list.
    pub async fn renew_access(&self, after: u64, limit: u32) -> Result<Option<u64>> {
        let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT number, why FROM access_log WHERE number > $1 ORDER BY number LIMIT $2",
        )
        .bind(signed(after))
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        let Some((last, _)) = rows.last() else {
            return Ok(None);
        };
        let (last, cipher) = (unsigned(*last), self.at_rest.cipher());
        let mut renewed = Vec::new();
        for (number, why) in rows {
            if !cipher.is_current(&why) {
                let text = open_why(cipher, unsigned(number), &why)?;
                renewed.push((number, seal_why(cipher, unsigned(number), &text)));
            }
        }
        let renewed = &renewed;
        self.db
            .run_tx("renew_access", |tx| {
                async move {
                    for (number, why) in renewed {
                        sqlx::query("UPDATE access_log SET why = $2 WHERE number = $1")
                            .bind(number)
                            .bind(why)
                            .execute(&mut *tx)
                            .await
                            .map_err(db_error)?;
                    }
                    Ok(())
                }
                .scope_boxed()
            })
            .await?;
        Ok(Some(last))
    }
}

#[cfg(test)]
impl Store {
    /// Makes every further entry fail, as a damaged file would.
    pub(crate) async fn break_access_log(&self) {
        let work = self.db.run_tx("test", |tx| {
            async move {
                let done = sqlx::query("DROP TABLE access_log").execute(tx).await;
                done.map(drop).map_err(db_error)
            }
            .scope_boxed()
        });
        work.await.expect("dropped");
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::store;
    use super::*;
    use crate::access::Chain;

    fn access(person: &str, seconds: i64) -> Access {
        Access {
            at: Timestamp::from_seconds(seconds),
            person: person.into(),
            action: "AnalystService/GetRecordHit".into(),
            objects: vec![format!("hit {seconds}")],
            why: "case 1".into(),
        }
    }

    fn all() -> AccessFilter {
        AccessFilter {
            up_to: u64::MAX,
            ..Default::default()
        }
    }

    async fn check(store: &Store) -> Result<u64, String> {
        let mut chain = Chain::default();
        let log = store.access_log(&all(), 100).await.expect("read");
        log.iter().try_for_each(|entry| chain.take(entry))?;
        Ok(chain.end().0)
    }

    #[tokio::test]
    async fn entries_are_chained_filtered_and_paged() {
        let (store, _dir) = store().await;
        let entries: Vec<_> = (1..=4)
            .map(|n| access(if n % 2 == 1 { "a" } else { "b" }, n))
            .collect();
        assert_eq!(store.put_access(&entries[..1]).await.expect("stored"), 1);
        assert_eq!(store.put_access(&entries[1..]).await.expect("stored"), 4);
        assert_eq!(check(&store).await, Ok(4));
        let log = store.access_log(&all(), 100).await.expect("read");
        assert_eq!(log[2].access, entries[2]);
        let second = Timestamp::from_seconds(2);
        for (filter, limit, expected) in [
            (all(), 2, vec![1, 2]),
            (AccessFilter { after: 2, ..all() }, 9, vec![3, 4]),
            (AccessFilter { up_to: 3, ..all() }, 9, vec![1, 2, 3]),
            (
                AccessFilter {
                    since: Some(second),
                    ..all()
                },
                9,
                vec![2, 3, 4],
            ),
            (
                AccessFilter {
                    until: Some(second),
                    ..all()
                },
                9,
                vec![1],
            ),
            (
                AccessFilter {
                    person: Some("a".into()),
                    ..all()
                },
                9,
                vec![1, 3],
            ),
        ] {
            let log = store.access_log(&filter, limit).await.expect("read");
            let numbers: Vec<_> = log.iter().map(|entry| entry.number).collect();
            assert_eq!(numbers, expected, "{filter:?}");
        }
    }

    #[tokio::test]
    async fn the_store_refuses_changes_and_the_chain_shows_them() {
        let (store, _dir) = store().await;
        let entries: Vec<_> = (1..=3).map(|n| access("a", n)).collect();
        store.put_access(&entries).await.expect("stored");
        let run = async |statement: &'static str| {
            let work = store.db.run_tx("test", |tx| {
                async move {
                    let done = sqlx::query(statement).execute(tx).await;
                    done.map(drop).map_err(db_error)
                }
                .scope_boxed()
            });
            work.await
        };
        for statement in [
            "UPDATE access_log SET person = 'b' WHERE number = 2",
            "DELETE FROM access_log WHERE number = 3",
            "DELETE FROM access_log",
            "INSERT OR REPLACE INTO access_log SELECT number, at, 'b', action, objects, why, digest
             FROM access_log WHERE number = 2",
            "INSERT INTO access_log SELECT 5, at, person, action, objects, why, digest
             FROM access_log WHERE number = 3",
        ] {
            assert!(run(statement).await.is_err(), "{statement}");
            assert_eq!(check(&store).await, Ok(3), "{statement}");
        }
        // Whoever has the file can drop the triggers; the chain then tells.
        run("DROP TRIGGER access_log_not_changed")
            .await
            .expect("dropped");
        run("UPDATE access_log SET person = 'b' WHERE number = 2")
            .await
            .expect("changed");
        assert!(
            check(&store)
                .await
                .is_err_and(|text| text.contains("entry 2"))
        );
    }
}
