//! CSV: a header line, then rows; the selector in one column.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::rc::Rc;

use csv::{ByteRecord, ReaderBuilder, Terminator};
use sotto_proto::v1::ImportRow;

use super::{Columns, MALFORMED, MAX_RECORD, Row, checked, expiry, unreadable};
use crate::cli::fault::{Fault, Result};
use crate::cli::lines::BOM;

/// Reads a table.
pub(super) fn read(
    input: impl Read,
    columns: &Columns,
    sink: &mut impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    let mut input = BufReader::new(input);
    let mut head = Vec::new();
    (&mut input)
        .take(MAX_RECORD as u64)
        .read_until(b'\n', &mut head)
        .map_err(|error| unreadable(&error))?;
    let delimiter = delimiter(&head);
    let begin = if head.starts_with(BOM) { BOM.len() } else { 0 };
    let mut whole = Cursor::new(head);
    whole.set_position(begin as u64);
    let unread = Rc::new(Cell::new(0));
    let input = Bounded {
        input: whole.chain(input),
        last: b'\n',
        unread: Rc::clone(&unread),
    };
    let mut table = ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        // With the usual one, lines that end in CRLF are miscounted; see `field`.
        .terminator(Terminator::Any(b'\n'))
        .from_reader(input);
    let header = table.byte_headers().map_err(broken)?.clone();
    let places = Places::find(&header, columns)?;
    let mut record = ByteRecord::new();
    loop {
        unread.set(0);
        if !table.read_byte_record(&mut record).map_err(broken)? {
            return Ok(());
        }
        if record.len() == 1 && &record[0] == b"\r" {
            continue;
        }
        let line = first_line(&record, table.position().line());
        sink(match places.row(&record) {
            None => Row::Unreadable(line, MALFORMED),
            Some(row) => Row::Read(checked(ImportRow { line, ..row })?),
        })?;
    }
}

/// The line of a record, from the line after it; csv's own gives that of blank lines before it.
fn first_line(record: &ByteRecord, next: u64) -> u64 {
    let within = record.as_slice().split(|&b| b == b'\n').count() as u64;
    next.saturating_sub(within)
}

fn broken(error: csv::Error) -> Fault {
    let line = error.position().map_or(0, csv::Position::line);
    match error.into_kind() {
        csv::ErrorKind::Io(error) => unreadable(&error),
        _ => Fault::new(format!(
            "the table cannot be read near line {line}; nothing was changed"
        )),
    }
}

/// The most frequent one in the header line.
fn delimiter(head: &[u8]) -> u8 {
    let count = |byte| head.split(|&b| b == byte).count();
    // Of equals the last one wins, a comma that is.
    [b'\t', b';', b',']
        .into_iter()
        .max_by_key(|&byte| count(byte))
        .unwrap_or(b',')
}

/// Ends a record that never ends, e.g. after a quote that was left open, while it still fits into
/// memory; and sees to it that the last line has an end like the others.
struct Bounded<R> {
    input: R,
    /// The last byte, at the end of the input once more.
    last: u8,
    /// Bytes read since the last record was complete.
    unread: Rc<Cell<usize>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unread.get() > MAX_RECORD {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a record is longer than 1 MiB, is a quote left open?",
            ));
        }
        let mut read = self.input.read(buffer)?;
        if read == 0 && self.last != b'\n' && !buffer.is_empty() {
            buffer[0] = b'\n';
            read = 1;
        }
        if let Some(&last) = buffer[..read].last() {
            self.last = last;
        }
        self.unread.set(self.unread.get() + read);
        Ok(read)
    }
}

/// Where things are in a record.
struct Places {
    value: usize,
    id: Option<usize>,
    region: Option<usize>,
    expires: Option<usize>,
}

impl Places {
    /// Finds the columns. The header is not quoted in faults: a file without one has a selector
    /// there.
    fn find(header: &ByteRecord, columns: &Columns) -> Result<Self> {
        let value = match &columns.value {
            Some(wanted) => place(header, wanted, "--column")?,
            None if header.len() == 1 => 0,
            None => columns
                .usual_names()
                .into_iter()
                .find_map(|name| named(header, name))
                .ok_or_else(|| {
                    Fault::Usage(format!(
                        "the table has {} columns, and none is called value, selector or {}; \
                         choose one with --column NAME or --column NUMBER, from 1",
                        header.len(),
                        columns.type_name
                    ))
                })?,
        };
        let optional = |wanted: &Option<String>, option| {
            let place = wanted
                .as_deref()
                .map(|wanted| place(header, wanted, option));
            place.transpose()
        };
        Ok(Self {
            value,
            id: optional(&columns.id, "--id-column")?,
            region: optional(&columns.region, "--region-column")?,
            expires: optional(&columns.expires, "--expires-column")?,
        })
    }

