//! `sotto-broker ledger`: keys for the files that `ledger_keys_file` and `log_key_file` name.

use std::io::Write as _;

use clap::Subcommand;
use sotto_common::dsse::SigningKey;
use sotto_common::random::os_rng;
use sotto_common::service::at_rest::ColumnCipher;
use sotto_common::service::key_file;

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
    /// Print a new key of the audit log as the content of the file that `log_key_file` names, and
    /// keep it nowhere.
    ///
    /// Every broker on a ledger has the same, and it never changes: nodes and auditors know the log
    /// by it. One broker alone makes its key by itself.
    #[command(after_help = "Examples:
  (umask 077 && sotto-broker ledger new-log-key > log.key)")]
    NewLogKey,
}

pub(super) fn run(command: &Command) -> Result<()> {
    let rng = &mut os_rng();
    let mut out = std::io::stdout().lock();
    match command {
        Command::NewKey => writeln!(out, "{}", *ColumnCipher::generate_line(rng))?,
        Command::NewLogKey => write!(out, "{}", *key_file::line(&SigningKey::generate(rng)))?,
    }
    // A key that is only half in the file shall not look like one that is there.
    out.flush()?;
    Ok(())
}
