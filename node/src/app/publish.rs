//! Publishing: what the node has becomes what probes are tested against (protocol §5.4, §6).
//!
//! One job a policy works until nothing is left to do: [`plan`] says what the next layer is, it is
//! [built](build) and [uploaded](upload). The [publisher](super::publisher) says when.

mod build;
mod compare;
pub(crate) mod plan;
mod upload;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use futures::Stream;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{NodeId, PublicationId};
use sotto_common::publication::LayerRole;
use sotto_common::random::os_rng;
use sotto_common::selector::Policy;
use sotto_proto::v1;
use tokio::sync::watch;

use super::epochs::EpochKeys;
use super::jobs::{JobState, Reporter, interrupted, told};
use super::{App, is_of_the_caller, off_the_runtime};
use crate::broker::{Backoff, ask, is_passing};
use crate::store::{Layer, OutboxItem, Publishing, StoredEpoch};
use build::Plan;
use plan::{Step, next_step};

/// How often a filter that the broker found stale is built anew.
const REBUILDS: u32 = 3;

/// What makes two pieces of publishing the same one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PublicationKey {
    /// The policy.
    pub(crate) policy: Policy,
    /// Whether a person wants a new base now.
    pub(crate) asked: bool,
}

/// How far a publication is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PublishProgress {
    /// Distinct selectors in the layer.
    pub(crate) selectors: u64,
    /// Bytes that the broker has.
    pub(crate) acknowledged: u64,
    /// Bytes in all.
    pub(crate) total: u64,
    /// True once probes are tested against it.
    pub(crate) active: bool,
    /// The version.
    pub(crate) version: u64,
    /// The capacity class.
    pub(crate) class: u8,
    /// Whether it is a supplement.
    pub(crate) supplement: bool,
    /// What it waits for, if it waits.
    pub(crate) waiting_for: String,
}

impl PublishProgress {
    fn of_layer(layer: &Layer) -> Self {
        Self {
            selectors: layer.selectors,
            acknowledged: layer.bytes,
            total: layer.bytes,
            active: true,
            version: layer.version,
            class: layer.class,
            supplement: layer.role != LayerRole::Base,
            waiting_for: String::new(),
        }
    }
}

impl App {
    /// The policies that are asked for: one, or each that has something to publish and is in the
    /// epoch's profile.
    ///
    /// # Errors
    /// `POLICY_UNKNOWN`, `EPOCH_NOT_ACTIVE`, or those of the broker.
    pub(crate) async fn policies_to_publish(&self, policy: Option<Policy>) -> Result<Vec<Policy>> {
        let epoch = self.active_epoch().await?;
        if let Some(policy) = policy {
            epoch.manifest.policy(policy)?;
            return Ok(vec![policy]);
        }
        let policies = self.store.published_policies().await?.into_iter();
        Ok(policies
            .filter(|&policy| epoch.manifest.policy(policy).is_ok())
            .collect())
    }

    /// Publishes, or joins the job that does, and tells how far it is, until what the node had when
    /// this was called is what probes are tested against.
    pub(crate) fn follow_publication(
        self: &Arc<Self>,
        policy: Policy,
        asked: bool,
    ) -> impl Stream<Item = Result<PublishProgress>> + Send + use<> {
        let job = self.start_publication(PublicationKey { policy, asked });
        let next = move |(app, job): (Arc<Self>, Option<PublicationJob>)| async move {
            let mut job = job?;
            if job.changed().await.is_err() {
                return Some((Err(interrupted()), (app, None)));
            }
            let state = job.borrow_and_update().clone();
            Some(match state {
                JobState::Running(progress) => (Ok(progress), (app, Some(job))),
                JobState::Failed(error) => (Err(told(&error)), (app, None)),
                // It may have looked for the last time before the caller's change.
                JobState::Done(progress) => match app.step(policy, false).await {
                    Ok(None) => (Ok(progress), (app, None)),
                    Ok(Some(_)) => {
                        let again = PublicationKey {
                            policy,
                            asked: false,
                        };
                        let job = app.start_publication(again);
                        (Ok(progress), (app, Some(job)))
                    }
                    Err(error) => (Err(error), (app, None)),
                },
            })
        };
        let mut job = job;
        // What it says already is told first.
        job.mark_changed();
        futures::stream::unfold((Arc::clone(self), Some(job)), next)
    }

