//! Where a PostgreSQL database is, as a setting: a URL without its password.

use std::str::FromStr;

use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use super::config::{ConfigError, SecretFile};

/// The URL of a PostgreSQL database, without its password: `postgres://user@host/database`, or
/// `postgres:///database?host=/folder/of/the/socket`.
///
/// Over a network `sslmode` is `verify-full` unless the URL says `verify-ca` or `disable`; the
/// modes that encrypt for whoever answers are refused. `sslrootcert`, `sslcert` and `sslkey` name
/// PEM files.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct PostgresUrl(Url);

/// What is wrong with the URL; repeats nothing of it, as it may hold a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidPostgresUrl {
    /// It is no URL of a PostgreSQL database.
    #[error("expected `postgres://user@host/database`")]
    Form,
    /// It carries a password.
    #[error(
        "takes no password: put it into a file of mode 0600, and name the file in the setting \
         beside this one that ends with `password_file`"
    )]
    Password,
    /// It carries a parameter that is not known.
    #[error(
        "has an unknown parameter; known are host, hostaddr, port, dbname, user, sslmode, \
         sslrootcert, sslcert, sslkey"
    )]
    Parameter,
    /// It asks for a connection that does not verify the server.
    #[error("sslmode is `verify-full` (the default over a network), `verify-ca` or `disable`")]
    Mode,
}

/// The parameters that a URL may carry.
const PARAMETERS: [&str; 9] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
];

impl FromStr for PostgresUrl {
    type Err = InvalidPostgresUrl;

    fn from_str(text: &str) -> Result<Self, InvalidPostgresUrl> {
        let url = Url::parse(text).map_err(|_| InvalidPostgresUrl::Form)?;
        if !["postgres", "postgresql"].contains(&url.scheme()) {
            return Err(InvalidPostgresUrl::Form);
        }
        let named = |name: &str| url.query_pairs().any(|(key, _)| key == name);
        if url.password().is_some() || named("password") {
            return Err(InvalidPostgresUrl::Password);
        }
        if url
            .query_pairs()
            .any(|(key, _)| !PARAMETERS.contains(&&*key))
        {
            return Err(InvalidPostgresUrl::Parameter);
        }
        let mode = url.query_pairs().find(|(key, _)| key == "sslmode");
        if mode.is_some_and(|(_, mode)| !["disable", "verify-ca", "verify-full"].contains(&&*mode))
        {
            return Err(InvalidPostgresUrl::Mode);
        }
        PgConnectOptions::from_str(url.as_str()).map_err(|_| InvalidPostgresUrl::Form)?;
        Ok(Self(url))
    }
}

impl TryFrom<String> for PostgresUrl {
    type Error = InvalidPostgresUrl;

    fn try_from(text: String) -> Result<Self, InvalidPostgresUrl> {
        text.parse()
    }
}

impl PostgresUrl {
    /// The URL; there is no secret in it.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// How to connect, with the password out of its file. A line break at its end is not part of
    /// it.
    ///
    /// # Errors
    /// If the file cannot be read, is readable by others, or is not UTF-8.
    pub fn options(&self, password: Option<&SecretFile>) -> Result<PgConnectOptions, ConfigError> {
        let mut options = PgConnectOptions::from_str(self.0.as_str())
            .map_err(|error| ConfigError::Setting(error.to_string()))?;
        let on_this_machine = options.get_socket().is_some() || options.get_host().starts_with('/');
        if on_this_machine {
            options = options.ssl_mode(PgSslMode::Disable);
        } else if !self.0.query_pairs().any(|(key, _)| key == "sslmode") {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        if let Some(file) = password {
            let secret = file.read()?;
            let text = std::str::from_utf8(&secret)
                .map_err(|_| ConfigError::content(&file.0, "the password is not UTF-8"))?;
            options = options.password(text.trim_end_matches(['\r', '\n']));
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres(text: &str) -> PgConnectOptions {
        let url: PostgresUrl = text.parse().expect("a URL");
        url.options(None).expect("options")
    }

    #[test]
    fn a_url_names_user_host_and_database_or_a_socket() {
        let options = postgres("postgres://broker@db.example/sotto");
        assert_eq!(options.get_host(), "db.example");
        assert_eq!(options.get_username(), "broker");
        assert_eq!(options.get_database(), Some("sotto"));
        let options = postgres("postgresql:///sotto?host=/run/postgresql");
        assert_eq!(
            options.get_socket().expect("a socket").to_str(),
            Some("/run/postgresql")
        );
        for text in ["", "ledger.db", "mysql://host/db", "postgres"] {
            text.parse::<PostgresUrl>().expect_err(text);
        }
    }

    #[test]
    fn over_a_network_the_server_is_verified_unless_the_url_says_otherwise() {
        let mode = |text| postgres(text).get_ssl_mode();
        assert!(matches!(
            mode("postgres://db.example/sotto"),
            PgSslMode::VerifyFull
        ));
        assert!(matches!(
            mode("postgres://localhost/sotto?sslmode=disable"),
            PgSslMode::Disable
        ));
        for weak in ["allow", "prefer", "require", "nonsense"] {
            let text = format!("postgres://db.example/sotto?sslmode={weak}");
            text.parse::<PostgresUrl>().expect_err(weak);
        }
    }

    #[test]
    fn a_password_stands_in_its_file_and_in_no_text() {
        for text in [
            "postgres://broker:hunter2@db.example/sotto",
            "postgres://db.example/sotto?password=hunter2",
            "postgres://db.example/sotto?pasword=hunter2",
        ] {
            let error = text
                .parse::<PostgresUrl>()
                .expect_err("refused")
                .to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let dir = tempfile::tempdir().expect("a folder");
        let file = SecretFile(dir.path().join("password"));
        std::fs::write(&file.0, "hunter2\n").expect("written");
        let url: PostgresUrl = "postgres://db.example/sotto".parse().expect("a URL");
        set_mode(&file, 0o644);
        url.options(Some(&file)).expect_err("exposed");
        set_mode(&file, 0o600);
        url.options(Some(&file)).expect("read");
    }

    fn set_mode(file: &SecretFile, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&file.0, permissions).expect("set");
    }
}
