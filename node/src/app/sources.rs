//! Datasets that are filled from the unit's own databases: by a clock, only with what has changed
//! where a watermark column says so, and by whole comparison, which removes what is gone.

mod connection;
mod intake;
mod plan;
mod row;
mod statement;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::selector::Policy;
use sotto_proto::convert::to_timestamp;
use sotto_proto::v1;
use tokio::sync::{Mutex, Notify};

use self::connection::{Connection, failed};
use self::intake::{Intake, checked_shape};
use self::plan::{Setbacks, next_run};
use self::statement::Engine;
use super::App;
use super::import::Import;
use crate::config::{SourceConfig, SourceDatabase};
use crate::store::{SourceCounts, SourceState, Watermark};

pub(crate) use plan::Extent;

/// When the node's own store cannot be read, it is tried again after this time.
const RETRY: Duration = Duration::from_mins(1);

/// The datasets that are filled from databases.
#[derive(Default)]
pub(crate) struct Sources(Vec<Source>);

/// One of them.
struct Source {
    config: SourceConfig,
    /// Runs are made one at a time.
    turn: Mutex<()>,
    setbacks: StdMutex<Setbacks>,
    /// Told when a person has made it run.
    moved: Notify,
}

/// What a run did.
pub(crate) struct Filled {
    pub(crate) policy: Policy,
    pub(crate) report: v1::ImportDatasetResponse,
    pub(crate) extent: Extent,
    pub(crate) watermark: Option<Watermark>,
}

impl Sources {
    /// As the configuration says.
    pub(crate) fn new(config: &crate::config::Sources) -> Self {
        let source = |config: &SourceConfig| Source {
            config: config.clone(),
            turn: Mutex::new(()),
            setbacks: StdMutex::default(),
            moved: Notify::new(),
        };
        Self(config.iter().map(source).collect())
    }

    fn get(&self, dataset: &str) -> Option<&Source> {
        self.0
            .iter()
            .find(|source| source.config.dataset == dataset)
    }
}

impl Source {
    fn setbacks(&self) -> MutexGuard<'_, Setbacks> {
        self.setbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills the datasets for as long as the node runs; sources do not wait for each other.
pub(crate) fn keep_filling(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let sources = app.sources.0.iter();
        join_all(sources.map(|source| keep_one(&app, source))).await;
    }
    .boxed()
}

async fn keep_one(app: &App, source: &Source) {
    loop {
        let now = app.clock.now();
        let at = match app.stood(source).await {
            Ok(state) => {
                let (extent, at) =
                    next_run(&source.config, state.as_ref(), &source.setbacks(), now);
                if at <= now {
                    // What failed is in the log, and among the setbacks.
                    let _ = app.fill(source, extent, false).await;
                    continue;
                }
                at
            }
            Err(error) => {
                tracing::error!(%error, "the state of a source cannot be read; trying again");
                now.plus(RETRY)
            }
        };
        tokio::select! {
            () = app.clock.wait_until(at) => {}
            () = source.moved.notified() => {}
        }
    }
}

impl App {
    /// Refuses to change a dataset by hand that is filled from a database.
    ///
    /// # Errors
    /// `DATASET_SOURCED`.
    pub(crate) fn check_by_hand(&self, dataset: &str) -> Result<()> {
        if self.sources.get(dataset).is_none() {
            return Ok(());
        }
        let text = "the dataset is filled from a database, and the next comparison would undo \
                    this: change the rows there and run `sotto-node dataset sync`, or take the \
                    source out of the node's configuration";
        Err(Error::new(ErrorCode::DatasetSourced, text))
    }

    /// Fills a dataset now, as a person asks.
    ///
    /// # Errors
    /// `DATASET_UNKNOWN` if there is no such source; `SOURCE_FAILED`; those of imports.
    pub(crate) async fn run_source(
        &self,
        dataset: &str,
        full: bool,
        allow_shrink: bool,
    ) -> Result<Filled> {
        let source = self.sources.get(dataset).ok_or_else(|| {
            let text = "the node's configuration has no source for such a dataset";
            Error::new(ErrorCode::DatasetUnknown, text)
        })?;
        let extent = if full || source.config.columns.watermark.is_none() {
            Extent::Whole
        } else {
            Extent::Changes
        };
        let filled = self.fill(source, extent, allow_shrink).await;
        source.moved.notify_one();
        filled
    }

