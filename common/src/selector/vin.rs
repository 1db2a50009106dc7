//! `vin/1`: vehicle identification numbers.

use super::{Form, Rejection, is_one_repeated_char, without_blanks_and};

pub(super) const FORM: Form = Form {
    takes_region: false,
    refang: false,
    canonical,
    is_too_common: is_one_repeated_char,
    canaries: &["s0tt-0000000000000"],
};

/// Characters of a VIN (ISO 3779).
const LEN: usize = 17;

fn canonical(input: &str, _region: Option<&str>) -> Result<String, Rejection> {
    let vin = without_blanks_and(input, &['-']).to_ascii_uppercase();
    // I, O and Q are left out of VINs; the check digit binds in North America only.
    let is_vin = vin.len() == LEN
        && vin
            .bytes()
            .all(|b| matches!(b, b'A'..=b'H' | b'J'..=b'N' | b'P' | b'R'..=b'Z' | b'0'..=b'9'));
    if is_vin {
        Ok(vin)
    } else {
        Err(Rejection::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, tests::check};
    use super::*;

    #[test]
    fn blanks_hyphens_and_case_do_not_matter() {
        check(
            Policy::Vin,
            &[
                ("wvw-zzz 1jz\u{3000}3w386752", "WVWZZZ1JZ3W386752"),
                ("ABCDEFGHJKLMNPRST", "ABCDEFGHJKLMNPRST"),
                ("UVWXYZ0123456789A", "UVWXYZ0123456789A"),
            ],
        );
    }

    #[test]
    fn refuses_other_lengths_and_letters() {
        for bad in [
            "WVWZZZ1JZ3W38675",
            "WVWZZZ1JZ3W3867522",
            "IVWZZZ1JZ3W386752",
            "OVWZZZ1JZ3W386752",
            "QVWZZZ1JZ3W386752",
            "ＷVWZZZ1JZ3W386752",
            "WVW.ZZZ1JZ3W386752",
        ] {
            check(Policy::Vin, &[(bad, "!malformed")]);
        }
    }

    #[test]
    fn one_repeated_character_is_too_common() {
        assert!((FORM.is_too_common)(&"0".repeat(17)));
        assert!(!(FORM.is_too_common)("WVWZZZ1JZ3W386752"));
    }
}
