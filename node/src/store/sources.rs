//! How far datasets are filled from databases of the unit.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::Result;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;

use super::{ImportId, Store, damaged, signed, time, unsigned};

/// Where a source stands after its last run that was not in vain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceState {
    /// Digest of what the configuration said of the rows.
    pub definition: [u8; 32],
    /// The watermark up to which rows were taken; `None` = no row had one.
    pub watermark: Option<Watermark>,
    /// When it last ran.
    pub run_at: Timestamp,
    /// When the whole result was last compared.
    pub full_at: Timestamp,
    /// Rows read in all runs.
    pub rows_read: u64,
    /// What the last run did.
    pub counts: SourceCounts,
}

/// A watermark, as the database wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watermark {
    /// The value as text.
    pub text: String,
    /// The name of its type.
    pub type_name: String,
}

/// What a run did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SourceCounts {
    /// Rows read.
    pub rows: u64,
    /// Selectors that are new in the dataset.
    pub accepted: u64,
    /// Rows rejected.
    pub rejected: u64,
    /// Selectors removed.
    pub removed: u64,
}

impl Store {
    /// Where the source of a dataset stands; `None` = it never ran.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn source(&self, dataset: &str) -> Result<Option<SourceState>> {
        let row: Option<SourceRow> = sqlx::query_as(
            "SELECT definition, watermark, watermark_type, run_at, full_at, rows_read, rows,
                 accepted, rejected, removed
             FROM sources WHERE dataset = $1",
        )
        .bind(dataset)
        .fetch_optional(self.db.read())
        .await
        .map_err(db_error)?;
        row.map(SourceRow::state).transpose()
    }

    /// Says where the source of a dataset stands now.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_source(&self, dataset: &str, state: &SourceState) -> Result<()> {
        let watermark = state.watermark.as_ref();
        self.db
            .run_tx("put_source", |tx| {
                async move {
                    sqlx::query(
                        "INSERT OR REPLACE INTO sources (dataset, definition, watermark,
                             watermark_type, run_at, full_at, rows_read, rows, accepted, rejected,
                             removed)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                    )
                    .bind(dataset)
                    .bind(&state.definition[..])
                    .bind(watermark.map(|watermark| &watermark.text))
                    .bind(watermark.map(|watermark| &watermark.type_name))
                    .bind(state.run_at.micros())
                    .bind(state.full_at.micros())
                    .bind(signed(state.rows_read))
                    .bind(signed(state.counts.rows))
                    .bind(signed(state.counts.accepted))
                    .bind(signed(state.counts.rejected))
                    .bind(signed(state.counts.removed))
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// The distinct canonical values that an import has set aside.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn count_staged(&self, import: ImportId, now: Timestamp) -> Result<u64> {
        let count = sqlx::query_scalar(
            "SELECT count(DISTINCT canonical_index) FROM staged_rows
             WHERE import_id = $1 AND (expires_at IS NULL OR expires_at > $2)",
        )
        .bind(import.0)
        .bind(now.micros())
        .fetch_one(self.db.read())
        .await
        .map_err(db_error)?;
        Ok(unsigned(count))
    }
}

#[derive(sqlx::FromRow)]
struct SourceRow {
    definition: Vec<u8>,
    watermark: Option<String>,
    watermark_type: Option<String>,
    run_at: i64,
    full_at: i64,
    rows_read: i64,
    rows: i64,
    accepted: i64,
    rejected: i64,
    removed: i64,
}

impl SourceRow {
    fn state(self) -> Result<SourceState> {
        let definition = self.definition.try_into();
        let watermark = self.watermark.zip(self.watermark_type);
        Ok(SourceState {
            definition: definition.map_err(|_| damaged("digest"))?,
            watermark: watermark.map(|(text, type_name)| Watermark { text, type_name }),
            run_at: time(self.run_at),
            full_at: time(self.full_at),
            rows_read: unsigned(self.rows_read),
            counts: SourceCounts {
                rows: unsigned(self.rows),
                accepted: unsigned(self.accepted),
                rejected: unsigned(self.rejected),
                removed: unsigned(self.removed),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::store;
    use super::*;

    #[tokio::test]
    async fn a_source_stands_where_it_was_said_to() {
        let (store, _dir) = store().await;
        assert_eq!(store.source("d").await.expect("read"), None);
        let mut state = SourceState {
            definition: [7; 32],
            watermark: None,
            run_at: Timestamp::from_seconds(2),
            full_at: Timestamp::from_seconds(1),
            rows_read: 9,
            counts: SourceCounts {
                rows: 4,
                accepted: 3,
                rejected: 1,
                removed: 2,
            },
        };
        for watermark in [None, Some(("2026-01-01", "DATE"))] {
            state.watermark = watermark.map(|(text, type_name)| Watermark {
                text: text.into(),
                type_name: type_name.into(),
            });
            store.put_source("d", &state).await.expect("stored");
            assert_eq!(store.source("d").await.expect("read"), Some(state.clone()));
        }
        assert_eq!(store.source("e").await.expect("read"), None);
    }
}
