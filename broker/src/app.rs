//! What the broker does, free of transport: use cases over the ledger, the filter files and the
//! matcher, with the clock given (style §1).

mod catalogue;
mod copies;
mod epochs;
mod feedback;
mod follow_ups;
mod garbage;
mod hits;
pub(crate) mod journal;
mod log;
mod membership;
mod probing;
mod publication;
mod replicas;

use std::path::PathBuf;
use std::sync::Arc;

use prost::Message as _;
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, Epoch, NodeId, PublicationId};
use sotto_common::membership::{EpochState, Manifest};
use sotto_common::time::{CLOCK_SKEW, Clock, Timestamp};
use sotto_proto::convert;
use sotto_proto::v1;
use tokio::sync::{Mutex, RwLock, watch};

pub(crate) use catalogue::{CatalogueChange, CatalogueWatch};
pub(crate) use epochs::EpochView;
pub(crate) use follow_ups::{Announced, Download, EventView, Place, PresenceRate};
pub(crate) use journal::Journal;
pub(crate) use log::{Log, Proved, prove, tile_set};
pub(crate) use membership::LimitsChange;
pub(crate) use probing::{AnswerForm, Opening, ProbeSession};

use crate::cache::Cache;
use crate::datastore::{Datastore, EpochRecord, EpochTimes, NodeRecord, Tx};
use crate::matcher::Matcher;
use crate::objects::Objects;
use hits::Known;
use replicas::Standing;

/// Values of a kind that one transaction seals anew.
const SEALS_AT_A_TIME: u32 = 500;

/// The broker's state and use cases; shared by all calls.
pub(crate) struct Broker {
    store: Datastore,
    objects: Objects,
    cache: Cache,
    matcher: Arc<Matcher>,
    clock: Arc<dyn Clock>,
    /// Batches hold it shared from their snapshot to their commit; whatever changes the active
    /// filters holds it alone. So a withdrawn filter matches nothing once its call returns.
    matching: RwLock<()>,
    /// One upload or activation of a publication, or upload of an attachment, at a time, by stripe.
    uploads: [Mutex<()>; 64],
    standing: Standing,
    /// Of probers, beside the ledger.
    known: Known,
    journal: Journal,
    log: Log,
}

