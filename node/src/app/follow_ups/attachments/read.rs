//! As requester: a file is downloaded sealed, checked as a whole against the answer, and only then
//! opened.

use futures::{Stream, stream};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::attachment::{AttachmentClear, AttachmentHasher, SegmentOpener};
use sotto_common::followup::step::StepDetail;
use sotto_common::followup::{FollowUpStep, Party};
use sotto_common::ids::{AttachmentId, FollowUpId};
use sotto_common::random::os_rng;
use sotto_common::sealed::Suite;
use sotto_proto::convert::follow_up::{read_attachment, suite};
use sotto_proto::v1;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use zeroize::Zeroizing;

use super::super::super::App;
use super::super::decoded;
use super::seal_error;
use super::spool::{Spooled, disk, read_up_to};
use crate::broker::{Backoff, LONG_CALL_TIMEOUT, is_passing, refusal};
use crate::follow_up::LocalFollowUp;

/// How often a download goes on where it broke off.
const ATTEMPTS: u32 = 8;
/// Sealed bytes that are hashed at a time.
const CHUNK: usize = 512 * 1024;

/// A file whose sealed bytes are those that the answer names.
pub(crate) struct OpenFile {
    /// Its own name.
    pub(crate) name: String,
    /// Plaintext bytes.
    pub(crate) size: u64,
    opener: SegmentOpener,
    source: File,
    /// Removes the sealed bytes with this.
    _spooled: Spooled,
}

/// What a file was announced with.
struct Announced {
    clear: AttachmentClear,
    clear_digest: [u8; 32],
    suite: Suite,
    enc: Vec<u8>,
}

/// Why a download ended before its end.
enum Ended {
    /// The broker is away, broke off or refused: it may go on from where it is.
    There(Error),
    /// This node's disk, or another file than was announced: going on would not mend it.
    Here(Error),
}

fn unknown() -> Error {
    Error::new(
        ErrorCode::AttachmentUnknown,
        "there is no such file with the answer, or it is erased",
    )
}

fn changed() -> Error {
    Error::new(
        ErrorCode::SealInvalid,
        "the file at the broker is not the one that the answer names: nothing of it was opened",
    )
}

impl App {
    /// A file of an answer, downloaded and checked; nothing of it is opened yet.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`, `ATTACHMENT_UNKNOWN`; `SEAL_INVALID` if it is another than the answer
    /// names; those of the broker and of the disk.
    pub(crate) async fn open_file(&self, id: FollowUpId, file: AttachmentId) -> Result<OpenFile> {
        let follow_up = self.follow_up(id).await?;
        let (digest, name) = named(&follow_up, file)?;
        // Its own file: several people may read at once.
        let own = AttachmentId::generate(self.clock.now(), &mut os_rng());
        let spooled = Spooled::create(&self.attachments_dir, own).await?;
        let announced = self.download(id, file, &spooled).await?;
        let Announced {
            clear,
            clear_digest,
            suite,
            enc,
        } = announced;
        if (clear.follow_up, clear.id) != (id, file) {
            return Err(changed());
        }
        let mut hasher = AttachmentHasher::new(&clear_digest, suite, &enc);
        let mut source = spooled.reader().await?;
        loop {
            let chunk = read_up_to(&mut source, CHUNK).await?;
            if chunk.is_empty() {
                break;
            }
            hasher.update(&chunk);
        }
        if hasher.finish() != digest {
            return Err(changed());
        }
        let parties = (&follow_up.counterpart, &follow_up.own);
        let sealed = (suite, &enc[..]);
        let opener =
            SegmentOpener::begin(self.keystore.hpke(), sealed, &clear, clear_digest, parties);
        Ok(OpenFile {
            name,
            size: clear.size,
            opener: opener.map_err(seal_error)?,
            source: spooled.reader().await?,
            _spooled: spooled,
        })
    }