    /// Every source and how it stands.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn sources_status(&self) -> Result<Vec<v1::DatasetSource>> {
        let now = self.clock.now();
        let mut rows = Vec::new();
        for source in &self.sources.0 {
            let (config, state) = (&source.config, self.stood(source).await?);
            let setbacks = source.setbacks().clone();
            let (extent, at) = next_run(config, state.as_ref(), &setbacks, now);
            let counts = state.as_ref().map(|state| state.counts).unwrap_or_default();
            let watermark = state.as_ref().and_then(|state| state.watermark.as_ref());
            rows.push(v1::DatasetSource {
                dataset: config.dataset.clone(),
                policy: config.policy.name().to_owned(),
                engine: match config.database {
                    SourceDatabase::Postgres { .. } => "postgresql".into(),
                    SourceDatabase::Sqlite(_) => "sqlite".into(),
                },
                last_run_at: state.as_ref().map(|state| to_timestamp(state.run_at)),
                last_full_at: state.as_ref().map(|state| to_timestamp(state.full_at)),
                rows: counts.rows,
                accepted: counts.accepted,
                rejected: counts.rejected,
                removed: counts.removed,
                watermark: watermark.map(|mark| mark.text.clone()).unwrap_or_default(),
                next_run_at: Some(to_timestamp(at)),
                next_full: extent == Extent::Whole,
                problem: setbacks.problem(),
            });
        }
        Ok(rows)
    }

    /// What is wrong with sources, for the status.
    pub(crate) fn source_problems(&self) -> Vec<String> {
        let problems = self.sources.0.iter().map(|source| {
            let problem = source.setbacks().problem();
            (&source.config.dataset, problem)
        });
        problems
            .filter(|(_, problem)| !problem.is_empty())
            .map(|(dataset, problem)| {
                format!("the dataset {dataset} is not filled from its database: {problem}")
            })
            .collect()
    }

    /// Where a source stands, if it ran as it is configured now.
    async fn stood(&self, source: &Source) -> Result<Option<SourceState>> {
        let state = self.store.source(&source.config.dataset).await?;
        Ok(state.filter(|state| state.definition == definition(&source.config)))
    }

    /// Runs a source and remembers how that went.
    async fn fill(&self, source: &Source, extent: Extent, allow_shrink: bool) -> Result<Filled> {
        let _turn = source.turn.lock().await;
        let dataset = &source.config.dataset;
        let timeout = source.config.timeout;
        let run = self.try_fill(source, extent, allow_shrink);
        let outcome = tokio::time::timeout(timeout, run)
            .await
            .unwrap_or_else(|_| {
                Err(failed(format!(
                    "the run took longer than `timeout`, {} s: give it longer, or the query an index",
                    timeout.as_secs()
                )))
            });
        match &outcome {
            Ok(filled) => {
                source.setbacks().went_well(filled.extent);
                let report = &filled.report;
                tracing::info!(
                    dataset,
                    full = filled.extent == Extent::Whole,
                    rows = report.rows,
                    accepted = report.accepted,
                    removed = report.removed,
                    "dataset filled from its database"
                );
            }
            Err(error) => {
                tracing::warn!(dataset, %error, "dataset not filled from its database");
                let problem = error.text.clone().into_owned();
                source.setbacks().failed(extent, self.clock.now(), problem);
            }
        }
        outcome
    }

    async fn try_fill(
        &self,
        source: &Source,
        wanted: Extent,
        allow_shrink: bool,
    ) -> Result<Filled> {
        let config = &source.config;
        let state = self.stood(source).await?;
        let begun = self.clock.now();
        let mut connection = Connection::open(&config.database, config.timeout).await?;
        let watermark_type = checked_shape(&mut connection, config).await?;
        let last = state.as_ref().and_then(|state| state.watermark.clone());
        // What was taken under another type cannot be gone on from.
        let is_sqlite = connection.engine() == Engine::Sqlite;
        let goes_on = |last: &Watermark| is_sqlite || last.type_name == watermark_type;
        let extent = match &state {
            Some(_) if last.as_ref().is_none_or(goes_on) => wanted,
            _ => Extent::Whole,
        };
        let before = self.store.dataset(&config.dataset).await?;
        let before = before.map_or(0, |dataset| dataset.selectors);
        let replace = extent == Extent::Whole && before > 0;
        let mut import = self.begin_import(header(config, replace)).await?;
        let read_before = state.as_ref().map_or(0, |state| state.rows_read);
        let since = last.filter(|_| extent == Extent::Changes);
        let intake = Intake::new(read_before, since);
        let read = intake.read(
            self,
            &mut import,
            &mut connection,
            config,
            &watermark_type,
            extent,
        );
        let watermark = read.await?;
        connection.close().await;
        if extent == Extent::Whole {
            let may_shrink = allow_shrink || config.allow_shrink;
            self.check_shrinking(&mut import, before, may_shrink)
                .await?;
        }
        let mut report = self.finish_import(import).await?;
        lines_of_this_run(&mut report, read_before);
        let last_full = state.filter(|_| extent == Extent::Changes);
        let state = SourceState {
            definition: definition(config),
            watermark: watermark.clone(),
            run_at: begun,
            full_at: last_full.map_or(begun, |state| state.full_at),
            rows_read: read_before + report.rows,
            counts: counts(&report),
        };
        // Only now: what was read once too often does no harm, what was passed over would.
        self.store.put_source(&config.dataset, &state).await?;
        Ok(Filled {
            policy: config.policy,
            report,
            extent,
            watermark,
        })
    }

    /// Refuses rows that would leave less than half of a dataset, if they may not.
    async fn check_shrinking(
        &self,
        import: &mut Import,
        before: u64,
        may_shrink: bool,
    ) -> Result<()> {
        let left = self
            .store
            .count_staged(import.staged(), self.clock.now())
            .await?;
        if may_shrink {
            import.may_empty();
        } else if left.saturating_mul(2) < before {
            return Err(shrunk(left, before));
        }
        Ok(())
    }
}

