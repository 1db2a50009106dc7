//! Testing tags against every holder's active filters (protocol §5.4, §7).
//!
//! Readers take an immutable snapshot; activation and withdrawal swap it. Nothing here knows
//! sessions, quotas or hits, and no tag outlives the call.
//!
//! A filter is tested from its mapped file at once, and from [`memory`] of its own once it has been
//! copied there. One whose bits are not known to be right is *awaited*: it is there, and who asks for
//! it gets no answer yet, never the answer of the others. [`kernel`] is the loop over the tags of one
//! filter, [`workers`] are the threads.

mod catalogue;
mod kernel;
mod memory;
mod workers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;

use arc_swap::{ArcSwap, ArcSwapOption};
use sotto_common::error::{Error, Result};
use sotto_common::filter::layers::f_total;
use sotto_common::filter::{FilterParams, Salt};
use sotto_common::ids::{NodeId, PublicationId};
use sotto_common::secret::Tag;
use sotto_common::time::Timestamp;

use tokio::sync::{SemaphorePermit, watch};

pub(crate) use catalogue::{LayersName, Reach, StackId};
pub(crate) use kernel::request as request_line;
pub(crate) use memory::MappedFilter;

use self::kernel::Kernel;
use self::memory::{Bits, Budget};
use self::workers::Workers;
use crate::config::MatcherConfig;
use crate::datastore::StackKey;

/// One active filter.
pub(crate) struct Layer {
    pub(crate) publication: PublicationId,
    pub(crate) version: u64,
    /// Empty = every member.
    audience: BTreeSet<NodeId>,
    fpr: f64,
    expires_at: Timestamp,
    kernel: Kernel,
    /// None while they are awaited; swapped when they have been copied from their file.
    bits: ArcSwapOption<Bits>,
}

/// A layer with the bits that it is tested with, whatever becomes of it meanwhile.
struct Tested<'a> {
    layer: &'a Layer,
    bits: Arc<Bits>,
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
        let layer = Self::awaited(facts);
        layer.bits.store(Some(Arc::new(Bits::Mapped(bits))));
        layer
    }

    /// A layer whose bits come later, by [`Matcher::give`].
    pub(crate) fn awaited(facts: LayerFacts) -> Self {
        Self {
            publication: facts.publication,
            version: facts.version,
            audience: facts.audience,
            fpr: facts.fpr,
            expires_at: facts.expires_at,
            kernel: Kernel::new(facts.params, &facts.salt),
            bits: ArcSwapOption::empty(),
        }
    }

    fn admits(&self, prober: &NodeId, now: Timestamp) -> bool {
        now < self.expires_at && (self.audience.is_empty() || self.audience.contains(prober))
    }

    /// With its bits; none if they are awaited.
    fn tested(&self) -> Option<Tested<'_>> {
        let bits = self.bits.load_full()?;
        Some(Tested { layer: self, bits })
    }

    /// Copies the filter from its file, if the budget allows.
    fn load(&self, budget: &Budget) -> std::io::Result<()> {
        let bits = self.bits.load_full();
        if let Some(Bits::Mapped(filter)) = bits.as_deref()
            && let Some(loaded) = budget.load(filter)?
        {
            // Unless they were withheld meanwhile.
            let loaded = Some(Arc::new(Bits::Loaded(loaded)));
            self.bits.compare_and_swap(&bits, loaded);
        }
        Ok(())
    }
}

impl Tested<'_> {
    /// Adds the tags that are in the filter to `hits`, in no order.
    fn test(&self, tags: &[Tag], hits: &mut Vec<TagHit>) {
        let version = self.layer.version;
        self.layer.kernel.test(self.bits.bytes(), tags, |tag| {
            hits.push(TagHit { tag, version });
        });
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

impl Snapshot {
    /// The holders that may be asked, in the order of their ids, with the layers that admit the
    /// prober, of which each has at least one.
    fn asked<'a>(
        &'a self,
        question: &'a Question<'_>,
    ) -> impl Iterator<Item = (&'a NodeId, Vec<&'a Layer>)> {
        let holders = self.stacks.get(question.key).into_iter().flatten();
        let asked = holders.filter(move |(holder, _)| {
            *holder != question.prober
                && (question.targets.is_empty() || question.targets.contains(*holder))
        });
        asked.filter_map(move |(holder, stack)| {
            let layers = stack.iter().map(|layer| &**layer);
            let admitting: Vec<_> = layers
                .filter(|layer| layer.admits(question.prober, question.now))
                .collect();
            (!admitting.is_empty()).then_some((holder, admitting))
        })
    }

    fn layers(&self) -> impl Iterator<Item = &Arc<Layer>> {
        let stacks = self.stacks.values().flat_map(BTreeMap::values);
        stacks.flat_map(|stack| stack.iter())
    }

    fn layer(&self, publication: PublicationId) -> Option<&Arc<Layer>> {
        let mut layers = self.layers();
        layers.find(|layer| layer.publication == publication)
    }
}

