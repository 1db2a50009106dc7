//! Hits between the wire and the store.

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::grounds::MAX_CASE_REF;
use sotto_common::hit::{HitDecision, HitState, SecondFactor};
use sotto_common::ids::{CommunityId, HitId, SessionId};
use sotto_proto::convert::{id, text, timestamp, to_timestamp};
use sotto_proto::v1;
use sotto_proto::v1::get_receipt_request::Entry;

use crate::access::Why;
use crate::app::{App, optional_policy};
use crate::auth::Caller;
use crate::store::{Feedback, HistoryEvent, HitFilter, Named, RecordHit, Story};

/// Which threads a list asks for. A page token is the id of the last thread of the page before.
pub(super) fn hit_filter(request: &v1::ListRecordHitsRequest) -> Result<HitFilter> {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let after = given(&request.page_token)
        .map(|token| token.parse::<HitId>())
        .transpose()
        .map_err(|_| {
            Error::new(
                ErrorCode::CursorInvalid,
                "the page token was not given by this service",
            )
        })?;
    let state: Option<HitState> = v1::HitState::try_from(request.state)
        .map_err(|_| Error::field("state", "a state of workflow.md"))?
        .domain();
    if request.case_ref.chars().count() > MAX_CASE_REF {
        let text = format!("at most {MAX_CASE_REF} characters");
        return Err(Error::field("case_ref", text));
    }
    Ok(HitFilter {
        policy: optional_policy(&request.policy)?,
        holder: given(&request.holder)
            .map(|holder| text("holder", &holder))
            .transpose()?,
        dataset: given(&request.dataset),
        state,
        since: request
            .since
            .map(|since| timestamp("since", Some(since)))
            .transpose()?,
        case_ref: given(&request.case_ref),
        with_removed: request.with_removed,
        verified: request.verified,
        after,
    })
}

/// What a person decides.
pub(super) fn decision(request: &v1::ReviewHitRequest) -> Result<HitDecision> {
    v1::HitDecision::try_from(request.decision)
        .ok()
        .and_then(v1::HitDecision::domain)
        .ok_or_else(|| Error::field("decision", "what is decided about the hit"))
}

/// The second factor of a decision, if one is given.
pub(super) fn second_factor(
    request: &v1::ReviewHitRequest,
) -> Result<Option<(SecondFactor, &str)>> {
    let kind: Option<SecondFactor> = v1::SecondFactor::try_from(request.second_factor)
        .map_err(|_| Error::field("second_factor", "a second factor of selectors.md"))?
        .domain();
    if kind.is_none() && !request.second_factor_value.is_empty() {
        return Err(Error::field("second_factor", "which one the value is of"));
    }
    Ok(kind.map(|kind| (kind, request.second_factor_value.as_str())))
}

pub(super) fn story_response(story: Story, community: &CommunityId) -> v1::GetRecordHitResponse {
    let wire = |hit: crate::hit::Hit| hit.into_wire(community.to_string());
    v1::GetRecordHitResponse {
        hit: Some(record_hit(story.hit, community)),
        events: story.events.into_iter().map(event).collect(),
        others: story.others.into_iter().map(wire).collect(),
    }
}

fn event(event: HistoryEvent) -> v1::HitEvent {
    let state = |state| v1::HitState::from(state).into();
    let (factor, factor_value) = event.second_factor.unzip();
    let feedback = match event.feedback {
        None => v1::FeedbackState::Unspecified,
        Some(Feedback::Pending) => v1::FeedbackState::Pending,
        Some(Feedback::Taken) => v1::FeedbackState::Taken,
        Some(Feedback::Refused) => v1::FeedbackState::Refused,
    };
    v1::HitEvent {
        at: Some(to_timestamp(event.at)),
        hit_id: event.hit.as_bytes().to_vec().into(),
        from: event.from.map(state).unwrap_or_default(),
        to: state(event.to),
        person: event.person.unwrap_or_default(),
        reason: event.reason,
        second_factor: factor.map_or(0, |factor| v1::SecondFactor::from(factor).into()),
        second_factor_value: factor_value.unwrap_or_default(),
        feedback: feedback.into(),
    }
}

