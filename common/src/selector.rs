//! Selectors and their normal forms (selectors.md): one table of policies, one file a policy.
//!
//! [`canonical`] is step 1 of selectors.md, [`StopList::admit`] is step 2. The normal form *is*
//! the protocol: a published policy is never edited, a change makes `type/2`.

mod canary;
mod corpus;
mod country;
mod crypto_address;
mod document;
mod domain;
mod email;
mod file_hash;
mod iban;
mod imei;
mod ip;
mod match_class;
mod phone;
mod refang;
mod stop_list;
mod url;
mod vessel_imo;
mod vin;

use std::fmt;
use std::str::FromStr;

pub use canary::{canaries, canonical_canaries};
pub use corpus::{forms, forms_over};
pub use match_class::MatchClass;
pub use stop_list::{InvalidStopList, StopList};

use crate::ids::InvalidId;
use crate::secret::Selector;

/// Longest input in bytes, after trimming (selectors.md, common rules).
pub const MAX_INPUT_LEN: usize = 1024;

/// What selectors.md fixes for one policy.
struct Form {
    /// Whether a region hint changes the outcome.
    takes_region: bool,
    /// Whether defanged spellings are undone before `canonical`.
    refang: bool,
    /// The policy's own rules; the input has passed the common ones.
    canonical: fn(input: &str, region: Option<&str>) -> Result<String, Rejection>,
    /// The built-in stop rule, asked about canonical values only.
    is_too_common: fn(canonical: &str) -> bool,
    /// The fixed raw inputs of the canaries.
    canaries: &'static [&'static str],
}

macro_rules! policies {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $form:path;)*) => {
        /// A selector type at one version of its normal form, e.g. `phone/1`.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Policy {
            $($(#[$doc])* $variant,)*
        }

        impl Policy {
            /// Every policy of this version, in the order of selectors.md.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name on the wire and inside the key, e.g. `phone/1`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            const fn form(self) -> &'static Form {
                match self { $(Self::$variant => &$form,)* }
            }
        }
    };
}

policies! {
    /// Telephone numbers, E.164.
    Phone = "phone/1", phone::FORM;
    /// E-mail addresses.
    Email = "email/1", email::FORM;
    /// Domain names, A-labels.
    Domain = "domain/1", domain::FORM;
    /// IPv4 and IPv6 addresses.
    Ip = "ip/1", ip::FORM;
    /// URLs of http, https and ftp.
    Url = "url/1", url::FORM;
    /// International bank account numbers.
    Iban = "iban/1", iban::FORM;
    /// Addresses of crypto-asset wallets.
    CryptoAddress = "crypto_address/1", crypto_address::FORM;
    /// Digests of files: MD5, SHA-1, SHA-256, SHA-512.
    FileHash = "file_hash/1", file_hash::FORM;
    /// Passport numbers with their country.
    Passport = "passport/1", document::PASSPORT;
    /// National identity numbers with their country.
    NationalId = "national_id/1", document::NATIONAL_ID;
    /// Vehicle registration plates with their country.
    VehiclePlate = "vehicle_plate/1", document::VEHICLE_PLATE;
    /// Vehicle identification numbers.
    Vin = "vin/1", vin::FORM;
    /// Mobile equipment identities, without check digit.
    Imei = "imei/1", imei::FORM;
    /// IMO ship identification numbers.
    VesselImo = "vessel_imo/1", vessel_imo::FORM;
}

impl Policy {
    /// The selector type without the version, e.g. `phone`.
    pub fn selector_type(self) -> &'static str {
        let name = self.name();
        name.split_once('/').map_or(name, |(kind, _)| kind)
    }

    /// The current version of a selector type, e.g. `phone/1` for `phone`.
    pub fn from_type(selector_type: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|policy| policy.selector_type() == selector_type)
    }

    /// Whether a region hint can change what [`canonical`] gives.
    pub const fn takes_region(self) -> bool {
        self.form().takes_region
    }
}

impl FromStr for Policy {
    type Err = InvalidId;

