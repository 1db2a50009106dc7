//! What a person drafts, and what another would approve with it: everything is checked here before
//! anybody reads it, and again when it is approved.

use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::codes::{Item, TimeLimit};
use sotto_common::followup::content::{Answer, Particulars, check_message, check_outcomes};
use sotto_common::followup::step::{AttachmentDigest, StepClear, StepDetail, Terms};
use sotto_common::followup::{FollowUpState, FollowUpStep, Party};
use sotto_common::grounds::MAX_CASE_REF;
use sotto_common::hit::HitState;
use sotto_common::ids::{FollowUpId, HitId};
use sotto_common::random::os_rng;
use sotto_common::secret::{Confidential, Tag};
use sotto_common::time::Timestamp;
use sotto_proto::convert::MAX_STATEMENT;
use sotto_proto::v1;

use super::super::App;
use super::{Prepared, encoded, mismatch};
use crate::auth::Caller;
use crate::follow_up::{LocalFollowUp, News, OwnRecord, Presence, Proposal, ProposalId};
use crate::store::{RecordHit, StoredAttachment};

/// Most characters in the reason for taking a proposal back.
const MAX_REASON: usize = 1000;
/// Room in a statement for what stands around the sealed part.
const STATEMENT_FRAME: usize = 32 * 1024;

impl App {
    /// Drafts a follow-up of a confirmed hit; tells it, and the open ones on the same selector.
    ///
    /// # Errors
    /// `HIT_UNKNOWN`; `ILLEGAL_TRANSITION` if the hit is not CONFIRMED or its record is gone;
    /// `FORM_INCOMPLETE`, naming the fields; `INVALID_FIELD`; `LOG_INCONSISTENT`.
    pub(crate) async fn draft_follow_up(
        &self,
        caller: &Caller,
        hit: HitId,
        draft: v1::FollowUpDraft,
        case_ref: &str,
    ) -> Result<(LocalFollowUp, Vec<v1::RelatedFollowUp>)> {
        self.check_log().await?;
        let case_ref = case_ref.trim();
        if !(1..=MAX_CASE_REF).contains(&case_ref.chars().count())
            || case_ref.chars().any(char::is_control)
        {
            let text = format!("1 to {MAX_CASE_REF} characters, no control characters");
            return Err(Error::field("case_ref", text));
        }
        let record = self.confirmed_hit(hit).await?;
        let canonical = record.canonical.clone().ok_or_else(record_gone)?;
        let now = self.clock.now();
        let mut follow_up = LocalFollowUp {
            id: FollowUpId::generate(now, &mut os_rng()),
            side: Party::Requester,
            hit,
            community: self.community.clone(),
            own: self.node.clone(),
            counterpart: record.hit.holder.clone(),
            epoch: record.hit.epoch,
            policy: record.hit.policy,
            filter_version: record.hit.filter_version,
            matched_at: record.hit.last_seen,
            case_ref: case_ref.to_owned(),
            canonical: Some(canonical),
            records: vec![OwnRecord {
                dataset: record.dataset,
                record_id: record.record_id,
            }],
            particulars: None,
            presence: Presence::Open,
            alarm: String::new(),
            unread: false,
            begun_at: now,
            withdrawn_at: None,
            closed_by_time: None,
            erased_at: None,
            steps: Vec::new(),
            proposal: None,
            news: Vec::new(),
            refused: Vec::new(),
        };
        let step = FollowUpStep::Submit;
        let proposal = self.propose_on(&follow_up, caller, step, draft, &[])?;
        follow_up.proposal = Some(proposal);
        follow_up.news.push(News::Proposed(step));
        let cursor = self.store.put_follow_up(&follow_up, now).await?;
        self.follow_ups_changed(cursor);
        let related = self.related(&follow_up).await?;
        Ok((follow_up, related))
    }

