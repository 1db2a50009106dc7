//! Use cases of a node, free of transport; the clock is injected.

pub(crate) mod access;
pub(crate) mod catalogue;
pub(crate) mod check;
pub(crate) mod datasets;
pub(crate) mod epochs;
pub(crate) mod follow_ups;
pub(crate) mod import;
pub(crate) mod inbox;
pub(crate) mod jobs;
pub(crate) mod keeper;
pub(crate) mod members;
pub(crate) mod policies;
pub(crate) mod probe;
pub(crate) mod prober;
pub(crate) mod publish;
pub(crate) mod publisher;
pub(crate) mod receipts;
pub(crate) mod review;
pub(crate) mod seals;
pub(crate) mod session;
pub(crate) mod sources;
pub(crate) mod status;
pub(crate) mod verifier;
pub(crate) mod witness;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex};

use futures::future::BoxFuture;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, Epoch, NodeId};
use sotto_common::membership::Manifest;
use sotto_common::selector::Policy;
use sotto_common::time::Clock;
use sotto_proto::convert::text;
use sotto_proto::v1;
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::{Broker, ask};
use crate::config::Settings;
use crate::keystore::Keystore;
use crate::store::{ProbeKey, Store};
use catalogue::Catalogue;
use follow_ups::attachments::Unfinished;
use jobs::Jobs;
use policies::Policies;
use probe::ProbeProgress;
use prober::Waiting;
use publish::{PublicationKey, PublishProgress};
use publisher::Setbacks;
use sources::Sources;
use witness::FollowedLog;

/// What the use cases work on.
pub(crate) struct App {
    pub(crate) node: NodeId,
    pub(crate) community: CommunityId,
    pub(crate) custodians: Vec<NodeId>,
    pub(crate) outbox_dir: PathBuf,
    /// Where sealed files wait for the broker, or to be opened.
    pub(crate) attachments_dir: PathBuf,
    /// Files that broke off on their way to this node.
    pub(crate) unfinished: Unfinished,
    pub(crate) store: Store,
    pub(crate) keystore: Keystore,
    pub(crate) broker: Broker,
    pub(crate) policies: Arc<Policies>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
    /// The datasets that are filled from databases of the unit.
    pub(crate) sources: Sources,
    /// Epochs are opened and taken one at a time: a key and its manifest are two files.
    pub(crate) epoch_turn: Mutex<()>,
    /// Told when the broker's stream of hits is open anew.
    pub(crate) reconnected: Notify,
    /// Cursor of the last change of a hit.
    pub(crate) hit_cursor: watch::Sender<u64>,
    /// Told when a person has decided about a hit.
    pub(crate) decided: Notify,
    /// Cursor of the last event of a follow-up.
    pub(crate) follow_up_cursor: watch::Sender<u64>,
    /// Told when there may be something to send of a follow-up.
    pub(crate) follow_ups_moved: Notify,
    /// Told when selectors or datasets have changed: there may be something to publish or to probe.
    pub(crate) data: watch::Sender<()>,
    /// Who has published what, as the broker told it last.
    pub(crate) catalogue: watch::Sender<Catalogue>,
    /// Counts the connections to the broker's catalogue.
    pub(crate) online: watch::Sender<u64>,
    /// The latest active epoch whose key this node has.
    pub(crate) epoch: watch::Sender<Option<Epoch>>,
    /// Told when a person has moved an epoch.
    pub(crate) epochs_moved: Notify,
    pub(crate) epoch_problem: StdMutex<Option<String>>,
    pub(crate) setbacks: StdMutex<Setbacks>,
    pub(crate) probing: StdMutex<Waiting>,
    /// Record refs of a day, as the broker told it last.
    pub(crate) quotas: StdMutex<BTreeMap<Policy, u64>>,
    /// The audit log that this node follows; `None` if it was given no key of one.
    pub(crate) log: Option<FollowedLog>,
    pub(crate) publications: Jobs<PublicationKey, PublishProgress>,
    /// Filters are built and uploaded one at a time: each is held in memory once.
    pub(crate) publishing: Semaphore,
    pub(crate) probes: Jobs<ProbeKey, ProbeProgress>,
}

