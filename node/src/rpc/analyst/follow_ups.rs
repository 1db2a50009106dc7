//! Follow-ups between the wire and the use cases. What is read is noted before it leaves.

use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::{FollowUpState, FollowUpStep, Party};
use sotto_common::ids::{AttachmentId, FollowUpId, HitId};
use sotto_common::secret::{Confidential, Secret};
use sotto_proto::convert::follow_up::code;
use sotto_proto::convert::{id, text, timestamp};
use sotto_proto::status::from_inbound;
use sotto_proto::v1;
use sotto_proto::v1::add_follow_up_attachment_request::Part;
use tonic::Streaming;

use super::{DEFAULT_PAGE, LARGEST_PAGE};
use crate::access::{MAX_OBJECTS, Why};
use crate::app::App;
use crate::app::follow_ups::attachments::{Announcement, UnfinishedFile};
use crate::auth::Caller;
use crate::follow_up::{LocalFollowUp, ProposalId};
use crate::store::{FollowUpFilter, StoredAttachment};

/// Most bytes in a chunk of a file that a person adds.
const MAX_CHUNK: usize = 1024 * 1024;

pub(super) fn follow_up_id(bytes: &[u8]) -> Result<FollowUpId> {
    id("follow_up_id", bytes, FollowUpId::from_slice)
}

fn attachment_id(bytes: &[u8]) -> Result<AttachmentId> {
    id("attachment_id", bytes, AttachmentId::from_slice)
}

fn proposal_id(bytes: &[u8]) -> Result<ProposalId> {
    ProposalId::from_slice(bytes).ok_or_else(|| Error::field("proposal_id", "expected 16 bytes"))
}

/// Notes that follow-ups are told to a caller; without a reason of the caller's for their cases.
async fn note<'a>(
    app: &App,
    caller: &Caller,
    action: &str,
    follow_ups: impl IntoIterator<Item = (FollowUpId, &'a str)>,
    why: &Why,
) -> Result<()> {
    let (ids, cases): (Vec<_>, Vec<_>) = follow_ups
        .into_iter()
        .map(|(id, case_ref)| (id.to_string(), case_ref))
        .unzip();
    let why = why.or_cases(cases);
    app.note_access(caller, action, ids, &why).await.map(drop)
}

async fn shown(
    app: &App,
    caller: &Caller,
    action: &str,
    follow_up: &LocalFollowUp,
) -> Result<Option<v1::NodeFollowUp>> {
    let told = [(follow_up.id, follow_up.case_ref.as_str())];
    note(app, caller, action, told, &Why::parse("")?).await?;
    follow_up.node_view(app.clock.now()).map(Some)
}

pub(super) async fn draft(
    app: &App,
    caller: &Caller,
    request: v1::DraftFollowUpRequest,
) -> Result<v1::DraftFollowUpResponse> {
    let hit = id("hit_id", &request.hit_id, HitId::from_slice)?;
    let draft = request.draft.unwrap_or_default();
    let drafted = app.draft_follow_up(caller, hit, draft, &request.case_ref);
    let (follow_up, related) = drafted.await?;
    let action = "AnalystService/DraftFollowUp";
    let known = app.store.record_hit(hit).await?;
    Ok(v1::DraftFollowUpResponse {
        follow_up: shown(app, caller, action, &follow_up).await?,
        related,
        unverified: known.is_some_and(|known| known.verified.is_none()),
    })
}

pub(super) async fn propose(
    app: &App,
    caller: &Caller,
    request: v1::ProposeFollowUpStepRequest,
) -> Result<v1::ProposeFollowUpStepResponse> {
    let id = follow_up_id(&request.follow_up_id)?;
    let step: FollowUpStep = code("step", request.step)?;
    let draft = request.draft.unwrap_or_default();
    let follow_up = app.propose_step(caller, id, step, draft).await?;
    let action = "AnalystService/ProposeFollowUpStep";
    Ok(v1::ProposeFollowUpStepResponse {
        follow_up: shown(app, caller, action, &follow_up).await?,
    })
}

