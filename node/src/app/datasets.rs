//! What is done with datasets beside importing: removing from them, and their settings.

use std::sync::Arc;

use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::grounds::Grounds;
use sotto_common::selector::{Policy, Rejection, canonical};
use sotto_proto::v1;

use super::import::{MAX_ROWS, Report, StagedRows, check_record_id, region_of};
use super::{App, off_the_runtime};
use crate::store::{Dataset, Wanted};

/// A removal under way. Dropping it removes nothing.
pub(crate) struct Removal {
    dataset: String,
    policy: Policy,
    region: String,
    by_record: bool,
    rows: StagedRows,
    report: Report,
}

impl App {
    /// Begins to remove selectors from a dataset.
    ///
    /// # Errors
    /// `DATASET_UNKNOWN`.
    pub(crate) async fn begin_removal(&self, header: v1::RemovalHeader) -> Result<Removal> {
        let dataset = self.store.dataset(&header.dataset).await?;
        Ok(Removal {
            policy: dataset.ok_or_else(unknown_dataset)?.policy,
            dataset: header.dataset,
            region: header.region,
            by_record: header.by_record,
            rows: StagedRows::begin(&self.store).await?,
            report: Report::default(),
        })
    }

    /// Takes some rows.
    ///
    /// # Errors
    /// `INVALID_FIELD` for too many rows at once, or a record id that none can have.
    pub(crate) async fn removal_rows(
        &self,
        removal: &mut Removal,
        rows: Vec<v1::ImportRow>,
    ) -> Result<()> {
        if rows.len() > MAX_ROWS {
            return Err(Error::field("rows", "at most 10000 in a message"));
        }
        removal.report.rows += rows.len() as u64;
        let (policy, by_record) = (removal.policy, removal.by_record);
        let region = Arc::<str>::from(removal.region.as_str());
        let outcomes = off_the_runtime(move || {
            let one = |row: v1::ImportRow| {
                let line = row.line;
                if by_record {
                    return by_its_record(row).map(|wanted| (line, Ok(wanted)));
                }
                Ok((line, by_its_value(policy, &region, &row)))
            };
            rows.into_par_iter().map(one).collect::<Result<Vec<_>>>()
        })
        .await?;
        let mut wanted = Vec::with_capacity(outcomes.len());
        for (line, outcome) in outcomes {
            match outcome {
                Ok(row) => wanted.push(row),
                Err(kind) => removal.report.reject(kind.as_str(), line),
            }
        }
        let rows = &removal.rows;
        rows.store.stage_removals(rows.import, policy, wanted).await
    }

    /// Removes what the rows name, all at once, and reports.
    ///
    /// # Errors
    /// `DATASET_UNKNOWN` if it was deleted meanwhile; those of the store. Nothing is removed then.
    pub(crate) async fn finish_removal(
        &self,
        removal: Removal,
    ) -> Result<v1::RemoveSelectorsResponse> {
        let (import, now) = (removal.rows.import, self.clock.now());
        let done = self
            .store
            .commit_removal(import, &removal.dataset, removal.by_record, now)
            .await?
            .ok_or_else(unknown_dataset)?;
        self.data_changed();
        Ok(v1::RemoveSelectorsResponse {
            rows: removal.report.rows,
            removed: done.removed,
            absent: done.absent,
            rejections: removal.report.rejections(),
            policy: removal.policy.name().to_owned(),
        })
    }

    /// Removes a dataset with all of its selectors; tells its policy, and how many they were.
    ///
    /// # Errors
    /// `DATASET_UNKNOWN`.
    pub(crate) async fn delete_dataset(&self, name: &str) -> Result<(Policy, u64)> {
        let deleted = self.store.delete_dataset(name, self.clock.now()).await?;
        let deleted = deleted.ok_or_else(unknown_dataset)?;
        self.data_changed();
        Ok(deleted)
    }

