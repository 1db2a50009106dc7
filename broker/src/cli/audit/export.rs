//! `audit export`: the log as a file, which goes on after a break.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sotto_common::log::checkpoint::Checkpoint;
use sotto_common::log::note::Note;
use sotto_common::membership::Manifest;
use sotto_proto::{convert, v1};
use tonic::Request;

use super::super::Result;
use super::super::operator::{Client, answer, refused};
use super::super::print::say;
use super::about;
use crate::audit::erasures::Erasures;
use crate::audit::export::{ExportError, ExportReader, ExportWriter, Head, HeadParts};

/// Steps in which progress is told, in percent.
const PROGRESS: u64 = 5;

/// How often the log is exported whole, while openings of it are being erased.
const ATTEMPTS: u32 = 3;

/// A file that is being written.
struct Part {
    writer: ExportWriter<BufWriter<File>>,
    /// Entries of the checkpoint that it was begun with.
    size: u64,
    /// Whether what is missing was erased: what was erased since that checkpoint, entries behind it tell.
    erasures: Erasures,
    told: u64,
}

impl Client {
    pub(super) async fn export(&self, community: String, out: &Path) -> Result<()> {
        if out.exists() {
            return Err(about(
                out,
                &"the file exists: give another name, or remove it",
            ));
        }
        let path = part_of(out);
        let mut part = self.whole(&community, &path).await?;
        for _ in 1..ATTEMPTS {
            if part.erasures.are_told() {
                break;
            }
            eprintln!("openings were erased meanwhile: again, under the next checkpoint");
            self.until_larger(&community, part.size).await?;
            drop(part);
            std::fs::remove_file(&path).map_err(|error| about(&path, &error))?;
            part = self.whole(&community, &path).await?;
        }
        if !part.erasures.are_told() {
            eprintln!(
                "openings are missing, and no entry up to the checkpoint tells that they were erased: \
                 if `verify` names one, export the log again later"
            );
        }
        let entries = part.size;
        part.finish(&path, out)?;
        say(&format!("{}: {entries} entries", out.display()))
    }

    /// Fetches until the file has every entry of its checkpoint.
    async fn whole(&self, community: &str, path: &Path) -> Result<Part> {
        let mut known = Part::reopen(path)?;
        loop {
            if let Some(part) = known.take_if(|part| part.writer.next_index() >= part.size) {
                return Ok(part);
            }
            let from_index = known.as_ref().map_or(0, |part| part.writer.next_index());
            let request = v1::ExportEntriesRequest {
                community: community.to_owned(),
                from_index,
            };
            let outcome = self.fetch(request, path, &mut known).await;
            let next = known.as_ref().map_or(0, |part| part.writer.next_index());
            // A connection lives at most an hour (protocol §12): what came further goes on.
            match outcome {
                Ok(()) if next == from_index && next < known.as_ref().map_or(1, |p| p.size) => {
                    let text = "the broker ended the export before its checkpoint";
                    return Err(about(path, &text));
                }
                Err(fault) if next == from_index || fault.code != 3 => return Err(fault),
                _ => {}
            }
        }
    }

