//! `followup export`: a bundle of one follow-up, into a new folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use sotto_common::ids::FollowUpId;
use sotto_proto::v1;

use super::{ERASED, bytes};
use crate::cli::Context;
use crate::cli::client::Client;
use crate::cli::fault::{Fault, Result};
use crate::cli::progress;
use crate::cli::render::{Cell, List, printable};
use crate::follow_up::logged::{SUMMARY, missing};

/// What is exported.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// The follow-up
    #[arg(value_name = "ID")]
    id: FollowUpId,
    /// The folder, which must not be there yet, or be empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Why, for the access log; 1 to 256 characters
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// With the files of the answer, in clear
    #[arg(long)]
    with_attachments: bool,
}

const WRITTEN: &[&str] = &["file", "bytes"];

/// Most bytes in a path of a bundle.
const MAX_PATH: usize = 1024;

/// Writes the bundle; the folder appears only when it is whole.
pub(super) async fn run(context: &Context, client: &Client, args: &ExportArgs) -> Result<()> {
    check_free(&args.folder)?;
    let parent = match args.folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let shown = args.folder.display();
    let unwritable = |error| Fault::new(format!("cannot write {shown}: {error}"));
    // Its mode is 0700, and it is removed when this is dropped before the end.
    let temporary = tempfile::Builder::new()
        .prefix(".follow-up-")
        .tempdir_in(parent)
        .map_err(unwritable)?;
    let written = tokio::select! {
        written = receive(client, args, temporary.path()) => written?,
        _ = tokio::signal::ctrl_c() => return Err(Fault::new("interrupted; nothing was written")),
    };
    // An empty folder gives way; anything else that has appeared meanwhile does not.
    std::fs::rename(temporary.path(), &args.folder).map_err(unwritable)?;
    // What it named is no more.
    let _ = temporary.keep();
    let mut list = List::new(context.output, WRITTEN, context.stdout())?;
    for (path, size) in &written {
        list.row(&[Cell::new(path.as_str()), Cell::new(*size)])?;
    }
    list.finish()?;
    if written.contains_key(ERASED) {
        context.note(&format!(
            "after the retention time this node has erased what was sealed, and the signed \
             statements with it: no content, no file and no signature of a step is in the bundle; \
             {ERASED} says what is left"
        ));
    }
    for missing in not_proved(&args.folder) {
        context.note(&format!("not proved by the audit log: {missing}"));
    }
    context.note(&format!(
        "written to {shown}; `sotto-node followup verify {shown}` checks it"
    ));
    Ok(())
}

/// What the bundle says that the audit log does not prove, and why.
fn not_proved(folder: &Path) -> Vec<String> {
    let summary = std::fs::read_to_string(folder.join(SUMMARY));
    summary.map_or_else(|_| Vec::new(), |summary| missing(&summary))
}

fn check_free(folder: &Path) -> Result<()> {
    let taken = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    if taken {
        return Err(Fault::with_hint(
            format!("{} is there, and is no empty folder", folder.display()),
            "name a folder that is not there yet: what is exported is never mixed with other files",
        ));
    }
    Ok(())
}

/// Receives the files; gives their places and sizes.
async fn receive(
    client: &Client,
    args: &ExportArgs,
    folder: &Path,
) -> Result<BTreeMap<String, u64>> {
    let request = v1::ExportFollowUpRequest {
        follow_up_id: bytes(args.id),
        why: args.why.clone(),
        with_attachments: args.with_attachments,
    };
    let mut parts = client
        .analyst()
        .export_follow_up(request)
        .await?
        .into_inner();
    let bar = progress::bytes(None);
    let mut bundle = Bundle::new(folder);
    while let Some(part) = parts.message().await? {
        if !part.path.is_empty() {
            bar.set_message(printable(&part.path));
            bundle.begin(&part.path)?;
        }
        bundle.write(&part.chunk)?;
        bar.inc(part.chunk.len() as u64);
    }
    bar.finish_and_clear();
    bundle.end()
}

