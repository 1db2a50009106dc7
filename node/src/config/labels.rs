//! `[service.publisher.labels]`: what this node's filters say to those who match them (workflow.md
//! "Hit").

use std::collections::BTreeMap;

use serde::Deserialize;
use sotto_common::followup::codes::HandlingCode;
use sotto_common::publication::FilterLabels;
use sotto_common::selector::Policy;

/// What this node's filters say, by policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "Written")]
pub struct LabelsConfig {
    all: FilterLabels,
    of_types: BTreeMap<Policy, FilterLabels>,
}

impl LabelsConfig {
    /// What a filter of this policy says.
    pub fn of(&self, policy: Policy) -> &FilterLabels {
        self.of_types.get(&policy).unwrap_or(&self.all)
    }
}

/// The section as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    contact_unit: Option<String>,
    handling_code: Option<String>,
    handling_text: Option<String>,
    #[serde(default)]
    types: BTreeMap<String, Labels>,
}

/// What is said, as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    contact_unit: Option<String>,
    handling_code: Option<String>,
    handling_text: Option<String>,
}

/// What is wrong with a setting, by its name.
#[derive(Debug, thiserror::Error)]
#[error("service.publisher.labels.{setting}: {problem}")]
struct InvalidLabel {
    setting: String,
    problem: String,
}

impl TryFrom<Written> for LabelsConfig {
    type Error = InvalidLabel;

    fn try_from(written: Written) -> Result<Self, InvalidLabel> {
        let all = Labels {
            contact_unit: written.contact_unit,
            handling_code: written.handling_code,
            handling_text: written.handling_text,
        };
        let mut of_types = BTreeMap::new();
        for (name, labels) in written.types {
            let policy = Policy::from_type(&name).ok_or_else(|| unknown_type(&name))?;
            let labels = labels.over(&all).checked(&format!("types.{name}."))?;
            of_types.insert(policy, labels);
        }
        Ok(Self {
            all: all.checked("")?,
            of_types,
        })
    }
}

impl Labels {
    /// With what is left out taken from `others`. A text is of its code: another code has its own.
    fn over(self, others: &Self) -> Self {
        let text = if self.handling_code.is_some() {
            self.handling_text
        } else {
            self.handling_text.or_else(|| others.handling_text.clone())
        };
        Self {
            contact_unit: self.contact_unit.or_else(|| others.contact_unit.clone()),
            handling_code: self.handling_code.or_else(|| others.handling_code.clone()),
            handling_text: text,
        }
    }

    /// What a header can say; an empty text says nothing. `section` is where the settings are.
    fn checked(&self, section: &str) -> Result<FilterLabels, InvalidLabel> {
        let invalid = |setting: &str, problem: &str| InvalidLabel {
            setting: format!("{section}{setting}"),
            problem: problem.to_owned(),
        };
        let code = match self.handling_code.as_deref().unwrap_or_default() {
            "" => None,
            code => Some(
                HandlingCode::parse(code)
                    .ok_or_else(|| invalid("handling_code", "expected H0, H1, H2 or H3"))?,
            ),
        };
        let unit = self.contact_unit.as_deref().unwrap_or_default();
        let text = self.handling_text.as_deref().unwrap_or_default();
        FilterLabels::new(unit, code, text)
            .map_err(|error| invalid(&error.subject.unwrap_or_default(), &error.text))
    }
}

