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
mod tests {
    use prost::Message as _;
    use sotto_common::epoch::Gms;
    use sotto_common::grounds::{LegalBasis, Purpose};
    use sotto_common::ids::HitId;
    use sotto_common::random::os_rng;
    use sotto_common::secret::Selector;

    use super::*;
    use crate::testing::manifest;

    fn row(id: SelectorId, canonical: &str) -> SelectorRow {
        SelectorRow {
            id,
            canonical: Selector::new(canonical),
            record_key: format!("d/{id}#0"),
        }
    }

    #[test]
    fn the_same_selectors_give_the_same_batch_without_what_is_too_common() {
        let (_, manifest) = manifest(1);
        let gms = Gms::generate(&mut os_rng());
        let schedule = KeySchedule::derive(&gms, &manifest.community, manifest.epoch);
        let refs = RecordRefKey::generate(&mut os_rng());
        let make = || {
            let rows = vec![row(1, "a@x.org"), row(2, "b@x.org"), row(3, "c@x.org")];
            let admits = |row: &SelectorRow| row.id != 3;
            Pairs::make(rows, Policy::Email, &schedule, &manifest, &refs, admits).expect("made")
        };
        let (one, two) = (make(), make());
        assert_eq!((&one.sent, &one.refs), (&two.sent, &two.refs));
        assert_eq!((one.len(), one.refs.len()), (2, 2));
        assert_eq!((one.rows, one.span), (3, Some((1, 3))));
        assert_ne!(one.refs[0].0, one.refs[1].0);
    }

    #[test]
    fn decoys_come_again_in_every_session_as_refs_of_records_do() {
        let (_, manifest) = manifest(1);
        let refs = RecordRefKey::generate(&mut os_rng());
        let of = |dataset, first, size| {
            let decoys = Decoys {
                refs: &refs,
                manifest: &manifest,
                policy: Policy::Email,
                dataset,
            };
            Pairs::default()
                .filled_up(&decoys, first, size)
                .expect("filled up")
        };
        let set = |pairs: &Pairs| pairs.decoys.iter().copied().collect::<HashSet<_>>();
        let (small, large) = (of(1, 0, 20), of(1, 0, 44));
        assert_eq!((small.len(), set(&large).len()), (20, 44));
        assert!(set(&small).is_subset(&set(&large)));
        // Their tags too: a ref whose tag changes would be none of a record.
        assert!(small.sent.iter().all(|pair| large.sent.contains(pair)));
        // The next batch of the session has others, and so has another dataset.
        assert!(set(&of(1, 44, 10)).is_disjoint(&set(&large)));
        assert!(set(&of(2, 0, 44)).is_disjoint(&set(&large)));
        // What is full already has none.
        assert!(
            large
                .filled_up(
                    &Decoys {
                        refs: &refs,
                        manifest: &manifest,
                        policy: Policy::Email,
                        dataset: 1
                    },
                    44,
                    44,
                )
                .is_ok_and(|pairs| pairs.len() == 44)
        );
    }

    fn holder(node: &str) -> v1::HolderMatch {
        let hit_id = HitId::generate(Timestamp::from_seconds(1), &mut os_rng());
        v1::HolderMatch {
            holder: node.into(),
            filter_version: 3,
            false_positive_probability: 1e-9,
            hit_id: hit_id.as_bytes().to_vec().into(),
        }
    }

    /// Reads an answer by ref to `de-bka`, which asked ref 1 of members `nl-fiu` and `fr-pj`.
    fn read(
        record_ref: u8,
        holders: Vec<v1::HolderMatch>,
        targets: &[&str],
    ) -> Result<Vec<Hit>, Error> {
        let at_ref = v1::RefMatches {
            record_ref: vec![record_ref; 16].into(),
            holders,
        };
        let (refs, holders) = (vec![at_ref], Vec::new());
        read_all(&v1::ProbeMatches { refs, holders }, targets)
    }

    /// Reads an answer to `de-bka`, which asked ref 1 and, as a decoy, ref 8.
    fn read_all(matches: &v1::ProbeMatches, targets: &[&str]) -> Result<Vec<Hit>, Error> {
        let (_, mut manifest) = manifest(1);
        let node = |text: &str| -> NodeId { text.parse().expect("a node") };
        for other in ["de-bka", "fr-pj"] {
            let mut member = manifest.members[0].clone();
            member.node = node(other);
            manifest.members.push(member);
        }
        let pairs = Pairs {
            sent: vec![
                (Tag::new([0; 16]), RecordRef::new([1; 16])),
                (Tag::new([7; 16]), RecordRef::new([8; 16])),
            ],
            refs: vec![(RecordRef::new([1; 16]), 1)],
            ..Pairs::default()
        };
        let matches = matches.encode_to_vec().into();
        let grounds = Grounds::new(
            Some(Purpose::Investigation),
            Some(LegalBasis::Eu2023977),
            "",
            "2026-17",
        );
        let now = Timestamp::from_seconds(5);
        let opening = Opening {
            id: SessionId::generate(now, &mut os_rng()),
            nonce: &SessionNonce::generate(&mut os_rng()),
            policy: Policy::Email,
            grounds: &grounds.expect("grounds"),
            targets: &targets
                .iter()
                .map(|target| node(target))
                .collect::<Vec<_>>(),
        };
        found(&node("de-bka"), &manifest, &opening, &pairs, &matches, now)
    }