    /// Says whether a dataset is published, and whether and why it is probed by itself; what is
    /// absent stays as it is.
    ///
    /// # Errors
    /// `DATASET_UNKNOWN`; `INVALID_FIELD` for grounds beside `stop_probing`; the refusals of
    /// grounds.
    pub(crate) async fn update_dataset(
        &self,
        request: v1::UpdateDatasetRequest,
    ) -> Result<Dataset> {
        let grounds = request.probe.as_ref().map(Grounds::try_from).transpose()?;
        let probe = match (grounds, request.stop_probing) {
            (Some(_), true) => {
                let text = "it is probed for this reason or not at all, not both";
                return Err(Error::field("stop_probing", text));
            }
            (None, false) => None,
            (grounds, _) => Some(grounds),
        };
        let set = self
            .store
            .update_dataset(&request.dataset, request.publish, probe)
            .await?
            .ok_or_else(unknown_dataset)?;
        self.data_changed();
        Ok(set)
    }
}

fn by_its_record(row: v1::ImportRow) -> Result<Wanted> {
    check_record_id(&row.record_id)?;
    if row.record_id.is_empty() {
        let text = format!("line {}: names no record", row.line);
        return Err(Error::field("record_id", text));
    }
    Ok(Wanted::Record(row.record_id))
}

/// Without the stop-list: what has come to be on it since can be removed.
fn by_its_value(
    policy: Policy,
    region: &str,
    row: &v1::ImportRow,
) -> std::result::Result<Wanted, Rejection> {
    let region = region_of(row, region);
    let region = (!region.is_empty()).then_some(region);
    canonical(policy, &row.value, region).map(Wanted::Value)
}

fn unknown_dataset() -> Error {
    Error::new(ErrorCode::DatasetUnknown, "there is no such dataset here")
}

#[cfg(test)]
mod tests {
    use sotto_common::time::Timestamp;
    use sotto_proto::convert::to_timestamp;

    use super::*;
    use crate::testing;

    fn row(line: u64, value: &str, record_id: &str) -> v1::ImportRow {
        v1::ImportRow {
            line,
            value: value.into(),
            record_id: record_id.into(),
            ..v1::ImportRow::default()
        }
    }

    async fn import(
        app: &App,
        replace: bool,
        rows: Vec<v1::ImportRow>,
    ) -> Result<v1::ImportDatasetResponse> {
        let header = v1::ImportHeader {
            dataset: "d".into(),
            policy: "phone/1".into(),
            region: "NL".into(),
            replace,
        };
        let mut import = app.begin_import(header).await?;
        app.import_rows(&mut import, rows).await?;
        app.finish_import(import).await
    }

    async fn remove(
        app: &App,
        by_record: bool,
        rows: Vec<v1::ImportRow>,
    ) -> Result<v1::RemoveSelectorsResponse> {
        let header = v1::RemovalHeader {
            dataset: "d".into(),
            region: "NL".into(),
            by_record,
        };
        let mut removal = app.begin_removal(header).await?;
        app.removal_rows(&mut removal, rows).await?;
        app.finish_removal(removal).await
    }

    async fn count(app: &App) -> u64 {
        let dataset = app.store.dataset("d").await.expect("read");
        dataset.map_or(0, |dataset| dataset.selectors)
    }

    #[tokio::test]
    async fn a_value_is_removed_in_any_spelling_and_a_record_with_all_of_its_values() {
        let (app, _dir) = testing::app().await;
        let unknown = remove(&app, false, Vec::new()).await.expect_err("none");
        assert_eq!(unknown.code, ErrorCode::DatasetUnknown);
        let rows = [
            ("0612345678", "a"),
            ("0612345679", "b"),
            ("0612345670", "b"),
        ];
        let rows = rows.map(|(value, record)| row(1, value, record)).to_vec();
        import(&app, false, rows).await.expect("imported");
        let mut changes = app.data.subscribe();

        let wanted = ["+31 6 1234 5678", "06 98765432", "x"].map(|text| row(9, text, ""));
        let report = remove(&app, false, wanted.to_vec()).await.expect("removed");
        assert_eq!((report.rows, report.removed, report.absent), (3, 1, 1));
        assert_eq!(report.rejections[0].first_lines, [9]);
        assert_eq!(report.policy, "phone/1");
        assert!(changes.has_changed().expect("open"));
        changes.mark_unchanged();
        let report = remove(&app, true, vec![row(1, "", "b")]).await;
        assert_eq!(report.expect("removed").removed, 2);
        assert_eq!(count(&app).await, 0);

        let nameless = remove(&app, true, vec![row(4, "0612345678", "")]).await;
        let nameless = nameless.expect_err("refused");
        assert_eq!(nameless.subject.as_deref(), Some("record_id"));
        assert!(nameless.text.contains("line 4") && !nameless.text.contains("0612"));
        let many = vec![row(1, "0612345678", "a"); MAX_ROWS + 1];
        assert!(remove(&app, false, many).await.is_err());
    }

