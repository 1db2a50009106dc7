//! The role file: who may call the node, and as what.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use sotto_common::ids::{Role, SpiffeId};
use toml::Spanned;

use super::persons::identities;
use super::{LOCAL_ROLES, local_role};

/// How the id of somebody with an access token begins; issuer, `#` and subject follow.
pub(crate) const OIDC: &str = "oidc:";

/// The longest id, in bytes.
const MAX_ID: usize = 1024;

/// The people of a role file. Nobody else has a role.
#[derive(Debug)]
pub(crate) struct People(BTreeMap<String, Listed>);

#[derive(Debug)]
struct Listed {
    roles: BTreeSet<Role>,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleFile {
    people: Vec<Person>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    id: Spanned<String>,
    roles: Spanned<Vec<Spanned<String>>>,
    /// For the readers of the file; two ids with one name are one person.
    #[serde(default)]
    name: Option<String>,
}

impl People {
    /// Reads a role file. SPIFFE IDs must be of the trust domain and of people; ids of access
    /// tokens must be of the issuer, if one is configured.
    ///
    /// # Errors
    /// What is wrong, and on which line.
    pub(crate) fn parse(
        content: &[u8],
        trust_domain: &str,
        issuer: Option<&str>,
    ) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "is not UTF-8".to_owned())?;
        let at = |start: usize, problem: &str| {
            let line = 1 + text.bytes().take(start).filter(|&b| b == b'\n').count();
            format!("line {line}: {problem}")
        };
        let file: RoleFile = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            at(start, error.message())
        })?;
        let mut people = BTreeMap::new();
        for person in file.people {
            let start = person.id.span().start;
            let id = person.id.into_inner();
            check_id(&id, trust_domain, issuer).map_err(|problem| at(start, &problem))?;
            let listed = person.roles.span().start;
            let mut roles = BTreeSet::new();
            for role in person.roles.into_inner() {
                let start = role.span().start;
                let role = local_role(role.get_ref()).ok_or_else(|| {
                    let known = LOCAL_ROLES.map(|role| role.as_str().replace('-', "_"));
                    at(start, &format!("a role is one of {}", known.join(", ")))
                })?;
                roles.insert(role);
            }
            if roles.is_empty() {
                return Err(at(listed, "names no role: remove the person instead"));
            }
            let name = person.name;
            if people.insert(id, Listed { roles, name }).is_some() {
                return Err(at(start, "this person is listed above already"));
            }
        }
        Ok(Self(people))
    }

    /// What a person may act as; empty for somebody who is not listed.
    pub(crate) fn roles(&self, person: &str) -> BTreeSet<Role> {
        let listed = self.0.get(person);
        listed
            .map(|listed| listed.roles.clone())
            .unwrap_or_default()
    }

    /// Everything that a person goes by ([`identities`]).
    pub(crate) fn identities(&self, person: &str) -> BTreeSet<String> {
        let listed = self.0.iter();
        let listed = listed.map(|(id, listed)| (id.as_str(), listed.name.as_deref()));
        identities(&listed, person)
    }
}

