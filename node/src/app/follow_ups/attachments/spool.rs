//! Sealed files on the disk: of mode 0600, and gone when nobody needs them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{Stream, stream};
use prost::bytes::Bytes;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::AttachmentId;
use sotto_proto::v1;
use sotto_proto::v1::upload_attachment_request::Part;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// Bytes that are sent at a time; the broker takes 64 KiB to 1 MiB.
const CHUNK: usize = 512 * 1024;

/// When asking again makes sense once a person has to make room.
const UNTIL_ROOM: Duration = Duration::from_mins(1);

/// A disk that is full or does not work: nothing of the file stays. A quota, or a limit that the
/// process runs under, is a disk that is full.
pub(super) fn disk(error: std::io::Error) -> Error {
    use ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    if !matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
        return Error::internal(error);
    }
    let text = "the node's disk has no room for the file, and nothing of it was kept: have room made \
                below `data_dir`, then do the same again";
    let mut full = Error::new(ErrorCode::Unavailable, text).retry_after(UNTIL_ROOM);
    full.source = Some(error.into());
    full
}

fn path(dir: &Path, file: AttachmentId) -> PathBuf {
    dir.join(format!("{file}.sealed"))
}

/// A file that is written, and removed unless it is kept.
pub(super) struct Spooled {
    path: PathBuf,
    kept: bool,
}

impl Spooled {
    /// A new, empty file.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn create(dir: &Path, file: AttachmentId) -> Result<Self> {
        let path = path(dir, file);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(&path).await.map_err(disk)?;
        Ok(Self { path, kept: false })
    }

    /// Writes at the end.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn writer(&self) -> Result<File> {
        let mut options = OpenOptions::new();
        options.append(true).open(&self.path).await.map_err(disk)
    }

    /// Reads from the beginning.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn reader(&self) -> Result<File> {
        File::open(&self.path).await.map_err(disk)
    }

    /// Empties it.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn truncate(&self) -> Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path).await;
        file.map_err(disk)?.set_len(0).await.map_err(disk)
    }

    /// It stays.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "a sealed file was not removed; it goes at the next start");
        }
    }
}

/// Whether a file is there, with this many bytes.
///
/// # Errors
/// Those of the disk.
pub(super) async fn has(dir: &Path, file: AttachmentId, size: u64) -> Result<bool> {
    match fs::metadata(path(dir, file)).await {
        Ok(found) => Ok(found.len() == size),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(disk(error)),
    }
}

/// Removes a file, if it is there.
pub(super) async fn remove(dir: &Path, file: AttachmentId) -> Result<()> {
    match fs::remove_file(path(dir, file)).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(disk(error)),
        _ => Ok(()),
    }
}

/// Removes everything but some.
pub(super) async fn clear(dir: &Path, but: &[AttachmentId]) -> Result<()> {
    let kept: Vec<_> = but.iter().map(|file| path(dir, *file)).collect();
    let mut entries = match fs::read_dir(dir).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(disk(error)),
    };
    while let Some(entry) = entries.next_entry().await.map_err(disk)? {
        if !kept.contains(&entry.path()) {
            fs::remove_file(entry.path()).await.map_err(disk)?;
        }
    }
    Ok(())
}

/// The messages of an upload from a place on. It ends early if the file cannot be read; the broker
/// says then how far it has come.
pub(super) async fn upload_parts(
    dir: &Path,
    file: AttachmentId,
    place: v1::AttachmentPlace,
) -> Result<impl Stream<Item = v1::UploadAttachmentRequest> + Send + 'static> {
    let mut source = File::open(path(dir, file)).await.map_err(disk)?;
    let from = std::io::SeekFrom::Start(place.offset);
    source.seek(from).await.map_err(disk)?;
    let begin = v1::UploadAttachmentRequest {
        part: Some(Part::Begin(place)),
    };
    let chunks = stream::unfold(source, |mut source| async move {
        let chunk = read_up_to(&mut source, CHUNK).await.ok()?;
        if chunk.is_empty() {
            return None;
        }
        let part = Some(Part::Chunk(Bytes::from(chunk)));
        Some((v1::UploadAttachmentRequest { part }, source))
    });
    Ok(futures::StreamExt::chain(stream::iter([begin]), chunks))
}

/// The next bytes: as many as asked for unless the file ends.
///
/// # Errors
/// Those of the disk.
pub(super) async fn read_up_to(source: &mut File, most: usize) -> Result<Vec<u8>> {
    let mut chunk = Vec::new();
    let mut limited = source.take(most as u64);
    limited.read_to_end(&mut chunk).await.map_err(disk)?;
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_disk_without_room_is_told_with_what_to_do_and_any_other_fault_is_not() {
        // ENOSPC, EDQUOT and EFBIG, as Linux numbers them.
        for number in [28, 122, 27] {
            let error = disk(io::Error::from_raw_os_error(number));
            assert_eq!(error.code, ErrorCode::Unavailable, "{number}");
            assert!(error.text.contains("have room made"), "{error}");
            assert!(error.retry_after.is_some() && error.source.is_some());
        }
        let error = disk(io::Error::from(ErrorKind::PermissionDenied));
        assert_eq!(error.code, ErrorCode::Internal);
    }
}
