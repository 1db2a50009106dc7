//! What time does to follow-ups: reminders, closing, erasure (workflow.md "Follow-up", "Audit").

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::Result;
use sotto_common::followup::clock::REMINDERS;
use sotto_common::followup::record::{CLOSED_AFTER, FollowUp};
use sotto_common::hit::HitEvent;
use sotto_common::ids::{CommunityId, Epoch, FollowUpId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::Entry;
use sotto_common::time::Timestamp;

use super::{end_hit, tell};
use crate::app::journal::{self, Journal, about};
use crate::app::{Broker, manifest_of};
use crate::datastore::{FollowUpEvent, FollowUpRecord, Tx};
use crate::objects::ObjectKey;

/// Follow-ups that one transaction of a job looks at.
const STEP: u32 = 100;

/// The reminder that says that the limit is over.
const LIMIT_OVER: u8 = 100;

impl Broker {
    /// Reminds, closes what has ended long ago, and erases what was kept long enough.
    pub(crate) async fn keep_follow_up_times(&self) -> Result<()> {
        while self.remind_some().await? {}
        while self.close_some().await? {}
        self.erase_payloads().await
    }

    /// Returns whether there may be more.
    async fn remind_some(&self) -> Result<bool> {
        let (now, journal) = (self.now(), &self.journal);
        let reminded = self
            .store
            .run_tx("remind_follow_ups", |tx| {
                async move {
                    let due = tx.get_due_reminders(now, STEP).await?;
                    let reminded = due.len();
                    for mut record in due {
                        remind(tx, journal, &mut record, now).await?;
                        tx.update_follow_up(&record).await?;
                    }
                    Ok(reminded)
                }
                .scope_boxed()
            })
            .await?;
        if reminded > 0 {
            self.announce_follow_ups();
        }
        Ok(reminded == STEP as usize)
    }

    /// Closes those that ended 30 days ago; returns whether there may be more.
    async fn close_some(&self) -> Result<bool> {
        let (now, journal) = (self.now(), &self.journal);
        let (closed, objects) = self
            .store
            .run_tx("close_follow_ups", |tx| {
                async move {
                    let ended = tx
                        .get_ended_follow_ups(now.minus(CLOSED_AFTER), STEP)
                        .await?;
                    let (mut closed, mut objects) = (0, Vec::new());
                    for record in ended {
                        if let Some(dropped) = close(tx, journal, record, now).await? {
                            objects.extend(dropped);
                            closed += 1;
                        }
                    }
                    Ok((closed, objects))
                }
                .scope_boxed()
            })
            .await?;
        if closed > 0 {
            self.announce_follow_ups();
            self.announce_hits();
        }
        self.delete_unneeded(objects).await;
        Ok(closed == STEP)
    }

    /// Erases statements and files after the time that the manifest of the hit's epoch gives them.
    async fn erase_payloads(&self) -> Result<()> {
        let now = self.now();
        let epochs = self
            .store
            .read_tx("epochs_with_payloads", |tx| {
                async move { tx.get_epochs_with_payloads().await }.scope_boxed()
            })
            .await?;
        for (community, epoch) in epochs {
            let kept = manifest_of(&epoch)?.profile.retention.follow_ups;
            let until = now.minus(kept);
            while self.erase_some(&community, epoch.epoch, until).await? {}
        }
        Ok(())
    }

    /// Returns whether there may be more.
    async fn erase_some(
        &self,
        community: &CommunityId,
        epoch: Epoch,
        until: Timestamp,
    ) -> Result<bool> {
        let (now, journal) = (self.now(), &self.journal);
        let (erased, objects) = self
            .store
            .run_tx("erase_follow_ups", |tx| {
                async move {
                    let closed = tx
                        .get_closed_follow_ups(community, epoch, until, STEP)
                        .await?;
                    let (erased, mut objects) = (closed.len(), Vec::new());
                    for mut record in closed {
                        let id = record.follow_up.id;
                        tx.delete_statements(id).await?;
                        objects.extend(drop_files(tx, id, |_| true).await?);
                        record.erased = true;
                        tx.update_follow_up(&record).await?;
                        let entry = journal.by_broker(Action::EraseFollowUp, community, now);
                        journal::put(tx, &about::follow_up(entry, &record)).await?;
                        tell(tx, &record.follow_up, FollowUpEvent::Erased(now)).await?;
                    }
                    Ok((erased, objects))
                }
                .scope_boxed()
            })
            .await?;
        if erased > 0 {
            tracing::info!(%community, %epoch, erased, "follow-ups were kept long enough");
            self.announce_follow_ups();
        }
        self.delete_unneeded(objects).await;
        Ok(erased == STEP as usize)
    }
}

/// Closes what has ended long enough ago; returns the objects of files that no answer names.
async fn close(
    tx: &mut (dyn Tx + '_),
    journal: &Journal,
    record: FollowUpRecord,
    now: Timestamp,
) -> Result<Option<Vec<ObjectKey>>> {
    let Some(follow_up) = record.follow_up.closed_by_time(now) else {
        return Ok(None);
    };
    let change = journal::change(record.follow_up.state.as_str(), follow_up.state.as_str());
    let record = FollowUpRecord {
        follow_up,
        ..record
    };
    tx.update_follow_up(&record).await?;
    let community = &record.key.community;
    let entry = Entry {
        change: Some(change),
        ..journal.by_broker(Action::CloseFollowUp, community, now)
    };
    journal::put(tx, &about::follow_up(entry, &record)).await?;
    let dropped = drop_unanswered(tx, record.follow_up.id).await?;
    let mut entry = journal.by_broker(Action::FollowUpHit, community, now);
    entry.object.follow_up = Some(record.follow_up.id);
    end_hit(tx, &record, HitEvent::CloseFollowUp, entry).await?;
    tell(tx, &record.follow_up, FollowUpEvent::Closed(now)).await?;
    Ok(Some(dropped))
}

/// Tells the reminders that are due, each once, logs the one at the end of the limit, and notes the
/// next one. The record is still to be written.
pub(super) async fn remind(
    tx: &mut (dyn Tx + '_),
    journal: &Journal,
    record: &mut FollowUpRecord,
    now: Timestamp,
) -> Result<()> {
    while let Some((percent, at)) = record.reminder
        && at <= now
    {
        if percent >= LIMIT_OVER {
            let entry = journal.by_broker(Action::MissLimit, &record.key.community, now);
            journal::put(tx, &about::follow_up(entry, record)).await?;
        }
        tell(tx, &record.follow_up, FollowUpEvent::Reminder(percent)).await?;
        record.reminder = reminder_after(&record.follow_up, percent);
    }
    Ok(())
}

/// The first reminder that lies ahead: a clock that runs again, or anew until a new date, does not
/// repeat those that lie behind it.
pub(super) fn next_reminder(follow_up: &FollowUp, now: Timestamp) -> Option<(u8, Timestamp)> {
    reminders(follow_up).find(|(_, at)| *at > now)
}

fn reminder_after(follow_up: &FollowUp, percent: u8) -> Option<(u8, Timestamp)> {
    reminders(follow_up).find(|(other, _)| *other > percent)
}

/// None while the clock stands still.
fn reminders(follow_up: &FollowUp) -> impl Iterator<Item = (u8, Timestamp)> {
    let clock = follow_up.clock;
    REMINDERS
        .into_iter()
        .filter_map(move |percent| Some((percent, clock?.reminder_at(percent)?)))
}

/// Forgets the files that no answer names; returns their objects.
pub(super) async fn drop_unanswered(
    tx: &mut (dyn Tx + '_),
    id: FollowUpId,
) -> Result<Vec<ObjectKey>> {
    drop_files(tx, id, |answered| !answered).await
}

/// Forgets files, by whether the answer names them; returns their objects.
async fn drop_files(
    tx: &mut (dyn Tx + '_),
    id: FollowUpId,
    which: impl Fn(bool) -> bool + Send,
) -> Result<Vec<ObjectKey>> {
    let mut objects = Vec::new();
    for file in tx.get_attachments(id).await? {
        if which(file.answered) {
            let chunks = tx.get_attachment_chunks(id, file.id).await?;
            objects.extend(chunks.into_iter().map(|chunk| chunk.object));
            tx.delete_attachment_chunks(id, file.id).await?;
            tx.delete_attachment(id, file.id).await?;
        }
    }
    Ok(objects)
}
