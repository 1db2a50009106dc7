//! What a node is told: its configuration file and environment.

mod labels;
mod query;
mod sources;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use sotto_common::ids::{CommunityId, NodeId};
use sotto_common::log::checkpoint::LogKey;
use sotto_common::probe::MAX_BATCH;
use sotto_common::service::at_rest::ColumnCipher;
use sotto_common::service::config::{self, ConfigError, HumanDuration, SecretFile, TlsConfig};
use sotto_common::service::metrics::MetricsConfig;
use sotto_common::service::telemetry::LogConfig;
use sotto_common::service::tls::{ClientCertificates, ConnectionLimits};

use crate::auth::oidc::OidcConfig;

pub use labels::LabelsConfig;
pub use sources::{Columns, SourceConfig, SourceDatabase, Sources};

/// Variables of the environment that go over the file begin with this and two underscores.
pub const ENVIRONMENT_PREFIX: &str = "SOTTO_NODE";

/// Everything cannot be asked again more often than this: each time costs its share of the quota.
const SHORTEST_REFRESH: Duration = Duration::from_hours(1);

/// The configuration of a node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// This node; its certificate must carry it.
    #[serde(deserialize_with = "parsed")]
    pub node_id: NodeId,
    /// The community it belongs to.
    #[serde(deserialize_with = "parsed")]
    pub community: CommunityId,
    /// Store, keys and outbox; mode 0700.
    pub data_dir: PathBuf,
    /// Where keys are kept; default `keys` in the data directory.
    #[serde(default)]
    pub keys_dir: Option<PathBuf>,
    /// The list of keys that seal the store and the keys of the node; default `store.keys` in the
    /// folder of keys.
    #[serde(default)]
    pub store_keys_file: Option<SecretFile>,
    /// Where analysts reach the node; port 0 takes a free one.
    pub listen: SocketAddr,
    /// File that the bound address is written to once the node takes calls.
    #[serde(default)]
    pub address_file: Option<PathBuf>,
    /// Who this node is, and whom it believes. The trust domain is here.
    pub tls: TlsConfig,
    /// Where the broker is.
    pub broker: BrokerConfig,
    /// The nodes that may sign epoch manifests, by this node's own judgement (protocol §8).
    #[serde(deserialize_with = "config::list")]
    pub custodians: Vec<NodeId>,
    /// A file of canonical values that are too common, beside the built-in ones (selectors.md).
    #[serde(default)]
    pub stop_list: Option<PathBuf>,
    /// Who may call the node's services, and as what; without it the role is the one in the
    /// certificate. Read again when it changes.
    #[serde(default)]
    pub roles_file: Option<PathBuf>,
    /// Whose access tokens are taken instead of certificates; without it none are.
    #[serde(default)]
    pub oidc: Option<OidcConfig>,
    /// Bounds on the connections of analysts.
    #[serde(default)]
    pub connections: ConnectionLimits,
    /// What the service does by itself, and when.
    #[serde(default)]
    pub service: Settings,
    /// Databases of the unit that datasets are filled from.
    #[serde(default)]
    pub sources: Sources,
    /// The audit log of the community; without it the node follows none.
    #[serde(default)]
    pub audit_log: Option<AuditLogConfig>,
    /// How log lines look.
    #[serde(default)]
    pub log: LogConfig,
    /// Where metrics can be read.
    #[serde(default)]
    pub metrics: MetricsConfig,
}

/// Where the broker is, and who it must be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// `https://host:port`; the broker's certificate must be good for the host.
    pub endpoint: String,
    /// The name in the broker's SPIFFE ID; without it any broker of the trust domain will do.
    #[serde(default)]
    pub name: Option<String>,
}

/// The audit log that this node follows as a witness (protocol §11).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditLogConfig {
    /// The key of the log, a verifier key of c2sp.org/signed-note, as the operator gives it out of
    /// band (`sotto-broker log-key`).
    #[serde(deserialize_with = "parsed")]
    pub verifier_key: LogKey,
}

/// What the service does by itself, and when.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// When filters are published.
    pub publisher: PublisherConfig,
    /// When datasets are probed.
    pub prober: ProberConfig,
    /// What is done about epochs.
    pub epochs: EpochsConfig,
}