    #[test]
    fn an_answer_to_the_question_gives_a_hit_for_each_holder() {
        let hits = read(1, vec![holder("nl-fiu"), holder("fr-pj")], &[]).expect("read");
        assert_eq!(hits.len(), 2);
        assert_eq!(hits[0].first_seen, Timestamp::from_seconds(5));
        assert!(hits[0].posterior > 0.999);
        assert!(read(1, vec![holder("nl-fiu")], &["nl-fiu"]).is_ok());
    }

    /// Says that the pairs of these bits match a holder.
    fn at_holder(node: &str, bits: u8) -> v1::HolderMatches {
        let ids = (0..bits.count_ones()).flat_map(|_| holder(node).hit_id);
        v1::HolderMatches {
            holder: node.into(),
            false_positive_probability: 1e-9,
            pairs: Some(v1::holder_matches::Pairs::Bitmap(vec![bits].into())),
            filter_versions: vec![3],
            hit_ids: ids.collect::<Vec<_>>().into(),
        }
    }

    fn by_holder(holders: Vec<v1::HolderMatches>, targets: &[&str]) -> Result<Vec<Hit>, Error> {
        let refs = Vec::new();
        read_all(&v1::ProbeMatches { refs, holders }, targets)
    }

    #[test]
    fn an_answer_by_holder_gives_a_hit_for_each_ref_that_is_of_a_record() {
        let told = vec![at_holder("fr-pj", 0b11), at_holder("nl-fiu", 0b01)];
        let hits = by_holder(told, &[]).expect("read");
        let of: Vec<_> = hits.iter().map(|hit| hit.holder.as_str()).collect();
        assert_eq!(of, ["fr-pj", "nl-fiu"]);
        let asked = |hit: &Hit| hit.record_ref == RecordRef::new([1; 16]);
        assert!(hits.iter().all(|hit| asked(hit) && hit.filter_version == 3));
        assert!(by_holder(vec![at_holder("nl-fiu", 0b10)], &[]).is_ok_and(|hits| hits.is_empty()));
    }

    #[test]
    fn an_answer_by_holder_that_does_not_fit_the_batch_is_refused() {
        let one_hit_less = v1::HolderMatches {
            hit_ids: holder("nl-fiu").hit_id,
            ..at_holder("nl-fiu", 0b11)
        };
        for (told, targets) in [
            // The batch has two pairs.
            (vec![at_holder("nl-fiu", 0b101)], &[][..]),
            (vec![at_holder("nl-fiu", 0)], &[]),
            (vec![one_hit_less], &[]),
            (vec![at_holder("nl-fiu", 1), at_holder("fr-pj", 1)], &[]),
            (vec![at_holder("de-bka", 1)], &[]),
            (vec![at_holder("se-noa", 1)], &[]),
            (vec![at_holder("nl-fiu", 1)], &["fr-pj"]),
            // Of a decoy alone, too.
            (vec![at_holder("se-noa", 0b10)], &[]),
        ] {
            let error = by_holder(told, targets).expect_err("refused");
            assert_eq!(error.code, ErrorCode::Internal);
            assert!(error.text.contains("does not fit"), "{error}");
        }
    }

    #[test]
    fn an_answer_that_no_honest_broker_gives_is_refused_and_not_asked_for_again() {
        let with = |probability| v1::HolderMatch {
            false_positive_probability: probability,
            ..holder("nl-fiu")
        };
        let no_hit_id = v1::HolderMatch {
            hit_id: vec![1].into(),
            ..holder("nl-fiu")
        };
        for (record_ref, holders, targets) in [
            (2, vec![holder("nl-fiu")], &[][..]),
            (1, vec![holder("de-bka")], &[]),
            (1, vec![holder("se-noa")], &[]),
            (1, vec![holder("NL FIU")], &[]),
            (1, vec![holder("nl-fiu")], &["fr-pj"]),
            (1, vec![holder("nl-fiu"), holder("nl-fiu")], &[]),
            (1, vec![with(f64::NAN)], &[]),
            (1, vec![with(f64::INFINITY)], &[]),
            (1, vec![with(-0.1)], &[]),
            (1, vec![with(1.1)], &[]),
            (1, vec![no_hit_id], &[]),
        ] {
            let error = read(record_ref, holders, targets).expect_err("refused");
            assert_eq!(error.code, ErrorCode::Internal);
            assert!(error.text.contains("does not fit"), "{error}");
            assert!(!crate::broker::is_passing(&error));
        }
    }
}
