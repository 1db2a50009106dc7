//! Comparing the copies of an earlier run with what was published, while calls are answered.
//!
//! Of a copy that the last run did not close in good order nothing is known: its layer is awaited until
//! it was compared, on all cores. One that was closed is used meanwhile, and compared after the others, one
//! at a time. Copies of this run were compared when they were made.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _};
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::Result;
use sotto_common::publication::PublicationState;

use super::Broker;
use super::publication::length_of;
use crate::cache::Trust;
use crate::datastore::PublicationRecord;

/// How often the progress is told: so many parts of the whole.
const PARTS: usize = 10;

/// How far a pass has come.
struct Progress {
    done: AtomicUsize,
    all: usize,
}

impl Progress {
    fn note(&self, outcome: &Result<()>) {
        if outcome.is_err() {
            return;
        }
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let part = |done: usize| done * PARTS / self.all.max(1);
        if part(done) > part(done - 1) {
            tracing::info!("{done} of {} filters verified", self.all);
        }
    }
}

impl Broker {
    /// One pass over the copies of active filters that this process has not yet compared with their
    /// digests. One that was altered is out of use at once and fetched again.
    ///
    /// # Errors
    /// If the ledger cannot be read, or a filter is neither here nor to be had; the others are done.
    /// Another pass tries again.
    pub(crate) async fn verify_copies(&self) -> Result<()> {
        let (_, mut records) = self.moved(None).await?;
        records.retain(|record| self.trust_in(record) < Trust::Verified);
        let known = |record: &PublicationRecord| self.trust_in(record) == Trust::Closed;
        let (closed, unknown): (Vec<_>, Vec<_>) = records.into_iter().partition(known);
        let progress = Progress {
            done: AtomicUsize::new(0),
            all: closed.len() + unknown.len(),
        };
        if progress.all == 0 {
            return Ok(());
        }
        tracing::info!(
            awaited = unknown.len(),
            in_use = closed.len(),
            "filters of the last run are compared with their digests"
        );
        let cores = available_parallelism().map_or(1, usize::from);
        let unknown = self.verify_all(&unknown, cores, &progress).await;
        self.load_filters();
        let closed = self.verify_all(&closed, 1, &progress).await;
        unknown.and(closed)
    }

    fn trust_in(&self, record: &PublicationRecord) -> Trust {
        self.cache.trust_in(record.id, &record.digest)
    }

    /// The first error, once all are done.
    async fn verify_all(
        &self,
        records: &[PublicationRecord],
        at_once: usize,
        progress: &Progress,
    ) -> Result<()> {
        let verified: Vec<_> = records
            .iter()
            .map(move |record| {
                let verified = self.verify(record);
                verified
                    .inspect(move |outcome| progress.note(outcome))
                    .boxed()
            })
            .collect();
        let outcomes: Vec<_> = stream::iter(verified)
            .buffer_unordered(at_once)
            .collect()
            .await;
        outcomes.into_iter().collect()
    }

    async fn verify(&self, record: &PublicationRecord) -> Result<()> {
        let verified = self.verify_active(record).await;
        let Err(error) = verified else {
            return Ok(());
        };
        // What was not found may have ended while it was looked for.
        if self.is_active(record).await? {
            tracing::error!(publication = %record.id, holder = %record.holder,
                policy = %record.key.policy, %error, "a filter cannot be used: probes wait for it");
            return Err(error);
        }
        Ok(())
    }

    async fn verify_active(&self, record: &PublicationRecord) -> Result<()> {
        let was_in_use = self.trust_in(record) == Trust::Closed;
        let length = length_of(record)?;
        let copy = self
            .cache
            .compared(record.id, length, &record.digest)
            .await?;
        let bits = if let Some(bits) = copy {
            bits
        } else {
            self.matcher.withhold(record.id);
            if was_in_use {
                tracing::error!(publication = %record.id, holder = %record.holder,
                    policy = %record.key.policy, "a filter was altered after the last run closed it: \
                    what was answered about this holder since the start may be wrong");
            }
            self.bits(record).await?
        };
        if !self.matcher.give(record.id, bits) {
            // It has ended meanwhile, and its copy may have been fetched since.
            self.cache.remove(record.id, &record.digest);
        }
        Ok(())
    }

    async fn is_active(&self, record: &PublicationRecord) -> Result<bool> {
        let id = record.id;
        let now = self
            .store
            .read_tx("get_publication", |tx| {
                async move { tx.get_publication(id).await }.scope_boxed()
            })
            .await?;
        Ok(now.is_some_and(|now| now.state == PublicationState::Active))
    }

    /// Has filters copied into memory, while they are tested from their files; nobody waits for this.
    pub(super) fn load_filters(&self) {
        let matcher = Arc::clone(&self.matcher);
        drop(tokio::task::spawn_blocking(move || matcher.load()));
    }
}
