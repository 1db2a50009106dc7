//! `evidence`: what this node keeps against the audit log (protocol §11).

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};
use sotto_common::random::os_rng;
use sotto_common::service::files::{self, Readers};
use sotto_proto::{convert, v1};

use super::Context;
use super::client::{Client, unary};
use super::fault::{Fault, Result};
use super::render::{Cell, List};

/// Commands about evidence, all of them for supervisors.
#[derive(Subcommand, Debug)]
pub(crate) enum EvidenceCommand {
    /// List what was found, oldest first
    #[command(after_help = "Example:\n  sotto-node evidence ls")]
    Ls,
    /// Write all of it to a file, for the auditor and the other members: both signed notes, the proof that
    /// fails, and the entry, if it is about one
    #[command(after_help = "Example:\n  sotto-node evidence export --out evidence.json")]
    Export {
        /// The file to write, JSON
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// End the alarm: hits may be acted on again; the evidence stays
    ///
    /// Once it is explained. If the log goes on contradicting itself, the next checkpoint
    /// raises the alarm again.
    #[command(after_help = "Examples:\n  \
        sotto-node evidence clear --reason 'a fault of our own disk, see report 12'\n  \
        sotto-node evidence clear --begin-anew --reason 'broker restored from its backup, agreed on \
        3 May'")]
    Clear {
        /// Why, 1 to 256 characters, for the access log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Forget the checkpoint and what was verified under it, and follow the log from what it shows next
        #[arg(long)]
        begin_anew: bool,
    },
}

const EVIDENCE: &[&str] = &["number", "at", "what", "about", "cleared_at"];
const WRITTEN: &[&str] = &["contradictions", "file"];
const CLEARED: &[&str] = &["cleared"];

/// Runs a command about evidence.
pub(crate) async fn run(context: &Context, command: EvidenceCommand) -> Result<()> {
    let client = context.client()?;
    match command {
        EvidenceCommand::Ls => {
            let found = fetch(&client).await?;
            let mut list = List::new(context.output, EVIDENCE, context.stdout())?;
            for row in &found {
                list.row(&cells(row))?;
            }
            Ok(list.finish()?)
        }
        EvidenceCommand::Export { out } => export(context, &client, &out).await,
        EvidenceCommand::Clear { reason, begin_anew } => {
            let request = v1::ClearEvidenceRequest { reason, begin_anew };
            let answer = client.admin().clear_evidence(unary(request)).await?;
            context.done(CLEARED, &[Cell::new(answer.into_inner().cleared)])
        }
    }
}

async fn fetch(client: &Client) -> Result<Vec<v1::ListEvidenceResponse>> {
    let request = v1::ListEvidenceRequest {};
    let mut rows = client.admin().list_evidence(request).await?.into_inner();
    let mut found = Vec::new();
    while let Some(row) = rows.message().await? {
        found.push(row);
    }
    Ok(found)
}

async fn export(context: &Context, client: &Client, out: &Path) -> Result<()> {
    let found = fetch(client).await?;
    let rows: Vec<_> = found.iter().map(row_value).collect();
    let text = serde_json::to_vec_pretty(&rows)
        .map_err(|error| Fault::new(format!("cannot write it down: {error}")))?;
    files::write(out, &text, Readers::Owner, &mut os_rng())
        .map_err(|error| Fault::new(format!("cannot write {}: {error}", out.display())))?;
    let cells = [Cell::new(found.len()), Cell::new(out.display().to_string())];
    context.done(WRITTEN, &cells)
}

fn cells(row: &v1::ListEvidenceResponse) -> [Cell; 5] {
    [
        Cell::new(row.number),
        Cell::time(convert::timestamp("at", row.at).ok()),
        Cell::new(row.what.as_str()),
        Cell::new(row.subject.as_str()),
        Cell::time(convert::timestamp("at", row.cleared_at).ok()),
    ]
}

/// Notes as the text that was signed, hashes and entries in hex.
fn row_value(row: &v1::ListEvidenceResponse) -> Value {
    let time = |at| convert::timestamp("at", at).ok().map(|at| at.to_string());
    let entry = row.entry.as_ref().map(|entry| {
        json!({
            "leaf_index": entry.leaf_index,
            "leaf": hex::encode(&entry.leaf),
            "nonce": hex::encode(&entry.nonce),
            "entry": hex::encode(&entry.entry),
        })
    });
    json!({
        "number": row.number,
        "at": time(row.at),
        "what": row.what,
        "log_key": row.log_key,
        "known": String::from_utf8_lossy(&row.known),
        "offered": String::from_utf8_lossy(&row.offered),
        "proof": row.hashes.iter().map(hex::encode).collect::<Vec<_>>(),
        "about": row.subject,
        "entry": entry,
        "cleared_at": time(row.cleared_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_has_both_notes_as_they_were_signed() {
        let row = v1::ListEvidenceResponse {
            number: 1,
            known: "a\n1\n\n— a b\n".as_bytes().to_vec().into(),
            offered: b"other".to_vec().into(),
            hashes: vec![vec![1, 2].into()],
            ..Default::default()
        };
        let value = row_value(&row);
        assert_eq!(value["known"], "a\n1\n\n— a b\n");
        assert_eq!(value["offered"], "other");
        assert_eq!(value["proof"][0], "0102");
        assert_eq!(value["entry"], Value::Null);
        assert_eq!(cells(&row).len(), EVIDENCE.len());
    }
}
