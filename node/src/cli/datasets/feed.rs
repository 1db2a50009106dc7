//! Rows of a file to the node, as a stream, and what both sides reject.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use indicatif::ProgressBar;
use prost_types::Timestamp;
use sotto_proto::v1::{ImportRow, ImportRows, RejectionCount};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::rows::{self, Columns, Format, Row};
use crate::cli::fault::{Fault, Result};
use crate::cli::progress;
use crate::cli::render::Cell;

/// Rows in a message: at most, by number (dataset.proto) and by size; a row is at most 1 MiB.
const BATCH: (usize, usize) = (5_000, 1024 * 1024);

/// Messages that wait for the node while the file is read on.
const AHEAD: usize = 4;

/// Line numbers that are kept of each kind of rejection.
const FIRST_LINES: usize = 10;

/// Where rows come from.
pub(super) struct Source {
    /// The file; `-` is standard input.
    pub(super) file: PathBuf,
    /// Its form.
    pub(super) format: Format,
    /// Where in a row things are.
    pub(super) columns: Columns,
    /// When rows without a time of their own expire.
    pub(super) expires: Option<Timestamp>,
    /// Whether what is read are record ids, and no values.
    pub(super) by_record: bool,
}

/// Sends a header and the rows of a source; gives the node's answer, and the rows that never
/// reached it.
///
/// # Errors
/// If the source cannot be read, or the node refuses; nothing is changed there then.
pub(super) async fn send<M, R, C>(
    source: Source,
    header: M,
    message: fn(ImportRows) -> M,
    call: impl FnOnce(ReceiverStream<M>) -> C,
) -> Result<(R, Unreadable)>
where
    M: Send + 'static,
    C: Future<Output = Result<Response<R>, Status>>,
{
    let (input, bar) = open(&source)?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    // The channel is new and has room.
    let _ = sender.try_send(header);
    let reading = {
        let sender = sender.clone();
        let input = bar.wrap_read(input);
        tokio::task::spawn_blocking(move || read(&source, input, &sender, message))
    };
    let call = call(ReceiverStream::new(receiver));
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
    let answer = call.await?.into_inner();
    bar.finish_and_clear();
    Ok((answer, unreadable))
}

fn ended_early() -> Fault {
    Fault::new("the node ended the stream early; nothing was changed")
}

fn open(source: &Source) -> Result<(Box<dyn Read + Send>, ProgressBar)> {
    if source.file.as_os_str() == "-" {
        return Ok((Box::new(std::io::stdin()), progress::bytes(None)));
    }
    let path = source.file.display();
    let unreadable = |error| Fault::new(format!("cannot read {path}: {error}"));
    let file = File::open(&source.file).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Fault::new(format!("{path} is a folder")));
    }
    let length = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(file), progress::bytes(length)))
}

/// Reads the whole file into the channel; gives the rows that could not be read, or `None` if the
/// node has stopped listening.
fn read<M>(
    source: &Source,
    input: impl Read,
    sender: &mpsc::Sender<M>,
    message: fn(ImportRows) -> M,
) -> Result<Option<Unreadable>> {
    let mut unreadable = Unreadable::default();
    let mut batch = Batch::default();
    let send = |rows| sender.blocking_send(message(ImportRows { rows }));
    let mut listening = true;
    let format = source.format.of(&source.file);
    let whole = rows::read(format, input, &source.columns, &mut |row| {
        match row {
            Row::Unreadable(line, kind) => unreadable.count(line, kind),
            Row::Read(mut row) => {
                row.expires_at = row.expires_at.or(source.expires);
                if source.by_record {
                    row.record_id = std::mem::take(&mut row.value);
                    row = rows::checked(row)?;
                }
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
pub(super) struct Unreadable(BTreeMap<&'static str, (u64, Vec<u64>)>);

impl Unreadable {
    fn count(&mut self, line: u64, kind: &'static str) {
        let (rows, first_lines) = self.0.entry(kind).or_default();
        *rows += 1;
        if first_lines.len() < FIRST_LINES {
            first_lines.push(line);
        }
    }

    /// Adds them to the node's report: its number of rows, and its rejections.
    pub(super) fn add_to(self, all: &mut u64, rejections: &mut Vec<RejectionCount>) {
        for (kind, (rows, lines)) in self.0 {
            *all += rows;
            let known = rejections.iter_mut().find(|known| known.kind == kind);
            if let Some(known) = known {
                known.rows += rows;
                known.first_lines.extend(lines);
                known.first_lines.sort_unstable();
                known.first_lines.truncate(FIRST_LINES);
            } else {
                rejections.push(RejectionCount {
                    kind: kind.into(),
                    rows,
                    first_lines: lines,
                });
            }
        }
    }
}

/// How many rows were rejected, and the kinds.
pub(super) fn rejection_cells(rejections: &[RejectionCount]) -> [Cell; 2] {
    let rejected: u64 = rejections.iter().map(|kind| kind.rows).sum();
    let words: Vec<_> = rejections.iter().map(rejection_words).collect();
    let values: Vec<_> = rejections
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
        let mut all = 100;
        let mut rejections = vec![RejectionCount {
            kind: "malformed".into(),
            rows: 20,
            first_lines: (1..=9).map(|n| n * 5).collect(),
        }];
        unreadable.add_to(&mut all, &mut rejections);
        assert_eq!(all, 104);
        assert_eq!(rejections[0].rows, 23);
        assert_eq!(rejections[0].first_lines.len(), 10);
        assert_eq!(rejections[0].first_lines[..2], [2, 5]);
        assert_eq!(rejections[1].first_lines, [3]);
        let cells = rejection_cells(&rejections);
        assert!(
            cells[1].shown().ends_with("1 too_long (line 3)"),
            "{cells:?}"
        );
        assert_eq!(cells[0], Cell::new(24));
    }
}
