//! Files that go with an answer (protocol §10): sealed as they come and opened as they go, segment
//! by segment. What lies on the disk in between is sealed to the requester.

mod read;
mod spool;

use futures::{Stream, StreamExt as _};
use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::attachment::{
    AttachmentClear, AttachmentHasher, MAX_NAME, SEGMENT, SegmentSealer,
};
use sotto_common::followup::step::MAX_ATTACHMENTS;
use sotto_common::followup::{FollowUpState, FollowUpStep, Party};
use sotto_common::ids::{AttachmentId, FollowUpId};
use sotto_common::random::os_rng;
use sotto_common::sealed::{SealError, Suite};
use sotto_common::secret::{Confidential, Secret};
use sotto_proto::convert::follow_up::write_attachment;
use sotto_proto::v1;
use tokio::io::AsyncWriteExt as _;
use zeroize::Zeroizing;

use super::super::App;
use super::draft::fill_in;
use super::{Peer, mismatch};
use crate::auth::Caller;
use crate::broker::{CALL_TIMEOUT, LONG_CALL_TIMEOUT, call_once, refusal};
use crate::follow_up::{LocalFollowUp, News, ProposalId};
use crate::store::{FileChange, StoredAttachment};
use spool::{Spooled, disk, upload_parts};

const SUITE: Suite = Suite::X25519Sha256ChaCha20Poly1305;

/// What is kept of a file beside its sealed bytes.
struct SealedFile {
    enc: Vec<u8>,
    /// What the answer names.
    digest: [u8; 32],
    /// Of its plaintext.
    content_digest: Secret<32>,
}

/// A sealing that does not work: what it is of is wrong, or changed.
fn seal_error(_: SealError) -> Error {
    Error::new(
        ErrorCode::SealInvalid,
        "the file is not sealed as it should be",
    )
}

impl App {
    /// Adds a file to the answer that is being drafted; it has exactly `size` bytes. An answer that
    /// is proposed already is a new proposal with it.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`; `FOLLOW_UP_MISMATCH` if no answer is due here; `LIMIT_REACHED` above 64
    /// files; `INVALID_FIELD`; `UNAVAILABLE` if the disk is full. Nothing is left of the file then.
    pub(crate) async fn add_file(
        &self,
        caller: &Caller,
        id: FollowUpId,
        (name, size): (&str, u64),
        chunks: impl Stream<Item = Result<Bytes>> + Unpin + Send,
    ) -> Result<AttachmentId> {
        check_name(name)?;
        let follow_up = self.follow_up(id).await?;
        check_due(&follow_up)?;
        let before = self.store.attachments(id).await?.len();
        if before >= MAX_ATTACHMENTS {
            let text = format!("an answer has at most {MAX_ATTACHMENTS} files");
            return Err(Error::new(ErrorCode::LimitReached, text));
        }
        let file = AttachmentId::generate(self.clock.now(), &mut os_rng());
        // A name that says nothing of the case; the file's own is sealed with the answer.
        let neutral = format!("attachment-{}", before + 1);
        let clear = AttachmentClear::new(id, file, &neutral, size)?;
        let peer = self.peer(follow_up.epoch, &follow_up.counterpart).await?;
        let spooled = Spooled::create(&self.attachments_dir, file).await?;
        let sealed = self
            .seal_file(&peer, &follow_up, &clear, chunks, &spooled)
            .await?;
        let (clear, _) = write_attachment(&clear);
        let stored = StoredAttachment {
            id: file,
            follow_up: id,
            size,
            name: Confidential::new(name),
            clear,
            enc: sealed.enc,
            digest: sealed.digest,
            content_digest: Some(sealed.content_digest),
            uploaded: false,
        };
        // Kept first: who hangs up meanwhile must not leave a row without its bytes.
        spooled.keep();
        if let Err(error) = self.redraft(caller, id, FileChange::Put(&stored)).await {
            spool::remove(&self.attachments_dir, file).await?;
            return Err(error);
        }
        Ok(file)
    }

