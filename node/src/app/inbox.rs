//! The broker's stream of this node's hits, stored with its cursor (protocol §7).

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _};
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::random::os_rng;
use sotto_proto::v1;
use tokio::sync::watch;
use tracing::{info, warn};

use super::App;
use crate::broker::{Backoff, refusal};
use crate::hit::Hit;
use crate::store::RecordHit;

/// Hits that are read from the store at a time.
const PAGE: u32 = 256;
/// Events of the broker's stream that are stored at a time.
const MOST_EVENTS: usize = 512;

/// Follows the broker's stream for as long as the node runs.
pub(crate) fn keep_watching(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let mut backoff = Backoff::default();
        let mut told = None;
        loop {
            let Err(error) = app.watch_hits(&mut backoff).await else {
                // An orderly end: the hour of the connection, or the broker restarts.
                told = None;
                tokio::time::sleep(backoff.pause(&mut os_rng())).await;
                continue;
            };
            if error.code == ErrorCode::CursorInvalid {
                // The broker's store was set back. Events seen before are stored again.
                warn!("the broker does not know this node's cursor; reading its hits again");
                if let Err(error) = app.store.reset_inbox_cursor().await {
                    warn!(%error, "cursor not set back");
                }
            } else if told != Some(error.code) {
                // Said once for each reason, not at each attempt.
                info!(%error, "hits are not followed at the moment; trying again");
            }
            told = Some(error.code);
            tokio::time::sleep(backoff.pause(&mut os_rng())).await;
        }
    }
    .boxed()
}

fn streamed(event: v1::WatchHitsResponse) -> Result<(u64, Hit)> {
    let hit = event.hit.ok_or_else(|| Error::field("hit", "missing"))?;
    Ok((event.cursor, hit.try_into()?))
}

impl App {
    /// Follows the stream until it ends.
    async fn watch_hits(&self, backoff: &mut Backoff) -> Result<()> {
        let request = v1::WatchHitsRequest {
            community: self.community.to_string(),
            cursor: self.store.inbox_cursor().await?,
        };
        let events = self
            .broker
            .hits()
            .watch_hits(request)
            .await
            .map_err(|status| refusal(&status))?
            .into_inner();
        self.reconnected.notify_one();
        // Without a limit of time: keep-alive finds a peer that is gone. What has come is stored
        // at once, in one transaction.
        let mut chunks = events.ready_chunks(MOST_EVENTS);
        while let Some(chunk) = chunks.next().await {
            let mut hits = Vec::with_capacity(chunk.len());
            let mut read = 0;
            let mut outcome = Ok(());
            for event in chunk {
                match event.map_err(|s| refusal(&s)).and_then(streamed) {
                    Ok((cursor, hit)) => {
                        read = cursor;
                        hits.push(hit);
                    }
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                }
            }
            if !hits.is_empty() {
                let now = self.clock.now();
                let cursor = self.store.put_streamed_hits(&hits, read, now).await?;
                self.hits_changed(cursor);
                backoff.reset();
            }
            outcome?;
        }
        Ok(())
    }
}

impl App {
    /// The hits that are new or have changed since a cursor, and those to come.
    pub(crate) fn follow_hits(
        self: &Arc<Self>,
        cursor: u64,
    ) -> impl Stream<Item = Result<RecordHit>> + Send + 'static {
        let (app, changes) = (Arc::clone(self), self.hit_cursor.subscribe());
        let next = |(app, mut changes, cursor): (Arc<Self>, watch::Receiver<u64>, u64)| async move {
            loop {
                // Seen before the store is read: a change meanwhile wakes this at once.
                changes.mark_unchanged();
                let page = match app.store.record_hits_since(cursor, PAGE).await {
                    Ok(page) => page,
                    Err(error) => return Some((vec![Err(error)], (app, changes, cursor))),
                };
                if let Some(last) = page.last().map(|hit| hit.cursor) {
                    let page = page.into_iter().map(Ok).collect();
                    return Some((page, (app, changes, last)));
                }
                changes.changed().await.ok()?;
            }
        };
        futures::stream::unfold((app, changes, cursor), next)
            .map(futures::stream::iter)
            .flatten()
    }
}
