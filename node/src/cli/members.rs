//! `member` and `epoch`: keys, members and epochs of the node (protocol §8).

use clap::Subcommand;
use sotto_common::ids::NodeId;
use sotto_proto::{convert, v1};

use super::Context;
use super::args;
use super::client::unary;
use super::fault::Result;
use super::render::{Cell, List};

/// Commands about members.
#[derive(Subcommand, Debug)]
pub(crate) enum MemberCommand {
    /// List the members, their fingerprints, and what is pinned here
    #[command(after_help = "Example:\n  sotto-node member ls --output json")]
    Ls,
    /// List the keys by which pinned members are witnesses of the audit log
    ///
    /// Each is what `receipt verify` and `followup verify` take as --witness.
    #[command(
        after_help = "Example:\n  sotto-node receipt verify hit.tlog-proof --log-key … \\\n    \
        $(sotto-node member witnesses --output tsv | cut -f2 | sed 's/^/--witness /')"
    )]
    Witnesses,
    /// Pin a member's fingerprint, after it was compared out of band
    ///
    /// Ask the member by a channel that you trust (telephone, in person) to read out what its
    /// `sotto-node status` shows. Never copy the fingerprint from `member ls`: the broker gives
    /// it, and the broker is whom pinning protects against.
    #[command(after_help = "Example:\n  sotto-node member pin de-bka '5f3a 91c0 …'")]
    Pin {
        /// The member, e.g. de-bka
        #[arg(value_parser = args::node)]
        node: NodeId,
        /// Its fingerprint as read out; blanks and colons do not count
        #[arg(required = true, num_args = 1..)]
        fingerprint: Vec<String>,
        /// Replace another fingerprint that is pinned already
        #[arg(long)]
        replace: bool,
    },
}

/// Commands about epochs.
#[derive(Subcommand, Debug)]
pub(crate) enum EpochCommand {
    /// As custodian: make an epoch key, seal it to every member, open the epoch
    #[command(after_help = "Example:\n  sotto-node epoch open --days 30")]
    Open {
        /// How long the epoch lasts
        #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=31))]
        days: u32,
    },
    /// Take an epoch: check its manifest against the pins, open the envelope, confirm
    #[command(after_help = "Examples:\n  sotto-node epoch fetch\n  sotto-node epoch fetch 3")]
    Fetch {
        /// The epoch; the latest if left out
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        epoch: Option<u32>,
    },
    /// As custodian: close the list of confirmations, which makes the epoch active
    ///
    /// A member that has not confirmed yet may still do so, and takes part from then on.
    #[command(after_help = "Example:\n  sotto-node epoch close 3")]
    Close {
        /// The epoch
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        epoch: u32,
    },
    /// As custodian: end an epoch, and with it every filter in it
    #[command(after_help = "Example:\n  sotto-node epoch end 3")]
    End {
        /// The epoch
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        epoch: u32,
    },
    /// List the epochs, who has confirmed them, and whether this node has their key
    #[command(after_help = "Example:\n  sotto-node epoch ls")]
    Ls,
}

pub(crate) fn or_none(text: &str) -> String {
    if text.is_empty() { "none" } else { text }.into()
}

const WITNESSES: &[&str] = &["node", "witness"];
const MEMBERS: &[&str] = &["node", "fingerprint", "pin", "suspended"];

/// Runs a command about members.
pub(crate) async fn member(context: &Context, command: MemberCommand) -> Result<()> {
    let mut admin = context.client()?.admin();
    match command {
        MemberCommand::Ls => {
            let request = unary(v1::ListMembersRequest {});
            let members = admin.list_members(request).await?.into_inner().members;
            let mut list = List::new(context.output, MEMBERS, context.stdout())?;
            for member in members {
                let pin = member.pin();
                list.row(&[
                    Cell::new(member.node_id),
                    Cell::new(member.fingerprint),
                    Cell::in_words(code(pin.as_str_name(), "PIN_STATE_"), pin_words(pin)),
                    Cell::in_words(
                        member.suspended,
                        if member.suspended { "yes" } else { "no" },
                    ),
                ])?;
            }
            Ok(list.finish()?)
        }
        MemberCommand::Witnesses => {
            let request = unary(v1::ListMembersRequest {});
            let members = admin.list_members(request).await?.into_inner().members;
            let mut list = List::new(context.output, WITNESSES, context.stdout())?;
            for member in members.iter().filter(|member| !member.witness.is_empty()) {
                list.row(&[Cell::new(&*member.node_id), Cell::new(&*member.witness)])?;
            }
            Ok(list.finish()?)
        }
        MemberCommand::Pin {
            node,
            fingerprint,
            replace,
        } => {
            let request = v1::PinMemberRequest {
                node_id: node.to_string(),
                // Unquoted, a fingerprint with blanks comes as several arguments.
                fingerprint: fingerprint.concat(),
                replace,
            };
            admin.pin_member(unary(request)).await?;
            context.done(
                &["node", "pinned"],
                &[Cell::new(node.as_str()), Cell::new(true)],
            )
        }
    }
}

