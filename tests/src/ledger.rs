//! The ledger that a broker of the tests keeps, and whether the broker stored anything: what a
//! refusal must not do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};
use sotto_common::random::os_rng;
use sotto_common::service::config::SecretFile;
use sotto_common::service::files::{self, Readers};
use sotto_common::testing::postgres::Server;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _};

/// Which engine keeps the ledgers of the tests: `sqlite`, if it is not set, or `postgres`.
pub const ENGINE: &str = "SOTTO_TEST_LEDGER";

/// Where one broker keeps its ledger.
#[derive(Clone, Debug)]
pub enum TestLedger {
    /// In a file in its own folder.
    File,
    /// In the PostgreSQL database of this URL.
    Server(String),
}

impl TestLedger {
    /// A new ledger on the engine that [`ENGINE`] names.
    pub fn chosen() -> Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        match std::env::var(ENGINE).as_deref() {
            Err(_) | Ok("" | "sqlite") => Self::File,
            Ok("postgres") => {
                let server = SERVER.get_or_init(|| Server::start().expect("PostgreSQL"));
                Self::Server(server.database())
            }
            Ok(other) => panic!("{ENGINE} is sqlite or postgres, not {other}"),
        }
    }

    /// The broker's setting `ledger`.
    pub fn setting(&self) -> &str {
        match self {
            Self::File => "sqlite:",
            Self::Server(url) => url,
        }
    }

    /// Changes the ledger of a stopped broker, to what a kill at a bad moment would have left.
    pub async fn change(&self, data_dir: &Path, statement: &'static str) {
        let changed = match self {
            Self::File => {
                let mut file = open_file(data_dir, false).await;
                let done = sqlx::query(statement).execute(&mut file).await;
                file.close().await.expect("closed");
                done.expect("changed").rows_affected()
            }
            Self::Server(url) => {
                let mut server = PgConnection::connect(url).await.expect("connected");
                let done = sqlx::query(statement).execute(&mut server).await;
                done.expect("changed").rows_affected()
            }
        };
        assert!(changed > 0);
    }
}

/// The file of the audit log's key for the brokers that share this folder: the same in every
/// folder, since a ledger may be moved from one to another.
pub fn log_key_file(dir: &Path) -> SecretFile {
    let path = dir.join("log.key");
    let line = format!("{}\n", "07".repeat(32));
    let written = files::write(&path, line.as_bytes(), Readers::Owner, &mut os_rng());
    written.expect("written");
    SecretFile(path)
}

/// What the broker has stored so far.
#[derive(Debug)]
pub struct Footprint {
    data_dir: PathBuf,
    ledger: OpenLedger,
    version: String,
    files: BTreeMap<PathBuf, u64>,
}

#[derive(Debug)]
enum OpenLedger {
    File(SqliteConnection),
    Server(PgConnection),
}

impl Footprint {
    /// Takes the footprint of the broker in `data_dir`.
    pub async fn of(data_dir: &Path, ledger: &TestLedger) -> Self {
        let mut ledger = match ledger {
            TestLedger::File => OpenLedger::File(open_file(data_dir, true).await),
            TestLedger::Server(url) => {
                OpenLedger::Server(PgConnection::connect(url).await.expect("connected"))
            }
        };
        Self {
            data_dir: data_dir.into(),
            version: ledger.version().await,
            ledger,
            files: filter_files(data_dir),
        }
    }

    /// Fails if the ledger holds anything else than then, an entry of the log more, or if any filter
    /// file changed.
    pub async fn assert_unchanged(&mut self) {
        let version = self.ledger.version().await;
        assert_eq!(version, self.version, "a refusal changed the ledger");
        assert_eq!(
            filter_files(&self.data_dir),
            self.files,
            "a refusal changed the files"
        );
    }
}

