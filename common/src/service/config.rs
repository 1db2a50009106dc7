//! Layered configuration: a TOML file, then the environment on top of it.
//!
//! A variable is a setting only if it begins with the program's own prefix and two underscores,
//! and two underscores part the levels: `SOTTO_BROKER__TLS__TRUST_DOMAIN` is `tls.trust_domain`
//! of the broker. Every other variable, `SOTTO_LOG` among them, is none of this module's
//! business. Within the prefix a name that the configuration type does not know is refused, in
//! the file and in the environment alike: derive with `#[serde(deny_unknown_fields)]`.
//!
//! Variables are texts, and are never guessed to be numbers: "0123" stays what it is in a text
//! field, and is parsed where the field is a number or a yes or no. A list field takes a text with commas
//! through [`list`]. Secrets are not settings: a setting only names their file ([`SecretFile`]).

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use config::{Config, Environment, File, FileFormat};
use serde::de::{DeserializeOwned, Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::files;

/// What keeps a program from starting: the text names the file or the setting, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that holds a secret can be read by others than its owner.
    #[error("{0} can be read by others than its owner; run `chmod 600 {0}`", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A setting is missing, unknown or not of its form.
    #[error("{0}")]
    Setting(String),
}

impl ConfigError {
    pub(super) fn content(path: &Path, problem: impl Into<String>) -> Self {
        Self::Content {
            path: path.into(),
            problem: problem.into(),
        }
    }

    pub(super) fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Unreadable { path, source }
    }

    pub(super) fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Unwritable { path, source }
    }
}

/// Reads the configuration of `program`, e.g. `SOTTO_BROKER`, from `file` and the environment.
///
/// # Errors
/// [`ConfigError`] if the file cannot be read, or a setting is missing, unknown or malformed.
pub fn load<T: DeserializeOwned>(program: &str, file: Option<&Path>) -> Result<T, ConfigError> {
    load_from(program, file, std::env::vars_os())
}

/// As [`load`], with the variables as an argument.
///
/// # Errors
/// As [`load`].
pub fn load_from<T: DeserializeOwned>(
    program: &str,
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<T, ConfigError> {
    let mut builder = Config::builder();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(ConfigError::unreadable(path))?;
        // Parsed here first: the error then names the file, the line and the column.
        Config::builder()
            .add_source(File::from_str(&text, FileFormat::Toml))
            .build()
            .map_err(|error| ConfigError::content(path, error.to_string()))?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let environment = Environment::with_prefix(program)
        .prefix_separator("__")
        .separator("__")
        .source(Some(settings_among(program, variables)?));
    let origin = match file {
        Some(path) => format!("{} or a variable {program}__…", path.display()),
        None => format!("a variable {program}__…, there is no configuration file"),
    };
    builder
        .add_source(environment)
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|error| ConfigError::Setting(format!("{error}; look in {origin}")))
}

/// The variables that are settings of the program.
fn settings_among(
    program: &str,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<config::Map<String, String>, ConfigError> {
    let prefix = format!("{program}__");
    let mut settings = config::Map::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(&prefix)) else {
            continue;
        };
        let value = value
            .into_string()
            .map_err(|_| ConfigError::Setting(format!("the variable {name} is not UTF-8")))?;
        settings.insert(name.to_owned(), value);
    }
    Ok(settings)
}

/// Deserialises a list: a TOML array, or one text with commas as a variable gives it.
///
/// # Errors
/// The deserialiser's, if an element is not of its form.
pub fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Texts;

    impl<'de> Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list, or a text with commas")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            let parts = text.split(',').map(str::trim);
            Ok(parts.filter(|p| !p.is_empty()).map(Into::into).collect())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = items.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }

    deserializer
        .deserialize_any(Texts)?
        .iter()
        .map(|text| text.parse().map_err(D::Error::custom))
        .collect()
}

/// A length of time as people write it: a whole number and `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct HumanDuration(pub Duration);

impl FromStr for HumanDuration {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let invalid = InvalidQuantity("a length of time such as 500ms, 30s, 10m, 12h or 7d");
        let (number, unit) = number_and_unit(text).ok_or(invalid)?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(invalid),
        };
        number
            .checked_mul(milliseconds)
            .map(|total| Self(Duration::from_millis(total)))
            .ok_or(invalid)
    }
}

