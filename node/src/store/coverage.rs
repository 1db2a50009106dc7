//! What was asked of whom: the datasets that are probed by themselves, and how far (protocol §7).

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::grounds::{Grounds, LegalBasis, Purpose};
use sotto_common::ids::{Epoch, NodeId};
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::SqliteConnection;

use super::probes::delete_session;
use super::{ProbeKind, ProbeSession, SelectorId, Store, damaged, time, typed, unsigned};

/// A dataset that is probed by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbedDataset {
    /// Its row.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its policy.
    pub policy: Policy,
    /// Distinct canonical values in it.
    pub selectors: u64,
    /// The last of its selectors; 0 if it has none.
    pub last_selector: SelectorId,
    /// Why it is probed.
    pub grounds: Grounds,
}

/// How far a holder was asked for a dataset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cover {
    /// The holder.
    pub holder: NodeId,
    /// The epoch.
    pub epoch: Epoch,
    /// What it had active when it was last asked for everything.
    pub layers: [u8; 16],
    /// The last selector that it was asked for; it was asked for all before.
    pub last_selector: SelectorId,
    /// When it was begun to ask it for everything.
    pub swept_at: Timestamp,
}

impl Cover {
    /// What stands for the layers of a holder of which only new selectors were asked so far, since
    /// the first sweep of it is under way. No set of layers has this name but by chance.
    const BEGUN: [u8; 16] = [0; 16];

    /// Whether the first sweep of this holder is under way.
    pub(crate) fn is_begun_only(&self) -> bool {
        self.layers == Self::BEGUN
    }
}

type DatasetColumns = (
    i64,
    String,
    String,
    i64,
    SelectorId,
    String,
    String,
    String,
    String,
);

fn dataset(columns: DatasetColumns) -> Result<ProbedDataset> {
    let (id, name, policy, selectors, last_selector, purpose, basis, reference, case_ref) = columns;
    Ok(ProbedDataset {
        id,
        name,
        policy: typed(&policy)?,
        selectors: unsigned(selectors),
        last_selector,
        grounds: Grounds::new(
            Purpose::parse(&purpose),
            LegalBasis::parse(&basis),
            &reference,
            &case_ref,
        )?,
    })
}

type CoverColumns = (String, u32, Vec<u8>, SelectorId, i64);

fn cover((holder, epoch, layers, last_selector, swept_at): CoverColumns) -> Result<Cover> {
    Ok(Cover {
        holder: typed(&holder)?,
        epoch: Epoch::new(epoch).map_err(Error::internal)?,
        layers: layers.try_into().map_err(|_| damaged("set of layers"))?,
        last_selector,
        swept_at: time(swept_at),
    })
}

impl Store {
    /// The datasets that are probed by themselves, by name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn probed_datasets(&self) -> Result<Vec<ProbedDataset>> {
        let rows: Vec<DatasetColumns> = sqlx::query_as(
            "SELECT dataset_id, name, policy, selectors, last_selector, probe_purpose,
                 probe_legal_basis, probe_reference, probe_case_ref
             FROM datasets WHERE probe_purpose IS NOT NULL ORDER BY name",
        )
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        rows.into_iter().map(dataset).collect()
    }

    /// How far each holder was asked for a dataset.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn covers(&self, dataset: i64) -> Result<Vec<Cover>> {
        let rows: Vec<CoverColumns> = sqlx::query_as(
            "SELECT holder, epoch, layers, last_selector, swept_at FROM coverage
             WHERE dataset_id = $1 ORDER BY holder",
        )
        .bind(dataset)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        rows.into_iter().map(cover).collect()
    }

    /// How many selectors of a dataset come after one, up to another.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn count_selectors(
        &self,
        dataset: i64,
        after: SelectorId,
        last: SelectorId,
    ) -> Result<u64> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM selectors
             WHERE dataset_id = $1 AND removed_at IS NULL
                 AND selector_id > $2 AND selector_id <= $3",
        )
        .bind(dataset)
        .bind(after)
        .bind(last)
        .fetch_one(self.db.read())
        .await
        .map_err(db_error)?;
        Ok(unsigned(count))
    }

    /// Every batch of a session is answered: it is forgotten, and how far its holders were asked is
    /// stored, in one transaction.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn finish_session(&self, session: &ProbeSession) -> Result<()> {
        self.db
            .run_tx("finish_session", |tx| {
                async move {
                    if session.kind == ProbeKind::New {
                        sqlx::query(
                            "UPDATE coverage SET last_selector = max(last_selector, $4)
                             WHERE dataset_id = $1 AND epoch = $2 AND last_selector >= $3
                               AND holder IN (SELECT value FROM json_each($5))",
                        )
                        .bind(session.dataset)
                        .bind(session.epoch.get())
                        .bind(session.first)
                        .bind(session.last_selector)
                        .bind(names(&session.key.targets)?)
                        .execute(&mut *tx)
                        .await
                        .map_err(db_error)?;
                    }
                    // Of a sweep or a refresh; no other session has any.
                    for (holder, layers) in &session.layers {
                        sqlx::query(
                            "INSERT INTO coverage
                                 (dataset_id, holder, epoch, layers, last_selector, swept_at)
                             VALUES ($1, $2, $3, $4, $5, $6)
                             ON CONFLICT (dataset_id, holder) DO UPDATE SET
                                 last_selector = CASE WHEN epoch = excluded.epoch
                                     THEN max(last_selector, excluded.last_selector)
                                     ELSE excluded.last_selector END,
                                 epoch = excluded.epoch, layers = excluded.layers,
                                 swept_at = excluded.swept_at",
                        )
                        .bind(session.dataset)
                        .bind(holder.as_str())
                        .bind(session.epoch.get())
                        .bind(&layers[..])
                        .bind(session.last_selector)
                        .bind(session.started_at.micros())
                        .execute(&mut *tx)
                        .await
                        .map_err(db_error)?;
                    }
                    delete_session(tx, session.id).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Forgets how far holders were asked that have nothing active any more.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_covers(&self, dataset: i64, holders: &[NodeId]) -> Result<()> {
        let holders = &names(holders)?;
        self.db
            .run_tx("delete_covers", |tx| {
                async move {
                    sqlx::query(
                        "DELETE FROM coverage WHERE dataset_id = $1
                             AND holder IN (SELECT value FROM json_each($2))",
                    )
                    .bind(dataset)
                    .bind(holders)
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

/// A sweep begins: what is imported from now on is new to its holders, also to those that were not
/// asked for anything before. It is asked at once and not after the sweep, which may take days.
pub(super) async fn begin_covers(tx: &mut SqliteConnection, session: &ProbeSession) -> Result<()> {
    sqlx::query(
        "INSERT INTO coverage (dataset_id, holder, epoch, layers, last_selector, swept_at)
         SELECT $1, value, $2, $3, $4, $5 FROM json_each($6) WHERE true
         ON CONFLICT (dataset_id, holder) DO UPDATE SET epoch = excluded.epoch,
             layers = excluded.layers, last_selector = excluded.last_selector,
             swept_at = excluded.swept_at
         WHERE coverage.epoch <> excluded.epoch",
    )
    .bind(session.dataset)
    .bind(session.epoch.get())
    .bind(&Cover::BEGUN[..])
    .bind(session.last_selector)
    .bind(session.started_at.micros())
    .bind(names(&session.key.targets)?)
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

fn names(nodes: &[NodeId]) -> Result<String> {
    let names: Vec<_> = nodes.iter().map(NodeId::as_str).collect();
    serde_json::to_string(&names).map_err(Error::internal)
}
