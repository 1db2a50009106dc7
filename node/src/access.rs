//! The log of who read what, when and why (Directive (EU) 2016/680 art. 25): its entries, and the
//! chain of digests that shows a changed or missing one.

use std::collections::BTreeSet;

use sotto_common::error::{Error, Result};
use sotto_common::label::{Context, Label};
use sotto_common::time::Timestamp;

/// The longest reason, in characters.
pub const MAX_WHY: usize = 256;
/// The most objects in an entry; a reading of more is several entries.
pub const MAX_OBJECTS: usize = 1000;

/// What an entry says, before it has its place in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// When.
    pub at: Timestamp,
    /// Who: a SPIFFE ID, or `oidc:<issuer>#<subject>`.
    pub person: String,
    /// What was called, e.g. `AnalystService/GetRecordHit`.
    pub action: String,
    /// What was read: ids of hits.
    pub objects: Vec<String>,
    /// Why.
    pub why: String,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessEntry {
    /// Its number, from 1, without gaps.
    pub number: u64,
    /// What it says.
    pub access: Access,
    /// [`Access::digest`] of it.
    pub digest: [u8; 32],
}

/// Stands before the first entry.
pub const FIRST: [u8; 32] = [0; 32];

impl Access {
    /// `H("sotto/v1 access log" ‖ previous ‖ u64(number) ‖ i64(µs) ‖ LP(person) ‖ LP(action) ‖
    /// u32(count) ‖ LP(object)… ‖ LP(why))`; `None` if a field is above 65,535 bytes, which none
    /// of a log is.
    pub fn digest(&self, previous: &[u8; 32], number: u64) -> Option<[u8; 32]> {
        let fields = [&self.person, &self.action, &self.why].into_iter();
        let short = |text: &String| u16::try_from(text.len()).is_ok();
        if !fields.chain(&self.objects).all(short) {
            return None;
        }
        let context = Context::new(Label::AccessLog)
            .raw(previous)
            .raw(&number.to_be_bytes())
            .raw(&self.at.micros().to_be_bytes())
            .text(&self.person)
            .text(&self.action)
            .number(u32::try_from(self.objects.len()).ok()?);
        let objects = self.objects.iter();
        let context = objects.fold(context, |context, object| context.text(object));
        Some(context.text(&self.why).digest())
    }
}

/// Why something is read, as far as the caller says.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Why(Option<String>);

impl Why {
    /// Takes the field `why` of a request; empty = the caller does not say.
    ///
    /// # Errors
    /// `INVALID_FIELD` above 256 characters or with control characters.
    pub fn parse(text: &str) -> Result<Self> {
        if text.chars().count() > MAX_WHY || text.chars().any(char::is_control) {
            let problem = "at most 256 characters, and no control characters";
            return Err(Error::field("why", problem));
        }
        let text = text.trim();
        Ok(Self((!text.is_empty()).then(|| text.to_owned())))
    }

    /// As [`Why::parse`], where the caller must say it.
    ///
    /// # Errors
    /// `INVALID_FIELD`, also if it is empty.
    pub fn required(text: &str) -> Result<Self> {
        let why = Self::parse(text)?;
        if why.0.is_none() {
            return Err(Error::field("why", "say why, in 1 to 256 characters"));
        }
        Ok(why)
    }

    /// For one case.
    #[must_use]
    pub fn of_case(case_ref: &str) -> Self {
        Self(Some(cases(std::iter::once(case_ref))))
    }

    /// What the log says: the caller's own words; else the cases of what is read; else that
    /// nothing was said.
    pub fn or_cases<'a>(&self, case_refs: impl IntoIterator<Item = &'a str>) -> String {
        match &self.0 {
            Some(why) => why.clone(),
            None => cases(case_refs),
        }
    }
}

fn cases<'a>(case_refs: impl IntoIterator<Item = &'a str>) -> String {
    let distinct: BTreeSet<&str> = case_refs.into_iter().filter(|c| !c.is_empty()).collect();
    let mut text = String::new();
    let mut told = 0;
    // Room for saying how many are left out.
    let most = MAX_WHY - 32;
    for case_ref in &distinct {
        if told > 0 && text.chars().count() + case_ref.chars().count() > most {
            break;
        }
        text.push_str(if told == 0 { "case " } else { ", " });
        text.push_str(case_ref);
        told += 1;
    }
    match distinct.len() - told {
        0 if told == 0 => "not given".into(),
        0 => text,
        left => format!("{text} and {left} more"),
    }
}

