//! `followup approve` and `discard`: the second pair of eyes.

use std::io::IsTerminal as _;

use clap::Args;
use sotto_common::ids::FollowUpId;
use sotto_proto::v1;
use uuid::Uuid;

use super::ask::{Ask, Terminal};
use super::{bytes, get, print_row, show, shown};
use crate::cli::Context;
use crate::cli::client::{Client, unary};
use crate::cli::fault::{Fault, Result};

/// What is approved.
#[derive(Args, Debug)]
pub(crate) struct ApproveArgs {
    /// The follow-up
    #[arg(value_name = "ID")]
    id: FollowUpId,
    /// The proposal that was read; another one is not approved
    #[arg(long, value_name = "ID")]
    proposal: Option<Uuid>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What is taken back.
#[derive(Args, Debug)]
pub(crate) struct DiscardArgs {
    /// The follow-up
    #[arg(value_name = "ID")]
    id: FollowUpId,
    /// Only this proposal
    #[arg(long, value_name = "ID")]
    proposal: Option<Uuid>,
    /// Why, 1 to 1000 characters; it stays at this node
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Whether somebody can be asked.
pub(super) fn is_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Shows what waits, asks, and approves it.
pub(super) async fn approve(context: &Context, client: &Client, args: &ApproveArgs) -> Result<()> {
    let needs_nobody = args.yes && args.proposal.is_some();
    if !needs_nobody && !is_terminal() {
        return Err(Fault::Usage(
            "nobody can be asked here: read the proposal with `sotto-node followup show ID`, and \
             give --proposal ID and --yes"
                .into(),
        ));
    }
    let proposal = waiting(client, args.id, args.proposal).await?;
    // To standard error: the result alone goes to standard output.
    for line in show::proposal_lines(&proposal) {
        context.note(&line);
    }
    let step = shown::step(proposal.step());
    if !args.yes && !Terminal::begin()?.confirm(&format!("Approve {step}?"))? {
        return Err(Fault::new("not approved; nothing was changed"));
    }
    let request = v1::ApproveFollowUpStepRequest {
        follow_up_id: bytes(args.id),
        proposal_id: proposal.proposal_id,
    };
    let answer = client
        .analyst()
        .approve_follow_up_step(unary(request))
        .await?;
    let follow_up = answer.into_inner().follow_up.unwrap_or_default();
    if follow_up.step_pending {
        context.note("approved, and on its way to the broker");
    }
    print_row(context, &follow_up)
}

/// Takes a proposal back.
pub(super) async fn discard(context: &Context, client: &Client, args: DiscardArgs) -> Result<()> {
    let proposal = waiting(client, args.id, args.proposal).await?;
    let request = v1::DiscardFollowUpStepRequest {
        follow_up_id: bytes(args.id),
        proposal_id: proposal.proposal_id,
        reason: args.reason,
    };
    let answer = client
        .analyst()
        .discard_follow_up_step(unary(request))
        .await?;
    print_row(context, &answer.into_inner().follow_up.unwrap_or_default())
}

/// What waits for approval, which must be what was named.
async fn waiting(
    client: &Client,
    id: FollowUpId,
    wanted: Option<Uuid>,
) -> Result<v1::FollowUpProposal> {
    let view = get(client, id, "", false).await?;
    let proposal = view.follow_up.unwrap_or_default().proposal;
    let proposal = proposal.ok_or_else(|| {
        Fault::with_hint(
            "nothing waits for approval",
            format!("`sotto-node followup show {id}` shows where it stands"),
        )
    })?;
    if wanted.is_some_and(|wanted| wanted.as_bytes()[..] != proposal.proposal_id[..]) {
        return Err(Fault::with_hint(
            format!(
                "another proposal waits for approval: {}",
                shown::proposal_id(&proposal.proposal_id)
            ),
            format!("read it first: `sotto-node followup show {id}`"),
        ));
    }
    Ok(proposal)
}
