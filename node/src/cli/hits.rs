//! `hits`: what other nodes hold of this node's records (protocol §7, workflow.md "Hit").

pub(crate) mod filters;
pub(crate) mod odds;
mod review;
mod show;

use std::path::PathBuf;

use clap::Subcommand;
use sotto_common::ids::HitId;
use sotto_common::time::{Clock as _, SystemClock};
use sotto_proto::v1::get_receipt_request::Entry;
use sotto_proto::{convert, v1};

use super::Context;
use super::client::{Client, unary};
use super::fault::Result;
use super::members::code;
use super::receipt;
use super::render::{Cell, List, live_row};
use super::watching::{self, Follow, Place};
use filters::{LsArgs, WhyArgs};
use review::ReviewArgs;

/// Commands about hits.
#[derive(Subcommand, Debug)]
pub(crate) enum HitsCommand {
    /// List hits, each with this node's own record, oldest first
    ///
    /// Hits of several epochs on the same record and holder are one thread, which is listed once,
    /// as its latest hit.
    #[command(after_help = "Examples:\n  \
        sotto-node hits ls --holder de-bka --state NEW\n  \
        sotto-node hits ls --case 2026-17 --since 7d\n  \
        sotto-node hits ls --all --with-removed --output tsv | cut -f7")]
    Ls(LsArgs),
    /// Show one hit with its whole story
    #[command(after_help = "Example:\n  sotto-node hits show 019a1b2c-…")]
    Show {
        /// The hit
        #[arg(value_name = "ID")]
        hit: HitId,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Decide about a hit
    ///
    /// The decision is for the thread of the hit, and recorded with its latest hit. It is durable
    /// at the node when this ends, and goes to the broker by itself: person and reason do not.
    #[command(after_help = "Examples:\n  \
        sotto-node hits review 019a1b2c-… --begin\n  \
        sotto-node hits review 019a1b2c-… --confirm --reason 'same handset as in file 12'\n  \
        sotto-node hits review 019a1b2c-… --confirm --reason 'passport compared' \\\n    \
        --second-factor document='NL 1234567'\n  \
        sotto-node hits review 019a1b2c-… --false-positive --reason - < why.txt")]
    Review(ReviewArgs),
    /// Write the proof that a hit is in the audit log: a file of c2sp.org/tlog-proof
    ///
    /// Whoever has the log's key can check it, years later and without this node: `sotto-node receipt
    /// verify`. It says kind, hour and place of the entry, and nothing of the hit.
    #[command(after_help = "Example:\n  \
        sotto-node hits receipt 019a1b2c-… --out hit.tlog-proof")]
    Receipt {
        /// The hit
        #[arg(value_name = "ID")]
        hit: HitId,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Print hits as they arrive and change, until interrupted
    #[command(
        after_help = "Each event carries a cursor: go on from the last one that was seen. \
        JSON is one object a line.\n\nExamples:\n  \
        sotto-node hits watch --output json\n  \
        sotto-node hits watch --from 4711 --why 'night duty'"
    )]
    Watch {
        /// The cursor of the last event that was seen; 0 = from the beginning
        #[arg(long, value_name = "CURSOR", default_value_t = 0)]
        from: u64,
        #[command(flatten)]
        why: WhyArgs,
    },
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
    "cases",
    "remarks",
    "match_class",
    "contact_unit",
    "handling_code",
    "handling_text",
    "verified",
    "leaf",
];

const EVENT: &[&str] = &[
    "cursor", HIT[0], HIT[1], HIT[2], HIT[3], HIT[4], HIT[5], HIT[6], HIT[7], HIT[8], HIT[9],
    HIT[10], HIT[11], HIT[12], HIT[13], HIT[14], HIT[15], HIT[16], HIT[17], HIT[18], HIT[19],
];

/// Most characters of a text of another unit in a table; `hits show` has all of it.
const SHORT: usize = 24;

/// The most hits in a page (analyst.proto).
const PAGE: u64 = 1000;

/// The cells of a hit, in the order of [`HIT`].
pub(crate) fn cells(record_hit: v1::RecordHit) -> Vec<Cell> {
    let time = |at| convert::timestamp("at", at).ok();
    let remarks = remarks(&record_hit);
    let leaf = record_hit.leaf_index;
    let state = code(record_hit.state().as_str_name(), "HIT_STATE_");
    let match_class = match_class(&record_hit);
    let hit = record_hit.hit.unwrap_or_default();
    let handling = handling_code(&hit);
    vec![
        Cell::new(hit_id(&hit.hit_id)),
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
        Cell::texts(&record_hit.case_refs),
        Cell::texts(&remarks),
        Cell::new(match_class),
        shortened(hit.contact_unit),
        Cell::new(handling),
        shortened(hit.handling_text),
        Cell::in_words(
            leaf.is_some(),
            if leaf.is_some() { "yes" } else { "not yet" },
        ),
        Cell::new(leaf),
    ]
}

/// A text of another unit, which may be missing: all of it for machines, its beginning in a table.
fn shortened(text: String) -> Cell {
    if text.is_empty() {
        return Cell::new(None::<String>);
    }
    let Some((end, _)) = text.char_indices().nth(SHORT) else {
        return Cell::new(text);
    };
    let words = format!("{}…", &text[..end]);
    Cell::in_words(text, words)
}

/// How much the match says; a node of an earlier version does not tell it.
fn match_class(hit: &v1::RecordHit) -> Option<&'static str> {
    given(code(hit.match_class().as_str_name(), "MATCH_CLASS_"))
}

/// How the hit may be handled, if its holder says so.
fn handling_code(hit: &v1::Hit) -> Option<&'static str> {
    given(code(hit.handling_code().as_str_name(), "HANDLING_CODE_"))
}

