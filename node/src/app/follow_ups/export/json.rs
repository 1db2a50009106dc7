//! A follow-up as readable JSON: names of codes, times as RFC 3339, ids as UUIDs, bytes as hex.

use serde_json::{Map, Value, json};
use sotto_common::error::Result;
use sotto_common::ids::NodeId;
use sotto_common::membership::Manifest;
use sotto_common::time::Timestamp;
use sotto_proto::convert::timestamp;
use sotto_proto::v1;
use sotto_proto::v1::node_follow_up_step::Content;

use crate::store::Refusal;

fn time(at: Option<prost_types::Timestamp>) -> Value {
    let at = at.and_then(|at| timestamp("at", Some(at)).ok());
    at.map_or(Value::Null, |at| at.to_string().into())
}

fn uuid(bytes: &[u8]) -> Value {
    let id = uuid::Uuid::from_slice(bytes);
    id.map_or(Value::Null, |id| id.to_string().into())
}

/// A code without what stands before it on the wire; empty if it is not given.
fn code(name: &str, prefix: &str) -> Value {
    let code = name.strip_prefix(prefix).unwrap_or(name);
    if code == "UNSPECIFIED" {
        return Value::Null;
    }
    code.into()
}

macro_rules! code {
    ($message:expr, $field:ident, $prefix:literal) => {
        code($message.$field().as_str_name(), concat!($prefix, "_"))
    };
}

/// Everything that `GetNodeFollowUp` tells.
pub(super) fn story(story: &v1::GetNodeFollowUpResponse) -> Value {
    json!({
        "follow_up": story.follow_up.as_ref().map(node_follow_up),
        "steps": story.steps.iter().map(step).collect::<Vec<_>>(),
        "related": story.related.iter().map(related).collect::<Vec<_>>(),
    })
}

fn node_follow_up(node: &v1::NodeFollowUp) -> Value {
    json!({
        "shared": node.follow_up.as_ref().map(shared),
        "side": code!(node, side, "FOLLOW_UP_PARTY"),
        "case_ref": node.case_ref,
        "presence": code!(node, presence, "PRESENCE_STATE"),
        "records": node.records.iter().map(|record| json!({
            "dataset": record.dataset,
            "record_id": record.record_id,
            "canonical": record.canonical,
        })).collect::<Vec<_>>(),
        "proposal": node.proposal.as_ref().map(proposal),
        "step_pending": node.step_pending,
        "alarm": node.alarm,
        "next_action": node.next_action,
    })
}

fn shared(follow_up: &v1::FollowUp) -> Value {
    let clock = follow_up.clock.as_ref();
    json!({
        "follow_up_id": uuid(&follow_up.follow_up_id),
        "community": follow_up.community,
        "hit_id": uuid(&follow_up.hit_id),
        "epoch": follow_up.epoch,
        "policy": follow_up.policy,
        "requester": follow_up.requester,
        "holder": follow_up.holder,
        "filter_version": follow_up.filter_version,
        "matched_at": time(follow_up.matched_at),
        "state": code!(follow_up, state, "FOLLOW_UP_STATE"),
        "terms": follow_up.terms.as_ref().map(terms),
        "due_at": clock.map_or(Value::Null, |clock| time(clock.due_at)),
        "overdue": follow_up.overdue,
        "submitted_at": time(follow_up.submitted_at),
        "received_at": time(follow_up.received_at),
        "ended_at": time(follow_up.ended_at),
        "closed_at": time(follow_up.closed_at),
        "erased": follow_up.erased,
    })
}

fn terms(terms: &v1::FollowUpTerms) -> Value {
    let item = |item: v1::FollowUpItem| code(item.as_str_name(), "FOLLOW_UP_ITEM_");
    json!({
        "time_limit": code!(terms, time_limit, "TIME_LIMIT"),
        "urgency_ground": code!(terms, urgency_ground, "URGENCY_GROUND"),
        "offence_code": terms.offence_code,
        "items": terms.items().map(item).collect::<Vec<_>>(),
    })
}

fn proposal(proposal: &v1::FollowUpProposal) -> Value {
    let draft = proposal.draft.clone().unwrap_or_default();
    json!({
        "proposal_id": uuid(&proposal.proposal_id),
        "step": code!(proposal, step, "FOLLOW_UP_STEP"),
        "drafted_by": proposal.drafted_by,
        "drafted_at": time(proposal.drafted_at),
        "terms": draft.terms.as_ref().map(terms),
        "particulars": draft.particulars.as_ref().map(particulars),
        "outcomes": draft.outcomes.iter().map(outcome).collect::<Vec<_>>(),
        "new_date": time(draft.new_date),
        "message": draft.message,
        "answer": draft.answer.as_ref().map(answer),
    })
}

