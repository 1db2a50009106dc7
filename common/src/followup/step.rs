//! What a step says in the clear (workflow.md "Clear part"): the broker reads it, and can check it
//! against the follow-up; it names nobody and no selector.

use super::codes::{HandlingCode, Item, ItemState, RefusalGround, TimeLimit, UrgencyGround};
use super::{FollowUpState, FollowUpStep};
use crate::error::{Error, ErrorCode, Result};
use crate::ids::{AttachmentId, CommunityId, FollowUpId, HitId, NodeId};
use crate::sealed::Sealed;
use crate::time::Timestamp;

/// Most characters in an offence code.
pub const MAX_OFFENCE_CODE: usize = 64;

/// Most files that go with one answer.
pub const MAX_ATTACHMENTS: usize = 64;

/// The clear part of a step: which follow-up, where in its order, by whom, and what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepClear {
    /// The community.
    pub community: CommunityId,
    /// The follow-up.
    pub follow_up: FollowUpId,
    /// The hit that it follows up.
    pub hit: HitId,
    /// 0, 1, …: replay and reordering show.
    pub seq: u32,
    /// `H` of the body before; 32 zero bytes at 0.
    pub previous: [u8; 32],
    /// Who takes the step.
    pub sender: NodeId,
    /// The other side.
    pub recipient: NodeId,
    /// When the sender made it, by its own clock.
    pub made_at: Timestamp,
    /// The state after it, as the sender sees it.
    pub state: FollowUpState,
    /// What is done.
    pub detail: StepDetail,
}

impl StepClear {
    /// Which step it is.
    pub const fn step(&self) -> FollowUpStep {
        self.detail.step()
    }
}

/// A step as it is signed: the clear part exactly as sent, and what is sealed beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepStatement {
    /// The clear part as bytes; `H` of them is the `aad` of what is sealed (protocol §10).
    pub clear_bytes: Vec<u8>,
    /// The same, read.
    pub clear: StepClear,
    /// What is sealed to the recipient, if the step has such a part.
    pub sealed: Option<Sealed>,
}

/// A step with what it says in the clear, each its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StepDetail {
    /// The requester asks.
    Submit(Terms),
    /// The holder's node has the selector.
    Held,
    /// It has not.
    NotHeld,
    /// The particulars go.
    Particulars,
    /// The holder accepts.
    Accept,
    /// The holder refuses: each item that was asked for, with its ground.
    Refuse(Outcomes),
    /// The holder asks for more.
    RequestClarification,
    /// The requester says more.
    Reply,
    /// The holder waits for a court.
    AwaitJudicialAuthorisation {
        /// When it will know.
        new_date: Timestamp,
    },
    /// The holder answers.
    Answer(AnswerClear),
    /// The requester takes the request back.
    Withdraw,
    /// The requester closes.
    Close,
}

impl StepDetail {
    /// Which step it is.
    pub const fn step(&self) -> FollowUpStep {
        match self {
            Self::Submit(_) => FollowUpStep::Submit,
            Self::Held => FollowUpStep::Held,
            Self::NotHeld => FollowUpStep::NotHeld,
            Self::Particulars => FollowUpStep::Particulars,
            Self::Accept => FollowUpStep::Accept,
            Self::Refuse(_) => FollowUpStep::Refuse,
            Self::RequestClarification => FollowUpStep::RequestClarification,
            Self::Reply => FollowUpStep::Reply,
            Self::AwaitJudicialAuthorisation { .. } => FollowUpStep::AwaitJudicialAuthorisation,
            Self::Answer(_) => FollowUpStep::Answer,
            Self::Withdraw => FollowUpStep::Withdraw,
            Self::Close => FollowUpStep::Close,
        }
    }
}

/// What is asked for, and how soon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    limit: TimeLimit,
    urgency: Option<UrgencyGround>,
    offence_code: Box<str>,
    items: Box<[Item]>,
}

impl Terms {
    /// Checks the terms of a request.
    ///
    /// # Errors
    /// `INVALID_FIELD`: an urgent time limit without its ground or a ground without urgency, an
    /// offence code that is empty, too long or not of its form, no item, or one twice.
    pub fn new(
        limit: TimeLimit,
        urgency: Option<UrgencyGround>,
        offence_code: &str,
        items: Vec<Item>,
    ) -> Result<Self> {
        match (limit.is_urgent(), urgency) {
            (true, None) => {
                let text = "an urgent request names its ground of urgency";
                return Err(Error::field("urgency_ground", text));
            }
            (false, Some(_)) => {
                let text = "a ground of urgency needs an urgent time limit";
                return Err(Error::field("urgency_ground", text));
            }
            _ => {}
        }
        let is_code = (1..=MAX_OFFENCE_CODE).contains(&offence_code.len())
            && offence_code
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b));
        if !is_code {
            let text = "1 to 64 characters of A-Z a-z 0-9 - _ . : /; a code, never a text";
            return Err(Error::field("offence_code", text));
        }
        once_each("items", items.iter().copied())?;
        Ok(Self {
            limit,
            urgency,
            offence_code: offence_code.into(),
            items: items.into(),
        })
    }

    /// The time limit.
    pub const fn limit(&self) -> TimeLimit {
        self.limit
    }

    /// Why it is urgent, if it is.
    pub const fn urgency(&self) -> Option<UrgencyGround> {
        self.urgency
    }

    /// The code of the offence, in the requester's own list.
    pub fn offence_code(&self) -> &str {
        &self.offence_code
    }

    /// What is asked for; at least one item, each once.
    pub fn items(&self) -> &[Item] {
        &self.items
    }
}

