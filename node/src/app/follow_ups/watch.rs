//! The broker's stream of this node's follow-ups: every statement is verified before it is stored,
//! with the cursor, in one transaction.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::followup::step::{StepDetail, StepStatement};
use sotto_common::followup::{FollowUpStep, Party};
use sotto_common::ids::{Epoch, FollowUpId, HitId, NodeId};
use sotto_common::random::os_rng;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sotto_proto::convert::follow_up::{body_digest, open_step};
use sotto_proto::convert::{epoch, id, policy, read_unverified, text, timestamp, verify};
use sotto_proto::v1;
use sotto_proto::v1::watch_follow_ups_response::Event;
use tracing::{info, warn};

use super::super::App;
use super::presence::{check_particulars, check_proof};
use crate::broker::{Backoff, is_passing, refusal};
use crate::follow_up::{LocalFollowUp, News, OwnRecord, Presence, Step, Took};

/// Follows the broker's stream for as long as the node runs.
pub(crate) fn keep_watching(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let mut backoff = Backoff::default();
        let mut told = None;
        loop {
            let Err(error) = app.watch_follow_ups(&mut backoff).await else {
                // An orderly end: the hour of the connection, or the broker restarts.
                told = None;
                tokio::time::sleep(backoff.pause(&mut os_rng())).await;
                continue;
            };
            if error.code == ErrorCode::CursorInvalid {
                // The broker's store was set back. What is known here already changes nothing.
                warn!("the broker does not know this node's cursor; reading its follow-ups again");
                if let Err(error) = app.store.reset_follow_up_cursor().await {
                    warn!(%error, "cursor not set back");
                }
            } else if told != Some(error.code) {
                info!(%error, "follow-ups are not followed at the moment; trying again");
            }
            told = Some(error.code);
            tokio::time::sleep(backoff.pause(&mut os_rng())).await;
        }
    }
    .boxed()
}

/// What the broker says of a follow-up beside its steps.
struct About {
    id: FollowUpId,
    hit: HitId,
    epoch: Epoch,
    policy: Policy,
    requester: NodeId,
    holder: NodeId,
    filter_version: u64,
    matched_at: Timestamp,
}

/// A step that has come, with what is known of it before the store is asked.
struct Incoming<'a> {
    about: &'a About,
    envelope: v1::DsseEnvelope,
    verified: Result<StepStatement>,
    /// The follow-up that it begins, if it is the first.
    begun: Option<LocalFollowUp>,
    taken_at: Timestamp,
}

impl TryFrom<&v1::FollowUp> for About {
    type Error = Error;

    fn try_from(wire: &v1::FollowUp) -> Result<Self> {
        Ok(Self {
            id: id("follow_up_id", &wire.follow_up_id, FollowUpId::from_slice)?,
            hit: id("hit_id", &wire.hit_id, HitId::from_slice)?,
            epoch: epoch(wire.epoch)?,
            policy: policy(&wire.policy)?,
            requester: text("requester", &wire.requester)?,
            holder: text("holder", &wire.holder)?,
            filter_version: wire.filter_version,
            matched_at: timestamp("matched_at", wire.matched_at)?,
        })
    }
}

impl App {
    /// Follows the stream until it ends.
    async fn watch_follow_ups(&self, backoff: &mut Backoff) -> Result<()> {
        let request = v1::WatchFollowUpsRequest {
            community: self.community.to_string(),
            cursor: self.store.follow_up_cursor().await?,
        };
        let mut events = self
            .broker
            .follow_ups()
            .watch_follow_ups(request)
            .await
            .map_err(|status| refusal(&status))?
            .into_inner();
        // Without a limit of time: keep-alive finds a peer that is gone.
        while let Some(event) = events.message().await.map_err(|status| refusal(&status))? {
            self.take_event(event).await?;
            backoff.reset();
        }
        Ok(())
    }

    /// Takes one event. What is wrong with it is an alarm of its follow-up, and holds up no other.
    ///
    /// # Errors
    /// Those of the store: the event comes again.
    pub(super) async fn take_event(&self, event: v1::WatchFollowUpsResponse) -> Result<()> {
        let cursor = event.cursor;
        let wire = event.follow_up.unwrap_or_default();
        let about = match About::try_from(&wire) {
            Ok(about) if wire.community == self.community.as_str() => about,
            _ => {
                warn!(
                    cursor,
                    "an event of the broker names no follow-up of this community"
                );
                return self.skip_event(cursor).await;
            }
        };
        match event.event {
            Some(Event::Step(record)) => self.take_step(&about, cursor, record).await,
            Some(Event::ReminderPercent(percent)) => {
                let percent = percent.min(100);
                let remind = move |f: &mut LocalFollowUp| {
                    f.news.push(News::Reminder(percent));
                    Ok(())
                };
                self.take_note(&about, cursor, &remind).await
            }
            Some(Event::ClosedByTime(at)) => {
                let at = timestamp("closed_by_time", Some(at))?;
                let close = move |f: &mut LocalFollowUp| closed_by_time(f, at);
                self.take_note(&about, cursor, &close).await
            }
            // This node erases its own copies by its own clock.
            Some(Event::Erased(_)) | None => self.skip_event(cursor).await,
        }
    }

