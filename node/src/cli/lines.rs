//! Lines of untrusted input, with bounded memory.

use std::io::{self, BufRead, BufReader, Read};

/// The byte order mark that some programs put before UTF-8.
pub(crate) const BOM: &[u8] = b"\xef\xbb\xbf";

/// One line, without its end.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Line<'a> {
    /// Its bytes, which need not be UTF-8.
    Whole(&'a [u8]),
    /// It is longer than the limit; its bytes were passed over.
    TooLong,
}

/// Splits input at `\n` alone and drops one `\r` before it; a byte order mark at the very
/// beginning is no part of the first line.
pub(crate) struct Lines<R> {
    input: BufReader<R>,
    limit: usize,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: Read> Lines<R> {
    /// Lines of at most `limit` bytes, their end not counted.
    pub(crate) fn new(input: R, limit: usize) -> Self {
        Self {
            input: BufReader::with_capacity(64 * 1024, input),
            limit,
            buffer: Vec::new(),
            number: 0,
        }
    }

    /// The next line and its number, from 1; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, Line<'_>)>> {
        self.buffer.clear();
        // The line end, a `\r` and a byte order mark do not count.
        let bound = self.limit + BOM.len() + 2;
        let mut too_long = false;
        let mut any = false;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                break;
            }
            any = true;
            let end = chunk.iter().position(|&b| b == b'\n');
            let taken = end.map_or(chunk.len(), |at| at + 1);
            if self.buffer.len() + taken <= bound {
                self.buffer.extend_from_slice(&chunk[..taken]);
            } else {
                too_long = true;
            }
            self.input.consume(taken);
            if end.is_some() {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        self.number += 1;
        let mut line = self.buffer.as_slice();
        if self.number == 1 {
            line = line.strip_prefix(BOM).unwrap_or(line);
        }
        line = line.strip_suffix(b"\n").unwrap_or(line);
        line = line.strip_suffix(b"\r").unwrap_or(line);
        if too_long || line.len() > self.limit {
            return Ok(Some((self.number, Line::TooLong)));
        }
        Ok(Some((self.number, Line::Whole(line))))
    }

    /// Whether the next line has to be waited for.
    pub(crate) fn is_drained(&self) -> bool {
        self.input.buffer().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(input: &[u8], limit: usize) -> Vec<Option<Vec<u8>>> {
        let mut lines = Lines::new(input, limit);
        let mut all = Vec::new();
        while let Some((number, line)) = lines.next().expect("read") {
            assert_eq!(number, all.len() as u64 + 1);
            all.push(match line {
                Line::Whole(bytes) => Some(bytes.to_vec()),
                Line::TooLong => None,
            });
        }
        all
    }

    fn whole(lines: &[&str]) -> Vec<Option<Vec<u8>>> {
        lines
            .iter()
            .map(|line| Some(line.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn lines_end_at_newlines_only_and_lose_one_carriage_return() {
        assert_eq!(
            split(b"a\nb\r\n\r\r\n\nc\rd\x0b\xc2\x85e", 100),
            whole(&["a", "b", "\r", "", "c\rd\u{b}\u{85}e"])
        );
    }

    #[test]
    fn a_last_line_needs_no_end_and_an_end_makes_no_line() {
        assert_eq!(split(b"", 9), whole(&[]));
        assert_eq!(split(b"\n", 9), whole(&[""]));
        assert_eq!(split(b"a", 9), whole(&["a"]));
        assert_eq!(split(b"a\n", 9), whole(&["a"]));
    }

    #[test]
    fn a_byte_order_mark_is_dropped_at_the_beginning_only() {
        assert_eq!(
            split("\u{feff}a\n\u{feff}b\n".as_bytes(), 9),
            whole(&["a", "\u{feff}b"])
        );
    }

    #[test]
    fn a_line_over_the_limit_is_passed_over_and_not_kept() {
        let mut input = b"abcd\r\nabcde\n".to_vec();
        input.extend(std::iter::repeat_n(b'x', 300_000));
        input.extend(b"\nabcd");
        assert_eq!(
            split(&input, 4),
            [Some(b"abcd".to_vec()), None, None, Some(b"abcd".to_vec())]
        );
        let mut lines = Lines::new(input.as_slice(), 4);
        while lines.next().expect("read").is_some() {
            assert!(lines.buffer.capacity() < 1000);
        }
    }
}
