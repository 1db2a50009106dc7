//! Why a question is put: purpose, legal basis and case (workflow.md "Purposes and legal bases").

use crate::error::{Error, ErrorCode, Result};

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code as workflow.md writes it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// From the code as workflow.md writes it, in any case; else `None`.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str().eq_ignore_ascii_case(text))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use codes;

codes! {
    /// Why a probe is made.
    Purpose {
        /// Prevention of criminal offences.
        Prevention = "PREVENTION",
        /// Detection of criminal offences.
        Detection = "DETECTION",
        /// Investigation of criminal offences.
        Investigation = "INVESTIGATION",
        /// Search for a missing person.
        MissingPerson = "MISSING_PERSON",
        /// Identification of human remains.
        HumanRemains = "HUMAN_REMAINS",
        /// Border management.
        Border = "BORDER",
        /// Enforcement of sanctions.
        SanctionsEnforcement = "SANCTIONS_ENFORCEMENT",
        /// Financial intelligence.
        FinancialIntelligence = "FINANCIAL_INTELLIGENCE",
    }
}

codes! {
    /// On what legal basis a probe is made.
    LegalBasis {
        /// Directive (EU) 2023/977.
        Eu2023977 = "EU_2023_977",
        /// Regulation (EU) 2024/982.
        Eu2024982 = "EU_2024_982",
        /// Directive (EU) 2024/1640, between FIUs.
        Eu20241640Fiu = "EU_2024_1640_FIU",
        /// A bilateral treaty.
        BilateralTreaty = "BILATERAL_TREATY",
        /// UN Convention against Transnational Organized Crime.
        Untoc = "UNTOC",
        /// Budapest Convention on Cybercrime.
        BudapestConvention = "BUDAPEST_CONVENTION",
        /// INTERPOL's Rules on the Processing of Data.
        InterpolRpd = "INTERPOL_RPD",
        /// National law.
        NationalLaw = "NATIONAL_LAW",
    }
}

impl LegalBasis {
    /// Whether a reference text must go with it: "the last three and the treaty".
    pub const fn needs_reference(self) -> bool {
        matches!(
            self,
            Self::BilateralTreaty
                | Self::BudapestConvention
                | Self::InterpolRpd
                | Self::NationalLaw
        )
    }
}

/// Most characters in a case reference.
pub const MAX_CASE_REF: usize = 128;

/// Most characters in the reference text of a legal basis.
pub const MAX_REFERENCE: usize = 256;

/// Purpose, legal basis and case of a question; protocol §7 refuses a probe without them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grounds {
    purpose: Purpose,
    legal_basis: LegalBasis,
    reference: Box<str>,
    case_ref: Box<str>,
}

impl Grounds {
    /// Checks the grounds of a question.
    ///
    /// # Errors
    /// `PURPOSE_MISSING`, `LEGAL_BASIS_MISSING`, `CASE_REF_MISSING`, or `INVALID_FIELD` for a text
    /// that is too long or holds control characters.
    pub fn new(
        purpose: Option<Purpose>,
        legal_basis: Option<LegalBasis>,
        reference: &str,
        case_ref: &str,
    ) -> Result<Self> {
        let purpose = purpose.ok_or_else(|| {
            Error::new(ErrorCode::PurposeMissing, "a probe needs a purpose").about("purpose")
        })?;
        let legal_basis = legal_basis.ok_or_else(|| {
            Error::new(ErrorCode::LegalBasisMissing, "a probe needs a legal basis")
                .about("legal_basis")
        })?;
        if legal_basis.needs_reference() && reference.trim().is_empty() {
            return Err(Error::new(
                ErrorCode::LegalBasisMissing,
                format!("legal basis {legal_basis} needs its reference text"),
            )
            .about("legal_basis_reference"));
        }
        if case_ref.trim().is_empty() {
            return Err(
                Error::new(ErrorCode::CaseRefMissing, "a probe needs a case reference")
                    .about("case_ref"),
            );
        }
        bounded("legal_basis_reference", reference, MAX_REFERENCE)?;
        bounded("case_ref", case_ref, MAX_CASE_REF)?;
        Ok(Self {
            purpose,
            legal_basis,
            reference: reference.into(),
            case_ref: case_ref.into(),
        })
    }

    /// Why.
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// On what legal basis.
    pub const fn legal_basis(&self) -> LegalBasis {
        self.legal_basis
    }

    /// Reference text of the legal basis; may be empty where none is needed.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Opaque reference of the case.
    pub fn case_ref(&self) -> &str {
        &self.case_ref
    }
}

fn bounded(field: &'static str, text: &str, max: usize) -> Result<()> {
    if text.chars().count() > max {
        return Err(Error::field(field, format!("at most {max} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::field(field, "no control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(result: Result<Grounds>) -> ErrorCode {
        result.expect_err("must be refused").code
    }

    #[test]
    fn a_probe_without_purpose_basis_or_case_is_refused() {
        let (p, b) = (Some(Purpose::Detection), Some(LegalBasis::Eu2023977));
        assert!(Grounds::new(p, b, "", "c-1").is_ok());
        assert_eq!(
            code(Grounds::new(None, b, "", "c-1")),
            ErrorCode::PurposeMissing
        );
        assert_eq!(
            code(Grounds::new(p, None, "", "c-1")),
            ErrorCode::LegalBasisMissing
        );
        assert_eq!(code(Grounds::new(p, b, "", " ")), ErrorCode::CaseRefMissing);
        assert_eq!(
            code(Grounds::new(p, b, "", "a\nb")),
            ErrorCode::InvalidField
        );
        assert_eq!(
            code(Grounds::new(p, b, "", &"x".repeat(129))),
            ErrorCode::InvalidField
        );
    }

    #[test]
    fn the_last_three_bases_and_the_treaty_need_a_reference() {
        for &basis in LegalBasis::ALL {
            let made = Grounds::new(Some(Purpose::Border), Some(basis), "", "c-1");
            assert_eq!(made.is_err(), basis.needs_reference(), "{basis}");
            assert!(Grounds::new(Some(Purpose::Border), Some(basis), "Art. 3", "c-1").is_ok());
        }
        assert_eq!(
            LegalBasis::ALL
                .iter()
                .filter(|b| b.needs_reference())
                .count(),
            4
        );
    }
}
