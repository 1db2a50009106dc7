//! Publications: announce, upload, activate, withdraw (protocol §5.3, §5.4, §6).

mod checks;
mod stacks;

use std::path::Path;

use prost::Message as _;
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::filter::admission;
use sotto_common::ids::{CommunityId, Epoch, NodeId, PublicationId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::publication::{FilterHeader, MAX_CHUNK, PublicationState};
use sotto_common::random::os_rng;
use sotto_common::selector::Policy;
use sotto_proto::convert;
use sotto_proto::v1;

use self::checks::{
    check_chunk, check_header, header_of, is_final, known_publication, offer_of, own_publication,
    record_of, salt_digest, switch,
};
pub(super) use self::stacks::length_of;
use self::stacks::{Ending, Moves, end};
use super::journal::{self, about};
use super::{Broker, active_epoch, blocking, enrolled};
use crate::cache::Part;
use crate::datastore::{ChunkRecord, PublicationRecord, StackKey};
use crate::matcher::MappedFilter;
use crate::objects::ObjectKey;

/// Most uploads that a node may have open in a community.
const MAX_UPLOADS: u64 = 32;

/// Most publications that one answer lists.
const MAX_LISTED: u32 = 1000;

impl Broker {
    /// Holder: announces a publication; returns what is acknowledged, and its state. Idempotent by
    /// publication id.
    ///
    /// # Errors
    /// Every refusal of protocol §5.3 that the header alone decides, and `PUBLICATION_STATE` for
    /// the same id with another header.
    pub(crate) async fn create_publication(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        signed: &v1::DsseEnvelope,
    ) -> Result<(u64, PublicationState)> {
        let header: FilterHeader = convert::read_unverified(signed)?;
        if header.holder != *caller || header.community != *community {
            return Err(Error::field(
                "holder",
                "must be the caller, in this community",
            ));
        }
        let (header, bytes) = (&header, &signed.encode_to_vec());
        let (now, journal) = (self.now(), &self.journal);
        let (acknowledged, state, generation) = self
            .store
            .run_tx("create_publication", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    if let Some(known) = tx.get_publication(header.publication).await? {
                        let state = known_publication(&known, caller, header)?;
                        let (acknowledged, _) = tx.get_acknowledged(known.id).await?;
                        return Ok((acknowledged, state, known.generation));
                    }
                    let (_, manifest) = active_epoch(tx, community, header.epoch, now).await?;
                    let member = &manifest.member(caller)?.signing;
                    convert::verify::<FilterHeader>(signed, member)?;
                    header.check_times(now, manifest.not_after)?;
                    check_header(tx, header, &manifest).await?;
                    if tx.count_uploads(community, caller).await? >= MAX_UPLOADS {
                        let text = "too many open uploads: activate or withdraw some";
                        return Err(Error::new(ErrorCode::LimitReached, text));
                    }
                    tx.put_salt(community, &salt_digest(header), header.publication)
                        .await?;
                    let record = record_of(header, bytes.clone());
                    tx.put_publication(&record).await?;
                    let action = Action::AnnouncePublication;
                    let entry = Entry {
                        // The header has the salt.
                        statement: Some(journal::digest_of(signed)),
                        ..journal.by_node(caller, action, community, now)?
                    };
                    journal::put(tx, &about::publication(entry, &record)).await?;
                    Ok((0, PublicationState::Uploading, 0))
                }
                .scope_boxed()
            })
            .await?;
        if state == PublicationState::Active {
            // Its activation may have been answered by nobody yet.
            self.until_all_match(generation).await?;
        }
        Ok(match state {
            PublicationState::Uploading => (acknowledged, state),
            _ => (header.params.byte_len(), state),
        })
    }

    /// Holder: appends a chunk to an upload; returns how many bytes are acknowledged.
    ///
    /// # Errors
    /// `INVALID_FIELD` for an empty or oversized chunk, `OFFSET_MISMATCH` with the offset to go on
    /// from, `FILTER_LENGTH` beyond the filter's length, `LIMIT_REACHED` for too many small chunks,
    /// `PUBLICATION_STATE` once it is no longer uploading.
    pub(crate) async fn append(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        id: PublicationId,
        offset: u64,
        data: prost::bytes::Bytes,
    ) -> Result<u64> {
        if data.is_empty() || data.len() > MAX_CHUNK {
            return Err(Error::field("data", "1 to 1048576 bytes"));
        }
        let _turn = self.upload_lock(id).lock().await;
        let chunk = &ChunkRecord {
            publication: id,
            start: offset,
            length: data.len() as u64,
            object: ObjectKey::generate(id, &mut os_rng()),
        };
        // Asked twice: before the bytes are stored, and when they are acknowledged.
        self.store
            .read_tx("check_chunk", |tx| {
                async move { check_chunk(tx, caller, community, chunk).await }.scope_boxed()
            })
            .await?;
        self.objects.put(&chunk.object, data).await?;
        self.store
            .run_tx("append_chunk", |tx| {
                async move {
                    let number = check_chunk(tx, caller, community, chunk).await?;
                    tx.put_chunk(chunk, number).await
                }
                .scope_boxed()
            })
            .await?;
        Ok(offset + chunk.length)
    }

    /// Holder: checks the uploaded bits and makes the filter active at every broker. Idempotent.
    ///
    /// # Errors
    /// The rules of protocol §5.3; a filter that breaks rule 2, 3 or 4 or has another digest is
    /// refused for good and its upload deleted. `UNAVAILABLE` if another broker does not match with
    /// it yet: the call is then to be made again.
    pub(crate) async fn activate(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        id: PublicationId,
    ) -> Result<PublicationRecord> {
        let turn = self.upload_lock(id).lock().await;
        let record = self.own_publication(caller, community, id).await?;
        let (active, moves) = match record.state {
            PublicationState::Active => (record, Moves::of([])),
            PublicationState::Uploading => match self.make_active(&record).await {
                Ok(switched) => switched,
                Err(error) => (self.settle(&record, error).await?, Moves::of([])),
            },
            state => return Err(not_uploading(state)),
        };
        drop(turn);
        self.until_all_match(active.generation).await?;
        self.delete_objects(moves).await;
        Ok(active)
    }

    /// Holder: withdraws a publication; it matches nothing at any broker once this returns.
    /// Idempotent.
    ///
    /// # Errors
    /// `PUBLICATION_UNKNOWN`; `UNAVAILABLE` if another broker may still match with it: the call is
    /// then to be made again.
    pub(crate) async fn withdraw(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        id: PublicationId,
    ) -> Result<()> {
        let turn = self.upload_lock(id).lock().await;
        let ending = &Ending {
            journal: &self.journal,
            by: Some(caller),
            action: Action::WithdrawPublication,
            state: PublicationState::Withdrawn,
            why: "",
            now: self.now(),
        };
        let moves = self
            .store
            .run_tx("withdraw_publication", |tx| {
                async move {
                    let record = own_publication(tx, caller, community, id).await?;
                    let stack = tx.get_stack(&record.key, caller).await?;
                    let is_base =
                        record.state == PublicationState::Active && record.supplement_of.is_none();
                    let mut gone = Vec::new();
                    for layer in stack {
                        // A base takes its supplements with it (protocol §5.4).
                        let with_it = is_base && layer.supplement_of == Some(record.version);
                        if layer.id == id || with_it {
                            gone.push(layer);
                        }
                    }
                    let ended_in = record.generation;
                    if record.state == PublicationState::Uploading {
                        gone.push(record);
                    }
                    let mut moves = end(tx, gone, ending).await?;
                    // One that had ended before may still be waited for.
                    moves.generation = moves.generation.max(ended_in);
                    Ok(moves)
                }
                .scope_boxed()
            })
            .await?;
        drop(turn);
        self.until_all_match(moves.generation).await?;
        self.delete_objects(moves).await;
        Ok(())
    }

    /// Holder: its publications in an epoch, and its last accepted version per policy.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`, `EPOCH_UNKNOWN`.
    pub(crate) async fn publications(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        epoch: Epoch,
        policy: Option<Policy>,
    ) -> Result<(Vec<PublicationRecord>, Vec<(Policy, u64)>)> {
        self.store
            .read_tx("list_publications", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    super::known_epoch(tx, community, epoch).await?;
                    let rows = tx
                        .get_publications(community, epoch, caller, policy, MAX_LISTED)
                        .await?;
                    let mut versions = Vec::new();
                    for &policy in Policy::ALL {
                        let key = StackKey {
                            community: community.clone(),
                            epoch,
                            policy,
                        };
                        let version = tx.get_version(&key, caller).await?;
                        if version > 0 {
                            versions.push((policy, version));
                        }
                    }
                    Ok((rows, versions))
                }
                .scope_boxed()
            })
            .await
    }

    async fn own_publication(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        id: PublicationId,
    ) -> Result<PublicationRecord> {
        self.store
            .read_tx("get_publication", |tx| {
                async move { own_publication(tx, caller, community, id).await }.scope_boxed()
            })
            .await
    }

    /// Puts an upload together in a file of the cache.
    async fn assemble(&self, header: &FilterHeader) -> Result<Part> {
        let (id, length) = (header.publication, header.params.byte_len());
        let chunks = self
            .store
            .read_tx("get_chunks", |tx| {
                async move { tx.get_chunks(id).await }.scope_boxed()
            })
            .await?;
        let acknowledged: u64 = chunks.iter().map(|chunk| chunk.length).sum();
        if acknowledged != length {
            let text = format!("{acknowledged} of {length} bytes are here: upload the rest first");
            return Err(Error::new(ErrorCode::FilterLength, text));
        }
        let chunks: Vec<_> = chunks.into_iter().map(|c| (c.object, c.length)).collect();
        let mut part = self.cache.new_part(id).await?;
        self.objects.get_chunks(&chunks, part.file()).await?;
        Ok(part)
    }

    /// Rules 1 (digest), 2, 3 and 4 over the uploaded bits; returns f.
    async fn check_upload(&self, header: &FilterHeader, bits: &Path) -> Result<f64> {
        let now = self.now();
        let canaries = self
            .store
            .read_tx("check_upload", |tx| {
                async move {
                    let (_, manifest) =
                        active_epoch(tx, &header.community, header.epoch, now).await?;
                    Ok(manifest.policy(header.policy)?.canary_tags.clone())
                }
                .scope_boxed()
            })
            .await?;
        let (path, offer, params) = (bits.to_owned(), offer_of(header), header.params);
        blocking(move || {
            let bits = MappedFilter::open(&path, params.byte_len()).map_err(Error::unavailable)?;
            Ok(admission::check_bits(&offer, params, &canaries, bits.bytes())?.rate)
        })
        .await
    }

    /// What comes of an activation that failed: another broker may have been asked to do the same.
    /// Bits that break a rule are refused for good.
    async fn settle(&self, record: &PublicationRecord, error: Error) -> Result<PublicationRecord> {
        if error.code == ErrorCode::Unavailable {
            return Err(error);
        }
        let refuse = is_final(error.code);
        let ending = &Ending {
            journal: &self.journal,
            by: Some(&record.holder),
            action: Action::RejectPublication,
            state: PublicationState::Refused,
            why: error.code.as_str(),
            now: self.now(),
        };
        let (now, moves) = self
            .store
            .run_tx("settle_publication", |tx| {
                async move {
                    let now = tx.get_publication(record.id).await?.ok_or_else(unknown)?;
                    let refused = refuse && now.state == PublicationState::Uploading;
                    let gone = if refused { vec![now.clone()] } else { vec![] };
                    Ok((now, end(tx, gone, ending).await?))
                }
                .scope_boxed()
            })
            .await?;
        self.delete_objects(moves).await;
        match now.state {
            PublicationState::Active => Ok(now),
            PublicationState::Uploading => Err(error),
            state => Err(not_uploading(state)),
        }
    }

    /// Checks the bits and stores them as one object, then in one step of the ledger activates them
    /// and ends what they replace.
    async fn make_active(&self, record: &PublicationRecord) -> Result<(PublicationRecord, Moves)> {
        let header = &header_of(record)?;
        let part = self.assemble(header).await?;
        let fpr = self.check_upload(header, part.path()).await?;
        let object = ObjectKey::generate(record.id, &mut os_rng());
        self.objects.put_file(&object, part.path()).await?;
        // The copy that this broker will map. Of no use, and no harm, if it comes to nothing.
        self.cache.adopt(part, &record.digest).await?;
        let checked = &PublicationRecord {
            fpr,
            object: Some(object),
            ..record.clone()
        };
        let (now, journal) = (self.now(), &self.journal);
        let switched = self
            .store
            .run_tx("activate_publication", |tx| {
                async move {
                    let (_, manifest) =
                        active_epoch(tx, &header.community, header.epoch, now).await?;
                    enrolled(tx, &header.community, &header.holder).await?;
                    header.check_times(now, manifest.not_after)?;
                    check_header(tx, header, &manifest).await?;
                    switch(tx, journal, checked, now).await
                }
                .scope_boxed()
            })
            .await;
        if let Err(error) = &switched
            // Out of reach, the ledger may have taken it all the same.
            && error.code != ErrorCode::Unavailable
        {
            self.delete_objects(Moves::of(checked.object.clone())).await;
        }
        switched
    }
}

fn unknown() -> Error {
    Error::new(
        ErrorCode::PublicationUnknown,
        "no publication of the caller has this id",
    )
}

fn not_uploading(state: PublicationState) -> Error {
    Error::new(
        ErrorCode::PublicationState,
        format!("the publication is {state}"),
    )
}
