//! After a change of the key list: what older keys have sealed is sealed anew, while the node
//! works.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sotto_common::error::{ErrorCode, Result};
use sotto_common::random::os_rng;

use super::App;
use crate::broker::Backoff;

/// Selectors that are looked at in one step: other writers wait for no more.
const STEP: u32 = 5_000;
/// Batches that are looked at in one step: each has up to 128 KiB.
const BATCHES: u32 = 64;

/// Brings everything in the store under the first key of the list, once.
pub(crate) fn keep_renewed(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let mut backoff = Backoff::default();
        while let Err(error) = renew(&app).await {
            if error.code != ErrorCode::Unavailable {
                tracing::error!(
                    cause = error.source.as_deref().map(ToString::to_string),
                    "the store is not sealed anew: keep every key in `store_keys_file`"
                );
                return;
            }
            tracing::warn!(%error, "sealing the store anew is tried again");
            tokio::time::sleep(backoff.pause(&mut os_rng())).await;
        }
    }
    .boxed()
}

async fn renew(app: &App) -> Result<()> {
    if !app.store.begin_renewal().await? {
        return Ok(());
    }
    let (mut after, mut rows) = (0, 0);
    while let Some(step) = app.store.renew_seals(after, STEP).await? {
        (after, rows) = (step.last, rows + step.rows);
    }
    let mut entries = 0;
    while let Some(last) = app.store.renew_access(entries, STEP).await? {
        entries = last;
    }
    let mut batches = 0;
    while let Some(last) = app.store.renew_batches(batches, BATCHES).await? {
        batches = last;
    }
    app.store.finish_renewal().await?;
    tracing::info!(
        rows,
        "everything in the store is sealed under the first key of `store_keys_file`; older keys \
         are needed for older backups alone"
    );
    Ok(())
}