    /// The files that were given for an answer of this node, in the order in which they came.
    ///
    /// # Errors
    /// `FOLLOW_UP_MISMATCH` for the requester; those of the store.
    pub(crate) async fn given_files(
        &self,
        follow_up: &LocalFollowUp,
    ) -> Result<Vec<StoredAttachment>> {
        if follow_up.side != Party::Holder {
            return Err(mismatch(
                "files are given by the holder; those of an answer that has come are read with it",
            ));
        }
        self.store.attachments(follow_up.id).await
    }

    /// Takes a file out of the answer that is being drafted. An answer that is proposed already is
    /// a new proposal without it.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`, `ATTACHMENT_UNKNOWN`; `FOLLOW_UP_MISMATCH` once the answer is approved.
    pub(crate) async fn take_file_out(
        &self,
        caller: &Caller,
        id: FollowUpId,
        file: AttachmentId,
    ) -> Result<()> {
        self.redraft(caller, id, FileChange::Delete(file)).await?;
        spool::remove(&self.attachments_dir, file).await
    }

    async fn seal_file(
        &self,
        peer: &Peer,
        follow_up: &LocalFollowUp,
        clear: &AttachmentClear,
        mut chunks: impl Stream<Item = Result<Bytes>> + Unpin + Send,
        spooled: &Spooled,
    ) -> Result<SealedFile> {
        let (_, clear_digest) = write_attachment(clear);
        let parties = (&follow_up.own, &follow_up.counterpart);
        let begun = SegmentSealer::begin(&peer.hpke, clear, clear_digest, parties, &mut os_rng());
        let (enc, mut segments) = begun.map_err(seal_error)?;
        let mut hasher = AttachmentHasher::new(&clear_digest, SUITE, &enc);
        let mut content = Sha256::new();
        let mut out = spooled.writer().await?;
        let mut buffer = Zeroizing::new(Vec::with_capacity(2 * SEGMENT));
        let mut left = clear.size;
        let other_size = || Error::field("size", "what came is of another size than was said");
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            left = left
                .checked_sub(chunk.len() as u64)
                .ok_or_else(other_size)?;
            content.update(&chunk);
            let mut chunk = &chunk[..];
            while !chunk.is_empty() {
                let (now, later) = chunk.split_at(chunk.len().min(SEGMENT - buffer.len()));
                buffer.extend_from_slice(now);
                chunk = later;
                if buffer.len() == SEGMENT {
                    let sealed = segments.seal(&buffer).map_err(seal_error)?;
                    hasher.update(&sealed);
                    out.write_all(&sealed).await.map_err(disk)?;
                    buffer.clear();
                }
            }
        }
        if left != 0 {
            return Err(other_size());
        }
        if !segments.is_complete() {
            let sealed = segments.seal(&buffer).map_err(seal_error)?;
            hasher.update(&sealed);
            out.write_all(&sealed).await.map_err(disk)?;
        }
        out.flush().await.map_err(disk)?;
        out.sync_all().await.map_err(disk)?;
        Ok(SealedFile {
            enc,
            digest: hasher.finish(),
            content_digest: Secret::new(content.finalize().into()),
        })
    }

    /// Changes the files of an answer that is drafted. One that is proposed already names them as
    /// they are then: it is another proposal, of everybody who had a part in it.
    async fn redraft(&self, caller: &Caller, id: FollowUpId, change: FileChange<'_>) -> Result<()> {
        let now = self.clock.now();
        let redraft = |f: &mut LocalFollowUp, files: &[StoredAttachment]| {
            check_due(f)?;
            let proposal = f.proposal.clone();
            let Some(mut proposal) = proposal.filter(|p| p.step == FollowUpStep::Answer) else {
                return Ok(());
            };
            fill_in(f, FollowUpStep::Answer, &mut proposal.draft, files);
            proposal.id = ProposalId::generate(now, &mut os_rng());
            let own = caller.identities.iter().cloned();
            proposal.drafters.extend(own);
            proposal.drafters.sort_unstable();
            proposal.drafters.dedup();
            f.proposal = Some(proposal);
            f.news.push(News::Proposed(FollowUpStep::Answer));
            Ok(())
        };
        let changed = self.change_with_files(id, Some(change), &redraft).await;
        changed.map(drop)
    }

    /// Forgets the files of a follow-up, and removes what is sealed of them.
    pub(super) async fn drop_files(&self, id: FollowUpId) -> Result<()> {
        for file in self.store.attachments(id).await? {
            spool::remove(&self.attachments_dir, file.id).await?;
        }
        self.store.forget_attachments(id).await
    }

    /// Removes what is left on the disk of files that nobody waits for, after a restart.
    ///
    /// # Errors
    /// Those of the store and of the disk.
    pub(crate) async fn clear_attachments(&self) -> Result<()> {
        let waiting = self.store.waiting_attachments().await?;
        spool::clear(&self.attachments_dir, &waiting).await
    }

    /// Brings the files of an answer to the broker, from where it has them.
    ///
    /// # Errors
    /// Those of the broker; it is tried again.
    pub(super) async fn upload_files(&self, follow_up: &LocalFollowUp) -> Result<()> {
        let files = self.store.attachments(follow_up.id).await?;
        let waiting: Vec<_> = files.iter().filter(|file| !file.uploaded).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if follow_up.state()? != FollowUpState::Accepted {
            // No answer will name them.
            return self.drop_files(follow_up.id).await;
        }
        for file in waiting {
            self.upload_file(file).await?;
            self.store.set_uploaded(file.id).await?;
            spool::remove(&self.attachments_dir, file.id).await?;
        }
        Ok(())
    }

    async fn upload_file(&self, file: &StoredAttachment) -> Result<()> {
        let (kem, kdf, aead) = SUITE.ids();
        let announced = v1::CreateAttachmentRequest {
            community: self.community.to_string(),
            clear: file.clear.clone().into(),
            kem: kem.into(),
            kdf: kdf.into(),
            aead: aead.into(),
            enc: file.enc.clone().into(),
            digest: file.digest.to_vec().into(),
        };
        let mut client = self.broker.follow_ups();
        let create = |request| async move { client.create_attachment(request).await };
        let begun = call_once(announced, CALL_TIMEOUT, create).await?;
        if begun.acknowledged >= begun.sealed_size {
            return Ok(());
        }
        let place = v1::AttachmentPlace {
            community: self.community.to_string(),
            follow_up_id: file.follow_up.as_bytes().to_vec().into(),
            attachment_id: file.id.as_bytes().to_vec().into(),
            offset: begun.acknowledged,
        };
        let parts = upload_parts(&self.attachments_dir, file.id, place).await?;
        let mut request = tonic::Request::new(parts);
        request.set_timeout(LONG_CALL_TIMEOUT);
        let mut client = self.broker.follow_ups();
        let answer = client.upload_attachment(request).await;
        let answer = answer.map_err(|status| refusal(&status))?.into_inner();
        if answer.acknowledged < begun.sealed_size {
            return Err(Error::unavailable("a file is not whole at the broker yet"));
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<()> {
    let fits = (1..=MAX_NAME).contains(&name.chars().count());
    if !fits || name.chars().any(char::is_control) {
        let text = "1 to 255 characters, no control characters";
        return Err(Error::field("name", text));
    }
    Ok(())
}

fn check_due(follow_up: &LocalFollowUp) -> Result<()> {
    let due = follow_up.side == Party::Holder
        && follow_up.state()? == FollowUpState::Accepted
        && !follow_up.is_pending();
    if due {
        return Ok(());
    }
    Err(mismatch(
        "files are added and removed by the holder, once the request is accepted and until the \
         answer is approved",
    ))
}
