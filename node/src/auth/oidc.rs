//! Access tokens of the unit's identity provider (RFC 9068, RFC 7519).
//!
//! Tokens are never logged, and no text of an error quotes one.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::Role;
use sotto_common::service::client::MAX_TOKEN;
use sotto_common::service::config::{self, ConfigError, HumanDuration};
use sotto_common::time::{Clock, Timestamp};

use super::keys::KeySource;
use super::local_role;
use super::people::OIDC;
use super::watched::Look;

/// The longest subject, in bytes (OpenID Connect Core §2).
const MAX_SUBJECT: usize = 255;
/// The longest id of a key, in bytes.
const MAX_KEY_ID: usize = 256;
/// The most that clocks may differ.
const MAX_LEEWAY: Duration = Duration::from_mins(1);

/// The section `oidc`: whose access tokens are believed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// The `iss` of every token, an `https` address.
    pub issuer: String,
    /// What must be among the `aud` of every token.
    pub audience: String,
    /// File with the issuer's public keys (RFC 7517); or `jwks_url`.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// `https` address of the issuer's public keys, fetched every hour; needs `jwks_ca`.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// PEM file: the authorities that the server of `jwks_url` must come from.
    #[serde(default)]
    pub jwks_ca: Option<PathBuf>,
    /// Algorithms of signatures that are taken; default RS256, PS256, ES256, ES384 and EdDSA.
    #[serde(
        default = "OidcConfig::default_algorithms",
        deserialize_with = "config::list"
    )]
    pub algorithms: Vec<TokenAlgorithm>,
    /// Without a role file: the claim with the holder's roles, a name, or a JSON pointer such as
    /// `/realm_access/roles`.
    #[serde(default)]
    pub roles_claim: Option<String>,
    /// For providers whose access tokens are of `typ` JWT, as ID tokens are: the claim that only their
    /// access tokens have, a name such as `scp`, or name and value such as `typ=Bearer`. Without it
    /// only tokens of `typ` at+jwt are taken (RFC 9068 §4).
    #[serde(default)]
    pub access_token_claim: Option<AccessTokenClaim>,
    /// How much clocks may differ, a minute at most; default 30 seconds.
    #[serde(default = "OidcConfig::default_leeway")]
    pub leeway: HumanDuration,
}

impl OidcConfig {
    fn default_algorithms() -> Vec<TokenAlgorithm> {
        use Algorithm as A;
        [A::RS256, A::PS256, A::ES256, A::ES384, A::EdDSA]
            .map(TokenAlgorithm)
            .into()
    }

    const fn default_leeway() -> HumanDuration {
        HumanDuration(Duration::from_secs(30))
    }

    fn check(&self, has_roles_file: bool) -> Result<(), ConfigError> {
        let wrong = |problem: &str| Err(ConfigError::Setting(format!("oidc.{problem}")));
        if !self.issuer.starts_with("https://")
            || self.issuer.len() > 512
            || self
                .issuer
                .contains(|c: char| c == '#' || c == '?' || c.is_control())
        {
            return wrong("issuer: expected https://… without query and fragment");
        }
        if self.audience.is_empty() {
            return wrong("audience: name this node as the identity provider does");
        }
        if self.algorithms.is_empty() {
            return wrong("algorithms: name at least one");
        }
        if self.leeway.0 > MAX_LEEWAY {
            return wrong("leeway: at most 60s; set the clocks right instead");
        }
        if !has_roles_file && self.roles_claim.as_ref().is_none_or(String::is_empty) {
            return wrong(
                "roles_claim: without a roles_file nobody with a token would have a role; give \
                 one of the two",
            );
        }
        Ok(())
    }

    async fn keys(&self, clock: Arc<dyn Clock>) -> Result<KeySource, ConfigError> {
        let allowed = self
            .algorithms
            .iter()
            .map(|algorithm| algorithm.0)
            .collect();
        match (&self.jwks_file, &self.jwks_url, &self.jwks_ca) {
            (Some(file), None, None) => KeySource::file(file, allowed),
            (None, Some(url), Some(ca)) => KeySource::address(url, ca, allowed, clock).await,
            _ => Err(ConfigError::Setting(
                "oidc: give jwks_file, or jwks_url and jwks_ca".into(),
            )),
        }
    }
}

/// An algorithm of signatures with public keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenAlgorithm(Algorithm);

