//! `file_hash/1`: digests of files.

use super::{Form, Rejection, strip_prefix_any_case};

pub(super) const FORM: Form = Form {
    takes_region: false,
    refang: false,
    canonical,
    is_too_common: |canonical| EMPTY_INPUT.contains(&canonical),
    canaries: &["MD5:D41D8CD98F00B204E9800998ECF8427E"],
};

/// Prefixes and the number of hex digits they announce.
const PREFIXES: [(&str, usize); 7] = [
    ("md5:", 32),
    ("sha1:", 40),
    ("sha-1:", 40),
    ("sha256:", 64),
    ("sha-256:", 64),
    ("sha512:", 128),
    ("sha-512:", 128),
];

/// MD5, SHA-1, SHA-256 and SHA-512 of the empty input.
const EMPTY_INPUT: [&str; 4] = [
    "d41d8cd98f00b204e9800998ecf8427e",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
     47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
];

fn canonical(input: &str, _region: Option<&str>) -> Result<String, Rejection> {
    let announced = PREFIXES.iter().find_map(|&(prefix, digits)| {
        strip_prefix_any_case(input, prefix).map(|rest| (rest.trim_start(), digits))
    });
    let (digest, has_length) = match announced {
        Some((digest, digits)) => (digest, digest.len() == digits),
        None => (input, matches!(input.len(), 32 | 40 | 64 | 128)),
    };
    if has_length && digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(digest.to_ascii_lowercase())
    } else {
        Err(Rejection::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use sha2::Digest;

    use super::super::{Policy, tests::check};
    use super::*;

    #[test]
    fn prefixes_agree_with_the_length() {
        for (prefix, digits) in PREFIXES {
            let digest = "aB".repeat(digits / 2);
            let lower = digest.to_lowercase();
            check(
                Policy::FileHash,
                &[
                    (&digest, &lower),
                    (&format!("{prefix}{digest}"), &lower),
                    (&format!("{}\u{a0} {digest}", prefix.to_uppercase()), &lower),
                    (&format!("{prefix}{digest}ab"), "!malformed"),
                    (prefix, "!malformed"),
                ],
            );
        }
        let md5 = "ab".repeat(16);
        check(Policy::FileHash, &[(&format!("sha1:{md5}"), "!malformed")]);
    }

    #[test]
    fn refuses_everything_else() {
        let md5 = "ab".repeat(16);
        for bad in [
            format!("md5 :{md5}"),
            format!("md5={md5}"),
            format!("md5:md5:{md5}"),
            format!("sha3-256:{}", md5.repeat(2)),
            format!("{md5} "),
            format!("{}g", &md5[1..]),
            format!("0x{md5}"),
            format!("{}a\u{308}", &md5[3..]),
            "ab".repeat(28),
            "ab ".repeat(16),
        ] {
            let expected = if bad.trim() == md5 {
                md5.as_str()
            } else {
                "!malformed"
            };
            check(Policy::FileHash, &[(&bad, expected)]);
        }
    }

    #[test]
    fn hashes_of_nothing_are_too_common() {
        for common in EMPTY_INPUT {
            assert!((FORM.is_too_common)(common));
        }
        assert_eq!(EMPTY_INPUT[2], hex::encode(sha2::Sha256::digest(b"")));
        assert_eq!(EMPTY_INPUT[3], hex::encode(sha2::Sha512::digest(b"")));
        assert!(!(FORM.is_too_common)(&"0".repeat(32)));
    }
}