fn header(config: &SourceConfig, replace: bool) -> v1::ImportHeader {
    v1::ImportHeader {
        dataset: config.dataset.clone(),
        policy: config.policy.name().to_owned(),
        region: config.region.clone(),
        replace,
    }
}

fn shrunk(left: u64, before: u64) -> Error {
    failed(format!(
        "the query gives {left} selectors where the dataset has {before}: less than half, so \
         nothing was changed; look at the query and its tables, and if it is right run `sotto-node \
         dataset sync NAME --full --allow-shrink`"
    ))
}

/// The report counts lines from the beginning of the run.
fn lines_of_this_run(report: &mut v1::ImportDatasetResponse, before: u64) {
    for kind in &mut report.rejections {
        let lines = kind.first_lines.iter_mut();
        lines.for_each(|line| *line = line.saturating_sub(before));
        // Some were rejected before others that came first were looked at.
        kind.first_lines.sort_unstable();
    }
}

fn counts(report: &v1::ImportDatasetResponse) -> SourceCounts {
    SourceCounts {
        rows: report.rows,
        accepted: report.accepted,
        rejected: report.rejections.iter().map(|kind| kind.rows).sum(),
        removed: report.removed,
    }
}

/// A digest of what the configuration says of the rows; where the server is is no part of it, so
/// that a database may move.
fn definition(config: &SourceConfig) -> [u8; 32] {
    let mut digest = Sha256::new();
    let engine = match config.database {
        SourceDatabase::Postgres { .. } => "postgresql",
        SourceDatabase::Sqlite(_) => "sqlite",
    };
    let columns = config
        .columns
        .named()
        .flat_map(|(setting, name)| [setting, name]);
    for part in [engine, config.policy.name(), &config.region, &config.query]
        .into_iter()
        .chain(columns)
    {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}
