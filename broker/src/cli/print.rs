//! How answers are printed: tables for people, JSON and CSV for programs.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal as _, Write as _};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use serde_json::Value;

use super::{Output, Result, printable};

impl Output {
    /// Prints rows: of each, the values of these columns.
    pub(super) fn print(self, columns: &[&str], rows: Vec<Value>) -> Result<()> {
        match self {
            Self::Json => return say(&Value::Array(rows)),
            Self::Csv => return say(&csv(columns, &rows)),
            Self::Table => {}
        }
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(columns);
        if std::io::stdout().is_terminal() {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.force_no_tty();
        }
        for row in rows {
            table.add_row(columns.iter().map(|column| cell(&row[column])));
        }
        say(&table)
    }
}

/// A value for people and tables; one that is not there is empty.
fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A line of names and one for each row (RFC 4180), without the last line's end.
fn csv(columns: &[&str], rows: &[Value]) -> String {
    let mut text = columns.join(",");
    for row in rows {
        text.push('\n');
        text.push_str(&csv_row(columns, row));
    }
    text
}

/// The line of one row.
pub(super) fn csv_row(columns: &[&str], row: &Value) -> String {
    let cells = columns.iter().map(|column| {
        let cell = cell(&row[column]);
        if cell.contains([',', '"']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell
        }
    });
    cells.collect::<Vec<_>>().join(",")
}

/// Prints a line; a reader that has had enough of it is no failure.
pub(super) fn say(line: &dyn Display) -> Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
