//! Formal follow-ups (protocol §10, workflow.md "Follow-up"): what people draft and approve, what
//! the node does by itself, and what the other side does.

mod approve;
pub(crate) mod attachments;
mod draft;
mod erase;
pub(crate) mod export;
mod figures;
mod presence;
mod sender;
mod status;
mod watch;

use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use sotto_common::dsse::VerifyingKey;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::step::StepDetail;
use sotto_common::ids::{Epoch, FollowUpId, NodeId};
use sotto_common::membership::Manifest;
use sotto_common::random::os_rng;
use sotto_common::sealed::{HpkePublicKey, Suite};
use sotto_common::secret::Selector;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sotto_proto::convert::follow_up::{body_digest, make_step};
use sotto_proto::convert::{MAX_STATEMENT, sign};
use sotto_proto::v1;
use tokio::sync::watch as tokio_watch;
use zeroize::Zeroizing;

use super::App;
use crate::follow_up::{LocalFollowUp, News, Step};
use crate::store::{FileChange, FollowUpFilter, Keeper, StoredAttachment};

pub(crate) use erase::keep_erasing;
pub(crate) use sender::keep_sending;
pub(crate) use watch::keep_watching;

/// Events that are read from the store at a time.
const PAGE: u32 = 256;

/// The other side's keys in the manifest of the hit's epoch (protocol §10).
struct Peer {
    signing: VerifyingKey,
    hpke: HpkePublicKey,
}

/// A step of this node before it is signed.
struct Prepared {
    detail: StepDetail,
    content: Option<Zeroizing<Vec<u8>>>,
}

fn unknown() -> Error {
    Error::new(
        ErrorCode::FollowUpUnknown,
        "there is no such follow-up here",
    )
}

fn mismatch(text: &'static str) -> Error {
    Error::new(ErrorCode::FollowUpMismatch, text)
}

impl App {
    fn keeper(&self) -> Keeper {
        Keeper {
            node: self.node.clone(),
            community: self.community.clone(),
        }
    }

    /// One follow-up.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`; those of the store.
    pub(crate) async fn follow_up(&self, id: FollowUpId) -> Result<LocalFollowUp> {
        let found = self.store.follow_up(&self.keeper(), id).await?;
        found.ok_or_else(unknown)
    }

    /// Changes a follow-up, and tells those who watch and those who send.
    async fn change(
        &self,
        id: FollowUpId,
        work: &(dyn Fn(&mut LocalFollowUp) -> Result<()> + Send + Sync),
    ) -> Result<LocalFollowUp> {
        let now = self.clock.now();
        let (changed, cursor) = self
            .store
            .change_follow_up(&self.keeper(), id, now, work)
            .await?;
        self.follow_ups_changed(cursor);
        Ok(changed)
    }

    /// The same together with the files of its answer, which `work` sees as they will be.
    async fn change_with_files(
        &self,
        id: FollowUpId,
        change: Option<FileChange<'_>>,
        work: &(dyn Fn(&mut LocalFollowUp, &[StoredAttachment]) -> Result<()> + Send + Sync),
    ) -> Result<LocalFollowUp> {
        let now = self.clock.now();
        let (changed, cursor) = self
            .store
            .change_with_files(&self.keeper(), id, now, change, work)
            .await?;
        self.follow_ups_changed(cursor);
        Ok(changed)
    }

    /// Tells those who watch that follow-ups have changed, and those who send that there may be
    /// something to do.
    fn follow_ups_changed(&self, cursor: u64) {
        self.follow_up_cursor.send_if_modified(|last| {
            let later = cursor > *last;
            *last = (*last).max(cursor);
            later
        });
        self.follow_ups_moved.notify_one();
    }

