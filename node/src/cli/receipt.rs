//! `receipt`: files that prove an entry of the audit log to anybody (c2sp.org/tlog-proof).

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use sotto_common::ids::SessionId;
use sotto_common::log::checkpoint::{LogKey, SignedCheckpoint};
use sotto_common::log::quorum::Freshness;
use sotto_common::log::receipt::{Receipt, ReceiptError};
use sotto_common::random::os_rng;
use sotto_common::service::files::{self, Readers};
use sotto_common::time::Timestamp;
use sotto_proto::v1;
use sotto_proto::v1::get_receipt_request::Entry;

use super::client::{Client, unary};
use super::fault::{Fault, Result};
use super::init::log_key;
use super::render::Cell;
use super::witnesses::{NOT_CHECKED, WitnessArgs};
use super::{Context, block_on};

const SECONDS_PER_HOUR: u64 = 3600;

/// Commands about receipts.
#[derive(Subcommand, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub(crate) enum ReceiptCommand {
    /// Check a receipt; offline
    ///
    /// It proves that an entry of this kind and hour is in the log. What the entry says is not in the
    /// receipt. With --witness it is also checked who stands behind the log; `member witnesses` lists
    /// the keys.
    #[command(after_help = "Example:\n  \
        sotto-node receipt verify hit.tlog-proof --log-key 'broker.example/sotto/euro-cyber+…'")]
    Verify(VerifyArgs),
    /// Write the proof that a batch of a probe is in the audit log
    #[command(after_help = "Example:\n  \
        sotto-node receipt batch 019a1b2c-… 0 --out batch.tlog-proof")]
    Batch {
        /// The probe session
        #[arg(value_name = "SESSION")]
        session: SessionId,
        /// The number of the batch in it
        #[arg(value_name = "NUMBER")]
        number: u32,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Why it is read, for the access log
        #[arg(long, value_name = "TEXT", default_value = "")]
        why: String,
    },
}

/// What a receipt is checked against.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The receipt
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The key of the log, as the operator gave it out of band
    #[arg(long, value_name = "VKEY", value_parser = log_key)]
    log_key: LogKey,
    #[command(flatten)]
    witnesses: WitnessArgs,
}

const VERIFIED: &[&str] = &[
    "kind",
    "hour",
    "index",
    "tree_size",
    "origin",
    "cosigned_by",
];

const WRITTEN: &[&str] = &["receipt"];

/// Runs a command about receipts.
pub(crate) fn run(context: &Context, command: ReceiptCommand) -> Result<()> {
    match command {
        ReceiptCommand::Verify(args) => verify(context, &args),
        ReceiptCommand::Batch {
            session,
            number,
            out,
            why,
        } => {
            let batch = v1::ProbedBatch {
                session_id: session.as_bytes().to_vec().into(),
                number,
            };
            let entry = Entry::Batch(batch);
            let client = context.client()?;
            block_on(fetch(context, &client, entry, &out, why))
        }
    }
}

/// Fetches the receipt of an entry, and writes it to a file.
pub(super) async fn fetch(
    context: &Context,
    client: &Client,
    entry: Entry,
    out: &Path,
    why: String,
) -> Result<()> {
    let request = v1::GetReceiptRequest {
        entry: Some(entry),
        why,
    };
    let answer = client.analyst().get_receipt(unary(request)).await?;
    let receipt = answer.into_inner().receipt;
    files::write(out, &receipt, Readers::Owner, &mut os_rng())
        .map_err(|error| Fault::new(format!("cannot write {}: {error}", out.display())))?;
    context.done(WRITTEN, &[Cell::new(out.display().to_string())])
}

fn verify(context: &Context, args: &VerifyArgs) -> Result<()> {
    let name = args.file.display();
    let bytes = std::fs::read(&args.file)
        .map_err(|error| Fault::new(format!("cannot read {name}: {error}")))?;
    let refused = |error: &dyn std::fmt::Display| Fault::new(format!("{name}: {error}"));
    let receipt = Receipt::parse(&bytes).map_err(|error| refused(&error))?;
    let leaf = receipt.leaf().map_err(|error| refused(&error))?;
    let witnesses = args.witnesses.policy();
    let proved = receipt.verify(&leaf.hash(), &args.log_key, &witnesses, Freshness::Any);
    let (checkpoint, cosigned) = match proved {
        Ok(proved) => {
            let nodes = proved.quorum.cosigned().keys().map(ToString::to_string);
            (proved.checkpoint, nodes.collect())
        }
        // Everything else was right, and nobody asked for witnesses.
        Err(ReceiptError::Quorum(_)) if args.witnesses.is_empty() => {
            (checkpoint(&receipt, &args.log_key)?, Vec::new())
        }
        Err(error) => return Err(refused(&error)),
    };
    if args.witnesses.is_empty() {
        context.note(NOT_CHECKED);
    }
    let seconds = i64::try_from(leaf.hour().saturating_mul(SECONDS_PER_HOUR));
    let hour = Timestamp::from_seconds(seconds.unwrap_or(i64::MAX));
    let cells = [
        Cell::new(leaf.kind().as_str()),
        Cell::time(Some(hour)),
        Cell::new(receipt.index()),
        Cell::new(checkpoint.head().size),
        Cell::new(checkpoint.checkpoint().origin.to_string()),
        Cell::texts(&cosigned),
    ];
    context.done(VERIFIED, &cells)
}

/// The checkpoint of a receipt: the note behind its first empty line.
fn checkpoint(receipt: &Receipt, key: &LogKey) -> Result<SignedCheckpoint> {
    let text = receipt.to_string();
    let note = text.split_once("\n\n").map_or("", |(_, note)| note);
    SignedCheckpoint::open(note.as_bytes(), key).map_err(|error| Fault::new(error.to_string()))
}
