//! Which follow-ups there are, and what they are joined to.

#[cfg(test)]
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::followup::{FollowUpState, FollowUpStep, Party};
use sotto_common::ids::{Epoch, FollowUpId, HitId, NodeId};
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::{CLOCK_SKEW, Timestamp};
use sqlx::Row as _;

use super::seals::open;
use crate::store::{Store, damaged, signed, time, unsigned};

/// Which follow-ups are asked for; everything that is given must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct FollowUpFilter {
    /// Only those in which the node is this side.
    pub(crate) side: Option<Party>,
    /// Only in this state.
    pub(crate) state: Option<FollowUpState>,
    /// Only with this other node.
    pub(crate) counterpart: Option<NodeId>,
    /// Only of this hit.
    pub(crate) hit: Option<HitId>,
    /// Only after this one, in the order of ids.
    pub(crate) after: Option<FollowUpId>,
    /// Only those on which the node may have something to send or to answer by itself.
    pub(crate) with_duties: bool,
    /// Only those that are not CLOSED.
    pub(crate) not_closed: bool,
}

/// Something that happened to a follow-up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FollowUpEvent {
    /// Its cursor.
    pub(crate) cursor: u64,
    /// The follow-up.
    pub(crate) follow_up: FollowUpId,
    /// What happened, as `FollowUpNews` names it.
    pub(crate) news: String,
    /// Which step, for a step and a proposal.
    pub(crate) step: Option<FollowUpStep>,
    /// For a reminder: the share of the time limit, in percent.
    pub(crate) percent: u32,
}

/// A step that was signed here and that the broker did not take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    /// Which step.
    pub(crate) step: String,
    /// Why.
    pub(crate) reason: String,
    /// When that was known.
    pub(crate) at: Timestamp,
}

/// Whether a filter version was this node's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owned {
    /// It was, and active at that time.
    Active,
    /// It was not, or not at that time.
    No,
}

fn id(bytes: &[u8]) -> Result<FollowUpId> {
    FollowUpId::from_slice(bytes).map_err(Error::internal)
}

