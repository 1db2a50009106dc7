//! `dataset import`: from a file to the node, as a stream.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use sotto_common::selector::Policy;
use sotto_proto::v1::{
    ImportDatasetRequest, ImportDatasetResponse, ImportHeader, ImportRow, ImportRows,
    RejectionCount, import_dataset_request::Message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::rows::{self, Columns, Format, Row};
use crate::cli::fault::{Fault, Result};
use crate::cli::render::{Cell, record};
use crate::cli::{Context, args, progress};

pub(super) const EXAMPLES: &str = "Examples:\n  \
    sotto-node dataset import suspects --type phone --region NL numbers.txt\n  \
    sotto-node dataset import cars --type vehicle_plate --column plate --id-column case \\\n    \
    --region-column country cars.csv\n  \
    export-hashes | sotto-node dataset import malware --type file_hash -";

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
    /// The file; `-` reads standard input
    file: PathBuf,
}

/// Rows in a message: at most, by number (dataset.proto) and by size; a row is at most 1 MiB.
const BATCH: (usize, usize) = (5_000, 1024 * 1024);

/// Messages that wait for the node while the file is read on.
const AHEAD: usize = 4;

/// Line numbers that are kept of each kind of rejection.
const FIRST_LINES: usize = 10;

const REPORT: &[&str] = &[
    "dataset",
    "policy",
    "rows",
    "accepted",
    "duplicates",
    "rejected",
    "rejections",
];

/// Imports a file and prints the report.
pub(crate) async fn run(context: &Context, args: ImportArgs) -> Result<()> {
    let client = context.client()?;
    let (input, bar) = open(&args)?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    let header = ImportHeader {
        dataset: args.dataset.clone(),
        policy: args.policy.name().to_owned(),
        region: args.region.clone().unwrap_or_default(),
        replace: false,
    };
    // The channel is new and has room.
    let _ = sender.try_send(message(Message::Header(header)));

    let (policy, dataset) = (args.policy, args.dataset.clone());
    let reading = {
        let sender = sender.clone();
        let input = bar.wrap_read(input);
        tokio::task::spawn_blocking(move || read(&args, input, &sender))
    };
    let mut datasets = client.datasets();
    let call = datasets.import_dataset(ReceiverStream::new(receiver));
    tokio::pin!(call);
    // A stream that ends is complete: after a fault in the file it must break instead, which it
    // does when the call is dropped while `sender` still holds it open.
    let unreadable = tokio::select! {
        answer = &mut call => {
            // The node refused before the end.
            answer?;
            return Err(ended_early());
        }
        tally = reading => tally.map_err(|_| Fault::new("reading the file was cut off"))??,
    };
    let Some(unreadable) = unreadable else {
        // It refused, and its answer is still on the way.
        call.await?;
        return Err(ended_early());
    };
    bar.set_message("the node stores the rows");
    drop(sender);
    let mut report = call.await?.into_inner();
    bar.finish_and_clear();
    unreadable.add_to(&mut report);
    let cells = report_cells(&dataset, policy, &report);
    Ok(record(
        context.output,
        REPORT,
        &cells,
        &mut context.stdout(),
    )?)
}

fn ended_early() -> Fault {
    Fault::new("the node ended the import early; nothing was imported")
}

fn open(args: &ImportArgs) -> Result<(Box<dyn Read + Send>, ProgressBar)> {
    if args.file.as_os_str() == "-" {
        return Ok((Box::new(std::io::stdin()), progress::bytes(None)));
    }
    let unreadable = |error| Fault::new(format!("cannot read {}: {error}", args.file.display()));
    let file = File::open(&args.file).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Fault::new(format!("{} is a folder", args.file.display())));
    }
    let length = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(file), progress::bytes(length)))
}

fn message(message: Message) -> ImportDatasetRequest {
    ImportDatasetRequest {
        message: Some(message),
    }
}

/// Reads the whole file into the channel; gives the rows that could not be read, or `None` if the
/// node has stopped listening.
fn read(
    args: &ImportArgs,
    input: impl Read,
    sender: &mpsc::Sender<ImportDatasetRequest>,
) -> Result<Option<Unreadable>> {
    let columns = Columns {
        value: args.column.clone(),
        id: args.id_column.clone(),
        region: args.region_column.clone(),
        type_name: args.policy.selector_type(),
    };
    let mut unreadable = Unreadable::default();
    let mut batch = Batch::default();
    let send = |rows| sender.blocking_send(message(Message::Rows(ImportRows { rows })));
    let mut listening = true;
    let whole = rows::read(args.format.of(&args.file), input, &columns, &mut |row| {
        match row {
            Row::Unreadable(line, kind) => unreadable.count(line, kind),
            Row::Read(row) => {
                if let Some(full) = batch.push(row) {
                    listening = send(full).is_ok();
                }
            }
        }
        if listening {
            Ok(())
        } else {
            Err(ended_early())
        }
    });
    if listening {
        whole?;
        listening = batch.rows.is_empty() || send(batch.rows).is_ok();
    }
    Ok(listening.then_some(unreadable))
}

