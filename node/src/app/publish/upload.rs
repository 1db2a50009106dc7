//! Uploading a filter until it is active (protocol §6).

use std::io::SeekFrom;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::publication::{MAX_CHUNK, PublicationState};
use sotto_proto::v1;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::PublishProgress;
use crate::app::App;
use crate::app::jobs::Reporter;
use crate::broker::{Backoff, LONG_CALL_TIMEOUT, ask, call_once, refusal};
use crate::store::OutboxItem;

/// How long the broker may take to acknowledge a chunk.
const CHUNK_TIMEOUT: Duration = Duration::from_mins(1);

impl App {
    /// Announces, uploads from where the broker is, and activates.
    pub(super) async fn upload(
        &self,
        item: &OutboxItem,
        reporter: &Reporter<PublishProgress>,
        backoff: &mut Backoff,
    ) -> Result<()> {
        let total = item.header.params.byte_len();
        let request = v1::CreatePublicationRequest {
            community: self.community.to_string(),
            header: Some(item.envelope.clone()),
        };
        let answer = ask!(self.broker.publications(), create_publication, request).await?;
        match answer.state().domain() {
            Some(PublicationState::Uploading) => {}
            Some(PublicationState::Active) => return Ok(()),
            _ => {
                return Err(Error::new(
                    ErrorCode::PublicationState,
                    "the publication has ended at the broker",
                ));
            }
        }
        reporter.update(|p| p.acknowledged = answer.acknowledged);
        if answer.acknowledged < total {
            self.upload_from(item, answer.acknowledged, reporter, backoff)
                .await?;
        }
        let request = v1::ActivatePublicationRequest {
            community: self.community.to_string(),
            publication_id: item.header.publication.as_bytes().to_vec().into(),
        };
        let mut client = self.broker.publications();
        call_once(request, LONG_CALL_TIMEOUT, |request| async move {
            client.activate_publication(request).await
        })
        .await
        .map(drop)
    }

    async fn upload_from(
        &self,
        item: &OutboxItem,
        offset: u64,
        reporter: &Reporter<PublishProgress>,
        backoff: &mut Backoff,
    ) -> Result<()> {
        let path = self.outbox_file(item.header.publication);
        let mut file = File::open(path).await.map_err(Error::internal)?;
        file.seek(SeekFrom::Start(offset))
            .await
            .map_err(Error::internal)?;
        let first = v1::UploadPublicationRequest {
            community: self.community.to_string(),
            publication_id: item.header.publication.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let total = item.header.params.byte_len();
        let mut answers = self
            .broker
            .publications()
            .upload_publication(chunks(file, offset, total, first))
            .await
            .map_err(|status| refusal(&status))?
            .into_inner();
        let mut acknowledged = offset;
        while acknowledged < total {
            let answer = tokio::time::timeout(CHUNK_TIMEOUT, answers.message())
                .await
                .map_err(Error::unavailable)?
                .map_err(|status| refusal(&status))?
                .ok_or_else(|| Error::unavailable("the upload ended early"))?;
            acknowledged = answer.acknowledged;
            backoff.reset();
            reporter.update(|p| p.acknowledged = acknowledged);
        }
        Ok(())
    }
}

/// The chunks of a filter from an offset on; the first says which publication they are of.
fn chunks(
    file: File,
    offset: u64,
    total: u64,
    first: v1::UploadPublicationRequest,
) -> impl Stream<Item = v1::UploadPublicationRequest> + Send + 'static {
    let next = move |(mut file, offset, head): (File, u64, v1::UploadPublicationRequest)| async move {
        let left = usize::try_from(total.saturating_sub(offset)).unwrap_or(MAX_CHUNK);
        let mut data = vec![0; left.min(MAX_CHUNK)];
        if data.is_empty() {
            return None;
        }
        // A file that cannot be read ends the stream early: the upload is then tried again.
        file.read_exact(&mut data).await.ok()?;
        let after = offset + data.len() as u64;
        let chunk = v1::UploadPublicationRequest {
            offset,
            data: data.into(),
            ..head
        };
        Some((
            chunk,
            (file, after, v1::UploadPublicationRequest::default()),
        ))
    };
    futures::stream::unfold((file, offset, first), next).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn chunks_begin_at_the_offset_and_only_the_first_names_the_publication() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("filter");
        let bits: Vec<u8> = (0..=u8::MAX).cycle().take(MAX_CHUNK * 2 + 5).collect();
        std::fs::write(&path, &bits).expect("written");
        let mut file = File::open(&path).await.expect("opened");
        file.seek(SeekFrom::Start(3)).await.expect("there");
        let first = v1::UploadPublicationRequest {
            community: "c".into(),
            ..Default::default()
        };
        let sent: Vec<_> = chunks(file, 3, bits.len() as u64, first).collect().await;
        let shape: Vec<_> = sent
            .iter()
            .map(|chunk| (chunk.community.as_str(), chunk.offset, chunk.data.len()))
            .collect();
        let mib = MAX_CHUNK as u64;
        assert_eq!(
            shape,
            [
                ("c", 3, MAX_CHUNK),
                ("", 3 + mib, MAX_CHUNK),
                ("", 3 + 2 * mib, 2)
            ]
        );
        let data: Vec<u8> = sent.iter().flat_map(|chunk| chunk.data.to_vec()).collect();
        assert_eq!(data, bits[3..]);
    }
}
