//! Hits, joined to the node's own records by their refs.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::hit::HitState;
use sotto_common::ids::{Epoch, HitId, NodeId, RecordRef};
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::db_error;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::at_rest::AtRest;
use super::{Store, advance, damaged, signed, time, typed, unsigned};
use crate::hit::Hit;

/// A hit with the node's own record behind it.
#[derive(Clone, PartialEq, Debug)]
pub struct RecordHit {
    /// The hit.
    pub hit: Hit,
    /// Cursor of its last change.
    pub cursor: u64,
    /// The node's own dataset; empty for a one-off question, or if the ref is not known here.
    pub dataset: String,
    /// The node's own record id; empty if the ref is not known here.
    pub record_id: String,
    /// The canonical value that was asked for, if the ref is known here.
    pub canonical: Option<Selector>,
}

/// Which hits are asked for; everything that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct HitFilter {
    /// Only of this policy.
    pub policy: Option<Policy>,
    /// Only of this holder.
    pub holder: Option<NodeId>,
    /// Only of this dataset.
    pub dataset: Option<String>,
    /// Only in this state.
    pub state: Option<HitState>,
    /// Only after this one, in the order of ids.
    pub after: Option<HitId>,
}

/// Counter of the changes of hits, which `WatchRecordHits` follows.
const LOCAL_CURSOR: &str = "hit_cursor";
/// The last event of the broker's stream that was stored.
const INBOX_CURSOR: &str = "inbox_cursor";

fn record_hit(at_rest: &AtRest, row: &SqliteRow) -> Result<RecordHit> {
    let text = |column: &str| row.try_get::<String, _>(column).map_err(db_error);
    let maybe = |column: &str| row.try_get::<Option<String>, _>(column).map_err(db_error);
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(db_error);
    let real = |column: &str| row.try_get::<f64, _>(column).map_err(db_error);
    let bytes = |column: &str| row.try_get::<Vec<u8>, _>(column).map_err(db_error);
    let dataset = maybe("dataset")?.unwrap_or_default();
    let sealed: Option<Vec<u8>> = row.try_get("record").map_err(db_error)?;
    let record = sealed
        .map(|sealed| at_rest.open_record(&dataset, &bytes("canonical_index")?, &sealed))
        .transpose()?;
    let epoch = u32::try_from(number("epoch")?).map_err(|_| damaged("epoch"))?;
    Ok(RecordHit {
        hit: Hit {
            id: HitId::from_slice(&bytes("hit_id")?).map_err(Error::internal)?,
            epoch: Epoch::new(epoch).map_err(Error::internal)?,
            policy: typed(&text("policy")?)?,
            record_ref: RecordRef::from_slice(&bytes("record_ref")?).map_err(Error::internal)?,
            holder: typed(&text("holder")?)?,
            state: HitState::parse(&text("state")?).ok_or_else(|| damaged("state"))?,
            filter_version: unsigned(number("filter_version")?),
            false_positive: real("false_positive")?,
            posterior: real("posterior")?,
            first_seen: time(number("first_seen")?),
            last_seen: time(number("last_seen")?),
        },
        cursor: unsigned(number("cursor")?),
        dataset,
        record_id: record
            .as_ref()
            .map(|record| record.record_id.clone())
            .unwrap_or_default(),
        canonical: record.map(|record| record.canonical),
    })
}

/// A hit with its record; the statements below add what they ask for.
macro_rules! select_hits {
    ($rest:literal) => {
        concat!(
            "SELECT h.*, d.name AS dataset, s.record, s.canonical_index FROM hits h
             LEFT JOIN record_refs r USING (record_ref)
             LEFT JOIN selectors s USING (selector_id)
             LEFT JOIN datasets d USING (dataset_id) ",
            $rest
        )
    };
}