pub(super) async fn approve(
    app: &App,
    caller: &Caller,
    request: v1::ApproveFollowUpStepRequest,
) -> Result<v1::ApproveFollowUpStepResponse> {
    let id = follow_up_id(&request.follow_up_id)?;
    let proposal = proposal_id(&request.proposal_id)?;
    let follow_up = app.approve_step(caller, id, proposal).await?;
    let action = "AnalystService/ApproveFollowUpStep";
    Ok(v1::ApproveFollowUpStepResponse {
        follow_up: shown(app, caller, action, &follow_up).await?,
    })
}

pub(super) async fn discard(
    app: &App,
    caller: &Caller,
    request: v1::DiscardFollowUpStepRequest,
) -> Result<v1::DiscardFollowUpStepResponse> {
    let id = follow_up_id(&request.follow_up_id)?;
    let proposal = proposal_id(&request.proposal_id)?;
    let discarded = app.discard_step(caller, id, proposal, &request.reason);
    let follow_up = discarded.await?;
    let action = "AnalystService/DiscardFollowUpStep";
    Ok(v1::DiscardFollowUpStepResponse {
        follow_up: shown(app, caller, action, &follow_up).await?,
    })
}

pub(super) async fn end(
    app: &App,
    caller: &Caller,
    request: v1::EndFollowUpRequest,
) -> Result<v1::EndFollowUpResponse> {
    let id = follow_up_id(&request.follow_up_id)?;
    let step: FollowUpStep = code("step", request.step)?;
    let follow_up = app.end_follow_up(caller, id, step).await?;
    let action = "AnalystService/EndFollowUp";
    Ok(v1::EndFollowUpResponse {
        follow_up: shown(app, caller, action, &follow_up).await?,
    })
}

pub(super) async fn list(
    app: &App,
    caller: &Caller,
    request: v1::ListNodeFollowUpsRequest,
) -> Result<v1::ListNodeFollowUpsResponse> {
    let why = Why::parse(&request.why)?;
    let size = match request.page_size {
        0 => DEFAULT_PAGE,
        size => size.min(LARGEST_PAGE),
    } as usize;
    let filter = filter(&request)?;
    // One more than asked for shows whether there is another page.
    let mut found = app.list_follow_ups(filter, request.to_do, size).await?;
    let more = found.len() > size;
    found.truncate(size);
    let last = found.last().filter(|_| more);
    let next_page_token = last.map(|f| f.id.to_string()).unwrap_or_default();
    let told = found.iter().map(|f| (f.id, f.case_ref.as_str()));
    note(app, caller, "AnalystService/ListNodeFollowUps", told, &why).await?;
    let now = app.clock.now();
    let views = found.iter().map(|follow_up| follow_up.node_view(now));
    Ok(v1::ListNodeFollowUpsResponse {
        follow_ups: views.collect::<Result<_>>()?,
        next_page_token,
    })
}

fn filter(request: &v1::ListNodeFollowUpsRequest) -> Result<FollowUpFilter> {
    let after = (!request.page_token.is_empty()).then(|| request.page_token.parse());
    let after = after.transpose().map_err(|_| {
        let text = "the page token was not given by this service";
        Error::new(ErrorCode::CursorInvalid, text)
    })?;
    let side = (request.side != 0).then(|| code::<Party>("side", request.side));
    let state = (request.state != 0).then(|| code::<FollowUpState>("state", request.state));
    let counterpart = &request.counterpart;
    let counterpart = (!counterpart.is_empty()).then(|| text("counterpart", counterpart));
    let hit = &request.hit_id;
    let hit = (!hit.is_empty()).then(|| id("hit_id", hit, HitId::from_slice));
    Ok(FollowUpFilter {
        side: side.transpose()?,
        state: state.transpose()?,
        counterpart: counterpart.transpose()?,
        hit: hit.transpose()?,
        after,
        ..FollowUpFilter::default()
    })
}

pub(super) async fn get(
    app: &App,
    caller: &Caller,
    request: v1::GetNodeFollowUpRequest,
) -> Result<v1::GetNodeFollowUpResponse> {
    let why = Why::parse(&request.why)?;
    let id = follow_up_id(&request.follow_up_id)?;
    // Noted first: reading it changes that it is unread.
    let follow_up = app.follow_up(id).await?;
    let told = [(id, follow_up.case_ref.as_str())];
    note(app, caller, "AnalystService/GetNodeFollowUp", told, &why).await?;
    app.follow_up_story(id, request.with_contents).await
}

