//! Publications: announce, upload, activate, withdraw, expire (protocol §5.3, §5.4, §6).

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use prost::Message as _;
use scoped_futures::ScopedFutureExt as _;
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::filter::Class;
use sotto_common::filter::admission::{self, Facts, Offer};
use sotto_common::filter::layers::MAX_SUPPLEMENTS;
use sotto_common::ids::{CommunityId, Epoch, NodeId, PublicationId};
use sotto_common::membership::{EpochState, Manifest};
use sotto_common::publication::{FilterHeader, LayerRole, MAX_CHUNK, PublicationState};
use sotto_common::selector::Policy;
use sotto_proto::convert;
use sotto_proto::v1;

use super::{Broker, active_epoch, blocking, enrolled, envelope};
use crate::datastore::{Limits, PublicationRecord, StackKey, Tx};
use crate::matcher::{Layer, LayerFacts, MappedFilter};

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

    /// Brings the files in line with the ledger after a stop of any kind, and maps what is active.
    pub(super) async fn recover_filters(&self) -> Result<()> {
        let (active, uploading) = self
            .store
            .read_tx("recover_filters", |tx| {
                async move {
                    let active = tx.get_publications_in(PublicationState::Active).await?;
                    let uploading = tx.get_publications_in(PublicationState::Uploading).await?;
                    Ok((active, uploading))
                }
                .scope_boxed()
            })
            .await?;
        for record in &uploading {
            // Sealed, but the stop came before its activation: its bits are an upload again.
            if self.files.exists(record.id, &record.digest) {
                self.files.unseal(record.id, &record.digest)?;
            }
        }
        let uploads = uploading.iter().map(|record| record.id).collect();
        let filters = active.iter().map(|record| (record.id, record.digest));
        let filters: HashSet<_> = filters.collect();
        let swept = self
            .files
            .sweep(&uploads, &filters)
            .map_err(Error::internal)?;
        let mapped = active.len();
        for record in active {
            let layer = self.layer(&record, true).await?;
            self.map(&record, layer);
        }
        tracing::info!(
            mapped,
            uploads = uploading.len(),
            swept,
            "filters recovered"
        );
        Ok(())
    }

    /// Ends the publications whose time is over.
    pub(super) async fn expire_publications(&self) -> Result<()> {
        let now = self.now();
        for state in [PublicationState::Active, PublicationState::Uploading] {
            self.end_publications("expire_publications", state, |record| {
                record.expires_at <= now
            })
            .await?;
        }
        for (community, epoch) in self.ended_epochs_with_filters().await? {
            self.delete_filters_of(&community, epoch).await?;
        }
        Ok(())
    }

    /// Epochs that have ended and still have filters: the broker stopped between the two.
    async fn ended_epochs_with_filters(&self) -> Result<BTreeSet<(CommunityId, Epoch)>> {
        self.store
            .run_tx("ended_epochs_with_filters", |tx| {
                async move {
                    let mut epochs = BTreeSet::new();
                    for state in [PublicationState::Active, PublicationState::Uploading] {
                        let records = tx.get_publications_in(state).await?;
                        epochs.extend(records.into_iter().map(|r| (r.key.community, r.key.epoch)));
                    }
                    let mut ended = BTreeSet::new();
                    for (community, epoch) in epochs {
                        let record = super::known_epoch(tx, &community, epoch).await?;
                        if record.state == EpochState::Ended {
                            ended.insert((community, epoch));
                        }
                    }
                    Ok(ended)
                }
                .scope_boxed()
            })
            .await
    }

    /// Ends all publications of an epoch; its filters are deleted (protocol §8).
    pub(super) async fn delete_filters_of(
        &self,
        community: &CommunityId,
        epoch: Epoch,
    ) -> Result<()> {
        for state in [PublicationState::Active, PublicationState::Uploading] {
            self.end_publications("end_publications", state, |record| {
                record.key.community == *community && record.key.epoch == epoch
            })
            .await?;
        }
        Ok(())
    }

    async fn end_publications(
        &self,
        name: &'static str,
        state: PublicationState,
        which: impl Fn(&PublicationRecord) -> bool + Sync,
    ) -> Result<()> {
        let exclusive = self.matching.write().await;
        let which = &which;
        let gone = self
            .store
            .run_tx(name, |tx| {
                async move {
                    let mut gone = tx.get_publications_in(state).await?;
                    gone.retain(which);
                    for record in &gone {
                        let expired = record.state.transition(PublicationState::Expired)?;
                        tx.update_publication(record.id, expired, record.fpr)
                            .await?;
                    }
                    Ok(gone)
                }
                .scope_boxed()
            })
            .await?;
        for record in &gone {
            self.unmap(&record.key, &record.holder, std::slice::from_ref(record));
        }
        drop(exclusive);
        self.delete_files(gone).await
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

    /// Opens a sealed filter; `verify` reads it whole and compares its digest.
    async fn layer(&self, record: &PublicationRecord, verify: bool) -> Result<Arc<Layer>> {
        let header = header_of(record)?;
        let (path, digest) = (self.files.path(record.id, &record.digest), record.digest);
        let length = header.params.byte_len();
        let bits = blocking(move || {
            let bits = MappedFilter::open(&path, length).map_err(Error::internal)?;
            if verify && Sha256::digest(bits.bytes())[..] != digest {
                return Err(Error::internal("a filter file is not what was published"));
            }
            Ok(bits)
        })
        .await?;
        let facts = LayerFacts {
            publication: record.id,
            version: record.version,
            audience: header.audience,
            params: header.params,
            salt: header.salt,
            fpr: record.fpr,
            expires_at: record.expires_at,
        };
        Ok(Arc::new(Layer::new(facts, bits)))
    }

    fn map(&self, record: &PublicationRecord, layer: Arc<Layer>) {
        let mut layers = self.matcher.stack(&record.key, &record.holder);
        layers.push(layer);
        self.matcher.set_stack(&record.key, &record.holder, layers);
    }

    fn unmap(&self, key: &StackKey, holder: &NodeId, gone: &[PublicationRecord]) {
        let mut layers = self.matcher.stack(key, holder);
        layers.retain(|layer| !gone.iter().any(|record| record.id == layer.publication));
        self.matcher.set_stack(key, holder, layers);
    }

    async fn delete_files(&self, gone: Vec<PublicationRecord>) -> Result<()> {
        let files = self.files.clone();
        blocking(move || {
            for record in gone {
                files.delete_upload(record.id);
                files.delete(record.id, &record.digest);
                tracing::info!(publication = %record.id, holder = %record.holder, "filter deleted");
            }
            Ok(())
        })
        .await
    }
}

