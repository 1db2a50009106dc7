//! `iban/1`: international bank account numbers.

use super::{Form, Rejection, strip_prefix_any_case, without_blanks_and};

pub(super) const FORM: Form = Form {
    takes_region: false,
    refang: false,
    canonical,
    // selectors.md names no stop rule.
    is_too_common: |_| false,
    canaries: &["gb82 west 1234 5698 7654 32"],
};

fn canonical(input: &str, _region: Option<&str>) -> Result<String, Rejection> {
    let bare = strip_prefix_any_case(input, "IBAN:")
        .or_else(|| strip_prefix_any_case(input, "IBAN"))
        .unwrap_or(input);
    let iban = without_blanks_and(bare, &['-']).to_ascii_uppercase();
    if !has_form(iban.as_bytes()) {
        return Err(Rejection::Malformed);
    }
    // 00, 01 and 99 fit some numbers mod 97, but ISO 13616 never makes them.
    let check_digits = &iban[2..4];
    if matches!(check_digits, "00" | "01" | "99") || mod_97(&iban) != 1 {
        return Err(Rejection::BadChecksum);
    }
    Ok(iban)
}

/// `[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}`: no table of countries, it would change.
fn has_form(iban: &[u8]) -> bool {
    (15..=34).contains(&iban.len())
        && iban[..2].iter().all(u8::is_ascii_uppercase)
        && iban[2..4].iter().all(u8::is_ascii_digit)
        && iban[4..]
            .iter()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

/// ISO 7064 mod 97-10 of the rearranged number, letters as 10 to 35.
fn mod_97(iban: &str) -> u32 {
    let (head, account) = iban.split_at(4);
    account
        .chars()
        .chain(head.chars())
        .filter_map(|c| c.to_digit(36))
        .fold(0, |sum, value| {
            let shift = if value < 10 { 10 } else { 100 };
            (sum * shift + value) % 97
        })
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, tests::check};

    #[test]
    fn spellings_of_one_iban_agree() {
        check(
            Policy::Iban,
            &[
                ("iban:nl91abna0417164300", "NL91ABNA0417164300"),
                ("IbanNL91ABNA0417164300", "NL91ABNA0417164300"),
                ("NL91-ABNA-0417\u{a0}1643\u{2009}00", "NL91ABNA0417164300"),
                ("N L91ABNA0417164300", "NL91ABNA0417164300"),
            ],
        );
    }

    #[test]
    fn refuses_other_forms() {
        for bad in [
            "XX00",
            "IBAN",
            "IBAN:",
            "IBAN : NL91ABNA0417164300",
            "NL9AABNA0417164300",
            "N191ABNA0417164300",
            "NL91ABNA0417164300.",
            "NL91ABNA04171643００",
            "NL91ABNA\u{200b}0417164300",
            "NL91ABNA–0417164300",
            "NO938601111794",
        ] {
            check(Policy::Iban, &[(bad, "!malformed")]);
        }
        let long = format!("NL91{}", "0".repeat(31));
        check(Policy::Iban, &[(&long, "!malformed")]);
        check(Policy::Iban, &[(&long[..34], "!bad_checksum")]);
    }

    #[test]
    fn checks_the_digits_and_their_range() {
        check(
            Policy::Iban,
            &[
                ("NO9386011117947", "NO9386011117947"),
                ("NL92ABNA0417164300", "!bad_checksum"),
                // 82 + 97 wraps to nothing; 00, 01 and 99 never occur.
                ("GB00WEST12345698765432", "!bad_checksum"),
                ("GB01WEST12345698765432", "!bad_checksum"),
                ("GB99WEST12345698765432", "!bad_checksum"),
            ],
        );
    }

    #[test]
    fn numbers_congruent_to_a_check_digit_out_of_range_are_refused() {
        // For each of 00, 01 and 99 there is an account that fits mod 97 = 1.
        for digits in ["00", "01", "99"] {
            let fitting = (0..97)
                .map(|n| format!("NL{digits}ABNA{n:010}"))
                .find(|iban| super::mod_97(iban) == 1)
                .expect("97 consecutive accounts reach every remainder");
            check(Policy::Iban, &[(&fitting, "!bad_checksum")]);
        }
    }
}
