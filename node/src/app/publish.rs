//! Publishing: one base filter a policy, built here, uploaded until it is active (protocol §6).

use std::collections::BTreeSet;
use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::filter::{Class, Filter, build};
use sotto_common::ids::{NodeId, PublicationId};
use sotto_common::publication::{FilterHeader, LayerRole, MAX_CHUNK, PublicationState};
use sotto_common::random::os_rng;
use sotto_common::selector::Policy;
use sotto_common::service::files::{self, Readers};
use sotto_proto::convert::sign;
use sotto_proto::v1;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::watch;

use super::epochs::EpochKeys;
use super::jobs::{JobState, Reporter};
use super::{App, is_of_the_caller, off_the_runtime};
use crate::broker::{Backoff, LONG_CALL_TIMEOUT, ask, call_once, is_passing, refusal};
use crate::store::{OutboxItem, SelectorId};

/// How long the broker may take to acknowledge a chunk.
const CHUNK_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a filter that the broker found stale is built anew.
const REBUILDS: u32 = 3;

/// What makes two publications the same one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PublicationKey {
    /// The policy.
    pub(crate) policy: Policy,
    /// Members that may match; empty = all.
    pub(crate) audience: BTreeSet<NodeId>,
}

/// How far a publication is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PublishProgress {
    /// Distinct selectors in the filter.
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
    /// What it waits for, if it waits.
    pub(crate) waiting_for: String,
}

type Publication = (Policy, watch::Receiver<JobState<PublishProgress>>);

