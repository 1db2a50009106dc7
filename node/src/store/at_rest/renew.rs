//! After the first key of the key list has changed: what older keys have sealed is sealed anew.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::ids::SessionId;
use sotto_common::service::sqlite::db_error;
use sqlx::SqliteConnection;

use super::{AtRest, INDEX_KEY, for_each, key_cell, record_cell, record_row};
use crate::store::follow_ups::renew_follow_ups;
use crate::store::hits::renew_texts;
use crate::store::log::renew_evidence;
use crate::store::{SelectorId, Store};

/// Counter with the id of the key that everything is sealed under; absent while that is not so.
const SEALED_UNDER: &str = "sealed_under";

/// One step of a renewal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renewed {
    /// The last selector that was looked at.
    pub last: SelectorId,
    /// How many of them an older key had sealed.
    pub rows: u64,
}

type SealedRow = (SelectorId, String, Vec<u8>, Vec<u8>);

impl Store {
    /// Whether something may be sealed under another key than the first, and
    /// [`Store::renew_seals`] is to go through all selectors.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn begin_renewal(&self) -> Result<bool> {
        let Some(first_key) = self.first_key() else {
            return Ok(false);
        };
        self.db
            .run_tx("begin_renewal", |tx| {
                async move {
                    let under: Option<i64> =
                        sqlx::query_scalar("SELECT value FROM counters WHERE name = $1")
                            .bind(SEALED_UNDER)
                            .fetch_optional(&mut *tx)
                            .await
                            .map_err(db_error)?;
                    if under == Some(first_key) {
                        return Ok(false);
                    }
                    // Whichever key comes first at the next start: it is gone through then too.
                    sqlx::query("DELETE FROM counters WHERE name = $1")
                        .bind(SEALED_UNDER)
                        .execute(tx)
                        .await
                        .map_err(db_error)?;
                    Ok(true)
                }
                .scope_boxed()
            })
            .await
    }

    /// Looks at no more than `limit` selectors after one, and seals anew what an older key has
    /// sealed; `None` after the last.
    ///
    /// # Errors
    /// Those of the store; `INTERNAL` if a key is not in the list.
    pub async fn renew_seals(&self, after: SelectorId, limit: u32) -> Result<Option<Renewed>> {
        let rows: Vec<SealedRow> = sqlx::query_as(
            "SELECT selector_id, coalesce(d.name, ''), canonical_index, record
             FROM selectors s LEFT JOIN datasets d USING (dataset_id)
             WHERE selector_id > $1 AND record IS NOT NULL ORDER BY selector_id LIMIT $2",
        )
        .bind(after)
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        let Some(last) = rows.last().map(|row| row.0) else {
            return Ok(None);
        };
        let renewed = for_each(&self.at_rest, rows, renew).await?;
        let renewed: Vec<_> = renewed.into_iter().flatten().collect();
        let rows = renewed.len() as u64;
        if rows > 0 {
            let renewed = &serde_json::to_string(&renewed).map_err(Error::internal)?;
            self.db
                .run_tx("renew_seals", |tx| {
                    update_records(tx, renewed).scope_boxed()
                })
                .await?;
        }
        Ok(Some(Renewed { last, rows }))
    }

    /// Seals anew the few values that are no selectors, and remembers that everything is under the
    /// first key.
    ///
    /// # Errors
    /// As [`Store::renew_seals`].
    pub async fn finish_renewal(&self) -> Result<()> {
        let Some(first_key) = self.first_key() else {
            return Ok(());
        };
        self.db
            .run_tx("finish_renewal", |tx| {
                async move {
                    renew_nonces(tx, &self.at_rest).await?;
                    renew_texts(tx, self.at_rest.cipher()).await?;
                    renew_follow_ups(tx, &self.at_rest).await?;
                    renew_evidence(tx, &self.at_rest).await?;
                    renew_index_key(tx, &self.at_rest).await?;
                    sqlx::query("INSERT OR REPLACE INTO counters (name, value) VALUES ($1, $2)")
                        .bind(SEALED_UNDER)
                        .bind(first_key)
                        .execute(tx)
                        .await
                        .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// The id of the first key, as a number.
    fn first_key(&self) -> Option<i64> {
        let [_, id @ ..] = self.at_rest.cipher.current_prefix()?;
        Some(u32::from_be_bytes(id).into())
    }
}

/// The hex digits of the record under the first key, if they are under another.
fn renew(at_rest: &AtRest, row: SealedRow) -> Result<Option<(SelectorId, String, String)>> {
    let (id, dataset, canonical_index, before) = row;
    if at_rest.cipher.is_current(&before) {
        return Ok(None);
    }
    let row = record_row(&dataset, &canonical_index);
    let after = at_rest.renewed(record_cell(&row), &before)?;
    Ok(Some((id, hex::encode(before), hex::encode(after))))
}

/// Rows that were removed meanwhile stay removed.
async fn update_records(tx: &mut SqliteConnection, renewed: &str) -> Result<()> {
    sqlx::query(
        "UPDATE selectors SET record = unhex(value ->> 2)
         FROM json_each($1) WHERE selector_id = value ->> 0 AND record = unhex(value ->> 1)",
    )
    .bind(renewed)
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

async fn renew_nonces(tx: &mut SqliteConnection, at_rest: &AtRest) -> Result<()> {
    let nonces: Vec<(Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT session_id, nonce FROM probe_sessions")
            .fetch_all(&mut *tx)
            .await
            .map_err(db_error)?;
    for (session, nonce) in nonces {
        let id = SessionId::from_slice(&session).map_err(Error::internal)?;
        sqlx::query("UPDATE probe_sessions SET nonce = $2 WHERE session_id = $1")
            .bind(session)
            .bind(at_rest.renewed(super::nonce_cell(&id), &nonce)?)
            .execute(&mut *tx)
            .await
            .map_err(db_error)?;
    }
    Ok(())
}

async fn renew_index_key(tx: &mut SqliteConnection, at_rest: &AtRest) -> Result<()> {
    let sealed: Vec<u8> = sqlx::query_scalar("SELECT sealed FROM store_keys WHERE name = $1")
        .bind(INDEX_KEY)
        .fetch_one(&mut *tx)
        .await
        .map_err(db_error)?;
    sqlx::query("UPDATE store_keys SET sealed = $2 WHERE name = $1")
        .bind(INDEX_KEY)
        .bind(at_rest.renewed(key_cell(INDEX_KEY), &sealed)?)
        .execute(tx)
        .await
        .map_err(db_error)?;
    Ok(())
}
