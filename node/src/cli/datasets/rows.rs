//! Rows of selectors from text, CSV and JSONL, read as a stream with bounded memory.
//!
//! Nothing here tells what a file holds: faults name line numbers, and a row that cannot be read
//! is counted (`Row::Unreadable`), not fatal.

mod table;

use std::io::{self, Read};
use std::path::Path;

use clap::ValueEnum;
use prost_types::Timestamp;
use serde_json::Value;
use sotto_proto::convert;
use sotto_proto::v1::ImportRow;

use crate::cli::args;
use crate::cli::fault::{Fault, Result};
use crate::cli::lines::{Line, Lines};

/// The form of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    /// By the file's name: `.csv` and `.tsv`, `.jsonl` and `.ndjson`, else text
    #[default]
    Auto,
    /// One selector a line
    Txt,
    /// A header line, then rows; parted by commas, semicolons or tabs
    Csv,
    /// One JSON object a line
    Jsonl,
}

impl Format {
    /// The form of the file with this name.
    pub(super) fn of(self, path: &Path) -> Self {
        if self != Self::Auto {
            return self;
        }
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "csv" | "tsv" => Self::Csv,
            "jsonl" | "ndjson" => Self::Jsonl,
            _ => Self::Txt,
        }
    }
}

/// Where in a row things are: names, or in CSV numbers from 1.
#[derive(Clone, Default, Debug)]
pub(super) struct Columns {
    /// The selector.
    pub(super) value: Option<String>,
    /// The record id.
    pub(super) id: Option<String>,
    /// The region hint.
    pub(super) region: Option<String>,
    /// When the row is removed by itself.
    pub(super) expires: Option<String>,
    /// The selector's type, e.g. `phone`: the name of the column if none is given.
    pub(super) type_name: &'static str,
}

impl Columns {
    /// What the selector's column may be called if nobody says.
    fn usual_names(&self) -> [&str; 3] {
        ["value", "selector", self.type_name]
    }
}

/// A row of a file.
#[derive(PartialEq, Debug)]
pub(super) enum Row {
    /// To be judged by the node.
    Read(ImportRow),
    /// It cannot be read: its line, and the kind of rejection.
    Unreadable(u64, &'static str),
}

/// What cannot be read as text, a row or an object.
const MALFORMED: &str = "malformed";
/// What is longer than is read.
const TOO_LONG: &str = "too_long";

/// A selector is at most 1024 bytes without the white space around it; lines of a text file over
/// this are `too_long` unread.
const MAX_LINE: usize = 64 * 1024;
/// An object of a JSONL file, or a record of a CSV file, has other things beside the selector.
const MAX_RECORD: usize = 1024 * 1024;

/// The most characters of a record id (dataset.proto).
const MAX_RECORD_ID: usize = 128;

/// Reads rows until the end, or until `sink` fails.
///
/// # Errors
/// If the input cannot be read, its columns are not there, a record id is too long, or the sink's.
pub(super) fn read(
    format: Format,
    input: impl Read,
    columns: &Columns,
    sink: &mut impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    match format {
        Format::Auto | Format::Txt => text(input, columns, sink),
        Format::Csv => table::read(input, columns, sink),
        Format::Jsonl => objects(input, columns, sink),
    }
}

fn unreadable(error: &io::Error) -> Fault {
    Fault::new(format!(
        "cannot read the input: {error}; nothing was changed"
    ))
}

fn text(
    input: impl Read,
    columns: &Columns,
    sink: &mut impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    let named = [
        &columns.value,
        &columns.id,
        &columns.region,
        &columns.expires,
    ];
    if named.into_iter().any(Option::is_some) {
        return Err(Fault::Usage(
            "a text file has no columns; give --format csv or jsonl".into(),
        ));
    }
    let mut lines = Lines::new(input, MAX_LINE);
    while let Some((line, content)) = lines.next().map_err(|error| unreadable(&error))? {
        sink(match content {
            Line::TooLong => Row::Unreadable(line, TOO_LONG),
            Line::Whole(bytes) => match std::str::from_utf8(bytes) {
                Err(_) => Row::Unreadable(line, MALFORMED),
                Ok(value) => Row::Read(ImportRow {
                    line,
                    value: value.to_owned(),
                    ..ImportRow::default()
                }),
            },
        })?;
    }
    Ok(())
}

fn objects(
    input: impl Read,
    columns: &Columns,
    sink: &mut impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    let mut lines = Lines::new(input, MAX_RECORD);
    while let Some((line, content)) = lines.next().map_err(|error| unreadable(&error))? {
        sink(match content {
            Line::TooLong => Row::Unreadable(line, TOO_LONG),
            // Between objects blank lines are usual; they are no rows.
            Line::Whole(bytes) if bytes.trim_ascii().is_empty() => continue,
            Line::Whole(bytes) => match object(bytes, columns) {
                None => Row::Unreadable(line, MALFORMED),
                Some(row) => Row::Read(checked(ImportRow { line, ..row })?),
            },
        })?;
    }
    Ok(())
}

/// The row of an object; `None` if it is none, or a field is neither a text nor a whole number.
fn object(bytes: &[u8], columns: &Columns) -> Option<ImportRow> {
    let object: serde_json::Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    let field = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) if !number.is_f64() => Some(number.to_string()),
        Some(_) => None,
    };
    let optional = |name: &Option<String>| name.as_deref().map_or(Some(String::new()), field);
    let value = match &columns.value {
        Some(name) => name.as_str(),
        None => columns
            .usual_names()
            .into_iter()
            .find(|name| object.contains_key(*name))?,
    };
    Some(ImportRow {
        line: 0,
        value: field(value)?,
        record_id: optional(&columns.id)?,
        region: optional(&columns.region)?,
        expires_at: expiry(&optional(&columns.expires)?)?,
    })
}

