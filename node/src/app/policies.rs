//! The node's normal forms: canonical values past the stop-list, canaries, forms (protocol §4).

use std::collections::BTreeMap;

use sotto_common::epoch::KeySchedule;
use sotto_common::secret::{Selector, Tag};
use sotto_common::selector::{Policy, Rejection, StopList, canonical, canonical_canaries, forms};

/// What this node's own code makes of selectors.
pub(crate) struct Policies {
    stop_list: StopList,
    /// protocol §4: "computed by the node's own code at start-up".
    forms: BTreeMap<Policy, [u8; 32]>,
}

impl Policies {
    /// With the stop-list of this node.
    pub(crate) fn new(stop_list: StopList) -> Self {
        let forms = Policy::ALL.iter().map(|&p| (p, forms(p))).collect();
        Self { stop_list, forms }
    }

    /// Both steps of selectors.md: the canonical value, if it is not too common.
    ///
    /// # Errors
    /// The [`Rejection`], which never repeats the input.
    pub(crate) fn admit(
        &self,
        policy: Policy,
        value: &str,
        region: &str,
    ) -> Result<Selector, Rejection> {
        let region = (!region.is_empty()).then_some(region);
        let canonical = canonical(policy, value, region)?;
        self.stop_list.admit(policy, &canonical)?;
        Ok(canonical)
    }

    /// Whether a canonical value of the store still passes the stop-list, which may have grown.
    pub(crate) fn still_admits(&self, policy: Policy, canonical: &Selector) -> bool {
        self.stop_list.admit(policy, canonical).is_ok()
    }

    /// The canary tags of a policy under an epoch's key, in the order of selectors.md.
    #[expect(
        clippy::unused_self,
        reason = "canaries are exempt from the stop-list, and of this node's code all the same"
    )]
    pub(crate) fn canary_tags(&self, policy: Policy, schedule: &KeySchedule) -> Vec<Tag> {
        let key = schedule.tag_key(policy);
        let canaries = canonical_canaries(policy).iter();
        canaries.map(|canary| key.tag(canary)).collect()
    }

    /// `forms(policy)`, the corpus digest.
    pub(crate) fn forms(&self, policy: Policy) -> [u8; 32] {
        self.forms.get(&policy).copied().unwrap_or_default()
    }
}
