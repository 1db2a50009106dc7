//! Everything of one follow-up for a case file: statements, contents, what the audit log proves, a
//! dossier to read, and a signed list of digests.

mod json;
mod proofs;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use prost::Message as _;
use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};
use sotto_common::dsse::StatementKind;
use sotto_common::error::{Error, Result};
use sotto_common::followup::{FollowUpStep, Party};
use sotto_common::ids::{AttachmentId, FollowUpId};
use sotto_common::time::Timestamp;
use sotto_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::super::App;
use super::decoded;
use crate::follow_up::LocalFollowUp;

/// Bytes of a file that leave at a time.
const CHUNK: usize = 256 * 1024;
/// Parts that wait for a reader who is slow.
const AHEAD: usize = 4;
/// Most characters in the name of a file within the bundle.
const MAX_FILE_NAME: usize = 120;

const SIGNED: &str = "The steps are proved by the signatures of both nodes (statements/) and by the \
chain of their digests.\n";

const UNSIGNED: &str =
    "The steps are not proved by the signatures of both nodes any more: see erased.txt.\n";

impl App {
    /// The files of a bundle, one after another; the last two are the digests of all before them,
    /// and this node's signature over those.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`; those of the store, of the broker and of the disk, which may also come
    /// within the stream: what came before is then not the whole.
    pub(crate) async fn export_follow_up(
        self: &Arc<Self>,
        id: FollowUpId,
        with_attachments: bool,
    ) -> Result<impl Stream<Item = Result<v1::ExportFollowUpResponse>> + Send + 'static> {
        let story = self.follow_up_story(id, true).await?;
        let follow_up = self.follow_up(id).await?;
        let (out, told) = mpsc::channel(AHEAD);
        let app = Arc::clone(self);
        tokio::spawn(async move {
            let mut bundle = Bundle {
                out,
                sums: String::new(),
            };
            let written = app.write_bundle(&mut bundle, &story, &follow_up, with_attachments);
            if let Err(error) = written.await {
                // Nobody reads any more if this fails.
                let _ = bundle.out.send(Err(error)).await;
            }
        });
        Ok(ReceiverStream::new(told))
    }

    async fn write_bundle(
        &self,
        bundle: &mut Bundle,
        story: &v1::GetNodeFollowUpResponse,
        follow_up: &LocalFollowUp,
        with_attachments: bool,
    ) -> Result<()> {
        let mut whole = json::story(story);
        whole["not_taken"] = json::refusals(&self.store.follow_up_refusals(follow_up.id).await?);
        whole["discarded"] = json::discards(&self.store.follow_up_discards(follow_up.id).await?);
        let text = serde_json::to_vec_pretty(&whole).map_err(Error::internal)?;
        bundle.file("follow-up.json", text).await?;
        for step in &follow_up.steps {
            if let Some(envelope) = &step.envelope {
                let path = format!("statements/{:03}-{}.pb", step.clear.seq, step.clear.step());
                bundle.file(&path, envelope.encode_to_vec()).await?;
            }
        }
        let (manifest, envelope) = self.manifest_of(follow_up.epoch).await?;
        let keys = json::keys(&manifest, [&follow_up.own, &follow_up.counterpart])?;
        let keys = serde_json::to_vec_pretty(&keys).map_err(Error::internal)?;
        bundle.file("keys.json", keys).await?;
        bundle.file("manifest.pb", envelope.encode_to_vec()).await?;
        let proofs = self.prove_follow_up(follow_up).await;
        let dossier = crate::dossier::html(story, &proofs.in_log(), self.clock.now());
        bundle.file("dossier.html", dossier.into_bytes()).await?;
        let proved = match follow_up.erased_at {
            Some(at) => {
                bundle.file("erased.txt", erased(at).into_bytes()).await?;
                UNSIGNED
            }
            None => SIGNED,
        };
        proofs.write(bundle, proved).await?;
        if with_attachments && follow_up.side == Party::Requester {
            self.write_attachments(bundle, follow_up).await?;
        }
        let sums = std::mem::take(&mut bundle.sums).into_bytes();
        let signing = self.keystore.signing();
        let signed = signing.sign(StatementKind::FollowUpBundle, sums.clone());
        bundle.file("SHA256SUMS", sums).await?;
        let signed = v1::DsseEnvelope::from(signed).encode_to_vec();
        bundle.file("SHA256SUMS.dsse", signed).await
    }

    async fn write_attachments(
        &self,
        bundle: &mut Bundle,
        follow_up: &LocalFollowUp,
    ) -> Result<()> {
        let content = follow_up.content_of(FollowUpStep::Answer);
        let answer = content.and_then(|content| decoded::<v1::FollowUpAnswer>(content));
        let mut taken = BTreeSet::new();
        for named in answer.map(|answer| answer.file_names).unwrap_or_default() {
            let file = AttachmentId::from_slice(&named.attachment_id).map_err(Error::internal)?;
            let opened = self.open_file(follow_up.id, file).await?;
            let path = format!("attachments/{}", file_name(&named.name, &mut taken));
            let segments = opened.segments().map(|segment| {
                let bytes = segment?.to_vec();
                Ok::<_, Error>(Bytes::from(bytes))
            });
            bundle.stream(&path, segments.boxed()).await?;
        }
        Ok(())
    }
}

