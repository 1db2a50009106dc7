//! What commands print: lists and records, as a table, JSON, CSV or TSV.
//!
//! Everything that comes from another machine or from a file passes through here, and no control
//! character of it reaches the terminal as such.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Color, ContentArrangement, Table};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use sotto_common::time::Timestamp;

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// One JSON array for a list, one object for anything else.
    Json,
    /// With a header and quotes where needed.
    Csv,
    /// For scripts: no header, no quotes; control characters and backslashes as `\n`, `\t`, `\\`.
    Tsv,
}

/// How a value is to strike the eye of a person; machines do not see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Tone {
    /// As the others.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Worth a look.
    Warning,
    /// Somebody should do something.
    Bad,
}

/// One value of a row: what it is, and how people read it if that differs.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Cell {
    value: Value,
    words: Option<String>,
    tone: Tone,
}

impl Cell {
    /// A value that machines and people read alike.
    pub(crate) fn new(value: impl Into<Value>) -> Self {
        Self {
            value: value.into(),
            words: None,
            tone: Tone::Plain,
        }
    }

    /// A value, and the words for it in a table.
    pub(crate) fn in_words(value: impl Into<Value>, words: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            words: Some(words.into()),
            tone: Tone::Plain,
        }
    }

    /// The same in another colour, where there are colours.
    #[must_use]
    pub(crate) const fn toned(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    /// In a table.
    fn in_table(&self) -> comfy_table::Cell {
        let cell = comfy_table::Cell::new(self.shown());
        if !has_colours() {
            return cell;
        }
        match self.tone {
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::Green),
            Tone::Warning => cell.fg(Color::Yellow),
            Tone::Bad => cell.fg(Color::Red),
        }
    }

    /// An instant, RFC 3339 in UTC; null if there is none.
    pub(crate) fn time(at: Option<Timestamp>) -> Self {
        Self::new(at.map(|at| at.to_string()))
    }

    /// Several texts.
    pub(crate) fn texts(texts: &[String]) -> Self {
        Self::in_words(texts.to_vec(), texts.join(", "))
    }

    /// As CSV and TSV have it.
    fn plain(&self) -> Cow<'_, str> {
        match &self.value {
            Value::Null => Cow::Borrowed(""),
            Value::String(text) => Cow::Borrowed(text),
            Value::Array(items) => {
                let items: Vec<_> = items
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), Into::into))
                    .collect();
                Cow::Owned(items.join(","))
            }
            other => Cow::Owned(other.to_string()),
        }
    }

    /// As a table has it.
    pub(crate) fn shown(&self) -> String {
        match &self.words {
            Some(words) => printable(words),
            None => printable(&self.plain()),
        }
    }
}

/// Characters that move a terminal's cursor, or turn the direction of writing around.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}' | '\u{2029}'
        )
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
}

/// The text with a replacement character for everything that would act on a terminal; line
/// breaks are such characters too, but for those that Sotto itself puts between items.
pub(crate) fn printable(text: &str) -> String {
    let replace = |c: char| if is_unsafe(c) { '\u{fffd}' } else { c };
    text.chars().map(replace).collect()
}

/// The text as a TSV field: reversible, and without any character that parts fields or lines.
fn tsv_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            c if is_unsafe(c) => escaped.extend(c.escape_default()),
            c => escaped.push(c),
        }
    }
    escaped
}

/// JSON in which what serde_json leaves as it is, DEL and C1 among it, is escaped as well.
fn json_text(value: &impl Serialize) -> io::Result<String> {
    let text = serde_json::to_string(value)?;
    if !text.contains(is_unsafe) {
        return Ok(text);
    }
    let escape = |c: char| match c {
        // All of them are of the basic plane, and stand within strings only.
        c if is_unsafe(c) => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    Ok(text.chars().map(escape).collect())
}

/// A row with its names, in their order.
struct JsonRow<'a>(&'a [&'static str], &'a [Cell]);

impl Serialize for JsonRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, cell) in self.0.iter().zip(self.1) {
            map.serialize_entry(name, &cell.value)?;
        }
        map.end()
    }
}

