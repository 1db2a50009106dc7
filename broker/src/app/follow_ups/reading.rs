//! How parties read their follow-ups: one, a list, a stream.

use scoped_futures::ScopedFutureExt as _;
use sha2::{Digest as _, Sha256};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, FollowUpId, NodeId};
use sotto_common::time::Timestamp;
use tokio::sync::watch;

use super::unknown;
use crate::app::{Broker, enrolled};
use crate::datastore::{FollowUpEvent, FollowUpFilter, FollowUpRecord, Signal, StepRecord, Tx};

/// A page of follow-ups.
pub(crate) struct FollowUpPage {
    pub(crate) records: Vec<FollowUpRecord>,
    pub(crate) next: Option<String>,
    pub(crate) now: Timestamp,
}

/// An event of a node's stream, with the follow-up as it stands now.
pub(crate) struct EventView {
    pub(crate) cursor: u64,
    pub(crate) record: FollowUpRecord,
    pub(crate) event: FollowUpEvent,
    /// The step, if the event is one.
    pub(crate) step: Option<StepRecord>,
    pub(crate) now: Timestamp,
}

impl Broker {
    /// Party: one follow-up with its steps.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`, `FOLLOW_UP_UNKNOWN`.
    pub(crate) async fn follow_up(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        id: FollowUpId,
    ) -> Result<(FollowUpRecord, Vec<StepRecord>, Timestamp)> {
        let now = self.now();
        self.store
            .read_tx("get_follow_up", |tx| {
                async move {
                    let record = own_follow_up(tx, caller, community, id).await?;
                    Ok((record, tx.get_steps(id).await?, now))
                }
                .scope_boxed()
            })
            .await
    }

    /// Node: the follow-ups that it is a party to, those submitted first first.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`, `CURSOR_INVALID` for a token of another list.
    pub(crate) async fn follow_ups(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        filter: &FollowUpFilter,
        token: &str,
        size: u32,
    ) -> Result<FollowUpPage> {
        let digest = list_digest(caller, community, filter);
        let after = read_token(digest, token)?;
        let mut records = self
            .store
            .read_tx("list_follow_ups", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    tx.get_follow_ups(community, caller, filter, after, size + 1)
                        .await
                }
                .scope_boxed()
            })
            .await?;
        let more = records.len() > size as usize;
        records.truncate(size as usize);
        let last = records.last().filter(|_| more);
        let next = last.map(|last| write_token(digest, last));
        let now = self.now();
        Ok(FollowUpPage { records, next, now })
    }

    /// Node: the events of its stream after `cursor`, at most `limit`.
    ///
    /// # Errors
    /// `NOT_A_MEMBER`, `CURSOR_INVALID` for a cursor that was never given out.
    pub(crate) async fn follow_up_events(
        &self,
        caller: &NodeId,
        community: &CommunityId,
        cursor: u64,
        limit: u32,
    ) -> Result<Vec<EventView>> {
        let now = self.now();
        self.store
            .read_tx("follow_up_events", |tx| {
                async move {
                    enrolled(tx, community, caller).await?;
                    let events = tx
                        .get_follow_up_events(community, caller, cursor, limit)
                        .await?;
                    if events.is_empty()
                        && tx.get_last_follow_up_cursor(community, caller).await? < cursor
                    {
                        let text = "this cursor was never given out: begin again at 0";
                        return Err(Error::new(ErrorCode::CursorInvalid, text));
                    }
                    let mut views = Vec::with_capacity(events.len());
                    for event in events {
                        let step = match event.event {
                            FollowUpEvent::Step(seq) => tx.get_step(event.follow_up, seq).await?,
                            _ => None,
                        };
                        let record = tx.get_follow_up(event.follow_up).await?;
                        views.push(EventView {
                            cursor: event.cursor,
                            record: record.ok_or_else(unknown)?,
                            event: event.event,
                            step,
                            now,
                        });
                    }
                    Ok(views)
                }
                .scope_boxed()
            })
            .await
    }

    /// Changes whenever an event of a follow-up has been committed.
    pub(crate) fn follow_up_signal(&self) -> watch::Receiver<()> {
        self.store.wakeups().listen(Signal::FollowUps)
    }
}

/// A follow-up that the caller is a party to.
///
/// # Errors
/// `NOT_A_MEMBER`, `FOLLOW_UP_UNKNOWN`.
pub(super) async fn own_follow_up(
    tx: &mut (dyn Tx + '_),
    caller: &NodeId,
    community: &CommunityId,
    id: FollowUpId,
) -> Result<FollowUpRecord> {
    enrolled(tx, community, caller).await?;
    let known = tx.get_follow_up(id).await?;
    known
        .filter(|record| {
            record.key.community == *community && record.follow_up.side_of(caller).is_some()
        })
        .ok_or_else(unknown)
}

/// A token is the digest of caller, community and filters, and time and id of the last follow-up of
/// its page, in hex.
fn write_token(digest: [u8; 8], last: &FollowUpRecord) -> String {
    let submitted = last.follow_up.milestones.submitted;
    let at = submitted.map_or(0, Timestamp::micros).to_be_bytes();
    hex::encode([&digest[..], &at, last.follow_up.id.as_bytes()].concat())
}

fn read_token(digest: [u8; 8], token: &str) -> Result<Option<(Timestamp, FollowUpId)>> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = hex::decode(token).ok();
    let last = bytes.and_then(|bytes| {
        let rest = bytes.strip_prefix(&digest)?;
        let (at, id) = rest.split_first_chunk()?;
        let at = Timestamp::from_micros(i64::from_be_bytes(*at));
        Some((at, FollowUpId::from_slice(id).ok()?))
    });
    last.map(Some).ok_or_else(|| {
        let text = "the token is not of a page of this list: begin again without one";
        Error::new(ErrorCode::CursorInvalid, text).about("page_token")
    })
}

fn list_digest(caller: &NodeId, community: &CommunityId, filter: &FollowUpFilter) -> [u8; 8] {
    let digest = Sha256::digest(format!("{caller} {community} {filter:?}"));
    let mut short = [0; 8];
    short.copy_from_slice(&digest[..8]);
    short
}
