//! One-off questions: one selector, one batch, the hits at once.

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::grounds::Grounds;
use sotto_common::ids::{HitId, NodeId, SessionId};
use sotto_common::probe::SessionNonce;
use sotto_common::publication::FilterLabels;
use sotto_common::random::os_rng;
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_proto::v1;

use super::epochs::EpochKeys;
use super::session::{Opening, Pairs, found};
use super::{App, check_targets};
use crate::broker::{Backoff, ask, is_passing};
use crate::hit::Hit;
use crate::store::{AnsweredBatch, RecordHit};

/// How often the question is put while the broker is out of reach.
const ATTEMPTS: u32 = 4;

impl App {
    /// Asks who holds a selector; gives its canonical form and a hit for each holder.
    ///
    /// # Errors
    /// `SELECTOR_REJECTED`, naming the kind; `QUOTA_EXHAUSTED`; those of the broker.
    pub(crate) async fn check(
        &self,
        policy: Policy,
        value: &str,
        region: &str,
        grounds: &Grounds,
        targets: &[NodeId],
    ) -> Result<(Selector, Vec<RecordHit>)> {
        let canonical = self.policies.admit(policy, value, region).map_err(|kind| {
            let text = format!("the selector was rejected: {kind}");
            Error::new(ErrorCode::SelectorRejected, text).about(kind.as_str())
        })?;
        let epoch = self.active_epoch().await?;
        epoch.manifest.policy(policy)?;
        check_targets(&self.node, &epoch.manifest, targets)?;
        let id = SessionId::generate(self.clock.now(), &mut os_rng());
        let row = self
            .store
            .put_check(policy, &canonical, &format!("check/{id}"))
            .await?;
        let pairs = Pairs::make(
            vec![row],
            policy,
            &epoch.schedule,
            &epoch.manifest,
            self.keystore.record_ref(),
            |_| true,
        )?;
        for &(record_ref, selector) in &pairs.refs {
            self.store
                .put_record_ref(epoch.manifest.epoch, record_ref, selector)
                .await?;
        }
        let opening = Opening {
            id,
            nonce: &SessionNonce::generate(&mut os_rng()),
            policy,
            grounds,
            targets,
        };
        let mut backoff = Backoff::default();
        for _ in 1..ATTEMPTS {
            match self.ask_once(&epoch, &opening, &pairs).await {
                Err(error) if is_passing(&error) => {
                    tokio::time::sleep(backoff.pause(&mut os_rng())).await;
                }
                Err(error) => {
                    self.abandon_session(&epoch, &opening).await;
                    return Err(error);
                }
                Ok(hits) => return Ok((canonical, hits)),
            }
        }
        let hits = self.ask_once(&epoch, &opening, &pairs).await?;
        Ok((canonical, hits))
    }

    async fn ask_once(
        &self,
        epoch: &EpochKeys,
        opening: &Opening<'_>,
        pairs: &Pairs,
    ) -> Result<Vec<RecordHit>> {
        let (mut stream, _) = self.open_session(epoch, opening).await?;
        stream.ask(0, pairs).await;
        let answer = stream.answer(0).await?;
        let now = self.clock.now();
        let (own, manifest) = (&self.node, &epoch.manifest);
        let hits = found(own, manifest, opening, pairs, &answer.matches, now)?;
        let answered = AnsweredBatch::new(
            opening.id,
            0,
            epoch.manifest.epoch,
            opening.nonce,
            pairs.sent(),
            &answer.matches,
            answer.leaf_index,
            now,
        );
        let cursor = self
            .store
            .put_answered_hits(&hits, opening.grounds, &answered)
            .await?;
        self.hits_changed(cursor);
        // The answer is here and durable: a close that is lost loses nothing.
        if let Err(error) = stream.close().await {
            tracing::debug!(%error, "the close of a probe session was not answered");
        }
        let mut joined = Vec::with_capacity(hits.len());
        for hit in &hits {
            joined.extend(self.store.record_hit(hit.id).await?);
        }
        self.label(&mut joined).await;
        Ok(joined)
    }

    /// Adds what the holders say of their filters, which an answer does not tell. The stream does, a
    /// moment later: that it is not known now is no failure.
    async fn label(&self, hits: &mut [RecordHit]) {
        for joined in hits {
            match self.labels_of(joined.hit.id).await {
                Ok(labels) => joined.hit.labels = labels,
                Err(error) => {
                    tracing::debug!(%error, "what holders say of their filters comes by the stream");
                    return;
                }
            }
        }
    }

    async fn labels_of(&self, hit: HitId) -> Result<FilterLabels> {
        let request = v1::GetHitRequest {
            community: self.community.to_string(),
            hit_id: hit.as_bytes().to_vec().into(),
        };
        let told = ask!(self.broker.hits(), get_hit, request).await?.hit;
        let told = told.ok_or_else(|| Error::field("hit", "missing"))?;
        Ok(Hit::try_from(told)?.labels)
    }
}
