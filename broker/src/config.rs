//! The configuration of the broker: a TOML file, then `SOTTO_BROKER__…` from the environment.

mod ledger;
mod log_key;
mod objects;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};
use sotto_common::log::origin::LogName;
use sotto_common::service::config::{ByteSize, SecretFile, TlsConfig};
use sotto_common::service::metrics::MetricsConfig;
use sotto_common::service::telemetry::LogConfig;
use sotto_common::service::tls::ConnectionLimits;

pub use ledger::{InvalidLedger, Ledger};
pub(crate) use log_key::LogKeyFile;
pub use objects::{InvalidObjects, ObjectsUrl, S3Url};

/// What the name of every variable begins with.
pub const PROGRAM: &str = "SOTTO_BROKER";

/// Everything that can be configured; unknown keys are refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen, e.g. `0.0.0.0:7443`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// File that the bound address is written to once the broker answers.
    #[serde(default)]
    pub address_file: Option<PathBuf>,
    /// Folder of one broker alone, with its copies of the filters, and of the ledger on SQLite; made
    /// with mode 0700 if it is not there.
    pub data_dir: PathBuf,
    /// Where the ledger is: `sqlite:`, the default, is `ledger.db` in `data_dir`; otherwise the
    /// URL of a PostgreSQL database.
    #[serde(default)]
    pub ledger: Ledger,
    /// File of mode 0600 with the password of the PostgreSQL database.
    #[serde(default)]
    pub ledger_password_file: Option<SecretFile>,
    /// File of mode 0600 with the keys that seal what is sensitive in the ledger, the first one; none
    /// = in clear. Every broker on a ledger has the same.
    #[serde(default)]
    pub ledger_keys_file: Option<SecretFile>,
    /// Where the filters are: `local:`, the default, is `objects` in `data_dir`; otherwise a folder,
    /// `file:///…`, or a bucket, `s3://…`, which all brokers on a ledger share.
    #[serde(default)]
    pub objects: ObjectsUrl,
    /// File of mode 0600 with the credentials for the bucket.
    #[serde(default)]
    pub objects_credentials_file: Option<SecretFile>,
    /// Name of the audit logs, e.g. the host under which this broker is known. It stands in every
    /// checkpoint, and must never change.
    #[serde(default = "default_log_name", deserialize_with = "log_name")]
    pub log_name: LogName,
    /// File of mode 0600 with the key that signs the checkpoints of the audit logs; none = `log.key`
    /// in `data_dir`, made at the first start. Every broker on a ledger has the same: with PostgreSQL
    /// it must be given.
    #[serde(default)]
    pub log_key_file: Option<SecretFile>,
    /// End the publications whose filters are lost, instead of not starting; of the command line
    /// only, for one start.
    #[serde(skip)]
    pub end_lost_filters: bool,
    /// How batches are tested.
    #[serde(default)]
    pub matcher: MatcherConfig,
    /// Certificate, key and authorities.
    pub tls: TlsConfig,
    /// Bounds on connections.
    #[serde(default)]
    pub connections: ConnectionLimits,
    /// Log lines.
    #[serde(default)]
    pub log: LogConfig,
    /// Where metrics can be read.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// Where the audit logs can be read by tools of others.
    #[serde(default)]
    pub tiles: TilesConfig,
}

/// The section `matcher`: what testing may take of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MatcherConfig {
    /// Memory that active filters are copied into, in huge pages where the system has them. A filter
    /// for which none is left is tested in its file, which the system keeps in memory as it sees fit.
    pub memory: ByteSize,
    /// Threads that test batches; without it one for each core. The threads of calls go before them.
    pub threads: Option<NonZeroUsize>,
}

impl Default for MatcherConfig {
    fn default() -> Self {
        Self {
            memory: ByteSize(1 << 30),
            threads: None,
        }
    }
}

/// The section `tiles`: the audit logs as c2sp.org/tlog-tiles has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TilesConfig {
    /// Where `GET /<community>/checkpoint` and what is beside it answer over HTTPS, with the
    /// certificate of `tls`; port 0 takes a free one. Without it nothing does.
    ///
    /// Nobody is asked for a certificate: leaves tell kind, hour and a digest, and no more.
    pub listen: Option<SocketAddr>,
    /// Bounds on connections there.
    pub connections: ConnectionLimits,
}

/// What the logs are called if nothing is said.
#[expect(clippy::missing_panics_doc, reason = "a constant")]
#[must_use]
pub fn default_log_name() -> LogName {
    // Unwrap safety: letters and a dot.
    "sotto.local".parse().expect("a log name")
}

fn log_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LogName, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sotto_common::service::config;

    use super::*;

    #[test]
    fn every_sample_is_a_configuration() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config");
        let samples = std::fs::read_dir(folder).expect("samples");
        let mut replicated = 0;
        let mut read = 0;
        for sample in samples {
            let path = sample.expect("a sample").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            if !name.starts_with("broker") {
                continue;
            }
            let config: Config = config::load_from(PROGRAM, Some(&path), []).expect(&name);
            read += 1;
            LogKeyFile::of(&config).expect(&name);
            let shares = matches!(config.ledger, Ledger::Postgres(_))
                && matches!(config.objects, ObjectsUrl::S3(_));
            replicated += u32::from(shares && config.ledger_keys_file.is_some());
        }
        assert_eq!((read, replicated), (2, 1));
    }
}
