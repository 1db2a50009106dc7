//! A form that is asked for step by step, on a terminal.

use dialoguer::console::Term;
use dialoguer::theme::SimpleTheme;
use dialoguer::{Confirm, Input, MultiSelect, Select};
use sotto_common::followup::codes::{Item, PersonRole, TimeLimit, UrgencyGround};
use sotto_common::followup::content::{MAX_LONG_TEXT, MAX_SHORT_TEXT};
use sotto_common::followup::step::Terms;
use sotto_common::grounds::{LegalBasis, MAX_CASE_REF, Purpose};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::form::{FormCode, Given, RequestForm};
use crate::cli::fault::{Fault, Result};

/// What a line must be; or what is wrong with it.
pub(super) type Check<'a> = &'a dyn Fn(&str) -> Result<(), String>;

/// Somebody who can be asked.
pub(super) trait Ask {
    /// One line that passes a check.
    fn line(&mut self, question: &str, check: Check<'_>) -> Result<String>;
    /// Several lines; none if it may be empty.
    fn text(&mut self, question: &str, may_be_empty: bool) -> Result<String>;
    /// One of several.
    fn choose(&mut self, question: &str, options: &[&str]) -> Result<usize>;
    /// At least one of several.
    fn choose_many(&mut self, question: &str, options: &[&str]) -> Result<Vec<usize>>;
    /// Yes or no.
    fn confirm(&mut self, question: &str) -> Result<bool>;
}

/// Asks for every field of a request that is needed on its terms.
pub(super) fn fill_in(ask: &mut impl Ask, case_ref: Option<&str>) -> Result<RequestForm> {
    let mut form = RequestForm {
        case_ref: match case_ref {
            Some(case_ref) => case_ref.to_owned(),
            None => ask.line("Case at this node", &short(MAX_CASE_REF))?,
        },
        ..Default::default()
    };
    let basis: LegalBasis = code(ask, "Legal basis", LegalBasis::CODES)?;
    form.legal_basis = Given(Some(basis));
    if basis.needs_reference() {
        let question = "Reference text of the legal basis";
        form.legal_basis_reference = ask.line(question, &short(MAX_SHORT_TEXT))?;
    }
    form.purpose = Given(Some(code(ask, "Purpose", Purpose::CODES)?));
    let limits: Vec<_> = TimeLimit::CODES
        .iter()
        .copied()
        .filter(|limit| *limit != TimeLimit::CoreData || basis == LegalBasis::Eu2024982)
        .collect();
    let limit: TimeLimit = code(ask, "Time limit", &limits)?;
    form.time_limit = Given(Some(limit));
    if limit.is_urgent() {
        let ground = code(ask, "Ground of urgency", UrgencyGround::CODES)?;
        form.urgency_ground = Given(Some(ground));
        form.urgency_reason = ask.text("What makes it urgent", false)?;
    }
    form.offence_code = ask.line("Offence code", &offence)?;
    form.offence_description = ask.text("The offence in words", false)?;
    let names: Vec<_> = Item::CODES.iter().map(|item| item.code()).collect();
    let items = ask.choose_many("Items asked for (space chooses)", &names)?;
    let items = items.into_iter().filter_map(|at| Item::CODES.get(at));
    form.items = items.map(|item| Given(Some(*item))).collect();
    form.requesting_unit = ask.line("Requesting unit", &short(MAX_SHORT_TEXT))?;
    form.officer = ask.line("Officer, and how to reach them", &short(MAX_SHORT_TEXT))?;
    form.person_role = Given(Some(code(ask, "Part of the person", PersonRole::CODES)?));
    form.facts = ask.text("Facts", false)?;
    form.link = ask.text("What links the purpose and the person", false)?;
    form.why_there = ask.text("Why the data are believed to be there", false)?;
    form.use_restrictions = ask.text("Restrictions on the use of this request", true)?;
    form.language = ask.line("Language of the texts, e.g. en", &language)?;
    Ok(form)
}

fn code<C: FormCode>(ask: &mut impl Ask, question: &str, codes: &[C]) -> Result<C> {
    let names: Vec<_> = codes.iter().map(|code| code.code()).collect();
    let at = ask.choose(question, &names)?;
    codes
        .get(at)
        .copied()
        .ok_or_else(|| Fault::new("that is none of them"))
}

/// A line that is not empty, and not too long.
fn short(most: usize) -> impl Fn(&str) -> Result<(), String> {
    move |line| {
        if line.trim().is_empty() {
            return Err("it is needed".into());
        }
        if line.chars().count() > most {
            return Err(format!("at most {most} characters"));
        }
        if line.chars().any(char::is_control) {
            return Err("no control characters".into());
        }
        Ok(())
    }
}

fn offence(line: &str) -> Result<(), String> {
    let terms = Terms::new(TimeLimit::Ordinary, None, line.trim(), vec![Item::Identity]);
    terms.map(drop).map_err(|error| error.text.into_owned())
}

fn language(line: &str) -> Result<(), String> {
    let line = line.trim();
    if line.len() == 2 && line.bytes().all(|b| b.is_ascii_alphabetic()) {
        Ok(())
    } else {
        Err("two letters of ISO 639-1, e.g. en".into())
    }
}

/// The person at the terminal. Questions go to standard error.
pub(super) struct Terminal {
    /// While it stands, an interrupt comes back from the question instead of ending the program with
    /// the cursor hidden.
    _interrupts: Signal,
}

impl Terminal {
    /// Begins to ask.
    pub(super) fn begin() -> Result<Self> {
        let interrupts = signal(SignalKind::interrupt())
            .map_err(|error| Fault::new(format!("cannot ask: {error}")))?;
        Ok(Self {
            _interrupts: interrupts,
        })
    }
}

fn interrupted(error: dialoguer::Error) -> Fault {
    let dialoguer::Error::IO(error) = error;
    // Best effort: a list hides the cursor while it is chosen from.
    let _ = Term::stderr().show_cursor();
    if error.kind() == std::io::ErrorKind::Interrupted {
        return Fault::new("interrupted; nothing was kept");
    }
    Fault::new(format!("cannot ask: {error}"))
}

impl Ask for Terminal {
    fn line(&mut self, question: &str, check: Check<'_>) -> Result<String> {
        Input::<String>::with_theme(&SimpleTheme)
            .with_prompt(question)
            .allow_empty(true)
            .validate_with(|line: &String| check(line))
            .interact_text()
            .map_err(interrupted)
    }

