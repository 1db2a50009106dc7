//! The codes of a follow-up, both ways.

use sotto_common::error::{Error, Result};
use sotto_common::followup::codes::{
    HandlingCode, InformationEvaluation, Item, ItemState, Nature, PersonRole, RefusalGround,
    SourceEvaluation, TimeLimit, Tlp, UrgencyGround,
};
use sotto_common::followup::{FollowUpState, FollowUpStep, Party};
use sotto_common::grounds::{LegalBasis, Purpose};

use super::super::grounds::enum_both_ways;
use crate::v1;

/// A code of the domain that is an enum on the wire.
pub trait Code: Sized {
    /// From its number; `None` for 0 and for numbers that are not known.
    fn of_number(number: i32) -> Option<Self>;
}

/// Reads a code that must be given.
///
/// # Errors
/// `INVALID_FIELD`: what is not known is refused, never guessed (protocol §13).
pub fn code<C: Code>(field: &'static str, number: i32) -> Result<C> {
    C::of_number(number).ok_or_else(|| Error::field(field, "a code that this version knows"))
}

macro_rules! codes {
    ($($name:ident as $wire:ident,)*) => {
        $(impl Code for $name {
            fn of_number(number: i32) -> Option<Self> {
                v1::$wire::try_from(number).ok().and_then(v1::$wire::domain)
            }
        })*
    };
}

codes! {
    FollowUpState as FollowUpState,
    FollowUpStep as FollowUpStep,
    Party as FollowUpParty,
    TimeLimit as TimeLimit,
    UrgencyGround as UrgencyGround,
    RefusalGround as RefusalGround,
    Item as FollowUpItem,
    ItemState as ItemState,
    PersonRole as PersonRole,
    HandlingCode as HandlingCode,
    SourceEvaluation as SourceEvaluation,
    InformationEvaluation as InformationEvaluation,
    Tlp as Tlp,
    Nature as Nature,
    Purpose as Purpose,
    LegalBasis as LegalBasis,
}

enum_both_ways!(FollowUpState {
    Draft,
    Submitted,
    Held,
    Received,
    Accepted,
    ClarificationRequested,
    AwaitingJudicialAuthorisation,
    Answered,
    Refused,
    Withdrawn,
    Closed,
});

enum_both_ways!(FollowUpStep {
    Submit,
    Held,
    NotHeld,
    Particulars,
    Accept,
    Refuse,
    RequestClarification,
    Reply,
    AwaitJudicialAuthorisation,
    Answer,
    Withdraw,
    Close,
});

enum_both_ways!(Party as FollowUpParty { Requester, Holder, });

enum_both_ways!(TimeLimit {
    UrgentDirect,
    UrgentIndirect,
    Ordinary,
    CoreData,
});

enum_both_ways!(UrgencyGround {
    SeriousThreatToPublicSecurity,
    ThreatToLife,
    DecisionOnDetention,
    LossOfRelevance,
});

enum_both_ways!(RefusalGround {
    NotAvailable,
    RequestIncomplete,
    JudicialAuthorisationRefused,
    CategoryNotAllowed,
    InaccurateOrOutdated,
    NationalSecurity,
    OngoingInvestigationOrSafety,
    HarmToLegalPerson,
    MinorOffence,
    NotAnOffenceHere,
    ThirdPartyConsentMissing,
});

enum_both_ways!(Item as FollowUpItem {
    Identity,
    Aliases,
    DateAndPlaceOfBirth,
    Nationality,
    Addresses,
    ContactData,
    Documents,
    Vehicles,
    FinancialAccounts,
    CaseNumber,
    ResponsibleAuthority,
    CriminalRecord,
    ModusOperandi,
    Associates,
    Attachments,
});

enum_both_ways!(ItemState {
    Provided,
    Refused,
    Pending,
});

enum_both_ways!(PersonRole {
    Suspect,
    Convicted,
    Victim,
    Witness,
    Missing,
    Other,
});

enum_both_ways!(HandlingCode { H0, H1, H2, H3 });

enum_both_ways!(SourceEvaluation { A, B, C, X });

enum_both_ways!(InformationEvaluation {
    One,
    Two,
    Three,
    Four,
});

enum_both_ways!(Tlp {
    Red,
    AmberStrict,
    Amber,
    Green,
    Clear,
});

enum_both_ways!(Nature { Fact, Assessment });
