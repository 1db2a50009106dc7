//! What is active of this node's filters, and what should be (protocol §5.4).

use std::collections::BTreeSet;

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::ids::{Epoch, NodeId, PublicationId};
use sotto_common::publication::LayerRole;
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{OutboxItem, SelectorId, Store, damaged, signed, time, typed, unsigned};

/// A layer of this node that became active and is not known to have ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer {
    /// Its publication.
    pub publication: PublicationId,
    /// The policy.
    pub policy: Policy,
    /// The epoch.
    pub epoch: Epoch,
    /// The version.
    pub version: u64,
    /// Base or supplement.
    pub role: LayerRole,
    /// The last selector in it; those before it are in the layers below.
    pub last_selector: SelectorId,
    /// For a base: how much had been taken out of the filters when it was built.
    pub removals: u64,
    /// Selectors in it.
    pub selectors: u64,
    /// Capacity class.
    pub class: u8,
    /// Length of its bits.
    pub bytes: u64,
    /// Members that may match; empty = all.
    pub audience: BTreeSet<NodeId>,
    /// When it became active.
    pub active_at: Timestamp,
}

/// What the filters of a policy should hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Publishing {
    /// The last selector of the published datasets; 0 if they have none.
    pub last_selector: SelectorId,
    /// Selectors of the published datasets; one that stands in several counts several times.
    pub selectors: u64,
    /// Counts what was taken out of the filters.
    pub removals: u64,
    /// When the next base is due.
    pub next_base: Option<Timestamp>,
    /// Members that may match; empty = all.
    pub audience: BTreeSet<NodeId>,
}

fn audience_text(audience: &BTreeSet<NodeId>) -> String {
    let names: Vec<_> = audience.iter().map(NodeId::as_str).collect();
    names.join(",")
}

fn audience(text: &str) -> Result<BTreeSet<NodeId>> {
    let names = text.split(',').filter(|name| !name.is_empty());
    names.map(typed).collect()
}

fn layer(row: &SqliteRow) -> Result<Layer> {
    let text = |column: &str| row.try_get::<String, _>(column).map_err(db_error);
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(db_error);
    let base: Option<i64> = row.try_get("supplement_of").map_err(db_error)?;
    let id: Vec<u8> = row.try_get("publication_id").map_err(db_error)?;
    let epoch = u32::try_from(number("epoch")?).map_err(|_| damaged("epoch"))?;
    Ok(Layer {
        publication: PublicationId::from_slice(&id).map_err(Error::internal)?,
        policy: typed(&text("policy")?)?,
        epoch: Epoch::new(epoch).map_err(Error::internal)?,
        version: unsigned(number("version")?),
        role: base.map_or(LayerRole::Base, |v| LayerRole::SupplementOf(unsigned(v))),
        last_selector: number("last_selector")?,
        removals: unsigned(number("removals")?),
        selectors: unsigned(number("selectors")?),
        class: u8::try_from(number("class")?).map_err(|_| damaged("class"))?,
        bytes: unsigned(number("bytes")?),
        audience: audience(&text("audience")?)?,
        active_at: time(number("active_at")?),
    })
}

