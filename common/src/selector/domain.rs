//! `domain/1`: domain names as A-labels.

use std::borrow::Cow;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use psl::Psl;

use super::{Form, Rejection};

pub(super) const FORM: Form = Form {
    takes_region: false,
    refang: true,
    canonical: |input, _region| canonical(input),
    is_too_common,
    canaries: &["WWW.Bücher.Example.", "evil[.]example[.]com"],
};

/// Every ASCII punctuation but `-._`, and (by `true`) space and controls.
const DENIED: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");

/// The dots of UTS 46 and IDNA2003.
const DOTS: [char; 4] = ['.', '\u{3002}', '\u{ff0e}', '\u{ff61}'];

/// Octets of a name without its final dot.
const MAX_LEN: usize = 253;

/// Octets of a label.
const MAX_LABEL_LEN: usize = 63;

/// The domain as A-labels; `email/1` shares it.
pub(super) fn canonical(input: &str) -> Result<String, Rejection> {
    let name = input.strip_suffix(DOTS).unwrap_or(input);
    if let Some(name) = plain(name) {
        return Ok(name);
    }
    let name = by_uts_46(name)?;
    let last = name.rsplit_once('.').map(|(_, last)| last);
    let is_name = name.len() <= MAX_LEN
        && name.split('.').all(is_label)
        && last.is_some_and(|last| !is_number(last));
    if is_name {
        Ok(name)
    } else {
        Err(Rejection::Malformed)
    }
}

/// What UTS 46 makes of a good name of ASCII letters, digits, `-`, `_` and dots, as most are: the same
/// in lower case. `None` for any other, which may be good or not, and where two hyphens may be those
/// of an A-label. Lists have millions of them: the name is gone through once.
fn plain(name: &str) -> Option<String> {
    if name.len() > MAX_LEN {
        return None;
    }
    // Where the label begins, and the character before.
    let (mut label, mut before) = (0, b'.');
    for (at, &b) in name.as_bytes().iter().enumerate() {
        match b {
            b'.' if before != b'.' && at - label <= MAX_LABEL_LEN => label = at + 1,
            b'-' if before != b'-' => {}
            b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {}
            _ => return None,
        }
        before = b;
    }
    if label == 0 || before == b'.' || name.len() - label > MAX_LABEL_LEN {
        return None;
    }
    let name = name.to_ascii_lowercase();
    (!is_number(&name[label..])).then_some(name)
}

/// ToASCII of UTS 46 for any name. Lengths are not checked: idna would let the root's dot pass.
fn by_uts_46(name: &str) -> Result<String, Rejection> {
    Uts46::new()
        .to_ascii(name.as_bytes(), DENIED, Hyphens::Allow, DnsLength::Ignore)
        .map(Cow::into_owned)
        .map_err(|_| Rejection::Malformed)
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_LEN).contains(&label.len())
        && label
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

