//! What of follow-ups is sealed at rest, and its renewal under another key.

use sotto_common::error::{Error, Result};
use sotto_common::random::os_rng;
use sotto_common::service::at_rest::Cell;
use sotto_common::service::sqlite::db_error;
use sqlx::SqliteConnection;
use zeroize::Zeroizing;

use crate::store::at_rest::AtRest;

const fn cell<'a>(table: &'static str, row: &'a [u8], column: &'static str) -> Cell<'a> {
    Cell { table, row, column }
}

/// Seals a value for its row and column.
pub(super) fn seal(
    at_rest: &AtRest,
    table: &'static str,
    row: &[u8],
    column: &'static str,
    clear: &[u8],
) -> Vec<u8> {
    let cipher = at_rest.cipher();
    cipher.seal(cell(table, row, column), clear, &mut os_rng())
}

/// Opens what [`seal`] has sealed.
///
/// # Errors
/// `INTERNAL` if it was altered, is of another row, or of a key that is not in the list.
pub(super) fn open(
    at_rest: &AtRest,
    table: &'static str,
    row: &[u8],
    column: &'static str,
    stored: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    at_rest.cipher().open(cell(table, row, column), stored)
}

/// Every sealed column: its table, the expression that its row is bound to, and its primary key.
const SEALED: &[(&str, &str, &str)] = &[
    ("follow_ups", "canonical", "follow_up_id"),
    ("follow_ups", "records", "follow_up_id"),
    ("follow_ups", "particulars", "follow_up_id"),
    (
        "follow_up_steps",
        "content",
        // As `step_row` writes it.
        "follow_up_id || unhex(printf('%08x', seq))",
    ),
    ("follow_up_proposals", "draft", "follow_up_id"),
    ("follow_up_proposals", "drafters", "follow_up_id"),
    ("follow_up_attachments", "name", "attachment_id"),
    ("follow_up_attachments", "content_digest", "attachment_id"),
    ("follow_up_attachments", "given_by", "attachment_id"),
    ("follow_up_events", "texts", "follow_up_id"),
];

/// Brings everything of follow-ups that is sealed under the first key of the key list, value by
/// value.
///
/// # Errors
/// Those of the store; `INTERNAL` if a key is not in the list.
pub(in crate::store) async fn renew_follow_ups(
    tx: &mut SqliteConnection,
    at_rest: &AtRest,
) -> Result<()> {
    for &(table, column, row) in SEALED {
        // Names of this file's own alone; no value of anybody's is in them.
        let select =
            format!("SELECT CAST({row} AS BLOB), {column} FROM {table} WHERE {column} IS NOT NULL");
        let values: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as(sqlx::AssertSqlSafe(select))
            .fetch_all(&mut *tx)
            .await
            .map_err(db_error)?;
        for (bound_to, stored) in values {
            if at_rest.cipher().is_current(&stored) {
                continue;
            }
            let clear = open(at_rest, table, &bound_to, column, &stored)?;
            let renewed = seal(at_rest, table, &bound_to, column, &clear);
            let update = format!(
                "UPDATE {table} SET {column} = $3
                 WHERE CAST({row} AS BLOB) = $1 AND {column} = $2"
            );
            let done = sqlx::query(sqlx::AssertSqlSafe(update))
                .bind(&bound_to)
                .bind(&stored)
                .bind(renewed)
                .execute(&mut *tx)
                .await
                .map_err(db_error)?;
            if done.rows_affected() == 0 {
                return Err(Error::internal(
                    "a sealed value changed while it was renewed",
                ));
            }
        }
    }
    Ok(())
}
