//! `sotto-broker log-key`: by which key the audit log of a community is known.

use std::path::PathBuf;

use clap::Args;
use sotto_common::ids::CommunityId;
use sotto_common::log::checkpoint::LogKey;
use sotto_common::log::origin::LogOrigin;
use sotto_common::service::config;

use super::{Fault, Result};
use crate::config::{Config, LogKeyFile, PROGRAM};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sotto-broker log-key --config /etc/sotto/broker.toml --community euro-cyber")]
pub(super) struct LogKeyArgs {
    /// The configuration of the broker.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The community.
    #[arg(long, value_name = "NAME")]
    community: CommunityId,
}

/// Prints the verifier key: what nodes and auditors have in their own configuration.
pub(super) fn run(args: LogKeyArgs) -> Result<()> {
    let config: Config = config::load(PROGRAM, Some(&args.config))?;
    let file = LogKeyFile::of(&config)?;
    let signing = file.read()?.ok_or_else(|| Fault {
        text: format!(
            "{} is not there yet: it is made when the broker starts for the first time",
            file.path().display()
        ),
        code: 1,
    })?;
    let origin = LogOrigin::new(config.log_name, args.community);
    println!("{}", LogKey::new(origin, signing.verifying_key()));
    Ok(())
}
