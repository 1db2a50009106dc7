//! Datasets and their selectors, and the one-off questions.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::SqliteConnection;

use super::{Store, advance, signed, time, typed, unsigned};

/// Where a selector stands in the store; in the order of import.
pub type SelectorId = i64;

/// An import under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImportId(i64);

/// One dataset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dataset {
    /// Its row.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its policy.
    pub policy: Policy,
    /// Distinct canonical values in it.
    pub selectors: u64,
    /// The last of its selectors; 0 if it has none.
    pub last_selector: SelectorId,
    /// When it was last imported into.
    pub imported_at: Timestamp,
}

/// A canonical value that waits for the end of its import.
#[derive(Clone, Debug)]
pub struct StagedRow {
    /// Place in the import, from 0; no place twice.
    pub position: u64,
    /// The canonical value.
    pub canonical: Selector,
    /// The record it belongs to.
    pub record_id: String,
}

/// A canonical value of the store with the key of its record ref.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SelectorRow {
    /// Its row.
    pub id: SelectorId,
    /// The canonical value.
    pub canonical: Selector,
    /// Local record id ‖ `#` ‖ ordinal (protocol §2).
    pub record_key: String,
}

type DatasetColumns = (i64, String, String, i64, SelectorId, i64);

fn dataset(columns: DatasetColumns) -> Result<Dataset> {
    let (id, name, policy, selectors, last_selector, imported_at) = columns;
    Ok(Dataset {
        id,
        name,
        policy: typed(&policy)?,
        selectors: unsigned(selectors),
        last_selector,
        imported_at: time(imported_at),
    })
}

/// The local record id of protocol §2 is the dataset's name, `/` and the record id of its rows:
/// record ids of two datasets never meet. A one-off question has no dataset.
type SelectorColumns = (SelectorId, String, String, String, i64);

fn selector_row((id, dataset, canonical, record, ordinal): SelectorColumns) -> SelectorRow {
    SelectorRow {
        id,
        canonical: Selector::new(canonical),
        record_key: format!("{dataset}/{record}#{ordinal}"),
    }
}

