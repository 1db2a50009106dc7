//! The form of an answer: what becomes of every item that was asked for.

use serde::Deserialize;
use sotto_common::followup::codes::{
    HandlingCode, InformationEvaluation, Item, ItemState, Nature, RefusalGround, SourceEvaluation,
    Tlp,
};
use sotto_common::followup::content::{MAX_LONG_TEXT, MAX_SHORT_TEXT};
use sotto_common::followup::step::ItemOutcome;
use sotto_proto::{convert, v1};

use super::{Date, Given, incomplete, tidy};
use crate::cli::fault::{Fault, Result};

/// What a person fills in to answer; everything may still be empty.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::cli::followup) struct AnswerForm {
    pub(in crate::cli::followup) items: Vec<AnswerRow>,
}

/// One item.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::cli::followup) struct AnswerRow {
    item: Given<Item>,
    state: Given<ItemState>,
    content: String,
    handling_code: Given<HandlingCode>,
    handling_text: String,
    source_evaluation: Given<SourceEvaluation>,
    information_evaluation: Given<InformationEvaluation>,
    tlp: Given<Tlp>,
    nature: Given<Nature>,
    retain_until: Date,
    ground: Given<RefusalGround>,
    pending_until: Date,
}

impl AnswerForm {
    /// The answer, once it says of every item that was asked for what becomes of it.
    ///
    /// # Errors
    /// Every item and field that is missing, by name; or the first that does not belong there.
    pub(in crate::cli::followup) fn draft(&self, asked: &[Item]) -> Result<v1::FollowUpDraft> {
        self.check_items(asked)?;
        let missing = self.missing(asked);
        if !missing.is_empty() {
            let how = "`sotto-node followup answer ID --blank` prints a whole form";
            return Err(incomplete("the answer", &missing, how));
        }
        let mut draft = v1::FollowUpDraft::default();
        let mut answer = v1::FollowUpAnswer::default();
        for row in &self.items {
            row.check()?;
            let Some((item, outcome)) = row.outcome() else {
                continue;
            };
            draft.outcomes.push((item, outcome).into());
            if outcome == ItemOutcome::Provided {
                answer.items.push(row.content(item));
            }
        }
        if answer.items.is_empty()
            && self
                .items
                .iter()
                .all(|row| row.state.0 == Some(ItemState::Refused))
        {
            return Err(Fault::with_hint(
                "every item of the answer is refused",
                "refuse the request as a whole: `sotto-node followup refuse ID --ground CODE \
                 --item ITEM=CODE …`",
            ));
        }
        draft.answer = Some(answer);
        Ok(draft)
    }

    /// Only what was asked for, and each once.
    fn check_items(&self, asked: &[Item]) -> Result<()> {
        let mut seen = std::collections::BTreeSet::new();
        for item in self.items.iter().filter_map(|row| row.item.0) {
            if !asked.contains(&item) {
                let asked: Vec<_> = asked.iter().map(ToString::to_string).collect();
                return Err(Fault::with_hint(
                    format!("{item} stands in the form, and was not asked for"),
                    format!("leave it out; asked for: {}", asked.join(", ")),
                ));
            }
            if !seen.insert(item) {
                return Err(Fault::with_hint(
                    format!("{item} stands in the form twice"),
                    "leave one of them out",
                ));
            }
        }
        Ok(())
    }

    fn missing(&self, asked: &[Item]) -> Vec<String> {
        let mut missing = Vec::new();
        for (number, row) in self.items.iter().enumerate() {
            match row.item.0 {
                None => missing.push(format!("item of entry {}", number + 1)),
                Some(item) => missing.extend(
                    row.missing()
                        .into_iter()
                        .map(|field| format!("{field} of {item}")),
                ),
            }
        }
        let given = |item| self.items.iter().any(|row| row.item.0 == Some(item));
        missing.extend(
            asked
                .iter()
                .filter(|item| !given(**item))
                .map(ToString::to_string),
        );
        missing
    }
}