/// What goes on for as long as the node runs.
const SERVICE: [fn(Arc<App>) -> BoxFuture<'static, ()>; 15] = [
    members::keep_stating,
    inbox::keep_watching,
    catalogue::keep_watching,
    follow_ups::keep_watching,
    follow_ups::keep_sending,
    follow_ups::keep_erasing,
    keeper::keep_epochs,
    publisher::keep_expiring,
    publisher::keep_publishing,
    prober::keep_probing,
    review::keep_sending,
    seals::keep_renewed,
    sources::keep_filling,
    witness::keep_witnessing,
    witness::keep_erasing,
];

impl App {
    /// Begins what goes on by itself: statements, the inbox, and what a restart interrupted.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn start(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<()> {
        self.store.drop_imports(None).await?;
        self.hit_cursor.send_replace(self.store.hit_cursor().await?);
        let told = self.store.last_follow_up_event().await?;
        self.follow_up_cursor.send_replace(told);
        self.clear_outbox().await?;
        self.clear_attachments().await?;
        self.resume_probes().await?;
        for task in SERVICE {
            let work = task(Arc::clone(self));
            tasks.spawn(stop.clone().run_until_cancelled_owned(work));
        }
        Ok(())
    }

    /// Tells those who watch that hits have changed.
    pub(crate) fn hits_changed(&self, cursor: u64) {
        self.hit_cursor.send_if_modified(|last| {
            let later = cursor > *last;
            *last = (*last).max(cursor);
            later
        });
    }

    /// Wakes those who publish and probe: selectors or datasets have changed.
    pub(crate) fn data_changed(&self) {
        self.data.send_replace(());
    }

    /// Asks the broker whether it is there, and what it allows this node.
    ///
    /// # Errors
    /// Those of the broker.
    pub(crate) async fn limits(&self) -> Result<Vec<v1::PolicyLimits>> {
        let request = v1::GetLimitsRequest {
            community: self.community.to_string(),
            node_id: String::new(),
        };
        let answer = ask!(self.broker.membership(), get_limits, request);
        Ok(answer.await?.limits)
    }
}

/// Whether an error says something of this node, not of what it sent: it may be mended, and what
/// was sent goes on then.
pub(crate) const fn is_of_the_caller(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Internal
            | ErrorCode::IdentityMissing
            | ErrorCode::CertificateRevoked
            | ErrorCode::NotAMember
            | ErrorCode::RoleForbidden
            | ErrorCode::LimitReached
    )
}

/// Runs work that keeps a processor busy where it holds up nobody.
///
/// # Errors
/// What `work` returns, or `INTERNAL` if it panicked.
pub(crate) async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::internal)?
}

/// Parses node ids, e.g. of an audience; sorted, and each once.
///
/// # Errors
/// `INVALID_FIELD`, naming the field.
pub(crate) fn node_ids(field: &'static str, nodes: &[String]) -> Result<Vec<NodeId>> {
    let mut nodes = nodes
        .iter()
        .map(|node| text(field, node))
        .collect::<Result<Vec<NodeId>>>()?;
    nodes.sort_unstable();
    nodes.dedup();
    Ok(nodes)
}

/// Refuses targets that cannot answer under an epoch: those who are no members of it, and the
/// node itself.
///
/// # Errors
/// `AUDIENCE_UNKNOWN`.
pub(crate) fn check_targets(own: &NodeId, manifest: &Manifest, targets: &[NodeId]) -> Result<()> {
    let answers = |target: &NodeId| target != own && manifest.member(target).is_ok();
    if targets.iter().all(answers) {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::AudienceUnknown,
        "a target is no member of the epoch, or is this node itself",
    ))
}

/// Parses a policy; empty = none.
///
/// # Errors
/// `INVALID_FIELD`.
pub(crate) fn optional_policy(name: &str) -> Result<Option<Policy>> {
    (!name.is_empty()).then(|| text("policy", name)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn targets_are_other_members_of_the_epoch() {
        let (_, manifest) = testing::manifest(1);
        let node = |text: &str| -> NodeId { text.parse().expect("a node") };
        let check = |own: &str, targets: &[NodeId]| check_targets(&node(own), &manifest, targets);
        assert!(check("nl-fiu", &[]).is_ok());
        assert!(check("de-bka", &[node("nl-fiu")]).is_ok());
        for (own, target) in [("nl-fiu", "nl-fiu"), ("nl-fiu", "fr-pj")] {
            let error = check(own, &[node(target)]).expect_err("refused");
            assert_eq!(error.code, ErrorCode::AudienceUnknown);
            assert!(!error.to_string().contains(target));
        }
    }
}
