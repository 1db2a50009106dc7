//! Objects that the ledger does not need any more.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures::TryStreamExt as _;
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::followup::FollowUpState;
use sotto_common::ids::{FollowUpId, PublicationId};
use sotto_common::publication::PublicationState;

use super::Broker;
use crate::objects::{ObjectKey, ObjectOwner};

/// How long a call waits for the store to delete what it has ended.
const DELETION: Duration = Duration::from_secs(5);

/// What the ledger says of one owner of objects.
enum Needs {
    /// It does not know the owner: another ledger's, or a newer one's than a backup that was
    /// restored.
    Unknown,
    /// Another call may be about to acknowledge an object.
    Uploading,
    /// Exactly these.
    These(HashSet<ObjectKey>),
}

impl Broker {
    /// Deletes objects that nothing needs any more. A store that is away keeps no caller waiting.
    pub(super) async fn delete_unneeded(&self, objects: Vec<ObjectKey>) {
        if objects.is_empty() {
            return;
        }
        let deleted = self.objects.delete_all(objects);
        let deleted = tokio::time::timeout(DELETION, deleted).await;
        if let Err(error) = deleted.map_err(Error::unavailable).flatten() {
            tracing::warn!(%error, "objects that nothing needs are still stored; deleted later");
        }
    }

    /// Deletes the objects that the ledger does not need any more: what a crash, or a store that was
    /// away, has left behind. Returns how many.
    ///
    /// # Errors
    /// If the store or the ledger cannot be read.
    pub(crate) async fn sweep_objects(&self) -> Result<usize> {
        // Listed first: an object is put after its owner is in the ledger.
        let listed: Vec<_> = self.objects.list().try_collect().await?;
        let owners: BTreeSet<_> = listed.iter().map(ObjectKey::owner).collect();
        let mut needs = HashMap::new();
        for owner in owners {
            let needed = match owner {
                ObjectOwner::Publication(id) => self.needs_of_publication(id).await?,
                ObjectOwner::FollowUp(id) => self.needs_of_follow_up(id).await?,
            };
            needs.insert(owner, needed);
        }
        let is_garbage = |key: &ObjectKey| match needs.get(&key.owner()) {
            Some(Needs::These(needed)) => !needed.contains(key),
            None | Some(Needs::Unknown | Needs::Uploading) => false,
        };
        let (garbage, kept): (Vec<_>, Vec<_>) = listed.into_iter().partition(is_garbage);
        let is_foreign = |key: &&ObjectKey| matches!(needs.get(&key.owner()), Some(Needs::Unknown));
        let foreign = kept.iter().filter(is_foreign).count();
        if foreign > 0 {
            tracing::warn!(foreign, "objects that this ledger does not know stay");
        }
        let swept = garbage.len();
        self.objects.delete_all(garbage).await?;
        Ok(swept)
    }

    async fn needs_of_publication(&self, id: PublicationId) -> Result<Needs> {
        self.store
            .read_tx("sweep_publication", |tx| {
                async move {
                    let known = tx.get_publication(id).await?;
                    Ok(match known {
                        None => Needs::Unknown,
                        Some(record) if record.state == PublicationState::Uploading => {
                            Needs::Uploading
                        }
                        Some(record) => Needs::These(record.object.into_iter().collect()),
                    })
                }
                .scope_boxed()
            })
            .await
    }

    async fn needs_of_follow_up(&self, id: FollowUpId) -> Result<Needs> {
        self.store
            .read_tx("sweep_follow_up", |tx| {
                async move {
                    let Some(record) = tx.get_follow_up(id).await? else {
                        return Ok(Needs::Unknown);
                    };
                    // Files are taken in this state alone.
                    if record.follow_up.state == FollowUpState::Accepted {
                        return Ok(Needs::Uploading);
                    }
                    let mut needed = HashSet::new();
                    for file in tx.get_attachments(id).await? {
                        let chunks = tx.get_attachment_chunks(id, file.id).await?;
                        needed.extend(chunks.into_iter().map(|chunk| chunk.object));
                    }
                    Ok(Needs::These(needed))
                }
                .scope_boxed()
            })
            .await
    }
}
