//! The access log at the door of the services: what is read is noted before it leaves.

use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use sotto_common::error::{Error, Result};
use sotto_common::ids::HitId;
use sotto_proto::convert::{timestamp, to_timestamp};
use sotto_proto::v1;

use crate::access::{AccessEntry, MAX_OBJECTS, Why};
use crate::app::App;
use crate::app::witness::evidence_response;
use crate::auth::Caller;
use crate::store::AccessFilter;

/// Entries that are read from the store at a time.
const PAGE: u32 = 64;
/// The longest name of a person in a filter, in bytes.
const MAX_PERSON: usize = 1024;

/// Notes that hits are told to a caller; without a reason of the caller's it is for their cases.
///
/// # Errors
/// Those of the store; the hits must then not be told.
pub(crate) async fn note_hits(
    app: &App,
    caller: &Caller,
    action: &str,
    hits: &[v1::RecordHit],
    why: &Why,
) -> Result<()> {
    let ids = hits.iter().filter_map(|hit| hit.hit.as_ref()).map(|hit| {
        let id = HitId::from_slice(&hit.hit_id);
        id.map(|id| id.to_string()).map_err(Error::internal)
    });
    let ids = ids.collect::<Result<Vec<_>>>()?;
    let cases = hits.iter().flat_map(|hit| &hit.case_refs);
    let why = why.or_cases(cases.map(String::as_str));
    app.note_access(caller, action, ids, &why).await.map(drop)
}

/// A stream of hits of which each is noted before it leaves; those that are ready are noted at
/// once.
pub(crate) fn watched(
    app: Arc<App>,
    caller: Caller,
    why: Why,
    events: impl Stream<Item = Result<v1::WatchRecordHitsResponse>> + Send + 'static,
) -> impl Stream<Item = Result<v1::WatchRecordHitsResponse>> + Send + 'static {
    let noted = events.ready_chunks(MAX_OBJECTS).then(move |chunk| {
        let (app, caller, why) = (Arc::clone(&app), caller.clone(), why.clone());
        async move {
            let events = chunk.iter().filter_map(|event| event.as_ref().ok());
            let hits: Vec<_> = events.filter_map(|event| event.hit.clone()).collect();
            let action = "AnalystService/WatchRecordHits";
            let noted = if hits.is_empty() {
                Ok(())
            } else {
                note_hits(&app, &caller, action, &hits, &why).await
            };
            match noted {
                Ok(()) => chunk,
                Err(error) => vec![Err(error)],
            }
        }
    });
    noted.map(stream::iter).flatten()
}

/// The entries that were asked for, up to the one that says that they were.
///
/// # Errors
/// `INVALID_FIELD`; those of the store.
pub(crate) async fn export(
    app: &Arc<App>,
    caller: &Caller,
    request: v1::ExportAccessLogRequest,
) -> Result<impl Stream<Item = Result<v1::ExportAccessLogResponse>> + Send + 'static> {
    let why = Why::required(&request.why)?;
    if request.person.len() > MAX_PERSON || request.person.chars().any(char::is_control) {
        let problem = "a SPIFFE ID, or oidc:<issuer>#<subject>";
        return Err(Error::field("person", problem));
    }
    let time = |field, at: Option<_>| at.map(|at| timestamp(field, Some(at))).transpose();
    let mut filter = AccessFilter {
        after: request.after,
        up_to: 0,
        since: time("since", request.since)?,
        until: time("until", request.until)?,
        person: (!request.person.is_empty()).then_some(request.person),
    };
    let action = "NodeAdminService/ExportAccessLog";
    let own = app
        .note_access(caller, action, asked(&filter), &why.or_cases([]))
        .await?;
    filter.up_to = own;
    let next = |(app, mut filter): (Arc<App>, AccessFilter)| async move {
        let page = match app.store.access_log(&filter, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                filter.after = filter.up_to;
                return Some((vec![Err(error)], (app, filter)));
            }
        };
        filter.after = page.last()?.number;
        let page = page.into_iter().map(|entry| Ok(response(entry)));
        Some((page.collect(), (app, filter)))
    };
    let pages = stream::unfold((Arc::clone(app), filter), next);
    Ok(pages.map(stream::iter).flatten())
}

/// The evidence against the audit log. That it is read is noted before it leaves: entries in it name
/// cases.
///
/// # Errors
/// Those of the store.
pub(crate) async fn list_evidence(
    app: &Arc<App>,
    caller: &Caller,
) -> Result<impl Stream<Item = Result<v1::ListEvidenceResponse>> + Send + 'static> {
    let why = Why::parse("")?.or_cases([]);
    let action = "NodeAdminService/ListEvidence";
    app.note_access(caller, action, Vec::new(), &why).await?;
    let next = |(app, after): (Arc<App>, Option<u64>)| async move {
        // A row at a time: each has two notes, of up to 512 KiB.
        let page = match app.store.evidence(after?, 1).await {
            Ok(page) => page,
            Err(error) => return Some((vec![Err(error)], (app, None))),
        };
        let last = page.last()?.number;
        let page = page.into_iter().map(evidence_response);
        Some((page.collect(), (app, Some(last))))
    };
    let rows = stream::unfold((Arc::clone(app), Some(0)), next);
    Ok(rows.map(stream::iter).flatten())
}

/// What an export reads, in the words of its filters; everything has none.
fn asked(filter: &AccessFilter) -> Vec<String> {
    let after = (filter.after > 0).then(|| format!("after {}", filter.after));
    let since = filter.since.map(|at| format!("since {at}"));
    let until = filter.until.map(|at| format!("until {at}"));
    let person = filter.person.as_ref().map(|person| format!("of {person}"));
    [after, since, until, person]
        .into_iter()
        .flatten()
        .collect()
}

fn response(entry: AccessEntry) -> v1::ExportAccessLogResponse {
    v1::ExportAccessLogResponse {
        number: entry.number,
        at: Some(to_timestamp(entry.access.at)),
        person: entry.access.person,
        action: entry.access.action,
        objects: entry.access.objects,
        why: entry.access.why,
        digest: entry.digest.to_vec().into(),
    }
}
