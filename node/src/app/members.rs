//! Members and their pinned fingerprints; this node's own key statement (protocol §8).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sotto_common::dsse::Fingerprint;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{Epoch, NodeId};
use sotto_common::log::cosignature::WitnessKey;
use sotto_common::membership::{KeyStatement, MemberKeys};
use sotto_common::random::os_rng;
use sotto_proto::convert::{read_unverified, sign, text, verify};
use sotto_proto::v1;
use tracing::{info, warn};

use super::App;
use crate::broker::{Backoff, ask};
use crate::store::Pinned;

/// The keys of a node are good from its first epoch on; there are no others yet.
const FIRST_EPOCH: Epoch = match Epoch::new(1) {
    Ok(epoch) => epoch,
    Err(_) => unreachable!(),
};

/// How long the broker is trusted to still have this node's key statement.
const STATED_AGAIN: Duration = Duration::from_mins(5);

/// A node as the broker lists it. The broker vouches for nothing.
pub(crate) struct Listed {
    /// The node.
    pub(crate) node: NodeId,
    /// True if the operator has suspended it.
    pub(crate) suspended: bool,
    /// Its key statement, which is signed by the key that it states; `None` if it has none yet.
    pub(crate) stated: Option<KeyStatement>,
}

impl Listed {
    /// The keys of its statement.
    pub(crate) fn keys(&self) -> Option<&MemberKeys> {
        self.stated.as_ref().map(|stated| &stated.keys)
    }
}

/// A node as this node sees it.
pub(crate) struct Member {
    /// What the broker lists.
    pub(crate) listed: Listed,
    /// What is pinned here.
    pub(crate) pin: v1::PinState,
}

impl App {
    /// The enrolled nodes, as the broker lists them.
    ///
    /// # Errors
    /// Those of the broker, or `SIGNATURE_INVALID` for a statement that is not by its own key.
    pub(crate) async fn listed_nodes(&self) -> Result<Vec<Listed>> {
        let request = v1::ListNodesRequest {
            community: self.community.to_string(),
        };
        let answer = ask!(self.broker.membership(), list_nodes, request).await?;
        answer.nodes.iter().map(|node| self.listed(node)).collect()
    }

    fn listed(&self, wire: &v1::EnrolledNode) -> Result<Listed> {
        let node: NodeId = text("node_id", &wire.node_id)?;
        let stated = match &wire.key_statement {
            None => None,
            Some(envelope) => {
                let claimed: KeyStatement = read_unverified(envelope)?;
                let stated: KeyStatement = verify(envelope, &claimed.keys.signing)?;
                if stated.keys.node != node || stated.community != self.community {
                    return Err(Error::new(
                        ErrorCode::SignatureInvalid,
                        "a key statement is of another node or community than the broker says",
                    )
                    .about(node.to_string()));
                }
                Some(stated)
            }
        };
        Ok(Listed {
            node,
            suspended: wire.suspended,
            stated,
        })
    }

    /// The members that the broker lists, by id, with what is pinned for them here.
    ///
    /// # Errors
    /// As [`App::listed_nodes`].
    pub(crate) async fn members(&self) -> Result<Vec<Member>> {
        let pins = self.store.pins().await?;
        let nodes = self.listed_nodes().await?.into_iter();
        Ok(nodes
            .map(|listed| {
                let pin = self.pin_state(&pins, &listed.node, listed.keys());
                Member { listed, pin }
            })
            .collect())
    }

    /// A member's key as a witness of the audit log; `None` if its keys are not pinned, or no log is
    /// followed.
    pub(crate) fn witness_key(&self, member: &Member) -> Option<WitnessKey> {
        let log = self.log.as_ref()?;
        if !matches!(member.pin, v1::PinState::Pinned | v1::PinState::Self_) {
            return None;
        }
        let keys = member.listed.keys()?;
        WitnessKey::new(&log.trust_domain, keys.node.clone(), keys.cosigning).ok()
    }

    fn pin_state(
        &self,
        pins: &BTreeMap<NodeId, Fingerprint>,
        node: &NodeId,
        keys: Option<&MemberKeys>,
    ) -> v1::PinState {
        let given = keys.map(|keys| keys.signing.fingerprint());
        if *node == self.node {
            let own = self.keystore.signing().verifying_key().fingerprint();
            return match given {
                Some(given) if given != own => v1::PinState::Mismatch,
                _ => v1::PinState::Self_,
            };
        }
        match (pins.get(node), given) {
            (None, _) => v1::PinState::Absent,
            (Some(pin), Some(given)) if *pin != given => v1::PinState::Mismatch,
            (Some(_), _) => v1::PinState::Pinned,
        }
    }

