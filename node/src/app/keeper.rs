//! What is done about epochs by itself (protocol §8): the node takes a new one if its manifest
//! passes every check, and the custodian that is told to opens the next one in time.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::Epoch;
use sotto_proto::v1;

use super::App;
use crate::broker::is_passing;

/// The epochs are looked at this often.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Days that an epoch lasts which is opened by itself.
const DAYS: u32 = 30;

/// Follows the epochs for as long as the node runs.
pub(crate) fn keep_epochs(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let (mut online, mut catalogue) = (app.online.subscribe(), app.catalogue.subscribe());
        loop {
            online.mark_unchanged();
            let seen = catalogue.borrow().latest_epoch();
            if let Err(error) = app.look_at_epochs().await {
                tracing::debug!(%error, "the epochs are not known at the moment");
            }
            let wake = app.clock.now().plus(LOOK_EVERY);
            tokio::select! {
                () = app.clock.wait_until(wake) => {}
                _ = online.changed() => {}
                // Somebody has published under an epoch that was not heard of.
                _ = catalogue.wait_for(|now| now.latest_epoch() > seen) => {}
                () = app.epochs_moved.notified() => {}
            }
        }
    }
    .boxed()
}

impl App {
    async fn look_at_epochs(&self) -> Result<()> {
        let listed = self.broker_epochs().await?;
        let mut problem = None;
        if self.settings.epochs.fetch
            && let Some(new) = self.new_epoch(&listed)
        {
            problem = self
                .attempt("taken", new, self.fetch_epoch(Some(new)))
                .await;
        }
        if self.opens_now(&listed) {
            let next = listed
                .first()
                .map_or(1, |last| last.epoch.saturating_add(1));
            let next = Epoch::new(next).map_err(Error::internal)?;
            let opened = self.attempt("opened", next, self.start_epoch(DAYS)).await;
            problem = opened.or(problem);
        }
        *self
            .epoch_problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = problem;
        let active = self.active_epoch().await;
        let active = match active {
            Ok(keys) => Some(keys.manifest.epoch),
            Err(error) if error.code == ErrorCode::EpochNotActive => None,
            Err(error) => return Err(error),
        };
        self.epoch.send_if_modified(|last| {
            let changed = *last != active;
            *last = active;
            changed
        });
        Ok(())
    }

    /// Tries something about an epoch; a problem is logged when it is new, and kept for the status.
    async fn attempt<T>(
        &self,
        what: &str,
        epoch: Epoch,
        work: impl Future<Output = Result<T>>,
    ) -> Option<String> {
        match work.await {
            Ok(_) => {
                tracing::info!(%epoch, "epoch {what} by itself");
                None
            }
            Err(error) if is_passing(&error) => None,
            Err(error) => {
                let problem = format!("epoch {epoch} was not {what}: {error}");
                if self.epoch_problem().as_deref() != Some(&problem) {
                    tracing::warn!("{problem}");
                }
                Some(problem)
            }
        }
    }

    /// Why an epoch was not taken or opened by itself.
    pub(crate) fn epoch_problem(&self) -> Option<String> {
        self.epoch_problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The latest epoch, if this node is a member of it and has not confirmed it yet.
    fn new_epoch(&self, listed: &[v1::EpochSummary]) -> Option<Epoch> {
        let latest = listed.first()?;
        let own = self.node.as_str();
        let is_member = latest.members.iter().any(|member| member == own);
        let confirmed = latest.confirmed.iter().any(|member| member == own);
        let ended = latest.state() == v1::EpochState::Ended;
        if ended || !is_member || confirmed {
            return None;
        }
        Epoch::new(latest.epoch).ok()
    }

    /// Whether this custodian is to open the next epoch: the last one ends soon.
    fn opens_now(&self, listed: &[v1::EpochSummary]) -> bool {
        let Some(before) = self.settings.epochs.open_before_end else {
            return false;
        };
        if !self.custodians.contains(&self.node) {
            return false;
        }
        let soon = self.clock.now().plus(before.0);
        let ends = |epoch: &v1::EpochSummary| {
            sotto_proto::convert::timestamp("not_after", epoch.not_after).ok()
        };
        listed
            .first()
            .and_then(ends)
            .is_some_and(|not_after| not_after <= soon)
    }
}
