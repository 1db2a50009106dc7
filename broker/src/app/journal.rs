//! Writing entries of the audit log, each in the transaction of its action (protocol §11).
//!
//! "An action takes effect only once its entry is durable; both are written in one transaction."

use sotto_common::error::{Error, Result};
use sotto_common::ids::{CommunityId, EntryId, NodeId, Role, SpiffeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::log::leaf::{Leaf, Opening, OpeningNonce};
use sotto_common::random::os_rng;
use sotto_common::time::Timestamp;
use sotto_proto::convert::log::write_entry;

use crate::datastore::{NewEntry, Tx};

/// The software that writes the entries.
const SOFTWARE: &str = concat!("sotto-broker/", env!("CARGO_PKG_VERSION"));

/// In whose name entries are written.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    /// The broker's own identity.
    own: SpiffeId,
}

impl Journal {
    /// The journal of the broker with this identity.
    pub(crate) const fn new(own: SpiffeId) -> Self {
        Self { own }
    }

    /// An entry of what a node did.
    ///
    /// # Errors
    /// None: a node id is a name of a SPIFFE ID.
    pub(super) fn by_node(
        &self,
        node: &NodeId,
        action: Action,
        community: &CommunityId,
        now: Timestamp,
    ) -> Result<Entry> {
        self.by(Role::Node, node.as_str(), action, community, now)
    }

    /// An entry of what an operator did.
    ///
    /// # Errors
    /// If the name is none of a SPIFFE ID.
    pub(super) fn by_operator(
        &self,
        name: &str,
        action: Action,
        community: &CommunityId,
        now: Timestamp,
    ) -> Result<Entry> {
        self.by(Role::Operator, name, action, community, now)
    }

    /// An entry of what the broker did by itself.
    pub(super) fn by_broker(
        &self,
        action: Action,
        community: &CommunityId,
        now: Timestamp,
    ) -> Entry {
        self.entry(self.own.clone(), action, community, now)
    }

    /// An entry of what somebody with this identity did.
    pub(super) fn by_identity(
        &self,
        actor: &SpiffeId,
        action: Action,
        community: &CommunityId,
        now: Timestamp,
    ) -> Entry {
        self.entry(actor.clone(), action, community, now)
    }

    fn by(
        &self,
        role: Role,
        name: &str,
        action: Action,
        community: &CommunityId,
        now: Timestamp,
    ) -> Result<Entry> {
        let actor = SpiffeId::new(self.own.trust_domain(), role, name).map_err(Error::internal)?;
        Ok(self.entry(actor, action, community, now))
    }

    #[expect(clippy::unused_self, reason = "an entry is somebody's")]
    fn entry(
        &self,
        actor: SpiffeId,
        action: Action,
        community: &CommunityId,
        now: Timestamp,
    ) -> Entry {
        let id = EntryId::generate(now, &mut os_rng());
        Entry::new(id, action, actor, community.clone(), now, SOFTWARE)
    }
}

/// Puts an entry, in the transaction of what it is about. It gets its place in the tree later.
///
/// # Errors
/// If the ledger cannot be written.
pub(super) async fn put(tx: &mut (dyn Tx + '_), entry: &Entry) -> Result<()> {
    let nonce = OpeningNonce::generate(&mut os_rng());
    let opening = Opening::new(nonce, write_entry(entry));
    let nodes = [
        entry.actor.node(),
        entry.object.node.clone(),
        entry.recipient.clone(),
    ];
    let mut nodes: Vec<_> = nodes.into_iter().flatten().collect();
    nodes.sort();
    nodes.dedup();
    tx.put_entry(&NewEntry {
        id: entry.id,
        community: entry.community.clone(),
        action: entry.action,
        at: entry.at,
        leaf: Leaf::new(entry.action.kind(), entry.at, &opening),
        opening,
        nodes,
        hit: entry.object.hit,
        follow_up: entry.object.follow_up,
    })
    .await
}
