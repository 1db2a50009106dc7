//! The life of epochs: open, confirm, activate, end (protocol §8).

use std::collections::BTreeMap;

use prost::Message as _;
use scoped_futures::ScopedFutureExt as _;
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, Epoch, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::membership::{EpochState, KeyConfirmation, MAX_EPOCH, Manifest};
use sotto_common::sealed::Sealed;
use sotto_proto::convert;
use sotto_proto::v1;

use super::journal::{self, about};
use super::membership::{check_profile, may_read, statement_of};
use super::{Broker, enrolled, envelope, known_epoch, manifest_of};
use crate::datastore::{Act, EpochRecord, MemberRecord, Tx};

/// How many numbers a new epoch may leave out: one slip must not use up all numbers for ever.
const MAX_EPOCH_STEP: u32 = 1000;

/// An epoch with its members, for one reader.
pub(crate) struct EpochView {
    pub(crate) record: EpochRecord,
    pub(crate) members: Vec<MemberRecord>,
}

impl Broker {
    /// Custodian: opens an epoch. Idempotent for the same manifest.
    ///
    /// # Errors
    /// `MANIFEST_INVALID`, `SIGNATURE_INVALID`, `NOT_A_MEMBER`, `INVALID_FIELD` for envelopes that
    /// are not one per member.
    pub(crate) async fn open_epoch(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        signed: &v1::DsseEnvelope,
        envelopes: &[v1::SealedEpochKey],
    ) -> Result<()> {
        let manifest: Manifest = convert::read_unverified(signed)?;
        if manifest.custodian != *caller || manifest.community != *community {
            return Err(invalid("the manifest is of another custodian or community"));
        }
        if manifest.not_after <= self.now() {
            return Err(invalid("the epoch is over already"));
        }
        if manifest.not_before > self.now().plus(MAX_EPOCH) {
            return Err(invalid("an epoch begins at most 31 days from now"));
        }
        check_profile(&manifest.profile)?;
        let members = &sealed_to_each(&manifest, envelopes)?;
        let record = &EpochRecord {
            epoch: manifest.epoch,
            state: EpochState::Open,
            manifest: signed.encode_to_vec(),
            custodian: manifest.custodian.clone(),
            kid: manifest.kid(),
            not_before: manifest.not_before,
            not_after: manifest.not_after,
        };
        let manifest = &manifest;
        let (now, journal) = (self.now(), &self.journal);
        self.store
            .run_tx("open_epoch", |tx| {
                async move {
                    check_custodian(tx, manifest, signed).await?;
                    let latest = tx.get_epochs(community).await?.into_iter().next();
                    let latest_number = latest.as_ref().map_or(0, |latest| latest.epoch.get());
                    if let Some(latest) = latest.filter(|latest| latest.epoch >= manifest.epoch) {
                        // The answer to the first call may have been lost.
                        if latest.manifest == record.manifest {
                            return Ok(());
                        }
                        return Err(invalid("epochs are numbered upwards"));
                    }
                    if manifest.epoch.get() > latest_number.saturating_add(MAX_EPOCH_STEP) {
                        return Err(invalid("the number leaves out more than 1000 epochs"));
                    }
                    check_members(tx, manifest).await?;
                    tx.put_epoch(community, record, members).await?;
                    let entry = Entry {
                        statement: Some(journal::digest_of(signed)),
                        ..journal.by_node(caller, Action::OpenEpoch, community, now)?
                    };
                    journal::put(tx, &about::epoch(entry, record.epoch)).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Member: an epoch with the envelope sealed to the caller; `None` = the latest.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`, `EPOCH_UNKNOWN`.
    pub(crate) async fn epoch(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        epoch: Option<Epoch>,
    ) -> Result<EpochView> {
        self.store
            .read_tx("get_epoch", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    let record = match epoch {
                        Some(epoch) => known_epoch(tx, community, epoch).await?,
                        None => tx
                            .get_epochs(community)
                            .await?
                            .into_iter()
                            .next()
                            .ok_or_else(|| {
                                Error::new(ErrorCode::EpochUnknown, "no epoch was opened yet")
                            })?,
                    };
                    let members = tx.get_members(community, record.epoch).await?;
                    Ok(EpochView { record, members })
                }
                .scope_boxed()
            })
            .await
    }

    /// Every epoch of a community, latest first; `member` must be enrolled, if one asks.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`.
    pub(crate) async fn epochs(
        &self,
        community: &CommunityId,
        member: Option<&NodeId>,
    ) -> Result<Vec<EpochView>> {
        self.store
            .read_tx("list_epochs", |tx| {
                async move {
                    may_read(tx, community, member).await?;
                    let mut views = Vec::new();
                    for record in tx.get_epochs(community).await? {
                        let members = tx.get_members(community, record.epoch).await?;
                        views.push(EpochView { record, members });
                    }
                    Ok(views)
                }
                .scope_boxed()
            })
            .await
    }

    /// Member: confirms the epoch key. The last confirmation activates the epoch. Idempotent.
    ///
    /// # Errors
    /// `KEY_MISMATCH` for another KID or manifest, `SIGNATURE_INVALID`, `EPOCH_NOT_ACTIVE` if the
    /// epoch has ended.
    pub(crate) async fn confirm_epoch(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        signed: &v1::DsseEnvelope,
    ) -> Result<EpochState> {
        let claimed: KeyConfirmation = convert::read_unverified(signed)?;
        if claimed.node != *caller || claimed.community != *community {
            return Err(Error::field(
                "confirmation",
                "must be the caller's, for this community",
            ));
        }
        let (now, journal) = (self.now(), &self.journal);
        let (claimed, bytes) = (&claimed, &signed.encode_to_vec());
        self.store
            .run_tx("confirm_epoch", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    let record = known_epoch(tx, community, claimed.epoch).await?;
                    check_confirmation(&record, signed, claimed)?;
                    let members = tx.get_members(community, record.epoch).await?;
                    // A confirmation says the same whenever it is made.
                    let mut own = members.iter().filter(|m| m.node == *caller);
                    if own.any(|m| m.confirmed) {
                        return Ok(record.state);
                    }
                    tx.update_confirmation(community, record.epoch, caller, bytes)
                        .await?;
                    let entry = Entry {
                        statement: Some(journal::statement(signed)?),
                        ..journal.by_node(caller, Action::ConfirmEpoch, community, now)?
                    };
                    journal::put(tx, &about::epoch(entry, record.epoch)).await?;
                    let mut others = members.iter().filter(|m| m.node != *caller);
                    if record.state == EpochState::Open && others.all(|m| m.confirmed) {
                        let entry =
                            journal.by_node(caller, Action::ActivateEpoch, community, now)?;
                        return move_epoch(tx, &record, EpochState::Active, entry).await;
                    }
                    Ok(record.state)
                }
                .scope_boxed()
            })
            .await
    }

    /// Custodian: activates the epoch with the confirmations that are there. Idempotent.
    ///
    /// # Errors
    /// `ROLE_FORBIDDEN` for another node, `EPOCH_NOT_ACTIVE` if the epoch has ended.
    pub(crate) async fn close_confirmations(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        epoch: Epoch,
    ) -> Result<()> {
        let (now, journal) = (self.now(), &self.journal);
        self.store
            .run_tx("close_confirmations", |tx| {
                async move {
                    let record = custodian_epoch(tx, caller, community, epoch).await?;
                    match record.state {
                        EpochState::Open => {
                            let entry =
                                journal.by_node(caller, Action::ActivateEpoch, community, now)?;
                            let active = move_epoch(tx, &record, EpochState::Active, entry);
                            active.await.map(drop)
                        }
                        EpochState::Active => Ok(()),
                        EpochState::Ended => Err(ended()),
                    }
                }
                .scope_boxed()
            })
            .await
    }

    /// Custodian: ends the epoch; its filters stop matching before this returns. Idempotent.
    ///
    /// # Errors
    /// `ROLE_FORBIDDEN` for another node.
    pub(crate) async fn end_epoch(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        epoch: Epoch,
    ) -> Result<()> {
        self.end(Some(caller), community, epoch).await
    }

    /// Operator: suspends a node; every epoch that lists it ends at once (protocol §8).
    ///
    /// # Errors
    /// `NOT_A_MEMBER` if it is not enrolled.
    pub(crate) async fn suspend(
        &self,
        operator: &str,
        community: &CommunityId,
        node: &NodeId,
        reason: &str,
    ) -> Result<Vec<Epoch>> {
        if reason.trim().is_empty() {
            return Err(Error::field("reason", "say why"));
        }
        let (at, journal) = (self.now(), &self.journal);
        let epochs = self
            .store
            .run_tx("suspend_node", |tx| {
                async move {
                    enrolled(tx, community, node).await?;
                    tx.update_suspension(community, node, reason).await?;
                    let act = Act {
                        at,
                        operator,
                        community,
                        what: "suspend",
                        subject: node.as_str(),
                        reason,
                    };
                    tx.put_act(&act).await?;
                    let entry = Entry {
                        detail: journal::detail(reason),
                        ..journal.by_operator(operator, Action::SuspendNode, community, at)?
                    };
                    journal::put(tx, &about::node(entry, node)).await?;
                    let mut listing = Vec::new();
                    for record in tx.get_epochs(community).await? {
                        let lists = manifest_of(&record)?.member(node).is_ok();
                        if lists && record.state != EpochState::Ended {
                            // In the same step: a stop here must leave no epoch behind in which
                            // the suspended node can still be matched.
                            let action = Action::EndEpoch;
                            let entry = journal.by_operator(operator, action, community, at)?;
                            move_epoch(tx, &record, EpochState::Ended, entry).await?;
                            listing.push(record.epoch);
                        }
                    }
                    Ok(listing)
                }
                .scope_boxed()
            })
            .await?;
        // Its open streams look at the ledger again, and end.
        self.announce_hits();
        self.announce_filters();
        for &epoch in &epochs {
            // Nothing can be matched in an epoch that has ended: what is left is to clear away.
            if let Err(error) = self.delete_filters_of(community, epoch).await {
                tracing::warn!(%error, "filters of a suspended node's epoch are deleted later");
            }
        }
        Ok(epochs)
    }

    /// Ends every epoch whose time, or whose overlap with a later one, is over.
    pub(crate) async fn expire_epochs(&self) -> Result<()> {
        let now = self.now();
        let overdue = self
            .store
            .read_tx("overdue_epochs", |tx| {
                async move { tx.get_overdue_epochs(now).await }.scope_boxed()
            })
            .await?;
        for (community, epoch) in overdue {
            self.end(None, &community, epoch).await?;
        }
        Ok(())
    }

    /// Ends an epoch for its custodian, or by itself.
    async fn end(
        &self,
        custodian: Option<&NodeId>,
        community: &CommunityId,
        epoch: Epoch,
    ) -> Result<()> {
        let (now, journal) = (self.now(), &self.journal);
        self.store
            .run_tx("end_epoch", |tx| {
                async move {
                    let action = Action::EndEpoch;
                    let (record, entry) = if let Some(caller) = custodian {
                        let record = custodian_epoch(tx, caller, community, epoch).await?;
                        (record, journal.by_node(caller, action, community, now)?)
                    } else {
                        let record = known_epoch(tx, community, epoch).await?;
                        (record, journal.by_broker(action, community, now))
                    };
                    if record.state == EpochState::Ended {
                        return Ok(());
                    }
                    let moved = move_epoch(tx, &record, EpochState::Ended, entry);
                    moved.await.map(drop)
                }
                .scope_boxed()
            })
            .await?;
        self.delete_filters_of(community, epoch).await
    }
}

/// Moves an epoch on, and logs it; returns its new state.
async fn move_epoch(
    tx: &mut (dyn Tx + '_),
    record: &EpochRecord,
    to: EpochState,
    entry: Entry,
) -> Result<EpochState> {
    tx.update_epoch_state(&entry.community, record.epoch, to, entry.at)
        .await?;
    let entry = Entry {
        change: Some(journal::change(record.state.as_str(), to.as_str())),
        ..about::epoch(entry, record.epoch)
    };
    journal::put(tx, &entry).await?;
    Ok(to)
}

/// The envelopes in the order of the members, one for each.
fn sealed_to_each(
    manifest: &Manifest,
    envelopes: &[v1::SealedEpochKey],
) -> Result<Vec<MemberRecord>> {
    let mut by_recipient = BTreeMap::new();
    for envelope in envelopes {
        // An envelope of an unknown suite or length is refused here, not when it is opened.
        Sealed::try_from(envelope)?;
        by_recipient.insert(envelope.recipient.as_str(), envelope.encode_to_vec());
    }
    if by_recipient.len() != envelopes.len() || envelopes.len() != manifest.members.len() {
        return Err(Error::field("envelopes", "exactly one for each member"));
    }
    manifest
        .members
        .iter()
        .map(|member| {
            let envelope = by_recipient.remove(member.node.as_str());
            let envelope =
                envelope.ok_or_else(|| Error::field("envelopes", "exactly one for each member"))?;
            Ok(MemberRecord {
                node: member.node.clone(),
                envelope,
                confirmed: false,
            })
        })
        .collect()
}

/// The custodian is on the community's list and signed with its accepted key.
async fn check_custodian(
    tx: &mut (dyn Tx + '_),
    manifest: &Manifest,
    signed: &v1::DsseEnvelope,
) -> Result<()> {
    let node = enrolled(tx, &manifest.community, &manifest.custodian).await?;
    let key = statement_of(&node)?.keys.signing;
    convert::verify::<Manifest>(signed, &key)?;
    // protocol §9: auditors read the manifest as it is, and are not to find another hint in it.
    if signed.signatures.iter().any(|s| s.keyid != key.keyid()) {
        let text = "keyid is not that of the custodian's signing key";
        return Err(Error::new(ErrorCode::SignatureInvalid, text));
    }
    if !tx
        .get_custodians(&manifest.community)
        .await?
        .contains(&manifest.custodian)
    {
        return Err(invalid(
            "the signer is not on the community's list of custodians",
        ));
    }
    Ok(())
}

/// Every member is enrolled, and its row has the keys of its accepted statement, all of them: with another
/// cosigning key somebody else would be its witness.
async fn check_members(tx: &mut (dyn Tx + '_), manifest: &Manifest) -> Result<()> {
    for member in &manifest.members {
        let node = tx.get_node(&manifest.community, &member.node).await?;
        let Some(node) = node.filter(|node| node.suspended.is_none()) else {
            return Err(invalid("a member is not enrolled"));
        };
        if statement_of(&node)?.keys != *member {
            return Err(invalid("a member's row is not of its key statement"));
        }
    }
    Ok(())
}

fn check_confirmation(
    record: &EpochRecord,
    signed: &v1::DsseEnvelope,
    claimed: &KeyConfirmation,
) -> Result<()> {
    let manifest = manifest_of(record)?;
    let member = manifest.member(&claimed.node)?;
    convert::verify::<KeyConfirmation>(signed, &member.signing)?;
    let digest: [u8; 32] = Sha256::digest(envelope(&record.manifest)?.payload).into();
    if claimed.kid != record.kid || claimed.manifest_digest != digest {
        return Err(Error::new(
            ErrorCode::KeyMismatch,
            "the confirmation is of another key or manifest: fetch the epoch again",
        ));
    }
    if record.state == EpochState::Ended {
        return Err(ended());
    }
    Ok(())
}

async fn custodian_epoch(
    tx: &mut (dyn Tx + '_),
    caller: &NodeId,
    community: &CommunityId,
    epoch: Epoch,
) -> Result<EpochRecord> {
    enrolled(tx, community, caller).await?;
    let record = known_epoch(tx, community, epoch).await?;
    if record.custodian != *caller {
        return Err(Error::new(
            ErrorCode::RoleForbidden,
            "only the epoch's custodian may",
        ));
    }
    Ok(record)
}

fn ended() -> Error {
    Error::new(ErrorCode::EpochNotActive, "the epoch has ended")
}

fn invalid(text: &'static str) -> Error {
    Error::new(ErrorCode::ManifestInvalid, text)
}