impl AnswerRow {
    fn missing(&self) -> Vec<&'static str> {
        let h3 = self.handling_code.0 == Some(HandlingCode::H3);
        let fields: &[(&'static str, bool)] = match self.state.0 {
            None => &[("state", true)],
            Some(ItemState::Refused) => &[("ground", self.ground.0.is_none())],
            Some(ItemState::Pending) => &[("pending_until", self.pending_until.0.is_none())],
            Some(ItemState::Provided) => &[
                ("content", self.content.trim().is_empty()),
                ("handling_code", self.handling_code.0.is_none()),
                ("handling_text", h3 && self.handling_text.trim().is_empty()),
                ("source_evaluation", self.source_evaluation.0.is_none()),
                (
                    "information_evaluation",
                    self.information_evaluation.0.is_none(),
                ),
                ("tlp", self.tlp.0.is_none()),
                ("nature", self.nature.0.is_none()),
                ("retain_until", self.retain_until.0.is_none()),
            ],
        };
        let missing = fields.iter().filter(|(_, missing)| *missing);
        missing.map(|(field, _)| *field).collect()
    }

    /// Fields of another state would be lost: better to ask than to drop them.
    fn check(&self) -> Result<()> {
        let item = self.item.0.map(|item| item.to_string()).unwrap_or_default();
        let state = self.state.0;
        let misplaced = [
            (
                "content",
                !self.content.trim().is_empty(),
                ItemState::Provided,
            ),
            ("ground", self.ground.0.is_some(), ItemState::Refused),
            (
                "pending_until",
                self.pending_until.0.is_some(),
                ItemState::Pending,
            ),
        ]
        .into_iter()
        .find(|(_, given, of)| *given && state != Some(*of));
        if let Some((field, _, of)) = misplaced {
            return Err(Fault::new(format!(
                "{field} of {item} goes with state {of} only: change the state, or leave it empty"
            )));
        }
        let h3 = self.handling_code.0 == Some(HandlingCode::H3);
        if !h3 && !self.handling_text.trim().is_empty() {
            return Err(Fault::new(format!(
                "handling_text of {item} goes with H3 only: choose H3, or leave it empty"
            )));
        }
        bounded(&item, "content", &self.content, MAX_LONG_TEXT)?;
        bounded(&item, "handling_text", &self.handling_text, MAX_SHORT_TEXT)
    }

    fn outcome(&self) -> Option<(Item, ItemOutcome)> {
        let outcome = match self.state.0? {
            ItemState::Provided => ItemOutcome::Provided,
            ItemState::Refused => ItemOutcome::Refused(self.ground.0?),
            ItemState::Pending => ItemOutcome::Pending(self.pending_until.0?),
        };
        Some((self.item.0?, outcome))
    }

    fn content(&self, item: Item) -> v1::AnswerItem {
        let source = self.source_evaluation.0.map(v1::SourceEvaluation::from);
        let information = self.information_evaluation.0;
        let information = information.map(v1::InformationEvaluation::from);
        let handling = self.handling_code.0.map(v1::HandlingCode::from);
        v1::AnswerItem {
            item: v1::FollowUpItem::from(item).into(),
            content: tidy(&self.content),
            handling_code: handling.unwrap_or_default().into(),
            handling_text: tidy(&self.handling_text),
            source_evaluation: source.unwrap_or_default().into(),
            information_evaluation: information.unwrap_or_default().into(),
            tlp: self.tlp.0.map(v1::Tlp::from).unwrap_or_default().into(),
            nature: self
                .nature
                .0
                .map(v1::Nature::from)
                .unwrap_or_default()
                .into(),
            retain_until: self.retain_until.0.map(convert::to_timestamp),
        }
    }
}

fn bounded(item: &str, field: &str, text: &str, most: usize) -> Result<()> {
    let text = tidy(text);
    if text.chars().count() > most {
        return Err(Fault::new(format!(
            "{field} of {item}: at most {most} characters"
        )));
    }
    if text
        .chars()
        .any(|c| c.is_control() && !matches!(c, '\n' | '\t'))
    {
        return Err(Fault::new(format!(
            "{field} of {item}: no control characters but line breaks and tabs"
        )));
    }
    Ok(())
}
