//! `followup`: the formal way from a hit to an answer (workflow.md "Follow-up").

mod answer;
mod approve;
mod ask;
mod contents;
mod export;
mod files;
mod form;
mod given;
mod ls;
mod new;
mod show;
mod shown;
mod stats;
mod steps;
mod verify;

use std::path::PathBuf;

use clap::Subcommand;
use sotto_common::ids::FollowUpId;
use sotto_common::time::{Clock as _, SystemClock};
use sotto_proto::v1;

use super::client::{Client, unary};
use super::fault::Result;
use super::hits::filters::WhyArgs;
use super::{Context, block_on};

/// Stands in a bundle whose statements are erased.
const ERASED: &str = "erased.txt";

/// Commands about follow-ups.
#[derive(Subcommand, Debug)]
pub(crate) enum FollowUpCommand {
    /// Draft a request about a confirmed hit
    ///
    /// The form is TOML or JSON; without one, on a terminal, it is asked for step by step. Another
    /// person has to approve the draft before anything leaves this node.
    #[command(after_help = "Examples:\n  \
        sotto-node followup new --blank EU_2023_977 > request.toml\n  \
        sotto-node followup new 019a1b2c-… --form request.toml\n  \
        sotto-node followup new 019a1b2c-… --case 2026-17\n  \
        make-form | sotto-node followup new 019a1b2c-… --form -")]
    New(new::NewArgs),
    /// Show a follow-up with its whole story, and what waits for approval in full
    #[command(after_help = "Example:\n  sotto-node followup show 019a1b2c-…")]
    Show {
        /// The follow-up
        #[arg(value_name = "ID")]
        id: FollowUpId,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Read what was sealed: particulars, messages, answers; save the files
    ///
    /// Files that are there are never overwritten: a second one is given a number. A file appears
    /// only when it is whole.
    #[command(after_help = "Examples:\n  \
        sotto-node followup read 019a1b2c-…\n  \
        sotto-node followup read 019a1b2c-… --save case-17 --why 'hearing of 3 March'")]
    Read {
        /// The follow-up
        #[arg(value_name = "ID")]
        id: FollowUpId,
        /// Save the files of the answer in this folder, which is made if it is not there
        #[arg(long, value_name = "DIR")]
        save: Option<PathBuf>,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// List follow-ups, oldest first
    #[command(after_help = "Examples:\n  \
        sotto-node followup ls --as requester --with de-bka\n  \
        sotto-node followup ls --todo --output json\n  \
        sotto-node followup ls --state ANSWERED")]
    Ls(ls::LsArgs),
    /// List the open requests of others, what needs doing first
    #[command(after_help = "Example:\n  sotto-node followup inbox")]
    Inbox {
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Print what happens to follow-ups, until interrupted
    #[command(
        after_help = "Each event carries a cursor: go on from the last one that was seen. \
        JSON is one object a line.\n\nExamples:\n  \
        sotto-node followup watch --output json\n  \
        sotto-node followup watch --from 4711 --why 'night duty'"
    )]
    Watch {
        /// The cursor of the last event that was seen; 0 = from the beginning
        #[arg(long, value_name = "CURSOR", default_value_t = 0)]
        from: u64,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Approve what somebody else has drafted
    ///
    /// Shows all of it, and asks. Whoever drafted it cannot approve it.
    #[command(after_help = "Examples:\n  \
        sotto-node followup approve 019a1b2c-…\n  \
        sotto-node followup approve 019a1b2c-… --proposal 019a1b2d-… --yes")]
    Approve(approve::ApproveArgs),
    /// Take back what waits for approval
    #[command(after_help = "Example:\n  \
        sotto-node followup discard 019a1b2c-… --reason 'wrong officer'")]
    Discard(approve::DiscardArgs),
    /// Holder: propose to accept a request
    #[command(after_help = "Example:\n  sotto-node followup accept 019a1b2c-…")]
    Accept {
        /// The follow-up
        #[arg(value_name = "ID")]
        id: FollowUpId,
    },
    /// Holder: propose to refuse a request, with a ground for every item
    #[command(after_help = "Examples:\n  \
        sotto-node followup refuse 019a1b2c-… --ground NATIONAL_SECURITY\n  \
        sotto-node followup refuse 019a1b2c-… --ground NOT_AVAILABLE \\\n    \
        --item ADDRESSES=INACCURATE_OR_OUTDATED --message 'see our letter of 3 March'")]
    Refuse(steps::RefuseArgs),
    /// Holder: propose to ask the requester for more; the time limit stands still meanwhile
    #[command(after_help = "Example:\n  \
        sotto-node followup clarify 019a1b2c-… --message 'Which of the two companies?'")]
    Clarify(steps::MessageArgs),
    /// Holder: propose to wait for a court
    #[command(after_help = "Example:\n  \
        sotto-node followup await 019a1b2c-… --until 2027-01-31 \\\n    \
        --message 'The court of The Hague decides on 30 January'")]
    Await(steps::AwaitArgs),
    /// Holder: propose an answer
    ///
    /// The form says of every item whether it is provided, refused or pending. Files are sealed and
    /// sent before the answer is proposed. After a break give the command again: what is at the node
    /// already is not sent twice, and a file that broke off goes on from there.
    #[command(after_help = "Examples:\n  \
        sotto-node followup answer 019a1b2c-… --blank > answer.toml\n  \
        sotto-node followup answer 019a1b2c-… --form answer.toml --attach report.pdf")]
    Answer(answer::AnswerArgs),
    /// Holder: list the files that are at the node for an answer, or remove one
    ///
    /// A file can be removed until the answer is approved. An answer that waits for approval is then
    /// a new proposal without it. A file whose bytes are missing, as after a restore without them, is to
    /// be attached again.
    #[command(after_help = "Examples:\n  \
        sotto-node followup files 019a1b2c-…\n  \
        sotto-node followup files 019a1b2c-… --remove 019a1b2e-…")]
    Files(given::FilesArgs),
    /// Requester: propose a reply to a question of the holder
    #[command(after_help = "Example:\n  \
        sotto-node followup reply 019a1b2c-… --message-file reply.txt")]
    Reply(steps::MessageArgs),
    /// Requester: take a request back; it cannot be taken up again
    #[command(after_help = "Example:\n  sotto-node followup withdraw 019a1b2c-… --yes")]
    Withdraw {
        /// The follow-up
        #[arg(value_name = "ID")]
        id: FollowUpId,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Requester: close what was answered, refused or withdrawn
    #[command(after_help = "Example:\n  sotto-node followup close 019a1b2c-…")]
    Close {
        /// The follow-up
        #[arg(value_name = "ID")]
        id: FollowUpId,
    },
    /// Write a signed bundle of a follow-up, with its dossier, for a case file
    ///
    /// Proofs of the audit log go with it, as far as the node follows the log and finds the steps under
    /// a checkpoint that enough witnesses stand behind; what is missing, and why, is said.
    #[command(after_help = "Examples:\n  \
        sotto-node followup export 019a1b2c-… case-17 --why 'case file' --with-attachments\n  \
        sotto-node followup verify case-17")]
    Export(export::ExportArgs),
    /// Check an exported bundle: digests, signatures, the chain of its steps, and what the audit log
    /// says of them; offline
    ///
    /// Of a follow-up that was erased after the retention time no signed statement is left: then the
    /// exporter's signature is checked alone, and `signatures` is `erased`.
    ///
    /// The keys come from the bundle itself. Compare the fingerprints that are printed with those of
    /// `sotto-node member ls`, or give them with --fingerprint.
    ///
    /// The key of the log does not: with --log-key the receipts are verified, without it they are only
    /// compared with the steps. Nor do the keys of witnesses: with --witness as many of them as --quorum
    /// says must have cosigned the log, without it `cosignatures` says that this was not checked.
    #[command(after_help = "Examples:\n  \
        sotto-node followup verify case-17 --log-key 'broker.example/sotto/euro-cyber+…'\n  \
        sotto-node followup verify case-17 --log-key … --witness … --witness … --quorum 2\n  \
        sotto-node followup verify case-17 --fingerprint 'de-bka=4f1c…'")]
    Verify(Box<verify::VerifyArgs>),
    /// The yearly figures of Directive (EU) 2023/977, art. 18
    #[command(after_help = "Examples:\n  \
        sotto-node followup stats --year 2026 --output csv\n  \
        sotto-node followup stats --month 2026-03\n  \
        sotto-node followup stats --from 2026-01-01 --to 2026-07-01 --probes")]
    Stats(stats::StatsArgs),
}

/// Runs a command about follow-ups.
pub(crate) fn run(context: &Context, command: FollowUpCommand) -> Result<()> {
    match command {
        FollowUpCommand::New(args) if args.is_blank() => new::blank(context, &args),
        FollowUpCommand::Verify(args) => verify::run(context, &args),
        command => block_on(online(context, command)),
    }
}

async fn online(context: &Context, command: FollowUpCommand) -> Result<()> {
    use v1::FollowUpStep as S;
    let client = context.client()?;
    let client = &client;
    match command {
        FollowUpCommand::New(args) => new::run(context, client, &args).await,
        FollowUpCommand::Show { id, why } => {
            let view = get(client, id, &why.why, false).await?;
            let mut out = context.stdout();
            Ok(show::print(
                context.output,
                &view,
                SystemClock.now(),
                &mut out,
            )?)
        }
        FollowUpCommand::Read { id, save, why } => {
            let view = get(client, id, &why.why, true).await?;
            let mut out = context.stdout();
            show::print(context.output, &view, SystemClock.now(), &mut out)?;
            match save {
                Some(folder) => files::save(context, client, &view, &folder, &why.why).await,
                None => Ok(()),
            }
        }
        FollowUpCommand::Ls(args) => ls::ls(context, client, &args).await,
        FollowUpCommand::Inbox { why } => ls::inbox(context, client, &why.why).await,
        FollowUpCommand::Watch { from, why } => ls::watch(context, client, from, &why.why).await,
        FollowUpCommand::Approve(args) => approve::approve(context, client, &args).await,
        FollowUpCommand::Discard(args) => approve::discard(context, client, args).await,
        FollowUpCommand::Accept { id } => {
            steps::propose(context, client, id, S::Accept, v1::FollowUpDraft::default()).await
        }
        FollowUpCommand::Refuse(args) => steps::refuse(context, client, args).await,
        FollowUpCommand::Clarify(args) => {
            steps::message(context, client, args, S::RequestClarification).await
        }
        FollowUpCommand::Await(args) => steps::await_court(context, client, args).await,
        FollowUpCommand::Answer(args) => answer::run(context, client, args).await,
        FollowUpCommand::Files(args) => given::run(context, client, &args).await,
        FollowUpCommand::Reply(args) => steps::message(context, client, args, S::Reply).await,
        FollowUpCommand::Withdraw { id, yes } => steps::withdraw(context, client, id, yes).await,
        FollowUpCommand::Close { id } => steps::end(context, client, id, S::Close).await,
        FollowUpCommand::Export(args) => export::run(context, client, &args).await,
        FollowUpCommand::Stats(args) => stats::run(context, client, &args).await,
        FollowUpCommand::Verify(args) => verify::run(context, &args),
    }
}

/// One follow-up.
async fn get(
    client: &Client,
    id: FollowUpId,
    why: &str,
    with_contents: bool,
) -> Result<v1::GetNodeFollowUpResponse> {
    let request = v1::GetNodeFollowUpRequest {
        follow_up_id: bytes(id),
        why: why.to_owned(),
        with_contents,
    };
    let view = client.analyst().get_node_follow_up(unary(request)).await?;
    Ok(view.into_inner())
}

/// The id on the wire.
fn bytes(id: FollowUpId) -> prost::bytes::Bytes {
    id.as_bytes().to_vec().into()
}

/// Prints a follow-up as it stands now.
fn print_row(context: &Context, follow_up: &v1::NodeFollowUp) -> Result<()> {
    let cells = shown::cells(follow_up, SystemClock.now());
    context.done(shown::FOLLOW_UP, &cells)
}