const fn pin_words(pin: v1::PinState) -> &'static str {
    match pin {
        v1::PinState::Unspecified => "unknown",
        v1::PinState::Absent => "not pinned",
        v1::PinState::Pinned => "pinned",
        v1::PinState::Mismatch => "ANOTHER KEY IS PINNED",
        v1::PinState::Self_ => "this node",
    }
}

const EPOCHS: &[&str] = &[
    "epoch",
    "state",
    "custodian",
    "kid",
    "not_before",
    "not_after",
    "members",
    "confirmed",
    "has_key",
    "fetched_at",
];

/// Runs a command about epochs.
pub(crate) async fn epoch(context: &Context, command: EpochCommand) -> Result<()> {
    let mut admin = context.client()?.admin();
    match command {
        EpochCommand::Open { days } => {
            let request = unary(v1::StartEpochRequest { days });
            let opened = admin.start_epoch(request).await?.into_inner();
            context.done(
                &["epoch", "kid", "members"],
                &[
                    Cell::new(opened.epoch),
                    Cell::new(hex::encode(opened.kid)),
                    Cell::texts(&opened.members),
                ],
            )?;
            if !opened.left_out.is_empty() {
                context.note(&format!(
                    "not sealed to {}: their key statements are for a later epoch",
                    opened.left_out.join(", ")
                ));
            }
            context.note("each member now runs `sotto-node epoch fetch`");
            Ok(())
        }
        EpochCommand::Fetch { epoch } => {
            let request = unary(v1::FetchEpochRequest {
                epoch: epoch.unwrap_or_default(),
            });
            let fetched = admin.fetch_epoch(request).await?.into_inner();
            let state = code(fetched.state().as_str_name(), "EPOCH_STATE_");
            context.done(
                &["epoch", "state", "kid"],
                &[
                    Cell::new(fetched.epoch),
                    Cell::new(state),
                    Cell::new(hex::encode(fetched.kid)),
                ],
            )
        }
        EpochCommand::Close { epoch } => {
            let request = unary(v1::CloseEpochConfirmationsRequest { epoch });
            admin.close_epoch_confirmations(request).await?;
            context.done(&["epoch", "closed"], &[Cell::new(epoch), Cell::new(true)])
        }
        EpochCommand::End { epoch } => {
            let request = unary(v1::FinishEpochRequest { epoch });
            admin.finish_epoch(request).await?;
            context.done(&["epoch", "ended"], &[Cell::new(epoch), Cell::new(true)])
        }
        EpochCommand::Ls => {
            let request = unary(v1::ListNodeEpochsRequest {});
            let epochs = admin.list_node_epochs(request).await?.into_inner().epochs;
            let mut list = List::new(context.output, EPOCHS, context.stdout())?;
            for epoch in epochs {
                list.row(&epoch_cells(epoch))?;
            }
            Ok(list.finish()?)
        }
    }
}

fn epoch_cells(epoch: v1::NodeEpoch) -> [Cell; 10] {
    let time = |at| convert::timestamp("at", at).ok();
    let summary = epoch.summary.unwrap_or_default();
    let state = code(summary.state().as_str_name(), "EPOCH_STATE_");
    let confirmed = format!("{} of {}", summary.confirmed.len(), summary.members.len());
    [
        Cell::new(summary.epoch),
        Cell::new(state),
        Cell::new(summary.custodian),
        Cell::new(hex::encode(&summary.kid)),
        Cell::time(time(summary.not_before)),
        Cell::time(time(summary.not_after)),
        Cell::texts(&summary.members),
        if summary.confirmed.len() == summary.members.len() {
            Cell::in_words(summary.confirmed, confirmed)
        } else {
            let names = summary.confirmed.join(", ");
            Cell::in_words(
                summary.confirmed,
                format!("{confirmed}: {}", or_none(&names)),
            )
        },
        Cell::in_words(epoch.has_key, if epoch.has_key { "yes" } else { "no" }),
        Cell::time(time(epoch.fetched_at)),
    ]
}

/// The code of an enum of the wire, without the prefix of its type.
pub(crate) fn code(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}
