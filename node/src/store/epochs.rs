//! Epochs whose key this node has; the keys themselves are in the keystore.

use prost::Message as _;
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::ids::Epoch;
use sotto_common::membership::Manifest;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sotto_proto::convert::read_unverified;
use sotto_proto::v1;

use super::{Store, time};

/// An epoch that this node made or fetched; its manifest was verified then.
#[derive(Clone, Debug)]
pub struct StoredEpoch {
    /// The manifest as its custodian signed it.
    pub envelope: v1::DsseEnvelope,
    /// What it says.
    pub manifest: Manifest,
    /// When the key was stored.
    pub fetched_at: Timestamp,
    /// Made here, and not known to have reached the broker.
    pub draft: bool,
}

type Row = (Vec<u8>, i64, i64);

fn stored((manifest, fetched_at, draft): Row) -> Result<StoredEpoch> {
    let envelope = v1::DsseEnvelope::decode(&manifest[..]).map_err(Error::internal)?;
    Ok(StoredEpoch {
        manifest: read_unverified(&envelope)?,
        envelope,
        fetched_at: time(fetched_at),
        draft: draft != 0,
    })
}

impl Store {
    /// Stores an epoch, in place of a draft of the same number.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_epoch(
        &self,
        epoch: Epoch,
        envelope: &v1::DsseEnvelope,
        draft: bool,
        now: Timestamp,
    ) -> Result<()> {
        let bytes = &envelope.encode_to_vec();
        self.db
            .run_tx("put_epoch", |tx| {
                async move {
                    sqlx::query(
                        "INSERT INTO epochs (epoch, manifest, fetched_at, draft)
                         VALUES ($1, $2, $3, $4)
                         ON CONFLICT (epoch) DO UPDATE SET manifest = excluded.manifest,
                             fetched_at = excluded.fetched_at, draft = excluded.draft",
                    )
                    .bind(epoch.get())
                    .bind(bytes)
                    .bind(now.micros())
                    .bind(draft)
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// Forgets an epoch that never reached the broker.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_draft(&self, epoch: Epoch) -> Result<()> {
        self.db
            .run_tx("delete_draft", |tx| {
                async move {
                    sqlx::query("DELETE FROM epochs WHERE epoch = $1 AND draft = 1")
                        .bind(epoch.get())
                        .execute(tx)
                        .await
                        .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// Every epoch, latest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn epochs(&self) -> Result<Vec<StoredEpoch>> {
        let rows: Vec<Row> =
            sqlx::query_as("SELECT manifest, fetched_at, draft FROM epochs ORDER BY epoch DESC")
                .fetch_all(self.db.read())
                .await
                .map_err(db_error)?;
        rows.into_iter().map(stored).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::store;
    use super::*;
    use crate::testing::manifest;
    use sotto_proto::convert::sign;

    #[tokio::test]
    async fn a_draft_can_be_dropped_and_an_open_epoch_cannot() {
        let (store, _dir) = store().await;
        let (key, manifest) = manifest(3);
        let epoch = manifest.epoch;
        let envelope = sign(manifest.clone(), &key);
        let now = Timestamp::from_seconds(1);
        for draft in [true, false] {
            store
                .put_epoch(epoch, &envelope, draft, now)
                .await
                .expect("stored");
            let read = store.epochs().await.expect("read");
            assert_eq!(read.len(), 1);
            assert_eq!((&read[0].manifest, read[0].draft), (&manifest, draft));
            store.delete_draft(epoch).await.expect("done");
            assert_eq!(store.epochs().await.expect("read").is_empty(), draft);
        }
    }
}
