//! Building a filter from the store (protocol §5.2, §6): read page by page, tagged on all cores, and
//! nothing of it held but the tags.

use std::collections::BTreeSet;
use std::sync::Arc;

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::filter::{Class, DistinctTags, Filter};
use sotto_common::ids::{NodeId, PublicationId};
use sotto_common::publication::{FilterHeader, FilterLabels, LayerRole};
use sotto_common::random::os_rng;
use sotto_common::secret::Tag;
use sotto_common::selector::Policy;
use sotto_common::service::files::{self, Readers};
use sotto_common::time::Timestamp;
use sotto_proto::convert::sign;

use super::plan::Step;
use crate::app::epochs::EpochKeys;
use crate::app::{App, off_the_runtime};
use crate::store::{Layer, OutboxItem, Publishing, SelectorId};

/// Selectors that are read from the store at a time.
const PAGE: u32 = 20_000;

/// What a layer is built for.
pub(super) struct Plan<'a> {
    pub(super) policy: Policy,
    pub(super) epoch: &'a EpochKeys,
    pub(super) step: Step,
    pub(super) wanted: &'a Publishing,
    pub(super) layers: &'a [Layer],
    pub(super) version: u64,
    /// What the filter is to say to those who match it.
    pub(super) labels: &'a FilterLabels,
}

impl Plan<'_> {
    fn role(&self) -> LayerRole {
        match self.step {
            Step::Base(_) | Step::Withdraw(_) => LayerRole::Base,
            Step::Supplement { base, .. } => LayerRole::SupplementOf(base),
        }
    }

    /// Whether what was built before is this layer.
    pub(super) fn is_of(&self, item: &OutboxItem) -> bool {
        let (header, manifest) = (&item.header, &self.epoch.manifest);
        header.epoch == manifest.epoch
            && header.kid == manifest.kid()
            && header.role == self.role()
            && header.version == self.version
            && header.audience == self.audience()
            && header.labels == *self.labels
            && item.last_selector == self.wanted.last_selector
            && item.removals == self.wanted.removals
    }

    /// The selector after which the layer begins.
    fn after(&self) -> SelectorId {
        match self.step {
            Step::Base(_) | Step::Withdraw(_) => 0,
            Step::Supplement { after, .. } => after,
        }
    }

    /// What this layer adds to has the audience of its base.
    fn audience(&self) -> BTreeSet<NodeId> {
        let base = self.layers.iter().find(|layer| match self.step {
            Step::Base(_) | Step::Withdraw(_) => false,
            Step::Supplement { base, .. } => {
                let of_epoch = layer.epoch == self.epoch.manifest.epoch;
                of_epoch && layer.role == LayerRole::Base && layer.version == base
            }
        });
        base.map_or_else(
            || self.wanted.audience.clone(),
            |base| base.audience.clone(),
        )
    }
}

impl App {
    /// Builds the next layer; it and its header are durable when this returns.
    ///
    /// # Errors
    /// `FILTER_CLASS` if the operator allows smaller ones only; those of the store.
    pub(super) async fn build_item(&self, plan: &Plan<'_>) -> Result<OutboxItem> {
        let policy = plan.policy;
        let max_class = self.max_class(policy).await?;
        let k = plan.epoch.manifest.profile.policy(policy)?.k;
        let canaries: BTreeSet<_> = plan
            .epoch
            .manifest
            .policy(policy)?
            .canary_tags
            .iter()
            .collect();
        // selectors.md: no selector is a canary, the stop-list sees to that.
        let not_selectors = canaries.len() as u64;
        let tags = self.tags(plan, canaries.into_iter().copied()).await?;
        let node = self.node.clone();
        let (selectors, filter) = off_the_runtime(move || {
            let rng = &mut os_rng();
            let tags = DistinctTags::new(tags, rng);
            let class = class_for(tags.len(), max_class, policy, &node)?;
            let selectors = tags.len() - not_selectors;
            let filter = tags.build(class, k, rng).map_err(Error::internal)?;
            Ok((selectors, filter))
        })
        .await?;
        let header = self.header(plan, &filter, self.clock.now());
        let item = OutboxItem {
            envelope: sign(header.clone(), self.keystore.signing()),
            header,
            selectors,
            last_selector: plan.wanted.last_selector,
            removals: plan.wanted.removals,
        };
        let file = self.outbox_file(item.header.publication);
        off_the_runtime(move || {
            files::write(&file, filter.bits(), Readers::Owner, &mut os_rng())
                .map_err(Error::unavailable)
        })
        .await?;
        self.store.put_outbox_item(&item).await?;
        Ok(item)
    }

    /// The tags of what the layer holds and those of the canaries, in no order, and more than once
    /// where a value stands in several datasets.
    async fn tags(
        &self,
        plan: &Plan<'_>,
        canaries: impl ExactSizeIterator<Item = Tag>,
    ) -> Result<Vec<Tag>> {
        let (policy, last) = (plan.policy, plan.wanted.last_selector);
        let mut after = plan.after();
        // Room for all at once: growing would hold ten million twice. A supplement needs less.
        let selectors = match plan.step {
            Step::Base(_) | Step::Withdraw(_) => {
                usize::try_from(plan.wanted.selectors).unwrap_or(0)
            }
            Step::Supplement { .. } => 0,
        };
        let mut tags = Vec::with_capacity(selectors + canaries.len());
        tags.extend(canaries);
        loop {
            let page = self
                .store
                .published_values(policy, after, last, PAGE)
                .await?;
            let Some(end) = page.last().map(|row| row.id) else {
                return Ok(tags);
            };
            after = end;
            let (key, policies) = (
                plan.epoch.schedule.tag_key(policy),
                Arc::clone(&self.policies),
            );
            tags = off_the_runtime(move || {
                let of_page: Vec<_> = page
                    .par_iter()
                    // selectors.md: the stop-list is asked at publication too.
                    .filter(|row| policies.still_admits(policy, &row.canonical))
                    .map(|row| key.tag(&row.canonical))
                    .collect();
                tags.extend(of_page);
                Ok(tags)
            })
            .await?;
        }
    }

    fn header(&self, plan: &Plan<'_>, filter: &Filter, now: Timestamp) -> FilterHeader {
        let manifest = &plan.epoch.manifest;
        FilterHeader {
            holder: self.node.clone(),
            publication: PublicationId::generate(now, &mut os_rng()),
            community: self.community.clone(),
            epoch: manifest.epoch,
            policy: plan.policy,
            forms: self.policies.forms(plan.policy),
            kid: manifest.kid(),
            params: filter.params(),
            salt: filter.salt().clone(),
            role: plan.role(),
            version: plan.version,
            digest: filter.digest(),
            audience: plan.audience(),
            created_at: now,
            expires_at: manifest.not_after,
            labels: plan.labels.clone(),
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
}
