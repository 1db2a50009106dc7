//! Probe sessions and batches (protocol §7).

mod opening;

use std::collections::{BTreeSet, HashSet};

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{CommunityId, EntryId, NodeId, RecordRef, SessionId};
use sotto_common::log::action::Action;
use sotto_common::log::entry::{Batch, Entry};
use sotto_common::probe::{SessionNonce, answer_digest, packed_tags_digest};
use sotto_common::secret::Tag;
use sotto_common::time::Timestamp;
use sotto_proto::convert::Pairs;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::RwLockReadGuard;

use self::opening::{check_opening, check_resumption, max_pairs, session_record};
use super::journal::{self, Journal, about};
use super::{Broker, active_epoch, check_active, enrolled, not_a_member};
use crate::app::hits::{Findings, Guard, KnownRefs, Outcome};
use crate::datastore::{BatchRecord, BatchStanding, SessionRecord, StackKey, Tx};
use crate::matcher::{HolderMatches, Matcher, Question};

pub(crate) use opening::{AnswerForm, Opening};

/// Most probe sessions that a node has open in a community; another one closes the one that was
/// not used for longest.
const MAX_OPEN_SESSIONS: u64 = 256;

/// A session that is not used for this long is closed: it can wait a week for its quota.
const IDLE_SESSION: Duration = Duration::from_hours(7 * 24);

/// How long a batch waits for filters that are still compared with their digests, before the prober
/// is told to ask again. All of them take seconds after a start.
const COMPARISON: Duration = Duration::from_secs(10);

/// A session as one stream has it open. The nonce lives here only.
pub(crate) struct ProbeSession {
    id: SessionId,
    key: StackKey,
    prober: NodeId,
    nonce: SessionNonce,
    targets: BTreeSet<NodeId>,
    canaries: HashSet<Tag>,
    hit_cap: u64,
    prior: f64,
    max_pairs: u32,
    /// How its prober reads answers.
    form: AnswerForm,
    known: Arc<KnownRefs>,
}

impl ProbeSession {
    const fn question(&self, now: Timestamp) -> Question<'_> {
        Question {
            key: &self.key,
            prober: &self.prober,
            targets: &self.targets,
            now,
        }
    }

    /// Tests tags; none if a filter is awaited.
    fn test(&self, matcher: &Matcher, tags: &[Tag], now: Timestamp) -> Option<Vec<HolderMatches>> {
        let mut found = matcher.probe(&self.question(now), tags)?;
        self.forget_canaries(tags, &mut found);
        Some(found)
    }

    /// protocol §4: "Canary tags are never counted as hits", though every filter holds them.
    fn forget_canaries(&self, tags: &[Tag], matches: &mut [HolderMatches]) {
        for at_holder in matches {
            at_holder
                .hits
                .retain(|hit| !self.canaries.contains(&tags[hit.tag]));
        }
    }
}

/// How an opened session stands.
pub(crate) struct Opened {
    pub(crate) session: ProbeSession,
    pub(crate) refs_left_today: u64,
    pub(crate) last_answered: Option<u32>,
    pub(crate) max_pairs: u32,
}

/// The answer to a batch.
pub(crate) struct BatchAnswer {
    /// A serialised `ProbeMatches`.
    pub(crate) matches: Vec<u8>,
    /// The place of the batch's entry in the log, as far as it is known.
    pub(crate) leaf_index: Option<u64>,
}

/// What a batch's transaction has done.
struct Recorded {
    matches: Vec<u8>,
    entry: Option<EntryId>,
    /// Whether the hit stream moved.
    hits_moved: bool,
}

/// A batch that was tested, and is to be recorded while the lock is held.
struct Matched<'a> {
    matches: Vec<HolderMatches>,
    now: Timestamp,
    shared: RwLockReadGuard<'a, ()>,
}

/// A batch on its way in.
struct Asked<'a> {
    session: &'a ProbeSession,
    number: u32,
    tags_digest: [u8; 32],
    now: Timestamp,
}

