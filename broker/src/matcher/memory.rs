//! Where the bits of active filters are: in memory of their own while that is within what the
//! operator allows, otherwise in their sealed files, mapped.
//!
//! Memory of its own can be had in huge pages, which spare most tests a walk through the page tables;
//! a mapped file mostly cannot.

mod arena;

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Advice, Mmap};
use sha2::{Digest as _, Sha256};

use self::arena::{Arena, Place};

/// Bytes that are read at a time.
const STEP: usize = 1 << 20;

/// A sealed filter file, mapped read-only.
pub(crate) struct MappedFilter {
    file: File,
    map: Mmap,
}

impl MappedFilter {
    /// Maps a file that nobody writes to any more.
    ///
    /// # Errors
    /// If it cannot be opened, or its length is not `length`.
    pub(crate) fn open(path: &Path, length: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() != length {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not of its header's length",
            ));
        }
        // SAFETY: the file is complete, and the broker neither writes nor truncates it as long as
        // a map of it lives: uploads are only checked under the lock of their publication, sealed
        // filters are of mode 0400 in a folder of mode 0700, and deleting one unlinks its name.
        #[expect(unsafe_code, reason = "a memory map")]
        let map = unsafe { Mmap::map(&file)? };
        expect_no_order(&map);
        Ok(Self { file, map })
    }

    /// The bits.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// SHA-256 of the bits, without touching the map: its pages would count as this process's memory,
    /// and what the disk does not give back would end the process.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn digest(&self) -> io::Result<[u8; 32]> {
        let length = self.map.len();
        let mut part = vec![0; STEP.min(length)];
        let mut sha256 = Sha256::new();
        for at in (0..length).step_by(STEP) {
            let part = &mut part[..STEP.min(length - at)];
            self.file.read_exact_at(part, at as u64)?;
            sha256.update(part);
        }
        Ok(sha256.finalize().into())
    }

    /// Waits until the disk has the bits.
    ///
    /// # Errors
    /// If it does not take them.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// What the system says of the file.
    ///
    /// # Errors
    /// That of the system.
    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }
}

/// The bits of one active filter.
pub(super) enum Bits {
    /// In its file.
    Mapped(MappedFilter),
    /// In memory of its own.
    Loaded(Loaded),
}

impl Bits {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(filter) => filter.bytes(),
            Self::Loaded(filter) => filter.bytes(),
        }
    }
}

/// A filter in memory of its own.
pub(super) struct Loaded {
    place: Place,
    /// Given back with the memory.
    _share: Share,
}

impl Loaded {
    fn bytes(&self) -> &[u8] {
        self.place.bytes()
    }
}

/// What may be loaded, in bytes.
pub(super) struct Budget {
    left: Arc<AtomicU64>,
    arena: Arena,
}

/// A part of the budget, that is given back when this is dropped.
struct Share {
    left: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            left: Arc::new(AtomicU64::new(bytes)),
            arena: Arena::new(true),
        }
    }

    /// No bound, and small pages alone: to measure what huge pages spare.
    pub(super) fn in_small_pages() -> Self {
        Self {
            arena: Arena::new(false),
            ..Self::new(u64::MAX)
        }
    }

    fn take(&self, bytes: u64) -> Option<Share> {
        let rest = |left: u64| left.checked_sub(bytes);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest)
            .ok()?;
        Some(Share {
            left: Arc::clone(&self.left),
            bytes,
        })
    }

    /// Copies a mapped filter into memory of its own, without touching its map: pages of the map
    /// would count as this process's memory too. None if it does not fit.
    ///
    /// # Errors
    /// If the file cannot be read, or there is no memory.
    pub(super) fn load(&self, filter: &MappedFilter) -> io::Result<Option<Loaded>> {
        let length = filter.map.len();
        let Some(share) = self.take(length as u64) else {
            return Ok(None);
        };
        let mut place = self.arena.take(length)?;
        let mut at = 0;
        for part in place.bytes_mut().chunks_mut(STEP) {
            filter.file.read_exact_at(part, at)?;
            at += part.len() as u64;
        }
        Ok(Some(Loaded {
            place,
            _share: share,
        }))
    }
}

/// Lines are read at random: what lies after one need not be read ahead.
fn expect_no_order(map: &Mmap) {
    if let Err(error) = map.advise(Advice::Random) {
        tracing::debug!(%error, "files are read ahead");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(bits: &[u8]) -> MappedFilter {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bits).expect("written");
        MappedFilter::open(file.path(), bits.len() as u64).expect("mapped")
    }

    #[test]
    fn a_filter_is_loaded_as_its_file_has_it_even_once_that_is_unlinked() {
        for length in [4096, STEP - 4096, STEP, 2 * STEP + 8192] {
            let bits: Vec<_> = (0..length)
                .map(|i| u8::try_from(i % 251).expect("small"))
                .collect();
            let budget = Budget::new(u64::MAX);
            let loaded = budget.load(&mapped(&bits)).expect("read").expect("fits");
            assert!(loaded.bytes() == bits, "{length}");
        }
    }

    #[test]
    fn a_digest_is_of_the_whole_file() {
        for length in [0, 1, 4096, STEP, 2 * STEP + 4096] {
            let bits: Vec<_> = (0..length)
                .map(|i| u8::try_from(i % 251).expect("small"))
                .collect();
            let digest = mapped(&bits).digest().expect("read");
            assert_eq!(digest[..], Sha256::digest(&bits)[..], "{length}");
        }
    }

    #[test]
    fn no_more_is_loaded_than_is_allowed_until_something_is_dropped() {
        let budget = Budget::new(8192);
        let filter = mapped(&[1; 8192]);
        let first = budget.load(&filter).expect("read");
        assert!(first.is_some());
        assert!(budget.load(&filter).expect("read").is_none());
        drop(first);
        assert!(budget.load(&filter).expect("read").is_some());
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), [0; 4096]).expect("written");
        assert!(MappedFilter::open(file.path(), 8192).is_err());
    }
}
