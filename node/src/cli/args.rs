//! Arguments that several commands share.

use std::str::FromStr;

use clap::Args;
use sotto_common::grounds::{Grounds, LegalBasis, Purpose};
use sotto_common::ids::NodeId;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sotto_proto::v1;

use super::fault::{Fault, Result};

/// A selector type as people name it: `phone`, or `phone/1`.
pub(crate) fn policy(text: &str) -> Result<Policy, String> {
    text.parse()
        .ok()
        .or_else(|| Policy::from_type(text))
        .ok_or_else(|| {
            let types: Vec<_> = Policy::ALL.iter().map(|p| p.selector_type()).collect();
            format!("expected one of {}", types.join(", "))
        })
}

pub(crate) fn purpose(text: &str) -> Result<Purpose, String> {
    Purpose::parse(&text.replace('-', "_")).ok_or_else(|| {
        let codes: Vec<_> = Purpose::ALL.iter().map(|code| code.as_str()).collect();
        format!("expected one of {}", codes.join(", "))
    })
}

pub(crate) fn legal_basis(text: &str) -> Result<LegalBasis, String> {
    LegalBasis::parse(&text.replace('-', "_")).ok_or_else(|| {
        let codes: Vec<_> = LegalBasis::ALL.iter().map(|code| code.as_str()).collect();
        format!("expected one of {}", codes.join(", "))
    })
}

/// A node id, for a value parser.
pub(crate) fn node(text: &str) -> Result<NodeId, String> {
    NodeId::from_str(text).map_err(|error| error.to_string())
}

/// A region hint, ISO 3166-1 alpha-2 in any case.
pub(crate) fn region(text: &str) -> Result<String, String> {
    if text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic()) {
        Ok(text.to_ascii_uppercase())
    } else {
        Err("expected a country of two letters, e.g. NL".into())
    }
}

/// Why, on what basis and for which case a question is put.
#[derive(Args, Debug)]
pub(crate) struct GroundsArgs {
    /// Why: PREVENTION, DETECTION, INVESTIGATION, MISSING_PERSON, HUMAN_REMAINS, BORDER,
    /// SANCTIONS_ENFORCEMENT or FINANCIAL_INTELLIGENCE
    #[arg(long, value_parser = purpose)]
    purpose: Purpose,
    /// On what basis: EU_2023_977, EU_2024_982, EU_2024_1640_FIU, BILATERAL_TREATY, UNTOC,
    /// BUDAPEST_CONVENTION, INTERPOL_RPD or NATIONAL_LAW
    #[arg(long, value_name = "BASIS", value_parser = legal_basis)]
    legal_basis: LegalBasis,
    /// Text of the legal basis; needed for BILATERAL_TREATY, BUDAPEST_CONVENTION, INTERPOL_RPD
    /// and NATIONAL_LAW
    #[arg(long, value_name = "TEXT", default_value = "")]
    reference: String,
    /// Reference of the case, opaque to everybody else
    #[arg(long = "case", value_name = "REF")]
    case_ref: String,
}

impl GroundsArgs {
    /// The grounds, checked as the broker will check them.
    pub(crate) fn to_wire(&self) -> Result<v1::ProbeGrounds> {
        let (purpose, basis) = (Some(self.purpose), Some(self.legal_basis));
        grounds(purpose, basis, &self.reference, &self.case_ref)
    }
}

/// Grounds, checked as the broker will check them.
pub(crate) fn grounds(
    purpose: Option<Purpose>,
    basis: Option<LegalBasis>,
    reference: &str,
    case_ref: &str,
) -> Result<v1::ProbeGrounds> {
    let grounds = Grounds::new(purpose, basis, reference, case_ref)
        .map_err(|error| Fault::Usage(error.text.into_owned()))?;
    Ok((&grounds).into())
}

/// An instant: RFC 3339, or a date, whose 00:00 in UTC is meant.
pub(crate) fn instant(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    let at = if text.len() == "2027-01-31".len() {
        Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z"))
    } else {
        Timestamp::parse_rfc3339(text)
    };
    at.ok_or_else(|| "expected a date, e.g. 2027-01-31, or RFC 3339".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_a_date_or_rfc_3339() {
        let seconds = |text| instant(text).map(Timestamp::seconds);
        assert_eq!(seconds("1970-01-02"), Ok(86_400));
        assert_eq!(seconds(" 1970-01-01T02:00:00+01:00"), Ok(3_600));
        for bad in [
            "",
            "tomorrow",
            "1970-13-01",
            "01/02/2027",
            "1970-01-01T02:00:00",
        ] {
            assert!(instant(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn types_are_taken_with_and_without_their_version() {
        assert_eq!(policy("phone"), Ok(Policy::Phone));
        assert_eq!(policy("crypto_address/1"), Ok(Policy::CryptoAddress));
        for bad in ["phone/2", "phon", "", "phone/"] {
            assert!(
                policy(bad).is_err_and(|text| text.contains("national_id")),
                "{bad}"
            );
        }
    }

    #[test]
    fn codes_are_taken_in_any_case_and_with_hyphens() {
        assert_eq!(purpose("missing-person"), Ok(Purpose::MissingPerson));
        assert_eq!(legal_basis("eu_2023_977"), Ok(LegalBasis::Eu2023977));
        assert!(purpose("fun").is_err_and(|text| text.contains("BORDER")));
    }

    #[test]
    fn regions_are_two_letters() {
        assert_eq!(region("nl").as_deref(), Ok("NL"));
        assert!(region("NLD").is_err() && region("n1").is_err());
    }
}
