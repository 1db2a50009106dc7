//! Pinned fingerprints (protocol §8).

use std::collections::BTreeMap;

use scoped_futures::ScopedFutureExt as _;
use sotto_common::dsse::Fingerprint;
use sotto_common::error::Result;
use sotto_common::ids::NodeId;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;

use super::{Store, damaged, typed};

/// What became of a wish to pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pinned {
    /// The fingerprint is pinned now, or was already.
    Yes,
    /// Another one is pinned, and stays.
    Another,
}

impl Store {
    /// Pins a fingerprint; another one that is pinned is replaced only if `replace`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_pin(
        &self,
        node: &NodeId,
        fingerprint: &Fingerprint,
        replace: bool,
        now: Timestamp,
    ) -> Result<Pinned> {
        let bytes = &fingerprint.as_bytes()[..];
        self.db
            .run_tx("put_pin", |tx| {
                async move {
                    let old: Option<Vec<u8>> =
                        sqlx::query_scalar("SELECT fingerprint FROM pins WHERE node_id = $1")
                            .bind(node.as_str())
                            .fetch_optional(&mut *tx)
                            .await
                            .map_err(db_error)?;
                    match old {
                        Some(old) if old == bytes => return Ok(Pinned::Yes),
                        Some(_) if !replace => return Ok(Pinned::Another),
                        _ => {}
                    }
                    sqlx::query(
                        "INSERT INTO pins (node_id, fingerprint, pinned_at) VALUES ($1, $2, $3)
                         ON CONFLICT (node_id) DO UPDATE
                         SET fingerprint = excluded.fingerprint, pinned_at = excluded.pinned_at",
                    )
                    .bind(node.as_str())
                    .bind(bytes)
                    .bind(now.micros())
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(Pinned::Yes)
                }
                .scope_boxed()
            })
            .await
    }

    /// Every pin.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn pins(&self) -> Result<BTreeMap<NodeId, Fingerprint>> {
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as("SELECT node_id, fingerprint FROM pins")
            .fetch_all(self.db.read())
            .await
            .map_err(db_error)?;
        rows.into_iter()
            .map(|(node, bytes)| {
                let bytes = bytes.try_into().map_err(|_| damaged("fingerprint"))?;
                Ok((typed(&node)?, Fingerprint::new(bytes)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::store;
    use super::*;

    #[tokio::test]
    async fn another_fingerprint_replaces_a_pin_only_when_asked_to() {
        let (store, _dir) = store().await;
        let node: NodeId = "de-bka".parse().expect("a node");
        let now = Timestamp::from_seconds(1);
        let (a, b) = (Fingerprint::new([1; 32]), Fingerprint::new([2; 32]));
        for (fingerprint, replace, expected) in [
            (a, false, Pinned::Yes),
            (a, false, Pinned::Yes),
            (b, false, Pinned::Another),
            (b, true, Pinned::Yes),
        ] {
            let done = store.put_pin(&node, &fingerprint, replace, now).await;
            assert_eq!(done.expect("stored"), expected);
        }
        assert_eq!(store.pins().await.expect("read").get(&node), Some(&b));
    }
}
