//! Files that go with an answer, and their chunks.

use async_trait::async_trait;
use sotto_common::error::Result;
use sotto_common::ids::{AttachmentId, FollowUpId};
use sqlx::query;

use super::at_rest::{attachment_object, attachment_row};
use super::columns::{blob, bytes, get, int, number};
use super::follow_up_rows::flag;
use super::{EngineRow, EngineTx, db_error};
use crate::datastore::{AttachmentChunk, AttachmentRecord, AttachmentTx};

#[async_trait]
impl AttachmentTx for EngineTx<'_> {
    async fn put_attachment(&mut self, attachment: &AttachmentRecord) -> Result<()> {
        let (kem, kdf, aead) = attachment.suite;
        query(
            "INSERT INTO attachments (follow_up, id, clear, kem, kdf, aead, enc, digest,
                 sealed_size, whole, answered)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(&attachment.follow_up.as_bytes()[..])
        .bind(&attachment.id.as_bytes()[..])
        .bind(&attachment.clear)
        .bind(i64::from(kem))
        .bind(i64::from(kdf))
        .bind(i64::from(aead))
        .bind(&attachment.enc)
        .bind(&attachment.digest[..])
        .bind(int(attachment.sealed_size))
        .bind(i64::from(attachment.whole))
        .bind(i64::from(attachment.answered))
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_attachment(
        &mut self,
        follow_up: FollowUpId,
        id: AttachmentId,
    ) -> Result<Option<AttachmentRecord>> {
        query("SELECT * FROM attachments WHERE follow_up = $1 AND id = $2")
            .bind(&follow_up.as_bytes()[..])
            .bind(&id.as_bytes()[..])
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map(|row| attachment_record(&row))
            .transpose()
    }

    async fn get_attachments(&mut self, follow_up: FollowUpId) -> Result<Vec<AttachmentRecord>> {
        query("SELECT * FROM attachments WHERE follow_up = $1 ORDER BY id")
            .bind(&follow_up.as_bytes()[..])
            .fetch_all(&mut *self.connection)
            .await
            .map_err(db_error)?
            .iter()
            .map(attachment_record)
            .collect()
    }

    async fn update_attachment(&mut self, attachment: &AttachmentRecord) -> Result<()> {
        query("UPDATE attachments SET whole = $3, answered = $4 WHERE follow_up = $1 AND id = $2")
            .bind(&attachment.follow_up.as_bytes()[..])
            .bind(&attachment.id.as_bytes()[..])
            .bind(i64::from(attachment.whole))
            .bind(i64::from(attachment.answered))
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        Ok(())
    }

    async fn delete_attachment(&mut self, follow_up: FollowUpId, id: AttachmentId) -> Result<()> {
        query("DELETE FROM attachments WHERE follow_up = $1 AND id = $2")
            .bind(&follow_up.as_bytes()[..])
            .bind(&id.as_bytes()[..])
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        Ok(())
    }

    async fn put_attachment_chunk(
        &mut self,
        follow_up: FollowUpId,
        id: AttachmentId,
        chunk: &AttachmentChunk,
    ) -> Result<()> {
        let row = attachment_row(follow_up, id, chunk.start);
        let object = self.seal(attachment_object(&row), chunk.object.expose());
        query(
            "INSERT INTO attachment_chunks (follow_up, attachment, start, length, object)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&follow_up.as_bytes()[..])
        .bind(&id.as_bytes()[..])
        .bind(int(chunk.start))
        .bind(int(chunk.length))
        .bind(object)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_attachment_chunks(
        &mut self,
        follow_up: FollowUpId,
        id: AttachmentId,
    ) -> Result<Vec<AttachmentChunk>> {
        query(
            "SELECT * FROM attachment_chunks WHERE follow_up = $1 AND attachment = $2
             ORDER BY start",
        )
        .bind(&follow_up.as_bytes()[..])
        .bind(&id.as_bytes()[..])
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| {
            let start = number(row, "start")?;
            let cell_row = attachment_row(follow_up, id, start);
            let stored: &[u8] = get(row, "object")?;
            Ok(AttachmentChunk {
                start,
                length: number(row, "length")?,
                object: self.open_key(attachment_object(&cell_row), stored)?,
            })
        })
        .collect()
    }

    async fn get_attachment_length(
        &mut self,
        follow_up: FollowUpId,
        id: AttachmentId,
    ) -> Result<u64> {
        let last = query(
            "SELECT start + length AS bytes FROM attachment_chunks
             WHERE follow_up = $1 AND attachment = $2 ORDER BY start DESC LIMIT 1",
        )
        .bind(&follow_up.as_bytes()[..])
        .bind(&id.as_bytes()[..])
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(db_error)?;
        last.map_or(Ok(0), |row| number(&row, "bytes"))
    }

    async fn delete_attachment_chunks(
        &mut self,
        follow_up: FollowUpId,
        id: AttachmentId,
    ) -> Result<()> {
        query("DELETE FROM attachment_chunks WHERE follow_up = $1 AND attachment = $2")
            .bind(&follow_up.as_bytes()[..])
            .bind(&id.as_bytes()[..])
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        Ok(())
    }
}

fn attachment_record(row: &EngineRow) -> Result<AttachmentRecord> {
    Ok(AttachmentRecord {
        follow_up: blob(row, "follow_up", FollowUpId::from_slice)?,
        id: blob(row, "id", AttachmentId::from_slice)?,
        clear: get(row, "clear")?,
        suite: (
            number(row, "kem")?,
            number(row, "kdf")?,
            number(row, "aead")?,
        ),
        enc: get(row, "enc")?,
        digest: bytes(row, "digest")?,
        sealed_size: number(row, "sealed_size")?,
        whole: flag(row, "whole")?,
        answered: flag(row, "answered")?,
    })
}
