//! Who calls the node's local services, and in which roles (protocol §2, workflow.md "Follow-up").
//!
//! A person is known by a client certificate or by an access token of the unit's identity
//! provider. With a token present both are checked and the person is the token's: a certificate
//! beside it says which machine calls, and must still be good. The roles are those of the role
//! file; without one, the role in the certificate's SPIFFE ID, or a claim of the token.

pub(crate) mod keys;
pub(crate) mod oidc;
pub(crate) mod people;
pub(crate) mod persons;
mod watched;

#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, pending};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Extensions, HeaderMap};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::Role;
use sotto_common::service::config::ConfigError;
use sotto_common::service::identity::{self, PeerIdentity, Revocation};
use sotto_common::service::tls::Tls;
use sotto_common::time::{Clock, Timestamp};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::NodeConfig;
use oidc::Tokens;
use people::People;
use watched::Watched;

/// The roles of people at a node (workflow.md "Follow-up").
pub(crate) const LOCAL_ROLES: [Role; 4] = [
    Role::Analyst,
    Role::Approver,
    Role::Supervisor,
    Role::DataManager,
];

/// A role as the role file and claims name it, e.g. `data_manager`; a hyphen will do as well.
pub(crate) fn local_role(text: &str) -> Option<Role> {
    let text = text.replace('_', "-");
    LOCAL_ROLES.into_iter().find(|role| role.as_str() == text)
}

/// Who makes a request, as the door found out; a request has it among its extensions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Caller {
    /// A SPIFFE ID, or `oidc:<issuer>#<subject>`.
    pub(crate) person: String,
    /// What they may act as; empty if the node gives them no role.
    pub(crate) roles: BTreeSet<Role>,
    /// Everything that they go by: who has one of these in common is the same person.
    pub(crate) identities: BTreeSet<String>,
    certificate: Option<PeerIdentity>,
    /// When the access token runs out.
    until: Option<Timestamp>,
}

impl Caller {
    /// The caller of a request that has passed the door.
    ///
    /// # Errors
    /// `IDENTITY_MISSING` if it has not.
    pub(crate) fn of(extensions: &Extensions) -> Result<Self> {
        extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Error::new(ErrorCode::IdentityMissing, "who calls is not known"))
    }
}

#[cfg(test)]
impl Caller {
    /// A caller of a test, known by a certificate.
    pub(crate) fn of_test(person: &str) -> Self {
        Self {
            person: person.into(),
            roles: BTreeSet::from([Role::Analyst, Role::Approver]),
            identities: persons::identities(&std::iter::empty(), person),
            certificate: None,
            until: None,
        }
    }
}

/// What tells who calls. Clones share it.
#[derive(Clone)]
pub(crate) struct Gate {
    revocation: Revocation,
    people: Option<Arc<Watched<People>>>,
    tokens: Option<Arc<Tokens>>,
    clock: Arc<dyn Clock>,
    look_every: Duration,
}

impl Gate {
    /// Reads the role file and the keys of the identity provider, as far as they are configured.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and the line, or the setting.
    pub(crate) async fn load(
        config: &NodeConfig,
        tls: &Tls,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let issuer = config.oidc.as_ref().map(|oidc| oidc.issuer.clone());
        let people = config.roles_file.as_ref().map(|path| {
            let domain = config.tls.trust_domain.clone();
            Watched::load(path, "role file", move |content| {
                People::parse(content, &domain, issuer.as_deref())
            })
        });
        let people = people.transpose()?.map(Arc::new);
        let tokens = match &config.oidc {
            None => None,
            Some(oidc) => {
                let tokens = Tokens::load(oidc, people.is_some(), Arc::clone(&clock)).await?;
                Some(Arc::new(tokens))
            }
        };
        Ok(Self {
            revocation: tls.revocation(),
            people,
            tokens,
            clock,
            look_every: config.tls.reload_every.0,
        })
    }

