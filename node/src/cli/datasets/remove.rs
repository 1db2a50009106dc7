//! `dataset remove` and `dataset delete`: what goes, and that it matches no more.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;
use sotto_proto::v1::{
    DeleteDatasetRequest, RemovalHeader, RemoveSelectorsRequest, remove_selectors_request::Message,
};

use super::feed::{self, Source, rejection_cells};
use super::rows::{Columns, Format};
use crate::cli::client::unary;
use crate::cli::fault::{Fault, Result};
use crate::cli::render::Cell;
use crate::cli::{Context, args, publish};

pub(super) const REMOVE_EXAMPLES: &str = "Examples:\n  \
    sotto-node dataset remove suspects --region NL cleared.txt\n  \
    echo 2026-17 | sotto-node dataset remove suspects --by-record";

pub(super) const DELETE_EXAMPLES: &str = "Example:\n  sotto-node dataset delete suspects --yes";

/// What to remove from a dataset.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Name of the dataset
    #[arg(value_name = "NAME")]
    dataset: String,
    /// The rows are ids of records, and every selector of them goes
    #[arg(long)]
    by_record: bool,
    /// Country for national spellings of rows that have none of their own, e.g. NL
    #[arg(long, value_parser = args::region)]
    region: Option<String>,
    /// Form of the file
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
    /// CSV and JSONL: the column or field of the selector, or of the record's id; value or selector
    /// if left out
    #[arg(long, value_name = "NAME|NUMBER")]
    column: Option<String>,
    /// CSV and JSONL: the row's country
    #[arg(long, value_name = "NAME|NUMBER")]
    region_column: Option<String>,
    /// Do not wait until what was removed matches no more
    #[arg(long)]
    no_wait: bool,
    /// The file; standard input if left out, or `-`
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Which dataset to delete.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// Name of the dataset
    #[arg(value_name = "NAME")]
    dataset: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Do not wait until what was removed matches no more
    #[arg(long)]
    no_wait: bool,
}

const REMOVED: &[&str] = &[
    "dataset",
    "policy",
    "rows",
    "removed",
    "absent",
    "rejected",
    "rejections",
];

const DELETED: &[&str] = &["dataset", "policy", "removed"];

/// Removes what a file names, and prints the report.
pub(crate) async fn remove(context: &Context, args: RemoveArgs) -> Result<()> {
    let mut datasets = context.client()?.datasets();
    let header = message(Message::Header(RemovalHeader {
        dataset: args.dataset.clone(),
        region: args.region.unwrap_or_default(),
        by_record: args.by_record,
    }));
    let source = Source {
        file: args.file,
        format: args.format,
        columns: Columns {
            value: args.column,
            region: args.region_column,
            type_name: if args.by_record { "id" } else { "value" },
            ..Columns::default()
        },
        expires: None,
        by_record: args.by_record,
    };
    let (mut report, unreadable) = feed::send(
        source,
        header,
        |rows| message(Message::Rows(rows)),
        |stream| datasets.remove_selectors(stream),
    )
    .await?;
    unreadable.add_to(&mut report.rows, &mut report.rejections);
    let [rejected, rejections] = rejection_cells(&report.rejections);
    let cells = [
        Cell::new(args.dataset),
        Cell::new(report.policy.as_str()),
        Cell::new(report.rows),
        Cell::new(report.removed),
        Cell::new(report.absent),
        rejected,
        rejections,
    ];
    context.done(REMOVED, &cells)?;
    if report.removed > 0 && !args.no_wait {
        publish::until_gone(context, &report.policy).await?;
    }
    Ok(())
}

/// Deletes a dataset, if the person means it.
pub(crate) async fn delete(context: &Context, args: DeleteArgs) -> Result<()> {
    if !args.yes && !means_it(&args.dataset)? {
        return Err(Fault::new("the dataset was left as it is"));
    }
    let request = unary(DeleteDatasetRequest {
        dataset: args.dataset.clone(),
    });
    let answer = context.client()?.datasets().delete_dataset(request).await?;
    let answer = answer.into_inner();
    let cells = [
        Cell::new(args.dataset),
        Cell::new(answer.policy.as_str()),
        Cell::new(answer.removed),
    ];
    context.done(DELETED, &cells)?;
    if answer.removed > 0 && !args.no_wait {
        publish::until_gone(context, &answer.policy).await?;
    }
    Ok(())
}

/// Asks on the terminal.
fn means_it(dataset: &str) -> Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let text = "nobody can be asked whether the dataset is to go: give --yes";
        return Err(Fault::Usage(text.into()));
    }
    let mut ask = std::io::stderr().lock();
    let unasked = |error| Fault::new(format!("cannot ask on the terminal: {error}"));
    write!(
        ask,
        "delete all selectors of this dataset? Type its name, {dataset}: "
    )
    .and_then(|()| ask.flush())
    .map_err(unasked)?;
    let mut said = String::new();
    stdin.read_line(&mut said).map_err(unasked)?;
    Ok(said.trim() == dataset)
}

fn message(message: Message) -> RemoveSelectorsRequest {
    RemoveSelectorsRequest {
        message: Some(message),
    }
}
