//! Publications, versions, salts.

use async_trait::async_trait;
use sotto_common::error::Result;
use sotto_common::ids::{CommunityId, Epoch, NodeId, PublicationId};
use sotto_common::publication::PublicationState;
use sotto_common::selector::Policy;
use sqlx::postgres::PgRow;
use sqlx::query;

use super::membership::epoch_number;
use super::{PostgresTx, blob, bytes, db_error, get, int, number, text, time};
use crate::datastore::{PublicationRecord, PublicationTx, StackKey, StateColumn as _};

#[async_trait]
impl PublicationTx for PostgresTx<'_> {
    async fn put_publication(&mut self, publication: &PublicationRecord) -> Result<()> {
        query(
            "INSERT INTO publications
                 (id, community, epoch, policy, holder, version, supplement_of, state, header,
                  digest, class, fpr, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
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
        .execute(&mut *self.0)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_publication(&mut self, id: PublicationId) -> Result<Option<PublicationRecord>> {
        query("SELECT * FROM publications WHERE id = $1")
            .bind(&id.as_bytes()[..])
            .fetch_optional(&mut *self.0)
            .await
            .map_err(db_error)?
            .map(|row| publication_record(&row))
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
        query(
            "SELECT * FROM publications
             WHERE community = $1 AND epoch = $2 AND holder = $3
               AND ($4 IS NULL OR policy = $4)
             ORDER BY convert_to(policy, 'UTF8'), version DESC, id DESC LIMIT $5",
        )
        .bind(community.as_str())
        .bind(i64::from(epoch.get()))
        .bind(holder.as_str())
        .bind(policy.map(Policy::name))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.0)
        .await
        .map_err(db_error)?
        .iter()
        .map(publication_record)
        .collect()
    }

    async fn get_publications_in(
        &mut self,
        state: PublicationState,
    ) -> Result<Vec<PublicationRecord>> {
        query("SELECT * FROM publications WHERE state = $1")
            .bind(state.as_str())
            .fetch_all(&mut *self.0)
            .await
            .map_err(db_error)?
            .iter()
            .map(publication_record)
            .collect()
    }

    async fn get_stack(
        &mut self,
        key: &StackKey,
        holder: &NodeId,
    ) -> Result<Vec<PublicationRecord>> {
        query(
            "SELECT * FROM publications
             WHERE community = $1 AND epoch = $2 AND policy = $3 AND holder = $4 AND state = $5
             ORDER BY version",
        )
        .bind(key.community.as_str())
        .bind(i64::from(key.epoch.get()))
        .bind(key.policy.name())
        .bind(holder.as_str())
        .bind(PublicationState::Active.as_str())
        .fetch_all(&mut *self.0)
        .await
        .map_err(db_error)?
        .iter()
        .map(publication_record)
        .collect()
    }

    async fn count_uploads(&mut self, community: &CommunityId, holder: &NodeId) -> Result<u64> {
        let row = query(
            "SELECT count(*) AS uploads FROM publications
             WHERE community = $1 AND holder = $2 AND state = $3",
        )
        .bind(community.as_str())
        .bind(holder.as_str())
        .bind(PublicationState::Uploading.as_str())
        .fetch_one(&mut *self.0)
        .await
        .map_err(db_error)?;
        number(&row, "uploads")
    }

    async fn update_publication(
        &mut self,
        id: PublicationId,
        state: PublicationState,
        fpr: f64,
    ) -> Result<()> {
        query(
            "UPDATE publications
             SET state = $2, fpr = $3, header = CASE WHEN $4 THEN header ELSE $5 END
             WHERE id = $1",
        )
        .bind(&id.as_bytes()[..])
        .bind(state.as_str())
        .bind(fpr)
        .bind(state == PublicationState::Active)
        .bind(&b""[..])
        .execute(&mut *self.0)
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
        .fetch_optional(&mut *self.0)
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
        .execute(&mut *self.0)
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
            .fetch_optional(&mut *self.0)
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
        .execute(&mut *self.0)
        .await
        .map_err(db_error)?;
        Ok(())
    }
}

/// Reads community, epoch and policy.
pub(super) fn stack_key(row: &PgRow) -> Result<StackKey> {
    Ok(StackKey {
        community: text(row, "community")?,
        epoch: epoch_number(row)?,
        policy: text(row, "policy")?,
    })
}

fn publication_record(row: &PgRow) -> Result<PublicationRecord> {
    let supplement_of: Option<i64> = get(row, "supplement_of")?;
    Ok(PublicationRecord {
        id: blob(row, "id", PublicationId::from_slice)?,
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
    })
}