impl Settings {
    /// Refuses what does not do, naming the setting.
    fn check(&self) -> Result<(), ConfigError> {
        if self.prober.pad_batches_to as usize > MAX_BATCH {
            return Err(ConfigError::Setting(format!(
                "service.prober.pad_batches_to: at most {MAX_BATCH}, the pairs of a batch"
            )));
        }
        if self.prober.refresh_every.0 < SHORTEST_REFRESH {
            return Err(ConfigError::Setting(
                "service.prober.refresh_every: at least 1h; what changes is asked at once anyway"
                    .into(),
            ));
        }
        Ok(())
    }
}

/// When filters are published by themselves (protocol §5.4).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublisherConfig {
    /// A base is published once in each period of this length, at a random minute of it.
    pub base_every: HumanDuration,
    /// What is new goes out once nothing was added for this time.
    pub debounce: HumanDuration,
    /// But at the latest after this time.
    pub patience: HumanDuration,
    /// When the time of a row is over, rows whose time is over within this time go with it: there is
    /// at most one base for them in so long, and none of them matches too long.
    pub gather_expiries: HumanDuration,
    /// What filters say to those who match them.
    pub labels: LabelsConfig,
}

impl Default for PublisherConfig {
    fn default() -> Self {
        Self {
            base_every: HumanDuration(Duration::from_hours(24)),
            debounce: HumanDuration(Duration::from_secs(2)),
            patience: HumanDuration(Duration::from_secs(10)),
            gather_expiries: HumanDuration(Duration::from_hours(1)),
            labels: LabelsConfig::default(),
        }
    }
}

/// When datasets are probed by themselves (protocol §7).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProberConfig {
    /// Everything is asked of every holder again within this time, though nothing has changed.
    pub refresh_every: HumanDuration,
    /// Batches are filled up with decoys to this size, 0 to 4096; 0 = not at all. What is filled up
    /// counts against the quota; where less of it is left, batches are of what is left.
    pub pad_batches_to: u32,
}

impl Default for ProberConfig {
    fn default() -> Self {
        Self {
            refresh_every: HumanDuration(Duration::from_hours(7 * 24)),
            pad_batches_to: 0,
        }
    }
}

/// What is done about epochs by itself (protocol §8).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EpochsConfig {
    /// Take and confirm a new epoch if its manifest passes every check.
    pub fetch: bool,
    /// As custodian: open the next epoch this long before the last one is over. Not at all if it is
    /// left out. One custodian of a community does.
    pub open_before_end: Option<HumanDuration>,
}

impl Default for EpochsConfig {
    fn default() -> Self {
        Self {
            fetch: true,
            open_before_end: None,
        }
    }
}

impl NodeConfig {
    /// Reads the configuration from a file and the environment.
    ///
    /// # Errors
    /// [`ConfigError`] if the file cannot be read, or a setting is missing, unknown, malformed or
    /// out of its bounds.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let config: Self = config::load(ENVIRONMENT_PREFIX, file)?;
        config.service.check()?;
        config.check_log()?;
        Ok(config)
    }

    /// Refuses the key of another community's log: none of its checkpoints would count.
    fn check_log(&self) -> Result<(), ConfigError> {
        let Some(log) = &self.audit_log else {
            return Ok(());
        };
        let origin = log.verifier_key.origin();
        if origin.community() == &self.community {
            return Ok(());
        }
        Err(ConfigError::Setting(format!(
            "audit_log.verifier_key: is of the log {origin}, and this node of the community {}",
            self.community
        )))
    }

    /// Whether people must show a certificate: unless there are access tokens.
    pub const fn client_certificates(&self) -> ClientCertificates {
        match self.oidc {
            None => ClientCertificates::Required,
            Some(_) => ClientCertificates::Optional,
        }
    }

    /// Where keys are kept.
    pub fn keys_dir(&self) -> PathBuf {
        self.keys_dir
            .clone()
            .unwrap_or_else(|| self.data_dir.join("keys"))
    }

    /// The list of keys that seal the store and the keys of the node.
    pub fn store_keys_file(&self) -> SecretFile {
        self.store_keys_file
            .clone()
            .unwrap_or_else(|| SecretFile(self.keys_dir().join("store.keys")))
    }

    /// Reads the list of keys that seal the store and the keys of the node.
    ///
    /// # Errors
    /// [`ConfigError`] if it is not there, not private, or no key list.
    pub fn store_cipher(&self) -> Result<ColumnCipher, ConfigError> {
        let file = self.store_keys_file();
        ColumnCipher::load(&file).map_err(|error| match error {
            ConfigError::Unreadable { path, source }
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                let problem = "there is no such key list: `sotto-node init --config FILE` makes \
                               it; if there was one, put it back, nothing else opens the store"
                    .into();
                ConfigError::Content { path, problem }
            }
            error => error,
        })
    }

    /// Where filters wait until they are uploaded.
    pub fn outbox_dir(&self) -> PathBuf {
        self.data_dir.join("outbox")
    }

    /// Where the files of follow-ups are, sealed to the requester, until nobody needs them here.
    pub fn attachments_dir(&self) -> PathBuf {
        self.data_dir.join("attachments")
    }

    /// The file of the store.
    pub fn store_file(&self) -> PathBuf {
        self.data_dir.join("node.db")
    }
}

fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use sotto_common::dsse::SigningKey;
    use sotto_common::random::os_rng;

    use super::*;

    const FILE: &str = r#"
        node_id = "nl-fiu"
        community = "euro-cyber"
        data_dir = "/var/lib/sotto"
        listen = "127.0.0.1:0"
        custodians = ["nl-fiu", "de-bka"]
        [broker]
        endpoint = "https://broker.example:8443"
        [tls]
        certificate = "node.pem"
        key = "node.key"
        ca = "ca.pem"
        trust_domain = "sotto.example"
    "#;

    fn load(text: &str) -> Result<NodeConfig, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("node.toml");
        std::fs::write(&path, text).expect("written");
        let config: NodeConfig = config::load_from(ENVIRONMENT_PREFIX, Some(&path), [])?;
        config.service.check()?;
        config.check_log()?;
        Ok(config)
    }

    #[test]
    fn the_key_of_the_log_is_of_the_community_of_the_node() {
        let key = |community: &str| {
            let origin = format!("broker.example/sotto/{community}");
            let key = SigningKey::generate(&mut os_rng()).verifying_key();
            LogKey::new(origin.parse().expect("an origin"), key)
        };
        let with = |key: &str| load(&format!("{FILE}[audit_log]\nverifier_key = '{key}'\n"));
        let own = key("euro-cyber");
        let config = with(&own.to_string()).expect("valid");
        assert_eq!(config.audit_log.map(|log| log.verifier_key), Some(own));
        let error = with(&key("euro-fraud").to_string()).expect_err("refused");
        assert!(error.to_string().contains("audit_log.verifier_key"));
        assert!(with("broker.example").is_err());
    }

    #[test]
    fn a_small_file_is_enough() {
        let config = load(FILE).expect("valid");
        assert_eq!(config.custodians.len(), 2);
        assert_eq!(config.keys_dir(), Path::new("/var/lib/sotto/keys"));
        let list = config.store_keys_file().0;
        assert_eq!(list, Path::new("/var/lib/sotto/keys/store.keys"));
    }

    #[test]
    fn settings_out_of_their_bounds_are_refused_and_named() {
        let with = |line: &str| load(&format!("{FILE}[service.prober]\n{line}\n"));
        assert!(with("pad_batches_to = 4096").is_ok());
        for (line, name) in [
            ("pad_batches_to = 4097", "service.prober.pad_batches_to"),
            ("refresh_every = '10m'", "service.prober.refresh_every"),
        ] {
            let error = with(line).expect_err("refused");
            assert!(matches!(&error, ConfigError::Setting(text) if text.contains(name)));
        }
    }

    #[test]
    fn a_missing_key_list_says_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = load(FILE).expect("valid");
        config.store_keys_file = Some(SecretFile(dir.path().join("store.keys")));
        let error = config.store_cipher().expect_err("not there").to_string();
        assert!(
            error.contains("store.keys") && error.contains("sotto-node init"),
            "{error}"
        );
    }

    #[test]
    fn ids_are_checked_and_unknown_settings_refused() {
        assert!(load(&FILE.replace("nl-fiu", "NL")).is_err());
        assert!(load(&FILE.replace("[broker]", "x = 1\n[broker]")).is_err());
    }
}
