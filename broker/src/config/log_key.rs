//! Where the key of the audit log is.

use std::path::Path;

use rand::CryptoRng;
use sotto_common::dsse::SigningKey;
use sotto_common::service::config::{ConfigError, SecretFile};
use sotto_common::service::key_file;

use super::{Config, Ledger};

/// The file of the log's key.
#[derive(Clone, Debug)]
pub(crate) struct LogKeyFile {
    file: SecretFile,
    may_be_made: bool,
}

impl LogKeyFile {
    /// The file that a configuration names, or means.
    ///
    /// # Errors
    /// If it must be named: brokers on one ledger have one key, and none of them may make its own.
    pub(crate) fn of(config: &Config) -> Result<Self, ConfigError> {
        let (file, may_be_made) = match (&config.log_key_file, &config.ledger) {
            (Some(file), _) => (file.clone(), false),
            (None, Ledger::Sqlite) => (SecretFile(config.data_dir.join("log.key")), true),
            (None, Ledger::Postgres(_)) => {
                let text = "log_key_file: must be set with a ledger on PostgreSQL, to a file that \
                            is the same for every broker on it; make it with `(umask 077 && \
                            sotto-broker ledger new-log-key > log.key)`";
                return Err(ConfigError::Setting(text.into()));
            }
        };
        Ok(Self { file, may_be_made })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.file.0
    }

    /// Whether the broker makes it where there is none yet.
    pub(crate) const fn may_be_made(&self) -> bool {
        self.may_be_made
    }

    /// The key; `None` if there is no such file.
    ///
    /// # Errors
    /// [`ConfigError`] if it cannot be read, if others may, or if it holds no key.
    pub(crate) fn read(&self) -> Result<Option<SigningKey>, ConfigError> {
        key_file::read(&self.file)
    }

    /// Makes a new key, and the file with it.
    ///
    /// # Errors
    /// [`ConfigError`] if it cannot be written.
    pub(crate) fn make(&self, rng: &mut impl CryptoRng) -> Result<SigningKey, ConfigError> {
        let key = key_file::make(&self.file, rng)?;
        let file = self.path().display();
        tracing::info!(%file, "key of the audit log made: keep a copy of it off line");
        Ok(key)
    }
}
