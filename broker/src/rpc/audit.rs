//! `AuditService`: every reading is logged before it is answered.

use std::sync::Arc;

use sotto_common::error::{Error, Result};
use sotto_common::ids::{CommunityId, FollowUpId};
use sotto_proto::convert::{id, text, timestamp};
use sotto_proto::status::to_status;
use sotto_proto::v1;
use sotto_proto::v1::audit_service_server::AuditService;
use tonic::{Request, Response, Status};

use super::log::entry_of;
use super::membership::answer;
use super::{Answers, Api, AsyncAnswers, Sender, auditor};
use crate::app::Broker;
use crate::audit::export::Head;
use crate::datastore::EntryFilter;

const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;

#[tonic::async_trait]
impl AuditService for Api {
    type ExportEntriesStream = Answers<v1::ExportEntriesResponse>;

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<v1::ListEntriesResponse>, Status> {
        answer!({
            let peer = auditor(&request)?;
            let message = request.into_inner();
            let community = text("community", &message.community)?;
            let filter = filter_of(&message)?;
            let case_ref = Some(message.case_ref.as_str()).filter(|case| !case.is_empty());
            let size = match message.page_size {
                0 => DEFAULT_PAGE,
                n => n.min(MAX_PAGE),
            };
            let call = "AuditService/ListEntries";
            self.log_read(peer.spiffe(), &community, call).await?;
            let page = self
                .broker
                .list_entries(&community, &filter, case_ref, &message.page_token, size)
                .await?;
            Ok(v1::ListEntriesResponse {
                entries: page.entries.into_iter().map(entry_of).collect(),
                next_page_token: page.next.unwrap_or_default(),
            })
        })
    }

    async fn export_entries(
        &self,
        request: Request<v1::ExportEntriesRequest>,
    ) -> Result<Response<Self::ExportEntriesStream>, Status> {
        answer!({
            let peer = auditor(&request)?;
            let message = request.into_inner();
            let community: CommunityId = text("community", &message.community)?;
            let next = message.from_index;
            let call = "AuditService/ExportEntries";
            self.log_read(peer.spiffe(), &community, call).await?;
            // Refusals come before the stream begins.
            let head = self.broker.export_head(&community, next).await?;
            let export = Export {
                broker: Arc::clone(&self.broker),
                community,
                next,
                end: head.size,
                head: Head {
                    note: head.note.into(),
                    manifests: head.manifests,
                },
            };
            Ok(self.stream(peer, export))
        })
    }
}

struct Export {
    broker: Arc<Broker>,
    community: CommunityId,
    next: u64,
    end: u64,
    head: Head,
}

impl AsyncAnswers<v1::ExportEntriesResponse> for Export {
    async fn run(mut self, answers: Sender<v1::ExportEntriesResponse>) -> Result<()> {
        for message in self.head.into_messages() {
            if !answers.send(message).await {
                return Ok(());
            }
        }
        while self.next < self.end {
            let part = self
                .broker
                .export_part(&self.community, self.next, self.end)
                .await?;
            self.next += part.len() as u64;
            let answer = v1::ExportEntriesResponse {
                entries: part.into_iter().map(entry_of).collect(),
                ..Default::default()
            };
            if !answers.send(answer).await {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn filter_of(message: &v1::ListEntriesRequest) -> Result<EntryFilter> {
    let kind = v1::EntryKind::try_from(message.kind)
        .map_err(|_| Error::field("kind", "not a kind of entries"))?;
    let verb = v1::Verb::try_from(message.verb).map_err(|_| Error::field("verb", "not a verb"))?;
    let since = message.since.map(|since| timestamp("since", Some(since)));
    let until = message.until.map(|until| timestamp("until", Some(until)));
    let node = (!message.node.is_empty()).then(|| text("node", &message.node));
    let follow_up = (!message.follow_up_id.is_empty()).then(|| {
        id(
            "follow_up_id",
            &message.follow_up_id,
            FollowUpId::from_slice,
        )
    });
    Ok(EntryFilter {
        since: since.transpose()?,
        until: until.transpose()?,
        node: node.transpose()?,
        kind: kind.domain(),
        verb: verb.domain(),
        follow_up: follow_up.transpose()?,
    })
}
