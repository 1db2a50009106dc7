//! Rows of the audit log, both ways.

use sotto_common::error::Result;
use sotto_common::ids::{CommunityId, EntryId, NodeId};
use sotto_common::log::leaf::{Opening, OpeningNonce};
use sotto_common::log::merkle::MerkleHash;
use sqlx::query;

use super::at_rest::log_opening;
use super::columns::{blob, bytes, get, int, number, time};
use super::{EngineRow, EngineTx, db_error};
use crate::datastore::model::corrupt;
use crate::datastore::{CheckpointRecord, LoggedRecord};

/// A leaf has whole hours of these.
pub(super) const MICROS_PER_HOUR: i64 = 3_600_000_000;

/// `log_entries.nodes`: each between spaces, which no name has; none if there are no nodes.
pub(super) fn nodes_text(nodes: &[NodeId]) -> Option<String> {
    let names: Vec<_> = nodes.iter().map(NodeId::as_str).collect();
    (!names.is_empty()).then(|| format!(" {} ", names.join(" ")))
}

/// What `log_entries.nodes` is `LIKE` if this node is among them.
pub(super) fn nodes_pattern(node: &NodeId) -> String {
    format!("% {node} %")
}

impl EngineTx<'_> {
    /// `log_entries.opening` of an entry: its nonce, then the entry.
    pub(super) fn seal_opening(&self, id: EntryId, opening: &Opening) -> Vec<u8> {
        let nonce = opening.nonce().secret().expose();
        let clear = [&nonce[..], opening.entry()].concat();
        self.seal_bytes(log_opening(&id), &clear)
    }

    fn open_opening(&self, id: EntryId, stored: &[u8]) -> Result<Opening> {
        let clear = self.cipher.open(log_opening(&id), stored)?;
        let (nonce, entry) = clear
            .split_first_chunk::<32>()
            .ok_or_else(|| corrupt("opening"))?;
        let nonce = OpeningNonce::from_slice(nonce).ok_or_else(|| corrupt("opening"))?;
        Ok(Opening::new(nonce, entry.to_vec()))
    }

    /// An entry with a place.
    pub(super) fn logged_record(&self, row: &EngineRow) -> Result<LoggedRecord> {
        let opening = match get::<Option<&[u8]>>(row, "opening")? {
            Some(stored) => Some(self.open_opening(blob(row, "id", EntryId::from_slice)?, stored)?),
            None => None,
        };
        Ok(LoggedRecord {
            index: number(row, "place")?,
            leaf: get(row, "leaf")?,
            opening,
        })
    }

    /// Notes how many cosignatures the checkpoint of a size has.
    pub(super) async fn count_cosignatures(
        &mut self,
        community: &CommunityId,
        size: u64,
    ) -> Result<()> {
        query(
            "INSERT INTO log_cosigned (community, cosignatures, size)
             SELECT $1, count(*), $2 FROM log_cosignatures WHERE community = $1 AND size = $2
             ON CONFLICT (community, cosignatures) DO UPDATE SET size = excluded.size
             WHERE log_cosigned.size < excluded.size",
        )
        .bind(community.as_str())
        .bind(int(size))
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    /// A checkpoint, with the cosignatures that it got.
    pub(super) async fn checkpoint_record(
        &mut self,
        community: &CommunityId,
        row: Option<EngineRow>,
    ) -> Result<Option<CheckpointRecord>> {
        let Some(row) = row else { return Ok(None) };
        let size = number(&row, "size")?;
        let lines = query(concat!(
            "SELECT line FROM log_cosignatures WHERE community = $1 AND size = $2 ORDER BY ",
            bytewise!("node")
        ))
        .bind(community.as_str())
        .bind(int(size))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(Some(CheckpointRecord {
            size,
            root: MerkleHash::new(bytes(&row, "root")?),
            signed_at: time(&row, "signed_at")?,
            note: get(&row, "note")?,
            cosignatures: lines
                .iter()
                .map(|row| get(row, "line"))
                .collect::<Result<_>>()?,
        }))
    }
}
