//! Steps that a person proposes, and those that one person takes.

use std::path::{Path, PathBuf};

use clap::Args;
use sotto_common::followup::codes::{Item, RefusalGround};
use sotto_common::followup::content::check_message;
use sotto_common::followup::step::ItemOutcome;
use sotto_common::ids::FollowUpId;
use sotto_common::secret::Confidential;
use sotto_common::time::Timestamp;
use sotto_proto::{convert, v1};

use super::approve::is_terminal;
use super::ask::{Ask, Terminal};
use super::form::{FormCode, read_text};
use super::{bytes, get, print_row};
use crate::cli::client::{Client, unary};
use crate::cli::fault::{Fault, Result};
use crate::cli::{Context, args};

/// Most bytes of a message; 20,000 characters are never more.
const MAX_MESSAGE: u64 = 80_000;

/// A text that goes with a step.
#[derive(Args, Debug)]
pub(crate) struct TextArgs {
    /// The text, at most 20,000 characters; it is sealed to the other side
    #[arg(long, value_name = "TEXT", conflicts_with = "message_file")]
    message: Option<String>,
    /// The text from a file; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    message_file: Option<PathBuf>,
}

impl TextArgs {
    /// The text, if one was given.
    fn optional(&self) -> Result<Option<String>> {
        let text = match (&self.message, &self.message_file) {
            (Some(text), _) => text.replace("\r\n", "\n"),
            (None, Some(file)) => read_text(file, MAX_MESSAGE)?,
            (None, None) => return Ok(None),
        };
        let text = text.trim().to_owned();
        check_message(&Confidential::new(text.as_str()))?;
        Ok(Some(text))
    }

    fn needed(&self) -> Result<String> {
        self.optional()?.ok_or_else(|| {
            Fault::Usage(
                "this step needs a text: give --message TEXT or --message-file FILE".into(),
            )
        })
    }
}

/// A step that is a text.
#[derive(Args, Debug)]
pub(crate) struct MessageArgs {
    /// The follow-up
    #[arg(value_name = "ID")]
    id: FollowUpId,
    #[command(flatten)]
    text: TextArgs,
}

/// A judicial delay.
#[derive(Args, Debug)]
pub(crate) struct AwaitArgs {
    /// The follow-up
    #[arg(value_name = "ID")]
    id: FollowUpId,
    /// The new date: a date, whose 00:00 in UTC is meant, or RFC 3339; within a year
    #[arg(long, value_name = "DATE", value_parser = args::instant)]
    until: Timestamp,
    #[command(flatten)]
    text: TextArgs,
}

/// A refusal.
#[derive(Args, Debug)]
pub(crate) struct RefuseArgs {
    /// The follow-up
    #[arg(value_name = "ID")]
    id: FollowUpId,
    /// Why, for every item that has no ground of its own: NOT_AVAILABLE, REQUEST_INCOMPLETE,
    /// JUDICIAL_AUTHORISATION_REFUSED, CATEGORY_NOT_ALLOWED, INACCURATE_OR_OUTDATED,
    /// NATIONAL_SECURITY, ONGOING_INVESTIGATION_OR_SAFETY, HARM_TO_LEGAL_PERSON, MINOR_OFFENCE,
    /// NOT_AN_OFFENCE_HERE or THIRD_PARTY_CONSENT_MISSING
    #[arg(long, value_name = "CODE", value_parser = RefusalGround::argument)]
    ground: RefusalGround,
    /// The ground of one item; may be given several times
    #[arg(long = "item", value_name = "ITEM=GROUND", value_parser = item_ground)]
    items: Vec<(Item, RefusalGround)>,
    #[command(flatten)]
    text: TextArgs,
}

fn item_ground(text: &str) -> Result<(Item, RefusalGround), String> {
    let (item, ground) = text
        .split_once('=')
        .ok_or("expected ITEM=GROUND, e.g. ADDRESSES=NOT_AVAILABLE")?;
    Ok((Item::argument(item)?, RefusalGround::argument(ground)?))
}

/// Proposes a step; another person has to approve it.
pub(super) async fn propose(
    context: &Context,
    client: &Client,
    id: FollowUpId,
    step: v1::FollowUpStep,
    draft: v1::FollowUpDraft,
) -> Result<()> {
    let request = v1::ProposeFollowUpStepRequest {
        follow_up_id: bytes(id),
        step: step.into(),
        draft: Some(draft),
    };
    let answer = client
        .analyst()
        .propose_follow_up_step(unary(request))
        .await?;
    context.note(&format!(
        "drafted; another person has to approve it: sotto-node followup approve {id}"
    ));
    print_row(context, &answer.into_inner().follow_up.unwrap_or_default())
}

/// Proposes a step that is a text.
pub(super) async fn message(
    context: &Context,
    client: &Client,
    args: MessageArgs,
    step: v1::FollowUpStep,
) -> Result<()> {
    let draft = v1::FollowUpDraft {
        message: args.text.needed()?,
        ..Default::default()
    };
    propose(context, client, args.id, step, draft).await
}