impl FromStr for TokenAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use Algorithm as A;
        match text.parse() {
            Ok(A::HS256 | A::HS384 | A::HS512) => Err(format!(
                "{text}: whoever checks tokens with a shared secret could make them; use one of \
                 RS256, PS256, ES256, ES384, EdDSA"
            )),
            Ok(algorithm) => Ok(Self(algorithm)),
            Err(_) => Err(format!(
                "{text}: expected one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, \
                 EdDSA"
            )),
        }
    }
}

/// A claim that tells access tokens from ID tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessTokenClaim {
    name: String,
    value: Option<String>,
}

impl AccessTokenClaim {
    /// Claims that ID tokens have too, or may have (RFC 7519 §4.1, OpenID Connect Core §2): they tell
    /// nothing apart by being there.
    const OF_BOTH: [&str; 16] = [
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "auth_time",
        "nonce",
        "acr",
        "amr",
        "azp",
        "at_hash",
        "c_hash",
        "sid",
        "typ",
    ];

    fn is_in(&self, claims: &Map<String, Value>) -> bool {
        match (claims.get(&self.name), &self.value) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(claim), Some(value)) => claim.as_str() == Some(value),
        }
    }
}

impl FromStr for AccessTokenClaim {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() || value.as_ref().is_some_and(String::is_empty) {
            return Err("expected the name of a claim, or name=value".into());
        }
        if value.is_none() && Self::OF_BOTH.contains(&name) {
            return Err(format!(
                "ID tokens may have `{name}` too: name a claim that only access tokens have, or \
                 give the value that it has in them"
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            value,
        })
    }
}

impl<'de> Deserialize<'de> for AccessTokenClaim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a valid token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Holder {
    /// `oidc:<issuer>#<subject>`.
    pub(crate) person: String,
    /// What the roles claim says, if one is configured.
    pub(crate) roles: BTreeSet<Role>,
    /// When the token runs out.
    pub(crate) until: Timestamp,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: i64,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(default)]
    iat: Option<i64>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// What checks access tokens.
pub(crate) struct Tokens {
    config: OidcConfig,
    keys: KeySource,
    clock: Arc<dyn Clock>,
}

impl Tokens {
    /// Checks the settings and reads the keys.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting or the file.
    pub(crate) async fn load(
        config: &OidcConfig,
        has_roles_file: bool,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        config.check(has_roles_file)?;
        Ok(Self {
            keys: config.keys(Arc::clone(&clock)).await?,
            config: config.clone(),
            clock,
        })
    }

    /// The file of the keys, to be looked at.
    pub(crate) fn file(&self) -> Option<Arc<dyn Look>> {
        self.keys.watched()
    }

    /// Fetches the keys every hour, if they have an address.
    pub(crate) async fn keep_fetching(self: Arc<Self>) {
        self.keys.keep_fetching().await;
    }

    /// Checks a token.
    ///
    /// # Errors
    /// `IDENTITY_MISSING`; the text says what is wrong and quotes nothing.
    pub(crate) async fn check(&self, token: &str) -> Result<Holder> {
        if token.len() > MAX_TOKEN {
            return Err(refused("is longer than 8 KiB"));
        }
        let header = decode_header(token)
            .map_err(|_| refused("is not a signed JWT of a known algorithm"))?;
        let id = self.check_header(&header)?;
        let key = self
            .keys
            .key(id)
            .await
            .ok_or_else(|| refused("names a key that its issuer is not known to have"))?;
        if !key.algorithms.contains(&header.alg) {
            return Err(refused("is signed with an algorithm that is not its key's"));
        }
        let claims: Claims = decode(token, &key.key, &self.validation(header.alg))
            .map_err(|error| refused(reason(&error)))?
            .claims;
        self.check_kind(&header, &claims)?;
        self.holder(&claims)
    }

    /// "The resource server MUST verify that the `typ` header value is "at+jwt"" (RFC 9068 §4): else
    /// an ID token for the same audience would open this node. Providers that know no such type must
    /// have a claim that tells the two apart.
    fn check_kind(&self, header: &Header, claims: &Claims) -> Result<()> {
        if is_access_token(header) {
            return Ok(());
        }
        match &self.config.access_token_claim {
            Some(claim) if claim.is_in(&claims.others) => Ok(()),
            Some(_) => Err(refused(
                "is of `typ` JWT and lacks the claim that access tokens have here: is it an ID \
                 token?",
            )),
            None => Err(refused(
                "is of `typ` JWT, as ID tokens are, and not at+jwt: have the provider set it, or \
                 `oidc.access_token_claim` here",
            )),
        }
    }

