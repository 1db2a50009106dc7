//! `access-log`: who read what, when and why (Directive (EU) 2016/680 art. 25).

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Deserialize;
use sotto_common::time::Timestamp;
use sotto_proto::{convert, v1};

use super::fault::{Fault, Result};
use super::render::{Cell, List};
use super::{Context, block_on};
use crate::access::{Access, AccessEntry, Chain};

/// Commands about the access log.
#[derive(Subcommand, Debug)]
pub(crate) enum AccessCommand {
    /// Print the entries, oldest first; doing so is an entry itself
    #[command(after_help = "Examples:\n  \
        sotto-node access-log export --why 'audit of 2026' --output json > access.json\n  \
        sotto-node access-log export --since 2026-01-01 --why 'complaint 7' \\\n    \
        --person spiffe://sotto.example/analyst/jane --output csv")]
    Export(ExportArgs),
    /// Check that no entry of an export was changed or left out; offline
    ///
    /// The export must be of --output json and without filters. Compare the digest of the last
    /// entry with the same entry of an export that was kept elsewhere: it shows a log that was
    /// written anew as a whole.
    #[command(after_help = "Example:\n  sotto-node access-log verify access.json")]
    Verify {
        /// The export
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Which entries, and why they are read.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Only entries at or after this time, RFC 3339 or a date in UTC
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only entries before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Only entries of this person: a SPIFFE ID, or oidc:<issuer>#<subject>
    #[arg(long, value_name = "ID", default_value = "")]
    person: String,
    /// Why the log is read; 1 to 256 characters, kept in the log
    #[arg(long, value_name = "TEXT")]
    why: String,
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse_rfc3339(text)
        .or_else(|| Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")))
        .ok_or_else(|| "expected a time such as 2026-01-31T12:00:00Z, or 2026-01-31".into())
}

const ENTRY: &[&str] = &[
    "number", "at", "person", "action", "objects", "why", "digest",
];

/// Runs a command about the access log.
pub(crate) fn run(context: &Context, command: AccessCommand) -> Result<()> {
    match command {
        AccessCommand::Export(args) => block_on(export(context, args)),
        AccessCommand::Verify { file } => verify(context, &file),
    }
}

async fn export(context: &Context, args: ExportArgs) -> Result<()> {
    let request = v1::ExportAccessLogRequest {
        after: 0,
        since: args.since.map(convert::to_timestamp),
        until: args.until.map(convert::to_timestamp),
        person: args.person,
        why: args.why,
    };
    let answer = context.client()?.admin().export_access_log(request).await?;
    let mut entries = answer.into_inner();
    let mut list = List::new(context.output, ENTRY, context.stdout())?;
    while let Some(entry) = entries.message().await? {
        list.row(&cells(&entry))?;
    }
    Ok(list.finish()?)
}

fn cells(entry: &v1::ExportAccessLogResponse) -> [Cell; 7] {
    let at = convert::timestamp("at", entry.at).ok();
    [
        Cell::new(entry.number),
        // With its fraction: the digest is over it.
        Cell::new(at.map(precise)),
        Cell::new(entry.person.as_str()),
        Cell::new(entry.action.as_str()),
        Cell::texts(&entry.objects),
        Cell::new(entry.why.as_str()),
        Cell::new(hex::encode(&entry.digest)),
    ]
}

/// RFC 3339 in UTC, with microseconds.
fn precise(at: Timestamp) -> String {
    let whole = at.to_string();
    let fraction = at.micros().rem_euclid(1_000_000);
    format!("{}.{fraction:06}Z", whole.trim_end_matches('Z'))
}

/// One row of an export.
#[derive(Deserialize)]
struct Row {
    number: u64,
    at: String,
    person: String,
    action: String,
    objects: Vec<String>,
    why: String,
    digest: String,
}

impl Row {
    fn entry(self) -> Option<AccessEntry> {
        Some(AccessEntry {
            number: self.number,
            access: Access {
                at: Timestamp::parse_rfc3339(&self.at)?,
                person: self.person,
                action: self.action,
                objects: self.objects,
                why: self.why,
            },
            digest: hex::decode(self.digest).ok()?.try_into().ok()?,
        })
    }
}

const VERIFIED: &[&str] = &["entries", "last_digest"];

fn verify(context: &Context, file: &Path) -> Result<()> {
    let name = file.display();
    let text =
        std::fs::read(file).map_err(|error| Fault::new(format!("cannot read {name}: {error}")))?;
    let rows: Vec<Row> = serde_json::from_slice(&text).map_err(|error| {
        Fault::with_hint(
            format!("{name} is not an export of the access log: {error}"),
            "make it with `sotto-node access-log export --why TEXT --output json`",
        )
    })?;
    let mut chain = Chain::default();
    for row in rows {
        let number = row.number;
        let entry = row
            .entry()
            .ok_or_else(|| Fault::new(format!("{name}: entry {number} is not one")))?;
        chain.take(&entry).map_err(|problem| {
            Fault::with_hint(
                format!("{name}: {problem}"),
                "an export with filters has gaps and cannot be checked; without filters, somebody \
                 has changed the log or the file",
            )
        })?;
    }
    let (entries, last) = chain.end();
    context.done(
        VERIFIED,
        &[Cell::new(entries), Cell::new(hex::encode(last))],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_as_dates_and_keep_their_fraction() {
        let day = time("2026-01-31").expect("a date");
        assert_eq!(time("2026-01-31T01:00:00+01:00"), Ok(day));
        assert!(time("31.1.2026").is_err());
        for micros in [0, 1, 999_999, 1_789_500_000_000_001] {
            let at = Timestamp::from_micros(micros);
            assert_eq!(Timestamp::parse_rfc3339(&precise(at)), Some(at));
        }
    }
}
