//! Whom a node can probe, as it stands and as it changes (protocol §5.4).
//!
//! The state is the matcher's own: what probes are tested against. A change is told once every
//! broker on the ledger matches accordingly.

use std::collections::BTreeMap;
use std::time::Duration;

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{ErrorCode, Result};
use sotto_common::ids::{CommunityId, Epoch, NodeId};
use sotto_common::time::Timestamp;

use super::{Broker, enrolled, known_epoch, manifest_of};
use crate::datastore::Signal;
use crate::matcher::{LayersName, Reach, StackId};

/// What could not be told is tried again after this time at the latest.
const AGAIN: Duration = Duration::from_secs(2);

/// One node's view of the catalogue: what it has been told.
pub(crate) struct CatalogueWatch {
    caller: NodeId,
    community: CommunityId,
    begun: bool,
    told: BTreeMap<StackId, LayersName>,
    /// Of which epochs the caller is a member; a manifest never changes.
    member_of: BTreeMap<Epoch, bool>,
}

/// A stack is not what was told of it.
pub(crate) struct CatalogueChange {
    pub(crate) stack: StackId,
    /// The layers that admit the caller; none = there are none any more.
    pub(crate) layers: Option<LayersName>,
}

/// What a look has found.
struct Look {
    changes: Vec<CatalogueChange>,
    /// When the next layer expires.
    until: Option<Timestamp>,
}

impl CatalogueWatch {
    /// Whether the catalogue as it stood at the beginning was told.
    pub(crate) const fn has_begun(&self) -> bool {
        self.begun
    }

    /// What `reach` says otherwise than was told, in the order of the stacks.
    fn differences(&self, reach: &Reach) -> Vec<CatalogueChange> {
        let member = |stack: &StackId| self.member_of.get(&stack.0) == Some(&true);
        let now = reach.stacks.iter().filter(|(stack, _)| member(stack));
        let changed = now
            .filter(|(stack, layers)| self.told.get(stack) != Some(layers))
            .map(|(stack, layers)| (stack, Some(*layers)));
        let gone = self.told.keys();
        let gone = gone.filter(|stack| !reach.stacks.contains_key(stack));
        changed
            .chain(gone.map(|stack| (stack, None)))
            .map(|(stack, layers)| CatalogueChange {
                stack: stack.clone(),
                layers,
            })
            .collect()
    }

    fn note(&mut self, changes: &[CatalogueChange]) {
        self.begun = true;
        for change in changes {
            match change.layers {
                Some(layers) => self.told.insert(change.stack.clone(), layers),
                None => self.told.remove(&change.stack),
            };
        }
    }
}

impl Broker {
    /// Begins a watch of the catalogue for a node.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`.
    pub(crate) async fn watch_catalogue(
        &self,
        caller: NodeId,
        community: CommunityId,
    ) -> Result<CatalogueWatch> {
        let mut watch = CatalogueWatch {
            caller,
            community,
            begun: false,
            told: BTreeMap::new(),
            member_of: BTreeMap::new(),
        };
        self.learn_memberships(&mut watch, &[]).await?;
        Ok(watch)
    }

    /// The next changes: first everything, were it nothing at all, then whatever is not as it was
    /// told. Waits until there is something to tell, however long; a ledger or a broker that is
    /// away is waited for too.
    ///
    /// # Errors
    /// `NOT_A_MEMBER` once the node may not speak in the community any more.
    pub(crate) async fn catalogue_changes(
        &self,
        watch: &mut CatalogueWatch,
    ) -> Result<Vec<CatalogueChange>> {
        let mut signal = self.filter_signal();
        loop {
            // Marked as seen before the filters are looked at: what changes later wakes us again.
            signal.mark_unchanged();
            match self.look(watch).await {
                Ok(Look { changes, until }) => {
                    if !watch.begun || !changes.is_empty() {
                        watch.note(&changes);
                        return Ok(changes);
                    }
                    tokio::select! {
                        // The sender is this broker's own: it is there as long as we are.
                        _ = signal.changed() => {}
                        () = self.wait_until(until) => {}
                    }
                }
                Err(error) if error.code == ErrorCode::Unavailable => {
                    tracing::warn!(%error, "the catalogue is not told yet; again");
                    let _ = tokio::time::timeout(AGAIN, signal.changed()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What is to be told now, and matches at every broker.
    async fn look(&self, watch: &mut CatalogueWatch) -> Result<Look> {
        let reach = self
            .matcher
            .reach(&watch.community, &watch.caller, self.now());
        let mut epochs: Vec<_> = reach.stacks.keys().map(|(epoch, ..)| *epoch).collect();
        epochs.dedup();
        epochs.retain(|epoch| !watch.member_of.contains_key(epoch));
        self.learn_memberships(watch, &epochs).await?;
        let changes = watch.differences(&reach);
        if !changes.is_empty() {
            self.until_seen_everywhere(reach.generation).await?;
        }
        let until = reach.until;
        Ok(Look { changes, until })
    }

    /// Asks the ledger whether the node may speak, and whether it is a member of these epochs.
    async fn learn_memberships(&self, watch: &mut CatalogueWatch, epochs: &[Epoch]) -> Result<()> {
        let (caller, community) = (&watch.caller, &watch.community);
        let learnt = self
            .store
            .read_tx("catalogue", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    let mut learnt = Vec::new();
                    for &epoch in epochs {
                        let manifest = manifest_of(&known_epoch(tx, community, epoch).await?)?;
                        learnt.push((epoch, manifest.member(caller).is_ok()));
                    }
                    Ok(learnt)
                }
                .scope_boxed()
            })
            .await?;
        watch.member_of.extend(learnt);
        Ok(())
    }

    async fn wait_until(&self, at: Option<Timestamp>) {
        match at {
            Some(at) => self.clock.wait_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Has the open catalogues looked at again, here and at the other brokers.
    pub(super) fn announce_filters(&self) {
        self.store.wakeups().announce(Signal::Filters);
    }
}