/// How the tags of one batch fare at one holder.
pub(crate) struct HolderMatches {
    pub(crate) holder: NodeId,
    /// f_total of one tag over the layers tested (protocol §7).
    pub(crate) f_total: f64,
    /// The tags that match, in the order of the batch.
    pub(crate) hits: Vec<TagHit>,
}

/// A tag that matches at a holder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TagHit {
    /// Its place in the batch.
    pub(crate) tag: usize,
    /// The highest version that matched.
    pub(crate) version: u64,
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
pub(crate) struct Matcher {
    active: ArcSwap<Snapshot>,
    /// Changes whenever a layer may have ceased to be awaited.
    arrivals: watch::Sender<()>,
    budget: Budget,
    /// One copies filters at a time.
    loading: Mutex<()>,
    /// None = whoever asks tests by itself.
    workers: Option<Workers>,
}

/// With all filters in their files, and without threads.
impl Default for Matcher {
    fn default() -> Self {
        Self::alone(0)
    }
}

impl Matcher {
    /// Without threads: for tests and measurements. There are no filters yet, and so many bytes of
    /// memory for them.
    pub(crate) fn alone(memory: u64) -> Self {
        Self {
            active: ArcSwap::default(),
            arrivals: watch::Sender::new(()),
            budget: Budget::new(memory),
            loading: Mutex::new(()),
            workers: None,
        }
    }

    /// As [`Self::alone`], with all filters in small pages: for measurements.
    pub(crate) fn in_small_pages() -> Self {
        Self {
            budget: Budget::in_small_pages(),
            ..Self::alone(0)
        }
    }

    /// Shows the bits of all active filters of a stack where they are tested: for measurements.
    pub(crate) fn with_bits<T>(&self, key: &StackKey, look: impl FnOnce(&[&[u8]]) -> T) -> T {
        let active = self.active.load_full();
        let stacks = active.stacks.get(key).into_iter();
        let layers = stacks.flat_map(BTreeMap::values).flat_map(|s| s.iter());
        let bits: Vec<_> = layers.map(|layer| layer.bits.load_full()).collect();
        let bytes: Vec<_> = bits.iter().flatten().map(|bits| bits.bytes()).collect();
        look(&bytes)
    }

