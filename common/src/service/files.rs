//! Files that must be whole or absent, and files that only their owner may read.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use rand::CryptoRng;
use zeroize::Zeroizing;

use super::config::ConfigError;
use crate::random;

/// A key, a certificate or a list of revocations is never longer than this, in bytes.
const MAX_SMALL_FILE: u64 = 16 * 1024 * 1024;

/// Who may read a file that is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readers {
    /// The owner alone: mode 0600.
    Owner,
    /// Everyone: mode 0644.
    Everyone,
}

impl Readers {
    const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everyone => 0o644,
        }
    }
}

/// Writes a file so that a reader, or a crash, sees the old content or the new and nothing else.
///
/// # Errors
/// The error of the file system; the old content then stands.
pub fn write(
    path: &Path,
    content: &[u8],
    readers: Readers,
    rng: &mut impl CryptoRng,
) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", hex::encode(random::bytes::<8>(rng))));
    let temporary = directory.join(name);

    let written = write_new(&temporary, content, readers)
        .and_then(|()| std::fs::rename(&temporary, path))
        .and_then(|()| File::open(directory)?.sync_all());
    if written.is_err() {
        // Best effort: the error that matters is the one returned.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write_new(path: &Path, content: &[u8], readers: Readers) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(readers.mode())
        .open(path)?;
    // The umask may have taken bits away; it cannot have added any.
    file.set_permissions(Permissions::from_mode(readers.mode()))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Reads a small file, of at most 16 MiB.
///
/// # Errors
/// The error of the file system, or `InvalidData` if the file is longer.
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_bounded(&File::open(path)?)
}

/// Reads a small file that only its owner may read; `None` if others may.
///
/// A file that systemd handed over in `$CREDENTIALS_DIRECTORY` may be of mode 0440 too.
///
/// # Errors
/// As [`read_small`].
pub fn read_private(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = File::open(path)?;
    let handed_over = std::env::var_os("CREDENTIALS_DIRECTORY")
        .is_some_and(|directory| path.parent() == Some(Path::new(&directory)));
    // The mode of the open file, not of the path: the two may differ by the time it is read.
    if is_exposed(file.metadata()?.permissions().mode(), handed_over) {
        return Ok(None);
    }
    Ok(Some(Zeroizing::new(read_bounded(&file)?)))
}

/// Whether a mode lets others than the owner at a file. systemd gives root's credentials to the
/// user of a unit by an access list, whose mask is shown as the bits of the group: there, reading
/// by the group means reading by that user.
const fn is_exposed(mode: u32, handed_over: bool) -> bool {
    let allowed = if handed_over { 0o740 } else { 0o700 };
    mode & 0o777 & !allowed != 0
}

/// What changes when one of some files does: cheaper to compare than their content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileMarks(Vec<Option<(u64, u64, SystemTime)>>);

impl FileMarks {
    /// The marks of the files as they are now; a file that is not there has one too.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        use std::os::unix::fs::MetadataExt;

        let mark = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
        };
        Self(paths.into_iter().map(mark).collect())
    }
}

fn read_bounded(file: &File) -> io::Result<Vec<u8>> {
    // Sized first, so that the content of a private file is not left behind in a grown buffer.
    let length = usize::try_from(file.metadata()?.len().min(MAX_SMALL_FILE)).unwrap_or(0);
    let mut content = Vec::with_capacity(length + 1);
    file.take(MAX_SMALL_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_SMALL_FILE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is longer than 16 MiB",
        ));
    }
    Ok(content)
}

/// A folder that is this process's alone: the lock ends with its owner, however that ends.
#[derive(Debug)]
pub struct DirLock {
    /// The open file is the lock.
    file: File,
}

impl Drop for DirLock {
    /// Said, not left to the closing of the file: a child that is just being started has the open
    /// file too, until it becomes another program.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl DirLock {
    /// Locks the file `lock` in `dir`, which is made with mode 0600 if it is not there, and stays.
    ///
    /// # Errors
    /// [`ConfigError`] if another process, or another owner in this one, has the folder, or the
    /// file cannot be made.
    pub fn acquire(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(ConfigError::unwritable(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => {
                let problem = "this folder is used by another process that runs: stop that one, \
                               or give each a folder (`data_dir`) of its own";
                Err(ConfigError::content(dir, problem))
            }
            Err(TryLockError::Error(error)) => Err(ConfigError::unwritable(&path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_readable_by_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        write(&path, b"k", Readers::Owner, &mut random::os_rng()).expect("written");
        assert_eq!(
            path.metadata().expect("exists").permissions().mode() & 0o777,
            0o600
        );
        let read = read_private(&path).expect("read").expect("private");
        assert_eq!(*read, b"k");
    }

    #[test]
    fn a_credential_of_systemd_may_show_the_mask_of_its_access_list_and_no_more() {
        assert!(!is_exposed(0o100_440, true));
        for (mode, handed_over) in [(0o100_440, false), (0o100_460, true), (0o100_444, true)] {
            assert!(is_exposed(mode, handed_over), "{mode:o}");
        }
    }

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let owner = DirLock::acquire(dir.path()).expect("the first");
        let error = DirLock::acquire(dir.path()).expect_err("the second");
        let text = error.to_string();
        assert!(text.contains(&dir.path().display().to_string()), "{text}");
        assert!(text.contains("data_dir"), "{text}");
        // What a child that is being started has of it.
        let of_a_child = owner.file.try_clone().expect("another handle");
        drop(owner);
        DirLock::acquire(dir.path()).expect("the next");
        drop(of_a_child);
    }

    #[test]
    fn writing_again_replaces_the_file_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("list");
        for content in [&b"old"[..], b"new"] {
            write(&path, content, Readers::Everyone, &mut random::os_rng()).expect("written");
        }
        assert_eq!(read_small(&path).expect("read"), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
