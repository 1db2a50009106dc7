//! Filter headers and states of publications (protocol §6).

use std::collections::BTreeSet;

use sotto_common::dsse::StatementKind;
use sotto_common::epoch::Kid;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::filter::{Class, FilterParams, Salt};
use sotto_common::ids::PublicationId;
use sotto_common::membership::MAX_MEMBERS;
use sotto_common::publication::{FilterHeader, FilterLabels, LayerRole, PublicationState};

use super::follow_up::code;
use super::grounds::enum_both_ways;
use super::{
    FORMAT, Statement, array, check_format, epoch, id, policy, text, timestamp, to_timestamp,
};
use crate::v1;

enum_both_ways!(PublicationState {
    Uploading,
    Active,
    Replaced,
    Withdrawn,
    Expired,
    Refused,
});

impl Statement for FilterHeader {
    type Wire = v1::FilterHeader;
    const KIND: StatementKind = StatementKind::FilterHeader;
}

impl TryFrom<v1::FilterHeader> for FilterHeader {
    type Error = Error;
    fn try_from(wire: v1::FilterHeader) -> Result<Self> {
        check_format(wire.format)?;
        let class = u8::try_from(wire.class)
            .ok()
            .and_then(|class| Class::new(class).ok());
        let params = class
            .zip(u8::try_from(wire.k).ok())
            .and_then(|(class, k)| FilterParams::new(class, k).ok())
            .ok_or_else(|| Error::new(ErrorCode::FilterClass, "class is 0 to 60, k 20 to 40"))?;
        if wire.pages != params.pages() {
            let text = format!("this class and k have {} pages", params.pages());
            return Err(Error::new(ErrorCode::FilterLength, text).about("pages"));
        }
        if wire.audience.len() > MAX_MEMBERS {
            return Err(Error::field("audience", "at most 1000 nodes"));
        }
        let audience = wire
            .audience
            .iter()
            .map(|n| text("audience", n))
            .collect::<Result<BTreeSet<_>>>()?;
        Ok(Self {
            holder: text("holder", &wire.holder)?,
            publication: id(
                "publication_id",
                &wire.publication_id,
                PublicationId::from_slice,
            )?,
            community: text("community", &wire.community)?,
            epoch: epoch(wire.epoch)?,
            policy: policy(&wire.policy)?,
            forms: array("forms", &wire.forms)?,
            kid: Kid::new(array("kid", &wire.kid)?),
            params,
            salt: Salt::new(array("salt", &wire.salt)?),
            role: wire
                .supplement_of
                .map_or(LayerRole::Base, LayerRole::SupplementOf),
            version: wire.version,
            digest: array("digest", &wire.digest)?,
            audience,
            created_at: timestamp("created_at", wire.created_at)?,
            expires_at: timestamp("expires_at", wire.expires_at)?,
            labels: labels(&wire.contact_unit, wire.handling_code, &wire.handling_text)?,
        })
    }
}

impl From<FilterHeader> for v1::FilterHeader {
    fn from(header: FilterHeader) -> Self {
        Self {
            format: FORMAT,
            holder: header.holder.to_string(),
            publication_id: header.publication.as_bytes().to_vec().into(),
            community: header.community.to_string(),
            epoch: header.epoch.get(),
            policy: header.policy.name().to_owned(),
            forms: header.forms.to_vec().into(),
            kid: header.kid.as_bytes().to_vec().into(),
            k: header.params.k().into(),
            class: header.params.class().get().into(),
            pages: header.params.pages(),
            // The salt goes to the broker, and to nobody else (protocol §5).
            salt: header.salt.expose().to_vec().into(),
            supplement_of: match header.role {
                LayerRole::Base => None,
                LayerRole::SupplementOf(version) => Some(version),
            },
            version: header.version,
            digest: header.digest.to_vec().into(),
            audience: header.audience.iter().map(ToString::to_string).collect(),
            created_at: Some(to_timestamp(header.created_at)),
            expires_at: Some(to_timestamp(header.expires_at)),
            contact_unit: header.labels.contact_unit().to_owned(),
            handling_code: handling_code(&header.labels).into(),
            handling_text: header.labels.handling_text().to_owned(),
        }
    }
}

/// Reads what a filter says to those who match it, from the three fields of a header or a hit.
///
/// # Errors
/// `INVALID_FIELD`, naming the field.
pub fn labels(contact_unit: &str, handling_code: i32, handling_text: &str) -> Result<FilterLabels> {
    let handling = (handling_code != 0).then(|| code("handling_code", handling_code));
    FilterLabels::new(contact_unit, handling.transpose()?, handling_text)
}

/// The handling code of a filter on the wire; unspecified if it does not say.
pub fn handling_code(labels: &FilterLabels) -> v1::HandlingCode {
    let code = labels.handling_code();
    code.map(v1::HandlingCode::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use sotto_common::followup::codes::HandlingCode;

    use super::*;

    #[test]
    fn labels_are_read_as_they_were_written() {
        for (unit, code, text) in [
            ("", None, ""),
            ("Cyberteam Nord", Some(HandlingCode::H1), ""),
            ("", Some(HandlingCode::H3), "ask before use"),
        ] {
            let given = FilterLabels::new(unit, code, text).expect("labels");
            let number = handling_code(&given).into();
            let read = labels(given.contact_unit(), number, given.handling_text());
            assert_eq!(read.ok(), Some(given));
        }
    }

    #[test]
    fn labels_that_break_a_rule_are_refused_by_their_field() {
        let (h1, h3) = (
            i32::from(v1::HandlingCode::H1),
            i32::from(v1::HandlingCode::H3),
        );
        for (unit, code, text, field) in [
            ("one\ntwo", 0, "", "contact_unit"),
            ("", 9, "", "handling_code"),
            ("", h3, "", "handling_text"),
            ("", h1, "ask before use", "handling_text"),
            ("", 0, "ask before use", "handling_text"),
        ] {
            let error = labels(unit, code, text).expect_err("refused");
            assert_eq!(error.code, ErrorCode::InvalidField);
            assert_eq!(error.subject.as_deref(), Some(field));
        }
    }
}
