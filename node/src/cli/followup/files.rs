//! Files that go with an answer: to the node, and from it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use sha2::{Digest as _, Sha256};
use sotto_common::ids::FollowUpId;
use sotto_proto::v1;
use sotto_proto::v1::add_follow_up_attachment_request::Part;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{bytes, given, shown, steps};
use crate::cli::client::Client;
use crate::cli::fault::{Fault, Result};
use crate::cli::render::printable;
use crate::cli::{Context, progress};

/// Most bytes of a file.
const MAX_FILE: u64 = 1024 * 1024 * 1024;

/// Most files that go with an answer.
const MAX_FILES: usize = 64;

/// Most characters of a file's name.
const MAX_NAME: usize = 255;

/// Bytes in a message.
const CHUNK: usize = 256 * 1024;

/// Messages that wait for the node while the file is read on.
const AHEAD: usize = 4;

/// A file that is to go.
pub(super) struct Outgoing {
    /// Its own name.
    pub(super) name: String,
    /// Its size in bytes.
    pub(super) size: u64,
    path: PathBuf,
    file: File,
}

impl Outgoing {
    /// SHA-256 of its content.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn digest(&self) -> Result<[u8; 32]> {
        let unreadable = |error: std::io::Error| {
            let shown = self.path.display();
            Fault::new(format!("cannot read {shown}: {error}"))
        };
        let mut file = &self.file;
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = file.read(&mut chunk).map_err(unreadable)?;
            if read == 0 {
                break;
            }
            hasher.update(&chunk[..read]);
        }
        // It may have to be sent yet.
        file.rewind().map_err(unreadable)?;
        Ok(hasher.finalize().into())
    }
}

/// Opens every file before the first is sent.
///
/// # Errors
/// Which file cannot be read, is too large, or has the name of another one.
pub(super) fn open_all(paths: &[PathBuf]) -> Result<Vec<Outgoing>> {
    if paths.len() > MAX_FILES {
        return Err(Fault::Usage(format!(
            "at most {MAX_FILES} files go with an answer"
        )));
    }
    let files: Vec<_> = paths.iter().map(|path| open(path)).collect::<Result<_>>()?;
    if let Some(name) = shared_name(&files) {
        return Err(Fault::Usage(format!(
            "two of the files are named {name}: whoever reads the answer could not tell them apart"
        )));
    }
    Ok(files)
}

/// A name that two of the files have.
fn shared_name(files: &[Outgoing]) -> Option<&str> {
    let mut seen = BTreeSet::new();
    let mut names = files.iter().map(|file| file.name.as_str());
    names.find(|name| !seen.insert(*name))
}

fn open(path: &Path) -> Result<Outgoing> {
    let shown = path.display();
    let unreadable = |error| Fault::new(format!("cannot read {shown}: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Fault::new(format!("{shown} is not a file")));
    }
    if metadata.len() > MAX_FILE {
        return Err(Fault::new(format!("{shown} is too large: at most 1 GiB")));
    }
    let name = steps::file_name(path);
    if name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Fault::new(format!(
            "{shown}: a name has at most {MAX_NAME} characters, and no control characters"
        )));
    }
    Ok(Outgoing {
        name,
        size: metadata.len(),
        path: path.to_owned(),
        file,
    })
}

/// Sends a file, from where the node has it if it broke off before; gives the attachment's id.
///
/// # Errors
/// If it changes while it is read, or the node refuses: nothing is kept then. If it breaks off, what
/// has come stays at the node for a day.
pub(super) async fn add(
    context: &Context,
    client: &Client,
    id: FollowUpId,
    outgoing: Outgoing,
    unfinished: &[v1::UnfinishedAttachment],
) -> Result<String> {
    let digest = outgoing.digest()?;
    let offset = given::acknowledged(unfinished, &outgoing, &digest);
    if offset > 0 {
        context.note(&format!(
            "{} goes on after {offset} of {} bytes",
            outgoing.name, outgoing.size
        ));
    }
    let bar = progress::bytes(Some(outgoing.size));
    bar.set_message(printable(&outgoing.name));
    bar.set_position(offset);
    let (sender, receiver) = mpsc::channel(AHEAD);
    let begin = Part::Begin(v1::AttachmentDescription {
        follow_up_id: bytes(id),
        name: outgoing.name.clone(),
        size: outgoing.size,
        sha256: digest.to_vec().into(),
        offset,
    });
    // The channel is new and has room.
    let _ = sender.try_send(part(begin));
    let reading = {
        let (sender, bar) = (sender.clone(), bar.clone());
        tokio::task::spawn_blocking(move || read(outgoing, offset, &sender, &bar))
    };
    let mut analyst = client.analyst();
    let call = analyst.add_follow_up_attachment(ReceiverStream::new(receiver));
    tokio::pin!(call);
    // A stream that ends is complete: after a fault in the file it must break instead, which it
    // does when the call is dropped while `sender` still holds it open.
    tokio::select! {
        answer = &mut call => {
            answer?;
            return Err(Fault::new("the node ended the stream early"));
        }
        read = reading => {
            read.map_err(|_| Fault::new("reading the file was cut off"))??;
        }
    }
    bar.set_message("the node seals the file");
    drop(sender);
    let answer = call.await?.into_inner();
    bar.finish_and_clear();
    Ok(shown::attachment_id(&answer.attachment_id))
}

