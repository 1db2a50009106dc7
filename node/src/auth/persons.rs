//! Who is one and the same person: four eyes are of two people, whatever certificates or tokens
//! they use (workflow.md "Follow-up").

use std::collections::BTreeSet;

use sotto_common::ids::SpiffeId;

/// Everything that a person of the node goes by: the ids that are theirs, and their name in the
/// role file. Two callers with one of these in common are one person.
///
/// `listed` are the ids of the role file with their names. A SPIFFE ID stands for the same person
/// in every role; another id for itself.
pub(crate) fn identities<'a>(
    listed: &(impl Iterator<Item = (&'a str, Option<&'a str>)> + Clone),
    id: &str,
) -> BTreeSet<String> {
    let mut known = BTreeSet::from([of_id(id)]);
    loop {
        let before = known.len();
        for (id, name) in listed.clone() {
            let own = [Some(of_id(id)), name.and_then(of_name)];
            if own.iter().flatten().any(|one| known.contains(one)) {
                known.extend(own.into_iter().flatten());
            }
        }
        if known.len() == before {
            return known;
        }
    }
}

/// What an id stands for.
fn of_id(id: &str) -> String {
    match id.parse::<SpiffeId>() {
        Ok(id) => format!("person {}/{}", id.trust_domain(), id.name()),
        Err(_) => format!("id {id}"),
    }
}

/// A name of the role file, however it is spaced and capitalised; none if it says nothing.
fn of_name(name: &str) -> Option<String> {
    let words: Vec<_> = name.split_whitespace().collect();
    let name = words.join(" ").to_lowercase();
    (!name.is_empty()).then(|| format!("name {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "spiffe://sotto.test/analyst/alice";
    const ALICE_APPROVES: &str = "spiffe://sotto.test/approver/alice";
    const BOB: &str = "spiffe://sotto.test/approver/bob";
    const TOKEN: &str = "oidc:https://idp.test#17";
    const OTHER_TOKEN: &str = "oidc:https://idp.test#18";

    #[test]
    fn one_person_is_one_whatever_role_certificate_or_token_they_use() {
        let unnamed = [(ALICE, None), (BOB, None), (TOKEN, None)];
        let named = [
            (ALICE, Some("Alice A.")),
            (BOB, Some("Bob B.")),
            (TOKEN, Some("  alice  a. ")),
            (OTHER_TOKEN, Some(" ")),
        ];
        for (listed, one, other, same) in [
            (&unnamed[..], ALICE, ALICE, true),
            (&unnamed[..], ALICE, ALICE_APPROVES, true),
            (&unnamed[..], ALICE, BOB, false),
            (&unnamed[..], ALICE, TOKEN, false),
            (&unnamed[..], TOKEN, TOKEN, true),
            (&unnamed[..], TOKEN, OTHER_TOKEN, false),
            (&named[..], ALICE, TOKEN, true),
            // By way of the name that the other role of the same certificate has.
            (&named[..], ALICE_APPROVES, TOKEN, true),
            (&named[..], BOB, TOKEN, false),
            (&named[..], BOB, OTHER_TOKEN, false),
            (&[][..], ALICE_APPROVES, ALICE, true),
            (&[][..], "spiffe://other.test/analyst/alice", ALICE, false),
        ] {
            let one_is = identities(&listed.iter().copied(), one);
            let other_is = identities(&listed.iter().copied(), other);
            assert_eq!(!one_is.is_disjoint(&other_is), same, "{one} {other}");
        }
    }
}
