//! `normalise`: the normal form of each line, as a filter (selectors.md "Two steps").

use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;

use clap::Args;
use sotto_common::secret::Selector;
use sotto_common::selector::{Policy, Rejection, StopList, canonical};

use super::args;
use super::fault::{Fault, Result};
use super::lines::{Line, Lines};

/// What to make of the lines.
#[derive(Args, Debug)]
pub(crate) struct NormaliseArgs {
    /// The selector type, e.g. phone or phone/1
    #[arg(long = "type", value_name = "TYPE", value_parser = args::policy)]
    policy: Policy,
    /// Country for national spellings and numbers, e.g. NL
    #[arg(long)]
    region: Option<String>,
    /// Apply the stop-list as well, as import, publish and probe do: the built-in one, and FILE
    /// if given
    #[arg(long, value_name = "FILE")]
    #[expect(
        clippy::option_option,
        reason = "clap's form of an option whose value may be left out"
    )]
    stop_list: Option<Option<PathBuf>>,
}

/// A line may be this long before white space is dropped from its ends; what is longer is
/// `too_long` unread, so that memory stays bounded.
const MAX_LINE: usize = 64 * 1024;

/// Filters standard input to standard output.
pub(crate) fn run(args: &NormaliseArgs) -> Result<()> {
    let stop_list = match &args.stop_list {
        None => None,
        Some(file) => Some(stop_list(file.as_ref())?),
    };
    let step = |line: &str| {
        let value = canonical(args.policy, line, args.region.as_deref())?;
        match &stop_list {
            Some(stop_list) => stop_list.admit(args.policy, &value).map(|()| value),
            None => Ok(value),
        }
    };
    filter(io::stdin().lock(), io::stdout().lock(), step)
}

fn stop_list(file: Option<&PathBuf>) -> Result<StopList> {
    let Some(path) = file else {
        return Ok(StopList::default());
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Fault::new(format!("cannot read {}: {error}", path.display())))?;
    StopList::parse(&text).map_err(|error| Fault::new(format!("{}: {error}", path.display())))
}

/// Exactly one line out for each line in: the canonical form, or `!` and the rejection.
fn filter(
    input: impl Read,
    output: impl Write,
    step: impl Fn(&str) -> Result<Selector, Rejection>,
) -> Result<()> {
    let mut lines = Lines::new(input, MAX_LINE);
    let mut output = BufWriter::new(output);
    loop {
        let next = lines
            .next()
            .map_err(|error| Fault::new(format!("cannot read the input: {error}")))?;
        let Some((_, line)) = next else { break };
        let outcome = match line {
            Line::Whole(bytes) => std::str::from_utf8(bytes)
                .map_err(|_| Rejection::Malformed)
                .and_then(&step),
            Line::TooLong => Err(Rejection::TooLong),
        };
        match outcome {
            Ok(value) => writeln!(output, "{}", value.expose())?,
            Err(rejection) => writeln!(output, "!{rejection}")?,
        }
        // Whoever writes line by line and waits for the answer gets it.
        if lines.is_drained() {
            output.flush()?;
        }
    }
    Ok(output.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(input: &[u8]) -> String {
        let mut out = Vec::new();
        let upper = |line: &str| match line {
            "" => Err(Rejection::Empty),
            line => Ok(Selector::new(line.to_uppercase())),
        };
        filter(input, &mut out, upper).expect("filtered");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn there_is_one_line_out_for_each_line_in() {
        assert_eq!(filtered(b"a\r\n\nb\xff\nc"), "A\n!empty\n!malformed\nC\n");
        assert_eq!(filtered(b""), "");
    }

    #[test]
    fn a_line_without_end_is_too_long_and_the_next_one_is_read() {
        let mut input = vec![b'x'; MAX_LINE + 1];
        input.extend(b"\na\n");
        assert_eq!(filtered(&input), "!too_long\nA\n");
    }

    #[test]
    fn every_line_is_answered_before_the_next_is_waited_for() {
        struct OneByOne<'a>(&'a std::cell::RefCell<Vec<u8>>, Vec<&'static str>);
        impl Read for OneByOne<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let Some(line) = self.1.pop() else {
                    return Ok(0);
                };
                let asked = 2 - self.1.len();
                let lines = self.0.borrow().split(|&b| b == b'\n').count() - 1;
                assert_eq!(lines, asked - 1);
                buffer[..line.len()].copy_from_slice(line.as_bytes());
                Ok(line.len())
            }
        }
        struct Shared<'a>(&'a std::cell::RefCell<Vec<u8>>);
        impl Write for Shared<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.borrow_mut().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let out = std::cell::RefCell::new(Vec::new());
        let input = OneByOne(&out, vec!["b\n", "a\n"]);
        filter(input, Shared(&out), |line| Ok(Selector::new(line))).expect("filtered");
        assert_eq!(out.borrow().as_slice(), b"a\nb\n");
    }

    #[test]
    fn a_reader_that_has_enough_ends_the_filter_quietly() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let ended = filter(&b"a\n"[..], Closed, |line| Ok(Selector::new(line)));
        assert!(matches!(ended, Err(Fault::OutputClosed)));
    }
}
