//! `[[sources]]`: datasets that are filled from the unit's own databases.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use serde::Deserialize;
use sotto_common::selector::Policy;
use sotto_common::service::config::{HumanDuration, SecretFile};
use sotto_common::service::postgres::PostgresUrl;

use super::query::one_statement;
use crate::app::import::is_dataset_name;

/// The sources, each of another dataset.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "Vec<SourceConfig>")]
pub struct Sources(Vec<SourceConfig>);

/// A dataset that is filled by a query.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct SourceConfig {
    /// The dataset; made by the first run.
    pub dataset: String,
    /// The selectors' policy.
    pub policy: Policy,
    /// Where the query is put.
    pub database: SourceDatabase,
    /// The query: one statement, without a semicolon.
    pub query: String,
    /// What the columns of its result are.
    pub columns: Columns,
    /// Region hint of rows that have none of their own; may be empty.
    pub region: String,
    /// How often rows that have changed are taken; `None` without a watermark column.
    pub every: Option<Duration>,
    /// How often the whole result is compared with the dataset.
    pub full_every: Duration,
    /// A run that takes longer is given up.
    pub timeout: Duration,
    /// Whether a whole result may be less than half of what the dataset has.
    pub allow_shrink: bool,
}

/// A database that is only read.
#[derive(Clone, Debug)]
pub enum SourceDatabase {
    /// A PostgreSQL server.
    Postgres {
        /// Where it is.
        url: PostgresUrl,
        /// File of mode 0600 with the password.
        password: Option<SecretFile>,
    },
    /// A file of SQLite.
    Sqlite(PathBuf),
}

/// The names of the columns of a query's result, as it spells them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// The selector as written.
    pub value: String,
    /// The id of the record it belongs to.
    pub record: Option<String>,
    /// The row's own region hint.
    pub region: Option<String>,
    /// Grows whenever a row is new or changes.
    pub watermark: Option<String>,
    /// When the row is no longer good.
    pub expires: Option<String>,
}

impl Columns {
    /// The settings and the columns they name.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("value", Some(&self.value)),
            ("record", self.record.as_ref()),
            ("region", self.region.as_ref()),
            ("watermark", self.watermark.as_ref()),
            ("expires", self.expires.as_ref()),
        ]
        .into_iter()
        .filter_map(|(setting, column)| Some((setting, column?.as_str())))
    }
}

/// A source as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    dataset: String,
    #[serde(rename = "type")]
    selector_type: String,
    database: String,
    password_file: Option<SecretFile>,
    query: String,
    columns: Columns,
    #[serde(default)]
    region: String,
    every: Option<HumanDuration>,
    #[serde(default = "a_day")]
    full_every: HumanDuration,
    #[serde(default = "ten_minutes")]
    timeout: HumanDuration,
    #[serde(default)]
    allow_shrink: bool,
}

const fn a_day() -> HumanDuration {
    HumanDuration(Duration::from_hours(24))
}

const fn ten_minutes() -> HumanDuration {
    HumanDuration(Duration::from_mins(10))
}

const FIVE_MINUTES: Duration = Duration::from_mins(5);

/// What is wrong with a source, by its name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("source `{dataset}`: {problem}")]
pub struct InvalidSource {
    dataset: String,
    problem: String,
}

impl TryFrom<Vec<SourceConfig>> for Sources {
    type Error = InvalidSource;

    fn try_from(sources: Vec<SourceConfig>) -> Result<Self, InvalidSource> {
        for (at, source) in sources.iter().enumerate() {
            if sources[..at].iter().any(|s| s.dataset == source.dataset) {
                return Err(InvalidSource {
                    dataset: source.dataset.clone(),
                    problem: "there are two of it: a dataset has one source".into(),
                });
            }
        }
        Ok(Self(sources))
    }
}

impl Sources {
    /// The sources, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &SourceConfig> {
        self.0.iter()
    }
}

impl TryFrom<Written> for SourceConfig {
    type Error = InvalidSource;

    fn try_from(written: Written) -> Result<Self, InvalidSource> {
        let dataset = written.dataset.clone();
        checked(written).map_err(|problem| InvalidSource { dataset, problem })
    }
}

fn checked(written: Written) -> Result<SourceConfig, String> {
    if !is_dataset_name(&written.dataset) {
        return Err("dataset: a name is of the form [a-z0-9_-]{1,64}".into());
    }
    let name = &written.selector_type;
    let policy = Policy::from_str(name)
        .ok()
        .or_else(|| Policy::from_type(name));
    let policy = policy.ok_or_else(|| {
        let types: Vec<_> = Policy::ALL.iter().map(|p| p.selector_type()).collect();
        format!("type: expected one of {}", types.join(", "))
    })?;
    let query = one_statement(&written.query).map_err(|error| format!("query: it {error}"))?;
    for (setting, column) in written.columns.named() {
        if column.is_empty() || column.contains('\0') {
            return Err(format!("columns.{setting}: no column has such a name"));
        }
    }
    let region = written.region.to_ascii_uppercase();
    if !region.is_empty() && (region.len() != 2 || !region.bytes().all(|b| b.is_ascii_uppercase()))
    {
        return Err("region: expected a country of two letters, e.g. NL".into());
    }
    let every = written.every.map(|HumanDuration(every)| every);
    let every = match (every, &written.columns.watermark) {
        (every, Some(_)) => Some(every.unwrap_or(FIVE_MINUTES)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(
                "every: runs between whole comparisons need `columns.watermark`; without \
                        one set `full_every` alone"
                    .into(),
            );
        }
    };
    for (setting, length) in [
        ("every", every),
        ("full_every", Some(written.full_every.0)),
        ("timeout", Some(written.timeout.0)),
    ] {
        if length.is_some_and(|length| length < Duration::from_secs(1)) {
            return Err(format!("{setting}: at least 1s"));
        }
    }
    Ok(SourceConfig {
        database: database(&written.database, written.password_file)?,
        dataset: written.dataset,
        policy,
        query,
        columns: written.columns,
        region,
        every,
        full_every: written.full_every.0,
        timeout: written.timeout.0,
        allow_shrink: written.allow_shrink,
    })
}

