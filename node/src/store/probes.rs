//! Probe sessions that go on after a restart, and what their record refs stand for (protocol §7).

use std::collections::{BTreeMap, HashSet};

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::grounds::{Grounds, LegalBasis, Purpose};
use sotto_common::ids::{Epoch, NodeId, RecordRef, SessionId};
use sotto_common::probe::SessionNonce;
use sotto_common::selector::Policy;
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::Row as _;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::at_rest::AtRest;
use super::coverage::begin_covers;
use super::log::{self, AnsweredBatch};
use super::{SelectorId, Store, damaged, hits, signed, time, typed, unsigned};
use crate::hit::Hit;

/// What makes two probes the same one: the second joins the first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeKey {
    /// The dataset's name.
    pub dataset: String,
    /// Why.
    pub grounds: Grounds,
    /// The holders to ask, in the order of their ids; empty = all.
    pub targets: Vec<NodeId>,
}

impl ProbeKey {
    fn targets_text(&self) -> String {
        let targets: Vec<_> = self.targets.iter().map(NodeId::as_str).collect();
        targets.join(",")
    }
}

/// Who wants a probe, and of what. The first are asked first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ProbeKind {
    /// A person asks for a whole dataset.
    Asked,
    /// Selectors that were not asked yet, of the holders that were asked for those before.
    New,
    /// Everything, of holders whose filters have changed.
    Sweep,
    /// Everything, of holders that were not asked for long.
    Refresh,
}

impl ProbeKind {
    const ALL: [Self; 4] = [Self::Asked, Self::New, Self::Sweep, Self::Refresh];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "ASKED",
            Self::New => "NEW",
            Self::Sweep => "SWEEP",
            Self::Refresh => "REFRESH",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A probe session that is not closed.
#[derive(Clone, Debug)]
pub struct ProbeSession {
    /// Its id.
    pub id: SessionId,
    /// Who wants it.
    pub kind: ProbeKind,
    /// What was asked.
    pub key: ProbeKey,
    /// The dataset's row.
    pub dataset: i64,
    /// The dataset's policy.
    pub policy: Policy,
    /// The epoch.
    pub epoch: Epoch,
    /// The nonce.
    pub nonce: SessionNonce,
    /// The selector before the first that is asked.
    pub first: SelectorId,
    /// The last selector of the dataset when the session began.
    pub last_selector: SelectorId,
    /// Selectors in all.
    pub total: u64,
    /// For a sweep or a refresh: what the holders had active at its beginning.
    pub layers: BTreeMap<NodeId, [u8; 16]>,
    /// Batches are filled up to so many pairs; 0 = not at all.
    pub padding: u32,
    /// When it began; stays when it is begun anew from where it was.
    pub started_at: Timestamp,
    /// Number of the next batch to plan.
    pub next_batch: u32,
    /// The last selector that is in a planned batch.
    pub position: SelectorId,
    /// How many decoys of the dataset are in planned batches.
    pub decoys: u64,
    /// Selectors answered.
    pub probed: u64,
    /// Matches found.
    pub matches: u64,
}

/// A batch that is planned and not answered: selectors `first..=last` of the dataset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Its number in the session.
    pub number: u32,
    /// Its first selector.
    pub first: SelectorId,
    /// Its last selector.
    pub last: SelectorId,
    /// Pairs in all, with decoys; 0 if it is not filled up.
    pub pairs: u32,
    /// The first decoy in it; the others follow.
    pub decoy: u64,
}

