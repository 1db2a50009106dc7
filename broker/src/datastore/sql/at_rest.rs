//! Columns that are sealed at rest: case references, the keys of objects, openings of the log.

use std::ops::Range;

use async_trait::async_trait;
use sotto_common::error::Result;
use sotto_common::ids::{AttachmentId, CommunityId, EntryId, FollowUpId, PublicationId, SessionId};
use sotto_common::random::os_rng;
use sotto_common::service::at_rest::Cell;
use sqlx::query;

use super::columns::{blob, get, int, number, text};
use super::{EngineTx, db_error};
use crate::datastore::AtRestTx;
use crate::datastore::model::corrupt;
use crate::objects::ObjectKey;

/// `sessions.case_ref_at_rest`.
pub(super) const fn case_ref(session: &SessionId) -> Cell<'_> {
    Cell {
        table: "sessions",
        row: session.as_bytes(),
        column: "case_ref_at_rest",
    }
}

/// `publications.object`.
pub(super) const fn filter_object(publication: &PublicationId) -> Cell<'_> {
    Cell {
        table: "publications",
        row: publication.as_bytes(),
        column: "object",
    }
}

/// `chunks.object`, of the row that [`chunk_row`] names.
pub(super) const fn chunk_object(row: &[u8; 24]) -> Cell<'_> {
    Cell {
        table: "chunks",
        row,
        column: "object",
    }
}

/// Publication and start of a chunk, the primary key of `chunks`.
pub(super) fn chunk_row(publication: PublicationId, start: u64) -> [u8; 24] {
    let mut row = [0; 24];
    row[..16].copy_from_slice(publication.as_bytes());
    row[16..].copy_from_slice(&start.to_be_bytes());
    row
}

/// `attachment_chunks.object`, of the row that [`attachment_row`] names.
pub(super) const fn attachment_object(row: &[u8; 40]) -> Cell<'_> {
    Cell {
        table: "attachment_chunks",
        row,
        column: "object",
    }
}

/// Follow-up, file and start of a chunk, the primary key of `attachment_chunks`.
pub(super) fn attachment_row(follow_up: FollowUpId, id: AttachmentId, start: u64) -> [u8; 40] {
    let mut row = [0; 40];
    row[..16].copy_from_slice(follow_up.as_bytes());
    row[16..32].copy_from_slice(id.as_bytes());
    row[32..].copy_from_slice(&start.to_be_bytes());
    row
}

/// `log_entries.opening`.
pub(super) const fn log_opening(entry: &EntryId) -> Cell<'_> {
    Cell {
        table: "log_entries",
        row: entry.as_bytes(),
        column: "opening",
    }
}

impl EngineTx<'_> {
    pub(super) fn seal(&self, cell: Cell<'_>, clear: &str) -> Vec<u8> {
        self.seal_bytes(cell, clear.as_bytes())
    }

    pub(super) fn seal_bytes(&self, cell: Cell<'_>, clear: &[u8]) -> Vec<u8> {
        self.cipher.seal(cell, clear, &mut os_rng())
    }

    /// Opens a text.
    pub(super) fn open(&self, cell: Cell<'_>, stored: &[u8]) -> Result<String> {
        let clear = self.cipher.open(cell, stored)?;
        let text = std::str::from_utf8(&clear).map_err(|_| corrupt(cell.column))?;
        Ok(text.to_owned())
    }

    pub(super) fn open_key(&self, cell: Cell<'_>, stored: &[u8]) -> Result<ObjectKey> {
        ObjectKey::parse(&self.open(cell, stored)?).ok_or_else(|| corrupt(cell.column))
    }

    /// The value under the first key.
    fn seal_anew(&self, cell: Cell<'_>, stored: &[u8]) -> Result<Vec<u8>> {
        Ok(self.seal_bytes(cell, &self.cipher.open(cell, stored)?))
    }
}

