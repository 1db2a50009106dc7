//! One stream of a probe session with the broker (protocol §7).

use std::collections::HashSet;
use std::time::Duration;

use prost::bytes::Bytes;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use sotto_common::epoch::KeySchedule;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::filter::layers::posterior;
use sotto_common::grounds::Grounds;
use sotto_common::hit::HitState;
use sotto_common::ids::{NodeId, RecordRef, SessionId};
use sotto_common::membership::Manifest;
use sotto_common::probe::SessionNonce;
use sotto_common::publication::FilterLabels;
use sotto_common::secret::Tag;
use sotto_common::selector::Policy;
use sotto_common::tag::RecordRefKey;
use sotto_common::time::Timestamp;
use sotto_proto::convert::answer::{self, Misfit};
use sotto_proto::v1;
use sotto_proto::v1::probe_request::Message as Ask;
use sotto_proto::v1::probe_response::Message as Told;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::App;
use super::epochs::EpochKeys;
use crate::broker::refusal;
use crate::hit::Hit;
use crate::store::{SelectorId, SelectorRow};

/// Batches that are sent before the first of them is answered.
pub(crate) const AHEAD: usize = 4;
/// How long the broker may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);

/// What a session is opened, and resumed, with.
pub(crate) struct Opening<'a> {
    /// Its id.
    pub(crate) id: SessionId,
    /// Its nonce.
    pub(crate) nonce: &'a SessionNonce,
    /// The policy of every tag.
    pub(crate) policy: Policy,
    /// Why.
    pub(crate) grounds: &'a Grounds,
    /// The holders to ask; empty = all.
    pub(crate) targets: &'a [NodeId],
}

/// The pairs of one batch, as they are sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs {
    /// In the order of the refs, which says nothing of the order of the selectors.
    sent: Vec<(Tag, RecordRef)>,
    /// The refs of selectors, and those selectors.
    pub(crate) refs: Vec<(RecordRef, SelectorId)>,
    /// The refs that stand for nothing.
    pub(crate) decoys: Vec<RecordRef>,
    /// The selectors that the batch was made from, those on the stop-list included.
    pub(crate) rows: u64,
    /// The first and the last of them.
    pub(crate) span: Option<(SelectorId, SelectorId)>,
}

/// An open stream.
pub(crate) struct ProbeStream {
    requests: mpsc::Sender<v1::ProbeRequest>,
    answers: Streaming<v1::ProbeResponse>,
}

impl App {
    /// Opens or resumes a session.
    ///
    /// # Errors
    /// The refusals of an opening, or `UNAVAILABLE`.
    pub(crate) async fn open_session(
        &self,
        epoch: &EpochKeys,
        opening: &Opening<'_>,
    ) -> Result<(ProbeStream, v1::ProbeOpened)> {
        let (requests, sent) = mpsc::channel(AHEAD + 2);
        let message = self.opening(epoch, opening)?;
        let mut client = self.broker.probes();
        // A buffer with room: the first message never waits.
        let first = v1::ProbeRequest {
            message: Some(Ask::Opening(message)),
        };
        requests.send(first).await.map_err(Error::internal)?;
        let call = client.probe(ReceiverStream::new(sent));
        let answers = tokio::time::timeout(ANSWER_TIMEOUT, call)
            .await
            .map_err(Error::unavailable)?
            .map_err(|status| refusal(&status))?
            .into_inner();
        let mut stream = ProbeStream { requests, answers };
        match stream.next().await? {
            Told::Opened(opened) => Ok((stream, opened)),
            Told::Answer(_) | Told::Closed(_) => Err(out_of_order()),
        }
    }

    /// Closes a session that nobody goes on with: the broker bounds how many may be open. It may
    /// not be open at all.
    pub(crate) async fn abandon_session(&self, epoch: &EpochKeys, opening: &Opening<'_>) {
        let closed = match self.open_session(epoch, opening).await {
            Ok((stream, _)) => stream.close().await,
            Err(error) => Err(error),
        };
        if let Err(error) = closed {
            tracing::debug!(%error, "a probe session was not closed");
        }
    }

