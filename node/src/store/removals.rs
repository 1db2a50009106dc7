//! Removing selectors: by value, by record, by time, and with their datasets.
//!
//! What is sealed of a removed row is erased at once. A row that was probed stays without it: its
//! record refs are known to others, and one record ref stands for one record and one canonical
//! value (protocol §2). A row that never was is deleted.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::grounds::Grounds;
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::SqliteConnection;

use super::at_rest::for_each;
use super::datasets::recount;
use super::{Dataset, ImportId, Store, time, typed, unsigned};

/// What is to go from a dataset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// A canonical value.
    Value(Selector),
    /// Every value of a record.
    Record(String),
}

/// What a removal has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// Selectors removed.
    pub removed: u64,
    /// Rows that named something which the dataset did not have.
    pub absent: u64,
}

/// Two statements: rows that were probed lose what is in them, the others go. Of rows that are
/// there, `$1` is the time, `$2` the dataset, `$3` the import.
type Removal = [&'static str; 2];

macro_rules! removal {
    ($of_dataset:literal, $which:literal) => {
        [
            concat!(
                "UPDATE selectors SET record = NULL, expires_at = NULL, removed_at = $1 WHERE ",
                $of_dataset,
                " AND removed_at IS NULL AND ",
                $which,
                " AND EXISTS (SELECT 1 FROM record_refs r
                     WHERE r.selector_id = selectors.selector_id)"
            ),
            concat!(
                "DELETE FROM selectors WHERE ",
                $of_dataset,
                " AND removed_at IS NULL AND ",
                $which
            ),
        ]
    };
}

const EVERYTHING: Removal = removal!("dataset_id = $2", "true");
// `+`: by the index of times, not through the whole dataset.
pub(super) const EXPIRED: Removal = removal!("+dataset_id = $2", "expires_at <= $1");
/// What is not among the rows that take the place of everything, or moves to another record. One
/// column at a time: SQLite goes through all of a set of pairs for each pair that is not in it.
pub(super) const REPLACED: Removal = removal!(
    "dataset_id = $2",
    "(canonical_index NOT IN (SELECT canonical_index FROM staged_rows WHERE import_id = $3)
      OR canonical_index IN
         (SELECT r.canonical_index FROM staged_rows r CROSS JOIN selectors s
          ON s.dataset_id = $2 AND s.removed_at IS NULL AND s.canonical_index = r.canonical_index
          WHERE r.import_id = $3 AND r.named = 1 AND r.record_index <> s.record_index))"
);
const BY_VALUE: Removal = removal!(
    "dataset_id = $2",
    "canonical_index IN (SELECT wanted FROM staged_removals WHERE import_id = $3)"
);
const BY_RECORD: Removal = removal!(
    "dataset_id = $2",
    "record_index IN (SELECT wanted FROM staged_removals WHERE import_id = $3)"
);