    fn text(&mut self, question: &str, may_be_empty: bool) -> Result<String> {
        let how = if may_be_empty {
            "several lines; an empty line ends, at once if there is nothing to say"
        } else {
            "several lines; an empty line ends"
        };
        let mut text = String::new();
        loop {
            let prompt = if text.is_empty() {
                format!("{question} ({how})")
            } else {
                "…".to_owned()
            };
            let needed = text.is_empty() && !may_be_empty;
            let length = text.chars().count();
            let check = move |line: &str| {
                if needed && line.trim().is_empty() {
                    return Err("it is needed".to_owned());
                }
                if length + line.chars().count() > MAX_LONG_TEXT {
                    return Err(format!("at most {MAX_LONG_TEXT} characters in all"));
                }
                Ok(())
            };
            let line = self.line(&prompt, &check)?;
            if line.trim().is_empty() {
                return Ok(text.trim_end().to_owned());
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }

    fn choose(&mut self, question: &str, options: &[&str]) -> Result<usize> {
        Select::with_theme(&SimpleTheme)
            .with_prompt(question)
            .items(options)
            .default(0)
            .interact()
            .map_err(interrupted)
    }

    fn choose_many(&mut self, question: &str, options: &[&str]) -> Result<Vec<usize>> {
        loop {
            let chosen = MultiSelect::with_theme(&SimpleTheme)
                .with_prompt(question)
                .items(options)
                .interact()
                .map_err(interrupted)?;
            if !chosen.is_empty() {
                return Ok(chosen);
            }
            eprintln!("at least one: the space bar chooses");
        }
    }

    fn confirm(&mut self, question: &str) -> Result<bool> {
        Confirm::with_theme(&SimpleTheme)
            .with_prompt(question)
            .default(false)
            .interact()
            .map_err(interrupted)
    }
}

#[cfg(test)]
mod tests {
    use sotto_proto::v1;

    use super::*;

    /// Somebody who answers each question by its beginning, and keeps what was asked.
    struct Script {
        asked: Vec<String>,
        basis: &'static str,
        limit: &'static str,
    }

    impl Ask for Script {
        fn line(&mut self, question: &str, check: Check<'_>) -> Result<String> {
            self.asked.push(question.into());
            assert!(check("").is_err(), "{question}");
            let line = if question.starts_with("Language") {
                "EN"
            } else {
                "x"
            };
            check(line).map_err(Fault::new)?;
            Ok(line.into())
        }

        fn text(&mut self, question: &str, may_be_empty: bool) -> Result<String> {
            self.asked.push(question.into());
            Ok(if may_be_empty {
                String::new()
            } else {
                question.into()
            })
        }

        fn choose(&mut self, question: &str, options: &[&str]) -> Result<usize> {
            self.asked.push(question.into());
            let wanted = match question {
                "Legal basis" => self.basis,
                "Time limit" => self.limit,
                _ => options[options.len() - 1],
            };
            let at = options.iter().position(|option| *option == wanted);
            at.ok_or_else(|| Fault::new("not offered"))
        }

        fn choose_many(&mut self, question: &str, options: &[&str]) -> Result<Vec<usize>> {
            self.asked.push(question.into());
            Ok(vec![0, options.len() - 1])
        }

        fn confirm(&mut self, _: &str) -> Result<bool> {
            Ok(true)
        }
    }

    fn answered(basis: &'static str, limit: &'static str) -> Result<(RequestForm, Vec<String>)> {
        let mut script = Script {
            asked: Vec::new(),
            basis,
            limit,
        };
        let form = fill_in(&mut script, None)?;
        Ok((form, script.asked))
    }

    #[test]
    fn what_is_asked_for_makes_a_whole_request() {
        for basis in LegalBasis::CODES {
            for limit in ["ORDINARY", "URGENT_DIRECT"] {
                let (form, asked) = answered(basis.code(), limit).expect("answered");
                let request = form.draft(&[1; 16], None).expect("whole");
                let draft = request.draft.expect("a draft");
                let terms = draft.terms.expect("terms");
                assert_eq!(terms.items, [1, 15]);
                let particulars = draft.particulars.expect("particulars");
                assert_eq!(particulars.legal_basis(), v1::LegalBasis::from(*basis));
                assert_eq!(particulars.facts, "Facts");
                let urgent = asked.iter().any(|question| question == "Ground of urgency");
                assert_eq!(urgent, limit == "URGENT_DIRECT");
            }
        }
    }

    #[test]
    fn core_data_are_offered_on_their_own_legal_basis_only() {
        assert!(answered("EU_2024_982", "CORE_DATA").is_ok());
        assert!(answered("EU_2023_977", "CORE_DATA").is_err());
    }

    #[test]
    fn a_case_that_was_given_is_not_asked_for() {
        let mut script = Script {
            asked: Vec::new(),
            basis: "UNTOC",
            limit: "ORDINARY",
        };
        let form = fill_in(&mut script, Some("2026-17")).expect("answered");
        assert_eq!(form.case_ref, "2026-17");
        assert!(
            !script
                .asked
                .iter()
                .any(|question| question.starts_with("Case"))
        );
    }

    #[test]
    fn each_line_is_checked_as_it_is_typed() {
        assert!(offence("two words").is_err() && offence("ICCS:0701").is_ok());
        assert!(language("eng").is_err() && language("nl").is_ok());
        assert!(short(3)("four").is_err() && short(3)("\u{1b}").is_err());
    }
}
