//! The hit ledger, its events, and the flood guard's counts.

use std::collections::HashMap;

use async_trait::async_trait;
use sotto_common::error::Result;
use sotto_common::hit::{HitDecision, HitState};
use sotto_common::ids::{CommunityId, Epoch, HitId, NodeId, RecordRef};
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sqlx::query;

use super::columns::{blob, bytes, get, int, labels, number, text, time};
use super::hit_runs::hits_json;
use super::membership::{epoch_number, epoch_record};
use super::publications::stack_key;
use super::{EngineRow, EngineTx, db_error, probed};
use crate::datastore::{
    EpochRecord, FeedbackRecord, GuardKey, HitEventRecord, HitFilter, HitRecord, HitStatistic,
    HitTx, LabelledHit, StackKey, StateColumn as _,
};

/// Hits with what their holder says of the version that matched last; the statements below add which
/// hits. Of what was announced with one version one publication at most was activated, and has an f.
macro_rules! labelled_hits {
    ($columns:literal, $from:literal, $rest:literal) => {
        concat!(
            "SELECT ",
            $columns,
            "hits.*, publications.contact_unit, publications.handling_code,
                 publications.handling_text
             FROM ",
            $from,
            " LEFT JOIN publications ON publications.community = hits.community
                 AND publications.epoch = hits.epoch AND publications.policy = hits.policy
                 AND publications.holder = hits.holder
                 AND publications.version = hits.filter_version AND publications.fpr > 0 ",
            $rest
        )
    };
}

