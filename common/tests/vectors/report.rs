//! Running the checks and saying what they found.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sotto_common::epoch::{Gms, KeySchedule};
use sotto_common::ids::{CommunityId, Epoch};
use sotto_common::secret::Secret;

/// Checks one parsed file.
pub(crate) type Check = fn(&Value, &mut Rows<'_>);
/// What one row says: nothing, or how it differs.
pub(crate) type Outcome = Result<(), String>;

enum FileState {
    Checked { rows: usize, skipped: Vec<String> },
    Unreadable,
    NeedsKeySchedule,
    NotYetCovered,
    Unknown,
    Absent,
}

/// What was found in a folder.
pub(crate) struct Report {
    files: BTreeMap<String, FileState>,
    failures: Vec<String>,
}

impl Report {
    /// Every difference, with file and row.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Rows checked in all files.
    pub(crate) fn rows(&self) -> usize {
        self.files.keys().map(|file| self.rows_of(file)).sum()
    }

    /// Rows checked in one file.
    pub(crate) fn rows_of(&self, file: &str) -> usize {
        match self.files.get(file) {
            Some(FileState::Checked { rows, .. }) => *rows,
            _ => 0,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (file, state) in &self.files {
            let prefix = format!("{file}[");
            let failed = self
                .failures
                .iter()
                .filter(|failure| failure.starts_with(&prefix))
                .count();
            match state {
                FileState::Checked { rows, skipped } => {
                    match failed {
                        0 => write!(f, "{file}: {rows} rows ok"),
                        _ => write!(f, "{file}: {failed} of {rows} rows FAILED"),
                    }?;
                    if !skipped.is_empty() {
                        write!(f, "; not yet covered: {}", skipped.join(", "))?;
                    }
                    writeln!(f)
                }
                FileState::Unreadable => writeln!(f, "{file}: UNREADABLE"),
                FileState::NeedsKeySchedule => {
                    writeln!(f, "{file}: needs key_schedule.json, not checked")
                }
                FileState::NotYetCovered => writeln!(f, "{file}: not yet covered"),
                FileState::Unknown => writeln!(f, "{file}: unknown, not checked"),
                FileState::Absent => writeln!(f, "{file}: absent"),
            }?;
        }
        Ok(())
    }
}

/// The rows of one file as they are checked.
pub(crate) struct Rows<'a> {
    file: &'a str,
    keys: Option<&'a Keys>,
    folder: &'a Path,
    checked: usize,
    skipped: Vec<String>,
    needs_keys: bool,
    failures: &'a mut Vec<String>,
}

impl<'a> Rows<'a> {
    /// Checks one row, parsed to what the check needs.
    pub(crate) fn row<T: DeserializeOwned>(
        &mut self,
        name: impl fmt::Display,
        row: &Value,
        check: impl FnOnce(T) -> Outcome,
    ) {
        let outcome = T::deserialize(row)
            .map_err(|error| format!("cannot be read: {error}"))
            .and_then(check);
        self.checked += 1;
        if let Err(text) = outcome {
            self.failures.push(format!("{}[{name}]: {text}", self.file));
        }
    }

    /// Checks every row of a list, or the one row that stands alone.
    pub(crate) fn each<T: DeserializeOwned>(
        &mut self,
        file: &Value,
        mut check: impl FnMut(T) -> Outcome,
    ) {
        let rows = file
            .as_array()
            .map_or(std::slice::from_ref(file), |rows| rows);
        for (index, row) in rows.iter().enumerate() {
            self.row(format_args!("row {index}"), row, &mut check);
        }
    }

    /// Lists a part of the file that has no check here yet.
    pub(crate) fn skip(&mut self, what: &str) {
        self.skipped.push(what.to_owned());
    }

    /// Another file of the same folder, if it is there and can be read.
    pub(crate) fn sibling(&self, file: &str) -> Option<Value> {
        let text = std::fs::read_to_string(self.folder.join(file)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// The keys of the folder, under which other files were made; remembers that it was asked.
    pub(crate) fn keys(&mut self) -> Option<&'a Keys> {
        self.needs_keys = self.keys.is_none();
        self.keys
    }
}

/// The keys of `key_schedule.json`.
pub(crate) struct Keys {
    pub(crate) community: CommunityId,
    pub(crate) epoch: Epoch,
    pub(crate) schedule: KeySchedule,
}

impl Keys {
    fn read(folder: &Path) -> Option<Self> {
        #[derive(Deserialize)]
        struct Row {
            community: String,
            epoch: u32,
            gms: Hex<32>,
        }
        let text = std::fs::read_to_string(folder.join("key_schedule.json")).ok()?;
        let file: Value = serde_json::from_str(&text).ok()?;
        let row = Row::deserialize(file.get(0).unwrap_or(&file)).ok()?;
        let (community, epoch) = (row.community.parse().ok()?, Epoch::new(row.epoch).ok()?);
        let gms = Gms::from_secret(Secret::new(row.gms.0));
        Some(Self {
            schedule: KeySchedule::derive(&gms, &community, epoch),
            community,
            epoch,
        })
    }
}

/// Runs the checks over a folder.
pub(crate) fn run(folder: &Path, checks: &[(&str, Check)], not_yet_covered: &[&str]) -> Report {
    let mut report = Report {
        files: BTreeMap::new(),
        failures: Vec::new(),
    };
    let listing = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("cannot read the folder {}: {error}", folder.display()));
    for entry in listing {
        let path = entry.expect("an entry of the folder").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            report.files.insert(name.into_owned(), FileState::Unknown);
        }
    }
    for file in not_yet_covered {
        let found = report.files.contains_key(*file);
        let state = if found {
            FileState::NotYetCovered
        } else {
            FileState::Absent
        };
        report.files.insert((*file).into(), state);
    }
    let keys = Keys::read(folder);
    for (file, check) in checks {
        let state = if report.files.contains_key(*file) {
            check_file(
                &folder.join(file),
                file,
                *check,
                keys.as_ref(),
                &mut report.failures,
            )
        } else {
            FileState::Absent
        };
        report.files.insert((*file).into(), state);
    }
    report
}

fn check_file(
    path: &Path,
    file: &str,
    check: Check,
    keys: Option<&Keys>,
    failures: &mut Vec<String>,
) -> FileState {
    let parsed = std::fs::read_to_string(path)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
    let value = match parsed {
        Ok(value) => value,
        Err(error) => {
            failures.push(format!("{file}: cannot be read: {error}"));
            return FileState::Unreadable;
        }
    };
    let mut rows = Rows {
        file,
        keys,
        folder: path.parent().unwrap_or(path),
        checked: 0,
        skipped: Vec::new(),
        needs_keys: false,
        failures,
    };
    check(&value, &mut rows);
    if rows.needs_keys {
        FileState::NeedsKeySchedule
    } else {
        FileState::Checked {
            rows: rows.checked,
            skipped: rows.skipped,
        }
    }
}

/// `Ok` if the two are equal, else both under the name of what they are.
#[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
pub(crate) fn same<T: PartialEq + fmt::Debug>(what: &str, ours: T, theirs: T) -> Outcome {
    if ours == theirs {
        Ok(())
    } else {
        Err(format!("{what}: {ours:?} here, {theirs:?} in the vectors"))
    }
}

/// Exactly `N` bytes in hex.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hex<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = HexBytes::deserialize(from)?.0;
        let length = bytes.len();
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| serde::de::Error::custom(format_args!("{length} bytes of hex, not {N}")))
    }
}

/// Any number of bytes in hex.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HexBytes(pub(crate) Vec<u8>);

impl fmt::Debug for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        hex::decode(text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}
