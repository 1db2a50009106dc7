//! What stands in a field of a form: a code, a date.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use sotto_common::followup::codes::{
    HandlingCode, InformationEvaluation, Item, ItemState, Nature, PersonRole, RefusalGround,
    SourceEvaluation, TimeLimit, Tlp, UrgencyGround,
};
use sotto_common::followup::{FollowUpState, Party};
use sotto_common::grounds::{LegalBasis, Purpose};
use sotto_common::time::Timestamp;

use crate::cli::args;

/// A code that people write.
pub(in crate::cli::followup) trait FormCode:
    Copy + PartialEq + 'static
{
    /// Every code.
    const CODES: &'static [Self];

    /// As workflow.md writes it.
    fn code(self) -> &'static str;

    /// As people write it: in any case, with hyphens or blanks, and without `TLP:`.
    fn read(text: &str) -> Option<Self> {
        let wanted = squashed(text);
        let codes = Self::CODES.iter().copied();
        codes
            .into_iter()
            .find(|code| squashed(code.code()) == wanted)
    }

    /// All of them, for people.
    fn all() -> String {
        let codes: Vec<_> = Self::CODES.iter().map(|code| code.code()).collect();
        codes.join(", ")
    }

    /// As [`FormCode::read`], for the arguments of commands.
    fn argument(text: &str) -> Result<Self, String> {
        Self::read(text).ok_or_else(|| format!("expected one of {}", Self::all()))
    }
}

fn squashed(text: &str) -> String {
    let squash = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    let text: String = text.trim().chars().map(squash).collect();
    text.strip_prefix("TLP_")
        .map_or(text.clone(), str::to_owned)
}

macro_rules! form_codes {
    ($($name:ident,)*) => {
        $(impl FormCode for $name {
            const CODES: &'static [Self] = Self::ALL;
            fn code(self) -> &'static str {
                self.as_str()
            }
        })*
    };
}

form_codes! {
    FollowUpState,
    HandlingCode,
    InformationEvaluation,
    Item,
    ItemState,
    LegalBasis,
    Nature,
    Party,
    PersonRole,
    Purpose,
    RefusalGround,
    SourceEvaluation,
    TimeLimit,
    Tlp,
    UrgencyGround,
}

/// A code, or nothing yet: an empty text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cli::followup) struct Given<T>(pub(in crate::cli::followup) Option<T>);

impl<T> Default for Given<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: FormCode> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CodeVisitor(PhantomData))
    }
}

struct CodeVisitor<T>(PhantomData<T>);

impl<T: FormCode> Visitor<'_> for CodeVisitor<T> {
    type Value = Given<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of {}", T::all())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if text.trim().is_empty() {
            return Ok(Given(None));
        }
        let code = T::read(text);
        code.map(|code| Given(Some(code)))
            .ok_or_else(|| E::custom(format!("`{text}` is not one of {}", T::all())))
    }

    // The evaluation of information is a digit.
    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Given(None))
    }
}

/// A date or an instant, or nothing yet: an empty text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::cli::followup) struct Date(pub(in crate::cli::followup) Option<Timestamp>);

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DateVisitor)
    }
}

struct DateVisitor;

impl<'de> Visitor<'de> for DateVisitor {
    type Value = Date;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a date, e.g. 2027-01-31, or RFC 3339")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Date, E> {
        if text.trim().is_empty() {
            return Ok(Date(None));
        }
        let at = args::instant(text);
        at.map(|at| Date(Some(at)))
            .map_err(|expected| E::custom(format!("`{text}`: {expected}")))
    }

    // TOML has dates of its own.
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Date, A::Error> {
        let date = toml::value::Datetime::deserialize(MapAccessDeserializer::new(map))?;
        self.visit_str(&date.to_string())
    }

    fn visit_unit<E: Error>(self) -> Result<Date, E> {
        Ok(Date(None))
    }
}
