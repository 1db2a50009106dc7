//! What the broker does, free of transport: use cases over the ledger, the filter files and the
//! matcher, with the clock given (style §1).

mod epochs;
mod hits;
mod membership;
mod probing;
mod publication;

use std::sync::Arc;

use prost::Message as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, Epoch, NodeId, PublicationId};
use sotto_common::membership::{EpochState, Manifest};
use sotto_common::time::{Clock, Timestamp};
use sotto_proto::convert;
use sotto_proto::v1;
use tokio::sync::{Mutex, RwLock, watch};

pub(crate) use epochs::EpochView;
pub(crate) use membership::LimitsChange;
pub(crate) use probing::{Opening, ProbeSession};

use crate::datastore::{Datastore, EpochRecord, NodeRecord, Tx};
use crate::filters::FilterFiles;
use crate::matcher::Matcher;

/// The broker's state and use cases; shared by all calls.
pub(crate) struct Broker {
    store: Datastore,
    files: FilterFiles,
    matcher: Matcher,
    clock: Arc<dyn Clock>,
    /// Batches hold it shared from their snapshot to their commit; whatever changes the active
    /// filters holds it alone. So a withdrawn filter matches nothing once its call returns.
    matching: RwLock<()>,
    /// One upload or activation of a publication at a time, by stripe.
    uploads: [Mutex<()>; 64],
    /// Moves whenever a hit event has been committed.
    hit_events: watch::Sender<u64>,
}

impl Broker {
    /// Brings the files in line with the ledger and maps the active filters.
    ///
    /// # Errors
    /// If the ledger or the folders cannot be read.
    pub(crate) async fn start(
        store: Datastore,
        files: FilterFiles,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let broker = Self {
            store,
            files,
            matcher: Matcher::default(),
            clock,
            matching: RwLock::new(()),
            uploads: std::array::from_fn(|_| Mutex::new(())),
            hit_events: watch::Sender::new(0),
        };
        broker.recover_filters().await?;
        Ok(broker)
    }

    /// Closes the ledger; what was committed stays.
    pub(crate) async fn close(&self) {
        self.store.close().await;
    }

    /// One pass of everything that time ends: epochs, filters, idle probe sessions, old counts.
    ///
    /// # Errors
    /// If the ledger cannot be written; the next pass does what was left.
    pub(crate) async fn expire(&self) -> Result<()> {
        self.expire_epochs().await?;
        self.expire_publications().await?;
        self.expire_sessions().await
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn upload_lock(&self, id: PublicationId) -> &Mutex<()> {
        // The last byte of a UUIDv7 is random.
        &self.uploads[usize::from(id.as_bytes()[15]) % self.uploads.len()]
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
    node.ok_or_else(|| {
        Error::new(
            ErrorCode::NotAMember,
            "this node may not speak in this community; ask the operator to enrol it",
        )
    })
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
    let manifest = manifest_of(&record)?;
    if record.state != EpochState::Active || !manifest.covers(now) {
        let text = format!("the epoch is {} or outside its times", record.state);
        return Err(Error::new(ErrorCode::EpochNotActive, text).about(epoch.to_string()));
    }
    Ok((record, manifest))
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
