//! The command line of a national unit. Most commands are clients of the node's own service, over
//! mutually authenticated TLS; `normalise` and `policies` need neither keys nor network.

mod access;
mod args;
mod client;
mod datasets;
mod evidence;
mod fault;
mod followup;
mod hits;
mod init;
mod lines;
mod members;
mod normalise;
mod policies;
mod probe;
mod progress;
mod publish;
mod receipt;
mod render;
mod serve;
mod status;
mod store;
mod watching;
mod witnesses;

use std::ffi::OsString;
use std::future::Future;
use std::io::{BufWriter, Stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use client::Client;
use fault::{Fault, Result};
use render::{Cell, Output, printable, record};

const HELP: &str = "\
Client configuration (TOML; --client FILE or SOTTO_NODE_CLIENT), for all but serve, init, \
store, policies, normalise, receipt verify, followup verify and followup new --blank:
  endpoint = \"https://localhost:7443\"
  peer = \"nl-fiu\"                       # whose service it must be; optional
  # token_file = \"token\"                # an access token, mode 0600, instead of certificate and key
  [tls]
  certificate = \"analyst.pem\"           # spiffe://<trust_domain>/analyst/<name>, …
  key = \"analyst.key\"                   # mode 0600
  ca = \"ca.pem\"
  trust_domain = \"sotto.example\"

Examples:
  sotto-node init --config node.toml --node nl-fiu --community euro-cyber --data-dir /var/lib/sotto
  sotto-node serve --config node.toml
  sotto-node dataset import suspects --type phone --region NL numbers.txt
  sotto-node publish
  sotto-node probe suspects --purpose INVESTIGATION --legal-basis EU_2023_977 --case 2026-17
  sotto-node hits ls --output json
  sotto-node followup inbox
  sotto-node normalise --type domain < list.txt

Exit codes:
  0  done, or watched until it was interrupted
  1  refused or failed, or interrupted at a question or a file
  2  wrong usage
  3  the service does not answer";

/// The node of Sotto: keeps a unit's selectors, publishes filters of them, and asks the filters
/// of others without telling anybody what it asks
#[derive(Parser, Debug)]
#[command(name = "sotto-node", version, after_help = HELP, max_term_width = 100)]
#[command(infer_subcommands = false, arg_required_else_help = true)]
pub struct Cli {
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM")]
    output: Output,
    /// The client configuration
    #[arg(long, global = true, value_name = "FILE", env = client::CLIENT_VARIABLE)]
    client: Option<OsString>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the node's service
    #[command(after_help = "Example:\n  sotto-node serve --config node.toml")]
    Serve {
        /// The node's configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Make the identity and the keys of a new node
    ///
    /// Makes the signing, cosigning, HPKE and record-ref keys, the TLS key and a request for its
    /// certificate (CSR), and the list of keys that seals what the node stores. Files with secrets
    /// have mode 0600. Keys that are there are never replaced; a node of an older version is given
    /// the list, and keeps its keys.
    #[command(after_help = "Examples:\n  \
        sotto-node init --config node.toml --node nl-fiu --community euro-cyber \\\n    \
        --data-dir /var/lib/sotto --trust-domain sotto.example\n  \
        sotto-node init --config node.toml")]
    Init(init::InitArgs),
    /// Keys of what the node stores
    #[command(
        subcommand,
        after_help = "Example:\n  \
        (umask 077 && sotto-node store new-key >> store.keys)"
    )]
    Store(store::StoreCommand),
    /// Show how the node stands: broker, epoch, filters, what waits, quota, and what to do next
    #[command(after_help = "Examples:\n  sotto-node status\n  \
        sotto-node status --output json | jq -r '.next_actions[]'")]
    Status,
    /// Members of the community, and pinning their fingerprints
    #[command(subcommand, after_help = "Example:\n  sotto-node member ls")]
    Member(members::MemberCommand),
    /// Epochs and their keys
    #[command(subcommand, after_help = "Example:\n  sotto-node epoch fetch")]
    Epoch(members::EpochCommand),
    /// The node's own selectors
    #[command(subcommand, after_help = "Example:\n  sotto-node dataset ls")]
    Dataset(datasets::DatasetCommand),
    /// Wait until the others can match what this node has
    ///
    /// The service publishes by itself: what is new within seconds, everything anew once a day at a
    /// random minute, and at once when something was removed. This command waits for it, and tells
    /// how far it is. With --now it makes a new base whether one is needed or not; everybody who
    /// watches the catalogue sees when.
    #[command(after_help = "Examples:\n  sotto-node publish\n  \
        sotto-node publish --type phone --audience de-bka,fr-pj\n  sotto-node publish --now")]
    Publish(publish::PublishArgs),
    /// Ask the others' filters for every selector of a dataset
    ///
    /// The probe goes on at the node when this command is interrupted; the same command again
    /// joins it.
    #[command(after_help = "Example:\n  \
        sotto-node probe suspects --purpose INVESTIGATION --legal-basis EU_2023_977 \\\n    \
        --case 2026-17 --target de-bka")]
    Probe(probe::ProbeArgs),
    /// Ask the others' filters for one selector
    #[command(after_help = "Examples:\n  \
        sotto-node check --type phone --region NL '06 12345678' --purpose DETECTION \\\n    \
        --legal-basis EU_2023_977 --case 2026-17\n  \
        echo '+31612345678' | sotto-node check --type phone - --purpose DETECTION …")]
    Check(probe::CheckArgs),
    /// What the others hold of this node's records
    #[command(subcommand, after_help = "Example:\n  sotto-node hits ls --state NEW")]
    Hits(hits::HitsCommand),
    /// Formal follow-ups of hits: ask the holder, answer, and read what came
    #[command(
        subcommand,
        after_help = "Examples:\n  \
        sotto-node followup new 019a1b2c-… --form request.toml\n  \
        sotto-node followup inbox"
    )]
    Followup(followup::FollowUpCommand),
    /// The log of who read what, when and why; for supervisors
    #[command(
        subcommand,
        after_help = "Example:\n  sotto-node access-log export --why 'yearly audit'"
    )]
    AccessLog(access::AccessCommand),
    /// What this node keeps against the audit log, should the log ever contradict itself; for supervisors
    #[command(subcommand, after_help = "Example:\n  sotto-node evidence ls")]
    Evidence(evidence::EvidenceCommand),
    /// Proofs that something is in the audit log
    #[command(
        subcommand,
        after_help = "Example:\n  \
        sotto-node receipt verify hit.tlog-proof --log-key 'broker.example/sotto/euro-cyber+…'"
    )]
    Receipt(receipt::ReceiptCommand),
    /// The types of selectors and their normal forms; offline
    #[command(after_help = "Example:\n  sotto-node policies --output json")]
    Policies,
    /// Write the completions of a shell to standard output
    #[command(after_help = "Examples:\n  \
        sotto-node completions bash >/etc/bash_completion.d/sotto-node\n  \
        sotto-node completions zsh >~/.zfunc/_sotto-node")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write each line of standard input in its normal form; offline
    ///
    /// One line out for each line in: the canonical form, or `!` and the rejection: empty,
    /// too_long, malformed, bad_checksum, needs_region, unsupported; with --stop-list also
    /// too_common. --output is of no effect.
    #[command(after_help = "Examples:\n  \
        sotto-node normalise --type phone --region NL < numbers.txt\n  \
        sotto-node normalise --type domain --stop-list < domains.txt | grep -v '^!' | sort -u")]
    Normalise(normalise::NormaliseArgs),
}