/// What stands in the place of what was erased at a time.
fn erased(at: Timestamp) -> String {
    format!(
        "What was sealed in this follow-up was erased at this node at {at}, after the retention time\n\
         of the community: the request with its tags, the proof of presence, the particulars, texts\n\
         and answer, with all files; and the signed statements that they were part of.\n\n\
         What is left are the clear parts of the steps (follow-up.json, dossier.html): who took which\n\
         step and when, items, grounds, times and states.\n\n\
         Each signature was over the clear and the sealed part of a step together, and went with\n\
         them: no signature of a step can be checked any more. That the steps were as they stand\n\
         here is said by the audit log, as far as inclusion-proofs.txt goes, and else by the node\n\
         alone that wrote this bundle and signed its list of digests (SHA256SUMS.dsse).\n"
    )
}

/// A bundle on its way.
struct Bundle {
    out: mpsc::Sender<Result<v1::ExportFollowUpResponse>>,
    /// As `sha256sum --check` reads it.
    sums: String,
}

impl Bundle {
    async fn file(&mut self, path: &str, content: Vec<u8>) -> Result<()> {
        let content = Bytes::from(content);
        let chunks: Vec<_> = (0..content.len())
            .step_by(CHUNK)
            .map(|at| Ok(content.slice(at..content.len().min(at + CHUNK))))
            .collect();
        self.stream(path, stream::iter(chunks)).await
    }

    async fn stream(
        &mut self,
        path: &str,
        mut chunks: impl Stream<Item = Result<Bytes>> + Unpin + Send,
    ) -> Result<()> {
        let mut digest = Sha256::new();
        let mut first = path.to_owned();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            digest.update(&chunk);
            self.send(std::mem::take(&mut first), chunk).await?;
        }
        if !first.is_empty() {
            self.send(first, Bytes::new()).await?;
        }
        let digest = hex::encode(digest.finalize());
        // Writing to a text does not fail.
        let _ = writeln!(self.sums, "{digest}  {path}");
        Ok(())
    }

    async fn send(&self, path: String, chunk: Bytes) -> Result<()> {
        let part = v1::ExportFollowUpResponse { path, chunk };
        let sent = self.out.send(Ok(part)).await;
        sent.map_err(|_| Error::unavailable("nobody reads the bundle any more"))
    }
}

/// A name of the other side's, made safe to write to a disk, and one that none before it has.
fn file_name(own: &str, taken: &mut BTreeSet<String>) -> String {
    let safe: String = own
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_. ()".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(MAX_FILE_NAME)
        .collect();
    let safe = safe.trim_matches(['.', ' ']);
    let safe = if safe.is_empty() { "file" } else { safe };
    let mut name = safe.to_owned();
    let mut number = 1;
    // However a file system folds capitals.
    while !taken.insert(name.to_lowercase()) {
        number += 1;
        name = format!("{number}-{safe}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_safe_and_each_its_own() {
        let mut taken = BTreeSet::new();
        for (own, safe) in [
            ("report.pdf", "report.pdf"),
            ("REPORT.pdf", "2-REPORT.pdf"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("..", "file"),
            ("a\\b:c|d", "a_b_c_d"),
            ("\u{202e}fdp.exe", "_fdp.exe"),
            ("", "2-file"),
            ("Größe (1).txt", "Größe (1).txt"),
        ] {
            assert_eq!(file_name(own, &mut taken), safe);
        }
        assert!(file_name(&"x".repeat(500), &mut taken).len() <= MAX_FILE_NAME);
    }
}
