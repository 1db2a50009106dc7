//! Parts of a follow-up as columns: its items, their outcomes, its clock.

use std::fmt::Write as _;

use sotto_common::error::{Error, Result};
use sotto_common::followup::clock::LimitClock;
use sotto_common::followup::codes::{Item, ItemState, RefusalGround, TimeLimit, UrgencyGround};
use sotto_common::followup::record::FollowUp;
use sotto_common::followup::step::{ItemOutcome, Outcomes, Terms};
use sotto_common::time::Timestamp;

use super::corrupt;

/// From when a clock that stands still is counted: any instant does.
const ZERO: Timestamp = Timestamp::from_micros(0);

/// Codes with a space between.
pub(crate) fn items_text(items: &[Item]) -> String {
    let codes: Vec<_> = items.iter().map(|item| item.as_str()).collect();
    codes.join(" ")
}

/// Terms from their columns.
///
/// # Errors
/// If this program cannot have written them.
pub(crate) fn terms(
    limit: &str,
    urgency: Option<&str>,
    offence_code: &str,
    items: &str,
) -> Result<Terms> {
    let urgency = urgency.map(|code| UrgencyGround::parse(code).ok_or_else(bad_terms));
    let items = items.split(' ');
    let items = items.map(|code| Item::parse(code).ok_or_else(bad_terms));
    Terms::new(
        TimeLimit::parse(limit).ok_or_else(bad_terms)?,
        urgency.transpose()?,
        offence_code,
        items.collect::<Result<_>>()?,
    )
    .map_err(|_| bad_terms())
}

fn bad_terms() -> Error {
    corrupt("request's terms")
}

/// `ITEM=PROVIDED`, `ITEM=REFUSED:GROUND`, `ITEM=PENDING:microseconds`, a space between.
pub(crate) fn outcomes_text(outcomes: &Outcomes) -> String {
    let mut text = String::new();
    for (item, outcome) in outcomes.iter() {
        if !text.is_empty() {
            text.push(' ');
        }
        // Writing to a text does not fail.
        let _ = write!(text, "{item}={}", outcome.state());
        let _ = match outcome {
            ItemOutcome::Provided => Ok(()),
            ItemOutcome::Refused(ground) => write!(text, ":{ground}"),
            ItemOutcome::Pending(at) => write!(text, ":{}", at.micros()),
        };
    }
    text
}

/// Outcomes from their column.
///
/// # Errors
/// If this program cannot have written it.
pub(crate) fn outcomes(text: &str) -> Result<Outcomes> {
    let outcomes: Option<Vec<_>> = text.split(' ').map(outcome).collect();
    outcomes
        .and_then(|outcomes| Outcomes::new(outcomes).ok())
        .ok_or_else(|| corrupt("outcome"))
}

fn outcome(text: &str) -> Option<(Item, ItemOutcome)> {
    let (item, outcome) = text.split_once('=')?;
    let (state, of) = match outcome.split_once(':') {
        Some((state, of)) => (state, Some(of)),
        None => (outcome, None),
    };
    let outcome = match (ItemState::parse(state)?, of) {
        (ItemState::Provided, None) => ItemOutcome::Provided,
        (ItemState::Refused, Some(ground)) => ItemOutcome::Refused(RefusalGround::parse(ground)?),
        (ItemState::Pending, Some(at)) => {
            ItemOutcome::Pending(Timestamp::from_micros(at.parse().ok()?))
        }
        _ => return None,
    };
    Some((Item::parse(item)?, outcome))
}

/// The columns of a clock: the whole limit, when it is over while it runs, what is left while it
/// stands still (below 0: so late). In microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ClockColumns {
    pub(crate) total: Option<i64>,
    pub(crate) due: Option<i64>,
    pub(crate) left: Option<i64>,
}

impl ClockColumns {
    pub(crate) fn of(follow_up: &FollowUp) -> Self {
        let Some(clock) = follow_up.clock else {
            return Self::default();
        };
        let due = clock.due().map(Timestamp::micros);
        let standing = clock.resume(ZERO).due().map(Timestamp::micros);
        Self {
            total: i64::try_from(clock.total().as_micros()).ok(),
            due,
            left: if due.is_none() { standing } else { None },
        }
    }

    /// The clock that has these columns.
    ///
    /// # Errors
    /// If this program cannot have written them.
    pub(crate) fn clock(self) -> Result<Option<LimitClock>> {
        let (total, due, left) = match (self.total, self.due, self.left) {
            (None, None, None) => return Ok(None),
            (Some(total), due, left) => (total, due, left),
            _ => return Err(corrupt("clock")),
        };
        let total = u64::try_from(total).map_err(|_| corrupt("clock"))?;
        let total = std::time::Duration::from_micros(total);
        let running = |due| LimitClock::running(total, Timestamp::from_micros(due));
        match (due, left) {
            (Some(due), None) => Ok(Some(running(due))),
            (None, Some(left)) => Ok(Some(running(left).stop(ZERO))),
            _ => Err(corrupt("clock")),
        }
    }
}
