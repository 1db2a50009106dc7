//! Forms as files: TOML or JSON, read strictly.

mod answer;
mod blank;
mod fields;
mod request;

use std::io::Read as _;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::cli::fault::{Fault, Result};

pub(super) use answer::AnswerForm;
pub(super) use blank::{blank_answer, blank_request};
pub(super) use fields::{Date, FormCode, Given};
pub(super) use request::RequestForm;

/// Most bytes of a form: all of its texts at their longest are fewer.
const MAX_FORM: u64 = 4 * 1024 * 1024;

/// How a form is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Syntax {
    Toml,
    Json,
}

impl Syntax {
    /// By the file's name; where that says nothing, by its first character.
    fn of(file: &Path, text: &str) -> Self {
        let extension = file.extension().and_then(|e| e.to_str()).unwrap_or("");
        match extension.to_ascii_lowercase().as_str() {
            "json" => Self::Json,
            "toml" => Self::Toml,
            _ if text.trim_start().starts_with('{') => Self::Json,
            _ => Self::Toml,
        }
    }
}

/// Reads a form from a file; `-` is standard input.
///
/// # Errors
/// What is wrong with it, and in which line: a key that no form has, a code that does not exist.
pub(super) fn read<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let text = read_text(file, MAX_FORM)?;
    let name = if is_stdin(file) {
        "the form".to_owned()
    } else {
        file.display().to_string()
    };
    parse(&text, Syntax::of(file, &text)).map_err(|problem| {
        Fault::with_hint(
            format!("{name}, {problem}"),
            "`sotto-node followup new --blank BASIS` and `sotto-node followup answer ID --blank` \
             print forms with all that can stand there",
        )
    })
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// Reads a text of at most so many bytes; `-` is standard input.
pub(super) fn read_text(file: &Path, most: u64) -> Result<String> {
    let name = file.display();
    let mut text = String::new();
    let read = if is_stdin(file) {
        std::io::stdin().take(most + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(file)
            .map_err(|error| Fault::new(format!("cannot read {name}: {error}")))?;
        file.take(most + 1).read_to_string(&mut text)
    };
    read.map_err(|error| Fault::new(format!("cannot read {name} as UTF-8: {error}")))?;
    if text.len() as u64 > most {
        return Err(Fault::new(format!(
            "{name} is too long: at most {most} bytes"
        )));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(text.replace("\r\n", "\n"))
}

/// The form, or `line N: what is wrong`.
fn parse<T: DeserializeOwned>(text: &str, syntax: Syntax) -> Result<T, String> {
    match syntax {
        Syntax::Toml => toml::from_str(text).map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            // A span is of whole characters.
            let line = text.get(..start).unwrap_or(text).matches('\n').count() + 1;
            let message = error.message().replace('\n', " ");
            format!("line {line}: {message}")
        }),
        Syntax::Json => serde_json::from_str(text).map_err(|error| {
            let message = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            let message = message.strip_suffix(&place).unwrap_or(&message);
            format!("line {}: {message}", error.line())
        }),
    }
}

/// A text as a form has it: without the blanks and line breaks around it.
fn tidy(text: &str) -> String {
    text.trim().replace("\r\n", "\n")
}

/// That fields are missing: all of them at once.
fn incomplete(what: &str, missing: &[String], how: &str) -> Fault {
    let fields = missing.join(", ");
    Fault::with_hint(
        format!("{what} is not complete; missing: {fields}"),
        format!("fill in what is named; {how}"),
    )
}

#[cfg(test)]
mod tests;
