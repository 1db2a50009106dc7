//! The names of objects.

use std::fmt;

use rand::CryptoRng;
use sotto_common::ids::{FollowUpId, PublicationId};
use sotto_common::random;

/// What stands before the id of a follow-up.
const FOLLOW_UP: &str = "follow-up.";

/// What an object belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum ObjectOwner {
    /// A publication: the object holds its bits, or some of them.
    Publication(PublicationId),
    /// A follow-up: the object holds sealed bytes of a file that goes with its answer.
    FollowUp(FollowUpId),
}

impl ObjectOwner {
    fn parse(text: &str) -> Option<Self> {
        let owner = match text.strip_prefix(FOLLOW_UP) {
            Some(id) => Self::FollowUp(id.parse().ok()?),
            None => Self::Publication(text.parse().ok()?),
        };
        // A UUID has other spellings, but a name has one.
        (owner.to_string() == text).then_some(owner)
    }
}

impl fmt::Display for ObjectOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publication(id) => id.fmt(f),
            Self::FollowUp(id) => write!(f, "{FOLLOW_UP}{id}"),
        }
    }
}

/// The name of one object: `<publication id>/<32 hex digits>` or
/// `follow-up.<follow-up id>/<32 hex digits>`, the digits random.
///
/// As they are, no two brokers that take the same upload ever write the same object, and whoever
/// can write to the store but not read the ledger does not know what to replace. Hence it does not
/// print.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct ObjectKey {
    owner: ObjectOwner,
    text: String,
}

impl ObjectKey {
    /// A name that no object has, for bits of a publication.
    pub(crate) fn generate(publication: PublicationId, rng: &mut impl CryptoRng) -> Self {
        Self::of(ObjectOwner::Publication(publication), rng)
    }

    /// A name that no object has.
    pub(crate) fn of(owner: ObjectOwner, rng: &mut impl CryptoRng) -> Self {
        let random = hex::encode(random::bytes::<16>(rng));
        Self {
            owner,
            text: format!("{owner}/{random}"),
        }
    }

    /// From its one form; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (owner, random) = text.split_once('/')?;
        let owner = ObjectOwner::parse(owner)?;
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let well_formed = random.len() == 32 && random.bytes().all(digit);
        well_formed.then(|| Self {
            owner,
            text: text.to_owned(),
        })
    }

    /// What the object belongs to.
    pub(crate) const fn owner(&self) -> ObjectOwner {
        self.owner
    }

    /// The publication whose bits, or some of them, the object holds; `None` for a file that goes
    /// with an answer.
    pub(crate) const fn publication(&self) -> Option<PublicationId> {
        match self.owner {
            ObjectOwner::Publication(id) => Some(id),
            ObjectOwner::FollowUp(_) => None,
        }
    }

    /// The name in clear: for the ledger and for the store.
    pub(crate) fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use sotto_common::random::os_rng;
    use sotto_common::time::Timestamp;

    use super::*;

    #[test]
    fn a_key_has_one_form() {
        let id = PublicationId::generate(Timestamp::from_seconds(1), &mut os_rng());
        let key = ObjectKey::generate(id, &mut os_rng());
        assert_eq!(ObjectKey::parse(key.expose()), Some(key.clone()));
        assert_eq!(key.publication(), Some(id));
        assert_ne!(ObjectKey::generate(id, &mut os_rng()), key);
        let random = "0123456789abcdef0123456789abcdef";
        for bad in [
            String::new(),
            id.to_string(),
            format!("{id}/"),
            format!("{id}/{}", &random[1..]),
            format!("{id}/{}", random.to_uppercase()),
            format!("{id}/{random}/"),
            format!("/{id}/{random}"),
            format!("{}/{random}", id.to_string().to_uppercase()),
            format!("{{{id}}}/{random}"),
            format!("follow-up/{random}"),
            format!("follow-up.{}/{random}", id.to_string().to_uppercase()),
            format!("follow-up.follow-up.{id}/{random}"),
            format!("67e55044-10b1-426f-9247-bb680e5fe0c8/{random}"),
        ] {
            assert_eq!(ObjectKey::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn keys_of_publications_and_of_follow_ups_are_apart() {
        let now = Timestamp::from_seconds(1);
        let id = FollowUpId::generate(now, &mut os_rng());
        let owner = ObjectOwner::FollowUp(id);
        let key = ObjectKey::of(owner, &mut os_rng());
        assert_eq!(ObjectKey::parse(key.expose()), Some(key.clone()));
        assert_eq!((key.owner(), key.publication()), (owner, None));
        let bare = key.expose().trim_start_matches(FOLLOW_UP);
        let other = ObjectKey::parse(bare).expect("a key of a publication");
        assert_ne!(other.owner(), owner);
    }

    #[test]
    fn a_key_does_not_print() {
        let id = PublicationId::generate(Timestamp::from_seconds(1), &mut os_rng());
        let key = ObjectKey::generate(id, &mut os_rng());
        let shown = format!("{key:?}");
        let (id, random) = key.expose().split_once('/').expect("two parts");
        assert!(!shown.contains(id) && !shown.contains(random));
    }
}
