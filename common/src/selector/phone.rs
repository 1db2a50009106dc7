//! `phone/1`: telephone numbers, read by libphonenumber, written as E.164.

use rlibphonenumber::{PHONE_NUMBER_UTIL, ParseError, PhoneNumberFormat, Region};

use super::{Form, Rejection, strip_prefix_any_case};

pub(super) const FORM: Form = Form {
    takes_region: true,
    refang: false,
    canonical,
    is_too_common: |canonical| canonical.bytes().filter(u8::is_ascii_digit).count() < MIN_DIGITS,
    canaries: &["+1 (201) 555-0123", "tel:+44-20-7946-0958"],
};

/// Fewer digits, country code included, are service numbers that everybody dials.
const MIN_DIGITS: usize = 7;

/// libphonenumber refuses longer texts; its Rust port forgot to.
const MAX_CHARS: usize = 250;

/// The hint that libphonenumber gives non-geographical numbers; selectors.md: no hint.
const NO_REGION: &str = "001";

const PHONE_CONTEXT: &str = ";phone-context=";

fn canonical(input: &str, region: Option<&str>) -> Result<String, Rejection> {
    let text = strip_prefix_any_case(input, "tel:").map_or(input, str::trim_start);
    let region = region
        .filter(|hint| !hint.is_empty() && *hint != NO_REGION)
        .map(|hint| known_region(hint).ok_or(Rejection::Malformed))
        .transpose()?;
    let suffix = Suffix::of(text)?;
    if text.chars().count() > MAX_CHARS {
        return Err(Rejection::Malformed);
    }
    let number = PHONE_NUMBER_UTIL
        .parse(text, region)
        .map_err(|error| match error {
            // The `+` says that a country code is there, only a wrong one.
            ParseError::InvalidCountryCode if region.is_none() && !text.starts_with('+') => {
                Rejection::NeedsRegion
            }
            _ => Rejection::Malformed,
        })?;
    // Unless it reads an extension, libphonenumber takes the letters of `ext` for the vanity
    // digits 398, but selectors.md has no vanity numbers.
    if suffix == Suffix::Ext && number.extension.is_none() {
        return Err(Rejection::Malformed);
    }
    Ok(PHONE_NUMBER_UTIL
        .format(&number, PhoneNumberFormat::E164)
        .into_owned())
}

/// A region that libphonenumber has numbers for.
fn known_region(hint: &str) -> Option<Region> {
    Region::from_code(&hint.to_ascii_uppercase())
        .ok()
        .filter(|&region| {
            PHONE_NUMBER_UTIL
                .get_country_code_for_region(region)
                .is_some()
        })
}

/// What may follow the number itself; the first of these marks in a text decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Suffix {
    /// None of the marks.
    None,
    /// `;ext=` or `ext`.
    Ext,
    /// `x` alone.
    X,
    /// `;phone-context=`, to which libphonenumber has rules of its own.
    PhoneContext,
}

impl Suffix {
    /// Finds the suffix and checks the letters: vanity numbers and other texts are malformed.
    fn of(text: &str) -> Result<Self, Rejection> {
        let mark = text
            .char_indices()
            .find_map(|(at, _)| Self::starting(&text[at..]).map(|found| (at, found)));
        let (head, suffix, tail) = match mark {
            Some((at, (suffix, len))) => (&text[..at], suffix, &text[at + len..]),
            None => (text, Self::None, ""),
        };
        let tail_fits = match suffix {
            Self::None => true,
            Self::Ext | Self::X => tail
                .chars()
                .all(|c| c.is_numeric() || c.is_whitespace() || matches!(c, '.' | ':')),
            // libphonenumber would look for the number behind it, and so before its own start.
            Self::PhoneContext => !tail.contains("tel:"),
        };
        if tail_fits && !head.contains(|c: char| c.is_ascii_alphabetic()) {
            Ok(suffix)
        } else {
            Err(Rejection::Malformed)
        }
    }

