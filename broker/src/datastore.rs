//! The ledger: every read and write of the broker's state is a named transaction (style rule 4).
//!
//! [`Tx`] is what a use case can do inside one; an engine implements it. SQL stands in the engine's
//! folder only, so that a second engine does not touch `app/`.

mod follow_ups;
mod hits;
mod log;
mod model;
mod plain;
mod postgres;
mod sqlite;
#[cfg(test)]
mod suite;
mod wakeups;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use scoped_futures::{ScopedBoxFuture, ScopedFutureExt as _};
use sotto_common::error::{Error, Result};
use sotto_common::followup::FollowUpState;
use sotto_common::hit::{HitDecision, HitState};
use sotto_common::ids::{CommunityId, Epoch, NodeId, PublicationId, ReplicaId, SessionId};
use sotto_common::membership::EpochState;
use sotto_common::publication::{FilterLabels, PublicationState};
use sotto_common::selector::Policy;
use sotto_common::service::at_rest::ColumnCipher;
use sotto_common::service::sqlite::Sqlite;
use sotto_common::time::Timestamp;
use sqlx::postgres::PgConnectOptions;

use crate::config::{Config, Ledger};
use postgres::Postgres;

pub(crate) use follow_ups::{AttachmentTx, FollowUpTx};
pub(crate) use hits::HitTx;
pub(crate) use log::{CheckpointRecord, EntryFilter, LogTx, LoggedRecord, NewEntry};
pub(crate) use model::{
    Act, AttachmentChunk, AttachmentRecord, BatchRecord, BatchStanding, ChunkRecord, EpochRecord,
    EpochTimes, FeedbackRecord, FollowUpEvent, FollowUpEventRecord, FollowUpFilter, FollowUpRange,
    FollowUpRecord, GuardKey, HitEventRecord, HitFilter, HitRecord, HitStatistic, LabelledHit,
    Limits, MemberRecord, NodeRecord, Presence, PresenceCount, PublicationRecord, ReplicaRecord,
    SessionRecord, StackKey, StepRecord,
};
pub(crate) use plain::PlainRow;
pub(crate) use wakeups::{Signal, Wakeups};

/// Everything that one transaction can do, whatever the engine.
pub(crate) trait Tx:
    MembershipTx
    + PublicationTx
    + ProbeTx
    + HitTx
    + FollowUpTx
    + AttachmentTx
    + LogTx
    + ReplicaTx
    + AtRestTx
{
}
impl<
    T: MembershipTx
        + PublicationTx
        + ProbeTx
        + HitTx
        + FollowUpTx
        + AttachmentTx
        + LogTx
        + ReplicaTx
        + AtRestTx,
> Tx for T
{
}

/// Communities, nodes, limits, epochs (protocol §8).
#[async_trait]
pub(crate) trait MembershipTx: Send {
    /// Adds a community; false if its name is taken.
    async fn put_community(
        &mut self,
        name: &CommunityId,
        profile: &[u8],
        at: Timestamp,
    ) -> Result<bool>;
    /// The names of all communities.
    async fn get_communities(&mut self) -> Result<Vec<CommunityId>>;
    async fn update_profile(&mut self, name: &CommunityId, profile: &[u8]) -> Result<()>;
    /// The proposed profile, if the community exists.
    async fn get_profile(&mut self, name: &CommunityId) -> Result<Option<Vec<u8>>>;
    async fn put_custodians(&mut self, name: &CommunityId, nodes: &[NodeId]) -> Result<()>;
    async fn get_custodians(&mut self, name: &CommunityId) -> Result<Vec<NodeId>>;

    /// Enrols a node, or lifts its suspension and forgets its signing key.
    async fn put_node(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        at: Timestamp,
    ) -> Result<()>;
    async fn get_node(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
    ) -> Result<Option<NodeRecord>>;
    async fn get_nodes(&mut self, community: &CommunityId) -> Result<Vec<NodeRecord>>;
    async fn update_suspension(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        reason: &str,
    ) -> Result<()>;
    async fn update_statement(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        statement: &[u8],
        signing_key: &[u8; 32],
    ) -> Result<()>;

    async fn put_limits(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        policy: Policy,
        limits: Limits,
    ) -> Result<()>;
    /// The limits as set, or the defaults.
    async fn get_limits(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        policy: Policy,
    ) -> Result<Limits>;

