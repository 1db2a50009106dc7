//! Filters that are built and not active yet; their bits are files in the outbox.

use prost::Message as _;
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::ids::PublicationId;
use sotto_common::publication::FilterHeader;
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::db_error;
use sotto_proto::convert::read_unverified;
use sotto_proto::v1;

use super::{SelectorId, Store, signed, unsigned};

/// A filter on its way to the broker. There is at most one per policy.
#[derive(Clone, Debug)]
pub struct OutboxItem {
    /// The header as this node signed it.
    pub envelope: v1::DsseEnvelope,
    /// What it says.
    pub header: FilterHeader,
    /// Distinct selectors in the filter, canaries left out.
    pub selectors: u64,
    /// The last selector that is in it.
    pub last_selector: SelectorId,
    /// How much had been taken out of the filters when it was built: a removal since makes it stale.
    pub removals: u64,
}

type Row = (Vec<u8>, i64, SelectorId, i64);

fn item((header, selectors, last_selector, removals): Row) -> Result<OutboxItem> {
    let envelope = v1::DsseEnvelope::decode(&header[..]).map_err(Error::internal)?;
    Ok(OutboxItem {
        header: read_unverified(&envelope)?,
        envelope,
        selectors: unsigned(selectors),
        last_selector,
        removals: unsigned(removals),
    })
}

impl Store {
    /// Stores what is to be uploaded, in place of what was for its policy.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_outbox_item(&self, item: &OutboxItem) -> Result<()> {
        let header = &item.envelope.encode_to_vec();
        self.db
            .run_tx("put_outbox_item", |tx| {
                async move {
                    sqlx::query("DELETE FROM outbox WHERE policy = $1")
                        .bind(item.header.policy.name())
                        .execute(&mut *tx)
                        .await
                        .map_err(db_error)?;
                    sqlx::query(
                        "INSERT INTO outbox
                         (publication_id, policy, epoch, header, selectors, last_selector,
                              removals)
                         VALUES ($1, $2, $3, $4, $5, $6, $7)",
                    )
                    .bind(&item.header.publication.as_bytes()[..])
                    .bind(item.header.policy.name())
                    .bind(item.header.epoch.get())
                    .bind(header)
                    .bind(signed(item.selectors))
                    .bind(item.last_selector)
                    .bind(signed(item.removals))
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// Forgets what was uploaded or became stale.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_outbox_item(&self, publication: PublicationId) -> Result<()> {
        self.db
            .run_tx("delete_outbox_item", |tx| {
                async move {
                    sqlx::query("DELETE FROM outbox WHERE publication_id = $1")
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

    /// What is to be uploaded for a policy.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn outbox_item(&self, policy: Policy) -> Result<Option<OutboxItem>> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT header, selectors, last_selector, removals FROM outbox WHERE policy = $1",
        )
        .bind(policy.name())
        .fetch_optional(self.db.read())
        .await
        .map_err(db_error)?;
        row.map(item).transpose()
    }

    /// Everything that is to be uploaded.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn outbox(&self) -> Result<Vec<OutboxItem>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT header, selectors, last_selector, removals FROM outbox ORDER BY policy",
        )
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        rows.into_iter().map(item).collect()
    }
}
