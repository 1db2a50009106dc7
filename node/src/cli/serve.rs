//! `serve`: the node's service.

use std::path::Path;
use std::sync::Arc;

use sotto_common::service::{shutdown, telemetry};
use sotto_common::time::SystemClock;

use super::fault::{Fault, Result};
use crate::config::NodeConfig;
use crate::serve::serve;

/// Runs the service until a signal ends it.
pub(crate) fn run(file: &Path) -> Result<()> {
    let config = NodeConfig::load(Some(file))?;
    telemetry::init(&config.log)?;
    let cannot_start = |error| Fault::new(format!("cannot start: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(cannot_start)?;
    runtime.block_on(async {
        let stop = shutdown::on_signal().map_err(cannot_start)?;
        serve(config, Arc::new(SystemClock), stop)
            .await
            .map_err(|error| Fault::new(error.to_string()))
    })
}
