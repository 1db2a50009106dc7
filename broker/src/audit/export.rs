//! The export file: 8 bytes `SOTTOLG1`, then messages `ExportEntriesResponse`, each behind its length
//! (u32 big-endian). The first has the checkpoint and the manifests, each that follows exactly one
//! entry, from 0 without gaps.
//!
//! Every byte of the file counts: a message that would be written otherwise than it stands there is
//! refused, so that nothing can be hidden in it.

use std::io::{self, Read, Write};

use prost::Message as _;
use prost::bytes::Bytes;
use sotto_proto::v1;

use super::failure::{Failure, FailureCode};

/// The first bytes of the file; the last is the version.
pub const MAGIC: &[u8; 8] = b"SOTTOLG1";

/// Most bytes of a message: those of a message of gRPC (protocol §12).
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Bytes of a length.
const LENGTH: usize = 4;

/// What a file begins with.
#[derive(Clone, PartialEq, Debug)]
pub struct Head {
    /// The checkpoint, a signed note with cosignatures.
    pub note: Bytes,
    /// The manifests of the community's epochs, by number.
    pub manifests: Vec<v1::DsseEnvelope>,
}

/// Why a file cannot be read or written on.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file system's error.
    #[error("the file cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// The file ends within a message, as one does that was not finished.
    #[error("the file ends within a message, before entry {0}")]
    CutOff(u64),
    /// The file is none, or was altered.
    #[error("before entry {before}: {problem}")]
    Malformed {
        /// The entry that was to come next.
        before: u64,
        /// What is wrong.
        problem: &'static str,
    },
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        let index = match &error {
            ExportError::Io(_) => None,
            ExportError::CutOff(next) => Some(*next),
            ExportError::Malformed { before, .. } => Some(*before),
        };
        Self {
            index,
            code: FailureCode::FileMalformed,
            text: error.to_string(),
        }
    }
}

/// Reads a file entry by entry.
#[derive(Debug)]
pub struct ExportReader<R> {
    from: R,
    next: u64,
    position: u64,
}

impl<R: Read> ExportReader<R> {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn open(from: R) -> Result<(Head, Self), ExportError> {
        let mut reader = Self {
            from,
            next: 0,
            position: 0,
        };
        let mut magic = [0; MAGIC.len()];
        let read = reader.fill(&mut magic)?;
        if read < magic.len() && MAGIC.starts_with(&magic[..read]) {
            return Err(ExportError::CutOff(0));
        }
        if magic != *MAGIC {
            return Err(reader.malformed("not an export of a log: it does not begin as one"));
        }
        reader.position = MAGIC.len() as u64;
        let head = reader.message()?.ok_or(ExportError::CutOff(0))?;
        if head.note.is_empty() || !head.entries.is_empty() {
            return Err(reader.malformed("the first message is checkpoint and manifests"));
        }
        let head = Head {
            note: head.note,
            manifests: head.manifests,
        };
        Ok((head, reader))
    }

    /// Bytes up to the end of the last whole message that was read.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Index of the entry that comes next.
    pub const fn next_index(&self) -> u64 {
        self.next
    }

    /// The next message; `None` at the end of the file.
    fn message(&mut self) -> Result<Option<v1::ExportEntriesResponse>, ExportError> {
        let mut length = [0; LENGTH];
        match self.fill(&mut length)? {
            0 => return Ok(None),
            LENGTH => {}
            _ => return Err(ExportError::CutOff(self.next)),
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE {
            return Err(self.malformed("a message of more than 4 MiB"));
        }
        let mut bytes = vec![0; length];
        if self.fill(&mut bytes)? < length {
            return Err(ExportError::CutOff(self.next));
        }
        let bytes = Bytes::from(bytes);
        let message = v1::ExportEntriesResponse::decode(bytes.clone())
            .map_err(|_| self.malformed("not a message of an export"))?;
        if message.encode_to_vec() != bytes {
            let problem = "a message with bytes that are not accounted for";
            return Err(self.malformed(problem));
        }
        self.position += (LENGTH + length) as u64;
        Ok(Some(message))
    }

    fn entry(&mut self) -> Result<Option<v1::LoggedEntry>, ExportError> {
        let Some(message) = self.message()? else {
            return Ok(None);
        };
        if !message.note.is_empty() || !message.manifests.is_empty() {
            return Err(self.malformed("checkpoint and manifests stand in the first message only"));
        }
        let [entry] = <[v1::LoggedEntry; 1]>::try_from(message.entries)
            .map_err(|_| self.malformed("a message has exactly one entry"))?;
        if entry.leaf_index != self.next {
            return Err(self.malformed("entries stand in order, without gaps"));
        }
        self.next += 1;
        Ok(Some(entry))
    }

    /// Reads until the buffer is full or the file ends; returns how much there was.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    const fn malformed(&self, problem: &'static str) -> ExportError {
        ExportError::Malformed {
            before: self.next,
            problem,
        }
    }
}

