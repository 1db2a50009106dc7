//! Imports: rows are set aside, and become selectors of a dataset in one transaction.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::{QueryBuilder, SqliteConnection};

use super::at_rest::{SealedRecord, for_each};
use super::datasets::recount;
use super::removals::{EXPIRED, REPLACED, remove};
use super::{Store, advance};

/// Rows of an import that are set aside in one statement.
const STAGED_AT_ONCE: usize = 500;

/// Rows of an import that are forgotten in one transaction.
const UNSTAGED_AT_ONCE: u32 = 20_000;

/// An import, or a removal, under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImportId(pub(super) i64);

/// A canonical value that waits for the end of its import.
#[derive(Clone, Debug)]
pub struct StagedRow {
    /// Place in the import, from 0; no place twice.
    pub position: u64,
    /// The canonical value.
    pub canonical: Selector,
    /// The record it belongs to.
    pub record_id: String,
    /// Whether the importer named the record: a value that the dataset has under another record
    /// moves to this one if the rows take the place of everything.
    pub named: bool,
    /// When it is removed by itself; `None` = never. What is past at the end of the import does
    /// not become a selector, and takes out what the dataset has of the value.
    pub expires_at: Option<Timestamp>,
}

/// What became of the rows of an import.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Committed {
    /// Selectors that are new in the dataset.
    pub accepted: u64,
    /// Selectors that are no longer in it: they were not among rows that take the place of
    /// everything, or have expired.
    pub removed: u64,
}

