//! Hits that are alike, written with one statement.

use sotto_common::error::{Error, Result};
use sotto_common::ids::HitId;
use sotto_common::time::Timestamp;
use sqlx::query;

use super::columns::int;
use super::{EngineTx, db_error};
use crate::datastore::HitRecord;

impl EngineTx<'_> {
    /// Adds hits that [were found with](HitRecord::was_found_with) the first.
    pub(super) async fn put_run(&mut self, hits: &[HitRecord]) -> Result<()> {
        let Some(first) = hits.first() else {
            return Ok(());
        };
        let row = |hit: &HitRecord| {
            let id = hex::encode(hit.id.as_bytes());
            (id, hit.record_ref.to_string(), int(hit.filter_version))
        };
        let rows: Vec<_> = hits.iter().map(row).collect();
        query(at_once!(
            count: "INSERT INTO hit_counts (community, prober, holder, policy, day, hits)
                 VALUES ($1, $4, $5, $3, $12, $14)
                 ON CONFLICT (community, prober, holder, policy, day)
                 DO UPDATE SET hits = hit_counts.hits + excluded.hits",
            => concat!(
                "INSERT INTO hits
                     (id, community, epoch, policy, prober, record_ref, holder, state,
                      filter_version, fpr, posterior, first_seen, last_seen, day, touched_at,
                      unmatched_since)
                 SELECT ",
                from_hex!(field!("0")),
                ", $1, $2, $3, $4, ",
                from_hex!(field!("1")),
                ", $5, $6, CAST(",
                field!("2"),
                " AS BIGINT), $7, $8, $9, $10, $12, $11, $13 FROM ",
                elements!("$15")
            )
        ))
        .bind(first.key.community.as_str())
        .bind(i64::from(first.key.epoch.get()))
        .bind(first.key.policy.name())
        .bind(first.prober.as_str())
        .bind(first.holder.as_str())
        .bind(first.state.as_str())
        .bind(first.fpr)
        .bind(first.posterior)
        .bind(first.first_seen.micros())
        .bind(first.last_seen.micros())
        .bind(first.touched_at.micros())
        .bind(first.first_seen.day())
        .bind(first.unmatched_since.map(Timestamp::micros))
        .bind(int(hits.len() as u64))
        .bind(serde_json::to_string(&rows).map_err(Error::internal)?)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    /// Changes hits to what the first of them [has become](HitRecord::has_become_as).
    pub(super) async fn update_run(&mut self, hits: &[HitRecord]) -> Result<()> {
        let Some(first) = hits.first() else {
            return Ok(());
        };
        query(concat!(
            "UPDATE hits SET state = $1, filter_version = $2, fpr = $3, posterior = $4,
                 last_seen = $5, touched_at = $6, unmatched_since = $7
             WHERE id IN (SELECT ",
            from_hex!("element.value"),
            " FROM ",
            elements!("$8"),
            ")"
        ))
        .bind(first.state.as_str())
        .bind(int(first.filter_version))
        .bind(first.fpr)
        .bind(first.posterior)
        .bind(first.last_seen.micros())
        .bind(first.touched_at.micros())
        .bind(first.unmatched_since.map(Timestamp::micros))
        .bind(hits_json(hits.iter().map(|hit| &hit.id))?)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }
}

/// Ids of hits as a JSON array of hex.
pub(super) fn hits_json<'a>(hits: impl Iterator<Item = &'a HitId>) -> Result<String> {
    let hits: Vec<_> = hits.map(|id| hex::encode(id.as_bytes())).collect();
    serde_json::to_string(&hits).map_err(Error::internal)
}