/// A number of bytes as people write it: a whole number, alone or with `KiB`, `MiB` or `GiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let invalid = InvalidQuantity("a number of bytes such as 4096, 64KiB, 4MiB or 2GiB");
        let (number, unit) = number_and_unit(text).ok_or(invalid)?;
        let bytes = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(invalid),
        };
        number.checked_mul(bytes).map(Self).ok_or(invalid)
    }
}

/// A text that is not a quantity of the kind asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected {0}")]
pub struct InvalidQuantity(&'static str);

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    Some((number.parse().ok()?, unit.trim_start()))
}

macro_rules! from_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = InvalidQuantity;
            fn try_from(text: String) -> Result<Self, InvalidQuantity> {
                text.parse()
            }
        }
    )*};
}
from_text!(HumanDuration, ByteSize);

/// The path of a file that holds a secret; its content is never a setting. A credential of systemd
/// is such a file: `LoadCredential=NAME:…` in the unit, and the setting `%d/NAME` by a variable.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct SecretFile(pub PathBuf);

impl SecretFile {
    /// The content of the file, which only its owner may be able to read.
    ///
    /// # Errors
    /// [`ConfigError`] if it cannot be read, or group or others may read or change it.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
        files::read_private(&self.0)
            .map_err(ConfigError::unreadable(&self.0))?
            .ok_or_else(|| ConfigError::Exposed {
                path: self.0.clone(),
            })
    }
}

/// The section `tls`: who this program is, and whom it believes (protocol §12).
///
/// Paths are taken as they stand, relative ones from the working directory. All the files are
/// read again when they change.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file: this program's certificate, then the intermediate ones.
    pub certificate: PathBuf,
    /// PEM file of mode 0600: the private key of the certificate.
    pub key: SecretFile,
    /// PEM file: the certificates of the authorities that peers must come from.
    pub ca: PathBuf,
    /// PEM file: one revocation list of every authority; without it nothing is ever revoked.
    #[serde(default)]
    pub crl: Option<PathBuf>,
    /// The trust domain of every SPIFFE ID that is believed (protocol §2).
    pub trust_domain: String,
    /// How often the files are looked at for a change.
    #[serde(default = "TlsConfig::default_reload_every")]
    pub reload_every: HumanDuration,
}

impl TlsConfig {
    /// Five seconds.
    #[must_use]
    pub const fn default_reload_every() -> HumanDuration {
        HumanDuration(Duration::from_secs(5))
    }
}

