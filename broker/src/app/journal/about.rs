//! What an entry is about: the ids that it is found by, and who has received something by it.

use sotto_common::followup::Party;
use sotto_common::ids::{Epoch, NodeId};
use sotto_common::log::entry::Entry;

use crate::datastore::{FollowUpRecord, HitRecord, PublicationRecord, SessionRecord, StackKey};

/// About a node.
pub(in crate::app) fn node(mut entry: Entry, node: &NodeId) -> Entry {
    name(&mut entry, node);
    entry
}

/// About an epoch.
pub(in crate::app) fn epoch(mut entry: Entry, epoch: Epoch) -> Entry {
    entry.object.epoch = Some(epoch);
    entry
}

/// About a publication: neither its header, which has the salt, nor anything of its bits.
pub(in crate::app) fn publication(mut entry: Entry, record: &PublicationRecord) -> Entry {
    place(&mut entry, &record.key);
    name(&mut entry, &record.holder);
    entry.object.publication = Some(record.id);
    entry.object.version = Some(record.version);
    entry
}

/// About a probe session, and why it is held.
pub(in crate::app) fn session(mut entry: Entry, record: &SessionRecord) -> Entry {
    place(&mut entry, &record.key);
    name(&mut entry, &record.prober);
    entry.object.session = Some(record.id);
    entry.grounds = Some(record.grounds.clone());
    entry
}

/// About a hit: its holder, and its prober, who receives it.
pub(in crate::app) fn hit(mut entry: Entry, hit: &HitRecord) -> Entry {
    place(&mut entry, &hit.key);
    name(&mut entry, &hit.holder);
    entry.object.hit = Some(hit.id);
    entry.object.version = Some(hit.filter_version);
    entry.recipient = Some(hit.prober.clone());
    entry
}

/// About a follow-up. The other party receives what one does; what nobody has done is the
/// holder's, and the requester is told.
pub(in crate::app) fn follow_up(mut entry: Entry, record: &FollowUpRecord) -> Entry {
    let follow_up = &record.follow_up;
    place(&mut entry, &record.key);
    name(&mut entry, &follow_up.holder);
    entry.object.hit = Some(follow_up.hit);
    entry.object.follow_up = Some(follow_up.id);
    entry.object.version = Some(record.filter_version);
    let actor = entry.actor.node();
    let side = actor.and_then(|actor| follow_up.side_of(&actor));
    let other = side.map_or(Party::Requester, Party::other);
    entry.recipient = Some(follow_up.party(other).clone());
    entry
}

fn place(entry: &mut Entry, key: &StackKey) {
    entry.object.epoch = Some(key.epoch);
    entry.object.policy = Some(key.policy);
}

/// Names the node that an entry is about, "if that is not the actor" (`LogEntry.node`).
fn name(entry: &mut Entry, node: &NodeId) {
    if entry.actor.node().as_ref() != Some(node) {
        entry.object.node = Some(node.clone());
    }
}
