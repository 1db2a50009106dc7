//! This node as a witness of the audit log (protocol §11): it verifies that the log has only grown
//! since the last checkpoint that it stored, stores the new one, and then cosigns it. A log that
//! contradicts itself raises an alarm, and nothing is done on hits while that stands.

mod evidence;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{Epoch, HitId};
use sotto_common::log::checkpoint::{LogKey, SignedCheckpoint};
use sotto_common::log::cosignature::Cosigner;
use sotto_common::log::merkle::MerkleHash;
use sotto_common::log::proof::{MAX_PROOF, verify_consistency};
use sotto_common::log::quorum::{Freshness, WitnessPolicy};
use sotto_common::log::witness::{Progress, follow};
use sotto_common::random::os_rng;
use sotto_common::time::{CLOCK_SKEW, Timestamp};
use sotto_proto::convert::to_timestamp;
use sotto_proto::v1;
use tokio::sync::{Mutex, Notify};
use tracing::{debug, info, warn};

use super::App;
use crate::broker::{Backoff, ask, is_passing, refusal};
use crate::store::StoredCheckpoint;

pub(crate) use evidence::{Contradiction, evidence_response};

/// A checkpoint that stays the largest is cosigned again after this time, so that the cosignature
/// still counts for those who look at it (protocol §11: none older than 24 h).
const COSIGNED_AGAIN: Duration = Duration::from_hours(12);
/// How often batches are looked for whose retention time is over.
const ERASED_EVERY: Duration = Duration::from_hours(1);
/// Answers without a place in the log are told of for this long: by then whatever is probed again and
/// again has other answers, and nobody can do more about them.
const LOOKED_BACK: Duration = Duration::from_hours(30 * 24);

/// The log that this node follows.
pub(crate) struct FollowedLog {
    /// The key of the log, from the node's own configuration.
    pub(crate) key: LogKey,
    /// Cosigns for this node.
    pub(crate) cosigner: Cosigner,
    /// The trust domain of the witnesses.
    pub(crate) trust_domain: String,
    /// Told when a supervisor has ended an alarm: the log is looked at anew.
    pub(crate) cleared: Notify,
    /// Held from the look at the stored checkpoint until the next one is stored and cosigned: of two
    /// that do not go together only one can be.
    pub(super) turn: Mutex<()>,
    /// Where the last round over hits ended that are not proved, by the epoch whose witnesses count.
    turns: StdMutex<BTreeMap<Epoch, HitId>>,
    view: StdMutex<LogView>,
}

/// What was seen of the log last.
#[derive(Clone, Default, Debug)]
pub(crate) struct LogView {
    /// Witnesses behind the latest checkpoint.
    pub(crate) cosignatures: usize,
    /// Witnesses that must stand behind it; 0 = none was looked at yet.
    pub(crate) quorum: usize,
    /// Why the log is not followed at the moment; empty if it is.
    pub(crate) problem: String,
}

impl FollowedLog {
    /// The log with this key.
    pub(crate) fn new(key: LogKey, cosigner: Cosigner, trust_domain: String) -> Self {
        Self {
            key,
            cosigner,
            trust_domain,
            cleared: Notify::new(),
            turn: Mutex::new(()),
            turns: StdMutex::default(),
            view: StdMutex::default(),
        }
    }

    /// What was seen of it last.
    pub(crate) fn view(&self) -> MutexGuard<'_, LogView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the last round over hits ended that are not proved.
    pub(super) fn turns(&self) -> MutexGuard<'_, BTreeMap<Epoch, HitId>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a note as a checkpoint of this log.
    ///
    /// # Errors
    /// `SIGNATURE_INVALID`: what is not signed by the log's key accuses nobody.
    pub(super) fn open(&self, note: &[u8]) -> Result<SignedCheckpoint> {
        SignedCheckpoint::open(note, &self.key).map_err(|error| {
            let text = format!(
                "the broker showed a checkpoint that does not count: {error}; compare \
                 `audit_log.verifier_key` with the operator's"
            );
            Error::new(ErrorCode::SignatureInvalid, text)
        })
    }
}

/// Follows the log for as long as the node runs, if it was given the key of one.
pub(crate) fn keep_witnessing(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let Some(log) = &app.log else {
            info!("no `audit_log.verifier_key`: hits are shown as unverified");
            return;
        };
        let mut backoff = Backoff::default();
        let mut told = None;
        loop {
            match app.follow_log(log, &mut backoff).await {
                // The hour of the connection, or an alarm that was ended.
                Ok(()) => told = None,
                Err(error) => {
                    log.view().problem = error.to_string();
                    // Said once for each reason, not at each attempt.
                    if told != Some(error.code) {
                        warn!(%error, "the audit log is not followed; trying again");
                    }
                    told = Some(error.code);
                }
            }
            tokio::time::sleep(backoff.pause(&mut os_rng())).await;
        }
    }
    .boxed()
}

