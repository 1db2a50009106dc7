//! What was sealed is erased in the community's time after a follow-up is closed; the clear parts
//! stay (workflow.md "Retention").

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sotto_common::error::Result;

use super::super::App;
use crate::follow_up::LocalFollowUp;

/// How often it is looked for what is due.
const EVERY: Duration = Duration::from_mins(10);

/// Erases what is due for as long as the node runs.
pub(crate) fn keep_erasing(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        loop {
            if let Err(error) = app.erase_follow_ups().await {
                tracing::warn!(%error, "closed follow-ups are not erased yet; trying again");
            }
            app.clock.wait_until(app.clock.now().plus(EVERY)).await;
        }
    }
    .boxed()
}

impl App {
    /// Erases what is due now, and files that broke off on their way to this node.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn erase_follow_ups(&self) -> Result<()> {
        let now = self.clock.now();
        self.unfinished.forget_old(now);
        for epoch in self.store.epochs().await? {
            let kept = epoch.manifest.profile.retention.follow_ups;
            let before = now.minus(kept);
            let due = self.store.follow_ups_to_erase(epoch.manifest.epoch, before);
            for id in due.await? {
                self.drop_files(id).await?;
                let erase = |f: &mut LocalFollowUp| {
                    f.erase(now);
                    Ok(())
                };
                self.change(id, &erase).await?;
            }
        }
        Ok(())
    }
}