impl Broker {
    /// Opens a session, or resumes it under the same nonce and opening.
    ///
    /// # Errors
    /// The refusals that `ProbeService.Probe` documents; nothing is stored then.
    pub(crate) async fn open_session(&self, prober: &NodeId, opening: Opening) -> Result<Opened> {
        let now = self.now();
        let (record, opening_ref) = (&session_record(prober, &opening, now), &opening);
        let journal = &self.journal;
        let (manifest, refs_left_today, last_answered) = self
            .store
            .run_tx("open_session", |tx| {
                async move {
                    let key = &opening_ref.key;
                    enrolled(tx, &key.community, prober).await?;
                    let (_, manifest) = active_epoch(tx, &key.community, key.epoch, now).await?;
                    manifest.member(prober)?;
                    check_opening(opening_ref, &manifest)?;
                    let last = if let Some(known) = tx.get_session(record.id).await? {
                        check_resumption(&known, record)?;
                        tx.get_last_batch(record.id).await?
                    } else {
                        put_session(tx, journal, record).await?;
                        None
                    };
                    let left = refs_left(tx, key, prober, now).await?;
                    Ok((manifest, left, last))
                }
                .scope_boxed()
            })
            .await?;
        let prior = manifest.profile.policy(opening.key.policy)?.prior;
        let max_pairs = max_pairs(&opening, &manifest);
        let session = ProbeSession {
            known: self.known.of(prober, &opening.key),
            id: opening.id,
            key: opening.key,
            prober: prober.clone(),
            nonce: opening.nonce,
            targets: opening.targets,
            canaries: opening.canary_tags.into_iter().collect(),
            hit_cap: manifest.profile.hit_cap.into(),
            prior,
            max_pairs,
            form: opening.form,
        };
        Ok(Opened {
            session,
            refs_left_today,
            last_answered,
            max_pairs,
        })
    }

    /// Tests a batch and answers with its serialised `ProbeMatches`, and with the place of its entry
    /// in the log. Idempotent by number, for hits, for quota and for the log; the hits are durable
    /// when this returns.
    ///
    /// # Errors
    /// `BATCH_MALFORMED`, `BATCH_MISMATCH`, `QUOTA_EXHAUSTED` with the time to wait; `UNAVAILABLE`
    /// if a filter that it is to be tested with is not yet compared with its digest; nothing of
    /// the batch is counted or stored then.
    pub(crate) async fn probe_batch(
        &self,
        session: &Arc<ProbeSession>,
        number: u32,
        pairs: &Pairs,
    ) -> Result<BatchAnswer> {
        let (tags, refs) = (pairs.tags(), pairs.refs());
        check_batch(refs, session.max_pairs)?;
        session.known.prepare(&self.store, refs.len()).await?;
        let tags_digest = packed_tags_digest(&session.nonce, number, tags, refs);
        let asked = |now| Asked {
            session,
            number,
            tags_digest,
            now,
        };
        let matched = match self.matched(session, pairs).await {
            Ok(matched) => matched,
            // What was answered once needs no filter.
            Err(error) => {
                let answered = self.answered_before(&asked(self.now())).await?;
                return self.answer_of(session, answered.ok_or(error)?).await;
            }
        };
        let Matched {
            matches,
            now,
            shared,
        } = matched;
        let outcome = &Outcome { refs, matches };
        let asked = &asked(now);
        let journal = &self.journal;
        let recorded = self
            .store
            .run_tx("probe_batch", |tx| {
                async move { answer(tx, journal, asked, outcome).await }.scope_boxed()
            })
            .await?;
        drop(shared);
        if recorded.hits_moved {
            self.announce_hits();
        }
        self.answer_of(session, recorded).await
    }

    async fn answered_before(&self, asked: &Asked<'_>) -> Result<Option<Recorded>> {
        self.store
            .read_tx("answered_batch", |tx| {
                async move { Ok(recorded(tx, asked).await?.1) }.scope_boxed()
            })
            .await
    }

    async fn answer_of(&self, session: &ProbeSession, recorded: Recorded) -> Result<BatchAnswer> {
        let leaf_index = match recorded.entry {
            Some(entry) => self.place_if_known(&session.key.community, entry).await,
            None => None,
        };
        Ok(BatchAnswer {
            matches: recorded.matches,
            leaf_index,
        })
    }