    /// The mark that the text begins with, and its length.
    fn starting(text: &str) -> Option<(Self, usize)> {
        // libphonenumber knows extensions in any case, but the context in lower case only.
        let extension = [(";ext=", Self::Ext), ("ext", Self::Ext), ("x", Self::X)]
            .into_iter()
            .find(|(mark, _)| strip_prefix_any_case(text, mark).is_some());
        match extension {
            Some((mark, suffix)) => Some((suffix, mark.len())),
            None => text
                .starts_with(PHONE_CONTEXT)
                .then_some((Self::PhoneContext, PHONE_CONTEXT.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Policy, tests::outcome};

    fn check(region: Option<&str>, rows: &[(&str, &str)]) {
        for (input, expected) in rows {
            assert_eq!(
                outcome(Policy::Phone, input, region),
                *expected,
                "{input:?} {region:?}"
            );
        }
    }

    #[test]
    fn any_spelling_of_a_number_agrees() {
        check(
            Some("nl"),
            &[
                ("0612345678", "+31612345678"),
                ("(06) 12-34 56/78", "+31612345678"),
                ("00 31 6 12345678", "+31612345678"),
                ("+31 (0)6 12345678", "+31612345678"),
                ("０６１２３４５６７８", "+31612345678"),
                ("＋31 6 12345678", "+31612345678"),
                ("+٣١٦١٢٣٤٥٦٧٨", "+31612345678"),
                ("06\u{200b}12\u{a0}34\u{2060}5678", "+31612345678"),
                ("\u{202a}+31612345678\u{202c}", "+31612345678"),
                ("☎ 06–12345678.", "+31612345678"),
                ("+44 20 7946 0958", "+442079460958"),
            ],
        );
    }

    #[test]
    fn tel_uris_are_read_with_their_parameters() {
        check(
            None,
            &[
                ("TEL:+31-6-12345678", "+31612345678"),
                ("tel: +31 6 12345678", "+31612345678"),
                ("tel:+31612345678;ext=12", "+31612345678"),
                ("tel:0612345678;phone-context=+31", "+31612345678"),
                ("tel:612345678;phone-context=+31", "+31612345678"),
                ("0612345678;phone-context=+31;x=y", "+31612345678"),
                ("tel:0612345678;phone-context=example.com", "!needs_region"),
                ("tel:0612345678;phone-context=", "!malformed"),
                ("tel:0612345678;phone-context=tel:+31", "!malformed"),
                ("0612345678;phone-context=+31;tel:", "!malformed"),
                ("tel:+31612345678;isub=12", "!malformed"),
                ("tel:0612345678;ext=1;phone-context=+31", "!malformed"),
                ("tel:", "!malformed"),
                ("tel:tel:+31612345678", "!malformed"),
            ],
        );
        check(
            Some("nl"),
            &[("tel:0612345678;phone-context=example.com", "+31612345678")],
        );
    }

    #[test]
    fn extensions_are_left_out() {
        for extension in [
            "x12",
            " X 12",
            "ext12",
            " Ext. 12",
            " ext: 12",
            "ext.:12",
            ";ext=12",
            ";EXT=12",
            "x",
            " x.",
            "#12",
            ",,12",
            " x １２",
        ] {
            let expected = if extension == "ext.:12" {
                "!malformed"
            } else {
                "+31612345678"
            };
            check(None, &[(&format!("+31612345678{extension}"), expected)]);
        }
    }

    #[test]
    fn letters_never_become_digits() {
        for bad in [
            "0800 FLOWERS",
            "hello",
            "+31612345678abc",
            "+31612345678 ext",
            "+31612345678 ext 1 2",
            "+31612345678 extn 12",
            "+31612345678 extension 12",
            "+31612345678 x12#",
            "+31612345678 xx12",
            "+31612345678 x12/x13",
            "+31612345678 int 12",
            "+31612345678 anexo 12",
            "a+31612345678",
            "+31612345678;ext=12;a",
            "06-1234 5678 (home)",
        ] {
            check(Some("nl"), &[(bad, "!malformed")]);
        }
    }

    #[test]
    fn needs_region_is_for_national_spellings_only() {
        check(
            None,
            &[
                ("0612345678", "!needs_region"),
                ("tel:0612345678", "!needs_region"),
                ("0031612345678", "!needs_region"),
                ("0612345678x12", "!needs_region"),
                ("+999 123456", "!malformed"),
                ("+", "!malformed"),
                ("1", "!malformed"),
                ("-", "!malformed"),
                ("+31", "!malformed"),
            ],
        );
    }

    #[test]
    fn hints_001_and_empty_are_no_hints_and_unknown_ones_are_refused() {
        for none in [None, Some(""), Some("001")] {
            check(
                none,
                &[
                    ("0612345678", "!needs_region"),
                    ("+31612345678", "+31612345678"),
                ],
            );
        }
        for unknown in ["qq", "nld", "ZZ", " nl", "ｎｌ", "n"] {
            check(
                Some(unknown),
                &[("0612345678", "!malformed"), ("+31612345678", "!malformed")],
            );
        }
        check(Some("Nl"), &[("0612345678", "+31612345678")]);
    }

    #[test]
    fn neither_possible_nor_valid_is_asked() {
        check(
            Some("nl"),
            &[
                ("112", "+31112"),
                ("+31 1", "!malformed"),
                ("+31 123", "+31123"),
            ],
        );
        check(
            None,
            &[
                ("+39 06 1234", "+39061234"),
                ("+800 1234 5678", "+80012345678"),
            ],
        );
        check(Some("nl"), &[(&"1".repeat(18), "!malformed")]);
        check(
            None,
            &[(&format!("+31 6{}12345678", " ".repeat(250)), "!malformed")],
        );
    }

    #[test]
    fn short_numbers_are_too_common() {
        let is_too_common = super::FORM.is_too_common;
        assert!(is_too_common("+31112"));
        assert!(is_too_common("+311234"));
        assert!(!is_too_common("+3112345"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn never_panics_on_what_libphonenumber_looks_for(
            input in "(tel:|;phone-context=|;ext=|;isub=|ext|x|\\+|[0-9]{1,4}| |-|/|~|,|;|#|\\*|a|０|é){0,14}",
            region in proptest::option::of("nl|us|ar|br|mx|it|ru|cn"),
        ) {
            let outcome = outcome(Policy::Phone, &input, region.as_deref());
            prop_assert!(outcome.starts_with('!') || outcome.bytes().skip(1).all(|b| b.is_ascii_digit()));
        }
    }
}