    /// Refuses keys that are not pinned here (protocol §8); this node's own must be its own.
    ///
    /// # Errors
    /// `MEMBER_NOT_PINNED`, naming the members, or `MANIFEST_INVALID` if this node's row is not
    /// its own keys.
    pub(crate) async fn check_pins(&self, members: &[MemberKeys]) -> Result<()> {
        let pins = self.store.pins().await?;
        let mut unpinned = Vec::new();
        for member in members {
            if member.node == self.node {
                if *member != self.keystore.public(&self.node) {
                    return Err(Error::new(
                        ErrorCode::ManifestInvalid,
                        "the keys given for this node are not its own",
                    ));
                }
            } else if pins.get(&member.node) != Some(&member.signing.fingerprint()) {
                unpinned.push(member.node.as_str());
            }
        }
        if unpinned.is_empty() {
            return Ok(());
        }
        let names = unpinned.join(", ");
        let text = format!(
            "the keys of {names} are not the ones pinned here; compare fingerprints out of band, \
             then pin them"
        );
        Err(Error::new(ErrorCode::MemberNotPinned, text).about(names))
    }

    /// Pins a fingerprint that was compared out of band.
    ///
    /// # Errors
    /// `IDENTITY_CHANGED` if another one is pinned and not to be replaced, `INVALID_FIELD` for
    /// this node itself.
    pub(crate) async fn pin_member(
        &self,
        node: &NodeId,
        fingerprint: &Fingerprint,
        replace: bool,
    ) -> Result<()> {
        if *node == self.node {
            return Err(Error::field("node_id", "this node knows its own key"));
        }
        let now = self.clock.now();
        match self.store.put_pin(node, fingerprint, replace, now).await? {
            Pinned::Yes => Ok(()),
            Pinned::Another => Err(Error::new(
                ErrorCode::IdentityChanged,
                "another fingerprint is pinned for this member; find out why, then replace it",
            )
            .about(node.to_string())),
        }
    }

    fn key_statement(&self) -> v1::DsseEnvelope {
        let statement = KeyStatement {
            keys: self.keystore.public(&self.node),
            community: self.community.clone(),
            valid_from: FIRST_EPOCH,
        };
        sign(statement, self.keystore.signing())
    }
}

/// Hands in this node's key statement, for as long as the node runs: it may be started before it
/// is enrolled, enrolled anew, or the broker's store set back. The broker takes it any number of
/// times.
pub(crate) fn keep_stating(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let mut backoff = Backoff::default();
        let mut told = None;
        loop {
            let request = v1::SubmitKeyStatementRequest {
                community: app.community.to_string(),
                statement: Some(app.key_statement()),
            };
            let outcome = ask!(app.broker.membership(), submit_key_statement, request);
            let outcome = outcome.await;
            let now = outcome.as_ref().map(drop).map_err(|error| error.code);
            // Said once for each change, not at each attempt.
            if told.replace(now) != Some(now) {
                match &outcome {
                    Ok(_) => info!("the broker has this node's key statement"),
                    Err(error) => warn!(%error, "key statement not taken yet; trying again"),
                }
            }
            if now.is_ok() {
                backoff.reset();
                // At once when the broker is there again: it may not be the one of before.
                let reconnected = app.reconnected.notified();
                let _ = tokio::time::timeout(STATED_AGAIN, reconnected).await;
            } else {
                tokio::time::sleep(backoff.pause(&mut os_rng())).await;
            }
        }
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use sotto_common::dsse::SigningKey;

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_member_is_absent_then_pinned_and_a_mismatch_shows() {
        let (app, _dir) = testing::app().await;
        let node: NodeId = "de-bka".parse().expect("a node");
        let mut keys = app.keystore.public(&node);
        let state = async |keys: &MemberKeys| {
            let pins = app.store.pins().await.expect("read");
            app.pin_state(&pins, &keys.node, Some(keys))
        };
        assert_eq!(state(&keys).await, v1::PinState::Absent);
        let fingerprint = keys.signing.fingerprint();
        app.pin_member(&node, &fingerprint, false)
            .await
            .expect("pinned");
        assert_eq!(state(&keys).await, v1::PinState::Pinned);
        keys.signing = SigningKey::generate(&mut os_rng()).verifying_key();
        assert_eq!(state(&keys).await, v1::PinState::Mismatch);
        let error = app.check_pins(&[keys.clone()]).await.expect_err("refused");
        assert_eq!(error.code, ErrorCode::MemberNotPinned);
        assert!(error.text.contains("de-bka"));

        let other = keys.signing.fingerprint();
        let error = app.pin_member(&node, &other, false).await;
        assert_eq!(error.expect_err("refused").code, ErrorCode::IdentityChanged);
        app.pin_member(&node, &other, true).await.expect("replaced");
        assert_eq!(state(&keys).await, v1::PinState::Pinned);

        keys.node = app.node.clone();
        assert_eq!(state(&keys).await, v1::PinState::Mismatch);
        let own = app.keystore.public(&app.node);
        assert_eq!(state(&own).await, v1::PinState::Self_);
        assert!(app.pin_member(&app.node, &other, true).await.is_err());
    }

    #[tokio::test]
    async fn a_key_statement_is_signed_by_the_key_that_it_states() {
        let (app, _dir) = testing::app().await;
        let listed = |node: &str| {
            app.listed(&v1::EnrolledNode {
                node_id: node.into(),
                key_statement: Some(app.key_statement()),
                ..Default::default()
            })
        };
        let own = listed("nl-fiu").expect("read");
        assert_eq!(own.keys(), Some(&app.keystore.public(&app.node)));
        // The broker cannot pass it off as another node's.
        assert!(listed("de-bka").is_err());
    }
}