/// Erases batches once their retention time is over, for as long as the node runs.
pub(crate) fn keep_erasing(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        loop {
            if let Err(error) = app.erase_batches().await {
                warn!(%error, "old batches are not erased yet; trying again");
            }
            let next = app.clock.now().plus(ERASED_EVERY);
            app.clock.wait_until(next).await;
        }
    }
    .boxed()
}

impl App {
    /// Refuses whatever acts on hits while the log is known to contradict itself (protocol §11:
    /// "stops acting on hits when consistency fails").
    ///
    /// # Errors
    /// `LOG_INCONSISTENT`, saying what to do; those of the store.
    pub(crate) async fn check_log(&self) -> Result<()> {
        if self.store.has_alarm().await? {
            return Err(inconsistent());
        }
        Ok(())
    }

    /// Follows the stream of checkpoints until it ends, or an alarm is ended.
    async fn follow_log(&self, log: &FollowedLog, backoff: &mut Backoff) -> Result<()> {
        let request = v1::WatchCheckpointsRequest {
            community: self.community.to_string(),
        };
        let mut client = self.broker.log();
        let notes = client.watch_checkpoints(request).await;
        let mut notes = notes.map_err(|status| refusal(&status))?.into_inner();
        loop {
            let told = tokio::select! {
                told = notes.message() => told.map_err(|status| refusal(&status))?,
                () = log.cleared.notified() => return Ok(()),
            };
            let Some(told) = told else { return Ok(()) };
            self.hear_of(log, &told.note).await?;
            backoff.reset();
        }
    }

    /// Takes a note of the stream, and verifies what waits for it.
    ///
    /// # Errors
    /// Those of the broker and of the store.
    pub(super) async fn hear_of(&self, log: &FollowedLog, note: &[u8]) -> Result<()> {
        // While an alarm stands nothing is believed of the log, and nothing cosigned.
        if self.store.has_alarm().await? {
            return Ok(());
        }
        let offered = log.open(note)?;
        log.view().problem.clear();
        let enough = self.look_at(log, &offered).await?;
        if self.take_checkpoint(log, &offered).await? {
            if let Some(enough) = enough {
                let now = self.clock.now();
                let origin = log.key.origin();
                self.store.set_witnessed(origin, enough, now).await?;
            }
            self.verify_all(log).await?;
        }
        Ok(())
    }

    /// Checks a checkpoint against the stored one, stores it and cosigns it; tells whether it is
    /// the largest that is known now. Of no effect while an alarm stands.
    ///
    /// # Errors
    /// Those of the broker and of the store.
    pub(super) async fn take_checkpoint(
        &self,
        log: &FollowedLog,
        offered: &SignedCheckpoint,
    ) -> Result<bool> {
        let _turn = log.turn.lock().await;
        if self.store.has_alarm().await? {
            return Ok(false);
        }
        let known = self.store.log_checkpoint(log.key.origin()).await?;
        let smaller = |known: &StoredCheckpoint| known.checkpoint.head.size > offered.head().size;
        if let Some(larger) = known.clone().filter(smaller) {
            self.is_earlier(log, larger, offered).await?;
            return Ok(false);
        }
        let known = known.as_ref();
        let from = known.map_or(0, |known| known.checkpoint.head.size);
        let proof = self.consistency(from, offered.head().size).await?;
        match follow(known.map(|known| &known.checkpoint), offered, &proof) {
            Ok(progress) => {
                if progress == Progress::Grown {
                    // protocol §11: "verifies …, stores, then cosigns".
                    let now = self.clock.now();
                    self.store.put_log_checkpoint(offered, now).await?;
                }
                self.cosign(log, offered).await?;
                Ok(true)
            }
            Err(error) if error.is_alarm() => {
                let contradiction = Contradiction {
                    what: error.to_string(),
                    known: known.map(|known| known.note.clone()),
                    offered,
                    proof,
                    about: None,
                };
                self.raise(log, contradiction).await?;
                Ok(false)
            }
            Err(error) => {
                debug!(%error, "a checkpoint is not cosigned");
                Ok(false)
            }
        }
    }