impl OpenLedger {
    /// Another one whenever the ledger holds something else.
    async fn version(&mut self) -> String {
        match self {
            Self::File(file) => file_contents(file).await,
            Self::Server(server) => contents(server).await,
        }
    }
}

/// How many entries the log has. The broker gives them their places, and signs, by itself.
const ENTRIES: &str = "SELECT count(*) FROM log_entries";

/// A digest of every row of every table, but for those that the broker writes to by itself, and the
/// number of entries of the log.
async fn contents(server: &mut PgConnection) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables
         WHERE table_schema = 'public' AND table_name NOT LIKE 'log\\_%'
           AND table_name NOT IN ('commit_marks', 'replicas', 'replica_leases', 'jobs')
         ORDER BY table_name",
    )
    .fetch_all(&mut *server)
    .await
    .expect("tables");
    assert!(!tables.is_empty());
    let mut digests = vec![];
    for table in tables {
        let rows = format!("SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t");
        let digest: Option<String> = sqlx::query_scalar(AssertSqlSafe(rows))
            .fetch_one(&mut *server)
            .await
            .expect("a digest");
        digests.push((table, digest));
    }
    let entries: i64 = sqlx::query_scalar(ENTRIES)
        .fetch_one(&mut *server)
        .await
        .expect("counted");
    format!("{digests:?}, {entries} entries")
}

/// As [`contents`], of a file.
async fn file_contents(file: &mut SqliteConnection) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema
         WHERE type = 'table' AND substr(name, 1, 4) <> 'log_' AND substr(name, 1, 7) <> 'sqlite_'
           AND name NOT IN ('replicas', 'replica_leases', 'jobs')
         ORDER BY name",
    )
    .fetch_all(&mut *file)
    .await
    .expect("tables");
    assert!(!tables.is_empty());
    let mut digests = vec![];
    for table in tables {
        let quoted = "SELECT 'quote(\"' || name || '\")' FROM pragma_table_info($1)";
        let columns: Vec<String> = sqlx::query_scalar(quoted)
            .bind(&table)
            .fetch_all(&mut *file)
            .await
            .expect("columns");
        let rows = columns.join(" || ',' || ");
        let rows = format!("SELECT {rows} FROM \"{table}\" ORDER BY 1");
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(rows))
            .fetch_all(&mut *file)
            .await
            .expect("rows");
        digests.push((table, hex::encode(Sha256::digest(rows.join("\n")))));
    }
    let entries: i64 = sqlx::query_scalar(ENTRIES)
        .fetch_one(&mut *file)
        .await
        .expect("counted");
    format!("{digests:?}, {entries} entries")
}

/// How many sessions of a ledger on a file have their case reference sealed under this key.
pub async fn case_refs_under(data_dir: &Path, key_id: [u8; 4]) -> i64 {
    let mut file = open_file(data_dir, true).await;
    let count = "SELECT count(*) FROM sessions WHERE substr(case_ref_at_rest, 2, 4) = $1";
    sqlx::query_scalar(count)
        .bind(&key_id[..])
        .fetch_one(&mut file)
        .await
        .expect("counted")
}

async fn open_file(data_dir: &Path, read_only: bool) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(data_dir.join("ledger.db"))
        .read_only(read_only);
    let connected = SqliteConnection::connect_with(&options).await;
    connected.expect("the ledger can be opened")
}

/// Objects and copies of filters of a broker, with their lengths.
pub fn filter_files(data_dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    let mut folders = vec![data_dir.join("objects"), data_dir.join("cache")];
    while let Some(folder) = folders.pop() {
        // A folder of a publication may go while this looks.
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(metadata) = path.metadata() {
                files.insert(path, metadata.len());
            }
        }
    }
    files
}

/// The copies that a broker tests probes against.
pub fn mapped_files(data_dir: &Path) -> Vec<PathBuf> {
    let mapped = filter_files(data_dir).into_keys();
    mapped
        .filter(|path| path.starts_with(data_dir.join("cache")))
        .collect()
}
