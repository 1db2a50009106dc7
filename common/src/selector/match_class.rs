//! How much a match of a policy says (selectors.md "Persons", workflow.md "Hit").

use super::Policy;
use crate::grounds::codes;

codes! {
    /// How much a match says of whether two units mean the same.
    MatchClass {
        /// Both have the same canonical value.
        Exact = "EXACT",
        /// A person by names and date of birth, in close variants: `person/1`.
        Strong = "STRONG",
        /// A person by the sound of one name and date of birth: `person-b/1`. It is not confirmed
        /// without a second factor.
        Weak = "WEAK",
    }
}

impl Policy {
    /// How much a match of this policy says. The person policies are not built yet: all of this
    /// version are exact.
    pub const fn match_class(self) -> MatchClass {
        match self {
            Self::Phone
            | Self::Email
            | Self::Domain
            | Self::Ip
            | Self::Url
            | Self::Iban
            | Self::CryptoAddress
            | Self::FileHash
            | Self::Passport
            | Self::NationalId
            | Self::VehiclePlate
            | Self::Vin
            | Self::Imei
            | Self::VesselImo => MatchClass::Exact,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_of_anything_but_a_person_is_exact() {
        for &policy in Policy::ALL {
            assert!(!policy.name().starts_with("person"), "{policy}");
            assert_eq!(policy.match_class(), MatchClass::Exact, "{policy}");
        }
    }
}
