//! From the rows of a database to an import, in batches.

use futures::StreamExt as _;
use sotto_common::error::{Error, Result};
use sotto_proto::v1;

use super::connection::{Connection, Since, failed};
use super::plan::Extent;
use super::row::RawRow;
use super::statement::{self, Engine, MAX_WATERMARK, POSTGRES_WATERMARKS};
use crate::app::App;
use crate::app::import::Import;
use crate::config::SourceConfig;
use crate::store::Watermark;

/// Rows that are handed over at once: at most, by number and by size.
const BATCH: (usize, usize) = (5_000, 1024 * 1024);
/// The rows of a run on their way into the import.
pub(super) struct Intake {
    line: u64,
    rows: Vec<v1::ImportRow>,
    bytes: usize,
    watermark: Option<Watermark>,
}

impl Intake {
    /// Lines count over all runs: a row without a record is named by its line.
    pub(super) const fn new(line: u64, watermark: Option<Watermark>) -> Self {
        Self {
            line,
            rows: Vec::new(),
            bytes: 0,
            watermark,
        }
    }

    /// Reads the rows of a run into the import; tells the last watermark.
    ///
    /// # Errors
    /// `SOURCE_FAILED`; those of imports.
    pub(super) async fn read(
        mut self,
        app: &App,
        import: &mut Import,
        connection: &mut Connection,
        config: &SourceConfig,
        watermark_type: &str,
        extent: Extent,
    ) -> Result<Option<Watermark>> {
        let engine = connection.engine();
        let since = self
            .watermark
            .as_ref()
            .filter(|_| extent == Extent::Changes);
        let since = since.map(|since| bound(engine, since)).transpose()?;
        let sql = statement::rows(engine, config, watermark_type, extent, since.is_some());
        let mut rows = connection.rows(sql, since);
        while let Some(row) = rows.next().await {
            self.take(app, import, row?).await?;
        }
        self.hand_over(app, import).await?;
        Ok(self.watermark)
    }

    async fn take(&mut self, app: &App, import: &mut Import, mut row: RawRow) -> Result<()> {
        self.line += 1;
        if let Some((text, type_name)) = row.watermark() {
            self.move_on(text, type_name)?;
        }
        match row.checked(self.line) {
            Err(kind) => import.pass_over(kind, self.line),
            Ok(row) => {
                self.bytes += row.value.len() + row.record_id.len();
                self.rows.push(row);
                if self.rows.len() == BATCH.0 || self.bytes > BATCH.1 {
                    self.hand_over(app, import).await?;
                }
            }
        }
        Ok(())
    }

    async fn hand_over(&mut self, app: &App, import: &mut Import) -> Result<()> {
        self.bytes = 0;
        if self.rows.is_empty() {
            return Ok(());
        }
        app.import_rows(import, std::mem::take(&mut self.rows))
            .await
    }

    /// The rows come in the order of their watermarks.
    fn move_on(&mut self, text: String, type_name: String) -> Result<()> {
        let is_supported = POSTGRES_WATERMARKS
            .iter()
            .any(|(name, _)| *name == type_name)
            || ["integer", "text"].contains(&&*type_name);
        if !is_supported {
            return Err(unsupported(&type_name));
        }
        if text.chars().count() > MAX_WATERMARK {
            return Err(failed(
                "columns.watermark: a value is longer than 256 characters",
            ));
        }
        if let Some(last) = &self.watermark
            && last.type_name != type_name
        {
            return Err(failed(format!(
                "columns.watermark: some values are of the type {} and some {type_name}; use one",
                last.type_name
            )));
        }
        self.watermark = Some(Watermark { text, type_name });
        Ok(())
    }
}

/// Checks that the columns are there; tells the type of the watermark column.
///
/// # Errors
/// `SOURCE_FAILED`.
pub(super) async fn checked_shape(
    connection: &mut Connection,
    config: &SourceConfig,
) -> Result<String> {
    let shape = connection.shape(&config.query).await?;
    for (setting, column) in config.columns.named() {
        if !shape.iter().any(|(name, _)| name == column) {
            let names: Vec<_> = shape.iter().map(|(name, _)| name.as_str()).collect();
            return Err(failed(format!(
                "columns.{setting}: the query has no column `{column}`; it has {}",
                names.join(", ")
            )));
        }
    }
    let watermark = config.columns.watermark.as_ref();
    let column = watermark.and_then(|column| shape.iter().find(|(name, _)| name == column));
    let Some((_, type_name)) = column else {
        return Ok(String::new());
    };
    // Columns of SQLite have no type that their values must be of: rows are looked at instead.
    let is_postgres = connection.engine() == Engine::Postgres;
    if is_postgres
        && !POSTGRES_WATERMARKS
            .iter()
            .any(|(name, _)| name == type_name)
    {
        return Err(unsupported(type_name));
    }
    Ok(type_name.clone())
}

fn unsupported(type_name: &str) -> Error {
    failed(format!(
        "columns.watermark: the type {type_name} is not supported; on PostgreSQL smallint, integer, \
         bigint, text, varchar, date, timestamp and timestamptz are, on SQLite integer and text"
    ))
}

fn bound(engine: Engine, since: &Watermark) -> Result<Since> {
    if engine == Engine::Sqlite && since.type_name == "integer" {
        let number = since.text.parse().map_err(Error::internal)?;
        return Ok(Since::Number(number));
    }
    Ok(Since::Text(since.text.clone()))
}
