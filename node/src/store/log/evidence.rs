//! What this node keeps against the log, and the alarm that stands while nobody has looked.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::Result;
use sotto_common::log::merkle::MerkleHash;
use sotto_common::random::os_rng;
use sotto_common::service::at_rest::Cell;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::SqliteConnection;

use crate::access::Access;
use crate::store::at_rest::AtRest;
use crate::store::{Store, access, damaged, signed, time, unsigned};

/// One contradiction of the log, as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// When it was found.
    pub at: Timestamp,
    /// What failed, in words.
    pub what: String,
    /// The log's key as text.
    pub log_key: String,
    /// The note that was found consistent before; empty if there was none.
    pub known: Vec<u8>,
    /// The note that does not go with it, or under which a proof failed.
    pub offered: Vec<u8>,
    /// The proof that failed.
    pub proof: Vec<MerkleHash>,
    /// What the entry was asked for; empty if it is about none.
    pub subject: String,
    /// The entry that does not fit, a serialised `LoggedEntry`.
    pub entry: Option<Vec<u8>>,
}

/// Evidence with its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredEvidence {
    /// Its number.
    pub number: u64,
    /// What it is.
    pub evidence: Evidence,
    /// When the alarm was ended; `None` while it stands.
    pub cleared_at: Option<Timestamp>,
}

/// The columns of a row in their order.
type Row = (
    i64,
    i64,
    String,
    String,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    String,
    Option<Vec<u8>>,
    Option<i64>,
);

impl Store {
    /// Stores evidence; the alarm stands when this returns.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_evidence(&self, evidence: &Evidence) -> Result<()> {
        let proof: Vec<u8> = evidence
            .proof
            .iter()
            .flat_map(|hash| *hash.as_bytes())
            .collect();
        let (at_rest, proof) = (&self.at_rest, &proof);
        self.db
            .run_tx("put_evidence", |tx| {
                async move {
                    let next = "SELECT coalesce(max(evidence_id), 0) + 1 FROM log_evidence";
                    let number: i64 = sqlx::query_scalar(next)
                        .fetch_one(&mut *tx)
                        .await
                        .map_err(db_error)?;
                    let entry = evidence.entry.as_ref();
                    let entry = entry.map(|entry| seal(at_rest, number, entry));
                    sqlx::query(
                        "INSERT INTO log_evidence (evidence_id, at, what, log_key, known, offered,
                             proof, subject, entry)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                    )
                    .bind(number)
                    .bind(evidence.at.micros())
                    .bind(&evidence.what)
                    .bind(&evidence.log_key)
                    .bind(&evidence.known)
                    .bind(&evidence.offered)
                    .bind(proof)
                    .bind(&evidence.subject)
                    .bind(entry)
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// Whether an alarm stands.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn has_alarm(&self) -> Result<bool> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM log_evidence WHERE cleared_at IS NULL)")
            .fetch_one(self.db.read())
            .await
            .map_err(db_error)
    }

    /// The evidence after a number, oldest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn evidence(&self, after: u64, limit: u32) -> Result<Vec<StoredEvidence>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT evidence_id, at, what, log_key, known, offered, proof, subject, entry,
                 cleared_at
             FROM log_evidence WHERE evidence_id > $1 ORDER BY evidence_id LIMIT $2",
        )
        .bind(signed(after))
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        let read = |row| stored(&self.at_rest, row);
        rows.into_iter().map(read).collect()
    }

    /// Ends the alarm, and notes who did in the access log, both or neither; `begin_anew` forgets
    /// the checkpoints and what was verified under them. Tells how many contradictions stood.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn clear_evidence(&self, note: &Access, begin_anew: bool) -> Result<u64> {
        let cipher = self.at_rest.cipher();
        self.db
            .run_tx("clear_evidence", |tx| {
                async move {
                    access::add(tx, cipher, std::slice::from_ref(note)).await?;
                    let done = sqlx::query(
                        "UPDATE log_evidence SET cleared_at = $1 WHERE cleared_at IS NULL",
                    )
                    .bind(note.at.micros())
                    .execute(&mut *tx)
                    .await
                    .map_err(db_error)?;
                    if begin_anew {
                        forget(tx).await?;
                    }
                    Ok(done.rows_affected())
                }
                .scope_boxed()
            })
            .await
    }
}

/// What was believed of a log that is not gone on with.
async fn forget(tx: &mut SqliteConnection) -> Result<()> {
    for statement in [
        "DELETE FROM log_checkpoints",
        "UPDATE hits SET leaf_index = NULL, verified_at = NULL WHERE verified_at IS NOT NULL",
        // A log that was restored is a prefix of the one before and keeps places: they are looked at again,
        // and one that does not fit any more accuses nobody.
        "UPDATE probed_batches SET verified_at = NULL, retold = 1 WHERE leaf_index IS NOT NULL",
    ] {
        sqlx::query(statement)
            .execute(&mut *tx)
            .await
            .map_err(db_error)?;
    }
    Ok(())
}

fn stored(at_rest: &AtRest, row: Row) -> Result<StoredEvidence> {
    let (number, at, what, log_key, known, offered, proof, subject, entry, cleared_at) = row;
    let hash = |bytes: &[u8]| MerkleHash::from_slice(bytes).ok_or_else(|| damaged("proof"));
    let entry = entry.map(|sealed| open(at_rest, number, &sealed));
    Ok(StoredEvidence {
        number: unsigned(number),
        evidence: Evidence {
            at: time(at),
            what,
            log_key,
            known,
            offered,
            proof: proof
                .chunks(MerkleHash::LEN)
                .map(hash)
                .collect::<Result<_>>()?,
            subject,
            entry: entry.transpose()?,
        },
        cleared_at: cleared_at.map(time),
    })
}

// An entry names a case: it is sealed, bound to the number of its row.

const fn cell(number: &[u8; 8]) -> Cell<'_> {
    Cell {
        table: "log_evidence",
        row: number,
        column: "entry",
    }
}

fn seal(at_rest: &AtRest, number: i64, entry: &[u8]) -> Vec<u8> {
    let cipher = at_rest.cipher();
    cipher.seal(cell(&number.to_be_bytes()), entry, &mut os_rng())
}

fn open(at_rest: &AtRest, number: i64, sealed: &[u8]) -> Result<Vec<u8>> {
    let clear = at_rest.cipher().open(cell(&number.to_be_bytes()), sealed)?;
    Ok(clear.to_vec())
}

/// Brings the entries under the first key of the key list.
///
/// # Errors
/// Those of the store; `INTERNAL` if a key is not in the list.
pub(in crate::store) async fn renew_evidence(
    tx: &mut SqliteConnection,
    at_rest: &AtRest,
) -> Result<()> {
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT evidence_id, entry FROM log_evidence WHERE entry IS NOT NULL")
            .fetch_all(&mut *tx)
            .await
            .map_err(db_error)?;
    for (number, sealed) in rows {
        if at_rest.cipher().is_current(&sealed) {
            continue;
        }
        let renewed = seal(at_rest, number, &open(at_rest, number, &sealed)?);
        sqlx::query("UPDATE log_evidence SET entry = $2 WHERE evidence_id = $1")
            .bind(number)
            .bind(renewed)
            .execute(&mut *tx)
            .await
            .map_err(db_error)?;
    }
    Ok(())
}