/// What an announced publication answers to its header sent again.
fn known_publication(
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
async fn check_header(
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
async fn check_layer(tx: &mut (dyn Tx + '_), key: &StackKey, header: &FilterHeader) -> Result<()> {
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

/// Activates a publication in the ledger and ends what it replaces, which is returned.
async fn switch(
    tx: &mut (dyn Tx + '_),
    record: &PublicationRecord,
    fpr: f64,
) -> Result<Vec<PublicationRecord>> {
    let mut replaced = Vec::new();
    if record.supplement_of.is_none() {
        replaced = tx.get_stack(&record.key, &record.holder).await?;
        for layer in &replaced {
            let state = layer.state.transition(PublicationState::Replaced)?;
            tx.update_publication(layer.id, state, layer.fpr).await?;
        }
    }
    let state = record.state.transition(PublicationState::Active)?;
    tx.update_publication(record.id, state, fpr).await?;
    tx.put_version(&record.key, &record.holder, record.version)
        .await?;
    Ok(replaced)
}

fn key_of(header: &FilterHeader) -> StackKey {
    StackKey {
        community: header.community.clone(),
        epoch: header.epoch,
        policy: header.policy,
    }
}

fn offer_of(header: &FilterHeader) -> Offer {
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

fn record_of(header: &FilterHeader, bytes: Vec<u8>) -> PublicationRecord {
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
    }
}

fn header_of(record: &PublicationRecord) -> Result<FilterHeader> {
    convert::read_unverified(&envelope(&record.header)?)
}

/// Salts are remembered for ever, but only as digests.
fn salt_digest(header: &FilterHeader) -> [u8; 32] {
    Sha256::digest(header.salt.expose()).into()
}

/// Refusals that no second try with the same bits can change.
fn is_final(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::FilterDigest
            | ErrorCode::FilterPopcount
            | ErrorCode::FilterRate
            | ErrorCode::CanaryMissing
            | ErrorCode::FilterLength
    )
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
