//! `probe` and `check`: questions to the other nodes' filters (protocol §7).

use std::io::Read;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use sotto_common::ids::NodeId;
use sotto_common::selector::Policy;
use sotto_proto::v1;

use super::args::{self, GroundsArgs};
use super::client::{Client, unary};
use super::fault::{Fault, Result, is_unreachable};
use super::render::{Cell, List, Output, printable};
use super::{Context, hits, progress};

/// A probe of a dataset.
#[derive(Args, Debug)]
pub(crate) struct ProbeArgs {
    /// The dataset
    #[arg(value_name = "NAME")]
    dataset: String,
    #[command(flatten)]
    grounds: GroundsArgs,
    /// Ask this holder only; may be given several times
    #[arg(long = "target", value_name = "NODE", value_parser = args::node)]
    targets: Vec<NodeId>,
}

/// A one-off question.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The selector's type, e.g. phone
    #[arg(long = "type", value_name = "TYPE", value_parser = args::policy)]
    policy: Policy,
    /// The selector as written; `-` reads it from standard input, so that it stays out of the
    /// shell's history
    value: String,
    /// Country for national spellings, e.g. NL
    #[arg(long, value_parser = args::region)]
    region: Option<String>,
    #[command(flatten)]
    grounds: GroundsArgs,
    /// Ask this holder only; may be given several times
    #[arg(long = "target", value_name = "NODE", value_parser = args::node)]
    targets: Vec<NodeId>,
}

/// How often a probe whose stream broke is joined again without an answer in between.
const MAX_REJOINS: u32 = 5;
const REJOIN_PAUSE: Duration = Duration::from_secs(1);

/// The most that is read of a selector from standard input; the node says `too_long` well before.
const MAX_VALUE: u64 = 64 * 1024;

/// Probes a dataset and tells how far it is.
pub(crate) async fn probe(context: &Context, args: ProbeArgs) -> Result<()> {
    let request = v1::ProbeDatasetRequest {
        dataset: args.dataset,
        grounds: Some(args.grounds.to_wire()?),
        targets: args.targets.iter().map(ToString::to_string).collect(),
    };
    let client = context.client()?;
    let bar = progress::records();
    let last = follow(context, &client, request, &bar).await?;
    bar.finish_and_clear();
    context.done(
        &["probed", "total", "matches"],
        &[
            Cell::new(last.probed),
            Cell::new(last.total),
            Cell::new(last.matches),
        ],
    )?;
    if last.matches > 0 {
        context.note("`sotto-node hits ls` shows them");
    }
    Ok(())
}

/// Follows a probe to its end. It goes on when the stream breaks, and is then joined again.
async fn follow(
    context: &Context,
    client: &Client,
    request: v1::ProbeDatasetRequest,
    bar: &ProgressBar,
) -> Result<v1::ProbeDatasetResponse> {
    let mut begun = false;
    let mut rejoins = 0;
    let mut told = String::new();
    loop {
        let broken = match client.analyst().probe_dataset(request.clone()).await {
            Err(status) => status,
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Err(status) => break status,
                        Ok(None) => return Err(Fault::new("the service ended the probe early")),
                        Ok(Some(now)) if now.done => return Ok(now),
                        Ok(Some(now)) => {
                            (begun, rejoins) = (true, 0);
                            show(context, bar, &now, &mut told);
                        }
                    }
                }
            }
        };
        rejoins += 1;
        if !begun || rejoins > MAX_REJOINS || !is_unreachable(&broken) {
            return Err(broken.into());
        }
        tokio::time::sleep(REJOIN_PAUSE).await;
    }
}

fn show(context: &Context, bar: &ProgressBar, now: &v1::ProbeDatasetResponse, told: &mut String) {
    bar.set_length(now.total);
    bar.set_position(now.probed);
    let waits = !now.waiting_for.is_empty();
    if waits && *told != now.waiting_for {
        // It may wait for the same thing time and again: one line will do.
        told.clone_from(&now.waiting_for);
        if bar.is_hidden() {
            context.note(&format!("waiting for {told}"));
        }
    }
    bar.set_message(if waits {
        format!("{} matches; waiting for {}", now.matches, printable(told))
    } else {
        format!("{} matches", now.matches)
    });
}

/// Asks for one selector.
pub(crate) async fn check(context: &Context, args: CheckArgs) -> Result<()> {
    let value = if args.value == "-" {
        from_stdin()?
    } else {
        args.value
    };
    let request = v1::CheckSelectorRequest {
        policy: args.policy.name().to_owned(),
        value,
        region: args.region.unwrap_or_default(),
        grounds: Some(args.grounds.to_wire()?),
        targets: args.targets.iter().map(ToString::to_string).collect(),
    };
    let answer = context
        .client()?
        .analyst()
        .check_selector(unary(request))
        .await?;
    let answer = answer.into_inner();
    if context.output == Output::Table {
        context.note(&format!("asked for {}", answer.canonical));
        if answer.hits.is_empty() {
            context.note("nobody that was asked holds it");
        }
    }
    let mut list = List::new(context.output, hits::HIT, context.stdout())?;
    for hit in answer.hits {
        list.row(&hits::cells(hit))?;
    }
    Ok(list.finish()?)
}

fn from_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_VALUE)
        .read_to_string(&mut text)
        .map_err(|_| Fault::new("cannot read a selector in UTF-8 from standard input"))?;
    let line = text.split('\n').next().unwrap_or_default();
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}
