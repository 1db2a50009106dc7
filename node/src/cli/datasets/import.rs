//! `dataset import`: from a file to the node, as a stream.

use std::path::PathBuf;

use clap::Args;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sotto_proto::convert;
use sotto_proto::v1::{ImportDatasetRequest, ImportHeader, import_dataset_request::Message};

use super::feed::{self, Source, rejection_cells};
use super::rows::{Columns, Format};
use crate::cli::fault::Result;
use crate::cli::render::Cell;
use crate::cli::{Context, args, publish};

pub(super) const EXAMPLES: &str = "Examples:\n  \
    sotto-node dataset import suspects --type phone --region NL numbers.txt\n  \
    sotto-node dataset import cars --type vehicle_plate --column plate --id-column case \\\n    \
    --region-column country --expires-column until --replace cars.csv\n  \
    export-hashes | sotto-node dataset import malware --type file_hash --expires 2027-01-31 -";

/// What to import.
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// Name of the dataset, [a-z0-9_-]{1,64}; made if it is not there
    #[arg(value_name = "NAME")]
    dataset: String,
    /// The selectors' type, e.g. phone or phone/1
    #[arg(long = "type", value_name = "TYPE", value_parser = args::policy)]
    policy: Policy,
    /// Country for national spellings of rows that have none of their own, e.g. NL
    #[arg(long, value_parser = args::region)]
    region: Option<String>,
    /// Form of the file
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
    /// CSV and JSONL: the selector's column or field; value, selector or the type's name if left
    /// out
    #[arg(long, value_name = "NAME|NUMBER")]
    column: Option<String>,
    /// CSV and JSONL: the record's own id, shown beside its hits; dataset and line if left out
    #[arg(long, value_name = "NAME|NUMBER")]
    id_column: Option<String>,
    /// CSV and JSONL: the row's country
    #[arg(long, value_name = "NAME|NUMBER")]
    region_column: Option<String>,
    /// CSV and JSONL: when the row is removed by itself: a date, whose 00:00 in UTC is meant, or RFC
    /// 3339; never if it is empty
    #[arg(long, value_name = "NAME|NUMBER")]
    expires_column: Option<String>,
    /// When rows without a time of their own are removed by themselves: a date, or RFC 3339
    #[arg(long, value_name = "DATE|TIME", value_parser = args::instant)]
    expires: Option<Timestamp>,
    /// Remove everything from the dataset that is not in the file, and wait until it matches no
    /// more
    #[arg(long)]
    replace: bool,
    /// Do not wait until what was removed matches no more
    #[arg(long)]
    no_wait: bool,
    /// The file; `-` reads standard input
    file: PathBuf,
}

const REPORT: &[&str] = &[
    "dataset",
    "policy",
    "rows",
    "accepted",
    "duplicates",
    "removed",
    "rejected",
    "rejections",
];

/// Imports a file and prints the report.
pub(crate) async fn run(context: &Context, args: ImportArgs) -> Result<()> {
    let mut datasets = context.client()?.datasets();
    let header = ImportHeader {
        dataset: args.dataset.clone(),
        policy: args.policy.name().to_owned(),
        region: args.region.unwrap_or_default(),
        replace: args.replace,
    };
    let source = Source {
        file: args.file,
        format: args.format,
        columns: Columns {
            value: args.column,
            id: args.id_column,
            region: args.region_column,
            expires: args.expires_column,
            type_name: args.policy.selector_type(),
        },
        expires: args.expires.map(convert::to_timestamp),
        by_record: false,
    };
    let header = message(Message::Header(header));
    let (mut report, unreadable) = feed::send(
        source,
        header,
        |rows| message(Message::Rows(rows)),
        |stream| datasets.import_dataset(stream),
    )
    .await?;
    unreadable.add_to(&mut report.rows, &mut report.rejections);
    let [rejected, rejections] = rejection_cells(&report.rejections);
    let cells = [
        Cell::new(args.dataset),
        Cell::new(args.policy.name()),
        Cell::new(report.rows),
        Cell::new(report.accepted),
        Cell::new(report.duplicates),
        Cell::new(report.removed),
        rejected,
        rejections,
    ];
    context.done(REPORT, &cells)?;
    if report.removed > 0 && !args.no_wait {
        publish::until_gone(context, args.policy.name()).await?;
    }
    Ok(())
}

fn message(message: Message) -> ImportDatasetRequest {
    ImportDatasetRequest {
        message: Some(message),
    }
}