/// What the commands share.
pub(crate) struct Context {
    output: Output,
    client: Option<PathBuf>,
}

impl Context {
    fn client(&self) -> Result<Client> {
        Client::new(self.client.as_deref())
    }

    #[expect(
        clippy::unused_self,
        reason = "output goes through the context, as notes do"
    )]
    fn stdout(&self) -> BufWriter<Stdout> {
        BufWriter::new(std::io::stdout())
    }

    /// Something for the person, beside the result: to standard error.
    #[expect(
        clippy::unused_self,
        reason = "notes go through the context, as output does"
    )]
    fn note(&self, text: &str) {
        eprintln!("{}", printable(text));
    }

    /// Prints what was done.
    fn done(&self, columns: &'static [&'static str], cells: &[Cell]) -> Result<()> {
        Ok(record(self.output, columns, cells, &mut self.stdout())?)
    }
}

/// Runs a command; faults are printed, and the exit code says how it went.
pub fn run(cli: Cli) -> ExitCode {
    let context = Context {
        output: cli.output,
        // An empty variable is none.
        client: cli.client.filter(|c| !c.is_empty()).map(Into::into),
    };
    match dispatch(&context, cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => fault.report(),
    }
}

fn dispatch(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Serve { config } => serve::run(&config),
        Command::Init(args) => init::run(context, &args),
        Command::Store(command) => store::run(context, &command),
        Command::Policies => policies::run(context),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "sotto-node",
                &mut context.stdout(),
            );
            Ok(())
        }
        Command::Normalise(args) => normalise::run(&args),
        Command::Status => block_on(status::run(context)),
        Command::Member(command) => block_on(members::member(context, command)),
        Command::Epoch(command) => block_on(members::epoch(context, command)),
        Command::Dataset(command) => block_on(datasets::run(context, command)),
        Command::Publish(args) => block_on(publish::run(context, args)),
        Command::Probe(args) => block_on(probe::probe(context, args)),
        Command::Check(args) => block_on(probe::check(context, args)),
        Command::AccessLog(command) => access::run(context, command),
        Command::Evidence(command) => block_on(evidence::run(context, command)),
        Command::Receipt(command) => receipt::run(context, command),
        Command::Hits(command) => block_on(hits::run(context, command)),
        Command::Followup(command) => followup::run(context, command),
    }
}

/// Runs a client command.
fn block_on(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::new(format!("cannot start: {error}")))?;
    let result = runtime.block_on(command);
    // A thread that still waits for standard input must not hold the end up.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let help = command.get_after_help().map(ToString::to_string);
            assert!(help.is_some_and(|help| help.contains("Example")), "{path}");
            for sub in command.get_subcommands() {
                if sub.get_name() != "help" {
                    check(sub, &format!("{path} {}", sub.get_name()));
                }
            }
        }
        check(&Cli::command(), "sotto-node");
    }
}