impl App {
    /// Publishes one policy, or each that has selectors and is in the epoch's profile.
    ///
    /// # Errors
    /// `POLICY_UNKNOWN`, `EPOCH_NOT_ACTIVE`, or those of the broker.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        policy: Option<Policy>,
        audience: BTreeSet<NodeId>,
    ) -> Result<Vec<Publication>> {
        let epoch = self.active_epoch().await?;
        let policies = if let Some(policy) = policy {
            epoch.manifest.policy(policy)?;
            vec![policy]
        } else {
            let in_use = self.store.policies_in_use().await?.into_iter();
            in_use
                .map(|(policy, _)| policy)
                .filter(|&policy| epoch.manifest.policy(policy).is_ok())
                .collect()
        };
        let start = |policy| {
            let audience = audience.clone();
            (
                policy,
                self.start_publication(PublicationKey { policy, audience }),
            )
        };
        Ok(policies.into_iter().map(start).collect())
    }

    fn start_publication(
        self: &Arc<Self>,
        key: PublicationKey,
    ) -> watch::Receiver<JobState<PublishProgress>> {
        let app = Arc::clone(self);
        self.publications
            .join_or_start(key, |key, reporter| async move {
                app.run_publication(&key, &reporter).await
            })
    }

    /// Goes on with what a restart interrupted, and clears what nobody waits for.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn resume_publications(self: &Arc<Self>) -> Result<()> {
        let waiting = self.store.outbox().await?;
        let files: BTreeSet<PathBuf> = waiting
            .iter()
            .map(|item| self.outbox_file(item.header.publication))
            .collect();
        let dir = self.outbox_dir.clone();
        off_the_runtime(move || clear_outbox(&dir, &files).map_err(Error::internal)).await?;
        for item in waiting {
            self.start_publication(PublicationKey {
                policy: item.header.policy,
                audience: item.header.audience,
            });
        }
        Ok(())
    }

    async fn run_publication(
        &self,
        key: &PublicationKey,
        reporter: &Reporter<PublishProgress>,
    ) -> Result<()> {
        reporter.update(|p| "the publication before it".clone_into(&mut p.waiting_for));
        let _turn = self.publishing.acquire().await.map_err(Error::internal)?;
        let mut backoff = Backoff::default();
        let mut rebuilds = 0;
        loop {
            reporter.update(|p| p.waiting_for.clear());
            let error = match self.try_publication(key, reporter, &mut backoff).await {
                Ok(()) => return Ok(()),
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

    async fn try_publication(
        &self,
        key: &PublicationKey,
        reporter: &Reporter<PublishProgress>,
        backoff: &mut Backoff,
    ) -> Result<()> {
        let item = self.outbox_item(key).await?;
        let params = item.header.params;
        reporter.update(|p| {
            p.selectors = item.selectors;
            p.total = params.byte_len();
            p.version = item.header.version;
            p.class = params.class().get();
        });
        self.upload(&item, reporter, backoff).await?;
        self.discard(key.policy).await?;
        reporter.update(|p| {
            p.acknowledged = p.total;
            p.active = true;
        });
        tracing::info!(policy = %key.policy, version = item.header.version, "filter is active");
        Ok(())
    }

    /// The filter to upload: the one that waits, unless the epoch, the audience or the selectors
    /// have changed since it was built.
    async fn outbox_item(&self, key: &PublicationKey) -> Result<OutboxItem> {
        let epoch = self.active_epoch().await?;
        let in_use = self.store.policies_in_use().await?;
        let last = in_use.iter().find(|(policy, _)| *policy == key.policy);
        let last = last.map_or(0, |(_, last)| *last);
        if let Some(item) = self.store.outbox_item(key.policy).await? {
            if item.header.epoch == epoch.manifest.epoch
                && item.header.kid == epoch.manifest.kid()
                && item.header.audience == key.audience
                && item.last_selector == last
                && self.outbox_file(item.header.publication).exists()
            {
                return Ok(item);
            }
            self.discard(key.policy).await?;
        }
        self.build_item(key, epoch, last).await
    }

    /// Builds a filter of all canonical values and canaries of a policy; it and its header are
    /// durable when this returns.
    async fn build_item(
        &self,
        key: &PublicationKey,
        epoch: EpochKeys,
        last: SelectorId,
    ) -> Result<OutboxItem> {
        let policy = key.policy;
        let max_class = self.max_class(policy).await?;
        let version = self.last_version(&epoch, policy).await? + 1;
        let values = self.store.canonical_values(policy, last).await?;
        let k = epoch.manifest.profile.policy(policy)?.k;
        let canaries = epoch.manifest.policy(policy)?.canary_tags.clone();
        let tag_key = epoch.schedule.tag_key(policy);
        let policies = Arc::clone(&self.policies);
        let node = self.node.clone();
        let (selectors, filter) = off_the_runtime(move || {
            let mut tags: Vec<_> = values
                .par_iter()
                // selectors.md: the stop-list is asked at publication too.
                .filter(|value| policies.still_admits(policy, value))
                .map(|value| tag_key.tag(value))
                .collect();
            let selectors = tags.len() as u64;
            tags.extend(canaries);
            tags.sort_unstable();
            tags.dedup();
            let class = class_for(tags.len() as u64, max_class, policy, &node)?;
            let filter = build(tags, class, k, &mut os_rng()).map_err(Error::internal)?;
            Ok((selectors, filter))
        })
        .await?;
        let header = self.header(key, &epoch, version, &filter);
        let item = OutboxItem {
            envelope: sign(header.clone(), self.keystore.signing()),
            header,
            selectors,
            last_selector: last,
        };
        let file = self.outbox_file(item.header.publication);
        off_the_runtime(move || {
            files::write(&file, filter.bits(), Readers::Owner, &mut os_rng())
                .map_err(Error::internal)
        })
        .await?;
        self.store.put_outbox_item(&item).await?;
        Ok(item)
    }

    fn header(
        &self,
        key: &PublicationKey,
        epoch: &EpochKeys,
        version: u64,
        filter: &Filter,
    ) -> FilterHeader {
        let now = self.clock.now();
        FilterHeader {
            holder: self.node.clone(),
            publication: PublicationId::generate(now, &mut os_rng()),
            community: self.community.clone(),
            epoch: epoch.manifest.epoch,
            policy: key.policy,
            forms: self.policies.forms(key.policy),
            kid: epoch.manifest.kid(),
            params: filter.params(),
            salt: filter.salt().clone(),
            role: LayerRole::Base,
            version,
            digest: filter.digest(),
            audience: key.audience.clone(),
            created_at: now,
            expires_at: epoch.manifest.not_after,
        }
    }

    async fn max_class(&self, policy: Policy) -> Result<Class> {
        let limits = self.limits().await?;
        let limit = limits.iter().find(|limit| limit.policy == policy.name());
        let number = limit.and_then(|limit| u8::try_from(limit.max_class).ok());
        Ok(number
            .and_then(|n| Class::new(n).ok())
            .unwrap_or(Class::MAX))
    }

    /// The last accepted version, from which the next follows. Uploads of the policy that are open
    /// at the broker are no longer in the outbox when this is asked: they are ended.
    async fn last_version(&self, epoch: &EpochKeys, policy: Policy) -> Result<u64> {
        let request = v1::ListPublicationsRequest {
            community: self.community.to_string(),
            epoch: epoch.manifest.epoch.get(),
            policy: policy.name().to_owned(),
        };
        let answer = ask!(self.broker.publications(), list_publications, request).await?;
        for left in &answer.publications {
            if left.state() == v1::PublicationState::Uploading {
                self.withdraw(left.publication_id.to_vec()).await;
            }
        }
        let mut versions = answer.last_versions.iter();
        Ok(versions
            .find(|last| last.policy == policy.name())
            .map_or(0, |last| last.version))
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

    /// Announces, uploads from where the broker is, and activates.
    async fn upload(
        &self,
        item: &OutboxItem,
        reporter: &Reporter<PublishProgress>,
        backoff: &mut Backoff,
    ) -> Result<()> {
        let total = item.header.params.byte_len();
        let request = v1::CreatePublicationRequest {
            community: self.community.to_string(),
            header: Some(item.envelope.clone()),
        };
        let answer = ask!(self.broker.publications(), create_publication, request).await?;
        match answer.state().domain() {
            Some(PublicationState::Uploading) => {}
            Some(PublicationState::Active) => return Ok(()),
            _ => {
                return Err(Error::new(
                    ErrorCode::PublicationState,
                    "the publication has ended at the broker",
                ));
            }
        }
        reporter.update(|p| p.acknowledged = answer.acknowledged);
        if answer.acknowledged < total {
            self.upload_from(item, answer.acknowledged, reporter, backoff)
                .await?;
        }
        let request = v1::ActivatePublicationRequest {
            community: self.community.to_string(),
            publication_id: item.header.publication.as_bytes().to_vec().into(),
        };
        let mut client = self.broker.publications();
        call_once(request, LONG_CALL_TIMEOUT, |request| async move {
            client.activate_publication(request).await
        })
        .await
        .map(drop)
    }

    async fn upload_from(
        &self,
        item: &OutboxItem,
        offset: u64,
        reporter: &Reporter<PublishProgress>,
        backoff: &mut Backoff,
    ) -> Result<()> {
        let path = self.outbox_file(item.header.publication);
        let mut file = File::open(path).await.map_err(Error::internal)?;
        file.seek(SeekFrom::Start(offset))
            .await
            .map_err(Error::internal)?;
        let first = v1::UploadPublicationRequest {
            community: self.community.to_string(),
            publication_id: item.header.publication.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let total = item.header.params.byte_len();
        let mut answers = self
            .broker
            .publications()
            .upload_publication(chunks(file, offset, total, first))
            .await
            .map_err(|status| refusal(&status))?
            .into_inner();
        let mut acknowledged = offset;
        while acknowledged < total {
            let answer = tokio::time::timeout(CHUNK_TIMEOUT, answers.message())
                .await
                .map_err(Error::unavailable)?
                .map_err(|status| refusal(&status))?
                .ok_or_else(|| Error::unavailable("the upload ended early"))?;
            acknowledged = answer.acknowledged;
            backoff.reset();
            reporter.update(|p| p.acknowledged = acknowledged);
        }
        Ok(())
    }

    /// Forgets what waits in the outbox for a policy: it is active, or no longer wanted.
    async fn discard(&self, policy: Policy) -> Result<()> {
        let Some(item) = self.store.outbox_item(policy).await? else {
            return Ok(());
        };
        let publication = item.header.publication;
        self.store.delete_outbox_item(publication).await?;
        // What cannot be removed now is at the next start.
        if let Err(error) = tokio::fs::remove_file(self.outbox_file(publication)).await {
            tracing::warn!(%error, "a file of the outbox was left");
        }
        Ok(())
    }

    fn outbox_file(&self, publication: PublicationId) -> PathBuf {
        self.outbox_dir.join(format!("{publication}.filter"))
    }
}

/// The chunks of a filter from an offset on; the first says which publication they are of.
fn chunks(
    file: File,
    offset: u64,
    total: u64,
    first: v1::UploadPublicationRequest,
) -> impl Stream<Item = v1::UploadPublicationRequest> + Send + 'static {
    let next = move |(mut file, offset, head): (File, u64, v1::UploadPublicationRequest)| async move {
        let left = usize::try_from(total.saturating_sub(offset)).unwrap_or(MAX_CHUNK);
        let mut data = vec![0; left.min(MAX_CHUNK)];
        if data.is_empty() {
            return None;
        }
        // A file that cannot be read ends the stream early: the upload is then tried again.
        file.read_exact(&mut data).await.ok()?;
        let after = offset + data.len() as u64;
        let chunk = v1::UploadPublicationRequest {
            offset,
            data: data.into(),
            ..head
        };
        Some((
            chunk,
            (file, after, v1::UploadPublicationRequest::default()),
        ))
    };
    futures::stream::unfold((file, offset, first), next).boxed()
}

/// protocol §5.2: the smallest class that holds all tags, if the operator allows it.
fn class_for(tags: u64, max: Class, policy: Policy, node: &NodeId) -> Result<Class> {
    let refuse = |needed: &str| {
        let text = format!(
            "{tags} values of {policy} need class {needed}, and the operator allows {node} at \
             most class {max}: ask the operator to raise max_class of {node} for {policy}"
        );
        Err(Error::new(ErrorCode::FilterClass, text).about(policy.name()))
    };
    match Class::smallest_for(tags) {
        Some(class) if class <= max => Ok(class),
        Some(class) => refuse(&class.to_string()),
        None => refuse("above 60"),
    }
}

/// Refusals that another salt, version or id can cure.
const fn is_stale(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::VersionNotNext
            | ErrorCode::SaltReused
            | ErrorCode::PublicationState
            | ErrorCode::PublicationUnknown
            | ErrorCode::FilterDigest
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

    fn class(number: u8) -> Class {
        Class::new(number).expect("a class")
    }

    #[test]
    fn the_smallest_class_is_taken_and_one_too_large_says_what_to_ask_for() {
        let node = "nl-fiu".parse().expect("a node");
        let policy = Policy::Phone;
        let taken = class_for(1000, class(12), policy, &node).expect("allowed");
        assert_eq!(taken, class(0));
        let error = class_for(1251, class(1), policy, &node).expect_err("too large");
        assert_eq!(error.code, ErrorCode::FilterClass);
        for said in ["class 2", "class 1", "nl-fiu", "phone/1", "max_class"] {
            assert!(error.text.contains(said), "{}", error.text);
        }
    }

    #[tokio::test]
    async fn chunks_begin_at_the_offset_and_only_the_first_names_the_publication() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("filter");
        let bits: Vec<u8> = (0..=u8::MAX).cycle().take(MAX_CHUNK * 2 + 5).collect();
        std::fs::write(&path, &bits).expect("written");
        let mut file = File::open(&path).await.expect("opened");
        file.seek(SeekFrom::Start(3)).await.expect("there");
        let first = v1::UploadPublicationRequest {
            community: "c".into(),
            ..Default::default()
        };
        let sent: Vec<_> = chunks(file, 3, bits.len() as u64, first).collect().await;
        let shape: Vec<_> = sent
            .iter()
            .map(|chunk| (chunk.community.as_str(), chunk.offset, chunk.data.len()))
            .collect();
        let mib = MAX_CHUNK as u64;
        assert_eq!(
            shape,
            [
                ("c", 3, MAX_CHUNK),
                ("", 3 + mib, MAX_CHUNK),
                ("", 3 + 2 * mib, 2)
            ]
        );
        let data: Vec<u8> = sent.iter().flat_map(|chunk| chunk.data.to_vec()).collect();
        assert_eq!(data, bits[3..]);
    }

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