    /// Tests the tags of a batch, once all filters that it is about can be used.
    async fn matched(&self, session: &Arc<ProbeSession>, pairs: &Pairs) -> Result<Matched<'_>> {
        let until = tokio::time::Instant::now() + COMPARISON;
        loop {
            // Its time is taken once it is its turn: filters may end while it waits.
            let question = session.question(self.now());
            let turn = self.matcher.turn(&question, pairs.tags().len()).await;
            let shared = self.matching.read().await;
            let now = self.now();
            let (matcher, asked) = (Arc::clone(&self.matcher), Arc::clone(session));
            let pairs = pairs.clone();
            let test = move || asked.test(&matcher, pairs.tags(), now);
            if let Some(matches) = turn.take(test).await? {
                return Ok(Matched {
                    matches,
                    now,
                    shared,
                });
            }
            // Withdrawals do not wait for this.
            drop(shared);
            let question = session.question(now);
            let complete = self.matcher.until_complete(&question);
            tokio::time::timeout_at(until, complete)
                .await
                .map_err(|_| not_compared())?;
        }
    }

    /// The place of a batch's entry. An answer that is recorded goes out without it, too: the entry
    /// is durable and gets its place later.
    async fn place_if_known(&self, community: &CommunityId, entry: EntryId) -> Option<u64> {
        match self.place(community, entry).await {
            Ok(index) => Some(index),
            Err(error) => {
                tracing::warn!(%error, "a batch is answered without the place of its entry");
                None
            }
        }
    }

    /// Closes a session; its commitment and recorded answers are erased.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`.
    pub(crate) async fn close_session(&self, session: &ProbeSession) -> Result<(u32, u64)> {
        let (now, journal) = (self.now(), &self.journal);
        self.store
            .run_tx("close_session", |tx| {
                async move {
                    let record = open_session_row(tx, session).await?;
                    let community = &session.key.community;
                    let action = Action::CloseSession;
                    let entry = journal.by_node(&session.prober, action, community, now)?;
                    close(tx, &record, entry).await?;
                    Ok((record.batches, record.refs))
                }
                .scope_boxed()
            })
            .await
    }

    /// Closes the sessions that nobody uses, and forgets quota use that can no longer count.
    pub(crate) async fn expire_sessions(&self) -> Result<()> {
        let (now, journal) = (self.now(), &self.journal);
        self.store
            .run_tx("expire_sessions", |tx| {
                async move {
                    for id in tx.get_idle_sessions(now.minus(IDLE_SESSION)).await? {
                        let Some(record) = tx.get_session(id).await? else {
                            continue;
                        };
                        let community = &record.key.community;
                        let entry = journal.by_broker(Action::CloseSession, community, now);
                        close(tx, &record, entry).await?;
                    }
                    // A clock that steps back must not refill yesterday's quota at once.
                    tx.delete_quota_use(now.day() - 2).await
                }
                .scope_boxed()
            })
            .await
    }
}

