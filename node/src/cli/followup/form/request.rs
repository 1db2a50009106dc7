//! The form of a request.

use serde::Deserialize;
use sotto_common::followup::codes::{Item, PersonRole, TimeLimit, UrgencyGround};
use sotto_common::followup::content::Particulars;
use sotto_common::followup::step::Terms;
use sotto_common::grounds::{LegalBasis, MAX_CASE_REF, Purpose};
use sotto_common::secret::{Confidential, Selector};
use sotto_proto::v1;

use super::{Given, incomplete, tidy};
use crate::cli::fault::{Fault, Result};

/// What a person fills in to ask; everything may still be empty.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::cli::followup) struct RequestForm {
    pub(in crate::cli::followup) case_ref: String,
    pub(in crate::cli::followup) time_limit: Given<TimeLimit>,
    pub(in crate::cli::followup) urgency_ground: Given<UrgencyGround>,
    pub(in crate::cli::followup) urgency_reason: String,
    pub(in crate::cli::followup) offence_code: String,
    pub(in crate::cli::followup) offence_description: String,
    pub(in crate::cli::followup) items: Vec<Given<Item>>,
    pub(in crate::cli::followup) requesting_unit: String,
    pub(in crate::cli::followup) officer: String,
    pub(in crate::cli::followup) purpose: Given<Purpose>,
    pub(in crate::cli::followup) legal_basis: Given<LegalBasis>,
    pub(in crate::cli::followup) legal_basis_reference: String,
    pub(in crate::cli::followup) person_role: Given<PersonRole>,
    pub(in crate::cli::followup) facts: String,
    pub(in crate::cli::followup) link: String,
    pub(in crate::cli::followup) why_there: String,
    pub(in crate::cli::followup) use_restrictions: String,
    pub(in crate::cli::followup) language: String,
}

impl RequestForm {
    /// The request, once nothing is missing; a case reference beside the form takes the place of
    /// the form's own.
    ///
    /// # Errors
    /// Every field that is missing, by name; or the first one that is not of its form.
    pub(in crate::cli::followup) fn draft(
        &self,
        hit: &[u8],
        case_ref: Option<&str>,
    ) -> Result<v1::DraftFollowUpRequest> {
        let case_ref = tidy(case_ref.unwrap_or(&self.case_ref));
        let missing = self.missing(&case_ref);
        if !missing.is_empty() {
            let how = "`sotto-node followup new --blank BASIS` prints a whole form";
            return Err(incomplete("the request", &missing, how));
        }
        if case_ref.chars().count() > MAX_CASE_REF || case_ref.chars().any(char::is_control) {
            return Err(Fault::new(format!(
                "case_ref: at most {MAX_CASE_REF} characters, no control characters"
            )));
        }
        let terms = self.terms()?;
        let particulars = self.particulars();
        particulars.check(&terms)?;
        let mut particulars = v1::FollowUpParticulars::from(&particulars);
        // The node fills it in, from the hit.
        particulars.selector.clear();
        let draft = v1::FollowUpDraft {
            terms: Some((&terms).into()),
            particulars: Some(particulars),
            ..Default::default()
        };
        Ok(v1::DraftFollowUpRequest {
            hit_id: hit.to_vec().into(),
            draft: Some(draft),
            case_ref,
        })
    }

    /// Every field that is missing.
    fn missing(&self, case_ref: &str) -> Vec<String> {
        let urgent = self.time_limit.0.is_some_and(TimeLimit::is_urgent);
        let reference = self.legal_basis.0.is_some_and(LegalBasis::needs_reference);
        let blank = |text: &str| text.trim().is_empty();
        [
            ("case_ref", blank(case_ref)),
            ("time_limit", self.time_limit.0.is_none()),
            ("urgency_ground", urgent && self.urgency_ground.0.is_none()),
            ("urgency_reason", urgent && blank(&self.urgency_reason)),
            ("offence_code", blank(&self.offence_code)),
            ("offence_description", blank(&self.offence_description)),
            ("items", self.items.iter().all(|item| item.0.is_none())),
            ("requesting_unit", blank(&self.requesting_unit)),
            ("officer", blank(&self.officer)),
            ("purpose", self.purpose.0.is_none()),
            ("legal_basis", self.legal_basis.0.is_none()),
            (
                "legal_basis_reference",
                reference && blank(&self.legal_basis_reference),
            ),
            ("person_role", self.person_role.0.is_none()),
            ("facts", blank(&self.facts)),
            ("link", blank(&self.link)),
            ("why_there", blank(&self.why_there)),
            ("language", blank(&self.language)),
        ]
        .into_iter()
        .filter(|(_, missing)| *missing)
        .map(|(field, _)| field.to_owned())
        .collect()
    }

    fn terms(&self) -> Result<Terms> {
        let items = self.items.iter().filter_map(|item| item.0).collect();
        // Looked for by `missing`; another limit would be a fault of this file.
        let limit = self.time_limit.0.unwrap_or(TimeLimit::Ordinary);
        let code = self.offence_code.trim();
        Ok(Terms::new(limit, self.urgency_ground.0, code, items)?)
    }

    fn particulars(&self) -> Particulars {
        let text = |text: &str| Confidential::new(tidy(text));
        Particulars {
            // A stand-in, for the check alone.
            selector: Selector::new("-"),
            requesting_unit: text(&self.requesting_unit),
            officer: text(&self.officer),
            facts: text(&self.facts),
            offence_description: text(&self.offence_description),
            purpose: self.purpose.0,
            legal_basis: self.legal_basis.0,
            legal_basis_reference: text(&self.legal_basis_reference),
            link: text(&self.link),
            person_role: self.person_role.0,
            why_there: text(&self.why_there),
            use_restrictions: text(&self.use_restrictions),
            urgency_reason: text(&self.urgency_reason),
            language: tidy(&self.language).to_ascii_lowercase().into(),
        }
    }
}
