//! The object store: chunks of uploads, filters (protocol §6), and sealed files that go with answers
//! (protocol §10), each written once.
//!
//! It is a folder or an S3 bucket that several brokers share. Which objects count is said by the
//! ledger alone, which keeps their names, lengths and digests: nothing that comes out of the store
//! is believed before it was compared with them. Filters are tested against copies in the
//! [`Cache`](crate::cache::Cache).
//!
//! An upload in parts that a crash cut short is not listed. In the broker's own folder it is
//! removed at the next start; a bucket needs a lifecycle rule (`AbortIncompleteMultipartUpload`).

mod fault;
mod key;
mod open;
#[cfg(test)]
mod suite;

use std::fmt;
use std::future::{self, Future};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt as _, TryStreamExt as _};
use object_store::path::Path as Location;
use object_store::{
    GetResult, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
};
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, Result};
use sotto_common::service::config::{ConfigError, SecretFile};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::config::ObjectsUrl;
use fault::{Fault, fault};
pub(crate) use key::{ObjectKey, ObjectOwner};

/// How long one step may take: a request, or the next piece of an object.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the store may take to put the parts of a file together.
const COMPLETION: Duration = Duration::from_mins(5);

/// Length of the parts that a file is sent in, in bytes; S3 takes none below 5 MiB but the last,
/// and 10,000 of them.
const PART: usize = 8 << 20;

/// Parts that are sent at once.
const PARTS_AT_ONCE: usize = 2;

/// Chunks that are asked for before their turn.
const CHUNKS_AHEAD: usize = 4;

/// Objects that are deleted at once.
const DELETES_AT_ONCE: usize = 8;

/// The store; a copy of it is the same store.
#[derive(Clone)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    may_be_shared: bool,
}

impl Objects {
    /// Opens the store that the setting names; nothing is asked of a bucket yet.
    ///
    /// Without a file of credentials those of the platform are taken, as AWS's own programs do: a
    /// web identity (`AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN`), a container's
    /// (`AWS_CONTAINER_…`), or the instance's. Keys in the environment are not read.
    ///
    /// # Errors
    /// [`ConfigError`] if the broker's own folder cannot be made, another one is not there, either
    /// is open to others, or the file of credentials is exposed or not of its form.
    pub(crate) fn open(
        url: &ObjectsUrl,
        data_dir: &Path,
        credentials: Option<&SecretFile>,
    ) -> Result<Self, ConfigError> {
        let store = open::open(url, data_dir, credentials)?;
        let may_be_shared = *url != ObjectsUrl::Local;
        Ok(Self {
            store,
            may_be_shared,
        })
    }

    /// Whether other brokers can reach it: all but the folder in the broker's own.
    pub(crate) const fn may_be_shared(&self) -> bool {
        self.may_be_shared
    }

    /// Writes a small object, durably, whole or not at all.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the store is away or full, or has an object of this name, which stays as
    /// it is.
    pub(crate) async fn put(&self, key: &ObjectKey, content: Bytes) -> Result<()> {
        let (at, options) = (location(key), PutOptions::from(PutMode::Create));
        let put = self.store.put_opts(&at, content.into(), options);
        bounded(PATIENCE, put).await.map(drop)
    }

    /// Writes a file of any length as one object, durably, whole or not at all. Sent in parts, it
    /// is written once because its name is new.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the file cannot be read, or the store is away or full; what was sent is
    /// taken back then.
    pub(crate) async fn put_file(&self, key: &ObjectKey, file: &Path) -> Result<()> {
        let mut file = File::open(file).await.map_err(Error::unavailable)?;
        let first = read_part(&mut file).await?;
        if first.len() < PART {
            return self.put(key, first).await;
        }
        let at = location(key);
        let mut upload = bounded(PATIENCE, self.store.put_multipart(&at)).await?;
        let done = match send_parts(&mut *upload, first, &mut file).await {
            Ok(()) => bounded(COMPLETION, upload.complete()).await.map(drop),
            Err(error) => Err(error),
        };
        if done.is_err()
            && let Err(error) = bounded(PATIENCE, upload.abort()).await
        {
            let error = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(error, "an unfinished upload stays in the object store");
        }
        done
    }

    /// Reads a small object whole.
    ///
    /// # Errors
    /// As [`Objects::get_chunks`].
    pub(crate) async fn get(&self, key: &ObjectKey, length: u64) -> Result<Bytes> {
        let object = bounded(PATIENCE, self.store.get(&location(key))).await?;
        if object.meta.size != length {
            return Err(Error::internal(Fault::Altered));
        }
        let content = bounded(PATIENCE, object.bytes()).await?;
        if content.len() as u64 != length {
            return Err(Error::internal(Fault::Altered));
        }
        Ok(content)
    }