/// A code, unless it is that of nothing.
fn given(code: &'static str) -> Option<&'static str> {
    (code != "UNSPECIFIED").then_some(code)
}

/// What a person should know of a hit before anything else.
fn remarks(hit: &v1::RecordHit) -> Vec<String> {
    let unmatched = hit.hit.as_ref().and_then(|hit| hit.unmatched_since);
    [
        (unmatched.is_some(), "matches no more"),
        (hit.record_removed, "record removed"),
        (hit.needs_second_factor, "needs second factor"),
        (hit.feedback_pending, "feedback pending"),
    ]
    .into_iter()
    .filter(|(holds, _)| *holds)
    .map(|(_, remark)| remark.to_owned())
    .collect()
}

/// An id as people write it.
fn hit_id(bytes: &[u8]) -> String {
    HitId::from_slice(bytes).map_or_else(|_| hex::encode(bytes), |id| id.to_string())
}

/// The hit of the latest epoch, on which decisions are recorded.
fn latest(story: &v1::GetRecordHitResponse) -> Option<&v1::Hit> {
    let own = story.hit.as_ref().and_then(|hit| hit.hit.as_ref());
    let hits = story.others.iter().chain(own);
    hits.max_by_key(|hit| (hit.epoch, hit.hit_id.clone()))
}

/// Runs a command about hits.
pub(crate) async fn run(context: &Context, command: HitsCommand) -> Result<()> {
    let client = context.client()?;
    match command {
        HitsCommand::Ls(wanted) => ls(context, &client, &wanted).await,
        HitsCommand::Show { hit, why } => {
            let request = v1::GetRecordHitRequest {
                hit_id: hit.as_bytes().to_vec().into(),
                why: why.why,
            };
            let story = client.analyst().get_record_hit(unary(request)).await?;
            let mut out = context.stdout();
            Ok(show::print(context.output, story.into_inner(), &mut out)?)
        }
        HitsCommand::Receipt { hit, out, why } => {
            let entry = Entry::HitId(hit.as_bytes().to_vec().into());
            receipt::fetch(context, &client, entry, &out, why.why).await
        }
        HitsCommand::Review(args) => review::run(context, &client, args).await,
        HitsCommand::Watch { from, why } => watch(context, &client, from, &why.why).await,
    }
}

/// Pages through the hits; rows are printed as they come.
async fn ls(context: &Context, client: &Client, wanted: &LsArgs) -> Result<()> {
    let mut left = wanted.most();
    let mut request = wanted.request(SystemClock.now());
    // Nothing is printed, no header either, before the service has answered.
    let mut hits = next_page(client, &mut request, left).await?;
    let mut list = List::new(context.output, HIT, context.stdout())?;
    loop {
        for hit in hits {
            if left > 0 {
                left -= 1;
                list.row(&cells(hit))?;
            }
        }
        if request.page_token.is_empty() || left == 0 {
            break;
        }
        hits = next_page(client, &mut request, left).await?;
    }
    list.finish()?;
    if !request.page_token.is_empty() {
        context.note("there are more hits; --all lists all of them");
    }
    Ok(())
}

/// The next page, of at most `left` hits; the request asks for the one behind it then.
async fn next_page(
    client: &Client,
    request: &mut v1::ListRecordHitsRequest,
    left: u64,
) -> Result<Vec<v1::RecordHit>> {
    request.page_size = u32::try_from(left.min(PAGE)).unwrap_or_default();
    let asked = unary(request.clone());
    let answer = client.analyst().list_record_hits(asked).await?.into_inner();
    request.page_token = answer.next_page_token;
    Ok(answer.hits)
}

/// Follows the hits, until interrupted.
async fn watch(context: &Context, client: &Client, from: u64, why: &str) -> Result<()> {
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
    let request = v1::WatchRecordHitsRequest {
        cursor: place.cursor,
        why: why.to_owned(),
    };
    let mut events = client
        .analyst()
        .watch_record_hits(request)
        .await?
        .into_inner();
    place.connected = true;
    while let Some(event) = events.message().await? {
        let mut row = vec![Cell::new(event.cursor)];
        row.extend(cells(event.hit.unwrap_or_default()));
        live_row(context.output, EVENT, &row, &mut context.stdout())?;
        place.cursor = event.cursor;
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
                state: v1::HitState::New.into(),
                false_positive_probability: 1.25e-9,
                posterior: 0.5,
                contact_unit: "Cybercrime desk of the north".into(),
                handling_code: v1::HandlingCode::H3.into(),
                handling_text: "ask\u{1b} first".into(),
                ..Default::default()
            }),
            match_class: v1::MatchClass::Exact.into(),
            state: v1::HitState::UnderReview.into(),
            case_refs: vec!["c-1".into(), "c-2".into()],
            record_removed: true,
            feedback_pending: true,
            ..Default::default()
        });
        assert_eq!(row.len(), HIT.len());
        assert_eq!(EVENT.len(), HIT.len() + 1);
        assert_eq!(row[3], Cell::new("UNDER_REVIEW"));
        assert_eq!(row[10].shown(), "1 in 800 million by chance");
        assert_eq!(row[12].shown(), "c-1, c-2");
        assert_eq!(row[13].shown(), "record removed, feedback pending");
        let last: Vec<_> = row[14..18].iter().map(Cell::shown).collect();
        assert_eq!(
            last,
            [
                "EXACT",
                "Cybercrime desk of the n…",
                "H3",
                "ask\u{fffd} first"
            ]
        );
        assert_eq!(
            (row[18].shown(), &row[19]),
            ("not yet".into(), &Cell::new(None::<u64>))
        );
        let nothing = cells(v1::RecordHit::default());
        assert!(nothing[14..18].iter().all(|cell| cell.shown().is_empty()));
    }
}