    fn opening(&self, epoch: &EpochKeys, opening: &Opening<'_>) -> Result<v1::ProbeOpening> {
        let row = epoch.manifest.policy(opening.policy)?;
        let grounds = opening.grounds;
        Ok(v1::ProbeOpening {
            session_id: opening.id.as_bytes().to_vec().into(),
            community: self.community.to_string(),
            epoch: epoch.manifest.epoch.get(),
            policy: opening.policy.name().to_owned(),
            forms: self.policies.forms(opening.policy).to_vec().into(),
            kid: epoch.schedule.kid().as_bytes().to_vec().into(),
            // Canary tags are public in the community (protocol §4).
            canary_tags: row
                .canary_tags
                .iter()
                .map(|tag| tag.expose().to_vec().into())
                .collect(),
            // The broker keeps only a hash of it (protocol §7).
            nonce: opening.nonce.secret().expose().to_vec().into(),
            purpose: v1::Purpose::from(grounds.purpose()).into(),
            legal_basis: v1::LegalBasis::from(grounds.legal_basis()).into(),
            legal_basis_reference: grounds.reference().to_owned(),
            case_ref: grounds.case_ref().to_owned(),
            targets: opening.targets.iter().map(ToString::to_string).collect(),
            answers_by_holder: true,
        })
    }
}

impl ProbeStream {
    async fn next(&mut self) -> Result<Told> {
        tokio::time::timeout(ANSWER_TIMEOUT, self.answers.message())
            .await
            .map_err(Error::unavailable)?
            .map_err(|status| refusal(&status))?
            .and_then(|response| response.message)
            .ok_or_else(|| Error::unavailable("the probe stream ended early"))
    }

    async fn send(&self, message: Ask) {
        let message = Some(message);
        // A stream that has ended tells why when its answers are read.
        let _ = self.requests.send(v1::ProbeRequest { message }).await;
    }

    /// Sends a batch.
    pub(crate) async fn ask(&self, number: u32, pairs: &Pairs) {
        let sent = pairs.sent.iter();
        // The wire of the probe is what tags are for (protocol §7).
        let tags: Vec<u8> = sent.clone().flat_map(|(tag, _)| *tag.expose()).collect();
        let refs: Vec<u8> = sent.flat_map(|(_, r)| *r.as_bytes()).collect();
        let batch = v1::ProbeBatch {
            number,
            tags: tags.into(),
            refs: refs.into(),
        };
        self.send(Ask::Batch(batch)).await;
    }

    /// The answer to the batch of this number, the earliest that is not answered.
    ///
    /// # Errors
    /// The refusals of a batch, or `UNAVAILABLE`.
    pub(crate) async fn answer(&mut self, number: u32) -> Result<v1::ProbeAnswer> {
        match self.next().await? {
            Told::Answer(answer) if answer.number == number => Ok(answer),
            Told::Answer(_) | Told::Opened(_) | Told::Closed(_) => Err(out_of_order()),
        }
    }

    /// Ends the session.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the broker does not answer.
    pub(crate) async fn close(mut self) -> Result<()> {
        self.send(Ask::Close(v1::ProbeClose {})).await;
        match self.next().await? {
            Told::Closed(_) => Ok(()),
            Told::Answer(_) | Told::Opened(_) => Err(out_of_order()),
        }
    }
}

impl Pairs {
    /// Tags and refs of selectors, in their order: the same selectors give the same batch. Those
    /// that the stop-list no longer admits are left out (selectors.md, step 2).
    ///
    /// # Errors
    /// `INTERNAL` for a record key of more than 65,535 bytes.
    pub(crate) fn make(
        rows: Vec<SelectorRow>,
        policy: Policy,
        schedule: &KeySchedule,
        manifest: &Manifest,
        refs: &RecordRefKey,
        admits: impl Fn(&SelectorRow) -> bool + Sync,
    ) -> Result<Self> {
        let count = rows.len() as u64;
        let span = rows.first().zip(rows.last()).map(|(a, b)| (a.id, b.id));
        let key = schedule.tag_key(policy);
        let pair = |row: SelectorRow| {
            let record_ref = refs
                .record_ref(&manifest.community, manifest.epoch, policy, &row.record_key)
                .map_err(Error::internal)?;
            Ok((key.tag(&row.canonical), (record_ref, row.id)))
        };
        let pairs = rows
            .into_par_iter()
            .filter(|row| admits(row))
            .map(pair)
            .collect::<Result<Vec<_>>>()?;
        let (tags, refs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let mut sent: Vec<_> = tags.into_iter().zip(refs.iter().map(|(r, _)| *r)).collect();
        sent.sort_unstable_by_key(|(_, record_ref)| *record_ref.as_bytes());
        Ok(Self {
            sent,
            refs,
            decoys: Vec::new(),
            rows: count,
            span,
        })
    }

    /// The pairs in the order in which they are sent.
    pub(crate) fn sent(&self) -> &[(Tag, RecordRef)] {
        &self.sent
    }

    /// How many pairs are sent, and counted against the quota.
    pub(crate) fn len(&self) -> u64 {
        self.sent.len() as u64
    }

    /// Filled up to `size` pairs with the decoys from the one of this number on.
    ///
    /// # Errors
    /// Those of [`Decoys`].
    pub(crate) fn filled_up(mut self, decoys: &Decoys<'_>, first: u64, size: u32) -> Result<Self> {
        let missing = u64::from(size).saturating_sub(self.len());
        for number in first..first.saturating_add(missing) {
            let (tag, record_ref) = decoys.pair(number)?;
            self.sent.push((tag, record_ref));
            self.decoys.push(record_ref);
        }
        self.sent
            .sort_unstable_by_key(|(_, record_ref)| *record_ref.as_bytes());
        Ok(self)
    }
}

/// What batches of a dataset are filled up with: pairs that look like those of records, and are
/// the same in every session of an epoch, as those are. The first decoys of a session are always the
/// first ones, so that whoever compares two sessions sees most of them in both.
pub(crate) struct Decoys<'a> {
    /// The secret that refs of records are made with.
    pub(crate) refs: &'a RecordRefKey,
    /// The epoch.
    pub(crate) manifest: &'a Manifest,
    /// The dataset's policy.
    pub(crate) policy: Policy,
    /// The dataset's row.
    pub(crate) dataset: i64,
}