fn check_id(id: &str, trust_domain: &str, issuer: Option<&str>) -> Result<(), String> {
    if id.len() > MAX_ID || id.chars().any(char::is_control) {
        return Err("an id is at most 1024 bytes, without control characters".into());
    }
    if let Some(rest) = id.strip_prefix(OIDC) {
        // An issuer has no fragment: what comes after the first `#` is the subject.
        return match (rest.split_once('#'), issuer) {
            (Some((theirs, subject)), issuer) if !theirs.is_empty() && !subject.is_empty() => {
                match issuer {
                    Some(ours) if ours != theirs => Err(format!(
                        "the issuer is not that of the setting oidc, {ours}"
                    )),
                    _ => Ok(()),
                }
            }
            _ => Err("expected oidc:<issuer>#<subject>".into()),
        };
    }
    let id: SpiffeId = id.parse().map_err(|_| {
        "an id is spiffe://<trust domain>/<role>/<name> or oidc:<issuer>#<subject>".to_owned()
    })?;
    if id.trust_domain() != trust_domain {
        return Err(format!("the trust domain of this node is {trust_domain}"));
    }
    if !LOCAL_ROLES.contains(&id.role()) {
        return Err("this is the id of a machine, or of somebody who is not of a node".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://login.example";
    const FILE: &str = r#"
[[people]]
id = "spiffe://sotto.test/analyst/jane"
roles = ["analyst", "approver"]
name = "Jane"

[[people]]
id = "oidc:https://login.example#a#b"
roles = ["data_manager", "supervisor"]
"#;

    fn parse(text: &str) -> Result<People, String> {
        People::parse(text.as_bytes(), "sotto.test", Some(ISSUER))
    }

    #[test]
    fn people_have_exactly_the_roles_that_are_listed() {
        let people = parse(FILE).expect("valid");
        let roles = |person: &str| people.roles(person).into_iter().collect::<Vec<_>>();
        assert_eq!(
            roles("spiffe://sotto.test/analyst/jane"),
            [Role::Analyst, Role::Approver]
        );
        assert_eq!(
            roles("oidc:https://login.example#a#b"),
            [Role::Supervisor, Role::DataManager]
        );
        for other in [
            "spiffe://sotto.test/approver/jane",
            "spiffe://sotto.test/analyst/jan",
            "oidc:https://login.example#a",
            "",
        ] {
            assert_eq!(roles(other), [], "{other}");
        }
        assert!(parse("people = []").is_ok());
    }

    #[test]
    fn the_sample_file_is_valid() {
        let sample = include_bytes!("../../../deploy/config/roles.toml");
        let issuer = Some("https://login.sotto.example");
        let people = People::parse(sample, "sotto.example", issuer).expect("valid");
        assert_eq!(people.0.len(), 2);
    }

    #[test]
    fn a_broken_file_is_refused_with_its_line() {
        for (from, to, expected) in [
            (
                "[[people]]\nid = \"spiffe",
                "[[people]\nid = \"spiffe",
                "line 2",
            ),
            (
                "name = \"Jane\"",
                "nmae = \"Jane\"",
                "line 5: unknown field",
            ),
            ("\"approver\"]", "\"aprover\"]", "line 4: a role is one of"),
            ("[\"analyst\", \"approver\"]", "[]", "line 4: names no role"),
            ("[\"analyst\", \"approver\"]", "\"analyst\"", "line 4"),
            (
                "\"analyst\", ",
                "\"operator\", ",
                "line 4: a role is one of",
            ),
            (
                "sotto.test/analyst",
                "other.test/analyst",
                "line 3: the trust domain",
            ),
            ("sotto.test/analyst", "sotto.test/node", "line 3"),
            (
                "sotto.test/analyst",
                "sotto.test/operator",
                "line 3: this is the id",
            ),
            ("login.example#a#b", "other.example#a", "line 8: the issuer"),
            (
                "login.example#a#b",
                "login.example",
                "line 8: expected oidc:",
            ),
            (
                "oidc:https://login.example#a#b",
                "jane@example",
                "line 8: an id is",
            ),
            (
                "oidc:https://login.example#a#b",
                "spiffe://sotto.test/analyst/jane",
                "line 8: this person is listed above",
            ),
            (
                "roles = [\"analyst\", \"approver\"]\n",
                "",
                "missing field `roles`",
            ),
            ("[[people]]", "[[persons]]", "line 2"),
        ] {
            assert!(FILE.contains(from), "{from}");
            let error = parse(&FILE.replacen(from, to, 1)).expect_err(to);
            assert!(error.contains(expected), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        assert!(People::parse(b"\xff", "sotto.test", None).is_err());
        assert!(parse("").expect_err("empty").contains("people"));
    }
}
