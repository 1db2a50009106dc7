//! Datasets and their selectors, and the one-off questions.

use std::collections::HashSet;

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::Result;
use sotto_common::grounds::{Grounds, LegalBasis, Purpose};
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::at_rest::{AtRest, for_each};
use super::{Store, time, typed, unsigned};

/// Where a selector stands in the store; in the order of import.
pub type SelectorId = i64;

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
    /// Whether its selectors are in this node's filters.
    pub publish: bool,
    /// Why it is probed by itself, if it is.
    pub probe: Option<Grounds>,
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

/// Datasets that are not deleted; the statements below add what they ask for.
macro_rules! select_datasets {
    ($rest:literal) => {
        concat!("SELECT * FROM datasets WHERE deleted_at IS NULL ", $rest)
    };
}

fn dataset(row: &SqliteRow) -> Result<Dataset> {
    let text = |column: &str| row.try_get::<String, _>(column).map_err(db_error);
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(db_error);
    let purpose: Option<String> = row.try_get("probe_purpose").map_err(db_error)?;
    let grounds = |purpose: String| {
        Grounds::new(
            Purpose::parse(&purpose),
            LegalBasis::parse(&text("probe_legal_basis")?),
            &text("probe_reference")?,
            &text("probe_case_ref")?,
        )
    };
    Ok(Dataset {
        id: number("dataset_id")?,
        name: text("name")?,
        policy: typed(&text("policy")?)?,
        selectors: unsigned(number("selectors")?),
        last_selector: number("last_selector")?,
        imported_at: time(number("imported_at")?),
        publish: row.try_get("publish").map_err(db_error)?,
        probe: purpose.map(grounds).transpose()?,
    })
}

/// Id, dataset, canonical index, record, ordinal.
type SelectorColumns = (SelectorId, String, Vec<u8>, Vec<u8>, i64);

/// The local record id of protocol §2 is the dataset's name, `/` and the record id of its rows:
/// record ids of two datasets never meet. A one-off question has no dataset.
fn selector_row(at_rest: &AtRest, columns: SelectorColumns) -> Result<SelectorRow> {
    let (id, dataset, canonical_index, record, ordinal) = columns;
    let record = at_rest.open_record(&dataset, &canonical_index, &record)?;
    Ok(SelectorRow {
        id,
        canonical: record.canonical,
        record_key: format!("{dataset}/{}#{ordinal}", record.record_id),
    })
}

/// Selectors that are read at once where all of a policy are asked for.
const PAGE: u32 = 20_000;

