//! Files that go with an answer (protocol §10): sealed as they come and opened as they go, segment
//! by segment. What lies on the disk in between is sealed to the requester.

mod read;
mod receive;
mod spool;

use futures::{Stream, StreamExt as _};
use prost::bytes::Bytes;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::attachment::{AttachmentClear, MAX_NAME};
use sotto_common::followup::step::MAX_ATTACHMENTS;
use sotto_common::followup::{FollowUpState, FollowUpStep, Party};
use sotto_common::ids::{AttachmentId, FollowUpId};
use sotto_common::random::os_rng;
use sotto_common::sealed::{SealError, Suite};
use sotto_proto::convert::follow_up::read_attachment;
use sotto_proto::v1;

use super::super::App;
use super::draft::fill_in;
use super::mismatch;
use crate::auth::Caller;
use crate::broker::{CALL_TIMEOUT, LONG_CALL_TIMEOUT, call_once, refusal};
use crate::follow_up::{LocalFollowUp, News, ProposalId};
use crate::store::{FileChange, StoredAttachment};
pub(crate) use receive::{Announcement, Unfinished, UnfinishedFile};
use receive::{Receiving, Slot, elsewhere};
use spool::upload_parts;

const SUITE: Suite = Suite::X25519Sha256ChaCha20Poly1305;

/// Why a file did not come whole.
enum Ended {
    /// Its sender is gone, or somebody else sends it: what has come of it stays.
    There(Error),
    /// This node's disk, or another file than was announced: nothing of it stays.
    Here(Error),
}

/// A sealing that does not work: what it is of is wrong, or changed.
fn seal_error(_: SealError) -> Error {
    Error::new(
        ErrorCode::SealInvalid,
        "the file is not sealed as it should be",
    )
}

impl App {
    /// Adds a file to the answer that is being drafted: `chunks` are what is announced from `offset`
    /// on. It takes the place of one of its name whose bytes are missing. An answer that is proposed
    /// already is a new proposal with it. A file whose digest is announced stays as far as it has come
    /// if its sender breaks off, also by dropping this.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`; `FOLLOW_UP_MISMATCH` if no answer is due here; `LIMIT_REACHED` above 64
    /// files, or while too many are on their way; `OFFSET_MISMATCH` with the offset to go on from; `INVALID_FIELD`; `UNAVAILABLE` if the
    /// disk is full; `LOG_INCONSISTENT`. After `INVALID_FIELD` and `UNAVAILABLE` nothing is left of the file.
    pub(crate) async fn add_file(
        &self,
        caller: &Caller,
        id: FollowUpId,
        file: &Announcement,
        offset: u64,
        chunks: impl Stream<Item = Result<Bytes>> + Unpin + Send,
    ) -> Result<AttachmentId> {
        check_name(file.name.expose())?;
        self.check_log().await?;
        let follow_up = self.follow_up(id).await?;
        check_due(&follow_up)?;
        let given = self.store.attachments(id).await?;
        let mut instead_of = self.lost_files(&given).await?;
        instead_of.retain(|lost| {
            let of_name = |other: &StoredAttachment| other.id == *lost && other.name == file.name;
            given.iter().any(of_name)
        });
        let others = given.len() - instead_of.len();
        if others >= MAX_ATTACHMENTS {
            let text = format!("an answer has at most {MAX_ATTACHMENTS} files");
            return Err(Error::new(ErrorCode::LimitReached, text));
        }
        let now = self.clock.now();
        let slot = self.unfinished.slot(id, &caller.person, file, now)?;
        let place = (offset, others + 1);
        let received = self.receive(&slot, &follow_up, place, chunks).await;
        if !matches!(received, Err(Ended::There(_))) {
            self.unfinished.forget(&slot);
        }
        let received = received.map_err(|(Ended::There(error) | Ended::Here(error))| error)?;
        // Kept first: who hangs up meanwhile must not leave a row without its bytes.
        let stored = &received.keep(id, file, caller);
        let change = FileChange::Put {
            file: stored,
            instead_of: &instead_of,
        };
        if let Err(error) = self.redraft(caller, id, change).await {
            spool::remove(&self.attachments_dir, stored.id).await?;
            return Err(error);
        }
        for lost in instead_of {
            spool::remove(&self.attachments_dir, lost).await?;
        }
        Ok(stored.id)
    }