/// Files that come one after another, each at a place of its own.
struct Bundle<'a> {
    folder: &'a Path,
    file: Option<(String, File)>,
    written: BTreeMap<String, u64>,
}

impl<'a> Bundle<'a> {
    const fn new(folder: &'a Path) -> Self {
        Self {
            folder,
            file: None,
            written: BTreeMap::new(),
        }
    }

    /// Begins a file.
    fn begin(&mut self, path: &str) -> Result<()> {
        self.finish()?;
        let place = self.folder.join(safe_path(path)?);
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent).map_err(|error| unwritable(path, &error))?;
        }
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&place)
            .map_err(|error| unwritable(path, &error))?;
        self.written.insert(path.to_owned(), 0);
        self.file = Some((path.to_owned(), file));
        Ok(())
    }

    /// Adds bytes to the file that was begun last.
    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        let Some((path, file)) = &mut self.file else {
            return Err(Fault::new(
                "the bundle begins without a file; nothing was written",
            ));
        };
        file.write_all(chunk)
            .map_err(|error| unwritable(path, &error))?;
        *self.written.entry(path.clone()).or_default() += chunk.len() as u64;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if let Some((path, file)) = self.file.take() {
            file.sync_all().map_err(|error| unwritable(&path, &error))?;
        }
        Ok(())
    }

    /// What was written.
    fn end(mut self) -> Result<BTreeMap<String, u64>> {
        self.finish()?;
        if self.written.is_empty() {
            return Err(Fault::new("the bundle has no files; nothing was written"));
        }
        Ok(self.written)
    }
}

fn unwritable(path: &str, error: &std::io::Error) -> Fault {
    Fault::new(format!("cannot write {path} of the bundle: {error}"))
}

/// A place below the folder: relative, without `..`, and without characters that mean something
/// elsewhere.
///
/// # Errors
/// For any other place; nothing is written there.
pub(super) fn safe_path(path: &str) -> Result<PathBuf> {
    let place = Path::new(path);
    let parts = path
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    let normal = place
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let letters = !path.contains(['\\', ':']) && !path.chars().any(char::is_control);
    if parts && normal && letters && path.len() <= MAX_PATH {
        return Ok(place.to_owned());
    }
    Err(Fault::with_hint(
        format!(
            "the bundle names a file outside of itself: {}",
            printable(path)
        ),
        "nothing is written there; tell the node's administrator",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_writes_nothing_outside_of_its_folder() {
        for good in [
            "follow-up.json",
            "statements/000-SUBMIT.pb",
            "attachments/a b.pdf",
            "..a",
        ] {
            assert_eq!(safe_path(good).expect(good), Path::new(good));
        }
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a/./b",
            "a//b",
            "a/",
            "./a",
            "c:\\x",
            "a\\b",
            "a\nb",
            "a\0b",
            &"x".repeat(1025),
        ] {
            assert!(safe_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_stand_at_their_places_and_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut bundle = Bundle::new(folder.path());
        assert!(bundle.write(b"x").is_err());
        bundle.begin("a/b").expect("begun");
        bundle.write(b"1").expect("written");
        bundle.write(b"2").expect("written");
        assert!(bundle.begin("a/b").is_err());
        assert!(bundle.begin("../b").is_err());
        bundle.begin("c").expect("begun");
        let written = bundle.end().expect("ended");
        assert_eq!(
            written,
            BTreeMap::from([("a/b".into(), 2), ("c".into(), 0)])
        );
        assert_eq!(
            std::fs::read(folder.path().join("a/b")).expect("read"),
            b"12"
        );
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(check_free(folder.path()).is_ok());
        assert!(check_free(&folder.path().join("new")).is_ok());
        std::fs::write(folder.path().join("x"), "").expect("written");
        assert!(check_free(folder.path()).is_err());
        assert!(check_free(&folder.path().join("x")).is_err());
    }
}
