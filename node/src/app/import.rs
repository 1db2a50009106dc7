//! Importing selectors: normal form, stop-list, report; all rows or none.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use sotto_common::error::{Error, Result};
use sotto_common::selector::{Policy, Rejection};
use sotto_proto::convert::text;
use sotto_proto::v1;

use super::policies::Policies;
use super::{App, off_the_runtime};
use crate::store::{ImportId, StagedRow, Store, other_policy};

/// Most rows in one message.
const MAX_ROWS: usize = 10_000;
/// Most characters in a record id.
const MAX_RECORD_ID: usize = 128;
/// Line numbers that the report names for each kind of rejection.
const FIRST_LINES: usize = 10;

/// An import under way. Dropping it leaves nothing behind.
pub(crate) struct Import {
    dataset: String,
    policy: Policy,
    region: String,
    rows: StagedRows,
    report: Report,
}

/// The rows set aside, which go when the import is dropped.
struct StagedRows {
    store: Store,
    import: ImportId,
}

impl Drop for StagedRows {
    fn drop(&mut self) {
        let (store, import) = (self.store.clone(), self.import);
        tokio::spawn(async move {
            if let Err(error) = store.drop_imports(Some(import)).await {
                tracing::warn!(%error, "rows of an import were left; the next start drops them");
            }
        });
    }
}

/// What became of the rows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Report {
    rows: u64,
    rejections: BTreeMap<Rejection, (u64, Vec<u64>)>,
}

impl Report {
    fn reject(&mut self, kind: Rejection, line: u64) {
        let (count, first_lines) = self.rejections.entry(kind).or_default();
        *count += 1;
        if first_lines.len() < FIRST_LINES {
            first_lines.push(line);
        }
    }

    fn finish(self, accepted: u64) -> v1::ImportDatasetResponse {
        let rejected: u64 = self.rejections.values().map(|(count, _)| count).sum();
        v1::ImportDatasetResponse {
            rows: self.rows,
            accepted,
            duplicates: self.rows - rejected - accepted,
            removed: 0,
            rejections: self
                .rejections
                .into_iter()
                .map(|(kind, (rows, first_lines))| v1::RejectionCount {
                    kind: kind.as_str().to_owned(),
                    rows,
                    first_lines,
                })
                .collect(),
        }
    }
}

impl App {
    /// Begins an import.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a malformed name, or the policy of another dataset of that name.
    pub(crate) async fn begin_import(&self, header: v1::ImportHeader) -> Result<Import> {
        let policy: Policy = text("policy", &header.policy)?;
        check_name(&header.dataset)?;
        if let Some(dataset) = self.store.dataset(&header.dataset).await?
            && dataset.policy != policy
        {
            return Err(other_policy(dataset.policy.name()));
        }
        Ok(Import {
            dataset: header.dataset,
            policy,
            region: header.region,
            rows: StagedRows {
                import: self.store.begin_import().await?,
                store: self.store.clone(),
            },
            report: Report::default(),
        })
    }

    /// Takes some rows.
    ///
    /// # Errors
    /// `INVALID_FIELD` for too many rows at once or a record id that is too long.
    pub(crate) async fn import_rows(
        &self,
        import: &mut Import,
        rows: Vec<v1::ImportRow>,
    ) -> Result<()> {
        if rows.len() > MAX_ROWS {
            return Err(Error::field("rows", "at most 10000 in a message"));
        }
        let first = import.report.rows;
        import.report.rows += rows.len() as u64;
        let (policies, policy) = (Arc::clone(&self.policies), import.policy);
        let (dataset, region) = (import.dataset.clone(), import.region.clone());
        let outcomes = off_the_runtime(move || {
            let normal = |(row, position): (v1::ImportRow, u64)| {
                let line = row.line;
                normal(&policies, policy, &dataset, &region, row, position)
                    .map(|outcome| (line, outcome))
            };
            let rows: Vec<_> = rows.into_iter().zip(first..).collect();
            rows.into_par_iter().map(normal).collect::<Result<Vec<_>>>()
        })
        .await?;
        let mut staged = Vec::with_capacity(outcomes.len());
        for (line, outcome) in outcomes {
            match outcome {
                Ok(row) => staged.push(row),
                Err(kind) => import.report.reject(kind, line),
            }
        }
        let rows = &import.rows;
        rows.store.stage_rows(rows.import, &staged).await
    }

