//! Communities, nodes and their limits (protocol §8).

use std::collections::BTreeSet;

use prost::Message as _;
use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, NodeId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::membership::{KeyStatement, NotifyHolder, Profile};
use sotto_common::selector::Policy;
use sotto_proto::convert;
use sotto_proto::v1;

use super::journal::{self, about};
use super::{Broker, enrolled, envelope};
use crate::datastore::{Act, Limits, NodeRecord, Tx};

/// A change of limits; what is `None` stays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitsChange {
    pub(crate) daily_refs: Option<u64>,
    pub(crate) max_class: Option<u8>,
}

/// The limits of a node in one policy, and what it used today.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitsUse {
    pub(crate) policy: Policy,
    pub(crate) limits: Limits,
    pub(crate) used_today: u64,
}

impl Broker {
    /// Operator: creates a community.
    ///
    /// # Errors
    /// `ALREADY_EXISTS`; `INVALID_FIELD` without a custodian.
    pub(crate) async fn create_community(
        &self,
        operator: &str,
        name: &CommunityId,
        profile: Profile,
        custodians: &[NodeId],
    ) -> Result<()> {
        if custodians.is_empty() {
            return Err(Error::field(
                "custodians",
                "at least one node that may open epochs",
            ));
        }
        check_profile(&profile)?;
        let profile = &v1::Profile::from(profile).encode_to_vec();
        let (now, journal) = (self.now(), &self.journal);
        self.store
            .run_tx("create_community", |tx| {
                async move {
                    if !tx.put_community(name, profile, now).await? {
                        return Err(Error::new(
                            ErrorCode::AlreadyExists,
                            "a community of this name exists",
                        ));
                    }
                    tx.put_custodians(name, custodians).await?;
                    let action = Action::CreateCommunity;
                    journal::put(tx, &journal.by_operator(operator, action, name, now)?).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Operator: replaces the proposed profile, and the custodians if any are given. Idempotent.
    ///
    /// # Errors
    /// `NOT_A_MEMBER` if there is no such community.
    pub(crate) async fn propose_profile(
        &self,
        operator: &str,
        name: &CommunityId,
        profile: Profile,
        custodians: &[NodeId],
    ) -> Result<()> {
        check_profile(&profile)?;
        let profile = &v1::Profile::from(profile).encode_to_vec();
        let (now, journal) = (self.now(), &self.journal);
        self.store
            .run_tx("propose_profile", |tx| {
                async move {
                    proposed_profile(tx, name).await?;
                    let same = tx.get_profile(name).await?.as_ref() == Some(profile);
                    if same && are_custodians(tx, name, custodians).await? {
                        return Ok(());
                    }
                    tx.update_profile(name, profile).await?;
                    if !custodians.is_empty() {
                        tx.put_custodians(name, custodians).await?;
                    }
                    let action = Action::ProposeProfile;
                    journal::put(tx, &journal.by_operator(operator, action, name, now)?).await
                }
                .scope_boxed()
            })
            .await
    }

    /// The proposed profile and the custodians; `member` must be enrolled, if one asks.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`.
    pub(crate) async fn community(
        &self,
        name: &CommunityId,
        member: Option<&NodeId>,
    ) -> Result<(Profile, Vec<NodeId>)> {
        self.store
            .read_tx("get_community", |tx| {
                async move {
                    may_read(tx, name, member).await?;
                    Ok((
                        proposed_profile(tx, name).await?,
                        tx.get_custodians(name).await?,
                    ))
                }
                .scope_boxed()
            })
            .await
    }

    /// Operator: enrols a node. One that was suspended begins anew: its suspension is lifted and
    /// its signing key forgotten (PROTOCOL-NOTES §8).
    ///
    /// # Errors
    /// `NOT_A_MEMBER` if there is no such community, `ALREADY_EXISTS` if the node is enrolled.
    pub(crate) async fn enrol(
        &self,
        operator: &str,
        community: &CommunityId,
        node: &NodeId,
    ) -> Result<()> {
        let (now, journal) = (self.now(), &self.journal);
        self.store
            .run_tx("enrol_node", |tx| {
                async move {
                    proposed_profile(tx, community).await?;
                    let known = tx.get_node(community, node).await?;
                    if known.is_some_and(|node| node.suspended.is_none()) {
                        let text = "the node is enrolled; to replace its keys, suspend it first";
                        return Err(Error::new(ErrorCode::AlreadyExists, text));
                    }
                    tx.put_node(community, node, now).await?;
                    let action = Action::EnrolNode;
                    let entry = journal.by_operator(operator, action, community, now)?;
                    journal::put(tx, &about::node(entry, node)).await
                }
                .scope_boxed()
            })
            .await
    }

    /// The enrolled nodes; `member` must be one, if one asks.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`.
    pub(crate) async fn nodes(
        &self,
        community: &CommunityId,
        member: Option<&NodeId>,
    ) -> Result<Vec<NodeRecord>> {
        self.store
            .read_tx("list_nodes", |tx| {
                async move {
                    may_read(tx, community, member).await?;
                    tx.get_nodes(community).await
                }
                .scope_boxed()
            })
            .await
    }

    /// Operator: changes a node's limits in one policy, or in every policy of the profile.
    ///
    /// # Errors
    /// `NOT_A_MEMBER` if the node is not enrolled.
    pub(crate) async fn set_limits(
        &self,
        operator: &str,
        community: &CommunityId,
        node: &NodeId,
        policy: Option<Policy>,
        change: LimitsChange,
    ) -> Result<()> {
        let (at, journal) = (self.now(), &self.journal);
        let reason = &format!("{change:?}");
        self.store
            .run_tx("set_limits", |tx| {
                async move {
                    enrolled(tx, community, node).await?;
                    for policy in policies(tx, community, policy).await? {
                        let old = tx.get_limits(community, node, policy).await?;
                        let new = Limits {
                            daily_refs: change.daily_refs.unwrap_or(old.daily_refs),
                            max_class: change.max_class.unwrap_or(old.max_class),
                        };
                        if new == old {
                            continue;
                        }
                        tx.put_limits(community, node, policy, new).await?;
                        let action = Action::SetLimits;
                        let entry = journal.by_operator(operator, action, community, at)?;
                        let mut entry = about::node(entry, node);
                        entry.object.policy = Some(policy);
                        entry.limits = Some((new.daily_refs, new.max_class));
                        journal::put(tx, &entry).await?;
                    }
                    let subject = node.as_str();
                    tx.put_act(&Act {
                        at,
                        operator,
                        community,
                        what: "limits",
                        subject,
                        reason,
                    })
                    .await
                }
                .scope_boxed()
            })
            .await
    }

    /// The limits of a node and what it used today, a row per policy of the profile.
    ///
    /// # Errors
    /// `NOT_A_MEMBER` if the node is not enrolled.
    pub(crate) async fn limits(
        &self,
        community: &CommunityId,
        node: &NodeId,
    ) -> Result<Vec<LimitsUse>> {
        let day = self.now().day();
        self.store
            .read_tx("get_limits", |tx| {
                async move {
                    enrolled(tx, community, node).await?;
                    let mut rows = Vec::new();
                    for policy in policies(tx, community, None).await? {
                        let limits = tx.get_limits(community, node, policy).await?;
                        let used_today = tx.get_quota_use(community, node, policy, day).await?;
                        rows.push(LimitsUse {
                            policy,
                            limits,
                            used_today,
                        });
                    }
                    Ok(rows)
                }
                .scope_boxed()
            })
            .await
    }

    /// Node: hands in its key statement. Idempotent.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`, `INVALID_FIELD` if it is about another node or community,
    /// `SIGNATURE_INVALID`, `IDENTITY_CHANGED` for another signing key than the accepted one.
    pub(crate) async fn submit_key_statement(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        statement: &v1::DsseEnvelope,
    ) -> Result<()> {
        // protocol §8: signed by the key that it states.
        let stated: KeyStatement = convert::read_unverified(statement)?;
        let stated: KeyStatement = convert::verify(statement, &stated.keys.signing)?;
        if stated.keys.node != *caller || stated.community != *community {
            return Err(Error::field(
                "statement",
                "must be about the caller in this community",
            ));
        }
        let (bytes, key) = (&statement.encode_to_vec(), stated.keys.signing.as_bytes());
        let (now, journal) = (self.now(), &self.journal);
        self.store
            .run_tx("submit_key_statement", |tx| {
                async move {
                    let known = enrolled(tx, community, caller).await?;
                    if known.signing_key.is_some_and(|known| known != *key) {
                        return Err(Error::new(
                            ErrorCode::IdentityChanged,
                            "another signing key was accepted for this node; \
                             the operator must suspend and enrol it again",
                        ));
                    }
                    if known.statement.as_ref() == Some(bytes) {
                        return Ok(());
                    }
                    tx.update_statement(community, caller, bytes, key).await?;
                    let entry = Entry {
                        statement: Some(journal::statement(statement)?),
                        ..journal.by_node(caller, Action::SubmitKeys, community, now)?
                    };
                    journal::put(tx, &entry).await
                }
                .scope_boxed()
            })
            .await
    }
}

/// Refuses what the community would wrongly rely on.
///
/// # Errors
/// `MANIFEST_INVALID` for immediate notice to holders, which is not built yet.
pub(super) fn check_profile(profile: &Profile) -> Result<()> {
    match profile.notify_holder {
        NotifyHolder::OnFollowUp => Ok(()),
        NotifyHolder::OnHit => Err(Error::new(
            ErrorCode::ManifestInvalid,
            "notify_holder ON_HIT is not built yet: use ON_FOLLOW_UP",
        )),
    }
}

/// Refuses a node that is not enrolled; the operator (`None`) may read every community.
pub(super) async fn may_read(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
    member: Option<&NodeId>,
) -> Result<()> {
    match member {
        Some(node) => enrolled(tx, community, node).await.map(drop),
        None => proposed_profile(tx, community).await.map(drop),
    }
}

/// The profile that the operator proposes.
///
/// # Errors
/// `NOT_A_MEMBER` if there is no such community.
pub(super) async fn proposed_profile(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
) -> Result<Profile> {
    let bytes = tx.get_profile(community).await?.ok_or_else(|| {
        Error::new(
            ErrorCode::NotAMember,
            "there is no such community; create it first",
        )
    })?;
    v1::Profile::decode(&bytes[..])
        .map_err(Error::internal)?
        .try_into()
}

/// Whether these are the custodians already; none given = they stay.
async fn are_custodians(
    tx: &mut (dyn Tx + '_),
    name: &CommunityId,
    given: &[NodeId],
) -> Result<bool> {
    let now: BTreeSet<_> = tx.get_custodians(name).await?.into_iter().collect();
    Ok(given.is_empty() || given.iter().cloned().collect::<BTreeSet<_>>() == now)
}

async fn policies(
    tx: &mut (dyn Tx + '_),
    community: &CommunityId,
    only: Option<Policy>,
) -> Result<Vec<Policy>> {
    if let Some(policy) = only {
        return Ok(vec![policy]);
    }
    let profile = proposed_profile(tx, community).await?;
    Ok(profile.policies().iter().map(|row| row.policy).collect())
}

/// The accepted key statement of a node.
///
/// # Errors
/// `MANIFEST_INVALID` if it has handed in none.
pub(super) fn statement_of(node: &NodeRecord) -> Result<KeyStatement> {
    let bytes = node.statement.as_deref().ok_or_else(|| {
        let text = format!("{} has not handed in its keys", node.node);
        Error::new(ErrorCode::ManifestInvalid, text)
    })?;
    convert::read_unverified(&envelope(bytes)?)
}
