//! Testing tags against every holder's active filters (protocol §5.4, §7).
//!
//! Readers take an immutable snapshot; activation and withdrawal swap it. Nothing here knows
//! sessions, quotas or hits, and no tag outlives the call.

mod catalogue;
mod mapped;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use sotto_common::filter::layers::f_total;
use sotto_common::filter::{FilterParams, Locator, Salt, all_set};
use sotto_common::ids::{NodeId, PublicationId};
use sotto_common::secret::Tag;
use sotto_common::time::Timestamp;

pub(crate) use catalogue::{LayersName, Reach, StackId};
pub(crate) use mapped::MappedFilter;

use crate::datastore::StackKey;

/// One active filter.
pub(crate) struct Layer {
    pub(crate) publication: PublicationId,
    pub(crate) version: u64,
    /// Empty = every member.
    audience: BTreeSet<NodeId>,
    fpr: f64,
    expires_at: Timestamp,
    locator: Locator,
    bits: MappedFilter,
}

/// What a [`Layer`] is made of besides its bits.
pub(crate) struct LayerFacts {
    pub(crate) publication: PublicationId,
    pub(crate) version: u64,
    pub(crate) audience: BTreeSet<NodeId>,
    pub(crate) params: FilterParams,
    pub(crate) salt: Salt,
    pub(crate) fpr: f64,
    pub(crate) expires_at: Timestamp,
}

impl Layer {
    pub(crate) fn new(facts: LayerFacts, bits: MappedFilter) -> Self {
        Self {
            publication: facts.publication,
            version: facts.version,
            audience: facts.audience,
            fpr: facts.fpr,
            expires_at: facts.expires_at,
            locator: Locator::new(facts.params, &facts.salt),
            bits,
        }
    }

    fn admits(&self, prober: &NodeId, now: Timestamp) -> bool {
        now < self.expires_at && (self.audience.is_empty() || self.audience.contains(prober))
    }

    /// Raises `versions[i]` to this layer's where tag `i` is in the filter.
    fn test(&self, tags: &[Tag], versions: &mut [u64]) {
        let bits = self.bits.bytes();
        let mut survivors = Vec::new();
        // One AES block and one line settle 31 of 32 misses (protocol §5.1).
        self.locator.heads(tags, |i, head| {
            if all_set(bits, head.page(), head.bits()) {
                survivors.push(i);
            }
        });
        for i in survivors {
            let positions = self.locator.locate(&tags[i]);
            if all_set(bits, positions.page(), positions.body()) {
                versions[i] = versions[i].max(self.version);
            }
        }
    }
}

/// The active layers of one holder, base and supplements.
pub(crate) type Stack = Arc<[Arc<Layer>]>;

#[derive(Clone, Default)]
struct Snapshot {
    stacks: HashMap<StackKey, BTreeMap<NodeId, Stack>>,
    /// No publication here has moved in a later one.
    generation: u64,
}

/// How the tags of one batch fare at one holder.
pub(crate) struct HolderMatches {
    pub(crate) holder: NodeId,
    /// f_total of one tag over the layers tested (protocol §7).
    pub(crate) f_total: f64,
    /// For each tag the highest version that matched; 0 = none did.
    pub(crate) versions: Vec<u64>,
}

/// Who asks, and whom.
pub(crate) struct Question<'a> {
    pub(crate) key: &'a StackKey,
    pub(crate) prober: &'a NodeId,
    /// Empty = every holder.
    pub(crate) targets: &'a BTreeSet<NodeId>,
    pub(crate) now: Timestamp,
}

/// What a publication has become.
pub(crate) struct Change {
    pub(crate) key: StackKey,
    pub(crate) holder: NodeId,
    pub(crate) publication: PublicationId,
    /// Its filter; none once it has ended.
    pub(crate) layer: Option<Arc<Layer>>,
}

/// All active filters.
#[derive(Default)]
pub(crate) struct Matcher {
    active: ArcSwap<Snapshot>,
}

impl Matcher {
    /// Tests every tag against every holder that may be asked, in the order of their ids. A holder
    /// that is not targeted, has no active layer, or whose audience leaves the prober out is
    /// absent, and so are the prober's own filters (protocol §7).
    pub(crate) fn probe(&self, question: &Question<'_>, tags: &[Tag]) -> Vec<HolderMatches> {
        let active = self.active.load();
        let Some(holders) = active.stacks.get(question.key) else {
            return Vec::new();
        };
        let asked = holders.iter().filter(|(holder, _)| {
            *holder != question.prober
                && (question.targets.is_empty() || question.targets.contains(*holder))
        });
        asked
            .filter_map(|(holder, stack)| {
                let layers: Vec<_> = stack
                    .iter()
                    .filter(|l| l.admits(question.prober, question.now))
                    .collect();
                if layers.is_empty() {
                    return None;
                }
                let mut versions = vec![0; tags.len()];
                for layer in &layers {
                    layer.test(tags, &mut versions);
                }
                let f_total = f_total(layers.iter().map(|layer| layer.fpr), 1);
                Some(HolderMatches {
                    holder: holder.clone(),
                    f_total,
                    versions,
                })
            })
            .collect()
    }

