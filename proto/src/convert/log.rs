//! Entries of the audit log (protocol §11, workflow.md "Audit").

use prost::Message as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::grounds::Grounds;
use sotto_common::ids::{
    AttachmentId, EntryId, FollowUpId, HitId, InvalidId, PublicationId, SessionId,
};
use sotto_common::log::action::Action;
use sotto_common::log::entry::{
    Batch, Change, Entry, MAX_DETAIL, MAX_STATEMENT, Object, Statement, Step,
};
use sotto_common::log::kind::{EntryKind, Verb};

use super::grounds::enum_both_ways;
use super::{FORMAT, array, check_format, epoch, id, policy, text, timestamp, to_timestamp};
use crate::v1;

enum_both_ways!(EntryKind {
    Publication,
    Activation,
    Withdrawal,
    Deletion,
    ProbeSession,
    ProbeBatch,
    Hit,
    HitState,
    FollowUp,
    Membership,
    Epoch,
    Quota,
    Read,
});

enum_both_ways!(Verb {
    Collection,
    Alteration,
    Consultation,
    Disclosure,
    Combination,
    Erasure,
});

/// Serialises an entry, to be hidden behind its leaf.
pub fn write_entry(entry: &Entry) -> Vec<u8> {
    v1::LogEntry::from(entry).encode_to_vec()
}

/// Reads an entry as an opening has it.
///
/// # Errors
/// `INVALID_FIELD` for bytes that are no entry, naming the field; `FORMAT_UNKNOWN`.
pub fn read_entry(bytes: &[u8]) -> Result<Entry> {
    let wire = v1::LogEntry::decode(bytes).map_err(|_| Error::field("entry", "a LogEntry"))?;
    Entry::try_from(wire)
}

impl From<&Entry> for v1::LogEntry {
    fn from(entry: &Entry) -> Self {
        let object = &entry.object;
        let mut wire = Self {
            format: FORMAT,
            entry_id: entry.id.as_bytes().to_vec().into(),
            kind: v1::EntryKind::from(entry.action.kind()).into(),
            verb: v1::Verb::from(entry.action.verb()).into(),
            action: entry.action.to_string(),
            actor: entry.actor.to_string(),
            community: entry.community.to_string(),
            at: Some(to_timestamp(entry.at)),
            software: entry.software.clone(),
            node: name(object.node.as_ref()),
            recipient: name(entry.recipient.as_ref()),
            epoch: object.epoch.map_or(0, sotto_common::ids::Epoch::get),
            policy: name(object.policy.map(sotto_common::selector::Policy::name)),
            publication_id: bytes(
                object
                    .publication
                    .as_ref()
                    .map(sotto_common::ids::PublicationId::as_bytes),
            ),
            session_id: bytes(
                object
                    .session
                    .as_ref()
                    .map(sotto_common::ids::SessionId::as_bytes),
            ),
            hit_id: bytes(object.hit.as_ref().map(sotto_common::ids::HitId::as_bytes)),
            follow_up_id: bytes(
                object
                    .follow_up
                    .as_ref()
                    .map(sotto_common::ids::FollowUpId::as_bytes),
            ),
            attachment_id: bytes(
                object
                    .attachment
                    .as_ref()
                    .map(sotto_common::ids::AttachmentId::as_bytes),
            ),
            version: object.version.unwrap_or(0),
            daily_refs: entry.limits.map(|(refs, _)| refs),
            max_class: entry.limits.map(|(_, class)| class.into()),
            detail: entry.detail.clone(),
            ..Self::default()
        };
        write_grounds(&mut wire, entry.grounds.as_ref());
        if let Some(change) = &entry.change {
            wire.from_state.clone_from(&change.from);
            wire.to_state.clone_from(&change.to);
        }
        if let Some(batch) = &entry.batch {
            wire.number = Some(batch.number);
            wire.refs = batch.refs;
            wire.matches = batch.matches;
            wire.tags_digest = bytes(Some(&batch.tags_digest));
            wire.answer_digest = bytes(Some(&batch.answer_digest));
        }
        if let Some(step) = &entry.step {
            wire.number = Some(step.number);
            wire.clear = step.clear.clone().into();
        }
        if let Some(statement) = &entry.statement {
            wire.statement_digest = bytes(Some(&statement.digest));
            wire.statement = statement.envelope.clone().unwrap_or_default().into();
        }
        wire
    }
}

fn write_grounds(wire: &mut v1::LogEntry, grounds: Option<&Grounds>) {
    let Some(grounds) = grounds else { return };
    wire.purpose = v1::Purpose::from(grounds.purpose()).into();
    wire.legal_basis = v1::LegalBasis::from(grounds.legal_basis()).into();
    grounds
        .reference()
        .clone_into(&mut wire.legal_basis_reference);
    grounds.case_ref().clone_into(&mut wire.case_ref);
}

