//! Probe sessions and batches (protocol §7).

use std::collections::{BTreeSet, HashSet};

use scoped_futures::ScopedFutureExt as _;
use sha2::{Digest as _, Sha256};
use sotto_common::epoch::Kid;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::grounds::Grounds;
use sotto_common::ids::{NodeId, RecordRef, SessionId};
use sotto_common::membership::Manifest;
use sotto_common::probe::{MAX_BATCH, SessionNonce, session_commitment, tags_digest};
use sotto_common::secret::Tag;
use sotto_common::service::tls::MAX_MESSAGE;
use sotto_common::time::Timestamp;
use std::time::Duration;

use super::{Broker, active_epoch, enrolled};
use crate::app::hits::{Guard, Outcome};
use crate::datastore::{BatchRecord, SessionRecord, StackKey, Tx};
use crate::matcher::{HolderMatches, Question};

/// Most probe sessions that a node has open in a community; another one closes the one that was
/// not used for longest.
const MAX_OPEN_SESSIONS: u64 = 256;

/// A session that is not used for this long is closed: it can wait a week for its quota.
const IDLE_SESSION: Duration = Duration::from_hours(7 * 24);

/// What opens or resumes a session, checked for its form.
pub(crate) struct Opening {
    pub(crate) id: SessionId,
    pub(crate) key: StackKey,
    pub(crate) forms: [u8; 32],
    pub(crate) kid: Kid,
    pub(crate) canary_tags: Vec<Tag>,
    pub(crate) nonce: SessionNonce,
    pub(crate) grounds: Grounds,
    pub(crate) targets: BTreeSet<NodeId>,
}

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
}