impl ProbeSession {
    fn from_columns(at_rest: &AtRest, row: &SqliteRow) -> Result<Self> {
        let text = |column: &str| row.try_get::<String, _>(column).map_err(db_error);
        let number = |column: &str| row.try_get::<i64, _>(column).map_err(db_error);
        let bytes = |column: &str| row.try_get::<Vec<u8>, _>(column).map_err(db_error);
        let grounds = Grounds::new(
            Purpose::parse(&text("purpose")?),
            LegalBasis::parse(&text("legal_basis")?),
            &text("reference")?,
            &text("case_ref")?,
        )?;
        let targets = text("targets")?;
        let targets = targets
            .split(',')
            .filter(|target| !target.is_empty())
            .map(typed)
            .collect::<Result<_>>()?;
        let u32_of = |column| {
            number(column).and_then(|n| u32::try_from(n).map_err(|_| damaged("small number")))
        };
        let id = SessionId::from_slice(&bytes("session_id")?).map_err(Error::internal)?;
        Ok(Self {
            id,
            kind: ProbeKind::parse(&text("kind")?).ok_or_else(|| damaged("kind"))?,
            key: ProbeKey {
                dataset: text("name")?,
                grounds,
                targets,
            },
            dataset: number("dataset_id")?,
            policy: typed(&text("policy")?)?,
            epoch: Epoch::new(u32_of("epoch")?).map_err(Error::internal)?,
            nonce: at_rest.open_nonce(id, &bytes("nonce")?)?,
            first: number("first")?,
            last_selector: number("last_selector")?,
            total: unsigned(number("total")?),
            layers: read_layers(&text("layers")?)?,
            padding: u32_of("padding")?,
            started_at: time(number("started_at")?),
            next_batch: u32_of("next_batch")?,
            position: number("position")?,
            decoys: unsigned(number("decoys")?),
            probed: unsigned(number("probed")?),
            matches: unsigned(number("matches")?),
        })
    }
}