    /// Starts the threads; there are no filters yet.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub(crate) fn start(config: &MatcherConfig) -> Result<Self> {
        let cores = || available_parallelism().map_or(1, usize::from);
        let threads = config.threads.map_or_else(cores, usize::from);
        Ok(Self {
            workers: Some(Workers::start(threads).map_err(Error::internal)?),
            ..Self::alone(config.memory.0)
        })
    }

    /// Waits until so many tags may be tested. Whoever has many filters to ask holds this meanwhile,
    /// so that no more batches are under way than the threads need.
    pub(crate) async fn turn(&self, key: &StackKey, tags: usize) -> Option<SemaphorePermit<'_>> {
        let workers = self.workers.as_ref()?;
        let holders = self.active.load().stacks.get(key)?.len();
        workers.turn(holders * tags).await
    }

    /// Tests every tag against every holder that may be asked, in the order of their ids. A holder
    /// that is not targeted, has no active layer, or whose audience leaves the prober out is
    /// absent, and so are the prober's own filters (protocol §7). Blocks until it is done.
    ///
    /// None if a layer that is to be tested is awaited: without it a tag would seem to be nowhere.
    pub(crate) fn probe(
        &self,
        question: &Question<'_>,
        tags: &[Tag],
    ) -> Option<Vec<HolderMatches>> {
        let active = self.active.load_full();
        let mut layers: Vec<Vec<Tested<'_>>> = Vec::new();
        let mut matches = Vec::new();
        for (holder, admitting) in active.asked(question) {
            matches.push(HolderMatches {
                holder: holder.clone(),
                f_total: f_total(admitting.iter().map(|layer| layer.fpr), 1),
                hits: Vec::new(),
            });
            let tested = admitting.into_iter().map(Layer::tested);
            layers.push(tested.collect::<Option<_>>()?);
        }
        let test = |tested: &Tested<'_>, tags: &[Tag], hits: &mut Vec<TagHit>| {
            tested.test(tags, hits);
        };
        let found = workers::run(self.workers.as_ref(), tags, &layers, test);
        for (at_holder, hits) in matches.iter_mut().zip(found) {
            at_holder.hits = hits;
        }
        Some(matches)
    }

    /// Waits, however long, until no layer that a question is about is awaited.
    pub(crate) async fn until_complete(&self, question: &Question<'_>) {
        let mut arrivals = self.arrivals.subscribe();
        while self.is_awaited(question) {
            // The sender is this matcher's own.
            let _ = arrivals.changed().await;
        }
    }

    fn is_awaited(&self, question: &Question<'_>) -> bool {
        let active = self.active.load_full();
        active
            .asked(question)
            .flat_map(|(_, layers)| layers)
            .any(|layer| layer.bits.load().is_none())
    }

    /// Gives a layer the bits that it awaits; one that has them keeps those. Says whether it is
    /// active at all.
    pub(crate) fn give(&self, publication: PublicationId, bits: MappedFilter) -> bool {
        let active = self.active.load_full();
        let Some(layer) = active.layer(publication) else {
            return false;
        };
        let bits = Some(Arc::new(Bits::Mapped(bits)));
        layer.bits.compare_and_swap(&None::<Arc<Bits>>, bits);
        self.arrivals.send_replace(());
        true
    }

    /// Takes the bits of a layer out of use, at once for whatever is tested from now on; it is awaited
    /// until it is given others.
    pub(crate) fn withhold(&self, publication: PublicationId) {
        if let Some(layer) = self.active.load_full().layer(publication) {
            layer.bits.store(None);
        }
    }

    /// Copies active filters into memory of their own while that is within the budget; they are
    /// tested from their files until then. For a thread that may block.
    pub(crate) fn load(&self) {
        // Nothing is half done after a panic: a filter is swapped or it is not.
        let _one = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        for layer in self.active.load_full().layers() {
            if let Err(error) = layer.load(&self.budget) {
                tracing::warn!(%error, "a filter stays in its file");
            }
        }
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
        self.arrivals.send_replace(());
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

    fn mapped(bits: &[u8]) -> MappedFilter {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bits).expect("written");
        MappedFilter::open(file.path(), bits.len() as u64).expect("mapped")
    }

    fn facts(version: u64, params: FilterParams, salt: &Salt) -> LayerFacts {
        LayerFacts {
            publication: publication(),
            version,
            audience: BTreeSet::new(),
            params,
            salt: salt.clone(),
            fpr: 1e-9,
            expires_at: NOW.plus(Duration::from_secs(1)),
        }
    }

    /// A layer of these bits, mapped from a file as in production.
    fn layer(version: u64, params: FilterParams, salt: &Salt, bits: &[u8]) -> Arc<Layer> {
        Arc::new(Layer::new(facts(version, params, salt), mapped(bits)))
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
        matcher.probe(&question, tags).expect("nothing is awaited")
    }

    /// For each of so many tags the version that matched; 0 = none did.
    fn versions(at_holder: &HolderMatches, tags: usize) -> Vec<u64> {
        assert!(at_holder.hits.is_sorted_by(|one, next| one.tag < next.tag));
        let mut versions = vec![0; tags];
        for hit in &at_holder.hits {
            versions[hit.tag] = hit.version;
        }
        versions
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
            let found = versions(&probe(&matcher, "nl-fiu", NOW, &tags)[0], tags.len());
            for (i, tag) in tags.iter().enumerate() {
                let highest = [1, 0].into_iter()
                    .find(|&l| contains(&bits[l], params, &salts[l], tag))
                    .map_or(0, |l| l as u64 + 1);
                prop_assert_eq!(found[i], highest);
            }
        }
    }

    #[test]
    fn threads_and_memory_change_no_answer() {
        use rand::{RngExt as _, SeedableRng as _};
        let mut rng = rand::rngs::StdRng::seed_from_u64(5);
        let params = FilterParams::new(Class::new(2).expect("a class"), 7).expect("params");
        let length = usize::try_from(params.byte_len()).expect("small");
        let bits: Vec<u8> = (0..length)
            .map(|_| rng.random::<u8>() | rng.random::<u8>())
            .collect();
        let salt = Salt::new([4; 16]);
        let tags: Vec<_> = (0..9000).map(|_| Tag::new(rng.random())).collect();
        let held = |tag| contains(&bits, params, &salt, tag);
        let held: Vec<_> = tags.iter().map(|tag| u64::from(held(tag))).collect();
        assert!(held.contains(&1) && held.contains(&0));

        // Room for one of the two.
        for memory in [0, params.byte_len(), u64::MAX] {
            let config = MatcherConfig {
                memory: sotto_common::service::config::ByteSize(memory),
                threads: std::num::NonZeroUsize::new(3),
            };
            let matcher = Matcher::start(&config).expect("threads");
            for holder in ["de-bka", "fr-pj"] {
                let layer = layer(1, params, &salt, &bits);
                let change = change(layer.publication, Some(layer));
                let holder = node(holder);
                matcher.update(vec![Change { holder, ..change }], 1);
            }
            for _ in 0..2 {
                let found = probe(&matcher, "nl-fiu", NOW, &tags);
                assert_eq!(found.len(), 2);
                let as_held = |of: &HolderMatches| versions(of, tags.len()) == held;
                assert!(found.iter().all(as_held), "{memory}");
                matcher.load();
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
        let hit = TagHit { tag: 0, version: 3 };
        assert_eq!(probe(&matcher, "nl-fiu", NOW, &tags)[0].hits, [hit]);
        assert!(probe(&matcher, "de-bka", NOW, &tags).is_empty());
        let expired = NOW.plus(Duration::from_secs(1));
        assert!(probe(&matcher, "nl-fiu", expired, &tags).is_empty());
        matcher.update(vec![change(publication, None)], 2);
        assert!(probe(&matcher, "nl-fiu", NOW, &tags).is_empty());
    }

    /// One stack of two layers that match everything; the second is awaited.
    fn with_an_awaited_layer(params: FilterParams) -> (Matcher, PublicationId) {
        let matcher = Matcher::alone(u64::MAX);
        let salt = Salt::new([1; 16]);
        let ones = layer(1, params, &salt, &ones(params));
        let awaited = Arc::new(Layer::awaited(facts(2, params, &salt)));
        let publication = awaited.publication;
        let changes = [ones, awaited].map(|layer| change(layer.publication, Some(layer)));
        matcher.update(changes.into(), 1);
        (matcher, publication)
    }

    fn ones(params: FilterParams) -> Vec<u8> {
        vec![0xff; usize::try_from(params.byte_len()).expect("small")]
    }

    fn question<'a>(
        key: &'a StackKey,
        prober: &'a NodeId,
        targets: &'a BTreeSet<NodeId>,
    ) -> Question<'a> {
        Question {
            key,
            prober,
            targets,
            now: NOW,
        }
    }

    #[test]
    fn nothing_is_answered_without_a_layer_that_is_awaited() {
        let params = FilterParams::new(Class::new(0).expect("a class"), 30).expect("params");
        let (matcher, publication) = with_an_awaited_layer(params);
        let (key, prober, other) = (key(), node("nl-fiu"), BTreeSet::from([node("fr-pj")]));
        let (all, tags) = (BTreeSet::new(), [Tag::new([7; 16])]);
        let asked = question(&key, &prober, &all);
        let found = |question: &Question<'_>| {
            let found = matcher.probe(question, &tags)?;
            let hits = found.iter().flat_map(|at_holder| &at_holder.hits);
            Some(hits.map(|hit| hit.version).collect::<Vec<_>>())
        };
        assert_eq!(found(&asked), None);
        // Those whom it does not concern are answered, and it can be seen that it is there.
        assert_eq!(found(&question(&key, &node("de-bka"), &all)), Some(vec![]));
        assert_eq!(found(&question(&key, &prober, &other)), Some(vec![]));
        assert_eq!(matcher.reach(&key.community, &prober, NOW).stacks.len(), 1);

        assert!(matcher.give(publication, mapped(&ones(params))));
        assert_eq!(found(&asked), Some(vec![2]));
        matcher.load();
        // It has bits, and keeps them.
        let zeros = vec![0; ones(params).len()];
        assert!(matcher.give(publication, mapped(&zeros)));
        assert_eq!(found(&asked), Some(vec![2]));
        matcher.withhold(publication);
        matcher.load();
        assert_eq!(found(&asked), None);
        matcher.update(vec![change(publication, None)], 2);
        assert_eq!(found(&asked), Some(vec![1]));
        assert!(!matcher.give(publication, mapped(&zeros)));
    }

    #[tokio::test]
    async fn who_waits_for_a_layer_goes_on_once_it_is_given_or_has_ended() {
        let params = FilterParams::new(Class::new(0).expect("a class"), 30).expect("params");
        let (key, prober, all) = (key(), node("nl-fiu"), BTreeSet::new());
        let asked = question(&key, &prober, &all);
        for gives in [true, false] {
            let (matcher, publication) = with_an_awaited_layer(params);
            let waits = matcher.until_complete(&asked);
            tokio::pin!(waits);
            assert!(futures::poll!(&mut waits).is_pending());
            if gives {
                assert!(matcher.give(publication, mapped(&ones(params))));
            } else {
                matcher.update(vec![change(publication, None)], 2);
            }
            waits.await;
        }
    }
}