    /// Reads what was read again when it changes, until `stop` is tripped.
    pub(crate) fn keep_fresh(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let files = [
            self.people.clone().map(|people| people as _),
            self.tokens.as_ref().and_then(|tokens| tokens.file()),
        ];
        for file in files.into_iter().flatten() {
            let looking = watched::keep_looking(file, self.look_every);
            tasks.spawn(stop.clone().run_until_cancelled_owned(looking));
        }
        if let Some(tokens) = &self.tokens {
            let fetching = Arc::clone(tokens).keep_fetching();
            tasks.spawn(stop.clone().run_until_cancelled_owned(fetching));
        }
    }

    /// Finds out who makes a request, and leaves it among its extensions: the [`Caller`], and the
    /// [`PeerIdentity`] if there was a certificate. A token is taken out of the headers.
    ///
    /// # Errors
    /// `IDENTITY_MISSING`, `CERTIFICATE_REVOKED`.
    pub(crate) async fn admit(&self, request: &mut Parts) -> Result<Caller> {
        let certificate = identity::certified(&request.extensions, &self.revocation)?;
        let caller = match bearer(&request.headers)? {
            Some(token) => self.holder(token, certificate.clone()).await?,
            None => self.certified(certificate.clone())?,
        };
        request.headers.remove(AUTHORIZATION);
        if let Some(peer) = certificate {
            request.extensions.insert(peer);
        }
        request.extensions.insert(caller.clone());
        Ok(caller)
    }

    fn certified(&self, certificate: Option<PeerIdentity>) -> Result<Caller> {
        let Some(peer) = certificate else {
            return Err(Error::new(
                ErrorCode::IdentityMissing,
                "neither a certificate nor an access token came with this call",
            ));
        };
        let person = peer.spiffe().to_string();
        let roles = match &self.people {
            Some(people) => people.current().roles(&person),
            None => BTreeSet::from([peer.spiffe().role()]),
        };
        Ok(Caller {
            identities: self.identities(&person),
            person,
            roles,
            certificate: Some(peer),
            until: None,
        })
    }

    fn identities(&self, person: &str) -> BTreeSet<String> {
        match &self.people {
            Some(people) => people.current().identities(person),
            None => persons::identities(&std::iter::empty(), person),
        }
    }

    async fn holder(&self, token: &str, certificate: Option<PeerIdentity>) -> Result<Caller> {
        let Some(tokens) = &self.tokens else {
            return Err(Error::new(
                ErrorCode::IdentityMissing,
                "this node takes no access tokens: call with a certificate alone",
            ));
        };
        let holder = tokens.check(token).await?;
        let roles = match &self.people {
            Some(people) => people.current().roles(&holder.person),
            None => holder.roles,
        };
        Ok(Caller {
            identities: self.identities(&holder.person),
            person: holder.person,
            roles,
            certificate,
            until: Some(holder.until),
        })
    }

    /// Ends when a caller may not go on as they began: the certificate is revoked, the token has
    /// run out, or the role file gives them other roles. For streams, which outlive the door.
    pub(crate) fn ended(&self, caller: &Caller) -> BoxFuture<'static, ()> {
        let revoked = match caller.certificate.clone() {
            Some(peer) => self.revocation.clone().revoked(peer).boxed(),
            None => pending().boxed(),
        };
        let expired = match caller.until {
            Some(until) => self.clock.wait_until(until),
            None => pending().boxed(),
        };
        let changed = match self.people.as_ref().map(|people| people.subscribe()) {
            Some(mut people) => {
                let (person, roles) = (caller.person.clone(), caller.roles.clone());
                async move {
                    // An error says that nobody reads the file any more: the node is ending.
                    let _ = people.wait_for(|now| now.roles(&person) != roles).await;
                }
                .boxed()
            }
            None => pending().boxed(),
        };
        async move {
            tokio::select! {
                () = revoked => {}
                () = expired => {}
                () = changed => {}
            }
        }
        .boxed()
    }
}

/// The access token of a request, if it brings one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().ok(),
        (Some(_), Some(_)) => None,
    };
    value
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
        .map(|(_, token)| Some(token))
        .ok_or_else(|| {
            Error::new(
                ErrorCode::IdentityMissing,
                "the authorization metadata must be `Bearer` and one access token",
            )
        })
}
