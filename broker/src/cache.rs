//! The broker's own copies of filters, which it maps and tests against.
//!
//! `cache/<digest>.<publication id>` is complete, of mode 0400, and never written again: it got
//! that name by a rename, after its bytes were compared with the digest and made durable. The id
//! is there because nothing keeps a node from announcing the same bits twice: the end of one
//! publication must not delete another's file. `<publication id>.part.<random>` is on its way.
//!
//! A copy is worth nothing by itself: any that is missing, or found altered, is fetched again from
//! the object store. The folder is one process's alone (`DirLock`).
//!
//! Copies of an earlier run are not all compared before the broker answers: of those that it has
//! [closed] in good order that can wait, and the others can be mapped and not used.

mod closed;

use std::collections::{HashMap, HashSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sotto_common::error::{Error, Result};
use sotto_common::ids::PublicationId;
use sotto_common::random::{self, os_rng};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use self::closed::Stamp;
use crate::matcher::MappedFilter;
use crate::objects::{ObjectKey, Objects};

#[cfg(test)]
mod tests;

/// The folder of the copies; a copy of this is the same folder.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    /// What is known of entries, by their names.
    known: Arc<Mutex<HashMap<String, Known>>>,
}

/// What is known of an entry.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// As this it was found to be right.
    stamp: Stamp,
    /// By whom.
    trust: Trust,
}

/// What is known of the bytes of a copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Trust {
    /// Nothing: an earlier run did not close it in good order.
    Unknown,
    /// The last run closed it in good order; once its file was looked at, nobody has written to it since.
    Closed,
    /// This process has compared them with their digest.
    Verified,
}

/// A file on its way into the cache; it goes when this is dropped, unless it was adopted.
#[derive(Debug)]
pub(crate) struct Part {
    publication: PublicationId,
    path: PathBuf,
    file: File,
}

