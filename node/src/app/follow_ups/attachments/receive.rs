//! Files on their way from a person to this node, sealed as they come. One that breaks off stays as
//! far as it has come, and is gone on with by whoever sent it.
//!
//! A file is sealed in one HPKE context, whose state nobody can write down: it stays in memory, and a
//! restart forgets what was not whole. In clear nothing is kept of a file but what does not fill a
//! segment yet.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::attachment::{
    AttachmentClear, AttachmentHasher, SEGMENT, SegmentSealer,
};
use sotto_common::ids::{AttachmentId, FollowUpId, NodeId};
use sotto_common::random::os_rng;
use sotto_common::sealed::HpkePublicKey;
use sotto_common::secret::{Confidential, Secret};
use sotto_common::time::Timestamp;
use sotto_proto::convert::follow_up::write_attachment;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Mutex, MutexGuard, watch};
use zeroize::Zeroizing;

use super::spool::{Spooled, disk};
use super::{SUITE, seal_error};
use crate::auth::Caller;
use crate::store::StoredAttachment;

/// How long a file that broke off can be gone on with.
const KEPT: Duration = Duration::from_hours(24);

/// Most files that are kept so; the one that was begun first goes first.
const MAX_UNFINISHED: usize = 16;

/// A file as a person announces it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Announcement {
    /// Its own name.
    pub(crate) name: Confidential,
    /// Plaintext bytes.
    pub(crate) size: u64,
    /// SHA-256 of its plaintext; without it the file cannot be gone on with.
    pub(crate) content: Option<Secret<32>>,
}

/// A file that broke off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct UnfinishedFile {
    /// As it was announced.
    pub(crate) file: Announcement,
    /// Plaintext bytes that this node has.
    pub(crate) acknowledged: u64,
}

/// The files that have not come whole, in the order in which they were begun.
#[derive(Default)]
pub(crate) struct Unfinished(StdMutex<Vec<Arc<Slot>>>);

impl Unfinished {
    /// Where a file of a person's comes in: with what came of it before, if it is the same one.
    pub(super) fn slot(
        &self,
        follow_up: FollowUpId,
        person: &str,
        file: &Announcement,
        now: Timestamp,
    ) -> Arc<Slot> {
        let new = Arc::new(Slot::new(follow_up, person, file, now));
        if file.content.is_none() {
            return new;
        }
        let mut slots = self.slots();
        slots.retain(|slot| !slot.is_old(now));
        let of_name =
            |slot: &Arc<Slot>| slot.is_of(follow_up, person) && slot.file.name == file.name;
        let same = slots
            .iter()
            .find(|slot| of_name(slot) && slot.file == *file);
        if let Some(same) = same {
            return Arc::clone(same);
        }
        // Another file of a name begins anew.
        slots.retain(|slot| !of_name(slot));
        if slots.len() >= MAX_UNFINISHED {
            slots.remove(0);
        }
        slots.push(Arc::clone(&new));
        new
    }

    /// What broke off of a person's files.
    pub(super) fn of(&self, follow_up: FollowUpId, person: &str) -> Vec<UnfinishedFile> {
        let slots = self.slots();
        let of = slots.iter().filter(|slot| slot.is_of(follow_up, person));
        let unfinished = of.map(|slot| UnfinishedFile {
            file: slot.file.clone(),
            acknowledged: slot.acknowledged.load(Ordering::SeqCst),
        });
        unfinished.filter(|file| file.acknowledged > 0).collect()
    }

    /// Forgets one, which is whole or never will be. Its bytes go with the last who holds it.
    pub(super) fn forget(&self, slot: &Arc<Slot>) {
        self.slots().retain(|other| !Arc::ptr_eq(other, slot));
    }

    /// Forgets those of a follow-up.
    pub(in crate::app::follow_ups) fn forget_of(&self, follow_up: FollowUpId) {
        self.slots().retain(|slot| slot.follow_up != follow_up);
    }

    /// Forgets those that nobody has gone on with in time.
    pub(in crate::app::follow_ups) fn forget_old(&self, now: Timestamp) {
        self.slots().retain(|slot| !slot.is_old(now));
    }

    fn slots(&self) -> StdMutexGuard<'_, Vec<Arc<Slot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One file on its way.
pub(super) struct Slot {
    follow_up: FollowUpId,
    person: String,
    pub(super) file: Announcement,
    begun_at: Timestamp,
    /// Plaintext bytes that were taken, for whoever does not send it.
    acknowledged: AtomicU64,
    /// Counts those who send it: each takes the place of the one before, whose connection may hang.
    senders: watch::Sender<u64>,
    /// What has come of it. Whoever sends it holds this.
    received: Mutex<Option<Receiving>>,
}

impl Slot {
    fn new(follow_up: FollowUpId, person: &str, file: &Announcement, now: Timestamp) -> Self {
        Self {
            follow_up,
            person: person.to_owned(),
            file: file.clone(),
            begun_at: now,
            acknowledged: AtomicU64::new(0),
            senders: watch::Sender::new(0),
            received: Mutex::new(None),
        }
    }

    fn is_of(&self, follow_up: FollowUpId, person: &str) -> bool {
        self.follow_up == follow_up && self.person == person
    }

    fn is_old(&self, now: Timestamp) -> bool {
        now.since(self.begun_at) >= KEPT
    }

    /// Has whoever sends it stop; tells which sender this is.
    pub(super) async fn enter(&self) -> (MutexGuard<'_, Option<Receiving>>, u64) {
        let mut own = 0;
        self.senders.send_modify(|last| {
            *last += 1;
            own = *last;
        });
        (self.received.lock().await, own)
    }

