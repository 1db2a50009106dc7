//! Publications, versions, salts.

use async_trait::async_trait;
use sotto_common::error::Result;
use sotto_common::ids::{CommunityId, Epoch, NodeId, PublicationId};
use sotto_common::publication::{FilterLabels, PublicationState};
use sotto_common::selector::Policy;
use sqlx::query;

use super::at_rest::{chunk_object, chunk_row, filter_object};
use super::columns::{blob, bytes, get, handling_column, int, labels, number, text, time};
use super::membership::epoch_number;
use super::{EngineRow, EngineTx, db_error};
use crate::datastore::{ChunkRecord, PublicationRecord, PublicationTx, StackKey, StateColumn as _};

#[async_trait]
impl PublicationTx for EngineTx<'_> {
    async fn put_publication(&mut self, publication: &PublicationRecord) -> Result<()> {
        query(
            "INSERT INTO publications
                 (id, community, epoch, policy, holder, version, supplement_of, state, header,
                  digest, class, fpr, created_at, expires_at, generation, contact_unit,
                  handling_code, handling_text)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                  $18)",
        )
        .bind(&publication.id.as_bytes()[..])
        .bind(publication.key.community.as_str())
        .bind(i64::from(publication.key.epoch.get()))
        .bind(publication.key.policy.name())
        .bind(publication.holder.as_str())
        .bind(int(publication.version))
        .bind(publication.supplement_of.map(int))
        .bind(publication.state.as_str())
        .bind(&publication.header)
        .bind(&publication.digest[..])
        .bind(i64::from(publication.class))
        .bind(publication.fpr)
        .bind(publication.created_at.micros())
        .bind(publication.expires_at.micros())
        .bind(int(publication.generation))
        .bind(publication.labels.contact_unit())
        .bind(handling_column(&publication.labels))
        .bind(publication.labels.handling_text())
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_publication(&mut self, id: PublicationId) -> Result<Option<PublicationRecord>> {
        query("SELECT * FROM publications WHERE id = $1")
            .bind(&id.as_bytes()[..])
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map(|row| self.publication_record(&row))
            .transpose()
    }

    async fn get_publications(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
        holder: &NodeId,
        policy: Option<Policy>,
        limit: u32,
    ) -> Result<Vec<PublicationRecord>> {
        let rows = query(concat!(
            "SELECT * FROM publications
             WHERE community = $1 AND epoch = $2 AND holder = $3
               AND ($4 IS NULL OR policy = $4)
             ORDER BY ",
            bytewise!("policy"),
            ", version DESC, id DESC LIMIT $5"
        ))
        .bind(community.as_str())
        .bind(i64::from(epoch.get()))
        .bind(holder.as_str())
        .bind(policy.map(Policy::name))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        self.publication_records(&rows)
    }

    async fn get_publications_in(
        &mut self,
        state: PublicationState,
    ) -> Result<Vec<PublicationRecord>> {
        let rows = query("SELECT * FROM publications WHERE state = $1")
            .bind(state.as_str())
            .fetch_all(&mut *self.connection)
            .await
            .map_err(db_error)?;
        self.publication_records(&rows)
    }

    async fn get_stack(
        &mut self,
        key: &StackKey,
        holder: &NodeId,
    ) -> Result<Vec<PublicationRecord>> {
        let rows = query(
            "SELECT * FROM publications
             WHERE community = $1 AND epoch = $2 AND policy = $3 AND holder = $4 AND state = $5
             ORDER BY version",
        )
        .bind(key.community.as_str())
        .bind(i64::from(key.epoch.get()))
        .bind(key.policy.name())
        .bind(holder.as_str())
        .bind(PublicationState::Active.as_str())
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?;
        self.publication_records(&rows)
    }

    async fn count_uploads(&mut self, community: &CommunityId, holder: &NodeId) -> Result<u64> {
        let row = query(
            "SELECT count(*) AS uploads FROM publications
             WHERE community = $1 AND holder = $2 AND state = $3",
        )
        .bind(community.as_str())
        .bind(holder.as_str())
        .bind(PublicationState::Uploading.as_str())
        .fetch_one(&mut *self.connection)
        .await
        .map_err(db_error)?;
        number(&row, "uploads")
    }

    async fn get_moved_publications(&mut self, after: u64) -> Result<Vec<PublicationRecord>> {
        let rows = query("SELECT * FROM publications WHERE generation > $1 ORDER BY generation")
            .bind(int(after))
            .fetch_all(&mut *self.connection)
            .await
            .map_err(db_error)?;
        self.publication_records(&rows)
    }

    async fn get_labels(
        &mut self,
        key: &StackKey,
        holder: &NodeId,
        version: u64,
    ) -> Result<FilterLabels> {
        let row = query(
            "SELECT contact_unit, handling_code, handling_text FROM publications
             WHERE community = $1 AND epoch = $2 AND policy = $3 AND holder = $4
               AND version = $5 AND fpr > 0",
        )
        .bind(key.community.as_str())
        .bind(i64::from(key.epoch.get()))
        .bind(key.policy.name())
        .bind(holder.as_str())
        .bind(int(version))
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(db_error)?;
        row.map_or_else(|| Ok(FilterLabels::default()), |row| labels(&row))
    }

    async fn update_publication(&mut self, publication: &PublicationRecord) -> Result<()> {
        let object = publication
            .object
            .as_ref()
            .map(|key| self.seal(filter_object(&publication.id), key.expose()));
        query(
            "UPDATE publications
             SET state = $2, fpr = $3, header = $4, generation = $5, object = $6 WHERE id = $1",
        )
        .bind(&publication.id.as_bytes()[..])
        .bind(publication.state.as_str())
        .bind(publication.fpr)
        .bind(&publication.header)
        .bind(int(publication.generation))
        .bind(object)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn put_chunk(&mut self, chunk: &ChunkRecord, number: u64) -> Result<()> {
        let row = chunk_row(chunk.publication, chunk.start);
        let object = self.seal(chunk_object(&row), chunk.object.expose());
        query(
            "INSERT INTO chunks (publication, start, number, length, object)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&chunk.publication.as_bytes()[..])
        .bind(int(chunk.start))
        .bind(int(number))
        .bind(int(chunk.length))
        .bind(object)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_chunks(&mut self, id: PublicationId) -> Result<Vec<ChunkRecord>> {
        query("SELECT * FROM chunks WHERE publication = $1 ORDER BY start")
            .bind(&id.as_bytes()[..])
            .fetch_all(&mut *self.connection)
            .await
            .map_err(db_error)?
            .iter()
            .map(|row| {
                let start = number(row, "start")?;
                let cell_row = chunk_row(id, start);
                let stored: &[u8] = get(row, "object")?;
                Ok(ChunkRecord {
                    publication: id,
                    start,
                    length: number(row, "length")?,
                    object: self.open_key(chunk_object(&cell_row), stored)?,
                })
            })
            .collect()
    }

    async fn get_acknowledged(&mut self, id: PublicationId) -> Result<(u64, u64)> {
        let last = query(
            "SELECT start + length AS bytes, number + 1 AS chunks FROM chunks
             WHERE publication = $1 ORDER BY start DESC LIMIT 1",
        )
        .bind(&id.as_bytes()[..])
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(db_error)?;
        match last {
            Some(row) => Ok((number(&row, "bytes")?, number(&row, "chunks")?)),
            None => Ok((0, 0)),
        }
    }

    async fn delete_chunks(&mut self, id: PublicationId) -> Result<()> {
        query("DELETE FROM chunks WHERE publication = $1")
            .bind(&id.as_bytes()[..])
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        Ok(())
    }

    async fn get_version(&mut self, key: &StackKey, holder: &NodeId) -> Result<u64> {
        let row = query(
            "SELECT version FROM versions
             WHERE community = $1 AND epoch = $2 AND policy = $3 AND holder = $4",
        )
        .bind(key.community.as_str())
        .bind(i64::from(key.epoch.get()))
        .bind(key.policy.name())
        .bind(holder.as_str())
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(db_error)?;
        row.map_or(Ok(0), |row| number(&row, "version"))
    }

    async fn put_version(&mut self, key: &StackKey, holder: &NodeId, version: u64) -> Result<()> {
        query(
            "INSERT INTO versions (community, epoch, policy, holder, version)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (community, epoch, policy, holder)
             DO UPDATE SET version = excluded.version",
        )
        .bind(key.community.as_str())
        .bind(i64::from(key.epoch.get()))
        .bind(key.policy.name())
        .bind(holder.as_str())
        .bind(int(version))
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_salt(
        &mut self,
        community: &CommunityId,
        digest: &[u8; 32],
    ) -> Result<Option<PublicationId>> {
        query("SELECT publication FROM salts WHERE community = $1 AND digest = $2")
            .bind(community.as_str())
            .bind(&digest[..])
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map(|row| blob(&row, "publication", PublicationId::from_slice))
            .transpose()
    }

    async fn put_salt(
        &mut self,
        community: &CommunityId,
        digest: &[u8; 32],
        publication: PublicationId,
    ) -> Result<()> {
        query(
            "INSERT INTO salts (community, digest, publication) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING",
        )
        .bind(community.as_str())
        .bind(&digest[..])
        .bind(&publication.as_bytes()[..])
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }
}

/// Reads community, epoch and policy.
pub(super) fn stack_key(row: &EngineRow) -> Result<StackKey> {
    Ok(StackKey {
        community: text(row, "community")?,
        epoch: epoch_number(row)?,
        policy: text(row, "policy")?,
    })
}

impl EngineTx<'_> {
    fn publication_records(&self, rows: &[EngineRow]) -> Result<Vec<PublicationRecord>> {
        rows.iter()
            .map(|row| self.publication_record(row))
            .collect()
    }

    fn publication_record(&self, row: &EngineRow) -> Result<PublicationRecord> {
        let id = blob(row, "id", PublicationId::from_slice)?;
        let object: Option<&[u8]> = get(row, "object")?;
        let object = object.map(|stored| self.open_key(filter_object(&id), stored));
        let supplement_of: Option<i64> = get(row, "supplement_of")?;
        Ok(PublicationRecord {
            id,
            key: stack_key(row)?,
            holder: text(row, "holder")?,
            version: number(row, "version")?,
            supplement_of: supplement_of.map(i64::cast_unsigned),
            state: PublicationState::from_column(get(row, "state")?)?,
            header: get(row, "header")?,
            digest: bytes(row, "digest")?,
            class: number(row, "class")?,
            fpr: get(row, "fpr")?,
            created_at: time(row, "created_at")?,
            expires_at: time(row, "expires_at")?,
            labels: labels(row)?,
            generation: number(row, "generation")?,
            object: object.transpose()?,
        })
    }
}