    async fn skip_event(&self, cursor: u64) -> Result<()> {
        let none = FollowUpId::of_vector([0; 16]);
        let (keeper, now) = (self.keeper(), self.clock.now());
        self.store
            .take_follow_up_event(&keeper, none, cursor, now, &|_| Ok(None))
            .await
            .map(drop)
    }

    async fn take_note(
        &self,
        about: &About,
        cursor: u64,
        note: &(dyn Fn(&mut LocalFollowUp) -> Result<()> + Send + Sync),
    ) -> Result<()> {
        let work = |known: Option<LocalFollowUp>| {
            let Some(mut follow_up) = known else {
                return Ok(None);
            };
            note(&mut follow_up)?;
            Ok(Some(follow_up))
        };
        let (keeper, now) = (self.keeper(), self.clock.now());
        let changed = self
            .store
            .take_follow_up_event(&keeper, about.id, cursor, now, &work)
            .await?;
        self.follow_ups_changed(changed);
        Ok(())
    }

    async fn take_step(
        &self,
        about: &About,
        cursor: u64,
        record: v1::FollowUpStepRecord,
    ) -> Result<()> {
        let Some(envelope) = record.statement.filter(|s| !s.payload.is_empty()) else {
            // Its payload is erased at the broker: it was read here before, or never will be.
            return self.skip_event(cursor).await;
        };
        let taken_at = timestamp("taken_at", record.taken_at)?;
        let verified = self.verify_step(about, &envelope).await;
        let begun = match &verified {
            Ok(_) => self.begin_here(about).await?,
            Err(error) if is_passing(error) || error.code == ErrorCode::Internal => {
                return Err(Error::unavailable(error.to_string()));
            }
            Err(error) => {
                warn!(%error, follow_up = %about.id, "a step of a follow-up does not verify");
                None
            }
        };
        let incoming = Incoming {
            about,
            envelope,
            verified,
            begun,
            taken_at,
        };
        let work = |known| Ok(self.applied(&incoming, known));
        let (keeper, now) = (self.keeper(), self.clock.now());
        let changed = self
            .store
            .take_follow_up_event(&keeper, about.id, cursor, now, &work)
            .await?;
        self.follow_ups_changed(changed);
        Ok(())
    }

    /// The follow-up once a step has come, if there is anything to keep of it.
    fn applied(
        &self,
        incoming: &Incoming<'_>,
        known: Option<LocalFollowUp>,
    ) -> Option<LocalFollowUp> {
        let statement = match &incoming.verified {
            Ok(statement) => statement,
            Err(error) => return known.map(|follow_up| alarmed(follow_up, error)),
        };
        let opened = if statement.clear.sender == self.node {
            Ok(None)
        } else {
            open_step(statement, self.keystore.hpke())
        };
        let is_new = known.is_none();
        let mut follow_up = known.or_else(|| incoming.begun.clone())?;
        if let Err(error) = check_parties(&follow_up, incoming.about) {
            return Some(alarmed(follow_up, &error));
        }
        let content = opened.as_ref().ok().and_then(Option::as_ref);
        let took = follow_up.take(Step {
            clear_bytes: statement.clear_bytes.clone(),
            clear: statement.clear.clone(),
            digest: body_digest(&incoming.envelope),
            envelope: Some(incoming.envelope.clone()),
            content: content.cloned(),
            taken_at: Some(incoming.taken_at),
            drafted_by: String::new(),
            approved_by: String::new(),
        });
        match took {
            Ok(Took::New) => {
                follow_through(&mut follow_up, statement, content.map(|c| &c[..]));
                if let Err(error) = &opened {
                    follow_up = alarmed(follow_up, error);
                }
            }
            Ok(Took::Known) => {}
            // Without its first step there is nothing to keep it by.
            Err(_) if is_new => return None,
            Err(error) => follow_up = alarmed(follow_up, &error),
        }
        Some(follow_up)
    }

    /// Verifies a step by the key of the manifest of the hit's epoch (protocol §9, §10).
    async fn verify_step(
        &self,
        about: &About,
        envelope: &v1::DsseEnvelope,
    ) -> Result<StepStatement> {
        let claimed: StepStatement = read_unverified(envelope)?;
        let sender = &claimed.clear.sender;
        let parties = [&about.requester, &about.holder];
        if !parties.contains(&sender) || !parties.contains(&&self.node) {
            let text = "the step is of a node that is no party to the follow-up";
            return Err(Error::new(ErrorCode::FollowUpMismatch, text));
        }
        if claimed.clear.follow_up != about.id || claimed.clear.hit != about.hit {
            let text = "the step is of another follow-up or hit than the broker says";
            return Err(Error::new(ErrorCode::FollowUpMismatch, text));
        }
        let key = if *sender == self.node {
            self.keystore.signing().verifying_key()
        } else {
            self.peer(about.epoch, sender).await?.signing
        };
        verify(envelope, &key)
    }

