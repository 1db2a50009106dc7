//! `followup ls`, `inbox` and `watch`.

use clap::Args;
use sotto_common::followup::{FollowUpState, Party};
use sotto_common::ids::{HitId, NodeId};
use sotto_common::time::{Clock as _, SystemClock};
use sotto_proto::v1;

use super::form::FormCode;
use super::shown::{self, FOLLOW_UP};
use crate::cli::client::{Client, unary};
use crate::cli::fault::Result;
use crate::cli::hits::filters::WhyArgs;
use crate::cli::render::{Cell, List, live_row};
use crate::cli::watching::{self, Follow, Place};
use crate::cli::{Context, args};

/// Which follow-ups to list; every filter that is given must hold.
#[derive(Args, Debug)]
pub(crate) struct LsArgs {
    /// Only those in which this node is the requester, or the holder
    #[arg(long = "as", value_name = "SIDE", value_parser = Party::argument)]
    side: Option<Party>,
    /// Only those in this state, e.g. RECEIVED
    #[arg(long, value_parser = FollowUpState::argument)]
    state: Option<FollowUpState>,
    /// Only those with this other node
    #[arg(long, value_name = "NODE", value_parser = args::node)]
    with: Option<NodeId>,
    /// Only those of this hit
    #[arg(long, value_name = "ID")]
    hit: Option<HitId>,
    /// Only those on which this node has something to do
    #[arg(long)]
    todo: bool,
    #[command(flatten)]
    why: WhyArgs,
}

const EVENT: &[&str] = &[
    "cursor",
    "news",
    "step",
    "reminder_percent",
    FOLLOW_UP[0],
    FOLLOW_UP[1],
    FOLLOW_UP[2],
    FOLLOW_UP[3],
    FOLLOW_UP[4],
    FOLLOW_UP[5],
    FOLLOW_UP[6],
    FOLLOW_UP[7],
    FOLLOW_UP[8],
    FOLLOW_UP[9],
    FOLLOW_UP[10],
    FOLLOW_UP[11],
    FOLLOW_UP[12],
];

/// The most follow-ups in a page (analyst_follow_up.proto).
const PAGE: u32 = 1000;

/// Pages through the follow-ups; rows are printed as they come.
pub(super) async fn ls(context: &Context, client: &Client, args: &LsArgs) -> Result<()> {
    let mut request = v1::ListNodeFollowUpsRequest {
        side: args
            .side
            .map_or(0, |side| v1::FollowUpParty::from(side).into()),
        state: args
            .state
            .map_or(0, |state| v1::FollowUpState::from(state).into()),
        counterpart: args
            .with
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        to_do: args.todo,
        hit_id: args
            .hit
            .map(|hit| hit.as_bytes().to_vec().into())
            .unwrap_or_default(),
        why: args.why.why.clone(),
        ..Default::default()
    };
    // Nothing is printed, no header either, before the service has answered.
    let mut page = next_page(client, &mut request).await?;
    let mut list = List::new(context.output, FOLLOW_UP, context.stdout())?;
    loop {
        for follow_up in &page {
            list.row(&shown::cells(follow_up, SystemClock.now()))?;
        }
        if request.page_token.is_empty() {
            return Ok(list.finish()?);
        }
        page = next_page(client, &mut request).await?;
    }
}

/// The next page; the request asks for the one behind it then.
async fn next_page(
    client: &Client,
    request: &mut v1::ListNodeFollowUpsRequest,
) -> Result<Vec<v1::NodeFollowUp>> {
    request.page_size = PAGE;
    let asked = unary(request.clone());
    let answer = client.analyst().list_node_follow_ups(asked).await?;
    let answer = answer.into_inner();
    request.page_token = answer.next_page_token;
    Ok(answer.follow_ups)
}

/// The open requests of others.
pub(super) async fn inbox(context: &Context, client: &Client, why: &str) -> Result<()> {
    let mut request = v1::ListNodeFollowUpsRequest {
        side: v1::FollowUpParty::Holder.into(),
        why: why.to_owned(),
        ..Default::default()
    };
    let mut open = Vec::new();
    loop {
        let page = next_page(client, &mut request).await?;
        open.extend(page.into_iter().filter(is_open));
        if request.page_token.is_empty() {
            break;
        }
    }
    open.sort_by_key(urgency);
    let mut list = List::new(context.output, FOLLOW_UP, context.stdout())?;
    for follow_up in &open {
        list.row(&shown::cells(follow_up, SystemClock.now()))?;
    }
    Ok(list.finish()?)
}

fn is_open(node: &v1::NodeFollowUp) -> bool {
    use v1::FollowUpState as S;
    let state = node.follow_up.as_ref().map(v1::FollowUp::state);
    !matches!(
        state,
        None | Some(S::Answered | S::Refused | S::Withdrawn | S::Closed)
    )
}

/// What needs doing first: what this node has to do, then what is due next; a clock that stands
/// still comes last.
fn urgency(node: &v1::NodeFollowUp) -> (bool, i64) {
    let clock = node.follow_up.as_ref().and_then(|f| f.clock.as_ref());
    let due = clock.and_then(|clock| clock.due_at.as_ref());
    let waits = node.next_action.is_empty() && node.proposal.is_none() && !node.unread;
    (waits, due.map_or(i64::MAX, |due| due.seconds))
}

/// Follows the follow-ups, until interrupted.
pub(super) async fn watch(context: &Context, client: &Client, from: u64, why: &str) -> Result<()> {
    watching::watch(context, from, async |place: &mut Place| {
        follow(context, client, why, place).await
    })
    .await
}

async fn follow(
    context: &Context,
    client: &Client,
    why: &str,
    place: &mut Place,
) -> Result<(), Follow> {
    let request = v1::WatchNodeFollowUpsRequest {
        cursor: place.cursor,
        why: why.to_owned(),
    };
    let mut events = client
        .analyst()
        .watch_node_follow_ups(request)
        .await?
        .into_inner();
    place.connected = true;
    while let Some(event) = events.message().await? {
        let row = event_cells(&event);
        live_row(context.output, EVENT, &row, &mut context.stdout())?;
        place.cursor = event.cursor;
    }
    Ok(())
}

fn event_cells(event: &v1::WatchNodeFollowUpsResponse) -> Vec<Cell> {
    let percent = (event.reminder_percent > 0).then_some(event.reminder_percent);
    let mut row = vec![
        Cell::new(event.cursor),
        Cell::new(shown::news(event.news())),
        Cell::new(shown::step(event.step())),
        Cell::new(percent),
    ];
    let follow_up = event.follow_up.clone().unwrap_or_default();
    row.extend(shown::cells(&follow_up, SystemClock.now()));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_doing_first_comes_first() {
        let node = |todo: &str, due: Option<i64>| v1::NodeFollowUp {
            next_action: todo.into(),
            follow_up: Some(v1::FollowUp {
                state: v1::FollowUpState::Received.into(),
                clock: Some(v1::FollowUpClock {
                    due_at: due.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut all = [
            node("", Some(1)),
            node("accept", None),
            node("accept", Some(9)),
            node("accept", Some(5)),
        ];
        all.sort_by_key(urgency);
        let order: Vec<_> = all.iter().map(urgency).collect();
        assert_eq!(
            order,
            [(false, 5), (false, 9), (false, i64::MAX), (true, 1)]
        );
        assert!(is_open(&all[0]));
        assert_eq!(
            event_cells(&v1::WatchNodeFollowUpsResponse::default()).len(),
            EVENT.len()
        );
    }
}