impl Store {
    /// Stores hits as the broker's stream told them, and that the stream was read up to a cursor,
    /// in one transaction; tells the local cursor.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_streamed_hits(&self, hits: &[Hit], inbox_cursor: u64) -> Result<u64> {
        self.db
            .run_tx("put_streamed_hits", |tx| {
                async move {
                    let local = upsert(tx, STREAMED, hits).await?;
                    set_counter(tx, INBOX_CURSOR, inbox_cursor).await?;
                    Ok(local)
                }
                .scope_boxed()
            })
            .await
    }

    /// Stores the hits of an answer; tells the local cursor.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_answered_hits(&self, found: &[Hit]) -> Result<u64> {
        self.db
            .run_tx("put_answered_hits", |tx| {
                upsert_answers(tx, found).scope_boxed()
            })
            .await
    }

    /// The last event of the broker's stream that was stored; 0 at first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn inbox_cursor(&self) -> Result<u64> {
        self.counter(INBOX_CURSOR).await
    }

    /// Begins the broker's stream again: it does not know the cursor any more.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn reset_inbox_cursor(&self) -> Result<()> {
        self.db
            .run_tx("reset_inbox_cursor", |tx| {
                set_counter(tx, INBOX_CURSOR, 0).scope_boxed()
            })
            .await
    }

    /// Cursor of the last change of a hit; 0 at first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn hit_cursor(&self) -> Result<u64> {
        self.counter(LOCAL_CURSOR).await
    }

    async fn counter(&self, name: &'static str) -> Result<u64> {
        let value: Option<i64> = sqlx::query_scalar("SELECT value FROM counters WHERE name = $1")
            .bind(name)
            .fetch_optional(self.db.read())
            .await
            .map_err(db_error)?;
        Ok(value.map_or(0, unsigned))
    }

    /// One hit.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn record_hit(&self, hit: HitId) -> Result<Option<RecordHit>> {
        sqlx::query(select_hits!("WHERE hit_id = $1"))
            .bind(&hit.as_bytes()[..])
            .fetch_optional(self.db.read())
            .await
            .map_err(db_error)?
            .as_ref()
            .map(|row| record_hit(&self.at_rest, row))
            .transpose()
    }

    /// Hits in the order of their ids, oldest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn record_hits(&self, filter: &HitFilter, limit: u32) -> Result<Vec<RecordHit>> {
        sqlx::query(select_hits!(
            "WHERE ($1 IS NULL OR h.policy = $1) AND ($2 IS NULL OR h.holder = $2)
               AND ($3 IS NULL OR d.name = $3) AND ($4 IS NULL OR h.state = $4)
               AND ($5 IS NULL OR h.hit_id > $5)
             ORDER BY hit_id LIMIT $6"
        ))
        .bind(filter.policy.map(Policy::name))
        .bind(filter.holder.as_ref().map(NodeId::as_str))
        .bind(filter.dataset.as_deref())
        .bind(filter.state.map(HitState::as_str))
        .bind(filter.after.map(|id| id.as_bytes().to_vec()))
        .bind(limit)
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| record_hit(&self.at_rest, row))
        .collect()
    }

    /// Hits that are new or have changed since a cursor, in the order of their last change.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn record_hits_since(&self, cursor: u64, limit: u32) -> Result<Vec<RecordHit>> {
        sqlx::query(select_hits!("WHERE cursor > $1 ORDER BY cursor LIMIT $2"))
            .bind(signed(cursor))
            .bind(limit)
            .fetch_all(self.db.read())
            .await
            .map_err(db_error)?
            .iter()
            .map(|row| record_hit(&self.at_rest, row))
            .collect()
    }
}

/// What an answer tells of hits; tells the local cursor.
pub(super) async fn upsert_answers(tx: &mut SqliteConnection, found: &[Hit]) -> Result<u64> {
    upsert(tx, ANSWERED, found).await
}

macro_rules! upsert_hits {
    ($known:literal) => {
        concat!(
            "INSERT INTO hits (hit_id, cursor, epoch, policy, record_ref, holder, state,
                 filter_version, false_positive, posterior, first_seen, last_seen)
             SELECT unhex(value ->> 0), $2 + key, value ->> 1, value ->> 2, unhex(value ->> 3),
                 value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9,
                 value ->> 10
             FROM json_each($1) WHERE true
             ON CONFLICT (hit_id) DO UPDATE SET cursor = excluded.cursor,
                 filter_version = excluded.filter_version,
                 false_positive = excluded.false_positive,
                 posterior = excluded.posterior, ",
            $known
        )
    };
}

/// The broker's stream tells a hit as it stands.
const STREAMED: &str = upsert_hits!(
    "state = excluded.state, first_seen = excluded.first_seen, last_seen = excluded.last_seen"
);

/// An answer tells less: state and first time of a hit that is known already come by the stream.
const ANSWERED: &str = upsert_hits!("last_seen = max(last_seen, excluded.last_seen)");