impl Store {
    /// The ids of follow-ups, oldest first.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn follow_up_ids(
        &self,
        filter: &FollowUpFilter,
        limit: u32,
    ) -> Result<Vec<FollowUpId>> {
        let after = filter.after.map(|id| id.as_bytes().to_vec());
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT follow_up_id FROM follow_ups f
             WHERE follow_up_id > $1 AND ($2 IS NULL OR side = $2) AND ($3 IS NULL OR state = $3)
               AND ($4 IS NULL OR counterpart = $4) AND ($5 IS NULL OR hit_id = $5)
               AND (NOT $6 OR (state = 'SUBMITTED' AND side = 'HOLDER')
                   OR (state = 'HELD' AND side = 'REQUESTER')
                   OR EXISTS (SELECT 1 FROM follow_up_steps s
                       WHERE s.follow_up_id = f.follow_up_id AND s.taken_at IS NULL)
                   OR EXISTS (SELECT 1 FROM follow_up_attachments a
                       WHERE a.follow_up_id = f.follow_up_id AND a.uploaded = 0))
               AND (NOT $8 OR closed_at IS NULL OR alarm <> '')
             ORDER BY follow_up_id LIMIT $7",
        )
        .bind(after.unwrap_or_default())
        .bind(filter.side.map(Party::as_str))
        .bind(filter.state.map(FollowUpState::as_str))
        .bind(filter.counterpart.as_ref().map(NodeId::as_str))
        .bind(filter.hit.map(|hit| hit.as_bytes().to_vec()))
        .bind(filter.with_duties)
        .bind(limit)
        .bind(filter.not_closed)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        ids.iter().map(|bytes| id(bytes)).collect()
    }

    /// The follow-ups, of either side, on the same selector.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn follow_ups_on(
        &self,
        policy: Policy,
        canonical: &Selector,
    ) -> Result<Vec<FollowUpId>> {
        let index = self.at_rest.canonical_index(policy, canonical);
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT follow_up_id FROM follow_ups WHERE policy = $1 AND canonical_index = $2
             ORDER BY follow_up_id",
        )
        .bind(policy.name())
        .bind(&index[..])
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        ids.iter().map(|bytes| id(bytes)).collect()
    }

    /// Closed follow-ups of an epoch that are not erased, closed before a time.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn follow_ups_to_erase(
        &self,
        epoch: Epoch,
        before: Timestamp,
    ) -> Result<Vec<FollowUpId>> {
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT follow_up_id FROM follow_ups
             WHERE erased_at IS NULL AND closed_at <= $2 AND epoch = $1 ORDER BY follow_up_id",
        )
        .bind(epoch.get())
        .bind(before.micros())
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        ids.iter().map(|bytes| id(bytes)).collect()
    }

    /// Events after a cursor, in their order.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn follow_up_events(
        &self,
        cursor: u64,
        limit: u32,
    ) -> Result<Vec<FollowUpEvent>> {
        let rows = sqlx::query(
            "SELECT * FROM follow_up_events WHERE cursor > $1 ORDER BY cursor LIMIT $2",
        )
        .bind(signed(cursor))
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        let event = |row: &sqlx::sqlite::SqliteRow| {
            let named: Vec<u8> = row.try_get("follow_up_id").map_err(db_error)?;
            let step: Option<String> = row.try_get("step").map_err(db_error)?;
            let step = step.map(|s| FollowUpStep::parse(&s).ok_or_else(|| damaged("step")));
            Ok(FollowUpEvent {
                cursor: unsigned(row.try_get("cursor").map_err(db_error)?),
                follow_up: id(&named)?,
                news: row.try_get("news").map_err(db_error)?,
                step: step.transpose()?,
                percent: row.try_get("percent").map_err(db_error)?,
            })
        };
        rows.iter().map(event).collect()
    }

    /// Cursor of the last event; 0 at first.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn last_follow_up_event(&self) -> Result<u64> {
        let last: i64 = sqlx::query_scalar("SELECT coalesce(max(cursor), 0) FROM follow_up_events")
            .fetch_one(self.db.read())
            .await
            .map_err(db_error)?;
        Ok(unsigned(last))
    }

    /// Proposals of a follow-up that were taken back: by whom, and why.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn follow_up_discards(
        &self,
        follow_up: FollowUpId,
    ) -> Result<Vec<(String, String, Timestamp)>> {
        let rows: Vec<(String, Vec<u8>, i64)> = sqlx::query_as(
            "SELECT person, texts, at FROM follow_up_events
             WHERE follow_up_id = $1 AND texts IS NOT NULL ORDER BY cursor",
        )
        .bind(&follow_up.as_bytes()[..])
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        let opened = rows.into_iter().map(|(person, stored, at)| {
            let row = follow_up.as_bytes();
            let text = open(&self.at_rest, "follow_up_events", row, "texts", &stored)?;
            let text = String::from_utf8(text.to_vec()).map_err(|_| damaged("reason"))?;
            Ok((person, text, time(at)))
        });
        opened.collect()
    }

    /// Steps of a follow-up that the broker did not take.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn follow_up_refusals(&self, follow_up: FollowUpId) -> Result<Vec<Refusal>> {
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT step, reason, at FROM follow_up_refusals WHERE follow_up_id = $1
             ORDER BY refusal_id",
        )
        .bind(&follow_up.as_bytes()[..])
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        let refusal = |(step, reason, at)| Refusal {
            step,
            reason,
            at: time(at),
        };
        Ok(rows.into_iter().map(refusal).collect())
    }

    /// The records of published datasets that have a canonical value: dataset and record id.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn published_records(
        &self,
        policy: Policy,
        canonical: &Selector,
    ) -> Result<Vec<(String, String)>> {
        let index = self.at_rest.canonical_index(policy, canonical);
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(
            "SELECT d.name, s.record FROM datasets d
             JOIN selectors s ON s.dataset_id = d.dataset_id AND s.canonical_index = $2
             WHERE d.policy = $1 AND d.publish = 1 AND s.removed_at IS NULL
               AND s.dataset_id IS NOT NULL AND s.record IS NOT NULL
             ORDER BY d.name",
        )
        .bind(policy.name())
        .bind(&index[..])
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        let record = |(dataset, sealed): (String, Vec<u8>)| {
            let record = self.at_rest.open_record(&dataset, &index, &sealed)?;
            Ok((dataset, record.record_id))
        };
        rows.into_iter().map(record).collect()
    }

    /// Whether a filter version of an epoch was this node's own, and active at a time by the
    /// broker's clock (protocol §10). What was active before this store kept a history, and was
    /// replaced before that, counts as active.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn was_active(
        &self,
        policy: Policy,
        epoch: Epoch,
        version: u64,
        at: Timestamp,
    ) -> Result<Owned> {
        let rows: Vec<(i64, bool, i64, Option<i64>)> = sqlx::query_as(
            "SELECT version, is_base, active_at, ended_at FROM layer_history
             WHERE policy = $1 AND epoch = $2 ORDER BY version",
        )
        .bind(policy.name())
        .bind(epoch.get())
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        let Some(own) = rows.iter().find(|row| unsigned(row.0) == version) else {
            // A base of before: only one that a known base has replaced since.
            let first = rows.first().filter(|row| unsigned(row.0) > version);
            let before = first.is_some_and(|row| at <= time(row.2).plus(CLOCK_SKEW));
            return Ok(if before && version > 0 {
                Owned::Active
            } else {
                Owned::No
            });
        };
        let next_base = rows.iter().find(|row| row.0 > own.0 && row.1);
        let ends = [next_base.map(|row| row.2), own.3]
            .into_iter()
            .flatten()
            .min();
        // The node notes an activation after the broker has made it, by another clock.
        let begun = at.plus(CLOCK_SKEW) >= time(own.2);
        let ended = ends.is_some_and(|end| at > time(end).plus(CLOCK_SKEW));
        Ok(if begun && !ended {
            Owned::Active
        } else {
            Owned::No
        })
    }
}