    /// Fetches entries until the file is whole or the stream ends.
    async fn fetch(
        &self,
        request: v1::ExportEntriesRequest,
        path: &Path,
        known: &mut Option<Part>,
    ) -> Result<()> {
        let mut service = self.audit_service();
        let mut stream = answer(service.export_entries(Request::new(request)).await)?;
        let mut coming = None;
        while let Some(message) = stream.message().await.map_err(|status| refused(&status))? {
            // Of a file that was begun, checkpoint and manifests stay those that it has.
            let Some(part) = known.as_mut() else {
                match next_part(coming.take(), message)
                    .map_err(|problem| about(path, &problem))?
                    .whole()
                {
                    Ok(head) => *known = Some(Part::begin(path, head)?),
                    Err(parts) => coming = Some(parts),
                }
                continue;
            };
            for entry in message.entries {
                if part.writer.next_index() == part.size {
                    return Ok(());
                }
                part.put(path, entry)?;
            }
            if part.writer.next_index() == part.size {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits for a checkpoint of more leaves: the reading of the log has an entry of its own.
    async fn until_larger(&self, community: &str, size: u64) -> Result<()> {
        let request = Request::new(v1::WatchCheckpointsRequest {
            community: community.to_owned(),
        });
        let mut service = self.log_service();
        let mut stream = answer(service.watch_checkpoints(request).await)?;
        while let Some(message) = stream.message().await.map_err(|status| refused(&status))? {
            if size_of(&message.note)? > size {
                break;
            }
        }
        Ok(())
    }
}

/// Takes the next message of a head.
fn next_part(
    coming: Option<HeadParts>,
    message: v1::ExportEntriesResponse,
) -> std::result::Result<HeadParts, &'static str> {
    let Some(mut parts) = coming else {
        return HeadParts::begin(message);
    };
    parts.add(message).map(|()| parts)
}

impl Part {
    /// Begins a file with the head of an export.
    fn begin(path: &Path, head: Head) -> Result<Self> {
        let (size, erasures) = (size_of(&head.note)?, erasures_of(&head));
        // Openings are for the auditor alone.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| about(path, &error))?;
        lock(path, &file)?;
        let writer = ExportWriter::begin(BufWriter::new(file), head);
        Ok(Self {
            writer: writer.map_err(|error| about(path, &error))?,
            size,
            erasures,
            told: 0,
        })
    }

    /// Goes on with a file that was not finished, behind its last whole entry; `None` if there is none.
    fn reopen(path: &Path) -> Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| about(path, &error))?,
        };
        lock(path, &file)?;
        let malformed = |error: ExportError| {
            let text = format!("{error}: no export to go on with; remove it to begin again");
            about(path, &text)
        };
        let opened = ExportReader::open(BufReader::new(&file));
        let (head, mut reader) = match opened {
            // Cut off before its head was whole: there is nothing in it yet.
            Err(ExportError::CutOff(0)) => {
                std::fs::remove_file(path)?;
                return Ok(None);
            }
            opened => opened.map_err(malformed)?,
        };
        let mut erasures = erasures_of(&head);
        let cut = reader.find_map(|entry| match entry {
            Ok(entry) => {
                erasures.look(&entry);
                None
            }
            Err(error) => Some(error),
        });
        match cut {
            None | Some(ExportError::CutOff(_)) => {}
            Some(error) => return Err(malformed(error)),
        }
        let (position, next) = (reader.position(), reader.next_index());
        drop(reader);
        file.set_len(position)?;
        let mut file = file;
        file.seek(SeekFrom::Start(position))?;
        let size = size_of(&head.note)?;
        eprintln!("goes on with entry {next} of {size}");
        Ok(Some(Self {
            writer: ExportWriter::resume(BufWriter::new(file), next),
            size,
            erasures,
            told: 0,
        }))
    }

    fn put(&mut self, path: &Path, entry: v1::LoggedEntry) -> Result<()> {
        self.erasures.look(&entry);
        let put = self.writer.put(entry);
        put.map_err(|error| about(path, &error))?;
        self.tell();
        Ok(())
    }

    /// Progress, for people.
    fn tell(&mut self) {
        let next = self.writer.next_index();
        let percent = next.saturating_mul(100) / self.size.max(1);
        if percent >= self.told + PROGRESS {
            self.told = percent;
            eprintln!("{next} of {} entries", self.size);
        }
    }

    /// The file is whole: it is on the disk before it has its name.
    fn finish(self, path: &Path, out: &Path) -> Result<()> {
        let mut buffered = self.writer.into_inner();
        buffered.flush().map_err(|error| about(path, &error))?;
        buffered.get_ref().sync_all()?;
        std::fs::rename(path, out).map_err(|error| about(out, &error))?;
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    }
}

/// One export writes a file at a time.
fn lock(path: &Path, file: &File) -> Result<()> {
    file.try_lock()
        .map_err(|_| about(path, &"another export writes this file"))
}

fn part_of(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Leaves of the checkpoint; whether it is signed is for `verify` to say.
fn size_of(note: &[u8]) -> Result<u64> {
    let checkpoint: Checkpoint = Note::parse(note)?.text().parse()?;
    Ok(checkpoint.head.size)
}

/// Nothing missing yet, under these manifests; whether they are signed is for `verify` to say.
fn erasures_of(head: &Head) -> Erasures {
    let manifests = head.manifests.iter();
    let manifests = manifests.filter_map(|manifest| convert::read_unverified(manifest).ok());
    let manifests: Vec<Manifest> = manifests.collect();
    Erasures::new(&manifests)
}