    /// From the full name, `phone/1`.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::ALL
            .iter()
            .copied()
            .find(|policy| policy.name() == text)
            .ok_or(InvalidId {
                kind: "policy",
                expected: "a name of selectors.md with its version, e.g. phone/1",
            })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a selector was rejected (selectors.md, "Two steps"). It never repeats the input.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rejection {
    /// Nothing but white space.
    Empty,
    /// More than [`MAX_INPUT_LEN`] bytes.
    TooLong,
    /// Not a value of this type.
    Malformed,
    /// A check digit or checksum does not fit: most likely a typing error.
    BadChecksum,
    /// A national spelling whose country is not known.
    NeedsRegion,
    /// A value of this type that the policy does not cover.
    Unsupported,
    /// On the stop-list: the value would match everybody.
    TooCommon,
}

impl Rejection {
    /// Every rejection.
    pub const ALL: &[Self] = &[
        Self::Empty,
        Self::TooLong,
        Self::Malformed,
        Self::BadChecksum,
        Self::NeedsRegion,
        Self::Unsupported,
        Self::TooCommon,
    ];

    /// The name in selectors.md, e.g. `bad_checksum`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::BadChecksum => "bad_checksum",
            Self::NeedsRegion => "needs_region",
            Self::Unsupported => "unsupported",
            Self::TooCommon => "too_common",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Rejection {}

/// The canonical form of an input as a person or a system wrote it: step 1 of selectors.md.
///
/// `region` is a hint for national spellings; policies that take none ignore it
/// ([`Policy::takes_region`]).
///
/// # Errors
/// A [`Rejection`] other than [`Rejection::TooCommon`], which is the [`StopList`]'s.
pub fn canonical(policy: Policy, input: &str, region: Option<&str>) -> Result<Selector, Rejection> {
    let form = policy.form();
    let text = input.trim();
    if text.is_empty() {
        return Err(Rejection::Empty);
    }
    if text.len() > MAX_INPUT_LEN {
        return Err(Rejection::TooLong);
    }
    if has_control(text) {
        return Err(Rejection::Malformed);
    }
    let value = if form.refang {
        (form.canonical)(&refang::refang(text), region)
    } else {
        (form.canonical)(text, region)
    };
    value.map(Selector::new)
}

/// Whether there is a control character in the text; those beyond ASCII are looked for only where
/// there is anything beyond ASCII.
fn has_control(text: &str) -> bool {
    let (control, other) = text.bytes().fold((false, false), |(control, other), b| {
        (control | b.is_ascii_control(), other | !b.is_ascii())
    });
    control || (other && text.contains(char::is_control))
}

/// The text without its blanks (White_Space) and without the characters of `dropped`.
fn without_blanks_and(text: &str, dropped: &[char]) -> String {
    text.chars()
        .filter(|c| !c.is_whitespace() && !dropped.contains(c))
        .collect()
}

/// What follows `prefix`, written in any ASCII case, at the start of `text`.
fn strip_prefix_any_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Whether the text is one character, once or repeated: a blank filled in.
fn is_one_repeated_char(text: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|first| chars.all(|other| other == first))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The outcome of a canonicalisation as text: the value, or `!` and the rejection.
    pub(super) fn outcome(policy: Policy, input: &str, region: Option<&str>) -> String {
        match canonical(policy, input, region) {
            Ok(value) => value.expose().to_owned(),
            Err(rejection) => format!("!{rejection}"),
        }
    }

    /// Checks rows of (input, outcome) that need no region.
    pub(super) fn check(policy: Policy, rows: &[(&str, &str)]) {
        for (input, expected) in rows {
            assert_eq!(outcome(policy, input, None), *expected, "{input:?}");
        }
    }

    #[test]
    fn common_rules_hold_in_their_order() {
        for &policy in Policy::ALL {
            assert_eq!(outcome(policy, " \u{85}\u{3000}\u{2028}\t", None), "!empty");
            // White space is dropped before the length is measured ...
            let long = format!("{}{}", " ".repeat(2000), "\u{1}".repeat(1025));
            assert_eq!(outcome(policy, &long, None), "!too_long");
            // ... and the length before the control characters.
            assert_eq!(outcome(policy, &"\u{1}".repeat(1024), None), "!malformed");
            assert_eq!(outcome(policy, "a\u{9f}b", None), "!malformed");
        }
        // A control that is White_Space is dropped at the ends and refused inside.
        assert_eq!(outcome(Policy::Ip, "\r\n192.0.2.1\t", None), "192.0.2.1");
        assert_eq!(
            outcome(Policy::Iban, "NL91ABNA\t0417164300", None),
            "!malformed"
        );
        // Zero-width characters are no White_Space.
        assert_eq!(outcome(Policy::Vin, "\u{200b}", None), "!malformed");
    }

