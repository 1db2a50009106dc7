//! `hits`: what other nodes hold of this node's records (protocol §7, workflow.md "Hit").

pub(crate) mod odds;

use std::time::Duration;

use clap::{Args, Subcommand};
use sotto_common::hit::HitState;
use sotto_common::ids::{HitId, NodeId};
use sotto_common::selector::Policy;
use sotto_proto::{convert, v1};
use tonic::Status;

use super::client::{Client, unary};
use super::fault::{Fault, Result, is_unreachable};
use super::members::code;
use super::render::{Cell, List, live_row, record};
use super::{Context, args};

/// Commands about hits.
#[derive(Subcommand, Debug)]
pub(crate) enum HitsCommand {
    /// List hits, each with this node's own record, oldest first
    #[command(after_help = "Examples:\n  \
        sotto-node hits ls --holder de-bka --state NEW\n  \
        sotto-node hits ls --all --output tsv | cut -f7")]
    Ls(LsArgs),
    /// Show one hit
    #[command(after_help = "Example:\n  sotto-node hits show 019a1b2c-…")]
    Show {
        /// The hit
        #[arg(value_name = "ID")]
        hit: HitId,
    },
    /// Print hits as they arrive and change, until interrupted
    #[command(
        after_help = "Each event carries a cursor: go on from the last one that was seen. \
        JSON is one object a line.\n\nExamples:\n  \
        sotto-node hits watch --output json\n  \
        sotto-node hits watch --from 4711"
    )]
    Watch {
        /// The cursor of the last event that was seen; 0 = from the beginning
        #[arg(long, value_name = "CURSOR", default_value_t = 0)]
        from: u64,
    },
}

