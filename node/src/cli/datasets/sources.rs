//! `dataset sources` and `dataset sync`: datasets that the node fills from databases.

use clap::Args;
use sotto_proto::{convert, v1};
use tonic::Request;

use super::feed::rejection_cells;
use crate::cli::client::unary;
use crate::cli::fault::Result;
use crate::cli::render::{Cell, List, Tone};
use crate::cli::{Context, publish};

pub(super) const EXAMPLES: &str = "Examples:\n  \
    sotto-node dataset sync suspects\n  \
    sotto-node dataset sync suspects --full";

/// What to fill.
#[derive(Args, Debug)]
pub(crate) struct SyncArgs {
    /// Name of the dataset
    #[arg(value_name = "NAME")]
    dataset: String,
    /// Compare everything, and remove what the database does not have any more
    #[arg(long)]
    full: bool,
    /// Do so even if that leaves less than half of the dataset
    #[arg(long, requires = "full")]
    allow_shrink: bool,
    /// Do not wait until what is removed matches no more
    #[arg(long)]
    no_wait: bool,
}

const LIST: &[&str] = &[
    "dataset",
    "policy",
    "engine",
    "last_run_at",
    "last_full_at",
    "rows",
    "accepted",
    "rejected",
    "removed",
    "watermark",
    "next_run_at",
    "next_full",
    "problem",
];

const REPORT: &[&str] = &[
    "dataset",
    "policy",
    "full",
    "rows",
    "accepted",
    "duplicates",
    "removed",
    "rejected",
    "rejections",
    "watermark",
];

/// Lists the sources.
pub(super) async fn list(context: &Context) -> Result<()> {
    let request = unary(v1::ListSourcesRequest {});
    let answer = context.client()?.datasets().list_sources(request).await?;
    let mut list = List::new(context.output, LIST, context.stdout())?;
    for source in answer.into_inner().sources {
        let time = |at| Cell::time(convert::timestamp("at", at).ok());
        list.row(&[
            Cell::new(source.dataset),
            Cell::new(source.policy),
            Cell::new(source.engine),
            time(source.last_run_at),
            time(source.last_full_at),
            Cell::new(source.rows),
            Cell::new(source.accepted),
            Cell::new(source.rejected),
            Cell::new(source.removed),
            Cell::new(source.watermark),
            time(source.next_run_at),
            Cell::new(source.next_full),
            Cell::new(source.problem).toned(Tone::Bad),
        ])?;
    }
    Ok(list.finish()?)
}

/// Fills a dataset and prints the report.
pub(super) async fn sync(context: &Context, args: SyncArgs) -> Result<()> {
    // Without the deadline of short calls: the source's own `timeout` bounds it.
    let request = Request::new(v1::RunSourceRequest {
        dataset: args.dataset.clone(),
        full: args.full,
        allow_shrink: args.allow_shrink,
    });
    let answer = context.client()?.datasets().run_source(request).await?;
    let answer = answer.into_inner();
    let report = answer.report.unwrap_or_default();
    let [rejected, rejections] = rejection_cells(&report.rejections);
    let cells = [
        Cell::new(args.dataset),
        Cell::new(answer.policy.as_str()),
        Cell::new(answer.full),
        Cell::new(report.rows),
        Cell::new(report.accepted),
        Cell::new(report.duplicates),
        Cell::new(report.removed),
        rejected,
        rejections,
        Cell::new(answer.watermark),
    ];
    context.done(REPORT, &cells)?;
    if report.removed > 0 && !args.no_wait {
        publish::until_gone(context, &answer.policy).await?;
    }
    Ok(())
}