/// What a broker is made of.
pub(crate) struct Parts {
    pub(crate) store: Datastore,
    pub(crate) objects: Objects,
    pub(crate) cache: Cache,
    pub(crate) matcher: Matcher,
    /// Names, in the data folder, which of the brokers on the ledger the last run was.
    pub(crate) replica_file: PathBuf,
    pub(crate) journal: Journal,
    pub(crate) log: Log,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Broker {
    /// Maps the active filters, and takes a place among the brokers on the ledger. Copies of an
    /// earlier run are not compared with their digests yet: [`Self::verify_copies`] does that. Filters
    /// of which there is no copy are fetched, and those that are lost keep the broker from starting, or
    /// their publications are ended.
    ///
    /// # Errors
    /// If the ledger, the object store or the cache cannot be used, or a filter that is fetched is not
    /// what was published.
    pub(crate) async fn start(parts: Parts, end_lost_filters: bool) -> Result<Self> {
        let broker = Self {
            store: parts.store,
            objects: parts.objects,
            cache: parts.cache,
            matcher: Arc::new(parts.matcher),
            clock: parts.clock,
            matching: RwLock::new(()),
            uploads: std::array::from_fn(|_| Mutex::new(())),
            standing: Standing::new(parts.replica_file),
            known: Known::default(),
            journal: parts.journal,
            log: parts.log,
        };
        if !broker.objects.may_be_shared() {
            broker.check_alone().await?;
        }
        broker.clear_cache().await?;
        let joined = async {
            if end_lost_filters {
                broker.end_lost_filters().await?;
            }
            broker.join(None).await
        };
        if let Err(error) = joined.await {
            // The next attempt need not compare what this one has not touched.
            broker.close_cache().await;
            return Err(error);
        }
        Ok(broker)
    }

    /// Leaves the brokers on the ledger, and closes it and the cache; what was committed stays.
    pub(crate) async fn close(&self) {
        self.matcher.close();
        self.close_cache().await;
        if let Err(error) = self.leave().await {
            tracing::warn!(%error, "the others wait for this broker until its lease has run out");
        }
        self.store.close().await;
    }

    /// How many active filters cannot be tested yet, and when to look again.
    pub(crate) fn awaited_filters(&self) -> (usize, watch::Receiver<()>) {
        self.matcher.awaited()
    }

    async fn close_cache(&self) {
        let cache = self.cache.clone();
        let closed = blocking(move || cache.close().map_err(Error::unavailable)).await;
        if let Err(error) = closed {
            tracing::warn!(%error, "the next start uses no filter before it is compared with its digest");
        }
    }

    /// Seals what is sealed at rest under the first key of the list: after it another key may go.
    /// Returns how many values were not under that key.
    ///
    /// # Errors
    /// If the ledger cannot be written, or a value does not open.
    pub(crate) async fn seal_anew(&self) -> Result<u64> {
        // Entries are gone through by place: each has one first, or a key goes that one still needs.
        self.sequence().await?;
        let mut sealed = 0;
        loop {
            let (step, more) = self
                .store
                .run_tx("seal_anew", |tx| {
                    async move {
                        let objects = tx.update_object_seals(SEALS_AT_A_TIME).await?
                            + tx.update_attachment_seals(SEALS_AT_A_TIME).await?;
                        let cases = tx.update_case_ref_seals(SEALS_AT_A_TIME).await?;
                        let openings = tx.update_opening_seals(SEALS_AT_A_TIME).await?;
                        Ok((objects + cases + openings.unwrap_or(0), openings.is_some()))
                    }
                    .scope_boxed()
                })
                .await?;
            sealed += step;
            if step == 0 && !more {
                return Ok(sealed);
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn upload_lock(&self, id: PublicationId) -> &Mutex<()> {
        self.upload_stripe(id.as_bytes())
    }

    fn upload_stripe(&self, uuid: &[u8; 16]) -> &Mutex<()> {
        // The last byte of a UUIDv7 is random.
        &self.uploads[usize::from(uuid[15]) % self.uploads.len()]
    }
}

/// The node's row, if it may speak in this community.
///
/// # Errors
/// `NOT_A_MEMBER`, the same for a community that does not exist (protocol §12).
async fn enrolled(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
    node: &NodeId,
) -> Result<NodeRecord> {
    let node = tx
        .get_node(community, node)
        .await?
        .filter(|node| node.suspended.is_none());
    node.ok_or_else(not_a_member)
}

fn not_a_member() -> Error {
    let text = "this node may not speak in this community; ask the operator to enrol it";
    Error::new(ErrorCode::NotAMember, text)
}

/// An epoch that takes publications and probes now, with its manifest.
///
/// # Errors
/// `EPOCH_UNKNOWN` or `EPOCH_NOT_ACTIVE`.
async fn active_epoch(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
    epoch: Epoch,
    now: Timestamp,
) -> Result<(EpochRecord, Manifest)> {
    let record = known_epoch(tx, community, epoch).await?;
    check_active(&record.times(), now)?;
    let manifest = manifest_of(&record)?;
    Ok((record, manifest))
}

/// As [`active_epoch`], for those who need no manifest: reading one checks every key in it.
fn check_active(times: &EpochTimes, now: Timestamp) -> Result<()> {
    let is_covered = now.plus(CLOCK_SKEW) >= times.not_before && now < times.not_after;
    if times.state == EpochState::Active && is_covered {
        return Ok(());
    }
    let text = format!("the epoch is {} or outside its times", times.state);
    Err(Error::new(ErrorCode::EpochNotActive, text).about(times.epoch.to_string()))
}

async fn known_epoch(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
    epoch: Epoch,
) -> Result<EpochRecord> {
    tx.get_epoch(community, epoch).await?.ok_or_else(|| {
        Error::new(ErrorCode::EpochUnknown, "there is no such epoch").about(epoch.to_string())
    })
}

/// The manifest that the broker accepted when the epoch was opened.
fn manifest_of(record: &EpochRecord) -> Result<Manifest> {
    convert::read_unverified(&envelope(&record.manifest)?)
}

/// Reads an envelope that the ledger holds.
fn envelope(bytes: &[u8]) -> Result<v1::DsseEnvelope> {
    v1::DsseEnvelope::decode(bytes).map_err(Error::internal)
}

/// Runs what blocks, on the disk or on the processor, off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::internal)?
}