impl Cache {
    /// Opens or makes the folder `cache` below `data_dir`, of mode 0700.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let dir = data_dir.join("cache");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        Ok(Self {
            dir,
            known: Arc::default(),
        })
    }

    /// Says which copies can be used at once by the next run, which begins with [`Self::sweep`].
    /// Nothing is to be put into the cache afterwards.
    ///
    /// # Errors
    /// If it cannot be written down, on a full disk for example: there is no list then.
    pub(crate) fn close(&self) -> io::Result<()> {
        let known = self.known();
        let copies = known.iter().map(|(name, known)| (&**name, known.stamp));
        closed::put(&self.list(), copies)
    }

    /// Where the copies are listed that were closed in good order. Not in the folder, which holds
    /// copies and nothing else.
    fn list(&self) -> PathBuf {
        self.dir.with_extension("closed")
    }

    /// The filter that is the object `key`, fetching it if there is no good copy. A copy from
    /// an earlier run is compared with its digest.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the store is away or the disk is full; `INTERNAL` if the object is missing
    /// or is not of this length and digest: nothing is kept of it then.
    pub(crate) async fn get(
        &self,
        objects: &Objects,
        key: &ObjectKey,
        length: u64,
        digest: &[u8; 32],
    ) -> Result<MappedFilter> {
        let publication = key.publication().ok_or_else(no_filter)?;
        if let Some(filter) = self.compared(publication, length, digest).await? {
            return Ok(filter);
        }
        let mut part = self.new_part(publication).await?;
        objects.fetch(key, length, digest, part.file()).await?;
        self.adopt(part, digest).await?;
        // Gone again at once if the publication has ended meanwhile.
        let filter = self.compared(publication, length, digest).await?;
        filter.ok_or_else(|| Error::unavailable("a copy was removed while it was fetched"))
    }

    /// Maps the copy, if there is a good one; one that is not is deleted. It is compared with its
    /// digest unless this process has done so before.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the disk refuses.
    pub(crate) async fn compared(
        &self,
        publication: PublicationId,
        length: u64,
        digest: &[u8; 32],
    ) -> Result<Option<MappedFilter>> {
        let is_right = |cache: &Self, name: &str, filter: &MappedFilter, digest: &[u8; 32]| {
            cache.trust(name) == Trust::Verified || cache.compare(name, filter, digest)
        };
        let entry = self.entry(publication, length, digest, is_right).await?;
        Ok(entry.map(|(filter, _)| filter))
    }

    /// Maps the copy, if there is one of this length, without a look at its bytes; says what is
    /// known of them.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the disk refuses.
    pub(crate) async fn as_it_is(
        &self,
        publication: PublicationId,
        length: u64,
        digest: &[u8; 32],
    ) -> Result<Option<(MappedFilter, Trust)>> {
        let check = |cache: &Self, name: &str, filter: &MappedFilter, _: &[u8; 32]| {
            cache.forget_if_changed(name, filter);
            true
        };
        self.entry(publication, length, digest, check).await
    }

    /// What is known of a copy that is there.
    pub(crate) fn trust_in(&self, publication: PublicationId, digest: &[u8; 32]) -> Trust {
        self.trust(&entry_name(publication, digest))
    }

    /// An empty file to put a filter together in.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the disk refuses.
    pub(crate) async fn new_part(&self, publication: PublicationId) -> Result<Part> {
        let random = hex::encode(random::bytes::<8>(&mut os_rng()));
        let path = self.dir.join(format!("{publication}.part.{random}"));
        let file = File::options()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .await
            .map_err(Error::unavailable)?;
        Ok(Part {
            publication,
            path,
            file,
        })
    }

    /// Makes a part the copy of its filter: durable and read-only. Its bytes must have been
    /// compared with `digest`.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the disk refuses; nothing is left then.
    pub(crate) async fn adopt(&self, mut part: Part, digest: &[u8; 32]) -> Result<()> {
        let name = entry_name(part.publication, digest);
        let adopt = async {
            part.file.flush().await?;
            part.file.sync_all().await?;
            part.file
                .set_permissions(Permissions::from_mode(0o400))
                .await?;
            tokio::fs::rename(&part.path, self.dir.join(&name)).await?;
            File::open(&self.dir).await?.sync_all().await?;
            // After its last change, the name.
            part.file.metadata().await
        };
        let metadata = adopt.await.map_err(Error::unavailable)?;
        self.note(name, Stamp::of(&metadata), Trust::Verified);
        Ok(())
    }

    /// Deletes a copy. Maps of it stay readable until they are dropped.
    pub(crate) fn remove(&self, publication: PublicationId, digest: &[u8; 32]) {
        self.remove_entry(&entry_name(publication, digest));
    }

    /// Deletes every file but the copies of these publications, and learns which of them the last
    /// run closed in good order. To be called before anything is served; returns how many went.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(crate) fn sweep(&self, keep: &HashSet<(PublicationId, [u8; 32])>) -> io::Result<u64> {
        let keep: HashSet<_> = keep.iter().map(|(id, d)| entry_name(*id, d)).collect();
        for (name, stamp) in closed::take(&self.list()) {
            if keep.contains(&name) {
                self.note(name, stamp, Trust::Closed);
            }
        }
        let mut swept = 0;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| keep.contains(name)) {
                remove(&entry.path());
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// The copy, if there is one of this length that is `right`; one that is not is deleted.
    async fn entry(
        &self,
        publication: PublicationId,
        length: u64,
        digest: &[u8; 32],
        right: impl Fn(&Self, &str, &MappedFilter, &[u8; 32]) -> bool + Send + 'static,
    ) -> Result<Option<(MappedFilter, Trust)>> {
        let (cache, digest) = (self.clone(), *digest);
        let look = move || {
            let name = entry_name(publication, &digest);
            match MappedFilter::open(&cache.dir.join(&name), length) {
                Ok(filter) if right(&cache, &name, &filter, &digest) => {
                    return Ok(Some((filter, cache.trust(&name))));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) if error.kind() != io::ErrorKind::InvalidData => return Err(error),
                _ => {}
            }
            tracing::warn!(%publication, "a copy of a filter was altered; it is fetched again");
            cache.remove_entry(&name);
            Ok(None)
        };
        tokio::task::spawn_blocking(look)
            .await
            .map_err(Error::internal)?
            .map_err(Error::unavailable)
    }

    /// Compares a copy with its digest. One that the disk does not give back is as good as altered.
    fn compare(&self, name: &str, filter: &MappedFilter, digest: &[u8; 32]) -> bool {
        // What is written from here on is found by its stamp at the next start.
        let stamped = filter.metadata().map(|metadata| Stamp::of(&metadata));
        match (stamped, filter.digest()) {
            (Ok(_), Ok(found)) if found != *digest => false,
            // What was compared is in memory: the disk has it only now.
            (Ok(stamp), Ok(_)) => match filter.sync() {
                Ok(()) => {
                    self.note(name.to_owned(), stamp, Trust::Verified);
                    true
                }
                Err(error) => unreadable(&error),
            },
            (Err(error), _) | (_, Err(error)) => unreadable(&error),
        }
    }

    /// Trusts a copy no longer that is not what the last run closed.
    fn forget_if_changed(&self, name: &str, filter: &MappedFilter) {
        let stamp = filter.metadata().map(|metadata| Stamp::of(&metadata)).ok();
        let mut known = self.known();
        let changed = |known: &Known| known.trust == Trust::Closed && Some(known.stamp) != stamp;
        if known.get(name).is_some_and(changed) {
            known.remove(name);
        }
    }

    fn trust(&self, name: &str) -> Trust {
        let known = self.known();
        known.get(name).map_or(Trust::Unknown, |known| known.trust)
    }

    fn note(&self, name: String, stamp: Stamp, trust: Trust) {
        self.known().insert(name, Known { stamp, trust });
    }

    fn remove_entry(&self, name: &str) {
        self.known().remove(name);
        remove(&self.dir.join(name));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        // A map of names is whole after a panic too.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A copy that the disk does not give back, or does not take, is none.
fn unreadable(error: &io::Error) -> bool {
    tracing::warn!(%error, "a copy of a filter cannot be read");
    false
}

impl Part {
    /// The file, to be written to.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Where it is: to be checked and sent before it is adopted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // An adopted part has another name by now.
        remove(&self.path);
    }
}

fn no_filter() -> Error {
    Error::internal("an object that holds no filter")
}

fn entry_name(publication: PublicationId, digest: &[u8; 32]) -> String {
    format!("{}.{publication}", hex::encode(digest))
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            // The next sweep tries again.
            tracing::warn!(%error, "a copy of a filter could not be deleted");
        }
        _ => {}
    }
}
