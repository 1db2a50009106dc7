//! The command line: `serve`, the laboratory's certificates, keys for the ledger, what operators ask
//! the broker, and what auditors do with its log.

mod audit;
mod follow_ups;
mod lab_pki;
mod ledger;
mod log_key;
mod operator;
mod print;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand, ValueEnum};
use sotto_common::error::Error;
use sotto_common::service::{config, shutdown, telemetry};
use sotto_common::time::SystemClock;

use crate::config::{Config, PROGRAM};
use crate::serve::BoundBroker;

/// Exit codes: 0 done, 1 refused or failed, 2 wrong use, 3 the broker cannot be reached, 4 a log does
/// not hold, or a planted hit is missing.
#[derive(Debug, Parser)]
#[command(
    name = "sotto-broker",
    version,
    about = "The broker of Sotto, and the commands of its operator and of auditors",
    after_help = "Examples:
  sotto-broker serve --config /etc/sotto/broker.toml
  sotto-broker --client operator.toml community create euro-cyber --custodian nl-fiu --type all
  sotto-broker --client operator.toml node enrol euro-cyber nl-fiu de-bka fr-pj
  sotto-broker --client operator.toml limits set euro-cyber nl-fiu --type phone --daily-refs 50000
  sotto-broker --client operator.toml --output csv followups stats euro-cyber --year 2026
  sotto-broker --client auditor.toml audit export euro-cyber --out euro-cyber.log
  sotto-broker audit verify euro-cyber.log --log-key broker.example/sotto/euro-cyber+1b2c3d4e+AbCd…

Exit codes: 0 done, 1 refused or failed, 2 wrong use, 3 the broker cannot be reached,
4 a log does not hold: audit verify, follow, show or planted has found what must not be."
)]
pub struct Cli {
    /// Client configuration of the operator or auditor (endpoint, tls); for the commands that ask the
    /// broker.
    #[arg(long, global = true, value_name = "FILE", env = operator::CLIENT_VARIABLE)]
    client: Option<PathBuf>,
    /// How answers are printed.
    #[arg(long, global = true, value_enum, default_value = "table")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs: one JSON array.
    Json,
    /// For spreadsheets: a line of names, then one for each row.
    Csv,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker until SIGTERM or SIGINT.
    Serve {
        /// Its configuration; `SOTTO_BROKER__…` variables go over it.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// End the publications whose filters the object store has lost, e.g. after a backup was
        /// restored, instead of not starting; their holders must publish again.
        #[arg(long)]
        end_lost_filters: bool,
    },
    /// A throw-away certificate authority, for laboratories and the quickstart.
    #[command(subcommand)]
    LabPki(lab_pki::Command),
    /// Keys that seal what is sensitive in the ledger, and the key of the audit log.
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// Print the key by which nodes and auditors verify the audit log of a community.
    ///
    /// Hand it to them by another way than over Sotto: whoever took it from the broker would believe
    /// the broker.
    LogKey(log_key::LogKeyArgs),
    /// Communities and their profiles.
    #[command(subcommand)]
    Community(operator::CommunityCommand),
    /// Enrolled nodes.
    #[command(subcommand)]
    Node(operator::NodeCommand),
    /// Quotas and allowed classes.
    #[command(subcommand)]
    Limits(operator::LimitsCommand),
    /// Epochs.
    #[command(subcommand)]
    Epoch(operator::EpochCommand),
    /// Hits that the flood guard holds back.
    #[command(subcommand)]
    Quarantine(operator::QuarantineCommand),
    /// How hits fared.
    #[command(subcommand)]
    Hits(operator::HitsCommand),
    /// How follow-ups fared, and what holders did not hold.
    #[command(subcommand, name = "followups")]
    FollowUps(follow_ups::FollowUpsCommand),
    /// The audit log, for auditors: read, export, verify offline, follow, count, plant test selectors.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
}

/// Why a command ends without its result.
#[derive(Debug)]
pub(crate) struct Fault {
    text: String,
    code: u8,
}

impl<E: std::fmt::Display> From<E> for Fault {
    fn from(error: E) -> Self {
        Self {
            text: error.to_string(),
            code: 1,
        }
    }
}

type Result<T, E = Fault> = std::result::Result<T, E>;

/// Runs a command and says how it ended.
pub fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dispatch(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("error: {}", printable(&fault.text));
            ExitCode::from(fault.code)
        }
    }
}

async fn dispatch(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Serve {
            config,
            end_lost_filters,
        } => serve(&config, end_lost_filters).await,
        Command::LabPki(command) => lab_pki::run(command),
        Command::Ledger(command) => ledger::run(&command),
        Command::LogKey(args) => log_key::run(args),
        Command::Audit(command) => audit::run(command, cli.client.as_deref(), cli.output).await,
        command => {
            let client = operator::Client::new(cli.client.as_deref(), cli.output)?;
            match command {
                Command::Community(command) => client.community(command).await,
                Command::Node(command) => client.node(command).await,
                Command::Limits(command) => client.limits(command).await,
                Command::Epoch(command) => client.epoch(command).await,
                Command::Quarantine(command) => client.quarantine(command).await,
                Command::Hits(command) => client.hits(command).await,
                Command::FollowUps(command) => client.follow_ups(command).await,
                Command::Serve { .. }
                | Command::LabPki(_)
                | Command::Ledger(_)
                | Command::LogKey(_)
                | Command::Audit(_) => Ok(()),
            }
        }
    }
}

async fn serve(file: &std::path::Path, end_lost_filters: bool) -> Result<()> {
    let mut config: Config = config::load(PROGRAM, Some(file))?;
    config.end_lost_filters = end_lost_filters;
    telemetry::init(&config.log)?;
    allow_all_files();
    let stop = shutdown::on_signal()?;
    let bound = BoundBroker::bind(config, Arc::new(SystemClock), stop)
        .await
        .map_err(causes)?;
    bound.run().await.map_err(causes)
}

/// Takes as many open files as the system gives: a filter that is tested in its file keeps it open, and
/// the usual limit of a shell is 1024.
fn allow_all_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "no more open files than before");
    }
}

/// A start-up fault with its cause: the operator is the one who reads it.
fn causes(error: Error) -> Fault {
    match &error.source {
        Some(source) => Fault {
            text: source.to_string(),
            code: 1,
        },
        None => error.into(),
    }
}

/// Remote text without what would act on the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