/// The section `tls` of a person's client: as [`TlsConfig`], with a certificate or without one.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientTls {
    /// PEM file: the person's certificate, then the intermediate ones. With `key`, or neither.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// PEM file of mode 0600: the private key of the certificate.
    #[serde(default)]
    pub key: Option<SecretFile>,
    /// PEM file: the certificates of the authorities that the service must come from.
    pub ca: PathBuf,
    /// PEM file: one revocation list of every authority; without it nothing is ever revoked.
    #[serde(default)]
    pub crl: Option<PathBuf>,
    /// The trust domain of every SPIFFE ID that is believed (protocol §2).
    pub trust_domain: String,
    /// As in [`TlsConfig`].
    #[serde(default = "TlsConfig::default_reload_every")]
    pub reload_every: HumanDuration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
        #[serde(default)]
        limits: Limits,
        #[serde(default, deserialize_with = "list")]
        ports: Vec<u16>,
    }

    #[derive(Deserialize, Debug, PartialEq, Default)]
    #[serde(default, deny_unknown_fields)]
    struct Limits {
        sessions: u32,
        strict: bool,
        prior: f64,
        every: Option<HumanDuration>,
        size: Option<ByteSize>,
    }

    fn load_sample(toml: &str, variables: &[(&str, &str)]) -> Result<Sample, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sotto.toml");
        std::fs::write(&path, toml).expect("written");
        let variables = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        load_from("SOTTO_BROKER", Some(&path), variables)
    }

    #[test]
    fn the_environment_goes_over_the_file() {
        let toml = "name = \"a\"\nports = [1, 2]\n[limits]\nsessions = 3\nsize = 512\n";
        let sample = load_sample(
            toml,
            &[
                ("SOTTO_BROKER__LIMITS__SESSIONS", "4"),
                ("SOTTO_BROKER__LIMITS__STRICT", "true"),
                ("SOTTO_BROKER__LIMITS__PRIOR", "0.25"),
                ("SOTTO_BROKER__LIMITS__EVERY", "10m"),
                ("SOTTO_BROKER__PORTS", "7, 8"),
            ],
        )
        .expect("valid");
        let limits = Limits {
            sessions: 4,
            strict: true,
            prior: 0.25,
            every: Some(HumanDuration(Duration::from_mins(10))),
            size: Some(ByteSize(512)),
        };
        assert_eq!(sample.limits, limits);
        assert_eq!(sample.ports, [7, 8]);
        assert_eq!(load_sample(toml, &[]).expect("valid").ports, [1, 2]);
    }

    #[test]
    fn a_text_that_looks_like_a_number_stays_a_text() {
        for text in ["0123", "true", "1e3", "a,b"] {
            let sample = load_sample("", &[("SOTTO_BROKER__NAME", text)]).expect("valid");
            assert_eq!(sample.name, text);
        }
    }

    #[test]
    fn unknown_keys_are_refused_in_the_file_and_in_the_environment() {
        for (toml, variables) in [
            ("name = \"a\"\nnmae = \"b\"", &[][..]),
            ("name = \"a\"\n[limits]\nnmae = 1", &[]),
            ("name = \"a\"", &[("SOTTO_BROKER__NMAE", "b")]),
            ("name = \"a\"", &[("SOTTO_BROKER__LIMITS__NMAE", "b")]),
        ] {
            let error = load_sample(toml, variables).expect_err("unknown");
            let text = error.to_string();
            assert!(
                text.contains("nmae") && text.contains("sotto.toml"),
                "{text}"
            );
        }
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        let others = [
            ("SOTTO_LOG", "debug"),
            ("SOTTO_VECTORS", "x"),
            ("SOTTO_NODE__NAME", "x"),
            ("SOTTO_BROKER_NAME", "x"),
        ];
        assert_eq!(
            load_sample("name = \"a\"", &others).expect("valid").name,
            "a"
        );
    }

    #[test]
    fn errors_name_the_key_or_the_file() {
        let error = load_sample(
            "name = \"a\"",
            &[("SOTTO_BROKER__LIMITS__SESSIONS", "many")],
        );
        assert!(
            error
                .expect_err("no number")
                .to_string()
                .contains("limits.sessions")
        );
        let error = load_sample("", &[]).expect_err("no name").to_string();
        assert!(
            error.contains("name") && error.contains("SOTTO_BROKER__"),
            "{error}"
        );
        let error = load_sample("name = ", &[])
            .expect_err("no TOML")
            .to_string();
        assert!(
            error.contains("sotto.toml") && error.contains("line 1"),
            "{error}"
        );
        let absent = load::<Sample>("SOTTO_BROKER", Some(Path::new("/nowhere/sotto.toml")));
        assert!(
            absent
                .expect_err("absent")
                .to_string()
                .contains("/nowhere/sotto.toml")
        );
    }

    #[test]
    fn quantities_are_whole_numbers_with_a_unit() {
        let seconds = |text: &str| text.parse().map(|HumanDuration(d)| d.as_secs());
        assert_eq!(seconds("30s"), Ok(30));
        assert_eq!(seconds("7d"), Ok(604_800));
        let bytes = |text: &str| text.parse().map(|ByteSize(n)| n);
        assert_eq!(bytes("64 KiB"), Ok(65_536));
        assert_eq!(bytes("4MiB"), Ok(4_194_304));
        for bad in [
            "",
            "s",
            "30",
            "-1s",
            "1.5h",
            "3 weeks",
            "99999999999999999999s",
        ] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        for bad in ["", "KiB", "4MB", "-1", "99999999999GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_the_cure() {
        let dir = tempfile::tempdir().expect("a directory");
        let secret = SecretFile(dir.path().join("key.pem"));
        std::fs::write(&secret.0, "k").expect("written");
        for mode in [0o640, 0o604, 0o620, 0o644] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&secret.0, permissions).expect("set");
            let error = secret.read().expect_err("exposed").to_string();
            assert!(
                error.contains("chmod 600") && error.contains("key.pem"),
                "{error}"
            );
        }
        let permissions = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&secret.0, permissions).expect("set");
        assert_eq!(**secret.read().expect("private"), *b"k");
    }
}