    async fn put_epoch(
        &mut self,
        community: &CommunityId,
        epoch: &EpochRecord,
        members: &[MemberRecord],
    ) -> Result<()>;
    async fn get_epoch(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
    ) -> Result<Option<EpochRecord>>;
    /// Every epoch of a community, latest first.
    async fn get_epochs(&mut self, community: &CommunityId) -> Result<Vec<EpochRecord>>;
    /// Epochs that are not ended though their time, or their overlap with a later one, is over.
    async fn get_overdue_epochs(&mut self, now: Timestamp) -> Result<Vec<(CommunityId, Epoch)>>;
    async fn get_members(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
    ) -> Result<Vec<MemberRecord>>;
    async fn update_confirmation(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
        node: &NodeId,
        confirmation: &[u8],
    ) -> Result<()>;
    async fn update_epoch_state(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
        state: EpochState,
        at: Timestamp,
    ) -> Result<()>;
    /// Records what an operator did, and why.
    async fn put_act(&mut self, act: &Act<'_>) -> Result<()>;
}

/// Publications and their versions (protocol §5, §6).
#[async_trait]
pub(crate) trait PublicationTx: Send {
    async fn put_publication(&mut self, publication: &PublicationRecord) -> Result<()>;
    async fn get_publication(&mut self, id: PublicationId) -> Result<Option<PublicationRecord>>;
    /// The latest publications of a holder in an epoch, latest version first, at most `limit`.
    async fn get_publications(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
        holder: &NodeId,
        policy: Option<Policy>,
        limit: u32,
    ) -> Result<Vec<PublicationRecord>>;
    /// Every publication in a state, across communities.
    async fn get_publications_in(
        &mut self,
        state: PublicationState,
    ) -> Result<Vec<PublicationRecord>>;
    /// The active layers of one stack.
    async fn get_stack(
        &mut self,
        key: &StackKey,
        holder: &NodeId,
    ) -> Result<Vec<PublicationRecord>>;
    async fn count_uploads(&mut self, community: &CommunityId, holder: &NodeId) -> Result<u64>;
    /// The publications that moved in a generation after this one, in that order.
    async fn get_moved_publications(&mut self, after: u64) -> Result<Vec<PublicationRecord>>;
    /// What a holder says with the filter that was activated under a version; nothing if none is known.
    async fn get_labels(
        &mut self,
        key: &StackKey,
        holder: &NodeId,
        version: u64,
    ) -> Result<FilterLabels>;
    /// Writes what [`PublicationRecord::moved`] has changed.
    async fn update_publication(&mut self, publication: &PublicationRecord) -> Result<()>;
    /// Adds a chunk, of a number from 0.
    async fn put_chunk(&mut self, chunk: &ChunkRecord, number: u64) -> Result<()>;
    /// The acknowledged chunks of an upload, in order.
    async fn get_chunks(&mut self, id: PublicationId) -> Result<Vec<ChunkRecord>>;
    /// How many bytes of an upload are acknowledged, in how many chunks.
    async fn get_acknowledged(&mut self, id: PublicationId) -> Result<(u64, u64)>;
    async fn delete_chunks(&mut self, id: PublicationId) -> Result<()>;
    async fn get_version(&mut self, key: &StackKey, holder: &NodeId) -> Result<u64>;
    async fn put_version(&mut self, key: &StackKey, holder: &NodeId, version: u64) -> Result<()>;
    /// The publication that used a salt, by the salt's digest.
    async fn get_salt(
        &mut self,
        community: &CommunityId,
        digest: &[u8; 32],
    ) -> Result<Option<PublicationId>>;
    async fn put_salt(
        &mut self,
        community: &CommunityId,
        digest: &[u8; 32],
        publication: PublicationId,
    ) -> Result<()>;
}

/// Probe sessions, recorded answers, quota (protocol §7).
#[async_trait]
pub(crate) trait ProbeTx: Send {
    async fn put_session(&mut self, session: &SessionRecord) -> Result<()>;
    async fn get_session(&mut self, id: SessionId) -> Result<Option<SessionRecord>>;
    async fn count_open_sessions(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
    ) -> Result<u64>;
    /// The open session that the prober has not used for longest.
    async fn get_longest_unused_session(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
    ) -> Result<Option<SessionId>>;
    /// Closes a session: its commitment and recorded answers are erased. One without a batch is
    /// forgotten: opening costs no quota, and must not fill the disk.
    async fn update_session_closed(&mut self, id: SessionId, at: Timestamp) -> Result<()>;
    /// Open sessions that were last used before `before`.
    async fn get_idle_sessions(&mut self, before: Timestamp) -> Result<Vec<SessionId>>;
    /// Keeps what was answered to a batch of so many refs, which count on the day for its prober, and
    /// for its session, whose use is noted.
    async fn put_batch(&mut self, batch: &BatchRecord, refs: u64, at: Timestamp) -> Result<()>;
    /// What decides on a batch of a session on a day; `None` if there is no such session.
    async fn get_batch_standing(
        &mut self,
        session: SessionId,
        number: u32,
        day: i64,
    ) -> Result<Option<BatchStanding>>;
    async fn get_last_batch(&mut self, session: SessionId) -> Result<Option<u32>>;
    async fn get_quota_use(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        policy: Policy,
        day: i64,
    ) -> Result<u64>;
    /// Forgets the quota use of days before `day`.
    async fn delete_quota_use(&mut self, day: i64) -> Result<()>;
}

/// The brokers on this ledger. Leases run by the clock of the ledger, which all of them share.
#[async_trait]
pub(crate) trait ReplicaTx: Send {
    /// Adds a broker that matches with the filters of a generation.
    async fn put_replica(&mut self, id: ReplicaId, generation: u64, lease: Duration) -> Result<()>;
    /// Renews a broker's lease, and says what it matches with now; false once it was removed.
    async fn update_lease(
        &mut self,
        id: ReplicaId,
        generation: u64,
        lease: Duration,
    ) -> Result<bool>;
    /// Every broker. A lease that ends later than `lease` from now was not given by this clock, and
    /// does not run.
    async fn get_replicas(&mut self, lease: Duration) -> Result<Vec<ReplicaRecord>>;
    /// Removes a broker, and its leases on jobs: nothing that it does can be committed any more.
    async fn delete_replica(&mut self, id: ReplicaId) -> Result<()>;
    /// The generation of the active filters.
    async fn get_generation(&mut self) -> Result<u64>;
    /// Begins the next generation.
    async fn update_generation(&mut self) -> Result<u64>;
    /// Takes or renews the lease on a job; false while another broker has it.
    async fn update_job(
        &mut self,
        name: &'static str,
        replica: ReplicaId,
        lease: Duration,
    ) -> Result<bool>;
}

/// Sealing anew what is sealed at rest, under the first key of the list.
#[async_trait]
pub(crate) trait AtRestTx: Send {
    /// Of at most `limit` object keys; returns how many were not under that key.
    async fn update_object_seals(&mut self, limit: u32) -> Result<u64>;
    /// Of the object keys of at most `limit` chunks of attachments; returns how many were not.
    async fn update_attachment_seals(&mut self, limit: u32) -> Result<u64>;
    /// Of the case references of at most `limit` sessions; returns how many were not.
    async fn update_case_ref_seals(&mut self, limit: u32) -> Result<u64>;
    /// Of the openings at the next `limit` places of a log that were not looked at under this key; returns
    /// how many were not, `None` once there are no such places.
    async fn update_opening_seals(&mut self, limit: u32) -> Result<Option<u64>>;
}

/// The ledger.
#[derive(Clone, Debug)]
pub(crate) struct Datastore {
    engine: Engine,
    cipher: ColumnCipher,
    wakeups: Wakeups,
    replica: Arc<ArcSwapOption<ReplicaId>>,
}

#[derive(Clone, Debug)]
enum Engine {
    /// A file beside the filters.
    Sqlite(Sqlite),
    /// A database server.
    Postgres(Postgres),
}

impl Datastore {
    /// Opens the ledger that the configuration names and brings its schema up to date.
    ///
    /// # Errors
    /// If it cannot be opened or is of a newer version.
    pub(crate) async fn open(config: &Config) -> Result<Self> {
        let cipher = match &config.ledger_keys_file {
            Some(file) => ColumnCipher::load(file).map_err(Error::internal)?,
            None => ColumnCipher::off(),
        };
        match &config.ledger {
            Ledger::Sqlite => Self::open_file(&config.data_dir.join("ledger.db"), cipher).await,
            Ledger::Postgres(url) => {
                let password = config.ledger_password_file.as_ref();
                let options = url.options(password).map_err(Error::internal)?;
                Self::open_server(options, cipher).await
            }
        }
    }