/// Checks the chain of a whole log, entry by entry.
#[derive(Clone, Debug)]
pub struct Chain {
    next: u64,
    last: [u8; 32],
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            next: 1,
            last: FIRST,
        }
    }
}

impl Chain {
    /// Takes the next entry.
    ///
    /// # Errors
    /// What is wrong with it, naming it by its number.
    pub fn take(&mut self, entry: &AccessEntry) -> Result<(), String> {
        if entry.number != self.next {
            let (found, expected) = (entry.number, self.next);
            return Err(format!(
                "entry {expected} is missing: {found} stands in its place"
            ));
        }
        if entry.access.digest(&self.last, entry.number) != Some(entry.digest) {
            let number = entry.number;
            return Err(format!("entry {number} was changed, or one before it"));
        }
        self.next += 1;
        self.last = entry.digest;
        Ok(())
    }

    /// How many entries were taken, and the digest of the last.
    pub const fn end(&self) -> (u64, [u8; 32]) {
        (self.next - 1, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(n: i64) -> Access {
        Access {
            at: Timestamp::from_seconds(n),
            person: "spiffe://sotto.test/analyst/jane".into(),
            action: "AnalystService/GetRecordHit".into(),
            objects: vec!["a".into(), "bc".into()],
            why: "case 1".into(),
        }
    }

    fn log() -> Vec<AccessEntry> {
        let mut previous = FIRST;
        let entry = |number| {
            let access = access(i64::try_from(number).expect("small"));
            previous = access.digest(&previous, number).expect("short");
            AccessEntry {
                number,
                access,
                digest: previous,
            }
        };
        (1..=4).map(entry).collect()
    }

    fn check(log: &[AccessEntry]) -> Result<(u64, [u8; 32]), String> {
        let mut chain = Chain::default();
        log.iter().try_for_each(|entry| chain.take(entry))?;
        Ok(chain.end())
    }

    #[test]
    fn a_whole_log_is_taken_and_every_change_found() {
        let whole = log();
        assert_eq!(check(&whole), Ok((4, whole[3].digest)));
        assert_eq!(check(&[]), Ok((0, FIRST)));
        let changes: [fn(&mut AccessEntry); 7] = [
            |entry| entry.access.at = Timestamp::from_seconds(9),
            |entry| entry.access.person.push('x'),
            |entry| entry.access.action.push('x'),
            |entry| entry.access.why.clear(),
            |entry| entry.access.objects.truncate(1),
            // Lengths part the fields.
            |entry| entry.access.objects = vec!["ab".into(), "c".into()],
            |entry| entry.digest[0] ^= 1,
        ];
        for change in changes {
            let mut log = whole.clone();
            change(&mut log[1]);
            assert!(check(&log).is_err_and(|text| text.contains("entry 2 was changed")));
        }
        let mut log = whole.clone();
        log.remove(1);
        assert!(check(&log).is_err_and(|text| text.contains("entry 2 is missing")));
        let mut log = whole;
        log.swap(0, 1);
        assert!(check(&log).is_err());
    }

    #[test]
    fn fields_that_no_log_has_are_no_entry() {
        let mut long = access(1);
        long.why = "x".repeat(65_536);
        assert_eq!(long.digest(&FIRST, 1), None);
    }

    #[test]
    fn a_reason_is_short_and_falls_back_to_the_cases() {
        for bad in ["a\nb", &"x".repeat(257), "\u{7f}"] {
            assert!(Why::parse(bad).is_err());
        }
        assert!(Why::required(" ").is_err());
        let given = Why::parse(&"ä".repeat(256)).expect("short enough");
        assert_eq!(given.or_cases(["c"]).chars().count(), 256);
        let none = Why::parse("").expect("may be empty");
        assert_eq!(none.or_cases([]), "not given");
        assert_eq!(none.or_cases(["b", "a", "b", ""]), "case a, b");
        let many: Vec<_> = (0..500).map(|n| format!("2026-{n:04}")).collect();
        let text = none.or_cases(many.iter().map(String::as_str));
        assert!(
            text.chars().count() <= MAX_WHY && text.ends_with("more"),
            "{text}"
        );
        let long = "x".repeat(128);
        assert!(Why::of_case(&long).or_cases([]).chars().count() <= MAX_WHY);
    }
}
