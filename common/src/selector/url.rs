//! `url/1`: URLs of http, https and ftp.

use ::url::{Host, Position, Url};

use super::{Form, Rejection, domain};

pub(super) const FORM: Form = Form {
    takes_region: false,
    refang: true,
    canonical,
    // Its rule asks the stop-lists of two other policies: `StopList::admit` applies it.
    is_too_common: |_| false,
    canaries: &["hXXp://Example[.]COM:80/a/../b?x=1#frag"],
};

const SUPPORTED_SCHEMES: [&str; 3] = ["http", "https", "ftp"];

fn canonical(input: &str, _region: Option<&str>) -> Result<String, Rejection> {
    let scheme = scheme(input).ok_or(Rejection::Malformed)?;
    if !SUPPORTED_SCHEMES
        .iter()
        .any(|supported| scheme.eq_ignore_ascii_case(supported))
    {
        return Err(Rejection::Unsupported);
    }
    let url = Url::parse(input).map_err(|_| Rejection::Malformed)?;
    if !url.has_host() {
        return Err(Rejection::Malformed);
    }
    // Between the scheme's `://` and the host stand the credentials, which are left out.
    let mut text = format!(
        "{}://{}",
        url.scheme(),
        &url[Position::BeforeHost..Position::BeforePath]
    );
    // WHATWG's path percent-encode set has `^`; crate url lags behind.
    text.push_str(&url.path().replace('^', "%5E"));
    // From here an empty query is kept with its `?`.
    text.push_str(&url[Position::AfterPath..Position::AfterQuery]);
    Ok(text)
}

/// What stands before the first `:`, if it has the form of a scheme (RFC 3986 §3.1).
fn scheme(input: &str) -> Option<&str> {
    let (scheme, _) = input.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    is_scheme.then_some(scheme)
}

/// The host of a URL that names nothing but a host (path `/`, no query), as the stop-lists of
/// `domain/1` and `ip/1` write it.
pub(super) fn bare_host(canonical: &str) -> Option<BareHost> {
    let url = Url::parse(canonical).ok()?;
    if url.path() != "/" || url.query().is_some() {
        return None;
    }
    match url.host()? {
        // A name of one label is no `domain/1`, but may be a public suffix.
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            Some(BareHost::Domain(
                domain::canonical(name).unwrap_or_else(|_| name.to_owned()),
            ))
        }
        Host::Ipv4(address) => Some(BareHost::Ip(address.to_string())),
        Host::Ipv6(address) => Some(BareHost::Ip(address.to_canonical().to_string())),
    }
}

/// See [`bare_host`].
pub(super) enum BareHost {
    Domain(String),
    Ip(String),
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, tests::check};
    use super::*;

    #[test]
    fn schemes_are_told_apart() {
        check(
            Policy::Url,
            &[
                ("HTTPS://a.example", "https://a.example/"),
                ("ftp://a.example", "ftp://a.example/"),
                ("fxp://a.example", "!unsupported"),
                ("javascript:alert(1)", "!unsupported"),
                ("mailto:a@b.example", "!unsupported"),
                ("file:///etc/passwd", "!unsupported"),
                ("localhost:80/x", "!unsupported"),
                ("example.com/x", "!malformed"),
                ("//example.com/x", "!malformed"),
                ("/x?y=http://a.example", "!malformed"),
                ("1http://a.example", "!malformed"),
                ("h ttp://a.example", "!malformed"),
                (":", "!malformed"),
            ],
        );
    }

    #[test]
    fn hosts_are_those_of_whatwg() {
        check(
            Policy::Url,
            &[
                ("http:example.com", "http://example.com/"),
                ("http:\\\\example.com\\a", "http://example.com/a"),
                ("http://0x7f.1/", "http://127.0.0.1/"),
                ("http://2130706433", "http://127.0.0.1/"),
                ("http://[2001:DB8::1]:80/", "http://[2001:db8::1]/"),
                ("http://[::ffff:1.2.3.4]/", "http://[::ffff:102:304]/"),
                ("hxxp[:]//faß[.]example", "http://xn--fa-hia.example/"),
                ("http://ex%41mple.com", "http://example.com/"),
                ("http://localhost:8080", "http://localhost:8080/"),
                ("http://example.com.:080/", "http://example.com./"),
                ("ftp://example.com:21/", "ftp://example.com/"),
                ("https://example.com:80/", "https://example.com:80/"),
                ("http://", "!malformed"),
                ("http:///", "!malformed"),
                ("http://?x", "!malformed"),
                ("http://user@/x", "!malformed"),
                ("http://a b.example/", "!malformed"),
                ("http://1.2.3.256/", "!malformed"),
                ("http://xn--a.example/", "!malformed"),
                ("http://a.example:99999/", "!malformed"),
            ],
        );
    }

    #[test]
    fn leaves_out_credentials_and_fragment_only() {
        check(
            Policy::Url,
            &[
                ("http://u:p@a.example:81/x#y", "http://a.example:81/x"),
                ("http://u@v@a.example/", "http://a.example/"),
                ("http://:@a.example/?#", "http://a.example/?"),
                ("https://a.example?", "https://a.example/?"),
                ("https://a.example/x?q#", "https://a.example/x?q"),
            ],
        );
    }

    #[test]
    fn paths_and_queries_are_percent_encoded_by_whatwg() {
        check(
            Policy::Url,
            &[
                ("http://a.example/a^b^?c^d", "http://a.example/a%5Eb%5E?c^d"),
                ("http://a.example/%5e%5E", "http://a.example/%5e%5E"),
                ("http://a.example/a/%2e%2E/b", "http://a.example/b"),
                (
                    "http://a.example/ä b\"<>`{}",
                    "http://a.example/%C3%A4%20b%22%3C%3E%60%7B%7D",
                ),
                (
                    "http://a.example/?ä b'\"<>`{}",
                    "http://a.example/?%C3%A4%20b%27%22%3C%3E`{}",
                ),
                ("http://a.example/a|b[c]", "http://a.example/a|b[c]"),
                ("http://a.example/a[.]php", "http://a.example/a.php"),
            ],
        );
    }

    #[test]
    fn a_bare_host_is_read_like_a_domain_or_an_address() {
        let host = |url| match bare_host(url) {
            Some(BareHost::Domain(host)) => host,
            Some(BareHost::Ip(host)) => format!("ip {host}"),
            None => "-".into(),
        };
        assert_eq!(host("https://co.uk/"), "co.uk");
        assert_eq!(host("http://com./"), "com");
        assert_eq!(host("http://co.uk:81/"), "co.uk");
        assert_eq!(host("http://[::ffff:102:304]/"), "ip 1.2.3.4");
        assert_eq!(host("http://co.uk/?"), "-");
        assert_eq!(host("http://co.uk/x"), "-");
    }
}