impl Store {
    /// A dataset by its name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn dataset(&self, name: &str) -> Result<Option<Dataset>> {
        sqlx::query(select_datasets!("AND name = $1"))
            .bind(name)
            .fetch_optional(self.db.read())
            .await
            .map_err(db_error)?
            .as_ref()
            .map(dataset)
            .transpose()
    }

    /// Every dataset, by name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn datasets(&self) -> Result<Vec<Dataset>> {
        sqlx::query(select_datasets!("ORDER BY name"))
            .fetch_all(self.db.read())
            .await
            .map_err(db_error)?
            .iter()
            .map(dataset)
            .collect()
    }

    /// The policies that have selectors in published datasets, and the last selector of each.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn policies_in_use(&self) -> Result<Vec<(Policy, SelectorId)>> {
        let rows: Vec<(String, SelectorId)> = sqlx::query_as(
            "SELECT policy, max(last_selector) FROM datasets WHERE selectors > 0 AND publish = 1
             GROUP BY policy ORDER BY policy",
        )
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        rows.into_iter()
            .map(|(policy, last)| Ok((typed(&policy)?, last)))
            .collect()
    }

    /// The distinct canonical values of a policy over all published datasets, up to a selector.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn canonical_values(
        &self,
        policy: Policy,
        last: SelectorId,
    ) -> Result<Vec<Selector>> {
        let mut values = HashSet::new();
        let mut after = 0;
        loop {
            let page = self.published_values(policy, after, last, PAGE).await?;
            let Some(row) = page.last() else {
                return Ok(values.into_iter().collect());
            };
            after = row.id;
            values.extend(page.into_iter().map(|row| row.canonical));
        }
    }

    /// Selectors of the published datasets of a policy, after one and up to another by their ids,
    /// in that order, at most `limit`. A value that is in several datasets comes several times.
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
        // A page costs what is in it, and what of the policy is not published in between.
        let rows: Vec<SelectorColumns> = sqlx::query_as(
            "SELECT selector_id, d.name, canonical_index, record, ordinal
             FROM selectors s INDEXED BY selectors_of_policy
             CROSS JOIN datasets d ON d.dataset_id = s.dataset_id
             WHERE s.policy = $1 AND s.dataset_id IS NOT NULL AND removed_at IS NULL
               AND selector_id > $2 AND selector_id <= $3 AND d.publish = 1
             ORDER BY selector_id LIMIT $4",
        )
        .bind(policy.name())
        .bind(after)
        .bind(last)
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        for_each(&self.at_rest, rows, selector_row).await
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
        let rows: Vec<SelectorColumns> = sqlx::query_as(
            "SELECT selector_id, d.name, canonical_index, record, ordinal
             FROM selectors s INDEXED BY selectors_of_dataset
             CROSS JOIN datasets d ON d.dataset_id = s.dataset_id
             WHERE s.dataset_id = $1 AND removed_at IS NULL AND selector_id BETWEEN $2 AND $3
             ORDER BY selector_id LIMIT $4",
        )
        .bind(dataset)
        .bind(first)
        .bind(last)
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        for_each(&self.at_rest, rows, selector_row).await
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
        let sealed = &self.at_rest.seal_record("", policy, canonical, record_id);
        let row: SelectorColumns = self
            .db
            .run_tx("put_check", |tx| {
                async move {
                    sqlx::query_as(
                        "INSERT INTO selectors
                             (policy, canonical_index, record_index, record, ordinal)
                         VALUES ($1, $2, $3, $4, 0)
                         ON CONFLICT (canonical_index) WHERE dataset_id IS NULL
                         DO UPDATE SET ordinal = 0
                         RETURNING selector_id, '', canonical_index, record, ordinal",
                    )
                    .bind(policy.name())
                    .bind(&sealed.canonical_index[..])
                    .bind(&sealed.record_index[..])
                    .bind(&sealed.record)
                    .fetch_one(tx)
                    .await
                    .map_err(db_error)
                }
                .scope_boxed()
            })
            .await?;
        selector_row(&self.at_rest, row)
    }
}

/// Counts what was put into a dataset and what was taken out; the last selector is looked up.
pub(super) async fn recount(
    tx: &mut SqliteConnection,
    dataset: i64,
    accepted: u64,
    removed: u64,
) -> Result<()> {
    sqlx::query(
        "UPDATE datasets SET selectors = selectors + $2 - $3, last_selector = coalesce(
             (SELECT selector_id FROM selectors INDEXED BY selectors_of_dataset
              WHERE dataset_id = $1 AND removed_at IS NULL
              ORDER BY selector_id DESC LIMIT 1), 0)
         WHERE dataset_id = $1",
    )
    .bind(dataset)
    .bind(super::signed(accepted))
    .bind(super::signed(removed))
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::store;
    use super::*;
    use crate::testing::staged;

    async fn import(store: &Store, name: &str, rows: &[(&str, &str)]) -> Result<u64> {
        let import = store.begin_import().await?;
        let rows = rows
            .iter()
            .zip(0..)
            .map(|(&(canonical, record_id), position)| staged(position, canonical, record_id))
            .collect();
        store.stage_rows(import, name, Policy::Email, rows).await?;
        let now = Timestamp::from_seconds(1);
        let done = store
            .commit_import(import, name, Policy::Email, false, now)
            .await?;
        assert_eq!(done.removed, 0);
        Ok(done.accepted)
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
        let refused = store
            .commit_import(import, "d", Policy::Phone, false, now)
            .await;
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
        let rows = vec![staged(0, "a@x.org", "r")];
        let done = store.stage_rows(broken, "d", Policy::Email, rows).await;
        done.expect("staged");
        store.drop_imports(None).await.expect("dropped");
        let now = Timestamp::from_seconds(2);
        let done = store
            .commit_import(broken, "d", Policy::Email, false, now)
            .await;
        assert_eq!(done.expect("stored").accepted, 0);
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
