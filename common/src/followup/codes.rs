//! The codes of a follow-up (workflow.md "Follow-up"): free text never replaces one of them.

use std::time::Duration;

use crate::grounds::codes;

codes! {
    /// Why a request is urgent.
    UrgencyGround {
        /// An immediate and serious threat to public security.
        SeriousThreatToPublicSecurity = "SERIOUS_THREAT_TO_PUBLIC_SECURITY",
        /// A threat to somebody's life.
        ThreatToLife = "THREAT_TO_LIFE",
        /// A decision on detention depends on it.
        DecisionOnDetention = "DECISION_ON_DETENTION",
        /// The information would lose its relevance.
        LossOfRelevance = "LOSS_OF_RELEVANCE",
    }
}

codes! {
    /// How long the holder has, from RECEIVED.
    TimeLimit {
        /// Urgent, and the holder has direct access to the data: 8 hours.
        UrgentDirect = "URGENT_DIRECT",
        /// Urgent, and the holder has to get the data from others: 3 days.
        UrgentIndirect = "URGENT_INDIRECT",
        /// All others: 7 days.
        Ordinary = "ORDINARY",
        /// Core data after a confirmed match (Regulation (EU) 2024/982): 48 hours.
        CoreData = "CORE_DATA",
    }
}

impl TimeLimit {
    /// The time itself.
    pub const fn duration(self) -> Duration {
        match self {
            Self::UrgentDirect => Duration::from_hours(8),
            Self::UrgentIndirect => Duration::from_hours(3 * 24),
            Self::Ordinary => Duration::from_hours(7 * 24),
            Self::CoreData => Duration::from_hours(48),
        }
    }

    /// Whether it is for urgent requests, which name their ground.
    pub const fn is_urgent(self) -> bool {
        matches!(self, Self::UrgentDirect | Self::UrgentIndirect)
    }
}

codes! {
    /// Why the holder does not give something.
    RefusalGround {
        /// The holder does not have it.
        NotAvailable = "NOT_AVAILABLE",
        /// The request misses what the law asks for.
        RequestIncomplete = "REQUEST_INCOMPLETE",
        /// A court has not allowed it.
        JudicialAuthorisationRefused = "JUDICIAL_AUTHORISATION_REFUSED",
        /// The category of data may not be given.
        CategoryNotAllowed = "CATEGORY_NOT_ALLOWED",
        /// The data are inaccurate, incomplete or out of date.
        InaccurateOrOutdated = "INACCURATE_OR_OUTDATED",
        /// Essential interests of national security.
        NationalSecurity = "NATIONAL_SECURITY",
        /// An ongoing investigation, or somebody's safety.
        OngoingInvestigationOrSafety = "ONGOING_INVESTIGATION_OR_SAFETY",
        /// Undue harm to a legal person.
        HarmToLegalPerson = "HARM_TO_LEGAL_PERSON",
        /// The offence carries a year or less.
        MinorOffence = "MINOR_OFFENCE",
        /// It is no offence under the holder's law.
        NotAnOffenceHere = "NOT_AN_OFFENCE_HERE",
        /// Whoever gave the data has not agreed.
        ThirdPartyConsentMissing = "THIRD_PARTY_CONSENT_MISSING",
    }
}

codes! {
    /// What can be asked for.
    Item {
        /// Who it is.
        Identity = "IDENTITY",
        /// Other names.
        Aliases = "ALIASES",
        /// Date and place of birth.
        DateAndPlaceOfBirth = "DATE_AND_PLACE_OF_BIRTH",
        /// Nationality.
        Nationality = "NATIONALITY",
        /// Addresses.
        Addresses = "ADDRESSES",
        /// Contact data.
        ContactData = "CONTACT_DATA",
        /// Documents.
        Documents = "DOCUMENTS",
        /// Vehicles.
        Vehicles = "VEHICLES",
        /// Financial accounts.
        FinancialAccounts = "FINANCIAL_ACCOUNTS",
        /// The holder's case number.
        CaseNumber = "CASE_NUMBER",
        /// The authority in charge.
        ResponsibleAuthority = "RESPONSIBLE_AUTHORITY",
        /// Criminal record.
        CriminalRecord = "CRIMINAL_RECORD",
        /// Modus operandi.
        ModusOperandi = "MODUS_OPERANDI",
        /// Associates.
        Associates = "ASSOCIATES",
        /// Files.
        Attachments = "ATTACHMENTS",
    }
}

codes! {
    /// What becomes of an item.
    ItemState {
        /// It is in the answer.
        Provided = "PROVIDED",
        /// It is refused, on a ground.
        Refused = "REFUSED",
        /// It will be known on a date.
        Pending = "PENDING",
    }
}

codes! {
    /// The part of the person concerned.
    PersonRole {
        /// Suspect.
        Suspect = "SUSPECT",
        /// Convicted.
        Convicted = "CONVICTED",
        /// Victim.
        Victim = "VICTIM",
        /// Witness.
        Witness = "WITNESS",
        /// Missing.
        Missing = "MISSING",
        /// Another.
        Other = "OTHER",
    }
}

codes! {
    /// How information may be handled; stored as given and never converted.
    HandlingCode {
        /// H0.
        H0 = "H0",
        /// H1.
        H1 = "H1",
        /// H2.
        H2 = "H2",
        /// H3: with a text that says how.
        H3 = "H3",
    }
}

codes! {
    /// How reliable the source is.
    SourceEvaluation {
        /// A.
        A = "A",
        /// B.
        B = "B",
        /// C.
        C = "C",
        /// X: it cannot be assessed.
        X = "X",
    }
}

codes! {
    /// How reliable the information is.
    InformationEvaluation {
        /// 1.
        One = "1",
        /// 2.
        Two = "2",
        /// 3.
        Three = "3",
        /// 4: it cannot be assessed.
        Four = "4",
    }
}

codes! {
    /// Traffic Light Protocol 2.0.
    Tlp {
        /// For the eyes of the recipients alone.
        Red = "TLP:RED",
        /// Within the recipient's organisation.
        AmberStrict = "TLP:AMBER+STRICT",
        /// Within the recipient's organisation and its clients.
        Amber = "TLP:AMBER",
        /// Within the community.
        Green = "TLP:GREEN",
        /// No limit.
        Clear = "TLP:CLEAR",
    }
}

codes! {
    /// Whether something is a fact or somebody's assessment (Directive (EU) 2016/680 art. 7).
    Nature {
        /// Based on facts.
        Fact = "FACT",
        /// A personal assessment.
        Assessment = "ASSESSMENT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limits_are_those_of_the_workflow() {
        let hours: Vec<_> = TimeLimit::ALL
            .iter()
            .map(|limit| limit.duration().as_secs() / 3600)
            .collect();
        assert_eq!(hours, [8, 72, 168, 48]);
    }
}