/// When a row expires; `None` if the text is no instant. An empty one is no expiry.
#[expect(clippy::option_option, reason = "unreadable, and absent")]
fn expiry(text: &str) -> Option<Option<Timestamp>> {
    if text.trim().is_empty() {
        return Some(None);
    }
    let at = args::instant(text).ok()?;
    Some(Some(convert::to_timestamp(at)))
}

/// Refuses ids that the node would refuse, while the line is still known.
pub(super) fn checked(row: ImportRow) -> Result<ImportRow> {
    let id = &row.record_id;
    if id.chars().count() > MAX_RECORD_ID || id.contains(char::is_control) {
        return Err(Fault::with_hint(
            format!(
                "line {}: a record id has at most {MAX_RECORD_ID} characters, and no control \
                 characters; nothing was changed",
                row.line
            ),
            "does --id-column name the column of the ids?",
        ));
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn columns(value: Option<&str>, id: Option<&str>, region: Option<&str>) -> Columns {
        Columns {
            value: value.map(Into::into),
            id: id.map(Into::into),
            region: region.map(Into::into),
            expires: None,
            type_name: "phone",
        }
    }

    pub(super) fn rows(format: Format, input: &[u8], columns: &Columns) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        read(format, input, columns, &mut |row| {
            rows.push(row);
            Ok(())
        })?;
        Ok(rows)
    }

    pub(super) fn row(line: u64, value: &str, record_id: &str, region: &str) -> Row {
        Row::Read(ImportRow {
            line,
            value: value.into(),
            record_id: record_id.into(),
            region: region.into(),
            expires_at: None,
        })
    }

    #[test]
    fn text_has_one_selector_a_line_and_never_aborts() {
        let mut input = b"\xef\xbb\xbf+31 1\r\n\n\xff\xfe\n".to_vec();
        input.extend(vec![b'x'; MAX_LINE + 1]);
        input.extend(b"\n+31 2");
        let read = rows(Format::Txt, &input, &columns(None, None, None)).expect("read");
        assert_eq!(
            read,
            [
                row(1, "+31 1", "", ""),
                row(2, "", "", ""),
                Row::Unreadable(3, MALFORMED),
                Row::Unreadable(4, TOO_LONG),
                row(5, "+31 2", "", ""),
            ]
        );
        let named = columns(Some("x"), None, None);
        assert!(matches!(
            rows(Format::Txt, b"", &named),
            Err(Fault::Usage(_))
        ));
    }

    #[test]
    fn jsonl_takes_texts_and_whole_numbers() {
        let input = br#"{"tel":"+31 1","id":7,"land":"NL"}

{"tel":31612345678901,"id":"b"}
{"tel":1.5}
{"tel":null}
["tel"]
{"tel":"cut
"#;
        let named = columns(Some("tel"), Some("id"), Some("land"));
        assert_eq!(
            rows(Format::Jsonl, input, &named).expect("read"),
            [
                row(1, "+31 1", "7", "NL"),
                row(3, "31612345678901", "b", ""),
                Row::Unreadable(4, MALFORMED),
                row(5, "", "", ""),
                Row::Unreadable(6, MALFORMED),
                Row::Unreadable(7, MALFORMED),
            ]
        );
    }

    #[test]
    fn jsonl_finds_the_usual_fields_by_itself() {
        let input = b"{\"phone\":\"+31 1\"}\n{\"value\":\"+31 2\"}\n{\"x\":\"+31 3\"}\n";
        assert_eq!(
            rows(Format::Jsonl, input, &columns(None, None, None)).expect("read"),
            [
                row(1, "+31 1", "", ""),
                row(2, "+31 2", "", ""),
                Row::Unreadable(3, MALFORMED),
            ]
        );
    }

    #[test]
    fn rows_have_their_own_expiry_and_one_that_cannot_be_read_is_counted() {
        let mut named = columns(None, None, None);
        named.expires = Some("until".into());
        let jsonl = b"{\"value\":\"a\",\"until\":\"1970-01-02\"}\n{\"value\":\"b\"}\n\
                      {\"value\":\"c\",\"until\":\"soon\"}\n";
        let csv = b"phone,until\na,1970-01-02\nb, \nc,soon\n";
        for (format, input, first) in [(Format::Jsonl, &jsonl[..], 1), (Format::Csv, csv, 2)] {
            let read = rows(format, input, &named).expect("read");
            let Row::Read(expiring) = &read[0] else {
                panic!("it can be read");
            };
            assert_eq!(expiring.expires_at.map(|at| at.seconds), Some(86_400));
            let rest = [
                row(first + 1, "b", "", ""),
                Row::Unreadable(first + 2, MALFORMED),
            ];
            assert_eq!(read[1..], rest);
        }
        assert!(matches!(
            rows(Format::Txt, b"", &named),
            Err(Fault::Usage(_))
        ));
    }

    #[test]
    fn a_record_id_that_the_node_would_refuse_names_its_line_only() {
        let named = columns(None, Some("id"), None);
        for id in ["x".repeat(129), "xxx\\n".into()] {
            let input = format!("{{\"value\":\"SELECTOR\",\"id\":\"{id}\"}}");
            let fault = rows(Format::Jsonl, input.as_bytes(), &named).expect_err("refused");
            let text = format!("{fault:?}");
            assert!(text.contains("line 1") && !text.contains("SELECTOR") && !text.contains("xxx"));
        }
    }

    #[test]
    fn the_form_of_a_file_is_told_by_its_name() {
        for (name, format) in [
            ("a.csv", Format::Csv),
            ("a.TSV", Format::Csv),
            ("a.ndjson", Format::Jsonl),
            ("a.txt", Format::Txt),
            ("-", Format::Txt),
        ] {
            assert_eq!(Format::Auto.of(Path::new(name)), format);
            assert_eq!(Format::Jsonl.of(Path::new(name)), Format::Jsonl);
        }
    }
}
