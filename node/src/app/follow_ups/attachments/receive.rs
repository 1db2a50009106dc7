//! Files on their way from a person to this node, sealed as they come. One that breaks off stays as
//! far as it has come, and is gone on with by whoever sent it.
//!
//! A file is sealed in one HPKE context, whose state nobody can write down: it stays in memory, and a
//! restart forgets what was not whole. In clear nothing is kept of a file but what does not fill a
//! segment yet.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::attachment::{
    AttachmentClear, AttachmentHasher, MAX_SIZE, SEGMENT, SegmentSealer,
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

/// Most files of one person that are on their way, those that broke off included.
const MAX_OWN: usize = 8;
/// Most bytes of these, as announced.
const MAX_OWN_BYTES: u64 = 4 * MAX_SIZE;
/// Most bytes of everybody's: what the node's disk must have room for beside whole files.
const MAX_BYTES: u64 = 16 * MAX_SIZE;

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

/// The files that have not come whole.
#[derive(Default)]
pub(crate) struct Unfinished(StdMutex<Slots>);

#[derive(Default)]
struct Slots {
    /// Those that can be gone on with, in the order in which they were begun.
    kept: Vec<Arc<Slot>>,
    /// Those that last as long as whoever sends them: of no digest, or let go meanwhile.
    passing: Vec<Weak<Slot>>,
}

impl Unfinished {
    /// Where a file of a person's comes in: with what came of it before, if it is the same one. What
    /// broke off of the same person's files gives way to a new one, the first first; what is being
    /// sent, and what others have begun, does not.
    ///
    /// # Errors
    /// `LIMIT_REACHED` if there is no room then.
    pub(super) fn slot(
        &self,
        follow_up: FollowUpId,
        person: &str,
        file: &Announcement,
        now: Timestamp,
    ) -> Result<Arc<Slot>> {
        let can_go_on = file.content.is_some();
        let of_name = |slot: &Slot| slot.is_of(follow_up, person) && slot.file.name == file.name;
        let mut slots = self.slots();
        slots.let_go(|slot| slot.is_old(now));
        if can_go_on {
            let mut kept = slots.kept.iter();
            if let Some(same) = kept.find(|slot| of_name(slot) && slot.file == *file) {
                return Ok(Arc::clone(same));
            }
            // Another file of a name begins anew.
            slots.let_go(of_name);
        }
        slots.make_room(person, file.size)?;
        let new = Arc::new(Slot::new(follow_up, person, file, now));
        if can_go_on {
            slots.kept.push(Arc::clone(&new));
        } else {
            slots.passing.push(Arc::downgrade(&new));
        }
        Ok(new)
    }

    /// What broke off of a person's files.
    pub(super) fn of(&self, follow_up: FollowUpId, person: &str) -> Vec<UnfinishedFile> {
        let slots = self.slots();
        let of = slots.kept.iter();
        let of = of.filter(|slot| slot.is_of(follow_up, person));
        let unfinished = of.map(|slot| UnfinishedFile {
            file: slot.file.clone(),
            acknowledged: slot.acknowledged.load(Ordering::SeqCst),
        });
        unfinished.filter(|file| file.acknowledged > 0).collect()
    }

    /// Forgets one, which is whole or never will be. Its bytes go with the last who holds it.
    pub(super) fn forget(&self, slot: &Arc<Slot>) {
        let slot = Arc::as_ptr(slot);
        self.slots().let_go(|other| std::ptr::eq(other, slot));
    }

    /// Forgets those of a follow-up.
    pub(in crate::app::follow_ups) fn forget_of(&self, follow_up: FollowUpId) {
        self.slots().let_go(|slot| slot.follow_up == follow_up);
    }

    /// Forgets those that nobody has gone on with in time.
    pub(in crate::app::follow_ups) fn forget_old(&self, now: Timestamp) {
        self.slots().let_go(|slot| slot.is_old(now));
    }

    fn slots(&self) -> StdMutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// Lets some go. One that is being sent is on the disk, and counts, until that has ended.
    fn let_go(&mut self, which: impl Fn(&Slot) -> bool) {
        let all = std::mem::take(&mut self.kept);
        let (gone, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|slot| which(slot));
        self.kept = kept;
        self.passing.extend(gone.iter().map(Arc::downgrade));
    }

