//! Files that go with an answer (protocol §10): sealed bytes that are taken in chunks, compared with
//! the digest that was announced, and given to both parties once the answer names them.

use std::ops::Range;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use prost::bytes::Bytes;
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::attachment::{AttachmentClear, AttachmentHasher, SEGMENT};
use sotto_common::followup::step::MAX_ATTACHMENTS;
use sotto_common::followup::{FollowUpState, Party};
use sotto_common::ids::{AttachmentId, CommunityId, FollowUpId, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::publication::MAX_CHUNK;
use sotto_common::random::os_rng;
use sotto_common::sealed::Suite;
use sotto_proto::convert::follow_up::read_attachment;

use super::reading::own_follow_up;
use super::{mismatch, unknown};
use crate::app::Broker;
use crate::app::journal::{self, about};
use crate::datastore::{AttachmentChunk, AttachmentRecord, FollowUpRecord, Tx};
use crate::objects::{ObjectKey, ObjectOwner};

/// Most sealed bytes of the files of one follow-up.
pub(super) const MAX_SEALED: u64 = 4 * 1024 * 1024 * 1024;

/// Chunks that are read from the store before their turn.
const CHUNKS_AHEAD: usize = 4;

/// What the log says of a file that is all here.
const KEPT: &str = "kept";
/// What it says of one that is not what was announced.
const THROWN_AWAY: &str = "thrown away";

/// A file as its sender announces it.
pub(crate) struct Announced {
    pub(crate) community: CommunityId,
    pub(crate) clear: AttachmentClear,
    /// The clear part as it was sealed with.
    pub(crate) clear_bytes: Vec<u8>,
    pub(crate) suite: Suite,
    pub(crate) enc: Vec<u8>,
    pub(crate) digest: [u8; 32],
}

/// A place in a file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) community: CommunityId,
    pub(crate) follow_up: FollowUpId,
    pub(crate) attachment: AttachmentId,
    /// Sealed bytes before it.
    pub(crate) offset: u64,
}

/// A file that is read.
pub(crate) struct Download {
    pub(crate) record: AttachmentRecord,
    /// The chunks that are still to come, and which of their bytes.
    chunks: std::vec::IntoIter<(AttachmentChunk, Range<usize>)>,
}

/// Where an upload stands.
struct Standing {
    record: AttachmentRecord,
    acknowledged: u64,
}

impl Broker {
    /// Holder: announces a file; returns how many of its sealed bytes are acknowledged, and how many
    /// it has. Idempotent by id.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`, `FOLLOW_UP_MISMATCH` for the requester; `ATTACHMENT_STATE` in another
    /// state than ACCEPTED, or for the same id with another announcement; `LIMIT_REACHED`.
    pub(crate) async fn create_attachment(
        &self,
        caller: &NodeId,
        announced: &Announced,
    ) -> Result<(u64, u64)> {
        let record = &announced.record();
        let (now, journal) = (self.now(), &self.journal);
        let acknowledged = self
            .store
            .run_tx("create_attachment", |tx| {
                async move {
                    let community = &announced.community;
                    let follow_up = accepted(tx, caller, community, record.follow_up).await?;
                    if let Some(known) = tx.get_attachment(record.follow_up, record.id).await? {
                        return again(tx, &known, record).await;
                    }
                    let others = tx.get_attachments(record.follow_up).await?;
                    let sealed: u64 = others.iter().map(|other| other.sealed_size).sum();
                    if others.len() >= MAX_ATTACHMENTS || sealed + record.sealed_size > MAX_SEALED {
                        let text = "at most 64 files of 4 GiB together go with an answer";
                        return Err(Error::new(ErrorCode::LimitReached, text));
                    }
                    tx.put_attachment(record).await?;
                    let action = Action::AnnounceAttachment;
                    let entry = journal.by_node(caller, action, community, now)?;
                    journal::put(tx, &file_entry(entry, &follow_up, record.id)).await?;
                    Ok(0)
                }
                .scope_boxed()
            })
            .await?;
        if acknowledged == record.sealed_size {
            // The last call may have been cut off before the digest was compared.
            let _turn = self.upload_stripe(record.id.as_bytes()).lock().await;
            self.complete(record.follow_up, record.id).await?;
        }
        Ok((acknowledged, record.sealed_size))
    }