impl TryFrom<v1::LogEntry> for Entry {
    type Error = Error;
    fn try_from(wire: v1::LogEntry) -> Result<Self> {
        check_format(wire.format)?;
        let action = Action::ALL.iter().copied();
        let action = { action }.find(|action| action.as_str() == wire.action);
        let action = action.ok_or_else(|| {
            let text = "an action that is unknown here: a newer version may be needed";
            Error::new(ErrorCode::FormatUnknown, text).about("action")
        })?;
        let kind = v1::EntryKind::from(action.kind());
        let verb = v1::Verb::from(action.verb());
        if (wire.kind, wire.verb) != (kind.into(), verb.into()) {
            return Err(Error::field("kind", "kind and verb of the action"));
        }
        if wire.detail.len() > MAX_DETAIL {
            return Err(Error::field(
                "detail",
                format!("at most {MAX_DETAIL} bytes"),
            ));
        }
        Ok(Self {
            id: id("entry_id", &wire.entry_id, EntryId::from_slice)?,
            action,
            actor: text("actor", &wire.actor)?,
            community: text("community", &wire.community)?,
            at: timestamp("at", wire.at)?,
            software: wire.software.clone(),
            object: object(&wire)?,
            recipient: optional_text("recipient", &wire.recipient)?,
            grounds: grounds(&wire)?,
            change: change(&wire),
            batch: batch(&wire)?,
            limits: limits(&wire)?,
            statement: statement(&wire)?,
            step: step(&wire),
            detail: wire.detail,
        })
    }
}

fn object(wire: &v1::LogEntry) -> Result<Object> {
    Ok(Object {
        node: optional_text("node", &wire.node)?,
        epoch: (wire.epoch > 0).then(|| epoch(wire.epoch)).transpose()?,
        policy: (!wire.policy.is_empty())
            .then(|| policy(&wire.policy))
            .transpose()?,
        publication: optional_id(
            "publication_id",
            &wire.publication_id,
            PublicationId::from_slice,
        )?,
        session: optional_id("session_id", &wire.session_id, SessionId::from_slice)?,
        hit: optional_id("hit_id", &wire.hit_id, HitId::from_slice)?,
        follow_up: optional_id("follow_up_id", &wire.follow_up_id, FollowUpId::from_slice)?,
        attachment: optional_id(
            "attachment_id",
            &wire.attachment_id,
            AttachmentId::from_slice,
        )?,
        version: (wire.version > 0).then_some(wire.version),
    })
}

fn grounds(wire: &v1::LogEntry) -> Result<Option<Grounds>> {
    if wire.purpose == 0 {
        return Ok(None);
    }
    let grounds = v1::ProbeGrounds {
        purpose: wire.purpose,
        legal_basis: wire.legal_basis,
        legal_basis_reference: wire.legal_basis_reference.clone(),
        case_ref: wire.case_ref.clone(),
    };
    Grounds::try_from(&grounds).map(Some)
}

fn change(wire: &v1::LogEntry) -> Option<Change> {
    (!wire.to_state.is_empty()).then(|| Change {
        from: wire.from_state.clone(),
        to: wire.to_state.clone(),
    })
}

fn batch(wire: &v1::LogEntry) -> Result<Option<Batch>> {
    if wire.tags_digest.is_empty() {
        return Ok(None);
    }
    let number = wire.number;
    Ok(Some(Batch {
        number: number.ok_or_else(|| Error::field("number", "a batch has one"))?,
        refs: wire.refs,
        matches: wire.matches,
        tags_digest: array("tags_digest", &wire.tags_digest)?,
        answer_digest: array("answer_digest", &wire.answer_digest)?,
    }))
}

fn limits(wire: &v1::LogEntry) -> Result<Option<(u64, u8)>> {
    let (Some(refs), Some(class)) = (wire.daily_refs, wire.max_class) else {
        return Ok(None);
    };
    let class = u8::try_from(class).map_err(|_| Error::field("max_class", "0 to 60"))?;
    Ok(Some((refs, class)))
}

fn statement(wire: &v1::LogEntry) -> Result<Option<Statement>> {
    if wire.statement_digest.is_empty() {
        return Ok(None);
    }
    if wire.statement.len() > MAX_STATEMENT {
        let text = format!("at most {MAX_STATEMENT} bytes");
        return Err(Error::field("statement", text));
    }
    Ok(Some(Statement {
        digest: array("statement_digest", &wire.statement_digest)?,
        envelope: (!wire.statement.is_empty()).then(|| wire.statement.to_vec()),
    }))
}

fn step(wire: &v1::LogEntry) -> Option<Step> {
    let number = wire.number.filter(|_| !wire.clear.is_empty())?;
    Some(Step {
        number,
        clear: wire.clear.to_vec(),
    })
}