    /// The row of a record; `None` if it is too short or not UTF-8.
    fn row(&self, record: &ByteRecord) -> Option<ImportRow> {
        let field = |at| {
            let bytes = record.get(at)?;
            // The end of a CRLF line is in the last field.
            let bytes = match bytes.strip_suffix(b"\r") {
                Some(bytes) if at + 1 == record.len() => bytes,
                _ => bytes,
            };
            std::str::from_utf8(bytes).ok().map(str::to_owned)
        };
        let optional = |at: Option<usize>| at.map_or(Some(String::new()), field);
        Some(ImportRow {
            line: 0,
            value: field(self.value)?,
            record_id: optional(self.id)?,
            region: optional(self.region)?,
            expires_at: expiry(&optional(self.expires)?)?,
        })
    }
}

/// A column by its name or, if none has that name, by its number from 1.
fn place(header: &ByteRecord, wanted: &str, option: &str) -> Result<usize> {
    let by_number = || {
        let number: usize = wanted.parse().ok()?;
        (1..=header.len()).contains(&number).then(|| number - 1)
    };
    named(header, wanted).or_else(by_number).ok_or_else(|| {
        Fault::Usage(format!(
            "{option}: the table has no column of that name or number; it has {} columns",
            header.len()
        ))
    })
}

fn named(header: &ByteRecord, name: &str) -> Option<usize> {
    let is = |field: &[u8]| field.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
    header.iter().position(is)
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::{columns, row, rows};
    use super::*;

    #[test]
    fn columns_are_found_by_name_and_by_number() {
        let input = b"\xef\xbb\xbfId,Tel Nr ,land\r\n1,\"+31, 1\",NL\r\n2,+31 2,\r\n";
        let expected = [row(2, "+31, 1", "1", "NL"), row(3, "+31 2", "2", "")];
        let named = columns(Some("tel nr"), Some("id"), Some("land"));
        assert_eq!(rows(Format::Csv, input, &named).expect("read"), expected);
        let numbered = columns(Some("2"), Some("1"), Some("3"));
        assert_eq!(rows(Format::Csv, input, &numbered).expect("read"), expected);
    }

    #[test]
    fn the_delimiter_is_told_by_the_header() {
        for input in [
            "a;phone\n1;+31 1\n",
            "a\tphone\n1\t+31 1\n",
            "a,phone\n1,+31 1\n",
        ] {
            let read = rows(Format::Csv, input.as_bytes(), &columns(None, None, None));
            assert_eq!(read.expect("read"), [row(2, "+31 1", "", "")]);
        }
    }

    #[test]
    fn a_single_column_needs_no_name() {
        let read = rows(
            Format::Csv,
            b"telephone\n+31 1\n",
            &columns(None, None, None),
        );
        assert_eq!(read.expect("read"), [row(2, "+31 1", "", "")]);
    }

    #[test]
    fn short_rows_and_bytes_that_are_not_utf8_are_counted() {
        let input = b"id,phone\n1\n2,\xff\n3,+31 1,more\n";
        assert_eq!(
            rows(Format::Csv, input, &columns(None, None, None)).expect("read"),
            [
                Row::Unreadable(2, MALFORMED),
                Row::Unreadable(3, MALFORMED),
                row(4, "+31 1", "", ""),
            ]
        );
    }

    #[test]
    fn lines_are_numbered_as_an_editor_does() {
        for input in [
            "phone,id\n\n\"+31\n1\",a\n+31 2,b",
            "phone,id\r\n\r\n\"+31\n1\",a\r\n+31 2,\"b\"\r\n",
        ] {
            let named = columns(None, Some("id"), None);
            let read = rows(Format::Csv, input.as_bytes(), &named).expect("read");
            assert_eq!(read, [row(3, "+31\n1", "a", ""), row(5, "+31 2", "b", "")]);
        }
    }

    #[test]
    fn a_missing_column_is_told_without_quoting_the_file() {
        let input = b"SELECTOR-1,SELECTOR-2\n";
        for wanted in [None, Some("phone"), Some("0"), Some("3")] {
            let fault = rows(Format::Csv, input, &columns(wanted, None, None));
            let text = format!("{:?}", fault.expect_err("no such column"));
            assert!(
                text.contains("2 columns") && !text.contains("SELECTOR-"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_quote_left_open_does_not_fill_the_memory() {
        let mut input = b"phone\n\"+31 1\n".to_vec();
        input.extend(vec![b'x'; 4 * MAX_RECORD]);
        let fault = rows(Format::Csv, &input, &columns(None, None, None));
        assert!(format!("{:?}", fault.expect_err("too long")).contains("quote"));
    }
}