    /// Holder: begins to upload at an offset; returns how many bytes are acknowledged.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`, `FOLLOW_UP_MISMATCH`, `ATTACHMENT_UNKNOWN`, `ATTACHMENT_STATE`;
    /// `OFFSET_MISMATCH` with the offset to go on from.
    pub(crate) async fn begin_upload(&self, caller: &NodeId, place: &Place) -> Result<u64> {
        let standing = self
            .store
            .read_tx("begin_upload", |tx| {
                async move { standing(tx, caller, place).await }.scope_boxed()
            })
            .await?;
        if standing.acknowledged == standing.record.sealed_size {
            let _turn = self.upload_stripe(place.attachment.as_bytes()).lock().await;
            self.complete(place.follow_up, place.attachment).await?;
        }
        Ok(standing.acknowledged)
    }

    /// Holder: appends sealed bytes at an offset; returns how many are acknowledged. With the last of
    /// them the whole is compared with its digest.
    ///
    /// # Errors
    /// As [`Broker::begin_upload`], and `INVALID_FIELD` for a chunk of another length than is taken;
    /// `ATTACHMENT_STATE` if the whole has another digest: everything is deleted then.
    pub(crate) async fn append_attachment(
        &self,
        caller: &NodeId,
        place: &Place,
        data: Bytes,
    ) -> Result<u64> {
        if data.is_empty() || data.len() > MAX_CHUNK {
            return Err(Error::field("chunk", "1 to 1048576 bytes"));
        }
        let _turn = self.upload_stripe(place.attachment.as_bytes()).lock().await;
        let owner = ObjectOwner::FollowUp(place.follow_up);
        let chunk = &AttachmentChunk {
            start: place.offset,
            length: data.len() as u64,
            object: ObjectKey::of(owner, &mut os_rng()),
        };
        // Asked twice: before the bytes are stored, and when they are acknowledged.
        self.store
            .read_tx("check_attachment_chunk", |tx| {
                async move { check_chunk(tx, caller, place, chunk).await }.scope_boxed()
            })
            .await?;
        self.objects.put(&chunk.object, data).await?;
        let sealed_size = self
            .store
            .run_tx("append_attachment_chunk", |tx| {
                async move {
                    let sealed_size = check_chunk(tx, caller, place, chunk).await?;
                    tx.put_attachment_chunk(place.follow_up, place.attachment, chunk)
                        .await?;
                    Ok(sealed_size)
                }
                .scope_boxed()
            })
            .await?;
        let acknowledged = chunk.start + chunk.length;
        if acknowledged == sealed_size {
            self.complete(place.follow_up, place.attachment).await?;
        }
        Ok(acknowledged)
    }

    /// Compares a file that is all here with the digest that was announced: it is whole then, or
    /// deleted. Nothing happens to one that is whole already. The caller holds its upload lock.
    async fn complete(&self, follow_up: FollowUpId, id: AttachmentId) -> Result<()> {
        let found = self
            .store
            .read_tx("complete_attachment", |tx| {
                async move {
                    let record = tx.get_attachment(follow_up, id).await?;
                    let chunks = tx.get_attachment_chunks(follow_up, id).await?;
                    Ok((record, chunks))
                }
                .scope_boxed()
            })
            .await?;
        let (Some(record), chunks) = found else {
            return Err(unknown_file());
        };
        if record.whole {
            return Ok(());
        }
        let is_right = match self.digest(&record, &chunks).await {
            Ok(digest) => digest == record.digest,
            // What the store has lost or altered is uploaded again, as is what never was right.
            Err(error) if error.code == ErrorCode::Internal => false,
            Err(error) => return Err(error),
        };
        let settled = self.settle_attachment(&record, &chunks, is_right).await?;
        if is_right && settled {
            return Ok(());
        }
        if settled {
            let objects = chunks.into_iter().map(|chunk| chunk.object);
            self.delete_unneeded(objects.collect()).await;
        }
        Err(state(
            "what was uploaded has another digest than was announced: begin again at 0",
        ))
    }