#[async_trait]
impl HitTx for EngineTx<'_> {
    async fn put_hits(&mut self, hits: &[HitRecord]) -> Result<()> {
        for run in hits.chunk_by(HitRecord::was_found_with) {
            self.put_run(run).await?;
        }
        Ok(())
    }

    async fn get_hits_on(
        &mut self,
        key: &StackKey,
        prober: &NodeId,
        refs: &[RecordRef],
    ) -> Result<Vec<HitRecord>> {
        probed(&mut *self.connection, key, prober, refs)
            .await?
            .iter()
            .map(hit_record)
            .collect()
    }

    async fn get_refs_with_hits(
        &mut self,
        key: &StackKey,
        prober: &NodeId,
        after: Option<RecordRef>,
        limit: u32,
    ) -> Result<Vec<RecordRef>> {
        // In the order of the index that has all of these columns.
        query(
            "SELECT record_ref FROM hits
             WHERE community = $1 AND epoch = $2 AND policy = $3 AND prober = $4
               AND record_ref > $5
             ORDER BY record_ref LIMIT $6",
        )
        .bind(key.community.as_str())
        .bind(i64::from(key.epoch.get()))
        .bind(key.policy.name())
        .bind(prober.as_str())
        .bind(after.map_or(vec![], |r| r.as_bytes().to_vec()))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| blob(row, "record_ref", RecordRef::from_slice))
        .collect()
    }

    async fn get_hit(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
        id: HitId,
    ) -> Result<Option<LabelledHit>> {
        query(labelled_hits!(
            "",
            "hits",
            "WHERE hits.id = $1 AND hits.community = $2 AND hits.prober = $3"
        ))
        .bind(&id.as_bytes()[..])
        .bind(community.as_str())
        .bind(prober.as_str())
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(db_error)?
        .map(|row| labelled_hit(&row))
        .transpose()
    }

    async fn get_hits(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
        filter: &HitFilter,
        after: Option<HitId>,
        limit: u32,
    ) -> Result<Vec<LabelledHit>> {
        query(labelled_hits!(
            "",
            "hits",
            "WHERE hits.community = $1 AND hits.prober = $2 AND hits.id > $3
               AND hits.state <> $4
               AND ($5 IS NULL OR hits.epoch = $5)
               AND ($6 IS NULL OR hits.policy = $6)
               AND ($7 IS NULL OR hits.holder = $7)
               AND ($8 IS NULL OR hits.state = $8)
               AND ($9 IS NULL OR hits.first_seen >= $9)
             ORDER BY hits.id LIMIT $10"
        ))
        .bind(community.as_str())
        .bind(prober.as_str())
        .bind(after.map_or(vec![], |id| id.as_bytes().to_vec()))
        .bind(HitState::Quarantined.as_str())
        .bind(filter.epoch.map(|epoch| i64::from(epoch.get())))
        .bind(filter.policy.map(Policy::name))
        .bind(filter.holder.as_ref().map(NodeId::as_str))
        .bind(filter.state.map(HitState::as_str))
        .bind(filter.since.map(Timestamp::micros))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(labelled_hit)
        .collect()
    }

    async fn update_hits(&mut self, hits: &[HitRecord]) -> Result<()> {
        for run in hits.chunk_by(HitRecord::has_become_as) {
            self.update_run(run).await?;
        }
        Ok(())
    }

    async fn get_epochs_with_open_hits(&mut self) -> Result<Vec<(CommunityId, EpochRecord)>> {
        query(
            "SELECT * FROM epochs
             WHERE EXISTS (SELECT 1 FROM hits
                           WHERE hits.community = epochs.community AND hits.epoch = epochs.epoch
                             AND hits.state IN ('NEW', 'UNDER_REVIEW'))",
        )
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| Ok((text(row, "community")?, epoch_record(row)?)))
        .collect()
    }

    async fn get_untouched_hits(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<HitRecord>> {
        query(
            "SELECT * FROM hits
             WHERE community = $1 AND epoch = $2 AND state IN ('NEW', 'UNDER_REVIEW')
               AND coalesce(touched_at, first_seen) < $3
             ORDER BY coalesce(touched_at, first_seen) LIMIT $4",
        )
        .bind(community.as_str())
        .bind(i64::from(epoch.get()))
        .bind(before.micros())
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(hit_record)
        .collect()
    }

    async fn put_feedback(&mut self, feedback: &FeedbackRecord) -> Result<()> {
        query(
            "INSERT INTO hit_feedback (hit, statement, decision, envelope, taken_at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&feedback.hit.as_bytes()[..])
        .bind(&feedback.statement[..])
        .bind(feedback.decision.as_str())
        .bind(&feedback.envelope)
        .bind(feedback.taken_at.micros())
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_feedback(&mut self, hit: HitId) -> Result<Vec<FeedbackRecord>> {
        query("SELECT * FROM hit_feedback WHERE hit = $1 ORDER BY taken_at, statement")
            .bind(&hit.as_bytes()[..])
            .fetch_all(&mut *self.connection)
            .await
            .map_err(db_error)?
            .iter()
            .map(|row| {
                Ok(FeedbackRecord {
                    hit,
                    statement: bytes(row, "statement")?,
                    decision: HitDecision::from_column(get(row, "decision")?)?,
                    envelope: get(row, "envelope")?,
                    taken_at: time(row, "taken_at")?,
                })
            })
            .collect()
    }

    async fn get_hit_statistics(
        &mut self,
        community: &CommunityId,
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<HitStatistic>> {
        query(concat!(
            "SELECT prober, holder, policy, epoch, filter_version, count(*) AS hits,
                 count(*) FILTER (WHERE state IN
                     ('CONFIRMED', 'FOLLOWED_UP', 'CLOSED', 'NOT_RELEVANT')) AS confirmed,
                 count(*) FILTER (WHERE state = 'FALSE_POSITIVE') AS false_positives,
                 count(*) FILTER (WHERE state = 'RETRACTED') AS retracted,
                 count(*) FILTER (WHERE state = 'EXPIRED') AS expired,
                 avg(fpr) AS mean_fpr
             FROM hits
             WHERE community = $1 AND state <> 'QUARANTINED' AND first_seen >= $2
             GROUP BY prober, holder, policy, epoch, filter_version
             ORDER BY ",
            bytewise!("prober"),
            ", ",
            bytewise!("holder"),
            ", ",
            bytewise!("policy"),
            ", epoch, filter_version LIMIT $3"
        ))
        .bind(community.as_str())
        .bind(since.map_or(i64::MIN, Timestamp::micros))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(hit_statistic)
        .collect()
    }

    async fn count_quarantine(&mut self, community: &CommunityId) -> Result<Vec<(GuardKey, u64)>> {
        query(concat!(
            "SELECT prober, holder, policy, day, count(*) AS hits FROM hits
             WHERE community = $1 AND state = 'QUARANTINED'
             GROUP BY prober, holder, policy, day
             ORDER BY day, ",
            bytewise!("prober"),
            ", ",
            bytewise!("holder"),
            ",
                 ",
            bytewise!("policy")
        ))
        .bind(community.as_str())
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(guard_count)
        .collect()
    }

    async fn get_quarantined(
        &mut self,
        community: &CommunityId,
        group: &GuardKey,
        limit: u32,
    ) -> Result<Vec<HitRecord>> {
        query(
            "SELECT * FROM hits
             WHERE community = $1 AND prober = $2 AND holder = $3 AND policy = $4 AND day = $5
               AND state = 'QUARANTINED'
             ORDER BY id LIMIT $6",
        )
        .bind(community.as_str())
        .bind(group.prober.as_str())
        .bind(group.holder.as_str())
        .bind(group.policy.name())
        .bind(group.day)
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(hit_record)
        .collect()
    }

    async fn get_hit_counts(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
        policy: Policy,
        day: i64,
    ) -> Result<HashMap<NodeId, u64>> {
        query(
            "SELECT holder, hits FROM hit_counts
             WHERE community = $1 AND prober = $2 AND policy = $3 AND day = $4",
        )
        .bind(community.as_str())
        .bind(prober.as_str())
        .bind(policy.name())
        .bind(day)
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| Ok((text(row, "holder")?, number(row, "hits")?)))
        .collect()
    }

    async fn get_holder_counts(
        &mut self,
        community: &CommunityId,
        holder: &NodeId,
        from: i64,
        before: i64,
    ) -> Result<Vec<(GuardKey, u64)>> {
        query(concat!(
            "SELECT prober, holder, policy, day, hits FROM hit_counts
             WHERE community = $1 AND holder = $2 AND day >= $3 AND day < $4
             ORDER BY day, ",
            bytewise!("prober"),
            ", ",
            bytewise!("policy")
        ))
        .bind(community.as_str())
        .bind(holder.as_str())
        .bind(from)
        .bind(before)
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(guard_count)
        .collect()
    }

    async fn put_hit_events(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
        hits: &[HitId],
    ) -> Result<u64> {
        // The prober's row is locked until this transaction ends: its cursors are without gaps
        // and in the order of commit.
        let row = query(
            "INSERT INTO hit_cursors (community, prober, last) VALUES ($1, $2, $3)
             ON CONFLICT (community, prober) DO UPDATE SET last = hit_cursors.last + excluded.last
             RETURNING last",
        )
        .bind(community.as_str())
        .bind(prober.as_str())
        .bind(int(hits.len() as u64))
        .fetch_one(&mut *self.connection)
        .await
        .map_err(db_error)?;
        let last: u64 = number(&row, "last")?;
        let hits_json = hits_json(hits.iter())?;
        query(concat!(
            "INSERT INTO hit_events (community, prober, cursor, hit)
             SELECT $1, $2, $3 + element.place, ",
            from_hex!("element.value"),
            " FROM ",
            elements!("$4")
        ))
        .bind(community.as_str())
        .bind(prober.as_str())
        .bind(int(last + 1 - hits.len() as u64))
        .bind(hits_json)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(last)
    }

    async fn get_hit_events(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
        cursor: u64,
        limit: u32,
    ) -> Result<Vec<HitEventRecord>> {
        query(labelled_hits!(
            "hit_events.cursor, ",
            "hit_events JOIN hits ON hits.id = hit_events.hit",
            "WHERE hit_events.community = $1 AND hit_events.prober = $2 AND hit_events.cursor > $3
             ORDER BY hit_events.cursor LIMIT $4"
        ))
        .bind(community.as_str())
        .bind(prober.as_str())
        .bind(int(cursor))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| {
            Ok(HitEventRecord {
                cursor: number(row, "cursor")?,
                hit: labelled_hit(row)?,
            })
        })
        .collect()
    }

    async fn get_event_refs(
        &mut self,
        community: &CommunityId,
        prober: &NodeId,
        cursor: u64,
        last: u64,
    ) -> Result<Vec<RecordRef>> {
        query(
            "SELECT hits.record_ref FROM hit_events JOIN hits ON hits.id = hit_events.hit
             WHERE hit_events.community = $1 AND hit_events.prober = $2
               AND hit_events.cursor > $3 AND hit_events.cursor <= $4",
        )
        .bind(community.as_str())
        .bind(prober.as_str())
        .bind(int(cursor))
        .bind(int(last))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| blob(row, "record_ref", RecordRef::from_slice))
        .collect()
    }

    async fn get_last_cursor(&mut self, community: &CommunityId, prober: &NodeId) -> Result<u64> {
        let row = query("SELECT last FROM hit_cursors WHERE community = $1 AND prober = $2")
            .bind(community.as_str())
            .bind(prober.as_str())
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?;
        row.map_or(Ok(0), |row| number(&row, "last"))
    }
}

