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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::thread::available_parallelism;

use arc_swap::{ArcSwap, ArcSwapOption};
use sotto_common::error::{Error, Result};
use sotto_common::filter::layers::f_total;
use sotto_common::filter::{FilterParams, Salt};
use sotto_common::ids::{NodeId, PublicationId};
use sotto_common::secret::Tag;
use sotto_common::time::Timestamp;

use tokio::sync::watch;

pub(crate) use catalogue::{LayersName, Reach, StackId};
pub(crate) use kernel::request as request_line;
pub(crate) use memory::MappedFilter;

use self::kernel::Kernel;
use self::memory::{Bits, Budget};
use self::workers::{Turn, Workers};
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
    /// Whether filters may have come since they were last copied.
    to_load: AtomicBool,
    /// Once nothing is to be copied any more.
    closed: AtomicBool,
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
            to_load: AtomicBool::new(false),
            closed: AtomicBool::new(false),
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

    /// Waits until so many tags may be tested: no more large batches are under way than the threads
    /// need.
    pub(crate) async fn turn(&self, question: &Question<'_>, tags: usize) -> Turn<'_> {
        let Some(workers) = &self.workers else {
            return Turn::of_caller();
        };
        let active = self.active.load_full();
        let layers = active.asked(question).map(|(_, layers)| layers.len());
        let tests = layers.sum::<usize>() * tags;
        drop(active);
        workers.turn(tests).await
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
            self.arrivals.send_replace(());
        }
    }

    /// Whether a layer is active and has no bits.
    pub(crate) fn awaits(&self, publication: PublicationId) -> bool {
        let active = self.active.load_full();
        let layer = active.layer(publication);
        layer.is_some_and(|layer| layer.bits.load().is_none())
    }

    /// How many layers are awaited, and when to look again.
    pub(crate) fn awaited(&self) -> (usize, watch::Receiver<()>) {
        let arrivals = self.arrivals.subscribe();
        let active = self.active.load_full();
        let awaited = active.layers().filter(|layer| layer.bits.load().is_none());
        (awaited.count(), arrivals)
    }

    /// Copies active filters into memory of their own while that is within the budget; they are
    /// tested from their files until then. For a thread that may block.
    ///
    /// Whoever comes while another one is at it leaves it to that one.
    pub(crate) fn load(&self) {
        self.to_load.store(true, Ordering::SeqCst);
        while self.to_load.load(Ordering::SeqCst) {
            let _one = match self.loading.try_lock() {
                Ok(one) => one,
                // Nothing is half done after a panic: a filter is swapped or it is not.
                Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
                Err(TryLockError::WouldBlock) => return,
            };
            self.to_load.store(false, Ordering::SeqCst);
            // One that ends meanwhile is not kept for this.
            let active = self.active.load_full();
            let layers: Vec<_> = active.layers().map(Arc::downgrade).collect();
            drop(active);
            for layer in layers.iter().filter_map(Weak::upgrade) {
                if self.closed.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = layer.load(&self.budget) {
                    tracing::warn!(publication = %layer.publication, %error, "a filter stays in its file");
                }
            }
        }
    }

    /// How many layers have their bits in memory of their own.
    #[cfg(test)]
    fn loaded(&self) -> usize {
        let is_loaded = |layer: &&Arc<Layer>| {
            let bits = layer.bits.load_full();
            bits.is_some_and(|bits| matches!(*bits, Bits::Loaded(_)))
        };
        self.active.load_full().layers().filter(is_loaded).count()
    }

    /// Copies no further filter.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Takes over what has moved up to a generation, in one step for all readers. Callers take turns.
    pub(crate) fn update(&self, changes: Vec<Change>, generation: u64) {
        self.change(Snapshot::clone(&self.active.load()), changes, generation);
    }

    /// As [`Self::update`], from nothing: what was active before is active no more.
    pub(crate) fn begin(&self, changes: Vec<Change>, generation: u64) {
        self.change(Snapshot::default(), changes, generation);
    }

    fn change(&self, mut next: Snapshot, changes: Vec<Change>, generation: u64) {
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
mod tests;