/// One statement for all: an answer may bring thousands.
async fn upsert(tx: &mut SqliteConnection, statement: &'static str, hits: &[Hit]) -> Result<u64> {
    let row = |hit: &Hit| {
        serde_json::json!([
            hex::encode(hit.id.as_bytes()),
            hit.epoch.get(),
            hit.policy.name(),
            hit.record_ref.to_string(),
            hit.holder.as_str(),
            hit.state.as_str(),
            signed(hit.filter_version),
            hit.false_positive,
            hit.posterior,
            hit.first_seen.micros(),
            hit.last_seen.micros(),
        ])
    };
    let rows = serde_json::to_string(&hits.iter().map(row).collect::<Vec<_>>());
    let count = hits.len() as u64;
    let last = advance(tx, LOCAL_CURSOR, count).await?;
    sqlx::query(statement)
        .bind(rows.map_err(Error::internal)?)
        .bind(last - signed(count) + 1)
        .execute(tx)
        .await
        .map_err(db_error)?;
    Ok(unsigned(last))
}

async fn set_counter(tx: &mut SqliteConnection, name: &str, value: u64) -> Result<()> {
    sqlx::query(
        "INSERT INTO counters (name, value) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )
    .bind(name)
    .bind(signed(value))
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::super::testing::store;
    use super::*;
    use crate::testing::{hit, import_emails};

    fn epoch() -> Epoch {
        Epoch::new(1).expect("an epoch")
    }

    #[tokio::test]
    async fn a_hit_of_an_unknown_ref_is_kept_without_a_record() {
        let (store, _dir) = store().await;
        let found = hit(1, epoch(), RecordRef::new([9; 16]));
        store
            .put_streamed_hits(from_ref(&found), 7)
            .await
            .expect("stored");
        assert_eq!(store.inbox_cursor().await.expect("read"), 7);
        let read = store
            .record_hit(found.id)
            .await
            .expect("read")
            .expect("there");
        assert_eq!(read.hit, found);
        assert_eq!((read.record_id.as_str(), read.canonical), ("", None));
        store.reset_inbox_cursor().await.expect("reset");
        assert_eq!(store.inbox_cursor().await.expect("read"), 0);
    }

    #[tokio::test]
    async fn an_answer_does_not_undo_what_the_stream_told() {
        let (store, _dir) = store().await;
        let mut told = hit(1, epoch(), RecordRef::new([9; 16]));
        told.state = HitState::Confirmed;
        store
            .put_streamed_hits(from_ref(&told), 1)
            .await
            .expect("stored");
        let mut answered = hit(1, epoch(), told.record_ref);
        answered.filter_version = 5;
        let cursor = store.put_answered_hits(&[answered]).await.expect("stored");
        assert_eq!(cursor, 2);
        assert_eq!(store.hit_cursor().await.expect("read"), 2);
        let read = store
            .record_hit(told.id)
            .await
            .expect("read")
            .expect("there");
        assert_eq!(
            (read.hit.state, read.hit.filter_version),
            (HitState::Confirmed, 5)
        );
    }

    #[tokio::test]
    async fn hits_are_filtered_and_paged_and_followed() {
        let (store, _dir) = store().await;
        import_emails(&store, "d", &["a@x.org"]).await;
        let known = RecordRef::new([1; 16]);
        store
            .put_record_ref(epoch(), known, 1)
            .await
            .expect("stored");
        let first = hit(1, epoch(), known);
        let mut second = hit(2, epoch(), RecordRef::new([2; 16]));
        second.holder = "fr-pj".parse().expect("a node");
        let told = [second.clone(), first.clone()];
        store.put_streamed_hits(&told, 2).await.expect("stored");
        assert_eq!(store.inbox_cursor().await.expect("read"), 2);
        let ids = |found: Vec<RecordHit>| found.iter().map(|h| h.hit.id).collect::<Vec<_>>();
        let all = HitFilter::default();
        let of_d = HitFilter {
            dataset: Some("d".into()),
            ..all.clone()
        };
        let of_fr = HitFilter {
            holder: Some(second.holder.clone()),
            policy: Some(second.policy),
            state: Some(second.state),
            ..all.clone()
        };
        let after = HitFilter {
            after: Some(first.id),
            ..all.clone()
        };
        for (filter, limit, expected) in [
            (&all, 10, vec![first.id, second.id]),
            (&all, 1, vec![first.id]),
            (&after, 10, vec![second.id]),
            (&of_d, 10, vec![first.id]),
            (&of_fr, 10, vec![second.id]),
        ] {
            let found = store.record_hits(filter, limit).await.expect("read");
            assert_eq!(ids(found), expected);
        }
        let since = store.record_hits_since(0, 10).await.expect("read");
        assert_eq!(ids(since), [second.id, first.id]);
        let since = store.record_hits_since(1, 10).await.expect("read");
        assert_eq!(ids(since), [first.id]);
    }
}
