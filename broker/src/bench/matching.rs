//! The matcher by itself: active filters, and one who asks for them.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use sotto_common::filter::{FilterParams, Salt};
use sotto_common::ids::{CommunityId, Epoch, NodeId, PublicationId};
use sotto_common::publication::FilterHeader;
use sotto_common::random::os_rng;
use sotto_common::secret::Tag;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;

use super::limit::{self, Requests};
use crate::datastore::StackKey;
use crate::matcher::{Change, Layer, LayerFacts, MappedFilter, Matcher, Question};

/// When filters that are made up are tested.
const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);

/// Where the bits of filters are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FilterMemory {
    /// In memory of their own, in huge pages where the system has them: as the broker has them while
    /// they are within what it may take.
    HugePages,
    /// In memory of their own, in small pages.
    SmallPages,
    /// In their files, mapped: as the broker has all others.
    File,
}

/// Active filters, and one who asks for them, on the caller's thread.
pub struct Matching {
    matcher: Matcher,
    key: StackKey,
    prober: NodeId,
    now: Timestamp,
}

impl fmt::Debug for Matching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Matching")
    }
}

impl Matching {
    /// No filter yet; `like` is of the community, epoch and policy of those that will be, and of
    /// their time.
    pub fn new(like: &FilterHeader, prober: NodeId) -> Self {
        Self {
            matcher: matcher(FilterMemory::HugePages),
            key: StackKey {
                community: like.community.clone(),
                epoch: like.epoch,
                policy: like.policy,
            },
            prober,
            now: like.created_at,
        }
    }

    /// No filter yet, and their bits where `memory` says; for filters without a header.
    pub fn in_memory(
        memory: FilterMemory,
        community: CommunityId,
        epoch: Epoch,
        prober: NodeId,
    ) -> Self {
        Self {
            matcher: matcher(memory),
            key: StackKey {
                community,
                epoch,
                policy: Policy::Phone,
            },
            prober,
            now: NOW,
        }
    }

    /// Takes a filter, whose bits are in a file, as the broker does when it is activated.
    ///
    /// # Errors
    /// If the file cannot be mapped, or is not as long as the header says.
    pub fn activate(&self, header: &FilterHeader, bits: &Path) -> io::Result<()> {
        let facts = LayerFacts {
            publication: header.publication,
            version: header.version,
            audience: header.audience.clone(),
            params: header.params,
            salt: header.salt.clone(),
            fpr: 1e-9,
            expires_at: header.expires_at,
        };
        self.take(&header.holder, facts, bits)
    }

    /// As [`Self::activate`], for a filter without a header.
    ///
    /// # Errors
    /// If the file cannot be mapped, or is not as long as the parameters say.
    pub fn activate_bits(
        &self,
        holder: &NodeId,
        params: FilterParams,
        salt: &Salt,
        bits: &Path,
    ) -> io::Result<()> {
        let facts = LayerFacts {
            publication: PublicationId::generate(self.now, &mut os_rng()),
            version: 1,
            audience: BTreeSet::new(),
            params,
            salt: salt.clone(),
            fpr: 1e-9,
            expires_at: self.now.plus(Duration::from_hours(24)),
        };
        self.take(holder, facts, bits)
    }

    fn take(&self, holder: &NodeId, facts: LayerFacts, bits: &Path) -> io::Result<()> {
        let publication = facts.publication;
        let bits = MappedFilter::open(bits, facts.params.byte_len())?;
        let change = Change {
            key: self.key.clone(),
            holder: holder.clone(),
            publication,
            layer: Some(Layer::new(facts, bits).into()),
        };
        self.matcher.update(vec![change], 1);
        self.matcher.load();
        Ok(())
    }

    /// Tests every tag against every holder; tells how many matches there are.
    ///
    /// # Panics
    /// If a filter were awaited, which none of these is.
    pub fn probe(&self, tags: &[Tag]) -> usize {
        self.probe_at(&BTreeSet::new(), tags)
    }

    /// Tests every tag against these holders, or against all if there are none; tells how many
    /// matches there are.
    ///
    /// # Panics
    /// If a filter were awaited, which none of these is.
    pub fn probe_at(&self, targets: &BTreeSet<NodeId>, tags: &[Tag]) -> usize {
        let question = Question {
            key: &self.key,
            prober: &self.prober,
            targets,
            now: self.now,
        };
        let found = self.matcher.probe(&question, tags);
        // Unwrap safety: each filter that was taken has its bits.
        let found = found.expect("none is awaited");
        found.iter().map(|at_holder| at_holder.hits.len()).sum()
    }

    /// Reads so many lines of the filters at random, where they are tested, and does nothing else: the
    /// limit of [`Self::probe`]. What it returns is of no meaning.
    pub fn read_lines(&self, reads: usize, requests: Requests, seed: u64) -> u64 {
        self.matcher.with_bits(&self.key, |filters| {
            let lines = filters.iter().map(|bits| bits.as_chunks().0);
            let lines: Vec<&[limit::Line]> = lines.collect();
            limit::read(&lines, reads, requests, seed)
        })
    }
}

fn matcher(memory: FilterMemory) -> Matcher {
    match memory {
        FilterMemory::HugePages => Matcher::alone(u64::MAX),
        FilterMemory::SmallPages => Matcher::in_small_pages(),
        FilterMemory::File => Matcher::alone(0),
    }
}

#[cfg(test)]
mod tests {
    use sotto_common::filter::{Class, build};

    use super::*;

    #[test]
    fn filters_answer_alike_wherever_their_bits_are() {
        let held: Vec<_> = (0..500_u128).map(|i| Tag::new(i.to_be_bytes())).collect();
        let class = Class::new(0).expect("a class");
        let filter = build(held.clone(), class, 30, &mut os_rng()).expect("a filter");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), filter.bits()).expect("written");
        let [one, other]: [NodeId; 2] =
            ["de-bka", "pl-kgp"].map(|name| name.parse().expect("a node"));
        for memory in [
            FilterMemory::HugePages,
            FilterMemory::SmallPages,
            FilterMemory::File,
        ] {
            let matching = Matching::in_memory(
                memory,
                "euro-cyber".parse().expect("a community"),
                Epoch::new(1).expect("an epoch"),
                "nl-fiu".parse().expect("a node"),
            );
            for holder in [&one, &other] {
                let taken =
                    matching.activate_bits(holder, filter.params(), filter.salt(), file.path());
                taken.expect("mapped");
            }
            assert_eq!(matching.probe(&held), 1000);
            assert_eq!(
                matching.probe_at(&BTreeSet::from([one.clone()]), &held),
                500
            );
            assert!(matching.read_lines(1000, Requests::Twice, 1) > 0);
        }
    }
}
