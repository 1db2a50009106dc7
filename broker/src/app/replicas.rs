//! This broker among those on its ledger.
//!
//! The active filters have a *generation*, which every transaction that moves a publication
//! increments. A broker *catches up* with it: it reads what has moved, maps and unmaps, and says so
//! with its lease. A call that began a generation is answered once every broker has caught up with
//! it. One whose lease has run out is removed from the ledger instead: from then on the ledger
//! takes nothing from it before it has caught up and joined again. So leases decide how long others
//! wait, and never what is right.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _};
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::ReplicaId;
use sotto_common::publication::PublicationState;
use sotto_common::random::os_rng;
use sotto_common::service::files::{self, Readers};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::Broker;
use crate::datastore::{PublicationRecord, ReplicaRecord, Signal};
use crate::matcher::Change;

/// How long a broker that is silent keeps the others waiting.
const LEASE: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// Renewals by a broker that does not get at a filter: then it lets the others go on without it.
const RENEWALS_WHILE_FAILING: u32 = 5;
/// How long a call waits for the other brokers before its caller is told to ask again.
/// Below the deadline of the callers, above the lease.
const PATIENCE: Duration = Duration::from_secs(20);
/// By how much the clocks of a database of several machines may differ.
const CLOCK_SLACK: Duration = Duration::from_secs(5);
/// Filters that are fetched at once.
pub(super) const FETCHES: usize = 4;

/// Where this broker stands.
pub(super) struct Standing {
    /// The generation that the matcher has, none before the start; held while catching up.
    caught_up: Mutex<Option<u64>>,
    /// As `caught_up`, to be read at any time.
    generation: AtomicU64,
    /// The latest generation that every broker is known to have caught up with.
    everywhere: AtomicU64,
    /// Whether the last try to catch up failed.
    failing: AtomicBool,
    /// The generation that this broker's lease names; held while renewing or joining.
    reported: Mutex<u64>,
    replica: ArcSwapOption<ReplicaId>,
    /// Names the replica that the last run in this data folder was.
    file: PathBuf,
}

impl Standing {
    pub(super) fn new(file: PathBuf) -> Self {
        Self {
            caught_up: Mutex::default(),
            generation: AtomicU64::new(0),
            everywhere: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            reported: Mutex::default(),
            replica: ArcSwapOption::empty(),
            file,
        }
    }

    /// As whom this broker is on a shared ledger.
    pub(super) fn replica(&self) -> Option<ReplicaId> {
        self.replica.load().as_deref().copied()
    }

    /// The replica that the last run in this data folder was: that process is gone.
    fn predecessor(&self) -> Option<ReplicaId> {
        let text = std::fs::read_to_string(&self.file).ok()?;
        text.trim().parse().ok()
    }

    fn note(&self, id: ReplicaId) -> Result<()> {
        let line = format!("{id}\n");
        files::write(&self.file, line.as_bytes(), Readers::Owner, &mut os_rng())
            .map_err(Error::unavailable)
    }
}

impl Broker {
    /// Catches up with the ledger, at the start without waiting for digests, and takes a place among
    /// the brokers on it: the first, or that of the `removed` one that this broker was, if it has not
    /// taken another meanwhile.
    ///
    /// # Errors
    /// If the ledger or the object store cannot be read, or a filter is not what was published.
    pub(super) async fn join(&self, removed: Option<ReplicaId>) -> Result<()> {
        // What takes long comes before the others have to wait for it.
        let generation = self.catch_up().await?;
        if !self.store.is_shared() {
            return Ok(());
        }
        let mut reported = self.standing.reported.lock().await;
        if self.standing.replica() != removed {
            return Ok(());
        }
        let last = removed.or(self.standing.predecessor());
        let id = ReplicaId::generate(self.now(), &mut os_rng());
        self.store
            .run_tx_as(Some(id), "join", |tx| {
                async move {
                    if let Some(last) = last {
                        tx.delete_replica(last).await?;
                    }
                    tx.put_replica(id, generation, LEASE).await
                }
                .scope_boxed()
            })
            .await?;
        // From the commit on others wait for this broker. What moved before it: now. No batch that
        // was matched before that can still be committed, as a broker that had been removed.
        if let Err(error) = self.catch_up().await {
            self.remove(id).await?;
            return Err(error);
        }
        *reported = generation;
        self.store.commit_as(id);
        self.standing.replica.store(Some(Arc::new(id)));
        if let Err(error) = self.standing.note(id) {
            tracing::warn!(%error, "after a kill, others wait for this broker's lease to run out");
        }
        tracing::info!(replica = %id, "joined the brokers on this ledger");
        Ok(())
    }

