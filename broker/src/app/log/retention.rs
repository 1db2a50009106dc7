//! Openings are erased after the community's retention time; the tree stays valid (workflow.md "Audit").

use std::time::Duration;

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::Result;
use sotto_common::ids::CommunityId;
use sotto_common::log::action::Action;

use crate::app::membership::proposed_profile;
use crate::app::{Broker, journal, manifest_of};
use crate::datastore::Tx;

/// Openings that are erased in one transaction.
const STEP: u32 = 500;

impl Broker {
    /// Erases the openings that are older than their community's retention time; returns how many.
    ///
    /// # Errors
    /// The first fault; those of other communities are erased all the same.
    pub(crate) async fn erase_openings(&self) -> Result<u64> {
        let communities = self
            .store
            .read_tx("get_communities", |tx| {
                async move { tx.get_communities().await }.scope_boxed()
            })
            .await?;
        let mut outcome = Ok(0);
        for community in &communities {
            let erased = self.erase_openings_of(community).await;
            outcome = outcome.and_then(|before| erased.map(|erased| before + erased));
        }
        outcome
    }

    async fn erase_openings_of(&self, community: &CommunityId) -> Result<u64> {
        let begun = self.now();
        let mut erased = 0;
        loop {
            // Anew in each step: entries do not go back in time, however long it takes.
            let now = self.now();
            let step = self
                .store
                .run_tx("erase_openings", |tx| {
                    async move {
                        let before = begun.minus(kept(tx, community).await?);
                        let erased = tx.delete_openings(community, before, STEP).await?;
                        if erased > 0 {
                            // workflow.md "Audit": "erasure is logged".
                            let journal = &self.journal;
                            let action = Action::EraseOpenings;
                            let mut entry = journal.by_broker(action, community, now);
                            entry.detail = erased.to_string();
                            journal::put(tx, &entry).await?;
                        }
                        Ok(erased)
                    }
                    .scope_boxed()
                })
                .await?;
            erased += step;
            if step < STEP.into() {
                return Ok(erased);
            }
        }
    }
}

/// How long openings are kept: as the operator proposes, and no shorter than a custodian has signed for the
/// latest epoch. An auditor knows that from the manifest, and finds what was erased sooner.
async fn kept(tx: &mut (dyn Tx + '_), community: &CommunityId) -> Result<Duration> {
    let proposed = proposed_profile(tx, community).await?.retention.hits;
    let latest = tx.get_epochs(community).await?.into_iter().next();
    let signed = latest.map(|epoch| manifest_of(&epoch)).transpose()?;
    Ok(signed.map_or(proposed, |manifest| {
        proposed.max(manifest.profile.retention.hits)
    }))
}