/// Rows on their way into a message.
#[derive(Default)]
struct Batch {
    rows: Vec<ImportRow>,
    bytes: usize,
}

impl Batch {
    /// Adds a row; gives the rows of a message if it does not fit beside them any more.
    fn push(&mut self, row: ImportRow) -> Option<Vec<ImportRow>> {
        // Twenty for the line number and for what protobuf puts around the fields.
        let size = row.value.len() + row.record_id.len() + row.region.len() + 20;
        let full = self.rows.len() == BATCH.0 || self.bytes + size > BATCH.1;
        let sent = (full && !self.rows.is_empty()).then(|| {
            self.bytes = 0;
            std::mem::take(&mut self.rows)
        });
        self.bytes += size;
        self.rows.push(row);
        sent
    }
}

/// Rows that never reached the node, by kind of rejection.
#[derive(Default)]
struct Unreadable(BTreeMap<&'static str, (u64, Vec<u64>)>);

impl Unreadable {
    fn count(&mut self, line: u64, kind: &'static str) {
        let (rows, first_lines) = self.0.entry(kind).or_default();
        *rows += 1;
        if first_lines.len() < FIRST_LINES {
            first_lines.push(line);
        }
    }

    /// Adds them to the node's report.
    fn add_to(self, report: &mut ImportDatasetResponse) {
        for (kind, (rows, lines)) in self.0 {
            report.rows += rows;
            let known = report
                .rejections
                .iter_mut()
                .find(|known| known.kind == kind);
            if let Some(known) = known {
                known.rows += rows;
                known.first_lines.extend(lines);
                known.first_lines.sort_unstable();
                known.first_lines.truncate(FIRST_LINES);
            } else {
                report.rejections.push(RejectionCount {
                    kind: kind.into(),
                    rows,
                    first_lines: lines,
                });
            }
        }
    }
}

fn report_cells(dataset: &str, policy: Policy, report: &ImportDatasetResponse) -> [Cell; 7] {
    let rejected: u64 = report.rejections.iter().map(|kind| kind.rows).sum();
    let words: Vec<_> = report.rejections.iter().map(rejection_words).collect();
    let values: Vec<_> = report
        .rejections
        .iter()
        .map(|kind| {
            serde_json::json!({
                "kind": kind.kind,
                "rows": kind.rows,
                "first_lines": kind.first_lines,
            })
        })
        .collect();
    [
        Cell::new(dataset),
        Cell::new(policy.name()),
        Cell::new(report.rows),
        Cell::new(report.accepted),
        Cell::new(report.duplicates),
        Cell::new(rejected),
        Cell::in_words(values, words.join("; ")),
    ]
}

/// E.g. `3 malformed (lines 4, 7, 9)`.
fn rejection_words(kind: &RejectionCount) -> String {
    let lines: Vec<_> = kind.first_lines.iter().map(u64::to_string).collect();
    let more = if kind.rows > kind.first_lines.len() as u64 {
        ", …"
    } else {
        ""
    };
    let noun = if kind.rows == 1 { "line" } else { "lines" };
    format!(
        "{} {} ({noun} {}{more})",
        kind.rows,
        kind.kind,
        lines.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bytes: usize) -> ImportRow {
        ImportRow {
            value: "x".repeat(bytes),
            ..ImportRow::default()
        }
    }

    #[test]
    fn messages_are_bounded_by_number_and_by_size() {
        let mut batch = Batch::default();
        let sent: Vec<_> = (0..=BATCH.0).filter_map(|_| batch.push(row(1))).collect();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].len(), BATCH.0);
        assert_eq!(batch.rows.len(), 1);
        assert!(batch.push(row(BATCH.1)).is_some_and(|sent| sent.len() == 1));
        assert!(batch.push(row(1)).is_some_and(|sent| sent.len() == 1));
    }

    #[test]
    fn rows_that_could_not_be_read_join_the_report_of_the_node() {
        let mut unreadable = Unreadable::default();
        for line in [2, 40, 50] {
            unreadable.count(line, "malformed");
        }
        unreadable.count(3, "too_long");
        let mut report = ImportDatasetResponse {
            rows: 100,
            accepted: 80,
            duplicates: 0,
            rejections: vec![RejectionCount {
                kind: "malformed".into(),
                rows: 20,
                first_lines: (1..=9).map(|n| n * 5).collect(),
            }],
            removed: 0,
        };
        unreadable.add_to(&mut report);
        assert_eq!(report.rows, 104);
        assert_eq!(report.rejections[0].rows, 23);
        assert_eq!(report.rejections[0].first_lines.len(), 10);
        assert_eq!(report.rejections[0].first_lines[..2], [2, 5]);
        assert_eq!(report.rejections[1].first_lines, [3]);
        let cells = report_cells("d", Policy::Phone, &report);
        assert!(
            cells[6].shown().ends_with("1 too_long (line 3)"),
            "{cells:?}"
        );
        assert_eq!(cells[5], Cell::new(24));
    }
}