/// Prints a list row by row; only a table waits for its last row.
pub(crate) struct List<W: Write> {
    columns: &'static [&'static str],
    form: Form<W>,
}

enum Form<W: Write> {
    Table(Box<Table>, W),
    Json { begun: bool, out: W },
    Csv(Box<csv::Writer<W>>),
    Tsv(W),
}

impl<W: Write> List<W> {
    /// A list with these columns; JSON names them as they are, people read blanks for `_`.
    pub(crate) fn new(
        output: Output,
        columns: &'static [&'static str],
        out: W,
    ) -> io::Result<Self> {
        let form = match output {
            Output::Table => {
                let mut table = plain_table();
                table.set_header(columns.iter().map(|name| name.replace('_', " ")));
                Form::Table(Box::new(table), out)
            }
            Output::Json => Form::Json { begun: false, out },
            Output::Csv => {
                let mut writer = csv::Writer::from_writer(out);
                writer.write_record(columns)?;
                Form::Csv(Box::new(writer))
            }
            Output::Tsv => Form::Tsv(out),
        };
        Ok(Self { columns, form })
    }

    /// Adds a row of as many cells as there are columns.
    pub(crate) fn row(&mut self, cells: &[Cell]) -> io::Result<()> {
        match &mut self.form {
            Form::Table(table, _) => {
                table.add_row(cells.iter().map(Cell::in_table));
                Ok(())
            }
            Form::Json { begun, out } => {
                let before = if *begun { ",\n " } else { "[\n " };
                *begun = true;
                write!(out, "{before}{}", json_text(&JsonRow(self.columns, cells))?)
            }
            Form::Csv(writer) => {
                writer.write_record(cells.iter().map(|cell| printable(&cell.plain())))?;
                Ok(())
            }
            Form::Tsv(out) => writeln!(out, "{}", tsv_line(cells)),
        }
    }

    /// Ends the list.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self.form {
            Form::Table(table, mut out) => {
                if table.is_empty() {
                    writeln!(out, "none")?;
                } else {
                    writeln!(out, "{}", table.trim_fmt())?;
                }
                out.flush()
            }
            Form::Json { begun, mut out } => {
                out.write_all(if begun { b"\n]\n" } else { b"[]\n" })?;
                out.flush()
            }
            Form::Csv(mut writer) => writer.flush(),
            Form::Tsv(mut out) => out.flush(),
        }
    }
}

/// One row on a line of its own, at once: for lists that do not end.
pub(crate) fn live_row(
    output: Output,
    columns: &'static [&'static str],
    cells: &[Cell],
    out: &mut impl Write,
) -> io::Result<()> {
    match output {
        Output::Table => {
            let shown: Vec<_> = cells.iter().map(Cell::shown).collect();
            writeln!(out, "{}", shown.join("  "))?;
        }
        Output::Json => writeln!(out, "{}", json_text(&JsonRow(columns, cells))?)?,
        Output::Csv => {
            let mut writer = csv::Writer::from_writer(&mut *out);
            writer.write_record(cells.iter().map(|cell| printable(&cell.plain())))?;
            writer.flush()?;
        }
        Output::Tsv => writeln!(out, "{}", tsv_line(cells))?,
    }
    out.flush()
}

/// One record: an object in JSON, a header and a row in CSV, names and values otherwise.
pub(crate) fn record(
    output: Output,
    columns: &'static [&'static str],
    cells: &[Cell],
    out: &mut impl Write,
) -> io::Result<()> {
    match output {
        Output::Table => {
            let mut table = plain_table();
            for (name, cell) in columns.iter().zip(cells) {
                table.add_row([
                    comfy_table::Cell::new(name.replace('_', " ")),
                    cell.in_table(),
                ]);
            }
            writeln!(out, "{}", table.trim_fmt())?;
        }
        Output::Json => writeln!(out, "{}", json_text(&JsonRow(columns, cells))?)?,
        Output::Csv => {
            let mut list = List::new(output, columns, &mut *out)?;
            list.row(cells)?;
            list.finish()?;
        }
        Output::Tsv => {
            for (name, cell) in columns.iter().zip(cells) {
                writeln!(out, "{name}\t{}", tsv_escaped(&cell.plain()))?;
            }
        }
    }
    out.flush()
}