    /// Appends objects to a file, one after the other; returns the SHA-256 of all their bytes.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the store is away, or the file's disk is full; `INTERNAL` if an object is
    /// missing or not of the length given for it. The file then holds what came before.
    pub(crate) async fn get_chunks(
        &self,
        chunks: &[(ObjectKey, u64)],
        into: &mut File,
    ) -> Result<[u8; 32]> {
        let mut digest = Sha256::new();
        let mut opened = stream::iter(chunks.iter().cloned())
            .map(|(key, length)| async move {
                let object = bounded(PATIENCE, self.store.get(&location(&key))).await?;
                Ok::<_, Error>((object, length))
            })
            .buffered(CHUNKS_AHEAD);
        while let Some((object, length)) = opened.try_next().await? {
            receive(object, length, into, &mut digest).await?;
        }
        // A failed write may show only now.
        into.flush().await.map_err(Error::unavailable)?;
        Ok(digest.finalize().into())
    }

    /// Appends one object to a file.
    ///
    /// # Errors
    /// As [`Objects::get_chunks`]; `INTERNAL` if the object has another SHA-256 than `digest`: the
    /// file must not be used then.
    pub(crate) async fn fetch(
        &self,
        key: &ObjectKey,
        length: u64,
        digest: &[u8; 32],
        into: &mut File,
    ) -> Result<()> {
        let found = self.get_chunks(&[(key.clone(), length)], into).await?;
        if found == *digest {
            Ok(())
        } else {
            Err(Error::internal(Fault::Altered))
        }
    }

    /// Deletes an object; that it is not there is fine.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the store is away; the object may be there still.
    pub(crate) async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let at = location(key);
        let delete = async {
            match self.store.delete(&at).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                done => done,
            }
        };
        bounded(PATIENCE, delete).await
    }

    /// Deletes objects, trying every one.
    ///
    /// # Errors
    /// The first error of [`Objects::delete`], if any.
    pub(crate) async fn delete_all(
        &self,
        keys: impl IntoIterator<Item = ObjectKey, IntoIter: Send>,
    ) -> Result<()> {
        stream::iter(keys)
            .map(|key| async move { self.delete(&key).await })
            .buffer_unordered(DELETES_AT_ONCE)
            .fold(Ok(()), |all, one| future::ready(all.and(one)))
            .await
    }

    /// Every object of the store, in no order, asked for by the page. What has another name than a
    /// broker gives is passed over. An object that is not listed may be there all the same: it was
    /// written meanwhile, or the folder of the store is gone.
    ///
    /// # Errors
    /// The stream ends with `UNAVAILABLE` if the store is away.
    pub(crate) fn list(&self) -> BoxStream<'static, Result<ObjectKey>> {
        stream::try_unfold(self.store.list(None), |mut found| async move {
            let next = bounded(PATIENCE, found.try_next()).await?;
            Ok(next.map(|object| (object, found)))
        })
        .try_filter_map(|object| {
            let key = ObjectKey::parse(object.location.as_ref());
            future::ready(Ok(key))
        })
        .boxed()
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The store's own form shows its credentials.
        f.write_str("Objects(redacted)")
    }
}

fn location(key: &ObjectKey) -> Location {
    Location::from(key.expose())
}

/// Runs one step, which may hang: a server that is silent, a mount that is dead.
async fn bounded<T>(
    patience: Duration,
    step: impl Future<Output = object_store::Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(patience, step).await {
        Ok(done) => done.map_err(|error| fault(&error)),
        Err(_) => Err(Error::unavailable(Fault::Silent)),
    }
}

/// The next part of a file: shorter than [`PART`], or empty, at its end.
async fn read_part(file: &mut File) -> Result<Bytes> {
    let mut part = Vec::with_capacity(PART);
    file.take(PART as u64)
        .read_to_end(&mut part)
        .await
        .map_err(Error::unavailable)?;
    Ok(part.into())
}

async fn send_parts(upload: &mut dyn MultipartUpload, first: Bytes, rest: &mut File) -> Result<()> {
    let mut running = FuturesUnordered::new();
    let mut part = first;
    while !part.is_empty() {
        if running.len() == PARTS_AT_ONCE {
            running.try_next().await?;
        }
        running.push(bounded(PATIENCE, upload.put_part(part.into())));
        part = read_part(rest).await?;
    }
    running.try_collect().await
}

/// Appends an object to a file, if it is of its length.
async fn receive(
    object: GetResult,
    length: u64,
    into: &mut File,
    digest: &mut Sha256,
) -> Result<()> {
    let altered = || Error::internal(Fault::Altered);
    if object.meta.size != length {
        return Err(altered());
    }
    let mut left = length;
    let mut pieces = object.into_stream();
    while left > 0 {
        let piece = bounded(PATIENCE, pieces.try_next()).await?;
        // A file that is cut short meanwhile gives empty pieces, and never an end.
        let piece = piece
            .filter(|piece| !piece.is_empty())
            .ok_or_else(altered)?;
        left = left.checked_sub(piece.len() as u64).ok_or_else(altered)?;
        digest.update(&piece);
        into.write_all(&piece).await.map_err(Error::unavailable)?;
    }
    Ok(())
}
