//! What auditors do with the log of a community (workflow.md "Audit"): ask the broker with their own
//! certificate, and verify offline what it gave them.

mod entries;
mod export;
mod follow;
mod plant;
mod planted;
mod stats;
mod verify;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use sotto_common::dsse::Fingerprint;
use sotto_common::log::checkpoint::LogKey;
use sotto_common::service::tls::MAX_MESSAGE;
use sotto_proto::v1::audit_service_client::AuditServiceClient;
use sotto_proto::v1::log_service_client::LogServiceClient;
use tonic::transport::Channel;

use super::follow_ups::Range;
use super::operator::Client;
use super::{Fault, Output, Result};
use crate::audit::verify::Demands;

/// What comes of a log that does not hold, and of a planted hit that is missing.
const DOES_NOT_HOLD: u8 = 4;

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List entries, all that the filters let through.
    #[command(after_help = "Examples:
  sotto-broker --client auditor.toml audit ls euro-cyber --since 2026-03-01 --node nl-fiu
  sotto-broker --client auditor.toml --output csv audit ls euro-cyber --kind PROBE_BATCH
  sotto-broker --client auditor.toml audit ls euro-cyber --case 2026-0417 --limit 50

Entries that are erased have only kind and hour, and are found by these alone.")]
    Ls {
        community: String,
        #[command(flatten)]
        filter: entries::Filter,
    },
    /// Show one entry whole: its leaf, whether the opening fits it, and that it is in the tree of the
    /// latest checkpoint.
    #[command(after_help = "Examples:
  sotto-broker --client auditor.toml audit show euro-cyber 4711 --log-key \"$(cat log.vkey)\"")]
    Show {
        community: String,
        /// Place in the log, from 0.
        index: u64,
        /// Verifier key of the log; without it, the checkpoint's signature is not verified.
        #[arg(long, value_name = "VKEY")]
        log_key: Option<LogKey>,
    },
    /// Write the whole log to a file, up to the latest checkpoint.
    #[command(after_help = "Examples:
  sotto-broker --client auditor.toml audit export euro-cyber --out euro-cyber.log

