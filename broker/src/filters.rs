//! Filter files (protocol §6): uploads that grow, and filters that are sealed.
//!
//! `uploads/<publication id>` grows chunk by chunk; what is in it is durable and acknowledged.
//! `filters/<digest>.<publication id>` is complete, of mode 0400, and never written again: such files
//! are mapped. The id is there because nothing keeps a node from announcing the same bits twice:
//! the end of one publication must not delete another's file.
//! Which of them count is said by the ledger alone; [`FilterFiles::sweep`] removes the rest.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::PublicationId;

/// The two folders. All calls block on the disk: run them off the async threads.
#[derive(Clone, Debug)]
pub(crate) struct FilterFiles {
    uploads: PathBuf,
    filters: PathBuf,
}

impl FilterFiles {
    /// Opens or makes the folders below `dir`, of mode 0700.
    ///
    /// # Errors
    /// If they cannot be made.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let files = Self {
            uploads: dir.join("uploads"),
            filters: dir.join("filters"),
        };
        for folder in [&files.uploads, &files.filters] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        Ok(files)
    }

    fn upload(&self, id: PublicationId) -> PathBuf {
        self.uploads.join(id.to_string())
    }

    /// Where the sealed filter of this publication is, or would be.
    pub(crate) fn path(&self, id: PublicationId, digest: &[u8; 32]) -> PathBuf {
        self.filters.join(sealed_name(id, digest))
    }

    /// Bytes of an upload that are durable.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the disk cannot tell.
    pub(crate) fn acknowledged(&self, id: PublicationId) -> Result<u64> {
        match fs::metadata(self.upload(id)) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Error::unavailable(error)),
        }
    }

    /// Appends a chunk and makes it durable; returns the new length.
    ///
    /// # Errors
    /// `OFFSET_MISMATCH` with the offset to go on from, `FILTER_LENGTH` beyond `length`, or
    /// `UNAVAILABLE` (a full disk): the upload is then as it was.
    pub(crate) fn append(
        &self,
        id: PublicationId,
        offset: u64,
        data: &[u8],
        length: u64,
    ) -> Result<u64> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.upload(id))
            .map_err(Error::unavailable)?;
        let acknowledged = file.metadata().map_err(Error::unavailable)?.len();
        if offset != acknowledged {
            return Err(offset_mismatch(acknowledged));
        }
        let end = offset + data.len() as u64;
        if end > length {
            return Err(Error::new(
                ErrorCode::FilterLength,
                format!("the header says {length} bytes"),
            ));
        }
        let written = file
            .write_all_at(data, offset)
            .and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Half a chunk must not count as acknowledged.
            let undone = file.set_len(acknowledged).and_then(|()| file.sync_data());
            return Err(Error::unavailable(undone.err().unwrap_or(error)));
        }
        Ok(end)
    }

    /// The bits of an upload, to be checked.
    ///
    /// # Errors
    /// `UNAVAILABLE` if it cannot be opened.
    pub(crate) fn upload_path(&self, id: PublicationId) -> PathBuf {
        self.upload(id)
    }

    /// Forgets an upload.
    pub(crate) fn delete_upload(&self, id: PublicationId) {
        remove(&self.upload(id));
    }

    /// Turns a checked upload into a sealed filter: read-only and durable.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the disk refuses; the upload is still there then.
    pub(crate) fn seal(&self, id: PublicationId, digest: &[u8; 32]) -> Result<()> {
        let upload = self.upload(id);
        let seal = || {
            File::open(&upload)?.sync_all()?;
            fs::set_permissions(&upload, Permissions::from_mode(0o400))?;
            fs::rename(&upload, self.path(id, digest))?;
            File::open(&self.filters)?.sync_all()
        };
        seal().map_err(Error::unavailable)
    }

    /// Makes a sealed filter an upload again: its activation did not happen.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the disk refuses.
    pub(crate) fn unseal(&self, id: PublicationId, digest: &[u8; 32]) -> Result<()> {
        let (sealed, upload) = (self.path(id, digest), self.upload(id));
        let unseal = || {
            fs::set_permissions(&sealed, Permissions::from_mode(0o600))?;
            fs::rename(&sealed, &upload)
        };
        unseal().map_err(Error::unavailable)
    }

    /// Deletes a sealed filter. Maps of it stay readable until they are dropped.
    pub(crate) fn delete(&self, id: PublicationId, digest: &[u8; 32]) {
        remove(&self.path(id, digest));
    }

    /// Whether a sealed filter is there.
    pub(crate) fn exists(&self, id: PublicationId, digest: &[u8; 32]) -> bool {
        self.path(id, digest).exists()
    }

    /// Deletes every file that the ledger does not name. To be called before anything is served.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub(crate) fn sweep(
        &self,
        uploads: &HashSet<PublicationId>,
        filters: &HashSet<(PublicationId, [u8; 32])>,
    ) -> io::Result<u64> {
        let uploads: HashSet<_> = uploads.iter().map(ToString::to_string).collect();
        let filters: HashSet<_> = filters.iter().map(|(id, d)| sealed_name(*id, d)).collect();
        let mut swept = 0;
        for (folder, keep) in [(&self.uploads, uploads), (&self.filters, filters)] {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if !entry
                    .file_name()
                    .to_str()
                    .is_some_and(|name| keep.contains(name))
                {
                    remove(&entry.path());
                    swept += 1;
                }
            }
        }
        Ok(swept)
    }
}