/// The batch within its transaction: recorded answer, quota, hits, entry of the log, record of the
/// answer.
async fn answer(
    tx: &mut (dyn Tx + '_),
    journal: &Journal,
    asked: &Asked<'_>,
    outcome: &Outcome<'_>,
) -> Result<Recorded> {
    let Asked {
        session,
        number,
        tags_digest,
        now,
    } = *asked;
    let (standing, recorded) = recorded(tx, asked).await?;
    if let Some(recorded) = recorded {
        return Ok(recorded);
    }
    let refs = outcome.refs.len() as u64;
    check_quota(&standing, refs, now)?;
    let guard = Guard {
        journal,
        key: &session.key,
        prober: &session.prober,
        hit_cap: session.hit_cap,
        prior: session.prior,
        now,
        known: &session.known,
        hit_cursor: standing.hit_cursor,
    };
    let Findings {
        answer: found,
        mut entries,
        hits_moved,
    } = guard.record(tx, outcome).await?;
    let matches = session.form.write(&found, outcome.refs);
    // protocol §11: "every batch, with or without hits".
    let entry = Entry {
        batch: Some(Batch {
            number,
            refs,
            // As answered: the prober can read this, and is not to learn what the flood guard holds
            // back.
            matches: found.iter().map(|at| at.hits.len() as u64).sum(),
            tags_digest,
            answer_digest: answer_digest(&session.nonce, number, &matches),
        }),
        ..batch_entry(journal, asked, &standing.session)?
    };
    let batch = BatchRecord {
        session: session.id,
        number,
        tags_digest,
        matches,
        entry: Some(entry.id),
    };
    entries.push(entry);
    journal::put_all(tx, &entries).await?;
    tx.put_batch(&batch, refs, now).await?;
    Ok(Recorded {
        matches: batch.matches,
        entry: batch.entry,
        hits_moved,
    })
}

/// How the batch stands, and what was answered if it was answered before.
async fn recorded(
    tx: &mut (dyn Tx + '_),
    asked: &Asked<'_>,
) -> Result<(BatchStanding, Option<Recorded>)> {
    let session = asked.session;
    let day = asked.now.day();
    let standing = tx.get_batch_standing(session.id, asked.number, day).await?;
    let mut standing = standing
        .filter(|standing| !standing.session.closed)
        .ok_or_else(session_unknown)?;
    // The stream may be older than a suspension or the end of its epoch.
    if !standing.is_enrolled {
        return Err(not_a_member());
    }
    check_active(&standing.epoch, asked.now)?;
    let Some(recorded) = standing.recorded.take() else {
        return Ok((standing, None));
    };
    if recorded.tags_digest != asked.tags_digest {
        let text = "this batch number was used with other pairs";
        return Err(Error::new(ErrorCode::BatchMismatch, text));
    }
    session.form.check_recorded(&recorded.matches)?;
    let recorded = Recorded {
        matches: recorded.matches,
        entry: recorded.entry,
        hits_moved: false,
    };
    Ok((standing, Some(recorded)))
}

/// The entry of a batch, but for what is in it.
fn batch_entry(journal: &Journal, asked: &Asked<'_>, row: &SessionRecord) -> Result<Entry> {
    let session = asked.session;
    let (prober, community) = (&session.prober, &session.key.community);
    let entry = journal.by_node(prober, Action::AnswerBatch, community, asked.now)?;
    Ok(about::session(entry, row))
}

/// A batch counts whole or not at all (protocol §7).
fn check_quota(standing: &BatchStanding, refs: u64, now: Timestamp) -> Result<()> {
    let (used, limit) = (standing.used_refs, standing.daily_refs);
    if used + refs <= limit {
        return Ok(());
    }
    let text = format!("{used} of {limit} record refs are used today, the batch has {refs}");
    Err(Error::new(ErrorCode::QuotaExhausted, text)
        .about(standing.session.key.policy.name())
        .retry_after(now.until_next_day()))
}

async fn refs_left(
    tx: &mut (dyn Tx + '_),
    key: &StackKey,
    prober: &NodeId,
    now: Timestamp,
) -> Result<u64> {
    let limit = tx
        .get_limits(&key.community, prober, key.policy)
        .await?
        .daily_refs;
    let used = tx
        .get_quota_use(&key.community, prober, key.policy, now.day())
        .await?;
    Ok(limit.saturating_sub(used))
}

/// The answer without one of the filters would be another than the one with it.
fn not_compared() -> Error {
    let text = "a filter is not yet compared with its digest: ask again";
    Error::new(ErrorCode::Unavailable, text).retry_after(Duration::from_secs(1))
}

async fn open_session_row(tx: &mut (dyn Tx + '_), session: &ProbeSession) -> Result<SessionRecord> {
    tx.get_session(session.id)
        .await?
        .filter(|record| !record.closed)
        .ok_or_else(session_unknown)
}

fn session_unknown() -> Error {
    let text = "the session is closed: open a new one";
    Error::new(ErrorCode::SessionUnknown, text)
}

async fn put_session(
    tx: &mut (dyn Tx + '_),
    journal: &Journal,
    record: &SessionRecord,
) -> Result<()> {
    let (community, prober, now) = (&record.key.community, &record.prober, record.opened_at);
    if tx.count_open_sessions(community, prober).await? >= MAX_OPEN_SESSIONS
        && let Some(longest_unused) = tx.get_longest_unused_session(community, prober).await?
        && let Some(longest_unused) = tx.get_session(longest_unused).await?
    {
        // A prober that has lost the ids of its sessions must not lock itself out.
        let entry = journal.by_node(prober, Action::CloseSession, community, now)?;
        close(tx, &longest_unused, entry).await?;
    }
    tx.put_session(record).await?;
    let entry = journal.by_node(prober, Action::OpenSession, community, now)?;
    journal::put(tx, &about::session(entry, record)).await
}

/// Closes a session that is open, and logs it.
async fn close(tx: &mut (dyn Tx + '_), record: &SessionRecord, entry: Entry) -> Result<()> {
    tx.update_session_closed(record.id, entry.at).await?;
    journal::put(tx, &about::session(entry, record)).await
}

fn check_batch(refs: &[RecordRef], max_pairs: u32) -> Result<()> {
    let malformed = |text: String| Err(Error::new(ErrorCode::BatchMalformed, text));
    if refs.is_empty() || refs.len() > max_pairs as usize {
        return malformed(format!(
            "a batch of this session has 1 to {max_pairs} pairs"
        ));
    }
    let mut sorted = refs.to_vec();
    sorted.sort_unstable();
    if sorted.array_windows().any(|[one, next]| one == next) {
        // protocol §7: "A ref carries exactly one tag", the person policies excepted.
        return malformed("a record ref stands once in a batch".into());
    }
    Ok(())
}