/// Which hits to list.
#[derive(Args, Debug)]
pub(crate) struct LsArgs {
    /// Only those of this holder
    #[arg(long, value_name = "NODE", value_parser = args::node)]
    holder: Option<NodeId>,
    /// Only those of this selector type
    #[arg(long = "type", value_name = "TYPE", value_parser = args::policy)]
    policy: Option<Policy>,
    /// Only those of this dataset
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Only those in this state, e.g. NEW
    #[arg(long, value_parser = state)]
    state: Option<HitState>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

fn state(text: &str) -> Result<HitState, String> {
    HitState::parse(&text.replace('-', "_")).ok_or_else(|| {
        let codes: Vec<_> = HitState::ALL.iter().map(|code| code.as_str()).collect();
        format!("expected one of {}", codes.join(", "))
    })
}

/// The columns of a hit.
pub(crate) const HIT: &[&str] = &[
    "hit",
    "policy",
    "holder",
    "state",
    "dataset",
    "record",
    "value",
    "first_seen",
    "last_seen",
    "filter_version",
    "false_positive_probability",
    "posterior",
];

const EVENT: &[&str] = &[
    "cursor", HIT[0], HIT[1], HIT[2], HIT[3], HIT[4], HIT[5], HIT[6], HIT[7], HIT[8], HIT[9],
    HIT[10], HIT[11],
];

/// The most hits in a page (analyst.proto).
const PAGE: u64 = 1000;

/// How long to wait before a stream that broke is opened again: first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The cells of a hit, in the order of [`HIT`].
pub(crate) fn cells(record_hit: v1::RecordHit) -> Vec<Cell> {
    let time = |at| convert::timestamp("at", at).ok();
    let hit = record_hit.hit.unwrap_or_default();
    let state = code(hit.state().as_str_name(), "HIT_STATE_");
    let id = HitId::from_slice(&hit.hit_id)
        .map_or_else(|_| hex::encode(&hit.hit_id), |id| id.to_string());
    vec![
        Cell::new(id),
        Cell::new(hit.policy),
        Cell::new(hit.holder),
        Cell::new(state),
        Cell::new(record_hit.dataset),
        Cell::new(record_hit.record_id),
        Cell::new(record_hit.canonical),
        Cell::time(time(hit.first_seen)),
        Cell::time(time(hit.last_seen)),
        Cell::new(hit.filter_version),
        Cell::in_words(
            hit.false_positive_probability,
            odds::by_chance(hit.false_positive_probability),
        ),
        Cell::in_words(hit.posterior, odds::posterior(hit.posterior)),
    ]
}

/// Runs a command about hits.
pub(crate) async fn run(context: &Context, command: HitsCommand) -> Result<()> {
    let client = context.client()?;
    match command {
        HitsCommand::Ls(wanted) => ls(context, &client, &wanted).await,
        HitsCommand::Show { hit } => {
            let request = v1::GetRecordHitRequest {
                hit_id: hit.as_bytes().to_vec().into(),
                ..Default::default()
            };
            let answer = client.analyst().get_record_hit(unary(request)).await?;
            let hit = answer.into_inner().hit.unwrap_or_default();
            Ok(record(
                context.output,
                HIT,
                &cells(hit),
                &mut context.stdout(),
            )?)
        }
        HitsCommand::Watch { from } => watch(context, &client, from).await,
    }
}

/// Pages through the hits; rows are printed as they come.
async fn ls(context: &Context, client: &Client, wanted: &LsArgs) -> Result<()> {
    let mut left = if wanted.all { u64::MAX } else { wanted.limit };
    let mut page = self::page(client, wanted, left, String::new()).await?;
    let mut list = List::new(context.output, HIT, context.stdout())?;
    loop {
        for hit in page.hits {
            if left > 0 {
                left -= 1;
                list.row(&cells(hit))?;
            }
        }
        if page.next_page_token.is_empty() || left == 0 {
            break;
        }
        page = self::page(client, wanted, left, page.next_page_token).await?;
    }
    list.finish()?;
    if !page.next_page_token.is_empty() {
        context.note("there are more hits; --all lists all of them");
    }
    Ok(())
}

/// The next page, of at most `left` hits.
async fn page(
    client: &Client,
    wanted: &LsArgs,
    left: u64,
    page_token: String,
) -> Result<v1::ListRecordHitsResponse> {
    let policy = wanted.policy.map(|policy| policy.name().to_owned());
    let holder = wanted.holder.as_ref().map(ToString::to_string);
    let request = v1::ListRecordHitsRequest {
        policy: policy.unwrap_or_default(),
        holder: holder.unwrap_or_default(),
        dataset: wanted.dataset.clone().unwrap_or_default(),
        page_size: u32::try_from(left.min(PAGE)).unwrap_or_default(),
        page_token,
        state: wanted
            .state
            .map_or(0, |state| v1::HitState::from(state).into()),
        ..Default::default()
    };
    let answer = client.analyst().list_record_hits(unary(request)).await?;
    Ok(answer.into_inner())
}

/// Follows the hits, over restarts of the service and the hourly end of connections.
async fn watch(context: &Context, client: &Client, from: u64) -> Result<()> {
    let mut cursor = from;
    let mut connected = false;
    let mut pause = PAUSES.0;
    loop {
        let broken = match follow(context, client, &mut cursor, &mut connected).await {
            Ok(()) => None,
            Err(Follow::Ended(fault)) => return Err(fault),
            Err(Follow::Broken(status)) => Some(status),
        };
        match broken {
            // Never reached yet: the person should hear of it rather than wait.
            Some(status) if !connected => return Err(status.into()),
            Some(_) => {
                context.note(&format!(
                    "the connection broke; going on from cursor {cursor} in {} s",
                    pause.as_secs()
                ));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            None => {
                tokio::time::sleep(PAUSES.0).await;
                pause = PAUSES.0;
            }
        }
    }
}

/// Why a stream of hits ended early.
enum Follow {
    /// For good.
    Ended(Fault),
    /// It may be opened again.
    Broken(Status),
}

impl From<std::io::Error> for Follow {
    fn from(error: std::io::Error) -> Self {
        Self::Ended(error.into())
    }
}

impl From<Status> for Follow {
    fn from(status: Status) -> Self {
        if is_unreachable(&status) {
            Self::Broken(status)
        } else {
            Self::Ended(status.into())
        }
    }
}

async fn follow(
    context: &Context,
    client: &Client,
    cursor: &mut u64,
    connected: &mut bool,
) -> Result<(), Follow> {
    let request = v1::WatchRecordHitsRequest {
        cursor: *cursor,
        ..Default::default()
    };
    let mut events = client
        .analyst()
        .watch_record_hits(request)
        .await?
        .into_inner();
    *connected = true;
    while let Some(event) = events.message().await? {
        let mut row = vec![Cell::new(event.cursor)];
        row.extend(cells(event.hit.unwrap_or_default()));
        live_row(context.output, EVENT, &row, &mut context.stdout())?;
        *cursor = event.cursor;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_has_a_cell_for_every_column() {
        let row = cells(v1::RecordHit {
            hit: Some(v1::Hit {
                state: v1::HitState::UnderReview.into(),
                false_positive_probability: 1.25e-9,
                posterior: 0.5,
                ..Default::default()
            }),
            ..Default::default()
        });
        assert_eq!(row.len(), HIT.len());
        assert_eq!(EVENT.len(), HIT.len() + 1);
        assert_eq!(row[3], Cell::new("UNDER_REVIEW"));
        assert_eq!(row[10].shown(), "1 in 800 million by chance");
    }

    #[test]
    fn states_are_taken_in_any_case() {
        assert_eq!(state("under-review"), Ok(HitState::UnderReview));
        assert!(state("OPEN").is_err());
    }
}