#[async_trait]
impl AtRestTx for EngineTx<'_> {
    async fn update_object_seals(&mut self, limit: u32) -> Result<u64> {
        let Some(first_key) = self.cipher.current_prefix() else {
            return Ok(0);
        };
        let filters = query(
            "SELECT id, object FROM publications
             WHERE object IS NOT NULL AND substr(object, 1, 5) <> $1 LIMIT $2",
        )
        .bind(&first_key[..])
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        for row in &filters {
            let id = blob(row, "id", PublicationId::from_slice)?;
            let object = self.seal_anew(filter_object(&id), get(row, "object")?)?;
            query("UPDATE publications SET object = $2 WHERE id = $1")
                .bind(&id.as_bytes()[..])
                .bind(object)
                .execute(&mut *self.connection)
                .await
                .map_err(db_error)?;
        }
        let chunks = query(
            "SELECT publication, start, object FROM chunks
             WHERE substr(object, 1, 5) <> $1 LIMIT $2",
        )
        .bind(&first_key[..])
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        for row in &chunks {
            let id = blob(row, "publication", PublicationId::from_slice)?;
            let start: u64 = number(row, "start")?;
            let cell = chunk_row(id, start);
            let object = self.seal_anew(chunk_object(&cell), get(row, "object")?)?;
            query("UPDATE chunks SET object = $3 WHERE publication = $1 AND start = $2")
                .bind(&id.as_bytes()[..])
                .bind(int(start))
                .bind(object)
                .execute(&mut *self.connection)
                .await
                .map_err(db_error)?;
        }
        Ok((filters.len() + chunks.len()) as u64)
    }

    async fn update_attachment_seals(&mut self, limit: u32) -> Result<u64> {
        let Some(first_key) = self.cipher.current_prefix() else {
            return Ok(0);
        };
        let chunks = query(
            "SELECT follow_up, attachment, start, object FROM attachment_chunks
             WHERE substr(object, 1, 5) <> $1 LIMIT $2",
        )
        .bind(&first_key[..])
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        for row in &chunks {
            let follow_up = blob(row, "follow_up", FollowUpId::from_slice)?;
            let id = blob(row, "attachment", AttachmentId::from_slice)?;
            let start: u64 = number(row, "start")?;
            let cell = attachment_row(follow_up, id, start);
            let object = self.seal_anew(attachment_object(&cell), get(row, "object")?)?;
            query(
                "UPDATE attachment_chunks SET object = $4
                 WHERE follow_up = $1 AND attachment = $2 AND start = $3",
            )
            .bind(&follow_up.as_bytes()[..])
            .bind(&id.as_bytes()[..])
            .bind(int(start))
            .bind(object)
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        }
        Ok(chunks.len() as u64)
    }

    async fn update_case_ref_seals(&mut self, limit: u32) -> Result<u64> {
        let Some(first_key) = self.cipher.current_prefix() else {
            return Ok(0);
        };
        let sessions = query(
            "SELECT id, case_ref, case_ref_at_rest FROM sessions
             WHERE case_ref_at_rest IS NULL OR substr(case_ref_at_rest, 1, 5) <> $1 LIMIT $2",
        )
        .bind(&first_key[..])
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        for row in &sessions {
            let id = blob(row, "id", SessionId::from_slice)?;
            let stored: Option<&[u8]> = get(row, "case_ref_at_rest")?;
            let sealed = match stored {
                Some(stored) => self.seal_anew(case_ref(&id), stored)?,
                // Of the time before this column.
                None => self.seal(case_ref(&id), get(row, "case_ref")?),
            };
            query("UPDATE sessions SET case_ref = '', case_ref_at_rest = $2 WHERE id = $1")
                .bind(&id.as_bytes()[..])
                .bind(sealed)
                .execute(&mut *self.connection)
                .await
                .map_err(db_error)?;
        }
        Ok(sessions.len() as u64)
    }

    async fn update_opening_seals(&mut self, limit: u32) -> Result<Option<u64>> {
        let Some(first_key) = self.cipher.current_prefix() else {
            return Ok(None);
        };
        let row = query(
            "SELECT log_sizes.community, log_sizes.size,
                 CASE WHEN sealed_under = $1 THEN sealed ELSE coalesce(erased, 0) END AS sealed
             FROM log_sizes LEFT JOIN log_upkeep ON log_upkeep.community = log_sizes.community
             WHERE size > CASE WHEN sealed_under = $1 THEN sealed ELSE coalesce(erased, 0) END
             LIMIT 1",
        )
        .bind(&first_key[..])
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(db_error)?;
        let Some(row) = row else {
            return Ok(None);
        };
        let community: CommunityId = text(&row, "community")?;
        let (size, begin): (u64, u64) = (number(&row, "size")?, number(&row, "sealed")?);
        let end = size.min(begin + u64::from(limit));
        let sealed = self
            .seal_openings(&community, begin..end, &first_key)
            .await?;
        query(
            "INSERT INTO log_upkeep (community, erased, sealed, sealed_under) VALUES ($1, 0, $2, $3)
             ON CONFLICT (community) DO UPDATE
             SET sealed = excluded.sealed, sealed_under = excluded.sealed_under",
        )
        .bind(community.as_str())
        .bind(int(end))
        .bind(&first_key[..])
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(Some(sealed))
    }
}

impl EngineTx<'_> {
    /// Seals the openings at these places anew that are not under the key with this prefix; returns how
    /// many there were.
    async fn seal_openings(
        &mut self,
        community: &CommunityId,
        places: Range<u64>,
        key: &[u8],
    ) -> Result<u64> {
        let openings = query(
            "SELECT id, opening FROM log_entries
             WHERE community = $1 AND place >= $2 AND place < $3 AND opening IS NOT NULL",
        )
        .bind(community.as_str())
        .bind(int(places.start))
        .bind(int(places.end))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        let mut sealed = 0;
        for row in &openings {
            let opening: &[u8] = get(row, "opening")?;
            if opening.starts_with(key) {
                continue;
            }
            let id = blob(row, "id", EntryId::from_slice)?;
            query("UPDATE log_entries SET opening = $2 WHERE id = $1")
                .bind(&id.as_bytes()[..])
                .bind(self.seal_anew(log_opening(&id), opening)?)
                .execute(&mut *self.connection)
                .await
                .map_err(db_error)?;
            sealed += 1;
        }
        Ok(sealed)
    }
}