/// Whether a URL parser would take a host that ends in this label for an IPv4 address.
fn is_number(label: &str) -> bool {
    label.bytes().all(|b| b.is_ascii_digit())
        || label
            .strip_prefix("0x")
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Public suffixes of the ICANN section: under them anybody can register.
pub(super) fn is_too_common(canonical: &str) -> bool {
    psl::List
        .suffix(canonical.as_bytes())
        .is_some_and(|suffix| {
            suffix.typ() == Some(psl::Type::Icann) && suffix.as_bytes() == canonical.as_bytes()
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Policy, tests::check};
    use super::*;

    #[test]
    fn spellings_of_one_name_agree() {
        check(
            Policy::Domain,
            &[
                ("EXAMPLE.Com.", "example.com"),
                ("example。com｡", "example.com"),
                ("ｅｘａｍｐｌｅ．ｃｏｍ．", "example.com"),
                ("exa\u{ad}mple.com", "example.com"),
                ("exa\u{200b}mple.com", "example.com"),
                ("XN--MNCHEN-3YA.example", "xn--mnchen-3ya.example"),
                ("MU\u{308}NCHEN.example", "xn--mnchen-3ya.example"),
            ],
        );
    }

    #[test]
    fn uts_46_is_non_transitional_with_bidi_and_joiners_checked() {
        check(
            Policy::Domain,
            &[
                ("faß.de", "xn--fa-hia.de"),
                ("βόλος.com", "xn--nxasmm1c.com"),
                ("نامه\u{200c}ای.com", "xn--mgba3gch31f060k.com"),
                ("a\u{200c}b.com", "!malformed"),
                ("אב.example", "xn--4dbc.example"),
                ("אa.example", "!malformed"),
                ("0א.example", "!malformed"),
                ("☕.example", "xn--53h.example"),
                ("💩.la", "xn--ls8h.la"),
                ("xn--53h.example", "xn--53h.example"),
                ("\u{378}.example", "!malformed"),
                ("\u{301}a.example", "!malformed"),
            ],
        );
    }

    #[test]
    fn hyphens_and_underscores_may_stand_anywhere() {
        check(
            Policy::Domain,
            &[
                ("-a.example", "-a.example"),
                ("a-.example", "a-.example"),
                ("r3---sn-abc.example", "r3---sn-abc.example"),
                ("_dmarc.example.com", "_dmarc.example.com"),
            ],
        );
    }

    #[test]
    fn refuses_bad_punycode() {
        for bad in [
            "xn--.example",
            "xn--a.example",
            "xn--abc-.example",
            "xn--zzzzzzzzzzzz99999999.example",
            "xn--mnchen-3ya-.example",
            "xn--ls8h=.example",
        ] {
            check(Policy::Domain, &[(bad, "!malformed")]);
        }
    }

    #[test]
    fn refuses_punctuation_and_empty_labels() {
        for bad in [
            "a b.com",
            "a\u{a0}b.com",
            "a..com",
            ".example.com",
            "a.com..",
            "a.com.。",
            ".",
            "..",
            "a",
            "com.",
            "a,b.com",
            "a/b.com",
            "user@example.com",
            "a:b.com",
            "*.example.com",
            "a'b.com",
            "a%41.com",
            "≠=.com",
            "[example.com]",
            "ex＠mple.com",
            "a＿b/.com",
        ] {
            check(Policy::Domain, &[(bad, "!malformed")]);
        }
    }

    #[test]
    fn the_last_label_is_no_number() {
        check(
            Policy::Domain,
            &[
                ("1.2.3.4", "!malformed"),
                ("example.123", "!malformed"),
                ("example.１２３", "!malformed"),
                ("example.0x7F", "!malformed"),
                ("example.0x", "!malformed"),
                ("example.0xg", "example.0xg"),
                ("example.1a", "example.1a"),
                ("123.example", "123.example"),
            ],
        );
    }

    #[test]
    fn lengths_are_those_of_the_dns() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), 253);
        check(Policy::Domain, &[(&longest, &longest)]);
        check(Policy::Domain, &[(&format!("{longest}."), &longest)]);
        check(Policy::Domain, &[(&format!("{longest}a"), "!malformed")]);
        check(Policy::Domain, &[(&format!("{label}a.com"), "!malformed")]);
        // 57 `ü` are 63 octets as A-label or more: counted after ToASCII.
        check(
            Policy::Domain,
            &[(&format!("{}.com", "ü".repeat(63)), "!malformed")],
        );
    }

    #[test]
    fn only_icann_suffixes_are_too_common() {
        for common in [
            "co.uk",
            "com.au",
            "xn--55qx5d.cn",
            "anything.ck",
            "k12.ca.us",
            "com.br",
        ] {
            assert!(is_too_common(common), "{common}");
        }
        for own in [
            "github.io",
            "www.ck",
            "example.co.uk",
            "example.com",
            "eu.org",
            "a.invalidtld",
            "blogspot.com",
            "bl.uk",
        ] {
            assert!(!is_too_common(own), "{own}");
        }
    }

    /// Names of the pieces that the two ways could differ in, and any text at all.
    fn any_name() -> impl Strategy<Value = String> {
        let pieces = [
            "a",
            "Z",
            "0",
            "9",
            "-",
            "--",
            "_",
            ".",
            "..",
            "xn",
            "XN--",
            "xn--",
            "Xn--mnchen-3ya",
            "xn--a",
            "K",
            "\u{212a}",
            "ſ",
            "ß",
            "İ",
            "ü",
            "。",
            "１",
            "א",
            "\u{ad}",
            "\u{200d}",
            " ",
            "\u{7f}",
            "@",
            "0x1",
            "example",
            "COM",
        ];
        let built = proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..12)
            .prop_map(|parts| parts.concat());
        prop_oneof![
            "[a-zA-Z0-9._-]{0,300}",
            "[xXnN.-]{0,12}",
            "[ -~]{0,40}",
            "[\\x00-\\x7f]{0,20}",
            built,
            ".*",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16_384))]

        #[test]
        fn a_plain_name_is_what_uts_46_makes_of_it(name in any_name()) {
            if let Some(plain) = plain(&name) {
                prop_assert_eq!(by_uts_46(&name), Ok(plain));
            }
        }
    }

    #[test]
    fn every_ascii_character_but_those_of_names_goes_by_uts_46() {
        for byte in 0..=0x7f_u8 {
            let name = format!("a{}b.example", char::from(byte));
            let expected = byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            assert_eq!(plain(&name).is_some(), expected, "{byte:#x}");
            if let Some(plain) = plain(&name) {
                assert_eq!(by_uts_46(&name), Ok(plain), "{byte:#x}");
            }
        }
        for slow in [
            "xn--a.example",
            "a.XN--b.example",
            "a--b.example",
            "é.example",
        ] {
            assert_eq!(plain(slow), None, "{slow}");
        }
    }
}