    /// Removes from the cache what an earlier run left and nothing needs. Before [`Self::join`].
    ///
    /// # Errors
    /// If the ledger or the cache cannot be read.
    pub(super) async fn clear_cache(&self) -> Result<()> {
        let (_, active) = self.moved(None).await?;
        let keep = active.iter().map(|record| (record.id, record.digest));
        let removed = self.cache.sweep(&keep.collect()).map_err(Error::internal)?;
        tracing::info!(active = active.len(), removed, "cache of filters cleared");
        Ok(())
    }

    /// Checks that no other broker is on this ledger; the last run in this data folder is none.
    ///
    /// # Errors
    /// What to do, if there is one.
    pub(super) async fn check_alone(&self) -> Result<()> {
        let last = self.standing.predecessor();
        let others = self.replicas().await?;
        if others
            .iter()
            .any(|other| other.live && Some(other.id) != last)
        {
            let text = "another broker is on this ledger, and the filters are in a folder of this one \
                        alone: set `objects` of all of them to one folder or bucket";
            return Err(Error::internal(text));
        }
        Ok(())
    }

    /// Gives the place up, so that the others need not wait for this broker.
    ///
    /// # Errors
    /// If the ledger cannot be written; the lease then runs out.
    pub(crate) async fn leave(&self) -> Result<()> {
        // What still runs must not join again.
        let Some(id) = self.standing.replica.swap(None) else {
            return Ok(());
        };
        self.remove(*id).await
    }

    /// Removes what this broker was, or was about to be.
    async fn remove(&self, id: ReplicaId) -> Result<()> {
        self.store
            .run_tx_as(None, "leave", |tx| {
                async move { tx.delete_replica(id).await }.scope_boxed()
            })
            .await?;
        self.store.wakeups().announce(Signal::Filters);
        Ok(())
    }