fn name(name: Option<impl ToString>) -> String {
    name.map(|name| name.to_string()).unwrap_or_default()
}

fn bytes<const N: usize>(bytes: Option<&[u8; N]>) -> prost::bytes::Bytes {
    bytes.map(|bytes| bytes.to_vec().into()).unwrap_or_default()
}

fn optional_text<T: std::str::FromStr<Err = InvalidId>>(
    field: &'static str,
    value: &str,
) -> Result<Option<T>> {
    (!value.is_empty()).then(|| text(field, value)).transpose()
}

fn optional_id<T>(
    field: &'static str,
    value: &[u8],
    parse: impl FnOnce(&[u8]) -> Result<T, InvalidId>,
) -> Result<Option<T>> {
    (!value.is_empty())
        .then(|| id(field, value, parse))
        .transpose()
}

#[cfg(test)]
mod tests {
    use sotto_common::grounds::{LegalBasis, Purpose};
    use sotto_common::ids::Epoch;
    use sotto_common::random::os_rng;
    use sotto_common::selector::Policy;
    use sotto_common::time::Timestamp;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);

    fn bare(action: Action) -> Entry {
        let id = EntryId::generate(NOW, &mut os_rng());
        let actor = "spiffe://sotto.example/node/nl-fiu".parse().unwrap();
        let community = "euro-cyber".parse().unwrap();
        Entry::new(id, action, actor, community, NOW, "sotto-broker/0.0.0")
    }

    fn full() -> Entry {
        let mut entry = bare(Action::AnswerBatch);
        entry.object = Object {
            node: Some("de-bka".parse().unwrap()),
            epoch: Some(Epoch::new(3).unwrap()),
            policy: Some(Policy::Phone),
            publication: Some(PublicationId::generate(NOW, &mut os_rng())),
            session: Some(SessionId::generate(NOW, &mut os_rng())),
            hit: Some(HitId::generate(NOW, &mut os_rng())),
            follow_up: Some(FollowUpId::generate(NOW, &mut os_rng())),
            attachment: Some(AttachmentId::generate(NOW, &mut os_rng())),
            version: Some(7),
        };
        entry.recipient = Some("fr-pj".parse().unwrap());
        let grounds = Grounds::new(
            Some(Purpose::Detection),
            Some(LegalBasis::NationalLaw),
            "Art. 3",
            "case-7",
        );
        entry.grounds = Some(grounds.unwrap());
        entry.change = Some(Change {
            from: "NEW".into(),
            to: "CONFIRMED".into(),
        });
        entry.batch = Some(Batch {
            number: 0,
            refs: 4,
            matches: 1,
            tags_digest: [1; 32],
            answer_digest: [2; 32],
        });
        entry.limits = Some((10_000, 12));
        entry.detail = "why".into();
        entry.statement = Some(Statement {
            digest: [3; 32],
            envelope: Some(vec![4; 10]),
        });
        entry
    }

    #[test]
    fn every_action_and_every_field_come_back() {
        for &action in Action::ALL {
            let entry = bare(action);
            assert_eq!(read_entry(&write_entry(&entry)).unwrap(), entry);
        }
        let entry = full();
        assert_eq!(read_entry(&write_entry(&entry)).unwrap(), entry);
        let mut step = bare(Action::TakeStep);
        step.step = Some(Step {
            number: 0,
            clear: vec![1, 2],
        });
        assert_eq!(read_entry(&write_entry(&step)).unwrap(), step);
    }

    #[test]
    fn what_is_no_entry_is_refused_and_says_why() {
        let refused = |change: fn(&mut v1::LogEntry)| {
            let mut wire = v1::LogEntry::from(&full());
            change(&mut wire);
            Entry::try_from(wire).unwrap_err().code
        };
        assert_eq!(refused(|w| w.format = 2), ErrorCode::FormatUnknown);
        assert_eq!(
            refused(|w| w.action = "NAP".into()),
            ErrorCode::FormatUnknown
        );
        assert_eq!(refused(|w| w.kind = 0), ErrorCode::InvalidField);
        assert_eq!(refused(|w| w.verb = 1), ErrorCode::InvalidField);
        assert_eq!(refused(|w| w.actor = "me".into()), ErrorCode::InvalidField);
        assert_eq!(refused(|w| w.at = None), ErrorCode::InvalidField);
        assert_eq!(refused(|w| w.number = None), ErrorCode::InvalidField);
        assert_eq!(
            refused(|w| w.max_class = Some(256)),
            ErrorCode::InvalidField
        );
        assert_eq!(
            refused(|w| w.statement = vec![0; MAX_STATEMENT + 1].into()),
            ErrorCode::InvalidField
        );
        assert_eq!(
            read_entry(&[0xff]).unwrap_err().code,
            ErrorCode::InvalidField
        );
    }
}