    /// The follow-ups that fit a filter and, if wanted, have something to do; one more than
    /// `limit` if there are more.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn list_follow_ups(
        &self,
        mut filter: FollowUpFilter,
        to_do: bool,
        limit: usize,
    ) -> Result<Vec<LocalFollowUp>> {
        let mut found = Vec::new();
        loop {
            let ids = self.store.follow_up_ids(&filter, PAGE).await?;
            let Some(last) = ids.last().copied() else {
                return Ok(found);
            };
            for id in ids {
                let Some(follow_up) = self.store.follow_up(&self.keeper(), id).await? else {
                    continue;
                };
                if !to_do || follow_up.is_to_do()? {
                    found.push(follow_up);
                }
                if found.len() > limit {
                    return Ok(found);
                }
            }
            filter.after = Some(last);
        }
    }

    /// The other follow-ups of this node on the same selector that are open.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn related(
        &self,
        follow_up: &LocalFollowUp,
    ) -> Result<Vec<v1::RelatedFollowUp>> {
        let Some(canonical) = &follow_up.canonical else {
            return Ok(Vec::new());
        };
        self.open_on(follow_up.policy, canonical, follow_up.id)
            .await
    }

    async fn open_on(
        &self,
        policy: Policy,
        canonical: &Selector,
        but: FollowUpId,
    ) -> Result<Vec<v1::RelatedFollowUp>> {
        let mut related = Vec::new();
        for id in self.store.follow_ups_on(policy, canonical).await? {
            if id == but {
                continue;
            }
            let Some(other) = self.store.follow_up(&self.keeper(), id).await? else {
                continue;
            };
            let open = match other.agreed()? {
                Some(agreed) => agreed.is_open(),
                None => other.withdrawn_at.is_none(),
            };
            if open {
                related.push(other.related_view()?);
            }
        }
        Ok(related)
    }

    /// A follow-up with its whole story; with contents it counts as read.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`; those of the store.
    pub(crate) async fn follow_up_story(
        &self,
        id: FollowUpId,
        contents: bool,
    ) -> Result<v1::GetNodeFollowUpResponse> {
        let mut follow_up = self.follow_up(id).await?;
        if contents && follow_up.unread {
            let read = |f: &mut LocalFollowUp| {
                f.unread = false;
                Ok(())
            };
            follow_up = self.change(id, &read).await?;
        }
        let mut view = follow_up.node_view(self.clock.now())?;
        if follow_up.proposal.is_none() && !view.next_action.is_empty() {
            // For whoever made it: until the next step, the last proposal is what they look for.
            let last = follow_up.steps.iter().filter_map(|s| s.taken_at).max();
            let discards = self.store.follow_up_discards(id).await?;
            let discard = discards
                .last()
                .filter(|(.., at)| last.is_none_or(|last| *at >= last));
            if let Some((person, reason, _)) = discard {
                let by = if person.is_empty() {
                    "the node"
                } else {
                    person
                };
                let before = format!("the last proposal was taken back by {by} ({reason}): ");
                view.next_action.insert_str(0, &before);
            }
        }
        Ok(v1::GetNodeFollowUpResponse {
            follow_up: Some(view),
            steps: follow_up.steps_view(contents)?,
            related: self.related(&follow_up).await?,
        })
    }

    /// What happens to follow-ups after a cursor, and what is to come.
    pub(crate) fn follow_follow_ups(
        self: &Arc<Self>,
        cursor: u64,
    ) -> impl Stream<Item = Result<v1::WatchNodeFollowUpsResponse>> + Send + 'static {
        let (app, changes) = (Arc::clone(self), self.follow_up_cursor.subscribe());
        let next = |(app, mut changes, cursor): (Arc<Self>, tokio_watch::Receiver<u64>, u64)| async move {
            loop {
                // Seen before the store is read: a change meanwhile wakes this at once.
                changes.mark_unchanged();
                match app.events_after(cursor).await {
                    Err(error) => return Some((vec![Err(error)], (app, changes, cursor))),
                    Ok(page) => {
                        if let Some(last) = page.last().map(|event| event.cursor) {
                            let page = page.into_iter().map(Ok).collect();
                            return Some((page, (app, changes, last)));
                        }
                    }
                }
                changes.changed().await.ok()?;
            }
        };
        futures::stream::unfold((app, changes, cursor), next)
            .map(futures::stream::iter)
            .flatten()
    }

    async fn events_after(&self, cursor: u64) -> Result<Vec<v1::WatchNodeFollowUpsResponse>> {
        let events = self.store.follow_up_events(cursor, PAGE).await?;
        let mut told = Vec::with_capacity(events.len());
        for event in events {
            let follow_up = self.follow_up(event.follow_up).await?;
            let step = event.step.map(v1::FollowUpStep::from);
            told.push(v1::WatchNodeFollowUpsResponse {
                cursor: event.cursor,
                follow_up: Some(follow_up.node_view(self.clock.now())?),
                news: News::wire(&event.news).into(),
                step: step.unwrap_or_default().into(),
                reminder_percent: event.percent,
            });
        }
        Ok(told)
    }

    /// The manifest of an epoch that this node has taken.
    async fn manifest_of(&self, epoch: Epoch) -> Result<(Manifest, v1::DsseEnvelope)> {
        let stored = self.store.epochs().await?;
        let found = stored.into_iter().find(|e| e.manifest.epoch == epoch);
        let found = found.ok_or_else(|| {
            Error::new(
                ErrorCode::EpochUnknown,
                "this node has not taken the epoch of the hit",
            )
        })?;
        Ok((found.manifest, found.envelope))
    }

    /// The keys of another node in the manifest of an epoch.
    async fn peer(&self, epoch: Epoch, node: &NodeId) -> Result<Peer> {
        let (manifest, _) = self.manifest_of(epoch).await?;
        let member = manifest.member(node)?;
        let suite = Suite::X25519Sha256ChaCha20Poly1305;
        let no_key = || {
            let text = "the other side has no key that this version can seal to";
            Error::new(ErrorCode::SealInvalid, text)
        };
        let key = member.hpke.iter().find(|key| key.kem == suite.ids().0);
        let key = HpkePublicKey::from_slice(suite, &key.ok_or_else(no_key)?.key);
        Ok(Peer {
            signing: member.signing,
            hpke: key.map_err(|_| no_key())?,
        })
    }

    /// Signs and seals the next step of this node.
    ///
    /// # Errors
    /// Those of the transition; `SEAL_INVALID`; `INVALID_FIELD` if it is too long as a whole.
    fn sign_step(
        &self,
        follow_up: &LocalFollowUp,
        peer: &Peer,
        prepared: Prepared,
        (drafted_by, approved_by): (&str, &str),
        now: Timestamp,
    ) -> Result<Step> {
        let clear = follow_up.next_clear(prepared.detail, now)?;
        let content = prepared.content.as_ref().map(|content| &content[..]);
        let statement = make_step(clear.clone(), content, &peer.hpke, &mut os_rng())?;
        let clear_bytes = statement.clear_bytes.clone();
        let envelope = sign(statement, self.keystore.signing());
        if envelope.payload.len() > MAX_STATEMENT {
            let text = "the texts are too long together: send long ones as files";
            return Err(Error::field("draft", text));
        }
        Ok(Step {
            clear_bytes,
            clear,
            digest: body_digest(&envelope),
            envelope: Some(envelope),
            content: prepared.content,
            taken_at: None,
            drafted_by: drafted_by.to_owned(),
            approved_by: approved_by.to_owned(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;

/// A message as the bytes that are sealed.
fn encoded(message: &impl prost::Message) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(message.encode_to_vec())
}

/// What is sealed with a step, as its message; `None` if it is none.
fn decoded<M: prost::Message + Default>(content: &[u8]) -> Option<M> {
    M::decode(content).ok()
}
