//! Reading entries: auditors all of them, nodes their own (protocol §11, workflow.md "Audit").

use std::ops::Range;

use scoped_futures::ScopedFutureExt as _;
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::hit::HitState;
use sotto_common::ids::{CommunityId, NodeId};
use sotto_common::log::action::Action;
use sotto_proto::convert::log::read_entry;
use sotto_proto::v1;

use super::checkpoints::note_of;
use super::{latest, leaf_unknown, signed_size};
use crate::app::membership::may_read;
use crate::app::{Broker, envelope};
use crate::datastore::{EntryFilter, LoggedRecord, Tx};

/// Entries that one call of a list looks at, at most: case references stand in the openings alone.
const LOOKED_AT: u64 = 10_000;

/// Entries that are read in one transaction.
const AT_A_TIME: u32 = 500;

/// Bytes of entries in one answer, but for its last entry: messages have a bound (protocol §12).
const MAX_ANSWER: usize = 1024 * 1024;

/// Entries of a list.
#[derive(Debug)]
pub(crate) struct EntryPage {
    pub(crate) entries: Vec<LoggedRecord>,
    pub(crate) next: Option<String>,
}

/// What an export begins with.
pub(crate) struct ExportHead {
    /// The checkpoint that it is of.
    pub(crate) note: String,
    /// How many leaves that has.
    pub(crate) size: u64,
    /// The manifests of the community's epochs, by number.
    pub(crate) manifests: Vec<v1::DsseEnvelope>,
}

impl Broker {
    /// An entry; for a node (`Some`) one that it did or that names it as the recipient.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`; `LEAF_UNKNOWN` beyond the latest checkpoint, and for entries of others.
    pub(crate) async fn logged(
        &self,
        caller: Option<&NodeId>,
        community: &CommunityId,
        index: u64,
    ) -> Result<LoggedRecord> {
        self.store
            .read_tx("get_entry", |tx| {
                async move {
                    may_read(tx, community, caller).await?;
                    if index >= signed_size(tx, community).await? {
                        return Err(leaf_unknown());
                    }
                    let mut leaves = tx.get_leaves(community, index..index + 1).await?;
                    let record = leaves.pop().ok_or_else(leaf_unknown)?;
                    if let Some(node) = caller
                        && !is_shown(tx, community, node, &record).await?
                    {
                        return Err(leaf_unknown());
                    }
                    Ok(record)
                }
                .scope_boxed()
            })
            .await
    }

