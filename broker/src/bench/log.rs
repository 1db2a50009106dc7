//! The audit log on a ledger of its own: entries beside plain rows, and proofs from stored tiles.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use scoped_futures::ScopedFutureExt as _;
use sotto_common::dsse::SigningKey;
use sotto_common::error::{Error, Result};
use sotto_common::grounds::{Grounds, LegalBasis, Purpose};
use sotto_common::ids::{CommunityId, EntryId, SessionId, SpiffeId};
use sotto_common::log::action::Action;
use sotto_common::log::edge::RightEdge;
use sotto_common::log::entry::{Batch, Entry};
use sotto_common::log::leaf::{Leaf, Opening, OpeningNonce};
use sotto_common::log::merkle::{MerkleHash, TreeHead};
use sotto_common::log::origin::LogName;
use sotto_common::log::proof::ProofPlan;
use sotto_common::log::tile::Tile;
use sotto_common::random::os_rng;
use sotto_common::selector::Policy;
use sotto_common::time::{Clock as _, SystemClock};
use sotto_proto::convert::log::write_entry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::{Broker, Journal, Log, Parts, journal, prove, tile_set};
use crate::cache::Cache;
use crate::config::{Ledger, ObjectsUrl};
use crate::datastore::{Datastore, PlainRow};
use crate::jobs;
use crate::matcher::Matcher;
use crate::objects::Objects;

/// A ledger that entries are put into, with the broker's jobs beside them: the one that gives them
/// their places and signs, and all others.
pub struct Logging {
    store: Datastore,
    broker: Arc<Broker>,
    /// What every entry says, but for its id and time.
    entry: Entry,
    row: PlainRow,
    /// Entries so far.
    put: AtomicU64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Logging")
    }
}

impl Logging {
    /// Opens a ledger that is empty, with a broker that has this folder.
    ///
    /// # Errors
    /// If ledger or folder cannot be used.
    pub async fn open(ledger: &Ledger, dir: &Path) -> Result<Self> {
        let store = Datastore::open_clear(ledger, dir).await?;
        store.make_plain_rows().await?;
        let own = identity("spiffe://sotto.test/broker/main")?;
        let name: LogName = "log.test".parse().map_err(Error::internal)?;
        let signing = SigningKey::generate(&mut os_rng());
        let parts = Parts {
            log: Log::new(name, own.trust_domain(), signing),
            store: store.clone(),
            objects: Objects::open(&ObjectsUrl::Local, dir, None).map_err(Error::internal)?,
            cache: Cache::open(dir).map_err(Error::internal)?,
            matcher: Matcher::default(),
            replica_file: dir.join("replica"),
            journal: Journal::new(own),
            clock: Arc::new(SystemClock),
        };
        let broker = Arc::new(Broker::start(parts, false).await?);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(jobs::run(Arc::clone(&broker), stop.clone()));
        let (follower, end) = (Arc::clone(&broker), stop.clone());
        tasks.spawn(async move { follower.keep_up(end).await });
        tasks.close();
        let entry = entry_of_a_batch()?;
        Ok(Self {
            store,
            broker,
            row: row_of(&entry),
            entry,
            put: AtomicU64::new(0),
            tasks,
            stop,
        })
    }

    /// Puts so many plain rows in one transaction, each of the bytes of an entry's.
    ///
    /// # Errors
    /// `UNAVAILABLE`: nothing was stored, and it may be tried again; or a fault.
    pub async fn put_rows(&self, count: u32) -> Result<()> {
        self.store.put_plain_rows(&self.row, count).await
    }

    /// Puts so many entries in one transaction, as the action of each would.
    ///
    /// # Errors
    /// As [`Self::put_rows`].
    pub async fn put_entries(&self, count: u32) -> Result<()> {
        let now = SystemClock.now();
        let entry = |_| Entry {
            id: EntryId::generate(now, &mut os_rng()),
            at: now,
            ..self.entry.clone()
        };
        let entries: Vec<Entry> = (0..count).map(entry).collect();
        let entries = &entries;
        self.store
            .run_tx("put_entries", |tx| {
                async move {
                    for entry in entries {
                        journal::put(tx, entry).await?;
                    }
                    Ok(())
                }
                .scope_boxed()
            })
            .await?;
        self.put.fetch_add(count.into(), Ordering::Relaxed);
        Ok(())
    }