impl ProbeSession {
    /// protocol §4: "Canary tags are never counted as hits", though every filter holds them.
    fn forget_canaries(&self, tags: &[Tag], matches: &mut [HolderMatches]) {
        for (i, _) in tags
            .iter()
            .enumerate()
            .filter(|(_, tag)| self.canaries.contains(tag))
        {
            for at_holder in &mut *matches {
                at_holder.versions[i] = 0;
            }
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

impl Broker {
    /// Opens a session, or resumes it under the same nonce and opening.
    ///
    /// # Errors
    /// The refusals that `ProbeService.Probe` documents; nothing is stored then.
    pub(crate) async fn open_session(&self, prober: &NodeId, opening: Opening) -> Result<Opened> {
        let now = self.now();
        let (record, opening_ref) = (&session_record(prober, &opening, now), &opening);
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
                        put_session(tx, record).await?;
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
            id: opening.id,
            key: opening.key,
            prober: prober.clone(),
            nonce: opening.nonce,
            targets: opening.targets,
            canaries: opening.canary_tags.into_iter().collect(),
            hit_cap: manifest.profile.hit_cap.into(),
            prior,
            max_pairs,
        };
        Ok(Opened {
            session,
            refs_left_today,
            last_answered,
            max_pairs,
        })
    }

    /// Tests a batch and answers with its serialised `ProbeMatches`. Idempotent by number, for
    /// hits and for quota; the hits are durable when this returns.
    ///
    /// # Errors
    /// `BATCH_MALFORMED`, `BATCH_MISMATCH`, `QUOTA_EXHAUSTED` with the time to wait; nothing of
    /// the batch is counted or stored then.
    pub(crate) async fn probe_batch(
        &self,
        session: &ProbeSession,
        number: u32,
        pairs: Vec<(Tag, RecordRef)>,
    ) -> Result<Vec<u8>> {
        check_batch(&pairs, session.max_pairs)?;
        let digest = tags_digest(&session.nonce, number, &pairs);
        let (tags, refs): (Vec<Tag>, Vec<RecordRef>) = pairs.into_iter().unzip();
        let shared = self.matching.read().await;
        let now = self.now();
        // The processor's share of the work: Tokio moves other tasks off this thread meanwhile.
        let matches = tokio::task::block_in_place(|| {
            let question = Question {
                key: &session.key,
                prober: &session.prober,
                targets: &session.targets,
                now,
            };
            let mut matches = self.matcher.probe(&question, &tags);
            session.forget_canaries(&tags, &mut matches);
            matches
        });
        drop(tags);
        let outcome = &Outcome { refs, matches };
        let (bytes, events) = self
            .store
            .run_tx("probe_batch", |tx| {
                async move { answer(tx, session, number, digest, outcome, now).await }.scope_boxed()
            })
            .await?;
        drop(shared);
        if events {
            self.announce_hits();
        }
        Ok(bytes)
    }

    /// Closes a session; its commitment and recorded answers are erased.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`.
    pub(crate) async fn close_session(&self, session: &ProbeSession) -> Result<(u32, u64)> {
        let now = self.now();
        self.store
            .run_tx("close_session", |tx| {
                async move {
                    let record = open_session_row(tx, session).await?;
                    tx.update_session_closed(session.id, now).await?;
                    Ok((record.batches, record.refs))
                }
                .scope_boxed()
            })
            .await
    }

    /// Closes the sessions that nobody uses, and forgets quota use that can no longer count.
    pub(crate) async fn expire_sessions(&self) -> Result<()> {
        let now = self.now();
        self.store
            .run_tx("expire_sessions", |tx| {
                async move {
                    for id in tx.get_idle_sessions(now.minus(IDLE_SESSION)).await? {
                        tx.update_session_closed(id, now).await?;
                    }
                    // A clock that steps back must not refill yesterday's quota at once.
                    tx.delete_quota_use(now.day() - 2).await
                }
                .scope_boxed()
            })
            .await
    }
}

/// The batch within its transaction: recorded answer, quota, hits, record of the answer. Returns
/// the answer, and whether the hit stream moved.
async fn answer(
    tx: &mut (dyn Tx + '_),
    session: &ProbeSession,
    number: u32,
    digest: [u8; 32],
    outcome: &Outcome,
    now: Timestamp,
) -> Result<(Vec<u8>, bool)> {
    open_session_row(tx, session).await?;
    // The stream may be older than a suspension or the end of its epoch.
    enrolled(tx, &session.key.community, &session.prober).await?;
    active_epoch(tx, &session.key.community, session.key.epoch, now).await?;
    if let Some(recorded) = tx.get_batch(session.id, number).await? {
        if recorded.tags_digest == digest {
            return Ok((recorded.matches, false));
        }
        let text = "this batch number was used with other pairs";
        return Err(Error::new(ErrorCode::BatchMismatch, text));
    }
    let refs = outcome.refs.len() as u64;
    count_refs(tx, session, refs, now).await?;
    let guard = Guard {
        key: &session.key,
        prober: &session.prober,
        hit_cap: session.hit_cap,
        prior: session.prior,
        now,
    };
    let (matches, events) = guard.record(tx, outcome).await?;
    let batch = BatchRecord {
        session: session.id,
        number,
        tags_digest: digest,
        matches: matches.clone(),
    };
    tx.put_batch(&batch).await?;
    tx.update_session_counts(session.id, refs, now).await?;
    Ok((matches, events))
}

/// Counts a batch whole or not at all (protocol §7).
async fn count_refs(
    tx: &mut (dyn Tx + '_),
    session: &ProbeSession,
    refs: u64,
    now: Timestamp,
) -> Result<()> {
    let StackKey {
        community, policy, ..
    } = &session.key;
    let limit = tx
        .get_limits(community, &session.prober, *policy)
        .await?
        .daily_refs;
    let used = tx
        .get_quota_use(community, &session.prober, *policy, now.day())
        .await?;
    if used + refs > limit {
        let text = format!("{used} of {limit} record refs are used today, the batch has {refs}");
        return Err(Error::new(ErrorCode::QuotaExhausted, text)
            .about(policy.name())
            .retry_after(now.until_next_day()));
    }
    tx.put_quota_use(community, &session.prober, *policy, now.day(), used + refs)
        .await
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

async fn open_session_row(tx: &mut (dyn Tx + '_), session: &ProbeSession) -> Result<SessionRecord> {
    tx.get_session(session.id)
        .await?
        .filter(|record| !record.closed)
        .ok_or_else(|| {
            Error::new(
                ErrorCode::SessionUnknown,
                "the session is closed: open a new one",
            )
        })
}

async fn put_session(tx: &mut (dyn Tx + '_), record: &SessionRecord) -> Result<()> {
    let (community, prober) = (&record.key.community, &record.prober);
    if tx.count_open_sessions(community, prober).await? >= MAX_OPEN_SESSIONS
        && let Some(longest_unused) = tx.get_longest_unused_session(community, prober).await?
    {
        // A prober that has lost the ids of its sessions must not lock itself out.
        tx.update_session_closed(longest_unused, record.opened_at)
            .await?;
    }
    tx.put_session(record).await
}

/// protocol §4: the opening carries the canaries of its key, and the forms of its code.
fn check_opening(opening: &Opening, manifest: &Manifest) -> Result<()> {
    let row = manifest.policy(opening.key.policy)?;
    if opening.kid != manifest.kid() {
        return Err(Error::new(
            ErrorCode::KeyMismatch,
            "kid is not that of the epoch's key",
        ));
    }
    let carried: HashSet<_> = opening.canary_tags.iter().collect();
    let expected: HashSet<_> = row.canary_tags.iter().collect();
    if carried != expected {
        let text = "the canary tags are not the epoch's: the key is wrong";
        return Err(Error::new(ErrorCode::CanaryMissing, text));
    }
    if opening.forms != row.forms {
        let text = "forms is not the epoch's: the normal form has drifted";
        return Err(Error::new(ErrorCode::FormsMismatch, text));
    }
    Ok(())
}

/// protocol §7: "resumes under its id with the same nonce and opening".
fn check_resumption(known: &SessionRecord, asked: &SessionRecord) -> Result<()> {
    if known.prober != asked.prober {
        // Another node's session is as good as unknown.
        return Err(Error::new(
            ErrorCode::SessionMismatch,
            "this session id is taken",
        ));
    }
    if known.closed {
        return Err(Error::new(
            ErrorCode::SessionUnknown,
            "the session is closed: open a new one",
        ));
    }
    if known.commitment != asked.commitment || known.opening != asked.opening {
        let text = "a session resumes with the same nonce and opening";
        return Err(Error::new(ErrorCode::SessionMismatch, text));
    }
    Ok(())
}

/// Most pairs of a batch whose answer, should every ref match every holder, is one message of
/// 4 MiB (protocol §12); 4096 at most (protocol §7).
fn max_pairs(opening: &Opening, manifest: &Manifest) -> u32 {
    /// What is around the refs of an answer.
    const ENVELOPE: usize = 64 * 1024;
    /// A record ref with its tags and lengths.
    const REF: usize = 24;
    /// A holder: name of at most 35 bytes, version, probability, hit id, tags and lengths.
    const HOLDER: usize = 80;
    let others = manifest.members.len().saturating_sub(1);
    let holders = match opening.targets.len() {
        0 => others,
        targets => targets.min(others),
    };
    let pairs = (MAX_MESSAGE - ENVELOPE) / (REF + HOLDER * holders);
    // Unwrap safety: at most 4096.
    u32::try_from(pairs.clamp(1, MAX_BATCH)).unwrap_or(1)
}

fn check_batch(pairs: &[(Tag, RecordRef)], max_pairs: u32) -> Result<()> {
    let malformed = |text: String| Err(Error::new(ErrorCode::BatchMalformed, text));
    if pairs.is_empty() || pairs.len() > max_pairs as usize {
        return malformed(format!(
            "a batch of this session has 1 to {max_pairs} pairs"
        ));
    }
    let refs: HashSet<_> = pairs.iter().map(|(_, record_ref)| record_ref).collect();
    if refs.len() != pairs.len() {
        // protocol §7: "A ref carries exactly one tag", the person policies excepted.
        return malformed("a record ref stands once in a batch".into());
    }
    Ok(())
}

fn session_record(prober: &NodeId, opening: &Opening, now: Timestamp) -> SessionRecord {
    SessionRecord {
        id: opening.id,
        key: opening.key.clone(),
        prober: prober.clone(),
        commitment: Some(session_commitment(&opening.nonce)),
        opening: opening_digest(opening),
        grounds: opening.grounds.clone(),
        batches: 0,
        refs: 0,
        opened_at: now,
        closed: false,
    }
}

/// A digest of the opening's fields besides id and what the manifest fixes: a column of the
/// ledger, not part of the protocol. The nonce, which the ledger does not have, keeps a reader of
/// the ledger from guessing the case reference.
fn opening_digest(opening: &Opening) -> [u8; 32] {
    let StackKey {
        community,
        epoch,
        policy,
    } = &opening.key;
    let epoch = epoch.to_string();
    let mut fields = vec![
        community.as_str(),
        &epoch,
        policy.name(),
        opening.grounds.purpose().as_str(),
        opening.grounds.legal_basis().as_str(),
        opening.grounds.reference(),
        opening.grounds.case_ref(),
    ];
    fields.extend(opening.targets.iter().map(NodeId::as_str));
    let mut hasher = Sha256::new();
    hasher.update(opening.nonce.secret().expose());
    for field in fields {
        hasher.update((field.len() as u64).to_be_bytes());
        hasher.update(field);
    }
    hasher.finalize().into()
}
