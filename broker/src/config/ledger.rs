//! The setting `ledger`: which engine keeps the ledger, and where.

use std::str::FromStr;

use serde::Deserialize;
use sotto_common::service::postgres::{InvalidPostgresUrl, PostgresUrl};

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

/// What is wrong with the setting; repeats nothing of it, as it may hold a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidLedger {
    /// Neither engine.
    #[error("ledger: expected `sqlite:` or `postgres://user@host/database`")]
    Form,
    /// A file of its own.
    #[error("ledger: the SQLite ledger is always `ledger.db` in `data_dir`: write `sqlite:`")]
    File,
    /// A PostgreSQL database that the setting cannot name so.
    #[error("ledger: {0}")]
    Postgres(InvalidPostgresUrl),
}

impl FromStr for Ledger {
    type Err = InvalidLedger;

    fn from_str(text: &str) -> Result<Self, InvalidLedger> {
        if text == "sqlite:" {
            return Ok(Self::Sqlite);
        }
        if text.starts_with("sqlite:") {
            return Err(InvalidLedger::File);
        }
        text.parse()
            .map(Self::Postgres)
            .map_err(|error| match error {
                InvalidPostgresUrl::Form => InvalidLedger::Form,
                other => InvalidLedger::Postgres(other),
            })
    }
}

impl TryFrom<String> for Ledger {
    type Error = InvalidLedger;

    fn try_from(text: String) -> Result<Self, InvalidLedger> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_chosen_by_the_scheme() {
        assert!(matches!("sqlite:".parse(), Ok(Ledger::Sqlite)));
        assert!(matches!(Ledger::default(), Ledger::Sqlite));
        assert!(matches!(
            "postgres://broker@db.example/sotto".parse(),
            Ok(Ledger::Postgres(_))
        ));
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
    fn a_password_in_the_setting_is_refused_and_not_repeated() {
        let error = "postgres://broker:hunter2@db.example/sotto"
            .parse::<Ledger>()
            .expect_err("refused")
            .to_string();
        assert!(error.starts_with("ledger: takes no password"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
