//! Filter headers and states of publications (protocol §6).

use std::collections::BTreeSet;

use sotto_common::dsse::StatementKind;
use sotto_common::epoch::Kid;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::filter::{Class, FilterParams, Salt};
use sotto_common::ids::PublicationId;
use sotto_common::membership::MAX_MEMBERS;
use sotto_common::publication::{FilterHeader, LayerRole, PublicationState};

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
        }
    }
}