    /// The newest checkpoint that enough of these witnesses stand behind, if this node itself
    /// found it consistent.
    ///
    /// # Errors
    /// `SIGNATURE_INVALID` for a cosignature by a known witness that does not hold; those of the
    /// broker and of the store.
    pub(super) async fn cosigned(
        &self,
        log: &FollowedLog,
        witnesses: &WitnessPolicy,
    ) -> Result<Option<SignedCheckpoint>> {
        let request = v1::GetCheckpointRequest {
            community: self.community.to_string(),
            cosignatures: u32::try_from(witnesses.required()).unwrap_or(u32::MAX),
        };
        let answer = match ask!(self.broker.log(), get_checkpoint, request).await {
            Ok(answer) => answer,
            Err(error) if error.code == ErrorCode::LogUnknown => return Ok(None),
            Err(error) => return Err(error),
        };
        let signed = log.open(&answer.note)?;
        // protocol §11: "at least the profile's witness quorum …, none older than 24 h".
        let fresh = Freshness::AtMostADay(self.clock.now());
        let quorum = witnesses
            .evaluate(&signed, fresh)
            .map_err(|error| Error::new(ErrorCode::SignatureInvalid, error.to_string()))?;
        let counts = quorum.is_reached() && self.is_consistent(log, &signed).await?;
        Ok(counts.then_some(signed))
    }

    /// Whether this node has found a checkpoint consistent, or does so now.
    async fn is_consistent(&self, log: &FollowedLog, signed: &SignedCheckpoint) -> Result<bool> {
        let known = self.store.log_checkpoint(log.key.origin()).await?;
        let size = signed.head().size;
        let Some(known) = known.filter(|known| known.checkpoint.head.size >= size) else {
            return self.take_checkpoint(log, signed).await;
        };
        self.is_earlier(log, known, signed).await
    }

    /// Whether a checkpoint that is not larger than the stored one is an earlier state of it. One that
    /// the broker proves otherwise raises the alarm; one that it proves nothing of is told.
    async fn is_earlier(
        &self,
        log: &FollowedLog,
        known: StoredCheckpoint,
        signed: &SignedCheckpoint,
    ) -> Result<bool> {
        let (size, stored) = (signed.head().size, known.checkpoint.head);
        let proof = match self.consistency(size, stored.size).await {
            Ok(proof) => proof,
            Err(error) if is_passing(&error) => return Err(error),
            Err(error) => {
                // A broker that was restored from a backup does not know the larger tree any more.
                let text = format!("the log shows {size} leaves, {} were known", stored.size);
                log.view().problem = format!("{text}: {error}");
                return Ok(false);
            }
        };
        let Err(error) = verify_consistency(signed.head(), &stored, &proof) else {
            return Ok(true);
        };
        let contradiction = Contradiction {
            what: format!("a smaller checkpoint is no earlier state of the stored one: {error}"),
            known: Some(known.note),
            offered: signed,
            proof,
            about: None,
        };
        self.raise(log, contradiction).await?;
        Ok(false)
    }

    /// The broker's proof that a tree has only grown; none is needed from the empty tree, or where
    /// it has not grown.
    async fn consistency(&self, from_size: u64, to_size: u64) -> Result<Vec<MerkleHash>> {
        if from_size == 0 || from_size >= to_size {
            return Ok(Vec::new());
        }
        let request = v1::ProveConsistencyRequest {
            community: self.community.to_string(),
            from_size,
            to_size,
        };
        let answer = ask!(self.broker.log(), prove_consistency, request).await?;
        hashes(&answer.hashes)
            .ok_or_else(|| Error::field("hashes", "the broker's hashes are of 32 bytes"))
    }

    /// Hands in this node's cosignature of a checkpoint that it has stored, if one is due.
    async fn cosign(&self, log: &FollowedLog, stored: &SignedCheckpoint) -> Result<()> {
        let now = self.clock.now();
        if !is_due(&log.cosigner, stored, now) {
            return Ok(());
        }
        let cosignature = log.cosigner.cosign(stored.checkpoint(), now);
        let head = stored.head();
        let request = v1::SubmitCosignatureRequest {
            community: self.community.to_string(),
            tree_size: head.size,
            root: head.root.as_bytes().to_vec().into(),
            cosignature: cosignature.to_string(),
        };
        match ask!(self.broker.log(), submit_cosignature, request).await {
            Ok(_) => Ok(()),
            Err(error) if is_passing(&error) => Err(error),
            Err(error) => {
                // What others have cosigned can be verified all the same.
                info!(%error, size = head.size, "a cosignature was not taken");
                log.view().problem = format!("the broker takes no cosignature: {error}");
                Ok(())
            }
        }
    }