    pub(crate) async fn open_file(path: &Path, cipher: ColumnCipher) -> Result<Self> {
        let sqlite = Sqlite::open(path, &sqlite::MIGRATIONS).await?;
        Ok(Self {
            engine: Engine::Sqlite(sqlite),
            cipher,
            wakeups: Wakeups::default(),
            replica: Arc::default(),
        })
    }

    async fn open_server(options: PgConnectOptions, cipher: ColumnCipher) -> Result<Self> {
        let postgres = Postgres::open(options).await?;
        let wakeups = postgres.wakeups();
        Ok(Self {
            engine: Engine::Postgres(postgres),
            cipher,
            wakeups,
            replica: Arc::default(),
        })
    }

    /// Runs `work` in one transaction: all of it or nothing. It may run more than once.
    ///
    /// # Errors
    /// What `work` returns, or `UNAVAILABLE`. Nothing is stored then, but for one case: when
    /// the database does not say within a minute whether it took place.
    pub(crate) async fn run_tx<'env, T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        T: Send + 'env,
        F: for<'t> Fn(&'t mut (dyn Tx + 't)) -> ScopedBoxFuture<'env, 't, Result<T>> + Send + Sync,
    {
        let replica = self.replica.load().as_deref().copied();
        self.run_tx_as(replica, name, work).await
    }

    /// As [`Self::run_tx`], as another broker than this one is so far: to join, or to leave.
    pub(crate) async fn run_tx_as<'env, T, F>(
        &self,
        replica: Option<ReplicaId>,
        name: &'static str,
        work: F,
    ) -> Result<T>
    where
        T: Send + 'env,
        F: for<'t> Fn(&'t mut (dyn Tx + 't)) -> ScopedBoxFuture<'env, 't, Result<T>> + Send + Sync,
    {
        let (work, cipher) = (&work, &self.cipher);
        match &self.engine {
            Engine::Sqlite(sqlite) => {
                sqlite
                    .run_tx(name, |connection| {
                        async move { work(&mut sqlite::EngineTx { connection, cipher }).await }
                            .scope_boxed()
                    })
                    .await
            }
            Engine::Postgres(postgres) => {
                postgres
                    .run_tx(name, replica, |connection| {
                        async move { work(&mut postgres::EngineTx { connection, cipher }).await }
                            .scope_boxed()
                    })
                    .await
            }
        }
    }

    /// Runs `work`, which only reads, on one consistent state of the ledger, beside the writer.
    ///
    /// # Errors
    /// What `work` returns, or `UNAVAILABLE`.
    pub(crate) async fn read_tx<'env, T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        T: Send + 'env,
        F: for<'t> Fn(&'t mut (dyn Tx + 't)) -> ScopedBoxFuture<'env, 't, Result<T>> + Send + Sync,
    {
        let (work, cipher) = (&work, &self.cipher);
        match &self.engine {
            Engine::Sqlite(sqlite) => {
                sqlite
                    .read_tx(name, |connection| {
                        async move { work(&mut sqlite::EngineTx { connection, cipher }).await }
                            .scope_boxed()
                    })
                    .await
            }
            Engine::Postgres(postgres) => {
                postgres
                    .read_tx(name, |connection| {
                        async move { work(&mut postgres::EngineTx { connection, cipher }).await }
                            .scope_boxed()
                    })
                    .await
            }
        }
    }

    /// Whether other brokers may be on this ledger: a file has one broker.
    pub(crate) const fn is_shared(&self) -> bool {
        matches!(self.engine, Engine::Postgres(_))
    }

    /// As which of the brokers on a shared ledger this one commits from now on. Once that one was
    /// removed, everything is refused as `UNAVAILABLE`.
    pub(crate) fn commit_as(&self, replica: ReplicaId) {
        self.replica.store(Some(Arc::new(replica)));
    }

    /// What other brokers on this ledger, or other calls at this one, have committed.
    pub(crate) const fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    /// Closes the ledger.
    pub(crate) async fn close(&self) {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.close().await,
            Engine::Postgres(postgres) => postgres.close().await,
        }
    }
}

/// Text of a column that holds a state or a decision.
pub(crate) trait StateColumn: Sized {
    /// From the column's text.
    fn from_column(text: &str) -> Result<Self>;
}

macro_rules! state_columns {
    ($($state:ident),*) => {$(
        impl StateColumn for $state {
            fn from_column(text: &str) -> Result<Self> {
                Self::parse(text).ok_or_else(|| model::corrupt("state"))
            }
        }
    )*};
}
state_columns!(
    HitState,
    HitDecision,
    PublicationState,
    EpochState,
    FollowUpState
);