    /// A hit that can be followed up.
    pub(super) async fn confirmed_hit(&self, hit: HitId) -> Result<RecordHit> {
        let record = self.store.record_hit(hit).await?;
        let record =
            record.ok_or_else(|| Error::new(ErrorCode::HitUnknown, "there is no such hit here"))?;
        if record.hit.state != HitState::Confirmed {
            let text = format!(
                "a follow-up is of a hit that is CONFIRMED; this one is {}",
                record.hit.state
            );
            return Err(Error::new(ErrorCode::IllegalTransition, text));
        }
        Ok(record)
    }

    /// Proposes the next step of a follow-up, in place of what was proposed before.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`, `FOLLOW_UP_MISMATCH`, `ILLEGAL_TRANSITION`, `FORM_INCOMPLETE`,
    /// `INVALID_FIELD`, `LOG_INCONSISTENT`; `ATTACHMENT_STATE` for an answer with a file whose bytes are
    /// missing.
    pub(crate) async fn propose_step(
        &self,
        caller: &Caller,
        id: FollowUpId,
        step: FollowUpStep,
        draft: v1::FollowUpDraft,
    ) -> Result<LocalFollowUp> {
        self.check_log().await?;
        if !step.needs_four_eyes() {
            let text = "a step that one person drafts and another approves";
            return Err(Error::field("step", text));
        }
        if step == FollowUpStep::Answer {
            self.check_files(id).await?;
        }
        let propose = |f: &mut LocalFollowUp, files: &[StoredAttachment]| {
            let proposal = self.propose_on(f, caller, step, draft.clone(), files)?;
            f.proposal = Some(proposal);
            f.news.push(News::Proposed(step));
            Ok(())
        };
        self.change_with_files(id, None, &propose).await
    }

    fn propose_on(
        &self,
        follow_up: &LocalFollowUp,
        caller: &Caller,
        step: FollowUpStep,
        mut draft: v1::FollowUpDraft,
        files: &[StoredAttachment],
    ) -> Result<Proposal> {
        fill_in(follow_up, step, &mut draft, files);
        let now = self.clock.now();
        check(follow_up, step, &draft, files, now)?;
        let mut drafters: Vec<_> = caller.identities.iter().cloned().collect();
        if step == FollowUpStep::Answer {
            // Whoever gave a file has drafted, too (workflow.md "Four eyes").
            drafters.extend(files.iter().flat_map(|file| &file.given_by).cloned());
            drafters.sort_unstable();
            drafters.dedup();
        }
        Ok(Proposal {
            id: ProposalId::generate(now, &mut os_rng()),
            step,
            draft,
            drafters,
            drafted_by: caller.person.clone(),
            drafted_at: now,
        })
    }

    /// Takes a proposal back, with a reason for whoever made it.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`; `FOLLOW_UP_MISMATCH` if it is not what waits; `INVALID_FIELD` without
    /// a reason.
    pub(crate) async fn discard_step(
        &self,
        caller: &Caller,
        id: FollowUpId,
        proposal: ProposalId,
        reason: &str,
    ) -> Result<LocalFollowUp> {
        let reason = reason.trim();
        let fits = (1..=MAX_REASON).contains(&reason.chars().count());
        if !fits || reason.chars().any(|c| c.is_control() && c != '\n') {
            let text = format!("1 to {MAX_REASON} characters: why it is taken back");
            return Err(Error::field("reason", text));
        }
        let discard = |f: &mut LocalFollowUp| {
            let waits = f.proposal.take_if(|waits| waits.id == proposal);
            let waits =
                waits.ok_or_else(|| mismatch("this proposal does not wait here any more"))?;
            let (person, reason) = (caller.person.clone(), reason.to_owned());
            f.news.push(News::Discarded(waits.step, person, reason));
            Ok(())
        };
        let discarded = self.change(id, &discard).await?;
        if discarded.state()? == FollowUpState::Accepted && !discarded.is_pending() {
            // The next answer begins without the files of this one.
            self.drop_files(id).await?;
        }
        Ok(discarded)
    }

