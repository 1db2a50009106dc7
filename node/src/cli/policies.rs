//! `policies`: what types of selectors there are, in words (selectors.md "Policies").

use sotto_common::selector::Policy;

use super::Context;
use super::fault::Result;
use super::render::{Cell, List};

/// What a person should know of a policy.
struct About {
    /// What the region hint is for; empty if it is not used.
    region: &'static str,
    /// The canonical form.
    form: &'static str,
    /// What the built-in stop-list holds.
    stop_list: &'static str,
    /// As one may write it; from ranges that belong to nobody.
    example: &'static str,
    /// `example` in its canonical form.
    canonical: &'static str,
}

const COLUMNS: &[&str] = &[
    "policy",
    "region",
    "canonical_form",
    "stop_list",
    "example",
    "example_canonical",
];

/// Prints the policies.
pub(crate) fn run(context: &Context) -> Result<()> {
    let mut list = List::new(context.output, COLUMNS, context.stdout())?;
    for &policy in Policy::ALL {
        let about = about(policy);
        list.row(&[
            Cell::new(policy.name()),
            Cell::in_words(
                about.region,
                if about.region.is_empty() {
                    "-"
                } else {
                    about.region
                },
            ),
            Cell::new(about.form),
            Cell::new(about.stop_list),
            Cell::new(about.example),
            Cell::new(about.canonical),
        ])?;
    }
    Ok(list.finish()?)
}

const DOCUMENT_REGION: &str = "country, unless before a ':'";
const REPEATED: &str = "one repeated character";

#[expect(clippy::too_many_lines, reason = "one table")]
fn about(policy: Policy) -> About {
    let (region, form, stop_list, example, canonical) = match policy {
        Policy::Phone => (
            "country of national spellings",
            "international number without extension (E.164)",
            "fewer than 7 digits, country code included",
            "tel:+44-20-7946-0321",
            "+442079460321",
        ),
        Policy::Email => (
            "",
            "lower case, domain as in domain/1; Gmail without dots and +tag",
            "postmaster, abuse, noreply, no-reply, mailer-daemon at any domain",
            "Office[at]BÜCHER[.]example",
            "office@xn--bcher-kva.example",
        ),
        Policy::Domain => (
            "",
            "lower case, international names in their ASCII form, no last dot",
            "public suffixes, such as co.uk",
            "Shop.Bücher.Example.",
            "shop.xn--bcher-kva.example",
        ),
        Policy::Ip => (
            "",
            "shortest form (RFC 5952); IPv4 within IPv6 as IPv4",
            "private, local, documentation and other special ranges",
            "[::ffff:192.31.196.33]",
            "192.31.196.33",
        ),
        Policy::Url => (
            "",
            "as a browser writes it, without fragment and credentials",
            "nothing but a host of the domain or ip stop-list",
            "hXXp://Example[.]COM:80/a/../c?x=2#frag",
            "http://example.com/c?x=2",
        ),
        Policy::Iban => (
            "",
            "upper case without blanks; checksum verified",
            "-",
            "nl91 abna 0417 1643 00",
            "NL91ABNA0417164300",
        ),
        Policy::CryptoAddress => (
            "",
            "Ethereum and bech32 in lower case, Bitcoin and Monero base58 as is; checksum verified",
            "well-known burn addresses",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359",
        ),
        Policy::FileHash => (
            "",
            "lower-case hex of MD5, SHA-1, SHA-256 or SHA-512",
            "hashes of the empty file",
            "MD5: 900150983CD24FB0D6963F7D28E17F72",
            "900150983cd24fb0d6963f7d28e17f72",
        ),
        Policy::Passport => (
            DOCUMENT_REGION,
            "three-letter country, ':', letters and digits in upper case",
            REPEATED,
            "nl: SPEC-I2014",
            "NLD:SPECI2014",
        ),
        Policy::NationalId => (
            DOCUMENT_REGION,
            "three-letter country, ':', letters and digits in upper case",
            REPEATED,
            "be: 85.07.30-033 28",
            "BEL:85073003328",
        ),
        Policy::VehiclePlate => (
            DOCUMENT_REGION,
            "three-letter country, ':', letters and digits, look-alikes as Latin letters",
            REPEATED,
            "nl: 12-ABC-3",
            "NLD:12ABC3",
        ),
        Policy::Vin => (
            "",
            "17 letters and digits in upper case",
            REPEATED,
            "wvwzzz1jz3w386752",
            "WVWZZZ1JZ3W386752",
        ),
        Policy::Imei => (
            "",
            "first 14 digits, without the check digit",
            "all zeros",
            "00-440000-000001-6",
            "00440000000001",
        ),
        Policy::VesselImo => (
            "",
            "7 digits, without 'IMO'; check digit verified",
            "0000000",
            "imo 0000012",
            "0000012",
        ),
    };
    About {
        region,
        form,
        stop_list,
        example,
        canonical,
    }
}

#[cfg(test)]
mod tests {
    use sotto_common::selector::{StopList, canonical};

    use super::*;

    #[test]
    fn every_example_has_the_canonical_form_that_is_shown_beside_it() {
        for &policy in Policy::ALL {
            let about = about(policy);
            let value = canonical(policy, about.example, None).expect("canonical");
            assert_eq!(value.expose(), about.canonical, "{policy}");
            assert_eq!(policy.takes_region(), !about.region.is_empty(), "{policy}");
            assert!(
                StopList::default().admit(policy, &value).is_ok(),
                "{policy}"
            );
        }
    }
}