pub(super) async fn figures(
    app: &App,
    caller: &Caller,
    request: v1::GetFollowUpFiguresRequest,
) -> Result<v1::GetFollowUpFiguresResponse> {
    let time = |field, at: Option<_>| at.map(|at| timestamp(field, Some(at))).transpose();
    let (from, to) = (time("from", request.from)?, time("to", request.to)?);
    let action = "AnalystService/GetFollowUpFigures";
    note(app, caller, action, [], &Why::parse("")?).await?;
    app.follow_up_figures(from, to).await
}

/// What happens, each event noted before it leaves; those that are ready are noted at once.
pub(super) fn watch(
    app: &Arc<App>,
    caller: Caller,
    request: &v1::WatchNodeFollowUpsRequest,
) -> Result<impl Stream<Item = Result<v1::WatchNodeFollowUpsResponse>> + Send + 'static> {
    let why = Why::parse(&request.why)?;
    let events = app.follow_follow_ups(request.cursor);
    let app = Arc::clone(app);
    let noted = events.ready_chunks(MAX_OBJECTS).then(move |chunk| {
        let (app, caller, why) = (Arc::clone(&app), caller.clone(), why.clone());
        async move {
            let told = chunk.iter().filter_map(|event| {
                let follow_up = event.as_ref().ok()?.follow_up.as_ref()?;
                let shared = follow_up.follow_up.as_ref()?;
                let id = FollowUpId::from_slice(&shared.follow_up_id).ok()?;
                Some((id, follow_up.case_ref.as_str()))
            });
            let told: Vec<_> = told.collect();
            let action = "AnalystService/WatchNodeFollowUps";
            let outcome = if told.is_empty() {
                Ok(())
            } else {
                note(&app, &caller, action, told, &why).await
            };
            match outcome {
                Ok(()) => chunk,
                Err(error) => vec![Err(error)],
            }
        }
    });
    Ok(noted.map(stream::iter).flatten())
}

pub(super) async fn add_attachment(
    app: &App,
    caller: &Caller,
    mut parts: Streaming<v1::AddFollowUpAttachmentRequest>,
) -> Result<v1::AddFollowUpAttachmentResponse> {
    let first = parts
        .message()
        .await
        .map_err(|status| from_inbound(&status))?;
    let Some(Part::Begin(begin)) = first.and_then(|first| first.part) else {
        return Err(Error::field(
            "begin",
            "the first message says what the file is",
        ));
    };
    let id = follow_up_id(&begin.follow_up_id)?;
    let chunks = parts.map(|part| {
        let part = part.map_err(|status| from_inbound(&status))?;
        match part.part {
            Some(Part::Chunk(chunk)) if (1..=MAX_CHUNK).contains(&chunk.len()) => Ok(chunk),
            _ => Err(Error::field("chunk", "1 byte to 1 MiB")),
        }
    });
    let file = Announcement {
        name: Confidential::new(begin.name),
        size: begin.size,
        content: content_digest(&begin.sha256)?,
    };
    let added = app.add_file(caller, id, &file, begin.offset, chunks.boxed());
    let added = added.await?;
    Ok(v1::AddFollowUpAttachmentResponse {
        attachment_id: added.as_bytes().to_vec().into(),
    })
}

/// The digest of a file, if it is told.
fn content_digest(bytes: &[u8]) -> Result<Option<Secret<32>>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let digest = Secret::from_slice(bytes);
    let digest = digest.ok_or_else(|| Error::field("sha256", "expected 32 bytes"))?;
    Ok(Some(digest))
}

pub(super) async fn list_attachments(
    app: &App,
    caller: &Caller,
    request: v1::ListFollowUpAttachmentsRequest,
) -> Result<v1::ListFollowUpAttachmentsResponse> {
    let why = Why::parse(&request.why)?;
    let known = app.follow_up(follow_up_id(&request.follow_up_id)?).await?;
    let files = app.given_files(&known).await?;
    let lost = app.lost_files(&files).await?;
    let unfinished = app.unfinished_files(caller, known.id);
    let told = [(known.id, known.case_ref.as_str())];
    let action = "AnalystService/ListFollowUpAttachments";
    note(app, caller, action, told, &why).await?;
    Ok(v1::ListFollowUpAttachmentsResponse {
        attachments: files
            .iter()
            .map(|file| attachment_view(file, lost.contains(&file.id)))
            .collect(),
        unfinished: unfinished.iter().map(unfinished_view).collect(),
    })
}

