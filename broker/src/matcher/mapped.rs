//! A sealed filter file, mapped read-only.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// The bits of a filter, as the file has them.
pub(crate) struct MappedFilter(Mmap);

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
        Ok(Self(map))
    }

    /// The bits.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