    /// Keeps a file that is all here, or throws away what was uploaded; false if that is not what
    /// stands there any more.
    async fn settle_attachment(
        &self,
        record: &AttachmentRecord,
        chunks: &[AttachmentChunk],
        is_right: bool,
    ) -> Result<bool> {
        let (follow_up, id) = (record.follow_up, record.id);
        let (now, journal) = (self.now(), &self.journal);
        self.store
            .run_tx("settle_attachment", |tx| {
                async move {
                    // Another broker may have been asked to do the same, and its holder may have
                    // begun again.
                    if tx.get_attachment_chunks(follow_up, id).await? != chunks {
                        return Ok(false);
                    }
                    let known = tx.get_attachment(follow_up, id).await?;
                    if is_right && known.is_some_and(|known| known.whole) {
                        return Ok(true);
                    }
                    if is_right {
                        let whole = AttachmentRecord {
                            whole: true,
                            ..record.clone()
                        };
                        tx.update_attachment(&whole).await?;
                    } else {
                        tx.delete_attachment_chunks(follow_up, id).await?;
                    }
                    let of = tx.get_follow_up(follow_up).await?.ok_or_else(unknown)?;
                    let (holder, community) = (&of.follow_up.holder, &of.key.community);
                    let action = Action::CompleteAttachment;
                    let entry = Entry {
                        detail: if is_right { KEPT } else { THROWN_AWAY }.to_owned(),
                        ..journal.by_node(holder, action, community, now)?
                    };
                    journal::put(tx, &file_entry(entry, &of, id)).await?;
                    Ok(true)
                }
                .scope_boxed()
            })
            .await
    }

    /// The digest of what is stored, read piece by piece.
    async fn digest(
        &self,
        record: &AttachmentRecord,
        chunks: &[AttachmentChunk],
    ) -> Result<[u8; 32]> {
        let (_, clear_digest) = read_attachment(&record.clear)?;
        let (kem, kdf, aead) = record.suite;
        let suite = Suite::from_ids(kem, kdf, aead).map_err(Error::internal)?;
        let mut hasher = AttachmentHasher::new(&clear_digest, suite, &record.enc);
        let mut pieces = stream::iter(chunks.to_vec())
            .map(|chunk| async move { self.objects.get(&chunk.object, chunk.length).await })
            .buffered(CHUNKS_AHEAD);
        while let Some(piece) = pieces.try_next().await? {
            hasher.update(&piece);
        }
        Ok(hasher.finish())
    }

    /// Party: begins to read a file at an offset, once the answer that names it is there.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`; `ATTACHMENT_UNKNOWN`, also once it is erased; `INVALID_FIELD` for an
    /// offset behind its end.
    pub(crate) async fn begin_download(&self, caller: &NodeId, place: &Place) -> Result<Download> {
        let (now, journal) = (self.now(), &self.journal);
        let (record, chunks) = self
            .store
            .run_tx("begin_download", |tx| {
                async move {
                    let Place {
                        community,
                        follow_up,
                        attachment,
                        offset,
                    } = place;
                    let of = own_follow_up(tx, caller, community, *follow_up).await?;
                    let record = tx.get_attachment(*follow_up, *attachment).await?;
                    let record = record.filter(|record| record.answered);
                    let record = record.ok_or_else(unknown_file)?;
                    if *offset > record.sealed_size {
                        return Err(Error::field("offset", "behind the end of the file"));
                    }
                    let chunks = tx.get_attachment_chunks(*follow_up, *attachment).await?;
                    // "Reading a hit or an answer = CONSULTATION" (workflow.md "Audit").
                    let action = Action::FetchAttachment;
                    let entry = journal.by_node(caller, action, community, now)?;
                    journal::put(tx, &file_entry(entry, &of, *attachment)).await?;
                    Ok((record, chunks))
                }
                .scope_boxed()
            })
            .await?;
        let wanted = chunks.into_iter().filter_map(|chunk| {
            let skipped = place.offset.saturating_sub(chunk.start);
            let wanted = usize::try_from(skipped).ok()?..usize::try_from(chunk.length).ok()?;
            (!wanted.is_empty()).then_some((chunk, wanted))
        });
        let chunks = wanted.collect::<Vec<_>>().into_iter();
        Ok(Download { record, chunks })
    }

