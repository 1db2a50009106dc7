//! `serve`: the node's service.

use std::error::Error as StdError;
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
            .map_err(|error| Fault::new(with_causes(&*error)))
    })
}

/// Whoever starts the node is its operator: the causes of a fault are for them.
fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