fn database(text: &str, password: Option<SecretFile>) -> Result<SourceDatabase, String> {
    if let Some(path) = text.strip_prefix("sqlite:") {
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        if !path.is_absolute() {
            return Err(
                "database: expected the whole path of a file, `sqlite:/folder/file`".into(),
            );
        }
        if password.is_some() {
            return Err("password_file: a file of SQLite has no password".into());
        }
        return Ok(SourceDatabase::Sqlite(path));
    }
    let url = text
        .parse()
        .map_err(|error| format!("database: {error}; a file of SQLite is `sqlite:/folder/file`"))?;
    Ok(SourceDatabase::Postgres { url, password })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug)]
    struct File {
        sources: Sources,
    }

    const SOURCE: &str = r#"
        [[sources]]
        dataset = "suspects"
        type = "phone"
        database = "postgres://reader@db.unit.example/cases"
        query = "SELECT id, number, changed_at FROM phones; -- all"
        columns = { value = "number", record = "id", watermark = "changed_at" }
        region = "nl"
    "#;

    fn load(text: &str) -> Result<Vec<SourceConfig>, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("node.toml");
        std::fs::write(&path, text).expect("written");
        let file = sotto_common::service::config::load_from("SOTTO_TEST", Some(&path), []);
        file.map(|File { sources }| sources.0)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_small_source_is_enough_and_has_the_defaults() {
        let sources = load(SOURCE).expect("valid");
        let source = &sources[0];
        assert_eq!(source.policy, Policy::Phone);
        assert_eq!(source.query, "SELECT id, number, changed_at FROM phones");
        assert_eq!(source.region, "NL");
        assert_eq!(source.every, Some(Duration::from_mins(5)));
        assert_eq!(source.full_every, Duration::from_hours(24));
        assert_eq!(source.timeout, Duration::from_mins(10));
        assert!(!source.allow_shrink);
        let whole = load(&SOURCE.replace(", watermark = \"changed_at\"", "")).expect("valid");
        assert_eq!(whole[0].every, None);
        let file = SOURCE.replace("postgres://reader@db.unit.example/cases", "sqlite:/a/b.db");
        let file = load(&file.replace("\"phone\"", "\"phone/1\"")).expect("valid");
        assert!(matches!(&file[0].database, SourceDatabase::Sqlite(path)
            if path.to_str() == Some("/a/b.db")));
    }

    #[test]
    fn the_sample_configuration_is_taken_and_shows_the_defaults() {
        let sample = include_str!("../../../deploy/config/node.toml");
        let block = sample.find("# [[sources]]").expect("a block");
        let settings: Vec<_> = sample[block..]
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.contains(" = ") || line.starts_with("[["))
            .collect();
        let shown = load(&settings.join("\n")).expect("valid").remove(0);
        let small = load(SOURCE).expect("valid").remove(0);
        assert_eq!(shown.columns.named().count(), 5);
        assert_eq!(
            (shown.every, shown.full_every, shown.timeout),
            (small.every, small.full_every, small.timeout)
        );
        assert_eq!(shown.allow_shrink, small.allow_shrink);
    }

    #[test]
    fn what_is_wrong_is_said_of_the_source_and_no_password_is_repeated() {
        for (from, to, expected) in [
            ("\"suspects\"", "\"Suspects\"", "dataset"),
            ("\"phone\"", "\"phones\"", "type: expected one of"),
            ("reader@", "reader:hunter2@", "takes no password"),
            ("postgres://", "mysql://", "database"),
            (
                "postgres://reader@db.unit.example/cases",
                "sqlite:cases.db",
                "whole path",
            ),
            ("FROM phones;", "FROM phones; SELECT 1", "one SELECT"),
            ("\"number\"", "\"\"", "columns.value"),
            ("\"nl\"", "\"nld\"", "region"),
            ("region =", "every = \"0s\"\nregion =", "every: at least"),
            (
                ", watermark = \"changed_at\" }",
                "}\nevery = \"5m\"",
                "columns.watermark",
            ),
        ] {
            let error = load(&SOURCE.replace(from, to)).expect_err(to);
            assert!(error.contains(expected), "{error}");
            assert!(
                error.to_lowercase().contains("source `suspects`"),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
        for unknown in [
            "pasword_file = \"x\"\nregion =",
            "watermark = \"x\"\nregion =",
        ] {
            let error = load(&SOURCE.replace("region =", unknown)).expect_err("unknown");
            assert!(error.contains("unknown field"), "{error}");
        }
        let twice = load(&format!("{SOURCE}{SOURCE}")).expect_err("refused");
        assert!(twice.contains("`suspects`: there are two"), "{twice}");
    }
}
