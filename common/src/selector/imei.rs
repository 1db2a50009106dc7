//! `imei/1`: mobile equipment identities.

use super::{Form, Rejection, without_blanks_and};

pub(super) const FORM: Form = Form {
    takes_region: false,
    refang: false,
    canonical,
    is_too_common: |canonical| canonical.bytes().all(|b| b == b'0'),
    canaries: &["00-000000-000000-0"],
};

/// Digits without check digit or software version: type allocation code and serial number.
const LEN: usize = 14;

fn canonical(input: &str, _region: Option<&str>) -> Result<String, Rejection> {
    let mut digits = without_blanks_and(input, &['-', '/', '.']);
    if !(LEN..=LEN + 2).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Rejection::Malformed);
    }
    // 15 digits: the last is the check digit, which networks transmit as 0 (3GPP TS 23.003).
    // 16 digits end in the software version instead.
    if digits.len() == LEN + 1 && !digits.ends_with('0') && !luhn_sum(&digits).is_multiple_of(10) {
        return Err(Rejection::BadChecksum);
    }
    digits.truncate(LEN);
    Ok(digits)
}

/// The Luhn sum of ASCII digits, check digit included.
fn luhn_sum(digits: &str) -> u32 {
    digits
        .bytes()
        .rev()
        .map(|b| u32::from(b - b'0'))
        .enumerate()
        .map(|(place, digit)| match (place % 2, digit) {
            (0, digit) => digit,
            (_, digit) => digit * 2 / 10 + digit * 2 % 10,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, tests::check};
    use super::*;

    #[test]
    fn keeps_the_first_fourteen_digits() {
        check(
            Policy::Imei,
            &[
                ("49-015420/323751.8", "49015420323751"),
                ("49 015420\u{a0}323751", "49015420323751"),
                ("4901542032375199", "49015420323751"),
                ("490154203237510", "49015420323751"),
            ],
        );
    }

    #[test]
    fn only_the_luhn_digit_or_zero_ends_fifteen() {
        for last in '0'..='9' {
            let expected = if "80".contains(last) {
                "49015420323751"
            } else {
                "!bad_checksum"
            };
            check(
                Policy::Imei,
                &[(&format!("49015420323751{last}"), expected)],
            );
        }
    }

    #[test]
    fn refuses_other_lengths_and_characters() {
        for bad in [
            "4901542032375",
            "49015420323751000",
            "49015420323751８",
            "IMEI490154203237518",
            "490154203237\u{200b}518",
            "49015420323751:8",
            "-",
        ] {
            check(Policy::Imei, &[(bad, "!malformed")]);
        }
    }

    #[test]
    fn all_zeros_are_too_common() {
        assert!((FORM.is_too_common)("00000000000000"));
        assert!(!(FORM.is_too_common)("00000000000001"));
        assert!(!(FORM.is_too_common)("11111111111111"));
    }
}