    /// Takes a request back, or closes it.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`, `FOLLOW_UP_MISMATCH`, `ILLEGAL_TRANSITION`; `INVALID_FIELD` for another
    /// step.
    pub(crate) async fn end_follow_up(
        &self,
        caller: &Caller,
        id: FollowUpId,
        step: FollowUpStep,
    ) -> Result<LocalFollowUp> {
        let detail = match step {
            FollowUpStep::Withdraw => StepDetail::Withdraw,
            FollowUpStep::Close => StepDetail::Close,
            _ => return Err(Error::field("step", "WITHDRAW or CLOSE")),
        };
        let before = self.follow_up(id).await?;
        before.check_turn(step)?;
        let now = self.clock.now();
        if before.steps.is_empty() {
            // Nothing of a draft ever left: it is taken back here alone.
            let withdraw = |f: &mut LocalFollowUp| {
                f.check_turn(step)?;
                if step == FollowUpStep::Close {
                    let text = "a draft never left: it is over once it is withdrawn";
                    return Err(Error::new(ErrorCode::IllegalTransition, text));
                }
                if !f.steps.is_empty() {
                    return Err(mismatch("the draft was approved meanwhile"));
                }
                (f.withdrawn_at, f.proposal) = (Some(now), None);
                f.news.push(News::Step(step));
                Ok(())
            };
            return self.change(id, &withdraw).await;
        }
        let peer = self.peer(before.epoch, &before.counterpart).await?;
        let end = |f: &mut LocalFollowUp| {
            let prepared = Prepared {
                detail: detail.clone(),
                content: None,
            };
            let by = (caller.person.as_str(), caller.person.as_str());
            let signed = self.sign_step(f, &peer, prepared, by, now)?;
            f.push_own(signed)?;
            f.proposal = None;
            f.alarm.clear();
            Ok(())
        };
        self.change(id, &end).await
    }
}

pub(super) fn record_gone() -> Error {
    Error::new(
        ErrorCode::IllegalTransition,
        "the node's own record behind the hit was removed: it cannot be followed up",
    )
}

/// Fills in what is the node's to say: the selector, and the names of files.
pub(super) fn fill_in(
    follow_up: &LocalFollowUp,
    step: FollowUpStep,
    draft: &mut v1::FollowUpDraft,
    files: &[StoredAttachment],
) {
    match step {
        FollowUpStep::Submit => {
            // To be sealed at rest, and to the holder on HELD alone.
            let canonical = follow_up.canonical.as_ref();
            let selector = canonical.map(|c| c.expose().to_owned());
            draft.particulars.get_or_insert_default().selector = selector.unwrap_or_default();
        }
        FollowUpStep::Answer => {
            let answer = draft.answer.get_or_insert_default();
            answer.file_names = files.iter().map(file_name).collect();
        }
        _ => {}
    }
}

fn file_name(file: &StoredAttachment) -> v1::AttachmentName {
    v1::AttachmentName {
        attachment_id: file.id.as_bytes().to_vec().into(),
        name: file.name.expose().to_owned(),
    }
}

/// Whether a draft can become a step as the follow-up stands.
fn check(
    follow_up: &LocalFollowUp,
    step: FollowUpStep,
    draft: &v1::FollowUpDraft,
    files: &[StoredAttachment],
    now: Timestamp,
) -> Result<()> {
    follow_up.check_turn(step)?;
    // A tag of nothing, as long as one: the real one is made when the step is signed.
    let prepared = prepare(follow_up, step, draft, files, Tag::new([0; 16]))?;
    if prepared
        .content
        .as_ref()
        .is_some_and(|c| c.len() > MAX_STATEMENT - STATEMENT_FRAME)
    {
        let text = "the texts are too long together: send long ones as files";
        return Err(Error::field("draft", text));
    }
    let clear = follow_up.next_clear(prepared.detail, now)?;
    match follow_up.ahead()? {
        Some(ahead) => ahead.apply(&clear, [0; 32], now).map(drop),
        None => Ok(()),
    }
}