fn guard_count(row: &EngineRow) -> Result<(GuardKey, u64)> {
    let key = GuardKey {
        prober: text(row, "prober")?,
        holder: text(row, "holder")?,
        policy: text(row, "policy")?,
        day: get(row, "day")?,
    };
    Ok((key, number(row, "hits")?))
}

fn hit_statistic(row: &EngineRow) -> Result<HitStatistic> {
    Ok(HitStatistic {
        prober: text(row, "prober")?,
        holder: text(row, "holder")?,
        policy: text(row, "policy")?,
        epoch: epoch_number(row)?,
        filter_version: number(row, "filter_version")?,
        hits: number(row, "hits")?,
        confirmed: number(row, "confirmed")?,
        false_positives: number(row, "false_positives")?,
        retracted: number(row, "retracted")?,
        expired: number(row, "expired")?,
        mean_fpr: get(row, "mean_fpr")?,
    })
}

fn labelled_hit(row: &EngineRow) -> Result<LabelledHit> {
    Ok(LabelledHit {
        hit: hit_record(row)?,
        labels: labels(row)?,
    })
}

fn hit_record(row: &EngineRow) -> Result<HitRecord> {
    let first_seen = time(row, "first_seen")?;
    // None in rows of versions before this column.
    let touched_at: Option<i64> = get(row, "touched_at")?;
    Ok(HitRecord {
        id: blob(row, "id", HitId::from_slice)?,
        key: stack_key(row)?,
        prober: text(row, "prober")?,
        record_ref: blob(row, "record_ref", RecordRef::from_slice)?,
        holder: text(row, "holder")?,
        state: HitState::from_column(get(row, "state")?)?,
        filter_version: number(row, "filter_version")?,
        fpr: get(row, "fpr")?,
        posterior: get(row, "posterior")?,
        first_seen,
        last_seen: time(row, "last_seen")?,
        unmatched_since: get::<Option<i64>>(row, "unmatched_since")?.map(Timestamp::from_micros),
        touched_at: touched_at.map_or(first_seen, Timestamp::from_micros),
    })
}