    /// Makes the rows selectors of the dataset, all at once, and reports.
    ///
    /// # Errors
    /// Those of the store; nothing is imported then.
    pub(crate) async fn finish_import(&self, import: Import) -> Result<v1::ImportDatasetResponse> {
        let now = self.clock.now();
        let accepted = self
            .store
            .commit_import(import.rows.import, &import.dataset, import.policy, now)
            .await?;
        self.data_changed();
        Ok(import.report.finish(accepted))
    }
}

/// Both steps of selectors.md for one row.
fn normal(
    policies: &Policies,
    policy: Policy,
    dataset: &str,
    region: &str,
    row: v1::ImportRow,
    position: u64,
) -> Result<Result<StagedRow, Rejection>> {
    if row.record_id.chars().count() > MAX_RECORD_ID || row.record_id.contains(char::is_control) {
        let text = "at most 128 characters, and no control characters";
        return Err(Error::field("record_id", text));
    }
    let region = if row.region.is_empty() {
        region
    } else {
        &row.region
    };
    let outcome = policies.admit(policy, &row.value, region);
    Ok(outcome.map(|canonical| StagedRow {
        position,
        canonical,
        record_id: if row.record_id.is_empty() {
            format!("{dataset}/{}", row.line)
        } else {
            row.record_id
        },
    }))
}

/// Whether a dataset may have this name.
pub(crate) fn is_dataset_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

fn check_name(name: &str) -> Result<()> {
    if is_dataset_name(name) {
        Ok(())
    } else {
        Err(Error::field("dataset", "[a-z0-9_-]{1,64}"))
    }
}

#[cfg(test)]
mod tests {
    use sotto_common::selector::StopList;

    use super::*;

    #[test]
    fn the_report_names_the_first_lines_of_each_kind_and_counts_all() {
        let mut report = Report {
            rows: 40,
            ..Report::default()
        };
        for line in 1..=25 {
            report.reject(Rejection::Malformed, line);
        }
        report.reject(Rejection::Empty, 33);
        let report = report.finish(10);
        assert_eq!((report.accepted, report.duplicates), (10, 4));
        let kinds: Vec<_> = report
            .rejections
            .iter()
            .map(|r| (r.kind.as_str(), r.rows, r.first_lines.clone()))
            .collect();
        assert_eq!(
            kinds,
            [
                ("empty", 1, vec![33]),
                ("malformed", 25, (1..=10).collect())
            ]
        );
    }

    #[test]
    fn names_of_datasets_are_labels() {
        for good in ["a", "phones_2-x", &"x".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "a/b", "a b", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_row_without_a_record_is_its_own_record_and_its_region_goes_first() {
        let policies = Policies::new(StopList::default());
        let row = |value: &str, record_id: &str, region: &str| v1::ImportRow {
            line: 4,
            value: value.into(),
            record_id: record_id.into(),
            region: region.into(),
            expires_at: None,
        };
        let outcome = |row| normal(&policies, Policy::Phone, "d", "NL", row, 0).expect("taken");
        let own = outcome(row("06 12345678", "", "")).expect("a number");
        assert_eq!(own.record_id, "d/4");
        assert_eq!(own.canonical.expose(), "+31612345678");
        let french = outcome(row("06 12 34 56 78", "case", "FR")).expect("a number");
        assert_eq!(french.canonical.expose(), "+33612345678");
        assert_eq!(french.record_id, "case");
        assert_eq!(
            outcome(row(" ", "", "")).expect_err("rejected"),
            Rejection::Empty
        );
        let long = row("06 12345678", &"x".repeat(129), "");
        assert!(normal(&policies, Policy::Phone, "d", "NL", long, 0).is_err());
    }
}