    /// Takes over what has moved up to a generation, in one step for all readers. Callers take turns.
    pub(crate) fn update(&self, changes: Vec<Change>, generation: u64) {
        let mut next = Snapshot::clone(&self.active.load());
        next.generation = generation;
        for change in changes {
            let holders = next.stacks.entry(change.key).or_default();
            let stack = holders.get(&change.holder).map_or(&[][..], |stack| stack);
            let kept = stack.iter().filter(|l| l.publication != change.publication);
            let layers: Arc<[_]> = kept.cloned().chain(change.layer).collect();
            if layers.is_empty() {
                holders.remove(&change.holder);
            } else {
                holders.insert(change.holder, layers);
            }
        }
        next.stacks.retain(|_, holders| !holders.is_empty());
        self.active.store(Arc::new(next));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use sotto_common::filter::{Class, contains};

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);

    fn key() -> StackKey {
        StackKey {
            community: "euro-cyber".parse().expect("a community"),
            epoch: sotto_common::ids::Epoch::new(1).expect("from 1"),
            policy: sotto_common::selector::Policy::Phone,
        }
    }

    fn node(name: &str) -> NodeId {
        name.parse().expect("a node")
    }

    fn publication() -> PublicationId {
        PublicationId::generate(NOW, &mut sotto_common::random::os_rng())
    }

    /// A layer of these bits, mapped from a file as in production.
    fn layer(version: u64, params: FilterParams, salt: &Salt, bits: &[u8]) -> Arc<Layer> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bits).expect("written");
        let mapped = MappedFilter::open(file.path(), params.byte_len()).expect("mapped");
        let facts = LayerFacts {
            publication: publication(),
            version,
            audience: BTreeSet::new(),
            params,
            salt: salt.clone(),
            fpr: 1e-9,
            expires_at: NOW.plus(Duration::from_secs(1)),
        };
        Arc::new(Layer::new(facts, mapped))
    }

    fn change(publication: PublicationId, layer: Option<Arc<Layer>>) -> Change {
        Change {
            key: key(),
            holder: node("de-bka"),
            publication,
            layer,
        }
    }

    fn probe(matcher: &Matcher, prober: &str, now: Timestamp, tags: &[Tag]) -> Vec<HolderMatches> {
        let question = Question {
            key: &key(),
            prober: &node(prober),
            targets: &BTreeSet::new(),
            now,
        };
        matcher.probe(&question, tags)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Random bits of many densities, so that head and body decide about tags in turn; k small
        /// enough that tags match at all. The broker's two stages agree with the plain matcher.
        #[test]
        fn tests_every_tag_as_the_plain_matcher_does(
            seed: [u8; 32],
            salts: [[u8; 16]; 2],
            class in 0u8..6,
            k in 6u8..=40,
            density in 1u32..=16,
        ) {
            use rand::{RngExt as _, SeedableRng as _};
            let mut rng = rand::rngs::StdRng::from_seed(seed);
            let params = FilterParams::new(Class::new(class).expect("a class"), k).expect("params");
            let length = usize::try_from(params.byte_len()).expect("small");
            let mut draw = |_| (0..length)
                .map(|_| (0..8).fold(0, |byte: u8, _| {
                    (byte << 1) | u8::from(rng.random_range(0..16) < density)
                }))
                .collect::<Vec<u8>>();
            let bits: [Vec<u8>; 2] = std::array::from_fn(&mut draw);
            let salts = salts.map(Salt::new);
            let tags: Vec<_> = (0..500).map(|_| Tag::new(rng.random())).collect();

            let matcher = Matcher::default();
            let layers = [0, 1].map(|i| layer(i as u64 + 1, params, &salts[i], &bits[i]));
            let changes = layers.into_iter().map(|layer| change(layer.publication, Some(layer)));
            matcher.update(changes.collect(), 1);
            let found = probe(&matcher, "nl-fiu", NOW, &tags);
            for (i, tag) in tags.iter().enumerate() {
                let highest = [1, 0].into_iter()
                    .find(|&l| contains(&bits[l], params, &salts[l], tag))
                    .map_or(0, |l| l as u64 + 1);
                prop_assert_eq!(found[0].versions[i], highest);
            }
        }
    }

    #[test]
    fn a_stack_is_tested_as_long_as_it_stands_and_never_for_its_own_holder() {
        let params = FilterParams::new(Class::new(0).expect("a class"), 30).expect("params");
        let length = usize::try_from(params.byte_len()).expect("small");
        let ones = layer(3, params, &Salt::new([1; 16]), &vec![0xff; length]);
        let matcher = Matcher::default();
        let publication = ones.publication;
        matcher.update(vec![change(publication, Some(ones))], 1);
        let tags = [Tag::new([7; 16])];
        assert_eq!(probe(&matcher, "nl-fiu", NOW, &tags)[0].versions, [3]);
        assert!(probe(&matcher, "de-bka", NOW, &tags).is_empty());
        let expired = NOW.plus(Duration::from_secs(1));
        assert!(probe(&matcher, "nl-fiu", expired, &tags).is_empty());
        matcher.update(vec![change(publication, None)], 2);
        assert!(probe(&matcher, "nl-fiu", NOW, &tags).is_empty());
    }
}
