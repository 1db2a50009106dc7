//! What is sealed: the particulars of a request and the items of an answer (workflow.md). Both are
//! checked by the node that sends them, and again by the one that opens them: whatever misses what
//! the law asks for does not leave.

use std::fmt;

use super::codes::{
    HandlingCode, InformationEvaluation, Item, ItemState, Nature, PersonRole, SourceEvaluation,
    TimeLimit, Tlp,
};
use super::step::{AnswerClear, Outcomes, Terms};
use crate::error::{Error, ErrorCode, Result};
use crate::grounds::{LegalBasis, Purpose};
use crate::ids::AttachmentId;
use crate::secret::{Confidential, Selector};
use crate::time::Timestamp;

/// Most characters in a short text of a form: a unit, a name.
pub const MAX_SHORT_TEXT: usize = 256;

/// Most characters in a long text of a form: facts, a message, the content of an item.
pub const MAX_LONG_TEXT: usize = 20_000;

/// What the requester says once the holder has proved that it holds the selector.
#[derive(Clone, PartialEq, Eq)]
pub struct Particulars {
    /// The selector, in its canonical form.
    pub selector: Selector,
    /// The unit that asks.
    pub requesting_unit: Confidential,
    /// The officer who asks, and how to reach them.
    pub officer: Confidential,
    /// The facts.
    pub facts: Confidential,
    /// The offence in words.
    pub offence_description: Confidential,
    /// Why it is asked.
    pub purpose: Option<Purpose>,
    /// On what legal basis.
    pub legal_basis: Option<LegalBasis>,
    /// Reference text of the legal basis, where it needs one.
    pub legal_basis_reference: Confidential,
    /// What links the purpose and the person.
    pub link: Confidential,
    /// The part of the person.
    pub person_role: Option<PersonRole>,
    /// Why the data are believed to be with the holder.
    pub why_there: Confidential,
    /// How the request itself may be used; may be empty.
    pub use_restrictions: Confidential,
    /// What makes it urgent, in words; with an urgent time limit only.
    pub urgency_reason: Confidential,
    /// Language of the texts, ISO 639-1.
    pub language: Box<str>,
}

impl Particulars {
    /// The fields that are missing for a request on these terms.
    pub fn missing(&self, terms: &Terms) -> Vec<&'static str> {
        let texts = [
            ("selector", self.selector.expose().is_empty()),
            ("requesting_unit", self.requesting_unit.is_blank()),
            ("officer", self.officer.is_blank()),
            ("facts", self.facts.is_blank()),
            ("offence_description", self.offence_description.is_blank()),
            ("purpose", self.purpose.is_none()),
            ("legal_basis", self.legal_basis.is_none()),
            (
                "legal_basis_reference",
                self.legal_basis.is_some_and(LegalBasis::needs_reference)
                    && self.legal_basis_reference.is_blank(),
            ),
            ("link", self.link.is_blank()),
            ("person_role", self.person_role.is_none()),
            ("why_there", self.why_there.is_blank()),
            (
                "urgency_reason",
                terms.limit().is_urgent() && self.urgency_reason.is_blank(),
            ),
            ("language", self.language.is_empty()),
        ];
        texts
            .into_iter()
            .filter_map(|(field, missing)| missing.then_some(field))
            .collect()
    }

    /// Checks that nothing is missing, and that nothing is too long or of the wrong form.
    ///
    /// # Errors
    /// `FORM_INCOMPLETE`, naming every field that is missing; `INVALID_FIELD`.
    pub fn check(&self, terms: &Terms) -> Result<()> {
        complete("the request", &self.missing(terms))?;
        for (field, text, max) in [
            ("requesting_unit", &self.requesting_unit, MAX_SHORT_TEXT),
            ("officer", &self.officer, MAX_SHORT_TEXT),
            ("facts", &self.facts, MAX_LONG_TEXT),
            (
                "offence_description",
                &self.offence_description,
                MAX_LONG_TEXT,
            ),
            (
                "legal_basis_reference",
                &self.legal_basis_reference,
                MAX_SHORT_TEXT,
            ),
            ("link", &self.link, MAX_LONG_TEXT),
            ("why_there", &self.why_there, MAX_LONG_TEXT),
            ("use_restrictions", &self.use_restrictions, MAX_LONG_TEXT),
            ("urgency_reason", &self.urgency_reason, MAX_LONG_TEXT),
        ] {
            bounded(field, text, max)?;
        }
        let is_language =
            self.language.len() == 2 && self.language.bytes().all(|b| b.is_ascii_lowercase());
        if !is_language {
            let text = "two lower-case letters of ISO 639-1, e.g. en";
            return Err(Error::field("language", text));
        }
        if terms.limit() == TimeLimit::CoreData && self.legal_basis != Some(LegalBasis::Eu2024982) {
            let text = "core data within 48 hours are for legal basis EU_2024_982";
            return Err(Error::field("legal_basis", text));
        }
        Ok(())
    }
}

impl fmt::Debug for Particulars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Particulars(redacted)")
    }
}