impl Store {
    /// A dataset by its name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn dataset(&self, name: &str) -> Result<Option<Dataset>> {
        let row: Option<DatasetColumns> = sqlx::query_as(
            "SELECT dataset_id, name, policy, selectors, last_selector, imported_at
             FROM datasets WHERE name = $1",
        )
        .bind(name)
        .fetch_optional(self.db.read())
        .await
        .map_err(db_error)?;
        row.map(dataset).transpose()
    }

    /// Every dataset, by name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn datasets(&self) -> Result<Vec<Dataset>> {
        let rows: Vec<DatasetColumns> = sqlx::query_as(
            "SELECT dataset_id, name, policy, selectors, last_selector, imported_at
             FROM datasets ORDER BY name",
        )
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        rows.into_iter().map(dataset).collect()
    }

    /// Begins an import.
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

    /// Sets rows aside; those whose canonical value the import has already are left out.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn stage_rows(&self, import: ImportId, rows: &[StagedRow]) -> Result<()> {
        // One statement a chunk: a bound statement a row would cost ten times as much.
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (row.canonical.expose(), row.position, &row.record_id))
            .collect();
        let rows = &serde_json::to_string(&rows).map_err(Error::internal)?;
        self.db
            .run_tx("stage_rows", |tx| {
                async move {
                    sqlx::query(
                        "INSERT OR IGNORE INTO staged_rows
                             (import_id, canonical, position, record_id)
                         SELECT $1, value ->> 0, value ->> 1, value ->> 2 FROM json_each($2)",
                    )
                    .bind(import.0)
                    .bind(rows)
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// Makes the rows of an import selectors of a dataset, which is made if it is not there;
    /// tells how many are new in it.
    ///
    /// # Errors
    /// `INVALID_FIELD` if the dataset is of another policy.
    pub async fn commit_import(
        &self,
        import: ImportId,
        name: &str,
        policy: Policy,
        now: Timestamp,
    ) -> Result<u64> {
        self.db
            .run_tx("commit_import", |tx| {
                async move {
                    let (dataset, is): (i64, String) = sqlx::query_as(
                        "INSERT INTO datasets
                             (name, policy, selectors, last_selector, imported_at)
                         VALUES ($1, $2, 0, 0, $3)
                         ON CONFLICT (name) DO UPDATE SET imported_at = excluded.imported_at
                         RETURNING dataset_id, policy",
                    )
                    .bind(name)
                    .bind(policy.name())
                    .bind(now.micros())
                    .fetch_one(&mut *tx)
                    .await
                    .map_err(db_error)?;
                    if is != policy.name() {
                        return Err(other_policy(&is));
                    }
                    let (accepted, last) = merge(tx, import, dataset, policy).await?;
                    sqlx::query(
                        "UPDATE datasets SET selectors = selectors + $2,
                             last_selector = max(last_selector, $3) WHERE dataset_id = $1",
                    )
                    .bind(dataset)
                    .bind(signed(accepted))
                    .bind(last)
                    .execute(&mut *tx)
                    .await
                    .map_err(db_error)?;
                    unstage(tx, Some(import)).await?;
                    Ok(accepted)
                }
                .scope_boxed()
            })
            .await
    }

    /// Forgets the rows of one import, or of all: those of a program that ended meanwhile.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn drop_imports(&self, import: Option<ImportId>) -> Result<()> {
        self.db
            .run_tx("drop_imports", |tx| unstage(tx, import).scope_boxed())
            .await
    }

    /// The policies that have selectors in datasets, and the last selector of each.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn policies_in_use(&self) -> Result<Vec<(Policy, SelectorId)>> {
        let rows: Vec<(String, SelectorId)> = sqlx::query_as(
            "SELECT policy, max(last_selector) FROM datasets WHERE selectors > 0
             GROUP BY policy ORDER BY policy",
        )
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        rows.into_iter()
            .map(|(policy, last)| Ok((typed(&policy)?, last)))
            .collect()
    }

    /// The distinct canonical values of a policy over all datasets, up to a selector.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn canonical_values(
        &self,
        policy: Policy,
        last: SelectorId,
    ) -> Result<Vec<Selector>> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT DISTINCT canonical FROM selectors
             WHERE policy = $1 AND dataset_id IS NOT NULL AND selector_id <= $2",
        )
        .bind(policy.name())
        .bind(last)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        Ok(rows
            .into_iter()
            .map(|(text,)| Selector::new(text))
            .collect())
    }

    /// Selectors of the published datasets of a policy, those after one up to another, in the order
    /// of their ids, at most `limit`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn published_values(
        &self,
        policy: Policy,
        after: SelectorId,
        last: SelectorId,
        limit: u32,
    ) -> Result<Vec<SelectorRow>> {
        let rows: Vec<SelectorColumns> = sqlx::query_as(
            "SELECT selector_id, d.name, canonical, record_id, ordinal
             FROM selectors s JOIN datasets d USING (dataset_id)
             WHERE s.policy = $1 AND d.publish = 1 AND selector_id > $2 AND selector_id <= $3
             ORDER BY selector_id LIMIT $4",
        )
        .bind(policy.name())
        .bind(after)
        .bind(last)
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        Ok(rows.into_iter().map(selector_row).collect())
    }

    pub(crate) async fn remove_expired(&self, _: Timestamp) -> Result<Vec<Policy>> {
        Ok(Vec::new())
    }

    pub(crate) async fn next_expiry(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    /// Selectors of a dataset, `first..=last` by their ids, in that order, at most `limit`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn selectors(
        &self,
        dataset: i64,
        first: SelectorId,
        last: SelectorId,
        limit: u32,
    ) -> Result<Vec<SelectorRow>> {
        // `+` keeps SQLite from sorting the whole dataset for each batch: it goes by the ids.
        let rows: Vec<SelectorColumns> = sqlx::query_as(
            "SELECT selector_id, d.name, canonical, record_id, ordinal
             FROM selectors s JOIN datasets d ON d.dataset_id = $1
             WHERE +s.dataset_id = $1 AND selector_id BETWEEN $2 AND $3
             ORDER BY selector_id LIMIT $4",
        )
        .bind(dataset)
        .bind(first)
        .bind(last)
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        Ok(rows.into_iter().map(selector_row).collect())
    }

    /// The one-off question for a canonical value: the first time it is stored with
    /// `record_id`, later the same record is found again, so that its hits are the same.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_check(
        &self,
        policy: Policy,
        canonical: &Selector,
        record_id: &str,
    ) -> Result<SelectorRow> {
        let row: SelectorColumns = self
            .db
            .run_tx("put_check", |tx| {
                async move {
                    sqlx::query_as(
                        "INSERT INTO selectors (policy, canonical, record_id, ordinal)
                         VALUES ($1, $2, $3, 0)
                         ON CONFLICT (policy, canonical) WHERE dataset_id IS NULL
                         DO UPDATE SET ordinal = 0
                         RETURNING selector_id, '', canonical, record_id, ordinal",
                    )
                    .bind(policy.name())
                    .bind(canonical.expose())
                    .bind(record_id)
                    .fetch_one(tx)
                    .await
                    .map_err(db_error)
                }
                .scope_boxed()
            })
            .await?;
        Ok(selector_row(row))
    }
}