fn part(part: Part) -> v1::AddFollowUpAttachmentRequest {
    v1::AddFollowUpAttachmentRequest { part: Some(part) }
}

/// Reads exactly as many bytes as were announced, from an offset on; ends early if the node has
/// stopped listening.
fn read(
    outgoing: Outgoing,
    offset: u64,
    sender: &mpsc::Sender<v1::AddFollowUpAttachmentRequest>,
    bar: &ProgressBar,
) -> Result<()> {
    let path = outgoing.path.display().to_string();
    let unreadable = |error: std::io::Error| Fault::new(format!("cannot read {path}: {error}"));
    let (mut file, mut left) = (outgoing.file, outgoing.size - offset);
    file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    let mut input = bar.wrap_read(file.take(left + 1));
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut input)
            .take(CHUNK as u64)
            .read_to_end(&mut chunk)
            .map_err(unreadable)?;
        let Some(rest) = left.checked_sub(chunk.len() as u64) else {
            return Err(Fault::new(format!("{path} grew while it was read")));
        };
        left = rest;
        if chunk.is_empty() {
            break;
        }
        if sender
            .blocking_send(part(Part::Chunk(chunk.into())))
            .is_err()
        {
            return Ok(());
        }
    }
    if left > 0 {
        return Err(Fault::new(format!("{path} shrank while it was read")));
    }
    Ok(())
}

/// Saves every file of an answer. All are tried; one that fails is a failure of the command.
pub(super) async fn save(
    context: &Context,
    client: &Client,
    view: &v1::GetNodeFollowUpResponse,
    folder: &Path,
    why: &str,
) -> Result<()> {
    let names = view.steps.iter().filter_map(|step| match &step.content {
        Some(v1::node_follow_up_step::Content::Answer(answer)) => Some(&answer.file_names),
        _ => None,
    });
    let names: Vec<_> = names.flatten().collect();
    if names.is_empty() {
        context.note("no file goes with it");
        return Ok(());
    }
    std::fs::create_dir_all(folder)
        .map_err(|error| Fault::new(format!("cannot make {}: {error}", folder.display())))?;
    let follow_up = view.follow_up.clone().unwrap_or_default();
    let follow_up_id = follow_up.follow_up.unwrap_or_default().follow_up_id;
    let mut failed = 0;
    for file in &names {
        let request = v1::ReadFollowUpAttachmentRequest {
            follow_up_id: follow_up_id.clone(),
            attachment_id: file.attachment_id.clone(),
            why: why.to_owned(),
        };
        // What was begun is removed when this is dropped.
        let saved = tokio::select! {
            saved = save_one(client, request, &file.name, folder) => saved,
            _ = tokio::signal::ctrl_c() => return Err(Fault::new("interrupted")),
        };
        match saved {
            Ok(path) => context.note(&format!("saved {}", path.display())),
            Err(fault) => {
                failed += 1;
                let _ = fault.report();
            }
        }
    }
    if failed > 0 {
        return Err(Fault::with_hint(
            format!("{failed} of {} files could not be saved", names.len()),
            "give the command again once the cause is gone; whole files stay as they are",
        ));
    }
    Ok(())
}