    /// A follow-up that is not known here yet, as its first step will find it.
    async fn begin_here(&self, about: &About) -> Result<Option<LocalFollowUp>> {
        let side = if about.holder == self.node {
            Party::Holder
        } else {
            Party::Requester
        };
        let (counterpart, record) = match side {
            Party::Holder => (about.requester.clone(), None),
            // Of a store that was set back: the hit may still be known.
            Party::Requester => (
                about.holder.clone(),
                self.store.record_hit(about.hit).await?,
            ),
        };
        let records = record.iter().map(|record| OwnRecord {
            dataset: record.dataset.clone(),
            record_id: record.record_id.clone(),
        });
        Ok(Some(LocalFollowUp {
            id: about.id,
            side,
            hit: about.hit,
            community: self.community.clone(),
            own: self.node.clone(),
            counterpart,
            epoch: about.epoch,
            policy: about.policy,
            filter_version: about.filter_version,
            matched_at: about.matched_at,
            case_ref: String::new(),
            records: records.collect(),
            canonical: record.and_then(|record| record.canonical),
            particulars: None,
            presence: Presence::Open,
            alarm: String::new(),
            unread: false,
            begun_at: self.clock.now(),
            withdrawn_at: None,
            closed_by_time: None,
            erased_at: None,
            steps: Vec::new(),
            proposal: None,
            news: Vec::new(),
            refused: Vec::new(),
        }))
    }
}

fn check_parties(follow_up: &LocalFollowUp, about: &About) -> Result<()> {
    let same = *follow_up.party(Party::Requester) == about.requester
        && *follow_up.party(Party::Holder) == about.holder
        && (follow_up.hit, follow_up.epoch, follow_up.policy)
            == (about.hit, about.epoch, about.policy);
    if same {
        return Ok(());
    }
    let text = "the broker names other parties, another hit, epoch or policy than are known here";
    Err(Error::new(ErrorCode::FollowUpMismatch, text))
}

fn alarmed(mut follow_up: LocalFollowUp, error: &Error) -> LocalFollowUp {
    follow_up.raise(format!(
        "a step of this follow-up does not verify, and was not applied or not opened ({}: {}); ask \
         the other side and the operator before going on",
        error.code, error.text
    ));
    follow_up
}

fn closed_by_time(follow_up: &mut LocalFollowUp, at: Timestamp) -> Result<()> {
    if follow_up.closed_by_time.is_some() {
        return Ok(());
    }
    let due = follow_up.agreed()?.and_then(|f| f.closed_by_time(at));
    if due.is_some() {
        follow_up.drop_pending("the follow-up was closed by time");
        follow_up.closed_by_time = Some(at);
        follow_up.news.push(News::ClosedByTime);
    } else {
        follow_up.raise("the broker says that it was closed by time, and it is not due".into());
    }
    Ok(())
}

/// What follows from a step that was just taken.
fn follow_through(
    follow_up: &mut LocalFollowUp,
    statement: &StepStatement,
    content: Option<&[u8]>,
) {
    let theirs = statement.clear.sender != follow_up.own;
    match &statement.clear.detail {
        StepDetail::Held if theirs => {
            follow_up.presence = check_proof(follow_up, content);
            if follow_up.presence == Presence::ProofWrong {
                follow_up.raise(
                    "the holder's node says that it holds the selector, and its proof does not \
                     hold: nothing was released; withdraw the request, and tell the operator"
                        .into(),
                );
            }
        }
        StepDetail::NotHeld => {
            follow_up.presence = Presence::NotHeld;
            follow_up.particulars = None;
        }
        StepDetail::Particulars if theirs => {
            if let Err(error) = check_particulars(follow_up, content) {
                follow_up.raise(format!(
                    "the particulars are not in order ({}: {}); look at them before anything is \
                     answered",
                    error.code, error.text
                ));
            }
        }
        StepDetail::Withdraw => follow_up.particulars = None,
        _ => {}
    }
    drop_obsolete(follow_up, statement.clear.step());
}

/// A proposal that the other side's step has overtaken goes; whoever made it is told.
fn drop_obsolete(follow_up: &mut LocalFollowUp, by: FollowUpStep) {
    let obsolete = |step| follow_up.check_turn(step).is_err();
    let Some(step) = follow_up.proposal.as_ref().map(|waits| waits.step) else {
        return;
    };
    if obsolete(step) {
        follow_up.proposal = None;
        let reason = format!("{by} was taken meanwhile");
        let news = News::Discarded(step, String::new(), reason);
        follow_up.news.push(news);
    }
}