impl Store {
    /// Begins an import, or a removal.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn begin_import(&self) -> Result<ImportId> {
        self.db
            .run_tx("begin_import", |tx| {
                async move { advance(tx, "import", 1).await.map(ImportId) }.scope_boxed()
            })
            .await
    }

    /// Sets rows aside, sealed for the dataset they are for. Of a canonical value that comes
    /// again, the first row stands.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn stage_rows(
        &self,
        import: ImportId,
        dataset: &str,
        policy: Policy,
        rows: Vec<StagedRow>,
    ) -> Result<()> {
        let dataset = dataset.to_owned();
        let rows = for_each(&self.at_rest, rows, move |at_rest, row| {
            let sealed = at_rest.seal_record(&dataset, policy, &row.canonical, &row.record_id);
            Ok((row, sealed))
        })
        .await?;
        let rows = &rows;
        self.db
            .run_tx("stage_rows", |tx| {
                async move {
                    for some in rows.chunks(STAGED_AT_ONCE) {
                        stage(tx, import, some).await?;
                    }
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// Makes the rows of an import selectors of a dataset, which is made if it is not there; with
    /// `replace` they take the place of everything in it. Rows in millions take minutes, in which
    /// other writers wait; the rows that were set aside go with [`Self::drop_imports`].
    ///
    /// # Errors
    /// `INVALID_FIELD` if the dataset is of another policy.
    pub async fn commit_import(
        &self,
        import: ImportId,
        name: &str,
        policy: Policy,
        replace: bool,
        now: Timestamp,
    ) -> Result<Committed> {
        // By itself: others take a turn between the two.
        self.db
            .run_long_tx("prepare_import", |tx| {
                drop_repeated(tx, import).scope_boxed()
            })
            .await?;
        self.db
            .run_long_tx("commit_import", |tx| {
                async move {
                    let (dataset, is, before) = put_dataset(tx, name, policy, now).await?;
                    if is != policy.name() {
                        return Err(other_policy(&is));
                    }
                    roomy(tx, true).await?;
                    let mut removed = 0;
                    if before > 0 {
                        if replace {
                            removed += remove(tx, REPLACED, dataset, Some(import), now).await?;
                        }
                        take_new_times(tx, import, dataset).await?;
                        removed += remove(tx, EXPIRED, dataset, None, now).await?;
                    }
                    let accepted = revive(tx, import, dataset, now).await?
                        + merge(tx, import, dataset, policy, now).await?;
                    recount(tx, dataset, accepted, removed).await?;
                    roomy(tx, false).await?;
                    Ok(Committed { accepted, removed })
                }
                .scope_boxed()
            })
            .await
    }

    /// Forgets the rows of one import or removal, or of all: those of a program that ended
    /// meanwhile. Some at a time: what is deleted is overwritten, which takes its time.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn drop_imports(&self, import: Option<ImportId>) -> Result<()> {
        loop {
            let left = self.db.run_tx("drop_imports", |tx| {
                unstage(tx, import, UNSTAGED_AT_ONCE).scope_boxed()
            });
            if left.await? {
                return Ok(());
            }
        }
    }
}

/// The refusal to put selectors of one policy into a dataset of another.
pub(crate) fn other_policy(is: &str) -> Error {
    Error::field("policy", format!("the dataset is one of {is}"))
}

/// Holds more pages in memory while hashes, which are in no order, go into the indexes: else each
/// row would write a page of its own.
async fn roomy(tx: &mut SqliteConnection, roomy: bool) -> Result<()> {
    let statement = if roomy {
        "PRAGMA cache_size = -262144"
    } else {
        "PRAGMA cache_size = -2000"
    };
    sqlx::query(statement).execute(tx).await.map_err(db_error)?;
    Ok(())
}

/// Sets sealed rows aside in one statement: one for each would cost ten times as much.
async fn stage(
    tx: &mut SqliteConnection,
    import: ImportId,
    rows: &[(StagedRow, SealedRecord)],
) -> Result<()> {
    let mut insert = QueryBuilder::new(
        "INSERT INTO staged_rows (import_id, canonical_index, position, record_index, record,
             named, expires_at) ",
    );
    insert.push_values(rows, |mut values, (row, sealed)| {
        values
            .push_bind(import.0)
            .push_bind(&sealed.canonical_index[..])
            .push_bind(row.position.cast_signed())
            .push_bind(&sealed.record_index[..])
            .push_bind(&sealed.record[..])
            .push_bind(row.named)
            .push_bind(row.expires_at.map(Timestamp::micros));
    });
    // That of a full one is the same each time, and kept.
    let is_full = rows.len() == STAGED_AT_ONCE;
    let insert = insert.build().persistent(is_full);
    insert.execute(tx).await.map_err(db_error)?;
    Ok(())
}

/// Of a canonical value that comes again, the first row stands.
async fn drop_repeated(tx: &mut SqliteConnection, import: ImportId) -> Result<()> {
    sqlx::query(
        "DELETE FROM staged_rows WHERE import_id = $1 AND row_id NOT IN
             (SELECT min(row_id) FROM staged_rows WHERE import_id = $1 GROUP BY canonical_index)",
    )
    .bind(import.0)
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

/// Makes a dataset, or revives a deleted one; tells its row, its policy, and its selectors.
async fn put_dataset(
    tx: &mut SqliteConnection,
    name: &str,
    policy: Policy,
    now: Timestamp,
) -> Result<(i64, String, i64)> {
    sqlx::query_as(
        "INSERT INTO datasets (name, policy, selectors, last_selector, imported_at)
         VALUES ($1, $2, 0, 0, $3)
         ON CONFLICT (name) DO UPDATE SET imported_at = excluded.imported_at, deleted_at = NULL,
             policy = iif(deleted_at IS NULL, policy, excluded.policy)
         RETURNING dataset_id, policy, selectors",
    )
    .bind(name)
    .bind(policy.name())
    .bind(now.micros())
    .fetch_one(tx)
    .await
    .map_err(db_error)
}

/// "A row that the dataset has already takes the new time" (dataset.proto).
async fn take_new_times(tx: &mut SqliteConnection, import: ImportId, dataset: i64) -> Result<()> {
    sqlx::query(
        "UPDATE selectors SET expires_at = r.expires_at FROM staged_rows r
         WHERE r.import_id = $1 AND dataset_id = $2 AND removed_at IS NULL
           AND selectors.canonical_index = r.canonical_index
           AND selectors.expires_at IS NOT r.expires_at",
    )
    .bind(import.0)
    .bind(dataset)
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

/// Rows that were removed, and come again in the same record, take their ordinals again, and what
/// was found with their record refs. Their ids are new: publishing and probing go by the ids.
async fn revive(
    tx: &mut SqliteConnection,
    import: ImportId,
    dataset: i64,
    now: Timestamp,
) -> Result<u64> {
    let found = sqlx::query(
        "UPDATE staged_rows SET revived = t.selector_id
         FROM selectors t INDEXED BY selectors_removed
         WHERE import_id = $1 AND t.dataset_id = $2 AND t.removed_at IS NOT NULL
           AND t.canonical_index = staged_rows.canonical_index
           AND t.record_index = staged_rows.record_index
           AND (staged_rows.expires_at IS NULL OR staged_rows.expires_at > $3)
           AND EXISTS (SELECT 1 FROM selectors INDEXED BY selectors_removed
               WHERE dataset_id = $2 AND removed_at IS NOT NULL)
           AND NOT EXISTS (SELECT 1 FROM selectors s
               WHERE s.dataset_id = $2 AND s.removed_at IS NULL
                 AND s.canonical_index = t.canonical_index)",
    )
    .bind(import.0)
    .bind(dataset)
    .bind(now.micros())
    .execute(&mut *tx)
    .await
    .map_err(db_error)?;
    if found.rows_affected() == 0 {
        return Ok(0);
    }
    for statement in [
        // Its ordinal is free then; below 0 nobody looks for one.
        "UPDATE selectors SET ordinal = -1 - ordinal WHERE selector_id IN
             (SELECT revived FROM staged_rows WHERE import_id = $1 AND revived IS NOT NULL)",
        "INSERT INTO selectors (dataset_id, policy, canonical_index, record_index, record, ordinal,
             expires_at)
         SELECT t.dataset_id, t.policy, r.canonical_index, r.record_index, r.record,
             -1 - t.ordinal, r.expires_at
         FROM staged_rows r JOIN selectors t ON t.selector_id = r.revived
         WHERE r.import_id = $1 AND r.revived IS NOT NULL ORDER BY r.position",
        "UPDATE record_refs SET selector_id = s.selector_id
         FROM staged_rows r
         JOIN selectors t ON t.selector_id = r.revived
         JOIN selectors s ON s.dataset_id = t.dataset_id AND s.removed_at IS NULL
             AND s.canonical_index = r.canonical_index
         WHERE r.import_id = $1 AND r.revived IS NOT NULL
           AND record_refs.selector_id = r.revived",
        "DELETE FROM selectors WHERE selector_id IN
             (SELECT revived FROM staged_rows WHERE import_id = $1 AND revived IS NOT NULL)",
    ] {
        sqlx::query(statement)
            .bind(import.0)
            .execute(&mut *tx)
            .await
            .map_err(db_error)?;
    }
    Ok(found.rows_affected())
}

/// Rows whose canonical value the dataset does not have become selectors; tells how many. Ordinals
/// go on from those that the record has or had.
async fn merge(
    tx: &mut SqliteConnection,
    import: ImportId,
    dataset: i64,
    policy: Policy,
    now: Timestamp,
) -> Result<u64> {
    let done = sqlx::query(
        "INSERT INTO selectors (dataset_id, policy, canonical_index, record_index, record, ordinal,
             expires_at)
         SELECT $2, $3, canonical_index, record_index, record,
             row_number() OVER (PARTITION BY record_index ORDER BY position) - 1 + coalesce(
                 (SELECT max(ordinal) + 1 FROM selectors o
                  WHERE o.dataset_id = $2 AND o.record_index = r.record_index), 0),
             expires_at
         FROM staged_rows r
         WHERE import_id = $1 AND (expires_at IS NULL OR expires_at > $4) AND NOT EXISTS
             (SELECT 1 FROM selectors s WHERE s.dataset_id = $2 AND s.removed_at IS NULL
              AND s.canonical_index = r.canonical_index)
         ORDER BY position",
    )
    .bind(import.0)
    .bind(dataset)
    .bind(policy.name())
    .bind(now.micros())
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(done.rows_affected())
}

/// Forgets some rows that were set aside; tells whether none is left.
async fn unstage(tx: &mut SqliteConnection, import: Option<ImportId>, most: u32) -> Result<bool> {
    let mut deleted = 0;
    for statement in [
        "DELETE FROM staged_rows WHERE row_id IN
             (SELECT row_id FROM staged_rows WHERE $1 IS NULL OR import_id = $1 LIMIT $2)",
        "DELETE FROM staged_removals WHERE (import_id, wanted) IN
             (SELECT import_id, wanted FROM staged_removals
              WHERE $1 IS NULL OR import_id = $1 LIMIT $2)",
    ] {
        let done = sqlx::query(statement)
            .bind(import.map(|import| import.0))
            .bind(most)
            .execute(&mut *tx)
            .await
            .map_err(db_error)?;
        deleted += done.rows_affected();
    }
    Ok(deleted == 0)
}
