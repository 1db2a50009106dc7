//! A row of a database as a row of an import.

use std::time::Duration;

use sotto_common::selector::Rejection;
use sotto_common::time::Timestamp;
use sotto_proto::convert::to_timestamp;
use sotto_proto::v1;

use super::statement::{COLUMNS, EXPIRES, RECORD, REGION, VALUE, WATERMARK, WATERMARK_TYPE};
use crate::app::import::check_record_id;

/// What a database gave: texts, not checked yet. It is not printed.
pub(super) struct RawRow(pub(super) [Option<Vec<u8>>; COLUMNS]);

impl RawRow {
    /// The watermark and its type; `None` if the row has none.
    pub(super) fn watermark(&mut self) -> Option<(String, String)> {
        let text = self.0[WATERMARK].take()?;
        let type_name = self.0[WATERMARK_TYPE].take()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Some((text, String::from_utf8_lossy(&type_name).into_owned()))
    }

    /// The row, as far as it can be one of an import.
    pub(super) fn checked(mut self, line: u64) -> Result<v1::ImportRow, Rejection> {
        let mut text = |column: usize| {
            let bytes = self.0[column].take().unwrap_or_default();
            String::from_utf8(bytes).map_err(|_| Rejection::Malformed)
        };
        let (value, record_id, region) = (text(VALUE)?, text(RECORD)?, text(REGION)?);
        let expires = text(EXPIRES)?;
        if check_record_id(&record_id).is_err() {
            return Err(if record_id.contains(char::is_control) {
                Rejection::Malformed
            } else {
                Rejection::TooLong
            });
        }
        let expires_at = match expires.trim() {
            "" | "infinity" => None,
            at => Some(instant(at).ok_or(Rejection::Malformed)?),
        };
        Ok(v1::ImportRow {
            line,
            value,
            record_id,
            region: region.trim().to_ascii_uppercase(),
            expires_at: expires_at.map(to_timestamp),
        })
    }
}

/// An instant as databases write it: seconds since 1970, or a date with or without a time; UTC, if
/// it does not say its offset.
fn instant(text: &str) -> Option<Timestamp> {
    if text == "-infinity" {
        return Some(Timestamp::from_seconds(0));
    }
    if let Ok(seconds) = text.parse() {
        return Some(Timestamp::from_seconds(seconds));
    }
    let (date, time) = match text.split_at_checked("2027-01-31".len())? {
        (date, "") => (date, "00:00:00"),
        (date, time) => (date, time.strip_prefix([' ', 'T'])?),
    };
    let offset = time.find(['+', '-', 'Z', 'z']).unwrap_or(time.len());
    let (time, offset) = time.split_at(offset);
    let offset = match (offset.len(), offset) {
        (0, _) => "Z".to_owned(),
        // PostgreSQL leaves minutes out that are none.
        (3, _) => format!("{offset}:00"),
        _ => offset.to_owned(),
    };
    // The last midnight of a day is the first of the next.
    let (time, more) = match time {
        "24:00:00" => ("00:00:00", Duration::from_hours(24)),
        time => (time, Duration::ZERO),
    };
    let at = Timestamp::parse_rfc3339(&format!("{date}T{time}{offset}"))?;
    Some(at.plus(more))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: [&[u8]; 4]) -> RawRow {
        let mut row = RawRow(Default::default());
        for (place, cell) in cells.into_iter().enumerate() {
            row.0[place] = Some(cell.to_vec());
        }
        row
    }

    #[test]
    fn instants_are_read_as_databases_write_them() {
        for (text, seconds) in [
            ("86400", 86_400),
            ("1970-01-02", 86_400),
            ("1970-01-02 00:00:00", 86_400),
            ("1970-01-01 02:00:00+01", 3_600),
            ("1970-01-01T02:00:00.25+01:00", 3_600),
            ("1970-01-01T01:00:00Z", 3_600),
            ("1970-01-01 24:00:00", 86_400),
            ("-infinity", 0),
        ] {
            let at = instant(text).map(Timestamp::seconds);
            assert_eq!(at, Some(seconds), "{text}");
        }
        for bad in [
            "x",
            "tomorrow morning",
            "1970-13-01",
            "1970-01-02x",
            "é970-01-02",
        ] {
            assert_eq!(instant(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_a_row_is_rejected_and_not_the_whole_run() {
        let good = row([b"06 1", b"r", b"nl ", b"1970-01-02"]).checked(3);
        let good = good.expect("a row");
        assert_eq!(
            (good.line, &*good.value, &*good.record_id),
            (3, "06 1", "r")
        );
        assert_eq!(good.region, "NL");
        assert_eq!(good.expires_at.map(|at| at.seconds), Some(86_400));
        let empty = RawRow(Default::default()).checked(1).expect("a row");
        assert_eq!((&*empty.value, empty.expires_at), ("", None));
        let long = "x".repeat(129);
        for (bad, expected) in [
            (row([b"\xff", b"", b"", b""]), Rejection::Malformed),
            (row([b"1", long.as_bytes(), b"", b""]), Rejection::TooLong),
            (row([b"1", b"a\nb", b"", b""]), Rejection::Malformed),
            (row([b"1", b"", b"", b"soon"]), Rejection::Malformed),
        ] {
            assert_eq!(bad.checked(1).expect_err("rejected"), expected);
        }
    }
}
