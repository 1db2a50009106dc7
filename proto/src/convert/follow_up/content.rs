//! What is sealed with a step, as messages.

use sotto_common::error::{Error, Result};
use sotto_common::followup::content::{Answer, AnswerItem, Particulars};
use sotto_common::ids::AttachmentId;
use sotto_common::secret::{Confidential, Selector};

use super::super::{id, timestamp, to_timestamp};
use super::code;
use super::codes::Code;
use crate::v1;

impl From<&Particulars> for v1::FollowUpParticulars {
    fn from(form: &Particulars) -> Self {
        let text = |text: &Confidential| text.expose().to_owned();
        let purpose = form.purpose.map(v1::Purpose::from).unwrap_or_default();
        let basis = form.legal_basis.map(v1::LegalBasis::from);
        let role = form.person_role.map(v1::PersonRole::from);
        Self {
            selector: form.selector.expose().to_owned(),
            requesting_unit: text(&form.requesting_unit),
            officer: text(&form.officer),
            facts: text(&form.facts),
            offence_description: text(&form.offence_description),
            purpose: purpose.into(),
            legal_basis: basis.unwrap_or_default().into(),
            legal_basis_reference: text(&form.legal_basis_reference),
            link: text(&form.link),
            person_role: role.unwrap_or_default().into(),
            why_there: text(&form.why_there),
            use_restrictions: text(&form.use_restrictions),
            urgency_reason: text(&form.urgency_reason),
            language: form.language.to_string(),
        }
    }
}

/// Whatever is missing is for [`Particulars::check`] to name: all of it at once.
impl From<v1::FollowUpParticulars> for Particulars {
    fn from(wire: v1::FollowUpParticulars) -> Self {
        Self {
            selector: Selector::new(wire.selector),
            requesting_unit: Confidential::new(wire.requesting_unit),
            officer: Confidential::new(wire.officer),
            facts: Confidential::new(wire.facts),
            offence_description: Confidential::new(wire.offence_description),
            purpose: Code::of_number(wire.purpose),
            legal_basis: Code::of_number(wire.legal_basis),
            legal_basis_reference: Confidential::new(wire.legal_basis_reference),
            link: Confidential::new(wire.link),
            person_role: Code::of_number(wire.person_role),
            why_there: Confidential::new(wire.why_there),
            use_restrictions: Confidential::new(wire.use_restrictions),
            urgency_reason: Confidential::new(wire.urgency_reason),
            language: wire.language.into(),
        }
    }
}

impl From<&Answer> for v1::FollowUpAnswer {
    fn from(answer: &Answer) -> Self {
        let name = |(id, name): &(AttachmentId, Confidential)| v1::AttachmentName {
            attachment_id: id.as_bytes().to_vec().into(),
            name: name.expose().to_owned(),
        };
        Self {
            items: answer.items.iter().map(Into::into).collect(),
            file_names: answer.file_names.iter().map(name).collect(),
        }
    }
}

impl From<&AnswerItem> for v1::AnswerItem {
    fn from(item: &AnswerItem) -> Self {
        Self {
            item: v1::FollowUpItem::from(item.item).into(),
            content: item.content.expose().to_owned(),
            handling_code: v1::HandlingCode::from(item.handling).into(),
            handling_text: item.handling_text.expose().to_owned(),
            source_evaluation: v1::SourceEvaluation::from(item.source).into(),
            information_evaluation: v1::InformationEvaluation::from(item.information).into(),
            tlp: v1::Tlp::from(item.tlp).into(),
            nature: v1::Nature::from(item.nature).into(),
            retain_until: Some(to_timestamp(item.retain_until)),
        }
    }
}

impl TryFrom<v1::FollowUpAnswer> for Answer {
    type Error = Error;

    fn try_from(wire: v1::FollowUpAnswer) -> Result<Self> {
        let name = |wire: v1::AttachmentName| {
            let id = id(
                "attachment_id",
                &wire.attachment_id,
                AttachmentId::from_slice,
            )?;
            Ok((id, Confidential::new(wire.name)))
        };
        let items = wire.items.into_iter().map(TryInto::try_into);
        Ok(Self {
            items: items.collect::<Result<_>>()?,
            file_names: wire
                .file_names
                .into_iter()
                .map(name)
                .collect::<Result<_>>()?,
        })
    }
}

impl TryFrom<v1::AnswerItem> for AnswerItem {
    type Error = Error;

    fn try_from(wire: v1::AnswerItem) -> Result<Self> {
        Ok(Self {
            item: code("item", wire.item)?,
            content: Confidential::new(wire.content),
            handling: code("handling_code", wire.handling_code)?,
            handling_text: Confidential::new(wire.handling_text),
            source: code("source_evaluation", wire.source_evaluation)?,
            information: code("information_evaluation", wire.information_evaluation)?,
            tlp: code("tlp", wire.tlp)?,
            nature: code("nature", wire.nature)?,
            retain_until: timestamp("retain_until", wire.retain_until)?,
        })
    }
}