fn incomplete(what: &str, fields: &[String]) -> Result<()> {
    if fields.is_empty() {
        return Ok(());
    }
    let fields = fields.join(", ");
    let text = format!("{what} does not leave yet; missing: {fields}");
    Err(Error::new(ErrorCode::FormIncomplete, text).about(fields))
}

/// Makes what is signed and sealed out of a draft.
///
/// # Errors
/// `FORM_INCOMPLETE`, naming every field that is missing; `INVALID_FIELD`, also for a field that
/// the step does not have: it would be read by the approver, and not leave.
pub(super) fn prepare(
    follow_up: &LocalFollowUp,
    step: FollowUpStep,
    draft: &v1::FollowUpDraft,
    files: &[StoredAttachment],
    tag: Tag,
) -> Result<Prepared> {
    refuse_fields_of_other_steps(step, draft)?;
    if step == FollowUpStep::Submit {
        let (terms, _) = request(draft)?;
        let request = v1::FollowUpRequest {
            // To be sealed to the holder (protocol §10).
            tags: vec![tag.expose().to_vec().into()],
        };
        return Ok(Prepared {
            detail: StepDetail::Submit(terms),
            content: Some(encoded(&request)),
        });
    }
    let ahead = follow_up.ahead()?;
    let terms = ahead
        .map(|f| f.terms)
        .ok_or_else(|| mismatch("nothing was asked yet"))?;
    let content = match step {
        FollowUpStep::RequestClarification
        | FollowUpStep::Reply
        | FollowUpStep::AwaitJudicialAuthorisation => Some(message(&draft.message)?),
        FollowUpStep::Refuse if !draft.message.trim().is_empty() => Some(message(&draft.message)?),
        _ => None,
    };
    if step == FollowUpStep::AwaitJudicialAuthorisation && draft.new_date.is_none() {
        incomplete("the delay", &["new_date".into()])?;
    }
    let outcomes_due = matches!(step, FollowUpStep::Refuse | FollowUpStep::Answer);
    if outcomes_due && draft.outcomes.is_empty() {
        incomplete("the answer", &["outcomes".into()])?;
    }
    let answer = draft
        .answer
        .clone()
        .filter(|_| step == FollowUpStep::Answer);
    if let Some(answer) = &answer {
        incomplete("the answer", &missing_codes(answer))?;
    }
    let answer = answer.map(Answer::try_from).transpose()?;
    let detail = detail(follow_up, step, draft, answer.as_ref(), files)?;
    match (&detail, &answer) {
        (StepDetail::Refuse(outcomes), _) => check_outcomes(&terms, outcomes)?,
        (StepDetail::Answer(clear), Some(answer)) => answer.check(&terms, clear)?,
        _ => {}
    }
    let answer = answer.map(|answer| encoded(&v1::FollowUpAnswer::from(&answer)));
    Ok(Prepared {
        detail,
        content: content.or(answer),
    })
}

/// The terms and particulars of a request.
pub(super) fn request(draft: &v1::FollowUpDraft) -> Result<(Terms, Particulars)> {
    let terms = draft.terms.clone().unwrap_or_default();
    let particulars = Particulars::from(draft.particulars.clone().unwrap_or_default());
    let mut missing = Vec::new();
    for (field, is_missing) in [
        ("time_limit", terms.time_limit == 0),
        ("offence_code", terms.offence_code.is_empty()),
        ("items", terms.items.is_empty()),
    ] {
        if is_missing {
            missing.push(field.to_owned());
        }
    }
    if !missing.is_empty() {
        // Everything that is missing is named at once.
        let any = Terms::new(TimeLimit::Ordinary, None, "any", vec![Item::Identity])?;
        missing.extend(particulars.missing(&any).into_iter().map(str::to_owned));
        incomplete("the request", &missing)?;
    }
    let terms = Terms::try_from(&terms)?;
    particulars.check(&terms)?;
    Ok((terms, particulars))
}