impl Store {
    /// Sets aside what is to be removed from a dataset of a policy.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn stage_removals(
        &self,
        removal: ImportId,
        policy: Policy,
        wanted: Vec<Wanted>,
    ) -> Result<()> {
        let wanted = for_each(&self.at_rest, wanted, move |at_rest, wanted| {
            Ok(hex::encode(match wanted {
                Wanted::Value(canonical) => at_rest.canonical_index(policy, &canonical),
                Wanted::Record(record_id) => at_rest.record_index(policy, &record_id),
            }))
        })
        .await?;
        let wanted = &serde_json::to_string(&wanted).map_err(Error::internal)?;
        self.db
            .run_tx("stage_removals", |tx| {
                async move {
                    sqlx::query(
                        "INSERT INTO staged_removals (import_id, wanted, asked)
                         SELECT $1, unhex(value), 1 FROM json_each($2) WHERE true
                         ON CONFLICT (import_id, wanted) DO UPDATE SET asked = asked + 1",
                    )
                    .bind(removal.0)
                    .bind(wanted)
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// Removes what was set aside, canonical values or records, from a dataset; `None` if there is
    /// none of that name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn commit_removal(
        &self,
        removal: ImportId,
        name: &str,
        by_record: bool,
        now: Timestamp,
    ) -> Result<Option<Removed>> {
        self.db
            .run_long_tx("commit_removal", |tx| {
                async move {
                    let Some((dataset, _, _)) = live_dataset(tx, name).await? else {
                        return Ok(None);
                    };
                    let absent = absent(tx, removal, dataset, by_record).await?;
                    let which = if by_record { BY_RECORD } else { BY_VALUE };
                    let removed = remove(tx, which, dataset, Some(removal), now).await?;
                    recount(tx, dataset, 0, removed).await?;
                    Ok(Some(Removed { removed, absent }))
                }
                .scope_boxed()
            })
            .await
    }

    /// Removes a dataset with all of its selectors, and the probes of it; tells its policy and
    /// how many they were, or `None` if there is none of that name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_dataset(
        &self,
        name: &str,
        now: Timestamp,
    ) -> Result<Option<(Policy, u64)>> {
        self.db
            .run_long_tx("delete_dataset", |tx| {
                async move {
                    let Some((dataset, policy, _)) = live_dataset(tx, name).await? else {
                        return Ok(None);
                    };
                    let removed = remove(tx, EVERYTHING, dataset, None, now).await?;
                    for statement in [
                        "DELETE FROM probe_sessions WHERE dataset_id = $1",
                        "DELETE FROM coverage WHERE dataset_id = $1",
                        // What was probed keeps it, hidden: its records keep their ordinals.
                        "DELETE FROM datasets WHERE dataset_id = $1 AND NOT EXISTS
                             (SELECT 1 FROM selectors s WHERE s.dataset_id = $1)",
                    ] {
                        sqlx::query(statement)
                            .bind(dataset)
                            .execute(&mut *tx)
                            .await
                            .map_err(db_error)?;
                    }
                    sqlx::query(
                        "UPDATE datasets SET deleted_at = $2, selectors = 0, last_selector = 0,
                             publish = 1, probe_purpose = NULL, probe_legal_basis = NULL,
                             probe_reference = NULL, probe_case_ref = NULL
                         WHERE dataset_id = $1",
                    )
                    .bind(dataset)
                    .bind(now.micros())
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(Some((typed(&policy)?, removed)))
                }
                .scope_boxed()
            })
            .await
    }

    /// Says whether a dataset is published, and whether and why it is probed by itself; `None`
    /// leaves it as it is. Tells how it stands, or `None` if there is none of that name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn update_dataset(
        &self,
        name: &str,
        publish: Option<bool>,
        probe: Option<Option<Grounds>>,
    ) -> Result<Option<Dataset>> {
        let probe = &probe;
        self.db
            .run_tx("update_dataset", |tx| {
                async move {
                    let Some((dataset, _, is_published)) = live_dataset(tx, name).await? else {
                        return Ok(());
                    };
                    if let Some(publish) = publish.filter(|publish| *publish != is_published) {
                        // Both ways it takes a new base: a supplement has what is new alone.
                        note_removal(tx, dataset, true).await?;
                        sqlx::query("UPDATE datasets SET publish = $2 WHERE dataset_id = $1")
                            .bind(dataset)
                            .bind(publish)
                            .execute(&mut *tx)
                            .await
                            .map_err(db_error)?;
                    }
                    if let Some(grounds) = probe {
                        put_grounds(tx, dataset, grounds.as_ref()).await?;
                    }
                    Ok(())
                }
                .scope_boxed()
            })
            .await?;
        self.dataset(name).await
    }

    /// Removes the selectors whose time has come; tells the policies of which something published
    /// has gone.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove_expired(&self, now: Timestamp) -> Result<Vec<Policy>> {
        let datasets: Vec<(i64,)> =
            sqlx::query_as("SELECT DISTINCT dataset_id FROM selectors WHERE expires_at <= $1")
                .bind(now.micros())
                .fetch_all(self.db.read())
                .await
                .map_err(db_error)?;
        let mut policies = Vec::new();
        for (dataset,) in datasets {
            let (policy, published): (String, bool) = self
                .db
                .run_long_tx("remove_expired", |tx| {
                    async move {
                        let removed = remove(tx, EXPIRED, dataset, None, now).await?;
                        recount(tx, dataset, 0, removed).await?;
                        sqlx::query_as("SELECT policy, publish FROM datasets WHERE dataset_id = $1")
                            .bind(dataset)
                            .fetch_one(tx)
                            .await
                            .map_err(db_error)
                    }
                    .scope_boxed()
                })
                .await?;
            let policy = typed(&policy)?;
            if published && !policies.contains(&policy) {
                policies.push(policy);
            }
        }
        Ok(policies)
    }

    /// When the next selectors are to be removed by themselves.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn next_expiry(&self) -> Result<Option<Timestamp>> {
        let next: Option<i64> = sqlx::query_scalar(
            "SELECT min(expires_at) FROM selectors WHERE expires_at IS NOT NULL",
        )
        .fetch_one(self.db.read())
        .await
        .map_err(db_error)?;
        Ok(next.map(time))
    }
}