async fn save_one(
    client: &Client,
    request: v1::ReadFollowUpAttachmentRequest,
    name: &str,
    folder: &Path,
) -> Result<PathBuf> {
    let id = shown::attachment_id(&request.attachment_id);
    let mut parts = client
        .analyst()
        .read_follow_up_attachment(request)
        .await?
        .into_inner();
    let unwritable = |error| Fault::new(format!("cannot write to {}: {error}", folder.display()));
    let mut file = NamedTempFile::new_in(folder).map_err(unwritable)?;
    let mut size = None;
    let mut written = 0;
    let mut bar = ProgressBar::hidden();
    while let Some(part) = parts.message().await? {
        if let Some(description) = part.description {
            size = Some(description.size);
            bar = progress::bytes(size);
            bar.set_message(printable(name));
        }
        file.write_all(&part.chunk).map_err(unwritable)?;
        written += part.chunk.len() as u64;
        bar.set_position(written);
    }
    bar.finish_and_clear();
    if size != Some(written) {
        return Err(Fault::new(format!(
            "{} did not come whole",
            printable(name)
        )));
    }
    file.as_file().sync_all().map_err(unwritable)?;
    keep(file, &folder.join(safe_name(name, &id)))
}

/// Gives a whole file its name, or the same with a number if that is taken.
fn keep(mut file: NamedTempFile, path: &Path) -> Result<PathBuf> {
    let stem = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let extension = path
        .extension()
        .map(|e| format!(".{}", e.to_string_lossy()));
    for number in 1..1000 {
        let wanted = match number {
            1 => path.to_owned(),
            n => path.with_file_name(format!("{stem}-{n}{}", extension.as_deref().unwrap_or(""))),
        };
        match file.persist_noclobber(&wanted) {
            Ok(_) => return Ok(wanted),
            Err(refused) if refused.error.kind() == std::io::ErrorKind::AlreadyExists => {
                file = refused.file;
            }
            Err(refused) => {
                let shown = wanted.display();
                return Err(Fault::new(format!(
                    "cannot write {shown}: {}",
                    refused.error
                )));
            }
        }
    }
    Err(Fault::new(format!(
        "{} and a thousand like it are taken",
        path.display()
    )))
}

/// A name that stays in its folder, is seen in a listing, and does not act on a terminal.
fn safe_name(name: &str, id: &str) -> String {
    let safe = printable(name).replace(['/', '\\', ':', '\u{fffd}'], "_");
    let mut safe = safe
        .trim_start_matches(['.', '-', ' '])
        .trim_end()
        .to_owned();
    // File systems count bytes; a number may have to go behind it.
    while safe.len() > 200 {
        safe.pop();
    }
    let reserved: BTreeSet<_> = ["", "_"].into();
    if reserved.contains(safe.as_str()) {
        return id.to_owned();
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_the_other_side_stays_in_its_folder() {
        for (name, expected) in [
            ("report.pdf", "report.pdf"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("/etc/passwd", "_etc_passwd"),
            ("..", "the-id"),
            ("", "the-id"),
            ("/", "the-id"),
            (".bashrc", "bashrc"),
            ("-rf", "rf"),
            ("a\u{1b}[2J\nb", "a_[2J_b"),
            ("c:\\x", "c__x"),
        ] {
            assert_eq!(safe_name(name, "the-id"), expected, "{name}");
        }
        assert!(safe_name(&"é".repeat(255), "x").len() <= 200);
    }

    #[test]
    fn a_file_that_is_there_is_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("a.txt");
        for expected in ["a.txt", "a-2.txt", "a-3.txt"] {
            let mut file = NamedTempFile::new_in(folder.path()).expect("made");
            file.write_all(expected.as_bytes()).expect("written");
            assert_eq!(
                keep(file, &place).expect("kept"),
                folder.path().join(expected)
            );
        }
        assert_eq!(std::fs::read(place).expect("read"), b"a.txt");
        assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 3);
    }

    #[test]
    fn files_are_looked_at_before_the_first_one_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let good = folder.path().join("good");
        std::fs::write(&good, "x").expect("written");
        assert!(open_all(&[good.clone(), folder.path().join("gone")]).is_err());
        assert!(open_all(&[good.clone(), folder.path().to_owned()]).is_err());
        let opened = open_all(std::slice::from_ref(&good)).expect("opened");
        assert_eq!((opened[0].name.as_str(), opened[0].size), ("good", 1));
        assert!(open_all(&[good.clone(), good.clone()]).is_err());
        assert!(open_all(&vec![good; 65]).is_err());
    }
}