/// What becomes of one item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItemOutcome {
    /// It is in the answer.
    Provided,
    /// It is not given.
    Refused(RefusalGround),
    /// It will be known on a date.
    Pending(Timestamp),
}

impl ItemOutcome {
    /// Its code.
    pub const fn state(self) -> ItemState {
        match self {
            Self::Provided => ItemState::Provided,
            Self::Refused(_) => ItemState::Refused,
            Self::Pending(_) => ItemState::Pending,
        }
    }
}

/// What becomes of each item; at least one, each once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcomes(Box<[(Item, ItemOutcome)]>);

impl Outcomes {
    /// Takes the outcomes of items.
    ///
    /// # Errors
    /// `INVALID_FIELD` for none, or an item twice.
    pub fn new(outcomes: Vec<(Item, ItemOutcome)>) -> Result<Self> {
        once_each("outcomes", outcomes.iter().map(|(item, _)| *item))?;
        Ok(Self(outcomes.into()))
    }

    /// A refusal of everything that was asked for, on one ground.
    #[must_use]
    pub fn refuse_all(terms: &Terms, ground: RefusalGround) -> Self {
        let refused = ItemOutcome::Refused(ground);
        Self(terms.items.iter().map(|item| (*item, refused)).collect())
    }

    /// The outcomes.
    pub fn iter(&self) -> impl Iterator<Item = (Item, ItemOutcome)> + '_ {
        self.0.iter().copied()
    }

    /// The outcome of an item.
    pub fn of(&self, item: Item) -> Option<ItemOutcome> {
        self.iter().find(|(i, _)| *i == item).map(|(_, o)| o)
    }

    /// Whether they are of exactly the items that were asked for.
    pub fn cover(&self, terms: &Terms) -> bool {
        self.0.len() == terms.items.len() && terms.items.iter().all(|i| self.of(*i).is_some())
    }

    /// Whether every item is refused.
    pub fn refuse_everything(&self) -> bool {
        self.iter()
            .all(|(_, outcome)| outcome.state() == ItemState::Refused)
    }
}

/// An answer in the clear.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AnswerClear {
    /// What becomes of each item.
    pub outcomes: Outcomes,
    /// The strictest handling code of its items.
    pub handling: HandlingCode,
    /// The files that go with it.
    pub attachments: Vec<AttachmentDigest>,
}

/// Which sealed bytes an attachment is: an answer with another file in its place does not verify.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachmentDigest {
    /// The attachment.
    pub id: AttachmentId,
    /// `H` of its clear part and all sealed segments ([`super::attachment::AttachmentHasher`]).
    pub digest: [u8; 32],
}

fn once_each(field: &'static str, items: impl Iterator<Item = Item>) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for item in items {
        if !seen.insert(item) {
            return Err(Error::field(field, format!("{item} stands there twice")));
        }
    }
    if seen.is_empty() {
        return Err(Error::field(field, "at least one item"));
    }
    Ok(())
}

/// A refusal whose step does not fit the follow-up as it stands.
pub(super) fn misfit(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorCode::FollowUpMismatch, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(outcome: Result<Terms>) -> String {
        outcome.unwrap_err().subject.unwrap().into_owned()
    }

    #[test]
    fn urgency_and_time_limit_go_together() {
        let items = vec![Item::Identity];
        let ground = Some(UrgencyGround::ThreatToLife);
        for &limit in TimeLimit::ALL {
            let with = Terms::new(limit, ground, "A.1", items.clone());
            let without = Terms::new(limit, None, "A.1", items.clone());
            assert_eq!(with.is_ok(), limit.is_urgent(), "{limit}");
            assert_eq!(without.is_ok(), !limit.is_urgent(), "{limit}");
        }
    }

    #[test]
    fn an_offence_is_a_code_and_items_stand_once() {
        let make = |code: &str, items| Terms::new(TimeLimit::Ordinary, None, code, items);
        for code in ["", "two words", "naïve", &"x".repeat(65), "a\nb"] {
            assert_eq!(field(make(code, vec![Item::Identity])), "offence_code");
        }
        assert_eq!(field(make("A", vec![])), "items");
        assert_eq!(
            field(make("A", vec![Item::Aliases, Item::Aliases])),
            "items"
        );
    }

    #[test]
    fn outcomes_cover_what_was_asked_for_and_nothing_else() {
        let items = vec![Item::Identity, Item::Aliases];
        let terms = Terms::new(TimeLimit::Ordinary, None, "A", items).unwrap();
        let refused = Outcomes::refuse_all(&terms, RefusalGround::NationalSecurity);
        assert!(refused.cover(&terms) && refused.refuse_everything());
        let one = Outcomes::new(vec![(Item::Identity, ItemOutcome::Provided)]).unwrap();
        assert!(!one.cover(&terms) && !one.refuse_everything());
        let other = vec![
            (Item::Identity, ItemOutcome::Provided),
            (Item::Vehicles, ItemOutcome::Provided),
        ];
        assert!(!Outcomes::new(other).unwrap().cover(&terms));
    }
}