    /// The next piece of a file that is read; `None` at its end.
    ///
    /// # Errors
    /// If the store is away, or has lost it.
    pub(crate) async fn next_piece(&self, download: &mut Download) -> Result<Option<Bytes>> {
        let Some((chunk, wanted)) = download.chunks.next() else {
            return Ok(None);
        };
        let content = self.objects.get(&chunk.object, chunk.length).await?;
        Ok(Some(content.slice(wanted)))
    }
}

impl Announced {
    fn record(&self) -> AttachmentRecord {
        AttachmentRecord {
            follow_up: self.clear.follow_up,
            id: self.clear.id,
            clear: self.clear_bytes.clone(),
            suite: self.suite.ids(),
            enc: self.enc.clone(),
            digest: self.digest,
            sealed_size: self.clear.sealed_size(),
            whole: false,
            answered: false,
        }
    }
}

/// What is acknowledged of a file that is announced once more.
async fn again(
    tx: &mut (dyn Tx + '_),
    known: &AttachmentRecord,
    announced: &AttachmentRecord,
) -> Result<u64> {
    let same = AttachmentRecord {
        whole: known.whole,
        answered: known.answered,
        ..announced.clone()
    };
    if same != *known {
        return Err(state("this file was announced otherwise"));
    }
    tx.get_attachment_length(known.follow_up, known.id).await
}

/// An entry about a file of a follow-up.
fn file_entry(entry: Entry, of: &FollowUpRecord, id: AttachmentId) -> Entry {
    let mut entry = about::follow_up(entry, of);
    entry.object.attachment = Some(id);
    entry
}

/// Only the holder of a request that it has accepted gives files; returns the request.
async fn accepted(
    tx: &mut (dyn Tx + '_),
    caller: &NodeId,
    community: &CommunityId,
    id: FollowUpId,
) -> Result<FollowUpRecord> {
    let record = own_follow_up(tx, caller, community, id).await?;
    if record.follow_up.side_of(caller) != Some(Party::Holder) {
        return Err(mismatch("files go with the answer of the HOLDER"));
    }
    if record.follow_up.state != FollowUpState::Accepted {
        let text = format!(
            "files are taken in ACCEPTED, not in {}",
            record.follow_up.state
        );
        return Err(Error::new(ErrorCode::AttachmentState, text));
    }
    Ok(record)
}

/// Where an upload stands, if it stands at the offset.
async fn standing(tx: &mut (dyn Tx + '_), caller: &NodeId, place: &Place) -> Result<Standing> {
    accepted(tx, caller, &place.community, place.follow_up).await?;
    let (follow_up, id) = (place.follow_up, place.attachment);
    let record = tx.get_attachment(follow_up, id).await?;
    let record = record.ok_or_else(unknown_file)?;
    let acknowledged = tx.get_attachment_length(follow_up, id).await?;
    if acknowledged != place.offset {
        let text = format!("go on from offset {acknowledged}");
        return Err(Error::new(ErrorCode::OffsetMismatch, text).about(acknowledged.to_string()));
    }
    Ok(Standing {
        record,
        acknowledged,
    })
}

/// A chunk goes on where the upload stands; returns how many bytes the file has.
async fn check_chunk(
    tx: &mut (dyn Tx + '_),
    caller: &NodeId,
    place: &Place,
    chunk: &AttachmentChunk,
) -> Result<u64> {
    let Standing { record, .. } = standing(tx, caller, place).await?;
    if record.whole {
        return Err(state("this file is whole"));
    }
    let end = chunk.start + chunk.length;
    if end > record.sealed_size {
        return Err(Error::field("chunk", "more bytes than were announced"));
    }
    // Small chunks would make many objects.
    if end < record.sealed_size && chunk.length < SEGMENT as u64 {
        let text = "at least 65536 bytes, unless it is the last";
        return Err(Error::field("chunk", text));
    }
    Ok(record.sealed_size)
}

fn unknown_file() -> Error {
    let text = "no file of this follow-up has this id, or it cannot be read now";
    Error::new(ErrorCode::AttachmentUnknown, text)
}

fn state(text: &'static str) -> Error {
    Error::new(ErrorCode::AttachmentState, text)
}
