//! What the broker accepts of a header, and where it goes in its holder's stack (protocol §5.3, §5.4).

use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::filter::Class;
use sotto_common::filter::admission::{self, Facts, Offer};
use sotto_common::filter::layers::MAX_SUPPLEMENTS;
use sotto_common::ids::{CommunityId, NodeId, PublicationId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::membership::Manifest;
use sotto_common::publication::{FilterHeader, LayerRole, PublicationState};
use sotto_common::time::Timestamp;
use sotto_proto::convert;

use super::stacks::{Ending, Moves, end};
use super::{not_uploading, unknown};
use crate::app::journal::{self, Journal, about};
use crate::app::{enrolled, envelope};
use crate::datastore::{ChunkRecord, Limits, PublicationRecord, StackKey, Tx};

/// Chunks of an upload that may be of any length; beyond them they are so long on average. Each is
/// an object and a row.
const MAX_CHUNKS: u64 = 1024;
const CHUNK_ON_AVERAGE: u64 = 16 * 1024;

/// What an announced publication answers to its header sent again.
pub(super) fn known_publication(
    known: &PublicationRecord,
    caller: &NodeId,
    header: &FilterHeader,
) -> Result<PublicationState> {
    // The header is erased with its filter; what it was is still told by its digest and version.
    let same = known.holder == *caller
        && known.digest == header.digest
        && known.version == header.version
        && (known.header.is_empty() || header_of(known)? == *header);
    if same {
        return Ok(known.state);
    }
    let text = "this publication id was used with another header";
    Err(Error::new(ErrorCode::PublicationState, text))
}

/// Rules 1 and 4 as far as the header decides them, the audience, and the place in the stack.
pub(super) async fn check_header(
    tx: &mut (dyn Tx + '_),
    header: &FilterHeader,
    manifest: &Manifest,
) -> Result<()> {
    let profile = manifest.profile.policy(header.policy)?;
    let row = manifest.policy(header.policy)?;
    if header.kid != manifest.kid() {
        return Err(Error::new(
            ErrorCode::KeyMismatch,
            "kid is not that of the epoch's key",
        ));
    }
    if header
        .audience
        .iter()
        .any(|node| manifest.member(node).is_err())
    {
        let text = "the audience names a node that is not a member of the epoch";
        return Err(Error::new(ErrorCode::AudienceUnknown, text).about("audience"));
    }
    let key = &key_of(header);
    let Limits { max_class, .. } = tx
        .get_limits(&header.community, &header.holder, header.policy)
        .await?;
    let salt = tx.get_salt(&header.community, &salt_digest(header)).await?;
    let facts = Facts {
        max_class: Class::new(max_class).map_err(|error| Error::internal(error.to_string()))?,
        k: profile.k,
        salt_seen: salt.is_some_and(|publication| publication != header.publication),
        last_version: tx.get_version(key, &header.holder).await?,
        canaries: &row.canary_tags,
        forms: row.forms,
    };
    admission::check_offer(&offer_of(header), &facts)?;
    check_layer(tx, key, header).await
}

/// A supplement stands on the active base that it names, at most eight of them (protocol §5.4).
pub(super) async fn check_layer(
    tx: &mut (dyn Tx + '_),
    key: &StackKey,
    header: &FilterHeader,
) -> Result<()> {
    let LayerRole::SupplementOf(version) = header.role else {
        return Ok(());
    };
    let invalid = |text| Err(Error::new(ErrorCode::LayerInvalid, text).about("supplement_of"));
    let stack = tx.get_stack(key, &header.holder).await?;
    let base = stack
        .iter()
        .find(|l| l.supplement_of.is_none() && l.version == version);
    let Some(base) = base else {
        return invalid("there is no active base of this version");
    };
    if header.expires_at > base.expires_at {
        return invalid("a supplement expires with its base at the latest");
    }
    if stack.iter().filter(|l| l.supplement_of.is_some()).count() >= MAX_SUPPLEMENTS {
        return invalid("the base has 8 supplements: publish a new base");
    }
    Ok(())
}

/// Activates a publication in the ledger, and ends what it replaces. Returns it, and what else has
/// moved or is no longer needed.
pub(super) async fn switch(
    tx: &mut (dyn Tx + '_),
    journal: &Journal,
    checked: &PublicationRecord,
    now: Timestamp,
) -> Result<(PublicationRecord, Moves)> {
    // Another broker may have been asked to do the same.
    let before = tx.get_publication(checked.id).await?.ok_or_else(unknown)?;
    if before.state != PublicationState::Uploading {
        return Err(not_uploading(before.state));
    }
    let replaced = match checked.supplement_of {
        None => tx.get_stack(&checked.key, &checked.holder).await?,
        Some(_) => vec![],
    };
    let ending = Ending {
        journal,
        by: Some(&checked.holder),
        action: Action::ReplacePublication,
        state: PublicationState::Replaced,
        why: "",
        now,
    };
    let mut moves = end(tx, replaced, &ending).await?;
    if moves.generation == 0 {
        moves.generation = tx.update_generation().await?;
    }
    let active = checked.moved(PublicationState::Active, moves.generation)?;
    tx.update_publication(&active).await?;
    tx.put_version(&active.key, &active.holder, active.version)
        .await?;
    let chunks = tx.get_chunks(active.id).await?;
    moves
        .objects
        .extend(chunks.into_iter().map(|chunk| chunk.object));
    tx.delete_chunks(active.id).await?;
    let (holder, community) = (&active.holder, &active.key.community);
    let entry = journal.by_node(holder, Action::ActivatePublication, community, now)?;
    let entry = Entry {
        change: Some(journal::change(
            before.state.as_str(),
            active.state.as_str(),
        )),
        ..about::publication(entry, &active)
    };
    journal::put(tx, &entry).await?;
    Ok((active, moves))
}

/// A chunk goes on where the upload of the caller stands; returns its number.
pub(super) async fn check_chunk(
    tx: &mut (dyn Tx + '_),
    caller: &NodeId,
    community: &CommunityId,
    chunk: &ChunkRecord,
) -> Result<u64> {
    let record = own_publication(tx, caller, community, chunk.publication).await?;
    if record.state != PublicationState::Uploading {
        return Err(not_uploading(record.state));
    }
    let (acknowledged, chunks) = tx.get_acknowledged(record.id).await?;
    if chunk.start != acknowledged {
        let text = format!("go on from offset {acknowledged}");
        return Err(Error::new(ErrorCode::OffsetMismatch, text).about(acknowledged.to_string()));
    }
    let length = header_of(&record)?.params.byte_len();
    if chunk.start + chunk.length > length {
        let text = format!("the header says {length} bytes");
        return Err(Error::new(ErrorCode::FilterLength, text));
    }
    if chunks >= MAX_CHUNKS + length / CHUNK_ON_AVERAGE {
        let text =
            "too many small chunks: withdraw the publication, and send up to 1 MiB at a time";
        return Err(Error::new(ErrorCode::LimitReached, text));
    }
    Ok(chunks)
}

/// A publication of the caller.
pub(super) async fn own_publication(
    tx: &mut (dyn Tx + '_),
    caller: &NodeId,
    community: &CommunityId,
    id: PublicationId,
) -> Result<PublicationRecord> {
    enrolled(tx, community, caller).await?;
    let known = tx.get_publication(id).await?;
    known
        .filter(|record| record.holder == *caller && record.key.community == *community)
        .ok_or_else(unknown)
}

pub(super) fn key_of(header: &FilterHeader) -> StackKey {
    StackKey {
        community: header.community.clone(),
        epoch: header.epoch,
        policy: header.policy,
    }
}

pub(super) fn offer_of(header: &FilterHeader) -> Offer {
    Offer {
        class: header.params.class().get(),
        k: header.params.k(),
        pages: header.params.pages(),
        salt: header.salt.clone(),
        version: header.version,
        digest: header.digest,
        forms: header.forms,
    }
}

pub(super) fn record_of(header: &FilterHeader, bytes: Vec<u8>) -> PublicationRecord {
    PublicationRecord {
        id: header.publication,
        key: key_of(header),
        holder: header.holder.clone(),
        version: header.version,
        supplement_of: match header.role {
            LayerRole::Base => None,
            LayerRole::SupplementOf(version) => Some(version),
        },
        state: PublicationState::Uploading,
        header: bytes,
        digest: header.digest,
        class: header.params.class().get(),
        fpr: 0.0,
        created_at: header.created_at,
        expires_at: header.expires_at,
        labels: header.labels.clone(),
        generation: 0,
        object: None,
    }
}

pub(super) fn header_of(record: &PublicationRecord) -> Result<FilterHeader> {
    convert::read_unverified(&envelope(&record.header)?)
}

/// Salts are remembered for ever, but only as digests.
pub(super) fn salt_digest(header: &FilterHeader) -> [u8; 32] {
    Sha256::digest(header.salt.expose()).into()
}

/// Refusals that no second try with the same bits can change.
pub(super) fn is_final(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::FilterDigest
            | ErrorCode::FilterPopcount
            | ErrorCode::FilterRate
            | ErrorCode::CanaryMissing
    )
}
