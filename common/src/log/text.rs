//! Numbers and bytes as the texts of the log write them: each in one way only.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A decimal number without sign or leading zeros, up to 2^63 − 1 (c2sp.org/tlog-checkpoint).
pub(super) fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    // A text of digits has no sign, which `parse` would take.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = (canonical && digits).then(|| text.parse::<i64>().ok())?;
    number.and_then(|number| u64::try_from(number).ok())
}

/// Base64 of RFC 4648 §4, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a text in base64: padded, and without stray bits at the end.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_form() {
        assert_eq!(decimal("0"), Some(0));
        assert_eq!(decimal("20852163"), Some(20_852_163));
        assert_eq!(decimal("9223372036854775807"), Some(u64::MAX / 2));
        for bad in [
            "",
            "00",
            "01",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1\n",
            "0x1",
            "1e3",
            "٣",
            "9223372036854775808",
            "18446744073709551616",
        ] {
            assert_eq!(decimal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn base64_has_one_form() {
        assert_eq!(from_base64("AQI="), Some(vec![1, 2]));
        for bad in ["AQI", "AQJ=", "AQI=\n", "AQ-_", "A", "AQI==", " AQI="] {
            assert_eq!(from_base64(bad), None, "{bad:?}");
        }
    }
}
