//! `followup answer`: what becomes of every item, and the files that go with it.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use sotto_common::ids::FollowUpId;
use sotto_proto::v1;

use super::form::{self, AnswerForm};
use super::{files, given, steps};
use crate::cli::Context;
use crate::cli::client::Client;
use crate::cli::fault::{Fault, Result};

/// What is answered.
#[derive(Args, Debug)]
pub(crate) struct AnswerArgs {
    /// The follow-up
    #[arg(value_name = "ID")]
    id: FollowUpId,
    /// The form, TOML or JSON; `-` reads standard input
    #[arg(long, value_name = "FILE", required_unless_present = "blank")]
    form: Option<PathBuf>,
    /// Files that go with the answer, each of a name of its own and at most 1 GiB; may be given
    /// several times
    #[arg(long, value_name = "FILE", num_args = 1..)]
    attach: Vec<PathBuf>,
    /// Print a blank form for exactly the items that were asked for
    #[arg(long, conflicts_with_all = ["form", "attach"])]
    blank: bool,
    /// The blank form in JSON
    #[arg(long, requires = "blank")]
    json: bool,
}

/// Sends the files that are not at the node yet, then proposes the answer.
pub(super) async fn run(context: &Context, client: &Client, args: AnswerArgs) -> Result<()> {
    let asked = steps::asked(client, args.id).await?;
    let Some(file) = args.form.as_deref().filter(|_| !args.blank) else {
        let mut out = context.stdout();
        write!(out, "{}", form::blank_answer(&asked, args.json))?;
        return Ok(out.flush()?);
    };
    let form: AnswerForm = form::read(file)?;
    // What is not whole is refused before a file of a gigabyte is sent.
    let draft = form.draft(&asked)?;
    let files = files::open_all(&args.attach)?;
    let provides_files = draft.outcomes.iter().any(|outcome| {
        outcome.item() == v1::FollowUpItem::Attachments
            && outcome.state() == v1::ItemState::Provided
    });
    let at_node = given::list(client, args.id, "").await?;
    if provides_files && files.is_empty() && at_node.attachments.is_empty() {
        context.note("ATTACHMENTS is provided without --attach, and no file is at the node");
    }
    for file in given::missing(context, args.id, &at_node.attachments, files)? {
        let name = file.name.clone();
        let sent = files::add(context, client, args.id, file, &at_node.unfinished);
        let id = sent.await.map_err(|fault| {
            Fault::with_hint(
                format!("{name} was not sent: {}", text(fault)),
                "nothing was proposed; give the command again once the cause is gone: files that \
                 are at the node are not sent again, and one that broke off goes on from there",
            )
        })?;
        context.note(&format!("{name} is at the node, as {id}"));
    }
    steps::propose(context, client, args.id, v1::FollowUpStep::Answer, draft).await
}

/// What a fault says.
fn text(fault: Fault) -> String {
    match fault {
        Fault::Failed { text, .. } | Fault::Usage(text) | Fault::Unreachable(text) => text,
        Fault::OutputClosed => String::new(),
    }
}
