//! The files of a bundle, and their digests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use sotto_common::dsse::VerifyingKey;
use sotto_common::ids::NodeId;
use sotto_proto::v1;

use super::super::export::safe_path;
use crate::cli::fault::{Fault, Result};
use crate::cli::render::printable;

/// The list of digests.
pub(super) const SUMS: &str = "SHA256SUMS";

/// The same, signed.
pub(super) const SUMS_SIGNED: &str = "SHA256SUMS.dsse";

/// The manifest of the hit's epoch.
pub(super) const MANIFEST: &str = "manifest.pb";

/// The keys, for people.
const KEYS: &str = "keys.json";

/// Most bytes of a file that is read whole.
const MAX_SMALL: u64 = 16 * 1024 * 1024;

/// A bundle as it stands in its folder; nothing of it is believed yet.
pub(super) struct Bundle {
    folder: PathBuf,
    sums: Vec<u8>,
    digests: BTreeMap<String, [u8; 32]>,
}

impl Bundle {
    /// Reads the list of digests.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let sums = read_small(folder, SUMS).map_err(|fault| match fault {
            Fault::Failed { text, .. } => Fault::with_hint(
                text,
                "name the folder that `sotto-node followup export` wrote",
            ),
            other => other,
        })?;
        let digests = digests(&sums)?;
        Ok(Self {
            folder: folder.to_owned(),
            sums,
            digests,
        })
    }

    /// The list as it stands there.
    pub(super) fn sums(&self) -> &[u8] {
        &self.sums
    }

    /// Compares every file with its digest, and the files with the list; gives their number.
    pub(super) fn check_digests(&self) -> Result<usize> {
        for (name, expected) in &self.digests {
            if digest(&self.folder, name)? != *expected {
                return Err(Fault::new(format!(
                    "{name}: it was changed; {SUMS} has another digest"
                )));
            }
        }
        let mut present = BTreeSet::new();
        list(&self.folder, "", &mut present)?;
        let extra = present.iter().find(|name| {
            ![SUMS, SUMS_SIGNED].contains(&name.as_str()) && !self.digests.contains_key(*name)
        });
        match extra {
            Some(name) => Err(Fault::new(format!(
                "{}: it is no part of the bundle; {SUMS} does not list it",
                printable(name)
            ))),
            None => Ok(self.digests.len()),
        }
    }

    /// The statements, in the order of their names.
    pub(super) fn statements(&self) -> Vec<String> {
        self.below("statements/")
    }

    /// The files of a folder, in the order of their names.
    pub(super) fn below(&self, folder: &str) -> Vec<String> {
        let names = self.digests.keys();
        names
            .filter(|name| name.starts_with(folder))
            .cloned()
            .collect()
    }

    /// A short file.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        read_small(&self.folder, name)
    }

    /// A signed file: an envelope written in its one way, so that every byte counts.
    pub(super) fn envelope(&self, name: &str) -> Result<v1::DsseEnvelope> {
        let bytes = read_small(&self.folder, name)?;
        let envelope = v1::DsseEnvelope::decode(bytes.as_slice()).ok();
        envelope
            .filter(|envelope| envelope.encode_to_vec() == bytes)
            .ok_or_else(|| Fault::new(format!("{name}: it is no signed statement")))
    }

    /// Whether the list of digests names a file.
    pub(super) fn has(&self, name: &str) -> bool {
        self.digests.contains_key(name)
    }

    /// A file of JSON.
    pub(super) fn json(&self, name: &str) -> Result<serde_json::Value> {
        let text = read_small(&self.folder, name)?;
        serde_json::from_slice(&text)
            .map_err(|error| Fault::new(format!("{name}: it is no JSON: {error}")))
    }

    /// The keys that people read are those that the statements are verified by.
    pub(super) fn check_named_keys(&self, keys: &BTreeMap<NodeId, VerifyingKey>) -> Result<()> {
        let mut named = BTreeSet::new();
        collect_keys(&self.json(KEYS)?, &mut named);
        let is_named = |key: &VerifyingKey| {
            named.contains(&hex::encode(key.as_bytes()))
                || named.contains(&hex::encode(key.fingerprint().as_bytes()))
        };
        match keys.iter().find(|(_, key)| !is_named(key)) {
            Some((node, _)) => Err(Fault::new(format!(
                "{KEYS}: it does not name the key by which {node} has signed"
            ))),
            None => Ok(()),
        }
    }
}

/// Every text that is 32 bytes in hex, however it is grouped.
fn collect_keys(value: &serde_json::Value, into: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::String(text) => {
            let text = text.to_ascii_lowercase().replace([' ', ':'], "");
            if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
                into.insert(text);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_keys(item, into)),
        serde_json::Value::Object(map) => map.values().for_each(|item| collect_keys(item, into)),
        _ => {}
    }
}

/// Lines of `<64 hex digits>  <path>`, as sha256sum writes them.
fn digests(sums: &[u8]) -> Result<BTreeMap<String, [u8; 32]>> {
    let text =
        std::str::from_utf8(sums).map_err(|_| Fault::new(format!("{SUMS}: it is no UTF-8")))?;
    let mut digests = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let row = line.split_once("  ").and_then(|(digest, name)| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(digest, &mut bytes).ok()?;
            Some((name.to_owned(), bytes))
        });
        let Some((name, digest)) = row else {
            return Err(Fault::new(format!(
                "{SUMS}: line {} is no digest",
                number + 1
            )));
        };
        safe_path(&name)?;
        if digests.insert(name, digest).is_some() {
            return Err(Fault::new(format!(
                "{SUMS}: line {} is there twice",
                number + 1
            )));
        }
    }
    Ok(digests)
}

fn open(folder: &Path, name: &str) -> Result<File> {
    let path = folder.join(name);
    let unreadable = |error| Fault::new(format!("{name}: cannot read it: {error}"));
    // A link would lead out of the bundle.
    let metadata = std::fs::symlink_metadata(&path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Fault::new(format!("{name}: it is no file")));
    }
    File::open(&path).map_err(unreadable)
}

fn read_small(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(folder, name)?
        .take(MAX_SMALL + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Fault::new(format!("{name}: cannot read it: {error}")))?;
    if bytes.len() as u64 > MAX_SMALL {
        return Err(Fault::new(format!("{name}: it is too long")));
    }
    Ok(bytes)
}

fn digest(folder: &Path, name: &str) -> Result<[u8; 32]> {
    let mut file = open(folder, name)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = file
            .read(&mut chunk)
            .map_err(|error| Fault::new(format!("{name}: cannot read it: {error}")))?;
        if read == 0 {
            return Ok(hasher.finalize().into());
        }
        hasher.update(&chunk[..read]);
    }
}

/// Every file below the folder.
fn list(folder: &Path, below: &str, into: &mut BTreeSet<String>) -> Result<()> {
    let unreadable = |error| Fault::new(format!("cannot list the bundle: {error}"));
    for entry in std::fs::read_dir(folder.join(below)).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let name = if below.is_empty() {
            name
        } else {
            format!("{below}/{name}")
        };
        if entry.file_type().map_err(unreadable)?.is_dir() {
            list(folder, &name, into)?;
        } else {
            into.insert(name);
        }
    }
    Ok(())
}
