//! Probe sessions, recorded answers, quota.

use async_trait::async_trait;
use sotto_common::error::Result;
use sotto_common::grounds::{Grounds, LegalBasis, Purpose};
use sotto_common::ids::{CommunityId, EntryId, NodeId, SessionId};
use sotto_common::membership::EpochState;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sqlx::query;

use super::at_rest::case_ref;
use super::columns::{blob, bytes, get, int, number, text, time};
use super::publications::stack_key;
use super::{EngineRow, EngineTx, db_error};
use crate::datastore::model::corrupt;
use crate::datastore::{
    BatchRecord, BatchStanding, EpochTimes, Limits, ProbeTx, SessionRecord, StateColumn as _,
};

#[async_trait]
impl ProbeTx for EngineTx<'_> {
    async fn put_session(&mut self, session: &SessionRecord) -> Result<()> {
        let case_ref = self.seal(case_ref(&session.id), session.grounds.case_ref());
        query(
            "INSERT INTO sessions
                 (id, community, epoch, policy, prober, commitment, opening, purpose, legal_basis,
                  legal_basis_reference, case_ref, case_ref_at_rest, opened_at, last_used_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, '', $11, $12, $12)",
        )
        .bind(&session.id.as_bytes()[..])
        .bind(session.key.community.as_str())
        .bind(i64::from(session.key.epoch.get()))
        .bind(session.key.policy.name())
        .bind(session.prober.as_str())
        .bind(session.commitment.as_ref().map(|c| &c[..]))
        .bind(&session.opening[..])
        .bind(session.grounds.purpose().as_str())
        .bind(session.grounds.legal_basis().as_str())
        .bind(session.grounds.reference())
        .bind(case_ref)
        .bind(session.opened_at.micros())
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_session(&mut self, id: SessionId) -> Result<Option<SessionRecord>> {
        query("SELECT * FROM sessions WHERE id = $1")
            .bind(&id.as_bytes()[..])
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map(|row| self.session_record(&row))
            .transpose()
    }

    async fn count_open_sessions(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
    ) -> Result<u64> {
        let row = query(
            "SELECT count(*) AS open FROM sessions
             WHERE community = $1 AND prober = $2 AND closed_at IS NULL",
        )
        .bind(community.as_str())
        .bind(prober.as_str())
        .fetch_one(&mut *self.connection)
        .await
        .map_err(db_error)?;
        number(&row, "open")
    }

    async fn get_longest_unused_session(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
    ) -> Result<Option<SessionId>> {
        query(
            "SELECT id FROM sessions
             WHERE community = $1 AND prober = $2 AND closed_at IS NULL
             ORDER BY last_used_at, id LIMIT 1",
        )
        .bind(community.as_str())
        .bind(prober.as_str())
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(db_error)?
        .map(|row| blob(&row, "id", SessionId::from_slice))
        .transpose()
    }

    async fn update_session_closed(&mut self, id: SessionId, at: Timestamp) -> Result<()> {
        query("UPDATE sessions SET closed_at = $2, commitment = NULL WHERE id = $1")
            .bind(&id.as_bytes()[..])
            .bind(at.micros())
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        query("DELETE FROM batches WHERE session = $1")
            .bind(&id.as_bytes()[..])
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        query("DELETE FROM sessions WHERE id = $1 AND batches = 0")
            .bind(&id.as_bytes()[..])
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        Ok(())
    }

    async fn get_idle_sessions(&mut self, before: Timestamp) -> Result<Vec<SessionId>> {
        query("SELECT id FROM sessions WHERE closed_at IS NULL AND last_used_at < $1")
            .bind(before.micros())
            .fetch_all(&mut *self.connection)
            .await
            .map_err(db_error)?
            .iter()
            .map(|row| blob(row, "id", SessionId::from_slice))
            .collect()
    }

    async fn put_batch(&mut self, batch: &BatchRecord, refs: u64, at: Timestamp) -> Result<()> {
        query(at_once!(
            session: "UPDATE sessions
                 SET batches = batches + 1, refs = refs + $6, last_used_at = $7 WHERE id = $1",
            quota: "INSERT INTO quota_use (community, node, policy, day, refs)
                 SELECT community, prober, policy, $8, $6 FROM sessions WHERE id = $1
                 ON CONFLICT (community, node, policy, day)
                 DO UPDATE SET refs = quota_use.refs + excluded.refs",
            => "INSERT INTO batches (session, number, tags_digest, matches, entry)
                VALUES ($1, $2, $3, $4, $5)"
        ))
        .bind(&batch.session.as_bytes()[..])
        .bind(i64::from(batch.number))
        .bind(&batch.tags_digest[..])
        .bind(&batch.matches)
        .bind(batch.entry.as_ref().map(|id| &id.as_bytes()[..]))
        .bind(int(refs))
        .bind(at.micros())
        .bind(at.day())
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_batch_standing(
        &mut self,
        session: SessionId,
        number: u32,
        day: i64,
    ) -> Result<Option<BatchStanding>> {
        query(
            "SELECT sessions.*,
                 nodes.node IS NOT NULL AND nodes.suspended IS NULL AS is_enrolled,
                 epochs.state AS epoch_state, epochs.not_before, epochs.not_after,
                 limits.daily_refs, quota_use.refs AS used_refs, hit_cursors.last AS hit_cursor,
                 batches.tags_digest, batches.matches, batches.entry
             FROM sessions
             JOIN epochs ON epochs.community = sessions.community
                 AND epochs.epoch = sessions.epoch
             LEFT JOIN nodes ON nodes.community = sessions.community
                 AND nodes.node = sessions.prober
             LEFT JOIN limits ON limits.community = sessions.community
                 AND limits.node = sessions.prober AND limits.policy = sessions.policy
             LEFT JOIN quota_use ON quota_use.community = sessions.community
                 AND quota_use.node = sessions.prober AND quota_use.policy = sessions.policy
                 AND quota_use.day = $3
             LEFT JOIN hit_cursors ON hit_cursors.community = sessions.community
                 AND hit_cursors.prober = sessions.prober
             LEFT JOIN batches ON batches.session = sessions.id AND batches.number = $2
             WHERE sessions.id = $1",
        )
        .bind(&session.as_bytes()[..])
        .bind(i64::from(number))
        .bind(day)
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(db_error)?
        .map(|row| self.batch_standing(&row, number))
        .transpose()
    }

    async fn get_last_batch(&mut self, session: SessionId) -> Result<Option<u32>> {
        query("SELECT number FROM batches WHERE session = $1 ORDER BY number DESC LIMIT 1")
            .bind(&session.as_bytes()[..])
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map(|row| number(&row, "number"))
            .transpose()
    }

    async fn get_quota_use(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        policy: Policy,
        day: i64,
    ) -> Result<u64> {
        let row = query(
            "SELECT refs FROM quota_use
             WHERE community = $1 AND node = $2 AND policy = $3 AND day = $4",
        )
        .bind(community.as_str())
        .bind(node.as_str())
        .bind(policy.name())
        .bind(day)
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(db_error)?;
        row.map_or(Ok(0), |row| number(&row, "refs"))
    }

    async fn delete_quota_use(&mut self, day: i64) -> Result<()> {
        query("DELETE FROM quota_use WHERE day < $1")
            .bind(day)
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        Ok(())
    }
}

impl EngineTx<'_> {
    fn batch_standing(&self, row: &EngineRow, number_of_batch: u32) -> Result<BatchStanding> {
        let session = self.session_record(row)?;
        let count = |column| get::<Option<i64>>(row, column);
        let known = |count: i64, column| u64::try_from(count).map_err(|_| corrupt(column));
        let daily_refs = count("daily_refs")?;
        Ok(BatchStanding {
            is_enrolled: get(row, "is_enrolled")?,
            epoch: EpochTimes {
                epoch: session.key.epoch,
                state: EpochState::from_column(get(row, "epoch_state")?)?,
                not_before: time(row, "not_before")?,
                not_after: time(row, "not_after")?,
            },
            used_refs: known(count("used_refs")?.unwrap_or(0), "used_refs")?,
            daily_refs: daily_refs.map_or(Ok(Limits::default().daily_refs), |limit| {
                known(limit, "daily_refs")
            })?,
            hit_cursor: known(count("hit_cursor")?.unwrap_or(0), "hit_cursor")?,
            recorded: recorded(row, session.id, number_of_batch)?,
            session,
        })
    }

    fn session_record(&self, row: &EngineRow) -> Result<SessionRecord> {
        let id = blob(row, "id", SessionId::from_slice)?;
        let stored: Option<&[u8]> = get(row, "case_ref_at_rest")?;
        let case_ref = match stored {
            Some(stored) => self.open(case_ref(&id), stored)?,
            // Of the time before this column.
            None => get(row, "case_ref")?,
        };
        let commitment: Option<Vec<u8>> = get(row, "commitment")?;
        let closed_at: Option<i64> = get(row, "closed_at")?;
        let grounds = Grounds::new(
            Purpose::parse(get(row, "purpose")?),
            LegalBasis::parse(get(row, "legal_basis")?),
            get(row, "legal_basis_reference")?,
            &case_ref,
        );
        Ok(SessionRecord {
            id,
            key: stack_key(row)?,
            prober: text(row, "prober")?,
            commitment: commitment
                .map(|c| c.try_into().map_err(|_| corrupt("commitment")))
                .transpose()?,
            opening: bytes(row, "opening")?,
            grounds: grounds.map_err(|_| corrupt("grounds"))?,
            batches: number(row, "batches")?,
            refs: number(row, "refs")?,
            opened_at: time(row, "opened_at")?,
            closed: closed_at.is_some(),
        })
    }
}

/// The recorded answer in a row, if it has one.
fn recorded(row: &EngineRow, session: SessionId, number: u32) -> Result<Option<BatchRecord>> {
    let matches: Option<Vec<u8>> = get(row, "matches")?;
    let Some(matches) = matches else {
        return Ok(None);
    };
    let entry: Option<&[u8]> = get(row, "entry")?;
    Ok(Some(BatchRecord {
        session,
        number,
        tags_digest: bytes(row, "tags_digest")?,
        matches,
        entry: entry
            .map(|id| EntryId::from_slice(id).map_err(|_| corrupt("entry")))
            .transpose()?,
    }))
}
