//! Whether the broker stored anything: what a refusal must not do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _};

/// What the broker has stored so far.
#[derive(Debug)]
pub struct Footprint {
    data_dir: PathBuf,
    ledger: SqliteConnection,
    version: i64,
    files: BTreeMap<PathBuf, u64>,
}

impl Footprint {
    /// Takes the footprint of the broker in `data_dir`.
    pub async fn of(data_dir: &Path) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(data_dir.join("ledger.db"))
            .read_only(true);
        let mut ledger = SqliteConnection::connect_with(&options)
            .await
            .expect("the ledger can be read");
        Self {
            data_dir: data_dir.into(),
            version: data_version(&mut ledger).await,
            ledger,
            files: filter_files(data_dir),
        }
    }

    /// Fails if any transaction has changed the ledger since, or any filter file changed.
    pub async fn assert_unchanged(&mut self) {
        let version = data_version(&mut self.ledger).await;
        assert_eq!(version, self.version, "a refusal changed the ledger");
        assert_eq!(
            filter_files(&self.data_dir),
            self.files,
            "a refusal changed the files"
        );
    }
}

/// Changes the ledger of a stopped broker, to what a kill at a bad moment would have left.
pub async fn change(data_dir: &Path, statement: &'static str) {
    let options = SqliteConnectOptions::new().filename(data_dir.join("ledger.db"));
    let connected = SqliteConnection::connect_with(&options).await;
    let mut ledger = connected.expect("the ledger can be opened");
    let done = sqlx::query(statement).execute(&mut ledger).await;
    assert!(done.expect("changed").rows_affected() > 0);
    ledger.close().await.expect("closed");
}

/// SQLite's count of commits by others that changed the file.
async fn data_version(ledger: &mut SqliteConnection) -> i64 {
    let row = sqlx::query("PRAGMA data_version").fetch_one(ledger).await;
    row.expect("a version").get(0)
}

/// Uploads and filters of a broker, with their lengths.
pub fn filter_files(data_dir: &Path) -> BTreeMap<PathBuf, u64> {
    ["uploads", "filters"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(data_dir.join(folder)).expect("a folder"))
        .map(|entry| {
            let entry = entry.expect("an entry");
            let length = entry.metadata().map_or(0, |metadata| metadata.len());
            (entry.path(), length)
        })
        .collect()
}
