//! On which refs of a prober hits stand: kept in mind beside the ledger, so that it is asked for those
//! alone, and not for every ref of every batch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::Result;
use sotto_common::ids::{NodeId, RecordRef};

use crate::datastore::{Datastore, StackKey, Tx};

/// Batches of so many refs are looked up in the ledger at once: that costs less than to begin this.
const FEW: usize = 64;

/// Refs that are read at a time to begin with.
const PAGE: u32 = 10_000;

/// Events of the prober's stream that are read to catch up; after more it is begun anew.
const MOST_NEWS: u64 = 10_000;

/// What is known of the refs of all probers of which a session is open. A peer opens as many streams as
/// it likes: those of one node share what is known of its refs in one stack of filters.
#[derive(Default)]
pub(in crate::app) struct Known(Mutex<HashMap<(NodeId, StackKey), Weak<KnownRefs>>>);

impl Known {
    pub(in crate::app) fn of(&self, prober: &NodeId, key: &StackKey) -> Arc<KnownRefs> {
        // Nothing is half done after a panic.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = (prober.clone(), key.clone());
        if let Some(known) = all.get(&of).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, known| known.strong_count() > 0);
        let known = Arc::new(KnownRefs {
            key: key.clone(),
            prober: prober.clone(),
            sketch: Mutex::new(None),
        });
        all.insert(of, Arc::downgrade(&known));
        known
    }
}

/// What is known of the refs of one prober in one stack of filters, while a session is open.
pub(in crate::app) struct KnownRefs {
    key: StackKey,
    prober: NodeId,
    /// None before the first large batch.
    sketch: Mutex<Option<Sketch>>,
}

impl KnownRefs {
    /// Reads what a batch of so many refs needs, ahead of its transaction and beside the writer.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub(in crate::app) async fn prepare(&self, store: &Datastore, refs: usize) -> Result<()> {
        if refs <= FEW || self.lock().is_some() {
            return Ok(());
        }
        let sketch = store
            .read_tx("refs_with_hits", |tx| {
                async move { self.read(tx).await }.scope_boxed()
            })
            .await?;
        self.lock().get_or_insert(sketch);
        Ok(())
    }

    async fn read(&self, tx: &mut (dyn Tx + '_)) -> Result<Sketch> {
        let (community, prober) = (&self.key.community, &self.prober);
        let mut sketch = Sketch::new(tx.get_last_cursor(community, prober).await?);
        let mut after = None;
        loop {
            let page = tx
                .get_refs_with_hits(&self.key, prober, after, PAGE)
                .await?;
            sketch.learn(&page);
            after = page.last().copied();
            if page.len() < PAGE as usize {
                return Ok(sketch);
            }
        }
    }

    /// Those of `refs` on which hits may stand, in the transaction that is to know it: all that are
    /// not quarantined have an event up to `cursor`, the last of the prober's stream.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub(super) async fn narrow(
        &self,
        tx: &mut (dyn Tx + '_),
        cursor: u64,
        refs: &[RecordRef],
    ) -> Result<Vec<RecordRef>> {
        let looked_at = self.lock().as_ref().map(|sketch| sketch.cursor);
        let Some(looked_at) = looked_at else {
            return Ok(refs.to_vec());
        };
        if cursor.saturating_sub(looked_at) > MOST_NEWS {
            *self.lock() = None;
            return Ok(refs.to_vec());
        }
        let mut news = Vec::new();
        if cursor > looked_at {
            let community = &self.key.community;
            let read = tx.get_event_refs(community, &self.prober, looked_at, cursor);
            news = read.await?;
        }
        // This transaction may run again: what it has read was committed by others, and stays so.
        let mut sketch = self.lock();
        // Another stream may have begun it anew meanwhile, and earlier than what was read here.
        let Some(sketch) = sketch.as_mut().filter(|now| now.cursor >= looked_at) else {
            return Ok(refs.to_vec());
        };
        sketch.learn(&news);
        sketch.cursor = sketch.cursor.max(cursor);
        let may_have_hits = refs.iter().filter(|r| sketch.may_contain(r));
        Ok(may_have_hits.copied().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Sketch>> {
        // A bit is set or it is not.
        self.sketch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A set of refs that may hold more than were put in, of a size that does not grow. Refs are
/// pseudorandom (protocol §2): a bit each is enough, and who makes up others slows down nobody else.
struct Sketch {
    bits: Box<[u64]>,
    /// Of the last event of the prober's stream that it knows of.
    cursor: u64,
}

impl Sketch {
    /// 128 KiB: with 10,000 refs in it, it takes 1 of 100 others for one of them.
    const WORDS: usize = 1 << 14;

    fn new(cursor: u64) -> Self {
        let bits = vec![0; Self::WORDS].into();
        Self { bits, cursor }
    }

    fn learn(&mut self, refs: &[RecordRef]) {
        for record_ref in refs {
            let (word, bit) = Self::place(record_ref);
            self.bits[word] |= bit;
        }
    }

    fn may_contain(&self, record_ref: &RecordRef) -> bool {
        let (word, bit) = Self::place(record_ref);
        self.bits[word] & bit != 0
    }

    fn place(record_ref: &RecordRef) -> (usize, u64) {
        let [a, b, c, ..] = *record_ref.as_bytes();
        let word = usize::from(u16::from_be_bytes([a, b])) % Self::WORDS;
        (word, 1 << (c % 64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sketch_knows_every_ref_that_it_has_learnt(refs: Vec<[u8; 16]>) {
            let refs: Vec<_> = refs.into_iter().map(RecordRef::new).collect();
            let mut sketch = Sketch::new(0);
            sketch.learn(&refs);
            prop_assert!(refs.iter().all(|r| sketch.may_contain(r)));
        }
    }

    #[test]
    fn streams_of_a_node_share_what_is_known_for_as_long_as_one_is_open() {
        let known = Known::default();
        let nl: NodeId = "nl-fiu".parse().expect("a node");
        let de: NodeId = "de-bka".parse().expect("a node");
        let key = StackKey {
            community: "euro-cyber".parse().expect("a community"),
            epoch: sotto_common::ids::Epoch::new(1).expect("from 1"),
            policy: sotto_common::selector::Policy::Phone,
        };
        let first = known.of(&nl, &key);
        assert!(Arc::ptr_eq(&first, &known.of(&nl, &key)));
        assert!(!Arc::ptr_eq(&first, &known.of(&de, &key)));
        drop(first);
        let _again = known.of(&nl, &key);
        assert_eq!(known.0.lock().expect("no panic").len(), 1);
    }

    #[test]
    fn a_sketch_of_ten_thousand_refs_takes_few_others_for_one_of_them() {
        use rand::{RngExt as _, SeedableRng as _};
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        let mut draw = |n| -> Vec<_> { (0..n).map(|_| RecordRef::new(rng.random())).collect() };
        let mut sketch = Sketch::new(0);
        sketch.learn(&draw(10_000));
        let others = draw(10_000);
        let taken = others.iter().filter(|r| sketch.may_contain(r)).count();
        assert!((50..150).contains(&taken), "{taken}");
    }
}