/// The refusal to put selectors of one policy into a dataset of another.
pub(crate) fn other_policy(is: &str) -> Error {
    Error::field("policy", format!("the dataset is one of {is}"))
}

/// Rows whose canonical value the dataset does not have become selectors; tells how many, and the
/// last of them. Ordinals go on from those that the record has.
async fn merge(
    tx: &mut SqliteConnection,
    import: ImportId,
    dataset: i64,
    policy: Policy,
) -> Result<(u64, SelectorId)> {
    let done = sqlx::query(
        "INSERT INTO selectors (dataset_id, policy, canonical, record_id, ordinal)
         SELECT $2, $3, canonical, record_id,
             row_number() OVER (PARTITION BY record_id ORDER BY position) - 1 + coalesce(
                 (SELECT max(ordinal) + 1 FROM selectors o
                  WHERE o.dataset_id = $2 AND o.record_id = r.record_id), 0)
         FROM staged_rows r
         WHERE import_id = $1 AND NOT EXISTS
             (SELECT 1 FROM selectors s WHERE s.dataset_id = $2 AND s.canonical = r.canonical)
         ORDER BY position",
    )
    .bind(import.0)
    .bind(dataset)
    .bind(policy.name())
    .execute(tx)
    .await
    .map_err(db_error)?;
    match done.rows_affected() {
        0 => Ok((0, 0)),
        accepted => Ok((accepted, done.last_insert_rowid())),
    }
}