    #[test]
    fn length_is_counted_in_bytes() {
        let domain = |tail: usize| format!("{}.example{}", "ä".repeat(500), "x".repeat(tail));
        assert_eq!(outcome(Policy::Domain, &domain(16), None), "!malformed");
        assert_eq!(outcome(Policy::Domain, &domain(17), None), "!too_long");
    }

    #[test]
    fn policies_are_found_by_name_and_by_type() {
        for &policy in Policy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
            assert_eq!(Policy::from_type(policy.selector_type()), Some(policy));
        }
        assert_eq!(Policy::Phone.selector_type(), "phone");
        assert_eq!(Policy::from_type("phone/1"), None);
        let regional: Vec<_> = Policy::ALL.iter().filter(|p| p.takes_region()).collect();
        assert_eq!(
            regional,
            [
                &Policy::Phone,
                &Policy::Passport,
                &Policy::NationalId,
                &Policy::VehiclePlate
            ]
        );
    }

    #[test]
    fn refangs_only_the_four_network_types() {
        let refanged: Vec<_> = Policy::ALL.iter().filter(|p| p.form().refang).collect();
        assert_eq!(
            refanged,
            [&Policy::Email, &Policy::Domain, &Policy::Ip, &Policy::Url]
        );
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        proptest::sample::select(Policy::ALL)
    }

    /// Arbitrary Unicode, and texts made of pieces that reach deep into the policies.
    fn any_input() -> impl Strategy<Value = String> {
        let pieces = [
            "tel:",
            "+",
            "+31",
            "06",
            "12345678",
            " ",
            "ext",
            "x",
            ";ext=",
            ";phone-context=",
            "(",
            ")",
            "-",
            ".",
            "..",
            "@",
            "gmail.com",
            "example",
            "xn--",
            "ä",
            "Σ",
            "İ",
            "ß",
            "☕",
            "א",
            "１",
            "。",
            "[",
            "]",
            "[.]",
            "{.}",
            "[at]",
            "[:]",
            ":",
            "::",
            "ffff",
            "0",
            "1",
            "255",
            "0x",
            "0x7f",
            "http://",
            "hxxps://",
            "ftp:",
            "/",
            "?",
            "#",
            "^",
            "%",
            "<",
            ">",
            "mailto:",
            "IBAN",
            "NL91ABNA0417164300",
            "bc1",
            "LTC1",
            "q",
            "md5:",
            "nl:",
            "D<<:",
            "IMO",
            "A",
            "z",
            "\u{200b}",
            "\u{301}",
            "\u{345}",
            "４",
            "٣",
        ];
        let built = proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..12)
            .prop_map(|parts| parts.concat());
        prop_oneof![".*", built, "[0-9a-zA-Z:.+]{0,110}"]
    }

    fn any_region() -> impl Strategy<Value = Option<String>> {
        let known = ["", "001", "nl", "US", "ru", "BR", "AR", "mx", "DEU", "qq"];
        proptest::option::of(prop_oneof![
            proptest::sample::select(known.to_vec()).prop_map(str::to_owned),
            ".{0,4}",
        ])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn never_panics(policy in any_policy(), input in any_input(), region in any_region()) {
            if let Ok(value) = canonical(policy, &input, region.as_deref()) {
                prop_assert!(!value.expose().is_empty());
                let _ = StopList::default().admit(policy, &value);
            }
        }

        #[test]
        fn canonical_forms_are_fixed_points(
            policy in any_policy(),
            input in any_input(),
            region in any_region(),
        ) {
            // Documents are read again through their `ALPHA3:`. Two exceptions follow from
            // selectors.md: refang is one pass (`[[.]]` leaves `[.]`), and libphonenumber strips
            // one national prefix a time from numbers that are not possible.
            if policy == Policy::Phone {
                return Ok(());
            }
            if let Ok(value) = canonical(policy, &input, region.as_deref())
                && !(policy.form().refang && refang::refang(value.expose()) != value.expose())
            {
                prop_assert_eq!(canonical(policy, value.expose(), None), Ok(value));
            }
        }

        #[test]
        fn possible_phone_numbers_are_fixed_points(national in "6[0-9]{8}", written in "0|0031|\\+31 ") {
            let input = format!("{written}{national}");
            let value = canonical(Policy::Phone, &input, Some("nl"));
            prop_assert!(value.is_ok());
            let again = value.as_ref().ok().map(|v| canonical(Policy::Phone, v.expose(), None));
            prop_assert_eq!(again, Some(value));
        }
    }
}
