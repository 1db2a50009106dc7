//! `passport/1`, `national_id/1`, `vehicle_plate/1`: numbers of documents with their country.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::{Form, Rejection, country, is_one_repeated_char};

pub(super) const PASSPORT: Form = Form {
    takes_region: true,
    refang: false,
    canonical: |input, region| canonical(input, region, document_number),
    is_too_common,
    canaries: &["xxa: SOTTO-0000000"],
};

pub(super) const NATIONAL_ID: Form = Form {
    canaries: &["xxb: sotto.00.00-000 00"],
    ..PASSPORT
};

pub(super) const VEHICLE_PLATE: Form = Form {
    canonical: |input, region| canonical(input, region, plate_number),
    canaries: &["xxc: S-OT 0000"],
    ..PASSPORT
};

/// Longest number of a passport or identity document, in characters.
const MAX_NUMBER_LEN: usize = 20;

/// Longest number on a plate, in characters.
const MAX_PLATE_LEN: usize = 12;

/// Cyrillic and Greek capitals that plates use for the Latin letter below them.
const LOOK_ALIKES: &str = "АВЕКМНОРСТУХІЈЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧ";
const LATIN: &str = "ABEKMHOPCTYXIJSABEZHIKMNOPTYX";

fn canonical(
    input: &str,
    region: Option<&str>,
    number: fn(&str) -> Result<String, Rejection>,
) -> Result<String, Rejection> {
    let (country, written) = match (input.split_once(':'), region) {
        (Some((country, written)), _) => (country, written),
        // An empty hint is no hint, as for `phone/1`.
        (None, Some(hint)) if !hint.trim().is_empty() => (hint, input),
        (None, _) => return Err(Rejection::NeedsRegion),
    };
    let country = country::alpha_3(country).ok_or(Rejection::Malformed)?;
    Ok(format!("{country}:{}", number(written)?))
}

fn document_number(written: &str) -> Result<String, Rejection> {
    alphanumerics(&upper(written), MAX_NUMBER_LEN)
}

fn plate_number(written: &str) -> Result<String, Rejection> {
    let latin: String = upper(written).chars().map(latin_look_alike).collect();
    alphanumerics(&latin, MAX_PLATE_LEN)
}

fn upper(written: &str) -> String {
    written.nfkc().collect::<String>().to_uppercase()
}

fn latin_look_alike(c: char) -> char {
    LOOK_ALIKES
        .chars()
        .zip(LATIN.chars())
        .find_map(|(look_alike, latin)| (look_alike == c).then_some(latin))
        .unwrap_or(c)
}

/// Drops separators; a letter or digit that is not `A-Z0-9` means another writing.
fn alphanumerics(text: &str, max: usize) -> Result<String, Rejection> {
    let mut number = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_uppercase() || c.is_ascii_digit() {
            number.push(c);
        } else if is_letter_or_digit(c) {
            return Err(Rejection::Malformed);
        }
    }
    if (1..=max).contains(&number.len()) {
        Ok(number)
    } else {
        Err(Rejection::Malformed)
    }
}

/// General categories L* and N*: Rust's `is_alphabetic` also counts some marks, and the enclosed
/// letters U+1F130..1F189, which are symbols.
fn is_letter_or_digit(c: char) -> bool {
    let is_letter =
        c.is_alphabetic() && !is_combining_mark(c) && !('\u{1f130}'..='\u{1f189}').contains(&c);
    is_letter || c.is_numeric()
}

fn is_too_common(canonical: &str) -> bool {
    canonical
        .split_once(':')
        .is_some_and(|(_, number)| is_one_repeated_char(number))
}

#[cfg(test)]
mod tests {
    use super::super::{
        Policy,
        tests::{check, outcome},
    };
    use super::*;

    #[test]
    fn the_country_stands_before_the_first_colon_or_in_the_hint() {
        check(
            Policy::Passport,
            &[
                ("NLD : AB1", "NLD:AB1"),
                ("nl:de:1", "NLD:DE1"),
                ("d<<:C01X00T47", "DEU:C01X00T47"),
                ("AB1", "!needs_region"),
                (":AB1", "!malformed"),
                ("UK:AB1", "!malformed"),
                ("ＮＬ:AB1", "!malformed"),
                ("NL：AB1", "!needs_region"),
                ("nl:", "!malformed"),
            ],
        );
        assert_eq!(outcome(Policy::Passport, "AB1", Some(" fra ")), "FRA:AB1");
        assert_eq!(outcome(Policy::Passport, "nl:AB1", Some("qq")), "NLD:AB1");
        assert_eq!(outcome(Policy::Passport, "AB1", Some("qq")), "!malformed");
        assert_eq!(outcome(Policy::Passport, "AB1", Some("")), "!needs_region");
        assert_eq!(outcome(Policy::Passport, "AB1", Some("001")), "!malformed");
    }

    #[test]
    fn numbers_keep_ascii_letters_and_digits_only() {
        check(
            Policy::NationalId,
            &[
                ("be: 85.07.30-033 28", "BEL:85073003328"),
                ("jp:ａｂ１２/３", "JPN:AB123"),
                ("xx:1", "!malformed"),
                ("nl:①②", "NLD:12"),
                ("nl:½", "NLD:12"),
                ("nl:1\u{200b}2\u{301}3", "NLD:123"),
                ("nl:1🅐2", "NLD:12"),
                ("nl:1❶2", "!malformed"),
                ("nl:1٣", "!malformed"),
                ("nl:é1", "!malformed"),
                ("nl:e\u{301}1", "!malformed"),
                ("nl:ʼ1", "!malformed"),
                ("de:straße", "DEU:STRASSE"),
                ("nl:-./", "!malformed"),
            ],
        );
    }

    #[test]
    fn lengths_end_at_twenty_and_at_twelve() {
        let of = |n: usize| {
            (
                format!("nl:{}", "1".repeat(n)),
                format!("NLD:{}", "1".repeat(n)),
            )
        };
        for (policy, max) in [(Policy::Passport, 20), (Policy::VehiclePlate, 12)] {
            let (input, expected) = of(max);
            check(policy, &[(&input, &expected)]);
            check(policy, &[(&of(max + 1).0, "!malformed")]);
        }
    }

    #[test]
    fn plates_read_look_alikes_as_latin() {
        assert_eq!(LOOK_ALIKES.chars().count(), LATIN.len());
        assert!(LOOK_ALIKES.chars().all(|c| !c.is_ascii()));
        check(
            Policy::VehiclePlate,
            &[
                ("ru:а123вс77", "RUS:A123BC77"),
                ("gr:ικμ-1234", "GRC:IKM1234"),
                ("gr:Σ1", "!malformed"),
                ("ru:Я1", "!malformed"),
                ("de:LÖ1", "!malformed"),
            ],
        );
        check(Policy::Passport, &[("ru:А1", "!malformed")]);
    }

    #[test]
    fn one_repeated_character_is_too_common() {
        assert!(is_too_common("NLD:0000"));
        assert!(is_too_common("NLD:X"));
        assert!(!is_too_common("NLD:00001"));
        assert!(!is_too_common("AAA:B1"));
    }
}