    /// Auditor: entries in the order of the log, at most `size`, up to the latest checkpoint.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`; `CURSOR_INVALID` for a token of another list.
    pub(crate) async fn list_entries(
        &self,
        community: &CommunityId,
        filter: &EntryFilter,
        case_ref: Option<&str>,
        token: &str,
        size: u32,
    ) -> Result<EntryPage> {
        let digest = list_digest(community, filter, case_ref);
        let mut next = read_token(digest, token)?;
        let end = self.readable(community).await?;
        let (mut entries, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        while next < end {
            let limit = AT_A_TIME.min(size.saturating_add(1));
            let found = self.entries(community, filter, &(next..end), limit).await?;
            let is_last = found.len() < limit as usize;
            for record in found {
                if entries.len() == size as usize || bytes >= MAX_ANSWER || looked_at == LOOKED_AT {
                    let next = Some(write_token(digest, next));
                    return Ok(EntryPage { entries, next });
                }
                looked_at += 1;
                next = record.index + 1;
                if case_ref.is_none_or(|case_ref| is_of_case(&record, case_ref)) {
                    bytes += length_of(&record);
                    entries.push(record);
                }
            }
            if is_last {
                break;
            }
        }
        Ok(EntryPage {
            entries,
            next: None,
        })
    }

    /// How many leaves anybody may read: those of the latest checkpoint.
    async fn readable(&self, community: &CommunityId) -> Result<u64> {
        self.store
            .read_tx("log_size", |tx| {
                async move {
                    may_read(tx, community, None).await?;
                    signed_size(tx, community).await
                }
                .scope_boxed()
            })
            .await
    }

    async fn entries(
        &self,
        community: &CommunityId,
        filter: &EntryFilter,
        range: &Range<u64>,
        limit: u32,
    ) -> Result<Vec<LoggedRecord>> {
        self.store
            .read_tx("list_entries", |tx| {
                async move {
                    tx.get_entries(community, filter, range.clone(), limit)
                        .await
                }
                .scope_boxed()
            })
            .await
    }

    /// Auditor: what an export from this leaf on begins with.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`; `LOG_UNKNOWN` without a checkpoint, `LEAF_UNKNOWN` beyond it.
    pub(crate) async fn export_head(
        &self,
        community: &CommunityId,
        from: u64,
    ) -> Result<ExportHead> {
        self.store
            .read_tx("export_head", |tx| {
                async move {
                    may_read(tx, community, None).await?;
                    let checkpoint = latest(tx, community).await?;
                    if from > checkpoint.size {
                        return Err(leaf_unknown());
                    }
                    let mut epochs = tx.get_epochs(community).await?;
                    epochs.reverse();
                    let manifests = epochs.iter().map(|epoch| envelope(&epoch.manifest));
                    Ok(ExportHead {
                        note: note_of(&checkpoint),
                        size: checkpoint.size,
                        manifests: manifests.collect::<Result<_>>()?,
                    })
                }
                .scope_boxed()
            })
            .await
    }

    /// Auditor: the leaves of `from..end` from the first on, as many as go into one answer; at least one.
    ///
    /// # Errors
    /// If the ledger cannot be read, or does not have them.
    pub(crate) async fn export_part(
        &self,
        community: &CommunityId,
        from: u64,
        end: u64,
    ) -> Result<Vec<LoggedRecord>> {
        let step = &(from..end.min(from + u64::from(AT_A_TIME)));
        let mut leaves = self
            .store
            .read_tx("export_leaves", |tx| {
                async move { tx.get_leaves(community, step.clone()).await }.scope_boxed()
            })
            .await?;
        if leaves.is_empty() {
            let text = format!("the log of {community} has no leaf {from}");
            return Err(Error::internal(text));
        }
        let mut bytes = 0;
        let fitting = leaves.iter().take_while(|leaf| {
            let fits = bytes < MAX_ANSWER;
            bytes += length_of(leaf);
            fits
        });
        let fitting = fitting.count();
        leaves.truncate(fitting);
        Ok(leaves)
    }
}

/// Whether a node may read an entry. Of a hit in quarantine its prober learns nothing (protocol §7).
///
/// # Errors
/// If the ledger cannot be read, or its entry not.
pub(super) async fn is_shown(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
    node: &NodeId,
    record: &LoggedRecord,
) -> Result<bool> {
    let Some(opening) = &record.opening else {
        return Ok(false);
    };
    let entry = read_entry(opening.entry()).map_err(Error::internal)?;
    if !entry.is_for(node) {
        return Ok(false);
    }
    if entry.action != Action::QuarantineHit {
        return Ok(true);
    }
    let Some(id) = entry.object.hit else {
        return Ok(false);
    };
    let hit = tx.get_hit(community, node, id).await?;
    Ok(hit.is_some_and(|found| found.hit.state != HitState::Quarantined))
}

/// An erased entry has no case reference, and one that cannot be read neither.
fn is_of_case(record: &LoggedRecord, case_ref: &str) -> bool {
    let entry = record
        .opening
        .as_ref()
        .map(sotto_common::log::leaf::Opening::entry);
    let entry = entry.and_then(|entry| read_entry(entry).ok());
    let grounds = entry.and_then(|entry| entry.grounds);
    grounds.is_some_and(|grounds| grounds.case_ref() == case_ref)
}

/// Bytes of a leaf with its opening.
pub(super) fn length_of(record: &LoggedRecord) -> usize {
    let entry = record.opening.as_ref();
    record.leaf.len() + entry.map_or(0, |opening| opening.entry().len())
}

/// A token is the digest of the list that it belongs to and the place to go on at, in hex.
fn write_token(digest: [u8; 8], next: u64) -> String {
    hex::encode([digest, next.to_be_bytes()].concat())
}

fn read_token(digest: [u8; 8], token: &str) -> Result<u64> {
    if token.is_empty() {
        return Ok(0);
    }
    let mut bytes = [0; 16];
    let decoded = hex::decode_to_slice(token, &mut bytes).ok();
    let next = decoded.and_then(|()| bytes.strip_prefix(&digest)?.try_into().ok());
    next.map(u64::from_be_bytes).ok_or_else(|| {
        let text = "the token is not of a page of this list: begin again without one";
        Error::new(ErrorCode::CursorInvalid, text).about("page_token")
    })
}

fn list_digest(community: &CommunityId, filter: &EntryFilter, case_ref: Option<&str>) -> [u8; 8] {
    let digest = Sha256::digest(format!("{community} {filter:?} {case_ref:?}"));
    let mut short = [0; 8];
    short.copy_from_slice(&digest[..8]);
    short
}
