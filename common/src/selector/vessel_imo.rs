//! `vessel_imo/1`: IMO ship identification numbers.

use super::{Form, Rejection, strip_prefix_any_case, without_blanks_and};

pub(super) const FORM: Form = Form {
    takes_region: false,
    refang: false,
    canonical,
    is_too_common: |canonical| canonical == "0000000",
    canaries: &["IMO 0000000"],
};

/// Digits, the check digit included.
const LEN: usize = 7;

fn canonical(input: &str, _region: Option<&str>) -> Result<String, Rejection> {
    let bare = strip_prefix_any_case(input, "IMO").unwrap_or(input);
    let number = without_blanks_and(bare, &[':', '-']);
    if number.len() != LEN || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Rejection::Malformed);
    }
    let (counted, check_digit) = number.split_at(LEN - 1);
    let digit = |b: u8| u32::from(b - b'0');
    // Weights 7 to 2 from the left; the last digit of the sum is the check digit.
    let sum: u32 = counted
        .bytes()
        .map(digit)
        .zip((2..=7).rev())
        .map(|(d, w)| d * w)
        .sum();
    if check_digit.bytes().map(digit).eq([sum % 10]) {
        Ok(number)
    } else {
        Err(Rejection::BadChecksum)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, tests::check};

    #[test]
    fn prefix_blanks_and_separators_do_not_matter() {
        check(
            Policy::VesselImo,
            &[
                ("IMO9074729", "9074729"),
                ("imo: 907-4729", "9074729"),
                ("Imo -\u{a0}9074729", "9074729"),
                (":9074729-", "9074729"),
            ],
        );
    }

    #[test]
    fn checks_the_last_digit() {
        for last in '0'..='8' {
            check(
                Policy::VesselImo,
                &[(&format!("907472{last}"), "!bad_checksum")],
            );
        }
    }

    #[test]
    fn refuses_other_forms() {
        for bad in [
            "IMO",
            "907472",
            "90747290",
            "IMO IMO9074729",
            "IMO.9074729",
            "907472９",
            "IMO No 9074729",
        ] {
            check(Policy::VesselImo, &[(bad, "!malformed")]);
        }
    }
}
