//! The name of a log (protocol §11): `<configured log name>/sotto/<community>`.

use std::fmt;
use std::str::FromStr;

use super::note::KeyName;
use crate::ids::{CommunityId, InvalidId};

const SEPARATOR: &str = "/sotto/";
const MAX_LOG_NAME: usize = 128;

/// The name of a broker's logs: a URL without its scheme, e.g. `broker.example`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LogName(Box<str>);

impl LogName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogName {
    type Err = InvalidId;

    /// From 1 to 128 of `[a-z0-9._:/-]` that begin and end with a letter or digit.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let valid = bytes.len() <= MAX_LOG_NAME
            && bytes.first().is_some_and(|byte| is_plain(*byte))
            && bytes.last().is_some_and(|byte| is_plain(*byte))
            && bytes
                .iter()
                .all(|byte| is_plain(*byte) || b"._:/-".contains(byte));
        valid.then(|| Self(text.into())).ok_or(InvalidId {
            kind: "log name",
            expected: "1 to 128 of [a-z0-9._:/-], a letter or digit at both ends",
        })
    }
}

/// The log of one community at one broker: the first line of its checkpoints, and the name of the
/// key that signs them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LogOrigin {
    log: LogName,
    community: CommunityId,
}

impl LogOrigin {
    /// The log of a community.
    #[must_use]
    pub const fn new(log: LogName, community: CommunityId) -> Self {
        Self { log, community }
    }

    /// The name of the broker's logs.
    pub const fn log(&self) -> &LogName {
        &self.log
    }

    /// The community.
    pub const fn community(&self) -> &CommunityId {
        &self.community
    }

    /// The name of the key that signs its checkpoints.
    #[expect(clippy::missing_panics_doc, reason = "an origin is a key name")]
    pub fn key_name(&self) -> KeyName {
        // Unwrap safety: neither part can hold a space, a plus or a control character.
        self.to_string().parse().expect("an origin is a key name")
    }
}

impl fmt::Display for LogOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SEPARATOR}{}", self.log.0, self.community)
    }
}

impl FromStr for LogOrigin {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (log, community) = text.rsplit_once(SEPARATOR).ok_or(InvalidId {
            kind: "log origin",
            expected: "<log name>/sotto/<community>",
        })?;
        Ok(Self::new(log.parse()?, community.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_come_back_and_name_their_key() {
        for text in [
            "broker.example/sotto/euro-cyber",
            "logs.example:8443/eu/1/sotto/a",
            "a/sotto/b/sotto/c",
        ] {
            let origin: LogOrigin = text.parse().unwrap();
            assert_eq!(origin.to_string(), text);
            assert_eq!(origin.key_name().as_str(), text);
        }
        let nested: LogOrigin = "a/sotto/b/sotto/c".parse().unwrap();
        assert_eq!(nested.community().as_str(), "c");
        assert_eq!(nested.log().as_str(), "a/sotto/b");
    }

    #[test]
    fn refuses_what_is_no_origin() {
        let long = format!("{}/sotto/a", "a".repeat(129));
        for bad in [
            "",
            "broker.example",
            "/sotto/a",
            "a/sotto/",
            "a/sotto/A",
            "A/sotto/a",
            "a b/sotto/a",
            "a+b/sotto/a",
            "a//sotto/a",
            "a/sotto/a/b",
            "a\n/sotto/a",
            "https://a/sotto/a\n",
            &long,
        ] {
            assert!(bad.parse::<LogOrigin>().is_err(), "{bad:?}");
        }
    }
}
