//! `store`: keys for the list that `store_keys_file` names.

use std::io::Write as _;

use clap::Subcommand;
use sotto_common::random::os_rng;
use sotto_common::service::at_rest::ColumnCipher;

use super::Context;
use super::fault::Result;

/// Commands about what the node stores.
#[derive(Subcommand, Debug)]
pub(crate) enum StoreCommand {
    /// Print a new key as a line for the key list, and keep it nowhere
    ///
    /// The first line of the list seals, every line opens. To rotate: append a new line and
    /// restart the node; move it to the first place and restart again; once the log says that
    /// everything is sealed under it, take the old line away, and keep it for the backups that it
    /// opens.
    #[command(after_help = "Example:\n  \
        (umask 077 && sotto-node store new-key >> store.keys)")]
    NewKey,
}

/// Runs a command about what the node stores.
pub(crate) fn run(context: &Context, command: &StoreCommand) -> Result<()> {
    match command {
        StoreCommand::NewKey => {
            let line = ColumnCipher::generate_line(&mut os_rng());
            let mut out = context.stdout();
            writeln!(out, "{}", *line)?;
            // A key that is only half in the list shall not look like one that is there.
            Ok(out.flush()?)
        }
    }
}