    /// What of this person's files broke off on its way to an answer.
    pub(crate) fn unfinished_files(&self, caller: &Caller, id: FollowUpId) -> Vec<UnfinishedFile> {
        self.unfinished.of(id, &caller.person)
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

    /// Those of an answer's files whose bytes are neither at the broker nor here: this node's data
    /// was brought back without them.
    ///
    /// # Errors
    /// Those of the store and the disk.
    pub(crate) async fn lost_files(&self, files: &[StoredAttachment]) -> Result<Vec<AttachmentId>> {
        let mut lost = Vec::new();
        for file in files.iter().filter(|file| !file.uploaded) {
            if !self.is_here(file).await? {
                lost.push(file.id);
            }
        }
        if !lost.is_empty() {
            // One that the broker has got meanwhile is not lost: its bytes go after that is noted.
            let waiting = self.store.waiting_attachments().await?;
            lost.retain(|file| waiting.contains(file));
        }
        Ok(lost)
    }

    /// Refuses an answer with a file whose bytes are missing, before anybody relies on it.
    ///
    /// # Errors
    /// `ATTACHMENT_STATE`, naming the file; those of the store and the disk.
    pub(super) async fn check_files(&self, id: FollowUpId) -> Result<()> {
        let files = self.store.attachments(id).await?;
        let lost = self.lost_files(&files).await?;
        let Some(file) = files.iter().find(|file| lost.contains(&file.id)) else {
            return Ok(());
        };
        // For the unit's own people, who gave it this name.
        let name = file.name.expose();
        let more = match lost.len() - 1 {
            0 => String::new(),
            more => format!(" and of {more} more"),
        };
        let text = format!(
            "the bytes of {name}{more} are missing at this node: attach it again, or remove it"
        );
        Err(Error::new(ErrorCode::AttachmentState, text))
    }

    async fn is_here(&self, file: &StoredAttachment) -> Result<bool> {
        let (clear, _) = read_attachment(&file.clear)?;
        spool::has(&self.attachments_dir, file.id, clear.sealed_size()).await
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

    /// Takes what comes of a file until it is whole, as the file of this number.
    async fn receive(
        &self,
        slot: &Slot,
        follow_up: &LocalFollowUp,
        (offset, number): (u64, usize),
        mut chunks: impl Stream<Item = Result<Bytes>> + Unpin + Send,
    ) -> Result<Receiving, Ended> {
        let (mut received, sender) = slot.enter().await;
        if offset == 0 {
            // Sent from its beginning: what has come of it before goes.
            *received = None;
            slot.acknowledge(0);
            let begun = self.begin_file(follow_up, slot.file.size, number).await;
            *received = Some(begun.map_err(Ended::Here)?);
        }
        let acknowledged = received.as_ref().map_or(0, Receiving::taken);
        let here = received.as_mut().filter(|_| acknowledged == offset);
        let here = here.ok_or_else(|| Ended::There(elsewhere(acknowledged)))?;
        here.go_on().await.map_err(Ended::Here)?;
        let overtaken = slot.overtaken(sender);
        tokio::pin!(overtaken);
        loop {
            let chunk = tokio::select! {
                () = &mut overtaken => {
                    let text = "this file is sent by another call of yours now";
                    return Err(Ended::There(Error::unavailable(text)));
                }
                chunk = chunks.next() => chunk,
            };
            let Some(chunk) = chunk else { break };
            let chunk = chunk.map_err(Ended::There)?;
            here.take(&chunk, slot).await.map_err(Ended::Here)?;
        }
        here.finish(&slot.file).await.map_err(Ended::Here)?;
        // It is there: this call holds it.
        Option::take(&mut received).ok_or_else(|| Ended::There(elsewhere(0)))
    }

    async fn begin_file(
        &self,
        follow_up: &LocalFollowUp,
        size: u64,
        number: usize,
    ) -> Result<Receiving> {
        let file = AttachmentId::generate(self.clock.now(), &mut os_rng());
        // A name that says nothing of the case; the file's own is sealed with the answer.
        let neutral = format!("attachment-{number}");
        let clear = AttachmentClear::new(follow_up.id, file, &neutral, size)?;
        let peer = self.peer(follow_up.epoch, &follow_up.counterpart).await?;
        let parties = (&follow_up.own, &follow_up.counterpart);
        Receiving::begin(&self.attachments_dir, &peer.hpke, &clear, parties).await
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
        self.unfinished.forget_of(id);
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

    /// Brings the files of an answer to the broker, from where it has them. An approved answer with a
    /// file whose bytes are missing is taken back.
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
        self.check_log().await?;
        let mut is_lost = false;
        for file in waiting {
            if self.upload_file(file).await? {
                self.store.set_uploaded(file.id).await?;
                spool::remove(&self.attachments_dir, file.id).await?;
            } else {
                is_lost = true;
            }
        }
        let mut pending = follow_up.steps.iter().filter(|s| s.taken_at.is_none());
        if is_lost && pending.any(|step| step.clear.step() == FollowUpStep::Answer) {
            self.drop_answer(follow_up.id).await?;
        }
        Ok(())
    }

    /// Takes back an approved answer, a file of which the broker has not and can never get.
    async fn drop_answer(&self, id: FollowUpId) -> Result<()> {
        let drop_it = |f: &mut LocalFollowUp| {
            f.drop_pending("the bytes of a file are missing at this node: attach it again");
            Ok(())
        };
        self.change(id, &drop_it).await.map(drop)
    }

    /// Brings a file to the broker; false if its bytes are missing, there and here.
    async fn upload_file(&self, file: &StoredAttachment) -> Result<bool> {
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
            return Ok(true);
        }
        if !self.is_here(file).await? {
            return Ok(false);
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
        Ok(true)
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