fn tsv_line(cells: &[Cell]) -> String {
    let fields: Vec<_> = cells
        .iter()
        .map(|cell| tsv_escaped(&cell.plain()))
        .collect();
    fields.join("\t")
}

/// Colours are for terminals, and not for those who do not want them (<https://no-color.org>).
fn has_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !unwanted
}

/// As wide as the terminal, or as it needs to be where there is none.
fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.force_no_tty();
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[&str] = &["name", "chance", "seen_at"];

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec![
                Cell::new("a\tb\n\u{1b}[31m\\"),
                Cell::in_words(0.5, "1 in 2"),
                Cell::time(Some(Timestamp::from_seconds(0))),
            ],
            vec![Cell::new("x, \"y\""), Cell::new(7), Cell::time(None)],
        ]
    }

    fn listed(output: Output, rows: &[Vec<Cell>]) -> String {
        let mut out = Vec::new();
        let mut list = List::new(output, COLUMNS, &mut out).expect("made");
        for row in rows {
            list.row(row).expect("written");
        }
        list.finish().expect("written");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn tsv_has_one_line_a_row_whatever_the_values_hold() {
        assert_eq!(
            listed(Output::Tsv, &rows()),
            "a\\tb\\n\\u{1b}[31m\\\\\t0.5\t1970-01-01T00:00:00Z\nx, \"y\"\t7\t\n"
        );
    }

    #[test]
    fn json_lists_are_one_array_in_the_order_of_the_columns() {
        let text = listed(Output::Json, &rows());
        let read: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read[0]["name"], "a\tb\n\u{1b}[31m\\");
        assert_eq!(read[0]["chance"], 0.5);
        assert_eq!(read[1]["seen_at"], Value::Null);
        assert!(text.find("chance") < text.find("seen_at"));
        assert_eq!(listed(Output::Json, &[]), "[]\n");
    }

    #[test]
    fn json_escapes_what_acts_on_a_terminal_and_keeps_the_value() {
        let hostile = "a\u{9b}31m\u{7f}\u{202e}b";
        let text = json_text(&hostile).expect("JSON");
        assert!(!text.contains(is_unsafe), "{text}");
        assert_eq!(
            serde_json::from_str::<String>(&text).expect("JSON"),
            hostile
        );
    }

    #[test]
    fn csv_has_a_header_and_quotes() {
        let text = listed(Output::Csv, &rows());
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().expect("header"), COLUMNS);
        let records: Vec<_> = reader.records().map(|r| r.expect("a record")).collect();
        assert_eq!(&records[1][0], "x, \"y\"");
        assert!(!records[0][0].contains(char::is_control));
    }

    #[test]
    fn tables_show_words_and_no_control_characters() {
        let text = listed(Output::Table, &rows());
        assert!(text.contains("1 in 2") && text.contains("seen at"));
        assert!(!text.replace('\n', "").contains(is_unsafe), "{text}");
        assert_eq!(listed(Output::Table, &[]), "none\n");
    }

    #[test]
    fn records_are_objects_or_names_with_values() {
        let printed = |output| {
            let mut out = Vec::new();
            record(output, COLUMNS, &rows()[1], &mut out).expect("written");
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(
            printed(Output::Json),
            "{\"name\":\"x, \\\"y\\\"\",\"chance\":7,\"seen_at\":null}\n"
        );
        assert_eq!(
            printed(Output::Tsv),
            "name\tx, \"y\"\nchance\t7\nseen_at\t\n"
        );
        assert!(printed(Output::Csv).starts_with("name,chance,seen_at\n"));
        assert!(printed(Output::Table).contains("seen at"));
    }

    #[test]
    fn a_list_without_end_prints_each_row_at_once() {
        let mut out = Vec::new();
        for row in rows() {
            live_row(Output::Json, COLUMNS, &row, &mut out).expect("written");
        }
        let lines: Vec<&[u8]> = out.trim_ascii_end().split(|&b| b == b'\n').collect();
        assert_eq!(lines.len(), 2);
        for line in lines {
            serde_json::from_slice::<Value>(line).expect("JSON");
        }
    }
}
