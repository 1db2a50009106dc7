//! `sotto-broker ledger`: keys for the file that `ledger_keys_file` names.

use std::io::Write as _;

use clap::Subcommand;
use sotto_common::random::os_rng;
use sotto_common::service::at_rest::ColumnCipher;

use super::Result;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  (umask 077 && sotto-broker ledger new-key >> ledger.keys)")]
pub(super) enum Command {
    /// Print a new key as a line for the key file, and keep it nowhere.
    ///
    /// The first line of a key file seals, every line opens. A new key comes last on every broker
    /// first; once all have it, it goes to the first place.
    #[command(after_help = "Examples:
  (umask 077 && sotto-broker ledger new-key >> ledger.keys)")]
    NewKey,
}

pub(super) fn run(command: &Command) -> Result<()> {
    match command {
        Command::NewKey => {
            let line = ColumnCipher::generate_line(&mut os_rng());
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", *line)?;
            // A key that is only half in the file shall not look like one that is there.
            out.flush()?;
        }
    }
    Ok(())
}