pub(super) fn record_hit(hit: RecordHit, community: &CommunityId) -> v1::RecordHit {
    let unverified_reason = match hit.verified {
        Some(_) => v1::UnverifiedReason::Unspecified,
        None => unverified_reason(hit.named),
    };
    v1::RecordHit {
        match_class: v1::MatchClass::from(hit.hit.policy.match_class()).into(),
        hit: Some(hit.hit.into_wire(community.to_string())),
        dataset: hit.dataset,
        record_id: hit.record_id,
        // The analyst sees the node's own record (workflow.md "Hit").
        canonical: hit
            .canonical
            .map(|canonical| canonical.expose().to_owned())
            .unwrap_or_default(),
        thread_id: hit.thread.as_bytes().to_vec().into(),
        state: v1::HitState::from(hit.state).into(),
        case_refs: hit.case_refs,
        record_removed: hit.record_removed,
        needs_second_factor: hit.needs_second_factor,
        feedback_pending: hit.feedback_pending,
        leaf_index: hit.verified.map(|(leaf, _)| leaf),
        verified_at: hit.verified.map(|(_, at)| to_timestamp(at)),
        unverified_reason: unverified_reason.into(),
    }
}

/// Why a hit is not verified.
const fn unverified_reason(named: Named) -> v1::UnverifiedReason {
    match named {
        Named::Otherwise => v1::UnverifiedReason::NamedOtherwise,
        Named::Nowhere => v1::UnverifiedReason::NotAnswered,
        Named::Unplaced => v1::UnverifiedReason::BatchUnplaced,
        Named::Unverified => v1::UnverifiedReason::BatchUnverified,
        Named::Verified => v1::UnverifiedReason::NotProved,
    }
}

/// The receipt of a hit or of a batch. That it is read is noted before it leaves.
pub(super) async fn receipt(
    app: &App,
    caller: &Caller,
    request: v1::GetReceiptRequest,
) -> Result<v1::GetReceiptResponse> {
    let why = Why::parse(&request.why)?;
    let (receipt, object, cases) = match request.entry {
        Some(Entry::HitId(bytes)) => {
            let hit = id("hit_id", &bytes, HitId::from_slice)?;
            let (receipt, cases) = app.hit_receipt(hit).await?;
            (receipt, hit.to_string(), cases)
        }
        Some(Entry::Batch(batch)) => {
            let session = id("session_id", &batch.session_id, SessionId::from_slice)?;
            let receipt = app.batch_receipt(session, batch.number).await?;
            let object = format!("batch {} of {session}", batch.number);
            (receipt, object, Vec::new())
        }
        None => return Err(Error::field("entry", "a hit or a batch")),
    };
    let why = why.or_cases(cases.iter().map(String::as_str));
    let action = "AnalystService/GetReceipt";
    app.note_access(caller, action, vec![object], &why).await?;
    Ok(v1::GetReceiptResponse {
        receipt: receipt.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_with_a_filter_that_makes_no_sense_is_refused() {
        let request = v1::ListRecordHitsRequest::default;
        let long = "c".repeat(MAX_CASE_REF + 1);
        for (request, code) in [
            (
                v1::ListRecordHitsRequest {
                    page_token: "17".into(),
                    ..request()
                },
                ErrorCode::CursorInvalid,
            ),
            (
                v1::ListRecordHitsRequest {
                    state: 99,
                    ..request()
                },
                ErrorCode::InvalidField,
            ),
            (
                v1::ListRecordHitsRequest {
                    case_ref: long,
                    ..request()
                },
                ErrorCode::InvalidField,
            ),
            (
                v1::ListRecordHitsRequest {
                    holder: "nobody".into(),
                    ..request()
                },
                ErrorCode::InvalidField,
            ),
        ] {
            assert_eq!(hit_filter(&request).expect_err("refused").code, code);
        }
        let all = hit_filter(&request()).expect("everything");
        assert!(all.case_ref.is_none() && all.since.is_none() && !all.with_removed);
    }

    #[test]
    fn a_second_factor_has_a_kind_and_a_decision_is_one() {
        let request = |decision, second_factor, value: &str| v1::ReviewHitRequest {
            decision,
            second_factor,
            second_factor_value: value.into(),
            ..Default::default()
        };
        assert!(decision(&request(0, 0, "")).is_err());
        assert!(decision(&request(9, 0, "")).is_err());
        let confirm = decision(&request(2, 0, "")).expect("one");
        assert_eq!(confirm, HitDecision::Confirm);
        assert!(second_factor(&request(2, 0, "NL 1")).is_err());
        assert!(second_factor(&request(2, 9, "NL 1")).is_err());
        let none = request(2, 0, "");
        assert_eq!(second_factor(&none).expect("none"), None);
        let document = request(2, 4, "NL 1");
        let given = second_factor(&document).expect("one");
        assert_eq!(given, Some((SecondFactor::Document, "NL 1")));
    }
}
