//! Writing entries of the audit log, each in the transaction of its action (protocol §11).
//!
//! "An action takes effect only once its entry is durable; both are written in one transaction."

pub(super) mod about;

use prost::Message as _;
use scoped_futures::ScopedFutureExt as _;
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, Result};
use sotto_common::ids::{CommunityId, EntryId, NodeId, Role, SpiffeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::{Change, Entry, MAX_DETAIL, MAX_STATEMENT, Statement};
use sotto_common::log::leaf::{Leaf, Opening, OpeningNonce};
use sotto_common::random::os_rng;
use sotto_common::time::Timestamp;
use sotto_proto::convert::log::write_entry;
use sotto_proto::v1;

use super::Broker;
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

impl Broker {
    /// Logs that an operator or an auditor has read, before it is answered (protocol §11). Of a
    /// community that does not exist nothing can be read, and nothing is logged.
    ///
    /// # Errors
    /// If the ledger cannot be written: then nothing is to be answered.
    pub(crate) async fn log_read(
        &self,
        reader: &SpiffeId,
        community: &CommunityId,
        call: &'static str,
    ) -> Result<()> {
        let (now, journal) = (self.now(), &self.journal);
        self.store
            .run_tx("log_read", |tx| {
                async move {
                    if tx.get_profile(community).await?.is_none() {
                        return Ok(());
                    }
                    let mut entry = journal.by_identity(reader, Action::Read, community, now);
                    entry.detail = detail(call);
                    put(tx, &entry).await
                }
                .scope_boxed()
            })
            .await
    }
}

/// A change of state.
pub(super) fn change(from: &str, to: &str) -> Change {
    Change {
        from: from.to_owned(),
        to: to.to_owned(),
    }
}

/// As much of a text as an entry takes.
pub(super) fn detail(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_DETAIL)].to_owned()
}

/// The digest of a signed statement that is not in the log itself.
pub(super) fn digest_of(signed: &v1::DsseEnvelope) -> Statement {
    Statement {
        digest: Sha256::digest(&signed.payload).into(),
        envelope: None,
    }
}

/// A signed statement with nothing sealed and no salt.
///
/// # Errors
/// `INVALID_FIELD` for an envelope above [`MAX_STATEMENT`]: an auditor verifies it from the log.
pub(super) fn statement(signed: &v1::DsseEnvelope) -> Result<Statement> {
    let envelope = signed.encode_to_vec();
    if envelope.len() > MAX_STATEMENT {
        let text = format!("an envelope of at most {MAX_STATEMENT} bytes");
        return Err(Error::field("statement", text));
    }
    Ok(Statement {
        envelope: Some(envelope),
        ..digest_of(signed)
    })
}

/// Puts an entry, in the transaction of what it is about. It gets its place in the tree later.
///
/// # Errors
/// If the ledger cannot be written.
pub(crate) async fn put(tx: &mut (dyn Tx + '_), entry: &Entry) -> Result<()> {
    put_all(tx, std::slice::from_ref(entry)).await
}

/// As [`put`], all that one transaction has to say, in this order.
///
/// # Errors
/// If the ledger cannot be written.
pub(super) async fn put_all(tx: &mut (dyn Tx + '_), entries: &[Entry]) -> Result<()> {
    let entries: Vec<_> = entries.iter().map(new_entry).collect();
    tx.put_entries(&entries).await
}

fn new_entry(entry: &Entry) -> NewEntry {
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
    NewEntry {
        id: entry.id,
        community: entry.community.clone(),
        action: entry.action,
        at: entry.at,
        leaf: Leaf::new(entry.action.kind(), entry.at, &opening),
        opening,
        nodes,
        hit: entry.object.hit,
        follow_up: entry.object.follow_up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_two_characters() {
        assert_eq!(detail("its key is lost"), "its key is lost");
        let long = format!("{}€ and so on", "x".repeat(MAX_DETAIL - 1));
        assert_eq!(detail(&long), "x".repeat(MAX_DETAIL - 1));
    }

    #[test]
    fn a_statement_that_is_too_long_for_the_log_is_refused() {
        let signed = |length| v1::DsseEnvelope {
            payload: vec![7; length].into(),
            ..Default::default()
        };
        let (short, long) = (signed(100), signed(MAX_STATEMENT));
        let whole = statement(&short).expect("short");
        assert_eq!(whole.envelope, Some(short.encode_to_vec()));
        assert_eq!(whole.digest, digest_of(&short).digest);
        let refused = statement(&long).expect_err("long");
        assert_eq!(refused.code, sotto_common::error::ErrorCode::InvalidField);
    }
}
