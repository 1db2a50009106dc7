//! Publications: announce, upload, activate, withdraw (protocol §5.3, §5.4, §6).

mod checks;
mod stacks;

use prost::Message as _;
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::filter::admission;
use sotto_common::ids::{CommunityId, Epoch, NodeId, PublicationId};
use sotto_common::publication::{FilterHeader, MAX_CHUNK, PublicationState};
use sotto_common::selector::Policy;
use sotto_proto::convert;
use sotto_proto::v1;

use self::checks::{
    check_header, header_of, is_final, known_publication, offer_of, record_of, salt_digest, switch,
};
use super::{Broker, active_epoch, blocking, enrolled};
use crate::datastore::{PublicationRecord, StackKey};
use crate::matcher::MappedFilter;

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
        let now = self.now();
        let state = self
            .store
            .run_tx("create_publication", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    if let Some(known) = tx.get_publication(header.publication).await? {
                        return known_publication(&known, caller, header);
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
                    tx.put_publication(&record_of(header, bytes.clone()))
                        .await?;
                    Ok(PublicationState::Uploading)
                }
                .scope_boxed()
            })
            .await?;
        let acknowledged = match state {
            PublicationState::Uploading => self.files.acknowledged(header.publication)?,
            _ => header.params.byte_len(),
        };
        Ok((acknowledged, state))
    }

    /// Holder: the upload that chunks may be appended to, with its length in bytes.
    ///
    /// # Errors
    /// `PUBLICATION_UNKNOWN`, `PUBLICATION_STATE` if it is not uploading.
    pub(crate) async fn upload_length(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        id: PublicationId,
    ) -> Result<u64> {
        let record = self.own_publication(caller, community, id).await?;
        if record.state != PublicationState::Uploading {
            return Err(not_uploading(record.state));
        }
        Ok(header_of(&record)?.params.byte_len())
    }

    /// Holder: appends a chunk to an upload of `length` bytes; returns what is acknowledged.
    ///
    /// # Errors
    /// `INVALID_FIELD` for an empty or oversized chunk, `OFFSET_MISMATCH`, `FILTER_LENGTH`,
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
        let length = self.upload_length(caller, community, id).await?;
        let files = self.files.clone();
        blocking(move || files.append(id, offset, &data, length)).await
    }

    /// Holder: checks the uploaded bits and makes the filter active. Idempotent.
    ///
    /// # Errors
    /// The rules of protocol §5.3; a filter that breaks rule 2, 3 or 4 or has another digest is
    /// refused for good and its upload deleted.
    pub(crate) async fn activate(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        id: PublicationId,
    ) -> Result<PublicationRecord> {
        let _turn = self.upload_lock(id).lock().await;
        let record = self.own_publication(caller, community, id).await?;
        match record.state {
            PublicationState::Active => return Ok(record),
            PublicationState::Uploading => {}
            state => return Err(not_uploading(state)),
        }
        let header = header_of(&record)?;
        let acknowledged = self.files.acknowledged(id)?;
        let length = header.params.byte_len();
        if acknowledged != length {
            let text = format!("{acknowledged} of {length} bytes are here: upload the rest first");
            return Err(Error::new(ErrorCode::FilterLength, text));
        }
        let fpr = match self.check_upload(&header).await {
            Ok(fpr) => fpr,
            Err(error) => {
                if is_final(error.code) {
                    self.refuse(id).await?;
                }
                return Err(error);
            }
        };
        self.make_active(&record, &header, fpr).await
    }

    /// Holder: withdraws a publication; it matches nothing once this returns. Idempotent.
    ///
    /// # Errors
    /// `PUBLICATION_UNKNOWN`.
    pub(crate) async fn withdraw(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        id: PublicationId,
    ) -> Result<()> {
        let _turn = self.upload_lock(id).lock().await;
        let record = &self.own_publication(caller, community, id).await?;
        let exclusive = self.matching.write().await;
        let gone = self
            .store
            .run_tx("withdraw_publication", |tx| {
                async move {
                    let mut gone = Vec::new();
                    if record.state == PublicationState::Uploading {
                        gone.push(record.clone());
                    }
                    for layer in tx.get_stack(&record.key, caller).await? {
                        // A base takes its supplements with it (protocol §5.4).
                        if layer.id == id || layer.supplement_of == Some(record.version) {
                            gone.push(layer);
                        }
                    }
                    for layer in &gone {
                        let state = layer.state.transition(PublicationState::Withdrawn)?;
                        tx.update_publication(layer.id, state, layer.fpr).await?;
                    }
                    Ok(gone)
                }
                .scope_boxed()
            })
            .await?;
        self.unmap(&record.key, caller, &gone);
        drop(exclusive);
        self.delete_files(gone).await
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
                async move {
                    enrolled(tx, community, caller).await?;
                    let known = tx.get_publication(id).await?;
                    known
                        .filter(|record| {
                            record.holder == *caller && record.key.community == *community
                        })
                        .ok_or_else(unknown)
                }
                .scope_boxed()
            })
            .await
    }

    /// Rules 1 (digest), 2, 3 and 4 over the uploaded bits; returns f.
    async fn check_upload(&self, header: &FilterHeader) -> Result<f64> {
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
        let path = self.files.upload_path(header.publication);
        let (offer, params) = (offer_of(header), header.params);
        blocking(move || {
            let bits = MappedFilter::open(&path, params.byte_len()).map_err(Error::unavailable)?;
            Ok(admission::check_bits(&offer, params, &canaries, bits.bytes())?.rate)
        })
        .await
    }

    async fn refuse(&self, id: PublicationId) -> Result<()> {
        self.store
            .run_tx("refuse_publication", |tx| {
                async move {
                    tx.update_publication(id, PublicationState::Refused, 0.0)
                        .await
                }
                .scope_boxed()
            })
            .await?;
        self.files.delete_upload(id);
        Ok(())
    }

    /// Seals the bits, then in one step of the ledger activates them and ends what they replace.
    async fn make_active(
        &self,
        record: &PublicationRecord,
        header: &FilterHeader,
        fpr: f64,
    ) -> Result<PublicationRecord> {
        let (files, id, digest) = (self.files.clone(), record.id, record.digest);
        blocking(move || files.seal(id, &digest)).await?;
        let active = PublicationRecord {
            state: PublicationState::Active,
            fpr,
            ..record.clone()
        };
        // Mapped before the commit: what the ledger calls active must match.
        let layer = match self.layer(&active, false).await {
            Ok(layer) => layer,
            Err(error) => {
                self.files.unseal(id, &digest)?;
                return Err(error);
            }
        };
        let exclusive = self.matching.write().await;
        let now = self.now();
        let switched = self
            .store
            .run_tx("activate_publication", |tx| {
                async move {
                    let (_, manifest) =
                        active_epoch(tx, &header.community, header.epoch, now).await?;
                    enrolled(tx, &header.community, &header.holder).await?;
                    header.check_times(now, manifest.not_after)?;
                    check_header(tx, header, &manifest).await?;
                    switch(tx, record, fpr).await
                }
                .scope_boxed()
            })
            .await;
        let replaced = match switched {
            Ok(replaced) => replaced,
            Err(error) => {
                self.files.unseal(id, &digest)?;
                return Err(error);
            }
        };
        self.unmap(&record.key, &record.holder, &replaced);
        self.map(&active, layer);
        drop(exclusive);
        self.delete_files(replaced).await?;
        Ok(active)
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
