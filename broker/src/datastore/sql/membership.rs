//! Communities, nodes, limits, epochs.

use async_trait::async_trait;
use sotto_common::epoch::Kid;
use sotto_common::error::Result;
use sotto_common::ids::{CommunityId, Epoch, NodeId};
use sotto_common::membership::{EpochState, MAX_OVERLAP};
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sqlx::query;

use super::columns::{bytes, get, int, number, text, time};
use super::{EngineRow, EngineTx, db_error};
use crate::datastore::model::corrupt;
use crate::datastore::{
    Act, EpochRecord, Limits, MemberRecord, MembershipTx, NodeRecord, StateColumn as _,
};

#[async_trait]
impl MembershipTx for EngineTx<'_> {
    async fn put_community(
        &mut self,
        name: &CommunityId,
        profile: &[u8],
        at: Timestamp,
    ) -> Result<bool> {
        let done = query(
            "INSERT INTO communities (name, profile, created_at) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING",
        )
        .bind(name.as_str())
        .bind(profile)
        .bind(at.micros())
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(done.rows_affected() == 1)
    }

    async fn get_communities(&mut self) -> Result<Vec<CommunityId>> {
        query(concat!(
            "SELECT name FROM communities ORDER BY ",
            bytewise!("name")
        ))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| text(row, "name"))
        .collect()
    }

    async fn update_profile(&mut self, name: &CommunityId, profile: &[u8]) -> Result<()> {
        query("UPDATE communities SET profile = $2 WHERE name = $1")
            .bind(name.as_str())
            .bind(profile)
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        Ok(())
    }

    async fn get_profile(&mut self, name: &CommunityId) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar("SELECT profile FROM communities WHERE name = $1")
            .bind(name.as_str())
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)
    }

    async fn put_custodians(&mut self, name: &CommunityId, nodes: &[NodeId]) -> Result<()> {
        query("DELETE FROM custodians WHERE community = $1")
            .bind(name.as_str())
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        for node in nodes {
            query(
                "INSERT INTO custodians (community, node) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(name.as_str())
            .bind(node.as_str())
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        }
        Ok(())
    }

    async fn get_custodians(&mut self, name: &CommunityId) -> Result<Vec<NodeId>> {
        query(concat!(
            "SELECT node FROM custodians WHERE community = $1 ORDER BY ",
            bytewise!("node")
        ))
        .bind(name.as_str())
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| text(row, "node"))
        .collect()
    }

    async fn put_node(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        at: Timestamp,
    ) -> Result<()> {
        query(
            "INSERT INTO nodes (community, node, enrolled_at) VALUES ($1, $2, $3)
             ON CONFLICT (community, node)
             DO UPDATE SET suspended = NULL, statement = NULL, signing_key = NULL",
        )
        .bind(community.as_str())
        .bind(node.as_str())
        .bind(at.micros())
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_node(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
    ) -> Result<Option<NodeRecord>> {
        query("SELECT * FROM nodes WHERE community = $1 AND node = $2")
            .bind(community.as_str())
            .bind(node.as_str())
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map(|row| node_record(&row))
            .transpose()
    }

    async fn get_nodes(&mut self, community: &CommunityId) -> Result<Vec<NodeRecord>> {
        query(concat!(
            "SELECT * FROM nodes WHERE community = $1 ORDER BY ",
            bytewise!("node")
        ))
        .bind(community.as_str())
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(node_record)
        .collect()
    }

    async fn update_suspension(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        reason: &str,
    ) -> Result<()> {
        query("UPDATE nodes SET suspended = $3 WHERE community = $1 AND node = $2")
            .bind(community.as_str())
            .bind(node.as_str())
            .bind(reason)
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        Ok(())
    }

    async fn update_statement(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        statement: &[u8],
        signing_key: &[u8; 32],
    ) -> Result<()> {
        query(
            "UPDATE nodes SET statement = $3, signing_key = $4 WHERE community = $1 AND node = $2",
        )
        .bind(community.as_str())
        .bind(node.as_str())
        .bind(statement)
        .bind(&signing_key[..])
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn put_limits(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        policy: Policy,
        limits: Limits,
    ) -> Result<()> {
        query(
            "INSERT INTO limits (community, node, policy, daily_refs, max_class)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (community, node, policy)
             DO UPDATE SET daily_refs = excluded.daily_refs, max_class = excluded.max_class",
        )
        .bind(community.as_str())
        .bind(node.as_str())
        .bind(policy.name())
        .bind(int(limits.daily_refs))
        .bind(i64::from(limits.max_class))
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn get_limits(
        &mut self,
        community: &CommunityId,
        node: &NodeId,
        policy: Policy,
    ) -> Result<Limits> {
        let row = query(
            "SELECT daily_refs, max_class FROM limits
             WHERE community = $1 AND node = $2 AND policy = $3",
        )
        .bind(community.as_str())
        .bind(node.as_str())
        .bind(policy.name())
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(db_error)?;
        row.map_or(Ok(Limits::default()), |row| {
            Ok(Limits {
                daily_refs: number(&row, "daily_refs")?,
                max_class: number(&row, "max_class")?,
            })
        })
    }

    async fn put_epoch(
        &mut self,
        community: &CommunityId,
        epoch: &EpochRecord,
        members: &[MemberRecord],
    ) -> Result<()> {
        query(
            "INSERT INTO epochs
                 (community, epoch, state, manifest, custodian, kid, not_before, not_after)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(community.as_str())
        .bind(i64::from(epoch.epoch.get()))
        .bind(epoch.state.as_str())
        .bind(&epoch.manifest)
        .bind(epoch.custodian.as_str())
        .bind(&epoch.kid.as_bytes()[..])
        .bind(epoch.not_before.micros())
        .bind(epoch.not_after.micros())
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        for member in members {
            query(
                "INSERT INTO epoch_members (community, epoch, node, envelope)
                 VALUES ($1, $2, $3, $4)",
            )
            .bind(community.as_str())
            .bind(i64::from(epoch.epoch.get()))
            .bind(member.node.as_str())
            .bind(&member.envelope)
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        }
        Ok(())
    }

    async fn get_epoch(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
    ) -> Result<Option<EpochRecord>> {
        query("SELECT * FROM epochs WHERE community = $1 AND epoch = $2")
            .bind(community.as_str())
            .bind(i64::from(epoch.get()))
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(db_error)?
            .map(|row| epoch_record(&row))
            .transpose()
    }

    async fn get_epochs(&mut self, community: &CommunityId) -> Result<Vec<EpochRecord>> {
        query("SELECT * FROM epochs WHERE community = $1 ORDER BY epoch DESC")
            .bind(community.as_str())
            .fetch_all(&mut *self.connection)
            .await
            .map_err(db_error)?
            .iter()
            .map(epoch_record)
            .collect()
    }

    async fn get_overdue_epochs(&mut self, now: Timestamp) -> Result<Vec<(CommunityId, Epoch)>> {
        query(
            "SELECT community, epoch FROM epochs AS e WHERE state <> $1 AND (not_after <= $2
                 OR EXISTS (SELECT 1 FROM epochs AS later
                            WHERE later.community = e.community AND later.epoch > e.epoch
                              AND later.activated_at <= $3 AND later.not_before <= $3))",
        )
        .bind(EpochState::Ended.as_str())
        .bind(now.micros())
        .bind(now.minus(MAX_OVERLAP).micros())
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| Ok((text(row, "community")?, epoch_number(row)?)))
        .collect()
    }

    async fn get_members(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
    ) -> Result<Vec<MemberRecord>> {
        query(concat!(
            "SELECT node, envelope, confirmation IS NOT NULL AS confirmed FROM epoch_members
             WHERE community = $1 AND epoch = $2 ORDER BY ",
            bytewise!("node")
        ))
        .bind(community.as_str())
        .bind(i64::from(epoch.get()))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| {
            Ok(MemberRecord {
                node: text(row, "node")?,
                envelope: get(row, "envelope")?,
                confirmed: get(row, "confirmed")?,
            })
        })
        .collect()
    }

    async fn update_confirmation(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
        node: &NodeId,
        confirmation: &[u8],
    ) -> Result<()> {
        query(
            "UPDATE epoch_members SET confirmation = $4
             WHERE community = $1 AND epoch = $2 AND node = $3",
        )
        .bind(community.as_str())
        .bind(i64::from(epoch.get()))
        .bind(node.as_str())
        .bind(confirmation)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn update_epoch_state(
        &mut self,
        community: &CommunityId,
        epoch: Epoch,
        state: EpochState,
        at: Timestamp,
    ) -> Result<()> {
        query(
            "UPDATE epochs SET state = $3,
                 activated_at = CASE WHEN $4 THEN $5 ELSE activated_at END
             WHERE community = $1 AND epoch = $2",
        )
        .bind(community.as_str())
        .bind(i64::from(epoch.get()))
        .bind(state.as_str())
        .bind(state == EpochState::Active)
        .bind(at.micros())
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn put_act(&mut self, act: &Act<'_>) -> Result<()> {
        query(
            "INSERT INTO operator_acts (at, operator, community, act, subject, reason)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(act.at.micros())
        .bind(act.operator)
        .bind(act.community.as_str())
        .bind(act.what)
        .bind(act.subject)
        .bind(act.reason)
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }
}

fn node_record(row: &EngineRow) -> Result<NodeRecord> {
    let signing_key: Option<Vec<u8>> = get(row, "signing_key")?;
    Ok(NodeRecord {
        node: text(row, "node")?,
        enrolled_at: time(row, "enrolled_at")?,
        suspended: get(row, "suspended")?,
        statement: get(row, "statement")?,
        signing_key: signing_key
            .map(|key| key.try_into().map_err(|_| corrupt("signing_key")))
            .transpose()?,
    })
}

pub(super) fn epoch_record(row: &EngineRow) -> Result<EpochRecord> {
    Ok(EpochRecord {
        epoch: epoch_number(row)?,
        state: EpochState::from_column(get(row, "state")?)?,
        manifest: get(row, "manifest")?,
        custodian: text(row, "custodian")?,
        kid: Kid::new(bytes(row, "kid")?),
        not_before: time(row, "not_before")?,
        not_after: time(row, "not_after")?,
    })
}

pub(super) fn epoch_number(row: &EngineRow) -> Result<Epoch> {
    Epoch::new(number(row, "epoch")?).map_err(|_| corrupt("epoch"))
}