impl Store {
    /// How probing fared, by holder and policy: threads that were first seen in a range of time.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn probe_figures(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Vec<sotto_proto::v1::ProbeFigure>> {
        let rows: Vec<(String, String, i64, i64, i64)> = sqlx::query_as(
            "SELECT h.holder, h.policy, count(*),
                 coalesce(sum(t.state IN ('CONFIRMED', 'FOLLOWED_UP', 'CLOSED')), 0),
                 coalesce(sum(t.state = 'FALSE_POSITIVE'), 0)
             FROM threads t JOIN hits h ON h.hit_id = t.latest
             WHERE ($1 IS NULL OR t.first_seen >= $1) AND ($2 IS NULL OR t.first_seen < $2)
             GROUP BY h.holder, h.policy ORDER BY h.holder, h.policy",
        )
        .bind(from.map(Timestamp::micros))
        .bind(to.map(Timestamp::micros))
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        let figure =
            |(holder, policy, hits, confirmed, false_positives)| sotto_proto::v1::ProbeFigure {
                holder,
                policy,
                hits: unsigned(hits),
                confirmed: unsigned(confirmed),
                false_positives: unsigned(false_positives),
            };
        Ok(rows.into_iter().map(figure).collect())
    }
}

#[cfg(test)]
impl Store {
    /// A base of a test that became active at a time.
    pub(crate) async fn remember_layer(
        &self,
        policy: Policy,
        epoch: Epoch,
        version: u64,
        at: Timestamp,
    ) {
        let stored = self.db.run_tx("remember_layer", |tx| {
            async move {
                sqlx::query(
                    "INSERT INTO layer_history
                         (publication_id, policy, epoch, version, is_base, active_at)
                     VALUES (randomblob(16), $1, $2, $3, 1, $4)",
                )
                .bind(policy.name())
                .bind(epoch.get())
                .bind(signed(version))
                .bind(at.micros())
                .execute(tx)
                .await
                .map_err(db_error)?;
                Ok(())
            }
            .scope_boxed()
        });
        stored.await.expect("stored");
    }
}
