//! The export file: 8 bytes `SOTTOLG1`, then messages `ExportEntriesResponse`, each behind its length
//! (u32 big-endian). The first has the checkpoint, and the manifests as far as they go into 1 MiB; those
//! that are left are in the messages behind it, the first of which says how many. Each that follows has
//! exactly one entry, from 0 without gaps.
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

/// Bytes of checkpoint and manifests in a message; a manifest that has more is alone in one.
const HEAD_AT_ONCE: usize = 1024 * 1024;

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

impl Head {
    /// The messages in which it goes out, of a bounded size, however many epochs and members there are.
    #[must_use]
    pub fn into_messages(self) -> Vec<v1::ExportEntriesResponse> {
        let mut parts = vec![Vec::new()];
        let mut bytes = self.note.len();
        for manifest in self.manifests {
            let length = manifest.encoded_len();
            if bytes > 0 && bytes + length > HEAD_AT_ONCE {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += length;
            if let Some(part) = parts.last_mut() {
                part.push(manifest);
            }
        }
        let to_come: usize = parts.iter().skip(1).map(Vec::len).sum();
        let parts = parts.into_iter();
        let messages = parts.map(|manifests| v1::ExportEntriesResponse {
            manifests,
            ..v1::ExportEntriesResponse::default()
        });
        let mut messages: Vec<_> = messages.collect();
        if let Some(first) = messages.first_mut() {
            first.note = self.note;
            first.manifests_to_come = u32::try_from(to_come).unwrap_or(u32::MAX);
        }
        messages
    }
}

/// A [`Head`] as its messages come.
#[derive(Debug)]
pub struct HeadParts {
    head: Head,
    to_come: u32,
}

impl HeadParts {
    /// Takes the first message.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn begin(first: v1::ExportEntriesResponse) -> Result<Self, &'static str> {
        if first.note.is_empty() || !first.entries.is_empty() {
            return Err("the first message is checkpoint and manifests");
        }
        let head = Head {
            note: first.note,
            manifests: first.manifests,
        };
        let to_come = first.manifests_to_come;
        Ok(Self { head, to_come })
    }

    /// Takes a message behind it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add(&mut self, message: v1::ExportEntriesResponse) -> Result<(), &'static str> {
        let others = v1::ExportEntriesResponse {
            manifests: Vec::new(),
            ..message
        };
        let manifests = message.manifests;
        let come = u32::try_from(manifests.len()).ok();
        let is_part = others == v1::ExportEntriesResponse::default() && !manifests.is_empty();
        let left = come.and_then(|come| self.to_come.checked_sub(come));
        let left = left.filter(|_| is_part);
        self.to_come = left.ok_or("not the manifests that are to come behind the first message")?;
        self.head.manifests.extend(manifests);
        Ok(())
    }

    /// The head, if it is whole; else the parts, to go on with.
    ///
    /// # Errors
    /// The parts.
    pub fn whole(self) -> Result<Head, Self> {
        if self.to_come == 0 {
            Ok(self.head)
        } else {
            Err(self)
        }
    }
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
        let head = reader.head()?;
        Ok((head, reader))
    }

    fn head(&mut self) -> Result<Head, ExportError> {
        let first = self.message()?.ok_or(ExportError::CutOff(0))?;
        let mut parts = HeadParts::begin(first).map_err(|problem| self.malformed(problem))?;
        loop {
            parts = match parts.whole() {
                Ok(head) => return Ok(head),
                Err(parts) => parts,
            };
            let message = self.message()?.ok_or(ExportError::CutOff(0))?;
            parts
                .add(message)
                .map_err(|problem| self.malformed(problem))?;
        }
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
        let head = (
            message.note.len(),
            message.manifests.len(),
            message.manifests_to_come,
        );
        if head != (0, 0, 0) {
            return Err(self.malformed("checkpoint and manifests stand before the entries only"));
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
        for message in head.into_messages() {
            writer.message(&message)?;
        }
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
            entries: vec![entry],
            ..v1::ExportEntriesResponse::default()
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

    /// A head of more than one message: three manifests of 700 KiB each, and a small one.
    fn large_head() -> Head {
        let manifest = |length| v1::DsseEnvelope {
            payload: vec![7; length].into(),
            ..v1::DsseEnvelope::default()
        };
        let large = 700 * 1024;
        Head {
            manifests: [large, large, large, 9].map(manifest).to_vec(),
            ..head()
        }
    }

    #[test]
    fn a_head_goes_out_in_messages_of_a_bounded_size_and_comes_back_whole() {
        let messages = large_head().into_messages();
        let counts = messages.iter().map(|message| message.manifests.len());
        assert_eq!(counts.collect::<Vec<_>>(), [1, 1, 2]);
        assert_eq!(messages[0].manifests_to_come, 3);
        assert!(messages.iter().all(|m| m.encoded_len() < MAX_MESSAGE / 2));
        let mut writer = ExportWriter::begin(Vec::new(), large_head()).unwrap();
        writer.put(entry(0)).unwrap();
        let bytes = writer.into_inner();
        let (read, reader) = ExportReader::open(bytes.as_slice()).unwrap();
        assert_eq!(read, large_head());
        assert_eq!(reader.map(Result::unwrap).collect::<Vec<_>>(), [entry(0)]);
        // Cut off within its head, wherever that is: there is nothing to go on with.
        let mut end = MAGIC.len();
        for message in &messages[..2] {
            end += LENGTH + message.encoded_len();
            let cut = ExportReader::open(&bytes[..end]).unwrap_err();
            assert!(matches!(cut, ExportError::CutOff(0)), "{cut}");
        }
    }

    #[test]
    fn a_file_with_all_manifests_in_its_first_message_is_read_and_others_must_come_as_said() {
        let all = v1::ExportEntriesResponse {
            note: head().note,
            manifests: large_head().manifests,
            ..v1::ExportEntriesResponse::default()
        };
        let of = |messages: &[v1::ExportEntriesResponse]| {
            let mut writer = ExportWriter::resume(MAGIC.to_vec(), 0);
            for message in messages {
                writer.message(message).unwrap();
            }
            writer.into_inner()
        };
        let old = of(&[all]);
        assert_eq!(ExportReader::open(old.as_slice()).unwrap().0, large_head());
        let messages = large_head().into_messages();
        let mut more = messages.clone();
        more[0].manifests_to_come = 2;
        let mut again = messages.clone();
        again[1].note = head().note;
        let mut none = messages;
        none[1].manifests.clear();
        for messages in [more, again, none] {
            assert!(problem(&of(&messages)).contains("manifests that are to come"));
        }
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
        unknown.extend([0, 0, 0, 2, 0x28, 1]);
        assert!(problem(&unknown).contains("not accounted for"));
        // The head again.
        let mut again = file(1);
        again.extend_from_slice(&file(0)[MAGIC.len()..]);
        assert!(problem(&again).contains("before the entries only"));
        assert!(ExportWriter::resume(Vec::new(), 1).put(entry(2)).is_err());
    }
}
