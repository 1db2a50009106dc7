//! Parts of the broker by themselves, in the caller's process, for `just bench`: the matcher, which
//! probing through gRPC is compared with, and the audit log. No part of the broker uses it.

mod log;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use sotto_common::ids::NodeId;
use sotto_common::publication::FilterHeader;
use sotto_common::secret::Tag;
use sotto_common::time::Timestamp;

use crate::datastore::StackKey;
use crate::matcher::{Change, Layer, LayerFacts, MappedFilter, Matcher, Question};

pub use log::{Logging, StoredTree};

/// Active filters, and one who asks for them.
pub struct Matching {
    matcher: Matcher,
    key: StackKey,
    prober: NodeId,
    now: Timestamp,
}

impl std::fmt::Debug for Matching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Matching")
    }
}

impl Matching {
    /// No filter yet; `like` is of the community, epoch and policy of those that will be, and of
    /// their time.
    pub fn new(like: &FilterHeader, prober: NodeId) -> Self {
        Self {
            matcher: Matcher::alone(u64::MAX),
            key: StackKey {
                community: like.community.clone(),
                epoch: like.epoch,
                policy: like.policy,
            },
            prober,
            now: like.created_at,
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
        let bits = MappedFilter::open(bits, header.params.byte_len())?;
        let change = Change {
            key: self.key.clone(),
            holder: header.holder.clone(),
            publication: header.publication,
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
        let question = Question {
            key: &self.key,
            prober: &self.prober,
            targets: &BTreeSet::new(),
            now: self.now,
        };
        let found = self.matcher.probe(&question, tags);
        // Unwrap safety: each filter that was taken has its bits.
        let found = found.expect("none is awaited");
        found.iter().map(|at_holder| at_holder.hits.len()).sum()
    }
}