fn message(text: &str) -> Result<zeroize::Zeroizing<Vec<u8>>> {
    check_message(&Confidential::new(text))?;
    Ok(encoded(&v1::FollowUpMessage { text: text.into() }))
}

/// The codes of items that are not given: none of them has a default.
fn missing_codes(answer: &v1::FollowUpAnswer) -> Vec<String> {
    let mut missing = Vec::new();
    for item in &answer.items {
        let name = item.item().as_str_name();
        let name = name.trim_start_matches("FOLLOW_UP_ITEM_");
        for (field, is_missing) in [
            ("item", item.item == 0),
            ("handling_code", item.handling_code == 0),
            ("source_evaluation", item.source_evaluation == 0),
            ("information_evaluation", item.information_evaluation == 0),
            ("tlp", item.tlp == 0),
            ("nature", item.nature == 0),
            ("retain_until", item.retain_until.is_none()),
        ] {
            if is_missing {
                missing.push(format!("{field} of {name}"));
            }
        }
    }
    missing
}

/// What the step says in the clear, read by the same rules as one that comes.
fn detail(
    follow_up: &LocalFollowUp,
    step: FollowUpStep,
    draft: &v1::FollowUpDraft,
    answer: Option<&Answer>,
    files: &[StoredAttachment],
) -> Result<StepDetail> {
    let digest = |file: &StoredAttachment| AttachmentDigest {
        id: file.id,
        digest: file.digest,
    };
    let attachments = files
        .iter()
        .map(digest)
        .filter(|_| step == FollowUpStep::Answer);
    let attachments = attachments.map(|attachment| v1::AttachmentDigest {
        attachment_id: attachment.id.as_bytes().to_vec().into(),
        digest: attachment.digest.to_vec().into(),
    });
    let handling = answer.map(|answer| v1::HandlingCode::from(answer.strictest_handling()));
    let wire = v1::FollowUpClear {
        community: follow_up.community.to_string(),
        follow_up_id: follow_up.id.as_bytes().to_vec().into(),
        hit_id: follow_up.hit.as_bytes().to_vec().into(),
        seq: 0,
        previous: vec![0; 32].into(),
        step: v1::FollowUpStep::from(step).into(),
        sender: follow_up.own.to_string(),
        recipient: follow_up.counterpart.to_string(),
        made_at: Some(prost_types::Timestamp::default()),
        state: v1::FollowUpState::Draft.into(),
        terms: None,
        outcomes: draft.outcomes.clone(),
        new_date: draft.new_date,
        handling_code: handling.unwrap_or_default().into(),
        attachments: attachments.collect(),
    };
    Ok(StepClear::try_from(wire)?.detail)
}

fn refuse_fields_of_other_steps(step: FollowUpStep, draft: &v1::FollowUpDraft) -> Result<()> {
    use FollowUpStep as S;
    let asks = step == S::Submit;
    let tells = matches!(
        step,
        S::RequestClarification | S::Reply | S::AwaitJudicialAuthorisation | S::Refuse
    );
    for (field, given, allowed) in [
        ("terms", draft.terms.is_some(), asks),
        ("particulars", draft.particulars.is_some(), asks),
        (
            "outcomes",
            !draft.outcomes.is_empty(),
            matches!(step, S::Refuse | S::Answer),
        ),
        (
            "new_date",
            draft.new_date.is_some(),
            step == S::AwaitJudicialAuthorisation,
        ),
        ("message", !draft.message.is_empty(), tells),
        ("answer", draft.answer.is_some(), step == S::Answer),
    ] {
        if given && !allowed {
            return Err(Error::field(field, format!("{step} does not carry it")));
        }
    }
    Ok(())
}
