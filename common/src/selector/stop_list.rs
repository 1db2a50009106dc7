//! Step 2 of selectors.md: values that would match everybody are refused before hashing.

use std::collections::HashSet;

use super::url::{BareHost, bare_host};
use super::{Policy, Rejection, canonical, canonical_canaries};
use crate::secret::Selector;

/// The built-in rules of all policies and a node's own values; the default has no own values.
#[derive(Clone, Debug, Default)]
pub struct StopList {
    /// Canonical values, by policy.
    own: HashSet<(Policy, Selector)>,
}

/// A line of a stop-list file that cannot be used. It never repeats the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stop-list, line {line}: expected a policy, a blank and a value in canonical form")]
pub struct InvalidStopList {
    /// Number of the line, from 1.
    pub line: usize,
}

impl StopList {
    /// Reads a node's own values: a policy, blanks, a canonical value a line; empty lines and
    /// lines that begin with `#` are skipped. The built-in rules stay.
    ///
    /// # Errors
    /// [`InvalidStopList`] for an unknown policy, and for a value that is not its own canonical
    /// form: it would silently stop nothing.
    pub fn parse(text: &str) -> Result<Self, InvalidStopList> {
        let mut own = HashSet::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            own.insert(entry(line).ok_or(InvalidStopList { line: index + 1 })?);
        }
        Ok(Self { own })
    }

    /// Lets a canonical value of a record pass, or refuses it. A canary is refused too: every
    /// filter holds it, so it would match everybody. Canaries as such never come here.
    ///
    /// # Errors
    /// [`Rejection::TooCommon`].
    pub fn admit(&self, policy: Policy, value: &Selector) -> Result<(), Rejection> {
        if self.stops(policy, value) || canonical_canaries(policy).contains(value) {
            Err(Rejection::TooCommon)
        } else {
            Ok(())
        }
    }

    fn stops(&self, policy: Policy, value: &Selector) -> bool {
        (policy.form().is_too_common)(value.expose())
            || (!self.own.is_empty() && self.own.contains(&(policy, value.clone())))
            || (policy == Policy::Url && self.stops_host(value))
    }

    /// selectors.md url/1: a URL that is only a stopped host is as common as the host.
    fn stops_host(&self, url: &Selector) -> bool {
        match bare_host(url.expose()) {
            Some(BareHost::Domain(host)) => self.stops(Policy::Domain, &Selector::new(host)),
            Some(BareHost::Ip(host)) => self.stops(Policy::Ip, &Selector::new(host)),
            None => false,
        }
    }
}

fn entry(line: &str) -> Option<(Policy, Selector)> {
    let (policy, value) = line.split_once(char::is_whitespace)?;
    let policy: Policy = policy.parse().ok()?;
    let value = value.trim_start();
    let read = canonical(policy, value, None).ok()?;
    (read.expose() == value).then_some((policy, read))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(list: &StopList, policy: Policy, input: &str) -> Result<(), Rejection> {
        list.admit(policy, &canonical(policy, input, None).expect("canonical"))
    }

    #[test]
    fn built_in_rules_hold_without_a_file() {
        let list = StopList::default();
        for (policy, common, own) in [
            (Policy::Phone, "+31 112", "+31 6 12345678"),
            (Policy::Email, "Abuse@example.com", "bob@example.com"),
            (Policy::Domain, "co.uk", "example.co.uk"),
            (Policy::Ip, "::ffff:10.0.0.1", "8.8.8.8"),
            (
                Policy::CryptoAddress,
                BURNED,
                "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
            ),
            (Policy::Passport, "nl:0000", "nl:0001"),
            (Policy::VehiclePlate, "nl:XXX", "nl:XXY"),
            (Policy::Vin, "11111111111111111", "WVWZZZ1JZ3W386752"),
        ] {
            assert_eq!(
                admit(&list, policy, common),
                Err(Rejection::TooCommon),
                "{policy}"
            );
            assert_eq!(admit(&list, policy, own), Ok(()), "{policy}");
        }
        let empty = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        assert_eq!(
            admit(&list, Policy::FileHash, empty),
            Err(Rejection::TooCommon)
        );
    }

    const BURNED: &str = "0x000000000000000000000000000000000000dEaD";

    #[test]
    fn a_url_is_as_common_as_its_bare_host() {
        let list = StopList::parse("domain/1 example.com\nip/1 8.8.8.8\n").expect("valid");
        for common in [
            "http://127.1/",
            "https://co.uk",
            "http://com./",
            "http://[::1]:8080/",
            "http://[::ffff:10.0.0.1]/",
            "http://EXAMPLE.com.",
            "http://8.8.8.8/#x",
            "http://0x7f.1",
        ] {
            assert_eq!(
                admit(&list, Policy::Url, common),
                Err(Rejection::TooCommon),
                "{common}"
            );
        }
        for own in [
            "http://127.1/x",
            "http://127.1/?",
            "https://co.uk/?q",
            "https://a.example.com/",
            "http://localhost/",
        ] {
            assert_eq!(admit(&list, Policy::Url, own), Ok(()), "{own}");
        }
    }

    #[test]
    fn a_canary_is_no_record() {
        let list = StopList::default();
        for &policy in Policy::ALL {
            for value in canonical_canaries(policy) {
                assert_eq!(
                    list.admit(policy, value),
                    Err(Rejection::TooCommon),
                    "{policy}"
                );
            }
        }
    }

    #[test]
    fn a_file_extends_the_rules_by_policy() {
        let text = "# ours\r\n\r\nphone/1\t+31612345678\r\n  passport/1   NLD:SPECIMEN1  \n";
        let list = StopList::parse(text).expect("valid");
        assert_eq!(
            admit(&list, Policy::Phone, "tel:+31612345678"),
            Err(Rejection::TooCommon)
        );
        assert_eq!(
            admit(&list, Policy::Passport, "nl:specimen 1"),
            Err(Rejection::TooCommon)
        );
        assert_eq!(admit(&list, Policy::NationalId, "nl:specimen 1"), Ok(()));
        assert_eq!(
            admit(&list, Policy::Phone, "+31 112"),
            Err(Rejection::TooCommon)
        );
    }

    #[test]
    fn a_bad_line_is_named_by_its_number_only() {
        for (text, line) in [
            ("phone/1", 1),
            ("\n#\nphone/2 +31612345678", 3),
            ("phone +31612345678", 1),
            ("email/1 Bob@example.com", 1),
            ("ip/1 8.8.8.8\nip/1 secret", 2),
            ("passport/1 SPECIMEN", 1),
        ] {
            let error = StopList::parse(text).expect_err("invalid");
            assert_eq!(error, InvalidStopList { line });
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn own_values_do_not_print() {
        let list = StopList::parse("ip/1 8.8.8.8").expect("valid");
        assert!(!format!("{list:?}").contains("8.8"));
    }
}
