//! The copies that a broker leaves behind when it is stopped in good order, and as what: a list
//! beside the folder, that is there from the end of one run to the start of the next.
//!
//! A file that is still what the list says was not written since: it may be used at once, and is
//! compared with its digest later. Without the list, after a kill, nothing is known of any copy.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use sotto_common::random::os_rng;
use sotto_common::service::files::{self, Readers};

/// The first line of the list. One of another version is as good as none.
const FORM: &str = "sotto cache 1";

/// What changes when a file is written, replaced, or restored from a backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    length: u64,
    inode: u64,
    /// Seconds and nanoseconds of the last change of the content.
    modified: (i64, i64),
    /// The same of the last change of anything: no program can set it back.
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            length: file.len(),
            inode: file.ino(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    fn line(&self, name: &str) -> String {
        let Self {
            length,
            inode,
            modified,
            changed,
        } = self;
        format!(
            "{name} {length} {inode} {} {} {} {}",
            modified.0, modified.1, changed.0, changed.1
        )
    }

    fn read(line: &str) -> Option<(String, Self)> {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        let (length, inode) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let times: Vec<i64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let &[modified, its_nanos, changed, nanos] = times.as_slice() else {
            return None;
        };
        let stamp = Self {
            length,
            inode,
            modified: (modified, its_nanos),
            changed: (changed, nanos),
        };
        Some((name, stamp))
    }
}

/// Writes the list.
///
/// # Errors
/// The error of the file system; there is no list then.
pub(super) fn put<'a>(
    list: &Path,
    copies: impl Iterator<Item = (&'a str, Stamp)>,
) -> io::Result<()> {
    let mut content = Vec::new();
    writeln!(content, "{FORM}")?;
    for (name, stamp) in copies {
        writeln!(content, "{}", stamp.line(name))?;
    }
    let written = files::write(list, &content, Readers::Owner, &mut os_rng());
    if written.is_err() {
        // Neither an older one, nor one that a crash may take back. The error that matters is above.
        let _ = fs::remove_file(list);
    }
    written
}

/// Takes the list away for good, as it holds for one start, and reads it. Empty if there is none, or one
/// that cannot be taken away or read.
pub(super) fn take(list: &Path) -> HashMap<String, Stamp> {
    let taken = || {
        let mut file = File::open(list)?;
        fs::remove_file(list)?;
        // A crash must not bring it back.
        File::open(list.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok::<_, io::Error>(content)
    };
    match taken() {
        Ok(content) => read(&content).unwrap_or_default(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, "the list of copies was not read");
            }
            HashMap::new()
        }
    }
}

/// None if it is not of this form.
fn read(content: &[u8]) -> Option<HashMap<String, Stamp>> {
    let mut lines = std::str::from_utf8(content).ok()?.lines();
    if lines.next()? != FORM {
        return None;
    }
    lines.map(Stamp::read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_once_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let (file, list) = (dir.path().join("copy"), dir.path().join("list"));
        fs::write(&file, "bits").expect("written");
        let stamp = Stamp::of(&fs::metadata(&file).expect("there"));
        put(&list, [("copy", stamp)].into_iter()).expect("written");
        assert_eq!(take(&list), HashMap::from([("copy".to_owned(), stamp)]));
        assert!(take(&list).is_empty());
        fs::write(&file, "other").expect("written");
        assert!(Stamp::of(&fs::metadata(&file).expect("there")) != stamp);
    }

    #[test]
    fn what_is_no_list_is_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let list = dir.path().join("list");
        for content in [
            "",
            "sotto cache 2\n",
            "sotto cache 1\ncopy 4 1 2 3 4\n",
            "sotto cache 1\ncopy 4 1 2 3 4 5 6\n",
            "sotto cache 1\ncopy four 1 2 3 4 5\n",
            "\0\0\0",
        ] {
            fs::write(&list, content).expect("written");
            assert!(take(&list).is_empty(), "{content:?}");
            assert!(!list.exists());
        }
    }
}
