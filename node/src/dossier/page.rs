//! A page of HTML, piece by piece: all text goes through [`escaped`].

use std::fmt::Write as _;

/// What the page looks like, on paper above all. Nothing is fetched.
const STYLE: &str = "\
@page { size: A4; margin: 18mm 16mm 20mm 18mm; }
html { font: 10.5pt/1.4 'Liberation Sans', Arial, sans-serif; color: #111; background: #fff; }
body { max-width: 178mm; margin: 0 auto; padding: 4mm; }
h1 { font-size: 17pt; margin: 0 0 4mm; }
h2 { font-size: 13pt; margin: 8mm 0 2mm; border-bottom: 1px solid #888; break-after: avoid; }
h3 { font-size: 11pt; margin: 6mm 0 1mm; break-after: avoid; }
h4 { font-size: 10.5pt; margin: 4mm 0 1mm; break-after: avoid; }
dl { display: grid; grid-template-columns: 48mm minmax(0, 1fr); gap: 0.6mm 4mm; margin: 0; }
dt { color: #444; } dd { margin: 0; }
dd, p, h1, h2, h3, h4 { overflow-wrap: anywhere; unicode-bidi: isolate; }
td, th { overflow-wrap: break-word; unicode-bidi: isolate; }
.text { white-space: pre-wrap; border-inline-start: 2px solid #bbb; padding-inline-start: 3mm; \
margin: 1mm 0 2mm; overflow-wrap: anywhere; unicode-bidi: isolate; }
.small { font-size: 8pt; color: #444; font-family: 'Liberation Mono', monospace; }
.notice { border: 1.5px solid #111; padding: 2mm 3mm; margin: 0 0 4mm; font-weight: bold; }
table { border-collapse: collapse; width: 100%; margin: 1mm 0 2mm; }
th, td { border: 1px solid #aaa; padding: 1mm 2mm; text-align: start; vertical-align: top; }
section { break-inside: auto; } tr, .notice { break-inside: avoid; }
code { font-size: 8.5pt; color: #333; }
";

/// A page that is being written.
pub(super) struct Page(String);

impl Page {
    /// A page with this title.
    pub(super) fn begin(title: &str) -> Self {
        let title = escaped(title);
        Self(format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src \
             'unsafe-inline'\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        ))
    }

    /// The whole page.
    pub(super) fn end(mut self) -> String {
        self.0.push_str("</body>\n</html>\n");
        self.0
    }

    /// A heading; level 1 to 4.
    pub(super) fn heading(&mut self, level: u8, text: &str) {
        self.element(&format!("h{level}"), "", text);
    }

    /// One paragraph.
    pub(super) fn paragraph(&mut self, text: &str) {
        self.element("p", "", text);
    }

    /// Something that must be seen.
    pub(super) fn warning(&mut self, text: &str) {
        self.element("p", " class=\"notice\"", text);
    }

    /// Something for those who check.
    pub(super) fn small(&mut self, text: &str) {
        self.element("p", " class=\"small\"", text);
    }

    /// What a person has written, with its line breaks, in the direction of its script.
    pub(super) fn text(&mut self, text: &str) {
        self.element("div", " class=\"text\" dir=\"auto\"", text);
    }

    /// Begins a section.
    pub(super) fn begin_section(&mut self) {
        self.0.push_str("<section>\n");
    }

    /// Ends it.
    pub(super) fn end_section(&mut self) {
        self.0.push_str("</section>\n");
    }

    /// Begins a list of names and values.
    pub(super) fn begin_fields(&mut self) {
        self.0.push_str("<dl>\n");
    }

    /// Ends it.
    pub(super) fn end_fields(&mut self) {
        self.0.push_str("</dl>\n");
    }

    /// A name and its value; nothing if the value is empty.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        let (name, value) = (escaped(name), escaped(value));
        let _ = writeln!(self.0, "<dt>{name}</dt><dd dir=\"auto\">{value}</dd>");
    }

    /// A name and a code, in words and as it is.
    pub(super) fn coded(&mut self, name: &str, code: &str) {
        let (name, words, code) = (escaped(name), escaped(&words(code)), escaped(code));
        let _ = writeln!(
            self.0,
            "<dt>{name}</dt><dd>{words} <code>{code}</code></dd>"
        );
    }

    /// Begins a table with these columns.
    pub(super) fn begin_table(&mut self, columns: &[&str]) {
        self.0.push_str("<table>\n<tr>");
        for column in columns {
            let _ = write!(self.0, "<th>{}</th>", escaped(column));
        }
        self.0.push_str("</tr>\n");
    }

    /// A row.
    pub(super) fn row(&mut self, cells: &[&str]) {
        self.0.push_str("<tr>");
        for cell in cells {
            let cell = escaped(cell);
            let _ = write!(self.0, "<td dir=\"auto\">{cell}</td>");
        }
        self.0.push_str("</tr>\n");
    }

    /// Ends a table.
    pub(super) fn end_table(&mut self) {
        self.0.push_str("</table>\n");
    }

    fn element(&mut self, tag: &str, attributes: &str, text: &str) {
        let text = escaped(text);
        let _ = writeln!(self.0, "<{tag}{attributes}>{text}</{tag}>");
    }
}

/// Text that is text wherever it stands: within an element or an attribute in quotes. Control
/// characters, and those that turn the direction of writing around, are replaced.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => safe.push('\u{fffd}'),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// A code without the prefix of its enum.
pub(super) fn code(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// A code in words: `NOT_AVAILABLE` is "not available".
pub(super) fn words(code: &str) -> String {
    code.to_lowercase().replace('_', " ")
}

/// An id as people write it.
pub(super) fn uuid(bytes: &[u8]) -> String {
    uuid::Uuid::from_slice(bytes).map_or_else(|_| hex::encode(bytes), |id| id.to_string())
}
