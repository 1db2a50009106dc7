//! Importing selectors: normal form, stop-list, report; all rows or none.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use sotto_common::error::{Error, Result};
use sotto_common::selector::{Policy, Rejection};
use sotto_proto::convert::{text, timestamp};
use sotto_proto::v1;

use super::policies::Policies;
use super::{App, off_the_runtime};
use crate::store::{Committed, ImportId, StagedRow, Store, other_policy};

/// Most rows in one message.
pub(crate) const MAX_ROWS: usize = 10_000;
/// Most characters in a record id.
const MAX_RECORD_ID: usize = 128;
/// Line numbers that the report names for each kind of rejection.
const FIRST_LINES: usize = 10;
/// The kind of rejection of a row whose time has passed.
const EXPIRED: &str = "expired";

/// An import under way. Dropping it leaves nothing behind.
pub(crate) struct Import {
    dataset: String,
    policy: Policy,
    region: String,
    replace: bool,
    rows: StagedRows,
    /// Whether any row is a selector.
    admitted: bool,
    report: Report,
}

/// The rows set aside, which go when the import, or the removal, is dropped.
pub(super) struct StagedRows {
    pub(super) store: Store,
    pub(super) import: ImportId,
}

impl StagedRows {
    /// Sets rows aside from now on.
    pub(super) async fn begin(store: &Store) -> Result<Self> {
        Ok(Self {
            import: store.begin_import().await?,
            store: store.clone(),
        })
    }
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
pub(super) struct Report {
    pub(super) rows: u64,
    rejections: BTreeMap<&'static str, (u64, Vec<u64>)>,
}

impl Report {
    pub(super) fn reject(&mut self, kind: &'static str, line: u64) {
        let (count, first_lines) = self.rejections.entry(kind).or_default();
        *count += 1;
        if first_lines.len() < FIRST_LINES {
            first_lines.push(line);
        }
    }

    fn rejected(&self) -> u64 {
        self.rejections.values().map(|(count, _)| count).sum()
    }

    pub(super) fn rejections(self) -> Vec<v1::RejectionCount> {
        self.rejections
            .into_iter()
            .map(|(kind, (rows, first_lines))| v1::RejectionCount {
                kind: kind.to_owned(),
                rows,
                first_lines,
            })
            .collect()
    }

    fn finish(self, committed: Committed) -> v1::ImportDatasetResponse {
        v1::ImportDatasetResponse {
            rows: self.rows,
            accepted: committed.accepted,
            duplicates: self.rows - self.rejected() - committed.accepted,
            removed: committed.removed,
            rejections: self.rejections(),
        }
    }
}

impl Import {
    /// The rows that were set aside.
    pub(super) const fn staged(&self) -> ImportId {
        self.rows.import
    }

    /// Counts a row that is rejected before its selector is looked at.
    pub(super) fn pass_over(&mut self, kind: Rejection, line: u64) {
        self.report.rows += 1;
        self.report.reject(kind.as_str(), line);
    }

    /// Lets the rows take the place of everything though there may be none.
    pub(super) const fn may_empty(&mut self) {
        self.admitted = true;
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
            replace: header.replace,
            rows: StagedRows::begin(&self.store).await?,
            admitted: false,
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
        let (first, now) = (import.report.rows, self.clock.now());
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
                Err(kind) => import.report.reject(kind.as_str(), line),
                Ok(row) => {
                    if row.expires_at.is_some_and(|at| at <= now) {
                        import.report.reject(EXPIRED, line);
                    }
                    // Also what has expired: it takes out what the dataset has of it.
                    import.admitted = true;
                    staged.push(row);
                }
            }
        }
        let rows = &import.rows;
        rows.store
            .stage_rows(rows.import, &import.dataset, policy, staged)
            .await
    }

    /// Makes the rows selectors of the dataset, all at once, and reports.
    ///
    /// # Errors
    /// `INVALID_FIELD` if nothing would take the place of everything; those of the store. Nothing
    /// is imported, and nothing removed, then.
    pub(crate) async fn finish_import(&self, import: Import) -> Result<v1::ImportDatasetResponse> {
        if import.replace && !import.admitted {
            // A file of another type, or one that was cut off, must not empty a dataset.
            let text = "none of them is a selector that could take the place of what is there; \
                        the dataset is as it was: to empty it, delete it";
            return Err(Error::field("rows", text));
        }
        let now = self.clock.now();
        let (name, policy, replace) = (&import.dataset, import.policy, import.replace);
        let committed = self
            .store
            .commit_import(import.rows.import, name, policy, replace, now)
            .await?;
        self.data_changed();
        Ok(import.report.finish(committed))
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
    check_record_id(&row.record_id)?;
    let expires_at = row.expires_at.map(|at| timestamp("expires_at", Some(at)));
    let expires_at = expires_at.transpose()?;
    let region = region_of(&row, region);
    let outcome = policies.admit(policy, &row.value, region);
    Ok(outcome.map(|canonical| StagedRow {
        position,
        canonical,
        named: !row.record_id.is_empty(),
        record_id: if row.record_id.is_empty() {
            format!("{dataset}/{}", row.line)
        } else {
            row.record_id
        },
        expires_at,
    }))
}

/// The region hint of a row, which goes before that of all rows.
pub(super) fn region_of<'a>(row: &'a v1::ImportRow, all: &'a str) -> &'a str {
    if row.region.is_empty() {
        all
    } else {
        &row.region
    }
}

/// Refuses a record id that no record can have.
///
/// # Errors
/// `INVALID_FIELD`.
pub(super) fn check_record_id(record_id: &str) -> Result<()> {
    if record_id.chars().count() > MAX_RECORD_ID || record_id.contains(char::is_control) {
        let text = "at most 128 characters, and no control characters";
        return Err(Error::field("record_id", text));
    }
    Ok(())
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
            report.reject(Rejection::Malformed.as_str(), line);
        }
        report.reject(Rejection::Empty.as_str(), 33);
        let report = report.finish(Committed {
            accepted: 10,
            removed: 0,
        });
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