    /// Ends once somebody else sends it.
    pub(super) async fn overtaken(&self, own: u64) {
        let mut senders = self.senders.subscribe();
        // The channel is this slot's own: it does not close before.
        let _ = senders.wait_for(|last| *last > own).await;
    }

    /// Notes how much was taken.
    pub(super) fn acknowledge(&self, taken: u64) {
        self.acknowledged.store(taken, Ordering::SeqCst);
    }
}

/// What has come of a file, and what seals the rest. Whatever works on it may be dropped where it
/// waits: it stays as it is, and goes on from there.
pub(super) struct Receiving {
    id: AttachmentId,
    /// The clear part as bytes.
    clear: Vec<u8>,
    enc: Vec<u8>,
    segments: SegmentSealer,
    digest: AttachmentHasher,
    content: Sha256,
    /// In clear: what does not fill a segment yet.
    buffer: Zeroizing<Vec<u8>>,
    /// Plaintext bytes that were taken.
    taken: u64,
    /// A sealed segment of which any part may be on the disk.
    pending: Vec<u8>,
    /// Sealed bytes before it, which are.
    written: u64,
    out: File,
    spooled: Spooled,
}

impl Receiving {
    /// Begins, with an empty file on the disk.
    ///
    /// # Errors
    /// `SEAL_INVALID`; those of the disk.
    pub(super) async fn begin(
        dir: &Path,
        key: &HpkePublicKey,
        clear: &AttachmentClear,
        parties: (&NodeId, &NodeId),
    ) -> Result<Self> {
        let (clear_bytes, clear_digest) = write_attachment(clear);
        let begun = SegmentSealer::begin(key, clear, clear_digest, parties, &mut os_rng());
        let (enc, segments) = begun.map_err(seal_error)?;
        let spooled = Spooled::create(dir, clear.id).await?;
        Ok(Self {
            id: clear.id,
            clear: clear_bytes,
            segments,
            digest: AttachmentHasher::new(&clear_digest, SUITE, &enc),
            content: Sha256::new(),
            enc,
            buffer: Zeroizing::new(Vec::with_capacity(SEGMENT)),
            taken: 0,
            pending: Vec::new(),
            written: 0,
            out: spooled.writer().await?,
            spooled,
        })
    }

    /// Plaintext bytes that were taken.
    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    /// Goes on after whatever was dropped.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn go_on(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // A write that was dropped is over before this is done: the handle is the same.
        self.out.set_len(self.written).await.map_err(disk)?;
        self.write_pending().await
    }

    /// Takes the next bytes, and notes each that is taken.
    ///
    /// # Errors
    /// `INVALID_FIELD` if they are more than were announced; those of the disk.
    pub(super) async fn take(&mut self, mut chunk: &[u8], slot: &Slot) -> Result<()> {
        if self.taken + chunk.len() as u64 > slot.file.size {
            return Err(other_size());
        }
        while !chunk.is_empty() {
            let (now, later) = chunk.split_at(chunk.len().min(SEGMENT - self.buffer.len()));
            self.content.update(now);
            self.buffer.extend_from_slice(now);
            self.taken += now.len() as u64;
            slot.acknowledge(self.taken);
            chunk = later;
            if self.buffer.len() == SEGMENT {
                self.seal_buffer()?;
                self.write_pending().await?;
            }
        }
        Ok(())
    }

    /// Seals what is left: the file is on the disk then, and is what was announced. May be done
    /// again.
    ///
    /// # Errors
    /// `INVALID_FIELD` if it is another file; those of the disk.
    pub(super) async fn finish(&mut self, file: &Announcement) -> Result<()> {
        if self.taken != file.size {
            return Err(other_size());
        }
        let content = self.content();
        if file.content.as_ref().is_some_and(|said| *said != content) {
            let text = "what came is another file than was said: it changed while it was sent";
            return Err(Error::field("sha256", text));
        }
        if !self.segments.is_complete() {
            self.seal_buffer()?;
            self.write_pending().await?;
        }
        self.out.sync_all().await.map_err(disk)
    }

    /// The file as it is stored; its bytes stay on the disk.
    pub(super) fn keep(
        self,
        follow_up: FollowUpId,
        file: &Announcement,
        giver: &Caller,
    ) -> StoredAttachment {
        let content = self.content();
        self.spooled.keep();
        StoredAttachment {
            id: self.id,
            follow_up,
            size: file.size,
            name: file.name.clone(),
            clear: self.clear,
            enc: self.enc,
            digest: self.digest.finish(),
            content_digest: Some(content),
            given_by: giver.identities.iter().cloned().collect(),
            uploaded: false,
        }
    }

    fn content(&self) -> Secret<32> {
        Secret::new(self.content.clone().finalize().into())
    }

    fn seal_buffer(&mut self) -> Result<()> {
        self.pending = self.segments.seal(&self.buffer).map_err(seal_error)?;
        self.digest.update(&self.pending);
        self.buffer.clear();
        Ok(())
    }

    async fn write_pending(&mut self) -> Result<()> {
        self.out.write_all(&self.pending).await.map_err(disk)?;
        self.out.flush().await.map_err(disk)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

fn other_size() -> Error {
    Error::field("size", "what came is of another size than was said")
}

/// A file that this node has elsewhere than it is sent from.
pub(super) fn elsewhere(acknowledged: u64) -> Error {
    let text = format!("go on from offset {acknowledged}");
    Error::new(ErrorCode::OffsetMismatch, text).about(acknowledged.to_string())
}