    async fn download(
        &self,
        id: FollowUpId,
        file: AttachmentId,
        spooled: &Spooled,
    ) -> Result<Announced> {
        let mut backoff = Backoff::default();
        let mut have = 0;
        let mut attempt = 1;
        loop {
            let error = match self.download_from(id, file, spooled, &mut have).await {
                Ok(announced) => return Ok(announced),
                Err(Ended::Here(error)) => return Err(error),
                Err(Ended::There(error)) => error,
            };
            if attempt == ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
            if error.code == ErrorCode::OffsetMismatch {
                spooled.truncate().await?;
                have = 0;
            } else if is_passing(&error) {
                tokio::time::sleep(backoff.pause(&mut os_rng())).await;
            } else {
                return Err(error);
            }
        }
    }

    async fn download_from(
        &self,
        id: FollowUpId,
        file: AttachmentId,
        spooled: &Spooled,
        have: &mut u64,
    ) -> Result<Announced, Ended> {
        let there = |status: tonic::Status| Ended::There(refusal(&status));
        let full = |error: std::io::Error| Ended::Here(disk(error));
        let place = v1::AttachmentPlace {
            community: self.community.to_string(),
            follow_up_id: id.as_bytes().to_vec().into(),
            attachment_id: file.as_bytes().to_vec().into(),
            offset: *have,
        };
        let mut request = tonic::Request::new(v1::DownloadAttachmentRequest { place: Some(place) });
        request.set_timeout(LONG_CALL_TIMEOUT);
        let mut client = self.broker.follow_ups();
        let parts = client.download_attachment(request).await;
        let mut parts = parts.map_err(there)?.into_inner();
        let mut out = spooled.writer().await.map_err(Ended::Here)?;
        let mut announced = None;
        while let Some(part) = parts.message().await.map_err(there)? {
            if let Some(first) = part.announced {
                announced = Some(read_announced(&first).map_err(Ended::Here)?);
            }
            let most = announced
                .as_ref()
                .map_or(0, |a: &Announced| a.clear.sealed_size());
            *have += part.chunk.len() as u64;
            if *have > most {
                return Err(Ended::Here(changed()));
            }
            out.write_all(&part.chunk).await.map_err(full)?;
            out.flush().await.map_err(full)?;
        }
        let is_whole = |announced: &Announced| *have == announced.clear.sealed_size();
        let early = || Ended::There(Error::unavailable("the download ended early"));
        announced.filter(is_whole).ok_or_else(early)
    }
}

fn read_announced(wire: &v1::CreateAttachmentRequest) -> Result<Announced> {
    let (clear, clear_digest) = read_attachment(&wire.clear)?;
    Ok(Announced {
        clear,
        clear_digest,
        suite: suite((wire.kem, wire.kdf, wire.aead))?,
        enc: wire.enc.to_vec(),
    })
}

/// The digest that the signed answer names for a file, and the file's own name.
fn named(follow_up: &LocalFollowUp, file: AttachmentId) -> Result<([u8; 32], String)> {
    if follow_up.side != Party::Requester || follow_up.erased_at.is_some() {
        return Err(unknown());
    }
    let answer = follow_up
        .steps
        .iter()
        .find_map(|step| match &step.clear.detail {
            StepDetail::Answer(answer) => Some(answer),
            _ => None,
        });
    let digest = answer.and_then(|a| a.attachments.iter().find(|named| named.id == file));
    let digest = digest.ok_or_else(unknown)?.digest;
    let content = follow_up.content_of(FollowUpStep::Answer);
    let answer = content.and_then(|content| decoded::<v1::FollowUpAnswer>(content));
    let names = answer.map(|answer| answer.file_names).unwrap_or_default();
    let name = names
        .into_iter()
        .find(|name| name.attachment_id == file.as_bytes()[..]);
    Ok((digest, name.map_or_else(String::new, |name| name.name)))
}

impl OpenFile {
    /// Its plaintext, segment by segment. A segment that does not open ends it with an error:
    /// what came before is not the whole file.
    pub(crate) fn segments(
        self,
    ) -> impl Stream<Item = Result<Zeroizing<Vec<u8>>>> + Send + 'static {
        stream::try_unfold(self, |mut file| async move {
            let Some(due) = file.opener.due() else {
                return Ok(None);
            };
            let sealed = read_up_to(&mut file.source, due).await?;
            let segment = file.opener.open(&sealed).map_err(seal_error)?;
            Ok(Some((segment, file)))
        })
    }
}