fn step(step: &v1::NodeFollowUpStep) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("seq", step.seq.into());
    put("step", code!(step, step, "FOLLOW_UP_STEP"));
    put("sender", step.sender.clone().into());
    put("made_at", time(step.made_at));
    put("taken_at", time(step.taken_at));
    put("state", code!(step, state, "FOLLOW_UP_STATE"));
    put("drafted_by", step.drafted_by.clone().into());
    put("approved_by", step.approved_by.clone().into());
    if let Some(clear) = &step.clear {
        put("previous", hex::encode(&clear.previous).into());
        put("terms", clear.terms.as_ref().map_or(Value::Null, terms));
        put("outcomes", clear.outcomes.iter().map(outcome).collect());
        put("new_date", time(clear.new_date));
        put(
            "handling_code",
            code!(clear, handling_code, "HANDLING_CODE"),
        );
        let file = |file: &v1::AttachmentDigest| {
            json!({
                "attachment_id": uuid(&file.attachment_id),
                "digest": hex::encode(&file.digest),
            })
        };
        put("attachments", clear.attachments.iter().map(file).collect());
    }
    match &step.content {
        Some(Content::Particulars(form)) => put("particulars", particulars(form)),
        Some(Content::Message(message)) => put("message", message.text.clone().into()),
        Some(Content::Answer(given)) => put("answer", answer(given)),
        None => None,
    };
    Value::Object(fields)
}

fn outcome(outcome: &v1::ItemOutcome) -> Value {
    json!({
        "item": code!(outcome, item, "FOLLOW_UP_ITEM"),
        "state": code!(outcome, state, "ITEM_STATE"),
        "ground": code!(outcome, ground, "REFUSAL_GROUND"),
        "pending_until": time(outcome.pending_until),
    })
}

fn particulars(form: &v1::FollowUpParticulars) -> Value {
    json!({
        "selector": form.selector,
        "requesting_unit": form.requesting_unit,
        "officer": form.officer,
        "facts": form.facts,
        "offence_description": form.offence_description,
        "purpose": code!(form, purpose, "PURPOSE"),
        "legal_basis": code!(form, legal_basis, "LEGAL_BASIS"),
        "legal_basis_reference": form.legal_basis_reference,
        "link": form.link,
        "person_role": code!(form, person_role, "PERSON_ROLE"),
        "why_there": form.why_there,
        "use_restrictions": form.use_restrictions,
        "urgency_reason": form.urgency_reason,
        "language": form.language,
    })
}

fn answer(answer: &v1::FollowUpAnswer) -> Value {
    let item = |item: &v1::AnswerItem| {
        json!({
            "item": code!(item, item, "FOLLOW_UP_ITEM"),
            "content": item.content,
            "handling_code": code!(item, handling_code, "HANDLING_CODE"),
            "handling_text": item.handling_text,
            "source_evaluation": code!(item, source_evaluation, "SOURCE_EVALUATION"),
            "information_evaluation":
                code!(item, information_evaluation, "INFORMATION_EVALUATION"),
            "tlp": code!(item, tlp, "TLP"),
            "nature": code!(item, nature, "NATURE"),
            "retain_until": time(item.retain_until),
        })
    };
    let name = |name: &v1::AttachmentName| json!({ "attachment_id": uuid(&name.attachment_id), "name": name.name });
    json!({
        "items": answer.items.iter().map(item).collect::<Vec<_>>(),
        "file_names": answer.file_names.iter().map(name).collect::<Vec<_>>(),
    })
}

fn related(other: &v1::RelatedFollowUp) -> Value {
    json!({
        "follow_up_id": uuid(&other.follow_up_id),
        "side": code!(other, side, "FOLLOW_UP_PARTY"),
        "counterpart": other.counterpart,
        "state": code!(other, state, "FOLLOW_UP_STATE"),
        "begun_at": time(other.begun_at),
    })
}

/// The public keys of the parties, as the manifest of the hit's epoch has them.
pub(super) fn keys(manifest: &Manifest, parties: [&NodeId; 2]) -> Result<Value> {
    let mut rows = Vec::new();
    for node in parties {
        let member = manifest.member(node)?;
        rows.push(json!({
            "node": node.as_str(),
            "ed25519": hex::encode(member.signing.as_bytes()),
            "fingerprint": member.signing.fingerprint().to_string(),
        }));
    }
    Ok(json!({
        "community": manifest.community.as_str(),
        "epoch": manifest.epoch.get(),
        "custodian": manifest.custodian.as_str(),
        "parties": rows,
    }))
}

/// Steps that were approved here and that the broker did not take.
pub(super) fn refusals(refusals: &[Refusal]) -> Value {
    let row = |refusal: &Refusal| {
        json!({
            "step": refusal.step,
            "reason": refusal.reason,
            "at": refusal.at.to_string(),
        })
    };
    refusals.iter().map(row).collect()
}

/// Proposals that were taken back.
pub(super) fn discards(discards: &[(String, String, Timestamp)]) -> Value {
    let row = |(person, reason, at): &(String, String, Timestamp)| json!({ "person": person, "reason": reason, "at": at.to_string() });
    discards.iter().map(row).collect()
}
