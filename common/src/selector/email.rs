//! `email/1`: e-mail addresses.

use unicode_normalization::UnicodeNormalization;

use super::{Form, Rejection, domain, strip_prefix_any_case};

pub(super) const FORM: Form = Form {
    takes_region: false,
    refang: true,
    canonical,
    is_too_common,
    canaries: &[" A.b+News@GoogleMail.com ", "info@BÜCHER.example"],
};

/// Characters that no canonical local part holds.
const REFUSED_IN_LOCAL: &[char] = &['<', '>', '(', ')', '[', ']', ',', ';', ':', '\\', '"'];

/// Mailboxes that every domain has.
const ROLES: [&str; 5] = [
    "postmaster",
    "abuse",
    "noreply",
    "no-reply",
    "mailer-daemon",
];

fn canonical(input: &str, _region: Option<&str>) -> Result<String, Rejection> {
    let address = strip_prefix_any_case(input, "mailto:").unwrap_or(input);
    let address = match address.strip_suffix('>') {
        Some(named) => {
            let (_, address) = named.rsplit_once('<').ok_or(Rejection::Malformed)?;
            address.trim()
        }
        None => address,
    };
    let (local, domain) = address.split_once('@').ok_or(Rejection::Malformed)?;
    if domain.contains('@') {
        return Err(Rejection::Malformed);
    }
    let domain = domain::canonical(domain)?;
    // Lower-casing may leave a composable pair, hence NFC on both sides.
    let local = local.nfc().collect::<String>().to_lowercase();
    let local: String = local.nfc().collect();
    let (local, domain) = match domain.as_str() {
        "gmail.com" | "googlemail.com" => (gmail_local(&local), "gmail.com"),
        other => (local, other),
    };
    let refused = |c: char| c.is_whitespace() || REFUSED_IN_LOCAL.contains(&c);
    if local.is_empty() || local.contains(refused) {
        return Err(Rejection::Malformed);
    }
    Ok(format!("{local}@{domain}"))
}

/// One Gmail mailbox answers to any dots and to anything after a plus.
fn gmail_local(local: &str) -> String {
    let (name, _) = local.split_once('+').unwrap_or((local, ""));
    name.replace('.', "")
}

fn is_too_common(canonical: &str) -> bool {
    canonical
        .split_once('@')
        .is_some_and(|(local, _)| ROLES.contains(&local))
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, tests::check};
    use super::*;

    #[test]
    fn takes_the_address_out_of_its_wrapping() {
        check(
            Policy::Email,
            &[
                ("MAILTO:Bob@example.com", "bob@example.com"),
                ("Bob <bob@example.com>", "bob@example.com"),
                ("<< bob@example.com >", "bob@example.com"),
                ("mailto:Bob < bob@example.com\u{a0}>", "bob@example.com"),
                ("a@b.com <bob@example.com>", "bob@example.com"),
                ("bob@example.com>", "!malformed"),
                ("<bob@example.com", "!malformed"),
                ("Bob <>", "!malformed"),
                ("<mailto:bob@example.com>", "!malformed"),
                ("mailto:mailto:bob@example.com", "!malformed"),
                ("bob@example.com (Bob)", "!malformed"),
                ("mailto:bob@example.com?subject=x", "!malformed"),
            ],
        );
    }

    #[test]
    fn refangs_and_counts_the_at_signs() {
        check(
            Policy::Email,
            &[
                ("bob[@]example(.)com", "bob@example.com"),
                ("bob[aT]example{.}com.", "bob@example.com"),
                ("bob＠example.com", "!malformed"),
                ("bob", "!malformed"),
                ("bob@@example.com", "!malformed"),
                ("bob@localhost", "!malformed"),
                ("bob@[192.0.2.1]", "!malformed"),
                ("bob@ example.com", "!malformed"),
                ("bob@", "!malformed"),
            ],
        );
    }

    #[test]
    fn local_parts_are_lower_cased_by_unicode() {
        check(
            Policy::Email,
            &[
                ("ΝΊΚΟΣ@example.com", "νίκος@example.com"),
                ("ΣΑΣ.ΣΑ@example.com", "σασ.σα@example.com"),
                ("İ@example.com", "i\u{307}@example.com"),
                ("A\u{30a}SA@example.com", "åsa@example.com"),
                ("STRAẞE@example.com", "straße@example.com"),
                ("ｂｏｂ@example.com", "ｂｏｂ@example.com"),
            ],
        );
    }

    #[test]
    fn gmail_ignores_dots_and_tags() {
        check(
            Policy::Email,
            &[
                ("B.o.b.+x+y.z@GMAIL.com", "bob@gmail.com"),
                ("bob@googlemail.com.", "bob@gmail.com"),
                ("bob@mail.gmail.com", "bob@mail.gmail.com"),
                ("...@gmail.com", "!malformed"),
                ("bob+<x>@gmail.com", "bob@gmail.com"),
                ("bob+(x)@example.com", "!malformed"),
            ],
        );
    }

    #[test]
    fn refuses_local_parts_with_specials_or_blanks() {
        for special in "<>()[],;:\\\" \u{a0}\u{3000}".chars() {
            check(
                Policy::Email,
                &[(&format!("a{special}b@example.com"), "!malformed")],
            );
        }
        check(
            Policy::Email,
            &[(
                "o'b!#$%&*/=?^_`{|}~-@example.com",
                "o'b!#$%&*/=?^_`{|}~-@example.com",
            )],
        );
    }

    #[test]
    fn roles_are_too_common_at_every_domain() {
        assert!(is_too_common("postmaster@example.com"));
        assert!(is_too_common("no-reply@gmail.com"));
        assert!(!is_too_common("postmaster2@example.com"));
        assert!(!is_too_common("info@co.uk"));
    }
}