/// Proposes to wait for a court.
pub(super) async fn await_court(context: &Context, client: &Client, args: AwaitArgs) -> Result<()> {
    let draft = v1::FollowUpDraft {
        message: args.text.needed()?,
        new_date: Some(convert::to_timestamp(args.until)),
        ..Default::default()
    };
    let step = v1::FollowUpStep::AwaitJudicialAuthorisation;
    propose(context, client, args.id, step, draft).await
}

/// Proposes to refuse everything that was asked for.
pub(super) async fn refuse(context: &Context, client: &Client, args: RefuseArgs) -> Result<()> {
    let message = args.text.optional()?.unwrap_or_default();
    let asked = asked(client, args.id).await?;
    let draft = v1::FollowUpDraft {
        outcomes: refusals(&asked, args.ground, &args.items)?,
        message,
        ..Default::default()
    };
    propose(context, client, args.id, v1::FollowUpStep::Refuse, draft).await
}

/// The items that were asked for.
pub(super) async fn asked(client: &Client, id: FollowUpId) -> Result<Vec<Item>> {
    let view = get(client, id, "", false).await?;
    let follow_up = view.follow_up.and_then(|node| node.follow_up);
    let terms = follow_up.and_then(|f| f.terms).unwrap_or_default();
    let items: sotto_common::error::Result<Vec<Item>> = terms
        .items
        .iter()
        .map(|item| convert::follow_up::code("items", *item))
        .collect();
    let items = items?;
    if items.is_empty() {
        return Err(Fault::with_hint(
            "the node does not say what was asked for",
            format!("`sotto-node followup show {id}` shows where it stands"),
        ));
    }
    Ok(items)
}

/// A ground for every item.
fn refusals(
    asked: &[Item],
    ground: RefusalGround,
    own: &[(Item, RefusalGround)],
) -> Result<Vec<v1::ItemOutcome>> {
    if let Some((item, _)) = own.iter().find(|(item, _)| !asked.contains(item)) {
        let asked: Vec<_> = asked.iter().map(ToString::to_string).collect();
        return Err(Fault::with_hint(
            format!("{item} was not asked for"),
            format!("asked for: {}", asked.join(", ")),
        ));
    }
    let outcome = |item: &Item| {
        let own = own.iter().rev().find(|(of, _)| of == item);
        let ground = own.map_or(ground, |(_, ground)| *ground);
        (*item, ItemOutcome::Refused(ground)).into()
    };
    Ok(asked.iter().map(outcome).collect())
}

/// Takes a request back, once somebody is sure.
pub(super) async fn withdraw(
    context: &Context,
    client: &Client,
    id: FollowUpId,
    yes: bool,
) -> Result<()> {
    if !yes {
        if !is_terminal() {
            return Err(Fault::Usage("nobody can be asked here: give --yes".into()));
        }
        let question = format!("Withdraw {id}? It cannot be taken up again.");
        if !Terminal::begin()?.confirm(&question)? {
            return Err(Fault::new("not withdrawn; nothing was changed"));
        }
    }
    end(context, client, id, v1::FollowUpStep::Withdraw).await
}

/// Takes a request back, or closes it.
pub(super) async fn end(
    context: &Context,
    client: &Client,
    id: FollowUpId,
    step: v1::FollowUpStep,
) -> Result<()> {
    let request = v1::EndFollowUpRequest {
        follow_up_id: bytes(id),
        step: step.into(),
    };
    let answer = client.analyst().end_follow_up(unary(request)).await?;
    print_row(context, &answer.into_inner().follow_up.unwrap_or_default())
}

/// A file's name without its folder.
pub(super) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_that_was_asked_for_has_a_ground() {
        let asked = [Item::Identity, Item::Addresses];
        let own = item_ground("addresses=inaccurate-or-outdated").expect("a pair");
        let outcomes = refusals(&asked, RefusalGround::NotAvailable, &[own]).expect("made");
        let grounds: Vec<_> = outcomes.iter().map(v1::ItemOutcome::ground).collect();
        assert_eq!(
            grounds,
            [
                v1::RefusalGround::NotAvailable,
                v1::RefusalGround::InaccurateOrOutdated
            ]
        );
        assert!(refusals(&asked[..1], RefusalGround::NotAvailable, &[own]).is_err());
        for bad in ["ADDRESSES", "SHOES=NOT_AVAILABLE", "ADDRESSES=BORED"] {
            assert!(item_ground(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_message_is_whole_before_it_is_sent() {
        let text = |text: &str| TextArgs {
            message: Some(text.into()),
            message_file: None,
        };
        assert_eq!(text(" a\r\nb\n").needed().expect("given"), "a\nb");
        assert!(text("  ").needed().is_err());
        assert!(text(&"x".repeat(20_001)).needed().is_err());
        assert!(text("a\u{1b}[2J").needed().is_err());
    }
}