    /// Who stands behind a checkpoint, for the status alone; tells whether they are enough, if that can
    /// be told.
    async fn look_at(&self, log: &FollowedLog, offered: &SignedCheckpoint) -> Result<Option<bool>> {
        let active = *self.epoch.borrow();
        let stored = self.store.epochs().await?;
        let manifest = stored
            .iter()
            .find(|stored| Some(stored.manifest.epoch) == active);
        let Some(manifest) = manifest.map(|stored| &stored.manifest) else {
            return Ok(None);
        };
        let witnesses = WitnessPolicy::of_manifest(manifest, &log.trust_domain);
        let witnesses = witnesses.map_err(Error::internal)?;
        let fresh = Freshness::AtMostADay(self.clock.now());
        let Ok(quorum) = witnesses.evaluate(offered, fresh) else {
            return Ok(None);
        };
        let mut view = log.view();
        view.cosignatures = quorum.count();
        view.quorum = quorum.required();
        Ok(Some(quorum.is_reached()))
    }

    /// Where this node stands with the log; `None` if it follows none.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn log_status(&self) -> Result<Option<v1::LogStatus>> {
        let Some(log) = &self.log else {
            return Ok(None);
        };
        let known = self.store.log_checkpoint(log.key.origin()).await?;
        let alarm = self.store.has_alarm().await?;
        let now = self.clock.now();
        let waits = self.store.unproved(now.minus(LOOKED_BACK)).await?;
        let view = log.view().clone();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let few_since = known.as_ref().and_then(|known| known.few_since);
        Ok(Some(v1::LogStatus {
            origin: log.key.origin().to_string(),
            tree_size: known.as_ref().map_or(0, |k| k.checkpoint.head.size),
            checkpoint_at: known.map(|k| to_timestamp(k.at)),
            cosignatures: count(view.cosignatures),
            quorum: count(view.quorum),
            alarm,
            problem: view.problem,
            few_cosignatures_since: few_since.map(to_timestamp),
            unverified_open_hits: waits.open_hits,
            unverified_open_hits_since: waits.open_hits_since.map(to_timestamp),
            unverified_batches: waits.batches,
            unverified_batches_since: waits.batches_since.map(to_timestamp),
            unplaced_batches: waits.unplaced,
            unplaced_batches_since: waits.unplaced_since.map(to_timestamp),
            hits_named_otherwise: waits.named_otherwise,
        }))
    }

    /// Erases the batches whose retention time is over.
    ///
    /// # Errors
    /// Those of the store.
    async fn erase_batches(&self) -> Result<()> {
        let now = self.clock.now();
        for epoch in self.store.epochs().await? {
            let kept = epoch.manifest.profile.retention.hits;
            let before = now.minus(kept);
            let erased = self.store.erase_batches(epoch.manifest.epoch, before);
            let erased = erased.await?;
            if erased > 0 {
                info!(erased, "batches were erased after the retention time");
            }
        }
        Ok(())
    }
}

/// Whether a checkpoint is to be cosigned: the note has no cosignature by this node, or an old one.
fn is_due(cosigner: &Cosigner, stored: &SignedCheckpoint, now: Timestamp) -> bool {
    let own = stored.note().signatures().iter();
    let own = own.filter_map(|line| cosigner.key().verify(stored.checkpoint(), line).ok());
    // One that lies ahead, of a clock that was wrong, counts for nobody.
    let counts = own.filter(|at| *at <= now.plus(CLOCK_SKEW));
    counts
        .max()
        .is_none_or(|at| now.since(at) >= COSIGNED_AGAIN)
}

/// Hashes as the wire has them; `None` if one is not of 32 bytes. Of more than any proof has, no more
/// than shows that it is none.
pub(super) fn hashes(wire: &[prost::bytes::Bytes]) -> Option<Vec<MerkleHash>> {
    wire.iter()
        .take(MAX_PROOF + 1)
        .map(|hash| MerkleHash::from_slice(hash))
        .collect()
}

/// What is said at every door while an alarm stands.
pub(super) fn inconsistent() -> Error {
    Error::new(
        ErrorCode::LogInconsistent,
        "the audit log contradicts itself: nothing is done on hits until a supervisor has looked at \
         `sotto-node evidence ls` and ended the alarm with `sotto-node evidence clear --reason TEXT`",
    )
}

#[cfg(test)]
mod tests;