    /// Tells the id of the key.
    fn check_header<'a>(&self, header: &'a Header) -> Result<&'a str> {
        if !self.config.algorithms.contains(&TokenAlgorithm(header.alg)) {
            return Err(refused(
                "is signed with an algorithm that is not taken here",
            ));
        }
        if !is_access_token(header) && !is_of_type(header, "JWT") {
            return Err(refused("is of another `typ` than at+jwt and JWT"));
        }
        // RFC 7515 §4.1.11: what is not understood is not passed over.
        if header.crit.is_some() {
            return Err(refused(
                "has critical headers, which are not understood here",
            ));
        }
        header
            .kid
            .as_deref()
            .filter(|id| (1..=MAX_KEY_ID).contains(&id.len()))
            .ok_or_else(|| refused("does not name its key (`kid`)"))
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[&self.config.audience]);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // The library asks the system's clock; ours is asked below.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation
    }

    fn holder(&self, claims: &Claims) -> Result<Holder> {
        let (now, leeway) = (self.clock.now(), self.config.leeway.0);
        let until = Timestamp::from_seconds(claims.exp).plus(leeway);
        if now >= until {
            return Err(refused("has run out: get a new one"));
        }
        let ahead = now.plus(leeway);
        if claims
            .nbf
            .is_some_and(|at| Timestamp::from_seconds(at) > ahead)
            || claims
                .iat
                .is_some_and(|at| Timestamp::from_seconds(at) > ahead)
        {
            return Err(refused("is not valid yet: are the clocks right?"));
        }
        // The library would take a list of issuers too.
        if claims.iss != self.config.issuer {
            return Err(refused("is of another issuer"));
        }
        if !(1..=MAX_SUBJECT).contains(&claims.sub.len())
            || claims.sub.chars().any(char::is_control)
        {
            return Err(refused("names no subject (`sub`)"));
        }
        // RFC 8705 §3.1, RFC 9449 §6: bound to a key whose proof is not asked for here.
        if claims.others.contains_key("cnf") {
            return Err(refused(
                "is bound to a key (`cnf`), which is not understood here",
            ));
        }
        Ok(Holder {
            person: format!("{OIDC}{}#{}", self.config.issuer, claims.sub),
            roles: self.claimed_roles(&claims.others),
            until,
        })
    }

    /// The roles of the claim: a list, or a text with blanks. Names of others are passed over.
    fn claimed_roles(&self, claims: &Map<String, Value>) -> BTreeSet<Role> {
        let claim = match self.config.roles_claim.as_deref() {
            None => None,
            Some(path) if path.starts_with('/') => {
                let mut steps = path[1..].split('/');
                let first = steps.next().and_then(|step| claims.get(step));
                steps.fold(first, |at, step| at.and_then(|value| value.get(step)))
            }
            Some(name) => claims.get(name),
        };
        match claim {
            Some(Value::String(text)) => text.split(' ').filter_map(local_role).collect(),
            Some(Value::Array(items)) => {
                let names = items.iter().filter_map(Value::as_str);
                names.filter_map(local_role).collect()
            }
            _ => BTreeSet::new(),
        }
    }
}

fn is_of_type(header: &Header, known: &str) -> bool {
    let typ = header.typ.as_deref().unwrap_or_default();
    typ.eq_ignore_ascii_case(known)
}

/// Whether the header says that this is an access token (RFC 9068 §2.1).
fn is_access_token(header: &Header) -> bool {
    is_of_type(header, "at+jwt") || is_of_type(header, "application/at+jwt")
}

/// What is wrong, in words; never the library's, which may quote.
fn reason(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind as K;
    match error.kind() {
        K::InvalidSignature => "is not signed by its issuer",
        K::InvalidAudience => "is for another audience",
        K::InvalidIssuer => "is of another issuer",
        K::MissingRequiredClaim(_) => "lacks one of `exp`, `iss`, `aud` and `sub`",
        _ => "is not valid",
    }
}

fn refused(problem: &'static str) -> Error {
    let text = format!("the access token {problem}");
    Error::new(ErrorCode::IdentityMissing, text)
}

#[cfg(test)]
mod tests;