    /// Brings one policy up to date, or joins the job that does.
    pub(crate) fn start_publication(self: &Arc<Self>, key: PublicationKey) -> PublicationJob {
        let app = Arc::clone(self);
        self.publications
            .join_or_start(key, |key, reporter| async move {
                app.run_publication(&key, &reporter).await
            })
    }

    /// Clears what nobody waits for; the publisher goes on with the rest.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn clear_outbox(&self) -> Result<()> {
        let waiting = self.store.outbox().await?;
        let files: BTreeSet<PathBuf> = waiting
            .iter()
            .map(|item| self.outbox_file(item.header.publication))
            .collect();
        let dir = self.outbox_dir.clone();
        off_the_runtime(move || clear_outbox(&dir, &files).map_err(Error::internal)).await
    }

    /// The next layer of a policy, by what is known here.
    ///
    /// # Errors
    /// `EPOCH_NOT_ACTIVE`, or those of the broker.
    pub(crate) async fn step(&self, policy: Policy, asked: bool) -> Result<Option<Step>> {
        let epoch = self.active_epoch().await?.manifest.epoch;
        let (layers, wanted) = self.published(policy).await?;
        Ok(next_step(epoch, &layers, &wanted, asked, self.clock.now()))
    }

    /// What is active of a policy as far as is known here, and what should be.
    pub(crate) async fn published(&self, policy: Policy) -> Result<(Vec<Layer>, Publishing)> {
        // In this order: a layer that is put meanwhile is of what was wanted before.
        let layers = self.store.layers(policy).await?;
        Ok((layers, self.store.publishing(policy).await?))
    }

    async fn run_publication(
        &self,
        key: &PublicationKey,
        reporter: &Reporter<PublishProgress>,
    ) -> Result<()> {
        let mut backoff = Backoff::default();
        let (mut rebuilds, mut asked) = (0, key.asked);
        loop {
            // Given up before a pause: what one policy waits for is not waited for by the others.
            let turn = self.publishing.acquire().await.map_err(Error::internal)?;
            reporter.update(|p| p.waiting_for.clear());
            let layer = self
                .next_layer(key.policy, asked, reporter, &mut backoff)
                .await;
            drop(turn);
            let error = match layer {
                Ok(None) => return Ok(()),
                Ok(Some(step)) => {
                    asked &= !matches!(step, Step::Base(_));
                    rebuilds = 0;
                    continue;
                }
                Err(error) => error,
            };
            match error.code {
                code if is_passing(&error) || code == ErrorCode::OffsetMismatch => {
                    tracing::info!(%error, policy = %key.policy, "publication interrupted");
                    reporter.update(|p| p.waiting_for = format!("the broker ({code})"));
                    tokio::time::sleep(backoff.pause(&mut os_rng())).await;
                }
                code if is_stale(code) && rebuilds < REBUILDS => {
                    tracing::info!(%error, policy = %key.policy, "building the filter anew");
                    self.discard(key.policy).await?;
                    rebuilds += 1;
                }
                code => {
                    // A fault of this node, or of its standing, is no fault of the filter.
                    if !is_of_the_caller(code) {
                        self.discard(key.policy).await?;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Publishes the next layer, if one is needed; tells which it was.
    async fn next_layer(
        &self,
        policy: Policy,
        asked: bool,
        reporter: &Reporter<PublishProgress>,
        backoff: &mut Backoff,
    ) -> Result<Option<Step>> {
        let epoch = self.active_epoch().await?;
        epoch.manifest.policy(policy)?;
        let last_version = self.reconcile(&epoch, policy).await?;
        let (layers, wanted) = self.published(policy).await?;
        let now = self.clock.now();
        let step = next_step(epoch.manifest.epoch, &layers, &wanted, asked, now);
        let Some(step) = step else {
            // With nothing to publish, nothing matches, as it should be.
            let nothing = PublishProgress {
                active: true,
                ..PublishProgress::default()
            };
            let told = layers.last().map_or(nothing, PublishProgress::of_layer);
            reporter.update(|p| *p = told);
            return Ok(None);
        };
        if let Step::Withdraw(publication) = step {
            self.withdraw_layer(publication).await?;
            return Ok(Some(step));
        }
        let plan = Plan {
            policy,
            epoch: &epoch,
            step,
            wanted: &wanted,
            layers: &layers,
            version: last_version + 1,
            labels: self.settings.publisher.labels.of(policy),
        };
        let item = self.outbox_item(&plan).await?;
        let params = item.header.params;
        reporter.update(|p| {
            *p = PublishProgress {
                selectors: item.selectors,
                total: params.byte_len(),
                version: item.header.version,
                class: params.class().get(),
                supplement: item.header.role != LayerRole::Base,
                ..PublishProgress::default()
            }
        });
        self.upload(&item, reporter, backoff).await?;
        self.note_layer(&item).await?;
        reporter.update(|p| {
            p.acknowledged = p.total;
            p.active = true;
        });
        let version = item.header.version;
        tracing::info!(%policy, version, ?step, "filter is active");
        Ok(Some(step))
    }

    /// What waits in the outbox, unless it is not the layer that is needed now.
    async fn outbox_item(&self, plan: &Plan<'_>) -> Result<OutboxItem> {
        if let Some(item) = self.store.outbox_item(plan.policy).await? {
            if plan.is_of(&item) && self.outbox_file(item.header.publication).exists() {
                return Ok(item);
            }
            self.discard(plan.policy).await?;
            self.withdraw(item.header.publication.as_bytes().to_vec())
                .await;
        }
        self.build_item(plan).await
    }

    /// Compares what is known here with what the broker has: layers that ended there are forgotten
    /// here, uploads that nobody goes on with are ended there. Tells the last accepted version,
    /// from which the next follows.
    async fn reconcile(&self, epoch: &EpochKeys, policy: Policy) -> Result<u64> {
        let request = v1::ListPublicationsRequest {
            community: self.community.to_string(),
            epoch: epoch.manifest.epoch.get(),
            policy: policy.name().to_owned(),
        };
        let answer = ask!(self.broker.publications(), list_publications, request).await?;
        let waiting = self.store.outbox_item(policy).await?;
        let is_waiting = |id: &[u8]| {
            let waiting = waiting.as_ref().map(|item| item.header.publication);
            waiting.is_some_and(|waiting| waiting.as_bytes()[..] == *id)
        };
        let mut active = BTreeSet::new();
        for publication in &answer.publications {
            let id = &publication.publication_id;
            match publication.state() {
                v1::PublicationState::Uploading if !is_waiting(id) => {
                    self.withdraw(id.to_vec()).await;
                }
                v1::PublicationState::Active => {
                    active.insert(id.to_vec());
                    // Activated, and the answer, or the note of it here, was lost.
                    if let Some(item) = waiting.as_ref().filter(|_| is_waiting(id)) {
                        self.note_layer(item).await?;
                    }
                }
                _ => {}
            }
        }
        let (stored, now) = (self.store.epochs().await?, self.clock.now());
        for layer in self.store.layers(policy).await? {
            let of_epoch = layer.epoch == epoch.manifest.epoch;
            let goes_on = |epoch: &StoredEpoch| {
                epoch.manifest.epoch == layer.epoch && epoch.manifest.covers(now)
            };
            if !stored.iter().any(goes_on) {
                self.store.delete_stack(layer.publication, now).await?;
            } else if of_epoch && !active.contains(&layer.publication.as_bytes()[..]) {
                tracing::warn!(%policy, version = layer.version, "a filter has ended at the broker");
                self.store.delete_stack(layer.publication, now).await?;
            }
        }
        let mut versions = answer.last_versions.iter();
        Ok(versions
            .find(|last| last.policy == policy.name())
            .map_or(0, |last| last.version))
    }

    /// Notes that what was uploaded is active. A base that comes when one is due, or is the first,
    /// is the one of its period: the next one is drawn with it.
    async fn note_layer(&self, item: &OutboxItem) -> Result<()> {
        let (policy, now) = (item.header.policy, self.clock.now());
        let due = self.store.publishing(policy).await?.next_base;
        let is_base = item.header.role == LayerRole::Base;
        let next = (is_base && due.is_none_or(|at| at <= now)).then(|| self.draw_next_base(due));
        self.store.put_layer(item, now, next).await?;
        self.remove_file(item.header.publication).await;
        Ok(())
    }

    /// Withdraws a base of the epoch before, and its supplements with it; one that has ended at the
    /// broker is done.
    async fn withdraw_layer(&self, publication: PublicationId) -> Result<()> {
        let request = v1::WithdrawPublicationRequest {
            community: self.community.to_string(),
            publication_id: publication.as_bytes().to_vec().into(),
        };
        let outcome = ask!(self.broker.publications(), withdraw_publication, request).await;
        match outcome.map_err(|error| (error.code, error)) {
            Ok(_) | Err((ErrorCode::PublicationState | ErrorCode::PublicationUnknown, _)) => {}
            Err((_, error)) => return Err(error),
        }
        self.store.delete_stack(publication, self.clock.now()).await
    }

    /// Ends an upload that nobody goes on with: the broker bounds how many may be open.
    async fn withdraw(&self, publication: Vec<u8>) {
        let request = v1::WithdrawPublicationRequest {
            community: self.community.to_string(),
            publication_id: publication.into(),
        };
        let outcome = ask!(self.broker.publications(), withdraw_publication, request).await;
        if let Err(error) = outcome {
            tracing::info!(%error, "an upload was left open at the broker");
        }
    }

    /// Who may match the filters of these policies from now on; none given = as before.
    ///
    /// # Errors
    /// `AUDIENCE_UNKNOWN` for a node that is no member of the epoch, and nothing is changed then;
    /// those of the store.
    pub(crate) async fn narrow(
        &self,
        policies: &[Policy],
        audience: &BTreeSet<NodeId>,
        everyone: bool,
    ) -> Result<()> {
        let manifest = self.active_epoch().await?.manifest;
        if audience.iter().any(|node| manifest.member(node).is_err()) {
            let text = "a node of the audience is no member of the epoch";
            return Err(Error::new(ErrorCode::AudienceUnknown, text));
        }
        if everyone || !audience.is_empty() {
            for &policy in policies {
                self.store.set_audience(policy, audience).await?;
            }
        }
        Ok(())
    }

    /// Forgets what waits in the outbox for a policy: it is no longer wanted.
    async fn discard(&self, policy: Policy) -> Result<()> {
        if let Some(item) = self.store.outbox_item(policy).await? {
            let publication = item.header.publication;
            self.store.delete_outbox_item(publication).await?;
            self.remove_file(publication).await;
        }
        Ok(())
    }

    /// What cannot be removed now is at the next start.
    async fn remove_file(&self, publication: PublicationId) {
        if let Err(error) = tokio::fs::remove_file(self.outbox_file(publication)).await {
            tracing::warn!(%error, "a file of the outbox was left");
        }
    }

    pub(super) fn outbox_file(&self, publication: PublicationId) -> PathBuf {
        self.outbox_dir.join(format!("{publication}.filter"))
    }
}

/// A job of publishing, as those see it who follow it.
pub(crate) type PublicationJob = watch::Receiver<JobState<PublishProgress>>;

/// Refusals that another salt, version or id can cure.
const fn is_stale(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::VersionNotNext
            | ErrorCode::SaltReused
            | ErrorCode::PublicationState
            | ErrorCode::PublicationUnknown
            | ErrorCode::FilterDigest
            // The base has ended under its supplement.
            | ErrorCode::LayerInvalid
    )
}

/// Removes the files that no row of the outbox names: a crash came between the two.
fn clear_outbox(dir: &std::path::Path, keep: &BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if !keep.contains(&path) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_no_row_names_are_cleared() {
        let dir = tempfile::tempdir().expect("a directory");
        let (kept, orphan) = (dir.path().join("a.filter"), dir.path().join("b.filter"));
        for path in [&kept, &orphan] {
            std::fs::write(path, b"x").expect("written");
        }
        clear_outbox(dir.path(), &BTreeSet::from([kept.clone()])).expect("cleared");
        assert!(kept.exists() && !orphan.exists());
    }
}