    /// Makes room for a file of a person's.
    fn make_room(&mut self, person: &str, size: u64) -> Result<()> {
        // One that is larger than any may be is refused where it is begun.
        let size = size.min(MAX_SIZE);
        self.passing.retain(|slot| slot.strong_count() > 0);
        loop {
            let (files, own, all) = self.held(person);
            let problem = if files >= MAX_OWN || own + size > MAX_OWN_BYTES {
                "too many files of yours are on their way to this node (at most 8, and 4 GiB): wait \
                 until one of them is whole"
            } else if all + size > MAX_BYTES {
                "the files that are on their way to this node have no room for another (at most 16 \
                 GiB): wait until some of them are whole"
            } else {
                return Ok(());
            };
            // Only this list holds it: nobody sends it.
            let broken = |slot: &Arc<Slot>| slot.person == person && Arc::strong_count(slot) == 1;
            let Some(first) = self.kept.iter().position(broken) else {
                return Err(Error::new(ErrorCode::LimitReached, problem));
            };
            self.kept.remove(first);
        }
    }

    /// How many files of a person's there are, their bytes, and those of everybody's, as announced.
    fn held(&self, person: &str) -> (usize, u64, u64) {
        let passing = self.passing.iter().filter_map(Weak::upgrade);
        let (mut files, mut own, mut all) = (0, 0, 0);
        for slot in self.kept.iter().cloned().chain(passing) {
            let size = slot.file.size.min(MAX_SIZE);
            all += size;
            if slot.person == person {
                files += 1;
                own += size;
            }
        }
        (files, own, all)
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_000);

    /// A file of this size, which can be gone on with or not.
    fn file(name: u64, size: u64, can_go_on: bool) -> Announcement {
        Announcement {
            name: Confidential::new(format!("{name}.pdf")),
            size,
            content: can_go_on.then(|| Secret::new([7; 32])),
        }
    }

    /// Begins files of a person's and goes on sending them; tells them, or what it was refused with.
    fn begin(
        unfinished: &Unfinished,
        person: &str,
        files: impl IntoIterator<Item = Announcement>,
    ) -> Result<Vec<Arc<Slot>>> {
        let id = FollowUpId::of_vector([7; 16]);
        let slot = |file: Announcement| unfinished.slot(id, person, &file, NOW);
        files.into_iter().map(slot).collect()
    }

    fn is_refused(begun: Result<Vec<Arc<Slot>>>) -> bool {
        let error = begun.map(drop).expect_err("refused");
        error.code == ErrorCode::LimitReached
    }

    #[test]
    fn what_is_being_sent_is_bounded_by_number_and_by_bytes_and_room_comes_as_it_ends() {
        for can_go_on in [true, false] {
            for (size, most) in [(1, 8), (MAX_SIZE, 4), (u64::MAX, 4)] {
                let unfinished = Unfinished::default();
                let files = (0..most).map(|n| file(n, size, can_go_on));
                let mut sent = begin(&unfinished, "anna", files).expect("room");
                let more = || begin(&unfinished, "anna", [file(99, size, can_go_on)]);
                assert!(is_refused(more()));
                // Another person has room.
                assert!(begin(&unfinished, "bert", [file(99, size, can_go_on)]).is_ok());
                unfinished.forget(&sent.remove(0));
                assert!(more().is_ok());
            }
        }
    }

    #[test]
    fn one_that_is_let_go_while_it_is_sent_counts_until_that_has_ended() {
        let unfinished = Unfinished::default();
        let files = (0..8).map(|n| file(n, 1, true));
        let sent = begin(&unfinished, "anna", files).expect("room");
        unfinished.forget_of(FollowUpId::of_vector([7; 16]));
        let more = || begin(&unfinished, "anna", [file(99, 1, true)]);
        assert!(is_refused(more()));
        drop(sent);
        assert!(more().is_ok());
    }

    #[test]
    fn everybodys_files_have_a_bound_too_and_nobodys_give_way_to_anothers() {
        let unfinished = Unfinished::default();
        let files = || (0..4).map(|n| file(n, MAX_SIZE, true));
        for person in ["anna", "bert", "carl", "dora"] {
            // They break off at once.
            begin(&unfinished, person, files()).expect("room");
        }
        assert!(is_refused(begin(&unfinished, "emil", [file(0, 1, true)])));
        // One's own that broke off gives way, and is gone on with no more.
        begin(&unfinished, "anna", [file(99, MAX_SIZE, true)]).expect("room");
        let names = |person| {
            let slots = unfinished.slots();
            let of = slots.kept.iter().filter(|slot| slot.person == person);
            let names = of.map(|slot| slot.file.name.expose().to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names("anna"), ["1.pdf", "2.pdf", "3.pdf", "99.pdf"]);
        assert_eq!(names("bert"), ["0.pdf", "1.pdf", "2.pdf", "3.pdf"]);
    }
}
