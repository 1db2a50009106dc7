//! What a prober may be tested against, without what it is tested with (protocol §5.4).

use std::collections::BTreeMap;

use sotto_common::ids::{CommunityId, Epoch, NodeId, PublicationId};
use sotto_common::label::{Context, Label};
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;

use super::Matcher;

/// Which stack of a community: epoch, policy, holder.
pub(crate) type StackId = (Epoch, Policy, NodeId);

/// Names a set of layers; another set has another name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LayersName([u8; 16]);

impl LayersName {
    /// H of the ids in their order, cut to 16 bytes. Publication ids are for their holder and the
    /// broker; half of H tells nothing of them.
    fn of(mut layers: Vec<PublicationId>) -> Self {
        layers.sort_unstable();
        let mut context = Context::new(Label::Layers);
        for layer in layers {
            context = context.raw(layer.as_bytes());
        }
        let mut name = [0; 16];
        name.copy_from_slice(&context.digest()[..16]);
        Self(name)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Everything in a community that one prober may be tested against.
pub(crate) struct Reach {
    /// The generation of the filters that this is of.
    pub(crate) generation: u64,
    /// The layers of each stack that admit the prober, where there are any.
    pub(crate) stacks: BTreeMap<StackId, LayersName>,
    /// When the first of these layers expires.
    pub(crate) until: Option<Timestamp>,
}

impl Matcher {
    /// What `prober` may be tested against at `now`: for the same stacks [`Matcher::probe`] has an
    /// answer, so long as the prober is a member of their epochs.
    pub(crate) fn reach(&self, community: &CommunityId, prober: &NodeId, now: Timestamp) -> Reach {
        let active = self.active.load();
        let mut reach = Reach {
            generation: active.generation,
            stacks: BTreeMap::new(),
            until: None,
        };
        let own = active
            .stacks
            .iter()
            .filter(|(key, _)| key.community == *community);
        for (key, holders) in own {
            for (holder, stack) in holders.iter().filter(|(holder, _)| *holder != prober) {
                let admitting = stack.iter().filter(|layer| layer.admits(prober, now));
                let mut ids = Vec::new();
                for layer in admitting {
                    ids.push(layer.publication);
                    let ends = layer.expires_at;
                    reach.until = Some(reach.until.map_or(ends, |until| until.min(ends)));
                }
                if !ids.is_empty() {
                    let stack = (key.epoch, key.policy, holder.clone());
                    reach.stacks.insert(stack, LayersName::of(ids));
                }
            }
        }
        reach
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(byte: u8) -> PublicationId {
        PublicationId::from_slice(&[byte, 0, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 0])
            .expect("a UUIDv7")
    }

    #[test]
    fn a_set_of_layers_has_one_name_in_whatever_order_and_another_set_another() {
        let [one, two] = [1, 2].map(publication);
        let name = LayersName::of(vec![one, two]);
        assert_eq!(name, LayersName::of(vec![two, one]));
        assert_ne!(name, LayersName::of(vec![one]));
        assert_ne!(LayersName::of(vec![one]), LayersName::of(vec![two]));
    }
}