The file is FILE.part until it is whole. Given again after a break, the command goes on behind the
last whole entry, up to the checkpoint that the file was begun with.")]
    Export {
        community: String,
        /// Where to; it must not exist yet.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Verify an export offline: tree, checkpoint, cosignatures, openings, what nodes have signed, and
    /// whether what is said to have happened may have. Names the first entry that fails.
    #[command(after_help = "Examples:
  sotto-broker audit verify euro-cyber.log --log-key \"$(cat log.vkey)\"
  sotto-broker audit verify euro-cyber.log --log-key \"$(cat log.vkey)\" --require-quorum --json

The key comes from the operator by another channel than the broker; whoever took it from the broker
would believe the broker. Exit code 4: the log does not hold.")]
    Verify {
        file: PathBuf,
        /// Verifier key of the log: `<log name>/sotto/<community>+<key id>+<key>`.
        #[arg(long, value_name = "VKEY")]
        log_key: LogKey,
        /// Fail also if fewer witnesses than the quorum have cosigned.
        #[arg(long)]
        require_quorum: bool,
        /// Fingerprint of a custodian's key; may be given several times. Fail if a manifest is by another.
        ///
        /// Manifests name the witnesses and how long openings are kept, and each is signed by the custodian
        /// that it names itself. Units read out what their `sotto-node status` shows.
        #[arg(long = "custodian", value_name = "FINGERPRINT")]
        custodians: Vec<Fingerprint>,
        /// Let entries pass that this version does not know, being of a later one.
        #[arg(long)]
        pass_unknown: bool,
        /// Print the outcome as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Follow the log's checkpoints and check that it only grows.
    #[command(after_help = "Examples:
  sotto-broker --client auditor.toml audit follow --state log.checkpoint --log-key \"$(cat log.vkey)\"
  sotto-broker --client auditor.toml audit follow --once --state log.checkpoint --log-key \"$(cat log.vkey)\"

The last checkpoint that held is in the state file. If one does not follow from it, both are written
to FILE.evidence-… with the proof, and the exit code is 4. With --once, for cron: one checkpoint.")]
    Follow {
        /// Where the last checkpoint is kept; made at the first.
        #[arg(long, value_name = "FILE")]
        state: PathBuf,
        /// Verifier key of the log, which names the community too.
        #[arg(long, value_name = "VKEY")]
        log_key: LogKey,
        /// Look once, and end.
        #[arg(long)]
        once: bool,
    },
    /// Count from the entries what workflow.md asks for: requests by pair and urgency, refusals by
    /// ground, limits missed, times to answer; probes, hits and what became of them.
    #[command(after_help = "Examples:
  sotto-broker --client auditor.toml audit stats euro-cyber --year 2026
  sotto-broker --output csv audit stats --export euro-cyber.log --month 2026-03 --html march.html

Requests count by the day on which they were submitted, the rest by its own. Counting verifies
nothing: `audit verify` does.")]
    Stats {
        /// The community, whose entries the broker gives; not with --export.
        #[arg(required_unless_present = "export", conflicts_with = "export")]
        community: Option<String>,
        /// Count from an export instead.
        #[arg(long, value_name = "FILE")]
        export: Option<PathBuf>,
        #[command(flatten)]
        range: Range,
        /// Also write a page with drawings, which is whole by itself.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Make test selectors that one node holds and another asks for, to measure whether the broker
    /// keeps hits to itself.
    #[command(after_help = "Examples:
  sotto-broker audit plant euro-cyber --seed-file plant.seed --new-seed --type email \\
    --holder de-bka --prober nl-fiu --count 100 --out-dir planted-1
  sotto-broker audit plant euro-cyber --seed-file plant.seed --type domain \\
    --holder fr-pj --prober nl-fiu --count 300 --decoys 5000 --out-dir planted-2

Needs no broker, and the broker's operator must see none of it. Two lists are written, one for each
node, and a plan for `audit planted`. The selectors end in planted.invalid, which RFC 2606 keeps from
ever being anybody's. Hits beyond the community's hit cap are held back, planted ones too.")]
    Plant(plant::PlantArgs),
    /// Compare the hits that the prober was told of with what was planted, and say which rates of
    /// suppression they exclude.
    #[command(after_help = "Examples:
  sotto-broker audit planted --plan planted-1/plan.json --hits hits.json
  sotto-broker audit planted --plan planted-1/plan.json --hits hits.json --export euro-cyber.log \\
    --log-key \"$(cat log.vkey)\" --output json

The statements are exact (Clopper and Pearson), for a broker that suppresses each hit by chance alone
and does not know which are planted. Exit code 4: a planted hit was not reported, or is not in the log.")]
    Planted(planted::PlantedArgs),
}

pub(super) async fn run(
    command: AuditCommand,
    client: Option<&Path>,
    output: Output,
) -> Result<()> {
    let client = || Client::new(client, output);
    match command {
        AuditCommand::Ls { community, filter } => client()?.ls(community, filter).await,
        AuditCommand::Show {
            community,
            index,
            log_key,
        } => client()?.show(community, index, log_key.as_ref()).await,
        AuditCommand::Export { community, out } => client()?.export(community, &out).await,
        AuditCommand::Verify {
            file,
            log_key,
            require_quorum,
            custodians,
            pass_unknown,
            json,
        } => {
            let json = json || output == Output::Json;
            let demands = Demands {
                custodians,
                quorum: require_quorum,
                pass_unknown,
            };
            verify::run(&file, &log_key, &demands, json)
        }
        AuditCommand::Follow {
            state,
            log_key,
            once,
        } => client()?.follow(&state, &log_key, once).await,
        AuditCommand::Stats {
            community,
            export,
            range,
            html,
        } => {
            let counted = match (export, community) {
                (Some(file), _) => stats::of_export(&file, &range)?,
                (None, Some(community)) => client()?.count(community, &range).await?,
                (None, None) => return Err(wrong_use("give a community, or --export FILE")),
            };
            counted.print(output, html.as_deref())
        }
        AuditCommand::Plant(args) => plant::run(args),
        AuditCommand::Planted(args) => planted::run(&args, output),
    }
}

impl Client {
    fn log_service(&self) -> LogServiceClient<Channel> {
        LogServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn audit_service(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }
}

/// A log that does not hold.
fn does_not_hold(text: String) -> Fault {
    Fault {
        text,
        code: DOES_NOT_HOLD,
    }
}

fn wrong_use(text: &str) -> Fault {
    Fault {
        text: text.to_owned(),
        code: 2,
    }
}

/// The error of a file, with its name.
fn about(file: &Path, error: &dyn std::fmt::Display) -> Fault {
    Fault {
        text: format!("{}: {error}", file.display()),
        code: 1,
    }
}