impl<R: Read> Iterator for ExportReader<R> {
    type Item = Result<v1::LoggedEntry, ExportError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entry().transpose()
    }
}

/// Writes a file entry by entry.
#[derive(Debug)]
pub struct ExportWriter<W> {
    to: W,
    next: u64,
}

impl<W: Write> ExportWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn begin(to: W, head: Head) -> Result<Self, ExportError> {
        let mut writer = Self { to, next: 0 };
        writer.to.write_all(MAGIC)?;
        writer.message(&v1::ExportEntriesResponse {
            note: head.note,
            entries: Vec::new(),
            manifests: head.manifests,
        })?;
        Ok(writer)
    }

    /// Goes on behind the last whole message of a file, with the entry `next`.
    pub const fn resume(to: W, next: u64) -> Self {
        Self { to, next }
    }

    /// Writes the next entry.
    ///
    /// # Errors
    /// [`ExportError`], also for an entry that is not the next one.
    pub fn put(&mut self, entry: v1::LoggedEntry) -> Result<(), ExportError> {
        if entry.leaf_index != self.next {
            return Err(self.malformed("the broker left an entry out, or sent one twice"));
        }
        self.message(&v1::ExportEntriesResponse {
            note: Bytes::new(),
            entries: vec![entry],
            manifests: Vec::new(),
        })?;
        self.next += 1;
        Ok(())
    }

    /// Index of the entry that is to come next.
    pub const fn next_index(&self) -> u64 {
        self.next
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.to
    }

    fn message(&mut self, message: &v1::ExportEntriesResponse) -> Result<(), ExportError> {
        let bytes = message.encode_to_vec();
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|_| bytes.len() <= MAX_MESSAGE);
        let length = length.ok_or_else(|| self.malformed("a message of more than 4 MiB"))?;
        self.to.write_all(&length.to_be_bytes())?;
        self.to.write_all(&bytes)?;
        Ok(())
    }

    const fn malformed(&self, problem: &'static str) -> ExportError {
        ExportError::Malformed {
            before: self.next,
            problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            note: Bytes::from_static(b"note"),
            manifests: Vec::new(),
        }
    }

    fn entry(leaf_index: u64) -> v1::LoggedEntry {
        v1::LoggedEntry {
            leaf_index,
            leaf: Bytes::from_static(b"leaf"),
            ..v1::LoggedEntry::default()
        }
    }

    fn file(entries: u64) -> Vec<u8> {
        let mut writer = ExportWriter::begin(Vec::new(), head()).unwrap();
        for index in 0..entries {
            writer.put(entry(index)).unwrap();
        }
        writer.into_inner()
    }

    fn problem(bytes: &[u8]) -> String {
        let error = match ExportReader::open(bytes) {
            Ok((_, mut reader)) => reader.find_map(Result::err).unwrap(),
            Err(error) => error,
        };
        error.to_string()
    }

    #[test]
    fn what_was_written_is_read_again() {
        let bytes = file(3);
        let (read, reader) = ExportReader::open(bytes.as_slice()).unwrap();
        assert_eq!(read, head());
        let entries: Vec<_> = reader.map(Result::unwrap).collect();
        assert_eq!(entries, [entry(0), entry(1), entry(2)]);
    }

    #[test]
    fn a_file_that_was_cut_off_goes_on_behind_its_last_whole_entry() {
        let whole = file(3);
        for cut in file(1).len()..file(2).len() {
            let part = &whole[..cut];
            let (_, mut reader) = ExportReader::open(part).unwrap();
            while let Some(Ok(_)) = reader.next() {}
            let end = usize::try_from(reader.position()).unwrap();
            let mut writer = ExportWriter::resume(part[..end].to_vec(), reader.next_index());
            for index in reader.next_index()..3 {
                writer.put(entry(index)).unwrap();
            }
            assert_eq!(writer.into_inner(), whole, "{cut}");
        }
    }

    #[test]
    fn a_file_with_anything_else_in_it_is_refused() {
        assert!(problem(b"SOTTOLG2").contains("does not begin"));
        assert!(problem(b"").contains("ends within"));
        assert!(problem(&file(0)[..11]).contains("ends within"));
        let mut gap = ExportWriter::resume(file(1), 7);
        gap.put(entry(7)).unwrap();
        assert!(problem(&gap.into_inner()).contains("without gaps"));
        let mut long = file(1);
        long.extend((u32::try_from(MAX_MESSAGE).unwrap() + 1).to_be_bytes());
        assert!(problem(&long).contains("more than 4 MiB"));
        // An empty message, one with two entries, one with a field that is not known.
        let mut empty = file(1);
        empty.extend([0, 0, 0, 0]);
        assert!(problem(&empty).contains("exactly one"));
        let mut unknown = file(1);
        unknown.extend([0, 0, 0, 2, 0x20, 1]);
        assert!(problem(&unknown).contains("not accounted for"));
        assert!(ExportWriter::resume(Vec::new(), 1).put(entry(2)).is_err());
    }
}