fn sealed_name(id: PublicationId, digest: &[u8; 32]) -> String {
    format!("{}.{id}", hex::encode(digest))
}

fn offset_mismatch(acknowledged: u64) -> Error {
    let text = format!("go on from offset {acknowledged}");
    Error::new(ErrorCode::OffsetMismatch, text).about(acknowledged.to_string())
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            // The next sweep tries again.
            tracing::warn!(%error, "a filter file could not be deleted");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use sotto_common::random::os_rng;
    use sotto_common::time::Timestamp;

    use super::*;

    fn id() -> PublicationId {
        PublicationId::generate(Timestamp::from_seconds(1), &mut os_rng())
    }

    #[test]
    fn an_upload_resumes_only_at_its_acknowledged_offset() {
        let dir = tempfile::tempdir().expect("tempdir");
        let files = FilterFiles::open(dir.path()).expect("opened");
        let id = id();
        assert_eq!(files.acknowledged(id).expect("length"), 0);
        assert_eq!(files.append(id, 0, b"abcd", 8).expect("stored"), 4);
        let error = files.append(id, 0, b"abcd", 8).expect_err("overlap");
        assert_eq!(error.code, ErrorCode::OffsetMismatch);
        assert_eq!(error.subject.as_deref(), Some("4"));
        let error = files.append(id, 4, b"efghi", 8).expect_err("too long");
        assert_eq!(error.code, ErrorCode::FilterLength);
        assert_eq!(files.append(id, 4, b"efgh", 8).expect("stored"), 8);
    }

    #[test]
    fn sealed_filters_are_read_only_and_unnamed_files_are_swept() {
        let dir = tempfile::tempdir().expect("tempdir");
        let files = FilterFiles::open(dir.path()).expect("opened");
        let (kept, dropped) = (id(), id());
        for id in [kept, dropped] {
            files.append(id, 0, b"abcd", 4).expect("stored");
        }
        files.seal(kept, &[7; 32]).expect("sealed");
        let mode = fs::metadata(files.path(kept, &[7; 32]))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o400);
        let swept = files
            .sweep(&HashSet::new(), &HashSet::from([(kept, [7; 32])]))
            .expect("swept");
        assert_eq!(swept, 1);
        assert!(files.exists(kept, &[7; 32]));
        assert_eq!(files.acknowledged(dropped).expect("length"), 0);
    }
}