/// Row and policy of a dataset that is not deleted, and whether it is published.
async fn live_dataset(
    tx: &mut SqliteConnection,
    name: &str,
) -> Result<Option<(i64, String, bool)>> {
    sqlx::query_as(
        "SELECT dataset_id, policy, publish FROM datasets WHERE name = $1 AND deleted_at IS NULL",
    )
    .bind(name)
    .fetch_optional(tx)
    .await
    .map_err(db_error)
}

/// Removes selectors of a dataset, and notes for the filters that something has gone; tells how
/// many. The dataset is still to be counted anew.
pub(super) async fn remove(
    tx: &mut SqliteConnection,
    which: Removal,
    dataset: i64,
    import: Option<ImportId>,
    now: Timestamp,
) -> Result<u64> {
    let mut removed = 0;
    for statement in which {
        removed += sqlx::query(statement)
            .bind(now.micros())
            .bind(dataset)
            .bind(import.map(|import| import.0))
            .execute(&mut *tx)
            .await
            .map_err(db_error)?
            .rows_affected();
    }
    if removed > 0 {
        note_removal(tx, dataset, false).await?;
    }
    Ok(removed)
}

/// The filters of the dataset's policy need a new base, if the dataset is published or `anyway`.
async fn note_removal(tx: &mut SqliteConnection, dataset: i64, anyway: bool) -> Result<()> {
    sqlx::query(
        "INSERT INTO publishing (policy, removals)
         SELECT policy, 1 FROM datasets WHERE dataset_id = $1 AND (publish = 1 OR $2)
         ON CONFLICT (policy) DO UPDATE SET removals = removals + 1",
    )
    .bind(dataset)
    .bind(anyway)
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

/// How many rows of a removal name what the dataset does not have.
async fn absent(
    tx: &mut SqliteConnection,
    removal: ImportId,
    dataset: i64,
    by_record: bool,
) -> Result<u64> {
    let statement = if by_record {
        "SELECT coalesce(sum(asked), 0) FROM staged_removals r WHERE import_id = $1 AND NOT EXISTS
             (SELECT 1 FROM selectors s WHERE s.dataset_id = $2 AND s.removed_at IS NULL
              AND s.record_index = r.wanted)"
    } else {
        "SELECT coalesce(sum(asked), 0) FROM staged_removals r WHERE import_id = $1 AND NOT EXISTS
             (SELECT 1 FROM selectors s WHERE s.dataset_id = $2 AND s.removed_at IS NULL
              AND s.canonical_index = r.wanted)"
    };
    let rows: i64 = sqlx::query_scalar(statement)
        .bind(removal.0)
        .bind(dataset)
        .fetch_one(tx)
        .await
        .map_err(db_error)?;
    Ok(unsigned(rows))
}

async fn put_grounds(
    tx: &mut SqliteConnection,
    dataset: i64,
    grounds: Option<&Grounds>,
) -> Result<()> {
    sqlx::query(
        "UPDATE datasets SET probe_purpose = $2, probe_legal_basis = $3, probe_reference = $4,
             probe_case_ref = $5
         WHERE dataset_id = $1",
    )
    .bind(dataset)
    .bind(grounds.map(|grounds| grounds.purpose().as_str()))
    .bind(grounds.map(|grounds| grounds.legal_basis().as_str()))
    .bind(grounds.map(Grounds::reference))
    .bind(grounds.map(Grounds::case_ref))
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

#[cfg(test)]
mod tests;
