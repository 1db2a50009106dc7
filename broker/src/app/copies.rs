//! Comparing the copies of an earlier run with what was published, while calls are answered.
//!
//! Of a copy that the last run did not close in good order nothing is known: its layer is awaited until
//! it was compared, on all cores. One that was closed is used meanwhile, and compared after the others, one
//! at a time. Copies of this run were compared when they were made.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::publication::PublicationState;

use super::Broker;
use super::publication::length_of;
use super::replicas::FETCHES;
use crate::cache::Trust;
use crate::datastore::PublicationRecord;
use crate::matcher::MappedFilter;

/// How often the progress is told: so many parts of the whole.
const PARTS: usize = 10;

/// How far a pass has come.
struct Progress {
    done: AtomicUsize,
    all: usize,
}

impl Progress {
    fn note(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let part = |done: usize| done * PARTS / self.all.max(1);
        if part(done) > part(done - 1) {
            tracing::info!("{done} of {} filters verified", self.all);
        }
    }
}

impl Broker {
    /// One pass over the copies of active filters that this process has not yet compared with their
    /// digests. One that was altered is out of use at once, and fetched again once all are compared.
    ///
    /// # Errors
    /// If the ledger cannot be read, or a filter is neither here nor to be had; the others are done.
    /// Another pass tries again.
    pub(crate) async fn verify_copies(&self) -> Result<()> {
        let (_, mut records) = self.moved(None).await?;
        records.retain(|record| {
            self.trust_in(record) < Trust::Verified || self.matcher.awaits(record.id)
        });
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
        let unknown = each(&unknown, cores, &progress, |r| self.compare(r).boxed()).await;
        self.load_filters();
        let closed = each(&closed, 1, &progress, |r| self.compare(r).boxed()).await;
        // None of these holds up one that is here.
        let lost: Vec<_> = [unknown, closed].concat();
        let fetched = each(&lost, FETCHES, &progress, |r| self.fetch(r).boxed()).await;
        self.load_filters();
        match fetched.len() {
            0 => Ok(()),
            failed => Err(Error::unavailable(format!("{failed} filters are awaited"))),
        }
    }

    fn trust_in(&self, record: &PublicationRecord) -> Trust {
        self.cache.trust_in(record.id, &record.digest)
    }

    /// Compares a copy. Says whether that is done; if not, nothing is tested with it any more, and the
    /// filter is to be fetched.
    async fn compare(&self, record: &PublicationRecord) -> bool {
        let was_in_use = self.trust_in(record) == Trust::Closed;
        match self.compared_copy(record).await {
            Ok(Some(bits)) => return self.take_bits(record, bits).await.is_ok(),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(publication = %record.id, %error, "a copy of a filter cannot be compared");
            }
        }
        self.take_out_of_use(record, was_in_use);
        false
    }

    fn take_out_of_use(&self, record: &PublicationRecord, was_in_use: bool) {
        self.matcher.withhold(record.id);
        if was_in_use {
            tracing::error!(publication = %record.id, holder = %record.holder,
                policy = %record.key.policy, "a filter is not as the last run closed it, or cannot be read: \
                what was answered about this holder since the start may be wrong");
        }
    }

    /// The copy, if it is right. What is tested meanwhile is the file that the last run closed: another
    /// one in its place says nothing about that.
    async fn compared_copy(&self, record: &PublicationRecord) -> Result<Option<MappedFilter>> {
        let length = length_of(record)?;
        let (id, digest) = (record.id, &record.digest);
        let was_in_use = self.trust_in(record) == Trust::Closed;
        self.cache.as_it_is(id, length, digest).await?;
        if was_in_use && self.trust_in(record) != Trust::Closed {
            self.take_out_of_use(record, true);
        }
        self.cache.compared(id, length, digest).await
    }

    /// Fetches a filter of which there is no good copy. Says whether that is done.
    async fn fetch(&self, record: &PublicationRecord) -> bool {
        let fetched = async {
            let bits = self.bits(record).await?;
            self.take_bits(record, bits).await
        };
        let Err(error) = fetched.await else {
            return true;
        };
        // What was not found may have ended while it was looked for.
        if matches!(self.is_active(record).await, Ok(false)) {
            return true;
        }
        tracing::error!(publication = %record.id, holder = %record.holder,
            policy = %record.key.policy, %error, "a filter cannot be used: probes wait for it");
        false
    }

    async fn take_bits(&self, record: &PublicationRecord, bits: MappedFilter) -> Result<()> {
        // Another broker's that this one has not caught up with is not there yet; its copy is needed.
        if !self.matcher.give(record.id, bits) && !self.is_active(record).await? {
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

/// Tries something with each, so many at once; those with which it is not done.
async fn each<'a>(
    records: &'a [PublicationRecord],
    at_once: usize,
    progress: &Progress,
    attempt: impl Fn(&'a PublicationRecord) -> BoxFuture<'a, bool>,
) -> Vec<PublicationRecord> {
    let attempts = records.iter().map(|record| {
        let attempt = attempt(record);
        async move { (record, attempt.await) }.boxed()
    });
    let attempts: Vec<_> = attempts.collect();
    let attempted = stream::iter(attempts).buffer_unordered(at_once);
    let undone = attempted.filter_map(async |(record, is_done)| {
        if is_done {
            progress.note();
        }
        (!is_done).then(|| record.clone())
    });
    undone.collect().await
}