impl Decoys<'_> {
    /// The decoy of this number.
    ///
    /// # Errors
    /// None that happen: the key of a decoy is short.
    fn pair(&self, number: u64) -> Result<(Tag, RecordRef)> {
        // No record has such a key: control characters are refused in record ids.
        let of = |what: &str| {
            let key = format!("\0decoy {what}/{}/{number}", self.dataset);
            let (community, epoch) = (&self.manifest.community, self.manifest.epoch);
            self.refs
                .record_ref(community, epoch, self.policy, &key)
                .map_err(Error::internal)
        };
        Ok((Tag::new(*of("tag")?.as_bytes()), of("ref")?))
    }
}

/// The hits of an answer. State and first time of those known before come by the hit stream, and so
/// does what their holders say of their filters.
///
/// # Errors
/// `INTERNAL` for an answer that is not one to this question: one that does not fit the batch, or of a
/// holder that is no member, not targeted or this node itself.
pub(crate) fn found(
    own: &NodeId,
    manifest: &Manifest,
    opening: &Opening<'_>,
    pairs: &Pairs,
    matches: &Bytes,
    now: Timestamp,
) -> Result<Vec<Hit>> {
    let policy = opening.policy;
    let prior = manifest.profile.policy(policy)?.prior;
    let asked: HashSet<RecordRef> = pairs.refs.iter().map(|(r, _)| *r).collect();
    let sent: Vec<RecordRef> = pairs.sent.iter().map(|(_, r)| *r).collect();
    let mut hits = Vec::new();
    // Answers come by holder, mostly.
    let mut known: Option<NodeId> = None;
    for told in answer::read(matches, &sent)
        .map_err(Misfit::as_str)
        .map_err(lie)?
    {
        let holder = told.holder;
        if known.as_ref() != Some(&holder) {
            let targeted = opening.targets.is_empty() || opening.targets.contains(&holder);
            if holder == *own || !targeted || manifest.member(&holder).is_err() {
                return Err(lie("a holder was not asked"));
            }
            known = Some(holder.clone());
        }
        let record_ref = sent[told.pair];
        if !asked.contains(&record_ref) {
            // What was filled up matches by chance: it is a hit of nothing.
            continue;
        }
        hits.push(Hit {
            id: told.hit,
            epoch: manifest.epoch,
            policy,
            record_ref,
            holder,
            state: HitState::New,
            filter_version: told.version,
            false_positive: told.f_total,
            posterior: posterior(prior, told.f_total),
            first_seen: now,
            last_seen: now,
            unmatched_since: None,
            labels: FilterLabels::default(),
        });
    }
    Ok(hits)
}

/// An answer that no honest broker gives. It does not pass: it is not asked for again.
fn lie(what: &str) -> Error {
    Error::new(
        ErrorCode::Internal,
        format!("the broker's answer does not fit the question: {what}; nothing of it was taken"),
    )
}

fn out_of_order() -> Error {
    Error::new(
        ErrorCode::Unavailable,
        "the broker answered out of order; the session is resumed",
    )
}

#[cfg(test)]
mod tests;