impl Store {
    /// Stores a new session.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_session(&self, session: &ProbeSession) -> Result<()> {
        // The node's own store keeps the nonce: only so can a session go on.
        let nonce = &self.at_rest.seal_nonce(session.id, &session.nonce);
        self.db
            .run_tx("put_session", |tx| {
                async move {
                    insert_session(tx, session, nonce).await?;
                    if session.kind == ProbeKind::Sweep {
                        begin_covers(tx, session).await?;
                    }
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// Puts a session in the place of another: it goes on where that one was.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn replace_session(&self, old: SessionId, session: &ProbeSession) -> Result<()> {
        let nonce = &self.at_rest.seal_nonce(session.id, &session.nonce);
        self.db
            .run_tx("replace_session", |tx| {
                async move {
                    delete_session(tx, old).await?;
                    insert_session(tx, session, nonce).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Every session that is not closed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn sessions(&self) -> Result<Vec<ProbeSession>> {
        sqlx::query(
            "SELECT s.*, d.name, d.policy FROM probe_sessions s JOIN datasets d USING (dataset_id)
             ORDER BY session_id",
        )
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| ProbeSession::from_columns(&self.at_rest, row))
        .collect()
    }

    /// Forgets a session and its batches.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_session(&self, session: SessionId) -> Result<()> {
        self.db
            .run_tx("delete_session", |tx| {
                delete_session(tx, session).scope_boxed()
            })
            .await
    }

    /// Batches that may have been sent and are not answered, in their order.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn batches(&self, session: SessionId) -> Result<Vec<Batch>> {
        let rows: Vec<(u32, SelectorId, SelectorId, u32, i64)> = sqlx::query_as(
            "SELECT number, first, last, pairs, decoy FROM probe_batches
             WHERE session_id = $1 ORDER BY number",
        )
        .bind(&session.as_bytes()[..])
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        Ok(rows
            .into_iter()
            .map(|(number, first, last, pairs, decoy)| Batch {
                number,
                first,
                last,
                pairs,
                decoy: unsigned(decoy),
            })
            .collect())
    }

    /// Stores what the refs of a batch stand for, its decoys, which stand for nothing, and the batch
    /// itself, before it is sent.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn plan_batch(
        &self,
        session: SessionId,
        epoch: Epoch,
        batch: Batch,
        refs: &[(RecordRef, SelectorId)],
        decoys: &[RecordRef],
    ) -> Result<()> {
        let refs = &refs_json(refs)?;
        self.db
            .run_tx("plan_batch", |tx| {
                async move {
                    insert_refs(tx, epoch, refs).await?;
                    insert_decoys(tx, epoch, decoys).await?;
                    sqlx::query(
                        "INSERT INTO probe_batches (session_id, number, first, last, pairs, decoy)
                         VALUES ($1, $2, $3, $4, $5, $6)",
                    )
                    .bind(&session.as_bytes()[..])
                    .bind(batch.number)
                    .bind(batch.first)
                    .bind(batch.last)
                    .bind(batch.pairs)
                    .bind(signed(batch.decoy))
                    .execute(&mut *tx)
                    .await
                    .map_err(db_error)?;
                    let used = batch.decoy + decoys.len() as u64;
                    set_plan(tx, session, batch.number + 1, batch.last, used).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Takes back the plan from a batch on: the broker refused it and read no later one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn unplan_batches(&self, session: SessionId, from: Batch) -> Result<()> {
        self.db
            .run_tx("unplan_batches", |tx| {
                async move {
                    sqlx::query("DELETE FROM probe_batches WHERE session_id = $1 AND number >= $2")
                        .bind(&session.as_bytes()[..])
                        .bind(from.number)
                        .execute(&mut *tx)
                        .await
                        .map_err(db_error)?;
                    set_plan(tx, session, from.number, from.first - 1, from.decoy).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Stores the hits of an answered batch, that it was answered, and what an auditor may ask of
    /// it, in one transaction; tells the cursor of the last event.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn answer_batch(
        &self,
        answered: &AnsweredBatch,
        refs: u64,
        found: &[Hit],
    ) -> Result<u64> {
        let (session, batch) = (answered.session, answered.number);
        let opening = &answered.sealed(&self.at_rest);
        self.db
            .run_tx("answer_batch", |tx| {
                async move {
                    // protocol §11: the prober keeps (nonce, tags, answer) of every batch.
                    log::put_batch(tx, answered, opening, found).await?;
                    sqlx::query("DELETE FROM probe_batches WHERE session_id = $1 AND number = $2")
                        .bind(&session.as_bytes()[..])
                        .bind(batch)
                        .execute(&mut *tx)
                        .await
                        .map_err(db_error)?;
                    sqlx::query(
                        "UPDATE probe_sessions SET probed = probed + $2, matches = matches + $3
                         WHERE session_id = $1",
                    )
                    .bind(&session.as_bytes()[..])
                    .bind(signed(refs))
                    .bind(signed(found.len() as u64))
                    .execute(&mut *tx)
                    .await
                    .map_err(db_error)?;
                    hits::put_found(tx, session, found).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Stores what the ref of a one-off question stands for.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_record_ref(
        &self,
        epoch: Epoch,
        record_ref: RecordRef,
        selector: SelectorId,
    ) -> Result<()> {
        let refs = &refs_json(&[(record_ref, selector)])?;
        self.db
            .run_tx("put_record_ref", |tx| {
                insert_refs(tx, epoch, refs).scope_boxed()
            })
            .await
    }
}

async fn insert_session(
    tx: &mut SqliteConnection,
    session: &ProbeSession,
    nonce: &[u8],
) -> Result<()> {
    let grounds = &session.key.grounds;
    sqlx::query(
        "INSERT INTO probe_sessions (session_id, dataset_id, kind, epoch, nonce, purpose,
             legal_basis, reference, case_ref, targets, first, last_selector, total, layers,
             padding, started_at, position, probed, matches, decoys)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
             $19, $20)",
    )
    .bind(&session.id.as_bytes()[..])
    .bind(session.dataset)
    .bind(session.kind.as_str())
    .bind(session.epoch.get())
    .bind(nonce)
    .bind(grounds.purpose().as_str())
    .bind(grounds.legal_basis().as_str())
    .bind(grounds.reference())
    .bind(grounds.case_ref())
    .bind(session.key.targets_text())
    .bind(session.first)
    .bind(session.last_selector)
    .bind(signed(session.total))
    .bind(layers_text(&session.layers))
    .bind(session.padding)
    .bind(session.started_at.micros())
    .bind(session.position)
    .bind(signed(session.probed))
    .bind(signed(session.matches))
    .bind(signed(session.decoys))
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

pub(super) async fn delete_session(tx: &mut SqliteConnection, session: SessionId) -> Result<()> {
    sqlx::query("DELETE FROM probe_sessions WHERE session_id = $1")
        .bind(&session.as_bytes()[..])
        .execute(tx)
        .await
        .map_err(db_error)?;
    Ok(())
}

/// As JSON: holders with their layers in hex.
fn layers_text(layers: &BTreeMap<NodeId, [u8; 16]>) -> String {
    let layers = layers
        .iter()
        .map(|(node, layers)| (node.to_string(), hex::encode(layers).into()));
    serde_json::Value::Object(layers.collect()).to_string()
}

fn read_layers(text: &str) -> Result<BTreeMap<NodeId, [u8; 16]>> {
    let layers: BTreeMap<String, String> = serde_json::from_str(text).map_err(Error::internal)?;
    let read = |(node, layers): (String, String)| {
        let mut bytes = [0; 16];
        hex::decode_to_slice(layers, &mut bytes).map_err(|_| damaged("set of layers"))?;
        Ok((typed(&node)?, bytes))
    };
    layers.into_iter().map(read).collect()
}

fn refs_json(refs: &[(RecordRef, SelectorId)]) -> Result<String> {
    let refs: Vec<_> = refs.iter().map(|(r, id)| (r.to_string(), id)).collect();
    serde_json::to_string(&refs).map_err(Error::internal)
}

async fn insert_refs(tx: &mut SqliteConnection, epoch: Epoch, refs: &str) -> Result<()> {
    sqlx::query(
        "INSERT INTO record_refs (record_ref, selector_id, epoch)
         SELECT unhex(value ->> 0), value ->> 1, $1 FROM json_each($2) WHERE true
         ON CONFLICT (record_ref) DO UPDATE SET selector_id = excluded.selector_id",
    )
    .bind(epoch.get())
    .bind(refs)
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

async fn insert_decoys(
    tx: &mut SqliteConnection,
    epoch: Epoch,
    decoys: &[RecordRef],
) -> Result<()> {
    if decoys.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT OR IGNORE INTO decoys (record_ref, epoch)
         SELECT unhex(value), $1 FROM json_each($2)",
    )
    .bind(epoch.get())
    .bind(decoys_json(decoys)?)
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

fn decoys_json(refs: &[RecordRef]) -> Result<String> {
    let refs: Vec<_> = refs.iter().map(RecordRef::to_string).collect();
    serde_json::to_string(&refs).map_err(Error::internal)
}

/// Those of the refs that stand for nothing: batches were filled up with them.
pub(super) async fn decoys_among(
    tx: &mut SqliteConnection,
    refs: &[RecordRef],
) -> Result<HashSet<RecordRef>> {
    let found: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT record_ref FROM decoys
         WHERE record_ref IN (SELECT unhex(value) FROM json_each($1))",
    )
    .bind(decoys_json(refs)?)
    .fetch_all(tx)
    .await
    .map_err(db_error)?;
    let typed = |bytes: Vec<u8>| RecordRef::from_slice(&bytes).map_err(Error::internal);
    found.into_iter().map(typed).collect()
}

async fn set_plan(
    tx: &mut SqliteConnection,
    session: SessionId,
    next_batch: u32,
    position: SelectorId,
    decoys: u64,
) -> Result<()> {
    sqlx::query(
        "UPDATE probe_sessions SET next_batch = $2, position = $3, decoys = $4
         WHERE session_id = $1",
    )
    .bind(&session.as_bytes()[..])
    .bind(next_batch)
    .bind(position)
    .bind(signed(decoys))
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::store;
    use super::*;
    use crate::testing::{answered, hit, import_emails};
    use sotto_common::random::os_rng;
    use sotto_common::secret::Selector;

    async fn session(store: &Store) -> ProbeSession {
        import_emails(store, "d", &["a@x.org", "b@x.org", "c@x.org"]).await;
        let dataset = store.dataset("d").await.expect("read").expect("there");
        let grounds = Grounds::new(
            Some(Purpose::Detection),
            Some(LegalBasis::NationalLaw),
            "Art. 3",
            "case 1",
        );
        let session = ProbeSession {
            id: SessionId::generate(Timestamp::from_seconds(1), &mut os_rng()),
            kind: ProbeKind::Sweep,
            key: ProbeKey {
                dataset: "d".into(),
                grounds: grounds.expect("valid"),
                targets: vec!["de-bka".parse().expect("a node")],
            },
            dataset: dataset.id,
            policy: dataset.policy,
            epoch: Epoch::new(2).expect("an epoch"),
            nonce: SessionNonce::generate(&mut os_rng()),
            first: 0,
            last_selector: dataset.last_selector,
            total: dataset.selectors,
            layers: BTreeMap::from([("de-bka".parse().expect("a node"), [7; 16])]),
            padding: 64,
            started_at: Timestamp::from_seconds(1),
            next_batch: 0,
            position: 0,
            decoys: 0,
            probed: 0,
            matches: 0,
        };
        store.put_session(&session).await.expect("stored");
        session
    }

    #[tokio::test]
    async fn a_session_is_read_as_it_was_stored() {
        let (store, _dir) = store().await;
        let session = session(&store).await;
        let read = store.sessions().await.expect("read");
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].key, session.key);
        assert_eq!((read[0].kind, read[0].padding), (ProbeKind::Sweep, 64));
        assert_eq!(read[0].layers, session.layers);
        assert_eq!(
            (read[0].id, read[0].epoch, &read[0].nonce, read[0].total),
            (session.id, session.epoch, &session.nonce, 3)
        );
        store.delete_session(session.id).await.expect("deleted");
        assert!(store.sessions().await.expect("read").is_empty());
    }

    #[tokio::test]
    async fn batches_stay_until_they_are_answered_and_can_be_planned_anew() {
        let (store, _dir) = store().await;
        let session = session(&store).await;
        let plan = |number, first, last| Batch {
            number,
            first,
            last,
            pairs: 4,
            decoy: u64::from(number) * 2,
        };
        let decoys = [8, 9].map(|n| RecordRef::new([n; 16]));
        let refs: Vec<_> = (1..=3)
            .map(|n| (RecordRef::new([n; 16]), i64::from(n)))
            .collect();
        for (batch, refs) in [(plan(0, 1, 2), &refs[..2]), (plan(1, 3, 3), &refs[2..])] {
            let planned = store
                .plan_batch(session.id, session.epoch, batch, refs, &decoys)
                .await;
            planned.expect("planned");
        }
        let found = hit(1, session.epoch, refs[0].0);
        let cursor = store
            .answer_batch(
                &answered(session.id, session.epoch),
                2,
                std::slice::from_ref(&found),
            )
            .await;
        assert_eq!(cursor.expect("stored"), 1);
        let open = store.batches(session.id).await.expect("read");
        assert_eq!(open, [plan(1, 3, 3)]);
        let joined = store
            .record_hit(found.id)
            .await
            .expect("read")
            .expect("there");
        let canonical = joined.canonical.as_ref().map(Selector::expose);
        assert_eq!((joined.dataset.as_str(), canonical), ("d", Some("a@x.org")));

        store
            .unplan_batches(session.id, open[0])
            .await
            .expect("done");
        assert!(store.batches(session.id).await.expect("read").is_empty());
        let read = &store.sessions().await.expect("read")[0];
        assert_eq!((read.next_batch, read.position, read.decoys), (1, 2, 2));
        assert_eq!((read.probed, read.matches), (2, 1));
        // The same refs again, in another batch.
        let again = store
            .plan_batch(
                session.id,
                session.epoch,
                plan(1, 3, 3),
                &refs[2..],
                &decoys,
            )
            .await;
        again.expect("planned");
    }

    #[tokio::test]
    async fn a_hit_on_a_decoy_is_a_hit_of_nothing() {
        let (store, _dir) = store().await;
        let session = session(&store).await;
        let (record, decoy) = (RecordRef::new([1; 16]), RecordRef::new([8; 16]));
        let batch = Batch {
            number: 0,
            first: 1,
            last: 1,
            pairs: 2,
            decoy: 0,
        };
        let planned = store
            .plan_batch(session.id, session.epoch, batch, &[(record, 1)], &[decoy])
            .await;
        planned.expect("planned");
        let hits = [hit(1, session.epoch, record), hit(2, session.epoch, decoy)];
        let now = Timestamp::from_seconds(5);
        let stored = store.put_streamed_hits(&hits, 9, now).await;
        stored.expect("stored");
        assert_eq!(store.inbox_cursor().await.expect("read"), 9);
        assert!(store.record_hit(hits[0].id).await.expect("read").is_some());
        assert!(store.record_hit(hits[1].id).await.expect("read").is_none());
    }

    #[tokio::test]
    async fn a_sweep_lets_new_selectors_go_to_holders_that_were_never_asked() {
        let (store, _dir) = store().await;
        let session = session(&store).await;
        let covers = store.covers(session.dataset).await.expect("read");
        assert!(covers[0].is_begun_only());
        assert_eq!(covers[0].last_selector, session.last_selector);
        store.finish_session(&session).await.expect("finished");
        let covers = store.covers(session.dataset).await.expect("read");
        assert_eq!(covers[0].layers, [7; 16]);
        // The next sweep leaves what is known of the holder.
        let again = ProbeSession {
            id: SessionId::generate(Timestamp::from_seconds(2), &mut os_rng()),
            ..session
        };
        store.put_session(&again).await.expect("stored");
        let after = store.covers(again.dataset).await.expect("read");
        assert_eq!(after, covers);
    }
}
