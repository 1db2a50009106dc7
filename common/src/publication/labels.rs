//! What a filter says to those who match it: whom to turn to, and how a hit may be handled
//! (workflow.md "Hit").

use crate::error::{Error, Result};
use crate::followup::codes::HandlingCode;
use crate::followup::content::{MAX_SHORT_TEXT, check_text};

/// Most bytes in the name of a contact unit.
pub const MAX_CONTACT_UNIT: usize = 200;

/// What a holder says with one version of a filter. Each part may be missing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FilterLabels {
    contact_unit: Box<str>,
    handling_code: Option<HandlingCode>,
    handling_text: Box<str>,
}

impl FilterLabels {
    /// From its parts; an empty text says nothing.
    ///
    /// # Errors
    /// `INVALID_FIELD`, naming `contact_unit` or `handling_text`.
    pub fn new(
        contact_unit: &str,
        handling_code: Option<HandlingCode>,
        handling_text: &str,
    ) -> Result<Self> {
        check_unit(contact_unit)?;
        // As the items of an answer have it.
        check_text("handling_text", handling_text, MAX_SHORT_TEXT)?;
        let says_how = handling_code == Some(HandlingCode::H3);
        if says_how && handling_text.trim().is_empty() {
            return Err(Error::field("handling_text", "H3 needs it: it says how"));
        }
        if !says_how && !handling_text.is_empty() {
            return Err(Error::field("handling_text", "goes with H3 only"));
        }
        Ok(Self {
            contact_unit: contact_unit.into(),
            handling_code,
            handling_text: handling_text.into(),
        })
    }

    /// The unit to turn to about a hit, never a person; empty if none is named.
    pub fn contact_unit(&self) -> &str {
        &self.contact_unit
    }

    /// How a hit may be handled, if that is said.
    pub const fn handling_code(&self) -> Option<HandlingCode> {
        self.handling_code
    }

    /// How, in words: with H3, and only then.
    pub fn handling_text(&self) -> &str {
        &self.handling_text
    }
}

fn check_unit(unit: &str) -> Result<()> {
    let ends_a_line = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if unit.len() > MAX_CONTACT_UNIT {
        let text = format!("at most {MAX_CONTACT_UNIT} bytes");
        return Err(Error::field("contact_unit", text));
    }
    if unit.contains(ends_a_line) {
        let text = "one line without control characters";
        return Err(Error::field("contact_unit", text));
    }
    if !unit.is_empty() && unit.trim().is_empty() {
        let text = "the name of a unit, or nothing at all";
        return Err(Error::field("contact_unit", text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn each_part_may_be_missing() {
        assert_eq!(
            FilterLabels::new("", None, "").ok(),
            Some(FilterLabels::default())
        );
        let unit = FilterLabels::new("Cyberteam Nord", None, "").expect("a unit");
        assert_eq!(
            (unit.contact_unit(), unit.handling_code()),
            ("Cyberteam Nord", None)
        );
        for code in [HandlingCode::H0, HandlingCode::H1, HandlingCode::H2] {
            let labels = FilterLabels::new("", Some(code), "").expect("a code");
            assert_eq!(
                (labels.handling_code(), labels.handling_text()),
                (Some(code), "")
            );
        }
    }

    #[test]
    fn a_contact_unit_is_one_line_of_at_most_200_bytes() {
        let longest = "ä".repeat(MAX_CONTACT_UNIT / 2);
        assert!(FilterLabels::new(&longest, None, "").is_ok());
        for bad in [
            format!("{longest}n"),
            "one\ntwo".into(),
            "one\u{2028}two".into(),
            "\u{1b}[2J".into(),
            " ".into(),
        ] {
            let error = FilterLabels::new(&bad, None, "").expect_err("refused");
            assert_eq!(error.code, ErrorCode::InvalidField);
            assert_eq!(error.subject.as_deref(), Some("contact_unit"));
        }
    }

    #[test]
    fn a_handling_text_goes_with_h3_and_only_with_it() {
        let longest = "ä".repeat(MAX_SHORT_TEXT);
        for text in ["ask before use", longest.as_str()] {
            let labels = FilterLabels::new("", Some(HandlingCode::H3), text).expect("with a text");
            assert_eq!(labels.handling_text(), text);
        }
        let too_long = format!("{longest}n");
        for (code, text) in [
            (Some(HandlingCode::H3), ""),
            (Some(HandlingCode::H3), " \n"),
            (Some(HandlingCode::H3), too_long.as_str()),
            (Some(HandlingCode::H3), "\u{7}"),
            (Some(HandlingCode::H2), "ask before use"),
            (None, "ask before use"),
        ] {
            let error = FilterLabels::new("", code, text).expect_err("refused");
            assert_eq!(error.code, ErrorCode::InvalidField);
            assert_eq!(error.subject.as_deref(), Some("handling_text"));
        }
    }
}