async fn unstage(tx: &mut SqliteConnection, import: Option<ImportId>) -> Result<()> {
    sqlx::query("DELETE FROM staged_rows WHERE $1 IS NULL OR import_id = $1")
        .bind(import.map(|import| import.0))
        .execute(tx)
        .await
        .map_err(db_error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::store;
    use super::*;

    async fn import(store: &Store, name: &str, rows: &[(&str, &str)]) -> Result<u64> {
        let import = store.begin_import().await?;
        let rows: Vec<_> = rows
            .iter()
            .zip(0..)
            .map(|(&(canonical, record_id), position)| StagedRow {
                position,
                canonical: Selector::new(canonical),
                record_id: record_id.into(),
            })
            .collect();
        store.stage_rows(import, &rows).await?;
        let now = Timestamp::from_seconds(1);
        store.commit_import(import, name, Policy::Email, now).await
    }

    async fn rows(store: &Store, name: &str) -> Vec<SelectorRow> {
        let dataset = store.dataset(name).await.expect("read").expect("there");
        store
            .selectors(dataset.id, 0, i64::MAX, 100)
            .await
            .expect("read")
    }

    #[tokio::test]
    async fn a_canonical_value_stands_once_in_a_dataset_and_ordinals_go_on() {
        let (store, _dir) = store().await;
        let first = [("b@x.org", "r"), ("a@x.org", "r"), ("b@x.org", "s")];
        assert_eq!(import(&store, "d", &first).await.expect("stored"), 2);
        let second = [("a@x.org", "r"), ("c@x.org", "r"), ("d@x.org", "t")];
        assert_eq!(import(&store, "d", &second).await.expect("stored"), 2);
        let found: Vec<_> = rows(&store, "d")
            .await
            .into_iter()
            .map(|row| (row.canonical.expose().to_owned(), row.record_key))
            .collect();
        let expected = [
            ("b@x.org", "d/r#0"),
            ("a@x.org", "d/r#1"),
            ("c@x.org", "d/r#2"),
            ("d@x.org", "d/t#0"),
        ];
        assert!(found.iter().map(|(a, b)| (&**a, &**b)).eq(expected));
        let dataset = store.dataset("d").await.expect("read").expect("there");
        assert_eq!(dataset.selectors, 4);
        assert_eq!(store.datasets().await.expect("read"), [dataset]);
    }

    #[tokio::test]
    async fn a_dataset_keeps_its_policy() {
        let (store, _dir) = store().await;
        import(&store, "d", &[("a@x.org", "r")])
            .await
            .expect("stored");
        let import = store.begin_import().await.expect("begun");
        let now = Timestamp::from_seconds(2);
        let refused = store.commit_import(import, "d", Policy::Phone, now).await;
        assert_eq!(
            refused.expect_err("refused").subject.as_deref(),
            Some("policy")
        );
        assert_eq!(rows(&store, "d").await.len(), 1);
    }

    #[tokio::test]
    async fn an_import_that_breaks_leaves_nothing() {
        let (store, _dir) = store().await;
        let broken = store.begin_import().await.expect("begun");
        let row = StagedRow {
            position: 0,
            canonical: Selector::new("a@x.org"),
            record_id: "r".into(),
        };
        store.stage_rows(broken, &[row]).await.expect("staged");
        store.drop_imports(None).await.expect("dropped");
        let now = Timestamp::from_seconds(2);
        let accepted = store.commit_import(broken, "d", Policy::Email, now).await;
        assert_eq!(accepted.expect("stored"), 0);
        assert!(store.policies_in_use().await.expect("read").is_empty());
    }

    #[tokio::test]
    async fn what_is_published_is_the_union_of_the_datasets_without_one_off_questions() {
        let (store, _dir) = store().await;
        import(&store, "d", &[("a@x.org", "r"), ("b@x.org", "s")])
            .await
            .expect("stored");
        import(&store, "e", &[("a@x.org", "r")])
            .await
            .expect("stored");
        let asked = Selector::new("z@x.org");
        store
            .put_check(Policy::Email, &asked, "check/1")
            .await
            .expect("stored");
        let in_use = store.policies_in_use().await.expect("read");
        assert_eq!(in_use, [(Policy::Email, 3)]);
        for (last, count) in [(3, 2), (1, 1)] {
            let values = store.canonical_values(Policy::Email, last).await;
            assert_eq!(values.expect("read").len(), count);
        }
    }

    #[tokio::test]
    async fn a_value_that_is_asked_for_again_keeps_its_record() {
        let (store, _dir) = store().await;
        let asked = Selector::new("z@x.org");
        let first = store.put_check(Policy::Email, &asked, "check/1").await;
        let again = store.put_check(Policy::Email, &asked, "check/2").await;
        let (first, again) = (first.expect("stored"), again.expect("stored"));
        assert_eq!(first, again);
        assert_eq!(first.record_key, "/check/1#0");
    }
}
