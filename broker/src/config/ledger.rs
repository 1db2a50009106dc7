//! The setting `ledger`: which engine keeps the ledger, and where.

use std::str::FromStr;

use serde::Deserialize;
use sotto_common::service::config::{ConfigError, SecretFile};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

/// Where the ledger is.
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum Ledger {
    /// `sqlite:`: the file `ledger.db` in the broker's own folder.
    #[default]
    Sqlite,
    /// `postgres://user@host/database`, or `postgres:///database?host=/folder/of/the/socket`.
    Postgres(PostgresUrl),
}

/// The URL of a PostgreSQL database, without its password.
///
/// Over a network `sslmode` is `verify-full` unless the URL says `verify-ca` or `disable`; the
/// modes that encrypt for whoever answers are refused. `sslrootcert`, `sslcert` and `sslkey` name
/// PEM files.
#[derive(Clone, Debug)]
pub struct PostgresUrl(Url);

/// What is wrong with the setting; repeats nothing of it, as it may hold a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("ledger: {0}")]
pub struct InvalidLedger(&'static str);

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

impl FromStr for Ledger {
    type Err = InvalidLedger;

    fn from_str(text: &str) -> Result<Self, InvalidLedger> {
        let form = InvalidLedger("expected `sqlite:` or `postgres://user@host/database`");
        if text == "sqlite:" {
            return Ok(Self::Sqlite);
        }
        if text.starts_with("sqlite:") {
            let text = "the SQLite ledger is always `ledger.db` in `data_dir`: write `sqlite:`";
            return Err(InvalidLedger(text));
        }
        let url = Url::parse(text).map_err(|_| form)?;
        if !["postgres", "postgresql"].contains(&url.scheme()) {
            return Err(form);
        }
        let named = |name: &str| url.query_pairs().any(|(key, _)| key == name);
        if url.password().is_some() || named("password") {
            let text = "takes no password: put it into a file of mode 0600, and name the file in \
                        `ledger_password_file`";
            return Err(InvalidLedger(text));
        }
        if url
            .query_pairs()
            .any(|(key, _)| !PARAMETERS.contains(&&*key))
        {
            let text = "has an unknown parameter; known are host, hostaddr, port, dbname, user, \
                        sslmode, sslrootcert, sslcert, sslkey";
            return Err(InvalidLedger(text));
        }
        let mode = url.query_pairs().find(|(key, _)| key == "sslmode");
        if mode.is_some_and(|(_, mode)| !["disable", "verify-ca", "verify-full"].contains(&&*mode))
        {
            let text = "sslmode is `verify-full` (the default over a network), `verify-ca` or \
                        `disable`";
            return Err(InvalidLedger(text));
        }
        PgConnectOptions::from_str(url.as_str()).map_err(|_| form)?;
        Ok(Self::Postgres(PostgresUrl(url)))
    }
}

impl TryFrom<String> for Ledger {
    type Error = InvalidLedger;

    fn try_from(text: String) -> Result<Self, InvalidLedger> {
        text.parse()
    }
}

impl PostgresUrl {
    /// How to connect, with the password out of its file. A line break at its end is not part of
    /// it.
    ///
    /// # Errors
    /// If the file cannot be read, is readable by others, or is not UTF-8.
    pub(crate) fn options(
        &self,
        password: Option<&SecretFile>,
    ) -> Result<PgConnectOptions, ConfigError> {
        let invalid = |text: String| ConfigError::Setting(format!("ledger: {text}"));
        let mut options =
            PgConnectOptions::from_str(self.0.as_str()).map_err(|e| invalid(e.to_string()))?;
        let on_this_machine = options.get_socket().is_some() || options.get_host().starts_with('/');
        if on_this_machine {
            options = options.ssl_mode(PgSslMode::Disable);
        } else if !self.0.query_pairs().any(|(key, _)| key == "sslmode") {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        if let Some(file) = password {
            let secret = file.read()?;
            let text = std::str::from_utf8(&secret)
                .map_err(|_| invalid("the password is not UTF-8".into()))?;
            options = options.password(text.trim_end_matches(['\r', '\n']));
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres(text: &str) -> PgConnectOptions {
        match text.parse() {
            Ok(Ledger::Postgres(url)) => url.options(None).expect("options"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_engine_is_chosen_by_the_scheme() {
        assert!(matches!("sqlite:".parse(), Ok(Ledger::Sqlite)));
        assert!(matches!(Ledger::default(), Ledger::Sqlite));
        let options = postgres("postgres://broker@db.example/sotto");
        assert_eq!(options.get_host(), "db.example");
        assert_eq!(options.get_username(), "broker");
        assert_eq!(options.get_database(), Some("sotto"));
        let options = postgres("postgresql:///sotto?host=/run/postgresql");
        assert_eq!(
            options.get_socket().expect("a socket").to_str(),
            Some("/run/postgresql")
        );
        for text in [
            "",
            "ledger.db",
            "sqlite:other.db",
            "mysql://host/db",
            "postgres",
        ] {
            text.parse::<Ledger>().expect_err(text);
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
            text.parse::<Ledger>().expect_err(weak);
        }
    }

    #[test]
    fn a_password_stands_in_its_file_and_in_no_text() {
        for text in [
            "postgres://broker:hunter2@db.example/sotto",
            "postgres://db.example/sotto?password=hunter2",
            "postgres://db.example/sotto?pasword=hunter2",
        ] {
            let error = text.parse::<Ledger>().expect_err("refused").to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let dir = tempfile::tempdir().expect("a folder");
        let file = SecretFile(dir.path().join("password"));
        std::fs::write(&file.0, "hunter2\n").expect("written");
        let Ok(Ledger::Postgres(url)) = "postgres://db.example/sotto".parse() else {
            panic!("a URL");
        };
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