    /// Catches up whenever there is something to catch up with, and keeps the lease, until
    /// `shutdown`.
    pub(crate) async fn keep_up(&self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.follow() => {}
            () = self.keep_lease() => {}
        }
    }

    async fn follow(&self) {
        let mut wakeups = self.filter_signal();
        loop {
            wakeups.mark_unchanged();
            let followed = async {
                self.catch_up().await?;
                self.report().await
            };
            let outcome = followed.await;
            self.standing
                .failing
                .store(outcome.is_err(), Ordering::Release);
            if let Err(error) = outcome {
                tracing::warn!(%error, "not caught up with the filters of the ledger; again");
            }
            // Looked at all the same: what failed is tried again, on a file of one broker too.
            let _ = tokio::time::timeout(RENEW_EVERY, wakeups.changed()).await;
        }
    }

    async fn keep_lease(&self) {
        let mut ticks = tokio::time::interval(RENEW_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = 0;
        loop {
            ticks.tick().await;
            failing = if self.standing.failing.load(Ordering::Acquire) {
                failing + 1
            } else {
                0
            };
            if failing > RENEWALS_WHILE_FAILING {
                tracing::error!(
                    "this broker does not get at a filter: the others go on without it"
                );
            } else if let Err(error) = self.renew().await {
                tracing::warn!(%error, "the lease was not renewed; again");
            }
        }
    }

    /// Whether this broker is to do a job now: it has the lease, or takes it for so long.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    pub(crate) async fn has_job(&self, name: &'static str, lease: Duration) -> Result<bool> {
        let Some(replica) = self.standing.replica() else {
            return Ok(true);
        };
        self.store
            .run_tx("take_job", |tx| {
                async move { tx.update_job(name, replica, lease).await }.scope_boxed()
            })
            .await
    }

    /// Renews the lease, or joins again if this broker was removed.
    async fn renew(&self) -> Result<()> {
        let mut reported = self.standing.reported.lock().await;
        let Some(id) = self.standing.replica() else {
            return Ok(());
        };
        let generation = self.standing.generation.load(Ordering::Acquire);
        let renewed = self
            .store
            .run_tx("renew_lease", |tx| {
                async move { tx.update_lease(id, generation, LEASE).await }.scope_boxed()
            })
            .await;
        match renewed {
            Ok(true) => {
                if *reported != generation {
                    *reported = generation;
                    self.store.wakeups().announce(Signal::Filters);
                }
                return Ok(());
            }
            Ok(false) => {}
            // To a removed broker the ledger is as good as away.
            Err(error) => {
                if self
                    .replicas()
                    .await?
                    .iter()
                    .any(|replica| replica.id == id)
                {
                    return Err(error);
                }
            }
        }
        drop(reported);
        tracing::warn!("the other brokers have removed this one");
        self.join(Some(id)).await
    }

    /// Says which generation this broker has caught up with, if it has not yet.
    async fn report(&self) -> Result<()> {
        let generation = self.standing.generation.load(Ordering::Acquire);
        if *self.standing.reported.lock().await == generation {
            return Ok(());
        }
        self.renew().await
    }

    async fn replicas(&self) -> Result<Vec<ReplicaRecord>> {
        self.store
            .read_tx("get_replicas", |tx| {
                async move { tx.get_replicas(LEASE + CLOCK_SLACK).await }.scope_boxed()
            })
            .await
    }

    /// Returns once every broker on the ledger matches with the filters of `generation`, or can
    /// commit nothing.
    ///
    /// # Errors
    /// `UNAVAILABLE` if that takes too long: the call has taken place, and is to be made again.
    pub(super) async fn until_all_match(&self, generation: u64) -> Result<()> {
        let waited = async {
            self.catch_up().await.map_err(not_everywhere)?;
            if !self.store.is_shared() {
                return Ok(());
            }
            self.store.wakeups().announce(Signal::Filters);
            self.report().await?;
            self.until_none_is_behind(generation).await
        };
        tokio::time::timeout(PATIENCE, waited)
            .await
            .map_err(not_everywhere)?
    }

    /// As [`Self::until_all_match`], for a generation that this broker has seen and did not begin:
    /// whoever did has told the others.
    ///
    /// # Errors
    /// `UNAVAILABLE` if that takes too long, or the ledger cannot be read.
    pub(super) async fn until_seen_everywhere(&self, generation: u64) -> Result<()> {
        if !self.store.is_shared() || self.standing.everywhere.load(Ordering::Acquire) >= generation
        {
            return Ok(());
        }
        tokio::time::timeout(PATIENCE, self.until_none_is_behind(generation))
            .await
            .map_err(Error::unavailable)?
    }

    async fn until_none_is_behind(&self, generation: u64) -> Result<()> {
        let mut wakeups = self.filter_signal();
        loop {
            wakeups.mark_unchanged();
            let mut behind = self.replicas().await?;
            behind.retain(|replica| replica.generation < generation);
            if behind.is_empty() {
                // One that joins later has caught up before it answers anything.
                self.standing
                    .everywhere
                    .fetch_max(generation, Ordering::AcqRel);
                return Ok(());
            }
            if behind.iter().any(|replica| !replica.live) {
                self.remove_dead().await?;
            } else if wakeups.changed().await.is_err() {
                return Err(Error::unavailable("the broker is stopping"));
            }
        }
    }

    /// Changes whenever the filters that are matched with have changed, here or at another broker.
    pub(super) fn filter_signal(&self) -> watch::Receiver<()> {
        self.store.wakeups().listen(Signal::Filters)
    }

    /// Removes the brokers whose lease has run out. This waits for those of their transactions that
    /// are about to be committed.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    pub(crate) async fn remove_dead(&self) -> Result<()> {
        let own = self.standing.replica();
        let removed = self
            .store
            .run_tx("remove_dead", |tx| {
                async move {
                    let mut dead = tx.get_replicas(LEASE + CLOCK_SLACK).await?;
                    // Not itself, late as it may be: the ledger would take nothing of this then.
                    dead.retain(|replica| !replica.live && Some(replica.id) != own);
                    for replica in &dead {
                        tx.delete_replica(replica.id).await?;
                    }
                    Ok(dead)
                }
                .scope_boxed()
            })
            .await?;
        for replica in removed {
            tracing::warn!(replica = %replica.id, "a broker is silent: removed until it joins again");
        }
        Ok(())
    }

    /// Takes over what has moved since the last time; returns the generation that this broker
    /// matches with.
    async fn catch_up(&self) -> Result<u64> {
        let mut caught_up = self.standing.caught_up.lock().await;
        loop {
            let since = *caught_up;
            let (generation, moved) = self.moved(since).await?;
            let at_once = since.is_none();
            match self.take_over(&moved, generation, at_once).await {
                Ok(()) => {
                    *caught_up = Some(generation);
                    self.standing
                        .generation
                        .store(generation, Ordering::Release);
                    return Ok(generation);
                }
                // What was not found may have ended while it was looked for.
                Err(_) if self.moved(since).await?.0 != generation => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What has moved since a generation, or all active publications.
    pub(super) async fn moved(&self, since: Option<u64>) -> Result<(u64, Vec<PublicationRecord>)> {
        self.store
            .read_tx("moved_publications", |tx| {
                async move {
                    let generation = tx.get_generation().await?;
                    let moved = match since {
                        Some(since) if since == generation => vec![],
                        Some(since) => tx.get_moved_publications(since).await?,
                        None => tx.get_publications_in(PublicationState::Active).await?,
                    };
                    Ok((generation, moved))
                }
                .scope_boxed()
            })
            .await
    }

    /// Makes the matcher and the cache what these publications say, in one step. `at_once`, at the
    /// start, without waiting for the digests of copies of an earlier run; they are all there is then,
    /// whatever an attempt before this one had found.
    async fn take_over(
        &self,
        moved: &[PublicationRecord],
        generation: u64,
        at_once: bool,
    ) -> Result<()> {
        if moved.is_empty() && !at_once {
            return Ok(());
        }
        let changes: Vec<_> = moved
            .iter()
            .map(|record| self.change(record, at_once).boxed())
            .collect();
        let changes: Vec<_> = stream::iter(changes).buffered(FETCHES).collect().await;
        // One filter that cannot be had holds up no other, and the end of none.
        let (changes, failed): (Vec<_>, Vec<_>) = changes.into_iter().partition(Result::is_ok);
        let changes = changes.into_iter().flatten().collect();
        let exclusive = self.matching.write().await;
        if at_once {
            self.matcher.begin(changes, generation);
        } else {
            self.matcher.update(changes, generation);
        }
        drop(exclusive);
        self.load_filters();
        // Who tells what can be matched looks again.
        self.store.wakeups().hear(Signal::Filters);
        for record in moved {
            if record.state != PublicationState::Active {
                self.cache.remove(record.id, &record.digest);
                tracing::info!(publication = %record.id, holder = %record.holder, "filter unmapped");
            }
        }
        failed.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    /// What a publication has become, with its filter, fetched if need be.
    async fn change(&self, record: &PublicationRecord, at_once: bool) -> Result<Change> {
        let layer = match record.state {
            PublicationState::Active if at_once => Some(self.layer_at_once(record).await?),
            PublicationState::Active => Some(self.layer(record).await?),
            _ => None,
        };
        Ok(Change {
            key: record.key.clone(),
            holder: record.holder.clone(),
            publication: record.id,
            layer,
        })
    }
}

/// A call that has taken place in the ledger, and not at every broker so far as this one knows.
fn not_everywhere(why: impl std::fmt::Display) -> Error {
    tracing::warn!(%why, "a call is not answered yet: not every broker has caught up");
    let text = "it took place, but a broker has not caught up yet: ask again";
    Error::new(ErrorCode::Unavailable, text).retry_after(Duration::from_secs(1))
}
