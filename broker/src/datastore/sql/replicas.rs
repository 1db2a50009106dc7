//! The brokers on this ledger, the generation of its filters, the leases on jobs.

use std::time::Duration;

use async_trait::async_trait;
use sotto_common::error::Result;
use sotto_common::ids::ReplicaId;
use sqlx::query;

use super::columns::{blob, get, int, number};
use super::{EngineTx, db_error};
use crate::datastore::{ReplicaRecord, ReplicaTx};

#[async_trait]
impl ReplicaTx for EngineTx<'_> {
    async fn put_replica(&mut self, id: ReplicaId, generation: u64, lease: Duration) -> Result<()> {
        query(concat!(
            "INSERT INTO replicas (id, joined_at) VALUES ($1, ",
            now!(),
            ")"
        ))
        .bind(&id.as_bytes()[..])
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        query(concat!(
            "INSERT INTO replica_leases (replica, generation, lease_until) VALUES ($1, $2, $3 + ",
            now!(),
            ")"
        ))
        .bind(&id.as_bytes()[..])
        .bind(int(generation))
        .bind(micros(lease))
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(())
    }

    async fn update_lease(
        &mut self,
        id: ReplicaId,
        generation: u64,
        lease: Duration,
    ) -> Result<bool> {
        let done = query(concat!(
            "UPDATE replica_leases SET generation = $2, lease_until = $3 + ",
            now!(),
            " WHERE replica = $1"
        ))
        .bind(&id.as_bytes()[..])
        .bind(int(generation))
        .bind(micros(lease))
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(done.rows_affected() == 1)
    }

    async fn get_replicas(&mut self, lease: Duration) -> Result<Vec<ReplicaRecord>> {
        query(concat!(
            "SELECT replica, generation,
                 lease_until > ",
            now!(),
            " AND lease_until <= $1 + ",
            now!(),
            " AS live
             FROM replica_leases ORDER BY replica"
        ))
        .bind(micros(lease))
        .fetch_all(&mut *self.connection)
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| {
            Ok(ReplicaRecord {
                id: blob(row, "replica", ReplicaId::from_slice)?,
                generation: number(row, "generation")?,
                live: get(row, "live")?,
            })
        })
        .collect()
    }

    async fn delete_replica(&mut self, id: ReplicaId) -> Result<()> {
        query("DELETE FROM replicas WHERE id = $1")
            .bind(&id.as_bytes()[..])
            .execute(&mut *self.connection)
            .await
            .map_err(db_error)?;
        Ok(())
    }

    async fn get_generation(&mut self) -> Result<u64> {
        let row = query("SELECT generation FROM generations")
            .fetch_one(&mut *self.connection)
            .await
            .map_err(db_error)?;
        number(&row, "generation")
    }

    async fn update_generation(&mut self) -> Result<u64> {
        // The row is locked until this transaction ends: generations are in the order of commit.
        let row = query("UPDATE generations SET generation = generation + 1 RETURNING generation")
            .fetch_one(&mut *self.connection)
            .await
            .map_err(db_error)?;
        number(&row, "generation")
    }

    async fn update_job(
        &mut self,
        name: &'static str,
        replica: ReplicaId,
        lease: Duration,
    ) -> Result<bool> {
        let done = query(concat!(
            "INSERT INTO jobs (name, replica, lease_until) VALUES ($1, $2, $3 + ",
            now!(),
            ")
             ON CONFLICT (name)
             DO UPDATE SET replica = excluded.replica, lease_until = excluded.lease_until
             WHERE jobs.replica = excluded.replica OR jobs.lease_until > excluded.lease_until + 5000000
                OR jobs.lease_until <= ",
            now!()
        ))
        .bind(name)
        .bind(&replica.as_bytes()[..])
        .bind(micros(lease))
        .execute(&mut *self.connection)
        .await
        .map_err(db_error)?;
        Ok(done.rows_affected() == 1)
    }
}

fn micros(lease: Duration) -> i64 {
    i64::try_from(lease.as_micros()).unwrap_or(i64::MAX)
}