    /// Does what the job has not done yet, until every entry is under a checkpoint.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    pub async fn sign(&self) -> Result<()> {
        let put = self.put.load(Ordering::Relaxed);
        // The job may be signing a smaller one just now.
        while self.signed_size().await? < put {
            self.broker.sequence().await?;
            self.broker.sign_checkpoints().await?;
        }
        Ok(())
    }

    async fn signed_size(&self) -> Result<u64> {
        let community = &self.entry.community;
        let latest = self
            .store
            .read_tx("get_checkpoint", |tx| {
                async move { tx.get_checkpoint(community, 0).await }.scope_boxed()
            })
            .await?;
        Ok(latest.map_or(0, |latest| latest.size))
    }

    /// Ends the jobs and closes the ledger.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.broker.close().await;
    }
}

/// A tree of which the ledger has the tiles, on SQLite, and this process the right edge alone.
pub struct StoredTree {
    store: Datastore,
    community: CommunityId,
    edge: RightEdge,
}

impl fmt::Debug for StoredTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredTree")
    }
}

impl StoredTree {
    /// The empty tree, on a ledger that is empty, in a folder.
    ///
    /// # Errors
    /// If the ledger cannot be opened.
    pub async fn open(dir: &Path) -> Result<Self> {
        Ok(Self {
            store: Datastore::open_clear(&Ledger::Sqlite, dir).await?,
            community: community()?,
            edge: RightEdge::new(),
        })
    }

    /// Appends leaves, and stores their tiles in one transaction, as a checkpoint does with a part.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    pub async fn append(&mut self, leaves: Vec<MerkleHash>) -> Result<()> {
        let tiles = &self.edge.append(leaves);
        let community = &self.community;
        self.store
            .run_tx("integrate", |tx| {
                async move {
                    for new in tiles {
                        tx.put_tile(community, new.tile, &new.bytes).await?;
                    }
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// Size and root.
    pub fn head(&self) -> TreeHead {
        self.edge.head()
    }

    /// Size and root of what the tree was at a smaller size, from the stored tiles.
    ///
    /// # Errors
    /// If the ledger cannot be read, or does not have them.
    pub async fn head_at(&self, size: u64) -> Result<TreeHead> {
        let tiles: &Vec<Tile> = &RightEdge::tiles(size).collect();
        let community = &self.community;
        let tiles = self
            .store
            .read_tx("log_edge", |tx| {
                async move { tile_set(tx, community, tiles).await }.scope_boxed()
            })
            .await?;
        let edge = RightEdge::load(size, &tiles).map_err(Error::internal)?;
        Ok(edge.head())
    }

    /// Reads the tiles of a proof and makes it, as the broker does when it is asked for one.
    ///
    /// # Errors
    /// If the ledger cannot be read, or does not have them.
    pub async fn prove(&self, plan: &ProofPlan) -> Result<Vec<MerkleHash>> {
        let community = &self.community;
        self.store
            .read_tx("prove", |tx| {
                async move { prove(tx, community, plan).await }.scope_boxed()
            })
            .await
    }
}

fn community() -> Result<CommunityId> {
    "euro-cyber".parse().map_err(Error::internal)
}

fn identity(text: &str) -> Result<SpiffeId> {
    text.parse().map_err(Error::internal)
}

/// An entry like the most frequent one.
fn entry_of_a_batch() -> Result<Entry> {
    let (now, rng) = (SystemClock.now(), &mut os_rng());
    let (id, action) = (EntryId::generate(now, rng), Action::AnswerBatch);
    let actor = identity("spiffe://sotto.test/node/nl-fiu")?;
    let mut entry = Entry::new(id, action, actor, community()?, now, "sotto-broker/bench");
    entry.object.session = Some(SessionId::generate(now, rng));
    entry.object.policy = Some(Policy::Phone);
    let (purpose, basis) = (Purpose::Investigation, LegalBasis::Eu2023977);
    let grounds = Grounds::new(Some(purpose), Some(basis), "", "2026-0417");
    entry.grounds = Some(grounds?);
    entry.batch = Some(Batch {
        number: 7,
        refs: 4096,
        matches: 3,
        tags_digest: [7; 32],
        answer_digest: [8; 32],
    });
    Ok(entry)
}

/// The same values as an entry has in its row.
fn row_of(entry: &Entry) -> PlainRow {
    let nonce = OpeningNonce::generate(&mut os_rng());
    let opening = Opening::new(nonce, write_entry(entry));
    let kind = entry.action.kind();
    let node = entry.actor.node();
    PlainRow {
        community: entry.community.to_string(),
        kind: kind.as_str(),
        at: entry.at.micros(),
        leaf: Leaf::new(kind, entry.at, &opening).to_bytes(),
        id: *entry.id.as_bytes(),
        verb: entry.action.verb().as_str(),
        nodes: node.map_or_else(String::new, |node| format!(" {node} ")),
        opening: [&opening.nonce().secret().expose()[..], opening.entry()].concat(),
    }
}
