//! Seals a store of the time before it was sealed at rest.
//!
//! Rows are sealed some thousand at a time, each batch in its transaction; a program that ends
//! meanwhile goes on where it was at its next start. The file is then written anew: SQLite
//! overwrites what is deleted, but not what it moved from one page to another.

use std::sync::Arc;

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::ids::SessionId;
use sotto_common::probe::SessionNonce;
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::{Sqlite, db_error};
use sqlx::SqliteConnection;

use super::{AtRest, for_each};
use crate::store::{SelectorId, damaged, typed};

/// Rows that are sealed in one transaction.
const BATCH: u32 = 5_000;

/// `PRAGMA user_version` of a file in which nothing is left in clear.
const SEALED: i64 = 1;

/// Seals what is in clear; of no effect on a store that is sealed.
///
/// # Errors
/// Those of the store; calling it again goes on where it was.
pub(in crate::store) async fn convert(db: &Sqlite, at_rest: &Arc<AtRest>) -> Result<()> {
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(db.read())
        .await
        .map_err(db_error)?;
    if version >= SEALED {
        return Ok(());
    }
    let mut sealed = 0;
    if has_clear_columns(db).await? {
        let mut after = 0;
        while let Some((last, rows)) = seal_some(db, at_rest, after, BATCH).await? {
            (after, sealed) = (last, sealed + rows);
        }
        finish(db, at_rest).await?;
    }
    if sealed > 0 {
        tracing::info!(sealed, "the store is sealed; its file is written anew");
    }
    if let Err(error) = db.compact().await {
        let cause = error.source.as_deref().map(ToString::to_string);
        tracing::warn!(
            ?cause,
            "the store is sealed, but its file could not be written anew and may hold traces of \
             what was in clear: see that there is room for a second copy; the next start tries \
             again"
        );
        return Ok(());
    }
    db.run_tx("mark_sealed", |tx| {
        async move {
            sqlx::query("PRAGMA user_version = 1")
                .execute(tx)
                .await
                .map_err(db_error)?;
            Ok(())
        }
        .scope_boxed()
    })
    .await
}

async fn has_clear_columns(db: &Sqlite) -> Result<bool> {
    sqlx::query_scalar(
        "SELECT count(*) > 0 FROM pragma_table_info('selectors') WHERE name = 'canonical'",
    )
    .fetch_one(db.read())
    .await
    .map_err(db_error)
}

type ClearRow = (SelectorId, String, String, String, String);

/// Seals at most `limit` selectors after one; tells the last of them, and how many they were.
pub(super) async fn seal_some(
    db: &Sqlite,
    at_rest: &Arc<AtRest>,
    after: SelectorId,
    limit: u32,
) -> Result<Option<(SelectorId, u64)>> {
    let rows: Vec<ClearRow> = sqlx::query_as(
        "SELECT selector_id, coalesce(d.name, ''), s.policy, canonical, record_id
         FROM selectors s LEFT JOIN datasets d USING (dataset_id)
         WHERE record IS NULL AND removed_at IS NULL AND selector_id > $1
         ORDER BY selector_id LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(db.read())
    .await
    .map_err(db_error)?;
    let Some(last) = rows.last().map(|row| row.0) else {
        return Ok(None);
    };
    let count = rows.len() as u64;
    let sealed = for_each(at_rest, rows, |at_rest, row| {
        let (id, dataset, policy, canonical, record_id) = row;
        let policy: Policy = typed(&policy)?;
        let canonical = Selector::new(canonical);
        let sealed = at_rest.seal_record(&dataset, policy, &canonical, &record_id);
        Ok((
            id,
            hex::encode(sealed.canonical_index),
            hex::encode(sealed.record_index),
            hex::encode(sealed.record),
        ))
    })
    .await?;
    let sealed = &serde_json::to_string(&sealed).map_err(Error::internal)?;
    db.run_tx("seal_selectors", |tx| {
        async move {
            sqlx::query(
                "UPDATE selectors SET canonical = '', record_id = '',
                     canonical_index = unhex(value ->> 1), record_index = unhex(value ->> 2),
                     record = unhex(value ->> 3)
                 FROM json_each($1) WHERE selector_id = value ->> 0",
            )
            .bind(sealed)
            .execute(tx)
            .await
            .map_err(db_error)?;
            Ok(())
        }
        .scope_boxed()
    })
    .await?;
    Ok(Some((last, count)))
}

/// Seals the nonces, and takes away the columns that nothing is in any more, all at once.
pub(super) async fn finish(db: &Sqlite, at_rest: &Arc<AtRest>) -> Result<()> {
    db.run_tx("finish_sealing", |tx| {
        async move {
            seal_nonces(tx, at_rest).await?;
            for statement in [
                "ALTER TABLE selectors DROP COLUMN canonical",
                "ALTER TABLE selectors DROP COLUMN record_id",
            ] {
                sqlx::query(statement)
                    .execute(&mut *tx)
                    .await
                    .map_err(db_error)?;
            }
            Ok(())
        }
        .scope_boxed()
    })
    .await
}

async fn seal_nonces(tx: &mut SqliteConnection, at_rest: &AtRest) -> Result<()> {
    let clear: Vec<(Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT session_id, nonce FROM probe_sessions")
            .fetch_all(&mut *tx)
            .await
            .map_err(db_error)?;
    for (session, nonce) in clear {
        let id = SessionId::from_slice(&session).map_err(Error::internal)?;
        let nonce = SessionNonce::from_slice(&nonce).ok_or_else(|| damaged("nonce"))?;
        sqlx::query("UPDATE probe_sessions SET nonce = $2 WHERE session_id = $1")
            .bind(session)
            .bind(at_rest.seal_nonce(id, &nonce))
            .execute(&mut *tx)
            .await
            .map_err(db_error)?;
    }
    Ok(())
}
