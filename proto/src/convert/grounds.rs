//! Purpose and legal basis (workflow.md).

use sotto_common::error::{Error, Result};
use sotto_common::grounds::{Grounds, LegalBasis, Purpose};

use crate::v1;

macro_rules! enum_both_ways {
    ($name:ident { $($variant:ident),* $(,)? }) => {
        enum_both_ways!($name as $name { $($variant,)* });
    };
    ($name:ident as $wire:ident { $($variant:ident),* $(,)? }) => {
        impl From<$name> for v1::$wire {
            fn from(code: $name) -> Self {
                match code { $($name::$variant => Self::$variant,)* }
            }
        }

        impl v1::$wire {
            /// The domain's code; `None` if unspecified.
            pub const fn domain(self) -> Option<$name> {
                match self {
                    $(Self::$variant => Some($name::$variant),)*
                    Self::Unspecified => None,
                }
            }
        }
    };
}
pub(super) use enum_both_ways;

enum_both_ways!(Purpose {
    Prevention,
    Detection,
    Investigation,
    MissingPerson,
    HumanRemains,
    Border,
    SanctionsEnforcement,
    FinancialIntelligence,
});

enum_both_ways!(LegalBasis {
    Eu2023977,
    Eu2024982,
    Eu20241640Fiu,
    BilateralTreaty,
    Untoc,
    BudapestConvention,
    InterpolRpd,
    NationalLaw,
});

/// Checks the grounds of a question; a number that is no code counts as missing.
fn grounds(purpose: i32, basis: i32, reference: &str, case_ref: &str) -> Result<Grounds> {
    Grounds::new(
        v1::Purpose::try_from(purpose)
            .ok()
            .and_then(v1::Purpose::domain),
        v1::LegalBasis::try_from(basis)
            .ok()
            .and_then(v1::LegalBasis::domain),
        reference,
        case_ref,
    )
}

impl TryFrom<&v1::ProbeOpening> for Grounds {
    type Error = Error;
    fn try_from(wire: &v1::ProbeOpening) -> Result<Self> {
        grounds(
            wire.purpose,
            wire.legal_basis,
            &wire.legal_basis_reference,
            &wire.case_ref,
        )
    }
}

impl TryFrom<&v1::ProbeGrounds> for Grounds {
    type Error = Error;
    fn try_from(wire: &v1::ProbeGrounds) -> Result<Self> {
        grounds(
            wire.purpose,
            wire.legal_basis,
            &wire.legal_basis_reference,
            &wire.case_ref,
        )
    }
}

impl From<&Grounds> for v1::ProbeGrounds {
    fn from(grounds: &Grounds) -> Self {
        Self {
            purpose: v1::Purpose::from(grounds.purpose()).into(),
            legal_basis: v1::LegalBasis::from(grounds.legal_basis()).into(),
            legal_basis_reference: grounds.reference().to_owned(),
            case_ref: grounds.case_ref().to_owned(),
        }
    }
}