/// For whoever sent it: name and digest are told.
fn unfinished_view(unfinished: &UnfinishedFile) -> v1::UnfinishedAttachment {
    let file = &unfinished.file;
    let content = file.content.as_ref();
    let content = content.map(|digest| digest.expose().to_vec());
    v1::UnfinishedAttachment {
        name: file.name.expose().to_owned(),
        size: file.size,
        sha256: content.unwrap_or_default().into(),
        acknowledged: unfinished.acknowledged,
    }
}

/// For the unit's own people: name and digest are told.
fn attachment_view(file: &StoredAttachment, bytes_missing: bool) -> v1::NodeFollowUpAttachment {
    let content = file.content_digest.as_ref();
    let content = content.map(|digest| digest.expose().to_vec());
    v1::NodeFollowUpAttachment {
        attachment_id: file.id.as_bytes().to_vec().into(),
        name: file.name.expose().to_owned(),
        size: file.size,
        sha256: content.unwrap_or_default().into(),
        at_broker: file.uploaded,
        bytes_missing,
    }
}

/// Takes a file out of an answer. Who did it is noted first: afterwards nothing else tells of it.
pub(super) async fn remove_attachment(
    app: &App,
    caller: &Caller,
    request: v1::RemoveFollowUpAttachmentRequest,
) -> Result<v1::RemoveFollowUpAttachmentResponse> {
    let follow_up = follow_up_id(&request.follow_up_id)?;
    let file = attachment_id(&request.attachment_id)?;
    let known = app.follow_up(follow_up).await?;
    let action = "AnalystService/RemoveFollowUpAttachment";
    let objects = vec![format!("{follow_up}/{file}")];
    let why = Why::parse("")?.or_cases([known.case_ref.as_str()]);
    app.note_access(caller, action, objects, &why).await?;
    app.take_file_out(caller, follow_up, file).await?;
    Ok(v1::RemoveFollowUpAttachmentResponse {})
}

/// A file in clear. That it is read is noted before it is fetched.
pub(super) async fn read_attachment(
    app: &App,
    caller: &Caller,
    request: v1::ReadFollowUpAttachmentRequest,
) -> Result<impl Stream<Item = Result<v1::ReadFollowUpAttachmentResponse>> + Send + 'static> {
    let why = Why::parse(&request.why)?;
    let follow_up = follow_up_id(&request.follow_up_id)?;
    let file = attachment_id(&request.attachment_id)?;
    let known = app.follow_up(follow_up).await?;
    let action = "AnalystService/ReadFollowUpAttachment";
    let objects = vec![format!("{follow_up}/{file}")];
    let why = why.or_cases([known.case_ref.as_str()]);
    app.note_access(caller, action, objects, &why).await?;
    let opened = app.open_file(follow_up, file).await?;
    let first = v1::ReadFollowUpAttachmentResponse {
        description: Some(v1::AttachmentDescription {
            follow_up_id: request.follow_up_id,
            name: opened.name.clone(),
            size: opened.size,
            ..Default::default()
        }),
        chunk: prost::bytes::Bytes::new(),
    };
    let segments = opened.segments().map(|segment| {
        segment.map(|bytes| v1::ReadFollowUpAttachmentResponse {
            description: None,
            chunk: bytes.to_vec().into(),
        })
    });
    Ok(stream::iter([Ok(first)]).chain(segments))
}

/// Everything of a follow-up. That it is read is noted before anything leaves.
pub(super) async fn export(
    app: &Arc<App>,
    caller: &Caller,
    request: v1::ExportFollowUpRequest,
) -> Result<impl Stream<Item = Result<v1::ExportFollowUpResponse>> + Send + 'static> {
    let why = Why::required(&request.why)?;
    let id = follow_up_id(&request.follow_up_id)?;
    let known = app.follow_up(id).await?;
    let told = [(id, known.case_ref.as_str())];
    note(app, caller, "AnalystService/ExportFollowUp", told, &why).await?;
    app.export_follow_up(id, request.with_attachments).await
}

#[cfg(test)]
mod tests;