fn unknown_type(name: &str) -> InvalidLabel {
    let types: Vec<_> = Policy::ALL.iter().map(|p| p.selector_type()).collect();
    InvalidLabel {
        setting: format!("types.{name}"),
        problem: format!("expected one of {}", types.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    #[derive(Deserialize)]
    struct File {
        service: Settings,
    }

    const SECTION: &str = "
        [service.publisher.labels]
        contact_unit = 'Desk'
        handling_code = 'H3'
        handling_text = 'ask first'
    ";

    fn load(text: &str) -> Result<LabelsConfig, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("node.toml");
        std::fs::write(&path, text).expect("written");
        let file = sotto_common::service::config::load_from("SOTTO_TEST", Some(&path), []);
        file.map(|File { service }| service.publisher.labels)
            .map_err(|error| error.to_string())
    }

    fn labels(unit: &str, code: Option<HandlingCode>, text: &str) -> FilterLabels {
        FilterLabels::new(unit, code, text).expect("labels")
    }

    #[test]
    fn a_type_says_what_all_say_but_for_what_it_says_itself() {
        let config = load(&format!(
            "{SECTION}
            [service.publisher.labels.types.phone]
            contact_unit = 'Telecom'
            [service.publisher.labels.types.email]
            handling_code = 'h1'
            [service.publisher.labels.types.iban]
            handling_text = 'never'
            [service.publisher.labels.types.vin]
            contact_unit = ''
            handling_code = ''
            "
        ));
        let config = config.expect("valid");
        let h3 = Some(HandlingCode::H3);
        for (policy, expected) in [
            (Policy::Ip, labels("Desk", h3, "ask first")),
            (Policy::Phone, labels("Telecom", h3, "ask first")),
            (Policy::Email, labels("Desk", Some(HandlingCode::H1), "")),
            (Policy::Iban, labels("Desk", h3, "never")),
            (Policy::Vin, FilterLabels::default()),
        ] {
            assert_eq!(*config.of(policy), expected, "{policy}");
        }
        let silent = LabelsConfig::default();
        assert_eq!(*silent.of(Policy::Phone), FilterLabels::default());
        let silent = load("[service.publisher]\nbase_every = '1d'").expect("valid");
        assert_eq!(*silent.of(Policy::Phone), FilterLabels::default());
    }

    #[test]
    fn the_sample_configuration_is_taken() {
        let sample = include_str!("../../../deploy/config/node.toml");
        let block = sample
            .find("# [service.publisher.labels]")
            .expect("a block");
        let (block, _) = sample[block..].split_once("\n\n").expect("an end");
        let settings: Vec<_> = block
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.contains(" = ") || line.starts_with('['))
            .collect();
        let shown = load(&settings.join("\n")).expect("valid");
        let (all, phone) = (shown.of(Policy::Ip), shown.of(Policy::Phone));
        assert_eq!(all.handling_code(), Some(HandlingCode::H3));
        assert_ne!(all.contact_unit(), phone.contact_unit());
        assert_eq!(all.handling_text(), phone.handling_text());
    }

    #[test]
    fn what_is_wrong_is_said_of_the_setting() {
        let (of_all, of_phone) = ("labels.", "labels.types.phone.");
        let long = format!("contact_unit = '{}'", "u".repeat(201));
        for (line, setting) in [
            (long.as_str(), "contact_unit: at most 200 bytes"),
            ("contact_unit = \"a\\nb\"", "contact_unit: one line"),
            ("handling_code = 'H4'", "handling_code: expected H0"),
            ("handling_code = 'H3'", "handling_text: H3 needs it"),
            (
                "handling_code = 'H2'\nhandling_text = 'x'",
                "handling_text: goes with H3 only",
            ),
        ] {
            let file = format!("[service.publisher.labels]\n{line}\n");
            let error = load(&file).expect_err("refused");
            assert!(error.contains(&format!("{of_all}{setting}")), "{error}");
            let file = format!("[service.publisher.labels.types.phone]\n{line}\n");
            let error = load(&file).expect_err("refused");
            assert!(error.contains(&format!("{of_phone}{setting}")), "{error}");
        }
        let error = load("[service.publisher.labels.types.phones]\n").expect_err("refused");
        assert!(
            error.contains("types.phones: expected one of phone"),
            "{error}"
        );
        let error = load("[service.publisher.labels]\nunit = 'x'\n").expect_err("refused");
        assert!(error.contains("unknown field"), "{error}");
    }
}