    #[tokio::test]
    async fn rows_whose_time_has_passed_are_rejected_and_take_out_what_was_there() {
        let (app, _dir) = testing::app().await;
        let until = |value: &str, seconds| v1::ImportRow {
            expires_at: Some(to_timestamp(Timestamp::from_seconds(seconds))),
            ..row(7, value, "r")
        };
        // The clock stands at 2000.
        let rows = vec![until("0612345678", 2_001), until("0612345679", 2_000)];
        let report = import(&app, false, rows).await.expect("imported");
        assert_eq!(
            (report.accepted, report.duplicates, report.removed),
            (1, 0, 0)
        );
        assert_eq!(report.rejections[0].kind, "expired");
        let again = import(&app, false, vec![until("0612345678", 1_999)]).await;
        assert_eq!(again.expect("imported").removed, 1);
        assert_eq!(count(&app).await, 0);
    }

    #[tokio::test]
    async fn a_file_without_a_selector_does_not_empty_a_dataset() {
        let (app, _dir) = testing::app().await;
        let good = vec![row(1, "0612345678", "")];
        import(&app, false, good.clone()).await.expect("imported");
        for rows in [Vec::new(), vec![row(1, "anna@x.org", "")]] {
            let refused = import(&app, true, rows).await.expect_err("refused");
            assert_eq!(refused.subject.as_deref(), Some("rows"));
            assert_eq!(count(&app).await, 1);
        }
        let other = vec![row(1, "0612345679", "")];
        let report = import(&app, true, other).await.expect("imported");
        assert_eq!((report.accepted, report.removed), (1, 1));
    }

    #[tokio::test]
    async fn settings_are_changed_one_by_one_and_make_sense_together() {
        let (app, _dir) = testing::app().await;
        let set = async |publish, probe, stop_probing| {
            let dataset = "d".into();
            app.update_dataset(v1::UpdateDatasetRequest {
                dataset,
                publish,
                probe,
                stop_probing,
            })
            .await
        };
        let unknown = set(None, None, false).await.expect_err("none");
        assert_eq!(unknown.code, ErrorCode::DatasetUnknown);
        import(&app, false, vec![row(1, "0612345678", "")])
            .await
            .expect("imported");
        let grounds = v1::ProbeGrounds {
            purpose: v1::Purpose::Detection.into(),
            legal_basis: v1::LegalBasis::Eu2023977.into(),
            legal_basis_reference: String::new(),
            case_ref: "c-1".into(),
        };
        let now = set(Some(false), Some(grounds.clone()), false).await;
        let now = now.expect("set");
        assert_eq!(now.probe.as_ref().map(Into::into), Some(grounds.clone()));
        assert!(!now.publish);
        let now = set(None, None, true).await.expect("set");
        assert_eq!((now.publish, now.probe), (false, None));
        let both = set(None, Some(grounds), true).await.expect_err("refused");
        assert_eq!(both.subject.as_deref(), Some("stop_probing"));
        let no_case = Some(v1::ProbeGrounds::default());
        assert!(set(None, no_case, false).await.is_err());
        assert_eq!(app.delete_dataset("d").await.expect("gone").1, 1);
        assert!(app.delete_dataset("d").await.is_err());
    }
}
