//! Plain rows, put by transactions like all others: what `just bench` compares entries of the audit log
//! with. No part of the broker uses them.

use std::path::Path;

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::service::at_rest::ColumnCipher;
use sqlx::query;

use super::{Datastore, Engine};
use crate::config::Ledger;

const SQLITE_TABLE: &str = "CREATE TABLE plain_rows (
    seq INTEGER PRIMARY KEY, community TEXT NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL,
    leaf BLOB NOT NULL, id BLOB NOT NULL, verb TEXT NOT NULL, nodes TEXT NOT NULL,
    opening BLOB NOT NULL
) STRICT";

const POSTGRES_TABLE: &str = "CREATE TABLE plain_rows (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, community TEXT NOT NULL,
    kind TEXT NOT NULL, at BIGINT NOT NULL, leaf BYTEA NOT NULL, id BYTEA NOT NULL,
    verb TEXT NOT NULL, nodes TEXT NOT NULL, opening BYTEA NOT NULL
)";

const PUT: &str = "INSERT INTO plain_rows (community, kind, at, leaf, id, verb, nodes, opening)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

/// What an entry of the log has in its row, in a row that means nothing.
#[derive(Clone)]
pub(crate) struct PlainRow {
    pub(crate) community: String,
    pub(crate) kind: &'static str,
    pub(crate) at: i64,
    pub(crate) leaf: Vec<u8>,
    pub(crate) id: [u8; 16],
    pub(crate) verb: &'static str,
    pub(crate) nodes: String,
    pub(crate) opening: Vec<u8>,
}

/// Runs a statement without values, on either engine.
macro_rules! run {
    ($connection:ident, $statement:expr) => {
        async move {
            let done = query($statement).execute(&mut *$connection).await;
            done.map(drop).map_err(Error::internal)
        }
        .scope_boxed()
    };
}

/// Puts a row so many times, on either engine.
macro_rules! put {
    ($connection:ident, $row:ident, $count:ident) => {
        async move {
            for _ in 0..$count {
                query(PUT)
                    .bind($row.community.as_str())
                    .bind($row.kind)
                    .bind($row.at)
                    .bind(&$row.leaf[..])
                    .bind(&$row.id[..])
                    .bind($row.verb)
                    .bind($row.nodes.as_str())
                    .bind(&$row.opening[..])
                    .execute(&mut *$connection)
                    .await
                    .map_err(Error::internal)?;
            }
            Ok(())
        }
        .scope_boxed()
    };
}

impl Datastore {
    /// A ledger on which nothing is sealed at rest; of a file, `ledger.db` in the folder.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) async fn open_clear(ledger: &Ledger, dir: &Path) -> Result<Self> {
        match ledger {
            Ledger::Sqlite => Self::open_file(&dir.join("ledger.db"), ColumnCipher::off()).await,
            Ledger::Postgres(url) => {
                let options = url.options(None).map_err(Error::internal)?;
                Self::open_server(options, ColumnCipher::off()).await
            }
        }
    }

    /// Makes the table of plain rows.
    ///
    /// # Errors
    /// If the ledger cannot be written, or has it.
    pub(crate) async fn make_plain_rows(&self) -> Result<()> {
        match &self.engine {
            Engine::Sqlite(sqlite) => {
                sqlite
                    .run_tx("plain_table", |tx| run!(tx, SQLITE_TABLE))
                    .await
            }
            Engine::Postgres(postgres) => {
                postgres
                    .run_tx("plain_table", None, |tx| run!(tx, POSTGRES_TABLE))
                    .await
            }
        }
    }

    /// Puts a row so many times, in one transaction.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    pub(crate) async fn put_plain_rows(&self, row: &PlainRow, count: u32) -> Result<()> {
        let replica = self.replica.load().as_deref().copied();
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.run_tx("plain_rows", |tx| put!(tx, row, count)).await,
            Engine::Postgres(postgres) => {
                postgres
                    .run_tx("plain_rows", replica, |tx| put!(tx, row, count))
                    .await
            }
        }
    }
}
