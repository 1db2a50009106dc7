//! `dataset`: this node's own selectors.

mod import;
mod rows;

use clap::Subcommand;
use sotto_proto::{convert, v1};

use super::Context;
use super::client::unary;
use super::fault::Result;
use super::render::{Cell, List};

/// Commands about datasets.
#[derive(Subcommand, Debug)]
pub(crate) enum DatasetCommand {
    /// Import selectors from a file or standard input
    ///
    /// A text file has one selector a line, a CSV file a header line, a JSONL file one object a
    /// line. Rows that are no selectors of the type are counted and passed over; the report
    /// gives the line numbers, never the content. All rows are stored or, if something breaks,
    /// none. Importing again what is there already does no harm.
    #[command(after_help = import::EXAMPLES)]
    Import(import::ImportArgs),
    /// List the datasets
    #[command(after_help = "Example:\n  sotto-node dataset ls --output json")]
    Ls,
}

const COLUMNS: &[&str] = &["dataset", "policy", "selectors", "imported_at"];

/// Runs a command about datasets.
pub(crate) async fn run(context: &Context, command: DatasetCommand) -> Result<()> {
    match command {
        DatasetCommand::Import(args) => import::run(context, args).await,
        DatasetCommand::Ls => {
            let request = unary(v1::ListDatasetsRequest {});
            let answer = context.client()?.datasets().list_datasets(request).await?;
            let mut list = List::new(context.output, COLUMNS, context.stdout())?;
            for dataset in answer.into_inner().datasets {
                list.row(&[
                    Cell::new(dataset.name),
                    Cell::new(dataset.policy),
                    Cell::new(dataset.selectors),
                    Cell::time(convert::timestamp("at", dataset.imported_at).ok()),
                ])?;
            }
            Ok(list.finish()?)
        }
    }
}