/// One item of an answer. Codes are stored as given and never converted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AnswerItem {
    /// The item.
    pub item: Item,
    /// What the holder knows.
    pub content: Confidential,
    /// How it may be handled.
    pub handling: HandlingCode,
    /// How, in words: with H3 only.
    pub handling_text: Confidential,
    /// How reliable the source is.
    pub source: SourceEvaluation,
    /// How reliable the information is.
    pub information: InformationEvaluation,
    /// Its TLP label.
    pub tlp: Tlp,
    /// A fact, or an assessment.
    pub nature: Nature,
    /// It is to be deleted by then.
    pub retain_until: Timestamp,
}

/// What the holder answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The items that are provided.
    pub items: Vec<AnswerItem>,
    /// The own names of the attached files, which the broker does not see.
    pub file_names: Vec<(AttachmentId, Confidential)>,
}

impl Answer {
    /// Checks an answer against what it says in the clear, and that against the request.
    ///
    /// # Errors
    /// `FORM_INCOMPLETE`, naming every item or field that is missing; `INVALID_FIELD`.
    pub fn check(&self, terms: &Terms, clear: &AnswerClear) -> Result<()> {
        complete("the answer", &self.missing(terms, clear))?;
        for item in &self.items {
            if clear.outcomes.of(item.item) != Some(super::step::ItemOutcome::Provided) {
                let text = format!("{} has content and is not PROVIDED", item.item);
                return Err(Error::field("items", text));
            }
            bounded("content", &item.content, MAX_LONG_TEXT)?;
            bounded("handling_text", &item.handling_text, MAX_SHORT_TEXT)?;
            if item.handling != HandlingCode::H3 && !item.handling_text.is_blank() {
                return Err(Error::field("handling_text", "goes with H3 only"));
            }
        }
        let strictest = self.items.iter().map(|item| item.handling).max();
        if strictest.unwrap_or(HandlingCode::H0) != clear.handling {
            let text = "the strictest handling code of the items";
            return Err(Error::field("handling_code", text));
        }
        let named: Vec<_> = self.file_names.iter().map(|(id, _)| *id).collect();
        let attached: Vec<_> = clear.attachments.iter().map(|a| a.id).collect();
        if named != attached {
            let text = "each file has a name, in the same order";
            return Err(Error::field("attachments", text));
        }
        Ok(())
    }

    /// The items and fields that are missing.
    fn missing(&self, terms: &Terms, clear: &AnswerClear) -> Vec<String> {
        let mut missing = Vec::new();
        for item in terms.items() {
            let Some(outcome) = clear.outcomes.of(*item) else {
                missing.push(item.to_string());
                continue;
            };
            if outcome.state() != ItemState::Provided {
                continue;
            }
            match self.items.iter().filter(|i| i.item == *item).count() {
                1 => {}
                0 => missing.push(item.to_string()),
                _ => missing.push(format!("{item}, once only")),
            }
            if *item == Item::Attachments && clear.attachments.is_empty() {
                missing.push("attachments".into());
            }
        }
        for item in &self.items {
            if item.content.is_blank() {
                missing.push(format!("content of {}", item.item));
            }
            if item.handling == HandlingCode::H3 && item.handling_text.is_blank() {
                missing.push(format!("handling_text of {}", item.item));
            }
        }
        missing
    }

    /// The strictest handling code of the items, which the clear part carries.
    pub fn strictest_handling(&self) -> HandlingCode {
        let codes = self.items.iter().map(|item| item.handling);
        codes.max().unwrap_or(HandlingCode::H0)
    }
}

/// A message's text: a question, a reply, a reason.
///
/// # Errors
/// `FORM_INCOMPLETE` if it is empty, `INVALID_FIELD` if it is too long.
pub fn check_message(text: &Confidential) -> Result<()> {
    if text.is_blank() {
        complete("the message", &["message"])?;
    }
    bounded("message", text, MAX_LONG_TEXT)
}

/// Whether everything that is provided is also what was asked for; used when a step is drafted.
///
/// # Errors
/// `FORM_INCOMPLETE`, naming the items that are not dealt with.
pub fn check_outcomes(terms: &Terms, outcomes: &Outcomes) -> Result<()> {
    let missing: Vec<_> = terms
        .items()
        .iter()
        .filter(|item| outcomes.of(**item).is_none())
        .map(ToString::to_string)
        .collect();
    complete("the answer", &missing)
}

fn complete<T: AsRef<str>>(what: &'static str, missing: &[T]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let fields: Vec<_> = missing.iter().map(AsRef::as_ref).collect();
    let fields = fields.join(", ");
    let text = format!("{what} does not leave yet; missing: {fields}");
    Err(Error::new(ErrorCode::FormIncomplete, text).about(fields))
}

fn bounded(field: &'static str, text: &Confidential, max: usize) -> Result<()> {
    check_text(field, text.expose(), max)
}

/// A text of a form: at most so many characters, which act on no terminal.
///
/// # Errors
/// `INVALID_FIELD`, naming the field.
pub(crate) fn check_text(field: &'static str, text: &str, max: usize) -> Result<()> {
    if text.chars().count() > max {
        return Err(Error::field(field, format!("at most {max} characters")));
    }
    if text
        .chars()
        .any(|c| c.is_control() && !matches!(c, '\n' | '\t'))
    {
        let text = "no control characters but line breaks and tabs";
        return Err(Error::field(field, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
