//! The names of objects.

use std::fmt;

use rand::CryptoRng;
use sotto_common::ids::PublicationId;
use sotto_common::random;

/// The name of one object: `<publication id>/<32 hex digits>`, the digits random.
///
/// As they are, no two brokers that take the same upload ever write the same object, and whoever
/// can write to the store but not read the ledger does not know what to replace. Hence it does not
/// print.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct ObjectKey {
    publication: PublicationId,
    text: String,
}

impl ObjectKey {
    /// A name that no object has.
    pub(crate) fn generate(publication: PublicationId, rng: &mut impl CryptoRng) -> Self {
        let random = hex::encode(random::bytes::<16>(rng));
        Self {
            publication,
            text: format!("{publication}/{random}"),
        }
    }

    /// From its one form; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, random) = text.split_once('/')?;
        let publication: PublicationId = id.parse().ok()?;
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        // A UUID has other spellings, but a name has one.
        let well_formed =
            publication.to_string() == id && random.len() == 32 && random.bytes().all(digit);
        well_formed.then(|| Self {
            publication,
            text: text.to_owned(),
        })
    }

    /// The publication whose bits, or some of them, the object holds.
    pub(crate) fn publication(&self) -> PublicationId {
        self.publication
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
        assert_eq!(key.publication(), id);
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
            format!("67e55044-10b1-426f-9247-bb680e5fe0c8/{random}"),
        ] {
            assert_eq!(ObjectKey::parse(&bad), None, "{bad}");
        }
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