impl Store {
    /// What the filters of a policy should hold.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn publishing(&self, policy: Policy) -> Result<Publishing> {
        // `removals` in the same statement as the selectors: what is removed later is counted later.
        let row = sqlx::query(
            "SELECT coalesce(max(d.last_selector), 0) AS last_selector,
                 coalesce(sum(d.selectors), 0) AS selectors,
                 (SELECT removals FROM publishing WHERE policy = $1) AS removals,
                 (SELECT next_base FROM publishing WHERE policy = $1) AS next_base,
                 (SELECT audience FROM publishing WHERE policy = $1) AS audience
             FROM datasets d WHERE d.policy = $1 AND d.publish = 1",
        )
        .bind(policy.name())
        .fetch_one(self.db.read())
        .await
        .map_err(db_error)?;
        let maybe = |column: &str| row.try_get::<Option<i64>, _>(column).map_err(db_error);
        let text: Option<String> = row.try_get("audience").map_err(db_error)?;
        Ok(Publishing {
            last_selector: maybe("last_selector")?.unwrap_or_default(),
            selectors: unsigned(maybe("selectors")?.unwrap_or_default()),
            removals: unsigned(maybe("removals")?.unwrap_or_default()),
            next_base: maybe("next_base")?.map(time),
            audience: audience(&text.unwrap_or_default())?,
        })
    }

    /// How many selectors of the published datasets of a policy come after one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn count_published(&self, policy: Policy, after: SelectorId) -> Result<u64> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM selectors s JOIN datasets d USING (dataset_id)
             WHERE s.policy = $1 AND d.publish = 1 AND removed_at IS NULL AND selector_id > $2",
        )
        .bind(policy.name())
        .bind(after)
        .fetch_one(self.db.read())
        .await
        .map_err(db_error)?;
        Ok(unsigned(count))
    }

    /// Who may match the filters of a policy from the next base on; empty = all members.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn set_audience(&self, policy: Policy, nodes: &BTreeSet<NodeId>) -> Result<()> {
        let text = &audience_text(nodes);
        self.db
            .run_tx("set_audience", |tx| {
                async move {
                    sqlx::query(
                        "INSERT INTO publishing (policy, audience) VALUES ($1, $2)
                         ON CONFLICT (policy) DO UPDATE SET audience = excluded.audience",
                    )
                    .bind(policy.name())
                    .bind(text)
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// When the next base of a policy is due.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn set_next_base(&self, policy: Policy, at: Timestamp) -> Result<()> {
        self.db
            .run_tx("set_next_base", |tx| {
                set_next_base(tx, policy, at).scope_boxed()
            })
            .await
    }

    /// The layers of a policy that are active as far as is known here, lowest version first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn layers(&self, policy: Policy) -> Result<Vec<Layer>> {
        sqlx::query("SELECT * FROM layers WHERE policy = $1 ORDER BY epoch, version")
            .bind(policy.name())
            .fetch_all(self.db.read())
            .await
            .map_err(db_error)?
            .iter()
            .map(layer)
            .collect()
    }

    /// The policies that have selectors to publish, or layers.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn published_policies(&self) -> Result<Vec<Policy>> {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT policy FROM datasets WHERE publish = 1 AND selectors > 0
             UNION SELECT policy FROM layers ORDER BY policy",
        )
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        names.iter().map(|name| typed(name)).collect()
    }

    /// What was uploaded is active: it leaves the outbox; a base takes the place of every layer of
    /// its epoch. With it, when the next base is due, if that is drawn anew.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_layer(
        &self,
        item: &OutboxItem,
        now: Timestamp,
        next_base: Option<Timestamp>,
    ) -> Result<()> {
        let header = &item.header;
        let base = match header.role {
            LayerRole::Base => None,
            LayerRole::SupplementOf(version) => Some(signed(version)),
        };
        let audience = &audience_text(&header.audience);
        self.db
            .run_tx("put_layer", |tx| {
                async move {
                    sqlx::query("DELETE FROM outbox WHERE publication_id = $1")
                        .bind(&header.publication.as_bytes()[..])
                        .execute(&mut *tx)
                        .await
                        .map_err(db_error)?;
                    sqlx::query(
                        "DELETE FROM layers WHERE policy = $1 AND epoch = $3 AND $2 IS NULL",
                    )
                    .bind(header.policy.name())
                    .bind(base)
                    .bind(header.epoch.get())
                    .execute(&mut *tx)
                    .await
                    .map_err(db_error)?;
                    sqlx::query(
                        "INSERT OR REPLACE INTO layers (publication_id, policy, epoch, version,
                             supplement_of, last_selector, removals, selectors, class, bytes,
                             audience, active_at)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                    )
                    .bind(&header.publication.as_bytes()[..])
                    .bind(header.policy.name())
                    .bind(header.epoch.get())
                    .bind(signed(header.version))
                    .bind(base)
                    .bind(item.last_selector)
                    .bind(signed(item.removals))
                    .bind(signed(item.selectors))
                    .bind(header.params.class().get())
                    .bind(signed(header.params.byte_len()))
                    .bind(audience)
                    .bind(now.micros())
                    .execute(&mut *tx)
                    .await
                    .map_err(db_error)?;
                    if let Some(at) = next_base {
                        set_next_base(tx, header.policy, at).await?;
                    }
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// Forgets the stack that a layer is of: not all of it is active any more, and a new base makes
    /// it whole.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_stack(&self, publication: PublicationId, now: Timestamp) -> Result<()> {
        self.db
            .run_tx("delete_stack", |tx| {
                async move {
                    sqlx::query(
                        "UPDATE layer_history SET ended_at = $2
                         WHERE ended_at IS NULL AND publication_id IN
                             (SELECT o.publication_id FROM layers o JOIN layers l
                                  ON o.policy = l.policy AND o.epoch = l.epoch
                              WHERE l.publication_id = $1)",
                    )
                    .bind(&publication.as_bytes()[..])
                    .bind(now.micros())
                    .execute(&mut *tx)
                    .await
                    .map_err(db_error)?;
                    sqlx::query(
                        "DELETE FROM layers WHERE (policy, epoch) IN
                             (SELECT policy, epoch FROM layers WHERE publication_id = $1)",
                    )
                    .bind(&publication.as_bytes()[..])
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }
}

impl Store {
    /// Forgets every layer of a policy in an epoch: others are active, and a new base is to take
    /// their place.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn forget_layers(&self, policy: Policy, epoch: Epoch) -> Result<()> {
        self.db
            .run_tx("forget_layers", |tx| {
                async move {
                    sqlx::query("DELETE FROM layers WHERE policy = $1 AND epoch = $2")
                        .bind(policy.name())
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
}

async fn set_next_base(tx: &mut SqliteConnection, policy: Policy, at: Timestamp) -> Result<()> {
    sqlx::query(
        "INSERT INTO publishing (policy, next_base) VALUES ($1, $2)
         ON CONFLICT (policy) DO UPDATE SET next_base = excluded.next_base",
    )
    .bind(policy.name())
    .bind(at.micros())
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}
