//! `dataset`: this node's own selectors.

mod feed;
mod import;
mod remove;
mod rows;
mod settings;
mod sources;

use clap::Subcommand;

use super::Context;
use super::fault::Result;

/// Commands about datasets.
#[derive(Subcommand, Debug)]
pub(crate) enum DatasetCommand {
    /// Import selectors from a file or standard input
    ///
    /// A text file has one selector a line, a CSV file a header line, a JSONL file one object a
    /// line. Rows that are no selectors of the type are counted and passed over; the report
    /// gives the line numbers, never the content. All rows are stored or, if something breaks,
    /// none. Importing again what is there already does no harm; it takes the new expiry. Rows
    /// whose time has passed are rejected as `expired`, and what the dataset has of them goes.
    #[command(after_help = import::EXAMPLES)]
    Import(import::ImportArgs),
    /// List the datasets
    #[command(after_help = "Example:\n  sotto-node dataset ls --output json")]
    Ls,
    /// Remove selectors, or whole records, and wait until they match no more
    ///
    /// A selector is found in whatever spelling. All rows are removed or, if something breaks,
    /// none. Hits that were found with them stay, without the selector.
    #[command(after_help = remove::REMOVE_EXAMPLES)]
    Remove(remove::RemoveArgs),
    /// Delete a dataset with all of its selectors, and wait until they match no more
    #[command(after_help = remove::DELETE_EXAMPLES)]
    Delete(remove::DeleteArgs),
    /// Say whether a dataset is published, and whether it is probed by itself
    #[command(after_help = settings::EXAMPLES)]
    Set(settings::SetArgs),
    /// List the datasets that the node fills from the unit's own databases
    #[command(after_help = "Example:\n  sotto-node dataset sources --output json")]
    Sources,
    /// Fill a dataset from its database now
    ///
    /// The node does so by itself, too, by the times in its configuration. What fails has changed
    /// nothing.
    #[command(after_help = sources::EXAMPLES)]
    Sync(sources::SyncArgs),
}

/// Runs a command about datasets.
pub(crate) async fn run(context: &Context, command: DatasetCommand) -> Result<()> {
    match command {
        DatasetCommand::Import(args) => import::run(context, args).await,
        DatasetCommand::Ls => settings::list(context).await,
        DatasetCommand::Remove(args) => remove::remove(context, args).await,
        DatasetCommand::Delete(args) => remove::delete(context, args).await,
        DatasetCommand::Set(args) => settings::set(context, args).await,
        DatasetCommand::Sources => sources::list(context).await,
        DatasetCommand::Sync(args) => sources::sync(context, args).await,
    }
}
